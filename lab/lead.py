"""What is the better student's lead made of, and does it survive a walk? On world D, by results/protocol-heads.json.

    python -m lab.lead make --out EV                        # render D, and its head motion with real carriers
    python -m lab.lead run --out EV --seeds 0               # a teacher, controls, students with carriers
    python -m lab.lead report --markdown results/lead.md

*Controls* ("D controls"): students from whose head motion something is taken away, or to which it is added
(`head_encoders.py`), and the student of `IMUFilterbank`, beside those of `better_student.py`; all of a seed learn from
one teacher, which is trained here.

*Carriers* ("D with carriers"): the head of the rendered world neither stands still nor walks as real ones do. Here it
moves as wearers of smart glasses did (`EGODISTILL_SAMPLE_DATA`/classyglass, study 1) in place of its own sway and
steps: the pictures, labels and teacher outputs are those of D, the readings follow from the one pose of act and carrier
together. A quarter of the recordings to learn from keep their own motion. Each test clip is asked with the carrier of
every activity, by wearers of whom nobody learned.

A cell is one trained network, and becomes a line of results/D-controls.jsonl or results/D-with-carriers.jsonl with a
bit for each test segment. Finished cells are not repeated: commit the lines as they come.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from egodistill import EgoDistill, data
from egodistill.datasets.store import outputs_record
from egodistill.engine.augmentation import rotations
from egodistill.engine.filterbank import IMUFilterbank
from egodistill.imu import IMU_READERS
from egodistill.support import files, tables
from egodistill.world import behaviour, synthetic
from lab import benches, better_student, contrasts, evidence, head_encoders, intervals, real_heads
from lab.benches import Run
from lab.better_student import BOTH, FRAMES, MORE, MORE_METHOD, RATE, SLOWFAST, WINNER
from lab.contrasts import Outcome
from lab.evidence_report import classes_of, holm, outcome_of, shared_seeds, shown
from lab.protocols import Method

CONTROLS, CARRIED = "D controls", "D with carriers"
SEEDS = real_heads.PROTOCOL_TEXT["seeds"]
SECOND, NO_TURN, SCALED = "Filterbank", "Spectrum without the net turn", "CNN, scaled, with the net turn"
ACTIVITIES = real_heads.ACTIVITIES[1]
NONE = "none"  # no carrier: the motion of the rendered world

spectrum_like = functools.partial(EgoDistill, aggregator="concat")
ALONE = {  # {name: (encoder, whether it has a stage 1)}: one of the sensors is zero
    f"{WINNER}, gyroscope alone": (head_encoders.spectrum_without_accelerometer, False),
    f"{WINNER}, accelerometer alone": (head_encoders.spectrum_without_gyroscope, False),
    f"{MORE}, gyroscope alone": (head_encoders.paper_without_accelerometer, True),
    f"{MORE}, accelerometer alone": (head_encoders.paper_without_gyroscope, True),
}
METHODS = [
    *(one for one in better_student.METHODS if one.name in (WINNER, FRAMES)),
    MORE_METHOD,
    Method(SECOND, functools.partial(spectrum_like, imu_encoder="filterbank")),
    Method(NO_TURN, functools.partial(spectrum_like, imu_encoder=head_encoders.SpectrumWithoutTurn)),
    Method(SCALED, functools.partial(spectrum_like, imu_encoder=head_encoders.ScaledCNN)),
    *(
        Method(name, functools.partial(spectrum_like, imu_encoder=one), pretrain=two)
        for name, (one, two) in ALONE.items()
    ),
]
LONG = RATE | {"epochs": 9, "augment": BOTH}
SETTINGS = replace(
    evidence.GENERAL,
    changes={FRAMES: better_student.CHANGES[FRAMES]}
    | {method.name: LONG for method in METHODS if method.name != FRAMES}
    | {f"stage 1 of {method.name}": RATE for method in METHODS if method.pretrain},
)
CARRIED_METHODS = (WINNER, SECOND, MORE)
KNOWN = "object known"  # no student: what the numbers of `IMUFilterbank` show beside the object and clean labels
# The contrasts of the protocol that are tested here, and those that are described: (acts, method, minus, frames).
HEADS = [  # of `real_heads.py`
    (2.13, "filterbank", "spectrum"),
    (10.0, "filterbank", "spectrum"),
    (2.13, real_heads.SCALED_CNN, "filterbank"),
]
TESTED = [
    (CONTROLS, SECOND, WINNER, 1),
    (CONTROLS, SECOND, WINNER, 4),
    ("walk", f"{SECOND}, carriers", FRAMES, 1),
    ("walk", f"{SECOND}, carriers", f"{MORE}, carriers", 1),
    (NONE, f"{SECOND}, carriers", WINNER, 1),
]


# ---------------------------------------------------------------------------------------------------------------
# Carriers: recorded head motion as a pose

RATE_OF_CARRIERS = real_heads.RATE
SLOW, SLOW_PLACE = 0.2, 0.5  # Hz, below which angles and places are left out: a clip would lose its object
TILT_SECONDS = 3.0  # after which the accelerometer corrects the tilt that the gyroscope gives
FADE = 1.0  # seconds in which the end of a recording goes over into its beginning
NODS = (0.3, 3.0)  # Hz, of the turns whose main axis is taken as that of nods


def band(values: np.ndarray, low: float, high: float = np.inf, integrals: int = 0) -> np.ndarray:
    """Return values [n, k] of a band of frequencies in Hz, integrated so often; both edges are those of a Butterworth.

    The values lose the line from the first to the last, fade over `FADE` into their own beginning, and come back that
    much shorter, as a period.
    """
    fade = round(FADE * RATE_OF_CARRIERS)
    weight = behaviour.minimum_jerk(np.arange(fade) / fade)[:, None]
    values = values - np.linspace(values[0], values[-1], len(values))
    period = values[:-fade].copy()
    period[:fade] = weight * period[:fade] + (1 - weight) * values[-fade:]
    frequency = np.fft.rfftfreq(len(period), 1 / RATE_OF_CARRIERS)[1:, None]
    spectrum = np.fft.rfft(period, axis=0)
    spectrum[0] = 0.0
    spectrum[1:] *= (
        (2j * np.pi * frequency) ** -integrals / (1 + (low / frequency) ** 8) / (1 + (frequency / high) ** 8)
    )
    return np.fft.irfft(spectrum, len(period), axis=0)


def poses(samples: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return yaw, pitch, roll (rad), left, forward, up (m), [n, 6], of recordings [m, 6] in m/s2 and rad/s.

    Each recording is turned upright by its mean acceleration, and about that so that most nods are about the axis to
    the left; which of both ways is forward, nobody can tell. A complementary filter follows the attitude.
    """
    steps = max(map(len, samples))
    upright = []
    for one in samples:
        up = one[:, :3].mean(0) / np.linalg.norm(one[:, :3].mean(0))
        side = np.cross(up, np.eye(3)[np.abs(up).argmin()])
        side /= np.linalg.norm(side)
        plane = np.stack(
            [side, np.cross(up, side)]
        )  # two horizontal axes, the second 90 degrees to the left of the first
        nods = band(one[:, 3:] @ plane.T, *NODS)
        left = plane.T @ np.linalg.eigh(nods.T @ nods)[1][:, 1]
        axes = np.stack([left, np.cross(up, left), up])  # left, back, up
        upright.append(np.pad(one.reshape(-1, 2, 3) @ axes.T, [(0, steps - len(one)), (0, 0), (0, 0)], "edge"))
    motion = np.stack(upright)  # [recordings, steps, sensor, axis]
    level = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # columns: left, back and up of a head that looks along x
    attitude = np.repeat(level[None], len(motion), 0)
    attitudes = np.empty((*motion.shape[:2], 3, 3))
    for k in range(steps):
        force, turn = motion[:, k, 0], motion[:, k, 1]
        attitudes[:, k] = attitude
        felt = force / np.linalg.norm(force, axis=1, keepdims=True)
        turn = (turn + np.cross(felt, attitude[:, 2]) / TILT_SECONDS) / RATE_OF_CARRIERS
        attitude = attitude @ rotations(torch.from_numpy(turn)).numpy()
    force = (attitudes @ motion[:, :, 0, :, None])[..., 0] - [0, 0, behaviour.GRAVITY]
    yaw = np.unwrap(np.arctan2(-attitudes[..., 1, 1], -attitudes[..., 0, 1]), axis=1)
    pitch = np.arcsin(attitudes[..., 2, 1].clip(-1, 1))
    roll = np.arctan2(-attitudes[..., 2, 0], attitudes[..., 2, 2])
    cos, sin = np.cos(yaw), np.sin(yaw)
    places = [cos * force[..., 1] - sin * force[..., 0], cos * force[..., 0] + sin * force[..., 1], force[..., 2]]
    angles, places = np.stack([yaw, pitch, roll], 2), np.stack(places, 2)
    return [
        np.hstack([band(one[: len(own)], SLOW), band(two[: len(own)], SLOW_PLACE, integrals=2)])
        for one, two, own in zip(angles, places, samples, strict=True)
    ]


