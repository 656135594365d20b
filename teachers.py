"""The heavy video models whose knowledge a student takes over: clip -> (feature, logits).

A teacher reads a dense clip of uint8 RGB frames and gives a feature vector and class scores. It
carries all that its outputs depend on (frame count, size, mean, deviation, channel order, class
names), so that none of it has to be remembered beside the weights.

    from egodistill import teachers

    teacher = teachers.slowfast(97, class_names=verbs)      # the published 8x8 R50
    feature, logits = teacher(clip)                         # uint8 [B, 32, 3, 224, 224]
    teacher.save("teacher.pt")                              # weights and everything else, one file
    teacher = teachers.Teacher.load("teacher.pt")
    teachers.extract(teacher, store)                        # outputs for every clip of a store

Any other video model becomes a teacher through ``Teacher.wrap``. Scores are logits everywhere: no
teacher applies a softmax, since distillation needs its own temperature.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ClipSpec", "Output", "SlowFast", "Teacher", "TeacherError", "extract", "slowfast"]

CLIP_SECONDS = 64 / 30


class TeacherError(ValueError):
    """A teacher, its file, its input or its outputs are not what they have to be."""


class Output(NamedTuple):
    """What every model gives: ``feature`` [B, D] and ``logits`` [B, C], before any softmax."""

    feature: Tensor
    logits: Tensor


@dataclass(frozen=True)
class ClipSpec:
    """The clip that a teacher wants.

    ``frames`` frames of ``size`` x ``size`` pixels, at the centres of as many equal parts of
    ``seconds`` seconds. Pixels are divided by 255; then ``mean`` is subtracted and the result
    divided by ``std``, one value a channel, in the order of ``channels`` ("RGB" or "BGR").
    """

    frames: int
    size: int
    seconds: float = CLIP_SECONDS
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)
    channels: str = "RGB"

    def __post_init__(self) -> None:
        if self.channels not in ("RGB", "BGR"):
            raise TeacherError(f"channels is {self.channels!r}; it must be 'RGB' or 'BGR'")
        if self.frames < 1 or self.size < 1 or not self.seconds > 0:
            raise TeacherError(
                f"frames={self.frames}, size={self.size} and seconds={self.seconds} "
                "must all be positive"
            )
        for field in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, field))
            if len(values) != 3 or (field == "std" and min(values) <= 0):
                raise TeacherError(f"{field} is {values}; it needs three numbers, std above 0")
            object.__setattr__(self, field, values)  # a list would make the spec unhashable


# ---------------------------------------------------------------------------------------------
# SlowFast (Feichtenhofer et al., "SlowFast Networks for Video Recognition", ICCV 2019)
# ---------------------------------------------------------------------------------------------

# A fusion brings twice the fast channels to the slow pathway (section 3.4 of that paper).
_FUSION_RATIO = 2
# A bottleneck widens its inner channels by this at the end, as in every ResNet-50.
_EXPANSION = 4
# Side of the last average pool: what a 224-pixel crop leaves after a stride of 32.
_POOL = 7


class SlowFast(nn.Module):
    """Two pathways over one clip: few frames and many channels, many frames and few channels.

    The defaults are the published 8x8 ResNet-50 (34.6 M parameters at 400 classes, 50.3 G
    multiply-adds at 224 pixels, a feature of 2304 numbers). Parameters are named as in PySlowFast
    (pathway 0 is the slow one), so ``state_dict()`` has the layout of its released files.

    Args:
        num_classes: C, the number of scores.
        frames: T, frames of the clip; the fast pathway sees them all.
        alpha: the slow pathway sees T / alpha of them, which must be a whole number.
        width: channels of the slow stem; the feature has 32 * (width + width / beta) numbers.
        beta: the fast pathway has width / beta channels.
        depths: bottleneck blocks of the stages s2 to s5.
        stem_time_kernels: frames under the first convolution, slow and fast.
        slow_time_kernels, fast_time_kernels: frames under the first convolution of a block, s2
            to s5.
        fusion_kernel: frames under the convolution that leads from the fast to the slow pathway.
        stem_size: side in pixels of the kernel of the first convolution.
        dropout: on the feature, before the classifier.

    Time kernels are odd: an even one would shift the pathways against each other.
    """

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
        if frames % alpha:
            raise TeacherError(
                f"alpha={alpha} does not divide frames={frames}: the slow pathway needs a whole "
                "number of frames"
            )
        if width % beta:
            raise TeacherError(
                f"beta={beta} does not divide width={width}: the fast pathway needs a whole "
                "number of channels"
            )
        stages = {
            "depths": tuple(depths),
            "slow_time_kernels": tuple(slow_time_kernels),
            "fast_time_kernels": tuple(fast_time_kernels),
        }
        for name, values in stages.items():
            if len(values) != 4 or min(values) < 1:
                raise TeacherError(f"{name} is {values}; it needs four numbers from 1, s2 to s5")
        kernels = (*stem_time_kernels, *slow_time_kernels, *fast_time_kernels, fusion_kernel)
        if not all(kernel % 2 for kernel in (*kernels, stem_size)):
            raise TeacherError(f"kernels must be odd, but they are {kernels} and {stem_size}")

        # All that the constructor needs again; it travels with the weights (Teacher.save).
        self.options: dict[str, Any] = {
            "num_classes": num_classes,
            "frames": frames,
            "alpha": alpha,
            "width": width,
            "beta": beta,
            **stages,
            "stem_time_kernels": tuple(stem_time_kernels),
            "fusion_kernel": fusion_kernel,
            "stem_size": stem_size,
            "dropout": dropout,
        }
        self.frames = frames
        self.slow_index = _slow_index(frames, alpha)

        slow, fast = width, width // beta
        self.s1 = nn.ModuleDict(
            {
                "pathway0_stem": _stem(slow, stem_time_kernels[0], stem_size),
                "pathway1_stem": _stem(fast, stem_time_kernels[1], stem_size),
            }
        )
        self.s1_fuse = _Fusion(fast, fusion_kernel, alpha)
        for number in range(4):
            inner = (width * 2**number, width // beta * 2**number)
            stage = _Stage(
                inputs=(slow + _FUSION_RATIO * fast, fast),
                inner=inner,
                time_kernels=(slow_time_kernels[number], fast_time_kernels[number]),
                depth=depths[number],
                stride=1 if number == 0 else 2,
            )
            self.add_module(f"s{number + 2}", stage)
            slow, fast = inner[0] * _EXPANSION, inner[1] * _EXPANSION
            if number < 3:
                self.add_module(f"s{number + 2}_fuse", _Fusion(fast, fusion_kernel, alpha))
        self.feature_dim = slow + fast
        self.head = _Head(self.feature_dim, num_classes, dropout)
        _initialise(self)

    def forward(self, x: Tensor) -> Output:
        """Normalised clip, float [B, 3, T, H, W] -> feature [B, D], logits [B, C].

        A crop larger than 224 pixels has several positions (see ``positions``); feature and
        logits are both averaged over them.
        """
        feature, logits = self.positions(x)
        return Output(feature.mean((1, 2)), logits.mean((1, 2)))

    def positions(self, x: Tensor) -> Output:
        """Normalised clip, float [B, 3, T, H, W] -> feature [B, h, w, D], logits [B, h, w, C].

        h x w are the places of a 7 x 7 average pool with stride 1 on the last map: 1 x 1 up to
        224 pixels (smaller crops are pooled whole), 2 x 2 at 256.
        """
        if x.ndim != 5 or x.shape[1:3] != (3, self.frames):
            raise TeacherError(
                f"the clip is {tuple(x.shape)}; it must be [B, 3, {self.frames}, H, W]"
            )
        # Clips in the memory format of the weights: otherwise every layer converts its input.
        if _channels_last(self.s1["pathway0_stem"].conv.weight):
            x = x.contiguous(memory_format=torch.channels_last_3d)
        slow = x.index_select(2, torch.tensor(self.slow_index, device=x.device))
        slow, fast = self.s1["pathway0_stem"](slow), self.s1["pathway1_stem"](x)
        slow, fast = self.s2(self.s1_fuse(slow, fast), fast)
        slow, fast = self.s3(self.s2_fuse(slow, fast), fast)
        slow, fast = self.s4(self.s3_fuse(slow, fast), fast)
        slow, fast = self.s5(self.s4_fuse(slow, fast), fast)
        return self.head(slow, fast)


def _slow_index(frames: int, alpha: int) -> tuple[int, ...]:
    """Frames of the slow pathway: linspace(0, T - 1, T / alpha), truncated.

    PySlowFast takes these and not every alpha-th frame. 32 frames and alpha 4 give
    0, 4, 8, 13, 17, 22, 26, 31.
    """
    count = frames // alpha
    return (0,) if count == 1 else tuple(i * (frames - 1) // (count - 1) for i in range(count))


def _channels_last(weight: Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last_3d) and not weight.is_contiguous()


def _conv(
    channels: tuple[int, int],
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1),
) -> nn.Conv3d:
    """Convolution that keeps the size at stride 1; BatchNorm follows, so it needs no bias."""
    padding = tuple(size // 2 for size in kernel)
    return nn.Conv3d(*channels, kernel, stride, padding, bias=False)


def _stem(channels: int, time_kernel: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=_conv((3, channels), (time_kernel, size, size), (1, 2, 2)),
            bn=nn.BatchNorm3d(channels),
            relu=nn.ReLU(inplace=True),
            pool=nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
    )


class _Fusion(nn.Module):
    """Lateral connection: the fast pathway, slowed down, joins behind the slow channels."""

    def __init__(self, fast: int, kernel: int, alpha: int) -> None:
        super().__init__()
        channels = (fast, _FUSION_RATIO * fast)
        self.conv_f2s = _conv(channels, (kernel, 1, 1), (alpha, 1, 1))
        self.bn = nn.BatchNorm3d(channels[1])

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        return torch.cat([slow, F.relu(self.bn(self.conv_f2s(fast)), inplace=True)], 1)


class _Bottleneck(nn.Module):
    def __init__(self, into: int, inner: int, time_kernel: int, stride: int, first: bool) -> None:
        super().__init__()
        out = inner * _EXPANSION
        self.branch1: nn.Module | None = None
        if first:  # every stage projects its first shortcut, also where the size stays
            self.branch1 = _conv((into, out), (1, 1, 1), (1, stride, stride))
            self.branch1_bn = nn.BatchNorm3d(out)
        self.branch2 = nn.Sequential(
            OrderedDict(
                a=_conv((into, inner), (time_kernel, 1, 1)),
                a_bn=nn.BatchNorm3d(inner),
                a_relu=nn.ReLU(inplace=True),
                b=_conv((inner, inner), (1, 3, 3), (1, stride, stride)),
                b_bn=nn.BatchNorm3d(inner),
                b_relu=nn.ReLU(inplace=True),
                c=_conv((inner, out), (1, 1, 1)),
                c_bn=nn.BatchNorm3d(out),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.branch1 is None else self.branch1_bn(self.branch1(x))
        return F.relu(self.branch2(x).add_(shortcut), inplace=True)


class _Stage(nn.Module):
    """``depth`` blocks for either pathway; the pairs are (slow, fast)."""

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
                block = _Bottleneck(
                    *channels, time_kernels[pathway], stride if i == 0 else 1, i == 0
                )
                self.add_module(f"pathway{pathway}_res{i}", block)
                channels = (inner[pathway] * _EXPANSION, inner[pathway])

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        for i in range(self.depth):
            slow = getattr(self, f"pathway0_res{i}")(slow)
            fast = getattr(self, f"pathway1_res{i}")(fast)
        return slow, fast


class _Head(nn.Module):
    def __init__(self, feature_dim: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(feature_dim, num_classes)

    def forward(self, slow: Tensor, fast: Tensor) -> Output:
        maps = []
        for x in (slow, fast):
            x = x.mean(2)  # all of time: [B, C, H, W]
            kernel = (min(_POOL, x.shape[2]), min(_POOL, x.shape[3]))
            maps.append(F.avg_pool2d(x, kernel, stride=1))
        feature = torch.cat(maps, 1).permute(0, 2, 3, 1)  # [B, h, w, D]
        return Output(feature, self.projection(self.dropout(feature)))


def _initialise(net: nn.Module) -> None:
    """Start of a training from nothing: He et al. 2015 for convolutions, and residual branches
    that begin at zero (Goyal et al. 2017), without which deep ones diverge in the first steps."""
    for module in net.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, _Bottleneck):
            nn.init.zeros_(module.branch2.c_bn.weight)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


# ---------------------------------------------------------------------------------------------
# The one face of all teachers
# ---------------------------------------------------------------------------------------------

_FORMAT = "egodistill.teacher"
_VERSION = 1
# Networks that a saved teacher may name.
_NETWORKS: dict[str, type[nn.Module]] = {"SlowFast": SlowFast}


class Teacher(nn.Module):
    """A video network together with all that its outputs depend on.

    Args:
        net: takes a normalised clip, float [B, 3, T, H, W], and returns (feature, logits).
        clip_spec: the clip it wants.
        feature_dim: D, the length of its feature.
        class_names: the C classes in the order of its logits.
        name: its outputs are called "{name}.feature" and "{name}.logits" in a store.

    ``inputs`` says what it reads from a batch. ``save`` and ``load`` keep everything in one file.
    """

    inputs: tuple[str, ...] = ("clip",)

    def __init__(
        self,
        net: nn.Module,
        *,
        clip_spec: ClipSpec,
        feature_dim: int,
        class_names: Sequence[str],
        name: str = "slowfast",
    ) -> None:
        super().__init__()
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise TeacherError(
                f"the name {name!r} becomes part of file names: use letters, digits, '_' and '-'"
            )
        self.net = net
        self.clip_spec = clip_spec
        self.feature_dim = int(feature_dim)
        self.class_names = [str(label) for label in class_names]
        self.name = name
        # Not part of state_dict: they come from clip_spec, and one source is enough.
        self.register_buffer("_mean", torch.tensor(clip_spec.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(clip_spec.std).view(3, 1, 1), persistent=False)

    def forward(self, clip: Tensor) -> Output:
        """uint8 RGB [B, T, 3, H, W] -> feature [B, D] and logits [B, C], without a softmax.

        A clip of another height or width is resized to the size of ``clip_spec``. Raises
        TeacherError where the type, the number of frames or the layout differ.
        """
        spec = self.clip_spec
        frames = clip.shape[1:3]
        if clip.dtype != torch.uint8 or clip.ndim != 5 or frames != (spec.frames, 3):
            raise TeacherError(
                f"teacher {self.name!r} got {clip.dtype} {list(clip.shape)}; it wants torch.uint8 "
                f"[B, {spec.frames}, 3, H, W] in RGB"
            )
        x = clip.float()
        if clip.shape[3:] != (spec.size, spec.size):
            x = F.interpolate(
                x.flatten(0, 1), (spec.size, spec.size), mode="bilinear", antialias=True
            ).unflatten(0, clip.shape[:2])
        if spec.channels == "BGR":
            x = x.flip(2)
        x = (x / 255 - self._mean) / self._std
        return self.encode(x.transpose(1, 2))

    def encode(self, x: Tensor) -> Output:
        """Normalised clip, float [B, 3, T, H, W] in the channel order of ``clip_spec``."""
        feature, logits = self.net(x)
        got = (tuple(feature.shape), tuple(logits.shape))
        wanted = ((len(x), self.feature_dim), (len(x), len(self.class_names)))
        if got != wanted:
            raise TeacherError(
                f"teacher {self.name!r} gave feature and logits of the shapes {got}; "
                f"feature_dim and class_names say {wanted}"
            )
        return Output(feature, logits)

    def example(self, batch_size: int = 1) -> tuple[Tensor]:
        """Random input of the right shape and type, for ``measure()``."""
        spec = self.clip_spec
        shape = (batch_size, spec.frames, 3, spec.size, spec.size)
        return (torch.randint(256, shape, dtype=torch.uint8),)

    @classmethod
    def wrap(
        cls,
        module: nn.Module,
        *,
        feature_layer: str,
        clip_spec: ClipSpec,
        class_names: Sequence[str],
        name: str | None = None,
    ) -> Teacher:
        """A teacher from any video model with the input [B, 3, T, H, W].

        ``feature_layer`` names its last classifier (a linear layer or a convolution), as in
        ``module.named_modules()``: what goes in is the feature, what comes out the logits. What the
        model does afterwards (a softmax, say) is left out; further positions in time and space are
        averaged. ``name`` is the class's name in small letters unless given.
        """
        net = _Wrapped(module, feature_layer)
        classes, feature_dim = net.layer.weight.shape[:2]
        if classes != len(class_names):
            raise TeacherError(
                f"layer {feature_layer!r} gives {classes} scores for {len(class_names)} class names"
            )
        return cls(
            net,
            clip_spec=clip_spec,
            feature_dim=feature_dim,
            class_names=class_names,
            name=name or type(module).__name__.lower(),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file that ``load`` needs nothing else for.

        It is complete or absent: it gets its name after all is written. Raises TeacherError for a
        network that is not of this file.
        """
        architecture = type(self.net).__name__
        if _NETWORKS.get(architecture) is not type(self.net):
            raise TeacherError(
                f"teacher {self.name!r} holds a {architecture.lstrip('_')} network, which this "
                "library cannot build again by itself. Keep its weights with "
                "torch.save(teacher.net.state_dict(), path) and build it by your own code"
            )
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "name": self.name,
            "architecture": architecture,
            "options": self.net.options,
            "clip_spec": asdict(self.clip_spec),
            "feature_dim": self.feature_dim,
            "class_names": self.class_names,
            "weights": self.net.state_dict(),
        }
        with _replacing(Path(path)) as partial:
            torch.save(content, partial)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Teacher:
        """Read what ``save`` wrote; the teacher is in evaluation mode, on the CPU.

        Raises TeacherError, which names the file, if it is damaged, of another kind, or if its
        weights are not exactly those of its network. It runs no code from the file.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise
        except Exception as error:  # torch has no common class for all that a file can have
            raise TeacherError(
                f"{path} cannot be read as a teacher; it is damaged or of another kind "
                f"({type(error).__name__}: {str(error)[:200]})"
            ) from error
        if not isinstance(content, Mapping) or content.get("format") != _FORMAT:
            raise TeacherError(f"{path} is not a teacher written by Teacher.save")
        if content.get("version") != _VERSION:
            raise TeacherError(
                f"{path} has version {content.get('version')} of the teacher format; "
                f"this library reads version {_VERSION}"
            )
        try:
            network = _NETWORKS[content["architecture"]]
            with torch.device("meta"):  # no memory and no random numbers for weights to come
                net = network(**content["options"])
            teacher = cls(
                net,
                clip_spec=ClipSpec(**content["clip_spec"]),
                feature_dim=content["feature_dim"],
                class_names=content["class_names"],
                name=content["name"],
            )
            weights = dict(content["weights"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise TeacherError(
                f"the description in {path} does not build a teacher "
                f"({type(error).__name__}: {error})"
            ) from error
        _load_exactly(net, weights, path)
        return teacher.eval()


def _load_exactly(net: nn.Module, weights: Mapping[str, Tensor], path: Any) -> None:
    """Give ``net`` (on the meta device) these weights, or say all that does not fit."""
    wanted = net.state_dict()
    problems = [f"missing: {key}" for key in wanted if key not in weights]
    problems += [f"unexpected: {key}" for key in weights if key not in wanted]
    for key, value in weights.items():
        if not isinstance(value, Tensor):
            problems.append(f"{key}: not a tensor")
        elif key in wanted and (value.shape, value.dtype) != (wanted[key].shape, wanted[key].dtype):
            problems.append(
                f"{key}: {value.dtype} {list(value.shape)} in the file, "
                f"{wanted[key].dtype} {list(wanted[key].shape)} in the network"
            )
    if problems:
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise TeacherError(
            f"the weights in {path} are not those of its {type(net).__name__}:\n  "
            + "\n  ".join(problems[:20])
            + more
        )
    net.load_state_dict(weights, strict=True, assign=True)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name in the folder of ``path``; move it there if all went well."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class _Wrapped(nn.Module):
    """Someone else's model; its classifier is watched during each run."""

    def __init__(self, module: nn.Module, feature_layer: str) -> None:
        super().__init__()
        self.module = module
        self.feature_layer = feature_layer
        self.options = {"module": type(module).__name__, "feature_layer": feature_layer}
        layers = dict(module.named_modules())
        if feature_layer not in layers:
            last = [name for name, layer in layers.items() if hasattr(layer, "weight")][-5:]
            raise TeacherError(
                f"{type(module).__name__} has no layer {feature_layer!r}; its last layers with "
                f"weights are {last}"
            )
        weight = getattr(self.layer, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim < 2:
            raise TeacherError(
                f"layer {feature_layer!r} is a {type(self.layer).__name__}; feature_layer must be "
                "the linear layer or convolution that gives the scores"
            )

    @property
    def layer(self) -> nn.Module:
        return self.module.get_submodule(self.feature_layer)

    def forward(self, x: Tensor) -> Output:
        seen: list[tuple[Tensor, Tensor]] = []
        handle = self.layer.register_forward_hook(
            lambda layer, inputs, output: seen.append((inputs[0], output))
        )
        try:
            self.module(x)
        finally:
            handle.remove()
        if len(seen) != 1:
            raise TeacherError(
                f"layer {self.feature_layer!r} ran {len(seen)} times for one batch; a classifier "
                "runs once"
            )
        # Channels are last in a linear layer and second in a convolution.
        last = isinstance(self.layer, nn.Linear)
        feature, logits = (value.movedim(-1, 1) if last else value for value in seen[0])
        if feature.ndim == 2:
            return Output(feature, logits)
        return Output(feature.flatten(2).mean(2), logits.flatten(2).mean(2))


def slowfast(
    num_classes: int,
    *,
    class_names: Sequence[str] | None = None,
    name: str = "slowfast",
    frames: int = 32,
    size: int = 224,
    seconds: float = CLIP_SECONDS,
    mean: Sequence[float] = (0.45, 0.45, 0.45),
    std: Sequence[float] = (0.225, 0.225, 0.225),
    channels: str = "RGB",
    **options: Any,
) -> Teacher:
    """A SlowFast teacher with fresh weights; the defaults are the published 8x8 R50.

    ``options`` go to ``SlowFast``, the other arguments to ``ClipSpec`` and ``Teacher``. Without
    ``class_names`` the classes are called "0", "1", ...
    """
    labels = [str(i) for i in range(num_classes)] if class_names is None else list(class_names)
    if len(labels) != num_classes:
        raise TeacherError(f"{len(labels)} class names for num_classes={num_classes}")
    net = SlowFast(num_classes, frames=frames, **options)
    spec = ClipSpec(frames, size, seconds, tuple(mean), tuple(std), channels)
    return Teacher(net, clip_spec=spec, feature_dim=net.feature_dim, class_names=labels, name=name)


# ---------------------------------------------------------------------------------------------
# Outputs for a whole store
# ---------------------------------------------------------------------------------------------


def extract(
    teacher: Teacher,
    store: Any,
    *,
    batch_size: int = 8,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    progress: bool = True,
    overwrite: bool = False,
) -> None:
    """Run the teacher over every clip of ``store`` that lacks its outputs.

    Reads the array "clip" and writes "{teacher.name}.feature" float32 [D] and
    "{teacher.name}.logits" float32 [C] for each clip. A run that was killed goes on where it ended
    when it is started again.

    Args:
        store: a ``data.ClipStore`` or a split of it.
        batch_size: clips at a time.
        device: where to compute; the GPU if there is one, unless given. The teacher is moved back
            afterwards.
        precision: "fp32", or "bf16" for mixed precision.
        progress: show a bar on stderr.
        overwrite: compute all clips again, also where outputs of another teacher are; these must
            all be of this ``store``. Should such a run be killed, only another one with
            ``overwrite=True`` is accepted, which begins anew.

    "{teacher.name}.teacher.json" beside the arrays keeps the teacher's fingerprint, so that outputs
    of two teachers never meet under one name.

    Raises TeacherError if the store's classes or frames are not the teacher's, if it has no "clip"
    array, if its outputs are of another teacher, or if an output is not finite.
    """
    if precision not in ("fp32", "bf16"):
        raise TeacherError(f"precision is {precision!r}; it must be 'fp32' or 'bf16'")
    _check_store(teacher, store)
    record = Path(store.path) / f"{teacher.name}.teacher.json"
    identity = {
        "teacher": teacher.name,
        "fingerprint": _fingerprint(teacher),
        "precision": precision,
        "clip_spec": asdict(teacher.clip_spec),
    }
    arrays = (f"{teacher.name}.feature", f"{teacher.name}.logits")
    present = any(array in store.names for array in arrays)
    splits = set(store.splits)
    identity = _claim(record, identity, splits, present=present, overwrite=overwrite)

    widths = (teacher.feature_dim, len(teacher.class_names))
    for array, width in zip(arrays, widths, strict=True):
        store.add(array, (width,), np.float32)
    lacking = np.ones(len(store), bool)
    if not overwrite:
        lacking = ~(np.asarray(store.done(arrays[0])) & np.asarray(store.done(arrays[1])))
    rows = np.flatnonzero(lacking)

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    bar = _Progress(f"{teacher.name}: extract", len(rows), shown=progress)
    with _evaluating(teacher, device), torch.no_grad(), closing(bar):
        for start in range(0, len(rows), batch_size):
            index = rows[start : start + batch_size]
            clip = torch.from_numpy(store.read("clip", index)).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                output = teacher(clip)
            for array, values in zip(arrays, output, strict=True):
                if not values.isfinite().all():
                    raise TeacherError(
                        f"{array} is not finite for the clips {index.tolist()} of {store.path}; "
                        "look at the weights of the teacher"
                    )
                store.write(array, index, values.float().cpu().numpy())
            bar.add(len(index))
    if overwrite:
        _write_json(record, identity)


def _check_store(teacher: Teacher, store: Any) -> None:
    ours, theirs = teacher.class_names, list(store.class_names)
    if ours != theirs:
        pairs = enumerate(zip(ours, theirs, strict=False))
        first = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
        raise TeacherError(
            f"teacher {teacher.name!r} has {len(ours)} classes, the store {store.path} has "
            f"{len(theirs)}; they differ first at class {first}: "
            f"{ours[first : first + 1]} and {theirs[first : first + 1]}"
        )
    frames = teacher.clip_spec.frames
    if "clip" not in store.names:
        raise TeacherError(
            f"the store {store.path} has no array 'clip', which a teacher reads; make it with "
            f"prepare(..., clip_frames={frames}, clip_size={teacher.clip_spec.size})"
        )
    if len(store):
        found = store.read("clip", np.array([0])).shape[1]
        if found != frames:
            raise TeacherError(
                f"the clips of the store {store.path} have {found} frames, teacher "
                f"{teacher.name!r} wants {frames}; use prepare(..., clip_frames={frames})"
            )


def _fingerprint(teacher: Teacher) -> str:
    """Of the weights and of whatever else changes the outputs."""
    settings = [asdict(teacher.clip_spec), getattr(teacher.net, "options", None)]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for key, value in sorted(teacher.net.state_dict().items()):
        digest.update(f"{key} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _claim(
    record: Path, identity: dict[str, Any], splits: set[str], *, present: bool, overwrite: bool
) -> dict[str, Any]:
    """Put the teacher's name on its arrays; refuse where they are another teacher's."""
    found = json.loads(record.read_text()) if record.exists() else {}
    differs = [key for key in ("fingerprint", "precision") if found.get(key) != identity[key]]
    written = set(found.get("splits", []))
    if not overwrite and found.get("unfinished"):
        raise TeacherError(
            f"{record}: a run with overwrite=True was interrupted, so outputs of two teachers "
            "may lie side by side; run it again with overwrite=True"
        )
    if not overwrite and differs and (present or found):
        raise TeacherError(
            f"{record}: the outputs in this store have the {differs[0]} {found.get(differs[0])}, "
            f"this run has {identity[differs[0]]}; give the teacher another name, or compute "
            "all of them again with overwrite=True"
        )
    if overwrite and (differs or found.get("unfinished")) and written - splits:
        raise TeacherError(
            f"{record}: overwriting only {sorted(splits)} would leave another teacher's outputs "
            f"in {sorted(written - splits)}; give extract() the whole store"
        )
    claimed = {**identity, "splits": sorted(written | splits)}
    _write_json(record, {**claimed, "unfinished": True} if overwrite else claimed)
    return claimed


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with _replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


@contextmanager
def _evaluating(module: nn.Module, device: torch.device) -> Iterator[None]:
    """On ``device`` in evaluation mode; afterwards all as it was, layer by layer."""
    modes = {layer: layer.training for layer in module.modules()}
    home = next(module.parameters()).device
    try:
        module.to(device).eval()
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode
        module.to(home)


class _Progress:
    """One line on stderr: what, how many of how many, clips per second, time left."""

    def __init__(self, title: str, total: int, *, shown: bool = True) -> None:
        self.title, self.total, self.shown = title, total, shown
        self.done = 0
        self.start = self.last = time.monotonic()
        # A log file gets a line a minute, a terminal one line that is drawn again and again.
        self.terminal = sys.stderr.isatty()

    def close(self) -> None:
        self._draw("\n")

    def add(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self.last > (0.2 if self.terminal else 60):
            self._draw("" if self.terminal else "\n")

    def _draw(self, end: str) -> None:
        self.last = time.monotonic()
        if self.shown:
            rate = self.done / max(self.last - self.start, 1e-9)
            left = (self.total - self.done) / rate if rate else 0.0
            line = f"{self.title} {self.done}/{self.total}, {rate:.1f} clips/s, {left:.0f} s left"
            start = "\r\x1b[K" if self.terminal else ""  # back to the first column, line cleared
            print(start + line, end=end, file=sys.stderr, flush=True)
