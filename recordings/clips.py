"""Recordings and their clips: video, IMU, the clock between them, and decoding in one pass.

    from egodistill.recordings import clips

    walk = clips.open_recording("walk.mp4", imu_offset=0.2)             # IMU telemetry inside the GoPro file
    spec = clips.ClipSpec(frames=4, size=224, imu_samples=422)          # what a student reads
    clip = walk.clip(12.5, spec)
    print(clip["frames"].shape, clip["frames.times"], clip["imu"].shape)
    for row, found in clips.decode_clips(walk, {0: 0.0, 1: 2.1}, spec.parts()):
        print(row, found)                                               # arrays by name, or the error

A `Recording` is a video with its IMU on the video's clock; nothing else in this package joins the two. A `ClipSpec`
describes the content of a clip, for students, teachers, stores and exported files; `spec_differences()` compares two of
them. `open_recording()` shows how to add a reader for recordings of your own. Times are seconds on the video's own
clock, the one a player shows: zero is the start of the file.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import heapq
import itertools
import math
import numbers
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from .. import cameras
from ..imu import (
    IMU_READERS,
    LONGEST_HEADER,
    MAX_GAP,
    CoverageError,
    Imu,
    IMUError,
    failure,
    read_imu,
    table_columns,
)
from ..support import own
from ..support.errors import CLIP_SECONDS, IMU_RATE, IMU_SAMPLES, DataError, named
from ..support.files import PREDICTED
from ..video import (
    LONGEST,
    MAX_HOLD,
    MAX_TOLERANCE,
    FrameReader,
    FrameReaders,
    Scaler,
    VideoError,
    VideoInfo,
    clip_times,
    clock_zero,
    demux,
    open_reader,
    open_video,
    probe,
    video_stream,
)
from .audio import AUDIO_BANDS, AUDIO_SECONDS, AUDIO_STEPS, audio_at, log_mel

__all__ = [
    "FIELDS",
    "IMU_READERS",
    "READERS",
    "SINCE_BOOT",
    "VIDEO_SUFFIXES",
    "ClipSpec",
    "Recording",
    "clip_starts",
    "decode_clips",
    "spec_differences",
    "find_videos",
    "frames_name",
    "name_files",
    "open_recording",
    "parts_in_use",
    "probe_videos",
    "read_axes",
    "require_axes",
    "spec_of",
    "strided_starts",
    "use_parts",
]


ANY_AXES = "any"  # of a student that reads samples of all axes; samples have some
SINCE_BOOT = "as on a clock that runs since boot"
LARGEST_CLIP = 1 << 27  # pixels of all its frames: 128 frames of 1024 x 1024
VIDEO_SUFFIXES = (".avi", ".insv", ".m4v", ".mkv", ".mov", ".mp4", ".webm")

# ---------------------------------------------------------------------------------------------------------------
# The content of a clip


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """The content of a clip: frames, IMU samples, sound.

    In the spec of a model, None means that the model accepts any value; clips are then decoded with the default. The
    normalisation of pixels is not part of a spec.

    Attributes:
        frames: Number of frames; 0: none.
        size: Height and width of a frame in pixels. The whole frame becomes this square; its aspect ratio changes.
        crop: Resize the centre square of a frame instead. If not given, teachers crop, others do not.
        sampling: Which frames: a rule of `video.clip_times()`, or "ends", evenly from the clip's start to its end.
        exact: False: the nearest key frames instead, which cost far less to decode.
        tolerance: Take the frames that are cheapest to decode within this many seconds of their times; 0: exact frames.
        seed: Seed of the samplings "random" and "ages".
        imu_samples: Number of IMU samples; 0: none.
        imu_rate: Their rate in Hz.
        imu_axes: Name of the axes of both sensors, see `Recording`; "file" in stores of earlier versions is "gopro".
            "any", of a model: it reads samples of all axes.
        audio: Whether there are log-mel bands of the clip's middle two seconds, as ListenToLook reads them.
        seconds: Length of the clip.

    Raises:
        DataError: Values are out of range or do not fit together.

    >>> from egodistill.recordings import clips
    >>> spec = clips.ClipSpec(frames=4, size=64, sampling="first", imu_samples=422)
    >>> list(spec.parts())
    ['frames', 'imu']
    >>> spec.times(10.0).round(2)
    array([10.02, 10.05, 10.08, 10.12])
    """

    frames: int = 0
    size: int | None = 224
    crop: bool | None = None
    sampling: str | None = "uniform"
    exact: bool | None = True
    tolerance: float | None = 0.0
    seed: int = 0
    imu_samples: int = 0
    imu_rate: float | None = IMU_RATE
    imu_axes: str | None = "gopro"
    audio: bool = False
    seconds: float | None = CLIP_SECONDS

    def __post_init__(self) -> None:
        counts = [value for value in (self.frames, self.imu_samples, self.size) if value is not None]
        whole = all(isinstance(value, numbers.Integral) and not isinstance(value, bool) for value in counts)
        if not whole or min(counts) < 0 or self.size == 0 or not all(map(_is_positive, (self.imu_rate, self.seconds))):
            raise DataError(
                f"frames and imu_samples must be whole numbers from 0 on, size a whole number above 0, imu_rate and "
                f"seconds numbers above 0; got {self}"
            )
        if max(self.frames * (self.size or 1) ** 2, self.imu_samples) > LARGEST_CLIP:
            raise DataError(
                f"a clip may have {LARGEST_CLIP} pixels or IMU samples; got {self.frames} frames of {self.size} x "
                f"{self.size} pixels, and {self.imu_samples} samples"
            )
        tolerance = 0.0 if self.tolerance is None else self.tolerance
        if not (isinstance(tolerance, numbers.Real) and 0 <= tolerance <= MAX_TOLERANCE):  # NaN: False
            raise DataError(f"{named('tolerance')} must be from 0 to {MAX_TOLERANCE:g} s; got {tolerance!r}")
        if tolerance and self.exact is False:
            raise DataError(
                f"{named('exact', False, option='--key-frames')} takes key frames; leave out {named('tolerance')}"
            )
        if self.imu_axes is not None:
            name, turn = read_axes(self.imu_axes)
            if turn is not None:
                raise DataError(f"imu_axes of a clip is a name, 'gopro' after a rotation; got {self.imu_axes!r}")
            object.__setattr__(self, "imu_axes", name)
        if self.frames and self.sampling not in (None, "ends"):
            try:  # a rule that does not fit is one error here, not one per clip
                clip_times(0.0, self.frames, self.seconds or CLIP_SECONDS, sampling=self.sampling)
            except ValueError as error:
                raise DataError(str(error)) from error

    def parts(self) -> dict[str, ClipSpec]:
        """Return one spec per kind of array in the clip: {"frames": ..., "imu": ..., "audio": ...}."""
        alone = {
            "frames": dataclasses.replace(self, imu_samples=0, audio=False),
            "imu": dataclasses.replace(self, frames=0, audio=False),
            "audio": dataclasses.replace(self, frames=0, imu_samples=0),
        }
        present = {"frames": self.frames, "imu": self.imu_samples, "audio": self.audio}
        return {kind: spec for kind, spec in alone.items() if present[kind]}

    def complete(self) -> ClipSpec:
        """Return the same spec with defaults in place of None."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)} | {"crop": False}
        return dataclasses.replace(self, **{k: v for k, v in defaults.items() if getattr(self, k) is None})

    def record(self) -> dict[str, Any]:
        """Return the fields by name, for fingerprints: as in files of older versions, without a tolerance of 0."""
        fields = dataclasses.asdict(self) | ({"imu_axes": "file"} if self.imu_axes == "gopro" else {})
        return fields if self.tolerance else {name: value for name, value in fields.items() if name != "tolerance"}

    @property
    def kind(self) -> str:
        """Return the kind of array, "frames", "imu" or "audio". Raise DataError unless the spec has exactly one."""
        kinds = list(self.parts())
        if len(kinds) != 1:
            raise DataError(f"the spec must have one kind of array, not {kinds}; ClipSpec.parts() splits it: {self}")
        return kinds[0]

    def arrays(self, name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return {array name: (dtype, shape)} of one clip. Raise DataError unless the spec has one kind of array.

        Args:
            name: Name of the array; frames come with their times, "NAME.times".
        """
        if self.kind == "imu":
            return {name: ("float32", (self.imu_samples, 6))}
        if self.kind == "audio":
            return {name: ("float32", (AUDIO_STEPS, AUDIO_BANDS))}
        side = cast(int, self.size)  # a model's spec may leave it open, but describes no arrays then
        frames = ("uint8", (self.frames, 3, side, side))
        return {name: frames, f"{name}.times": ("float64", (self.frames,))}

    def times(self, start: float, row: int = 0) -> np.ndarray:
        """Return the times of the frames of a clip in seconds, ascending, float64 [frames].

        Args:
            start: Start of the clip in seconds.
            row: The clip's row in its store; with sampling "random" or "ages", `seed` and `row` decide the times.
        """
        if self.sampling == "ends":
            return np.linspace(start, start + self.seconds, self.frames)
        rng = np.random.default_rng([self.seed, row])
        return clip_times(start, self.frames, self.seconds, sampling=self.sampling, rng=rng)


def _is_positive(value: Any) -> bool:
    return value is None or (isinstance(value, numbers.Real) and 0 < value < math.inf)


def read_axes(text: str) -> tuple[str, np.ndarray | None]:
    """Return what `cameras.axes_and_turn()` returns: the name of axes, and the turn into them. Raise DataError.

    Args:
        text: A name of axes, or a turn such as "XZy".
    """
    try:
        return cameras.axes_and_turn(text)
    except cameras.CameraError as error:
        raise DataError(f"imu_axes: {error}") from error


def require_axes(source: str, axes: str, spec: ClipSpec) -> None:
    """Raise DataError if the samples of a source have other axes than those of a clip.

    Args:
        source: The source as the error names it.
        axes: Name of the axes of its samples.
        spec: The content of the clip.

    >>> from egodistill.recordings import clips
    >>> clips.require_axes("walk.csv", "gopro", clips.ClipSpec(imu_samples=422, imu_axes="glasses"))
    Traceback (most recent call last):
    ...
    egodistill.DataError: walk.csv: the axes of its samples are 'gopro', those of the clips 'glasses'; ...
    """
    if spec.imu_axes not in (ANY_AXES, axes):
        raise DataError(
            f"{source}: the axes of its samples are {axes!r}, those of the clips {spec.imu_axes!r}; if they are the "
            f"same axes, give their name as {named('imu_axes')}; if a rotation makes them so, give the rotation"
        )


# The fields that describe each kind of array; `spec_differences()` compares them.
FIELDS = {
    "frames": ("seconds", "frames", "size", "crop", "sampling", "exact", "tolerance"),
    "imu": ("seconds", "imu_samples", "imu_rate", "imu_axes"),
    "audio": ("seconds", "audio"),
}


def spec_differences(one: ClipSpec, other: ClipSpec, *, ignore: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Return the fields that differ, {field: (value in one, value in other)}.

    Only kinds of array that both specs have are compared. Fields that are None in either spec are left out.

    Args:
        one: A spec.
        other: Another one.
        ignore: Names of more fields to leave out.

    >>> from egodistill.recordings import clips
    >>> one = clips.ClipSpec(frames=4, imu_samples=422, sampling="first")
    >>> clips.spec_differences(one, clips.ClipSpec(frames=4, imu_samples=422, imu_rate=100.0))
    {'sampling': ('first', 'uniform'), 'imu_rate': (198.0, 100.0)}
    """
    fields = dict.fromkeys(
        name for kind in one.parts() if kind in other.parts() for name in FIELDS[kind] if name not in ignore
    )
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in fields}
    return {name: pair for name, pair in pairs.items() if None not in pair and not _same(name, *pair)}


