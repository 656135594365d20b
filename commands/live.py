"""The command `live`: label the stream of a camera, or a file at real speed, as it arrives.

    egodistill live walk.mp4 --student student.safetensors                               # a file with telemetry
    my_imu | egodistill live /dev/video0 --imu - --align arrival --student student.safetensors
    my_imu | egodistill live --imu - --student motion.safetensors                        # head motion alone
    egodistill live walk.mp4 --student student.safetensors --fast --out walk.jsonl       # the same answers, at once

One thread reads frames, one reads samples (`feeds`), and the main thread runs the networks (`Stream`). `--fast`
does all of it in one thread, in order of time.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import itertools
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import numpy as np

from ..deploy import arrivals, events, exported, feeds
from ..deploy.stream import Answer, Stream
from ..engine import batches, calibration, runtime
from ..engine.steps import accepts_missing_input
from ..imu import Imu, IMUError
from ..recordings.recording import open_recording
from ..recordings.sensors import State, motion_states
from ..recordings.spec import ClipSpec, read_axes, require_axes
from ..support import files
from ..support.errors import EgoDistillError
from ..support.names import name_files
from ..support.tables import printable, scores_text
from ..video import VideoError
from .evaluations import caveat_about
from .given import (
    given_flags,
    imu_files,
    keyword_arguments,
    note_thresholds,
    reject,
    report_notes,
    single_input_text,
    use_readers,
)
from .loading import load_distilled, report_precision

__all__ = ["Latency", "load_for_stream"]

FAR_APART = 10.0  # seconds between the first frame and the first sample: they are not on one clock
ALIGNMENT = 1.0  # seconds of arrivals that decide the offset between two clocks
WARM_UP = 5  # answers after the first one that are not part of the steady state
FILE_PENDING = 100_000  # answers of a file that may become due at once: 14 h at two per second
CHECKED = 100  # first samples whose times are checked
JOIN = 2.0  # seconds that a thread may take to end
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # they end a run in order; Windows has no SIGHUP


# ---------------------------------------------------------------------------------------------------------------
# Options


def event_tracker(a: argparse.Namespace, model: Any, *, note: bool = False) -> events.Tracker | None:
    """Return what finds the events of --events; perhaps print when one begins and ends."""
    tracker, _, whose = events.choose_tracker(calibration.calibration_of(model).events, a.every, a.event_start)
    if a.events and note:
        note_thresholds(tracker, whose)
    return tracker if a.events else None


def table_flags(a: argparse.Namespace) -> list[str]:
    """Return the given ones of the options for the samples of a recording."""
    return given_flags(a, "imu_offset", "zero_accel") + ["--imu-stretch"] * (a.imu_stretch != 1.0)


def check_options(a: argparse.Namespace, kind: str) -> None:
    """Raise ValueError for options that would be ignored or that contradict each other."""
    if a.source is None:
        if not a.imu:
            raise ValueError("there is no SOURCE; give one, or head motion alone (--imu - or CSV)")
        used = given_flags(a, "tolerance", "max_age", "period", "frame_offset", "reconnect")
        used += ["--frames newest"] * (a.frames == "newest") + ["--align arrival"] * (a.align == "arrival")
        reject(used + ["--frame-stretch"] * (a.frame_stretch != 1.0), "about frames, and there is no SOURCE of any")
    if kind != "file" and a.imu not in (None, ["-"]):
        reject(["--imu"], f"{a.source} is live; give its samples on standard input (--imu -)")
    if kind != "file" or a.imu == ["-"]:
        used = given_flags(a, "reader", "imu_reader")
        reject(used + table_flags(a), "only for recordings; these samples are live")
    if kind != "address":
        reject(given_flags(a, "reconnect"), f"{a.source} is a {kind}; only an address can be opened again")
    if a.fast or (kind == "file" and a.imu != ["-"]):
        reject(given_flags(a, "timeout"), "nothing here is live")
    if kind == "file" and a.align == "arrival":
        reject(["--align arrival"], f"{a.source} is a file, whose frames have times; --frame-offset moves them")
    others = {"centre": ("max_age", "period"), "newest": ("tolerance",)}[a.frames]
    reject(given_flags(a, *others), f"not used with --frames {a.frames}")
    if not a.events:
        reject(given_flags(a, "event_start"), "only with --events")


def load_for_stream(path: str, device: str | None, own: Sequence[str] = (), without: str | None = None) -> Any:
    """Return the student in a file, with --custom and --without, on a device, or the pair of `export --pair` there."""
    if any(file.exists() for file in files.pair_files(path)):
        if runtime.pick_device(device).type != "cpu":
            raise EgoDistillError(f"{path}: exported programs run on the CPU; leave out --device {device}")
        pair = exported.load_pair(path)
        return pair.without(without) if without else pair
    if doubt := caveat_about(path):
        print(f"note: {path}: {doubt}", file=sys.stderr)
    return load_distilled(path, own, without).to(runtime.pick_device(device)).eval()


# ---------------------------------------------------------------------------------------------------------------
# What a run reads


@dataclasses.dataclass
class Source:
    """Frames, samples if the student reads them, and the clock between them."""

    video: feeds.VideoFeed | feeds.NoVideo  # the frames
    samples: Iterable[tuple[np.ndarray, np.ndarray]] | None  # None: the student reads none
    recorded: bool  # whether the samples are in a complete file, on the video's clock but for offset and stretch
    clock: feeds.HostClock  # of this host; ends the feeds
    pace: feeds.Pace  # when moments of a file are due
    goes_on: bool = False  # whether frames of a file are answered when its samples have ended
    offset: float = 0.0  # seconds: a time t of the video is offset + stretch * t on the clock of the samples
    stretch: float = 1.0  # factor of the video's clock
    align: bool = False  # whether `offset` is computed from arrivals
    report: Callable[[str], object] = lambda sentence: None  # gets one about a file's samples that end early
    first: float = math.inf  # time of the first sample so far, in seconds
    last: float = -math.inf  # time of the last one

    @property
    def name(self) -> str:
        """Return the name of where samples come from, for messages."""
        return getattr(self.samples, "name", self.video.source)

    @property
    def has_frames(self) -> bool:
        """Return whether frames come, too."""
        return not isinstance(self.video, feeds.NoVideo)

    def pieces(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the samples."""
        checked: list[tuple[np.ndarray, np.ndarray]] | None = None if self.recorded else []
        for times, readings in self.samples:
            here = in_seconds(times)
            if checked is not None:
                checked.append((here, readings))
                self.check_times(*map(np.concatenate, zip(*checked, strict=True)))
                checked = checked if sum(len(part) for part, _ in checked) < CHECKED else None
            self.first, self.last = min(self.first, float(here.min())), max(self.last, float(here.max()))
            yield times, readings

    def check_times(self, times: np.ndarray, readings: np.ndarray) -> None:
        """Raise IMUError if the first samples show another unit of times.

        A stream may get none of them: by their times, they are outside the video, or not due for hours.
        """
        accel, gyro = (~np.isnan(readings[:, part]).any(axis=1) for part in (slice(3), slice(3, 6)))
        motion = Imu(times[accel], readings[accel, :3], times[gyro], readings[gyro, 3:])
        for state in motion_states(motion):
            if state.fault == "times":
                raise IMUError(f"{self.name}: {state.text}")

    def on_sample_clock(self, moment: float) -> float:
        """Return a time of the video on the clock of the samples."""
        return self.offset + self.stretch * moment

    def check_ends(self, seconds: float | None) -> None:
        """Raise IMUError if samples of a pipe ended before the video, or `seconds` of a run.

        Report it of samples in a file, and of a video that ended before its own end.
        """
        if self.samples is None or self.last == -math.inf:
            return
        if self.video.live and self.has_frames:
            raise IMUError(f"{self.name}: its last sample is at {self.last:.2f} s, and frames go on coming")
        end = self.on_sample_clock(self.video.length)  # may be NaN
        wanted = min(end, self.first + (math.inf if seconds is None else seconds)) - feeds.EARLY
        if self.on_sample_clock(self.video.end) < min(self.last, wanted):
            cut = f"{self.video.source}: its last frame ends at {self.video.end:.2f} s of {self.video.length:.2f} s"
            self.report(f"warning: {cut}: the file may be truncated; there are no answers about the rest")
        elif self.last < wanted:
            text = f"{self.name}: its last sample is at {self.last:.2f} s, but the video goes on until {end:.2f} s"
            if not self.recorded:
                raise IMUError(text)
            rest = "answers from frames alone" if self.goes_on else "no answers"
            self.report(f"warning: {text}; there are {rest} about the rest")

    def check_clocks(self, frame: float, sample: float) -> None:
        """Raise EgoDistillError if the first frame and the first sample cannot be on one clock."""
        if abs(frame - sample) > FAR_APART:
            how = ", or --align arrival if both arrive without delay" if self.video.live else ""
            raise EgoDistillError(
                f"{self.video.source}: its first frame is at {frame:.3f} s and the first sample at {sample:.3f} s, so "
                f"they are not on one clock; give --frame-offset SECONDS{how}"
            )


