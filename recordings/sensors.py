"""Judge accelerometers and gyroscopes: units, times, readings that do not change, axes, rates, missing gravity.

    from egodistill.recordings import sensors

    for state in sensors.motion_states(data.read_imu("walk.csv")):
        print(state.sensor, state.fault, state.text, sep=": ")

Files, streams and their health have this one judge: `read_imu()` hands to `judge()` what it has read. Who needs to know
which fault it is compares `sensor` and `fault`; the text is for people.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..imu import FASTEST, IMU_READERS, MAX_GAP, SLOWEST, Imu, IMUError, read_samples
from ..support.defaults import IMU_RATE
from .aria import AriaRecording

__all__ = ["State", "gravity_of", "gravity_turns", "judge", "motion_states", "read_imu", "unit_question"]

# Limits of what a camera worn on the head can measure. Beyond them, the units of a file are wrong.
# Gravity is the median size of the mean acceleration in half a second, in which steps and turns of the head cancel: in
# 458 recordings of heads 9.1 m/s2 or more (8.3 in any 5 s), in 84 of exercising wrists 7.5, in those of heads without
# what is slower than 0.3 Hz at most 2.6.
GRAVITY_CELL, LOW_ACCELERATION = 0.5, 4.5  # seconds, m/s2: lower is without gravity, or in g
NEAR = (8.0, 11.5)  # m/s2, in more than 5 s: otherwise the scale is noted; heads have 8.4 to 10.7 in any 5 s
HIGH_ACCELERATION = 30.0  # m/s2: three times gravity; a wrist that exercises has a mean of 25, a head less
# The unit is g if the median norm is between these, mg or cm/s2 between a thousand times these, and few norms are below
# half of it. Medians are right to 4 %, so that mg and cm/s2, which differ by 2 %, cannot be distinguished.
ONE_G = (0.9, 1.1)
FAST_TURN = 35.0  # rad/s, 2000 degrees per second: the range of the sensors
FROZEN = 5.0  # seconds: a sensor that repeats one value for longer does not work
FEW_ABSURD = 0.05  # share of accelerations above HIGH_ACCELERATION that are faults of the sensor, not of the unit
PAIRS = ((0, 1), (0, 2), (1, 2))  # of axes
STUCK = 0.9  # share of readings that are one value: a sensor that works once a second
NOTED_GAP = 3.0, 0.01  # a gap is noted if it is longer than this many usual steps, and than this many seconds
FEW_STAMPS, LONG_ENOUGH = 20, 1.0  # the least that states are judged by: samples; of readings, also seconds
GRAVITY_STEP = 0.25  # seconds in which the turn of gravity is compared with that of the gyroscope
NEAR_GRAVITY = 2.0  # m/s2: a mean acceleration that differs more from gravity does not show its direction
GRAVITY_TURN = 0.1  # rad: the least turn of the gyroscope in that time, root mean square, that is compared
TURNS_AS_FAR = 12.0  # times; the most in 10 s of a watch, in any axes, is 5.0; a head in degrees has 16 to 48
IN_DEGREES = 65.0  # times; 57.3 and an error: a reading in degrees turns at most as far
_DEGREES_TEXT = "they are in degrees per second; multiply them by 0.0174533 for rad/s"


class State(NamedTuple):
    """A fault of an input that lasts."""

    sensor: str  # "accelerometer", "gyroscope", "sensors"; of a stream also "frames" and others
    fault: str  # what is wrong with it, such as "frozen"; "missing" if it does not come
    text: str  # what was seen, in words
    certain: bool = False  # whether the readings are certainly in another unit: a file of them is refused

    @property
    def name(self) -> str:
        """Return sensor and fault as a short, fixed name, such as "gyroscope frozen" or "no frames"."""
        return f"no {self.sensor}" if self.fault == "missing" else f"{self.sensor} {self.fault}"


def read_imu(source: str | os.PathLike | Sequence[str | os.PathLike], *, zero_accel: bool = False) -> Imu:
    """Read an IMU recording: a CSV, a pair of CSVs (accelerometer, gyroscope), a log, telemetry in a video, or a VRS.

    Files are read by `imu.read_samples()`, which has the columns of tables, and recordings of Project Aria glasses by
    `aria`, on the glasses' own clock. What looks wrong is in `notes`.

    Args:
        source: One file, or a pair of CSVs.
        zero_accel: Return zeros at the gyroscope's times if there is no accelerometer, as in some Ego4D recordings.

    Raises:
        IMUError: The recording cannot be read, lacks a sensor, or has times or values whose unit is certainly another
            one. The message names the file.

    >>> from egodistill import data
    >>> motion = data.read_imu("walk.csv")
    >>> motion.accel.shape, motion.gyro.shape, motion.notes
    ((4580, 3), (4580, 3), ())
    >>> [f"{1 / step:.1f} Hz" for step in motion.median_steps]
    ['195.7 Hz', '195.7 Hz']
    """
    suffix = Path(source).suffix.lower() if isinstance(source, (str, os.PathLike)) else ""
    if suffix != ".vrs" or suffix in IMU_READERS:
        return judge(read_samples(source, zero_accel=zero_accel), source)
    try:
        return judge(AriaRecording(source, device_clock=True).imu(), source)
    except ValueError as error:
        raise IMUError(str(error)) from error


def judge(motion: Imu, source: str | os.PathLike | Sequence[str | os.PathLike]) -> Imu:
    """Return samples, in order of time, whose notes also tell each fault and gaps, but no state in `motion.noted`.

    Raise IMUError, which names the source, if readings are certainly in another unit.
    """
    states = [*_gaps("accelerometer", motion.accel_time), *_gaps("gyroscope", motion.gyro_time), *motion_states(motion)]
    if wrong := next((state for state in states if state.certain), None):
        alone = isinstance(source, (str, os.PathLike))
        raise IMUError(f"{source if alone else source[wrong.sensor == 'gyroscope']}: {wrong.text}")
    fresh = [state for state in states if state.name not in motion.noted]
    notes, noted = (*motion.notes, *(state.text for state in fresh)), (*motion.noted, *(state.name for state in fresh))
    return dataclasses.replace(motion, notes=notes, noted=noted)


def motion_states(motion: Imu, *, rate: float = IMU_RATE) -> list[State]:
    """Return the faults of samples, each as a state; [] if there is none.

    | state | what was seen |
    | --- | --- |
    | "accelerometer times", "gyroscope times" | steps between samples that are no steps of a sensor in seconds |
    | "... units" | readings that are not in m/s2 or rad/s, judged by gravity and turn rates |
    | "... dead", "... frozen" | readings that are zero, or do not change, for 5 s |
    | "... axes" | two axes that are equal, or one that is zero, for 5 s |
    | "... rate" | fewer than half as many samples per second as a student reads |
    | "sensors exchanged" | gravity in the gyroscope and none in the accelerometer |

    Units are judged from 20 samples and a second on. Samples may be unsorted and have doubles; a sensor without
    samples has no states. `rate` is how many per second the student reads.

    >>> import dataclasses
    >>> from egodistill import data
    >>> from egodistill.recordings import sensors
    >>> motion = data.read_imu("walk.csv")
    >>> sensors.motion_states(motion)
    []
    >>> (state,) = sensors.motion_states(dataclasses.replace(motion, gyro=0 * motion.gyro))
    >>> state.sensor, state.fault, state.text
    ('gyroscope', 'dead', 'the gyroscope is zero from 0.0 to 23.4 s')
    """
    accel_time, accel = _in_order(motion.accel_time, motion.accel)
    gyro_time, gyro = _in_order(motion.gyro_time, motion.gyro)
    found = _sensor_states("accelerometer", accel_time, accel, rate)
    found += _sensor_states("gyroscope", gyro_time, gyro, rate)
    if any(one.fault == "times" for one in found) or not (_is_enough(accel_time) and _is_enough(gyro_time)):
        return found
    if sentence := _exchange(accel_time, accel, gyro):
        return [*(one for one in found if one.fault != "units"), State("sensors", "exchanged", sentence)]
    if any(one.certain or one.fault in ("dead", "frozen") or one[:2] == ("accelerometer", "units") for one in found):
        return found
    turn = _turn_fault(accel_time, accel, gyro_time, gyro)
    return [*(one for one in found if not (turn and one.fault == "units")), *turn]


def _in_order(stamps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return samples in order of time, one for each time."""
    if (np.diff(stamps) > 0).all():
        return stamps, values
    stamps, first = np.unique(stamps, return_index=True)
    return stamps, values[first]


