"""What events are worth on labelled recordings, and thresholds that are chosen for them."""

import itertools

import numpy as np
import pytest

from egodistill import EgoDistillError
from egodistill.deploy import events, segmentation
from egodistill.deploy.segmentation import Answered, Score, best_thresholds, score_events
from egodistill.inference import Prediction
from egodistill.world import behaviour, synthetic


def parts(*rows):
    return [events.Event(start, stop, label, 1.0) for label, start, stop in rows]


def answers(labels, score=0.8, stride=0.5, length=2.0):
    """An answer about each of these labels, in order."""
    found = []
    for k, label in enumerate(labels):
        sure = score if np.isscalar(score) else score[k]
        found.append(Prediction(k * stride, k * stride + length, [(label, sure), ("(none)", 1 - sure)]))
    return found


def test_an_exact_prediction_is_perfect():
    acts = parts(("a", 1, 3), ("b", 4, 5), ("a", 5, 7.5))
    found = score_events(acts, acts, (0, 10)).numbers()
    assert found == {
        "time_right": 100.0,
        "f1_10": 100.0,
        "f1_25": 100.0,
        "f1_50": 100.0,
        "edit": 100.0,
        "unmatched_per_hour": 0.0,
        "background_under_events": 0.0,
    }
    assert set(found) == set(segmentation.METRICS)


def test_metrics_by_hand():
    acts = parts(("a", 1, 3), ("b", 4, 5), ("c", 7, 9))
    said = parts(("a", 2, 4), ("b", 4.2, 5), ("d", 5, 6), ("c", 6, 7.4))
    score = score_events(said, acts, (0, 10))
    found = score.numbers()
    # Right: 0-1, 2-3, 4.2-5, 7-7.4, 9-10 of the ten seconds; 6-7 and 3-4 are background under an event, as is 5-6.
    assert found["time_right"] == pytest.approx(42)
    assert found["background_under_events"] == pytest.approx(100 * 3 / 5)
    # a: 1 of 3 s in common; b: 0.8 of 1; c: 0.4 of 3.
    assert [found[f"f1_{overlap}"] for overlap in (10, 25, 50)] == pytest.approx([600 / 7, 400 / 7, 200 / 7])
    assert found["unmatched_per_hour"] == pytest.approx(3 * 360)
    assert found["edit"] == pytest.approx(75)  # one of four is inserted
    assert score.by_class()["c"] == {
        "segments": 1,
        "events": 1,
        "f1_50": 0.0,
        "time_right": pytest.approx(20),
    }
    assert score.by_class()["d"] == {"segments": 0, "events": 1, "f1_50": 0.0, "time_right": None}


def test_a_segment_is_matched_once():
    acts = parts(("a", 0, 4))
    halves = parts(("a", 0, 2), ("a", 2, 4))
    score = score_events(halves, acts, (0, 4))
    assert score.f1(50) == pytest.approx(200 / 3) and score.numbers()["unmatched_per_hour"] == pytest.approx(900)
    assert score_events(acts, halves, (0, 4)).f1(50) == pytest.approx(200 / 3)
    assert score.numbers()["time_right"] == 100.0 and score.numbers()["edit"] == 50.0


def test_none_is_background():
    acts, said = parts(("a", 1, 2), ("(none)", 4, 6)), parts(("a", 1, 2), ("(none)", 2, 5))
    assert score_events(said, acts, (0, 6)).numbers() == score_events(said[:1], acts[:1], (0, 6)).numbers()
    score = score_events(parts(("a", 4, 5)), acts, (0, 6))
    assert score.classes == ["a"] and score.numbers()["background_under_events"] == pytest.approx(20)
    assert score_events([], acts[1:], (0, 6)).numbers() == {
        **dict.fromkeys(("f1_10", "f1_25", "f1_50")),
        **dict.fromkeys(("time_right", "edit"), 100.0),
        **dict.fromkeys(("unmatched_per_hour", "background_under_events"), 0.0),
    }


def test_nothing_counts_outside_of_the_labelled_time():
    acts = parts(("a", 10, 12), ("b", 14, 20))
    score = score_events(parts(("c", 0, 9), ("a", 9, 11.5), ("b", 14, 24), ("c", 30, 31)), acts, (10, 20))
    assert score.counts["seconds"] == 10 and score.count("events") == 2
    assert score.numbers()["time_right"] == pytest.approx(95)
    with pytest.raises(EgoDistillError, match=r"span=\(3, 3\)"):
        score_events([], [], (3, 3))


