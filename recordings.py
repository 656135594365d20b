"""Look at recordings before you trust them, and make working copies that are quick to read.

    from egodistill import recordings

    found = recordings.check("GX010042.MP4")              # or check("P01_101.MP4", ("..-accl.csv", "..-gyro.csv"))
    print(recordings.HEADER, found.row(), sep="\\n")       # a line a file, and a line for each thing to know
    offset = recordings.estimate_offset("GX010042.MP4")
    if offset.reliable:
        print(f"add {offset.seconds:+.3f} s to the IMU's stamps (correlation {offset.correlation:.2f})")
    recordings.transcode("GX010042.MP4", "small/GX010042.mp4")

`estimate_offset` compares how the picture shifts with how the gyroscope turns, `check` gathers what is worth knowing
about a video and its IMU, and `transcode` makes a small copy with many key frames, in which one frame every few
seconds costs little. Frames are read by PyAV, IMU files and telemetry by `data.py`. Times are seconds on the video's
own clock, as everywhere in this package.
"""

from __future__ import annotations

import dataclasses
import errno
import heapq
import io
import itertools
import math
import os
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from egodistill import files

if TYPE_CHECKING:
    from egodistill.data import Imu

__all__ = [
    "estimate_offset",
    "Offset",
    "Stretch",
    "check",
    "Check",
    "SensorCheck",
    "HEADER",
    "transcode",
    "Transcoded",
]

_WIDTH = 100  # columns of a terminal that a row of `check` fits in


# --- Pictures, small and grey --------------------------------------------------------------------

_SHORT_SIDE = 128  # pixels of the grey pictures: about 1/8 of 1080
_BLANK = 2.0  # standard deviation, in grey levels of 255, below which a picture shows nothing
_SAME = 0.02  # mean difference, in grey levels, below which two pictures are one


@dataclasses.dataclass
class _Faults:
    """What was wrong with a video while it was decoded."""

    broken: int = 0  # packets that no picture could be had from
    unordered: int = 0  # pictures that came before a picture with an earlier time
    repeated: int = 0  # pictures with the time of another one


@dataclasses.dataclass
class _Motion:
    """How the picture moved through one stretch: n + 1 times, and what lies between them."""

    times: np.ndarray  # [n + 1], s
    shifts: np.ndarray  # [n, 2], pixels to the right and down of the picture as coded
    weights: np.ndarray  # [n], 0: nothing in common with the picture before, 1: the same picture moved


class _Look(NamedTuple):
    """All that was seen of a video's pictures."""

    motions: list[_Motion]
    times: np.ndarray  # [m], s, ascending, of every picture looked at
    blank: np.ndarray  # [m], bool
    frozen: np.ndarray  # [m], bool: the same as the picture before
    keys: list[float]  # times of the key frames that are known of, s, ascending
    rotation: int  # degrees
    faults: _Faults


def _frames(packets: Iterator[av.Packet], faults: _Faults, reorder: int = 4) -> Iterator[av.VideoFrame]:
    """Decoded frames in the order of their times; a few are held back, since some phones write them out of order."""
    held: list[tuple[int, int, av.VideoFrame]] = []
    order, latest = itertools.count(), -math.inf
    for packet in packets:
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            faults.broken += 1
            continue
        for frame in frames:
            if frame.pts is None:
                continue
            faults.unordered += frame.pts < latest
            latest = max(latest, frame.pts)
            heapq.heappush(held, (frame.pts, next(order), frame))
            if len(held) > reorder:
                yield heapq.heappop(held)[-1]
    while held:
        yield heapq.heappop(held)[-1]


