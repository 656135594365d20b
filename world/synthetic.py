"""A small egocentric world, rendered as real files: videos with sound, IMU tables and annotations.

It needs no download. Wearers with a camera on their head handle kitchen objects; an IMU and a microphone on the camera
are simulated. The files have the layout of EPIC-KITCHENS-100, so they go through the same readers as the data set.

    from egodistill import data, synthetic

    world = synthetic.render("world", seed=0)                   # MP4s, IMU CSVs, EPIC_100_train.csv
    segments = data.read_epic_kitchens(world.annotations, world.root, evaluation_wearers=world.test_wearers)

What happens
------------
Twenty verbs, equally frequent, on twelve objects (`behaviour.THINGS`), of three kinds:

* Reversal pairs (open and close a cupboard, ...): an act of the second verb is an act of the first, reversed in time.
* Cyclic pairs (wash and dry a pan, ...): the hand goes round on the object, slowly for one verb, fast for the other.
  Strokes drift in rate and pause.
* Single acts (pour, throw, scrape, press), which one frame identifies.

All parameters of an act (duration, path, lag of the head, ...) are drawn before the verb, and only the direction of
time or the rate depends on it. In a share of the acts of each object, `Thing.follow`, the head moves with the hand: by
2 to 17 degrees in a reversal or single act, by 0.3 to 2 degrees in the rhythm of a cyclic one. In the others it does
not. `coupling` scales these shares. Heads also move for other reasons: sway, steps, and glances of 2 to 17 degrees.

An act takes 0.6 to 3 s. The next one begins 0.4 to 3.2 s later at another station, to which the head turns in between,
so that 40 % of the clips of 64/30 s around an act contain part of another act or a turn. With objects that are
`unlabelled`, recordings are whole: no annotation names the acts on these, the next act begins 0.7 to 4.9 s later, and
in place of some a hand lies idle on the object.

Wearers differ in the mounting of the camera, pace, gait, glances, and in the sensor: its noise, bias, scale, rate and
clock. The IMU readings are those of a sensor rigidly fixed to the camera: the body's angular rate, and the specific
force R^T (a - g). Both follow from the pose function that also renders the pictures. Axes are GoPro's: X left, Y back
towards the wearer, Z up.

The microphone records the noise of the room, a rustle around each act, and in a share of the acts (`Thing.heard`) a
knock when the object leaves its place, or returns to it in the backward verb; or the rhythm of the strokes. Objects
have overlapping pitches.

Pictures are sharp by default: one frame shows no speed. With a `shutter` of 1/50 s they are blurred by all that moves,
hand and head, in this time.

A share of the training annotations (`label_noise`, 25 %) has a wrong verb, as human annotators make mistakes: mostly
the other verb of the pair or one that looks alike (`behaviour.LOOKALIKES`). Validation and test labels are correct.

What it shows, what it does not, and which choices could favour a method: docs/world.md. The best possible accuracy from
one frame, head motion and sound: `behaviour.bounds()`; from several frames: `lab/ceilings.py`. The pictures:
`props` and `scene`.
"""

from __future__ import annotations

import csv
import itertools
import math
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch

from ..support import files
from ..support.errors import EgoDistillError, named
from ..support.processes import Processes, Watch
from . import props, scene
from .behaviour import (
    ACTIONS,
    FRAME_RATE,
    THINGS,
    TURN,
    Act,
    HeadMotion,
    Thing,
    Wearer,
    draw_acts,
    draw_wearer,
    log_uniform,
    minimum_jerk,
    verbs_of,
    wrong_verb,
)

__all__ = ["RenderedRecording", "World", "WorldError", "render"]

SOUND_RATE = 16000  # Hz, a multiple of the frame rate
GAPS = (0.4, 3.2)  # seconds from one act to the next
LONG_GAPS = (0.7, 4.9)  # the same, in untrimmed recordings, of which a third is annotated, and whole ones
IDLE = 0.15  # share of the acts in whole recordings in place of which a hand lies on the object
BLUR = (np.arange(4) - 1.5) / 4  # times of the sharp pictures that make a blurred one, in units of the exposure
ACTS_PER_RECORDING = 40  # about two minutes
MAX_ACTS = 100 * ACTS_PER_RECORDING  # of one wearer
LATER_SETTINGS = {"shutter": 0.0, "unlabelled": ()}  # settings that older worlds lack, and what they stand for
EPIC_TEST_WEARERS = ("P30", "P35", "P37")  # the paper's, so the default split of the reader fits


