"""Compare image motion with a gyroscope: the time offset between an IMU and its video, and the axes of the IMU.

    from egodistill.recordings import offset

    found = offset.estimate_offset("GX010042.MP4")          # or ("walk.mp4", ("walk-accl.csv", "walk-gyro.csv"))
    if found.reliable:
        print(f"add {found.seconds:+.3f} s to the IMU's time stamps (correlation {found.correlation:.2f})")

`survey` decodes excerpts of a video and measures image motion; `offset_of` compares it with an IMU. `axes_of` finds the
turn of the IMU's axes that makes them those of the camera: X to the left, Y to the user, Z up; `hand_of` tells, without
a picture, whether there is one. Times are seconds on the video's own clock, as everywhere in this package.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import av
import av.container
import av.error
import numpy as np
from av.video.reformatter import VideoReformatter

from .. import cameras
from ..imu import MAX_GAP, Imu
from ..support.errors import DataError, named
from ..video import Damage, VideoError, clock_zero, demux, open_video, probe, video_stream
from .sensors import gravity_turns, read_imu

__all__ = [
    "Axes",
    "Excerpt",
    "Faults",
    "Offset",
    "Rates",
    "Survey",
    "axes_of",
    "estimate_offset",
    "offset_of",
    "ordered_frames",
    "rates_of",
    "survey",
]

# --- Small grey frames ---------------------------------------------------------------------------

_SHORT_SIDE = 128  # pixels of the grey frames: about 1/8 of 1080
_BLANK = 2.0  # standard deviation, in grey levels of 255, below which a frame is blank
_SAME = 0.02  # mean difference, in grey levels, below which two frames are equal


@dataclasses.dataclass
class Faults:
    """Counts of what was wrong with a video while it was decoded."""

    broken: int = 0  # packets that could not be decoded
    unordered: int = 0  # frames that came before a frame with an earlier time
    repeated: int = 0  # frames with the time of another frame
    damage: Damage = dataclasses.field(default_factory=Damage)  # which frames are damaged


@dataclasses.dataclass
class Motion:
    """Image motion in one excerpt."""

    times: np.ndarray  # of its frames in seconds [n + 1]
    shifts: np.ndarray  # from each frame to the next [n, 2], pixels to the right and down in the frame as coded
    weights: np.ndarray  # 0: nothing in common with the previous frame, 1: the previous frame, shifted [n]


class Survey(NamedTuple):
    """The result of `survey()`: image motion, and times and faults of the decoded frames."""

    motions: list[Motion]  # one of each excerpt
    times: np.ndarray  # of all decoded frames in seconds, ascending [m]
    blank: np.ndarray  # whether a frame is blank, bool [m]
    frozen: np.ndarray  # whether it equals the previous frame, bool [m]
    damaged: np.ndarray  # whether its data are damaged, or those of one that it refers to, bool [m]
    keys: list[float]  # times of the known key frames in seconds, ascending
    rotation: int  # degrees by which a reader must rotate the frames
    faults: Faults  # what was wrong with the decoded frames


def ordered_frames(packets: Iterator[av.Packet], faults: Faults, reorder: int = 4) -> Iterator[av.VideoFrame]:
    """Yield decoded frames in the order of their times; `reorder` are held back, as some phones write them unordered.

    `faults` counts broken packets and unordered frames, and notes the damage of these packets.
    """
    held: list[tuple[int, int, av.VideoFrame]] = []
    order, latest = itertools.count(), -math.inf
    faults.damage = Damage()
    for packet in packets:
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            faults.broken += 1
            frames = None
        faults.damage.look(packet, frames)
        for frame in frames or ():
            if frame.pts is None:
                continue
            faults.unordered += frame.pts < latest
            latest = max(latest, frame.pts)
            heapq.heappush(held, (frame.pts, next(order), frame))
            if len(held) > reorder:
                yield heapq.heappop(held)[-1]
    while held:
        yield heapq.heappop(held)[-1]


def survey(video: str | os.PathLike, excerpts: int, seconds: float, samples: int = 0) -> Survey:
    """Decode excerpts, spread over a video, and `samples` key frames between them; measure image motion.

    Only two small frames are in memory at once, and a few numbers for each decoded frame. Raise DataError if `excerpts`
    or `seconds` (their length) is not above 0, and VideoError if no frame can be decoded.
    """
    if excerpts < 1 or not seconds > 0:
        raise DataError(f"{video}: excerpts and seconds must be above 0, not {excerpts} and {seconds}")
    duration = probe(video).duration
    count = max(1, min(excerpts, int(duration / seconds)))
    length = min(seconds, duration) if count > 1 else min(max(seconds, duration), 2 * seconds)
    starts = np.linspace(0, max(duration - length, 0), count)
    with open_video(video) as container:
        surveyor = _Surveyor(container, video)
        for start in starts:
            surveyor.look_at(start, start + length)
        surveyor.key_frames_only()
        for moment in np.linspace(0, duration, samples + 2)[1:-1] if samples else ():
            if not any(start <= moment < start + length for start in starts):
                surveyor.look_before(moment)
        return surveyor.result()


class _Surveyor:
    """A reader that decodes and examines the frames of an open video."""

    def __init__(self, container: av.container.InputContainer, video: str | os.PathLike) -> None:
        self.container, self.video = container, video
        self.stream = video_stream(container, video)
        self.stream.thread_type = "AUTO"
        self.zero, self.tick = clock_zero(container), self.stream.time_base
        self.grey = GreyScaler(self.stream.width, self.stream.height)
        self.faults, self.motions, self.rotation = Faults(), [], 0
        self.keys: set[float] = set()
        self.seen: list[tuple[float, bool, bool, bool]] = []  # time, blank, frozen, damaged

    def look_at(self, start: float, stop: float) -> None:
        """Decode an excerpt and measure its image motion."""
        motion = MotionMeter(self.grey)
        for frame in ordered_frames(self._packets(start), self.faults):
            now = self._seconds(frame.pts)
            if now < start - 1e-6:
                continue
            if now >= stop:
                break
            self.rotation = frame.rotation
            if motion.times and now <= motion.times[-1]:
                self.faults.repeated += 1
                continue
            self.seen.append((now, *motion(now, frame), self.faults.damage.since(frame.pts) is not None))
        if len(motion.times) > 1:
            self.motions.append(motion.result())

    def key_frames_only(self) -> None:
        """Decode only key frames from now on."""
        self.stream.codec_context.skip_frame = "NONKEY"

    def look_before(self, moment: float) -> None:
        """Decode the key frame before a time."""
        for frame in ordered_frames(self._packets(moment), self.faults, reorder=0):
            is_blank, damage = float(self.grey(frame).std()) < _BLANK, self.faults.damage.since(frame.pts)
            self.seen.append((self._seconds(frame.pts), is_blank, False, damage is not None))
            break

    def result(self) -> Survey:
        if not self.seen:
            raise VideoError(f"{self.video}: none of its frames can be decoded")
        # The file's index, if it has one, lists all key frames, with decoding times, which are a little early.
        listed = [self._seconds(entry.timestamp) for entry in self.stream.index_entries if entry.is_keyframe]
        keys = listed if len(listed) >= len(self.keys) else sorted(self.keys)
        times, blank, frozen, damaged = (np.array(column) for column in zip(*sorted(set(self.seen)), strict=True))
        return Survey(self.motions, times, blank, frozen, damaged, keys, self.rotation, self.faults)

    def _packets(self, start: float) -> Iterator[av.Packet]:
        if start > 0:
            try:
                place = math.floor((start + self.zero) / self.tick)
                self.container.seek(place, stream=self.stream, backward=True)
            except av.error.FFmpegError:  # beyond the end of a truncated file
                return
        for packet in demux(self.container, self.stream):
            if packet.is_keyframe and packet.pts is not None:
                self.keys.add(round(self._seconds(packet.pts), 6))
            yield packet

    def _seconds(self, ticks: int) -> float:
        return float(ticks * self.tick) - self.zero


class GreyScaler:
    """A converter of decoded frames to small grey images, float32 [h, w]."""

    def __init__(self, width: int, height: int) -> None:
        self.factor = max(1.0, min(width, height) / _SHORT_SIDE)
        self.size = max(8, round(width / self.factor)), max(8, round(height / self.factor))
        self.reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        small = self.reformatter.reformat(frame, *self.size, "gray", interpolation="AREA", threads=1)
        return small.to_ndarray().astype(np.float32)


class MotionMeter:
    """A meter of the shift from each frame to the next: phase correlation (Kuglin and Hines 1975), with subpixels."""

    def __init__(self, grey: GreyScaler) -> None:
        self.grey, self.times, self.shifts, self.weights = grey, [], [], []
        width, height = grey.size
        self.window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
        # With a Gaussian low-pass, the correlation of a shifted image is a Gaussian around the shift, and three samples
        # give its centre exactly. The low-pass also removes the frequencies of the codec's noise.
        fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
        self.low_pass = np.exp(-((fx / 0.15) ** 2 + (fy / 0.15) ** 2)).astype(np.float32)
        self.highest = np.fft.irfft2(self.low_pass, s=(height, width))[0, 0]
        self.picture = self.spectrum = None

    def __call__(self, now: float, frame: av.VideoFrame) -> tuple[bool, bool]:
        """Add the next frame; return whether it is blank, and whether it equals the previous one."""
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

    def result(self) -> Motion:
        return Motion(np.array(self.times), np.array(self.shifts), np.array(self.weights))


def _signed(shift: float, size: int) -> float:
    """Return a shift on a ring of this size as the shorter of its two directions."""
    return (shift + size / 2) % size - size / 2


def _vertex(three: np.ndarray) -> float:
    """Return the vertex of the parabola through three equally spaced values, from the middle one, -0.5 to 0.5."""
    before, middle, after = (float(v) for v in three)
    bend = before - 2 * middle + after
    return min(0.5, max(-0.5, (before - after) / (2 * bend))) if bend < 0 else 0.0


# --- Offset between image motion and gyroscope ---------------------------------------------------

_LAG_STEP = 0.01  # s between the lags that are tried; the peak is interpolated
_TOGETHER = 500  # lags compared at a time; all at once, 60 s of lags for 12 s of video need 570 MB instead of 25
_DECOYS = 19  # false gyroscopes that the true one must beat
_CLEAR = 0.25  # share of the distance from their best correlation to 1 by which it must beat them


class Excerpt(NamedTuple):
    """The offset that one excerpt of a recording suggests."""

    start: float  # of the excerpt in seconds
    stop: float
    seconds: float  # the offset
    correlation: float  # 0 to 1; at 0 the excerpt suggests no offset


@dataclasses.dataclass(frozen=True, eq=False)
class Offset:
    """The time offset between an IMU and its video: add `seconds` to the IMU's time stamps and it matches the video."""

    seconds: float  # the offset
    correlation: float  # of the image shift with the three gyroscope axes at that offset, 0 to 1
    chance: float  # the highest of false gyroscopes, the true one reversed and shifted, in the same search
    reason: str | None  # why it is not `reliable`: not clearly above `chance`, or at the edge of the search
    drift: float | None  # of the excerpts' offsets (s/s; 1e-4 is 0.36 s per hour); None of fewer than three
    excerpts: tuple[Excerpt, ...]  # one of each decoded excerpt
    pixels_per_radian: np.ndarray  # right and down per turn about each axis, in the frame as coded [2, 3]

    @property
    def reliable(self) -> bool:
        """Return whether the offset can be trusted."""
        return self.reason is None


