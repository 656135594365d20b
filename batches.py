"""What a model reads of a store: checks that the two fit, and batches of tensors.

from egodistill import batches

names = batches.arrays_of(model, store)                 # such as ["frames_1", "imu"]
for batch, waited in batches.read(store, names, torch.arange(len(store)), 64, device):
    output = model(*(batch[name] for name in names))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from egodistill import EgoDistillError, clips, files

if TYPE_CHECKING:
    from egodistill.student import Output

__all__ = [
    "Augment",
    "Model",
    "Store",
    "arrays_of",
    "clip_ids",
    "example_inputs",
    "read",
    "require_array",
    "require_labels",
    "require_teacher",
]


class Model(Protocol):
    """A torch module that names the arrays it reads, takes them in that order, and returns feature and logits."""

    @property
    def inputs(self) -> tuple[str, ...]: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Output: ...


class Store(Protocol):
    """Clips on disk or in memory: what training and evaluation read of `data.ClipStore`."""

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def names(self) -> list[str]:
        """The arrays that it has."""

    @property
    def labels(self) -> np.ndarray:
        """The class of each clip; -1 where none is known."""

    @property
    def segments(self) -> np.ndarray:
        """The segment of each clip: scores are averaged over its clips."""

    def __len__(self) -> int: ...

    def read(self, name: str, index: Any) -> np.ndarray:
        """Return some clips' rows of an array."""


# How `data.prepare()` makes the array that a model of a clip {spec} reads.
PREPARATION = {
    "frames": "prepare(..., num_frames={spec.frames})",
    "clip": "prepare(..., clip_frames={spec.frames}, clip_size={spec.size})",
    "imu": "prepare(..., imu=True)",
    "audio": "prepare(..., audio=True)",
}
STUDENT_OPTIONS = {"frames": "num_frames", "size": "frame_size", "seconds": "clip_seconds"}  # by field of a ClipSpec


def arrays_of(model: Model, store: Store) -> list[str]:
    """Return the names of the store's arrays that a model reads, in its order, after checking that the two fit.

    A model without class names gets the store's. Raise EgoDistillError if the store lacks an array (and what makes
    it), or if classes differ, or what a clip holds: its length, size and choice of frames, rate of the IMU. A model
    that `resizes` pictures, as teachers do, reads any size.
    """
    spec = clips.spec_of(model)
    names = []
    for kind in model.inputs:
        names.append(clips.frames_name(spec) if kind == "frames" else kind)
        require_array(store, names[-1], PREPARATION.get(kind, "another preparation").format(spec=spec))
    require_classes(model, store)
    for name in names:
        require_clips(model, store, name)
    return names


def require_classes(model: Model, store: Store) -> None:
    """Give a model without class names the store's. Raise EgoDistillError if it has other classes."""
    if getattr(model, "class_names", None) is None:
        model.class_names = list(store.class_names)
    ours, theirs = list(model.class_names), list(store.class_names)
    if ours != theirs:
        pairs = enumerate(zip(ours, theirs, strict=False))
        first = next((k for k, (one, other) in pairs if one != other), min(len(ours), len(theirs)))
        raise EgoDistillError(
            f"the class names of model ({len(ours)}) and store ({len(theirs)}) differ first at class {first}: "
            f"{ours[first : first + 1]} and {theirs[first : first + 1]}"
        )
    if hasattr(model, "num_classes") and model.num_classes != len(theirs):
        raise EgoDistillError(f"the model has {model.num_classes} classes and the store {len(theirs)}")


def require_clips(model: Model, store: Store, name: str) -> None:
    """Raise EgoDistillError if an array holds other clips than a model reads. What one of them does not say passes."""
    there = stored_spec(store, name)
    ignore = ("size",) if getattr(model, "resizes", False) else ()
    different = clips.differences(clips.spec_of(model), there, ignore=ignore)
    if different:
        told = "; ".join(f"{one} is {theirs} there, {ours} in the model" for one, (ours, theirs) in different.items())
        names = {} if hasattr(model, "clip_spec") else STUDENT_OPTIONS
        fitting = ", ".join(f"{names.get(one, one)}={theirs!r}" for one, (_, theirs) in different.items())
        raise EgoDistillError(
            f"the store's {name!r} are not the clips that the model reads: {told}. Build the model with {fitting}, or "
            f"prepare other clips"
        )


def stored_spec(store: Store, name: str) -> clips.ClipSpec:
    """Return what an array holds of a clip: what the store says, or what the shape of pictures shows."""
    specs = getattr(store, "specs", {})
    if name in specs:
        return specs[name]
    shape = store.read(name, np.array([0])).shape if len(store) else ()
    if len(shape) != 5:
        return clips.ClipSpec()
    _, frames, _, height, width = shape
    size = height if height == width else None
    return clips.ClipSpec(frames=frames, size=size, crop=None, sampling=None, exact=None, seconds=None)


