"""Video classifiers of torchvision: normalised clip -> (feature, logits), and the file of their weights.

    from egodistill.engine.torchvision_teachers import PUBLISHED, TorchvisionVideo, weights_file

    net = TorchvisionVideo(400, architecture="swin3d_t")    # with random weights
    feature, logits = net(clip)                             # float [B, 3, 32, 256, 256] -> [B, 768] and [B, 400]
    weights_file("swin3d_t")                                # downloaded once, by torchvision

The networks are torchvision's own. `egodistill.teachers.load("swin3d_t", "torchvision")` makes a teacher of one. Their
mean, std, crop and classes come from the metadata of torchvision's weights; `CLIPS` has what these lack.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from .. import student
from ..video_i3d import I3D, centre_square, check_clip, record_arguments

__all__ = ["LAYOUTS", "PUBLISHED", "TorchvisionVideo", "weights_file"]

# {model: (frames of a clip, frames per second, licence)}. The first two are in the text "_docs" of the weights'
# metadata (`clip_len`, `frame_rate`), for accuracies on Kinetics-400. The licence is that of the code that the weights
# are from, which "recipe" there names: torchvision, Video-Swin-Transformer (from memory), PySlowFast.
CLIPS = {
    "swin3d_t": (32, 15.0, "Apache-2.0"),
    "swin3d_s": (32, 15.0, "Apache-2.0"),
    "swin3d_b": (32, 15.0, "Apache-2.0"),
    "mvit_v2_s": (16, 7.5, "Apache-2.0"),
    "s3d": (128, 15.0, "BSD-3-Clause"),
    "r3d_18": (16, 15.0, "BSD-3-Clause"),
    "mc3_18": (16, 15.0, "BSD-3-Clause"),
    "r2plus1d_18": (16, 15.0, "BSD-3-Clause"),
}


class TorchvisionVideo(nn.Module):
    """A video classifier of torchvision whose last layer is separate: its input is the feature.

    Args:
        num_classes: C, the number of classes.
        architecture: Its name in `torchvision.models.video`.
        frames: T, the frames of its clips. mvit_v2_s reads 16 of 224 pixels only, s3d 5 of 17 pixels or more.
        size: Side of its clips in pixels.
        centre: Share of the side that is read, around the centre. torchvision resizes a video and then reads its
            centre, 224 of 256 pixels or 112 of 128: the clips of `PUBLISHED` have the size before.

    Raises:
        ValueError: An argument or a clip does not fit.

    >>> import torch
    >>> from egodistill.engine.torchvision_teachers import TorchvisionVideo
    >>> net = TorchvisionVideo(8, architecture="mc3_18").eval()
    >>> feature, logits = net(torch.randn(2, 3, 4, 32, 32))
    >>> feature.shape, logits.shape
    (torch.Size([2, 512]), torch.Size([2, 8]))
    """

    classifier = "head"
    classifiers = (classifier,)  # possible names of the classifier in a state dict
    options_from = staticmethod(I3D.options_from)  # none: its checkpoints fix no options, either

    @record_arguments
    def __init__(
        self, num_classes: int, *, architecture: str, frames: int = 16, size: int = 256, centre: float = 0.875
    ) -> None:
        super().__init__()
        self.centre, side = centre, round(size * centre)
        for prefix, fits, needed in (
            ("", 0 < centre <= 1, "a centre above 0 and at most 1"),
            ("mvit", (frames, side) == (16, 224), "frames=16 and size=256, or size=224 and centre=1"),
            ("s3d", frames >= 5 and side >= 17, "5 frames or more, and 17 pixels or more in the centre"),
        ):
            if architecture.startswith(prefix) and not fits:
                raise ValueError(f"{architecture} needs {needed}; got frames={frames}, size={size}, centre={centre}")
        self.trunk = models.get_model(architecture, weights=None, num_classes=num_classes)
        name, last = [(n, m) for n, m in self.trunk.named_modules() if isinstance(m, (nn.Linear, nn.Conv3d))][-1]
        parent, _, leaf = name.rpartition(".")
        setattr(self.trunk.get_submodule(parent), leaf, nn.Identity())
        self.feature_dim = last.weight.shape[1]
        # The last layer of S3D is a 1x1x1 convolution before a mean over positions: the same as a linear one after it.
        self.head = last if isinstance(last, nn.Linear) else nn.Linear(self.feature_dim, num_classes)
        if architecture == "s3d":
            self.trunk.avgpool = Pool((2, 7, 7), stride=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return feature [B, D] and logits [B, C] of a clip.

        Args:
            x: A normalised clip, float [B, 3, T, H, W].
        """
        check_clip(x)
        feature = self.trunk(centre_square(x, round(x.shape[-1] * self.centre)))
        return feature, self.head(feature)


class Pool(nn.AvgPool3d):
    """An average pool that takes the mean of the whole map where the map is smaller than its kernel."""

    def forward(self, input: Tensor) -> Tensor:
        kernel = [min(size, side) for size, side in zip(self.kernel_size, input.shape[2:], strict=True)]
        return F.avg_pool3d(input, kernel, self.stride)


def weights_file(architecture: str) -> Path:
    """Return the file in torchvision's cache with its default weights of a model, which is downloaded if it is absent.

    Args:
        architecture: The model's name in `torchvision.models.video`.

    Raises:
        DownloadError: Of `student`, if it cannot be downloaded.
    """
    weights = models.get_model_weights(architecture)["DEFAULT"]
    path = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    if not path.is_file():
        student.download_weights(weights, f"torchvision's weights of {architecture}")
    return path


# ---------------------------------------------------------------------------------------------------------------
# Published models and the names of their weights


def published(architecture: str) -> dict[str, Any]:
    """Return the entry of a model in PUBLISHED, with the metadata of its default weights."""
    frames, rate, licence = CLIPS[architecture]
    every = models.get_model_weights(architecture)
    best = every["DEFAULT"]
    preset = best.transforms()
    clip = {"frames": frames, "size": preset.resize_size[0], "seconds": frames / rate}
    return {
        "network": TorchvisionVideo,
        "num_classes": len(best.meta["categories"]),
        "clip": clip | {"mean": tuple(preset.mean), "std": tuple(preset.std)},
        "released": tuple(Path(one.url).name for one in (best, *(one for one in every if one is not best))),
        "options": {"architecture": architecture, "centre": preset.crop_size[0] / preset.resize_size[0]},
        "source": "torchvision",
        "licence": licence,
        "obtain": "download.pytorch.org/models/NAME",
        "torchvision": architecture,
    }


PUBLISHED = {name: published(name) for name in CLIPS if name in models.list_models(module=models.video)}

# The names of the weights in torchvision's files; those of its first MViT are in `video_transformers`.
LAYOUTS: tuple[dict[str, Any], ...] = (
    {
        "network": TorchvisionVideo,
        "source": "torchvision",
        "marker": r"features\.\d+\.(\d+\.attn\.relative_position_bias_table|branch\d\.)"  # Swin, S3D
        r"|layer1\.0\.conv1\.0\.|blocks\.0\.attn\.pool_q\.norm_act\.",  # ResNets, MViTv2
        "rules": ((r"^(fc|head|head\.1|classifier\.1)\.(?=weight$|bias$)", "head."), (r"^(?!head\.)", "trunk.")),
        "axes": {r"head\.weight": (0, 1)},
    },
)
