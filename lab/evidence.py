"""Which method is better on the rendered world: settings chosen on one set of wearers, tested once on others, twice.

    python -m lab.evidence make A --out EV                # render and decode world A, hours before the rest
    python -m lab.evidence teachers --out EV              # A's first teachers, on A's validation wearers
    python -m lab.evidence tune --out EV                  # settings of each method, on the same wearers
    python -m lab.evidence freeze                         # writes results/protocol.json; commit it
    python -m lab.evidence plan                           # cells that are left, and their hours
    python -m lab.evidence run --out EV --minutes 150     # trains and evaluates them, main claims first
    python -m lab.evidence curve --out EV                 # teachers that learn from a part of A's clips
    python -m lab.evidence lines                          # the published lines, and the hours to make each again
    python -m lab.evidence run --out EV --again A/seed-0/visimu-n1         # makes this one again, to compare
    python -m lab.evidence_report --markdown results/evidence_report.md    # tables, from results/*.jsonl alone

World A has wearers for training, validation and test; settings are chosen on its validation wearers, and its test
wearers are evaluated by `run` only, which refuses to start without a committed protocol. The seed of world B is the
first 32 bits of the protocol's SHA-256, so nobody has seen B when the protocol is written.

A cell is one trained network: a world, a method, a number of frames and a seed, which fixes initial weights, data order
and the teacher. It becomes a line of results/WORLD.jsonl, with the commit, the hash of the protocol, and one bit for
each test segment. Finished cells are not repeated, so the work can be spread over days: commit the lines as they come.
`run` begins no group of cells after `--minutes`; with `--seeds`, `--parts`, `--worlds` and `--name` it trains these
alone, such as seeds whose teachers a machine has.

`run --again` trains the cell of a published line again, in a folder that need not hold anything, and prints how both
lines agree. The new line goes to EV/again/WORLD.jsonl. The published one stays, unless `--replace` is given.
"""

from __future__ import annotations

import argparse
import csv
import difflib
import hashlib
import itertools
import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egodistill import data, inference
from egodistill.datasets.store import outputs_record
from egodistill.engine import models
from egodistill.engine.batches import Augment
from egodistill.support import files, tables
from egodistill.training import Training
from egodistill.world import behaviour, synthetic
from lab import audio, benches, contrasts, demo, options, paper
from lab.benches import Run
from lab.protocols import PROTOCOLS, Protocol, TeacherRecipe

RESULTS = Path(__file__).resolve().parent.parent / "results"
PIXELS, CLIP_FRAMES, FRAMES = 64, 16, (1, 2, 4, 8)
WORLD = {
    "train_acts": 4800,
    "validation_acts": 2000,
    "test_acts": 4000,
    "train_wearers": 24,
    "validation_wearers": 10,
    "test_wearers": 20,
}
# {world: changes of WORLD}; the seeds of A and its variants are 0, that of B comes from the protocol.
PROTOCOL_WORLDS: dict[str, dict[str, Any]] = {
    "A": {"untrimmed": 10},
    "B": {},
    "A with clean labels": {"label_noise": 0.0},
    "A with half the coupling": {"coupling": 0.5},
    # The videos and teachers of A, prepared in other ways.
    "A with exchanged head motion": {"untrimmed": 10},
    "A with other frames": {"untrimmed": 10},
    "A with frames of any age": {"untrimmed": 10},
}
EXCHANGED, OTHER_FRAMES, ANY_AGE = list(PROTOCOL_WORLDS)[-3:]
BLURRED = "A with blurred pictures"  # came after the protocol, and is described
CLEAN = "A with clean labels"
# {world in which VisIMU learns as a teacher does: the world whose clips it has}. They came later, too.
AUGMENTED_RIVAL = {"A with an augmented VisIMU": "A", f"{CLEAN} and an augmented VisIMU": CLEAN}
WORLDS = (
    PROTOCOL_WORLDS
    | {BLURRED: {"shutter": 1 / 50}}
    | {world: PROTOCOL_WORLDS[source] for world, source in AUGMENTED_RIVAL.items()}
)
CONTROLS = (EXCHANGED, CLEAN, *AUGMENTED_RIVAL, "A with half the coupling", BLURRED)
BINS = 8  # frames of random age of a test clip, one in each part of the time before its end
FRAME_OPTIONS = {  # of `prepare()`
    OTHER_FRAMES: {"num_frames": 4, "sampling": ["random", "first", "last", "centre"]},
    ANY_AGE: {"num_frames": (1, 2, BINS), "sampling": "ages"},
}
RENDER_HOURS, DECODE_HOURS = 0.7, 0.3  # core hours that a world took on an Intel Xeon
MAIN, SMALL = 5, 3  # seeds of the main comparison, and of the others
SHARES = (0.1, 0.25, 1.0)  # of the training clips that have outputs of the teacher, for what stage 1 gives
TEACHER = "slowfast-{seed}"
# Image networks twice as wide as the demo's, so that the order of costs is the paper's: EgoDistill, AdaFuse, STTS.
WIDTH = 32
STUDENT = replace(PROTOCOLS["demo"].recipe.student, image_encoder=f"resnet10x{WIDTH}")
GENERAL = replace(
    PROTOCOLS["demo"],
    recipe=replace(PROTOCOLS["demo"].recipe, student=STUDENT),
    adafuse=replace(PROTOCOLS["demo"].adafuse, width=WIDTH),
    stts=replace(PROTOCOLS["demo"].stts, width=2 * WIDTH),
    listen_to_look=replace(PROTOCOLS["demo"].listen_to_look, width=WIDTH),
)
AUGMENTED = {"augment": Augment(crop=0.2, jitter=0.3), "label_smoothing": 0.1}
TEACHERS = {
    TEACHER: TeacherRecipe(
        "slowfast_8x8_r50",
        Training(
            epochs=8,
            learning_rate=2e-3,
            batch_size=16,
            schedule="cosine",
            warmup_epochs=1.5,
            **AUGMENTED,
        ),
        {"width": 48, "beta": 4, "depths": (1, 1, 1, 1), "stem_size": 3, "dropout": 0.3},
    )
}
# Table 2, not in the protocol: the demo's other teachers, with the same augmentation. MotionFormer has smaller patches
# and trains for longer, because it does not fit with the demo's (30.8 % on A). MViT has two settings: the demo's 12
# epochs are too few for some seeds (seed 2: 61.6 %, with 20 epochs 79.0).
NARROW = {name: replace(how, training=replace(how.training, **AUGMENTED)) for name, how in demo.DEMO.teachers.items()}
OTHER_TEACHERS = {
    "x3d-{seed}": NARROW["x3d"],
    "mvit-{seed}": NARROW["mvit"],
    "mvit-long-{seed}": replace(NARROW["mvit"], training=replace(NARROW["mvit"].training, epochs=20)),
    "motionformer-p8-{seed}": replace(
        NARROW["motionformer"],
        training=replace(NARROW["motionformer"].training, epochs=28),
        options=NARROW["motionformer"].options | {"patch": 8, "tubelet": 4},
    ),
}
CURVE = (4, 2)  # teachers also learn from every fourth and every second clip, for a curve over clips
# Settings that are tried for each method on half the clips; a best one at the edge is followed by the next of its row.
# With all clips, the test trains for half as many epochs, which are as many steps.
RATES, EPOCHS = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3), (6, 12, 24)
EVERY = 2  # settings are chosen on every second clip
TRIED = [(rate, epochs) for rate in RATES[1:4] for epochs in EPOCHS[:2]]
TUNED = {  # {method: number of frames with which its settings are chosen}
    "EgoDistill": 1,
    "VisOnly-Distill": 1,
    "VisIMU": 1,
    "VisOnly": 1,
    "ListenToLook": 1,
    "AdaFuse": 4,
    "STTS T0.5-S0.7": 4,
}
# The primary contrasts, tested by Holm's procedure in each world: (method, frames) better than (method, frames).
PRIMARY = [
    *((("EgoDistill", n), ("VisOnly-Distill", n)) for n in (1, 2, 4)),
    (("EgoDistill", 1), ("VisIMU", 1)),
    (("EgoDistill", 1), ("VisOnly", 1)),
    (("EgoDistill", 2), ("AdaFuse", 4)),
    (("EgoDistill", 2), ("STTS T0.5-S0.7", 4)),
    (("EgoDistill", 2), ("ListenToLook", 4)),
    (("EgoDistill", 4), ("EgoDistill", 1)),
]


