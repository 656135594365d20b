"""The health of a stream's input: each fault has a state with a sentence, and healthy input has none."""

import re
import warnings

import numpy as np
import pytest
from heads import head, sitting, still
from panned import files_of
from streams import Fast

from egodistill import EgoDistillError, Stream, data
from egodistill.deploy import feeds, health

DAY = 1_764_000_000.0  # seconds since 1970


def pictures(seed=0, size=(48, 64)):
    """A camera's pictures: a scene that moves slowly, and noise."""
    rng = np.random.default_rng(seed)
    scene = rng.integers(20, 220, (size[0], size[1] + 400, 3))

    def picture(moment):
        left = int(20 * moment) % 400
        return np.clip(scene[:, left : left + size[1]] + rng.normal(0, 2, (*size, 3)), 0, 255).astype(np.uint8)

    return picture


def dark(moment):
    """A dark room: the noise of the camera."""
    return np.random.default_rng(int(1e4 * moment)).poisson(0.4, (48, 64, 3)).astype(np.uint8)


def run(motion, picture=None, *, fps=10.0, piece=20, model=None, stamp=lambda t: t, shift=0, poll=True, **options):
    """Feed a stream in order of time and end it; return its states by name, what it reported, and its answers.

    `stamp` makes the times of samples, and `shift` is added to those of frames.
    """
    times, accel, gyro = motion
    readings, reported, answers, number = np.ma.hstack([accel, gyro]), [], [], 0
    readings = readings if np.ma.is_masked(readings) else readings.data
    stream = Stream(model or Fast(), **{"report": reported.append, "precision": "fp32", **options})
    with stream:
        for k in range(0, len(times), piece):
            part = slice(k, k + piece)
            while picture is not None and number / fps <= times[part][-1]:
                moment = stamp(np.array([number / fps])).tolist()[0] + shift
                if stream.choice == "centre" or stream.wants_frame(moment):
                    stream.accept_frame(moment, picture(number / fps))
                number += 1
            stream.accept_imu(stamp(times[part]), readings[part])
            answers += stream.results() if poll else []
        states = stream.health()
        answers += stream.finish()
    assert {state.name for state in states} <= {state.name for state in reported}
    assert len({state.name for state in reported}) == len(reported)  # each is told once
    return *({state.name: state.text for state in some} for some in (states, reported)), answers


# --- Healthy input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("motion", [head, still, sitting])
@pytest.mark.parametrize("rate", [100.0, 200.0, 1000.0])
@pytest.mark.parametrize("picture", [pictures(), dark])
def test_healthy_input_has_no_states(motion, rate, picture):
    _, reported, answers = run(motion(20.0, rate), picture, piece=round(rate / 10))
    assert reported == {} and len(answers) > 30 and not any(answer.problem for answer in answers)


@pytest.mark.parametrize(
    ("seconds", "model", "options"),
    [
        (60, Fast(), {"frames": "newest", "period": 4.0}),  # the camera sleeps
        (20, Fast(), {"frames": "newest"}),
        (60, Fast(), {"frames": "newest", "max_age": 30.0}),
        (60, Fast(("imu",)), {}),
        (60, Fast(), {"every": 10.0, "tolerance": 4.0, "fps": 0.2}),
        (20, Fast(), {"slack": 3.0, "shift": -0.5}),
        (20, Fast(), {"stamp": lambda t: DAY + t}),
        (20, Fast(), {"stamp": lambda t: np.round(1e9 * (DAY + t)).astype(np.int64)}),
        (20, Fast(), {"piece": 200}),
        (20, Fast(), {"piece": 1}),
    ],
)
def test_healthy_input_has_no_states_whatever_the_options(seconds, model, options):
    picture = None if model.inputs == ("imu",) else pictures()
    for motion in (head, still):
        _, reported, answers = run(motion(seconds), picture, model=model, **options)
        assert reported == {} and len(answers) >= 5


@pytest.mark.parametrize("motion", [still, sitting])
def test_the_picture_of_a_tripod_may_stay_the_same_for_a_while(motion):
    """Strongly compressed pictures do; a minute is too long."""
    same = dark(0)
    assert run(motion(50.0), lambda t: same)[1] == {}
    _, reported, _ = run(motion(80.0), lambda t: same)
    assert list(reported) == ["pictures frozen"]


