"""What a trained model does: accuracy on a store, what it costs, search by frame and head motion, whole recordings.

    from egodistill import EgoDistill, data, evaluate, measure, predict, retrieve

    model, test = EgoDistill.load("student.pt"), data.ClipStore("store").split("test")
    print(evaluate(model, test).top1, measure(model).gmacs)
    for clip in predict(model, "walk.mp4"):                     # head motion out of the GoPro file itself
        print(clip.start, clip.classes[0])
    frames, imu = (torch.from_numpy(test.read(name, [0])) for name in ("frames_1", "imu"))
    print(retrieve(model, test, frames, imu).rows)              # clips that look and move like this one

A model, student or teacher, is a torch module that names what it reads, `model.inputs = ("frames", "imu")`, takes these
tensors in that order and returns `(feature, logits)`.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from egodistill import EgoDistillError, batches, files, runtime
from egodistill.batches import Model, Store
from egodistill.clips import ClipSpec, Recording, decode_clips, open_recording, spec_of
from egodistill.imu import MAX_GAP
from egodistill.runtime import Precision
from egodistill.student import EgoDistill, Output
from egodistill.video import FrameReader, open_video

__all__ = [
    "Cost",
    "Evaluation",
    "Prediction",
    "Retrieval",
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
    """Accuracy over the segments ("videos") of a store."""

    top1: float  # Share of segments whose class is right, 0 to 1.
    per_class: dict[str, float]  # The same for each class that occurs.
    confusion: Tensor  # int64 [C, C]: rows are the true class, columns the predicted one.
    scores: Tensor  # float32 [segments, C]: class scores averaged over each segment's clips.
    labels: Tensor  # int64 [segments]
    feature_distance: float | None  # Mean absolute difference of clip features to the teacher's.
    clips: int
    precision: str = "fp32"  # What the model ran in, "fp32" or "bf16".

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
    """Per-video top-1 (section 4.1): softmax scores averaged over the clips that cover a segment, then the best class.

    With `teacher`, the mean absolute distance between the model's features and those in the store under that name.
    `precision` is "fp32", "bf16", or "auto": bf16 where the hardware is fast at it (see `pick_precision`).
    `compile` goes through torch.compile, which takes a minute at first. EgoDistillError says what the store lacks.
    """
    if not len(store):
        raise EgoDistillError("there are no clips to evaluate on; is the split right, did prepare() fail?")
    batches.require_labels(store)
    targets = batches.require_teacher(store, teacher, "feature") if teacher else []
    precision = runtime.pick_precision(runtime.pick_device(device), precision, model)
    scores, distance = [], 0.0
    found = outputs(
        model,
        store,
        targets,
        batch_size=batch_size,
        device=device,
        precision=precision,
        compile=compile,
        progress=progress,
    )
    for output, batch in found:
        scores.append(output.logits.float().softmax(1).cpu())
        for target in targets:
            difference = (output.feature.float() - batch[target].float()).abs()
            distance += float(difference.mean()) * len(difference)

    scores, labels = per_segment(store, torch.cat(scores))
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
        precision=precision,
    )


def per_segment(store: Store, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean class scores [S, C] and the labels [S] of the S segments, given the scores of all clips."""
    _, segment = torch.unique(torch.as_tensor(store.segments), return_inverse=True)
    total = torch.zeros(int(segment.max()) + 1, scores.shape[1]).index_add_(0, segment, scores)
    labels = torch.zeros(len(total), dtype=torch.int64).index_copy_(0, segment, torch.as_tensor(store.labels))
    return total / torch.bincount(segment)[:, None], labels


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
    """Yield what a model in evaluation mode gives for all clips, batch by batch in their order, and the batch.

    The batch holds the arrays that the model reads and `targets`.
    """
    names, place = batches.arrays_of(model, store), runtime.pick_device(device)
    coming = batches.read(store, [*names, *targets], torch.arange(len(store)), batch_size, place)
    with files.Progress("evaluate", len(store), show=progress) as bar, runtime.evaluation(model, place):
        run = runtime.Compiled(model) if compile else model
        for batch, _ in coming:
            with runtime.autocast(place, precision):
                output = run(*(batch[name] for name in names))
            yield output, batch
            bar.step(len(output.logits))


