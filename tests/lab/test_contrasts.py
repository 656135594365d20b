"""Paired comparisons: what a result keeps of each segment, and differences by seed and wearer."""

import json

import numpy as np
import pytest

from egodistill import DataError, EgoDistillError, data
from lab import contrasts, intervals
from lab.contrasts import Outcome, accuracy, difference

SIZES = {"P01": 5, "P02": 8, "P03": 17}
CLASSES = {wearer: [("take", "put", "cut")[k % 3] for k in range(n)] for wearer, n in SIZES.items()}


def outcomes(name="a", seeds=(0, 1, 2), share=0.7, test="d", classes=CLASSES) -> list[Outcome]:
    random = np.random.default_rng(len(name) + int(100 * share))
    right = [{wearer: random.random(n) < share for wearer, n in SIZES.items()} for _ in seeds]
    return [Outcome(name, seed, one, test, classes) for seed, one in zip(seeds, right, strict=True)]


# --- Files


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 200])
def test_bits_come_back(count):
    correct = {"P01": np.random.default_rng(count).random(count) < 0.5, "": np.array([True])}
    text = json.dumps(contrasts.pack(correct))
    assert len(text) < count / 4 + 100
    found = contrasts.unpack(json.loads(text))
    assert list(found) == ["P01", ""] and all((found[name] == correct[name]).all() for name in found)


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"segments": 9, "bits": "ff"}, "9 segments, but 8 bits"),
        ({"segments": 8, "bits": "ffff"}, "8 segments, but 16 bits"),
        ({"segments": 8, "bits": "no hex"}, "bits in hex"),
        ({"segments": 8}, "bits in hex"),
        ({"segments": -3, "bits": ""}, "must be 0, 1, ...; got -3"),
        ({"segments": "8", "bits": "ff"}, "must be 0, 1, ...; got '8'"),
        (["ff"], "bits in hex"),
    ],
)
def test_bits_that_do_not_fit_are_an_error(record, text):
    with pytest.raises(DataError, match=f"'P01'.*{text}"):
        contrasts.unpack({"P01": record})


def test_split_keeps_the_order_of_the_store():
    found = contrasts.split_by_wearer([5, 3, 4, 1], ["b", "", "b", "b"])
    assert {name: values.tolist() for name, values in found.items()} == {"": [3], "b": [5, 4, 1]}
    with pytest.raises(EgoDistillError, match="2 segments and the wearers of 0"):
        contrasts.split_by_wearer([1, 2], ())


def write_bench(folder, correct, digest="d", **record):
    (folder / "seed-4").mkdir()
    path = folder / "seed-4" / "visimu-n1.json"
    path.write_text(json.dumps({"run": {"seed": 4}, "test": digest, "correct": contrasts.pack(correct)} | record))
    about = {"digest": "d", "class_names": ["cut", "take"], "wearers": {"P01": {"ids": ["x", "y"], "classes": [1, 0]}}}
    (folder / "segments.json").write_text(json.dumps(about))
    return path


def test_a_result_is_read_with_the_classes_of_its_segments(tmp_path):
    path = write_bench(tmp_path, {"P01": [True, False]})
    found = contrasts.read_outcome(path)
    assert (found.name, found.seed, found.test) == ("visimu-n1", 4, "d")
    assert found.correct["P01"].tolist() == [True, False] and found.classes == {"P01": ["take", "cut"]}
    (tmp_path / "segments.json").unlink()
    assert contrasts.read_outcome(path).classes is None
    with pytest.raises(EgoDistillError, match=r"segments\.json is missing"):
        accuracy([contrasts.read_outcome(path)], groups={"all": ["take"]})


def test_a_result_that_lacks_the_bits_or_is_of_another_test_says_so(tmp_path):
    path = write_bench(tmp_path, {"P01": [True, False]}, "another")
    with pytest.raises(DataError, match="other test segments"):
        contrasts.read_outcome(path)
    path.write_text(json.dumps({"run": {"seed": 4}, "test": "d", "correct": {"P01": {"segments": 9, "bits": ""}}}))
    with pytest.raises(DataError, match=r"visimu-n1\.json: wearer 'P01' has 9 segments"):
        contrasts.read_outcome(path)
    path.write_text(json.dumps({"run": {"seed": 4}, "top1": 0.5}))
    with pytest.raises(DataError, match=r"visimu-n1\.json: does not say which segments are right: an earlier version"):
        contrasts.read_outcome(path)


def test_segments_are_described_in_the_order_of_evaluation(demo):
    test = data.ClipStore(demo.out / "store").split("test")
    found = contrasts.segments_record(test)
    for wearer, one in found["wearers"].items():
        rows = [row for row, name in enumerate(test.wearers) if name == wearer]
        assert one["ids"] == [test.clips[row]["id"] for row in rows]
        assert one["classes"] == test.labels[rows].tolist()
    assert sum(len(one["ids"]) for one in found["wearers"].values()) == len(test)
    assert contrasts.segments_record(test)["digest"] == found["digest"]
    assert contrasts.segments_record(test.select(range(1, len(test))))["digest"] != found["digest"]


# --- Accuracies and differences


def test_difference_is_that_of_the_table_of_seeds_and_wearers():
    first, second = outcomes("a", share=0.9), outcomes("b", share=0.5)
    table = [[100 * a.correct[w].mean() - 100 * b.correct[w].mean() for w in SIZES] for a, b in zip(first, second)]  # noqa: B905
    assert difference(first, second) == intervals.two_way(table)
    assert difference(first[::-1], second) == difference(first, second)  # whatever the order
    assert difference(first, first).mean == 0 and difference(first, first).p == 1
    shuffled = [Outcome(o.name, o.seed, dict(reversed(o.correct.items())), o.test) for o in second]
    assert difference(first, shuffled) == difference(first, second)


