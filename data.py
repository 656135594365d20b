"""Prepare a clip store from segments of videos: every clip is decoded once, by several processes.

    from egodistill import data

    segments = data.read_epic_kitchens("EPIC_100_train.csv", "/videos/EPIC-KITCHENS")
    print(segments.dropped)                             # {reason: number of annotations left out}
    store = data.prepare(segments, "store", num_frames=(1, 8), clip_frames=16)
    train = store.split("train")
    batch = train.read("frames_8", [0, 5, 7])           # uint8 [3, 8, 3, 224, 224], RGB
    imu = train.read("imu", [0, 5, 7])                  # float32 [3, 422, 6], m/s2 and rad/s

The data flow, and the module of each step:

    annotations --read_*--> [Segment] --prepare()--> ClipStore --read()--> numpy arrays
      annotations.py       segments.py  clips.py         store.py

A *segment* is an annotated part of a video, a *clip* a window of 64/30 s inside it (`clip_seconds`). Segments need no
label:
`read_recordings("films")` makes one for each clip of a folder of recordings. This module re-exports what users of a
store need from the other modules. Times are seconds on the video's own clock, the one a player shows: zero is the
start of the file.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import json
import math
import numbers
import os
import time
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .datasets import edits, table_checks
from .datasets.annotations import read_ego4d, read_epic_kitchens, read_labels
from .datasets.background import with_background
from .datasets.one_pass import Consumer, Pending
from .datasets.segments import (
    RECORDED,
    Segment,
    SegmentList,
    Windows,
    read_csv,
    read_recordings,
    with_imu_axes,
    with_imu_offsets,
)
from .datasets.store import ClipStore, StoreWriter, folds
from .datasets.store_files import with_stored_names
from .imu import MAX_GAP, CoverageError, Imu, IMUError
from .recordings.clips import decode_clips
from .recordings.recording import Recording, open_recording, parts_in_use, probe_videos, use_parts
from .recordings.sensors import read_imu
from .recordings.spec import ClipSpec, clip_starts, frames_name, read_axes, spec_differences
from .support import files
from .support.defaults import CLIP_SECONDS, IMU_RATE, IMU_SAMPLES
from .support.errors import DataError, NoteWarning, named
from .support.names import real_path
from .support.processes import CRASHES, Processes, Watch, explain
from .support.tables import pluralize
from .video import DRAWN, MAX_HOLD, VideoError, VideoInfo, clip_times, frames_at, probe, read_frames

__all__ = [
    "CLIP_SECONDS",
    "IMU_RATE",
    "IMU_SAMPLES",
    "ClipSpec",
    "ClipStore",
    "CoverageError",
    "DataError",
    "IMUError",
    "Imu",
    "Recording",
    "Segment",
    "SegmentList",
    "VideoError",
    "VideoInfo",
    "Windows",
    "clip_starts",
    "clip_times",
    "folds",
    "frames_at",
    "open_recording",
    "prepare",
    "probe",
    "read_csv",
    "read_ego4d",
    "read_epic_kitchens",
    "read_frames",
    "read_imu",
    "read_labels",
    "read_recordings",
    "with_background",
    "with_imu_axes",
    "with_imu_offsets",
]


# ---------------------------------------------------------------------------------------------------------------
# Clips and arrays of a store


def find_clips(segments: Sequence[Segment], videos: Mapping[str, VideoInfo], seconds: float) -> list[tuple[int, float]]:
    """Return (index of its segment, start in seconds) of each clip, which is `seconds` long.

    `videos` are the headers of those that can be read; for others, the reason is reported when clips are decoded.
    """
    durations = {path: info.duration for path, info in videos.items()}
    clips = []
    for i, segment in enumerate(segments):
        try:
            starts = clip_starts(segment.start, segment.stop, durations.get(segment.path, math.inf), seconds)
        except DataError:  # still add its clips: they fail when they are decoded, with this reason
            starts = clip_starts(segment.start, segment.stop, math.inf, seconds)
        clips += [(i, start) for start in starts]
    return clips


def find_imu(recording: Recording) -> Recording:
    """Return the recording; if it names no IMU, add what `open_recording()` finds for its video.

    Raise DataError or VideoError for a recording that cannot be opened.
    """
    if recording.imu is not None:
        return recording
    given = asdict(recording)
    return open_recording(given.pop("video"), **given)


def name_imu_files(segments: Iterable[Segment], imu: bool = True) -> list[Segment]:
    """Return the segments; those that name no IMU get what `find_imu()` finds for their video.

    Without `imu` they get the video and the wearer only. The store records the result, so that every process of
    `prepare()` reads the same recording. A recording that cannot be opened stays as it is: `fill()` tries again, and
    its clips fail with the reason.
    """
    changes: dict[tuple, dict[str, Any]] = {}  # {what a recording is made of: the fields of its segments that change}
    result = []
    for segment in segments:
        key = RECORDED(segment), segment.camera
        if key not in changes:
            named = segment.recording
            with contextlib.suppress(DataError, VideoError):
                named = find_imu(named)
            fields = named.record() if imu else {"video": named.video, "wearer": named.wearer, "camera": ""}
            changes[key] = {name: value for name, value in fields.items() if value != getattr(segment, name)}
        result.append(replace(segment, **changes[key]) if changes[key] else segment)
    return result


def clip_specs(settings: Mapping[str, Any], imu_axes: str = "gopro") -> dict[str, ClipSpec]:
    """Return the spec of each array for these settings of `prepare()`; `imu_axes` names the axes of the IMU samples."""
    seconds, rate = settings["clip_seconds"], settings["imu_rate"]
    plain = {name: settings[name] for name in ("exact", "tolerance")}
    plain |= {"size": settings["frame_size"], "seconds": seconds}
    frames = [
        ClipSpec(frames=count, sampling=rule, seed=settings["seed"] or 0, **plain)
        for rule in settings["sampling"]
        for count in settings["num_frames"]
    ]
    specs = {frames_name(spec): spec for spec in frames}
    if settings["ends"]:
        specs["ends"] = ClipSpec(frames=2, sampling="ends", **plain)
    if settings["clip_frames"]:  # teachers always read exact frames
        specs["clip"] = ClipSpec(frames=settings["clip_frames"], size=settings["clip_size"], crop=True, seconds=seconds)
    if settings["imu"]:
        samples = max(1, round(rate * seconds))  # as a student computes it
        specs["imu"] = ClipSpec(imu_samples=samples, imu_rate=rate, imu_axes=imu_axes, seconds=seconds)
    return specs


def _class_names(segments: Sequence[Segment], class_names: Sequence[str] | None) -> list[str]:
    labels = {segment.label for segment in segments if segment.label is not None}
    names = sorted(labels) if class_names is None else list(class_names)
    if len(set(names)) < len(names):
        raise DataError(f"{named('class_names')} contains {max(names, key=names.count)!r} more than once")
    names += {segment.label for segment in segments if segment.is_background} - set(
        names
    )  # `distill()` knows a teacher that lacks it
    if unknown := sorted(labels - set(names)):
        first = next(segment for segment in segments if segment.label == unknown[0])
        raise DataError(
            f"{first.video}: the segment at {first.start:.3f} s has the label {unknown[0]!r}, which is not among the "
            f"{len(names)} {named('class_names')}, perhaps a teacher's; correct it, or finetune a teacher on the labels"
        )
    return names


def _check_settings(given: Mapping[str, Any]) -> None:
    """Raise DataError, which names the setting, if an argument of `prepare()` is of another type or out of range."""
    for name in ("imu", "ends", "exact", "zero_accel", "retry_failed", "progress", "strict"):
        if not isinstance(given[name], bool):
            way_out = "; files are in the table's column imu, or data.Segment(imu=...)" if name == "imu" else ""
            raise DataError(f"{name} must be True or False; got {given[name]!r}{way_out}")
    whole, number = numbers.Integral, numbers.Real
    counts = ("num_frames", "frame_size", "clip_frames", "clip_size", "workers")
    ranges = {
        "a whole number, at least 1": (counts, whole, lambda value: value >= 1),
        "above 0 and at most 1": (("min_coverage",), number, lambda value: 0 < value <= 1),
        "from 0 to 1": (("max_bad",), number, lambda value: 0 <= value <= 1),
        "above 0 s": (("max_gap", "max_hold"), number, lambda value: value > 0),
        "above 0 s, and finite": (("clip_seconds",), number, lambda value: 0 < value < math.inf),
        "above 0 Hz, and finite": (("imu_rate",), number, lambda value: 0 < value < math.inf),
    }
    for allowed, (names, kind, fits) in ranges.items():  # comparisons with NaN are false
        for name in names:
            value = given[name]
            if value is None and name in ("clip_frames", "workers"):
                continue
            for one in value if name == "num_frames" and isinstance(value, Collection) else [value]:
                if isinstance(one, bool) or not isinstance(one, kind) or not fits(one):
                    raise DataError(f"{named(name)} must be {allowed}; got {value!r}")


def _consumer_record(consumer: Consumer, settings: Mapping[str, Any], world_size: int) -> dict[str, Any]:
    """Return what a store records of a consumer. Raise DataError if it does not fit the settings of `prepare()`."""
    if not hasattr(consumer, "specs"):
        raise DataError(f"a {type(consumer).__name__} is no consumer; give a teacher as teachers.Extraction(teacher)")
    if (settings["clip_frames"] is not None and "clip" in consumer.specs) or world_size > 1:
        raise DataError(
            "a consumer reads its own frames, and one process prepares its store: leave out "
            f"{named('clip_frames')}, rank and world_size, and unset the environment variables RANK and WORLD_SIZE"
        )
    for spec in consumer.specs.values():
        if not math.isclose(spec.seconds, seconds := settings["clip_seconds"], rel_tol=1e-6):
            raise DataError(
                f"{consumer.record.get('teacher', 'the consumer')} reads clips of {spec.seconds:.7g} s, those of the "
                f"store have {seconds:.7g} s; build the teacher with seconds={seconds}, or prepare its clips with "
                f"{named('clip_seconds', spec.seconds)}"
            )
    if "ends" in consumer.specs:
        wanted = clip_specs({**settings, "ends": True})["ends"]
        for field, (own, asked) in spec_differences(consumer.specs["ends"], wanted).items():
            raise DataError(
                f"the consumer reads end frames with {field}={own!r}, but {named('prepare()')} is asked for "
                f"{asked!r}; build the consumer's model with the frame_size, exact and tolerance of prepare()"
            )
    specs = {name: spec.record() for name, spec in consumer.specs.items()}
    about = {"arrays": list(consumer.arrays), "specs": specs, "batch_size": consumer.batch_size}
    return {**consumer.record, **about}


def require_videos(segments: Sequence[Segment], reads: Sequence[str], way_out: str) -> None:
    """Raise DataError if a recording has no video, but something is read from it, such as "frames_1".

    `way_out` is how to read head motion alone.
    """
    lacking = list(dict.fromkeys(segment.path for segment in segments if not segment.video))
    if lacking and reads:
        count = len({segment.path for segment in segments})
        raise DataError(
            f"{lacking[0]}: has no video, as {len(lacking)} of {pluralize(count, 'recording')}, and so no {reads[0]}; "
            f"read head motion alone, {way_out}, or leave these recordings out"
        )


def _imu_axes(segments: Sequence[Segment]) -> str:
    """Return the name of the axes that the IMU samples of all segments have. Raise DataError if they differ."""
    axes = sorted({read_axes(segment.imu_axes)[0] for segment in segments})
    if len(axes) > 1:
        raise DataError(
            f"the IMU samples of the segments have the axes {' and '.join(axes)}; give {named('imu_axes')}, the "
            f"rotation to a GoPro's axes, where they differ, or prepare one store for each name"
        )
    return axes[0]


# ---------------------------------------------------------------------------------------------------------------
# prepare()


def prepare(
    segments: Sequence[Segment],
    out: str | os.PathLike,
    *,
    num_frames: int | Sequence[int] = (1,),
    frame_size: int = 224,
    clip_frames: int | None = None,
    clip_size: int = 224,
    clip_seconds: float = CLIP_SECONDS,
    imu: bool = True,
    imu_rate: float = IMU_RATE,
    ends: bool = True,
    sampling: str | Sequence[str] = "uniform",
    seed: int = 0,
    exact: bool = True,
    tolerance: float = 0.0,
    min_coverage: float = 0.95,
    max_gap: float = MAX_GAP,
    max_hold: float = MAX_HOLD,
    zero_accel: bool = False,
    workers: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    max_bad: float = 0.1,
    retry_failed: bool = False,
    progress: bool = True,
    class_names: Sequence[str] | None = None,
    consumer: Consumer | None = None,
    strict: bool = False,
) -> ClipStore:
    """Decode every clip of `segments` once into the folder `out`, and return its store.

    The arrays have one row per clip (see `ClipStore`):

    - `frames_N` uint8 [n, N, 3, frame_size, frame_size] for each N of `num_frames`: the whole frame, resized to the
      square as in the paper. `frames_N.times` float64 [n, N] are the times of the frames.
    - `ends` uint8 [n, 2, 3, frame_size, frame_size]: the frames at the clip's start and end.
    - `clip` uint8 [n, clip_frames, 3, clip_size, clip_size], for teachers: the centre square of each frame,
      undistorted.
    - `imu` float32 [n, imu_rate * clip_seconds, 6], by default 422 samples: accelerometer in m/s2, gravity included,
      and gyroscope in rad/s.

    The same call continues a run that was killed. A clip that cannot be decoded is recorded with the reason in
    `failures.jsonl`; later calls skip it, unless `retry_failed` is given. If a file has changed since its clips were
    prepared (its size, or its first or last 16 kB), the call fails, unless `retry_failed` prepares them all again.

    With segments of an edited table, of which most are still there, the store becomes that of the new ones (`edits`):
    only clips that are new are decoded. A NoteWarning says what has changed.

    Several machines can fill one folder: each call decodes a share of the recordings. The machines do not communicate
    and may start at any time. Pass `**files.environment_share()` to take `rank` and `world_size` from torchrun.

    Args:
        segments: The parts of videos whose clips are decoded, as the readers of this module return them.
        out: The folder of the store; new, or that of an earlier call with the same settings.
        num_frames: N, the number of frames of a student; several numbers give several arrays. [] with `ends=False`:
            head motion alone, also of recordings without a video.
        frame_size: Height and width of `frames_N` and `ends` in pixels.
        clip_frames: Number of frames of `clip`; None: do not write this array.
        clip_size: Height and width of `clip` in pixels.
        clip_seconds: Length of a clip; the default is the paper's, 64/30 s.
        imu: False: do not write `imu`.
        imu_rate: Rate of `imu` in Hz.
        ends: False: do not write `ends`.
        sampling: One rule of `clip_times()`, or several. "uniform" takes the centres of N equal parts of the clip; the
            other rules are part of the array's name, such as `frames_N_first`.
        seed: The seed of the rules "random" and "ages".
        exact: False: `frames_N` and `ends` are the nearest key frames, which cost far less to decode.
        tolerance: Seconds. Above 0, such as 0.25, `frames_N` and `ends` are those that are cheapest to decode within
            this time of the exact ones.
        min_coverage: A clip fails if a sensor covers less than this share of it.
        max_gap: Seconds. Parts where IMU samples are further apart are not covered.
        max_hold: Seconds. A clip fails if one of its frames would be on screen for longer: a hole in the recording.
        zero_accel: The option of `read_imu()`.
        workers: Number of processes, which decode one video each; None: one per core; 1: no other process, except with
            a `consumer`.
        rank: Number of the first recording that this call decodes.
        world_size: Of the recordings from `rank` on, decode every `world_size`-th.
        max_bad: The largest share of clips that may fail, 0 to 1.
        retry_failed: Try failed clips again, and those of files that have changed. Let earlier calls end first.
        progress: Show a progress bar on stderr.
        class_names: The classes in their order; None: the labels, sorted. The class "(none)" follows them if they lack
            it and a segment has it. A store without any label has no classes until `teachers.extract()` gives it the
            teacher's.
        consumer: A reader of the frames of all clips while they are decoded, on one machine only.
            `teachers.Extraction(teacher)` writes a teacher's outputs, so that the store needs no `clip`, which is most
            of its size; `distillation.EndFeatures(model)` writes image features instead of `ends`, which is most of the
            rest; `one_pass.ConsumerGroup` runs both.
        strict: What looks wrong in the table of the segments, such as rows twice, is an error instead of a warning
            (`table_checks.TableWarning`).

    Raises:
        DataError: If a setting does not fit, a recording without a video is to give frames, `out` is a file or has
            other content, a label but "(none)" is not among `class_names`, the table of the segments contradicts
            itself (`contradictions`), the IMU axes of the segments differ, the disk has too little free space, or, at
            the end, more than the share `max_bad` of the clips failed.

    >>> from egodistill import data
    >>> segments = data.read_csv("segments.csv")
    >>> store = data.prepare(segments, "walk-store", num_frames=(1, 4), frame_size=64, workers=1, progress=False)
    >>> len(store), store.names, store.class_names
    (2, ['frames_1', 'frames_4', 'ends', 'imu'], ['look around', 'walk'])
    >>> store.read("frames_4", [0, 1]).shape
    (2, 4, 3, 64, 64)
    """
    _check_settings(locals())
    if isinstance(segments, (str, os.PathLike)):
        raise DataError(f"segments is the path {os.fspath(segments)!r}; read it with read_csv() or another reader")
    origin, segments = getattr(segments, "origin", None), list(segments)
    if wrong := [one for one in segments if not isinstance(one, Segment)]:
        raise DataError(f"segments has {wrong[0]!r}, which is no data.Segment; read_csv() and others return them")
    home = Path(real_path(out))  # of a link, too
    segments = SegmentList(name_imu_files(with_stored_names(out, segments), imu), origin=origin)
    settings = {
        "num_frames": sorted({int(n) for n in num_frames} if isinstance(num_frames, Collection) else {int(num_frames)}),
        "frame_size": int(frame_size),
        "clip_frames": None if clip_frames is None else int(clip_frames),
        "clip_size": int(clip_size),
        "clip_seconds": float(clip_seconds),
        "imu": imu,
        "imu_rate": float(imu_rate),
        "ends": ends,
        "sampling": [sampling] if isinstance(sampling, str) else list(dict.fromkeys(sampling)),
        "seed": seed if any(rule in sampling for rule in DRAWN) else None,
        "exact": exact,
        "tolerance": tolerance,
        "min_coverage": min_coverage,
        "max_gap": max_gap,
        "max_hold": max_hold,
        "zero_accel": zero_accel,
        "consumer": None,
    }
    if consumer is not None:
        settings["consumer"] = _consumer_record(consumer, settings, world_size)
        settings["ends"] = ends and "ends" not in consumer.specs
    if not segments:
        raise DataError("no segments to prepare; give at least one")
    specs = clip_specs(settings, _imu_axes(segments)) if imu else clip_specs(settings)
    names = _class_names(segments, class_names)
    workers = workers or files.available_cores()
    files.check_share(rank, world_size)
    edited = edits.is_edited(home, segments, settings, specs)
    is_new = edited or not os.path.exists(os.path.join(out, "store.json"))
    videos = edits.known_videos(home) if edited and not strict else {}
    require_videos(
        segments,
        [name for name, spec in specs.items() if not spec.imu_samples],
        "prepare(num_frames=[], ends=False) (`egodistill prepare --no-frames`)",
    )
    if is_new or strict:
        videos |= probe_videos([one for one in segments if one.path not in videos], workers)
    found = table_checks.find(segments, videos, clip_seconds=clip_seconds)
    for note in table_checks.notes_of(found, strict=strict):
        if rank == 0:
            warnings.warn(note, table_checks.TableWarning, stacklevel=2)
    clips = functools.partial(find_clips, segments, videos, clip_seconds)
    if edited:
        header = {"class_names": names, "left_out": bool(origin and (origin.left_out or origin.is_sparse))}
        find = functools.partial(_with_imu, zero_accel)
        one_of_each = {RECORDED(one): one for one in segments}.values()
        StoreWriter(home).changed_sources([one.recording for one in one_of_each], again=retry_failed)
        change = edits.apply(home, segments, header, clips(), videos, find)
    store = StoreWriter.begin(out, segments, clips, specs, names, settings=settings, videos=videos)
    store.check_sources(again=retry_failed)
    if edited:
        if consumer is not None:
            Pending(store).tidy()  # clips whose outputs went with their classes are decoded again
        count = pluralize(len(store.missing()), "clip")
        warnings.warn(f"{out}: {change}: {count} to decode", NoteWarning, stacklevel=2)
    _fill_share(store, rank, world_size, retry_failed, consumer, workers, progress)
    store.merge()
    _check_failures(ClipStore(out, unfinished=True), len(store), max_bad)
    return ClipStore(out, unfinished=True)


def _fill_share(
    store: StoreWriter,
    rank: int,
    world_size: int,
    retry_failed: bool,
    consumer: Consumer | None,
    workers: int,
    progress: bool,
) -> None:
    """Decode the missing clips of this process's share of a store."""
    share = store.share(rank, world_size)
    if retry_failed:
        for rows in share:
            store.retry(rows)
    if consumer is not None:
        Pending(store).tidy()
    jobs = [store.missing(rows).tolist() for rows in share]
    by_size = sorted(filter(None, jobs), key=len, reverse=True)  # the longest first, so that no process ends late
    processes = min(workers, len(by_size))
    if consumer is not None:
        fill_for_consumer(consumer, store, sorted(by_size), max(1, processes), progress)
    else:
        missing = len(store.missing())
        bar = files.Progress("prepare", missing, show=progress and missing > 0)
        with Watch(bar, lambda: missing - len(store.missing())):
            if processes > 1:
                fill_in_processes(store, by_size, processes)
            else:
                for rows in by_size:
                    fill(store, rows)


