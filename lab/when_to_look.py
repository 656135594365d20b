"""How old a frame may be, and when a sleeping camera should take one: curves and gates on world A of `evidence.py`.

    python -m lab.evidence run --out EV            # also trains the students; then:
    python -m lab.when_to_look measure --out EV    # appends lines to results/ages.jsonl and results/looks.jsonl
    python -m lab.when_to_look report --markdown results/when_to_look.md    # tables and a figure, from the lines

Two kinds of student are compared, with one and two frames: those of the main comparison, whose frames lie at fixed
places of the clip, and students whose frames are up to 4 s older than the clip's end (sampling "ages"). Accuracy by age
is that of test clips; a second frame is 1 s older than the first.

Gates are compared on the untrimmed recordings. An answer is due every 0.5 s, and the camera could take a frame with
each. All windows and frames are encoded once and all pairs are fused once, so a gate is a table look-up
(`gates.simulate()`). The threshold of a gate is chosen on the recordings of other wearers, a world of seed 1, so that
it makes 3, 6, 12 or 30 frame requests a minute there; the requests ("looks") in the tables are those on the test
wearers. All is measured again on other recordings, world C, and with frames of at most 4 s, the limit of a `Stream`.
Accuracy is that of answers whose clip has its middle in an annotated act; a third of the time is annotated. F1 is that
of events (`events.Tracker`) that overlap an annotated act of their label by half of both together. Without an annotated
part for training, background is not a class: between acts a good student should not give an event.

A frame request decodes one frame. GMACs a second are those of the student, 2 answers a second, and of a gate's own
embedding. A camera is on for its start-up and one frame (`--frame-time` seconds) per request. `report` adds the power
of requests and operations for the energies that it is given; it knows none.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from egodistill import CLIP_SECONDS, IMU_SAMPLES, EgoDistillError, data
from egodistill.deploy import events, gates
from egodistill.engine import batches
from egodistill.inference import Prediction
from egodistill.support import files, tables
from egodistill.world import behaviour, synthetic
from lab import contrasts, evidence, figures, intervals, options
from lab.benches import Run

AGES_FILE, LOOKS_FILE = evidence.RESULTS / "ages.jsonl", evidence.RESULTS / "looks.jsonl"
FIGURES = evidence.RESULTS.parent / "figures"
BINS = evidence.BINS
SECOND = 2  # bins between the two frames of a student with N = 2: 1 s
EVERY = 0.5  # seconds between answers
# {age in seconds up to which a frame serves an answer: looks a minute}; 4 s is what `Stream` accepts unless told.
BUDGETS: dict[float, tuple[int, ...]] = {40.0: (3, 6, 12, 30), 4.0: (20, 30)}
# Settings of `synthetic.render()`: worlds that have untrimmed recordings and little else, and those of each table.
SMALL: dict[str, Any] = {"train_acts": 1, "train_wearers": 1, "test_acts": 10, "test_wearers": 10, "untrimmed": 10}
CHOSEN_ON = SMALL | {"seed": 1}  # for thresholds
RECORDINGS = {"A": evidence.WORLD | evidence.WORLDS["A"] | {"seed": 0}, "C": SMALL | {"seed": 2}}
STARTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # probabilities at which an event begins, of which one is chosen
DRAWS = 20  # of the random gate
START_UPS = (0.0, 0.3, 1.0)  # seconds until a camera that was off begins a picture


def students() -> dict[str, Run]:
    """Return the students by name; their seeds are those of the main comparison."""
    one = Run("EgoDistill", teacher=evidence.TEACHER)
    runs = {"fixed, N = 1": one, "fixed, N = 2": replace(one, frames=2)}
    return runs | {name.replace("fixed", "ages"): replace(run, sampling="ages") for name, run in runs.items()}


# ---------------------------------------------------------------------------------------------------------------
# Students


def load(out: Path, run: Run) -> Any:
    """Return a trained student."""
    return evidence.trained(evidence.ANY_AGE if run.sampling == "ages" else "A", out, run)


# ---------------------------------------------------------------------------------------------------------------
# Accuracy by the age of the frame


@torch.no_grad()
def measure_ages(out: Path, seed: int) -> None:
    """Append a line for each student of a seed and each age: which test clips it has right."""
    store = data.ClipStore(out / evidence.slug(evidence.ANY_AGE) / "store").split("test")
    name = f"frames_{BINS}_ages"
    wearers = [str(wearer) for wearer in store.wearers]
    done = {(line["student"], line["seed"]) for line in files.read_lines(AGES_FILE, "student", "seed")}
    for kind, run in students().items():
        if (kind, seed) in done:
            continue
        model, right, ages = load(out, replace(run, seed=seed)), [], []
        newest = range(BINS - SECOND if run.frames == 2 else BINS)
        for rows in torch.arange(len(store)).split(256):
            numbers = rows.tolist()
            frames, imu = (torch.from_numpy(store.read(array, numbers)) for array in (name, "imu"))
            labels = torch.as_tensor(store.labels)[rows]
            starts = np.array([store.clips[row]["start"] for row in numbers])
            ages.append(starts[:, None] + CLIP_SECONDS - store.read(f"{name}.times", numbers)[:, ::-1])
            image, motion = model.encode_frames(frames.flatten(0, 1)[:, None], 1), model.encode_imu(imu)
            image = image[:, 0].unflatten(0, frames.shape[:2]).flip(1)  # [B, ages, d], the newest first
            shown = [image[:, [k + SECOND, k] if run.frames == 2 else [k]] for k in newest]
            found = [model.fuse(model.aggregate(one), motion).logits.argmax(1) for one in shown]
            right.append(torch.stack(found, 1).eq(labels[:, None]).numpy())
        hits, ages = np.concatenate(right), np.concatenate(ages)
        for k in newest:
            correct = contrasts.pack(contrasts.split_by_wearer(hits[:, k], wearers))
            line = {"student": kind, "seed": seed, "age": float(ages[:, k].mean()), "correct": correct}
            files.append_line(AGES_FILE, line | evidence.origin_of_lines())


# ---------------------------------------------------------------------------------------------------------------
# Gates


@dataclass
class Day:
    """An untrimmed recording through the eyes of one student.

    `scores` [K, A, C] are the probabilities of answer k with the frame of the answer a before, for A ages; `truth` is
    the label of each answer's middle, -1 between the acts, and `acts` are (start, stop, label).
    """

    wearer: str
    stops: np.ndarray
    windows: list[np.ndarray]
    scores: np.ndarray
    truth: np.ndarray
    acts: list[tuple[float, float, int]]

    @property
    def max_age(self) -> float:
        """The largest age of a frame in seconds, and a little more."""
        return (self.scores.shape[1] - 1) * EVERY + 0.01


@torch.no_grad()
def days(model: Any, world: synthetic.World, max_age: float) -> list[Day]:
    """Return the untrimmed recordings of a world, with the scores of a student of one frame up to an age of it."""
    names, found = sorted(behaviour.VERBS), []
    segments = data.read_epic_kitchens(world.untrimmed, world.root, evaluation_wearers=world.test_wearers)
    for video in sorted({segment.video for segment in segments}):
        own = [segment for segment in segments if segment.video == video]
        recording = own[0].recording
        stops = np.arange(CLIP_SECONDS, recording.probe().duration - 0.1, EVERY)
        motion = recording.motion()
        windows = [motion.window(stop - CLIP_SECONDS) for stop in stops]
        frames = torch.from_numpy(data.read_frames(video, stops, size=evidence.PIXELS))
        image = torch.cat([model.encode_frames(part[:, None], 1) for part in frames.split(64)])
        moves = torch.cat([model.encode_imu(part) for part in torch.from_numpy(np.stack(windows)).split(64)])
        scores = np.zeros((len(stops), round(max_age / EVERY) + 1, len(names)), np.float32)
        for a in range(min(scores.shape[1], len(stops))):
            fused = model.fuse(model.aggregate(image[: len(stops) - a]), moves[a:])
            scores[a:, a] = fused.logits.softmax(1).numpy()
        acts = [(one.start, one.stop, names.index(one.label)) for one in own]
        middles = stops - CLIP_SECONDS / 2
        truth = np.full(len(stops), -1)
        for start, stop, label in acts:
            truth[(middles >= start) & (middles < stop)] = label
        found.append(Day(str(own[0].wearer), stops, windows, scores, truth, acts))
    return found


def looked(gate: gates.Gate, day: Day) -> tuple[np.ndarray, int]:
    """Return the probabilities of each answer [K, C], zeros without a frame, and the number of frame requests."""
    looks = gates.simulate(gate, day.windows, day.stops, day.stops, max_age=day.max_age)
    return chosen(day, looks.used), len(looks.taken)


def chosen(day: Day, used: np.ndarray) -> np.ndarray:
    """Return the probabilities of each answer with these frames, which are numbered as the answers are."""
    k = np.arange(len(used))
    return np.where((used >= 0)[:, None], day.scores[k, np.clip(k - used, 0, day.scores.shape[1] - 1)], 0.0)


def best(day: Day, price: float) -> tuple[np.ndarray, int]:
    """Return the same for the frame requests of the oracle."""
    right = (day.scores.argmax(2) == day.truth[:, None]) & (day.truth >= 0)[:, None]
    looks = best_requests(right, price)
    k, ages = np.arange(len(looks)), day.scores.shape[1]
    last = np.maximum.accumulate(np.where(looks, k, -ages - 1))
    return chosen(day, np.where(k - last < ages, last, -1)), int(looks.sum())


def score(day: Day, probabilities: np.ndarray, start: float) -> dict[str, int]:
    """Return the counts of a recording: right and seen answers, and events that match an act, or not."""
    names = sorted(behaviour.VERBS)
    seen = day.truth >= 0
    counts = {"right": int((probabilities.argmax(1) == day.truth)[seen & probabilities.any(1)].sum())}
    answers = [
        Prediction(float(stop) - CLIP_SECONDS, float(stop), [(names[int(row.argmax())], float(row.max()))])
        for stop, row in zip(day.stops, probabilities, strict=True)
        if row.any()
    ]
    found = list(events.events(answers, start=start, end=0.7 * start))
    left, hits = list(day.acts), 0
    for event in found:
        for act in left:
            common = min(event.stop, act[1]) - max(event.start, act[0])
            whole = max(event.stop, act[1]) - min(event.start, act[0])
            if names[act[2]] == event.label and common >= 0.5 * whole:
                left.remove(act)
                hits += 1
                break
    return counts | {"seen": int(seen.sum()), "hits": hits, "events": len(found), "acts": len(day.acts)}


def f1(counts: dict[str, int]) -> float:
    return 200 * counts["hits"] / max(1, counts["events"] + counts["acts"])


def best_requests(right: np.ndarray, price: float) -> np.ndarray:
    """Return the requests that maximise right answers minus `price` per request: bool [K], by dynamic programming.

    An answer without a request among the last A answers, its own included, counts as wrong. No gate can have more right
    answers with as many requests: this is an oracle, which knows the labels.

    Args:
        right: bool [K, A]: right[k, a] is whether answer k is right with the frame that was taken a answers before it.
        price: The right answers that a request costs.
    """
    count, ages = right.shape
    gains = np.concatenate([right.astype(float), np.zeros((count, 1))], axis=1)
    later = np.minimum(np.arange(ages + 1) + 1, ages)  # the age at the next answer
    value, choices = np.zeros(ages + 1), np.zeros((count, ages + 1), bool)
    for k in reversed(range(count)):
        look = gains[k, 0] - price + value[later[0]]
        keep = gains[k] + value[later]
        choices[k], value = look > keep, np.maximum(look, keep)
    looks, age = np.zeros(count, bool), ages
    for k in range(count):
        looks[k] = choices[k, age]
        age = later[0] if looks[k] else later[age]
    return looks


class Random:
    """Gate that requests a frame with a fixed probability after each answer, whatever happens."""

    def __init__(self, probability: float, seed: int) -> None:
        self.probability, self.rng = probability, np.random.default_rng(seed)

    def __call__(self, window: np.ndarray, ages: Sequence[float], stop: float) -> bool:
        return bool(self.rng.random() < self.probability)


class Changed:
    """Gate of the literature: request a frame when a student's IMU embedding has changed since the last request.

    `distance` is the cosine distance, 0 to 2, from which on the head moves in another way; the first window counts as a
    request. `known` are the embeddings of windows that other gates of the student have computed, by id.
    """

    def __init__(self, model: Any, distance: float, known: dict[int, np.ndarray]) -> None:
        self.model, self.distance, self.known_windows = model, distance, known
        self.last: np.ndarray | None = None

    def __call__(self, window: np.ndarray, ages: Sequence[float], stop: float) -> bool:
        now = self.embed(window)
        if self.last is None:
            self.last = now
        if is_far := 1 - float(now @ self.last) >= self.distance:
            self.last = now
        return is_far

    @torch.no_grad()
    def embed(self, window: np.ndarray) -> np.ndarray:
        """Return the embedding of a window, float [D] of length 1."""
        if id(window) not in self.known_windows:
            vector = self.model.encode_imu(torch.from_numpy(np.asarray(window, np.float32))[None]).flatten().numpy()
            self.known_windows[id(window)] = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return self.known_windows[id(window)]


class Student(NamedTuple):
    """A student, and the embeddings of windows that its gates have computed."""

    model: Any
    known: dict[int, np.ndarray]


# {name: (gate of a `Student`, its threshold and the number of a draw; smallest and largest threshold)}; looks become
# fewer as the threshold grows.
GATES: dict[str, tuple[Callable[[Student, float, int], gates.Gate], float, float]] = {
    "fixed period": (lambda student, x, draw: gates.Period(x), 0.05, 60.0),
    "random": (lambda student, x, draw: Random(math.exp(-x), draw), 0.0, 8.0),
    "head moves": (lambda student, x, draw: gates.Moved(x), 0.0, 20.0),
    "head turned": (lambda student, x, draw: gates.Turned(x), 0.0, 20.0),
    "embedding changed": (lambda student, x, draw: Changed(student.model, x, student.known), 0.0, 2.0),
}


def threshold_for(budget: float, looks: Callable[[float], float], low: float, high: float) -> float:
    """Return the threshold at which a gate makes `budget` frame requests a minute, or the nearest that it can reach."""
    tried = {}
    for _ in range(14):
        middle = (low + high) / 2
        tried[middle] = looks(middle)
        low, high = (middle, high) if tried[middle] > budget else (low, middle)
    return min(tried, key=lambda x: abs(tried[x] - budget))


def minutely(looks: Sequence[int], some: Sequence[Day]) -> float:
    return 60 * sum(looks) / sum(EVERY * len(day.stops) for day in some)


def per_minute(make: Callable[[], gates.Gate], some: Sequence[Day]) -> float:
    """Return the frame requests a minute of a gate, which is made anew for each recording."""
    return minutely([looked(make(), day)[1] for day in some], some)


def measure_looks(out: Path, seed: int, world: str, max_age: float) -> None:
    """Append a line for each student of one frame, gate and budget: counts of each test wearer of a world."""
    lines = files.read_lines(LOOKS_FILE, "student", "seed", "world", "max_age")
    done = {(line["student"], line["seed"], line["world"], line["max_age"]) for line in lines}
    for kind, run in students().items():
        if run.frames > 1 or (kind, seed, world, max_age) in done:
            continue
        model = load(out, replace(run, seed=seed))
        validation = days(model, synthetic.render(out / "looks", **CHOSEN_ON), max_age)
        folder = out / world / "world" if world == "A" else out / f"looks-{world}"
        test = days(model, synthetic.render(folder, **RECORDINGS[world]), max_age)
        about = {"student": kind, "seed": seed, "world": world, "max_age": max_age}
        for line in gate_lines(model, validation, test, BUDGETS[max_age]):
            files.append_line(LOOKS_FILE, about | line | evidence.origin_of_lines())


@torch.no_grad()
def gmacs_of_parts(model: Any) -> dict[str, float]:
    """Return the multiply-adds of a frame, of the head motion of a window and of an answer from both, in billions."""
    frame = torch.zeros(1, 1, 3, evidence.PIXELS, evidence.PIXELS, dtype=torch.uint8)
    image, motion = model.encode_frames(frame, 1), model.encode_imu(torch.zeros(1, IMU_SAMPLES, 6))
    calls = {
        "frame": lambda: model.encode_frames(frame, 1),
        "motion": lambda: model.encode_imu(torch.zeros(1, IMU_SAMPLES, 6)),
        "answer": lambda: model.fuse(model.aggregate(image), motion),
    }
    found = {}
    for name, call in calls.items():
        with FlopCounterMode(display=False) as counter:
            call()
        found[name] = counter.get_total_flops() / 2e9
    return found


def gate_lines(
    model: Any, validation: Sequence[Day], test: Sequence[Day], budgets: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the lines of all gates and budgets for one student."""
    student, costs = Student(model, {}), gmacs_of_parts(model)
    always = [(day, looked(lambda *_: True, day)[0]) for day in validation]
    start = max(STARTS, key=lambda x: statistics.mean(f1(score(day, p, x)) for day, p in always))

    def line(name: str, budget: float, threshold: float, plays: list[tuple[Day, np.ndarray, int]]) -> dict[str, Any]:
        wearers: dict[str, dict[str, float]] = {}
        for day, probabilities, looks in plays:
            counts = score(day, probabilities, start) | {"looks": looks, "seconds": EVERY * len(day.stops)}
            own = wearers.setdefault(day.wearer, dict.fromkeys(counts, 0))
            wearers[day.wearer] = {key: own[key] + value for key, value in counts.items()}
        about = {"gate": name, "budget": budget, "threshold": threshold, "start": start, "gmacs": costs}
        return about | {"wearers": wearers}

    found = [
        line("always", 120, 0.0, [(day, *looked(lambda *_: True, day)) for day in test]),
        line("when too old", 0, 0.0, [(day, *looked(lambda *_: False, day)) for day in test]),
    ]
    for budget in budgets:
        for name, (make, low, high) in GATES.items():
            x = threshold_for(
                budget, lambda x, make=make: per_minute(lambda: make(student, x, 0), validation), low, high
            )
            draws = range(DRAWS if name == "random" else 1)
            plays = [(day, *looked(make(student, x, k), day)) for day in test for k in draws]
            found.append(line(name, budget, x, plays))
        price = threshold_for(budget, lambda x: minutely([best(day, x)[1] for day in validation], validation), 0.0, 9.0)
        found.append(line("oracle", budget, price, [(day, *best(day, price)) for day in test]))
    return found


