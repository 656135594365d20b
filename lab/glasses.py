"""The student "glasses": what a wearer does, from the motion of the head alone, with "unsure" as a class of its own.

    python -m lab.glasses freeze                      # writes results/protocol-glasses.json; commit it
    python -m lab.glasses run --seeds 0 1 2           # study 1 by folds of wearers, and what was not held back
    python -m lab.glasses train --out glasses.safetensors      # on all 47 wearers; 2 minutes
    python -m lab.glasses last --student glasses.safetensors   # once: study 2, watches 4 to 6, the GoPro, Neon
    python -m lab.glasses report --markdown results/glasses.md

`EGODISTILL_SAMPLE_DATA` names the folder with `classyglass/`, `imu-activity/`, `gopro/` and `neon/`. The numbers of
windows and the models of folds are kept in `--cache`. A line of results/glasses.jsonl is a reading, a change of the
sensor and a seed: how many windows of each class of each wearer were taken for which. A line that is there is not
computed again.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from egodistill.data import read_imu
from egodistill.deploy.stream import Stream
from egodistill.engine import refusal
from egodistill.engine.filterbank import IMUFilterbank
from egodistill.imu import Imu
from egodistill.recordings.sensors import motion_states
from egodistill.student import EgoDistill
from egodistill.support import files, tables
from lab import evidence, real_heads

PROTOCOL, LINES = real_heads.RESULTS / "protocol-glasses.json", real_heads.RESULTS / "glasses.jsonl"
CLASSES = {  # activities of study 1, as numbers; those of putting the glasses on, 11 and 12, are not known
    "still or desk work": (0, 1, 2, 3, 7),
    "moving on the spot": (4, 5),
    "standing up or picking up": (6, 13, 14),
    "walking": (8,),
    "running": (9,),
    "stairs": (10,),
}
ACTIVITIES = {1: 15, 2: 6}  # of each study
SHARED = {0: 0, 1: 0, 2: 2, 3: 3, 4: 2}  # {activity of study 2: class}; "timed up and go" is several of them
RATE, SECONDS = 50.0, 10.0  # Hz and seconds of a window
SAMPLES = round(RATE * SECONDS)
LEARNED = ("100 Hz", "50 Hz", "30 Hz", "30 Hz, gaps of 0.5 s")  # what is learned from, of `CHANGES`
STRIDE, TESTED = 2.5, 4  # seconds between windows to learn from; every fourth touches the one before, and is tested
START = real_heads.EDGE + 0.007  # seconds; a grid between the samples, as a stream has it
TRAINING = real_heads.TRAINING | {"hidden": 128, "feature": 64, "epochs": 5, "dropout": 0.3}
GRAVITY = 9.80665
PART = 40.0  # seconds of a recording that is joined
OWN = {  # of each activity: {minutes: (wearers to learn from, 0 for the same as is tested; seconds of each)}
    "1 minute": (1, 60.0),
    "2 minutes": (2, 60.0),
    "5 minutes": (4, 75.0),
    "1 minute of the same wearer": (0, 60.0),
}


class Clips(NamedTuple):
    """Windows as numbers.

    Attributes:
        numbers: `IMUFilterbank.numbers()`, float32 [n, 288].
        activities: Number of the activity, [n].
        wearers: Number of the wearer, [n]; those of study 2 begin at 100.
        recordings: Number of the recording, [n].
        seconds: Start of the window behind `START`; of joined recordings, seconds since the class changed.
        told: Whether `sensors.motion_states()` says a sentence about the recording, bool [n].
    """

    numbers: np.ndarray
    activities: np.ndarray
    wearers: np.ndarray
    recordings: np.ndarray
    seconds: np.ndarray
    told: np.ndarray

    def only(self, kept: np.ndarray) -> Clips:
        return Clips(*(one[kept] for one in self))


# ---------------------------------------------------------------------------------------------------------------
# Recordings, and what can be different about a sensor


def at(samples: np.ndarray, rate: float = 100) -> Imu:
    """Return a recording of 100 Hz, [n, 6], as a sensor of another rate would give it."""
    times = np.arange(len(samples)) / real_heads.RATE
    motion = Imu(times, samples[:, :3], times, samples[:, 3:])
    if rate == real_heads.RATE:
        return motion
    count = int(times[-1] * rate)
    return sampled(motion.window(0.0, count, rate), rate)


def sampled(samples: np.ndarray, rate: float) -> Imu:
    """Return samples [n, 6] of a rate with their times."""
    times = np.arange(len(samples)) / rate
    return Imu(times, samples[:, :3], times, samples[:, 3:])


def scaled(accel: float, gyro: float) -> Callable[[np.ndarray, np.random.Generator], Imu]:
    return lambda samples, _: at(samples * np.float32([accel] * 3 + [gyro] * 3))


def mounted(samples: np.ndarray, draws: np.random.Generator) -> Imu:
    """Return a recording whose sensor is turned as it likes."""
    turn = np.linalg.qr(draws.normal(size=(3, 3)))[0]
    turn = np.float32(turn * np.sign(np.linalg.det(turn)))
    return at(np.concatenate([samples[:, :3] @ turn, samples[:, 3:] @ turn], 1))


def noisy(samples: np.ndarray, draws: np.random.Generator) -> Imu:
    """Return a recording with the white noise of a phone, that of the rendered world."""
    return at(samples + np.float32(draws.normal(size=samples.shape) * ([0.033] * 3 + [0.0034] * 3)))


def with_gaps(samples: np.ndarray, draws: np.random.Generator) -> Imu:
    """Return a recording of 30 Hz that lacks 0.5 s in each 10."""
    motion = at(samples, 30)
    kept = (np.arange(len(motion.accel_time)) + draws.integers(300)) % 300 >= 14
    return Imu(motion.accel_time[kept], motion.accel[kept], motion.gyro_time[kept], motion.gyro[kept])


def without_gravity(samples: np.ndarray, _: np.random.Generator) -> Imu:
    """Return a recording without what is slower than 0.3 Hz in its acceleration."""
    spectrum = np.fft.rfft(samples[:, :3], axis=0)
    spectrum[np.fft.rfftfreq(len(samples), 1 / real_heads.RATE) <= 0.3] = 0
    return at(np.concatenate([np.float32(np.fft.irfft(spectrum, len(samples), axis=0)), samples[:, 3:]], 1))


CHANGES: dict[str, Callable[[np.ndarray, np.random.Generator], Imu]] = {
    "100 Hz": lambda samples, _: at(samples),
    "50 Hz": lambda samples, _: at(samples, 50),
    "30 Hz": lambda samples, _: at(samples, 30),
    "30 Hz, gaps of 0.5 s": with_gaps,
    "any mounting": mounted,
    "noise of a phone": noisy,
    "gyroscope x0.5": scaled(1, 0.5),
    "degrees per second": scaled(1, 180 / np.pi),
    "g": scaled(1 / GRAVITY, 1),
    "without gravity": without_gravity,
    "one axis mirrored": lambda samples, _: at(samples * np.float32([-1, 1, 1, -1, 1, 1])),
}


def numbers_of(motion: Imu, starts: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the numbers of windows of a recording as the student reads them, float32 [n, 288]."""
    windows = [motion.window(start, SAMPLES, RATE) for start in starts]
    return IMUFilterbank(SAMPLES, RATE).numbers(torch.from_numpy(np.stack(windows))).numpy()