def _check_failures(store: ClipStore, total: int, max_bad: float) -> None:
    """Raise DataError if too many clips failed; warn if some did."""
    failures = store.failures
    if failures:
        share = len(failures) / total
        file = store.path / "failures.jsonl"
        text = (
            f"{len(failures)} of {total} clips ({share:.1%}) could not be prepared; "
            f"the reasons are in {file}. The first: {failures[0]['reason']}"
        )
        if share > max_bad:
            raise DataError(
                f"{text}. That is more than {named('max_bad')}, {max_bad:.1%}; the other clips are kept. Correct the "
                f"files and run again with {named('retry_failed', True)}; to correct start or stop of a segment, begin "
                f"again in another folder"
            )
        warnings.warn(text, NoteWarning, stacklevel=3)


def fill_for_consumer(
    consumer: Consumer, store: StoreWriter, jobs: Sequence[list[int]], workers: int, progress: bool
) -> None:
    """Decode clips in processes, and give their frames to a consumer in batches, in the order of the store.

    A batch waits until all clips before its last one are finished or have failed. The batches are therefore those that
    `teachers.extract()` forms on the finished store, in whichever order the clips are decoded.
    """
    pending, processes = Pending(store), _Filling(store, jobs, workers)
    with (
        consumer.open(ClipStore(store.path, unfinished=True).everything()) as consume,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
        files.Progress("prepare", len(store), show=progress) as bar,
    ):
        decoding = pool.submit(processes.run)
        try:
            while True:
                ended, missing, rows = decoding.done(), store.missing(), pending.lacking()
                bar.update(len(store) - len(missing) - len(rows))
                rows = rows[: consumer.batch_size]
                if len(missing) and not (len(rows) == consumer.batch_size and rows[-1] < missing[0]):
                    if ended:
                        break
                    time.sleep(0.05)
                    continue
                if not len(rows):
                    break
                consume(rows, pending.read(rows))
                pending.remove(rows)
        finally:
            processes.stop()
        decoding.result()
    with contextlib.suppress(OSError):
        pending.folder.rmdir()


