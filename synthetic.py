"""A small egocentric world, rendered as real files: videos with sound, IMU tables and annotations.

It needs no download. Wearers with a camera on their head handle kitchen objects; an IMU and a microphone on the camera
are simulated. The files have the layout of EPIC-KITCHENS-100, so they go through the same readers as the data set.

    from egodistill import data, synthetic

    world = synthetic.render("world", seed=0)                   # MP4s, IMU CSVs, EPIC_100_train.csv
    segments = data.read_epic_kitchens(world.annotations, world.root)

The world
---------
The camera is a pinhole that moves with six degrees of freedom inside a room: a textured cylindrical wall (2.2 m), a
counter below the eyes, and at each station an object on vertical planes at a distance of 0.6 to 0.95 m, so near things
move more in the picture than far ones (parallax). Axes are GoPro's: X left, Y back towards the wearer, Z up. The IMU
readings are those of a sensor rigidly fixed to the camera: the angular rate of the body, and the specific force
R^T (a - g), with white noise, a bias per recording and a slow drift of the bias. Both follow from the pose function
that also renders the pictures.

The microphone records the noise of the room, the rustle of the moving hand (each object has its own pitch) and, in some
acts, a knock when the object leaves its place, or returns to it in the backward verb.

Verbs come in pairs. An act of the second verb is an act of the first one, reversed in time: all its parameters
(duration, hesitation, path, lag of the head) are drawn before the verb, and the backward act evaluates the same
functions at the mirrored time. Sway is a sum of sinusoids with random phases, which looks alike in both directions of
time. Annotated centres are on the frame grid and differ from the act's true centre by a symmetric random offset.

Best possible accuracy
----------------------
What is the best accuracy of a classifier of the verb, for each kind of input? The pair is visible in every frame.

* One frame, at the centre: its distribution is the same for both verbs of a pair, so the best accuracy is 1/2.
* One frame and head motion: in a share q of a pair's acts, the head follows the hand, which reveals the verb. In the
  others, head motion does not depend on the verb. The best accuracy is q + (1 - q) / 2 = (1 + q) / 2 per pair. With
  q = 1, 1, 1/2 and 0 for the four equally frequent pairs: (1 + 1 + 3/4 + 1/2) / 4 = 81.25 %.
* One frame and sound: the same with the share of acts with an audible knock, before or after the middle. With 1/2, 1/2,
  1/2 and 0: (3/4 + 3/4 + 3/4 + 1/2) / 4 = 68.75 %. In the paper, head motion helps more than sound on real recordings;
  in this world that is our choice.
* The whole clip shows the moving hand: about 100 %.

`ceilings()` computes these from `PAIRS`. They hold for correct labels, which the test wearers have. A share of the
training annotations (`label_noise`, 25 %) has a wrong verb, drawn uniformly from the other verbs, to imitate human
annotators. A student trained on the labels inherits these errors; a distilled student also learns from the teacher.
"""

from __future__ import annotations

import concurrent.futures
import csv
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from torch.nn.functional import grid_sample, interpolate

from egodistill import EgoDistillError, files

__all__ = ["PAIRS", "Pair", "Recording", "World", "WorldError", "ceilings", "render"]

GRAVITY = 9.81  # m/s2
FRAME_RATE = 20  # frames per second; the two decimals of an EPIC timestamp represent 50 ms exactly
SOUND_RATE = 16000  # Hz, a multiple of the frame rate
PERIOD = 2.75  # seconds from the centre of one act to the next
TURN = 0.55  # seconds in which the head turns to the next station, outside of all clips
STATION_ANGLE = math.radians(50)
SPRITE_EDGE = 1.06  # size of a sprite's picture relative to its shape, so that its rim is transparent
TEST_WEARERS = ("P30", "P35", "P37")  # the paper's, so the default split of the reader fits


@dataclass(frozen=True)
class Pair:
    """Two verbs that are the reverse of each other, and their object.

    ``follow`` is the share of acts in which the head follows the hand; ``yaw`` and ``pitch`` are the angles in degrees
    by which it then turns during the forward verb (left and down are positive). ``heard`` is the share of acts with a
    knock, ``hertz`` the pitch of the object's sounds.

    >>> from egodistill import synthetic
    >>> for pair in synthetic.PAIRS:
    ...     print(pair.forward, pair.backward, pair.noun, pair.follow, pair.heard)
    open close cupboard 1.0 0.5
    take put plate 1.0 0.5
    turn-on turn-off tap 0.5 0.5
    insert remove knife 0.0 0.0
    """

    forward: str
    backward: str
    noun: str
    classes: tuple[int, int, int]  # EPIC-KITCHENS-100 classes of the two verbs and the noun
    follow: float
    heard: float
    hertz: float
    yaw: float = 0.0
    pitch: float = 0.0


# Opening and putting both turn the head left, so head motion alone does not reveal the verb without the object.
PAIRS = (
    Pair("open", "close", "cupboard", (3, 4, 3), follow=1.0, heard=0.5, hertz=180, yaw=17.0),
    Pair("take", "put", "plate", (0, 1, 2), follow=1.0, heard=0.5, hertz=1900, yaw=-17.0, pitch=6.0),
    Pair("turn-on", "turn-off", "tap", (6, 8, 0), follow=0.5, heard=0.5, hertz=800, pitch=8.0),
    Pair("insert", "remove", "knife", (5, 12, 4), follow=0.0, heard=0.0, hertz=3600),
)


