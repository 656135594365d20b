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
      annotations.py               video.py, imu.py      store.py

A *segment* is an annotated stretch of a video, a *clip* a window of 64/30 s inside it. What users of a store need from
the other modules can be had here, too. Times are seconds on the video's own clock, the one a player shows: zero is
where the file starts.
"""

from __future__ import annotations

import collections
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from egodistill import CLIP_SECONDS, IMU_RATE, IMU_SAMPLES, DataError, files
from egodistill.annotations import Segment, SegmentList, read_csv, read_ego4d, read_epic_kitchens, with_imu_offsets
from egodistill.imu import CoverageError, Imu, IMUError, read_imu
from egodistill.store import ClipStore, StoreWriter
from egodistill.video import (
    AUDIO_BANDS,
    AUDIO_SECONDS,
    AUDIO_STEPS,
    Scaler,
    VideoError,
    VideoInfo,
    audio_at,
    clip_times,
    frames_at,
    log_mel,
    lost_frame,
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
    "clip_starts",
    "clip_times",
    "prepare",
    "ClipStore",
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


def clip_starts(start: float, stop: float, duration: float, seconds: float = CLIP_SECONDS) -> list[float]:
    """Return the starts of the clips that cover a segment of a video of ``duration`` seconds.

    ceil(length / seconds) clips, at least one, spread evenly from the segment's start to its end.
    A segment shorter than a clip gets one clip around its centre. Clips that would reach over an
    end of the video are moved inside; in a video shorter than a clip the clip starts at 0.
    Raise DataError for a segment that is empty or lies behind the video's end.
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


