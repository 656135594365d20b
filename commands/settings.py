"""Command-line options made from dataclasses: one option per field that `HELP` describes.

    from egodistill.commands import settings
    from egodistill.distillation import EGO4D

    settings.add_fields(parser, EGO4D.distillation)                      # --epochs, --tau, --crop, ...
    stage = settings.apply_options(EGO4D.distillation, parser.parse_args())   # the settings, changed by these options

An option that is not given leaves its setting unchanged.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from torch import nn

from .. import data, teachers
from ..distillation import PRESETS
from ..engine import batches, checkpoints, runtime
from ..student import EgoDistill, build_part
from ..support import files, own
from ..training import print_once
from .options import positive_int, teachers_in
from .paths import FILE, OWN, STORE, Reads

__all__ = [
    "GMACS_NOTE",
    "HELP",
    "IMAGE_WEIGHTS",
    "add_fields",
    "apply_options",
    "chosen_teacher",
    "device_option",
    "flag",
    "load_distilled",
    "load_start",
    "load_student",
    "load_teacher",
    "open_split",
    "own_option",
    "own_parts",
    "precision_option",
    "preset_option",
    "report_precision",
    "teacher_option",
    "text_or_none",
    "used_flags",
]

Settings = TypeVar("Settings")

# Help texts of the fields that are options. The other fields follow from --out, or have options of their own.
HELP = {
    "epochs": "number of passes over the training clips",
    "batch_size": "clips per step, summed over all processes",
    "learning_rate": "learning rate of AdamW",
    "decay_epochs": "with --schedule step: multiply the learning rate by --decay after these epochs",
    "decay": "with --schedule step: factor of the learning rate",
    "schedule": "learning rate schedule",
    "warmup_epochs": "increase the learning rate linearly from zero over this many epochs",
    "weight_decay": "weight decay of AdamW",
    "clip_norm": "largest norm of a step's gradient; None: it is not clipped",
    "seed": "seed of the initial weights, the clip order and dropout",
    "keep_checkpoint": "keep the checkpoint of a finished training, FILE.training",
    "precision": "arithmetic; auto is bf16 on hardware that is fast at it, otherwise fp32; fp16 is for older GPUs",
    "sync_batch_norm": "under torchrun: compute batch norm statistics over all processes",
    "crop": "augmentation: randomly crop the frames, removing up to this share of each side",
    "jitter": "augmentation: randomly change brightness and tint by up to this share",
    "shift": "augmentation: randomly move the head motion in time by up to this share of the clip",
    "motion": "augmentation: add the head motion of these recordings to that of the clips, as if their wearers walked "
    "meanwhile; the frames stay as they are",
    "label_smoothing": "share of the labels' target that is spread evenly over all classes",
    "nce_tau": "temperature of L_NCE",
    "nce_weight": "weight of L_NCE",
    "l1_weight": "weight of L_1",
    "l1_reduction": "reduction of L_1 over the feature dimensions",
    "symmetric": "also compute L_NCE from head motion to frames",
    "alpha": "weight of L_KD; L_GT is weighted by 1 - alpha",
    "beta": "weight of L_1",
    "tau": "temperature of L_KD; 10 with --preset ego4d",
    "tau_squared": "multiply L_KD by tau squared",
    "num_frames": "number of frames per clip, N in the paper",
    "aggregator": "what makes one feature of several frames",
    "image_encoder": "a classification network of torchvision, resnet10xW for a 10-layer ResNet of width W, "
    "FILE.py:NAME for your own, or none: the student reads head motion alone",
    "imu_encoder": "cnn, the paper's network, spectrum or filterbank, plain numbers instead of it, FILE.py:NAME for "
    "your own, or none: the student reads frames alone",
    "fusion": "FILE.py:NAME, a fusion network of your own",
    "student_class": "FILE.py:NAME, a class of your own that inherits from EgoDistill",
    "image_weights": "initial weights of the image encoder: imagenet, none (random), or a file",
    "use_imu": "do not use head motion: VisOnly and VisOnly-Distill of the paper",
    "imu_vector": "how the IMU features over time become one vector",
}


def text_or_none(text: str) -> str | None:
    """Return the text, or None for "none"."""
    return None if text.lower() == "none" else text


IMAGE_WEIGHTS = Reads(words=("imagenet", "none"), remark="or imagenet or none", convert=text_or_none)
# {field: the role of its words}, of those that are paths
ROLES = dict.fromkeys(("image_encoder", "imu_encoder", "fusion", "student_class"), replace(OWN, convert=text_or_none))
ROLES |= {"motion": FILE, "image_weights": IMAGE_WEIGHTS}


def option_fields(settings: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, value and type of each field that `HELP` describes, including fields of nested dataclasses."""
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            yield from option_fields(value)
        elif field.name in HELP:
            yield field.name, value, hints[field.name]


