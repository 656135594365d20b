"""Is a student that gets head motion as plain numbers better than the paper's? On a world that nobody has seen.

    python -m lab.better_student freeze                   # writes results/protocol-student.json; commit it
    python -m lab.better_student make D --out EV          # render and decode: half an hour on one core
    python -m lab.better_student run D --out EV --seeds 0 # train and evaluate the cells without a line
    python -m lab.better_student report --markdown results/better_student.md  # and figures/clocks
    python -m lab.better_student cost                     # multiply-adds and time at the paper's size

Candidates were compared on validation wearers of worlds A and A with half the coupling (results/head_motion.jsonl; the
code of the losers is in the history, benchmarks/head_motion.py). The protocol says how the winner was chosen, and names
two baselines, seeds and contrasts. The seed of world D is the first 32 bits of the protocol's SHA-256.

A cell is one trained network; it becomes a line of results/D.jsonl, or of its variant, as in `evidence.py`, with bits
for acts at the tap (an extra test set of the same people, of which the protocol's contrast counts those that the head
does not follow) and for head motion that comes late, whose windows are cut anew. `run D-later` adds what came after the
protocol, when the students of D are there: the second baseline on wrong clocks, and a third one.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egodistill import EgoDistill, data, inference
from egodistill.datasets.store import outputs_record
from egodistill.deploy import export
from egodistill.engine.batches import Augment
from egodistill.support import files, tables
from egodistill.world import behaviour, synthetic
from lab import audio, benches, contrasts, evidence, figures
from lab.benches import Run
from lab.contrasts import Outcome
from lab.evidence import path_of, segments_path, slug
from lab.evidence_report import KINDS, classes_of, holm, outcome_of, run_of_line, shared_seeds, shown
from lab.intervals import Interval
from lab.protocols import Method

Outcomes = dict[tuple[str, str, int], list[Outcome]]  # {(set of acts, method, number of frames): runs}
Pair = tuple[str, tuple[str, int], tuple[str, int]]  # (set of acts, (method, frames), (method, frames))
PROTOCOL = evidence.RESULTS / "protocol-student.json"
FIGURES = evidence.RESULTS.parent / "figures"
HALF, EXCHANGED = "D with half the coupling", "D with exchanged head motion"
LATER = "D later"  # what came after the protocol, and is described: on the clips of D
WORLDS: dict[str, dict[str, Any]] = {"D": {}, HALF: {"coupling": 0.5}, EXCHANGED: {}}
TAP = {"things": ["tap"], "test_acts": 2000, "train_acts": 1, "train_wearers": 1}
TAP |= {"validation_acts": 0, "validation_wearers": 0}
SHIFTS = (-1.0, -0.5, -0.2, -0.1, 0.1, 0.2, 0.5, 1.0)  # s
SLOWFAST, X3D = "slowfast-{seed}", "x3d-{seed}"
TEACHERS = evidence.TEACHERS | {X3D: evidence.OTHER_TEACHERS[X3D]}
PICTURES, BOTH = Augment(crop=0.2, jitter=0.3), Augment(crop=0.2, jitter=0.3, shift=0.05)

# The methods: the paper's recipe, the same with the winner's general tricks, the winner, and frames alone with them.
PAPER, TRICKS, WINNER, FRAMES = "Paper", "Paper with augmentation", "Spectrum", "Frames with augmentation"
ALL = (PAPER, TRICKS, WINNER, FRAMES)
CLOCKED = (PAPER, TRICKS, WINNER)  # tested with head motion that comes late
METHODS = [
    Method(PAPER, EgoDistill, pretrain=True),
    Method(TRICKS, functools.partial(EgoDistill, aggregator="concat"), pretrain=True),
    Method(WINNER, functools.partial(EgoDistill, imu_encoder="spectrum", aggregator="concat")),
    Method(FRAMES, functools.partial(EgoDistill, imu_encoder=None, aggregator="concat")),
]
# The general tricks are pictures that are cropped and tinted, and frames that have a place in time; `shift` is the
# winner's alone. Nine epochs of stage 2 take as many steps as six of each stage, because the batches of stage 1 are
# twice as large; frames alone have their tuned twelve.
RATE = {"learning_rate": 2e-3, "epochs": 6}
CHANGES: dict[str, dict[str, Any]] = {
    PAPER: RATE,
    f"stage 1 of {PAPER}": RATE,
    TRICKS: RATE | {"augment": PICTURES},
    f"stage 1 of {TRICKS}": RATE,
    WINNER: RATE | {"epochs": 9, "augment": BOTH},
    FRAMES: {"learning_rate": 1e-3, "epochs": 12, "augment": PICTURES},
    "VisIMU": RATE | {"augment": PICTURES},
    "ListenToLook": RATE | {"epochs": 12, "augment": PICTURES},
}
SETTINGS = replace(evidence.GENERAL, changes=CHANGES)
# Stage 1 does not train the image network. So the second baseline trains it for six epochs, the winner for nine; this
# one has nine, too, and moves head motion as the winner does.
MORE = "Paper with all tricks"
MORE_METHOD = Method(MORE, functools.partial(EgoDistill, aggregator="concat"), pretrain=True)
MORE_CHANGES = {MORE: RATE | {"epochs": 9, "augment": BOTH}, f"stage 1 of {MORE}": RATE}
MAIN, SMALL, FEW = 5, 3, 2  # seeds
# How the winner was chosen among the candidates that were screened, by numbers of validation wearers.
FORMULA = (
    "the largest sum of top-1 on A with 1 frame, A with 4 frames, and A with half the coupling with 1 frame, among "
    "those that with 4 frames are at most 5 points below frames alone in acts at the tap that the head does not "
    "follow; within 0.5 points of it, the one that is best in these acts"
)
# {parts: top-1 in % on A with 1 and 4 frames, with half the coupling, and in acts at the tap}; one or two seeds each.
SCREENED = {
    "frames alone, pictures changed": {"A, 1 frame": 58.4, "A, 4 frames": 77.7, "half, 1 frame": 58.05, "tap": 92.9},
    "paper": {"A, 1 frame": 75.45, "A, 4 frames": 84.6, "tap": 66.7},
    "paper, pictures changed": {"A, 1 frame": 75.8, "A, 4 frames": 84.85, "tap": 60.2},
    "spectrum, shift": {"A, 1 frame": 79.0, "A, 4 frames": 86.6, "half, 1 frame": 65.7, "tap": 84.9},
    "spectrum, shift, concat": {"A, 1 frame": 79.0, "A, 4 frames": 86.75, "half, 1 frame": 65.7, "tap": 91.1},
    "spectrum with dropout 0.3, shift, concat": {
        "A, 1 frame": 78.85,
        "A, 4 frames": 86.3,
        "half, 1 frame": 66.0,
        "tap": 92.3,
    },
    "spectrum, shift, concat, L_KD of frames": {
        "A, 1 frame": 78.15,
        "A, 4 frames": 86.45,
        "half, 1 frame": 63.95,
        "tap": 91.2,
    },
    "spectrum without dropout, concat, L_KD of frames": {
        "A, 1 frame": 78.55,
        "A, 4 frames": 86.35,
        "half, 1 frame": 66.95,
        "tap": 90.7,
    },
}
# Tested by Holm's procedure: (set of acts, (method, frames), (method, frames)); the first is claimed to be better.
PRIMARY = [
    ("D", (WINNER, 1), (PAPER, 1)),
    ("D", (WINNER, 1), (TRICKS, 1)),
    ("D", (WINNER, 4), (PAPER, 4)),
    ("D", (WINNER, 4), (TRICKS, 4)),
    (HALF, (WINNER, 1), (FRAMES, 1)),
    (HALF, (WINNER, 1), (PAPER, 1)),
    ("tap, not followed", (WINNER, 4), (PAPER, 4)),
]


# Beside them, with intervals and without a test.
DESCRIBED = [
    *(("D", (WINNER, n), (FRAMES, n)) for n in (1, 2, 4)),
    *(("D", (TRICKS, n), (FRAMES, n)) for n in (1, 4)),
    *(("D", (WINNER, n), (MORE, n)) for n in (1, 4)),
    ("D", (WINNER, 2), (PAPER, 2)),
    ("D", (WINNER, 4), (WINNER, 2)),
    (HALF, (WINNER, 1), (TRICKS, 1)),
    *(
        ("tap, not followed", (one, 4), (two, 4))
        for one, two in ((WINNER, TRICKS), (WINNER, MORE), (WINNER, FRAMES), (PAPER, FRAMES))
    ),
    ("tap, followed", (WINNER, 4), (PAPER, 4)),
    ("D, X3D", (WINNER, 1), (PAPER, 1)),
    ("D, X3D", (WINNER, 1), (FRAMES, 1)),
    (EXCHANGED, (WINNER, 1), (FRAMES, 1)),
]


# ---------------------------------------------------------------------------------------------------------------
# The protocol


def content() -> dict[str, Any]:
    """Return what the protocol says: everything that decides the results but the code itself."""
    return {
        "formula": FORMULA,
        "screened": SCREENED,
        "worlds": {name: evidence.WORLD | changed for name, changed in WORLDS.items()},
        "tap": evidence.WORLD | TAP,
        "things": [asdict(thing) for thing in behaviour.THINGS],
        "general": evidence.GENERAL.record(),
        "methods": [
            method.record()
            | {"build": str(method.build).replace("imu_encoder=None", "use_imu=False")}  # as 0.5 wrote it
            for method in METHODS
        ],
        "changes": SETTINGS.record()["changes"],
        "teachers": {name: recipe.record() for name, recipe in TEACHERS.items()},
        "primary": PRIMARY,
        "shifts": SHIFTS,
        "cells": [[world, asdict(run)] for world, run in cells()],
    }


def cells() -> list[tuple[str, Run]]:
    """Return all cells, in the order in which they are trained."""
    plan: list[tuple[str, Run]] = []

    def add(world: str, seeds: int, *kinds: tuple[str, int], teacher: str = SLOWFAST) -> None:
        for seed in range(seeds):
            if world != EXCHANGED:  # which has the teachers of D
                plan.append((world, Run("teacher", seed, teacher=teacher)))
            plan.extend((world, Run(method, seed, n, teacher)) for method, n in kinds)

    add("D", MAIN, *((method, n) for n in (1, 4) for method in ALL), (PAPER, 2), (WINNER, 2), (FRAMES, 2))
    add(HALF, SMALL, *((method, 1) for method in ALL))
    add(EXCHANGED, SMALL, (WINNER, 1), (FRAMES, 1))
    add("D", FEW, (PAPER, 1), (WINNER, 1), (FRAMES, 1), teacher=X3D)
    plan += [("D", Run("VisIMU")), ("D", Run("ListenToLook", teacher=SLOWFAST))]
    return list(dict.fromkeys(plan))


def later_cells() -> list[tuple[str, Run]]:
    """Return the cells that came after the protocol: the second baseline on wrong clocks, and with all tricks.

    They were planned for three seeds. Those of `MAIN` were added when the third left the lead over all tricks open.
    """
    kinds = [(TRICKS, 1), (MORE, 1), (MORE, 4)]
    return [(LATER, Run(method, seed, n, SLOWFAST)) for seed in range(MAIN) for method, n in kinds]


def digest() -> str:
    """Return the SHA-256 of the protocol, as `evidence.committed()` does."""
    return evidence.committed(PROTOCOL, lambda record: content())


def seed() -> int:
    """Return the seed of world D and its variants."""
    return evidence.seed_of_b(evidence.sha_of(PROTOCOL))


# ---------------------------------------------------------------------------------------------------------------
# Worlds, and clips that are for evaluation only


def source_of(world: str) -> str:
    """Return the world whose clips a world has."""
    return "D" if world == LATER else world


def world_of(world: str, out: Path) -> synthetic.World:
    """Render a world, unless it is there; "tap" is the extra test set of D."""
    digest()
    folder = "D" if world == EXCHANGED else slug(world)
    changes = TAP if world == "tap" else WORLDS[world]
    return synthetic.render(out / folder / "world", **evidence.WORLD | changes, seed=seed(), workers=1)


def make(world: str, out: Path) -> Path:
    """Render and decode a world; return the folder of its store."""
    world = source_of(world)
    rendered = world_of(world, out)
    segments = evidence.segments_of(rendered)
    if world == EXCHANGED:
        segments = evidence.exchange(segments, evidence.nouns(rendered.annotations))
    store = data.prepare(
        segments,
        out / slug(world) / "store",
        num_frames=(1, 2, 4) if world == "D" else 4 if world == "tap" else 1,
        frame_size=evidence.PIXELS,
        ends=world != "tap",
        clip_frames=None if world == "tap" else evidence.CLIP_FRAMES,
        clip_size=evidence.PIXELS,
        class_names=sorted(behaviour.VERBS),
        workers=1,
    )
    if world == "D":
        audio.add_sound(store)  # for ListenToLook
    return store.path


def recordings_of(world: str, out: Path) -> list[synthetic.RenderedRecording]:
    """Return the recordings of a world that is rendered, from which its acts can be drawn again."""
    settings = files.read_json(out / slug(world) / "world" / "world.json")
    settings |= {"size": tuple(settings["size"]), "things": tuple(thing["look"] for thing in settings["things"])}
    return synthetic.Request(**settings).recordings()


def head_follows(world: str, out: Path, clips: data.ClipStore) -> np.ndarray:
    """Return whether the head follows the hand in the act of each clip, bool [n]; the acts are drawn again."""
    plans = {recording.name: recording.draw().acts for recording in recordings_of(world, out)}
    acts = [plans[video][int(number)] for video, number in (clip["id"].rsplit("_", 1) for clip in clips.clips)]
    if [behaviour.VERBS[act.verb] for act in acts] != [clips.class_names[label] for label in clips.labels]:
        raise SystemExit("the acts that are drawn today are not those of the store")
    return np.array([any(act.turn) for act in acts])


@functools.cache
def shifted(world: str, out: Path, shift: float) -> np.ndarray:
    """Return the head motion of the test clips if it comes late by `shift` seconds, float32 [n, 422, 6]."""
    store = data.ClipStore(out / slug(world) / "store")
    clips = store.split("test")
    own = {segment.id: segment for segment in evidence.segments_of(world_of(world, out))}
    read = functools.cache(lambda path, offset: data.read_imu(path).on_clock(offset))
    windows = []
    for clip in clips.clips:
        segment = own[clip["id"]]
        motion = read(segment.imu or segment.video, segment.imu_offset + shift)
        windows.append(motion.window(clip["start"], min_coverage=0.0))
    return np.stack(windows)


# ---------------------------------------------------------------------------------------------------------------
# Cells


def bench_of(world: str, out: Path) -> benches.Bench:
    store, runs = out / slug(source_of(world)) / "store", out / slug(world) / "runs"
    methods, settings = METHODS, SETTINGS
    if world == LATER:
        methods, settings = [*METHODS, MORE_METHOD], replace(SETTINGS, changes=CHANGES | MORE_CHANGES)
    options = {"validation": "validation", "teachers": TEACHERS, "methods": methods}
    return benches.Bench(str(store), str(runs), settings, **options)


def finished(world: str) -> dict[str, dict[str, Any]]:
    """Return the lines of a world by the name of the run."""
    return evidence.lines_of(world, PROTOCOL, digest())


def run(world: str, out: Path, seeds: Sequence[int], minutes: float) -> None:
    """Train and evaluate the cells of a world and of these seeds that have no line."""
    origin = {"commit": evidence.git("rev-parse", "HEAD"), "protocol": digest(), "processor": tables.processor()}
    make(world, out)
    bench = bench_of(world, out)
    plan, done = [*cells(), *later_cells()], finished(world)
    own = [one for where, one in plan if where == world and one.seed in seeds]
    todo = sorted((one for one in own if one.name not in done), key=lambda one: seeds.index(one.seed))
    print(f"{world}: {len(own)} cells of these seeds, {len(todo)} without a line")
    end = time.monotonic() + 60 * minutes
    for number, one in enumerate(todo):
        if time.monotonic() > end:
            print(f"Time is up before {one.name} and {len(todo) - number - 1} more; the same command continues.")
            return
        if world in (EXCHANGED, LATER):
            take_over(out, bench, one)
        bench.run([one])
        files.append_line(path_of(world), line_of(world, out, bench, one) | origin)


def take_over(out: Path, bench: benches.Bench, run: Run) -> None:
    """Copy what a run shares with D: its teacher and first image network, and a student that is only tested again."""
    shared = [Run("teacher", run.seed, teacher=SLOWFAST), Run("start", run.seed)]
    for one in [*shared, run] if run.method == TRICKS else shared:
        evidence.reuse(bench_of("D", out), bench, one)


def line_of(world: str, out: Path, bench: benches.Bench, run: Run) -> dict[str, Any]:
    """Return the line of a finished cell; keep which test segments the world has."""
    if not segments_path(source_of(world)).exists():
        shutil.copy(Path(bench.out, contrasts.SEGMENTS_FILE), segments_path(world))
    result = bench.result(run)
    line = {"name": run.name, "run": asdict(run)}
    line |= {name: result[name] for name in ("top1", "seconds", "precision", "test", "correct")}
    if run.teacher:
        line["teacher"] = outputs_record(data.ClipStore(bench.store), run.outputs)["fingerprint"]
    if run.method in (*ALL, MORE):
        model = bench.load(run).eval()
        if source_of(world) == "D" and run.frames == 4:
            clips = data.ClipStore(make("tap", out)).split("test")
            follows, (right,) = head_follows("tap", out, clips), right_of(model, clips)
            line["tap"] = {
                name: contrasts.pack(contrasts.split_by_wearer(right[mask], np.array(clips.wearers)[mask].tolist()))
                for name, mask in (("followed", follows), ("not followed", ~follows))
            }
        tested = (TRICKS,) if world == LATER else (PAPER, WINNER)
        if source_of(world) == "D" and run.frames == 1 and run.teacher == SLOWFAST and run.method in tested:
            clips = data.ClipStore(bench.store).split("test")
            moved = right_of(model, clips, [shifted("D", out, shift) for shift in SHIFTS])
            line["clock"] = {
                str(shift): contrasts.pack(contrasts.split_by_wearer(right, clips.wearers))
                for shift, right in zip(SHIFTS, moved, strict=True)
            }
    return line


@torch.no_grad()
def right_of(model: Any, clips: data.ClipStore, motions: Sequence[np.ndarray] | None = None) -> list[np.ndarray]:
    """Return which clips a student has right, bool [n], with each of some head motions; None: with their own."""
    frames = f"frames_{model.num_frames}"
    if motions is None:
        motions = [clips.read("imu", range(len(clips)))]
    said: list[list[np.ndarray]] = [[] for _ in motions]
    for rows in np.array_split(np.arange(len(clips)), len(clips) // 64 + 1):
        image = model.aggregate(model.encode_frames(torch.from_numpy(clips.read(frames, rows))))
        for answers, motion in zip(said, motions, strict=True):
            head = model.encode_imu(torch.from_numpy(motion[rows])) if "imu" in model.inputs else None
            answers.append(model.fuse(image, head).logits.argmax(1).numpy())
    return [np.concatenate(answers) == clips.labels for answers in said]


# ---------------------------------------------------------------------------------------------------------------
# Report


def outcomes() -> Outcomes:
    """Return the outcomes by set of acts, method and number of frames: of worlds, acts at the tap, and late clocks."""
    found: Outcomes = {}
    for world in (*WORLDS, LATER):
        if not path_of(world).exists():
            continue
        lines, source = finished(world).values(), source_of(world)
        classes = classes_of(source, lines)
        for line in lines:
            run = run_of_line(line)
            where = source if run.teacher in (None, SLOWFAST) else f"{source}, X3D"
            again = world == LATER and run.method in ALL  # a student of D, which is tested once more
            sets: dict[str, Any] = {} if again else {where: (line["correct"], classes)}
            sets |= {f"tap, {name}": (bits, None) for name, bits in line.get("tap", {}).items()}
            sets |= {f"clock, {shift} s": (bits, classes) for shift, bits in line.get("clock", {}).items()}
            for name, (bits, known) in sets.items():
                outcome = outcome_of(line, bits, known, None if known else "tap")
                found.setdefault((name, run.method, run.frames), []).append(outcome)
    return found


def accuracies(found: Outcomes) -> tables.Table:
    """Return the accuracy of each method on each set of acts, by kind of verb where there are several."""
    rows = []
    for (where, method, n), some in found.items():
        if not where.startswith("clock"):
            kinds = [kind_of(some, kind) for kind in behaviour.KINDS]
            frames = "" if method == "teacher" else str(n)
            rows.append([where, method, frames, f"{contrasts.accuracy(some):.1f}", *kinds, str(len(some))])
    return tables.Table(["acts", "method", "N", "top-1 (%)", *behaviour.KINDS, "seeds"], rows)


def kind_of(some: Sequence[Outcome], kind: str) -> str:
    """Return the accuracy on a kind of verb in %; "" where a wearer has no act of it."""
    every = list((some[0].classes or {}).values())
    known = bool(every) and all(not set(KINDS[kind]).isdisjoint(names) for names in every)
    return f"{contrasts.accuracy(some, groups={kind: KINDS[kind]}).mean:.1f}" if known else ""


def differences(found: Outcomes, pairs: Sequence[Pair], *, tested: bool) -> tables.Table:
    """Return the table of differences that have lines, by Holm's procedure if they are tested."""
    gaps = [(where, one, two, gap) for where, one, two in pairs if (gap := gap_of(found, where, one, two))]
    missing = [1.0] * (len(pairs) - len(gaps))  # so that no contrast gains by lines that are not there yet
    adjusted = holm([gap.p for *_, gap in gaps] + missing)[: len(gaps)] if tested else []
    said = [[shown(p)] for p in adjusted] or [[]] * len(gaps)
    rows = [
        [where, f"{one[0]}, N = {one[1]}", f"{two[0]}, N = {two[1]}", str(gap), *p, str(gap.seeds)]
        for (where, one, two, gap), p in zip(gaps, said, strict=True)
    ]
    return tables.Table(["acts", "method", "minus", "points", *(["p (Holm)"] if tested else []), "seeds"], rows)


