"""Batches of a store for a model, and checks that the two fit together.

    from egodistill import batches

    names = batches.arrays_of(model, store)                 # such as ["frames_1", "imu"]
    for batch, waited in batches.read_batches(store, names, torch.arange(len(store)), 64, device):
        output = model(*(batch[name] for name in names))

`Model` and `Store` describe what training and evaluation need: a model of your own is a torch module with `inputs`.
"""

from __future__ import annotations

import functools
import inspect
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from ..datasets.store import outputs_record
from ..recordings.spec import FIELDS, ClipSpec, frames_name, spec_differences, spec_of
from ..student import Output, describe
from ..support import files
from ..support.defaults import NONE
from ..support.errors import DataError, EgoDistillError, NoteWarning, named
from ..support.names import Names
from . import calibration, runtime
from .recipes import Augment, is_frames, require_number
from .refusal import known_names

__all__ = [
    "Augment",
    "Model",
    "Store",
    "arrays_of",
    "as_output",
    "background_of",
    "clip_ids",
    "clip_spec_of",
    "example_inputs",
    "groups_of",
    "input_specs",
    "inputs_of",
    "labels_of",
    "lacks_background",
    "probabilities",
    "read_batches",
    "read_rows",
    "require_array",
    "require_classifier",
    "require_finite",
    "require_labels",
    "require_number",
    "require_teacher",
    "segments_of",
    "stored_axes",
]


