"""Segments: annotated parts of videos, from tables of your own, or made of recordings without labels.

    from egodistill.datasets import segments

    own = segments.read_csv("segments.csv")                     # video,start,stop,label[,imu][,split]...
    windows = segments.Windows(stride=1.0, split_by="stretch")
    clips = segments.read_recordings("films", windows)          # one for each clip, without labels
    own = segments.with_imu_offsets(own, "offsets.csv")         # from `egodistill check`

`annotations` has the readers of public data sets, which return lists of segments, too. Times are seconds on the video's
own clock, the one a player shows: zero is the start of the file.
"""

from __future__ import annotations

import collections
import contextlib
import csv
import dataclasses
import functools
import hashlib
import math
import operator
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..imu import IMUError
from ..recordings.recording import Recording, find_videos, is_neon, make_plain, neon_video, open_recording, path_of
from ..recordings.spec import clip_count, read_axes, strided_starts
from ..support import files
from ..support.defaults import CLIP_SECONDS, MIN_CALIBRATION_CLIPS, NONE, SPLIT_BY, UNSURE, SplitBy
from ..support.errors import DataError, named
from ..support.names import Names, absolute_path, identity, is_same, shortest_unique_suffixes
from ..support.records import class_number, read_table, start_and_stop
from ..video import VideoError

__all__ = [
    "RECORDED",
    "Origin",
    "Segment",
    "SegmentList",
    "Windows",
    "calibration_clips",
    "count_of_tests",
    "drawn_splits",
    "is_list_of_recordings",
    "listed_recordings",
    "names_of_classes",
    "offset_rows",
    "overlapping_splits",
    "read_csv",
    "read_recordings",
    "splits_of_wearers",
    "subsample",
    "with_calibration",
    "with_imu_axes",
    "with_imu_offsets",
    "with_labels",
    "with_names",
    "write_imu_offsets",
]

RECORDED = operator.attrgetter(*(field.name for field in dataclasses.fields(Recording)))  # these fields, in order


@dataclasses.dataclass(frozen=True)
class Segment:
    """An annotated part of a recording.

    Attributes:
        id: A name of its own.
        video: The video file; "" if there is none, as in `Recording`.
        start: Start in seconds.
        stop: End in seconds.
        label: Name of its class; None: none.
        imu: The IMU's file, pair of files, or None, as in `Recording`.
        split: Name of its split.
        imu_offset: As in `Recording`.
        imu_stretch: As in `Recording`.
        wearer: As in `Recording`.
        imu_axes: As in `Recording`.
        zero_accel: As in `Recording`.
        camera: Name of the function of your own that reads its samples.

    Raises:
        DataError: `id`, `label`, `split` or `wearer` is not text, or `label` is empty.

    >>> from egodistill import data
    >>> segment = data.Segment("walk-1", "walk.mp4", start=2.0, stop=5.5, label="walk", imu="walk.csv")
    >>> segment.recording.probe().duration
    23.4
    """

    id: str
    video: str
    start: float
    stop: float
    label: str | None = None
    imu: str | tuple[str, str] | None = None
    split: str = "train"
    imu_offset: float = 0.0
    imu_stretch: float = 1.0
    wearer: str | None = None
    imu_axes: str = "gopro"
    zero_accel: bool = False
    camera: str = ""

    def __post_init__(self) -> None:  # convert paths and numpy numbers: a store holds JSON
        for name, none in (("id", False), ("label", True), ("split", False), ("wearer", True)):
            value = getattr(self, name)
            if not (isinstance(value, str) or (none and value is None)):
                raise DataError(f"{name}={value!r} of a segment must be text, such as {name}={str(value)!r}")
        if self.label == "":
            raise DataError("label='' of a segment is no name of a class; give label=None for a segment without one")
        if self.label == UNSURE:
            raise DataError(f"the label {UNSURE!r} means that a student refuses a clip; name the class otherwise")
        make_plain(self)
        object.__setattr__(self, "start", float(self.start))
        object.__setattr__(self, "stop", float(self.stop))

    def record(self) -> dict[str, Any]:
        """Return the fields by name, for files: without `camera` if it has none."""
        fields = dataclasses.asdict(self)
        return fields if self.camera else {name: value for name, value in fields.items() if name != "camera"}

    @property
    def path(self) -> str:
        """Return the key and the name of its recording, as in `Recording`."""
        return path_of(self.video, self.imu)

    @property
    def is_background(self) -> bool:
        """Return whether nothing happens in it that has a label: its class is "(none)"."""
        return self.label == NONE

    @property
    def recording(self) -> Recording:
        """Return the recording that the segment is a part of. Raise DataError if `camera` is not in use here."""
        found = Recording(*RECORDED(self))
        if self.camera and found.record()["camera"] != self.camera:
            raise DataError(
                f"{self.path}: its samples were read by your own {self.camera.partition(' ')[0]}, which is not in use "
                f"here; give the function again in IMU_READERS (--imu-reader)"
            )
        return found