def frames(some, count, step=0.01):
    """The labels in the middle of each frame."""
    times = (np.arange(count) + 0.5) * step
    return [{one.label for one in some if one.label != "(none)" and one.start <= t < one.stop} for t in times]


def distance(one, other):
    """Levenshtein's distance, as it is defined."""
    if not one or not other:
        return len(one) + len(other)
    rest = distance(one[1:], other[1:]) + (one[0] != other[0])
    return min(rest, distance(one[1:], other) + 1, distance(one, other[1:]) + 1)


def brute(said, acts, count, step=0.01):
    """The metrics of one recording, by frames of 10 ms."""
    a, b = frames(said, count), frames(acts, count)
    right = [bool(x & y) or not (x or y) for x, y in zip(a, b, strict=True)]
    none = [not y for y in b]
    under = [bool(x) for x, y in zip(a, b, strict=True) if not y]
    said, acts = ([one for one in some if one.label != "(none)"] for some in (said, acts))
    masks = [
        [
            (one.label, (np.arange(count) * step >= one.start - 1e-9) & (np.arange(count) * step < one.stop - 1e-9))
            for one in some
        ]
        for some in (said, acts)
    ]
    found = {"time_right": 100 * np.mean(right), "background_under_events": 100 * np.mean(under) if any(none) else None}
    for overlap in (10, 25, 50):
        left, hits = list(range(len(acts))), 0
        for label, mask in masks[0]:
            shares = {k: (mask & masks[1][k][1]).sum() / (mask | masks[1][k][1]).sum() for k in left}
            best = max((k for k in left if masks[1][k][0] == label), key=shares.get, default=None)
            if best is not None and shares[best] >= overlap / 100:
                left.remove(best)
                hits += 1
        found[f"f1_{overlap}"] = 200 * hits / (len(said) + len(acts)) if said or acts else None
    found["unmatched_per_hour"] = 3600 * (len(said) - hits) / (count * step)
    longest = max(len(said), len(acts), 1)
    found["edit"] = 100 * (1 - distance([x.label for x in said], [x.label for x in acts]) / longest)
    return found


