"""A camera that sleeps, or that is ahead of the samples: requests in time, lost pictures, and no frame lost."""

import threading
import time

import numpy as np
import pytest
from streams import CLIP, check, offline, open_stream, picture, samples, student

from egodistill.deploy import arrivals, gates


@pytest.fixture(scope="module")
def model():
    return student()


# --- A camera ahead of the samples -----------------------------------------------------------------------------


def numbered(count, rate, start=0.0):
    """{time: picture} of a running camera."""
    return {start + k / rate: picture(k) for k in range(count)}


def on_screen(shots, moment):
    return max((shown for shown in shots if shown <= moment + 1e-6), default=None)


@pytest.mark.parametrize("rate", [30.0, 60.0])
@pytest.mark.parametrize("ahead", [2.0, 15.0, 1000.0])
def test_a_camera_ahead_of_the_samples_loses_no_frame(model, rate, ahead):
    """Each answer is that of `predict()` for the same clip, to the bit, however far the camera is ahead."""
    times, readings = samples(0, 30)
    shots = numbered(round(30 * rate), rate)
    waiting, answers = sorted(shots.items()), []
    with open_stream(model, every=0.5, max_pending=99) as stream:
        for k in range(0, len(times), 20):
            while waiting and waiting[0][0] <= times[k] + ahead:
                stream.accept_frame(*waiting.pop(0))
            stream.accept_imu(times[k : k + 20], readings[k : k + 20])
            answers += stream.results()
        counts = check(stream)
    assert len(answers) == 56 and counts.given == 56
    for answer in answers:
        moment = on_screen(shots, answer.start + CLIP / 2)
        assert answer.stop - answer.frame_age[0] == moment
        assert answer.classes == offline(model, times, readings, answer.start, [shots[moment]])


class Feeder:
    """Two threads: a camera that is always ahead of the samples, with pauses, and samples in chunks."""

    def __init__(self, stream, shots, times, readings):
        self.stream, self.shots, self.times, self.readings = stream, shots, times, readings
        self.shown = 0.0

    def give_frames(self, pauses):
        for (moment, shot), pause in zip(self.shots.items(), pauses, strict=True):
            self.stream.accept_frame(moment, shot)
            self.shown = moment
            if pause:
                time.sleep(0.001)

    def give_samples(self, edges):
        for part in np.split(np.arange(len(self.times)), edges):
            while len(part) and self.shown < min(self.times[part[-1]], max(self.shots)):
                time.sleep(0.001)
            self.stream.accept_imu(self.times[part], self.readings[part])


@pytest.mark.parametrize("num_frames", [1, 2])
def test_three_threads_whose_camera_is_ahead_without_bound(num_frames):
    """20 seeds: chunks, order and speed of two feeders are random; the camera is always ahead, perhaps by all."""
    network, (times, readings) = student(num_frames), samples(0, 8)
    shots = numbered(240, 30.0)
    wanted = None
    for seed in range(20):
        rng = np.random.default_rng(seed)
        answers = []
        with open_stream(network, max_pending=99) as stream:
            feeder = Feeder(stream, shots, times, readings)
            pauses, edges = rng.random(240) < 0.02 * (seed % 3), np.sort(rng.choice(len(times), 60, replace=False))
            threads = [
                threading.Thread(target=feeder.give_frames, args=(pauses,)),
                threading.Thread(target=feeder.give_samples, args=(edges,)),
            ]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                stream.wait(0.005)
                answers += stream.results()
            answers += stream.finish()
            check(stream)
        found = [(answer.start, answer.problem, answer.frame_age, answer.classes) for answer in answers]
        wanted = wanted or found
        assert found == wanted and len(found) == 12
    spec = arrivals.ClipSpec.times
    for start, problem, ages, classes in wanted:
        places = spec(stream.spec, start)
        used = [on_screen(shots, place) for place in places]
        assert problem is None and [start + CLIP - age for age in ages] == pytest.approx(used)
        scores = offline(network, times, readings, start, [shots[moment] for moment in used])
        assert classes == scores if num_frames == 1 else dict(classes) == pytest.approx(dict(scores), abs=1e-5)