class Origin(NamedTuple):
    """Where a reader found segments, for `table_checks`."""

    table: str = ""  # the file; "": the segments were made in Python
    rows: Mapping[str, str] = {}  # {id of a segment: its place, such as "row 5"} in a table of your own
    drawn: bool = False  # whether the reader decided the splits, not a column of the table
    notes: tuple[str, ...] = ()  # what the reader itself noticed, a sentence each
    parts: Mapping[str, Segment] = {}  # {id of its first clip: the row as it is written} in a table of recordings
    links: Mapping[str, str] = {}  # {id of a segment: its video as given} where the file goes by another name
    left_out: tuple[Segment, ...] = ()  # rows that give no clips; they have times, so there is no background there
    is_sparse: bool = False  # whether it is known that not all that happens has a label


class SegmentList(list):
    """A list of segments, with what the reader left out. Each file goes by one name, its first one in the list.

    Args:
        segments: The segments.
        dropped: {reason: number of annotations that were left out}.
        origin: Where they come from; None: they are made in Python.
    """

    def __init__(
        self,
        segments: Iterable[Segment] = (),
        dropped: dict[str, int] | None = None,
        origin: Origin | None = None,
    ):
        given, name = list(segments), Names()
        super().__init__(with_names(one, name) for one in given)
        self.dropped = dict(dropped or {})
        origin = origin or Origin()
        origin = origin._replace(left_out=tuple(with_names(one, name) for one in origin.left_out))
        renamed = ((one, Path(own.path).name) for one, own in zip(given, self, strict=True) if one is not own)
        links = {one.id: found for one, name in renamed if (found := Path(one.path).name) != name}
        self.origin = origin._replace(links={**origin.links, **links})


def with_names(segment: Segment, name: Callable[[str], str]) -> Segment:
    """Return a segment with other names of its video and IMU (`Names`: a file's first one)."""
    imu = segment.imu
    imu = name(imu) if isinstance(imu, str) else imu and (name(imu[0]), name(imu[1]))
    if (video := segment.video and name(segment.video)) == segment.video and imu == segment.imu:
        return segment
    return dataclasses.replace(segment, video=video, imu=imu)


# --- What the readers of data sets share

RARE = "the class has fewer than {} segments"
ROUNDING = 1e-6  # seconds: clips that overlap by less only touch


def splits_of_wearers(evaluation: Sequence[str], validation: Sequence[str]) -> dict[str, str]:
    """Return {wearer: split} of those in "test" and "validation". Raise DataError for a wearer in both lists."""
    if both := sorted({*evaluation} & {*validation}):
        raise DataError(f"{', '.join(both)}: a wearer cannot be for both evaluation and validation")
    return dict.fromkeys(evaluation, "test") | dict.fromkeys(validation, "validation")


def overlapping_splits(
    segments: Iterable[Segment], clip_seconds: float = CLIP_SECONDS
) -> list[tuple[Segment, Segment]]:
    """Return pairs of segments of one video whose clips overlap and whose splits differ: (later one, an earlier one).

    There is one pair for each segment that overlaps an earlier one. The clip of a segment shorter than a clip shows
    more than the segment; see `clip_starts()`. The end of the video, where a clip is moved inside, is not known.
    """
    segments = list(segments)
    splits: dict[str, set[str]] = collections.defaultdict(set)
    for segment in segments:
        splits[segment.path].add(segment.split)
    # (start of its first clip, end of its last clip, segment)
    shown = [(*_shown(segment, clip_seconds), segment) for segment in segments if len(splits[segment.path]) > 1]
    found = []
    latest: dict[str, dict[str, tuple[float, Segment]]] = {}  # {video: {split: the end that is last, its segment}}
    for start, stop, segment in sorted(shown, key=lambda one: one[0]):
        known = latest.setdefault(segment.path, {})
        others = [one for split, (end, one) in known.items() if split != segment.split and end > start + ROUNDING]
        if others:
            found.append((segment, others[0]))
        if segment.split not in known or stop > known[segment.split][0]:
            known[segment.split] = stop, segment
    return found


def _shown(segment: Segment, seconds: float) -> tuple[float, float]:
    """Return the start of a segment's first clip and the end of its last one, as `clip_starts()` puts them."""
    if segment.stop - segment.start > seconds:
        return segment.start, segment.stop
    start = max(0.0, (segment.start + segment.stop - seconds) / 2)
    return start, start + seconds


def names_of_classes(
    spellings: Mapping[Hashable, collections.Counter[str]], table: Path | None = None
) -> dict[Hashable, str]:
    """Return the name of each class: its key in the data set's own table, or else its usual spelling.

    `spellings` is {class: how often each word is used for it}, the table has `id,key` and may be missing. Two classes
    that share a word get different names. Raise DataError if the table lacks a class.
    """
    if table is not None and table.is_file():
        keys = {class_number(where, row, "id"): row["key"] for where, row in read_table(table, ("id", "key"))}
        if missing := set(spellings) - set(keys):
            raise DataError(f"{table}: verb class {min(missing)} is missing, but the annotations use it")
        return {number: keys[number] for number in spellings}
    names: dict[Hashable, str] = {}
    for number in sorted(spellings):
        name = spellings[number].most_common(1)[0][0]
        names[number] = f"{name} ({number})" if name in names.values() else name
    return names