class World(NamedTuple):
    """Paths of a rendered world, and who is in it.

    Attributes:
        root: The folder of the world.
        annotations: Table of the trimmed recordings, for `data.read_epic_kitchens()`.
        train_wearers: Names of the wearers for training.
        validation_wearers: Names of the wearers for validation.
        test_wearers: Names of the wearers for testing.
        truth: Table of the verbs of the trimmed recordings, without wrong ones.
        untrimmed: Table of the long recordings of test wearers, a third of which is annotated; None: there are none.
    """

    root: Path
    annotations: Path
    train_wearers: tuple[str, ...]
    validation_wearers: tuple[str, ...]
    test_wearers: tuple[str, ...]
    truth: Path
    untrimmed: Path | None = None


class WorldError(EgoDistillError):
    """Error for a world that cannot be rendered with these arguments or in this folder.

    >>> from egodistill import synthetic
    >>> synthetic.render("world", size=(64, 63))
    Traceback (most recent call last):
    egodistill.world.synthetic.WorldError: size must be (width, height), even and at least 32 pixels; got (64, 63)
    """


@dataclass(frozen=True)
class Request:
    """The settings of a world, with the names of `render()`."""

    seed: int
    train_acts: int
    validation_acts: int
    test_acts: int
    train_wearers: int
    validation_wearers: int
    test_wearers: int
    untrimmed: int
    size: tuple[int, int]
    label_noise: float
    coupling: float
    things: tuple[str, ...]
    shutter: float
    unlabelled: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise WorldError for settings that no world can have."""
        counts = [f"{split}_{what}" for split in ("train", "validation", "test") for what in ("acts", "wearers")]
        for name in ("seed", "untrimmed", *counts):
            if not isinstance(getattr(self, name), numbers.Integral):
                raise WorldError(f"{name} must be an integer; got {getattr(self, name)!r}")
        for name in ("seed", "validation_acts", "validation_wearers", "untrimmed"):
            if getattr(self, name) < 0:
                raise WorldError(f"{name} must be an integer of at least 0; got {getattr(self, name)}")
        if not 0 <= self.label_noise < 1:
            raise WorldError(f"{named('label_noise')} must be at least 0 and less than 1; got {self.label_noise}")
        if not 0 <= self.coupling <= 1:
            raise WorldError(f"coupling must be between 0 and 1; got {self.coupling}")
        if not 0 <= self.shutter <= 1 / FRAME_RATE:
            raise WorldError(f"shutter must be between 0 and 1/{FRAME_RATE} s, the time of a frame; got {self.shutter}")
        if any(side % 2 or side < 32 for side in self.size):
            raise WorldError(f"size must be (width, height), even and at least 32 pixels; got {tuple(self.size)}")
        known = [thing.look for thing in THINGS]
        if unknown := set(self.things) - set(known):
            raise WorldError(f"things must be a list of some of {', '.join(known)}; got {', '.join(sorted(unknown))}")
        if len(verbs_of(self.things)) < 2:
            raise WorldError(f"things must have at least two verbs; got {', '.join(self.things) or 'none'}")
        if not set(self.unlabelled) <= set(self.things) or len(labelled_verbs(self.things, self.unlabelled)) < 2:
            named_things = ", ".join(self.unlabelled)
            raise WorldError(f"unlabelled must be some of the things, and leave two verbs; got {named_things}")
        if self.train_wearers not in range(1, 30):
            raise WorldError(f"train_wearers must be 1 to 29, because P30 is a test wearer; got {self.train_wearers}")
        if self.test_wearers < 1 or self.untrimmed > self.test_wearers:
            raise WorldError(
                f"a world needs a test wearer, and one for each of the {self.untrimmed} untrimmed recordings; got "
                f"test_wearers={self.test_wearers}"
            )
        if max(0, self.test_wearers - len(EPIC_TEST_WEARERS)) + self.validation_wearers > 67:  # P30 to P99 minus three
            raise WorldError(
                f"a world has at most 67 validation and test wearers besides {', '.join(EPIC_TEST_WEARERS)}; got "
                f"validation_wearers={self.validation_wearers}, test_wearers={self.test_wearers}"
            )
        told = {"train": named("train_acts"), "validation": "validation_acts", "test": named("test_acts")}
        for split, option in told.items():
            acts, wearers = (getattr(self, f"{split}_{what}") for what in ("acts", "wearers"))
            if acts < wearers or (acts and not wearers):
                raise WorldError(f"each wearer needs at least one act; got {split}_wearers={wearers}, {option}: {acts}")
            if acts > MAX_ACTS * wearers:  # Recordings 101 to 200; 201 is the untrimmed one.
                raise WorldError(
                    f"a wearer has at most {MAX_ACTS} acts; got {split}_wearers={wearers}, {option}: {acts}"
                )

    def wearers(self, split: str) -> tuple[str, ...]:
        """Return the names of the wearers of a split; no wearer is in two."""
        if split == "train":
            return names(range(1, self.train_wearers + 1))
        others = [name for name in names(range(30, 100)) if name not in EPIC_TEST_WEARERS]
        test = (*EPIC_TEST_WEARERS, *others)[: self.test_wearers]
        return test if split == "test" else tuple(others[::-1][: self.validation_wearers])

    def recordings(self) -> list[RenderedRecording]:
        """Return the trimmed recordings, by split and wearer."""
        plan = []
        for split in ("train", "validation", "test"):
            acts, wearers = getattr(self, f"{split}_acts"), self.wearers(split)
            noise, first = self.label_noise if split == "train" else 0.0, 0
            for name, share in zip(wearers, shares(acts, len(wearers)), strict=True):
                for number, count in enumerate(shares(share, math.ceil(share / ACTS_PER_RECORDING))):
                    label = f"{name}_{101 + number}"
                    plan.append(self.recording(label, count, first, label_noise=noise))
                    first += count
        return plan

    def long_recordings(self) -> list[RenderedRecording]:
        """Return the untrimmed recordings, of about four minutes each."""
        return [
            self.recording(f"{name}_201", 54, 54 * k, untrimmed=True)
            for k, name in enumerate(self.wearers("test")[: self.untrimmed])
        ]

    def recording(self, name: str, acts: int, first: int, **options: Any) -> RenderedRecording:
        """Return a recording of this world."""
        own = {"coupling": self.coupling, "things": self.things, "shutter": self.shutter}
        own |= {"unlabelled": self.unlabelled}
        return RenderedRecording(name, acts, self.seed, *self.size, first=first, **own, **options)


def labelled_verbs(things: Sequence[str] | None, unlabelled: Sequence[str]) -> list[int]:
    """Return the numbers of the verbs of these objects (`Thing.look`; None: all) that annotators name."""
    return [verb for verb in verbs_of(things) if THINGS[ACTIONS[verb][0]].look not in unlabelled]


def names(numbers: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"P{number:02d}" for number in numbers)


def render(
    out: str | os.PathLike,
    *,
    seed: int = 0,
    train_acts: int = 800,
    validation_acts: int = 0,
    test_acts: int = 400,
    train_wearers: int = 8,
    validation_wearers: int = 0,
    test_wearers: int = 3,
    untrimmed: int = 0,
    size: tuple[int, int] = (96, 96),
    label_noise: float = 0.25,
    coupling: float = 1.0,
    things: Sequence[str] | None = None,
    shutter: float = 0.0,
    unlabelled: Sequence[str] = (),
    workers: int | None = None,
    progress: bool = True,
) -> World:
    """Render a world into a folder and return its paths and wearers.

    Acts are divided evenly among the wearers of a split: training P01, P02, ..., test P30, P35, P37 (the paper's) and
    others from P31 on, validation from P99 downwards. The same arguments give the same bytes. An interrupted rendering
    continues.

    Args:
        out: The folder of the world; new, empty, or that of an earlier call with the same arguments.
        seed: Seed of the world.
        train_acts: Number of acts for training.
        validation_acts: Number of acts for validation.
        test_acts: Number of acts for testing.
        train_wearers: Number of wearers for training, 1 to 29.
        validation_wearers: Number of wearers for validation.
        test_wearers: Number of wearers for testing, at least 1.
        untrimmed: Number of long recordings, each of another test wearer.
        size: (width, height) of the pictures in pixels, even numbers of at least 32.
        label_noise: Share of training labels with a wrong verb, at least 0 and below 1.
        coupling: Factor of the shares of acts that the head follows, 0 to 1.
        things: Names of the objects that are in the world, values of `Thing.look` in `behaviour.THINGS`; None: all.
        shutter: Time of exposure of a frame in s, whose middle is the frame's time; 0 for sharp pictures.
        unlabelled: Names of objects whose acts have no annotation. With them, recordings are whole: the gaps are those
            of the long ones, and in place of some acts a hand lies idle on the object.
        workers: Number of processes; None: one per core.
        progress: Show a progress bar on stderr.

    Raises:
        WorldError: For invalid arguments, and for a folder that holds a world with other settings, or other files.

    >>> from egodistill import synthetic
    >>> world = synthetic.render(
    ...     "small", train_acts=4, test_acts=3, train_wearers=2, size=(32, 32), workers=1, progress=False
    ... )
    >>> print(world.annotations.name, sorted(path.name for path in world.root.rglob("*.MP4")))
    EPIC_100_train.csv ['P01_101.MP4', 'P02_101.MP4', 'P30_101.MP4', 'P35_101.MP4', 'P37_101.MP4']
    """
    out = Path(out)
    request = Request(
        seed=seed,
        train_acts=train_acts,
        validation_acts=validation_acts,
        test_acts=test_acts,
        train_wearers=train_wearers,
        validation_wearers=validation_wearers,
        test_wearers=test_wearers,
        untrimmed=untrimmed,
        size=(size[0], size[1]),
        label_noise=label_noise,
        coupling=coupling,
        things=tuple(thing.look for thing in THINGS) if things is None else tuple(things),
        shutter=shutter,
        unlabelled=tuple(unlabelled),
    )
    request.check()
    if workers is not None and workers < 1:
        raise WorldError(f"workers must be at least 1; got {workers}")
    chosen = [thing for thing in THINGS if thing.look in request.things]
    settings = asdict(request) | {"size": list(size), "things": [asdict(thing) for thing in chosen]}
    note = out / "world.json"
    if (strange := files.content(out)) and not note.exists():
        raise WorldError(f"{out}: contains {strange[0]} but no world.json; give an empty folder")
    before = files.read_json(note) if note.exists() else settings
    if not isinstance(before, dict):
        raise WorldError(f"{note}: has no settings of a world; choose another folder or delete it")
    if different := files.differences(LATER_SETTINGS | before, settings):
        raise WorldError(
            f"{out}: holds a world with other settings ({', '.join(different)}, see {note}); choose another folder or "
            f"delete it"
        )
    files.write_json(note, settings)
    plan, long = request.recordings(), request.long_recordings()
    write_recordings([*plan, *long], out, workers, progress)
    write_classes(chosen, out / "EPIC_100_verb_classes.csv")
    return World(
        out,
        write_annotations(plan, out / "EPIC_100_train.csv"),
        *(request.wearers(split) for split in ("train", "validation", "test")),
        write_truth(plan, out / "true_verbs.csv"),
        write_annotations(long, out / "EPIC_100_untrimmed.csv") if long else None,
    )


def write_recordings(plan: Sequence[RenderedRecording], out: Path, workers: int | None, progress: bool) -> None:
    """Write the missing recordings, in several processes."""
    todo = [recording for recording in plan if not recording.exists(out)]
    total = sum(recording.acts for recording in plan)
    workers = min(workers or files.available_cores(), max(1, len(todo)))

    def written() -> int:
        return total - sum(recording.acts for recording in todo if not recording.exists(out))

    bar = files.Progress("render", total, unit="acts", done=written(), show=progress and bool(todo))
    with Watch(bar, written):
        if workers == 1:
            write_bundle(str(out), map(asdict, todo))
        else:
            bundles = [list(map(asdict, todo[k::workers])) for k in range(workers)]
            Processes("world.synthetic.write_bundle", str(out), bundles, workers).run()


def write_bundle(out: str, bundle: Iterable[Mapping[str, Any]]) -> None:
    """Write recordings, given by their fields, below `out`. All compute on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for fields in bundle:
            RenderedRecording(**fields).write(Path(out))
    finally:
        torch.set_num_threads(threads)


def write_annotations(plan: Sequence[RenderedRecording], table: Path) -> Path:
    """Write the annotations of recordings in the layout of EPIC-KITCHENS; return the path."""
    header = (
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
        "stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
    ).split(",")
    with files.atomic_write(table) as part, open(part, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *(row for recording in plan for row in recording.rows())])
    return table


