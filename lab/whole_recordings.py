"""Can a student know when nothing happens? On whole recordings of world E, by results/protocol-recordings.json.

    python -m lab.whole_recordings freeze                 # writes the protocol; commit it
    python -m lab.whole_recordings make --out EV          # render and decode: an hour on one core
    python -m lab.whole_recordings run --out EV --seeds 0 --methods plain threshold
    python -m lab.whole_recordings run --out EV           # all that has no line: two hours for a seed
    python -m lab.whole_recordings report --markdown results/whole_recordings.md

World E has whole recordings of all wearers: a fifth of the time is annotated; of twelve objects, no segment labels the
acts on four; hands lie idle on any of them. `with_background()` adds clips of the class "(none)" from what no segment
covers. A cell is one trained network, and becomes a line of results/E.jsonl with its temperature, its thresholds, and
all events that it finds in the recordings of the test wearers, from which every number of the report is computed;
results/E-recordings.json says what is in these recordings. Finished networks and the answers on each recording are kept
in EV, so that a cell that was killed continues: commit the lines as they come. On one core, `plain` takes half an hour,
`knows` (and its answers on recordings) 40 minutes, a student 7 to 10.

An event is ten hexadecimal digits in a line: its start and its end in hundredths of a second (four digits each), and
its class (two), the index in `class_names` of results/E-recordings.json.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from egodistill import CLIP_SECONDS, EgoDistill, data, inference
from egodistill.deploy import events, export, segmentation
from egodistill.engine import batches, calibration
from egodistill.inference import Prediction
from egodistill.recordings.recording import Recording
from egodistill.recordings.spec import strided_starts
from egodistill.support import files, tables
from egodistill.support.defaults import NONE
from egodistill.support.errors import NoteWarning
from egodistill.world import synthetic
from egodistill.world.behaviour import THINGS, VERBS
from lab import benches, better_student, evidence, intervals
from lab.benches import Run
from lab.better_student import BOTH as CHANGED, RATE
from lab.evidence_report import holm, shown
from lab.protocols import Method

PROTOCOL, RECORDINGS = (evidence.RESULTS / name for name in ("protocol-recordings.json", "E-recordings.json"))
UNLABELLED = ("tap", "carrot", "bin", "tray")  # a pair of each kind and two single acts; other objects turn heads alike
WORLD = {
    "train_acts": 4800,
    "validation_acts": 1500,
    "test_acts": 4800,
    "train_wearers": 24,
    "validation_wearers": 10,
    "test_wearers": 20,
    "unlabelled": UNLABELLED,
}
HALF = WORLD | {"coupling": 0.5, "train_acts": 1, "train_wearers": 1, "validation_acts": 0, "validation_wearers": 0}
HALF |= {"test_acts": 1600}
NAMES = [*sorted(VERBS[verb] for verb in synthetic.labelled_verbs(None, UNLABELLED)), NONE]
NOTHING = NAMES.index(NONE)
STRIDE = 0.5  # seconds from answer to answer
BACKGROUND = 0.5  # clips of "(none)" for each labelled clip; for `MORE` twice as many are there to learn from
ALONE, ALONE_ACTS = 100, 5  # recordings in which all acts are on unlabelled objects, of 20 to 25 s
SEEDS = [0, 1, 2]
ON_CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}

# Teachers that have not learned "(none)", and those that have; what the first is made to say of background clips.
PLAIN, KNOWS, LENT, EVEN = "plain-{seed}", "knows-{seed}", "lent-{seed}", "even-{seed}"
TRUTH, THRESHOLD, STUDENT, UNIFORM, BOTH = "True labels", "Threshold", "Student", "Uniform", "Both"
MORE = "Student, twice the background"  # described
CANDIDATES = (STUDENT, BOTH, UNIFORM)  # from what needs least to what needs most
CELLS = {  # {name on the command line: the network}
    "truth": Run(TRUTH),
    "plain": Run("teacher", teacher=PLAIN),
    "threshold": Run(THRESHOLD, teacher=PLAIN),
    "knows": Run("teacher", teacher=KNOWS),
    "student": Run(STUDENT, teacher=LENT),
    "uniform": Run(UNIFORM, teacher=EVEN, without=("gt",)),
    "both": Run(BOTH, teacher=KNOWS),
    "more": Run(MORE, teacher=LENT),
}
KNOWING = "Teacher with (none)"
EXPORTS = {"export, fp32": "fp32", "export, int8": "int8"}
SURE = ("student", *EXPORTS)  # whose calibration error has a goal
KINDS = ("unlabelled act", "idle hand", "walk")  # of background; what is in several is the first
SILENT = (THRESHOLD, UNIFORM)  # never answer "(none)": the largest probability tells
spectrum = functools.partial(EgoDistill, imu_encoder="spectrum", aggregator="concat")
METHODS = [Method(name, spectrum) for name in (THRESHOLD, *CANDIDATES, MORE)]
# Who learns from fewer or more clips takes as many steps.
CHANGES = {name: RATE | {"epochs": 9, "augment": CHANGED} for name in CANDIDATES}
CHANGES |= {name: RATE | {"epochs": epochs, "augment": CHANGED} for name, epochs in ((THRESHOLD, 14), (MORE, 7))}
SETTINGS = replace(evidence.GENERAL, changes=CHANGES)
TAUGHT = evidence.TEACHERS[evidence.TEACHER]
TEACHERS = {
    PLAIN: replace(TAUGHT, training=replace(TAUGHT.training, epochs=3 * TAUGHT.training.epochs // 2)),
    KNOWS: TAUGHT,
}
# Neighbours whose answers are averaged: (before, after).
SMOOTHING = {"": (0, 0), "two-sided": (1, 1), "causal": (1, 0)}
CONTRASTS = [  # tested by Holm's procedure: ((method, smoothing), minus); "winner" is that of FORMULA
    ((BOTH, ""), (THRESHOLD, "")),
    ((STUDENT, ""), (THRESHOLD, "")),
    ((UNIFORM, ""), (THRESHOLD, "")),
    ((BOTH, ""), (STUDENT, "")),
    (("winner", "two-sided"), ("winner", "")),
    (("winner", "causal"), ("winner", "")),
]
FORMULA = (
    "Among Student, Both and Uniform without smoothing: those that inside actions of the validation wearers, by the "
    "argmax over the real classes, lose at most 1.5 points against Threshold, or all if none does. Of these, the "
    "largest F1@50 on the recordings of the validation wearers, mean of the seeds; within 1 point of it, the first in "
    "this order."
)
GOALS = {
    "F1@50, at least": 55.0,
    "F1@50, share of that of the teacher with (none), at least": 0.75,
    "unmatched events per hour, share of Threshold's, at most": 0.6,
    "background time under an event, share of Threshold's, at most": 0.2,
    "points lost inside actions, argmax over the real classes, at most": 1.5,
    "calibration error in points on at least 4,000 clips: student, fp32, int8; at most": 3.0,
    "of 100 recordings of unlabelled objects alone, without an event, at least": 95,
}
TEXT = {
    "questions": [
        "Does a student that learned (none) find the actions of whole recordings better than one whose largest "
        "probability has to be large?",
        "Must the teacher know (none), too?",
        "Does it help to average neighbouring answers?",
        "Are probabilities true after one temperature was fitted on other wearers?",
    ],
    "primary": "F1@50 of events of each test wearer, one frame, an answer every 0.5 s",
    "interval": "intervals.two_way over seeds and wearers",
    "family": "the six contrasts, Holm",
    "before": "Nothing of world E was seen: its seed is the first 32 bits of this file's SHA-256. On schedules of "
    "seeds 3 to 5, without pictures, a fifth of the time had labels, of each recording at least 12 %.",
    "wearers": "train: networks learn; a quarter of the labels is wrong. validation (right labels): every other wearer "
    "chooses the epoch of the teachers and the winner; the rest, 'calibration', give temperatures and thresholds, and "
    "nothing learned from them. test: other people than in worlds A to D, read once.",
    "background": "data.with_background(), with the margin that it has by default",
    "methods": {
        THRESHOLD: "today's student: learns labelled clips alone, in as many steps; the largest probability tells",
        STUDENT: "(none) is a class of the student; of background, the teacher without it is made to say (none), as "
        "surely as it says the best class of labelled clips",
        BOTH: "(none) is a class of teacher and student",
        MORE: "as Student; described",
        UNIFORM: "of background, the teacher without (none) is made to say all classes alike; L_KD and L_1 alone",
    },
    "ceilings": "true labels as answers, through the same tracker; the teacher with (none) on the same recordings",
    "thresholds": "segmentation.best_thresholds() on the calibration wearers' recordings, for every network, smoothing "
    "and ceiling alike",
    "temperature": "calibration.fit() on the calibration clips; of Threshold and Uniform on labelled ones, and without "
    "it in their events, as today: it makes large probabilities alike",
    "described, without a goal": [
        "F1@10, F1@25, edit score, share of time right",
        "background under an event: unlabelled acts, idle hands, walks, the rest",
        "calibration on the answers of whole recordings, four fifths of which are background",
        "half the coupling: test clips of such a world, with E's temperature",
    ],
    "planted": {
        "background inside actions": "without every other row of the training table, with_background() refuses it",
        "thresholds chosen on test": "choose() of the script exits for recordings of another split",
        "temperature applied twice, or to an export that has it": "a test of exports",
        "another stride with old thresholds": "a test of `predict --events`, which then does not use them",
    },
}


# ---------------------------------------------------------------------------------------------------------------
# The protocol


def content() -> dict[str, Any]:
    """Return what the protocol says: everything that decides the results but the code itself."""
    return TEXT | {
        "goals": GOALS,
        "formula": FORMULA,
        "contrasts": CONTRASTS,
        "smoothing": SMOOTHING,
        "stride": STRIDE,
        "background clips for each labelled one": BACKGROUND,
        "recordings of unlabelled objects alone": {"recordings": ALONE, "acts": ALONE_ACTS},
        "world": evidence.WORLD | WORLD,
        "half the coupling": evidence.WORLD | HALF,
        "idle": synthetic.IDLE,
        "gaps": synthetic.LONG_GAPS,
        "things": [asdict(thing) for thing in THINGS],
        "seeds": SEEDS,
        "cells": {name: asdict(run) for name, run in CELLS.items()},
        "student": spectrum.keywords,
        "general": SETTINGS.record(),
        "teachers": {name: recipe.record() for name, recipe in TEACHERS.items()},
        "thresholds tried": [segmentation.STARTS, segmentation.ENDS, segmentation.SHORTEST],
    }


def digest() -> str:
    """Return the SHA-256 of the protocol, as `evidence.committed()` does."""
    return evidence.committed(PROTOCOL, lambda record: content())


# ---------------------------------------------------------------------------------------------------------------
# The world


class Whole(NamedTuple):
    """A whole recording, with its labelled segments."""

    recording: Recording
    segments: Sequence[data.Segment]
    split: str

    @property
    def name(self) -> str:
        """Name of the recording, and up to the first "_" that of its wearer."""
        return Path(self.recording.video).stem

    @property
    def wearer(self) -> str:
        return self.name.split("_")[0]

    @property
    def span(self) -> tuple[float, float]:
        return 0.0, self.recording.duration


class World(NamedTuple):
    """What `make()` has made."""

    store: data.ClipStore  # with background in each split
    half: data.ClipStore  # test clips, with half the coupling
    whole: dict[str, list[Whole]]  # recordings by split, "alone" among them


def segments_of(out: Path, name: str, settings: Mapping[str, Any]) -> list[data.Segment]:
    """Render a world, unless it is there; return its segments, those of every other validation wearer to calibrate."""
    seed = evidence.seed_of_b(digest())
    world = synthetic.render(out / name / "world", **evidence.WORLD | settings, seed=seed, workers=1)
    others = world.validation_wearers[1::2]
    return [replace(one, split="calibration") if one.wearer in others else one for one in evidence.segments_of(world)]


def with_background(segments: Sequence[data.Segment]) -> list[data.Segment]:
    """Return segments with background from the recordings of each split, which the library takes for training alone."""
    found: list[data.Segment] = []
    for split in dict.fromkeys(one.split for one in segments):
        own = [replace(one, split="train") for one in segments if one.split == split]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoteWarning)
            count = round(BACKGROUND * len(own)) * (2 if split == "train" else 1)
            more = data.with_background(own, count)
        found += [replace(one, split=split) for one in more]
    return found


def decode(folder: Path, segments: Sequence[data.Segment], **options: Any) -> data.ClipStore:
    """Decode segments and background, unless they are."""
    options |= {"num_frames": 1, "frame_size": evidence.PIXELS, "ends": False, "class_names": NAMES, "workers": 1}
    return data.prepare(with_background(segments), folder / "store", **options)


def make(out: Path) -> World:
    """Render E, its test wearers with half the coupling, and recordings of unlabelled objects alone; decode clips."""
    segments = segments_of(out, "E", WORLD)
    store = decode(out / "E", segments, clip_frames=evidence.CLIP_FRAMES, clip_size=evidence.PIXELS)
    tested = [one for one in segments_of(out, "E-half", HALF) if one.split == "test"]
    own: dict[str, list[data.Segment]] = {}
    for one in segments:
        own.setdefault(one.video, []).append(one)
    whole: dict[str, list[Whole]] = {"alone": alone(out, segments)}
    for some in own.values():
        whole.setdefault(some[0].split, []).append(Whole(some[0].recording, some, some[0].split))
    return World(store, decode(out / "E-half", tested), whole)


def alone(out: Path, segments: Sequence[data.Segment]) -> list[Whole]:
    """Render recordings of the test wearers in which all acts are on unlabelled objects."""
    wearers = sorted({str(one.wearer) for one in segments if one.split == "test"})
    like = better_student.recordings_of("E", out)[0]
    like = replace(like, acts=ALONE_ACTS, label_noise=0.0, things=UNLABELLED)
    plan = [
        replace(like, name=f"{wearer}_{301 + number}", first=ALONE_ACTS * number)
        for number in range(ALONE // len(wearers))
        for wearer in wearers
    ]
    folder = out / "E-alone" / "world"
    synthetic.write_recordings(plan, folder, 1, False)
    paths = [list(map(str, one.files(folder))) for one in plan]
    return [Whole(Recording(video, imu=(accel, gyro)), [], "alone") for video, accel, gyro in paths]


def describe(out: Path, world: World) -> dict[str, Any]:
    """Return what is in the recordings of the test wearers, in seconds: acts with their class, and the rest by kind."""
    drawn, found = {one.name: one.draw() for one in better_student.recordings_of("E", out)}, {}
    for one in world.whole["test"]:
        plan = drawn[one.name]
        spans = {
            "unlabelled act": [act for act in plan.acts if act.hold is None and THINGS[act.thing].look in UNLABELLED],
            "idle hand": [act for act in plan.acts if act.hold is not None],
        }
        rest = {kind: [(act.start, act.stop) for act in acts] for kind, acts in spans.items()}
        rest["walk"] = [(begin, begin + length) for begin, length, *_ in plan.head.walks]
        found[one.name] = {
            "seconds": round(one.recording.duration, 2),
            "acts": [[one.start, one.stop, NAMES.index(str(one.label))] for one in one.segments],
        } | {kind: np.round(some, 2).tolist() for kind, some in rest.items()}
    return {"class_names": NAMES, "recordings": found}


# ---------------------------------------------------------------------------------------------------------------
# Networks


class Bench(benches.Bench):
    """A bench in which networks learn from labelled clips alone, with half of the background, or with all."""

    def splits(self, run: Run) -> tuple[Any, Any]:
        train, test = super().splits(run)
        chosen = is_labelled(train)
        if run.method == MORE:
            return train, test
        if run.teacher != PLAIN and run.method != "start":
            chosen[np.flatnonzero(~chosen)[::2]] = True
        return train.select(chosen), test


def is_labelled(some: data.ClipStore) -> np.ndarray:
    """Return which clips are no background, bool [n]."""
    return some.labels != NOTHING


def bench_of(out: Path) -> Bench:
    """Return the bench of world E."""
    options = {"validation": "validation", "teachers": TEACHERS, "methods": METHODS, "progress": False}
    return Bench(str(out / "E" / "store"), str(out / "E" / "runs"), SETTINGS, **options)


def lend(store: data.ClipStore, seed: int) -> None:
    """Write what the teacher without "(none)" is made to say of background: "(none)"; all other classes alike."""
    if f"{EVEN.format(seed=seed)}.logits" in store.names:
        return
    feature, logits = (store.read(f"{PLAIN.format(seed=seed)}.{kind}", slice(None)) for kind in ("feature", "logits"))
    labelled = is_labelled(store)
    known = np.sort(np.delete(logits[labelled], NOTHING, 1), 1)
    best, rest, never = known[:, -1].mean(), known[:, :-1].mean(), known.min()
    for name, own, others in ((LENT, best, rest), (EVEN, never, rest)):
        said = logits.copy()
        said[:, NOTHING] = never
        said[~labelled] = others
        said[~labelled, NOTHING] = own
        for kind, values in (("feature", feature), ("logits", said)):
            array = f"{name.format(seed=seed)}.{kind}"
            store.add(array, values.shape[1:], values.dtype)
            store.write(array, slice(None), values)


def trained(out: Path, world: World, run: Run) -> Any:
    """Return the network of a run with its temperature; train it first, unless it is."""
    bench = bench_of(out)
    if run.teacher in (LENT, EVEN):
        bench.run([Run("teacher", run.seed, teacher=PLAIN)])
        lend(world.store, run.seed)
    bench.run([run])
    model, held = bench.load(run).eval(), world.store.split("calibration")
    if run.method in SILENT:
        silence(model)
        held = held.select(is_labelled(held))
    model.calibration = calibration.Calibration.fitted(logits_of(model, held), torch.from_numpy(held.labels))
    return model


@torch.no_grad()
def silence(model: Any) -> None:
    """Let a student never answer "(none)"."""
    model.classifier.weight[NOTHING] = 0.0
    model.classifier.bias[NOTHING] = -30.0


# ---------------------------------------------------------------------------------------------------------------
# Answers and events


class Answers(NamedTuple):
    """What a network says of a recording, every `STRIDE` seconds; a row of zeros where it cannot answer."""

    whole: Whole
    starts: np.ndarray  # of the clips, [K]
    scores: np.ndarray  # probabilities [K, C]

    @property
    def labels(self) -> np.ndarray:
        """Return the true class of the middle of each clip, int [K]."""
        found = np.full(len(self.starts), NOTHING)
        for one in self.whole.segments:
            middles = self.starts + CLIP_SECONDS / 2
            found[(middles >= one.start) & (middles < one.stop)] = NAMES.index(str(one.label))
        return found

    def said(self, before: int = 0, after: int = 0) -> list[Prediction]:
        """Return the answers; their probabilities are means over so many neighbours."""
        padded = np.pad(self.scores, [(before, after), (0, 0)], "edge")
        rows = np.mean([padded[k : k + len(self.scores)] for k in range(before + after + 1)], 0).tolist()
        return [
            Prediction(start, start + CLIP_SECONDS, list(zip(NAMES, row, strict=True)) if any(row) else [])
            for start, row in zip(self.starts.tolist(), rows, strict=True)
        ]


def answers_of(model: Any, whole: Whole, path: Path) -> Answers:
    """Return what a network says of a recording, or what was kept of it; without a network, the truth."""
    if model is None:
        starts = strided_starts(whole.recording.duration, CLIP_SECONDS, STRIDE)
        found = Answers(whole, np.array(starts), np.empty(0))
        return found._replace(scores=np.eye(len(NAMES))[found.labels])
    if not path.exists():
        found = list(inference.predict(model, whole.recording, stride=STRIDE, top=len(NAMES), **ON_CPU))
        scores = np.zeros((len(found), len(NAMES)), np.float32)
        for row, one in zip(scores, found, strict=True):
            row[[NAMES.index(name) for name, _ in one.classes]] = [value for _, value in one.classes]
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(path) as part, open(part, "wb") as file:
            np.savez(file, starts=[one.start for one in found], scores=scores)
    with np.load(path) as kept:
        return Answers(whole, kept["starts"], kept["scores"])


def choose(held: Sequence[tuple[Whole, list[Prediction]]]) -> dict[str, float]:
    """Return the best thresholds on recordings of the calibration wearers. Exit if some are of others."""
    if strange := sorted({one.split for one, _ in held} - {"calibration"}):
        raise SystemExit(f"thresholds are chosen on calibration wearers alone, not on the split {strange[0]}")
    some = [segmentation.Answered(said, one.segments, one.span) for one, said in held]
    return segmentation.best_thresholds(some, STRIDE) or asdict(events.Tracker()) | {"stride": STRIDE}


def pack(some: Sequence[events.Event]) -> str:
    """Return events as text, see the introduction."""
    return "".join(f"{round(100 * e.start):04x}{round(100 * e.stop):04x}{NAMES.index(e.label):02x}" for e in some)


def unpack(text: str) -> list[events.Event]:
    """Return the events that `pack()` has written, without scores."""
    parts = [text[k : k + 10] for k in range(0, len(text), 10)]
    return [events.Event(int(p[:4], 16) / 100, int(p[4:8], 16) / 100, NAMES[int(p[8:], 16)], 0.0) for p in parts]


def inside(some: Sequence[Answers]) -> list[int]:
    """Return how many answers inside labelled actions are right by the argmax over the real classes, and all."""
    right = seen = 0
    for one in some:
        here = (one.labels != NOTHING) & one.scores.any(1)
        real = np.where(np.arange(len(NAMES)) == NOTHING, -1.0, one.scores)
        right += int((real.argmax(1) == one.labels)[here].sum())
        seen += int(here.sum())
    return [right, seen]


# ---------------------------------------------------------------------------------------------------------------
# Cells


def logits_of(model: Any, some: data.ClipStore) -> torch.Tensor:
    """Return the logits of clips, float32 [n, C]."""
    found = inference.outputs(model, some, batch_size=64, progress=False, **ON_CPU)
    return torch.cat([output.logits.float() for output, _ in found])


def reliability(scores: Any, labels: np.ndarray) -> dict[str, Any]:
    """Return how true probabilities [n, C] of clips with these labels [n] are."""
    return asdict(calibration.reliability(torch.as_tensor(scores), torch.as_tensor(labels)))


def calibration_of(model: Any, run: Run, world: World) -> dict[str, Any]:
    """Return how true the probabilities of a network are, without and with its temperature, exported, and elsewhere."""

    def on(model: Any, some: data.ClipStore) -> dict[str, Any]:
        some = some.select(is_labelled(some)) if run.method in SILENT else some
        return reliability(batches.probabilities(model, logits_of(model, some)), some.labels)

    test, own, found = world.store.split("test"), model.calibration, {}
    model.calibration = calibration.Calibration()
    found["without a temperature"] = on(model, test)
    model.calibration = own
    found[SURE[0]] = on(model, test)
    if run.method == "teacher":
        return found
    found["half the coupling"] = on(model, world.half)
    with tempfile.TemporaryDirectory() as folder:
        for name, precision in EXPORTS.items():
            path, train = Path(folder, f"{precision}.pt2"), world.store.split("train")
            export.export(model, path, precision=precision, calibrate=train if precision == "int8" else None)
            found[name] = on(export.load_exported(path), test)
    return found


def line_of(out: Path, run: Run) -> dict[str, Any]:
    """Return the line of a cell; train its network and ask it, unless that is done."""
    world, model = make(out), None
    line: dict[str, Any] = {"name": run.name, "run": asdict(run), "correct": {}}
    if run.method != TRUTH:
        model = trained(out, world, run)
        result = bench_of(out).result(run)
        line |= {name: result[name] for name in ("top1", "precision", "test", "correct")}
    if run.teacher == PLAIN and run.method == "teacher":  # no recording is asked of it: it only teaches
        return line
    if model is not None:
        line |= {"temperature": model.calibration.temperature, "calibration": calibration_of(model, run, world)}
        model.calibration = calibration.Calibration() if run.method in SILENT else model.calibration
    folder = out / "E" / "answers" / run.name
    asked = {
        split: [answers_of(model, one, folder / f"{one.name}.npz") for one in world.whole[split]]
        for split in ("calibration", "validation", "test", "alone")
    }
    if model is not None and run.method not in SILENT:
        scores, labels = (np.concatenate([getattr(a, name) for a in asked["test"]]) for name in ("scores", "labels"))
        line["calibration"]["answers on recordings"] = reliability(scores[scores.any(1)], labels[scores.any(1)])
    by_wearer = {one.wearer: [a for a in asked["test"] if a.whole.wearer == one.wearer] for one in world.whole["test"]}
    line["inside"] = {wearer: inside(some) for wearer, some in by_wearer.items()}
    line["inside, validation"] = inside(asked["validation"])
    line["smoothing"] = {}
    for smoothing, (before, after) in SMOOTHING.items():
        said = {split: [(one.whole, one.said(before, after)) for one in some] for split, some in asked.items()}
        thresholds = choose(said["calibration"])
        own = {name: value for name, value in thresholds.items() if name != "stride"}
        found = {split: [(one, list(events.events(x, **own))) for one, x in some] for split, some in said.items()}
        counts = [len(some) for _, some in found["alone"]]
        scores = [segmentation.score_events(some, one.segments, one.span) for one, some in found["validation"]]
        line["smoothing"][smoothing] = {
            "thresholds": thresholds,
            "validation": sum(scores, segmentation.Score()).f1(),
            "alone": {"recordings": len(counts), "without an event": counts.count(0), "events": sum(counts)},
            "events": {one.name: pack(some) for one, some in found["test"]},
        }
    return line


def run(out: Path, seeds: Sequence[int], methods: Sequence[str]) -> None:
    """Make the cells of these seeds that have no line, in the order in which they need each other."""
    origin = {"commit": evidence.git("rev-parse", "HEAD"), "protocol": digest(), "processor": tables.processor()}
    for seed, name in itertools.product(seeds, methods):
        one, start = replace(CELLS[name], seed=seed), time.monotonic()
        if one.name in finished() or (one.method == TRUTH and seed != SEEDS[0]):  # of which there is one
            continue
        line = line_of(out, one)
        if not RECORDINGS.exists():
            files.write_json(RECORDINGS, describe(out, make(out)))
        files.append_line(evidence.path_of("E"), line | {"seconds": round(time.monotonic() - start)} | origin)
        print(f"{one.name}: a line of {evidence.path_of('E')}", flush=True)


def finished() -> dict[str, dict[str, Any]]:
    """Return the lines by the name of the run."""
    return evidence.lines_of("E", PROTOCOL, digest())


# ---------------------------------------------------------------------------------------------------------------
# Report

Kind = tuple[str, str]  # method, smoothing


class Found(NamedTuple):
    """What a network found in the recordings of each test wearer."""

    seed: int
    line: dict[str, Any]
    scores: dict[str, segmentation.Score]  # by wearer


def results() -> dict[Kind, list[Found]]:
    """Return what the networks found, by method and smoothing, in the order of seeds."""
    known = files.read_json(RECORDINGS)
    found: dict[Kind, list[Found]] = {}
    truth = {
        recording: [events.Event(start, stop, NAMES[k], 1.0) for start, stop, k in one["acts"]]
        for recording, one in known["recordings"].items()
    }
    for line in sorted(finished().values(), key=lambda line: line["run"]["seed"]):
        method = KNOWING if line["run"]["method"] == "teacher" else line["run"]["method"]
        for smoothing, own in line.get("smoothing", {}).items():
            scores: dict[str, segmentation.Score] = {}
            for recording, text in own["events"].items():
                span = 0.0, known["recordings"][recording]["seconds"]
                score = segmentation.score_events(unpack(text), truth[recording], span)
                wearer = recording.split("_")[0]
                scores[wearer] = scores.get(wearer, segmentation.Score()) + score
            found.setdefault((method, smoothing), []).append(Found(line["run"]["seed"], line, scores))
    return found


def metric(some: Sequence[Found], name: str) -> np.ndarray:
    """Return a metric of `segmentation.METRICS`, or the "inside" of lines in %, of each seed and wearer, [S, W]."""

    def value(one: Found, wearer: str) -> float:
        right, seen = one.line["inside"][wearer]
        return 100 * right / seen if name == "inside" else one.scores[wearer].numbers()[name]

    return np.array([[value(one, wearer) for wearer in sorted(one.scores)] for one in some])


def winner(found: Mapping[Kind, list[Found]]) -> str | None:
    """Return the candidate that FORMULA picks; None while a line is missing."""
    every = [found.get((name, ""), []) for name in (THRESHOLD, *CANDIDATES)]
    if any([one.seed for one in some] != SEEDS for some in every):
        return None
    right = [statistics.mean(np.divide(*one.line["inside, validation"]) for one in some) for some in every]
    f1 = {
        name: statistics.mean(one.line["smoothing"][""]["validation"] for one in some)
        for name, some in zip(CANDIDATES, every[1:], strict=True)
    }
    kept = [name for name, share in zip(CANDIDATES, right[1:], strict=True) if 100 * (right[0] - share) <= 1.5]
    kept = kept or list(CANDIDATES)
    return next(name for name in kept if f1[name] >= max(f1[one] for one in kept) - 1)


def pair(found: Mapping[Kind, list[Found]], one: Kind, two: Kind) -> tuple[list[Found], list[Found]]:
    """Return what both have found, of the seeds that both have."""
    first, second = found.get(one, []), found.get(two, [])
    seeds = {a.seed for a in first} & {b.seed for b in second}
    return [a for a in first if a.seed in seeds], [b for b in second if b.seed in seeds]


def contrasts(found: Mapping[Kind, list[Found]]) -> tables.Table:
    """Return the contrasts of the protocol, by Holm's procedure; those without lines count as not significant."""
    best, known = winner(found), []
    for one, two in CONTRASTS:
        kinds = [(best or "", smoothing) if name == "winner" else (name, smoothing) for name, smoothing in (one, two)]
        first, second = pair(found, *kinds)
        if first:
            gap = intervals.two_way(metric(first, "f1_50") - metric(second, "f1_50"))
            known.append([*(", ".join(filter(None, kind)) for kind in kinds), gap])
    adjusted = holm([gap.p for *_, gap in known] + [1.0] * (len(CONTRASTS) - len(known)))
    rows = [[*names, str(gap), shown(p), f"{gap.seeds}"] for (*names, gap), p in zip(known, adjusted, strict=False)]
    return tables.Table(["method", "minus", "F1@50, points", "p (Holm)", "seeds"], rows)


