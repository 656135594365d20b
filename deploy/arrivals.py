"""The input of a stream as it arrives: its clock, samples of each sensor, frames, and the answers that they complete.

The parts of a `stream.Stream`, in the order in which samples and frames meet them: `Clock` (seconds or nanoseconds),
`Sensor` (order, doubles, jumps), `Schedule` (the grid of answers), `Frames` (which pictures are kept), and `Stats`, in
which all of them count. None of them uses threads or networks.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
import operator
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import av
import numpy as np

from ..recordings.spec import ClipSpec
from ..support.errors import EgoDistillError, named
from ..video import DRAWN, Scaler

__all__ = [
    "FRAME_LEAD",
    "KEPT_BYTES",
    "Alignment",
    "Clock",
    "Frames",
    "Schedule",
    "Sensor",
    "Stats",
    "Silence",
    "Step",
    "TimedFrame",
    "Times",
]

Times = float | int | Sequence[float] | Sequence[int] | np.ndarray

RESTART = 1.0  # seconds of samples from the past after which a clock counts as restarted
STEP_BACK = 0.1  # seconds: a clock that steps back by less is not noticed
LEAP = 0.5  # seconds: frames and samples whose clocks come apart by less are not noticed
LEADS = 3  # frames that show how far frames are ahead of samples
SAME_LEAD = 0.2  # seconds by which two such distances may differ
UNORDERED = 16  # changes between late and other samples in one call, above which it has no order to learn from
ROUNDING = 1e-6  # seconds, as in video.py: a frame at 1/30 s is on screen at 0.0333333
ON_SCREEN = 0.1  # seconds: a frame that began at most this long before a place is on screen there, as for `predict()`
KEPT_BYTES = 1 << 27  # scaled pictures that wait for samples: half a minute at 30 fps and 224 x 224
KEPT_FRAMES = 64  # that many are kept, whatever their size, times the frames of a clip
FRAME_LEAD = 60.0  # seconds: a frame further ahead of the newest sample and frame has a wrong time

time_of = operator.attrgetter("time")


@dataclasses.dataclass
class Stats:
    """Counters of a stream since it was created.

    At any time:

        samples  = used + late + double + invalid + held
        frames   = encoded + refused + replaced + waiting
        due      = given + problems + dropped + pending
        requests = answered + given_up + outstanding
    """

    samples: int = 0  # readings of one sensor that came: a full row has two
    used: int = 0  # readings that were added
    late: int = 0  # readings more than `slack` older than the newest one of their sensor
    double: int = 0  # readings with the time of another one
    invalid: int = 0  # readings without a finite time, partly without a number, or with a time from the future
    held: int = 0  # readings more than `max_jump` ahead; the next ones will show whether they are valid
    frames: int = 0  # frames that came
    encoded: int = 0  # frames that an answer uses
    refused: int = 0  # frames that no coming answer would use: too old, too far ahead, or a nearer one was there
    replaced: int = 0  # frames that were dropped because another one fits better, or because there were too many
    waiting: int = 0  # frames that are kept for coming answers
    due: int = 0  # answers that were due
    given: int = 0  # answers with classes
    problems: int = 0  # answers with a problem
    dropped: int = 0  # more than `max_pending` were due, the stream was reset, or the model failed
    pending: int = 0  # answers that are due and not given yet
    requests: int = 0  # frame requests
    answered: int = 0  # requests that a frame has answered
    given_up: int = 0  # requests without a frame within `camera_timeout`, or ended by a reset of the stream
    outstanding: int = 0  # 1 if a request waits for its frame, or 0
    restarts: int = 0  # of the clock
    camera_on: float = 0.0  # seconds from requests to their frames, or to `camera_timeout`
    frame_lateness: float = 0.0  # seconds, the most by which a refused frame came too late


# ---------------------------------------------------------------------------------------------------------------
# Time


class Clock:
    """Conversion of times to float seconds: float seconds stay as they are, integers are nanoseconds.

    A float64 has a step of 240 ns at today's nanoseconds since 1970, so an origin is subtracted from integers first.
    """

    def __init__(self) -> None:
        self.kind: str | None = None
        self.origin: int | None = None

    def seconds(self, times: Times) -> np.ndarray:
        """Return times (float seconds or int nanoseconds, one or [n]) as float64 [n] in seconds.

        Values that are not a time, or masked, are NaN. Raise EgoDistillError for a change of unit, and for other types.
        """
        try:
            given = np.atleast_1d(np.asarray(times))
        except (ValueError, OverflowError) as error:
            raise EgoDistillError(
                f"times must be a number or one row of numbers; got {type(times).__name__}"
            ) from error
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iuf"):
            raise EgoDistillError(
                f"times must be float seconds or integer nanoseconds, [n]; got {given.dtype} {list(given.shape)}"
            )
        hidden = np.ma.getmask(times)
        if hidden is not np.ma.nomask:
            found = np.full(len(given), np.nan)
            found[~np.atleast_1d(hidden)] = self.seconds(given[~np.atleast_1d(hidden)])
            return found
        if not given.size:
            return np.empty(0)
        kind = "float seconds" if given.dtype.kind == "f" else "integer nanoseconds"
        if (self.kind or kind) != kind:
            raise EgoDistillError(
                f"the times of this stream are {self.kind}; now there are {kind}. Give one of the two"
            )
        self.kind = kind
        if given.dtype.kind == "f":
            return given.astype(np.float64)
        if self.origin is None:
            if not len(usable := given[np.abs(given.astype(np.float64)) < 2**62]):
                return np.full(len(given), np.nan)
            self.origin = int(usable.min())
        rough = given.astype(np.float64) - self.origin
        exact = (given.astype(np.int64) - np.int64(self.origin)) / 1e9
        return np.where(np.abs(rough) < 2**62, exact, np.nan)  # beyond it, the difference overflows

    def second(self, moment: float | int) -> float:
        """Return one time in seconds. Raise EgoDistillError unless it is a finite number (s, or int nanoseconds)."""
        found = self.seconds(moment)
        if len(found) != 1 or not math.isfinite(found[0]):
            raise EgoDistillError(f"a time must be one finite number; got {moment!r}")
        return float(found[0])

    def given(self, seconds: float) -> float | int:
        """Return a time in the caller's unit: float seconds, or an int of nanoseconds."""
        return seconds if self.origin is None else self.origin + round(seconds * 1e9)

    def move_origin(self, seconds: float) -> Callable[[np.ndarray], np.ndarray]:
        """Move the origin of integer times; return a function that converts earlier results.

        Results then do not depend on which sample happened to arrive first. Float seconds stay as they are.
        """
        if self.origin is None:
            return lambda times: times
        moved = round(seconds * 1e9)
        self.origin += moved
        return lambda times: (np.round(times * 1e9) - moved) / 1e9