def _is_enough(stamps: np.ndarray) -> bool:
    """Return whether there are enough samples, with these ascending times [n], to judge their readings."""
    return len(stamps) >= FEW_STAMPS and bool(stamps[-1] - stamps[0] >= LONG_ENOUGH)


def _sensor_states(sensor: str, stamps: np.ndarray, values: np.ndarray, rate: float) -> list[State]:
    """Return the states of one sensor, whose samples are in order."""
    if len(stamps) < FEW_STAMPS:
        return []
    steps, span, found = np.diff(stamps), stamps[-1] - stamps[0], []
    if not FASTEST <= (step := float(np.median(steps))) <= SLOWEST:
        return [State(sensor, "times", f"the {sensor}'s samples are {step:.3g} s apart{unit_question(step)}")]
    units = _acceleration_unit(stamps, values) if sensor == "accelerometer" else _turn_unit(values)
    found += [one for one in units if one.certain or _is_enough(stamps)]
    if span > (slowest := 2 / rate * (1 + 1e-3)) * len(steps):  # slow, or gaps make it seem so
        if (mean := float(steps[steps <= max(NOTED_GAP[0] * step, NOTED_GAP[1])].mean())) > slowest:
            text = f"the {sensor} has {1 / mean:.0f} samples per second; clips of {rate:.0f} Hz are interpolated"
            found.append(State(sensor, "rate", f"{text} between them"))
    return found + (_frozen(sensor, stamps, values) or _axes_fault(sensor, values)) if span > FROZEN else found