def ceilings(pairs: tuple[Pair, ...] = PAIRS) -> dict[str, float]:
    """Return the best possible top-1 accuracy (0 to 1) for each kind of input; the module's docstring derives it.

    >>> from egodistill import synthetic
    >>> synthetic.ceilings()
    {'frame': 0.5, 'frame + imu': 0.8125, 'frame + audio': 0.6875, 'clip': 1.0}
    """
    return {
        "frame": 0.5,
        "frame + imu": sum((1 + pair.follow) / 2 for pair in pairs) / len(pairs),
        "frame + audio": sum((1 + pair.heard) / 2 for pair in pairs) / len(pairs),
        "clip": 1.0,
    }


class World(NamedTuple):
    """Paths of a rendered world: its root folder and its annotation table."""

    root: Path
    annotations: Path


class WorldError(EgoDistillError):
    """Error for a world that cannot be rendered with these arguments or in this folder.

    >>> from egodistill import synthetic
    >>> synthetic.render("world", size=(64, 63))
    Traceback (most recent call last):
    egodistill.synthetic.WorldError: size must be (width, height), even and at least 32 pixels; got (64, 63)
    """


def render(
    out: str | os.PathLike,
    *,
    seed: int = 0,
    train_acts: int = 800,
    test_acts: int = 400,
    train_wearers: int = 8,
    size: tuple[int, int] = (96, 96),
    label_noise: float = 0.25,
    workers: int | None = None,
    progress: bool = True,
) -> World:
    """Render a world into the folder ``out`` and return its root and annotations.

    ``train_acts`` are divided evenly among ``train_wearers`` people (P01, P02, ...), ``test_acts`` among the three test
    wearers of the paper (P30, P35, P37), whose labels are correct. ``size`` is (width, height) in pixels, even numbers;
    ``label_noise`` the share of wrong training labels. The same arguments give the same bytes. An interrupted rendering
    continues. Raise WorldError for invalid arguments, and for a folder that holds a world with other settings.

    >>> from egodistill import synthetic
    >>> world = synthetic.render(
    ...     "small", train_acts=4, test_acts=3, train_wearers=2, size=(32, 32), workers=1, progress=False
    ... )
    >>> print(world.annotations.name, sorted(path.name for path in world.root.rglob("*.MP4")))
    EPIC_100_train.csv ['P01_101.MP4', 'P02_101.MP4', 'P30_101.MP4', 'P35_101.MP4', 'P37_101.MP4']
    """
    out = Path(out)
    check_request(seed, train_acts, test_acts, train_wearers, size, label_noise)
    settings = {
        "seed": seed,
        "train_acts": train_acts,
        "test_acts": test_acts,
        "train_wearers": train_wearers,
        "size": list(size),
        "label_noise": label_noise,
        "pairs": [asdict(pair) for pair in PAIRS],
    }
    note = out / "world.json"
    if note.exists() and (different := files.differences(files.read_json(note), settings)):
        raise WorldError(
            f"{out}: holds a world with other settings ({', '.join(different)}, see {note}); choose another folder or "
            f"delete it"
        )
    files.write_json(note, settings)
    train = [f"P{k + 1:02d}" for k in range(train_wearers)]
    plan = [
        Recording(f"{name}_{101 + number}", acts, seed, *size, noise)
        for names, total, noise in ((train, train_acts, label_noise), (TEST_WEARERS, test_acts, 0.0))
        for name, share in zip(names, shares(total, len(names)), strict=True)
        for number, acts in enumerate(shares(share, math.ceil(share / 50)))  # recordings of about two minutes
    ]
    write_recordings(plan, out, workers, progress)
    return World(out, write_tables(plan, out))


def check_request(
    seed: int, train_acts: int, test_acts: int, train_wearers: int, size: tuple[int, int], label_noise: float
) -> None:
    """Raise WorldError for invalid arguments."""
    if not 0 <= label_noise < 1:
        raise WorldError(f"label_noise must be at least 0 and less than 1; got {label_noise}")
    if train_wearers not in range(1, 30) or train_acts < train_wearers or test_acts < len(TEST_WEARERS):
        raise WorldError(
            f"a world needs 1 to 29 training wearers and at least one act per wearer; got "
            f"train_wearers={train_wearers}, train_acts={train_acts}, test_acts={test_acts}"
        )
    if seed < 0:
        raise WorldError(f"seed must be an integer of at least 0; got {seed}")
    if any(side % 2 or side < 32 for side in size):
        raise WorldError(f"size must be (width, height), even and at least 32 pixels; got {tuple(size)}")


def write_recordings(plan: Sequence[Recording], out: Path, workers: int | None, progress: bool) -> None:
    """Write the missing recordings, in several threads."""
    todo = [recording for recording in plan if not recording.exists(out)]
    total, left = (sum(recording.acts for recording in some) for some in (plan, todo))
    workers = min(workers or files.available_cores(), max(1, len(todo)))
    # Threads are enough, because torch, numpy and the encoder release the interpreter lock. Each computes on one core;
    # the caller's number of threads is restored at the end.
    threads = torch.get_num_threads()
    pool = concurrent.futures.ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    show = progress and bool(todo)
    with files.Progress("render", total, unit="acts", done=total - left, show=show) as bar:
        try:
            jobs = {pool.submit(recording.write, out): recording for recording in todo}
            for job in concurrent.futures.as_completed(jobs):
                job.result()
                bar.step(jobs[job].acts)
        finally:  # After Ctrl-C, too: do not start the remaining recordings.
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)