# ---------------------------------------------------------------------------------------------------------------
# Samples


class Step(NamedTuple):
    """A step of a clock back in time: for a while, its times repeat earlier ones."""

    start: float  # from this time on, samples of both sides are mixed, in seconds
    stop: float  # the time before which the clock stepped back, the last one of its old side
    seconds: float  # by how much


@dataclasses.dataclass
class Rerun:
    """Samples that repeat earlier times, in the order in which they came."""

    first: float  # the earliest time
    last: float  # the latest time so far
    peak: float  # the newest time before them
    mixed: float  # from this time on, they are kept beside the earlier ones
    compared: int = 0  # samples that were compared with the earlier ones
    repeated: int = 0  # how many of these have the reading that an earlier sample of the same time has
    known: int = 0  # earlier samples between them

    def step(self) -> Step | None:
        """Return the step back that explains them; None if they were sent again, or fill a gap of earlier ones."""
        if self.repeated * 2 >= self.compared or self.known * 2 < self.compared:
            return None
        return Step(max(self.first, self.mixed), self.peak, self.peak - self.first)


class Sensor:
    """The samples of one sensor in order of time, without doubles, late ones and jumps.

    A sample more than `max_jump` ahead of the newest one is held back: samples near it in the next call confirm it,
    samples near the old ones prove that its time was wrong. `add()` returns True if the clock was restarted: in two
    calls or more, for at least `RESTART` seconds, all samples were more than `max_jump` in the past.

    If the clock steps back by less than `max_jump`, its times repeat earlier ones with other readings and then go on.
    Such a step is kept in `steps`, because the times beside it are near each other and the moments are not. Samples may
    arrive `slack` seconds after newer ones.
    """

    def __init__(self, slack: float, max_jump: float, stats: Stats) -> None:
        self.slack, self.max_jump, self.stats = slack, max_jump, stats
        self.times, self.values = np.empty(0), np.empty((0, 3))
        self.first, self.newest = math.inf, -math.inf
        self.held = (np.empty(0), np.empty((0, 3)))
        self.past: tuple[float, float, int] | None = None  # first, last, number of consecutive calls with only those
        self.rerun: Rerun | None = None
        self.steps: list[Step] = []

    def add(self, times: np.ndarray, values: np.ndarray) -> bool:
        """Add samples, [n] in seconds, not NaN, and [n, 3], in any order; return whether the clock was restarted."""
        self.stats.samples += len(times)
        if not len(times):
            return False
        follows = times[0] > self.newest and times[-1] - self.newest <= self.max_jump  # nearly always
        if follows and self.rerun is None and not len(self.held[0]) and (times[1:] > times[:-1]).all():
            self.past, self.first, self.newest = None, min(self.first, float(times[0])), float(times[-1])
            self.times, self.values = np.concatenate((self.times, times)), np.concatenate((self.values, values))
            self.stats.used += len(times)
            return False
        given, order = (times, values), np.argsort(times, kind="stable")
        times, values = times[order], values[order]
        if len(self.held[0]):
            times, values = self.with_held(times, values)
        ahead = self.first_ahead(times)
        first, last = float(times[0]), float(times[-1])
        back = last - first > STEP_BACK and bool((given[0][1:] < given[0][:-1] - STEP_BACK).any())
        if back or self.rerun is not None or first < self.newest - STEP_BACK:
            self.note_steps(*given, times[ahead] if ahead < len(times) else math.inf)
        self.held = (times[ahead:], values[ahead:])
        self.stats.held += len(times) - ahead
        times, values = times[:ahead], values[:ahead]
        if self.note_past(times):
            self.stats.late += len(times)
            return True
        self.merge(times, values)
        return False

    def first_ahead(self, times: np.ndarray) -> int:
        """Return the index of the first of ascending times [n] (s) ahead by more than `max_jump`; n if none is."""
        newest = self.newest if math.isfinite(self.newest) else times[0]
        if times[-1] - newest <= self.max_jump:  # nearly always
            return len(times)
        jumps = np.flatnonzero(np.diff(np.maximum(times, newest), prepend=newest) > self.max_jump)
        return int(jumps[0]) if len(jumps) else len(times)

    def with_held(self, times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return new samples, ascending [n] (s) and [n, 3], with those held back if the new ones confirm them."""
        held_times, held_values = self.held
        self.held = (np.empty(0), np.empty((0, 3)))
        self.stats.held -= len(held_times)
        normal = np.abs(times - self.newest) <= self.max_jump
        near = (times >= held_times[0] - self.max_jump) & (times <= held_times[-1] + self.max_jump)
        if normal.any() or not near.any():
            self.stats.invalid += len(held_times)
            return times, values
        self.newest = float(held_times[0])  # the step is real
        order = np.argsort(merged := np.concatenate((held_times, times)), kind="stable")
        return merged[order], np.concatenate((held_values, values))[order]

    def note_past(self, times: np.ndarray) -> bool:
        """Note samples from the past, ascending [n] in seconds; return whether the clock was restarted."""
        if not len(times):
            return False
        if times[-1] >= self.newest - self.max_jump:
            self.past = None
            return False
        first, last, calls = self.past or (math.inf, -math.inf, 0)
        self.past = (min(first, float(times[0])), max(last, float(times[-1])), calls + 1)
        return self.past[1] - self.past[0] >= RESTART and calls > 0

    def note_steps(self, times: np.ndarray, values: np.ndarray, end: float) -> None:
        """Note whether the clock has stepped back, from samples [n] (s) and [n, 3] in the order in which they came.

        Samples from `end` on are ahead and do not count.
        """
        times, values = times[times < end], values[times < end]
        if not len(times):
            return
        peaks = np.maximum.accumulate(np.concatenate(([self.newest], times)))[:-1]
        late = times < peaks - STEP_BACK
        cuts = np.concatenate(([0], np.flatnonzero(np.diff(late)) + 1, [len(times)]))
        if len(cuts) > UNORDERED:
            self.rerun = None
            return
        for start, stop in itertools.pairwise(cuts):
            rerun, usual = self.rerun, float(np.median(np.diff(self.times[-64:]))) if len(self.times) > 1 else 0.0
            goes_on = rerun is not None and 0 <= times[start] - rerun.last <= max(STEP_BACK / 2, 3 * usual)
            if not late[start]:
                if goes_on and (step := rerun.step()) is not None:
                    self.steps.append(step)
                self.rerun = None
                continue
            part = times[start:stop]
            if not goes_on:
                rerun = Rerun(float(part.min()), 0.0, float(peaks[start]), self.newest - self.slack)
            rerun.last = float(part.max())
            earlier = np.concatenate((self.times, times[:start]))
            self.compare(rerun, part, values[start:stop], earlier, np.concatenate((self.values, values[:start])))
            self.rerun = rerun

    def compare(
        self, rerun: Rerun, times: np.ndarray, values: np.ndarray, earlier: np.ndarray, readings: np.ndarray
    ) -> None:
        """Count how samples, [n] (s) and [n, 3], that repeat earlier times differ from [m] others in any order."""
        earlier, first = np.unique(earlier, return_index=True)
        readings, kept = readings[first], times >= earlier[0] - 1e-6
        places = np.searchsorted(earlier, times - 1e-6).clip(0, len(earlier) - 1)
        same = (np.abs(earlier[places] - times) <= 1e-6) & (readings[places] == values).all(axis=1)
        same &= (readings[places] != readings[places - 1]).any(axis=1)  # a frozen sensor repeats all readings
        rerun.compared += int(np.count_nonzero(kept))
        rerun.repeated += int(np.count_nonzero(same & kept))
        rerun.known += int(np.count_nonzero((earlier >= times.min()) & (earlier <= times.max())))

    def stepped(self, start: float, stop: float) -> Step | None:
        """Return a step of the clock inside a span of time, in seconds; None without one."""
        if not self.steps:
            return None
        return next((step for step in self.steps if start <= step.stop and stop > step.start), None)

    def merge(self, times: np.ndarray, values: np.ndarray) -> None:
        """Add samples, ascending [n] (s) and [n, 3], that are not too late; of the same time, keep what came first."""
        fresh = times >= self.newest - self.slack
        self.stats.late += len(times) - int(np.count_nonzero(fresh))
        times, values = times[fresh], values[fresh]
        if not len(times):
            return
        before = len(self.times)
        known, given = np.concatenate((self.times, times)), np.concatenate((self.values, values))
        end = known[max(before - 1, 0) :]
        if (end[1:] <= end[:-1]).any():
            known, kept = np.unique(known, return_index=True)
            given = given[kept]
        added = len(known) - before
        self.times, self.values = known, given
        self.stats.used += added
        self.stats.double += len(times) - added
        self.first = min(self.first, float(times[0]))
        self.newest = max(self.newest, float(times[-1]))

    def has_between(self, start: float, stop: float) -> bool:
        """Return whether there is a sample in a span of time, in seconds."""
        place = np.searchsorted(self.times, start)
        return bool(place < len(self.times) and self.times[place] <= stop)

    def forget(self, before: float) -> None:
        """Drop the samples that windows from `before` (s) on do not need; the last one before them is needed."""
        if len(self.times) > 1 and self.times[1] <= before:
            place = int(np.searchsorted(self.times, before, side="right")) - 1
            self.times, self.values = self.times[place:], self.values[place:]
        if self.steps:
            self.steps = [step for step in self.steps if step.stop >= before]

    def move(self, convert: Callable[[np.ndarray], np.ndarray]) -> None:
        """Convert all times by a function as from `Clock.move_origin()`."""
        self.times = convert(self.times)
        self.held = (convert(self.held[0]), self.held[1])
        self.first, self.newest = (float(convert(np.float64(t))) for t in (self.first, self.newest))
        self.past = self.rerun = None
        self.steps = []


class Silence:
    """For how long no samples have come, as other times tell: those of frames, or of calls.

    Samples may come in pieces, and behind these times; what counts is how far the times go on after a piece. The last
    one alone proves nothing: it may be wrong.
    """

    def __init__(self) -> None:
        self.newest, self.before, self.piece = -math.inf, -math.inf, -math.inf
        self.usual: deque[float] = deque(maxlen=8)  # seconds from piece to piece

    def note(self, moment: float) -> None:
        """Note a time in seconds."""
        self.before, self.newest = self.newest, max(self.newest, moment)

    def note_samples(self) -> None:
        """Note that samples have come."""
        if math.isfinite(self.newest) and math.isfinite(self.piece):
            self.usual.append(self.newest - self.piece)
        self.piece = self.newest

    def lasts(self, seconds: float) -> bool:
        """Return whether it lasts longer than this, and than it usually does."""
        return self.before - self.piece > seconds + (float(np.median(self.usual)) if self.usual else 0.0)

    def time_after(self, sample: float) -> float:
        """Return the time now, in seconds, on the clock of the newest sample; without one, on that of the times.

        Times that are rare, such as those of a camera that sleeps, tell no more than they say.
        """
        if not math.isfinite(sample + self.piece):
            return self.newest
        return min(sample + self.newest - self.piece, max(self.newest, sample))

    def move(self, convert: Callable[[np.ndarray], np.ndarray]) -> None:
        """Convert all times by a function as from `Clock.move_origin()`."""
        times = (self.newest, self.before, self.piece)
        self.newest, self.before, self.piece = (float(convert(np.float64(moment))) for moment in times)


class Alignment:
    """Whether frames and samples stay on one clock.

    A frame that arrives is ahead of the newest sample by a lead, which depends on the camera, drivers and pieces. If
    one of the two clocks steps, its times leap, and the lead changes by as much and stays there. If both step, or if
    frames or samples are lost, the lead stays. `apart` is the change in seconds; 0 on one clock.
    """

    def __init__(self) -> None:
        self.leads: deque[float] = deque(maxlen=LEADS)
        self.intervals: deque[float] = deque(maxlen=8)  # usual ones between frames
        self.leaps: list[float] = []  # changes of the lead that leaps of times would explain
        self.usual, self.later, self.apart = 0.0, 0, 0.0
        self.frame, self.sample, self.fresh = math.inf, math.inf, False  # the last times; whether samples came since

    def note_samples(self, times: np.ndarray) -> None:
        """Note samples of one sensor, [n] in seconds, at least one, in the order in which they came."""
        first, last = float(times[0]), float(times[-1])
        if not (abs(first - self.sample) <= LEAP and 0 <= last - first <= LEAP):
            steps = np.diff(times, prepend=self.sample)
            leaps = steps[np.abs(steps) > LEAP]
            for leap in leaps if len(leaps) < UNORDERED else ():
                self.note_leap(-float(leap))
        self.sample, self.fresh = last, True

    def note_frame(self, moment: float) -> None:
        """Note a frame of this time, in seconds, as it arrives."""
        step = moment - self.frame
        leap = step - max(self.intervals, default=step) if step > 0 else step  # a camera may sleep between frames
        if abs(leap) > LEAP:
            self.note_leap(leap)
        if step > 0:
            self.intervals.append(step)
        self.frame = moment
        if not self.fresh:  # the lead over samples that came earlier grows without any step
            return
        self.fresh = False
        self.leads.append(moment - self.sample)
        self.later += 1
        if self.later >= LEADS and self.leaps:
            self.judge()
        elif self.apart and abs(self.lead() - self.usual) < SAME_LEAD:
            self.apart = 0.0  # the other clock has stepped, too

    def note_leap(self, change: float) -> None:
        """Note by how many seconds the lead changes if a leap of times is a step of their clock."""
        if not math.isfinite(change) or len(self.leads) < LEADS:
            return
        if not self.leaps:
            self.usual, self.later = self.usual if self.apart else self.lead(), 0
        self.leaps.append(change)

    def move(self, convert: Callable[[np.ndarray], np.ndarray]) -> None:
        """Convert all times by a function as from `Clock.move_origin()`."""
        self.frame, self.sample = (float(convert(np.float64(moment))) for moment in (self.frame, self.sample))

    def lead(self) -> float:
        """Return the median of the last leads."""
        return float(np.median(self.leads))

    def judge(self) -> None:
        """Decide whether one of the clocks has stepped."""
        change, steady = self.lead() - self.usual, max(self.leads) - min(self.leads) < LEAP
        # What was late and has lost something to catch up leaps, too; its lead comes nearer to 0.
        away = abs(self.lead()) > abs(self.usual)
        for leap in (*self.leaps, sum(self.leaps)):
            if steady and away and abs(leap) > LEAP and abs(change - leap) < SAME_LEAD:
                self.apart = leap
        self.leaps = []


# ---------------------------------------------------------------------------------------------------------------
# Answers that are due


@dataclasses.dataclass
class Schedule:
    """The grid of answers: answer k is about the clip from `anchor + k * every` on, as `predict()` counts."""

    spec: ClipSpec  # the clips of the model
    every: float  # seconds between answers
    anchor: float | None = None  # start of the first clip in seconds; None before it is known
    next: int = 0  # number of the first answer that is not due yet

    def start(self, number: int) -> float:
        """Return the time in seconds at which the clip of an answer starts."""
        return self.anchor + number * self.every

    def stop(self, number: int) -> float:
        """Return the time in seconds at which the clip of an answer stops."""
        return self.start(number) + self.spec.seconds

    def grid_end(self, number: int) -> float:
        """Return the time in seconds of the last IMU sample of a clip."""
        return self.start(number) + (self.spec.imu_samples - 1) / self.spec.imu_rate

    def last_before(self, moment: float, end: Callable[[int], float]) -> int:
        """Return the last answer whose `end` is not after a moment (s); -1 if there is none.

        `end` is a function from the number of an answer to a time in seconds, such as `stop`.
        """
        if moment < end(0):
            return -1
        number = math.floor((moment - end(0)) / self.every) + 1
        while number >= 0 and end(number) > moment:
            number -= 1
        return number

    def first_from(self, moment: float, end: Callable[[int], float]) -> int:
        """Return the first answer whose `end`, as in `last_before()`, is not before a moment (s)."""
        number = max(math.ceil((moment - end(0)) / self.every) - 1, 0) if math.isfinite(moment) else 0
        while end(number) < moment:
            number += 1
        return number


# ---------------------------------------------------------------------------------------------------------------
# Frames


@dataclasses.dataclass(eq=False)
class TimedFrame:
    """A kept frame: its time, and its picture until it is encoded."""

    time: float  # seconds on the clock of the samples
    picture: np.ndarray | None  # uint8 [H, W, 3] as it came, [3, size, size] once `scaled`, None once encoded
    scaled: bool = False  # whether the picture has the model's size
    taken: bool = False  # whether an answer uses it: it is or will be encoded
    feature: Any = None  # torch tensor [1, 1, d], or None


class Frames:
    """The frames that coming answers may use, in order of time.

    Only the newest picture is kept in its own size; the others are scaled to the model's. Before the first sample,
    every frame may be used, since the grid of answers is unknown; afterwards only those at the places of coming answers
    are kept, however far they are ahead of the samples. All of them together take at most `KEPT_BYTES`. Beyond it, they
    are kept at a lower rate before the first sample, and new ones are refused afterwards.

    The `choice` "centre" takes the frames on screen at the places of `ClipSpec.times()` in a clip, or else those
    nearest to them, at most `tolerance` seconds away; "newest" the last N before a clip's end, at most `max_age`
    seconds old. Raise EgoDistillError for "centre" with a sampling rule whose places differ from clip to clip.
    """

    def __init__(self, schedule: Schedule, choice: str, tolerance: float, max_age: float, stats: Stats) -> None:
        self.stats, self.count = stats, schedule.spec.frames
        if choice == "centre" and self.count and schedule.spec.sampling in DRAWN:
            raise EgoDistillError(
                f"the model was trained with sampling={schedule.spec.sampling!r}, whose places differ from clip to "
                f"clip, so {named('frames', 'centre')} has no fixed places; give {named('frames', 'newest')}"
            )
        self.schedule, self.choice, self.tolerance, self.max_age = schedule, choice, tolerance, max_age
        self.kept: list[TimedFrame] = []
        self.places = schedule.spec.times(0.0) if choice == "centre" else np.zeros(self.count)
        self.scaler = Scaler(schedule.spec.size, bool(schedule.spec.crop))
        self.limit = max(KEPT_FRAMES * self.count, KEPT_BYTES // (3 * schedule.spec.size**2))
        self._last: TimedFrame | None = None  # the frame that came last: the only one that is not scaled
        self._step = 0.0  # before the first sample: shortest time between two frames in seconds

    @property
    def latest(self) -> float:
        """Return the time of the newest frame in seconds; -inf without one."""
        return self.kept[-1].time if self.kept else -math.inf

    def add(self, frame: TimedFrame, first: int) -> None:
        """Add a frame that is not scaled, and drop those that no answer from `first` on can use."""
        place = bisect.bisect_left(self.kept, frame.time, key=time_of)
        if place < len(self.kept) and self.kept[place].time == frame.time:
            self.stats.refused += 1
            return
        before, self._last = self._last, frame
        self.kept.insert(place, frame)
        self.stats.waiting += 1
        if self.schedule.anchor is None:
            self.space(first)
        else:
            # It may take the place of its neighbours, of which "newest" has as many as an answer has frames.
            reach = self.count if self.choice == "newest" else 1
            self.drop_unused(range(max(place - reach, 0), min(place + reach + 1, len(self.kept))), first)
            while self.kept and not self.is_used(0, first):
                self.drop(self.kept[:1], first)
            if len(self.kept) > self.limit:
                self.drop(self.kept[-1:], first)
        if before is not None:
            self.scale(before)

    def space(self, first: int) -> None:
        """Before the first sample: once there are too many frames, keep them, and those to come, at a lower rate."""
        begin = max(len(self.kept) - 3, 0)
        if len(self.kept) > self.limit:
            begin, self._step = 0, 2 * (self.latest - self.kept[0].time) / len(self.kept)
        last, excess = self.kept[begin].time, []
        for frame in self.kept[begin + 1 : -1]:
            if frame.time < last + self._step:
                excess.append(frame)
            else:
                last = frame.time
        self.drop(excess, first)

    def thin(self, first: int) -> None:
        """Drop the frames that are not used any more when an answer has its frames."""
        if self.schedule.anchor is not None:
            end = self.schedule.stop(first) + self.tolerance
            self.drop_unused(range(bisect.bisect_right(self.kept, end, key=time_of)), first)

    def begin(self, newest: float) -> None:
        """Drop frames that no answer can use, and those with a wrong time, when the grid of answers is known."""
        for place, frame in enumerate(self.kept):
            if frame.time > newest + FRAME_LEAD:
                self.drop(self.kept[place:], 0)
                break
            newest = max(newest, frame.time)
        self.drop_unused(range(len(self.kept)), 0)

    def drop_unused(self, places: range, first: int) -> None:
        """Drop those at some places in `kept` that no answer from `first` on can use.

        This leaves what others are used for as it is.
        """
        self.drop([self.kept[place] for place in places if not self.is_used(place, first)], first)

    def drop(self, frames: list[TimedFrame], first: int) -> None:
        """Drop some of `kept`; a frame that has just come counts as refused."""
        for frame in frames:
            del self.kept[bisect.bisect_left(self.kept, frame.time, key=time_of)]
            if frame.taken:
                continue
            frame.picture = None
            new = frame is self._last
            self.stats.waiting -= 1
            self.stats.replaced += not new
            self.stats.refused += new
            if new:
                self._last = None
                if self.schedule.anchor is not None:
                    late = self.schedule.start(first) + float(self.places[0]) - self.tolerance - frame.time
                    if self.choice == "newest":
                        late = self.schedule.stop(first) - self.max_age - frame.time
                    self.stats.frame_lateness = max(self.stats.frame_lateness, late)

    def is_used(self, place: int, first: int) -> bool:
        """Return whether an answer from `first` on would use the frame at a place in `kept`, of those that came."""
        schedule, moment = self.schedule, self.kept[place].time
        if self.choice == "newest":
            stop = schedule.stop(max(first, schedule.first_from(moment, schedule.stop)))
            after = place + self.count
            return stop - self.max_age <= moment and (after >= len(self.kept) or stop < self.kept[after].time)
        low = max(moment - self.tolerance, self.kept[place - 1].time if place else -math.inf)
        high = min(moment + self.tolerance, self.kept[place + 1].time if place + 1 < len(self.kept) else math.inf)
        for which, offset in enumerate(self.places.tolist()):
            number = max(first, schedule.first_from(low - offset - ROUNDING, schedule.start))
            while schedule.start(number) + offset <= high + ROUNDING:
                if self.nearest_to(self.moments(number)[which]) == place:
                    return True
                number += 1
        return False

    def moments(self, number: int) -> list[float]:
        """Return the places of the frames of an answer's clip in seconds, with "centre"."""
        return self.schedule.spec.times(self.schedule.start(number), number).tolist()

    def nearest_to(self, moment: float) -> int | None:
        """Return the place in `kept` of the frame for a moment (s); None without one within `tolerance`.

        A frame that began at most `ON_SCREEN` seconds before a moment is on screen there: take it, as `predict()` does.
        Without one, because the camera is slower, take the nearest.
        """
        after = bisect.bisect_right(self.kept, moment + ROUNDING, key=time_of)
        around = [place for place in (after - 1, after) if 0 <= place < len(self.kept)]
        best = min(around, key=lambda place: abs(self.kept[place].time - moment), default=None)
        if after and self.kept[after - 1].time >= moment - min(ON_SCREEN, self.tolerance):
            best = after - 1
        return best if best is not None and abs(self.kept[best].time - moment) <= self.tolerance else None

    def nearest(self, number: int) -> list[TimedFrame | None]:
        """Return the frame for each place of an answer's clip; None without one within `tolerance`."""
        found = map(self.nearest_to, self.moments(number))
        return [None if place is None else self.kept[place] for place in found]

    def newest(self, number: int) -> list[TimedFrame]:
        """Return the last frames before the end of an answer's clip, at most `count`, none older than `max_age`."""
        stop = self.schedule.stop(number)
        after = bisect.bisect_right(self.kept, stop, key=time_of)
        return [frame for frame in self.kept[max(after - self.count, 0) : after] if frame.time >= stop - self.max_age]

    def pick(self, number: int) -> list[TimedFrame]:
        """Return the frames of an answer in order of time; fewer than the model needs if there are no more."""
        found = self.nearest(number) if self.choice == "centre" else self.newest(number)
        return list(dict.fromkeys(frame for frame in found if frame is not None))

    def scale_newest(self) -> None:
        """Scale the newest picture ahead of time. Only with "newest": with "centre", a later one may replace it."""
        if self.choice == "newest" and self.kept:
            self.scale(self.kept[-1])

    def scale(self, frame: TimedFrame) -> None:
        """Bring a picture [H, W, 3] to the model's size, [3, size, size]; one of that size is only transposed.

        A frame that is scaled stays as it is.
        """
        if frame.scaled or frame.picture is None:
            return
        picture = frame.picture
        if picture.shape[:2] != (self.schedule.spec.size,) * 2:
            picture = self.scaler(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        frame.picture, frame.scaled = np.ascontiguousarray(picture.transpose(2, 0, 1)), True

    def forget(self, moment: float) -> None:
        """Drop the frames up to a time, in seconds."""
        for frame in [frame for frame in self.kept if frame.time <= moment]:
            self.kept.remove(frame)
            self.stats.waiting -= not frame.taken
            self.stats.replaced += not frame.taken
            if frame is self._last:
                self._last = None
