"""Which plain numbers tell what a real head does? Activities with smart glasses, of wearers nobody trained on.

    python -m lab.real_heads freeze                        # writes results/protocol-heads.json; commit it
    python -m lab.real_heads run 1 --seeds 0 1 2 3 4       # study 1, on which all was chosen: 27 wearers
    python -m lab.real_heads run 2 --seeds 0 1 2 3 4       # study 2, once: 20 other wearers; needs that protocol
    python -m lab.real_heads report --markdown results/real_heads.md

`EGODISTILL_SAMPLE_DATA` names the folder with `classyglass/` (ClassyGlass, MU-Smart, CC BY 4.0: see its README.md).
A wearer is in one of five folds, which a seed draws; the encoder's statistics and the perceptron behind it learn from
the others. A line of results/real_heads.jsonl is a study, a length of window, a model and a seed: how many windows of
each activity of each wearer were taken for which. A line that is there is not computed again.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from egodistill.engine.filterbank import IMUFilterbank
from egodistill.engine.spectrum import IMUSpectrum
from egodistill.student import IMUEncoder
from egodistill.support import files, tables
from lab import evidence, intervals

RESULTS = Path(__file__).resolve().parent.parent / "results"
PROTOCOL, LINES = RESULTS / "protocol-heads.json", RESULTS / "real_heads.jsonl"
RATE, EDGE, FOLDS = 100, 3.0, 5  # Hz; seconds at both ends of a recording, when buttons are pressed
ACTIVITIES = {  # of the data sheets; 12 to 15 of study 1 were done by half of its wearers and are left out
    1: "read|write|type|browse|move head or body|move chair|stand up|stand|walk|run|stairs".split("|"),
    2: "read|computer|stand up|walk|pick up, standing|timed up and go".split("|"),
}
STRIDES = {2.13: 0.71, 10.0: 2.5}  # {seconds of a window: seconds between windows to learn from}; tested ones touch
MODELS = ("spectrum", "spectrum, upright", "filterbank")
CNN, SCALED_CNN = "CNN", "CNN, scaled and upright"  # the paper's encoder; windows of 2.13 s alone: they take long
TRAINING = {"hidden": 256, "epochs": 10, "batch_size": 256, "learning_rate": 2e-3, "weight_decay": 1e-2}
TRAINING |= {"dropout_of_numbers": 0.2, "dropout": 0.5, "label_smoothing": 0.1}
CNN_RATE, PATIENCE = 50, 5  # Hz; epochs without a gain on validation wearers, after which the training ends
OVERLAP = 3  # windows to learn from overlap this often: an epoch of a CNN takes every third, drawn anew
CNN_SCALES = (1.0, 0.3)  # m/s2 and rad/s that count as 1


class Windows(NamedTuple):
    """Windows of a study.

    Attributes:
        samples: m/s2 and rad/s, float32 [n, T, 6].
        labels: Activity, int64 [n].
        wearers: Number of the wearer, [n].
        recordings: Number of the recording, [n].
        tested: Whether the window touches the one before, and is tested, bool [n].
    """

    samples: np.ndarray
    labels: np.ndarray
    wearers: np.ndarray
    recordings: np.ndarray
    tested: np.ndarray


# ---------------------------------------------------------------------------------------------------------------
# The data


def recordings(study: int, activities: int | None = None) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield activity, wearer and samples, float32 [n, 6] in m/s2 and rad/s, of each recording of a study.

    Args:
        study: Its number.
        activities: How many of its activities, by default those of `ACTIVITIES`.
    """
    activities = activities or len(ACTIVITIES[study])
    folder = Path(os.environ["EGODISTILL_SAMPLE_DATA"], "classyglass")
    with np.load(folder / "imu_packed.npz") as packed, open(folder / "recordings.csv", newline="") as table:
        for row in csv.DictReader(table):
            activity = int(row["activity"]) - 1
            if row["part"][0] != str(study) or activity >= activities:
                continue
            low, high = packed[row["key"]].astype(np.uint16)  # bytes of the differences in time
            steps = (high << 8 | low).astype(np.int16).cumsum(1, dtype=np.int16).T
            yield activity, int(row["user"]), steps * np.float32([9.80665e-3] * 3 + [np.pi / 180 / 16.4] * 3)