def open_source(a: argparse.Namespace, model: Any, report: Callable[[str], object]) -> Source:
    """Return the feeds that the options name. Raise EgoDistillError without the samples that the student reads."""
    spec, axes = batches.clip_spec_of(model), a.imu_axes or "gopro"
    clock = feeds.HostClock()
    pace = feeds.Pace(clock)
    video = open_frames(a, spec, clock, pace, report)
    timeout = math.inf if a.fast else feeds.TIMEOUT if a.timeout is None else a.timeout
    lines = {"clock": clock, "report": report, "timeout": timeout}
    samples, recorded = None, True
    if not spec.imu_samples:
        used = given_flags(a, "imu", "imu_axes", "imu_reader") + table_flags(a)
        used += ["--align"] if a.align == "arrival" else []
        reject(used, f"the student in {a.student} reads no IMU samples")
    elif a.imu == ["-"]:
        samples, recorded = feeds.piped_samples(standard_input(), **lines), False
    elif video.live:
        raise EgoDistillError(
            f"{a.source}: the student in {a.student} reads IMU samples; give them on standard input (--imu -), or "
            f"give a student without IMU (--without imu)"
        )
    else:
        how = keyword_arguments(a, "imu_offset", "imu_stretch", "zero_accel")
        recording = open_recording(a.source, imu_files(a), **how, imu_axes=a.imu_axes or "gopro")
        report_notes(recording)
        samples, axes = feeds.recorded_samples(recording.motion()), recording.imu_axes
    if samples is not None:
        require_axes(a.source or video.source, read_axes(axes)[0], spec)
    align, goes_on = a.align == "arrival", recorded and accepts_missing_input(model)
    return Source(video, samples, recorded, clock, pace, goes_on, a.frame_offset, a.frame_stretch, align, report)