def with_labels(
    found: Sequence[tuple[Hashable, Segment]],
    names: Mapping[Hashable, str],
    min_instances: int,
    dropped: collections.Counter[str],
    origin: Origin,
) -> SegmentList:
    """Return the segments of (class, segment) pairs, with class names as labels, without those of rare classes.

    Classes with fewer segments than `min_instances` are rare; `dropped`, {reason: number}, counts theirs.
    """
    instances = collections.Counter(number for number, _ in found)
    segments, rare = [], list[Segment]()
    for number, segment in found:
        if instances[number] < min_instances:
            dropped[RARE.format(min_instances)] += 1
            rare.append(segment)
        else:
            segments.append(dataclasses.replace(segment, label=names[number]))
    return SegmentList(segments, dropped, origin._replace(left_out=(*origin.left_out, *rare)))


# --- Tables of your own

OPTIONAL_COLUMNS = ("imu", "split", "id", "imu_offset", "imu_stretch", "wearer", "imu_axes")


def read_csv(path: str | os.PathLike, *, class_names: Sequence[str] | None = None) -> SegmentList:
    """Read segments of your own videos from a table `video,start,stop,label[,imu][,split][,id]`.

    start and stop are seconds or HH:MM:SS.sss; paths are relative to the table's folder. `imu` is one CSV, two
    separated by ';' (accelerometer;gyroscope), or empty: telemetry inside the video. With an `imu`, `video` may be
    empty: head motion alone, whose times are those of the samples. Optional columns `imu_offset` (s), `imu_stretch`,
    `wearer` and `imu_axes` are fields of Segment. An empty label means that there is none, an empty split "train".
    Names of columns may be in upper case; other columns are an error, unless their names start with '#' or '_'. Raise
    DataError that names file and row. `table_checks.find()` compares the rows with each other.

    Args:
        path: The table.
        class_names: Names of the classes; a label outside them is an error.

    >>> from egodistill import data
    >>> for segment in data.read_csv("segments.csv", class_names=["walk", "look around"]):
    ...     print(segment.id, segment.imu, segment.start, segment.stop, segment.label, segment.split)
    walk_0 walk.csv 0.0 2.1 walk train
    walk_1 walk.csv 2.1 4.2 look around test
    """
    path = Path(path)
    rows: dict[str, str] = {}
    segments: list[Segment] = []
    stem = functools.cache(lambda path: Path(path).stem)
    for where, row, own in _rows_of_recordings(path, ("video", "start", "stop", "label"), OPTIONAL_COLUMNS):
        start, stop = start_and_stop(where, row["start"], row["stop"])
        name = row.get("id") or f"{stem(own.path)}_{len(segments)}"
        if name in rows:
            raise DataError(f"{where}: the id {name!r} is already used in {rows[name]}")
        rows[name] = _row(where)
        label, split = row["label"] or None, row.get("split") or "train"
        if class_names is not None and label is not None and label not in class_names:
            raise DataError(f"{where}: the label {label!r} is not one of the {len(class_names)} class names")
        clock = own.imu_offset, own.imu_stretch
        segments.append(Segment(name, own.video, start, stop, label, own.imu, split, *clock, own.wearer, own.imu_axes))
    if not segments:
        raise DataError(f"{path}: the table has no rows")
    return SegmentList(segments, origin=Origin(str(path), rows))


def _row(where: str) -> str:
    """Return the place in a table, such as "row 5", without the table's path."""
    return where.rpartition(", ")[2]


def _rows_of_recordings(path: Path, *columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str], Recording]]:
    """Yield place, cells and unopened recording of each row of a table; rows with the same files and clock share it."""
    known: dict[tuple[str | None, ...], Recording] = {}
    for where, row in read_table(path, *columns):
        cells = tuple(map(row.get, ("video", "imu", "imu_offset", "imu_stretch", "wearer", "imu_axes")))
        if cells not in known:
            video, imu = _files_of_row(where, path.parent, row)
            clock, wearer, axes = _clock(where, row), row.get("wearer") or None, _axes(where, row)
            known[cells] = Recording(video, imu, *clock, wearer, imu_axes=axes)
        yield where, row, known[cells]


