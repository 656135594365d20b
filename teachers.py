"""Teachers: heavy video models whose knowledge a student takes over, clip -> (feature, logits).

    from egodistill import teachers

    teacher = teachers.load("epic_motionformer_16x4", "ek_motionformer_224_16x4.pyth", class_names=verbs)
    feature, logits = teacher(clip)                         # uint8 [B, 16, 3, H, W]
    teacher = teachers.load("x3d_m", "x3d_m.pyth", 62, new_head=True)  # to be trained on 62 classes
    teacher = teachers.load("mvit_b_16x4", None, 5, frames=8, size=64, depths=(1, 1, 2, 1))  # small, random weights

    teacher.save("teacher.pt")                              # weights and everything else, one file
    teacher = teachers.Teacher.load("teacher.pt")
    teachers.extract(teacher, store)                        # outputs for each clip of a store

A teacher reads a dense clip of uint8 RGB frames and returns a feature vector and class scores. It carries all that its
outputs depend on: the clip (`clips.ClipSpec`), mean, deviation and channel order of its pixels (`Pixels`), class names.
A store of other clips is refused. `MODELS` lists the published models, whose networks are in `video_transformers` and
`video_convnets`; any other video model becomes a teacher by `Teacher.wrap()`. Scores are logits everywhere: no teacher
applies a softmax, because distillation has a temperature.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from egodistill import (
    DataError,
    EgoDistillError,
    batches,
    checkpoints,
    files,
    runtime,
    student,
    video_convnets,
    video_transformers,
)
from egodistill.clips import FIELDS, ClipSpec
from egodistill.store import claim_outputs

__all__ = ["MODELS", "Pixels", "Published", "Teacher", "TeacherError", "extract", "load"]


class TeacherError(EgoDistillError):
    """A teacher, its file, its input or its outputs do not fit."""


@dataclass(frozen=True)
class Pixels:
    """How a network wants the pixels of a clip.

    They are divided by 255; then `mean` is subtracted and the result divided by `std`, one value per channel, in the
    order of `channels` ("RGB" or "BGR"). The defaults are those of most networks trained on Kinetics.
    """

    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)
    channels: str = "RGB"

    def __post_init__(self) -> None:
        if self.channels not in ("RGB", "BGR"):
            raise TeacherError(f"channels is {self.channels!r}; it must be 'RGB' or 'BGR'")
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3 or (name == "std" and min(values) <= 0):
                raise TeacherError(f"{name} is {values}; it needs three numbers, std above 0")
            object.__setattr__(self, name, values)  # a list would make it unhashable


# ---------------------------------------------------------------------------------------------------------------
# Teachers


class Teacher(nn.Module):
    """A video network together with all that its outputs depend on.

    Args:
        net: takes a normalised clip, float [B, 3, T, H, W], and returns (feature, logits).
        clip_spec: the clip that it reads, such as `ClipSpec(frames=16, size=112)`. It is the centre square of each
            picture, as in the array "clip" of a store, unless `crop` is False. Clips of another size are resized.
        pixels: mean, deviation and channel order that the network wants.
        feature_dim: D, the length of its feature.
        class_names: the C classes in the order of its logits.
        name: its outputs are called "{name}.feature" and "{name}.logits" in a store.
        origin: where its weights are from, if they were published.

    `inputs` names what it reads from a batch.
    """

    inputs: tuple[str, ...] = ("clip",)
    resizes = True  # A store's clips may have another size than those of `clip_spec`.

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
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise TeacherError(f"the name {name!r} becomes part of file names: use letters, digits, '_' and '-'")
        if list(clip_spec.parts()) != ["frames"]:
            raise TeacherError(f"a teacher reads frames, one or more, and nothing else; got {clip_spec}")
        self.net = net
        self.clip_spec = replace(clip_spec, crop=clip_spec.crop is not False).complete()
        self.pixels = pixels
        self.feature_dim = int(feature_dim)
        self.class_names = [str(label) for label in class_names]
        self.name, self.origin = name, origin
        # Not part of state_dict: they come from pixels, and one source is enough.
        self.register_buffer("mean", torch.tensor(pixels.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pixels.std).view(3, 1, 1), persistent=False)

    if TYPE_CHECKING:  # A torch module's call has no types.

        def __call__(self, clip: Tensor) -> student.Output: ...

    def forward(self, clip: Tensor) -> student.Output:
        """Return feature [B, D] and logits [B, C], without a softmax, of a clip, uint8 RGB [B, T, 3, H, W].

        A clip of another height or width is resized to the size of `clip_spec`. Raise TeacherError if the type, the
        number of frames or the layout differ.
        """
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
        """Return the outputs for a normalised clip, float [B, 3, T, H, W] in the channel order of `pixels`."""
        feature, logits = self.net(x)
        got = (tuple(feature.shape), tuple(logits.shape))
        wanted = ((len(x), self.feature_dim), (len(x), len(self.class_names)))
        if got != wanted:
            raise TeacherError(
                f"teacher {self.name!r} gave feature and logits of the shapes {got}; "
                f"feature_dim and class_names say {wanted}"
            )
        return student.Output(feature, logits)

    @property
    def classifier(self) -> nn.Module:
        """The layer from feature to logits, for trainings that change it alone."""
        return self.net.get_submodule(self.net.classifier)

    @property
    def find_unused(self) -> bool:
        """Return whether a step may leave parameters without a gradient, as a training of several processes asks."""
        return getattr(self.net, "find_unused", False)

    def freeze_trunk(self) -> Teacher:
        """Let nothing but the classifier be trained; the statistics of batch norms do not change, either."""
        self.requires_grad_(False)
        self.classifier.requires_grad_(True)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Teacher:
        """Set the mode of all layers, except of batch norms whose weights are frozen: these keep their statistics."""
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
        """Return a teacher from any video model with the input [B, 3, T, H, W].

        `feature_layer` names its last classifier (a linear layer or a convolution), as in `module.named_modules()`: its
        input is the feature, its output the logits. What the model does afterwards (a softmax, for example) is left
        out; further positions in time and space are averaged. Without `class_names` the classes are called "0", "1",
        ...; `name` is by default that of the module's class in small letters. `clip_spec` and `pixels` are those of
        the constructor.

            r3d = Teacher.wrap(r3d_18(), feature_layer="fc", clip_spec=ClipSpec(frames=16, size=112))
            swin = Teacher.wrap(swin3d_t(), feature_layer="head", clip_spec=ClipSpec(frames=32, size=224))
        """
        net = Wrapped(module, feature_layer)
        classes, feature_dim = net.get_submodule(net.classifier).weight.shape[:2]
        if class_names is None:
            class_names = [str(i) for i in range(classes)]
        if classes != len(class_names):
            raise TeacherError(f"layer {feature_layer!r} gives {classes} scores for {len(class_names)} class names")
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
        """What `from_arguments()` builds this teacher of again. Raise TeacherError for a network of somebody else."""
        network = type(self.net).__name__
        if NETWORKS.get(network) is not type(self.net):
            raise TeacherError(
                f"teacher {self.name!r} holds a {network} network, which this library cannot build again by itself. "
                "Keep its weights with torch.save(teacher.net.state_dict(), path) and build it by your own code"
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
        """Return the teacher that `arguments` describe; its network is on the meta device, without weights."""
        settings = dict(arguments)
        network, options = NETWORKS[settings.pop("network")], settings.pop("options")
        with torch.device("meta"):  # no memory and no random numbers for weights to come
            net = network(**options)
        spec, pixels = ClipSpec(**settings.pop("clip_spec")), Pixels(**settings.pop("pixels"))
        return cls(net, clip_spec=spec, pixels=pixels, class_names=class_names, **settings)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one file that `load()` needs nothing else for; it is complete or absent.

        Raise TeacherError for a network that is not this library's, EgoDistillOSError if the system cannot write.
        """
        checkpoints.save_model(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Teacher:
        """Return the teacher that `save()` wrote, in evaluation mode, on the CPU. No code from the file runs.

        Raise EgoDistillOSError if there is no such file, EgoDistillError, with the file's name, if it is damaged, of
        another kind, or if its weights are not exactly those of its network.
        """
        return checkpoints.load_model(path, cls)


class Wrapped(nn.Module):
    """Somebody else's model; a hook on its classifier takes feature and logits during each run."""

    find_unused = True  # Nobody knows; what follows the classifier, for one, has no gradient.

    def __init__(self, module: nn.Module, feature_layer: str) -> None:
        super().__init__()
        self.module = module
        self.classifier = f"module.{feature_layer}"
        self.arguments = {"module": type(module).__name__, "feature_layer": feature_layer}
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

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
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
            return feature, logits
        return feature.flatten(2).mean(2), logits.flatten(2).mean(2)


# ---------------------------------------------------------------------------------------------------------------
# Published models


@dataclass(frozen=True)
class Published:
    """A model that its authors released.

    `network(num_classes, **options)` builds it; `clip_spec` is the clip on which it was trained, `pixels` how that was
    normalised. `released` names the files that hold its weights, as their authors call them.
    """

    network: type[nn.Module]
    num_classes: int | tuple[int, int]
    clip_spec: ClipSpec
    pixels: Pixels
    released: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


# The options of `load()` that describe a clip and its pixels; all others are the network's.
CLIP_OPTIONS = FIELDS["frames"]
PIXEL_OPTIONS = tuple(one.name for one in fields(Pixels))


def choose(names: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}


MODELS: dict[str, Published] = {
    name: Published(
        plain["network"],
        plain["num_classes"],
        ClipSpec(crop=True, **choose(CLIP_OPTIONS, plain["clip"])),
        Pixels(**choose(PIXEL_OPTIONS, plain["clip"])),
        plain["released"],
        plain.get("options", {}),
    )
    for name, plain in (video_transformers.PUBLISHED | video_convnets.PUBLISHED).items()
}
NETWORKS = {published.network.__name__: published.network for published in MODELS.values()}
LAYOUTS = tuple(checkpoints.Layout(**plain) for plain in (*video_transformers.LAYOUTS, *video_convnets.LAYOUTS))


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
    """Return one of `MODELS` as a teacher in evaluation mode, with published or random weights.

    Args:
        name: a key of `MODELS`. "epic_motionformer_..." has two heads and BGR clips, "motionformer_..." one head and
            RGB clips.
        checkpoint: a file as its authors released it, or a state dict; None for random weights. The layouts of
            Motionformer, PySlowFast, pytorchvideo and torchvision are recognised by their keys and renamed. Each tensor
            must fit, and none may be missing or left over.
        num_classes: C; by default the checkpoint's, or the published model's if there is none. Two numbers make
            MotionFormer a model of verbs and nouns.
        class_names: the C labels, in the order of the logits; by default "0", "1", ..., because no checkpoint has them.
        new_head: replace the classifier of the checkpoint by a fresh one for `num_classes`. Without it, a checkpoint of
            another number of classes is refused.
        unsafe_pickle: also read the Caffe2 files of PySlowFast (.pkl). They are Python pickles, a format that can run
            any code. Here nothing but numpy arrays may come out of them; still, give it only for files from a source
            that you trust.
        progress: print on stderr what was taken; the same is in the teacher's `origin`.
        options: of the network (`head="noun"`, `value_step="projected"`, `drop_path=0.0`, ...), or fields of `ClipSpec`
            (`size=256`, `seconds=64 / 30`, ...) and `Pixels` (`channels="BGR"`, ...). "frames" and "size" are given to
            the network, too. With other options than the published ones, random weights make a model of any size.
            `seconds` is to be that of the store's clips; a teacher that was trained on others is refused there.

    Raise EgoDistillOSError if there is no such file, EgoDistillError, which lists all that does not fit.
    """
    if name not in MODELS:
        raise TeacherError(f"there is no model {name!r}; the names are {', '.join(MODELS)}")
    published = MODELS[name]
    spec, pixels, settings = split_options(name, options)
    if isinstance(num_classes, Sequence):
        num_classes = tuple(num_classes)
    if num_classes is None and class_names is not None and (checkpoint is None or new_head):
        num_classes = len(class_names)

    if checkpoint is None:
        classes = published.num_classes if num_classes is None else num_classes
        net, origin = build(published.network, classes, settings), "fresh weights"
    else:
        source = "the given state dict" if isinstance(checkpoint, Mapping) else str(checkpoint)
        state = checkpoints.read_weights(checkpoint, unsafe_pickle=unsafe_pickle)
        net, origin = from_checkpoint(published, state, source, num_classes, settings, new_head)
    count = net.get_submodule(net.classifier).out_features
    labels = [str(i) for i in range(count)] if class_names is None else list(class_names)
    if len(labels) != count:
        raise TeacherError(
            f"{len(labels)} class names for the {count} classes of {name}; new_head=True would "
            "replace the classifier of a checkpoint"
        )
    if progress:
        print(f"{name}: {origin} ({pixels.channels} clips)", file=sys.stderr)
    about = {"feature_dim": net.feature_dim, "class_names": labels, "name": name, "origin": origin}
    return Teacher(net, clip_spec=spec, pixels=pixels, **about).eval()


def split_options(name: str, options: Mapping[str, Any]) -> tuple[ClipSpec, Pixels, dict[str, Any]]:
    """Return the clip, its pixels and the network's options of a published model, changed by `options`."""
    published = MODELS[name]
    known = signature(published.network).parameters
    ours = {*CLIP_OPTIONS, *PIXEL_OPTIONS}
    strange = sorted(set(options) - set(known) - ours)
    if strange:
        raise TeacherError(f"{name} has no option {strange[0]!r}; it has {', '.join(sorted({*known, *ours}))}")
    spec = replace(published.clip_spec, **choose(CLIP_OPTIONS, options))
    pixels = replace(published.pixels, **choose(PIXEL_OPTIONS, options))
    settings = {
        **{k: getattr(spec, k) for k in ("frames", "size") if k in known},
        **published.options,
        **{k: v for k, v in options.items() if k in known},
    }
    return spec, pixels, settings


def build(network: type[nn.Module], classes: int | tuple[int, ...], settings: Mapping[str, Any]) -> nn.Module:
    """Return a network; raise TeacherError, with its name, if the options do not fit together."""
    try:
        return network(classes, **settings)
    except ValueError as error:
        raise TeacherError(f"{network.__name__}: {error}") from error


def from_checkpoint(
    published: Published,
    state: Mapping[str, Any],
    source: str,
    num_classes: int | tuple[int, ...] | None,
    settings: Mapping[str, Any],
    new_head: bool,
) -> tuple[nn.Module, str]:
    """Return the network with the weights of a checkpoint, and a description of what was taken from where."""
    network = published.network
    layout = checkpoints.find_layout(state, LAYOUTS, source)
    if layout.network is not network:
        fitting = ", ".join(k for k, v in MODELS.items() if v.network is layout.network)
        raise TeacherError(
            f"{source} holds {layout.network.__name__} weights in the layout of {layout.source}, but "
            f"{network.__name__} weights were asked for; the names of the former are {fitting}"
        )
    weights, names, ignored = checkpoints.rename(state, layout)
    found = classes_of(weights, network)
    classes = pick_classes(found, num_classes, published, source, new_head)
    with torch.device("meta"):  # no memory and no random numbers for weights to come
        net = build(network, classes, {**settings, **network.options_from(weights, layout.source, settings)})
    taken = f"its classifier of {found} classes"
    if new_head:
        replace_classifier(weights, net)
        taken = f"a fresh classifier of {classes} classes in place of its {found}"
    checkpoints.load_strictly(net, weights, source, names=names)
    ignoring = f", ignoring {len(ignored)} such as {ignored[0]}" if ignored else ""
    return net, (
        f"{len(state) - len(ignored)} tensors of {source} in the layout of {layout.source}{ignoring}, with {taken}"
    )


def classes_of(weights: Mapping[str, Any], network: type[nn.Module]) -> int | tuple[int, ...] | None:
    """Return the number of classes of a checkpoint's classifier, two numbers if it has two, None if it has none."""
    heads = [weights.get(f"{name}.weight") for name in network.classifiers]
    found = tuple(len(head) for head in heads if isinstance(head, Tensor) and head.ndim == 2)
    return found[0] if len(found) == 1 else found or None


def pick_classes(
    found: int | tuple[int, ...] | None,
    wanted: int | tuple[int, ...] | None,
    published: Published,
    source: str,
    new_head: bool,
) -> int | tuple[int, ...]:
    """Return the number of classes for the network: `wanted`, else those `found` in the checkpoint."""
    if wanted is None and not new_head:
        if found is None:
            raise TeacherError(f"{source} has no classifier; give num_classes and new_head=True to start one")
        if isinstance(found, tuple) != isinstance(published.num_classes, tuple):
            raise TeacherError(
                f"{source} has classifiers for {found} classes, the published model for "
                f"{published.num_classes}: two heads are EPIC-KITCHENS', whose clips are BGR and "
                "whose names begin with 'epic_'. Give num_classes if it is meant so"
            )
    classes = found if wanted is None else wanted
    if classes is None:
        raise TeacherError("new_head=True needs num_classes or class_names")
    if not new_head and classes != found:
        raise TeacherError(
            f"{source} has a classifier for {found} classes, {classes} were asked for; replace it "
            "with new_head=True, or leave num_classes out"
        )
    return classes


def replace_classifier(weights: dict[str, Any], net: nn.Module) -> None:
    """Put fresh weights for the classifiers of `net` in the place of the checkpoint's."""
    keys = {f"{name}.{kind}" for name in net.classifiers for kind in ("weight", "bias")}
    for key in keys & set(weights):
        del weights[key]
    for key, value in net.state_dict().items():
        if key in keys:
            fresh = torch.zeros(value.shape)
            weights[key] = fresh.normal_(std=0.01) if key.endswith("weight") else fresh


# ---------------------------------------------------------------------------------------------------------------
# Outputs for a whole store


def extract(
    teacher: Teacher | Sequence[Teacher],
    store: Any,
    *,
    fold: Sequence[int] | np.ndarray | None = None,
    views: int = 1,
    batch_size: int = 8,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    rank: int = 0,
    world_size: int = 1,
    progress: bool = True,
    overwrite: bool = False,
) -> None:
    """Run the teacher over each clip of `store` that lacks its outputs.

    Read the array "clip" and write "{teacher.name}.feature" float32 [D] and "{teacher.name}.logits" float32 [C] for
    each clip. The same call continues a run that was killed.

    Args:
        teacher: one, or K of one name and kind with `fold`.
        store: a `data.ClipStore` or a split of it.
        fold: for each clip the number of the teacher that writes it, the one that has not seen it, as `data.folds()`
            gives them: the teacher k was trained on `store.select(fold != k)`. They are kept as "{teacher.name}.fold".
        views: 1, the clip resized to the teacher's size; or 3, crops of that size at the left, in the middle and at the
            right of a larger one (`prepare(..., clip_size=256)`). Features are averaged, and so are probabilities, as
            the authors of all four networks do; the logits are the logarithm of these.
        batch_size: clips at a time.
        device: where to compute; by default a GPU if there is one. Afterwards the teacher is moved back.
        precision: "fp32", "bf16" for mixed precision, or "auto".
        rank, world_size: this process's share: each world_size-th clip, by default all. Under torchrun,
            `**files.environment_share()` asks for the share of this process, and LOCAL_RANK chooses the GPU. The
            processes need not know each other; the same call again does what a dead one left undone.
        progress: show a bar on stderr.
        overwrite: compute all clips again, also where another teacher's outputs are; these must all be of this `store`,
            and one process does it. If such a run is killed, only another one with `overwrite=True` is accepted, which
            begins anew.

    "{teacher.name}.teacher.json" beside the arrays keeps the teacher's fingerprint, so that outputs of two teachers
    never mix under one name, not even if both run at the same time.

    Raise EgoDistillError if the store's classes or clips are not the teacher's (number of frames, length in seconds,
    choice of frames) or if it has no "clip" array, TeacherError if an output is not finite, DataError if the outputs in
    the store are another teacher's, or become so in between.
    """
    device = runtime.pick_device(device)
    precision = runtime.pick_precision(device, precision)
    files.check_share(rank, world_size)
    if overwrite and world_size > 1:
        raise TeacherError("overwrite=True is for a single process, and world_size is above 1")
    every = check_folds(teacher, store, fold)
    for one in every:
        check_store(one, store, views)
    first, prints = every[0], [fingerprint(one) for one in every]
    identity = {"fingerprint": prints[0] if fold is None else prints, "precision": precision, "views": views}
    about = {"teacher": first.name, "clip_spec": asdict(first.clip_spec), "pixels": asdict(first.pixels)}
    claim = claim_outputs(store, first.name, identity, about=about, overwrite=overwrite)
    arrays = [f"{first.name}.feature", f"{first.name}.logits"]
    for array, width in zip(arrays, (first.feature_dim, len(first.class_names)), strict=True):
        store.add(array, (width,), np.float32)
    whose = np.zeros(len(store), np.int64) if fold is None else np.asarray(fold, np.int64)
    if fold is not None:
        keep_folds(store, f"{first.name}.fold", whose, overwrite)
    lacking = np.ones(len(store), bool)
    if not overwrite:
        lacking = ~(np.asarray(store.done(arrays[0])) & np.asarray(store.done(arrays[1])))
    # Shares are of all clips, so that they do not depend on how far the others have come.
    lacking &= np.arange(len(store)) % world_size == rank
    bar = files.Progress(f"{first.name}: extract", int(lacking.sum()), show=progress)
    with bar:
        for number, one in enumerate(every):
            rows = np.flatnonzero(lacking & (whose == number))
            parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
            with runtime.evaluation(one, device), torch.no_grad():
                for (part, clip), _ in files.read_ahead(parts, partial(read_clips, store)):
                    with runtime.autocast(device, precision):
                        output = run_views(one, clip.to(device), views)
                    claim.check()
                    write_output(store, arrays, part, output)
                    bar.step(len(part))
    if overwrite:
        claim.finish()


def check_folds(teacher: Teacher | Sequence[Teacher], store: Any, fold: Any) -> list[Teacher]:
    """Return the teachers as a list; raise TeacherError if they, or the folds, do not fit together."""
    if isinstance(teacher, Teacher):
        if fold is not None:
            raise TeacherError("fold is for several teachers; give a list of them")
        return [teacher]
    every = list(teacher)
    if len(every) < 2 or fold is None:
        raise TeacherError(f"{len(every)} teachers: several are needed, and `fold`, which says whose clip each is")
    kinds = {(one.name, one.feature_dim, tuple(one.class_names), one.clip_spec, one.pixels) for one in every}
    if len(kinds) > 1:
        told = "; ".join(f"{one.name}: {one.feature_dim} numbers, {len(one.class_names)} classes" for one in every)
        raise TeacherError(f"the teachers of one store differ in name, feature, classes, clip or pixels: {told}")
    whose = np.asarray(fold)
    if whose.shape != (len(store),) or whose.dtype.kind not in "iu" or not np.isin(whose, range(len(every))).all():
        raise TeacherError(
            f"fold has a number from 0 to {len(every) - 1} for each of the {len(store)} clips, not {whose.dtype} "
            f"{list(whose.shape)} of {sorted(set(whose.ravel().tolist()))[:9]}"
        )
    return every


def keep_folds(store: Any, name: str, whose: np.ndarray, overwrite: bool) -> None:
    """Write whose clip each is; raise DataError where another division was begun."""
    store.add(name, (), np.int64)
    known = np.flatnonzero(np.asarray(store.done(name)))
    before = store.read(name, known)
    if not overwrite and (before != whose[known]).any():
        raise DataError(
            f"{store.path}: {name} has other folds for {int((before != whose[known]).sum())} clips; give the "
            f"folds with which these outputs were begun, or compute all of them again with overwrite=True"
        )
    store.write(name, np.arange(len(store)), whose)


def check_store(teacher: Teacher, store: Any, views: int) -> None:
    """Raise EgoDistillError if the store's classes or clips do not fit the teacher, or are too small for the views."""
    if views not in (1, 3):
        raise TeacherError(f"views is {views}; it must be 1 or 3")
    batches.arrays_of(teacher, store)
    if views > 1 and len(store):
        size = teacher.clip_spec.size
        *_, height, width = store.read("clip", np.array([0])).shape
        if height < size or width <= size:
            raise TeacherError(
                f"the clips of the store {store.path} have {width} x {height} pixels, too few for "
                f"{views} views of {size}; use prepare(..., clip_size={round(size * 8 / 7)})"
            )


def read_clips(store: Any, rows: np.ndarray) -> tuple[np.ndarray, Tensor]:
    return rows, torch.from_numpy(store.read("clip", rows))


def run_views(teacher: Teacher, clip: Tensor, views: int) -> student.Output:
    """Return the teacher's output, averaged over views of the clip."""
    if views == 1:
        return teacher(clip)
    size = teacher.clip_spec.size
    top, middle = (math.ceil((side - size) / 2) for side in clip.shape[3:])
    seen = [teacher(clip[..., top : top + size, left : left + size]) for left in (0, middle, clip.shape[4] - size)]
    features, logits = (torch.stack([value.float() for value in one]) for one in zip(*seen, strict=True))
    return student.Output(features.mean(0), logits.log_softmax(2).logsumexp(0) - math.log(len(seen)))


def write_output(store: Any, arrays: Sequence[str], rows: np.ndarray, output: student.Output) -> None:
    """Write an output to the store; raise TeacherError if it is not finite."""
    for array, values in zip(arrays, output, strict=True):
        if not values.isfinite().all():
            raise TeacherError(
                f"{array} is not finite for the clips {rows.tolist()} of {store.path}; "
                "look at the weights of the teacher"
            )
        store.write(array, rows, values.float().cpu().numpy())


def fingerprint(teacher: Teacher) -> str:
    """Return a hash of the weights and of whatever else changes the outputs."""
    settings = [asdict(teacher.clip_spec), asdict(teacher.pixels), getattr(teacher.net, "arguments", None)]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for key, value in sorted(teacher.net.state_dict().items()):
        digest.update(f"{key} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
