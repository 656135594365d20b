"""Streams of a student that may lack frames or head motion."""

import itertools

import numpy as np
import pytest
import torch
from streams import CLIP, Fast, check, offline, open_stream, picture, samples, student

from egodistill import Output
from egodistill.engine.calibration import Calibration
from egodistill.imu import Imu
from egodistill.support.errors import EgoDistillError

EVERY, FRAMES = 0.5, 10.0  # seconds from answer to answer; frames per second


@pytest.fixture(scope="module")
def model():
    found = student(optional_inputs=True)
    torch.nn.init.normal_(found.no_frames)
    torch.nn.init.normal_(found.no_imu)
    return found


def lived(model, stop, *, imu=None, camera=None, choice="centre", **options):
    """Answers of a stream for `stop` seconds, in pieces of 0.1 s, with (start, end) of what did not come of a sensor.

    Also the time on the host's clock at which each came, and all that a window is computed from.
    """
    times, readings = samples(0, stop)
    stream = open_stream(model, every=EVERY, frames=choice, report=lambda _: None, **options)
    answers, came, shown = [], [], {}
    for now in np.arange(0.1, stop + 1e-9, 0.1):
        new = (times >= now - 0.1) & (times < now)
        if imu is not None:
            new &= ~((times >= imu[0]) & (times < imu[1]))
        stream.accept_imu(times[new], readings[new])
        moment = round(now - 0.05, 3)
        wanted = choice == "centre" or stream.wants_frame(moment)
        if wanted and not (camera is not None and camera[0] <= moment < camera[1]):
            shown[moment] = picture(round(10 * moment))
            stream.accept_frame(moment, shown[moment])
        found = stream.results()
        answers += found
        came += [now] * len(found)
    check(stream)
    return answers, came, (times, readings, shown)


def expected(model, answer, world, imu):
    """The classes of an answer from what it says that it had, computed from the clip alone."""
    times, readings, shown = world
    kept = np.ones(len(times), bool) if imu is None else ~((times >= imu[0]) & (times < imu[1]))
    (frame,) = [shown[moment] for moment in shown if abs(answer.stop - answer.frame_age[0] - moment) < 1e-6] or [None]
    if answer.inputs == ("frames", "imu"):
        return offline(model, times[kept], readings[kept], answer.start, [frame])
    if answer.inputs == ("imu",):
        window = Imu(times[kept], readings[kept, :3], times[kept], readings[kept, 3:]).window(answer.start)
        output = model(None, torch.from_numpy(window)[None])
    else:
        output = model(torch.from_numpy(frame.transpose(2, 0, 1))[None, None], None)
    values, best = output.logits.softmax(1)[0].topk(7)
    return [(model.class_names[k], value) for k, value in zip(best.tolist(), values.tolist(), strict=True)]


@pytest.mark.parametrize("number", range(12))
def test_a_sensor_that_drops_out_for_ten_seconds(model, number):
    draw = np.random.default_rng(number)
    begin = draw.uniform(2, 8)
    gap, sensor = (begin, begin + 10), ("imu", "camera")[number % 2]
    answers, came, world = lived(model, 24, **{sensor: gap})
    imu = gap if sensor == "imu" else None
    stops = [answer.stop for answer in answers]
    assert np.allclose(np.diff(stops), EVERY, atol=1e-6)  # none is left out, also beside the gap
    assert stops[0] == pytest.approx(CLIP, abs=1e-3)
    seen = set()
    for answer, now in zip(answers, came, strict=True):
        half = answer.start + CLIP / 2
        blind = sensor == "camera" and gap[0] + 0.5 < half < gap[1] - 0.5
        deaf = sensor == "imu" and answer.stop > gap[0] + 0.2 and answer.start < gap[1] - 0.2
        whole = not blind and not (sensor == "imu" and answer.stop > gap[0] - 0.1 and answer.start < gap[1] + 0.1)
        if blind or deaf:
            assert answer.inputs == (("imu",) if blind else ("frames",))
        elif whole and not ((sensor == "camera" and abs(half - gap[0]) < 0.6) or abs(half - gap[1]) < 0.6):
            assert answer.inputs == ("frames", "imu")
        assert answer.problem is None
        assert now - answer.stop < 0.05 + EVERY + 0.3 + 1e-6  # slack, a period, three pieces
        assert len(answer.frame_age) == ("frames" in answer.inputs)
        with torch.no_grad():
            wanted = expected(model, answer._replace(frame_age=answer.frame_age or (9.0,)), world, imu)
        assert [name for name, _ in answer.classes] == [name for name, _ in wanted]
        assert np.allclose([p for _, p in answer.classes], [p for _, p in wanted], atol=1e-6)
        seen.add(answer.inputs)
    assert seen == {("frames", "imu"), ("frames",) if sensor == "imu" else ("imu",)}


