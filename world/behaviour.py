"""Behaviour of the wearers in the rendered world: objects and verbs, acts, head motion, readings of the sensor.

    from egodistill import behaviour

    wearer = behaviour.draw_wearer("P01", seed=0)
    acts = behaviour.draw_acts(wearer, [0, 1, 8], (0.4, 3.2), 1.0, rng)      # verbs, gaps, coupling
    head = behaviour.HeadMotion(wearer, acts, duration=12.0, rng=rng)
    rotation, position = head.pose(t)                                        # of the camera, for `scene`

`synthetic` describes the world as a whole and writes its files.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..support.errors import EgoDistillError

__all__ = [
    "ACTIONS",
    "THINGS",
    "VERBS",
    "Act",
    "HeadMotion",
    "Stroke",
    "Thing",
    "Wearer",
    "bounds",
    "draw_acts",
    "draw_wearer",
]

GRAVITY = 9.81  # m/s2
FRAME_RATE = 20  # frames per second; the two decimals of an EPIC timestamp represent 50 ms exactly
KINDS = ("reversal", "cyclic", "single")
SHORTEST, LONGEST = 0.6, 3.0  # seconds, of an act
HEAD_TURN = (2.0, 17.0)  # degrees, of reversal acts, single acts and glances
HEAD_BOB = (0.3, 2.0)  # degrees, of cyclic acts, for strokes of 6.5 cm


@dataclass(frozen=True)
class Thing:
    """An object of the rendered world, and what is done with it: two verbs, or one.

    >>> from egodistill import behaviour
    >>> for thing in behaviour.THINGS:
    ...     print(thing.kind, thing.noun[0], *(verb for verb, _ in thing.verbs), thing.follow, thing.heard)
    reversal cupboard open close 1.0 0.5
    reversal plate take put 1.0 0.5
    reversal tap turn-on turn-off 0.5 0.5
    reversal knife insert remove 0.0 0.0
    cyclic pan wash dry 1.0 0.5
    cyclic bowl mix shake 1.0 0.5
    cyclic carrot cut peel 0.5 0.5
    cyclic dough scrub pat 0.0 0.0
    single jug pour 0.5 0.0
    single bin throw 0.5 0.0
    single tray scrape 0.5 0.0
    single machine press 0.5 0.0
    """

    look: str  # which picture it has, one of `props.DRAWABLE`
    kind: str  # "reversal", "cyclic" or "single"
    noun: tuple[str, int]  # with its class in EPIC-KITCHENS-100
    verbs: tuple[tuple[str, int], ...]  # each with its class in EPIC-KITCHENS-100
    follow: float  # share of acts in which the head moves with the hand
    heard: float  # share of acts whose verb can be heard
    turn: tuple[float, float] = (0.0, 0.0)  # where (left, down) the head then turns; of a reversal, in its first verb


# Two pairs and one single act turn the head left or down in the same way: head motion alone does not show the object.
THINGS = (
    Thing("cupboard", "reversal", ("cupboard", 3), (("open", 3), ("close", 4)), 1.0, 0.5, (1.0, 0.0)),
    Thing("plate", "reversal", ("plate", 2), (("take", 0), ("put", 1)), 1.0, 0.5, (-0.94, 0.34)),
    Thing("tap", "reversal", ("tap", 0), (("turn-on", 6), ("turn-off", 8)), 0.5, 0.5, (0.0, 1.0)),
    Thing("knife", "reversal", ("knife", 4), (("insert", 5), ("remove", 12)), 0.0, 0.0),
    Thing("pan", "cyclic", ("pan", 5), (("wash", 2), ("dry", 14)), 1.0, 0.5),
    Thing("bowl", "cyclic", ("bowl", 7), (("mix", 10), ("shake", 15)), 1.0, 0.5),
    Thing("carrot", "cyclic", ("carrot", 32), (("cut", 7), ("peel", 19)), 0.5, 0.5),
    Thing("dough", "cyclic", ("dough", 21), (("scrub", 29), ("pat", 32)), 0.0, 0.0),
    Thing("jug", "single", ("jug", 94), (("pour", 9),), 0.5, 0.0, (0.0, 1.0)),
    Thing("bin", "single", ("bin", 25), (("throw", 13),), 0.5, 0.0, (-0.94, 0.34)),
    Thing("tray", "single", ("tray", 36), (("scrape", 25),), 0.5, 0.0, (1.0, 0.0)),
    Thing("panel", "single", ("machine", 63), (("press", 21),), 0.5, 0.0, (0.7, -0.7)),
)
VERBS = tuple(verb for thing in THINGS for verb, _ in thing.verbs)
# (index of the object, which of its verbs) for each of `VERBS`
ACTIONS = tuple((k, which) for k, thing in enumerate(THINGS) for which in range(len(thing.verbs)))
# Verbs that annotators confuse, besides the two of a pair.
LOOKALIKES = (
    ("take", "remove"), ("put", "insert"), ("open", "turn-on"), ("close", "turn-off"), ("wash", "scrub"),
    ("dry", "pat"), ("mix", "pour"), ("shake", "throw"), ("cut", "press"), ("peel", "scrape"),
)  # fmt: skip
WITHIN_PAIR, LOOKS_ALIKE = 0.5, 0.3  # shares of the wrong labels; the rest is any other verb
EPIC_SHARES = {"reversal": 0.64, "cyclic": 0.18, "single": 0.18}  # of the acts in EPIC-KITCHENS' IMU videos


def bounds(coupling: float = 1.0, things: Sequence[str] | None = None) -> dict[str, float]:
    """Return {inputs: best possible accuracy, 0 to 1} if the verbs of these objects are equally frequent.

    One frame shows the object, hence the verb of a single act, and nothing about the verb of a pair. Head motion shows
    that in the share of acts that the head follows, sound in the share that can be heard; in the others one has to
    guess. Whatever else an input might reveal is estimated by `lab/ceilings.py`: one frame is enough for 52 % of
    the cyclic verbs, because a head that follows with a lag is further from a fast hand than from a slow one.
    `coupling`, 0 to 1, is a factor of the shares that the head follows; `things` are values of `Thing.look` (None:
    all). Raise EgoDistillError if none of them is known.

    >>> from egodistill import behaviour
    >>> for inputs, accuracy in behaviour.bounds().items():
    ...     print(f"{inputs}: {accuracy:.3f}")
    one frame: 0.600
    one frame and head motion: 0.850
    one frame and sound: 0.750
    """
    acts = [THINGS[ACTIONS[verb][0]] for verb in verbs_of(things)]
    if not acts:
        raise EgoDistillError(f"things must be some of {', '.join(thing.look for thing in THINGS)}; got {things}")
    told = {
        "one frame": [0.0 for _ in acts],
        "one frame and head motion": [coupling * thing.follow for thing in acts],
        "one frame and sound": [thing.heard for thing in acts],
    }
    return {
        inputs: sum(1.0 if thing.kind == "single" else (1 + q) / 2 for thing, q in zip(acts, shares, strict=True))
        / len(acts)
        for inputs, shares in told.items()
    }


def verbs_of(things: Sequence[str] | None) -> list[int]:
    """Return the numbers of the verbs of these objects (`Thing.look`), or of all if None."""
    return [k for k, (thing, _) in enumerate(ACTIONS) if things is None or THINGS[thing].look in things]


def wrong_verb(verb: int, rng: np.random.Generator, verbs: Sequence[int] = range(len(VERBS))) -> int:
    """Return a wrong one of `verbs`, as annotators choose it: the other of the pair, a lookalike, or any other."""
    thing, which = ACTIONS[verb]
    partner = ACTIONS.index((thing, 1 - which)) if len(THINGS[thing].verbs) > 1 else None
    (alike,) = (VERBS.index(b if a == VERBS[verb] else a) for a, b in LOOKALIKES if VERBS[verb] in (a, b))
    chance = rng.random()
    if partner is not None and chance < WITHIN_PAIR:
        return partner
    if alike in verbs and chance < WITHIN_PAIR + LOOKS_ALIKE:
        return alike
    others = [k for k in verbs if k not in (verb, partner, alike)]
    return int(rng.choice(others or [k for k in verbs if k != verb]))


# ---------------------------------------------------------------------------------------------------------------
# Acts


def minimum_jerk(u: np.ndarray) -> np.ndarray:
    """Return a smooth step from 0 to 1 over u in [0, 1], at rest at both ends (Flash and Hogan 1985)."""
    u = np.clip(u, 0.0, 1.0)
    return u * u * u * (10.0 + u * (6.0 * u - 15.0))


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return low * (high / low) ** rng.random()


@dataclass(frozen=True)
class Stroke:
    """The path of a cyclic act: an ellipse traversed at uneven speed, with a drifting rate and pauses."""

    rate: float  # mean rate in Hz
    radius: float  # longer half axis in m
    flat: float  # shorter half axis relative to the longer one; negative: clockwise
    angle: float  # direction of the longer half axis in rad
    phase: float  # of the strokes in rad
    uneven: tuple[float, float]  # size and phase of the deviation from even speed along the path
    drift: tuple[tuple[float, float, float], ...]  # (size, Hz, phase) of the terms of the rate's drift
    pauses: tuple[tuple[float, float], ...]  # (middle from the act's centre on, length) in seconds

    def path(self, t: np.ndarray) -> np.ndarray:
        """Return the displacement [n, 2], left and up in metres, at times [n] in seconds from the act's centre."""
        own = t.astype(np.float64)
        for middle, length in self.pauses:  # The strokes' own clock stops in the middle of a pause.
            own = own - length * minimum_jerk((t - middle) / (1.875 * length) + 0.5)
        cycles = self.rate * own
        for size, hertz, phase in self.drift:  # the integral of rate * size * cos(2 pi hertz t + phase)
            cycles = cycles + self.rate * size * np.sin(2 * math.pi * hertz * own + phase) / (2 * math.pi * hertz)
        angle = 2 * math.pi * cycles + self.phase
        angle = angle + self.uneven[0] * np.sin(angle + self.uneven[1])
        along, across = self.radius * np.cos(angle), self.radius * self.flat * np.sin(angle)
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.stack([along * cos - across * sin, along * sin + across * cos], -1)


