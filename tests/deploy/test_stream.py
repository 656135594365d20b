"""Live inference: which answers a stream gives, whatever the order, the pace and the faults of its input."""

import itertools
import threading
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from painted import STEADY, X264, write_video
from streams import CLIP, check, offline, open_stream, picture, samples, student

from egodistill import EgoDistill, EgoDistillError, Stream, StreamClockError, predict
from egodistill.deploy import arrivals, export, feeds, gates
from egodistill.engine.calibration import Calibration
from egodistill.imu import Imu
from egodistill.recordings import read_clip
from egodistill.recordings.recording import Recording
from egodistill.recordings.spec import spec_of
from egodistill.student import Output
from egodistill.video import Scaler

KEYS = ("frames.times", "frames")


@pytest.fixture(scope="module")
def model():
    return student()


def run(stream, times, readings, frames=(), chunk=0.1):
    """Feed samples in chunks of so many seconds, and frames {time: picture} when their time has come; all answers."""
    answers, waiting = [], sorted(dict(frames).items())
    edges = np.arange(times[0], times[-1] + 2 * chunk, chunk)
    for start, stop in itertools.pairwise(edges):
        while waiting and waiting[0][0] < stop:
            stream.accept_frame(*waiting.pop(0))
        part = (times >= start) & (times < stop)
        stream.accept_imu(times[part], readings[part])
        answers += stream.results()
    return answers


# --- Equal to the offline path -----------------------------------------------------------------------------


@pytest.mark.parametrize("num_frames", [1, 3])
def test_answers_are_those_of_predict_for_a_recording(kitchen, num_frames):
    recording, every = kitchen[0].recording, 0.5
    network = student(num_frames)
    spec = spec_of(network)
    motion = recording.motion()
    first = max(motion.accel_time[0], motion.gyro_time[0])
    starts = [first + k * every for k in range(12)]
    starts = [start for start in starts if 0 <= start and start + CLIP < 5.9]
    assert len(starts) > 3
    found = {start: read_clip(recording, start, spec) for start in starts}
    with open_stream(network, every=every, max_pending=99) as stream:
        for clip in found.values():
            for moment, frame in zip(clip["frames.times"], clip["frames"], strict=True):
                stream.accept_frame(float(moment), frame.transpose(1, 2, 0))
        for times, readings in feeds.recorded_samples(motion):
            stream.accept_imu(times, readings)
        answers = {answer.start: answer for answer in stream.results()}
        check(stream)
    compared = 0
    for start, clip in found.items():
        with torch.no_grad():
            inputs = (torch.from_numpy(clip[name])[None] for name in ("frames", "imu"))
            scores = dict(zip("abcdefg", network(*inputs).logits.softmax(1)[0].tolist(), strict=True))
        answer = answers[start]
        assert answer.problem is None
        if num_frames == 1:
            assert answer.frame_age == (answer.stop - clip["frames.times"][0],)
            assert dict(answer.classes) == scores  # to the bit
        elif not np.allclose([answer.stop - age for age in answer.frame_age], clip["frames.times"]):
            continue  # a frame of another clip is later, and on screen at this place, too
        assert dict(answer.classes) == pytest.approx(scores, abs=1e-5)
        compared += 1
    assert compared > 3


@pytest.mark.parametrize(("num_frames", "options"), [(1, {}), (2, {}), (1, {"imu_encoder": "spectrum"})])
def test_a_stream_and_predict_agree_on_a_whole_video(tmp_path, num_frames, options):
    network, (times, readings) = student(num_frames, **options), samples(0, 6.1, 200.0)
    video, table = write_video(tmp_path / "walk.mp4", STEADY, **X264), tmp_path / "walk.csv"
    rows = np.column_stack([times, readings])
    np.savetxt(table, rows, "%.17g", delimiter=",", header="time,ax,ay,az,gx,gy,gz", comments="")
    recording, spec = Recording(video, table), spec_of(network)
    predicted = list(predict(network, recording, stride=0.5, top=7, batch_size=1, precision="fp32", device="cpu"))
    shots = {}
    for clip in predicted:
        found = read_clip(recording, clip.start, spec)
        shots |= {float(t): frame.transpose(1, 2, 0) for t, frame in zip(*(found[k] for k in KEYS), strict=True)}
    with open_stream(network, every=0.5, max_pending=9) as stream:
        answers = run(stream, times, readings, shots) + stream.finish()
    pairs = list(zip(answers, predicted, strict=False))  # predict() has one more clip, at the end
    assert len(pairs) == len(predicted) - 1 == 8 and len(answers) == 8
    for answer, clip in pairs:
        assert (answer.start, answer.stop, answer.problem) == (*clip[:2], None)
        if num_frames == 1:
            assert answer.classes == clip.classes  # to the bit
        else:  # the stream encodes one frame at a time
            assert dict(answer.classes) == pytest.approx(dict(clip.classes), abs=1e-5)


@pytest.mark.parametrize("unit", ["seconds", "nanoseconds"])
@pytest.mark.parametrize("rate", [97.3, 197.3, 1000.0])
def test_chunks_and_order_do_not_matter(model, rate, unit):
    """Bit by bit: any chunks, any order within slack, doubles in between, seconds or nanoseconds near 1.7e18."""
    times, readings = samples(0, 6, rate)
    origin = 1_732_600_000_123_456_789
    nanoseconds = np.round(times * 1e9).astype(np.int64) + origin
    exact = (nanoseconds - nanoseconds[0]) / 1e9 if unit == "nanoseconds" else times
    shots = {round(0.4 * k + 0.1, 3): picture(k) for k in range(15)}
    wanted = None
    for seed in range(4):
        rng = np.random.default_rng(seed)
        order = np.argsort(np.arange(len(times)) + rng.uniform(0, 0.04 * rate * (seed > 0), len(times)), kind="stable")
        order = np.concatenate([order, order[:1]])[: len(order) + (seed > 1)]
        edges = np.sort(rng.choice(len(order), 40, replace=False)) if seed else np.arange(0, len(order), 20)
        answers = []
        with open_stream(model, every=0.5, max_pending=9) as stream:
            stamp = (lambda t: origin + round(t * 1e9)) if unit == "nanoseconds" else float
            for moment, shot in shots.items():
                stream.accept_frame(stamp(moment), shot)
            for part in np.split(order, edges):
                given = nanoseconds[part] if unit == "nanoseconds" else times[part]
                stream.accept_imu(given, readings[part])
                answers += stream.results()
            answers += stream.finish()
            counts = check(stream)
        assert counts.late == (seed > 1) * 2 and counts.dropped == 0
        found = [(a.start, a.stop, a.classes, a.problem) for a in answers]
        wanted = wanted or found
        assert found == wanted
    assert len(wanted) == 8 and wanted[0][0] == (origin if unit == "nanoseconds" else 0.0)
    assert isinstance(wanted[0][1], int if unit == "nanoseconds" else float)
    for number, (_, _, classes, problem) in enumerate(wanted):
        start = number * 0.5
        nearest = min(shots, key=lambda moment: abs(moment - start - CLIP / 2))
        assert problem is None
        assert classes == offline(model, exact, readings, start, [shots[nearest]])