def estimate_offset(
    video: str | os.PathLike,
    imu: Imu | str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    *,
    max_offset: float = 2.0,
    excerpts: int = 6,
    seconds: float = 20.0,
) -> Offset:
    """Estimate the seconds to add to the IMU's time stamps so that its gyroscope matches the image motion.

    For each offset, the image shift between neighbouring frames is regressed on the turn about the three gyroscope axes
    in the same interval, so the axes may have any order and sign. Image stabilisation hides the motion and lowers the
    correlation. The time of exposure within a frame remains unknown, about 10 to 20 ms.

    Args:
        video: The video file.
        imu: An `Imu` or what `read_imu()` takes; None: the telemetry in the video.
        max_offset: The largest offset to try, in seconds in both directions.
        excerpts: Number of excerpts, spread evenly; only these are decoded, however long the video is.
        seconds: Length of each.

    Raises:
        VideoError: The video cannot be read.
        IMUError: The IMU cannot be read.
        DataError: There is nothing to compare, or an argument is out of range.

    >>> from egodistill.recordings import offset
    >>> found = offset.estimate_offset("walk.mp4", "walk.csv")
    >>> f"{abs(found.seconds):.2f} s", found.reliable
    ('0.00 s', True)
    """
    if not isinstance(imu, Imu):
        imu = read_imu(video if imu is None else imu, zero_accel=True)
    return offset_of(video, survey(video, excerpts, seconds), imu, max_offset)


