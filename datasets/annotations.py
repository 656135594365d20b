"""Read the annotations of a data set: segments of its videos, with the IMU files that belong to them.

    from egodistill.datasets import annotations

    segments = annotations.read_annotations("EPIC_100_train.csv", "/videos/EPIC-KITCHENS")  # detects the format
    print(len(segments), segments[0].label, segments.dropped)       # what was left out, and why
    segments = annotations.with_imu_offsets(segments, "offsets.csv")                        # from `egodistill check`

A *segment* is an annotated part of a video. `read_annotations()` takes all formats: those of EPIC-KITCHENS and Ego4D,
which are read here; of ELAN, BORIS and Label Studio (module `label_tools`); and your own table and recordings without
labels (module `segments`). This module re-exports their readers. `Videos` helps to read another data set, as
examples/aria_datasets.py does for HD-EPIC and Ego-Exo4D. Times are seconds on the video's own clock, the one a player
shows: zero is the start of the file.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..recordings.recording import VIDEO_SUFFIXES, Recording
from ..support.errors import DataError, named
from ..support.records import class_number, first_line, first_name, json_items, read_table, require_id, start_and_stop
from ..video import VideoError
from .label_tools import label_reader, read_labels
from .segments import (
    RARE,
    Origin,
    Segment,
    SegmentList,
    SplitBy,
    Windows,
    count_of_tests,
    is_list_of_recordings,
    names_of_classes,
    read_csv,
    read_recordings,
    splits_of_wearers,
    with_imu_axes,
    with_imu_offsets,
    with_labels,
)

__all__ = [
    "Segment",
    "SegmentList",
    "SplitBy",
    "Windows",
    "read_annotations",
    "read_csv",
    "read_ego4d",
    "read_epic_kitchens",
    "read_labels",
    "read_recordings",
    "with_imu_axes",
    "with_imu_offsets",
]


OTHER_SETS = "examples/aria_datasets.py, for all commands"


def read_annotations(
    annotations: str | os.PathLike,
    root: str | os.PathLike | None = None,
    *,
    seed: int | None = None,
    min_instances: int | None = None,
    windows: Windows | None = None,
    clip_seconds: float | None = None,
    tier: str | None = None,
) -> SegmentList:
    """Read annotations of a data set, of ELAN, BORIS or Label Studio, or your own table, or recordings without labels.

    The content decides which reader is used; a folder, and a table of videos without the column label, are recordings
    for `read_recordings()`. Raise DataError if an argument is given that is for another kind of annotations, and what
    the reader raises.

    `root`, the folder with videos and IMU files (by default that of the annotations), and `min_instances` (None: the
    reader's own default) are for data sets and tools; `seed` is for Ego4D's random split (None: 0) and that of
    recordings (None: the one in `windows`; stretches have none); `windows` and `clip_seconds` (None: those in
    `windows`) are for recordings, `tier` for tools, as in `read_labels()`.

    >>> from egodistill.datasets import annotations
    >>> segments = annotations.read_annotations("segments.csv")
    >>> [(segment.label, segment.start, segment.stop, segment.split) for segment in segments]
    [('walk', 0.0, 2.1, 'train'), ('look around', 2.1, 4.2, 'test')]
    """
    path = Path(annotations)
    kind = _kind(path)
    own = kind in ("segments", "labels", "recordings")
    if windows is not None and kind != "recordings":
        raise DataError(
            f"{path}: has labels, whose segments are the clips; {named('stride')}, {named('split_by')} and "
            f"{named('test_share')} are for recordings without labels: a folder, or a table without the column label"
        )
    told = named("seed", option="--split-seed")
    if seed is not None and kind not in ("ego4d", "recordings"):
        raise DataError(f"{path}: its splits are fixed; {told} is for Ego4D and recordings without labels")
    if seed is not None and windows is not None and windows.split_by == "stretch":
        raise DataError(
            f"{path}: stretches do not depend on a seed; leave out {told}, or use {named('split_by', 'recording')}"
        )
    if min_instances is not None and own:
        raise DataError(f"{path}: {named('min_instances')} is for public data sets; remove rare classes from the table")
    if tier is not None and kind != "labels":
        raise DataError(f"{path}: {named('tier')} is for exports of ELAN, BORIS and Label Studio; leave it out")
    if root is not None and own and kind != "labels":
        raise DataError(
            f"{path}: {named('root')} is for public data sets; the paths of your own table are relative to its folder, "
            f"so put the table into {root}, or the folder into its column video"
        )
    given = {name: value for name, value in (("seed", seed), ("min_instances", min_instances)) if value is not None}
    if kind == "segments":
        return read_csv(path)
    if kind == "labels":
        return read_labels(path, root, tier=tier)
    if kind == "recordings":
        given |= {} if clip_seconds is None else {"clip_seconds": clip_seconds}
        return read_recordings(path, dataclasses.replace(windows or Windows(), **given))
    read = read_ego4d if kind == "ego4d" else read_epic_kitchens
    return read(path, root or path.parent, **given)


def _kind(path: Path) -> str:
    """Return the data set of annotations, "labels" for a tool's, "segments" for your own table, or "recordings".

    Raise DataError for a video, and for a JSON file of another kind.
    """
    if path.is_dir():
        return "recordings"
    if path.suffix.lower() in VIDEO_SUFFIXES:
        raise DataError(
            f"{path}: a video, not annotations; give a table of segments, or for recordings without labels their "
            f"folder; `egodistill check` and `egodistill predict` take a video"
        )
    if label_reader(path):
        return "labels"
    if path.suffix.lower() == ".json":
        if first_name(path, ("videos", "video_data")) is None:
            raise DataError(
                f"{path}: no 'videos' or 'video_data' (Ego4D) at the top level; is this the right file? Keysteps of "
                f"Ego-Exo4D become a table with {OTHER_SETS}"
            )
        return "ego4d"
    header = first_line(path).lower()
    if is_list_of_recordings(header):
        return "recordings"
    if "main_action_classes" in header:
        raise DataError(f"{path}: narrations of HD-EPIC, which become a table with {OTHER_SETS}")
    return "epic_kitchens" if "narration_id" in header else "segments"


# ---------------------------------------------------------------------------------------------------------------
# The videos of a data set

Classified = list[tuple[Any, Segment]]  # (class, segment)


def add_once(known: dict[str, Any], where: str, name: str, value: Any) -> None:
    """Add an entry. Raise DataError if there is another one with this name."""
    if known.setdefault(name, value) != value:
        raise DataError(f"{where}: {name} has an earlier entry that differs from this one; download the file again")


def problem_of_times(start: float, stop: float) -> str | None:
    """Return why a segment with these times cannot be used, or None."""
    if not (math.isfinite(start) and math.isfinite(stop)):
        return "no times"
    return None if 0 <= start < stop else "start and end are not in order"


class Part(NamedTuple):
    """A part of a recording that an annotation is about; times in seconds."""

    name: str  # id of its segment
    start: float
    stop: float
    split: str


class Videos:
    """The recordings of a data set below `root`; each is opened once. `dropped` counts segments by reason."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dropped: collections.Counter[str] = collections.Counter()
        self.left_out: list[Segment] = []  # segments with times, but without a class
        self.known: dict[tuple, Recording | str] = {}  # a recording, or why it cannot be used

    def find(self, *name: Any) -> Recording | str:
        """Return the recording of a video, or the reason why it cannot be used; `name` is what `open()` takes."""
        if name not in self.known:
            try:
                self.known[name] = self.open(*name)
            except DataError as error:
                self.known[name] = str(error)
            except VideoError:
                self.known[name] = "the video cannot be opened"
        return self.known[name]

    def open(self, name: str, *where: Any) -> Recording | str:
        """Return the recording of a video, or the reason why it cannot be used. Raise DataError or VideoError."""
        raise NotImplementedError

    def add(self, found: Classified, label: Any, recording: Recording | str, part: Part, problem: str | None) -> None:
        """Append a part of a recording with its class, or count why it cannot be used."""
        if isinstance(recording, str):
            self.dropped[problem or recording] += 1
            return
        if wrong := problem_of_times(part.start, part.stop):
            self.dropped[problem or wrong] += 1
            return
        segment = Segment(part.name, start=part.start, stop=part.stop, split=part.split, **recording.record())
        if problem:
            self.dropped[problem] += 1
            self.left_out.append(segment)
        else:
            found.append((label, segment))

    def origin(self, annotations: Path) -> Origin:
        """Return where the segments come from; notes name the videos of which two files were found."""
        files_of = collections.defaultdict(set)
        for (name, *_), recording in self.known.items():
            if isinstance(recording, Recording):
                files_of[name].add(recording.video)
        notes = [
            f"the video {name} is annotated for two files, {' and '.join(sorted(paths))}; only one can be right"
            for name, paths in files_of.items()
            if len(paths) > 1
        ]
        return Origin(str(annotations), drawn=True, notes=tuple(notes), left_out=tuple(self.left_out))

    def require(self, found: Classified, annotations: Path, expected: str) -> None:
        """Raise DataError, which names the reasons and the expected files, if no segment can be used."""
        if not found:
            why = "; ".join(f"{count} segments: {reason}" for reason, count in self.dropped.most_common(5))
            raise DataError(f"{annotations}: no usable segment ({why or 'it has none'}); expected are {expected}")


# ---------------------------------------------------------------------------------------------------------------
# EPIC-KITCHENS


def read_epic_kitchens(
    annotations: str | os.PathLike,
    root: str | os.PathLike,
    *,
    split: str = "wearer",
    evaluation_wearers: Sequence[str] = ("P30", "P35", "P37"),
    validation_wearers: Sequence[str] = (),
    min_instances: int = 1,
) -> SegmentList:
    """Read the verb segments of an EPIC-KITCHENS-100 table, of all videos that have IMU files below `root`.

    Videos are `<root>/<Pxx>/videos/<video_id>.MP4`, IMU files are `<root>/<Pxx>/meta_data/<video_id>-accl.csv` and
    `-gyro.csv`. All labelled videos with IMU are in EPIC_100_train.csv, so the paper's evaluation wearers are part of
    it.

    The label is the key of the verb class in EPIC_100_verb_classes.csv if that file is beside the table, otherwise the
    most frequent verb of the class in the table. `.dropped` of the result counts what was left out. Raise DataError,
    with file and row, for a table that cannot be read.

    Args:
        annotations: The table.
        root: The folder of the data set.
        split: "wearer": the wearer decides the split. Any other word is the split of all segments.
        evaluation_wearers: Wearers of the split "test".
        validation_wearers: Wearers of the split "validation"; all others are "train".
        min_instances: Leave out classes with fewer segments.

    >>> from egodistill import data
    >>> segments = data.read_epic_kitchens("world/EPIC_100_train.csv", "world")
    >>> len(segments), segments.dropped
    (22, {})
    >>> segments[0].id, segments[0].label, segments[0].split, segments[0].wearer
    ('P01_101_0', 'put', 'train', 'P01')
    """
    annotations, root = Path(annotations), Path(root)
    parts = splits_of_wearers(evaluation_wearers, validation_wearers)
    videos = EpicVideos(root)
    spellings: dict[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    found: list[tuple[int, Segment]] = []
    for where, row in read_table(annotations, EPIC_COLUMNS):
        wearer, video_id = row["participant_id"], row["video_id"]
        for name in (wearer, video_id):
            require_id(where, name, "a participant or video id")
        start, stop = start_and_stop(where, row["start_timestamp"], row["stop_timestamp"])
        verb = class_number(where, row, "verb_class")
        spellings[verb][row["verb"]] += 1
        part = Part(row["narration_id"], start, stop, parts.get(wearer, "train") if split == "wearer" else split)
        videos.add(found, verb, videos.find(video_id, wearer), part, None)
    expected = f"<Pxx>/meta_data/<video_id>-accl.csv and -gyro.csv below {root}; is this the root of the data set?"
    if "validation" in annotations.name:
        expected += (
            " No video of the official validation split has IMU: the paper's training and evaluation videos are all in "
            "EPIC_100_train.csv."
        )
    videos.require(found, annotations, expected)
    names = names_of_classes(spellings, annotations.with_name("EPIC_100_verb_classes.csv"))
    return with_labels(found, names, min_instances, videos.dropped, videos.origin(annotations))


EPIC_COLUMNS = (
    "narration_id",
    "participant_id",
    "video_id",
    "start_timestamp",
    "stop_timestamp",
    "verb",
    "verb_class",
)


class EpicVideos(Videos):
    """The videos of EPIC-KITCHENS below a folder."""

    def open(self, name: str, wearer: str) -> Recording | str:
        """Return the recording of a video, or the reason why it cannot be used. Raise VideoError."""
        folder = self.root / wearer
        accel, gyro = (str(folder / "meta_data" / f"{name}-{sensor}.csv") for sensor in ("accl", "gyro"))
        if not (os.path.isfile(accel) and os.path.isfile(gyro)):
            return "the video has no IMU files"
        return Recording(str(folder / "videos" / f"{name}.MP4"), (accel, gyro), wearer=wearer)


# ---------------------------------------------------------------------------------------------------------------
# Ego4D

MAX_FRAME = 10**9  # a year of video
UID = "a video or clip uid"
EGO4D_FPS = 30  # of all canonical videos and clips, and so of their frame numbers


def read_ego4d(
    annotations: str | os.PathLike,
    root: str | os.PathLike,
    *,
    seed: int = 0,
    test_share: float = 0.3,
    min_instances: int = 2,
    keep_other: bool = False,
) -> SegmentList:
    """Read the verb segments of Ego4D's hands-and-objects annotations (fho_main.json or fho.json).

    A segment is an action from its pre_frame to its post_frame; its label is the structured verb. These are left out,
    and `.dropped` counts the first reason that applies: actions in redacted intervals; rejected actions, invalid ones
    and those with warnings; actions without critical frames or verb; videos without IMU file or with two views
    (is_stereo); repeated annotations of the same action; rare classes.

    Files are below `root`, or below its folder v2 or v1: `imu/<video_uid>.csv`, and the first one that exists of
    `full_scale/<video_uid>.mp4`, `video_540ss/<video_uid>.mp4` and `clips/<clip_uid>.mp4`. `ego4d.json`, if present,
    says which videos are stereo.

    The paper splits at random, 70:30 within each class. Here a hash of `seed` and the narration's uid gives the order,
    so that a split does not depend on the rest of the file; a class of two has one action on each side. Only one
    video's annotations are in memory at a time. Raise DataError that names the file.

    Args:
        annotations: The JSON file.
        root: The folder of the data set.
        seed: Decides the random split.
        test_share: Share of each class for testing, between 0 and 1.
        min_instances: Leave out classes with fewer actions.
        keep_other: Keep the verb "[other]", which means a verb outside the taxonomy. The paper's label is "the
            annotated verb"; the paper does not say how it treated these.
    """
    annotations, root = Path(annotations), Path(root)
    if not 0 < test_share < 1:
        raise DataError(f"test_share is a share of each class, between 0 and 1; got {test_share}")
    reader, videos = _Ego4d(root, keep_other=keep_other, seed=seed), 0
    by_class: dict[str, list[tuple[bytes, Segment]]] = collections.defaultdict(list)
    for where, key, video in json_items(annotations, ("videos", "video_data")):
        videos += 1
        for order, segment in reader.segments(where, require_id(where, video.get("video_uid", key), UID), video):
            by_class[segment.label].append((order, segment))
    segments, dropped, rare = [], reader.dropped, list[Segment]()
    for actions in by_class.values():
        if len(actions) < min_instances:
            dropped[RARE.format(min_instances)] += len(actions)
            rare += [segment for _, segment in actions]
        else:
            segments += _split(actions, test_share)
    if not segments:
        why = "; ".join(f"{n} actions: {reason}" for reason, n in dropped.items())
        raise DataError(f"{annotations}: no usable action in {videos} videos below {root}. {why}")
    segments.sort(key=lambda segment: (segment.video, segment.start, segment.id))
    about = {"notes": tuple(reader.notes), "left_out": tuple(rare), "is_sparse": True}
    return SegmentList(segments, dropped, Origin(str(annotations), drawn=True, **about))


def _split(actions: list[tuple[bytes, Segment]], test_share: float) -> list[Segment]:
    """Split the actions of a class by the order that comes with each; both sides get at least one."""
    tests = count_of_tests(len(actions), test_share)
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
    """A finder of Ego4D's files that turns actions into segments. `dropped` counts the unusable ones."""

    def __init__(self, root: Path, *, keep_other: bool, seed: int) -> None:
        self.folders = [root, root / "v2", root / "v1"]
        self.keep_other, self.seed = keep_other, seed
        self.dropped: collections.Counter[str] = collections.Counter()
        self.notes: list[str] = []
        self.seen: set[str] = set()
        self.about: dict[str, tuple[Any, Any]] = {}  # uid -> has two views, wearer
        if found := self.file("ego4d.json"):
            for where, _, video in json_items(Path(found), ("videos",)):
                about = video.get("is_stereo"), video.get("fb_participant_id")
                add_once(self.about, where, require_id(where, video.get("video_uid"), UID), about)

    def file(self, *names: str) -> str | None:
        """Return the path of the first of these files that exists."""
        paths = (folder / name for name in names for folder in self.folders)
        return next((str(path) for path in paths if os.path.isfile(path)), None)

    def note_twins(self, *names: str) -> None:
        """Note files that are in two of the folders with different sizes."""
        for name in names:
            found = [path for path in (folder / name for folder in self.folders) if path.is_file()]
            if len({path.stat().st_size for path in found}) > 1:
                self.notes.append(f"{found[0]} is read, but {found[1]} has another size; remove the wrong one")

    def segments(self, where: str, uid: str, video: dict) -> Iterator[tuple[bytes, Segment]]:
        """Yield the usable actions of a video as segments, each with its sort key for the split."""
        imu = self.file(f"imu/{uid}.csv")
        whole = self.file(f"full_scale/{uid}.mp4", f"video_540ss/{uid}.mp4")
        self.note_twins(f"imu/{uid}.csv", f"full_scale/{uid}.mp4", f"video_540ss/{uid}.mp4")
        lacks = self.problem_of(uid, imu)
        for action in _ego4d_actions(where, video):
            clip = self.file(f"clips/{require_id(where, action.clip_uid, UID)}.mp4") if action.clip_uid else None
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
            label, wearer = content["structured_verb"], self.about.get(uid, (None, None))[1]
            wearer = None if wearer is None else str(wearer)
            yield order, Segment(name, whole or clip, start, stop, label, imu, imu_offset=shift, wearer=wearer)

    def other_verb(self, action: dict) -> str | None:
        """Return why an action with a verb outside the taxonomy is left out, or None."""
        return "the verb is [other]" if action["structured_verb"] == "[other]" and not self.keep_other else None

    def problem_of(self, uid: str, imu: str | None) -> str | None:
        """Return the reason why none of a video's actions can be used, or None."""
        if imu is None:
            return "the video has no IMU file"
        return "the video shows two views (stereo)" if self.about.get(uid, (False, None))[0] else None


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
                inside = inside if isinstance(inside, int) and abs(inside) < MAX_FRAME else None
                problem = "redacted" if interval.get("redacted") else _problem(action, pre, post)
                yield _Action(action, interval.get("clip_uid"), pre, post, inside, problem)
    except (AttributeError, TypeError) as error:
        raise DataError(f"{where}: not in the layout of Ego4D's annotations: {error}") from error


def _problem(action: dict, pre: Any, post: Any) -> str | None:
    """Return the reason why an action cannot be used, or None; the filter is the usual one of public code."""
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
    if not max(0, action.get("start_frame") or 0) <= pre < post < MAX_FRAME:
        return "pre_frame and post_frame are not in order"
    return None
