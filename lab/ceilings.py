"""Estimate what frames, head motion and sound can show about the verbs of the rendered world, without rendering it.

    OMP_NUM_THREADS=1 python -m lab.ceilings --results results/ceilings.jsonl      # an hour on two cores

A classifier sees the true state of 100,000 acts that are drawn, but not rendered, with the noise of the sensors, and
knows the object. What it reaches on acts of other wearers is a lower estimate of the best possible accuracy of any
model with these inputs; a model that is more than two standard errors above it means that the world or the estimate is
wrong.

* Frames: for each of the times of `ClipSpec`, whether the object is in view, and with an error of about one pixel
  of 64 (12 mm, 0.9 degrees): the progress of the act, the hand's displacement, and the direction of the head.
* Head motion: the readings of the wearer's sensor on its own clock, averaged to 50 Hz.
* Sound: the energy in three bands at 50 Hz.

The analytic bound is (1 + q) / 2 for a pair whose verb one input shows in a share q of the acts, such as head motion in
the share that the head follows: a guess in the others. Single acts count as known. Probes check what must not show
anything (time in the recording, wearer, mean acceleration, length), and what head motion alone shows of the object.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import egodistill
from egodistill import video
from egodistill.support import files, tables
from egodistill.world import behaviour, synthetic

CLIP, STEPS, SOUND_SECONDS = egodistill.CLIP_SECONDS, 107, 2.0  # seconds, 50 Hz, seconds
COUNTS = (1, 2, 3, 4, 5, 6, 7, 8)
TEACHER_FRAMES = 16
VIEW = math.radians(27)
PIXEL, PIXEL_ANGLE = 0.012, math.radians(54 / 64)  # m at 0.75 m, rad
BANDS = ((0, 700), (700, 2000), (2000, 8000))  # Hz
PAIRS = [k for k, thing in enumerate(behaviour.THINGS) if len(thing.verbs) == 2]
INPUTS: dict[str, tuple[str, ...]] = (
    {f"N = {n}": (f"frames {n}",) for n in COUNTS}
    | {"head motion": ("imu",), "sound": ("sound",), "head motion + sound": ("imu", "sound")}
    | {f"N = {n} + head motion": (f"frames {n}", "imu") for n in (1, 2, 4, 8)}
    | {f"N = {n} + sound": (f"frames {n}", "sound") for n in (1, 2, 4)}
    | {"N = 1 + head motion + sound": ("frames 1", "imu", "sound")}
    | {"N = 1, shutter of 1/50 s": ("frames 1", "blur"), "clip (16 frames)": (f"frames {TEACHER_FRAMES}",)}
    | {"N = 1, shutter of 1/50 s + head motion": ("frames 1", "blur", "imu")}
)


# ---------------------------------------------------------------------------------------------------------------
# Acts with what each input sees of them


def see_frames(act: behaviour.Act, count: int, state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return what `count` frames show, [count, 7], with an error of about a pixel; zeros if the object is out of view.

    `state` [6, n] is that of the head in all frames of the recording.
    """
    rows = np.floor(video.clip_times(act.centre - CLIP / 2, count) * behaviour.FRAME_RATE + 1e-6).astype(int)
    rows = rows.clip(0, state.shape[1] - 1)
    t, away = rows / behaviour.FRAME_RATE, np.stack([state[0, rows] - act.azimuth, state[1, rows] - act.pitch], -1)
    shown = np.concatenate([act.presence(t)[:, None], act.progress(t)[:, None], act.path(t) / 0.065, away / 0.1], 1)
    errors = np.array([0.03, PIXEL / 0.28, PIXEL / 0.065, PIXEL / 0.065, PIXEL_ANGLE / 0.1, PIXEL_ANGLE / 0.1])
    shown += errors * rng.normal(size=shown.shape)
    in_view = np.abs(away).max(1, keepdims=True) < VIEW
    return np.concatenate([in_view, shown * in_view], 1).astype(np.float32)


def blur(act: behaviour.Act, rng: np.random.Generator) -> np.ndarray:
    """Return how far the hand moves in 1/50 s at the clip's middle, in pixels of 64, with an error of half a pixel."""
    t = act.centre + np.array([-0.01, 0.01])
    moved = np.diff(act.path(t), axis=0)[0] + np.array([0.28 * np.diff(act.progress(t))[0], 0.0])
    return np.array([np.hypot(*moved) / PIXEL + 0.5 * rng.normal()], np.float32)


