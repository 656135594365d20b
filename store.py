"""A clip store: a folder of ``.npy`` arrays with one row per clip, read by training and filled by `data.prepare()`.

    from egodistill import store

    train = store.ClipStore("store").split("train")
    batch = train.read("frames_8", [0, 5, 7])           # uint8 [3, 8, 3, 224, 224], RGB
    train.add("t.feature", (768,), "float32")           # make room for outputs of a teacher,
    train.write("t.feature", [0, 5], features)          # and write those of two clips
    parts = store.folds(train, 3)                       # [n]: clips of one wearer are in one part
    rest = train.select(parts != 0)                     # what a teacher of the fold 0 may see

`ClipStore` reads, and adds arrays. `StoreWriter` lays a store out and fills it. `claim_outputs()` keeps the outputs of
two teachers apart. Everything that is on disk, and in which format, is in this file.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import os
import re
import shlex
import shutil
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from egodistill import CLIP_SECONDS, DataError, files
from egodistill.annotations import Segment
from egodistill.clips import ClipSpec, Recording

__all__ = ["ClipStore", "OutputClaim", "StoreWriter", "claim_outputs", "folds", "outputs_record"]

FORMAT = "egodistill clip store 2"
MISSING, OK, FAILED = 0, 1, 2  # values of status.npy
STATUS = ("missing", "ok", "failed")
# Of every store, a value per clip. "checksum" is that of all that was prepared for the clip.
BOOKKEEPING = {"status": ("uint8", ()), "label": ("int64", ()), "segment": ("int64", ()), "checksum": ("uint32", ())}
# Names that no file on Windows can have, whatever its suffix.
DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in "0123456789¹²³")}


# ---------------------------------------------------------------------------------------------------------------
# Files


class StoreFiles:
    """The files of one store: header, segments and clips in memory, arrays mapped from disk.

    ``settings`` and ``class_names`` are what `data.prepare()` was given, ``specs`` what its arrays hold of a clip,
    ``segments`` the annotated stretches and ``clips`` the segment and start of each row. Raise DataError, with the
    file, for a folder that is no store or an array that is damaged.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.maps: dict[tuple[str, str], np.ndarray] = {}
        if not (self.path / "store.json").exists():
            raise DataError(
                f"{self.path / 'store.json'}: there is no such file, so {self.path} is no clip store; give the folder "
                f"that prepare() made"
            )
        self.stamp = self.header_stamp()
        header = files.read_json(self.path / "store.json")
        self.check_format(header)
        try:
            self.settings: dict[str, Any] = header["settings"]
            self.class_names: list[str] = header["class_names"]
            self.specs = {name: ClipSpec(**spec) for name, spec in header["specs"].items()}
            self.arrays: dict[str, dict] = header["arrays"]
            self.segments = [Segment(**segment) for segment in files.read_json(self.path / "segments.json")]
            self.clips: list[dict] = files.read_json(self.path / "clips.json")
            of_segment = np.array([clip["segment"] for clip in self.clips])
            for name in self.arrays:
                self.array(name)
            fits = np.array_equal(of_segment, self.array("segment"))
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{self.path}: its JSON files are damaged, or made by another version of "
                f"this library ({type(error).__name__}: {error})"
            ) from error
        if not fits:
            raise DataError(
                f"{self.path}: clips.json is not of the same clips as segment.npy; were files of two stores mixed?"
            )

    def __len__(self) -> int:
        return len(self.clips)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"maps": {}}  # a copy in another process maps the files itself

    def check_format(self, header: Any) -> None:
        """Raise DataError if this is not the header of a store that this version can read."""
        form = header.get("format") if isinstance(header, dict) else None
        if form == FORMAT:
            return
        if form == "egodistill clip store 1":
            raise DataError(
                f"{self.path}: is an {form!r}, of version 0.1, without wearers, specs and frame times. Make it anew, "
                f"from its annotations: {_prepare_command(header.get('settings', {}))}"
            )
        if str(form).startswith(FORMAT.rstrip("0123456789")):
            raise DataError(
                f"{self.path}: is an {form!r}, made by another version of this library; this "
                f"one reads {FORMAT!r}. Use that version, or prepare another folder"
            )
        raise DataError(f"{self.path / 'store.json'}: is not the header of a clip store")

    def header_stamp(self) -> tuple[int, ...]:
        """Return what changes with the header: it is replaced as a whole. () if there is none."""
        try:
            found = os.stat(self.path / "store.json")
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size

    def refresh(self) -> None:
        """See the arrays that were added since by any process."""
        if (stamp := self.header_stamp()) != self.stamp:
            self.arrays.update(files.read_json(self.path / "store.json")["arrays"])
            self.stamp = stamp

    def has(self, name: str) -> bool:
        """Return whether there is such an array by now."""
        if name not in self.arrays:
            self.refresh()
        return name in self.arrays

    def is_added(self, name: str) -> bool:
        """Return whether an array was made by `add()`, so that its rows are marked once they are written."""
        return self.has(name) and f"{name}.done" in self.arrays

    @property
    def names(self) -> list[str]:
        """The arrays without those for bookkeeping, and without the times of frames."""
        self.refresh()
        return [name for name in self.arrays if name not in BOOKKEEPING and not name.endswith((".done", ".times"))]

    def array(self, name: str, mode: str = "r") -> np.ndarray:
        """Return an array's file in memory, shared with all processes that map it."""
        if (name, mode) not in self.maps:
            if not self.has(name):
                raise DataError(f"{self.path}: has no array {name!r}, only {', '.join(self.names)}")
            entry = self.arrays[name]
            file = self.path / entry["file"]
            try:
                array = np.load(file, mmap_mode=mode, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise DataError(f"{file}: missing or cut off: {error}") from error
            if array.dtype != entry["dtype"] or list(array.shape) != entry["shape"]:
                raise DataError(f"{file}: is {array.dtype} {array.shape}, not {entry} (store.json)")
            self.maps[name, mode] = array.view(np.ndarray)
        return self.maps[name, mode]

    def segment(self, row: int) -> Segment:
        """Return the segment that a clip is a part of."""
        return self.segments[self.clips[row]["segment"]]

    def describe(self, row: int) -> dict[str, Any]:
        """Return what a clip is: segment id, video, wearer, start and stop (s), label, split, status."""
        segment, start = self.segment(row), self.clips[row]["start"]
        seconds = next((spec.seconds for spec in self.specs.values()), CLIP_SECONDS)
        return {
            "id": segment.id,
            "video": segment.video,
            "wearer": segment.wearer,
            "start": start,
            "stop": start + seconds,
            "label": segment.label,
            "split": segment.split,
            "status": STATUS[self.array("status")[row]],
        }

    def add(self, name: str, shape: Sequence[int], dtype: Any) -> None:
        """Make an array and the one that marks its rows, unless they are there. The caller holds the lock."""
        header = files.read_json(self.path / "store.json")
        arrays, n = header["arrays"], len(self)
        new = {"file": f"{name}.npy", "dtype": np.dtype(dtype).name, "shape": [n, *map(int, shape)]}
        if twins := [other for other in arrays if other != name and other.casefold() == name.casefold()]:
            raise DataError(f"{self.path}: has {twins[0]} already; Windows and macOS cannot tell a file {name} from it")
        if name not in arrays:
            done = {"file": f"{name}.done.npy", "dtype": "uint8", "shape": [n]}
            for entry in (new, done):
                allocate(self.path, entry)
            arrays |= {name: new, f"{name}.done": done}
            files.write_json(self.path / "store.json", header)
        elif arrays[name] != new or f"{name}.done" not in arrays:
            raise DataError(f"{self.path}: has {name} already, as {arrays[name]} and not {new}")
        self.arrays.update(arrays)


def _prepare_command(settings: Mapping[str, Any]) -> str:
    """Return the command that makes a store of these settings, those of a store of version 0.1."""
    options = ["--num-frames", *settings.get("num_frames", [1]), "--frame-size", settings.get("frame_size", 224)]
    options += ["--sampling", settings.get("sampling", "uniform")]
    if settings.get("clip_frames"):
        options += ["--clip-frames", settings["clip_frames"], "--clip-size", settings["clip_size"]]
    options += ["--min-coverage", settings.get("min_coverage", 0.95)]
    flags = {"--key-frames": not settings.get("exact", True), "--no-imu": not settings.get("imu", True)}
    flags |= {"--audio": settings.get("audio"), "--zero-accel": settings.get("zero_accel")}
    options += [name for name, wanted in flags.items() if wanted]
    return shlex.join(map(str, ["egodistill", "prepare", "ANNOTATIONS", "--out", "NEW", *options]))


def lock_of(path: str | os.PathLike) -> Path:
    """Return the file that a process locks while it changes what a store's header lists."""
    return Path(path) / "store.lock"


def allocate(path: Path, entry: Mapping[str, Any]) -> None:
    """Make an array of zeros in its final size; its name appears once the file is whole.

    Its room on the disk is taken now: once the disk is full, writing to a mapped file whose room
    is still to be found kills the process (SIGBUS). Only macOS and Windows cannot say so beforehand.
    """
    shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
    files.remove_parts(path / entry["file"])
    with files.atomic_write(path / entry["file"]) as part:
        np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with open(part, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, part.stat().st_size)


# ---------------------------------------------------------------------------------------------------------------
# Reading


class ClipStore:
    """A folder of ``.npy`` arrays with one row per clip, and views of it.

    - ``store.json``: settings, class names, the spec of each prepared array, and file, dtype and
      shape of every array
    - ``segments.json``, ``clips.json``: the segments, and segment and start of every clip
    - ``status.npy`` (0 missing, 1 ok, 2 failed), ``failures.jsonl``: the reasons
    - ``notes.jsonl``: what is odd about the IMU recordings, if anything is
    - ``label.npy`` (-1: none), ``segment.npy``, ``checksum.npy``, and the arrays that ``prepare``
      lists; beside frames their times, such as ``frames_4.times.npy``
    - arrays of ``add``, such as teacher outputs, each with a ``.done.npy`` that marks its rows

    A view shows the usable clips only, of one split or of all; indices count within the view, and ``len()`` is their
    number. ``path`` is the folder, ``class_names`` the C names that labels count in, ``settings`` what ``prepare``
    was told, ``specs`` what its arrays hold of a clip. Arrays that any process adds later are seen, too.
    ``unfinished`` leaves out the warning about clips that are not prepared yet. Raise DataError, with the file, for a
    folder that is no store or an array that is damaged.
    """

    def __init__(self, path: str | os.PathLike, *, unfinished: bool = False) -> None:
        self._files = found = StoreFiles(path)
        self.path, self.settings, self.specs, self.class_names = (
            found.path,
            found.settings,
            found.specs,
            found.class_names,
        )
        status = self._files.array("status")
        self._rows = np.flatnonzero(status == OK)
        if not unfinished and (missing := np.count_nonzero(status == MISSING)):
            text = f"{self.path}: {missing} of {len(status)} clips are not prepared yet"
            warnings.warn(f"{text}; the same call of prepare() goes on with them", stacklevel=2)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"ClipStore({str(self.path)!r}, {len(self)} clips, {', '.join(self.names)})"

    @property
    def names(self) -> list[str]:
        """The arrays that ``read`` knows, bookkeeping left out."""
        return self._files.names

    @property
    def labels(self) -> np.ndarray:
        """Index into ``class_names`` of each clip, int64; -1 if there is no label."""
        return self._files.array("label")[self._rows]

    @property
    def segments(self) -> np.ndarray:
        """Index of the segment that each clip belongs to, int64."""
        return self._files.array("segment")[self._rows]

    @property
    def clips(self) -> list[dict]:
        """What each clip is: segment id, video, wearer, start and stop (s), label, split, status."""
        return [self._files.describe(row) for row in self._rows]

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """How many clips of each split are "ok", "failed" and still "missing", in the whole folder."""
        status = np.load(self.path / "status.npy", allow_pickle=False)  # as it is now
        counts: dict[str, dict[str, int]] = {}
        for row, value in enumerate(status):
            of_split = counts.setdefault(self._files.segment(row).split, {"ok": 0, "failed": 0, "missing": 0})
            of_split[STATUS[value]] += 1
        return counts

    @property
    def failures(self) -> list[dict]:
        """Clips of the whole folder that could not be prepared, each with its reason."""
        reasons = {line["clip"]: line["reason"] for line in files.read_lines(self.path / "failures.jsonl")}
        rows = np.flatnonzero(self._files.array("status") == FAILED).tolist()
        return [{"clip": k, **self._files.describe(k), "reason": reasons.get(k, "unknown")} for k in rows]

    @property
    def notes(self) -> dict[str, list[str]]:
        """What was odd about the IMU recordings: file -> words, see Imu.notes."""
        found = {}
        for line in files.read_lines(self.path / "notes.jsonl"):
            source = line["imu"]
            found[source if isinstance(source, str) else " and ".join(source)] = line["notes"]
        return found

    @property
    def splits(self) -> list[str]:
        """The splits that usable clips of this view are of, sorted."""
        return sorted({self._files.segments[i].split for i in self.segments})

    def split(self, name: str) -> ClipStore:
        """Return a view of the same folder with the clips of this split only; DataError if it has none."""
        if name not in self.splits:
            raise DataError(f"{self.path}: no usable clip of split {name!r}, only of {self.splits}")
        return self.select(np.array([self._files.segments[i].split == name for i in self.segments]))

    def select(self, rows: Any) -> ClipStore:
        """Return a view of these clips only, in this order; ``rows`` as numpy takes them, of this view."""
        chosen = self._rows[rows]
        if chosen.ndim != 1:
            raise DataError(f"{self.path}: rows are a list of numbers or of truth values, not {rows!r}")
        view = copy.copy(self)
        vars(view).update(_rows=chosen)
        return view

    @property
    def wearers(self) -> list[str | None]:
        """Who wore the camera in each clip; None where the annotations do not say."""
        return [self._files.segments[i].wearer for i in self.segments]

    @property
    def fingerprint(self) -> str:
        """A hash of what was prepared for the clips of this view: specs, classes, labels, and the arrays' content."""
        about = {"specs": {name: dataclasses.asdict(spec) for name, spec in self.specs.items()}}
        about |= {"format": FORMAT, "class_names": self.class_names}
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for values in (self._rows, self.labels, self.segments, self._files.array("checksum")[self._rows]):
            digest.update(np.ascontiguousarray(values, np.int64).tobytes())
        return digest.hexdigest()

    def read(self, name: str, index: Any) -> np.ndarray:
        """Return a fresh copy of these rows of an array; ``index`` as numpy takes it, of view rows.

        DataError for a name that is not there, or rows that are not written yet.
        """
        rows = self._rows[index]
        if self._files.is_added(name) and not self._files.array(f"{name}.done")[rows].all():
            raise DataError(f"{self.path}: {name} is not written yet for all the clips asked for")
        return np.take(self._files.array(name), rows, axis=0)

    def add(self, name: str, shape: Sequence[int], dtype: Any) -> None:
        """Make room for an array of ``shape`` per clip, or find the one there is.

        Any number of processes may do so at a time, and ``write`` to it. DataError if the one
        there is has another shape or dtype, or if ``name`` can be no file's on Windows or macOS.
        """
        if not re.fullmatch(r"\w[\w.-]*", name) or name.lower().endswith(".done"):
            raise DataError(f"{name!r} cannot be the name of an array")
        if name.split(".")[0].upper() in DEVICES:
            raise DataError(f"{name!r} cannot be the name of an array: Windows keeps it for a device")
        with files.lock(lock_of(self.path)):
            self._files.add(name, shape, dtype)

    def write(self, name: str, index: Any, values: np.ndarray) -> None:
        """Write these rows of an array made by ``add``, then mark them done.

        ``values`` are [rows, *shape]; DataError for another shape, or an array of ``prepare``.
        """
        if not self._files.is_added(name):
            raise DataError(f"{self.path}: {name} was not made by add(), it cannot be written")
        array, rows, values = self._files.array(name, "r+"), self._rows[index], np.asarray(values)
        if values.shape != (*rows.shape, *array.shape[1:]) or not np.can_cast(values.dtype, array.dtype, "same_kind"):
            raise DataError(
                f"{self.path}: {name} takes {array.dtype} {(*rows.shape, *array.shape[1:])}, "
                f"not {values.dtype} {values.shape}"
            )
        array[rows] = values
        self._files.array(f"{name}.done", "r+")[rows] = 1

    def done(self, name: str) -> np.ndarray:
        """Return whether each clip's row of an array is written, bool [len]."""
        if self._files.is_added(name):
            return self._files.array(f"{name}.done")[self._rows] != 0
        self._files.array(name)
        return np.ones(len(self), bool)  # prepare's arrays: the view holds finished clips only


# ---------------------------------------------------------------------------------------------------------------
# Filling


class StoreWriter:
    """A store that is being filled: which rows are missing, and a call for each part that is written.

    Rows count in the whole store. A row is settled once it is finished or failed. Any number of processes may fill a
    store at a time; all they need to know of each other is the status of the rows.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self._files = StoreFiles(path)
        self._status = self._files.array("status", "r+")
        self.path, self.settings, self.specs = self._files.path, self._files.settings, self._files.specs
        prepared = [name for name in self._files.arrays if name not in BOOKKEEPING and not name.endswith(".done")]
        self.names = [name for name in prepared if not self._files.is_added(name)]

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
    ) -> StoreWriter:
        """Lay a store out in the folder `path`, all its rows missing, or find the one that was begun there.

        ``find_clips()`` returns the number of the segment and the start in seconds of each clip; it is called for a
        new store only. ``specs`` has a spec of one kind for each array, ``arrays`` dtype and shape of a clip's part of
        arrays of another kind, ``settings`` whatever else has to be the same when a store is filled further. Raise
        DataError if the folder holds something else or a store of other settings, or if the disk is too small.
        """
        path, settings = Path(path), dict(settings or {})
        entries = BOOKKEEPING | dict(arrays or {})
        for name, spec in specs.items():
            entries |= spec.arrays(name)
        _check_folder(path, entries)
        path.mkdir(parents=True, exist_ok=True)
        header = {
            "format": FORMAT,
            "settings": settings,
            "specs": {name: dataclasses.asdict(spec.complete()) for name, spec in specs.items()},
            "class_names": list(class_names),
        }
        with files.lock(lock_of(path)):  # one lays it out, the others wait and find it
            if (path / "store.json").exists():
                _check_same(path, segments, header)
            else:
                _lay_out(path, segments, find_clips(), entries, header)
        return cls(path)

    def __len__(self) -> int:
        return len(self._files)

    def segment(self, row: int) -> Segment:
        """Return the segment that a clip is a part of."""
        return self._files.segment(row)

    def start(self, row: int) -> float:
        """Return where a clip starts in its video, in seconds."""
        return self._files.clips[row]["start"]

    def recordings(self) -> list[np.ndarray]:
        """Return the rows of each recording: a video, its IMU and the clock of that."""
        rows: dict[Recording, list[int]] = defaultdict(list)
        for row in range(len(self)):
            rows[self.segment(row).recording].append(row)
        return [np.array(found) for found in rows.values()]

    def missing(self, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Return those of the rows (None: of all) that are not settled yet."""
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        return rows[self._status[rows] == MISSING]

    def retry(self, rows: np.ndarray) -> None:
        """Make those of the rows that failed missing again."""
        self._status[rows[self._status[rows] == FAILED]] = MISSING

    def write(self, row: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a clip's part of all arrays, and then record that it is finished. Raise DataError if one is lacking."""
        if set(arrays) != set(self.names):
            raise DataError(f"{self.path}: a clip has the arrays {', '.join(self.names)}; got {', '.join(arrays)}")
        checksum = 0
        for name in arrays:
            target = self._files.array(name, "r+")
            values = np.ascontiguousarray(arrays[name], target.dtype)
            target[row] = values
            checksum = zlib.crc32(values, checksum)
        self._files.array("checksum", "r+")[row] = checksum
        self._status[row] = OK

    def fail(self, row: int, reason: Exception | str) -> None:
        """Record that a clip cannot be prepared: first the reason, then the status."""
        if self._status[row] == OK:  # by another process, meanwhile
            return
        line = {"clip": row, **self._files.describe(row), "status": "failed", "reason": str(reason)}
        files.append_line(self.path / "failures.jsonl", line)
        self._status[row] = FAILED

    def note(self, source: str | tuple[str, str], notes: Sequence[str]) -> None:
        """Keep what is odd about an IMU recording for whoever looks at the store."""
        if notes:
            files.append_line(self.path / "notes.jsonl", {"imu": source, "notes": list(notes)})


def _check_folder(path: Path, arrays: Mapping[str, Any]) -> None:
    """Raise DataError unless the folder is new or empty, holds a store, or what a killed run left of one."""
    ours = {f"{name}.npy" for name in arrays} | {"segments.json", "clips.json", "store.lock", "store.json"}
    for file in path.iterdir() if path.exists() else ():
        strange = file.name not in ours and not file.name.startswith(".")
        if strange and not files.is_system_file(file.name) and not (path / "store.json").exists():
            raise DataError(f"{path}: holds {file.name} but no store.json; give an empty folder")


def _check_same(path: Path, segments: Sequence[Segment], header: Mapping[str, Any]) -> None:
    """Raise DataError, with what differs, for a store that was begun from something else."""
    old, advice = StoreFiles(path), f"Give another folder, or delete {path} to begin anew."
    before = old.settings | {"segments": len(old.segments), "class_names": old.class_names}
    now = header["settings"] | {"segments": len(segments), "class_names": header["class_names"]}
    for i, (one, other) in enumerate(zip(old.segments, segments, strict=False)):
        if one != other:
            before[f"segment {i}"], now[f"segment {i}"] = dataclasses.asdict(one), dataclasses.asdict(other)
            break
    files.require_same_run(path, before, now, advice)
    specs = {name: dataclasses.asdict(spec) for name, spec in old.specs.items()}
    files.require_same_run(path, specs, header["specs"], advice)


def _lay_out(
    path: Path,
    segments: Sequence[Segment],
    clips: Sequence[tuple[int, float]],
    arrays: Mapping[str, tuple[str, Sequence[int]]],
    header: Mapping[str, Any],
) -> None:
    """Lay the store out on disk, all clips missing. Its header comes last: with it, it exists."""
    entries = {
        name: {"file": f"{name}.npy", "dtype": dtype, "shape": [len(clips), *shape]}
        for name, (dtype, shape) in arrays.items()
    }
    for entry in entries.values():  # what a call that was killed here has left
        files.remove_parts(path / entry["file"])
        (path / entry["file"]).unlink(missing_ok=True)
    needed = sum(math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize for entry in entries.values())
    free = shutil.disk_usage(path).free
    if needed > free:
        raise DataError(f"{path}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
    for entry in entries.values():
        allocate(path, entry)
    of_class = {name: i for i, name in enumerate(header["class_names"])}
    of_segment = np.array([segment for segment, _ in clips])
    labels = np.array([of_class.get(segment.label, -1) for segment in segments])
    for name, values in (("segment", of_segment), ("label", labels[of_segment])):
        np.lib.format.open_memmap(path / f"{name}.npy", "r+")[:] = values
    files.write_json(path / "segments.json", [dataclasses.asdict(segment) for segment in segments])
    files.write_json(path / "clips.json", [{"segment": segment, "start": start} for segment, start in clips])
    files.write_json(path / "store.json", {**header, "arrays": entries})


# ---------------------------------------------------------------------------------------------------------------
# Parts of a store


def folds(store: ClipStore, count: int, by: str = "wearer") -> np.ndarray:
    """Return a number from 0 to ``count`` - 1 for each clip, int64 [len(store)], so that a teacher need not teach what
    it has seen: one trained on ``store.select(folds != k)`` gives its outputs for the clips of the part k.

    Clips of one wearer, or with ``by="video"`` of one video, have one number; the parts are as equal as that allows,
    and the same for the same clips. Raise DataError if there are too few of them, or if a clip's wearer is unknown.
    """
    if by not in ("wearer", "video"):
        raise DataError(f"by is 'wearer' or 'video', not {by!r}")
    groups = store.wearers if by == "wearer" else [clip["video"] for clip in store.clips]
    if unknown := sum(group is None for group in groups):
        raise DataError(f"{store.path}: nothing says who wore the camera in {unknown} clips; give by='video'")
    sizes = Counter(groups)
    if not 2 <= count <= len(sizes):
        raise DataError(f"{store.path}: {len(sizes)} {by}s cannot make {count} folds; from 2 to {len(sizes)} can")
    filled, fold_of = [0] * count, {}
    for group in sorted(sizes, key=lambda group: (-sizes[group], group)):  # the largest first, where there is most room
        fold_of[group] = filled.index(min(filled))
        filled[fold_of[group]] += sizes[group]
    return np.array([fold_of[group] for group in groups], np.int64)


# ---------------------------------------------------------------------------------------------------------------
# Whose outputs are these?


class OutputClaim:
    """The claim of a run on the outputs of one name, made by `claim_outputs()`."""

    def __init__(self, file: Path, identity: Mapping[str, Any], record: dict[str, Any]) -> None:
        self.file, self.identity, self.record = file, identity, record

    def check(self) -> None:
        """Raise DataError if another run has put its name on these outputs since."""
        found = _read_record(self.file)
        if _differing(found, self.identity):
            raise DataError(
                f"{self.file}: another run has overwritten these outputs by those of the "
                f"fingerprint {found.get('fingerprint')}; this one ends, and has spoilt none of them"
            )

    def finish(self) -> None:
        """Record that a run with ``overwrite`` has written all of its outputs."""
        files.write_json(self.file, self.record)


def claim_outputs(
    store: ClipStore,
    name: str,
    identity: Mapping[str, Any],
    *,
    about: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> OutputClaim:
    """Put a teacher's name on the arrays "{name}.feature" and "{name}.logits"; DataError if they are another's.

    ``identity`` is what has to be equal for outputs to be the same teacher's (JSON values, "fingerprint" among them),
    ``about`` what else to record in "{name}.teacher.json" beside the arrays. ``overwrite`` claims the outputs of
    another teacher, if all of these are of this ``store``; until `finish()` only a run that overwrites may follow.
    """
    file, splits = _record_file(store, name), set(store.splits)
    present = any(array in store.names for array in (f"{name}.feature", f"{name}.logits"))
    with files.lock(lock_of(store.path)):  # of two teachers under one name, the second has to see the first
        found = _read_record(file)
        differing, written = _differing(found, identity), set(found.get("splits", []))
        if not overwrite and found.get("unfinished"):
            raise DataError(
                f"{file}: a run with overwrite=True was interrupted, so outputs of two teachers "
                "may lie side by side; run it again with overwrite=True"
            )
        if not overwrite and differing and (present or found):
            raise DataError(
                f"{file}: the outputs in this store have the {differing[0]} {found.get(differing[0])}, "
                f"this run has {identity[differing[0]]}; give the teacher another name, or compute "
                "all of them again with overwrite=True"
            )
        if overwrite and (differing or found.get("unfinished")) and written - splits:
            raise DataError(
                f"{file}: overwriting only {sorted(splits)} would leave another teacher's outputs "
                f"in {sorted(written - splits)}; give extract() the whole store"
            )
        record = {**(about or {}), **identity, "splits": sorted(written | splits)}
        files.write_json(file, record | ({"unfinished": True} if overwrite else {}))
    return OutputClaim(file, identity, record)


def outputs_record(store: ClipStore, name: str) -> dict[str, Any]:
    """Return whose outputs of this name are in the store, as `claim_outputs()` recorded it; {} if nobody's."""
    return _read_record(_record_file(store, name))


def _record_file(store: ClipStore, name: str) -> Path:
    return Path(store.path) / f"{name}.teacher.json"


def _read_record(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if not isinstance(record, dict):
            raise ValueError("it is not an object")
        return record
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read ({error}). Without it nobody knows whose outputs these are: "
            "delete it and compute all of them again with overwrite=True"
        ) from error


def _differing(found: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """Return the names of what is not the same in a record and in this run."""
    return list(files.differences({key: found[key] for key in identity if key in found}, identity))