def _acceleration_unit(stamps: np.ndarray, values: np.ndarray) -> list[State]:
    """Return the state of accelerations [n, 3] that are unlikely in m/s2; [] if they are not."""
    norms, gravity = _norms(values), gravity_of(stamps, values)
    mean, (low, middle) = float(norms.mean()), np.percentile(norms, [5, 50])
    share = np.count_nonzero(norms > HIGH_ACCELERATION) / len(norms)
    steady = low > middle / 2
    text, certain, but = f"mean acceleration {gravity:.2f} m/s2", False, "but gravity alone is 9.81: is it in"
    if mean == 0:
        return []
    if mean > HIGH_ACCELERATION and share < FEW_ABSURD:  # which are not readings in another unit
        text = f"{share:.1%} of the accelerations are above {HIGH_ACCELERATION:g} m/s2: the sensor fails"
    elif steady and ONE_G[0] < middle < ONE_G[1]:
        text, certain = f"the acceleration is in g (median {middle:.2f}); multiply it by 9.80665 for m/s2", True
    elif steady and ONE_G[0] < middle / 1000 < ONE_G[1]:
        how = "multiply it by 0.00980665 (mg) or 0.01 (cm/s2) for m/s2"
        text, certain = f"the acceleration is in mg or cm/s2 (median {middle:.0f}); {how}", True
    elif mean > HIGH_ACCELERATION:
        what = "mg or in counts of the sensor, or multiplied by 9.80665 twice?"
        text = f"mean acceleration {mean:.4g} m/s2, {but} {what}"
    elif gravity < LOW_ACCELERATION:
        text += f", {but} g, or without gravity?"
    elif stamps[-1] - stamps[0] > FROZEN and not NEAR[0] < gravity < NEAR[1]:
        text += "; gravity alone is 9.81"
    else:
        return []
    return [State("accelerometer", "units", text, certain)]