def _files_of_row(where: str, folder: Path, row: Mapping[str, str]) -> tuple[str, str | tuple[str, str] | None]:
    """Return the video of a row of your own table, and its IMU: one file, two, or None."""
    if os.path.isdir(folder / row["video"]) and row["video"]:
        try:
            video = str(neon_video(folder / row["video"]))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
    else:
        video = _existing(where, folder, row["video"]) if row["video"] or not row.get("imu") else ""
    sources = [s.strip() for s in (row.get("imu") or "").split(";") if s.strip()]
    if len(sources) > 2:
        raise DataError(f"{where}: imu must be one file or 'accl.csv;gyro.csv', not {row['imu']!r}")
    found = [_existing(where, folder, source) for source in sources]
    if len(found) == 2 and is_same(*found):
        raise DataError(f"{where}: imu names one file twice, {row['imu']!r}; give it once, or 'accl.csv;gyro.csv'")
    return video, (found[0], found[1]) if len(found) == 2 else (found[0] if found else None)


def _existing(where: str, folder: Path, name: str) -> str:
    if not name or not os.path.isfile(folder / name):  # also False for text that cannot be a file name
        raise DataError(
            f"{where}: no such file: {folder / name if name else '(empty cell)'} (paths are relative to the table)"
        )
    return str(folder / name)


def _clock(where: str, row: dict[str, str]) -> tuple[float, float]:
    """Return the offset in seconds and the stretch of an IMU's clock."""
    values = []
    for name, usual in (("imu_offset", 0.0), ("imu_stretch", 1.0)):
        try:
            values.append(float(row.get(name) or usual))
        except ValueError:
            values.append(math.nan)
        if not math.isfinite(values[-1]):
            raise DataError(f"{where}: {name} {row[name]!r} is not a number")
    if not 0.5 < values[1] < 2:
        raise DataError(f"{where}: imu_stretch {values[1]} is not a factor near 1")
    return values[0], values[1]


def _axes(where: str, row: dict[str, str]) -> str:
    """Return the axes of an IMU. Raise DataError that names the row."""
    text = row.get("imu_axes") or "gopro"
    try:
        read_axes(text)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return text


# --- Recordings without labels


@dataclasses.dataclass(frozen=True)
class Windows:
    """The settings that cut recordings without labels into clips, and choose those for testing.

    Attributes:
        stride: Seconds from one clip of a recording to the next; the last one ends with the recording. None: the length
            of a clip.
        split_by: "recording": a whole recording is for training or for testing. "stretch": each recording is cut into
            stretches for training and for testing, with a little more than a clip between them that no clip contains.
        test_share: Share of the recordings, or of each recording, that is for testing.
        seed: Decides which recordings are for testing; stretches do not depend on it.
        clip_seconds: Length of a clip.

    Raises:
        DataError: A value is out of range.

    >>> from egodistill.datasets import segments
    >>> segments.Windows(stride=1.0, split_by="stretch").test_share
    0.3
    """

    stride: float | None = None
    split_by: SplitBy = "recording"
    test_share: float = 0.3
    seed: int = 0
    clip_seconds: float = CLIP_SECONDS

    def __post_init__(self) -> None:
        if not 0 < self.clip_seconds < math.inf:  # NaN: False
            raise DataError(f"{named('clip_seconds')} must be above 0 s, and finite; got {self.clip_seconds}")
        least = self.clip_seconds / 100
        if not least <= self.step < math.inf:
            raise DataError(f"{named('stride')} must be at least {least:.3f} s, 1/100 of a clip; got {self.stride}")
        if self.split_by not in SPLIT_BY:
            raise DataError(f"{named('split_by')} must be 'recording' or 'stretch'; got {self.split_by!r}")
        if not 0 < self.test_share < 1:
            raise DataError(f"{named('test_share')} is a share of recordings, between 0 and 1; got {self.test_share}")

    @property
    def step(self) -> float:
        """Return the seconds from one clip to the next."""
        return self.clip_seconds if self.stride is None else self.stride

    @property
    def guard(self) -> float:
        """Return the seconds between a stretch for training and one for testing: a clip and two frames."""
        return round(self.clip_seconds + 2 / 30, 6)

    @property
    def splittable(self) -> float:
        """Return the seconds of a recording that can be split by stretch: two clips and what is between them."""
        return 2 * self.clip_seconds + self.guard


# Columns of a table of recordings beside the video. There is no id, because the segments get names of their own.
RECORDING_COLUMNS = ("start", "stop", "imu", "split", "imu_offset", "imu_stretch", "wearer", "imu_axes")


def is_list_of_recordings(header: str) -> bool:
    """Return whether a header is of videos and no labels; False with unknown columns, which may be misspelt labels."""
    names = {name.strip().strip('"').lower() for name in header.split(",")}
    names = {name for name in names if name and not name.startswith(("#", "_"))}
    return "video" in names and names <= {"video", "start", "stop", *OPTIONAL_COLUMNS}


def listed_recordings(path: str | os.PathLike) -> list[Recording]:
    """Return the recordings of a table without the column label, one per row, unopened; see `read_recordings()`."""
    return [recording for _, _, recording in _rows_of_recordings(Path(path), ("video",), RECORDING_COLUMNS)]


FAR = 0.25  # between the wanted and the real share for testing, from which on it is noted
PERIOD = 120.0  # seconds, about: a part of a recording with one stretch for training and one for testing; or six clips


