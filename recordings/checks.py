"""Check recordings before training: the coverage, gaps and axes of the IMU, and the offset of its clock.

    from egodistill import recordings

    found = recordings.check("GX010042.MP4")              # or check("P01_101.MP4", ("..-accl.csv", "..-gyro.csv"))
    print(recordings.HEADER, found.row(), sep="\\n")       # one line per file, and one for each note

Times are seconds on the video's own clock, as everywhere in this package.
"""

from __future__ import annotations

import dataclasses
import math
import os
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import av
import av.error
import numpy as np

from .. import cameras, gpmf
from ..imu import MAX_GAP, Imu, IMUError
from ..support.errors import DataError, describe_error, named
from ..video import FrameReader, VideoError, open_video
from .offset import Axes, Hand, Offset, Rates, Survey, axes_of, hand_of, offset_of, rates_of, survey
from .recording import Recording, open_recording, unused_tables
from .sensors import NEAR, gravity_of

__all__ = ["HEADER", "Check", "SensorCheck", "check"]

_WIDTH = 100  # columns of a terminal that a row of `check` fits in
_IN_STEP = 0.05  # s: a smaller offset is not a fault
_UPRIGHT = 60.0  # degrees: a camera that a head carries leans less
_LEANS = "; a worn camera seldom leans so far, so the axes may be wrong"
_SAME_RATE = 1.01  # times: two cameras of one reader have rates that are further apart
_FIELDS_OF_VIEW = (4.0, 1000.0)  # degrees: outside of these, the gyroscope's unit is wrong


class SensorCheck(NamedTuple):
    """The time stamps of one sensor.

    Attributes:
        rate: Samples per second.
        median_step: Median step between samples in seconds.
        coverage: Share of the video that is covered.
        gaps: Number of gaps.
        longest_gap: The longest of them in seconds.
    """

    rate: float
    median_step: float
    coverage: float
    gaps: int
    longest_gap: float


