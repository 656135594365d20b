"""How should one student learn to do without frames, or without head motion? Candidates on worlds that were seen.

    python benchmarks/optional_inputs.py make D --out EV               # render and decode: half an hour for a world
    python benchmarks/optional_inputs.py screen D --out EV --seeds 3 --frames 4    # a teacher, then 5 minutes for each
    python benchmarks/optional_inputs.py show

Worlds A and D, all of whose wearers have been looked at before, serve to choose: the validation wearers' 2,000 acts of
all objects, and 2,000 acts at the tap, half of which the head does not follow. A cell is one trained network, and
becomes a line of results/optional_inputs.jsonl, with a bit for each clip and each mix of inputs: "both", "frames" and
"imu". No line is a finding. `show` prints the table, and which candidate `FORMULA` picks, which was written before any.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import better_student
import evidence
import numpy as np
import optional_networks as networks
import torch
from better_student import BOTH, FRAMES, RATE, WINNER

from egodistill import EgoDistill, data
from egodistill.engine.batches import Augment
from egodistill.experiments import behaviour, benches, contrasts, synthetic
from egodistill.experiments.benches import Run
from egodistill.experiments.protocols import Method
from egodistill.support import files, tables

LINES = evidence.RESULTS / "optional_inputs.jsonl"
TEACHER = evidence.TEACHER
TAP = better_student.TAP
MOTION = "Head motion alone"
MIXES = {"both": ("frames", "imu"), "frames": ("frames",), "imu": ("imu",)}
spectrum = functools.partial(EgoDistill, imu_encoder="spectrum", aggregator="concat")


def optional(build: Any = EgoDistill, encoder: str = "spectrum") -> Any:
    """Return what builds a candidate."""
    return functools.partial(build, imu_encoder=encoder, aggregator="concat", optional_inputs=True)


METHODS = [
    *(method for method in better_student.METHODS if method.name in (WINNER, FRAMES)),
    Method(MOTION, functools.partial(EgoDistill, image_encoder=None, imu_encoder="spectrum"), start=False),
    Method("Vectors", optional()),
    Method("Vectors, weight 1", optional(), networks.STAGES["Whole"]),
    Method("Vectors, weight 0.25", optional(), networks.STAGES["Quarter"]),
    Method("Vectors, frames too", optional(), networks.STAGES["FramesToo"]),
    Method("Vectors, drawn", optional(), networks.STAGES["Drawn"]),
    Method("Zeros", optional(networks.Zeros)),
    Method("Vectors and a gate", optional(networks.gated)),
    Method("Vectors and a product", optional(networks.bilinear)),
    Method("Vectors, filterbank", optional(encoder="filterbank")),
]
TUNED = {
    FRAMES: better_student.CHANGES[FRAMES],
    MOTION: RATE | {"epochs": 12, "augment": Augment(shift=0.05)},
}
LEARNED = RATE | {"epochs": 9, "augment": BOTH}
CHANGES: dict[str, Mapping[str, Any]] = {one.name: TUNED.get(one.name, LEARNED) for one in METHODS}
SETTINGS = replace(evidence.GENERAL, changes=CHANGES)
SEEDS = {"D": (3, 4), "A": (0,)}  # of networks; the first of D comes first
GO_ON = 4
FORMULA = (
    "First each candidate is trained on world D, its first seed, four frames. The four with the highest accuracy on "
    "acts at the tap that the head does not follow, with both inputs, go on to all seeds of D and A, with one and four "
    "frames. Of these, those that with both inputs, one and four frames, are at most 0.5 points below Spectrum, and "
    "from frames alone, four frames, at most 2 points below the student of frames alone, each in the mean of worlds A "
    "and D: the one with the highest accuracy on the same acts at the tap, in the mean of both worlds; within 1 point "
    "of it, the first in the order of METHODS. If none is left: none, and the student of one input each stays the "
    "advice. The weight of the losses of each input alone, and what the head motion is read as, are candidates too."
)


# ---------------------------------------------------------------------------------------------------------------
# Worlds


def tap_of(world: str) -> str:
    """Return the folder of a world's acts at the tap."""
    return "tap" if world == "D" else f"tap-{world}"