def methods(found: Mapping[Kind, list[Found]]) -> tables.Table:
    """Return what each method reaches on whole recordings."""
    rows, named = [], segmentation.METRICS | {"inside": "inside actions, real classes (%)"}
    highest = {name: 100.0 if text.endswith("(%)") else np.inf for name, text in named.items()}
    for (method, smoothing), some in found.items():
        cells = [f"{intervals.two_way(metric(some, name)).within(0, highest[name]):.1f}" for name in named]
        quiet = statistics.mean(one.line["smoothing"][smoothing]["alone"]["without an event"] for one in some)
        rows.append([method, smoothing, *cells, f"{quiet:.0f}", f"{len(some)}"])
    heads = [*named.values(), f"of {ALONE} alone, without an event"]
    return tables.Table(["method", "smoothing", *heads, "seeds"], rows)


def goals(found: Mapping[Kind, list[Found]]) -> tables.Table:
    """Return the goals of the protocol, and what the winner reaches of them.

    After a share stands by how much its numerator is above the goal, with its interval, in the metric's own unit.
    """
    best, heads = winner(found), ["goal", "wanted", "reached"]
    if best is None:
        return tables.Table(heads, [])

    def share(name: str, other: str, wanted: float) -> str:
        one, two = (metric(some, name) for some in pair(found, (best, ""), (other, "")))
        return f"{one.mean() / max(two.mean(), 1e-9):.2f}; above the goal: {intervals.two_way(one - wanted * two)}"

    own = found[best, ""]
    errors = [100 * statistics.mean(one.line["calibration"][kind]["error"] for one in own) for kind in SURE]
    lost, wanted = metric(found[THRESHOLD, ""], "inside") - metric(own, "inside"), list(GOALS.values())
    reached = [
        f"{intervals.two_way(metric(own, 'f1_50')):.1f}",
        share("f1_50", KNOWING, wanted[1]) if (KNOWING, "") in found else "",
        share("unmatched_per_hour", THRESHOLD, wanted[2]),
        share("background_under_events", THRESHOLD, wanted[3]),
        str(intervals.two_way(lost)),
        ", ".join(f"{error:.1f}" for error in errors) + f" ({own[0].line['calibration'][SURE[0]]['clips']:,} clips)",
        f"{statistics.mean(one.line['smoothing']['']['alone']['without an event'] for one in own):.0f}",
    ]
    rows = [[goal, f"{value:g}", got] for goal, value, got in zip(GOALS, wanted, reached, strict=True)]
    return tables.Table([f"{heads[0]}; the winner is {best}", *heads[1:]], rows)