def _look(video: str | os.PathLike, stretches: int, seconds: float, samples: int = 0) -> _Look:
    """Decode stretches spread over a video, and `samples` key frames between them.

    Held in memory: two small pictures, and a few numbers for each that was decoded.
    """
    from egodistill import data

    if stretches < 1 or seconds <= 0:
        raise data.DataError(f"{video}: cannot look at {stretches} stretches of {seconds} s")
    duration = data.probe(video).duration
    count = max(1, min(stretches, int(duration / seconds)))
    length = min(seconds, duration) if count > 1 else min(max(seconds, duration), 2 * seconds)
    starts = np.linspace(0, max(duration - length, 0), count)
    with data._open_video(video) as container:
        stream = data._video_stream(container, video)
        stream.thread_type = "AUTO"
        zero, tick = data._zero(container), stream.time_base
        faults, motions, keys, seen, rotation = _Faults(), [], set(), [], 0

        def packets(start: float) -> Iterator[av.Packet]:
            if start > 0:
                try:
                    container.seek(math.floor((start + zero) / tick), stream=stream, backward=True)
                except av.error.FFmpegError:  # behind the place where the file was cut off
                    return
            for packet in container.demux(stream):
                if packet.is_keyframe and packet.pts is not None:
                    keys.add(round(float(packet.pts * tick) - zero, 6))
                yield packet

        grey = _Grey(stream.width, stream.height)
        for start in starts:
            motion = _MotionMeter(grey)
            for frame in _frames(packets(start), faults):
                now = float(frame.pts * tick) - zero
                if now < start - 1e-6:
                    continue
                if now >= start + length:
                    break
                rotation = frame.rotation
                if motion.times and now <= motion.times[-1]:
                    faults.repeated += 1
                    continue
                seen.append((now, *motion(now, frame)))
            if len(motion.times) > 1:
                motions.append(motion.result())

        stream.codec_context.skip_frame = "NONKEY"  # the key frame before a moment is the one that comes alone
        for moment in np.linspace(0, duration, samples + 2)[1:-1] if samples else ():
            if any(start <= moment < start + length for start in starts):
                continue
            for frame in _frames(packets(moment), faults, reorder=0):
                now = float(frame.pts * tick) - zero
                seen.append((now, float(grey(frame).std()) < _BLANK, False))
                break
        if not seen:
            raise data.VideoError(f"{video}: not one picture could be decoded")
        # The file's own table knows all of them, where it has one; its times are those of decoding, a little early.
        index = [float(entry.timestamp * tick) - zero for entry in stream.index_entries if entry.is_keyframe]
    seen = sorted(set(seen))
    times, blank, frozen = (np.array(column) for column in zip(*seen, strict=True))
    return _Look(motions, times, blank, frozen, index if len(index) >= len(keys) else sorted(keys), rotation, faults)


class _Grey:
    """Makes small grey pictures, float32 [h, w], of decoded frames."""

    def __init__(self, width: int, height: int) -> None:
        self.factor = max(1.0, min(width, height) / _SHORT_SIDE)
        self.size = max(8, round(width / self.factor)), max(8, round(height / self.factor))
        self.reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        small = self.reformatter.reformat(frame, *self.size, "gray", interpolation="AREA", threads=1)
        return small.to_ndarray().astype(np.float32)


class _MotionMeter:
    """Shift from each picture to the next by phase correlation (Kuglin and Hines 1975), to a fraction of a pixel."""

    def __init__(self, grey: _Grey) -> None:
        self.grey, self.times, self.shifts, self.weights = grey, [], [], []
        width, height = grey.size
        self.window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
        # With a Gaussian low-pass the correlation of a shifted picture is a Gaussian around the shift, whose centre
        # three samples give exactly. It also drops the frequencies that hold the codec's noise.
        fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
        self.low_pass = np.exp(-((fx / 0.15) ** 2 + (fy / 0.15) ** 2)).astype(np.float32)
        self.highest = np.fft.irfft2(self.low_pass, s=(height, width))[0, 0]
        self.picture = self.spectrum = None

    def __call__(self, now: float, frame: av.VideoFrame) -> tuple[bool, bool]:
        """Take the next picture in; whether it is blank, and whether it is the same as the last one."""
        picture = self.grey(frame)
        spectrum = np.fft.rfft2((picture - picture.mean()) * self.window)
        frozen = False
        if self.spectrum is not None:
            frozen = float(np.abs(picture - self.picture).mean()) < _SAME
            cross = np.conj(self.spectrum) * spectrum
            cross *= self.low_pass / (np.abs(cross) + 1e-6)
            surface = np.fft.irfft2(cross, s=picture.shape)
            y, x = np.unravel_index(surface.argmax(), surface.shape)
            column = surface[np.arange(y - 1, y + 2) % surface.shape[0], x]
            row = surface[y, np.arange(x - 1, x + 2) % surface.shape[1]]
            shift = [
                _signed(at + _vertex(np.log(np.maximum(three, 1e-9))), n)
                for at, three, n in ((x, row, surface.shape[1]), (y, column, surface.shape[0]))
            ]
            self.shifts.append([self.grey.factor * s for s in shift])
            self.weights.append(min(1.0, float(surface[y, x]) / self.highest))
        self.times.append(now)
        self.picture, self.spectrum = picture, spectrum
        return float(picture.std()) < _BLANK, frozen

    def result(self) -> _Motion:
        return _Motion(np.array(self.times), np.array(self.shifts), np.array(self.weights))


def _signed(shift: float, size: int) -> float:
    """A shift on a ring of this size as the nearer one of its two directions."""
    return (shift + size / 2) % size - size / 2


def _vertex(three: np.ndarray) -> float:
    """Where, from the middle one, the parabola through three equally spaced values has its vertex, -0.5 to 0.5."""
    before, middle, after = (float(v) for v in three)
    bend = before - 2 * middle + after
    return min(0.5, max(-0.5, (before - after) / (2 * bend))) if bend < 0 else 0.0


# --- Offset between picture and gyroscope --------------------------------------------------------

