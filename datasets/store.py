"""A clip store: a folder of arrays with one row per clip, read by training and filled by `data.prepare()`.

    from egodistill.datasets import store

    train = store.ClipStore("store").split("train")
    batch = train.read("frames_8", [0, 5, 7])           # uint8 [3, 8, 3, 224, 224], RGB
    train.add("t.feature", (768,), "float32")           # allocate an array for outputs of a teacher,
    train.write("t.feature", [0, 5], features)          # and write those of two clips
    fold = store.folds(train, 3)                        # [n]: the clips of a wearer are in the same fold
    rest, held_out = train.select(fold != 0), train.select(fold == 0)

`ClipStore` reads, and adds arrays. `StoreWriter` creates a store and fills it. `claim_outputs()` keeps the outputs of
two teachers apart. The format on disk is defined in `store_files`.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
import json
import os
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..recordings.recording import Recording
from ..recordings.spec import ClipSpec
from ..support import files
from ..support.errors import DataError, NoteWarning, named
from ..support.names import name_files
from ..video import VideoInfo
from .segments import Segment
from .store_files import (
    FAILED,
    FORMAT,
    MISSING,
    OK,
    ROWS,
    StoreFiles,
    changed_sources,
    check_folder,
    check_settings,
    create_store,
    known_sources,
    lock_file,
    require_name,
    write_json,
)

__all__ = [
    "ClipStore",
    "OutputClaim",
    "StoreWriter",
    "claim_outputs",
    "folds",
    "outputs_record",
]

CONTINUES = f"the same call of {named('prepare()')} continues with them"

# ---------------------------------------------------------------------------------------------------------------
# Reading


class ClipStore:
    """A folder of arrays with one row per clip, and views of it; `store_files` lists its files.

    A view contains only usable clips, of one split or of all; `len()` is their number, and rows are counted within
    the view. `path` is the folder, `settings` are the arguments of `prepare`, and `specs` is {array: ClipSpec}.
    Arrays that any process adds later become visible. The second example adds an array of your own, with one row per
    clip.

    Args:
        path: The folder.
        unfinished: Do not warn about clips that are not prepared yet.

    Raises:
        DataError: The folder is not a store, or an array is damaged; with the file.

    >>> from egodistill import data
    >>> store = data.ClipStore("store")
    >>> train = store.split("train")
    >>> store.splits, len(train), train.class_names[:3], train.labels[:3]
    (['test', 'train'], 16, ['close', 'cut', 'open'], array([ 5, 10, 11]))
    >>> for name in ("frames_4", "frames_4.times", "imu"):
    ...     print(name, train.read(name, [0, 5]).dtype, train.read(name, [0, 5]).shape)
    frames_4 uint8 (2, 4, 3, 64, 64)
    frames_4.times float64 (2, 4)
    imu float32 (2, 422, 6)

    >>> train.add("brightness", (1,), "float32")
    >>> train.write("brightness", slice(0, 10), train.read("frames_1", slice(0, 10)).mean((1, 2, 3, 4))[:, None])
    >>> print(f"{train.done('brightness').sum()} of {len(train)} clips are written")
    10 of 16 clips are written
    """

    def __init__(self, path: str | os.PathLike, *, unfinished: bool = False) -> None:
        self._files = found = StoreFiles(path)
        self.path, self.settings, self.specs = found.path, found.settings, found.specs
        status, *_ = self._files.current()
        self._rows = np.flatnonzero(status == OK)
        self._classes: list[str] | None = None  # of `with_classes()`
        if not unfinished and (missing := np.count_nonzero(status == MISSING)):
            text = f"{self.path}: {missing} of {len(status)} clips are not prepared yet"
            warnings.warn(f"{text}; {CONTINUES}", NoteWarning, stacklevel=2)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"ClipStore({str(self.path)!r}, {len(self)} clips, {', '.join(self.names)})"

    @property
    def class_names(self) -> list[str]:
        """Return the names of the classes that labels index; [] without labels, until a teacher names its classes."""
        return self._files.class_names if self._classes is None else self._classes

    def with_classes(self, names: Sequence[str]) -> ClipStore:
        """Return a view whose labels index other names, such as those of a student that learned from another store.

        Raise DataError if a clip of this view has a label that is not among them, or if a name occurs twice. The view
        neither reads nor adds logits of teachers, which are those of the store's own classes.

        Args:
            names: Names of the classes.

        >>> from egodistill import data
        >>> test = data.ClipStore("store").split("test")
        >>> test.with_classes(sorted(test.class_names, reverse=True)).class_names[0] == test.class_names[-1]
        True
        """
        own = self.class_names
        if unknown := sorted({own[k] for k in self.labels if k >= 0} - set(names)):
            raise DataError(f"{self.path}: the label {unknown[0]!r} is none of the {len(names)} classes")
        if len(set(names)) < len(names):
            raise DataError(f"{max(names, key=list(names).count)!r} is among the classes more than once")
        view = copy.copy(self)
        vars(view).update(_classes=list(names))
        return view

    def _require_own_classes(self, name: str) -> None:
        if self._classes is not None and name.endswith(".logits"):
            raise DataError(
                f"{self.path}: {name!r} are of the store's own classes; use the store without with_classes()"
            )

    def name_classes(self, names: Sequence[str]) -> None:
        """Give the classes of a teacher to a store that was prepared without any; `teachers.extract()` does.

        Raise DataError if the store has other classes that are used.

        Args:
            names: Names of the classes.
        """
        with files.lock(lock_file(self.path)):
            self._files.name_classes(list(names))

    def classes_are_used(self, besides: str | None = None) -> bool:
        """Return whether `prepare()` gave the classes, or logits of a teacher need them.

        Args:
            besides: Name of a teacher that does not count; None: all count.
        """
        return self._files.classes_are_used(besides)

    @property
    def names(self) -> list[str]:
        """Return the names of the arrays that `read` returns."""
        return self._files.names

    @property
    def labels(self) -> np.ndarray:
        """Return the index into `class_names` of each clip's label, int64 [n]; -1 for none."""
        texts, found = self._files.index.texts["labels"], self._files.index["label"]
        places = {name: k for k, name in enumerate(self.class_names)}
        numbers = found[self.segments]
        labels = np.array([*(places.get(name, -1) for name in texts), -1], np.int64)[numbers]
        if len(unknown := numbers[(labels < 0) & (numbers >= 0)]):
            raise DataError(
                f"{self.path / 'store.json'}: is damaged: the label {texts[unknown[0]]!r} is none of its classes"
            )
        return labels

    @property
    def segments(self) -> np.ndarray:
        """Return the index of the segment that each clip belongs to, int64 [n]."""
        return self._files.index["segment"][self._rows].astype(np.int64)

    @property
    def clips(self) -> list[dict]:
        """Return a description of each clip: segment id, video, wearer, start and stop (s), label, split, status."""
        return list(self._files.described(self._rows))

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Return the number of clips of each split that are "ok", "failed" and "missing", in the whole folder."""
        (status, *_), found = self._files.current(), self._files.index
        splits = found["split"][found["segment"]]
        return {
            found.texts["splits"][split]: {
                name: int(np.count_nonzero(status[splits == split] == value))
                for name, value in (("ok", OK), ("failed", FAILED), ("missing", MISSING))
            }
            for split in dict.fromkeys(splits.tolist())
        }

    @property
    def shards(self) -> dict[str, int]:
        """Return the number of shards that are "complete", "begun", "not begun", and "not used" by any clip."""
        return self._files.shard_states()

    def sweep(self) -> int:
        """Remove shards that no clip of the table uses, and what killed processes left; return the freed bytes.

        No other process may prepare the store.
        """
        return self._files.sweep()

    @property
    def failures(self) -> list[dict]:
        """Return the clips of the whole folder that could not be prepared, each with its "reason"."""
        reasons, rows = self._files.reasons(), np.flatnonzero(self._files.current()[0] == FAILED)
        return [
            {"clip": row, **one, "reason": reasons.get(self._files.key(row), "unknown")}
            for row, one in zip(rows.tolist(), self._files.described(rows), strict=True)
        ]

    @property
    def notes(self) -> dict[str, list[str]]:
        """Return what is unusual about the IMU recordings: {file: notes}, see Imu.notes."""
        return {source: notes for source, notes in self._files.notes().items() if notes}

    @property
    def splits(self) -> list[str]:
        """Return the splits of the clips of this view, sorted."""
        texts = self._files.index.texts["splits"]
        return sorted(texts[k] for k in np.flatnonzero(np.bincount(self._files.index["split"][self.segments])))

    def split(self, name: str) -> ClipStore:
        """Return a view of the clips of one split. Raise DataError if there are none.

        Args:
            name: Name of the split.
        """
        if name not in self.splits:
            known = f"there are {', '.join(self.splits) or 'no usable clips'}"
            if missing := self.counts.get(name, {}).get("missing"):
                known = f"{missing} of its clips are not prepared yet; {CONTINUES}"
            raise DataError(f"{self.path}: no usable clip has the split {name!r}; {known}")
        found = self._files.index
        return self.select(found["split"][self.segments] == found.texts["splits"].index(name))

    def select(self, rows: Any) -> ClipStore:
        """Return a view of some clips of this view, in this order.

        Args:
            rows: A numpy index with one dimension: numbers or booleans. Another one is a DataError.
        """
        chosen = self._rows[rows]
        if chosen.ndim != 1:
            raise DataError(f"{self.path}: rows must be a list of numbers or booleans, not {rows!r}")
        view = copy.copy(self)
        vars(view).update(_rows=chosen)
        return view

    def everything(self) -> ClipStore:
        """Return a view of all rows of the folder, finished or not, to add arrays while rows are being written."""
        view = copy.copy(self)
        vars(view).update(_rows=np.arange(len(self._files)))
        return view

    def rest(self) -> ClipStore:
        """Return a view of all rows of the folder, finished or not, that are not in this view."""
        return self.everything().select(np.setdiff1d(np.arange(len(self._files)), self._rows))

    @property
    def wearers(self) -> list[str | None]:
        """Return the wearer of the camera of each clip; None if the annotations do not name one."""
        recordings = self._files.index.recordings
        return [recordings[k]["wearer"] for k in self._files.index["recording"][self.segments].tolist()]

    @property
    def fingerprint(self) -> str:
        """Return a hash of the prepared data of this view: specs, classes, labels, and the content of the arrays."""
        about = {"specs": {name: spec.record() for name, spec in self.specs.items()}}
        about |= {"format": FORMAT, "class_names": self.class_names}
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for values in (self._rows, self.labels, self.segments, self._files.current(self._rows)[2]):
            digest.update(np.ascontiguousarray(values, np.int64).tobytes())
        return digest.hexdigest()

    def fingerprints(self, names: Sequence[str]) -> dict[str, str]:
        """Return hashes of what a training reads: of the prepared clips, and of each array that was added.

        Args:
            names: Names of the arrays; those of `prepare()` are covered by the hash of the clips.
        """
        found = {"clips of the store": self.fingerprint[:16]}
        for name in filter(self._files.is_added, names):
            checksum = 0
            for rows in np.array_split(self._rows, len(self) // 1024 + 1):
                checksum = zlib.crc32(self._files.read(name, rows), checksum)
            found[f"outputs {name}"] = f"{checksum:08x}"
        return found

    def time_errors(self, name: str) -> np.ndarray:
        """Return how many seconds the frames of an array are away from the wanted times, float64 [n, N].

        Exact frames are up to one frame early.

        Args:
            name: Name of the array.

        Raises:
            KeyError: The array has no spec.
            DataError: It has no frames.
        """
        spec, found = self.specs[name], self.read(f"{name}.times", slice(None))
        starts = self._files.current(self._rows)[1].tolist()
        wanted = [spec.times(start, row) for start, row in zip(starts, self._rows.tolist(), strict=True)]
        return np.abs(found - np.reshape(wanted, found.shape))

    def read(self, name: str, index: Any, out: np.ndarray | None = None) -> np.ndarray:
        """Return a copy of rows of an array.

        Raise DataError for an unknown name, and for rows that are not written yet or are damaged: each row is compared
        with its checksum when it is first read.

        Args:
            name: Name of the array.
            index: A numpy index into the clips of this view.
            out: An array of the type and shape of these rows, C-contiguous, that they are read into.
        """
        self._require_own_classes(name)
        rows = self._rows[index]
        flat = np.ravel(rows)
        if self._files.is_added(name) and not self._files.sums(name, flat).all():
            lacking = f"{np.count_nonzero(~self.done(name))} of {len(self)} clips"
            raise DataError(
                f"{self.path}: {name!r} is not written yet for {lacking}; run again what writes it: for a teacher's "
                f"outputs {named('teachers.extract()')}"
            )
        values = self._files.read(name, flat, out if out is None else out.reshape(-1, *out.shape[rows.ndim :]))
        self._files.require_intact(name, flat, values)
        return values.reshape((*rows.shape, *values.shape[1:]))

    def verify(self) -> Iterator[tuple[str, list[int]]]:
        """Read the finished rows of all arrays of the folder: yield each array with its damaged rows.

        Rows are counted in the folder.

        >>> from egodistill import data
        >>> [name for name, damaged in data.ClipStore("store").verify() if damaged]
        []
        """
        return self._files.verify(np.flatnonzero(self._files.current()[0] == OK))

    def add(self, name: str, shape: Sequence[int], dtype: Any) -> None:
        """Create an array with one row per clip, or open the existing one.

        Several processes may call it, and then `write`, at the same time. Raise DataError if the existing array has
        another shape or dtype and written rows (`forget()` unmarks them), or if a file cannot be called `name` on
        Windows or macOS.

        Args:
            name: Name of the array.
            shape: Shape of a row.
            dtype: Type of its numbers, as numpy takes it.
        """
        require_name(name)
        self._require_own_classes(name)
        with files.lock(lock_file(self.path)):
            self._files.add(name, shape, dtype)

    def write(self, name: str, index: Any, values: np.ndarray) -> None:
        """Write rows of an array made by `add`, then mark them as done.

        Raise DataError for values that do not fit or are not finite, or for an array of `prepare`.

        Args:
            name: Name of the array.
            index: A numpy index into the clips of this view.
            values: The rows [n, *shape].
        """
        if not self._files.is_added(name):
            raise DataError(f"{self.path}: {name!r} was not made by add(), so it is read-only")
        entry, rows, values = self._files.arrays[name], self._rows[index], np.asarray(values)
        dtype, shape = np.dtype(entry["dtype"]), (*rows.shape, *entry["shape"])
        if values.shape != shape or not np.can_cast(values.dtype, dtype, "same_kind"):
            raise DataError(
                f"{self.path}: {name!r} needs {dtype} {list(shape)}; got {values.dtype} {list(values.shape)}"
            )
        values = _converted(values, dtype, f"{self.path}: {name!r}")
        if broken := _not_finite(values):
            ids = [self._files.segment(row).id for row in np.atleast_1d(rows)[broken[:5]]]
            raise DataError(
                f"{self.path}: {name!r} would not be finite for {len(broken)} clips, such as {ids}; check what made it"
            )
        self._files.write_added(name, np.ravel(rows), np.ascontiguousarray(values).reshape(-1, *entry["shape"]))

    def forget(self, name: str) -> None:
        """Mark the rows of an array made by `add` as not written, so that they are written again.

        Args:
            name: Name of the array.
        """
        if self._files.is_added(name):
            self._files.mark(name, self._rows, np.zeros(len(self), np.uint64))

    def done(self, name: str) -> np.ndarray:
        """Return whether each clip's row of an array is written, bool [n].

        Args:
            name: Name of the array.
        """
        if self._files.is_added(name):
            return self._files.sums(name, self._rows) != 0
        if not self._files.has(name):
            raise DataError(f"{self.path}: the store has no array {name!r}, only {', '.join(self.names)}")
        return np.ones(len(self), bool)  # an array of prepare(): all clips of a view are finished


# ---------------------------------------------------------------------------------------------------------------
# Writing


class StoreWriter:
    """A writer that fills a store, clip by clip; `data.prepare()` uses it.

    Use it directly for clips that do not come from video files. Rows are counted in the whole store. Several processes
    may fill a store at the same time; they share nothing but the status of the rows.

    >>> from egodistill import data
    >>> from egodistill.datasets import store
    >>> segments = data.read_csv("segments.csv")
    >>> writer = store.StoreWriter.begin(
    ...     "by-hand", segments, lambda: [(0, 0.0), (1, 2.1)], {}, ["walk", "look around"],
    ...     arrays={"speed": ("float32", (1,))},
    ... )
    >>> for row in writer.missing():
    ...     writer.write(row, {"speed": [2 * writer.start(row)]})
    >>> data.ClipStore("by-hand").read("speed", [0, 1]).tolist()
    [[0.0], [4.199999809265137]]
    """

    def __init__(self, path: str | os.PathLike | StoreFiles) -> None:
        self._files = path if isinstance(path, StoreFiles) else StoreFiles(path)
        self.path, self.settings, self.specs = self._files.path, self._files.settings, self._files.specs
        self.names, self.clip_seconds = self._files.prepared, self._files.clip_seconds
        self._moved: dict[int, float] = {}

    @classmethod
    def begin(
        cls,
        path: str | os.PathLike,
        segments: Sequence[Segment],
        find_clips: Callable[[], list[tuple[int, float]]],
        specs: Mapping[str, ClipSpec],
        class_names: Sequence[str],
        *,
        arrays: Mapping[str, tuple[str, Sequence[int]]] | None = None,
        settings: Mapping[str, Any] | None = None,
        videos: Mapping[str, VideoInfo] | None = None,
    ) -> StoreWriter:
        """Create a store in a folder, or open the unfinished one with the same settings (JSON values).

        `find_clips` returns the index of the segment and the start in seconds of each clip; it is called for a new
        store only. `specs` is {array: spec with one kind of array}, `arrays` {array: (dtype, shape of one row)} for
        other kinds, `videos` the headers of recordings by path. Raise DataError if the folder has other content or a
        store with other settings, or if the disk has too little free space.
        """
        path, settings = Path(path), dict(settings or {})
        entries = dict(arrays or {})
        for name, spec in specs.items():
            entries |= spec.arrays(name)
        check_folder(path)
        path.mkdir(parents=True, exist_ok=True)
        header = {
            "format": FORMAT,
            "settings": settings,
            "specs": {name: dataclasses.asdict(spec.complete()) for name, spec in specs.items()},
            "class_names": list(class_names),
        }
        origin = getattr(segments, "origin", None)
        header["left_out"] = bool(origin and (origin.left_out or origin.is_sparse))
        with files.lock(lock_file(path)):  # the first process creates it, the others wait and open it
            if (path / "store.json").exists():
                check_settings(path, segments, header)
            else:
                create_store(path, segments, find_clips(), entries, header, videos or {})
        return cls(path)

    def __len__(self) -> int:
        return len(self._files)

    def segment(self, row: int) -> Segment:
        """Return the segment that a row's clip is a part of."""
        return self._files.segment(row)

    def start(self, row: int) -> float:
        """Return the start of a row's clip in its video, in seconds."""
        return self._moved.get(row, float(self._files.index["start"][row]))

    def recordings(self) -> list[np.ndarray]:
        """Return the rows of each recording: one int array per video with its IMU and clock."""
        numbers = self._files.index["recording"][self._files.index["segment"]]
        order = np.argsort(numbers, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []

    def share(self, rank: int, world_size: int) -> list[np.ndarray]:
        """Return the rows of one of `world_size` shares, about equal ones, of whole shards: an array per recording."""
        shards, counts = np.unique(self._files.index["shard"], return_counts=True)
        filled, own = [0] * world_size, list[int]()
        for k in np.lexsort((shards, -counts)).tolist():  # the largest first, to the smallest share
            least = filled.index(min(filled))
            filled[least] += int(counts[k])
            if least == rank:
                own.append(int(shards[k]))
        chosen = np.isin(self._files.index["shard"], own)
        return [rows[chosen[rows]] for rows in self.recordings() if chosen[rows].any()]

    def missing(self, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Return those of the rows (None: all) that are neither written nor failed, int [m]."""
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        return rows[self._files.current(rows)[0] == MISSING]

    def finished(self) -> np.ndarray:
        """Return the rows that are written, int [m]."""
        return np.flatnonzero(self._files.current()[0] == OK)

    def reset(self, rows: np.ndarray) -> None:
        """Mark rows as missing, so that they are written again."""
        self._files.set_status(rows, MISSING)

    def retry(self, rows: np.ndarray) -> None:
        """Mark those of the rows that failed as missing."""
        self.reset(rows[self._files.current(rows)[0] == FAILED])

    def is_consumed(self, rows: np.ndarray) -> np.ndarray:
        """Return whether the arrays of a consumer are written for rows, int [m] -> bool [m]."""
        names = self.settings["consumer"]["arrays"]
        if not all(map(self._files.is_added, names)):
            return np.zeros(len(rows), bool)
        return np.all([self._files.sums(name, rows) != 0 for name in names], axis=0)

    def record_sources(self, sources: Sequence[str]) -> None:
        """Record the signatures of files from which clips will be written."""
        for file in sources:
            if file not in self._sources:
                self._sources[file] = files.signature(file)
                self._append("sources.jsonl", {"file": file, "signature": self._sources[file]})

    @functools.cached_property
    def _sources(self) -> dict[str, str]:
        return known_sources(self.path)

    def check_sources(self, *, again: bool = False) -> None:
        """Raise DataError if a file has changed since its clips were prepared; files that are gone are not compared.

        With `again`, mark all clips of such recordings as missing instead, and their rows in arrays of
        `ClipStore.add()` as not written.
        """
        recordings = {self.segment(rows[0]).recording: rows for rows in self.recordings()}
        changed = self.changed_sources(recordings, again=again)
        for recording, rows in recordings.items():
            if not changed.keys().isdisjoint(recording.files):
                for name in filter(self._files.is_added, self._files.names):
                    self._files.mark(name, rows, np.zeros(len(rows), np.uint64))
                self.reset(rows)
        for file, (_, now) in changed.items():
            self._append("sources.jsonl", {"file": file, "signature": now})

    def changed_sources(self, recordings: Iterable[Recording], *, again: bool) -> dict[str, tuple[str, str]]:
        """Return {file: signatures} of files of recordings that have changed; raise DataError if not `again`."""
        known = {file for recording in recordings for file in recording.files}
        changed = {file: found for file, found in changed_sources(self.path).items() if file in known}
        if changed and not again:
            file, (before, now) = next(iter(changed.items()))
            more = f", as have {len(changed) - 1} more files" if len(changed) > 1 else ""
            raise DataError(
                f"{file}: has changed since its clips were prepared in {self.path}{more} (was "
                f"{before}, is {now}). Restore it, give another folder, or prepare its clips again with "
                f"{named('retry_failed', True)}"
            )
        return changed

    def write(self, row: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a clip's row of all arrays, then mark it as finished, or as failed if a number is not finite.

        Raise DataError if an array is missing, or for a number that the type of an array cannot hold.
        """
        if set(arrays) != set(self.names):
            raise DataError(f"{self.path}: each clip needs the arrays {', '.join(self.names)}; got {', '.join(arrays)}")
        self._files.begin(self._files.key(row)[0])
        start, checksums, place = self.start(row), list[int](), np.array([row])
        checksum = self._files.before(row, start)
        for name in self.names:
            dtype = np.dtype(self._files.arrays[name]["dtype"])
            values = np.ascontiguousarray(_converted(np.asarray(arrays[name]), dtype, f"{self.path}: {name!r}"))
            if dtype.kind == "f" and not np.isfinite(values).all():
                self.fail(row, f"{name} is not finite: a value of the recording is missing or too large")
                return
            self._files.put(name, place, values[None])
            checksums.append(checksum := zlib.crc32(values, checksum))
        self._files.put(ROWS, place, np.array([(start, checksums, OK)], self._files.record))

    def move(self, row: int, start: float) -> None:
        """Change the start (s) of a clip that is not written yet; the store was begun without its video's duration."""
        self._moved[row] = start

    def fail(self, row: int, reason: Exception | str) -> None:
        """Record the reason why a clip cannot be prepared, then mark it as failed."""
        if self._files.current(np.array([row]))[0] == OK:  # another process has written it in the meantime
            return
        shard, place = self._files.key(row)
        line = {"shard": shard, "row": place, **self._files.describe(row), "status": "failed", "reason": str(reason)}
        self._append("failures.jsonl", line)
        self._files.set_status(np.array([row]), FAILED)

    def merge(self) -> None:
        """Write what is finished into the index of the store."""
        self._files.merge()

    def note(self, source: str | tuple[str, str], notes: Sequence[str]) -> None:
        """Record what is unusual about an IMU recording, for `ClipStore.notes`, in place of earlier notes about it."""
        if notes or name_files(source) in self._noted:
            self._append("notes.jsonl", {"imu": source, "notes": list(notes)})
            self._noted.add(name_files(source))

    @functools.cached_property
    def _noted(self) -> set[str]:
        return set(self._files.notes())

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        """Append a line to a file of the store, under its lock: two machines could append at the same place on NFS."""
        with files.lock(lock_file(self.path)):
            self._files.refresh()
            files.unshare_file(self.path / name)
            files.append_line(self.path / name, line)


def _converted(values: np.ndarray, dtype: np.dtype, what: str) -> np.ndarray:
    """Return values in the type of an array. Raise DataError for an integer that it cannot hold."""
    with np.errstate(over="ignore", invalid="ignore"):
        converted = values.astype(dtype, copy=False)
    if dtype.kind in "iu" and converted is not values and (changed := converted != values).any():
        raise DataError(f"{what} is {dtype}, which cannot hold {values[changed].flat[0]}; give it another type")
    return converted


def _not_finite(values: np.ndarray) -> list[int]:
    """Return the rows with NaN or infinity."""
    if values.dtype.kind not in "fc" or np.isfinite(values).all():
        return []
    return np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1)).tolist()


