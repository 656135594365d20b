"""Read frames of a video at given times. Needs only numpy and PyAV; copy it alone.

    import video    # or: from egodistill import video

    info = video.probe("walk.mp4")                              # VideoInfo(duration=10.5, fps=29.97, ...)
    frames = video.read_frames("walk.mp4", [0.5, 7.25], 224)    # uint8 [2, 3, 224, 224], RGB
    times = video.clip_times(3.0, 8)                            # times of 8 frames of a clip that starts at 3 s

Times are seconds on the video's own clock, the one a player shows: zero is the start of the file.
"""

from __future__ import annotations

import bisect
import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import av
import av.container
import av.error
import av.logging
import av.stream
import av.video.stream
import numpy as np
from av.video.reformatter import VideoReformatter

__all__ = [
    "DRAWN",
    "MAX_HOLD",
    "MAX_TOLERANCE",
    "SAMPLING",
    "LONGEST",
    "FrameReader",
    "FrameReaders",
    "Scaler",
    "VideoError",
    "VideoInfo",
    "clip_times",
    "clock_zero",
    "demux",
    "discard_others",
    "frames_at",
    "open_reader",
    "open_video",
    "probe",
    "read_frames",
    "video_stream",
]


class VideoError(OSError):
    """A video that cannot be opened, or a frame that cannot be decoded. The message names the file and the time."""


MAX_HOLD = 1.0  # seconds: a frame that is on screen for longer hides a hole in the recording
MAX_PICTURE = 1 << 26  # pixels; a few kilobytes can be decoded to more
LONGEST = 1e6  # seconds, eleven days: no video is longer, and none has more seconds than its file has bytes
MAX_TOLERANCE = 10.0  # seconds: the packets of that time before and after a frame are held in memory
_ROUNDING = 1e-6  # seconds: a frame at 1/30 s is on screen at t = 0.0333333
_END_TOLERANCE = 0.1  # seconds for which the last frame remains valid after its own end
_REORDER = 4  # frames held back to sort them: some phones write times out of order
_LOOK_AHEAD = 32  # packets read before they are decoded, to learn in which order they are shown
_MOST_AHEAD = 512  # packets read before they are decoded, to find the cheapest frame
_UNEVEN = 1.3  # largest ratio of the longest part to the mean part when several threads share a recording
_PADDING = 64  # bytes at the end of a slice that may be zeros
_BLIND_SEEK = 10.0  # seconds ahead from which seeking is worth it without an index of key frames
# FFmpeg's formats that read nothing beside the file itself. Others do: playlists (hls, dash), lists of files (concat),
# sequences of pictures (image2), descriptions of streams (sdp), and recordings in several files (mlv, vobsub).
_FORMATS = """
    mov matroska avi mpegts mpegtsraw mpeg flv asf ogg mxf gxf nut dv rm wtv ty pva nsv nuv swf dhav ifv kux lvf
    h261 h263 h264 hevc vvc m4v mpegvideo vc1 av1 obu ivf evc apv avs2 avs3 cavsvideo dirac dnxhd
    mjpeg mjpeg_2000 mpjpeg smjpeg jpeg_pipe png_pipe apng gif yuv4mpegpipe
    wav mp3 aac ac3 flac aiff caf
"""
# With an absolute path, this keeps FFmpeg from reading an address or another file: `http:/host/x.mp4` is the path of a
# file here, and a playlist that is called x.mp4 is refused. To be given as `container_options`: PyAV 17 and 18 write
# beyond their memory when they have `options` and a format finds its streams late (FLV, MPEG program streams).
LOCAL_FILES = {"protocol_whitelist": "file", "format_whitelist": ",".join(_FORMATS.split())}
# What files that name others begin with.
_LISTS = {
    b"#EXTM3U": "an HLS playlist",
    b"ffconcat": "a list of files for FFmpeg",
    b"v=0": "the description of a stream",
    b"<?xml": "a playlist or another XML file",
}
# Metadata that is not UTF-8 must not make a video unreadable. PyAV 19 always keeps such bytes as surrogate escapes, and
# removed this argument.
OPEN_OPTIONS = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """The data in the header of a video.

    Attributes:
        duration: Length in seconds.
        fps: Mean frame rate in Hz.
        width: Width in pixels as coded, before rotation.
        height: Height in pixels as coded, before rotation.
    """

    duration: float
    fps: float
    width: int
    height: int


def probe(video: str | os.PathLike) -> VideoInfo:
    """Return what the header of a video says, without decoding. Raise VideoError if it cannot be read.

    Args:
        video: The file.

    >>> from egodistill import data
    >>> data.probe("walk.mp4")
    VideoInfo(duration=23.4, fps=20.0, width=64, height=64)
    """
    with open_video(video) as container:
        stream = video_stream(container, video)
        if (duration := declared_end(container, stream)) is None:
            raise VideoError(
                f"{video}: the header gives no duration, as in a picture or a cut-off recording; give a whole video"
            )
        return VideoInfo(duration, float(stream.average_rate or 0), stream.width, stream.height)


