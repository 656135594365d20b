"""A recording, and the clips that models read of it: video, IMU, the clock between them, decoding in one pass.

    from egodistill import clips

    walk = clips.open_recording("walk.mp4", imu_offset=0.2)             # head motion in the GoPro file itself
    spec = clips.ClipSpec(frames=4, size=224, imu_samples=422)          # what a student reads
    clip = walk.clip(12.5, spec)
    print(clip["frames"].shape, clip["frames.times"], clip["imu"].shape)
    for row, found in clips.decode_clips(walk, {0: 0.0, 1: 2.1}, spec.parts()):
        print(row, found)                                               # arrays by name, or the error that it costs

A `Recording` is a video with its IMU on the video's clock; nothing else in this package joins the two. A `ClipSpec` is
what a clip holds, for students, teachers, stores and exported files alike; `differences()` compares two of them. Times
are seconds on the video's own clock, the one a player shows: zero is where the file starts.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from egodistill import CLIP_SECONDS, IMU_RATE, IMU_SAMPLES, DataError
from egodistill.imu import MAX_GAP, CoverageError, Imu, IMUError, read_imu
from egodistill.video import (
    AUDIO_BANDS,
    AUDIO_SECONDS,
    AUDIO_STEPS,
    FrameReader,
    Scaler,
    VideoError,
    VideoInfo,
    audio_at,
    clip_times,
    log_mel,
    lost_frame,
    open_video,
    probe,
)

__all__ = [
    "FIELDS",
    "READERS",
    "ClipSpec",
    "Recording",
    "clip_starts",
    "decode_clips",
    "differences",
    "frames_name",
    "open_recording",
    "spec_of",
]


# ---------------------------------------------------------------------------------------------------------------
# What a clip holds


@dataclasses.dataclass(frozen=True)
class ClipSpec:
    """What a clip holds: pictures, head motion, sound, of so many `seconds`.

    frames        Number of pictures; 0: none.
    size, crop    Their height and width; squeezed to the square, or with `crop` cut out of the centre. If `crop` is not
                  given, a teacher's clips are cut out and all others are squeezed.
    sampling      Which pictures: a rule of `video.clip_times()`, or "ends", evenly from the clip's start to its end.
    exact         False: the nearest key frames instead, which cost far less.
    seed          Of "random".
    imu_samples, imu_rate   Samples of head motion and their rate (Hz); 0: none.
    imu_axes      Axes of both sensors: "file", as each recording stores them.
    audio         Log mel bands of the clip's middle two seconds, as ListenToLook hears them.

    In the spec of a model, None is what the model does not say; it is then decoded by the default. How pixels are
    normalised is the network's business.
    """

    frames: int = 0
    size: int | None = 224
    crop: bool | None = None
    sampling: str | None = "uniform"
    exact: bool | None = True
    seed: int = 0
    imu_samples: int = 0
    imu_rate: float | None = IMU_RATE
    imu_axes: str = "file"
    audio: bool = False
    seconds: float | None = CLIP_SECONDS

    def __post_init__(self) -> None:
        if min(self.frames, self.imu_samples) < 0 or any(
            value is not None and not value > 0 for value in (self.size, self.imu_rate, self.seconds)
        ):
            raise DataError(f"counts are at least 0, sizes, rates and lengths above 0: {self}")
        if self.imu_axes != "file":
            raise DataError(f"imu_axes is 'file', the axes of each recording; got {self.imu_axes!r}")
        if self.frames and self.sampling not in (None, "ends"):
            try:  # say so now, and not for each clip, if the rule does not fit
                clip_times(0.0, self.frames, self.seconds or CLIP_SECONDS, sampling=self.sampling)
            except ValueError as error:
                raise DataError(str(error)) from error

    def parts(self) -> dict[str, ClipSpec]:
        """Return the spec of each kind of array alone: "frames", "imu" and "audio", those that there are."""
        alone = {
            "frames": dataclasses.replace(self, imu_samples=0, audio=False),
            "imu": dataclasses.replace(self, frames=0, audio=False),
            "audio": dataclasses.replace(self, frames=0, imu_samples=0),
        }
        there = {"frames": self.frames, "imu": self.imu_samples, "audio": self.audio}
        return {kind: spec for kind, spec in alone.items() if there[kind]}

    def complete(self) -> ClipSpec:
        """Return the same spec with the defaults in place of what is not said."""
        defaults = {one.name: one.default for one in dataclasses.fields(self)} | {"crop": False}
        return dataclasses.replace(self, **{k: v for k, v in defaults.items() if getattr(self, k) is None})

    @property
    def kind(self) -> str:
        """The kind of array of a spec that has one. Raise DataError for a spec of several, or of none."""
        kinds = list(self.parts())
        if len(kinds) != 1:
            raise DataError(f"one kind of array is needed, not {kinds}; `parts()` of a spec has them by name: {self}")
        return kinds[0]

    def arrays(self, name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return dtype and shape of a clip's arrays of this kind under a name; frames have their times beside them."""
        if self.kind == "imu":
            return {name: ("float32", (self.imu_samples, 6))}
        if self.kind == "audio":
            return {name: ("float32", (AUDIO_STEPS, AUDIO_BANDS))}
        pictures = ("uint8", (self.frames, 3, self.size, self.size))
        return {name: pictures, f"{name}.times": ("float64", (self.frames,))}

    def times(self, start: float, row: int = 0) -> np.ndarray:
        """Return the times of the frames of a clip, ascending; "random" draws those of a row by the seed."""
        if self.sampling == "ends":
            return np.linspace(start, start + self.seconds, self.frames)
        rng = np.random.default_rng([self.seed, row])
        return clip_times(start, self.frames, self.seconds, sampling=self.sampling, rng=rng)