def add_fields(parser: Any, settings: Any, names: Collection[str] = HELP) -> None:
    """Add an option for each of the named fields of a dataclass.

    An option that is not used is absent from the parsed arguments, so a preset can set its value.
    """
    for name, value, hint in option_fields(settings):
        if name in names:
            arguments = field_arguments(HELP[name], value, hint)
            arguments |= {"type": ROLES[name]} if name in ROLES else {}
            parser.add_argument(flag(name, value), dest=name, default=argparse.SUPPRESS, **arguments)


def field_arguments(text: str, value: Any, hint: Any) -> dict[str, Any]:
    """Return the arguments of `add_argument()` for a field with this help text, default and type."""
    if isinstance(value, bool):
        return {"action": "store_false" if value else "store_true", "help": text}
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
    arguments: dict[str, Any] = {"help": f"{text} (default: {shown})" if shown != "" else text}
    if get_origin(hint) is Literal:
        return arguments | {"choices": get_args(hint)}
    if isinstance(value, tuple):
        kind, metavar = (str, "FILE") if str in get_args(hint) else (int, "N")
        return arguments | {"nargs": "*", "type": kind, "metavar": metavar}
    if float in get_args(hint):
        return arguments | {"type": float, "metavar": "X"}
    if NoneType in get_args(hint):
        return arguments | {"type": text_or_none, "metavar": "NAME"}
    if isinstance(value, int):  # A count whose default is not 0 cannot be 0.
        return arguments | {"type": positive_int if value else int, "metavar": "N"}
    return arguments | {"type": type(value), "metavar": "NAME" if isinstance(value, str) else "X"}


def flag(name: str, value: Any = None) -> str:
    """Return the option of a field. A field that is True by default gets an option that turns it off."""
    name = f"no-{name.removeprefix('use_')}" if value is True else name
    return "--" + name.replace("_", "-")


def used_flags(settings: Any, arguments: argparse.Namespace) -> list[str]:
    """Return the options among the arguments that belong to fields of a dataclass."""
    return [flag(name, value) for name, value, _ in option_fields(settings) if hasattr(arguments, name)]


def apply_options(settings: Settings, arguments: argparse.Namespace) -> Settings:
    """Return the settings, with the fields replaced that are among the arguments."""
    changes: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            changes[field.name] = apply_options(value, arguments)
        elif hasattr(arguments, field.name):
            chosen = getattr(arguments, field.name)
            changes[field.name] = tuple(chosen) if isinstance(chosen, list) else chosen
    return replace(settings, **changes)


# ---------------------------------------------------------------------------------------------------------------
# Options that several commands share


PRESET_HELP = {
    "epic": "the paper's for EPIC-KITCHENS",
    "ego4d": "the paper's for Ego4D",
    "demo": "for the demo's small world",
    "spectrum": "not the paper's: head motion as plain numbers, without stage 1",
}


def preset_option(parser: Any, presets: Collection[str] = tuple(PRESETS)) -> None:
    """Add --preset, the name of a `Recipe` or of a protocol."""
    named = ", ".join(f"{name} ({PRESET_HELP[name]})" for name in presets)
    text = f"default settings: {named}; this help shows epic's"
    parser.add_argument("--preset", choices=tuple(presets), default="epic", help=text)


def device_option(parser: Any) -> None:
    """Add --device, which `cli` checks."""
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")


def precision_option(parser: Any, default: str) -> None:
    """Add --precision."""
    parser.add_argument("--precision", choices=runtime.PRECISIONS, default=default, help=HELP["precision"])


def report_precision(precision: str | None, device: str | None = None, model: Any = None) -> None:
    """Print to stderr which precision "auto" is on this machine, and why; or that an exported file has its own."""
    if own_precision := getattr(model, "precision", None):
        print(f"precision {own_precision}, in which the file was exported", file=sys.stderr)
    elif precision == "auto" and not files.environment_share()["rank"]:
        fast, reason = runtime.bf16_speed(runtime.pick_device(device))
        print_once(f"precision {'bf16' if fast else 'fp32'}, because {reason}")