def _same(name: str, one: Any, other: Any) -> bool:
    """Return whether two settings are equal; numbers up to rounding, because 64 / 30 may come from a file."""
    if name == "imu_axes" and ANY_AXES in (one, other):
        return True
    if isinstance(one, float) or isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other


def frames_name(spec: ClipSpec) -> str:
    """Return the name of a student's frames in a store.

    Args:
        spec: The content of the clips.

    >>> from egodistill.recordings import clips
    >>> clips.frames_name(clips.ClipSpec(frames=4)), clips.frames_name(clips.ClipSpec(frames=4, sampling="first"))
    ('frames_4', 'frames_4_first')
    """
    rule = "" if spec.sampling in (None, "uniform") else f"_{spec.sampling}"
    return f"frames_{spec.frames}{rule}"


def spec_of(model: Any) -> ClipSpec:
    """Return the spec of the clips that a model reads: its `clip_spec`, or one built from the attributes of a student.

    These are `num_frames`, `frame_size`, `sampling`, `exact`, `tolerance`, `imu_samples`, `imu_rate`, `imu_axes` and
    `clip_seconds`. The field of an attribute that the model lacks is None. Two have defaults: `num_frames` is 1 if
    the model reads "frames", `imu_samples` 422 if it reads "imu".

    Args:
        model: A student, a teacher, or another object with these attributes.

    >>> from egodistill import EgoDistill
    >>> from egodistill.recordings import clips
    >>> spec = clips.spec_of(EgoDistill.load("student.pt"))
    >>> spec.frames, spec.size, spec.imu_samples
    (1, 64, 422)
    """
    found = getattr(model, "clip_spec", None)
    if isinstance(found, ClipSpec):
        return found
    inputs = getattr(model, "inputs", ())
    reads_frames = "frames" in inputs or "clip" in inputs
    return ClipSpec(
        frames=getattr(model, "num_frames", int("frames" in inputs)) if reads_frames else 0,
        size=getattr(model, "frame_size", None),
        crop="clip" in inputs,
        sampling=getattr(model, "sampling", None),
        exact=getattr(model, "exact", None),
        tolerance=getattr(model, "tolerance", None),
        imu_samples=getattr(model, "imu_samples", IMU_SAMPLES) if "imu" in inputs else 0,
        imu_rate=getattr(model, "imu_rate", None),
        imu_axes=getattr(model, "imu_axes", None),
        audio="audio" in inputs,
        seconds=getattr(model, "clip_seconds", None),
    )