def test_a_frozen_picture_of_a_student_without_imu():
    same, reported = dark(0), []
    with Stream(Fast(("frames",)), report=reported.append) as stream:
        for k in range(120):
            stream.accept_frame(k / 10, same)
            assert bool(stream.health()) == (k >= 100)
            stream.results()
        stream.finish()
    assert [state.name for state in reported] == ["pictures frozen"]


def test_a_student_without_imu_has_no_states():
    reported, picture = [], pictures()
    with Stream(Fast(("frames",)), report=reported.append) as stream:
        for k in range(200):
            stream.accept_frame(DAY + k / 10, picture(k / 10))
            stream.results()
        stream.finish()
        assert stream.health() == reported == [] and stream.stats.given > 30


def test_frames_may_be_far_ahead_of_samples():
    (times, accel, gyro), picture, reported = head(30.0), pictures(), []
    with Stream(Fast(), report=reported.append) as stream:
        for k in range(300):
            stream.accept_frame(k / 10, picture(k / 10))
        for k in range(0, len(times), 20):
            stream.accept_imu(times[k : k + 20], np.hstack([accel, gyro])[k : k + 20])
            stream.results()
        stream.finish()
    assert reported == []


def test_one_sensor_after_the_other_has_no_states():
    """As a phone sends them: a second of one sensor, then the same second of the other."""
    (times, accel, gyro), picture, reported = head(20.0), pictures(), []
    nothing = np.full((200, 3), np.nan)
    with Stream(Fast(), report=reported.append, max_pending=9) as stream:
        for k in range(0, len(times), 200):
            for j in range(10):
                stream.accept_frame((k / 200) + j / 10, picture((k / 200) + j / 10))
            stream.accept_imu(times[k : k + 200], np.hstack([nothing, gyro[k : k + 200]]))
            stream.accept_imu(times[k : k + 200], np.hstack([accel[k : k + 200], nothing]))
            stream.results()
        stream.finish()
        assert reported == [] and stream.stats.given > 30


def test_a_rendered_recording_has_no_states(wearer):
    assert of_recording(data.Recording(*files_of(wearer))) == []


def of_recording(recording, **options):
    """The states that a stream reports about a recording, whose frames and samples come in order of time."""
    found = []
    frames = iter(feeds.VideoFeed(recording.video, realtime=False, clock=feeds.HostClock()))
    following = next(frames, None)
    with Stream(Fast(), report=found.append, max_pending=999, **options) as stream:
        for times, readings in feeds.recorded_samples(recording.motion()):
            while following is not None and following[0] <= times[-1]:
                stream.accept_frame(*following)
                following = next(frames, None)
            if following is None:
                break
            stream.accept_imu(times, readings)
            stream.results()
        stream.finish()
        assert stream.stats.used > 100
    return found


SAMPLES = {
    "gopro/max-heromode.mp4": None,
    "gopro-derived/walk_vp9_30fps.mp4": "gopro-derived/walk_imu.csv",
    "neon": None,
    "aria-everyday/rgb.mp4": "aria-everyday/imu-left.csv",
}


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_recordings_have_no_states(sample, name):
    recording = data.open_recording(sample(name), SAMPLES[name] and sample(SAMPLES[name]))
    for options in ({}, {"frames": "newest", "period": 2.0}):
        assert of_recording(recording, **options) == []


# --- Faults of samples ----------------------------------------------------------------------------------------------


def times_of(function):
    return {"stamp": function}


