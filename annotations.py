"""Read the annotations of a data set: segments of its videos, with the IMU files that belong to them.

    from egodistill import annotations

    segments = annotations.read_annotations("EPIC_100_train.csv", "/videos/EPIC-KITCHENS")  # detects the format
    print(len(segments), segments[0].label, segments.dropped)       # what was left out, and why
    segments = annotations.with_imu_offsets(segments, "offsets.csv")                        # from `egodistill check`

A *segment* is an annotated part of a video. Readers: `read_epic_kitchens`, `read_ego4d`, and `read_csv` for your own
table; `read_recordings` makes segments without labels of a folder of recordings. Times are seconds on the video's own
clock, the one a player shows: zero is the start of the file.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO, get_args

from egodistill import CLIP_SECONDS, DataError, files
from egodistill.clips import Recording, find_videos, open_recording, read_axes, strided_starts
from egodistill.video import VideoError

__all__ = [
    "Segment",
    "SegmentList",
    "SplitBy",
    "Windows",
    "read_annotations",
    "read_csv",
    "read_ego4d",
    "read_epic_kitchens",
    "read_recordings",
    "with_imu_axes",
    "with_imu_offsets",
]


@dataclasses.dataclass(frozen=True)
class Segment:
    """An annotated part of a recording, from ``start`` to ``stop`` in seconds.

    ``video``, ``imu``, ``imu_offset``, ``imu_stretch``, ``wearer`` and ``imu_axes`` describe the recording; see
    `clips.Recording`.

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

    def __post_init__(self) -> None:  # paths and numpy numbers are welcome; a store holds JSON
        own = self.recording
        plain = {name: getattr(own, name) for name in ("video", "imu", "imu_offset", "imu_stretch")}
        for name, value in {**plain, "start": float(self.start), "stop": float(self.stop)}.items():
            object.__setattr__(self, name, value)

    @property
    def recording(self) -> Recording:
        """Return the recording that the segment is a part of."""
        return Recording(self.video, self.imu, self.imu_offset, self.imu_stretch, self.wearer, imu_axes=self.imu_axes)


class SegmentList(list):
    """A list of segments, with ``dropped``: {reason: number of annotations that the reader left out}."""

    def __init__(self, segments: Iterable[Segment] = (), dropped: dict[str, int] | None = None):
        super().__init__(segments)
        self.dropped = dict(dropped or {})


SplitBy = Literal["recording", "stretch"]


@dataclasses.dataclass(frozen=True)
class Windows:
    """How recordings without labels become clips, and which of these are for testing.

    stride       Seconds from one clip of a recording to the next; the last one ends with the recording.
    split_by     "recording": whole recordings are for training or for testing. "stretch": so are stretches of each
                 recording, with 2.2 s between them that no clip contains.
    test_share   Share of the recordings, or of each recording, that is for testing.
    seed         It decides which recordings are for testing; stretches do not depend on it.

    Raise DataError for values that are out of range.

    >>> from egodistill import annotations
    >>> annotations.Windows(stride=1.0, split_by="stretch").test_share
    0.3
    """

    stride: float = CLIP_SECONDS
    split_by: SplitBy = "recording"
    test_share: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if not CLIP_SECONDS / 100 <= self.stride < math.inf:  # NaN: False
            raise DataError(
                f"stride must be at least {CLIP_SECONDS / 100:.3f} s, a hundredth of a clip; got {self.stride}"
            )
        if self.split_by not in get_args(SplitBy):
            raise DataError(f"split_by must be 'recording' or 'stretch'; got {self.split_by!r}")
        if not 0 < self.test_share < 1:
            raise DataError(f"test_share is a share of the recordings, between 0 and 1; got {self.test_share}")


LONGEST_LINE = 1 << 20  # characters of a table
LARGEST_TABLE = 1 << 30  # bytes; EPIC_100_train.csv has 12 MB
LARGEST_VALUE = 1 << 28  # characters of one video in Ego4D's annotations, whose whole file may have any size