# ---------------------------------------------------------------------------------------------------------------
# Report


def by_age() -> list[tuple[str, float, intervals.Interval]]:
    """Return the accuracy of each student at each age of the frame, with intervals over seeds and wearers."""
    some: dict[tuple[str, int], list[contrasts.Outcome]] = {}
    ages: dict[int, list[float]] = {}
    order: dict[tuple[str, int], int] = {}
    for line in files.read_lines(AGES_FILE, "student", "seed", "age", "correct"):
        which = (line["student"], line["seed"])
        k = order[which] = order.get(which, -1) + 1
        outcome = contrasts.Outcome(line["student"], line["seed"], contrasts.unpack(line["correct"]))
        some.setdefault((line["student"], k), []).append(outcome)
        ages.setdefault(k, []).append(line["age"])
    return [(kind, statistics.mean(ages[k]), contrasts.accuracy(own)) for (kind, k), own in some.items()]


def curve() -> tables.Table:
    """Return the table of accuracy by age."""
    values = {(kind, age): one for kind, age, one in by_age()}
    kinds, ages = list(dict.fromkeys(kind for kind, _ in values)), sorted({age for _, age in values})
    found = [[values.get((kind, age)) for kind in kinds] for age in ages]
    rows = [[f"{age:.2f}", *(f"{one:.1f}" if one else "" for one in row)] for age, row in zip(ages, found, strict=True)]
    return tables.Table(["age of the newest frame (s)", *(f"{kind} (%)" for kind in kinds)], rows)


