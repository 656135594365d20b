"""Which student can do without frames, or without head motion, and what that costs it.

    python -m lab.optional_inputs make D --out EV               # render and decode: half an hour for a world
    python -m lab.optional_inputs screen D --out EV             # teacher: half an hour, student: 5 minutes
    python -m lab.optional_inputs show
    python -m lab.optional_inputs freeze                        # writes the protocol; commit it
    python -m lab.optional_inputs screen F --out EV
    python -m lab.optional_inputs report --markdown results/optional_inputs.md

Worlds A and D, all of whose wearers have been looked at before, serve to choose: the validation wearers' 2,000 acts of
all objects, and 2,000 acts at the tap, half of which the head does not follow. A cell is one trained network, and
becomes a line of results/optional_inputs.jsonl, with a bit for each clip and each mix of inputs: "both", "frames" and
"imu". No line of them is a finding. `show` prints the table, and which candidate `FORMULA` picks, which was written
before any. World F, whose seed is the hash of results/protocol-inputs.json, tests this one; its lines are
results/F.jsonl. Finished networks are kept in EV, so that a cell that was killed continues.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from egodistill import EgoDistill, data
from egodistill.engine.batches import Augment
from egodistill.support import files, tables
from egodistill.world import behaviour, synthetic
from lab import benches, better_student, contrasts, evidence, intervals, optional_networks as networks
from lab.benches import Run
from lab.better_student import BOTH, FRAMES, RATE, WINNER
from lab.evidence_report import holm, shown
from lab.protocols import Method

PROTOCOL = evidence.RESULTS / "protocol-inputs.json"
F = "F"
TEACHER = evidence.TEACHER
TAP = better_student.TAP
HALF = {name: value for name, value in TAP.items() if name != "things"} | {"coupling": 0.5, "test_acts": 4000}
MOTION = "Head motion alone"
NOT_FOLLOWED = ("tap, not followed", "both")
MIXES = {"both": ("frames", "imu"), "frames": ("frames",), "imu": ("imu",)}


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
OWN = {WINNER: "both", FRAMES: "frames", MOTION: "imu"}  # what the students that are compared with answer from
PLAIN = "Vectors"  # what the library builds: the control of a candidate with more
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
SEEDS_OF_F, SEEDS_OF_TAP = 5, 10


class Goal(NamedTuple):
    """What the candidate has to reach on world F; differences are paired by seed and wearer, in points."""

    acts: str
    frames: int
    mix: str  # of inputs that the candidate answers from
    others: tuple[str, ...]  # the candidate minus the mean of these
    low: float  # the lower end of the interval has to be above it
    mean: float | None = None  # and the difference at least this


GOALS = [
    Goal("test", 1, "both", (WINNER,), -1.0),
    Goal("test", 4, "both", (WINNER,), 0.0, 0.8),
    Goal("test", 1, "frames", (FRAMES,), -2.0),
    Goal("test", 4, "frames", (FRAMES,), -2.0),
    Goal("test", 1, "imu", (MOTION,), -2.5),
    Goal("tap, not followed", 4, "both", (WINNER, FRAMES), 0.0),  # half of the gap is closed
    Goal("tap, followed", 4, "both", (WINNER,), -3.0),
    Goal("half the coupling", 1, "both", (WINNER,), -1.5),
    Goal("tap, not followed", 4, "both", (PLAIN,), 0.0),
]
TEXT = {
    "question": "What does one student that may lack frames or head motion lose against students of their own, and is "
    "it less misled by head motion that tells nothing?",
    "primary": "accuracy of each test wearer; a goal holds if the interval of the difference is above its lower limit",
    "interval": "intervals.two_way over seeds and wearers",
    "family": "the goals above 0, Holm; the others are claims of not being worse",
    "control": "Vectors, which the library builds, by the same goals; the library takes the candidate instead if the "
    "last goal is reached, else Vectors",
    "before": "nothing of world F was seen: its seed is the first 32 bits of this file's SHA-256",
    "half the coupling": "test clips of such a world, asked of the networks that learned F",
    "teachers": "five: the seeds from 5 on are of the teachers of 0 to 4, with weights and an order of their own",
}


# ---------------------------------------------------------------------------------------------------------------
# The protocol


def content(candidate: str) -> dict[str, Any]:
    """Return what the protocol says: everything that decides the results but the code itself."""
    return TEXT | {
        "formula": FORMULA,
        "candidate": candidate,
        "goals": [goal._asdict() for goal in goals_of(candidate)],
        "worlds": {name: evidence.WORLD | changes for name, (changes, _) in parts_of(F).items()},
        "things": [asdict(thing) for thing in behaviour.THINGS],
        "general": SETTINGS.record(),
        "methods": [one.record() for one in METHODS if one.name in (*OWN, PLAIN, candidate)],
        "teacher": evidence.TEACHERS[TEACHER].record(),
        "cells": [asdict(run) for run in cells(candidate)],
    }


def goals_of(candidate: str) -> list[Goal]:
    """Return the goals of a candidate; the control is not compared with itself."""
    return [goal for goal in GOALS if candidate not in goal.others]


def cells(candidate: str) -> list[Run]:
    """Return the cells of world F: at the tap there are twice as many seeds."""
    plan, names = [], list(dict.fromkeys([*OWN, PLAIN, candidate]))
    for seed in range(SEEDS_OF_TAP):
        teacher = TEACHER if seed < SEEDS_OF_F else TEACHER.format(seed=seed - SEEDS_OF_F)
        kinds = [(name, 4) for name in names if name != MOTION]
        kinds += [(name, 1) for name in names] if seed < SEEDS_OF_F else []
        plan += [Run(name, seed, frames, teacher) for name, frames in kinds]
    return plan


def freeze() -> None:
    """Write the protocol. Refuse to test what was not picked."""
    candidate = picked(by_cell("A", "D"))
    if candidate not in CHANGES:
        raise SystemExit(f"there is no candidate to test: {candidate}")
    evidence.write_protocol(PROTOCOL, content(candidate))


def says(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what this script would do with the candidate of a protocol."""
    return content(record["candidate"])


