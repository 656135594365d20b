"""Frames and IMU samples as they arrive: from files at real speed, addresses, devices and pipes.

    from egodistill.deploy import feeds

    clock = feeds.HostClock()
    for moment, picture in feeds.VideoFeed("rtsp://192.0.2.7/camera", clock=clock):     # in a thread of its own
        stream.accept_frame(moment, picture)
    for times, readings in feeds.piped_samples(sys.stdin.fileno(), clock=clock):        # in another thread
        stream.accept_imu(times, readings)
    clock.stop()                                                                        # ends both, from any thread

`egodistill live` joins them. Nothing here needs torch.
"""

from __future__ import annotations

import collections
import contextlib
import json
import math
import numbers
import os
import re
import select
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import av.container
import av.error
import av.logging
import numpy as np

from ..imu import Imu, IMUError, table_columns
from ..support.defaults import TIMEOUT
from ..support.errors import named
from ..video import (
    LOCAL_FILES,
    OPEN_OPTIONS,
    Scaler,
    VideoError,
    clock_zero,
    declared_end,
    demux,
    open_video,
    video_stream,
)

__all__ = [
    "CHUNK",
    "ArrivalDelay",
    "HostClock",
    "LineSamples",
    "Pace",
    "VideoFeed",
    "piped_samples",
    "recorded_samples",
    "source_kind",
    "split_samples",
]

Samples = Iterator[tuple[np.ndarray, np.ndarray]]  # times [n], readings [n, 6]
Row = tuple[float | int, list[float]]  # a time and six readings

CHUNK = 0.1  # seconds of samples that a recording gives at once
LATE = 1.0  # seconds behind real speed from which only key frames are decoded
BACKLOG = 8  # consecutive packets without a wait, from which on the decoder is behind and not the source
WAITED = 0.005  # seconds above which a packet was waited for
AHEAD = 1.0  # seconds that a live source may be ahead of real speed
RETRY = 0.5  # seconds between two attempts to open an address again
EARLY = 1.0  # seconds before its end at which a source may end
DECODED = 2  # frames that are decoded ahead if none may be dropped
POLL = 0.05  # seconds between two looks at a source
MAX_LINE = 100_000  # bytes
BAD_IN_A_ROW = 100  # lines without a sample in a row that end a feed
# What an address may lead to. A playlist from the network must not name files of this machine.
NETWORK = {"protocol_whitelist": "http,https,httpproxy,tls,tcp,udp,rtp,rtsp,rtmp,srt,crypto,data"}
# What the end of a live source means that has not announced its length.
CLOSED = {
    "address": "the sender closed the connection",
    "device": "the camera gives no more frames",
    "pipe": "the program that writes into the pipe closed it",
}
SCHEMES = ("http", "https", "rtsp", "rtmp", "tcp", "udp", "rtp", "srt")


# ---------------------------------------------------------------------------------------------------------------
# Time