def cut(study: int, change: str) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the fields of `Clips` of each recording of a study."""
    draws = np.random.default_rng(0)
    stride = STRIDE if change in LEARNED else STRIDE * TESTED
    for number, (activity, wearer, samples) in enumerate(real_heads.recordings(study, ACTIVITIES[study])):
        motion = CHANGES[change](samples, draws)
        end = len(samples) / real_heads.RATE - real_heads.EDGE - SECONDS - 0.05
        starts = np.arange(START, end, stride)
        if len(starts):
            about = activity, wearer + 100 * (study - 1), number + 1000 * study
            told = bool(motion_states(motion, rate=RATE))
            fields = [np.full(len(starts), value) for value in about]
            yield numbers_of(motion, starts), *fields, np.round(starts - START, 3), np.full(len(starts), told)


def joined(study: int, _: str) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the fields of `Clips` of each wearer, whose recordings are joined: a window ends at each second."""
    draws, kept = np.random.default_rng(0), round(PART * real_heads.RATE)
    found: dict[int, list[tuple[int, np.ndarray]]] = {}
    for activity, wearer, samples in real_heads.recordings(study, ACTIVITIES[study]):
        if class_of(activity) >= 0 and len(samples) >= kept:
            middle = (len(samples) - kept) // 2
            found.setdefault(wearer, []).append((activity, samples[middle : middle + kept]))
    for wearer, parts in found.items():
        parts = [parts[k] for k in draws.permutation(len(parts))]
        motion = at(np.concatenate([samples for _, samples in parts]))
        ends = np.arange(SECONDS, len(parts) * PART - 0.5)
        activities = np.repeat([activity for activity, _ in parts], round(PART))[ends.astype(int)]
        classes = np.array([class_of(activity) for activity, _ in parts])
        changes = PART * np.flatnonzero(np.diff(classes, prepend=-1))
        since = ends - changes[np.searchsorted(changes, ends, side="right") - 1]
        fields = [np.full(len(ends), wearer), np.arange(len(ends)) * 0 + wearer, since, np.zeros(len(ends), bool)]
        yield numbers_of(motion, ends - SECONDS + 0.007), activities, *fields