# ---------------------------------------------------------------------------------------------------------------
# Worlds


def parts_of(world: str) -> dict[str, tuple[dict[str, Any], Any]]:
    """Return the folders of a world, what is different in each, and how many frames its clips have.

    They are its clips, its acts at the tap, and of the new world test clips with half the coupling.
    """
    half: dict[str, tuple[dict[str, Any], Any]] = {f"half-{world}": (HALF, 1)} if world == F else {}
    return {world: ({}, (1, 4)), tap_of(world): (TAP, 4)} | half


def tap_of(world: str) -> str:
    """Return the folder of a world's acts at the tap."""
    return "tap" if world == "D" else f"tap-{world}"


def make(world: str, out: Path) -> None:
    """Render and decode a world and its acts at the tap, unless they are there."""
    if world == "D":
        better_student.make("D", out)
        better_student.make("tap", out)
        return
    seed = evidence.seed_of_b(evidence.committed(PROTOCOL, says)) if world == F else 0
    for folder, (changes, frames) in parts_of(world).items():
        settings = evidence.WORLD | changes
        rendered = synthetic.render(out / folder / "world", **settings, seed=seed, workers=1)
        data.prepare(
            evidence.segments_of(rendered),
            out / folder / "store",
            num_frames=frames,
            frame_size=evidence.PIXELS,
            clip_frames=None if changes else evidence.CLIP_FRAMES,
            clip_size=evidence.PIXELS,
            class_names=sorted(behaviour.VERBS),
            workers=1,
        )


def clips_of(world: str, out: Path, frames: int) -> dict[str, data.ClipStore]:
    """Return the clips on which students are compared; the acts at the tap are asked of four frames alone."""
    acts = "test" if world == F else "validation"
    found = {acts: data.ClipStore(out / world / "store").split(acts)}
    if world == F and frames == 1:
        found["half the coupling"] = data.ClipStore(out / f"half-{F}" / "store").split("test")
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


def path_of(world: str) -> Path:
    """Return the file of a world's lines."""
    return evidence.path_of(F if world == F else "optional_inputs")


def finished(world: str) -> dict[str, dict[str, Any]]:
    """Return the lines of a world by the name of the run. Exit if those of F are of another protocol."""
    lines = list(files.read_lines(path_of(world), "world", "name") if path_of(world).exists() else ())
    if world == F and any(line["protocol"] != evidence.committed(PROTOCOL, says) for line in lines):
        raise SystemExit(f"{path_of(world)}: has lines of another protocol than {PROTOCOL}; move them to another file")
    lines = [line for line in lines if line["world"] == world]
    if len(found := {line["name"]: line for line in lines}) < len(lines):
        raise SystemExit(f"{path_of(world)}: has two lines of one network; a cell is run once")
    return found


