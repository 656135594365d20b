"""What a clip is: its content, when its frames are, and where the clips of a recording start.

    from egodistill.recordings.spec import ClipSpec, spec_of

    spec = ClipSpec(frames=4, size=224, imu_samples=422)                # what a student reads
    print(spec.times(10.0), list(spec.parts()))                         # when its frames are; a spec per kind of array
    print(spec_of(model))                                               # what this student or teacher reads

A `ClipSpec` describes the content of a clip, for students, teachers, stores and exported files; `spec_differences()`
compares two of them. Times are seconds on the video's own clock, the one a player shows: zero is the start of the file.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from .. import cameras
from ..support.defaults import CLIP_SECONDS, IMU_RATE, IMU_SAMPLES
from ..support.errors import DataError, named
from ..video import LONGEST, MAX_TOLERANCE, clip_times

__all__ = [
    "ANY_AXES",
    "FIELDS",
    "MAX_CLIP",
    "ClipSpec",
    "clip_starts",
    "frames_name",
    "read_axes",
    "require_axes",
    "spec_differences",
    "spec_of",
    "strided_starts",
]

ANY_AXES = "any"  # of a student that reads samples of all axes; samples have some
MAX_CLIP = 1 << 27  # pixels of all its frames: 128 frames of 1024 x 1024


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """The content of a clip: frames and IMU samples.

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
        imu_axes: Name of the axes of both sensors, see `Recording`; "any", of a model: it reads samples of all axes.
        seconds: Length of the clip.

    Raises:
        DataError: Values are out of range or do not fit together.

    >>> from egodistill.recordings import ClipSpec
    >>> spec = ClipSpec(frames=4, size=64, sampling="first", imu_samples=422)
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
    seconds: float | None = CLIP_SECONDS

    def __post_init__(self) -> None:
        counts = [value for value in (self.frames, self.imu_samples, self.size) if value is not None]
        whole = all(isinstance(value, numbers.Integral) and not isinstance(value, bool) for value in counts)
        if not whole or min(counts) < 0 or self.size == 0 or not all(map(_is_positive, (self.imu_rate, self.seconds))):
            raise DataError(
                f"frames and imu_samples must be whole numbers from 0 on, size a whole number above 0, imu_rate and "
                f"seconds numbers above 0; got {self}"
            )
        if max(self.frames * (self.size or 1) ** 2, self.imu_samples) > MAX_CLIP:
            raise DataError(
                f"a clip may have {MAX_CLIP} pixels or IMU samples; got {self.frames} frames of {self.size} x "
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
        """Return one spec per kind of array in the clip: {"frames": ..., "imu": ...}."""
        frames: dict[str, ClipSpec] = {"frames": dataclasses.replace(self, imu_samples=0)} if self.frames else {}
        return frames | ({"imu": dataclasses.replace(self, frames=0)} if self.imu_samples else {})

    def complete(self) -> ClipSpec:
        """Return the same spec with defaults in place of None."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)} | {"crop": False}
        return dataclasses.replace(self, **{k: v for k, v in defaults.items() if getattr(self, k) is None})

    def record(self) -> dict[str, Any]:
        """Return the fields by name, for files and fingerprints."""
        return dataclasses.asdict(self)

    @property
    def kind(self) -> str:
        """Return the kind of array, "frames" or "imu". Raise DataError unless the spec has exactly one."""
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
    """Return the name of axes and the turn into them, of a name or a turn such as "XZy". Raise DataError."""
    try:
        return cameras.axes_and_turn(text)
    except cameras.CameraError as error:
        raise DataError(f"imu_axes: {error}") from error


def require_axes(source: str, axes: str, spec: ClipSpec) -> None:
    """Raise DataError, which names the source, if the axes of its samples are not those of a clip."""
    if spec.imu_axes not in (ANY_AXES, axes):
        raise DataError(
            f"{source}: the axes of its samples are {axes!r}, those of the clips {spec.imu_axes!r}; if they are the "
            f"same axes, give their name as {named('imu_axes')}; if a rotation makes them so, give the rotation"
        )


# The fields that describe each kind of array; `spec_differences()` compares them.
FIELDS = {
    "frames": ("seconds", "frames", "size", "crop", "sampling", "exact", "tolerance"),
    "imu": ("seconds", "imu_samples", "imu_rate", "imu_axes"),
}


def spec_differences(one: ClipSpec, other: ClipSpec, *, ignore: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Return the fields that differ, {field: (value in one, value in other)}.

    Only kinds of array that both specs have are compared. Fields that are None in either spec, and those of `ignore`,
    are left out.
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

    >>> from egodistill.recordings.spec import ClipSpec, frames_name
    >>> frames_name(ClipSpec(frames=4)), frames_name(ClipSpec(frames=4, sampling="first"))
    ('frames_4', 'frames_4_first')
    """
    rule = "" if spec.sampling in (None, "uniform") else f"_{spec.sampling}"
    return f"frames_{spec.frames}{rule}"


def spec_of(model: Any) -> ClipSpec:
    """Return the spec of the clips that a model reads: its `clip_spec`, or one built from the attributes of a student.

    A model is a student, a teacher, or another object with these attributes. They are `num_frames`, `frame_size`,
    `sampling`, `exact`, `tolerance`, `imu_samples`, `imu_rate`, `imu_axes` and `clip_seconds`. The field of an
    attribute that the model lacks is None. Two have defaults: `num_frames` is 1 if the model reads "frames",
    `imu_samples` 422 if it reads "imu".

    >>> from egodistill import EgoDistill
    >>> from egodistill.recordings.spec import spec_of
    >>> spec = spec_of(EgoDistill.load("student.safetensors"))
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
        seconds=getattr(model, "clip_seconds", None),
    )


def clip_count(length: float, seconds: float) -> int:
    """Return how many clips cover a segment of this length in seconds."""
    return max(1, math.ceil(length / seconds - 1e-9))


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
    count = clip_count(stop - start, seconds)
    if count == 1:
        starts = [(start + stop - seconds) / 2]
    else:
        starts = np.linspace(start, stop - seconds, count).tolist()
    return [max(0.0, min(t, duration - seconds)) for t in starts]


def strided_starts(duration: float, length: float, stride: float) -> list[float]:
    """Return where the clips of a recording start (s): at regular steps, and a last one that ends with the recording.

    As in `clip_starts()`, a recording shorter than a clip has one clip, which starts at 0. Arguments are in seconds.
    """
    starts = [k * stride for k in range(max(1, math.floor((duration - length) / stride + 1 + 1e-6)))]
    last = duration - length
    return [*starts, last] if last > starts[-1] + 1e-3 else starts
