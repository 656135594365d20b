"""The files of a clip store: shards with the arrays of some hundred clips each, and an index that names their rows.

    store.json              the header: format, settings, class names, the spec of each prepared array, dtype and row
                            shape of every array, and the columns of the index with their CRC-32; a new store gets it
                            last
    index/NAME.N.npy        a column, see `index`: clips in their order, with label, split and wearer of their segments
    shards/N/clips.json     the recordings and clips of a shard, as they were when it was begun
    shards/N/rows.npy       a record per clip: start (s), "sums", the CRC-32 after each prepared array in the order of
                            the header, which begins with what the clip is (specs, file name, clock and axes of its
                            recording, start), but no folder; at last status (0 missing, 1 ok, 2 failed)
    shards/N/NAME.npy       the rows of an array of `prepare()`; frames come with their times, such as frames_4.times.
                            Or of one of `ClipStore.add()`, with NAME.sums.npy: 0 for a row that is not written, else
                            2**32 + its CRC-32, which begins with that of the prepared arrays and of the teacher
    NAME.teacher.json       the teacher whose outputs are NAME.feature and NAME.logits; see `store.claim_outputs()`
    failures.jsonl          clips that cannot be prepared, with the reasons
    notes.jsonl             what is unusual about the IMU recordings, if anything
    sources.jsonl           signatures of the files that clips were read from
    store.lock              locked while the header changes
    pending/                frames that wait for the models of one pass; see `one_pass`

A shard has one writer. What its table says of rows that the index does not know as finished is true: `merge()` writes
it into the index. A store writes into its own files only: one that is a link, or shared with a snapshot (`cp -al`), is
copied first. The format on disk is defined in this file and `index` alone.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import os
import re
import shutil
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..recordings.recording import path_of
from ..recordings.spec import ClipSpec
from ..support import files
from ..support.defaults import CLIP_SECONDS
from ..support.errors import DataError, named
from ..support.names import Names, Place, name_files
from ..video import VideoInfo
from . import index
from .index import AGAIN
from .segments import Segment, with_names

__all__ = ["StoreFiles", "rebuild"]

FORMAT = "egodistill clip store 3"
MISSING, OK, FAILED = 0, 1, 2
MERGED = ("status", "start", "checksum")  # the columns that follow the tables of shards
STATUS = ("missing", "ok", "failed")
OF_SHARDS = ("format", "place", "settings", "specs", "class_names", "left_out", "edits")  # what a shard repeats
SUMS, ROWS = ".sums", "rows"  # the end of the name of an added array's marks; the table of a shard
MAX_CLIPS, MAX_BYTES = 500, 256 << 20  # of a shard
SHARES = 32  # shards at least, so that several machines share a small store, too
OPEN_FILES = 256
WRITTEN = 1 << 32
# Names that no file on Windows can have, whatever its suffix.
DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in "0123456789¹²³")}
PART = re.compile(r"\.[0-9]{5,}\.[0-9a-f-]+\.part")  # a shard that is begun, or swept
SEEKING = threading.Lock()  # where the system cannot read at a place


class OpenArray:
    """An open `.npy` file: `at` is where its rows begin."""

    def __init__(self, file: Path, flags: int) -> None:
        self.file = file
        self.number = os.open(file, flags | getattr(os, "O_BINARY", 0))
        with open(self.number, "rb", closefd=False) as opened:
            version = np.lib.format.read_magic(opened)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, self.is_fortran, self.dtype = read(opened)
            self.at = opened.tell()

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)

    def is_own(self) -> bool:
        """Return whether it still is the file of this name, and no snapshot has it, too."""
        found = os.stat(self.file)
        return found.st_nlink == 1 and os.path.samestat(found, os.fstat(self.number))

    def read(self, buffer: memoryview, place: int) -> None:
        """Fill a buffer with the bytes from a place among the rows on. Raise DataError if the file ends before."""
        place += self.at
        while len(buffer):
            if hasattr(os, "preadv"):
                count = os.preadv(self.number, [buffer], place)
            else:
                with SEEKING:
                    os.lseek(self.number, place, os.SEEK_SET)
                    found = os.read(self.number, len(buffer))
                count = len(found)
                buffer[:count] = found
            if not count:
                raise DataError(f"{self.file}: truncated: it ends at {place} bytes; {AGAIN}")
            buffer, place = buffer[count:], place + count

    def write(self, content: memoryview, place: int) -> None:
        """Write bytes from a place among the rows on."""
        place += self.at
        with files.disk_errors(self.file):
            while len(content):
                if hasattr(os, "pwrite"):
                    count = os.pwrite(self.number, content, place)
                else:
                    with SEEKING:
                        os.lseek(self.number, place, os.SEEK_SET)
                        count = os.write(self.number, content)
                content, place = content[count:], place + count


class StoreFiles:
    """The files of one store: the header in memory, columns and rows as they are asked for.

    `settings` and `class_names` are the arguments of `data.prepare()`, `specs` is {array: ClipSpec}, `arrays` {array:
    {"dtype", "shape" of a row, "added" by `ClipStore.add()`}}. Raise DataError, which names the file, if the folder is
    not a store, or a file is damaged.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        if not (self.path / "store.json").exists():
            inner = self.path / "store"  # in a folder of `egodistill train`
            way_out = inner if (inner / "store.json").exists() else f"the folder that {named('prepare()')} wrote"
            raise DataError(
                f"{self.path / 'store.json'}: no such file, so {self.path} is not a clip store; give {way_out}"
            )
        self.open_files: dict[tuple[int, str, bool], OpenArray] = {}  # at most OPEN_FILES
        self.tables: dict[tuple[int, str], np.ndarray] = {}  # of which nothing will change
        self.verified: dict[str, np.ndarray] = {}  # bool [n]: rows that had their checksum when they were first read
        self.is_followed, self.stamp = True, self.header_stamp()
        self.load(self.read_header())
        self.about = json.dumps([[name, spec.record()] for name, spec in self.specs.items()])

    def read_header(self) -> dict[str, Any]:
        """Return the header. Raise DataError unless this version can read the store."""
        header = files.read_json(self.path / "store.json")
        form = header.get("format") if isinstance(header, dict) else None
        if form == FORMAT:
            return header
        if str(form).startswith(FORMAT.rstrip("0123456789")):
            raise DataError(
                f"{self.path}: its format is {form!r}, of another version of this library; this "
                f"one reads {FORMAT!r}. Use that version, or prepare another folder"
            )
        raise DataError(f"{self.path / 'store.json'}: not the header of a clip store")

    def load(self, header: Mapping[str, Any]) -> None:
        """Take over what the header says."""
        try:
            self.settings: dict[str, Any] = dict(header["settings"])
            self.left_out = bool(header.get("left_out"))  # whether something may happen where no segment is
            self.specs = {name: ClipSpec(**spec) for name, spec in header["specs"].items()}
            self.edits, self.count = int(header["edits"]), int(header["clips"])
            self.class_names: list[str] = header["class_names"]
            self.classes_from_teacher = bool(header.get("classes_from_teacher"))
            self.arrays: dict[str, dict[str, Any]] = header["arrays"]
            self.index = vars(self).get("index") or index.Index(self.path, {}, path_finder(self.path, header))
            self.index.follow(header["index"])
            if fault := self.fault():
                raise TypeError(fault)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.path / 'store.json'}: is damaged, or was written by another version of this library "
                f"({type(error).__name__}: {error})"
            ) from error
        self.prepared = [name for name, entry in self.arrays.items() if not entry.get("added")]
        self.row_bytes = bytes_of(self.arrays[name] for name in self.prepared)
        self.record = np.dtype([("start", "<f8"), ("sums", "<u4", (len(self.prepared),)), ("status", "u1")])
        for name in ("status", "shard", "row"):
            if len(self.index[name]) != self.count:
                raise DataError(f"{self.index.file(name)}: has {len(self.index[name])} values, not {self.count}")
        if (highest := self.index["status"].max(initial=0)) >= len(STATUS):
            raise DataError(f"{self.index.file('status')}: is damaged: its values are up to {highest}")

    def fault(self) -> str | None:
        """Return what is wrong with the values in the header, or None."""
        if not (isinstance(self.class_names, list) and all(isinstance(name, str) for name in self.class_names)):
            return "class_names is not a list of names"
        for name, entry in self.arrays.items():
            if name_fault(name):  # nothing outside of the folder
                return f"the array {name!r} has no name of an array"
            shape, _ = entry["shape"], np.dtype(entry["dtype"])
            if not (isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)):
                return f"the array {name!r} has the shape {shape!r}"
        for name, spec in self.specs.items():
            if spec != spec.complete():
                return f"the spec of {name!r} lacks a value"
        if missing := {*index.CLIPS, *index.SEGMENTS, "id", index.TEXTS} - set(self.index.entries):
            return f"the index has no {min(missing)}"
        for name, entry in self.index.entries.items():
            if not (isinstance(entry, list) and [type(value) for value in entry] == [int, int]):
                return f"the index has {entry!r} for {name!r}"
        return None

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:  # a copy in another process opens the files itself
        return vars(self) | {"open_files": {}}

    def header_stamp(self) -> tuple[int, ...]:
        """Return values that change whenever the header file is replaced; () if there is none."""
        try:
            found = os.stat(self.path / "store.json")
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def refresh(self) -> None:
        """Read the header again if it has changed: any process may have added arrays, or finished clips.

        Raise DataError if the table was edited since the store was opened: its rows are others.
        """
        if not self.is_followed or (stamp := self.header_stamp()) == self.stamp:
            return
        header = self.read_header()
        if header.get("edits") != self.edits or header.get("clips") != self.count:
            raise DataError(f"{self.path}: its table was edited since it was opened; open it again")
        self.load(header)
        self.forget_files()
        self.stamp = stamp

    def become(self, columns: Mapping[str, np.ndarray], texts: Mapping[str, list]) -> None:
        """Take on another table that is not in the header yet, to fill its new shards."""
        self.is_followed, self.count = False, len(columns["segment"])
        self.index.columns, self.index.texts, self.index.recordings = dict(columns), dict(texts), texts["recordings"]

    def forget_files(self) -> None:
        """Open all files again when they are read next."""
        self.open_files.clear()
        self.tables.clear()
        self.verified.clear()

    def write_header(self, **changes: Any) -> None:
        """Change values of the header. The caller holds the lock, and has called `refresh()`."""
        header = files.read_json(self.path / "store.json")
        write_json(self.path / "store.json", header | changes)
        if "edits" not in changes:
            self.refresh()

    def has(self, name: str) -> bool:
        """Return whether the store has this array."""
        self.refresh()
        return name in self.arrays

    def is_added(self, name: str) -> bool:
        """Return whether an array was made by `add()`."""
        return self.has(name) and bool(self.arrays[name].get("added"))

    @property
    def names(self) -> list[str]:
        """Return the names of the arrays, without the times of frames."""
        self.refresh()
        return [name for name in self.arrays if not name.endswith(".times")]

    # -----------------------------------------------------------------------------------------------------------
    # Shards

    def folder(self, shard: int) -> Path:
        """Return the folder of a shard."""
        return self.path / "shards" / f"{shard:05d}"

    def table(self, shard: int, name: str = ROWS) -> np.ndarray | None:
        """Return the table of a shard, or the marks of an added array; None if it has none yet."""
        if (shard, name) in self.tables:
            return self.tables[shard, name]
        file = self.folder(shard) / f"{name}.npy"
        is_there = file.parent.exists()  # asked first: another process renames a whole shard into its place
        if not os.path.lexists(file):
            if name == ROWS and is_there:
                raise DataError(f"{file}: missing; {AGAIN}")
            return None
        files.require_file(file)
        opened = self.opened(shard, name)
        table = np.empty(opened.shape, opened.dtype)
        opened.read(memoryview(table.view(np.uint8).reshape(-1)), 0)
        if (table["status"] if name == ROWS else table).all():  # nothing will change
            self.tables[shard, name] = table
        return table

    def open_array(self, shard: int, name: str, writes: bool = False) -> OpenArray:
        """Return an open file of a shard, which stays open."""
        if (key := (shard, name, writes)) not in self.open_files:
            while len(self.open_files) >= OPEN_FILES:
                del self.open_files[next(iter(self.open_files))]
            self.open_files[key] = self.opened(*key)
        return self.open_files[key]

    def opened(self, shard: int, name: str, writes: bool = False) -> OpenArray:
        """Open a file of a shard. Raise DataError if it is not as the header says."""
        file, flags = self.folder(shard) / f"{name}.npy", os.O_RDWR if writes else os.O_RDONLY
        if writes:
            files.unshare_file(file)
            # Batches of a teacher are not whole shards: NFS would write back pages with rows of other machines.
            if name not in (ROWS, *self.prepared) and files.environment_share()["world_size"] > 1:
                flags |= getattr(os, "O_DSYNC", 0)
        if name == ROWS:
            dtype, shape = self.record, ()
        elif name.endswith(SUMS):
            dtype, shape = np.dtype("uint64"), ()
        else:
            dtype, shape = np.dtype(self.arrays[name]["dtype"]), tuple(self.arrays[name]["shape"])
        if os.path.lexists(file):
            files.require_file(file)
        try:
            found = OpenArray(file, flags)
        except Exception as error:  # numpy has no common class for damaged headers
            reason = getattr(error, "strerror", None) or "its header is damaged, or its end is missing"
            raise DataError(f"{file}: missing or truncated: {reason}; {AGAIN}") from error
        if found.dtype != dtype or found.shape[1:] != shape or (found.is_fortran and len(found.shape) > 1):
            order = " in Fortran's order" if found.is_fortran else ""
            raise DataError(
                f"{file}: its rows are {found.dtype} {list(found.shape[1:])}{order}, but store.json says {dtype} "
                f"{list(shape)}"
            )
        return found

    def runs(self, rows: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
        """Yield (start, stop, shard, row of the first) of stretches of some clips that are neighbours in a shard."""
        shards, places = self.index["shard"][rows], self.index["row"][rows]
        cuts = np.flatnonzero((np.diff(shards) != 0) | (np.diff(places) != 1)) + 1
        starts, stops = [0, *cuts.tolist()], [*cuts.tolist(), len(rows)]
        if len(rows):
            yield from zip(starts, stops, shards[starts].tolist(), places[starts].tolist(), strict=True)

    def read(self, name: str, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return rows [m] of an array, in `out` if it is given, without looking at checksums."""
        if not self.has(name):
            raise DataError(f"{self.path}: the store has no array {name!r}, only {', '.join(self.names)}")
        entry = self.arrays[name]
        out = np.empty((len(rows), *entry["shape"]), entry["dtype"]) if out is None else out
        buffer, size = memoryview(out.reshape(-1).view(np.uint8)), out.itemsize * math.prod(entry["shape"])
        for start, stop, shard, row in self.runs(rows):
            self.open_array(shard, name).read(buffer[start * size : stop * size], row * size)
        return out

    def put(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        """Write rows [m] of an array of the shards, of which only these bytes change: others write other rows."""
        values = np.ascontiguousarray(values)
        content, size = memoryview(values.reshape(-1).view(np.uint8)), values.nbytes // max(1, len(values))
        for start, stop, shard, row in self.runs(rows):
            if not self.open_array(shard, name, True).is_own():
                self.open_files.clear()
            self.open_array(shard, name, True).write(content[start * size : stop * size], row * size)
            self.tables.pop((shard, name), None)

    def begin(self, shard: int) -> None:
        """Create a shard whose clips are all missing, unless it is there; the folder is complete or absent."""
        if (folder := self.folder(shard)).exists():
            return
        clips = np.flatnonzero(self.index["shard"] == shard)
        count = int(self.index["row"][clips].max()) + 1
        table, segments, local = np.zeros(count, self.record), dict[int, int](), list[Any]([None] * count)
        for clip in clips.tolist():
            segment = int(self.index["segment"][clip])
            row, start = int(self.index["row"][clip]), float(self.index["start"][clip])
            table["start"][row] = start
            local[row] = [segments.setdefault(segment, len(segments)), start, clip]
        header = files.read_json(self.path / "store.json")
        about = {name: header[name] for name in OF_SHARDS}
        about["edits"] += not self.is_followed  # of the table that it will have
        about["arrays"] = {name: self.arrays[name] for name in self.prepared}
        about |= {"segments": [self.segments[number].record() for number in segments], "clips": local}
        part = part_of(folder)
        try:
            with files.disk_errors(folder):
                part.mkdir(parents=True)
                for name in self.prepared:
                    allocate(part / f"{name}.npy", self.arrays[name]["dtype"], (count, *self.arrays[name]["shape"]))
                np.save(part / f"{ROWS}.npy", table)
                write_json(part / "clips.json", about)
                try:
                    os.rename(part, folder)
                except OSError:  # another process of this machine was faster
                    if not folder.exists():
                        raise
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def current(self, rows: np.ndarray | None = None) -> list[np.ndarray]:
        """Return status, start (s) and checksum of m clips as they are now; None: of all.

        Of a clip that the index does not know as finished, the table of its shard counts.
        """
        self.refresh()
        columns = [self.index[name] for name in MERGED]
        if rows is not None:
            columns = [column[rows] for column in columns]
        if len(unknown := np.flatnonzero(columns[0] == MISSING)):
            records = self.records(unknown if rows is None else rows[unknown])
            unknown, records = unknown[known := records["status"] != MISSING], records[known]
            columns = [column.copy() for column in columns]
            columns[0][unknown], columns[1][unknown] = records["status"], records["start"]
            if self.prepared:
                columns[2][unknown] = records["sums"][:, -1]
            if (highest := records["status"].max(initial=0)) >= len(STATUS):
                raise DataError(f"{self.path / 'shards'}: is damaged: a status is {highest}; {AGAIN}")
        return columns

    def merge(self) -> None:
        """Write what the shards know into the index."""
        with files.lock(lock_file(self.path)):
            columns = dict(zip(MERGED, self.current(), strict=True))
            changed = {name: column for name, column in columns.items() if column is not self.index[name]}
            if changed and any(not np.array_equal(column, self.index[name]) for name, column in changed.items()):
                entries = index.write(self.path, changed, self.index.entries)
                self.write_header(index=entries)

    def set_status(self, rows: np.ndarray, status: int) -> None:
        """Change the status of clips in their shards; those that the index knows as finished are then missing there."""
        for shard in np.unique(self.index["shard"][rows]).tolist():
            self.begin(shard)
        records = self.records(rows)
        records["status"] = status
        self.put(ROWS, rows, records)
        if self.index["status"][rows].any():
            with files.lock(lock_file(self.path)):
                self.refresh()
                column = self.index["status"].copy()
                column[rows] = MISSING
                self.write_header(index=index.write(self.path, {"status": column}, self.index.entries))

    def unused(self) -> list[Path]:
        """Return the folders of shards of which no clip is in the index, and of those that killed processes left.

        A shard with a file that is not the store's is none of them.
        """
        used = {self.folder(shard) for shard in np.unique(self.index["shard"]).tolist()}
        found = sorted(one for one in (self.path / "shards").glob(".*") if PART.fullmatch(one.name) and is_folder(one))
        for folder in (one for one in shard_folders(self.path) if one not in used and is_folder(one)):
            own = {f"{name}.npy" for name in (*self.prepared, ROWS)} | {"clips.json"}
            own |= {one for name in added_names(folder) for one in (f"{name}.npy", f"{name}{SUMS}.npy")}
            others = (name for name in os.listdir(folder) if name not in own and not files.is_system_file(name))
            if all(re.fullmatch(r"\..+\.npy\.[0-9]+-[0-9a-f]{8}\.part", name) for name in others):
                found.append(folder)
        return found

    def shard_states(self) -> dict[str, int]:
        """Return the number of shards that are "complete", "begun", "not begun", and "not used" by any clip."""
        shards, status = self.index["shard"], self.current()[0]
        missing, all_ = np.unique(shards[status == MISSING]).tolist(), len(np.unique(shards))
        begun = sum(self.folder(shard).exists() for shard in missing)
        found = {"complete": all_ - len(missing), "begun": begun, "not begun": len(missing) - begun}
        return {state: count for state, count in (found | {"not used": len(self.unused())}).items() if count}

    def sweep(self) -> int:
        """Remove what `unused()` lists, and columns that the header does not name; return the freed bytes."""
        with files.work_lock(self.path / "edit"), files.lock(lock_file(self.path)):
            self.refresh()
            index.write(self.path, {}, self.index.entries)
            freed = 0
            for folder in self.unused():
                freed += sum(file.stat().st_size for file in folder.iterdir())
                part = folder if PART.fullmatch(folder.name) else folder.rename(part_of(folder))
                shutil.rmtree(part)  # never half of a shard under its name
            return freed

    # -----------------------------------------------------------------------------------------------------------
    # Checksums

    @functools.cached_property
    def covered(self) -> list[int]:
        """Return the CRC-32 of specs and recording of each recording, with which that of its clips begin."""
        found, reads_imu = [], any(spec.imu_samples for spec in self.specs.values())
        for one in self.index.recordings:
            imu = one["imu"] if isinstance(one["imu"], str) else (one["imu"] or ("",))[0]
            name = os.path.basename((one["video"] or imu).replace("\\", "/"))
            clock = [one[field] for field in ("imu_offset", "imu_stretch", "imu_axes", "zero_accel")] * reads_imu
            found.append(zlib.crc32(ascii((self.about, name, *clock)).encode()))
        return found

    def before(self, row: int, start: float) -> int:
        """Return the CRC-32 with which that of the first array of a clip begins: it covers what the clip is."""
        recording = self.index["recording"][self.index["segment"][row]]
        return zlib.crc32(struct.pack("<Id", self.covered[recording], start))

    def before_added(self, name: str, rows: np.ndarray) -> list[int]:
        """Return the CRC-32 with which that of each of m rows of an added array begins: it covers clip and teacher."""
        file = self.path / f"{name.rpartition('.')[0]}.teacher.json"
        record = files.read_json(file) if name.endswith((".feature", ".logits")) and os.path.lexists(file) else None
        teacher = json.dumps(record.get("fingerprint") if isinstance(record, dict) else None).encode()
        return [zlib.crc32(teacher, checksum) for checksum in self.current(rows)[2].tolist()]

    def sums(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return the marks of m rows of an added array, uint64 [m]: 0 for one that is not written."""
        return self.records(rows, name + SUMS)

    def records(self, rows: np.ndarray, name: str = ROWS) -> np.ndarray:
        """Return what tables of shards, or the marks of an added array, say of m rows; zeros where there is none."""
        found = np.zeros(len(rows), self.record if name == ROWS else np.uint64)
        shards, places = self.index["shard"][rows], self.index["row"][rows]
        order = np.argsort(shards, kind="stable")
        for own in filter(len, np.split(order, np.flatnonzero(np.diff(shards[order])) + 1)):
            if (table := self.table(shard := int(shards[own[0]]), name)) is not None:
                if (row := places[own].max()) >= len(table):
                    raise DataError(
                        f"{self.folder(shard) / name}.npy: has {len(table)} rows, but no row {row}; {AGAIN}"
                    )
                found[own] = table[places[own]]
        return found

    def damaged(self, name: str, rows: np.ndarray, values: np.ndarray | None = None) -> list[int]:
        """Return those of some finished rows of an array whose checksums differ; `values` are the rows, if known."""
        others = np.zeros(len(rows), bool)  # rows of a shard that is not the index's
        if self.is_added(name):
            before, after = self.before_added(name, rows), self.sums(name, rows)
        else:
            place, records = self.prepared.index(name), self.records(rows)
            others = records["sums"][:, -1] != self.current(rows)[2]
            after = WRITTEN + records["sums"][:, place].astype(np.uint64)
            if place:
                before = records["sums"][:, place - 1].tolist()
            else:
                before = list(map(self.before, rows.tolist(), records["start"].tolist()))
        found = []
        for number, (row, checksum, wanted) in enumerate(zip(rows.tolist(), before, after.tolist(), strict=True)):
            value = self.read(name, rows[number : number + 1]) if values is None else values[number]
            if others[number] or WRITTEN + zlib.crc32(value, checksum) != wanted:
                found.append(row)
        return found

    def require_intact(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        """Raise DataError if a row of an array has another checksum than when it was written.

        Each row is verified when this process first reads it; rows that are not finished have none. `values` are the
        rows that were read.
        """
        verified = self.verified.setdefault(name, np.zeros(len(self), bool))
        if verified[rows].all():
            return
        finished = self.is_added(name) | (self.current(rows)[0] == OK)
        new = np.flatnonzero(~verified[rows] & finished)
        read = values if len(new) == len(rows) else values[new]  # no copy of what is read for the first time
        if self.damaged(name, rows[new], read):  # or read from a file that was replaced by a copy
            self.forget_files()
            values[new] = self.read(name, rows[new])
            if damaged := self.damaged(name, rows[new], values[new]):
                one = self.describe(damaged[0])
                raise DataError(
                    f"{self.folder(self.index['shard'][damaged[0]]) / name}.npy: the row "
                    f"{self.index['row'][damaged[0]]} ({one['id']!r} at {one['start']:.2f} s) was damaged or replaced "
                    f"after it was written, its checksum differs; `egodistill status {self.path} --verify` lists all "
                    f"such rows"
                )
            verified = self.verified.setdefault(name, np.zeros(len(self), bool))
        verified[rows[new]] = True

    def verify(self, rows: np.ndarray) -> Iterator[tuple[str, list[int]]]:
        """Read all arrays: yield each name with its damaged rows."""
        if self.prepared:
            yield "checksum", rows[self.current(rows)[2] != self.records(rows)["sums"][:, -1]].tolist()
        for name in list(self.arrays):
            yield name, self.damaged(name, rows[self.sums(name, rows) != 0] if self.is_added(name) else rows)
        failed = np.flatnonzero(self.current()[0] == FAILED).tolist()
        explained = self.reasons()
        yield "status", [row for row in failed if self.key(row) not in explained]

    # -----------------------------------------------------------------------------------------------------------
    # Clips

    @property
    def segments(self) -> index.SegmentColumns:
        """Return the annotated segments."""
        return self.index.segments

    def segment(self, row: int) -> Segment:
        """Return the segment that a clip is a part of."""
        return self.segments[int(self.index["segment"][row])]

    def key(self, row: int) -> tuple[int, int]:
        """Return shard and row in it of a clip, by which failures know it."""
        return int(self.index["shard"][row]), int(self.index["row"][row])

    def reasons(self) -> dict[tuple[int, int], str]:
        """Return {shard, row: the last reason why a clip could not be prepared}."""
        lines = files.read_lines(self.path / "failures.jsonl", "shard", "row", "reason")
        return {(line["shard"], line["row"]): str(line["reason"]) for line in lines if type(line["row"]) is int}

    def notes(self) -> dict[str, list[str]]:
        """Return the last notes about each IMU recording: {file: notes}, none where it was replaced by a right one."""
        return {
            name_files(map(str, line["imu"]) if isinstance(line["imu"], list) else line["imu"]): line["notes"]
            for line in files.read_lines(self.path / "notes.jsonl", "imu", "notes")
            if isinstance(line["notes"], list) and isinstance(line["imu"], (str, list))
        }

    @property
    def clip_seconds(self) -> float:
        """Return the length of the clips in seconds."""
        own = [spec.seconds for spec in self.specs.values() if spec.seconds is not None]
        return own[0] if own else self.settings.get("clip_seconds", CLIP_SECONDS)  # outputs of a teacher have no spec

    def describe(self, row: int) -> dict[str, Any]:
        """Return a description of a clip: segment id, video, wearer, start and stop (s), label, split, status."""
        return next(self.described(np.array([row])))

    def described(self, rows: np.ndarray) -> Iterator[dict[str, Any]]:
        """Yield the descriptions of clips."""
        status, starts, _ = self.current(rows)
        found, seconds, recordings = self.segments, self.clip_seconds, self.index.recordings
        paths = [path_of(one["video"], one["imu"]) for one in recordings]
        clips = zip(self.index["segment"][rows].tolist(), starts.tolist(), status.tolist(), strict=True)
        for number, start, state in clips:
            recording = found.columns["recording"][number]
            yield {
                "id": found.id(number),
                "video": paths[recording],
                "wearer": recordings[recording]["wearer"],
                "start": start,
                "stop": start + seconds,
                "label": found.text("label", number),
                "split": found.text("split", number),
                "status": STATUS[state],
            }

    # -----------------------------------------------------------------------------------------------------------
    # Arrays and classes of teachers

    def add(self, name: str, shape: Sequence[int], dtype: Any) -> None:
        """Create an array, unless it exists; a shard gets its file with the first row. The caller holds the lock.

        An array of another shape or dtype is replaced if none of its rows is written. Otherwise raise DataError.
        """
        self.refresh()
        new = {"dtype": np.dtype(dtype).name, "shape": [*map(int, shape)], "added": True}
        if twins := [other for other in self.arrays if other != name and other.casefold() == name.casefold()]:
            raise DataError(
                f"{self.path}: the store already has an array {twins[0]!r}; on Windows and macOS, {name!r} would "
                f"be the same file; choose another name"
            )
        old = self.arrays.get(name)
        if old == new:
            return
        if old and not (old.get("added") and not self.sums(name, np.arange(len(self))).any()):
            source = "add()" if old.get("added") else "prepare()"
            raise DataError(
                f"{self.path}: {source} has already made an array {name!r}, {old['dtype']} {old['shape']}; add() "
                f"cannot make it again as {new['dtype']} {new['shape']}; choose another name"
            )
        require_room(self.path, len(self) * bytes_of([new]), f"the array {name!r}")
        self.write_header(arrays={one: entry for one, entry in self.arrays.items() if one != name})
        self.remove_added(name)
        self.write_header(arrays={**self.arrays, name: new})

    def remove_added(self, name: str) -> None:
        """Remove the files of an array that the header does not name. The caller holds the lock."""
        for folder in shard_folders(self.path):
            if name in added_names(folder):
                for end in ("", SUMS):  # without marks it would not be the store's
                    (folder / f"{name}{end}.npy").unlink(missing_ok=True)

    def write_added(self, name: str, rows: np.ndarray, values: np.ndarray) -> None:
        """Write rows [m] of an added array, then mark them."""
        entry = self.arrays[name]
        for shard in np.unique(self.index["shard"][rows]).tolist():
            file, marks = (self.folder(shard) / f"{name}{end}.npy" for end in ("", SUMS))
            if not (file.exists() and marks.exists()):
                self.begin(shard)
                with files.lock(lock_file(self.path)):
                    if file.exists() and not marks.exists():
                        raise DataError(f"{file}: is not the store's, which would write it; move it away")
                    if not file.exists():
                        count = self.opened(shard, ROWS).shape[0]
                        with files.atomic_write(file, through_link=False) as part:
                            allocate(part, entry["dtype"], (count, *entry["shape"]))
                            with files.atomic_write(marks, through_link=False) as part:
                                allocate(part, "uint64", (count,))
        self.put(name, rows, values)
        sums = list(map(zlib.crc32, values, self.before_added(name, rows)))
        self.mark(name, rows, WRITTEN + np.array(sums, np.uint64))

    def mark(self, name: str, rows: np.ndarray, sums: np.ndarray) -> None:
        """Write the marks of rows [m] of an added array where a shard has it."""
        for start, stop, shard, _ in self.runs(rows):
            if (self.folder(shard) / f"{name}{SUMS}.npy").exists():
                self.put(name + SUMS, rows[start:stop], sums[start:stop])
        if not sums.all():  # others may have kept full tables: they look again at what changes with the header
            os.utime(self.path / "store.json")
        self.verified.pop(name, None)

    def classes_are_used(self, besides: str | None = None) -> bool:
        """Return whether `prepare()` gave the class names, or logits of a teacher (but `besides`) need them."""
        self.refresh()
        if self.class_names and not self.classes_from_teacher:
            return True
        logits = [name for name in self.names if name.endswith(".logits") and name != f"{besides}.logits"]
        return any(self.sums(name, np.arange(len(self))).any() for name in logits if self.is_added(name))

    def name_classes(self, names: list[str]) -> None:
        """Write class names of a teacher into the header. Raise DataError if others are used.

        The caller holds the lock.
        """
        self.refresh()
        found = self.class_names
        if found and found != names and self.classes_are_used():
            raise DataError(
                f"{self.path}: the store has the classes {files.shorten(found)}, not {files.shorten(names)}; prepare "
                f"another store for a teacher with other classes"
            )
        if found != names:
            self.write_header(class_names=names, classes_from_teacher=True)


def name_fault(name: str) -> str | None:
    """Return why an array cannot have a name, or None."""
    if name.split(".")[0].upper() in DEVICES:
        return "Windows reserves it for a device"
    if re.fullmatch(r"\w[\w.-]*", name) and not name.lower().endswith(SUMS) and name.lower() != ROWS:
        return None
    return f"use letters, digits, '_', '-' and '.', no {SUMS!r} at the end, and not {ROWS!r}"


def require_name(name: str) -> None:
    """Raise DataError if an array cannot have a name."""
    if fault := name_fault(name):
        raise DataError(f"{name!r} cannot be the name of an array: {fault}")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file of a store. A link in its place is replaced: a store writes into its own files only."""
    files.write_json(path, value, through_link=False)


def lock_file(path: str | os.PathLike) -> Path:
    """Return the file that a process locks while it changes a store's header."""
    return Path(path) / "store.lock"


def require_room(path: Path, needed: int, what: str) -> None:
    """Raise DataError if a disk has too little free space."""
    free = shutil.disk_usage(path).free
    if needed > free:
        raise DataError(
            f"{path}: {what} needs {needed / 1e6:,.1f} MB, but only {free / 1e6:,.1f} MB are free; free some, or use "
            f"another disk"
        )


def bytes_of(entries: Iterable[Mapping[str, Any]]) -> int:
    """Return the bytes of a row in all of these arrays."""
    return sum(math.prod(one["shape"]) * np.dtype(one["dtype"]).itemsize for one in entries)


def allocate(file: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    """Create an array of zeros in its final size, with its room on the disk: macOS and Windows cannot allocate it."""
    with open(file, "wb") as opened:
        about = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(opened, about)
        opened.flush()
        size = opened.tell() + math.prod(shape) * np.dtype(dtype).itemsize
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, size)
        else:
            opened.truncate(size)


# ---------------------------------------------------------------------------------------------------------------
# A new store


BEGUN = {index.FOLDER, "store.lock"}  # what a folder has before there is a header


def check_folder(path: Path) -> None:
    """Raise DataError unless the folder is new or empty, or holds a store or the parts that a killed run left."""
    if path.exists() and not path.is_dir():
        raise DataError(f"{path}: this is a file, but a store is a folder; give another name")
    found = files.content(path)
    if "store.lock" in found:  # the first file of a store; the header is the last
        found = [name for name in found if name not in BEGUN]
    if found and not (path / "store.json").exists():
        raise DataError(f"{path}: contains {found[0]} but no store.json; give an empty folder")


def check_settings(path: Path, segments: Sequence[Segment], header: Mapping[str, Any]) -> None:
    """Raise DataError, with the differences, if a store was begun with other segments or settings.

    The same file may be named by another path. The caller holds the lock.
    """
    old, advice = StoreFiles(path), f"Give another folder, or delete {path} to start again."
    segments = with_stored_names(path, segments)
    before = old.settings | {"segments": len(old.segments), "the list of classes": old.class_names}
    names = header["class_names"] or old.class_names  # a teacher names the classes of a store without labels
    now = header["settings"] | {"segments": len(segments), "the list of classes": names}
    pairs = enumerate(zip(old.segments, segments, strict=False))
    for i, (one, other) in itertools.islice(((i, pair) for i, pair in pairs if pair[0] != pair[1]), 1):
        name = f"segment {i} ({Path(one.path).name})"
        before[name], now[name] = one.record(), other.record()
    files.require_same_run(path, before, now, advice)
    specs = {name: dataclasses.asdict(spec) for name, spec in old.specs.items()}
    files.require_same_run(path, specs, header["specs"], advice)


def is_same_table(store: StoreFiles, columns: Mapping[str, np.ndarray], texts: Mapping[str, list]) -> bool:
    """Return whether a store has the segments that columns and texts say, in this order."""
    own = {**store.index.texts, "recordings": store.index.recordings}
    return all(own[name] == values for name, values in texts.items()) and all(
        np.array_equal(store.index[name], values) for name, values in columns.items()
    )


def with_stored_names(path: str | os.PathLike, segments: Iterable[Segment]) -> list[Segment]:
    """Return segments with the first names that their files have in a store, if there is one, and then among them."""
    name = Names()
    if os.path.exists(os.path.join(path, "store.json")):
        for one in StoreFiles(path).index.recordings:
            with_names(Segment("", start=0, stop=0, **one), name)
    return [with_names(one, name) for one in segments]


def path_finder(path: Path, header: Mapping[str, Any] | None = None) -> Callable[[str], str]:
    """Return a function that finds a file by the path that a store has of it, also if all was moved since."""
    place = Place(*(header or files.read_json(path / "store.json"))["place"])
    return functools.partial(place.find, home=path)


def known_sources(path: Path) -> dict[str, str]:
    """Return {file: its signature when clips of a store were read from it}."""
    find = path_finder(path)
    lines = files.read_lines(path / "sources.jsonl", "file", "signature")
    return {find(str(line["file"])): str(line["signature"]) for line in lines}


def changed_sources(path: Path) -> dict[str, tuple[str, str]]:
    """Return {file: (signature when clips of a store were read from it, that of now)} of files that have changed."""
    known = known_sources(path)
    found = {file: (known[file], files.signature(file)) for file in known if os.path.isfile(file)}
    return {file: (before, now) for file, (before, now) in found.items() if before != now}


def place_clips(recordings: np.ndarray, row_bytes: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the shard of each clip and its row there, int32 [n] each; `first` is the number of the first shard.

    Whole recordings share a shard as long as they fit; a longer one is divided. `recordings` [n] counts them.
    """
    count = len(recordings)
    most = min(MAX_CLIPS, max(1, MAX_BYTES // max(1, row_bytes)), max(8, -(-count // SHARES)))
    shards, rows = np.zeros(count, np.int32), np.zeros(count, np.int32)
    shard, filled, order = first, 0, np.argsort(recordings, kind="stable")
    for clips in np.split(order, np.flatnonzero(np.diff(recordings[order])) + 1):
        if filled and filled + len(clips) > most:
            shard, filled = shard + 1, 0
        parts = np.array_split(clips, max(1, -(-len(clips) // most)))
        for k, part in enumerate(parts):
            shards[part], rows[part] = shard + k, filled + np.arange(len(part))
            if k + 1 < len(parts):
                filled = 0
        shard, filled = shard + len(parts) - 1, (filled if len(parts) == 1 else 0) + len(parts[-1])
    return shards, rows


def create_store(
    path: Path,
    segments: Sequence[Segment],
    clips: Sequence[tuple[int, float]],
    arrays: Mapping[str, tuple[str, Sequence[int]]],
    header: Mapping[str, Any],
    videos: Mapping[str, VideoInfo],
) -> None:
    """Create the index of a store whose clips are all missing. The header comes last: only then is it a store."""
    for name in arrays:
        require_name(name)
    entries = {name: {"dtype": dtype, "shape": [*shape]} for name, (dtype, shape) in arrays.items()}
    row_bytes = bytes_of(entries.values())
    require_room(path, len(clips) * row_bytes, "the store")
    columns, texts = index.columns_of(segments)
    texts["videos"] = headers_of(texts, videos)
    columns |= clip_columns(clips)
    columns["shard"], columns["row"] = place_clips(columns["recording"][columns["segment"]], row_bytes)
    entry = index.write(path, {**columns, index.TEXTS: texts}, {})
    about = {"place": Place.of(path), "edits": 0, "clips": len(clips), "arrays": entries, "index": entry}
    write_json(path / "store.json", {**header, **about})


def headers_of(texts: Mapping[str, list], videos: Mapping[str, VideoInfo]) -> list[list | None]:
    """Return what is known of the video of each recording, so that an edit need not open it."""
    found = (videos.get(path_of(one["video"], one["imu"])) for one in texts["recordings"])
    return [None if info is None else list(dataclasses.astuple(info)) for info in found]


def clip_columns(clips: Sequence[tuple[int, float]]) -> dict[str, np.ndarray]:
    """Return the columns of clips, (segment, start) each, that are all missing."""
    missing = {name: np.zeros(len(clips), index.CLIPS[name]) for name in ("status", "checksum")}
    segment = np.array([number for number, _ in clips], np.int32)
    return {"segment": segment, "start": np.array([start for _, start in clips], np.float64), **missing}


def rebuild(path: str | os.PathLike) -> int:
    """Make the index of a store anew of its shards; return the number of its clips.

    Clips are in the order of the table with which they were begun. Of two that show the same, the later table's counts.
    Raise DataError if there is no shard, or if one is damaged.
    """
    path, found = Path(path), dict[tuple[str, float], list[tuple]]()
    with files.lock(lock_file(path)):
        about: dict[str, Any] = {}
        for folder in shard_folders(path):
            one, clips = clips_of_shard(folder)
            about = one if one["edits"] >= about.get("edits", 0) else about
            for clip in clips:
                edits, *where, segment, record = clip
                rank = record["status"] != MISSING, edits
                kept = [other for other in found.get((segment.path, record["start"]), []) if other[0] >= rank]
                if not kept or kept[0][0] == rank:
                    kept.append((rank, *where, segment, record))
                found[segment.path, record["start"]] = kept
        if not found:
            raise DataError(f"{path}: has no shards, so its index cannot be made anew; prepare its clips again")
        clips = sorted((clip[1:] for kept in found.values() for clip in kept), key=lambda clip: clip[:3])
        _, shards, rows, own, records = zip(*clips, strict=True)
        numbers = {segment: number for number, segment in enumerate(dict.fromkeys(own))}
        columns, texts = index.columns_of([*numbers])
        columns |= clip_columns([(numbers[one], record["start"]) for one, record in zip(own, records, strict=True)])
        columns |= {
            "shard": np.array(shards),
            "row": np.array(rows),
            "status": np.array([r["status"] for r in records]),
        }
        if about["arrays"]:
            columns["checksum"] = np.array([record["sums"][-1] for record in records])
        texts["videos"] = headers_of(texts, {})
        if (path / "store.json").exists():
            before = files.read_json(path / "store.json")
        else:
            before = about | {"arrays": about["arrays"] | added_arrays(path)}
        entries = index.write(path, {**columns, index.TEXTS: texts}, before.get("index", {}))
        header = {name: about[name] for name in OF_SHARDS}
        header |= {name: before[name] for name in ("arrays", "class_names", "classes_from_teacher") if name in before}
        write_json(path / "store.json", header | {"edits": about["edits"] + 1, "clips": len(clips), "index": entries})
    return len(clips)


def is_folder(path: Path) -> bool:
    """Return whether it is a folder, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def part_of(folder: Path) -> Path:
    """Return a name for a shard that is incomplete."""
    return folder.with_name(f".{folder.name}.{os.getpid()}-{os.urandom(4).hex()}.part")


def shard_folders(path: Path) -> list[Path]:
    """Return the folders of the shards of a store: with a number for a name, and a table. Others are a user's."""
    numbered = (folder for folder in (path / "shards").glob("[0-9]*") if re.fullmatch(r"[0-9]{5,}", folder.name))
    tables = (f"{ROWS}.npy", "clips.json")
    return sorted(one for one in numbered if any((one / name).exists() for name in tables))


def added_names(folder: Path) -> list[str]:
    """Return the names of the added arrays of a shard: those with marks, which are made before an array."""
    return [marks.name.removesuffix(f"{SUMS}.npy") for marks in folder.glob(f"*{SUMS}.npy")]


def added_arrays(path: Path) -> dict[str, dict[str, Any]]:
    """Return what the header says of the added arrays that shards of a store have."""
    found = {}
    for file in (folder / f"{name}.npy" for folder in shard_folders(path) for name in added_names(folder)):
        if file.exists():
            rows = OpenArray(file, os.O_RDONLY)
            found[file.stem] = {"dtype": rows.dtype.name, "shape": [*rows.shape[1:]], "added": True}
    return found


def clips_of_shard(folder: Path) -> tuple[dict[str, Any], list[tuple]]:
    """Return what a shard repeats of the header, and (edits, place in the table, shard, row, segment, record) of clips.

    Raise DataError if it is damaged.
    """
    try:
        about, table = files.read_json(folder / "clips.json"), np.load(folder / f"{ROWS}.npy")
        segments, shard = [Segment(**record) for record in about["segments"]], int(folder.name)
        clips = [(row, *clip) for row, clip in enumerate(about["clips"]) if clip is not None]
        found = [(about["edits"], place, shard, row, segments[k], table[row]) for row, k, _, place in clips]
        return about, found
    except (EOFError, IndexError, KeyError, OSError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder}: is damaged ({type(error).__name__}: {error}); move it away to go on without its clips"
        ) from error