def draw_stroke(fast: bool, rng: np.random.Generator) -> Stroke:
    """Draw the path of a cyclic act; only the rate depends on the verb."""
    slow_rate, fast_rate = rng.uniform(0.6, 1.4), rng.uniform(1.9, 3.3)
    return Stroke(
        rate=fast_rate if fast else slow_rate,
        radius=rng.uniform(0.04, 0.09),
        flat=rng.uniform(0.3, 1.0) * rng.choice([-1, 1]),
        angle=rng.uniform(0, math.pi),
        phase=rng.uniform(0, 2 * math.pi),
        uneven=(rng.uniform(0, 0.5), rng.uniform(0, 2 * math.pi)),
        drift=tuple(
            (min(0.2, 0.12 * rng.rayleigh()), rng.uniform(0.15, 0.7), rng.uniform(0, 2 * math.pi)) for _ in range(3)
        ),
        # Perhaps one in each half: two at a time would run backwards.
        pauses=tuple((side * rng.uniform(0.4, 1.2), rng.uniform(0.1, 0.4)) for side in (-1, 1) if rng.random() < 0.3),
    )


@dataclass(frozen=True)
class Act:
    """One act at one station. Everything but `second` and the rate of `stroke` is drawn before the verb.

    Methods take times [n] of the recording in seconds.
    """

    thing: int  # index of the object in `THINGS`
    second: bool  # whether it is the second verb of a pair: backward, or fast
    centre: float  # annotated centre, on the frame grid (s)
    offset: float  # true centre minus annotated centre (s)
    duration: float  # true duration (s)
    hesitation: float  # warp of the progress, -0.12 to 0.12
    lag: float  # delay of the head behind the hand (s); negative if ahead
    turn: tuple[float, float]  # yaw and pitch of the head (rad), per act or metre of a stroke; 0 if it does not follow
    lean: tuple[float, float, float]  # its translation, left, forward and up (m), per act or metre of a stroke
    azimuth: float  # direction of the station (rad)
    pitch: float  # rest pitch of the head (rad); down is positive
    length: float  # annotated length (s)
    appearance: int  # seed of the station's look
    stroke: Stroke | None = None  # the hand's path in a cyclic act; None in others
    hold: float | None = None  # progress at which an idle hand lies on the object, 0 to 1; None: it acts

    @property
    def kind(self) -> str:
        """Return the kind of the object, one of `KINDS`."""
        return THINGS[self.thing].kind

    @property
    def verb(self) -> int:
        """Return the index of the verb in `VERBS`."""
        return ACTIONS.index((self.thing, int(self.second)))

    @property
    def start(self) -> float:
        """Return when the act truly begins (s)."""
        return self.centre + self.offset - self.duration / 2

    @property
    def stop(self) -> float:
        """Return when the act truly ends (s)."""
        return self.centre + self.offset + self.duration / 2

    def own_time(self, t: np.ndarray) -> np.ndarray:
        """Return the seconds from the act's true centre, in the first verb's direction of time."""
        t = t - self.centre - self.offset
        return -t if self.second and self.kind == "reversal" else t

    def progress(self, t: np.ndarray, lag: float = 0.0) -> np.ndarray:
        """Return the progress along the object's path, 0 to 1; a backward act runs from 1 to 0; 0.5 for strokes.

        It is late by `lag` seconds, in the first verb's direction of time.
        """
        if self.hold is not None:
            return np.full(np.shape(t), self.hold)
        if self.kind == "cyclic":
            return np.full(np.shape(t), 0.5)
        u = np.clip((self.own_time(t) - lag) / self.duration + 0.5, 0.0, 1.0)
        return minimum_jerk(u + self.hesitation * np.sin(math.pi * u) ** 3)

    def idle(self, hold: float) -> Act:
        """Return the same hand on the same object for as long, without an act."""
        return replace(self, hold=hold, turn=(0.0, 0.0), lean=(0.0, 0.0, 0.0), stroke=None)

    def path(self, t: np.ndarray, lag: float = 0.0) -> np.ndarray:
        """Return the hand's displacement [n, 2] by strokes, left and up in metres; they begin and end softly.

        It is late by `lag` seconds.
        """
        own = self.own_time(np.asarray(t, np.float64)) - lag
        if self.stroke is None:
            return np.zeros((own.size, 2))
        begin, end = (minimum_jerk((self.duration / 2 + side * own) / 0.2) for side in (1, -1))
        return self.stroke.path(own) * (begin * end)[:, None]

    def presence(self, t: np.ndarray) -> np.ndarray:
        """Return 1 while the hand is on the object, 0 when it is out of sight below."""
        away = np.abs(self.own_time(t)) - self.duration / 2 - 0.05
        return 1.0 - minimum_jerk(away / 0.3)

    def head(self, t: np.ndarray) -> np.ndarray:
        """Return the change of the head since before the act, [5, n]: yaw, pitch (rad), left, forward, up (m)."""
        gain = np.array([*self.turn, *self.lean])[:, None]
        if self.kind == "cyclic":
            left, up = self.path(np.clip(t, self.start - 1, self.stop + 1), self.lag).T
            return gain * np.stack([left, -up, left, up, up])
        return gain * (self.progress(t, self.lag) - self.progress(np.array([-np.inf])))

    def rest(self, *, first: bool) -> np.ndarray:
        """Return the head at rest before (`first`) or after the act, [5]: yaw, pitch (rad), left, forward, up (m)."""
        middle = np.array([self.azimuth, self.pitch, 0.0, 0.0, 0.0])
        if self.kind == "cyclic":
            return middle
        return middle + np.array([*self.turn, *self.lean]) * (
            self.progress(np.array([-np.inf if first else np.inf])) - 0.5
        )