def clocked(found: Outcomes, method: str) -> dict[float, list[Outcome]]:
    """Return the outcomes of a method with one frame by how late its head motion comes (s), each of the same seeds."""
    late = {shift: found.get((f"clock, {shift} s", method, 1), []) for shift in SHIFTS}
    plain, _ = shared_seeds(found.get(("D", method, 1), []), late[SHIFTS[0]])
    return dict(sorted({0.0: plain, **late}.items())) if plain else {}


def clocks(found: Outcomes) -> tables.Table:
    """Return the accuracy if head motion comes late, and how much of the gain over frames alone is left."""
    rows, frames = [], found.get(("D", FRAMES, 1), [])
    for method in CLOCKED:
        curve = clocked(found, method)
        gains = {
            shift: contrasts.difference(*both).mean
            for shift, some in curve.items()
            if (both := shared_seeds(some, frames))[0]
        }
        for shift, gain in gains.items():
            share = f"{gain / gains[0.0]:.0%}" if gains[0.0] else ""
            accuracy = f"{contrasts.accuracy(curve[shift]):.1f}"
            rows.append([method, f"{shift:+g}" if shift else "0", accuracy, f"{gain:+.1f}", share])
    return tables.Table(
        ["method, N = 1", "head motion late by (s)", "top-1 (%)", "gain over frames alone", "kept"], rows
    )


