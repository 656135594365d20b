"""Gates: each says yes when it should; simulated looks are those of a stream; the oracle is the best of all choices."""

import math

import numpy as np
import pytest
import torch

from egodistill import EgoDistill, EgoDistillError, Stream
from egodistill.deploy import gates

CLIP = 64 / 30


def student(**options):
    torch.manual_seed(0)
    sizes = {"feature_dim": 8, "image_encoder": "resnet10x4", "frame_size": 32, "hidden": 16, "imu_width": 4}
    return EgoDistill(4, image_weights=None, **sizes, **options).eval()


@pytest.fixture(scope="module")
def model():
    return student()


def window(rate=0.0, count=422):
    """Gravity, and a turn about the second axis in the last `count` samples."""
    found = np.tile([0.0, 0.0, 9.8, 0.0, 0.0, 0.0], (422, 1))
    found[422 - count :, 4] = rate
    return found


def test_gates_on_motion_look_at_the_end_of_the_window():
    gate = gates.Moved(1.0, seconds=0.5)
    assert gate(window(1.1, 99), [0.0], 3.0) and not gate(window(0.9, 99), [0.0], 3.0)
    early = window()
    early[:99, 4] = 9.0
    assert not gate(early, [0.0], 3.0)
    gravity = window()
    gravity[:, 2] = 90.0  # the accelerometer does not count
    assert not gate(gravity, [0.0], 3.0)


def test_the_angle_counts_from_the_frame_on():
    gate = gates.Turned(0.5)
    assert not gate(window(0.4), [1.2], 3.0) and gate(window(0.4), [1.3], 3.0)  # 0.48 and 0.52 rad
    there_and_back = window(1.0, 198)
    there_and_back[-99:, 4] = -1.0
    assert not gate(there_and_back, [1.0], 3.0) and not gate(there_and_back, [0.4], 3.0)
    assert gate(there_and_back, [0.5], 3.0)
    both = window(0.4)
    both[:, 5] = 0.3
    assert gate(both, [1.01], 3.0) and not gate(both, [0.99], 3.0)
    assert gate(window(), [], 3.0) and not gate(window(0.1), [60.0], 3.0)  # older than the window


def test_of_several_frames_the_newest_counts():
    for ages in ([3.5, 1.2], [1.2, 3.5]):
        assert not gates.Turned(0.5)(window(0.4), ages, 3.0) and not gates.Period(2.0)(window(), ages, 3.0)
    for ages in ([3.5, 2.5], [2.5, 3.5]):
        assert gates.Turned(0.5)(window(0.4), ages, 3.0) and gates.Period(2.0)(window(), ages, 3.0)
    ages, two = [], student(num_frames=2)
    times = np.arange(0, 3, 1 / 200)
    with Stream(
        two, frames="newest", gate=lambda _, seen, stop: ages.append((*seen,)) or False, precision="fp32"
    ) as stream:
        stream.accept_imu(times, window()[:1].repeat(len(times), 0))
        for moment in (0.4, 1.1, 1.9):
            stream.accept_frame(moment, np.zeros((32, 32, 3), np.uint8))
        stream.results()
    assert ages[0] == pytest.approx([CLIP - 1.1, CLIP - 1.9])


def test_gates_count_seconds_at_the_rate_of_the_window(model):
    slow = {"imu_rate": 99.0}
    moved = window(3.0, 99)
    moved[-50:, 4] = 0.0  # still for the last half of a second
    assert gates.Moved(1.0)(moved, [1.0], 3.0) and not gates.Moved(1.0, **slow)(moved, [1.0], 3.0)
    turned = window(1.0, 50)
    assert not gates.Turned(0.4)(turned, [1.0], 3.0) and gates.Turned(0.4, **slow)(turned, [1.0], 3.0)
    other = student(**slow, imu_samples=211)
    assert Stream(other, frames="newest").gate == gates.Moved(gates.FAST, **slow)
    for gate in (gates.Moved(1.0), gates.Turned(0.4)):
        with pytest.raises(EgoDistillError, match=r"gate counts 198.0 samples .* reads 99.0; .*imu_rate=99"):
            Stream(other, frames="newest", gate=gate)
    assert Stream(model, frames="newest", gate=gates.Turned(0.4)).gate.imu_rate == 198


