"""Video classifiers of torchvision: normalised clip -> (feature, logits), and the file of their weights.

    from egodistill.engine.torchvision_teachers import PUBLISHED, TorchvisionVideo, weights_file

    net = TorchvisionVideo(400, architecture="swin3d_t")    # with random weights
    feature, logits = net(clip)                             # float [B, 3, 32, 256, 256] -> [B, 768] and [B, 400]
    weights_file("swin3d_t")                                # downloaded once, by torchvision

The networks are torchvision's own. `egodistill.teachers.load("swin3d_t", "torchvision")` makes a teacher of one. What
torchvision's metadata say about them is repeated here, because importing its networks takes as long as importing torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..video_i3d import I3D, centre_square, check_clip, record_arguments
from . import image_encoders

__all__ = ["LAYOUTS", "PUBLISHED", "TorchvisionVideo", "weights_file"]


class TorchvisionVideo(nn.Module):
    """A video classifier of torchvision whose last layer is separate: its input is the feature.

    The architecture is a name in `torchvision.models.video`. It has C = `num_classes` and reads clips of T = `frames`
    of `size` pixels, of each side only the share `centre`: torchvision resizes a video and then reads its centre, 224
    of 256 pixels or 112 of 128, and the clips of `PUBLISHED` have the size before. mvit_v2_s reads 16 frames of 224
    pixels only, s3d 5 of 17 pixels or more. Raise ValueError if an argument or a clip does not fit.

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
        from torchvision import models

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
        """Return feature [B, D] and logits [B, C] of a normalised clip, float [B, 3, T, H, W]."""
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

    Raise DownloadError of `image_encoders` if it cannot be downloaded.
    """
    from torchvision import models

    weights = models.get_model_weights(architecture)["DEFAULT"]
    path = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    if not path.is_file():
        image_encoders.download_weights(weights, f"torchvision's weights of {architecture}")
    return path


# ---------------------------------------------------------------------------------------------------------------
# Published models and the names of their weights


def published(
    architecture: str,
    frames: int,
    size: int,
    *released: str,
    rate: float = 15.0,
    licence: str = "BSD-3-Clause",
    mean: tuple[float, ...] = (0.43216, 0.394666, 0.37645),
    std: tuple[float, ...] = (0.22803, 0.22145, 0.216989),
) -> dict[str, Any]:
    """Return an entry of PUBLISHED: a model of clips with `rate` frames per second, and the files of its weights."""
    return {
        "network": TorchvisionVideo,
        "num_classes": 400,
        "clip": {"frames": frames, "size": size, "seconds": frames / rate, "mean": mean, "std": std},
        "released": released,
        "options": {"architecture": architecture, "centre": 0.875},
        "source": "torchvision",
        "licence": licence,
        "obtain": "download.pytorch.org/models/NAME",
        "torchvision": architecture,
    }


# From the metadata of torchvision's weights: frames, size before the crop, files, the default weights first; frame rate
# (as for accuracies on Kinetics-400), mean and std. The licence is that of the code that the weights are from, which
# "recipe" there names: torchvision, Video-Swin-Transformer (from memory), PySlowFast.
SWIN = {"licence": "Apache-2.0", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
MVIT = {"licence": "Apache-2.0", "mean": (0.45,) * 3, "std": (0.225,) * 3, "rate": 7.5}
PUBLISHED = {
    "swin3d_t": published("swin3d_t", 32, 256, "swin3d_t-7615ae03.pth", **SWIN),
    "swin3d_s": published("swin3d_s", 32, 256, "swin3d_s-da41c237.pth", **SWIN),
    "swin3d_b": published("swin3d_b", 32, 256, "swin3d_b_1k-24f7c7c6.pth", "swin3d_b_22k-7c6ae6fa.pth", **SWIN),
    "mvit_v2_s": published("mvit_v2_s", 16, 256, "mvit_v2_s-ae3be167.pth", **MVIT),
    "s3d": published("s3d", 128, 256, "s3d-d76dad2f.pth"),
    "r3d_18": published("r3d_18", 16, 128, "r3d_18-b3b3357e.pth"),
    "mc3_18": published("mc3_18", 16, 128, "mc3_18-a90a0ba3.pth"),
    "r2plus1d_18": published("r2plus1d_18", 16, 128, "r2plus1d_18-91a641e6.pth"),
}

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