# ---------------------------------------------------------------------------------------------------------------
# Folds


def folds(store: ClipStore, count: int, by: str = "wearer") -> np.ndarray:
    """Return the fold of each clip, 0 to `count` - 1, int64 [n].

    All clips of a wearer (or video, or segment) are in the same fold; folds are about equal in size, and the same for
    the same clips. Use them to hold clips out of a training. Raise DataError if there are fewer wearers (or videos, or
    segments) than folds, or if a clip's wearer is unknown.

    Args:
        store: A store, or a view of n clips.
        count: Number of folds, at least 2.
        by: "wearer", "video" or "segment".

    >>> from egodistill import data
    >>> store = data.ClipStore("store")
    >>> fold = data.folds(store, 2)
    >>> len(store.select(fold != 0)), sorted(set(store.select(fold == 0).wearers))
    (10, ['P01', 'P30', 'P37'])
    """
    if by not in ("wearer", "video", "segment"):
        raise DataError(f"by must be 'wearer', 'video' or 'segment', not {by!r}")
    videos = [clip["video"] for clip in store.clips]
    groups = list({"wearer": store.wearers, "video": videos, "segment": store.segments}[by])
    if unknown := sum(group is None for group in groups):
        raise DataError(f"{store.path}: {unknown} clips have no wearer; give by='video'")
    sizes = Counter(groups)
    if not 2 <= count <= len(sizes):
        raise DataError(f"{store.path}: {len(sizes)} {by}s cannot make {count} folds; give 2 to {len(sizes)}")
    filled, fold_of = [0] * count, {}
    for group in sorted(sizes, key=lambda group: (-sizes[group], group)):  # the largest first, into the smallest fold
        fold_of[group] = filled.index(min(filled))
        filled[fold_of[group]] += sizes[group]
    return np.array([fold_of[group] for group in groups], np.int64)