def clips(cache: Path, study: int, change: str, made_by: Callable = cut) -> Clips:
    """Return the windows of a study, from the cache if they are there."""
    path = cache / f"{made_by.__name__}-{study}-{change}.npz"
    if not path.exists():
        found = Clips(*(np.concatenate(fields) for fields in zip(*made_by(study, change), strict=True)))
        with files.atomic_write(path) as part, open(part, "wb") as file:
            np.savez(file, **found._asdict())
    with np.load(path) as found:
        return Clips(**found)


def tested(found: Clips) -> Clips:
    """Return the windows that touch the one before."""
    return found.only(found.seconds % (STRIDE * TESTED) == 0)


def class_of(activity: int, study: int = 1) -> int:
    """Return the number of the class of an activity, -1 for one that is not known."""
    if study == 2:
        return SHARED.get(activity, -1)
    return next((k for k, activities in enumerate(CLASSES.values()) if activity in activities), -1)


def labels_of(found: Clips) -> np.ndarray:
    """Return the class of each window, [n]."""
    studies = np.where(found.wearers >= 100, 2, 1)
    return np.array([class_of(*pair) for pair in zip(found.activities, studies, strict=True)])


# ---------------------------------------------------------------------------------------------------------------
# The student


def learned(found: Sequence[Clips], seed: int, classes: Sequence[int] = range(len(CLASSES))) -> EgoDistill:
    """Return the student that has learned these windows, in evaluation mode.

    Args:
        found: Windows, of several rates.
        seed: Seed of the training.
        classes: Those that are known.
    """
    labels = np.concatenate([labels_of(one) for one in found])
    known = np.isin(labels, classes)
    numbers = torch.from_numpy(np.concatenate([one.numbers for one in found])[known])
    half = np.random.default_rng(seed).random(len(numbers)) < 0.5  # as if of a sensor whose axes are of the other hand
    numbers[np.ix_(half, ["cross product" in name for name in IMUFilterbank(SAMPLES, RATE).names])] *= -1
    wearers = torch.from_numpy(np.concatenate([one.wearers for one in found])[known])
    numbered = torch.from_numpy(np.searchsorted(classes, labels[known]))
    widths = [TRAINING["feature"], len(classes)]
    norm, _, _, first, scale, _, _, feature, last = real_heads.perceptron(numbers, numbered, widths, seed, TRAINING)
    model = EgoDistill(
        len(classes) + 1,
        feature_dim=TRAINING["feature"],
        image_encoder=None,
        imu_encoder="filterbank-unsure",
        imu_rate=RATE,
        hidden=TRAINING["hidden"],
        fusion_layers=1,
        clip_seconds=SECONDS,
        class_names=[*(list(CLASSES)[k] for k in classes), refusal.UNSURE],
    ).eval()
    encoder: Any = model.imu_encoder
    encoder.norm.load_state_dict(norm.state_dict())
    encoder.refusal.fit(numbers, numbered, wearers)
    with torch.no_grad():  # the batch norm of the hidden layer is part of the layer
        factor = scale.weight / (scale.running_var + scale.eps).sqrt()
        first.weight *= factor[:, None]
        first.bias.copy_((first.bias - scale.running_mean) * factor + scale.bias)
    for layer, trained in ((model.fusion[0], first), (model.fusion[2], feature), (model.classifier, last)):
        layer.load_state_dict(trained.state_dict())
    return model


def student_of(cache: Path, name: str, found: Callable[[], Sequence[Clips]], seed: int, **known: Any) -> EgoDistill:
    """Return the student of a name, from the cache if it is there."""
    path = cache / f"{name}.safetensors"
    if not path.exists():
        learned(found(), seed, **known).save(path)
    return EgoDistill.load(path)


@torch.no_grad()
def inputs_of(model: nn.Module, numbers: np.ndarray) -> Tensor:
    """Return what the IMU encoder makes of numbers, [n, 288] -> [n, 289]."""
    encoder: Any = model.imu_encoder
    found = torch.from_numpy(numbers)
    return torch.cat([encoder.norm(found).clamp(-6, 6), encoder.refusal(found)], 1)


@torch.no_grad()
def answers(model: EgoDistill, numbers: np.ndarray) -> np.ndarray:
    """Return the probabilities of windows, [n, 288] -> [n, classes]."""
    return model.fuse(None, inputs_of(model, numbers)).logits.softmax(1).numpy()