class Model(Protocol):
    """A torch module that names its inputs, takes them in that order, and returns feature [B, D] and logits [B, C].

    Students, teachers, baselines and exported files have this form. Inputs are "frames" uint8 [B, N, 3, H, W], "clip"
    uint8 [B, T, 3, H, W] and "imu" float32 [B, 422, 6], or arrays of your own in the store, whose shapes without the
    first dimension `input_shapes` has, {name: shape of float32}. Frames are RGB and not normalised. `spec.spec_of()`
    lists the attributes that describe the clips; a model without them reads any, and `measure()` and `predict()` use
    the clips of the store that it read first.

    A student of your own trains, and is evaluated, like `EgoDistill`:

    >>> import torch
    >>> from torch import nn
    >>> from egodistill import Output, data, distill, evaluate
    >>> class Student(nn.Module):
    ...     inputs = ("frames", "imu")
    ...     def __init__(self, feature_dim, num_classes):
    ...         super().__init__()
    ...         self.image = nn.Sequential(nn.Conv2d(3, 8, 16, stride=16), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    ...         self.feature, self.classifier = nn.Linear(8 + 6, feature_dim), nn.Linear(feature_dim, num_classes)
    ...     def forward(self, frames, imu):
    ...         image = self.image(frames[:, 0] / 255).flatten(1)
    ...         feature = self.feature(torch.cat([image, imu.std(dim=1)], dim=1))
    ...         return Output(feature, self.classifier(feature))
    >>> store = data.ClipStore("store")
    >>> model = Student(feature_dim=store.read("x3d.feature", [0]).shape[1], num_classes=len(store.class_names))
    >>> history = distill(model, store.split("train"), teacher="x3d", epochs=2, device="cpu", progress=False)
    >>> print(evaluate(model, store.split("test"), device="cpu", precision="fp32", progress=False))
    top-1 ... % of 6 segments (6 clips, fp32)
    """

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the inputs, in the order in which the model takes them."""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Output | tuple[Tensor, Tensor]: ...


class Store(Protocol):
    """Clips on disk or in memory; `data.ClipStore` is one.

    Training and evaluation use nothing else of a store, so clips of your own can come from anywhere; what does not fit
    is a DataError that names the row. An attribute `specs`, {array: ClipSpec}, lets them check that the clips are those
    that the model reads.

    >>> import numpy as np
    >>> from egodistill import EgoDistill, data, evaluate
    >>> class Memory:
    ...     def __init__(self, arrays, labels, class_names):
    ...         self.arrays, self.labels, self.class_names = arrays, labels, class_names
    ...         self.names, self.segments = list(arrays), np.arange(len(labels))
    ...     def __len__(self):
    ...         return len(self.labels)
    ...     def read(self, name, index):
    ...         return self.arrays[name][index]
    >>> disk = data.ClipStore("store")
    >>> arrays = {name: disk.read(name, slice(None)) for name in ("frames_1", "imu")}
    >>> memory = Memory(arrays, disk.labels, disk.class_names)
    >>> evaluate(EgoDistill.load("student.safetensors"), memory, device="cpu", progress=False).clips
    22
    """

    @property
    def class_names(self) -> Sequence[str]:
        """Return the C class names that labels index; [] if there are no labels and no classes."""
        ...

    @property
    def names(self) -> list[str]:
        """Return the names of the arrays."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """Return the class index of each clip, int64 [n]; -1 for none."""
        ...

    @property
    def segments(self) -> np.ndarray:
        """Return the segment index of each clip, int64 [n]; evaluation averages scores over the clips of a segment."""
        ...

    def __len__(self) -> int: ...

    def read(self, name: str, index: Any) -> np.ndarray:
        """Return a copy of the rows of an array that a numpy index selects."""
        ...


# The call of `data.prepare()` that writes each input of a model with this {spec}.
PREPARATION = {
    "frames": "prepare(..., num_frames={spec.frames}) (`egodistill prepare --num-frames {spec.frames}`)",
    "clip": "prepare(..., clip_frames={spec.frames}, clip_size={spec.size}) "
    "(`egodistill prepare --clip-frames {spec.frames} --clip-size {spec.size}`)",
    "imu": "prepare() (`egodistill prepare` without --no-imu)",
}
STUDENT_OPTIONS = {"frames": "num_frames", "size": "frame_size", "seconds": "clip_seconds"}  # {field: argument}


def arrays_of(model: Model, store: Store, *, classes: bool = True, way_out: str | None = None) -> list[str]:
    """Return the names of the store's arrays that a model reads, in its order.

    A model whose `class_names` are None gets the store's. A model with the attribute `resizes`, such as a teacher,
    reads frames of any size.

    Raise EgoDistillError if the store lacks an array, if the clips differ (length, size and sampling of frames, rate of
    the IMU), or, unless `classes` is false, the classes. `way_out` replaces its advice for other classes.
    """
    inputs, spec, names = inputs_of(model), spec_of(model), []
    own = (
        f"`inputs` of {type(model).__name__} may name 'frames', 'clip', 'imu', and arrays of the store; "
        f"prepare() or store.add()"
    )
    for kind in inputs:
        names.append(frames_name(spec) if kind == "frames" else kind)
        require_array(store, names[-1], PREPARATION.get(kind, own).format(spec=spec))
    if classes:
        require_classes(model, store, way_out)
    for name in names:
        require_clips(model, store, name)
    if getattr(model, "class_names", None) is None and len(store.class_names):
        own_model: Any = model  # a model of your own may lack the attribute
        own_model.class_names = [str(name) for name in store.class_names]
    note_clips(model, store, names)
    return names


def require_model(model: Any) -> None:
    """Raise EgoDistillError for a path, a class or None in place of a model."""
    if model is None:
        raise EgoDistillError("model is None; give a model, such as EgoDistill.load('student.safetensors')")
    if isinstance(model, type):
        raise EgoDistillError(f"model is the class {model.__name__}; give a model of it, {model.__name__}(...)")
    if isinstance(model, (str, os.PathLike)):
        path, suffix = os.fspath(model), Path(model).suffix.lower()
        readers = {files.MODEL_SUFFIX: "EgoDistill.load", ".pt2": "export.load_exported"}
        load = f"load it, such as with {readers[suffix]}({path!r})" if suffix in readers else "the model comes first"
        raise EgoDistillError(f"model is the path {path!r}; {load}")


def inputs_of(model: Model) -> tuple[str, ...]:
    """Return the names of a model's inputs. Raise EgoDistillError if it does not name them in a tuple or list."""
    require_model(model)
    inputs = getattr(model, "inputs", None)
    if not (inputs and isinstance(inputs, (tuple, list)) and all(isinstance(name, str) for name in inputs)):
        raise EgoDistillError(
            f"{type(model).__name__} must have an attribute `inputs`, a tuple of the names of its inputs such as "
            f"('frames', 'imu'); it is {inputs!r}"
        )
    return tuple(inputs)


