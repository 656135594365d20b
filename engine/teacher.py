"""One teacher: a video network with its clip, its pixels and its class names; any other video model as one.

    from egodistill.engine.teacher import Teacher

    teacher = Teacher.load("teacher.safetensors")
    feature, logits = teacher(clip)                         # uint8 [B, 16, 3, H, W]
    other = Teacher.wrap(net, feature_layer="fc", clip_spec=ClipSpec(frames=16, size=112))

`teachers` has the published models, and the names of this module.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import student, video_convnets, video_i3d, video_transformers
from ..recordings.spec import ClipSpec
from ..support.errors import EgoDistillError
from . import checkpoints, runtime, torchvision_teachers

__all__ = ["NETWORKS", "Pixels", "Teacher", "TeacherError"]

PUBLISHED: dict[str, dict[str, Any]] = (
    video_transformers.PUBLISHED | video_convnets.PUBLISHED | video_i3d.PUBLISHED | torchvision_teachers.PUBLISHED
)
NETWORKS: dict[str, type[nn.Module]] = {plain["network"].__name__: plain["network"] for plain in PUBLISHED.values()}


class TeacherError(EgoDistillError):
    """A teacher, its input, its outputs or the arguments for it do not fit; the message says what would."""


@dataclass(frozen=True)
class Pixels:
    """The normalisation of a clip's pixels.

    Pixels are divided by 255; then `mean` is subtracted and the result divided by `std`. The defaults are those of most
    networks trained on Kinetics. Raise TeacherError for values that are out of range.

    Attributes:
        mean: One value per channel, in the order of `channels`.
        std: One value above 0 per channel, in the order of `channels`. Both are of pixels from 0 to 1.
        channels: "RGB" or "BGR".

    >>> from egodistill import teachers
    >>> teachers.Pixels(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), channels="BGR")
    Pixels(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), channels='BGR')
    """

    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)
    channels: str = "RGB"

    def __post_init__(self) -> None:
        if self.channels not in ("RGB", "BGR"):
            raise TeacherError(f"channels is {self.channels!r}; it must be 'RGB' or 'BGR'")
        for name in ("mean", "std"):
            given = getattr(self, name)
            values = tuple(map(float, given)) if isinstance(given, Iterable) else (given,)
            if len(values) != 3 or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
                raise TeacherError(f"{name} is {given}; it must be three finite numbers, and those of std above 0")
            if max(map(abs, values)) > 1:
                raise TeacherError(f"{name} is {values}, of pixels from 0 to 255; divide it by 255: pixels are 0 to 1")
            object.__setattr__(self, name, values)  # a list is not hashable


class Teacher(nn.Module):
    """A video network together with everything that its outputs depend on.

    Args:
        net: A network that takes a normalised clip, float [B, 3, T, H, W], and returns (feature, logits).
        clip_spec: The clip that it reads, such as `ClipSpec(frames=16, size=112)`; the centre square of each frame, as
            in the array "clip" of a store, unless `crop` is False. Clips of another size are resized.
        pixels: Normalisation of the pixels.
        feature_dim: D, the size of its feature.
        class_names: The C classes in the order of its logits.
        name: Name of its arrays in a store, "{name}.feature" and "{name}.logits".
        origin: Source of its weights, if they were published.

    Raises:
        TeacherError: If the arguments, or later a clip, do not fit.

    >>> import torch
    >>> from egodistill import data, teachers
    >>> teacher = teachers.Teacher.load("teacher.safetensors")
    >>> clip = torch.from_numpy(data.ClipStore("store").read("clip", [0, 1, 2]))
    >>> feature, logits = teacher(clip)
    >>> clip.shape, feature.shape, logits.shape
    (torch.Size([3, 8, 3, 64, 64]), torch.Size([3, 2048]), torch.Size([3, 13]))
    >>> teacher(clip[:, :4])
    Traceback (most recent call last):
    ...
    egodistill.engine.teacher.TeacherError: teacher 'x3d' got torch.uint8 [3, 4, 3, 64, 64]; it reads ...
    """

    file_class = "Teacher"
    trained_by: str | None = None  # as of a student
    trained_with: dict[str, Any] | None = None
    calibration: Any = None
    inputs: tuple[str, ...] = ("clip",)
    resizes = True  # clips of a store may have another size than `clip_spec`

    def __init__(
        self,
        net: nn.Module,
        *,
        clip_spec: ClipSpec,
        pixels: Pixels = Pixels(),
        feature_dim: int,
        class_names: Sequence[str],
        name: str = "slowfast",
        origin: str = "",
    ) -> None:
        super().__init__()
        for what, value, kind in (("clip_spec", clip_spec, ClipSpec), ("pixels", pixels, Pixels)):
            if not isinstance(value, kind):
                raise TeacherError(f"{what} must be a {kind.__name__}; got {value!r}")
        if list(clip_spec.parts()) != ["frames"]:
            raise TeacherError(f"a teacher reads frames, one or more, and nothing else; got {clip_spec}")
        self.net = net
        self.clip_spec = replace(clip_spec, crop=clip_spec.crop is not False).complete()
        self.pixels = pixels
        self.feature_dim = int(feature_dim)
        self.class_names = [str(label) for label in class_names]
        self.name, self.origin = name, origin
        # Not part of state_dict, because `pixels` already has them.
        self.register_buffer("mean", torch.tensor(pixels.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pixels.std).view(3, 1, 1), persistent=False)

    if TYPE_CHECKING:  # A torch module's call has no types.

        def __call__(self, clip: Tensor) -> student.Output: ...

    @property
    def name(self) -> str:
        """Return the first part of its arrays' names. Setting one that cannot be in a file name raises TeacherError."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise TeacherError(f"the name {name!r} becomes part of file names: use letters, digits, '_' and '-'")
        self._name = name

    def forward(self, clip: Tensor) -> student.Output:
        """Return feature [B, D] and logits [B, C], without a softmax, of a clip.

        Args:
            clip: uint8 RGB [B, T, 3, H, W]; another height or width is resized to `clip_spec.size`.

        Raises:
            TeacherError: The dtype, the number of frames or the order of dimensions differ.
            TypeError: The clip is not a tensor.
        """
        student.require_tensor("clip", clip)
        spec = self.clip_spec
        if clip.dtype != torch.uint8 or clip.ndim != 5 or clip.shape[1:3] != (spec.frames, 3):
            raise TeacherError(
                f"teacher {self.name!r} got {clip.dtype} {list(clip.shape)}; it reads torch.uint8 "
                f"[B, {spec.frames}, 3, H, W] in RGB"
            )
        x = clip.float()
        if clip.shape[3:] != (spec.size, spec.size):
            x = F.interpolate(x.flatten(0, 1), (spec.size, spec.size), mode="bilinear", antialias=True).unflatten(
                0, clip.shape[:2]
            )
        if self.pixels.channels == "BGR":
            x = x.flip(2)
        x = (x / 255 - self.mean) / self.std
        return self.encode(x.transpose(1, 2))

    def encode(self, x: Tensor) -> student.Output:
        """Return the outputs for a normalised clip.

        Args:
            x: The clip, float [B, 3, T, H, W], in the channel order of `pixels`.
        """
        feature, logits = self.net(x)
        got = (tuple(feature.shape), tuple(logits.shape))
        wanted = ((len(x), self.feature_dim), (len(x), len(self.class_names)))
        if got != wanted:
            raise TeacherError(
                f"the network of teacher {self.name!r} returned feature and logits of the shapes {got}; "
                f"feature_dim and class_names require {wanted}"
            )
        return student.Output(feature, logits)

    @property
    def classifier(self) -> nn.Module:
        """Return the layer from feature to logits."""
        return self.net.get_submodule(self.net.classifier)

    @property
    def find_unused(self) -> bool:
        """Return whether a step can leave parameters without a gradient, which DistributedDataParallel must know."""
        return getattr(self.net, "find_unused", False)

    def freeze_trunk(self) -> Teacher:
        """Freeze everything but the classifier, including the statistics of batch norms, and return the teacher."""
        self.requires_grad_(False)
        self.classifier.requires_grad_(True)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Teacher:
        """Set the mode of all layers; batch norms with frozen weights stay in evaluation mode.

        Args:
            mode: True for training mode, False for evaluation mode.
        """
        super().train(mode)
        runtime.keep_frozen_statistics(self)
        return self

    @classmethod
    def wrap(
        cls,
        module: nn.Module,
        *,
        feature_layer: str,
        clip_spec: ClipSpec,
        pixels: Pixels = Pixels(),
        class_names: Sequence[str] | None = None,
        name: str | None = None,
    ) -> Teacher:
        """Return a teacher made from any video model with the input [B, 3, T, H, W].

        Later operations of the model than its classifier, such as a softmax, do not count; positions in time and space
        are averaged.

            mae = Teacher.wrap(video_mae, feature_layer="classifier", clip_spec=ClipSpec(frames=16, size=224))

        The example below writes the outputs of such a teacher into a store, like those of a published one.

        Args:
            module: The video model, with weights in float32.
            feature_layer: Name, as in `module.named_modules()`, of the classifier, a linear layer or convolution: its
                input is the feature, its output the logits.
            clip_spec: The clip that it reads, as in the constructor.
            pixels: Normalisation of the pixels, as in the constructor.
            class_names: The C classes in the order of the logits; None: "0", "1", ...
            name: Name of its arrays in a store; None: the module's class name in lower case.

        Raises:
            TeacherError: If there is no such layer, if its number of classes differs, or if it is TorchScript
                (`torch.jit.script()`, `trace()`) or a program of `torch.export`; wrap the model from which that was
                made.

        >>> from collections import OrderedDict
        >>> from torch import nn
        >>> from egodistill import data, teachers
        >>> store = data.ClipStore("store")
        >>> net = nn.Sequential(OrderedDict(
        ...     conv=nn.Conv3d(3, 24, 5, stride=4), relu=nn.ReLU(), pool=nn.AdaptiveAvgPool3d(1), flat=nn.Flatten(),
        ...     fc=nn.Linear(24, len(store.class_names)),
        ... )).eval()
        >>> teacher = teachers.Teacher.wrap(
        ...     net, feature_layer="fc", clip_spec=data.ClipSpec(frames=8, size=64), class_names=store.class_names,
        ...     name="own",
        ... )
        >>> teachers.extract(teacher, store, progress=False)
        >>> store.read("own.feature", [0, 1]).shape, store.read("own.logits", [0, 1]).shape
        ((2, 24), (2, 13))
        """
        net = Wrapped(module, feature_layer)
        weight = cast(Tensor, net.get_submodule(net.classifier).weight)
        classes, feature_dim = weight.shape[:2]
        if class_names is None:
            class_names = [str(i) for i in range(classes)]
        if classes != len(class_names):
            raise TeacherError(f"layer {feature_layer!r} returns {classes} scores for {len(class_names)} class names")
        return cls(
            net,
            clip_spec=clip_spec,
            pixels=pixels,
            feature_dim=feature_dim,
            class_names=class_names,
            name=name or type(module).__name__.lower(),
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the arguments for `from_arguments()`. Raise TeacherError for a network that is not this library's."""
        network = type(self.net).__name__
        if NETWORKS.get(network) is not type(self.net):
            raise TeacherError(
                f"teacher {self.name!r} contains a {network} network, which this library cannot rebuild. "
                "Save its weights with torch.save(teacher.net.state_dict(), path), and rebuild it in your own code"
            )
        return {
            "network": network,
            "options": self.net.arguments,
            "clip_spec": asdict(self.clip_spec),
            "pixels": asdict(self.pixels),
            "feature_dim": self.feature_dim,
            "name": self.name,
            "origin": self.origin,
        }

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any], class_names: Sequence[str]) -> Teacher:
        """Return a teacher whose network is on the meta device, without weights.

        Args:
            arguments: The property `arguments` of a teacher.
            class_names: The C classes in the order of its logits.
        """
        settings = dict(arguments)
        network, options = NETWORKS[settings.pop("network")], settings.pop("options")
        with torch.device("meta"):  # the weights are loaded later: use no memory and no random numbers
            net = network(**options).eval()
            clip = ClipSpec(**settings["clip_spec"]).complete()
            with torch.no_grad():  # arguments that do not fit each other are an error now, and not in the first batch
                net(torch.empty(1, 3, clip.frames, clip.size, clip.size))
        spec, pixels = ClipSpec(**settings.pop("clip_spec")), Pixels(**settings.pop("pixels"))
        return channels_last(cls(net, clip_spec=spec, pixels=pixels, class_names=class_names, **settings))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one self-contained file for `load()`; the file is complete or absent.

        Args:
            path: The file.

        Raises:
            TeacherError: If the network is not one of this library.
            EgoDistillOSError: If the file cannot be written.
        """
        checkpoints.save_model(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Teacher:
        """Return the teacher that `save()` wrote, in evaluation mode, on the CPU. No code in the file runs.

        Args:
            path: The file.

        Raises:
            EgoDistillOSError: If the file does not exist.
            EgoDistillError: If the file is damaged, contains something else, or its weights are not exactly those of
                its network; the message has the file's name.
        """
        return checkpoints.load_model(path, cls)


class Wrapped(nn.Module):
    """A model from elsewhere; a hook on its classifier captures feature and logits.

    Raise TeacherError for weights other than float32, a layer that is missing or not a classifier, TorchScript, and
    programs of `torch.export`.
    """

    find_unused = True  # layers after the classifier, for example, get no gradient

    def __init__(self, module: nn.Module, feature_layer: str) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):  # such as an ExportedProgram
            raise TeacherError(f"{type(module).__name__} is not a torch.nn.Module; wrap the model it was made from")
        self.module = module
        self.classifier = f"module.{feature_layer}"
        structure = re.sub(r" at 0x[0-9a-f]+", "", repr(module))  # the weights alone do not distinguish ReLU from GELU
        self.arguments = {"module": structure, "feature_layer": feature_layer}
        weights = module.state_dict()
        if other := checkpoints.other_than_float32(weights):
            raise TeacherError(f"{type(module).__name__}: {other} is {weights[other].dtype}; call model.float() first")
        layers = dict(module.named_modules())
        script = any(isinstance(one, torch.jit.ScriptModule) for one in (module, layers.get(feature_layer)))
        if script or type(layers.get(feature_layer)) is nn.Module:  # torch.export keeps a layer's weights in one
            kind = "TorchScript" if script else "part of a program of torch.export"
            raise TeacherError(
                f"layer {feature_layer!r} of {type(module).__name__} is {kind}, which runs no hooks, so the feature "
                f"cannot be captured; load its state_dict() into the model from which it was made, and wrap that model"
            )
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
                "the linear layer or convolution that returns the scores"
            )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        layer = self.get_submodule(self.classifier)
        seen: list[tuple[Tensor, Tensor]] = []

        def keep(_: nn.Module, inputs: tuple, named: dict, output: Tensor) -> None:
            feature = inputs[0] if inputs else next(iter(named.values()))
            seen.append((feature.clone(), output.clone()))  # later layers may change them in place

        handle = layer.register_forward_hook(keep, with_kwargs=True)
        try:
            self.module(x)
        finally:
            handle.remove()
        if len(seen) != 1:
            raise TeacherError(
                f"layer {self.classifier!r} ran {len(seen)} times for one batch; a classifier must run once"
            )
        # Channels are last in a linear layer and second in a convolution.
        last = isinstance(layer, nn.Linear)
        feature, logits = (value.movedim(-1, 1) if last else value for value in seen[0])
        if feature.ndim == 2:
            return feature, logits
        return feature.flatten(2).mean(2), logits.flatten(2).mean(2)


def fingerprint(teacher: Teacher) -> str:
    """Return a hash of the weights and of all settings that change the outputs."""
    settings = [teacher.clip_spec.record(), asdict(teacher.pixels), getattr(teacher.net, "arguments", None)]
    return checkpoints.weights_fingerprint(teacher.net, settings)


def channels_last(teacher: Teacher) -> Teacher:
    """Convert the weights of 3-D convolutions to the memory format that is faster on CPUs."""
    for layer in teacher.modules():
        if isinstance(layer, nn.Conv3d):
            layer.to(memory_format=torch.channels_last_3d)
    return teacher