# ---------------------------------------------------------------------------------------------------------------
# Recordings


@dataclasses.dataclass(frozen=True)
class Recording:
    """A video, its IMU, the clock between them, and the wearer of the camera; or head motion without a video.

    An IMU sample stamped t was taken at `imu_offset + imu_stretch * t` seconds of the video: clocks of public
    recordings differ by up to a second (`egodistill check` measures it). Without a video, times are those of the IMU.
    Students read recordings whose axes have the same name as those of their training.

    A camera of your own is a function in `READERS` that returns a `Recording`, a format of samples one in
    `imu.IMU_READERS`. Classes that inherit from `Recording` are refused.

    Attributes:
        video: The video file; "" or None: there is none, and `imu` must be given.
        imu: One CSV, a pair of CSVs (accelerometer, gyroscope), or None for telemetry inside the video.
        imu_offset: Seconds of the video at which the IMU's clock is zero.
        imu_stretch: Seconds of the video per second of the IMU's clock.
        wearer: Name of the person who wore the camera, if known.
        zero_accel: Take zeros if there is no accelerometer, as in `read_imu()`.
        imu_axes: The axes of the samples: "gopro" (X to the left, Y to the user, Z up), which all readers of cameras
            return; a turn that makes them so, such as "XZy" (`egodistill check` finds it), applied when they are
            read; or a name of your own, with which they stay as they are.

    >>> from egodistill import data
    >>> walk = data.Recording("walk.mp4", "walk.csv", imu_offset=0.2)
    >>> {name: array.shape for name, array in walk.clip(1.0, data.ClipSpec(frames=2, imu_samples=422)).items()}
    {'frames': (2, 3, 224, 224), 'frames.times': (2,), 'imu': (422, 6)}
    >>> walk.motion().window(1.0).shape
    (422, 6)
    """

    video: str
    imu: str | tuple[str, str] | None = None
    imu_offset: float = 0.0
    imu_stretch: float = 1.0
    wearer: str | None = None
    zero_accel: bool = False
    imu_axes: str = "gopro"

    def __post_init__(self) -> None:  # convert paths and numpy numbers
        if read_axes(self.imu_axes)[0] == ANY_AXES:
            raise DataError('imu_axes: samples have axes, and "any" is what a student reads; give their name or a turn')
        imu, video = self.imu, "" if self.video is None else self.video
        if not isinstance(video, (str, os.PathLike)):
            raise DataError(f"video must be the path of one file, such as 'walk.mp4'; got {type(self.video).__name__}")
        if isinstance(imu, (tuple, list)):
            imu = tuple(os.fspath(path) for path in imu)
        elif not isinstance(imu, (str, os.PathLike, type(None))):
            raise DataError(
                f"imu must be a file, or a pair of files; got {type(imu).__name__}: give the file with the samples"
            )
        elif imu is not None:
            imu = os.fspath(imu)
        if not os.fspath(video) and not imu:
            raise DataError(
                f"video must be the path of one file, such as 'walk.mp4'; got {type(self.video).__name__}: give it, or "
                f"the file of an IMU without a video as {named('imu')}"
            )
        plain = {"imu_offset": float(self.imu_offset), "imu_stretch": float(self.imu_stretch)}
        plain["zero_accel"] = bool(self.zero_accel)
        for name, value in {"video": os.fspath(video), "imu": imu, **plain}.items():
            object.__setattr__(self, name, value)

    def __init_subclass__(cls, **options: Any) -> None:
        raise DataError(
            f"{cls.__qualname__}: a class that inherits from Recording, which only version 0.5 reads; make it a "
            f"function in READERS that returns a Recording, and one in IMU_READERS that reads its samples"
        )

    def __getstate__(self) -> dict[str, Any]:  # without the samples
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def own_reader(self) -> Callable | None:
        """Return the user's own function that reads the samples; None if the library does."""
        return IMU_READERS.get(Path(self.imu_source).suffix.lower()) if isinstance(self.imu_source, str) else None

    def record(self) -> dict[str, Any]:
        """Return the fields by name, as a `Segment` has them.

        `camera` is the name of `own_reader`, the same if its file is imported under another one, or "" without a
        reader. Raise DataError for a reader that is not a function.
        """
        reader = self.own_reader
        if reader is not None and not hasattr(reader, "__qualname__"):
            raise DataError(f"{reader!r}: give a function; a store can only name one")
        name = "" if reader is None else f"{reader.__module__.removeprefix('own_')}.{reader.__qualname__}"
        return self.__getstate__() | {"camera": name}

    @property
    def path(self) -> str:
        """Return the video, or without one the first file of the IMU: the key and the name of the recording."""
        return path_of(self.video, self.imu)

    @property
    def begin(self) -> float:
        """Return the time of the first picture, 0, or without a video of the first sample from 0 on, in seconds."""
        return 0.0 if self.video else max(0.0, float(max(self.motion().accel_time[0], self.motion().gyro_time[0])))

    @property
    def duration(self) -> float:
        """Return the time of the end in seconds, of the video or without one of the samples. Raise as `probe()`."""
        return self.probe().duration

    @property
    def imu_source(self) -> str | tuple[str, str]:
        """Return the file, or pair of files, with the IMU samples."""
        return self.video if self.imu is None else self.imu

    @property
    def files(self) -> tuple[str, ...]:
        """Return the files of the recording: the video, the IMU samples if there are any, a Neon's times of frames."""
        imu = (self.imu,) if isinstance(self.imu, str) else self.imu or ()
        times = [str(Path(one).with_name(cameras.FRAME_TIMES)) for one in imu if _has_neon_tables(Path(one).parent)]
        return tuple(dict.fromkeys((self.video, *imu, *times) if self.video else imu))

    def probe(self) -> VideoInfo:
        """Return duration, frame rate and size; the header is read once. Raise VideoError if it cannot be read.

        Without a video, the duration is the time of the last sample, and the others are 0. IMUError if it has none.
        """
        if not self.video:  # whose clock may be changed
            return self._extent()
        if "info" not in self.__dict__:
            self.__dict__["info"] = probe(self.video)
        return self.__dict__["info"]

    def _extent(self) -> VideoInfo:
        motion = self.motion()
        if not min(len(motion.accel), len(motion.gyro)):
            raise IMUError(f"{name_files(self.imu_source)}: has no samples; give a file with some, or a video")
        return VideoInfo(float(min(motion.accel_time[-1], motion.gyro_time[-1])), 0.0, 0, 0, False)

    def motion(self) -> Imu:
        """Return the IMU samples on the video's clock; the file is read once. Raise IMUError that names the file.

        VideoError if they are telemetry of a video that cannot be read; a note names tables beside it that are unused.
        Times that all lie behind the video are those of a clock that runs since boot: they are taken to begin at zero,
        before `imu_offset` is added, if they then overlap the video. A note says so. Without `imu_offset`, IMUError for
        a log of more than twice the video and a minute: the video may begin anywhere in it.
        """
        if "samples" not in self.__dict__:
            if (
                self.video
                and str(self.imu).lower().endswith(".vrs")
                and self.imu_offset == 0
                and self.own_reader is None
            ):
                raise IMUError(
                    f"{self.imu}: its times are those of the glasses' own clock, and nothing says when the video "
                    f"begins on it; `egodistill convert` writes both on one clock, or give {named('imu_offset')}"
                )
            unused = ()
            if self.imu is None:
                self.probe()  # a broken video is told before telemetry is missed
                unused = unused_tables(Path(self.video))
            try:
                found = read_imu(self.imu_source, zero_accel=self.zero_accel)
            except IMUError as error:
                if unused:
                    raise IMUError("; ".join([str(error), *unused])) from error
                raise
            found = dataclasses.replace(found, notes=(*found.notes, *unused, *self._frames_of_another()))
            turned = found if self.imu_axes == "gopro" else found.in_axes(*read_axes(self.imu_axes))
            self.__dict__["samples"] = self._since_boot(turned).on_clock(self.imu_offset, self.imu_stretch)
        return self.__dict__["samples"]

    def _frames_of_another(self) -> Iterator[str]:
        """Yield a note if a Neon's table of frames, from which the given IMU has its clock, is of another video."""
        if not (self.video and isinstance(self.imu, str)) or (self.imu_offset, self.imu_stretch) != (0.0, 1.0):
            return
        times = Path(self.imu).with_name(cameras.FRAME_TIMES)
        if times.is_file() and _header_has(Path(self.imu), cameras.NEON_TIME):
            rows = len(cameras.frame_stamps(times))
            try:
                count = _first_and_last_frame(Path(self.video))[0]
            except VideoError:  # whoever decodes the video reports it
                return
            if count and count != rows:
                yield (
                    f"{times} has {rows} rows, but {self.video} has {count} frames, so these samples have the clock of "
                    f"another video; give this video's IMU, or the offset that `egodistill check` finds"
                )

    def is_since_boot(self) -> bool:
        """Return whether the times of the IMU lie behind the video, as far as it can be read; see `motion()`."""
        with contextlib.suppress(ValueError, OSError):
            self.motion()
        return "boot" in self.__dict__

    def _since_boot(self, motion: Imu) -> Imu:
        """Return samples behind the end of the video from zero on, with a note, if they then overlap it.

        Without a video they stay, and a note says what lies before zero.
        """
        if not self.video:
            lost = -float(self.imu_offset + self.imu_stretch * max(motion.accel_time[0], motion.gyro_time[0]))
            note = f"{lost:.1f} s lie before zero and are not used; add them to {named('imu_offset')}"
            return motion if lost <= 0 else dataclasses.replace(motion, notes=(*motion.notes, note))
        first = float(min(motion.accel_time[0], motion.gyro_time[0]))
        if (start := self.imu_offset + self.imu_stretch * first) <= 0:
            return motion
        try:
            duration = self.probe().duration
        except VideoError:  # nothing to compare with; whoever decodes the video reports it
            return motion
        length = float(max(motion.accel_time[-1], motion.gyro_time[-1])) - first
        if start < duration or not -self.imu_stretch * length < self.imu_offset < duration:
            return motion
        self.__dict__["boot"] = True
        lengths = f"{length:.1f} s of samples, {duration:.1f} s of video"
        if self.imu_offset == 0 and self.imu_stretch * length > 2 * duration + 60:
            raise IMUError(
                f"{name_files(self.imu_source)}: its times begin at {first:.1f} s, {SINCE_BOOT}, and nothing says "
                f"where the video begins in it ({lengths}); give {named('imu_offset')}"
            )
        note = (
            f"its times begin at {first:.1f} s, {SINCE_BOOT}, and are taken to begin with the video ({lengths}); "
            f"if not, give {named('imu_offset')}"
        )
        return dataclasses.replace(motion.on_clock(-first), notes=(*motion.notes, note))

    def clip(self, start: float, spec: ClipSpec, **limits: Any) -> dict[str, np.ndarray]:
        """Return the arrays of a clip: "frames", "imu" and "audio", as in the spec.

        "frames.times" are the times of the decoded frames.

        Args:
            start: Start of the clip in seconds.
            spec: Its content.
            limits: Options of `decode_clips()`.

        Raises:
            VideoError: The video cannot be read, or has no frame or sound at a time of the clip.
            IMUError: The IMU cannot be read, or does not cover the clip.
            DataError: The samples have other axes than the clip.
        """
        ((_, found),) = decode_clips(self, {0: start}, spec.parts(), **limits)
        if isinstance(found, Exception):
            raise found
        return found