def read_annotations(
    annotations: str | os.PathLike,
    root: str | os.PathLike | None = None,
    *,
    seed: int = 0,
    min_instances: int | None = None,
    audio: bool = False,
    windows: Windows | None = None,
) -> SegmentList:
    """Read annotations of Ego4D, of EPIC-KITCHENS or from your own table, or recordings without labels.

    Suffix and header decide which; a folder, and a table of videos without the column label, are recordings for
    `read_recordings()`. ``root`` is the folder with the data set's videos and IMU files, by default the folder of the
    annotations. ``seed`` is for Ego4D's random split and for that of recordings, in place of the one in ``windows``.
    ``min_instances`` (None: the reader's own default) and ``audio`` are for the two data sets, ``windows`` is for
    recordings. Raise DataError for ``min_instances`` or ``windows`` with another kind of annotations.

    >>> from egodistill import annotations
    >>> segments = annotations.read_annotations("segments.csv")
    >>> [(segment.label, segment.start, segment.stop, segment.split) for segment in segments]
    [('walk', 0.0, 2.1, 'train'), ('look around', 2.1, 4.2, 'test')]
    """
    path, folder = Path(annotations), root or Path(annotations).parent
    options: dict[str, Any] = {"audio": audio}
    if min_instances is not None:
        options["min_instances"] = min_instances
    header = "" if path.is_dir() or path.suffix.lower() == ".json" else _header(path)
    has_labels = not path.is_dir() and not _is_list_of_recordings(header)
    if windows is not None and has_labels:
        raise DataError(
            f"{path}: has labels, whose segments are the clips; stride, split_by and test_share are for recordings "
            f"without labels: a folder, or a table without the column label"
        )
    if path.suffix.lower() == ".json" and has_labels:
        return read_ego4d(path, folder, seed=seed, **options)
    if "narration_id" in header.lower():
        return read_epic_kitchens(path, folder, **options)
    if min_instances is not None:
        raise DataError(f"{path}: min_instances is for public data sets; remove rare classes from your table instead")
    return read_csv(path) if has_labels else read_recordings(path, dataclasses.replace(windows or Windows(), seed=seed))


def _header(path: Path) -> str:
    """Return the first line of a table. Raise DataError if it cannot be read."""
    files.require_file(path, LARGEST_TABLE)
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
            return file.readline(LONGEST_LINE)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _is_list_of_recordings(header: str) -> bool:
    """Return whether a table has videos and no labels; a column that is unknown may be a misspelt one of labels."""
    names = {name.strip().strip('"').lower() for name in header.split(",")}
    names = {name for name in names if name and not name.startswith(("#", "_"))}
    return "video" in names and names <= {"video", "start", "stop", *OPTIONAL_COLUMNS}


# Of a table of recordings, beside the video. Segments made of recordings have names of their own, so there is no id.
RECORDING_COLUMNS = ("start", "stop", "imu", "split", "imu_offset", "imu_stretch", "wearer", "imu_axes")


