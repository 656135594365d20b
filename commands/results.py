"""What an evaluation is worth: its rivals, and whether anything was learnt. Commands and the page of `train` say it."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..support import files
from ..support.tables import counted

__all__ = ["FORMAT", "Result", "read_result"]

FORMAT = "egodistill evaluation 1"
FEWEST = 6  # segments: a student right on 60 % of two classes answers so many alike in less than 3 % of all cases
LUCK = 0.025  # largest probability of what is not called chance


@dataclass(frozen=True)
class Result:
    """What a model answered on segments.

    Attributes:
        name: Such as "frames alone".
        numbers: The content of the file that `egodistill evaluate --out` wrote.
    """

    name: str
    numbers: dict[str, Any]

    @property
    def answers(self) -> list[dict[str, Any]]:
        """Return the answer on each segment; none without labels."""
        return self.numbers.get("answers", [])

    @property
    def right(self) -> np.ndarray:
        """Return which segments are right, float [S], in %."""
        return 100.0 * np.array([one["said"] == one["label"] for one in self.answers])

    @property
    def rivals(self) -> dict[str, float]:
        """Return {who answers without this model: accuracy on the same segments in %}; nothing without labels."""
        if "confusion" not in self.numbers:
            return {}
        counts, names = np.sum(self.numbers["confusion"], 1), self.numbers["class_names"]
        found = {
            f"teacher {name}".removesuffix(" teacher"): 100 * top1
            for name, top1 in self.numbers.get("teachers", {}).items()
        }
        found[f"always {names[counts.argmax()]!r}, the most frequent class"] = 100 * counts.max() / counts.sum()
        return found | {f"chance, one of {counted(len(names), 'class')}": 100 / len(names)}

    @functools.cached_property
    def doubt(self) -> str:
        """Return a sentence if the answers do not show that anything useful was learnt, and from how much; else "".

        What was learnt shows if the same answers in a random order are right as often with a probability of at most
        `LUCK` (a permutation test, which takes segments as independent).
        """
        table = np.array(self.numbers.get("confusion") or [[0]])  # [C, C]
        label, said = np.repeat(np.argwhere(table), table[table > 0], axis=0).T  # [S] each
        right, count, most = int((label == said).sum()), len(label), int(table.sum(1).max())
        shuffle = np.random.default_rng(0).permutation
        luck = np.mean([True, *((shuffle(said) == label).sum() >= right for _ in range(999))])
        if not count or (luck <= LUCK and right > most):
            return ""
        best = repr(self.numbers["class_names"][table.sum(1).argmax()])
        who = f"the {self.name}" if self.name in ("student", "teacher") else f"the student of {self.name}"
        always = f"always answering {best} is right in {most:,} of {counted(count, 'segment')}, {who} in {right:,}"
        text = f"T{who[1:]} is no better than one answer for all: {always}"
        if len({*said}) == 1 < len({*label}) and count >= FEWEST:
            text = f"T{who[1:]} learnt nothing: it answers {self.numbers['class_names'][said[0]]!r} for every segment"
        elif luck > LUCK:
            text = f"The test does not show that {who} learnt anything: {always}, and guesses may reach that"
        if trained := self.numbers.get("trained"):
            text += f". It was trained on {counted(trained['clips'], 'clip')}, {counted(trained['epochs'], 'epoch')}"
        return f"{text}."


def read_result(model: str | os.PathLike, name: str = "student") -> Result | None:
    """Return what `evaluate` wrote beside a model, STEM.test.json; None without it, and if it is older than the model.

    Args:
        model: The model's file, STEM.pt.
        name: The name of the result.
    """
    path, model = Path(model).with_suffix(".test.json"), Path(model)
    if not (path.exists() and model.exists() and path.stat().st_mtime >= model.stat().st_mtime):
        return None
    found = files.read_json(path)
    return Result(name, found) if isinstance(found, dict) and found.get("format") == FORMAT else None