def studied(cache: Path, study: int, wearers: Sequence[int] | np.ndarray | None = None) -> list[Clips]:
    """Return the windows to learn from, with each change of `LEARNED`; of some wearers, or of all."""
    found = [clips(cache, study, change) for change in LEARNED]
    return found if wearers is None else [one.only(np.isin(one.wearers, wearers)) for one in found]


def folds(cache: Path, seed: int) -> Iterator[tuple[np.ndarray, EgoDistill]]:
    """Yield the wearers of each fold of study 1, and the student of the others."""
    names = np.unique(clips(cache, 1, "100 Hz").wearers)
    for k, test in enumerate(real_heads.folds(names, seed)):
        others = names[~test]
        yield names[test], student_of(cache, f"fold-{seed}-{k}", lambda others=others: studied(cache, 1, others), seed)


# ---------------------------------------------------------------------------------------------------------------
# Readings


def counted(found: Clips, taken: np.ndarray, unlike: np.ndarray) -> dict[str, Any]:
    """Return {wearer: what windows of each known class were taken for} and more of answers.

    Args:
        found: The windows.
        taken: Number of the answer, [n]; the last is "unsure".
        unlike: Whether the window is unlike all classes, bool [n].
    """
    labels, size = labels_of(found), len(CLASSES) + 1
    confusion = np.zeros((size, size), int)
    wearers = {}
    for wearer in np.unique(found.wearers):
        own = found.wearers == wearer
        confusion = np.bincount(size * labels[own & (labels >= 0)] + taken[own & (labels >= 0)], minlength=size**2)
        wearers[str(wearer)] = confusion.reshape(size, size)[:-1].tolist()
    strange, known = labels < 0, labels >= 0
    return {
        "wearers": wearers,
        "unlike": [int(unlike[known].sum()), int(known.sum())],
        "not known": [int((taken[strange] == size - 1).sum()), int(strange.sum())],
        "told": [int(found.told.sum()), len(found.told)],
    }


def changed(cache: Path, change: str, seed: int) -> dict[str, Any]:
    """Return the line of study 1 by folds, the tested sensor changed."""
    found = tested(clips(cache, 1, change))
    taken, unlike = np.zeros(len(found.wearers), int), np.zeros(len(found.wearers), bool)
    for wearers, model in folds(cache, seed):
        own = np.isin(found.wearers, wearers)
        taken[own] = answers(model, found.numbers[own]).argmax(1)
        unlike[own] = inputs_of(model, found.numbers[own])[:, -1].numpy() > 0
    return counted(found, taken, unlike)


def left_out(cache: Path, name: str, seed: int) -> dict[str, Any]:
    """Return the line of a class that was not learned, by the wearers of the first fold."""
    number = list(CLASSES).index(name)
    wearers, _ = next(folds(cache, seed))
    names = np.unique(clips(cache, 1, "100 Hz").wearers)
    known = [k for k in range(len(CLASSES)) if k != number]
    others = names[~np.isin(names, wearers)]
    model = student_of(cache, f"without-{seed}-{number}", lambda: studied(cache, 1, others), seed, classes=known)
    found = tested(clips(cache, 1, "100 Hz"))
    found = found.only(np.isin(found.wearers, wearers) & (labels_of(found) == number))
    taken = answers(model, found.numbers).argmax(1)
    return {"not known": [int((taken == len(known)).sum()), len(taken)]}


def switched(cache: Path, _: str, seed: int) -> dict[str, Any]:
    """Return the line of joined recordings: seconds until the new class, and answers in the 10 s after a change."""
    found = clips(cache, 1, "joined", joined)
    labels, waits, after = labels_of(found), [], np.zeros(3, int)
    for wearers, model in folds(cache, seed):
        for wearer in wearers:
            own = found.wearers == wearer
            taken, truth, since = answers(model, found.numbers[own]).argmax(1), labels[own], found.seconds[own]
            first = 1 + int(np.argmax(since[1:] < since[:-1])) if (since[1:] < since[:-1]).any() else len(since)
            starts = [k for k in range(first, len(since)) if since[k] == 0]
            for start, stop in zip(starts, [*starts[1:], len(since)], strict=True):
                right = taken[start:stop] == truth[start]
                waits.append(float(np.argmax(right)) if right.any() else None)
                part = slice(start + 1, min(start + 11, stop))
                unsure = taken[part] == len(CLASSES)
                after += [int((taken[part] == truth[part]).sum()), int(unsure.sum()), len(unsure)]
    return {"waits": waits, "after": after.tolist()}