@pytest.mark.parametrize(
    ("change", "options", "name", "words"),
    [
        (lambda a, g: (a / 9.81, g), {}, "accelerometer units", "the acceleration is in g"),
        (lambda a, g: (a * 1670, g), {}, "accelerometer units", "in counts of the sensor"),
        (lambda a, g: (a, g * 57.3), {}, "gyroscope units", "in degrees per second"),
        (lambda a, g: (g, a), {}, "sensors exchanged", "are the sensors exchanged"),
        (lambda a, g: (0 * a, g), {}, "accelerometer dead", "is zero from"),
        (lambda a, g: (a, 0 * g), {}, "gyroscope dead", "is zero from"),
        (lambda a, g: (0 * a + a[5], g), {}, "accelerometer frozen", "does not change from"),
        (lambda a, g: (a, 0 * g + g[5]), {}, "gyroscope frozen", "does not change from"),
        (lambda a, g: (a, g * np.nan), {}, "no gyroscope", "no sample of the gyroscope has come for"),
        (lambda a, g: (a * np.nan, g), {}, "no accelerometer", "no sample of the accelerometer has come for"),
        (lambda a, g: (a * np.nan, g * np.nan), {}, "no samples", "frames come, but no sample has come for"),
        (lambda a, g: (np.ma.array(a, mask=True), g), {}, "no accelerometer", "no sample of the accelerometer"),
        (lambda a, g: (a, g), times_of(lambda t: 1e3 * t), "gyroscope times", "5 s apart; are the times in millisec"),
        (lambda a, g: (a, g), times_of(lambda t: 1e6 * t), "gyroscope times", r"5e\+03 s apart; .* in microseconds"),
        (lambda a, g: (a, g), times_of(lambda t: 1e9 * t), "gyroscope times", r"5e\+06 s apart; .* in nanoseconds"),
        (
            lambda a, g: (a, g),
            times_of(lambda t: np.round(1e6 * t).astype(np.int64)),
            "gyroscope times",
            r"5e-06 s apart; are the times in microseconds",
        ),
        (
            lambda a, g: (a, g),
            times_of(lambda t: np.float32(DAY + t)),
            "samples double",
            r"have the time of another one: float32 times have a step of 128 s there; give float64 or nanoseconds",
        ),
    ],
)
@pytest.mark.parametrize("poll", [True, False])
def test_a_fault_of_the_samples_is_a_state(change, options, name, words, poll):
    times, accel, gyro = head(20.0)
    found, reported, _ = run((times, *change(accel, gyro)), pictures(), poll=poll, **options)
    assert re.search(words, reported[name])
    others = {"frame times"} if "float32" in words else {name.replace("gyroscope times", "accelerometer times")}
    assert found[name] and set(found) <= {name, *others}, found


@pytest.mark.parametrize(
    ("options", "name"), [({"piece": 20, "rate": 60.0}, "rate"), ({"piece": 9, "rate": 30.0}, "rate")]
)
def test_a_sensor_far_slower_than_the_student_is_a_state(options, name):
    motion = head(20.0, options.pop("rate"))
    found, reported, _ = run(motion, pictures(), **options)
    assert set(found) == set(reported) == {f"accelerometer {name}", f"gyroscope {name}"}
    assert "clips of 198 Hz are interpolated" in found[f"gyroscope {name}"]


@pytest.mark.parametrize("name", ["late", "double", "invalid"])
def test_a_share_of_faulty_readings_is_a_state(name):
    (times, accel, gyro), reported = head(20.0), []
    readings, rng = np.hstack([accel, gyro]), np.random.default_rng(0)
    with Stream(Fast(("imu",)), report=reported.append) as stream:
        for k in range(0, len(times), 20):
            now, values = times[k : k + 20], readings[k : k + 20].copy()
            if name == "invalid":
                values[:2, [1, 4]] = np.inf
            stream.accept_imu(now, values)
            if name == "double":
                stream.accept_imu(now[-2:], values[-2:])
            if name == "late" and k >= 200:
                again = rng.integers(0, 20, 3)
                stream.accept_imu(now[again] - 0.7003, values[again])
            stream.results()
        (state,) = stream.health()
        found, sentence = state.name, state.text
        stream.finish()
    assert found == f"samples {name}" and [state.name for state in reported] == [found]
    assert re.match(r"\d\d?% of the last [\d,]+ readings ", sentence)


def test_partly_masked_readings_are_invalid_and_masked_times_too():
    times, accel, gyro = head(20.0)
    hidden = np.random.default_rng(0).random(accel.shape) < 0.1
    found, *_ = run((times, np.ma.array(np.where(hidden, 1e20, accel), mask=hidden), gyro), pictures())
    assert set(found) == {"samples invalid"}
    with Stream(Fast(("imu",))) as stream:
        stream.accept_imu(np.ma.array([0.0, 1e9, 0.01], mask=[0, 1, 0]), np.ones((3, 6)))
        stream.accept_imu(np.ma.array([0.015, 0.02], mask=True), np.ones((2, 6)))
        assert (stream.stats.used, stream.stats.invalid) == (4, 6)
    with Stream(Fast(("imu",))) as stream:
        stream.accept_imu(np.ma.array([5, 10**18, 10**18 + 5], mask=[1, 0, 0]), np.ones((3, 6)))
        assert (stream.stats.used, stream.stats.invalid, stream._clock.origin) == (4, 2, 10**18)
    with Stream(Fast()) as stream, pytest.raises(EgoDistillError, match="a picture must have all its pixels"):
        stream.accept_frame(1.0, np.ma.array(np.zeros((8, 8, 3), np.uint8), mask=np.eye(8)[..., None].repeat(3, 2)))