def test_an_answer_waits_for_slack_and_for_the_sample_behind_its_window(model):
    times, readings = samples(0, 4)
    with open_stream(model, slack=0.05) as stream:
        stream.accept_frame(CLIP / 2, picture())
        due = None
        for k in range(len(times)):
            stream.accept_imu(times[k : k + 1], readings[k : k + 1])
            if stream.stats.due:
                due = times[k]
                break
        assert CLIP + 0.05 <= due < CLIP + 0.06
        (answer,) = stream.results()
        assert answer.start == 0 and answer.stop == CLIP and answer.lag == pytest.approx(due - CLIP)
    with open_stream(model, slack=0.0) as stream:
        run(stream, times[times < 2.133], readings[times < 2.133])
        assert stream.stats.due == 0
        (answer,) = stream.finish()
        assert answer.problem == "no frame within 0.5 s of its place"


def test_slow_sensors_wait_for_the_sample_that_decides_the_last_point(model):
    """At 20 Hz, a late sample just behind the window changes its last points; the answer must not be given before."""
    times, readings = samples(0, 4, rate=20.0)
    late = 44  # 2.2 s
    with open_stream(model, slack=0.06, max_pending=9) as stream:
        stream.accept_frame(CLIP / 2, picture())
        stream.accept_imu(np.delete(times[: late + 1], late - 1), np.delete(readings[: late + 1], late - 1, 0))
        assert not stream.results()
        stream.accept_imu(times[late - 1 : late], readings[late - 1 : late])
        stream.accept_imu(times[late + 1 :], readings[late + 1 :])
        answer = stream.results()[0]
    assert answer.classes == offline(model, times, readings, 0.0, [picture()])


def test_pictures_of_any_size_are_scaled_as_offline(model):
    big = picture(3, 120)[:90]
    scaled = Scaler(32, False)(av.VideoFrame.from_ndarray(big, format="rgb24"))
    times, readings = samples(0, 2.5)
    with open_stream(model) as stream:
        stream.accept_frame(1.0, big)
        big[:] = 0  # drivers use their buffers again
        stream.accept_imu(times, readings)
        readings_given = readings.copy()
        readings[:] = 0
        answer = stream.results()[0]
    assert answer.classes == offline(model, times, readings_given, 0.0, [scaled])


def test_a_model_without_imu_lives_on_frames_alone():
    network = student(imu_encoder=None)
    with open_stream(network, every=0.5, slack=0.0) as stream:
        answers = []
        for k in range(60):
            stream.accept_frame(100 + k / 10, picture(k))
            answers += stream.results()
        answers += stream.finish()
        check(stream)
        with pytest.raises(EgoDistillError, match="no IMU"):
            stream.reset()
            stream.accept_imu([1.0], np.zeros((1, 6)))
    assert [answer.start for answer in answers][:3] == [100.0, 100.5, 101.0]
    assert all(answer.problem is None for answer in answers)
    used = [round((answer.stop - answer.frame_age[0] - 100) * 10) for answer in answers]
    assert used[:3] == [10, 15, 20]
    with torch.no_grad():
        scores = network(torch.from_numpy(picture(10).transpose(2, 0, 1))[None, None]).logits.softmax(1)[0]
    assert dict(answers[0].classes) == dict(zip("abcdefg", scores.tolist(), strict=True))


@pytest.mark.parametrize("sampling", ["uniform", "ages"])
def test_a_model_without_frames_lives_on_samples_alone(sampling):
    """And waits for no picture."""
    network = student(image_encoder=None, image_weights=None, sampling=sampling)
    times, readings = samples(100, 106)
    reported = []
    with open_stream(network, every=0.5, slack=0.0, report=reported.append) as stream:
        answers = []
        for part in np.array_split(np.arange(len(times)), 60):
            stream.accept_imu(times[part], readings[part])
            answers += stream.results()
            assert not stream.wants_frame(times[part[-1]])
        check(stream)
        with pytest.raises(EgoDistillError, match="reads no frames; leave out accept_frame"):
            stream.accept_frame(100.0, picture())
    assert [answer.start for answer in answers][:3] == [100.0, 100.5, 101.0] and len(answers) == 8
    assert all(answer.problem is None and not answer.frame_age and answer.lag < 0.11 for answer in answers)
    window = Imu(times, readings[:, :3], times, readings[:, 3:]).window(100.5)
    with torch.no_grad():
        scores = network(torch.from_numpy(window)[None]).logits.softmax(1)[0]
    assert dict(answers[1].classes) == pytest.approx(dict(zip("abcdefg", scores.tolist(), strict=True)))
    assert not reported
    for options in ({}, {"gate": lambda *_: True}, {"period": 1.0}):
        with pytest.raises(EgoDistillError, match="reads no frames, so none is the newest"):
            open_stream(network, frames="newest", **options)