def windows_of(samples: np.ndarray, rate: float, stride: float) -> np.ndarray:
    """Return the numbers of the windows of a recording of any rate."""
    starts = np.arange(0.005, len(samples) / rate - SECONDS - 0.05, stride)
    return numbers_of(sampled(samples, rate), starts) if len(starts) else np.zeros((0, 288), np.float32)


def told_of(model: EgoDistill, numbers: np.ndarray) -> dict[str, Any]:
    """Return what a student says of windows without a label."""
    found = answers(model, numbers)
    return {
        "not known": [int((found.argmax(1) == len(CLASSES)).sum()), len(found)],
        "largest": dict(zip([*CLASSES, refusal.UNSURE], found.max(0).round(3).tolist(), strict=True)),
        "mean": dict(zip([*CLASSES, refusal.UNSURE], found.mean(0).round(3).tolist(), strict=True)),
    }


def sample_data(*names: str) -> Path:
    return Path(real_heads.os.environ["EGODISTILL_SAMPLE_DATA"], *names)


def watches(subjects: Sequence[int]) -> np.ndarray:
    """Return the numbers of the windows of watch subjects, 5 s apart."""
    with np.load(sample_data("imu-activity", "watch_subjects1-6.npz")) as kept:
        samples = kept["samples"] * np.float32([GRAVITY] * 3 + [1] * 3)
        parts, subject = np.split(samples, np.cumsum(kept["lengths"])[:-1]), kept["subject"]
    wanted = [part for part, one in zip(parts, subject, strict=True) if one in subjects]
    return np.concatenate([windows_of(part, 50.0, 5.0) for part in wanted])


def gopro() -> np.ndarray:
    """Return the numbers of the windows of the walk, 0.1 s apart: it has 10.5 s."""
    motion = read_imu(sample_data("gopro", "max-heromode.mp4"))
    first = max(motion.accel_time[0], motion.gyro_time[0])
    last = min(motion.accel_time[-1], motion.gyro_time[-1])
    return numbers_of(motion, np.arange(first, last - SECONDS + 1 / RATE, 0.1))


def neon() -> np.ndarray:
    """Return the numbers of 10 windows of Neon's 4.75 s, played forward, backward (turns negated) and forward."""
    motion = read_imu(sample_data("neon", "imu.csv"))
    seconds = min(motion.accel_time[-1], motion.gyro_time[-1])
    first = max(motion.accel_time[0], motion.gyro_time[0])
    once = motion.window(first, int((seconds - first) * 100), 100.0)
    back = once[::-1] * np.float32([1, 1, 1, -1, -1, -1])
    return windows_of(np.concatenate([once, back, once, back]), 100.0, 0.5)[:10]


def own_labels(cache: Path, name: str, seed: int) -> dict[str, Any]:
    """Return the line of own labels, of eleven activities, on top of the students of folds, and of those labels alone.

    Args:
        cache: The folder of numbers and models.
        name: A key of `OWN`. With one wearer to learn from, "the same" is tested on the rest of the recordings; else
            the test is on the wearers of a fold behind the fourth.
        seed: Seed of the folds.
    """
    found, (count, seconds) = clips(cache, 1, "100 Hz"), OWN[name]
    found = found.only(found.activities < 11)
    begins, touch = found.seconds + SECONDS <= seconds, found.seconds % (STRIDE * TESTED) == 0
    right = {"on top": [0, 0], "alone": [0, 0]}
    for wearers, model in folds(cache, seed):
        features = inputs_of(model, found.numbers)[:, :-1]
        with torch.no_grad():
            inputs = {"on top": torch.cat([model.fusion(None, features), features / 4], 1), "alone": features / 4}
        if count:
            pairs = [(np.isin(found.wearers, wearers[:count]), np.isin(found.wearers, wearers[4:]) & touch)]
        else:
            pairs = [(found.wearers == one, (found.wearers == one) & (found.seconds >= seconds)) for one in wearers]
        for own, test in pairs:
            labels = torch.from_numpy(found.activities)
            for way, numbers in inputs.items():
                taken = linear(numbers[own & begins], labels[own & begins])(numbers[test]).argmax(1)
                right[way][0] += int((taken == labels[test]).sum())
                right[way][1] += int(test.sum())
    return right


