"""The paper's experiments: train and evaluate students and baselines under one protocol, over several seeds.

    from lab import benches, figures, paper, protocols

    bench = benches.Bench("store", "out", protocols.PROTOCOLS["epic"])  # a clip store with a teacher's outputs
    runs = paper.comparison(bench, teacher="motionformer", seeds=(0, 1, 2))
    bench.run(runs, jobs=2)                                            # trains and evaluates what is not finished
    rows = paper.rows(bench, runs)                               # means over the seeds, and costs
    figures.draw(rows, "out/compare")                      # accuracy against cost: the paper's Figure 3

`comparison()` gives the runs of Figure 3, `ablation()` those of Table 1, `frame_choices()` those of Table 4. Table 2 is
a comparison with other teachers, which a bench can train itself (`Bench.teachers`, as `python -m lab demo` does). Runs
and benches are explained in `benches`.
"""

from __future__ import annotations

import contextlib
import csv
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from egodistill import data, inference
from egodistill.engine import models
from egodistill.recordings.spec import spec_of
from egodistill.student import Output
from egodistill.support import files
from egodistill.support.errors import EgoDistillError
from lab import contrasts, stts
from lab.benches import DISTILLED, METHODS, STAGE_1_LOSSES, STTS_METHODS, Bench, Run, samplings
from lab.contrasts import Outcome
from lab.intervals import Interval

__all__ = [
    "ABLATIONS",
    "Contrast",
    "Row",
    "ablation",
    "comparison",
    "leads",
    "frame_choices",
    "kept_tokens",
    "rows",
    "teacher_row",
    "write_rows",
]


def comparison(
    bench: Bench,
    *,
    teacher: str,
    seeds: Sequence[int] = (0, 1, 2),
    num_frames: Sequence[int] = (1, 2, 4),
    methods: Sequence[str] = METHODS,
) -> list[Run]:
    """Return the runs of Figure 3: each method with each number of frames, AdaFuse and STTS only with the largest.

    Variants of STTS that keep the same tokens at the store's frame size (two do at 64 pixels) are one run.

    Args:
        bench: The bench; its store and protocol decide which variants of STTS keep the same tokens.
        teacher: Name of the teacher's outputs in the store; "{seed}" in it stands for the seed.
        seeds: Each run is repeated with each seed.
        num_frames: Numbers of frames.
        methods: Some of `METHODS`, and of those of the bench's own; another one raises EgoDistillError.

    >>> from lab import benches, paper, protocols
    >>> bench = benches.Bench("store", "out", protocols.PROTOCOLS["demo"])
    >>> methods = ("VisIMU", "AdaFuse")
    >>> runs = paper.comparison(bench, teacher="x3d", seeds=(0,), num_frames=(1, 4), methods=methods)
    >>> [run.name for run in runs]
    ['seed-0/visimu-n1', 'seed-0/visimu-n4', 'seed-0/adafuse-n4']
    """
    known = {method: method in DISTILLED for method in METHODS} | {one.name: one.taught for one in bench.methods}
    if unknown := sorted(set(methods) - set(known)):
        raise EgoDistillError(f"unknown method {unknown[0]!r}; choose from {', '.join(known)}")
    runs, kept = [], {}
    for method in methods:
        most = [max(num_frames)]
        if method in STTS_METHODS and kept.setdefault(kept_tokens(bench, method, most[0]), method) != method:
            continue
        for frames in most if method in ("AdaFuse", *STTS_METHODS) else sorted(num_frames):
            runs.append(Run(method, frames=frames, teacher=teacher if known[method] else None))
    return [replace(run, seed=seed) for seed in seeds for run in runs]


def kept_tokens(bench: Bench, method: str, frames: int) -> tuple[int, int]:
    """Return the number of temporal tokens that a variant of STTS keeps, and the side of its spatial window.

    The method is one of `STTS_METHODS`; the bench's store gives the frame size, its protocol the network's.
    """
    size = data.ClipStore(bench.store).settings["frame_size"]
    options = asdict(bench.protocol.stts) | stts.STTS_VARIANTS[method.split()[1]] | {"weights": None}
    with torch.device("meta"):
        model = stts.STTS(2, **options, num_frames=frames, frame_size=size)
    return model.keep_times, getattr(model, "window", 0)


# Rows of Table 1 after VisIMU: {name: losses left out}. (The paper's text, as we have it, does not show which number
# belongs to which row.)
ABLATIONS: dict[str, tuple[str, ...]] = {
    "without L_KD": ("kd",),
    "without L_1": ("l1",),
    "without L_GT": ("gt",),
    "without stage 1": STAGE_1_LOSSES,
    "stage 1 without L_1": ("pretrain_l1",),
    "stage 1 without L_NCE": ("nce",),
    "EgoDistill": (),
}


