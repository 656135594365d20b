"""How a student should hear the head: candidates beside the paper's recipe, on validation wearers alone.

    python benchmarks/head_motion.py make A --out EV                       # render and decode (the half: A-half)
    python benchmarks/head_motion.py teach A --out EV                      # its SlowFast and first image network
    python benchmarks/head_motion.py explore A --out EV --frames 1 paper numbers-aug
    python benchmarks/head_motion.py show                                  # results/head_motion.jsonl as a table

The worlds are those of `evidence.py` (A, and A with half the coupling), without their test wearers. A candidate changes
the student, the loss or the clips of a batch; all take as many steps. Its lines serve to choose candidates: they are of
validation wearers and of one seed each, so they are no findings.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import evidence
import numpy as np
import torch
from torch import Tensor, nn

from egodistill import EgoDistill, IMUEncoder, Output, data, distillation
from egodistill.engine.batches import Augment
from egodistill.experiments import behaviour, benches, synthetic
from egodistill.experiments.benches import Run
from egodistill.experiments.protocols import Method
from egodistill.student import IMUSpectrum
from egodistill.support import files, tables

LINES = evidence.RESULTS / "head_motion.jsonl"
WORLDS = {"A": 1.0, "A-half": 0.5}  # coupling
TEACHER = "slowfast-{seed}"
PICTURES = Augment(crop=0.2, jitter=0.3)
SCALES = (0.45, 0.45, 0.65, 0.12, 0.2, 0.5)  # of the channels: m/s2, rad/s
STEPS = 9  # epochs of stage 2 that take as many steps as 6 of each stage: batches of stage 1 are twice as large


class HeadNumbers(nn.Module):
    """Plain numbers of head motion: window means and a coarse log spectrum. imu [B, 422, 6] -> [B, 198].

    Args:
        turn: Keep the gyroscope's mean over the clip, the net turn of the head.
        layer: Width of a layer behind the numbers, which stage 1 can train; 0 for none.
    """

    def __init__(self, turn: bool = True, layer: int = 0) -> None:
        super().__init__()
        self.turn = turn
        self.register_buffer("scales", torch.tensor(SCALES), persistent=False)
        time, bands = torch.arange(73.0), torch.arange(1.0, 13)
        waves = 2 * math.pi * bands[:, None] * time / 73
        window = torch.hann_window(73, periodic=False)
        self.register_buffer("waves", torch.stack([waves.cos(), waves.sin()]) * window, persistent=False)
        self.norm = nn.BatchNorm1d(198, affine=False)
        self.layer = nn.Sequential(nn.Linear(198, layer), nn.ReLU()) if layer else nn.Identity()

    def forward(self, imu: Tensor) -> Tensor:
        mean = imu.mean(1, keepdim=True)
        if self.turn:
            mean = mean * mean.new_tensor([1, 1, 1, 0, 0, 0])
        x = (imu - mean) / self.scales
        means = x[:, :420].unflatten(1, (21, 20)).mean(2)
        slow = x[:, :420].unflatten(1, (105, 4)).mean(2)[:, 16:89]
        slow = slow - slow.mean(1, keepdim=True)
        power = torch.einsum("kft,btc->kbfc", self.waves, slow).square().sum(0)
        spectrum = (0.05 + (power + 1e-12).sqrt()).log()
        return self.layer(self.norm(torch.cat([means.flatten(1), spectrum.flatten(1)], 1)))


class Raw(EgoDistill):
    """An `EgoDistill` whose IMU encoder gets the samples with their mean."""

    def encode_imu(self, imu: Tensor) -> Tensor:
        return self.imu_encoder(imu)


class CNNAndNumbers(nn.Module):
    """The paper's CNN, pooled in 13 bins, beside the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn, self.numbers = IMUEncoder(16), HeadNumbers()
        self.norm = nn.BatchNorm1d(16 * 13)

    def forward(self, imu: Tensor) -> Tensor:
        image = nn.functional.adaptive_avg_pool1d(self.cnn(imu - imu.mean(1, keepdim=True)), 13)
        return torch.cat([self.norm(image.flatten(1)), self.numbers(imu)], 1)