def read_recordings(path: str | os.PathLike, windows: Windows = Windows()) -> SegmentList:
    """Make segments without labels of recordings: one for each clip, `windows.step` seconds apart.

    Without a column `split`, the split is that of `windows`, and the same for the same files, wherever they are:

    - by recording: the recordings are ordered by a hash of `seed` and of their path below the folder (or that in the
      table); the first `test_share` of them, rounded, at least one and not all, get the split "test"
    - by stretch: each recording (or part of one) is cut into equal periods of about two minutes (or six clips), and
      each period ends with a stretch for testing, `test_share` of it. Before and after it, `windows.guard` seconds
      belong to no clip, also where another row goes on with the recording. Each stretch has a clip at least; a
      recording that is too short for that is for training.

    `.dropped` of the result counts recordings that cannot be opened, and rows without room for a clip. Raise
    DataError for a folder without videos, a table with a row that cannot be used, recordings that cannot be split in
    this way, or a column `split` together with other settings of the split than the defaults.

    Args:
        path: A folder, whose videos and those of its subfolders are used with the IMU that `open_recording()`
            finds. Or a table with the column `video` and, as in `read_csv()`, `start`, `stop`, `imu`, `split`,
            `imu_offset`, `imu_stretch`, `wearer` and `imu_axes`, all of which may be missing or empty. Each row is a
            part of a recording.
        windows: Where the clips are, and their splits.

    >>> from egodistill.datasets import segments
    >>> first, *others = segments.read_recordings("world", segments.Windows(stride=10.0, split_by="stretch"))
    >>> first.label, first.start, first.split
    (None, 0.0, 'train')
    """
    path = Path(path)
    dropped: collections.Counter[str] = collections.Counter()
    parts = list(_parts_of_folder(path, dropped) if path.is_dir() else _parts_of_table(path, dropped))
    if not parts:
        raise DataError(f"{path}: none of its recordings can be used: {'; '.join(dropped) or 'the table has no rows'}")
    name, first = Names(), dict[str, str]()  # a file has one name, and so one split
    parts = [part._replace(name=first.setdefault(name(part.recording.path), part.name)) for part in parts]
    if any(part.split for part in parts) and windows != Windows(windows.stride, clip_seconds=windows.clip_seconds):
        raise DataError(
            f"{path}: its column split decides the splits; leave out {named('split_by')}, "
            f"{named('test_share')} and {named('seed', option='--split-seed')}, or the column"
        )
    if windows.split_by == "stretch":
        stretches = _stretches_of_parts(parts, windows, dropped)
    else:
        splits = _splits_of_recordings(path, parts, windows, dropped)
        stretches = [[(part.split or splits[part.name], part.start, part.stop)] for part in parts]
    rows: dict[str, str] = {}
    written: dict[str, Segment] = {}
    drawn = not any(part.split for part in parts)
    segments: list[Segment] = []
    for part, own_stretches in zip(parts, stretches, strict=True):
        own, count = part.recording.record(), len(segments)
        for split, start, stop in own_stretches:
            for after in strided_starts(stop - start, windows.clip_seconds, windows.step):
                name, begin = f"{Path(part.recording.path).stem}_{len(segments)}", start + after
                segments.append(Segment(name, start=begin, stop=begin + windows.clip_seconds, split=split, **own))
                if part.row:
                    rows[name] = part.row
        if part.row and count < len(segments):
            first = segments[count]
            written[first.id] = dataclasses.replace(first, start=part.start, stop=part.written)
    tests = sum(segment.split == "test" for segment in segments)
    if drawn and tests in (0, len(segments)):
        several = len({part.recording.path for part in parts}) > 1
        ways = [f"use {named('split_by', 'recording')}"] * several
        if parts[0].row:
            what, ways = "no row", [*ways, "join rows that adjoin", "give a column split"]
        else:
            what, ways = "no recording", ways or ["add recordings"]
        raise DataError(
            f"{path}: cannot be split by stretch: {what} has {windows.splittable:.1f} s (two clips and a gap between "
            "them); " + ", or ".join(ways)
        )
    notes: tuple[str, ...] = ()
    if drawn and windows.split_by == "recording" and abs(tests / len(segments) - windows.test_share) > FAR:
        shares = f"{100 * tests / len(segments):.0f} %) are for testing, not {100 * windows.test_share:.0f} %"
        way_out = f"because whole recordings are; {named('split_by', 'stretch')} divides each of them"
        notes = (f"{tests:,} of {len(segments):,} clips ({shares}, {way_out}",)
    return SegmentList(segments, dropped, Origin(str(path), rows, drawn, notes, written))


class _Part(NamedTuple):
    """A part of a recording; times in seconds."""

    name: str  # path below the folder, or that in the table
    recording: Recording
    start: float
    stop: float
    split: str | None  # None if the table has none
    row: str = ""  # in the table, such as "row 5"; "" in a folder
    written: float = 0.0  # its end as the table has it, which may be behind that of the video


