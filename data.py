"""From annotated first-person videos to a clip store: frames, IMU windows and labels on disk.

The road, in the order of this file::

    annotations --read_*--> [Segment] --prepare()--> ClipStore --read()--> numpy arrays

A *segment* is an annotated stretch of a video, a *clip* a window of 64/30 s inside it, and a *clip
store* a folder of plain ``.npy`` files with everything that would otherwise be decoded anew in
every epoch: decode once, train often. This file needs numpy and PyAV only and can be copied alone
(with gpmf.py beside it where the IMU is a GoPro's)::

    from egodistill import data

    segments = data.read_epic_kitchens("EPIC_100_train.csv", "/videos/EPIC-KITCHENS")
    print(segments.dropped)                             # what was left out, and why
    store = data.prepare(segments, "store", num_frames=(1, 8), clip_frames=16)
    train = store.split("train")
    batch = train.read("frames_8", [0, 5, 7])           # uint8 [3, 8, 3, 224, 224], RGB
    imu = train.read("imu", [0, 5, 7])                  # float32 [3, 422, 6], m/s2 and rad/s

Times are seconds on the video's own clock, the one a player shows: zero is where the file starts.
"""

from __future__ import annotations

import bisect
import collections
import concurrent.futures
import contextlib
import copy
import csv
import dataclasses
import faulthandler
import functools
import hashlib
import importlib
import io
import itertools
import json
import math
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from egodistill import CLIP_SECONDS, IMU_RATE, IMU_SAMPLES, DataError, files

__all__ = [
    "Segment",
    "SegmentList",
    "read_epic_kitchens",
    "read_ego4d",
    "read_csv",
    "with_imu_offsets",
    "Imu",
    "read_imu",
    "VideoInfo",
    "probe",
    "read_frames",
    "frames_at",
    "read_audio",
    "log_mel",
    "clip_starts",
    "clip_times",
    "prepare",
    "ClipStore",
    "DataError",
    "VideoError",
    "CoverageError",
    "CLIP_SECONDS",
    "IMU_RATE",
    "IMU_SAMPLES",
]


class CoverageError(DataError):
    """The IMU does not cover the window that was asked for."""


class VideoError(OSError):
    """A video that cannot be opened, or a frame that cannot be had from it."""


# --- Annotations -> segments ---------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Segment:
    """An annotated stretch of a video, ``start`` to ``stop`` in seconds.

    ``imu`` is one CSV, a pair of CSVs (accelerometer, gyroscope), or None: telemetry in the video.
    A sample stamped t was taken at ``imu_offset + imu_stretch * t`` seconds of the video: public
    recordings are off by up to a second (`egodistill check` measures it).
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

    def __post_init__(self) -> None:  # paths and numpy numbers are welcome; a store holds JSON
        imu = self.imu
        if isinstance(imu, (tuple, list)):
            imu = tuple(os.fspath(path) for path in imu)
        elif imu is not None:
            imu = os.fspath(imu)
        plain = {
            "video": os.fspath(self.video),
            "start": float(self.start),
            "stop": float(self.stop),
            "imu": imu,
            "imu_offset": float(self.imu_offset),
            "imu_stretch": float(self.imu_stretch),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)


class SegmentList(list):
    """A list of segments that also says what its reader left out: ``dropped``, reason -> rows."""

    def __init__(self, segments: Iterable[Segment] = (), dropped: dict[str, int] | None = None):
        super().__init__(segments)
        self.dropped = dict(dropped or {})


def read_epic_kitchens(
    annotations: str | os.PathLike,
    root: str | os.PathLike,
    *,
    split: str = "wearer",
    evaluation_wearers: Sequence[str] = ("P30", "P35", "P37"),
    min_instances: int = 1,
    audio: bool = False,
) -> SegmentList:
    """The verb segments of an EPIC-KITCHENS-100 table whose videos have IMU files under ``root``.

    Videos are ``<root>/<Pxx>/videos/<video_id>.MP4``, their IMU
    ``<root>/<Pxx>/meta_data/<video_id>-accl.csv`` and ``-gyro.csv``. All videos with IMU that have
    labels are in EPIC_100_train.csv, so the paper's evaluation wearers are split off from it here:
    with ``split="wearer"`` segments of ``evaluation_wearers`` get split "test", all others "train".
    Any other word becomes the split of all. ``audio`` leaves out videos that have no sound.

    The label is the verb class' key in EPIC_100_verb_classes.csv where that lies beside the table,
    else the class' commonest verb in the table. Classes with fewer than ``min_instances`` segments
    are dropped. ``.dropped`` of the result counts what was left out.
    Raises DataError, with file and row, for a table that cannot be read.
    """
    annotations, root = Path(annotations), Path(root)
    needed = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", "verb", "verb_class")
    dropped: collections.Counter[str] = collections.Counter()
    spellings: dict[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    lacks: dict[str, str | None] = {}  # video -> why it cannot be used
    found: list[tuple[int, Segment]] = []
    for where, row in _table(annotations, needed):
        wearer, video_id = row["participant_id"], row["video_id"]
        for name in (wearer, video_id):
            if not re.fullmatch(r"\w[\w-]*", name):  # nothing that could climb out of the root
                raise DataError(f"{where}: {name!r} is not the id of a participant or a video")
        start, stop = _stretch(where, row["start_timestamp"], row["stop_timestamp"])
        if not row["verb_class"].isdecimal():
            raise DataError(f"{where}: verb_class {row['verb_class']!r} is not a whole number")
        verb_class = int(row["verb_class"])
        spellings[verb_class][row["verb"]] += 1
        folder = root / wearer
        imu = tuple(str(folder / "meta_data" / f"{video_id}-{s}.csv") for s in ("accl", "gyro"))
        video = str(folder / "videos" / f"{video_id}.MP4")
        if video_id not in lacks:
            lacks[video_id] = None
            if not all(os.path.isfile(path) for path in imu):
                lacks[video_id] = "the video has no IMU files"
            elif audio:
                lacks[video_id] = _lacks_audio(video)
        if reason := lacks[video_id]:
            dropped[reason] += 1
            continue
        if split != "wearer":
            part = split
        else:
            part = "test" if wearer in evaluation_wearers else "train"
        segment = Segment(row["narration_id"], video, start, stop, None, imu, part)
        found.append((verb_class, segment))
    if not found:
        hint = ""
        if "validation" in annotations.name:
            hint = (
                " No video of the official validation split has IMU: "
                "the paper's train and evaluation videos are all in EPIC_100_train.csv."
            )
        raise DataError(
            f"{annotations}: none of its {len(lacks)} videos has {'sound and ' * audio}IMU files "
            f"<Pxx>/meta_data/<video_id>-accl.csv and -gyro.csv under {root}.{hint}"
        )
    names = _verb_names(annotations.with_name("EPIC_100_verb_classes.csv"), spellings)
    instances = collections.Counter(verb_class for verb_class, _ in found)
    segments = []
    for verb_class, segment in found:
        if instances[verb_class] < min_instances:
            dropped[_RARE.format(min_instances)] += 1
        else:
            segments.append(dataclasses.replace(segment, label=names[verb_class]))
    return SegmentList(segments, dropped)


_RARE = "the class has fewer than {} segments"


def _lacks_audio(video: str) -> str | None:
    try:
        return None if probe(video).has_audio else "the video has no audio"
    except VideoError:
        return "the video cannot be opened"


def _verb_names(table: Path, spellings: dict[int, collections.Counter[str]]) -> dict[int, str]:
    """The name of each verb class: its official key, else its commonest spelling."""
    if table.is_file():
        keys = {int(row["id"]): row["key"] for _, row in _table(table, ("id", "key"))}
        if missing := set(spellings) - set(keys):
            raise DataError(f"{table}: has no verb class {min(missing)}, which the annotations use")
        return {verb_class: keys[verb_class] for verb_class in spellings}
    names: dict[int, str] = {}
    for verb_class in sorted(spellings):
        name = spellings[verb_class].most_common(1)[0][0]
        # Two classes must not become one because annotators used one word for both.
        names[verb_class] = f"{name} ({verb_class})" if name in names.values() else name
    return names


EGO4D_FPS = 30  # of all canonical videos and clips, and so of their frame numbers


def read_ego4d(
    annotations: str | os.PathLike,
    root: str | os.PathLike,
    *,
    seed: int = 0,
    test_share: float = 0.3,
    min_instances: int = 2,
    audio: bool = False,
) -> SegmentList:
    """The verb segments of Ego4D's hands-and-objects annotations (fho_main.json, or fho.json).

    A segment is an action from its pre_frame to its post_frame, its label the structured verb. Left
    out, and counted in ``.dropped``, are actions that are rejected, invalid, warned of, annotated
    twice, or without critical frames or verb; videos without IMU file, with two views (is_stereo)
    or, with ``audio``, without sound; and classes with fewer than ``min_instances`` actions.

    Files lie below ``root``, or below its v2 or v1: ``imu/<video_uid>.csv``, and the first that is
    there of ``full_scale/<video_uid>.mp4``, ``video_540ss/<video_uid>.mp4`` and
    ``clips/<clip_uid>.mp4``. ``ego4d.json``, where it is there, tells of stereo and sound.

    The paper splits at random, 70:30 within each class. Here the order is that of a hash of
    ``seed`` and the narration's uid, so that it does not depend on the rest of the file; a class of
    two has one on each side. The file is read a video at a time. Raises DataError with its name.
    """
    annotations, root = Path(annotations), Path(root)
    if not 0 < test_share < 1:
        raise DataError(f"test_share is a share of each class, 0 < share < 1; got {test_share}")
    folders = [root, root / "v2", root / "v1"]
    about = {}
    for folder in folders:
        if (folder / "ego4d.json").is_file() and not about:
            for where, _, video in _json_items(folder / "ego4d.json", ("videos",)):
                sound = (video.get("video_metadata") or {}).get("audio_duration_sec")
                about[_uid(where, video.get("video_uid"))] = video.get("is_stereo"), sound

    dropped: collections.Counter[str] = collections.Counter()
    by_class: dict[str, list[tuple[bytes, Segment]]] = collections.defaultdict(list)
    seen = set()
    videos = 0
    for where, key, video in _json_items(annotations, ("videos", "video_data")):
        videos += 1
        uid = _uid(where, video.get("video_uid", key))
        stereo, sound = about.get(uid, (False, True))
        imu = _first_file(folders, f"imu/{uid}.csv")
        whole = _first_file(folders, f"full_scale/{uid}.mp4", f"video_540ss/{uid}.mp4")
        lacks = None
        if imu is None:
            lacks = "the video has no IMU file"
        elif stereo:
            lacks = "the video shows two views (stereo)"
        elif audio and not sound:
            lacks = "the video has no audio"
        for clip_uid, action, pre, post, inside, problem in _ego4d_actions(where, video):
            clip = _first_file(folders, f"clips/{_uid(where, clip_uid)}.mp4") if clip_uid else None
            narration = action.get("narration_annotation_uid") or action.get("uid")
            identity = str((uid, narration, action.get("start_sec"), action.get("end_sec")))
            problem = ("annotated twice" if identity in seen else problem) or lacks
            if whole is None and problem is None:
                if clip is None:
                    problem = "neither the video nor its clip is there"
                elif inside is None:
                    problem = "no critical frames"
            seen.add(identity)
            if problem:
                dropped[problem] += 1
                continue
            # A clip's clock starts later than that of the video and its IMU.
            shift = 0.0 if whole else (inside - pre) / EGO4D_FPS
            order = hashlib.sha256(f"{seed} {identity}".encode()).digest()
            segment = Segment(
                f"{uid}_{pre}_{post}_{order[:4].hex()}",
                whole or clip,
                pre / EGO4D_FPS + shift,
                post / EGO4D_FPS + shift,
                action["structured_verb"],
                imu,
                imu_offset=shift,
            )
            by_class[segment.label].append((order, segment))
    segments = []
    for actions in by_class.values():
        if len(actions) < min_instances:
            dropped[_RARE.format(min_instances)] += len(actions)
            continue
        tests = min(max(1, round(test_share * len(actions))), len(actions) - 1)
        for rank, (_, segment) in enumerate(sorted(actions, key=lambda pair: pair[0])):
            split = "test" if rank < tests else "train"
            segments.append(dataclasses.replace(segment, split=split))
    if not segments:
        why = "; ".join(f"{n} actions: {reason}" for reason, n in dropped.items())
        raise DataError(f"{annotations}: no usable action in {videos} videos under {root}. {why}")
    segments.sort(key=lambda segment: (segment.video, segment.start, segment.id))
    return SegmentList(segments, dropped)


def _ego4d_actions(where: str, video: dict) -> Iterator[tuple[Any, dict, int, int, int | None, str | None]]:
    """Clip uid, action, pre_frame, post_frame, pre_frame in the clip, and why it cannot be used."""
    try:
        for interval in video.get("annotated_intervals") or ():
            for action in interval.get("narrated_actions") or ():
                frames = action.get("critical_frames")
                if not frames:  # they may be in the list of boxes instead
                    boxes = action.get("frames") or ()
                    frames = {box.get("frame_type"): box.get("frame_number") for box in boxes}
                pre, post = frames.get("pre_frame"), frames.get("post_frame")
                inside = (action.get("clip_critical_frames") or {}).get("pre_frame")
                problem = _problem(action, pre, post)
                yield (
                    interval.get("clip_uid"),
                    action,
                    pre,
                    post,
                    inside if isinstance(inside, int) else None,
                    problem,
                )
    except (AttributeError, TypeError) as error:
        raise DataError(f"{where}: is not laid out as Ego4D's annotations are: {error}") from error


def _problem(action: dict, pre: Any, post: Any) -> str | None:
    """The usual filter of public code."""
    for flag, reason in (
        ("is_rejected", "rejected"),
        ("is_invalid_annotation", "invalid"),
        ("warnings", "with warnings"),
    ):
        if action.get(flag):
            return reason
    if action.get("is_valid_action") is False:
        return "invalid"
    if not isinstance(pre, int) or not isinstance(post, int):
        return "no critical frames"
    if not (isinstance(action.get("structured_verb"), str) and action["structured_verb"]):
        return "no structured verb"
    if not max(0, action.get("start_frame") or 0) <= pre < post:
        return "pre_frame and post_frame are not in order"
    return None


def _uid(where: str, uid: object) -> str:
    """An id that becomes a file's name: nothing that could climb out of the root."""
    if not isinstance(uid, str) or not re.fullmatch(r"\w[\w-]*", uid):
        raise DataError(f"{where}: {uid!r} is not the uid of a video or clip")
    return uid