# ---------------------------------------------------------------------------------------------------------------
# Search


class Retrieval(NamedTuple):
    """The clips of a store that are nearest to each query, the nearest first."""

    rows: Tensor  # int64 [Q, top]: rows of the store, `store.clips[row]` tells what a clip is
    distance: Tensor  # float32 [Q, top]


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
    """Find clips by a frame and a head motion (section 4.4, figure 6).

    `inputs` are Q queries as the model reads them, such as frames uint8 [Q, N, 3, H, W] and imu float [Q, 422, 6]; one
    frame beside several head motions is `frames.expand(Q, ...)`. Their features are compared with those of all clips
    of the store: with `teacher`, what it saw in the whole clip (the array "NAME.feature"), else the model's own.
    `metric` is "cosine" (1 - similarity) or "l1" (mean absolute difference); the paper names none. Runs in fp32.
    EgoDistillError where the store lacks an array, features differ in size, or `top` is more than there are clips.
    """
    if metric not in ("cosine", "l1"):
        raise EgoDistillError(f"metric is 'cosine' or 'l1', not {metric!r}")
    if not 1 <= top <= len(store):
        raise EgoDistillError(f"top={top} of {len(store)} clips")
    names = batches.arrays_of(model, store)
    if len(inputs) != len(names):
        raise EgoDistillError(f"the model reads {', '.join(names)}; got {len(inputs)} inputs")
    if teacher:
        (name,) = batches.require_teacher(store, teacher, "feature")
        gallery = torch.from_numpy(store.read(name, range(len(store)))).float()
    else:
        found = outputs(model, store, batch_size=batch_size, device=device, progress=progress)
        gallery = torch.cat([output.feature.float().cpu() for output, _ in found])
    place = runtime.pick_device(device)
    with runtime.evaluation(model, place):
        parts = zip(*(x.split(batch_size) for x in inputs), strict=True)
        queries = torch.cat([model(*(x.to(place) for x in part)).feature.float().cpu() for part in parts])
    if queries.shape[1] != gallery.shape[1]:
        raise EgoDistillError(f"the model's feature has {queries.shape[1]} numbers and {teacher}'s {gallery.shape[1]}")
    if metric == "cosine":
        distances = 1 - F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T
    else:
        distances = torch.cdist(queries, gallery, p=1) / queries.shape[1]
    distance, rows = distances.topk(top, largest=False)
    return Retrieval(rows, distance)


# ---------------------------------------------------------------------------------------------------------------
# Cost


