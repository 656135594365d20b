"""A camera that sleeps, or that is ahead of the samples: requests in time, lost pictures, and no frame lost."""

import bisect
import threading
import time

import numpy as np
import pytest
from streams import CLIP, check, offline, open_stream, picture, samples, student

from egodistill import data, predict
from egodistill.deploy import arrivals, feeds, gates
from egodistill.recordings.recording import Recording

STILL = [0.0, 0.0, 9.8, 0.0, 0.0, 0.0]


@pytest.fixture(scope="module")
def model():
    return student()


def sleeping(stream, seconds, delay, lost=(), late=0.0):
    """Feed a still head and the pictures that a stream requests, `delay` after each request, but for the `lost` ones.

    Returns the answers and the times of the requests.
    """
    times = np.arange(0, seconds, 1 / 200)
    asked, coming, answers = [], [], []
    for k in range(0, len(times), 10):
        now = float(times[k + 9])
        while coming and coming[0] + late <= now:
            stream.accept_frame(coming.pop(0), picture())
        stream.accept_imu(times[k : k + 10], np.tile(STILL, (10, 1)))
        answers += stream.results()
        if stream.wants_frame(now):
            if len(asked) not in lost:
                coming.append(now + delay)
            asked.append(now)
    check(stream)
    return answers, asked


# --- Requests in time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("options", [{}, {"gate": (lambda *_: False)}, {"period": 3.0}])
def test_a_frame_that_becomes_too_old_is_replaced_in_time(model, delay, options):
    with open_stream(model, frames="newest", camera_delay=delay, **options) as stream:
        answers, asked = sleeping(stream, 20, delay)
    assert len(answers) > 30 and all(answer.problem is None for answer in answers)
    period = min(options.get("period", 9.0), 4.0)
    assert len(asked) <= 2 + 20 / (period - 0.5 - 0.5 * delay)


@pytest.mark.parametrize(("every", "slack"), [(0.5, 2.0), (0.25, 0.6), (2.0, 0.05), (6.0, 0.05)])
def test_requests_in_time_for_late_frames_and_rare_answers(model, every, slack):
    """Frames come as late as `slack` says; answers are rarer than a frame lives."""
    with open_stream(model, frames="newest", gate=(lambda *_: False), every=every, slack=slack) as stream:
        answers, asked = sleeping(stream, 40, 0.0, late=0.9 * slack)
    assert len(answers) > 5 and all(answer.problem is None for answer in answers)
    assert len(asked) <= 13


def test_frames_are_requested_before_the_first_sample(model):
    """Samples that come 8 s late find a frame for each of their answers."""
    times, readings = samples(0, 14)
    with open_stream(model, frames="newest", max_pending=99, camera_delay=0.5) as stream:
        for now in np.arange(0, 8, 0.1).tolist():
            if stream.wants_frame(now):
                stream.accept_frame(now + 0.5, picture())
        for k in range(0, len(times), 20):
            stream.accept_imu(times[k : k + 20], readings[k : k + 20])
            if stream.wants_frame(now := 8 + float(times[k])):
                stream.accept_frame(now + 0.5, picture())
        answers = stream.results()
        counts = check(stream)
    assert len(answers) == 24 and all(answer.problem is None for answer in answers) and counts.requests < 12


# --- Lost pictures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delay", "slack", "patience"), [(0.0, 0.05, 1.05), (0.2, 0.05, 1.05), (1.0, 0.05, 1.55), (3.0, 2.0, 5.5)]
)
@pytest.mark.parametrize("options", [{}, {"gate": (lambda *_: True)}, {"period": 1.0}])
def test_a_lost_picture_is_requested_again_soon(model, delay, slack, patience, options):
    with open_stream(model, frames="newest", camera_delay=delay, slack=slack, **options) as stream:
        assert stream.camera_timeout == pytest.approx(patience)
        assert stream.wants_frame(10.0)
        assert not stream.wants_frame(10.0 + patience - 0.02)
        assert stream.wants_frame(10.0 + patience + 0.02)
        counts = check(stream)
        assert (counts.requests, counts.given_up, counts.outstanding) == (2, 1, 1)
        stream.accept_frame(10.0 + delay, picture())  # it was late, not lost: it answers
        assert check(stream).answered == 1


def test_a_decision_of_the_gate_whose_picture_is_lost_is_repeated(model):
    decisions = iter([True] + [False] * 99)
    with open_stream(
        model, frames="newest", gate=lambda *about: next(decisions), camera_delay=0.5, max_age=9.0
    ) as stream:
        answers, asked = sleeping(stream, 6, 0.5, lost=(1, 2))
        counts = check(stream)
    assert (counts.requests, counts.given_up, counts.answered) == (4, 2, 2)
    assert np.diff(asked[1:]) == pytest.approx([1.05, 1.05], abs=0.051)
    assert all(answer.problem is None for answer in answers)


def test_a_camera_that_is_gone_is_asked_again_and_again(model):
    with open_stream(model, frames="newest", camera_delay=1.0) as stream:
        answers, asked = sleeping(stream, 20, 1.0, lost=range(1, 99))
    assert np.diff(asked[1:]) == pytest.approx(np.full(len(asked) - 2, 1.55), abs=0.051)
    assert answers[-1].problem == "no frame of the last 4 s"


