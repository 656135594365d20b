"""Video transformers MotionFormer and MViT: normalised clip -> (feature, logits).

    from egodistill.video_transformers import PUBLISHED, MotionFormer, MViT

    net = MotionFormer(400)                                 # the published 16x4 model, with random weights
    feature, logits = net(clip)                             # float [B, 3, 16, 224, 224] -> [B, 768] and [B, 400]
    net = MViT(5, frames=8, size=64, depths=(1, 1, 2, 1))   # a small one
    PUBLISHED["motionformer_16x4"]["clip"]                  # frames, size, seconds, mean and std of its clips

Outputs equal those of the authors' code. Parameters are named as in the authors' files; `LAYOUTS` has the names of
other code bases. `egodistill.teachers.load()` reads all these files. No network applies a softmax. Costs are
multiply-adds, half of what torch's FlopCounterMode counts. This file can be copied alone: it needs torch only.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LAYOUTS", "MVIT_SHAPES", "PUBLISHED", "MViT", "MotionFormer", "initialise", "mvit_blocks"]

EPS = 1e-6  # eps of each LayerNorm; torch's default of 1e-5 changes the features


# ---------------------------------------------------------------------------------------------------------------
# Also in video_convnets.py and video_i3d.py, because each of these files can be copied alone


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
# Parts of both transformers


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return scaled dot-product attention [..., S, d] of q [..., S, d], k and v [..., S', d].

    Training on CPUs computes it in fp32, because its backward pass takes ten times as long in bf16 (torch 2.13).
    """
    if q.device.type == "cpu" and q.requires_grad and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    return F.scaled_dot_product_attention(q, k, v)


def mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    layers = OrderedDict(fc1=nn.Linear(width, hidden), gelu=nn.GELU(), fc2=nn.Linear(hidden, out))
    return nn.Sequential(layers)