def _parts_of_folder(folder: Path, dropped: collections.Counter[str]) -> Iterator[_Part]:
    """Yield the recordings of a folder; count those that cannot be opened."""
    for video in find_videos(folder):
        try:
            recording = open_recording(video)
            stop = recording.probe().duration
        except (DataError, VideoError) as error:
            dropped[str(error)] += 1
            continue
        yield _Part(Path(video).relative_to(folder).as_posix(), recording, 0.0, stop, None)


def _parts_of_table(path: Path, dropped: collections.Counter[str]) -> Iterator[_Part]:
    """Yield the rows of a table of recordings; count those that cannot be opened."""
    for where, row, listed in _rows_of_recordings(path, ("video",), RECORDING_COLUMNS):
        given = dataclasses.asdict(listed)
        try:
            recording = open_recording(given.pop("video"), **given)
            begin, end = recording.begin, recording.duration
        except (DataError, IMUError, VideoError) as error:
            dropped[str(error)] += 1
            continue
        start, stop = start_and_stop(where, row.get("start") or str(begin), row.get("stop") or str(end))
        if start >= end:
            what = "video ends" if recording.video else "samples end"
            raise DataError(f"{where}: starts at {start:.3f} s, but the {what} at {end:.3f} s")
        split = (row["split"] or "train") if "split" in row else None
        name = os.path.normpath(row["video"] or row["imu"])
        yield _Part(name, recording, start, min(stop, end), split, _row(where), stop)


def _splits_of_recordings(
    path: Path, parts: Sequence[_Part], windows: Windows, dropped: Mapping[str, int]
) -> dict[str, str]:
    """Return the split of each recording that has none yet; an error names those that were dropped."""
    names = {part.name for part in parts if part.split is None}
    if len(names) == 1:
        stretch = f"use {named('split_by', 'stretch')}, or "
        raise DataError(
            f"{path}: one recording cannot be split by recording; add recordings, "
            f"{stretch if any(part.stop - part.start >= windows.splittable for part in parts) else 'or '}"
            f"give a table with the column split" + (f". Not used: {'; '.join(dropped)}" if dropped else "")
        )
    return drawn_splits(names, windows)


def drawn_splits(names: Iterable[str], windows: Windows) -> dict[str, str]:
    """Return {name: its split}, "test" for a random share of the names, "train" for the others, or for a single one."""
    order = sorted(names, key=lambda name: hashlib.sha256(f"{windows.seed} {name}".encode()).digest())
    tests = count_of_tests(len(order), windows.test_share)
    return {name: "test" if rank < tests else "train" for rank, name in enumerate(order)}


def count_of_tests(count: int, share: float) -> int:
    """Return how many items are for testing: the rounded share of them, at least one and not all."""
    return min(max(1, round(share * count)), count - 1)


def _stretches_of_parts(
    parts: Sequence[_Part], windows: Windows, dropped: collections.Counter[str]
) -> list[list[tuple[str, float, float]]]:
    """Return the stretches of each part; a part in or soon after another one's stretch for testing begins later."""
    found = collections.defaultdict(list)
    tests = collections.defaultdict(list)  # {recording: (start, stop) of its stretches for testing}
    for k, part in sorted(enumerate(parts), key=lambda numbered: numbered[1].start):
        near = [stop for start, stop in tests[part.name] if start <= part.start < stop + windows.guard]
        begin = max(near) + windows.guard if near else part.start
        if near and part.stop - begin < windows.clip_seconds:
            dropped[
                f"{part.name} from {part.start:.3f} to {part.stop:.3f} s: no clip fits {windows.guard:g} s after the "
                f"stretch for testing that ends at {max(near):.3f} s"
            ] += 1
            continue
        found[k] = list(_stretches(begin, part.stop, windows))
        tests[part.name] += [(start, stop) for split, start, stop in found[k] if split == "test"]
    return [found[k] for k in range(len(parts))]


def _stretches(start: float, stop: float, windows: Windows) -> Iterator[tuple[str, float, float]]:
    """Yield split, start and stop of the stretches of a part of a recording; see `read_recordings()`."""
    seconds, guard = windows.clip_seconds, windows.guard
    count = max(1, round((stop - start) / max(PERIOD, 6 * seconds)))
    period = (stop - start) / count
    for k in range(count):
        first, last = start + k * period + (guard if k else 0.0), start + (k + 1) * period
        if last - first < windows.splittable:
            yield "train", first, last
            continue
        cut = min(max(last - windows.test_share * period, first + seconds + guard), last - seconds)
        yield "train", first, cut - guard
        yield "test", cut, last


# --- Clocks and axes


def _like(given: Iterable[Segment], segments: Iterable[Segment]) -> SegmentList:
    """Return segments as a list that keeps what another one says of itself."""
    return SegmentList(segments, getattr(given, "dropped", None), getattr(given, "origin", None))


