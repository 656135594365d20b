"""The heavy video models whose knowledge a student takes over: clip -> (feature, logits).

MotionFormer, MViT, SlowFast and X3D in plain PyTorch, number by number what their authors' code
gives, and a loader for the checkpoints that their authors published.

A teacher reads a dense clip of uint8 RGB frames and gives a feature vector and class scores. It
carries all that its outputs depend on (frame count, size, mean, deviation, channel order, class
names), so that none of it has to be remembered beside the weights.

    from egodistill import teachers

    teacher = teachers.load("epic_motionformer_16x4", "ek_motionformer_224_16x4.pyth", class_names=verbs)
    feature, logits = teacher(clip)                         # uint8 [B, 16, 3, H, W]
    teacher = teachers.load("x3d_m", "x3d_m.pyth", 62, new_head=True)  # to be trained on 62 classes
    teacher = teachers.load("mvit_b_16x4", None, 5, frames=8, size=64, depths=(1, 1, 2, 1))  # small, fresh

    teacher.save("teacher.pt")                              # weights and everything else, one file
    teacher = teachers.Teacher.load("teacher.pt")
    teachers.extract(teacher, store)                        # outputs for every clip of a store

``MODELS`` lists the names. Any other video model becomes a teacher through ``Teacher.wrap``. Scores
are logits everywhere: no teacher applies a softmax, since distillation needs its own temperature.
Sizes are counted in multiply-adds, half of what torch's FlopCounterMode counts.

The file reads in this order: the face of all teachers; MotionFormer; MViT; SlowFast; X3D; published
checkpoints; outputs for a whole store. It can be copied alone: it needs torch and numpy only.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import re
import sys
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

try:
    import fcntl
except ModuleNotFoundError:
    fcntl = None
try:
    import msvcrt  # Windows
except ModuleNotFoundError:
    msvcrt = None

__all__ = [
    "ClipSpec",
    "Output",
    "Teacher",
    "TeacherError",
    "MotionFormer",
    "MViT",
    "SlowFast",
    "X3D",
    "MODELS",
    "Published",
    "load",
    "slowfast",
    "extract",
]

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
                f"frames={self.frames}, size={self.size} and seconds={self.seconds} must all be positive"
            )
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3 or (name == "std" and min(values) <= 0):
                raise TeacherError(f"{name} is {values}; it needs three numbers, std above 0")
            object.__setattr__(self, name, values)  # a list would make the spec unhashable


# ---------------------------------------------------------------------------------------------
# The face of all teachers
# ---------------------------------------------------------------------------------------------

_FORMAT = "egodistill.teacher"
_VERSION = 1


def _networks() -> dict[str, type[nn.Module]]:
    """Networks that a saved teacher may name: those of this file."""
    return {network.__name__: network for network in (MotionFormer, MViT, SlowFast, X3D)}


class Teacher(nn.Module):
    """A video network together with all that its outputs depend on.

    Args:
        net: takes a normalised clip, float [B, 3, T, H, W], and returns (feature, logits).
        clip_spec: the clip it wants.
        feature_dim: D, the length of its feature.
        class_names: the C classes in the order of its logits.
        name: its outputs are called "{name}.feature" and "{name}.logits" in a store.

    ``inputs`` says what it reads from a batch, ``origin`` where its weights are from, if they were
    published. ``save`` and ``load`` keep everything in one file.
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
            raise TeacherError(f"the name {name!r} becomes part of file names: use letters, digits, '_' and '-'")
        self.net = net
        self.clip_spec = clip_spec
        self.feature_dim = int(feature_dim)
        self.class_names = [str(label) for label in class_names]
        self.name = name
        self.origin = ""
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
            x = F.interpolate(x.flatten(0, 1), (spec.size, spec.size), mode="bilinear", antialias=True).unflatten(
                0, clip.shape[:2]
            )
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

    @property
    def classifier(self) -> nn.Module:
        """The layer from feature to logits, for trainings that change it alone."""
        return self.net.get_submodule(self.net.classifier)

    def freeze_trunk(self) -> Teacher:
        """Leave nothing but the classifier to be trained; batch norms keep their statistics, too."""
        self.requires_grad_(False)
        self.classifier.requires_grad_(True)
        return self

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
        class_names: Sequence[str] | None = None,
        name: str | None = None,
    ) -> Teacher:
        """A teacher from any video model with the input [B, 3, T, H, W].

        ``feature_layer`` names its last classifier (a linear layer or a convolution), as in
        ``module.named_modules()``: what goes in is the feature, what comes out the logits. What the
        model does afterwards (a softmax, say) is left out; further positions in time and space are
        averaged. Without ``class_names`` the classes are called "0", "1", ...; ``name`` is that of the
        module's class in small letters unless given.

            r3d = Teacher.wrap(r3d_18(), feature_layer="fc", clip_spec=ClipSpec(16, 112))
            swin = Teacher.wrap(swin3d_t(), feature_layer="head", clip_spec=ClipSpec(32, 224))
        """
        net = _Wrapped(module, feature_layer)
        classes, feature_dim = net.get_submodule(net.classifier).weight.shape[:2]
        if class_names is None:
            class_names = [str(i) for i in range(classes)]
        if classes != len(class_names):
            raise TeacherError(f"layer {feature_layer!r} gives {classes} scores for {len(class_names)} class names")
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
        network that is not of this file, and where the system cannot write, say on a full disk.
        """
        architecture = type(self.net).__name__
        if _networks().get(architecture) is not type(self.net):
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
            "origin": self.origin,
            "weights": self.net.state_dict(),
        }
        with _replacing(Path(path)) as partial, open(partial, "wb") as file:
            torch.save(content, file)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Teacher:
        """Read what ``save`` wrote; the teacher is in evaluation mode, on the CPU.

        Raises TeacherError, which names the file, if it is damaged, of another kind, or if its
        weights are not exactly those of its network; FileNotFoundError if there is no such file. It
        runs no code from the file.
        """
        content = _load_safely(path, "a teacher")
        if not isinstance(content, Mapping) or content.get("format") != _FORMAT:
            raise TeacherError(f"{path} is not a teacher written by Teacher.save")
        if content.get("version") != _VERSION:
            raise TeacherError(
                f"{path} has version {content.get('version')} of the teacher format; "
                f"this library reads version {_VERSION}"
            )
        try:
            network = _networks()[content["architecture"]]
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
                f"the description in {path} does not build a teacher ({type(error).__name__}: {error})"
            ) from error
        teacher.origin = str(content.get("origin", ""))
        _fit(net, weights, path, exact=True)
        return teacher.eval()


def _load_safely(path: str | os.PathLike[str], what: str) -> Any:
    """What lies in a file of torch.save; code in it does not run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch has no common class for all that a file can have
        # Its own words run over many lines and advise to switch its guard off.
        raise TeacherError(
            f"{path} cannot be read as {what}: it is cut off, of another kind, or holds code ({type(error).__name__})"
        ) from error


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name in the folder of ``path``; move it there if all went well."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        replace_file(partial, path)
    except (OSError, RuntimeError) as error:
        # torch covers the system's words with its own.
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise TeacherError(
            f"{path} cannot be written ({reason}). What stood there before is whole; make room or "
            "give another place, and the same call goes on"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def replace_file(source: Path, target: Path) -> None:
    """Rename a file to `target`. Windows refuses while another process reads that one: try for a second."""
    for _ in range(20):
        with suppress(PermissionError):
            os.replace(source, target)
            return
        time.sleep(0.05)
    os.replace(source, target)


class _Wrapped(nn.Module):
    """Someone else's model; its classifier is watched during each run."""

    def __init__(self, module: nn.Module, feature_layer: str) -> None:
        super().__init__()
        self.module = module
        self.classifier = f"module.{feature_layer}"
        self.options = {"module": type(module).__name__, "feature_layer": feature_layer}
        layers = dict(module.named_modules())
        if feature_layer not in layers:
            last = [name for name, layer in layers.items() if hasattr(layer, "weight")][-5:]
            raise TeacherError(
                f"{type(module).__name__} has no layer {feature_layer!r}; its last layers with weights are {last}"
            )
        layer = layers[feature_layer]
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim < 2:
            raise TeacherError(
                f"layer {feature_layer!r} is a {type(layer).__name__}; feature_layer must be "
                "the linear layer or convolution that gives the scores"
            )

    def forward(self, x: Tensor) -> Output:
        layer = self.get_submodule(self.classifier)
        seen: list[tuple[Tensor, Tensor]] = []
        handle = layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
        try:
            self.module(x)
        finally:
            handle.remove()
        if len(seen) != 1:
            raise TeacherError(f"layer {self.classifier!r} ran {len(seen)} times for one batch; a classifier runs once")
        # Channels are last in a linear layer and second in a convolution.
        last = isinstance(layer, nn.Linear)
        feature, logits = (value.movedim(-1, 1) if last else value for value in seen[0])
        if feature.ndim == 2:
            return Output(feature, logits)
        return Output(feature.flatten(2).mean(2), logits.flatten(2).mean(2))


# ---------------------------------------------------------------------------------------------
# Parts of several networks
# ---------------------------------------------------------------------------------------------

_EPS = 1e-6  # of every LayerNorm; torch's default of 1e-5 is visible in the features


def _check_clip(x: Tensor, frames: int | None = None, size: int | None = None) -> None:
    """Normalised clips are [B, 3, T, H, W]; None leaves a size open."""
    wanted = ("B", 3, frames or "T", size or "H", size or "W")
    pairs = zip(x.shape, wanted, strict=False)
    if x.ndim != 5 or any(isinstance(b, int) and a != b for a, b in pairs):
        raise TeacherError(f"the clip is {list(x.shape)}; it must be [{', '.join(map(str, wanted))}]")


class _Conv3d(nn.Conv3d):
    """Convolution whose weights learn nothing wrong from short clips.

    On CPUs with bf16, torch 2.13 computes a wrong weight gradient, often of undefined numbers, where
    the kernel is longer in time than its input (3 over 2 frames, say; 1 frame is right). Such layers
    are small: in training they are computed in fp32.
    """

    def forward(self, x: Tensor) -> Tensor:
        trained = torch.is_grad_enabled() and self.weight.requires_grad
        if trained and x.device.type == "cpu" and x.shape[2] < self.kernel_size[0]:
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.to(self.weight.dtype))
        return super().forward(x)