def test_a_camera_on_request_is_asked_in_each_period_while_no_samples_come(model):
    answers, came, _ = lived(model, 20, imu=(6.0, 16.0), choice="newest")
    assert np.allclose(np.diff([answer.stop for answer in answers]), EVERY, atol=1e-6)
    alone = [answer for answer in answers if answer.inputs == ("frames",)]
    assert 18 <= len(alone) <= 26
    assert max(answer.frame_age[0] for answer in alone if 7 < answer.stop < 16) < 2 * EVERY + 0.2
    late = [now - answer.stop for answer, now in zip(answers, came, strict=True)]
    assert max(late) < 2 * EVERY + 0.3  # the frame itself is up to a period old


def test_without_any_samples_frames_are_the_clock(model):
    answers, _, _ = lived(model, 8, imu=(0.0, 9.0))
    assert {answer.inputs for answer in answers} == {("frames",)}
    assert np.allclose([answer.stop for answer in answers], 0.05 + CLIP + EVERY * np.arange(len(answers)), atol=1e-6)
    assert answers[-1].stop > 6.5


def test_samples_that_begin_late_are_used_from_then_on(model):
    answers, _, _ = lived(model, 14, imu=(0.0, 6.0))
    assert [key for key, _ in itertools.groupby(answer.inputs for answer in answers)] == [
        ("frames",),
        ("frames", "imu"),
    ]


def test_before_the_first_frame_a_stream_is_silent_unless_asked(model):
    silent, _, _ = lived(model, 8, camera=(0.0, 5.0))
    first = next(k for k, answer in enumerate(silent) if answer.classes)
    assert all(answer.problem.startswith("no frame within") and not answer.inputs for answer in silent[:first])
    assert silent[first].inputs == ("frames", "imu")
    asked, _, _ = lived(model, 8, camera=(0.0, 5.0), before_frames=True)
    assert [answer.stop for answer in asked] == [answer.stop for answer in silent]
    assert {answer.inputs for answer in asked[:first]} == {("imu",)}
    assert asked[first:] != [] and asked[first].classes == silent[first].classes


def test_each_mix_has_its_temperature(model):
    model.calibration = Calibration(2.0, 100, None, {"frames": 4.0, "imu": 0.5})
    try:
        with torch.no_grad():
            for gap, temperature, inputs in (({"imu": (0.0, 9.0)}, 4.0, ("frames",)), ({}, 2.0, ("frames", "imu"))):
                answers, _, world = lived(model, 5, **gap)
                (answer,) = answers[:1]
                assert answer.inputs == inputs
                imu = gap.get("imu")
                logs = np.log([p for _, p in expected(model, answer, world, imu)]) / temperature
                wanted = np.exp(logs) / np.exp(logs).sum()
                assert np.allclose([p for _, p in answer.classes], wanted, atol=1e-6)
    finally:
        model.calibration = Calibration()