def subsample(segments: Sequence[Segment], step: int) -> SegmentList:
    """Return every `step`-th segment of each split, in their order."""
    seen: collections.Counter[str] = collections.Counter()
    kept, others = [], list[Segment]()
    for segment in segments:
        (others if seen[segment.split] % step else kept).append(segment)
        seen[segment.split] += 1
    result = _like(segments, kept)
    result.origin = result.origin._replace(left_out=(*result.origin.left_out, *others))
    return result


CALIBRATION, MIN_GROUPS = "calibration", 5  # a split; wearers or recordings from which on some are held out


def with_calibration(segments: Sequence[Segment], share: float, clip_seconds: float = CLIP_SECONDS) -> SegmentList:
    """Return segments with a share of the training wearers in the split "calibration", from which no network learns.

    Of fewer than 5 wearers, or if one is unknown, recordings are chosen. The choice is that of a hash of their names,
    of files as much of their ends as tells them apart. Segments stay as they are if there is such a split already, or
    if the chosen ones have fewer than 50 clips with a label.
    """
    train = [one for one in segments if one.split == "train"]
    wearers, recordings = {one.wearer for one in train}, shortest_unique_suffixes({one.path for one in train})
    by_wearer = None not in wearers and len(wearers) >= MIN_GROUPS
    groups = [one.wearer if by_wearer else recordings[one.path] for one in train]
    if len({*groups}) < MIN_GROUPS or any(one.split == CALIBRATION for one in segments):
        return _like(segments, segments)
    drawn = drawn_splits({*map(str, groups)}, Windows(test_share=share))
    splits = (CALIBRATION if drawn[str(group)] == "test" else "train" for group in groups)
    moved = [dataclasses.replace(one, split=next(splits)) if one.split == "train" else one for one in segments]
    return _like(segments, moved if calibration_clips(moved, clip_seconds) >= MIN_CALIBRATION_CLIPS else segments)


def calibration_clips(segments: Iterable[Segment], clip_seconds: float = CLIP_SECONDS) -> int:
    """Return the number of labelled clips in the split "calibration"."""
    own = (one for one in segments if one.split == CALIBRATION and one.label is not None)
    return sum(clip_count(one.stop - one.start, clip_seconds) for one in own)


def with_imu_axes(segments: Iterable[Segment], axes: str) -> SegmentList:
    """Return the same segments with other axes of their IMU samples.

    Args:
        segments: The segments.
        axes: A name or a turn, see `Recording`.

    >>> from egodistill import data
    >>> data.with_imu_axes(data.read_csv("segments.csv"), "XZy")[0].imu_axes
    'XZy'
    """
    changed = (dataclasses.replace(segment, imu_axes=axes) for segment in segments)
    return _like(segments, changed)


def with_imu_offsets(segments: Iterable[Segment], table: str | os.PathLike) -> SegmentList:
    """Return the same segments with IMU clocks corrected by a table `video,imu_offset[,imu_stretch][,imu_axes]`.

    A video, or an IMU without one, is named by its path, or else by its file name with or without suffix; a Neon's also
    by its folder. A correction is applied on top of the segment's own clock; axes, where there are some, replace its
    own. Rows that `check` measured of other recordings are left out. Raise DataError with the row for a name written by
    hand that matches no video of the segments, and for one that matches several.

    Args:
        segments: The segments.
        table: The table, such as `egodistill check` writes.

    >>> from pathlib import Path
    >>> from egodistill import data
    >>> _ = Path("offsets.csv").write_text("video,imu_offset\\nwalk.mp4,0.25\\n")
    >>> segments = data.with_imu_offsets(data.read_csv("segments.csv"), "offsets.csv")
    >>> [segment.imu_offset for segment in segments]
    [0.25, 0.25]
    """
    result = _like(segments, segments)
    named_by = _by_name(sorted({segment.path for segment in result}))
    clocks, places, others = {}, {}, 0
    for where, row in read_table(Path(table), ("video", "imu_offset"), ("imu_stretch", "imu_axes")):
        named = named_by(row["video"])
        if not named and not _by_hand(row):
            others += 1
            continue
        if len(named) != 1:
            way_out = (
                "give its path" if named else "correct it, or take the row out (those that `check` measured may stay)"
            )
            raise DataError(
                f"{where}: {row['video']!r} matches {len(named)} videos of the segments; it must match one: {way_out}"
            )
        if named[0] in clocks:
            raise DataError(f"{where}: {row['video']!r} is already in {places[named[0]]}; leave out one of them")
        axes = _axes(where, row) if row.get("imu_axes") else None
        clocks[named[0]], places[named[0]] = (*_clock(where, row), axes), _row(where)
    for i, segment in enumerate(result):
        offset, stretch, axes = clocks.get(segment.path, (0.0, 1.0, None))
        result[i] = dataclasses.replace(
            segment,
            imu_offset=segment.imu_offset * stretch + offset,
            imu_stretch=segment.imu_stretch * stretch,
            imu_axes=axes or segment.imu_axes,
        )
    if others and not clocks:
        about = f"{table}: no row names one of these recordings, by path or file name, so no clock is corrected"
        result.origin = result.origin._replace(notes=(*result.origin.notes, about))
    return result


