"""Compare a training step with the bare step of its network, and bf16 with fp32.

    python benchmarks/steps.py                    # the demo's networks: a few minutes
    python benchmarks/steps.py --size paper       # the paper's student, stage 1 and SlowFast: about ten minutes

A bare step is forward pass, cross-entropy, backward pass and optimizer step on one batch that is in memory. A step of
`train()` also reads its batch from a clip store, computes the losses of its stage, and keeps the books. Both take turns
in fp32 and in bf16, and each ratio is the median over these rounds. With OMP_NUM_THREADS=1, times are processor
time, which other programs on the machine change little.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill import IMUPredictor, data, distillation, training
from egodistill.commands import options
from egodistill.engine import batches, runtime
from egodistill.support import files, tables
from egodistill.world import synthetic
from lab import audio, benches, demo, protocols

TEACHER = "bench"  # name of the teacher whose outputs, random numbers, are in the store
PRECISIONS = ("fp32", "bf16")
CLIPS = 128  # rendered training clips


@dataclass
class Case:
    """A stage with its network: the objective that `train()` minimizes, and a bare forward pass."""

    name: str
    store: Any
    objective: training.Objective
    settings: training.Training
    bare: Callable[[dict[str, torch.Tensor]], torch.Tensor]  # batch -> logits [B, C]
    frozen: tuple[nn.Module, ...] = ()


def write_teacher(store: data.ClipStore, width: int) -> None:
    """Add the random outputs of a teacher to a store."""
    rng = np.random.default_rng(0)
    for kind, size in (("feature", width), ("logits", len(store.class_names))):
        store.add(f"{TEACHER}.{kind}", (size,), np.float32)
        store.write(f"{TEACHER}.{kind}", range(len(store)), rng.normal(size=(len(store), size)).astype(np.float32))


def student_cases(store: Any, recipe: distillation.Recipe, width: int) -> dict[str, Callable[[], Case]]:
    """Return stage 1 and stage 2 of a recipe's student."""
    models = [
        recipe.student.build(len(store.class_names), feature_dim=width, frame_size=store.settings["frame_size"])
        for _ in range(2)
    ]
    first, second = recipe.pretraining, recipe.distillation
    predictor = IMUPredictor(models[0].image_dim, models[0].imu_dim)
    stage_1 = distillation.PretrainIMU(models[0], predictor, "frames_1", first, TEACHER)
    stage_2 = distillation.Distill(models[1], store, second, TEACHER)

    def pretraining_outputs(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        frames, motion = stage_1.features[batch["row"]], models[0].encode_imu(batch["imu"])
        return torch.cat([predictor(frames[:, 0], frames[:, -1]), models[0].fuse(frames[:, 1], motion).feature], 1)

    cases = [
        Case("stage 1", store, stage_1, first, pretraining_outputs, (models[0].image_encoder, models[0].classifier)),
        Case("stage 2", store, stage_2, second, lambda batch: models[1](batch["frames_1"], batch["imu"]).logits),
    ]
    return {case.name: lambda case=case: case for case in cases}


def label_case(name: str, store: Any, model: nn.Module, settings: training.Training) -> Case:
    """Return the training of a model on labels."""
    objective = distillation.Finetune(model, store)
    return Case(name, store, objective, settings, lambda batch: model(*(batch[x] for x in objective.reads)).logits)


def teacher_case(name: str, store: Any, recipe: protocols.TeacherRecipe) -> Case:
    return label_case(name, store, benches.build_teacher(recipe, name, store), recipe.training)


def baseline_case(name: str, store: Any, bench: benches.Bench) -> Case:
    run = benches.Run(name, frames=4, teacher=TEACHER)
    model = bench.build_baseline(run, store, bench.protocol.recipe.student.feature_dim)
    return label_case(name, store, model, bench.protocol.recipe.finetuning)


class Measurement:
    """Time per step of a case, bare and in `train()`, in one precision."""

    def __init__(self, case: Case, precision: str, device: str | None) -> None:
        self.case, store = case, case.store
        self.settings = replace(case.settings, precision=precision, device=device, progress=False, schedule="cosine")
        self.loop = training.TrainingLoop(case.objective, store, self.settings)
        self.loop.resume()
        self.device = self.loop.device
        case.objective.setup(store, self.settings)
        self.steps = -(-len(store) // self.settings.batch_size)
        reads = case.objective.reads
        self.batch, _ = next(
            batches.read_batches(store, reads, torch.arange(self.settings.batch_size), 2**20, self.device)
        )
        self.batch["label"] = self.batch["label"].to(self.device)
        self.optimizer = torch.optim.AdamW(self.loop.trained, lr=1e-6, fused=True)
        self.bare_seconds: list[float] = []
        self.loop_seconds: list[float] = []

    def run(self) -> None:
        """Take an epoch of steps in both ways."""
        self.case.objective.train()
        runtime.keep_frozen_statistics(self.case.objective)
        self.bare_seconds.append(self.time(self.run_bare) / self.steps)
        with files.Progress("", 0, show=False) as bar:
            self.loop_seconds.append(self.time(lambda: self.loop.run_epoch(bar)) / self.steps)

    def time(self, run: Callable[[], None]) -> float:
        clock = time.process_time if self.device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
        synchronize(self.device)
        start_time = clock()
        run()
        synchronize(self.device)
        return clock() - start_time

    def run_bare(self) -> None:
        for _ in range(self.steps):
            with runtime.autocast(self.device, self.settings.precision):
                logits = self.case.bare(self.batch)
            self.optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(logits.float(), self.batch["label"]).backward()
            self.optimizer.step()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(case: Case, rounds: int, device: str | None) -> list[str]:
    """Return a row of the table."""
    with distillation.frozen(*case.frozen):
        found = {name: Measurement(case, name, device) for name in PRECISIONS}
        for number in range(rounds + 1):
            for one in found.values():
                one.run()
                if not number:  # warms up
                    one.bare_seconds.clear(), one.loop_seconds.clear()
    cells = [case.name, str(case.settings.batch_size)]
    for one in found.values():
        ratio = statistics.median(a / b for a, b in zip(one.loop_seconds, one.bare_seconds, strict=True))
        cells += [f"{1e3 * statistics.median(one.bare_seconds):.0f}", f"{ratio:.2f}"]
    exact, fast = found.values()
    for name in ("bare_seconds", "loop_seconds"):
        pairs = zip(getattr(exact, name), getattr(fast, name), strict=True)
        cells.append(f"{statistics.median(a / b for a, b in pairs):.2f}")
    return cells


def demo_cases(folder: Path) -> dict[str, Callable[[], Case]]:
    """Return the demo's networks by name."""
    size, protocol = demo.DEMO.pixels, demo.DEMO.protocol
    options = {"frame_size": size, "clip_size": size, "clip_frames": demo.DEMO.clip_frames}
    store = make_store(folder, 1920, num_frames=(1, 4), sound=True, **options)
    bench = benches.Bench(folder / "store", folder / "out", protocol)
    cases = student_cases(store, protocol.recipe, 1920)
    for name, recipe in demo.DEMO.teachers.items():
        cases[name] = lambda name=name, recipe=recipe: teacher_case(name, store, recipe)
    for name in ("ListenToLook", "AdaFuse", benches.STTS_METHODS[0]):
        cases[name] = lambda name=name: baseline_case(name, store, bench)
    return cases


def paper_cases(folder: Path) -> dict[str, Callable[[], Case]]:
    """Return the paper's student in both stages, and a published teacher, by name."""
    store = make_store(folder, 768, clip_frames=32)
    recipe = distillation.EPIC_KITCHENS
    recipe = replace(recipe, student=replace(recipe.student, image_weights=None))
    slowfast = protocols.TeacherRecipe("slowfast_8x8_r50", training.Training(batch_size=4))
    name = "SlowFast 8x8 R50"
    return student_cases(store, recipe, 768) | {name: lambda: teacher_case(name, store.select(range(8)), slowfast)}


def make_store(folder: Path, feature_dim: int, sound: bool = False, **options: Any) -> Any:
    """Return the training clips of a store of rendered ones, each several times."""
    world = synthetic.render(
        folder / "world", train_acts=CLIPS, test_acts=3, train_wearers=min(8, CLIPS), progress=False
    )
    segments = data.read_epic_kitchens(world.annotations, world.root)
    store = data.prepare(segments, folder / "store", progress=False, **options)
    if sound:  # for ListenToLook
        audio.add_sound(store, progress=False)
    write_teacher(store, feature_dim)
    train = store.split("train")
    return train.select([*range(len(train))] * 8)  # an epoch of a thousand clips: its end is a small part of it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=("demo", "paper"), default="demo")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these networks")
    parser.add_argument("--rounds", type=options.positive_int, default=5)
    parser.add_argument("--device", help="default: a GPU if there is one")
    tables.markdown_option(parser)
    a = parser.parse_args()
    header = ["network", "batch", "bare fp32, ms", "train()", "bare bf16, ms", "train()", "bf16 gain, bare", "train()"]
    rows = []
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        cases = demo_cases(Path(name)) if a.size == "demo" else paper_cases(Path(name))
        for name in a.only or cases:
            rows.append(measure(cases[name](), a.rounds, a.device))
            print(rows[-1], file=sys.stderr, flush=True)
    device = runtime.pick_device(a.device)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    tables.report(tables.Table(header, rows), f"benchmarks/steps.py, {a.size}", a.markdown, sys.argv, machine=machine)


if __name__ == "__main__":
    main()
