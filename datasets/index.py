"""The index of a clip store: numpy columns, read when they are first asked for, and the texts that they count.

    found = index.Index(path, header["index"])
    found["start"]                                      # float64 [clips]
    found.segments[7]                                   # a Segment, made of its columns
    header["index"] = index.write(path, columns, texts, header["index"])    # what changed; then the header names it

A column is a file `index/NAME.N.npy`. No file is ever changed: an edit writes new ones, and the header, which names
each with its CRC-32, is renamed at last.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import operator
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from ..support import files
from ..support.errors import DataError
from .segments import Segment, with_names

__all__ = ["Index", "SegmentColumns", "columns_of", "write"]

FOLDER, TEXTS = "index", "texts"
AGAIN = "copy the store again, or prepare its clips into another folder"  # the way out of a damaged store
# One value per clip: its segment, its start (s), where its row is, its status and the CRC-32 of its row.
CLIPS = {"segment": "int32", "start": "float64", "shard": "int32", "row": "int32", "status": "uint8"}
CLIPS |= {"checksum": "uint32"}
# One value per segment; `label`, `split` and `recording` count the texts, -1: none. The id is UTF-8, up to `id_end`.
SEGMENTS = {"recording": "int32", "begin": "float64", "end": "float64", "label": "int32", "split": "int32"}
SEGMENTS |= {"id_end": "int64"}
KINDS = {**CLIPS, **SEGMENTS, "id": "uint8"}
TIMES = {"begin": "start", "end": "stop"}  # of a segment
FILE = re.compile(rf"({'|'.join(KINDS)})\.[0-9]+\.npy|{TEXTS}\.[0-9]+\.json")


class Index:
    """The columns of a store, and its texts: `recordings` (fields of `Recording`), `labels`, `splits`, video headers.

    Each is read, and compared with its CRC-32, when it is first asked for. Raise DataError, which names the file, if
    one is missing or damaged.
    """

    def __init__(self, path: Path, entries: Mapping[str, Any], find: Callable[[str], str] = str) -> None:
        self.path, self.entries, self.find = path, entries, find
        self.columns: dict[str, np.ndarray] = {}

    def follow(self, entries: Mapping[str, Any]) -> None:
        """Take over the entries of a header. Texts change with the table only, and then there is another index."""
        changed = {name for name in self.columns if entries[name] != self.entries[name]}
        self.columns = {name: column for name, column in self.columns.items() if name not in changed}
        self.entries = entries

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.columns:
            column = np.load(io.BytesIO(self.content(name)), allow_pickle=False)
            column.flags.writeable = False
            self.columns[name] = column
        return self.columns[name]

    def file(self, name: str) -> Path:
        """Return the path of a column."""
        return self.path / FOLDER / f"{name}.{self.entries[name][0]}.{'json' if name == TEXTS else 'npy'}"

    def content(self, name: str) -> bytes:
        """Return the content of a file that has its CRC-32."""
        file = self.file(name)
        files.require_file(file)
        content = file.read_bytes()
        if zlib.crc32(content) != self.entries[name][1]:
            raise DataError(f"{file}: is damaged, or is that of another store: its checksum differs; {AGAIN}")
        return content

    @functools.cached_property
    def texts(self) -> dict[str, list]:
        """Return {"labels", "splits", "videos" (headers), "recordings" (fields as they were written): list}."""
        return json.loads(self.content(TEXTS))

    @functools.cached_property
    def recordings(self) -> list[dict[str, Any]]:
        """Return the fields of each recording, with names by which its files are found now."""
        named = (with_names(Segment("", start=0, stop=0, **one), self.find) for one in self.texts["recordings"])
        return [recording_fields(one) for one in named]

    @functools.cached_property
    def segments(self) -> SegmentColumns:
        """Return the annotated segments."""
        columns = {name: self[name] for name in (*SEGMENTS, "id")}
        return SegmentColumns(columns, {**self.texts, "recordings": self.recordings})


class SegmentColumns(Sequence[Segment]):
    """Segments that are made when they are asked for, of columns and texts, as `Index` has them."""

    def __init__(self, columns: Mapping[str, np.ndarray], texts: Mapping[str, list]) -> None:
        self.columns, self.texts = columns, texts

    def __len__(self) -> int:
        return len(self.columns["begin"])

    @overload
    def __getitem__(self, number: int) -> Segment: ...
    @overload
    def __getitem__(self, number: slice) -> list[Segment]: ...
    def __getitem__(self, number: int | slice) -> Segment | list[Segment]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        one, columns = range(len(self))[number], self.columns
        times = {field: columns[name][one].item() for name, field in TIMES.items()}
        words = {name: self.text(name, one) for name in ("label", "split")}
        return Segment(self.id(one), **times, **words, **self.texts["recordings"][columns["recording"][one]])

    def id(self, number: int) -> str:
        """Return the id of a segment."""
        ends = self.columns["id_end"]
        return bytes(self.columns["id"][ends[number - 1] if number else 0 : ends[number]]).decode()

    def text(self, name: str, number: int) -> Any:
        """Return the "label" or "split" of a segment."""
        found = self.columns[name][number]
        return None if found < 0 else self.texts[f"{name}s"][found]


RECORDING = ("video", "imu", "imu_offset", "imu_stretch", "wearer", "imu_axes", "zero_accel", "camera")


def recording_fields(segment: Segment) -> dict[str, Any]:
    """Return the fields of a segment that it shares with all of its recording."""
    return {name: getattr(segment, name) for name in RECORDING}


def columns_of(segments: Sequence[Segment]) -> tuple[dict[str, np.ndarray], dict[str, list]]:
    """Return columns and texts of segments: equal ones if, and only if, the segments are equal."""
    numbers: dict[str, dict[Any, int]] = {"recording": {}, "label": {}, "split": {}}
    keys = {"recording": operator.attrgetter(*RECORDING), "label": operator.attrgetter("label")}
    keys["split"] = operator.attrgetter("split")
    columns = {name: np.array([getattr(one, field) for one in segments], np.float64) for name, field in TIMES.items()}
    for name, known in numbers.items():
        key = keys[name]
        columns[name] = np.array(
            [-1 if (value := key(one)) is None else known.setdefault(value, len(known)) for one in segments],
            np.int32,
        )
    ids = [one.id.encode() for one in segments]
    columns["id_end"] = np.cumsum([len(one) for one in ids], dtype=np.int64)
    columns["id"] = np.frombuffer(b"".join(ids), np.uint8)
    recordings = [dict(zip(RECORDING, key, strict=True)) for key in numbers["recording"]]
    return columns, {"recordings": recordings, "labels": [*numbers["label"]], "splits": [*numbers["split"]]}


def write(
    path: Path, values: Mapping[str, np.ndarray | Mapping[str, Any]], before: Mapping[str, Any]
) -> dict[str, Any]:
    """Write columns, and texts, that have changed; return the entries of all for the header. The caller holds the lock.

    The files of `before`, the header's entries by now, stay for those who read them; those of earlier headers are
    removed.
    """
    number = max((entry[0] for entry in before.values()), default=-1) + 1
    entries = dict(before)
    for name, value in values.items():
        if name == TEXTS:
            content = json.dumps(value, allow_nan=False, ensure_ascii=False, indent=0).encode()
        else:
            file = io.BytesIO()
            np.save(file, np.asarray(value, KINDS[name]), allow_pickle=False)
            content = file.getvalue()
        entries[name] = [number, zlib.crc32(content)]
        with files.atomic_write(Index(path, entries).file(name), through_link=False) as part:
            part.write_bytes(content)
    used = {Index(path, some).file(name) for some in (before, entries) for name in some}
    for file in (path / FOLDER).glob("*.*"):
        if FILE.fullmatch(file.name) and file not in used:
            with contextlib.suppress(OSError):  # Windows keeps what another process reads
                file.unlink()
    return entries
