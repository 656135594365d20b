"""Read accelerometer and gyroscope samples with their time stamps, and cut windows. Needs only numpy; copy it alone.

    import imu      # or: from egodistill import imu

    motion = imu.read_samples("walk.csv")       # or a pair of tables, or a GoPro video (with gpmf.py beside this file)
    print(motion.notes)                         # what is unusual about the recording
    window = motion.window(12.5)                # float32 [422, 6]: m/s2 and rad/s at 198 Hz, from 12.5 s on

Times are seconds on the video's own clock, the one a player shows: zero is the start of the file.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import inspect
import io
import json
import math
import os
import re
import traceback
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path

import numpy as np

__all__ = [
    "IMU_READERS",
    "MAX_READING",
    "MAX_GAP",
    "CoverageError",
    "IMUError",
    "Imu",
    "failure",
    "read_samples",
    "table_columns",
]


class IMUError(ValueError):
    """An IMU recording that cannot be used. The message names the file."""


class CoverageError(IMUError):
    """A requested window that the IMU does not cover."""


MAX_READING = 1e30  # windows are float32
MAX_GAP = 0.05  # seconds: samples further apart than this have a gap between them (so a sensor needs 20 Hz)

SLOWEST, FASTEST = 0.2, 5e-5  # seconds between samples: 5 Hz and 20 kHz; beyond, times are in another unit
AVERAGED = 1.5  # times the rate of a window: the samples of a faster sensor are averaged


@dataclasses.dataclass(eq=False)
class Imu:
    """Samples of an accelerometer and of a gyroscope, each with its own times.

    Attributes:
        accel_time: Times of the accelerometer's samples, float64 [n], ascending, in seconds on the video's clock.
        accel: Accelerometer, [n, 3] in m/s2, gravity included.
        gyro_time: Times of the gyroscope's samples, float64 [m], like `accel_time`.
        gyro: Gyroscope, [m, 3] in rad/s.
        notes: What is unusual about the recording, such as ignored rows or unknown axes.
        axes: Name of the axes: "gopro" (X to the left, Y to the user, Z up) unless a program gives another.
        device: Name or number of the camera, where the file has one.
        noted: Names of states that notes tell already, such as "accelerometer dead", see `recordings.sensors.State`.

    Raises:
        IMUError: Times and readings are not of these shapes.
    """

    accel_time: np.ndarray
    accel: np.ndarray
    gyro_time: np.ndarray
    gyro: np.ndarray
    notes: tuple[str, ...] = ()
    axes: str = "gopro"
    device: str = ""
    noted: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("accel", "gyro"):
            stamps, values = np.asarray(getattr(self, f"{name}_time")), np.asarray(getattr(self, name))
            if stamps.ndim != 1 or (values.shape != (len(stamps), 3) and stamps.size + values.size):
                shapes = f"{list(stamps.shape)} and {list(values.shape)}"
                raise IMUError(f"{name}_time and {name} must be arrays [n] and [n, 3]; got {shapes}")
            setattr(self, f"{name}_time", stamps)
            setattr(self, name, values)

    @functools.cached_property
    def median_steps(self) -> tuple[float, float]:
        """Return the median step between two samples in seconds: (accelerometer, gyroscope)."""
        steps = (np.diff(stamps) for stamps in (self.accel_time, self.gyro_time))
        accel, gyro = (float(np.median(step)) if len(step) else 0.0 for step in steps)
        return accel, gyro

    def on_clock(self, offset: float = 0.0, stretch: float = 1.0) -> Imu:
        """Return the same samples with every time t replaced by `offset + stretch * t`.

        Args:
            offset: Time of the old clock's zero on the new clock, in seconds.
            stretch: Seconds of the new clock per second of the old one.
        """
        if (offset, stretch) == (0.0, 1.0):
            return self
        accel_time, gyro_time = (offset + stretch * t for t in (self.accel_time, self.gyro_time))
        return dataclasses.replace(self, accel_time=accel_time, gyro_time=gyro_time)

    def without_bias(self) -> Imu:
        """Return the samples without the gyroscope's bias, estimated where the head is most at rest.

        The bias is the median of the mean readings of the stillest tenth of all seconds, those with the least variance.
        Remove it for students that read the head's net turn (`IMUSpectrum`) if the sensor is not calibrated: a bias of
        0.05 rad/s turns a clip of 2.1 s by 6 degrees.

        Raises:
            IMUError: The recording has less than a minute of gyroscope samples.

        >>> from egodistill import imu
        >>> imu.read_samples("walk.csv").without_bias()
        Traceback (most recent call last):
        ...
        egodistill.imu.IMUError: estimating the bias of a gyroscope takes a minute of samples; there are 24 s. Use the
        samples as they are, or subtract a bias that you know from Imu.gyro
        """
        number = np.floor(self.gyro_time - self.gyro_time[:1])
        seconds = np.split(self.gyro, np.flatnonzero(np.diff(number)) + 1) if len(number) else []
        seconds = [one for one in seconds if len(one) >= 1 / SLOWEST]
        if len(seconds) < 60:
            raise IMUError(
                f"estimating the bias of a gyroscope takes a minute of samples; there are {len(seconds)} s. Use the "
                f"samples as they are, or subtract a bias that you know from Imu.gyro"
            )
        seconds.sort(key=lambda one: float(one.var(0).sum()))
        rest = [one.mean(0) for one in seconds[: len(seconds) // 10]]
        return dataclasses.replace(self, gyro=self.gyro - np.median(rest, axis=0))

    def in_axes(self, name: str, turn: np.ndarray | None = None) -> Imu:
        """Return the samples under another name of their axes.

        Args:
            name: The new name.
            turn: [3, 3], whose rows are the new axes, to turn the samples; None: they stay as they are.

        >>> from egodistill import cameras, imu
        >>> motion = imu.read_samples("walk.csv")
        >>> turned = motion.in_axes(*cameras.axes_and_turn("XZy"))
        >>> turned.axes, bool((turned.gyro[:, 1] == motion.gyro[:, 2]).all())
        ('gopro', True)
        """
        if turn is None:
            return dataclasses.replace(self, axes=name)
        return dataclasses.replace(self, accel=self.accel @ turn.T, gyro=self.gyro @ turn.T, axes=name)

    def inside(self, duration: float) -> Imu:
        """Return the samples without those more than 1 s before or after a video; note how many.

        Args:
            duration: Length of the video in seconds.
        """
        accel, gyro = ((stamps >= -1) & (stamps <= duration + 1) for stamps in (self.accel_time, self.gyro_time))
        lost = max(int(np.count_nonzero(~kept)) for kept in (accel, gyro))
        notes = (f"{lost} samples are more than a second outside the video",) if lost else ()
        times = {"accel_time": self.accel_time[accel], "gyro_time": self.gyro_time[gyro]}
        return dataclasses.replace(
            self, **times, accel=self.accel[accel], gyro=self.gyro[gyro], notes=self.notes + notes
        )

    def covers(self, times: np.ndarray, *, max_gap: float = MAX_GAP) -> np.ndarray:
        """Return which times are between two samples that are close enough, bool [n, 2]: accelerometer, gyroscope.

        Args:
            times: [n], ascending, in seconds.
            max_gap: Largest distance between the two samples, in seconds.

        >>> from egodistill import imu
        >>> motion = imu.read_samples("walk.csv")
        >>> motion.covers([-1.0, 1.0]).tolist()
        [[False, False], [True, True]]
        """
        columns = []
        for stamps in (self.accel_time, self.gyro_time):
            first = max(np.searchsorted(stamps, times[0], side="right") - 1, 0)
            last = np.searchsorted(stamps, times[-1]) + 1
            columns.append(_covered(stamps[first:last], times, max_gap))
        return np.stack(columns, axis=1)

    def window(
        self,
        start: float,
        samples: int = 422,
        rate: float = 198.0,
        *,
        min_coverage: float = 0.95,
        max_gap: float = MAX_GAP,
    ) -> np.ndarray:
        """Return both sensors at `start + i / rate`, float32 [samples, 6]: accelerometer, gyroscope.

        Interpolate linearly between the real time stamps. Of a sensor with more than 1.5 times `rate` samples per
        second, a point is the mean of those less than 1 / rate away, with weights that fall linearly to zero: a
        low-pass without delay, which passes 97 % at a tenth of `rate`, 41 % at half of it, nothing at `rate`.
        Points that are not covered (see `covers()`) are interpolated across the gap or hold the last value.

        Args:
            start: Time of the first point, in seconds.
            samples: Number of points.
            rate: Points per second.
            min_coverage: Share of the points that each sensor must cover.
            max_gap: As in `covers()`, in seconds.

        Raises:
            CoverageError: A sensor covers less than `min_coverage` of the points.

        >>> from egodistill import imu
        >>> motion = imu.read_samples("walk.csv")
        >>> window = motion.window(1.0)
        >>> window.shape, window.dtype
        ((422, 6), dtype('float32'))
        >>> motion.window(22.0)
        Traceback (most recent call last):
        ...
        egodistill.imu.CoverageError: the accelerometer covers 65.4% of 22.000 to 24.126 s (95% required); no samples
        from 23.394 to 24.126 s
        """
        grid = start + np.arange(samples) / rate
        window = np.empty((samples, 6), np.float32)
        covered = self.covers(grid, max_gap=max_gap)
        sensors = (("accelerometer", self.accel_time, self.accel), ("gyroscope", self.gyro_time, self.gyro))
        for i, (sensor, stamps, values) in enumerate(sensors):
            if (share := covered[:, i].mean()) < min_coverage:
                dt = self.median_steps[i]
                why = f"; its samples are {dt:.3f} s apart, over max_gap={max_gap} (--max-gap)" if dt > max_gap else ""
                if len(stamps) and (stamps[-1] < grid[0] or stamps[0] > grid[-1]):
                    where = f"{stamps[0]:.1f} to {stamps[-1]:.1f} s"
                    why += f"; its samples are from {where}; is their clock right (`egodistill check`)?"
                raise CoverageError(
                    f"the {sensor} covers {share:.1%} of {grid[0]:.3f} to {grid[-1]:.3f} s"
                    f" ({100 * min_coverage:g}% required); {_longest_gap(grid, covered[:, i])}{why}"
                )
            window[:, 3 * i : 3 * i + 3] = _resample(stamps, values, grid, rate)
        return window


def _resample(stamps: np.ndarray, values: np.ndarray, grid: np.ndarray, rate: float) -> np.ndarray:
    """Return the readings of a sensor at the points of a grid, [n, 3]; see `Imu.window()`."""
    columns = range(values.shape[1])
    count = np.searchsorted(stamps, grid[-1], side="right") - np.searchsorted(stamps, grid[0])
    if count <= AVERAGED * len(grid):
        first = max(np.searchsorted(stamps, grid[0], side="right") - 1, 0)
        last = np.searchsorted(stamps, grid[-1]) + 1
        return np.stack([np.interp(grid, stamps[first:last], values[first:last, k]) for k in columns], axis=1)
    first = np.searchsorted(stamps, grid[0] - 1 / rate, side="right")
    last = np.searchsorted(stamps, grid[-1] + 1 / rate)
    places = (stamps[first:last] - grid[0]) * rate  # each sample lies between two points, and is shared between them
    before = np.minimum(np.floor(places), len(grid) - 1).astype(int)  # rounding may reach the next point
    share = places - before

    def sums(x: np.ndarray | float) -> np.ndarray:
        both = [np.bincount(before + k, part * x, len(grid) + 2) for k, part in ((1, 1 - share), (2, share))]
        return (both[0] + both[1])[1:-1]

    weights = sums(np.ones(len(places)))
    seen = weights > 0
    centres = sums(places)[seen] / weights[seen]  # of the samples of a point; in a gap there are none
    means = np.stack([sums(values[first:last, k])[seen] / weights[seen] for k in columns], axis=1)
    points = np.arange(len(grid))
    found = np.stack([np.interp(points, centres, mean) for mean in means.T], axis=1)
    for end, next_one in ((0, 1), (-1, -2)):  # the first and last point have no samples on one side
        step = centres[next_one] - centres[end] if len(centres) > 1 else 0.0  # 0 beside a gap: one sample for both
        if step and abs(off := points[end] - centres[end]) < 0.5:
            found[end] = means[end] + off * (means[next_one] - means[end]) / step
    return found


def _covered(stamps: np.ndarray, grid: np.ndarray, max_gap: float) -> np.ndarray:
    """Return whether each point of the grid is between two samples at most `max_gap` apart."""
    if len(stamps) < 2:
        return np.zeros(len(grid), bool)
    longest = max_gap + 1e-6  # stamps are rounded
    if stamps[0] <= grid[0] and grid[-1] <= stamps[-1] and np.diff(stamps).max() <= longest:
        return np.ones(len(grid), bool)  # as is usual
    after = np.clip(np.searchsorted(stamps, grid), 1, len(stamps) - 1)
    before = after - 1
    inside = (stamps[before] <= grid) & (grid <= stamps[after])
    return inside & (stamps[after] - stamps[before] <= longest)


def _longest_gap(grid: np.ndarray, covered: np.ndarray) -> str:
    edges = np.flatnonzero(np.diff(np.concatenate(([1], covered, [1])).astype(int)))
    starts, stops = edges[::2], edges[1::2]
    k = np.argmax(stops - starts)
    return f"no samples from {grid[starts[k]]:.3f} to {grid[stops[k] - 1]:.3f} s"


class _Formats(collections.UserDict[str, Callable[[Path], Imu]]):
    """Functions by suffix. Raise IMUError for what is no suffix of a file in small letters."""

    def __setitem__(self, suffix: str, function: Callable[[Path], Imu]) -> None:
        if not isinstance(suffix, str) or Path(f"x{suffix.lower()}").suffix != suffix:
            raise IMUError(f"IMU_READERS[{suffix!r}]: a suffix is a point and small letters, such as '.log'")
        super().__setitem__(suffix, function)


# Formats of one's own: {suffix in small letters, such as ".log": path of a file -> its samples, in seconds, m/s2 and
# rad/s}. `read_samples()` checks what the function returns.
IMU_READERS: MutableMapping[str, Callable[[Path], Imu]] = _Formats()


def read_samples(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    zero_accel: bool = False,
) -> Imu:
    """Read an IMU recording: a CSV, a pair of CSVs (accelerometer, gyroscope), a log, or telemetry in a video.

    Columns of a CSV, in any order, upper or lower case; other columns are ignored:

    - EPIC-KITCHENS: `Milliseconds` with `AcclX,AcclY,AcclZ` and / or `GyroX,GyroY,GyroZ`
    - Ego4D: `canonical_timestamp_ms,gyro_x,gyro_y,gyro_z,accl_x,accl_y,accl_z`
    - your own: `time,ax,ay,az,gx,gy,gz`, with the time in seconds, m/s2 and rad/s

    A row without a number in a sensor's columns ('', NULL, nan) is not a sample of that sensor. Rows without a usable
    time (none, or beyond eleven days) are left out. Samples are sorted by time, and repeated times are removed; the
    axes stay those of the file, which should be a GoPro's. `.notes` of the result reports all of this.

    A log of Gyroflow (.gcsv) and the table imu.csv of a Pupil Labs Neon are turned into these units; see `cameras`. The
    axes of these, and of telemetry in a GoPro video, are the camera's: X to the left, Y to the user, Z up.

    A file of JSON lines (.jsonl) has samples as `live --imu -` takes them, {"time": 1.25, "accel": [x, y, z], "gyro":
    [x, y, z]}. Lines without a time are ignored, as in the log of the page in examples/web.

    A file with a suffix in `IMU_READERS` is read by the function there, and what it returns is checked like a table.

    Units of readings are not judged; `data.read_imu()` does that, and also reads recordings of Project Aria.

    Args:
        source: One file, or a pair of CSVs.
        zero_accel: Return zeros at the gyroscope's times if there is no accelerometer, as in some Ego4D recordings.

    Raises:
        IMUError: The recording cannot be read, lacks a sensor, or has times in another unit. The message names it.

    >>> from egodistill import imu
    >>> motion = imu.read_samples("walk.csv")
    >>> motion.accel.shape, motion.gyro.shape, motion.notes
    ((4580, 3), (4580, 3), ())
    >>> [f"{1 / step:.1f} Hz" for step in motion.median_steps]
    ['195.7 Hz', '195.7 Hz']
    """
    if isinstance(source, (str, os.PathLike)):
        source = Path(source)
        if (own := IMU_READERS.get(source.suffix.lower())) is not None:
            return _call_own(source, own, zero_accel)
    return _read(source, zero_accel)


def failure(function: Callable, error: Exception) -> str:
    """Return how a function of one's own has failed, such as "mine() fails in line 3 of mine.py (ValueError: ...)".

    Args:
        function: The function.
        error: What it raised.
    """
    file = getattr(getattr(inspect.unwrap(function), "__code__", None), "co_filename", None)
    lines = [place.lineno for place in traceback.extract_tb(error.__traceback__) if place.filename == file]
    where = f" in line {lines[-1]} of {Path(str(file)).name}" if lines else ""
    return f"{_name(function)}() fails{where} ({type(error).__name__}: {' '.join(str(error).split())})"


def _name(function: Callable) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


def _call_own(source: Path, function: Callable[[Path], Imu], zero_accel: bool) -> Imu:
    """Return what a function of one's own returns for a file, checked like a table.

    With `zero_accel` it may return no accelerometer samples, which then are zeros. Raise IMUError, which names file and
    function, for an exception in it and for what is not samples.
    """
    where, samples = f"{source}: {_name(function)}()", {}
    try:
        found = function(source)
        if isinstance(found, Imu):
            fields = ("accel_time", "accel", "gyro_time", "gyro")
            samples = {field: np.asarray(getattr(found, field), np.float64) for field in fields}
    except Exception as error:  # code of one's own can raise any error
        raise IMUError(f"{source}: {failure(function, error)}") from error
    if not samples:
        raise IMUError(f"{where} returns {type(found).__name__}, not Imu")
    notes = [found.notes] if isinstance(found.notes, str) else [*(found.notes or ())]
    for sensor, name in (("accelerometer", "accel"), ("gyroscope", "gyro")):
        stamps, values = samples[f"{name}_time"], samples[name]
        if name == "accel" and not stamps.size and zero_accel:
            continue
        if len(stamps) < 2:
            hint = "; with zero_accel (--zero-accel), zeros take the place of one" if name == "accel" else ""
            raise IMUError(f"{where} returns {len(stamps)} {sensor} samples, which must be at least 2{hint}")
        finite = (np.abs(stamps) < _LATEST_STAMP).all() and (np.abs(values) < MAX_READING).all()  # NaN: False
        if not (finite and (np.diff(stamps) > 0).all()):
            what = "times that do not ascend" if finite else "readings that are not finite, or times beyond eleven days"
            raise IMUError(f"{where} returns {sensor} {what}")
        _require_rate(where, sensor, stamps, f"{name}_time", 1.0)
    found = dataclasses.replace(found, **samples, notes=tuple(notes))
    return found if samples["accel_time"].size else _with_zeros(found)


def _with_zeros(motion: Imu) -> Imu:
    """Return samples of a gyroscope alone with zeros in place of an accelerometer's, and a note."""
    notes, noted = (*motion.notes, "no accelerometer: its readings are zeros"), (*motion.noted, "accelerometer dead")
    times, zeros = motion.gyro_time, np.zeros_like(motion.gyro)
    return dataclasses.replace(motion, accel_time=times, accel=zeros, notes=notes, noted=noted)