class Ordered(Raw):
    """Frames side by side instead of a GRU, so that each has its place in time."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        if self.num_frames > 1:
            self.gru = nn.Linear(self.num_frames * self.image_dim, 512)

    def aggregate(self, features: Tensor) -> Tensor:
        return self.gru(features.flatten(1)).relu() if self.num_frames > 1 else features[:, 0]


class Product(Raw):
    """A fusion that is also given a product of image and head motion: what a turn means depends on the object."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        first, rank = self.fusion[0], 64
        self.left = nn.Linear(first.in_features - self.imu_dim, rank)
        self.right = nn.Linear(self.imu_dim, rank, bias=False)
        self.fusion[0] = nn.Linear(first.in_features + rank, first.out_features)

    def fuse(self, image: Tensor, imu: Tensor | None) -> Output:
        feature = self.fusion(image, torch.cat([imu, self.left(image) * self.right(imu)], 1))
        return Output(feature, self.classifier(feature))


class OrderedProduct(Ordered, Product):
    """Both."""


class Loss(distillation.Distill):
    """L_KD, L_GT and L_1 with changed clips and extra terms; the class attributes are set by `objective()`."""

    exchanged = 0.0  # share of the clips that get the head motion of another clip of the teacher's class
    missing = 0.0  # share of the clips whose head motion is left out (zeros, the mean of the numbers)
    alone = 0.0  # weight of L_KD of the frames alone
    bias = scale = turned = shifted = 0.0  # rad/s, share, radians, seconds: changes of the sensor and its clock
    power = 0.0  # L_1 is replaced by log(sum |d|^power), as Miles and Mikolajczyk, AAAI 2024

    def setup(self, store: Any, settings: Any) -> None:
        if self.exchanged:
            every = range(len(store))
            self.motions = torch.from_numpy(store.read("imu", every))
            logits = store.read(self.targets[1], every)
            self.answers = torch.from_numpy(logits.argmax(1))
            self.alike = {k: torch.nonzero(self.answers == k)[:, 0] for k in range(logits.shape[1])}

    def changed(self, imu: Tensor, rows: Tensor) -> Tensor:
        if self.exchanged:
            imu = imu.clone()
            for k in torch.nonzero(torch.rand(len(imu)) < self.exchanged)[:, 0].tolist():
                same = self.alike[int(self.answers[rows[k]])]
                imu[k] = self.motions[same[torch.randint(len(same), ())]]
        count = len(imu)
        if self.shifted:
            most = round(self.shifted * 198)
            steps = torch.randint(-most, most + 1, (count, 1))
            index = (torch.arange(imu.shape[1]) + steps).clamp(0, imu.shape[1] - 1)
            imu = imu.gather(1, index[..., None].expand_as(imu))
        if self.turned:
            imu = turn(imu, self.turned)
        if self.scale:
            imu = imu * (1 + self.scale * (2 * torch.rand(count, 1, 6) - 1))
        if self.bias:
            imu = imu + torch.cat([torch.zeros(count, 1, 3), self.bias * torch.randn(count, 1, 3)], 2)
        return imu

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        model, settings = self.model, self.settings
        image = model.aggregate(model.encode_frames(batch[self.inputs[0]]))
        teacher = distillation.Output(*(batch[name] for name in self.targets))
        head = None
        if len(self.inputs) > 1:
            imu = self.changed(batch["imu"], batch["row"]) if self.training else batch["imu"]
            head = model.encode_imu(imu)
            if self.missing and self.training:
                head = head * (torch.rand(len(head), 1) >= self.missing)
        output = model.fuse(image, head)
        kd, l1 = self.logit_loss(output, teacher), self.feature_loss(output, teacher)
        gt, seen = self.label_term(output.logits, batch)
        loss = settings.alpha * kd + (1 - settings.alpha) * gt + settings.beta * l1
        if self.alone and head is not None:
            blind = model.fuse(image, torch.zeros_like(head))
            loss = loss + self.alone * self.logit_loss(blind, teacher)
        return {"loss": loss, "kd": kd, "gt": gt, "l1": l1, "top1": seen["top1"]}

    def feature_loss(self, student: Any, teacher: Any) -> Tensor:
        if not self.power:
            return super().feature_loss(student, teacher)
        return (student.feature - teacher.feature).abs().pow(self.power).sum(1).add(1e-6).log()


def turn(imu: Tensor, most: float) -> Tensor:
    """Return the samples of sensors that are mounted with small turns, radians."""
    vectors = most * torch.randn(len(imu), 3)
    zero = torch.zeros(len(imu))
    x, y, z = vectors.T
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).unflatten(1, (3, 3))
    matrix = torch.linalg.matrix_exp(skew)
    return torch.cat([imu[..., :3] @ matrix.mT, imu[..., 3:] @ matrix.mT], 2)