@pytest.mark.parametrize("options", [{"frames": "newest", "period": 1.0}, {"frames": "centre"}])
def test_the_end_of_the_frames_completes_no_clip_that_goes_on(options):
    with open_stream(student(imu_encoder=None), slack=0.5, **options) as stream:
        for k in range(50):
            stream.accept_frame(k / 10, picture(k))
            early = stream.results()
        late = stream.finish()
        check(stream)
    assert not early and [round(answer.stop, 2) for answer in late] == [4.63]  # the last frame is at 4.9
    assert all(answer.lag >= 0 for answer in late)


# --- Frames --------------------------------------------------------------------------------------------------


def test_the_feature_of_a_frame_is_computed_once(model, monkeypatch):
    calls = []
    whole = model.encode_frames
    monkeypatch.setattr(model, "encode_frames", lambda *given: calls.append(1) or whole(*given))
    times, readings = samples(0, 8)
    with open_stream(model, frames="newest", every=0.25, max_age=9.0) as stream:
        answers = run(stream, times, readings, {0.5: picture(1), 5.0: picture(2)})
    assert len(answers) == 24 and len(calls) == 2
    ages = [answer.frame_age[0] for answer in answers]
    assert ages[0] == pytest.approx(CLIP - 0.5) and max(ages) == pytest.approx(4.4, abs=0.2) and min(ages) < 0.3


def test_several_frames_are_the_nearest_ones_in_order_and_never_repeated():
    network = student(2)
    times, readings = samples(0, 4)
    shots = {0.4: picture(0), 0.55: picture(1), 1.7: picture(2)}
    with open_stream(network, tolerance=0.2) as stream:
        answers = run(stream, times, readings, shots)
        check(stream)
    # Places of the first clip: 0.533 and 1.6 s; of the second: 1.033 and 2.1 s.
    first, second = answers[:2]
    assert [round(first.stop - age, 6) for age in first.frame_age] == [0.55, 1.7]
    scores = dict(offline(network, times, readings, 0.0, [picture(1), picture(2)]))
    assert dict(first.classes) == pytest.approx(scores, abs=1e-6)
    assert second.problem == "0 of 2 frames, each within 0.2 s of its place" and not second.classes
    with open_stream(network, tolerance=2.0) as stream:  # one frame is the nearest to both places
        answer = run(stream, times, readings, {1.0: picture()})[0]
    assert answer.problem == "1 of 2 frames, each within 2 s of its place"


@pytest.mark.parametrize("sampling", ["random", "ages"])
def test_places_that_differ_from_clip_to_clip_are_no_centre(sampling):
    with pytest.raises(EgoDistillError, match=f"trained with sampling='{sampling}', .*; give frames='newest'"):
        open_stream(student(sampling=sampling))
    assert open_stream(student(sampling=sampling), frames="newest").choice == "newest"


def test_a_frame_on_screen_comes_before_a_nearer_one_that_begins_later(model):
    """As in predict(), if the camera runs; of a camera that sleeps, the frame before is one of an earlier request."""
    times, readings = samples(0, 3)
    middle = CLIP / 2
    for shots, used in (
        ({middle - 0.03: 1, middle + 0.01: 2}, middle - 0.03),
        ({middle - 0.3: 1, middle + 0.01: 2}, middle + 0.01),
        ({middle - 0.3: 1, middle + 0.4: 2}, middle - 0.3),
        ({middle - 0.03: 1, middle + 1e-7: 2}, middle + 1e-7),  # rounded time stamps
    ):
        with open_stream(model) as stream:
            answer = run(stream, times, readings, {moment: picture(seed) for moment, seed in shots.items()})[0]
        assert answer.stop - answer.frame_age[0] == pytest.approx(used, abs=1e-9)


def test_an_answer_says_what_it_cost(model):
    times, readings = samples(0, 4)
    with open_stream(model, every=0.5, tolerance=2.0) as stream:
        answers = run(stream, times, readings, {1.1: picture()})
    assert [answer.encoded for answer in answers] == [1, 0, 0, 0] and all(0 < answer.seconds for answer in answers)
    with open_stream(model) as stream:
        answers = run(stream, times, readings)
    assert [(answer.encoded, answer.seconds) for answer in answers][:2] == [(0, 0.0), (0, 0.0)]


def test_old_frames_are_no_answer(model):
    times, readings = samples(0, 6)
    with open_stream(model, frames="newest", max_age=1.0) as stream:
        answers = run(stream, times, readings, {2.0: picture()})
        assert [answer.problem for answer in answers[:2]] == [None, None]  # ages 0.13 and 0.63
        assert answers[3].problem == "no frame of the last 1 s"
        stream.accept_frame(2.5, picture(1))
        counts = check(stream)
    assert counts.refused == 1 and 1.5 < counts.frame_lateness < 3.0


def test_frames_late_by_seconds_are_counted_and_used_with_slack(model):
    """Glasses deliver frames 5 s late: without slack each one is refused, with slack=6 each answer has its frame."""
    times, readings = samples(0, 20)
    for slack, fine in ((0.05, 0), (6.0, 1)):
        answers = []
        with open_stream(model, slack=slack, every=1.0, max_pending=5) as stream:
            for k in range(200):
                part = slice(20 * k, 20 * k + 20)
                stream.accept_imu(times[part], readings[part])
                if k % 5 == 0 and k >= 50:
                    stream.accept_frame((k - 50) / 10, picture(k))
                answers += stream.results()
            counts = check(stream)
        assert all((answer.problem is None) == bool(fine) for answer in answers) and len(answers) > 10
        assert (counts.refused > 20, counts.frame_lateness > 2) == ((False, False) if fine else (True, True))


def test_a_running_camera_keeps_the_nearest_frames_in_bounded_memory(model):
    times, readings = samples(0, 10)
    with open_stream(model, every=0.5) as stream:
        answers = run(stream, times, readings, {k / 30: picture(k % 7) for k in range(300)})
        kept = stream._frames.kept
        assert len(kept) < 10 and sum(frame.picture is not None and not frame.scaled for frame in kept) <= 1
        counts = check(stream)
    # Those on screen in the middle of each clip, as predict() takes them.
    assert all(-1e-6 <= answer.frame_age[0] - CLIP / 2 < 1 / 30 for answer in answers)
    assert counts.encoded == len(answers) and counts.refused + counts.replaced > 200