def read_epic_kitchens(
    annotations: str | os.PathLike,
    root: str | os.PathLike,
    *,
    split: str = "wearer",
    evaluation_wearers: Sequence[str] = ("P30", "P35", "P37"),
    validation_wearers: Sequence[str] = (),
    min_instances: int = 1,
    audio: bool = False,
) -> SegmentList:
    """Read the verb segments of an EPIC-KITCHENS-100 table, of all videos that have IMU files below ``root``.

    Videos are ``<root>/<Pxx>/videos/<video_id>.MP4``, IMU files are
    ``<root>/<Pxx>/meta_data/<video_id>-accl.csv`` and ``-gyro.csv``. All labelled videos with IMU are
    in EPIC_100_train.csv, so the paper's evaluation wearers are part of it: with ``split="wearer"``,
    segments of ``evaluation_wearers`` get the split "test", those of ``validation_wearers``
    "validation" and all others "train". Any other word is used as the split of all segments.
    ``audio`` leaves out videos without sound.

    The label is the key of the verb class in EPIC_100_verb_classes.csv if that file is beside the
    table, otherwise the most frequent verb of the class in the table. Classes with fewer than
    ``min_instances`` segments are left out. ``.dropped`` of the result counts what was left out.
    Raise DataError, with file and row, for a table that cannot be read.

    >>> from egodistill import data
    >>> segments = data.read_epic_kitchens("world/EPIC_100_train.csv", "world")
    >>> len(segments), segments.dropped
    (22, {})
    >>> segments[0].id, segments[0].label, segments[0].split, segments[0].wearer
    ('P01_101_0', 'put', 'train', 'P01')
    """
    annotations, root = Path(annotations), Path(root)
    if both := sorted({*evaluation_wearers} & {*validation_wearers}):
        raise DataError(f"{', '.join(both)}: a wearer cannot be for both evaluation and validation")
    parts = dict.fromkeys(evaluation_wearers, "test") | dict.fromkeys(validation_wearers, "validation")
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
        part = parts.get(row["participant_id"], "train") if split == "wearer" else split
        found.append((verb_class, dataclasses.replace(segment, split=part)))
    if not found:
        hint = ""
        if "validation" in annotations.name:
            hint = (
                " No video of the official validation split has IMU: "
                "the paper's training and evaluation videos are all in EPIC_100_train.csv."
            )
        needed = "sound and IMU files" if audio else "IMU files"
        raise DataError(
            f"{annotations}: none of its {len(lacks)} videos has {needed} "
            f"<Pxx>/meta_data/<video_id>-accl.csv and -gyro.csv below {root}; is this the root of the data set?{hint}"
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
    """Return the verb class of a row, and its segment, still without label and split."""
    wearer, video_id = row["participant_id"], row["video_id"]
    for name in (wearer, video_id):
        if not re.fullmatch(r"\w[\w-]*", name):  # nothing that could climb out of the root
            raise DataError(f"{where}: {name!r} is not a participant or video id")
    start, stop = _start_stop(where, row["start_timestamp"], row["stop_timestamp"])
    imu = tuple(str(root / wearer / "meta_data" / f"{video_id}-{sensor}.csv") for sensor in ("accl", "gyro"))
    video = str(root / wearer / "videos" / f"{video_id}.MP4")
    return _class_number(where, row, "verb_class"), Segment(
        row["narration_id"], video, start, stop, None, imu, wearer=wearer
    )


def _class_number(where: str, row: dict[str, str], column: str) -> int:
    if not re.fullmatch(r"\d{1,9}", row[column]):
        raise DataError(f"{where}: {column} {row[column][:40]!r} is not the whole number of a class")
    return int(row[column])


def _epic_problem(segment: Segment, audio: bool) -> str | None:
    """Return the reason why a segment's video cannot be used, or None."""
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
    """Return the name of each verb class: its official key, or else its most frequent spelling."""
    if table.is_file():
        keys = {_class_number(where, row, "id"): row["key"] for where, row in _table(table, ("id", "key"))}
        if missing := set(spellings) - set(keys):
            raise DataError(f"{table}: verb class {min(missing)} is missing, but the annotations use it")
        return {verb_class: keys[verb_class] for verb_class in spellings}
    names: dict[int, str] = {}
    for verb_class in sorted(spellings):
        name = spellings[verb_class].most_common(1)[0][0]
        # Two classes must not become one because annotators used one word for both.
        names[verb_class] = f"{name} ({verb_class})" if name in names.values() else name
    return names


LARGEST_FRAME = 10**9  # a year of video
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
    """Read the verb segments of Ego4D's hands-and-objects annotations (fho_main.json or fho.json).

    A segment is an action from its pre_frame to its post_frame; its label is the structured verb.
    These are left out, and ``.dropped`` counts the first reason that applies: actions in redacted
    intervals; rejected actions, invalid ones and those with warnings; actions without critical frames
    or verb; videos without IMU file, with two views (is_stereo) or, with ``audio``, without sound;
    repeated annotations of the same action; classes with fewer than ``min_instances`` actions.
    The verb "[other]" means a verb outside the taxonomy. It is left out unless ``keep_other``: the
    paper's label is "the annotated verb", and the paper does not say how it treated these.

    Files are below ``root``, or below its folder v2 or v1: ``imu/<video_uid>.csv``, and the first one
    that exists of ``full_scale/<video_uid>.mp4``, ``video_540ss/<video_uid>.mp4`` and
    ``clips/<clip_uid>.mp4``. ``ego4d.json``, if present, says which videos are stereo or have sound.

    The paper splits at random, 70:30 within each class. Here a hash of ``seed`` and the narration's
    uid gives the order, so that a split does not depend on the rest of the file; a class of two has
    one action on each side. Only one video's annotations are in memory at a time. Raise DataError
    that names the file.
    """
    annotations, root = Path(annotations), Path(root)
    if not 0 < test_share < 1:
        raise DataError(f"test_share is a share of each class, between 0 and 1; got {test_share}")
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
        raise DataError(f"{annotations}: no usable action in {videos} videos below {root}. {why}")
    segments.sort(key=lambda segment: (segment.video, segment.start, segment.id))
    return SegmentList(segments, dropped)


def _split(actions: list[tuple[bytes, Segment]], test_share: float) -> list[Segment]:
    """Split the actions of a class by the order that comes with each; both sides get at least one."""
    tests = _count_of_tests(len(actions), test_share)
    return [
        dataclasses.replace(segment, split="test" if rank < tests else "train")
        for rank, (_, segment) in enumerate(sorted(actions, key=lambda pair: pair[0]))
    ]


class _Action(NamedTuple):
    """An annotated action: its annotation, its frame numbers in the video, and why it cannot be used, or None."""

    content: dict[str, Any]
    clip_uid: Any
    pre: int
    post: int
    pre_in_clip: int | None
    problem: str | None


class _Ego4d:
    """Find Ego4D's files below a folder, and turn actions into segments. ``dropped`` counts the unusable ones."""

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
        """Return the path of the first of these files that exists."""
        paths = (folder / name for name in names for folder in self.folders)
        return next((str(path) for path in paths if os.path.isfile(path)), None)

    def segments(self, where: str, uid: str, video: dict) -> Iterator[tuple[bytes, Segment]]:
        """Yield the usable actions of a video as segments, each with its sort key for the split."""
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
                    problem = "neither the video nor its clip exists"
                elif action.pre_in_clip is None:
                    problem = "no critical frames"
            if problem is None and identity in self.seen:  # an unusable twin does not count
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
        """Return why an action with a verb outside the taxonomy is left out, or None."""
        return "the verb is [other]" if action["structured_verb"] == "[other]" and not self.keep_other else None

    def problem_of(self, uid: str, imu: str | None) -> str | None:
        """Return the reason why none of a video's actions can be used, or None."""
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
                inside = inside if isinstance(inside, int) and abs(inside) < LARGEST_FRAME else None
                problem = "redacted" if interval.get("redacted") else _problem(action, pre, post)
                yield _Action(action, interval.get("clip_uid"), pre, post, inside, problem)
    except (AttributeError, TypeError) as error:
        raise DataError(f"{where}: not in the layout of Ego4D's annotations: {error}") from error


def _problem(action: dict, pre: Any, post: Any) -> str | None:
    """Return the reason why an action cannot be used, or None, by the filter that is usual in public code."""
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
    if not max(0, action.get("start_frame") or 0) <= pre < post < LARGEST_FRAME:
        return "pre_frame and post_frame are not in order"
    return None


def _uid(where: str, uid: object) -> str:
    """Return an id that is used as a file name. Raise DataError for one that could lead out of the root."""
    if not isinstance(uid, str) or not re.fullmatch(r"\w[\w-]*", uid):
        raise DataError(f"{where}: {uid!r} is not a video or clip uid")
    return uid


def json_items(
    path: Path, names: Sequence[str], chunk: int = 1 << 20
) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    """Yield the objects of the list or dict that a JSON file has under one of these names.

    Each comes with its place, for errors, and with its key if they are in a dict. Only one object is in memory at a
    time; ``chunk`` is how many characters are read at once. Raise DataError with file and place.
    """
    found = False
    files.require_file(path)
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
                        raise DataError(f"{where}: not a JSON object")
                    yield where, key, item
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}") from error
    if not found:
        raise DataError(f"{path}: no {' or '.join(map(repr, names))} at the top level; is this the right file?")