def clock_figure(found: Outcomes, stem: Path) -> list[Path]:
    """Draw the accuracy if head motion comes late or early, beside frames alone; return the .png and .svg."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(6.4, 4), layout="constrained")
    axes = drawing.subplots()
    styles = dict(zip(CLOCKED, (("#0072B2", "s", "--"), ("#56B4E9", "v", ":"), ("#D55E00", "o", "-")), strict=True))
    for number, (method, (color, marker, line)) in enumerate(styles.items()):
        if curve := clocked(found, method):
            some = [contrasts.accuracy(outcomes) for outcomes in curve.values()]
            spread = [[one.mean - one.low for one in some], [one.high - one.mean for one in some]]
            beside = [shift + 0.012 * (number - 1) for shift in curve]
            style = {"color": color, "marker": marker, "ls": line, "capsize": 3, "label": method}
            axes.errorbar(beside, [one.mean for one in some], yerr=spread, **style)
    alone = contrasts.accuracy(found["D", FRAMES, 1])
    axes.axhspan(alone.low, alone.high, color="#777777", alpha=0.25, lw=0)
    axes.axhline(alone.mean, color="#777777", lw=0.8, label=FRAMES)
    axes.set(xlabel="head motion comes late by (s; negative: early)", ylabel="top-1 (%)")
    axes.set_xticks([-1, -0.5, -0.2, 0, 0.2, 0.5, 1])
    axes.set_title("World D, one frame: what a wrong clock of the IMU costs", fontsize=11)
    axes.grid(alpha=0.35)
    axes.legend(frameon=False)
    return figures.save(drawing, stem)


def report(markdown: str | None = None) -> None:
    """Print the tables, or write them into a document, and draw the figure of wrong clocks."""
    found = outcomes()
    lines = [line for world in WORLDS if path_of(world).exists() for line in finished(world).values()]
    print(f"{len(lines)} of the {len(cells())} networks of the protocol have lines")
    origin = evidence.machines(lines)
    for name, table in {
        "accuracies": accuracies(found),
        "primary contrasts": differences(found, PRIMARY, tested=True),
        "other differences": differences(found, DESCRIBED, tested=False),
        "wrong clocks": clocks(found),
    }.items():
        print(f"\nworld D: {name}")
        tables.report(table, f"lab/better_student.py, world D: {name}", markdown, sys.argv, origin=origin)
    if ("D", FRAMES, 1) in found:
        print("Wrote " + ", ".join(map(str, clock_figure(found, FIGURES / "clocks"))))


def gap_of(found: Outcomes, where: str, one: tuple[str, int], two: tuple[str, int]) -> Interval | None:
    """Return the interval of a difference over the seeds that both have; None without lines."""
    first, second = shared_seeds(found.get((where, *one), []), found.get((where, *two), []))
    return contrasts.difference(first, second) if first else None


def cost(
    markdown: str | None = None,
    rounds: int = 300,
    forms: Sequence[str] = ("export", "aoti"),
    precisions: Sequence[str] = ("fp32", "bf16"),
) -> None:
    """Print what head motion costs at the paper's size: multiply-adds, and times of the exported motion program.

    The multiply-adds include those of the first fusion layer for its numbers. Programs of both students answer in turn,
    for one clip at a time.
    """
    students = {"paper": {}, "spectrum": {"imu_encoder": "spectrum"}, "frames": {"imu_encoder": None}}
    models = {name: EgoDistill(62, image_weights=None, **options).eval() for name, options in students.items()}
    macs = {name: inference.count_macs(model, torch.device("cpu")) for name, model in models.items()}
    rows = [[name, f"{(macs[name] - macs['frames']) / 1e6:.2f}"] for name in ("paper", "spectrum")]
    name = "lab/better_student.py, head motion at the paper's size"
    tables.report(tables.Table(["head motion", "million multiply-adds"], rows), name, markdown, sys.argv)
    rows, inputs = [], (torch.zeros(1, 1, 512), torch.randn(1, 422, 6))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for form, precision in itertools.product(forms, precisions):
            programs, seconds = {}, {"paper": [], "spectrum": []}
            for name in seconds:
                path = Path(folder, f"{name}-{form}-{precision}.pt2")
                export.export_pair(models[name], path, format=form, precision=precision, batch_size=1)
                programs[name] = export.load_pair(path)
            for number, (name, program) in itertools.product(range(rounds), programs.items()):
                start = time.perf_counter()
                program.fuse(program.aggregate(inputs[0]), program.encode_imu(inputs[1]))
                if number >= rounds // 10:  # warm
                    seconds[name].append(time.perf_counter() - start)
            paper, ours = (1e3 * statistics.median(seconds[name]) for name in ("paper", "spectrum"))
            rows.append([form, precision, f"{paper:.2f}", f"{ours:.2f}", f"{ours / paper:.2f}"])
    table = tables.Table(["motion program", "precision", "paper, ms", "spectrum, ms", "ratio"], rows)
    tables.report(table, "lab/better_student.py, exported motion program", markdown, sys.argv)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["freeze", "make", "run", "report", "cost"])
    parser.add_argument("world", nargs="?", choices=[*map(slug, WORLDS), slug(LATER), "tap"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(MAIN)))
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no cell after this time")
    tables.markdown_option(parser)
    given = parser.parse_args()
    world = next((one for one in (*WORLDS, LATER, "tap") if slug(one) == given.world), None)
    if given.command == "freeze":
        evidence.write_protocol(PROTOCOL, content())
    elif given.command == "report":
        report(given.markdown)
    elif given.command == "cost":
        cost(given.markdown)
    elif world is None or given.out is None:
        parser.error(f"{given.command} needs a world and --out")
    elif given.command == "run" and world == "tap":
        parser.error("no network is trained on tap: `run D` evaluates its students there")
    elif given.command == "make":
        make(world, given.out)
    else:
        run(world, given.out, given.seeds, given.minutes)


if __name__ == "__main__":
    sys.exit(main())