@dataclasses.dataclass(frozen=True, eq=False)
class Check:
    """The result of `check()`; unknown values are None.

    Attributes:
        path: The video, or without one the IMU.
        problem: Why the recording cannot be used, or None.
        duration: Length in seconds.
        fps: Frames per second.
        width: Width of a frame in pixels, as coded, before rotation.
        height: Its height.
        rotation: Degrees by which a reader must rotate the frames.
        codec: Name of the video's codec.
        keyframe_every: Median distance of key frames in seconds.
        audio: Whether the video has sound.
        variable_rate: Whether the frame rate varies.
        broken_packets: Number of packets that could not be decoded, among those that `check()` read.
        unordered_frames: Number of frames before a frame with an earlier time, among the decoded ones.
        repeated_frames: Number of frames with the time of another one, among the decoded ones.
        last_frame: Time of the last decoded frame in seconds; long before the duration if the file is truncated.
        streams: Number of video streams; the one that players show is read.
        holes: (start, stop) in seconds between which no frame begins, in the whole recording.
        blank: (start, stop) in seconds of blank images, among the decoded frames.
        frozen: (start, stop) in seconds of equal images, among the decoded frames.
        damaged: (start, stop) in seconds of damaged images, among the decoded frames.
        imu: Where the IMU comes from.
        imu_axes: The axes with which its samples were read, see `Recording`.
        accel: Time stamps of the accelerometer.
        gyro: Time stamps of the gyroscope.
        gravity: Acceleration of gravity that was measured, in m/s2: `sensors.gravity_of()`.
        imu_notes: `Imu.notes`: ignored rows, axes that are unknown or equal.
        offset: The offset of the IMU's clock.
        no_offset: Why there is no offset although there is an IMU.
        axes: The axes of the IMU, see `axes_state`; None without a reliable offset, or if they have their own name.
        hand: What gravity shows of the hand of the axes.
        camera: What reads the samples, the device if the files name one, `imu_axes`, samples per second between gaps.
        mean_accel: Mean acceleration along each axis of the IMU in m/s2.
        rates: Motion of picture and IMU in each excerpt, which `pictures.draw_check()` draws.
        has_picture: Whether there is a video.
    """

    path: str
    problem: str | None = None
    duration: float | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    rotation: int | None = None
    codec: str | None = None
    keyframe_every: float | None = None
    audio: bool | None = None
    variable_rate: bool | None = None
    broken_packets: int | None = None
    unordered_frames: int | None = None
    repeated_frames: int | None = None
    last_frame: float | None = None
    streams: int | None = None
    holes: tuple[tuple[float, float], ...] = ()
    blank: tuple[tuple[float, float], ...] = ()
    frozen: tuple[tuple[float, float], ...] = ()
    damaged: tuple[tuple[float, float], ...] = ()
    imu: str | None = None
    imu_axes: str = "gopro"
    accel: SensorCheck | None = None
    gyro: SensorCheck | None = None
    gravity: float | None = None
    imu_notes: tuple[str, ...] = ()
    offset: Offset | None = None
    no_offset: str | None = None
    axes: Axes | None = None
    hand: Hand = dataclasses.field(default_factory=Hand)
    camera: tuple[str, str, str, float] = ("", "", "", 0.0)
    mean_accel: tuple[float, float, float] | None = None
    rates: tuple[Rates, ...] = ()
    has_picture: bool = True

    @property
    def notes(self) -> list[str]:
        """Return a sentence about each unusual property."""
        undecided = self.axes_state == "undecided" and (self.axes is not None or self._leans())
        axes = [self.axes_sentence()] if undecided or self.axes_state == "wrong" else []
        return [*self._notes(), *self._no_offset(), *axes]

    def _no_offset(self) -> list[str]:
        return [f"no offset: {self.no_offset}"] if self.no_offset else []

    def _notes(self) -> list[str]:
        """Return the notes that other recordings of the camera do not change."""
        notes = []
        if self.rotation:
            notes.append(f"frames are stored rotated by {self.rotation} degrees")
        if self.streams is not None and self.streams > 1:
            notes.append(
                f"{self.streams} video streams: the one that players show, {self.width}x{self.height}, is read"
            )
        if self.variable_rate:
            notes.append("variable frame rate: select frames by time, never by number")
        for count, what in (
            (self.broken_packets, "broken packets"),
            (self.unordered_frames, "frames out of order"),
            (self.repeated_frames, "frames with the time of another one"),
        ):
            if count:
                notes.append(f"{count} {what} in the decoded excerpts")
        if self.last_frame is not None and self.duration - self.last_frame > max(0.5, 1.5 / (self.fps or 30)):
            notes.append(f"no frame after {self.last_frame:.2f} s: the file may be truncated")
        for what, found in (
            ("there is no frame between", self.holes),
            ("the image is blank between", self.blank),
            ("the image is frozen between", self.frozen),
            ("the image is damaged between", self.damaged),
        ):
            if found:
                start, stop = found[0]
                more = f", and {len(found) - 1} more times" if len(found) > 1 else ""
                notes.append(f"{what} {start:.2f} and {stop:.2f} s{more}")
        for name, sensor in (("accelerometer", self.accel), ("gyroscope", self.gyro)):
            if sensor and sensor.coverage < 0.98:
                notes.append(
                    f"{name}: covers {sensor.coverage:.1%} of the {'video' if self.has_picture else 'recording'}"
                )
            if sensor and abs(sensor.rate * sensor.median_step - 1) > 0.05:
                notes.append(
                    f"{name}: {sensor.rate:.1f} samples per second, but the median step is "
                    f"1/{1 / sensor.median_step:.1f} s"
                )
        if self.problem is None and self.imu is None:
            notes.append(
                f"no IMU: no telemetry of a GoPro in the video; bring a table of its readings, NAME.csv, give "
                f"{named('imu')}, or for another camera (Insta360, Sony, DJI) a function (--imu-reader), as the guide "
                f"shows under 'A camera or an IMU format'"
            )
        notes += self.imu_notes
        if self.offset is not None and not self.offset.reliable:
            notes.append(f"no reliable offset: {self.offset.reason}")
        elif self.offset is not None and abs(self.offset.seconds) > _IN_STEP:
            notes.append(f"add {self.offset.seconds:+.3f} s to the IMU's time stamps")
        if self.offset is not None and self.offset.reliable and self.offset.drift is not None:
            if abs(growth := self.offset.drift * self.duration) > 0.05:
                notes.append(f"the offset grows by {growth:+.2f} s from start to end")
        if self.field_of_view is not None and not _FIELDS_OF_VIEW[0] < self.field_of_view < _FIELDS_OF_VIEW[1]:
            question = "in degrees per second? Multiply them by 0.0174533 for rad/s"
            if self.field_of_view < _FIELDS_OF_VIEW[0]:
                question = "in another unit than rad/s?"
            seen = float(f"{self.field_of_view:.2g}")
            notes.append(f"the gyroscope implies a field of view of {seen:,g} degrees: are its readings {question}")
        return notes

    @property
    def field_of_view(self) -> float | None:
        """Return the horizontal field of view in degrees that picture and gyroscope imply.

        It assumes a lens without distortion. If the gyroscope's unit is wrong, it is wrong by the same factor. It is
        None without a reliable offset.
        """
        if self.offset is None or not self.offset.reliable or not self.offset.pixels_per_radian.any():
            return None
        pixels = float(np.sqrt((self.offset.pixels_per_radian**2).sum() / 2))  # of two directions
        width = self.height if (self.rotation or 0) % 180 else self.width
        return math.degrees(width / pixels)

    @property
    def axes_state(self) -> str | None:
        """Return "ok", "wrong" or "undecided": what is known of the axes; None if there are no samples."""
        if self.problem is not None or self.gyro is None:
            return None
        if not self.hand.mirrored and (self.axes is None or not self.axes.reliable):
            return "undecided"
        return "wrong" if self.hand.mirrored or self.axes.turn != "XYZ" else "ok"

    @property
    def right_axes(self) -> str | None:
        """Return the `imu_axes` with which to read the samples if those of today are surely turned, else None."""
        return self._columns() if self.axes_state == "wrong" and not self.hand.mirrored else None

    def _to_camera(self) -> np.ndarray:
        """Return the matrix [3, 3] from the samples as they were read to the axes of the camera, as far as known."""
        if self.axes is None or not self.axes.reliable:
            return np.eye(3)
        # The picture tells left and up: of the 48 ways to name the axes two fit best, one of which is mirrored.
        return np.diag([1, -1 if self.hand.mirrored else 1, 1]) @ cameras.turn_matrix(self.axes.turn)

    def _columns(self) -> str:
        """Return the columns of the file that are left, back and up of the camera, as `imu_axes` names them."""
        given = cameras.turn_matrix(self.imu_axes)
        return cameras.turn_text(self._to_camera() if given is None else self._to_camera() @ given)

    def _no_picture(self) -> str:
        """Return why samples and picture cannot be compared; "" if they can."""
        if self.offset is None or not self.offset.reliable:
            reason = self.no_offset if self.offset is None else self.offset.reason
            return (reason or "the picture was not compared with the gyroscope").removeprefix(f"{self.path}: ")
        return ""

    def axes_sentence(self) -> str:
        """Return in a sentence whether the axes are right, what repairs them, or why that is undecided."""
        axes = self.axes
        if self.hand.mirrored:
            how = f"gyroscope and accelerometer turn in opposite ways, correlation {self.hand.correlation:.2f}"
            return f"the axes are wrong: a mirror image ({how}): no rotation fixes it; {self._mirror()}"
        if axes is None or not axes.reliable:
            why = axes.reason if axes else self._no_picture() or f"a picture does not tell what {self.imu_axes!r} are"
            if self._leans():
                why += f"; gravity is {self._tilt()[2]:.0f} degrees from the picture's vertical{_LEANS}"
            return f"the axes are undecided: {why}"
        (first, best), (second, after) = list(axes.fits.items())[:2]
        proof = f"the next-best rotation, {second}, {after:.2f}; the best in {axes.share:.0%} of samples of "
        proof += f"{axes.stretches} s of video"
        if first == "XYZ":
            return f"the axes look right (fit {best:.2f}, {proof})"
        proof = f"as they are {axes.fits['XYZ']:.2f}, {proof}"
        return f"the axes are wrong: --imu-axes {self.right_axes} fixes them (fit {best:.2f}, {proof})"

    def _leans(self) -> bool:
        """Return whether gravity is far from the picture's vertical, in axes that should be the camera's."""
        is_gravity = NEAR[0] < (self.gravity or 0) < NEAR[1] and cameras.axes_and_turn(self.imu_axes)[0] == "gopro"
        return self.has_picture and is_gravity and self._tilt()[2] > _UPRIGHT

    def _mirror(self) -> str:
        """Return what mirrors the axes: which single step does, if the picture says so and gravity does not differ."""
        columns, is_up = self._columns(), (self._to_camera() @ (self.mean_accel or (0.0, 0.0, 0.0)))[2] > 0
        moved = [letter for letter, usual in zip(columns, "XYZ", strict=True) if letter != usual]
        if is_up and len(moved) == 1:
            return f"the sign of column {moved[0].upper()} is turned"
        if is_up and len(moved) == 2 and columns.isupper():
            return f"the columns {' and '.join(sorted(moved))} are exchanged"
        return "two columns are exchanged or one sign is turned"

    def verdict(self) -> str:
        """Return one sentence that says whether axes and clock look right, and how to fix them."""
        if self.axes_state is None:
            return f"Nothing to compare with the picture: {self.problem or 'there is no IMU'}."
        axes, why = self.axes_sentence(), self._no_picture()
        if why:
            is_said = self.axes_state == "undecided" and self.axes is None
            clock = "so is the clock" if is_said else f"the clock is undecided: {why}"
            return f"{axes[0].upper()}{axes[1:]}; {clock}."
        clock = "so does the clock" if self.axes_state == "ok" else "the clock looks right"
        if abs(self.offset.seconds) > _IN_STEP:
            clock = f"the clock is wrong: add {self.offset.seconds:+.3f} s to the IMU's time stamps"
        return f"{axes[0].upper()}{axes[1:]}; {clock} (offset {self.offset.seconds:+.3f} s)."

    def report(self) -> str:
        """Return what the sensors say: rates and gaps, gravity and its direction, offset, and the verdict on axes."""
        lines = []
        for name, sensor in (("accelerometer", self.accel), ("gyroscope", self.gyro)):
            if sensor is not None:
                gaps = f", the longest {sensor.longest_gap:.2f} s" if sensor.gaps else ""
                lines.append(f"{name}: {sensor.rate:.1f} samples per second, {sensor.gaps} gaps{gaps}")
        if self.gravity is not None and not self.has_picture:
            lines.append(f"gravity: {self.gravity:.2f} m/s2 (9.81 if the unit is right)")
        elif self.gravity is not None:
            down, right, angle = self._tilt()
            lines.append(
                f"gravity: {self.gravity:.2f} m/s2 (9.81 if the unit is right), {angle:.0f} degrees from the picture's "
                f"vertical; the camera looks {_either(down, 'down', 'up')} and leans {_either(right, 'right', 'left')}"
                + (_LEANS if angle > _UPRIGHT else "")
            )
        if self.offset is not None:
            lines.append(
                f"offset: {self.offset.seconds:+.3f} s, correlation {self.offset.correlation:.2f}, by chance "
                f"{self.offset.chance:.2f}: {'reliable' if self.offset.reliable else 'not reliable'}"
            )
        wrapped = [_wrap(line, "  ", "    ") for line in lines]
        return "\n".join([*wrapped, _wrap(self.verdict(), "  ", "  ")])

    def _tilt(self) -> tuple[float, float, float]:
        """Return by how many degrees the camera looks down, leans to the right, and gravity is off the vertical."""
        x, y, z = self._to_camera() @ self.mean_accel
        angles = np.arctan2(y, z), np.arctan2(x, np.hypot(y, z)), np.arctan2(np.hypot(x, y), z)
        down, right, off = (float(np.degrees(angle)) for angle in angles)
        return down, right, off

    def row(self) -> str:
        """Return one line below HEADER of at most 100 columns, and an indented line for each note."""
        name = Path(self.path).name.encode(errors="backslashreplace").decode()
        cells = {"file": name if len(name) <= 24 else "..." + name[-21:]}
        if self.duration is not None:
            minutes, seconds = divmod(round(self.duration, 1), 60)
            cells["length"] = f"{minutes:.0f}:{seconds:04.1f}"
        if self.fps is not None:
            cells |= {"picture": f"{self.width}x{self.height}", "fps": f"{self.fps:.2f}"}
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
        no_offset = self._no_offset() if self.has_picture else []  # else the line about the axes says it
        for note in [*([self.problem] if self.problem else []), *self._notes(), *no_offset]:
            lines.append(_wrap(note, "  - ", "    "))
        return "\n".join(lines)

    def axes_row(self) -> str:
        """Return what is known of the axes in lines of at most 100 columns."""
        name = Path(self.path).name.encode(errors="backslashreplace").decode()
        return _wrap(f"{name}: {self.axes_sentence()}", "", "  ")