def require_classifier(model: Any, file: str | None = None) -> None:
    """Raise EgoDistillError for a student whose classifier is not trained yet, because its last stage was stage 1."""
    if getattr(model, "trained_by", None) == "pretrain_imu":
        raise EgoDistillError(
            f"{file or 'the model'} holds the result of stage 1 (`egodistill pretrain`), whose classifier is not "
            f"trained; make a student of it: egodistill distill STORE --teacher NAME --init {file or 'FILE'} --out "
            f"student.safetensors"
        )


def note_clips(model: Any, store: Store, names: Sequence[str]) -> None:
    """Set `model.noted_clips`: fields of the clips that the model leaves open, from the first store that it reads."""
    spec = spec_of(model)
    if hasattr(model, "noted_clips") or None not in vars(spec).values():
        return
    found = {}
    for part in (stored_spec(store, name) for name in names):
        found |= {field: getattr(part, field) for kind in part.parts() for field in FIELDS[kind]}
    model.noted_clips = {name: value for name, value in found.items() if getattr(spec, name) is None}


def clip_spec_of(model: Model, exact: bool | None = None, tolerance: float | None = None) -> ClipSpec:
    """Return the complete spec of a model's clips: its own, what `arrays_of()` noted, and defaults.

    Raise EgoDistillError if nothing says the size of its frames.

    `exact` and `tolerance` (seconds) ask for other frames than the model's own, as in `inference.predict()`.
    """
    inputs_of(model)
    spec = replace(spec_of(model), **getattr(model, "noted_clips", {}))
    if spec.frames and spec.size is None:
        raise EgoDistillError(
            f"{type(model).__name__} does not say the size of its frames; set `frame_size`, for example 64"
        )
    if (exact, tolerance) != (None, None):
        spec = replace(spec, exact=exact is not False, tolerance=tolerance or 0.0)
    return spec.complete()


def as_output(model: Model, output: Any, num_classes: int | None = None) -> Output:
    """Return a pair of feature [B, D] and logits [B, C] as an `Output`.

    Raise EgoDistillError, which names the model, for anything else, or another C than `num_classes` (None: any).
    """
    name = type(model).__name__
    if not (isinstance(output, (tuple, list)) and len(output) == 2 and all(isinstance(x, Tensor) for x in output)):
        raise EgoDistillError(
            f"{name} returned a {type(output).__name__}; a model returns (feature, logits), for example "
            f"egodistill.Output"
        )
    feature, logits = output
    if feature.ndim != 2 or logits.ndim != 2:
        raise EgoDistillError(
            f"{name} returned feature {describe(feature)} and logits {describe(logits)}; their shapes must be [B, D] "
            f"and [B, C]"
        )
    if num_classes is not None and logits.shape[1] != num_classes:
        raise EgoDistillError(
            f"{name} returns {logits.shape[1]} scores per clip for {num_classes} class names; "
            + ("are feature and logits swapped?" if feature.shape[1] == num_classes else "it must return one per class")
        )
    return output if isinstance(output, Output) else Output(feature, logits)


def probabilities(model: Any, logits: Tensor, alone: str | None = None) -> Tensor:
    """Return the probabilities of the classes that a model gave these logits, float32 [B, C], with its temperature.

    None in place of the model is one without a temperature, such as a teacher whose logits are in a store. `alone` is
    the only input that a student with `optional_inputs` had.

    >>> import torch
    >>> from egodistill import batches
    >>> batches.probabilities(None, torch.tensor([[0.0, 0.0]]))
    tensor([[0.5000, 0.5000]])
    """
    found = calibration.calibration_of(model)
    return (logits.float() / (found.for_input(alone) if alone else found).temperature).softmax(1)