def path_of(video: str, imu: str | tuple[str, str] | None) -> str:
    """Return `Recording.path` of a video and an IMU, one of which there is.

    Args:
        video: As in `Recording`.
        imu: As in `Recording`.
    """
    return video or (imu if isinstance(imu, str) else cast(tuple[str, str], imu)[0])


def tables_beside(path: Path) -> Recording | None:
    """Return the recording of a video with its IMU beside it; None if there is no IMU.

    The IMU is the first of these: NAME-accl.csv and NAME-gyro.csv; NAME with a suffix in `IMU_READERS`; NAME.csv or
    NAME.CSV if its header is that of an IMU table; NAME.gcsv or NAME.GCSV. Raise DataError if the table cannot be read.
    """
    if path.is_dir():  # "." has no name
        return None
    pair = _pair_beside(path)
    if all(table.is_file() for table in pair):
        return Recording(str(path), pair)
    for table, problem in _tables_of_its_name(path):
        if problem is None:
            return Recording(str(path), table)
    return None


def unused_tables(path: Path) -> tuple[str, ...]:
    """Return a sentence about each table beside a video that `tables_beside()` and `neon_recording()` pass over.

    Args:
        path: The video.
    """
    problems = [f"the table beside it is not used: {text}" for _, text in _tables_of_its_name(path) if text is not None]
    pair = sorted(_pair_beside(path), key=Path.is_file)  # the missing one first
    if pair[1].is_file() and not pair[0].is_file():
        problems.append(f"{pair[1]} is not used: {pair[0].name} is missing beside it")
    neon = _incomplete_neon(path.parent)
    return (*problems, neon) if neon else tuple(problems)


