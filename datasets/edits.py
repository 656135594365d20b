"""Follow edits of a table: a store of the segments as they are now, with all that the earlier one has decoded.

    if edits.is_edited(path, segments, settings, specs):  # rows or labels differ, and nothing else
        with edits.successor(path, segments) as new:                    # a folder beside the store
            store = StoreWriter.begin(new, ...)
            print(edits.carry_over(StoreFiles(path), store, find))      # 1 label changed, 6 clips new, 2 gone
            ...                                                         # decode what is missing; then it is the store

`data.prepare()` does this. A clip is a recording, start and stop of its segment, its number among equal ones, and its
place in the segment. Label, split and wearer are attributes; where file, clock or axes of the IMU differ, its window is
cut anew. What results is the store that a fresh run would give, but for rounding in outputs of a teacher that runs
while clips are decoded: other batches. A run that is killed goes on: the earlier store stays until the new one is
complete.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..imu import CoverageError
from ..recordings.clips import decode_clips
from ..recordings.recording import Recording
from ..recordings.spec import ClipSpec
from ..support import files
from ..support.errors import DataError
from ..support.names import Place, name_files
from ..support.tables import pluralize
from .segments import Segment
from .store import ClipStore, StoreWriter
from .store_files import BESIDE, LATER_SETTINGS, OK, StoreFiles, known_sources, write_json

__all__ = ["Change", "carry_over", "is_edited", "recover", "successor"]

ATTRIBUTES = ("label", "split", "wearer")
FEW = 3  # segments of a small table that may be gone
IMU = ("imu", "imu_offset", "imu_stretch", "imu_axes", "zero_accel")  # what decides a window of the IMU


class Change(NamedTuple):
    """What differs between two tables."""

    attributes: Mapping[str, int]  # {"label", "split" or "wearer": segments with another one}
    windows: int  # clips whose IMU is cut anew
    new: int  # clips that the earlier store does not have
    gone: int  # its clips that are in the table no more

    def __str__(self) -> str:
        parts = [f"{pluralize(count, name)} changed" for name, count in self.attributes.items() if count]
        parts += [f"IMU of {pluralize(self.windows, 'clip')} cut anew"] * bool(self.windows)
        parts += [f"{pluralize(self.new, 'clip')} new"] * bool(self.new) + [f"{self.gone:,} gone"] * bool(self.gone)
        return ", ".join(parts) or "no clip is new or gone"


def is_edited(
    path: Path, segments: Sequence[Segment], settings: Mapping[str, Any], specs: Mapping[str, ClipSpec]
) -> bool:
    """Return whether a store was made with these settings and other segments, of which nearly all are still there.

    Otherwise it is another table, whose store must not take the place of this one: if more than a tenth is gone (of a
    small table, more than three), or if a function of one's own reads the IMU now, or does not. Background does
    not count, as it follows the rows. The folder may be missing; the segments have the names that files have in the
    store.
    """
    if not (path / "store.json").exists():
        return False
    old = StoreFiles(path)
    finished = set(old.array("segment")[old.array("status") == OK].tolist())
    same = LATER_SETTINGS | old.settings == LATER_SETTINGS | dict(settings)
    same = same and old.specs == {name: spec.complete() for name, spec in specs.items()}
    cameras = {span_of(one): one.camera for i, one in enumerate(old.segments) if i in finished}
    same = same and all(cameras.get(span_of(one), one.camera) == one.camera for one in segments)
    then, now = ([one for one in rows if not one.is_background] for rows in (old.segments, segments))
    kept = (Counter(map(span_of, then)) & Counter(map(span_of, now))).total()
    gone = len(then) - kept
    return same and old.segments != list(segments) and gone <= max(FEW, len(then) / 10) and gone < kept


def span_of(segment: Segment) -> tuple[str, float, float]:
    """Return the recording, start and stop of a segment."""
    return segment.path, segment.start, segment.stop


@contextlib.contextmanager
def successor(path: Path, segments: Sequence[Segment]) -> Iterator[Path]:
    """Yield the folder of a store that takes the place of another one at the end of the block.

    One of an interrupted edit goes on if it has the same segments. After an error both stay.
    """
    new, _ = beside(path)
    if Path.cwd().is_relative_to(path):
        raise DataError(f"{path}: contains the working folder, and an edit replaces it; run this in another folder")
    with edit_lock(path):
        if new.exists() and not ((new / "store.json").exists() and StoreFiles(new).segments == list(segments)):
            shutil.rmtree(new)  # of an earlier edit
        yield new
        write_json(new / "place.json", Place.of(path))
        shutil.copymode(path, new)
        ours = {entry["file"] for entry in StoreFiles(path).arrays.values()} | BESIDE
        for file in path.iterdir():  # what others have put there stays
            if file.name not in ours and not file.name.endswith((".teacher.json", ".part")):
                os.rename(file, new / file.name)
        replace(path)


def edit_lock(path: Path) -> contextlib.AbstractContextManager:
    """Return a lock that one process at a time holds while it edits a store."""
    return files.work_lock(beside(path)[0], f"{path}: another process is editing it; wait for its end")


def beside(path: Path) -> tuple[Path, Path]:
    """Return the folders of a store's successor, and of the store while they change places."""
    return path.with_name(f".{path.name}.edited"), path.with_name(f".{path.name}.before")