def require_store(store: Any) -> None:
    """Raise EgoDistillError for a path in place of a store, or for an object that lacks what a store has."""
    if isinstance(store, (str, os.PathLike)):
        raise EgoDistillError(f"the store is the path {str(store)!r}; open it with data.ClipStore({str(store)!r})")
    for member in ("__len__", "read", "names", "class_names"):
        found = getattr(store, member, None)
        is_method = member in ("__len__", "read")
        if found is None or callable(found) != is_method or isinstance(found, str):
            fault = "is missing" if found is None else f"is a {type(found).__name__}"
            raise DataError(
                f"{name_of(store)}: {member} {fault}; it must be a {'method' if is_method else 'list of names'}. "
                f"Give a data.ClipStore, or see help(egodistill.engine.batches.Store)"
            )


def name_of(store: Store) -> str:
    """Return the folder of a store, or "the store"."""
    return str(getattr(store, "path", None) or "the store")


def labels_of(store: Store) -> np.ndarray:
    """Return the class index of each clip, int64 [n]; -1 for none. Raise DataError for anything else."""
    count = len(store.class_names)
    meaning = f"the index of its class in class_names, 0 to {count - 1}; -1 for none"
    meaning = meaning if count else "-1, because the store has no class_names"
    labels = whole_numbers(store, "labels", meaning)
    if len(outside := np.flatnonzero((labels < -1) | (labels >= count))):
        row = int(outside[0])
        raise DataError(f"{name_of(store)}: labels[{row}] is {labels[row]}; it must be {meaning}")
    return labels


def background_of(model_or_store: Any) -> int | None:
    """Return the index of the class "(none)", of time in which nothing happens that has a label; None without it.

    >>> from egodistill import batches, data
    >>> print(batches.background_of(data.ClipStore("store")))
    None
    """
    names = getattr(model_or_store, "class_names", None)
    names = [] if names is None else list(names)
    return names.index(NONE) if NONE in names else None


def lacks_background(store: Store, teacher: str) -> bool:
    """Return whether a store has the class "(none)", and its teacher of this name has not, as the outputs' record says.

    Its logits of this class are then fillers, and nothing that it says. Without a record, a warning says that they
    count as what it says.
    """
    if background_of(store) is None:
        return False
    known = outputs_record(cast(Any, store), teacher).get("class_names") if getattr(store, "path", None) else None
    if known is None:
        warnings.warn(
            f"{name_of(store)}: no record says whether the teacher {teacher!r} knows the class {NONE!r}, so its logits "
            f"of it count as what it says; `teachers.extract()` writes this record",
            NoteWarning,
            stacklevel=2,
        )
    return known is not None and NONE not in known


def segments_of(store: Store) -> np.ndarray:
    """Return the segment index of each clip, int64 [n]. Raise DataError for anything else, or if its labels differ."""
    found = whole_numbers(store, "segments", "the number of its segment, the same for all clips of a segment")
    labels = labels_of(store)
    _, first, of_clip = np.unique(found, return_index=True, return_inverse=True)
    if len(rows := np.flatnonzero(labels != labels[first][of_clip])):
        row, other = int(rows[0]), int(first[of_clip[rows[0]]])
        raise DataError(
            f"{name_of(store)}: labels[{row}] is {labels[row]}, but labels[{other}] of the same segment "
            f"{found[row]} is {labels[other]}; all clips of a segment must have one label"
        )
    return found


def groups_of(store: Store) -> Iterator[np.ndarray]:
    """Yield the number of the wearer of each clip, int64 [n], then of its recording, then of its segment.

    What a store does not know of each clip (`wearers`, `clips`, as of `data.ClipStore`) is left out.

    >>> from egodistill import batches, data
    >>> [int(groups.max()) + 1 for groups in batches.groups_of(data.ClipStore("store").split("test"))]
    [3, 3, 6]
    """
    videos = [clip.get("video") for clip in getattr(store, "clips", ())]
    videos = [*map(Names(filter(None, videos)), videos)] if all(videos) else []
    for names in (getattr(store, "wearers", ()), videos, segments_of(store)):
        if len(names) == len(store) and not any(name is None for name in names):
            yield np.unique(np.asarray(names), return_inverse=True)[1]