class JSONReader:
    """Read a JSON file value by value, so that a large list need not fit in memory.

    Raise DataError, with file and place, for invalid JSON.
    """

    SPACE = re.compile(r"[ \t\r\n]*")
    LONGEST_WORD = 1 << 20  # characters: the longest string that may continue beyond what was read

    def __init__(self, file: TextIO, path: Path, chunk: int) -> None:
        self.file, self.path, self.chunk = file, path, chunk
        self.decoder = json.JSONDecoder()
        self.text, self.at = "", 0  # what was read, and how much of it is decoded
        self.base = 0  # where the text starts in the file, in characters

    def members(self, brackets: str) -> Iterator[str | None]:
        """Iterate over the next list ("[") or dict ("{"): yield keys or Nones; call `value()` after each."""
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
        """Return the next value."""
        self._next_sign()
        while True:
            try:
                found, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                # Only a value at the end of the text can be completed by more text.
                if len(self.text) - error.pos > self.LONGEST_WORD or not self._read_more():
                    raise self._broken(error.pos, error.msg) from error
                if len(self.text) > LARGEST_VALUE:
                    raise self._broken(self.at, f"one value has more than {LARGEST_VALUE} characters") from error
                continue
            except RecursionError as error:
                raise self._broken(self.at, "nested too deep") from error
            except ValueError as error:
                raise self._broken(self.at, "a number of thousands of digits") from error
            if (end == len(self.text) or self.text[end] in ".eE+-") and self._read_more():  # a number may continue
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
        return DataError(f"{self.path}: truncated or invalid JSON at character {self.base + place}: {why}")


