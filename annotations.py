"""Annotations of a data set -> segments of its videos, with the IMU files that belong to them.

    from egodistill import annotations

    segments = annotations.read_annotations("EPIC_100_train.csv", "/videos/EPIC-KITCHENS")  # tells formats apart
    print(len(segments), segments[0].label, segments.dropped)       # what was left out, and why
    segments = annotations.with_imu_offsets(segments, "offsets.csv")                        # of `egodistill check`

A *segment* is an annotated stretch of a video. Readers: `read_epic_kitchens`, `read_ego4d`, and `read_csv` for a table
of your own. Times are seconds on the video's own clock, the one a player shows: zero is where the file starts.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from egodistill import DataError
from egodistill.clips import Recording
from egodistill.video import VideoError

__all__ = [
    "Segment",
    "SegmentList",
    "read_annotations",
    "read_csv",
    "read_ego4d",
    "read_epic_kitchens",
    "with_imu_offsets",
]


@dataclasses.dataclass(frozen=True)
class Segment:
    """An annotated stretch of a recording, ``start`` to ``stop`` in seconds.

    ``video``, ``imu``, ``imu_offset``, ``imu_stretch`` and ``wearer`` are those of ``recording``:
    flat here, as in a row of a table.
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

    def __post_init__(self) -> None:  # paths and numpy numbers are welcome; a store holds JSON
        own = self.recording
        plain = {name: getattr(own, name) for name in ("video", "imu", "imu_offset", "imu_stretch")}
        for name, value in {**plain, "start": float(self.start), "stop": float(self.stop)}.items():
            object.__setattr__(self, name, value)

    @property
    def recording(self) -> Recording:
        """The recording that this is a stretch of."""
        return Recording(self.video, self.imu, self.imu_offset, self.imu_stretch, self.wearer)


class SegmentList(list):
    """A list of segments that also says what its reader left out: ``dropped``, reason -> rows."""

    def __init__(self, segments: Iterable[Segment] = (), dropped: dict[str, int] | None = None):
        super().__init__(segments)
        self.dropped = dict(dropped or {})


def read_annotations(
    annotations: str | os.PathLike,
    root: str | os.PathLike | None = None,
    *,
    seed: int = 0,
    min_instances: int | None = None,
    audio: bool = False,
) -> SegmentList:
    """Read any kind of annotations; their suffix and header tell which: Ego4D's, EPIC-KITCHENS' or a table of your own.

    ``root`` is the folder of the data set's videos and IMU files, by default that of the annotations. ``seed`` is that
    of Ego4D's split. ``min_instances`` (None: the reader's own default) and ``audio`` are for the two data sets.
    Raise DataError for a table of your own with ``min_instances``.
    """
    path, folder = Path(annotations), root or Path(annotations).parent
    options: dict[str, Any] = {"audio": audio}
    if min_instances is not None:
        options["min_instances"] = min_instances
    if path.suffix.lower() == ".json":
        return read_ego4d(path, folder, seed=seed, **options)
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
            header = file.readline()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if "narration_id" in header:
        return read_epic_kitchens(path, folder, **options)
    if min_instances is not None:
        raise DataError(f"{path}: min_instances is for public data sets; take rare classes out of your own table")
    return read_csv(path)


