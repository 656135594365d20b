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

import collections
import concurrent.futures
import contextlib
import copy
import dataclasses
import faulthandler
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
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from egodistill import CLIP_SECONDS, IMU_RATE, IMU_SAMPLES, DataError, files
from egodistill.annotations import Segment, SegmentList, read_csv, read_ego4d, read_epic_kitchens, with_imu_offsets
from egodistill.imu import CoverageError, Imu, IMUError, read_imu
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
    "VideoError",
    "CoverageError",
    "CLIP_SECONDS",
    "IMU_RATE",
    "IMU_SAMPLES",
]


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
        arrays["audio"] = ("float32", [n, AUDIO_STEPS, AUDIO_BANDS])
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
    except (IMUError, VideoError) as error:
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

    squeezed, cropped = Scaler(settings["frame_size"]), Scaler(settings["clip_size"], crop=True)
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
                    yield _fail(store, row, lost_frame(video, seconds))
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