def gravity_of(stamps: np.ndarray, values: np.ndarray) -> float:
    """Return the median size of the mean acceleration in half a second, of readings [n, 3] with ascending times [n]."""
    cells = np.floor((stamps - stamps[0]) / GRAVITY_CELL)
    return float(np.median(_norms(_means(cells, values)[0])))


def _means(cells: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean of the values [n, k] in each cell [m, k], where each cell starts, and how many values it has."""
    starts = np.flatnonzero(np.diff(cells, prepend=np.nan) != 0)
    counts = np.diff(starts, append=len(cells))
    return np.add.reduceat(values, starts) / counts[:, None], starts, counts


def _turn_unit(values: np.ndarray) -> list[State]:
    """Return the state of turn rates [n, 3] that are unlikely in rad/s; [] if they are not."""
    norms = _norms(values)
    if norms.max() <= FAST_TURN:
        return []
    middle, high = np.percentile(norms, [50, 99])
    if middle > FAST_TURN:
        text = f"half of the turn rates are above {middle:.0f} rad/s, so {_DEGREES_TEXT}"
        return [State("gyroscope", "units", text, certain=True)]
    text = f"1 % of the turn rates are above {high:.0f} rad/s: are they in degrees per second?"
    return [State("gyroscope", "units", text)] if high > FAST_TURN else []


def _axes_fault(sensor: str, values: np.ndarray) -> list[State]:
    """Return the state of two axes of readings [n, 3] that are equal, or else of one that is zero; [] if none is."""
    found = [f"{'XYZ'[i]} and {'XYZ'[k]} are equal" for i, k in PAIRS if (values[:, i] == values[:, k]).all()]
    found += [f"{axis} is always zero" for axis, lives in zip("XYZ", values.any(axis=0), strict=True) if not lives]
    return [State(sensor, "axes", f"the {sensor}'s {text}: a faulty export?") for text in found[:1]]


def unit_question(step: float, fastest: float = FASTEST, slowest: float = SLOWEST / 10) -> str:
    """Return the question in which unit times are whose steps are no steps of a sensor in seconds; "" if none fits.

    A sensor's steps are from `fastest` to `slowest` seconds; the latter not that of a sensor of 2 Hz.
    """
    large = {"milliseconds": 1e-3, "microseconds": 1e-6, "nanoseconds": 1e-9}
    small = {"microseconds": 1e3, "milliseconds": 1e6}  # taken for nanoseconds, because they are integers
    for unit, factor in (large if step > SLOWEST else small).items():
        if fastest <= step * factor <= slowest:
            return f"; are the times in {unit}? They must be float seconds or integer nanoseconds"
    return ""


def _frozen(sensor: str, stamps: np.ndarray, values: np.ndarray) -> list[State]:
    """Return the state of a sensor that repeats one reading for longer than `FROZEN`; [] if it never does."""
    moved = values[1:] != values[:-1]
    ends = moved[:, 0] | moved[:, 1] | moved[:, 2] | (np.diff(stamps) > LONG_ENOUGH)  # nobody knows what is in a gap
    moves = np.flatnonzero(ends)  # the last sample of each run of equal ones
    first, last = np.concatenate(([0], moves + 1)), np.concatenate((moves, [len(values) - 1]))
    longest = int(np.argmax(stamps[last] - stamps[first]))
    start, stop = stamps[first[longest]], stamps[last[longest]]
    if stop - start <= FROZEN:
        usual = np.median(values, axis=0)
        share = np.count_nonzero((values == usual).all(axis=1)) / len(values)
        text = f"the {sensor} does not change in {share:.0%} of {stamps[-1] - stamps[0]:.0f} s"
        return [State(sensor, "frozen", text)] if share > STUCK else []
    fault, what = ("frozen", "does not change") if values[first[longest]].any() else ("dead", "is zero")
    return [State(sensor, fault, f"the {sensor} {what} from {start:.1f} to {stop:.1f} s")]


def _exchange(accel_time: np.ndarray, accel: np.ndarray, gyro: np.ndarray) -> str:
    """Return what shows that two sensors are exchanged; "" if nothing does."""
    acceleration, (low, middle) = gravity_of(accel_time, accel), np.percentile(_norms(gyro), [5, 50])
    if acceleration >= LOW_ACCELERATION or low < middle / 2 or abs(middle - 9.81) > 1.5:
        return ""
    return (
        f"the gyroscope measures gravity, {middle:.1f}, and the accelerometer {acceleration:.1f}: are the sensors "
        f"exchanged?"
    )


def _norms(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ij,ij->i", values, values))


def gravity_turns(motion: Imu, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Return by how much gravity turns from each step to the next, by the gyroscope and by the accelerometer, [n, 3].

    When a head turns by w in a short time, the direction of gravity u in its axes changes by u x w. Samples are sorted,
    a step is in seconds; the direction of gravity is that of the mean acceleration in it.
    """
    cells = np.floor(motion.accel_time / step)
    gravity, starts, counts = _means(cells, motion.accel)
    directions = gravity / np.maximum(_norms(gravity), 1e-12)[:, None]
    steps = np.diff(motion.gyro_time)[:, None] * (motion.gyro[1:] + motion.gyro[:-1]) / 2
    angles = np.concatenate((np.zeros((1, 3)), np.cumsum(steps, axis=0)))
    centres = np.add.reduceat(motion.accel_time, starts) / counts
    turns = np.diff(np.stack([np.interp(centres, motion.gyro_time, axis) for axis in angles.T], axis=1), axis=0)
    kept = np.diff(cells[starts]) == 1
    return np.cross((directions[1:] + directions[:-1])[kept] / 2, turns[kept]), np.diff(directions, axis=0)[kept]


def _turn_fault(accel_time: np.ndarray, accel: np.ndarray, gyro_time: np.ndarray, gyro: np.ndarray) -> list[State]:
    """Return the state of a gyroscope that turns much further than gravity does; [] if it does not.

    Acceleration makes the measured turn of gravity larger, a turn about the vertical changes neither.
    """
    little = math.sqrt(np.square(gyro).sum() / len(gyro)) * GRAVITY_STEP < GRAVITY_TURN
    if little or abs(float(_norms(accel).mean()) - 9.81) > NEAR_GRAVITY:
        return []
    expected, seen = gravity_turns(Imu(accel_time, accel, gyro_time, gyro), GRAVITY_STEP)
    turn, turned = (math.sqrt(np.square(x).sum() / max(len(x), 1)) for x in (expected, seen))
    if len(seen) < 8 or not turn > max(GRAVITY_TURN, TURNS_AS_FAR * turned):
        return []
    times = turn / max(turned, 1e-3)
    what = f", so {_DEGREES_TEXT}" if times < IN_DEGREES else ": are they in another unit, or is its sensor at fault?"
    text = f"the turn rates are {times:.0f} times those of the gravity that the accelerometer measures{what}"
    return [State("gyroscope", "units", text, certain=times < IN_DEGREES)]


def _gaps(sensor: str, stamps: np.ndarray) -> list[State]:
    """Return the state of a sensor with gaps between its ascending times [n]; [] if there is none."""
    steps = np.diff(stamps)
    gaps = steps[steps > NOTED_GAP[1]]
    usual = float(np.median(steps)) if len(gaps) else 0.0
    gaps = gaps[gaps > NOTED_GAP[0] * usual]
    if not len(gaps):
        return []
    lengths = f"{_length(gaps.min())} to {_length(gaps.max())}" if len(gaps) > 1 else _length(gaps[0])
    text = (
        f"the {sensor} has {len(gaps)} {'gaps' if len(gaps) > 1 else 'gap'} of {lengths}; its usual step is "
        f"{_length(usual)}. Clips are interpolated across gaps of up to max_gap (--max-gap), by default {MAX_GAP:g} s"
    )
    return [State(sensor, "gaps", text)]


def _length(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
