"""Command-line options made from dataclasses: one option per field, with the help of its section "Attributes".

    from egodistill.commands import settings
    from egodistill.distillation import EGO4D

    settings.add_fields(parser, EGO4D.distillation)                      # --epochs, --tau, --crop, ...
    stage = settings.apply_options(EGO4D.distillation, parser.parse_args())   # the settings, changed by these options

An option that is not given leaves its setting unchanged.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Collection, Iterator
from dataclasses import fields, is_dataclass, replace
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from .paths import CUSTOM, FILE, Reads

__all__ = ["IMAGE_WEIGHTS", "add_fields", "apply_options", "flag", "positive_int", "text_or_none", "used_flags"]

Settings = TypeVar("Settings")

# Fields that follow from --out, have options of their own, or are for Python alone.
WITHOUT_OPTION = ("checkpoint", "checkpoint_seconds", "device", "out", "overwrite", "progress")
WITHOUT_OPTION += ("feature_dim", "fusion_layers", "hidden", "imu_width")


def text_or_none(text: str) -> str | None:
    """Return the text, or None for "none"."""
    return None if text.lower() == "none" else text


IMAGE_WEIGHTS = Reads(words=("imagenet", "none"), remark="or imagenet or none", convert=text_or_none)
# {field: the role of its words}, of those that are paths
ROLES = dict.fromkeys(
    ("image_encoder", "imu_encoder", "fusion", "student_class"), replace(CUSTOM, convert=text_or_none)
)
ROLES |= {"motion": FILE, "image_weights": IMAGE_WEIGHTS}


def option_fields(settings: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, value and type of each field that is an option, including fields of nested dataclasses."""
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            yield from option_fields(value)
        elif field.name not in WITHOUT_OPTION:
            yield field.name, value, hints[field.name]


def help_of(kind: type) -> dict[str, str]:
    """Return {field: its text under "Attributes"} of a dataclass, as help: `field` becomes --field, "word" word."""
    text = "\n\n".join(inspect.getdoc(one) or "" for one in reversed(kind.__mro__))
    return {name: _as_help(found) for name, found in re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", text, re.M)}


def _as_help(text: str) -> str:
    text = re.sub(r"`([a-z_]+)`", lambda field: flag(field[1]), " ".join(text.split()).removeprefix("False: "))
    text = text.replace('"', "").replace("%", "%%").rstrip(".")
    return text[0].lower() + text[1:] if re.match("[A-Z][a-z ]", text) else text


def add_fields(parser: Any, settings: Any, names: Collection[str] | None = None, without: Collection[str] = ()) -> None:
    """Add an option for each of the named fields of a dataclass (None: all), except `without`.

    An option that is not used is absent from the parsed arguments, so a preset can set its value.
    """
    parts = [settings, *(part for part in vars(settings).values() if is_dataclass(part))]
    texts = {name: text for part in parts for name, text in help_of(type(part)).items()}
    for name, value, hint in option_fields(settings):
        if name not in without and (names is None or name in names):
            arguments = field_arguments(texts.get(name, ""), value, hint)  # "": of python -OO
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
    name = f"no-{name}" if value is True else name
    return "--" + name.replace("_", "-")


def used_flags(settings: Any, arguments: argparse.Namespace) -> list[str]:
    """Return the options among the arguments that belong to fields of a dataclass; --no-imu is --imu-encoder none."""
    given = [(name, value) for name, value, _ in option_fields(settings) if hasattr(arguments, name)]
    return [f"{flag(name, value)}{' none' if getattr(arguments, name) is None else ''}" for name, value in given]


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


def positive_int(text: str) -> int:
    """Convert the text of an option to an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)