_LAG_STEP = 0.01  # s between the lags that are tried; the peak is interpolated
_DECOYS = 19  # false gyroscopes that the true one has to beat
_CLEAR = 0.15  # how far above them, as a share of what is left from there to 1


class Stretch(NamedTuple):
    """What one stretch of a recording says about its offset; correlation 0: nothing."""

    start: float
    stop: float
    seconds: float
    correlation: float


@dataclasses.dataclass(frozen=True, eq=False)
class Offset:
    """How an IMU lies in time against its video: add `seconds` to its stamps and it fits the picture.

    `correlation` is the multiple correlation of the picture's shift with the three gyroscope axes at that offset, 0
    to 1. `chance` is the highest one that false gyroscopes reach: the true one run backwards and moved around, with
    the same search over all offsets. `reliable` says whether the true one stands clearly above that.

    `stretches` has an offset for each stretch that was looked at, `drift` is the slope of a line through them (s/s;
    1e-4 is 0.36 s an hour), None where fewer than three say anything. `pixels_per_radian` [2, 3] tells which
    axis is which: the shift to the right and down that a turn about each makes, in pixels of the picture as coded.
    """

    seconds: float
    correlation: float
    chance: float
    reliable: bool
    drift: float | None
    stretches: tuple[Stretch, ...]
    pixels_per_radian: np.ndarray


def estimate_offset(
    video: str | os.PathLike,
    imu: Imu | str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    *,
    max_offset: float = 2.0,
    stretches: int = 6,
    seconds: float = 20.0,
) -> Offset:
    """The number of seconds to add to the IMU's stamps so that its gyroscope fits the motion in the picture.

    `imu` is what `data.read_imu` takes or gives; None: the telemetry in the video. Offsets up to `max_offset` either
    way are tried. Only `stretches` stretches of `seconds` each, spread evenly, are decoded, whatever the length.

    The picture's shift between neighbouring frames is regressed on the turn about the three gyroscope axes in the same
    interval, for each offset: axes may lie in any order and have any sign. A picture stabilised by the camera hides
    the motion and lowers the correlation. What remains unknown is when within a frame's time the camera exposed it,
    some 10 to 20 ms.
    Raises VideoError or DataError where there is nothing to compare.
    """
    imu = _read_imu(video, imu)
    return _offset(video, _look(video, stretches, seconds), imu, max_offset)


def _read_imu(video: str | os.PathLike, imu) -> Imu:
    """The IMU as `data.read_imu` reads it; the accelerometer may be missing, and is zero then."""
    from egodistill import data

    if isinstance(imu, data.Imu):
        return imu
    return data.read_imu(video if imu is None else imu, zero_accel=True)


def _offset(video: str | os.PathLike, look: _Look, imu: Imu, max_offset: float) -> Offset:
    from egodistill import data

    if not 0 < max_offset < math.inf:
        raise data.DataError(f"max_offset is a number of seconds above 0, not {max_offset}")
    if sum(len(motion.shifts) for motion in look.motions) < 20:
        raise data.DataError(f"{video}: too few pictures to compare with a gyroscope")
    stamps, angles = _angles(imu)
    count = math.ceil(max_offset / _LAG_STEP)
    lags = np.arange(-count, count + 1) * _LAG_STEP
    moments = np.stack([_moments(motion, stamps, angles, lags) for motion in look.motions])
    if not moments.any():
        raise data.DataError(
            f"{video}: the gyroscope ({stamps[0]:.1f} to {stamps[-1]:.1f} s) has to reach "
            f"{max_offset} s beyond some of the pictures on both sides, and these have to move"
        )
    curve = _multiple_correlation(moments.sum(0))
    seconds, best = _peak(lags, curve)
    if not curve[best] > 1e-6:
        raise data.DataError(f"{video}: the gyroscope never turns, or the picture never moves: no offset shows")

    # Each stretch by itself, with one common map from axes to pixels: nothing is fitted to it but its offset. The map
    # comes from all stretches at the common offset, then at their own, in case they drift apart.
    chosen = np.full(len(moments), best)
    for _ in range(3):
        together = moments[np.arange(len(moments)), chosen].sum(0)
        pixels = _map(together)
        curves = [_correlation(own, pixels) for own in moments]
        chosen = np.array([own.argmax() for own in curves])
    found = []
    for motion, own in zip(look.motions, curves, strict=True):
        at, k = _peak(lags, own)
        found.append(Stretch(float(motion.times[0]), float(motion.times[-1]), at, max(float(own[k]), 0.0)))

    coarse = lags[::3]
    chance = max(
        float(_multiple_correlation(sum(_moments(motion, stamps, decoy, coarse) for motion in look.motions)).max())
        for decoy in _decoys(stamps, angles)
    )
    inside = 0 < best < len(lags) - 1
    reliable = bool(inside and curve[best] - chance > _CLEAR * (1 - chance))
    return Offset(seconds, float(curve[best]), chance, reliable, _drift(found), tuple(found), pixels.T)


