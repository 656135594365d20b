"""Convolutional video networks SlowFast and X3D: normalised clip -> (feature, logits).

    from egodistill.video_convnets import PUBLISHED, SlowFast, X3D

    net = SlowFast(400)                                     # the published 8x8 ResNet-50, with random weights
    feature, logits = net(clip)                             # float [B, 3, 32, 224, 224] -> [B, 2304] and [B, 400]
    net = X3D(5, width=8, depth_factor=0.5, pool=2)         # a small one
    PUBLISHED["x3d_m"]["clip"]                              # frames, size, seconds, mean and std of its clips

Outputs equal those of the authors' code. Parameters are named as in PySlowFast; `LAYOUTS` has the names of other code
bases. `egodistill.teachers.load()` reads their files. No network applies a softmax. Costs are multiply-adds, half of
what torch's FlopCounterMode counts. This file can be copied alone: it needs torch only.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LAYOUTS", "PUBLISHED", "X3D", "SlowFast"]


# ---------------------------------------------------------------------------------------------------------------
# Also in video_transformers.py and video_i3d.py, because each of these files can be copied alone


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


class Conv3d(nn.Conv3d):
    """Conv3d that trains in mixed precision on CPUs without torch's 3-D kernels in bf16.

    On processors with AMX, those of torch 2.13 compute wrong weight gradients for many shapes, of values that nobody
    wrote, and write beyond their memory (docs/log.md). A kernel of one frame, or of one pixel, is a 2-D convolution,
    which is right and as fast. Other kernels and groups train in fp32, since in bf16 the backward pass of groups takes
    2 to 6 times as long; `convolve_by_frame()` takes a fifth to a half of the time of fp32 without a stride in space,
    and with such a stride less time on one or two frames, and up to 2.5 times as long on many.
    """

    def forward(self, x: Tensor) -> Tensor:
        trained = torch.is_grad_enabled() and self.weight.requires_grad
        if not (trained and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")):
            return super().forward(x)
        kernel, stride, padding = self.kernel_size, self.stride, self.padding
        if self.groups == 1 and (kernel[0], stride[0], padding[0]) == (1, 1, 0):
            y = F.conv2d(x.transpose(1, 2).flatten(0, 1), self.weight[:, :, 0], self.bias, stride[1:], padding[1:])
            return y.unflatten(0, (len(x), -1)).transpose(1, 2)
        if self.groups == 1 and kernel[1:] + stride[1:] + padding[1:] == (1, 1, 1, 1, 0, 0):
            y = F.conv2d(x.flatten(3), self.weight.flatten(3), self.bias, (stride[0], 1), (padding[0], 0))
            return y.unflatten(3, x.shape[3:])
        with torch.autocast("cpu", enabled=False):
            x = x.to(self.weight.dtype)
            pays = kernel[1] > 1 and (stride[1] == 1 or x.shape[2] <= 2)
            if self.groups > 1 and self.bias is None and pays:
                return convolve_by_frame(x, self.weight, stride, padding, self.groups)
            return super().forward(x)


def convolve_by_frame(
    x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...], groups: int
) -> Tensor:
    """Return a 3-D convolution as a sum of 2-D ones, one per step of the kernel in time."""
    size, step, before = weight.shape[2], stride[0], padding[0]
    length = x.shape[2]
    count = (length + 2 * before - size) // step + 1  # of frames in the result
    frames = x.permute(2, 0, 1, 3, 4).contiguous()  # [T, B, C, H, W]
    parts = []
    for k in range(size):
        first = max(0, math.ceil((before - k) / step))  # Frames outside of [first, stop) see padding alone.
        stop = min(count, (length - 1 + before - k) // step + 1)
        if first < stop:
            start = first * step + k - before
            seen = frames[start : start + (stop - first - 1) * step + 1 : step]
            part = F.conv2d(seen.flatten(0, 1), weight[:, :, k], None, stride[1:], padding[1:], 1, groups)
            part = part.unflatten(0, seen.shape[:2])
            parts.append(F.pad(part, (0,) * 8 + (first, count - stop)) if len(part) < count else part)
    return sum(parts[1:], parts[0]).permute(1, 2, 0, 3, 4)


# ---------------------------------------------------------------------------------------------------------------
# Parts of both networks


def conv(
    channels: tuple[int, int],
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1),
    groups: int = 1,
) -> nn.Conv3d:
    """Return a convolution that keeps the size at stride 1, without bias because batch norm follows."""
    padding = tuple(size // 2 for size in kernel)
    return Conv3d(*channels, kernel, stride, padding, groups=groups, bias=False)


def channels_last(layer: nn.Conv3d) -> bool:
    """Return whether a layer's weight has the memory format channels_last_3d, and not also the default one."""
    weight = layer.weight
    return weight.is_contiguous(memory_format=torch.channels_last_3d) and not weight.is_contiguous()


