"""Options of commands that are made of settings: one for each field of a dataclass that `HELP` explains.

from egodistill import options
from egodistill.distillation import EGO4D

options.add_fields(parser, EGO4D.distillation)                            # --epochs, --tau, --crop, ...
settings = options.change(EGO4D.distillation, parser.parse_args())         # with those that were given
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Iterator
from dataclasses import fields, is_dataclass, replace
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import torch

from egodistill import runtime
from egodistill.commands import positive
from egodistill.distillation import PRESETS

__all__ = [
    "HELP",
    "add_fields",
    "change",
    "device_option",
    "flag",
    "flags_given",
    "precision_option",
    "preset_option",
    "refuse",
    "report_precision",
    "text_or_none",
]

Settings = TypeVar("Settings")

# Help on the fields that are options. Others are made of --out, or are options of every command.
HELP = {
    "epochs": "passes over the clips",
    "batch_size": "clips per step, over all processes",
    "learning_rate": "of AdamW",
    "decay_epochs": "the learning rate drops after these",
    "decay": "by this factor",
    "schedule": "how the learning rate falls",
    "warmup_epochs": "the learning rate rises from zero over these",
    "weight_decay": "of AdamW",
    "seed": "of the order of the clips, of dropout, and of first weights",
    "precision": "auto: bf16 where this machine is fast at it, else fp32",
    "sync_batch_norm": "under torchrun: batch norm over all processes",
    "crop": "cut out a random part of a student's frames, with sides shorter by up to this share",
    "nce_tau": "temperature of L_NCE",
    "nce_weight": "weight of L_NCE",
    "l1_weight": "weight of L_1",
    "l1_reduction": "of L_1 over the dimensions of the feature",
    "symmetric": "L_NCE from head motion to images, too",
    "alpha": "weight of L_KD against L_GT",
    "beta": "weight of L_1",
    "tau": "temperature of L_KD; 10 with --preset ego4d",
    "tau_squared": "multiply L_KD by tau^2",
    "num_frames": "N, frames per clip",
    "image_encoder": "a classification network of torchvision, or resnet10xW",
    "image_weights": "imagenet, none, or a file of weights",
    "use_imu": "VisOnly and VisOnly-Distill: frames only",
    "imu_vector": "how the IMU features become one",
}


def leaves(settings: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, value and type of each field that `HELP` explains, those of dataclasses in it, too."""
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            yield from leaves(value)
        elif field.name in HELP:
            yield field.name, value, hints[field.name]


def add_fields(parser: Any, settings: Any, names: Collection[str] = HELP) -> None:
    """Add those fields of a dataclass as options whose names are given.

    An option that is not used is absent from the arguments, so that a preset may set its value.
    """
    for name, value, hint in leaves(settings):
        if name in names:
            how = describe_field(HELP[name], value, hint)
            parser.add_argument(flag(name, value), dest=name, default=argparse.SUPPRESS, **how)


def describe_field(text: str, value: Any, hint: Any) -> dict[str, Any]:
    """Return the arguments of `add_argument()` for a field of this default and type."""
    if isinstance(value, bool):
        return {"action": "store_false" if value else "store_true", "help": text}
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
    how: dict[str, Any] = {"help": f"{text} (default: {shown})"}
    if get_origin(hint) is Literal:
        return how | {"choices": get_args(hint)}
    if isinstance(value, tuple):
        return how | {"nargs": "*", "type": int}
    if NoneType in get_args(hint):
        return how | {"type": text_or_none}
    # A count whose default is not 0 cannot be 0.
    return how | {"type": positive if isinstance(value, int) and value else type(value)}


def flag(name: str, value: Any = None) -> str:
    """Return the option of a field; that of a field which is True by default switches it off."""
    name = f"no-{name.removeprefix('use_')}" if value is True else name
    return "--" + name.replace("_", "-")


def flags_given(settings: Any, arguments: argparse.Namespace) -> list[str]:
    """Return the options of a dataclass's fields that are among the arguments."""
    return [flag(name, value) for name, value, _ in leaves(settings) if hasattr(arguments, name)]


def change(settings: Settings, arguments: argparse.Namespace) -> Settings:
    """Return settings with those fields changed that are among the arguments."""
    changes: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            changes[field.name] = change(value, arguments)
        elif hasattr(arguments, field.name):
            given = getattr(arguments, field.name)
            changes[field.name] = tuple(given) if isinstance(given, list) else given
    return replace(settings, **changes)


def refuse(flags: Collection[str], why: str) -> None:
    """Raise ValueError if options were given that would be ignored, or that contradict another one."""
    if flags:
        raise ValueError(f"{', '.join(flags)}: {why}")


# ---------------------------------------------------------------------------------------------------------------
# Options of several commands


def preset_option(parser: Any) -> None:
    """Add --preset, which names a `Recipe`."""
    text = "the paper's settings for EPIC-KITCHENS or Ego4D, or the demo's; other options change them"
    parser.add_argument("--preset", choices=tuple(PRESETS), default="epic", help=text)


def text_or_none(text: str) -> str | None:
    """Return the text, or None for "none"."""
    return None if text.lower() == "none" else text


def device_option(parser: Any) -> None:
    """Add --device."""
    parser.add_argument("--device", type=usable_device, help="cpu, cuda, ...; a GPU is used where there is one")


def usable_device(name: str) -> str:
    """Return a device's name, or say why it cannot be used."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # A torch without CUDA asserts.
        raise argparse.ArgumentTypeError(f"{name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return name


def precision_option(parser: Any, default: str) -> None:
    """Add --precision."""
    parser.add_argument("--precision", choices=runtime.PRECISIONS, default=default, help=HELP["precision"])


def report_precision(precision: str | None, device: str | None = None) -> None:
    """Print what "auto" is on this machine, and why; to stderr, since results may go to stdout."""
    if precision == "auto" and not int(os.environ.get("RANK", 0)):
        fast, reason = runtime.bf16_speed(runtime.pick_device(device))
        print(f"precision {'bf16' if fast else 'fp32'}, because {reason}", file=sys.stderr)