def by_camera(found: Sequence[Check]) -> tuple[list[Check], list[str]]:
    """Return the checks with one decision about the axes of each camera, and a sentence for each that has none.

    A camera is what reads its samples, rates without a step above 1 % when sorted, and a device where the files name
    one. The evidence of its recordings is pooled: a single one may have too few turns of the head to tell. If what is
    certain in one recording is not what is certain in another, or fits best in all together, nothing is decided.
    """
    decided, sentences, groups = [*found], list[str](), list[list[int]]()
    for k in sorted((k for k, one in enumerate(found) if one.axes_state), key=lambda k: found[k].camera):
        (*names, rate), (*others, slower) = found[k].camera, found[groups[-1][-1] if groups else k].camera
        if not groups or names != others or rate > _SAME_RATE * slower:
            groups.append([])
        groups[-1].append(k)
    for group in groups:
        axes, hand, sentence = _decision([found[k] for k in sorted(group)])
        sentences += sentence
        for k in group:
            decided[k] = replace(found[k], axes=axes, hand=hand)
    return decided, sentences


def _decision(camera: Sequence[Check]) -> tuple[Axes | None, Hand, list[str]]:
    """Return the axes of one camera, their hand, and what to do if its recordings disagree."""
    seen = [one for one in camera if one.axes is not None]
    axes = axes_of([part for one in seen for part in one.rates]) if seen else None
    hand = Hand(*map(sum, zip(*(one.hand for one in camera), strict=True)))
    every = [*camera, replace(camera[0], path="all together", axes=axes, hand=hand)]
    hands = {one.hand.mirrored for one in every} - {None}
    turns = {one.axes.turn for one in every if one.axes is not None and one.axes.reliable}
    turns |= {axes.turn} if axes and turns else set()
    if len(hands) < 2 and len(turns) < 2:
        return replace(axes, reason=None) if axes and turns == {axes.turn} else axes, hand, []
    said: dict[str, list[str]] = {}
    words = {True: "a mirror image", False: "no mirror image" if len(hands) > 1 else "undecided", None: "undecided"}
    for one in every:
        what = f"--imu-axes {one.right_axes}" if one.right_axes else "right as they are"
        is_told = one.axes_state in ("ok", "wrong") and not one.hand.mirrored
        said.setdefault(what if is_told else words[one.hand.mirrored], []).append(Path(one.path).name)
    texts = (f"{', '.join(names[:3])}{' ...' if len(names) > 3 else ''}: {what}" for what, names in said.items())
    sentence = (
        f"{camera[0].path}: the axes of its camera are not the same in all recordings: {'; '.join(texts)}. If the "
        f"sensor was mounted in several ways, give each recording its own, in the column imu_axes of your table or of "
        f"one for --imu-offsets, which `check --out` begins; if not, correct what is wrong, or leave it out"
    )
    return axes and replace(axes, reason="the recordings of its camera disagree"), Hand(), [sentence]