def replace(path: Path) -> None:
    """Put the successor in the place of a store. Killed in between, `recover()` goes on."""
    new, before = beside(path)
    if path.exists():
        os.rename(path, before)
    os.rename(new, path)
    shutil.rmtree(before)


def recover(path: Path) -> None:
    """End what a run was killed in: a store is missing while its successor takes its place."""
    _, before = beside(path)
    if before.exists():
        with edit_lock(path):
            shutil.rmtree(before) if path.exists() else replace(path)


def carry_over(old: StoreFiles, new: StoreWriter, find: Callable[[Recording], Recording]) -> Change:
    """Write those clips into a new store that an earlier one has, with outputs of teachers; return what differs.

    `find` opens a recording with its IMU, as `data.fill()` does.
    """
    drawn = old.settings.get("seed") is not None  # frames are drawn by the number of the row
    rows_of = dict(zip(keys_of([old.segment(row) for row in range(len(old))], drawn), range(len(old)), strict=True))
    keys = keys_of([new.segment(row) for row in range(len(new))], drawn)
    pairs = {row: rows_of[key] for row, key in enumerate(keys) if key in rows_of}
    usable = old.array("status") == OK
    store = ClipStore(new.path, unfinished=True)
    if files.read_json(old.path / "store.json").get("classes_from_teacher") and not store.class_names:
        store.name_classes(old.class_names)
    lost = [".logits"] if store.class_names != old.class_names else []
    for name in (old.settings.get("consumer") or {}).get("arrays", ()):  # its frames were not kept
        goes_over = old.has(f"{name}.done") and not name.endswith(tuple(lost))
        usable = usable & (old.array(f"{name}.done") != 0 if goes_over else False)
    for name in new.names:  # a damaged row is decoded again
        usable[old.damaged(name, np.flatnonzero(usable)) or []] = False
    missing = set(new.missing().tolist())
    windows = write_rows(old, new, {row: pairs[row] for row in pairs if row in missing and usable[pairs[row]]}, find)
    written = set(new.finished().tolist())
    carry_outputs(old, new, {row: one for row, one in pairs.items() if usable[one] and row in written})
    changed = {name: set() for name in ATTRIBUTES}
    for row, one in pairs.items():
        for name, found in changed.items():
            if getattr(new.segment(row), name) != getattr(old.segment(one), name):
                found.add(new.segment(row).id)
    counts = {name: len(found) for name, found in changed.items()}
    return Change(counts, windows, len(new) - len(pairs), len(old) - len(pairs))


