"""Working copies of recordings: small videos with many key frames, and Project Aria's as videos and tables.

    from egodistill.recordings import copies

    made = copies.transcode("GX010042.MP4", "small/GX010042.mp4")
    print(made.speedup, made.left_out)                      # telemetry is kept if MP4 can hold it
    made = copies.convert("recording.vrs", "films")         # films/recording.mp4 and films/recording.csv

Frames keep their times, which are seconds on the video's own clock, as everywhere in this package.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import av.container
import av.error
import av.stream
import av.video.frame
import av.video.stream
import numpy as np
from av.video.reformatter import VideoReformatter

from .. import gpmf
from ..imu import Imu
from ..support import files
from ..support.errors import DataError, named
from ..support.names import is_same
from ..video import VideoError, clock_zero, demux, discard_others, frames_at, open_video, probe, video_stream
from .aria import AriaError, AriaRecording
from .offset import Faults, ordered_frames
from .recording import is_neon, neon_video

__all__ = ["Converted", "Transcoded", "convert", "converted_files", "transcode"]

TICKS = 90_000  # per second, of the times of a converted video


class Transcoded(NamedTuple):
    """A working copy of a video.

    Attributes:
        path: The copy.
        source_bytes: Size of the original.
        copy_bytes: Size of the copy.
        frames: Number of frames in the copy.
        broken_packets: Number of packets that could not be decoded and were skipped.
        repeated_frames: Number of frames left out because another frame had the same time.
        left_out: Audio and telemetry that MP4 cannot hold.
        speedup: How many times faster one frame every 2 s is read from the copy; None: not measured.
    """

    path: str
    source_bytes: int
    copy_bytes: int
    frames: int
    broken_packets: int
    repeated_frames: int
    left_out: tuple[str, ...]
    speedup: float | None


def transcode(
    video: str | os.PathLike,
    out: str | os.PathLike,
    *,
    short_side: int = 256,
    keyframe_every: int = 12,
    quality: int = 23,
    measure: bool = False,
    overwrite: bool = False,
) -> Transcoded:
    """Write a working copy of a video: small H.264 with many key frames.

    All frames keep their times, in the original's time base and counted from its zero, so the frame on screen at any
    time is the same. Frames are stored upright. Audio and GoPro telemetry are copied unchanged. Broken packets are
    skipped and counted. There are no B-frames and no deblocking, which made sparse reading over twice as fast for 7 %
    more bytes. The file appears under its name when it is complete.

    Args:
        video: The original.
        out: The copy to write, .mp4, in an existing folder.
        short_side: Frames are scaled down to this many pixels on their shorter side, at least 16.
        keyframe_every: A key frame every this many frames, at least 1.
        quality: x264's CRF, 0 to 51: lower is better and larger.
        measure: Also measure `speedup`: read one frame every 2 s from both files.
        overwrite: Replace a file at `out`.

    Raises:
        DataError: A setting or `out` is unusable.
        VideoError: The video cannot be read.

    >>> from egodistill.recordings import copies
    >>> copy = copies.transcode("walk.mp4", "small.mp4", short_side=32)
    >>> copy.path, copy.frames, copy.left_out
    ('small.mp4', 468, ())
    """
    video, out = Path(video), Path(out)
    if short_side < 16 or keyframe_every < 1 or not 0 <= quality <= 51:
        raise DataError(
            f"{video}: {named('short_side')} must be at least 16, {named('keyframe_every')} at least 1 and "
            f"{named('quality')} from 0 to 51, not {short_side}, {keyframe_every} and {quality}"
        )
    if video.is_dir():
        scene = f", {neon_video(video)}" if is_neon(video) else ""
        raise DataError(f"{video}: a folder, not a file; give a video in it{scene}")
    if out.suffix.lower() != ".mp4":
        raise DataError(f"{out}: a working copy is an MP4 file, so its name must end in .mp4")
    if out.exists() and is_same(out, video):
        raise DataError(f"{out}: this is the video itself; give another name")
    if out.exists() and (out.is_dir() or not overwrite):
        way_out = "give another name" + ("" if out.is_dir() else f", or {named('overwrite', True)}")
        raise DataError(f"{out}: already exists; {way_out}")
    if not out.parent.is_dir():
        raise DataError(f"{out}: the folder {out.parent} does not exist")
    with files.atomic_write(out) as part:
        part.touch()  # FFmpeg's error would name the video
        try:
            with open_video(video) as source:
                copier = _Copier(source, video)
                copier.write(part, short_side, keyframe_every, quality)
        except VideoError as error:
            cause = error.__cause__  # FFmpeg's error about writing, although the message names the video
            if isinstance(cause, (OSError, av.error.FFmpegError)) and cause.errno in _FULL:
                raise OSError(cause.errno, cause.strerror, str(part)) from error
            raise
    speedup = None
    if measure:
        times = np.arange(1.0, probe(out).duration, 2.0)[:100]
        speedup = _seconds_to_read(video, times) / _seconds_to_read(out, times) if len(times) else None
    return Transcoded(
        path=str(out),
        source_bytes=video.stat().st_size,
        copy_bytes=out.stat().st_size,
        frames=copier.frames,
        broken_packets=copier.faults.broken,
        repeated_frames=copier.faults.repeated,
        left_out=copier.left_out,
        speedup=speedup,
    )


_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}


def _seconds_to_read(video: Path, times: np.ndarray) -> float:
    began = time.perf_counter()
    for _ in frames_at(video, times, threads=1):  # one thread, as in data.prepare()
        pass
    return time.perf_counter() - began


class _Copier:
    """A copier of an open video: it encodes frames again, and copies packets of sound and telemetry unchanged."""

    def __init__(self, source: av.container.InputContainer, video: Path) -> None:
        self.source, self.video = source, video
        self.stream = stream = video_stream(source, video)
        stream.thread_type = "AUTO"
        self.zero = round(clock_zero(source) / stream.time_base)  # in ticks: differences between frames stay exact
        others = [*source.streams.audio, *gpmf.streams(source)]
        self.copied = [other for other in others if _fits_mp4(other)]
        self.left_out = tuple(
            f"{other.type} ({other.codec_context.name})" if other.codec_context else other.type
            for other in others
            if other not in self.copied
        )
        discard_others(source, [stream, *self.copied])
        self.faults, self.frames = Faults(), 0
        self.encoder: av.video.stream.VideoStream | None = None
        self.copies: dict[int, av.stream.Stream] = {}
        self.early: list[av.Packet] = []  # packets before the first frame
        self.durations: dict[int, int] = {}

    def write(self, out: Path, short_side: int, keyframe_every: int, quality: int) -> None:
        """Write the whole copy."""
        starts = [other.start_time * other.time_base for other in self.copied if other.start_time is not None]
        anchored = any(start <= self.zero * self.stream.time_base for start in starts)
        usual = round(1 / (float(self.stream.average_rate or 25) * self.stream.time_base))
        # Empty edits at the start of a stream are counted in the movie's time scale, by default milliseconds.
        scale = {"movie_timescale": str(self.stream.time_base.denominator)}
        with av.open(str(out), "w", format="mp4", options=scale) as target:
            self.target = target
            for frame in _in_order(ordered_frames(self._pictures(), self.faults), self.faults):
                picture_time = frame.pts - self.zero
                if self.encoder is None:
                    paint = _Painter(frame, short_side)
                    self._begin(paint(frame), keyframe_every, quality)
                    # A player's clock starts at the earliest packet of a file. If no other stream starts at zero, the
                    # first frame must, or the clock would move; it is on screen before its own time anyway.
                    picture_time = picture_time if anchored else 0
                picture = paint(frame)
                picture.pts, picture.time_base = picture_time, self.stream.time_base
                picture.pict_type = av.video.frame.PictureType.NONE  # do not keep the original's key frames
                self.durations[picture_time] = frame.duration or usual
                self._mux(self.encoder.encode(picture))
                self.frames += 1
            if self.encoder is None:
                raise VideoError(f"{self.video}: none of its frames can be decoded")
            self._mux(self.encoder.encode(None))

    def _begin(self, picture: av.VideoFrame, keyframe_every: int, quality: int) -> None:
        """Create the copy's streams and write the packets that precede the first frame."""
        time_base = cast(Fraction, self.stream.time_base)  # every stream of a file has one
        how = {"quality": quality, "keyframe_every": keyframe_every}
        self.encoder = h264_stream(self.target, picture, time_base, self.stream.average_rate or Fraction(25), **how)
        self.copies = {other.index: _mirror(self.target, other) for other in self.copied}
        for packet in self.early:
            self._copy(packet)

    def _pictures(self) -> Iterator[av.Packet]:
        """Yield the packets to decode, and copy those of the other streams on the way."""
        for packet in demux(self.source, self.stream, *self.copied):
            if packet.stream is self.stream:
                yield packet
            elif packet.dts is None or packet.pts is None:
                continue
            elif self.encoder is None:  # no stream can be added after the first packet is written
                self.early.append(packet)
            else:
                self._copy(packet)

    def _copy(self, packet: av.Packet) -> None:
        shift = round(self.zero * self.stream.time_base / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        packet.stream = self.copies[packet.stream.index]
        self.target.mux(packet)

    def _mux(self, packets: Sequence[av.Packet]) -> None:
        for packet in packets:
            packet.duration = self.durations.pop(packet.pts)  # the encoder counts in mean steps
            self.target.mux(packet)


def _in_order(frames: Iterator[av.VideoFrame], faults: Faults) -> Iterator[av.VideoFrame]:
    """Yield frames with strictly increasing times; of several with one time the last, which is the one on screen."""
    waiting = None
    for frame in frames:
        if waiting is not None and frame.pts <= waiting.pts:
            faults.repeated += 1
            waiting = frame if frame.pts == waiting.pts else waiting
            continue
        if waiting is not None:
            yield waiting
        waiting = frame
    if waiting is not None:
        yield waiting


class _Painter:
    """A converter of frames for the copy: small, upright, 8 bits, with the colour space of the original."""

    def __init__(self, first: av.VideoFrame, short_side: int) -> None:
        scale = min(1.0, short_side / min(first.width, first.height))
        self.size = [2 * max(1, round(side * scale / 2)) for side in (first.width, first.height)]  # chroma needs pairs
        self.how = "AREA" if scale < 1 else "BILINEAR"
        self.reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        turns = round(frame.rotation / 90) % 4
        small = self.reformatter.reformat(
            frame, *self.size, "yuv444p" if turns else "yuv420p", interpolation=self.how, threads=1
        )
        if not turns:
            return small
        planes = np.rot90(small.to_ndarray(), turns, axes=(1, 2))
        upright = av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), format="yuv444p")
        upright.colorspace, upright.color_range = frame.colorspace, small.color_range
        return upright.reformat(format="yuv420p")