def open_frames(
    a: argparse.Namespace,
    spec: ClipSpec,
    clock: feeds.HostClock,
    pace: feeds.Pace,
    report: Callable[[str], object],
) -> feeds.VideoFeed | feeds.NoVideo:
    """Return the feed of SOURCE; none is opened for a student that reads no frames, whose file may have telemetry.

    Raise EgoDistillError for a SOURCE that would not be read, and without one that is.
    """
    live = a.imu == ["-"]
    if spec.frames and a.source is None:
        raise EgoDistillError(f"the student in {a.student} reads frames; give a SOURCE of them")
    if not spec.frames and a.source is not None and (live or feeds.source_kind(a.source) != "file"):
        raise EgoDistillError(f"the student in {a.student} reads no frames; leave out {a.source}")
    if not spec.frames:
        return feeds.NoVideo(a.source or name_files(a.imu), live)
    video = feeds.VideoFeed(
        open_recording(a.source).video if os.path.isdir(a.source) else a.source,  # a folder of a Neon
        size=spec.size,
        realtime=not a.fast,
        clock=clock,
        timeout=a.timeout,
        reconnect=a.reconnect or 0.0,
        report=report,
    )
    if not video.live:
        video.pace = pace
    return video


def standard_input() -> int:
    """Return the file descriptor of standard input. Raise EgoDistillError if it is a terminal or closed."""
    try:
        descriptor = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        descriptor = None
    if descriptor is None or os.isatty(descriptor):
        raise EgoDistillError("--imu -: nothing is piped into standard input; use: PROGRAM | egodistill live ...")
    return descriptor


def in_seconds(times: np.ndarray) -> np.ndarray:
    """Return times in float seconds; integers are nanoseconds."""
    return times / 1e9 if times.dtype.kind in "iu" else times