def _read(source: str | os.PathLike | Sequence[str | os.PathLike], zero_accel: bool) -> Imu:
    """Return the samples of `read_samples()`, with the notes about the files and about each sensor alone."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.suffix.lower() == ".gcsv":
            return _read_log(path, "read_gyroflow", zero_accel)
        if path.suffix.lower() == ".vrs":
            raise IMUError(f"{path}: a recording of Project Aria; `egodistill convert` writes its IMU as a table")
        if path.suffix.lower() not in (".csv", ".jsonl"):
            return _read_telemetry(path)
        if "timestamp [ns]" in _first_line(path).lower():
            return _read_log(path, "read_neon", zero_accel)
        files = [(path, ("accelerometer", "gyroscope"))]
    elif isinstance(source, (tuple, list)) and len(source) == 2:
        files = [(Path(source[0]), ("accelerometer",)), (Path(source[1]), ("gyroscope",))]
    else:
        given = source if isinstance(source, (tuple, list)) else type(source).__name__
        raise IMUError(f"an IMU source must be one file or a pair of files, not {given}")
    samples: list[np.ndarray] = []
    notes: list[str] = []
    for path, sensors in files:
        samples += _read_columns(path, sensors, notes, may_lack_accel=zero_accel)
    motion = Imu(*samples, notes=tuple(notes))
    return motion if len(motion.accel) else _with_zeros(motion)


_IMU_COLUMNS = (  # the time, its unit in seconds, the axes of each sensor; in lower case
    ("milliseconds", 1e-3, {"accelerometer": ("acclx", "accly", "acclz"), "gyroscope": ("gyrox", "gyroy", "gyroz")}),
    (
        "canonical_timestamp_ms",
        1e-3,
        {"accelerometer": ("accl_x", "accl_y", "accl_z"), "gyroscope": ("gyro_x", "gyro_y", "gyro_z")},
    ),
    ("time", 1.0, {"accelerometer": ("ax", "ay", "az"), "gyroscope": ("gx", "gy", "gz")}),
)
MAX_HEADER = 1 << 16  # characters
_LATEST_STAMP = 1e6  # seconds, eleven days: anything beyond is not a time since the start of the video


def table_columns(
    path: str | os.PathLike,
    header: str,
    sensors: Sequence[str] = ("accelerometer", "gyroscope"),
    *,
    may_lack_accel: bool = False,
) -> tuple[str, float, list[int]]:
    """Return the time column of a table, its unit in seconds, and the places of the time and each sensor's x, y, z.

    Args:
        path: The table, for the message of an error.
        header: The first line of the table, in one of the layouts of `read_samples()`.
        sensors: The sensors whose columns are wanted.
        may_lack_accel: Return the places of the other sensor alone for a header without any accelerometer column.

    Raises:
        IMUError: The header lacks one of these columns, or has it twice. The message names the file.

    >>> from egodistill import imu
    >>> imu.table_columns("walk.csv", "gx,gy,gz,time,ax,ay,az")
    ('time', 1.0, [3, 4, 5, 6, 0, 1, 2])
    """
    names, shown = [name.strip().strip('"').lower() for name in header.split(",")], repr(header.strip()[:200])
    layouts = [layout for layout in _IMU_COLUMNS if layout[0] in names]
    if not layouts:
        for sign in ";\t":
            cells = {name.strip().strip('"').lower() for name in header.split(sign)}
            if any(layout[0] in cells for layout in _IMU_COLUMNS):
                raise IMUError(f"{path}: its cells are separated by {sign!r}, must be ','")
        raise IMUError(
            f"{path}: no time column in the header {shown}; name its columns time,ax,ay,az,gx,gy,gz (seconds of the "
            f"video, m/s2 including gravity, rad/s), or as Ego4D or EPIC-KITCHENS do"
        )
    time_column, unit, axes = layouts[0]
    columns = [time_column]
    for sensor in sensors:
        if missing := [axis for axis in axes[sensor] if axis not in names]:
            optional = sensor == "accelerometer" and len(missing) == len(axes[sensor]) and len(sensors) > 1
            if optional and may_lack_accel:
                continue
            hint = "; with zero_accel (--zero-accel), zeros take their place" if optional else ""
            if sensor == "accelerometer" and len(sensors) == 1 and set(axes["gyroscope"]) <= set(names):
                hint = "; of a pair of tables, the accelerometer's is the first"
            raise IMUError(f"{path}: no {sensor} column {', '.join(missing)} in the header {shown}{hint}")
        columns += axes[sensor]
    for name in columns:
        if (count := names.count(name)) > 1:
            raise IMUError(
                f"{path}: the column {name} appears {count} times in the header {shown}; rename or delete one"
            )
    return time_column, unit, [names.index(name) for name in columns]


def _first_line(path: Path) -> str:
    """Return the start of a file; "" if it cannot be read, which `_read_columns()` then explains."""
    if not path.is_file():  # opening a pipe would wait for a writer
        return ""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            return file.readline(MAX_HEADER)
    except OSError:
        return ""


def _read_columns(path: Path, sensors: Sequence[str], notes: list[str], may_lack_accel: bool) -> list[np.ndarray]:
    """Return times and values of each requested sensor; append what is unusual to `notes`."""
    if path.exists() and not path.is_file():  # a pipe has no end, or waits for a writer
        raise IMUError(f"{path}: a {'folder' if path.is_dir() else 'pipe or device'}, not a regular file")
    read = _json_lines if path.suffix.lower() == ".jsonl" else _table
    try:
        time_column, unit, table = read(path, sensors, may_lack_accel)
    except OSError as error:
        raise IMUError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise IMUError(f"{path}: not a UTF-8 text file: {error}") from error
    lacks_accel = table.shape[1] < 1 + 3 * len(sensors)
    stamps = table[:, 0] * unit
    timely = np.abs(stamps) < _LATEST_STAMP  # NaN: False
    if absurd := len(timely) - np.count_nonzero(timely):
        notes.append(f"{path.name}: {absurd} of {len(timely)} rows have no usable time")
    if (np.diff(stamps[timely]) < 0).any():
        notes.append(f"{path.name}: the rows are not sorted by time")
    result = [np.empty(0), np.empty((0, 3))] if lacks_accel else []
    for i, sensor in enumerate(sensors[1:] if lacks_accel else sensors):
        values = table[:, 1 + 3 * i : 4 + 3 * i]
        inside = np.abs(values) < MAX_READING  # NaN: False
        usable = timely & inside[:, 0] & inside[:, 1] & inside[:, 2]
        if 0 < (empty := np.count_nonzero(timely & ~usable)) < np.count_nonzero(timely):
            notes.append(f"{path.name}: {empty} of {len(timely)} rows have no {sensor}")
        found, chosen = np.unique(stamps[usable], return_index=True)
        if repeated := np.count_nonzero(usable) - len(found):
            notes.append(f"{path.name}: {repeated} {sensor} samples repeat a time and are ignored")
        if len(found) < 2 and not (may_lack_accel and sensor == "accelerometer" and not len(found)):
            if np.count_nonzero(timely) < 2 <= len(timely):
                raise IMUError(
                    f"{path}: the times in column {time_column} are over eleven days from the video's start; if they "
                    f"are Unix times, subtract that of the video's start; if they are nanoseconds, divide them by 1e9"
                )
            lacks = sensor == "accelerometer" and not len(found)
            hint = "; with zero_accel (--zero-accel), zeros take their place" if lacks else ""
            raise IMUError(f"{path}: {len(found)} usable {sensor} samples in {len(table)} rows{hint}")
        values = np.ascontiguousarray(values[usable][chosen])
        if len(found):
            _require_rate(path, sensor, found, time_column, unit)
        result += [found, values]
    return result


def _table(path: Path, sensors: Sequence[str], may_lack_accel: bool) -> tuple[str, float, np.ndarray]:
    """Return the time column of a CSV, its unit in seconds, and the columns of the time and the sensors, [n, 1 + 3 k].

    Without the columns of an accelerometer that may be lacking, k is that of the other sensor.
    """
    with open(path, encoding="utf-8-sig") as file:
        first = file.readline(MAX_HEADER)
        empty = not any(line.strip() for line in file)
    time_column, unit, columns = table_columns(path, first, sensors, may_lack_accel=may_lack_accel)
    if empty:
        raise IMUError(f"{path}: a header but no samples")
    return time_column, unit, _numbers(path, columns)


def _json_lines(path: Path, sensors: Sequence[str], may_lack_accel: bool) -> tuple[str, float, np.ndarray]:
    """Return what `_table()` returns, of JSON lines. Lines without a time, such as frames of a log, are not samples."""
    rows, unit = [], 1.0
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("not an object")
                if "time" not in row:
                    continue
                if not rows and isinstance(row["time"], int):
                    unit = 1e-9
                readings = [[math.nan] * 3 if row.get(name) is None else row[name] for name in ("accel", "gyro")]
                rows.append([float(x) for x in (row["time"], *readings[0], *readings[1])])
                if len(rows[-1]) != 7:
                    raise ValueError("three numbers")
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                form = '{"time": 1.25, "accel": [x, y, z], "gyro": [x, y, z]}'
                raise IMUError(f"{path}: line {number} is not a sample such as {form}: {line[:80]!r}") from error
    if not rows:
        raise IMUError(f'{path}: no samples: no line has a "time"')
    table = np.array(rows)
    lacks_accel = may_lack_accel and len(sensors) > 1 and bool(np.isnan(table[:, 1:4]).all())
    kept = [k for k, sensor in enumerate(("accelerometer", "gyroscope")) if sensor in sensors[lacks_accel:]]
    return "time", unit, table[:, [0, *(1 + 3 * k + axis for k in kept for axis in range(3))]]


def _require_rate(path: str | os.PathLike, sensor: str, stamps: np.ndarray, column: str, unit: float) -> None:
    """Raise IMUError if the steps between time stamps cannot be in the unit of their column."""
    step = float(np.median(np.diff(stamps)))
    if FASTEST <= step <= SLOWEST:
        return
    units = ("seconds", "milliseconds", "microseconds", "nanoseconds")
    own = 0 if unit == 1.0 else 1
    seems = own - 1 if step < FASTEST else own + 1 + (step >= 1000)
    question = f"; are the times in {units[seems]}?" if seems >= 0 and not SLOWEST < step < 1 else "."
    raise IMUError(
        f"{path}: its {sensor} samples are {step:.3g} s apart{question} The column {column} must be in {units[own]}, "
        f"with 5 to 20,000 samples per second"
    )


def _numbers(path: Path, columns: Sequence[int]) -> np.ndarray:
    """Return these columns of comma-separated numbers, empty cells and NULL as NaN, float64."""
    try:
        return _parse_numbers(path, columns)
    except ValueError:  # searching for empty cells first would take 1.5 times as long
        pass
    try:
        text = path.read_text(encoding="utf-8-sig").replace("NULL", "nan").replace("null", "nan")
        return _parse_numbers(io.StringIO(re.sub(r"(?m)^(?=,)|(?<=,)(?=,|$)", "nan", text)), columns)
    except UnicodeDecodeError as error:
        raise IMUError(f"{path}: not a UTF-8 text file: {error}") from error
    except ValueError as error:
        for number, row in enumerate(text.splitlines()[1:], 2):  # numpy counts rows in two ways
            try:
                cells = row.split(",")
                for column in columns if row.strip() else ():
                    float(cells[column].strip() or "nan")
            except (ValueError, IndexError):
                raise IMUError(
                    f"{path}: line {number} is not a row of numbers: {row[:80]!r}; correct it or delete it"
                ) from error
        raise IMUError(f"{path}: {error}") from error


def _parse_numbers(source: Path | io.StringIO, columns: Sequence[int]) -> np.ndarray:
    return np.loadtxt(source, delimiter=",", usecols=columns, ndmin=2, comments=None, skiprows=1, encoding="utf-8-sig")


def _read_telemetry(video: Path) -> Imu:
    """Return the IMU inside a video of a GoPro."""
    if not video.exists():
        raise IMUError(f"{video}: no such file")
    if video.is_dir():
        table = video / "imu.csv"
        which = f"{table}" if table.is_file() else "a file of this folder"
        raise IMUError(f"{video}: a folder, not a file with IMU samples; give {which}")
    try:
        if __package__:
            from . import gpmf
        else:
            import gpmf
    except ImportError as error:
        raise IMUError(f"{video}: to read its telemetry, put gpmf.py beside imu.py ({error})") from error
    try:
        found = gpmf.read_video(video)
    except gpmf.GPMFError as error:
        if _is_text(video):
            raise IMUError(
                f"{video}: a text file, not a video with telemetry; if it is a table, rename it to end in .csv; for a "
                f"format of your own, give IMU_READERS a function for its suffix (--imu-reader)"
            ) from error
        raise IMUError(
            f"{video}: no IMU: {error}; give a table of its readings beside it, {video.stem}.csv; for telemetry of "
            f"another camera (Insta360, Sony, DJI), give IMU_READERS a function for its suffix (--imu-reader), as the "
            f"guide shows under 'A camera or an IMU format'"
        ) from error
    notes = list(found.broken)
    if found.axes != "XYZ":
        notes.append(f"the camera ({found.device or 'unnamed'}) does not name its axes; they stay as stored")
    return Imu(*found[:4], tuple(notes), device=found.device)


def _read_log(path: Path, reader: str, zero_accel: bool) -> Imu:
    """Return the IMU in the log of another camera; `reader` is a function of `cameras`."""
    try:
        if __package__:
            from . import cameras
        else:
            import cameras
    except ImportError as error:
        raise IMUError(f"{path}: to read its log, put cameras.py beside imu.py ({error})") from error
    try:
        log = getattr(cameras, reader)(path)
    except cameras.CameraError as error:
        raise IMUError(str(error)) from error
    times, chosen = np.unique(log.times, return_index=True)
    notes = list(log.notes)
    if (np.diff(log.times) < 0).any():
        notes.append(f"{path.name}: the rows are not sorted by time")
    if repeated := len(log.times) - len(times):
        notes.append(f"{path.name}: {repeated} samples repeat a time and are ignored")
    if log.accel is None and not zero_accel:
        raise IMUError(f"{path}: no accelerometer; with zero_accel (--zero-accel), zeros take its place")
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    if not FASTEST <= step <= SLOWEST:
        raise IMUError(
            f"{path}: its {len(times)} samples are {step:.3g} s apart; there must be 5 to 20,000 per second. Is the "
            f"unit of the times (tscale of a .gcsv) right?"
        )
    gyro = log.gyro[chosen]
    accel = np.empty((0, 3)) if log.accel is None else log.accel[chosen]
    motion = Imu(times[: len(accel)], accel, times, gyro, tuple(notes), device=log.device, noted=log.noted)
    return motion if len(accel) else _with_zeros(motion)


def _is_text(path: Path) -> bool:
    """Return whether a file starts with printable UTF-8 characters."""
    try:
        with open(path, "rb") as file:
            start = file.read(256).decode("utf-8-sig", errors="ignore")
    except OSError:
        return False
    return bool(start) and all(letter.isprintable() or letter.isspace() for letter in start)
