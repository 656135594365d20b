"""The files of a clip store: a folder of `.npy` arrays with one row per clip, and JSON files that describe them.

    store.json          the header: format, settings, class names, the spec of each prepared array, and file, dtype and
                        shape of every array; a new store gets it last
    segments.json       the annotated segments
    clips.json          segment and start of every clip
    status.npy          0 missing, 1 ok, 2 failed
    label.npy           the class, -1: none
    segment.npy         the segment
    checksum.npy        CRC-32 of the prepared arrays
    checksum.crc32.npy  the same after each of these arrays, in the order of the header, so that one can be verified;
                        before each, it covers specs, segment and start of the clip, but no path
    NAME.npy            an array of `prepare()`; frames come with their times, such as frames_4.times.npy. Or one of
                        `ClipStore.add()`, such as teacher outputs, with NAME.done.npy, which marks written rows, and
                        NAME.crc32.npy, their CRC-32, which begins with checksum.npy and the teacher's fingerprint
    NAME.teacher.json   the teacher whose outputs are NAME.feature and NAME.logits; see `store.claim_outputs()`
    failures.jsonl      clips that cannot be prepared, with the reasons
    notes.jsonl         what is unusual about the IMU recordings, if anything
    sources.jsonl       signatures of the files that clips were read from
    place.json          the working folder and the store's own path when it was begun: its paths are relative to them
    store.lock          locked while one of the JSON files changes
    pending/            frames that wait for the models of one pass; see `one_pass`

A store writes into its own files only: one that is a link, or shared with a snapshot (`cp -al`), is copied first.
Stores of version 0.4 lack the files *.crc32.npy, and their checksum.npy covers the arrays alone. The format on disk is
defined in this file alone, which `store.ClipStore` and `store.StoreWriter` read and fill.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import operator
import os
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..recordings.spec import ClipSpec
from ..support import files
from ..support.defaults import CLIP_SECONDS, IMU_RATE
from ..support.errors import DataError, named
from ..support.names import Names, Place, absolute_path, name_files
from .segments import Segment, with_names

__all__ = ["StoreFiles"]

FORMAT = "egodistill clip store 2"
MISSING, OK, FAILED = 0, 1, 2  # values of status.npy
STATUS = ("missing", "ok", "failed")
# Arrays of every store, one value per clip. "checksum" covers all prepared arrays of the clip.
BOOKKEEPING = {"status": ("uint8", ()), "label": ("int64", ()), "segment": ("int64", ()), "checksum": ("uint32", ())}
MARKS = (".done", ".crc32")  # ends of the names of the arrays beside one of `ClipStore.add()`
CHAIN = "checksum.crc32"  # uint32 [n, prepared arrays]
# Of a segment, what the checksums of its clips cover: no path, because a store may be moved with its recordings.
COVERED = operator.attrgetter(
    "id", "start", "stop", "label", "split", "wearer", "imu_offset", "imu_stretch", "imu_axes", "zero_accel"
)
# Settings that older stores lack, and the values that they stand for.
LATER_SETTINGS = {"tolerance": 0.0, "clip_seconds": CLIP_SECONDS, "imu_rate": IMU_RATE}
ARRAY_NAME = re.compile(r"\w[\w.-]*")
AGAIN = "copy the store again, or prepare its clips into another folder"  # the way out of a damaged store
# Names that no file on Windows can have, whatever its suffix.
DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in "0123456789¹²³")}


class Mapped(NamedTuple):
    """An array's file in memory."""

    array: np.ndarray
    file: str
    size: int  # bytes of the whole file
    inode: int


