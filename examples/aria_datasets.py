"""Write the annotations of HD-EPIC or Ego-Exo4D, recorded with Project Aria glasses, as a table for all commands.

    python examples/aria_datasets.py HD_EPIC_Narrations.csv --root /videos/HD-EPIC --out segments.csv
    python examples/aria_datasets.py annotations/keystep_train.json --root /videos/egoexo4d --out segments.csv
    egodistill prepare segments.csv --out store --clip-frames 16

HD-EPIC's narrations are a pickle of pandas, which runs the code in it when it is read. Make a CSV of it once:

    pandas.read_pickle("HD_EPIC_Narrations.pkl").to_csv("HD_EPIC_Narrations.csv")

Both data sets have their videos as MP4 and the head motion in the glasses' own files (VRS), which have another clock. A
table beside the videos gives the time of each frame on that clock. A line fitted to it converts IMU times to video
times, the columns imu_offset and imu_stretch. The library reads the samples, and turns them into the axes of the
camera.

Neither data set was at hand: the readers were tested on files made in their formats. Our assumptions about the formats
are checked for every video; videos that violate them are left out, and the reason is printed.
"""

from __future__ import annotations

import argparse
import ast
import collections
import csv
import dataclasses
import operator
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from egodistill import DataError
from egodistill.datasets.annotations import Classified, Part, Videos, add_once
from egodistill.datasets.segments import SegmentList, names_of_classes, splits_of_wearers, with_labels
from egodistill.recordings import Recording
from egodistill.support import files
from egodistill.support.errors import describe_error, named
from egodistill.support.records import json_items, number, read_table, require_id
from egodistill.support.tables import pluralize

MAX_ERROR = 0.05  # seconds between a frame and the line of its clock: more than a frame at 30 fps
MAX_LIST = 10_000  # characters of the main actions of a narration, which has a few
MAX_EXCESS = 1.0  # seconds between the ends of a video and of the table of its frames


# ---------------------------------------------------------------------------------------------------------------
# Shared by the two


@dataclasses.dataclass(frozen=True)
class FrameTimes:
    """The times of a video's frames on two clocks."""

    table: str  # the file that they come from
    stamps: np.ndarray  # ns on the glasses' clock [n]
    seconds: np.ndarray  # seconds in the video [n]
    end: float  # of the video according to this table, in seconds

    def line(self) -> tuple[float, float]:
        """Return offset and stretch, which make seconds of the video from seconds of the glasses' clock.

        Raise DataError for times that are not on a line, or fewer than two of them.
        """
        usable = np.isfinite(self.stamps) & np.isfinite(self.seconds)
        stamps, first = np.unique(self.stamps[usable], return_index=True)  # a repeated frame has its first time
        if len(stamps) < 2:
            raise DataError(f"{self.table}: {len(stamps)} different times of frames, which are too few for a clock")
        past, seconds = (stamps - stamps[0]) * 1e-9, self.seconds[usable][first]
        stretch, start = np.polyfit(past, seconds, 1)
        off = np.abs(start + stretch * past - seconds)
        if not (off.max() <= MAX_ERROR and 0.5 < stretch < 2):
            raise DataError(
                f"{self.table}: the frame at {seconds[off.argmax()]:.3f} s is {off.max():.3f} s from where the others "
                f"put it on the glasses' clock, so the clock of the IMU is unknown"
            )
        return float(start - stretch * (stamps[0] * 1e-9)), float(stretch)

    def require_end(self, video: str, duration: float) -> None:
        """Raise DataError if the video ends elsewhere, so that the table is not that of the video."""
        if not abs(self.end - duration) <= MAX_EXCESS:  # NaN: False
            raise DataError(
                f"{self.table}: ends at {self.end:.3f} s, but {video} at {duration:.3f} s, so it is not the table of "
                f"this video; download both again"
            )


def first_file(*paths: Path) -> str | None:
    """Return the first of these files that exists, or None."""
    return next((str(path) for path in paths if path.is_file()), None)


class AriaVideos(Videos):
    """Videos with a table of the times of their frames on the glasses' clock."""

    def join(self, video: str, imu: str, times: FrameTimes, wearer: str | None) -> Recording:
        """Return the recording of these files. Raise DataError or VideoError."""
        recording = Recording(video, imu, wearer=wearer)
        times.require_end(video, recording.probe().duration)
        offset, stretch = times.line()
        return dataclasses.replace(recording, imu_offset=offset, imu_stretch=stretch)