@pytest.mark.parametrize("options", [{"period": 1.0}, {"gate": gates.Always()}])
def test_a_sleeping_camera_ahead_of_the_samples_loses_no_frame(model, options):
    times, readings = samples(0, 20)
    answers, taken = [], []
    with open_stream(model, frames="newest", max_pending=99, **options) as stream:
        for k in range(0, len(times), 20):
            now = 5.0 + float(times[k])  # the camera's: 5 s before the samples
            if k == 0:
                stream.accept_frame(0.0, picture(0))
                taken.append(0.0)
            if stream.wants_frame(now):
                stream.accept_frame(now, picture(k))
                taken.append(now)
            stream.accept_imu(times[k : k + 20], readings[k : k + 20])
            answers += stream.results()
        check(stream)
    for answer in answers:
        newest = max((moment for moment in taken if moment <= answer.stop), default=-9.0)
        used = answer.frame_age == pytest.approx((answer.stop - newest,)) if answer.stop - newest <= 4 else True
        assert used, (answer, newest)


def test_frames_that_wait_for_samples_are_bounded(model, monkeypatch):
    """Beyond the bound, pictures are kept at a lower rate, and not only the newest ones."""
    monkeypatch.setattr(arrivals, "KEPT_BYTES", 200 * 3 * 32 * 32)
    with open_stream(model, max_pending=99) as stream:
        for k in range(3000):
            stream.accept_frame(k / 30, picture(k % 7))
            assert len(stream._frames.kept) <= 200
        kept = np.array([frame.time for frame in stream._frames.kept])
        assert kept[0] < 1 and np.diff(kept).max() < 1.2
        assert sum(not frame.scaled for frame in stream._frames.kept) == 1
        times, readings = samples(0, 30)
        stream.accept_imu(times, readings)
        assert all(answer.problem is None for answer in stream.results())
        counts = check(stream)
    assert counts.replaced > 2000


def test_frames_for_coming_answers_are_bounded(model, monkeypatch):
    """A camera 900 s ahead: pictures at the places of answers, up to the bound."""
    monkeypatch.setattr(arrivals, "KEPT_BYTES", 200 * 3 * 32 * 32)
    times, readings = samples(0, 3)
    with open_stream(model, max_pending=99) as stream:
        stream.accept_imu(times[:100], readings[:100])
        for k in range(9000):
            stream.accept_frame(k / 10, picture(k % 7))
        kept = np.array([frame.time for frame in stream._frames.kept])
        assert len(kept) == 200 and kept[0] == pytest.approx(1.0, abs=0.11) and np.diff(kept).max() < 0.61
        stream.accept_imu(times[100:], readings[100:])
        assert [answer.problem for answer in stream.results()] == [None, None]
        check(stream)


def test_a_frame_with_a_wrong_time_costs_no_other_frame(model):
    """Also if it is the first one, or comes before all samples."""
    times, readings = samples(0, 4)
    for late in (False, True):
        for choice in ("centre", "newest"):
            with open_stream(model, max_pending=99, frames=choice) as stream:
                stream.accept_frame(1e9, picture())
                if late:
                    stream.accept_imu(times[:100], readings[:100])
                for moment, shot in numbered(40, 10.0).items():
                    stream.accept_frame(moment, shot)
                    if moment == 2.0:
                        stream.accept_frame(5e8, picture())
                stream.accept_imu(times[100 * late :], readings[100 * late :])
                answers = stream.results()
                assert len(answers) == 4 and all(answer.problem is None for answer in answers)
                assert all(frame.time < 10 for frame in stream._frames.kept)
                check(stream)


class Everything(arrivals.Frames):
    """The frames that answers may use, found by asking for each answer; `Frames` only checks what may have changed."""

    def add(self, frame, first):
        super().add(frame, first)
        used = {id(one) for number in range(first, first + 120) for one in self.picked(number)}
        assert used == {id(one) for one in self.kept}, first

    def picked(self, number):
        found = self.nearest(number) if self.choice == "centre" else self.newest(number)
        return [one for one in found if one is not None]


@pytest.mark.parametrize("choice", ["centre", "newest"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("tolerance", [0.05, 0.5, 3.0])
def test_the_frames_that_are_kept_are_those_that_answers_use(choice, count, tolerance):
    spec = student(count).imu_samples and arrivals.ClipSpec(frames=count, size=8, imu_samples=422)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        every = float(rng.choice([0.1, 0.5, 1.7]))
        schedule = arrivals.Schedule(spec, every, anchor=0.3)
        frames = Everything(schedule, choice, tolerance, 4.0, arrivals.Stats())
        moments, first = rng.uniform(0, 8, 60).round(int(rng.integers(1, 4))), 0
        if seed % 2:
            moments.sort()
        for moment in moments.tolist():
            frames.add(arrivals.TimedFrame(moment, np.zeros((8, 8, 3), np.uint8)), first)
            if rng.random() < 0.3:
                first += int(rng.integers(1, 3))
                frames.thin(first)