def _by_name(paths: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a function that finds the videos which a cell names, without blanks at its ends.

    A name is a path, or else a file name with or without suffix; of a Neon's scene video also its folder.
    """
    exact, others = dict[Hashable, str](), collections.defaultdict[str, list[str]](list)
    for path in paths:
        whole = Path(absolute_path(path))
        if whole.is_dir():
            with contextlib.suppress(DataError):
                whole = neon_video(whole)
        known = {path, str(whole), whole.name, whole.stem}
        exact.setdefault(identity(whole), path)
        if is_neon(whole.parent):
            exact.setdefault(identity(whole.parent), path)
            known.add(whole.parent.name)
        for name in known:
            others[name.strip()].append(path)

    def find(name: str) -> list[str]:
        found = exact.get(identity(name))
        return [found] if found else others.get(name) or others.get(absolute_path(name)) or []

    return find


MEASURED, AXES = "#measured", "#axes"  # columns of what was measured: a cell that differs was written by hand


def offset_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table of IMU clocks as they are; none if it does not exist. Raise DataError with the row."""
    return (
        [row for _, row in read_table(path, ("video", "imu_offset"))] if path.is_file() and path.stat().st_size else []
    )


def write_imu_offsets(
    path: str | os.PathLike,
    measured: Mapping[str, float | None],
    axes: Mapping[str, str] | None = None,
    *,
    overwrite: bool = False,
) -> list[str]:
    """Write measured offsets of IMU clocks to a table for `with_imu_offsets()`, and return what it did not write.

    Rows of other videos stay as they are, and so does what was written or changed by hand: an offset that is not that
    in the column `#measured`, or has a stretch, and axes that are not those in `#axes`. The result has a clause for
    each that is not what was measured. Raise DataError for another file.

    `measured` is {video: offset in seconds}; None: it has no reliable one, and what was measured before is removed.
    `axes` is {video: axes} of videos whose axes were found to be wrong; the table then has a column `imu_axes`. With
    `overwrite`, a new table without any row of the old one is written.

    >>> from pathlib import Path
    >>> from egodistill.datasets import segments
    >>> segments.write_imu_offsets("clocks.csv", {"walk.mp4": 0.25, "cook.mp4": 0.1})
    []
    >>> _ = Path("clocks.csv").write_text(Path("clocks.csv").read_text().replace("walk.mp4,0.250", "walk.mp4,0.3"))
    >>> segments.write_imu_offsets("clocks.csv", {"walk.mp4": 0.26})
    ['walk.mp4: keeps 0.3, written by hand, instead of 0.260']
    >>> print(Path("clocks.csv").read_text(), end="")
    video,imu_offset,#measured
    walk.mp4,0.3,0.250
    cook.mp4,0.100,0.100
    """
    path = Path(path)
    named_by = _by_name(measured)
    old = [(row, named_by(row["video"])) for row in ([] if overwrite else offset_rows(path))]
    new = [({"video": video, "imu_offset": "", MEASURED: ""}, [video]) for video in measured]
    left, rows, kept = dict(measured), list[dict[str, str]](), list[str]()
    for row, videos in [*old, *new]:
        by_hand = _by_hand(row)
        if not videos:
            rows.append(row)
        for video in [video for video in videos if video in left]:
            seconds, turn = left.pop(video), (axes or {}).get(video, "")
            cells = {} if "imu_axes" in by_hand else {"imu_axes": turn, AXES: turn}
            if "imu_offset" not in by_hand:
                cells |= dict.fromkeys(("imu_offset", MEASURED), f"{seconds or 0.0:.3f}")
            elif seconds is not None:
                kept.append(f"{video}: keeps {row['imu_offset']}, written by hand, instead of {seconds:.3f}")
            if "imu_axes" in by_hand and row["imu_axes"] != turn:
                kept.append(f"{video}: keeps the axes {row['imu_axes']}, written by hand, instead of {turn or 'none'}")
            if by_hand or seconds is not None:
                rows.append(row | cells)
    unused = {"imu_axes", AXES} - {name for row in rows for name in row if row[name]}
    names = [name for row in rows for name in row if name not in (MEASURED, AXES)]
    order = dict.fromkeys(("video", "imu_offset", *names, MEASURED, AXES))
    columns = [name for name in order if name not in unused]
    with files.atomic_write(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    return kept


def _by_hand(row: Mapping[str, str]) -> set[str]:
    """Return which cells of a row were written by hand."""
    hand = {"imu_offset"} if row["imu_offset"] != row.get(MEASURED) or row.get("imu_stretch") else set[str]()
    return hand | ({"imu_axes"} if (row.get("imu_axes") or "") != (row.get(AXES) or "") else set())