# ---------------------------------------------------------------------------------------------------------------
# HD-EPIC

HD_EPIC_COLUMNS = ("video_id", "start_timestamp", "end_timestamp", "main_action_classes")


def read_hd_epic(
    annotations: str | os.PathLike,
    root: str | os.PathLike,
    *,
    split: str = "wearer",
    evaluation_wearers: Sequence[str] = ("P08", "P09"),
    validation_wearers: Sequence[str] = (),
    min_instances: int = 1,
) -> SegmentList:
    """Read the verb segments of HD-EPIC's narrations, of all videos with their IMU.

    The narrations are a CSV with the columns `video_id,start_timestamp,end_timestamp,main_action_classes`, and perhaps
    others. The label of a narration is the verb of its first main action: its key in HD_EPIC_verb_classes.csv if that
    file is beside the narrations, otherwise the most frequent verb of the class in the column main_actions.

    Files are below `root`, or below its folder HD-EPIC: `Videos/<Pxx>/<video_id>.mp4` with
    `<video_id>_mp4_to_vrs_time_ns.csv` beside it, and `VRS/<Pxx>/<video_id>_anonymized.vrs` with the IMU. `.dropped`
    of the result counts what was left out. Raise DataError that names the file, and the row of a table.

    Args:
        annotations: The narrations.
        root: The folder of the data set.
        split: "wearer": the wearer decides the split, because the data set has none. Any other word is the split of
            all segments.
        evaluation_wearers: Wearers of the split "test".
        validation_wearers: Wearers of the split "validation"; all others are "train".
        min_instances: Leave out classes with fewer segments.

    >>> from pathlib import Path
    >>> import aria_datasets
    >>> rows = "P01-20240202-110250,7.44,8.75,[(3; 3)]\\n"
    >>> size = Path("narrations.csv").write_text("video_id,start_timestamp,end_timestamp,main_action_classes\\n" + rows)
    >>> aria_datasets.read_hd_epic("narrations.csv", ".")
    Traceback (most recent call last):
    ...
    egodistill.DataError: narrations.csv, row 2: main_action_classes '[(3; 3)]' is not a list such as [(3, 3)]
    """
    annotations, root = Path(annotations), Path(root)
    parts = splits_of_wearers(evaluation_wearers, validation_wearers)
    videos = HDEpicVideos(root)
    spellings: dict[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    found: Classified = []
    for place, (where, row) in enumerate(read_table(annotations, HD_EPIC_COLUMNS)):
        video_id = require_id(where, row["video_id"], "a video id")
        wearer = require_id(where, row.get("participant_id") or video_id.partition("-")[0], "a participant id")
        verb = _main_action(where, row, "main_action_classes", operator.index)
        if verb is not None:
            spellings[verb][_main_action(where, row, "main_actions", str) or "verb"] += 1
        start, stop = (number(where, name, row[name]) for name in ("start_timestamp", "end_timestamp"))
        name = str(row.get("unique_narration_id") or f"{video_id}-{place}")
        part = Part(name, start, stop, parts.get(wearer, "train") if split == "wearer" else split)
        problem = None if verb is not None else "no main action"
        videos.add(found, verb, videos.find(video_id, wearer), part, problem)
    videos.require(
        found,
        annotations,
        f"Videos/<Pxx>/<video_id>.mp4, <video_id>_mp4_to_vrs_time_ns.csv beside it and "
        f"VRS/<Pxx>/<video_id>_anonymized.vrs below {root}",
    )
    names = names_of_classes(spellings, annotations.with_name("HD_EPIC_verb_classes.csv"))
    return with_labels(found, names, min_instances, videos.dropped, videos.origin(annotations))


class HDEpicVideos(AriaVideos):
    """The videos of HD-EPIC below a folder."""

    def __init__(self, root: Path) -> None:
        super().__init__(root if (root / "Videos").is_dir() else root / "HD-EPIC")

    def open(self, name: str, wearer: str) -> Recording | str:
        """Return the recording of a video, or the reason why it cannot be used. Raise DataError or VideoError."""
        folder = self.root / "Videos" / wearer
        if (video := first_file(folder / f"{name}.mp4", folder / f"{name}.MP4")) is None:
            return "the video is missing"
        if (imu := first_file(self.root / "VRS" / wearer / f"{name}_anonymized.vrs")) is None:
            return "the video has no VRS file, which has the IMU"
        if (table := first_file(folder / f"{name}_mp4_to_vrs_time_ns.csv")) is None:
            return "the video has no table _mp4_to_vrs_time_ns.csv, which has the clock of its IMU"
        rows = list(read_table(Path(table), ("mp4_time_ns", "vrs_device_time_ns")))
        seconds, stamps = (
            np.array([number(where, column, row[column]) for where, row in rows])
            for column in ("mp4_time_ns", "vrs_device_time_ns")
        )
        seconds = seconds * 1e-9
        known = seconds[np.isfinite(seconds)]  # a cell may be empty
        end = known[-1] + float(np.median(np.diff(known))) if len(known) > 1 else 0.0
        return self.join(video, imu, FrameTimes(table, stamps, seconds, end), wearer)


def _main_action(where: str, row: Mapping[str, str], column: str, kind: Callable[[Any], Any]) -> Any:
    """Return the verb of the first main action, a class or a word; None if there is none.

    The cell is the text of a list of pairs (verb, noun).
    """
    cell = row.get(column)
    try:
        actions = ast.literal_eval(cell[:MAX_LIST]) if cell else []
        return kind(actions[0][0]) if len(actions) else None
    except (TypeError, ValueError, LookupError, SyntaxError, RecursionError, MemoryError) as error:
        raise DataError(f"{where}: {column} {cell[:40]!r} is not a list such as [(3, 3)]") from error


# ---------------------------------------------------------------------------------------------------------------
# Ego-Exo4D

FPS = 30  # of frame-aligned videos, whose frames are rows of timesync.csv
MAX_ROW = 10**9  # a year
STEP = 30  # at most every 30th of these rows is read: a capture has a hundred thousand, and a line needs two
ID = "a word, as ids of Ego-Exo4D are"
KEYSTEPS = (
    "no keysteps ('segments'), so this is another file of Ego-Exo4D, such as atomic descriptions or a benchmark's "
    "list; give annotations/keystep_train.json or keystep_val.json"
)
TAKE = ("take_name", "capture", "timesync_start_idx", "timesync_end_idx", "participant_uid")
SPLITS = {"train": "train", "val": "test", "test": "test"}


def read_ego_exo4d(annotations: str | os.PathLike, root: str | os.PathLike, *, min_instances: int = 1) -> SegmentList:
    """Read the keysteps of Ego-Exo4D (keystep_train.json, keystep_val.json), of all takes with the glasses' IMU.

    A segment is a keystep; its label is the name of its step (`step_unique_id`). If keystep_train.json and
    keystep_val.json are beside each other, both are read. The split of a take is that of splits.json beside them, or
    else that in the file's name: "train" stays, "val" and "test" become "test", because labels of the official test
    takes are not public. The wearer is the participant.

    Files are below `root`, or its parent: `takes.json`; `takes/<take>/frame_aligned_videos/aria01_214-1.mp4`, or
    the one in `downscaled/448`; `takes/<take>/aria01_noimagestreams.vrs` or `aria01.vrs` with the IMU; and
    `captures/<capture>/timesync.csv`, in which frame i of the take's video is row timesync_start_idx + i. Sources
    disagree about this by one row, 33 ms, which `egodistill check` measures, and about whether videos are upright: view
    a frame, because the axes of the IMU are those of an upright picture. `aria01` stands for the take's glasses.
    `.dropped` of the result counts what was left out. Raise DataError that names file and place.

    Args:
        annotations: keystep_train.json or keystep_val.json.
        root: The folder of the data set.
        min_instances: Leave out classes with fewer segments.

    >>> from pathlib import Path
    >>> import aria_datasets
    >>> size = Path("keystep_val.json").write_text('{"annotations": {"4e0b": {"descriptions": []}}}')
    >>> size = Path("takes.json").write_text("[]")
    >>> aria_datasets.read_ego_exo4d("keystep_val.json", ".")
    Traceback (most recent call last):
    ...
    egodistill.DataError: keystep_val.json, annotations['4e0b']: no keysteps ('segments'), so this is another file of
    Ego-Exo4D, such as atomic descriptions or a benchmark's list; give annotations/keystep_train.json or
    keystep_val.json
    """
    annotations, root = Path(annotations), Path(root)
    videos = EgoExoVideos(root)
    spellings: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    found: Classified = []
    for path in _both_parts(annotations):
        splits = _official_splits(path, videos.root)
        for where, key, take in json_items(path, ("annotations",), otherwise=KEYSTEPS):
            uid = require_id(where, take.get("take_uid", key), ID)
            if not isinstance(steps := take.get("segments"), list):
                raise DataError(f"{where}: {KEYSTEPS}")
            if uid not in videos.takes:
                raise DataError(
                    f"{where}: the take {uid} is not in {videos.root / 'takes.json'}; download both files of one "
                    f"version"
                )
            split = _split_of(path, splits, uid)
            for place, step in enumerate(steps):
                label, word, start, stop = _keystep(f"{where}, segments[{place}]", step)
                spellings[label][word] += 1
                problem = None if label else "the keystep has no step_unique_id"
                videos.add(found, label, videos.find(uid), Part(f"{uid}_{place}", start, stop, split), problem)
    videos.require(
        found,
        annotations,
        f"takes/<take>/frame_aligned_videos/aria01_214-1.mp4, takes/<take>/aria01_noimagestreams.vrs and "
        f"captures/<capture>/timesync.csv below {videos.root}",
    )
    names = names_of_classes(spellings)
    return with_labels(found, names, min_instances, videos.dropped, videos.origin(annotations))


class EgoExoVideos(AriaVideos):
    """The takes of Ego-Exo4D below a folder; `takes` are the entries of takes.json with their places, by uid."""

    def __init__(self, root: Path) -> None:
        super().__init__(root if (root / "takes.json").is_file() else Path(os.path.normpath(root / "..")))
        if not (self.root / "takes.json").is_file():
            raise DataError(f"{root / 'takes.json'}: not there; give the folder that has it as {named('root')}")
        self.takes: dict[str, tuple[str, dict[str, Any]]] = {}
        entries: dict[str, dict[str, Any]] = {}
        for where, _, take in json_items(self.root / "takes.json"):
            uid, entry = require_id(where, take.get("take_uid"), ID), {name: take.get(name) for name in TAKE}
            add_once(entries, where, uid, entry)
            self.takes[uid] = where, entry

    def open(self, name: str) -> Recording | str:
        """Return the recording of a take, or the reason why it cannot be used. Raise DataError or VideoError."""
        take = _Take.of(*self.takes[name])
        if take.glasses is None:
            return "the take has no Aria glasses"
        if not take.rows:
            return "the take has no rows of timesync.csv"
        folder, camera = self.root / "takes" / take.name, f"{take.glasses}_214-1"
        aligned = folder / "frame_aligned_videos"
        video = first_file(aligned / f"{camera}.mp4", aligned / "downscaled" / "448" / f"{camera}.mp4")
        if video is None:
            return "the video is missing"
        imu = first_file(folder / f"{take.glasses}_noimagestreams.vrs", folder / f"{take.glasses}.vrs")
        if imu is None:
            return "the take has no VRS file, which has the IMU"
        table = first_file(self.root / "captures" / take.capture / "timesync.csv")
        if table is None:
            return "the capture has no timesync.csv, which has the clock of the IMU"
        if abs((fps := Recording(video).probe().fps) - FPS) > 0.5:
            return (
                f"{video}: has {fps:.2f} frames per second, not {FPS}, so the rows of timesync.csv are not its frames"
            )
        column, rows = f"{camera}_capture_timestamp_ns".lower(), take.rows
        sparse = rows[:: max(1, min(STEP, len(rows) // 100))]
        stamps = [number(where, column, row[column]) for where, row in read_table(Path(table), (column,), rows=sparse)]
        if len(stamps) < len(sparse):
            return f"{table}: ends before row {rows[-1]}, the last one of the take {take.name}; download it again"
        seconds = (np.array(sparse) - rows.start) / FPS
        return self.join(video, imu, FrameTimes(table, np.array(stamps), seconds, len(rows) / FPS), take.participant)


class _Take(NamedTuple):
    """A take."""

    name: str
    capture: str
    glasses: str | None  # camera name, or None
    rows: range  # of timesync.csv
    participant: str | None  # who wears the glasses

    @classmethod
    def of(cls, where: str, take: dict[str, Any]) -> _Take:
        """Return the take of an entry of takes.json. Raise DataError if it is not in this layout."""
        try:
            names = [require_id(where, name, ID) for name in (take["take_name"], take["capture"]["capture_name"])]
            cameras = [camera["cam_id"] for camera in take["capture"]["cameras"] if camera.get("is_ego")]
            glasses = next((camera for camera in cameras if re.fullmatch(r"aria\d+", camera)), None)
            first, last = take["timesync_start_idx"], take["timesync_end_idx"]
            usable = isinstance(first, int) and isinstance(last, int) and 0 <= first < last < MAX_ROW
            rows = range(first, last + 1) if usable else range(0)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{where}: not in the layout of Ego-Exo4D's takes ({type(error).__name__}: {error})"
            ) from error
        participant = take.get("participant_uid")
        return cls(*names, glasses, rows, None if participant is None else str(participant))


def _both_parts(path: Path) -> list[Path]:
    """Return the file, and the one of the other split beside it if its name has the usual form."""
    other = {"keystep_train.json": "keystep_val.json", "keystep_val.json": "keystep_train.json"}.get(path.name)
    return [path, path.with_name(other)] if other and path.with_name(other).is_file() else [path]


def _official_splits(path: Path, root: Path) -> Mapping[str, str]:
    """Return the split of each take in splits.json, which is beside the keysteps; none if there is no such file."""
    table = first_file(path.with_name("splits.json"), root / "annotations" / "splits.json")
    content = files.read_json(table) if table else {"take_uid_to_split": {}}
    splits = content.get("take_uid_to_split") if isinstance(content, dict) else None
    if not isinstance(splits, dict):
        raise DataError(f"{table}: no 'take_uid_to_split', as splits.json of Ego-Exo4D has")
    return splits


def _split_of(path: Path, splits: Mapping[str, str], uid: str) -> str:
    """Return the split of a take. Raise DataError if nothing says which it is."""
    word = str(splits.get(uid) or path.stem.rpartition("_")[2])
    if word not in SPLITS:
        raise DataError(
            f"{path}: the split of the take {uid} is unknown; put splits.json beside the file, or give it the name "
            f"keystep_train.json or keystep_val.json"
        )
    return SPLITS[word]


def _keystep(where: str, step: Any) -> tuple[str, str, float, float]:
    """Return class, name, start and stop of a keystep; the class is "" if it has none."""
    if not isinstance(step, dict):
        raise DataError(f"{where}: not a JSON object")
    label = step.get("step_unique_id")
    start, stop = (number(where, name, step.get(name)) for name in ("start_time", "end_time"))
    return "" if label is None else str(label), str(step.get("step_name") or label), start, stop


# ---------------------------------------------------------------------------------------------------------------
# The table

COLUMNS = ("video", "start", "stop", "label", "imu", "split", "id", "imu_offset", "imu_stretch", "wearer")
FILES = ("video", "imu")


def write_csv(segments: SegmentList, path: Path) -> None:
    """Write segments as a table that `data.read_csv()` reads. Raise FileExistsError for a file that is there."""
    with open(path, "x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for segment in segments:
            row = dataclasses.asdict(segment) | {name: os.path.abspath(getattr(segment, name)) for name in FILES}
            writer.writerow([row[name] for name in COLUMNS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "HD_EPIC_Narrations.csv of HD-EPIC; keystep_train.json or keystep_val.json of Ego-Exo4D"
    parser.add_argument("annotations", type=Path, help=text)
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--out", type=Path, required=True, help="table of segments, a new CSV")
    parser.add_argument("--min-instances", type=int, default=1, help="leave out classes with fewer segments")
    given = parser.parse_args()
    read = read_ego_exo4d if given.annotations.suffix.lower() == ".json" else read_hd_epic
    try:
        segments = read(given.annotations, given.root, min_instances=given.min_instances)
        write_csv(segments, given.out)
    except (DataError, OSError) as error:
        sys.exit(describe_error(error))
    print(f"{given.out}: {pluralize(len(segments), 'segment')}")
    for reason, count in segments.dropped.items():
        print(f"left out {count}: {reason}")


if __name__ == "__main__":
    main()