@pytest.mark.parametrize(
    "make",
    [
        lambda: gates.Period(0),
        lambda: gates.Moved(-1),
        lambda: gates.Moved(1, seconds=0),
        lambda: gates.Turned(math.nan),
        # thresholds that nothing can reach, such as those in another unit
        lambda: gates.Period(2000),  # ms
        lambda: gates.Turned(45),  # degrees
        lambda: gates.Moved(60),  # degrees per second
        lambda: gates.Turned(True),
        lambda: Stream(student(), frames="newest", gate=gates.Turned),  # the class
        lambda: Stream(student(), frames="newest", gate=2.0),
        lambda: Stream(student(), frames="newest", gate="x"),
    ],
)
def test_settings_that_make_no_gate_are_refused(make):
    with pytest.raises(EgoDistillError, match="must be"):
        make()


@pytest.mark.parametrize("options", [{"gate": gates.Period(5.0)}, {"period": 5.0}])
def test_a_period_above_the_age_at_which_frames_go_is_refused(model, options):
    with pytest.raises(EgoDistillError, match=r"period \(--period\) must be at most max_age .*, 4 s; got 5.0"):
        Stream(model, frames="newest", **options)
    assert Stream(model, frames="newest", max_age=5.0, **options)
    assert Stream(model, frames="newest", max_age=1.0)  # without one that was given


@pytest.mark.parametrize("result", [None, "no", 0.7, [], np.array([True, False])])
def test_a_decision_that_is_none_is_an_error(model, result):
    with pytest.raises(EgoDistillError, match=r"a gate returns True or False; .*lambda.* returned"):
        gates.simulate(lambda *about: result, [None] * 3, np.arange(3.0), np.arange(3.0))
    times = np.arange(0, 3, 1 / 200)
    with Stream(model, frames="newest", gate=lambda *about: result) as stream:
        stream.accept_imu(times, window(0.1, 422)[:1].repeat(len(times), 0))
        stream.accept_frame(1.0, np.zeros((32, 32, 3), np.uint8))
        assert len(stream.results()) == 1  # what was computed before the gate was asked
        with pytest.raises(EgoDistillError, match="returned"):
            stream.results()


def test_gates_return_a_bool(model):
    ages = np.array([1.0])
    for gate in (gates.Period(np.float64(0.5)), gates.Moved(np.float64(0.5)), gates.Turned(np.float64(0.1))):
        for moved in (window(), window(1.0)):
            assert type(gate(moved, ages, 3.0)) is bool, gate
    assert gates.simulate(lambda *about: np.True_, [None] * 3, np.arange(3.0), np.arange(3.0)).taken == [0, 1, 2]


def turning(times):
    """Readings of a head that turns now and then."""
    readings = np.tile([0.0, 0.0, 9.8, 0.0, 0.0, 0.0], (len(times), 1))
    readings[:, 4] = np.where(np.sin(1.3 * times) > 0.6, 1.5, 0.02)
    return readings


def sometimes(share):
    """A gate that requests frames at random."""
    rng = np.random.default_rng(5)
    return lambda *_: bool(rng.random() < share)


MAKE = pytest.mark.parametrize(
    "make",
    [
        lambda model: gates.Period(1.7),
        lambda model: gates.Turned(0.5),
        lambda model: gates.Moved(0.8),
        lambda model: sometimes(0.3),
        lambda model: lambda *_: False,
        lambda model: lambda *_: True,
    ],
    ids=["period", "turned", "moved", "random", "never", "always"],
)


