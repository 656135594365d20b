"""Live inference: IMU samples and frames go in as they arrive, answers come out.

    import egodistill

    with egodistill.Stream(model, every=0.5, frames="centre", slack=0.05) as stream:
        stream.accept_imu(times, readings)                  # any thread, any chunk
        if stream.wants_frame(now):                         # True once per request: start the camera
            stream.accept_frame(time, picture)
        for answer in stream.results():                     # runs the networks, in this thread
            print(answer.stop, answer.classes[:1], answer.frame_age)

All times are those of one clock, the IMU sensor's; when something arrives does not matter, except for `Answer.delay`.
`accept_imu()` and `accept_frame()` check, copy and return, so drivers may call them. The feature of a frame is computed
once and kept: an answer from new head motion and a known frame costs 0.050 GMACs instead of 1.863 (student at the
paper's size). What a stream keeps of its input is in `arrivals`.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from ..engine import batches, runtime
from ..engine.runtime import Precision
from ..engine.steps import accepts_missing_input, require_same_steps, require_steps
from ..imu import MAX_GAP, MAX_READING, CoverageError, Imu
from ..recordings.sensors import State
from ..recordings.spec import read_axes, require_axes
from ..support.defaults import STREAM_FRAMES
from ..support.errors import EgoDistillError, NoteWarning, named
from .arrivals import FRAME_LEAD, Alignment, Clock, Frames, Schedule, Sensor, Silence, Stats, TimedFrame, Times
from .gates import FAST, TOLERANCE, Gate, Moved, Period, decide, replacement
from .health import SENSORS, SILENT, Health

__all__ = ["Answer", "Stream", "StreamClockError"]


MAX_PICTURE = 1 << 28  # bytes
CHOICES = {"frames": STREAM_FRAMES, "on_restart": ("raise", "reset")}


class StreamClockError(EgoDistillError):
    """The clock of the samples was restarted; the stream has been reset, and accepts the new clock."""


class Answer(NamedTuple):
    """One answer of a stream: the best classes of the clip from `start` to `stop`, or the problem.

    Attributes:
        start: Start of the clip on the clock of the samples: seconds, or an int of nanoseconds if that is what the
            samples have.
        stop: Its end, in the same unit.
        classes: (name, probability) of the best classes, the best first; [] if there is a problem.
        problem: Why there are no classes, or None.
        frame_age: `stop` minus the time of each frame that was used, in seconds.
        delay: Seconds on this host between the arrival of the sample that made the answer due and the answer.
        lag: Seconds from `stop` to the newest sample; while none come, to the time as frames tell it.
        encoded: Number of frames whose feature was computed for this answer; the others were known.
        seconds: Seconds on this host that the networks took.
        inputs: What it was computed from, "frames", "imu" or both; () if there is a problem.
    """

    start: float
    stop: float
    classes: list[tuple[str, float]]
    problem: str | None = None
    frame_age: tuple[float, ...] = ()
    delay: float = 0.0
    lag: float = 0.0
    encoded: int = 0
    seconds: float = 0.0
    inputs: tuple[str, ...] = ()


@dataclasses.dataclass
class Request:
    """A frame request whose frame has not come yet."""

    since: float  # seconds; a frame taken then or later answers it, also a late one of a request that is repeated
    last: float  # time at which it was made or repeated last
    decided: bool  # whether the gate has asked for it


class Job(NamedTuple):
    """The input of an answer: the clip, its IMU window, its frames, or a problem, and when it was due on this host."""

    number: int
    schedule: Schedule
    arrived: float
    window: np.ndarray | None
    frames: list[TimedFrame]
    problem: str | None
    inputs: tuple[str, ...]


class Stream:
    """Answers about head motion and frames as they arrive; see the module's introduction for the six lines of use.

    Times are float seconds, or integers, which are nanoseconds; all of one clock and one kind.

    With a model of `optional_inputs`, an answer whose frames are missing is computed from the IMU samples, and one
    whose samples are missing from the frames. If no samples come for `every` + `slack` seconds of frames, longer than
    from piece to piece, frames are the clock; if none come from the beginning, so is the first frame that of the grid.

    Memory, whatever the input: (clip_seconds + slack + (max_pending + 1) * every + max_jump) seconds of samples, and
    the last 11 s as they came, 32 bytes per reading; the pictures of coming answers in the model's size, one as it
    came, and their features. While frames are ahead of the samples, they wait: at most `arrivals.KEPT_BYTES`, 128 MiB.

    Args:
        model: An `EgoDistill` in evaluation mode, on its device, a pair of exported programs (`export.load_pair()`), or
            another model with the methods of `engine.steps.Student`. Many streams may share one.
        every: Seconds between answers. Answer k is about [stop - clip_seconds, stop] with stop = first sample +
            clip_seconds + k * every. The first sample is the first time at which both sensors have one (without any,
            `optional_inputs`: the first frame).
        frames: "centre": the frames on screen at the places at which the model was trained; of a camera below 10 Hz,
            the nearest ones, at most `tolerance` away. Answers are those of `predict()`, and describe what happened
            half a clip ago; the camera must run. Not for the samplings "random" and "ages". "newest": the last N
            frames, none older than `max_age`, for a student trained with such ages.
        slack: Seconds, on the sensor's clock, by which samples and frames may arrive after newer ones; every answer
            waits this long. A delay that all input shares does not count. If frames arrive seconds after the samples of
            the same time, set it to that delay.
        tolerance: Seconds, with "centre": how far a frame may be from its place.
        max_age: Seconds, with "newest": the age above which a frame is not used.
        min_coverage: Share of a window that samples must cover, as in `predict()`.
        max_gap: Seconds: the longest gap between samples that is bridged, as in `predict()`.
        imu_axes: The axes of the samples, as in `Recording`: their name, or a turn such as "XZy"; None: the model's.
        frame_clock: (offset, stretch): a frame stamped t was taken at offset + stretch * t on the clock of the samples.
        gate: With "newest": `gate(window, ages, stop)` is asked after each answer whether to request a frame, with the
            IMU window [samples, 6], the ages of the frames used and the end of the clip in seconds. It is not asked
            about the first request, nor about one that replaces a frame that has become too old. The model must read
            IMU samples, at the gate's `imu_rate` if it has one. None: `gates.Moved(gates.FAST)`, which is better than a
            period with 6 to 12 requests a minute (docs/results.md); for a model without IMU, or with several frames, a
            period of 2 s.
        period: With "newest", instead of a gate: seconds between frame requests, at most `max_age`.
        camera_delay: Seconds that the camera takes from a request to its frame, the most that is usual. Frames are
            requested so much earlier that they come in time: before the present one is too old, the period has passed
            or, with "centre", the place is reached. Decisions of a gate cannot be known earlier.
        camera_timeout: Seconds after which a request without a frame is given up and, if a frame is still needed,
            repeated. None: half a second after the frame should have come, slack + max(1, camera_delay + 0.5).
        max_pending: How many due answers may wait for `results()`; beyond it, the oldest are dropped and counted.
        max_jump: Seconds by which the clock may jump ahead at once; see `accept_imu()`. Also how long one sensor waits
            for the other before this counts as silent.
        on_restart: "raise" StreamClockError, or "reset" silently, when the clock of the samples was restarted.
        before_frames: With a model of `optional_inputs`: also answer before the first frame, from head motion alone.
        top: Number of classes of an answer.
        precision: "fp32", "bf16" or "auto", as in `evaluate()`.
        report: Gets each state of `health()` when it occurs for the first time, in the thread that calls `results()`,
            `wait()` or `finish()`. None: a warning.

    Raises:
        EgoDistillError: For arguments that do not fit.

    >>> import numpy as np
    >>> from egodistill import EgoDistill, Stream
    >>> student = EgoDistill.load("student.safetensors")
    >>> times = np.arange(0, 3, 1 / 200)
    >>> with Stream(student, every=0.5) as stream:
    ...     stream.accept_imu(times, np.tile([0.0, 0.0, 9.8, 0.0, 0.0, 0.0], (len(times), 1)))
    ...     stream.accept_frame(1.07, np.zeros((64, 64, 3), np.uint8))
    ...     for answer in stream.results():
    ...         print(f"{answer.stop:.2f} s: {len(answer.classes)} classes, frame of {answer.frame_age[0]:.2f} s ago")
    2.13 s: 5 classes, frame of 1.06 s ago
    2.63 s: 5 classes, frame of 1.56 s ago
    """

    def __init__(
        self,
        model: Any,
        *,
        every: float = 0.5,
        frames: Literal["centre", "newest"] = "centre",
        slack: float = 0.05,
        tolerance: float = 0.5,
        max_age: float = 4.0,
        min_coverage: float = 0.95,
        max_gap: float = MAX_GAP,
        imu_axes: str | None = None,
        frame_clock: tuple[float, float] = (0.0, 1.0),
        gate: Gate | None = None,
        period: float | None = None,
        camera_delay: float = 0.0,
        camera_timeout: float | None = None,
        max_pending: int = 2,
        max_jump: float = 2.0,
        on_restart: Literal["raise", "reset"] = "raise",
        before_frames: bool = False,
        top: int = 5,
        precision: Precision = "auto",
        report: Callable[[State], object] | None = None,
    ) -> None:
        batches.require_classifier(model)
        self.spec = batches.clip_spec_of(model)
        batches.require_number(named("every"), every, round(self.spec.seconds / 100, 4))
        for name, value in ((named("slack"), slack), (named("tolerance"), tolerance), ("camera_delay", camera_delay)):
            batches.require_number(name, value, 0)
        for name, value in ((named("max_age"), max_age), (named("max_gap"), max_gap), ("max_jump", max_jump)):
            batches.require_number(name, value, 0, above=True)
        if period is not None:
            batches.require_number(named("period"), period, 0, above=True)
            if gate is not None:
                raise EgoDistillError("gate and period both say when to request a frame; give one of them")
        if camera_timeout is None:
            camera_timeout = slack + max(1.0, camera_delay + 0.5)
        batches.require_number("camera_timeout", camera_timeout, 0, above=True)
        batches.require_number(named("min_coverage"), min_coverage, 0, 1, above=True)
        batches.require_number("max_pending", max_pending, 1, whole=True)
        batches.require_number(named("top"), top, 1, whole=True)
        for name, choice in (("frames", frames), ("on_restart", on_restart)):
            if choice not in CHOICES[name]:
                raise EgoDistillError(f"{name} must be one of {', '.join(CHOICES[name])}; got {choice!r}")
        for name, value in (("gate", gate), ("period", period)):
            if value is not None and frames != "newest":
                raise EgoDistillError(
                    f"{name} decides when to request a frame, so it needs {named('frames', 'newest')}; with "
                    f"'centre' the camera always runs"
                )
        if frames == "newest" and not self.spec.frames:
            raise EgoDistillError(f"the model reads no frames, so none is the newest; leave out {named('frames')}")
        if gate is not None and (isinstance(gate, type) or not callable(gate)):
            raise EgoDistillError(f"gate must be a function, or a gate such as gates.Turned(0.4); got {gate!r}")
        longest = gate.seconds if isinstance(gate, Period) else period or 0.0
        if longest > max_age:
            raise EgoDistillError(f"{named('period')} must be at most {named('max_age')}, {max_age:g} s; got {longest}")
        if gate is not None and not self.spec.imu_samples:
            raise EgoDistillError("gate is asked about head motion, and this model reads none; give period instead")
        rate = self.spec.imu_rate
        if (counted := getattr(gate, "imu_rate", rate)) != rate:
            raise EgoDistillError(
                f"gate counts {counted} samples per second, and the model reads {rate}; build it with imu_rate={rate}"
            )
        if not set(batches.inputs_of(model)) <= {"frames", "imu"}:
            raise EgoDistillError(f"a stream has frames and IMU samples; the model reads {', '.join(model.inputs)}")
        steps = ("encode_frames", "aggregate") if self.spec.frames else ()
        steps = (*steps, "encode_imu", "fuse") if self.spec.imu_samples else (*steps, "fuse")
        require_steps(model, steps, "a stream", "; predict() takes any model")
        self.model = model
        self._require_evaluation()
        require_same_steps(model, "a stream")
        self._turn = None
        if imu_axes is not None:
            if not self.spec.imu_samples:
                raise EgoDistillError(f"the model reads no IMU samples; leave out {named('imu_axes')}")
            axes, self._turn = read_axes(imu_axes)
            require_axes("the stream", axes, self.spec)
        offset, stretch = frame_clock
        batches.require_number(named("frame_clock[0]", option="--frame-offset"), offset)
        batches.require_number(named("frame_clock[1]", option="--frame-stretch"), stretch, 0, above=True)
        self.partial = accepts_missing_input(model)
        if before_frames and not self.partial:
            raise EgoDistillError("before_frames is for a model of optional_inputs; this one needs all of its inputs")
        self.before_frames = before_frames
        self.every, self.slack, self.top = every, slack, top
        self.choice, self.tolerance, self.max_age, self.frame_clock = frames, tolerance, max_age, (offset, stretch)
        self.limits = {"min_coverage": min_coverage, "max_gap": max_gap}
        if frames == "newest" and gate is None and period is None and self.spec.frames == 1 and self.spec.imu_samples:
            gate = Moved(FAST, imu_rate=self.spec.imu_rate)
        self.gate, self.period = gate, period or 2.0
        self.camera_delay, self.camera_timeout = camera_delay, camera_timeout
        self.max_pending, self.max_jump, self.on_restart = max_pending, max_jump, on_restart
        tensors = model.parameters() if isinstance(model, torch.nn.Module) else ()
        self.device = next((parameter.device for parameter in tensors), torch.device("cpu"))
        self.precision = runtime.pick_precision(self.device, precision, model)
        if isinstance(model, torch.nn.Module):
            self.model = runtime.with_cast_weights(model, self.precision)
        self._given = model  # whose temperature counts
        self.names = getattr(model, "class_names", None)
        self.report, self._reported = report, set[str]()
        self._stats = Stats()
        self._lock = threading.Condition()
        self._computing = threading.Lock()
        self._open, self._finished, self._taken = True, False, 0
        self._ready: list[Answer] = []  # computed, not yet given
        self._failure: Exception | None = None  # raised once the answers before it have been given
        self._begin()

    def _require_evaluation(self) -> None:
        if isinstance(self.model, torch.nn.Module) and any(layer.training for layer in self.model.modules()):
            raise EgoDistillError("the model is in training mode; call model.eval() before it is used in a stream")

    def _begin(self) -> None:
        """Start with a new clock and no samples, frames and answers."""
        self._clock, self._schedule = Clock(), Schedule(self.spec, self.every)
        if self.spec.imu_samples:
            self._sensors = [Sensor(self.slack, self.max_jump, self._stats) for _ in range(2)]
        else:  # frames are the clock
            self._sensors = [Sensor(self.slack, FRAME_LEAD, Stats())]
        self._frames = Frames(self._schedule, self.choice, self.tolerance, self.max_age, self._stats)
        self._alignment = Alignment()
        late, within = 0.0, max(SILENT, 2 * self.every, 2 * self.tolerance)
        if self.choice == "newest":
            late, within = self.max_age, self.max_age + self.camera_timeout + self.camera_delay + SILENT
        elif self.spec.frames:
            late = self.spec.seconds - float(self._frames.places[-1])
        limits = {"slack": self.slack, "late": late + self.slack, "frames_within": within}
        self._health = Health(self.spec, self._stats, self._alignment, **limits)
        self._pending: deque[tuple[int, float]] = deque()
        self._camera = Sensor(self.slack, FRAME_LEAD, Stats())  # the times of frames, while they are the clock
        self._silence = {"frames": Silence(), "calls": Silence()}  # of samples
        self._had_frames = False  # whether an answer had
        self._request: Request | None = None
        self._asked = -math.inf  # "centre": the last place of a clip for which a frame was requested
        self._look = True  # "newest" with a gate: its last decision

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()
        if error is None:
            self._raise_failure()

    # --- Input: any thread --------------------------------------------------------------------------

    def accept_imu(self, times: Times, readings: Any) -> None:
        """Add samples, in any order, in the axes of the training recordings, or in `imu_axes`.

        Samples are dropped and counted (`stats`) if they lack a finite time or number, have the time of another sample,
        or are more than `slack` older than the newest one. A sample more than `max_jump` ahead is held back until the
        next call shows whether it is valid. If all samples are more than `max_jump` in the past for a second, the clock
        was restarted: the stream is reset, and the next call begins the new recording. After a smaller step back, the
        answers about clips across it have a problem.

        Args:
            times: [n], seconds or nanoseconds. Copied.
            readings: Float [n, 6]: accelerometer xyz in m/s2, gyroscope xyz in rad/s. Copied. A row of one sensor has
                NaN in the other three columns. Masked values count as NaN.

        Raises:
            StreamClockError: Once, if the clock was restarted, unless on_restart="reset".
            EgoDistillError: For other shapes, another kind of times, and a stream that was closed.
        """
        try:
            if isinstance(readings, np.ma.MaskedArray):
                readings = np.ma.filled(readings.astype(np.float64), np.nan)
            table = np.array(readings, np.float64, ndmin=2)
        except (ValueError, TypeError) as error:
            raise EgoDistillError(f"readings must be numbers, float [n, 6]: {error}") from error
        arrived = time.monotonic()
        with self._lock:
            self._require_open()
            seconds = self._clock.seconds(times)
            if not len(seconds) and not table.size:
                return
            if not self.spec.imu_samples:
                raise EgoDistillError("the model reads no IMU samples; leave out accept_imu()")
            if table.shape != (len(seconds), 6):
                raise EgoDistillError(
                    f"readings must be [{len(seconds)}, 6], one row per time: accelerometer xyz in m/s2, gyroscope xyz "
                    f"in rad/s; got {list(table.shape)}"
                )
            if self._turn is not None:
                table = (table.reshape(-1, 2, 3) @ self._turn.T).reshape(-1, 6)
            before = [sensor.newest for sensor in self._sensors]
            if self._add(seconds, table):
                self._restart()
            elif [sensor.newest for sensor in self._sensors] != before:
                for silence in self._silence.values():
                    silence.note_samples()
            self._update(arrived)

    def _add(self, seconds: np.ndarray, table: np.ndarray) -> bool:
        """Give each sensor its samples; return whether the clock of one was restarted."""
        restarted, valid = False, np.abs(table) < MAX_READING  # NaN: False
        whole = valid.all() and np.isfinite(seconds).all()  # nearly always
        for place, sensor in enumerate(self._sensors):
            part = slice(3 * place, 3 * place + 3)
            stamps, readings, steps = seconds, table[:, part], len(sensor.steps)
            if not whole:
                present = ~np.isnan(readings).all(axis=1)
                usable = present & np.isfinite(seconds) & valid[:, part].all(axis=1)
                wrong = int(np.count_nonzero(present & ~usable))
                self._stats.samples += wrong
                self._stats.invalid += wrong
                stamps, readings = seconds[usable], readings[usable]
            restarted |= sensor.add(stamps, readings)
            if not len(stamps):
                continue
            self._health.note_samples(place, stamps, readings, sensor.newest)
            if place == 0:
                self._alignment.note_samples(stamps)
            if len(sensor.steps) > steps:
                self._health.note_step("samples", sensor.steps[-1])
                self._frames.forget(sensor.steps[-1].stop)  # by its time, one of before would be younger than it is
        return restarted

    def accept_frame(self, moment: float | int, picture: np.ndarray) -> None:
        """Add a frame; it is dropped and counted if no coming answer would use it.

        Pictures of the model's size give the scores of `predict()` to the bit. Others are scaled from RGB, where
        `predict()` scales what was decoded, so that probabilities differ slightly.
        `feeds.VideoFeed(size=)` gives pictures of the model's size.

        Args:
            moment: Middle of the exposure on the camera's clock (`frame_clock`), in seconds or nanoseconds.
            picture: Upright RGB, uint8 [H, W, 3] of any size. Copied.

        Raises:
            EgoDistillError: For another shape or type, another kind of time, and a stream that was closed.
        """
        given = np.asarray(picture)
        if given.ndim != 3 or given.shape[2] != 3 or given.dtype != np.uint8 or not 0 < given.size <= MAX_PICTURE:
            raise EgoDistillError(
                f"a picture must be RGB, uint8 [height, width, 3]; got {given.dtype} {list(given.shape)}"
            )
        if isinstance(picture, np.ma.MaskedArray) and np.ma.is_masked(picture):
            raise EgoDistillError("a picture must have all its pixels; got a masked array")
        arrived = time.monotonic()
        with self._lock:
            self._require_open()
            if not self.spec.frames:
                raise EgoDistillError("the model reads no frames; leave out accept_frame()")
            seconds = self._frame_seconds(moment)
            self._stats.frames += 1
            self._health.note_picture(seconds, given)
            newest = seconds
            if self._request is not None and seconds >= self._request.since:
                self._stats.answered += 1
                self._stats.camera_on += max(0.0, seconds - self._request.last)
                self._request, self._look = None, False  # the frame also answers a later request of the gate
            if not self.spec.imu_samples:
                (sensor,) = self._sensors
                steps, restarted = len(sensor.steps), sensor.add(np.array([seconds]), np.full((1, 3), np.nan))
                if len(sensor.steps) > steps:
                    self._health.note_step("frames", sensor.steps[-1])
                if restarted:
                    self._stats.refused += 1
                    self._restart()
                    return
                newest = sensor.newest
            if self.partial and self._clocked_by(seconds):
                return
            self._health.note_progress(len(SENSORS), newest)
            self._alignment.note_frame(seconds)
            clocks = (*self._sensors, self._camera) if self.partial else self._sensors
            ahead = max(self._frames.latest, *(sensor.newest for sensor in clocks))
            if math.isfinite(ahead) and seconds > ahead + FRAME_LEAD:
                self._stats.refused += 1
                return
            self._frames.add(TimedFrame(seconds, given.copy()), self._first_open())
            self._update(arrived)
            self._lock.notify_all()  # to `wait()`, which scales the picture

    def _clocked_by(self, seconds: float) -> bool:
        """Note the time of a frame; return whether the stream was reset, because frames were the clock."""
        samples = any(math.isfinite(sensor.first) for sensor in self._sensors)
        was_clock = not samples or self._now_without_samples() is not None
        if self._camera.add(np.array([seconds]), np.full((1, 3), np.nan)):
            if was_clock:
                self._stats.refused += 1
                self._restart()
                return True
            self._camera, self._silence["frames"] = Sensor(self.slack, FRAME_LEAD, Stats()), Silence()
        self._silence["frames"].note(self._camera.newest)
        return False

    def _now_without_samples(self) -> float | None:
        """Return the time in seconds, as frames and calls tell it, if no samples come; None if they do, or have to.

        A student that can then answers from frames alone.
        """
        told = [one for one in self._silence.values() if self.partial and one.lasts(self.slack + self.every)]
        newest = max(sensor.newest for sensor in self._sensors)
        return max((one.time_after(newest) for one in told), default=None)

    def _frame_seconds(self, moment: float | int) -> float:
        """Return a time of the camera on the clock of the samples."""
        offset, stretch = self.frame_clock
        seconds = self._clock.second(moment)
        origin = (self._clock.origin or 0) / 1e9
        return offset + (stretch - 1) * origin + stretch * seconds if self.frame_clock != (0.0, 1.0) else seconds

    def wants_frame(self, now: float | int) -> bool:
        """Return whether to take a frame now; it is True once per request.

        A request stays outstanding until a frame taken at `now` or later arrives. After `camera_timeout` without one,
        the next call repeats it if a frame is still needed; a late frame then answers, too.

        Args:
            now: The time on the clock of the samples, in seconds or nanoseconds.
        """
        with self._lock:
            self._require_open()
            moment = since = self._clock.second(now)
            self._silence["calls"].note(moment)
            silent = self._now_without_samples() is not None
            if silent:
                self._update(time.monotonic())
            if (former := self._request) is not None:
                if moment - former.last < self.camera_timeout:
                    return False
                self._stats.given_up += 1
                self._stats.camera_on += self.camera_timeout
                self._request, since = None, former.since
                self._look |= former.decided
            if not self.spec.frames or not self._needs_frame(moment + self.camera_delay, silent):
                return False
            self._stats.requests += 1
            self._request, self._look = Request(since, moment, self._look), False
            return True

    def _needs_frame(self, moment: float, silent: bool) -> bool:
        """Return whether a frame at this time would be of use; the samples are `silent`, or come."""
        schedule = self._schedule
        if self.choice == "newest":
            newest = max((frame.time for frame in self._frames.kept if frame.time <= moment), default=-math.inf)
            due = self._look if self.gate else moment - newest >= self.period - TOLERANCE
            if silent:  # so frames are all that answers have
                due |= moment - newest >= self.every - TOLERANCE
            if not due and moment < self._replacement(newest):
                return False
            if schedule.anchor is None:
                return True
            following = max(self._first_open(), schedule.first_from(moment, schedule.stop))
            return schedule.stop(following) - self.max_age <= moment  # else it is too old for the next answer
        if schedule.anchor is None:
            return self.partial or not self.spec.imu_samples
        ends = (lambda k, place=place: schedule.start(k) + place for place in map(float, self._frames.places))
        wanted = max((end(k) for end in ends if (k := schedule.last_before(moment, end)) >= 0), default=-math.inf)
        if wanted <= self._asked:
            return False
        self._asked = wanted
        return True

    def _replacement(self, newest: float) -> float:
        """Return when to take the frame that replaces the newest one, which becomes too old."""
        schedule, end = self._schedule, newest + self.max_age
        if schedule.anchor is not None and newest > -math.inf:  # of the first answer that cannot use it
            end = schedule.stop(schedule.last_before(end, schedule.stop) + 1)
        return replacement(end, self.every, slack=self.slack, max_age=self.max_age, camera_delay=self.camera_delay)

    # --- Output: one thread at a time ---------------------------------------------------------------

    def results(self) -> list[Answer]:
        """Run the networks for the answers that are due, and return these, the oldest first. Never wait for input.

        If the model or the gate raises an error after answers have been computed, those are returned, and the next call
        raises it, or else the end of the `with` block. An answer whose model fails is dropped and counted.
        """
        self._report_states()
        with self._computing:
            self._raise_failure()
            with self._lock:
                count = len(self._pending)
                if not count:
                    self._frames.scale_newest()
            try:
                for _ in range(count):
                    self._compute()
            except Exception as error:
                if not self._ready:
                    raise
                self._failure = error
            found, self._ready = self._ready, []
        if count:
            self._health.note_busy()
        return found

    def _raise_failure(self) -> None:
        """Raise the error that came after answers which have been given."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until an answer is due or the input has ended; return whether `results()` has something to give.

        The time is used to scale a new picture. In asyncio: `await asyncio.to_thread(stream.wait, 0.5)`.

        Args:
            timeout: Seconds to wait at most; None: without limit.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                waits = self._open and not (self._finished or self._has_results())
                if not waits or (left := end - time.monotonic()) <= 0:
                    return self._has_results()
                self._frames.scale_newest()
                self._lock.wait(min(left, SILENT))
            self._report_states()

    def _has_results(self) -> bool:
        return bool(self._pending or self._ready or self._failure)

    def finish(self) -> list[Answer]:
        """End the input, and return the answers that the samples so far complete, without waiting for `slack`."""
        with self._lock:
            self._require_open()
            self._finished = True
            self._update(time.monotonic(), final=True)
            self._lock.notify_all()
        self._report_states(at_once=True)
        return self.results()

    def health(self) -> list[State]:
        """Return what is wrong with the input at present, as states with a sentence each; [] if nothing is.

        A state that occurs for the first time is also reported by `results()`, `wait()` and `finish()`.

        | state | what was seen |
        | --- | --- |
        | "accelerometer units" and others | those of `sensors.motion_states()`, about the last 11 s |
        | "frame times" | times that are neither seconds nor nanoseconds |
        | "samples late", "samples double", "samples invalid" | more than 5 % of the last readings |
        | "no accelerometer", "no gyroscope", "no samples", "no frames" | an input that does not come, while others do |
        | "no input" | nothing has come for 5 s |
        | "clock stepped", "clocks apart" | a clock that stepped, or that is another one |
        | "frames late" | answers lack frames, because these come too late |
        | "pictures blank", "pictures frozen" | for 5 s, one colour, or the same picture while the head moves |
        | "pictures tiny" | pictures of less than a quarter of the model's height or width |
        """
        with self._lock:
            return self._states()

    def reset(self) -> None:
        """Forget the clock, samples, frames, requests and answers that are due, and accept a new recording.

        The counters stay; what is forgotten counts as invalid, refused, given up and dropped, as does an answer that
        another thread is computing.
        """
        with self._lock:
            self._reset()
            self._finished = False

    def close(self) -> None:
        """End the stream. Calls that give it input raise EgoDistillError afterwards."""
        with self._lock:
            self._open = False
            self._lock.notify_all()

    @property
    def stats(self) -> Stats:
        """Return a copy of the counters."""
        with self._lock:
            found = dataclasses.replace(self._stats)
            found.pending, found.outstanding = len(self._pending) + self._taken, int(self._request is not None)
            return found

    def _report_states(self, *, at_once: bool = False) -> None:
        """Report states that occur for the first time; `at_once` searches for them although little has come."""
        if not (self._health.is_due() or at_once):
            return
        with self._lock:
            fresh = [state for state in self._states() if state.name not in self._reported]
            self._reported.update(state.name for state in fresh)
        for state in fresh:
            if self.report is not None:
                self.report(state)
            else:
                warnings.warn(f"{state.name}: {state.text}", NoteWarning, stacklevel=3)

    # --- Under the lock ------------------------------------------------------------------------------

    def _states(self) -> list[State]:
        over = self._finished or not self._open
        return self._health.states() + ([] if over else self._health.idle())

    def _require_open(self) -> None:
        if not self._open or self._finished:
            raise EgoDistillError(
                "the stream is closed" if not self._open else "the stream is finished; reset() starts a new recording"
            )

    def _reset(self) -> None:
        stats = self._stats
        stats.invalid += stats.held
        stats.refused += stats.waiting
        stats.dropped += len(self._pending)
        stats.given_up += self._request is not None
        stats.held = stats.waiting = 0
        self._begin()

    def _restart(self) -> None:
        self._stats.restarts += 1
        self._reset()
        if self.on_restart == "raise":
            raise StreamClockError(
                "the clock was restarted: for a second, all samples were more than "
                f"{self.max_jump if self.spec.imu_samples else FRAME_LEAD:g} s older than the newest one. The stream "
                "has been reset; go on with the samples of the new clock, or pass on_restart='reset'"
            )

    def _first_open(self) -> int:
        """Return the number of the first answer that is not computed yet."""
        return self._pending[0][0] if self._pending else self._schedule.next

    def _update(self, arrived: float, final: bool = False) -> None:
        """Note the answers that have become due, and forget what no answer needs."""
        schedule = self._schedule
        if schedule.anchor is None:
            self._set_anchor(final)
        if schedule.anchor is None:
            return
        last = self._last_due(final)
        if last >= schedule.next:
            first, schedule.next = schedule.next, last + 1
            self._stats.due += last + 1 - first
            fresh = range(first if final else max(first, last + 1 - self.max_pending), last + 1)
            self._stats.dropped += last + 1 - first - len(fresh)
            self._pending.extend((number, arrived) for number in fresh)
            while not final and len(self._pending) > self.max_pending:
                self._pending.popleft()
                self._stats.dropped += 1
            self._lock.notify_all()
        margin = 1 / self.spec.imu_rate if self.spec.imu_samples else 0.0  # read by `Imu.window()`
        for sensor in (*self._sensors, self._camera):
            sensor.forget(schedule.start(self._first_open()) - margin)

    def _set_anchor(self, final: bool) -> None:
        """Start the grid of answers at the first sample, once no earlier one can arrive."""
        slack = 0.0 if final else self.slack
        present = [sensor for sensor in self._sensors if math.isfinite(sensor.first)]
        if present:
            if any(sensor.newest - slack < sensor.first for sensor in present):
                return
            waits = len(present) < len(self._sensors) and present[0].newest - slack < present[0].first + self.max_jump
            anchor = max(sensor.first for sensor in present)
        elif self.partial and math.isfinite(self._camera.first):  # no samples, but frames
            anchor = self._camera.first
            waits = self._camera.newest - slack < anchor + self.max_jump
        else:
            return
        if waits and not final:  # for the first sample of a sensor
            return
        convert = self._clock.move_origin(anchor)
        for sensor in self._sensors:
            sensor.move(convert)
        self._health.move(convert)
        self._alignment.move(convert)
        for frame in self._frames.kept:
            frame.time = float(convert(np.float64(frame.time)))
        if (request := self._request) is not None:
            request.since, request.last = (float(convert(np.float64(t))) for t in (request.since, request.last))
        self._schedule.anchor = float(convert(np.float64(anchor)))
        self._frames.begin(max(self._schedule.anchor, *(sensor.newest for sensor in self._sensors)))
        self._camera.move(convert)
        for silence in self._silence.values():
            silence.move(convert)

    def _last_due(self, final: bool) -> int:
        """Return the number of the last answer that is due."""
        schedule, slack = self._schedule, 0.0 if final else self.slack
        marks = [sensor.newest - slack for sensor in self._sensors]
        without = max(marks) - self.max_jump  # until then, a sensor that is silent is not waited for
        if (now := self._now_without_samples()) is not None:
            without = max(without, now - slack - (0.0 if final else self.every))
        if not final and max(*marks, without) < schedule.stop(schedule.next):  # nearly always
            return schedule.next - 1
        if not self.spec.imu_samples:
            return schedule.last_before(marks[0], schedule.stop)
        last = schedule.last_before(min(marks), schedule.grid_end if final else schedule.stop)
        first = max(schedule.next - 1, schedule.last_before(without, schedule.stop))
        # The samples on both sides of the window's last point decide its value.
        while last > first and not all(
            sensor.has_between(schedule.grid_end(last), mark) for sensor, mark in zip(self._sensors, marks, strict=True)
        ):
            last -= 1
        return max(last, first)

    # --- The networks --------------------------------------------------------------------------------

    def _take(self) -> Job | None:
        """Return what the next answer needs; None if none is due any more."""
        with self._lock:
            if not self._pending:
                return None
            number, arrived = self._pending.popleft()
            self._taken = 1
            window, problem, inputs = None, None, self.model.inputs
            if self.spec.imu_samples:
                accel, gyro = self._sensors
                motion = Imu(accel.times, accel.values, gyro.times, gyro.values)
                start, samples, rate = self._schedule.start(number), self.spec.imu_samples, self.spec.imu_rate
                try:
                    window = motion.window(start, samples, rate, **self.limits)
                except CoverageError as error:
                    problem = str(error)
            stepped = self._stepped(self._schedule.start(number), self._schedule.stop(number))
            frames = self._frames.pick(number) if self.spec.frames else []
            lacks = len(frames) < self.spec.frames
            self._had_frames |= not lacks
            if problem is None and not stepped:
                self._health.lacking = self._health.lacking + 1 if lacks else 0
            if self.partial and not stepped and lacks != (window is None):
                if window is None:
                    problem, inputs = None, ("frames",)
                elif self._had_frames or self.before_frames:
                    lacks, frames, inputs = False, [], ("imu",)
            problem = problem or stepped or (self._lacking(frames) if lacks else None)
            if problem is None:
                for frame in frames:
                    if not frame.taken:
                        frame.taken = True
                        self._frames.scale(frame)
                        self._stats.encoded += 1
                        self._stats.waiting -= 1
            self._frames.thin(self._first_open())
            return Job(number, self._schedule, arrived, window, frames, problem, () if problem else tuple(inputs))

    def _stepped(self, start: float, stop: float) -> str | None:
        """Return which step of a clock parts what an answer would join; None if there is none."""
        names, sensors = (*(SENSORS if self.spec.imu_samples else ()), "frames"), [*self._sensors, self._camera]
        for name, sensor in zip(names, sensors, strict=False):  # `_camera` knows of frames in a partial stream alone
            if (step := sensor.stepped(start, stop)) is not None:
                return (
                    f"the clock of the {name} stepped back by {step.seconds:.2f} s at {step.stop:.2f} s, in this clip"
                )
        if self._alignment.apart:
            return (
                f"frames and samples are no longer on one clock: one of their clocks stepped by "
                f"{abs(self._alignment.apart):.1f} s"
            )
        return None

    def _lacking(self, frames: list[TimedFrame]) -> str:
        where = f"within {self.tolerance:g} s of its place" if self.choice == "centre" else ""
        where = where or f"of the last {self.max_age:g} s"
        count = self.spec.frames
        return f"no frame {where}" if count == 1 else f"{len(frames)} of {count} frames, each {where}"

    def _compute(self) -> None:
        """Compute the next answer that is due, and ask the gate about it."""
        if (job := self._take()) is None:
            return
        classes: list[tuple[str, float]] = []
        problem, encoded, took = job.problem, 0, 0.0
        try:
            if problem is None:
                encoded = sum(frame.feature is None for frame in job.frames)
                began = time.monotonic()
                scores = self._scores(job)
                took = time.monotonic() - began
                if np.isfinite(scores).all():
                    best = np.argsort(-scores, kind="stable")[: self.top].tolist()
                    names = self.names or range(len(scores))
                    classes = [(str(names[k]), scores[k].item()) for k in best]
                else:
                    problem = "the model's scores are not finite"
        except BaseException:
            with self._lock:
                self._taken = 0
                self._stats.dropped += 1
            raise
        with self._lock:
            self._taken = 0
            if job.schedule is not self._schedule:  # the clock was restarted meanwhile
                self._stats.dropped += 1
                return
            self._stats.given += problem is None
            self._stats.problems += problem is not None
            stop, start = job.schedule.stop(job.number), job.schedule.start(job.number)
            ages = tuple(stop - frame.time for frame in job.frames)
            now = self._now_without_samples()
            newest = max(sensor.newest for sensor in self._sensors) if now is None else now
            answer = Answer(
                self._clock.given(start),
                self._clock.given(stop),
                classes,
                problem,
                ages,
                delay=time.monotonic() - job.arrived,
                lag=newest - stop,
                encoded=encoded,
                seconds=took,
                inputs=job.inputs if problem is None else (),
            )
            self._ready.append(answer)
        if self.gate is not None and job.window is not None:
            look = decide(self.gate, job.window, ages, stop)
            with self._lock:  # a decision counts if it is about the newest frame and this clock
                later = any(frame.time > stop for frame in self._frames.kept)
                self._look |= look and not later and job.schedule is self._schedule

    @torch.no_grad()
    def _scores(self, job: Job) -> np.ndarray:
        """Return the probabilities of the classes, float32 [C]."""
        if getattr(self.model, "training", False):  # since the stream was opened; a look at every layer takes 0.04 ms
            self._require_evaluation()
        with runtime.autocast(self.device, self.precision):
            image = None
            for frame in job.frames:
                if frame.feature is None:
                    pixels = torch.from_numpy(frame.picture).to(self.device)[None, None]
                    frame.feature, frame.picture = self.model.encode_frames(pixels, 1), None
            if job.frames:
                image = self.model.aggregate(torch.cat([frame.feature for frame in job.frames], dim=1))
            motion = None
            if job.window is not None:
                motion = self.model.encode_imu(torch.from_numpy(job.window).to(self.device)[None])
            output = batches.as_output(self.model, self.model.fuse(image, motion), self.names and len(self.names))
        alone = job.inputs[0] if self.partial and len(job.inputs) == 1 else None
        scores = batches.probabilities(self._given, output.logits, alone)
        return scores[0].cpu().numpy()  # what follows is faster on so few numbers there