def h264_stream(
    target: av.container.OutputContainer,
    picture: av.VideoFrame,
    time_base: Fraction,
    rate: Fraction,
    *,
    quality: int,
    keyframe_every: int = 12,
) -> av.video.stream.VideoStream:
    """Return a new H.264 stream for frames like this one (yuv420p), about `rate` a second, that decode fast."""
    keys = f"keyint={keyframe_every}:min-keyint={keyframe_every}:scenecut=0"
    stream = target.add_stream(
        "libx264",
        options={"crf": str(quality), "preset": "veryfast", "tune": "fastdecode", "bf": "0", "x264-params": keys},
    )
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = picture.width, picture.height, "yuv420p"
    stream.time_base = context.time_base = time_base
    context.framerate = rate
    context.colorspace, context.color_range = picture.colorspace, picture.color_range
    return stream


def _mirror(target: av.container.OutputContainer, source: av.stream.Stream) -> av.stream.Stream:
    """Return a stream of the target that takes the packets of a source stream unchanged."""
    stream = target.add_stream_from_template(source)
    for name in ("handler_name", "language"):
        if name in source.metadata:
            stream.metadata[name] = source.metadata[name]
    return stream


def _fits_mp4(source: av.stream.Stream) -> bool:
    """Return whether MP4 can hold such a stream; the muxer decides when it writes the header."""
    try:
        with av.open(io.BytesIO(), "w", format="mp4") as trial:
            _mirror(trial, source)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