class HostClock:
    """The clock of this host, with a sleep that `stop()` ends. Feeds that share it end together."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._interrupted = False

    def now(self) -> float:
        """Return monotonic seconds from an arbitrary start."""
        return time.monotonic()

    def unix(self) -> float:
        """Return the seconds since 1970."""
        return time.time()

    def sleep(self, seconds: float) -> bool:
        """Sleep, and return True; return False as soon as the clock is stopped."""
        return not (self._stop.wait(seconds) or self._interrupted)

    def stop(self) -> None:
        """End all sleeps and the feeds that use this clock."""
        self._stop.set()

    def interrupt(self) -> None:
        """End the feeds from a signal handler. It takes no lock, so sleeps go on to their end."""
        self._interrupted = True

    @property
    def stopped(self) -> bool:
        """Return whether `stop()` or `interrupt()` was called."""
        return self._interrupted or self._stop.is_set()


class Pace:
    """Real speed: when a moment of a recording is due on this host.

    Without `start()`, the first moment starts it. Moments may be `ahead` seconds early; `clock.stop()` ends a wait.
    """

    def __init__(self, clock: HostClock, ahead: float = 0.0) -> None:
        self.clock, self.ahead = clock, ahead
        self._origin: float | None = None

    def start(self, moment: float) -> None:
        """Let this moment of the recording, in seconds, be due now."""
        self._origin = self.clock.now() - moment

    def lateness(self, moment: float) -> float:
        """Return the seconds since this moment was due; negative: until it is."""
        if self._origin is None:
            self.start(moment)
        return self.clock.now() - self._origin - moment

    def wait(self, moment: float) -> bool:
        """Wait until this moment is due, and return True; return False if the clock is stopped."""
        early = -self.lateness(moment) - self.ahead
        return self.clock.sleep(early) if early > 0 else not self.clock.stopped


class ArrivalDelay:
    """Record of when frames or samples with time stamps arrive on this host: the `first` stamp, and the `delay`.

    `delay` is the smallest difference between arrival and stamp in seconds; frames or samples that were buffered on
    their way have a larger one. The difference of the delays of two sensors is the offset between their clocks, if both
    are equally fast.
    """

    def __init__(self, clock: HostClock) -> None:
        self.clock, self.first, self.delay = clock, None, math.inf
        self.began = math.inf  # of the clock

    def add(self, moment: float) -> None:
        """Note that a frame or sample with this time stamp, in seconds, has just arrived."""
        now = self.clock.now()
        if self.first is None:
            self.first, self.began = moment, now
        self.delay = min(self.delay, now - moment)


# ---------------------------------------------------------------------------------------------------------------
# Frames


def source_kind(source: str | os.PathLike) -> str:
    """Return what a source of frames is, as for `VideoFeed`: "file", "address", "device" or "pipe".

    A path that does not exist is a "file"; opening it raises VideoError. Raise VideoError for an address whose protocol
    is not among rtsp, http, https, rtmp, tcp, udp, rtp and srt.
    """
    if scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", os.fspath(source)):
        if scheme[1].lower() not in SCHEMES:
            raise VideoError(
                f"{source}: not an address that can be read; give a file, a device, a pipe, or an address that begins "
                f"with {', '.join(SCHEMES)}"
            )
        return "address"
    try:
        mode = os.stat(source).st_mode
    except (OSError, ValueError):
        return "file"  # open_video() says what is wrong
    return "pipe" if stat.S_ISFIFO(mode) else "device" if stat.S_ISCHR(mode) else "file"


class VideoFeed:
    """Frames of a video as they come: iterate over (time in seconds, upright RGB, uint8 [height, width, 3]), once.

    The time of a frame of a file is the one that a player shows, 0 at the start of the file: usually the start of its
    exposure. For all other sources, only differences between their time stamps mean something: the time is that of the
    arrival of the first frame on this host, in seconds since 1970, plus the difference to the first stamp. It includes
    the delay of the network and of the decoder.

    A thread decodes. At real speed it waits for a file, and for other sources that are over a second ahead. It never
    waits for the reader: a frame that was not read when the next one comes is dropped, and a decoder that is over a
    second behind skips to the next key frame. Both are counted in `dropped`, broken packets and frames in `broken`.

    The feed ends with its source. If something ended it early, `problem` says what: a lost connection, silence, or a
    sender that closes a live source, unless it has announced a length and reached it. `end` is the time at which the
    last frame ends, in seconds; `length` is where a file says that it ends, or NaN.

    A source is a file; an address such as rtsp://, http://, tcp:// or udp://; a device such as /dev/video0 (Linux); or
    a named pipe. Network access is allowed for an address, and only for one. Pictures larger than `size` are scaled to
    this height and width as `predict()` does, from what was decoded (None: they stay as they are). `realtime=False`
    gives all frames of a file, as fast as they are decoded; otherwise `pace`, which the samples can share, says when
    they are due (None: the first frame starts it). `clock` ends the feed with `stop()`.

    After `timeout` seconds without a packet a live source is lost (None: `TIMEOUT`, 20 s). For `reconnect` seconds, an
    address that has given frames and is lost is opened again and again, until frames come. Their times go on, counted
    from the arrival of the first new one; `reconnections` counts, and `report` gets a sentence when the address is
    lost, and when it is back.

    Raise VideoError at once for a file that is not a video, for realtime=False with another source than a file, and for
    `reconnect` with another source than an address; for live sources, when the first frame is asked for.

    >>> from egodistill.deploy import feeds
    >>> feed = feeds.VideoFeed("walk.mp4", realtime=False)
    >>> frames = list(feed)
    >>> len(frames), round(frames[-1][0], 2), frames[-1][1].shape, round(feed.end, 2)
    (468, 23.35, (64, 64, 3), 23.4)
    """

    def __init__(
        self,
        source: str | os.PathLike,
        *,
        size: int | None = None,
        realtime: bool = True,
        clock: HostClock | None = None,
        pace: Pace | None = None,
        timeout: float | None = None,
        reconnect: float = 0.0,
        report: Callable[[str], object] = lambda sentence: None,
    ) -> None:
        self.source, self.kind, self.realtime = os.fspath(source), source_kind(source), realtime
        self.size = size
        self.live = self.kind != "file"
        if self.live and not realtime:
            raise VideoError(
                f"{source}: only a file can be read faster than real time, {named('realtime', False, option='--fast')}"
            )
        if reconnect and self.kind != "address":
            raise VideoError(f"{source}: a {self.kind}; only an address can be opened again by {named('reconnect')}")
        self.length = math.nan
        if not self.live:
            with open_video(self.source) as container:
                end = declared_end(container, video_stream(container, self.source))
                self.length = math.nan if end is None else end
        self.timeout = TIMEOUT if timeout is None else timeout
        self.reconnect, self.report, self.reconnections = reconnect, report, 0
        self._lost: float | None = None  # when the address was lost, on the clock
        self.clock = clock or HostClock()
        self.pace = pace or Pace(self.clock, AHEAD if self.live else 0.0)
        self.problem: str | None = None
        self.dropped = self.broken = 0
        self.end = -math.inf
        self._first: tuple[float, float] | None = None  # live: stamp and arrival of the first frame
        self._catching, self._backlog = False, 0
        self._waiting: collections.deque[tuple[float, av.VideoFrame]] = collections.deque()
        self._changed = threading.Condition()
        self._ended, self._error = False, None
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        self._thread.start()
        scale, keep = Scaler(self.size), Scaler(None)
        while (found := self._take()) is not None:
            moment, frame = found
            is_small = self.size is not None and min(frame.width, frame.height) < self.size  # a stream tells
            yield moment, (keep if is_small else scale)(frame)
        if self._error is not None and not self.clock.stopped:
            raise self._error

    def _take(self) -> tuple[float, av.VideoFrame] | None:
        """Return the next frame; None at the end."""
        with self._changed:
            asked = self.clock.now()
            while not self._waiting and not self._ended and not self.clock.stopped:
                self._changed.wait(POLL)  # a decoder that waits for its source does not notice that the clock stops
                # A read of a pipe or device has no limit of its own.
                silent = self.clock.now() - asked > self.timeout and self.end > -math.inf
                if silent and self.kind in ("pipe", "device"):
                    self.problem, self._ended = f"{self.source}: {self._silence()}", True
            if not self._waiting or self.clock.stopped:
                return None
            self._changed.notify_all()
            return self._waiting.popleft()

    # --- In the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        error = self._read()
        while error is not None and self.reconnect and self.end > -math.inf and not self.clock.stopped:
            if self._lost is None:
                self._lost = self.clock.now()
                self.report(f"{error}; trying to open it again for {self.reconnect:g} s")
            elif self.clock.now() - self._lost > self.reconnect:
                error = VideoError(f"{error}, and it did not come back in {self.reconnect:g} s")
                break
            if self.clock.sleep(RETRY):
                error = self._read()
        with self._changed:
            if self.end == -math.inf:
                self._error = error
            elif error is not None and not self.clock.stopped:
                self.problem = str(error)
            self._ended = True
            self._changed.notify_all()

    def _read(self) -> VideoError | None:
        """Read the source to its end; return what ended it early, if anything."""
        self._first, self._catching, self._backlog = None, False, 0
        try:
            with self._open() as container:
                complete = self._decode(container)
        except VideoError as error:
            return error
        except Exception as failed:  # any: the reader waits for the end of this thread
            return VideoError(f"{self.source}: {failed}")
        if self.end == -math.inf:
            return VideoError(f"{self.source}: no frame: it ended before one was complete")
        if self.live and not complete:
            return VideoError(f"{self.source}: {CLOSED[self.kind]}")
        return None

    def _silence(self) -> str:
        return f"nothing came for {self.timeout:g} s"

    def _reason(self, error: Exception) -> str:
        """Return what FFmpeg says about an error. PyAV ends a call that takes longer than its limit by an ExitError."""
        silent = isinstance(error, av.error.ExitError)
        return self._silence() if silent else str(getattr(error, "strerror", error))

    @contextlib.contextmanager
    def _open(self) -> Iterator[av.container.InputContainer]:
        if not self.live:
            with open_video(self.source) as container:
                yield container
            return
        # torchvision up to 0.25 enables PyAV's logging when it is imported; see open_video().
        av.logging.set_level(None)
        timeout, layout, options, place = None, None, LOCAL_FILES, os.path.abspath(self.source)
        if self.kind == "address":
            left = math.inf if self._lost is None else self.reconnect + self._lost - self.clock.now()
            timeout = (min(self.timeout, max(left, RETRY)), self.timeout)
            options, place = NETWORK | {"rtsp_transport": "tcp"}, self.source
        elif self.kind == "device":
            layout, options = "v4l2", {}
        try:
            container = av.open(place, format=layout, container_options=options, timeout=timeout, **OPEN_OPTIONS)
        except (av.error.FFmpegError, ValueError) as error:  # ValueError: PyAV was built without this format
            raise VideoError(f"{self.source}: cannot be opened: {self._reason(error)}") from error
        with container:
            try:
                yield container
            except av.error.FFmpegError as error:
                raise VideoError(f"{self.source}: {self._reason(error)}") from error

    def _decode(self, container: av.container.InputContainer) -> bool:
        """Deliver the frames; return whether all came that the source has announced. Live sources announce none."""
        stream = video_stream(container, self.source)
        announced, shown = declared_end(container, stream), -math.inf
        codec, zero = stream.codec_context, clock_zero(container)
        codec.thread_type = "SLICE" if self.live else "AUTO"  # threads that share frames hold some of them back
        length = 1 / float(stream.average_rate or 25)
        packets, skips, whole_from = demux(container, stream), False, None
        while not self.clock.stopped:
            asked = self.clock.now()
            if (packet := next(packets, None)) is None:
                return announced is not None and shown >= announced - EARLY
            self._backlog = 0 if self.clock.now() - asked > WAITED else self._backlog + 1
            if self._catching != skips and (self._catching or packet.is_keyframe):
                # Frames after a key frame may need those before it, if they are shown before it.
                skips, whole_from = self._catching, packet.pts
                codec.skip_frame = "NONKEY" if skips else "DEFAULT"
            self.dropped += skips and bool(packet.size) and not packet.is_keyframe
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                self.broken += 1
                continue
            for frame in frames:
                moment = self._time(frame, stream.time_base, zero)
                if moment is None or frame.is_corrupt:
                    self.broken += 1
                    continue
                if not skips and None not in (frame.pts, whole_from) and frame.pts < whole_from:
                    self.dropped += 1
                    continue
                whole_from = whole_from if skips else None  # later frames are whole, also if the clock goes back
                self.end = max(self.end, moment + length)
                if frame.pts is not None:
                    shown = max(shown, float(frame.pts * stream.time_base) - zero)
                if not self._deliver(moment, frame):
                    return False
        return False

    def _time(self, frame: av.VideoFrame, base: Fraction, zero: float) -> float | None:
        """Return the time of a frame in seconds; None for a frame of a file without a time stamp."""
        stamp = None if frame.pts is None else float(frame.pts * base)
        if not self.live:
            return None if stamp is None else stamp - zero
        now = self.clock.unix()
        if stamp is None:
            return now
        if self._first is None:
            self._first = (stamp, max(now, self.end))  # after a connection that was ahead, too
        first, arrived = self._first
        return arrived + (stamp - first)

    def _deliver(self, moment: float, frame: av.VideoFrame) -> bool:
        """Give the reader a frame when it is due; return False if the clock is stopped."""
        if self._lost is not None:
            self.reconnections += 1
            self.report(f"{self.source}: back after {self.clock.now() - self._lost:.1f} s")
            self._lost = None
        if self.realtime:
            late = self.pace.lateness(moment)
            if late < LATE / 2 or not self._backlog:
                self._catching = False
            elif late > LATE and self._backlog >= BACKLOG:
                self._catching = True
            if not self.pace.wait(moment):
                return False
        with self._changed:
            if self.realtime:
                self.dropped += len(self._waiting)
                self._waiting.clear()
            while len(self._waiting) >= DECODED and not self.clock.stopped:
                self._changed.wait(POLL)
            self._waiting.append((moment, frame))
            self._changed.notify_all()
        return not self.clock.stopped


class NoVideo:
    """What takes the place of a `VideoFeed` where there is head motion alone: no frame, and no end."""

    length, end, problem = math.nan, math.inf, None
    dropped = broken = reconnections = 0

    def __init__(self, source: str, live: bool) -> None:
        self.source, self.live, self.timeout = source, live, TIMEOUT

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        return iter(())


# ---------------------------------------------------------------------------------------------------------------
# Samples


def split_samples(times: np.ndarray, readings: np.ndarray, seconds: float = CHUNK) -> Samples:
    """Yield samples in their order, one piece for each interval [k * seconds, (k + 1) * seconds) that has any.

    Times are [n], seconds, or nanoseconds if they are integers, readings [n, 6].

    >>> import numpy as np
    >>> from egodistill.deploy import feeds
    >>> times = np.array([0.02, 0.07, 0.11, 0.31])
    >>> [part.tolist() for part, _ in feeds.split_samples(times, np.zeros((4, 6)))]
    [[0.02, 0.07], [0.11], [0.31]]
    """
    if not len(times):
        return
    length = round(seconds * 1e9) if times.dtype.kind == "i" else seconds
    cuts = np.flatnonzero(np.diff(np.floor_divide(times, length))) + 1
    yield from zip(np.split(times, cuts), np.split(readings, cuts), strict=True)


def recorded_samples(motion: Imu, seconds: float = CHUNK) -> Samples:
    """Yield the samples of a recording in order of time: times [n], readings [n, 6], in pieces as of `split_samples()`.

    A row has one sensor; the other three columns are NaN.
    """
    times = np.concatenate((motion.accel_time, motion.gyro_time))
    readings = np.full((len(times), 6), np.nan)
    readings[: len(motion.accel), :3], readings[len(motion.accel) :, 3:] = motion.accel, motion.gyro
    order = np.argsort(times, kind="stable")
    yield from split_samples(times[order], readings[order], seconds)


class LineSamples:
    """Samples from lines of text as they arrive: iterate over (times [n], readings float64 [n, 6]), once.

    Each piece has the lines that a block completes. Empty lines are skipped. A line that is not a sample is skipped and
    counted in `bad`. `piped_samples()` makes such feeds.

    `parse` returns time and six readings of a line, or None for a header, and raises ValueError for a line that is not
    a sample; `report` gets a sentence about the first of these. The readings are judged by a `Stream`. Raise IMUError
    after a hundred lines in a row that are not samples.
    """

    def __init__(
        self,
        name: str,
        blocks: Iterable[bytes],
        parse: Callable[[str], Row | None],
        *,
        report: Callable[[str], object],
    ) -> None:
        self.name, self.blocks, self.parse, self.report = name, blocks, parse, report
        self.lines, self.bad, self._in_a_row = 0, 0, 0

    def __iter__(self) -> Samples:
        rest = b""
        for block in self.blocks:
            *complete, rest = (rest + block).split(b"\n")
            if len(rest) > MAX_LINE:
                complete, rest = [*complete, rest], b""
            found = [row for line in complete if (row := self._row(line)) is not None]
            if found:
                times, readings = zip(*found, strict=True)
                yield np.array(times), np.array(readings, np.float64)

    def _row(self, line: bytes) -> Row | None:
        """Return the sample of a line; None without one."""
        self.lines += 1
        if not line.strip():
            return None
        try:
            row = self.parse(line.decode("utf-8-sig").strip())
        except IMUError:
            raise
        except LostOrder as error:
            raise IMUError(f"{self.name}: line {self.lines}: {error}") from error
        except ValueError as error:
            self.bad += 1
            self._in_a_row += 1
            sentence = f"{self.name}: line {self.lines}: {error}"
            if self._in_a_row >= BAD_IN_A_ROW:
                raise IMUError(f"{sentence}. {BAD_IN_A_ROW} lines in a row are not samples") from error
            if self.bad == 1:
                self.report(f"{sentence}. Such lines are skipped and counted")
            return None
        self._in_a_row = 0
        return row


class LostOrder(ValueError):
    """A line after which the others of a feed cannot be read."""


class JSONRow:
    """Parser of lines such as {"time": 1.25, "accel": [0.1, 0.2, 9.8], "gyro": [0, 0, 0.1]}.

    The first time decides for all: an integer is nanoseconds, a number with a decimal point is seconds.
    """

    form = '{"time": 1.25, "accel": [x, y, z], "gyro": [x, y, z]}, one sensor or both, or the header of a table'

    def __init__(self) -> None:
        self.whole: bool | None = None

    def __call__(self, line: str) -> Row:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not JSON; expected {self.form}; got {shortened(line)}") from error
        if not isinstance(row, dict) or not is_number(row.get("time")):
            raise ValueError(f"expected {self.form}; got {shortened(line)}")
        sensors = [row.get(name) for name in ("accel", "gyro")]
        fits = all(
            axes is None or (isinstance(axes, list) and len(axes) == 3 and all(map(is_number, axes)))
            for axes in sensors
        )
        if not fits or sensors == [None, None]:
            raise ValueError(f"expected {self.form}; got {shortened(line)}")
        moment = row["time"]
        if self.whole is None:
            self.whole = isinstance(moment, int)
        if self.whole and not (isinstance(moment, int) and abs(moment) < 2**63):
            raise ValueError(
                f"the times began as integers, which are nanoseconds, and this one is {moment!r}; write all seconds "
                f"with a decimal point, or all nanoseconds without"
            )
        readings = [float(x) for axes in sensors for x in axes or [math.nan] * 3]
        return moment if self.whole else float(moment), readings


def is_number(value: Any) -> bool:
    """Return whether a value from JSON is a finite number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    return abs(value) < 1e300 if isinstance(value, int) else math.isfinite(value)


