"""Use a trained model: accuracy on a store, cost, retrieval of clips, classification of recordings.

    from egodistill import EgoDistill, agreement, data, evaluate, measure, predict, retrieve

    model, test = EgoDistill.load("student.safetensors"), data.ClipStore("store").split("test")
    print(evaluate(model, test).top1, measure(model).gmacs)
    print(agreement(model, test, teacher="i3d"))                # without labels: how close it is to its teacher
    for clip in predict(model, "walk.mp4"):                     # IMU telemetry inside the GoPro file
        print(clip.start, clip.classes[0])
    frames, imu = (torch.from_numpy(test.read(name, [0])) for name in ("frames_1", "imu"))
    print(retrieve(model, test, frames, imu).rows)              # clips that look and move like this one

A model, student or teacher, is a torch module that names its inputs, `model.inputs = ("frames", "imu")`, takes these
tensors in that order and returns `(feature, logits)`; see `batches.Model`. All functions leave the model on its device,
and its layers in the mode, training or evaluation, in which they were.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .engine import batches, runtime
from .engine.batches import Model, Store
from .engine.calibration import Reliability, calibration_of, reliability
from .engine.runtime import Precision
from .engine.steps import accepts_missing_input
from .imu import MAX_GAP
from .recordings.clips import decode_clips
from .recordings.recording import Recording, open_recording
from .recordings.spec import ClipSpec, require_axes, strided_starts
from .student import Output
from .support import files
from .support.errors import EgoDistillError, named
from .video import MAX_HOLD, FrameReaders, open_reader

__all__ = [
    "Agreement",
    "Cost",
    "Evaluation",
    "Prediction",
    "Retrieval",
    "agreement",
    "count_macs",
    "evaluate",
    "measure",
    "outputs",
    "predict",
    "retrieve",
]


# ---------------------------------------------------------------------------------------------------------------
# Accuracy


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate()`: accuracy over the S segments ("videos") of a store.

    Attributes:
        top1: Share of segments with the right class, 0 to 1.
        per_class: The same for each class that occurs.
        confusion: int64 [C, C]: rows are true classes, columns predicted ones.
        scores: float32 [S, C]: probabilities averaged over the clips of each segment.
        labels: int64 [S].
        feature_distance: Mean absolute difference between clip features and the teacher's; None without a teacher.
        clips: Number of clips.
        precision: Precision in which the model ran, such as "fp32" or "bf16".
        wearers: Wearer of each segment, in the order of labels; "" if the store names none.
        temperature: The model's, which divides logits before the softmax; 1 if none was fitted.
        reliability: How far the probabilities of single clips are off, see `engine.calibration.Reliability`.
        without_temperature: The same with temperature 1; None if that is the model's.
    """

    top1: float
    per_class: dict[str, float]
    confusion: Tensor
    scores: Tensor
    labels: Tensor
    feature_distance: float | None
    clips: int
    precision: str = "fp32"
    wearers: Sequence[str] = ()
    temperature: float = 1.0
    reliability: Reliability | None = None
    without_temperature: Reliability | None = None

    @property
    def correct(self) -> Tensor:
        """Return whether the best class of each segment is the right one, bool [S]."""
        return self.scores.argmax(1) == self.labels

    def __str__(self) -> str:
        return f"top-1 {100 * self.top1:.2f} % of {len(self.labels)} segments ({self.clips} clips, {self.precision})"