OPTIONAL_COLUMNS = ("imu", "split", "id", "imu_offset", "imu_stretch", "wearer", "imu_axes")


def read_csv(path: str | os.PathLike, *, class_names: Sequence[str] | None = None) -> SegmentList:
    """Read segments of your own videos from a table ``video,start,stop,label[,imu][,split][,id]``.

    start and stop are seconds or HH:MM:SS.sss; paths are relative to the table's folder. ``imu`` is
    one CSV, two separated by ';' (accelerometer;gyroscope), or empty: telemetry inside the video.
    Optional columns ``imu_offset`` (s), ``imu_stretch``, ``wearer`` and ``imu_axes`` are fields of Segment. An empty
    label means no label, an empty split "train". Names of columns may be in upper case; other columns
    are an error, unless their names start with '#' or '_'. A label outside ``class_names``, if given, is an error.
    Raise DataError that names file and row.

    >>> from egodistill import data
    >>> for segment in data.read_csv("segments.csv", class_names=["walk", "look around"]):
    ...     print(segment.id, segment.imu, segment.start, segment.stop, segment.label, segment.split)
    walk_0 walk.csv 0.0 2.1 walk train
    walk_1 walk.csv 2.1 4.2 look around test
    """
    path = Path(path)
    segments, ids = SegmentList(), set()
    for where, row in _table(path, ("video", "start", "stop", "label"), OPTIONAL_COLUMNS):
        start, stop = _start_stop(where, row["start"], row["stop"])
        video, imu = _files_of_row(where, path.parent, row)
        name = row.get("id") or f"{Path(video).stem}_{len(segments)}"
        if name in ids:
            raise DataError(f"{where}: the id {name!r} is already used in an earlier row")
        ids.add(name)
        label = row["label"] or None
        if class_names is not None and label is not None and label not in class_names:
            raise DataError(f"{where}: the label {label!r} is not one of the {len(class_names)} class names")
        offset, stretch = _clock(where, row)
        split, wearer = row.get("split") or "train", row.get("wearer") or None
        segments.append(
            Segment(name, video, start, stop, label, imu, split, offset, stretch, wearer, _axes(where, row))
        )
    if not segments:
        raise DataError(f"{path}: the table has no rows")
    return segments


def _files_of_row(where: str, folder: Path, row: Mapping[str, str]) -> tuple[str, str | tuple[str, str] | None]:
    """Return the video of a row of your own table, and its IMU: one file, two, or None."""
    video = _existing(where, folder, row["video"])
    sources = [s.strip() for s in (row.get("imu") or "").split(";") if s.strip()]
    if len(sources) > 2:
        raise DataError(f"{where}: imu must be one file or 'accl.csv;gyro.csv', not {row['imu']!r}")
    found = tuple(_existing(where, folder, source) for source in sources)
    return video, (None, *found)[-1] if len(found) < 2 else found


