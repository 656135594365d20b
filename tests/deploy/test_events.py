"""Events: labels that do not flicker."""

import itertools

import numpy as np
import pytest

from egodistill import EgoDistillError
from egodistill.deploy import events
from egodistill.deploy.stream import Answer
from egodistill.inference import Prediction


def answers(table, step=0.5, length=2.0, kind=Prediction):
    """Answers from {label: scores}, one every `step` seconds."""
    count = len(next(iter(table.values())))
    return [
        kind(k * step, k * step + length, sorted(((name, s[k]) for name, s in table.items()), key=lambda x: -x[1]))
        for k in range(count)
    ]


def spans(found):
    return [(event.label, event.start, event.stop) for event in found]


def test_an_event_begins_at_start_and_ends_below_end():
    scores = [0.3, 0.59, 0.6, 0.5, 0.4, 0.39, 0.3, 0.3, 0.3]
    (event,) = events.events(answers({"a": scores}), start=0.6, end=0.4, min_seconds=0)
    # Middles are 1 + k / 2; answer 2 is the first that holds, answer 4 the last.
    assert event == ("a" and events.Event(1.75, 3.25, "a", 0.6))


def test_the_class_none_ends_an_event_and_is_none():
    a = [0.1, 0.9, 0.9, 0.45, 0.45, 0.1, 0.1]
    none = [0.9, 0.1, 0.1, 0.55, 0.62, 0.9, 0.9]
    assert spans(events.events(answers({"a": a, "(none)": none}))) == [("a", 1.25, 2.75)]
    assert spans(events.events(answers({"a": a, "b": none}), min_seconds=0))[1:] == [
        ("a", 1.25, 2.75),
        ("b", 2.75, 4.0),
    ]
    for name in ("(none)", "unsure"):
        assert not list(events.events(answers({"a": [0.1] * 9, name: [0.9] * 9}), min_seconds=0))


def test_flicker_for_one_answer_ends_nothing():
    a = [0.9, 0.9, 0.1, 0.9, 0.9, 0.9]
    b = [0.1, 0.1, 0.9, 0.1, 0.1, 0.1]
    assert spans(events.events(answers({"a": a, "b": b}), min_seconds=1)) == [("a", 1.0, 3.5)]
    assert len(list(events.events(answers({"a": a, "b": b}), min_seconds=0, max_pause=0))) == 3


def test_short_events_are_left_out_and_short_pauses_bridged():
    lone = [0.1, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1]
    assert list(events.events(answers({"a": lone}), min_seconds=1)) == []
    pause = [0.9, 0.9, 0.9, 0.1, 0.9, 0.9, 0.9]
    assert spans(events.events(answers({"a": pause}), max_pause=0.5)) == [("a", 1.0, 4.0)]
    assert len(list(events.events(answers({"a": pause}), max_pause=0.4))) == 2


def test_another_label_ends_an_event():
    a = [0.9, 0.9, 0.9, 0.35, 0.1, 0.1, 0.1]
    b = [0.1, 0.1, 0.1, 0.65, 0.9, 0.9, 0.9]
    assert spans(events.events(answers({"a": a, "b": b}))) == [("a", 1.0, 2.25), ("b", 2.25, 4.0)]


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        ("---B-B---", [("B", 2.25, 3.75)]),
        ("--AB-B---", [("B", 2.25, 3.75)]),  # A is too short to be an event
        ("AAAB-B---", [("A", 1.0, 2.25), ("B", 2.25, 3.75)]),
        ("--ABA----", [("A", 1.75, 3.25)]),
        ("--ABAB-B-", [("A", 1.75, 3.25), ("B", 3.25, 4.75)]),  # a part that another event covers is not used twice
        ("--ABC-C--", [("C", 2.75, 4.25)]),
        ("--A--B-BA", [("B", 3.25, 4.75)]),
    ],
)
def test_short_parts_of_other_labels_do_not_keep_parts_apart(labels, wanted):
    scores = {name: [0.9 if label == name else 0.1 for label in labels] for name in "ABC"}
    assert spans(events.events(answers(scores), min_seconds=1)) == wanted


