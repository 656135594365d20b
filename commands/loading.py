"""Model files and stores as commands name them: --student, --teacher-file, --init, --custom, --split, --teacher.

from egodistill.commands import loading

model = loading.load_student(arguments.student, arguments.custom)
store = loading.open_split(arguments.store, arguments.split)
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from torch import nn

from .. import data, teachers
from ..engine import batches, models, runtime
from ..engine.parts import build_part
from ..student import EgoDistill, require_optional
from ..support import custom, files
from ..training import print_once
from .given import teachers_in

__all__ = [
    "chosen_teacher",
    "load_distilled",
    "load_start",
    "load_student",
    "load_teacher",
    "open_split",
    "custom_parts",
    "report_precision",
    "without_background",
]


def report_precision(precision: str | None, device: str | None = None, model: Any = None) -> None:
    """Print to stderr which precision "auto" is on this machine, and why; or that an exported file has its own."""
    if own_precision := getattr(model, "precision", None):
        print(f"precision {own_precision}, in which the file was exported", file=sys.stderr)
    elif precision == "auto" and not files.environment_share()["rank"]:
        fast, reason = runtime.bf16_speed(runtime.pick_device(device))
        print_once(f"precision {'bf16' if fast else 'fp32'}, because {reason}")


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


def without_background(store: data.ClipStore) -> data.ClipStore:
    """Return the clips that are not "(none)", without this class."""
    if (background := batches.background_of(store)) is None:
        return store
    names = [name for place, name in enumerate(store.class_names) if place != background]
    return store.select(store.labels != background).with_classes(names)


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


def custom_parts(names: Sequence[str]) -> list[Any]:
    """Return what the names of one's own classes stand for; a function is called, for the network that it builds."""
    return [one if isinstance(one, type) else build_part(one) for one in map(custom.resolve, names)]


def load_student(path: str, names: Sequence[str] = (), without: str | None = None) -> nn.Module:
    """Return the student or baseline in a file, with the values of --custom and --without.

    Raise ValueError for a teacher, for a student after stage 1, and for one that needs what it is to do without.
    """
    model = models.load_any(path, custom_parts(names))
    if isinstance(model, teachers.Teacher):
        raise ValueError(
            f"{path} holds a teacher, not a student; --student is for students and baselines, --teacher-file for "
            f"teachers"
        )
    batches.require_classifier(model, path)
    return without_input(model, without, path)


def without_input(model: Any, name: str | None, path: str) -> Any:
    """Return a student, or with --without one that does without an input. Raise ValueError if it needs that."""
    if name is None:
        return model
    require_optional(model, name, path)
    return model.without(name)


def load_distilled(path: str, names: Sequence[str] = (), without: str | None = None) -> EgoDistill:
    """Return the student in a file, with the values of --custom and --without.

    Raise ValueError for a baseline, and as `load_student()` does.
    """
    model = load_start(path, names)
    batches.require_classifier(model, path)
    return without_input(model, without, path)


def load_start(path: str, names: Sequence[str] = ()) -> EgoDistill:
    """Return the student in a file to train it further, with --custom. Raise ValueError for a baseline or a teacher."""
    model = models.load_any(path, custom_parts(names))
    if not isinstance(model, EgoDistill):
        kind = "teacher" if isinstance(model, teachers.Teacher) else f"baseline ({type(model).__name__})"
        raise ValueError(f"{path} holds a {kind}; give the file of a student, written by `egodistill distill`")
    return model


def load_teacher(path: str) -> teachers.Teacher:
    """Return the teacher in a file, or the one that a function FILE.py:NAME returns. Raise ValueError for others."""
    is_own = os.fspath(path).endswith(".py") or (custom.is_name(path) and not os.path.exists(path))
    if is_own:
        part = custom.resolve(path)
        try:
            model = build_part(part)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    else:
        model = models.load_any(path)
    if not isinstance(model, teachers.Teacher):
        raise ValueError(
            f"{path} holds a model of class {type(model).__name__}, not a teacher; --teacher-file is for teachers, "
            f"which `egodistill finetune` writes, and for functions FILE.py:NAME that return one (`Teacher.wrap()`)"
        )
    return model