def whole_numbers(store: Store, member: str, meaning: str) -> np.ndarray:
    """Return a member that has one whole number per clip, int64 [n]. Raise DataError, which names row and meaning."""
    must = f"it must be int64 [{len(store)}], for each clip {meaning}"
    try:
        found = np.asarray(getattr(store, member))
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{name_of(store)}: {member}: {str(error).splitlines()[0]}; {must}") from error
    if found.shape != (len(store),):
        raise DataError(f"{name_of(store)}: {member} is {found.dtype} {list(found.shape)}; {must}")
    if found.dtype.kind not in "iu" and len(found):
        values = found.tolist()
        row = next((k for k, value in enumerate(values) if type(value) is not int), 0)
        raise DataError(f"{name_of(store)}: {member}[{row}] is {values[row]!r} ({found.dtype}); {must}")
    return found.astype(np.int64, copy=False)


# What the arrays of a store are: dtype, and shape of a row with None for any size.
FRAMES = ("uint8", (None, 3, None, None))
KINDS = {"clip": FRAMES, "ends": FRAMES, "imu": ("float32", (None, 6))}
Change = Callable[[dict[str, Tensor]], None]  # of a batch, in place


def read_rows(store: Store, name: str, rows: np.ndarray, *, pinned: bool = False) -> Tensor:
    """Return rows, int64 [b], of an array as a tensor [b, ...]. Raise DataError if the store returns anything else.

    With `pinned`, a store whose `read()` has an argument `out`, as `data.ClipStore`'s, reads into memory from which a
    GPU can copy. It comes from torch's ring: memory is used again when its tensor is gone and its copies are done.

    >>> import numpy as np
    >>> from egodistill import batches, data
    >>> batches.read_rows(data.ClipStore("store"), "imu", np.array([3, 5])).shape
    torch.Size([2, 422, 6])
    """
    if not len(rows):
        return torch.from_numpy(store.read(name, rows))
    where, options = f"{name_of(store)}: read({name!r}, ...) of the rows {int(rows[0])} to {int(rows[-1])}", {}
    if pinned and "out" in inspect.signature(store.read).parameters:
        none = read_rows(store, name, rows[:0])
        options["out"] = none.new_empty((len(rows), *none.shape[1:]), pin_memory=True).numpy()
    try:
        found = store.read(name, rows, **options)
    except (IndexError, KeyError) as error:
        raise DataError(f"{where}: {error}; each array needs one row for each of the {len(store)} clips") from error
    try:
        values = torch.from_numpy(found)
    except (TypeError, ValueError) as error:
        kind = f"{found.dtype} array" if isinstance(found, np.ndarray) else type(found).__name__
        raise DataError(
            f"{where} returned a {kind}, but must return a numpy array of numbers, such as np.stack(...)"
        ) from error
    dtype, shape = FRAMES if is_frames(name) else KINDS.get(name, (None, None))
    if name.endswith((".feature", ".logits")):
        dtype, shape = str(found.dtype) if values.is_floating_point() else "float32", (None,)
    wanted = [len(rows), *(["..."] if shape is None else ["any" if size is None else size for size in shape])]
    fits = values.ndim > 0 and len(values) == len(rows) and dtype in (None, str(found.dtype))
    if fits and shape is not None:
        own = values.shape[1:]
        fits = len(own) == len(shape) and all(x and size in (None, x) for size, x in zip(shape, own, strict=True))
    if not fits:
        text = f"{dtype or 'an array'} [{', '.join(map(str, wanted))}]"
        raise DataError(f"{where} returned {describe(values)}, but must return {text}")
    return values


