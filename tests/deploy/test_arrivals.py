"""What arrives while clocks step: no answer joins moments that are far apart."""

import numpy as np
import pytest
import torch

from egodistill import Output, Stream
from egodistill.deploy import arrivals

CLIP = 64 / 30


class Witness(torch.nn.Module):
    """A student that notes which real moments it was shown; readings and pictures carry theirs."""

    inputs, num_frames, frame_size, imu_axes = ("frames", "imu"), 1, 8, "gopro"
    imu_samples, imu_rate, clip_seconds, sampling = 422, 198.0, CLIP, "uniform"

    def __init__(self):
        super().__init__()
        self.seen = []  # (first and last moment of the motion, largest step between two of its samples, the frame's)

    def encode_frames(self, frames, count=None):
        low, high = frames[0, 0, 0, 0, 0], frames[0, 0, 1, 0, 0]
        return (low + 256.0 * high).reshape(1, 1, 1)

    def aggregate(self, features):
        return features[:, 0]

    def encode_imu(self, imu):
        return imu[0, :, 0]

    def fuse(self, image, motion):
        steps = motion.diff().abs()
        self.seen.append((float(motion[0]), float(motion[-1]), float(steps.max()), float(image) / 30))
        return Output(torch.zeros(1, 2), torch.zeros(1, 2))


def picture(number):
    found = np.zeros((8, 8, 3), np.uint8)
    found[:, :, 0], found[:, :, 1] = number % 256, number // 256
    return found


def run(step, which, chunk=20, frames="centre", seconds=14.0, slack=0.05, every=0.25, at=6.003):
    """Feed a stream in order of arrival; the clocks of `which` step at a moment.

    Return (answer, first and last moment of its motion, largest step in it, moment of its frame) for each answer.
    """
    real, witness, found = np.arange(0, seconds, 1 / 200), Witness().eval(), []
    rng = np.random.default_rng(0)

    def stamp(moments, name):
        return moments + (step if which in (name, "both") else 0.0) * (np.asarray(moments) >= at)

    options = {"period": 0.5} if frames == "newest" else {}
    with Stream(witness, every=every, frames=frames, slack=slack, max_pending=99, **options) as stream:
        number = 0
        for k in range(0, len(real), chunk):
            moments = real[k : k + chunk]
            readings = rng.normal([0, 0, 9.8, 0, 0, 0], 0.01, (len(moments), 6))
            readings[:, 0] = moments
            while number / 30 <= moments[-1]:
                now = float(stamp(number / 30, "frames"))
                if frames == "centre" or stream.wants_frame(now):
                    stream.accept_frame(now, picture(number))
                number += 1
            stream.accept_imu(stamp(moments, "samples"), readings)
            for answer in stream.results():
                found.append((answer, *(witness.seen.pop(0) if answer.problem is None else (None,) * 4)))
    return found


CHUNKS = (1, 20, 37, 300)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("step", [1.5, -1.5, -0.4, 0.4])
@pytest.mark.parametrize("frames", ["centre", "newest"])
@pytest.mark.parametrize("which", ["both", "samples"])
def test_no_answer_joins_motion_across_a_step_of_the_clock(step, which, frames, chunk):
    found = run(step, which, chunk, frames)
    joined = [(answer.start, jump) for answer, _, _, jump, _ in found if jump is not None and jump > 0.11]
    assert joined == []
    good = [answer for answer, *_ in found if answer.problem is None]
    problems = [answer for answer, *_ in found if answer.problem]
    assert len(good) >= 10 and len(problems) >= CLIP / 0.25 - 1
    if which == "both":  # as soon as no window has both sides, there are answers again
        assert all(answer.problem is None for answer, *_ in found if answer.start > max(6.0, 6.0 + step) + 0.1)
        assert all(answer.problem is None for answer, *_ in found if 2 < answer.stop < 5.9)