def test_a_timeout_that_is_given_is_kept(model):
    with open_stream(model, frames="newest", camera_delay=1.0, camera_timeout=7.0) as stream:
        _, asked = sleeping(stream, 20, 1.0, lost=range(99))
    assert np.diff(asked) == pytest.approx([7.0, 7.0], abs=0.051)


# --- A camera ahead of the samples -----------------------------------------------------------------------------


def numbered(count, rate, start=0.0):
    """{time: picture} of a running camera."""
    return {start + k / rate: picture(k) for k in range(count)}


def on_screen(shots, moment):
    return max((shown for shown in shots if shown <= moment + 1e-6), default=None)


@pytest.mark.parametrize("rate", [30.0, 60.0])
@pytest.mark.parametrize("ahead", [2.0, 5.0, 1000.0])
def test_a_camera_ahead_of_the_samples_loses_no_frame(model, rate, ahead):
    """Each answer is that of `predict()` for the same clip, to the bit, however far the camera is ahead."""
    times, readings = samples(0, 10)
    shots = numbered(round(10 * rate), rate)
    waiting, answers = sorted(shots.items()), []
    with open_stream(model, every=0.5, max_pending=99) as stream:
        for k in range(0, len(times), 20):
            while waiting and waiting[0][0] <= times[k] + ahead:
                stream.accept_frame(*waiting.pop(0))
            stream.accept_imu(times[k : k + 20], readings[k : k + 20])
            answers += stream.results()
        counts = check(stream)
    assert len(answers) == 16 and counts.given == 16
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
    """6 seeds: chunks, order and speed of two feeders are random; the camera is always ahead, perhaps by all."""
    network, (times, readings) = student(num_frames), samples(0, 8)
    shots = numbered(240, 30.0)
    wanted = None
    for seed in range(6):
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


@pytest.mark.parametrize("options", [{"period": 1.0}, {"gate": (lambda *_: True)}])
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

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.all = arrivals.Frames(*arguments)  # nothing is dropped from it

    def add(self, frame, first):
        super().add(frame, first)
        if all(one.time != frame.time for one in self.all.kept):
            bisect.insort(self.all.kept, frame, key=lambda one: one.time)
        used = {one.time for number in range(first, first + 120) for one in self.picked(number)}
        assert used == {one.time for one in self.kept}, first

    def picked(self, number):
        found = self.all.nearest(number) if self.choice == "centre" else self.all.newest(number)
        return [one for one in found if one is not None]


@pytest.mark.parametrize("choice", ["centre", "newest"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("tolerance", [0.05, 0.5, 3.0])
def test_the_frames_that_are_kept_are_those_that_answers_use(choice, count, tolerance):
    spec = student(count).imu_samples and arrivals.ClipSpec(frames=count, size=8, imu_samples=422)
    for seed in range(4):
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


@pytest.mark.parametrize(
    "gate", [(lambda *_: False), (lambda *_: True), (lambda _, ages, stop: stop % 1.9 < 0.4), gates.Period(2.5)]
)
@pytest.mark.parametrize(("delay", "slack"), [(0.3, 0.05), (1.0, 0.05), (0.7, 0.3), (1.6, 0.05), (0.0, 0.7)])
def test_simulated_requests_are_those_of_a_stream_with_this_delay(model, gate, delay, slack):
    seen, decided = [], []

    def noted(window, ages, stop):
        seen.append((window.copy(), stop))
        decided.append(bool(gate(window, ages, stop)))
        return decided[-1]

    with open_stream(model, frames="newest", gate=noted, camera_delay=delay, slack=slack) as stream:
        answers, _ = sleeping(stream, 15, delay)
    stops = np.array([stop for _, stop in seen])
    again = iter(decided)
    # The camera could take a picture `delay` after each question.
    frames = np.arange(0, 15 * 20) * 0.05 + 0.045 + delay
    found = gates.simulate(
        lambda *about: next(again), [one for one, _ in seen], stops, frames, slack=slack, camera_delay=delay
    )
    used = [frames[k] if k >= 0 else np.nan for k in found.used]
    own = [answer.stop - answer.frame_age[0] if answer.frame_age else np.nan for answer in answers]
    assert used == pytest.approx(own, nan_ok=True, abs=1e-6)


@pytest.mark.parametrize(
    ("video", "imu"),
    [("gopro-derived/walk_vp9_30fps.mp4", "gopro-derived/walk_imu.csv"), ("gopro/max-heromode.mp4", None)],
)
def test_answers_of_a_real_recording_whose_frames_come_first(sample, video, imu):
    """All frames of the video before the first sample: the answers are those of `predict()`, to the bit."""
    network = student()
    recording = Recording(sample(video), imu and sample(imu))
    options = {"stride": 0.5, "top": 7, "batch_size": 1, "precision": "fp32", "device": "cpu"}
    predicted = list(predict(network, recording, **options))
    moments = [moment for moment, _ in feeds.VideoFeed(sample(video), realtime=False)]
    with open_stream(network, every=0.5, max_pending=999) as stream:
        for moment, shot in zip(moments, data.read_frames(sample(video), moments, size=32), strict=True):
            stream.accept_frame(moment, shot.transpose(1, 2, 0))
        for times, readings in feeds.recorded_samples(recording.motion()):
            stream.accept_imu(times, readings)
        answers = stream.finish()
        check(stream)
    assert len(answers) > 15
    for answer, clip in zip(answers, predicted, strict=False):
        assert (answer.start, answer.stop, answer.problem, answer.classes) == (*clip[:2], None, clip.classes)