@dataclass(frozen=True)
class Wearer:
    """Habits, camera and sensor of one person, the same in all recordings of that person.

    >>> from egodistill import behaviour
    >>> wearer = behaviour.draw_wearer("P01", seed=0)
    >>> 194 <= wearer.rate <= 202, wearer == behaviour.draw_wearer("P01", seed=0)
    (True, True)
    """

    name: str  # such as "P01"
    pace: float  # factor of the acts' durations
    sway: float  # size of the natural sway
    gait: float  # steps per second
    stride: float  # size of the steps' motion
    glances: float  # glances per second
    gaze: float  # rest pitch of the head (rad)
    counter: float  # height of the counter relative to the eyes (m), negative
    skin: tuple[float, float, float]  # colour of the hand: red, green, blue, 0 to 1
    sleeve: tuple[float, float, float]  # colour of the sleeve, the same
    mount: tuple[float, float, float]  # yaw, pitch, roll of the camera on the head (rad)
    noise: float  # factor of the sensor's noise
    scale: tuple[float, ...]  # factors of the six axes of the sensor
    rate: float  # of the sensor in Hz
    clock: tuple[float, float]  # offset (s) and factor of the sensor's clock


def draw_wearer(name: str, seed: int) -> Wearer:
    """Draw the habits, camera and sensor of a wearer, whose name is "P" and a number, in the world of a seed.

    >>> from egodistill import behaviour
    >>> behaviour.draw_wearer("P02", seed=0).mount == behaviour.draw_wearer("P01", seed=0).mount
    False
    """
    rng = np.random.default_rng([seed, int(name[1:]), 1])
    skin = np.array([0.93, 0.74, 0.60]) * rng.uniform(0.45, 1.0)
    return Wearer(
        name=name,
        pace=rng.uniform(0.85, 1.2),
        sway=rng.uniform(0.7, 1.3),
        gait=rng.uniform(1.4, 2.2),
        stride=rng.uniform(0.5, 1.5),
        glances=rng.uniform(0.01, 0.05),
        gaze=math.radians(rng.uniform(15, 22)),
        counter=-rng.uniform(0.40, 0.50),
        skin=tuple(skin),
        sleeve=tuple(rng.uniform(0.1, 0.9, 3)),
        mount=tuple(np.radians(rng.uniform(-1, 1, 3) * [4, 6, 10])),
        noise=rng.uniform(0.7, 1.5),
        scale=tuple(1 + 0.02 * rng.uniform(-1, 1, 6)),
        rate=rng.uniform(194, 202),
        clock=(rng.uniform(-0.03, 0.03), 1 + rng.uniform(-1e-4, 1e-4)),
    )