def keys_of(segments: Sequence[Segment], drawn: bool) -> list[tuple]:
    """Return what identifies each clip, given the segment of each row; `drawn`: its row, too."""
    found, equal, last, part = [], Counter[tuple](), None, 0
    for row, one in enumerate(segments):
        span = span_of(one)
        equal[span] += one is not last
        part = part + 1 if one is last else 0
        found.append((*span, equal[span], part, row if drawn else None))
        last = one
    return found


def write_rows(
    old: StoreFiles, new: StoreWriter, pairs: Mapping[int, int], find: Callable[[Recording], Recording]
) -> int:
    """Write rows of an earlier store, {row: earlier row}, into a new one; return how many windows were cut anew."""
    specs = {name: spec for name, spec in new.specs.items() if spec.kind == "imu"}
    limits = {name: new.settings[name] for name in ("min_coverage", "max_gap", "max_hold")} if specs else {}
    notes, signatures, count = old.notes(), known_sources(old.path), 0
    for rows in new.recordings():
        own = [row for row in rows.tolist() if row in pairs]
        if not own:
            continue
        recording = new.segment(own[0]).recording
        for row in own:
            if new.start(row) != (start := old.clips[pairs[row]]["start"]):  # the video is shorter than was known
                new.move(row, start)
        other = [row for row in own if imu_of(new.segment(row)) != imu_of(old.segment(pairs[row]))]
        cut = {row: new.start(row) for row in other if specs}
        sources = recording.files if specs else recording.files[:1]
        new.record_sources([file for file in sources if file in signatures or os.path.isfile(file)], signatures)
        windows: dict[int, Any] = {}
        if cut:
            opened = find(recording)
            new.note(opened.imu_source, opened.motion().notes)
            windows = dict(decode_clips(opened, cut, specs, **limits))
        elif specs:
            new.note(recording.imu_source, notes.get(name_files(recording.imu_source), ()))
        for row in own:
            if isinstance(window := windows.get(row, {}), CoverageError):
                new.fail(row, window)
            elif isinstance(window, Exception):  # such as a file that is missing: the earlier store stays
                raise window
            else:
                new.write(row, {name: old.array(name)[pairs[row]] for name in new.names} | window)
        count += len(cut)
    return count


def imu_of(segment: Segment) -> tuple:
    """Return what decides the windows of the IMU of a segment."""
    return tuple(getattr(segment, name) for name in IMU)


def carry_outputs(old: StoreFiles, new: StoreWriter, pairs: Mapping[int, int]) -> None:
    """Write the rows of arrays that were added to an earlier store into a new one, with the records of teachers.

    Logits go with the classes. What has no teacher may be computed from the IMU, and goes only with the same windows.
    """
    teachers = [record.name.removesuffix(".teacher.json") for record in old.path.glob("*.teacher.json")]
    store = ClipStore(new.path, unfinished=True).everything()
    for name in teachers:  # those of an edit that was interrupted may be others
        shutil.copy(old.path / f"{name}.teacher.json", new.path)
    kept = {row for row, one in pairs.items() if imu_of(new.segment(row)) == imu_of(old.segment(one))}
    for name in [name for name in old.arrays if old.is_added(name)]:
        if name.endswith(".logits") and store.class_names != old.class_names:
            continue
        array, done = old.array(name), np.flatnonzero(old.array(f"{name}.done"))
        intact = set(done.tolist()) - set(old.damaged(name, done) or ())
        of_teacher = name.rpartition(".")[0] in teachers or name in teachers
        rows = [row for row in sorted(pairs) if pairs[row] in intact and (of_teacher or row in kept)]
        store.add(name, array.shape[1:], array.dtype)
        store.select(np.isin(np.arange(len(store)), sorted(pairs))).forget(name)
        for some in np.array_split(np.array(rows, np.int64), len(rows) // 1024 + 1):
            if len(some):
                store.write(name, some, array[[pairs[row] for row in some.tolist()]])