# ---------------------------------------------------------------------------------------------------------------
# Worlds and benches


def render(world: str, out: Path) -> synthetic.World:
    """Render a world, unless it is there."""
    if world == "B":
        committed_digest()
    settings = WORLD | WORLDS[world] | {"seed": seed_of(world)}
    return synthetic.render(out / slug(source_of(world)) / "world", **settings)


def segments_of(rendered: synthetic.World) -> list[data.Segment]:
    """Return the annotated segments of a rendered world, with its splits by wearer."""
    return data.read_epic_kitchens(
        rendered.annotations,
        rendered.root,
        evaluation_wearers=rendered.test_wearers,
        validation_wearers=rendered.validation_wearers,
    )


def make(world: str, out: Path) -> Path:
    """Render a world and decode its clips; return the folder of the store."""
    if world in AUGMENTED_RIVAL:
        return make(source_of(world), out)
    rendered = render(world, out)
    segments = segments_of(rendered)
    if world == EXCHANGED:
        segments = exchange(segments, nouns(rendered.annotations))
    store = data.prepare(
        segments,
        out / slug(world) / "store",
        **FRAME_OPTIONS.get(world, {"num_frames": FRAMES}),
        frame_size=PIXELS,
        clip_frames=CLIP_FRAMES,
        clip_size=PIXELS,
        class_names=sorted(behaviour.VERBS),
    )
    audio.add_sound(store)
    return store.path


def source_of(world: str) -> str:
    """Return the world whose videos and teachers a world has: itself, or the one that it varies."""
    return "A" if world in (EXCHANGED, OTHER_FRAMES, ANY_AGE) else AUGMENTED_RIVAL.get(world, world)


def truth_of(world: str, out: Path) -> Path:
    """Return the table of the true verbs of a world that `make()` rendered."""
    return out / slug(world) / "world" / "true_verbs.csv"


def slug(world: str) -> str:
    """Return the name of a world in paths."""
    return world.replace(" ", "-")


def nouns(annotations: Path) -> dict[str, str]:
    """Return the thing of each segment; wrong labels are wrong in the verb alone."""
    with open(annotations, newline="", encoding="utf-8") as file:
        return {row["narration_id"]: row["noun"] for row in csv.DictReader(file)}


def exchange(segments: Sequence[data.Segment], things: Mapping[str, str]) -> list[data.Segment]:
    """Give each segment the head motion of another one of the same thing, wearer and split, as a control."""
    alike: dict[tuple[str, str | None, str], list[int]] = {}
    for number, segment in enumerate(segments):
        alike.setdefault((things[segment.id], segment.wearer, segment.split), []).append(number)
    found, rng = list(segments), np.random.default_rng(0)
    for numbers in alike.values():
        order = rng.permutation(numbers).tolist()
        for number, other in zip(order, order[1:] + order[:1], strict=True):
            own, source = segments[number], segments[other]
            shift = (own.start + own.stop - source.start - source.stop) / 2  # from the other's middle to this one's
            found[number] = replace(own, imu=source.imu, imu_offset=source.imu_offset + shift)
    return found


def trained(world: str, out: Path, run: Run) -> Any:
    """Return the trained model of a run, in evaluation mode."""
    return models.load_any(bench_of(world, out, settings_of(world)).path(run)).eval()


def settings_of(world: str) -> Protocol:
    """Return the settings of the protocol, with what a world changes of them."""
    changes = read_protocol()["changes"]
    if world in AUGMENTED_RIVAL:
        changes |= {"VisIMU": changes["VisIMU"] | AUGMENTED}
    return replace(GENERAL, changes=changes)