def average_pool(x: Tensor, side: int) -> Tensor:
    """Average [B, C, T, H, W] over time, and over squares of `side` with stride 1: [B, C, h, w].

    A map smaller than the square is averaged completely.
    """
    x = x.mean(2)
    return F.avg_pool2d(x, (min(side, x.shape[2]), min(side, x.shape[3])), stride=1)


def initialise(net: nn.Module) -> None:
    """Initialise weights: He et al. 2015 for convolutions, and zeros at the end of residual branches.

    Without these zeros (Goyal et al. 2017), training of deep networks diverges in the first steps.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, (Bottleneck, X3DBlock)):
            nn.init.zeros_(module.get_parameter("branch2.c_bn.weight"))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


# ---------------------------------------------------------------------------------------------------------------
# SlowFast (Feichtenhofer et al., "SlowFast Networks for Video Recognition", ICCV 2019)

FUSION_RATIO = 2  # a fusion passes twice the fast channels to the slow pathway (section 3.4 of that paper)
EXPANSION = 4  # output channels of a bottleneck per inner channel, as in every ResNet-50
POOL = 7  # side of the last average pool: that of the last map for a 224-pixel crop, at a stride of 32


class SlowFast(nn.Module):
    """A network with two pathways over one clip: few frames with many channels, and many frames with few channels.

    The defaults are the published 8x8 ResNet-50 (34.6 M parameters at 400 classes, 50.3 G multiply-adds at 224 pixels,
    a feature of 2304 values). Parameters are named as in PySlowFast (pathway 0 is the slow one), so `state_dict()` has
    the layout of its released files. Kernel sizes must be odd, because an even one would shift the pathways against
    each other.

    Args:
        num_classes: C, the number of classes.
        frames: T, number of frames of the clip, all read by the fast pathway.
        alpha: The slow pathway reads T / alpha frames; alpha must divide T.
        width: Channels of the slow stem; the feature has 32 * (width + width / beta) values.
        beta: The fast pathway has width / beta channels.
        depths: Number of bottleneck blocks in the stages s2 to s5.
        stem_time_kernels: Temporal kernel sizes of the first convolutions, slow and fast.
        slow_time_kernels: Temporal kernel sizes of the first convolution of a slow block, s2 to s5.
        fast_time_kernels: Temporal kernel sizes of the first convolution of a fast block, s2 to s5.
        fusion_kernel: Temporal kernel size of the convolutions from the fast to the slow pathway.
        stem_size: Spatial kernel size of the first convolutions.
        dropout: Dropout rate of the feature, before the classifier.

    Raises:
        ValueError: An argument or a clip does not fit.

    >>> import torch
    >>> from egodistill.video_convnets import SlowFast
    >>> net = SlowFast(8, frames=8, width=8, depths=(1, 1, 1, 1)).eval()
    >>> feature, logits = net(torch.randn(2, 3, 8, 64, 64))
    >>> feature.shape, logits.shape
    (torch.Size([2, 288]), torch.Size([2, 8]))
    """

    classifier = "head.projection"
    classifiers = (classifier,)  # possible names of the classifier in a state dict

    @record_arguments
    def __init__(
        self,
        num_classes: int,
        *,
        frames: int = 32,
        alpha: int = 4,
        width: int = 64,
        beta: int = 8,
        depths: Sequence[int] = (3, 4, 6, 3),
        stem_time_kernels: Sequence[int] = (1, 5),
        slow_time_kernels: Sequence[int] = (1, 1, 3, 3),
        fast_time_kernels: Sequence[int] = (3, 3, 3, 3),
        fusion_kernel: int = 7,
        stem_size: int = 7,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if min(frames, alpha, width, beta) < 1:
            raise ValueError(f"frames={frames}, alpha={alpha}, width={width} and beta={beta} must be at least 1")
        if frames % alpha:
            raise ValueError(
                f"alpha={alpha} does not divide frames={frames}: the slow pathway reads frames / alpha of them"
            )
        if width % beta:
            raise ValueError(f"beta={beta} does not divide width={width}: the fast pathway has width / beta channels")
        for name, values, count, whose in (
            ("depths", depths, 4, "s2 to s5"),
            ("stem_time_kernels", stem_time_kernels, 2, "the slow and the fast pathway"),
            ("slow_time_kernels", slow_time_kernels, 4, "s2 to s5"),
            ("fast_time_kernels", fast_time_kernels, 4, "s2 to s5"),
        ):
            if len(values) != count or min(values) < 1:
                raise ValueError(f"{name} is {tuple(values)}; it must be {count} numbers of at least 1, for {whose}")
        kernels = (*stem_time_kernels, *slow_time_kernels, *fast_time_kernels, fusion_kernel)
        if not all(kernel > 0 and kernel % 2 for kernel in (*kernels, stem_size)):
            raise ValueError(
                f"kernel sizes must be odd and positive; stem_size={stem_size}, the temporal ones {kernels}"
            )
        self.frames = frames
        self.slow_index = slow_index(frames, alpha)

        slow, fast = width, width // beta
        self.s1 = nn.ModuleDict(
            {
                "pathway0_stem": stem(slow, stem_time_kernels[0], stem_size),
                "pathway1_stem": stem(fast, stem_time_kernels[1], stem_size),
            }
        )
        self.s1_fuse = Fusion(fast, fusion_kernel, alpha)
        for number in range(4):
            inner = (width * 2**number, width // beta * 2**number)
            stage = Stage(
                inputs=(slow + FUSION_RATIO * fast, fast),
                inner=inner,
                time_kernels=(slow_time_kernels[number], fast_time_kernels[number]),
                depth=depths[number],
                stride=1 if number == 0 else 2,
            )
            self.add_module(f"s{number + 2}", stage)
            slow, fast = inner[0] * EXPANSION, inner[1] * EXPANSION
            if number < 3:
                self.add_module(f"s{number + 2}_fuse", Fusion(fast, fusion_kernel, alpha))
        self.feature_dim = slow + fast
        self.head = SlowFastHead(self.feature_dim, num_classes, dropout)
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return feature [B, D] and logits [B, C] of a clip.

        A crop larger than 224 pixels has several positions (see `positions()`), over which feature and logits are
        averaged.

        Args:
            x: A normalised clip, float [B, 3, T, H, W].
        """
        feature, logits = self.positions(x)
        return feature.mean((1, 2)), logits.mean((1, 2))

    def positions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return feature [B, h, w, D] and logits [B, h, w, C] of a clip.

        h x w are the positions of a 7 x 7 average pool with stride 1 on the last map: 1 x 1 up to 224 pixels (the map
        of a smaller crop is averaged completely), 2 x 2 at 256.

        Args:
            x: A normalised clip, float [B, 3, T, H, W].
        """
        check_clip(x, self.frames)
        # Use the weights' memory format, or else each layer converts its input.
        if channels_last(self.s1["pathway0_stem"].conv):
            x = x.contiguous(memory_format=torch.channels_last_3d)
        slow = x.index_select(2, torch.tensor(self.slow_index, device=x.device))
        slow, fast = self.s1["pathway0_stem"](slow), self.s1["pathway1_stem"](x)
        slow, fast = self.s2(self.s1_fuse(slow, fast), fast)
        slow, fast = self.s3(self.s2_fuse(slow, fast), fast)
        slow, fast = self.s4(self.s3_fuse(slow, fast), fast)
        slow, fast = self.s5(self.s4_fuse(slow, fast), fast)
        return self.head(slow, fast)

    @staticmethod
    def options_from(weights: Mapping[str, Any], source: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that are read from a checkpoint: none.

        Args:
            weights: The checkpoint's weights, under this network's names.
            source: Its layout, as in `LAYOUTS`.
            options: Options that are given or published.
        """
        return {}