def ablation(teacher: str, seeds: Sequence[int] = (0, 1, 2)) -> list[Run]:
    """Return the runs of Table 1: VisIMU, and EgoDistill with N = 1 without each of the losses of both stages.

    Args:
        teacher: Name of the teacher's outputs in the store; "{seed}" in it stands for the seed.
        seeds: Each run is repeated with each seed.

    >>> from lab import paper
    >>> for run in paper.ablation("x3d", seeds=(0,))[:3]:
    ...     print(run.method, run.without)
    VisIMU ()
    EgoDistill ('kd',)
    EgoDistill ('l1',)
    """
    runs = [Run("VisIMU"), *(Run("EgoDistill", teacher=teacher, without=losses) for losses in ABLATIONS.values())]
    return [replace(run, seed=seed) for seed in seeds for run in runs]


def frame_choices(bench: Bench, teacher: str, seeds: Sequence[int] = (0, 1, 2), frames: int = 4) -> list[Run]:
    """Return the runs of Table 4: EgoDistill with each choice of frames that the store has.

    Args:
        bench: The bench, for its store.
        teacher: Name of the teacher's outputs in the store; "{seed}" in it stands for the seed.
        seeds: Each run is repeated with each seed.
        frames: N, the number of frames.

    >>> from lab import benches, paper, protocols
    >>> bench = benches.Bench("store", "out", protocols.PROTOCOLS["demo"])
    >>> [run.sampling for run in paper.frame_choices(bench, "x3d", seeds=(0,))]
    ['uniform']
    """
    choices = samplings(data.ClipStore(bench.store), frames)
    runs = [Run("EgoDistill", frames=frames, teacher=teacher, sampling=rule) for rule in choices]
    return [replace(run, seed=seed) for seed in seeds for run in runs]


class Row(NamedTuple):
    """Results of one method over its seeds: accuracy, and cost per clip as measured by `inference.measure()`.

    Attributes:
        method: Name of the method, as in `Run`.
        frames: N, the number of frames.
        inputs: What the model reads, such as "1 frame + IMU".
        top1: Mean over the seeds of the accuracy in %.
        std: Standard deviation over the seeds; None for one seed.
        top1_seeds: Accuracy in % of each seed.
        gmacs: Billions of multiply-adds; for AdaFuse, those that its decisions need. None if not measured.
        params: Number of parameters; None if not measured.
        ms_per_clip: Milliseconds; None if not measured.
        per_class: {class: mean over the seeds of the accuracy on it in %}.
        run: One run of these settings, which stands for all seeds.
        precision: Precision of the training; several if the seeds were trained on different machines, "" if unknown.
        interval: Interval of the accuracy with equal weight for each wearer; None if it cannot be computed.
    """

    method: str
    frames: int
    inputs: str
    top1: float
    std: float | None
    top1_seeds: list[float]
    gmacs: float | None
    params: int | None
    ms_per_clip: float | None
    per_class: dict[str, float]
    run: Run
    precision: str = ""
    interval: Interval | None = None


def rows(bench: Bench, runs: Iterable[Run], *, costs: bool = True) -> list[Row]:
    """Return one row per method and number of frames: mean and standard deviation of the accuracy over the seeds.

    `Bench` shows an example.

    Args:
        bench: The bench of the runs.
        runs: Finished runs; another one raises DataError.
        costs: Also measure the cost of the network of the first seed.
    """
    kinds: dict[Run, list[Run]] = {}
    for run in runs:
        kinds.setdefault(replace(run, seed=0), []).append(run)
    result = []
    for kind, members in kinds.items():
        found = [bench.result(run) for run in members]
        model = bench.load(members[0])
        cost = inference.measure(model, device=bench.device, precision="fp32") if costs else None
        gmacs = cost and cost.gmacs
        if "gmacs" in found[0]:  # AdaFuse: what its decisions need.
            gmacs = statistics.mean(one["gmacs"] for one in found)
        made = row(kind, found, describe_inputs(model), gmacs, cost)
        with contextlib.suppress(EgoDistillError):  # Results of an earlier version, or one seed with one wearer.
            made = made._replace(interval=contrasts.accuracy([bench.outcome(run) for run in members]))
        result.append(made)
    return result


def row(kind: Run, found: list[dict[str, Any]], inputs: str, gmacs: float | None, cost: Any) -> Row:
    top1 = [100 * one["top1"] for one in found]
    return Row(
        method=kind.method,
        frames=kind.frames,
        inputs=inputs,
        top1=statistics.mean(top1),
        std=statistics.stdev(top1) if len(top1) > 1 else None,
        top1_seeds=top1,
        gmacs=gmacs,
        params=cost and cost.params,
        ms_per_clip=cost and cost.ms_per_clip,
        per_class={
            name: statistics.mean(100 * one["per_class"][name] for one in found) for name in found[0]["per_class"]
        },
        precision=", ".join(sorted({one["precision"] for one in found if "precision" in one})),
        run=kind,
    )