class StoreFiles:
    """The files of one store: header, segments and clips in memory, arrays mapped from disk.

    `settings` and `class_names` are the arguments of `data.prepare()`, `specs` is {array: ClipSpec}, `segments` are the
    annotated segments and `clips` the segment and start of each row. Raise DataError, which names the file, if the
    folder is not a store, or an array is damaged.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.maps: dict[tuple[str, str], Mapped] = {}  # by name and mode
        self.covered: dict[int, int] = {}  # {segment: CRC-32 of specs and segment}
        self.verified: dict[str, np.ndarray] = {}  # bool [n]: rows that had their checksum when they were first read
        if not (self.path / "store.json").exists():
            inner = self.path / "store"  # in a folder of `egodistill train`
            way_out = inner if (inner / "store.json").exists() else f"the folder that {named('prepare()')} wrote"
            raise DataError(
                f"{self.path / 'store.json'}: no such file, so {self.path} is not a clip store; give {way_out}"
            )
        self.made = self.made_when()
        self.stamp = self.header_stamp()
        header = files.read_json(self.path / "store.json")
        self.check_format(header)
        tables = [self.path / name for name in ("segments.json", "clips.json")]
        if missing := [table for table in tables if not table.exists()]:
            raise DataError(f"{missing[0]}: missing; {AGAIN}")
        segments, self.clips = map(files.read_json, tables)
        try:
            self.settings: dict[str, Any] = header["settings"]
            self.class_names: list[str] = header["class_names"]
            # Whether something may happen where no segment is; nobody knows of stores of 0.5 and before.
            self.left_out = bool(header.get("left_out", not (self.path / "place.json").exists()))
            self.specs = {name: ClipSpec(**spec) for name, spec in header["specs"].items()}
            self.arrays: dict[str, dict] = header["arrays"]
            find = path_finder(self.path)
            self.segments = [with_names(Segment(**segment), find) for segment in segments]
            of_segment = [clip["segment"] for clip in self.clips]
            if fault := self.fault() or array_fault(self.arrays):
                raise TypeError(fault)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.path}: its JSON files are damaged, or were written by another version of "
                f"this library ({type(error).__name__}: {error})"
            ) from error
        self.about = zlib.crc32(json.dumps([[name, spec.record()] for name, spec in self.specs.items()]).encode())
        for name in self.arrays:
            self.array(name)
        fits = all(entry["shape"][0] == len(self.clips) for entry in self.arrays.values())
        if not fits or not np.array_equal(of_segment, self.array("segment")):
            raise DataError(
                f"{self.path}: clips.json and segment.npy do not describe the same clips; were files of two stores "
                f"mixed?"
            )
        if (highest := self.array("status").max(initial=0)) >= len(STATUS):
            raise DataError(
                f"{self.path / 'status.npy'}: is damaged: its values are up to {highest}, must be from 0 to "
                f"{len(STATUS) - 1}"
            )
        names = [] if header.get("classes_from_teacher") else self.class_names
        labels = labels_of(self.segments, names)[self.array("segment")]
        if len(rows := np.flatnonzero(self.array("label") != labels)):
            row = int(rows[0])
            raise DataError(
                f"{self.path / 'label.npy'}: is damaged, or segments.json or the class names in store.json are: "
                f"{len(rows)} of {len(labels)} labels differ, such as that of row {row}, {self.array('label')[row]} "
                f"for {self.segment(row).label!r}, which is class {labels[row]}; copy the store again"
            )

    def fault(self) -> str | None:
        """Return what is wrong with the values in the JSON files, or None."""
        names = self.class_names
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            return "class_names is not a list of names"
        if not (isinstance(self.settings, dict) and isinstance(self.clips, list)):
            return "the settings are not an object, or the clips not a list"
        for name, spec in self.specs.items():
            if spec != spec.complete():
                return f"the spec of {name!r} lacks a value"
        for number, one in enumerate(self.segments):
            texts = (one.id, one.video, one.split, one.camera, one.label, one.wearer)
            if not all(isinstance(text, str) for text in texts[:4] + tuple(x for x in texts[4:] if x is not None)):
                return f"segment {number} has an id, video, split, camera, label or wearer that is not text"
            if not all(map(math.isfinite, (one.start, one.stop, one.imu_offset, one.imu_stretch))):
                return f"segment {number} has a time that is not finite"
        for number, clip in enumerate(self.clips):
            if type(clip["segment"]) is not int or not 0 <= clip["segment"] < len(self.segments):
                return f"clip {number} is of the segment {clip['segment']!r}, which is not in segments.json"
            if type(clip["start"]) not in (int, float) or not math.isfinite(clip["start"]):
                return f"clip {number} starts at {clip['start']!r}"
        return None

    def __len__(self) -> int:
        return len(self.clips)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"maps": {}}  # a copy in another process maps the files itself

    def check_format(self, header: Any) -> None:
        """Raise DataError unless this version can read the store."""
        form = header.get("format") if isinstance(header, dict) else None
        if form == FORMAT:
            return
        if str(form).startswith(FORMAT.rstrip("0123456789")):
            raise DataError(
                f"{self.path}: its format is {form!r}, of another version of this library; this "
                f"one reads {FORMAT!r}. Use that version, or prepare another folder"
            )
        raise DataError(f"{self.path / 'store.json'}: not the header of a clip store")

    def header_stamp(self) -> tuple[int, ...]:
        """Return values that change whenever the header file is replaced; () if there is none."""
        try:
            found = os.stat(self.path / "store.json")
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def made_when(self) -> tuple[int, ...]:
        """Return values that change when another store takes the place of this one, as in an edit."""
        try:
            found = os.stat(self.path / "place.json")
            return found.st_ino, found.st_mtime_ns
        except OSError:  # a store of version 0.5 or before, or none
            return (os.stat(self.path).st_ino,) if self.path.exists() else ()

    def require_here(self) -> None:
        """Raise DataError if the store was edited since it was opened: its rows are others."""
        if self.made_when() != self.made:
            raise DataError(f"{self.path}: its table was edited since it was opened; open it again")

    def refresh(self) -> None:
        """Read the header again if it has changed: any process may have added arrays."""
        if (stamp := self.header_stamp()) != self.stamp:
            header = files.read_json(self.path / "store.json")
            self.check_format(header)
            if fault := array_fault(header.get("arrays")):
                raise DataError(f"{self.path / 'store.json'}: is damaged: {fault}")
            self.arrays.update(header["arrays"])
            self.class_names = header.get("class_names", self.class_names)
            self.stamp = stamp

    def has(self, name: str) -> bool:
        """Return whether the store has this array; the header is read again if needed."""
        if name not in self.arrays:
            self.refresh()
        return name in self.arrays

    def is_added(self, name: str) -> bool:
        """Return whether an array was made by `add()`; an array NAME.done then marks the rows that are written."""
        return self.has(name) and f"{name}.done" in self.arrays

    @property
    def names(self) -> list[str]:
        """Return the names of the arrays, without bookkeeping and the times of frames."""
        self.refresh()
        return [name for name in self.arrays if name not in BOOKKEEPING and not name.endswith((*MARKS, ".times"))]

    @property
    def prepared(self) -> list[str]:
        """Return the names of the arrays of `prepare()`, in the order of the header, with the times of frames."""
        others = [name for name in self.arrays if name not in BOOKKEEPING and not name.endswith(MARKS)]
        return [name for name in others if not self.is_added(name)]

    def array(self, name: str, mode: str = "r") -> np.ndarray:
        """Return an array's memory-mapped file, "r" or "r+", shared with all processes that map it.

        Raise DataError for a file that is damaged, or was cut since it was mapped: that would end the process.
        """
        self.require_here()
        if (name, mode) not in self.maps:
            self.maps[name, mode] = self.map(name, mode)
        mapped = self.maps[name, mode]
        try:
            found = os.stat(mapped.file)
        except OSError as error:
            raise DataError(f"{mapped.file}: missing or truncated: {error.strerror}; {AGAIN}") from error
        if found.st_ino != mapped.inode:  # add() gave it another shape, or a writer a file of its own
            self.refresh()
            mapped = self.maps[name, mode] = self.map(name, mode)
        elif found.st_size < mapped.size:
            raise DataError(f"{mapped.file}: truncated: {found.st_size} bytes instead of {mapped.size}; {AGAIN}")
        return mapped.array

    def map(self, name: str, mode: str) -> Mapped:
        """Map an array's file into memory, "r" or "r+". Raise DataError if it is unknown or damaged."""
        if not self.has(name):
            raise DataError(f"{self.path}: the store has no array {name!r}, only {', '.join(self.names)}")
        entry = self.arrays[name]
        file = self.path / entry["file"]
        self.verified.pop(name, None)
        if mode == "r+":
            files.unshare_file(file)
            self.maps.pop((name, "r"), None)
        if os.path.lexists(file):
            files.require_file(file)
        try:
            inode = os.stat(file).st_ino
            array = np.lib.format.open_memmap(file, mode)
        except Exception as error:  # numpy has no common class for damaged headers
            reason = getattr(error, "strerror", None) or "its header is damaged, or its end is missing"
            raise DataError(f"{file}: missing or truncated: {reason}; {AGAIN}") from error
        if array.dtype != entry["dtype"] or list(array.shape) != entry["shape"] or not array.flags.c_contiguous:
            order = "" if array.flags.c_contiguous else " in Fortran's order"
            raise DataError(
                f"{file}: the array is {array.dtype} {list(array.shape)}{order}, but store.json says {entry['dtype']} "
                f"{entry['shape']}"
            )
        return Mapped(array.view(np.ndarray), str(file), array.offset + array.nbytes, inode)

    def put(self, name: str, rows: Any, values: Any) -> None:
        """Write the rows that a numpy index selects. Of several processes, each writes only bytes of its rows.

        A mapped page also holds rows of other processes. NFS would write the page back as a whole, with the values that
        these rows had when this machine read them. O_DSYNC stops the NFS client from extending a write to the page.
        """
        array = self.array(name, "r+")
        if files.environment_share()["world_size"] == 1 or not hasattr(os, "pwrite"):
            array[rows] = values
            return
        rows = np.atleast_1d(np.arange(len(array))[rows])
        values = np.ascontiguousarray(np.broadcast_to(values, (len(rows), *array.shape[1:])), array.dtype)
        _, file, size, _ = self.maps[name, "r+"]
        with files.disk_errors(Path(file)), open(file, "r+b", buffering=0, opener=open_synchronously) as target:
            for row, value in zip(rows.tolist(), values, strict=True):
                content, start = value.tobytes(), size - array.nbytes + row * value.nbytes
                while content:
                    written = os.pwrite(target.fileno(), content, start)
                    content, start = content[written:], start + written

    def require_intact(self, name: str, rows: np.ndarray) -> None:
        """Raise DataError if a row of an array has another checksum than when it was written.

        Each row is verified when this process first reads it. Rows that are not finished, and arrays of older versions,
        have no checksum of their own.
        """
        verified = self.verified.setdefault(name, np.zeros(len(self), bool))
        if verified[rows].all():
            return
        rows = np.unique(rows)
        rows = rows[~verified[rows] & (self.is_added(name) | (self.array("status")[rows] == OK))]
        if damaged := self.damaged(name, rows):
            one = self.describe(damaged[0])
            raise DataError(
                f"{self.path / name}.npy: the row {damaged[0]} ({one['id']!r} at {one['start']:.2f} s) was damaged or "
                f"replaced after it was written, its checksum differs; `egodistill status {self.path} --verify` lists "
                f"all such rows"
            )
        verified[rows] = True

    def before(self, row: int, checksum: int) -> int:
        """Return the CRC-32 with which that of a prepared array begins: it covers which clip the row is.

        `checksum` is the CRC-32 after the array before, or 0.
        """
        if not self.has(CHAIN):  # version 0.4
            return checksum
        number, start = self.clips[row]["segment"], self.clips[row]["start"]
        if number not in self.covered:
            self.covered[number] = zlib.crc32(ascii((self.about, *COVERED(self.segments[number]))).encode())
        return zlib.crc32(struct.pack("<Id", self.covered[number], start), checksum)

    def before_added(self, name: str, rows: np.ndarray) -> list[int]:
        """Return the CRC-32 with which that of each of m rows of an added array begins: it covers clip and teacher."""
        file = self.path / f"{name.rpartition('.')[0]}.teacher.json"
        record = files.read_json(file) if name.endswith((".feature", ".logits")) and os.path.lexists(file) else None
        teacher = json.dumps(record.get("fingerprint") if isinstance(record, dict) else None).encode()
        return [zlib.crc32(teacher, checksum) for checksum in self.array("checksum")[rows].tolist()]

    def damaged(self, name: str, rows: np.ndarray) -> list[int] | None:
        """Return those of some rows of an array that differ from their checksums; None if it has none."""
        if self.is_added(name):
            if not self.has(f"{name}.crc32"):
                return None
            return self.mismatches([name], rows, self.before_added(name, rows), self.array(f"{name}.crc32"))
        if not self.has(CHAIN) or name not in (prepared := self.prepared):
            return None
        chain, place = self.array(CHAIN), prepared.index(name)
        last = chain[rows, place - 1] if place else np.zeros(len(rows), np.uint32)
        before = list(map(self.before, rows.tolist(), last.tolist()))
        return self.mismatches([name], rows, before, chain[:, place])

    def mismatches(self, names: Sequence[str], rows: np.ndarray, before: list[int], after: np.ndarray) -> list[int]:
        """Return the rows of arrays whose CRC-32, continued from `before` [m], is not that in `after` [n]."""
        arrays, found = [self.array(name) for name in names], []
        for row, checksum, wanted in zip(rows.tolist(), before, after[rows].tolist(), strict=True):
            for array in arrays:
                checksum = zlib.crc32(array[row], checksum)
            if checksum != wanted:
                found.append(row)
        return found

    def verify(self, rows: np.ndarray) -> Iterator[tuple[str, list[int] | None]]:
        """Read all arrays: yield each name with its damaged rows, or with None if it has no checksums."""
        prepared = self.prepared
        if prepared and not self.has(CHAIN):  # one checksum for all
            yield ", ".join(prepared), self.mismatches(prepared, rows, [0] * len(rows), self.array("checksum"))
        elif prepared:
            differ = self.array(CHAIN)[rows, -1] != self.array("checksum")[rows]
            yield "checksum", rows[differ].tolist()
        for name in self.arrays:
            if name in prepared and self.has(CHAIN):
                yield name, self.damaged(name, rows)
            elif self.is_added(name):
                yield name, self.damaged(name, rows[self.array(f"{name}.done")[rows] != 0])
        explained = {str(line["clip"]) for line in files.read_lines(self.path / "failures.jsonl", "clip", "reason")}
        failed = np.flatnonzero(self.array("status") == FAILED).tolist()
        yield "status", [row for row in failed if str(row) not in explained]

    def segment(self, row: int) -> Segment:
        """Return the segment that a clip is a part of."""
        return self.segments[self.clips[row]["segment"]]

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
        return own[0] if own else (LATER_SETTINGS | self.settings)["clip_seconds"]  # outputs of a teacher have no spec

    def describe(self, row: int) -> dict[str, Any]:
        """Return a description of a clip: segment id, video, wearer, start and stop (s), label, split, status."""
        segment, start = self.segment(row), self.clips[row]["start"]
        return {
            "id": segment.id,
            "video": segment.path,
            "wearer": segment.wearer,
            "start": start,
            "stop": start + self.clip_seconds,
            "label": segment.label,
            "split": segment.split,
            "status": STATUS[self.array("status")[row]],
        }

    def add(self, name: str, shape: Sequence[int], dtype: Any) -> None:
        """Create an array and the one that marks its written rows, unless they exist. The caller holds the lock.

        An array of another shape or dtype, or without checksums, is replaced if none of its rows is written. Otherwise
        raise DataError for another shape or dtype.
        """
        self.require_here()
        header = files.read_json(self.path / "store.json")
        arrays, n = header["arrays"], len(self)
        new = {"file": f"{name}.npy", "dtype": np.dtype(dtype).name, "shape": [n, *map(int, shape)]}
        if twins := [other for other in arrays if other != name and other.casefold() == name.casefold()]:
            raise DataError(
                f"{self.path}: the store already has an array {twins[0]!r}; on Windows and macOS, {name!r} would "
                f"be the same file; choose another name"
            )
        entries = {name: new}
        for mark, kind in zip((f"{name}{end}" for end in MARKS), ("uint8", "uint32"), strict=True):
            entries[mark] = {"file": f"{mark}.npy", "dtype": kind, "shape": [n]}
        outdated = arrays.get(name, new) != new or f"{name}.crc32" not in arrays
        if outdated and self.is_added(name) and not self.array(f"{name}.done").any():
            for old in entries:  # a run that is killed before the end leaves none of them
                arrays.pop(old, None)
            write_json(self.path / "store.json", header)
            self.maps = {key: value for key, value in self.maps.items() if key[0] not in entries}
        if name not in arrays:
            for entry in entries.values():
                allocate(self.path, entry)
            arrays |= entries
            write_json(self.path / "store.json", header)
        elif arrays[name] != new or f"{name}.done" not in arrays:
            old, source = arrays[name], "add()" if f"{name}.done" in arrays else "prepare()"
            raise DataError(
                f"{self.path}: {source} has already made an array {name!r}, {old['dtype']} {old['shape']}; add() "
                f"cannot make it again as {new['dtype']} {new['shape']}; choose another name"
            )
        self.arrays.update(arrays)

    def classes_are_used(self, besides: str | None = None) -> bool:
        """Return whether `prepare()` gave the class names, or logits of a teacher (but `besides`) need them."""
        header = files.read_json(self.path / "store.json")
        if header["class_names"] and not header.get("classes_from_teacher"):
            return True
        logits = [name for name in self.names if name.endswith(".logits") and name != f"{besides}.logits"]
        return any(self.array(f"{name}.done").any() for name in logits if self.is_added(name))

    def name_classes(self, names: list[str]) -> None:
        """Write class names of a teacher into the header. Raise DataError if others are used.

        The caller holds the lock.
        """
        self.require_here()
        header = files.read_json(self.path / "store.json")
        found = header["class_names"]
        if found and found != names and self.classes_are_used():
            raise DataError(
                f"{self.path}: the store has the classes {files.shorten(found)}, not {files.shorten(names)}; prepare "
                f"another store for a teacher with other classes"
            )
        if found != names:
            write_json(self.path / "store.json", header | {"class_names": names, "classes_from_teacher": True})
        self.class_names = names


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file of a store. A link in its place is replaced: a store writes into its own files only."""
    files.write_json(path, value, through_link=False)


def open_synchronously(path: str, flags: int) -> int:
    """Open a file whose writes reach the disk, or the server, before they return."""
    return os.open(path, flags | getattr(os, "O_DSYNC", 0))


def array_fault(arrays: Any) -> str | None:
    """Return what is wrong with the arrays of a header, or None."""
    if not isinstance(arrays, dict) or not BOOKKEEPING.keys() <= arrays.keys():
        return f"its arrays are not an object with {', '.join(BOOKKEEPING)}"
    for name, entry in arrays.items():
        try:
            file, dtype, shape = entry["file"], np.dtype(entry["dtype"]), entry["shape"]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return f"the array {name!r} has no file, dtype and shape ({type(error).__name__}: {error})"
        if not ARRAY_NAME.fullmatch(name) or file != f"{name}.npy":  # nothing outside of the folder
            return f"the array {name!r} is in the file {file!r}"
        if not (isinstance(shape, list) and shape and all(type(size) is int and size >= 0 for size in shape)):
            return f"the array {name!r} has the shape {shape!r}"
        if name in BOOKKEEPING and (dtype, len(shape)) != (np.dtype(BOOKKEEPING[name][0]), 1):
            return f"the array {name!r} is {dtype} {shape}"
    return None


def lock_file(path: str | os.PathLike) -> Path:
    """Return the file that a process locks while it changes a store's header."""
    return Path(path) / "store.lock"