def _first_file(folders: Sequence[Path], *names: str) -> str | None:
    for name in names:
        for folder in folders:
            if os.path.isfile(folder / name):
                return str(folder / name)
    return None


_JSON_CHUNK = 1 << 20  # characters
_JSON_WORD = 1 << 20  # the longest string that may be cut by the end of what was read


def _json_items(path: Path, names: Sequence[str]) -> Iterator[tuple[str, str | None, dict]]:
    """The objects in the list or dict that a JSON file holds under one of these names.

    Each with the words that an error about it starts with, and its key in a dict. Only one object
    is held at a time. Raises DataError with file and place.
    """
    decoder = json.JSONDecoder()
    text, at, base = "", 0, 0

    def more() -> bool:
        nonlocal text, at, base
        chunk = file.read(max(_JSON_CHUNK, len(text) - at))  # twice as much each time
        text, at, base = text[at:] + chunk, 0, base + at
        return bool(chunk)

    def broken(place: int, why: str) -> DataError:
        return DataError(f"{path}: cut off, or not JSON, at character {base + place}: {why}")

    def next_sign() -> str:
        nonlocal at
        while True:
            at = _JSON_SPACE.match(text, at).end()
            if at < len(text):
                return text[at]
            if not more():
                raise broken(at, "it ends here")

    def take(signs: str) -> str:
        nonlocal at
        if (sign := next_sign()) not in signs:
            raise broken(at, f"expected one of {signs}")
        at += 1
        return sign

    def value() -> Any:
        nonlocal at
        next_sign()
        while True:
            try:
                found, end = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                # More text may complete what is at the end of this one, and nothing else.
                if len(text) - error.pos > _JSON_WORD or not more():
                    raise broken(error.pos, error.msg) from error
                continue
            except RecursionError as error:
                raise broken(at, "nested too deep") from error
            if (end == len(text) or text[end] in ".eE+-") and more():  # a number may go on
                continue
            at = end
            return found

    def members(opened: str) -> Iterator[str | None]:
        """The keys of a dict or Nones of a list, each to be followed by a call of value()."""
        nonlocal at
        closing = "]" if opened == "[" else "}"
        while next_sign() != closing:
            key = None
            if opened == "{":
                key = value()
                take(":")
            yield key
            if next_sign() != closing:
                take(",")
        at += 1

    found = False
    try:
        with open(path, encoding="utf-8-sig") as file:
            for name in members(take("{")):
                if name not in names:
                    value()
                    continue
                found = True
                for number, key in enumerate(members(take("[{"))):
                    item, where = value(), f"{path}, {name}[{number if key is None else key!r}]"
                    if not isinstance(item, dict):
                        raise DataError(f"{where}: is not an object")
                    yield where, key, item
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text in UTF-8: {error}") from error
    if not found:
        raise DataError(f"{path}: has no {' or '.join(map(repr, names))} at its top level")


_JSON_SPACE = re.compile(r"[ \t\r\n]*")


def read_csv(path: str | os.PathLike, *, class_names: Sequence[str] | None = None) -> SegmentList:
    """Segments of your own videos, from a table ``video,start,stop,label[,imu][,split][,id]``.

    start and stop are seconds or HH:MM:SS.sss; paths are relative to the table's folder. ``imu`` is
    one CSV, two separated by ';' (accelerometer;gyroscope), or empty: telemetry inside the video.
    Columns ``imu_offset`` (s) and ``imu_stretch`` are those of Segment. An empty label means none,
    an empty split "train". A label that is not among ``class_names``, where they are given, is an
    error. Raises DataError that names file and row.
    """
    path = Path(path)
    segments, ids = SegmentList(), set()
    for where, row in _table(path, ("video", "start", "stop", "label")):
        start, stop = _stretch(where, row["start"], row["stop"])
        video = _existing(where, path.parent, row["video"])
        sources = [s.strip() for s in (row.get("imu") or "").split(";") if s.strip()]
        if len(sources) > 2:
            raise DataError(f"{where}: imu is one file or 'accl.csv;gyro.csv', not {row['imu']!r}")
        files = tuple(_existing(where, path.parent, source) for source in sources)
        imu = (None, *files)[-1] if len(files) < 2 else files
        name = row.get("id") or f"{Path(video).stem}_{len(segments)}"
        if name in ids:
            raise DataError(f"{where}: the id {name!r} was used before")
        ids.add(name)
        label = row["label"] or None
        if class_names is not None and label is not None and label not in class_names:
            raise DataError(f"{where}: {label!r} is not among the {len(class_names)} class names")
        offset, stretch = _clock(where, row)
        segments.append(Segment(name, video, start, stop, label, imu, row.get("split") or "train", offset, stretch))
    if not segments:
        raise DataError(f"{path}: the table has no rows")
    return segments


def with_imu_offsets(segments: Iterable[Segment], table: str | os.PathLike) -> SegmentList:
    """The same segments, IMU clocks corrected by a table ``video,imu_offset[,imu_stretch]``.

    A video is named by its path, or by its file name with or without suffix; `egodistill check`
    writes such a table. An offset is added to what a segment has. Raises DataError with the row
    for a name that no segment's video has, or that several have.
    """
    result = SegmentList(segments, getattr(segments, "dropped", None))
    paths = sorted({segment.video for segment in result})
    clocks = {}
    for where, row in _table(Path(table), ("video", "imu_offset")):
        named = [p for p in paths if row["video"] in (p, Path(p).name, Path(p).stem)]
        if len(named) != 1:
            raise DataError(f"{where}: {row['video']!r} is the name of {len(named)} videos, not 1")
        clocks[named[0]] = _clock(where, row)
    for i, segment in enumerate(result):
        offset, stretch = clocks.get(segment.video, (0.0, 1.0))
        result[i] = dataclasses.replace(
            segment,
            imu_offset=segment.imu_offset * stretch + offset,
            imu_stretch=segment.imu_stretch * stretch,
        )
    return result


def _clock(where: str, row: dict[str, str]) -> tuple[float, float]:
    """Offset in seconds and stretch of an IMU's clock."""
    values = []
    for name, usual in (("imu_offset", 0.0), ("imu_stretch", 1.0)):
        try:
            values.append(float(row.get(name) or usual))
        except ValueError:
            values.append(math.nan)
        if not math.isfinite(values[-1]):
            raise DataError(f"{where}: {name} {row[name]!r} is not a number")
    if not 0.5 < values[1] < 2:
        raise DataError(f"{where}: imu_stretch {values[1]} is a factor near 1")
    return values[0], values[1]