def clip_arrays(settings: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of a clip's part of each array that these settings of `prepare()` ask for."""
    size, clip_size = settings["frame_size"], settings["clip_size"]
    arrays = {f"frames_{count}": ("uint8", (count, 3, size, size)) for count in settings["num_frames"]}
    if settings["ends"]:
        arrays["ends"] = ("uint8", (2, 3, size, size))
    if settings["clip_frames"]:
        arrays["clip"] = ("uint8", (settings["clip_frames"], 3, clip_size, clip_size))
    if settings["imu"]:
        arrays["imu"] = ("float32", (settings["imu_samples"], 6))
    if settings["audio"]:
        arrays["audio"] = ("float32", (AUDIO_STEPS, AUDIO_BANDS))
    return arrays


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
    sampling: str = "uniform",
    seed: int = 0,
    exact: bool = True,
    min_coverage: float = 0.95,
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
      centres of N equal parts of the clip or by another rule of ``clip_times`` (``seed`` is that of
      "random"); squeezed to the square, as in the paper. Without ``exact`` these and the ends are
      the nearest key frames, which cost far less
    - ``ends`` uint8 [n, 2, 3, frame_size, frame_size]: the frames at the clip's start and end
    - ``clip`` uint8 [n, clip_frames, 3, clip_size, clip_size], for video teachers, which want an
      undistorted picture: its centre square
    - ``imu`` float32 [n, 422, 6]: accelerometer in m/s2, gyroscope in rad/s, gravity included. A
      clip of which a sensor covers less than ``min_coverage`` fails; ``zero_accel`` is read_imu's
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
    try:
        for count in counts:  # say so now, and not for each clip, if the rule does not fit
            clip_times(0.0, count, CLIP_SECONDS, sampling=sampling)
    except ValueError as error:
        raise DataError(str(error)) from error
    names = _class_names(segments, class_names)
    workers = workers or files.available_cores()
    files.check_share(rank, world_size)
    clips = functools.partial(find_clips, segments, workers)
    store = StoreWriter.begin(out, segments, clips, clip_arrays(settings), settings, names)
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
    _Filler(store, rows).run()


class _Filler:
    """Reads the clips of one recording in one pass over it; what is read is written at once."""

    def __init__(self, store: StoreWriter, rows: Sequence[int]) -> None:
        self.store, self.rows, self.settings = store, rows, store.settings
        self.recording = store.segment(rows[0])
        self.video = self.recording.video
        self.imu_source = self.recording.imu or self.video
        self.starts = {row: store.start(row) for row in rows}
        self.left: dict[int, int] = {}  # how many parts each row lacks that is not settled yet
        self.wanted: list[tuple[float, int, str, int]] = []  # time of a frame, its row, array and place in the row
        squeezed, cropped = Scaler(self.settings["frame_size"]), Scaler(self.settings["clip_size"], crop=True)
        self.scalers = collections.defaultdict(lambda: squeezed, clip=cropped)

    def run(self) -> None:
        try:
            duration, motion = self._open()
        except (IMUError, VideoError) as error:
            self._fail(self.rows, error)
            return
        for row in self.rows:
            try:
                self._write_window(row, duration, motion)
            except (DataError, IMUError) as error:
                self._fail([row], error)
            else:
                self._plan(row, duration)
        try:
            if self.settings["audio"]:
                self._write_sound()
            for exact in (True, False):
                self._write_frames(exact)
        except VideoError as error:
            self._fail(list(self.left), error)

    def _open(self) -> tuple[float, Imu | None]:
        """Return the video's duration, and the IMU on the video's clock if it is wanted."""
        info, motion = probe(self.video), None
        if self.settings["imu"]:
            motion = read_imu(self.imu_source, zero_accel=self.settings["zero_accel"])
            motion = motion.on_clock(self.recording.imu_offset, self.recording.imu_stretch)
            self.store.note(self.imu_source, motion.notes)
        if self.settings["audio"] and not info.has_audio:
            raise VideoError(f"{self.video}: has no audio")
        return info.duration, motion

    def _write_window(self, row: int, duration: float, motion: Imu | None) -> None:
        if self.store.segment(row).start >= duration:
            raise DataError(f"{self.video}: ends at {duration:.3f} s, before the segment begins")
        if motion is None:
            return
        samples, rate, least = (self.settings[name] for name in ("imu_samples", "imu_rate", "min_coverage"))
        try:
            self.store.write(row, "imu", motion.window(self.starts[row], samples, rate, min_coverage=least))
        except CoverageError as error:
            raise DataError(f"{self.imu_source}: {error}") from error

    def _plan(self, row: int, duration: float) -> None:
        """Note which frames the row needs. A clip that is longer than its video ends with the last frame."""
        settings, start, seconds = self.settings, self.starts[row], self.settings["clip_seconds"]
        rng = np.random.default_rng([settings["seed"] or 0, row])
        times = {
            f"frames_{n}": clip_times(start, n, seconds, sampling=settings["sampling"], rng=rng)
            for n in settings["num_frames"]
        }
        if settings["ends"]:
            times["ends"] = [start, start + seconds]
        if settings["clip_frames"]:
            times["clip"] = clip_times(start, settings["clip_frames"], seconds)
        for name in times:
            self.wanted += [(min(t, duration), row, name, k) for k, t in enumerate(times[name])]
        self.left[row] = sum(map(len, times.values())) + settings["audio"]
        if not self.left[row]:  # a store of IMU windows alone
            self._finish(row)

    def _write_sound(self) -> None:
        rows = list(self.left)
        begins = [self.starts[row] + (self.settings["clip_seconds"] - AUDIO_SECONDS) / 2 for row in rows]
        for index, sound in audio_at(self.video, begins):
            if sound is None:
                self._fail([rows[index]], f"{self.video}: sound is missing near {begins[index]:.3f} s")
            else:
                self.store.write(rows[index], "audio", log_mel(sound))
                self._written(rows[index])

    def _write_frames(self, exact: bool) -> None:
        """Write those frames that are to be exact, or those that are to be the nearest key frames."""
        # A teacher's clip is of exact frames in any case.
        wanted = [one for one in self.wanted if (self.settings["exact"] or one[2] == "clip") is exact]
        times = [seconds for seconds, *_ in wanted]
        for index, frame in frames_at(self.video, times, exact=exact, threads=1) if wanted else ():
            seconds, row, name, place = wanted[index]
            if row not in self.left:  # failed before
                continue
            if frame is None:
                self._fail([row], lost_frame(self.video, seconds))
            else:
                self.store.write(row, name, self.scalers[name](frame), place)
                self._written(row)

    def _written(self, row: int) -> None:
        """Count one more part of the row as written."""
        self.left[row] -= 1
        if not self.left[row]:
            self._finish(row)  # the data first, then the status

    def _finish(self, row: int) -> None:
        del self.left[row]
        self.store.finish(row)

    def _fail(self, rows: Sequence[int], reason: Exception | str) -> None:
        for row in rows:
            self.left.pop(row, None)
            self.store.fail(row, reason)


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