def offset_of(video: str | os.PathLike, seen: Survey, imu: Imu, max_offset: float) -> Offset:
    """Compare the image motion that `survey()` found with the gyroscope of an IMU, up to `max_offset` s both ways.

    Raise DataError if there is nothing to compare.
    """
    if not 0 < max_offset < math.inf:
        raise DataError(f"{named('max_offset')} must be a number of seconds above 0, not {max_offset}")
    if sum(len(motion.shifts) for motion in seen.motions) < 20:
        raise DataError(f"{video}: too few frames to compare with a gyroscope")
    if len(imu.gyro) < 2:
        raise DataError(f"{video}: the gyroscope has {len(imu.gyro)} samples, too few to compare with the image")
    stamps, angles = _angles(imu)
    count = math.ceil(max_offset / _LAG_STEP)
    lags = np.arange(-count, count + 1) * _LAG_STEP
    moments = np.stack([_lagged_covariances(motion, stamps, angles, lags) for motion in seen.motions])
    if not moments.any():
        raise DataError(
            f"{video}: the gyroscope ({stamps[0]:.1f} to {stamps[-1]:.1f} s) covers none of the decoded frames at any "
            f"offset up to {max_offset} s, or they do not move"
        )
    curve = _multiple_correlation(moments.sum(0))
    seconds, best = _peak(lags, curve)
    if not curve[best] > 1e-6:
        raise DataError(f"{video}: no offset can be found: the gyroscope never turns, or the image never moves")

    # For each excerpt, fit only its offset; all share one map from axes to pixels. The map comes from all excerpts,
    # first at the common offset, then at their own offsets, in case the clocks drift.
    chosen = np.full(len(moments), best)
    for _ in range(3):
        together = moments[np.arange(len(moments)), chosen].sum(0)
        pixels = _least_squares_map(together)
        curves = [_correlation(own, pixels) for own in moments]
        chosen = np.array([own.argmax() for own in curves])
    found = []
    for motion, own in zip(seen.motions, curves, strict=True):
        at, k = _peak(lags, own)
        found.append(Excerpt(float(motion.times[0]), float(motion.times[-1]), at, max(float(own[k]), 0.0)))

    coarse = lags[::3]
    chance = max(
        float(
            _multiple_correlation(
                sum(_lagged_covariances(motion, stamps, decoy, coarse) for motion in seen.motions)
            ).max()
        )
        for decoy in _decoys(stamps, angles)
    )
    reason = None
    if not 0 < best < len(lags) - 1:
        reason = f"{seconds:+.2f} s is at the edge of the searched range, {max_offset:g} s; search a larger one"
    elif not curve[best] - chance > _CLEAR * (1 - chance):
        compared = sum(float(motion.times[-1] - motion.times[0]) for motion in seen.motions)
        reason = (
            f"in {compared:.1f} s of video the correlation is {curve[best]:.2f}, and {chance:.2f} occurs by chance: "
            f"the wearer hardly turns, the camera stabilises the image, or the IMU is from another recording"
        )
    return Offset(seconds, float(curve[best]), chance, reason, _drift(found), tuple(found), pixels.T)