def _wrap(text: str, first: str, later: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)


def _either(degrees: float, positive: str, negative: str) -> str:
    return f"{abs(degrees):.0f} degrees {positive if degrees > 0 else negative}"


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
    video: str | os.PathLike | Recording | None,
    imu: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    *,
    imu_offset: float = 0.0,
    imu_stretch: float = 1.0,
    imu_axes: str = "gopro",
    offset: bool = True,
    max_offset: float = 2.0,
    excerpts: int = 6,
    seconds: float = 20.0,
    samples: int = 60,
) -> Check:
    """Examine a recording: header, frames, IMU, the offset between video and IMU, and the axes of the IMU.

    Without a video, only the IMU: units, rates, gaps, and the hand of the axes. Nothing tells clock and heading then.

    Only excerpts, spread evenly, and key frames between them are decoded; faults elsewhere are not seen. Raise
    DataError only for what `open_recording()` refuses, such as a .vrs file. If any other file cannot be read,
    `problem` has the reason, so that one bad file does not end a long list.

    Args:
        video: The video, or what else `open_recording()` takes; None: there is none.
        imu: The IMU's files, as in `open_recording()`; without them, telemetry in the video is used.
        imu_offset: What you already know about the clock in seconds, such as where a clip was cut out of a video.
        imu_stretch: What you already know about its rate, see `Recording`.
        imu_axes: The axes of the samples, see `Recording`.
        offset: Whether to compare image motion with the gyroscope: offset and axes.
        max_offset: The largest offset to try, in seconds.
        excerpts: Number of excerpts.
        seconds: Length of each.
        samples: Number of key frames between them.

    >>> from egodistill import recordings
    >>> found = recordings.check("walk.mp4", "walk.csv")
    >>> found.problem, found.fps, f"{found.gyro.rate:.0f} Hz", f"{found.gyro.coverage:.0%}"
    (None, 20.0, '196 Hz', '100%')
    """
    # Each result is added at once, so that it is kept if a later step fails.
    recording = open_recording(video, imu, imu_offset=imu_offset, imu_stretch=imu_stretch, imu_axes=imu_axes)
    recording, video, path = replace(recording, zero_accel=True), recording.video, recording.path
    known: dict = {"path": path, "imu_axes": recording.imu_axes, "has_picture": bool(video)}
    try:
        info, seen = recording.probe(), None
        duration = known["duration"] = info.duration - recording.begin
        if video:
            known |= {"fps": info.fps, "width": info.width, "height": info.height}
            if not info.width:  # FFmpeg takes some other files, such as telemetry, for raw video
                raise VideoError(f"{video}: not a video: its frames have no size")
            known |= _header(video)
            seen = survey(video, excerpts, seconds, samples)
            known |= _pictures(seen, duration)
        # A video without telemetry is fine; a named IMU file that cannot be read is a problem.
        if recording.imu is None and recording.custom_reader is None and not _has_telemetry(video):
            return Check(**known, imu_notes=unused_tables(Path(video)))
        whole = recording.motion()
        motion = whole.on_clock(-recording.begin).inside(duration)
        if len(motion.gyro) < 2:
            raise IMUError(
                f"{path}: {len(motion.gyro)} gyroscope samples are within its {duration:.1f} s; their times are "
                f"{whole.gyro_time[0]:.1f} to {whole.gyro_time[-1]:.1f} s. Correct the times, or the clock's offset"
            )
        source = [] if recording.imu is None else [recording.imu] if isinstance(recording.imu, str) else recording.imu
        known["imu"] = " + ".join(source) or "telemetry"
        reader = getattr(
            recording.custom_reader, "__qualname__", " ".join(Path(file).suffix.lower() for file in source)
        )
        steps = np.diff(motion.gyro_time)
        rate = float(1 / steps[steps <= max(MAX_GAP, 1.5 * motion.median_steps[1])].mean())
        known |= _sensors(motion, duration) | {"hand": hand_of(motion)}
        known["camera"] = (reader, motion.device, recording.imu_axes, rate)
        if seen is None:
            return Check(**known, no_offset="there is no picture, and only one tells clock and heading")
        if offset:
            try:
                known["offset"] = offset_of(video, seen, motion, max_offset)
            except DataError as error:
                known["no_offset"] = str(error)
        trusted = known["offset"] if "offset" in known and known["offset"].reliable else None
        known["rates"] = tuple(rates_of(seen, motion, trusted))
        if trusted is not None and motion.axes == "gopro":
            known["axes"] = axes_of(known["rates"])
    except (VideoError, IMUError, DataError) as error:
        known["problem"] = str(error)
    except (av.error.FFmpegError, OSError, ValueError) as error:  # anything else that a broken file causes
        known["problem"] = f"{path}: cannot be read as a recording: {describe_error(error)}"
    return Check(**known)