def make(world: str, out: Path) -> None:
    """Render and decode a world and its acts at the tap, unless they are there."""
    if world == "D":
        better_student.make("D", out)
        better_student.make("tap", out)
        return
    for folder, changes in ((world, {}), (tap_of(world), TAP)):
        settings = evidence.WORLD | changes
        rendered = synthetic.render(out / folder / "world", **settings, seed=0, workers=1)
        data.prepare(
            evidence.segments_of(rendered),
            out / folder / "store",
            num_frames=4 if changes else (1, 4),
            frame_size=evidence.PIXELS,
            clip_frames=None if changes else evidence.CLIP_FRAMES,
            clip_size=evidence.PIXELS,
            class_names=sorted(behaviour.VERBS),
            workers=1,
        )


def clips_of(world: str, out: Path, frames: int) -> dict[str, data.ClipStore]:
    """Return the clips on which students are compared; the acts at the tap are asked of four frames alone."""
    found = {"validation": data.ClipStore(out / world / "store").split("validation")}
    if frames == 4:
        clips = data.ClipStore(out / tap_of(world) / "store").split("test")
        follows = better_student.head_follows(tap_of(world), out, clips)
        found |= {"tap, followed": clips.select(follows), "tap, not followed": clips.select(~follows)}
    return found


# ---------------------------------------------------------------------------------------------------------------
# Cells


def bench_of(world: str, out: Path) -> benches.Bench:
    """Return the bench of a world."""
    options = {"teachers": evidence.TEACHERS, "methods": METHODS, "validation": "validation", "progress": False}
    return benches.Bench(str(out / world / "store"), str(out / f"optional-{world}" / "runs"), SETTINGS, **options)