def plan_of(world: str) -> list[Run]:
    """Return the cells of a world; of A and D those that FORMULA asks for, after the lines that there are."""
    if world == F:
        return cells(evidence.agreed(PROTOCOL, says)["candidate"])
    first = [Run(name, SEEDS["D"][0], 4, TEACHER) for name in CHANGES if name != MOTION]
    more = going_on(by_cell("D"))
    names = [name for name in CHANGES if name in (*OWN, *more)] if more else []
    kinds = [(name, count) for count in (4, 1) for name in names if name != MOTION or count == 1]
    rest = [Run(name, seed, count, TEACHER) for seed in SEEDS[world] for name, count in kinds]
    return list(dict.fromkeys([*first, *rest])) if world == "D" else rest


def screen(world: str, out: Path, seeds: Sequence[int] | None, methods: Sequence[str]) -> None:
    """Train and ask the networks of these seeds, all if there are none, and methods, which have no line."""
    origin = {"commit": evidence.git("rev-parse", "HEAD"), "processor": tables.processor()}
    make(world, out)
    if world == F:
        origin["protocol"] = evidence.committed(PROTOCOL, says)
    for run in plan_of(world):
        if run.method in methods and (seeds is None or run.seed in seeds) and run.name not in finished(world):
            files.append_line(path_of(world), line_of(world, out, run) | origin)
            print(f"{world}, {run.name}: a line of {path_of(world)}", flush=True)


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


def going_on(cells: Cells) -> list[str]:
    """Return the candidates that go on to all seeds of both worlds; none while a line of the first seed is missing."""
    candidates = [name for name in CHANGES if name not in OWN]
    reached = [value(cells, name, 4, *NOT_FOLLOWED, {"D": SEEDS["D"][:1]}) for name in candidates]
    limit = sorted(reached)[-GO_ON]
    known = not np.isnan(reached).any()
    return [name for name, share in zip(candidates, reached, strict=True) if known and share >= limit]


def picked(cells: Cells) -> str:
    """Return the candidate that FORMULA picks, or why there is none."""
    kept = dict[str, float]()
    if not (candidates := going_on(cells)):
        return "nothing is picked while the first seed of world D lacks a line with four frames"
    for name in candidates:
        pairs = [(1, "both", WINNER, 0.5), (4, "both", WINNER, 0.5), (4, "frames", FRAMES, 2.0)]
        below = [
            value(cells, other, n, "validation", mix, SEEDS) - value(cells, name, n, "validation", mix, SEEDS) - most
            for n, mix, other, most in pairs
        ]
        reached = value(cells, name, 4, *NOT_FOLLOWED, SEEDS)
        if np.isnan([*below, reached]).any():
            return f"nothing is picked while {name} or what it is compared with lacks a line of A or D"
        if max(below) <= 0:
            kept[name] = reached
    return next((name for name in kept if kept[name] >= max(kept.values()) - 1), "none is picked")


def by_cell(*worlds: str) -> Cells:
    """Return the lines of worlds, by world, method and number of frames, and then by seed."""
    cells: dict[tuple[str, str, int], dict[int, dict[str, Any]]] = {}
    for world in worlds:
        for line in finished(world).values():
            key = world, line["run"]["method"], line["run"]["frames"]
            cells.setdefault(key, {})[line["run"]["seed"]] = line
    return cells


def table_of(cells: Cells, acts: Mapping[str, str]) -> tables.Table:
    """Return the accuracy of each network, mean of its seeds, by what it answers from; `acts` gives heads."""
    rows = []
    for (world, method, frames), some in cells.items():
        row = [world, method, "" if method == MOTION else str(frames)]
        for name, mix in itertools.product(acts, MIXES):
            kept = [line["right"][name][mix] for line in some.values() if mix in line["right"].get(name, {})]
            row.append(f"{statistics.mean(map(accuracy, kept)):.1f}" if kept else "")
        rows.append([*row, str(len(some))])
    heads = [f"{name}: {mix}" for name in acts.values() for mix in MIXES]
    return tables.Table(["world", "method", "N", *heads, "seeds"], rows)


def show(markdown: str | None) -> None:
    """Print the accuracy of each candidate, and which one is picked; write it into a document."""
    cells = by_cell("A", "D")
    acts = {"validation": "all", "tap, followed": "tap, followed", "tap, not followed": "not followed"}
    origin = evidence.machines([line for some in cells.values() for line in some.values()])
    title = "lab/optional_inputs.py, candidates"
    tables.report(table_of(cells, acts), title, markdown, sys.argv, origin=origin)
    print(picked(cells))