def read_frames(
    video: str | os.PathLike,
    times: Sequence[float] | np.ndarray,
    size: int | None = None,
    *,
    crop: bool = False,
    exact: bool = True,
    tolerance: float = 0.0,
    max_hold: float = MAX_HOLD,
    threads: int = 0,
) -> np.ndarray:
    """Return the frames on screen at the given times, uint8 RGB [n, 3, H, W], a view of an array [n, H, W, 3].

    The frame on screen at t is the last one with time <= t; before the first frame it is the first, and the last frame
    is valid until 0.1 s after its own end. Rotation is applied. A frame is lost if its data are damaged, or those of an
    earlier one up to its key frame. Of several video streams, the one that players show is read.

    Args:
        video: The file.
        times: In seconds, any order; one below 0 counts as 0.
        size: H and W, by resizing the whole frame (the aspect ratio changes); None keeps the frame's own, and the
            nearest chroma sample for each pixel, as decord does, whether it has 8 bits or more.
        crop: With `size`, resize the frame's centre square instead of the whole frame.
        exact: False takes the key frame nearest to t instead, the earlier one of two: the cheapest choice, because it
            is decoded alone.
        tolerance: In seconds, at most 10. Take the frame that needs the fewest packets among those that begin at most
            that long before or after t: the nearest key frame, or without one the frame that comes first in the file.
            If none begins there, the frame on screen is taken.
        max_hold: In seconds. If no frame begins that long before t (after t, before the first frame), the recording has
            a hole there, and the frame is lost; at 0.5 frames per second, `max_hold` must be 2.
        threads: Number of decoding threads, 0 for one per core: each reads a part of the recording, or all share one
            decoder.

    Raises:
        VideoError: The video cannot be read, or a frame is lost. The message names file and time.
        ValueError: `times` is not a list, has no times or one that is not finite, `size` is not a whole number,
            `max_hold` or `tolerance` is out of range, or `tolerance` comes with `exact=False`.

    >>> from egodistill import data
    >>> data.read_frames("walk.mp4", [5.0, 1.0, 2.5], size=32).shape
    (3, 3, 32, 32)
    >>> data.read_frames("walk.mp4", [99.0])
    Traceback (most recent call last):
    ...
    egodistill.video.VideoError: walk.mp4: no frame at 99.000 s: the video ends earlier, or its data are broken
    """
    given = np.asarray(times)
    if given.ndim != 1 or given.dtype.kind not in "iuf":
        raise ValueError(f"{video}: times must be a list of seconds, such as [5.0]; got {times!r}")
    if not isinstance(size, (int, np.integer, type(None))):
        raise ValueError(f"{video}: size must be one whole number, for height and width; got {size!r}")
    times = given.astype(np.float64)
    if not times.size:
        raise ValueError(f"{video}: no times given")
    threads = threads or _cores()
    with open_reader(video, max_hold) as reader:
        parts = reader.parts(times, threads)
        options = {"size": size, "crop": crop, "exact": exact, "tolerance": tolerance, "threads": threads // len(parts)}
        with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
            running = [pool.submit(_read_beside, video, times[part], max_hold, **options) for part in parts[1:]]
            own = times if len(parts) == 1 else times[parts[0]]
            results = [_read_pictures(reader, own, **options), *(one.result() for one in running)]
    pictures = results[0]
    if len(parts) > 1:
        pictures = np.empty((len(times), *pictures.shape[1:]), np.uint8)
        for part, found in zip(parts, results, strict=True):
            pictures[part] = found
    return pictures.transpose(0, 3, 1, 2)


def _read_pictures(reader: FrameReader, times: np.ndarray, *, size: int | None, crop: bool, **options) -> np.ndarray:
    """Return the pictures at these times, in their order, [n, H, W, 3]."""
    scaler, pictures = Scaler(size, crop and size is not None), np.empty(0)
    for index, frame in reader.frames(times, **options):
        if frame is None:
            raise reader.lost(times[index])
        picture = scaler(frame)
        if not pictures.size:
            pictures = np.empty((len(times), *picture.shape), np.uint8)
        pictures[index] = picture
    return pictures


def _read_beside(video: str | os.PathLike, times: np.ndarray, max_hold: float, **options) -> np.ndarray:
    """Return what `_read_pictures()` returns, with a decoder of its own."""
    with open_reader(video, max_hold) as reader:
        return _read_pictures(reader, times, **options)


def frames_at(
    video: str | os.PathLike,
    times: Sequence[float] | np.ndarray,
    *,
    exact: bool = True,
    tolerance: float = 0.0,
    max_hold: float = MAX_HOLD,
    threads: int = 0,
) -> Iterator[tuple[int, av.VideoFrame | None]]:
    """Decode in one pass over a video: yield (index into `times`, decoded frame) in the order of the times.

    Only a few decoded frames are in memory at once. A lost frame, beyond the end, in a hole or among broken packets, is
    None.

    Args:
        video: The file.
        times: In seconds, any order.
        exact: As in `read_frames()`.
        tolerance: As in `read_frames()`, in seconds.
        max_hold: As in `read_frames()`, in seconds.
        threads: Number of threads of the one decoder, 0 for FFmpeg's choice.

    Raises:
        VideoError: The video cannot be read.
        ValueError: A time is not finite, `max_hold` or `tolerance` is out of range, or `tolerance` comes with
            `exact=False`.

    >>> from egodistill import data
    >>> for index, frame in data.frames_at("walk.mp4", [5.0, 1.0]):
    ...     print(index, frame.width, frame.height)
    1 64 64
    0 64 64
    """
    options = {"exact": exact, "tolerance": tolerance, "threads": threads}
    with open_reader(video, max_hold) as reader:
        yield from reader.frames(times, **options)


def _cores() -> int:
    """Return the number of cores that this process may use; a container or scheduler may limit it."""
    if count := getattr(os, "process_cpu_count", None):  # Python 3.13
        return count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class FrameReader:
    """A reader that goes forwards through a video, and decodes as little as the wanted frames need.

    Packets say when their frames are shown, so the wanted frames are known before decoding. Frames that no other frame
    refers to are skipped unless they are wanted; the decoder is drained as soon as it has all that a wanted frame
    needs; decoding continues at the key frame of the next wanted frame if that is later. Times are whole ticks of the
    stream's clock. Raise ValueError for a `max_hold` that is not above 0.

    Args:
        container: The video, from `open_video()`.
        video: Its file.
        max_hold: As in `read_frames()`, in seconds.
    """

    def __init__(
        self, container: av.container.InputContainer, video: str | os.PathLike, *, max_hold: float = MAX_HOLD
    ) -> None:
        if not max_hold > 0:
            raise ValueError(f"{video}: max_hold (--max-hold) must be above 0 s, not {max_hold}")
        self.container, self.video = container, video
        self.stream = stream = video_stream(container, video)
        self.codec, self.zero = stream.codec_context, clock_zero(container)
        self.second, self.first = 1 / float(stream.time_base), self._tick(0.0)
        self.max_hold, self.longest = max_hold, (max_hold + _ROUNDING) * self.second
        self.step: float | None = None  # see _usual_step()
        self.usual = max(1, round(self.second / float(stream.average_rate or 25)))  # a frame's length
        if "matroska" in container.format.name:  # reads its index of key frames at the first seek
            with contextlib.suppress(av.error.FFmpegError):
                container.seek(0)
        # Other formats add entries while they read; these have gaps.
        self.has_table = len(stream.index_entries) > 1
        self._begin()
        self.origin = self.ahead[0].dts if self.ahead else None
        entries = stream.index_entries  # some formats list decoding times, others presentation times
        listed = len(entries) and self.ahead and self.ahead[0].pts is not None
        self.lag = self.ahead[0].pts - entries[0].timestamp if listed else 0

    def frames(
        self, times: Sequence[float] | np.ndarray, *, exact: bool, threads: int, tolerance: float = 0.0
    ) -> Iterator[tuple[int, av.VideoFrame | None]]:
        """Yield what `frames_at()` yields, and raise its errors. Call it once, and again only after `rewind()`.

        Args:
            times: In seconds, any order.
            exact: As in `read_frames()`.
            threads: As in `frames_at()`; after `rewind()` as before.
            tolerance: As in `read_frames()`, in seconds.
        """
        if not 0 <= tolerance <= MAX_TOLERANCE or (tolerance and not exact):  # NaN: False
            limits = f"from 0 to {MAX_TOLERANCE:g} s, and 0 for key frames, exact=False (--key-frames)"
            raise ValueError(f"{self.video}: tolerance (--tolerance) must be {limits}; got {tolerance!r}")
        order = self._sorted(times)
        if not self.codec.is_open:
            self.codec.thread_count = threads
            if threads != 1:
                self.codec.thread_type = "AUTO"
        # Draining the decoder and seeking cost as much as a few frames, and more when several threads wait.
        self.pause = self.usual * max(2, threads or _cores())
        self.ticks = [self._tick(float(times[i])) for i in order]
        if tolerance:
            self.windows = [self._window(float(times[i]), tolerance) for i in order]
            shown = [packet for packet in self.ahead if _is_shown(packet)]
            self.near = [(packet.pts, packet.is_keyframe) for packet in shown if packet.pts is not None]
        yield from zip(order.tolist(), self._exact() if exact else self._nearest(), strict=True)

    def rewind(self) -> bool:
        """Return to the state of a new reader, or return False: open the video again, which is cheap without an index.

        To open a video with an index costs time that grows with its length.
        """
        if not self.has_table:
            return False
        try:
            self.container.seek(self.stream.index_entries[0].timestamp, stream=self.stream)
        except av.error.FFmpegError:
            return False
        self._begin()
        return bool(self.ahead) and self.ahead[0].dts == self.origin

    def lost(self, seconds: float) -> VideoError:
        """Return the error for a time of `frames()` whose frame was just None.

        Args:
            seconds: The time.
        """
        reason = "the video ends earlier, or its data are broken"
        if self.wrong is not None:
            reason = f"its data are damaged from {self._seconds(self.wrong):.3f} s to the next key frame; copy the file"
            reason += f" again, or use what is left of it with `ffmpeg -i {Path(self.video).name} new.mp4`"
        start, stop = self.hole
        if start <= self._tick(max(seconds, 0.0)) < stop < math.inf:
            start, stop = self._seconds(start), self._seconds(stop)
            reason = f"none begins between {start:.3f} and {stop:.3f} s, "
            reason += f"which is over max_hold (--max-hold), {self.max_hold:g} s"
        return VideoError(f"{self.video}: no frame at {seconds:.3f} s: {reason}")

    def holes(self) -> list[tuple[float, float]]:
        """Return where no frame begins for more than `max_hold` seconds, (start, stop) in seconds. Decode nothing.

        Packets are read only where the index has long steps, or everywhere if the file has no index to its end.
        """
        first = self.stamps[0] if self.stamps else self.first
        looked = [[self.first, first]] if first > self.first else []
        stamps = [entry.timestamp + self.lag for entry in self.stream.index_entries]
        if not self.has_table or stamps[-1] < self._tick(probe(self.video).duration) - self.usual - self.longest:
            looked.append(self._stamps_between(first, math.inf))
        else:
            looked += [self._stamps_between(*pair) for pair in _jumps(stamps, self._usual_step() + self.longest)]
        found = {jump for stamps in looked for jump in _jumps(stamps, self.longest)}
        return [(self._seconds(start), self._seconds(stop)) for start, stop in sorted(found)]

    def parts(self, times: np.ndarray, count: int) -> list[np.ndarray]:
        """Split times into parts with a key frame between any two; return their indices.

        Args:
            times: In seconds, any order.
            count: Largest number of parts.
        """
        order = self._sorted(times)
        keys = [self._key_before(self._tick(t)) or 0 for t in times[order]] if count > 1 else []
        cuts = np.flatnonzero(np.diff(keys)) + 1
        if not len(cuts):
            return [order]
        ends = [round(i * len(order) / count) for i in range(1, count)]
        parts = np.split(order, sorted({int(cuts[np.abs(cuts - end).argmin()]) for end in ends}))
        # With few key frames, one part may be most of the work; then the threads are faster on one decoder.
        return parts if max(map(len, parts)) <= _UNEVEN * len(order) / count else [order]

    def _sorted(self, times: Sequence[float] | np.ndarray) -> np.ndarray:
        if not np.isfinite(times).all():
            raise ValueError(f"{self.video}: the times contain NaN or infinity")
        return np.argsort(times, kind="stable")

    def _tick(self, seconds: float) -> int:
        return math.floor((seconds + _ROUNDING + self.zero) / self.stream.time_base)

    def _window(self, seconds: float, tolerance: float) -> tuple[int, int]:
        """Return the first and the last tick within the tolerance of a time; _tick() rounds down."""
        return self._tick(seconds - tolerance - 2 * _ROUNDING) + 1, self._tick(seconds + tolerance)

    def _seconds(self, tick: float) -> float:
        return tick / self.second - self.zero

    def _exact(self) -> Iterator[av.VideoFrame | None]:
        """Yield the frame on screen at each time, or the cheapest one near it."""
        pairs = self._cheapest() if self.windows else itertools.zip_longest(self.ticks, self.ticks[1:])
        for ticks, following in pairs:
            if ticks >= self.until:
                if self._worth_seeking(ticks):
                    self._seek(ticks)
                self._decode_to(ticks, following)
                for back in (0, self.second):
                    lost, hurt = self.wanted not in self.decoded, self.damage.failed or self.damage.marks
                    if not (lost and not self._past(ticks)) and not (self.skipped and (lost or hurt)):
                        break
                    # The substitute for a lost frame may be among the skipped ones.
                    self.can_skip = False
                    self._seek(ticks - back)
                    self._decode_to(ticks, following)
            yield self._shown(ticks)

    def _cheapest(self) -> Iterator[tuple[int, int | None]]:
        """Yield the time of the frame in each window that needs the fewest packets, and the end of the next window.

        Packets are read to the end of the window, and decoded later. The choice does not depend on where reading began:
        the nearest key frame, else the frame whose packet is first. Without a frame, the time itself is yielded.
        """
        for ticks, (low, high), following in itertools.zip_longest(self.ticks, self.windows, self.windows[1:]):
            if not self._read_past(low) and self._is_far(low):
                self._seek(low)
            while not (self.ended or self._read_past(high)):
                self._look_ahead()
                if len(self.ahead) > _MOST_AHEAD and not self._read_past(low):
                    packet = self.ahead.popleft()
                    if not self.emptied:  # otherwise decoding continues at a key frame
                        self.decode(packet)
                        self._keep_last(self.decoded)
            self.near = [frame for frame in self.near if frame[0] >= low]
            inside = [frame for frame in self.near if frame[0] <= high]
            keys = [(abs(pts - ticks), pts) for pts, is_key in inside if is_key]
            best = min(keys)[1] if keys else inside[0][0] if inside else ticks
            if keys and self.position == -math.inf:  # nothing is decoded since the seek
                for _ in range(next((k for k, packet in enumerate(self.ahead) if packet.pts == best), 0)):
                    self.ahead.popleft()
            yield best, following and following[1]

    def _nearest(self) -> Iterator[av.VideoFrame | None]:
        """Yield the key frame nearest to each time, decoded alone."""
        keys: list[av.Packet] = []
        decoded, frame = None, None
        self.can_skip = False
        for ticks in self.ticks:
            if not keys or ticks >= self.until:
                keys = self._keys_around(ticks)
            key = min(keys, key=lambda packet: abs(packet.pts - ticks), default=None)
            if key is not None and key.pts != decoded:
                self.codec.flush_buffers()
                decoded, self.decoded = key.pts, {}
                self.decode(key)
                self.decode(None)
                frame = next(iter(self.decoded.values()), None)
            yield None if self._in_hole(ticks) or self._is_wrong(frame) else frame

    def _is_wrong(self, frame: av.VideoFrame | None) -> bool:
        """Return whether a frame is damaged, and remember since when."""
        self.wrong = None if frame is None else self.damage.since(frame.pts)
        return self.wrong is not None

    def _in_hole(self, ticks: int) -> bool:
        """Return whether this time is in a hole, by the index or the packets read, and remember the hole."""
        if self.hidden[0] < ticks < self.hidden[1]:
            return True
        stamps = self.stamps  # without an index, those that _keys_around() has read
        if self.has_table:
            entries = self.stream.index_entries
            before, after = (self._index_of(ticks, backward=way, any_frame=True) for way in (True, False))
            near = entries[max(before, 0)].timestamp
            if min(before, after) >= 0 and entries[after].timestamp - near <= self._usual_step() + self.longest:
                return False
            stamps = self._stamps_between(near + self.lag, ticks)
        place = bisect.bisect_right(stamps, ticks)
        after = stamps[place] if place < len(stamps) else math.inf
        return self._remember_hole(stamps[place - 1] if place else None, after, ticks)

    def _remember_hole(self, before: int | None, after: float, ticks: int) -> bool:
        """Return whether a time is in a hole between two neighbouring frames, and remember the hole."""
        hidden = (-math.inf if before is None else before + self.longest, after - (before is None) * self.longest)
        if not hidden[0] < max(ticks, self.first) < hidden[1]:
            return False
        self.hole, self.hidden = (self.first if before is None else before, after), hidden
        return True

    def _usual_step(self) -> float:
        """Return the median step between two frames in the file's index, which lists all frames or all key frames."""
        if self.step is None:
            entries = self.stream.index_entries
            places = range(0, len(entries) - 1, max(1, len(entries) // 100))  # of an hour's 100,000
            self.step = float(np.median([entries[k + 1].timestamp - entries[k].timestamp for k in places]))
        return self.step

    def _stamps_between(self, low: int, high: float) -> list[int]:
        """Read packets from the key frame before `low` until they are behind `high`; return their times, sorted."""
        self._seek(low)
        while not self.ended and (self.ahead[-1].dts or 0) <= high:
            self._look_ahead()
            self.ahead.popleft()
        return self.stamps

    def _key_before(self, ticks: int) -> int | None:
        """Return where decoding must start for this time according to the index; None without an index."""
        return self._indexed_time(ticks, backward=True) if self.has_table else None

    def _indexed_time(self, ticks: float, backward: bool) -> int | None:
        """Return the indexed time of the last key frame shown by then, or of the first one shown later."""
        entries, place = self.stream.index_entries, self._index_of(ticks, backward)
        return entries[place].timestamp if place >= 0 and entries[place].is_keyframe else None

    def _index_of(self, ticks: float, backward: bool, any_frame: bool = False) -> int:
        """Return the place in the index of the last key frame, or frame, shown by then, or of the first one later."""
        ticks = math.floor(ticks) - self.lag + (not backward)
        return self.stream.index_entries.search_timestamp(ticks, backward=backward, any_frame=any_frame)

    def _begin(self) -> None:
        """Begin at the first packet, with the state of a new reader."""
        self.hole = self.hidden = (0.0, 0.0)  # the last hole that was found, and the times that it hides, in ticks
        self.can_skip = _tells_unreferenced(self.codec)
        self.blind_seek = _BLIND_SEEK * self.second
        self.windows: list[tuple[int, int]] = []  # the tick range of each wanted frame, with a tolerance
        self.keys: dict[int | None, list[av.Packet]] = {}  # by their times in the index
        self._start(demux(self.container, self.stream))
        self._look_ahead()

    def _start(self, packets: Iterator[av.Packet]) -> None:
        self.packets = packets
        self.ahead: collections.deque[av.Packet] = collections.deque()  # read, not yet decoded
        self.stamps: list[int] = []  # times of the packets read, sorted, from the wanted frame on
        self.near: list[tuple[int, bool]] = []  # the same as read, with key frames marked, from the window's start on
        self.decoded: dict[int, av.VideoFrame] = {}
        self.position = self.until = -math.inf  # decoded up to there; on screen until then
        self.wanted: int | None = None
        self.ended = self.emptied = self.skipped = False
        self.damage, self.wrong = Damage(), None

    def _worth_seeking(self, ticks: int) -> bool:
        """Return whether continuing at a later key frame is cheaper than decoding everything up to there."""
        if self.emptied:
            return bool(self.ahead)  # otherwise the end is reached and everything is decoded
        return self._is_far(ticks)

    def _is_far(self, ticks: int) -> bool:
        """Return whether seeking to the key frame before this time skips enough packets; a guess without an index."""
        position = self.position
        if position == -math.inf and self.ahead:  # nothing is decoded yet
            position = self.ahead[0].dts or 0
        key = self._key_before(ticks)
        return ticks > position + self.blind_seek if key is None else key > position + self.pause

    def _seek(self, ticks: float) -> None:
        """Seek to a key frame that is shown at or before this time."""
        before = self.position
        # Some containers seek by decoding time, so their key frame may be shown too late.
        for back in (0, 1, 4, 16, 64, math.inf):
            start = max(ticks - back * self.second, self._tick(-1))  # before the first frame
            try:
                self.container.seek(math.floor(start), stream=self.stream)
            except av.error.FFmpegError:  # the container cannot seek: continue decoding
                return
            self._start(demux(self.container, self.stream))
            self._look_ahead()
            while back < math.inf and self.ahead and not self.ahead[0].is_keyframe:
                self.ahead.clear()
                self.stamps.clear()
                self._look_ahead()
            first = self.ahead[0] if self.ahead else None
            if first is not None and first.pts is not None and first.pts <= ticks:
                break
        if self.ahead and (self.ahead[0].dts or 0) <= before:
            self.blind_seek = math.inf  # the seek went backwards: there are few key frames

    def _look_ahead(self) -> None:
        packet = next(self.packets, None)
        if packet is None or not packet.size:
            self.ended = True
            return
        self.ahead.append(packet)
        if _is_shown(packet):
            bisect.insort(self.stamps, packet.pts)
            if self.windows:
                self.near.append((packet.pts, packet.is_keyframe))

    def _decode_to(self, ticks: int, following: int | None) -> None:
        """Decode until the frame on screen at this time is decoded, or must be counted as lost."""
        while True:
            # Frames are shown after they are decoded; read a few more packets for files that break this rule.
            while not (arrived := self.ended or self._read_past(ticks)) and len(self.ahead) < _LOOK_AHEAD:
                self._look_ahead()
            place = bisect.bisect_right(self.stamps, ticks)
            del self.stamps[: max(place - 1, 0)]
            if arrived:
                self.wanted = self.stamps[0] if self.stamps else None
                if self.wanted in self.decoded:
                    return
                if self.emptied or sum(pts > ticks for pts in self.decoded) > _REORDER:
                    return
            fed = arrived and self.wanted is not None and all(p.pts != self.wanted for p in self.ahead)
            if not self.ahead or (fed and (following is None or self._worth_seeking(following))):
                self.decode(None)
                self.emptied = True
            else:
                self.decode(self.ahead.popleft())
                self._keep_last(self._past(ticks) if arrived else self.decoded)

    def _keep_last(self, decoded: Iterable[int]) -> None:
        """Drop frames that are shown before the wanted one; only the last of them may be needed."""
        for pts in sorted(decoded)[:-1]:
            del self.decoded[pts]

    def _read_past(self, ticks: int) -> bool:
        if len(self.ahead) < _REORDER:
            return False
        dts = self.ahead[-_REORDER].dts
        return dts is not None and dts > ticks

    def decode(self, packet: av.Packet | None) -> None:
        """Decode a packet, and keep the frames in `decoded`, {time in ticks: frame}.

        Args:
            packet: None drains the decoder.
        """
        if packet is not None:
            skip = self.can_skip and not self._is_wanted(packet)
            self.codec.skip_frame = "NONREF" if skip else "DEFAULT"
            self.skipped |= skip
            self.position = self.position if packet.dts is None else packet.dts
        try:
            frames = self.codec.decode(packet)
        except av.error.InvalidDataError:
            self.damage.look(packet, None)
            return
        self.damage.look(packet, frames)
        for frame in frames:
            if frame.pts is None:
                raise VideoError(f"{self.video}: frames without time stamps")
            self.decoded[frame.pts] = frame

    def _is_wanted(self, packet: av.Packet) -> bool:
        """Return whether one of the times falls while this packet's frame is on screen."""
        if packet.pts is None or packet.pts == self.wanted:
            return True
        if self.windows:  # only the frames before this one are known not to be wanted
            return all(later.pts != self.wanted for later in self.ahead)
        after = bisect.bisect_right(self.stamps, packet.pts)
        if after == len(self.stamps):  # the next one is not read yet
            return True
        place = bisect.bisect_left(self.ticks, packet.pts)
        return place < len(self.ticks) and self.ticks[place] < self.stamps[after]

    def _past(self, ticks: int) -> list[int]:
        return [pts for pts in self.decoded if pts <= ticks]

    def _shown(self, ticks: int) -> av.VideoFrame | None:
        past = self._past(ticks)
        pts = max(past, default=min(self.decoded, default=None))
        if pts is None:
            return None
        for earlier in past:
            if earlier != pts:
                del self.decoded[earlier]
        frame = self.decoded[pts]
        if self._is_wrong(frame):
            return None
        if pts == self.wanted and len(self.stamps) > 1:
            self.until = self.stamps[1]
            if past and ticks - pts <= self.longest:
                return frame
            before, after = (pts, self.until) if past else (None, pts)
            return None if self._remember_hole(before, after, ticks) else frame
        # The last frame, or the one before a lost frame, must not hide what is missing.
        end = pts + min(frame.duration or self.usual, self.longest) + _END_TOLERANCE * self.second
        return frame if pts - self.longest <= ticks <= end else None

    def _keys_around(self, ticks: int) -> list[av.Packet]:
        """Return the packets of the key frames before and after a time, if they exist."""
        entries = self.stream.index_entries
        before, after = self._indexed_time(ticks, backward=True), self._indexed_time(ticks, backward=False)
        keys = []
        if self.has_table and (after is not None or ticks <= entries[len(entries) - 1].timestamp + self.lag):
            known = {listed: self.keys[listed] for listed in (before, after) if listed in self.keys}
            for listed in (before, after):
                if listed is not None and listed not in known:
                    self.container.seek(listed + self.lag, stream=self.stream)
                    found = filter(_is_key, demux(self.container, self.stream))
                    known[listed] = list(itertools.islice((key for key in found if key.pts >= listed), 1))
            self.keys = known  # the one after a time is often the one before the next
            keys = [*known.get(before, ()), *known.get(after, ())]
        else:  # the index does not reach that far: read on, without decoding
            self._seek(ticks)
            while not keys or keys[-1].pts <= ticks:
                if not self.ahead:
                    self._look_ahead()
                if not self.ahead:
                    break
                if _is_key(packet := self.ahead.popleft()):
                    keys = [*keys[-1:], packet]
        self.until = keys[-1].pts if keys and keys[-1].pts > ticks else math.inf
        return keys


class Damage:
    """What is damaged in a stream as it is decoded: broken and lost frames, and all after one up to a key frame.

    FFmpeg makes up what it cannot decode and marks at most that frame; those that refer to it are as wrong.
    """

    def __init__(self) -> None:
        self.marks: list[tuple[int, bool]] = []  # (time in ticks, whether frames are damaged from there on), sorted
        self.sent: dict[int, tuple[bool, bool]] = {}  # {time: `_slices()`} of packets whose frames have not come
        self.failed = False

    def look(self, packet: av.Packet | None, frames: Iterable[av.VideoFrame] | None) -> None:
        """Look at what a decoder returned for a packet: frames, or None for an error."""
        if packet is not None and packet.pts is not None:
            self.sent[packet.pts] = _slices(packet)
        self.failed |= frames is None
        for frame in [frame for frame in frames or () if frame.pts is not None]:
            gone = [(pts, self.failed) for pts in self.sent if pts < frame.pts]  # lost, or skipped if nothing failed
            for pts, is_bad in [*gone, (frame.pts, frame.is_corrupt)]:
                alone, has_zeros = self.sent.pop(pts, (False, False))
                if (is_bad or has_zeros) and not (alone and self.since(pts) is not None):
                    self.marks += [(pts, True), (pts + 1, False)][: 1 + alone]
                elif self.marks and frame.key_frame and pts == frame.pts:
                    self.marks.append((pts, False))
                self.marks.sort()

    def since(self, ticks: int) -> int | None:
        """Return from when on the frame of a time is damaged, in ticks; None if it is not."""
        sound = max((time for time, is_bad in self.marks if not is_bad and time <= ticks), default=-math.inf)
        return next((time for time, is_bad in self.marks if is_bad and sound <= time <= ticks), None)


def _slices(packet: av.Packet) -> tuple[bool, bool]:
    """Return whether no other frame refers to a packet's, and whether it has three zeros, which no encoder writes.

    Known of H.264 and H.265 with lengths before their units, as in MP4.
    """
    codec = packet.stream.codec_context
    if codec.name not in ("h264", "hevc"):
        return packet.is_disposable, False
    content, at, refers, has_zeros = bytes(packet), 0, set[bool](), False
    is_264, header = codec.name == "h264", codec.extradata or b""
    place = 4 if is_264 else 21
    size = (header[place] & 3) + 1 if place < len(header) and header[0] == 1 else len(content)
    while at + size < len(content):
        start, at = at + size, at + size + int.from_bytes(content[at : at + size], "big")
        has_zeros |= at == start
        if content[start] & 31 in range(1, 6) if is_264 else content[start] >> 1 & 63 < 32:
            has_zeros |= content.find(b"\0\0\0", start, max(start, at - _PADDING)) >= 0
            refers.add(not is_264 or content[start] > 31)
    return packet.is_disposable or refers == {False}, has_zeros


@contextlib.contextmanager
def open_reader(video: str | os.PathLike, max_hold: float = MAX_HOLD) -> Iterator[FrameReader]:
    """Yield a reader of a video, which is closed at the end of the block; raise what `open_video()` raises.

    Args:
        video: The file.
        max_hold: As in `read_frames()`, in seconds.
    """
    with open_video(video) as container:
        yield FrameReader(container, video, max_hold=max_hold)


class FrameReaders:
    """Readers of one video that stay open from use to use, for several threads; `close()` closes those not in use.

    Args:
        video: The file.
        max_hold: As in `read_frames()`, in seconds.
    """

    def __init__(self, video: str | os.PathLike, max_hold: float = MAX_HOLD) -> None:
        self.video, self.max_hold = video, max_hold
        self.free: dict[int, list[tuple[FrameReader, contextlib.ExitStack]]] = {}  # by the decoder's threads

    @contextlib.contextmanager
    def lend(self, threads: int) -> Iterator[FrameReader]:
        """Yield a reader for one call of `frames()`. An error closes it; raise what `open_video()` raises.

        Args:
            threads: Number of decoding threads, as `frames()` gets it.
        """
        free = self.free.setdefault(threads, [])
        try:
            reader, opened = free.pop()
        except IndexError:
            reader, opened = None, contextlib.ExitStack()
        with opened:
            if reader is None or not reader.rewind():
                opened.close()
                reader = opened.enter_context(open_reader(self.video, self.max_hold))
            yield reader
            free.append((reader, opened.pop_all()))

    def close(self) -> None:
        """Close the readers that are not in use."""
        with contextlib.ExitStack() as stack:
            for _, opened in itertools.chain(*self.free.values()):
                stack.enter_context(opened)
            self.free.clear()


def _jumps(stamps: Sequence[float] | np.ndarray, longest: float) -> list[tuple[float, float]]:
    """Return the neighbouring times that are more than `longest` apart."""
    stamps = np.asarray(stamps, np.float64)
    places = np.flatnonzero(np.diff(stamps) > longest)
    return list(zip(stamps[places].tolist(), stamps[places + 1].tolist(), strict=True))


def _is_shown(packet: av.Packet) -> bool:
    return packet.pts is not None and not packet.is_discard


def _is_key(packet: av.Packet) -> bool:
    return packet.is_keyframe and _is_shown(packet)


def _tells_unreferenced(codec: av.VideoCodecContext) -> bool:
    """Return whether the decoder knows which frames no other frame refers to.

    H.264 marks them. H.265 marks them within their temporal layer, so there must be only one layer;
    the MP4 or Matroska header has their number in byte 21.
    """
    header = codec.extradata or b""
    if codec.name == "hevc":
        return len(header) > 21 and header[0] == 1 and header[21] >> 3 & 7 == 1
    return codec.name == "h264"


class Scaler:
    """A converter of decoded frames to RGB arrays of one size. FFmpeg's tables are built once.

    Args:
        size: As in `read_frames()`.
        crop: As in `read_frames()`; needs a size.
    """

    def __init__(self, size: int | None, crop: bool = False) -> None:
        self.size, self.crop, self.reformatter = size, crop, VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Return a frame as upright RGB, uint8 [H, W, 3]: a view of FFmpeg's memory, to be copied where it is kept."""
        width, height, size = frame.width, frame.height, self.size
        if size:
            scale = size / min(width, height)
            crop = (round(width * scale), round(height * scale))
            width, height = crop if self.crop else (size, size)
        shrinks = width < frame.width or height < frame.height
        is_same = (width, height) == (frame.width, frame.height)
        scaled = self.reformatter.reformat(
            frame,
            width,
            height,
            "rgb24",
            threads=1,  # starting more threads costs more than they save
            # Nearest chroma at a frame's own size is what FFmpeg does for 8 bits; otherwise it would smooth 10 bits.
            interpolation="AREA" if shrinks else "POINT" if is_same else "BILINEAR",
        )
        plane = scaled.planes[0]
        picture = np.ndarray((height, width, 3), np.uint8, plane, strides=(plane.line_size, 3, 1))
        if self.crop:
            top, left = (height - size) // 2, (width - size) // 2
            picture = picture[top : top + size, left : left + size]
        return np.rot90(picture, round(frame.rotation / 90))


@contextlib.contextmanager
def open_video(video: str | os.PathLike) -> Iterator[av.container.InputContainer]:
    """Yield an open container, closed at the end of the block; FFmpeg's errors inside it become VideoErrors.

    Raise VideoError for a path that is not a regular file, is empty, or cannot be opened as a video. A playlist or
    another file that only names videos is not opened, so that no other file than the given one is read.

    Args:
        video: The file.
    """
    if not isinstance(video, (str, os.PathLike)):
        raise VideoError(f"video must be the path of one file, such as 'walk.mp4'; got {type(video).__name__}")
    path = Path(video)
    if not path.is_file():
        folder = "a folder, not a file; give a video, or the folder of a Neon without imu (--imu)"
        kinds = {folder: path.is_dir(), "not a regular file": path.exists()}
        kinds |= {"a link that leads to no file": path.is_symlink(), "no such file": True}
        raise VideoError(f"{video}: {next(what for what, true in kinds.items() if true)}")
    if not path.stat().st_size:
        raise VideoError(f"{video}: the file is empty (0 bytes)")
    # torchvision up to 0.25 enables PyAV's logging when it is imported. Decoder threads then need the interpreter lock
    # to log, and can deadlock.
    av.logging.set_level(None)
    try:
        container = av.open(os.path.abspath(path), container_options=LOCAL_FILES, **OPEN_OPTIONS)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{video}: {_why_closed(path, error)}") from error
    with container:
        try:
            yield container
        except av.error.FFmpegError as error:
            raise VideoError(f"{video}: {error.strerror}") from error


def _why_closed(path: Path, error: av.error.FFmpegError | OSError) -> str:
    """Return why a file cannot be opened as a video, after its name."""
    if isinstance(error, PermissionError):
        return f"cannot be read: {error.strerror}; give yourself the right to read it (`chmod u+r`)"
    with contextlib.suppress(OSError), open(path, "rb") as file:
        start = file.read(16)
        kind = next((kind for first, kind in _LISTS.items() if start.startswith(first)), None)
        if (
            kind is None and error.errno == errno.EINVAL and "%" in path.name
        ):  # its answer for formats that are not ours
            kind = "a sequence of pictures"
        if kind is not None:
            return (
                f"{kind}, not a video in one file; make one of it, such as with `ffmpeg -i {path} joined.mp4`, and "
                f"give that"
            )
    return f"cannot be opened: {error.strerror}. It is not a video, or recording stopped before its index was written"


def video_stream(container: av.container.InputContainer, video: str | os.PathLike) -> av.video.stream.VideoStream:
    """Return the video stream that players show, and skip all other streams. Raise VideoError if none can be decoded.

    FFmpeg chooses it: the default stream, then the one with the higher bit rate; a cover picture comes last.

    Args:
        container: The video, from `open_video()`.
        video: Its file, for the message of an error.
    """
    if not container.streams.video:
        raise VideoError(f"{video}: no video stream")
    stream = container.streams.best("video")
    if not isinstance(stream, av.video.stream.VideoStream) or stream.codec_context is None:
        raise VideoError(f"{video}: FFmpeg has no decoder for its video stream")
    discard_others(container, [stream])
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PICTURE:
        raise VideoError(
            f"{video}: has pictures of {width} x {height}, more than {MAX_PICTURE:,} pixels; make them smaller, "
            f"such as with `ffmpeg -i {Path(video).name} -vf scale=1920:-2 smaller.mp4`"
        )
    stream.codec_context.options["max_pixels"] = str(MAX_PICTURE)  # a picture may be larger than its header says
    return stream


def discard_others(container: av.container.InputContainer, streams: Sequence[av.stream.Stream]) -> None:
    """Skip the packets of all other streams without reading them, if PyAV can (from version 18 on).

    Args:
        container: The video, from `open_video()`.
        streams: The streams to read.
    """
    for stream in container.streams:
        if hasattr(stream, "discard"):
            stream.discard = av.stream.Discard.default if stream in streams else av.stream.Discard.all


def demux(container: av.container.InputContainer, *streams: av.stream.Stream) -> Iterator[av.Packet]:
    """Yield the packets of these streams. PyAV raises IndexError for a stream that begins later; skip its packets.

    Args:
        container: The video, from `open_video()`.
        streams: The streams to read.
    """
    while True:
        try:
            yield from container.demux(*streams)
            return
        except IndexError:  # one packet has been read: go on with the next
            continue


def clock_zero(container: av.container.InputContainer) -> float:
    """Return the start of the player's clock in seconds; transport streams do not start at zero.

    Args:
        container: The video, from `open_video()`.
    """
    return max(0.0, (container.start_time or 0) / 1e6)


def declared_end(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> float | None:
    """Return when a video ends on the player's clock in seconds, as its header says; None if it does not.

    Raise VideoError for an end that is not possible: a list of its clips could fill the memory.
    """
    if stream.duration:
        end = float(((stream.start_time or 0) + stream.duration) * stream.time_base) - clock_zero(container)
    elif container.duration:  # Matroska knows the length of the whole file only, counted from its own zero
        own_zero = "matroska" in container.format.name
        end = container.duration / 1e6 - (clock_zero(container) if own_zero else 0.0)
    else:
        return None
    size = container.size if container.size > 0 else math.inf  # a live stream has none
    if not end <= min(LONGEST, size):
        raise VideoError(
            f"{container.name}: is damaged: its header says that it has {end:,.0f} s, and the file has {size:,} bytes; "
            f"copy it again, or write its header anew with `ffmpeg -i {Path(container.name).name} -c copy new.mp4`"
        )
    return end


# --- Which frames of a clip ----------------------------------------------------------------------

SAMPLING = ("uniform", "random", "first", "last", "centre", "ages")
DRAWN = ("random", "ages")  # rules whose times differ from clip to clip
OLDEST = 4.0  # seconds before the end of its clip, of a frame of the rule "ages"
_STEP = 1 / 30  # seconds: the frames of a clip at 30 Hz, from which all rules but "uniform" choose


def clip_times(
    start: float,
    count: int,
    seconds: float = 64 / 30,
    *,
    sampling: str = "uniform",
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Return the times of a clip's frames by a rule, in seconds, ascending, float64 [count].

    Raise ValueError for an unknown rule, or if the clip has fewer frames.

    Args:
        start: Start of the clip in seconds.
        count: Number of frames.
        seconds: Length of the clip in seconds.
        sampling: The rule, one of `SAMPLING`; the first five are those of the paper's Table 4. "uniform" takes the
            centres of `count` equal parts of the clip, so one frame is its middle. "first", "last" and "centre" take
            neighbouring frames at 30 Hz from that place of the clip, "random" any of these frames. "ages" is for
            cameras that sleep: a frame of random age in each of `count` equal parts of the 4 s before the clip's end,
            not before 0; about half of these times are before the clip.
        rng: Draws for the rules in `DRAWN`; None: a new generator.

    >>> from egodistill import data
    >>> data.clip_times(0.0, 1).round(3), data.clip_times(0.0, 4).round(3)
    (array([1.067]), array([0.267, 0.8  , 1.333, 1.867]))
    >>> data.clip_times(0.0, 3, sampling="last").round(3)
    array([2.05 , 2.083, 2.117])
    """
    if sampling == "uniform":
        return start + (np.arange(count) + 0.5) / count * seconds
    frames = round(seconds / _STEP)
    if sampling not in SAMPLING or count > frames:
        raise ValueError(f"cannot sample {count} of {frames} frames by the rule {sampling!r}; rules are {SAMPLING}")
    if sampling == "ages":
        ages = (np.arange(count) + (rng or np.random.default_rng()).random(count)) / count * OLDEST
        return np.maximum(0.0, start + seconds - ages[::-1])
    if sampling == "random":
        chosen = np.sort((rng or np.random.default_rng()).choice(frames, count, replace=False))
    else:
        before = {"first": 0, "centre": (frames - count) / 2, "last": frames - count}[sampling]
        chosen = before + np.arange(count)
    return start + (chosen + 0.5) / frames * seconds