class Carrier:
    """Recorded head motion as a smooth pose of any length: a periodic cubic spline.

    Args:
        pose: Of `poses()`, [n, 6].
        start: Seconds of it at which the time is 0.
        backward: The head looks the other way: recordings do not tell.
    """

    def __init__(self, pose: np.ndarray, start: float, backward: bool) -> None:
        weights = np.zeros(len(pose))
        weights[[0, 1, -1]] = 4 / 6, 1 / 6, 1 / 6
        spectrum = np.fft.rfft(pose, axis=0) / np.fft.rfft(weights)[:, None]
        self.knots = np.fft.irfft(spectrum, len(pose), axis=0) * ([1, -1, -1, -1, -1, 1] if backward else [1] * 6)
        self.start = start

    def __call__(self, t: np.ndarray) -> np.ndarray:
        """Return yaw, pitch, roll (rad), left, forward, up (m), [6, n], at times [n] in s."""
        place = (np.asarray(t, np.float64) + self.start) * RATE_OF_CARRIERS
        first = np.floor(place)
        u, first = (place - first)[:, None], first.astype(int)
        weights = [(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3]
        return sum(w / 6 * self.knots[(first + k - 1) % len(self.knots)] for k, w in enumerate(weights)).T


@functools.cache
def recorded(train: bool) -> dict[int, list[np.ndarray]]:
    """Return the poses of recordings by activity, of wearers to learn from or of the others."""
    edge = round(real_heads.EDGE * RATE_OF_CARRIERS)
    some = [one for one in real_heads.recordings(1) if len(one[2]) > 40 * RATE_OF_CARRIERS]
    wearers = np.random.default_rng(0).permutation(np.unique([wearer for _, wearer, _ in some]))
    own = wearers[:16] if train else wearers[16:]
    some = [(activity, samples[edge:-edge]) for activity, wearer, samples in some if wearer in own]
    found: dict[int, list[np.ndarray]] = {}
    for (activity, _), pose in zip(some, poses([samples for _, samples in some]), strict=True):
        found.setdefault(activity, []).append(pose)
    return found


def carried(recording: synthetic.RenderedRecording, activity: int, train: bool) -> data.Imu:
    """Return the readings of a recording of D whose head also does this activity, on the sensor's own clock."""
    plan, rng = recording.draw(), recording.rng(100 + activity)
    choice = recorded(train)[activity]
    pose = choice[rng.integers(len(choice))]
    carrier = Carrier(pose, rng.uniform(0, len(pose) / RATE_OF_CARRIERS), rng.random() < 0.5)
    head = plan.head
    head.amplitude[:], head.walks = 0.0, []  # its own sway and steps; glances stay
    own: Callable = head.sway
    head.sway = lambda t: own(t) + carrier(t)
    (accel_time, accel), (gyro_time, gyro) = head.readings(plan.duration, recording.rng(4))
    return data.Imu(accel_time, accel, gyro_time, gyro)


def activity_of(recording: synthetic.RenderedRecording) -> int | None:
    """Return which carrier a recording to learn from has; None for a quarter of them."""
    rng = recording.rng(99)
    return None if rng.random() < 0.25 else int(rng.integers(len(ACTIVITIES)))


def read_carried(path: str) -> data.Imu:
    """Return the readings that `make()` keeps beside a world: a function of `IMU_READERS`."""
    with np.load(path) as kept:
        return data.Imu(*(kept[name] for name in ("accel_time", "accel", "gyro_time", "gyro")))


def make(out: Path) -> None:
    """Render and decode D; write the readings with carriers, a store to learn from, and the windows of test clips."""
    better_student.make("D", out)
    folder = out / evidence.slug(CARRIED)
    segments = evidence.segments_of(better_student.world_of("D", out))
    rows = {recording.name: recording for recording in better_student.recordings_of("D", out)}
    own: dict[str, str] = {}
    for number, (name, recording) in enumerate(rows.items(), 1):
        split = next(one.split for one in segments if Path(one.video).stem == name)
        activity, path = activity_of(recording), folder / "imu" / f"{name}.carried"
        if split == "test" or activity is None:
            continue
        own[name] = str(path)
        if not path.exists():
            imu = carried(recording, activity, train=True)
            keep_arrays(path, {key: getattr(imu, key) for key in ("accel_time", "accel", "gyro_time", "gyro")})
            print(f"{number} of {len(rows)} recordings", flush=True)
    IMU_READERS[".carried"] = read_carried
    data.prepare(
        [replace(one, imu=own.get(Path(one.video).stem, one.imu)) for one in segments],
        folder / "store",
        num_frames=1,
        frame_size=evidence.PIXELS,
        ends=True,
        class_names=sorted(behaviour.VERBS),
        workers=1,
    )
    for activity in range(len(ACTIVITIES)):
        tested(out, activity)


def keep_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays into one file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(path) as part, open(part, "wb") as file:
        np.savez(file, **arrays)


def tested(out: Path, activity: int) -> np.ndarray:
    """Return the head motion of the test clips with the carrier of an activity, float32 [n, 422, 6]; write it once."""
    path = out / evidence.slug(CARRIED) / "test" / f"{activity}.npz"
    if path.exists():
        with np.load(path) as kept:
            return kept["imu"]
    store = data.ClipStore(out / "D" / "store").split("test")
    rows = {recording.name: recording for recording in better_student.recordings_of("D", out)}
    own = {one.id: one for one in evidence.segments_of(better_student.world_of("D", out))}
    read = functools.cache(lambda name, offset: carried(rows[name], activity, train=False).on_clock(offset))
    windows = []
    for clip in store.clips:
        segment = own[clip["id"]]
        motion = read(Path(segment.video).stem, segment.imu_offset)
        windows.append(motion.window(clip["start"], min_coverage=0.0))
    keep_arrays(path, {"imu": np.stack(windows)})
    print(f"test clips with the carrier of {ACTIVITIES[activity]}", flush=True)
    return np.stack(windows)


# ---------------------------------------------------------------------------------------------------------------
# Cells


def cells(seed: int, frames: Sequence[int]) -> list[tuple[str, Run]]:
    """Return the cells of a seed, in the order in which they are trained: (world, run)."""
    plan = [(CONTROLS, Run("teacher", seed, teacher=SLOWFAST))]
    for count in frames:
        plan += [(CONTROLS, Run(method.name, seed, count, SLOWFAST)) for method in METHODS]
        plan += [(CARRIED, Run(name, seed, 1, SLOWFAST)) for name in (KNOWN, *CARRIED_METHODS) if count == 1]
    return plan


def bench_of(world: str, out: Path) -> benches.Bench:
    """Return the bench of one of both worlds."""
    folder = out / evidence.slug(world)
    store = out / "D" / "store" if world == CONTROLS else folder / "store"
    teachers = {SLOWFAST: evidence.TEACHERS[SLOWFAST]} if world == CONTROLS else {}
    options = {"validation": "validation", "teachers": teachers, "methods": METHODS, "progress": False}
    return benches.Bench(str(store), str(folder / "runs"), SETTINGS, **options)


def finished(world: str) -> dict[str, dict[str, Any]]:
    """Return the lines of a world by the name of the run."""
    return evidence.lines_of(world, real_heads.PROTOCOL, real_heads.digest())


def run(out: Path, seeds: Sequence[int], frames: Sequence[int], methods: Sequence[str]) -> None:
    """Train and evaluate the cells of these seeds and methods, of all if none is given, that have no line."""
    origin = {
        "commit": evidence.git("rev-parse", "HEAD"),
        "protocol": real_heads.digest(),
        "processor": tables.processor(),
    }
    for world, one in itertools.chain.from_iterable(cells(seed, frames) for seed in seeds):
        if one.name in finished(world) or (methods and one.method not in ("teacher", *methods)):
            continue
        bench = bench_of(world, out)
        if one.method == KNOWN:
            files.append_line(evidence.path_of(world), object_known(out, one) | origin)
            continue
        if world == CARRIED:
            evidence.reuse(bench_of(CONTROLS, out), bench, Run("start", one.seed))
            share_outputs(out, one)
        bench.run([one])
        files.append_line(evidence.path_of(world), line_of(world, out, bench, one) | origin)


def share_outputs(out: Path, run: Run) -> None:
    """Give the clips with carriers what the teacher of a seed said of their pictures, which are those of D."""
    plain, store = (data.ClipStore(out / name / "store") for name in ("D", evidence.slug(CARRIED)))
    if [clip["id"] for clip in plain.clips] != [clip["id"] for clip in store.clips]:
        raise SystemExit(f"{store.path}: has other clips than {plain.path}; delete it, and `make` it again")
    for name in (f"{run.outputs}.{kind}" for kind in ("feature", "logits")):
        values = plain.read(name, slice(None))
        store.add(name, values.shape[1:], values.dtype)
        store.write(name, slice(None), values)


def line_of(world: str, out: Path, bench: benches.Bench, run: Run) -> dict[str, Any]:
    """Return the line of a finished cell."""
    result = bench.result(run)
    line = {"name": run.name, "run": asdict(run)}
    line |= {name: result[name] for name in ("top1", "seconds", "precision", "test", "correct")}
    line["teacher"] = outputs_record(data.ClipStore(out / "D" / "store"), run.outputs)["fingerprint"]
    if run.method in CARRIED_METHODS and run.frames == 1:
        store = data.ClipStore(bench.store).split("test")
        motions = [tested(out, activity) for activity in range(len(ACTIVITIES))]
        found = better_student.right_of(bench.load(run).eval(), store, motions)
        line["carried"] = {
            name: contrasts.pack(contrasts.split_by_wearer(right, store.wearers))
            for name, right in zip(ACTIVITIES, found, strict=True)
        }
    return line


def object_known(out: Path, run: Run) -> dict[str, Any]:
    """Return the line of a perceptron that is told the object of each clip, and learned clean labels with carriers.

    Its accuracy is a lower estimate of the best that is possible with head motion and the object alone.
    """
    begun = time.monotonic()
    store = data.ClipStore(out / evidence.slug(CARRIED) / "store")
    plans = {recording.name: recording.draw().acts for recording in better_student.recordings_of("D", out)}
    encoder = IMUFilterbank(signed=True, dropout=0.0)
    for norm in (part for part in encoder.modules() if isinstance(part, torch.nn.BatchNorm1d)):
        norm.momentum = None  # the mean of all batches

    def inputs_of(clips: data.ClipStore, motion: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        acts = [plans[video][int(number)] for video, number in (clip["id"].rsplit("_", 1) for clip in clips.clips)]
        things = torch.eye(len(behaviour.THINGS))[[act.thing for act in acts]]
        parts = torch.from_numpy(motion).split(512)
        with torch.no_grad():
            numbers = torch.cat([encoder(part) for part in parts])
        verbs = [clips.class_names.index(behaviour.VERBS[act.verb]) for act in acts]
        return torch.cat([numbers, things], 1), torch.tensor(verbs)

    train, test = store.split("train"), store.split("test")
    inputs_of(train, train.read("imu", slice(None)))  # for the statistics
    encoder.eval()
    training = real_heads.TRAINING | {"epochs": 40, "batch_size": min(256, len(train))}
    learned = inputs_of(train, train.read("imu", slice(None)))
    model = real_heads.perceptron(*learned, [len(store.class_names)], run.seed, training)

    def right(motion: np.ndarray) -> np.ndarray:
        inputs, verbs = inputs_of(test, motion)
        with torch.no_grad():
            return (model(inputs).argmax(1) == verbs).numpy()

    own = right(test.read("imu", slice(None)))
    return {
        "name": run.name,
        "run": asdict(run),
        "top1": float(own.mean()),
        "seconds": time.monotonic() - begun,
        "precision": "fp32",
        "test": contrasts.segments_record(test)["digest"],
        "correct": contrasts.pack(contrasts.split_by_wearer(own, test.wearers)),
        "carried": {
            name: contrasts.pack(contrasts.split_by_wearer(right(tested(out, activity)), test.wearers))
            for activity, name in enumerate(ACTIVITIES)
        },
    }


# ---------------------------------------------------------------------------------------------------------------
# Report


def outcomes() -> dict[tuple[str, str, int], list[Outcome]]:
    """Return the outcomes by set of acts, method and number of frames; those of frames alone hold for every carrier."""
    found: dict[tuple[str, str, int], list[Outcome]] = {}
    for world in (CONTROLS, CARRIED):
        if not evidence.path_of(world).exists():
            continue
        lines = finished(world).values()
        known = classes_of("D", lines)
        for line in lines:
            method, frames = line["run"]["method"], line["run"]["frames"]
            sets = {CONTROLS if world == CONTROLS else NONE: line["correct"]} | line.get("carried", {})
            if world == CONTROLS and frames == 1 and (method == FRAMES or "carried" in line):
                sets |= {NONE: line["correct"]}
            if method == FRAMES and frames == 1:
                sets |= dict.fromkeys(ACTIVITIES, line["correct"])
            for name, bits in sets.items():
                own = f"{method}, carriers" if world == CARRIED else method
                found.setdefault((name, own, frames), []).append(outcome_of(line, bits, known))
    return found


def accuracies(found: dict[tuple[str, str, int], list[Outcome]]) -> tables.Table:
    """Return the table of the controls: accuracy, and how much better than frames alone, Spectrum and the recipe."""
    rows, others = [], (FRAMES, WINNER, better_student.MORE)
    for (acts, method, frames), some in found.items():
        if acts == CONTROLS:
            gaps = [gap_of(found, (acts, method, other, frames)) for other in others]
            cells = ["" if gap is None or gap.seeds < 2 else str(gap) for gap in gaps]
            count = "" if method == "teacher" else f"{frames}"
            kinds = [better_student.kind_of(some, kind) for kind in behaviour.KINDS]
            rows.append([method, count, f"{contrasts.accuracy(some).mean:.1f}", *kinds, *cells, f"{len(some)}"])
    heads = ["method", "N", "top-1 (%)", *behaviour.KINDS, *(f"minus {name}" for name in others), "seeds"]
    return tables.Table(heads, rows)


def by_activity(found: dict[tuple[str, str, int], list[Outcome]]) -> tables.Table:
    """Return the accuracy with each carrier: of students that learned without carriers, and with them."""
    methods = [*CARRIED_METHODS, *(f"{name}, carriers" for name in (*CARRIED_METHODS, KNOWN))]
    rows = []
    for acts in (NONE, *ACTIVITIES):
        some = {method: found.get((acts, method, 1), []) for method in (FRAMES, *methods)}
        cells = [f"{contrasts.accuracy(one).mean:.1f}" if one else "" for one in some.values()]
        gap = gap_of(found, (acts, f"{SECOND}, carriers", FRAMES, 1))
        rows.append([acts, *cells, "" if gap is None or gap.seeds < 2 else str(gap)])
    return tables.Table(["carrier", FRAMES, *methods, f"{SECOND}, carriers, minus {FRAMES}"], rows)


def gap_of(found: Any, contrast: tuple[str, str, str, int]) -> intervals.Interval | None:
    """Return the interval of a difference over the seeds that both have; None without lines, or of itself."""
    acts, one, two, frames = contrast
    first, second = shared_seeds(found.get((acts, one, frames), []), found.get((acts, two, frames), []))
    return contrasts.difference(first, second) if first and one != two else None


def tests(found: Any) -> tables.Table:
    """Return the contrasts of the protocol, by Holm's procedure over its whole family."""
    lines = list(files.read_lines(real_heads.LINES, "study"))
    gaps = [
        (f"study 2, {seconds:g} s", *names, real_heads.gap_of(lines, 2, seconds, *names)) for seconds, *names in HEADS
    ]
    gaps += [(f"{acts}, N = {n}", one, two, gap_of(found, (acts, one, two, n))) for acts, one, two, n in TESTED]
    known = [gap for gap in gaps if gap[3] is not None and gap[3].seeds > 1]
    adjusted = holm([gap.p for *_, gap in known] + [1.0] * (len(gaps) - len(known)))
    rows = [[*names, str(gap), shown(p), f"{gap.seeds}"] for (*names, gap), p in zip(known, adjusted, strict=False)]
    return tables.Table(["on", "method", "minus", "points", "p (Holm)", "seeds"], rows)


def cost_of_carriers(found: Any) -> tables.Table:
    """Return what a student loses without a carrier by having learned with carriers; described, not tested."""
    gaps = {name: gap_of(found, (NONE, f"{name}, carriers", name, 1)) for name in CARRIED_METHODS}
    rows = [[name, str(gap), f"{gap.seeds}"] for name, gap in gaps.items() if gap is not None]
    return tables.Table(["method", "learned with carriers minus without", "seeds"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    for name in ("make", "run"):
        command = actions.add_parser(name)
        command.add_argument("--out", type=Path, required=True, help="folder for the world, stores and networks")
    command.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    command.add_argument("--frames", type=int, nargs="+", default=[1, 4])
    command.add_argument("--methods", nargs="+", default=[], choices=[*(one.name for one in METHODS), KNOWN])
    tables.markdown_option(actions.add_parser("report"))
    given = parser.parse_args()
    if given.action == "make":
        make(given.out)
    elif given.action == "run":
        run(given.out, given.seeds, given.frames, given.methods)
    else:
        found = outcomes()
        origin = evidence.machines(line for world in (CONTROLS, CARRIED) for line in finished(world).values())
        for name, table in {
            "contrasts of the protocol": tests(found),
            "world D: controls": accuracies(found),
            "world D: real head motion": by_activity(found),
            "world D: without a carrier": cost_of_carriers(found),
        }.items():
            print(f"\n{name}")
            tables.report(table, f"lab/lead.py, {name}", given.markdown, sys.argv, origin=origin)


if __name__ == "__main__":
    main()