class Cost(NamedTuple):
    """What a model costs for one clip. GMACs are billions of multiply-adds: half of what torch's FlopCounterMode counts
    (convolutions and matrix products; no norms, activations or pooling)."""

    gmacs: float
    params: int
    ms_per_clip: float
    batch_size: int
    device: str
    precision: str = "fp32"  # What the model ran in, "fp32" or "bf16".
    repeats: int = 0  # Passes that the time is the median of.
    same_top1: float = 1.0  # Share of clips whose best class is that of fp32, uncompiled; on random inputs.
    feature_error: float = 0.0  # Largest difference of a feature to that of fp32, as a share of the largest feature.


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
    """Return multiply-adds, parameters and median milliseconds a clip of a model, on `batches.example_inputs()`.

    The shapes of its inputs are those of its `clip_spec`, or of the attributes that `clips.spec_of()` reads.
    The time is the median of `repeats` forward passes after two for warming up, divided by the batch size; on a GPU it
    is taken with device events. Reading and decoding are not part of it. After `seconds` no further pass begins, but
    two are always timed; a first pass that takes longer than that needs no warming up, and is one of them.
    `precision` and `compile` are those of `evaluate()`; what they change is told by `same_top1` and `feature_error`.
    """
    if batch_size < 1 or repeats < 1:
        raise EgoDistillError(f"batch_size={batch_size} and repeats={repeats} must be at least 1")
    place = runtime.pick_device(device)
    precision = runtime.pick_precision(place, precision, model)
    agreement: dict[str, float] = {}
    with runtime.evaluation(model, place):
        macs = count_macs(model, place)
        batch = tuple(x.to(place) for x in batches.example_inputs(model, batch_size))
        run = runtime.Compiled(model) if compile else model
        times, output = time_passes(run, batch, place, precision, repeats, seconds)
        if precision != "fp32" or compile:
            agreement = output_error(output, model(*batch))
    return Cost(
        gmacs=macs / 1e9,
        params=sum(p.numel() for p in model.parameters()),
        ms_per_clip=statistics.median(times) / batch_size,
        batch_size=batch_size,
        device=torch.cuda.get_device_name(place) if place.type == "cuda" else place.type,
        precision=precision,
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
    """Return the milliseconds of each timed pass, as `measure()` describes them, and the output of the last one."""
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
    """Return what a model gives for a batch, and the milliseconds that took."""
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
    """How near two outputs for the same clips are, as `Cost` names it; a model that gives one tensor has one."""
    (feature, logits), (wanted, scores) = (x if isinstance(x, tuple) else (x, x) for x in (fast, exact))
    error = (feature.float() - wanted.float()).abs().max() / wanted.abs().max()
    same = (logits.argmax(1) == scores.argmax(1)).float().mean()
    return {"same_top1": float(same), "feature_error": float(error)}


def count_macs(model: nn.Module, device: torch.device) -> float:
    """Return the multiply-adds for one clip, of a model in evaluation mode. On the meta device nothing is computed.

    Raise EgoDistillError if no operation of a model that has weights can be seen.
    """
    # Of all ways to compute attention, torch does not know how to count the one for CPUs.
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    mapping = {attention: lambda q, k, v, *rest, out_shape=None, **options: sdpa_flop_count(q, k, v)}
    # In inference mode, and for inputs made in it, torch 2.4 counts neither convolutions nor linear layers.
    with torch.inference_mode(False), torch.no_grad():
        inputs = [x.to(device, copy=True) for x in batches.example_inputs(model)]
        with runtime.evaluation(model, device), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
            model(*inputs)
    count = counter.get_total_flops() / 2
    if not count and any(parameter.ndim > 1 for parameter in model.parameters()):
        raise EgoDistillError(
            f"{type(model).__name__} has weights, but torch {torch.__version__} counts no multiply-adds in it: it does "
            f"not see inside custom operators. Measure a module made of torch's own layers and operators"
        )
    return count


# ---------------------------------------------------------------------------------------------------------------
# Recordings


class Prediction(NamedTuple):
    """One clip of a recording: where it is (s), its best classes with their scores, or why there are none."""

    start: float
    stop: float
    classes: list[tuple[str, float]]
    problem: str | None = None


def predict(
    model: EgoDistill,
    video: str | os.PathLike | Recording,
    imu: str | os.PathLike | tuple[str | os.PathLike, str | os.PathLike] | None = None,
    *,
    imu_offset: float = 0.0,
    imu_stretch: float = 1.0,
    zero_accel: bool = False,
    min_coverage: float = 0.95,
    max_gap: float = MAX_GAP,
    stride: float | None = None,
    top: int = 5,
    exact: bool | None = None,
    batch_size: int = 16,
    device: str | None = None,
    precision: Precision = "auto",
    compile: bool = False,
) -> Iterator[Prediction]:
    """Classify a whole recording, clip by clip (every `stride` seconds, by default one clip after the other).

    `video`, `imu`, `imu_offset`, `imu_stretch` and `zero_accel` are those of `clips.open_recording()`; give the clock
    with which the student's training clips were prepared. `min_coverage` and `max_gap` are those of `data.prepare()`.
    Frames are chosen as the student was trained; `exact=False` takes the nearest key frames, which are cheap to decode.

    The recording is decoded in one pass, and memory does not grow with it. A clip that cannot be classified, because
    head motion is missing there or a frame is lost, comes with `problem` saying so and no classes. `precision` and
    `compile` are those of `evaluate()`. EgoDistillError for a `stride` that is not above 0 comes at once, as do
    VideoError and IMUError for a file that cannot be read.
    """
    spec = spec_of(model).complete()
    stride = spec.seconds if stride is None else stride
    if stride <= 0:
        raise EgoDistillError(f"stride is in seconds and above 0; got {stride}")
    recording = open_recording(video, imu, imu_offset=imu_offset, imu_stretch=imu_stretch, zero_accel=zero_accel)
    spec = spec if exact is None else replace(spec, exact=exact)
    starts = strided_starts(recording.probe().duration, spec.seconds, stride)
    if spec.imu_samples:
        recording.motion()  # says now what is wrong with the file
    reader = ClipReader(recording, spec, starts, model.inputs, min_coverage=min_coverage, max_gap=max_gap)
    place = runtime.pick_device(device)
    precision = runtime.pick_precision(place, precision, model)
    return classify_groups(model, reader, batch_size, top=top, device=place, precision=precision, compile=compile)


def strided_starts(duration: float, length: float, stride: float) -> list[float]:
    """Return where the clips of a recording begin (s); the last one ends before the recording does."""
    return [k * stride for k in range(max(1, math.floor((duration - length) / stride + 1 + 1e-6)))]


class ClipReader:
    """What a model reads of a recording, one group of clips at a time, decoded by one thread per core."""

    def __init__(
        self, recording: Recording, spec: ClipSpec, starts: Sequence[float], inputs: Sequence[str], **limits: Any
    ) -> None:
        self.recording, self.specs, self.starts, self.inputs = recording, spec.parts(), starts, inputs
        self.seconds, self.limits, self.cores = spec.seconds, limits, files.available_cores()

    def groups(self, size: int) -> list[list[list[int]]]:
        """Return the clips in groups of `size`, each in at most one part per core.

        There is a key frame between the starts of any two parts of a group, so that no frame is decoded twice.
        """
        rows = np.arange(len(self.starts))
        whole = [rows[place : place + size] for place in range(0, len(rows), size)]
        if "frames" not in self.specs:
            return [[group.tolist()] for group in whole]
        starts = np.minimum(self.starts, self.recording.probe().duration)
        with open_video(self.recording.video) as container:
            reader = FrameReader(container, self.recording.video)
            return [[group[part].tolist() for part in reader.parts(starts[group], self.cores)] for group in whole]

    def read(self, group: Sequence[Sequence[int]]) -> tuple[dict[int, str], list[Tensor]]:
        """Return what is wrong with some clips of a group, and the model's inputs for the others."""
        with ThreadPoolExecutor(len(group)) as pool:
            decode = functools.partial(self.decode, threads=max(1, self.cores // len(group)))
            found = {row: arrays for part in pool.map(decode, group) for row, arrays in part.items()}
        problems = {row: str(arrays) for row, arrays in found.items() if isinstance(arrays, Exception)}
        good = [found[row] for row in sorted(found) if row not in problems]
        if not good:
            return problems, []
        return problems, [torch.from_numpy(np.stack([arrays[name] for arrays in good])) for name in self.inputs]

    def decode(self, rows: Sequence[int], threads: int) -> dict[int, dict[str, np.ndarray] | Exception]:
        """Return the arrays of each clip, or the error that it costs."""
        starts = {row: self.starts[row] for row in rows}
        return dict(decode_clips(self.recording, starts, self.specs, threads=threads, **self.limits))


def classify_groups(
    model: EgoDistill,
    reader: ClipReader,
    batch_size: int,
    *,
    top: int,
    device: torch.device,
    precision: str,
    compile: bool,
) -> Iterator[Prediction]:
    """Yield the predictions for groups of clips; a thread decodes the next group while the model works on one."""
    names = model.class_names or [str(k) for k in range(model.num_classes)]
    run = runtime.Compiled(model) if compile else model
    groups = reader.groups(batch_size)
    coming = files.read_ahead(groups, reader.read, runtime.lower_thread_priority)
    with runtime.evaluation(model, device):
        for group, ((problems, inputs), _) in zip(groups, coming, strict=True):
            best = iter(())
            if inputs:
                with torch.no_grad(), runtime.autocast(device, precision):
                    scores = run(*(x.to(device) for x in inputs)).logits.float().softmax(1).cpu()
                values, classes = (x.tolist() for x in scores.topk(min(top, scores.shape[1]), dim=1))
                best = iter([list(zip(*pair, strict=True)) for pair in zip(classes, values, strict=True)])
            for row in itertools.chain(*group):
                problem, start = problems.get(row), reader.starts[row]
                found = [] if problem else [(names[number], value) for number, value in next(best)]
                yield Prediction(start, start + reader.seconds, found, problem)