@dataclass(frozen=True)
class Camera:
    """What a frame request costs: seconds to take and read a frame, and, if they are known, energies in joules."""

    frame_time: float = 1 / 30
    look_energy: float | None = None
    gmac_energy: float | None = None

    def __post_init__(self) -> None:
        energies = {"look_energy": self.look_energy, "gmac_energy": self.gmac_energy}
        given = {name: value for name, value in energies.items() if value is not None}
        for name, value in {"frame_time": self.frame_time, **given}.items():
            batches.require_number(name, value, 0)
        if len(given) == 1:
            raise EgoDistillError("the power needs both energies: give look_energy and gmac_energy, or neither")

    def on(self, looks: float, start_up: float) -> float:
        """Return the share of time in which the camera is on, in %, for `looks` frame requests a minute."""
        return 100 * min(1.0, looks * (start_up + self.frame_time) / 60)

    def power(self, looks: float, gmacs: float) -> float | None:
        """Return the mean power in W for `looks` frame requests a minute and GMACs a second; None without energies."""
        if self.look_energy is None or self.gmac_energy is None:
            return None
        return looks / 60 * self.look_energy + gmacs * self.gmac_energy


class Played:
    """A gate at one budget: the lines of all seeds of one kind of student."""

    def __init__(self, lines: Sequence[dict[str, Any]]) -> None:
        self.lines = sorted(lines, key=lambda line: line["seed"])
        self.right = self.grid(lambda one: 100 * one["right"] / one["seen"])
        self.looks = float(self.grid(lambda one: 60 * one["looks"] / one["seconds"]).mean())
        self.f1 = float(self.grid(f1).mean())

    def grid(self, value: Callable[[dict[str, Any]], float]) -> np.ndarray:
        """Return a value of each seed and wearer, float [S, W]."""
        return np.array([[value(line["wearers"][name]) for name in sorted(line["wearers"])] for line in self.lines])

    def minus(self, other: Played) -> intervals.Interval:
        """Return by how many points more answers are right than with another gate, paired by seed and wearer."""
        return intervals.two_way(self.right - other.right).within(-100, 100)

    @property
    def gmacs(self) -> float:
        """Billions of multiply-adds a second."""
        costs, answers = self.lines[0]["gmacs"], 1 / EVERY
        windows = 2 if self.lines[0]["gate"] == "embedding changed" else 1  # the gate embeds each window itself
        return self.looks / 60 * costs["frame"] + answers * (windows * costs["motion"] + costs["answer"])