def _pair_beside(path: Path) -> tuple[Path, ...]:
    return tuple(path.with_name(f"{path.stem}-{sensor}.csv") for sensor in ("accl", "gyro"))


def _tables_of_its_name(path: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield (table, why its header is not that of an IMU table) beside a video. DataError if one cannot be read."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        formats = dict.fromkeys([*(suffix for suffix in IMU_READERS if suffix not in VIDEO_SUFFIXES), ".csv", ".gcsv"])
        for table in (path.with_suffix(written) for suffix in formats for written in (suffix, suffix.upper())):
            if table.is_file():
                is_table = table.suffix.lower() == ".csv" and ".csv" not in IMU_READERS
                yield table, _header_problem(table) if is_table else None


def _header_problem(table: Path) -> str | None:
    try:
        with open(table, encoding="utf-8-sig", errors="replace") as file:
            header = file.readline(LONGEST_HEADER)
        if header.startswith(PREDICTED):
            return f"{table}: a result of `egodistill predict`"
        table_columns(table, header, may_lack_accel=True)
    except IMUError as error:
        return str(error)
    except OSError as error:
        raise DataError(f"{table}: cannot be read: {error.strerror}") from error
    return None


def is_neon(folder: Path) -> bool:
    """Return whether a folder is a recording of a Pupil Labs Neon: in the Cloud format, or as the glasses write it."""
    return _has_neon_tables(folder) or (folder / "extimu ps1.raw").is_file()


def _has_neon_tables(folder: Path) -> bool:
    return (folder / "imu.csv").is_file() and (folder / cameras.FRAME_TIMES).is_file()


def _incomplete_neon(folder: Path) -> str | None:
    """Return which file the folder of a Neon lacks; None for a complete one and for other folders."""
    imu, times = folder / "imu.csv", folder / cameras.FRAME_TIMES
    if imu.is_file() == times.is_file() or not (times.is_file() or _header_has(imu, cameras.NEON_TIME)):
        return None
    found, missing = (imu, times.name) if imu.is_file() else (times, imu.name)
    return (
        f"{found}: of a Pupil Labs Neon, but {missing} is missing beside it; copy it from the folder that Pupil Cloud "
        f"exports ('Timeseries Data + Scene Video')"
    )


def _header_has(table: Path, name: str) -> bool:
    with open(table, encoding="utf-8-sig", errors="replace") as file:
        return name in file.readline(LONGEST_HEADER)


def neon_recording(path: Path) -> Recording | None:
    """Return the recording of a Pupil Labs Neon: its folder in the Cloud format, or its scene video. None for others.

    The clock maps the times of the frames in world_timestamps.csv to those in the video, by the first and the last
    frame. Raise DataError unless the folder has exactly one video and the video has as many frames as the table, and
    for a folder that lacks a table or is as the glasses write it.
    """
    folder = path if path.is_dir() else path.parent
    if not (is_neon(folder) if path.is_dir() else _has_neon_tables(folder)):
        if path.is_dir() and (problem := _incomplete_neon(folder)):
            raise DataError(problem)
        return None
    path = neon_video(path) if path.is_dir() else path
    imu, times = folder / "imu.csv", folder / cameras.FRAME_TIMES
    try:
        stamps = cameras.frame_stamps(times)
    except cameras.CameraError as error:
        raise DataError(str(error)) from error
    count, first, last = _first_and_last_frame(path)
    if count and count != len(stamps):
        raise DataError(
            f"{path}: has {count} frames, but {times.name} beside it has {len(stamps)} rows, so its clock is unknown; "
            f"give the original scene video, or the IMU and its clock, {named('imu')} and {named('imu_offset')}"
        )
    length = float(stamps[-1] - stamps[0]) * 1e-9
    stretch = (last - first) / length if length > 0 < last - first else 1.0
    return Recording(path, imu, imu_offset=first, imu_stretch=stretch)


def neon_video(folder: Path) -> Path:
    """Return the scene video in the folder of a Pupil Labs Neon.

    Raise DataError unless the folder has exactly one video, for a folder as the glasses write it, and for any other.
    """
    if not is_neon(folder):
        raise DataError(f"{folder}: a folder, but not of a Pupil Labs Neon; name a video in it")
    if not _has_neon_tables(folder):
        raise DataError(
            f"{folder}: a Neon recording as the glasses write it; give the folder that Pupil Cloud exports "
            f"('Timeseries Data + Scene Video'), or write its IMU as a table with pupil-labs-neon-recording"
        )
    videos = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in VIDEO_SUFFIXES]
    if len(videos) != 1:
        found = ", ".join(video.name for video in videos) or "none"
        raise DataError(
            f"{folder}: a Neon recording has one scene video in its folder, here: {found}; give the video, or "
            f"download 'Timeseries Data + Scene Video' again"
        )
    return videos[0]


