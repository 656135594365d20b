"""Image networks of torchvision by name, and the weights that one begins with: downloaded, of a file, or given.

    from egodistill.engine import image_encoders

    image_encoders.IMAGE_ENCODERS                           # {name: side of its frames in pixels}
    network, dim = image_encoders.build_torchvision_encoder("mobilenet_v2", "imagenet")    # without its classifier
    image_encoders.load_image_weights(network, "resnet18", "imagenet", head="fc")   # or a file, or a state dict

The ResNets are those of student.py. In a copy of it alone, torch reads and checks their weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .checkpoints import read_tensors

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

    IMAGE_ENCODERS: dict[str, int]

__all__ = [
    "IMAGE_ENCODERS",
    "UNFIT_ENCODERS",
    "DownloadError",
    "build_torchvision_encoder",
    "download_weights",
    "load_image_weights",
    "preprocessing",
    "published_weights",
]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of RGB, as in student.py
Weights = str | os.PathLike | Mapping[str, Tensor] | None
# Networks that do not work here, and why.
UNFIT_ENCODERS = {
    "googlenet": "its training needs the classifiers, which are removed here",
    "inception_v3": "its training needs the classifiers, which are removed here",
    "maxvit_t": "it pools in its classifier, which is removed here, and reads frames of one size only",
    "regnet_y_128gf": "its weights need frames of 384 pixels",
    "vit_h_14": "its weights need frames of 518 pixels",
}


def __getattr__(name: str) -> dict[str, int]:
    """Return `IMAGE_ENCODERS`: {network of torchvision: side in pixels of the frames its ImageNet weights are for}."""
    if name != "IMAGE_ENCODERS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from torchvision import models  # only where it is needed: that takes as long as the import of torch

    return {name: preprocessing(name)[0] for name in models.list_models(module=models) if name not in UNFIT_ENCODERS}


def preprocessing(name: str) -> tuple[int, Sequence[float], Sequence[float]]:
    """Return side in pixels, mean and standard deviation (RGB, 0 to 1) of frames for a network's ImageNet weights."""
    from torchvision import models

    options = models.get_model_weights(name)["DEFAULT"].transforms.keywords
    return options["crop_size"], options.get("mean", IMAGENET[0]), options.get("std", IMAGENET[1])


def build_torchvision_encoder(name: str, weights: Weights) -> tuple[nn.Module, int]:
    """Return a network of torchvision without its classifier, [B, 3, H, W] -> [B, d], and d."""
    from torchvision import models

    encoder = models.get_model(name, weights=None)
    head = next((head for head in ("fc", "classifier", "head", "heads") if hasattr(encoder, head)), None)
    if head is None:
        raise ValueError(f"image_encoder={name!r}: no classifier called fc, classifier, head or heads to remove")
    # SqueezeNet pools after its classifier, a convolution; the others pool before it.
    pools = any(isinstance(layer, nn.Conv2d) for layer in getattr(encoder, head).modules())
    setattr(encoder, head, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()) if pools else nn.Identity())
    encoder.to(memory_format=torch.channels_last)
    with torch.no_grad():
        dim = encoder.eval()(torch.zeros(1, 3, 224, 224)).flatten(1).shape[1]
    if weights is not None:
        load_image_weights(encoder, name, weights, head)
    return nn.Sequential(encoder.train(), nn.Flatten()), dim  # some return a pooled map, [B, d, 1, 1]


class DownloadError(ValueError):
    """Published weights could not be downloaded; `problem` is the message without the last way out."""

    def __init__(self, problem: str, way_out: str) -> None:
        super().__init__(f"{problem}, or {way_out}")
        self.problem = problem


def published_weights(name: str) -> Any:
    """Return torchvision's ImageNet weights of a network; for the paper's ResNet-18, always those of its time."""
    from torchvision import models

    return models.get_model_weights(name)["IMAGENET1K_V1" if name == "resnet18" else "DEFAULT"]


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