def averages(times: np.ndarray, values: np.ndarray, begin: float) -> np.ndarray:
    """Return readings [STEPS, 3] at 50 Hz from `begin` on, each the mean of four."""
    grid = begin + (np.arange(4 * STEPS) + 0.5) / 200
    fine = np.stack([np.interp(grid, times, column) for column in values.T], -1)
    return fine.reshape(STEPS, 4, 3).mean(1)


def energies(sound: np.ndarray) -> np.ndarray:
    """Return log energies [100, 3] of two seconds of sound, int16, in windows of 20 ms."""
    windows = sound.reshape(100, -1) / 32768
    power = np.abs(np.fft.rfft(windows * np.hanning(windows.shape[1]), axis=1)) ** 2
    hertz = np.fft.rfftfreq(windows.shape[1], 1 / synthetic.SOUND_RATE)
    return np.stack([np.log(1e-6 + power[:, (hertz >= a) & (hertz < b)].sum(1)) for a, b in BANDS], -1)


def see_recording(recording: synthetic.RenderedRecording) -> dict[str, np.ndarray]:
    """Return what all inputs see of the acts of a recording: {name: array [acts, ...]}."""
    plan, rng = recording.draw(), recording.rng(7)
    (force_times, force), (rate_times, rate) = plan.head.readings(plan.duration, recording.rng(4))
    sound, length = recording.sound(plan), round(SOUND_SECONDS * synthetic.SOUND_RATE)
    state = plan.head.state(np.arange(round(plan.duration * behaviour.FRAME_RATE)) / behaviour.FRAME_RATE)
    found: dict[str, list] = {}
    for act in plan.acts:
        begin, first = act.centre - CLIP / 2, round((act.centre - SOUND_SECONDS / 2) * synthetic.SOUND_RATE)
        motion = np.concatenate([averages(force_times, force, begin) / 3, averages(rate_times, rate, begin) * 2], 1)
        heard = np.zeros(length, np.int16)
        piece = sound[max(0, first) : first + length]
        heard[max(0, -first) : max(0, -first) + len(piece)] = piece
        seen = {f"frames {n}": see_frames(act, n, state, rng) for n in (*COUNTS, TEACHER_FRAMES)}
        seen |= {"imu": motion.astype(np.float32), "sound": energies(heard).astype(np.float32) / 3}
        seen |= {"blur": blur(act, rng), "thing": np.int64(act.thing), "second": np.int64(act.second)}
        seen |= {"verb": np.int64(act.verb), "known": np.float32([act.centre / 60, act.length, *motion[:, :3].mean(0)])}
        for name, value in seen.items():
            found.setdefault(name, []).append(value)
    return {name: np.stack(values) for name, values in found.items()}