def refuse_aria(path: Path) -> None:
    """Raise DataError for a recording of Project Aria glasses (.vrs), which must be converted; None for others."""
    if path.suffix.lower() == ".vrs":
        raise DataError(
            f"{path}: a Project Aria recording; convert it first with `egodistill convert {path.name} --out FOLDER`, "
            f"which writes a video and an IMU table"
        )


def _first_and_last_frame(video: Path) -> tuple[int, float, float]:
    """Return the number of frames by the header, 0 if it has none, and the times of the first and the last frame."""
    with open_video(video) as container:
        stream, zero = video_stream(container, video), clock_zero(container)
        first = min((p.pts for p in itertools.islice(demux(container, stream), 32) if p.pts is not None), default=0)
        end = (stream.start_time or 0) + (stream.duration or 0)
        container.seek(max(end - 1, 0), stream=stream)  # to the last key frame
        last = max((p.pts for p in demux(container, stream) if p.pts is not None), default=first)
        return stream.frames, float(first * stream.time_base) - zero, float(last * stream.time_base) - zero


# Readers of recordings: path of a file -> Recording, or None if the file is not of this kind. `open_recording()` takes
# the first that is not None; its docstring shows how to add one.
READERS: list[Callable[[Path], Recording | None]] = [tables_beside, neon_recording, refuse_aria]


def _ask_readers(path: Path) -> Recording | None:
    """Return the recording of the first reader that knows a path. Raise what a reader raises; DataError if it fails."""
    for reader in READERS:
        try:
            found = reader(path)
            if not isinstance(found, Recording | None):
                raise TypeError(f"it returns {type(found).__name__}, not a Recording or None")
        except Exception as error:  # code of one's own can raise any error
            if isinstance(error, (DataError, IMUError, VideoError)) or reader.__module__ == __name__:
                raise
            raise DataError(f"{path}: {failure(reader, error)}") from error
        if found is not None:
            return found
    return None


def parts_in_use(recordings: Iterable[Recording]) -> dict[str, Any]:
    """Return the names of one's own functions that other processes need, for `use_parts()`; {} if none.

    Raise EgoDistillError for one in a notebook or script, where they cannot find it.

    Args:
        recordings: What is read there.
    """
    recordings = list(recordings)
    unopened = any(one.imu is None for one in recordings)  # the readers are asked again there
    used = {Path(one.imu_source).suffix.lower() for one in recordings if isinstance(one.imu_source, str)}
    formats = {suffix: function for suffix, function in IMU_READERS.items() if unopened or suffix in used}
    parts: dict[str, Any] = {
        "readers": [own.name_of(reader) for reader in READERS if unopened and reader.__module__ != __name__],
        "imu_readers": {suffix: own.name_of(function) for suffix, function in formats.items()},
    }
    names = [*parts["readers"], *parts["imu_readers"].values()]
    homes = {name.partition(":")[0] for name in names}
    files = {module: file for module, file in own.imported().items() if module in homes}
    return parts | {"files": files, "path": sys.path} if names else {}


def use_parts(parts: Mapping[str, Any]) -> None:
    """Import functions of one's own, and use them from now on; readers come before the others.

    Raise EgoDistillError for a name that stands for nothing, or for what cannot be called.

    Args:
        parts: Of what `parts_in_use()` returns, "readers" and "imu_readers", or all; names as for `own.resolve()`.
    """
    sys.path[:] = dict.fromkeys([*parts.get("path", ()), *sys.path])  # in the order of the process that sent them
    own.import_again(parts.get("files", {}))
    readers, formats = parts["readers"], parts["imu_readers"]
    found = {name: own.resolve(name) for name in (*readers, *formats.values())}
    for name, part in found.items():
        if not callable(part):
            raise DataError(f"{name}: is {type(part).__name__}, not a function")
    READERS[:0] = [found[name] for name in readers if found[name] not in READERS]
    IMU_READERS.update({suffix: found[name] for suffix, name in formats.items()})


def open_recording(
    path: str | os.PathLike | Recording | None,
    imu: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    *,
    imu_offset: float = 0.0,
    imu_stretch: float = 1.0,
    wearer: str | None = None,
    zero_accel: bool = False,
    imu_axes: str = "gopro",
) -> Recording:
    """Return the recording of a video file, or of a folder that a Pupil Labs Neon recorded.

    Without `imu`, the functions in `READERS` are called in turn, and the first recording that one returns is used; if
    none does, the IMU is telemetry inside the video. Raise DataError if other arguments come with a `Recording`, and
    what a reader raises.

    A camera of your own is one more reader, which `prepare()`, `check()` and `predict()` then use for videos without
    IMU files. If only the format of the samples is your own, a function in `IMU_READERS` is enough: NAME.log is then
    found beside NAME.mp4. Commands take both as --reader and --imu-reader. The example adds a reader that finds
    NAME.txt beside NAME.mp4.

    Args:
        path: The video or folder; None or "": there is none. A `Recording` is returned unchanged.
        imu: As in `Recording`.
        imu_offset: As in `Recording`, on top of a reader's own.
        imu_stretch: As in `Recording`, on top of a reader's own.
        wearer: As in `Recording`, instead of a reader's own.
        zero_accel: As in `Recording`.
        imu_axes: As in `Recording`; other than "gopro" they replace a reader's own.

    >>> import shutil
    >>> from egodistill import data
    >>> from egodistill.recordings import clips
    >>> data.open_recording("walk.mp4").imu
    'walk.csv'
    >>> _ = shutil.move("walk.csv", "walk.txt")
    >>> def text_beside(path):
    ...     table = path.with_suffix(".txt")
    ...     return clips.Recording(path, table) if table.is_file() else None
    >>> clips.READERS.insert(0, text_beside)
    >>> data.open_recording("walk.mp4").imu
    'walk.txt'
    >>> clips.READERS.remove(text_beside)
    """
    given = {"imu_offset": imu_offset, "imu_stretch": imu_stretch, "wearer": wearer, "zero_accel": zero_accel}
    given["imu_axes"] = imu_axes
    if isinstance(path, Recording):
        if (imu, *given.values()) != (None, 0.0, 1.0, None, False, "gopro"):
            raise DataError(f"{path.path}: a Recording has its own IMU and clock; give a path, or no other arguments")
        return path
    plain = Recording(path, imu, **given)
    if imu is not None or (found := _ask_readers(Path(path))) is None:
        return plain
    return dataclasses.replace(
        found,
        imu=found.imu or found.video,  # named: or its segments would be opened again, and its clock applied twice
        imu_offset=imu_offset + imu_stretch * found.imu_offset,
        imu_stretch=imu_stretch * found.imu_stretch,
        wearer=wearer or found.wearer,
        zero_accel=zero_accel or found.zero_accel,
        imu_axes=found.imu_axes if imu_axes == "gopro" else imu_axes,
    )