GUARD = 2.2  # seconds between a stretch for training and one for testing: longer than a clip
PERIOD = 120.0  # about so many seconds of a recording have one stretch for training and one for testing


def read_recordings(path: str | os.PathLike, windows: Windows = Windows()) -> SegmentList:
    """Make segments without labels of recordings: one for each clip, ``windows.stride`` seconds apart.

    ``path`` is a folder, whose videos and those of its subfolders are used with the IMU that `clips.open_recording()`
    finds; or a table with the column ``video`` and, as in `read_csv()`, ``start``, ``stop``, ``imu``, ``split``,
    ``imu_offset``, ``imu_stretch``, ``wearer`` and ``imu_axes``, all of which may be missing or empty. Each row of a
    table is a part of a recording.

    Without a column ``split``, the split is that of ``windows``, and the same for the same files, wherever they are:

    - by recording: the recordings are ordered by a hash of ``seed`` and of their path below the folder (or that in the
      table); the first ``test_share`` of them, rounded, at least one and not all, get the split "test"
    - by stretch: each recording (or part of one) is cut into equal periods of about two minutes, and each period ends
      with a stretch for testing, ``test_share`` of it. Before and after it, 2.2 s belong to no clip. Each stretch has a
      clip at least; a recording that is too short for that is for training.

    ``.dropped`` of the result counts recordings that cannot be opened. Raise DataError for a folder without videos, a
    table with a row that cannot be used, or recordings that cannot be split so.

    >>> from egodistill import annotations
    >>> segments = annotations.read_recordings("world", annotations.Windows(stride=10.0, split_by="stretch"))
    >>> segments[0].label, segments[0].start, segments[0].split
    (None, 0.0, 'train')
    """
    path = Path(path)
    dropped: collections.Counter[str] = collections.Counter()
    parts = list(_parts_of_folder(path, dropped) if path.is_dir() else _parts_of_table(path, dropped))
    if not parts:
        raise DataError(f"{path}: none of its recordings can be used: {'; '.join(dropped) or 'the table has no rows'}")
    splits = {} if windows.split_by == "stretch" else _splits_of_recordings(path, parts, windows, dropped)
    segments = SegmentList(dropped=dropped)
    for part in parts:
        own = part.recording
        more = (own.imu_offset, own.imu_stretch, own.wearer, own.imu_axes)
        given = part.split or splits.get(part.name)
        stretches = [(given, part.start, part.stop)] if given else _stretches(part.start, part.stop, windows.test_share)
        for split, start, stop in stretches:
            for after in strided_starts(stop - start, CLIP_SECONDS, windows.stride):
                name, first = f"{Path(own.video).stem}_{len(segments)}", start + after
                segments.append(Segment(name, own.video, first, first + CLIP_SECONDS, None, own.imu, split, *more))
    if not any(part.split for part in parts) and len({segment.split for segment in segments}) < 2:
        raise DataError(
            f"{path}: its recordings are too short to be split by stretch: none has {2 * CLIP_SECONDS + GUARD:.1f} s, "
            f"two clips and the time between them; split by recording"
        )
    return segments


class _Part(NamedTuple):
    """A part of a recording in seconds; ``split`` is None if the table has none."""

    name: str
    recording: Recording
    start: float
    stop: float
    split: str | None


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
    """Yield the rows of a table of recordings; count those whose video cannot be opened."""
    for where, row in _table(path, ("video",), RECORDING_COLUMNS):
        video, imu = _files_of_row(where, path.parent, row)
        offset, stretch = _clock(where, row)
        more = {"wearer": row.get("wearer") or None, "imu_axes": _axes(where, row)}
        try:
            recording = open_recording(video, imu, imu_offset=offset, imu_stretch=stretch, **more)
            end = recording.probe().duration
        except (DataError, VideoError) as error:
            dropped[str(error)] += 1
            continue
        start, stop = _start_stop(where, row.get("start") or "0", row.get("stop") or str(end))
        if start >= end:
            raise DataError(f"{where}: starts at {start:.3f} s, but the video ends at {end:.3f} s")
        split = (row["split"] or "train") if "split" in row else None
        yield _Part(os.path.normpath(row["video"]), recording, start, min(stop, end), split)


