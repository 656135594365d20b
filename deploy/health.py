"""The health of a stream's input: what is wrong with what arrives, as states with a sentence each.

    with Stream(student) as stream:
        ...
        for state in stream.health():
            print(state.sensor, state.fault, state.text, sep=": ")

`sensors.motion_states()` judges the last readings, as it judges those of a recording. What only a stream has is added:
samples that are late, double or invalid, inputs that are silent, pictures that are blank or do not change.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from ..imu import Imu
from ..recordings.sensors import FROZEN, State, motion_states, unit_question
from ..recordings.spec import ClipSpec
from ..support.errors import named
from .arrivals import Alignment, Stats, Step

__all__ = ["SENSORS", "SILENT", "Health", "Pictures", "Recent"]

SENSORS = ("accelerometer", "gyroscope")
INPUTS = (*SENSORS, "frame")
SECONDS = 5.0  # of samples or frames, or on this host, after which states are searched for again
RECENT = FROZEN + SECONDS + 1.0  # seconds of samples that are judged: a fault that lasts is seen, whenever it begins
FEWEST, MOST = 200, 1 << 15  # samples that are judged, whatever their times
SILENT = 5.0  # seconds without any sample, frame or input
FAULTY = 0.05  # share of late, double or invalid readings
COUNTED, RENEWED = 400, 2000  # readings of which a share is taken, at least; after which it is taken of new ones
OTHER_CLOCK = 3600.0  # seconds: a camera may run ahead of samples, but not by so much
# Seconds by which the frames of one clock are ahead of samples, and behind them, when answers lack frames
AHEAD, BEHIND = 5.0, 60.0
LACKING = 3  # answers in a row that lack frames
STAMPS, FEW_STAMPS = 32, 8  # frame times that are judged, at most and at least
ONE_TIME = 100  # frames in a row of one time
FASTEST, SLOWEST = 1e-3, 1.0  # seconds between frames of usual cameras
SET_BACK = 2.0  # seconds by which all these frames are older than an earlier one, if a clock was set back
LOOK = 0.5  # seconds between two pictures that are examined
ROWS = 16  # rows of a picture that are examined: whole ones, since other points cost more to read
# Seconds for which a picture stays the same: while the head moves, if nobody knows, while the head is still. Strongly
# compressed pictures of a tripod did not change for 4 s.
SAME_MOVING, SAME, SAME_STILL = 5.0, 10.0, 60.0
MOVES = 0.1  # rad/s: deviation of the turn rates of a head that moves; noise has 0.005
TINY = 4  # times smaller than the model's pictures
READINGS, FRAMES = 8000, 600  # readings or frames, whatever their times, after which states are searched for again


class Recent:
    """The last samples of a sensor, as they came: in any order, with doubles and wrong times."""

    def __init__(self) -> None:
        self.pieces: deque[tuple[float, np.ndarray, np.ndarray]] = deque()  # last time, times, readings
        self.count = 0

    def add(self, times: np.ndarray, values: np.ndarray) -> None:
        """Add samples, [n] in seconds and [n, 3], which are not copied, and drop old ones."""
        if len(times) > MOST:
            times, values = times[-MOST:], values[-MOST:]
        last = float(times[-1])
        self.pieces.append((last, times, values))
        self.count += len(times)
        while self.count > MOST or last - self.pieces[0][0] > RECENT:
            left = self.count - len(self.pieces[0][1])
            if left < FEWEST:
                break
            self.pieces.popleft()
            self.count = left

    def samples(self) -> tuple[np.ndarray, np.ndarray]:
        """Return times [n] and readings [n, 3]."""
        if not self.pieces:
            return np.empty(0), np.empty((0, 3))
        _, times, values = zip(*self.pieces, strict=True)
        return np.concatenate(times), np.concatenate(values)

    def move(self, convert: Callable[[np.ndarray], np.ndarray]) -> None:
        """Convert all times by a function as from `Clock.move_origin()`."""
        moved = [(convert(times), values) for _, times, values in self.pieces]
        self.pieces = deque((float(times[-1]), times, values) for times, values in moved)


class Pictures:
    """Whether pictures are blank, do not change, or are tiny beside the model's `size`, from some of their rows."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.last = -math.inf  # time of the last picture that was examined
        self.rows = b""
        self.since = {"blank": math.inf, "frozen": math.inf}  # times from which on pictures are so
        self.count = {"blank": 0, "frozen": 0}
        self.shape: tuple[int, int] = (size, size)
        self.colour: tuple[int, ...] = ()

    def add(self, moment: float, picture: np.ndarray) -> None:
        """Examine a picture, uint8 [H, W, 3], of a time in seconds."""
        height, width = picture.shape[:2]
        seen = picture[:: -(-height // ROWS)].tobytes()
        blank = len(seen) > 3 and seen == seen[:3] * (len(seen) // 3)
        for name, holds in (("blank", blank), ("frozen", seen == self.rows)):
            if not holds or moment < self.last:
                self.count[name] = 0
            elif not self.count[name]:
                self.since[name] = moment if name == "blank" else self.last
            self.count[name] += holds
        self.shape, self.colour = (height, width), tuple(seen[:3])
        self.last, self.rows = moment, seen

    def states(self, same_for: float) -> list[State]:
        """Return what is wrong with the pictures; one that does not change for `same_for` seconds is frozen."""
        found = []
        if TINY * min(self.shape) < self.size:
            height, width = self.shape
            text = f"the pictures have {width}x{height} pixels; the model reads {self.size}x{self.size}"
            found.append(State("pictures", "tiny", text))
        for name, least in (("blank", FROZEN), ("frozen", same_for)):
            since = self.since[name]
            if self.count[name] < 2 or self.last - since < least:
                continue
            text = f"the pictures have not changed since {since:.1f} s"
            if name == "blank":
                colour = "black" if max(self.colour) == 0 else f"of one colour, RGB {self.colour}"
                text = f"the pictures have been {colour} since {since:.1f} s"
            return [*found, State("pictures", name, text)]  # what is blank does not change
        return found

    def move(self, convert: Callable[[np.ndarray], np.ndarray]) -> None:
        """Convert all times by a function as from `Clock.move_origin()`."""
        self.last = float(convert(np.float64(self.last)))
        self.since = {name: float(convert(np.float64(since))) for name, since in self.since.items()}


class Health:
    """What arrives at a stream, as far as it shows faults. Memory: `RECENT` seconds of samples, and a few numbers.

    Samples and frames may arrive `slack` seconds after newer ones, a frame `late` seconds after samples of the same
    time; a camera that works gives a frame in `frames_within` seconds of samples.
    """

    def __init__(
        self,
        spec: ClipSpec,
        stats: Stats,
        alignment: Alignment,
        *,
        slack: float,
        late: float,
        frames_within: float,
    ) -> None:
        self.spec, self.stats, self.alignment = spec, stats, alignment
        self.slack, self.late, self.frames_within = slack, late, frames_within
        self.recent = [Recent() for _ in SENSORS]
        self.pictures = Pictures(spec.size or 1)
        self.stamps: deque[float] = deque(maxlen=STAMPS)  # the last times of frames that differ from the one before
        self.same = 0  # frames in a row that have the last of them
        self.first, self.last = [math.inf] * 3, [-math.inf] * 3  # the first and newest time of each of INPUTS
        self.others: list[list[float] | None] = [None] * 3  # the newest times of all when each of them came last
        self.lacking = 0  # answers in a row that lacked frames although there was head motion
        self.step: tuple[str, Step] | None = None  # the last step of a clock
        self.marks = deque([self.counters()], maxlen=2)  # counters of some seconds ago
        self.known: list[State] | None = None  # states of the readings
        self.same_for = SAME
        self.came = self.looked = time.monotonic()
        self.fresh = self.frames = 0  # readings and frames since states were searched for
        self.searched = math.inf  # the newest time then

    # --- What arrives

    def note_samples(self, sensor: int, times: np.ndarray, values: np.ndarray, newest: float) -> None:
        """Note samples, [n] in seconds, at least one, and [n, 3], as they came.

        Sensor 0 is the accelerometer, 1 the gyroscope. `newest` is the newest time of the sensor; -inf if it has none
        that is valid.
        """
        self.fresh += len(times)
        self.known = None
        self.recent[sensor].add(times, values)
        self.note_progress(sensor, newest)

    def note_picture(self, moment: float, picture: np.ndarray) -> None:
        """Note a picture, uint8 [H, W, 3], of a time in seconds as it came; two a second are examined."""
        self.frames += 1
        self.same += 1
        if not self.stamps or moment != self.stamps[-1]:
            self.stamps.append(moment)
            self.same = 1
        if not 0 <= moment - self.pictures.last < LOOK:
            self.pictures.add(moment, picture)

    def note_progress(self, place: int, newest: float) -> None:
        """Note that an input (a place in `INPUTS`) is alive; its newest time is in seconds, -inf if none is valid."""
        self.came = time.monotonic()
        if newest == -math.inf:
            return
        if newest < self.first[place]:
            self.first[place] = newest
        self.last[place] = newest
        self.others[place] = self.last.copy()

    def note_step(self, name: str, step: Step) -> None:
        """Note that the clock of an input has stepped back."""
        self.step, self.fresh = (name, step), READINGS

    def note_busy(self) -> None:
        """Note that the stream itself, or its caller, was what took the time."""
        self.came = time.monotonic()

    def move(self, convert: Callable[[np.ndarray], np.ndarray]) -> None:
        """Convert all times by a function as from `Clock.move_origin()`."""
        self.step = None
        for one in (*self.recent, self.pictures):
            one.move(convert)
        self.last, self.first = (convert(np.array(times)).tolist() for times in (self.last, self.first))
        self.others = [None if times is None else convert(np.array(times)).tolist() for times in self.others]
        self.stamps.extend(convert(np.array(self.stamps)).tolist())  # in place of the former ones

    # --- What it shows

    def is_due(self) -> bool:
        """Return whether so much has come, or so much time has passed, that states should be searched for again."""
        now, newest = time.monotonic(), max((last for last in self.last if math.isfinite(last)), default=math.inf)
        self.searched = min(self.searched, newest)
        passed = max(now - self.looked, newest - self.searched if newest < math.inf else 0.0)
        if self.fresh < READINGS and self.frames < FRAMES and passed < SECONDS:
            return False
        self.looked, self.searched, self.fresh, self.frames = now, newest, 0, 0
        return True

    def states(self) -> list[State]:
        """Return the faults of the input at present."""
        if self.known is None:
            (accel_time, accel), (gyro_time, gyro) = (recent.samples() for recent in self.recent)
            motion = Imu(accel_time, accel, gyro_time, gyro)
            self.known = motion_states(motion, rate=self.spec.imu_rate or 1.0)
            if self.spec.imu_samples:
                moves = len(gyro) and float(np.sqrt(gyro.var(axis=0).sum())) > MOVES
                self.same_for = SAME_MOVING if moves else SAME_STILL
        found = list(self.known)
        if not any(state.fault == "times" for state in found):  # the cause of all the rest
            found += self.faulty_shares()
            others = self.frame_times() or self.clocks()
            found += others
            if not any(state.fault in ("times", "apart") for state in others):
                found += self.silences()
        return found + self.pictures.states(self.same_for) if self.spec.frames else found

    def counters(self) -> tuple[int, ...]:
        """Return the number of readings that came, and how many of them were late, double and invalid."""
        return self.stats.samples, self.stats.late, self.stats.double, self.stats.invalid

    def faulty_shares(self) -> list[State]:
        """Return states for readings that are late, double or invalid."""
        now, before, last = self.counters(), self.marks[0], self.marks[-1]
        if now[0] - last[0] >= RENEWED:
            self.marks.append(now)
        total, *counts = (a - b for a, b in zip(now, before, strict=True))
        if not self.spec.imu_samples or total < COUNTED:
            return []
        coarse = self.coarse_times(np.concatenate([recent.samples()[0] for recent in self.recent]))
        texts = {
            "late": f"came more than {named('slack', self.slack)} s after newer ones",
            "double": f"have the time of another one{coarse}",
            "invalid": "have no valid time or number",
        }
        return [
            State("samples", name, f"{count / total:.0%} of the last {total:,} readings {texts[name]}")
            for name, count in zip(texts, counts, strict=True)
            if count > FAULTY * total
        ]

    def coarse_times(self, times: np.ndarray) -> str:
        """Return the cause of doubles if times [n] (s) were float32 once, such as seconds since 1970; else ""."""
        with np.errstate(over="ignore"):
            rounded = times.astype(np.float32)
        if not len(times) or (rounded != times).any():
            return ""
        step = float(np.spacing(rounded.max()))
        return f": float32 times have a step of {step:g} s there; give float64 or nanoseconds" if step > 1e-3 else ""

    def frame_times(self) -> list[State]:
        """Return the state of frames whose times are those of no camera, in seconds."""
        steps, times = np.abs(np.diff(self.stamps)), np.array(self.stamps)
        if self.same < ONE_TIME and len(times) < FEW_STAMPS:
            return []
        step = float(np.median(steps)) if self.same < ONE_TIME else 0.0
        if FASTEST <= step <= self.frames_within:
            return []
        cause = unit_question(step, FASTEST, SLOWEST) if step else self.coarse_times(times)
        return [State("frame", "times", f"the frames are {step:.3g} s apart{cause}")]

    def has_odd_start(self) -> bool:
        """Return whether the first frames have times of no camera, but are too few for the state "frame times"."""
        few = 2 <= len(self.stamps) < FEW_STAMPS
        return few and not FASTEST <= float(np.median(np.abs(np.diff(self.stamps)))) <= self.frames_within

    def clocks(self) -> list[State]:
        """Return states of clocks that step or are not one."""
        found, alignment = [], self.alignment
        if self.step is not None and max(self.last) < self.step[1].stop + RECENT:
            name, step = self.step
            text = f"the clock of the {name} stepped back by {step.seconds:.2f} s at {step.stop:.2f} s"
            found.append(State("clock", "stepped", f"{text}; no answer joins what was before and after"))
        if alignment.apart:
            text = f"one of the clocks of frames and samples stepped by {abs(alignment.apart):.1f} s, the other did not"
            found.append(State("clocks", "apart", f"{text}; answers go on when both agree, or after reset()"))
        elif not self.spec.imu_samples:
            if len(self.stamps) >= FEW_STAMPS and (back := self.last[-1] - max(self.stamps)) > SET_BACK + self.slack:
                text = f"the clock of the frames was set back by {back:.1f} s, or one frame had a time from the future"
                found.append(State("clock", "stepped", f"{text}; answers go on after that time, or after reset()"))
        elif alignment.leads and (abs(lead := alignment.lead()) > OTHER_CLOCK or self.lacks_other_times(lead)):
            text = f"frames are {lead:.4g} s ahead of samples, so they are not on one clock, or not in one unit"
            found.append(State("clocks", "apart", f"{text}; give {named('frame_clock', option='--frame-offset')}"))
        elif self.lacking >= LACKING and alignment.leads and (late := -alignment.lead()) > self.late:
            text = f"the last {self.lacking} answers lack frames, which come {late:.1f} s after samples of their time"
            found.append(State("frames", "late", f"{text}; give {named('slack', round(late + 0.5, 1))}"))
        return found

    def lacks_other_times(self, lead: float) -> bool:
        """Return whether answers lack frames because these come at other times than samples, `lead` seconds ahead."""
        return self.lacking >= LACKING and not -BEHIND <= lead <= AHEAD

    def silences(self) -> list[State]:
        """Return states of inputs that do not come while others do."""
        if not self.spec.imu_samples:
            return []
        waited = [self.waited(place) for place in range(len(INPUTS))]
        found = [
            State(name, "missing", f"no sample of the {name} has come for {seconds:.1f} s")
            for name, seconds in zip(SENSORS, waited, strict=False)
            if seconds > SILENT + self.slack and not self.has_odd_start()
        ]
        if len(found) == len(SENSORS):
            found = [State("samples", "missing", f"frames come, but no sample has come for {min(waited[:2]):.1f} s")]
        if self.spec.frames and waited[2] > self.frames_within + self.slack:
            found.append(State("frames", "missing", f"samples come, but no frame has come for {waited[2]:.1f} s"))
        return found

    def waited(self, place: int) -> float:
        """Return how many seconds others have gone on since an input (place in `INPUTS`) came last, and beyond it."""
        before = self.first if self.others[place] is None else self.others[place]
        seconds = 0.0
        for other, last in enumerate(self.last):
            if other != place and math.isfinite(last):
                start = before[other] if math.isfinite(before[other]) else self.first[other]
                seconds = max(seconds, min(last - start, last - self.last[place]))
        return seconds

    def idle(self) -> list[State]:
        """Return the state of a stream to which nothing comes."""
        seconds = time.monotonic() - self.came
        return [State("input", "missing", f"nothing has come for {seconds:.0f} s")] if seconds > SILENT else []