def read_epic_kitchens(
    annotations: str | os.PathLike,
    root: str | os.PathLike,
    *,
    split: str = "wearer",
    evaluation_wearers: Sequence[str] = ("P30", "P35", "P37"),
    min_instances: int = 1,
    audio: bool = False,
) -> SegmentList:
    """Read the verb segments of an EPIC-KITCHENS-100 table whose videos have IMU files under ``root``.

    Videos are ``<root>/<Pxx>/videos/<video_id>.MP4``, their IMU
    ``<root>/<Pxx>/meta_data/<video_id>-accl.csv`` and ``-gyro.csv``. All videos with IMU that have
    labels are in EPIC_100_train.csv, so the paper's evaluation wearers are split off from it here:
    with ``split="wearer"`` segments of ``evaluation_wearers`` get split "test", all others "train".
    Any other word becomes the split of all. ``audio`` leaves out videos that have no sound.

    The label is the verb class' key in EPIC_100_verb_classes.csv if that is beside the table,
    else the class' commonest verb in the table. Classes with fewer than ``min_instances`` segments
    are dropped. ``.dropped`` of the result counts what was left out.
    Raise DataError, with file and row, for a table that cannot be read.
    """
    annotations, root = Path(annotations), Path(root)
    dropped: collections.Counter[str] = collections.Counter()
    spellings: dict[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    lacks: dict[str, str | None] = {}  # video -> why it cannot be used
    found: list[tuple[int, Segment]] = []
    for where, row in _table(annotations, EPIC_COLUMNS):
        verb_class, segment = _epic_segment(where, row, root)
        spellings[verb_class][row["verb"]] += 1
        if segment.video not in lacks:
            lacks[segment.video] = _epic_problem(segment, audio)
        if reason := lacks[segment.video]:
            dropped[reason] += 1
            continue
        part = split if split != "wearer" else "test" if row["participant_id"] in evaluation_wearers else "train"
        found.append((verb_class, dataclasses.replace(segment, split=part)))
    if not found:
        hint = ""
        if "validation" in annotations.name:
            hint = (
                " No video of the official validation split has IMU: "
                "the paper's train and evaluation videos are all in EPIC_100_train.csv."
            )
        needed = "sound and IMU files" if audio else "IMU files"
        raise DataError(
            f"{annotations}: none of its {len(lacks)} videos has {needed} "
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


EPIC_COLUMNS = (
    "narration_id",
    "participant_id",
    "video_id",
    "start_timestamp",
    "stop_timestamp",
    "verb",
    "verb_class",
)


def _epic_segment(where: str, row: dict[str, str], root: Path) -> tuple[int, Segment]:
    """Return the verb class of a row, and its segment without label and split."""
    wearer, video_id = row["participant_id"], row["video_id"]
    for name in (wearer, video_id):
        if not re.fullmatch(r"\w[\w-]*", name):  # nothing that could climb out of the root
            raise DataError(f"{where}: {name!r} is not the id of a participant or a video")
    start, stop = _stretch(where, row["start_timestamp"], row["stop_timestamp"])
    if not row["verb_class"].isdecimal():
        raise DataError(f"{where}: verb_class {row['verb_class']!r} is not a whole number")
    imu = tuple(str(root / wearer / "meta_data" / f"{video_id}-{sensor}.csv") for sensor in ("accl", "gyro"))
    video = str(root / wearer / "videos" / f"{video_id}.MP4")
    return int(row["verb_class"]), Segment(row["narration_id"], video, start, stop, None, imu, wearer=wearer)


def _epic_problem(segment: Segment, audio: bool) -> str | None:
    """Return why a segment's video cannot be used, if so."""
    if not all(os.path.isfile(path) for path in segment.imu):
        return "the video has no IMU files"
    if not audio:
        return None
    try:
        return None if segment.recording.probe().has_audio else "the video has no audio"
    except VideoError:
        return "the video cannot be opened"


_RARE = "the class has fewer than {} segments"


def _verb_names(table: Path, spellings: dict[int, collections.Counter[str]]) -> dict[int, str]:
    """Return the name of each verb class: its official key, else its commonest spelling."""
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
    keep_other: bool = False,
) -> SegmentList:
    """Read the verb segments of Ego4D's hands-and-objects annotations (fho_main.json, or fho.json).

    A segment is an action from its pre_frame to its post_frame, its label the structured verb. Left
    out, and counted in ``.dropped`` by the first reason that applies, are actions in redacted
    intervals; rejected, invalid or warned of; without critical frames or verb; videos without IMU
    file, with two views (is_stereo) or, with ``audio``, without sound; of the actions that remain,
    the second time that one is annotated; and classes with fewer than ``min_instances`` actions.
    The verb "[other]" stands for any that the taxonomy lacks, and is no class unless ``keep_other``:
    the paper's label is "the annotated verb", and it does not say what it did with these.

    Files lie below ``root``, or below its v2 or v1: ``imu/<video_uid>.csv``, and the first that is
    there of ``full_scale/<video_uid>.mp4``, ``video_540ss/<video_uid>.mp4`` and
    ``clips/<clip_uid>.mp4``. ``ego4d.json``, if it is there, says which are stereo and which have sound.

    The paper splits at random, 70:30 within each class. Here the order is that of a hash of
    ``seed`` and the narration's uid, so that it does not depend on the rest of the file; a class of
    two has one on each side. The file is read a video at a time. Raise DataError with its name.
    """
    annotations, root = Path(annotations), Path(root)
    if not 0 < test_share < 1:
        raise DataError(f"test_share is a share of each class, 0 < share < 1; got {test_share}")
    reader, videos = _Ego4d(root, audio=audio, keep_other=keep_other, seed=seed), 0
    by_class: dict[str, list[tuple[bytes, Segment]]] = collections.defaultdict(list)
    for where, key, video in json_items(annotations, ("videos", "video_data")):
        videos += 1
        for order, segment in reader.segments(where, _uid(where, video.get("video_uid", key)), video):
            by_class[segment.label].append((order, segment))
    segments, dropped = [], reader.dropped
    for actions in by_class.values():
        if len(actions) < min_instances:
            dropped[_RARE.format(min_instances)] += len(actions)
        else:
            segments += _split(actions, test_share)
    if not segments:
        why = "; ".join(f"{n} actions: {reason}" for reason, n in dropped.items())
        raise DataError(f"{annotations}: no usable action in {videos} videos under {root}. {why}")
    segments.sort(key=lambda segment: (segment.video, segment.start, segment.id))
    return SegmentList(segments, dropped)


def _split(actions: list[tuple[bytes, Segment]], test_share: float) -> list[Segment]:
    """Return the actions of a class, split in the order that comes with each; both sides get one at least."""
    tests = min(max(1, round(test_share * len(actions))), len(actions) - 1)
    return [
        dataclasses.replace(segment, split="test" if rank < tests else "train")
        for rank, (_, segment) in enumerate(sorted(actions, key=lambda pair: pair[0]))
    ]


class _Action(NamedTuple):
    """An annotated action: what it is, frame numbers in its video, why it cannot be used if it cannot."""

    content: dict[str, Any]
    clip_uid: Any
    pre: int
    post: int
    pre_in_clip: int | None
    problem: str | None


class _Ego4d:
    """Ego4D's files below a folder, and the segments of the actions in its videos. ``dropped`` counts the others."""

    def __init__(self, root: Path, *, audio: bool, keep_other: bool, seed: int) -> None:
        self.folders = [root, root / "v2", root / "v1"]
        self.audio, self.keep_other, self.seed = audio, keep_other, seed
        self.dropped: collections.Counter[str] = collections.Counter()
        self.seen: set[str] = set()
        self.about: dict[str, tuple[Any, Any, Any]] = {}  # uid -> has two views, seconds of sound, wearer
        if found := self.file("ego4d.json"):
            for where, _, video in json_items(Path(found), ("videos",)):
                sound = (video.get("video_metadata") or {}).get("audio_duration_sec")
                about = video.get("is_stereo"), sound, video.get("fb_participant_id")
                self.about[_uid(where, video.get("video_uid"))] = about

    def file(self, *names: str) -> str | None:
        """Return the path of the first of these files that is there."""
        paths = (folder / name for name in names for folder in self.folders)
        return next((str(path) for path in paths if os.path.isfile(path)), None)

    def segments(self, where: str, uid: str, video: dict) -> Iterator[tuple[bytes, Segment]]:
        """Yield the usable actions of a video as segments, each with what orders it for the split."""
        imu = self.file(f"imu/{uid}.csv")
        whole = self.file(f"full_scale/{uid}.mp4", f"video_540ss/{uid}.mp4")
        lacks = self.problem_of(uid, imu)
        for action in _ego4d_actions(where, video):
            clip = self.file(f"clips/{_uid(where, action.clip_uid)}.mp4") if action.clip_uid else None
            content = action.content
            narration = content.get("narration_annotation_uid") or content.get("uid")
            identity = str((uid, narration, content.get("start_sec"), content.get("end_sec")))
            problem = action.problem or self.other_verb(content) or lacks
            if whole is None and problem is None:
                if clip is None:
                    problem = "neither the video nor its clip is there"
                elif action.pre_in_clip is None:
                    problem = "no critical frames"
            if problem is None and identity in self.seen:  # an unusable twin does not stand for it
                problem = "annotated twice"
            if problem:
                self.dropped[problem] += 1
                continue
            self.seen.add(identity)
            order = hashlib.sha256(f"{self.seed} {identity}".encode()).digest()
            # A clip's clock starts later than that of the video and its IMU.
            shift = 0.0 if whole else (action.pre_in_clip - action.pre) / EGO4D_FPS
            start, stop = (frame / EGO4D_FPS + shift for frame in (action.pre, action.post))
            name = f"{uid}_{action.pre}_{action.post}_{order[:4].hex()}"
            label, wearer = content["structured_verb"], self.about.get(uid, (None, None, None))[2]
            wearer = None if wearer is None else str(wearer)
            yield order, Segment(name, whole or clip, start, stop, label, imu, imu_offset=shift, wearer=wearer)

    def other_verb(self, action: dict) -> str | None:
        """Return why an action is left out whose verb is none of the taxonomy, unless these are to be kept."""
        return "the verb is [other]" if action["structured_verb"] == "[other]" and not self.keep_other else None

    def problem_of(self, uid: str, imu: str | None) -> str | None:
        """Return why none of a video's actions can be used, if so."""
        stereo, sound, _ = self.about.get(uid, (False, True, None))
        if imu is None:
            return "the video has no IMU file"
        if stereo:
            return "the video shows two views (stereo)"
        return "the video has no audio" if self.audio and not sound else None


def _ego4d_actions(where: str, video: dict) -> Iterator[_Action]:
    try:
        for interval in video.get("annotated_intervals") or ():
            for action in interval.get("narrated_actions") or ():
                frames = action.get("critical_frames")
                if not frames:  # they may be in the list of boxes instead
                    boxes = action.get("frames") or ()
                    frames = {box.get("frame_type"): box.get("frame_number") for box in boxes}
                pre, post = frames.get("pre_frame"), frames.get("post_frame")
                inside = (action.get("clip_critical_frames") or {}).get("pre_frame")
                inside = inside if isinstance(inside, int) else None
                problem = "redacted" if interval.get("redacted") else _problem(action, pre, post)
                yield _Action(action, interval.get("clip_uid"), pre, post, inside, problem)
    except (AttributeError, TypeError) as error:
        raise DataError(f"{where}: is not laid out as Ego4D's annotations are: {error}") from error


def _problem(action: dict, pre: Any, post: Any) -> str | None:
    """Return why an action cannot be used, by the usual filter of public code."""
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
    """Return an id that becomes a file's name; DataError for one that could climb out of the root."""
    if not isinstance(uid, str) or not re.fullmatch(r"\w[\w-]*", uid):
        raise DataError(f"{where}: {uid!r} is not the uid of a video or clip")
    return uid


def json_items(
    path: Path, names: Sequence[str], chunk: int = 1 << 20
) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """Yield the objects in the list or dict that a JSON file holds under one of these names.

    Each comes with the words that an error about it starts with, and its key in a dict. Only one object
    is held at a time; ``chunk`` is how many characters are read at once. Raise DataError with file and place.
    """
    found = False
    try:
        with open(path, encoding="utf-8-sig") as file:
            reader = JSONReader(file, path, chunk)
            for name in reader.members("{"):
                if name not in names:
                    reader.value()
                    continue
                found = True
                for number, key in enumerate(reader.members("[{")):
                    item, where = reader.value(), f"{path}, {name}[{number if key is None else key!r}]"
                    if not isinstance(item, dict):
                        raise DataError(f"{where}: is not an object")
                    yield where, key, item
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text in UTF-8: {error}") from error
    if not found:
        raise DataError(f"{path}: has no {' or '.join(map(repr, names))} at its top level")


class JSONReader:
    """Reads a JSON file value by value, so that a large list need not be held as a whole.

    Raise DataError, with file and place, for what is not JSON.
    """

    SPACE = re.compile(r"[ \t\r\n]*")
    LONGEST_WORD = 1 << 20  # characters of a string that may be cut by the end of what was read

    def __init__(self, file: TextIO, path: Path, chunk: int) -> None:
        self.file, self.path, self.chunk = file, path, chunk
        self.decoder = json.JSONDecoder()
        self.text, self.at = "", 0  # what was read, and how far it is decoded
        self.base = 0  # the place of the text in the file, in characters

    def members(self, brackets: str) -> Iterator[str | None]:
        """Walk the list ("[") or dict ("{") that comes next: yield keys or Nones, each to be followed by `value()`."""
        opened = self._take(brackets)
        closing = "]" if opened == "[" else "}"
        while self._next_sign() != closing:
            key = None
            if opened == "{":
                key = self.value()
                self._take(":")
            yield key
            if self._next_sign() != closing:
                self._take(",")
        self.at += 1

    def value(self) -> Any:
        """Return the value that comes next."""
        self._next_sign()
        while True:
            try:
                found, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                # More text may complete what is at the end of this one, and nothing else.
                if len(self.text) - error.pos > self.LONGEST_WORD or not self._read_more():
                    raise self._broken(error.pos, error.msg) from error
                continue
            except RecursionError as error:
                raise self._broken(self.at, "nested too deep") from error
            if (end == len(self.text) or self.text[end] in ".eE+-") and self._read_more():  # a number may go on
                continue
            self.at = end
            return found

    def _take(self, signs: str) -> str:
        if (sign := self._next_sign()) not in signs:
            raise self._broken(self.at, f"expected one of {signs}")
        self.at += 1
        return sign

    def _next_sign(self) -> str:
        while True:
            self.at = self.SPACE.match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._read_more():
                raise self._broken(self.at, "it ends here")

    def _read_more(self) -> bool:
        chunk = self.file.read(max(self.chunk, len(self.text) - self.at))  # twice as much each time
        self.text, self.at, self.base = self.text[self.at :] + chunk, 0, self.base + self.at
        return bool(chunk)

    def _broken(self, place: int, why: str) -> DataError:
        return DataError(f"{self.path}: cut off, or not JSON, at character {self.base + place}: {why}")


def read_csv(path: str | os.PathLike, *, class_names: Sequence[str] | None = None) -> SegmentList:
    """Read segments of your own videos from a table ``video,start,stop,label[,imu][,split][,id]``.

    start and stop are seconds or HH:MM:SS.sss; paths are relative to the table's folder. ``imu`` is
    one CSV, two separated by ';' (accelerometer;gyroscope), or empty: telemetry inside the video.
    Columns ``imu_offset`` (s), ``imu_stretch`` and ``wearer`` are those of Segment. An empty label means none,
    an empty split "train". A label that is not among ``class_names``, if they are given, is an
    error. Raise DataError that names file and row.
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
        split, wearer = row.get("split") or "train", row.get("wearer") or None
        segments.append(Segment(name, video, start, stop, label, imu, split, offset, stretch, wearer))
    if not segments:
        raise DataError(f"{path}: the table has no rows")
    return segments


def with_imu_offsets(segments: Iterable[Segment], table: str | os.PathLike) -> SegmentList:
    """Return the same segments, IMU clocks corrected by a table ``video,imu_offset[,imu_stretch]``.

    A video is named by its path, or by its file name with or without suffix; `egodistill check`
    writes such a table. An offset is added to what a segment has. Raise DataError with the row
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
        raise DataError(f"{where}: imu_stretch {values[1]} is a factor near 1")
    return values[0], values[1]


def _table(path: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a CSV with header, each with the words that an error about it starts with."""
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
    """Return start and stop in seconds, from '83.5' or '00:01:23.50'."""
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