@MAKE
def test_simulated_looks_are_those_of_a_stream(model, make):
    """The camera can take 5 frames a second; samples come in chunks of 50 ms."""
    times = np.arange(0, 24, 1 / 200)
    readings, frames = turning(times), np.arange(0, 24, 0.2)
    seen, used, taken, picture = [], [], [], np.zeros((32, 32, 3), np.uint8)
    gate = make(model)

    def noted(*arguments):
        seen.append((arguments[0].copy(), arguments[2]))
        return gate(*arguments)

    wanted = iter(frames)
    moment = next(wanted)
    with Stream(model, every=0.5, frames="newest", gate=noted, max_age=4.0, precision="fp32") as stream:
        for k in range(0, len(times), 10):
            stream.accept_imu(times[k : k + 10], readings[k : k + 10])
            used += [answer.frame_age for answer in stream.results()]
            if moment is not None and times[k + 9] >= moment:
                if stream.wants_frame(moment):
                    stream.accept_frame(moment, picture)
                    taken.append(moment)
                moment = next(wanted, None)
    stops = np.array([stop for _, stop in seen])
    found = gates.simulate(make(model), [one for one, _ in seen], stops, frames)
    ages = [(stop - frames[k],) if k >= 0 else () for k, stop in zip(found.used, stops, strict=True)]
    assert len(ages) == len(used) > 40
    for one, other in zip(ages, used, strict=True):
        assert one == pytest.approx(other)
    assert frames[found.taken] == pytest.approx(taken[: len(found.taken)]) and len(taken) - len(found.taken) <= 1


@MAKE
@pytest.mark.parametrize(("delay", "slack", "late"), [(0.75, 0.05, 0.0), (0.75, 0.35, 0.3), (0.0, 0.6, 0.0)])
def test_simulated_looks_are_those_of_a_stream_with_a_slow_camera(model, make, delay, slack, late):
    """A frame is taken `delay` after the request, and arrives `late`; the gate is asked meanwhile."""
    times = np.arange(0, 24, 1 / 200)
    readings, frames = turning(times), np.arange(0.8, 26, 0.2)
    seen, used, taken, coming, picture = [], [], [], [], np.zeros((32, 32, 3), np.uint8)
    gate = make(model)

    def noted(*arguments):
        seen.append((arguments[0].copy(), arguments[2]))
        return gate(*arguments)

    options = {"max_age": 4.0, "slack": slack, "camera_delay": delay}
    with Stream(model, frames="newest", gate=noted, precision="fp32", **options) as stream:
        for k in range(0, len(times), 10):
            stream.accept_imu(times[k : k + 10], readings[k : k + 10])
            now = times[k + 9]
            while coming and coming[0] <= now - late:
                stream.accept_frame(coming.pop(), picture)
            used += [answer.frame_age for answer in stream.results()]
            if stream.wants_frame(now):
                coming.append(frames[np.searchsorted(frames, now + delay)])
                taken += coming
    stops = np.array([stop for _, stop in seen])
    found = gates.simulate(make(model), [one for one, _ in seen], stops, frames, **options)
    ages = [(stop - frames[k],) if k >= 0 else () for k, stop in zip(found.used, stops, strict=True)]
    assert len(ages) == len(used) > 40
    for one, other in zip(ages, used, strict=True):
        assert one == pytest.approx(other)
    assert frames[found.taken] == pytest.approx(taken[: len(found.taken)]) and len(taken) - len(found.taken) <= 1


def test_a_period_of_whole_steps_is_not_a_step_longer_by_rounding():
    stops = 2.1333333333 + 0.1 * np.arange(100)
    assert (stops[20:] - stops[:-20] < 2.0).any()  # in floating point
    assert set(np.diff(gates.simulate(gates.Period(2.0), [None] * 100, stops, stops).taken)) == {21}


@pytest.mark.parametrize(("stops", "frames"), [([2.5, 2.0], [0.0]), ([2.0, 2.5], [1.0, 1.0]), ([2.0, np.nan], [0.0])])
def test_times_out_of_order_are_refused(stops, frames):
    with pytest.raises(EgoDistillError, match="ascending order"):
        gates.simulate((lambda *_: True), [window()] * 2, np.array(stops), np.array(frames))


def test_the_first_frame_may_come_after_the_first_answers():
    found = gates.simulate(gates.Period(1.0), [window()] * 6, np.arange(2.0, 5.0, 0.5), np.array([3.2, 3.6, 4.6]))
    assert found.used.tolist() == [-1, -1, -1, 0, 0, 0] and found.taken == [0]