def require_classes(model: Model, store: Store, way_out: str | None = None) -> None:
    """Raise EgoDistillError if a model has other classes than the store, but for a last one, "unsure".

    A store without labels has no classes until a teacher names them; it fits any model.
    """
    theirs = [str(name) for name in store.class_names]
    if not theirs:
        return
    known = getattr(model, "class_names", None)
    ours = theirs if known is None else list(known)
    if theirs not in (ours, known_names(ours)):
        pairs = enumerate(zip(ours, theirs, strict=False))
        first = next((k for k, (one, other) in pairs if one != other), min(len(ours), len(theirs)))
        evaluated = "without labels, it can only be compared with a teacher of its own classes"
        if (np.asarray(getattr(store, "labels", -1)) >= 0).any():
            evaluated = "to evaluate it on labels among its classes, give store.with_classes(model.class_names)"
        raise EgoDistillError(
            f"the class names of model ({len(ours)}) and store ({len(theirs)}) differ first at class {first}: "
            f"{ours[first : first + 1]} and {theirs[first : first + 1]}; {way_out or evaluated}"
        )
    count = getattr(model, "num_classes", len(ours))
    if count != len(ours):
        raise EgoDistillError(
            f"the model has {count} classes, but the store has {len(ours)}; build the model with "
            f"num_classes={len(ours)}"
        )


def count_scores(model: Model, store: Store) -> int | None:
    """Return how many scores a model that fits a store has: one per class, also of "unsure"; None: any number."""
    known = getattr(model, "class_names", None)
    return len(store.class_names if known is None else known) if len(store.class_names) else None


def require_clips(model: Model, store: Store, name: str) -> None:
    """Raise EgoDistillError if an array has other clips than a model reads; fields that are None are not compared."""
    ours, ignore = spec_of(model), ("size",) if getattr(model, "resizes", False) else ()
    stored = stored_spec(store, name, square=bool(ours.size) and not ignore)
    different = spec_differences(ours, stored, ignore=ignore)
    if different:
        faults = [f"{k} is {theirs} in the store, {ours} in the model" for k, (ours, theirs) in different.items()]
        names = {} if hasattr(model, "clip_spec") else STUDENT_OPTIONS
        fitting = ", ".join(f"{names.get(k, k)}={theirs!r}" for k, (_, theirs) in different.items())
        other = "other clips"
        if name == "clip" and different.keys() <= {"frames", "size"}:
            other = f"clips for it with {named('clip_frames', ours.frames)} and {named('clip_size', ours.size)}"
        raise EgoDistillError(
            f"the array {name!r} of the store does not fit the model: {'; '.join(faults)}. Build the model with "
            f"{fitting}, or prepare {other}"
        )


def stored_axes(store: Store) -> str:
    """Return the name of the axes of a store's IMU samples, the argument `imu_axes` of a student.

    >>> from egodistill import batches, data
    >>> batches.stored_axes(data.ClipStore("store"))
    'gopro'
    """
    axes = stored_spec(store, "imu").imu_axes if "imu" in getattr(store, "specs", {}) else None
    return axes or "gopro"


def imu_of(model: Model, store: Store) -> tuple[int, float]:
    """Return number and rate (Hz) of the IMU samples of a clip. Raise EgoDistillError if nothing says the rate."""
    own, stored = spec_of(model), stored_spec(store, "imu")
    rate = own.imu_rate or stored.imu_rate
    if not rate:
        raise EgoDistillError(
            f"{type(model).__name__}: give the model an attribute imu_rate, the rate of its IMU samples"
        )
    return stored.imu_samples or own.imu_samples, rate


def stored_spec(store: Store, name: str, *, square: bool = False) -> ClipSpec:
    """Return the spec of an array: the store's, or without specs what the array's shape says of frames or IMU samples.

    Raise DataError for frames that are not square, if they have to be.
    """
    specs = getattr(store, "specs", {})
    if name in specs:
        return specs[name]
    shape = read_rows(store, name, np.array([0])).shape if len(store) else ()
    if name == "imu" and shape:
        return ClipSpec(imu_samples=shape[1], imu_rate=None, imu_axes=None, seconds=None)
    if len(shape) != 5:
        return ClipSpec()
    _, frames, _, height, width = shape
    if square and height != width:
        raise DataError(
            f"{name_of(store)}: {name!r} has frames of {width} x {height} pixels; the model reads square ones"
        )
    size = height if height == width else None
    return ClipSpec(frames=frames, size=size, crop=None, sampling=None, exact=None, tolerance=None, seconds=None)