def test_the_camera_has_a_clock_of_its_own(model):
    times, readings = samples(0, 4)
    with open_stream(model, frame_clock=(5.0, 1.001)) as stream:
        stream.accept_frame((1.0 - 5.0) / 1.001, picture())
        answer = run(stream, times, readings)[0]
    assert answer.frame_age[0] == pytest.approx(CLIP - 1.0)
    origin = 1_732_600_000_000_000_000
    for stretch in (1.0, 1.001):  # of nanoseconds since 1970, too
        taken = round((Fraction(origin) + 1_000_000_000 - 250_000_000) / Fraction(stretch))
        with open_stream(model, frame_clock=(0.25, stretch), max_pending=9) as stream:
            stream.accept_imu(origin + np.round(times * 1e9).astype(np.int64), readings)
            stream.accept_frame(taken, picture())
            answer = stream.results()[0]
        assert answer.frame_age[0] == pytest.approx(CLIP - 1.0, abs=1e-6)


# --- Requests ------------------------------------------------------------------------------------------------


def test_a_request_is_made_once_and_stays_outstanding_until_its_frame(model):
    with open_stream(model, frames="newest", period=2.0, camera_timeout=1.0) as stream:
        assert stream.wants_frame(0.0) and not stream.wants_frame(0.01) and not stream.wants_frame(0.3)
        stream.accept_frame(0.3, picture())
        assert not stream.wants_frame(2.2) and stream.wants_frame(2.31)
        stream.accept_frame(2.2, picture())  # taken before the request
        assert not stream.wants_frame(2.9)
        assert not stream.wants_frame(3.29)
        counts = check(stream)
        assert (counts.requests, counts.answered, counts.outstanding) == (2, 1, 1)
        assert not stream.wants_frame(3.4)  # given up; the frame of 2.2 s is still young
        assert stream.wants_frame(4.25)
        counts = check(stream)
        assert (counts.requests, counts.answered, counts.given_up) == (3, 1, 1)
        assert counts.camera_on == pytest.approx(0.3 + 1.0)


def test_a_period_of_whole_frames_is_not_a_frame_longer_by_rounding(model):
    camera, taken = 0.1 * np.arange(100), []  # 0.3 - 0.0 > 0.3 > 0.6 - 0.3 in floating point
    with open_stream(model, frames="newest", period=0.3) as stream:
        for moment in camera.tolist():
            if stream.wants_frame(moment):
                stream.accept_frame(moment, picture())
                taken.append(moment)
    assert np.diff(taken) == pytest.approx(np.full(33, 0.3))


def test_requests_of_centre_frames_follow_their_places(model):
    times, readings = samples(0, 10)
    asked, answers = [], []
    with open_stream(model, every=1.0, camera_delay=0.1) as stream:
        for k in range(400):
            part = slice(5 * k, 5 * k + 5)
            stream.accept_imu(times[part], readings[part])
            now = times[5 * k]
            if stream.wants_frame(now):
                asked.append(now)
                stream.accept_frame(now + 0.1, picture(k))
            answers += stream.results()
        check(stream)
    assert asked == pytest.approx([CLIP / 2 - 0.1 + k for k in range(len(asked))], abs=0.03)
    assert all(answer.problem is None and abs(answer.frame_age[0] - CLIP / 2) < 0.03 for answer in answers)


