"""The weights that an image network begins with: downloaded, of a file, or given; strict, with what does not fit.

    from egodistill.engine import image_weights

    image_weights.load_image_weights(network, "resnet18", "imagenet", head="fc")   # or a file, or a state dict

In a copy of student.py alone, torch reads and checks them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..student import Weights, published_weights
from .checkpoints import read_tensors

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

__all__ = ["DownloadError", "download_weights", "load_image_weights"]


class DownloadError(ValueError):
    """Published weights could not be downloaded; `problem` is the message without the last way out."""

    def __init__(self, problem: str, way_out: str) -> None:
        super().__init__(f"{problem}, or {way_out}")
        self.problem = problem


def download_weights(published: WeightsEnum, name: str, random: str = "None") -> Mapping[str, Tensor]:
    """Return weights of torchvision. Raise DownloadError if they cannot be downloaded.

    `name`, which weights they are, and `random`, how to ask for random weights, are for the message.
    """
    try:
        return published.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: its hash differs
        reason = getattr(error, "reason", error)  # of urllib: an error of the operating system, or a text
        raise DownloadError(
            f"{name} could not be downloaded ({getattr(reason, 'strerror', None) or reason}). Without a network "
            f"connection, bring {published.url} to {os.path.join(torch.hub.get_dir(), 'checkpoints')}",
            f"give a path to it instead of the name, or {random} for random weights",
        ) from error


def load_image_weights(encoder: nn.Module, name: str, weights: Weights, head: str) -> None:
    """Load the ImageNet weights of a network, a file or a state dict, into it without its classifier `head`.

    Raise ValueError if they cannot be downloaded or read, or if names or shapes of the other weights differ.
    """
    source = "the image weights"
    if isinstance(weights, str) and weights == "imagenet":
        if name.startswith("resnet10x"):
            raise ValueError(
                f"image_encoder={name!r} (--image-encoder) has no ImageNet weights; give image_weights=None "
                f"(--image-weights none) or a file"
            )
        way_out = "image_weights=None (--image-weights none)"
        weights = download_weights(published_weights(name), f"the ImageNet weights of {name}", way_out)
    if not isinstance(weights, Mapping):
        if not isinstance(weights, (str, os.PathLike)):
            what = "'imagenet', a file, a state dict, or None for random weights"
            raise ValueError(f"image_weights must be {what}; got {weights!r}")
        source = f"the image weights {weights}"
        try:
            weights = read_tensors(weights)
        except ValueError as error:
            hint = "" if os.path.exists(weights) else "; give 'imagenet', a file, or None for random weights"
            raise ValueError(f"{source} cannot be read: {error}{hint}") from error
    if str(weights.get("format")).startswith("egodistill"):
        raise ValueError(
            f"{source} are a file of this library, not weights of an image network. For a student's encoder, give "
            f"image_weights=None, then model.image_encoder.load_state_dict(STUDENT.image_encoder.state_dict())"
        )
    own = encoder.state_dict()
    state = {key: value for key, value in weights.items() if not key.startswith(f"{head}.")}
    # Files from before 2018 have no num_batches_tracked; batch norm does not use it at its default momentum.
    faults = [f"missing {key}" for key in own if key not in state and not key.endswith("num_batches_tracked")]
    faults += [f"unexpected {key}" for key in state if key not in own]
    shapes = {key: (list(state[key].shape), list(own[key].shape)) for key in own if key in state}
    faults += [f"{key} {found} for {wanted}" for key, (found, wanted) in shapes.items() if found != wanted]
    if faults:
        more = f"; and {len(faults) - 6} more" if len(faults) > 6 else ""
        raise ValueError(f"{source} do not fit this {type(encoder).__name__}: {'; '.join(faults[:6])}{more}")
    encoder.load_state_dict(own | state)