def _splits_of_recordings(
    path: Path, parts: Sequence[_Part], windows: Windows, dropped: Mapping[str, int]
) -> dict[str, str]:
    """Return the split of each recording that has none yet; an error names those that were dropped."""
    names = {part.name for part in parts if part.split is None}
    if len(names) == 1:
        raise DataError(
            f"{path}: one recording cannot be split by recording; add recordings, split it by stretch "
            f"(split_by='stretch', --split-by stretch), or give a table with the column split"
            + (f". Not used: {'; '.join(dropped)}" if dropped else "")
        )
    order = sorted(names, key=lambda name: hashlib.sha256(f"{windows.seed} {name}".encode()).digest())
    tests = _count_of_tests(len(order), windows.test_share)
    return {name: "test" if rank < tests else "train" for rank, name in enumerate(order)}


def _count_of_tests(count: int, share: float) -> int:
    """Return how many of so many are for testing: the rounded share, at least one and not all."""
    return min(max(1, round(share * count)), count - 1)


def _stretches(start: float, stop: float, share: float) -> Iterator[tuple[str, float, float]]:
    """Yield split, start and stop of the stretches of a part of a recording; see `read_recordings()`."""
    count = max(1, round((stop - start) / PERIOD))
    period = (stop - start) / count
    for k in range(count):
        first, last = start + k * period + (GUARD if k else 0.0), start + (k + 1) * period
        if last - first < 2 * CLIP_SECONDS + GUARD:
            yield "train", first, last
            continue
        cut = min(max(last - share * period, first + CLIP_SECONDS + GUARD), last - CLIP_SECONDS)
        yield "train", first, cut - GUARD
        yield "test", cut, last


def with_imu_offsets(segments: Iterable[Segment], table: str | os.PathLike) -> SegmentList:
    """Return the same segments with IMU clocks corrected by a table ``video,imu_offset[,imu_stretch]``.

    A video is named by its path, or by its file name with or without suffix; `egodistill check`
    writes such a table. A correction is applied on top of the segment's own clock. Raise DataError
    with the row for a name that matches no video of the segments, or several.

    >>> from pathlib import Path
    >>> from egodistill import data
    >>> _ = Path("offsets.csv").write_text("video,imu_offset\\nwalk.mp4,0.25\\n")
    >>> segments = data.with_imu_offsets(data.read_csv("segments.csv"), "offsets.csv")
    >>> [segment.imu_offset for segment in segments]
    [0.25, 0.25]
    """
    result = SegmentList(segments, getattr(segments, "dropped", None))
    paths = sorted({segment.video for segment in result})
    clocks = {}
    for where, row in _table(Path(table), ("video", "imu_offset"), ("imu_stretch",)):
        named = [path for path in paths if _is_named(path, row["video"])]
        if len(named) != 1:
            raise DataError(f"{where}: {row['video']!r} matches {len(named)} videos of the segments; it must match one")
        clocks[named[0]] = _clock(where, row)
    for i, segment in enumerate(result):
        offset, stretch = clocks.get(segment.video, (0.0, 1.0))
        result[i] = dataclasses.replace(
            segment,
            imu_offset=segment.imu_offset * stretch + offset,
            imu_stretch=segment.imu_stretch * stretch,
        )
    return result


def _is_named(path: str, name: str) -> bool:
    """Return whether a cell, without blanks at its ends, names a file: by path, file name or name without suffix."""
    names = (path, os.path.abspath(path), Path(path).name, Path(path).stem)
    return not {name, os.path.abspath(name)}.isdisjoint(known.strip() for known in names)


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


def with_imu_axes(segments: Iterable[Segment], axes: str) -> SegmentList:
    """Return the same segments with other axes of their IMU samples: a name, or a turn; see `clips.Recording`.

    >>> from egodistill import data
    >>> data.with_imu_axes(data.read_csv("segments.csv"), "XZy")[0].imu_axes
    'XZy'
    """
    changed = (dataclasses.replace(segment, imu_axes=axes) for segment in segments)
    return SegmentList(changed, getattr(segments, "dropped", None))