# ---------------------------------------------------------------------------------------------------------------
# One recording


def _with_imu(zero_accel: bool, recording: Recording) -> Recording:
    """Return a recording with the IMU that the clips of a store read; `zero_accel` as in `prepare()`."""
    recording = find_imu(recording)
    return replace(recording, zero_accel=recording.zero_accel or zero_accel)


def fill(store: StoreWriter, rows: Sequence[int]) -> None:
    """Decode these clips, all of one recording, into the store; each is finished or failed afterwards."""
    recording = store.segment(rows[0]).recording
    try:
        if "imu" in store.specs:
            recording = _with_imu(store.settings["zero_accel"], recording)
        duration, sources = recording.duration, recording.files[:1]
        if "imu" in store.specs:
            store.note(recording.imu_source, recording.motion().notes)
            sources = recording.files
        store.record_sources(sources)
    except (DataError, IMUError, VideoError) as error:
        for row in rows:
            store.fail(row, error)
        return
    specs, pending = dict(store.specs), None
    if store.settings.get("consumer"):
        pending = Pending(store)
        specs |= pending.specs
    starts = {}
    for row in rows:
        start = min(store.start(row), max(0.0, duration - store.clip_seconds))
        if max(store.segment(row).start, store.start(row)) >= duration:
            what = "video ends" if recording.video else "samples end"
            store.fail(row, f"{recording.path}: the {what} at {duration:.3f} s, before the clip starts")
            continue
        if start < store.start(row):  # `find_clips()` did not know the duration of the video
            store.move(row, start)
        starts[row] = start
    limits = {name: store.settings[name] for name in ("min_coverage", "max_gap", "max_hold")}
    for row, found in decode_clips(recording, starts, specs, **limits):
        if isinstance(found, Exception):
            store.fail(row, found)
            continue
        if pending:
            pending.put(row, {name: found.pop(name) for name in pending.specs}, rows)
            for name in pending.specs:
                del found[f"{name}.times"]
        store.write(row, found)