@pytest.mark.parametrize("chunk", CHUNKS[:3])  # not while samples come in pieces of 1.5 s
@pytest.mark.parametrize("step", [1.5, -1.5])
@pytest.mark.parametrize("which", ["both", "samples", "frames"])
def test_no_answer_joins_a_frame_with_motion_of_another_moment(step, which, chunk):
    found = run(step, which, chunk)
    apart = [
        (answer.stop, frame - (first + last) / 2)
        for answer, first, last, _, frame in found
        if answer.problem is None and abs(frame - (first + last) / 2) > 0.55
    ]
    assert apart == []
    if which != "both":
        assert "no longer on one clock" in found[-1][0].problem and "by 1.5 s" in found[-1][0].problem


@pytest.mark.parametrize("step", [1.5, -1.5])
def test_the_newest_frame_is_no_older_than_it_says(step):
    for chunk in CHUNKS:
        for answer, _, last, _, frame in run(step, "both", chunk, "newest"):
            if answer.problem is None:
                assert -0.2 < last - frame < answer.frame_age[0] + 0.2


def test_a_step_of_samples_that_may_come_late_is_seen():
    """With slack, samples of both sides of a step back lie between each other."""
    found = run(-1.5, "both", slack=3.0, seconds=20)
    assert not [answer for answer, _, _, jump, _ in found if jump is not None and jump > 0.11]
    assert sum(answer.problem is None for answer, *_ in found) > 30
    assert any("stepped back by 1.50 s at 6.00 s" in answer.problem for answer, *_ in found if answer.problem)


class Watcher(Witness):
    """A student of two frames and no IMU."""

    inputs, num_frames = ("frames",), 2

    def aggregate(self, features):
        return features[0, :, 0]

    def fuse(self, image, motion):
        self.seen.append([float(moment) / 30 for moment in image])
        return Output(torch.zeros(1, 2), torch.zeros(1, 2))