def _table(
    path: Path, needed: Sequence[str], optional: Sequence[str] | None = None
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a CSV with header, each with its place, for errors; names of columns become lower case.

    Columns other than ``needed`` and ``optional`` are an error; with None, they are ignored.
    """
    line = 1
    files.require_file(path, LARGEST_TABLE)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(_lines(path, file), skipinitialspace=True)
            header = [name.strip().lower() for name in next(reader, [])]
            while header and not header[-1]:
                header.pop()
            _check_header(path, header, needed, optional)
            line = reader.line_num + 1
            for cells in reader:
                where, line = f"{path}, row {line}", reader.line_num + 1
                row = dict(zip(header, cells, strict=False))
                if broken := [name for name in row if "\n" in row[name] and not name.startswith(("#", "_"))]:
                    raise DataError(
                        f"{where}: the cell in column {broken[0]} goes on in the next row; close the quote, or write "
                        f"it twice if it belongs to the text"
                    )
                if any(cells[len(header) :]):
                    raise DataError(
                        f"{where}: {len(cells)} cells, but the header has {len(header)}; put quotes around a cell that "
                        f"contains a comma"
                    )
                if cells and any(name not in row for name in needed):
                    raise DataError(f"{where}: fewer cells than the header")
                if cells:
                    yield where, {name: cell.strip() for name, cell in row.items()}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a UTF-8 CSV table: {error}") from error
    except csv.Error as error:
        raise DataError(f"{path}, row {line}: not a CSV table: {error}; is a quote not closed?") from error


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    """Yield the lines of a table. Raise DataError for one that has no end."""
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise DataError(f"{path}: a line has more than {LONGEST_LINE} characters; is this a table?")
        yield line


def _check_header(path: Path, header: list[str], needed: Sequence[str], optional: Sequence[str] | None) -> None:
    """Raise DataError for missing and repeated columns, and, unless ``optional`` is None, for unknown ones."""
    text, known = ",".join(header), (*needed, *(optional or ()))
    if missing := [name for name in needed if name not in header]:
        for sign in ";\t":
            if set(needed) & set(re.split(rf"\s*{sign}\s*", text)):
                raise DataError(f"{path}: its cells are separated by {sign!r}, must be ','")
        hint = _similar(missing[0], [name for name in header if name not in known])
        raise DataError(f"{path}: no column {', '.join(missing)}{hint}; its header is {text or 'empty'}")
    if repeated := [name for name in known if header.count(name) > 1]:
        raise DataError(f"{path}: the column {repeated[0]} appears {header.count(repeated[0])} times in the header")
    unknown = [name for name in header if name not in known and not re.match("[#_]|$", name)]  # "": an index of pandas
    if unknown and optional is not None:
        raise DataError(
            f"{path}: unknown column {unknown[0]!r}{_similar(unknown[0], known)}; known are {', '.join(known)}, and "
            f"names that start with '#' or '_' are ignored"
        )


def _similar(name: str, others: Sequence[str]) -> str:
    """Return a hint at the most similar name, or ""."""
    found = difflib.get_close_matches(name, others, 1)
    return f" (similar: {found[0]!r})" if found else ""


def _start_stop(where: str, start: str, stop: str) -> tuple[float, float]:
    """Return start and stop in seconds from text such as '83.5' or '00:01:23.50'."""
    seconds = []
    for text in (start, stop):
        parts = text.split(":")
        try:
            value = sum(float(part) * 60**i for i, part in enumerate(reversed(parts))) if len(parts) <= 3 else math.nan
        except ValueError:
            value = math.nan
        if not (0 <= value < math.inf and "-" not in text):
            raise DataError(f"{where}: {text!r} is not a time in seconds or HH:MM:SS")
        seconds.append(value)
    if seconds[1] <= seconds[0]:
        raise DataError(f"{where}: stop {stop} is not after start {start}")
    return seconds[0], seconds[1]


def _existing(where: str, folder: Path, name: str) -> str:
    if not name or not os.path.isfile(folder / name):  # also False for text that cannot be a file name
        raise DataError(
            f"{where}: no such file: {folder / name if name else '(empty cell)'} (paths are relative to the table)"
        )
    return str(folder / name)