def teacher_row(bench: Bench, teacher: str, seeds: Sequence[int], checkpoint: str | os.PathLike | None = None) -> Row:
    """Return the row of a teacher, evaluated from its outputs in the store.

    "{seed}" in the name of the outputs and in `checkpoint` stands for the seed. The cost measured is that of
    `checkpoint`; None: that of a teacher that the bench trained itself, else none.
    """
    run = Run("teacher", seeds[0], teacher=teacher)
    if checkpoint is None and bench.path(run).exists():
        checkpoint = bench.path(run)
    _, test = bench.splits(run)
    found, outcomes = [], []
    for seed, name in enumerate(dict.fromkeys(teacher.format(seed=seed) for seed in seeds)):
        result = inference.evaluate(StoredTeacher(name), test, device=bench.device, precision="fp32", progress=False)
        found.append({"top1": result.top1, "per_class": result.per_class})
        correct = contrasts.split_by_wearer(result.correct.numpy(), result.wearers)
        outcomes.append(Outcome(name, seed, correct))
    model = models.load_any(str(checkpoint).format(seed=seeds[0])) if checkpoint else None
    cost = model and inference.measure(model, device=bench.device, precision="fp32")
    made = row(run, found, describe_inputs(model) if model else "clip", cost and cost.gmacs, cost)
    with contextlib.suppress(EgoDistillError):  # One teacher and one wearer.
        made = made._replace(interval=contrasts.accuracy(outcomes))
    return made


class StoredTeacher(nn.Module):
    """Model that returns a teacher's outputs from the store, to evaluate the teacher without running it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.inputs = (f"{name}.feature", f"{name}.logits")

    def forward(self, feature: Tensor, logits: Tensor) -> Output:
        return Output(feature, logits)


def describe_inputs(model: Any) -> str:
    count = spec_of(model).frames
    names = {"imu": "IMU", "audio": "sound"}
    frames = [f"{count} frame{'s' * (count > 1)}"] * (count > 0)
    return " + ".join([*frames, *(names[name] for name in model.inputs if name in names)])


class Contrast(NamedTuple):
    """A paired difference of accuracies in points; both runs stand for all seeds, as `Row.run`.

    Attributes:
        first: The run whose accuracy is the minuend.
        second: The run whose accuracy is subtracted.
        interval: The difference with its interval.
    """

    first: Run
    second: Run
    interval: Interval


def leads(bench: Bench, runs: Iterable[Run]) -> list[Contrast]:
    """Return EgoDistill minus each other method with as many frames, and each method of the bench's own minus each.

    Runs of several teachers are compared with those of their own teacher, runs without one with those of each.

    Args:
        bench: The bench of the runs.
        runs: Finished runs, such as those of `comparison()`.

    Raises:
        DataError: If a result does not say which segments are right.
        EgoDistillError: For one seed with one wearer.
    """
    kinds: dict[Run, list[Run]] = {}
    for run in runs:
        kinds.setdefault(replace(run, seed=0), []).append(run)
    leading = ["EgoDistill", *(one.name for one in bench.methods)]
    whole = [kind for kind in kinds if kind == Run(kind.method, frames=kind.frames, teacher=kind.teacher)]
    return [
        Contrast(first, kind, contrasts.difference(*([*map(bench.outcome, kinds[one])] for one in (first, kind))))
        for name in leading
        for kind in kinds
        for first in (one for one in whole if one.method == name)
        if kind.method in (*METHODS, *leading[: leading.index(name)]) and kind.frames == first.frames
        if kind != first and (kind.teacher is None or first.teacher in (None, kind.teacher))
    ]


def write_rows(
    rows: list[Row], stem: str | os.PathLike, about: Mapping[str, Any], differences: Sequence[Contrast] = ()
) -> list[Path]:
    """Write rows as .json, with differences and notes, and as .csv with one line per row; return both paths.

    `low` and `high` in the table are the ends of the accuracy's interval, whose middle is `mean_of_wearers`.

    Args:
        rows: Rows of `rows()`.
        stem: Path of the two files without their suffix.
        about: Notes for the .json, such as the origin of the numbers.
        differences: Differences of `leads()`, for the .json.
    """
    json_file, csv_file = Path(f"{stem}.json"), Path(f"{stem}.csv")
    content: dict[str, Any] = {
        "rows": [
            row._asdict() | {"run": asdict(row.run), "interval": row.interval and asdict(row.interval)} for row in rows
        ],
        "differences": [{name: asdict(value) for name, value in one._asdict().items()} for one in differences],
        "about": dict(about),
    }
    files.write_json(json_file, content)
    columns = [
        "method",
        "frames",
        "inputs",
        "without",
        "sampling",
        "top1",
        "std",
        "mean_of_wearers",
        "low",
        "high",
        "gmacs",
        "params",
        "ms_per_clip",
        "precision",
    ]
    with files.atomic_write(csv_file) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            cells = row._asdict() | {"without": " ".join(row.run.without), "sampling": row.run.sampling}
            mean, low, high = (row.interval.mean, row.interval.low, row.interval.high) if row.interval else 3 * (None,)
            cells |= {"mean_of_wearers": mean, "low": low, "high": high}
            writer.writerow(["" if cells[name] is None else cells[name] for name in columns])
    return [json_file, csv_file]