class FrameFeed:
    """Pass frames to a stream: all of them, or with "newest" only those that it asks for, like a camera that sleeps.

    `whole`: the samples have integer nanoseconds, so frames must have them, too; None: no sample has come yet.
    """

    def __init__(self, stream: Stream, source: Source) -> None:
        self.stream, self.source = stream, source
        self.sleeps = stream.choice == "newest"
        self.whole: bool | None = None if source.samples is not None and not source.recorded else False
        self.wanted = False
        self.first, self.last = math.inf, -math.inf

    def give(self, moment: float, picture: np.ndarray) -> None:
        """Give the stream a frame of the video, at a time in seconds."""
        if self.whole is None:
            return
        self.first, self.last = min(self.first, moment), max(self.last, moment)
        if not self.sleeps or self.wanted:
            self.wanted = False
            self.stream.accept_frame(self.stamp(moment), picture)
        # Asked at one frame, answered by the next: the camera was on from one to the other.
        self.wanted = self.sleeps and self.stream.wants_frame(self.stamp(self.source.on_sample_clock(moment)))

    def stamp(self, moment: float) -> float | int:
        return round(moment * 1e9) if self.whole else moment

    def share_on(self) -> float:
        """Return the share of time in which the camera was on."""
        if not self.source.has_frames:
            return 0.0
        if not self.sleeps or not self.last > self.first:
            return 1.0
        return min(1.0, self.stream.stats.camera_on / (self.source.stretch * (self.last - self.first)))


# ---------------------------------------------------------------------------------------------------------------
# Two ways to run


def answers_in_order(source: Source, stream: Stream, camera: FrameFeed, seconds: float | None) -> Iterator:
    """Yield the answers of a file that is read as fast as possible; frames and samples come in order of time."""
    frames = iter(source.video)
    if source.samples is None:
        for moment, picture in frames:
            if seconds is not None and moment > seconds:
                break
            camera.give(moment, picture)
            yield from stream.results()
        return
    following, first = next(frames, None), None
    pieces = (part for piece in source.pieces() for part in feeds.split_samples(*piece))
    for times, readings in pieces:
        if source.clock.stopped:
            return
        here = in_seconds(times)
        if first is None:
            first, camera.whole = float(here[0]), times.dtype.kind in "iu"
            if not source.recorded and following is not None:
                source.check_clocks(source.on_sample_clock(following[0]), first)
        while following is not None and source.on_sample_clock(following[0]) <= here[-1]:
            camera.give(*following)
            following = next(frames, None)
        end = math.inf if following is not None else source.on_sample_clock(source.video.end)
        end = end if seconds is None else min(end, first + seconds)
        kept = here <= end
        stream.accept_imu(times[kept], readings[kept])
        yield from stream.results()
        if not kept.all():
            return
    if source.goes_on and first is not None:
        for moment, picture in itertools.chain([following] if following is not None else [], frames):
            if seconds is not None and source.on_sample_clock(moment) > first + seconds:
                break
            camera.give(moment, picture)
            yield from stream.results()