def example_inputs(model: Model, batch_size: int = 1) -> tuple[Tensor, ...]:
    """Return random inputs of the shapes and types that a model reads, in its order, on the CPU.

    "frames" and "clip" are uint8 [B, N, 3, H, W], "imu" is float32 [B, samples, 6], "audio" float32 [B, steps, bands].
    Raise EgoDistillError for other inputs, and for a model of clips that does not say how many frames they have.
    """
    parts, found = clips.spec_of(model).complete().parts(), []
    for kind in model.inputs:
        spec = parts.get("frames" if kind == "clip" else kind)
        if spec is None:
            raise EgoDistillError(
                f"{type(model).__name__} reads {kind!r}, whose shape is not known: inputs are frames, clip, imu and "
                f"audio, and a model of clips has a clip_spec, or num_frames"
            )
        dtype, shape = spec.arrays(kind)[kind]
        if kind == "audio":
            shape = (getattr(model, "audio_steps", shape[0]), getattr(model, "mel_bands", shape[1]))
        whole = (batch_size, *shape)
        found.append(torch.randint(256, whole, dtype=torch.uint8) if dtype == "uint8" else torch.randn(whole))
    return tuple(found)


def require_array(store: Store, name: str, way: str) -> None:
    """Raise EgoDistillError if the store has no such array; `way` is how to make it."""
    if name not in store.names:
        raise EgoDistillError(f"the store has no array {name!r} (it has {', '.join(store.names)}); {way} makes it")


def require_teacher(store: Store, teacher: str, *outputs: str) -> list[str]:
    """Return the names of a teacher's outputs ("feature", "logits"); raise EgoDistillError if the store lacks one."""
    names = [f"{teacher}.{output}" for output in outputs]
    for name in names:
        require_array(store, name, f"teachers.extract() with the teacher {teacher!r}")
    return names


def require_labels(store: Store) -> None:
    """Raise EgoDistillError if some clip has no label."""
    count = int((torch.as_tensor(store.labels) < 0).sum())
    if count:
        raise EgoDistillError(f"{count} of {len(store)} clips have no label; give a split whose segments all have one")


def clip_ids(store: Store, rows: Tensor) -> str:
    """Return the store's names of these clips; their rows if it has no names."""
    clips = getattr(store, "clips", None)
    return ", ".join(str(clips[row]["id"] if clips else row) for row in rows.tolist())


def read(
    store: Store,
    names: Sequence[str],
    rows: Tensor,
    batch_size: int,
    device: torch.device,
    pick: Callable[[Tensor], Tensor] | None = None,
    change: Callable[[dict[str, Tensor]], None] | None = None,
) -> Iterator[tuple[dict[str, Tensor], float]]:
    """Yield batches of these rows of the store, and the seconds waited for each: a thread reads the next one.

    A batch holds the arrays `names`, "label" [b] and "row" [b] (on the CPU). `pick` selects those of a batch's rows
    that are read. `change` changes a batch, on the CPU and in the thread that reads.
    """
    source = _Source(store, names, device, change)
    parts = [part if pick is None else pick(part) for part in rows.split(batch_size) if len(part)]
    return files.read_ahead(parts, source.read)


class _Source:
    """Arrays of a store as tensors on a device."""

    def __init__(
        self,
        store: Store,
        names: Sequence[str],
        device: torch.device,
        change: Callable[[dict[str, Tensor]], None] | None,
    ) -> None:
        self.store, self.names, self.device, self.change = store, names, device, change
        self.labels = torch.as_tensor(store.labels)

    def read(self, rows: Tensor) -> dict[str, Tensor]:
        batch = {name: torch.from_numpy(self.store.read(name, rows.numpy())) for name in self.names}
        batch |= {"label": self.labels[rows], "row": rows}
        if self.change is not None:
            self.change(batch)
        return {name: x if name == "row" else x.to(self.device, non_blocking=True) for name, x in batch.items()}


@dataclass(frozen=True)
class Augment:
    """Random changes of the clips that a student is trained on; none by default, as in the paper.

    crop   A part of each frame is cut out and scaled to the frame's size. Its sides are shorter by up to this share:
           0.3 gives 0.7 to 1 of the frame's. All frames of a clip are cut alike.
    """

    crop: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.crop < 1:
            raise EgoDistillError(f"crop is a share of the frame's side, 0 <= crop < 1; got {self.crop}")

    def apply(self, batch: dict[str, Tensor], seeds: Sequence[int]) -> None:
        """Change a batch, clip by clip: what is drawn depends on the clip's seed alone, so K processes draw as one."""
        for name, frames in batch.items():
            if self.crop and name.startswith("frames_"):
                batch[name] = torch.stack([self.crop_frames(x, seed) for x, seed in zip(frames, seeds, strict=True)])

    def crop_frames(self, frames: Tensor, seed: int) -> Tensor:
        """Cut the same square out of all frames of a clip and scale it: uint8 [N, 3, H, W] -> the same shape."""
        size, *place = torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()
        whole = frames.shape[2:]
        sides = [max(1, round(side * (1 - self.crop * size))) for side in whole]
        top, left = (round(share * (side - own)) for share, side, own in zip(place, whole, sides, strict=True))
        part = frames[:, :, top : top + sides[0], left : left + sides[1]].float()
        return F.interpolate(part, tuple(whole), mode="bilinear", antialias=True).round().clamp(0, 255).to(frames.dtype)