def _header(video: str | os.PathLike) -> dict:
    with open_video(video) as container:
        reader = FrameReader(container, video)
        return {
            "codec": reader.codec.codec.canonical_name,
            "audio": bool(container.streams.audio),
            "streams": len(container.streams.video),
            "holes": tuple(reader.holes()),
        }


def _pictures(seen: Survey, duration: float) -> dict:
    steps = [np.diff(motion.times) for motion in seen.motions] or [np.zeros(0)]
    steps = np.concatenate(steps)
    odd = np.abs(steps - np.median(steps)) > 0.1 * np.median(steps) if len(steps) else steps
    spacing = np.diff(seen.keys)
    return {
        "rotation": seen.rotation,
        "keyframe_every": float(np.median(spacing)) if len(spacing) else duration,
        # A broken packet also leaves a step of two frames in a constant rate.
        "variable_rate": bool(odd.sum() > 2 * seen.faults.broken + 0.01 * len(steps)),
        "broken_packets": seen.faults.broken,
        "unordered_frames": seen.faults.unordered,
        "repeated_frames": seen.faults.repeated,
        "last_frame": float(seen.times[-1]),
        "blank": _runs(seen.times, seen.blank),
        "damaged": _runs(seen.times, seen.damaged),
        # Frame-rate conversion repeats single frames.
        "frozen": tuple(run for run in _runs(seen.times, seen.frozen & ~seen.blank) if run[1] - run[0] >= 0.5),
    }


