"""What the three baselines of the paper have in common; they are in `adafuse`, `stts` and `listen_to_look`.

    from egodistill import data, distill, evaluate, finetune
    from lab import adafuse, baselines, listen_to_look, stts

    train, test = (data.ClipStore("store").split(name) for name in ("train", "test"))
    model = adafuse.AdaFuse(len(train.class_names))                 # skips and reuses channels from frame to frame
    model = stts.STTS(len(train.class_names))                       # drops tokens in time and space
    finetune(model, train)                                          # on labels; AdaFuse adds its own loss
    model = listen_to_look.ListenToLook(len(train.class_names), feature_dim=768)
    distill(model, train, teacher="motionformer")                   # the only one of the three with a teacher
    print(evaluate(model, test).top1)
    model.save("baseline.safetensors")
    model = baselines.Baseline.load("baseline.safetensors")

All take the same frames as the student, uint8 [B, N, 3, H, W] in RGB, normalise them and return
`Output(feature, logits)`. They follow the code released by their authors and give equal outputs; where that code and
its paper differ, or where neither gives a value, the choice is an argument.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from egodistill import student
from egodistill.engine import checkpoints, image_encoders, models
from egodistill.support.errors import EgoDistillError

__all__ = ["Baseline", "BaselineError"]

IMAGENET = (student.IMAGENET_MEAN, student.IMAGENET_STD)  # mean and standard deviation of RGB
KINETICS = ((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))


class BaselineError(EgoDistillError):
    """An argument or input of a baseline does not fit; the message says what would."""


class Baseline(nn.Module):
    """The base class of AdaFuse, STTS and ListenToLook; `Baseline.load(path)` returns any of them.

    Args:
        normalise: Mean and standard deviation of RGB pixels (0 to 1), three numbers each.
        num_classes: C.
        num_frames: Number of frames.
        frame_size: Height and width of the frames in pixels, at least 32.
        width: Channels of the first layer; at least 1.
        clip_seconds: Length of a clip in seconds.
        class_names: C names; None: training takes them from the store.

    Raises:
        BaselineError: If an argument or an input does not fit.

    >>> from lab import adafuse, baselines
    >>> model = adafuse.AdaFuse(8, frame_size=64, width=8, depths=(1, 1, 1, 1), policy_hidden=8, weights=None)
    >>> model.save("baseline.safetensors")
    >>> type(baselines.Baseline.load("baseline.safetensors")).__name__
    'AdaFuse'
    """

    inputs: tuple[str, ...] = ("frames",)
    arguments: dict[str, Any]  # of the constructor
    trained_by: str | None = None  # as of a student
    trained_with: dict[str, Any] | None = None
    calibration: Any = None

    def __init__(
        self,
        normalise: tuple[Sequence[float], Sequence[float]],
        num_classes: int,
        num_frames: int,
        frame_size: int,
        width: int,
        clip_seconds: float,
        class_names: list[str] | None,
    ) -> None:
        """`normalise` is mean and standard deviation of RGB pixels (0 to 1); see the subclasses for the rest."""
        super().__init__()
        lowest = {"num_classes": (num_classes, 1), "num_frames": (num_frames, 1), "frame_size": (frame_size, 32)}
        for name, (value, least) in (lowest | {"width": (width, 1)}).items():
            if value < least:
                raise BaselineError(f"{type(self).__name__}: {name} must be at least {least}; got {value}")
        if class_names is not None and len(class_names) != num_classes:
            raise BaselineError(f"{len(class_names)} class names for num_classes={num_classes}")
        self.num_classes, self.num_frames, self.frame_size = num_classes, num_frames, frame_size
        self.clip_seconds = clip_seconds
        self.class_names = [str(name) for name in class_names] if class_names is not None else None
        for name, values in zip(("mean", "std"), normalise, strict=True):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1), persistent=False)

    if TYPE_CHECKING:  # A torch module's call has no types.

        def __call__(self, *inputs: Tensor) -> student.Output: ...

    def pixels(self, frames: Tensor) -> Tensor:
        """Return normalised frames, float [B, N, 3, H, W].

        Args:
            frames: RGB as the store returns them, uint8 [B, N, 3, H, W]; others raise BaselineError.
        """
        student.require_tensor("frames", frames)
        if frames.ndim != 5 or frames.shape[1:3] != (self.num_frames, 3) or frames.dtype != torch.uint8:
            raise BaselineError(
                f"{type(self).__name__} reads frames as uint8 [batch, {self.num_frames}, 3, height, width]; got "
                f"{student.describe(frames)}. Pass them as the store returns them, not normalised"
            )
        return (frames.float() - self.mean) / self.std

    def save(self, path: str | os.PathLike) -> None:
        """Write one self-contained file for `load()`; the file is complete or absent.

        Args:
            path: The file to write.
        """
        checkpoints.save_model(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Baseline:
        """Return the model that `save()` wrote, in evaluation mode, on the CPU.

        Args:
            path: The model file.

        Raises:
            EgoDistillOSError: If the file does not exist.
            EgoDistillError: If it is damaged or does not fit.
        """
        if hasattr(cls, "file_class"):
            return checkpoints.load_model(path, cls)
        from . import adafuse, listen_to_look, stts  # noqa: F401  (register their classes)

        model = models.load_any(path)
        if not isinstance(model, Baseline):
            raise EgoDistillError(f"{path} contains no baseline; read it with {type(model).__name__}.load()")
        return model

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any], class_names: list[str] | None) -> Baseline:
        """Return a model with random weights, for `load()`.

        Args:
            arguments: Arguments of the constructor by name.
            class_names: C names, or None.
        """
        return cls(**arguments, class_names=class_names, weights=None)


def require_choices(model: nn.Module, **options: tuple[str, tuple[str, ...]]) -> None:
    """Raise BaselineError if an option, {name: (value, choices)}, is not one of its choices."""
    for name, (value, choices) in options.items():
        if value not in choices:
            raise BaselineError(f"{type(model).__name__}: {name} must be one of {choices}; got {value!r}")


def load_pretrained(weights: student.Weights, keyword: str, published: str, head: str) -> tuple[dict[str, Tensor], str]:
    """Return weights without the classifier, whose keys start with `head`, and their name for error messages.

    If `weights` is `keyword`, torchvision downloads the weights called `published`.
    """
    if isinstance(weights, str) and weights == keyword:
        from torchvision import models

        state = image_encoders.download_weights(models.get_weight(published), published)
        source = f"torchvision's {published}"
    else:
        state = checkpoints.read_weights(weights)
        source = "the given weights" if isinstance(weights, Mapping) else f"the file {weights}"
    return {key: value for key, value in state.items() if not key.startswith(head)}, source


def build_resnet(
    block: type[student.BasicBlock | student.Bottleneck], depths: Sequence[int], width: int, **options: int
) -> student.ResNet:
    """Return a ResNet. Raise BaselineError if the depths do not fit."""
    try:
        return student.ResNet(block, depths, width, **options)
    except ValueError as error:
        raise BaselineError(str(error)) from error


def half_size(side: int) -> int:
    """Return the size after a convolution or a pool with stride 2."""
    return (side + 1) // 2
