"""A model or gate that fails: what was computed before is given, and the error comes once, afterwards."""

import itertools

import pytest
from streams import check, open_stream, picture, samples, student

from egodistill.student import Output


@pytest.fixture
def model():
    return student()


class Failing:
    """Calls of a function, of which some raise."""

    def __init__(self, work, *numbers, error=RuntimeError):
        self.work, self.numbers, self.error, self.count = work, numbers, error, itertools.count()

    def __call__(self, *given):
        if (number := next(self.count)) in self.numbers:
            raise self.error(f"call {number}")
        return self.work(*given)


def fed(model, seconds=4.0, **options):
    """A stream with four answers that are due."""
    times, readings = samples(0, seconds)
    stream = open_stream(model, max_pending=9, **options)
    for moment in (1.0, 1.5, 2.0, 2.5):
        stream.accept_frame(moment, picture())
    stream.accept_imu(times, readings)
    return stream


def stops(answers):
    return [round(answer.stop, 3) for answer in answers]


def test_answers_before_one_that_fails_are_given_and_those_after_it(model):
    model.fuse = Failing(model.fuse, 2)
    with fed(model) as stream:
        assert stops(stream.results()) == [2.133, 2.633] and stream.wait(0)
        with pytest.raises(RuntimeError, match="call 2"):
            stream.results()
        assert stops(stream.results()) == [3.633] and not stream.wait(0)
        counts = check(stream)
    assert (counts.due, counts.given, counts.dropped) == (4, 3, 1)


def test_an_answer_that_fails_first_is_an_error_at_once(model):
    model.encode_imu = Failing(model.encode_imu, 0, 1)
    with fed(model) as stream:
        for number in (0, 1):
            with pytest.raises(RuntimeError, match=f"call {number}"):
                stream.results()
        assert stops(stream.results()) == [3.133, 3.633]


def test_the_answer_about_which_a_gate_fails_is_given(model):
    gate = Failing(lambda *about: False, 1)
    with fed(model, frames="newest", gate=gate) as stream:
        assert stops(stream.results()) == [2.133, 2.633]
        with pytest.raises(RuntimeError, match="call 1"):
            stream.results()
        assert stops(stream.results()) == [3.133, 3.633]
        counts = check(stream)
    assert (counts.due, counts.given, counts.dropped) == (4, 4, 0)


def test_an_error_of_the_last_answers_is_not_lost(model):
    model.fuse = Failing(model.fuse, 1)
    with pytest.raises(RuntimeError, match="call 1"), fed(model) as stream:
        assert stops(stream.finish()) == [2.133]
    model.fuse = Failing(model.fuse.work, 1)
    with pytest.raises(KeyError, match="mine"), fed(model) as stream:  # the caller's own comes first
        assert stops(stream.finish()) == [2.133]
        raise KeyError("mine")


def test_ctrl_c_comes_at_once_and_loses_no_answer(model):
    model.fuse = Failing(model.fuse, 2, error=KeyboardInterrupt)
    with fed(model) as stream:
        with pytest.raises(KeyboardInterrupt):
            stream.results()
        assert stops(stream.finish()) == [2.133, 2.633, 3.633]
        assert check(stream).dropped == 1


def test_a_reset_drops_what_was_not_computed_yet(model):
    def reset(image, imu):
        stream.reset()
        return Output(image, image[:, :7])

    with fed(model) as stream:
        usual = model.fuse
        model.fuse = Failing(usual, 1)
        assert stops(stream.results()) == [2.133]
        model.fuse = reset
        with pytest.raises(RuntimeError, match="call 1"):
            stream.results()
        assert stream.results() == [] and check(stream).dropped == 3