@pytest.mark.parametrize("fps", [30, 10])
@pytest.mark.parametrize("step", [1.5, -1.5])
def test_no_answer_joins_frames_across_a_step_of_their_clock(step, fps):
    witness, answers = Watcher().eval(), []
    with Stream(witness, every=0.25, max_pending=99) as stream:
        for k in range(14 * fps):
            stream.accept_frame(k / fps + (step if k >= 6 * fps else 0.0), picture(k * 30 // fps))
            answers += stream.results()
    assert len(witness.seen) > 20 and len(answers) - len(witness.seen) >= 4
    assert all(later - earlier < 1.4 for earlier, later in witness.seen)  # 1.07 s apart


def test_a_step_back_of_sensors_that_repeat_one_reading_is_seen():
    times, answers = np.arange(0, 10, 1 / 200), []
    times[1200:] -= 1.5
    with Stream(Witness().eval(), every=0.25, max_pending=99, tolerance=9.0) as stream:
        stream.accept_frame(1.0, picture(30))
        for part in np.split(times, np.arange(20, len(times), 20)):
            stream.accept_imu(part, np.tile([0, 0, 9.8, 0, 0, 0], (len(part), 1)))
            answers += stream.results()
    assert sum("stepped back by 1.5" in (answer.problem or "") for answer in answers) == 8


def moving(times):
    """Readings of a head that moves."""
    return np.sin(np.outer(times, np.arange(1, 7))) + np.array([0, 0, 9.8, 0, 0, 0])


def test_what_is_sent_again_or_comes_late_is_no_step():
    times = np.arange(0, 10, 1 / 200)
    parts = np.split(times, np.arange(20, len(times), 20))  # pieces of 0.1 s
    cases = {
        "in order": parts,
        "each piece twice": [part for part in parts for _ in range(2)],
        "a second again": [*parts[:60], np.concatenate(parts[50:60]), *parts[60:]],
        "two seconds again in pieces": [*parts[:60], *parts[40:60], *parts[60:]],
        "one call": [times],
        "one call, in any order": [np.random.default_rng(0).permutation(times)],
        "backwards": [times[::-1]],
        "a piece late": [*parts[:60], *parts[61:64], parts[60], *parts[64:]],
        "two pieces exchanged": [*parts[:60], parts[61], parts[60], *parts[62:]],
        "pieces of one call exchanged": [*parts[:60], np.concatenate([*parts[65:70], *parts[60:65]]), *parts[70:]],
        "half a second late": [*parts[:60], *parts[65:66], *parts[60:65], *parts[66:]],
        "a stamp from the future": [*parts[:60], parts[60] + 1e9 * (np.arange(20) == 7), *parts[61:]],
        "a piece from the future after a late one": [*parts[:60], parts[50], parts[60] + 100, *parts[60:]],
        "one sample late": [*parts[:60], np.r_[parts[60], parts[59][3:4] + 1e-3], *parts[61:]],
    }
    for name, pieces in cases.items():
        for slack in (0.05, 2.0):
            answers = []
            with Stream(Witness().eval(), every=0.25, slack=slack, max_pending=99) as stream:
                for part in pieces:
                    stream.accept_imu(part, moving(part))
                    answers += stream.results()
            assert not [answer.problem for answer in answers if "stepped" in answer.problem], name
            assert len(answers) > 15, name


def as_it_comes(options, samples=lambda t: 0.0, frames=lambda t: 0.0, piece=20, camera=None, seconds=20.0):
    """Feed a stream in order of arrival; `samples` and `frames` say how late what was taken at t arrives, None: never.

    Return the answers.
    """
    events, real = [], np.arange(0, seconds, 1 / 200)
    for part in np.split(real, np.arange(piece, len(real), piece)):
        if (late := samples(part[0])) is not None:
            events.append((part[-1] + late, "samples", part))
    for moment in np.arange(0, seconds, 1 / 30) if camera is None else camera:
        if (late := frames(moment)) is not None:
            events.append((moment + late, "frame", float(moment)))
    answers = []
    with Stream(Witness().eval(), every=0.25, max_pending=99, **options) as stream:
        for _, kind, what in sorted(events, key=lambda event: event[0]):
            if kind == "frame":
                stream.accept_frame(what, picture(int(what * 30)))
            else:
                stream.accept_imu(what, moving(what))
            answers += stream.results()
    return answers


def lost(start, stop, late=0.0):
    return lambda t: None if start <= t < stop else late


CAMERA = np.cumsum(np.random.default_rng(0).uniform(0.5, 4.0, 8))


@pytest.mark.parametrize(
    "arrivals",
    [
        {"samples": lost(8, 11)},
        {"frames": lost(8, 11)},
        {"samples": lost(8, 9.5), "frames": lost(8, 9.5)},
        {"frames": lambda t: 5.0 if t < 9 else None if t < 13 else 1.0},  # a queue that is dropped
        {"samples": lambda t: 2.0 if t < 9 else None if t < 11 else 0.0},
        {"frames": lambda t: max(0.0, 5.0 - abs(t - 9))},  # a queue that builds up and is worked off
        {"frames": lambda t: 0.99 * max(0.0, 12.0 - t) if t > 8 else 0.0},  # a pause of four seconds, then all at once
        {"samples": lambda t: 0.99 * max(0.0, 12.0 - t) if t > 8 else 0.0},
        {"piece": 200},
        {"camera": np.concatenate([np.arange(0, 8, 1 / 30), np.arange(8, 20, 1.0)])},  # it becomes slower
        {"camera": CAMERA, "frames": lambda t: 0.4, "piece": 100},
        {"frames": lambda t: 0.3 * np.sin(7 * t) ** 2, "samples": lambda t: 0.2 * np.sin(5 * t) ** 2},
    ],
)
def test_what_is_lost_or_late_is_no_step_of_a_clock(arrivals):
    for options in ({}, {"slack": 3.0}, {"frames": "newest", "period": 2.0}):
        answers = as_it_comes(options, **arrivals)
        assert len(answers) > 20
        assert not [answer.problem for answer in answers if answer.problem and "clock" in answer.problem]


def test_frames_of_before_a_step_are_forgotten_one_at_its_time_too():
    stats = arrivals.Stats(waiting=2)
    schedule = arrivals.Schedule(arrivals.ClipSpec(frames=1, size=8, imu_samples=422), 0.5)
    frames = arrivals.Frames(schedule, "newest", 0.5, 4.0, stats)
    frames.kept = [arrivals.TimedFrame(moment, picture(0), taken=moment < 1) for moment in (0.5, 1.0, 1.5)]
    frames.forget(1.0)
    assert [frame.time for frame in frames.kept] == [1.5] and (stats.waiting, stats.replaced) == (1, 1)