def difference(cells: Cells, candidate: str, goal: Goal) -> intervals.Interval | None:
    """Return by how much the candidate is better than what a goal compares it with; None while lines are missing."""

    def table(method: str, mix: str) -> dict[int, dict[str, float]]:
        lines = cells.get((F, method, 1 if method == MOTION else goal.frames), {})
        bits = {seed: contrasts.unpack(line["right"][goal.acts][mix]) for seed, line in lines.items()}
        return {seed: {who: 100 * float(np.mean(one)) for who, one in some.items()} for seed, some in bits.items()}

    own, others = table(candidate, goal.mix), [table(other, OWN.get(other, goal.mix)) for other in goal.others]
    seeds = sorted(set(own).intersection(*others))
    if not seeds:
        return None
    gaps = [
        [own[seed][who] - statistics.mean(other[seed][who] for other in others) for who in sorted(own[seed])]
        for seed in seeds
    ]
    return intervals.two_way(gaps)


def goals(cells: Cells, candidate: str) -> tables.Table:
    """Return the goals of the protocol, and whether they are reached."""
    found = [(goal, difference(cells, candidate, goal)) for goal in goals_of(candidate)]
    claims = [1.0 if gap is None else gap.p for goal, gap in found if goal.low == 0]
    adjusted, rows = iter(holm(claims)), []
    for goal, gap in found:
        p = shown(next(adjusted)) if goal.low == 0 else ""
        wanted = f"above {goal.low:+.1f}" + (f", mean {goal.mean:+.1f}" if goal.mean else "")
        row = [goal.acts, str(goal.frames), goal.mix, " and ".join(goal.others), wanted]
        held = "" if gap is None else "yes" if gap.low > goal.low and gap.mean >= (goal.mean or goal.low) else "no"
        rows.append([*row, "" if gap is None else str(gap), held, p, "" if gap is None else str(gap.seeds)])
    heads = ["acts", "N", f"{candidate}, from", "minus (the mean of)", "wanted", "points", "held", "p (Holm)", "seeds"]
    return tables.Table(heads, rows)


def at_the_tap(cells: Cells) -> tables.Table:
    """Return differences with four frames where the head does not follow: no goals, since they came after them."""
    rows, pairs = [], [(WINNER, "both", FRAMES), *((PLAIN, mix, FRAMES) for mix in ("both", "frames"))]
    for name, mix, other in pairs:
        gap = difference(cells, name, Goal(NOT_FOLLOWED[0], 4, mix, (other,), 0.0))
        rows.append([name, mix, other, "" if gap is None else str(gap), "" if gap is None else str(gap.seeds)])
    return tables.Table(["method", "from", "minus", "points", "seeds"], rows)


def report(markdown: str | None) -> None:
    """Print the tables of world F, or write them into a document."""
    cells, candidate = by_cell(F), evidence.agreed(PROTOCOL, says)["candidate"]
    origin = evidence.machines([line for some in cells.values() for line in some.values()])
    acts = {name: name for name in ("test", "half the coupling", "tap, followed", "tap, not followed")}
    parts = {f"goals of {one}": goals(cells, one) for one in dict.fromkeys([candidate, PLAIN])}
    parts |= {"the tap, not followed": at_the_tap(cells), "accuracy": table_of(cells, acts)}
    for name, table in parts.items():
        print(f"\n{name}")
        tables.report(table, f"lab/optional_inputs.py, {name}", markdown, sys.argv, origin=origin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("freeze")
    for name in ("show", "report"):
        tables.markdown_option(commands.add_parser(name))
    for name in ("make", "screen"):
        command = commands.add_parser(name)
        command.add_argument("world", choices=[*SEEDS, F])
        command.add_argument("--out", type=Path, required=True)
    command.add_argument("--seeds", type=int, nargs="+", help="of the networks; all if there are none")
    command.add_argument("--methods", nargs="+", choices=list(CHANGES), default=list(CHANGES))
    given = parser.parse_args()
    if given.command in ("show", "report"):
        {"show": show, "report": report}[given.command](given.markdown)
    elif given.command == "freeze":
        freeze()
    elif given.command == "make":
        make(given.world, given.out)
    else:
        screen(given.world, given.out, given.seeds, given.methods)


if __name__ == "__main__":
    main()