def shortened(line: str) -> str:
    return line if len(line) <= 60 else f"{line[:57]}..."


class AnyRow:
    """Parser of lines in JSON, or of a table if the first line that can be read is the header of one."""

    def __init__(self, name: str) -> None:
        self.name, self.json, self.table = name, JSONRow(), None

    def __call__(self, line: str) -> Row | None:
        if self.table is None and self.json.whole is None and not line.startswith("{"):
            with contextlib.suppress(IMUError):
                self.table = TableRow(self.name, line)
                return None
        return (self.table or self.json)(line)


def piped_samples(
    descriptor: int,
    *,
    clock: HostClock,
    report: Callable[[str], object],
    name: str = "standard input",
    timeout: float = math.inf,
) -> LineSamples:
    """Return samples from lines in a pipe or file that is open; see `LineSamples`.

    A line is one object of JSON, {"time": 1.25, "accel": [x, y, z], "gyro": [x, y, z]}, in m/s2 and rad/s, with one
    sensor or both; if the first time is an integer, all are integer nanoseconds, else seconds. Or the first line is the
    header of a table with the columns of `data.read_imu()`, and the others are its rows.

    The feed ends with `clock.stop()`, and with an IMUError after `timeout` seconds without samples, once it has begun
    (not on Windows).

    >>> import os
    >>> from egodistill.deploy import feeds
    >>> reader, writer = os.pipe()
    >>> os.write(writer, b'{"time": 0.5, "accel": [0, 0, 9.8]}\\n') and os.close(writer)
    >>> for times, readings in feeds.piped_samples(reader, clock=feeds.HostClock(), report=print):
    ...     print(times, readings)
    [0.5] [[0.  0.  9.8 nan nan nan]]
    >>> os.close(reader)
    """
    blocks = pipe_blocks(descriptor, Silence(name, clock, timeout))
    return LineSamples(name, blocks, AnyRow(name), report=report)