# --- Faults of frames and clocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture", "name", "words"),
    [
        (lambda t: np.zeros((48, 64, 3), np.uint8), "pictures blank", "the pictures have been black since 0.0 s"),
        (lambda t: np.full((48, 64, 3), [0, 135, 0], np.uint8), "pictures blank", r"of one colour, RGB \(0, 135, 0\)"),
        (lambda t: dark(0), "pictures frozen", "the pictures have not changed since 0.0 s"),
        (lambda t: pictures(size=(1, 1))(t), "pictures tiny", "the pictures have 1x1 pixels; the model reads 32x32"),
        (lambda t: pictures(size=(1080, 6))(t), "pictures tiny", "6x1080"),
        (lambda t: pictures()(t if t < 9 else 9.0) if t < 9 else dark(1), "pictures frozen", "not changed since 9.0 s"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"frames": "newest", "period": 2.0}])
def test_a_fault_of_the_pictures_is_a_state(picture, name, words, options):
    found, reported, _ = run(head(20.0), picture, **options)
    assert set(found) == set(reported) == {name}
    assert re.search(words.replace("9.0 s", r"(9|10)\.\d s" if options else "9.0 s"), found[name])


@pytest.mark.parametrize("options", [{}, {"frames": "newest", "period": 2.0}, {"frames": "newest"}])
def test_samples_without_frames_are_a_state(options):
    found, reported, _ = run(head(30.0), None, **options)
    assert set(found) == set(reported) == {"no frames"}
    assert re.match(r"samples come, but no frame has come for (29|30)\.\d s", found["no frames"])


def test_a_camera_that_stops_and_goes_on():
    (times, accel, gyro), picture, reported, seen = head(40.0), pictures(), [], {}
    with Stream(Fast(), report=reported.append) as stream:
        for k in range(0, len(times), 20):
            if not 10 < times[k] < 25:
                stream.accept_frame(times[k], picture(times[k]))
            stream.accept_imu(times[k : k + 20], np.hstack([accel, gyro])[k : k + 20])
            stream.results()
            seen[times[k]] = [state.name for state in stream.health()]
    assert [state.name for state in reported] == ["no frames"]
    assert seen[9.9] == seen[14.0] == [] and seen[20.0] == ["no frames"] and seen[30.0] == seen[39.9] == []


def test_frames_of_another_clock_are_a_state():
    for shift in (DAY, -DAY, 5e5):
        found, reported, _ = run(head(20.0), pictures(), shift=shift)
        assert set(found) == {"clocks apart"} and "not on one clock, or not in one unit" in reported["clocks apart"]
    found, *_ = run(head(20.0), pictures(), stamp=lambda t: t + 1000, shift=1e6)
    assert set(found) == {"clocks apart"}


@pytest.mark.parametrize("shift", [20, 30, 59, 61, 600, 3500, -600, -3500])
def test_frames_of_a_clock_that_is_a_little_apart_are_a_state(shift):
    found, reported, _ = run(head(30.0 if abs(shift) > 20 else 15.0), pictures(), shift=shift)
    assert set(found) == set(reported) == {"clocks apart"}
    assert "ahead of samples, so they are not on one clock" in reported["clocks apart"]


WRONG_TIMES = {
    "ms": (lambda t: 1e3 * t, "100 s apart; are the times in milliseconds"),
    "us": (lambda t: 1e6 * t, r"1e\+05 s apart; are the times in microseconds"),
    "float ns": (lambda t: 1e9 * t, r"1e\+08 s apart; are the times in nanoseconds"),
    "int us": (lambda t: round(1e6 * (DAY + t)), "0.0001 s apart; are the times in microseconds"),
    "int ms": (lambda t: round(1e3 * (DAY + t)), "1e-07 s apart; are the times in milliseconds"),
    "constant": (lambda t: 5.0, "the frames are 0 s apart"),
    "float32": (lambda t: float(np.float32(DAY + t)), "0 s apart: float32 times have a step of 128 s there"),
    "set back": (lambda t: t + 100 - 30 * (t > 6), "the clock of the frames was set back by 2[0-9].[0-9] s"),
}