def _runs(times: np.ndarray, flags: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Return the first and last time of each run of frames with the flag."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags, [0])).astype(int)))
    return tuple((float(times[a]), float(times[b - 1])) for a, b in zip(edges[::2], edges[1::2], strict=True))


def _has_telemetry(video: str | os.PathLike) -> bool:
    with open_video(video) as container:
        return bool(gpmf.packets(container))


def _sensors(imu: Imu, duration: float) -> dict:
    accel = imu.accel_time if imu.accel.any() else imu.accel_time[:0]  # zeros mean that there is none
    found: dict = {"accel": _sensor(accel, duration), "gyro": _sensor(imu.gyro_time, duration), "imu_notes": imu.notes}
    if len(accel):
        found["gravity"] = gravity_of(imu.accel_time, imu.accel)
        found["mean_accel"] = tuple(imu.accel.mean(0).tolist())
    return found


def _sensor(stamps: np.ndarray, duration: float) -> SensorCheck | None:
    if len(stamps) < 2:
        return None
    steps = np.diff(stamps)
    usual = float(np.median(steps))
    gaps = steps > MAX_GAP + 1e-6  # as Imu.window() counts them
    inside = np.diff(np.clip(stamps, 0, duration))
    return SensorCheck(
        rate=(len(stamps) - 1) / float(stamps[-1] - stamps[0]),
        median_step=usual,
        coverage=float(inside[~gaps].sum() / duration),
        gaps=int(gaps.sum()),
        longest_gap=float(steps[gaps].max()) if gaps.any() else 0.0,
    )