class Silence:
    """Watch over a source of lines: after two of them it must not be silent for longer than `timeout` seconds.

    The first one may be a header, before a sensor that needs a while to start.
    """

    def __init__(self, name: str, clock: HostClock, timeout: float) -> None:
        self.name, self.clock, self.timeout, self.left = name, clock, timeout, 1
        self._since: float | None = None  # of the silence

    def ends(self, block: bytes) -> None:
        """Note that something came."""
        self.left -= block.count(b"\n")
        self._since = None

    def check(self) -> None:
        """Raise IMUError if the source has been silent for too long since `ends()`. Call it while nothing comes."""
        if self._since is None:
            self._since = self.clock.now()
        if self.left < 0 and self.clock.now() - self._since > self.timeout:
            raise IMUError(f"{self.name}: nothing came for {self.timeout:g} s")


def pipe_blocks(descriptor: int, silence: Silence) -> Iterator[bytes]:
    """Yield the bytes of an open file as they come, until the clock is stopped; its end also ends the last line."""
    while not silence.clock.stopped:
        if os.name != "nt" and not select.select([descriptor], [], [], POLL)[0]:
            silence.check()
            continue
        # Not through sys.stdin: a thread that waits there holds its lock, and the interpreter could not exit.
        block = os.read(descriptor, 1 << 16)
        silence.ends(block)
        yield block or b"\n"
        if not block:
            return


