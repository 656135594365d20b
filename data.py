"""Segments of videos -> a clip store: every clip is decoded once, by many processes.

    from egodistill import data

    segments = data.read_epic_kitchens("EPIC_100_train.csv", "/videos/EPIC-KITCHENS")
    print(segments.dropped)                             # what was left out, and why
    store = data.prepare(segments, "store", num_frames=(1, 8), clip_frames=16)
    train = store.split("train")
    batch = train.read("frames_8", [0, 5, 7])           # uint8 [3, 8, 3, 224, 224], RGB
    imu = train.read("imu", [0, 5, 7])                  # float32 [3, 422, 6], m/s2 and rad/s

The data flow, and the module of each step::

    annotations --read_*--> [Segment] --prepare()--> ClipStore --read()--> numpy arrays
      annotations.py                  clips.py           store.py

A *segment* is an annotated stretch of a video, a *clip* a window of 64/30 s inside it. What users of a store need from
the other modules can be had here, too. Times are seconds on the video's own clock, the one a player shows: zero is
where the file starts.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import faulthandler
import functools
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from egodistill import CLIP_SECONDS, IMU_RATE, IMU_SAMPLES, DataError, files
from egodistill.annotations import Segment, SegmentList, read_csv, read_ego4d, read_epic_kitchens, with_imu_offsets
from egodistill.clips import ClipSpec, Recording, clip_starts, decode_clips, frames_name, open_recording
from egodistill.imu import MAX_GAP, CoverageError, Imu, IMUError, read_imu
from egodistill.store import ClipStore, StoreWriter, folds
from egodistill.video import (
    VideoError,
    VideoInfo,
    clip_times,
    frames_at,
    log_mel,
    probe,
    read_audio,
    read_frames,
)

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
    "Recording",
    "open_recording",
    "ClipSpec",
    "clip_starts",
    "clip_times",
    "prepare",
    "ClipStore",
    "folds",
    "DataError",
    "IMUError",
    "VideoError",
    "CoverageError",
    "CLIP_SECONDS",
    "IMU_RATE",
    "IMU_SAMPLES",
]


# ---------------------------------------------------------------------------------------------------------------
# Which clips, and the arrays of a store


def find_clips(segments: Sequence[Segment], workers: int) -> list[tuple[int, float]]:
    """Return the segment's number and the start of each clip; ``workers`` threads look how long the videos are."""
    videos = sorted({segment.video for segment in segments})
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        durations = dict(zip(videos, pool.map(_duration, videos), strict=True))
    clips = []
    for i, segment in enumerate(segments):
        try:
            starts = clip_starts(segment.start, segment.stop, durations[segment.video])
        except DataError:  # one clip, which will fail with this reason
            starts = clip_starts(segment.start, segment.stop, math.inf)
        clips += [(i, start) for start in starts]
    return clips


def _duration(video: str) -> float:
    try:
        return probe(video).duration
    except VideoError:  # reported when its clips are read
        return math.inf


def clip_specs(settings: Mapping[str, Any]) -> dict[str, ClipSpec]:
    """Return what a clip holds in each array that these settings of `prepare()` ask for."""
    plain = {"size": settings["frame_size"], "exact": settings["exact"]}
    frames = [
        ClipSpec(frames=count, sampling=rule, seed=settings["seed"] or 0, **plain)
        for rule in settings["sampling"]
        for count in settings["num_frames"]
    ]
    specs = {frames_name(spec): spec for spec in frames}
    if settings["ends"]:
        specs["ends"] = ClipSpec(frames=2, sampling="ends", **plain)
    if settings["clip_frames"]:  # of exact frames in any case
        specs["clip"] = ClipSpec(frames=settings["clip_frames"], size=settings["clip_size"], crop=True)
    if settings["imu"]:
        specs["imu"] = ClipSpec(imu_samples=IMU_SAMPLES)
    if settings["audio"]:
        specs["audio"] = ClipSpec(audio=True)
    return specs