def draw(acts: int, seed: int, coupling: float, processes: int) -> dict[str, np.ndarray]:
    """Return what all inputs see of this many acts, by 29 training wearers per seed."""
    per = synthetic.ACTS_PER_RECORDING
    plan = [
        synthetic.RenderedRecording(f"P{k % 29 + 1:02d}_101", per, seed + k // 29, coupling=coupling, first=per * k)
        for k in range(math.ceil(acts / per))
    ]
    with concurrent.futures.ProcessPoolExecutor(processes) as pool:
        parts = list(pool.map(see_recording, plan, chunksize=8))
    return {name: np.concatenate([part[name] for part in parts])[:acts] for name in parts[0]}


# ---------------------------------------------------------------------------------------------------------------
# Classifiers


class Judge(nn.Module):
    """Classifier of the verb from some inputs and the object: one logit per object, for its second verb."""

    def __init__(self, sizes: dict[str, tuple[int, ...]], outputs: int, *, told: bool = True) -> None:
        super().__init__()
        self.told = told
        self.parts = nn.ModuleDict()
        width = len(behaviour.THINGS) if told else 0
        for name, size in sizes.items():
            if name in ("imu", "sound"):
                self.parts[name] = nn.Sequential(
                    nn.BatchNorm1d(size[1]),
                    nn.Conv1d(size[1], 32, 7, 2, 3), nn.BatchNorm1d(32), nn.ReLU(),
                    nn.Conv1d(32, 48, 5, 2, 2), nn.BatchNorm1d(48), nn.ReLU(),
                    nn.Conv1d(48, 64, 5, 2, 2), nn.BatchNorm1d(64), nn.ReLU(),
                    nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(96), nn.ReLU(),
                )  # fmt: skip
                width += 96
            else:
                self.parts[name] = nn.Flatten()
                width += math.prod(size)
        layers = [nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()]
        self.head = nn.Sequential(nn.BatchNorm1d(width), *layers, nn.Linear(128, outputs))

    def forward(self, seen: dict[str, Tensor], things: Tensor) -> Tensor:
        found = [part(seen[name].mT if name in ("imu", "sound") else seen[name]) for name, part in self.parts.items()]
        if self.told:
            found.append(nn.functional.one_hot(things, len(behaviour.THINGS)).float())
        return self.head(torch.cat(found, 1))


def judge(train: dict[str, Tensor], test: dict[str, Tensor], inputs: tuple[str, ...], epochs: int) -> Tensor:
    """Return whether a classifier of the verb of pairs is right for each test act, bool [acts]."""
    torch.manual_seed(0)
    model = Judge({name: tuple(train[name].shape[1:]) for name in inputs}, len(behaviour.THINGS))
    fit(model, train, inputs, epochs, lambda logits, batch: pair_loss(logits, batch["thing"], batch["second"]))
    logits = answers(model, test, inputs)
    return (logits.gather(1, test["thing"][:, None])[:, 0] > 0) == (test["second"] > 0)


def pair_loss(logits: Tensor, things: Tensor, second: Tensor) -> Tensor:
    own = logits.gather(1, things[:, None])[:, 0]
    return nn.functional.binary_cross_entropy_with_logits(own, second.float())


def probe(train: dict[str, Tensor], test: dict[str, Tensor], name: str, target: str, epochs: int) -> Tensor:
    """Return whether a classifier of `target` from one input, without the object, is right, bool [acts]."""
    torch.manual_seed(0)
    classes = len(behaviour.VERBS if target == "verb" else behaviour.THINGS)
    model = Judge({name: tuple(train[name].shape[1:])}, classes, told=False)
    fit(model, train, (name,), epochs, lambda logits, batch: nn.functional.cross_entropy(logits, batch[target]))
    return answers(model, test, (name,)).argmax(1) == test[target]


def fit(model: nn.Module, train: dict[str, Tensor], inputs: tuple[str, ...], epochs: int, loss) -> None:
    """Train a classifier on batches of 256 acts, with a cosine schedule."""
    names, count = [*inputs, "thing", "second", "verb"], len(train["thing"])
    model({name: train[name][:2] for name in inputs}, train["thing"][:2])  # sizes of lazy layers
    steps = epochs * (count // 256)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(count, generator=generator)[: count // 256 * 256].split(256):
            batch = {name: train[name][rows] for name in names}
            value = loss(model(batch, batch["thing"]), batch)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def answers(model: nn.Module, test: dict[str, Tensor], inputs: tuple[str, ...]) -> Tensor:
    model.eval()
    pieces = torch.arange(len(test["thing"])).split(2048)
    return torch.cat([model({name: test[name][rows] for name in inputs}, test["thing"][rows]) for rows in pieces])


# ---------------------------------------------------------------------------------------------------------------
# The command


def by_kind(right: Tensor, things: Tensor) -> dict[str, float]:
    """Return the accuracy in % on each kind of pair; single acts are known."""
    kinds = [behaviour.THINGS[k].kind for k in things.tolist()]
    found = {}
    for kind in ("reversal", "cyclic"):
        chosen = torch.tensor([one == kind for one in kinds])
        found[kind] = 100 * right[chosen].float().mean().item()
    return found | {"single": 100.0}


BOUNDS = {
    ("frames 1",): "one frame",
    ("frames 1", "imu"): "one frame and head motion",
    ("frames 1", "sound"): "one frame and sound",
}


def bound(inputs: tuple[str, ...], coupling: float) -> dict[str, float] | None:
    """Return the analytic bound in % of one frame with head motion or sound, by kind, or None for other inputs."""
    if inputs not in BOUNDS:
        return None
    looks = {kind: [thing.look for thing in behaviour.THINGS if thing.kind == kind] for kind in behaviour.KINDS}
    return {kind: 100 * behaviour.bounds(coupling, things)[BOUNDS[inputs]] for kind, things in looks.items()}


def overall(kinds: dict[str, float], weights: dict[str, float]) -> float:
    return sum(weights[kind] * kinds[kind] for kind in kinds)


def report(path: Path, coupling: float, markdown: str | None) -> None:
    """Print the tables of the estimates and the probes for one coupling."""
    classes = {kind: sum(len(t.verbs) for t in behaviour.THINGS if t.kind == kind) for kind in behaviour.KINDS}
    equal = {kind: count / len(behaviour.VERBS) for kind, count in classes.items()}
    rows = []
    for line in files.read_lines(path, "inputs", "coupling", "kinds"):
        if line["coupling"] != coupling:
            continue
        kinds, limit = line["kinds"], line["bound"]
        cells = [f"{kinds[kind]:.1f}" for kind in ("reversal", "cyclic")]
        cells += [f"{overall(kinds, equal):.1f}", f"{overall(kinds, behaviour.EPIC_SHARES):.1f}"]
        rows.append([line["inputs"], *cells, f"{overall(limit, equal):.1f}" if limit else ""])
    header = ["inputs", "reversal", "cyclic", "all classes", "EPIC's shares", "bound"]
    tables.report(tables.Table(header, rows), f"lab/ceilings.py, coupling {coupling:g}", markdown, sys.argv)
    rows = [
        [line["probe"], f"{line['top1']:.1f}", f"{line['chance']:.1f}", f"{line['error']:.1f}"]
        for line in files.read_lines(path, "probe", "coupling", "chance")
        if line["coupling"] == coupling
    ]
    header = ["probe", "top-1 (%)", "chance (%)", "standard error"]
    tables.report(tables.Table(header, rows), f"lab/ceilings.py, probes, coupling {coupling:g}", markdown, sys.argv)


def estimate(a: argparse.Namespace, coupling: float, done: set[tuple[str, float]]) -> None:
    """Draw the acts, and append a line for each set of inputs and each probe that is asked for and not done."""
    about = {"coupling": coupling, "acts": a.acts, "version": egodistill.__version__}
    todo = [name for name in a.only or (*INPUTS, *PROBES) if (name, coupling) not in done]
    if not todo:
        return
    drawn = [draw(n, seed, coupling, a.processes) for n, seed in ((a.acts, 1000), (a.acts // 5, 9000))]
    everything = [{name: torch.from_numpy(values) for name, values in part.items()} for part in drawn]
    chosen = [torch.isin(part["thing"], torch.tensor(PAIRS)) for part in everything]
    train, test = ({name: v[rows] for name, v in part.items()} for part, rows in zip(everything, chosen, strict=True))
    for name in todo:
        if name in INPUTS:
            right = judge(train, test, INPUTS[name], a.epochs)
            line = {"inputs": name, "kinds": by_kind(right, test["thing"]), "bound": bound(INPUTS[name], coupling)}
        else:
            source, target = PROBES[name]
            right = probe(*everything, source, target, a.epochs)
            chance = 100 / len(behaviour.VERBS if target == "verb" else behaviour.THINGS)
            line = {"probe": name, "top1": 100 * right.float().mean().item(), "chance": chance}
        error = 100 * right.float().std().item() / math.sqrt(len(right))
        files.append_line(a.results, line | {"error": error} | about)
        print(f"{name}: {100 * right.float().mean():.1f} %", flush=True)


PROBES = {
    "verb from time, length and mean acceleration": ("known", "verb"),
    "thing from head motion": ("imu", "thing"),
    "verb from head motion": ("imu", "verb"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=Path("results/ceilings.jsonl"), metavar="JSONL")
    parser.add_argument(
        "--acts", type=int, default=100_000, help="acts to learn from; a fifth as many are for the test"
    )
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--coupling", type=float, nargs="+", default=[1.0, 0.5], help="shares that the head follows")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=(*INPUTS, *PROBES), help="inputs or probes, by default all"
    )
    parser.add_argument("--processes", type=int, default=files.available_cores())
    parser.add_argument("--report", action="store_true", help="only print the tables of the lines that there are")
    tables.markdown_option(parser)
    a = parser.parse_args()
    for coupling in a.coupling:
        if not a.report:
            lines = list(files.read_lines(a.results, "coupling", "acts")) if a.results.exists() else []
            if other := {line["acts"] for line in lines} - {a.acts}:
                raise SystemExit(
                    f"{a.results}: has estimates from {other.pop():,} acts, not {a.acts:,}; give --acts that number, "
                    f"or another file as --results"
                )
            estimate(a, coupling, {(line.get("inputs", line.get("probe")), line["coupling"]) for line in lines})
        report(a.results, coupling, a.markdown)


if __name__ == "__main__":
    main()