# ---------------------------------------------------------------------------------------------------------------
# Several processes


def fill_in_processes(store: StoreWriter, jobs: Sequence[list[int]], workers: int) -> None:
    """Fill a store in `workers` processes at a time, each for a bundle of recordings.

    If a decoder crashes, only its recording fails.
    """
    _Filling(store, jobs, workers).run()


class _Filling(Processes):
    """Processes that fill a store; a bundle is a list of recordings, each a list of rows."""

    def __init__(self, store: StoreWriter, jobs: Sequence[list[int]], workers: int) -> None:
        size = max(1, len(jobs) // (8 * workers))  # small enough to balance, large enough to start a process for
        bundles = [jobs[i : i + size] for i in range(0, len(jobs), size)]
        parts = parts_in_use(store.segment(rows[0]).recording for rows in jobs) if "imu" in store.specs else {}
        super().__init__("data.fill_bundle", json.dumps([str(store.path), parts]), bundles, workers)
        self.store = store

    def handle_exit(self, bundle: list[list[int]], code: int) -> None:
        """Handle a process that left rows missing: fail the recording if it crashed, else raise DataError."""
        left = [rows for rows in bundle if len(self.store.missing(rows))]
        if not left:
            return
        video = self.store.segment(left[0][0]).path
        if code not in CRASHES:
            raise DataError(
                f"the process that decoded {video} ended with code {code} ({explain(code)}); finished clips are kept, "
                "and the same call continues"
            )
        for row in self.store.missing(left[0]).tolist():
            self.store.fail(row, f"{video}: the video crashed the decoder (code {code})")
        if left[1:]:
            self.bundles.put(left[1:])


def fill_bundle(argument: str, bundle: Sequence[list[int]]) -> None:
    """Run in a process of `prepare()`: fill these rows of a store, by recording, with what is the user's own."""
    path, parts = json.loads(argument)
    if parts:
        use_parts(parts)
    store = StoreWriter(path)
    for rows in bundle:
        fill(store, rows)