def find_videos(folder: str | os.PathLike) -> list[str]:
    """Return the paths of the videos in a folder and its subfolders, sorted. Raise DataError if there is none.

    Args:
        folder: Where to search; hidden files and folders do not count.

    >>> from egodistill.recordings import clips
    >>> clips.find_videos("world")[:2]
    ['world/P01/videos/P01_101.MP4', 'world/P02/videos/P02_101.MP4']
    """
    folder = Path(folder)
    if not folder.exists():
        raise DataError(f"{folder}: no such folder")
    found = [
        path for path in folder.rglob("*") if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    videos = sorted(str(path) for path in found if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    if not videos:
        aria = any(path.suffix.lower() == ".vrs" for path in found)
        raise DataError(
            f"{folder}: no recordings: no video ({', '.join(VIDEO_SUFFIXES)}) in this folder or below it"
            + ("; `egodistill convert` makes videos of its .vrs files" if aria else "; give another folder")
        )
    return videos


def probe_videos(recordings: Iterable[Any], workers: int) -> dict[str, VideoInfo]:
    """Return {path: what `Recording.probe()` says}, without recordings that cannot be read.

    Args:
        recordings: Recordings or segments; each path is read once.
        workers: Number of threads that read them.
    """
    found: dict[str, VideoInfo] = {}
    by_path = {one.path: one for one in recordings}

    def read(path: str) -> None:
        one = by_path[path]
        with contextlib.suppress(VideoError, IMUError, DataError):
            found[path] = (Recording(one.video) if one.video else getattr(one, "recording", one)).probe()

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        list(pool.map(read, sorted(by_path)))
    return found


# ---------------------------------------------------------------------------------------------------------------
# Clips of a recording


def clip_starts(start: float, stop: float, duration: float, seconds: float = CLIP_SECONDS) -> list[float]:
    """Return the starts of the clips that cover a segment of a video, in seconds.

    There are ceil(length / seconds) clips, at least one, spread evenly from the segment's start to its end. A segment
    shorter than a clip gets one clip around its centre. Clips that would extend beyond an end of the video are moved
    inside; in a video shorter than a clip the clip starts at 0, and holds the last picture. Raise DataError for a
    segment that is empty or starts after the end of the video.

    Args:
        start: Start of the segment in seconds.
        stop: Its end in seconds.
        duration: Length of the video in seconds.
        seconds: Length of a clip.

    >>> from egodistill import data
    >>> [round(start, 3) for start in data.clip_starts(1.0, 6.0, duration=23.4)]
    [1.0, 2.433, 3.867]
    """
    if not (0 <= start < stop <= LONGEST and seconds > 0):
        raise DataError(
            f"the segment from {start} to {stop} s cannot be cut into clips of {seconds} s: it must have 0 <= start < "
            f"stop <= {LONGEST:g} (eleven days), and clips must be longer than 0 s"
        )
    if start >= duration:
        raise DataError(f"the segment starts at {start:.3f} s, but the video ends at {duration:.3f} s")
    stop = min(stop, duration)
    count = max(1, math.ceil((stop - start) / seconds - 1e-9))
    if count == 1:
        starts = [(start + stop - seconds) / 2]
    else:
        starts = np.linspace(start, stop - seconds, count).tolist()
    return [max(0.0, min(t, duration - seconds)) for t in starts]


def strided_starts(duration: float, length: float, stride: float) -> list[float]:
    """Return where the clips of a recording start (s): at regular steps, and a last one that ends with the recording.

    As in `clip_starts()`, a recording shorter than a clip has one clip, which starts at 0.

    Args:
        duration: Length of the recording in seconds.
        length: Length of a clip in seconds.
        stride: Seconds from one start to the next.

    >>> from egodistill.recordings import clips
    >>> clips.strided_starts(10.0, length=2.0, stride=3.0)
    [0.0, 3.0, 6.0, 8.0]
    """
    starts = [k * stride for k in range(max(1, math.floor((duration - length) / stride + 1 + 1e-6)))]
    last = duration - length
    return [*starts, last] if last > starts[-1] + 1e-3 else starts


def decode_clips(
    recording: Recording,
    starts: Mapping[int, float],
    specs: Mapping[str, ClipSpec],
    *,
    min_coverage: float = 0.95,
    max_gap: float = MAX_GAP,
    max_hold: float = MAX_HOLD,
    threads: int = 1,
    readers: FrameReaders | None = None,
) -> Iterator[tuple[int, dict[str, np.ndarray] | Exception]]:
    """Decode clips of a recording in one pass: yield each row with its arrays by name, or with its error.

    Frames come with the times from which they are shown, as "NAME.times". Clips come in the order of their ends,
    errors as soon as they are known; only overlapping clips are held in memory. A clip that is longer than its video
    ends with the last frame.

    Args:
        recording: The video and its IMU.
        starts: {row: start of its clip in seconds}.
        specs: {array name: spec with one kind of array}, see `ClipSpec.parts()`.
        min_coverage: A clip fails if a sensor covers less than this share of it.
        max_gap: Parts where samples are more than this many seconds apart are not covered.
        max_hold: A clip fails if a frame of it would be on screen for more seconds: a hole in the recording, or an end.
        threads: Number of decoding threads; 0: FFmpeg's choice.
        readers: Readers of the video with this `max_hold`, which stay open for the next call; None: open the video.

    >>> from egodistill.recordings import clips
    >>> walk = clips.open_recording("walk.mp4", "walk.csv")
    >>> for row, found in clips.decode_clips(walk, {0: 1.0, 1: 99.0}, {"imu": clips.ClipSpec(imu_samples=422)}):
    ...     print(row, type(found).__name__ if isinstance(found, Exception) else found["imu"].shape)
    1 CoverageError
    0 (422, 6)
    """
    specs = {name: spec.complete() for name, spec in specs.items()}
    return iter(_Decoding(recording, starts, specs, min_coverage, max_gap, max_hold, threads, readers))


@dataclasses.dataclass
class _Decoding:
    """One pass over a recording that assembles clips from pieces: frames, sounds, windows of the IMU."""

    recording: Recording
    starts: Mapping[int, float]
    specs: Mapping[str, ClipSpec]
    min_coverage: float
    max_gap: float
    max_hold: float
    threads: int
    readers: FrameReaders | None

    def __iter__(self) -> Iterator[tuple[int, dict[str, np.ndarray] | Exception]]:
        self.kinds = {name: spec.kind for name, spec in self.specs.items()}
        left = dict.fromkeys(self.starts)  # ordered, and quick to remove from
        try:
            for row, found in self._clips():
                del left[row]
                yield row, found
        except (VideoError, IMUError) as error:  # of the recording, not of one clip: it fails all that are left
            for row in left:
                yield row, error

    def _clips(self) -> Iterator[tuple[int, dict[str, np.ndarray] | Exception]]:
        info, kinds = self.recording.probe(), set(self.kinds.values())
        if "frames" in kinds and not self.recording.video:
            raise VideoError(f"{self.recording.path}: the recording has no video, and so no frames")
        if "audio" in kinds and not info.has_audio:
            raise VideoError(f"{self.recording.path}: has no audio")
        for spec in self.specs.values():
            if spec.imu_samples:  # read now: an error is one of the recording, not of a clip
                require_axes(name_files(self.recording.imu_source), self.recording.motion().axes, spec)
        lacking: dict[int, int] = {}
        rows: dict[int, dict[str, np.ndarray]] = {}
        pieces = sum(spec.frames if self.kinds[name] == "frames" else 1 for name, spec in self.specs.items())
        windows = sum(kind == "imu" for kind in self.kinds.values())
        for row, start in self.starts.items():
            try:
                self._windows(start)
            except CoverageError as error:
                yield row, CoverageError(f"{name_files(self.recording.imu_source)}: {error}")
            else:
                lacking[row] = pieces - windows
        for row in [row for row, count in lacking.items() if not count]:  # IMU only
            del lacking[row]
            yield row, self._windows(self.starts[row])
        choices = dict.fromkeys((s.exact, s.tolerance) for n, s in self.specs.items() if self.kinds[n] == "frames")
        streams = [self._frames(list(lacking), info.duration, *choice) for choice in choices]
        streams += [self._sounds(list(lacking), name) for name, kind in self.kinds.items() if kind == "audio"]
        # Each stream is ordered by time, so merging them keeps only overlapping clips in memory.
        for _, row, name, place, piece in heapq.merge(*streams, key=lambda piece: piece[0]):
            if row not in lacking:  # this clip has already failed
                continue
            if isinstance(found := piece(), Exception):
                del lacking[row]
                rows.pop(row, None)
                yield row, found
                continue
            if row not in rows:
                rows[row] = self._empty() | self._windows(self.starts[row])
            if place is None:
                rows[row][name] = found
            else:
                rows[row][name][place], rows[row][f"{name}.times"][place] = found
            lacking[row] -= 1
            if not lacking[row]:
                del lacking[row]
                yield row, rows.pop(row)

    def _empty(self) -> dict[str, np.ndarray]:
        return {
            array: np.empty(shape, dtype)
            for name, spec in self.specs.items()
            if self.kinds[name] == "frames"
            for array, (dtype, shape) in spec.arrays(name).items()
        }

    def _windows(self, start: float) -> dict[str, np.ndarray]:
        """Return the IMU windows of a clip. Raise CoverageError."""
        limits = {"min_coverage": self.min_coverage, "max_gap": self.max_gap}
        return {
            name: self.recording.motion().window(start, spec.imu_samples, spec.imu_rate, **limits)
            for name, spec in self.specs.items()
            if self.kinds[name] == "imu"
        }

    def _sounds(self, rows: list[int], name: str) -> Iterator[tuple[float, int, str, None, Callable[[], Any]]]:
        begins = [self.starts[row] + (self.specs[name].seconds - AUDIO_SECONDS) / 2 for row in rows]
        for index, sound in audio_at(self.recording.video, begins) if rows else ():
            error = VideoError(f"{self.recording.video}: no sound near {begins[index]:.3f} s")
            yield begins[index], rows[index], name, None, _Piece(error if sound is None else sound, log_mel)

    def _frames(
        self, rows: list[int], duration: float, exact: bool, tolerance: float
    ) -> Iterator[tuple[float, int, str, int, Callable[[], Any]]]:
        """Yield the frames of all specs with this choice of frames, as pieces ordered by time."""
        frames = {name: spec for name, spec in self.specs.items() if self.kinds[name] == "frames"}
        specs = {name: spec for name, spec in frames.items() if (spec.exact, spec.tolerance) == (exact, tolerance)}
        wanted = [
            (min(float(t), duration), row, name, place)
            for row in rows
            for name, spec in specs.items()
            for place, t in enumerate(spec.times(self.starts[row], row))
        ]
        if not wanted:
            return
        framers = {key: _Framer(Scaler(*key)) for key in {(spec.size, spec.crop) for spec in specs.values()}}
        fresh = open_reader(self.recording.video, self.max_hold)
        with self.readers.lend(self.threads) if self.readers else fresh as reader:
            options = {"exact": exact, "tolerance": tolerance, "threads": self.threads}
            for index, frame in reader.frames([t for t, *_ in wanted], **options):
                seconds, row, name, place = wanted[index]
                found = reader.lost(seconds) if frame is None else (frame, reader)
                if (end := self.starts[row] + specs[name].seconds) > duration + self.max_hold:
                    found = VideoError(
                        f"{self.recording.video}: the clip ends at {end:.3f} s, but the video at {duration:.3f} s, "
                        f"over {named('max_hold')}, {self.max_hold:g} s, before; a larger one holds its last picture"
                    )
                framer = framers[specs[name].size, specs[name].crop]
                yield seconds, row, name, place, _Piece(found, framer)


@dataclasses.dataclass
class _Piece:
    """A piece of a clip, computed when called: the frames of a clip that has already failed are not scaled."""

    source: Any
    make: Callable[[Any], Any]

    def __call__(self) -> Any:
        return self.source if isinstance(self.source, Exception) else self.make(self.source)


@dataclasses.dataclass
class _Framer:
    """Scale a decoded frame, and return it with the time from which it is shown."""

    scaler: Scaler

    def __call__(self, found: tuple[Any, FrameReader]) -> tuple[np.ndarray, float]:
        frame, reader = found
        return self.scaler(frame), float(frame.pts * reader.stream.time_base) - reader.zero


def name_files(source: str | Iterable[str]) -> str:
    """Return the file of an IMU, or both, as text.

    Args:
        source: The file, or both.
    """
    return source if isinstance(source, str) else " and ".join(source)