def test_accuracy_gives_each_wearer_the_same_weight():
    found = outcomes()
    table = [[100 * one.correct[wearer].mean() for wearer in SIZES] for one in found]
    assert accuracy(found) == intervals.two_way(table) and (accuracy(found).seeds, accuracy(found).wearers) == (3, 3)


def test_intervals_stay_within_what_shares_and_their_differences_can_be():
    """Student's t of two seeds whose accuracies are far apart would go beyond 0, 100 and -100."""
    right, wrong = np.ones(4, bool), np.zeros(4, bool)
    first, second = (
        [contrasts.Outcome("", seed, {"P30": one, "P35": one}) for seed, one in enumerate(some)]
        for some in ((right, wrong), (wrong, right))
    )
    found = contrasts.accuracy(first)
    assert (found.mean, found.low, found.high) == (50, 0, 100)
    gap = contrasts.difference(first, second)
    assert (gap.mean, gap.low, gap.high) == (0, -100, 100) and gap.p == pytest.approx(1)


def test_groups_restrict_and_weights_reweight():
    found, groups = outcomes(), {"reversal": ["take", "put"], "cyclic": ["cut"]}
    share = {
        (one.seed, wearer, group): np.mean([r for r, c in zip(one.correct[wearer], CLASSES[wearer]) if c in names])  # noqa: B905
        for one in found
        for wearer in SIZES
        for group, names in groups.items()
    }
    table = [[100 * share[seed, wearer, "cyclic"] for wearer in SIZES] for seed in range(3)]
    assert accuracy(found, groups={"cyclic": ["cut"]}).mean == pytest.approx(np.mean(table))
    assert accuracy(found, groups=groups).mean == pytest.approx(accuracy(found).mean)  # together they are all
    table = [
        [100 * (0.8 * share[seed, wearer, "reversal"] + 0.2 * share[seed, wearer, "cyclic"]) for wearer in SIZES]
        for seed in range(3)
    ]
    expected = intervals.two_way(table)
    alone = accuracy(found, groups=groups, weights={"reversal": 1.0, "cyclic": 0.0})  # a weight of 0 leaves a group out
    assert alone.mean == accuracy(found, groups={"reversal": groups["reversal"]}).mean
    for weights in ({"reversal": 0.8, "cyclic": 0.2}, {"cyclic": 1, "reversal": 4}):
        one = accuracy(found, groups=groups, weights=weights)
        assert (one.mean, one.low, one.high) == pytest.approx((expected.mean, expected.low, expected.high))
    other = outcomes("b", share=0.4)
    one = difference(found, other, groups=groups, weights={"reversal": 0.8, "cyclic": 0.2})
    means = [accuracy(x, groups=groups, weights={"reversal": 0.8, "cyclic": 0.2}).mean for x in (found, other)]
    assert one.mean == pytest.approx(means[0] - means[1])


def without(one: Outcome, wearer: str) -> Outcome:
    return Outcome(one.name, one.seed, {name: x for name, x in one.correct.items() if name != wearer}, one.test)


LONGER = [Outcome(one.name, one.seed, one.correct | {"P02": np.ones(9, bool)}, one.test) for one in outcomes("b")]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda a, b: difference(a, b[:2]), "seed 2 only occurs in the first method"),
        (lambda a, b: difference(a[1:], b), "seed 0 only occurs in the second method"),
        (lambda a, b: difference([without(x, "P03") for x in a], b), "wearer 'P03' only occurs in the second method"),
        (
            lambda a, b: difference(a, outcomes("b", test="e")),
            "'a' with seed 0 and 'b' with seed 0 .* different segments",
        ),
        (lambda a, b: difference(a, LONGER), "'a' with seed 0 and 'b' with seed 0 .* different segments"),
        (lambda a, b: accuracy([*a, *outcomes("b", seeds=(5,), test="e")]), "different segments"),
        (lambda a, b: accuracy([*a, *b]), "seed 0 occurs twice in 'a'"),
        (lambda a, b: accuracy([]), "no outcomes"),
        (lambda a, b: difference([], b), "no outcomes"),
        (lambda a, b: accuracy([without(without(a[0], "P01"), "P02")]), "one seed and one wearer"),
        (lambda a, b: accuracy(a, groups={"x": ["fly"]}), "no segment has the class 'fly'; correct groups"),
        (lambda a, b: accuracy(a, groups={"x": ["cut", "putt"]}), "no segment has the class 'putt'"),
        (lambda a, b: accuracy(a, groups={}, weights={}), "groups are {name: class names}; got {}"),
        (lambda a, b: accuracy(a, weights={"x": 1.0}), "one for each group"),
        (lambda a, b: accuracy(a, groups={"x": ["cut"]}, weights={"y": 1.0}), "one for each group"),
        (lambda a, b: accuracy(a, groups={"x": ["cut"]}, weights={"x": -1.0}), "not be negative"),
        (lambda a, b: accuracy(a, groups={"x": ["cut"]}, weights={"x": 0.0}), "nor all zero"),
    ],
)
def test_what_cannot_be_compared_is_an_error(call, text):
    with pytest.raises(EgoDistillError, match=text):
        call(outcomes("a"), outcomes("b"))