# ---------------------------------------------------------------------------------------------------------------
# Recordings of Project Aria


class Converted(NamedTuple):
    """The result of `convert()`: the files, counts of frames and IMU samples, seconds of video, and what is unusual."""

    video: str
    imu: str
    frames: int
    samples: int
    seconds: float
    notes: tuple[str, ...]


def converted_files(path: str | os.PathLike, folder: str | os.PathLike) -> tuple[Path, Path]:
    """Return the video and the table that `convert()` writes for a recording."""
    return Path(folder, f"{Path(path).stem}.mp4"), Path(folder, f"{Path(path).stem}.csv")


def convert(
    path: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    size: int | None = None,
    quality: int = 20,
    overwrite: bool = False,
    progress: bool = True,
) -> Converted:
    """Write a Project Aria recording NAME.vrs as a video NAME.mp4 and an IMU table NAME.csv into a folder.

    The video is upright H.264 with a key frame every 12 frames; each frame has its capture time, counted from the first
    one. The table has the columns time,ax,ay,az,gx,gy,gz of `data.read_imu()`, on the video's clock: the
    accelerometer's samples, and the gyroscope interpolated to their times. Both files appear when they are complete.

    Pictures are scaled down to `size` pixels on their shorter side, at least 16 (None: as they are): frames of a small
    video decode much faster, times and IMU are the same. `quality` is x264's CRF, 0 to 51: lower is better and larger.
    Raise AriaError for a recording that cannot be used, and DataError if `size` or `quality` is out of range, or a file
    exists and `overwrite` is False.

    >>> from egodistill.recordings import copies
    >>> copies.convert("walk.mp4", "films")
    Traceback (most recent call last):
    ...
    egodistill.recordings.aria.AriaError: walk.mp4: not a VRS file, which begins with 'VisionRe'; give a ...
    """
    if not 0 <= quality <= 51 or (size is not None and size < 16):
        raise DataError(f"{path}: quality must be 0 to 51 and {named('size')} at least 16, not {quality} and {size}")
    video, table = converted_files(path, folder)
    for out in (video, table):
        if out.exists() and (out.is_dir() or not overwrite):
            raise DataError(f"{out}: already exists; give another folder, or {named('overwrite', True)}")
    recording = AriaRecording(path)
    motion = recording.imu()
    with files.atomic_write(table) as table_part, files.atomic_write(video) as video_part:
        if not (samples := _write_table(table_part, motion)):
            spans = (f"{times[0]:.1f} to {times[-1]:.1f} s" for times in (motion.accel_time, motion.gyro_time))
            raise AriaError(
                f"{path}: its accelerometer ({next(spans)}) and gyroscope ({next(spans)}) never read at the same time, "
                f"so there is nothing to write; record again"
            )
        count = recording.count(recording.streams["camera-rgb"])
        with files.Progress(f"convert {Path(path).name}", count, unit="frames", show=progress) as bar:
            frames, seconds = _write_video(video_part, recording, size, quality, bar)
    notes = list(motion.notes)
    if frames < count:
        notes.append(f"{count - frames} of {count} pictures are broken or repeat a time, and are left out")
    return Converted(str(video), str(table), frames, samples, seconds, tuple(notes))