class Inputs:
    """Two threads that give frames and samples to a stream as they come. `ended` is set when one of them has ended."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.camera: FrameFeed | None = None
        self.frames, self.samples = feeds.ArrivalDelay(source.clock), feeds.ArrivalDelay(source.clock)
        self.end = math.inf  # of the video, on the clock of the samples
        self.error: Exception | None = None
        self.ended = threading.Event()
        works = [self._give_frames] * source.has_frames + [self._give_samples] * (source.samples is not None)
        self.threads = [threading.Thread(target=self._run, args=(work,), daemon=True) for work in works]

    def start(self) -> None:
        """Start to read."""
        if self.source.has_frames and not self.source.video.live:
            self.source.pace.start(0.0)
        for thread in self.threads:
            thread.start()

    def aligned(self, stop: float) -> float:
        """Wait for the first arrivals; return the offset from the camera's clock to that of the samples, in seconds.

        Both clocks are compared with this host's, by the frame and the sample that were shortest on their way. Raise
        EgoDistillError if one of the two did not come, at the latest when the clock shows `stop`.
        """
        clock = self.source.clock
        while not self.ended.is_set() and not clock.stopped and clock.now() < stop:
            if clock.now() > max(self.frames.began, self.samples.began) + ALIGNMENT:
                break
            clock.sleep(0.02)
        if self.error is not None or math.inf in (self.frames.delay, self.samples.delay):
            self.close()
            what = "frame" if self.frames.delay == math.inf else "sample"
            raise self.error or EgoDistillError(f"{self.source.video.source}: ended before its first {what} came")
        camera = self.source.offset + self.frames.delay  # without the given offset, which comes on top
        return self.source.offset + camera - self.samples.delay

    def close(self) -> None:
        """End the threads."""
        self.source.clock.stop()
        for thread in self.threads:
            if thread.ident is not None:
                thread.join(JOIN)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            if not self.source.clock.stopped:
                self.error = self.error or error
                self.ended.set()

    def _give_frames(self) -> None:
        source = self.source
        for moment, picture in source.video:
            self._note(self.frames, source.on_sample_clock(moment))
            silent = source.samples is not None and self.samples.first is None
            if silent and source.clock.now() - self.frames.began > source.video.timeout:
                raise IMUError(
                    f"{source.name}: no sample in the first {source.video.timeout:g} s "
                    f"of frames; does the program write its lines at once? --timeout SECONDS waits longer"
                )
            if self.camera is not None:
                self.camera.give(moment, picture)
        self.end = source.on_sample_clock(source.video.end)
        if source.samples is None or source.video.live:
            self.ended.set()
        elif not source.recorded:  # the samples up to this end may still come
            end = source.clock.now() + feeds.EARLY
            while not self.ended.is_set() and source.clock.now() < end and source.clock.sleep(feeds.POLL):
                pass
            self.ended.set()

    def _give_samples(self) -> None:
        source = self.source
        pieces = source.pieces()
        if not source.video.live:
            pieces = (part for piece in pieces for part in feeds.split_samples(*piece))
        for times, readings in pieces:
            here = in_seconds(times)
            for moment in (float(here.min()), float(here.max())):
                self._note(self.samples, moment)
            if not source.video.live and not source.pace.wait((float(here[-1]) - source.offset) / source.stretch):
                break
            kept = here <= self.end
            if self.camera is not None:
                self.camera.whole = times.dtype.kind in "iu"
                self.camera.stream.accept_imu(times[kept], readings[kept])
            if not kept.all():
                break
        else:
            if source.video.live and not source.clock.stopped:
                source.check_ends(None)
            while source.goes_on and self.end == math.inf and source.clock.sleep(feeds.POLL):
                pass
        self.ended.set()

    def _note(self, sort: feeds.ArrivalDelay, moment: float) -> None:
        fresh = sort.first is None
        sort.add(moment)
        first = (self.frames.first, self.samples.first)
        if fresh and None not in first and not self.source.recorded and not self.source.align:
            self.source.check_clocks(*first)


def answers_as_they_come(inputs: Inputs, stream: Stream, stop: float) -> Iterator:
    """Yield the answers of a source at its own speed, until the clock shows `stop` or is stopped."""
    clock = inputs.source.clock
    while not inputs.ended.is_set() and not clock.stopped and clock.now() < stop:
        stream.wait(0.1)
        yield from stream.results()


# ---------------------------------------------------------------------------------------------------------------
# The latency report


class Latency:
    """Times of the answers of a stream, in the parts that LiteRT's `benchmark_model` reports.

    The steady state begins after the first answer and `WARM_UP` further ones; answers that encode a frame are apart
    from those that do not. Times are those of the networks, `Answer.seconds`.
    """

    def __init__(self, load_seconds: float = 0.0) -> None:
        self.load_seconds = load_seconds
        self.first: float | None = None
        self.warm_up: list[float] = []
        self.steady: dict[str, list[float]] = {"with a frame": [], "no new frame": []}

    def add(self, answer: Answer) -> None:
        """Note an answer; those with a problem ran no network and do not count."""
        if answer.problem is not None:
            return
        if self.first is None:
            self.first = answer.seconds
        elif len(self.warm_up) < WARM_UP:
            self.warm_up.append(answer.seconds)
        else:
            self.steady["with a frame" if answer.encoded else "no new frame"].append(answer.seconds)

    def lines(self, *, dropped: int, due: int, megabytes: float | None) -> list[str]:
        """Return the lines of the report; `due` answers include dropped ones; the peak of memory may be unknown."""
        first = "none" if self.first is None else f"{1e3 * self.first:.1f} ms"
        found = [("init", f"load {self.load_seconds:.2f} s, first answer {first}")]
        if self.warm_up:
            found.append(("warm-up", f"{len(self.warm_up)} answers, mean {1e3 * np.mean(self.warm_up):.1f} ms"))
        for name, times in self.steady.items():
            if times:
                marks = zip((50, 95, 99), 1e3 * np.percentile(times, (50, 95, 99)), strict=True)
                shares = ", ".join(f"p{mark} {value:.1f} ms" for mark, value in marks)
                found.append((name, f"{len(times):,} answers, {shares}"))
        found.append(("dropped", f"{100 * dropped / max(due, 1):.1f} % of {due:,} answers"))
        found.append(("memory", "unknown" if megabytes is None else f"peak {megabytes:.0f} MB"))
        return [f"{name:<12}  {text}" for name, text in found]


def peak_megabytes() -> float | None:
    """Return the peak of this process's memory; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else 1024 * peak / 1e6