def test_a_stream_that_ends_without_samples_completes_what_frames_complete(model):
    times, readings = samples(0, 3)
    stream = open_stream(model, every=EVERY)
    stream.accept_imu(times, readings)
    for moment in np.arange(0.05, 6, 0.1).round(3).tolist():
        stream.accept_frame(moment, picture(round(10 * moment)))
    answers = [*stream.results(), *stream.finish()]
    assert answers[-1].stop == pytest.approx(5.63, abs=0.01)
    assert answers[-1].inputs == ("frames",)


def test_only_a_student_of_optional_inputs_can_be_asked_before_frames():
    with pytest.raises(EgoDistillError, match="before_frames is for a model of optional_inputs"):
        open_stream(student(), before_frames=True)
    with pytest.raises(EgoDistillError, match="before_frames"):
        open_stream(student(optional_inputs=True).without("imu"), before_frames=True)


@pytest.mark.parametrize("choice", ["centre", "newest"])
@pytest.mark.parametrize("first", [True, False])
def test_a_frame_with_a_wrong_time_is_no_clock(model, choice, first):
    times, readings = samples(0, 4)
    for sampled in (True, False):
        how = {"max_pending": 99, "on_restart": "reset", "report": lambda _: None}
        stream = open_stream(model, every=EVERY, frames=choice, **how)
        if first:
            stream.accept_frame(1e9, picture())
        for moment in np.arange(0.05, 6, 0.1).round(3).tolist():
            if sampled:
                new = (times >= moment - 0.05) & (times < moment + 0.05)
                stream.accept_imu(times[new], readings[new])
            stream.accept_frame(moment, picture(round(10 * moment)))
            if abs(moment - 3.05) < 1e-3:
                stream.accept_frame(5e8, picture())
        answers = stream.results()
        assert (7 if sampled else 5) <= len(answers) <= 8 and answers[-1].stop < 6.1
        assert all(answer.problem is None for answer in answers)
        check(stream)


def fed(model, stop, frame, imu, piece=0.02, end=99.0, **options):
    """Answers of a stream and the stream, for frames and samples that come so many seconds late, in pieces.

    No samples come from `end` on.
    """
    times, readings = samples(0, min(stop, end))
    stream = open_stream(model, **{"every": EVERY, "max_pending": 99, "report": lambda _: None} | options)
    answers, shown, sent = [], 0, 0
    for tick in range(round((stop + 3) / 0.02)):
        now = 0.02 * tick
        if tick % round(piece / 0.02) == 0:
            until = int(np.searchsorted(times, now - imu))
            stream.accept_imu(times[sent:until], readings[sent:until])
            sent = max(sent, until)
        while 0.1 * shown <= min(now - frame, stop):
            wanted = options.get("frames") != "newest" or stream.wants_frame(now)
            if wanted:
                stream.accept_frame(round(0.1 * shown, 3), picture(shown))
            shown += 1
        answers += stream.results()
    return answers, stream


@pytest.mark.parametrize(
    ("frame", "imu", "piece"), [(0.0, 1.0, 0.02), (0.0, 0.0, 1.0), (0.1, 0.0, 0.5), (0.0, 3.0, 0.1), (0.3, 0.0, 0.02)]
)
def test_samples_that_come_late_or_in_pieces_are_used(model, frame, imu, piece):
    plain = student()
    slack = frame + 0.05
    wanted, _ = fed(plain, 12, frame, imu, piece, slack=slack)
    found, stream = fed(model, 12, frame, imu, piece, slack=slack)
    assert [answer.stop for answer in found] == [answer.stop for answer in wanted]
    assert {answer.inputs for answer in found[3:]} == {("frames", "imu")}
    assert stream.health() == []
    check(stream)


def test_hardly_more_frames_are_requested_than_by_a_student_that_needs_both(model):
    """One more before the first samples, of which nobody knows that they will come."""
    options = {"frames": "newest", "gate": lambda *_: False, "piece": 1.0}
    counts = [fed(one, 20, 0.0, 0.0, **options)[1].stats.requests for one in (student(), model)]
    assert counts[0] <= counts[1] <= counts[0] + 1