def allocate(path: Path, entry: Mapping[str, Any]) -> None:
    """Create an array of zeros in its final size; the file is complete or absent.

    Disk space is allocated now: on a full disk, writing to a mapped file without allocated space
    kills the process (SIGBUS). macOS and Windows cannot allocate it in advance.
    """
    shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
    files.remove_parts(path / entry["file"])
    with files.atomic_write(path / entry["file"], through_link=False) as part:
        np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with open(part, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, part.stat().st_size)


# ---------------------------------------------------------------------------------------------------------------
# A new store


BEGUN = {"segments.json", "clips.json", "place.json", "store.lock"}  # files beside the arrays before there is a header
BESIDE = BEGUN | {"store.json", "failures.jsonl", "notes.jsonl", "sources.jsonl", "pending"}  # of a whole store


def check_folder(path: Path, arrays: Mapping[str, Any]) -> None:
    """Raise DataError unless the folder is new or empty, or holds a store or the parts that a killed run left."""
    if path.exists() and not path.is_dir():
        raise DataError(f"{path}: this is a file, but a store is a folder; give another name")
    found = files.content(path)
    if "store.lock" in found:  # the first file of a store; the header is the last
        ours = {f"{name}.npy" for name in arrays} | BEGUN
        found = [name for name in found if name not in ours]
    if found and not (path / "store.json").exists():
        raise DataError(f"{path}: contains {found[0]} but no store.json; give an empty folder")