def _angles(imu: Imu) -> tuple[np.ndarray, np.ndarray]:
    """Return times and the angle turned about each axis since the first sample, rad [n, 3]."""
    stamps, rate = np.asarray(imu.gyro_time, np.float64), np.asarray(imu.gyro, np.float64)
    turned = (rate[1:] + rate[:-1]) / 2 * np.diff(stamps)[:, None]
    return stamps, np.concatenate([np.zeros((1, 3)), np.cumsum(turned, axis=0)])


def _decoys(stamps: np.ndarray, angles: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the same motion reversed and shifted: as smooth and as strong, but never in step with the video."""
    even = np.linspace(stamps[0], stamps[-1], len(stamps))
    steps = np.diff(np.stack([np.interp(even, stamps, axis) for axis in angles.T], 1), axis=0)[::-1]
    for k in range(_DECOYS):
        rolled = np.roll(steps, round(len(steps) * k / _DECOYS), axis=0)
        path = np.concatenate([np.zeros((1, 3)), np.cumsum(rolled, axis=0)])
        yield np.stack([np.interp(stamps, even, axis) for axis in path.T], 1)


def _lagged_covariances(motion: Motion, stamps: np.ndarray, angles: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """Return unnormalised covariances of the turn rates about three axes and two shift rates, [lags, 5, 5]."""
    steps = np.diff(motion.times)[None, :, None]
    parts, ever = [], np.zeros(len(motion.shifts), bool)
    for part in np.array_split(lags, math.ceil(len(lags) / _TOGETHER)):
        # An IMU whose stamps are `lag` too early has at t - lag what the video shows at t.
        times = motion.times[None] - part[:, None]
        turns = np.stack([np.interp(times, stamps, axis) for axis in angles.T], -1)
        shifts = np.broadcast_to(motion.shifts, (len(part), *motion.shifts.shape))
        rates = np.concatenate([np.diff(turns, axis=1), shifts], -1) / steps
        covered = (times[:, :-1] >= stamps[0]) & (times[:, 1:] <= stamps[-1])
        ever |= covered.any(0)
        parts.append(_covariances(rates, (motion.weights * covered)[..., None]))
    moments = np.concatenate(parts)
    # At each lag the gyroscope must explain the motion in all frames that it covers at any lag. Otherwise a lag that
    # loses the largest motion at an end would look best.
    moments[:, 3:, 3:] = _covariances(motion.shifts[None] / steps, (motion.weights * ever)[None, :, None])
    return moments


def _covariances(rates: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return unnormalised covariances [lags, k, k] of rates [lags, n, k], with weights [lags, n, 1]."""
    rates = rates - (weights * rates).sum(1, keepdims=True) / np.maximum(weights.sum(1, keepdims=True), 1e-9)
    return np.swapaxes(weights * rates, 1, 2) @ rates


def _least_squares_map(moments: np.ndarray) -> np.ndarray:
    """Return the least-squares map [..., 3, 2] from the turn about three axes to the image shift."""
    axes = moments[..., :3, :3]
    # A small ridge, because an axis may be constant, or two may be equal.
    ridge = 1e-6 * np.trace(axes, axis1=-2, axis2=-1)[..., None, None] + 1e-12
    return np.linalg.solve(axes + ridge * np.eye(3), moments[..., :3, 3:])


def _multiple_correlation(moments: np.ndarray) -> np.ndarray:
    """Return the root of the share of image motion that the best map from the gyroscope explains, [...]."""
    explained = (moments[..., :3, 3:] * _least_squares_map(moments)).sum((-2, -1))
    total = np.trace(moments[..., 3:, 3:], axis1=-2, axis2=-1)
    return np.sqrt(np.clip(explained / np.maximum(total, 1e-9), 0, 1))


def _correlation(moments: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the correlation of image motion with a given map of the gyroscope, [...], -1 to 1."""
    both = (moments[..., :3, 3:] * pixels).sum((-2, -1))
    made = np.einsum("ik,...ij,jk->...", pixels, moments[..., :3, :3], pixels)
    seen = np.trace(moments[..., 3:, 3:], axis1=-2, axis2=-1)
    return both / np.sqrt(np.maximum(made * seen, 1e-18))


def _peak(lags: np.ndarray, curve: np.ndarray) -> tuple[float, int]:
    """Return the lag of the highest point, interpolated, and the index of the sample nearest to it."""
    best = int(curve.argmax())
    if not 0 < best < len(lags) - 1:
        return float(lags[best]), best
    return float(lags[best] + _LAG_STEP * _vertex(curve[best - 1 : best + 2])), best


def _drift(excerpts: Sequence[Excerpt]) -> float | None:
    """Return the slope of a line through the offsets of the excerpts with enough correlation."""
    usable = [s for s in excerpts if s.correlation > 0.5 * max(s.correlation for s in excerpts)]
    if len(usable) < 3:
        return None
    middles = [(s.start + s.stop) / 2 for s in usable]
    return float(np.polyfit(middles, [s.seconds for s in usable], 1, w=[s.correlation for s in usable])[0])


# --- Axes of the IMU -----------------------------------------------------------------------------

_STRETCH = 1.0  # s: the evidence about axes is cut into stretches of about this length
_STRETCHES = 4  # fewer cannot show whether the evidence is the same everywhere
_SURE = 0.99  # share of the samples of stretches in which the same turn must be the best
_FITS = 0.9  # the cosine of 26 degrees: axes that are further askew fit no turn
# Of 42,724 parts of 4 to 30 s of 458 recordings of heads, three look mirrored by more than 6 errors; of wholes, none.
_SURE_HAND = 6.0  # standard errors by which the correlation of two turns must differ from 0
_LEAST_TURN = 0.0087  # rad, half a degree: the root mean square that gravity must turn in a stretch by the gyroscope
_FOLLOWS = 0.1  # share of that by which it must turn by the accelerometer


class Rates(NamedTuple):
    """Motion between neighbouring frames of one excerpt: that of the picture, and the readings of the IMU."""

    times: np.ndarray  # half-way between two frames, in seconds [n]
    shifts: np.ndarray  # pixels per second to the right and down in the upright picture [n, 2]
    turns: np.ndarray  # the gyroscope's mean between the two frames in rad/s [n, 3]
    accel: np.ndarray  # the acceleration half-way in m/s2 [n, 3]
    weights: np.ndarray  # as in `survey()`; 0 where there are no readings [n]


@dataclasses.dataclass(frozen=True, eq=False)
class Axes:
    """The one of the 24 turns of an IMU's axes that makes them the camera's, and how sure that is.

    A lens moves the picture to the right by some pixels per radian of a turn about Z, upwards by as many per radian of
    a turn about X, and not at all by a turn about Y.
    """

    turn: str  # what becomes X (left), Y (to the user), Z (up), small: of the opposite sign; "XYZ": as is
    fits: dict[str, float]  # cosine of the lens's map with the measured one for all turns, the best first; 1: perfect
    stretches: int  # of about 1 s, with readings
    share: float  # of bootstrap samples of the stretches, where `turn` is the best
    pixels_per_radian: tuple[float, float]  # as measured, to the right and up
    reason: str | None  # why the axes cannot be trusted, or None

    @property
    def reliable(self) -> bool:
        """Return whether the turn can be trusted."""
        return self.reason is None


def rates_of(seen: Survey, imu: Imu, offset: Offset | None = None) -> list[Rates]:
    """Return the motion in each excerpt that `survey()` found, by picture and IMU.

    The offset moves the IMU's clock; each excerpt has its own if it suggests one, because clocks may drift.
    """
    stamps, angles = _angles(imu)
    max_gap = max(MAX_GAP, 1.5 * imu.median_steps[1])  # of a slow sensor all steps are long
    found = []
    for k, motion in enumerate(seen.motions):
        late = 0.0
        if offset is not None:
            own = offset.excerpts[k]
            late = own.seconds if own.correlation > 0.5 * offset.correlation else offset.seconds
        times, steps = motion.times - late, np.diff(motion.times)[:, None]
        turns = np.diff(np.stack([np.interp(times, stamps, axis) for axis in angles.T], 1), axis=0) / steps
        middle = (times[1:] + times[:-1]) / 2
        accel = np.zeros_like(turns)
        if len(imu.accel):
            accel = np.stack([np.interp(middle, imu.accel_time, axis) for axis in imu.accel.T], 1)
        covered = imu.covers(times, max_gap=max_gap)[:, 1]
        shifts = motion.shifts @ _upright(seen.rotation).T / steps
        found.append(Rates(middle + late, shifts, turns, accel, motion.weights * (covered[:-1] & covered[1:])))
    return found


def axes_of(rates: Sequence[Rates]) -> Axes:
    """Return the turn of the IMU's axes that makes them the camera's, from rates with the clocks in step."""
    stretches = [own for one in rates for own in _stretches(one)]
    moments, turns = np.stack(stretches or [np.zeros((5, 5))]), _turns()
    pixels = _least_squares_map(moments.sum(0)).T
    fits = _fits(pixels, turns)
    order = fits.argsort()[::-1]
    drawn = np.random.default_rng(0).integers(len(moments), size=(1000, len(moments)))
    samples = np.swapaxes(_least_squares_map(moments[drawn].sum(1)), -1, -2)
    share = float((_fits(samples, turns).argmax(1) == order[0]).mean())
    named = {cameras.turn_text(turns[k]): float(fits[k]) for k in order}
    (first, best), (second, after) = list(named.items())[:2]
    reason = None
    if len(stretches) < _STRETCHES:
        reason = f"{_STRETCHES} stretches of {_STRETCH:g} s with readings are needed, and there are {len(stretches)}"
    elif share < _SURE:
        reason = (
            f"{first} fits best ({best:.2f}; next: {second}, {after:.2f}), but in only {share:.0%} of resamples of "
            f"{len(stretches)} stretches: record more head rotation about all three axes"
        )
    elif best < _FITS:
        reason = (
            f"the best rotation, {first}, fits the picture with {best:.2f}, and {_FITS:g} is needed: the axes are not "
            f"along the camera's, or the camera stabilises the image"
        )
    left, _, up = turns[order[0]]
    return Axes(first, named, len(stretches), share, (float(pixels[0] @ up), float(-pixels[1] @ left)), reason)


class Hand(NamedTuple):
    """Sums of what shows the hand of an IMU's axes; those of several recordings of one camera add up.

    Both sensors see gravity turn by the same angles, and by opposite ones if the axes are mirrored: if two columns of
    both are exchanged, or one sign is turned. No turn of the axes changes that.
    """

    pairs: float = 0.0  # of neighbouring seconds
    expected: float = 0.0  # squared turns of gravity by the gyroscope, rad2
    seen: float = 0.0  # squared turns by the accelerometer
    both: float = 0.0  # products of the two

    @property
    def correlation(self) -> float:
        """Return the correlation of the two, -1 to 1."""
        return self.both / math.sqrt(max(self.expected * self.seen, 1e-30))

    @property
    def mirrored(self) -> bool | None:
        """Return whether the axes are mirrored; None: it cannot be told."""
        turns, follows = self.expected > self.pairs * _LEAST_TURN**2, abs(self.both) > _FOLLOWS * self.expected
        if not (turns and follows and self.pairs >= _STRETCHES):
            return None
        # Of three numbers of each pair, one is along gravity, which does not turn.
        error = math.sqrt(max(1 - self.correlation**2, 1e-9) / (2 * self.pairs - 1))
        return self.correlation < 0 if abs(self.correlation) > _SURE_HAND * error else None


def hand_of(imu: Imu) -> Hand:
    """Return what gravity shows of the hand of an IMU's axes."""
    expected, seen = gravity_turns(imu, _STRETCH)
    return Hand(len(seen), float((expected**2).sum()), float((seen**2).sum()), float((expected * seen).sum()))


def _upright(rotation: int) -> np.ndarray:
    """Return the matrix [2, 2] from shifts in a frame as coded to shifts in the upright picture."""
    quarter = np.array([[0, 1], [-1, 0]])  # of a picture that is turned counter-clockwise, as its rotation says
    return np.linalg.matrix_power(quarter, round(rotation / 90) % 4)


def _turns() -> np.ndarray:
    """Return the 24 matrices of turns that keep axes on axes, [24, 3, 3]."""
    signed = (
        np.eye(3)[list(order)] * np.array(signs)[:, None]
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1, -1), repeat=3)
    )
    return np.stack([matrix for matrix in signed if np.linalg.det(matrix) > 0])


def _stretches(rates: Rates) -> Iterator[np.ndarray]:
    """Yield the covariances [5, 5] of turns and shifts in each stretch that has readings."""
    both = np.concatenate([rates.turns, rates.shifts], 1)
    parts = np.floor((rates.times - rates.times[0]) / _STRETCH).astype(int) if len(both) else np.zeros(0, int)
    for part in np.unique(parts):
        chosen = (parts == part) & (rates.weights > 0)
        if chosen.sum() >= 5:
            yield _covariances(both[None, chosen], rates.weights[None, chosen, None])[0]


def _fits(pixels: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Return the cosine between maps from turns to shifts [..., 2, 3] and that of a lens, for each of the turns."""
    # A turn to the left moves the picture to the right, and one of the nose down moves it up.
    along = pixels[..., 0, :] @ turns[:, 2].T - pixels[..., 1, :] @ turns[:, 0].T
    return along / np.sqrt(np.maximum(2 * (pixels**2).sum((-2, -1)), 1e-30))[..., None]