def linear(inputs: Tensor, labels: Tensor) -> nn.Linear:
    """Return a linear layer that has learned labels from few inputs, by logistic regression."""
    layer = nn.Linear(inputs.shape[1], int(labels.max()) + 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(layer(inputs), labels) + 1e-2 * layer.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return layer.requires_grad_(False)


READINGS: dict[str, tuple[Sequence[str], Callable[[Path, str, int], dict[str, Any]]]] = {
    "study 1": (tuple(CHANGES), changed),
    "a class left out": (tuple(CLASSES), left_out),
    "joined": (("40 s each",), switched),
    "own labels": (tuple(OWN), own_labels),
}
ONCE = {"watches 4 to 6": lambda: watches((4, 5, 6)), "GoPro walk": gopro, "Neon": neon}


def add(reading: str, change: str, seed: int, made_by: Callable[[], dict[str, Any]]) -> None:
    """Add a line unless it is there."""
    key = {"reading": reading, "change": change, "seed": seed}
    if not any({name: line[name] for name in key} == key for line in files.read_lines(LINES, "reading")):
        files.append_line(LINES, key | made_by() | {"commit": evidence.git("rev-parse", "--short", "HEAD")})
        print(f"{reading}, {change}, seed {seed}", flush=True)


def run(cache: Path, seeds: Sequence[int], readings: Sequence[str]) -> None:
    """Add the lines of study 1, and of watches 1 to 3."""
    for reading in readings:
        changes, made_by = READINGS[reading]
        for seed in seeds if reading in ("study 1", "own labels") else seeds[:1]:
            for change in changes:
                add(reading, change, seed, lambda m=made_by, c=change, s=seed: m(cache, c, s))
    add("watches 1 to 3", "", 0, lambda: told_of(of_study_1(cache), watches((1, 2, 3))))


def of_study_1(cache: Path) -> EgoDistill:
    return student_of(cache, "study-1", lambda: studied(cache, 1), 0)


def last(cache: Path, student: Path) -> None:
    """Add the lines that are read once. Exit before if the protocol is not committed, or is another."""
    evidence.committed(PROTOCOL, lambda record: protocol())

    def shared() -> dict[str, Any]:
        model, found = of_study_1(cache), tested(clips(cache, 2, "100 Hz"))
        unlike = inputs_of(model, found.numbers)[:, -1].numpy() > 0
        return counted(found, answers(model, found.numbers).argmax(1), unlike)

    add("study 2", "100 Hz", 0, shared)
    for reading, made_by in ONCE.items():
        add(reading, "", 0, lambda m=made_by: told_of(EgoDistill.load(student), m()))


def streamed(student: Path, limit: float) -> dict[str, Any]:
    """Return what a stream says of all recordings one after another, given in pieces of half a second.

    Every twentieth answer is compared with that of the model for the window of `Imu.window()`.

    Args:
        student: Its file.
        limit: Hours after which to end.
    """
    model, begin, answered, problems, differ, compared = EgoDistill.load(student), 0.0, 0, 0, 0.0, 0
    memory: list[int] = []
    recordings = [one for study, count in ACTIVITIES.items() for one in real_heads.recordings(study, count)]
    with Stream(model, precision="fp32", max_pending=4) as stream:
        for _, _, samples in recordings:
            times, found = begin + np.arange(len(samples)) / real_heads.RATE, []
            motion = Imu(times, samples[:, :3], times, samples[:, 3:])
            for piece in np.array_split(np.arange(len(samples)), len(samples) // 50):
                stream.accept_imu(times[piece], samples[piece])
                while stream.stats.pending:
                    stream.wait(1.0)
                    found += stream.results()
            for number, answer in enumerate(found):
                problems += answer.problem is not None
                if number % 20 == 0 and answer.problem is None and answer.start >= begin:
                    window = torch.from_numpy(motion.window(answer.start, model.imu_samples, model.imu_rate))[None]
                    with torch.no_grad():
                        best = model(window).logits.softmax(1).amax().item()
                    differ, compared = max(differ, abs(best - answer.classes[0][1])), compared + 1
            begin, answered = times[-1] + 1 / real_heads.RATE, answered + len(found)
            memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            if begin > 3600 * limit:
                break
        stats, faults = stream.stats, [state.text for state in stream.health()]
    growth = (memory[-1] - memory[len(memory) // 8]) // 1024
    return {
        "hours": round(float(begin) / 3600, 2),
        "answers": [answered, stats.due, stats.dropped, problems],
        "difference": [differ, compared],
        "growth": growth,
        "faults": faults,
    }


# ---------------------------------------------------------------------------------------------------------------
# Protocol, figures, report


def protocol() -> dict[str, Any]:
    """Return the rule that is written before the last reading."""
    names = ("SHARE", "LEAST", "SLOPE", "SHARPNESS", "RIDGE", "FOLDS")
    return {
        "before": "reference/real-heads.md: a first six-class model and its refusals had been read on watches, the "
        "GoPro walk and Neon. Here watches 1 to 3 were looked at; 4 to 6, the GoPro, Neon and study 2 were not.",
        "study 1": "All is chosen here: 27 wearers, six classes, five folds by wearer; a class left out, changes of "
        "rate, scale, noise and axes; recordings joined.",
        "classes": {name: list(activities) for name, activities in CLASSES.items()},
        "study 2": "Read once, by the student of study 1: read, computer; stand up, pick up; walk. Timed up and go is "
        "described.",
        "read once, last, by the student of all 47 wearers": [
            "watches 4 to 6: windows of 10 s, 5 s apart",
            "the GoPro walk: windows of 10 s, 0.1 s apart",
            "Neon: its 4.75 s forward, backward with negated turns, forward; ten windows, 0.5 s apart",
        ],
        "tried on study 1": {
            "one seed of folds, macro-F1 and accuracy before refusals": {
                "128 hidden, dropout 0.5": [85.7, 85.7],
                "256 hidden": [85.4, 85.8],
                "128 and 128 hidden": [85.5, 85.7],
                "dropout 0.3": [86.0, 86.2],
                "dropout 0.3, twice the epochs": [86.3, 86.5],
                "labels of activities": [86.0, 85.9],
                "mean of three seeds": [85.7, 85.8],
                "this one: other rates, gaps, axes of the other hand": [85.7, 85.9],
                "the same, 128 and 128 hidden, 8 epochs": [86.2, 86.4],
            },
            "axes of the other hand: macro-F1 of such a sensor without and with them in training": [77.7, 87.0],
            "refused at 10 % of held-back glasses: watches 1 to 3, gyroscope x0.5, without gravity": {
                "16 powers in bands": [100, 88, 83],
                "24 powers": [100, 84, 82],
                "48 powers": [100, 72, 79],
                "16 powers and 12 numbers of the spectrum's shape": [100, 54, 82],
                "16 powers and 6 numbers of tilt and net turn": [100, 83, 93],
            },
            "refused, right of the answered, with LEAST 0.48, 0.50, 0.52": [[11.0, 89.4], [12.7, 90.0], [14.2, 90.7]],
        },
        "unsure": "the class with the largest probability is 'unsure'",
        "aims": {
            "macro-F1, refusals wrong": 80,
            "right of the answered": 90,
            "answered": 75,
            "refused: watches 4 to 6": 90,
            "GoPro walk: another class than walking, probability below": 0.5,
            "refused at most: held-back glasses": 10,
            "refused at most: worst wearer": 25,
            "refused at most: study 2": 20,
            "refused at most: Neon": 50,
            "refused at most: 30 Hz, noise of a phone": 15,
            "points lost at most: 50, 30 Hz, any mounting": 2,
            "joined: median seconds until the new class": 6,
            "joined: right in the 10 s after a change": 40,
        },
        "refused": "all that is answered 'unsure'; how much of it is unlike, not level, is told beside it",
        "training": TRAINING,
        "refusal": {name: getattr(refusal, name) for name in names},
        "learned from": list(LEARNED),
        "seconds": SECONDS,
    }


def total(line: dict[str, Any]) -> np.ndarray:
    """Return what the windows of each class were taken for, [6, 7]."""
    return np.sum(list(line["wearers"].values()), axis=0)


def figures(line: dict[str, Any]) -> dict[str, float]:
    """Return the figures of a line in %."""
    found = total(line)
    classes = len(found)
    right = np.diag(found)
    answered = found[:, :classes]
    seen = found.sum(1) > 0  # study 2 has three of the classes
    return {
        "macro-F1": 100 * float(np.mean((2 * right / np.maximum(1, found.sum(1) + answered.sum(0)))[seen])),
        "right": 100 * right.sum() / max(1, answered.sum()),
        "answered": 100 * answered.sum() / found.sum(),
        "unlike": 100 * line["unlike"][0] / line["unlike"][1],
        "told": 100 * line["told"][0] / line["told"][1],
    }


def worst(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Return the wearer with the fewest right windows, refusals wrong, and the one with most refused, mean of lines."""
    found = {wearer: np.sum([line["wearers"][wearer] for line in lines], axis=0) for wearer in lines[0]["wearers"]}
    found = {wearer: rows / rows.sum() for wearer, rows in found.items() if rows.sum()}
    right = min(found, key=lambda wearer: np.trace(found[wearer]))
    refused = max(found, key=lambda wearer: found[wearer][:, -1].sum())
    return [f"{100 * np.trace(found[right]):.1f} ({right})", f"{100 * found[refused][:, -1].sum():.1f} ({refused})"]


def of(lines: Sequence[dict[str, Any]], reading: str, change: str = "") -> list[dict[str, Any]]:
    return [line for line in lines if line["reading"] == reading and change in ("", line["change"])]


def wearers_table(lines: Sequence[dict[str, Any]]) -> tables.Table:
    """Return the table of labelled recordings of glasses."""
    rows = []
    for reading, changes in (("study 1", CHANGES), ("study 2", ("100 Hz",))):
        for change in changes:
            own = of(lines, reading, change)
            if own:
                values = [np.mean([figures(line)[name] for line in own]) for name in figures(own[0])]
                rows.append([reading, change, f"{len(own)}", *(f"{value:.1f}" for value in values), *worst(own)])
    heads = ["study", "sensor", "seeds", "macro-F1, refusals wrong (%)", "right of the answered", "answered"]
    heads += ["refused as unlike", "with a sentence", "worst wearer, right (which)", "worst wearer, refused (which)"]
    return tables.Table(heads, rows)


def classes_table(lines: Sequence[dict[str, Any]]) -> tables.Table:
    """Return the confusion of study 1, all seeds, in % of a class."""
    found = np.sum([total(line) for line in of(lines, "study 1", "100 Hz")], axis=0)
    shares = 100 * found / found.sum(1, keepdims=True)
    rows = [[name, *(f"{share:.1f}" for share in row)] for name, row in zip(CLASSES, shares, strict=True)]
    return tables.Table(["study 1, 100 Hz (%)", *CLASSES, refusal.UNSURE], rows)


def others_table(lines: Sequence[dict[str, Any]]) -> tables.Table:
    """Return the table of what is not known, of joined recordings and of own labels."""
    rows = []
    for line in lines:
        what = [line["reading"], line["change"] or "-"]
        if "largest" in line or line["reading"] == "a class left out":
            largest = {name: value for name, value in line.get("largest", {}).items() if name != refusal.UNSURE}
            most = max(largest, key=largest.__getitem__) if largest else ""
            refused, count = line["not known"]
            more = f"; most probable answer {most}, {largest[most]:.2f}" if most else ""
            rows.append([*what, f"refused {refused} of {count} ({100 * refused / count:.0f} %){more}"])
        elif "growth" in line:
            answered, due, dropped, problems = line["answers"]
            text = f"{answered:,} of {due:,} answers in {line['hours']:.1f} h, {dropped} dropped, {problems} problems; "
            text += f"{line['difference'][1]:,} compared with windows differ by at most {line['difference'][0]:.1g}; "
            rows.append([*what, f"{text}memory grows by {line['growth']} MB; {len(line['faults'])} faults"])
        elif "waits" in line:
            waits = [np.inf if wait is None else wait for wait in line["waits"]]
            right, unsure, count = line["after"]
            text = f"new class after {np.median(waits):.0f} s (median of {len(waits)} changes; 90 % "
            text += f"{np.quantile(waits, 0.9, method='higher'):.0f} s); in the 10 s after a change "
            rows.append([*what, f"{text}{100 * right / count:.1f} % right, {100 * unsure / count:.1f} % unsure"])
    for change in READINGS["own labels"][0]:
        own = of(lines, "own labels", change)
        if own:
            shares = [[100 * line[name][0] / line[name][1] for line in own] for name in ("on top", "alone")]
            top, alone = np.mean(shares, axis=1)
            rows.append(["own labels", change, f"on top of the student {top:.1f} %, those labels alone {alone:.1f} %"])
    return tables.Table(["reading", "of", "result"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("glasses-cache"), help="folder of numbers and models")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("freeze")
    one = actions.add_parser("run")
    one.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    one.add_argument("--readings", nargs="+", choices=tuple(READINGS), default=tuple(READINGS))
    actions.add_parser("train").add_argument("--out", type=Path, required=True)
    actions.add_parser("last").add_argument("--student", type=Path, required=True)
    actions.add_parser("stream").add_argument("--hours", type=float, default=17.0)
    tables.markdown_option(actions.add_parser("report"))
    a = parser.parse_args()
    torch.set_num_threads(1)
    a.cache.mkdir(exist_ok=True)
    if a.action == "freeze":
        evidence.write_protocol(PROTOCOL, protocol())
    elif a.action == "run":
        run(a.cache, a.seeds, a.readings)
    elif a.action == "train":
        learned([*studied(a.cache, 1), *studied(a.cache, 2)], 0).save(a.out)
    elif a.action == "last":
        last(a.cache, a.student)
    elif a.action == "stream":
        add("stream", "", 0, lambda: streamed(Path("glasses"), a.hours))
    else:
        lines = list(files.read_lines(LINES, "reading"))
        for name, made_by in (("wearers", wearers_table), ("classes", classes_table), ("others", others_table)):
            tables.report(made_by(lines), f"lab/glasses.py, {name}", a.markdown, sys.argv)


if __name__ == "__main__":
    main()