def _conv(
    channels: tuple[int, int],
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1),
    groups: int = 1,
) -> nn.Conv3d:
    """Convolution that keeps the size at stride 1; BatchNorm follows, so it needs no bias."""
    padding = tuple(size // 2 for size in kernel)
    return _Conv3d(*channels, kernel, stride, padding, groups=groups, bias=False)


def _channels_last(weight: Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last_3d) and not weight.is_contiguous()


def _average_pool(x: Tensor, side: int) -> Tensor:
    """[B, C, T, H, W] -> [B, C, h, w]: all of time, squares of ``side`` with stride 1.

    A smaller map is pooled whole.
    """
    x = x.mean(2)
    return F.avg_pool2d(x, (min(side, x.shape[2]), min(side, x.shape[3])), stride=1)


def _initialise_convolutional(net: nn.Module) -> None:
    """Start of a training from nothing: He et al. 2015 for convolutions, and residual branches
    that begin at zero (Goyal et al. 2017), without which deep ones diverge in the first steps."""
    for module in net.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, (_Bottleneck, _X3DBlock)):
            nn.init.zeros_(module.branch2.c_bn.weight)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


def _mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    layers = OrderedDict(fc1=nn.Linear(width, hidden), gelu=nn.GELU(), fc2=nn.Linear(hidden, out))
    return nn.Sequential(layers)


def _linear(last: float, depth: int) -> list[float]:
    """``depth`` numbers from 0 to ``last`` in equal steps."""
    return [last * i / max(depth - 1, 1) for i in range(depth)]


def _drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth (Huang et al. 2016): leaves out a residual branch of some clips."""
    if not training or rate == 0.0:
        return x
    kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= rate
    return x * (kept / (1.0 - rate)).to(x.dtype)


def _run(block: nn.Module, x: Any, *rest: Any, checkpointed: bool) -> Any:
    if checkpointed and torch.is_grad_enabled():
        return torch.utils.checkpoint.checkpoint(block, x, *rest, use_reentrant=False)
    return block(x, *rest)


def _initialise_transformer(net: nn.Module) -> None:
    """Start of a training from nothing, as every vision transformer does it."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    for parameter in net.parameters(recurse=False):  # tokens and positions
        nn.init.trunc_normal_(parameter, std=0.02)


# ---------------------------------------------------------------------------------------------
# MotionFormer (Patrick et al., "Keeping Your Eye on the Ball", NeurIPS 2021)
# ---------------------------------------------------------------------------------------------


class MotionFormer(nn.Module):
    """Vision transformer over space-time patches that follows each of them along its trajectory.

    The defaults are the released 16x4 model at 224 pixels (108.9 M parameters, a feature of 768
    numbers). Parameters are named as in facebookresearch/Motionformer.

    Args:
        num_classes: C; or two numbers, verbs and nouns, for the models of EPIC-KITCHENS.
        frames: T, frames of the clip, a multiple of ``tubelet``.
        size: side in pixels of the crop that has a learnt position for every patch. Crops of
            another size get them resized.
        patch, tubelet: side in pixels and length in frames of one patch.
        width, depth, heads, mlp_ratio: of the transformer; ``heads`` divides ``width``.
        head: with two heads, the one that gives the logits, "verb" or "noun".
        value_step: what the softmax over frames averages. "original": the trajectory tokens, as
            the released weights were trained. "projected": their projection, as the paper writes
            it. The weights are of the same shapes, so no file tells which of the two it needs.
        fast: compute the trajectory attention in the order that needs 45 % less arithmetic and no
            [S, S] matrix. False computes it as the released code does, with the 369.5 G
            multiply-adds that the EgoDistill paper counts. Outputs agree to rounding.
        drop_path: share of skipped residual branches in training, of the last block; it grows
            linearly from 0 at the first.

    Set ``gradient_checkpointing`` to True to trade time for memory in training.
    """

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
        classes = (num_classes,) if isinstance(num_classes, int) else tuple(num_classes)
        if len(classes) not in (1, 2):
            raise TeacherError(f"num_classes is {num_classes}; it must be one number or two")
        for name, value, choices in (
            ("head", head, ("verb", "noun")),
            ("value_step", value_step, ("original", "projected")),
        ):
            if value not in choices:
                raise TeacherError(f"{name} is {value!r}; it must be one of {choices}")
        if frames % tubelet or size % patch or width % heads:
            raise TeacherError(
                f"tubelet={tubelet} must divide frames={frames}, patch={patch} size={size}, and "
                f"heads={heads} width={width}"
            )
        self.options: dict[str, Any] = {
            "num_classes": classes[0] if len(classes) == 1 else classes,
            "frames": frames,
            "size": size,
            "patch": patch,
            "tubelet": tubelet,
            "width": width,
            "depth": depth,
            "heads": heads,
            "mlp_ratio": mlp_ratio,
            "head": head,
            "value_step": value_step,
            "fast": fast,
            "drop_path": drop_path,
        }
        self.frames, self.patch, self.grid = frames, patch, size // patch
        self.feature_dim = width
        self.gradient_checkpointing = False

        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        self.temp_embed = nn.Parameter(torch.zeros(1, frames // tubelet, width))
        # The 2-D embedding of the image model lies in every released file and is never run.
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.patch_embed.requires_grad_(False)
        cube = (tubelet, patch, patch)
        self.patch_embed_3d = nn.ModuleDict({"proj": nn.Conv3d(3, width, cube, cube)})
        self.blocks = nn.ModuleList(
            _MotionFormerBlock(width, heads, int(mlp_ratio * width), value_step == "projected", fast, rate)
            for rate in _linear(drop_path, depth)
        )
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.pre_logits = nn.Sequential(OrderedDict(fc=nn.Linear(width, width), tanh=nn.Tanh()))
        names = ("head",) if len(classes) == 1 else ("head0", "head1")  # head0: verbs
        for name, count in zip(names, classes, strict=True):
            self.add_module(name, nn.Linear(width, count))
        self.classifier = names[-1 if head == "noun" else 0]
        _initialise_transformer(self)

    def forward(self, x: Tensor) -> Output:
        """Normalised clip, float [B, 3, T, H, W] -> feature [B, D], logits [B, C]."""
        feature = self.features(x)
        return Output(feature, self.get_submodule(self.classifier)(feature))

    def features(self, x: Tensor) -> Tensor:
        """What every head reads: normalised clip, float [B, 3, T, H, W] -> feature [B, D]."""
        _check_clip(x, self.frames)
        if x.shape[3] % self.patch or x.shape[4] % self.patch:
            raise TeacherError(
                f"a clip of {x.shape[3]} x {x.shape[4]} pixels; both must be multiples of the patches' {self.patch}"
            )
        x = self.patch_embed_3d["proj"](x)  # [B, D, T', h, w]
        time, *grid = x.shape[2:]
        # Token (t, p) has the position of p plus that of t: [T', h w, D], in the order of time.
        position = self._spatial(grid) + self.temp_embed[0, :, None]
        x = x.flatten(2).transpose(1, 2) + position.flatten(0, 1)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x], 1)
        for block in self.blocks:
            x = _run(block, x, time, checkpointed=self.gradient_checkpointing)
        return self.pre_logits(self.norm(x[:, 0]))  # of the class token

    def _spatial(self, grid: Sequence[int]) -> Tensor:
        """The learnt positions of patches [h w, D], resized where the crop has another size."""
        learnt = self.pos_embed[:, 1:]
        if tuple(grid) == (self.grid, self.grid):
            return learnt[0]
        square = learnt.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        resized = F.interpolate(square, tuple(grid), mode="bicubic", align_corners=False)
        return resized.flatten(2).transpose(1, 2)[0]