def _write_table(path: Path, motion: Imu) -> int:
    """Write the samples at the accelerometer's times; return their number."""
    times = motion.accel_time
    inside = (times >= motion.gyro_time[0]) & (times <= motion.gyro_time[-1])  # nothing is extrapolated
    gyro = [np.interp(times, motion.gyro_time, axis) for axis in motion.gyro.T]
    rows = np.column_stack([times, motion.accel, *gyro])[inside]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["time", "ax", "ay", "az", "gx", "gy", "gz"])
        writer.writerows([f"{value:.7f}" for value in row] for row in rows.tolist())
    return len(rows)


def _write_video(
    path: Path, recording: AriaRecording, size: int | None, quality: int, bar: files.Progress
) -> tuple[int, float]:
    """Write the pictures with their times; return their number, and the end of the last one in seconds."""
    with av.open(str(path), "w", format="mp4") as target:
        encoder = waiting = None
        durations: dict[int, int] = {}
        written, step = 0, TICKS // 20
        for seconds, picture in recording.pictures():
            place = round(seconds * TICKS)
            if waiting is not None and place <= waiting.pts:
                continue
            # A player's clock starts at the first frame of a file. If the first picture is broken, the next one takes
            # its place; its own time would move the clock.
            place = 0 if waiting is None else place
            frame = recording.upright(picture, size)
            frame.pts, frame.time_base = place, Fraction(1, TICKS)
            if waiting is None:
                encoder = h264_stream(target, frame, Fraction(1, TICKS), Fraction(20), quality=quality)
            else:
                step = durations[waiting.pts] = place - waiting.pts
                _mux_timed(target, encoder.encode(waiting), durations)
            waiting = frame
            written += 1
            bar.step()
        if waiting is None:
            raise AriaError(f"{recording.path}: none of its pictures can be decoded")
        durations[waiting.pts] = step
        for frame in (waiting, None):
            _mux_timed(target, encoder.encode(frame), durations)
        return written, (waiting.pts + step) / TICKS


def _mux_timed(target: Any, packets: Iterable[av.Packet], durations: dict[int, int]) -> None:
    for packet in packets:
        packet.duration = durations.pop(packet.pts)
        target.mux(packet)