# ---------------------------------------------------------------------------------------------------------------
# Output


class Output:
    """Answers, or events, as JSON lines into a pipe and a file, and as readable lines in a terminal."""

    def __init__(
        self,
        *,
        as_json: bool,
        tracker: events.Tracker | None,
        path: Path | None = None,
        reads: Collection[str] = (),
    ) -> None:
        self.path = path  # of a file that gets the JSON lines, too; an earlier one is replaced at the first answer
        self.file: TextIO | None = None
        self.tracker, self.reads = tracker, reads  # inputs of the student
        self.terminal = sys.stdout.isatty() and not as_json
        self.gone = False  # whether the terminal was closed
        self.shown = 0  # characters of the line
        self.lines = 0  # that were written
        self.highest = 0.0  # probability, in any answer, of a class of which there are events
        self.start: float | int | None = None  # of the first answer
        self.last: float | int | None = None  # of the last answer

    def add(self, answer: Answer, share_on: float) -> None:
        """Show an answer, with the share of time in which the camera was on."""
        if self.last is None or answer.start < self.last:  # the first one, or the clock of the samples was restarted
            self.write([] if self.tracker is None else self.tracker.finish())
            self.start = answer.start
        self.last = answer.start
        scores = (score for name, score in answer.classes if name not in events.NO_EVENTS)
        self.highest = max(self.highest, next(scores, 0.0))
        self.write([answer] if self.tracker is None else self.tracker.add(answer))
        if self.terminal:
            moment = events.seconds(self.start, answer.stop)
            line = status_line(answer, moment, share_on, columns(), self.reads)
            if self.tracker is None:
                self.print(line)
            else:  # below the events
                self.draw(line)

    def finish(self) -> None:
        """Show the last events, and end the line."""
        if self.tracker is not None:
            self.write(self.tracker.finish())
        if self.shown:
            self.print("")
            self.shown = 0

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            with contextlib.suppress(OSError):  # a full disk was an error when the line was flushed
                self.file.close()

    def note(self, text: str) -> None:
        """Print a message on stderr, above the line."""
        self.clear()
        with contextlib.suppress(OSError):  # nobody reads it any more
            print(text, file=sys.stderr, flush=True)

    def write(self, found: list[Answer] | list[events.Event]) -> None:
        """Write answers or events into the file, and then print them: the reader of a pipe may be gone."""
        lines = [json.dumps(one._asdict()) for one in found]
        self.lines += len(lines)
        if self.path is not None and self.last is not None:
            with files.disk_errors(self.path, continues=False):
                if self.file is None:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    self.file = open(self.path, "w", encoding="utf-8")
                self.file.writelines(f"{line}\n" for line in lines)
                self.file.flush()
        for one, line in zip(found, lines, strict=True):
            if not self.terminal:
                self.print(line)
            elif isinstance(one, events.Event):
                self.clear()
                began, ended = (events.seconds(self.start, moment) for moment in (one.start, one.stop))
                self.print(f"{began:8.2f} to {ended:.2f} s  {printable(one.label)} {one.score:.2f}")

    def draw(self, line: str) -> None:
        self.print(f"\r{line:<{self.shown}}", end="")
        self.shown = len(line)

    def clear(self) -> None:
        if self.shown:
            self.print(f"\r{'':<{self.shown}}\r", end="")
            self.shown = 0

    def print(self, text: str, end: str = "\n") -> None:
        """Print on standard output. A terminal that was closed is not an error; SIGHUP ends the run."""
        if self.gone:
            return
        try:
            print(text, end=end, flush=True)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self.gone = True


def columns() -> int:
    """Return the width of a line that the terminal does not break."""
    return shutil.get_terminal_size().columns - 1