@pytest.mark.parametrize("name", WRONG_TIMES)
def test_wrong_times_of_frames_are_a_state_without_imu(name):
    stamp, words = WRONG_TIMES[name]
    reported, picture = [], pictures()
    with Stream(Fast(("frames",)), report=reported.append) as stream:
        for k in range(150):
            stream.accept_frame(stamp(k / 10), picture(k / 10))
            stream.results()
        (state,) = stream.health()
        found, sentence = state.name, state.text
        stream.finish()
    assert found == ("clock stepped" if name == "set back" else "frame times") and re.search(words, sentence)
    assert [state.name for state in reported] == [found]


def test_the_first_frames_in_milliseconds_are_not_taken_for_silence_of_the_samples():
    (times, accel, gyro), picture = head(2.0), pictures()
    with Stream(Fast(), report=[].append) as stream:
        for k in range(0, len(times), 20):
            stream.accept_imu(times[k : k + 20], np.hstack([accel, gyro])[k : k + 20])
            stream.accept_frame(1e3 * times[k], picture(times[k]))
            assert {state.name for state in stream.health()} <= {"frame times", "clocks apart"}, k
        assert [state.name for state in stream.health()] == ["frame times"]


@pytest.mark.parametrize("name", ["constant", "float32"])
def test_wrong_times_of_frames_are_their_own_cause_with_imu(name):
    stamp, (times, accel, gyro), picture = WRONG_TIMES[name][0], head(15.0), pictures()
    day = DAY if name == "float32" else 0
    with Stream(Fast(), report=[].append) as stream:
        for k in range(0, len(times), 20):
            stream.accept_frame(stamp(times[k]), picture(times[k]))
            stream.accept_imu(day + times[k : k + 20], np.hstack([accel, gyro])[k : k + 20])
            stream.results()
        assert [state.name for state in stream.health()] == ["frame times"] and "0 s apart" in str(stream.health())


def test_frames_that_come_too_late_are_a_state():
    found, *_ = run(head(20.0), pictures(), shift=-5.0)
    assert set(found) == {"frames late"}
    assert "which come 5.0 s after samples of their time; give slack=5.5 (--slack 5.5)" in str(found)


@pytest.mark.parametrize("which", ["samples", "both"])
def test_a_step_of_a_clock_is_a_state(which):
    def stamp(t):
        return t - 1.5 * (t >= 6.0)

    times, picture, reported = head(12.0), pictures(), []
    with Stream(Fast(), report=reported.append) as stream:
        for k in range(0, len(times[0]), 20):
            now = times[0][k : k + 20]
            frame = stamp(now[0]) if which == "both" else now[0]
            stream.accept_frame(float(frame), picture(now[0]))
            stream.accept_imu(stamp(now), np.hstack(times[1:])[k : k + 20])
            stream.results()
    told = {state.name: state.text for state in reported}
    assert "the clock of the samples stepped back by 1.50 s at 6.0" in told.pop("clock stepped")
    assert "samples late" in told
    assert ("by 1.5 s, the other did not" in told.get("clocks apart", "")) == (which == "samples")


@pytest.mark.parametrize("begin", [6.0, 7.3, 8.1, 9.4, 10.7])
@pytest.mark.parametrize("piece", [20, 1000])
def test_a_fault_that_ends_is_told(begin, piece):
    """Whenever it begins, also if a recording is read much faster than in real time."""
    times, accel, gyro = head(30.0)
    gyro[(times > begin) & (times < begin + 5.5)] = 0
    _, reported, _ = run((times, accel, gyro), pictures(), piece=piece)
    assert list(reported) == ["gyroscope dead"]
    motion = head(30.0)
    gone = [k for k in range(300) if not begin < k / 10 < begin + 10.3]
    with Stream(Fast(), report=(found := []).append) as stream:
        for k in range(300):
            if k in gone:
                stream.accept_frame(k / 10, pictures()(k / 10))
            stream.accept_imu(motion[0][20 * k : 20 * k + 20], np.hstack(motion[1:])[20 * k : 20 * k + 20])
            stream.results()
    assert [state.name for state in found] == ["no frames"]


