"""Gates: when a sleeping camera should take the next frame.

    from egodistill import Stream, gates

    gate = gates.Turned(0.6)                            # request a frame after the head has turned by 0.6 rad
    with Stream(student, frames="newest", gate=gate) as stream:
        ...

A gate is called after each answer with the IMU window, the ages of the frames that were used, and the end of the clip;
it returns whether to request a new frame. Any function with these arguments is a gate. `simulate()` runs a gate on a
recording whose windows and frame times are known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..engine.batches import require_number
from ..recordings.sensors import FAST_TURN
from ..support.defaults import CLIP_SECONDS, IMU_RATE
from ..support.errors import EgoDistillError

__all__ = [
    "FrameRequests",
    "Moved",
    "Period",
    "Turned",
    "decide",
    "simulate",
]

TOLERANCE = 1e-6  # s; an age of four steps of 0.5 s may be a little below 2.0
FAST = 1.5  # rad/s: the head turns to something new; the threshold of the default gate of `Stream`

# Thresholds above these are never reached: they are in another unit.
MAX_PERIOD = 600.0  # s
FARTHEST_TURN = round(10 * CLIP_SECONDS, 1)  # rad: a clip at 10 rad/s; a wrist that plays badminton has a mean of 7

# (window [samples, 6] in m/s2 and rad/s, ages of the frames in s, end of the window in s) -> whether to request a frame
Gate = Callable[[np.ndarray, Sequence[float], float], bool]


@dataclasses.dataclass
class Period:
    """Gate that requests a frame when the newest one has reached a fixed age, like `Stream(period=...)`.

    Attributes:
        seconds: Age of the newest frame, in seconds, from which on to request another; at most 600, and in a `Stream`
            at most its `max_age`.

    >>> from egodistill import gates
    >>> gate = gates.Period(2.0)
    >>> gate(None, [3.5, 1.5], 12.0), gate(None, [4.0, 2.0], 12.5)
    (False, True)
    """

    seconds: float

    def __post_init__(self) -> None:
        require_number("seconds", self.seconds, 0, MAX_PERIOD, above=True)

    def __call__(self, window: np.ndarray, ages: Sequence[float], stop: float) -> bool:
        return bool(min(ages, default=np.inf) >= self.seconds - TOLERANCE)


@dataclasses.dataclass
class Moved:
    """Gate that requests frames while the head moves: the RMS of the gyroscope over the end of the window is high.

    Attributes:
        rate: RMS in rad/s from which on to request a frame, at most 35, the range of gyroscopes.
        seconds: Seconds at the end of the window over which the RMS is taken.
        imu_rate: Samples of the window per second.

    >>> import numpy as np
    >>> from egodistill import gates
    >>> gate, window = gates.Moved(0.5), np.zeros((422, 6))
    >>> still = gate(window, [1.0], 12.0)
    >>> window[-50:, 4] = 1.2
    >>> still, gate(window, [1.0], 12.0)
    (False, True)
    """

    rate: float
    seconds: float = 0.5
    imu_rate: float = IMU_RATE

    def __post_init__(self) -> None:
        require_number("rate", self.rate, 0, FAST_TURN)
        require_number("imu_rate", self.imu_rate, 0, above=True)
        require_number("seconds", self.seconds, 0, above=True)

    def __call__(self, window: np.ndarray, ages: Sequence[float], stop: float) -> bool:
        part = window[-max(1, round(self.seconds * self.imu_rate)) :, 3:]
        return bool(np.sqrt(np.square(part).sum(axis=1).mean()) >= self.rate)


@dataclasses.dataclass
class Turned:
    """Gate that requests a frame when the head has turned far since the newest frame: the camera shows other objects.

    The gyroscope is integrated, axis by axis, from the time of the frame to the end of the window, or from the window's
    start if the frame is older; so the angle is that of small turns. Without a frame the answer is yes.

    Attributes:
        angle: Angle in rad from which on to request a frame, at most 21.3: a head does not turn faster than 10 rad/s
            for a whole clip.
        imu_rate: Samples of the window per second.

    >>> import numpy as np
    >>> from egodistill import gates
    >>> gate, window = gates.Turned(0.4), np.zeros((422, 6))
    >>> window[-99:, 4] = 1.0                      # half a second
    >>> gate(window, [0.3], 12.0), gate(window, [0.6], 12.0)
    (False, True)
    """

    angle: float
    imu_rate: float = IMU_RATE

    def __post_init__(self) -> None:
        require_number("angle", self.angle, 0, FARTHEST_TURN)
        require_number("imu_rate", self.imu_rate, 0, above=True)

    def __call__(self, window: np.ndarray, ages: Sequence[float], stop: float) -> bool:
        if not len(ages):
            return True
        count = min(len(window), max(0, round(min(ages) * self.imu_rate)))
        turn = window[len(window) - count :, 3:].sum(axis=0) / self.imu_rate
        return bool(np.linalg.norm(turn) >= self.angle)


def decide(gate: Gate, window: np.ndarray, ages: Sequence[float], stop: float) -> bool:
    """Return what a gate decides, as a bool.

    Args:
        gate: The gate.
        window: The IMU window, [samples, 6].
        ages: Ages of the frames that were used, in seconds.
        stop: End of the window in seconds.

    Raises:
        EgoDistillError: For a result that is neither True nor False, such as None of a function that forgot to return.

    >>> from egodistill import gates
    >>> gates.decide(lambda window, ages, stop: stop > 10, None, [1.0], 12.0)
    True
    """
    if isinstance(found := gate(window, ages, stop), (bool, np.bool_)):
        return bool(found)
    name = getattr(gate, "__name__", type(gate).__name__)
    raise EgoDistillError(f"a gate returns True or False; {name} returned {found!r}")


class FrameRequests(NamedTuple):
    """The frame requests of a gate on a recording, from `simulate()`, as indices of frames.

    Attributes:
        used: int [K]: the frame of each answer, -1 for none.
        taken: The frames that were taken, in order.
    """

    used: np.ndarray
    taken: list[int]


def simulate(
    gate: Gate,
    windows: Sequence[np.ndarray],
    stops: np.ndarray,
    frames: np.ndarray,
    *,
    slack: float = 0.05,
    max_age: float = 4.0,
    camera_delay: float = 0.0,
) -> FrameRequests:
    """Return the frames that a `Stream` with this gate and N = 1 takes of a recording, without running a network.

    The first frame is taken without a request of the gate, and another one when the newest becomes older than
    `max_age`; see `replacement()`. A request after an answer takes the first frame at least `slack` + `camera_delay`
    after the end of its window, because the answer is not known earlier.

    Args:
        gate: The gate.
        windows: The IMU windows of K answers, as the gate takes them.
        stops: [K], the ends of these windows in seconds, in order.
        frames: [F], the times at which the camera could take a frame, in seconds and in order.
        slack: Seconds, as for `Stream`.
        max_age: Seconds: the age above which a frame is not used.
        camera_delay: Seconds from a request to its frame, as for `Stream`.

    Raises:
        EgoDistillError: For times that are not in order, and a decision that is not a bool.

    >>> import numpy as np
    >>> from egodistill import gates
    >>> stops, frames = np.arange(2, 8, 0.5), np.arange(0, 8, 0.5)
    >>> gates.simulate(gates.Period(2.0), [None] * len(stops), stops, frames).used.tolist()
    [0, 5, 5, 5, 5, 5, 10, 10, 10, 10, 10, 15]
    """
    for name, times in (("stops", stops), ("frames", frames)):
        if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
            raise EgoDistillError(f"{name} must be finite times in ascending order")
    taken: list[int] = []
    every = float(np.median(np.diff(stops))) if len(stops) > 1 else 0.0
    used, request = np.full(len(stops), -1), -np.inf  # `request`: from when on the requested frame is taken
    for k, (window, stop) in enumerate(zip(windows, stops, strict=True)):
        next_frame = int(np.searchsorted(frames, request))
        if next_frame < len(frames) and frames[next_frame] <= stop:
            taken.append(next_frame)
            request = np.inf
        age = stop - frames[taken[-1]] if taken else np.inf
        if 0 <= age <= max_age:
            used[k] = taken[-1]
        look = decide(gate, window, (age,) if used[k] >= 0 else (), stop)
        if request < np.inf or k + 1 == len(stops):
            continue  # a frame that comes also answers this decision
        decided = stop + slack + camera_delay if look else np.inf
        ages = stops - frames[taken[-1]]
        late = int(np.searchsorted(ages, max_age, side="right"))  # the first answer that cannot use the newest frame
        following = stops[late] if late < len(stops) else stop + every * (np.floor((max_age - age) / every) + 1)
        needed = replacement(following, every, slack=slack, max_age=max_age, camera_delay=camera_delay)
        if needed < stop + every + slack + camera_delay:  # before the next decision
            decided = min(decided, needed)
        request = decided
    return FrameRequests(used, taken)


def replacement(stop: float, every: float, *, slack: float, max_age: float, camera_delay: float = 0.0) -> float:
    """Return when to take the frame that replaces one which is too old for the answer at `stop`, in seconds.

    That is once the answer before has been given, `slack` after its own end, but with half of `every` left. Of a camera
    that is slow to start, half a `camera_delay` more is left: for a picture that is late, and so that after a lost one
    the next comes soon.

    `slack`, `max_age` and `camera_delay` are seconds, as for `simulate()`, `every` the seconds between answers; the new
    frame is younger than `max_age`.
    """
    return max(stop - every + min(slack, every / 2) - camera_delay / 2, stop - max_age)