def status_line(answer: Answer, moment: float, share_on: float, width: int, reads: Collection[str] = ()) -> str:
    """Return one line of at most `width` characters about an answer; `moment` is its time in seconds.

    It says if the answer is from one alone of the inputs that the student `reads`.
    """
    age = f"{max(answer.frame_age):5.2f} s" if answer.frame_age else "   none"
    numbers = (
        f"  frame {age}  lag {answer.lag:5.2f} s  delay {1e3 * answer.delay:4.0f} ms  camera on {100 * share_on:3.0f} %"
    )
    score = f" {scores_text([answer.classes[0][1]])[0]}" if answer.classes else ""
    label = printable(answer.classes[0][0] if answer.classes else f"no answer: {answer.problem}")
    if alone := single_input_text(answer.inputs, reads):
        score = f" ({alone}){score}"
    left = f"{moment:8.2f} s  "
    room = width - len(left) - len(score) - len(numbers)
    if room < 12:  # a narrow terminal has the label alone
        room, numbers = max(width - len(left) - len(score), 1), ""
    label = label if len(label) <= room else f"{label[: max(room - 3, 0)]}..."
    return f"{left}{label:<{room}}{score}{numbers}"[:width]


def summary(source: Source, stats: arrivals.Stats, share_on: float) -> list[str]:
    """Return the counters of a run in two lines."""
    answers = f"answers: {stats.due:,} due, {stats.given:,} with classes, {stats.problems:,} with a problem"
    answers += f", {stats.dropped:,} dropped; camera on {100 * share_on:.1f} % of the time"
    if stats.requests:
        answers += f", {stats.answered:,} of {stats.requests:,} frame requests answered"
    unused = stats.refused + stats.replaced
    found = f"input: {stats.frames:,} frames, {stats.encoded:,} encoded, {unused:,} not needed"
    found += f", {source.video.dropped:,} skipped by the decoder, {source.video.broken:,} broken"
    if source.samples is not None:
        found += (
            f"; {stats.samples:,} readings, {stats.late:,} late, {stats.double:,} double, {stats.invalid:,} invalid"
        )
    if bad := getattr(source.samples, "bad", 0):
        found += f", {bad:,} bad lines"
    if stats.restarts:
        found += f", {stats.restarts:,} restarts of the clock"
    if source.video.reconnections:
        found += f", {source.video.reconnections:,} reconnections"
    return [answers, found]


# ---------------------------------------------------------------------------------------------------------------
# The command


def run_live(a: argparse.Namespace) -> None:
    began, path = time.monotonic(), Path(a.out) if a.out else None
    check_options(a, "file" if a.source is None else feeds.source_kind(a.source))
    use_readers(a)
    model = load_for_stream(a.student, a.device, a.custom, a.without)
    latency = Latency(time.monotonic() - began)
    output = Output(as_json=a.json, tracker=event_tracker(a, model, note=True), path=path, reads=model.inputs)
    source = open_source(a, model, output.note)
    report_precision(a.precision, a.device, model)
    run = LiveRun(
        source, output, latency, lambda offset: open_stream(a, model, (offset, a.frame_stretch), run.note_state)
    )
    with Interruption(source.clock) as interruption:
        with contextlib.closing(output):
            run.run(fast=a.fast, seconds=a.seconds)
        run.report(interrupted=interruption.number is not None)
    if interruption.number not in (None, signal.SIGINT):
        sys.exit(128 + interruption.number)


def open_stream(
    a: argparse.Namespace,
    model: Any,
    frame_clock: tuple[float, float],
    report: Callable[[State], object] | None = None,
) -> Stream:
    """Return the stream that the options describe."""
    names = ("every", "frames", "before_frames", "slack", "top", "min_coverage", "max_gap", "precision")
    options = keyword_arguments(a, *names, "tolerance", "max_age", "period")
    if a.imu == ["-"]:  # the samples of a file are in the student's axes
        options["imu_axes"] = a.imu_axes or "gopro"
    if tracker := event_tracker(a, model):
        options["top"] = max(a.top, tracker.top)
    # A file waits, so nothing of it is dropped, even if the next frame comes hours later.
    options |= {"max_pending": FILE_PENDING if a.fast else 2, "on_restart": "reset", "report": report}
    return Stream(model, **options, frame_clock=frame_clock)


def given_by(call: Callable[[], list[Answer]]) -> Iterator[Answer]:
    """Yield the answers that a call returns; it is made when the first one is asked for."""
    yield from call()


class Interruption:
    """Signals that end a run in order: its last answers, the running event and the summary are given.

    The first one stops the clock. The same again has no effect, since a shell that ends sends what its terminal has
    sent; but Ctrl-C does after the first signal what it did before the block. Signals that are ignored stay ignored,
    and in other threads than the main one there are none.
    """

    def __init__(self, clock: feeds.HostClock) -> None:
        self.clock, self.number = clock, None
        self.former: dict[int, Any] = {}  # {number: the handler before}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self.former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number
            if signal.SIGINT in self.former:
                signal.signal(signal.SIGINT, self.former[signal.SIGINT])
            self.clock.interrupt()