def bench_of(world: str, out: Path, protocol: Protocol, /, **options: Any) -> benches.Bench:
    """Return the bench of a world; the best epoch of its teachers is chosen on the validation wearers."""
    folder, store = out / slug(world), out / slug(AUGMENTED_RIVAL.get(world, world)) / "store"
    teachers = TEACHERS | (OTHER_TEACHERS if world == "A" else {})
    options = {"out": str(folder / "runs"), "validation": "validation", "teachers": teachers} | options
    return benches.Bench(str(store), protocol=protocol, **options)


# ---------------------------------------------------------------------------------------------------------------
# Choosing settings


def teacher_bench(out: Path) -> benches.Bench:
    """Return the bench of world A on which teachers are looked at before the protocol: on the validation wearers."""
    return bench_of("A", out, GENERAL, out=str(out / "teachers"), test="validation")


def train_teachers(out: Path, seeds: Sequence[int], jobs: int) -> None:
    """Train teachers of world A and print their accuracy on the validation wearers; `run` takes them over."""
    bench = teacher_bench(out)
    runs = [Run("teacher", seed, teacher=TEACHER) for seed in seeds]
    bench.run(runs, jobs)
    for run in runs:
        repeated = labels_repeated(bench, run, truth_of("A", out))
        print(f"{run.outputs}: {100 * bench.result(run)['top1']:.1f} %, repeats {100 * repeated:.1f} % of wrong labels")


def tune(out: Path, methods: Sequence[str]) -> None:
    """Append a line for each of the methods and settings that has none: its accuracy on A's validation wearers.

    Students learn from every second clip, with the outputs of one teacher that was trained on the same clips. Two
    processes may tune different methods at once, after a first call without methods has trained the teacher.
    """
    path = RESULTS / "tuning.jsonl"
    teacher = "tuning-{seed}"
    first = bench_of(
        "A",
        out,
        GENERAL,
        out=str(out / "tuning" / "start"),
        test="validation",
        every=EVERY,
        teachers={teacher: TEACHERS[TEACHER]},
    )
    distilled = not methods or not set(methods).isdisjoint(benches.DISTILLED)
    first.run([*([Run("teacher", teacher=teacher)] if distilled else []), Run("start")])
    for method in methods:
        frames = TUNED[method]
        done = {(line["learning_rate"], line["epochs"]): line["top1"] for line in tuning_lines(method)}
        while missing := [setting for setting in wanted(done) if setting not in done]:
            rate, epochs = missing[0]
            names = (method, "stage 1") if method == "EgoDistill" else (method,)
            changes = {name: {"learning_rate": rate, "epochs": epochs} for name in names}
            folder = out / "tuning" / slug(f"{method}-{rate:g}-{epochs}")
            bench = replace(first, out=str(folder), protocol=replace(GENERAL, changes=changes), teachers={})
            reuse(first, bench, Run("start"))
            run = Run(method, frames=frames, teacher=teacher if method in benches.DISTILLED else None)
            bench.run([run])
            result = bench.result(run)
            done[rate, epochs] = result["top1"]
            line = {"method": method, "frames": frames, "learning_rate": rate, "epochs": epochs, "top1": result["top1"]}
            line |= {"things": things_right(result, first), "verbs": verbs_right(result, first)}
            files.append_line(path, line | {"seconds": result["seconds"]})
            print(f"{method}, {rate:g}, {epochs} epochs: {100 * result['top1']:.1f} %", flush=True)


def wanted(done: Mapping[tuple[float, int], float]) -> list[tuple[float, int]]:
    """Return the settings to try: all of `TRIED`, then one more in each direction in which the best is at the edge."""
    if set(TRIED) - set(done):
        return TRIED
    rate, epochs = max(TRIED, key=lambda setting: done[setting])
    beyond = {RATES[1]: RATES[0], RATES[3]: RATES[4]}
    more = [(beyond[rate], epochs)] if rate in beyond else []
    if epochs == EPOCHS[1]:
        more.append((rate, EPOCHS[2]))
    return [*TRIED, *more]