def check_settings(path: Path, segments: Sequence[Segment], header: Mapping[str, Any]) -> None:
    """Raise DataError, with the differences, if a store was begun with other segments or settings.

    The same file may be named by another path. The caller holds the lock.
    """
    old, advice = StoreFiles(path), f"Give another folder, or delete {path} to start again."
    segments = with_stored_names(path, segments)
    before = LATER_SETTINGS | old.settings | {"segments": len(old.segments), "the list of classes": old.class_names}
    names = header["class_names"] or old.class_names  # a teacher names the classes of a store without labels
    now = LATER_SETTINGS | header["settings"] | {"segments": len(segments), "the list of classes": names}
    settings_differ = bool(files.differences(before, now))
    for i, (one, other) in enumerate(zip(old.segments, segments, strict=False)):
        if one != other:
            name = f"segment {i} ({Path(one.path).name})"
            before[name], now[name] = one.record(), other.record()
            if not settings_differ and (folder := folder_of(one.path, other.path)):
                advice = f"If these are the same files, run it again in the folder {folder}, where it was begun."
            break
    files.require_same_run(path, before, now, advice)
    specs = {name: dataclasses.asdict(spec) for name, spec in old.specs.items()}
    files.require_same_run(path, specs, header["specs"], advice)


def with_stored_names(path: str | os.PathLike, segments: Iterable[Segment]) -> list[Segment]:
    """Return segments with the first names that their files have in a store, if there is one, and then among them."""
    name = Names()
    if os.path.exists(os.path.join(path, "store.json")):
        for one in StoreFiles(path).segments:
            with_names(one, name)
    return [with_names(one, name) for one in segments]


