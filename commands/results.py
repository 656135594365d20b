"""What an evaluation is worth: its rivals, and whether anything was learnt. Commands and the page of `train` say it."""

from __future__ import annotations

import math
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

    @property
    def doubt(self) -> str:
        """Return a sentence if the answers do not show that anything was learnt, and from how much; else "".

        Answers that do not depend on the clip are right with at most the share of the most frequent class. Those that
        would be right as often by chance (exact binomial, segments taken as independent) do not show more.
        """
        table = np.array(self.numbers.get("confusion") or [[0]])  # [C, C]
        counts, said, right = table.sum(1), table.sum(0), int(table.trace())
        total, most = int(counts.sum()), int(counts.max())
        if not total or at_least(right, total, most / total) <= LUCK:
            return ""
        names = [repr(name) for name in self.numbers["class_names"]]
        who = f"the {self.name}" if self.name in ("student", "teacher") else f"the student of {self.name}"
        if np.count_nonzero(said) == 1 < np.count_nonzero(counts) and total >= FEWEST:
            text = f"T{who[1:]} learnt nothing: it answers {names[said.argmax()]} for every segment"
        else:
            text = f"The test does not show that {who} learnt anything: always answering {names[counts.argmax()]} is "
            text += f"right in {most:,} of {counted(total, 'segment')}, {who} in {right:,}"
            text += ", which may be chance" * (right > most)
        if trained := self.numbers.get("trained"):
            text += f". It was trained on {counted(trained['clips'], 'clip')}, {counted(trained['epochs'], 'epoch')}"
        return f"{text}."


def at_least(count: int, total: int, share: float) -> float:
    """Return the probability of `count` or more of `total` independent events of this probability."""
    if count <= 0 or share >= 1:
        return 1.0
    ways = [math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in range(count, total + 1)]
    odds, none = math.log(share / (1 - share)), total * math.log(1 - share)
    return math.fsum(math.exp(way + k * odds + none) for k, way in enumerate(ways, count))


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