class LiveRun:
    """One run of the command: a source, a stream, and where its answers go."""

    def __init__(
        self, source: Source, output: Output, latency: Latency, open_stream: Callable[[float], Stream]
    ) -> None:
        self.source, self.output, self.latency, self.open_stream = source, output, latency, open_stream
        self.camera: FrameFeed | None = None
        self.problem: str | None = None
        self.error: Exception | None = None  # of the input or the model
        self.states: list[State] = []  # that were reported

    def note_state(self, state: State) -> None:
        """Print what is wrong with the input."""
        self.states.append(state)
        self.output.note(f"warning: {state.name}: {state.text}")

    def run(self, *, fast: bool, seconds: float | None) -> None:
        """Read the source to its end, for some seconds, or until a signal. Errors of the input are for `report()`."""
        inputs = None if fast else Inputs(self.source)
        try:
            self.show_all(self.answers(inputs, seconds))
            self.source.clock.stop()
            if inputs is not None:
                inputs.close()
                self.error = self.error or inputs.error
            if self.camera is not None:
                self.show_all(given_by(self.camera.stream.finish))
                while self.camera.stream.wait(0.0):  # after an error
                    self.show_all(given_by(self.camera.stream.results))
        finally:
            self.source.clock.stop()
            self.output.finish()

    def show_all(self, answers: Iterator[Answer]) -> None:
        """Show answers until they end. An error of the input or the model ends them."""
        while True:
            try:
                answer = next(answers, None)
            except Exception as error:  # what came before it counts
                self.error = self.error or error
                return
            if answer is None:
                return
            self.latency.add(answer)
            self.problem = answer.problem or self.problem
            self.output.add(answer, self.camera.share_on())

    def answers(self, inputs: Inputs | None, seconds: float | None) -> Iterator[Answer]:
        """Yield the answers before the end of the input."""
        source = self.source
        if inputs is None:
            self.camera = FrameFeed(self.open_stream(source.offset), source)
            yield from answers_in_order(source, self.camera.stream, self.camera, seconds)
            if not source.clock.stopped:
                source.check_ends(seconds)
            return
        if not source.align:
            self.camera = inputs.camera = FrameFeed(self.open_stream(source.offset), source)
        inputs.start()
        stop = math.inf if seconds is None else source.clock.now() + seconds
        if source.align:
            source.offset = inputs.aligned(stop)
            self.camera = inputs.camera = FrameFeed(self.open_stream(source.offset), source)
        yield from answers_as_they_come(inputs, self.camera.stream, stop)
        if not (source.video.live or source.clock.stopped or inputs.error) and inputs.ended.is_set():
            source.check_ends(None)

    def report(self, *, interrupted: bool) -> None:
        """Print counters and latency on stderr. Raise an error of the input or the model, or of a run without classes.

        A signal that interrupted the run may have ended other programs of the pipe, too.
        """
        source, stats = self.source, self.camera.stream.stats if self.camera else arrivals.Stats()
        error = self.error or (VideoError(source.video.problem) if source.video.problem else None)
        if interrupted and isinstance(error, (IMUError, VideoError)):
            error = None
        if self.camera is not None and (stats.due or error is None):
            lines = summary(source, stats, self.camera.share_on())
            lines += self.latency.lines(dropped=stats.dropped, due=stats.due, megabytes=peak_megabytes())
            if (tracker := self.output.tracker) and stats.given and not self.output.lines:
                lines.append(f"no event: one {tracker} (--event-start); the highest was {self.output.highest:.3g}")
            if self.states:
                lines.append(f"faults of the input: {', '.join(state.name for state in self.states)}")
            self.output.note("\n".join(lines))
        if error is not None:
            raise error
        if self.camera is not None and not stats.given and not interrupted:
            seconds = self.camera.stream.spec.seconds
            reason = self.problem or f"an answer needs {seconds:.2f} s of frames and samples together"
            if source.samples is not None and source.last == -math.inf:
                reason = f"no sample came from {source.name}"
            reason = "; ".join([reason, *(state.text for state in self.states)])
            raise EgoDistillError(f"{source.video.source}: no clip was classified: {reason}")