def drawn(rng, count):
    """Up to `count` parts, one after the other, on a grid of 10 ms."""
    edges = np.sort(rng.choice(np.arange(1, 2000), 2 * int(rng.integers(0, count + 1)), replace=False)) / 100
    labels = rng.choice(["a", "b", "c", "(none)"], len(edges) // 2).tolist()
    return parts(*zip(labels, edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def test_metrics_are_those_of_frames():
    rng = np.random.default_rng(0)
    for _ in range(150):
        said, acts = drawn(rng, 6), drawn(rng, 6)
        if rng.random() < 0.7:  # mostly near the truth
            moved = rng.integers(-30, 30, (len(acts), 2)) / 100
            said = [
                one._replace(start=max(0.0, one.start + a), stop=max(one.start + a + 0.05, one.stop + b, 0.05))
                for one, (a, b) in zip(acts, moved.tolist(), strict=True)
            ]
        said.sort(key=lambda one: (one.start, one.stop))
        found, wanted = score_events(said, acts, (0.0, 20.0)).numbers(), brute(said, acts, 2000)
        assert found == {name: value if value is None else pytest.approx(value) for name, value in wanted.items()}


def test_scores_of_recordings_add_up():
    rng = np.random.default_rng(1)
    pairs = [(drawn(rng, 6), drawn(rng, 6)) for _ in range(5)]
    scores = [score_events(said, acts, (0.0, 20.0)) for said, acts in pairs]
    total = sum(scores, Score())
    later = [
        [one._replace(start=one.start + 20 * k, stop=one.stop + 20 * k) for one in some]
        for k, pair in enumerate(pairs)
        for some in pair
    ]
    whole = score_events(itertools.chain(*later[::2]), itertools.chain(*later[1::2]), (0.0, 100.0))
    for name in ("time_right", "f1_10", "f1_25", "f1_50", "unmatched_per_hour", "background_under_events"):
        assert total.numbers()[name] == pytest.approx(whole.numbers()[name]), name
    assert total.numbers()["edit"] == pytest.approx(np.mean([one.numbers()["edit"] for one in scores]))
    assert sum(one["segments"] for one in total.by_class().values()) == total.count("segments")
    assert Score().numbers() == dict.fromkeys(segmentation.METRICS)


def recording(rng, doubt):
    """Answers whose probability is high in an act and, but for `doubt`, low elsewhere."""
    truth = np.repeat(rng.choice(["a", "b", "(none)"], 40), 6)
    said = [rng.choice(["a", "b"]) if one == "(none)" else one for one in truth]
    sure = np.where(truth == "(none)", doubt * rng.random(len(truth)), 0.75)
    runs = [(label, list(some)) for label, some in itertools.groupby(range(len(truth)), key=truth.__getitem__)]
    acts = parts(*((label, 0.75 + some[0] / 2, 1.25 + some[-1] / 2) for label, some in runs))
    return Answered(answers(said, sure), acts, (0.0, 122.0))


def test_the_best_thresholds_separate_what_scores_separate():
    rng = np.random.default_rng(0)
    some = [recording(rng, 0.65) for _ in range(3)]
    best = best_thresholds(some, 0.5)
    assert best["start"] == pytest.approx(0.7) and best["end"] == pytest.approx(0.7) and best["stride"] == 0.5
    assert best == best_thresholds(some[::-1], 0.5)
    thresholds = {name: value for name, value in best.items() if name != "stride"}

    def f1(given):
        return sum(
            (score_events(events.events(one.answers, **given), one.segments, one.span) for one in some), Score()
        ).f1()

    grid = itertools.product(segmentation.STARTS, segmentation.ENDS, segmentation.SHORTEST)
    assert (
        f1(thresholds)
        == max(f1({"start": a, "end": a * b, "min_seconds": c}) for a, b, c in grid)
        > 95
        > f1({"min_seconds": 0.5})
    )


def test_of_equal_thresholds_the_strictest_are_chosen():
    found = [Answered(answers(["(none)"] * 3 + ["a"] * 8 + ["(none)"] * 3, 0.95), parts(("a", 2.25, 6.25)), (0, 8))]
    assert best_thresholds(found, 0.5) == {
        "start": 0.9,
        "end": 0.9,
        "min_seconds": 1.5,
        "max_pause": 1.0,
        "stride": 0.5,
    }
    assert best_thresholds([found[0]._replace(segments=parts(("b", 2.25, 6.25)))], 0.5) is None


def test_true_labels_at_the_default_stride_bound_no_student_with_thresholds_of_its_own():
    """Acts of the rendered world, a median of 1.5 s long. The default, 1 s, leaves out some, and flicker."""
    total = {0.5: Score(), 1.0: Score()}
    for number in range(8):
        rng, wearer = np.random.default_rng(number), behaviour.draw_wearer(f"P{number:02}", 0)
        drawn = behaviour.draw_acts(wearer, rng.integers(0, 20, 54), synthetic.LONG_GAPS, 1.0, rng)
        ends = [(behaviour.VERBS[one.verb], one.centre, one.length / 2) for one in drawn]
        acts = parts(*((verb, centre - half, centre + half) for verb, centre, half in ends))
        middles = np.arange(1.0, acts[-1].stop + 1, events.EVERY).tolist()
        names = [next((one.label for one in acts if one.start <= t < one.stop), "(none)") for t in middles]
        for seconds in total:
            found = events.events(answers(names, 1.0, events.EVERY), min_seconds=seconds)
            total[seconds] += score_events(found, acts, (0.0, acts[-1].stop + 1))
    assert total[0.5].f1() > 97 > 95 > total[events.Tracker.min_seconds].f1()


def test_unlabelled_objects_alone_give_no_event_if_none_is_best():
    rng = np.random.default_rng(0)
    for _ in range(20):
        chances = rng.dirichlet([1, 1, 1], 200)
        chances[:, 2] = chances.max(1) + 0.01
        table = [sorted(zip(("a", "b", "(none)"), row.tolist(), strict=True), key=lambda x: -x[1]) for row in chances]
        found = [Prediction(k / 2, k / 2 + 2, row) for k, row in enumerate(table)]
        assert not list(events.events(found, start=0.1, end=0.05, min_seconds=0))