def _class_names(segments: Sequence[Segment], class_names: Sequence[str] | None) -> list[str]:
    labels = {segment.label for segment in segments if segment.label is not None}
    names = sorted(labels) if class_names is None else list(class_names)
    if len(set(names)) < len(names):
        raise DataError("class_names holds a name twice")
    if unknown := sorted(labels - set(names)):
        raise DataError(f"the label {unknown[0]!r} is not among the {len(names)} class_names")
    return names


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
    imu: bool = True,
    audio: bool = False,
    ends: bool = True,
    sampling: str | Sequence[str] = "uniform",
    seed: int = 0,
    exact: bool = True,
    min_coverage: float = 0.95,
    max_gap: float = MAX_GAP,
    zero_accel: bool = False,
    workers: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    max_bad: float = 0.1,
    retry_failed: bool = False,
    progress: bool = True,
    class_names: Sequence[str] | None = None,
) -> ClipStore:
    """Decode every clip of ``segments`` once, into the folder ``out``; finish it if it was begun.

    The arrays, one row per clip (see ClipStore):

    - ``frames_N`` uint8 [n, N, 3, frame_size, frame_size] for each N of ``num_frames``, at the
      centres of N equal parts of the clip; squeezed to the square, as in the paper. With other
      rules of ``clip_times`` in ``sampling``, one or several, ``frames_N_first`` and so on
      (``seed`` is that of "random"). Without ``exact`` these and the ends are the nearest key
      frames, which cost far less. Beside each, ``frames_N.times`` float64 [n, N]: when they were
      taken
    - ``ends`` uint8 [n, 2, 3, frame_size, frame_size]: the frames at the clip's start and end
    - ``clip`` uint8 [n, clip_frames, 3, clip_size, clip_size], for video teachers, which want an
      undistorted picture: its centre square
    - ``imu`` float32 [n, 422, 6]: accelerometer in m/s2, gyroscope in rad/s, gravity included. A
      clip of which a sensor covers less than ``min_coverage``, without gaps over ``max_gap``
      seconds, fails; ``zero_accel`` is read_imu's
    - ``audio`` float32 [n, 201, 40]: log mel bands of the clip's middle two seconds, see log_mel

    ``workers`` processes read a video each (None: one per core, 1: all in this process). A call
    that was killed at any moment goes on where it stopped when it is made again. A clip that cannot
    be read is recorded with its reason in ``failures.jsonl`` and left alone until ``retry_failed``.

    Several machines share the work over a common folder: each call reads the recordings of its
    ``rank`` of ``world_size``, by default all. They need not know each other, and may begin at any
    time; what one that died leaves undone is done when it is started again. Variables such as
    torchrun's are not looked at: `files.environment_share()` gives what they say.

    ``class_names`` fixes the order of the classes (default: the labels, sorted).

    Raise DataError if ``out`` holds something else, a label is not among ``class_names``, the
    disk is too small, or, once all is done, more than the share ``max_bad`` of the clips failed.
    """
    segments = list(segments)
    settings = {
        "num_frames": [num_frames] if isinstance(num_frames, int) else sorted(set(num_frames)),
        "frame_size": frame_size,
        "clip_frames": clip_frames,
        "clip_size": clip_size,
        "imu": imu,
        "audio": audio,
        "ends": ends,
        "sampling": [sampling] if isinstance(sampling, str) else list(dict.fromkeys(sampling)),
        "seed": seed if "random" in sampling else None,
        "exact": exact,
        "min_coverage": min_coverage,
        "max_gap": max_gap,
        "zero_accel": zero_accel,
    }
    if not segments:
        raise DataError("there are no segments to prepare")
    if min(*settings["num_frames"], frame_size, clip_frames or 1, clip_size) < 1:
        raise DataError(f"frame counts and sizes must be at least 1: {settings}")
    specs = clip_specs(settings)
    names = _class_names(segments, class_names)
    workers = workers or files.available_cores()
    files.check_share(rank, world_size)
    clips = functools.partial(find_clips, segments, workers)
    store = StoreWriter.begin(out, segments, clips, specs, names, settings=settings)
    # Shares are of all recordings, so that they do not depend on how far the others have come.
    share = store.recordings()[rank::world_size]
    if retry_failed:
        for rows in share:
            store.retry(rows)
    jobs = [store.missing(rows).tolist() for rows in share]
    by_size = sorted(filter(None, jobs), key=len, reverse=True)  # the longest must not come last
    processes = min(workers, len(by_size))
    with _Progress(store, progress):
        if processes > 1:
            fill_in_processes(store, by_size, processes)
        else:
            for rows in by_size:
                fill(store, rows)
    return _judged(ClipStore(out, unfinished=True), len(store), max_bad)


def _judged(store: ClipStore, total: int, max_bad: float) -> ClipStore:
    """Return the store; raise DataError if too many of its clips failed, and warn if some did."""
    failures = store.failures
    if failures:
        share = len(failures) / total
        text = (
            f"{len(failures)} of {total} clips ({share:.1%}) could not be prepared, "
            f"the reasons are in {store.path / 'failures.jsonl'}. The first: {failures[0]['reason']}"
        )
        if share > max_bad:
            raise DataError(f"{text}. That is over max_bad = {max_bad:.1%}; the others are kept.")
        warnings.warn(text, stacklevel=3)
    return store


class _Progress:
    """Shows how many clips are settled, by whatever process, while a `with` block runs."""

    def __init__(self, store: StoreWriter, show: bool) -> None:
        self.store, self.total = store, len(store.missing())
        self.bar = files.Progress("prepare", self.total, show=show and self.total > 0)
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
                self._update()
            self._update()

    def _update(self) -> None:
        self.bar.update(self.total - len(self.store.missing()))