def played(kind: str, world: str = "A", max_age: float = max(BUDGETS)) -> dict[tuple[float, str], Played]:
    """Return what each gate reached with one kind of student, {(wanted frame requests a minute, gate): ...}."""
    groups: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for line in files.read_lines(LOOKS_FILE, "student", "seed", "world", "max_age", "gate", "budget", "wearers"):
        if (line["student"], line["world"], line["max_age"]) == (kind, world, max_age):
            groups.setdefault((line["budget"], line["gate"]), []).append(line)
    return {key: Played(groups[key]) for key in sorted(groups, key=lambda key: key[0])}


def gate_table(found: Mapping[tuple[float, str], Played], camera: Camera) -> tables.Table:
    """Return what the gates of `played()` reach, and the difference to the fixed period."""
    rows = []
    for (budget, gate), one in found.items():
        base = found.get((budget, "fixed period"))
        gap = str(one.minus(base)) if base and base is not one else ""
        right = intervals.two_way(one.right).within(0, 100)
        cells = [f"{one.looks:.1f}", f"{right:.1f}", gap, f"{one.f1:.1f}", f"{one.gmacs:.3f}"]
        cells += [f"{camera.on(one.looks, start_up):.0f}" for start_up in START_UPS]
        if (power := camera.power(one.looks, one.gmacs)) is not None:
            cells.append(f"{1000 * power:.1f}")
        rows.append([str(budget), gate, *cells])
    header = ["wanted", "gate", "looks a minute", "answers right (%)", "minus fixed period", "events, F1 (%)"]
    header += ["GMACs a second", *(f"camera on (%), {seconds:g} s" for seconds in START_UPS)]
    return tables.Table(header + ["power (mW)"] * (len(rows) > 0 and len(rows[0]) > len(header)), rows)