def test_a_gate_decides_when_to_look(model):
    seen = []

    def gate(window, ages, stop):
        seen.append((window.shape, ages, stop))
        return len(seen) % 3 == 0

    times, readings = samples(0, 12)
    looks = []
    with open_stream(model, frames="newest", gate=gate, max_age=9.0) as stream:
        for k in range(len(times) // 10):
            now = times[10 * k]
            stream.accept_imu(times[10 * k : 10 * k + 10], readings[10 * k : 10 * k + 10])
            stream.results()
            if stream.wants_frame(now):
                looks.append(now)
                stream.accept_frame(now, picture(k))
        check(stream)
    assert looks[0] == 0.0 and len(looks) == 1 + len(seen) // 3
    assert np.diff(looks[1:]) == pytest.approx(1.5, abs=0.1)
    assert seen[0][0] == (422, 6) and len(seen[0][1]) == 1 and seen[0][2] == pytest.approx(CLIP)
    with pytest.raises(EgoDistillError, match="newest"):
        open_stream(model, gate=gate)
    with pytest.raises(
        EgoDistillError, match="gate is asked about head motion, and this model reads none; give period"
    ):
        open_stream(student(imu_encoder=None), frames="newest", gate=gate)
    with pytest.raises(EgoDistillError, match="period decides when to request a frame, so it needs frames='newest'"):
        open_stream(model, period=2.0)


def looks_of(network, **options):
    """Times of the looks in 12 s of a still head that turns once, for half a second from 6 s on."""
    times = np.arange(0, 12, 1 / 200)
    readings = np.tile([0.0, 0.0, 9.8, 0.0, 0.0, 0.0], (len(times), 1))
    readings[(times >= 6) & (times < 6.5), 4] = gates.FAST * 1.2
    looks = []
    with open_stream(network, frames="newest", **options) as stream:
        for k in range(0, len(times), 10):
            if stream.spec.imu_samples:
                stream.accept_imu(times[k : k + 10], readings[k : k + 10])
            stream.results()
            if stream.wants_frame(times[k]):
                looks.append(float(times[k]))
                stream.accept_frame(times[k], picture(k))
        check(stream)
    return looks


def test_unless_told_otherwise_a_stream_looks_when_the_head_has_moved_fast(model):
    start, too_old, turned, *_ = looks_of(model)
    assert start == 0.0 and 3.5 < too_old <= 4.1 and 6.4 < turned < 7.3
    assert looks_of(model, gate=gates.Moved(gates.FAST)) == looks_of(model)
    every = pytest.approx(np.arange(0, 12, 2.0))
    assert looks_of(model, period=2.0) == every == looks_of(student(2)) == looks_of(student(imu_encoder=None))
    with pytest.raises(EgoDistillError, match="gate and period both say when to request a frame; give one of them"):
        open_stream(model, frames="newest", gate=(lambda *_: False), period=2.0)


# --- Faults of the feeder --------------------------------------------------------------------------------------


def test_a_stall_of_ten_seconds(model):
    times, readings = samples(0, 20)
    present = (times < 5) | (times >= 15)
    shots = {k / 2: picture(k) for k in range(40)}
    with open_stream(model, max_pending=50) as stream:
        answers = run(stream, times[present], readings[present], shots)
        counts = check(stream)
    broken = [answer for answer in answers if answer.problem]
    assert counts.late == counts.invalid == counts.restarts == 0 and counts.held == 0
    assert all("samples from" in answer.problem for answer in broken)
    good = [answer.start for answer in answers if not answer.problem]
    assert max(start for start in good if start < 10) <= 5 - CLIP + 0.2 and min(s for s in good if s > 10) >= 14.8
    stops = [answer.stop for answer in answers]
    assert np.diff(stops) == pytest.approx(0.5)  # each answer is given once, those of the hole with a problem


def test_a_burst_that_is_fifteen_seconds_late_gives_the_newest_answers(model):
    times, readings = samples(0, 20)
    shots = {k / 2: picture(k) for k in range(40)}
    with open_stream(model) as stream:
        answers = run(stream, times[times < 4], readings[times < 4], {t: s for t, s in shots.items() if t < 4})
        for moment, shot in shots.items():
            if moment >= 4:
                stream.accept_frame(moment, shot)
        stream.accept_imu(times[times >= 4], readings[times >= 4])
        late = stream.results()
        counts = check(stream)
    assert [answer.problem for answer in late] == [None, None] and late[-1].stop > 19.3
    assert counts.dropped == counts.due - len(answers) - 2 and counts.late == 0


def test_repeated_samples_count_once(model):
    times, readings = samples(0, 4)
    with open_stream(model, slack=0.2, max_pending=9) as stream:
        for k in range(0, len(times), 20):
            for _ in range(3):
                stream.accept_imu(times[k : k + 20], readings[k : k + 20])
        stream.accept_frame(1.0, picture())
        answers = stream.results()
        counts = check(stream)
    assert counts.double == 4 * len(times) and counts.used == len(times) * 2
    assert answers[0].classes == offline(model, times, readings, 0.0, [picture()])


def test_a_stamp_from_the_future_does_not_poison_the_stream(model):
    times, readings = samples(0, 6)
    wrong = times.copy()
    wrong[[300, 301, 700]] = [1e9, 1e9 + 0.005, 40.0]
    shots = {k / 2: picture(k) for k in range(12)}
    with open_stream(model) as clean:
        kept = np.delete(np.arange(len(times)), [300, 301, 700])
        wanted = run(clean, times[kept], readings[kept], shots, chunk=0.01)
    with open_stream(model) as stream:
        answers, waiting = [], dict(shots)
        for k in range(0, len(times), 2):
            for moment in [moment for moment in waiting if moment <= times[k]]:
                stream.accept_frame(moment, waiting.pop(moment))
            stream.accept_imu(wrong[k : k + 2], readings[k : k + 2])
            answers += stream.results()
        counts = check(stream)
    assert counts.invalid == 6 and counts.restarts == 0  # three rows of two sensors
    assert [(a.start, a.classes) for a in answers] == [(a.start, a.classes) for a in wanted]


def test_a_jump_of_the_clock_is_believed_when_it_goes_on(model):
    times, readings = samples(0, 4)
    with open_stream(model, max_pending=99) as stream:
        run(stream, times, readings)
        stream.accept_imu(times[:1] + 100, readings[:1])
        assert check(stream).held == 2 and stream.stats.due == 4
        stream.accept_imu(times[1:] + 100, readings[1:])
        counts = check(stream)
    assert counts.held == counts.invalid == counts.late == 0 and counts.due > 200


def test_a_large_jump_of_the_clock_costs_no_more_than_a_small_one(model, monkeypatch):
    asked = []
    known = arrivals.Sensor.has_between
    monkeypatch.setattr(arrivals.Sensor, "has_between", lambda *about: asked.append(about) or known(*about))
    times, readings = samples(0, 3)
    with open_stream(model) as stream:
        run(stream, times, readings)
        asked.clear()
        for k in range(20):  # one at a time: what has been confirmed is shorter than `slack`
            stream.accept_imu(times[k] + 100_000, readings[k])
        assert check(stream).due > 199_000 and len(asked) < 400


@pytest.mark.parametrize("choice", ["raise", "reset"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_clock_that_starts_anew(model, choice, whole):
    times, readings = samples(0, 5)
    stamps = (times * 1e9).astype(np.int64) + 1_732_600_000_000_000_000 if whole else times + 1000
    errors, answers = 0, []
    with open_stream(model, on_restart=choice, max_pending=99) as stream:
        for _ in range(3):
            for k in range(0, len(times), 20):
                try:
                    stream.accept_imu(stamps[k : k + 20], readings[k : k + 20])
                except StreamClockError as error:
                    assert "restarted" in str(error)
                    errors += 1
                stream.results()
            stream.accept_frame(stamps[500], picture())
            answers.append(stream.stats.due)
        counts = check(stream)
    assert counts.restarts == 2 and errors == (2 if choice == "raise" else 0)
    assert answers[0] == 6 and answers[2] - answers[1] in (3, 4)  # a second is lost


def test_an_old_chunk_that_is_sent_again_is_no_restart(model):
    times, readings = samples(0, 12)
    with open_stream(model) as stream:
        run(stream, times[times < 10], readings[times < 10])
        stream.accept_imu(times[:1000], readings[:1000])
        run(stream, times[times >= 10], readings[times >= 10])
        counts = check(stream)
    assert counts.restarts == 0 and counts.late == 2000 and counts.used == 2 * len(times)


def test_one_sensor_that_stops_or_comes_in_other_chunks(model):
    times, readings = samples(0, 8)
    accel, gyro = readings.copy(), readings.copy()
    accel[:, 3:], gyro[:, :3] = np.nan, np.nan
    shots = {k / 2: picture(k) for k in range(16)}
    with open_stream(model, max_pending=99) as whole:
        wanted = run(whole, times, readings, shots)
    answers = []
    with open_stream(model, max_pending=99) as stream:  # a phone that sends a second of one sensor at a time
        for moment, shot in shots.items():
            stream.accept_frame(moment, shot)
        for k in range(0, len(times), 200):
            for rows in (gyro, accel):
                stream.accept_imu(times[k : k + 200], rows[k : k + 200])
                answers += stream.results()
        assert check(stream).late == 0
    assert [(a.start, a.classes) for a in answers] == [(a.start, a.classes) for a in wanted]
    with open_stream(model, max_pending=99) as stream:  # the accelerometer stops after 4 s
        stream.accept_imu(times, gyro)
        stream.accept_imu(times[times < 4], accel[times < 4])
        for moment, shot in shots.items():
            stream.accept_frame(moment, shot)
        last = stream.results()[-1]
        counts = check(stream)
    assert "accelerometer" in last.problem and last.stop > 8 - 2 - 0.6 and counts.problems >= 3


def test_a_feeder_twice_as_fast_as_the_model_drops_the_oldest(model):
    times, readings = samples(0, 20)
    shots = {k / 2: picture(k) for k in range(40)}
    answers = []
    with open_stream(model, max_pending=2) as stream:
        for k in range(0, len(times), 400):  # four answers become due between two calls of results()
            for moment, shot in shots.items():
                if times[k] <= moment < times[k] + 2:
                    stream.accept_frame(moment, shot)
            stream.accept_imu(times[k : k + 400], readings[k : k + 400])
            answers += stream.results()
        counts = check(stream)
    assert counts.dropped == counts.due - len(answers) > 10
    stops = [answer.stop for answer in answers]
    assert stops == sorted(set(stops))


def test_a_feeder_that_dies(model):
    times, readings = samples(0, 3)
    with open_stream(model) as stream:
        stream.accept_frame(1.0, picture())
        stream.accept_imu(times, readings)
        assert stream.wait(0.0) and len(stream.results()) == 2
        assert not stream.wait(0.05) and stream.results() == []
        assert stream.finish() == [] and stream.stats.due == 2
        with pytest.raises(EgoDistillError, match="finished"):
            stream.accept_imu(times, readings)
        stream.reset()
        stream.accept_imu(times, readings)
    with pytest.raises(EgoDistillError, match="closed"):
        stream.accept_imu(times, readings)
    with pytest.raises(EgoDistillError, match="closed"):
        stream.accept_frame(1.0, picture())
    check(stream)


def test_a_thread_that_waits_wakes_when_another_one_finishes(model):
    with open_stream(model) as stream:
        waiter = threading.Thread(target=stream.wait, daemon=True)
        waiter.start()
        stream.finish()
        waiter.join(10)
        assert not waiter.is_alive()
        assert not stream.wait()


@pytest.mark.parametrize("first", [np.uint64(2**64 - 1), np.int64(-(2**63)), np.int64(2**63 - 1)])
def test_a_first_time_that_is_none_is_invalid_and_starts_no_clock(model, first):
    times, readings = samples(0, 3)
    stamps = (times * 1e9).astype(first.dtype) + first.dtype.type(1_732_600_000_000_000_000)
    with open_stream(model) as stream:
        stream.accept_imu(np.array([first]), readings[:1])
        assert check(stream).invalid == 2
        with pytest.raises(EgoDistillError, match="one finite number"):
            stream.accept_frame(first, picture())
        stream.accept_imu(np.concatenate([[first], stamps]), readings[[0, *range(len(times))]])
        counts = check(stream)
    assert counts.invalid == 4 and counts.used == 2 * len(times) and counts.due == 2


def test_rows_without_a_time_or_a_number(model):
    times, readings = samples(0, 3)
    broken_times, broken = times.copy(), readings.copy()
    broken_times[5], broken[10, 2], broken[20], broken[30, :3], broken[40, 4] = np.nan, np.inf, np.nan, np.nan, 1e31
    with open_stream(model) as stream:
        stream.accept_imu(broken_times, broken)
        counts = check(stream)
    assert counts.invalid == 2 + 1 + 1  # a row without a time, one infinite and one too large reading
    assert counts.samples == 2 * len(times) - 2 - 1  # a row without numbers, and one of the gyroscope alone


# --- Errors --------------------------------------------------------------------------------------------------


def test_input_that_does_not_fit_is_refused_with_its_shape(model):
    with open_stream(model) as stream:
        stream.accept_imu([], [])
        with pytest.raises(EgoDistillError, match=r"readings must be \[2, 6\].*\[2, 3\]"):
            stream.accept_imu([0.0, 0.1], np.zeros((2, 3)))
        with pytest.raises(EgoDistillError, match="uint8"):
            stream.accept_frame(0.0, np.zeros((32, 32, 3)))
        with pytest.raises(EgoDistillError, match="uint8"):
            stream.accept_frame(0.0, np.zeros((3, 32, 32), np.uint8))
        with pytest.raises(EgoDistillError, match="one finite number"):
            stream.accept_frame(float("nan"), picture())
        stream.accept_imu([0.0], np.zeros((1, 6)))
        with pytest.raises(EgoDistillError, match="nanoseconds"):
            stream.accept_imu([5], np.zeros((1, 6)))
        with pytest.raises(EgoDistillError, match="times must be"):
            stream.accept_imu(["0.1"], np.zeros((1, 6)))
        check(stream)


def test_arguments_that_do_not_fit(model):
    for options, text in (
        ({"every": 0.001}, "every"),
        ({"frames": "latest"}, "centre, newest"),
        ({"slack": -1}, "slack"),
        ({"on_restart": "ignore"}, "raise, reset"),
        ({"frame_clock": (0.0, 0.0)}, "frame_clock"),
        ({"max_pending": 0}, "max_pending"),
    ):
        with pytest.raises(EgoDistillError, match=text):
            open_stream(model, **options)
    training = student().train()
    with pytest.raises(EgoDistillError, match=r"model\.eval\(\)"):
        open_stream(training)
    with open_stream(training.eval()) as stream:
        training.train()  # after the stream was opened
        stream.accept_frame(1.3, picture())
        stream.accept_imu(*samples(0, 2.5))
        with pytest.raises(EgoDistillError, match=r"model\.eval\(\)"):
            stream.results()


def test_an_error_of_the_model_reaches_the_caller_and_is_counted(model, monkeypatch):
    times, readings = samples(0, 2.9)
    with open_stream(model) as stream:
        stream.accept_frame(1.3, picture())
        stream.accept_imu(times, readings)
        monkeypatch.setattr(model, "encode_imu", lambda imu: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stream.results()
        monkeypatch.undo()
        assert len(stream.results()) == 1
        assert check(stream).dropped >= 1


def test_scores_that_are_not_finite_are_a_problem(model, monkeypatch):
    times, readings = samples(0, 2.5)
    monkeypatch.setattr(model, "fuse", lambda image, imu: Output(image, image[:, :7] * torch.nan))
    with open_stream(model) as stream:
        stream.accept_frame(1.0, picture())
        stream.accept_imu(times, readings)
        assert stream.results()[0].problem == "the model's scores are not finite"


# --- Threads, memory, several streams ----------------------------------------------------------------------------


def test_two_threads_feed_and_one_reads(model):
    """Counters add up at any moment, and nothing is lost or stuck."""
    times, readings = samples(0, 120)
    answers, faults, ended = [], [], threading.Event()
    with open_stream(model, every=0.25) as stream:

        def feed_imu():
            for k in range(0, len(times), 40):
                stream.accept_imu(times[k : k + 40], readings[k : k + 40])

        def feed_frames():
            shot = picture()
            for k in range(1200):
                if stream.wants_frame(k / 10) or k % 4 == 0:
                    stream.accept_frame(k / 10, shot)

        def watch():
            while not ended.is_set():
                try:
                    check(stream)
                except AssertionError as error:
                    faults.append(error)

        feeders = [threading.Thread(target=target) for target in (feed_imu, feed_frames)]
        watcher = threading.Thread(target=watch)
        for thread in (*feeders, watcher):
            thread.start()
        while any(thread.is_alive() for thread in feeders):
            stream.wait(0.02)
            answers += stream.results()
        for thread in feeders:
            thread.join(60)
            assert not thread.is_alive()
        answers += stream.results()
        ended.set()
        watcher.join(60)
        counts = check(stream)
    assert not faults
    assert counts.used == 2 * len(times) and counts.frames >= 300
    assert counts.given + counts.problems == len(answers) and counts.due == len(answers) + counts.dropped
    stops = [answer.stop for answer in answers]
    assert stops == sorted(set(stops))


@pytest.mark.parametrize("restart", ["samples", "reset"])
def test_an_answer_of_a_clock_that_has_gone_while_it_was_computed_is_dropped(model, monkeypatch, restart):
    times, readings = samples(0, 3)
    asked = []
    with open_stream(
        model, frames="newest", gate=lambda *about: asked.append(about) or True, on_restart="reset"
    ) as stream:
        stream.accept_imu(times[:450] + 10, readings[:450])
        stream.accept_frame(11.0, picture())

        def fuse(image, imu):  # what another thread does meanwhile
            if restart == "reset":
                stream.reset()
            else:
                stream.accept_imu(times[:120], readings[:120])
                stream.accept_imu(times[120:240], readings[120:240])
            return Output(image, image[:, :7])

        monkeypatch.setattr(model, "fuse", fuse)
        assert stream.results() == [] and check(stream).dropped == 1 and not asked
        monkeypatch.undo()
        stream.accept_imu(times + 20, readings)
        stream.accept_frame(21.0, picture())
        assert stream.results()[0].stop == pytest.approx(20 + CLIP)


def test_a_decision_about_a_clock_that_has_gone_says_nothing_about_the_new_one(model):
    times, readings = samples(0, 2.5)

    def gate(window, ages, stop):  # what another thread does meanwhile
        stream.reset()
        stream.accept_imu(times[:100], readings[:100])
        assert stream.wants_frame(0.5)
        stream.accept_frame(0.5, picture())
        return True

    with open_stream(model, frames="newest", gate=gate) as stream:
        stream.accept_imu(times, readings)
        stream.accept_frame(1.0, picture())
        assert len(stream.results()) == 1 and not stream.wants_frame(0.6)


@pytest.mark.slow("an hour of samples")
def test_memory_does_not_grow(model):
    times, readings = samples(0, 2)

    def hour(stream, start, seconds):
        for second in range(start, start + seconds, 2):
            stream.accept_imu(times + second, readings)
            stream.accept_frame(second + 1.0, picture(second % 5))
            stream.results()

    with open_stream(model, every=0.5, frames="newest") as stream:
        hour(stream, 0, 200)
        tracemalloc.start()
        hour(stream, 200, 400)
        before = tracemalloc.get_traced_memory()[0]
        hour(stream, 600, 1200)
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        check(stream)
        held = sum(sensor.times.nbytes + sensor.values.nbytes for sensor in stream._sensors)
    assert grown < 100_000
    assert held <= 2 * 32 * 200 * (CLIP + 0.05 + 3 * 0.5 + 2.0)


def test_unread_answers_do_not_keep_samples(model):
    with open_stream(model) as stream:
        for second in range(300):
            times, readings = samples(second, second + 1)
            stream.accept_imu(times, readings)
        assert len(stream._sensors[0].times) < 200 * 5
        assert check(stream).pending == 2


def test_streams_share_a_model(model):
    times, readings = samples(0, 6)
    other = samples(0, 6, seed=5)[1]
    with open_stream(model) as one, open_stream(model) as two:
        alone = [run(one, times, readings, {1.0: picture(1)}), run(two, times, other, {1.0: picture(2)})]
    mixed: list[list] = [[], []]
    with open_stream(model) as one, open_stream(model) as two:
        one.accept_frame(1.0, picture(1))
        two.accept_frame(1.0, picture(2))
        for k in range(0, len(times), 20):
            for found, stream, values in ((mixed[0], one, readings), (mixed[1], two, other)):
                stream.accept_imu(times[k : k + 20], values[k : k + 20])
                found += stream.results()
    for wanted, found in zip(alone, mixed, strict=True):
        assert [a.classes for a in wanted] == [a.classes for a in found]


@pytest.mark.parametrize("num_frames", [1, 2])
def test_bf16_is_that_of_predict_without_casting_weights_in_each_call(num_frames, monkeypatch):
    network, (times, readings) = student(num_frames), samples(0, 2.5)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        window = Imu(times, readings[:, :3], times, readings[:, 3:]).window(0.0)
        shots = [picture(k) for k in range(num_frames)]
        given = torch.from_numpy(np.stack(shots).transpose(0, 3, 1, 2))[None]
        wanted = network(given, torch.from_numpy(window)[None]).logits.float().softmax(1)[0].tolist()
    with open_stream(network, precision="bf16") as stream, open_stream(network, precision="bf16") as other:
        assert stream.model is other.model and stream.model.classifier.weight.dtype == torch.bfloat16
        for moment, shot in zip(stream.spec.times(0.0), shots, strict=True):
            stream.accept_frame(moment, shot)
        stream.accept_imu(times, readings)
        (answer,) = stream.results()
    assert network.classifier.weight.dtype == torch.float32
    found = [dict(answer.classes)[name] for name in "abcdefg"]
    assert found == wanted if num_frames == 1 else found == pytest.approx(wanted, abs=0.01)
    with torch.no_grad():
        network.classifier.bias += 5
    assert open_stream(network, precision="bf16").model is not stream.model  # the weights have changed


@pytest.mark.parametrize(("num_frames", "precision"), [(2, "fp32"), (1, "bf16"), (1, "int8")])
@pytest.mark.filterwarnings("ignore:int8 is calibrated on random inputs")
def test_a_stream_runs_on_two_exported_programs(num_frames, precision, tmp_path):
    network, (times, readings) = student(num_frames), samples(0, 4)
    shots = {0.5 + k: picture(k) for k in range(4)}
    if precision == "int8":
        pytest.importorskip("torchao")
    export.export_pair(network, tmp_path / "device.pt2", precision=precision)
    with open_stream(network) as stream:
        wanted = run(stream, times, readings, shots)
    with Stream(export.load_pair(tmp_path / "device.pt2"), top=7) as stream:
        assert stream.precision == precision
        answers = run(stream, times, readings, shots)
        check(stream)
    assert len(answers) == len(wanted) == 4
    for answer, other in zip(answers, wanted, strict=True):
        assert answer[:2] == other[:2] and answer.frame_age == other.frame_age
        near = {"fp32": 1e-5, "bf16": 0.02, "int8": 0.1}[precision]
        assert dict(answer.classes) == pytest.approx(dict(other.classes), abs=near)


@pytest.mark.parametrize("poll", [lambda stream: stream.results(), lambda stream: stream.wait(0.05)])
@pytest.mark.parametrize(("choice", "scaled"), [("newest", True), ("centre", False)])
def test_the_newest_picture_is_scaled_while_nothing_is_due(model, poll, choice, scaled):
    """A running camera's may be replaced by a nearer one, so it is scaled when the next one arrives."""
    times, readings = samples(0, 1)
    with open_stream(model, frames=choice) as stream:
        stream.accept_imu(times, readings)
        stream.accept_frame(0.9, picture(0, 120))
        poll(stream)
        (frame,) = stream._frames.kept
        assert frame.scaled == scaled and frame.picture.shape == ((3, 32, 32) if scaled else (120, 120, 3))


def test_a_picture_that_comes_while_a_thread_waits_is_scaled_at_once(model):
    times, readings = samples(0, 2.5)
    with open_stream(model, frames="newest") as stream:
        waiting = threading.Thread(target=stream.wait, args=(30.0,))
        waiting.start()
        stream.accept_frame(0.9, picture(0, 120))
        for _ in range(500):
            if stream._frames.kept[0].scaled:
                break
            waiting.join(0.01)
        assert stream._frames.kept[0].scaled and waiting.is_alive()
        stream.accept_imu(times, readings)
        waiting.join(30)
        assert not waiting.is_alive() and len(stream.results()) == 1


def test_a_model_that_does_not_work_in_steps_is_refused():
    model = torch.nn.Linear(1, 1).eval()
    model.inputs, model.frame_size = ("frames", "imu"), 32
    with pytest.raises(
        EgoDistillError, match="Linear has no encode_frames, aggregate, encode_imu, fuse: a stream needs"
    ):
        Stream(model)
    model.inputs, model.fuse = ("imu",), None
    with pytest.raises(EgoDistillError, match="Linear has no encode_imu: a stream needs a student that works in steps"):
        Stream(model)


def test_a_student_with_steps_of_its_own_in_forward_is_refused():
    class Louder(EgoDistill):
        def forward(self, frames, imu=None):
            feature, logits = super().forward(frames, imu)
            return Output(feature, factor * logits)

    model = student()
    model.__class__ = Louder
    for factor in (1, 50):
        if factor == 1:
            Stream(model).close()
        else:
            with pytest.raises(EgoDistillError, match=r"forward\(\) of Louder computes something else than its steps"):
                Stream(model)


def test_a_stream_divides_logits_by_the_temperature_once():
    network = student(image_encoder=None, image_weights=None)
    times, readings = samples(100, 104)
    found = []
    for temperature in (1.0, 0.5):
        network.calibration = Calibration(temperature)
        with open_stream(network, every=0.5, slack=0.0) as stream:
            stream.accept_imu(times, readings)
            found.append(dict(stream.results()[0].classes))
    total = sum(score**2 for score in found[0].values())
    assert found[1] == pytest.approx({name: score**2 / total for name, score in found[0].items()}, rel=1e-4)
    assert max(found[1].values()) > 1.05 * max(found[0].values())