class TableRow:
    """Parser of the lines of a table with this header. An empty cell, NULL and nan are not readings.

    A program that is started again may repeat the header, but with the same columns. Raise IMUError for a line that is
    no header.
    """

    def __init__(self, name: str, header: str) -> None:
        self.name = name
        self.time, self.unit, self.columns = table_columns(name, header)

    def __call__(self, line: str) -> Row | None:
        cells = [cell.strip().strip('"').lower() for cell in line.split(",")]
        try:
            if len(cells) <= max(self.columns):
                raise ValueError(f"{len(cells)} cells; the header has at least {max(self.columns) + 1}")
            moment, *readings = (
                math.nan if cells[place] in ("", "null") else float(cells[place]) for place in self.columns
            )
        except ValueError:
            if self.is_header(line, cells):
                return None
            raise
        if not math.isfinite(moment):
            raise ValueError("no time")
        return moment * self.unit, readings

    def is_header(self, line: str, cells: list[str]) -> bool:
        """Return whether a line is the header again. Raise LostOrder if it is one with other columns."""
        try:
            found = table_columns(self.name, line)
        except IMUError:
            found = None
        if found is None and self.time not in cells:
            return False
        if found != (self.time, self.unit, self.columns):
            raise LostOrder("a second header, with other columns; let the program begin a new table when it is started")
        return True