# ---------------------------------------------------------------------------------------------------------------
# The clips of one recording


def fill(store: StoreWriter, rows: Sequence[int]) -> None:
    """Read these clips, all of one recording, into the store; each ends up finished or failed."""
    recording = replace(store.segment(rows[0]).recording, zero_accel=store.settings["zero_accel"])
    try:
        duration = recording.probe().duration
        if "imu" in store.specs:
            store.note(recording.imu_source, recording.motion().notes)
    except (IMUError, VideoError) as error:
        for row in rows:
            store.fail(row, error)
        return
    starts = {}
    for row in rows:
        if store.segment(row).start < duration:
            starts[row] = store.start(row)
        else:
            store.fail(row, f"{recording.video}: ends at {duration:.3f} s, before the segment begins")
    limits = {name: store.settings[name] for name in ("min_coverage", "max_gap")}
    for row, found in decode_clips(recording, starts, store.specs, **limits):
        if isinstance(found, Exception):
            store.fail(row, found)
        else:
            store.write(row, found)


# ---------------------------------------------------------------------------------------------------------------
# Many recordings at a time


def fill_in_processes(store: StoreWriter, jobs: Sequence[list[int]], workers: int) -> None:
    """Have ``fill`` done by ``workers`` processes at a time, each for a bundle of recordings.

    A process imports this module and calls ``serve()``: a caller needs no ``__main__`` guard, no
    lock is forked, and a decoder that crashes costs one recording. All they say to each other lies
    in the store.
    """
    _Processes(store, jobs, workers).run()


class _Processes:
    """Processes that fill a store, and a thread for each that gives it work and looks at how it ends."""

    def __init__(self, store: StoreWriter, jobs: Sequence[list[int]], workers: int) -> None:
        self.store, self.workers = store, workers
        self.bundles: queue.SimpleQueue[list[list[int]]] = queue.SimpleQueue()
        size = max(1, len(jobs) // (8 * workers))  # small enough to spread, large enough to start for
        for i in range(0, len(jobs), size):
            self.bundles.put(list(jobs[i : i + size]))
        self.running: set[subprocess.Popen] = set()
        self.ended = threading.Event()

    def run(self) -> None:
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            try:
                futures = [pool.submit(self._work) for _ in range(self.workers)]
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            finally:
                self.ended.set()
                for process in list(self.running):
                    process.kill()

    def _work(self) -> None:
        """Run in a thread: start a process for one bundle after the other."""
        if hasattr(signal, "pthread_sigmask"):  # The processes inherit this: Ctrl-C is the parent's business.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        while not self.ended.is_set():
            try:
                bundle = self.bundles.get_nowait()
            except queue.Empty:
                return
            code = self._process(bundle)
            if not self.ended.is_set():
                self._look_after(bundle, code)

    def _process(self, bundle: list[list[int]]) -> int:
        """Have a bundle filled by a process and return its exit code."""
        command = [sys.executable, "-c", _WORKER, _package_root(), str(self.store.path)]
        # On Windows a group of its own keeps Ctrl-C from the process, as the signal mask does elsewhere.
        group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, encoding="utf-8", creationflags=group)
        self.running.add(process)
        # The pipe stays open until the process has ended: to the process, its end means that this one has died.
        with contextlib.suppress(OSError):  # It crashed before it read its rows; its exit code is judged later.
            print(json.dumps(bundle), file=process.stdin, flush=True)
        process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()
        self.running.discard(process)
        return process.returncode

    def _look_after(self, bundle: list[list[int]], code: int) -> None:
        """If a process has left rows missing: a crash costs its recording, another end ends the run."""
        left = [rows for rows in bundle if len(self.store.missing(rows))]
        if not left:
            return
        video = self.store.segment(left[0][0]).video
        if code not in _CRASHES:
            raise DataError(
                f"the process that read {video} ended with code {code} "
                f"({_ENDS.get(code, 'what it said stands above')}); what is done "
                "is kept, the same call goes on"
            )
        for row in self.store.missing(left[0]).tolist():
            self.store.fail(row, f"{video}: crashed the decoder (code {code})")
        if left[1:]:
            self.bundles.put(left[1:])


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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be held back, see _Processes._work()
    faulthandler.enable()  # what crashes a decoder is named by its line
    jobs = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        store = StoreWriter(path)
        for rows in jobs:
            fill(store, rows)
    except (DataError, OSError) as error:
        sys.exit(f"prepare: {error}")


def _end_with_parent() -> None:
    """End this process when the other end of stdin closes: its parent has died, and may have been started again.

    The parent's process number is no sign of that: Windows keeps the number of a dead parent.
    """
    os.read(0, 1)
    os._exit(1)