@torch.no_grad()
def right_of(model: Any, clips: data.ClipStore) -> dict[str, np.ndarray]:
    """Return which clips a student has right, bool [n], with each mix of inputs that it can answer from."""
    optional_inputs = getattr(model, "optional_inputs", False)
    asked = [name for name, mix in MIXES.items() if optional_inputs or mix == tuple(model.inputs)]
    said: dict[str, list[np.ndarray]] = {name: [] for name in asked}
    for rows in np.array_split(np.arange(len(clips)), len(clips) // 64 + 1):
        image = motion = None
        if "frames" in model.inputs:
            frames = torch.from_numpy(clips.read(f"frames_{model.num_frames}", rows))
            image = model.aggregate(model.encode_frames(frames))
        if "imu" in model.inputs:
            motion = model.encode_imu(torch.from_numpy(clips.read("imu", rows)))
        for name in asked:
            has = MIXES[name]
            output = model.fuse(image if "frames" in has else None, motion if "imu" in has else None)
            said[name].append(output.logits.argmax(1).numpy())
    return {name: np.concatenate(answers) == clips.labels for name, answers in said.items()}


def line_of(world: str, out: Path, run: Run) -> dict[str, Any]:
    """Return the line of a cell; train its network first, unless it is."""
    bench, begun = bench_of(world, out), time.monotonic()
    bench.run([run])
    model = bench.load(run).eval()
    line = {
        "name": run.name,
        "world": world,
        "run": asdict(run),
        "precision": bench.result(run)["precision"],
        "right": {},
    }
    for name, clips in clips_of(world, out, run.frames).items():
        line["right"][name] = {
            mix: contrasts.pack(contrasts.split_by_wearer(right, clips.wearers))
            for mix, right in right_of(model, clips).items()
        }
    return line | {"seconds": round(time.monotonic() - begun)}


def finished() -> dict[tuple[str, str], dict[str, Any]]:
    """Return the lines by world and name of the run."""
    lines = files.read_lines(LINES, "world", "name") if LINES.exists() else ()
    return {(line["world"], line["name"]): line for line in lines}


def screen(world: str, out: Path, seeds: Sequence[int], frames: Sequence[int], methods: Sequence[str]) -> None:
    """Train and ask the candidates that have no line."""
    origin = {"commit": evidence.git("rev-parse", "HEAD"), "processor": tables.processor()}
    make(world, out)
    for seed in seeds:
        for count in frames:
            for name in methods:
                run = Run(name, seed, 1 if name == MOTION else count, TEACHER)
                if (world, run.name) not in finished():
                    files.append_line(LINES, line_of(world, out, run) | origin)
                    print(f"{world}, {run.name}: a line of {LINES}", flush=True)


def accuracy(bits: Mapping[str, Any]) -> float:
    """Return the mean over wearers of the share of right clips, in %."""
    return 100 * statistics.mean(float(np.mean(one)) for one in contrasts.unpack(bits).values())


Cells = Mapping[tuple[str, str, int], Mapping[int, dict[str, Any]]]  # lines by world, method, frames; by seed


def value(cells: Cells, method: str, frames: int, acts: str, mix: str, seeds: Mapping[str, Sequence[int]]) -> float:
    """Return the mean accuracy of a method over worlds, in %, of these seeds; NaN while a line is missing."""
    means = []
    for world, some in seeds.items():
        lines = cells.get((world, method, frames), {})
        means.append([accuracy(lines[one]["right"][acts][mix]) if one in lines else np.nan for one in some])
    return statistics.mean(map(statistics.mean, means))


def picked(cells: Cells) -> str:
    """Return the candidate that FORMULA picks, or why there is none."""
    tap, first = ("tap, not followed", "both"), {"D": SEEDS["D"][:1]}
    candidates = [one.name for one in METHODS if one.name not in (WINNER, FRAMES, MOTION)]
    early = {name: value(cells, name, 4, *tap, first) for name in candidates}
    if missing := [name for name, reached in early.items() if np.isnan(reached)]:
        return f"nothing is picked while {missing[0]} has no line of world D with four frames"
    limit, kept = sorted(early.values())[-GO_ON], dict[str, float]()
    for name in (name for name in candidates if early[name] >= limit):
        pairs = [(1, "both", WINNER, 0.5), (4, "both", WINNER, 0.5), (4, "frames", FRAMES, 2.0)]
        below = [
            value(cells, other, n, "validation", mix, SEEDS) - value(cells, name, n, "validation", mix, SEEDS) - most
            for n, mix, other, most in pairs
        ]
        reached = value(cells, name, 4, *tap, SEEDS)
        if np.isnan([*below, reached]).any():
            return f"nothing is picked while {name} or what it is compared with lacks a line of A or D"
        if max(below) <= 0:
            kept[name] = reached
    return next((f"picked: {name}" for name in kept if kept[name] >= max(kept.values()) - 1), "picked: none")


def show(markdown: str | None) -> None:
    """Print the accuracy of each candidate, mean of its seeds, and which one is picked; write it into a document."""
    cells: dict[tuple[str, str, int], dict[int, dict[str, Any]]] = {}
    for line in finished().values():
        key = line["world"], line["run"]["method"], line["run"]["frames"]
        cells.setdefault(key, {})[line["run"]["seed"]] = line
    rows = []
    for (world, method, frames), some in cells.items():
        row = [world, method, "" if method == MOTION else str(frames)]
        for name in ("validation", "tap, followed", "tap, not followed"):
            for mix in MIXES:
                kept = [line["right"][name][mix] for line in some.values() if mix in line["right"].get(name, {})]
                row.append(f"{statistics.mean(map(accuracy, kept)):.1f}" if kept else "")
        rows.append([*row, str(len(some))])
    heads = [f"{name}: {mix}" for name in ("all", "tap, followed", "not followed") for mix in MIXES]
    table = tables.Table(["world", "method", "N", *heads, "seeds"], rows)
    origin = evidence.machines(list(finished().values()))
    tables.report(table, "benchmarks/optional_inputs.py, candidates", markdown, sys.argv, origin=origin)
    print(picked(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    tables.markdown_option(commands.add_parser("show"))
    for name in ("make", "screen"):
        command = commands.add_parser(name)
        command.add_argument("world", choices=list(SEEDS))
        command.add_argument("--out", type=Path, required=True)
        if name == "screen":
            command.add_argument("--seeds", type=int, nargs="+", required=True)
            command.add_argument("--frames", type=int, nargs="+", default=[4, 1], choices=[1, 4])
            names = [one.name for one in METHODS]
            command.add_argument("--methods", nargs="+", default=names, choices=names)
    given = parser.parse_args()
    if given.command == "show":
        show(given.markdown)
    elif given.command == "make":
        make(given.world, given.out)
    else:
        screen(given.world, given.out, given.seeds, given.frames, given.methods)


if __name__ == "__main__":
    main()