GMACS_NOTE = "GMACs: billions of multiply-adds per clip, half of what torch's FlopCounterMode counts (no norms)."


def open_split(path: str, split: str, option: str = "--split") -> data.ClipStore:
    """Return the clips of a split of a store, or all of them. Raise DataError, which names the option, without any."""
    store = data.ClipStore(path)
    if split == "all":
        return store
    if store.splits and split not in store.splits and not store.counts.get(split, {}).get("missing"):
        raise data.DataError(
            f"{path}: no usable clip has the split {split!r}; there are {', '.join(store.splits)}: give one of them "
            f"({option} {store.splits[0]}), or {option} all"
        )
    return store.split(split)


def store_options(parser: argparse.ArgumentParser, split: str) -> None:
    parser.add_argument("store", type=STORE, help="folder of a clip store, written by `egodistill prepare`")
    parser.add_argument("--split", default=split, help="split of the store to use, or all")


def teacher_option(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Add --teacher, for `chosen_teacher()`; `more` is added to its help."""
    text = f"name of the teacher whose outputs are in the store (default: the only one){more}"
    parser.add_argument("--teacher", metavar="NAME", help=text)


def chosen_teacher(a: argparse.Namespace, store: data.ClipStore, why: str = "") -> str:
    """Return --teacher, or the one teacher whose outputs are in the store.

    Raise ValueError without exactly one; the message begins with `why` a teacher is needed.
    """
    names = teachers_in(store)
    if a.teacher is not None or len(names) == 1:
        return names[0] if a.teacher is None else a.teacher
    store_has = f"{a.store}: {why}; the store has" if why else f"{a.store}: has"
    if not names:
        raise ValueError(f"{store_has} outputs of no teacher; `egodistill extract` writes them")
    raise ValueError(f"{store_has} outputs of several teachers; give one with --teacher: {', '.join(names)}")


def own_option(parser: Any) -> None:
    """Add --own, the user's own classes for `load_student()` and its relatives."""
    text = "class of your own that the student's file names: an encoder, a fusion network or the student; repeatable"
    parser.add_argument("--own", metavar="FILE.py:NAME", type=OWN, action="append", default=[], help=text)


def own_parts(names: Sequence[str]) -> list[Any]:
    """Return what the names of one's own classes stand for; a function is called, for the network that it builds."""
    return [one if isinstance(one, type) else build_part(one) for one in map(own.resolve, names)]


def load_student(path: str, names: Sequence[str] = ()) -> nn.Module:
    """Return the student or baseline in a file, with the values of --own.

    Raise ValueError for a teacher, and for a student after stage 1.
    """
    model = checkpoints.load_model(path, parts=own_parts(names))
    if isinstance(model, teachers.Teacher):
        raise ValueError(
            f"{path} holds a teacher, not a student; --student is for students and baselines, --teacher-file for "
            f"teachers"
        )
    batches.require_classifier(model, path)
    return model


def load_distilled(path: str, names: Sequence[str] = ()) -> EgoDistill:
    """Return the student in a file, with the values of --own.

    Raise ValueError for a baseline, a teacher, or a student after stage 1.
    """
    model = load_start(path, names)
    batches.require_classifier(model, path)
    return model


def load_start(path: str, names: Sequence[str] = ()) -> EgoDistill:
    """Return the student in a file to train it further, with --own. Raise ValueError for a baseline or a teacher."""
    model = checkpoints.load_model(path, parts=own_parts(names))
    if not isinstance(model, EgoDistill):
        kind = "teacher" if isinstance(model, teachers.Teacher) else f"baseline ({type(model).__name__})"
        raise ValueError(f"{path} holds a {kind}; give the file of a student, written by `egodistill distill`")
    return model


def load_teacher(path: str) -> teachers.Teacher:
    """Return the teacher in a file, or the one that a function FILE.py:NAME returns. Raise ValueError for others."""
    is_own = os.fspath(path).endswith(".py") or (own.is_name(path) and not os.path.exists(path))
    if is_own:
        part = own.resolve(path)
        try:
            model = build_part(part)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    else:
        model = checkpoints.load_model(path)
    if not isinstance(model, teachers.Teacher):
        raise ValueError(
            f"{path} holds a model of class {type(model).__name__}, not a teacher; --teacher-file is for teachers, "
            f"which `egodistill finetune` writes, and for functions FILE.py:NAME that return one (`Teacher.wrap()`)"
        )
    return model