def draw_acts(
    wearer: Wearer, verbs: Sequence[int], gaps: tuple[float, float], coupling: float, rng: np.random.Generator
) -> list[Act]:
    """Draw acts with these verbs (indices in `VERBS`), one after the other, each at a station of its own.

    `gaps` are the shortest and the longest time from one act to the next, in seconds; `coupling`, 0 to 1, is a factor
    of the shares of acts that the head follows.
    """
    acts: list[Act] = []
    azimuth, side, stop = 0.0, rng.choice([-1, 1]), 0.7
    for verb in verbs:
        which, second = ACTIONS[verb]
        thing, duration = THINGS[which], 0.0
        while not SHORTEST <= duration <= LONGEST:  # EPIC-KITCHENS: median 1.46 s, quartiles 0.9 and 2.8 s
            duration = wearer.pace * 1.46 * math.exp(0.84 * rng.normal())
        middle = stop + duration / 2 + rng.uniform(*gaps)
        centre = round((middle + rng.uniform(-0.1, 0.1)) * FRAME_RATE) / FRAME_RATE
        follows = rng.random() < coupling * thing.follow
        size, bob = math.radians(log_uniform(rng, *HEAD_TURN)), math.radians(log_uniform(rng, *HEAD_BOB)) / 0.065
        gain = (
            np.array([bob, bob]) * rng.uniform(0.5, 1.0, 2) if thing.kind == "cyclic" else size * np.array(thing.turn)
        )
        lean = rng.normal(0.0, 0.02, 3) * (1.0 if thing.kind != "cyclic" else 3.0)
        acts.append(
            Act(
                thing=which,
                second=bool(second),
                centre=centre,
                offset=middle - centre,
                duration=duration,
                hesitation=rng.uniform(-0.12, 0.12),
                lag=rng.normal(0.0, 0.06),
                turn=tuple(follows * gain),
                lean=tuple(follows * lean),
                azimuth=azimuth,
                pitch=wearer.gaze + rng.normal(0.0, math.radians(2)),
                # An even number of frame intervals, so that the centre of the annotation is a frame's time; and at most
                # a clip, since the second half of a longer segment would be a clip whose middle frame shows the verb.
                length=2 * min(21, max(4, round(duration * rng.uniform(0.9, 1.1) * FRAME_RATE / 2))) / FRAME_RATE,
                appearance=int(rng.integers(2**31)),
                stroke=draw_stroke(bool(second), rng) if thing.kind == "cyclic" else None,
            )
        )
        azimuth += side * math.radians(rng.uniform(48, 60))
        stop = middle + duration / 2
    return acts