def default_table() -> tables.Table:
    """Return what the default of `Stream` and a camera that is always on gain over 30 frame requests at a fixed period.

    Frames are of up to 4 s, the student is that of all ages.
    """
    rows = []
    for world in RECORDINGS:
        found = played("ages, N = 1", world, 4.0)
        if base := found.get((30, "fixed period")):
            for key in ((20, "head moves"), (120, "always")):
                one = found[key]
                rows.append([world, key[1], f"{one.looks:.1f}", str(one.minus(base))])
    return tables.Table(["world", "gate", "looks a minute", "minus fixed period, 30 looks"], rows)


def figure(stem: Path) -> list[Path]:
    """Draw accuracy by age of the frame, and by frame requests a minute for each gate; return the .png and .svg."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = drawing.subplots(1, 2)
    styles = {"fixed": {"color": "#0072B2", "ls": "--"}, "ages": {"color": "#D55E00"}}
    for kind in students():
        some, (trained, frames) = [(age, one) for name, age, one in by_age() if name == kind], kind.split(", ")
        ages, means = [age for age, _ in some], [one.mean for _, one in some]
        spread = [[one.mean - one.low for _, one in some], [one.high - one.mean for _, one in some]]
        marker = {"marker": "o" if frames == "N = 1" else "s", "mfc": "white" if frames == "N = 2" else None}
        label = {"fixed": "trained on frames of one age", "ages": "trained on all ages"}[trained] + f", {frames}"
        left.errorbar(ages, means, yerr=spread, capsize=3, label=label, **styles[trained], **marker)
    left.set(xlabel="age of the newest frame at the end of the clip (s)", ylabel="top-1 (%)")
    left.set_title("Test clips", fontsize=11)
    curves: dict[str, list[Played]] = {}
    for (_, gate), one in played("ages, N = 1").items():
        curves.setdefault(gate, []).append(one)
    colors = dict(zip(GATES, ("#000000", "#999999", "#E69F00", "#D55E00", "#009E73"), strict=True))
    for gate, some in curves.items():
        if gate in GATES or gate == "oracle":
            some = sorted(some, key=lambda one: one.looks)
            style = {"color": "#CC79A7", "ls": ":"} if gate == "oracle" else {"color": colors[gate], "marker": "."}
            right.plot([one.looks for one in some], [one.right.mean() for one in some], label=gate, **style)
    right.axhline(curves["always"][0].right.mean(), color="#555555", lw=0.8, ls="--", label="always (120)")
    right.set(xscale="log", xlabel="looks a minute", ylabel="right answers within acts (%)")
    right.set_xticks(BUDGETS[40.0], map(str, BUDGETS[40.0]))
    right.minorticks_off()
    right.set_title("Untrimmed recordings, student of all ages, N = 1", fontsize=11)
    for axes in (left, right):
        axes.grid(alpha=0.35)
        axes.legend(loc="best", framealpha=0.8, fontsize=8)
    return figures.save(drawing, stem)


def main() -> None:
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = top.add_subparsers(dest="command", required=True)
    for name in ("measure", "report"):
        parser = commands.add_parser(name)
        if name == "report":
            tables.markdown_option(parser)
            parser.add_argument(
                "--frame-time", type=float, default=Camera.frame_time, help="seconds to take and read one"
            )
            parser.add_argument("--look-energy", type=float, metavar="J", help="of the camera, for each look")
            parser.add_argument("--gmac-energy", type=float, metavar="J", help="of 10^9 multiply-adds")
            continue
        parser.add_argument("--out", type=Path, required=True, help="folder of evidence.py")
        parser.add_argument("--seeds", type=options.parse_seeds, default="0,1,2")
    a = top.parse_args()
    torch.set_num_threads(1)
    if a.command == "measure":
        for seed in a.seeds:
            measure_ages(a.out, seed)
            for world in RECORDINGS:
                for max_age in BUDGETS:
                    measure_looks(a.out, seed, world, max_age)
    else:
        if missing := [path for path in (AGES_FILE, LOOKS_FILE) if not path.exists()]:
            raise SystemExit(f"{missing[0]}: there are no lines yet; run `when_to_look.py measure` first")
        camera = Camera(a.frame_time, a.look_energy, a.gmac_energy)
        origin = evidence.machines(files.read_lines(AGES_FILE, "processor"))
        tables.report(curve(), "lab/when_to_look.py, accuracy by age", a.markdown, sys.argv, origin=origin)
        for kind, world, max_age in itertools.product(students(), RECORDINGS, BUDGETS):
            if found := played(kind, world, max_age):
                name = f"lab/when_to_look.py, gates, world {world}, {kind}, frames of up to {max_age:g} s"
                tables.report(gate_table(found, camera), name, a.markdown, sys.argv, origin=origin)
        name = "lab/when_to_look.py, the default of Stream"
        tables.report(default_table(), name, a.markdown, sys.argv, origin=origin)
        print("Wrote " + ", ".join(map(str, figure(FIGURES / "when-to-look"))))


if __name__ == "__main__":
    main()