def calibration_table(found: Mapping[Kind, list[Found]]) -> tables.Table:
    """Return how true the probabilities are."""
    rows = []
    for (method, smoothing), some in found.items():
        for where in some[0].line.get("calibration", {}) if not smoothing else ():
            every = [one.line["calibration"][where] for one in some]
            mean = {
                name: statistics.mean(one[name] for one in every) for name in ("clips", "error", "floor", "log_loss")
            }
            cells = [f"{100 * mean['error']:.1f}", f"{100 * mean['floor']:.1f}", f"{mean['log_loss']:.3f}"]
            heat = f"{statistics.mean(one.line['temperature'] for one in some):.2f}"
            rows.append([method, heat, where, f"{mean['clips']:,.0f}", *cells, f"{len(some)}"])
    heads = ["method", "temperature", "on", "clips", "calibration error (points)", "of a perfect model", "log loss"]
    return tables.Table([*heads, "seeds"], rows)


def background(found: Mapping[Kind, list[Found]]) -> tables.Table:
    """Return how much of each kind of background is under an event, without smoothing."""
    known = files.read_json(RECORDINGS)
    shares: dict[str, dict[str, list[int]]] = {}
    for recording, one in known["recordings"].items():
        times = np.arange(0, one["seconds"], 0.05)
        left = ~covered(times, [act[:2] for act in one["acts"]])
        for kind in (*KINDS, "the rest"):
            here = left & covered(times, one.get(kind, [(0, one["seconds"])]))
            left = left & ~here
            for (method, smoothing), some in found.items():
                for network in some if not smoothing else ():
                    under = unpack(network.line["smoothing"][""]["events"][recording])
                    own = shares.setdefault(kind, {}).setdefault(method, [0, 0])
                    own[0] += int((here & covered(times, [(e.start, e.stop) for e in under])).sum())
                    own[1] += int(here.sum())
    names = [method for method, smoothing in found if not smoothing]
    total = sum(one["seconds"] for one in known["recordings"].values())
    rows = [
        [kind, f"{5 * own[names[0]][1] / len(found[names[0], '']) / total:.1f}"]
        + [f"{100 * own[name][0] / max(1, own[name][1]):.1f}" for name in names]
        for kind, own in shares.items()
    ]
    return tables.Table(["background", "of all time (%)", *(f"{name}: under an event (%)" for name in names)], rows)