def input_specs(model: Model, spec: ClipSpec, other: Collection[str] = ()) -> dict[str, ClipSpec]:
    """Return {input: spec} for a model whose clips have this spec, without `other` inputs.

    Raise EgoDistillError for inputs of other kinds.

    >>> from egodistill import EgoDistill, batches
    >>> student = EgoDistill.load("student.safetensors")
    >>> list(batches.input_specs(student, batches.clip_spec_of(student)))
    ['frames', 'imu']
    """
    parts = spec.parts()
    found = {kind: parts.get("frames" if kind == "clip" else kind) for kind in inputs_of(model)}
    found = {kind: part for kind, part in found.items() if kind not in other}
    if unknown := [kind for kind, part in found.items() if part is None]:
        raise EgoDistillError(
            f"{type(model).__name__} reads {unknown[0]!r}, which only a store has: the shapes of frames, clip and imu "
            f"are known, and a model that reads 'clip' needs a clip_spec or num_frames"
        )
    return {kind: part for kind, part in found.items() if part is not None}


def example_inputs(model: Model, batch_size: int = 1) -> tuple[Tensor, ...]:
    """Return random inputs for a model, in its order, on the CPU.

    "frames" and "clip" are uint8 [B, N, 3, H, W], "imu" is float32 [B, samples, 6], others are as its `input_shapes`.
    Raise EgoDistillError for inputs of unknown shape, if a model reads "clip" without a number of frames, and if
    nothing says the size of its frames.

    >>> from egodistill import EgoDistill, batches
    >>> model = EgoDistill.load("student.safetensors")
    >>> [(x.dtype, tuple(x.shape)) for x in batches.example_inputs(model, batch_size=2)]
    [(torch.uint8, (2, 1, 3, 64, 64)), (torch.float32, (2, 422, 6))]
    """
    custom = {name: ("float32", shape) for name, shape in getattr(model, "input_shapes", {}).items()}
    specs, found = input_specs(model, clip_spec_of(model), custom), []
    for kind in inputs_of(model):
        dtype, shape = custom.get(kind) or specs[kind].arrays(kind)[kind]
        shape = (batch_size, *shape)
        found.append(torch.randint(256, shape, dtype=torch.uint8) if dtype == "uint8" else torch.randn(shape))
    return tuple(found)


def require_array(store: Store, name: str, source: str) -> None:
    """Raise EgoDistillError if the store lacks an array; `source` is the call that writes it, for the message."""
    require_store(store)
    if name not in store.names:
        raise EgoDistillError(f"the store has no array {name!r} (it has {', '.join(store.names)}); {source} writes it")


def require_teacher(store: Store, teacher: str, *outputs: str) -> list[str]:
    """Return the names of a teacher's outputs ("feature", "logits"). Raise EgoDistillError if the store lacks one.

    >>> from egodistill import batches, data
    >>> batches.require_teacher(data.ClipStore("store"), "x3d", "feature", "logits")
    ['x3d.feature', 'x3d.logits']
    """
    require_store(store)
    if not isinstance(teacher, str):
        raise EgoDistillError(
            f"teacher is a {type(teacher).__name__}; give the name of its outputs in the store, such as "
            f"{getattr(teacher, 'name', 'x3d')!r}, which {named('teachers.extract()')} writes"
        )
    names = [f"{teacher}.{output}" for output in outputs]
    for name in names:
        if name not in store.names:
            known = [array.removesuffix(".feature") for array in store.names if array.endswith(".feature")]
            if not known:
                told = f"has outputs of no teacher; {named('teachers.extract()')} writes them"
                raise EgoDistillError(f"{name_of(store)}: {told}")
            raise EgoDistillError(
                f"the store has no array {name!r}; it has outputs of: {', '.join(known)}. Give one of "
                f"these names, or write the outputs of another teacher with {named('teachers.extract()')}"
            )
    return names