def objective(**flags: float) -> type[Loss]:
    """Return a `Loss` with these flags, under a name that says them."""
    name = "Loss" + "".join(f"_{key}_{value:g}".replace(".", "p") for key, value in flags.items())
    return type(name, (Loss,), dict(flags))


def numbers(num_classes: int, kind: type[EgoDistill] = Raw, encoder: Any = HeadNumbers, **options: Any) -> EgoDistill:
    """Return a student of plain numbers."""
    return kind(num_classes, imu_encoder=encoder, **options)


def frames_alone(num_classes: int, **options: Any) -> EgoDistill:
    return EgoDistill(num_classes, **(options | {"use_imu": False}))


def candidate(name: str) -> tuple[Method, dict[str, Any]]:
    """Return the method of a name such as "numbers-exchanged-alone-aug", and its changes of the protocol's settings."""
    first, *words = name.split("-")
    if first not in ("paper", "frames", "numbers", "spectrum", "staged", "layer", "both"):
        raise SystemExit(f"{name}: no candidate begins with {first!r}")
    flags: dict[str, float] = {}
    changes: dict[str, Any] = {"learning_rate": 2e-3, "epochs": 6}
    kind: type[EgoDistill] = Raw
    encoder: Any = HeadNumbers
    pretrain = first in ("paper", "layer", "staged")
    for word in words:
        if word == "aug":
            changes["augment"] = PICTURES
        elif word == "exchanged":
            flags["exchanged"] = 0.5
        elif word == "missing":
            flags["missing"] = 0.2
        elif word == "alone":
            flags["alone"] = 0.5
        elif word == "sensor":
            flags |= {"bias": 0.02, "scale": 0.1, "turned": 0.1}
        elif word == "clock":
            flags["shifted"] = 0.1
        elif word == "log":
            flags["power"] = 2.0
        elif word == "ordered":
            kind = OrderedProduct if kind is Product else Ordered
        elif word == "product":
            kind = OrderedProduct if kind is Ordered else Product
        elif word == "noturn":
            encoder = partial(HeadNumbers, turn=False)
        elif word == "light":
            encoder = partial(IMUSpectrum, dropout=0.3)
        elif word == "slow":
            changes["learning_rate"] = 1e-3
        elif word == "fast":
            changes["learning_rate"] = 4e-3
        else:
            raise SystemExit(f"{name}: no candidate has a part {word!r}")
    if first == "layer":
        encoder = partial(HeadNumbers, layer=256)
    if first == "spectrum" and "light" not in words:
        encoder = partial(IMUSpectrum, dropout=0.5)
    if first == "both":
        encoder = CNNAndNumbers
    builds = {"paper": EgoDistill, "frames": frames_alone}
    build = builds.get(first, partial(numbers, kind=kind, encoder=encoder))
    if first == "frames":
        changes |= {"epochs": 12, "learning_rate": changes["learning_rate"] / 2}
    elif not pretrain:
        changes["epochs"] = STEPS
    stage = partial(distillation.distill, objective=objective(**flags))
    return Method(name, build, stage, pretrain), changes


# ---------------------------------------------------------------------------------------------------------------
# Worlds, teachers, results


def bench_of(world: str, out: Path, name: str, **options: Any) -> benches.Bench:
    own = {"out": str(out / world / "runs" / name), "test": "validation"} | options
    return benches.Bench(str(out / world / "store"), protocol=evidence.GENERAL, **own)


def make(world: str, out: Path) -> None:
    """Render a world and decode its clips."""
    settings = evidence.WORLD | {"test_acts": 20, "test_wearers": 1, "coupling": WORLDS[world], "seed": 0}
    rendered = synthetic.render(out / world / "world", **settings, workers=1)
    data.prepare(
        evidence.segments_of(rendered),
        out / world / "store",
        num_frames=(1, 2, 4),
        frame_size=64,
        clip_frames=16,
        clip_size=64,
        class_names=sorted(behaviour.VERBS),
        workers=1,
    )