def _table(path: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a CSV with header, each with the words that an error about it starts with."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            if missing := [name for name in needed if name not in (reader.fieldnames or ())]:
                raise DataError(
                    f"{path}: no column {', '.join(missing)}; it has "
                    f"{', '.join(reader.fieldnames or ()) or 'no header'}"
                )
            for row in reader:
                where = f"{path}, row {reader.line_num}"
                if any(row[name] is None for name in needed):
                    raise DataError(f"{where}: fewer cells than the header")
                yield where, {k: v.strip() for k, v in row.items() if isinstance(v, str)}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV table in UTF-8: {error}") from error


def _stretch(where: str, start: str, stop: str) -> tuple[float, float]:
    """Start and stop in seconds, from '83.5' or '00:01:23.50'."""
    seconds = []
    for text in (start, stop):
        parts = text.split(":")
        try:
            value = sum(float(part) * 60**i for i, part in enumerate(reversed(parts)))
        except ValueError:
            value = math.nan
        if not (0 <= value < math.inf and len(parts) <= 3 and "-" not in text):
            raise DataError(f"{where}: {text!r} is not a time in seconds or HH:MM:SS")
        seconds.append(value)
    if seconds[1] <= seconds[0]:
        raise DataError(f"{where}: stop {stop} does not come after start {start}")
    return seconds[0], seconds[1]


def _existing(where: str, folder: Path, name: str) -> str:
    if not name or not os.path.isfile(folder / name):  # False, too, for what can be no file's name
        raise DataError(f"{where}: no such file: {folder / name if name else '(empty cell)'}")
    return str(folder / name)


# --- IMU -----------------------------------------------------------------------------------------

GAP_STEPS = 5  # a step of over five times the median step is a gap


@dataclasses.dataclass(eq=False)
class Imu:
    """Samples of an accelerometer [n, 3] in m/s2 and a gyroscope [m, 3] in rad/s.

    Each has its own times, float64, ascending, in seconds on the video's clock. Gravity is in.
    ``notes`` says in words what is odd about the recording: rows left out, axes that are unknown.
    """

    accel_time: np.ndarray
    accel: np.ndarray
    gyro_time: np.ndarray
    gyro: np.ndarray
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def median_steps(self) -> tuple[float, float]:
        """The usual step between two samples, in seconds: (accelerometer, gyroscope)."""
        steps = (np.diff(stamps) for stamps in (self.accel_time, self.gyro_time))
        return tuple(float(np.median(step)) if len(step) else 0.0 for step in steps)

    def on_clock(self, offset: float = 0.0, stretch: float = 1.0) -> Imu:
        """The same samples with every time t moved to ``offset + stretch * t``."""
        if (offset, stretch) == (0.0, 1.0):
            return self
        accel_time, gyro_time = (offset + stretch * t for t in (self.accel_time, self.gyro_time))
        return Imu(accel_time, self.accel, gyro_time, self.gyro, self.notes)

    def inside(self, duration: float) -> Imu:
        """Without the samples over a second before or after a video of ``duration`` s, which it notes."""
        sensors = []
        for stamps, values in ((self.accel_time, self.accel), (self.gyro_time, self.gyro)):
            kept = (stamps >= -1) & (stamps <= duration + 1)
            sensors += [stamps[kept], values[kept]]
        lost = max(len(self.accel) - len(sensors[1]), len(self.gyro) - len(sensors[3]))
        notes = (f"{lost} samples lie over a second outside the video",) if lost else ()
        return Imu(*sensors, self.notes + notes)

    def covers(self, times: np.ndarray, *, max_gap: float | None = None) -> np.ndarray:
        """Which of these ascending times lie between two close samples: bool [n, 2], a column a sensor.

        Close are samples at most ``max_gap`` seconds apart, by default five times the sensor's
        median step. The columns are accelerometer and gyroscope.
        """
        columns = []
        for stamps, step in zip((self.accel_time, self.gyro_time), self.median_steps, strict=True):
            largest = GAP_STEPS * step if max_gap is None else max_gap
            first = max(np.searchsorted(stamps, times[0], side="right") - 1, 0)
            last = np.searchsorted(stamps, times[-1]) + 1
            columns.append(_covered(stamps[first:last], times, largest))
        return np.stack(columns, axis=1)

    def window(
        self,
        start: float,
        samples: int = IMU_SAMPLES,
        rate: float = IMU_RATE,
        *,
        min_coverage: float = 0.95,
        max_gap: float | None = None,
    ) -> np.ndarray:
        """Both sensors at ``start + i / rate``, float32 [samples, 6]: accelerometer, gyroscope.

        Linear interpolation between the real time stamps (no low-pass filter). CoverageError where
        a sensor covers less than ``min_coverage`` of the points (see ``covers``); the few that are
        left uncovered are interpolated across the gap or held at the end.
        """
        grid = start + np.arange(samples) / rate
        window = np.empty((samples, 6), np.float32)
        covered = self.covers(grid, max_gap=max_gap)
        sensors = (("accelerometer", self.accel_time, self.accel), ("gyroscope", self.gyro_time, self.gyro))
        for i, (sensor, stamps, values) in enumerate(sensors):
            if (share := covered[:, i].mean()) < min_coverage:
                raise CoverageError(
                    f"the {sensor} covers {share:.1%} of {grid[0]:.3f} to {grid[-1]:.3f} s"
                    f" (at least {min_coverage:.0%} is asked for); {_longest_gap(grid, covered[:, i])}"
                )
            first = max(np.searchsorted(stamps, grid[0], side="right") - 1, 0)
            last = np.searchsorted(stamps, grid[-1]) + 1
            for axis in range(3):
                column = values[first:last, axis]
                window[:, 3 * i + axis] = np.interp(grid, stamps[first:last], column)
        return window


def _covered(stamps: np.ndarray, grid: np.ndarray, max_gap: float) -> np.ndarray:
    """Whether each point of the grid lies between two samples at most ``max_gap`` apart."""
    if len(stamps) < 2:
        return np.zeros(len(grid), bool)
    after = np.clip(np.searchsorted(stamps, grid), 1, len(stamps) - 1)
    before = after - 1
    inside = (stamps[before] <= grid) & (grid <= stamps[after])
    return inside & (stamps[after] - stamps[before] <= max_gap)


def _longest_gap(grid: np.ndarray, covered: np.ndarray) -> str:
    edges = np.flatnonzero(np.diff(np.concatenate(([1], covered, [1])).astype(int)))
    starts, stops = edges[::2], edges[1::2]
    k = np.argmax(stops - starts)
    return f"no samples from {grid[starts[k]]:.3f} to {grid[stops[k] - 1]:.3f} s"


def read_imu(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    zero_accel: bool = False,
) -> Imu:
    """Read an IMU recording: a CSV, a pair of CSVs (accelerometer, gyroscope), or a GoPro video.

    CSV columns, in any order and among others, upper or lower case:

    - EPIC-KITCHENS: ``Milliseconds`` with ``AcclX,AcclY,AcclZ`` and / or ``GyroX,GyroY,GyroZ``
    - Ego4D: ``canonical_timestamp_ms,gyro_x,gyro_y,gyro_z,accl_x,accl_y,accl_z``
    - plain: ``time,ax,ay,az,gx,gy,gz``, the time in seconds

    Rows without a number in a sensor's columns ('', NULL, nan) are no samples of that sensor, rows
    with an absurd time (none, or beyond eleven days) are left out. Samples are sorted by time,
    repeated stamps dropped; axes stay those of the file. Some Ego4D recordings have no
    accelerometer at all: an error, or zeros at the gyroscope's times with ``zero_accel``. All this
    is said in ``.notes``.

    Video telemetry (GPMF) comes in the camera's axes: X to the left, Y to the user, Z up.
    Raises DataError (or VideoError for the video) that names the file.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.suffix.lower() != ".csv":
            return _read_telemetry(path)
        files = [(path, ("accelerometer", "gyroscope"))]
    elif len(source) == 2:
        files = [(Path(source[0]), ("accelerometer",)), (Path(source[1]), ("gyroscope",))]
    else:
        raise DataError(f"an IMU source is one file or a pair of files, not {source!r}")
    samples: list[np.ndarray] = []
    notes: list[str] = []
    for path, sensors in files:
        samples += _read_imu_csv(path, sensors, notes, may_lack_accel=zero_accel)
    accel_time, accel, gyro_time, gyro = samples
    if not len(accel):
        accel_time, accel = gyro_time, np.zeros_like(gyro)
        notes.append("there is no accelerometer; it is set to zero")
    for sensor, values in (("accelerometer", accel), ("gyroscope", gyro)):
        for i, k in ((0, 1), (0, 2), (1, 2)):
            if values.any() and (values[:, i] == values[:, k]).all():
                notes.append(f"the {sensor}'s {'XYZ'[i]} and {'XYZ'[k]} are the same: a faulty export?")
    return Imu(accel_time, accel, gyro_time, gyro, tuple(notes))


_IMU_COLUMNS = (  # time, its unit in seconds, the axes of either sensor; in lower case
    ("milliseconds", 1e-3, {"accelerometer": ("acclx", "accly", "acclz"), "gyroscope": ("gyrox", "gyroy", "gyroz")}),
    (
        "canonical_timestamp_ms",
        1e-3,
        {"accelerometer": ("accl_x", "accl_y", "accl_z"), "gyroscope": ("gyro_x", "gyro_y", "gyro_z")},
    ),
    ("time", 1.0, {"accelerometer": ("ax", "ay", "az"), "gyroscope": ("gx", "gy", "gz")}),
)
_LATEST_STAMP = 1e6  # seconds, eleven days: anything beyond is no time since the video's start


def _read_imu_csv(path: Path, sensors: Sequence[str], notes: list[str], may_lack_accel: bool) -> list[np.ndarray]:
    """Times and values of each sensor asked for; ``notes`` gets a line for what is odd."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            first = file.readline()
            empty = not any(line.strip() for line in file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file: {error}") from error
    header = [name.strip().strip('"').lower() for name in first.split(",")]
    layouts = [layout for layout in _IMU_COLUMNS if layout[0] in header]
    if not layouts:
        known = ", ".join(layout[0] for layout in _IMU_COLUMNS)
        raise DataError(f"{path}: no time column ({known}) in its header {first.strip()!r}")
    time_column, unit, axes = layouts[0]
    columns = [time_column]
    for sensor in sensors:
        if missing := [axis for axis in axes[sensor] if axis not in header]:
            raise DataError(f"{path}: no {sensor} column {', '.join(missing)} in {first.strip()!r}")
        columns += axes[sensor]
    if empty:
        raise DataError(f"{path}: has a header but no samples")
    table = _numbers(path, [header.index(name) for name in columns])
    stamps = table[:, 0] * unit
    timely = np.abs(stamps) < _LATEST_STAMP  # NaN: False
    if absurd := len(timely) - np.count_nonzero(timely):
        notes.append(f"{path.name}: {absurd} of {len(timely)} rows have no usable time")
    if (np.diff(stamps[timely]) < 0).any():
        notes.append(f"{path.name}: the rows are not in the order of their times")
    result = []
    for i, sensor in enumerate(sensors):
        values = table[:, 1 + 3 * i : 4 + 3 * i]
        usable = timely & np.isfinite(values).all(axis=1)
        if 0 < (empty := np.count_nonzero(timely & ~usable)) < np.count_nonzero(timely):
            notes.append(f"{path.name}: {empty} of {len(timely)} rows have no {sensor}")
        found, chosen = np.unique(stamps[usable], return_index=True)
        if repeated := np.count_nonzero(usable) - len(found):
            notes.append(f"{path.name}: {repeated} {sensor} samples repeat a time, and are left out")
        if len(found) < 2 and not (may_lack_accel and sensor == "accelerometer" and not len(found)):
            hint = " (zero_accel would take zeros)" if sensor == "accelerometer" else ""
            raise DataError(f"{path}: {len(found)} usable {sensor} samples in {len(table)} rows{hint}")
        result += [found, np.ascontiguousarray(values[usable][chosen])]
    return result


def _numbers(path: Path, columns: Sequence[int]) -> np.ndarray:
    """These columns of comma-separated numbers, empty cells and NULL as NaN, float64."""

    def parsed(source: Path | io.StringIO) -> np.ndarray:
        return np.loadtxt(
            source,
            delimiter=",",
            usecols=columns,
            ndmin=2,
            comments=None,
            skiprows=1,
            encoding="utf-8-sig",
        )

    try:
        return parsed(path)
    except ValueError:  # looking for empty cells first would take half as long again
        pass
    try:
        text = path.read_text(encoding="utf-8-sig").replace("NULL", "nan").replace("null", "nan")
        return parsed(io.StringIO(re.sub(r"(?m)^(?=,)|(?<=,)(?=,|$)", "nan", text)))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file: {error}") from error
    except ValueError as error:
        # numpy's words name the row, counted from the first one below the header
        raise DataError(f"{path}: {error} (rows counted below the header)") from error


def _read_telemetry(video: Path) -> Imu:
    """The IMU inside a GoPro video."""
    try:  # beside this file, which may lie in any package, or run as a worker of prepare()
        gpmf = importlib.import_module(f"{__package__}.gpmf" if __package__ else "gpmf")
    except ModuleNotFoundError as error:
        raise DataError(f"{video}: to read its telemetry, put gpmf.py beside data.py") from error
    with _open_video(video) as container:
        zero = _zero(container)
        try:
            found = gpmf.read(container)
        except gpmf.GPMFError as error:
            raise DataError(f"{video}: no IMU: {error}") from error
    notes = list(found.broken)
    if found.axes != "XYZ":
        notes.append(f"the axes stay as the camera ({found.device or 'unnamed'}) stores them: it does not name them")
    return Imu(found.accel_time - zero, found.accel, found.gyro_time - zero, found.gyro, tuple(notes))


# --- Video ---------------------------------------------------------------------------------------

_ROUNDING = 1e-6  # seconds: a frame at 1/30 s is on screen at t = 0.0333333
_END_TOLERANCE = 0.1  # seconds for which the last frame may stand in after its own end
_REORDER = 4  # frames held back to sort them: some phones write times out of order
_LOOK_AHEAD = 32  # packets read before they are decoded, to learn in which order they are shown
_UNEVEN = 1.3  # the longest part of a recording that is read in parts, to the mean one
_BLIND_SEEK = 10.0  # seconds ahead from which seeking pays without a table of key frames
# Titles and the like that are not UTF-8 must not make a video unreadable. PyAV 19 always keeps their bytes as surrogate
# escapes, and removed this argument.
_OPEN_OPTIONS = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """Duration (s), mean frames a second, width and height as coded (before rotation), sound."""

    duration: float
    fps: float
    width: int
    height: int
    has_audio: bool


def probe(video: str | os.PathLike) -> VideoInfo:
    """What the header of a video says; nothing is decoded. Raises VideoError."""
    with _open_video(video) as container:
        stream = _video_stream(container, video)
        if stream.duration:
            end = ((stream.start_time or 0) + stream.duration) * stream.time_base
            duration = float(end) - _zero(container)
        elif container.duration:  # Matroska knows the length of the whole file only
            duration = container.duration / 1e6
        else:
            raise VideoError(f"{video}: says nothing about its duration")
        fps, has_audio = float(stream.average_rate or 0), bool(container.streams.audio)
        return VideoInfo(duration, fps, stream.width, stream.height, has_audio)


def read_frames(
    video: str | os.PathLike,
    times: Sequence[float] | np.ndarray,
    size: int | None = None,
    *,
    crop: bool = False,
    exact: bool = True,
    threads: int = 0,
) -> np.ndarray:
    """The frames on screen at ``times`` (seconds, any order), uint8 RGB [n, 3, H, W].

    The frame on screen at t is the last one with time <= t; before the first frame it is the first,
    and the last frame stands until 0.1 s after its own end. With ``exact=False`` it is the key frame
    whose time is nearest to t, of two equally near the earlier: the cheapest frame there is, as it
    is decoded alone. Rotation is applied. ``size`` makes H = W = size, by squeezing the picture or,
    with ``crop``, from its centre square. ``threads`` is the number of threads that decode, 0 for
    one a core: each reads a stretch of the recording, or they share the only one. Broken packets
    are skipped.
    Raises VideoError, with file and time, for a video that cannot be read or a frame that is lost;
    DataError where no times are given.
    """
    times = np.asarray(times, np.float64)
    if not times.size:
        raise DataError(f"{video}: no times were given")
    threads = threads or _cores()
    pictures: list[np.ndarray | None] = [None] * len(times)

    def read(reader: _FrameReader, part: np.ndarray) -> None:
        scaler = _Scaler(size, crop and size is not None)
        for index, frame in reader.frames(times[part], exact=exact, threads=share):
            if frame is None:
                raise VideoError(_lost(video, times[part[index]]))
            pictures[part[index]] = scaler(frame)

    def read_beside(part: np.ndarray) -> None:
        with _open_video(video) as container:
            read(_FrameReader(container, video), part)

    with _open_video(video) as container:
        reader = _FrameReader(container, video)
        first, *others = reader.parts(times, threads)
        share = threads // (1 + len(others))
        with concurrent.futures.ThreadPoolExecutor(len(others) or 1) as pool:
            running = [pool.submit(read_beside, part) for part in others]
            read(reader, first)
            for part in running:
                part.result()
    return np.stack(pictures)


def frames_at(
    video: str | os.PathLike,
    times: Sequence[float] | np.ndarray,
    *,
    exact: bool = True,
    threads: int = 0,
) -> Iterator[tuple[int, av.VideoFrame | None]]:
    """One pass over a video: (index into ``times``, decoded frame) in the order of the times.

    Only a handful of decoded frames is held at once. None in place of a frame that is lost: past
    the end of what can be decoded, or in a stretch of broken packets. ``exact`` as in
    ``read_frames``; ``threads`` help one decoder, 0 for FFmpeg's choice. Raises VideoError.
    """
    with _open_video(video) as container:
        yield from _FrameReader(container, video).frames(times, exact=exact, threads=threads)


def _cores() -> int:
    """Return how many processors this process may use: a container or a scheduler may have given it few."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _FrameReader:
    """Walks through one video, forwards, and decodes as little as the wanted frames allow.

    Packets say when their frames are shown, so what is wanted is known before anything is decoded:
    frames that no other refers to are left out unless they are wanted themselves, the decoder is
    emptied once it has all that a wanted frame needs, and it goes on from the next wanted frame's
    key frame where that one comes later. Times are whole ticks of the stream's clock.
    """

    def __init__(self, container: av.container.InputContainer, video: str | os.PathLike) -> None:
        self.container, self.video = container, video
        self.stream = stream = _video_stream(container, video)
        self.codec, self.zero = stream.codec_context, _zero(container)
        self.second = 1 / float(stream.time_base)
        self.usual = max(1, round(self.second / float(stream.average_rate or 25)))  # a frame's length
        self.can_skip = _tells_unreferenced(self.codec)
        self.blind_seek = _BLIND_SEEK * self.second
        if "matroska" in container.format.name:  # reads its table of key frames when it first seeks
            with contextlib.suppress(av.error.FFmpegError):
                container.seek(0)
        # What others list later on, as they read, is full of holes.
        self.has_table = len(stream.index_entries) > 1
        self._start(container.demux(stream))
        self._look_ahead()
        entries = stream.index_entries  # some list the times of decoding, others those on screen
        listed = len(entries) and self.ahead and self.ahead[0].pts is not None
        self.lag = self.ahead[0].pts - entries[0].timestamp if listed else 0

    def frames(
        self, times: Sequence[float] | np.ndarray, *, exact: bool, threads: int
    ) -> Iterator[tuple[int, av.VideoFrame | None]]:
        """``frames_at`` of this video; a reader can do it once."""
        order = self._sorted(times)
        self.codec.thread_count = threads
        if threads != 1:
            self.codec.thread_type = "AUTO"
        # Emptying the decoder and seeking costs as much as some frames, more where threads wait.
        self.pause = self.usual * max(2, threads or _cores())
        self.ticks = [self._tick(float(times[i])) for i in order]
        yield from zip(order.tolist(), self._exact() if exact else self._nearest(), strict=True)

    def parts(self, times: np.ndarray, count: int) -> list[np.ndarray]:
        """At most ``count`` parts of the times, as indices, with a key frame between any two."""
        order = self._sorted(times)
        keys = [self._key_before(self._tick(t)) or 0 for t in times[order]] if count > 1 else []
        cuts = np.flatnonzero(np.diff(keys)) + 1
        if not len(cuts):
            return [order]
        ends = [round(i * len(order) / count) for i in range(1, count)]
        parts = np.split(order, sorted({int(cuts[np.abs(cuts - end).argmin()]) for end in ends}))
        # With few key frames one part may be most of the work; the threads do better on one decoder.
        return parts if max(map(len, parts)) <= _UNEVEN * len(order) / count else [order]

    def _sorted(self, times: Sequence[float] | np.ndarray) -> np.ndarray:
        if not np.isfinite(times).all():
            raise DataError(f"{self.video}: not every time that was asked for is a number")
        return np.argsort(times, kind="stable")

    def _tick(self, seconds: float) -> int:
        return math.floor((seconds + _ROUNDING + self.zero) / self.stream.time_base)

    def _exact(self) -> Iterator[av.VideoFrame | None]:
        """The frame on screen at each time."""
        for ticks, following in itertools.zip_longest(self.ticks, self.ticks[1:]):
            if ticks >= self.until:
                if self._worth_seeking(ticks):
                    self._seek(ticks)
                self._decode_to(ticks, following)
                for back in (0, self.second):
                    lost = self.wanted not in self.decoded
                    if not (lost and not self._past(ticks)) and not (self.skipped and (lost or self.broken)):
                        break
                    # What stands in for a lost frame, and what a decoder makes up, may lie in one left out.
                    self.can_skip = False
                    self._seek(ticks - back)
                    self._decode_to(ticks, following)
            yield self._shown(ticks)

    def _nearest(self) -> Iterator[av.VideoFrame | None]:
        """The key frame nearest to each time, decoded alone."""
        keys: list[av.Packet] = []
        decoded, frame = None, None
        self.can_skip = False
        for ticks in self.ticks:
            if not keys or ticks >= self.until:
                keys = self._keys_around(ticks)
            key = min(keys, key=lambda packet: abs(packet.pts - ticks), default=None)
            if key is not None and key.pts != decoded:
                self.codec.flush_buffers()
                decoded, self.decoded = key.pts, {}
                self._decode(key)
                self._decode(None)
                frame = next(iter(self.decoded.values()), None)
            yield frame

    def _key_before(self, ticks: int) -> int | None:
        """Where the table says that decoding has to start for this time; None without a table."""
        return self._listed(ticks, backward=True) if self.has_table else None

    def _listed(self, ticks: float, backward: bool) -> int | None:
        """The listed time of the last key frame shown by then, or of the first one shown later."""
        entries = self.stream.index_entries
        place = entries.search_timestamp(math.floor(ticks) - self.lag + (not backward), backward=backward)
        return entries[place].timestamp if place >= 0 and entries[place].is_keyframe else None

    def _start(self, packets: Iterator[av.Packet]) -> None:
        self.packets = packets
        self.ahead: collections.deque[av.Packet] = collections.deque()  # read, not yet decoded
        self.stamps: list[int] = []  # of the packets read, in order, from the wanted frame's on
        self.decoded: dict[int, av.VideoFrame] = {}
        self.position = self.until = -math.inf  # decoded up to there; on screen until then
        self.wanted: int | None = None
        self.ended = self.emptied = self.skipped = self.broken = False

    def _worth_seeking(self, ticks: int) -> bool:
        """Whether going on from a later key frame is cheaper than decoding all that lies between."""
        if self.emptied:
            return bool(self.ahead)  # else the end was reached and all is decoded
        position = self.position
        if position == -math.inf and self.ahead:  # nothing is decoded yet
            position = self.ahead[0].dts or 0
        key = self._key_before(ticks)
        return ticks > position + self.blind_seek if key is None else key > position + self.pause

    def _seek(self, ticks: float) -> None:
        """Go to a key frame that is shown at or before this time."""
        before = self.position
        # Some containers seek by times of decoding: their key frame may be shown too late.
        for back in (0, 1, 4, 16, 64, math.inf):
            start = max(ticks - back * self.second, self._tick(-1))  # before the first frame
            try:
                self.container.seek(math.floor(start), stream=self.stream)
            except av.error.FFmpegError:  # a container that cannot seek: go on decoding
                return
            self._start(self.container.demux(self.stream))
            self._look_ahead()
            while back < math.inf and self.ahead and not self.ahead[0].is_keyframe:
                self.ahead.clear()
                self.stamps.clear()
                self._look_ahead()
            first = self.ahead[0] if self.ahead else None
            if first is not None and first.pts is not None and first.pts <= ticks:
                break
        if self.ahead and (self.ahead[0].dts or 0) <= before:
            self.blind_seek = math.inf  # it has led back: there are few key frames

    def _look_ahead(self) -> None:
        packet = next(self.packets, None)
        if packet is None or not packet.size:
            self.ended = True
            return
        self.ahead.append(packet)
        if packet.pts is not None and not packet.is_discard:
            bisect.insort(self.stamps, packet.pts)

    def _decode_to(self, ticks: int, following: int | None) -> None:
        """Decode until the frame on screen at this time is there, or must be held for lost."""
        while True:
            # No frame is shown before it is decoded; a few more packets for files that break this.
            while not (arrived := self.ended or self._read_past(ticks)) and len(self.ahead) < _LOOK_AHEAD:
                self._look_ahead()
            place = bisect.bisect_right(self.stamps, ticks)
            del self.stamps[: max(place - 1, 0)]
            if arrived:
                self.wanted = self.stamps[0] if self.stamps else None
                if self.wanted in self.decoded:
                    return
                if self.emptied or sum(pts > ticks for pts in self.decoded) > _REORDER:
                    return
            fed = arrived and self.wanted is not None and all(p.pts != self.wanted for p in self.ahead)
            if not self.ahead or (fed and (following is None or self._worth_seeking(following))):
                self._decode(None)
                self.emptied = True
            else:
                self._decode(self.ahead.popleft())
                if not arrived:  # on the way: nothing but the last frame may be of use
                    for pts in sorted(self.decoded)[:-1]:
                        del self.decoded[pts]

    def _read_past(self, ticks: int) -> bool:
        if len(self.ahead) < _REORDER:
            return False
        dts = self.ahead[-_REORDER].dts
        return dts is not None and dts > ticks

    def _decode(self, packet: av.Packet | None) -> None:
        if packet is not None:
            skip = self.can_skip and not self._is_wanted(packet)
            self.codec.skip_frame = "NONREF" if skip else "DEFAULT"
            self.skipped |= skip
            self.position = self.position if packet.dts is None else packet.dts
        try:
            frames = self.codec.decode(packet)
        except av.error.InvalidDataError:
            self.broken = True
            return
        for frame in frames:
            if frame.pts is None:
                raise VideoError(f"{self.video}: its frames carry no times")
            self.broken |= frame.is_corrupt
            self.decoded[frame.pts] = frame

    def _is_wanted(self, packet: av.Packet) -> bool:
        """Whether one of the times lies between this packet's and the next one on screen."""
        if packet.pts is None or packet.pts == self.wanted:
            return True
        after = bisect.bisect_right(self.stamps, packet.pts)
        if after == len(self.stamps):  # the next one is not in sight
            return True
        place = bisect.bisect_left(self.ticks, packet.pts)
        return place < len(self.ticks) and self.ticks[place] < self.stamps[after]

    def _past(self, ticks: int) -> list[int]:
        return [pts for pts in self.decoded if pts <= ticks]

    def _shown(self, ticks: int) -> av.VideoFrame | None:
        past = self._past(ticks)
        pts = max(past, default=min(self.decoded, default=None))
        if pts is None:
            return None
        for earlier in past:
            if earlier != pts:
                del self.decoded[earlier]
        frame = self.decoded[pts]
        if pts == self.wanted and len(self.stamps) > 1:  # it may stand for minutes
            self.until = self.stamps[1]
            return frame
        # The last one, or what comes before a lost one, must not hide what is missing.
        end = pts + (frame.duration or self.usual) + _END_TOLERANCE * self.second
        return frame if ticks <= end else None

    def _keys_around(self, ticks: int) -> list[av.Packet]:
        """The packets of the key frames before and after a time, as many as there are."""
        entries = self.stream.index_entries
        before, after = self._listed(ticks, backward=True), self._listed(ticks, backward=False)
        keys = []
        if self.has_table and (after is not None or ticks <= entries[len(entries) - 1].timestamp + self.lag):
            for listed in (before, after):
                if listed is not None:
                    self.container.seek(listed + self.lag, stream=self.stream)
                    found = filter(_is_key, self.container.demux(self.stream))
                    keys += itertools.islice((key for key in found if key.pts >= listed), 1)
        else:  # no table that reaches there: read on, without decoding
            self._seek(ticks)
            for packet in filter(_is_key, itertools.chain(self.ahead, self.packets)):
                keys = [*keys[-1:], packet]
                if packet.pts > ticks:
                    break
        self.until = keys[-1].pts if keys and keys[-1].pts > ticks else math.inf
        return keys


def _is_key(packet: av.Packet) -> bool:
    return packet.is_keyframe and packet.pts is not None and not packet.is_discard


def _tells_unreferenced(codec: av.VideoCodecContext) -> bool:
    """Whether the decoder can tell which frames no other one refers to.

    In H.264 they are marked. So they are in H.265, but only with regard to their own temporal layer:
    there may be no more than one, which the MP4 and Matroska header says in five bits of byte 21.
    """
    header = codec.extradata or b""
    if codec.name == "hevc":
        return len(header) > 21 and header[0] == 1 and header[21] >> 3 & 7 == 1
    return codec.name == "h264"


class _Scaler:
    """Makes pictures of one size out of decoded frames; its tables are built once."""

    def __init__(self, size: int | None, crop: bool = False) -> None:
        self.size, self.crop, self.reformatter = size, crop, VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """A frame as upright RGB, uint8 [3, H, W]."""
        width, height, size = frame.width, frame.height, self.size
        if size:
            scale = size / min(width, height)
            crop = (round(width * scale), round(height * scale))
            width, height = crop if self.crop else (size, size)
        shrinks = width < frame.width or height < frame.height
        picture = self.reformatter.reformat(
            frame,
            width,
            height,
            "rgb24",
            threads=1,  # more cost more to start than they gain
            interpolation="AREA" if shrinks else "BILINEAR",
        ).to_ndarray()
        if self.crop:
            top, left = (height - size) // 2, (width - size) // 2
            picture = picture[top : top + size, left : left + size]
        picture = np.rot90(picture, round(frame.rotation / 90))
        return np.ascontiguousarray(picture.transpose(2, 0, 1))


def _lost(video: str | os.PathLike, seconds: float) -> str:
    return f"{video}: no frame at {seconds:.3f} s: the video ends before, or its data are broken"


@contextlib.contextmanager
def _open_video(video: str | os.PathLike) -> Iterator[av.container.InputContainer]:
    """An open container that is closed in any case; FFmpeg's errors become VideoErrors."""
    path = Path(video)
    if not path.is_file():
        raise VideoError(f"{video}: " + ("is a folder" if path.is_dir() else "no such file"))
    if not path.stat().st_size:
        raise VideoError(f"{video}: is empty (0 bytes)")
    # torchvision up to 0.25 turns PyAV's logging on when it is imported. Decoder threads then wait for the interpreter
    # lock to log, and can wait for ever.
    av.logging.set_level(None)
    try:
        container = av.open(str(path), **_OPEN_OPTIONS)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(
            f"{video}: cannot be opened: {error.strerror}. It is no video, or was cut off before its index was written"
        ) from error
    with container:
        try:
            yield container
        except av.error.FFmpegError as error:
            raise VideoError(f"{video}: {error.strerror}") from error


def _video_stream(container: av.container.InputContainer, video: str | os.PathLike) -> av.video.stream.VideoStream:
    if not container.streams.video:
        raise VideoError(f"{video}: has no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise VideoError(f"{video}: FFmpeg has no decoder for its video stream")
    _read_only(container, [stream])
    return stream


def _read_only(container: av.container.InputContainer, streams: Sequence[av.stream.Stream]) -> None:
    """Skip the packets of all other streams unread, where PyAV can (from 18 on)."""
    for other in container.streams:
        if other not in streams and hasattr(other, "discard"):
            other.discard = av.stream.Discard.all


def _zero(container: av.container.InputContainer) -> float:
    """Where a player's clock starts: transport streams begin at some other time than zero."""
    return max(0.0, (container.start_time or 0) / 1e6)


# --- Sound ---------------------------------------------------------------------------------------

AUDIO_RATE = 16000  # Hz, mono
AUDIO_SECONDS = 2.0
AUDIO_BANDS = 40
_AUDIO_WINDOW, _AUDIO_HOP = 400, 160  # samples: 25 and 10 ms
_AUDIO_STEPS = round(AUDIO_SECONDS * AUDIO_RATE) // _AUDIO_HOP + 1  # 201
_AUDIO_SKIP = 5.0  # seconds ahead from which seeking pays
_AUDIO_JUMP = 0.02  # seconds by which a frame's time may be off before it counts as a gap


def read_audio(video: str | os.PathLike, starts: Sequence[float], seconds: float = AUDIO_SECONDS) -> np.ndarray:
    """The sound from each of these times on, mono float32 [n, seconds * 16000] between -1 and 1.

    All channels are mixed and resampled to 16 kHz. Raises VideoError, with file and time, for a
    video without sound, or where over a twentieth of a stretch is missing (zeros fill the rest);
    DataError where no times are given.
    """
    result: list[np.ndarray | None] = [None] * len(starts)
    for index, sound in audio_at(video, starts, seconds):
        if sound is None:
            raise VideoError(f"{video}: sound is missing near {starts[index]:.3f} s")
        result[index] = sound
    if not result:
        raise DataError(f"{video}: no times were given")
    return np.stack(result)


def audio_at(
    video: str | os.PathLike, starts: Sequence[float], seconds: float = AUDIO_SECONDS
) -> Iterator[tuple[int, np.ndarray | None]]:
    """One pass over a video's sound: (index into ``starts``, mono float32 samples at 16 kHz).

    In the order of the starts, a stretch at a time; None for one that over a twentieth is missing
    of. Raises VideoError.
    """
    if not np.isfinite(starts).all():
        raise DataError(f"{video}: not every time that was asked for is a number")
    count = round(seconds * AUDIO_RATE)
    with _open_video(video) as container:
        if not container.streams.audio:
            raise VideoError(f"{video}: has no audio")
        stream = container.streams.audio[0]
        _read_only(container, [stream])
        zero = _zero(container)
        pieces = _sound(container, stream, zero)
        held: collections.deque[tuple[int, np.ndarray]] = collections.deque()
        heard = 0  # the sample up to which the sound was decoded
        for index in np.argsort(starts, kind="stable"):
            first = round(float(starts[index]) * AUDIO_RATE)
            if first - heard > _AUDIO_SKIP * AUDIO_RATE:
                ahead = max(0.0, starts[index] - 1.0)  # a decoder needs a moment to settle
                with contextlib.suppress(av.error.FFmpegError):  # a container that cannot seek
                    container.seek(math.floor((ahead + zero) / stream.time_base), stream=stream)
                    pieces = _sound(container, stream, zero)
                    held.clear()
            while held and held[0][0] + len(held[0][1]) <= first:
                held.popleft()
            while heard < first + count and (piece := next(pieces, None)) is not None:
                heard = piece[0] + len(piece[1])
                if heard > first:
                    held.append(piece)
            sound, missing = np.zeros(count, np.float32), np.ones(count, bool)
            for begin, samples in held:
                low, high = max(begin, first), min(begin + len(samples), first + count)
                if low < high:
                    sound[low - first : high - first] = samples[low - begin : high - begin]
                    missing[low - first : high - first] = False
            yield int(index), None if missing.mean() > 0.05 else sound


def _sound(container, stream, zero: float) -> Iterator[tuple[int, np.ndarray]]:
    """Decoded sound from here on: number of the first sample since the video's zero, samples."""
    resampler, anchor, taken, given = None, 0.0, 0.0, 0

    def piece(frames: Sequence[av.AudioFrame]) -> Iterator[tuple[int, np.ndarray]]:
        nonlocal given
        for frame in frames:
            samples = frame.to_ndarray()[0]
            yield round(anchor * AUDIO_RATE) + given, samples
            given += len(samples)

    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            continue  # leaves a gap, which the times of the next frames show
        for frame in frames:
            if frame.pts is None:
                continue
            seconds = float(frame.pts * frame.time_base) - zero
            if resampler is None or abs(seconds - anchor - taken) > _AUDIO_JUMP:
                if resampler is not None:
                    yield from piece(resampler.resample(None))
                resampler = av.AudioResampler(format="flt", layout="mono", rate=AUDIO_RATE)
                anchor, taken, given = seconds, 0.0, 0
            taken += frame.samples / frame.sample_rate
            yield from piece(resampler.resample(frame))
    if resampler is not None:
        yield from piece(resampler.resample(None))


def log_mel(sound: np.ndarray) -> np.ndarray:
    """Sound at 16 kHz [..., n] as ListenToLook hears it: float32 [..., n // 160 + 1, 40].

    Power in 40 triangular mel bands from 0 to 8 kHz, of Hann windows of 400 samples each 160,
    centred (ends mirrored); log(x + 1e-6). The paper's sources leave mel scale (here 2595
    log10(1 + f / 700)), mirrored ends and the 1e-6 open.
    """
    edge = _AUDIO_WINDOW // 2
    padded = np.pad(sound, [(0, 0)] * (sound.ndim - 1) + [(edge, edge)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _AUDIO_WINDOW, axis=-1)
    windows = windows[..., ::_AUDIO_HOP, :] * np.hanning(_AUDIO_WINDOW + 1)[:-1]
    power = np.abs(np.fft.rfft(windows)) ** 2
    return np.log(power @ _mel_bands().T + 1e-6).astype(np.float32)


@functools.cache
def _mel_bands() -> np.ndarray:
    """Weights of the bands over the frequencies of a spectrum, [40, 201]."""
    highest = 2595 * np.log10(1 + AUDIO_RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, AUDIO_BANDS + 2) / 2595) - 1)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    frequencies = np.fft.rfftfreq(_AUDIO_WINDOW, 1 / AUDIO_RATE)
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return np.maximum(0, np.minimum(rising, falling))


# --- Segments -> clips ---------------------------------------------------------------------------


def clip_starts(start: float, stop: float, duration: float, seconds: float = CLIP_SECONDS) -> list[float]:
    """Where the clips lie that cover a segment of a video of ``duration`` seconds.

    ceil(length / seconds) clips, at least one, spread evenly from the segment's start to its end.
    A segment shorter than a clip gets one clip around its centre. Clips that would reach over an
    end of the video are moved inside; in a video shorter than a clip the clip starts at 0.
    Raises DataError for a segment that is empty or lies behind the video's end.
    """
    if not (0 <= start < stop < math.inf and seconds > 0):
        raise DataError(f"{start} to {stop} s cannot be cut into clips of {seconds} s")
    if start >= duration:
        raise DataError(f"the segment starts at {start:.3f} s, the video ends at {duration:.3f} s")
    stop = min(stop, duration)
    count = max(1, math.ceil((stop - start) / seconds - 1e-9))
    if count == 1:
        starts = [(start + stop - seconds) / 2]
    else:
        starts = np.linspace(start, stop - seconds, count).tolist()
    return [max(0.0, min(t, duration - seconds)) for t in starts]


SAMPLING = ("uniform", "random", "first", "last", "centre")
_STEP = 1 / 30  # seconds: the clip's 64 frames, of which the rules but "uniform" choose


def clip_times(
    start: float,
    count: int,
    seconds: float = CLIP_SECONDS,
    *,
    sampling: str = "uniform",
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Times of ``count`` frames of a clip, ascending, by one of the rules of the paper's Table 4.

    "uniform" takes the centres of equal parts of the clip, so 1 is its middle. The others take
    neighbours of a thirtieth of a second: "first", "last" and "centre" from these places of the
    clip, "random" any of its frames, drawn by ``rng``. float64 [count]; DataError for a clip that
    holds fewer, and for another rule.
    """
    if sampling == "uniform":
        return start + (np.arange(count) + 0.5) / count * seconds
    frames = round(seconds / _STEP)
    if sampling not in SAMPLING or count > frames:
        raise DataError(f"cannot sample {count} of {frames} frames by {sampling!r}; rules: {SAMPLING}")
    if sampling == "random":
        chosen = np.sort((rng or np.random.default_rng()).choice(frames, count, replace=False))
    else:
        before = {"first": 0, "centre": (frames - count) / 2, "last": frames - count}[sampling]
        chosen = before + np.arange(count)
    return start + (chosen + 0.5) / frames * seconds


# --- Clips -> store ------------------------------------------------------------------------------

_FORMAT = "egodistill clip store 1"
_MISSING, _OK, _FAILED = 0, 1, 2  # values of status.npy


def prepare(
    segments: Sequence[Segment],
    out: str | os.PathLike,
    *,
    num_frames: int | Sequence[int] = (1,),
    frame_size: int = 224,
    clip_frames: int | None = None,
    clip_size: int = 224,
    imu: bool = True,
    audio: bool = False,
    ends: bool = True,
    sampling: str = "uniform",
    seed: int = 0,
    exact: bool = True,
    min_coverage: float = 0.95,
    zero_accel: bool = False,
    workers: int | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    max_bad: float = 0.1,
    retry_failed: bool = False,
    progress: bool = True,
    class_names: Sequence[str] | None = None,
) -> ClipStore:
    """Decode every clip of ``segments`` once, into the folder ``out``; finish it if it was begun.

    The arrays, a row a clip (see ClipStore):

    - ``frames_N`` uint8 [n, N, 3, frame_size, frame_size] for each N of ``num_frames``, at the
      centres of N equal parts of the clip or by another rule of ``clip_times`` (``seed`` is that of
      "random"); squeezed to the square, as in the paper. Without ``exact`` these and the ends are
      the nearest key frames, which cost far less
    - ``ends`` uint8 [n, 2, 3, frame_size, frame_size]: the frames at the clip's start and end
    - ``clip`` uint8 [n, clip_frames, 3, clip_size, clip_size], for video teachers, which want an
      undistorted picture: its centre square
    - ``imu`` float32 [n, 422, 6]: accelerometer in m/s2, gyroscope in rad/s, gravity included. A
      clip of which a sensor covers less than ``min_coverage`` fails; ``zero_accel`` is read_imu's
    - ``audio`` float32 [n, 201, 40]: log mel bands of the clip's middle two seconds, see log_mel

    ``workers`` processes read a video each (None: one a core, 1: all in this process). A call
    that was killed at any moment goes on where it stopped when it is made again. A clip that cannot
    be read is recorded with its reason in ``failures.jsonl`` and left alone until ``retry_failed``.

    Several machines share the work over a common folder: each call reads the recordings of its
    ``rank`` of ``world_size`` (None: as RANK and WORLD_SIZE in the environment say, else all). They
    need not know each other, and may begin at any time; what one that died leaves undone is done
    when it is started again.

    ``class_names`` fixes the order of the classes (default: the labels, sorted).

    Raises DataError where ``out`` holds something else, a label is not among ``class_names``, the
    disk is too small, or, once all is done, more than the share ``max_bad`` of the clips failed.
    """
    segments = list(segments)
    counts = [num_frames] if isinstance(num_frames, int) else sorted(set(num_frames))
    settings = {
        "num_frames": counts,
        "frame_size": frame_size,
        "clip_frames": clip_frames,
        "clip_size": clip_size,
        "imu": imu,
        "audio": audio,
        "ends": ends,
        "sampling": sampling,
        "seed": seed if sampling == "random" else None,
        "exact": exact,
        "min_coverage": min_coverage,
        "zero_accel": zero_accel,
        "clip_seconds": CLIP_SECONDS,
        "imu_rate": IMU_RATE,
        "imu_samples": IMU_SAMPLES,
    }
    if not segments:
        raise DataError("there are no segments to prepare")
    if min(*counts, frame_size, clip_frames or 1, clip_size) < 1:
        raise DataError(f"frame counts and sizes must be at least 1: {settings}")
    for count in counts:  # says so now, and not for each clip, where the rule does not fit
        clip_times(0.0, count, sampling=sampling)
    names = _class_names(segments, class_names)
    workers = workers or files.available_cores()
    rank, world_size = files.job_share(rank, world_size)
    path = Path(out)
    _refuse_strangers(path, settings)
    path.mkdir(parents=True, exist_ok=True)
    with files.lock(path / "store.lock"):  # one creates it, the others wait and find it
        if (path / "store.json").exists():
            _check_same(path, segments, settings, names)
        else:
            _create(path, segments, settings, names, workers)

    store = ClipStore(path, _unfinished=True)
    status = store._map("status", "r+")
    recordings = collections.defaultdict(list)  # the clips of each
    for row, clip in enumerate(store._clips):
        segment = store._segments[clip["segment"]]
        clock = segment.imu_offset, segment.imu_stretch
        recordings[segment.video, segment.imu, clock].append(row)
    # Shares are of all recordings, so that they do not depend on how far the others have come.
    share = [np.array(rows) for rows in list(recordings.values())[rank::world_size]]
    if retry_failed:
        for rows in share:
            status[rows[status[rows] == _FAILED]] = _MISSING
    jobs = [rows[status[rows] == _MISSING].tolist() for rows in share]
    by_size = sorted(filter(None, jobs), key=len, reverse=True)  # the longest must not come last
    with _Progress(status, progress):
        if min(workers, len(by_size)) > 1:
            _fill_in_processes(store, by_size, min(workers, len(by_size)))
        else:
            for rows in by_size:
                collections.deque(_fill(store, rows), maxlen=0)

    store = ClipStore(path, _unfinished=True)
    failures = store.failures
    if failures:
        share = len(failures) / len(status)
        text = (
            f"{len(failures)} of {len(status)} clips ({share:.1%}) could not be prepared, "
            f"the reasons are in {path / 'failures.jsonl'}. The first: {failures[0]['reason']}"
        )
        if share > max_bad:
            raise DataError(f"{text}. That is over max_bad = {max_bad:.1%}; the others are kept.")
        warnings.warn(text, stacklevel=2)
    return store


def _class_names(segments: Sequence[Segment], class_names: Sequence[str] | None) -> list[str]:
    labels = {segment.label for segment in segments if segment.label is not None}
    names = sorted(labels) if class_names is None else list(class_names)
    if len(set(names)) < len(names):
        raise DataError("class_names holds a name twice")
    if unknown := sorted(labels - set(names)):
        raise DataError(f"the label {unknown[0]!r} is not among the {len(names)} class_names")
    return names


def _create(path: Path, segments: list[Segment], settings: dict, class_names: list[str], workers: int) -> None:
    """Lay the store out on disk, all clips missing. Its header comes last: with it, it exists."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        videos = sorted({segment.video for segment in segments})
        durations = dict(zip(videos, pool.map(_duration, videos), strict=True))
    clips = []
    for i, segment in enumerate(segments):
        try:
            starts = clip_starts(segment.start, segment.stop, durations[segment.video])
        except DataError:  # one clip, which will fail with this reason
            starts = clip_starts(segment.start, segment.stop, math.inf)
        clips += [{"segment": i, "start": start} for start in starts]

    arrays = _arrays(settings, len(clips))
    entries = {name: {"file": f"{name}.npy", "dtype": dtype, "shape": shape} for name, (dtype, shape) in arrays.items()}
    for entry in entries.values():  # what a call that was killed here has left
        (path / entry["file"]).unlink(missing_ok=True)
    needed = sum(math.prod(shape) * np.dtype(dtype).itemsize for dtype, shape in arrays.values())
    free = shutil.disk_usage(path).free
    if needed > free:
        raise DataError(f"{path}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
    for entry in entries.values():
        _allocate(path, entry)
    of_class = {name: i for i, name in enumerate(class_names)}
    of_segment = np.array([clip["segment"] for clip in clips])
    np.lib.format.open_memmap(path / "segment.npy", "r+")[:] = of_segment
    labels = np.array([of_class.get(segment.label, -1) for segment in segments])
    np.lib.format.open_memmap(path / "label.npy", "r+")[:] = labels[of_segment]
    files.write_json(path / "segments.json", [dataclasses.asdict(segment) for segment in segments])
    files.write_json(path / "clips.json", clips)
    header = {"format": _FORMAT, "settings": settings, "class_names": class_names}
    files.write_json(path / "store.json", header | {"arrays": entries})


def _arrays(settings: dict, n: int) -> dict[str, tuple[str, list[int]]]:
    """Dtype and shape of each array of a store of ``n`` clips."""
    size, clip_size = settings["frame_size"], settings["clip_size"]
    arrays = {"status": ("uint8", [n]), "label": ("int64", [n]), "segment": ("int64", [n])}
    for count in settings["num_frames"]:
        arrays[f"frames_{count}"] = ("uint8", [n, count, 3, size, size])
    if settings["ends"]:
        arrays["ends"] = ("uint8", [n, 2, 3, size, size])
    if settings["clip_frames"]:
        arrays["clip"] = ("uint8", [n, settings["clip_frames"], 3, clip_size, clip_size])
    if settings["imu"]:
        arrays["imu"] = ("float32", [n, settings["imu_samples"], 6])
    if settings["audio"]:
        arrays["audio"] = ("float32", [n, _AUDIO_STEPS, AUDIO_BANDS])
    return arrays


def _refuse_strangers(path: Path, settings: dict) -> None:
    """A store begins in a folder of its own, or where one was begun that is like it."""
    ours = {f"{name}.npy" for name in _arrays(settings, 0)}
    ours |= {"segments.json", "clips.json", "store.lock", "store.json"}
    for file in path.iterdir() if path.exists() else ():
        strange = file.name not in ours and not file.name.startswith(".")
        if strange and not files.is_system_file(file.name) and not (path / "store.json").exists():
            raise DataError(f"{path}: holds {file.name} but no store.json; give an empty folder")


def _duration(video: str) -> float:
    try:
        return probe(video).duration
    except VideoError:  # reported when its clips are read
        return math.inf


def _check_same(path: Path, segments: list[Segment], settings: dict, class_names: list[str]) -> None:
    """Refuse to continue a store that was made from something else, and say what differs."""
    old = ClipStore(path, _unfinished=True)
    before = old.settings | {"segments": len(old._segments), "class_names": old.class_names}
    now = settings | {"segments": len(segments), "class_names": class_names}
    for i, (one, other) in enumerate(zip(old._segments, segments, strict=False)):
        if one != other:
            before[f"segment {i}"], now[f"segment {i}"] = dataclasses.asdict(one), dataclasses.asdict(other)
            break
    files.require_same_run(path, before, now, f"Give another folder, or delete {path} to begin anew.")


def _fill(store: ClipStore, rows: Sequence[int]) -> Iterator[int]:
    """Read the clips of one recording and yield each row once it is settled: written, or failed."""
    settings = store.settings
    segments = {row: store._segments[store._clips[row]["segment"]] for row in rows}
    starts = {row: store._clips[row]["start"] for row in rows}
    status = store._map("status", "r+")

    first = segments[rows[0]]
    video, source, recording = first.video, first.imu, None
    try:
        info = probe(video)
        duration = info.duration
        if settings["imu"]:
            recording = read_imu(source or video, zero_accel=settings["zero_accel"])
            recording = recording.on_clock(first.imu_offset, first.imu_stretch)
            _note(store, source or video, recording.notes)
        if settings["audio"] and not info.has_audio:
            raise VideoError(f"{video}: has no audio")
    except (DataError, VideoError) as error:
        for row in rows:
            yield _fail(store, row, error)
        return

    # What to read: (time, row, array, place in the row). A clip that is longer than its video ends
    # with the last frame.
    wanted, left = [], collections.Counter()
    sampling = settings["sampling"]
    for row in rows:
        try:
            if segments[row].start >= duration:
                raise DataError(f"{video}: ends at {duration:.3f} s, before the segment begins")
            if recording is not None:
                store._map("imu", "r+")[row] = recording.window(starts[row], min_coverage=settings["min_coverage"])
        except CoverageError as error:
            yield _fail(store, row, f"{source or video}: {error}")
            continue
        except DataError as error:
            yield _fail(store, row, error)
            continue
        rng = np.random.default_rng([settings["seed"] or 0, row])
        times = {f"frames_{n}": clip_times(starts[row], n, sampling=sampling, rng=rng) for n in settings["num_frames"]}
        if settings["ends"]:
            times["ends"] = [starts[row], starts[row] + CLIP_SECONDS]
        if settings["clip_frames"]:
            times["clip"] = clip_times(starts[row], settings["clip_frames"])
        for name in times:
            wanted += [(min(t, duration), row, name, k) for k, t in enumerate(times[name])]
            left[row] += len(times[name])
        left[row] += settings["audio"]
        if not left[row]:  # a store of IMU windows alone
            status[row] = _OK
            yield row

    # One pass over the video; each frame is written where it belongs as soon as it is decoded.
    def written(row: int) -> bool:
        """One more part of the row is written; was it the last?"""
        left[row] -= 1
        if left[row]:
            return False
        del left[row]
        status[row] = _OK  # the data first, then the status
        return True

    squeezed, cropped = _Scaler(settings["frame_size"]), _Scaler(settings["clip_size"], crop=True)
    try:
        if settings["audio"]:
            heard = list(left)
            begins = [starts[row] + (CLIP_SECONDS - AUDIO_SECONDS) / 2 for row in heard]
            for index, sound in audio_at(video, begins):
                row = heard[index]
                if sound is None:
                    del left[row]
                    yield _fail(store, row, f"{video}: sound is missing near {begins[index]:.3f} s")
                    continue
                store._map("audio", "r+")[row] = log_mel(sound)
                if written(row):
                    yield row
        # A teacher's clip is of exact frames in any case.
        for exact in (True, False):
            chosen = [want for want in wanted if (settings["exact"] or want[2] == "clip") is exact]
            times = [seconds for seconds, *_ in chosen]
            for index, frame in frames_at(video, times, exact=exact, threads=1) if chosen else ():
                seconds, row, name, k = chosen[index]
                if row not in left:  # failed before
                    continue
                if frame is None:
                    del left[row]
                    yield _fail(store, row, _lost(video, seconds))
                    continue
                # Each frame is written where it belongs as soon as it is decoded.
                picture = (cropped if name == "clip" else squeezed)(frame)
                store._map(name, "r+")[row, k] = picture
                if written(row):
                    yield row
    except VideoError as error:
        for row in left:
            yield _fail(store, row, error)


def _note(store: ClipStore, source: str | tuple[str, str], notes: Sequence[str]) -> None:
    """Keep what is odd about an IMU recording for whoever looks at the store."""
    if notes:
        files.append_line(store.path / "notes.jsonl", {"imu": source, "notes": list(notes)})


def _fail(store: ClipStore, row: int, reason: Exception | str) -> int:
    """Record why a clip cannot be prepared: first the reason, then the status."""
    if store._map("status")[row] == _OK:  # by another process, meanwhile
        return row
    line = {"clip": row, **store._clip(row), "status": "failed", "reason": str(reason)}
    files.append_line(store.path / "failures.jsonl", line)
    store._map("status", "r+")[row] = _FAILED
    return row


def _fill_in_processes(store: ClipStore, jobs: Sequence[list[int]], workers: int) -> None:
    """Have ``_fill`` done by ``workers`` processes at a time, each for a bundle of recordings.

    A process imports this module and calls ``serve()``: a caller needs no ``__main__`` guard, no
    lock is forked, and a decoder that crashes costs one recording. All they say to each other lies
    in the store.
    """
    size = max(1, len(jobs) // (8 * workers))  # small enough to spread, large enough to start for
    bundles = queue.SimpleQueue()
    for i in range(0, len(jobs), size):
        bundles.put(list(jobs[i : i + size]))
    status = store._map("status", "r+")
    running: set[subprocess.Popen] = set()
    ended = threading.Event()

    def work() -> None:
        if hasattr(signal, "pthread_sigmask"):  # The processes inherit this: Ctrl-C is the parent's business.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        while not ended.is_set():
            try:
                bundle = bundles.get_nowait()
            except queue.Empty:
                return
            command = [sys.executable, "-c", _WORKER, _package_root(), str(store.path)]
            # On Windows a group of its own keeps Ctrl-C from the process, as the signal mask does elsewhere.
            group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
            process = subprocess.Popen(command, stdin=subprocess.PIPE, encoding="utf-8", creationflags=group)
            running.add(process)
            # The pipe stays open until the process has ended: to the process, its end means that this one has died.
            with contextlib.suppress(OSError):  # It crashed before it read its rows; its exit code is judged below.
                print(json.dumps(bundle), file=process.stdin, flush=True)
            process.wait()
            with contextlib.suppress(OSError):
                process.stdin.close()
            running.discard(process)
            left = [rows for rows in bundle if (status[rows] == _MISSING).any()]
            if not left or ended.is_set():
                continue
            video = store._segments[store._clips[left[0][0]]["segment"]].video
            if process.returncode not in _CRASHES:
                raise DataError(
                    f"the process that read {video} ended with code {process.returncode} "
                    f"({_ENDS.get(process.returncode, 'what it said stands above')}); what is done "
                    "is kept, the same call goes on"
                )
            for row in left[0]:
                if status[row] == _MISSING:
                    _fail(store, row, f"{video}: crashed the decoder (code {process.returncode})")
            if left[1:]:
                bundles.put(left[1:])

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            futures = [pool.submit(work) for _ in range(workers)]
            for future in concurrent.futures.as_completed(futures):
                future.result()
        finally:
            ended.set()
            for process in list(running):
                process.kill()


# What a decoder does to its process when it meets data it was not written for. Other ends, such as
# a scheduler's SIGTERM, say nothing about the video.
_CRASHES = {-getattr(signal, name, 0) for name in ("SIGSEGV", "SIGABRT", "SIGFPE", "SIGILL")} - {0}
# The same on Windows: access violation, division by zero, illegal instruction, heap corruption, stack overrun, abort().
_CRASHES |= {0xC0000005, 0xC0000094, 0xC000001D, 0xC0000374, 0xC0000409, 3}
_ENDS = {
    -9: "killed, perhaps for want of memory",
    -getattr(signal, "SIGBUS", 7): "perhaps for want of room on the disk",
}


# The package is found where this process found it, and nothing else there comes before the standard library.
_WORKER = (
    "import sys; sys.path[0] = sys.argv[1]; import egodistill; sys.path.append(sys.path.pop(0)); "
    "from egodistill import data; data.serve(sys.argv[2])"
)


def _package_root() -> str:
    """Return the folder in which Python finds the package: a checkout, or the one that an install filled."""
    folder = Path(os.path.abspath(__file__)).parent
    return str(folder if (folder / "egodistill.py").is_file() else folder.parent)


def serve(path: str) -> None:
    """Run as a process of prepare(): settle the clips of the recordings whose rows are the first line on stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be held back, see work()
    faulthandler.enable()  # what crashes a decoder is named by its line
    jobs = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        store = ClipStore(path, _unfinished=True)
        for rows in jobs:
            collections.deque(_fill(store, rows), maxlen=0)
    except (DataError, OSError) as error:
        sys.exit(f"prepare: {error}")


def _end_with_parent() -> None:
    """End this process when the other end of stdin closes: its parent has died, and may have been started again.

    The parent's process number is no sign of that: Windows keeps the number of a dead parent.
    """
    os.read(0, 1)
    os._exit(1)


class _Progress:
    """Shows how many clips are settled, by whatever process, while a `with` block runs."""

    def __init__(self, status: np.ndarray, show: bool) -> None:
        self.status, self.missing = status, np.count_nonzero(status == _MISSING)
        self.bar = files.Progress("prepare", self.missing, show=show and self.missing > 0)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        with self.bar:
            while not self.ended.wait(0.5):
                self.bar.update(self._settled())
            self.bar.update(self._settled())

    def _settled(self) -> int:
        return int(self.missing - np.count_nonzero(self.status == _MISSING))


# --- The store -----------------------------------------------------------------------------------


class ClipStore:
    """A folder of ``.npy`` arrays with one row a clip, and views of it.

    - ``store.json``: settings, class names, and file, dtype and shape of every array
    - ``segments.json``, ``clips.json``: the segments, and segment and start of every clip
    - ``status.npy`` (0 missing, 1 ok, 2 failed), ``failures.jsonl``: the reasons
    - ``notes.jsonl``: what is odd about the IMU recordings, where anything is
    - ``label.npy`` (-1: none), ``segment.npy``, and the arrays that ``prepare`` lists
    - arrays of ``add``, such as teacher outputs, each with a ``.done.npy`` that marks its rows

    A view shows the usable clips only, of one split or of all; indices count within the view, and
    ``len()`` is their number. ``path`` is the folder, ``class_names`` the C names that labels count
    in, ``settings`` what ``prepare`` was told.
    Raises DataError, with the file, for a folder that is no store or an array that is damaged.
    """

    def __init__(self, path: str | os.PathLike, *, _unfinished: bool = False) -> None:
        self.path = Path(path)
        self._maps: dict[tuple[str, str], np.ndarray] = {}
        header = files.read_json(self.path / "store.json")
        form = header.get("format") if isinstance(header, dict) else None
        if form != _FORMAT:
            text = f"{self.path / 'store.json'}: is not the header of a clip store"
            if str(form).startswith(_FORMAT.rstrip("0123456789")):
                text = (
                    f"{self.path}: is an {form!r}, made by another version of this library; this "
                    f"one reads {_FORMAT!r}. Use that version, or prepare another folder"
                )
            raise DataError(text)
        try:
            self.settings: dict = header["settings"]
            self.class_names: list[str] = header["class_names"]
            self._arrays: dict[str, dict] = header["arrays"]
            self._segments = [Segment(**s) for s in files.read_json(self.path / "segments.json")]
            self._clips: list[dict] = files.read_json(self.path / "clips.json")
            of_segment = np.array([clip["segment"] for clip in self._clips])
            for name in self._arrays:
                self._map(name)
            fits = np.array_equal(of_segment, self._map("segment"))
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{self.path}: its JSON files are damaged, or made by another version of "
                f"this library ({type(error).__name__}: {error})"
            ) from error
        if not fits:
            raise DataError(
                f"{self.path}: clips.json is not of the same clips as segment.npy; were files of two stores mixed?"
            )
        status = self._map("status")
        self._rows = np.flatnonzero(status == _OK)
        if not _unfinished and (missing := np.count_nonzero(status == _MISSING)):
            text = f"{self.path}: {missing} of {len(status)} clips are not prepared yet"
            warnings.warn(f"{text}; the same call of prepare() goes on with them", stacklevel=2)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"ClipStore({str(self.path)!r}, {len(self)} clips, {', '.join(self.names)})"

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_maps": {}}  # a copy in another process maps the files itself

    @property
    def names(self) -> list[str]:
        """The arrays that ``read`` knows, bookkeeping left out."""
        return [
            name for name in self._arrays if name not in ("status", "label", "segment") and not name.endswith(".done")
        ]

    @property
    def labels(self) -> np.ndarray:
        """Index into ``class_names`` of each clip, int64; -1 where there is no label."""
        return self._map("label")[self._rows]

    @property
    def segments(self) -> np.ndarray:
        """Index of the segment that each clip belongs to, int64."""
        return self._map("segment")[self._rows]

    @property
    def clips(self) -> list[dict]:
        """What each clip is: segment id, video, start and stop (s), label, split, status."""
        return [self._clip(row) for row in self._rows]

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """How many clips of each split are "ok", "failed" and still "missing", in the whole folder."""
        status = np.load(self.path / "status.npy", allow_pickle=False)  # as it is now
        counts: dict[str, dict[str, int]] = {}
        for clip, value in zip(self._clips, status, strict=True):
            split = self._segments[clip["segment"]].split
            of_split = counts.setdefault(split, {"ok": 0, "failed": 0, "missing": 0})
            of_split[("missing", "ok", "failed")[value]] += 1
        return counts

    @property
    def failures(self) -> list[dict]:
        """Clips of the whole folder that could not be prepared, each with its reason."""
        lines = files.read_lines(self.path / "failures.jsonl")
        reasons = {line["clip"]: line["reason"] for line in lines}
        rows = np.flatnonzero(self._map("status") == _FAILED).tolist()
        return [{"clip": k, **self._clip(k), "reason": reasons.get(k, "unknown")} for k in rows]

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
        return sorted({self._segments[i].split for i in self.segments})

    def split(self, name: str) -> ClipStore:
        """A view of the same folder with the clips of this split only; DataError where it has none."""
        if name not in self.splits:
            raise DataError(f"{self.path}: no usable clip of split {name!r}, only of {self.splits}")
        view = copy.copy(self)
        chosen = [self._segments[i].split == name for i in self.segments]
        view._rows = self._rows[np.array(chosen)]
        view._maps = self._maps
        return view

    def read(self, name: str, index) -> np.ndarray:
        """A fresh copy of these rows of an array; ``index`` as numpy takes it, of view rows.

        DataError for a name that is not there, or rows that are not written yet.
        """
        rows = self._rows[index]
        if f"{name}.done" in self._arrays and not self._map(f"{name}.done")[rows].all():
            raise DataError(f"{self.path}: {name} is not written yet for all the clips asked for")
        return np.take(self._map(name), rows, axis=0)

    def add(self, name: str, shape: Sequence[int], dtype) -> None:
        """Make room for an array of ``shape`` a clip, or find the one there is.

        Any number of processes may do so at a time, and ``write`` to it. DataError where the one
        there is has another shape or dtype, or where ``name`` can be no file's on Windows or macOS.
        """
        if not re.fullmatch(r"\w[\w.-]*", name) or name.lower().endswith(".done"):
            raise DataError(f"{name!r} cannot be the name of an array")
        if name.split(".")[0].upper() in _DEVICES:
            raise DataError(f"{name!r} cannot be the name of an array: Windows keeps it for a device")
        with files.lock(self.path / "store.lock"):
            self._add(name, shape, dtype)

    def _add(self, name: str, shape: Sequence[int], dtype) -> None:
        header = files.read_json(self.path / "store.json")
        arrays = header["arrays"]
        n = len(self._clips)
        new = {"file": f"{name}.npy", "dtype": np.dtype(dtype).name, "shape": [n, *map(int, shape)]}
        if twins := [other for other in arrays if other != name and other.casefold() == name.casefold()]:
            raise DataError(f"{self.path}: has {twins[0]} already; Windows and macOS cannot tell a file {name} from it")
        if name not in arrays:
            done = {"file": f"{name}.done.npy", "dtype": "uint8", "shape": [n]}
            for entry in (new, done):
                _allocate(self.path, entry)
            arrays |= {name: new, f"{name}.done": done}
            files.write_json(self.path / "store.json", header)
        elif arrays[name] != new or f"{name}.done" not in arrays:
            raise DataError(f"{self.path}: has {name} already, as {arrays[name]} and not {new}")
        self._arrays.update(arrays)

    def write(self, name: str, index, values: np.ndarray) -> None:
        """Write these rows of an array made by ``add``, then mark them done.

        ``values`` are [rows, *shape]; DataError for another shape, or an array of ``prepare``.
        """
        if f"{name}.done" not in self._arrays:
            raise DataError(f"{self.path}: {name} was not made by add(), it cannot be written")
        array, rows, values = self._map(name, "r+"), self._rows[index], np.asarray(values)
        if values.shape != (*rows.shape, *array.shape[1:]) or not np.can_cast(values.dtype, array.dtype, "same_kind"):
            raise DataError(
                f"{self.path}: {name} takes {array.dtype} {(*rows.shape, *array.shape[1:])}, "
                f"not {values.dtype} {values.shape}"
            )
        array[rows] = values
        self._map(f"{name}.done", "r+")[rows] = 1

    def done(self, name: str) -> np.ndarray:
        """Whether each clip's row of an array is written, bool [len]."""
        if f"{name}.done" in self._arrays:
            return self._map(f"{name}.done")[self._rows] != 0
        self._map(name)
        return np.ones(len(self), bool)  # prepare's arrays: the view holds finished clips only

    def _clip(self, row: int) -> dict:
        segment, start = self._segments[self._clips[row]["segment"]], self._clips[row]["start"]
        status = ("missing", "ok", "failed")[self._map("status")[row]]
        return {
            "id": segment.id,
            "video": segment.video,
            "start": start,
            "stop": start + self.settings["clip_seconds"],
            "label": segment.label,
            "split": segment.split,
            "status": status,
        }

    def _map(self, name: str, mode: str = "r") -> np.ndarray:
        """An array's file in memory, shared with all processes that map it."""
        if (name, mode) not in self._maps:
            if name not in self._arrays:
                raise DataError(f"{self.path}: has no array {name!r}, only {', '.join(self.names)}")
            entry = self._arrays[name]
            file = self.path / entry["file"]
            try:
                array = np.load(file, mmap_mode=mode, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise DataError(f"{file}: missing or cut off: {error}") from error
            if array.dtype != entry["dtype"] or list(array.shape) != entry["shape"]:
                raise DataError(f"{file}: is {array.dtype} {array.shape}, not {entry} (store.json)")
            self._maps[name, mode] = array.view(np.ndarray)
        return self._maps[name, mode]


# Names that no file on Windows can have, whatever its suffix.
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in "0123456789¹²³")}


def _allocate(path: Path, entry: dict) -> None:
    """An array of zeros in its final size; its name appears once the file is whole.

    Its room on the disk is taken now: once the disk is full, writing to a mapped file whose room
    is still to be found kills the process (SIGBUS). Only macOS and Windows cannot say so beforehand.
    """
    shape, dtype = tuple(entry["shape"]), np.dtype(entry["dtype"])
    files.remove_parts(path / entry["file"])
    with files.atomic_write(path / entry["file"]) as partial:
        np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with open(partial, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