class _MotionFormerBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int, projected: bool, fast: bool, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = _TrajectoryAttention(width, heads, projected, fast)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = _mlp(width, hidden, width)
        self.drop_path = drop_path

    def forward(self, x: Tensor, time: int) -> Tensor:
        x = x + _drop_path(self.attn(self.norm1(x), time), self.drop_path, self.training)
        return x + _drop_path(self.mlp(self.norm2(x)), self.drop_path, self.training)


_MANY = 1 << 22  # numbers: 16 MB of trajectories


class _TrajectoryAttention(nn.Module):
    """Section 3.2 of that paper: attend within each frame, then along the frames so found.

    Shapes: T frames of P patches make S = T P tokens of width C = H d, in H heads.
    """

    def __init__(self, width: int, heads: int, projected: bool, fast: bool) -> None:
        super().__init__()
        self.heads, self.projected, self.fast = heads, projected, fast
        self.qkv = nn.Linear(width, 3 * width)
        self.proj_q = nn.Linear(width, width)
        self.proj_kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, time: int) -> Tensor:
        """[B, 1 + S, C], the class token first -> the same."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # The class token attends to all tokens at once and has no trajectory: [B, H, 1, d].
        first = F.scaled_dot_product_attention(q[:, :, :1], k, v)
        trajectories = self._trajectories if self.fast else self._trajectories_as_released
        rest = trajectories(q[:, :, 1:], k[:, :, 1:], v[:, :, 1:], time)
        return self.proj(torch.cat([first.transpose(1, 2).flatten(2), rest], 1))

    def _trajectories(self, q: Tensor, k: Tensor, v: Tensor, time: int) -> Tensor:
        """q, k, v [B, H, S, d] -> [B, S, C]."""
        # A CPU takes one clip and the queries of one frame at a time where trajectories are many:
        # what they need stays in its cache, and they never lie in memory as a whole. A GPU, and
        # the short steps of a small network, are kept busy by all.
        on_cpu = q.device.type == "cpu" and q.numel() * time > _MANY
        if on_cpu and len(q) > 1:
            clips = zip(q.split(1), k.split(1), v.split(1), strict=True)
            return torch.cat([self._trajectories(*clip, time) for clip in clips])
        # Frames are a batch dimension of the keys, for every query looks into each by itself.
        k, v = (y.unflatten(2, (time, -1)).permute(2, 0, 1, 3, 4).flatten(0, 1) for y in (k, v))  # [T B, H, P, d]
        step = 1 if on_cpu else time
        parts = q.unflatten(2, (time, -1)).split(step, 2)  # [B, H, T', P, d] each
        return torch.cat([self._along(part, k, v, i * step) for i, part in enumerate(parts)], 1)

    def _along(self, q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
        """The queries q [B, H, T', P, d] of the frames from ``start`` on -> [B, T' P, C]."""
        batch, heads, count, patches, dim = q.shape
        time, width = len(k) // batch, heads * dim
        # Space: x[t, n] is what query n, one of N = B T' P, finds in frame t.
        q = q.flatten(2, 3).expand(time, -1, -1, -1, -1).flatten(0, 1)  # [T B, H, T' P, d]
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        x = x.reshape(time, batch * count * patches, width)

        # Time: the trajectory is asked by what the query found in its own frame.
        own = x[start : start + count].unflatten(1, (batch, count, patches))
        own = own.diagonal(dim1=0, dim2=2).permute(0, 3, 1, 2).reshape(-1, width)  # [N, C]
        q = self.proj_q(own).unflatten(1, (heads, dim)) * dim**-0.5
        # q · (W x + b) = (Wᵀ q) · x + q · b, and a constant drops out of the softmax over frames:
        # so W goes to the query, which has T times fewer rows than the tokens.
        to_key, to_value = self.proj_kv.weight.unflatten(0, (2, heads, dim))  # [H, d, C] each
        q = torch.einsum("nhd,hdc->nhc", q, to_key)
        attention = torch.einsum("nhc,tnc->nht", q, x).softmax(2)
        if not self.projected:
            y = torch.einsum("nht,tnhd->nhd", attention, x.unflatten(2, (heads, dim)))
        else:  # Likewise: Σ a (W x + b) = W (Σ a x) + b, for the weights a add up to one.
            y = torch.einsum("nht,tnc->nhc", attention, x)
            y = torch.einsum("nhc,hdc->nhd", y, to_value)
            y = y + self.proj_kv.bias[width:].unflatten(0, (heads, dim))
        return y.reshape(batch, count * patches, width)

    def _trajectories_as_released(self, q: Tensor, k: Tensor, v: Tensor, time: int) -> Tensor:
        """The same in the order of the released code, every product written out."""
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


# ---------------------------------------------------------------------------------------------
# MViT (Fan et al., "Multiscale Vision Transformers", ICCV 2021)
# ---------------------------------------------------------------------------------------------

_Grid = tuple[int, int, int]  # tokens in time, height and width


class MViT(nn.Module):
    """Transformer whose stages halve the resolution and double the channels, as a ResNet does.

    The defaults are the published MViT-B 16x4 with pooling by convolutions (36.6 M parameters at
    400 classes, 70.6 G multiply-adds, a feature of 768 numbers). Parameters are named as in
    PySlowFast.

    Args:
        num_classes: C, the number of scores.
        frames: T, frames of the clip, an even number.
        size: side of the clip in pixels, a multiple of 4.
        width, heads: of the first stage. A stage has twice as many heads as the one before, and
            the last block of a stage leads to twice the width.
        depths: blocks of the stages.
        kv_stride: spatial stride of pooled keys and values in the first stage; a stage halves it.
        pool_unstrided: pool keys and values also where that stride is 1. The oldest file of
            PySlowFast is reported to have been trained without (SlowFast issue 456).
        pool_eps: of the LayerNorms after pooling. pytorchvideo has 1e-5 there, PySlowFast and
            torchvision have 1e-6 everywhere.
        dropout: on the feature, before the classifier.
        drop_path: share of skipped residual branches in training, of the last block; it grows
            linearly from 0 at the first.

    Set ``gradient_checkpointing`` to True to trade time for memory in training.
    """

    classifier = "head.projection"

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
        pool_eps: float = _EPS,
        dropout: float = 0.5,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        if frames % 2 or size % 4 or width % heads or min(depths) < 1:
            raise TeacherError(
                f"frames={frames} must be even, size={size} a multiple of 4, width={width} one of "
                f"heads={heads}, and depths={tuple(depths)} at least 1 each"
            )
        self.options: dict[str, Any] = {
            "num_classes": num_classes,
            "frames": frames,
            "size": size,
            "width": width,
            "heads": heads,
            "depths": tuple(depths),
            "kv_stride": kv_stride,
            "pool_unstrided": pool_unstrided,
            "pool_eps": pool_eps,
            "dropout": dropout,
            "drop_path": drop_path,
        }
        self.frames, self.size = frames, size
        self.gradient_checkpointing = False

        time, side = frames // 2, size // 4
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, width, (3, 7, 7), (2, 4, 4), (1, 3, 3))})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed_spatial = nn.Parameter(torch.zeros(1, side**2, width))
        self.pos_embed_temporal = nn.Parameter(torch.zeros(1, time, width))
        self.pos_embed_class = nn.Parameter(torch.zeros(1, 1, width))

        rates = iter(_linear(drop_path, sum(depths)))
        self.blocks = nn.ModuleList()
        for stage, depth in enumerate(depths):
            stride = max(kv_stride >> stage, 1)
            for i in range(depth):
                widens = i == depth - 1 and stage < len(depths) - 1
                block = MViTBlock(
                    width,
                    width * 2 if widens else width,
                    heads,
                    q_stride=2 if stage and i == 0 else 1,
                    kv_stride=stride if stride > 1 or pool_unstrided else None,
                    pool_eps=pool_eps,
                    drop_path=next(rates),
                )
                self.blocks.append(block)
                width *= 2 if widens else 1
            heads *= 2
        self.feature_dim = width
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.head = nn.Sequential(OrderedDict(dropout=nn.Dropout(dropout), projection=nn.Linear(width, num_classes)))
        _initialise_transformer(self)

    def forward(self, x: Tensor) -> Output:
        """Normalised clip, float [B, 3, T, size, size] -> feature [B, D], logits [B, C]."""
        _check_clip(x, self.frames, self.size)
        x = self.patch_embed["proj"](x)  # [B, D, T', h, w]
        grid = tuple(x.shape[2:])
        # Token (t, p) has the position of p plus that of t: [T', h w, D], in the order of time.
        position = self.pos_embed_spatial + self.pos_embed_temporal[0, :, None]
        x = x.flatten(2).transpose(1, 2) + position.flatten(0, 1)
        first = (self.cls_token + self.pos_embed_class).expand(len(x), -1, -1)
        x = torch.cat([first, x], 1)
        for block in self.blocks:
            x, grid = _run(block, x, grid, checkpointed=self.gradient_checkpointing)
        feature = self.norm(x[:, 0])  # of the class token
        return Output(feature, self.head(feature))


class MViTBlock(nn.Module):
    """Attention works in the width that comes in; the MLP leads to the width that goes out."""

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
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = _PoolingAttention(width, heads, q_stride, kv_stride, pool_eps)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = _mlp(width, 4 * width, out)
        self.proj = nn.Linear(width, out) if out != width else None
        stride = (1, q_stride, q_stride)
        self.pool_skip = nn.MaxPool3d((1, 3, 3), stride, (0, 1, 1)) if q_stride > 1 else None
        self.drop_path = drop_path

    def forward(self, x: Tensor, grid: _Grid) -> tuple[Tensor, _Grid]:
        """Tokens [B, 1 + S, C] that lie on ``grid`` -> the same of the next block."""
        attended, out_grid = self.attn(self.norm1(x), grid)
        if self.pool_skip is not None:
            x = _pool_tokens(self.pool_skip, x[:, None], grid)[0][:, 0]
        x = x + _drop_path(attended, self.drop_path, self.training)
        y = self.norm2(x)
        if self.proj is not None:  # a new width is projected from the normalised tokens
            x = self.proj(y)
        return x + _drop_path(self.mlp(y), self.drop_path, self.training), out_grid


class _PoolingAttention(nn.Module):
    """Section 3.1 of that paper: queries, keys and values are pooled before they meet.

    A stride of 1 leaves queries as they are, None leaves keys and values as they are.
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
                pool = _Conv3d(dim, dim, 3, (1, stride, stride), 1, groups=dim, bias=False)
                norm = nn.LayerNorm(dim, eps=pool_eps)
            self.add_module(f"pool_{name}", pool)
            self.add_module(f"norm_{name}", norm)

    def forward(self, x: Tensor, grid: _Grid) -> tuple[Tensor, _Grid]:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, out_grid = self._pooled("q", q, grid)
        k, v = self._pooled("k", k, grid)[0], self._pooled("v", v, grid)[0]
        x = F.scaled_dot_product_attention(q, k, v)  # [B, heads, 1 + S, d]
        return self.proj(x.transpose(1, 2).flatten(2)), out_grid

    def _pooled(self, name: str, x: Tensor, grid: _Grid) -> tuple[Tensor, _Grid]:
        pool = getattr(self, f"pool_{name}")
        if pool is None:
            return x, grid
        x, grid = _pool_tokens(pool, x, grid)
        return getattr(self, f"norm_{name}")(x), grid  # over the class token, too