def cut(study: int, seconds: float) -> Windows:
    """Return the windows of a study."""
    size, stride, edge = round(seconds * RATE), round(STRIDES[seconds] * RATE), round(EDGE * RATE)
    found: list[tuple] = []
    for number, (activity, wearer, samples) in enumerate(recordings(study)):
        samples = samples[edge:-edge]
        for start in range(0, len(samples) - size + 1, stride):
            found.append((samples[start : start + size], activity, wearer, number, start % size == 0))
    return Windows(*map(np.stack, zip(*found, strict=True)))


def folds(wearers: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return which windows each fold tests, bool [n] each: those of a fifth of the wearers."""
    names = np.random.default_rng(seed).permutation(np.unique(wearers))
    return [np.isin(wearers, names[k::FOLDS]) for k in range(FOLDS)]


# ---------------------------------------------------------------------------------------------------------------
# The models


def upright(samples: Tensor) -> Tensor:
    """Return windows [n, T, 6] turned so that their mean acceleration points along z, by the shortest way."""
    up = F.normalize(samples[:, :, :3].mean(1), dim=1)
    x, y, z = up.unbind(1)
    scale = 1 / (1 + z).clamp_min(1e-4)
    rows = [1 - x * x * scale, -x * y * scale, -x, -x * y * scale, 1 - y * y * scale, -y, x, y, z]
    turn = torch.stack(rows, 1).unflatten(1, (3, 3))
    return (samples.unflatten(2, (2, 3)) @ turn.transpose(1, 2)[:, None]).flatten(2)


def numbers(model: str, samples: np.ndarray) -> Tensor:
    """Return what the encoder of a model makes of windows, before its batch norm learns the statistics, [n, m]."""
    length = samples.shape[1]
    if model == "filterbank":
        encoder = IMUFilterbank(length, RATE)
        parts = [encoder.numbers(torch.from_numpy(part)) for part in np.array_split(samples, len(samples) // 512 + 1)]
        return torch.cat(parts)
    encoder = IMUSpectrum(length, RATE, dropout=0.0)
    return encoder(upright(torch.from_numpy(samples)) if model.endswith("upright") else torch.from_numpy(samples))


def learn(inputs: Tensor, labels: Tensor, tested: Tensor, classes: int, seed: int) -> Tensor:
    """Return the logits of windows by a perceptron that has learned from others."""
    model = perceptron(inputs, labels, [classes], seed, TRAINING)
    with torch.no_grad():
        return model(tested)


def perceptron(
    inputs: Tensor, labels: Tensor, widths: Sequence[int], seed: int, training: Mapping[str, Any]
) -> nn.Sequential:
    """Return a perceptron that has learned the labels of numbers [n, m], in evaluation mode.

    Args:
        inputs: The numbers.
        labels: [n].
        widths: Of its linear layers behind the hidden one; the last is the number of classes.
        seed: Seed of the weights and of the order.
        training: As `TRAINING`.
    """
    torch.manual_seed(seed)
    sizes = [training["hidden"], *widths]
    model = nn.Sequential(
        nn.BatchNorm1d(inputs.shape[1], affine=False),
        nn.Hardtanh(-6, 6),
        nn.Dropout(training["dropout_of_numbers"]),
        nn.Linear(inputs.shape[1], sizes[0]),
        nn.BatchNorm1d(sizes[0]),
        nn.ReLU(),
        nn.Dropout(training["dropout"]),
        *(nn.Linear(before, after) for before, after in itertools.pairwise(sizes)),
    )
    steps = len(inputs) // training["batch_size"]
    rate, decay = training["learning_rate"], training["weight_decay"]
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps * training["epochs"])
    for _ in range(training["epochs"]):
        for rows in torch.randperm(len(inputs)).split(training["batch_size"])[:steps]:
            loss = F.cross_entropy(model(inputs[rows]), labels[rows], label_smoothing=training["label_smoothing"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


class HeadCNN(nn.Module):
    """The paper's IMU encoder and a perceptron: motion at `CNN_RATE`, float [n, T, 6] -> logits [n, classes].

    With `scaled`, windows are upright, readings have about the same size, and the net turn goes beside the features:
    the paper's encoder does not see the mean of a window.
    """

    def __init__(self, length: int, classes: int, scaled: bool) -> None:
        super().__init__()
        self.scaled, self.encoder = scaled, IMUEncoder()
        self.register_buffer("scales", torch.tensor(CNN_SCALES).repeat_interleave(3))
        self.width = 16 * length + 3 * scaled
        hidden, dropout = TRAINING["hidden"], TRAINING["dropout"]
        layers = [nn.Linear(self.width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout)]
        self.perceptron = nn.Sequential(*layers, nn.Linear(hidden, classes))

    def forward(self, motion: Tensor) -> Tensor:
        if self.scaled:
            motion = upright(motion) / self.scales
        mean = motion.mean(1, keepdim=True)
        found = self.encoder(motion - mean).flatten(1)
        return self.perceptron(torch.cat([found, mean[:, 0, 3:]], 1) if self.scaled else found)


def learn_cnn(scaled: bool, motion: Tensor, windows: Windows, test: np.ndarray, seed: int) -> Tensor:
    """Return the logits of the tested windows of a fold by a CNN, as it was best on a fifth of the other wearers.

    Args:
        scaled: See `HeadCNN`.
        motion: All windows at `CNN_RATE`, float [n, T, 6].
        windows: The windows.
        test: Which of them are of the fold's wearers, bool [n].
        seed: Seed of the weights, of the order, and of the validation wearers.
    """
    torch.manual_seed(seed)
    labels = torch.from_numpy(windows.labels)
    names = np.random.default_rng(seed).permutation(np.unique(windows.wearers[~test]))
    validated = np.isin(windows.wearers, names[: len(names) // FOLDS]) & windows.tested
    learnt = torch.from_numpy(np.flatnonzero(~test & ~np.isin(windows.wearers, names[: len(names) // FOLDS])))
    model = HeadCNN(motion.shape[1], int(labels.max()) + 1, scaled)
    optimizer = torch.optim.AdamW(model.parameters(), TRAINING["learning_rate"] / 2, weight_decay=1e-2)
    best, since, kept = 0.0, 0, Tensor()
    while since < PATIENCE:
        model.train()
        for rows in learnt[torch.randperm(len(learnt))[::OVERLAP]].split(TRAINING["batch_size"])[:-1]:
            loss = F.cross_entropy(model(motion[rows]), labels[rows], label_smoothing=TRAINING["label_smoothing"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        right = (answers_of(model, motion[validated]).argmax(1) == labels[validated]).float().mean().item()
        since += 1
        if right > best:
            best, since, kept = right, 0, answers_of(model, motion[test & windows.tested])
    return kept


@torch.no_grad()
def answers_of(model: nn.Module, motion: Tensor) -> Tensor:
    """Return the logits of a trained model for windows."""
    model.eval()
    return torch.cat([model(part) for part in motion.split(512)])


def evaluate(model: str, study: int, seconds: float, seed: int) -> dict[str, Any]:
    """Return the line of a model: {wearer: {activity: what its tested windows were taken for, counts}}, and more."""
    windows, classes = cut(study, seconds), len(ACTIVITIES[study])
    labels = torch.from_numpy(windows.labels)
    answers = torch.zeros(len(labels), classes)
    cnn, step = model in (CNN, SCALED_CNN), RATE // CNN_RATE
    if cnn:
        length = windows.samples.shape[1] // step
        found = torch.from_numpy(windows.samples)[:, : length * step].unflatten(1, (length, step)).mean(2)
    else:
        found = numbers(model, windows.samples)
    for test in folds(windows.wearers, seed):
        rows = test & windows.tested
        if cnn:
            logits = learn_cnn(model == SCALED_CNN, found, windows, test, seed)
        else:
            logits = learn(found[~test], labels[~test], found[rows], classes, seed)
        answers[rows] = logits.softmax(1)
    tested, taken = windows.tested, answers.argmax(1).numpy()
    confusion = {
        str(wearer): np.bincount(
            classes * windows.labels[own] + taken[own], minlength=classes**2
        ).reshape(classes, classes).tolist()
        for wearer in np.unique(windows.wearers)
        for own in [tested & (windows.wearers == wearer)]
    }  # fmt: skip
    whole = [
        (answers[own].mean(0).argmax() == labels[own][0]).item()
        for number in np.unique(windows.recordings)
        for own in [tested & (windows.recordings == number)]
        if own.any()
    ]
    return {
        "study": study,
        "seconds": seconds,
        "model": model,
        "seed": seed,
        "numbers": HeadCNN(found.shape[1], classes, model == SCALED_CNN).width if cnn else found.shape[1],
        "wearers": confusion,
        "recordings": [sum(whole), len(whole)],
        "commit": evidence.git("rev-parse", "--short", "HEAD"),
        "processor": tables.processor(),
    }


# ---------------------------------------------------------------------------------------------------------------
# Lines and tables


def accuracies(line: dict[str, Any]) -> dict[str, float]:
    """Return the accuracy of each wearer's windows, in %."""
    counts = {wearer: np.array(rows) for wearer, rows in line["wearers"].items()}
    return {wearer: 100 * np.trace(rows) / rows.sum() for wearer, rows in counts.items()}


def top1(line: dict[str, Any]) -> float:
    """Return the accuracy of all windows, in %."""
    total = np.sum(list(line["wearers"].values()), axis=0)
    return 100 * np.trace(total) / total.sum()


def macro_f1(line: dict[str, Any]) -> float:
    """Return the mean F1 of the activities, in %."""
    total = np.sum(list(line["wearers"].values()), axis=0)
    return 100 * float(np.mean(2 * np.diag(total) / (total.sum(0) + total.sum(1))))


def chosen(lines: Sequence[dict[str, Any]], study: int, seconds: float, model: str) -> list[dict[str, Any]]:
    """Return the lines of a model, by seed."""
    wanted = (study, seconds, model)
    found = [line for line in lines if (line["study"], line["seconds"], line["model"]) == wanted]
    return sorted(found, key=lambda line: line["seed"])


def digest() -> str:
    """Return the SHA-256 of the protocol, as `evidence.committed()` does."""
    return evidence.committed(PROTOCOL, lambda record: PROTOCOL_TEXT)


def run(study: int, seeds: Sequence[int], models: Sequence[str]) -> None:
    """Add the lines that are missing. Exit before study 2 is read if the protocol is not committed."""
    if study == 2:  # which is read once, by a protocol that was written before
        digest()
    for seconds in STRIDES:
        for model in models if seconds == min(STRIDES) else [name for name in models if name in MODELS]:
            done = {line["seed"] for line in chosen(files.read_lines(LINES, "study"), study, seconds, model)}
            for seed in sorted(set(seeds) - done):
                line = evaluate(model, study, seconds, seed)
                files.append_line(LINES, line)
                print(f"study {study}, {seconds} s, {model}, seed {seed}: {top1(line):.1f} %", flush=True)


PROTOCOL_TEXT = {
    "before": "Six ridge settings and three models were tried on study 2 before this was written: IMUSpectrum "
    "53.2 %, other numbers 64.5, with posture 69.7; with 10 s 70.2, 84.0, 88.0. Nothing was chosen by them.",
    "study 1": "All is chosen here: 27 wearers, eleven activities, five folds by wearer.",
    "study 2": "Read once, with what study 1 chose: 20 other wearers, six activities, five folds by wearer.",
    "primary": "top-1 of windows of 2.13 s; macro-F1, windows of 10 s and recordings are described",
    "interval": "intervals.two_way over seeds and wearers, of the accuracies of the wearers",
    "encoder": "plain numbers: IMUSpectrum; the same, windows upright by their own mean acceleration; IMUFilterbank. "
    "The paper's CNN as it is, and with scaled readings, net turn and upright windows, at 50 Hz, trained until "
    "validation wearers stop gaining",
    "tried on study 1": {
        "one seed, perceptron, 2.13 s": {
            "bands alone (48)": 54.5,
            "all that was tried, quantiles and finer bands among it (401)": 62.0,
            "filterbank without skewness and kurtosis (184)": 59.9,
            "filterbank (192)": 60.3,
            "filterbank and coherences (240)": 60.4,
            "without shape (172)": 59.5,
            "without energy (168)": 58.8,
            "without autocorrelation (130)": 59.1,
            "filterbank, other folds": 58.6,
            "the same, windows to learn from 0.71 s apart": 60.0,
            "the same, half of the epochs": 59.2,
            "the same, half of the epochs, 512 hidden": 59.7,
        },
        "one seed, perceptron, 10 s": {
            "filterbank without deviations, coherences, skewness and kurtosis (184)": 71.0,
            "and deviations over segments (232)": 72.7,
            "and coherences (280)": 75.4,
        },
    },
    "rendered worlds": "D, five seeds, one and four frames: Spectrum without the net turn; the paper's CNN with scaled "
    "readings and the net turn; each with the gyroscope, then the accelerometer, zeroed in training; the student with "
    "IMUFilterbank beside the signed numbers.",
    "carriers": "One frame, D's pictures, labels and teacher outputs as they are; HeadMotion.sway() returns recorded "
    "head motion of study 1 (upright, heading drawn, angles above 0.2 Hz, positions above 0.5 Hz, splines) in place of "
    "its own sway and steps. Other wearers in training and test; by activity.",
    "contrasts": [
        "study 2, 2.13 s: filterbank - spectrum",
        "study 2, 10 s: filterbank - spectrum",
        "study 2, 2.13 s: the better CNN - filterbank",
        "D, 1 frame: second version - Spectrum",
        "D, 4 frames: second version - Spectrum",
        "carriers, walking: second version - frames alone",
        "carriers, walking: second version - the paper's recipe with the same carriers",
        "no carrier: second version trained with carriers - Spectrum",
    ],
    "family": "the eight contrasts, Holm",
    "as good": "within 1 point, and the interval holds 0",
    "preset": "The second version becomes the preset if D's lower end (1 frame) is above -2.5 and study 2's (2.13 s) "
    "above +5; else it is an option. If a CNN with scaled input is as good, it is taken instead.",
    "seeds": [0, 1, 2, 3, 4],
    "training": TRAINING,
    "folds": FOLDS,
    "seconds": list(STRIDES),
}


def gap_of(
    lines: Sequence[dict[str, Any]], study: int, seconds: float, one: str, two: str
) -> intervals.Interval | None:
    """Return by how much a model is better than another, over the seeds of both and the wearers; None without.

    The interval of one seed is over the wearers alone.
    """
    both = [{line["seed"]: line for line in chosen(lines, study, seconds, name)} for name in (one, two)]
    seeds = sorted(both[0].keys() & both[1].keys())
    if not seeds or one == two:
        return None
    wearers = sorted(both[0][seeds[0]]["wearers"])
    found = [[accuracies(side[seed])[wearer] for wearer in wearers] for side in both for seed in seeds]
    ours, theirs = np.array(found).reshape(2, len(seeds), -1)
    return intervals.two_way(ours - theirs)


def tabulated(lines: Sequence[dict[str, Any]]) -> tables.Table:
    """Return the table of all models."""
    rows = []
    for study in ACTIVITIES:
        for seconds in STRIDES:
            for model in (*MODELS, CNN, SCALED_CNN):
                own = chosen(lines, study, seconds, model)
                if own:
                    worst = np.mean([list(accuracies(line).values()) for line in own], axis=0).min()
                    whole = np.mean([100 * right / count for right, count in (line["recordings"] for line in own)])
                    scores = [np.mean([score(line) for line in own]) for score in (top1, macro_f1)]
                    cells = [f"{value:.1f}" for value in (*scores, whole, worst)]
                    against = str(gap_of(lines, study, seconds, model, MODELS[0]) or "")
                    rows.append(
                        [f"{study}", f"{seconds:g}", model, f"{own[0]['numbers']}", f"{len(own)}", *cells, against]
                    )
    heads = ["study", "s", "numbers", "of them", "seeds", "windows (%)", "macro-F1", "recordings", "worst wearer"]
    return tables.Table([*heads, "points more than spectrum (95 % interval)"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("freeze")
    one = actions.add_parser("run")
    one.add_argument("study", type=int, choices=tuple(ACTIVITIES))
    one.add_argument("--seeds", type=int, nargs="+", default=PROTOCOL_TEXT["seeds"])
    one.add_argument("--models", nargs="+", choices=(*MODELS, CNN, SCALED_CNN), default=MODELS)
    tables.markdown_option(actions.add_parser("report"))
    a = parser.parse_args()
    torch.set_num_threads(1)
    if a.action == "freeze":
        evidence.write_protocol(PROTOCOL, PROTOCOL_TEXT)
    elif a.action == "run":
        run(a.study, a.seeds, a.models)
    else:
        lines = list(files.read_lines(LINES, "study"))
        origin = evidence.machines(lines)
        tables.report(tabulated(lines), "lab/real_heads.py", a.markdown, sys.argv, origin=origin)


if __name__ == "__main__":
    main()
