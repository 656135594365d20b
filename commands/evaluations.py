"""What an evaluation is worth: its accuracy beside that of its baselines, intervals, and a sentence of doubt.

    found = evaluations.read_result("run/student.safetensors")  # what `evaluate` wrote: run/student.test.json
    found.baselines                                       # [("always 'cut', the most frequent class", "25.0 %"), ...]
    found.caveat                                        # "This student learnt nothing: it answers 'cut' for ..."

The page about a training, its last lines, and the commands `evaluate`, `predict` and `live` say it in these words.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import data
from ..engine.calibration import BINS, ENOUGH
from ..engine.refusal import known_names
from ..support import files, intervals
from ..support.defaults import NONE
from ..support.errors import DataError
from ..support.tables import pluralize

__all__ = [
    "EVALUATION",
    "Result",
    "by_wearer",
    "caveat_about",
    "evaluation_of",
    "findings",
    "is_about",
    "evaluated",
    "read_result",
]

EVALUATION = "egodistill evaluation 2"  # format of the file of `evaluate --out`
QUICK = "few epochs, and only a part of many segments: a first answer, not what these recordings can give"
MIN_WEARERS, MIN_SEGMENTS = 5, 30  # from which on there is an interval
FEWEST = 6  # segments: a student right on 60 % of two classes answers so many alike in less than 3 % of all cases


@dataclass(frozen=True)
class Result:
    """What a model answered on segments."""

    name: str  # such as "frames alone"
    numbers: dict[str, Any]  # the content of the file that `egodistill evaluate --out` wrote

    @property
    def answers(self) -> list[dict[str, Any]]:
        """Return the answer on each segment; none without labels."""
        return self.numbers.get("answers", [])

    @property
    def right(self) -> np.ndarray:
        """Return which segments are right, float [S], in %."""
        return 100.0 * np.array([one["said"] == one["label"] for one in self.answers])

    @property
    def baselines(self) -> list[tuple[str, str]]:
        """Return (who answers without this model, its accuracy on these segments); none without labels."""
        if not self.answers:
            return []
        counts, names = np.bincount([one["label"] for one in self.answers]), self.numbers["class_names"]
        shares = dict[str, float]()
        for name, top1 in self.numbers.get("teachers", {}).items():
            of = f", of what is not {NONE}" if name in self.numbers.get("lacking", ()) else ""
            shares[("teacher" if name == "teacher" else f"teacher {name}") + of] = top1
        shares[f"always {names[counts.argmax()]!r}, the most frequent class"] = counts.max() / counts.sum()
        # Of "(none)" and "unsure" those count that the labels have.
        possible = {*range(len(known_names(names)))} - {self.numbers.get("background")} | {*np.flatnonzero(counts)}
        shares[f"chance, one of {pluralize(len(possible), 'class')}"] = 1 / len(possible)
        return [(name, f"{100 * share:.1f} %") for name, share in shares.items()]

    @property
    def calibration_text(self) -> str:
        """Return how far the probabilities are off, with the temperature and without; "" if the file does not say."""
        if not (found := self.numbers.get("calibration")):
            return ""
        before, clips = found["without_temperature"] or found, pluralize(found["clips"], "clip")
        if enough := found["clips"] >= ENOUGH:
            now, then = (f"{100 * one['error']:.1f}" for one in (found, before))
        else:
            now, then = (f"{one['log_loss']:.3f}" for one in (found, before))
        without = "" if before is found else f" ({then} without the temperature of {found['temperature']:.3g})"
        if enough:
            floor = f"true probabilities would have {100 * found['floor']:.1f}"
            return f"calibration error {now} points{without}; {floor} ({BINS} bins, {clips})"
        return f"log loss {now}{without}: {clips}, and a calibration error needs {ENOUGH:,}"

    @functools.cached_property
    def caveat(self) -> str:
        """Return a sentence if the answers do not show that anything useful was learnt, and from how much; else "".

        It shows if the same answers in a random order are as often right in at most 2.5 % of all orders (a permutation
        test, which takes segments as independent).
        """
        if not self.answers:
            return ""
        label, said = np.array([(one["label"], one["said"]) for one in self.answers]).T
        right, counts, shuffle = (label == said).sum(), np.bincount(label), np.random.default_rng(0).permutation
        luck = np.mean([True, *((shuffle(said) == label).sum() >= right for _ in range(999))])
        if luck <= 0.025 and right > counts.max():
            return ""
        names, who = self.numbers["class_names"], "teacher" if self.name == "teacher" else "student"
        always = f"always answering {names[counts.argmax()]!r} is right in {counts.max():,} of "
        always += f"{pluralize(len(label), 'segment')}, this {who} in {right:,}"
        text = f"This {who} is no better than one answer for all: {always}"
        if len({*said}) == 1 < len({*label}) and len(label) >= FEWEST:
            text = f"This {who} learnt nothing: it answers {names[said[0]]!r} for every segment"
        elif luck > 0.025:
            text = f"The test does not show that this {who} learnt anything: {always}, and guesses may reach that"
        if trained := self.numbers.get("trained"):
            text += (
                f". It was trained on {pluralize(trained['clips'], 'clip')}, {pluralize(trained['epochs'], 'epoch')}"
            )
        return f"{text}."


def evaluation_of(model: str | os.PathLike) -> Path:
    """Return the path beside a model, STEM.safetensors, where the commands look for its evaluation: STEM.test.json."""
    return Path(model).with_suffix(".test.json")


def read_evaluation(path: str | os.PathLike) -> Result:
    """Return what `evaluate --out` wrote, of any split. Raise DataError for another file."""
    found = files.read_json(Path(path))
    if not (isinstance(found, dict) and found.get("format") == EVALUATION):
        raise DataError(f"{path}: not what `egodistill evaluate --out` writes")
    return Result(evaluated(found), found)


def evaluated(numbers: dict[str, Any]) -> str:
    """Return what was evaluated, such as "student", or "student without imu" with --without."""
    return " without ".join(filter(None, (numbers.get("model", "student"), numbers.get("without"))))


def read_result(model: str | os.PathLike, name: str | None = None) -> Result | None:
    """Return what `evaluate` wrote beside a model, STEM.test.json; None if it is missing or older than the model.

    An evaluation of another split than test, or without an input, does not count.
    """
    path, model = evaluation_of(model), Path(model)
    if not (path.exists() and model.exists() and path.stat().st_mtime >= model.stat().st_mtime):
        return None
    found = files.read_json(path)
    is_ours = isinstance(found, dict) and found.get("format") == EVALUATION and found.get("split", "test") == "test"
    is_ours = is_ours and "without" not in found
    return Result(name or evaluated(found), found) if is_ours else None


def caveat_about(student: str | os.PathLike) -> str:
    """Return what the evaluation beside a student doubts, or why it cannot be read; "" if neither."""
    try:
        result = read_result(student)
    except DataError as error:
        return str(error)
    return result.caveat if result else ""


def is_about(result: Result, store: data.ClipStore) -> bool:
    """Return whether a result is about segments of a store as they are now, and not before its table was edited."""
    now, names = {one["id"]: one["label"] for one in store.clips if one["split"] == "test"}, store.class_names
    known = [(one["label"], now[one["id"]]) for one in result.answers if one["id"] in now]
    same = names != result.numbers["class_names"] or all(names[label] == word for label, word in known)
    return same and len(known) == len(result.answers)


def by_wearer(result: Result, values: np.ndarray) -> dict[str, float]:
    """Return the mean of values [S] of each wearer that is known."""
    wearers = [one["wearer"] for one in result.answers]
    known = dict.fromkeys(sorted({*wearers} - {""}))
    return {name: float(values[[one == name for one in wearers]].mean()) for name in known}


def with_interval(result: Result, values: np.ndarray, unit: str, sign: str = "") -> str:
    """Return the mean of values [S] with its 95 % interval over wearers or segments, or with "too few"."""
    wearers, mean = by_wearer(result, values), f"{values.mean():{sign}.1f} {unit}"
    for what, numbers, fewest in (
        ("wearers", np.array([*wearers.values()]), MIN_WEARERS),
        ("segments, so it says nothing about other people", values, MIN_SEGMENTS),
    ):
        if len(numbers) >= fewest and np.ptp(numbers) > 0:
            low, high = np.clip(intervals.of_mean(numbers), -100 if sign else 0, 100)
            text = f"95 % interval {low:{sign}.1f} to {high:{sign}.1f} over {len(numbers)} {what}"
            centre = f"{numbers.mean():{sign}.1f}"  # of wearers: each counts the same, however many segments it has
            return f"{mean} ({text}{'' if mean.startswith(f'{centre} ') else f', around their mean {centre}'})"
    few = pluralize(len(values), "segment") + (f" of {pluralize(len(wearers), 'wearer')}" if wearers else "")
    return f"{mean} ({few}: too few for an interval)"


def findings(results: Sequence[Result], quick: bool = False) -> list[tuple[str, str]]:
    """Return (of what, text) of all that came out of a run, perhaps with --quick."""
    found = [("--quick", QUICK)] if quick else []
    for one in results:
        split = one.numbers.get("split", "test")
        if one.answers:
            which = "all" if split == "all" else f"the {split}"
            found.append((one.name, with_interval(one, one.right, f"% of {which} segments are right")))
            found += [("note", one.caveat)] if one.caveat else []
        if agreement := one.numbers.get("agreement"):
            count, share = agreement["clips"], 100 * agreement["top1"]
            clips = "clips" if split == "all" else f"{split} clips"
            words = f"{share:.1f} % of {count} {clips} without labels get the answer of {agreement['teacher']}"
            found.append((one.name, words + ("" if count >= MIN_SEGMENTS else " (too few to say more)")))
    first = results[0] if results else None
    found += first.baselines if first else []
    for other in results[1:] if first and first.answers else []:
        if [one["id"] for one in other.answers] == [one["id"] for one in first.answers]:
            gain = with_interval(first, first.right - other.right, "points", "+")
            found.append((f"{first.name} minus {other.name}", gain))
    return found
