"""Compare methods on the same test segments: which segments each run has right, and differences with 95 % intervals.

    from lab import contrasts

    first = [contrasts.read_outcome(f"out/seed-{seed}/egodistill-n1-x3d.json") for seed in range(3)]
    second = [contrasts.read_outcome(f"out/seed-{seed}/visimu-n1.json") for seed in range(3)]
    print(contrasts.difference(first, second))                 # +9.9 (+7.1 to +12.7), in points
    print(f"{contrasts.accuracy(first):.1f}")                  # 76.2 (73.0 to 79.4), in %
    kinds = {"reversal": ["take", "put"], "cyclic": ["cut", "mix"]}
    contrasts.difference(first, second, groups=kinds, weights={"reversal": 0.8, "cyclic": 0.2})

A bench writes two kinds of files that are read here.
The result of each run has one bit for each test segment, 1 for a right one, by wearer and in the order of the store:

    "test": "9f86d081884c7d65", "correct": {"P30": {"segments": 6, "bits": "b4"}, ...}

And the file `segments.json` in the bench's folder says which segments these are; "test" above is its digest:

    "class_names": ["take", ...], "wearers": {"P30": {"ids": ["P30_101_0", ...], "classes": [0, 2, ...]}, ...}
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from egodistill.support import files
from egodistill.support.errors import DataError, EgoDistillError
from lab import intervals
from lab.intervals import Interval

__all__ = ["Outcome", "accuracy", "difference", "pack", "read_outcome", "segments_record", "split_by_wearer", "unpack"]

Groups = Mapping[str, Sequence[str]]
SEGMENTS_FILE = "segments.json"


@dataclass(frozen=True)
class Outcome:
    """The result of one run: for each test segment, whether it is right.

    Attributes:
        name: For messages.
        seed: Seed of the training; runs of two methods are paired by it.
        correct: {wearer: bool [segments of this wearer]}. The wearer "" stands for unknown ones.
        test: Digest of the test segments; only outcomes with the same digest can be compared.
        classes: {wearer: class names of the segments}, needed for groups of classes only.
        teacher: What identifies the teacher that the run learned from; None without one, or if it does not matter.

    >>> import numpy as np
    >>> from lab import contrasts
    >>> correct = {"P30": np.array([True, False, True]), "P35": np.array([True, True])}
    >>> outcome = contrasts.Outcome("VisIMU", 0, correct)
    >>> print(f"{contrasts.accuracy([outcome]).mean:.2f} %")  # the mean of 66.67 and 100
    83.33 %
    """

    name: str
    seed: int
    correct: Mapping[str, np.ndarray]
    test: str = ""
    classes: Mapping[str, Sequence[str]] | None = None
    teacher: str | None = None


# ---------------------------------------------------------------------------------------------------------------
# Files


def split_by_wearer(values: ArrayLike, wearers: Sequence[str]) -> dict[str, np.ndarray]:
    """Return {wearer: values of this wearer}, in the order of the values; wearers are sorted.

    Values are one per segment, [S], and wearers as many, or EgoDistillError.

    >>> from lab import contrasts
    >>> contrasts.split_by_wearer([1, 2, 3], ["b", "a", "b"])
    {'a': array([2]), 'b': array([1, 3])}
    """
    values, names = np.asarray(values), np.asarray(wearers)
    if len(values) != len(names):
        raise EgoDistillError(f"there are {len(values)} segments and the wearers of {len(names)}")
    return {name: values[names == name] for name in sorted(set(wearers))}


def pack(correct: Mapping[str, ArrayLike]) -> dict[str, dict[str, Any]]:
    """Return which segments are right, {wearer: bool [n]}, as it is kept in a result; `unpack()` is the inverse.

    >>> from lab import contrasts
    >>> contrasts.pack({"P30": [True, False, True, True, False, True]})
    {'P30': {'segments': 6, 'bits': 'b4'}}
    """
    bits = {wearer: np.asarray(values, bool) for wearer, values in correct.items()}
    return {
        wearer: {"segments": len(values), "bits": np.packbits(values).tobytes().hex()}
        for wearer, values in bits.items()
    }


def unpack(record: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return which segments are right, bool [n] of each wearer. Raise DataError if bits are missing or left over.

    >>> from lab import contrasts
    >>> contrasts.unpack({"P30": {"segments": 3, "bits": "a0"}})
    {'P30': array([ True, False,  True])}
    """
    found = {}
    for wearer, one in record.items():
        try:
            count, content = one["segments"], bytes.fromhex(one["bits"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the result of wearer {wearer!r} must be segments and bits in hex; got {one}") from error
        if type(count) is not int or count < 0:
            raise DataError(f"the number of segments of wearer {wearer!r} must be 0, 1, ...; got {count!r}")
        if len(content) != (count + 7) // 8:
            raise DataError(f"wearer {wearer!r} has {count} segments, but {8 * len(content)} bits")
        found[wearer] = np.unpackbits(np.frombuffer(content, np.uint8), count=count).astype(bool)
    return found


def segments_record(store: Any) -> dict[str, Any]:
    """Return the content of `segments.json` for the test clips of a store: ids, wearers, classes, a digest.

    >>> from egodistill import data
    >>> from lab import contrasts
    >>> record = contrasts.segments_record(data.ClipStore("store").split("test"))
    >>> {wearer: len(one["classes"]) for wearer, one in record["wearers"].items()}
    {'P30': 2, 'P35': 2, 'P37': 2}
    """
    _, first = np.unique(store.segments, return_index=True)
    clips, wearers = store.clips, store.wearers
    names = ["" if wearers[row] is None else wearers[row] for row in first]
    ids = split_by_wearer(np.array([clips[row]["id"] for row in first], object), names)
    classes = split_by_wearer(np.asarray(store.labels)[first], names)
    about = {
        "class_names": list(store.class_names),
        "wearers": {name: {"ids": ids[name].tolist(), "classes": classes[name].tolist()} for name in ids},
    }
    return {"digest": hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16], **about}


def read_outcome(path: str | os.PathLike) -> Outcome:
    """Return the outcome of a run from its result, such as `out/seed-0/visimu-n1.json` in a bench's folder.

    The classes of the segments come from `segments.json` in the folder above the result's, if it is there. Raise
    DataError for a result of an earlier version, which does not say which segments are right, and for one of other
    segments than those of `segments.json`.
    """
    path = Path(path)
    result = files.read_json(path)
    if "correct" not in result:
        raise DataError(
            f"{path}: does not say which segments are right: an earlier version wrote it, or it is of a run without "
            f"evaluation. Delete this file, and the same command evaluates the run again"
        )
    try:
        correct = unpack(result["correct"])
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    about, classes = path.parent.parent / SEGMENTS_FILE, None
    if about.exists():
        record = files.read_json(about)
        if record["digest"] != result["test"]:
            raise DataError(f"{path}: is a result on other test segments than those of {about}")
        names = record["class_names"]
        classes = {wearer: [names[k] for k in one["classes"]] for wearer, one in record["wearers"].items()}
    return Outcome(path.stem, result["run"]["seed"], correct, result["test"], classes)


# ---------------------------------------------------------------------------------------------------------------
# Accuracies and differences


def accuracy(
    outcomes: Sequence[Outcome], *, groups: Groups | None = None, weights: Mapping[str, float] | None = None
) -> Interval:
    """Return the accuracy of a method in %, with its interval over the seeds and wearers of its outcomes.

    Each wearer has equal weight. The ends of the interval, which is Student's t, are clamped to 0 and 100.

    Args:
        outcomes: The method's runs, one per seed.
        groups: {name: class names}: only segments of these classes count, equally. None: all segments.
        weights: {name: weight} of the groups: the accuracy on a wearer is the weighted mean of the accuracies of the
            groups. Weights are divided by their sum.

    Raises:
        EgoDistillError: If the outcomes are of different segments, if a seed occurs twice, if a wearer has no segment
            of a group, if the classes are unknown, and for one seed with one wearer.

    >>> import numpy as np
    >>> from lab import contrasts
    >>> classes = {"P30": ["take", "cut", "cut", "cut"], "P35": ["take", "cut"]}
    >>> right = {"P30": np.array([True, True, False, True]), "P35": np.array([True, False])}
    >>> outcome = contrasts.Outcome("VisIMU", 0, right, classes=classes)
    >>> contrasts.accuracy([outcome]).mean
    62.5
    >>> groups, weights = {"reversal": ["take"], "cyclic": ["cut"]}, {"reversal": 0.75, "cyclic": 0.25}
    >>> print(f"{contrasts.accuracy([outcome], groups=groups, weights=weights).mean:.2f}")
    83.33
    """
    return intervals.two_way(accuracy_table(outcomes, groups, weights)).within(0, 100)


def difference(
    first: Sequence[Outcome],
    second: Sequence[Outcome],
    *,
    groups: Groups | None = None,
    weights: Mapping[str, float] | None = None,
) -> Interval:
    """Return by how many points the first method is better than the second, paired by seed and wearer.

    The ends of the interval, which is Student's t, are clamped to -100 and 100.

    Args:
        first: Runs of the first method, one per seed.
        second: Runs of the second method, of the same seeds.
        groups: As in `accuracy()`.
        weights: As in `accuracy()`.

    Raises:
        EgoDistillError: As `accuracy()`, and if a seed or a wearer occurs in one method only, or if the two were
            evaluated on different segments.

    >>> import numpy as np
    >>> from lab import contrasts
    >>> def outcomes(*right):
    ...     return [contrasts.Outcome("", seed, {"P30": np.array(a), "P35": np.array(b)})
    ...             for seed, (a, b) in enumerate(right)]
    >>> first = outcomes(([1, 1, 1], [1, 0]), ([1, 1, 1], [1, 1]))
    >>> second = outcomes(([1, 0, 1], [1, 0]), ([1, 0, 1], [1, 0]))
    >>> print(f"{contrasts.difference(first, second).mean:+.1f} points")
    +29.2 points
    """
    if not (first and second):
        raise EgoDistillError("there are no outcomes to compare")
    require_pairs("seed", {one.seed for one in first}, {one.seed for one in second})
    require_pairs("wearer", set(first[0].correct), set(second[0].correct))
    require_same_segments([*first, *second])
    gaps = accuracy_table(first, groups, weights) - accuracy_table(second, groups, weights)
    return intervals.two_way(gaps).within(-100, 100)


def require_pairs(kind: str, first: set, second: set) -> None:
    """Raise EgoDistillError for what occurs in one of two methods only."""
    for here, there, name in ((first, second, "first"), (second, first, "second")):
        if alone := sorted(here - there):
            raise EgoDistillError(f"{kind} {', '.join(map(repr, alone))} only occurs in the {name} method")


def require_same_segments(outcomes: Sequence[Outcome]) -> None:
    """Raise EgoDistillError if outcomes are of different test segments."""
    known = outcomes[0]
    for one in outcomes:
        sizes = {wearer: len(values) for wearer, values in one.correct.items()}
        if one.test != known.test or sizes != {wearer: len(values) for wearer, values in known.correct.items()}:
            raise EgoDistillError(
                f"{known.name!r} with seed {known.seed} and {one.name!r} with seed {one.seed} were evaluated on "
                f"different segments"
            )


def accuracy_table(
    outcomes: Sequence[Outcome], groups: Groups | None = None, weights: Mapping[str, float] | None = None
) -> np.ndarray:
    """Return the accuracies in %, float64 [S, W], with seeds and wearers in ascending order."""
    if not outcomes:
        raise EgoDistillError("there are no outcomes to compute an accuracy from")
    if groups is not None and not any(groups.values()):
        raise EgoDistillError(f"groups are {{name: class names}}; got {dict(groups)}")
    if weights is not None and (groups is None or set(weights) != set(groups)):
        raise EgoDistillError(f"weights are one for each group; got {weights} for {list(groups or ())}")
    if weights is not None and not (min(weights.values()) >= 0 and sum(weights.values()) > 0):
        raise EgoDistillError(f"weights must not be negative, nor all zero; got {weights}")
    seeds = [one.seed for one in outcomes]
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise EgoDistillError(f"seed {twice[0]} occurs twice in {outcomes[0].name!r}")
    require_same_segments(outcomes)
    if groups is not None and outcomes[0].classes is not None:
        unknown = set(itertools.chain(*groups.values())) - set(itertools.chain(*outcomes[0].classes.values()))
        if unknown:
            raise EgoDistillError(f"no segment has the class {', '.join(map(repr, sorted(unknown)))}; correct groups")
    if groups is not None and weights is None:
        groups = {"all": [name for names in groups.values() for name in names]}
    rows = []
    for one in sorted(outcomes, key=lambda one: one.seed):
        rows.append([wearer_accuracy(one, wearer, groups, weights) for wearer in sorted(one.correct)])
    return 100 * np.array(rows)


def wearer_accuracy(outcome: Outcome, wearer: str, groups: Groups | None, weights: Mapping[str, float] | None) -> float:
    """Return the share of right segments of a wearer, or the weighted mean of those of groups of classes."""
    correct = np.asarray(outcome.correct[wearer], bool)
    if groups is None:
        return float(correct.mean())
    if outcome.classes is None:
        raise EgoDistillError(f"{outcome.name!r}: the classes of its segments are unknown; {SEGMENTS_FILE} is missing")
    classes, total = np.asarray(outcome.classes[wearer]), 0.0
    scale = sum(weights.values()) if weights else 1.0
    for group, names in groups.items():
        chosen = np.isin(classes, list(names))
        if not chosen.any():
            raise EgoDistillError(f"wearer {wearer!r} has no segments of the classes {', '.join(names)}")
        total += (weights[group] if weights else 1.0) / scale * float(correct[chosen].mean())
    return total