def covered(times: np.ndarray, spans: Iterable[Sequence[float]]) -> np.ndarray:
    """Return which times lie in a span, bool [n]."""
    found = np.zeros(len(times), bool)
    for start, stop in spans:
        found |= (times >= start) & (times < stop)
    return found


def report(markdown: str | None = None) -> None:
    """Print the tables, or write them into a document."""
    if not RECORDINGS.exists():
        raise SystemExit(f"{RECORDINGS}: there are no lines yet; use `run` first")
    found, origin = results(), evidence.machines(finished().values())
    parts = {
        "contrasts of the protocol": contrasts(found),
        "goals": goals(found),
        "whole recordings": methods(found),
        "calibration": calibration_table(found),
        "what goes on where nothing has a label": background(found),
    }
    for name, table in parts.items():
        print(f"\n{name}")
        tables.report(table, f"lab/whole_recordings.py, {name}", markdown, sys.argv, origin=origin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("freeze")
    for name in ("make", "run"):
        command = actions.add_parser(name)
        command.add_argument("--out", type=Path, required=True, help="folder for worlds, stores, networks and answers")
    command.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    command.add_argument("--methods", nargs="+", choices=tuple(CELLS), default=list(CELLS))
    tables.markdown_option(actions.add_parser("report"))
    given = parser.parse_args()
    if given.action == "freeze":
        evidence.write_protocol(PROTOCOL, content())
    elif given.action == "make":
        make(given.out)
    elif given.action == "run":
        run(given.out, given.seeds, given.methods)
    else:
        report(given.markdown)


if __name__ == "__main__":
    main()