# ---------------------------------------------------------------------------------------------------------------
# Outputs of teachers


class OutputClaim:
    """A run's claim on the outputs of one name, returned by `claim_outputs()`.

    As a context, it frees the name if the block fails and no clip of the store has these outputs; empty arrays stay.
    """

    def __init__(self, store: ClipStore, name: str, identity: Mapping[str, Any]) -> None:
        self.store, self.name, self.identity, self.file = store, name, identity, _record_file(store, name)

    def __enter__(self) -> OutputClaim:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            return
        with contextlib.suppress(OSError, DataError), files.lock(lock_file(self.store.path)):  # the error goes on
            if not _written(self.store, self.name) and not _differing(_read_record(self.file), self.identity):
                self.file.unlink()

    def check(self) -> None:
        """Raise DataError if another run has claimed these outputs since."""
        found = _read_record(self.file)
        if not found:
            raise DataError(
                f"{self.file}: another run of this teacher has failed and removed its claim; run this again"
            )
        if _differing(found, self.identity):
            raise DataError(
                f"{self.file}: another run is overwriting these outputs with those of the "
                f"fingerprint {found.get('fingerprint')}; this run stops here and leaves them intact"
            )


def claim_outputs(
    store: ClipStore,
    name: str,
    identity: Mapping[str, Any],
    *,
    about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> OutputClaim:
    """Claim the arrays "{name}.feature" and "{name}.logits" for a teacher; `teachers.extract()` uses it.

    Rows that are written are then always of the teacher that is recorded in "{name}.teacher.json" beside the arrays:
    `identity`, JSON values with "fingerprint" among them, and `about`, more of them. Raise DataError if the arrays
    belong to a teacher with another identity. With `overwrite`, they are claimed anyway, provided that `store` contains
    all clips with outputs of the other teacher; the outputs of all clips in `store` are marked as not written.
    """
    files.require_writable(store.path)
    file, splits = _record_file(store, name), set(store.splits)
    outputs = [f"{name}.feature", f"{name}.logits"]
    with files.lock(lock_file(store.path)):  # of two teachers with one name, the second sees the first's record
        found, present = _read_record(file), [array for array in outputs if array in store.names]
        differing = _differing(found, identity)
        free = not found and not _written(store, name)  # empty arrays of a run that failed at once
        if not overwrite and differing and (present or found) and not free:
            raise DataError(
                f"{file}: the outputs in the store have the {differing[0]} {found.get(differing[0])}, "
                f"this run has {identity[differing[0]]}; give the teacher another {named('name')}, or "
                f"compute all outputs again with {named('overwrite', True)}"
            )
        if differing:
            _check_rest(store, present, file)
        if overwrite:
            for array in present:  # before the record changes: a killed run leaves no row to the other teacher
                (store.everything() if differing else store).forget(array)
        written = set() if differing else set(found.get("splits", []))
        write_json(file, {**(about or {}), **identity, "splits": sorted(written | splits)})
    return OutputClaim(store, name, identity)


def _written(store: ClipStore, name: str) -> bool:
    """Return whether any clip of the store has outputs of a name."""
    arrays = [array for array in (f"{name}.feature", f"{name}.logits") if array in store.names]
    return any(store.everything().done(array).any() for array in arrays)


def _check_rest(store: ClipStore, outputs: Sequence[str], file: Path) -> None:
    """Raise DataError if a clip that is not in this view has outputs."""
    rest = store.rest()
    if outputs and (left := np.all([rest.done(array) for array in outputs], axis=0)).any():
        clips = rest.select(left)
        raise DataError(
            f"{file}: {len(clips)} of the clips that are not in this view, of the splits {clips.splits}, such as "
            f"{clips.clips[0]['id']!r}, would keep outputs of another teacher; pass the whole store, not a part of it, "
            f"or give the teacher another {named('name')}"
        )


def outputs_record(store: ClipStore, name: str) -> dict[str, Any]:
    """Return the record that `claim_outputs()` wrote for the outputs of this name; {} if there is none."""
    return _read_record(_record_file(store, name))


def _record_file(store: ClipStore, name: str) -> Path:
    return Path(store.path) / f"{name}.teacher.json"


def _read_record(file: Path) -> dict[str, Any]:
    try:
        record = files.read_json(file) if os.path.lexists(file) else {}
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
        splits = record.get("splits", [])
        if not (isinstance(splits, list) and all(isinstance(split, str) for split in splits)):
            raise ValueError("its splits are not a list of names")
        return record
    except ValueError as error:
        raise DataError(
            f"{file} cannot be read ({error}), so the teacher of these outputs is unknown: "
            f"delete it and compute all outputs again with {named('overwrite', True)}"
        ) from error


def _differing(found: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """Return the keys whose values differ between a record and this run."""
    return list(files.differences({key: found[key] for key in identity if key in found}, identity))