def test_clips_side_by_side_are_no_hole_but_lost_ones_are():
    side = answers({"a": [0.9] * 5}, step=2.0)
    assert spans(events.events(side)) == [("a", 1.0, 9.0)]
    late = [answer._replace(start=answer.start + 10, stop=answer.stop + 10) for answer in side[2:]]
    assert spans(events.events([*side[:2], *late])) == [("a", 1.0, 3.0), ("a", 15.0, 19.0)]


def test_problems_change_nothing():
    found = answers({"a": [0.9] * 8})
    found[3:5] = [answer._replace(classes=[], problem="no frame") for answer in found[3:5]]
    assert spans(events.events(found)) == [("a", 1.0, 4.5)]


def test_live_and_offline_are_one_rule():
    rng = np.random.default_rng(0)
    walks = {name: np.clip(0.5 + np.cumsum(rng.normal(0, 0.1, 300)) % 0.5, 0, 1).tolist() for name in "abc"}
    whole = list(events.events(answers(walks)))
    tracker, found = events.Tracker(), []
    for answer in answers(walks, kind=lambda *given: Answer(*given)):
        new = tracker.add(answer)
        assert all(event.stop <= events.middle(answer) for event in new)
        found += new
    found += tracker.finish()
    assert found == whole and len(whole) > 5
    assert all(one.stop <= other.start for one, other in itertools.pairwise(found))
    assert all(event.stop - event.start >= events.Tracker.min_seconds for event in found)


def test_nanoseconds_stay_integers():
    origin = 1_732_600_000_000_000_001
    seconds = answers({"a": [0.1, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1, 0.1]})
    whole = [Answer(origin + round(a.start * 1e9), origin + round(a.stop * 1e9), a.classes) for a in seconds]
    (one,), (other,) = events.events(seconds), events.events(whole)
    assert isinstance(other.start, int) and other.start - origin == round(one.start * 1e9)
    assert other.stop - origin == round(one.stop * 1e9)


def test_what_lasts_from_one_answer_to_the_next_is_half_a_second_long_wherever_it_is():
    for k in range(200):
        start = 0.1 * k
        lone = [Prediction(start + t, start + t + 64 / 30, [("a", p)]) for t, p in ((0.0, 0.1), (0.5, 0.9), (1.0, 0.1))]
        assert [len([*events.events(lone, min_seconds=s)]) for s in (0.5, 0.51)] == [1, 0]


def test_thresholds_of_a_model_hold_for_its_stride_alone():
    own = {"start": 0.7, "end": 0.5, "min_seconds": 1.5, "max_pause": 1.0, "stride": 0.25}
    mine = events.Tracker(0.7, 0.5, 1.5, 1.0)
    assert events.choose_tracker(own) == (mine, 0.25, "as saved with it")
    assert events.choose_tracker(own, 0.25)[0] == mine
    tracker, every, whose = events.choose_tracker(own, 0.5)
    assert (tracker, every) == (events.Tracker(), 0.5) and "an answer every 0.25 s, not 0.5 s" in whose
    assert events.choose_tracker(own, 0.25, 0.3)[0] == events.Tracker(0.3, 0.3 * 2 / 3)
    assert events.choose_tracker(None) == (events.Tracker(), events.EVERY, "by default")


def test_what_does_not_fit():
    with pytest.raises(EgoDistillError, match="end <= start"):
        events.Tracker(start=0.4, end=0.6)
    with pytest.raises(EgoDistillError, match="max_pause"):
        events.Tracker(max_pause=-1)
    with pytest.raises(EgoDistillError, match=r"one of predict\(\) or a Stream; got str"):
        list(events.events("walk.mp4"))
    found = answers({"a": [0.9, 0.9]})
    with pytest.raises(EgoDistillError, match="in order of time"):
        list(events.events(found[::-1]))