def folder_of(path: str, other: str) -> Path | None:
    """Return the folder in which a relative path is the other one; None if it is this folder, or none."""
    parts, whole = Path(path).parts, Path(absolute_path(other))
    folder = Path(*whole.parts[: -len(parts)])
    found = not os.path.isabs(path) and whole.parts[-len(parts) :] == parts and folder != Path.cwd()
    return folder if found else None


def path_finder(path: Path) -> Callable[[str], str]:
    """Return a function that finds a file by the path that a store has of it, also if all was moved since.

    Stores of version 0.5 and before do not know where they were.
    """
    place = Place(*files.read_json(path / "place.json")) if (path / "place.json").exists() else Place.of(path)
    return functools.cache(lambda name: place.find(name, path))


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


def create_store(
    path: Path,
    segments: Sequence[Segment],
    clips: Sequence[tuple[int, float]],
    arrays: Mapping[str, tuple[str, Sequence[int]]],
    header: Mapping[str, Any],
) -> None:
    """Create the files of a store whose clips are all missing. The header comes last: only then is it a store."""
    entries = {
        name: {"file": f"{name}.npy", "dtype": dtype, "shape": [len(clips), *shape]}
        for name, (dtype, shape) in arrays.items()
    }
    for entry in entries.values():  # left by a call that was killed here
        files.remove_parts(path / entry["file"])
        (path / entry["file"]).unlink(missing_ok=True)
    needed = sum(math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize for entry in entries.values())
    free = shutil.disk_usage(path).free
    if needed > free:
        raise DataError(
            f"{path}: the store needs {needed / 1e6:,.1f} MB, but only {free / 1e6:,.1f} MB are free; free some, or "
            f"use another disk"
        )
    for entry in entries.values():
        allocate(path, entry)
    of_segment = np.array([segment for segment, _ in clips])
    labels = labels_of(segments, header["class_names"])
    for name, values in (("segment", of_segment), ("label", labels[of_segment])):
        np.lib.format.open_memmap(path / f"{name}.npy", "r+")[:] = values
    write_json(path / "segments.json", [segment.record() for segment in segments])
    write_json(path / "clips.json", [{"segment": segment, "start": start} for segment, start in clips])
    write_json(path / "place.json", Place.of(path))
    write_json(path / "store.json", {**header, "arrays": entries})


def labels_of(segments: Sequence[Segment], class_names: Sequence[str]) -> np.ndarray:
    """Return the class of each segment, int64 [segments]; -1 without a label."""
    of_class = {name: i for i, name in enumerate(class_names)}
    return np.array([of_class.get(segment.label, -1) for segment in segments], np.int64)