def write_tables(plan: Sequence[Recording], out: Path) -> Path:
    """Write the annotations and verb classes in the layout of EPIC-KITCHENS; return the path of the annotations."""
    header = (
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
        "stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
    ).split(",")
    table = out / "EPIC_100_train.csv"
    with files.atomic_write(table) as part, open(part, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *(row for recording in plan for row in recording.rows())])
    verbs = [(pair.classes[i], (pair.forward, pair.backward)[i]) for pair in PAIRS for i in (0, 1)]
    rows = [[number, verb, [verb], "synthetic"] for number, verb in sorted(verbs)]
    classes = out / "EPIC_100_verb_classes.csv"
    with files.atomic_write(classes) as part, open(part, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "key", "instances", "category"], *rows])
    return table


def shares(total: int, parts: int) -> list[int]:
    """Divide ``total`` into ``parts`` integers that differ by at most 1."""
    return [total * (k + 1) // parts - total * k // parts for k in range(parts)]


# ---------------------------------------------------------------------------------------------------------------
# Acts and head motion


@dataclass(frozen=True)
class Act:
    """One act at one station. All fields but ``backward`` are drawn before the verb, so they do not reveal it."""

    pair: int
    backward: bool
    centre: float  # Annotated centre, on the frame grid (s).
    offset: float  # True centre minus annotated centre (s).
    duration: float  # s
    hesitation: float  # Warp of the progress, -0.12 .. 0.12.
    lag: float  # delay of the head behind the hand (s); negative if ahead
    follow: float  # amplitude of the head's motion, relative to the pair's; 0 if the head does not follow
    lean: tuple[float, float, float]  # Translation of the head while following (m, station axes).
    azimuth: float  # Direction of the station (rad).
    pitch: float  # Rest pitch of the head (rad, down is positive).
    length: float  # Annotated length (s).
    appearance: int  # seed of the object's appearance

    def own_time(self, t: np.ndarray) -> np.ndarray:
        """Return the seconds from the act's true centre, in the forward verb's direction of time."""
        t = t - self.centre - self.offset
        return -t if self.backward else t

    def progress(self, t: np.ndarray, lag: float = 0.0) -> np.ndarray:
        """Return the progress of the forward verb, 0 to 1; a backward act runs from 1 to 0."""
        u = np.clip((self.own_time(t) - lag) / self.duration + 0.5, 0.0, 1.0)
        u = u + self.hesitation * np.sin(math.pi * u) ** 3
        return minimum_jerk(u)

    def presence(self, t: np.ndarray) -> np.ndarray:
        """Return 1 while the hand is on the object, 0 when it is out of sight below."""
        away = np.abs(self.own_time(t)) - self.duration / 2 - 0.05
        return 1.0 - minimum_jerk(away / 0.3)

    @property
    def head(self) -> np.ndarray:
        """Change of the head from progress 0 to 1: yaw, pitch (rad) and left, forward, up (m)."""
        pair = PAIRS[self.pair]
        turn = np.radians([pair.yaw, pair.pitch])
        return self.follow * np.concatenate([turn, self.lean])


def minimum_jerk(u: np.ndarray) -> np.ndarray:
    """Return a smooth step from 0 to 1 over u in [0, 1], at rest at both ends (Flash and Hogan 1985)."""
    u = np.clip(u, 0.0, 1.0)
    return u * u * u * (10.0 + u * (6.0 * u - 15.0))


@dataclass(frozen=True)
class Wearer:
    """Habits of one person, the same in all recordings of that person."""

    name: str
    pace: float  # Typical duration of an act (s).
    reach: float  # How much of the motion the head makes.
    sway: float  # Size of the natural sway.
    gaze: float  # Rest pitch (rad).
    counter: float  # Height of the counter below the eyes (m).
    skin: tuple[float, float, float]
    sleeve: tuple[float, float, float]


def draw_wearer(name: str, seed: int) -> Wearer:
    rng = np.random.default_rng([seed, int(name[1:]), 1])
    skin = np.array([0.93, 0.74, 0.60]) * rng.uniform(0.45, 1.0)
    return Wearer(
        name=name,
        pace=rng.uniform(1.0, 1.4),
        reach=rng.uniform(0.75, 1.2),
        sway=rng.uniform(0.7, 1.3),
        gaze=math.radians(rng.uniform(15, 22)),
        counter=-rng.uniform(0.40, 0.50),
        skin=tuple(skin),
        sleeve=tuple(rng.uniform(0.1, 0.9, 3)),
    )


def draw_acts(wearer: Wearer, count: int, rng: np.random.Generator) -> list[Act]:
    """Draw acts in random order, balanced over pairs and verbs as far as ``count`` allows."""
    verbs = rng.permutation(np.arange(count) % (2 * len(PAIRS)))
    acts = []
    for k, verb in enumerate(verbs):
        pair = int(verb) // 2
        follows = rng.random() < PAIRS[pair].follow
        centre = round((k + 0.75) * PERIOD * FRAME_RATE) / FRAME_RATE
        acts.append(
            Act(
                pair=pair,
                backward=bool(verb % 2),
                centre=centre,
                offset=rng.uniform(-0.1, 0.1),
                duration=float(np.clip(wearer.pace * rng.uniform(0.8, 1.25), 0.8, 1.5)),
                hesitation=rng.uniform(-0.12, 0.12),
                lag=rng.normal(0.0, 0.06),
                follow=wearer.reach * rng.uniform(0.7, 1.3) if follows else 0.0,
                lean=tuple(rng.normal(0.0, 0.02, 3)),
                azimuth=k * STATION_ANGLE,
                pitch=wearer.gaze + rng.normal(0.0, math.radians(2)),
                # An even number of frame intervals, so that the centre of the annotation is a frame's time.
                length=2 * rng.integers(16, 21) / FRAME_RATE,
                appearance=int(rng.integers(2**31)),
            )
        )
    return acts


class HeadMotion:
    """Pose of the camera as a function of time, smooth to the second derivative."""

    def __init__(self, wearer: Wearer, acts: list[Act], rng: np.random.Generator) -> None:
        self.acts = acts
        # Natural sway: six axes (yaw, pitch, roll in rad; left, forward, up in m), seven sinusoids each.
        self.frequency = rng.uniform(0.15, 2.2, (6, 7))
        size = np.array([0.018, 0.014, 0.010, 0.008, 0.008, 0.006])[:, None]
        self.amplitude = wearer.sway * size * rng.rayleigh(0.5, (6, 7)) / (1 + self.frequency)
        self.phase = rng.uniform(0, 2 * math.pi, (6, 7))

    def state(self, t: np.ndarray) -> np.ndarray:
        """Return yaw, pitch, roll (rad) and world x, y, z (m), [6, n], at times ``t`` in seconds."""
        t = np.asarray(t, dtype=np.float64)
        sway = np.zeros((6, t.size))
        for k in range(self.frequency.shape[1]):
            angle = 2 * math.pi * self.frequency[:, k, None] * t + self.phase[:, k, None]
            sway += self.amplitude[:, k, None] * np.sin(angle)

        acts = self.acts
        aim = np.empty((5, t.size))  # yaw, pitch and the leaning left, forward, up
        aim[:] = self._rest(acts[0], first=True)[:, None]
        lean_azimuth = np.full(t.size, acts[0].azimuth)
        for k, act in enumerate(acts):
            near = np.abs(t - act.centre) < PERIOD  # Progress is constant elsewhere.
            start = float(act.backward)
            change = act.progress(t[near], act.lag) - start
            aim[:, near] += act.head[:, None] * change
            aim[:, t >= act.centre + PERIOD] += (act.head * (1.0 - 2.0 * start))[:, None]
            if k + 1 < len(acts):  # Turn to the next station, and to where its act begins.
                turn = self._rest(acts[k + 1], first=True) - self._rest(act, first=False)
                between = (act.centre + acts[k + 1].centre) / 2
                step = minimum_jerk((t - between) / TURN + 0.5)
                aim += turn[:, None] * step
                lean_azimuth += (acts[k + 1].azimuth - act.azimuth) * step
        left, forward = aim[2] + sway[3], aim[3] + sway[4]
        cos, sin = np.cos(lean_azimuth), np.sin(lean_azimuth)
        return np.stack(
            [
                aim[0] + sway[0],
                aim[1] + sway[1],
                sway[2],
                forward * cos - left * sin,
                forward * sin + left * cos,
                aim[4] + sway[5],
            ]
        )

    @staticmethod
    def _rest(act: Act, *, first: bool) -> np.ndarray:
        """Return the head's direction and position before (``first``) or after an act."""
        progress = float(act.backward == first)
        return np.array([act.azimuth, act.pitch, 0, 0, 0]) + act.head * (progress - 0.5)

    @staticmethod
    def rotation(state: np.ndarray) -> np.ndarray:
        """Return rotation matrices [n, 3, 3] from camera axes (left, back, up) to the world, for a state [6, n]."""
        (cy, cp, cr), (sy, sp, sr) = np.cos(state[:3]), np.sin(state[:3])
        zero, one = np.zeros_like(cy), np.ones_like(cy)
        # The columns of `facing` are the camera's left, back and up when it looks horizontally along the azimuth.
        facing = np.array([[-sy, -cy, zero], [cy, -sy, zero], [zero, zero, one]])
        nod = np.array([[one, zero, zero], [zero, cp, -sp], [zero, sp, cp]])  # About left: down is positive.
        roll = np.array([[cr, zero, sr], [zero, one, zero], [-sr, zero, cr]])
        return np.einsum("ijn,jkn,kln->nil", facing, nod, roll)

    def imu(self, t: np.ndarray, step: float = 1e-3) -> tuple[np.ndarray, np.ndarray]:
        """Return noise-free readings at times ``t``: specific force [n, 3] in m/s2 and body rate [n, 3] in rad/s.

        They are central differences of the pose over ``step`` seconds. For this smooth motion, their error is far below
        the sensor noise.
        """
        before, here, after = (self.state(t + d) for d in (-step, 0.0, step))
        r = self.rotation(here)
        turn = np.swapaxes(r, 1, 2) @ (self.rotation(after) - self.rotation(before)) / (2 * step)
        rate = np.stack(
            [turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]], 1
        )
        acceleration = (after[3:] - 2 * here[3:] + before[3:]).T / step**2
        acceleration[:, 2] += GRAVITY  # a - g, with g pointing down
        return np.einsum("nij,ni->nj", r, acceleration), rate / 2