def _angles(imu: Imu) -> tuple[np.ndarray, np.ndarray]:
    """Angle turned about each axis since the first sample, rad [n, 3], at the gyroscope's stamps."""
    stamps, rate = np.asarray(imu.gyro_time, np.float64), np.asarray(imu.gyro, np.float64)
    turned = (rate[1:] + rate[:-1]) / 2 * np.diff(stamps)[:, None]
    return stamps, np.concatenate([np.zeros((1, 3)), np.cumsum(turned, axis=0)])


def _decoys(stamps: np.ndarray, angles: np.ndarray) -> Iterator[np.ndarray]:
    """The same motion run backwards from different moments: as smooth and as strong, and never in step."""
    even = np.linspace(stamps[0], stamps[-1], len(stamps))
    steps = np.diff(np.stack([np.interp(even, stamps, axis) for axis in angles.T], 1), axis=0)[::-1]
    for k in range(_DECOYS):
        rolled = np.roll(steps, round(len(steps) * k / _DECOYS), axis=0)
        path = np.concatenate([np.zeros((1, 3)), np.cumsum(rolled, axis=0)])
        yield np.stack([np.interp(stamps, even, axis) for axis in path.T], 1)


def _moments(motion: _Motion, stamps: np.ndarray, angles: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Covariances, not divided by the count, of the turn rates about three axes and two shift rates: [lags, 5, 5]."""
    # An IMU whose stamps are `lag` too early has at t - lag what the picture shows at t.
    times = motion.times[None] - lags[:, None]
    steps = np.diff(motion.times)[None, :, None]
    turns = np.stack([np.interp(times, stamps, axis) for axis in angles.T], -1)
    shifts = np.broadcast_to(motion.shifts, (len(lags), *motion.shifts.shape))
    rates = np.concatenate([np.diff(turns, axis=1), shifts], -1) / steps
    # Every lag is judged by the same pictures, or a lag that loses the wildest ones at an end would look the best.
    covered = (times[:, :-1] >= stamps[0]) & (times[:, 1:] <= stamps[-1])
    weights = (motion.weights * covered.all(0))[None, :, None]
    rates = rates - (weights * rates).sum(1, keepdims=True) / max(weights.sum(), 1e-9)
    return np.swapaxes(weights * rates, 1, 2) @ rates


def _map(moments: np.ndarray) -> np.ndarray:
    """Least-squares map [..., 3, 2] from the turn about three axes to the picture's shift."""
    axes = moments[..., :3, :3]
    # A hair of ridge: an axis may be dead, or two may be the same.
    ridge = 1e-6 * np.trace(axes, axis1=-2, axis2=-1)[..., None, None] + 1e-12
    return np.linalg.solve(axes + ridge * np.eye(3), moments[..., :3, 3:])


def _multiple_correlation(moments: np.ndarray) -> np.ndarray:
    """Root of the share of the picture's motion that the best map from the gyroscope explains, [...], 0 to 1."""
    explained = (moments[..., :3, 3:] * _map(moments)).sum((-2, -1))
    total = np.trace(moments[..., 3:, 3:], axis1=-2, axis2=-1)
    return np.sqrt(np.clip(explained / np.maximum(total, 1e-9), 0, 1))


def _correlation(moments: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Correlation of the picture's motion with what a given map makes of the gyroscope, [...], -1 to 1."""
    both = (moments[..., :3, 3:] * pixels).sum((-2, -1))
    made = np.einsum("ik,...ij,jk->...", pixels, moments[..., :3, :3], pixels)
    seen = np.trace(moments[..., 3:, 3:], axis1=-2, axis2=-1)
    return both / np.sqrt(np.maximum(made * seen, 1e-18))


def _peak(lags: np.ndarray, curve: np.ndarray) -> tuple[float, int]:
    """The lag of the highest point, interpolated, and the index of the sample nearest to it."""
    best = int(curve.argmax())
    if not 0 < best < len(lags) - 1:
        return float(lags[best]), best
    return float(lags[best] + _LAG_STEP * _vertex(curve[best - 1 : best + 2])), best


def _drift(stretches: Sequence[Stretch]) -> float | None:
    """Slope of a line through the offsets of those stretches that say something."""
    usable = [s for s in stretches if s.correlation > 0.5 * max(s.correlation for s in stretches)]
    if len(usable) < 3:
        return None
    middles = [(s.start + s.stop) / 2 for s in usable]
    return float(np.polyfit(middles, [s.seconds for s in usable], 1, w=[s.correlation for s in usable])[0])


# --- What a recording is like --------------------------------------------------------------------


class SensorCheck(NamedTuple):
    """One sensor's stamps: samples a second, usual step (s), share of the video covered, gaps and the longest (s)."""

    rate: float
    median_step: float
    coverage: float
    gaps: int
    longest_gap: float


@dataclasses.dataclass(frozen=True, eq=False)
class Check:
    """What `check` found; None where it could not be known. `problem` says why it ends early, `notes` what to heed."""

    path: str
    problem: str | None = None
    duration: float | None = None  # s
    fps: float | None = None
    width: int | None = None  # as coded, before rotation
    height: int | None = None
    rotation: int | None = None  # degrees that a reader has to turn the picture by
    codec: str | None = None
    keyframe_every: float | None = None  # median, s
    audio: bool | None = None
    variable_rate: bool | None = None
    broken_packets: int | None = None  # these five: among the pictures that were looked at
    unordered_frames: int | None = None
    repeated_frames: int | None = None
    last_frame: float | None = None  # s; long before the duration where a file was cut off
    blank: tuple[tuple[float, float], ...] = ()  # (start, stop) in s
    frozen: tuple[tuple[float, float], ...] = ()
    imu: str | None = None  # where it comes from
    accel: SensorCheck | None = None
    gyro: SensorCheck | None = None
    gravity: float | None = None  # mean norm of the acceleration, m/s2
    imu_notes: tuple[str, ...] = ()  # data.Imu.notes: rows left out, axes that are unknown or alike
    offset: Offset | None = None
    no_offset: str | None = None  # why there is none, though there is an IMU

    @property
    def notes(self) -> list[str]:
        """Sentences for all that is out of the ordinary."""
        notes = []
        if self.rotation:
            notes.append(f"stored turned by {self.rotation} degrees")
        if self.variable_rate:
            notes.append("variable frame rate: pick frames by time, never by number")
        for count, what in (
            (self.broken_packets, "broken packets"),
            (self.unordered_frames, "frames out of order"),
            (self.repeated_frames, "frames with the time of another one"),
        ):
            if count:
                notes.append(f"{count} {what} where it was looked at")
        if self.last_frame is not None and self.duration - self.last_frame > 0.5:
            notes.append(f"no picture after {self.last_frame:.2f} s: the file may be cut off")
        for name, found in (("blank", self.blank), ("frozen", self.frozen)):
            if found:
                more = f" and {len(found) - 1} more stretches" if len(found) > 1 else ""
                notes.append(f"the picture is {name} from {found[0][0]:.2f} to {found[0][1]:.2f} s{more}")
        for name, sensor in (("accelerometer", self.accel), ("gyroscope", self.gyro)):
            if sensor and sensor.gaps:
                notes.append(f"{name}: {sensor.gaps} gaps, the longest {sensor.longest_gap:.2f} s")
            if sensor and sensor.coverage < 0.98:
                notes.append(f"{name}: covers {sensor.coverage:.1%} of the video")
            if sensor and abs(sensor.rate * sensor.median_step - 1) > 0.05:
                notes.append(
                    f"{name}: {sensor.rate:.1f} samples a second, though the usual step is "
                    f"1/{1 / sensor.median_step:.1f} s"
                )
        notes += self.imu_notes
        if self.gravity is not None and not 9 < self.gravity < 11:
            notes.append(f"mean acceleration {self.gravity:.2f} m/s2, gravity alone is 9.81")
        if self.offset is not None and not self.offset.reliable:
            notes.append(
                f"no reliable offset: correlation {self.offset.correlation:.2f}, "
                f"{self.offset.chance:.2f} comes by chance"
            )
        elif self.offset is not None and abs(self.offset.seconds) > 0.05:
            notes.append(f"add {self.offset.seconds:+.3f} s to the IMU's stamps")
        if self.offset is not None and self.offset.reliable and self.offset.drift is not None:
            if abs(growth := self.offset.drift * self.duration) > 0.05:
                notes.append(f"the offset grows by {growth:+.2f} s from start to end")
        if self.no_offset:
            notes.append(f"no offset: {self.no_offset}")
        return notes

    def row(self) -> str:
        """One line below HEADER of at most 100 columns, and an indented line for each note."""
        name = Path(self.path).name
        cells = {"file": name if len(name) <= 24 else "..." + name[-21:]}
        if self.duration is not None:
            cells |= {
                "length": f"{self.duration // 60:.0f}:{self.duration % 60:04.1f}",
                "picture": f"{self.width}x{self.height}",
                "fps": f"{self.fps:.2f}",
            }
        if self.codec is not None:
            cells |= {"codec": self.codec, "audio": "yes" if self.audio else "no"}
        if self.keyframe_every is not None:
            cells["key"] = f"{self.keyframe_every:.1f}s"
        if self.gyro is not None:
            cells |= {
                "IMU Hz": f"{self.gyro.rate:.1f}",
                "cover": f"{self.gyro.coverage:.0%}",
                "gaps": f"{self.gyro.gaps}",
            }
        if self.offset is not None:
            cells |= {
                "offset": f"{self.offset.seconds:+.3f}" + ("" if self.offset.reliable else "?"),
                "corr": f"{self.offset.correlation:.2f}",
            }
        lines = [_line(cells)]
        for note in [*([self.problem] if self.problem else []), *self.notes]:
            lines += textwrap.wrap(note, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
        return "\n".join(lines)


_COLUMNS = {
    "file": -24,
    "length": 7,
    "picture": 9,
    "fps": 6,
    "codec": 5,
    "key": 6,
    "audio": 5,
    "IMU Hz": 6,
    "cover": 5,
    "gaps": 4,
    "offset": 8,
    "corr": 4,
}


def _line(cells: dict[str, str]) -> str:
    texts = (cells.get(name, "-") for name in _COLUMNS)
    return " ".join(
        text.ljust(-width) if width < 0 else text.rjust(width)
        for text, width in zip(texts, _COLUMNS.values(), strict=True)
    ).rstrip()


HEADER = _line({name: name for name in _COLUMNS})


def check(
    video: str | os.PathLike,
    imu: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    *,
    imu_offset: float = 0.0,
    offset: bool = True,
    max_offset: float = 2.0,
    stretches: int = 6,
    seconds: float = 20.0,
    samples: int = 60,
) -> Check:
    """Look at a recording: header, pictures, IMU, and the offset between the two.

    `imu` is what `data.read_imu` takes; None: the telemetry in the video, if there is any. `imu_offset` is that of a
    Segment: seconds that its stamps are known to be off, as those of a clip cut out of a longer video. Decoded are
    `stretches` of `seconds` each, spread evenly, and `samples` key frames between them: what is wrong elsewhere is not
    seen.
    A file that cannot be read raises nothing: its `problem` holds the reason, so that a thousand can be checked.
    """
    from egodistill import data

    # What becomes known goes in here, so that it is kept when something later fails.
    known: dict = {"path": os.fspath(video)}
    try:
        info = data.probe(video)
        known |= {"duration": info.duration, "fps": info.fps, "width": info.width, "height": info.height}
        if not info.width:  # what FFmpeg takes for raw video, such as a file of telemetry
            raise data.VideoError(f"{video}: is no video: it has no picture size")
        known |= _header(video)
        look = _look(video, stretches, seconds, samples)
        known |= _pictures(look, info.duration)
        # Telemetry that is not there is no fault of a video; a file that was named and cannot be read is one.
        if imu is None and not _has_telemetry(video):
            return Check(**known)
        recording = _read_imu(video, imu).on_clock(imu_offset).inside(info.duration)
        known["imu"] = (
            "telemetry"
            if imu is None
            else (
                os.fspath(imu) if isinstance(imu, (str, os.PathLike)) else " + ".join(os.fspath(path) for path in imu)
            )
        )
        known |= _sensors(recording, info.duration)
        if offset:
            try:
                known["offset"] = _offset(video, look, recording, max_offset)
            except data.DataError as error:
                known["no_offset"] = str(error)
    except (data.VideoError, data.DataError) as error:
        known["problem"] = str(error)
    except (av.error.FFmpegError, OSError, ValueError) as error:  # whatever else a broken file comes up with
        known["problem"] = f"{video}: cannot be read as a recording: {error}"
    return Check(**known)


def _header(video: str | os.PathLike) -> dict:
    from egodistill import data

    with data._open_video(video) as container:
        codec = data._video_stream(container, video).codec_context.codec
        return {"codec": codec.canonical_name, "audio": bool(container.streams.audio)}


def _pictures(look: _Look, duration: float) -> dict:
    steps = [np.diff(motion.times) for motion in look.motions] or [np.zeros(0)]
    steps = np.concatenate(steps)
    odd = np.abs(steps - np.median(steps)) > 0.1 * np.median(steps) if len(steps) else steps
    spacing = np.diff(look.keys)
    return {
        "rotation": look.rotation,
        "keyframe_every": float(np.median(spacing)) if len(spacing) else duration,
        # A broken packet leaves a step of two frames in a steady rate, too.
        "variable_rate": bool(odd.sum() > 2 * look.faults.broken + 0.01 * len(steps)),
        "broken_packets": look.faults.broken,
        "unordered_frames": look.faults.unordered,
        "repeated_frames": look.faults.repeated,
        "last_frame": float(look.times[-1]),
        "blank": _runs(look.times, look.blank),
        # A single picture twice is how one frame rate becomes another.
        "frozen": tuple(run for run in _runs(look.times, look.frozen & ~look.blank) if run[1] - run[0] >= 0.5),
    }


def _runs(times: np.ndarray, flags: np.ndarray) -> tuple[tuple[float, float], ...]:
    """First and last time of each run of pictures that have the flag."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags, [0])).astype(int)))
    return tuple((float(times[a]), float(times[b - 1])) for a, b in zip(edges[::2], edges[1::2], strict=True))


def _has_telemetry(video: str | os.PathLike) -> bool:
    from egodistill import data, gpmf

    with data._open_video(video) as container:
        return bool(gpmf.packets(container))


def _sensors(imu: Imu, duration: float) -> dict:
    accel = imu.accel_time if imu.accel.any() else imu.accel_time[:0]  # zeros stand for a missing one
    found: dict = {"accel": _sensor(accel, duration), "gyro": _sensor(imu.gyro_time, duration), "imu_notes": imu.notes}
    if len(accel):
        found["gravity"] = float(np.linalg.norm(imu.accel, axis=1).mean())
    return found


def _sensor(stamps: np.ndarray, duration: float) -> SensorCheck | None:
    from egodistill import data

    if len(stamps) < 2:
        return None
    steps = np.diff(stamps)
    usual = float(np.median(steps))
    gaps = steps > data.GAP_STEPS * usual
    inside = np.diff(np.clip(stamps, 0, duration))
    return SensorCheck(
        rate=(len(stamps) - 1) / float(stamps[-1] - stamps[0]),
        median_step=usual,
        coverage=float(inside[~gaps].sum() / duration),
        gaps=int(gaps.sum()),
        longest_gap=float(steps[gaps].max()) if gaps.any() else 0.0,
    )


# --- Working copies ------------------------------------------------------------------------------


class Transcoded(NamedTuple):
    """A working copy: where it is, the bytes of both files, what happened to frames and streams.

    `speedup` is how many times faster one frame every 2 s is read from the copy (None: not measured).
    """

    path: str
    source_bytes: int
    copy_bytes: int
    frames: int
    broken_packets: int
    repeated_frames: int  # left out: another frame had the same time
    left_out: tuple[str, ...]  # audio and telemetry that MP4 cannot hold
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
    """Write a working copy of `video` to `out` (.mp4): small H.264 with a key frame every `keyframe_every` frames.

    The frame on screen at any time is the same as in the original: the times of all frames are kept in the original's
    own time base, also where their rate varies; counted from the original's zero. The picture is scaled to
    `short_side` pixels (a smaller one stays as it is) and stored upright. Audio and GoPro telemetry are copied
    untouched. `quality` is x264's CRF: lower is better and larger. Broken packets are skipped and counted.
    There are no B-frames and no deblocking, which made sparse reading over twice as fast for 7 % more bytes.

    The file appears under its name once it is whole. With `measure`, both files are read for one frame every 2 s.
    Raises DataError for settings or an `out` that cannot be used, VideoError for a video that cannot be read.
    """
    from egodistill import data

    video, out = Path(video), Path(out)
    if short_side < 16 or keyframe_every < 1 or not 0 <= quality <= 51:
        raise data.DataError(
            f"{video}: short_side from 16, keyframe_every from 1 and quality from 0 to 51 are needed, "
            f"not {short_side}, {keyframe_every} and {quality}"
        )
    if out.suffix.lower() != ".mp4":
        raise data.DataError(f"{out}: a working copy is an MP4 file, so its name has to end in .mp4")
    if out.exists() and video.exists() and out.samefile(video):
        raise data.DataError(f"{out}: is the video itself, which is never written over; give another name")
    if out.exists() and (out.is_dir() or not overwrite):
        raise data.DataError(f"{out}: exists; give another name" + ("" if out.is_dir() else ", or overwrite=True"))
    if not out.parent.is_dir():
        raise data.DataError(f"{out}: there is no folder {out.parent}")
    with files.atomic_write(out) as part:
        part.touch()  # FFmpeg's error would name the video
        try:
            faults, frames, left_out = _transcode(video, part, short_side, keyframe_every, quality)
        except data.VideoError as error:
            cause = error.__cause__  # FFmpeg's words for what it could not write, under the name of what it reads
            if getattr(cause, "errno", None) in _FULL:
                raise OSError(cause.errno, cause.strerror, str(part)) from error
            raise
    speedup = None
    if measure:
        times = np.arange(1.0, data.probe(out).duration, 2.0)[:100]
        speedup = _seconds_to_read(video, times) / _seconds_to_read(out, times) if len(times) else None
    return Transcoded(
        str(out), video.stat().st_size, out.stat().st_size, frames, faults.broken, faults.repeated, left_out, speedup
    )


_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}


def _seconds_to_read(video: Path, times: np.ndarray) -> float:
    from egodistill import data

    began = time.perf_counter()
    for _ in data.frames_at(video, times, threads=1):  # one thread, as data.prepare() reads
        pass
    return time.perf_counter() - began


def _transcode(
    video: Path, partial: Path, short_side: int, keyframe_every: int, quality: int
) -> tuple[_Faults, int, tuple[str, ...]]:
    from egodistill import data, gpmf

    with data._open_video(video) as source:
        if not source.streams.video or source.streams.video[0].codec_context is None:
            raise data.VideoError(f"{video}: has no video stream that FFmpeg can decode")
        stream = source.streams.video[0]
        stream.thread_type = "AUTO"
        zero = round(data._zero(source) / stream.time_base)  # in ticks: differences between frames stay exact
        others = [*source.streams.audio, *gpmf.streams(source)]
        copied = [other for other in others if _fits_mp4(other)]
        left_out = tuple(
            f"{other.type} ({other.codec_context.name})" if other.codec_context else other.type
            for other in others
            if other not in copied
        )
        data._read_only(source, [stream, *copied])
        faults = _Faults()
        # Empty edits at a stream's start are counted in the movie's own time scale, by default milliseconds.
        scale = {"movie_timescale": str(stream.time_base.denominator)}
        with av.open(str(partial), "w", format="mp4", options=scale) as target:
            encoder, copies, early, durations, frames = None, {}, [], {}, 0

            def copy(packet: av.Packet) -> None:
                shift = round(zero * stream.time_base / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copies[packet.stream.index]
                target.mux(packet)

            def write(packets: Sequence[av.Packet]) -> None:
                for packet in packets:
                    packet.duration = durations.pop(packet.pts)  # the encoder counts in mean steps
                    target.mux(packet)

            def pictures() -> Iterator[av.Packet]:
                """Packets to decode, on the way to which those of the other streams go over as they are."""
                for packet in source.demux([stream, *copied]):
                    if packet.stream is stream:
                        yield packet
                    elif packet.dts is None or packet.pts is None:
                        continue
                    elif encoder is None:  # the first packet that is written closes the list of streams
                        early.append(packet)
                    else:
                        copy(packet)

            starts = [other.start_time * other.time_base for other in copied if other.start_time is not None]
            anchored = any(start <= zero * stream.time_base for start in starts)
            usual = round(1 / (float(stream.average_rate or 25) * stream.time_base))
            for frame in _in_order(_frames(pictures(), faults), faults):
                picture_time = frame.pts - zero
                if encoder is None:
                    paint = _Painter(frame, short_side)
                    encoder = _encoder(target, paint(frame), stream, keyframe_every, quality)
                    copies |= {other.index: _mirror(target, other) for other in copied}
                    for packet in early:
                        copy(packet)
                    # A player's clock starts with the first thing in a file: where nothing else is there at zero, a
                    # late first picture would become it. It is on screen before its own time anyway.
                    picture_time = picture_time if anchored else 0
                picture = paint(frame)
                picture.pts, picture.time_base = picture_time, stream.time_base
                picture.pict_type = av.video.frame.PictureType.NONE  # the original's key frames are not the copy's
                durations[picture_time] = frame.duration or usual
                write(encoder.encode(picture))
                frames += 1
            if encoder is None:
                raise data.VideoError(f"{video}: not one picture could be decoded")
            write(encoder.encode(None))
    return faults, frames, left_out


def _in_order(frames: Iterator[av.VideoFrame], faults: _Faults) -> Iterator[av.VideoFrame]:
    """Frames of strictly growing times; of several with one time the last, which is the one on screen."""
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
    """Makes the copy's pictures: small, upright, 8 bits, in the colours of the original."""

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


def _encoder(
    target: av.container.OutputContainer,
    picture: av.VideoFrame,
    source: av.video.stream.VideoStream,
    keyframe_every: int,
    quality: int,
) -> av.video.stream.VideoStream:
    """A new H.264 stream for pictures like this one, with the times and colours of the source."""
    keys = f"keyint={keyframe_every}:min-keyint={keyframe_every}:scenecut=0"
    stream = target.add_stream(
        "libx264",
        options={"crf": str(quality), "preset": "veryfast", "tune": "fastdecode", "bf": "0", "x264-params": keys},
    )
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = picture.width, picture.height, "yuv420p"
    stream.time_base = context.time_base = source.time_base
    context.framerate = source.average_rate or 25
    context.colorspace, context.color_range = picture.colorspace, picture.color_range
    return stream


def _mirror(target: av.container.OutputContainer, source: av.stream.Stream) -> av.stream.Stream:
    """A stream of the target that takes the packets of a source's stream as they are."""
    stream = target.add_stream_from_template(source)
    for name in ("handler_name", "language"):
        if name in source.metadata:
            stream.metadata[name] = source.metadata[name]
    return stream


def _fits_mp4(source: av.stream.Stream) -> bool:
    """Whether MP4 has a place for such a stream: the muxer says so when it writes a header."""
    try:
        with av.open(io.BytesIO(), "w", format="mp4") as trial:
            _mirror(trial, source)
            trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    return True
