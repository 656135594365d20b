"""Follow edits of a table: the index of a store becomes that of the segments as they are now.

    if edits.is_edited(path, segments, settings, specs):  # rows or labels differ, and nothing else
        print(edits.apply(path, segments, names, clips, videos, find))      # 1 label changed, 6 clips new, 2 gone
        ...                                                                 # decode what is missing

`data.prepare()` does this. A clip is a recording and a start. Its label, split, wearer and place in the order are
columns of the index, so no picture is read or written; where file, clock or axes of the IMU differ, its window is cut
anew, beside a copy of its pictures. Clips that are new get shards of their own. What results is the store that a fresh
run would give, but for rounding in outputs of a teacher that runs while clips are decoded: other batches. An edit that
is killed has happened, or not.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..imu import CoverageError
from ..recordings.clips import decode_clips
from ..recordings.recording import Recording, path_of
from ..recordings.spec import ClipSpec
from ..support import files
from ..support.defaults import NONE
from ..support.tables import pluralize
from ..video import VideoInfo
from . import index
from .segments import Segment
from .store import StoreWriter
from .store_files import (
    MERGED,
    OK,
    StoreFiles,
    clip_columns,
    headers_of,
    is_same_table,
    known_sources,
    lock_file,
    place_clips,
)

__all__ = ["Change", "apply", "is_edited", "known_videos"]

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


class Side(NamedTuple):
    """One of two tables: its columns and texts, as `index` has them."""

    columns: Mapping[str, np.ndarray]
    texts: Mapping[str, list]

    def of_segments(self, name: str) -> np.ndarray:
        """Return the "begin", "end", "label", "split", "wearer", "path", "camera" or "clock" of each segment."""
        if name in index.TIMES:
            return self.columns[name]
        if name in ("label", "split"):
            values, numbers = [*self.texts[f"{name}s"], None], self.columns[name]
        else:
            values, numbers = [FIELDS[name](one) for one in self.texts["recordings"]], self.columns["recording"]
        return np.fromiter(values, object, len(values))[numbers]  # also of tuples

    def of_clips(self, name: str, rows: Any = slice(None)) -> np.ndarray:
        """Return the same of the segments of clips."""
        return self.of_segments(name)[self.columns["segment"][rows]]


FIELDS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "wearer": lambda one: one["wearer"],
    "camera": lambda one: one["camera"],
    "path": lambda one: path_of(one["video"], one["imu"]),
    "clock": lambda one: tuple(tuple(one[name]) if name == "imu" and one[name] else one[name] for name in IMU),
}


def side_of(store: StoreFiles) -> Side:
    """Return the table of a store."""
    return Side({name: store.index[name] for name in (*index.SEGMENTS, *index.CLIPS)}, store.segments.texts)


def is_edited(
    path: Path, segments: Sequence[Segment], settings: Mapping[str, Any], specs: Mapping[str, ClipSpec]
) -> bool:
    """Return whether a store was made with these settings and other segments, of which most are still there.

    Otherwise it is another table, whose store must not take the place of this one, nor if a function of one's own
    reads the IMU now, or does not. Background does not count, as it follows the rows. The folder may be missing; the
    segments have the names that files have in the store.
    """
    if not (path / "store.json").exists():
        return False
    with files.work_lock(path / "edit"):  # another process may be editing it
        store = StoreFiles(path)
        if store.settings != dict(settings) or store.specs != {name: spec.complete() for name, spec in specs.items()}:
            return False
        new = Side(*index.columns_of(segments))
        if is_same_table(store, *new):
            return False
        old, status = side_of(store), store.current()[0]
    cameras = dict(zip(old.of_clips("path", status == OK), old.of_clips("camera", status == OK), strict=True))
    read_by = zip(new.of_segments("path"), new.of_segments("camera"), strict=True)
    if any(cameras.get(path, camera) != camera for path, camera in read_by):
        return False
    shown = ("path", "begin", "end", "label")
    then, now = (
        Counter((*span,) for *span, label in zip(*map(side.of_segments, shown), strict=True) if label != NONE)
        for side in (old, new)
    )
    return 2 * (then & now).total() > then.total()


def known_videos(path: Path) -> dict[str, VideoInfo]:
    """Return {path of a recording: the header of its video} of those that a store has read."""
    texts = StoreFiles(path).segments.texts
    pairs = zip(texts["recordings"], texts["videos"], strict=True)
    return {path_of(one["video"], one["imu"]): VideoInfo(*info) for one, info in pairs if info is not None}


def apply(
    path: Path,
    segments: Sequence[Segment],
    header: Mapping[str, Any],
    clips: Sequence[tuple[int, float]],
    videos: Mapping[str, VideoInfo],
    find: Callable[[Recording], Recording],
) -> Change:
    """Make segments the table of a store; return what differs. Clips that it does not have are missing then.

    Args:
        path: The folder of the store.
        segments: Those of now.
        header: Values of the header that differ with them: "class_names", "left_out".
        clips: (segment, start in seconds) of each clip.
        videos: {path: header of the video}.
        find: A function that opens a recording with its IMU, as `data.fill()` does.

    Raises:
        DataError: An IMU cannot be read; the store is as it was.
    """
    with files.work_lock(path / "edit"):
        store = StoreFiles(path)
        own, texts = index.columns_of(segments)
        if is_same_table(store, own, texts):  # another process was faster, and decodes by now
            return Change({}, 0, 0, 0)
        texts["videos"] = headers_of(texts, videos)
        old, new = side_of(store), Side({**own, **clip_columns(clips)}, texts)
        status, starts, checksums = store.current()
        pairs = paired(old, new, starts, store.settings.get("seed") is not None)
        matched = np.flatnonzero(pairs >= 0)
        had = matched[status[pairs[matched]] == OK]
        same = new.of_clips("clock", had) == old.of_clips("clock", pairs[had])
        is_kept = same if any(spec.imu_samples for spec in store.specs.values()) else np.ones(len(had), bool)
        kept, cut = had[is_kept], had[~is_kept]
        columns = dict(new.columns) | {name: np.full(len(clips), -1, np.int32) for name in ("shard", "row")}
        merged = dict(zip(MERGED, (status, starts, checksums), strict=True))
        for name, values in {**merged, **{name: old.columns[name] for name in ("shard", "row")}}.items():
            columns[name][kept] = values[pairs[kept]]
        taken = [int(folder.name) for folder in (path / "shards").glob("[0-9]*") if folder.name.isdigit()]
        first = 1 + max(int(old.columns["shard"].max(initial=-1)), *taken, -1)
        for some in (cut, np.setdiff1d(np.arange(len(clips)), had)):
            recordings = new.columns["recording"][new.columns["segment"][some]]
            columns["shard"][some], columns["row"][some] = place_clips(recordings, store.row_bytes, first)
            first = 1 + max(first - 1, int(columns["shard"][some].max(initial=-1)))
        if len(cut):
            following = StoreFiles(path)
            following.become(columns, texts)
            cut_anew(store, following, dict(zip(cut.tolist(), pairs[cut].tolist(), strict=True)), find)
        commit(store, columns, texts, header)
    attributes = {}
    for name in ("label", "split", "wearer"):
        differs = new.of_clips(name, matched) != old.of_clips(name, pairs[matched])
        attributes[name] = len(np.unique(new.columns["segment"][matched[differs]]))
    return Change(attributes, len(cut), len(clips) - len(matched), len(store) - len(matched))


def paired(old: Side, new: Side, starts: np.ndarray, drawn: bool) -> np.ndarray:
    """Return the clip of the old table that each of the new one is, int64 [n]; -1 for none.

    `starts` are the times (s) of the old clips; `drawn`: frames are drawn by the number of a clip.
    """
    keys = []
    for side, times in ((old, starts), (new, new.columns["start"])):
        equal = Counter[tuple]()  # a table may have a clip more than once
        keys.append([])
        for row, span in enumerate(zip(side.of_clips("path"), times.tolist(), strict=True)):
            equal[span] += 1
            keys[-1].append((*span, equal[span], row if drawn else None))
    known = {key: row for row, key in enumerate(keys[0])}
    return np.array([known.get(key, -1) for key in keys[1]], np.int64)


def commit(store: StoreFiles, columns: Mapping[str, np.ndarray], texts: Mapping[str, list], header: Mapping[str, Any]):
    """Make columns and texts the index of a store. Logits go if the classes are others."""
    if not header["class_names"] and store.classes_from_teacher:
        header = {**header, "class_names": store.class_names}
    with files.lock(lock_file(store.path)):
        store.refresh()
        others = header["class_names"] != store.class_names
        arrays = {name: one for name, one in store.arrays.items() if not (others and name.endswith(".logits"))}
        entries = index.write(store.path, {**columns, index.TEXTS: texts}, store.index.entries)
        gone = {*store.arrays} - {*arrays}
        about = {"arrays": arrays, "clips": len(columns["segment"]), "edits": store.edits + 1, "index": entries}
        store.write_header(**header, **about)
        for name in gone:
            store.remove_added(name)


def cut_anew(
    old: StoreFiles, new: StoreFiles, pairs: Mapping[int, int], find: Callable[[Recording], Recording]
) -> None:
    """Write clips of an earlier table, {row: earlier row}, into shards of a new one, with other windows of the IMU.

    Outputs of teachers go with the pictures; what has no teacher may be computed from the IMU, and does not.
    """
    writer, rows = StoreWriter(new), np.array(sorted(pairs))
    specs = {name: spec for name, spec in new.specs.items() if spec.kind == "imu"}
    limits = {name: new.settings[name] for name in ("min_coverage", "max_gap", "max_hold")}
    signatures = known_sources(old.path)
    for own in filter(len, (np.intersect1d(one, rows) for one in writer.recordings())):
        recording = find(new.segment(int(own[0])).recording)
        writer.record_sources([file for file in recording.files if file in signatures or os.path.isfile(file)])
        writer.note(recording.imu_source, recording.motion().notes)
        for row, window in decode_clips(recording, {row: writer.start(row) for row in own.tolist()}, specs, **limits):
            if isinstance(window, CoverageError):
                writer.fail(row, window)
            elif isinstance(window, Exception):  # such as a file that is missing
                raise window
            else:
                earlier = np.array([pairs[row]])
                if any(old.damaged(name, earlier) for name in writer.names):
                    continue  # it is decoded again: a copy would have a checksum that is right
                writer.write(row, {name: old.read(name, earlier)[0] for name in writer.names} | window)
    written = rows[new.current(rows)[0] == OK]
    teachers = {record.name.removesuffix(".teacher.json") for record in old.path.glob("*.teacher.json")}
    for name in filter(old.is_added, old.names):
        earlier = np.array([pairs[row] for row in written.tolist()], np.int64)
        done = old.sums(name, earlier) != 0
        done[done] = ~np.isin(earlier[done], old.damaged(name, earlier[done]))
        if teachers & {name.rpartition(".")[0], name} and done.any():
            new.write_added(name, written[done], old.read(name, earlier[done]))