# ---------------------------------------------------------------------------------------------------------------
# Pictures


def noise_texture(rng: np.random.Generator, height: int, width: int, octaves: tuple[int, ...], contrast: float):
    """Return smooth random colours, float32 [3, height, width], around 0.5."""
    total = torch.zeros(3, height, width)
    for cells in octaves:
        grid = rng.normal(size=(1, 3, max(2, cells * height // width), cells)).astype(np.float32)
        layer = interpolate(torch.from_numpy(grid), (height, width), mode="bicubic", align_corners=False)[0]
        total += layer * contrast / math.sqrt(len(octaves))
    grey = total.mean(0, keepdim=True)
    return 0.5 + 0.75 * grey + 0.25 * total


def wall_texture(rng: np.random.Generator) -> torch.Tensor:
    """Return a texture for the wall, float32 [1, 3, 192, 2048]: 1024 columns, twice, so that sampling never wraps."""
    texture = noise_texture(rng, 192, 1024, (24, 64, 160), 0.12) + torch.from_numpy(
        rng.uniform(-0.15, 0.15, (3, 1, 1)).astype(np.float32)
    )
    for _ in range(40):  # tiles and posters
        w, h = int(rng.integers(12, 60)), int(rng.integers(12, 60))
        x, y = int(rng.integers(0, 1024 - w)), int(rng.integers(0, 192 - h))
        colour = torch.from_numpy(rng.uniform(0.1, 0.9, (3, 1, 1)).astype(np.float32))
        texture[:, y : y + h, x : x + w] = 0.7 * colour + 0.3 * texture[:, y : y + h, x : x + w]
    return torch.cat([texture, texture], 2)[None].clamp(0, 1)


def paint(size: int, layers: list[tuple[torch.Tensor, tuple[float, float, float]]]) -> torch.Tensor:
    """Stack (mask, colour) layers into one RGBA picture, float32 [1, 4, size, size]."""
    image = torch.zeros(4, size, size)
    for mask, colour in layers:
        mask = mask.float()
        image[:3] = image[:3] * (1 - mask) + torch.tensor(colour, dtype=torch.float32)[:, None, None] * mask
        image[3] = torch.maximum(image[3], mask)
    return image[None]


def sprites(act: Act, wearer: Wearer, size: int = 48) -> dict[str, torch.Tensor]:
    """Return pictures of the objects at one station and of the hand, RGBA float32 [1, 4, size, size]."""
    rng = np.random.default_rng([act.appearance, 2])
    line = torch.linspace(-SPRITE_EDGE, SPRITE_EDGE, size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    r = torch.hypot(x, y)
    inside = (x.abs() < 1) & (y.abs() < 1)

    def colour(low: float = 0.15, high: float = 0.95) -> tuple[float, float, float]:
        return tuple(rng.uniform(low, high, 3))

    main, accent, other = colour(), colour(), colour()
    dark = colour(0.02, 0.2)
    looks = {}
    if PAIRS[act.pair].noun == "cupboard":
        looks["cavity"] = paint(size, [(inside, dark), (inside & (y.abs() < 0.06), other)])
        frame = inside & ((x.abs() > 0.72) | (y.abs() > 0.78))
        handle = ((x - 0.55) / 0.1) ** 2 + (y / 0.3) ** 2 < 1
        looks["door"] = paint(size, [(inside, main), (frame, accent), (handle, other)])
    elif PAIRS[act.pair].noun == "plate":
        looks["shelf"] = paint(size, [(inside & (y > 0.55), main), (inside & (y < 0.55) & (y > 0.4), accent)])
        looks["plate"] = paint(size, [(r < 1, main), (r < 0.8, accent), (r < 0.62, other), (r < 0.2, main)])
    elif PAIRS[act.pair].noun == "tap":
        pipe = (x.abs() < 0.22) & inside | (inside & (y < -0.55) & (x > -0.22))
        looks["pipe"] = paint(size, [(pipe, main)])
        bar = (x.abs() < 0.24) & (y < 0.15) & (y > -0.95)
        looks["knob"] = paint(size, [(r < 0.7, accent), (bar, other)])
    else:
        slots = inside & ((x * 4).round().abs() % 2 == 1) & (y < -0.2)
        looks["block"] = paint(size, [(inside, main), (slots, dark)])
        blade = (y.abs() < 0.55) & (x > -0.1) & inside
        looks["knife"] = paint(size, [(blade, (0.8, 0.8, 0.84)), (inside & (x <= -0.1), accent)])
    fingers = (y < -0.1) & (y > -0.95) & (((x + 0.66) * 3).frac().sub(0.5).abs() < 0.34) & (x.abs() < 0.66)
    palm = (x / 0.72) ** 2 + ((y - 0.2) / 0.62) ** 2 < 1
    thumb = ((x + 0.72) / 0.24) ** 2 + ((y - 0.1) / 0.5) ** 2 < 1
    looks["hand"] = paint(size, [(fingers | palm | thumb, wearer.skin)])
    looks["arm"] = paint(size, [(inside & (x.abs() < 0.9 - 0.12 * y), wearer.sleeve)])
    return looks


class Placed(NamedTuple):
    """Sprite in a vertical plane at ``depth`` metres from the rest position of the eyes, for each frame."""

    image: torch.Tensor
    depth: float
    left: np.ndarray | float  # centre (m, station axes)
    up: np.ndarray | float
    half: tuple[float, float]  # Half width and half height (m).
    angle: np.ndarray | float = 0.0  # Anticlockwise as seen (rad).


def station(act: Act, wearer: Wearer, t: np.ndarray) -> list[Placed]:
    """Return the sprites at an act's station at times ``t``, from back to front."""
    rng = np.random.default_rng([act.appearance, 3])
    looks = sprites(act, wearer)
    q, there = act.progress(t), act.presence(t)
    depth = rng.uniform(0.68, 0.82)
    left, up = rng.normal(0.0, 0.035), -depth * math.tan(act.pitch) + rng.normal(0.0, 0.025)
    scale, tilt = rng.uniform(0.85, 1.15), rng.normal(0.0, 0.06)
    noun = PAIRS[act.pair].noun
    if noun == "cupboard":
        w, h = 0.18 * scale, 0.18 * scale
        slide = left + 1.7 * w * (q - 0.5) + 0.35 * w
        parts = [
            Placed(looks["cavity"], depth + 0.12, left - 0.35 * w, up, (1.15 * w, h), tilt),
            Placed(looks["door"], depth + 0.06, slide, up, (w, h), tilt),
        ]
        grip = (slide - 0.5 * w, up - 0.1 * h)
        turn = 0.15 * np.ones_like(q)
    elif noun == "plate":
        path = (left - 0.32 * scale * (q - 0.5), up - 0.22 * scale * (q - 0.5))
        parts = [
            Placed(looks["shelf"], depth + 0.12, left + 0.16 * scale, up + 0.08 * scale, (0.16, 0.1), tilt),
            Placed(looks["plate"], depth, *path, (0.105 * scale, 0.105 * scale)),
        ]
        grip = (path[0] - 0.06 * scale, path[1] - 0.07 * scale)
        turn = 0.3 * np.ones_like(q)
    elif noun == "tap":
        turn = math.radians(130) * (q - 0.5)
        parts = [
            Placed(looks["pipe"], depth + 0.12, left, up, (0.17 * scale, 0.22 * scale), tilt),
            Placed(looks["knob"], depth + 0.02, left, up, (0.125 * scale, 0.125 * scale), turn),
        ]
        grip = (left + 0.09 * scale * np.sin(turn), up + 0.09 * scale * np.cos(turn) - 0.05)
    else:
        slide = left - 0.15 * scale + 0.22 * scale * (q - 0.5)
        parts = [
            Placed(looks["knife"], depth, slide, up, (0.16 * scale, 0.036 * scale), math.pi),
            Placed(looks["block"], depth - 0.02, left + 0.13 * scale, up, (0.10 * scale, 0.15 * scale), tilt),
        ]
        grip = (slide - 0.11 * scale, up - 0.02 * np.ones_like(q))
        turn = 0.4 * np.ones_like(q)
    near, drop = depth - 0.06, 0.45 * (1.0 - there)
    parts += [
        Placed(looks["arm"], near, grip[0] - 0.03, grip[1] - 0.25 - drop, (0.04, 0.2), -0.15),
        Placed(looks["hand"], near - 0.01, grip[0], grip[1] - drop, (0.062, 0.068), turn),
    ]
    return parts


class Camera:
    """Pinhole camera of ``width`` x ``height`` pixels with a horizontal field of view of 54 degrees."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.focal = width / 2 / math.tan(math.radians(27))  # pixels
        u = (torch.arange(width) + 0.5 - width / 2) / self.focal
        v = (torch.arange(height) + 0.5 - height / 2) / self.focal
        v, u = torch.meshgrid(v, u, indexing="ij")
        self.rays = torch.stack([-u, -torch.ones_like(u), -v]).reshape(3, -1)  # left, back, up: [3, pixels]

    def render(self, state: np.ndarray, parts: list[tuple[float, list[Placed]]], room: Room, light) -> np.ndarray:
        """Render frames uint8 [n, height, width, 3] of head states [6, n]; ``parts``: (azimuth, sprites) each."""
        count, shape = state.shape[1], (self.height, self.width)
        rays = torch.from_numpy(HeadMotion.rotation(state).astype(np.float32)) @ self.rays
        place = torch.from_numpy(state[3:].astype(np.float32))[:, :, None]
        (dx, dy, dz), (px, py, pz) = rays.unbind(1), place

        # Wall: distance along the ray to the cylinder, from a quadratic whose positive root is ahead.
        a, b = dx * dx + dy * dy, px * dx + py * dy
        reach = (torch.sqrt(b * b - a * (px * px + py * py - room.radius**2)) - b) / a
        azimuth = torch.atan2(py + reach * dy, px + reach * dx)
        middle = float(state[0].mean())
        turn = torch.remainder(azimuth - middle + math.pi, 2 * math.pi) + math.remainder(middle, 2 * math.pi)
        grid = torch.stack([turn / (2 * math.pi) - 0.5, (pz + reach * dz) / -1.3], -1)
        picture = grid_sample(
            room.wall.expand(count, -1, -1, -1), grid.view(count, *shape, 2), padding_mode="border", align_corners=False
        )
        # Counter: a disc below the eyes, nearer than the wall.
        reach = (room.counter_height - pz) / dz.clamp(max=-1e-3)
        cx, cy = px + reach * dx, py + reach * dy
        on = ((dz < -1e-3) & (cx * cx + cy * cy < 1.1)).view(count, 1, *shape)
        grid = torch.stack([cx, cy], -1).clamp(-2, 2) / 1.1
        top = grid_sample(
            room.counter.expand(count, -1, -1, -1),
            grid.view(count, *shape, 2),
            padding_mode="border",
            align_corners=False,
        )
        picture = torch.where(on, top, picture)

        dx, dy, dz = (d.view(count, *shape) for d in (dx, dy, dz))
        px, py, pz = (p[:, :, None] for p in (px, py, pz))
        for azimuth, placed in parts:
            cos, sin = math.cos(azimuth), math.sin(azimuth)
            pf, pl = px * cos + py * sin, py * cos - px * sin
            for part in placed:
                rows, cols = self.window(state, azimuth, part)
                if rows.stop <= rows.start or cols.stop <= cols.start:
                    continue
                x, y, z = dx[:, rows, cols], dy[:, rows, cols], dz[:, rows, cols]
                ahead = x * cos + y * sin
                reach = (part.depth - pf) / ahead.clamp(min=0.05)
                left = pl + reach * (y * cos - x * sin) - column(part.left)
                up = pz + reach * z - column(part.up)
                c, s = column(np.cos(part.angle)), column(np.sin(part.angle))
                # As seen, right is -left; the texture's rows run downwards.
                gx = (up * s - left * c) / (part.half[0] * SPRITE_EDGE)
                gy = (-left * s - up * c) / (part.half[1] * SPRITE_EDGE)
                grid = torch.stack([torch.where(ahead > 0.05, gx, 9.0), gy], -1)
                rgba = grid_sample(part.image.expand(count, -1, -1, -1), grid, align_corners=False)
                alpha = rgba[:, 3:].clamp(0, 1)
                # Sampling mixes the colour of a rim with transparent black; undo this before blending.
                colour = rgba[:, :3] / rgba[:, 3:].clamp(min=1e-3)
                picture[:, :, rows, cols] = torch.lerp(picture[:, :, rows, cols], colour, alpha)
        picture = picture * torch.tensor(light, dtype=torch.float32)[:, None, None]
        return (picture * 255 + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()

    def window(self, state: np.ndarray, azimuth: float, part: Placed) -> tuple[slice, slice]:
        """Return the rows and columns that contain a sprite in all frames."""
        reach = SPRITE_EDGE * math.hypot(*part.half)  # Turned by any angle.
        left = np.asarray(part.left) + np.array([[-reach], [-reach], [reach], [reach]])
        up = np.asarray(part.up) + np.array([[-reach], [reach], [-reach], [reach]])
        left, up = np.broadcast_to(left, (4, state.shape[1])), np.broadcast_to(up, (4, state.shape[1]))
        cos, sin = math.cos(azimuth), math.sin(azimuth)
        corner = np.stack([part.depth * cos - left * sin, part.depth * sin + left * cos, up], -1) - state[3:].T
        x, back, z = np.einsum("nij,cni->jcn", HeadMotion.rotation(state), corner)
        if (back > -0.05).any():  # Partly behind the camera, where the projection of corners is undefined.
            return slice(0, self.height), slice(0, self.width)
        u, v = self.width / 2 + self.focal * x / back, self.height / 2 + self.focal * z / back
        cols = np.clip([u.min() - 1, u.max() + 2], 0, self.width).astype(int)
        rows = np.clip([v.min() - 1, v.max() + 2], 0, self.height).astype(int)
        return slice(*rows.tolist()), slice(*cols.tolist())


def column(value: np.ndarray | float) -> torch.Tensor:
    """Reshape one number per frame for broadcasting with pictures [n, height, width]."""
    return torch.as_tensor(np.atleast_1d(value), dtype=torch.float32)[:, None, None]


class Room(NamedTuple):
    """Surroundings of one recording."""

    wall: torch.Tensor
    counter: torch.Tensor
    counter_height: float
    radius: float = 2.2


# ---------------------------------------------------------------------------------------------------------------
# Files


@dataclass(frozen=True)
class Recording:
    """One video of a world with its sound, head motion and annotations, all determined by these settings.

    >>> from egodistill import synthetic
    >>> recording = synthetic.Recording("P01_101", acts=8)
    >>> recording.duration, len(recording.rows())
    (23.375, 8)
    """

    name: str  # wearer and number, such as "P01_101"
    acts: int
    seed: int = 0
    width: int = 96
    height: int = 96
    label_noise: float = 0.0

    def draw(self) -> tuple[Wearer, list[Act], HeadMotion]:
        """Draw the wearer, the acts and the motion of the head, without rendering."""
        rng = self.rng(1)
        wearer = draw_wearer(self.name.split("_")[0], self.seed)
        acts = draw_acts(wearer, self.acts, rng)
        return wearer, acts, HeadMotion(wearer, acts, rng)

    def rng(self, purpose: int) -> np.random.Generator:
        """Return independent random numbers for each recording and purpose."""
        wearer, number = self.name.split("_")
        return np.random.default_rng([self.seed, int(wearer[1:]), int(number), purpose])

    @property
    def duration(self) -> float:
        """Duration of the video in seconds."""
        return (self.acts + 0.5) * PERIOD

    def rows(self) -> list[list]:
        """Return the rows of the annotation table in the layout of EPIC-KITCHENS, including wrong verbs."""
        _, acts, _ = self.draw()
        rng = self.rng(2)
        wrong = set(rng.permutation(len(acts))[: round(self.label_noise * len(acts))].tolist())
        rows = []
        for k, act in enumerate(acts):
            verb = 2 * act.pair + act.backward
            if k in wrong:
                verb = (verb + rng.integers(1, 2 * len(PAIRS))) % (2 * len(PAIRS))
            said, done = PAIRS[verb // 2], PAIRS[act.pair]
            name = (said.forward, said.backward)[verb % 2]
            start, stop = act.centre - act.length / 2, act.centre + act.length / 2
            noun, noun_class = done.noun, done.classes[2]
            rows.append(
                [
                    f"{self.name}_{k}",
                    self.name.split("_")[0],
                    self.name,
                    timestamp(act.centre, 3),
                    timestamp(start),
                    timestamp(stop),
                    max(1, int(start * 50)),
                    max(1, int(stop * 50)),
                    f"{name} {noun}",
                    name,
                    said.classes[verb % 2],
                    noun,
                    noun_class,
                    [noun],
                    [noun_class],
                ]
            )
        return rows

    def files(self, root: Path) -> list[Path]:
        """Return the paths of the video, the accelerometer table and the gyroscope table below ``root``."""
        folder = root / self.name.split("_")[0]
        tables = [folder / "meta_data" / f"{self.name}-{sensor}.csv" for sensor in ("accl", "gyro")]
        return [folder / "videos" / f"{self.name}.MP4", *tables]

    def exists(self, root: Path) -> bool:
        """Return whether all three files exist."""
        return all(file.exists() for file in self.files(root))

    def write(self, root: Path) -> None:
        """Write the files below ``root``, in the layout of EPIC-KITCHENS. Each file is written atomically."""
        wearer, acts, motion = self.draw()
        video, *tables = self.files(root)
        for file in (video, *tables):
            file.parent.mkdir(parents=True, exist_ok=True)
        self._write_imu(motion, tables)
        rng = self.rng(3)
        room = Room(
            wall_texture(rng),
            noise_texture(rng, 256, 256, (12, 32, 80), 0.12)[None].clamp(0, 1),
            wearer.counter,
        )
        with files.atomic_write(video) as part, av.open(str(part), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=FRAME_RATE)
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
            # One thread and no B-frames, for the same bytes on every machine.
            stream.codec_context.thread_count = 1
            stream.options = {"crf": "20", "preset": "ultrafast", "g": "40", "bf": "0"}
            microphone = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
            sound, heard, samples = self.sound(acts), 0, SOUND_RATE // FRAME_RATE
            for pictures in self._pictures(wearer, acts, motion, room, rng):
                for picture in pictures:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                piece = av.AudioFrame.from_ndarray(sound[None, heard : heard + len(pictures) * samples], "s16", "mono")
                piece.sample_rate, piece.pts = SOUND_RATE, heard
                container.mux(microphone.encode(piece))
                heard += len(pictures) * samples
            container.mux(stream.encode())
            container.mux(microphone.encode())

    def _pictures(self, wearer, acts, motion, room, rng):
        """Yield chunks of frames: an act with its station, or a turn with both of its stations."""
        camera = Camera(self.width, self.height)
        times = np.arange(round(self.duration * FRAME_RATE)) / FRAME_RATE
        lights = [np.clip(rng.normal(1.0, 0.06, 3) * rng.uniform(0.7, 1.15), 0.5, 1.3) for _ in acts]
        turns = [(a.centre + b.centre) / 2 for a, b in itertools.pairwise(acts)]
        edges = [0.0, *(edge for turn in turns for edge in (turn - TURN / 2, turn + TURN / 2)), math.inf]
        for k, (begin, end) in enumerate(itertools.pairwise(edges)):
            t = times[(times >= begin) & (times < end)]
            if not t.size:
                continue
            seen = acts[k // 2 : k // 2 + 1 + k % 2]
            parts = [(act.azimuth, station(act, wearer, t)) for act in seen]
            light = np.mean(lights[k // 2 : k // 2 + 1 + k % 2], axis=0)
            yield camera.render(motion.state(t), parts, room, light)

    def sound(self, acts: list[Act]) -> np.ndarray:
        """Return the sound, int16 [samples] at ``SOUND_RATE``."""
        rng = self.rng(5)
        sound = rng.normal(0.0, rng.uniform(0.002, 0.006), round(self.duration * FRAME_RATE) * SOUND_RATE // FRAME_RATE)
        for act in acts:
            pair, loud = PAIRS[act.pair], rng.uniform(0.7, 1.4)
            # Rustle: noise around the object's pitch, with the volume of the hand's speed.
            first, last = (round((act.centre + act.offset + side * act.duration / 2) * SOUND_RATE) for side in (-1, 1))
            t = np.arange(first, last) / SOUND_RATE
            tones = np.exp(-0.5 * ((np.fft.rfftfreq(t.size, 1 / SOUND_RATE) / pair.hertz - 1) / 0.2) ** 2)
            rustle = np.fft.irfft(np.fft.rfft(rng.normal(size=t.size)) * tones, t.size)
            speed = np.abs(np.gradient(act.progress(t), t))
            sound[first:last] += 0.02 * loud * rustle / rustle.std() * speed / speed.max()
            # Knock: two decaying tones at progress 0, the beginning of the forward verb.
            at = act.centre + act.offset + (1 if act.backward else -1) * act.duration / 2 + rng.normal(0.0, 0.02)
            pitch, strength, decay = pair.hertz * rng.uniform(0.9, 1.1), rng.uniform(0.15, 0.4), rng.uniform(0.03, 0.06)
            if rng.random() < pair.heard:
                first = round(at * SOUND_RATE)
                t = np.arange(SOUND_RATE // 4) / SOUND_RATE
                tone = np.sin(2 * math.pi * pitch * t) + 0.5 * np.sin(2 * math.pi * 2.3 * pitch * t)
                sound[first : first + t.size] += loud * strength * tone * np.exp(-t / decay)
        return (sound.clip(-1, 1) * 32767).round().astype(np.int16)

    def _write_imu(self, motion: HeadMotion, tables: list[Path]) -> None:
        """Write accelerometer and gyroscope as two tables with separate times, like EPIC-KITCHENS."""
        rng = self.rng(4)
        # Title, first stamp (s), rate (Hz), white noise, bias, its drift (per root second), in the sensor's unit.
        sensors = (("Accl", 0.0, 197.9, 0.06, 0.1, 0.02), ("Gyro", 0.0021, 198.2, 0.006, 0.015, 0.002))
        for which, (title, first, rate, noise, bias, drift) in enumerate(sensors):
            t = first + np.arange(int((self.duration - first) * rate)) / rate
            clean = motion.imu(t)[which]
            walk = np.cumsum(rng.normal(0, drift / math.sqrt(rate), clean.shape), axis=0)
            values = clean + rng.normal(0, bias, 3) + walk + rng.normal(0, noise, clean.shape)
            with files.atomic_write(tables[which]) as part, open(part, "w", encoding="utf-8") as file:
                file.write(f"Milliseconds,{title}X,{title}Y,{title}Z\n")
                file.writelines(
                    "{:.6f},{:.6f},{:.6f},{:.6f}\n".format(ms, *row) for ms, row in zip(t * 1e3, values, strict=True)
                )


def timestamp(seconds: float, digits: int = 2) -> str:
    """Format seconds as HH:MM:SS.ss, as in the annotation tables."""
    minutes, rest = divmod(round(seconds * 10**digits), 60 * 10**digits)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest / 10**digits:0{3 + digits}.{digits}f}"
