"""A student in four steps, so that frames and IMU samples can arrive at different times.

from egodistill.engine import steps

steps.require_steps(model, ("encode_imu", "fuse"), "a stream", "; predict() takes any model")
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from ..student import EgoDistill, Output
from ..support.errors import EgoDistillError
from . import batches

__all__ = ["Student", "accepts_missing_input", "differ", "require_same_steps", "require_steps"]

MAX_DIFFERENCE = 1e-3  # of outputs that should be equal, relative to the largest


class Student(Protocol):
    """A student in four steps, so that frames and IMU samples can arrive at different times; `EgoDistill` is one."""

    def encode_frames(self, frames: Tensor, count: int | None = None) -> Tensor:
        """Return the features of frames, uint8 [B, N, 3, H, W] (RGB) -> [B, N, d]; `count` is N, if not the model's."""
        ...

    def aggregate(self, features: Tensor) -> Tensor:
        """Return one image feature of all frames, [B, N, d] -> [B, d']."""
        ...

    def encode_imu(self, imu: Tensor) -> Tensor:
        """Return the IMU feature of samples, float [B, T, 6] -> [B, m]."""
        ...

    def fuse(self, image: Tensor | None, imu: Tensor | None) -> Output:
        """Return feature and logits: [B, d'] (None: no frames), [B, m] (None: no IMU) -> [B, D], [B, C]."""
        ...


def require_steps(model: Any, steps: Iterable[str], reader: str, way_out: str) -> None:
    """Raise EgoDistillError unless a model has the steps of a `Student` (methods, attributes) that its reader calls.

    `way_out` is the end of the message, behind "see engine.steps.Student".
    """
    if lacking := [step for step in steps if not hasattr(model, step)]:
        raise EgoDistillError(
            f"{type(model).__name__} has no {', '.join(lacking)}: {reader} needs a student that works in steps, see "
            f"engine.steps.Student{way_out}"
        )


def require_same_steps(model: Any, reader: str) -> None:
    """Raise EgoDistillError, which names the reader, if `forward()` computes something else than the steps."""
    if not isinstance(model, EgoDistill) or type(model).forward is EgoDistill.forward:
        return
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        given = [x.to(model.mean.device) for x in batches.example_inputs(model)]
        wanted, found = model(*given).logits, EgoDistill.forward(model, *given).logits
    if differ(found, wanted):
        raise EgoDistillError(
            f"forward() of {type(model).__name__} computes something else than its steps, which {reader} calls; put "
            f"steps of your own in encode_frames(), aggregate(), encode_imu() and fuse()"
        )


def accepts_missing_input(model: Any) -> bool:
    """Return whether a student may lack one of its inputs: it has `optional_inputs`, and is no copy of `without()`."""
    return bool(getattr(model, "optional_inputs", False)) and getattr(model, "lacks", None) is None


def differ(found: Tensor, wanted: Tensor) -> bool:
    """Return whether a student's outputs differ from those of its program or steps by more than rounding."""
    return not (found - wanted).abs().max() <= MAX_DIFFERENCE * wanted.abs().max()  # NaN differs