@pytest.mark.parametrize("ahead", [3.0, 10.0, 50.0])
def test_a_frame_ahead_costs_at_most_a_few_answers(model, ahead):
    times, readings = samples(0, 20)
    stream = open_stream(model, every=EVERY, max_pending=99, report=lambda _: None)
    for moment in np.arange(0.05, 20, 0.1).round(3).tolist():
        new = (times >= moment - 0.05) & (times < moment + 0.05)
        stream.accept_imu(times[new], readings[new])
        stream.accept_frame(moment + ahead * (abs(moment - 4.05) < 1e-3), picture(round(10 * moment)))
    answers = stream.results()
    assert [answer.stop for answer in answers] == pytest.approx(
        [CLIP + EVERY * k for k in range(len(answers))], abs=1e-3
    )
    assert len(answers) >= 35
    assert sum(answer.inputs == ("frames", "imu") for answer in answers) >= len(answers) - 3 - ahead / EVERY
    check(stream)


def test_frames_that_are_the_clock_follow_the_rules_of_a_student_of_frames_alone(model):
    alone = student(imu_encoder=None)
    pause = [*np.arange(0.05, 6, 0.1), *np.arange(76, 90, 0.1)]
    restart = [*np.arange(1000, 1006, 0.1), *np.arange(0, 6, 0.1)]
    for moments in (pause, restart):
        counts = []
        for one in (alone, model):
            stream = open_stream(one, every=EVERY, on_restart="reset", max_pending=99, report=lambda _: None)
            answers = []
            for k, moment in enumerate(moments):
                stream.accept_frame(float(round(moment, 3)), picture(k))
                answers += stream.results()
            check(stream)
            late = [answer.stop for answer in answers if answer.classes and (answer.stop > 80) == (moments is pause)]
            counts.append((len(late), stream.stats.restarts))
        assert counts[0][1] == counts[1][1] == (moments is restart)
        assert counts[1][0] >= counts[0][0] - 6 and counts[1][0] >= 5


def test_frames_that_come_too_late_are_reported(model):
    times, readings = samples(0, 12)
    stream = open_stream(model, every=EVERY, max_pending=99, report=lambda _: None)
    for tick in range(120):
        now = 0.1 * tick
        new = (times >= now) & (times < now + 0.1)
        stream.accept_imu(times[new], readings[new])
        if not 5 < now < 8:
            stream.accept_frame(round(now - 3 * (now > 5), 3), picture(tick))
        stream.results()
    assert "frames late" in [state.name for state in stream.health()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_temperature_that_comes_later_counts(model, precision):
    found = []
    for temperature in (1.0, 0.5):
        model.calibration = Calibration(temperature, 100)
        answers, _, _ = lived(model, 3, precision=precision)
        found.append(max(score for _, score in answers[0].classes))
    model.calibration = Calibration()
    assert found[1] > 1.1 * found[0]


def test_a_student_of_ones_own_steps_may_have_optional_inputs():
    class Own(Fast):
        optional_inputs = True

        def fuse(self, image, motion):
            present = [0.0 if one is None else 1.0 for one in (image, motion)]
            return Output(torch.zeros(1, 2), torch.tensor([present]))

    answers, _, _ = lived(Own(), 18, imu=(5.0, 15.0), top=2)
    for answer in answers:
        scores = dict(answer.classes)
        assert (scores["0"] == scores["1"]) == (answer.inputs == ("frames", "imu"))
        assert (scores["0"] > scores["1"]) == (answer.inputs == ("frames",))


@pytest.mark.parametrize("late", [0.0, 1.0, 3.0])
def test_samples_that_came_late_and_end_cost_no_answer(model, late):
    """Two may be due at once; with the time of the frames as it is, all of the last seconds would be."""
    found, _ = fed(model, 16, 0.0, late, end=8.0, max_pending=2)
    assert np.allclose(np.diff([answer.stop for answer in found]), EVERY, atol=1e-6)
    assert found[-1].inputs == ("frames",) and found[-1].stop > 15 - late - 1