def require_labels(store: Store, *, some: bool = False) -> None:
    """Raise EgoDistillError if a clip has no label, with `some` only if none of them has one."""
    require_store(store)
    count = int((labels_of(store) < 0).sum())
    if count and count == len(store):
        raise EgoDistillError(
            f"none of the {count} clips has a label, which this needs; without labels, a student learns from a "
            f"teacher's outputs (prepare or extract them, then distill), and "
            f"{named('agreement()', option='`egodistill evaluate`')} compares with them"
        )
    if count and not some:
        raise EgoDistillError(
            f"{count} of {len(store)} clips have no label; give a split whose segments all have one, or "
            f"store.select(store.labels >= 0)"
        )


def clip_ids(store: Store, rows: Tensor) -> str:
    """Return the segment ids of rows, int64 [b], at most five, as text; the rows if the store has no ids."""
    clips, shown = getattr(store, "clips", None), rows.tolist()[:5]
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return ", ".join(str(clips[row]["id"] if clips else row) for row in shown) + more


def require_finite(store: Store, rows: Tensor, name: str, values: Tensor) -> None:
    """Raise DataError, which names the clips and the values, unless values [b, ...] of rows, int64 [b], are finite."""
    if values.is_floating_point() and not values.isfinite().all():
        broken = ~values.reshape(len(values), -1).isfinite().all(1).cpu()
        way_out = "leave these clips out: store.select() keeps the others"
        if broken.all() and len(broken) > 1:
            way_out = "these are all that were read together, so look for the fault in the array or the model's weights"
        raise DataError(
            f"{name_of(store)}: {name} of the clips {clip_ids(store, rows.cpu()[broken])} are not finite; {way_out}"
        )


def read_batches(
    store: Store,
    names: Sequence[str],
    rows: Tensor,
    batch_size: int,
    device: torch.device,
    pick: Callable[[Tensor], Tensor] | None = None,
    change: Change | None = None,
) -> Iterator[tuple[dict[str, Tensor], float]]:
    """Yield batches of rows, int64 [n], with the seconds waited for each; a thread reads the next batch ahead.

    A batch holds the arrays `names` and "label" [b] on the device, and "row" [b] on the CPU. `pick` selects the rows of
    a batch that are read, `change` modifies a batch in place, on the device, in that thread. Raise DataError, which
    names the clips, for a value that is not finite.

    >>> import torch
    >>> from egodistill import batches, data
    >>> store = data.ClipStore("store").split("test")
    >>> for batch, waited in batches.read_batches(store, ["imu"], torch.arange(len(store)), 4, torch.device("cpu")):
    ...     print(batch["imu"].shape, batch["row"])
    torch.Size([4, 422, 6]) tensor([0, 1, 2, 3])
    torch.Size([2, 422, 6]) tensor([4, 5])
    """
    require_number(named("batch_size"), batch_size, 1, whole=True)
    read = functools.partial(read_batch, store, names, torch.from_numpy(labels_of(store)), device, change)
    return files.read_ahead(
        [part if pick is None else pick(part) for part in rows.split(batch_size) if len(part)], read
    )


def read_batch(
    store: Store, names: Sequence[str], labels: Tensor, device: torch.device, change: Change | None, rows: Tensor
) -> dict[str, Tensor]:
    """Return a batch as `read_batches()` does; `labels` are those of all clips."""
    batch = {"label": labels[rows]}
    for name in names:
        batch[name] = read_rows(store, name, rows.numpy(), pinned=device.type == "cuda")
        require_finite(store, rows, f"the values {name!r}", batch[name])
    batch = {name: runtime.send(x, device) for name, x in batch.items()} | {"row": rows}
    if change is not None:
        change(batch)
    return batch