def write_truth(plan: Sequence[RenderedRecording], table: Path) -> Path:
    """Write the verb of each act, without the wrong ones of the annotations; return the path."""
    acts = (row for recording in plan for row in replace(recording, label_noise=0.0).rows())
    with files.atomic_write(table) as part, open(part, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["narration_id", "verb"], *([row[0], row[9]] for row in acts)])
    return table


def write_classes(things: Sequence[Thing], table: Path) -> None:
    """Write the classes of the verbs in the layout of EPIC-KITCHENS."""
    verbs = sorted((number, verb) for thing in things for verb, number in thing.verbs)
    rows = [[number, verb, [verb], "synthetic"] for number, verb in verbs]
    with files.atomic_write(table) as part, open(part, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "key", "instances", "category"], *rows])


def shares(total: int, parts: int) -> list[int]:
    """Divide `total` into `parts` integers that differ by at most 1."""
    return [total * (k + 1) // parts - total * k // parts for k in range(parts)]


# ---------------------------------------------------------------------------------------------------------------
# Files


class Plan(NamedTuple):
    """The events of one recording: its wearer, their acts in order and head motion."""

    wearer: Wearer
    acts: list[Act]
    head: HeadMotion
    duration: float  # length of the recording (s)


@dataclass(frozen=True)
class RenderedRecording:
    """One video of a world with its sound, head motion and annotations, all determined by these settings.

    Attributes:
        name: Wearer and number, such as "P01_101".
        acts: Number of acts.
        seed: Seed of the world.
        width: Width of the pictures in pixels.
        height: Height of the pictures in pixels.
        label_noise: Share of wrong labels.
        coupling: Factor of the shares of acts that the head follows, 0 to 1.
        first: Number of acts before it in its split, which balances the verbs.
        untrimmed: True: longer gaps between the acts, so that a third of the time is annotated.
        things: Names of the objects that are handled, values of `Thing.look`; None: all.
        shutter: Time of exposure of a frame in s; 0 for sharp pictures.
        unlabelled: Names of objects whose acts have no annotation, in a whole recording; see `render()`.

    >>> from egodistill import behaviour, synthetic
    >>> recording = synthetic.RenderedRecording("P01_101", acts=8)
    >>> plan = recording.draw()
    >>> [behaviour.VERBS[act.verb] for act in plan.acts][:3], len(recording.rows())
    (['insert', 'open', 'turn-on'], 8)
    """

    name: str
    acts: int
    seed: int = 0
    width: int = 96
    height: int = 96
    label_noise: float = 0.0
    coupling: float = 1.0
    first: int = 0
    untrimmed: bool = False
    things: tuple[str, ...] | None = None
    shutter: float = 0.0
    unlabelled: tuple[str, ...] = ()

    def draw(self) -> Plan:
        """Draw the wearer, the acts and the motion of the head, without rendering."""
        rng = self.rng(1)
        wearer = draw_wearer(self.name.split("_")[0], self.seed)
        known = np.array(verbs_of(self.things))
        verbs = known[rng.permutation((self.first + np.arange(self.acts)) % len(known))].tolist()
        gaps = LONG_GAPS if self.untrimmed or self.unlabelled else GAPS
        acts = draw_acts(wearer, verbs, gaps, self.coupling, rng)
        if self.unlabelled:
            idle, hold = self.rng(6).random((2, self.acts))
            acts = [act.idle(at) if chance < IDLE else act for act, chance, at in zip(acts, idle, hold, strict=True)]
        duration = math.ceil((acts[-1].centre + 2.0) * FRAME_RATE) / FRAME_RATE
        return Plan(wearer, acts, HeadMotion(wearer, acts, duration, rng), duration)

    def rng(self, purpose: int) -> np.random.Generator:
        """Return independent random numbers for each recording and purpose.

        Args:
            purpose: Number of the purpose.
        """
        wearer, number = self.name.split("_")
        return np.random.default_rng([self.seed, int(wearer[1:]), int(number), purpose])

    def rows(self) -> list[list]:
        """Return the rows of the annotation table in the layout of EPIC-KITCHENS, including wrong verbs."""
        acts, rng, known = self.draw().acts, self.rng(2), labelled_verbs(self.things, self.unlabelled)
        wrong = set(rng.permutation(len(acts))[: round(self.label_noise * len(acts))].tolist())
        rows = []
        for k, act in enumerate(acts):
            if act.hold is not None or act.verb not in known:
                continue
            verb = wrong_verb(act.verb, rng, known) if k in wrong else act.verb
            said, number = THINGS[ACTIONS[verb][0]].verbs[ACTIONS[verb][1]]
            start, stop = act.centre - act.length / 2, act.centre + act.length / 2
            noun, noun_class = THINGS[act.thing].noun
            rows.append(
                [
                    f"{self.name}_{k}",
                    self.name.split("_")[0],
                    self.name,
                    timestamp(act.centre, 3),
                    timestamp(start),
                    timestamp(stop),
                    max(1, round(start * 50)),
                    max(1, round(stop * 50)),
                    f"{said} {noun}",
                    said,
                    number,
                    noun,
                    noun_class,
                    [noun],
                    [noun_class],
                ]
            )
        return rows

    def files(self, root: Path) -> list[Path]:
        """Return the paths of the video, the accelerometer table and the gyroscope table.

        Args:
            root: The folder of the world.
        """
        folder = root / self.name.split("_")[0]
        tables = [folder / "meta_data" / f"{self.name}-{sensor}.csv" for sensor in ("accl", "gyro")]
        return [folder / "videos" / f"{self.name}.MP4", *tables]

    def exists(self, root: Path) -> bool:
        """Return whether all three files exist.

        Args:
            root: The folder of the world.
        """
        return all(file.exists() for file in self.files(root))

    def write(self, root: Path) -> None:
        """Write the files in the layout of EPIC-KITCHENS, each atomically.

        Args:
            root: The folder of the world.
        """
        plan = self.draw()
        video, *tables = self.files(root)
        for file in (video, *tables):
            file.parent.mkdir(parents=True, exist_ok=True)
        self._write_imu(plan, tables)
        with files.atomic_write(video) as part, av.open(str(part), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=FRAME_RATE)
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, "yuv420p"
            # One thread and no B-frames, for the same bytes on every machine.
            stream.codec_context.thread_count = 1
            stream.options = {"crf": "20", "preset": "ultrafast", "g": "40", "bf": "0"}
            microphone = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
            sound, heard, samples = self.sound(plan), 0, SOUND_RATE // FRAME_RATE
            for pictures in self._pictures(plan):
                for picture in pictures:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                piece = av.AudioFrame.from_ndarray(sound[None, heard : heard + len(pictures) * samples], "s16", "mono")
                piece.sample_rate, piece.pts = SOUND_RATE, heard
                container.mux(microphone.encode(piece))
                heard += len(pictures) * samples
            container.mux(stream.encode())
            container.mux(microphone.encode())

    def _pictures(self, plan: Plan) -> Iterator[np.ndarray]:
        """Yield chunks of frames: an act with its and the neighbouring stations, or a turn with its two stations."""
        rng, wearer, acts = self.rng(3), plan.wearer, plan.acts
        room = scene.Room(scene.wall_texture(rng), scene.counter_texture(rng), wearer.counter)
        camera = scene.Camera(self.width, self.height)
        times = np.arange(round(plan.duration * FRAME_RATE)) / FRAME_RATE
        exposures = BLUR if self.shutter else np.zeros(1)
        lights = [np.clip(rng.normal(1.0, 0.06, 3) * rng.uniform(0.7, 1.15), 0.5, 1.3) for _ in acts]
        turns = [(a.stop + b.start) / 2 for a, b in itertools.pairwise(acts)]
        edges = [0.0, *(edge for turn in turns for edge in (turn - TURN / 2, turn + TURN / 2)), math.inf]
        for k, (begin, end) in enumerate(itertools.pairwise(edges)):
            t = times[(times >= begin) & (times < end)]
            if not t.size:
                continue
            here, turning = divmod(k, 2)
            seen = acts[here : here + 2] if turning else acts[max(0, here - 1) : here + 2]
            moments = (t[:, None] + self.shutter * exposures).ravel()
            parts = [(act.azimuth, station(act, wearer, moments)) for act in seen]
            light = np.mean(lights[here : here + 1 + turning], axis=0)
            sharp = camera.render(*plan.head.pose(moments), parts, room, light)
            yield sharp.reshape(t.size, exposures.size, *sharp.shape[1:]).mean(1).round().astype(np.uint8)

    def sound(self, plan: Plan) -> np.ndarray:
        """Return the sound, int16 [samples] at `SOUND_RATE`.

        Args:
            plan: The events, from `draw()`.
        """
        rng = self.rng(5)
        sound = rng.normal(0.0, rng.uniform(0.002, 0.006), round(plan.duration * SOUND_RATE))
        for act in plan.acts:
            loud, heard = rng.uniform(0.7, 1.4), rng.random() < THINGS[act.thing].heard and act.hold is None
            pitch = log_uniform(rng, 300, 3000)  # of any object, so that pitch does not reveal which it is
            # The rustle begins before the act and ends after it: its exact time, with the progress that one frame
            # shows, would reveal in which direction a reversal runs.
            begin, end = act.start - rng.uniform(0.1, 0.9), act.stop + rng.uniform(0.1, 0.9)
            first, last = (min(max(0, round(at * SOUND_RATE)), sound.size) for at in (begin, end))
            t = np.arange(first, last) / SOUND_RATE
            tones = np.exp(-0.5 * ((np.fft.rfftfreq(t.size, 1 / SOUND_RATE) / pitch - 1) / 0.2) ** 2)
            rustle = np.fft.irfft(np.fft.rfft(rng.normal(size=t.size)) * tones, t.size)
            volume = minimum_jerk((t - begin) / 0.1) * minimum_jerk((end - t) / 0.1)
            if heard and act.kind == "cyclic":  # the rhythm of the strokes
                height = act.path(t)[:, 1]
                volume *= 0.1 + 0.9 * np.clip(height / max(1e-6, np.abs(height).max()), 0, 1) ** 2
            sound[first:last] += 0.02 * loud * rustle / rustle.std() * volume
            # Knock: two decaying tones at progress 0, the beginning of the first verb.
            at = (act.stop if act.second else act.start) + rng.normal(0.0, 0.02)
            pitch, strength, decay = pitch * rng.uniform(0.9, 1.1), rng.uniform(0.15, 0.4), rng.uniform(0.03, 0.06)
            if heard and act.kind == "reversal":
                first = max(0, round(at * SOUND_RATE))
                t = np.arange(min(SOUND_RATE // 4, sound.size - first)) / SOUND_RATE
                tone = np.sin(2 * math.pi * pitch * t) + 0.5 * np.sin(2 * math.pi * 2.3 * pitch * t)
                sound[first : first + t.size] += loud * strength * tone * np.exp(-t / decay)
        return (sound.clip(-1, 1) * 32767).round().astype(np.int16)

    def _write_imu(self, plan: Plan, tables: list[Path]) -> None:
        """Write accelerometer and gyroscope as two tables, like EPIC-KITCHENS."""
        readings = plan.head.readings(plan.duration, self.rng(4))
        for table, title, (times, values) in zip(tables, ("Accl", "Gyro"), readings, strict=True):
            with files.atomic_write(table) as part, open(part, "w", encoding="utf-8") as file:
                file.write(f"Milliseconds,{title}X,{title}Y,{title}Z\n")
                file.writelines(
                    "{:.6f},{:.6f},{:.6f},{:.6f}\n".format(ms, *row)
                    for ms, row in zip(times * 1e3, values, strict=True)
                )


def station(act: Act, wearer: Wearer, t: np.ndarray) -> list[scene.Placed]:
    """Return the sprites at an act's station at times `t`, from back to front."""
    hand = props.Hand(act.progress(t), act.path(t), act.presence(t))
    return props.station(THINGS[act.thing].look, act.appearance, hand, wearer.skin, wearer.sleeve, act.pitch)


def timestamp(seconds: float, digits: int = 2) -> str:
    """Format seconds as HH:MM:SS.ss, as in the annotation tables."""
    minutes, rest = divmod(round(seconds * 10**digits), 60 * 10**digits)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest / 10**digits:0{3 + digits}.{digits}f}"