def _pool_tokens(pool: nn.Module, x: Tensor, grid: _Grid) -> tuple[Tensor, _Grid]:
    """Tokens [B, heads, 1 + S, d] on ``grid`` -> pooled tokens, their grid; the class token stays."""
    first, rest = x[:, :, :1], x[:, :, 1:]
    maps = rest.transpose(2, 3).unflatten(3, grid).flatten(0, 1)  # [B heads, d, T, h, w]
    maps = pool(maps)
    rest = maps.flatten(2).transpose(1, 2).unflatten(0, x.shape[:2])
    return torch.cat([first, rest], 2), tuple(maps.shape[2:])


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

    classifier = "head.projection"

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
                f"alpha={alpha} does not divide frames={frames}: the slow pathway needs a whole number of frames"
            )
        if width % beta:
            raise TeacherError(
                f"beta={beta} does not divide width={width}: the fast pathway needs a whole number of channels"
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
        _initialise_convolutional(self)

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
        _check_clip(x, self.frames)
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
                block = _Bottleneck(*channels, time_kernels[pathway], stride if i == 0 else 1, i == 0)
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
        maps = [_average_pool(x, _POOL) for x in (slow, fast)]
        feature = torch.cat(maps, 1).permute(0, 2, 3, 1)  # [B, h, w, D]
        return Output(feature, self.projection(self.dropout(feature)))


# ---------------------------------------------------------------------------------------------
# X3D (Feichtenhofer, "X3D: Expanding Architectures for Efficient Video Recognition", CVPR 2020)
# ---------------------------------------------------------------------------------------------


class X3D(nn.Module):
    """A narrow network of depthwise space-time convolutions, grown along one axis at a time.

    The defaults are the published X3D-M (3.8 M parameters at 400 classes, 4.7 G multiply-adds for
    16 frames of 224 pixels, a feature of 2048 numbers); XS and S are the same network on fewer
    frames and pixels, L a deeper one. Parameters are named as in PySlowFast.

    Args:
        num_classes: C, the number of scores.
        width: channels of the stem and of the stage s2; every further stage doubles them.
        depth_factor: the stages have this times 1, 2, 5 and 3 blocks, rounded up.
        bottleneck: channels inside a block, as a multiple of those that leave it.
        feature_dim: D, the length of the feature.
        pool: side of the last average pool, a 32nd of the crop that the network was trained on;
            larger crops have several positions (see ``positions``).
        first_shortcut_norm: BatchNorm on the first shortcut of the stage s2, as PySlowFast has it
            and pytorchvideo has not.
        dropout: on the feature, before the classifier.
    """

    classifier = "head.projection"

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
        if width < 1 or not depth_factor > 0 or not bottleneck > 0 or pool < 1:
            raise TeacherError(
                f"width={width}, depth_factor={depth_factor}, bottleneck={bottleneck} and "
                f"pool={pool} must all be positive"
            )
        self.options: dict[str, Any] = {
            "num_classes": num_classes,
            "width": width,
            "depth_factor": depth_factor,
            "bottleneck": bottleneck,
            "feature_dim": feature_dim,
            "pool": pool,
            "first_shortcut_norm": first_shortcut_norm,
            "dropout": dropout,
        }
        self.feature_dim = feature_dim
        stem = OrderedDict(
            conv_xy=_conv((3, width), (1, 3, 3), (1, 2, 2)),
            conv=_conv((width, width), (5, 1, 1), groups=width),  # time, one filter a channel
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
                block = _X3DBlock(
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
        self.head = _X3DHead(into, inner, feature_dim, num_classes, pool, dropout)
        _initialise_convolutional(self)

    def forward(self, x: Tensor) -> Output:
        """Normalised clip, float [B, 3, T, H, W] -> feature [B, D], logits [B, C], averaged over
        the positions of a large crop."""
        feature, logits = self.positions(x)
        return Output(feature.mean((1, 2)), logits.mean((1, 2)))

    def positions(self, x: Tensor) -> Output:
        """Normalised clip, float [B, 3, T, H, W] -> feature [B, h, w, D], logits [B, h, w, C].

        h x w are the places of the last average pool, with stride 1.
        """
        _check_clip(x)
        if _channels_last(self.s2.pathway0_res0.branch2.b.weight):
            x = x.contiguous(memory_format=torch.channels_last_3d)
        x = self.s1["pathway0_stem"](x)
        return self.head(self.s5(self.s4(self.s3(self.s2(x)))))


class _X3DBlock(nn.Module):
    """Widen, filter each channel by itself in space and time, weigh the channels, narrow."""

    def __init__(self, into: int, inner: int, out: int, *, first: bool, squeeze: bool, shortcut_norm: bool) -> None:
        super().__init__()
        stride = (1, 2, 2) if first else (1, 1, 1)
        self.branch1: nn.Module | None = None
        if first:
            self.branch1 = _conv((into, out), (1, 1, 1), stride)
            self.branch1_bn = nn.BatchNorm3d(out) if shortcut_norm else None
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            a=_conv((into, inner), (1, 1, 1)),
            a_bn=nn.BatchNorm3d(inner),
            a_relu=nn.ReLU(inplace=True),
            b=_conv((inner, inner), (3, 3, 3), stride, groups=inner),
            b_bn=nn.BatchNorm3d(inner),
        )
        if squeeze:
            layers["se"] = _SqueezeExcitation(inner)
        layers.update(
            b_swish=nn.SiLU(inplace=True),
            c=_conv((inner, out), (1, 1, 1)),
            c_bn=nn.BatchNorm3d(out),
        )
        self.branch2 = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.branch1 is not None:
            shortcut = self.branch1(x)
            shortcut = shortcut if self.branch1_bn is None else self.branch1_bn(shortcut)
        return F.relu(self.branch2(x).add_(shortcut), inplace=True)


class _SqueezeExcitation(nn.Module):
    """Hu et al. 2018: every channel is weighted by what all of them are on average."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # A sixteenth, as the nearest multiple of 8 that is not more than 10 % below it.
        exact = channels / 16
        inner = max(8, int(exact + 4) // 8 * 8)
        inner += 8 if inner < 0.9 * exact else 0
        self.fc1 = nn.Conv3d(channels, inner, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv3d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.fc2(self.relu(self.fc1(x.mean((2, 3, 4), keepdim=True))))
        return x * weight.sigmoid()


class _X3DHead(nn.Module):
    """The average pool lies before the widest layer, which so costs next to nothing."""

    def __init__(self, into: int, inner: int, feature_dim: int, num_classes: int, pool: int, dropout: float) -> None:
        super().__init__()
        self.pool = pool
        self.conv_5 = _conv((into, inner), (1, 1, 1))
        self.conv_5_bn = nn.BatchNorm3d(inner)
        self.lin_5 = _conv((inner, feature_dim), (1, 1, 1))  # no BatchNorm here
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(feature_dim, num_classes)

    def forward(self, x: Tensor) -> Output:
        x = F.relu(self.conv_5_bn(self.conv_5(x)), inplace=True)
        x = self.lin_5(_average_pool(x, self.pool)[:, :, None])
        feature = F.relu(x[:, :, 0], inplace=True).permute(0, 2, 3, 1)  # [B, h, w, D]
        return Output(feature, self.projection(self.dropout(feature)))


# ---------------------------------------------------------------------------------------------
# Published checkpoints
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Published:
    """A model that its authors released.

    ``network(num_classes, **options)`` builds it; ``clip_spec`` is the clip it was trained on.
    ``released`` names the files that hold its weights, as their authors call them.
    """

    network: type[nn.Module]
    num_classes: int | tuple[int, int]
    clip_spec: ClipSpec
    released: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


def _motionformer(frames: int, rate: int, size: int, datasets: str) -> dict[str, Published]:
    """The models of one clip, for Kinetics and, where there is one, for EPIC-KITCHENS.

    Their clips for EPIC-KITCHENS came from OpenCV, which gives BGR, and nothing turned them round
    (reference: Motionformer's epickitchens loader). With a mean and a deviation that are the same
    for all channels, nothing but the accuracy tells.
    """
    spec = ClipSpec(frames, size, frames * rate / 30, (0.5,) * 3, (0.5,) * 3)
    name = f"{frames}x{rate}" if size == 224 else f"{size}_{frames}x{rate}"
    options = {"size": 224}  # at 336 pixels, too: the positions are resized at run time
    files = [f"{one}_motionformer_{size}_{frames}x{rate}.pyth" for one in datasets.split()]
    epic = tuple(file for file in files if file.startswith("ek_"))
    other = tuple(file for file in files if file not in epic)
    found = {f"motionformer_{name}": Published(MotionFormer, 400, spec, other, options)}
    if epic:
        spec = replace(spec, channels="BGR")
        found[f"epic_motionformer_{name}"] = Published(MotionFormer, (97, 300), spec, epic, options)
    return found


def _x3d(frames: int, rate: int, size: int, letter: str, **options: Any) -> Published:
    spec = ClipSpec(frames, size, frames * rate / 30)
    options["pool"] = math.ceil(size / 32)
    return Published(X3D, 400, spec, (f"x3d_{letter}.pyth",), options)


MODELS: dict[str, Published] = {
    **_motionformer(16, 4, 224, "ek k400 k600 ssv2"),
    **_motionformer(16, 8, 224, ""),
    **_motionformer(32, 3, 224, "ek k400 k600 ssv2"),
    **_motionformer(16, 4, 336, "ek ssv2"),
    **_motionformer(16, 8, 336, "k400 k600"),
    "mvit_b_16x4": Published(
        MViT,
        400,
        ClipSpec(16, 224, 64 / 30),
        # pytorchvideo and torchvision; the file of PySlowFast has no name of its own.
        ("MVIT_B_16x4.pyth", "mvit_v1_b-dbeb1030.pth"),
    ),
    "slowfast_8x8_r50": Published(
        SlowFast,
        400,
        ClipSpec(32, 224, 64 / 30),
        ("SLOWFAST_8x8_R50.pkl", "SLOWFAST_8x8_R50.pyth"),
    ),
    "slowfast_4x16_r50": Published(
        SlowFast,
        400,
        ClipSpec(32, 224, 64 / 30),
        ("SLOWFAST_4x16_R50.pkl", "SLOWFAST_4x16_R50.pyth"),
        {"alpha": 8, "fusion_kernel": 5},
    ),
    "x3d_xs": _x3d(4, 12, 160, "xs"),
    "x3d_s": _x3d(13, 6, 160, "s"),
    "x3d_m": _x3d(16, 5, 224, "m"),
    "x3d_l": _x3d(16, 5, 312, "l", depth_factor=5.0),
}


def load(
    name: str,
    checkpoint: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    num_classes: int | Sequence[int] | None = None,
    *,
    class_names: Sequence[str] | None = None,
    new_head: bool = False,
    unsafe_pickle: bool = False,
    progress: bool = True,
    **options: Any,
) -> Teacher:
    """One of ``MODELS`` as a teacher in evaluation mode, with published weights or fresh ones.

    Args:
        name: a key of ``MODELS``. "epic_motionformer_..." has two heads and BGR clips,
            "motionformer_..." one head and RGB clips.
        checkpoint: a file as its authors released it, or a state dict; None for fresh weights. The
            layouts of Motionformer, PySlowFast, pytorchvideo and torchvision are recognised by
            their keys and renamed. Every tensor must fit, and none may be missing or left over.
        num_classes: C; the checkpoint's unless given, or the published model's where there is none.
            Two numbers make MotionFormer a model of verbs and nouns.
        class_names: the C labels, in the order of the logits; "0", "1", ... unless given, for no
            checkpoint holds them.
        new_head: replace the classifier of the checkpoint by a fresh one for ``num_classes``.
            Without it, a checkpoint of another number of classes is refused.
        unsafe_pickle: also read the Caffe2 files of PySlowFast (.pkl). They are Python pickles, a
            format that can run any code. Here nothing but numpy arrays may come out of them; give
            it only for files from a source that you trust all the same.
        progress: say on stderr what was taken; the same is in the teacher's ``origin``.
        options: of the network (``head="noun"``, ``value_step="projected"``, ``drop_path=0.0``, ...)
            or fields of ``ClipSpec`` (``size=256``, ``channels="BGR"``, ...). "frames" and "size"
            are given to both. With other options than the published ones, fresh weights make a
            model of any size.

    Raises TeacherError, which lists all that does not fit, and FileNotFoundError.
    """
    if name not in MODELS:
        raise TeacherError(f"there is no model {name!r}; the names are {', '.join(MODELS)}")
    published = MODELS[name]
    known = signature(published.network).parameters
    ours = {one.name for one in fields(ClipSpec)}
    strange = sorted(set(options) - set(known) - ours)
    if strange:
        raise TeacherError(f"{name} has no option {strange[0]!r}; it has {', '.join(sorted({*known, *ours}))}")
    spec = replace(published.clip_spec, **{k: v for k, v in options.items() if k in ours})
    settings = {
        **{k: getattr(spec, k) for k in ("frames", "size") if k in known},
        **published.options,
        **{k: v for k, v in options.items() if k in known},
    }
    if isinstance(num_classes, Sequence):
        num_classes = tuple(num_classes)
    if num_classes is None and class_names is not None and (checkpoint is None or new_head):
        num_classes = len(class_names)

    if checkpoint is None:
        classes = published.num_classes if num_classes is None else num_classes
        net, origin = published.network(classes, **settings), "fresh weights"
    else:
        net, origin = _from_checkpoint(
            published,
            checkpoint,
            num_classes,
            settings,
            new_head=new_head,
            unsafe_pickle=unsafe_pickle,
        )
    count = net.get_submodule(net.classifier).out_features
    labels = [str(i) for i in range(count)] if class_names is None else list(class_names)
    if len(labels) != count:
        raise TeacherError(
            f"{len(labels)} class names for the {count} classes of {name}; new_head=True would "
            "replace the classifier of a checkpoint"
        )
    teacher = Teacher(net, clip_spec=spec, feature_dim=net.feature_dim, class_names=labels, name=name)
    teacher.origin = origin
    if progress:
        print(f"{name}: {origin} ({spec.channels} clips)", file=sys.stderr)
    return teacher.eval()


def _from_checkpoint(
    published: Published,
    checkpoint: Any,
    num_classes: int | tuple[int, ...] | None,
    settings: dict[str, Any],
    *,
    new_head: bool,
    unsafe_pickle: bool,
) -> tuple[nn.Module, str]:
    """The network with the weights of a checkpoint, and in words what was taken from where."""
    network = published.network
    given = isinstance(checkpoint, Mapping)
    where = "the given state dict" if given else str(checkpoint)
    state = _weights_in(checkpoint if given else _read(Path(checkpoint), unsafe_pickle), where)
    layout = _recognise(state, where)
    if layout.network is not network:
        fitting = ", ".join(k for k, v in MODELS.items() if v.network is layout.network)
        raise TeacherError(
            f"{where} holds {layout.network.__name__} weights in the layout of {layout.source}, but "
            f"{network.__name__} weights were asked for; the names of the former are {fitting}"
        )
    weights, names, ignored = _rename(state, layout)

    heads = _classes_of(weights)
    if num_classes is None and not new_head:
        if heads is None:
            raise TeacherError(f"{where} has no classifier; give num_classes and new_head=True to start one")
        if isinstance(heads, tuple) != isinstance(published.num_classes, tuple):
            raise TeacherError(
                f"{where} has classifiers for {heads} classes, the published model for "
                f"{published.num_classes}: two heads are EPIC-KITCHENS', whose clips are BGR and "
                "whose names begin with 'epic_'. Give num_classes if it is meant so"
            )
    classes = heads if num_classes is None else num_classes
    if classes is None:
        raise TeacherError("new_head=True needs num_classes or class_names")
    if not new_head and classes != heads:
        raise TeacherError(
            f"{where} has a classifier for {heads} classes, {classes} were asked for; replace it "
            "with new_head=True, or leave num_classes out"
        )

    settings = settings | _decided_by_file(layout, weights, settings)
    with torch.device("meta"):  # no memory and no random numbers for weights to come
        net = network(classes, **settings)
    wanted = net.state_dict()
    for key in wanted:
        if key.endswith("num_batches_tracked") and layout.source == "Caffe2":
            weights[key] = torch.zeros((), dtype=torch.int64)  # it did not count them
    said = f"its classifier of {heads} classes"
    if new_head:
        weights = {key: value for key, value in weights.items() if not _CLASSIFIER.fullmatch(key)}
        for key in wanted:
            if _CLASSIFIER.fullmatch(key):
                fresh = torch.zeros(wanted[key].shape)
                weights[key] = fresh.normal_(std=0.01) if key.endswith("weight") else fresh
        said = f"a fresh classifier of {classes} classes in place of its {heads}"
    _fit(net, weights, where, names=names, copy=given)
    ignoring = f", ignoring {len(ignored)} such as {ignored[0]}" if ignored else ""
    return net, (
        f"{len(state) - len(ignored)} tensors of {where} in the layout of {layout.source}{ignoring}, with {said}"
    )


def _read(path: Path, unsafe_pickle: bool) -> Any:
    if path.suffix != ".pkl":
        return _load_safely(path, "a checkpoint")
    if not unsafe_pickle:
        raise TeacherError(
            f"{path} is a Caffe2 file, a Python pickle, and pickles can run any code when they are "
            "read. If you trust its source, give unsafe_pickle=True"
        )
    try:
        with open(path, "rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged pickle can raise almost anything
        raise TeacherError(
            f"{path} cannot be read as a Caffe2 file ({type(error).__name__}: {str(error)[:200]})"
        ) from error


class _ArraysOnly(pickle.Unpickler):
    """A pickle may name any function to be called; here it gets what makes numpy arrays."""

    allowed = frozenset(
        {
            ("collections", "OrderedDict"),
            ("_codecs", "encode"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("numpy._core", "numpy.core"), name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        if module.startswith("numpy") and name in ("_reconstruct", "scalar"):
            # Its module has another name since numpy 2; numpy says itself where it is.
            example = np.zeros(0) if name == "_reconstruct" else np.float32(0)
            return example.__reduce__()[0]
        return super().find_class(module, name)


def _weights_in(content: Any, where: str) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, wherever its authors put it."""
    if isinstance(content, Mapping) and content.get("format") == _FORMAT:
        raise TeacherError(f"{where} was written by Teacher.save; read it with Teacher.load")
    if isinstance(content, Mapping):
        for key in ("model_state", "state_dict", "model", "blobs"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise TeacherError(f"{where} holds no weights by name; its content is {_kind(content)}")
    state = {key: torch.from_numpy(value) if _is_numbers(value) else value for key, value in content.items()}
    if state and all(key.startswith("module.") for key in state):  # saved from DataParallel
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiu"


def _kind(content: Any) -> str:
    inside = f" of {list(content)[:5]}" if isinstance(content, Mapping) else ""
    return f"a {type(content).__name__}{inside}"


@dataclass(frozen=True)
class _Layout:
    """How one code base calls the weights of one network.

    ``marker`` matches the beginning of a key that only this layout has; ``rules`` lead from its
    keys to ours, one after the other; ``ignored`` matches whole keys that are no weights.
    """

    network: type[nn.Module]
    source: str
    marker: str
    rules: tuple[tuple[str, Any], ...] = ()
    ignored: str = "(?!)"  # nothing


# pytorchvideo calls the blocks of both convolutional networks alike.
_PYTORCHVIDEO_BLOCKS = (
    (r"\.branch1_conv\.", ".branch1."),
    (r"\.branch1_norm\.", ".branch1_bn."),
    (r"\.branch2\.conv_([abc])\.", r".branch2.\1."),
    (r"\.branch2\.norm_([abc])\.", r".branch2.\1_bn."),
)
# Caffe2 has four letters a BatchNorm; "riv" is a variance, despite its name.
_CAFFE2_NORM = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}

# The more particular ones come first.
_LAYOUTS = (
    _Layout(MotionFormer, "Motionformer", r"patch_embed_3d\.|blocks\.\d+\.attn\.proj_kv\."),
    _Layout(
        MViT,
        "pytorchvideo",
        r"cls_positional_encoding\.|patch_embed\.patch_model\.",
        (
            (r"^patch_embed\.patch_model\.", "patch_embed.proj."),
            (r"^cls_positional_encoding\.", ""),
            (r"^norm_embed\.", "norm."),
            (r"^head\.proj\.", "head.projection."),
        ),
        r".*\.attn\._attention_pool_[qkv]\..*",  # a second name for pool_q, norm_q, ...
    ),
    _Layout(
        MViT,
        "torchvision",
        r"pos_encoding\.|conv_proj\.|blocks\.\d+\.attn\.project\.",
        (
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
    ),
    _Layout(MViT, "PySlowFast", r"pos_embed_spatial|blocks\.\d+\.attn\.pool_[qkv]\."),
    _Layout(
        SlowFast,
        "pytorchvideo",
        r"blocks\.\d\.multipathway_",
        (
            (r"^blocks\.0\.multipathway_blocks\.(\d)\.conv\.", r"s1.pathway\1_stem.conv."),
            (r"^blocks\.0\.multipathway_blocks\.(\d)\.norm\.", r"s1.pathway\1_stem.bn."),
            (r"^blocks\.(\d)\.multipathway_fusion\.", lambda m: f"s{int(m[1]) + 1}_fuse."),
            (r"_fuse\.conv_fast_to_slow\.", "_fuse.conv_f2s."),
            (r"_fuse\.norm\.", "_fuse.bn."),
            (
                r"^blocks\.([1-4])\.multipathway_blocks\.(\d)\.res_blocks\.(\d+)\.",
                lambda m: f"s{int(m[1]) + 1}.pathway{m[2]}_res{m[3]}.",
            ),
            *_PYTORCHVIDEO_BLOCKS,
            (r"^blocks\.6\.proj\.", "head.projection."),
        ),
    ),
    _Layout(
        SlowFast,
        "Caffe2",
        r"t_conv1_w|t_res\d_|t_pool1_",
        (
            (r"^pred_", "head.projection_"),
            (r"^t_pool1_subsample_", "s1_fuse.conv_f2s_"),
            (r"^t_res(\d)_\d+_branch2c_bn_subsample_", r"s\1_fuse.conv_f2s_"),
            (r"_fuse\.conv_f2s_bn_", "_fuse.bn_"),
            # The fast pathway is called t_...; its blocks are numbered like those of the slow one.
            (r"^(t_)?(?:res_)?conv1_", lambda m: f"s1.pathway{int(bool(m[1]))}_stem.conv_"),
            (r"_stem\.conv_bn_", "_stem.bn_"),
            (
                r"^(t_)?res(\d)_(\d+)_branch",
                lambda m: f"s{m[2]}.pathway{int(bool(m[1]))}_res{m[3]}.branch",
            ),
            (r"\.branch2([abc])_", r".branch2.\1_"),
            (r"_(s|b|rm|riv)$", lambda m: "." + _CAFFE2_NORM[m[1]]),
            (r"_w$", ".weight"),
        ),
        r".*_momentum|lr|model_iter",
    ),
    _Layout(SlowFast, "PySlowFast", r"s\d_fuse\.|s\d\.pathway1_"),
    _Layout(
        X3D,
        "pytorchvideo",
        r"blocks\.0\.conv\.conv_|blocks\.\d\.res_blocks\.",
        (
            # Their names of the stem's convolutions are crossed: conv_t is the spatial one.
            (r"^blocks\.0\.conv\.conv_t\.", "s1.pathway0_stem.conv_xy."),
            (r"^blocks\.0\.conv\.conv_xy\.", "s1.pathway0_stem.conv."),
            (r"^blocks\.0\.norm\.", "s1.pathway0_stem.bn."),
            (
                r"^blocks\.([1-4])\.res_blocks\.(\d+)\.",
                lambda m: f"s{int(m[1]) + 1}.pathway0_res{m[2]}.",
            ),
            (r"\.norm_b\.0\.", ".norm_b."),
            (r"\.norm_b\.1\.block\.0\.", ".se.fc1."),
            (r"\.norm_b\.1\.block\.2\.", ".se.fc2."),
            *_PYTORCHVIDEO_BLOCKS,
            (r"^blocks\.5\.pool\.pre_conv\.", "head.conv_5."),
            (r"^blocks\.5\.pool\.pre_norm\.", "head.conv_5_bn."),
            (r"^blocks\.5\.pool\.post_conv\.", "head.lin_5."),
            (r"^blocks\.5\.proj\.", "head.projection."),
        ),
    ),
    _Layout(X3D, "PySlowFast", r"s1\.pathway0_stem\.conv_xy\.|s\d\.pathway0_res\d+\.branch2\.se\."),
)


def _recognise(state: Mapping[str, Any], where: str) -> _Layout:
    for layout in _LAYOUTS:
        if any(re.match(layout.marker, key) for key in state):
            return layout
    raise TeacherError(
        f"{where} has none of the layouts that this library knows (Motionformer; SlowFast, X3D and "
        "MViT of PySlowFast and pytorchvideo; SlowFast of Caffe2; MViT of torchvision). It begins "
        f"with {list(state)[:5]}"
    )


def _rename(state: Mapping[str, Any], layout: _Layout) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Weights by our keys, {our key: the key in the file}, and the keys that are no weights."""
    weights: dict[str, Any] = {}
    names: dict[str, str] = {}
    ignored = []
    for key, value in state.items():
        if re.fullmatch(layout.ignored, key):
            ignored.append(key)
            continue
        ours = key
        for pattern, replacement in layout.rules:
            ours = re.sub(pattern, replacement, ours)
        ours = key if ours in weights else ours  # two of one name: let the second be unexpected
        weights[ours], names[ours] = value, key
    if layout.network is MViT:
        _arrange_mvit(weights, names)
    return weights, names, ignored


def _arrange_mvit(weights: dict[str, Any], names: dict[str, str]) -> None:
    """Some files hold q, k and v apart, and torchvision's positions lack dimensions of one."""
    for key in [key for key in weights if ".attn.q." in key]:
        parts = [key.replace(".attn.q.", f".attn.{letter}.") for letter in "qkv"]
        if all(isinstance(weights.get(part), Tensor) for part in parts):
            ours = key.replace(".attn.q.", ".attn.qkv.")
            weights[ours], names[ours] = torch.cat([weights.pop(part) for part in parts]), key
    for key in ("cls_token", "pos_embed_spatial", "pos_embed_temporal", "pos_embed_class"):
        value = weights.get(key)
        if isinstance(value, Tensor) and value.ndim < 3:
            weights[key] = value[(None,) * (3 - value.ndim)]


_CLASSIFIER = re.compile(r"(head|head0|head1|head\.projection)\.(weight|bias)")


def _classes_of(weights: Mapping[str, Any]) -> int | tuple[int, ...] | None:
    """Classes of the classifier in a checkpoint, two numbers for two classifiers."""
    found = tuple(
        len(weights[key])
        for key in ("head.weight", "head.projection.weight", "head0.weight", "head1.weight")
        if isinstance(weights.get(key), Tensor) and weights[key].ndim == 2
    )
    return found[0] if len(found) == 1 else found or None


def _decided_by_file(layout: _Layout, weights: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Options that a checkpoint leaves no choice about."""
    if layout.network is MotionFormer:  # a larger crop resizes the learnt positions
        positions = weights.get("pos_embed")
        if isinstance(positions, Tensor) and positions.ndim == 3 and positions.shape[1] > 1:
            side = math.isqrt(positions.shape[1] - 1)
            return {"size": side * settings.get("patch", 16)}
    if layout.network is X3D:
        return {"first_shortcut_norm": "s2.pathway0_res0.branch1_bn.weight" in weights}
    if layout.network is MViT:
        last = sum(settings.get("depths", (1, 2, 11, 2))) - 1
        return {
            "pool_unstrided": f"blocks.{last}.attn.pool_k.weight" in weights,
            # Their attention takes LayerNorm as torch has it; 2.7e-5 of a feature tell.
            "pool_eps": 1e-5 if layout.source == "pytorchvideo" else _EPS,
        }
    return {}


def _fit(
    net: nn.Module,
    weights: Mapping[str, Any],
    where: Any,
    *,
    names: Mapping[str, str] | None = None,
    exact: bool = False,
    copy: bool = False,
) -> None:
    """Give ``net`` (on the meta device) these weights, or say all that does not fit.

    ``names`` are the keys as the file has them. Floating point numbers of another precision are
    converted unless ``exact``; with ``copy``, the tensors given stay the caller's own.
    """
    names, wanted = names or {}, net.state_dict()
    problems = [f"missing: {key}" for key in wanted if key not in weights]
    problems += [f"unexpected: {names.get(key, key)}" for key in weights if key not in wanted]
    fitting: dict[str, Tensor] = {}
    for key, value in weights.items():
        if not isinstance(value, Tensor):
            problems.append(f"{names.get(key, key)}: not a tensor but a {type(value).__name__}")
            continue
        if key not in wanted:
            continue
        target = wanted[key]
        same_kind = value.is_floating_point() == target.is_floating_point()
        same_kind = value.dtype == target.dtype if exact else same_kind
        if value.shape != target.shape or not same_kind:
            problems.append(
                f"{names.get(key, key)}: {value.dtype} {list(value.shape)} in the file, "
                f"{target.dtype} {list(target.shape)} in the network"
            )
        elif not value.isfinite().all():
            problems.append(f"{names.get(key, key)}: not all of its numbers are finite")
        else:
            fitting[key] = value.detach().to(target.dtype, copy=copy).contiguous()
    if problems:
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise TeacherError(
            f"the weights in {where} are not those of this {type(net).__name__}:\n  "
            + "\n  ".join(problems[:20])
            + more
        )
    net.load_state_dict(fitting, strict=True, assign=True)


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
    views: int = 1,
    batch_size: int = 8,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    rank: int | None = None,
    world_size: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> None:
    """Run the teacher over every clip of ``store`` that lacks its outputs.

    Reads the array "clip" and writes "{teacher.name}.feature" float32 [D] and
    "{teacher.name}.logits" float32 [C] for each clip. A run that was killed goes on where it ended
    when it is started again.

    Args:
        store: a ``data.ClipStore`` or a split of it.
        views: 1, the clip resized to the teacher's size; or 3, crops of that size at the left, in
            the middle and at the right of a larger one (``prepare(..., clip_size=256)``). Features
            are averaged, and so are probabilities, as the authors of all four networks do; the
            logits are the logarithm of these.
        batch_size: clips at a time.
        device: where to compute; a GPU if there is one, unless given. The teacher is moved back
            afterwards.
        precision: "fp32", or "bf16" for mixed precision.
        rank, world_size: this process's share: each world_size-th of the lacking clips. From the
            environment (RANK, WORLD_SIZE; LOCAL_RANK chooses the GPU) unless given, as torchrun
            sets them. The processes need not know each other; what one that died leaves undone is
            done when the command is given again.
        progress: show a bar on stderr.
        overwrite: compute all clips again, also where outputs of another teacher are; these must
            all be of this ``store``, and one process does it. Should such a run be killed, only
            another one with ``overwrite=True`` is accepted, which begins anew.

    "{teacher.name}.teacher.json" beside the arrays keeps the teacher's fingerprint, so that outputs
    of two teachers never meet under one name, also not where both are at work at a time.

    Raises TeacherError if the store's classes or frames are not the teacher's, if it has no "clip"
    array, if its outputs are of another teacher, or become so in between, or if an output is not
    finite. Warns where the store's clips last longer or shorter than those that the teacher was
    trained on.
    """
    if precision not in ("fp32", "bf16"):
        raise TeacherError(f"precision is {precision!r}; it must be 'fp32' or 'bf16'")
    rank = int(os.environ.get("RANK", 0)) if rank is None else rank
    world_size = int(os.environ.get("WORLD_SIZE", 1)) if world_size is None else world_size
    if not 0 <= rank < world_size:
        raise TeacherError(f"rank {rank} is not one of the {world_size} of world_size")
    if overwrite and world_size > 1:
        raise TeacherError("overwrite=True is for a single process, and world_size is above 1")
    _check_store(teacher, store, views)
    record = Path(store.path) / f"{teacher.name}.teacher.json"
    identity = {
        "teacher": teacher.name,
        "fingerprint": _fingerprint(teacher),
        "precision": precision,
        "views": views,
        "clip_spec": asdict(teacher.clip_spec),
    }
    arrays = (f"{teacher.name}.feature", f"{teacher.name}.logits")
    present = any(array in store.names for array in arrays)
    splits = set(store.splits)
    with _one_at_a_time(record.parent):
        identity = _claim(record, identity, splits, present=present, overwrite=overwrite)

    widths = (teacher.feature_dim, len(teacher.class_names))
    for array, width in zip(arrays, widths, strict=True):
        store.add(array, (width,), np.float32)
    lacking = np.ones(len(store), bool)
    if not overwrite:
        lacking = ~(np.asarray(store.done(arrays[0])) & np.asarray(store.done(arrays[1])))
    # Shares are of all clips, so that they do not depend on how far the others have come.
    rows = np.flatnonzero(lacking & (np.arange(len(store)) % world_size == rank))

    if device is None:
        local = os.environ.get("LOCAL_RANK", "0")
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    bar = _Progress(f"{teacher.name}: extract", len(rows), shown=progress)
    with _evaluating(teacher, device), torch.no_grad(), closing(bar):
        for index, clip in _read_ahead(store, rows, batch_size):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                output = _viewed(teacher, clip.to(device), views)
            if _differences(found := _read_record(record), identity):
                raise TeacherError(
                    f"{record}: another run has overwritten these outputs by those of the "
                    f"fingerprint {found.get('fingerprint')}; this one ends, and has spoilt none of them"
                )
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


def _read_ahead(store: Any, rows: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Batches of clips with their rows, each read while the one before is looked at."""
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    with ThreadPoolExecutor(1) as reader:
        coming = [reader.submit(store.read, "clip", batch) for batch in batches[:1]]
        for k, batch in enumerate(batches):
            clip = coming.pop().result()
            coming = [reader.submit(store.read, "clip", then) for then in batches[k + 1 : k + 2]]
            yield batch, torch.from_numpy(clip)


def _viewed(teacher: Teacher, clip: Tensor, views: int) -> Output:
    """The teacher's output, averaged over views of the clip."""
    if views == 1:
        return teacher(clip)
    size = teacher.clip_spec.size
    top, middle = (math.ceil((side - size) / 2) for side in clip.shape[3:])
    seen = [teacher(clip[..., top : top + size, left : left + size]) for left in (0, middle, clip.shape[4] - size)]
    features, logits = (torch.stack([value.float() for value in one]) for one in zip(*seen, strict=True))
    return Output(features.mean(0), logits.log_softmax(2).logsumexp(0) - math.log(len(seen)))


def _check_store(teacher: Teacher, store: Any, views: int) -> None:
    if views not in (1, 3):
        raise TeacherError(f"views is {views}; it must be 1 or 3")
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
        _, found, _, height, width = store.read("clip", np.array([0])).shape
        if found != frames:
            raise TeacherError(
                f"the clips of the store {store.path} have {found} frames, teacher "
                f"{teacher.name!r} wants {frames}; use prepare(..., clip_frames={frames})"
            )
        seconds = getattr(store, "settings", {}).get("clip_seconds", teacher.clip_spec.seconds)
        if abs(seconds / teacher.clip_spec.seconds - 1) > 0.01:
            warnings.warn(
                f"the clips of the store {store.path} last {seconds:.2f} s, those that teacher "
                f"{teacher.name!r} was trained on {teacher.clip_spec.seconds:.2f} s",
                stacklevel=3,
            )
        size = teacher.clip_spec.size
        if views > 1 and (height < size or width <= size):
            raise TeacherError(
                f"the clips of the store {store.path} have {width} x {height} pixels, too few for "
                f"{views} views of {size}; use prepare(..., clip_size={round(size * 8 / 7)})"
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
    found = _read_record(record)
    differs = _differences(found, identity)
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


def _read_record(record: Path) -> dict[str, Any]:
    """Whose outputs lie in the store; {} where there is no record."""
    try:
        # Records made before there was a choice have no word about views.
        return {"views": 1, **json.loads(record.read_text(encoding="utf-8"))} if record.exists() else {}
    except (OSError, TypeError, ValueError) as error:
        raise TeacherError(
            f"{record} cannot be read ({error}). Without it nobody knows whose outputs these are: "
            "delete it and compute all of them again with overwrite=True"
        ) from error


def _differences(found: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    return [key for key in ("fingerprint", "precision", "views") if found.get(key) != identity[key]]


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the store's lock, as data.py does: of two teachers under one name, the second has to see the first."""
    with open(folder / "store.lock", "a", encoding="utf-8") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        elif msvcrt is not None:
            while True:
                with suppress(PermissionError):  # another process has it
                    file.seek(0)
                    msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                    break
                time.sleep(0.01)
            try:
                yield
            finally:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
        else:
            raise TeacherError(f"{folder}: cannot be written: this Python has no file locks (fcntl or msvcrt)")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with _replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


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
            drawn = f"\r{line:<79}" if self.terminal else line  # spaces cover the line before
            print(drawn, end=end, file=sys.stderr, flush=True)