# --- How states are told ---------------------------------------------------------------------------------------------


def test_a_state_is_a_warning_once_and_only_where_results_are_read():
    times, accel, gyro = head(40.0)
    readings = np.hstack([accel / 9.81, gyro])
    with Stream(Fast(("imu",))) as stream:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            stream.accept_imu(times[:4000], readings[:4000])
            assert not found  # a driver's thread
            for k in range(4000, len(times), 20):
                stream.accept_imu(times[k : k + 20], readings[k : k + 20])
                stream.results()
            stream.reset()
            stream.accept_imu(times[:4000], readings[:4000])
            stream.finish()
    ((warning),) = found
    assert (
        str(warning.message).startswith("accelerometer units: the acceleration is in g")
        and warning.filename == __file__
    )


def test_an_error_made_of_a_warning_loses_no_answer():
    times, accel, gyro = head(20.0)
    with Stream(Fast(("imu",)), max_pending=99) as stream:
        stream.accept_imu(times, np.hstack([accel / 9.81, gyro]))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(UserWarning, match="in g"):
                stream.results()
        assert len(stream.results()) == stream.stats.due == 36


def test_a_state_goes_when_the_fault_does():
    times, accel, gyro = head(40.0)
    gyro[2000:4000] = gyro[2000]
    seen = {}
    with Stream(Fast(("imu",)), report=[].append) as stream:
        for k in range(0, len(times), 20):
            stream.accept_imu(times[k : k + 20], np.hstack([accel, gyro])[k : k + 20])
            seen[times[k]] = [state.name for state in stream.health()]
        assert seen[9.9] == seen[14.0] == [] and seen[18.0] == ["gyroscope frozen"] and seen[35.0] == []
        stream.reset()
        assert stream.health() == []


def test_nothing_that_comes_for_seconds_is_a_state(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(health.time, "monotonic", lambda: clock[0])
    times, accel, gyro = head(4.0)
    reported = []
    with Stream(Fast(("imu",)), report=reported.append) as stream:
        stream.accept_imu(times, np.hstack([accel, gyro]))
        clock[0] += 4.0
        assert stream.health() == []
        clock[0] += 2.0
        assert [state[:3] for state in stream.health()] == [("input", "missing", "nothing has come for 6 s")]
        assert not reported and stream.results() and reported[0].name == "no input"
        stream.accept_imu(times[-1:] + 0.005, np.hstack([accel, gyro])[:1])
        assert stream.health() == []
        clock[0] += 9.0
        stream.finish()
        assert stream.health() == [] and len(reported) == 1  # an end is no fault


def test_a_program_that_asks_for_results_again_and_again_is_told_that_nothing_comes(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(health.time, "monotonic", lambda: clock[0])
    reported, (times, accel, gyro) = [], head(4.0)
    with Stream(Fast(("imu",)), report=reported.append) as stream:
        stream.accept_imu(times, np.hstack([accel, gyro]))
        for _ in range(120):
            stream.results()
            clock[0] += 0.1
    assert [state.name for state in reported] == ["no input"]


def test_a_thread_that_waits_tells_that_nothing_comes(monkeypatch):
    monkeypatch.setattr(health, "SILENT", 0.05)
    monkeypatch.setattr("egodistill.deploy.stream.SILENT", 0.05)
    monkeypatch.setattr(health, "SECONDS", 0.05)
    reported = []
    with Stream(Fast(), report=reported.append) as stream:
        assert not stream.wait(0.4)
    assert [state.name for state in reported] == ["no input"]


def test_memory_of_what_came_is_bounded():
    for scale in (1.0, 1e3, 1e9):
        recent = health.Recent()
        for k in range(2000):
            times = scale * (k * 400 + np.arange(400)) / 4000  # 4 kHz
            recent.add(times, np.zeros((400, 3)))
        assert health.FEWEST <= recent.count <= 4000 * (health.RECENT + 0.2)
    recent = health.Recent()
    recent.add(np.arange(1e6), np.zeros((1_000_000, 3)))
    assert recent.count == len(recent.samples()[0]) == health.MOST
    recent.add(np.arange(1e6, 1e6 + 100), np.zeros((100, 3)))
    assert recent.count <= health.MOST + 100