def drop_rates(last: float, depth: int) -> list[float]:
    """Return `depth` numbers from 0 to `last` in equal steps. Raise ValueError unless `last` is a rate below 1."""
    if not 0 <= last < 1:
        raise ValueError(f"drop_path is {last}; it must be from 0 to below 1")
    return [last * i / max(depth - 1, 1) for i in range(depth)]


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Drop a residual branch for random clips in training: stochastic depth (Huang et al. 2016)."""
    if not training or rate == 0.0:
        return x
    kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= rate
    return x * (kept / (1.0 - rate)).to(x.dtype)


def run_block(block: nn.Module, x: Any, *rest: Any, checkpointed: bool) -> Any:
    """Run a block; in training with `checkpointed`, recompute it in the backward pass to save memory."""
    if checkpointed and torch.is_grad_enabled():
        return torch.utils.checkpoint.checkpoint(block, x, *rest, use_reentrant=False)
    return block(x, *rest)


def initialise(net: nn.Module) -> None:
    """Initialise linear layers, tokens and positions of a vision transformer in place.

    Args:
        net: The network, or a part of it.

    >>> from egodistill import video_transformers
    >>> blocks = video_transformers.mvit_blocks(16, 1, (1, 2), kv_stride=4, pool_eps=1e-6, drop_path=0.0)
    >>> video_transformers.initialise(blocks)
    """
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    for parameter in net.parameters(recurse=False):  # tokens and positions
        nn.init.trunc_normal_(parameter, std=0.02)


# ---------------------------------------------------------------------------------------------------------------
# MotionFormer (Patrick et al., "Keeping Your Eye on the Ball", NeurIPS 2021)


class MotionFormer(nn.Module):
    """A vision transformer that attends along the trajectories of space-time patches.

    The defaults are the released 16x4 model at 224 pixels (108.9 M parameters, a feature of 768 values). Parameters
    are named as in facebookresearch/Motionformer. Set `gradient_checkpointing` to True to trade time for memory in
    training.

    Args:
        num_classes: C; or two numbers, verbs and nouns, for the models of EPIC-KITCHENS.
        frames: T, number of frames of the clip, a multiple of `tubelet`.
        size: Side in pixels of crops with one learnt position per patch; positions are resized for other crops.
        patch: Side of a patch in pixels.
        tubelet: Length of a patch in frames.
        width: Size of a token, a multiple of `heads`.
        depth: Number of blocks.
        heads: Number of attention heads.
        mlp_ratio: Width of the hidden layer of each MLP, as a multiple of `width`.
        head: With two heads, the one that returns the logits, "verb" or "noun".
        value_step: What the softmax over frames averages. "original": the trajectory tokens, as the released weights
            were trained. "projected": their projection, as in the paper. No checkpoint records `value_step`: the
            weights have the same shapes.
        fast: Compute the trajectory attention in an order that needs 45 % less arithmetic and no [S, S] matrix. False
            computes it as the released code does, with the 369.5 G multiply-adds that the EgoDistill paper counts.
            Outputs agree up to rounding.
        drop_path: Rate of stochastic depth in the last block; it grows linearly from 0 in the first.

    Raises:
        ValueError: An argument or a clip does not fit.

    >>> import torch
    >>> from egodistill.video_transformers import MotionFormer
    >>> net = MotionFormer(8, frames=8, size=64, width=48, depth=1, heads=3).eval()
    >>> feature, logits = net(torch.randn(2, 3, 8, 64, 64))
    >>> feature.shape, logits.shape
    (torch.Size([2, 48]), torch.Size([2, 8]))
    """

    classifiers = ("head", "head0", "head1")  # possible names of a classifier in a state dict
    find_unused = True  # its files contain layers and biases that no output depends on

    @record_arguments
    def __init__(
        self,
        num_classes: int | Sequence[int],
        *,
        frames: int = 16,
        size: int = 224,
        patch: int = 16,
        tubelet: int = 2,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        head: str = "verb",
        value_step: str = "original",
        fast: bool = True,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        classes = (num_classes,) if isinstance(num_classes, numbers.Integral) else tuple(num_classes)
        if len(classes) not in (1, 2):
            raise ValueError(f"num_classes is {num_classes}; it must be one number or two")
        for name, value, choices in (
            ("head", head, ("verb", "noun")),
            ("value_step", value_step, ("original", "projected")),
        ):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}; it must be one of {choices}")
        least = min(frames, tubelet, size, patch, width, heads, depth)
        if least < 1 or frames % tubelet or size % patch or width % heads:
            raise ValueError(
                f"tubelet={tubelet} must divide frames={frames}, patch={patch} must divide size={size}, "
                f"heads={heads} must divide width={width}; these and depth={depth} must be at least 1"
            )
        self.frames, self.patch, self.grid = frames, patch, size // patch
        self.feature_dim = width
        self.gradient_checkpointing = False

        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        self.temp_embed = nn.Parameter(torch.zeros(1, frames // tubelet, width))
        # Each released file contains the image model's 2-D embedding, which is never used.
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.patch_embed.requires_grad_(False)
        cube = (tubelet, patch, patch)
        self.patch_embed_3d = nn.ModuleDict({"proj": Conv3d(3, width, cube, cube)})
        self.blocks = nn.ModuleList(
            MotionFormerBlock(width, heads, int(mlp_ratio * width), value_step == "projected", fast, rate)
            for rate in drop_rates(drop_path, depth)
        )
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.pre_logits = nn.Sequential(OrderedDict(fc=nn.Linear(width, width), tanh=nn.Tanh()))
        names = ("head",) if len(classes) == 1 else ("head0", "head1")  # head0: verbs
        for name, count in zip(names, classes, strict=True):
            self.add_module(name, nn.Linear(width, count))
        self.classifier = names[-1 if head == "noun" else 0]
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return feature [B, D] and logits [B, C] of a clip.

        Args:
            x: A normalised clip, float [B, 3, T, H, W].
        """
        feature = self.features(x)
        return feature, self.get_submodule(self.classifier)(feature)

    def features(self, x: Tensor) -> Tensor:
        """Return the feature [B, D] of a clip; all heads read it.

        Args:
            x: A normalised clip, float [B, 3, T, H, W].
        """
        check_clip(x, self.frames)
        if x.shape[3] % self.patch or x.shape[4] % self.patch:
            raise ValueError(
                f"the clip has {x.shape[3]} x {x.shape[4]} pixels; both must be multiples of the patches' {self.patch}"
            )
        x = self.patch_embed_3d["proj"](x)  # [B, D, T', h, w]
        time, *grid = x.shape[2:]
        # Token (t, p) has the position of p plus that of t: [T', h w, D], in the order of time.
        position = self.spatial_positions(grid) + self.temp_embed[0, :, None]
        x = x.flatten(2).transpose(1, 2) + position.flatten(0, 1)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x], 1)
        for block in self.blocks:
            x = run_block(block, x, time, checkpointed=self.gradient_checkpointing)
        return self.pre_logits(self.norm(x[:, 0]))  # of the class token

    def spatial_positions(self, grid: Sequence[int]) -> Tensor:
        """Return the learnt positions of the patches [h w, D], resized if the crop has another size.

        Args:
            grid: Patches of the crop in height and width, (h, w).
        """
        learnt = self.pos_embed[:, 1:]
        if tuple(grid) == (self.grid, self.grid):
            return learnt[0]
        square = learnt.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        resized = F.interpolate(square, tuple(grid), mode="bicubic", align_corners=False)
        return resized.flatten(2).transpose(1, 2)[0]

    @staticmethod
    def options_from(weights: Mapping[str, Any], source: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that are read from a checkpoint: the size of its learnt positions.

        Args:
            weights: The checkpoint's weights, under this network's names.
            source: Its layout, as in `LAYOUTS`.
            options: Options that are given or published.
        """
        positions = weights.get("pos_embed")
        if not isinstance(positions, Tensor) or positions.ndim != 3 or positions.shape[1] < 2:
            return {}
        return {"size": math.isqrt(positions.shape[1] - 1) * options.get("patch", 16)}


class MotionFormerBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, projected: bool, fast: bool, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = TrajectoryAttention(width, heads, projected, fast)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = mlp(width, hidden, width)
        self.drop_path = drop_path

    def forward(self, x: Tensor, time: int) -> Tensor:
        x = x + drop_path(self.attn(self.norm1(x), time), self.drop_path, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path, self.training)


LARGE = 1 << 22  # values: 16 MB of trajectories


class TrajectoryAttention(nn.Module):
    """Trajectory attention (section 3.2): attention within each frame, then along the frames of the trajectory.

    Shapes: T frames of P patches are S = T P tokens of width C = H d, in H heads.
    """

    def __init__(self, width: int, heads: int, projected: bool, fast: bool) -> None:
        super().__init__()
        self.heads, self.projected, self.fast = heads, projected, fast
        self.qkv = nn.Linear(width, 3 * width)
        self.proj_q = nn.Linear(width, width)
        self.proj_kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, time: int) -> Tensor:
        """Return new tokens of the shape of the given ones, [B, 1 + S, C], the class token first."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # The class token attends to all tokens together and has no trajectory: [B, H, 1, d].
        first = attend(q[:, :, :1], k, v)
        trajectories = self.trajectories if self.fast else self.trajectories_as_released
        rest = trajectories(q[:, :, 1:], k[:, :, 1:], v[:, :, 1:], time)
        return self.proj(torch.cat([first.transpose(1, 2).flatten(2), rest], 1))

    def trajectories(self, q: Tensor, k: Tensor, v: Tensor, time: int) -> Tensor:
        """Return [B, S, C] from q, k, v [B, H, S, d]."""
        # With many trajectories, a CPU processes one clip and the queries of one frame at a time, which fit into its
        # cache. A GPU, and a small network, process all together.
        on_cpu = q.device.type == "cpu" and q.numel() * time > LARGE
        if on_cpu and len(q) > 1:
            clips = zip(q.split(1), k.split(1), v.split(1), strict=True)
            return torch.cat([self.trajectories(*clip, time) for clip in clips])
        # Frames are a batch dimension of the keys, because each query attends to each frame separately.
        k, v = (y.unflatten(2, (time, -1)).permute(2, 0, 1, 3, 4).flatten(0, 1) for y in (k, v))  # [T B, H, P, d]
        step = 1 if on_cpu else time
        parts = q.unflatten(2, (time, -1)).split(step, 2)  # [B, H, T', P, d] each
        return torch.cat([self.along(part, k, v, i * step) for i, part in enumerate(parts)], 1)

    def along(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
        """Return [B, T' P, C] for the queries q [B, H, T', P, d] of T' frames from `start` on."""
        batch, heads, count, patches, dim = q.shape
        time, width = len(k) // batch, heads * dim
        # Space: x[t, n] is the output of query n, one of N = B T' P, in frame t.
        q = q.flatten(2, 3).expand(time, -1, -1, -1, -1).flatten(0, 1)  # [T B, H, T' P, d]
        x = attend(q, k, v).transpose(1, 2)
        x = x.reshape(time, batch * count * patches, width)

        # Time: the query along the trajectory is the output of the query in its own frame.
        own = x[start : start + count].unflatten(1, (batch, count, patches))
        own = own.diagonal(dim1=0, dim2=2).permute(0, 3, 1, 2).reshape(-1, width)  # [N, C]
        q = self.proj_q(own).unflatten(1, (heads, dim)) * dim**-0.5
        # q · (W x + b) = (Wᵀ q) · x + q · b, and a constant does not change the softmax over frames:
        # so W is applied to the query, which has T times fewer rows than the tokens.
        to_key, to_value = self.proj_kv.weight.unflatten(0, (2, heads, dim))  # [H, d, C] each
        q = torch.einsum("nhd,hdc->nhc", q, to_key)
        attention = torch.einsum("nhc,tnc->nht", q, x).softmax(2)
        if not self.projected:
            y = torch.einsum("nht,tnhd->nhd", attention, x.unflatten(2, (heads, dim)))
        else:  # Likewise: Σ a (W x + b) = W (Σ a x) + b, because the weights a add up to one.
            y = torch.einsum("nht,tnc->nhc", attention, x)
            y = torch.einsum("nhc,hdc->nhd", y, to_value)
            y = y + self.proj_kv.bias[width:].unflatten(0, (heads, dim))
        return y.reshape(batch, count * patches, width)

    def trajectories_as_released(self, q: Tensor, k: Tensor, v: Tensor, time: int) -> Tensor:
        """Return the same, computed in the order of the released code."""
        heads, dim = q.shape[1], q.shape[3]
        k, v = (y.unflatten(2, (time, -1)) for y in (k, v))  # [B, H, T, P, d]
        attention = torch.einsum("bhsd,bhtpd->bhstp", q * dim**-0.5, k).softmax(4)
        x = torch.einsum("bhstp,bhtpd->bsthd", attention, v).flatten(3)  # [B, S, T, C]
        own = x.unflatten(1, (time, -1)).diagonal(dim1=1, dim2=3)  # [B, P, C, T]
        own = own.permute(0, 3, 1, 2).flatten(1, 2)  # [B, S, C]
        q = self.proj_q(own).unflatten(2, (heads, dim)) * dim**-0.5
        k, v = self.proj_kv(x).unflatten(3, (2, heads, dim)).unbind(3)  # [B, S, T, H, d]
        attention = torch.einsum("bshd,bsthd->bsht", q, k).softmax(3)
        if not self.projected:
            v = x.unflatten(3, (heads, dim))
        return torch.einsum("bsht,bsthd->bshd", attention, v).flatten(2)


# ---------------------------------------------------------------------------------------------------------------
# MViT (Fan et al., "Multiscale Vision Transformers", ICCV 2021)

Grid = tuple[int, int, int]  # tokens in time, height and width


class MViT(nn.Module):
    """A vision transformer whose stages halve the resolution and double the channels, like those of a ResNet.

    The defaults are the published MViT-B 16x4 with pooling by convolutions (36.6 M parameters at 400 classes, 70.6 G
    multiply-adds, a feature of 768 values). Parameters are named as in PySlowFast. Set `gradient_checkpointing` to True
    to trade time for memory in training.

    Args:
        num_classes: C, the number of classes.
        frames: T, number of frames of the clip, even.
        size: Side of the clip in pixels, a multiple of 4.
        width: Channels of the first stage, a multiple of `heads`; the last block of a stage doubles them.
        heads: Attention heads of the first stage; each stage has twice as many as the previous one.
        depths: Number of blocks in each stage.
        kv_stride: Spatial stride of pooled keys and values in the first stage; each stage halves it.
        pool_unstrided: Pool keys and values also at a stride of 1. The oldest file of PySlowFast is reported to
            have been trained without (SlowFast issue 456).
        pool_eps: Eps of the LayerNorms after pooling: 1e-5 in pytorchvideo, 1e-6 in PySlowFast and torchvision.
        dropout: Dropout rate of the feature, before the classifier.
        drop_path: Rate of stochastic depth in the last block; it grows linearly from 0 in the first.

    Raises:
        ValueError: An argument or a clip does not fit.

    >>> import torch
    >>> from egodistill.video_transformers import MViT
    >>> net = MViT(8, frames=8, size=64, width=16, depths=(1, 1, 1, 1)).eval()
    >>> feature, logits = net(torch.randn(2, 3, 8, 64, 64))
    >>> feature.shape, logits.shape
    (torch.Size([2, 128]), torch.Size([2, 8]))
    """

    classifier = "head.projection"
    classifiers = (classifier,)

    @record_arguments
    def __init__(
        self,
        num_classes: int,
        *,
        frames: int = 16,
        size: int = 224,
        width: int = 96,
        heads: int = 1,
        depths: Sequence[int] = (1, 2, 11, 2),
        kv_stride: int = 8,
        pool_unstrided: bool = True,
        pool_eps: float = EPS,
        dropout: float = 0.5,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        least = min(frames, size, width, heads, kv_stride, *depths, len(depths))
        if least < 1 or frames % 2 or size % 4 or width % heads:
            raise ValueError(
                f"frames={frames} must be even, size={size} a multiple of 4, width={width} a multiple of "
                f"heads={heads}; these, kv_stride={kv_stride} and each of depths={tuple(depths)} must be at least 1"
            )
        self.frames, self.size = frames, size
        self.gradient_checkpointing = False

        time, side = frames // 2, size // 4
        self.patch_embed = nn.ModuleDict({"proj": Conv3d(3, width, (3, 7, 7), (2, 4, 4), (1, 3, 3))})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed_spatial = nn.Parameter(torch.zeros(1, side**2, width))
        self.pos_embed_temporal = nn.Parameter(torch.zeros(1, time, width))
        self.pos_embed_class = nn.Parameter(torch.zeros(1, 1, width))

        self.blocks = mvit_blocks(
            width,
            heads,
            depths,
            kv_stride=kv_stride,
            pool_unstrided=pool_unstrided,
            pool_eps=pool_eps,
            drop_path=drop_path,
        )
        self.feature_dim = width << (len(depths) - 1)
        self.norm = nn.LayerNorm(self.feature_dim, eps=EPS)
        projection = nn.Linear(self.feature_dim, num_classes)
        self.head = nn.Sequential(OrderedDict(dropout=nn.Dropout(dropout), projection=projection))
        initialise(self)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return feature [B, D] and logits [B, C] of a clip.

        Args:
            x: A normalised clip, float [B, 3, T, size, size].
        """
        check_clip(x, self.frames, self.size)
        x = self.patch_embed["proj"](x)  # [B, D, T', h, w]
        grid = tuple(x.shape[2:])
        # Token (t, p) has the position of p plus that of t: [T', h w, D], in the order of time.
        position = self.pos_embed_spatial + self.pos_embed_temporal[0, :, None]
        x = x.flatten(2).transpose(1, 2) + position.flatten(0, 1)
        first = (self.cls_token + self.pos_embed_class).expand(len(x), -1, -1)
        x = torch.cat([first, x], 1)
        for block in self.blocks:
            x, grid = run_block(block, x, grid, checkpointed=self.gradient_checkpointing)
        feature = self.norm(x[:, 0])  # of the class token
        return feature, self.head(feature)

    @staticmethod
    def options_from(weights: Mapping[str, Any], source: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that are read from a checkpoint, or follow from its layout.

        Args:
            weights: The checkpoint's weights, under this network's names.
            source: Its layout, as in `LAYOUTS`.
            options: Options that are given or published.
        """
        last = sum(options.get("depths", (1, 2, 11, 2))) - 1
        return {
            "pool_unstrided": f"blocks.{last}.attn.pool_k.weight" in weights,
            # pytorchvideo's attention uses torch's default LayerNorm; features differ by 2.7e-5. No file has the eps.
            "pool_eps": options.get("pool_eps", 1e-5 if source == "pytorchvideo" else EPS),
        }


def mvit_blocks(
    width: int,
    heads: int,
    depths: Sequence[int],
    *,
    kv_stride: int,
    pool_unstrided: bool = True,
    pool_eps: float,
    drop_path: float,
) -> nn.ModuleList:
    """Return the blocks of an MViT; the arguments are those of `MViT`.

    Each block takes tokens [B, 1 + S, C] and their grid (time, height, width), and returns both.

    Args:
        width: Channels of the first stage.
        heads: Attention heads of the first stage.
        depths: Number of blocks in each stage.
        kv_stride: Spatial stride of pooled keys and values in the first stage.
        pool_unstrided: Pool keys and values also at a stride of 1.
        pool_eps: Eps of the LayerNorms after pooling.
        drop_path: Rate of stochastic depth in the last block.

    >>> import torch
    >>> from egodistill import video_transformers
    >>> first, last = video_transformers.mvit_blocks(16, 1, (1, 1), kv_stride=4, pool_eps=1e-6, drop_path=0.0).eval()
    >>> tokens, grid = last(*first(torch.randn(2, 1 + 4 * 8 * 8, 16), (4, 8, 8)))
    >>> tokens.shape, grid
    (torch.Size([2, 65, 32]), (4, 4, 4))
    """
    rates = iter(drop_rates(drop_path, sum(depths)))
    blocks = nn.ModuleList()
    for stage, depth in enumerate(depths):
        stride = max(kv_stride >> stage, 1)
        for number in range(depth):
            widens = number == depth - 1 and stage < len(depths) - 1
            block = MViTBlock(
                width,
                2 * width if widens else width,
                heads,
                q_stride=2 if stage and number == 0 else 1,
                kv_stride=stride if stride > 1 or pool_unstrided else None,
                pool_eps=pool_eps,
                drop_path=next(rates),
            )
            blocks.append(block)
            width = 2 * width if widens else width
        heads *= 2
    return blocks


class MViTBlock(nn.Module):
    """A block: pooling attention at the input's width, then an MLP from the input's to the output's width."""

    def __init__(
        self,
        width: int,
        out: int,
        heads: int,
        *,
        q_stride: int,
        kv_stride: int | None,
        pool_eps: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = PoolingAttention(width, heads, q_stride, kv_stride, pool_eps)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = mlp(width, 4 * width, out)
        self.proj = nn.Linear(width, out) if out != width else None
        stride = (1, q_stride, q_stride)
        self.pool_skip = nn.MaxPool3d((1, 3, 3), stride, (0, 1, 1)) if q_stride > 1 else None
        self.drop_path = drop_path

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """Return the tokens and the grid after this block, given tokens [B, 1 + S, C] on `grid`."""
        attended, out_grid = self.attn(self.norm1(x), grid)
        if self.pool_skip is not None:
            x = pool_tokens(self.pool_skip, x[:, None], grid)[0][:, 0]
        x = x + drop_path(attended, self.drop_path, self.training)
        y = self.norm2(x)
        if self.proj is not None:  # the projection to a new width reads the normalised tokens
            x = self.proj(y)
        return x + drop_path(self.mlp(y), self.drop_path, self.training), out_grid


class PoolingAttention(nn.Module):
    """Attention with pooled queries, keys and values (section 3.1).

    Queries are not pooled at a stride of 1; keys and values are not pooled if their stride is None.
    """

    def __init__(self, width: int, heads: int, q_stride: int, kv_stride: int | None, pool_eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        strides = {"q": q_stride if q_stride > 1 else None, "k": kv_stride, "v": kv_stride}
        for name, stride in strides.items():
            pool = norm = None
            if stride is not None:  # one convolution for all heads
                dim = width // heads
                pool = Conv3d(dim, dim, 3, (1, stride, stride), 1, groups=dim, bias=False)
                norm = nn.LayerNorm(dim, eps=pool_eps)
            self.add_module(f"pool_{name}", pool)
            self.add_module(f"norm_{name}", norm)

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, out_grid = self.pooled("q", q, grid)
        k, v = self.pooled("k", k, grid)[0], self.pooled("v", v, grid)[0]
        x = attend(q, k, v)  # [B, heads, 1 + S, d]
        return self.proj(x.transpose(1, 2).flatten(2)), out_grid

    def pooled(self, name: str, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        pool = getattr(self, f"pool_{name}")
        if pool is None:
            return x, grid
        x, grid = pool_tokens(pool, x, grid)
        return getattr(self, f"norm_{name}")(x), grid  # of the class token, too


def pool_tokens(pool: nn.Module, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
    """Return pooled tokens and their grid, given tokens [B, heads, 1 + S, d] on `grid`; the class token is kept."""
    first, rest = x[:, :, :1], x[:, :, 1:]
    maps = rest.transpose(2, 3).unflatten(3, grid).flatten(0, 1)  # [B heads, d, T, h, w]
    maps = pool(maps)
    rest = maps.flatten(2).transpose(1, 2).unflatten(0, x.shape[:2])
    return torch.cat([first, rest], 2), tuple(maps.shape[2:])


# ---------------------------------------------------------------------------------------------------------------
# Published models and the names of their weights


def motionformer(frames: int, rate: int, size: int, *datasets: str) -> dict[str, Any]:
    """Return an entry of PUBLISHED: a MotionFormer that reads every `rate`-th frame at 30 frames per second.

    The models of EPIC-KITCHENS ("ek") read BGR, because the authors' loader (Motionformer, epickitchens) did not
    convert OpenCV's frames. Mean and std are the same for all channels, so the wrong order only costs accuracy.
    """
    epic = datasets == ("ek",)
    half = (0.5, 0.5, 0.5)
    clip = {"frames": frames, "size": size, "seconds": frames * rate / 30, "mean": half, "std": half}
    return {
        "network": MotionFormer,
        "num_classes": (97, 300) if epic else 400,
        "clip": clip | {"channels": "BGR" if epic else "RGB"},
        "released": tuple(f"{dataset}_motionformer_{size}_{frames}x{rate}.pyth" for dataset in datasets),
        "options": {"size": 224},  # also at 336 pixels: positions are resized at run time
        "source": "Motionformer",
        "licence": "CC BY-NC 4.0",
        "obtain": "links in github.com/facebookresearch/Motionformer",
    }


# The released models: network and its options, classes, clips, names and origin of the files (the code base, its
# licence, where to get them). Pixels are divided by 255, then normalised with mean and std.
PUBLISHED: dict[str, dict[str, Any]] = {
    "motionformer_16x4": motionformer(16, 4, 224, "k400", "k600", "ssv2"),
    "epic_motionformer_16x4": motionformer(16, 4, 224, "ek"),
    "motionformer_16x8": motionformer(16, 8, 224),
    "motionformer_32x3": motionformer(32, 3, 224, "k400", "k600", "ssv2"),
    "epic_motionformer_32x3": motionformer(32, 3, 224, "ek"),
    "motionformer_336_16x4": motionformer(16, 4, 336, "ssv2"),
    "epic_motionformer_336_16x4": motionformer(16, 4, 336, "ek"),
    "motionformer_336_16x8": motionformer(16, 8, 336, "k400", "k600"),
    "mvit_b_16x4": {
        "network": MViT,
        "num_classes": 400,
        "clip": {"frames": 16, "size": 224, "seconds": 64 / 30, "mean": (0.45,) * 3, "std": (0.225,) * 3},
        # pytorchvideo and torchvision; PySlowFast's file has no name of its own.
        "released": ("MVIT_B_16x4.pyth", "mvit_v1_b-dbeb1030.pth"),
        "source": "pytorchvideo",
        "licence": "Apache-2.0",
        "obtain": "links in pytorchvideo.readthedocs.io/en/latest/model_zoo.html",
        "torchvision": "mvit_v1_b",
    },
}

# Some files store q, k and v separately, and torchvision's tokens and positions lack dimensions of 1.
MVIT_SHAPES = {
    "joined": {".attn.qkv.": (".attn.q.", ".attn.k.", ".attn.v.")},
    "dimensions": {"cls_token": 3, "pos_embed_spatial": 3, "pos_embed_temporal": 3, "pos_embed_class": 3},
}

# The names of the weights in each code base. The first layout whose marker matches a key is used.
#   marker       pattern that matches the start of a key that no later layout has
#   rules        (pattern, replacement), applied in order, which turn its keys into ours
#   ignored      pattern that matches whole keys that are not weights
#   joined       {ours: theirs}, parts of keys whose tensors are concatenated along the first dimension
#   dimensions   {our key: n}, tensors that get leading dimensions of 1 up to n
LAYOUTS: tuple[dict[str, Any], ...] = (
    {
        "network": MotionFormer,
        "source": "Motionformer",
        "marker": r"patch_embed_3d\.|blocks\.\d+\.attn\.proj_kv\.",
    },
    {
        "network": MViT,
        "source": "pytorchvideo",
        "marker": r"cls_positional_encoding\.|patch_embed\.patch_model\.",
        "rules": (
            (r"^patch_embed\.patch_model\.", "patch_embed.proj."),
            (r"^cls_positional_encoding\.", ""),
            (r"^norm_embed\.", "norm."),
            (r"^head\.proj\.", "head.projection."),
        ),
        "ignored": r".*\.attn\._attention_pool_[qkv]\..*",  # a second name for pool_q, norm_q, ...
        **MVIT_SHAPES,
    },
    {
        "network": MViT,
        "source": "torchvision",
        "marker": r"pos_encoding\.|conv_proj\.|blocks\.\d+\.attn\.project\.",
        "rules": (
            (r"^conv_proj\.", "patch_embed.proj."),
            (r"^pos_encoding\.class_token$", "cls_token"),
            (r"^pos_encoding\.(spatial|temporal|class)_pos$", r"pos_embed_\1"),
            (r"\.attn\.project\.0\.", ".attn.proj."),
            (r"\.attn\.pool_([qkv])\.pool\.", r".attn.pool_\1."),
            (r"\.attn\.pool_([qkv])\.norm_act\.0\.", r".attn.norm_\1."),
            (r"\.mlp\.0\.", ".mlp.fc1."),
            (r"\.mlp\.3\.", ".mlp.fc2."),
            (r"^(blocks\.\d+)\.project\.", r"\1.proj."),
            (r"^head\.1\.", "head.projection."),
        ),
        **MVIT_SHAPES,
    },
    {
        "network": MViT,
        "source": "PySlowFast",
        "marker": r"pos_embed_spatial|blocks\.\d+\.attn\.pool_[qkv]\.",
        **MVIT_SHAPES,
    },
)