def reuse(source: benches.Bench, target: benches.Bench, run: Run) -> None:
    """Copy a finished run, since what differs does not concern it. A teacher still has to write its outputs."""
    suffixes = (".safetensors", ".safetensors.jsonl") if run.method == "teacher" else (".safetensors", ".json")
    for suffix in suffixes:
        path = target.path(run, suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            shutil.copy(source.path(run, suffix), path)  # the log names the precision


def tuning_lines(method: str) -> list[dict[str, Any]]:
    lines = files.read_lines(RESULTS / "tuning.jsonl", "method", "frames", "learning_rate", "epochs", "top1")
    return [line for line in lines if (line["method"], line["frames"]) == (method, TUNED[method])]


def things_right(result: Mapping[str, Any], bench: benches.Bench) -> float:
    """Return the share of the test segments in which a run names the right thing, whichever its verb."""
    counts, same = np.array(result["confusion"]), same_thing(bench)
    return float(counts[same].sum() / counts.sum())


def verbs_right(result: Mapping[str, Any], bench: benches.Bench) -> float:
    """Return the share of right verbs where a run names the right one of the things with two verbs.

    For a model of one frame it must not be above 50 % by more than two standard errors, or a frame shows what it
    should not, for example traces of the frame before it.
    """
    counts, same = np.array(result["confusion"]), same_thing(bench)
    paired = same.sum(1) == 2
    return float(counts.diagonal()[paired].sum() / counts[paired][same[paired]].sum())


def same_thing(bench: benches.Bench) -> np.ndarray:
    """Return which classes are verbs of one thing, bool [C, C]."""
    thing = {verb: k for k, one in enumerate(behaviour.THINGS) for verb, _ in one.verbs}
    own = np.array([thing[name] for name in data.ClipStore(bench.store).class_names])
    return own[:, None] == own


def labels_repeated(bench: benches.Bench, teacher: Run, truth: Path) -> float:
    """Return the share of the wrong training labels that a teacher gives as its own answer."""
    with open(truth, newline="", encoding="utf-8") as file:
        verbs = {row["narration_id"]: row["verb"] for row in csv.DictReader(file)}
    clips = data.ClipStore(bench.store).split("train")
    said = clips.read(f"{teacher.outputs}.logits", range(len(clips))).argmax(1)
    labels = np.asarray(clips.labels)
    true = np.array([clips.class_names.index(verbs[clip["id"]]) for clip in clips.clips])
    return float((said == labels)[labels != true].mean())


# ---------------------------------------------------------------------------------------------------------------
# The protocol


def freeze() -> None:
    """Write the protocol: worlds, settings, seeds and primary contrasts."""
    changes: dict[str, dict[str, Any]] = {}
    for method in TUNED:
        lines = tuning_lines(method)
        tried = {(line["learning_rate"], line["epochs"]): line["top1"] for line in lines}
        if missing := [setting for setting in wanted(tried) if setting not in tried]:
            raise SystemExit(f"{method}: settings {missing} are not tried yet; run `evidence.py tune` first")
        best = max(lines, key=lambda line: line["top1"])
        changes[method] = {"learning_rate": best["learning_rate"], "epochs": best["epochs"] // EVERY}
    changes["stage 1"] = changes["EgoDistill"]
    write_protocol(RESULTS / "protocol.json", content(changes))


def content(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a protocol says: everything that decides the results but the code itself."""
    teachers = {name: recipe.record() for name, recipe in TEACHERS.items()}
    return {
        "worlds": {name: WORLD | changed for name, changed in PROTOCOL_WORLDS.items()},
        "things": [asdict(thing) for thing in behaviour.THINGS],
        "general": GENERAL.record(),
        "changes": changes,
        "teachers": teachers,
        "primary": PRIMARY,
        "cells": [[cell.part, cell.world, asdict(cell.run)] for cell in cells()],
    }


def says(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what this script would do with the settings of a protocol."""
    return content(record["changes"])


def read_protocol() -> dict[str, Any]:
    """Return the protocol. Exit if there is none, or if this script would not do what it says."""
    return agreed(RESULTS / "protocol.json", says)


def digest() -> str:
    """Return the SHA-256 of the protocol."""
    return sha_of(RESULTS / "protocol.json")


def committed_digest() -> str:
    """Return the SHA-256 of the protocol, as `committed()` does."""
    return committed(RESULTS / "protocol.json", says)


# Of all protocols, also those of other scripts; `says` returns what a script would do, given the protocol's record.


def sha_of(protocol: Path) -> str:
    """Return the SHA-256 of a protocol."""
    return hashlib.sha256(protocol.read_bytes()).hexdigest()


def write_protocol(path: Path, record: Mapping[str, Any]) -> None:
    """Write a protocol. Refuse to change one that is there."""
    if path.exists():
        raise SystemExit(f"{path}: is written already; a protocol does not change after it")
    files.write_json(path, record)
    seed = seed_of_b(sha_of(path))
    print(f"Wrote {path}. Commit it before anything is read that it is about; a world of it has the seed {seed}.")


def agreed(path: Path, says: Callable[[dict[str, Any]], Mapping[str, Any]]) -> dict[str, Any]:
    """Return a protocol. Exit if there is none, or if a script would not do what it says."""
    if not path.exists():
        raise SystemExit(f"{path}: there is none; write it with `freeze`, and commit it")
    record = files.read_json(path)
    own = json.loads(json.dumps(says(record)))
    if record != own:
        different = files.differences(record, own) or {"a value that is null, true or false": own}
        names = ", ".join([*itertools.islice(different, 5), *["..."] * (len(different) > 5)])
        raise SystemExit(f"{path}: differs from the settings of this script ({names}); go back to these")
    return record


def committed(path: Path, says: Callable[[dict[str, Any]], Mapping[str, Any]]) -> str:
    """Return the SHA-256 of a protocol, as `agreed()` does. Exit also if it is not committed as it is."""
    agreed(path, says)
    if git("status", "--porcelain", "--", str(path)):
        raise SystemExit(f"{path}: commit it first; a protocol counts from its commit on")
    return sha_of(path)


def seed_of_b(sha: str) -> int:
    """Return the seed of world B: the first 32 bits of the protocol's SHA-256."""
    return int(sha[:8], 16)


def seed_of(world: str) -> int:
    """Return the seed of a world: that of the protocol for B, and 0 for A and its variants."""
    return seed_of_b(digest()) if world == "B" else 0


def git(*words: str) -> str:
    command = ["git", "-C", str(RESULTS.parent), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


# ---------------------------------------------------------------------------------------------------------------
# Cells


@dataclass(frozen=True)
class Cell:
    """One network of the plan: the part of the evidence that it is for, its world, and what is trained."""

    part: str
    world: str
    run: Run


def cells() -> list[Cell]:
    """Return all cells, in the order in which they are trained; a run that several parts need stands in the first."""
    taught, plan = Run("EgoDistill", teacher=TEACHER), []

    def add(part: str, world: str, seeds: int, runs: list[Run]) -> None:
        plan.extend(Cell(part, world, replace(run, seed=seed)) for seed in range(seeds) for run in runs)

    main = [replace(taught, method="teacher")]
    main += [
        replace(taught, method=method, frames=n) for n in (1, 2, 4) for method in ("EgoDistill", "VisOnly-Distill")
    ]
    main.append(Run("VisIMU"))
    rivals = [Run("VisIMU", frames=n) for n in (2, 4)] + [Run("VisOnly", frames=n) for n in (1, 2, 4)]
    rivals += [replace(taught, method="ListenToLook", frames=n) for n in (1, 2, 4)]
    rivals += [Run(method, frames=4) for method in ("AdaFuse", "STTS T0.5-S0.7")]
    for world in ("A", "B"):
        add("main", world, MAIN, main)
        add("rivals", world, SMALL, rivals)
    add("table 1", "A", SMALL, [replace(taught, without=losses) for losses in paper.ABLATIONS.values() if losses])
    for world in (CLEAN, "A with half the coupling"):
        add("controls", world, SMALL, [main[0], taught, replace(taught, method="VisOnly-Distill"), Run("VisIMU")])
    add("controls", EXCHANGED, SMALL, [taught, Run("VisIMU")])
    return list(dict.fromkeys(plan))


def described() -> list[Cell]:
    """Return the cells of what is described, not tested.

    These are students without labels (the seeds that Table 1 lacks), what stage 1 gives if few clips have a teacher's
    outputs, other choices of frames (Table 4), frames of any age (for `when_to_look.py`), other teachers (Table 2),
    VisIMU with the augmentation and smoothing of the teachers, and the methods of one and two frames where a shutter
    blurs the pictures.
    """
    whole = Run("EgoDistill", teacher=TEACHER)
    arms = []
    for share in SHARES:
        taught = replace(whole, share=share)
        arms += [replace(taught, without=benches.STAGE_1_LOSSES), replace(taught, without=("pretrain_l1",)), taught]
        if share < 1:
            arms.append(replace(taught, stage_1_on="share"))
    choices = [replace(whole, frames=4, sampling=rule) for rule in FRAME_OPTIONS[OTHER_FRAMES]["sampling"]]
    others = [replace(whole, teacher=name) for name in OTHER_TEACHERS]
    methods = ("teacher", "EgoDistill", "VisOnly-Distill")
    parts = {
        ("stage 1", "A"): arms,
        ("table 4", OTHER_FRAMES): choices,
        ("ages", ANY_AGE): [replace(whole, frames=n, sampling="ages") for n in (1, 2)],
        ("table 2", "A"): [replace(run, method=method) for run in others for method in methods],
        **{("controls", world): [Run("VisIMU")] for world in AUGMENTED_RIVAL},
        ("controls", BLURRED): [replace(whole, method=method) for method in methods]
        + [Run("VisIMU"), *(replace(whole, method=method, frames=2) for method in methods[1:])],
    }
    unlabelled = replace(whole, without=paper.ABLATIONS["without L_GT"])
    found = [Cell("table 1", "A", replace(unlabelled, seed=seed)) for seed in range(SMALL, MAIN)]
    for part, runs in parts.items():
        found += [Cell(*part, replace(run, seed=seed)) for seed in range(SMALL) for run in runs]
    return found


def path_of(world: str) -> Path:
    return RESULTS / f"{slug(world)}.jsonl"


def segments_path(world: str) -> Path:
    """Return the file with the test segments that the lines of a world are about."""
    return RESULTS / f"{slug(world)}-segments.json"


def finished(world: str) -> dict[str, dict[str, Any]]:
    """Return the lines of a world by the name of the run."""
    return lines_of(world, RESULTS / "protocol.json", digest())


MAY_DIFFER = dict.fromkeys(("seconds", "commit", "processor"))  # in two lines of one run


def lines_of(world: str, protocol: Path, own: str) -> dict[str, dict[str, Any]]:
    """Return the lines of a world by the name of the run; `own` is the digest of their protocol.

    Exit if there are lines of another protocol, or two of one run with other answers: one of them may not win silently.
    """
    lines: dict[str, dict[str, Any]] = {}
    for line in files.read_lines(path_of(world), "name", "run", "correct", "protocol"):
        if line | MAY_DIFFER != lines.setdefault(line["name"], line) | MAY_DIFFER:
            raise SystemExit(f"{path_of(world)}: two lines of {line['name']} have other answers; a cell is run once")
    if foreign := [name for name, line in lines.items() if line["protocol"] != own]:
        raise SystemExit(
            f"{path_of(world)}: {len(foreign)} lines, such as {foreign[0]}, are of another protocol than {protocol}; "
            f"move them to a file of another name"
        )
    return lines


def left(plan: list[Cell]) -> list[Cell]:
    done = {cell.world: finished(cell.world) for cell in plan}
    return [cell for cell in plan if cell.run.name not in done[cell.world]]


def chosen(
    seeds: Sequence[int] | None = None,
    parts: Sequence[str] | None = None,
    worlds: Sequence[str] | None = None,
    name: str = "",
) -> list[Cell]:
    """Return the cells of some seeds, parts and worlds, by default all, whose run has this text in its name.

    Exit for a seed, part or world that is not in the plan, and if no cell is left.
    """
    plan = [*cells(), *described()]
    for option, asked, known in (
        ("seeds", seeds, {cell.run.seed for cell in plan}),
        ("parts", parts, dict.fromkeys(cell.part for cell in plan)),
        ("worlds", worlds, dict.fromkeys(cell.world for cell in plan)),
    ):
        if foreign := [str(one) for one in asked or [] if one not in known]:
            raise SystemExit(f"--{option} {','.join(foreign)}: not in the plan, which has {', '.join(map(str, known))}")
    found = [
        cell
        for cell in plan
        if (not seeds or cell.run.seed in seeds)
        and (not parts or cell.part in parts)
        and (not worlds or cell.world in worlds)
        and name in cell.run.name
    ]
    if not found:
        raise SystemExit("the plan has no cell of these seeds, parts, worlds and name; `evidence.py plan` shows it")
    return found


def run(out: Path, jobs: int, minutes: float, plan: list[Cell]) -> None:
    """Train and evaluate the cells that have no line, in groups of one part and world, until time is up."""
    origin, todo = origin_of_lines(), list(groups(left(plan), jobs))
    if not todo:
        print(
            f"Nothing to train: all {len(plan)} of these cells have a line. `run --again LINE` makes a line again; "
            f"`evidence.py lines` shows their names."
        )
    end = time.monotonic() + 60 * minutes
    for group in todo:
        if time.monotonic() > end:
            print("Time is up; the same command continues.")
            return
        world = group[0].world
        make(world, out)
        bench = bench_of(world, out, settings_of(world))
        for seed in {cell.run.seed for cell in group}:
            take_over(world, out, bench, [Run("teacher", seed, teacher=TEACHER), Run("start", seed)])
        for name in lost_teachers(group, bench):
            print(
                f"note: {name} is trained again, because its weights are not in {bench.out}. It is not the teacher of "
                f"the earlier lines of {path_of(world)}; copy that one's files there to pair these cells with them."
            )
        known = {cell.run: cell for cell in group}

        def record(run: Run, bench: benches.Bench = bench, known: Mapping[Run, Cell] = known) -> None:
            if run in known and left([known[run]]):  # another process may have been there first
                record_cell(known[run], bench, out, origin)

        bench.run(list(known), jobs, record)


def take_over(world: str, out: Path, bench: benches.Bench, runs: Iterable[Run]) -> None:
    """Copy teachers and starts from the world that this one varies; those of A, from what `teachers` trained."""
    source = source_of(world)
    for run in runs:
        if source != world:
            reuse(bench_of(source, out, settings_of(source)), bench, run)
        elif world == "A" and run.method == "teacher" and teacher_bench(out).path(run, ".json").exists():
            reuse(teacher_bench(out), bench, run)


def lost_teachers(group: Sequence[Cell], bench: benches.Bench) -> list[str]:
    """Return the names of the teachers of some cells that have a line, but whose weights are not in the bench."""
    teachers = {Run("teacher", cell.run.seed, teacher=cell.run.teacher) for cell in group if cell.run.teacher}
    done = finished(group[0].world)
    return sorted(run.name for run in teachers if run.name in done and not bench.path(run, ".safetensors").exists())


def curve(out: Path, names: Sequence[str]) -> None:
    """Append a line for each of the teachers and parts of A's training clips that has none.

    It is what the teacher has on A's test wearers after as many epochs as with all clips, whose lines `run()` writes.
    """
    path, origin, everything = RESULTS / "curve.jsonl", origin_of_lines(), TEACHERS | OTHER_TEACHERS
    done = {(line["teacher"], line["every"]) for line in files.read_lines(path, "teacher", "every")}
    for every, name in itertools.product(CURVE, names):
        if (name, every) in done:
            continue
        run = Run("teacher", teacher=name.replace("{seed}", f"every-{every}-{{seed}}"))
        own = {"out": str(out / "curve" / f"every-{every}"), "teachers": {run.teacher: everything[name]}}
        bench = bench_of("A", out, settings_of("A"), every=every, **own)
        bench.run([run])
        result = bench.result(run)
        line = {"teacher": name, "every": every, "repeats": labels_repeated(bench, run, truth_of("A", out))}
        line |= {key: result[key] for key in ("top1", "test", "correct", "precision", "seconds")}
        files.append_line(path, line | origin)


def origin_of_lines() -> dict[str, str]:
    """Return what each line of results says of its origin. Exit without a committed protocol."""
    return {"commit": git("rev-parse", "HEAD"), "protocol": committed_digest(), "processor": tables.processor()}


def machines(lines: Iterable[Mapping[str, Any]]) -> str:
    """Return vendor and family of the processors that some lines come from."""
    return ", ".join(sorted({tables.short_processor(line["processor"]) for line in lines}))


def record_cell(cell: Cell, bench: benches.Bench, out: Path, origin: Mapping[str, str]) -> None:
    """Append the line of a finished cell, and keep which test segments the world has."""
    segments = segments_path(cell.world)
    if not segments.exists():
        shutil.copy(Path(bench.out, contrasts.SEGMENTS_FILE), segments)
    files.append_line(path_of(cell.world), line_of(cell, bench, out) | origin)


def line_of(cell: Cell, bench: benches.Bench, out: Path) -> dict[str, Any]:
    """Return what the line of a finished cell says, but for its origin."""
    result = bench.result(cell.run)
    line = {"part": cell.part, "name": cell.run.name, "run": asdict(cell.run), "top1": result["top1"]}
    if cell.run.method == "teacher" and WORLDS[cell.world].get("label_noise") != 0:
        line["repeats"] = labels_repeated(bench, cell.run, truth_of(source_of(cell.world), out))
    if cell.run.teacher:
        line["teacher"] = outputs_record(data.ClipStore(bench.store), cell.run.outputs)["fingerprint"]
    line |= {"things": things_right(result, bench), "seconds": result["seconds"]}
    line |= {name: result[name] for name in ("precision", "test", "correct") if name in result}
    line["gmacs"] = result["gmacs"] if "gmacs" in result else gmacs(bench, cell.run)  # AdaFuse's own
    return line


def gmacs(bench: benches.Bench, run: Run) -> float:
    """Return the multiply-adds of a trained network for one clip, in billions."""
    return inference.count_macs(models.load_any(bench.path(run)), torch.device("cpu")) / 1e9


def groups(plan: list[Cell], jobs: int) -> Iterator[list[Cell]]:
    """Yield the cells in groups of one part, one world and at least so many seeds as jobs, in order.

    The other cells of a seed wait for its teacher, which trains on one core: as many seeds as jobs keep all cores busy.
    """
    for part, world in dict.fromkeys((cell.part, cell.world) for cell in plan):
        own = [cell for cell in plan if (cell.part, cell.world) == (part, world)]
        seeds = sorted({cell.run.seed for cell in own})
        count = max(1, len(seeds) // jobs)
        for k in range(count):
            chosen = seeds[k * jobs : (k + 1) * jobs if k < count - 1 else None]
            yield [cell for cell in own if cell.run.seed in chosen]


def print_plan() -> None:
    """Print the cells that are left, and their hours from the seconds of finished cells of the same kind."""
    plan, rates = [*cells(), *described()], hours_by_kind()
    rows, known, unknown = [], 0.0, 0
    for part, world in dict.fromkeys((cell.part, cell.world) for cell in plan):
        own = [cell for cell in plan if (cell.part, cell.world) == (part, world)]
        todo = left(own)
        kinds = [rates.get(kind_of(cell.run)) for cell in todo]
        hours = sum(filter(None, kinds))
        known, unknown = known + hours, unknown + kinds.count(None)
        rows.append([part, world, f"{len(own) - len(todo)} of {len(own)}", f"{hours:.1f}", str(kinds.count(None))])
    header = ["part", "world", "cells done", "core hours left", "cells without a rate"]
    print(tables.Table(header, rows).text())
    print(f"{known:.1f} core hours are left, and {unknown} cells of kinds that were not trained yet.")


def kind_of(run: Run) -> tuple[str, int, str | None]:
    """Return what decides how long a run takes: its method, frames and, for a teacher, its network."""
    return run.method, run.frames, run.teacher if run.method == "teacher" else None


def hours_by_kind() -> dict[tuple[str, int, str | None], float]:
    """Return the median core hours of the finished cells of each kind, and an estimate for what has no lines.

    Stage 1 takes about as long as the EgoDistill of as many frames, and "start" twice as long as VisOnly,
    because it has twice the epochs.
    """
    seconds: dict[tuple[str, int, str | None], list[float]] = {}
    for world in WORLDS:
        for line in finished(world).values():
            run = line["run"]
            own = kind_of(Run(run["method"], frames=run["frames"], teacher=run["teacher"]))
            seconds.setdefault(own, []).append(line["seconds"])
    found = {kind: statistics.median(some) / 3600 for kind, some in seconds.items()}
    found |= {("stage 1", n, None): hours for (method, n, _), hours in found.items() if method == "EgoDistill"}
    if visonly := found.get(("VisOnly", 1, None)):
        found["start", 1, None] = 2 * visonly
    return found


# ---------------------------------------------------------------------------------------------------------------
# A line again


def line_name(cell: Cell) -> str:
    """Return the name of a cell's line: its file in results/ and its run, such as "A/seed-0/visimu-n1"."""
    return f"{slug(cell.world)}/{cell.run.name}"


def published() -> dict[str, dict[str, Any]]:
    """Return all lines of cells by their `line_name()`."""
    return {f"{slug(world)}/{name}": line for world in WORLDS for name, line in finished(world).items()}


def cell_named(name: str) -> Cell:
    """Return the cell of a published line. Exit if there is no such line, or if the plan has no such cell any more."""
    lines = published()
    cell = next((cell for cell in [*cells(), *described()] if line_name(cell) == name), None)
    if name in lines and cell:
        return cell
    if name in lines:
        raise SystemExit(f"{name}: the plan has no such cell any more; its line is of commit {lines[name]['commit']}")
    if cell:
        raise SystemExit(f"{name}: has no line yet; `run` without --again trains it")
    near = [one for one in lines if name in one] or difflib.get_close_matches(name, lines, cutoff=0.3)
    similar = f"; similar ones are {', '.join(near[:5])}" if near else ""
    raise SystemExit(f"{name}: not the name of a line; `evidence.py lines` shows them{similar}")


def print_lines(text: str) -> None:
    """Print the published lines with this text in their name, and the hours to make each again in an empty folder."""
    rates, rows = hours_by_kind(), []
    plan = {line_name(cell): cell for cell in [*cells(), *described()]}
    for name, line in published().items():
        if text in name:
            hours = [hours for _, hours in steps(plan[name], Path("nothing"), rates)] if name in plan else []
            needs = f"{sum(hours):.1f}" if hours else "not in the plan"
            rows.append([name, line["part"], f"{100 * line['top1']:.1f}", needs, line["commit"][:9]])
    print(tables.Table(["line", "part", "top-1 (%)", "core hours to make it again", "commit"], rows).text())


def steps(cell: Cell, out: Path, rates: Mapping[tuple[str, int, str | None], float]) -> list[tuple[str, float | None]]:
    """Return what a cell needs, itself last, with the core hours of each step; None for what the folder has."""
    world, source = cell.world, source_of(cell.world)
    bench, first = bench_of(world, out, settings_of(world)), bench_of(source, out, settings_of(source))
    rendered = (out / slug(source) / "world" / "true_verbs.csv").exists()
    found: list[tuple[str, float | None]] = [(f"world {source}, rendered", None if rendered else RENDER_HOURS)]
    for store in dict.fromkeys((first.store, bench.store)):
        decoded = Path(store, "store.json").exists()
        found.append((f"clips of world {Path(store).parent.name}", None if decoded else DECODE_HOURS))
    for run in bench.with_dependencies([cell.run]):
        there = (first if run.method in ("teacher", "start") else bench).path(run, ".json").exists()
        kind = {"teacher": "teacher ", "start": "image network that students start from, "}.get(run.method, "")
        found.append((kind + run.name, None if there else rates.get(kind_of(run), 0.0)))
    return found


def again(name: str, out: Path, jobs: int, *, replaces: bool = False) -> None:
    """Train the cell of a published line again, and print how both lines agree.

    What the folder has of the steps is used, so that a killed run continues; a network that is finished there is
    compared, and not trained again. The same is printed for each network on the way that has a published line. New
    lines go to OUT/again; with `replaces`, that of the cell also takes the place of the published line.
    """
    cell, origin = cell_named(name), origin_of_lines()
    todo = steps(cell, out, hours_by_kind())
    rows = [[what, "there" if hours is None else f"{hours:.2f}"] for what, hours in todo]
    print(tables.Table([f"{name} needs", "core hours"], rows).text())
    total = sum(hours or 0 for _, hours in todo)
    print(f"About {total:.1f} core hours in {out}. If it is interrupted, the same command continues.", flush=True)
    world, source = cell.world, source_of(cell.world)
    bench, first = bench_of(world, out, settings_of(world)), bench_of(source, out, settings_of(source))
    needed = [run for run in bench.with_dependencies([cell.run]) if run.method in ("teacher", "start")]
    make(source, out)
    take_over(source, out, first, needed)
    train_again(source, first, needed if source != world else [cell.run], out, jobs, origin)
    if source != world:
        make(world, out)
        take_over(world, out, bench, needed)
        train_again(world, bench, [cell.run], out, jobs, origin)
    kept, target = again_path(world, out), path_of(world)
    new = {line["name"]: line for line in files.read_lines(kept, "name")}.get(cell.run.name)
    if new is None:
        files_of = " and ".join(str(bench.path(cell.run, suffix)) for suffix in (".safetensors", ".json"))
        raise SystemExit(
            f"{name}: its network was in {out} before, perhaps as that of the published line; to train it again, give "
            f"another folder, or delete {files_of}"
        )
    if replaces:
        replace_line(target, new)
    print(f"The new line is in {kept}, and {f'replaces that of {target}' if replaces else f'{target} is as before'}.")


def again_path(world: str, out: Path) -> Path:
    """Return the file of the lines of a world that were made again."""
    return out / "again" / path_of(world).name


def train_again(
    world: str, bench: benches.Bench, runs: list[Run], out: Path, jobs: int, origin: Mapping[str, str]
) -> None:
    """Train runs of a world and what they depend on; compare those that have a published line, and keep new lines."""
    plan = {cell.run: cell for cell in [*cells(), *described()] if cell.world == world}
    lines, wanted, kept = finished(world), bench.with_dependencies(runs), again_path(world, out)
    kept.parent.mkdir(exist_ok=True)
    before = {run for run in wanted if bench.path(run, ".json").exists()}

    def record(run: Run) -> None:
        if run in plan and run.name in lines:
            new = line_of(plan[run], bench, out) | origin
            if run not in before:
                files.append_line(kept, new)
            when = "in the folder, not trained again" if run in before else "now"
            print(f"{line_name(plan[run])}: {agreement(lines[run.name], new, when)}", flush=True)

    bench.run(runs, jobs, record)


def agreement(old: Mapping[str, Any], new: Mapping[str, Any], when: str) -> str:
    """Return both accuracies of two lines of a cell, and in how many test segments they are right or wrong alike."""
    both = f"{100 * old['top1']:.1f} % published, {100 * new['top1']:.1f} % {when}"
    if old["test"] != new["test"]:
        return f"{both}, on other test segments"
    one, two = (np.concatenate(list(contrasts.unpack(line["correct"]).values())) for line in (old, new))
    return f"{both}; {int((one == two).sum()):,} of {len(one):,} bits agree ({100 * (one == two).mean():.1f} %)"


def replace_line(path: Path, new: Mapping[str, Any]) -> None:
    """Put a line in the place of the one of its name. Exit if they are about other test segments."""
    lines = list(files.read_lines(path, "name", "test"))
    if any(line["name"] == new["name"] and line["test"] != new["test"] for line in lines):
        raise SystemExit(f"{path}: not changed, because {new['name']} is now a result on other test segments")
    with files.atomic_write(path) as part:
        text = "".join(json.dumps(new if line["name"] == new["name"] else line) + "\n" for line in lines)
        part.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    purposes = {
        "make": "render and decode a world",
        "teachers": "train A's first teachers, and test them on A's validation wearers",
        "tune": "try settings of each method on A's validation wearers",
        "freeze": "write results/protocol.json",
        "plan": "show the networks that are left, and their hours",
        "run": "train and evaluate networks, and write their lines",
        "curve": "train teachers on a part of A's clips",
        "lines": "show the published lines, and the hours to make each again",
    }
    for name, purpose in purposes.items():
        command = commands.add_parser(name, help=purpose)
        if name == "make":
            command.add_argument("world", choices=tuple(WORLDS))
        if name in ("make", "teachers", "tune", "run", "curve"):
            command.add_argument("--out", type=Path, required=True, help="folder for worlds, stores and networks")
        if name == "tune":
            command.add_argument("--methods", nargs="*", default=list(TUNED), choices=tuple(TUNED))
        if name == "curve":
            known = (*TEACHERS, *OTHER_TEACHERS)
            command.add_argument("--teachers", nargs="*", default=list(known), choices=known)
        if name in ("teachers", "run"):
            default = "0,1" if name == "teachers" else None
            command.add_argument(
                "--seeds", type=options.parse_seeds, default=default, help="such as 0,1; default: the plan's"
            )
            command.add_argument("--jobs", type=int, default=files.available_cores(), help="processes at a time")
        if name == "run":
            for option, example in (("--parts", "main,rivals"), ("--worlds", "A,B")):
                command.add_argument(option, type=lambda text: text.split(","), help=f"such as {example}")
            command.add_argument(
                "--minutes", type=float, default=150, help="begin nothing after this time (default: 150)"
            )
            command.add_argument(
                "--again", metavar="LINE", help="make this published line again, such as A/seed-0/visimu-n1"
            )
            command.add_argument("--replace", action="store_true", help="--again: put the new line into results/, too")
        if name in ("run", "lines"):
            command.add_argument("--name", default="", help="only runs with this in their name, such as without-gt")
    a = parser.parse_args()
    if a.command == "run" and a.again and (a.seeds or a.parts or a.worlds or a.name):
        parser.error("--again names one line; give it without --seeds, --parts, --worlds and --name")
    if a.command == "run" and a.replace and not a.again:
        parser.error("--replace belongs to --again")
    RESULTS.mkdir(exist_ok=True)
    if a.command == "make":
        print(make(a.world, a.out))
    elif a.command == "teachers":
        train_teachers(a.out, a.seeds, a.jobs)
    elif a.command == "tune":
        tune(a.out, a.methods)
    elif a.command == "freeze":
        freeze()
    elif a.command == "plan":
        print_plan()
    elif a.command == "curve":
        curve(a.out, a.teachers)
    elif a.command == "lines":
        print_lines(a.name)
    elif a.again:
        again(a.again, a.out, a.jobs, replaces=a.replace)
    else:
        run(a.out, a.jobs, a.minutes, chosen(a.seeds, a.parts, a.worlds, a.name))


if __name__ == "__main__":
    main()