# The fields that describe each kind of array. `differences()` compares them.
FIELDS = {
    "frames": ("seconds", "frames", "size", "crop", "sampling", "exact"),
    "imu": ("seconds", "imu_samples", "imu_rate", "imu_axes"),
    "audio": ("seconds", "audio"),
}


def differences(one: ClipSpec, other: ClipSpec, *, ignore: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Return what differs between the kinds of array that both specs have: {field: (one, other)}.

    Left out are the fields `ignore`, and what either of the two does not say (None).
    """
    fields = dict.fromkeys(
        name for kind in one.parts() if kind in other.parts() for name in FIELDS[kind] if name not in ignore
    )
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in fields}
    return {name: pair for name, pair in pairs.items() if None not in pair and not _same(*pair)}


def _same(one: Any, other: Any) -> bool:
    """Return whether two settings are equal, numbers to rounding: 64 / 30 may have gone through a file."""
    if isinstance(one, float) or isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other


def frames_name(spec: ClipSpec) -> str:
    """Return what a store calls the frames of a student: "frames_4", and with another sampling "frames_4_first"."""
    rule = "" if spec.sampling in (None, "uniform") else f"_{spec.sampling}"
    return f"frames_{spec.frames}{rule}"


def spec_of(model: Any) -> ClipSpec:
    """Return the clip that a model reads: its `clip_spec`, or what the attributes of a student say.

    These are `num_frames`, `frame_size`, `sampling`, `exact`, `imu_samples`, `imu_rate` and `clip_seconds`. A model
    that reads "frames" has one of them, unless it says otherwise.
    """
    found = getattr(model, "clip_spec", None)
    if isinstance(found, ClipSpec):
        return found
    inputs = getattr(model, "inputs", ())
    pictures = "frames" in inputs or "clip" in inputs
    return ClipSpec(
        frames=getattr(model, "num_frames", int("frames" in inputs)) if pictures else 0,
        size=getattr(model, "frame_size", None),
        crop="clip" in inputs,
        sampling=getattr(model, "sampling", None),
        exact=getattr(model, "exact", None),
        imu_samples=getattr(model, "imu_samples", IMU_SAMPLES) if "imu" in inputs else 0,
        imu_rate=getattr(model, "imu_rate", None),
        audio="audio" in inputs,
        seconds=getattr(model, "clip_seconds", None),
    )


# ---------------------------------------------------------------------------------------------------------------
# Recordings


@dataclasses.dataclass(frozen=True)
class Recording:
    """A video, its IMU, the clock between them, and who wore the camera.

    ``imu`` is one CSV, a pair of CSVs (accelerometer, gyroscope), or None: telemetry in the video.
    A sample stamped t was taken at ``imu_offset + imu_stretch * t`` seconds of the video: public
    recordings are off by up to a second (`egodistill check` measures it). ``zero_accel`` is that of
    `read_imu()`: zeros where there is no accelerometer.
    """

    video: str
    imu: str | tuple[str, str] | None = None
    imu_offset: float = 0.0
    imu_stretch: float = 1.0
    wearer: str | None = None
    zero_accel: bool = False

    def __post_init__(self) -> None:  # paths and numpy numbers are welcome
        imu = self.imu
        if isinstance(imu, (tuple, list)):
            imu = tuple(os.fspath(path) for path in imu)
        elif imu is not None:
            imu = os.fspath(imu)
        clock = {"imu_offset": float(self.imu_offset), "imu_stretch": float(self.imu_stretch)}
        for name, value in {"video": os.fspath(self.video), "imu": imu, **clock}.items():
            object.__setattr__(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # without the samples

    @property
    def imu_source(self) -> str | tuple[str, str]:
        """Return the file or files that head motion comes from."""
        return self.video if self.imu is None else self.imu

    def probe(self) -> VideoInfo:
        """Return what the video's header says; it is read once. Raise VideoError if it cannot be read."""
        if "info" not in self.__dict__:
            self.__dict__["info"] = probe(self.video)
        return self.__dict__["info"]

    def motion(self) -> Imu:
        """Return the IMU on the video's clock; it is read once. Raise IMUError that names the file."""
        if "samples" not in self.__dict__:
            found = read_imu(self.imu_source, zero_accel=self.zero_accel)
            self.__dict__["samples"] = found.on_clock(self.imu_offset, self.imu_stretch)
        return self.__dict__["samples"]

    def clip(self, start: float, spec: ClipSpec, **limits: Any) -> dict[str, np.ndarray]:
        """Return what a model of this spec reads of the clip that starts there: "frames", "imu", "audio".

        "frames.times" are the times of the frames that are shown. ``limits`` are those of `decode_clips()`. Raise
        VideoError, IMUError or DataError.
        """
        ((_, found),) = decode_clips(self, {0: start}, spec.parts(), **limits)
        if isinstance(found, Exception):
            raise found
        return found


def tables_beside(path: Path) -> Recording | None:
    """Read a video with a pair of IMU tables beside it, NAME-accl.csv and NAME-gyro.csv."""
    pair = tuple(path.with_name(f"{path.stem}-{sensor}.csv") for sensor in ("accl", "gyro"))
    return Recording(str(path), pair) if all(table.is_file() for table in pair) else None


# Asked in turn by `open_recording()`: the path of a file -> the recording that it is, or None. A camera of your own is
# one more function in front of these.
READERS: list[Callable[[Path], Recording | None]] = [tables_beside]


def open_recording(
    path: str | os.PathLike | Recording,
    imu: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    *,
    imu_offset: float = 0.0,
    imu_stretch: float = 1.0,
    wearer: str | None = None,
    zero_accel: bool = False,
) -> Recording:
    """Return the recording that a file is. Without `imu` the `READERS` are asked in turn; then it is in the video.

    The other arguments are the fields of `Recording`; a clock that a reader knows is corrected by the one given. A
    recording is returned as it is, and nothing beside it is accepted.
    """
    given = {"imu_offset": imu_offset, "imu_stretch": imu_stretch, "wearer": wearer, "zero_accel": zero_accel}
    if isinstance(path, Recording):
        if (imu, *given.values()) != (None, 0.0, 1.0, None, False):
            raise DataError(f"{path.video}: a Recording has its own IMU and clock; give a path beside these arguments")
        return path
    found = None
    if imu is None:
        found = next(filter(None, (reader(Path(path)) for reader in READERS)), None)
    if found is None:
        return Recording(path, imu, **given)
    return dataclasses.replace(
        found,
        imu_offset=imu_offset + imu_stretch * found.imu_offset,
        imu_stretch=imu_stretch * found.imu_stretch,
        wearer=wearer or found.wearer,
        zero_accel=zero_accel or found.zero_accel,
    )


# ---------------------------------------------------------------------------------------------------------------
# Clips of a recording


def clip_starts(start: float, stop: float, duration: float, seconds: float = CLIP_SECONDS) -> list[float]:
    """Return the starts of the clips that cover a segment of a video of ``duration`` seconds.

    ceil(length / seconds) clips, at least one, spread evenly from the segment's start to its end.
    A segment shorter than a clip gets one clip around its centre. Clips that would reach over an
    end of the video are moved inside; in a video shorter than a clip the clip starts at 0.
    Raise DataError for a segment that is empty or lies behind the video's end.
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


def decode_clips(
    recording: Recording,
    starts: Mapping[int, float],
    specs: Mapping[str, ClipSpec],
    *,
    min_coverage: float = 0.95,
    max_gap: float = MAX_GAP,
    threads: int = 1,
) -> Iterator[tuple[int, dict[str, np.ndarray] | Exception]]:
    """Read clips of a recording in one pass over it: yield each row with its arrays, or with the error that it costs.

    ``starts`` has the start in seconds of each row, ``specs`` a spec of one kind for each array (see
    `ClipSpec.parts()`). Frames come with the times at which those that are shown begin, as "NAME.times". Clips come in
    the order of their ends, errors as soon as they are known; only clips that overlap are held in memory. A clip that
    is longer than its video ends with the last frame. A clip of which a sensor covers less than ``min_coverage``
    without gaps over ``max_gap`` seconds fails. ``threads`` help to decode, 0 for FFmpeg's choice.
    """
    specs = {name: spec.complete() for name, spec in specs.items()}
    return iter(_Decoding(recording, starts, specs, min_coverage, max_gap, threads))


@dataclasses.dataclass
class _Decoding:
    """One pass over a recording. `open` holds the clips that are not complete, and how many pieces each lacks."""

    recording: Recording
    starts: Mapping[int, float]
    specs: Mapping[str, ClipSpec]
    min_coverage: float
    max_gap: float
    threads: int

    def __iter__(self) -> Iterator[tuple[int, dict[str, np.ndarray] | Exception]]:
        self.kinds = {name: spec.kind for name, spec in self.specs.items()}
        left = dict.fromkeys(self.starts)  # ordered, and quick to remove from
        try:
            for row, found in self._clips():
                del left[row]
                yield row, found
        except (VideoError, IMUError) as error:  # of the recording as a whole, or from some time on
            for row in left:
                yield row, error

    def _clips(self) -> Iterator[tuple[int, dict[str, np.ndarray] | Exception]]:
        info, kinds = self.recording.probe(), set(self.kinds.values())
        if "audio" in kinds and not info.has_audio:
            raise VideoError(f"{self.recording.video}: has no audio")
        if "imu" in kinds:
            self.recording.motion()  # an error of the whole recording, not of one clip
        lacking: dict[int, int] = {}
        rows: dict[int, dict[str, np.ndarray]] = {}
        pieces = sum(spec.frames if self.kinds[name] == "frames" else 1 for name, spec in self.specs.items())
        windows = sum(kind == "imu" for kind in self.kinds.values())
        for row, start in self.starts.items():
            try:
                self._windows(start)
            except CoverageError as error:
                yield row, CoverageError(f"{_names(self.recording.imu_source)}: {error}")
            else:
                lacking[row] = pieces - windows
        for row in [row for row, count in lacking.items() if not count]:  # head motion alone
            del lacking[row]
            yield row, self._windows(self.starts[row])
        streams = [self._pictures(list(lacking), info.duration, exact) for exact in (True, False)]
        streams += [self._sounds(list(lacking), name) for name, kind in self.kinds.items() if kind == "audio"]
        # Each stream is in the order of its times, so that together they hold no more than the clips of one moment.
        for _, row, name, place, piece in heapq.merge(*streams, key=lambda piece: piece[0]):
            if row not in lacking:  # failed before
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
        """Return the windows of head motion of a clip; raise CoverageError."""
        limits = {"min_coverage": self.min_coverage, "max_gap": self.max_gap}
        return {
            name: self.recording.motion().window(start, spec.imu_samples, spec.imu_rate, **limits)
            for name, spec in self.specs.items()
            if self.kinds[name] == "imu"
        }

    def _sounds(self, rows: list[int], name: str) -> Iterator[tuple[float, int, str, None, Callable[[], Any]]]:
        begins = [self.starts[row] + (self.specs[name].seconds - AUDIO_SECONDS) / 2 for row in rows]
        for index, sound in audio_at(self.recording.video, begins) if rows else ():
            error = VideoError(f"{self.recording.video}: sound is missing near {begins[index]:.3f} s")
            yield begins[index], rows[index], name, None, _Piece(error if sound is None else sound, log_mel)

    def _pictures(
        self, rows: list[int], duration: float, exact: bool
    ) -> Iterator[tuple[float, int, str, int, Callable[[], Any]]]:
        """Yield the frames that are to be exact, or those that are to be the nearest key frames."""
        specs = {name: s for name, s in self.specs.items() if self.kinds[name] == "frames" and s.exact is exact}
        wanted = [
            (min(float(t), duration), row, name, place)
            for row in rows
            for name, spec in specs.items()
            for place, t in enumerate(spec.times(self.starts[row], row))
        ]
        if not wanted:
            return
        framers = {key: _Framer(Scaler(*key)) for key in {(spec.size, spec.crop) for spec in specs.values()}}
        video = self.recording.video
        with open_video(video) as container:
            reader = FrameReader(container, video)
            for index, frame in reader.frames([t for t, *_ in wanted], exact=exact, threads=self.threads):
                seconds, row, name, place = wanted[index]
                found = lost_frame(video, seconds) if frame is None else (frame, reader)
                framer = framers[specs[name].size, specs[name].crop]
                yield seconds, row, name, place, _Piece(found, framer)


@dataclasses.dataclass
class _Piece:
    """A piece of a clip that is made when it is needed: a clip that has failed before needs none of its pictures."""

    source: Any
    make: Callable[[Any], Any]

    def __call__(self) -> Any:
        return self.source if isinstance(self.source, Exception) else self.make(self.source)


@dataclasses.dataclass
class _Framer:
    """Makes a picture, and the time from which it is shown, of a decoded frame and what has decoded it."""

    scaler: Scaler

    def __call__(self, found: tuple[Any, FrameReader]) -> tuple[np.ndarray, float]:
        frame, reader = found
        return self.scaler(frame), float(frame.pts * reader.stream.time_base) - reader.zero


def _names(source: str | Iterable[str]) -> str:
    return source if isinstance(source, str) else " and ".join(source)