# ---------------------------------------------------------------------------------------------------------------
# Head motion


TURN = 0.4  # seconds in which the head turns to the next station


class Glance(NamedTuple):
    """A turn of the head to somewhere else and back, unrelated to the act."""

    start: float  # when it begins (s)
    ramp: float  # time of the turn, and of the turn back (s)
    hold: float  # time in between (s)
    yaw: float  # size of the turn to the left (rad)
    pitch: float  # size of the turn down (rad)


class HeadMotion:
    """Pose of the camera in a recording of at least one act, smooth to the second derivative; times are seconds."""

    def __init__(self, wearer: Wearer, acts: Sequence[Act], duration: float, rng: np.random.Generator) -> None:
        self.acts, self.wearer = acts, wearer
        # Natural sway: six axes (yaw, pitch, roll in rad; left, forward, up in m), seven sinusoids each.
        self.frequency = rng.uniform(0.15, 2.2, (6, 7))
        size = np.array([0.018, 0.014, 0.010, 0.008, 0.008, 0.006])[:, None]
        self.amplitude = wearer.sway * size * rng.rayleigh(0.5, (6, 7)) / (1 + self.frequency)
        self.phase = rng.uniform(0, 2 * math.pi, (6, 7))
        self.glances = []
        for _ in range(rng.poisson(wearer.glances * duration)):
            size, direction = math.radians(log_uniform(rng, *HEAD_TURN)), rng.uniform(0, 2 * math.pi)
            yaw, pitch = size * math.cos(direction), size * math.sin(direction)
            self.glances.append(
                Glance(rng.uniform(0, duration), rng.uniform(0.4, 0.8), rng.uniform(0.5, 1.5), yaw, 0.5 * pitch)
            )
        # Walks on the spot: begin and length (s), and the size and phase of the steps.
        self.walks = [
            (rng.uniform(-2, duration), rng.uniform(1.5, 5.0), log_uniform(rng, 0.4, 1.6), rng.uniform(0, 2 * math.pi))
            for _ in range(rng.poisson(0.1 * duration))
        ]
        cos, sin = np.cos(wearer.mount), np.sin(wearer.mount)
        self.mount = rotation(cos[:, None], sin[:, None], facing_back=False)[0]

    def pose(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rotations [n, 3, 3] and positions [n, 3] in m at ascending times [n].

        The columns of a rotation are the camera's left, back and up.
        """
        t = np.asarray(t, dtype=np.float64)
        state = self.state(t)
        return rotation(np.cos(state[:3]), np.sin(state[:3])) @ self.mount, state[3:].T

    def state(self, t: np.ndarray) -> np.ndarray:
        """Return yaw, pitch, roll (rad) of the head and world x, y, z (m), [6, n], at ascending times [n]."""
        sway = self.sway(t)
        aim = np.repeat(self.acts[0].rest(first=True)[:, None], t.size, axis=1)  # yaw, pitch; leaning left, forward, up
        lean_azimuth = np.full(t.size, self.acts[0].azimuth)
        for act in self.acts:
            near, after = spans(t, act.start - 1, act.stop + 1)  # The head's lag is well below 1 s.
            aim[:, near] += act.head(t[near])
            aim[:, after] += act.head(np.array([np.inf]))
        for act, following in itertools.pairwise(self.acts):  # Turn to the next station, and to where its act begins.
            middle = (act.stop + following.start) / 2
            turn, away = following.rest(first=True) - act.rest(first=False), following.azimuth - act.azimuth
            near, after = spans(t, middle - TURN / 2, middle + TURN / 2)
            step = minimum_jerk((t[near] - middle) / TURN + 0.5)
            aim[:, near] += turn[:, None] * step
            aim[:, after] += turn[:, None]
            lean_azimuth[near] += away * step
            lean_azimuth[after] += away
        left, forward = aim[2] + sway[3], aim[3] + sway[4]
        cos, sin = np.cos(lean_azimuth), np.sin(lean_azimuth)
        place = [forward * cos - left * sin, forward * sin + left * cos, aim[4] + sway[5]]
        return np.stack([aim[0] + sway[0], aim[1] + sway[1], sway[2], *place])

    def sway(self, t: np.ndarray) -> np.ndarray:
        """Return the motion unrelated to acts, [6, n]: yaw, pitch, roll (rad), left, forward, up (m)."""
        found = np.zeros((6, t.size))
        for k in range(self.frequency.shape[1]):
            angle = 2 * math.pi * self.frequency[:, k, None] * t + self.phase[:, k, None]
            found += self.amplitude[:, k, None] * np.sin(angle)
        for glance in self.glances:
            since = (t - glance.start) / glance.ramp
            away = minimum_jerk(since) - minimum_jerk(since - 1 - glance.hold / glance.ramp)
            found[:2] += np.array([[glance.yaw], [glance.pitch]]) * away
        for begin, length, size, phase in self.walks:
            weight = minimum_jerk((t - begin) / 0.5) - minimum_jerk((t - begin - length) / 0.5)
            step = 2 * math.pi * self.wearer.gait * t + phase  # up and down with each step, sideways with every second
            up, side = np.sin(step), np.sin(step / 2 + 0.3)
            sizes = np.array([0.008, 0.010, 0.012, 0.010, 0.004, 0.010])[:, None] * size * self.wearer.stride
            found += sizes * weight * np.stack([side, up, side, side, up, up])
        return found

    def imu(self, t: np.ndarray, step: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
        """Return noise-free readings: specific force [n, 3] in m/s2 and body rate [n, 3] in rad/s.

        They are central differences of the pose, `step` seconds apart, at ascending times [n]. For this smooth motion,
        their error is far below the sensor noise.
        """
        (before, left), (here, middle), (after, right) = (self.pose(t + d) for d in (-step, 0.0, step))
        turn = np.swapaxes(here, 1, 2) @ (after - before) / (2 * step)
        rate = np.stack(
            [turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]], 1
        )
        acceleration = (right - 2 * middle + left) / step**2
        acceleration[:, 2] += GRAVITY  # a - g, with g pointing down
        return np.einsum("nij,ni->nj", here, acceleration), rate / 2

    def readings(self, duration: float, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (times [n] in s, values [n, 3]) of the wearer's accelerometer and gyroscope.

        Values are specific force in m/s2 and angular rate in rad/s, with white noise, a bias per recording that drifts,
        and factors per axis. Each sensor has its own times, as in EPIC-KITCHENS; both are on the sensor's own clock.
        """
        offset, factor = self.wearer.clock
        found = []
        # first stamp (s), rate relative to the wearer's, white noise, bias, its drift (per root second), in the unit
        sensors = ((0.0, 1.0, 0.06, 0.3, 0.02), (0.0021, 1.0015, 0.006, 0.02, 0.002))
        for k, (first, relative, noise, bias, drift) in enumerate(sensors):
            rate = self.wearer.rate * relative
            times = first + np.arange(int((duration - first) * rate)) / rate
            clean = self.imu(offset + factor * times)[k] * self.wearer.scale[3 * k : 3 * k + 3]
            walk = np.cumsum(rng.normal(0, drift / math.sqrt(rate), clean.shape), axis=0)
            values = clean + rng.uniform(-bias, bias, 3) + walk + rng.normal(0, noise * self.wearer.noise, clean.shape)
            found.append((times, values))
        return found


def spans(t: np.ndarray, begin: float, end: float) -> tuple[slice, slice]:
    """Return the slices of ascending times from `begin` to `end`, and after `end`."""
    first, last = np.searchsorted(t, [begin, end])
    return slice(first, last), slice(last, None)


def rotation(cos: np.ndarray, sin: np.ndarray, *, facing_back: bool = True) -> np.ndarray:
    """Return rotations [n, 3, 3] by yaw, pitch and roll, given their cosines and sines [3, n].

    The columns are a camera's left, back and up in the world if it looks along the yaw; with `facing_back` False, in
    the axes (left, back, up) of a head on which the camera is turned by these angles.
    """
    (cy, cp, cr), (sy, sp, sr) = cos, sin
    zero, one = np.zeros_like(cy), np.ones_like(cy)
    if facing_back:
        facing = np.array([[-sy, -cy, zero], [cy, -sy, zero], [zero, zero, one]])
    else:
        facing = np.array([[cy, -sy, zero], [sy, cy, zero], [zero, zero, one]])
    nod = np.array([[one, zero, zero], [zero, cp, -sp], [zero, sp, cp]])  # About left: down is positive.
    roll = np.array([[cr, zero, sr], [zero, one, zero], [-sr, zero, cr]])
    return np.einsum("ijn,jkn,kln->nil", facing, nod, roll)