def slow_index(frames: int, alpha: int) -> tuple[int, ...]:
    """Return the frames of the slow pathway: linspace(0, T - 1, T / alpha), truncated.

    PySlowFast uses these, not every alpha-th frame. For 32 frames and alpha 4 they are 0, 4, 8, 13, 17, 22, 26, 31.
    """
    count = frames // alpha
    return (0,) if count == 1 else tuple(i * (frames - 1) // (count - 1) for i in range(count))


def stem(channels: int, time_kernel: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=conv((3, channels), (time_kernel, size, size), (1, 2, 2)),
            bn=nn.BatchNorm3d(channels),
            relu=nn.ReLU(inplace=True),
            pool=nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
    )


class Fusion(nn.Module):
    """A lateral connection: the slow channels, and after them those of the fast pathway at the slow frame rate."""

    def __init__(self, fast: int, kernel: int, alpha: int) -> None:
        super().__init__()
        channels = (fast, FUSION_RATIO * fast)
        self.conv_f2s = conv(channels, (kernel, 1, 1), (alpha, 1, 1))
        self.bn = nn.BatchNorm3d(channels[1])

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        return torch.cat([slow, F.relu(self.bn(self.conv_f2s(fast)), inplace=True)], 1)


class Bottleneck(nn.Module):
    def __init__(self, into: int, inner: int, time_kernel: int, stride: int, first: bool) -> None:
        super().__init__()
        out = inner * EXPANSION
        self.branch1: nn.Module | None = None
        if first:  # each stage projects its first shortcut, even if the size does not change
            self.branch1 = conv((into, out), (1, 1, 1), (1, stride, stride))
            self.branch1_bn = nn.BatchNorm3d(out)
        self.branch2 = nn.Sequential(
            OrderedDict(
                a=conv((into, inner), (time_kernel, 1, 1)),
                a_bn=nn.BatchNorm3d(inner),
                a_relu=nn.ReLU(inplace=True),
                b=conv((inner, inner), (1, 3, 3), (1, stride, stride)),
                b_bn=nn.BatchNorm3d(inner),
                b_relu=nn.ReLU(inplace=True),
                c=conv((inner, out), (1, 1, 1)),
                c_bn=nn.BatchNorm3d(out),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.branch1 is None else self.branch1_bn(self.branch1(x))
        return F.relu(self.branch2(x).add_(shortcut), inplace=True)


class Stage(nn.Module):
    """A stage with `depth` blocks for each pathway; pairs are (slow, fast)."""

    def __init__(
        self,
        *,
        inputs: tuple[int, int],
        inner: tuple[int, int],
        time_kernels: tuple[int, int],
        depth: int,
        stride: int,
    ) -> None:
        super().__init__()
        self.depth = depth
        for pathway in range(2):
            channels = (inputs[pathway], inner[pathway])
            for i in range(depth):
                block = Bottleneck(*channels, time_kernels[pathway], stride if i == 0 else 1, i == 0)
                self.add_module(f"pathway{pathway}_res{i}", block)
                channels = (inner[pathway] * EXPANSION, inner[pathway])

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        for i in range(self.depth):
            slow = getattr(self, f"pathway0_res{i}")(slow)
            fast = getattr(self, f"pathway1_res{i}")(fast)
        return slow, fast


class SlowFastHead(nn.Module):
    def __init__(self, feature_dim: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(feature_dim, num_classes)

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        maps = [average_pool(x, POOL) for x in (slow, fast)]
        feature = torch.cat(maps, 1).permute(0, 2, 3, 1)  # [B, h, w, D]
        return feature, self.projection(self.dropout(feature))


# ---------------------------------------------------------------------------------------------------------------
# X3D (Feichtenhofer, "X3D: Expanding Architectures for Efficient Video Recognition", CVPR 2020)


class X3D(nn.Module):
    """A narrow network of depthwise space-time convolutions.

    The defaults are the published X3D-M (3.8 M parameters at 400 classes, 4.7 G multiply-adds for 16 frames of 224
    pixels, a feature of 2048 values); XS and S are the same network for fewer frames and pixels, L is deeper.
    Parameters are named as in PySlowFast.

    Args:
        num_classes: C, the number of classes.
        width: Channels of the stem and of the stage s2; each further stage doubles them.
        depth_factor: The stages have 1, 2, 5 and 3 times this number of blocks, rounded up.
        bottleneck: Channels inside a block, as a multiple of its output channels.
        feature_dim: D, the size of the feature.
        pool: Side of the last average pool, 1/32 of the crop on which the network was trained; larger crops have
            several positions (see `positions()`).
        first_shortcut_norm: Use batch norm on the first shortcut of the stage s2, as in PySlowFast; pytorchvideo does
            not.
        dropout: Dropout rate of the feature, before the classifier.

    Raises:
        ValueError: An argument or a clip does not fit.

    >>> import torch
    >>> from egodistill.video_convnets import X3D
    >>> net = X3D(8, width=8, depth_factor=0.5, feature_dim=32, pool=2).eval()
    >>> feature, logits = net(torch.randn(2, 3, 8, 64, 64))
    >>> feature.shape, logits.shape
    (torch.Size([2, 32]), torch.Size([2, 8]))
    """

    classifier = "head.projection"
    classifiers = (classifier,)

    @record_arguments
    def __init__(
        self,
        num_classes: int,
        *,
        width: int = 24,
        depth_factor: float = 2.2,
        bottleneck: float = 2.25,
        feature_dim: int = 2048,
        pool: int = 7,
        first_shortcut_norm: bool = True,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if min(width, feature_dim, pool) < 1 or not (0 < depth_factor < math.inf and 0 < bottleneck < math.inf):
            raise ValueError(
                f"width={width}, depth_factor={depth_factor}, bottleneck={bottleneck}, feature_dim={feature_dim} and "
                f"pool={pool} must be positive and finite"
            )
        self.feature_dim = feature_dim
        stem = OrderedDict(
            conv_xy=conv((3, width), (1, 3, 3), (1, 2, 2)),
            conv=conv((width, width), (5, 1, 1), groups=width),  # temporal, one filter per channel
            bn=nn.BatchNorm3d(width),
            relu=nn.ReLU(inplace=True),
        )
        self.s1 = nn.ModuleDict({"pathway0_stem": nn.Sequential(stem)})
        into = width
        for number, base in enumerate((1, 2, 5, 3)):
            out = width * 2**number
            inner = int(bottleneck * out)
            stage = nn.Sequential()
            for i in range(math.ceil(depth_factor * base)):
                block = X3DBlock(
                    into,
                    inner,
                    out,
                    first=i == 0,
                    squeeze=i % 2 == 0,
                    shortcut_norm=number > 0 or first_shortcut_norm,
                )
                stage.add_module(f"pathway0_res{i}", block)
                into = out
            self.add_module(f"s{number + 2}", stage)
        self.head = X3DHead(into, inner, feature_dim, num_classes, pool, dropout)
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return feature [B, D] and logits [B, C] of a clip.

        Both are averaged over the positions of a large crop.

        Args:
            x: A normalised clip, float [B, 3, T, H, W].
        """
        feature, logits = self.positions(x)
        return feature.mean((1, 2)), logits.mean((1, 2))

    def positions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return feature [B, h, w, D] and logits [B, h, w, C] of a clip.

        h x w are the positions of the last average pool, with stride 1.

        Args:
            x: A normalised clip, float [B, 3, T, H, W].
        """
        check_clip(x)
        x = self.s1["pathway0_stem"](x)
        return self.head(self.s5(self.s4(self.s3(self.s2(x)))))

    @staticmethod
    def options_from(weights: Mapping[str, Any], source: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that are read from a checkpoint.

        Args:
            weights: The checkpoint's weights, under this network's names.
            source: Its layout, as in `LAYOUTS`.
            options: Options that are given or published.
        """
        return {"first_shortcut_norm": "s2.pathway0_res0.branch1_bn.weight" in weights}


class X3DBlock(nn.Module):
    """A block that widens, filters each channel separately in space and time, weights the channels, and narrows."""

    def __init__(self, into: int, inner: int, out: int, *, first: bool, squeeze: bool, shortcut_norm: bool) -> None:
        super().__init__()
        stride = (1, 2, 2) if first else (1, 1, 1)
        self.branch1: nn.Module | None = None
        if first:
            self.branch1 = conv((into, out), (1, 1, 1), stride)
            self.branch1_bn = nn.BatchNorm3d(out) if shortcut_norm else None
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            a=conv((into, inner), (1, 1, 1)),
            a_bn=nn.BatchNorm3d(inner),
            a_relu=nn.ReLU(inplace=True),
            b=conv((inner, inner), (3, 3, 3), stride, groups=inner),
            b_bn=nn.BatchNorm3d(inner),
        )
        if squeeze:
            layers["se"] = SqueezeExcitation(inner)
        layers.update(
            b_swish=nn.SiLU(inplace=True),
            c=conv((inner, out), (1, 1, 1)),
            c_bn=nn.BatchNorm3d(out),
        )
        self.branch2 = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.branch1 is not None:
            shortcut = self.branch1(x)
            shortcut = shortcut if self.branch1_bn is None else self.branch1_bn(shortcut)
        return F.relu(self.branch2(x).add_(shortcut), inplace=True)


class SqueezeExcitation(nn.Module):
    """A weight for each channel, computed from the means of all channels (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # 1/16, as the nearest multiple of 8 that is at most 10 % smaller.
        exact = channels / 16
        inner = max(8, int(exact + 4) // 8 * 8)
        inner += 8 if inner < 0.9 * exact else 0
        self.fc1 = Conv3d(channels, inner, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = Conv3d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.fc2(self.relu(self.fc1(x.mean((2, 3, 4), keepdim=True))))
        return x * weight.sigmoid()


class X3DHead(nn.Module):
    """The classifier, whose average pool comes before the widest layer, so that this layer is cheap."""

    def __init__(self, into: int, inner: int, feature_dim: int, num_classes: int, pool: int, dropout: float) -> None:
        super().__init__()
        self.pool = pool
        self.conv_5 = conv((into, inner), (1, 1, 1))
        self.conv_5_bn = nn.BatchNorm3d(inner)
        self.lin_5 = conv((inner, feature_dim), (1, 1, 1))  # without batch norm
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(feature_dim, num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.conv_5_bn(self.conv_5(x)), inplace=True)
        x = self.lin_5(average_pool(x, self.pool)[:, :, None])
        feature = F.relu(x[:, :, 0], inplace=True).permute(0, 2, 3, 1)  # [B, h, w, D]
        return feature, self.projection(self.dropout(feature))


# ---------------------------------------------------------------------------------------------------------------
# Published models and the names of their weights


# The code base of the files, its licence, and where to get them.
PYSLOWFAST = {
    "source": "PySlowFast",
    "licence": "Apache-2.0",
    "obtain": "links in github.com/facebookresearch/SlowFast/blob/main/MODEL_ZOO.md",
}


def published(network: type[nn.Module], frames: int, rate: int, size: int, *released: str, **options: Any) -> dict:
    """Return an entry of PUBLISHED: a network that reads every `rate`-th frame at 30 frames per second."""
    clip = {"frames": frames, "size": size, "seconds": frames * rate / 30, "mean": (0.45,) * 3, "std": (0.225,) * 3}
    about = {"network": network, "num_classes": 400, "clip": clip, "released": released, "options": options}
    return about | PYSLOWFAST


# The released models: network and its options, classes, clips, names and origin of the files. Pixels are divided by
# 255, then normalised with mean and std.
PUBLISHED: dict[str, dict[str, Any]] = {
    "slowfast_8x8_r50": published(SlowFast, 32, 2, 224, "SLOWFAST_8x8_R50.pkl", "SLOWFAST_8x8_R50.pyth"),
    "slowfast_4x16_r50": published(
        SlowFast, 32, 2, 224, "SLOWFAST_4x16_R50.pkl", "SLOWFAST_4x16_R50.pyth", alpha=8, fusion_kernel=5
    ),
    # `pool` is 1/32 of the crop.
    "x3d_xs": published(X3D, 4, 12, 160, "x3d_xs.pyth", pool=5),
    "x3d_s": published(X3D, 13, 6, 160, "x3d_s.pyth", pool=5),
    "x3d_m": published(X3D, 16, 5, 224, "x3d_m.pyth", pool=7),
    "x3d_l": published(X3D, 16, 5, 312, "x3d_l.pyth", pool=10, depth_factor=5.0),
}

# pytorchvideo has the same names for the blocks of both networks.
PYTORCHVIDEO_BLOCKS = (
    (r"\.branch1_conv\.", ".branch1."),
    (r"\.branch1_norm\.", ".branch1_bn."),
    (r"\.branch2\.conv_([abc])\.", r".branch2.\1."),
    (r"\.branch2\.norm_([abc])\.", r".branch2.\1_bn."),
)

# The names of the weights in each code base. The first layout whose marker matches a key is used.
#   marker       pattern that matches the start of a key that no later layout has
#   rules        (pattern, replacement), applied in order, which turn its keys into ours
#   ignored      pattern that matches whole keys that are not weights
LAYOUTS: tuple[dict[str, Any], ...] = (
    {
        "network": SlowFast,
        "source": "pytorchvideo",
        "marker": r"blocks\.\d\.multipathway_",
        "rules": (
            (r"^blocks\.0\.multipathway_blocks\.(\d)\.conv\.", r"s1.pathway\1_stem.conv."),
            (r"^blocks\.0\.multipathway_blocks\.(\d)\.norm\.", r"s1.pathway\1_stem.bn."),
            *((rf"^blocks\.{k}\.multipathway_fusion\.", f"s{k + 1}_fuse.") for k in range(4)),
            (r"_fuse\.conv_fast_to_slow\.", "_fuse.conv_f2s."),
            (r"_fuse\.norm\.", "_fuse.bn."),
            *(
                (rf"^blocks\.{k}\.multipathway_blocks\.(\d)\.res_blocks\.(\d+)\.", rf"s{k + 1}.pathway\1_res\2.")
                for k in range(1, 5)
            ),
            *PYTORCHVIDEO_BLOCKS,
            (r"^blocks\.6\.proj\.", "head.projection."),
        ),
    },
    {
        "network": SlowFast,
        "source": "Caffe2",
        "marker": r"t_conv1_w|t_res\d_|t_pool1_",
        "rules": (
            (r"^pred_", "head.projection_"),
            (r"^t_pool1_subsample_", "s1_fuse.conv_f2s_"),
            (r"^t_res(\d)_\d+_branch2c_bn_subsample_", r"s\1_fuse.conv_f2s_"),
            (r"_fuse\.conv_f2s_bn_", "_fuse.bn_"),
            # The fast pathway is called t_...; its blocks have the same numbers as those of the slow one.
            (r"^t_(?:res_)?conv1_", "s1.pathway1_stem.conv_"),
            (r"^(?:res_)?conv1_", "s1.pathway0_stem.conv_"),
            (r"_stem\.conv_bn_", "_stem.bn_"),
            (r"^t_res(\d)_(\d+)_branch", r"s\1.pathway1_res\2.branch"),
            (r"^res(\d)_(\d+)_branch", r"s\1.pathway0_res\2.branch"),
            (r"\.branch2([abc])_", r".branch2.\1_"),
            # Four tensors per batch norm; "riv" is the variance, despite its name.
            (r"_s$", ".weight"),
            (r"_b$", ".bias"),
            (r"_rm$", ".running_mean"),
            (r"_riv$", ".running_var"),
            (r"_w$", ".weight"),
        ),
        "ignored": r".*_momentum|lr|model_iter",
    },
    {
        "network": SlowFast,
        "source": "PySlowFast",
        "marker": r"s\d_fuse\.|s\d\.pathway1_",
    },
    {
        "network": X3D,
        "source": "pytorchvideo",
        "marker": r"blocks\.0\.conv\.conv_|blocks\.\d\.res_blocks\.",
        "rules": (
            # Its names of the stem's convolutions are swapped: conv_t is the spatial one.
            (r"^blocks\.0\.conv\.conv_t\.", "s1.pathway0_stem.conv_xy."),
            (r"^blocks\.0\.conv\.conv_xy\.", "s1.pathway0_stem.conv."),
            (r"^blocks\.0\.norm\.", "s1.pathway0_stem.bn."),
            *((rf"^blocks\.{k}\.res_blocks\.(\d+)\.", rf"s{k + 1}.pathway0_res\1.") for k in range(1, 5)),
            (r"\.norm_b\.0\.", ".norm_b."),
            (r"\.norm_b\.1\.block\.0\.", ".se.fc1."),
            (r"\.norm_b\.1\.block\.2\.", ".se.fc2."),
            *PYTORCHVIDEO_BLOCKS,
            (r"^blocks\.5\.pool\.pre_conv\.", "head.conv_5."),
            (r"^blocks\.5\.pool\.pre_norm\.", "head.conv_5_bn."),
            (r"^blocks\.5\.pool\.post_conv\.", "head.lin_5."),
            (r"^blocks\.5\.proj\.", "head.projection."),
        ),
    },
    {
        "network": X3D,
        "source": "PySlowFast",
        "marker": r"s1\.pathway0_stem\.conv_xy\.|s\d\.pathway0_res\d+\.branch2\.se\.",
    },
)