@torch.no_grad()
def evaluate(
    model: Model,
    store: Store,
    *,
    teacher: str | None = None,
    batch_size: int = 64,
    device: str | None = None,
    precision: Precision = "auto",
    compile: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Return an `Evaluation`: per-video top-1 accuracy (section 4.1), by softmax scores averaged over each segment.

    Args:
        model: A student, teacher or baseline; see `batches.Model`. Threads may share it, here and in `predict()`.
        store: Clips that all have a label. The wearers of the result come from its attribute `wearers`, if it has one:
            a name or None for each clip.
        teacher: Name of outputs in the store. With it, the result has the mean absolute difference between the model's
            features and the teacher's.
        batch_size: Clips per batch.
        device: Device to compute on; None: a GPU if there is one.
        precision: "fp32", "bf16", or "auto": bf16 on hardware that is fast at it (see `runtime.pick_precision()`).
        compile: Use torch.compile, which takes about a minute first.
        progress: Show a progress bar on stderr.

    Raises:
        EgoDistillError: If the store lacks an array or labels, or does not fit the model.

    >>> from egodistill import EgoDistill, data, evaluate
    >>> model, test = EgoDistill.load("student.safetensors"), data.ClipStore("store").split("test")
    >>> result = evaluate(model, test, teacher="x3d", device="cpu", precision="fp32", progress=False)
    >>> print(result)
    top-1 ... % of 6 segments (6 clips, fp32)
    >>> result.confusion.shape, result.scores.shape, result.feature_distance > 0
    (torch.Size([13, 13]), torch.Size([6, 13]), True)
    >>> result.correct.shape, sorted(set(result.wearers))
    (torch.Size([6]), ['P30', 'P35', 'P37'])
    """
    batches.require_model(model)
    batches.require_labels(store)
    batches.segments_of(store)  # an error at once, and not after hours
    if not len(store):
        raise EgoDistillError("the store has no clips to evaluate on; check the split, and store.failures")
    targets = batches.require_teacher(store, teacher, "feature") if teacher else []
    picked = runtime.pick_precision(runtime.pick_device(device), precision, model)
    scores, plain, distance, temperature = [], [], 0.0, calibration_of(model).temperature
    found = outputs(
        model,
        store,
        targets,
        batch_size=batch_size,
        device=device,
        precision=picked,
        compile=compile,
        progress=progress,
    )
    for output, batch in found:
        scores.append(batches.probabilities(model, output.logits).cpu())
        plain += [batches.probabilities(None, output.logits).cpu()] if temperature != 1 else []
        for target in targets:
            require_same_size(output.feature, batch[target], teacher, "to evaluate without a teacher")
            difference = (output.feature.float() - batch[target].float()).abs()
            distance += float(difference.mean()) * len(difference)

    of_clips, own = torch.from_numpy(batches.labels_of(store)), torch.cat(scores)
    scores, labels = per_segment(store, own)
    classes = scores.shape[1]
    confusion = torch.bincount(labels * classes + scores.argmax(1), minlength=classes**2).view(classes, classes)
    count, right = confusion.sum(1), confusion.diagonal()
    return Evaluation(
        top1=float(right.sum() / count.sum()),
        per_class={store.class_names[k]: float(right[k] / count[k]) for k in range(classes) if count[k]},
        confusion=confusion,
        scores=scores,
        labels=labels,
        feature_distance=distance / len(store) if teacher else None,
        clips=len(store),
        precision=picked,
        wearers=segment_wearers(store),
        temperature=temperature,
        reliability=reliability(own, of_clips),
        without_temperature=reliability(torch.cat(plain), of_clips) if plain else None,
    )


def require_same_size(feature: Tensor, target: Tensor, teacher: str | None, purpose: str) -> None:
    """Raise EgoDistillError if the features [B, D] of model and teacher differ in size."""
    if feature.shape[1] != target.shape[1]:
        raise EgoDistillError(
            f"the model's feature has the size {feature.shape[1]}, but that of the teacher {teacher!r} has the size "
            f"{target.shape[1]}; leave out {named('teacher', teacher)} {purpose}"
        )


def per_segment(store: Store, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean class scores [S, C] and labels [S] of the S segments, given the scores of all clips [n, C]."""
    _, segment = torch.unique(torch.from_numpy(batches.segments_of(store)), return_inverse=True)
    total = torch.zeros(int(segment.max()) + 1, scores.shape[1]).index_add_(0, segment, scores)
    labels = torch.zeros(len(total), dtype=torch.int64).index_copy_(
        0, segment, torch.from_numpy(batches.labels_of(store))
    )
    return total / torch.bincount(segment)[:, None], labels


def segment_wearers(store: Store) -> list[str]:
    """Return the wearer of each segment, in the order of `per_segment()`; "" for unknown ones.

    A store of your own may have an attribute `wearers`, a name or None for each clip, as `data.ClipStore` has. An
    attribute of another kind is ignored.
    """
    _, first = np.unique(batches.segments_of(store), return_index=True)
    wearers = getattr(store, "wearers", None)
    if not isinstance(wearers, (Sequence, np.ndarray)) or isinstance(wearers, str) or len(wearers) != len(store):
        return [""] * len(first)
    return ["" if wearers[clip] is None else str(wearers[clip]) for clip in first]


@torch.no_grad()
def outputs(
    model: Model,
    store: Store,
    targets: Sequence[str] = (),
    *,
    batch_size: int,
    device: str | None,
    precision: str = "fp32",
    compile: bool = False,
    progress: bool,
) -> Iterator[tuple[Output, dict[str, Tensor]]]:
    """Yield the outputs of a model in evaluation mode for all clips, batch by batch in order, with the batch.

    The batch has the arrays that the model reads and the `targets`; see `batches.read_batches()`. A device of None is a
    GPU if there is one; the precision is a result of `runtime.pick_precision()`, such as "fp32".

    >>> from egodistill import EgoDistill, data, inference
    >>> model, store = EgoDistill.load("student.safetensors"), data.ClipStore("store")
    >>> for output, batch in inference.outputs(model, store, batch_size=16, device="cpu", progress=False):
    ...     print(output.logits.shape, batch["imu"].shape)
    torch.Size([16, 13]) torch.Size([16, 422, 6])
    torch.Size([6, 13]) torch.Size([6, 422, 6])
    """
    batches.require_classifier(model)
    names, place = batches.arrays_of(model, store), runtime.pick_device(device)
    coming = batches.read_batches(store, [*names, *targets], torch.arange(len(store)), batch_size, place)
    with files.Progress("evaluate", len(store), show=progress) as bar, runtime.evaluation(model, place):
        run = runtime.Compiled(model) if compile else model
        for batch, _ in coming:
            with runtime.autocast(place, precision):
                output = run(*(batch[name] for name in names))
            output = batches.as_output(model, output, batches.count_scores(model, store))
            for name, values in zip(("feature", "logits"), output, strict=True):
                batches.require_finite(store, batch["row"], f"the model's {name}", values)
            yield output, batch
            bar.step(len(output.logits))


# ---------------------------------------------------------------------------------------------------------------
# Agreement with a teacher, which needs no labels


@dataclass(frozen=True)
class Agreement:
    """The result of `agreement()`: how close a model is to a teacher on the clips of a store; it is not an accuracy.

    Attributes:
        top1: Share of clips whose best class is the teacher's, 0 to 1.
        top5: Share of clips with the teacher's best class among the model's five best.
        kl: Mean over the clips of KL(teacher || model) of the softmax scores, in nats.
        r2: 1 - |model - teacher|^2 / |training mean - teacher|^2 of the features, summed over the clips, or None.
        clips: Number of clips.
        precision: Precision in which the model ran, such as "fp32" or "bf16".
    """

    top1: float
    top5: float
    kl: float
    r2: float | None
    clips: int
    precision: str = "fp32"

    def __str__(self) -> str:
        r2 = "" if self.r2 is None else f", R2 of the feature {self.r2:.3f}"
        return (
            f"agreement with the teacher: top-1 {100 * self.top1:.2f} %, top-5 {100 * self.top5:.2f} %, "
            f"KL {self.kl:.4f}{r2} ({self.clips} clips, {self.precision})"
        )


@torch.no_grad()
def agreement(
    model: Model,
    store: Store,
    *,
    teacher: str,
    train: Store | None = None,
    batch_size: int = 64,
    device: str | None = None,
    precision: Precision = "auto",
    compile: bool = False,
    progress: bool = True,
) -> Agreement:
    """Return how close the outputs of a model are to those of a teacher in the store, clip by clip, without labels.

    Args:
        model: A student, teacher or baseline; see `batches.Model`.
        store: The clips, with or without labels.
        teacher: Name of outputs in the store.
        train: The clips on which the model was trained. They give the baseline of R2, the mean of the teacher's
            features: R2 is 1 for a model that returns the teacher's features, and 0 for one that always returns this
            mean. It is None without `train`, and if all of the teacher's features equal the mean.
        batch_size: Clips per batch.
        device: Device to compute on; None: a GPU if there is one.
        precision: "fp32", "bf16" or "auto", as in `evaluate()`.
        compile: Use torch.compile, as in `evaluate()`.
        progress: Show a progress bar on stderr.

    Raises:
        EgoDistillError: If the store lacks an array or does not fit the model, or if the sizes of features or the
            numbers of classes differ.

    >>> from egodistill import EgoDistill, agreement, data
    >>> model, store = EgoDistill.load("student.safetensors"), data.ClipStore("store")
    >>> train, test = store.split("train"), store.split("test")
    >>> print(agreement(model, test, teacher="x3d", train=train, device="cpu", precision="fp32", progress=False))
    agreement with the teacher: top-1 ... %, top-5 ... %, KL ..., R2 of the feature ... (6 clips, fp32)
    """
    targets = batches.require_teacher(store, teacher, "feature", "logits")
    if not len(store):
        raise EgoDistillError("the store has no clips to compare; check the split, and store.failures")
    mean = None if train is None else mean_feature(train, teacher)
    picked = runtime.pick_precision(runtime.pick_device(device), precision, model)
    best = among = divergence = residual = spread = 0.0
    options = {"batch_size": batch_size, "device": device, "precision": picked}
    for output, batch in outputs(model, store, targets, **options, compile=compile, progress=progress):
        feature, logits = (batch[target].double().cpu() for target in targets)
        own, scores = output.feature.double().cpu(), output.logits.double().cpu()
        require_same_size(own, feature, teacher, "to evaluate on labels")
        require_same_classes(scores, logits, teacher)
        choice = logits.argmax(1, keepdim=True)
        ranked = scores.topk(min(5, scores.shape[1]), dim=1).indices == choice
        best += float(ranked[:, 0].sum())
        among += float(ranked.sum())
        target = logits.log_softmax(1)
        divergence += float((target.exp() * (target - scores.log_softmax(1))).sum())
        if mean is not None:
            residual += float((own - feature).square().sum())
            spread += float((mean - feature).square().sum())
    r2 = 1 - residual / spread if spread else None
    count = len(store)
    return Agreement(best / count, among / count, divergence / count, r2, count, picked)


def mean_feature(store: Store, teacher: str) -> Tensor:
    """Return the mean of a teacher's features over all clips of a store, float64 [D].

    Raise EgoDistillError if the store has no clips, or none of these features.
    """
    (name,) = batches.require_teacher(store, teacher, "feature")
    if not len(store):
        raise EgoDistillError("train has no clips, whose mean feature R2 counts from")
    parts = np.array_split(np.arange(len(store)), len(store) // 1024 + 1)
    return torch.from_numpy(
        sum(batches.read_rows(store, name, part).numpy().sum(0, dtype=np.float64) for part in parts) / len(store)
    )


def require_same_classes(scores: Tensor, target: Tensor, teacher: str) -> None:
    """Raise EgoDistillError if the logits [B, C] of model and teacher differ in the number of classes."""
    if scores.shape[1] != target.shape[1]:
        raise EgoDistillError(
            f"the model has {scores.shape[1]} classes, but the teacher {teacher!r} has {target.shape[1]}; give a "
            f"student that was distilled from this teacher"
        )


# ---------------------------------------------------------------------------------------------------------------
# Retrieval


class Retrieval(NamedTuple):
    """The result of `retrieve()`: the clips of a store that are nearest to each of Q queries, the nearest first.

    Attributes:
        rows: int64 [Q, top]: rows of the store; `store.clips[row]` describes a clip.
        distance: float32 [Q, top].
    """

    rows: Tensor
    distance: Tensor


@torch.no_grad()
def retrieve(
    model: Model,
    store: Store,
    *inputs: Tensor,
    teacher: str | None = None,
    top: int = 5,
    metric: Literal["cosine", "l1"] = "cosine",
    batch_size: int = 64,
    device: str | None = None,
    progress: bool = True,
) -> Retrieval:
    """Find the clips of a store that are nearest to queries of frames and head motion (section 4.4, figure 6).

    The model runs in fp32.

    Args:
        model: A student, teacher or baseline; see `batches.Model`.
        store: The clips among which to search.
        inputs: Q queries, tensors or arrays of numpy in the order of `model.inputs`, such as frames uint8 [Q, N, 3, H,
            W] and imu float [Q, 422, 6]; to query one frame with several head motions, use `frames.expand(Q, ...)`.
        teacher: Name of outputs in the store, with whose features those of the queries are compared; None: with the
            model's own features of all clips.
        top: Number of clips to return for each query.
        metric: "cosine" (1 - similarity) or "l1" (mean absolute difference); the paper does not give one.
        batch_size: Clips or queries per batch.
        device: Device to compute on; None: a GPU if there is one.
        progress: Show a progress bar on stderr.

    Raises:
        EgoDistillError: If the store lacks an array, inputs are missing, feature sizes differ, or `top` is larger than
            the number of clips.

    >>> import torch
    >>> from egodistill import EgoDistill, data, retrieve
    >>> model, test = EgoDistill.load("student.safetensors"), data.ClipStore("store").split("test")
    >>> frame, motions = torch.from_numpy(test.read("frames_1", [0])), torch.from_numpy(test.read("imu", [0, 1]))
    >>> found = retrieve(model, test, frame.expand(2, -1, -1, -1, -1), motions, top=3, device="cpu", progress=False)
    >>> found.rows.shape, test.clips[found.rows[0, 0]]["id"]
    (torch.Size([2, 3]), 'P30_101_0')
    """
    if metric not in ("cosine", "l1"):
        raise EgoDistillError(f"metric must be 'cosine' or 'l1', not {metric!r}")
    names = batches.arrays_of(model, store)
    if not 1 <= top <= len(store):
        raise EgoDistillError(f"top must be from 1 to {len(store)}, the number of clips; got {top}")
    if len(inputs) != len(names):
        raise EgoDistillError(f"the model reads {', '.join(names)}; got {len(inputs)} inputs for a query")
    inputs = tuple(map(torch.as_tensor, inputs))
    if teacher:
        (name,) = batches.require_teacher(store, teacher, "feature")
        gallery = batches.read_rows(store, name, np.arange(len(store))).float()
    else:
        found = outputs(model, store, batch_size=batch_size, device=device, progress=progress)
        gallery = torch.cat([output.feature.float().cpu() for output, _ in found])
    place = runtime.pick_device(device)
    with runtime.evaluation(model, place):
        parts = zip(*(x.split(batch_size) for x in inputs), strict=True)
        found = (batches.as_output(model, model(*(x.to(place) for x in part))) for part in parts)
        queries = torch.cat([output.feature.float().cpu() for output in found])
    require_same_size(queries, gallery, teacher, "to compare the model's own features")
    if metric == "cosine":
        distances = 1 - F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T
    else:
        distances = torch.cdist(queries, gallery, p=1) / queries.shape[1]
    distance, rows = distances.topk(top, largest=False)
    return Retrieval(rows, distance)


# ---------------------------------------------------------------------------------------------------------------
# Cost


class Cost(NamedTuple):
    """The cost of a model for one clip, from `measure()`.

    Attributes:
        gmacs: Billions of multiply-adds: half of what torch's FlopCounterMode counts (convolutions and matrix products;
            not norms, activations and pooling).
        params: Number of parameters.
        ms_per_clip: Median milliseconds per clip.
        batch_size: Clips per pass.
        device: Name of the GPU, or kind of another device, such as "cpu".
        precision: Precision in which the model ran, such as "fp32" or "bf16".
        repeats: Number of timed passes; the time is their median.
        same_top1: Share of random inputs with the same best class as in fp32 without compiling.
        feature_error: Largest difference of a feature value from fp32, divided by the largest feature value.
    """

    gmacs: float
    params: int
    ms_per_clip: float
    batch_size: int
    device: str
    precision: str = "fp32"
    repeats: int = 0
    same_top1: float = 1.0
    feature_error: float = 0.0


@torch.no_grad()
def measure(
    model: nn.Module,
    *,
    batch_size: int = 32,
    device: str | None = None,
    precision: Precision = "auto",
    compile: bool = False,
    repeats: int = 10,
    seconds: float | None = None,
) -> Cost:
    """Return multiply-adds, parameters and median milliseconds per clip of a model.

    The inputs are `batches.example_inputs()`: their shapes follow from the model's `clip_spec`, or from the attributes
    that `spec.spec_of()` reads. The time is the median of forward passes after two warm-up passes, divided by the
    batch size; on a GPU it is measured with device events. Reading and decoding are not included. `same_top1` and
    `feature_error` of the result show the effect of `precision` and `compile` on the outputs.

    Args:
        model: A student, teacher or baseline; see `batches.Model`.
        batch_size: Clips per pass.
        device: Device to compute on; None: a GPU if there is one.
        precision: "fp32", "bf16" or "auto", as in `evaluate()`.
        compile: Use torch.compile, as in `evaluate()`.
        repeats: Number of timed passes.
        seconds: After this time, no further pass starts, but at least two are timed; a first pass that takes longer
            replaces the warm-up, and is timed. None: no limit.

    Raises:
        EgoDistillError: If multiply-adds cannot be counted, or if nothing says the size of the model's frames.

    >>> from egodistill import EgoDistill, measure
    >>> cost = measure(EgoDistill.load("student.safetensors"), batch_size=2, repeats=2, device="cpu", precision="fp32")
    >>> print(f"{cost.gmacs:.2f} GMACs, {cost.params / 1e6:.1f} M parameters, {cost.ms_per_clip:.1f} ms per clip")
    0.05 GMACs, 10.3 M parameters, ... ms per clip
    """
    batches.require_model(model)
    if batch_size < 1 or repeats < 1:
        raise EgoDistillError(f"{named('batch_size', batch_size)} and {named('repeats', repeats)} must be at least 1")
    place = runtime.pick_device(device)
    picked = runtime.pick_precision(place, precision, model)
    agreement: dict[str, float] = {}
    with runtime.evaluation(model, place):
        macs = count_macs(model, place)
        batch = tuple(x.to(place) for x in batches.example_inputs(model, batch_size))
        run = runtime.Compiled(model) if compile else model
        times, output = time_passes(run, batch, place, picked, repeats, seconds)
        if picked != "fp32" or compile:
            agreement = output_error(output, model(*batch))
    return Cost(
        gmacs=macs / 1e9,
        params=sum(p.numel() for p in model.parameters()),
        ms_per_clip=statistics.median(times) / batch_size,
        batch_size=batch_size,
        device=torch.cuda.get_device_name(place) if place.type == "cuda" else place.type,
        precision=picked,
        repeats=len(times),
        **agreement,
    )


def time_passes(
    run: Callable[..., Any],
    batch: Sequence[Tensor],
    device: torch.device,
    precision: str,
    repeats: int,
    seconds: float | None,
) -> tuple[list[float], Any]:
    """Return the milliseconds of each timed pass (see `measure()`), and the output of the last one."""
    budget = math.inf if seconds is None else 1e3 * seconds
    output, first = timed_pass(run, batch, device, precision)
    times = [first] if first > budget else []
    if not times:
        timed_pass(run, batch, device, precision)
    while len(times) < repeats and (len(times) < 2 or sum(times) < budget):
        output, passed = timed_pass(run, batch, device, precision)
        times.append(passed)
    return times, output


def timed_pass(
    run: Callable[..., Any], batch: Sequence[Tensor], device: torch.device, precision: str
) -> tuple[Any, float]:
    """Return the outputs of a model for a batch, and the time in milliseconds."""
    with runtime.autocast(device, precision):
        if device.type == "cuda":
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            output = run(*batch)
            ended.record()
            ended.synchronize()
            return output, began.elapsed_time(ended)
        start = time.perf_counter()
        return run(*batch), 1e3 * (time.perf_counter() - start)


def output_error(fast: Output | Tensor, exact: Output | Tensor) -> dict[str, float]:
    """Return `same_top1` and `feature_error` of `Cost` for two outputs for the same clips, pairs or single tensors."""
    (feature, logits), (wanted, scores) = (x if isinstance(x, tuple) else (x, x) for x in (fast, exact))
    error = (feature.float() - wanted.float()).abs().max() / wanted.abs().max()
    same = (logits.argmax(1) == scores.argmax(1)).float().mean()
    return {"same_top1": float(same), "feature_error": float(error)}


def count_macs(model: nn.Module, device: torch.device) -> float:
    """Return the multiply-adds of a model in evaluation mode for one clip.

    On the meta device nothing is computed. Raise EgoDistillError if the model has weights, but none of its operations
    can be counted, and for exported files, which show neither.

    >>> import torch
    >>> from egodistill import EgoDistill, inference
    >>> with torch.device("meta"):
    ...     model = EgoDistill(num_classes=8, image_weights=None)
    >>> print(f"{inference.count_macs(model, torch.device('meta')) / 1e9:.2f} GMACs")
    1.86 GMACs
    """
    if runtime.is_exported(model):
        raise EgoDistillError(
            f"{type(model).__name__} shows neither its weights nor its operations, so they cannot be counted; measure "
            f"the student that was exported, and compare their times with export.compare()"
        )
    # With inputs created in inference mode, torch 2.4 counts neither convolutions nor linear layers.
    with torch.inference_mode(False), runtime.evaluation(model, device):
        count = runtime.multiply_adds(model, [x.to(device, copy=True) for x in batches.example_inputs(model)])
    if not count and any(parameter.ndim > 1 for parameter in model.parameters()):
        raise EgoDistillError(
            f"{type(model).__name__} has weights, but torch {torch.__version__} counts no multiply-adds in it, because "
            f"it cannot look inside custom operators. Measure a module made of torch's own layers and operators"
        )
    return count


# ---------------------------------------------------------------------------------------------------------------
# Recordings


class Prediction(NamedTuple):
    """One clip of a recording, with its best classes or the problem.

    Attributes:
        start: Start of the clip in seconds on the video's clock.
        stop: Its end in seconds.
        classes: (name, probability) of the best classes, the best first; [] if there is a problem.
        problem: Why the clip could not be classified, or None.
        inputs: What it was classified from, such as ("frames", "imu"); () if there is a problem, and of events.
    """

    start: float
    stop: float
    classes: list[tuple[str, float]]
    problem: str | None = None
    inputs: tuple[str, ...] = ()


def predict(
    model: Model,
    video: str | os.PathLike[str] | Recording | None,
    imu: str | os.PathLike[str] | tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
    *,
    imu_offset: float = 0.0,
    imu_stretch: float = 1.0,
    zero_accel: bool = False,
    imu_axes: str = "gopro",
    min_coverage: float = 0.95,
    max_gap: float = MAX_GAP,
    max_hold: float = MAX_HOLD,
    stride: float | None = None,
    top: int = 5,
    exact: bool | None = None,
    tolerance: float | None = None,
    batch_size: int = 16,
    device: str | None = None,
    precision: Precision = "auto",
    compile: bool = False,
) -> Iterator[Prediction]:
    """Classify a recording clip by clip: yield the `top` classes of a clip every `stride` seconds.

    The recording is decoded in one pass, in constant memory. A clip that cannot be classified, because IMU samples or a
    frame are missing, has no classes, and `problem` is the reason; a student with `optional_inputs` classifies it from
    the others. Errors are raised before the first clip.

    Args:
        model: A student, teacher or baseline; see `batches.Model`.
        video: Video file or recording, as in `open_recording()`; None: head motion alone, times of the samples.
        imu: File with the IMU samples, or a pair (accelerometer, gyroscope); None: what `open_recording()` finds.
        imu_offset: Seconds. A sample stamped t was taken at `imu_offset + imu_stretch * t` of the video; correct the
            clock as for the training clips.
        imu_stretch: Factor of the IMU's clock.
        zero_accel: Zeros if there is no accelerometer, as in `read_imu()`.
        imu_axes: Axes of the IMU samples; see `Recording`.
        min_coverage: The share of a clip that each sensor must cover, as in `data.prepare()`.
        max_gap: Seconds. Parts where IMU samples are further apart are not covered, as in `data.prepare()`.
        max_hold: Seconds that a frame may be on screen, as in `data.prepare()`.
        stride: Seconds from clip to clip; None: the length of a clip.
        top: Number of classes to return for each clip.
        exact: False: the nearest key frames, which are cheap to decode. With `exact` and `tolerance` None, frames are
            chosen as in training.
        tolerance: Seconds. 0.25 takes the frames that are cheapest to decode within 0.25 s of their times.
        batch_size: Clips per batch.
        device: Device to compute on; None: a GPU if there is one.
        precision: "fp32", "bf16" or "auto", as in `evaluate()`.
        compile: Use torch.compile, as in `evaluate()`.

    Raises:
        EgoDistillError: For samples in other axes than those of the training, for a `stride` that is below a hundredth
            of a clip or another value out of range, for a model with an input that recordings do not have, and if
            nothing says the size of its frames.
        VideoError: If the video cannot be read.
        IMUError: If the IMU samples cannot be read.

    >>> from egodistill import EgoDistill, predict
    >>> model = EgoDistill.load("student.safetensors")
    >>> for clip in predict(model, "walk.mp4", "walk.csv", stride=10, top=3, device="cpu"):
    ...     print(f"{clip.start:.1f} to {clip.stop:.1f} s: {len(clip.classes)} classes, problem: {clip.problem}")
    0.0 to 2.1 s: 3 classes, problem: None
    10.0 to 12.1 s: 3 classes, problem: None
    20.0 to 22.1 s: 3 classes, problem: None
    21.3 to 23.4 s: 3 classes, problem: None
    """
    batches.require_classifier(model)
    spec = batches.clip_spec_of(model, exact, tolerance)
    stride = spec.seconds if stride is None else stride
    batches.require_number(named("stride"), stride, round(spec.seconds / 100, 4))
    batches.require_number(named("min_coverage"), min_coverage, 0, 1, above=True)
    batches.require_number(named("batch_size"), batch_size, 1, whole=True)
    batches.require_number(named("top"), top, 1, whole=True)
    batches.require_number(named("max_gap"), max_gap, 0, above=True)
    batches.require_number(named("max_hold"), max_hold, 0, above=True)
    about = {"imu_offset": imu_offset, "imu_stretch": imu_stretch, "zero_accel": zero_accel, "imu_axes": imu_axes}
    recording = open_recording(video, imu, **about)
    specs = batches.input_specs(model, spec)
    if not recording.video and (lacking := [name for name in specs if name != "imu"]):
        raise EgoDistillError(
            f"{recording.path}: the recording has no video, and the model reads {lacking[0]}; give both"
        )
    begin = recording.begin
    starts = [begin + start for start in strided_starts(recording.duration - begin, spec.seconds, stride)]
    if spec.imu_samples:
        require_axes(recording.path, recording.motion().axes, spec)  # raises now if the file cannot be read
    limits = {"min_coverage": min_coverage, "max_gap": max_gap, "max_hold": max_hold}
    reader = ClipReader(recording, specs, starts, either=accepts_missing_input(model), **limits)
    place = runtime.pick_device(device)
    picked = runtime.pick_precision(place, precision, model)
    return classify_groups(model, reader, batch_size, top=top, device=place, precision=picked, compile=compile)


class Batch(NamedTuple):
    """Clips with the same inputs: rows, and {input: tensor [rows, ...]}."""

    rows: list[int]
    inputs: dict[str, Tensor]


class ClipReader:
    """A reader of a model's inputs from a recording, one group of clips at a time, with one decoder per core.

    Of a model that takes `either` input, a clip may have one of them. Decoders stay open until `close()`.
    """

    def __init__(
        self,
        recording: Recording,
        specs: Mapping[str, ClipSpec],
        starts: Sequence[float],
        either: bool = False,
        **limits: Any,
    ) -> None:
        self.recording, self.specs, self.starts, self.either = recording, specs, starts, either
        self.seconds, self.limits = next(iter(specs.values())).seconds, limits
        self.cores = files.available_cores()
        self.readers = FrameReaders(recording.video, limits.get("max_hold", MAX_HOLD))
        self.close = self.readers.close

    def groups(self, size: int) -> list[list[list[int]]]:
        """Return the clips in groups of `size`, each in at most one part per core.

        There is a key frame between the starts of any two parts of a group, so that no frame is decoded twice.
        """
        rows = np.arange(len(self.starts))
        whole = [rows[place : place + size] for place in range(0, len(rows), size)]
        if not any(spec.frames for spec in self.specs.values()):
            return [[group.tolist()] for group in whole]
        starts = np.minimum(self.starts, self.recording.probe().duration)
        with open_reader(self.recording.video) as reader:
            return [[group[part].tolist() for part in reader.parts(starts[group], self.cores)] for group in whole]

    def read(self, group: Sequence[Sequence[int]]) -> tuple[dict[int, str], list[Batch]]:
        """Return the problems of the clips of a group by row, and the other clips, one batch for each mix of inputs."""
        with ThreadPoolExecutor(len(group)) as pool:
            decode = functools.partial(self.decode, threads=max(1, self.cores // len(group)))
            found = {row: arrays for part in pool.map(decode, group) for row, arrays in part.items()}
        problems = {row: str(arrays) for row, arrays in found.items() if isinstance(arrays, Exception)}
        good = {row: arrays for row, arrays in sorted(found.items()) if not isinstance(arrays, Exception)}
        mixes: dict[tuple[str, ...], list[int]] = {}
        for row, arrays in good.items():
            mixes.setdefault(tuple(name for name in self.specs if name in arrays), []).append(row)
        return problems, [
            Batch(rows, {name: torch.from_numpy(np.stack([good[row][name] for row in rows])) for name in names})
            for names, rows in mixes.items()
        ]

    def decode(self, rows: Sequence[int], threads: int) -> dict[int, dict[str, np.ndarray] | Exception]:
        """Return the arrays of each clip, or the error that prevented them."""
        options = {"threads": threads, "readers": self.readers, **self.limits}
        found = dict(decode_clips(self.recording, {row: self.starts[row] for row in rows}, self.specs, **options))
        for name in self.specs if self.either else ():
            lost = {row: self.starts[row] for row in rows if isinstance(found[row], Exception)}
            alone = decode_clips(self.recording, lost, {name: self.specs[name]}, **options) if lost else ()
            found |= {row: arrays for row, arrays in alone if not isinstance(arrays, Exception)}
        return found


def classify_groups(
    model: Model,
    reader: ClipReader,
    batch_size: int,
    *,
    top: int,
    device: torch.device,
    precision: str,
    compile: bool,
) -> Iterator[Prediction]:
    """Yield predictions for groups of clips; a thread decodes the next group while the model runs."""
    names = getattr(model, "class_names", None)
    run = runtime.Compiled(model) if compile else model
    groups = reader.groups(batch_size)
    coming = files.read_ahead(groups, reader.read, runtime.lower_thread_priority)
    with runtime.evaluation(model, device), contextlib.closing(reader), contextlib.closing(coming):
        for group, ((problems, read), _) in zip(groups, coming, strict=True):
            answers: dict[int, tuple[list[tuple[str, float]], tuple[str, ...]]] = {}
            for rows, inputs in read:
                given = [inputs[name].to(device) if name in inputs else None for name in reader.specs]
                alone = next(iter(inputs)) if len(inputs) < len(given) else None
                with torch.no_grad(), runtime.autocast(device, precision):
                    output = batches.as_output(model, (model if alone else run)(*given), names and len(names))
                    scores = batches.probabilities(model, output.logits, alone).cpu()
                names = names or [str(k) for k in range(scores.shape[1])]
                values, classes = (x.tolist() for x in scores.topk(min(top, scores.shape[1]), dim=1))
                best = (
                    [(names[k], value) for k, value in zip(*pair, strict=True)]
                    for pair in zip(classes, values, strict=True)
                )
                answers |= {row: (one, tuple(inputs)) for row, one in zip(rows, best, strict=True)}
                lost = scores.isfinite().all(1).logical_not().nonzero().flatten().tolist()
                problems |= {rows[k]: "the model's scores are not finite" for k in lost}
            for row in itertools.chain(*group):
                problem, start = problems.get(row), reader.starts[row]
                found, had = ([], ()) if problem else answers[row]
                yield Prediction(start, start + reader.seconds, found, problem, had)
