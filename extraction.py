"""Write the outputs of teachers into a clip store: `extract()`, or `Extraction` while the clips are decoded.

    from egodistill import extraction

    extraction.extract(teacher, store)                      # continues where it was stopped
    data.prepare(segments, "store", consumer=extraction.Extraction(teacher))    # the store keeps no clips

`teachers` offers both names, too.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from egodistill import (
    DataError,
    batches,
    files,
    runtime,
    student,
)
from egodistill.store import OutputClaim, claim_outputs
from egodistill.teacher import Teacher, TeacherError, fingerprint

__all__ = ["Extraction", "extract"]


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
    """Run a teacher on the clips of a store that have no outputs yet, and write them to the store.

    Read the array "clip", and write "{teacher.name}.feature" float32 [n, D] and "{teacher.name}.logits" float32
    [n, C]. The same call continues a run that was killed.

    Args:
        teacher: one teacher; or with `fold` K teachers that differ in their weights only.
        store: a `data.ClipStore` or a split of it.
        fold: for each clip the index of the teacher that computes its outputs, as `data.folds()` returns it: teacher k
            was trained on `store.select(fold != k)`. The store keeps it as "{teacher.name}.fold".
        views: 1, the clip resized to the teacher's size; or 3, crops of that size at the left, the centre and the
            right of a larger clip (`prepare(..., clip_size=256)`). Features and probabilities are averaged over the
            views, as the authors of MotionFormer, MViT, SlowFast and X3D do; logits are the logarithms of these
            probabilities.
        batch_size: clips per batch.
        device: device to compute on; by default a GPU if there is one. The teacher is moved back afterwards.
        precision: "fp32", "bf16" for mixed precision, or "auto".
        rank, world_size: this process computes every world_size-th batch, from rank on; by default all. Under
            torchrun, pass `**files.environment_share()`; LOCAL_RANK selects the GPU. The processes do not communicate;
            if one dies, repeat its call.
        progress: show a progress bar on stderr.
        overwrite: compute all outputs again, in a single process, and replace those of another teacher, which must all
            be outputs of this `store`. If such a run is killed, the call without `overwrite` continues it.

    "{teacher.name}.teacher.json" beside the arrays records the teacher's fingerprint, so that outputs of two teachers
    never mix under one name, even if both run at the same time.

    A store that was prepared without classes gets the teacher's, unless outputs of another teacher need others. Raise
    EgoDistillError if the store has no array "clip", or its classes or clips (number, length and sampling of the
    frames) are not the teacher's. Raise TeacherError if an output is not finite. Raise DataError if the outputs belong
    to another teacher, or another run claims them during this one.

    >>> from egodistill import data, teachers
    >>> teacher, store = teachers.Teacher.load("teacher.pt"), data.ClipStore("store")
    >>> teacher.name = "again"
    >>> teachers.extract(teacher, store, progress=False)
    >>> [name for name in store.names if name.startswith("again")], store.read("again.feature", [0, 1]).shape
    (['again.feature', 'again.logits'], (2, 2048))
    """
    device = runtime.pick_device(device)
    precision = runtime.pick_precision(device, precision)
    batches.require_number("batch_size", batch_size, 1, whole=True)
    files.check_share(rank, world_size)
    if overwrite and world_size > 1:
        raise TeacherError(f"overwrite=True works in a single process only, but world_size is {world_size}")
    every = check_folds(teacher, store, fold)
    for one in every:
        check_store(one, store, views, overwrite)
    first, prints = every[0], [fingerprint(one) for one in every]
    identity = {"fingerprint": prints[0] if fold is None else prints, "precision": precision, "views": views}
    claim, arrays = claim_arrays(first, store, identity, overwrite)
    whose = np.zeros(len(store), np.int64) if fold is None else np.asarray(fold, np.int64)
    if fold is not None:
        write_folds(store, f"{first.name}.fold", whose)
    lacking = np.ones(len(store), bool)
    if not overwrite:  # with it, compute all: a run that is replaced may still mark the rows of its last batch
        lacking = ~(np.asarray(store.done(arrays[0])) & np.asarray(store.done(arrays[1])))
    # A share is taken of the batches of all clips: outputs do not depend on the number of processes or their progress.
    shares = [batch_share(np.flatnonzero(whose == k), batch_size, rank, world_size) for k in range(len(every))]
    shares = [rows[lacking[rows]] for rows in shares]
    with files.Progress(f"{first.name}: extract", sum(map(len, shares)), show=progress) as bar:
        for one, rows in zip(every, shares, strict=True):
            parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
            with runtime.evaluation(one, device), torch.no_grad():
                for (part, clip), _ in files.read_ahead(parts, partial(read_clips, store)):
                    with runtime.autocast(device, precision):
                        output = run_views(one, clip.to(device), views)
                    claim.check()
                    write_output(store, arrays, part, output)
                    bar.step(len(part))


def batch_share(rows: np.ndarray, batch_size: int, rank: int, world_size: int) -> np.ndarray:
    """Return the rows of every world_size-th batch, from batch ``rank`` on."""
    return rows[np.arange(len(rows)) // batch_size % world_size == rank]


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
    claim = claim_outputs(store, teacher.name, identity, about=about, overwrite=overwrite)
    if hasattr(store, "name_classes") and list(store.class_names) != teacher.class_names:
        store.name_classes(teacher.class_names)
    arrays = output_arrays(teacher)
    for array, width in zip(arrays, (teacher.feature_dim, len(teacher.class_names)), strict=True):
        store.add(array, (width,), np.float32)
    return claim, arrays


class Extraction:
    """A teacher that `data.prepare()` runs on frames while they are in memory, so that the store does not keep them.

    The outputs are those of `extract()` on a store that keeps the frames, to the bit; the arguments are those of
    `extract()`. Raise TeacherError unless `teacher` is one `Teacher`, and `views` 1 or 3.

    >>> from egodistill import data, teachers
    >>> teacher = teachers.Teacher.load("teacher.pt")
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
        check_folds(teacher, None, None)
        if views not in (1, 3):
            raise TeacherError(f"views is {views}; it must be 1 or 3")
        batches.require_number("batch_size", batch_size, 1, whole=True)
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

        Raise TeacherError if the classes of the store are not the teacher's, or an output is not finite; DataError if
        the outputs belong to another teacher.
        """
        if len(store.class_names) and list(store.class_names) != self.teacher.class_names:
            raise TeacherError(
                f"{store.path}: the store has the classes {files.shorten(list(store.class_names))}, the teacher "
                f"{self.teacher.name!r} has {files.shorten(self.teacher.class_names)}; prepare with class_names="
            )
        claim, arrays = claim_arrays(self.teacher, store, self.identity)

        def write(rows: np.ndarray, frames: Mapping[str, np.ndarray]) -> None:
            with runtime.autocast(self.device, self.precision):
                output = run_views(self.teacher, torch.from_numpy(frames["clip"]).to(self.device), self.views)
            claim.check()
            write_output(store, arrays, rows, output)

        with runtime.evaluation(self.teacher, self.device), torch.no_grad():
            yield write


def check_folds(teacher: Teacher | Sequence[Teacher], store: Any, fold: Any) -> list[Teacher]:
    """Return the teachers as a list. Raise TeacherError if teachers and folds do not fit together."""
    every = [teacher] if isinstance(teacher, (nn.Module, str, os.PathLike)) else list(teacher)
    for one in every:
        if not isinstance(one, Teacher):
            raise TeacherError(
                f"extract() runs a Teacher, not a {type(one).__name__}; Teacher.load() reads one from a file, and "
                f"Teacher.wrap() makes one of a video model"
            )
    if isinstance(teacher, Teacher):
        if fold is not None:
            raise TeacherError("fold needs several teachers; pass a list of them")
        return every
    if len(every) < 2 or fold is None:
        raise TeacherError(
            f"a list of teachers needs at least two of them, and fold, the index of each clip's teacher; got "
            f"{len(every)} and {'no fold' if fold is None else 'a fold'}"
        )
    kinds = {(one.name, one.feature_dim, tuple(one.class_names), one.clip_spec, one.pixels) for one in every}
    if len(kinds) > 1:
        each = "; ".join(f"{one.name}: feature {one.feature_dim}, {len(one.class_names)} classes" for one in every)
        raise TeacherError(f"the teachers must have the same name, feature, classes, clip and pixels: {each}")
    whose = np.asarray(fold)
    if whose.shape != (len(store),) or whose.dtype.kind not in "iu" or not np.isin(whose, range(len(every))).all():
        raise TeacherError(
            f"fold must have an integer from 0 to {len(every) - 1} for each of the {len(store)} clips; got "
            f"{whose.dtype} {list(whose.shape)} with the values {sorted(set(whose.ravel().tolist()))[:9]}"
        )
    return every


def write_folds(store: Any, name: str, whose: np.ndarray) -> None:
    """Write the fold of each clip to the store. Raise DataError if it contains other folds."""
    store.add(name, (), np.int64)
    known = np.flatnonzero(np.asarray(store.done(name)))
    before = store.read(name, known)
    if (before != whose[known]).any():
        raise DataError(
            f"{store.path}: {name} has other folds for {int((before != whose[known]).sum())} clips; pass the "
            f"folds of the outputs in the store, or compute all outputs again with overwrite=True"
        )
    store.write(name, np.arange(len(store)), whose)


def check_store(teacher: Teacher, store: Any, views: int, overwrite: bool) -> None:
    """Raise EgoDistillError if classes or clips of the store do not fit the teacher, or are too small for the views."""
    if views not in (1, 3):
        raise TeacherError(f"views is {views}; it must be 1 or 3")
    replaced = teacher.name if overwrite else None
    used = not hasattr(store, "classes_are_used") or store.classes_are_used(besides=replaced)
    batches.arrays_of(teacher, store, classes=used)
    if views > 1 and len(store):
        size = teacher.clip_spec.size
        *_, height, width = store.read("clip", np.array([0])).shape
        if height < size or width <= size:
            raise TeacherError(
                f"{store.path}: the clips have {width} x {height} pixels, too few for {views} views of {size}; "
                f"use prepare(..., clip_size={round(size * 8 / 7)})"
            )


def read_clips(store: Any, rows: np.ndarray) -> tuple[np.ndarray, Tensor]:
    return rows, torch.from_numpy(store.read("clip", rows))


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
    """Write outputs to the store. Raise TeacherError if they are not finite."""
    for array, values in zip(arrays, output, strict=True):
        if not values.isfinite().all():
            raise TeacherError(
                f"{store.path}: {array} is not finite for the clips {rows.tolist()}; check the weights of the teacher"
            )
        store.write(array, rows, values.float().cpu().numpy())