def teach(world: str, out: Path, seed: int) -> None:
    """Train a teacher and the image network from which students start."""
    bench = bench_of(world, out, "first", validation="validation", teachers=evidence.TEACHERS)
    run = Run("teacher", seed, teacher=TEACHER)
    bench.run([Run("start", seed), run])
    print(f"{run.outputs}: {100 * bench.result(run)['top1']:.1f} %")


def explore(world: str, out: Path, frames: int, seed: int, names: list[str]) -> None:
    """Append a line for each candidate that has none: what it has right of the validation clips, by kind and thing."""
    first = bench_of(world, out, "first", validation="validation", teachers=evidence.TEACHERS)
    for name in names:
        key = {"world": world, "candidate": name, "frames": frames, "seed": seed}
        if any(all(line.get(k) == v for k, v in key.items()) for line in files.read_lines(LINES, *key)):
            continue
        method, changes = candidate(name)
        own = {name: changes}
        if method.pretrain:
            own[f"stage 1 of {name}"] = {"learning_rate": changes["learning_rate"], "epochs": 6}
        protocol = replace(evidence.GENERAL, changes=own)
        bench = replace(
            first, out=str(out / world / "runs" / f"{name}"), protocol=protocol, methods=[method], teachers={}
        )
        first.run([Run("start", seed)])
        evidence.reuse(first, bench, Run("start", seed))
        run = Run(name, seed, frames=frames, teacher=TEACHER.format(seed=0))
        bench.run([run])
        result = bench.result(run)
        line = key | {"top1": round(100 * result["top1"], 2)} | parts(bench, run, world)
        files.append_line(LINES, line | {"seconds": round(result["seconds"])})
        print(line, flush=True)


def parts(bench: benches.Bench, run: Run, world: str) -> dict[str, float]:
    """Return shares of right answers, %: of reversals, cyclic pairs, and taps with and without the head's following."""
    model = bench.load(run).eval()
    clips = data.ClipStore(bench.store).split("validation")
    names = [f"frames_{run.frames}", *(["imu"] if "imu" in model.inputs else [])]
    said = []
    with torch.no_grad():
        for rows in np.array_split(np.arange(len(clips)), len(clips) // 64 + 1):
            said.append(model(*(torch.from_numpy(clips.read(name, rows)) for name in names)).logits.argmax(1))
    right = torch.cat(said).numpy() == clips.labels
    verbs = np.array(clips.class_names)[clips.labels]
    kinds = {verb: (thing.kind, thing.look) for thing in behaviour.THINGS for verb, _ in thing.verbs}
    kind, look = np.array([kinds[verb] for verb in verbs]).T
    follow = head_follows(clips, WORLDS[world])
    masks = {one: kind == one for one in ("reversal", "cyclic", "single")}
    for name, some in (("tap", look == "tap"), ("reversal", kind == "reversal")):
        masks |= {f"{name}_followed": some & follow, f"{name}_not_followed": some & ~follow}
    return {name: round(100 * float(right[mask].mean()), 1) for name, mask in masks.items()}


def head_follows(clips: Any, coupling: float) -> np.ndarray:
    """Return whether the head follows the hand in each clip's act, bool [n]; acts are drawn again, not rendered."""
    videos, numbers = zip(*(clip["id"].rsplit("_", 1) for clip in clips.clips), strict=True)
    acts = {
        video: synthetic.RenderedRecording(video, acts=videos.count(video), coupling=coupling).draw().acts
        for video in set(videos)
    }
    found = [acts[video][int(number)] for video, number in zip(videos, numbers, strict=True)]
    if [behaviour.VERBS[act.verb] for act in found] != [clips.class_names[label] for label in clips.labels]:
        raise SystemExit("the acts that are drawn today are not those of the store")
    return np.array([any(act.turn) for act in found])


def show() -> None:
    lines = list(files.read_lines(LINES, "world", "candidate"))
    columns = [name for name in lines[0] if name != "seconds"]
    print(
        tables.Table(
            [*columns, "seconds"], [[str(line.get(c, "")) for c in [*columns, "seconds"]] for line in lines]
        ).text()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["make", "teach", "explore", "show"])
    parser.add_argument("world", nargs="?", choices=WORLDS)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_intermixed_args()
    if given.command == "show":
        show()
    elif given.command == "make":
        make(given.world, given.out)
    elif given.command == "teach":
        teach(given.world, given.out, given.seed)
    else:
        explore(given.world, given.out, given.frames, given.seed, given.names)


if __name__ == "__main__":
    sys.exit(main())
