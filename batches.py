"""What a model reads of a store: checks that the two fit, and batches of tensors.

from egodistill import batches

names = batches.arrays_of(model, store)                 # such as ["frames_1", "imu"]
for batch, waited in batches.read(store, names, torch.arange(len(store)), 64, device):
    output = model(*(batch[name] for name in names))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from egodistill import EgoDistillError, files

if TYPE_CHECKING:
    from egodistill.student import Output

__all__ = ["Model", "Store", "arrays_of", "clip_ids", "read", "require_array", "require_labels", "require_teacher"]


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


# How `data.prepare()` makes the array that a model reads; {frames} is its number of frames.
PREPARATION = {
    "frames": "prepare(..., num_frames={frames})",
    "clip": "prepare(..., clip_frames=T)",
    "imu": "prepare(..., imu=True)",
    "audio": "prepare(..., audio=True)",
}


def arrays_of(model: Model, store: Store) -> list[str]:
    """Return the names of the store's arrays that a model reads, in its order, after checking that the two fit.

    A model without class names gets the store's. Raise EgoDistillError if the store lacks an array (and what makes
    it), or if classes or frame sizes differ.
    """
    count = getattr(model, "num_frames", 1)
    names = []
    for kind in model.inputs:
        names.append(f"frames_{count}" if kind == "frames" else kind)
        require_array(store, names[-1], PREPARATION.get(kind, "another preparation").format(frames=count))
    if getattr(model, "class_names", None) is None:
        model.class_names = list(store.class_names)
    if list(model.class_names) != list(store.class_names):
        raise EgoDistillError(
            f"model and store have other class names: {shorten(model.class_names)} and {shorten(store.class_names)}"
        )
    if hasattr(model, "num_classes") and model.num_classes != len(store.class_names):
        raise EgoDistillError(f"the model has {model.num_classes} classes and the store {len(store.class_names)}")
    if "frames" in model.inputs and len(store):
        size = store.read(f"frames_{count}", [0]).shape[-1]
        if size != model.frame_size:
            raise EgoDistillError(
                f"the store's frames are {size} pixels wide and the model's {model.frame_size}; "
                f"build it with frame_size={size}"
            )
    return names


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


def shorten(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"


def read(
    store: Store,
    names: Sequence[str],
    rows: Tensor,
    batch_size: int,
    device: torch.device,
    pick: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[tuple[dict[str, Tensor], float]]:
    """Yield batches of these rows of the store, and the seconds waited for each: a thread reads the next one.

    A batch holds the arrays `names`, "label" [b] and "row" [b] (on the CPU). `pick` selects those of a batch's rows
    that are read.
    """
    source = _Source(store, names, device)
    parts = [part if pick is None else pick(part) for part in rows.split(batch_size) if len(part)]
    return files.read_ahead(parts, source.read)


class _Source:
    """Arrays of a store as tensors on a device."""

    def __init__(self, store: Store, names: Sequence[str], device: torch.device) -> None:
        self.store, self.names, self.device = store, names, device
        self.labels = torch.as_tensor(store.labels)

    def read(self, rows: Tensor) -> dict[str, Tensor]:
        batch = {name: torch.from_numpy(self.store.read(name, rows.numpy())) for name in self.names}
        batch["label"] = self.labels[rows]
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        return batch | {"row": rows}
