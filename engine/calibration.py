"""How sure a model may be: one temperature, fitted on clips that no network learned from, and how far answers are off.

    from egodistill.engine import calibration

    found = calibration.reliability(scores, labels)          # probabilities [n, C] and classes [n] of clips
    print(found.error, found.floor)                          # the calibration error, and that of a perfect model
    model.calibration = calibration.Calibration.fitted(logits, labels)      # of clips that no network learned from

A temperature T divides the logits before the softmax (Guo et al., "On Calibration of Modern Neural Networks", ICML
2017). It changes no answer about a clip, only how sure it is. `batches.probabilities()` applies it, and nothing else
does: training, `forward()` and exported programs have logits without it. Files of models and exports carry it beside
the weights.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ..support.defaults import MIN_CALIBRATION_CLIPS

__all__ = ["ENOUGH", "Calibration", "Reliability", "calibration_of", "fit", "reliability"]

BINS = 15  # of equal width, as in the paper
ENOUGH = 1000  # clips from which on a calibration error says something
LOWEST, HIGHEST = 0.05, 20.0  # temperatures


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was fitted on clips that no network learned from: the attribute `calibration` of a model.

    `clips` is their number. `events` has the thresholds of `deploy.events`, with the `stride` (s) that they hold for.
    `alone` has the temperature of a student with `optional_inputs` that has one of them, by its name.
    """

    temperature: float = 1.0
    clips: int = 0
    events: dict[str, float] | None = None
    alone: dict[str, float] | None = None

    @classmethod
    def fitted(cls, logits: Tensor, labels: Tensor) -> Calibration:
        """Return one with the temperature of held-out clips: logits [n, C], classes [n]; 1 if they are too few."""
        return cls(fit(logits, labels), len(labels)) if len(labels) >= MIN_CALIBRATION_CLIPS else cls()

    def for_input(self, name: str) -> Calibration:
        """Return the calibration of the student that has this input alone; thresholds of events stay those of both."""
        return Calibration((self.alone or {}).get(name, 1.0), self.clips if self.alone else 0, self.events)

    def record(self) -> dict[str, Any]:
        """Return the fields for a file, without those that have their defaults: {} if nothing was fitted."""
        return {name: value for name, value in vars(self).items() if value != getattr(Calibration, name)}


def calibration_of(model: Any) -> Calibration:
    """Return the calibration of a model; of one without, such as a network of your own, temperature 1."""
    found = getattr(model, "calibration", None)
    return found if isinstance(found, Calibration) else Calibration()


def fit(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature with the smallest mean negative log likelihood of clips: logits [n, C], classes [n].

    Two clips more count as of any class, as in Platt's "Probabilistic Outputs for Support Vector Machines" (1999):
    without them, a model that is right on each of few clips would be sure of everything. The slope of the mean over
    1 / T grows, so halving an interval finds where it is 0.
    """
    logits, unknown = logits.double(), 2 / (len(labels) + 2)
    own = logits.gather(1, labels[:, None])[:, 0]
    wanted = (1 - unknown) * own.mean() + unknown * logits.mean()
    low, high = -math.log(HIGHEST), -math.log(LOWEST)
    for _ in range(50):
        middle = (low + high) / 2
        slope = ((math.exp(middle) * logits).softmax(1) * logits).sum(1).mean() - wanted
        low, high = (low, middle) if slope > 0 else (middle, high)
    return round(min(max(math.exp(-low), LOWEST), HIGHEST), 4)


@dataclasses.dataclass(frozen=True)
class Reliability:
    """How far the probability of the best class is from the share of right answers, on n clips.

    `error` is the expected calibration error: the mean over the clips of |share of right answers - mean probability|
    of their bin. A model whose probabilities are true has `floor` on as many clips with these probabilities. Both
    are shares; `log_loss` is in nats. `bins` has (clips, mean probability, share of right answers) of those with clips.
    """

    clips: int
    error: float
    floor: float
    log_loss: float
    bins: list[tuple[int, float, float]]


def reliability(scores: Tensor, labels: Tensor) -> Reliability:
    """Return how reliable probabilities [n, C] of clips of these classes [n] are.

    In a bin of a perfect model, the number of right answers minus the sum of the probabilities p has mean 0 and
    variance sum p (1 - p); taken as normal, its mean size is sqrt(2 / pi) times the standard deviation.
    """
    sure, said = scores.double().max(1)
    place = (sure * BINS).ceil().clamp(1, BINS).long() - 1
    count, chance, right, variance = (
        torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, values.double())
        for values in (torch.ones_like(sure), sure, said == labels, sure * (1 - sure))
    )
    of_label = scores.gather(1, labels[:, None]).clamp_min(torch.finfo(torch.float32).tiny)
    bins = [(int(n), float(p / n), float(r / n)) for n, p, r in zip(count, chance, right, strict=True) if n]
    error, floor = (right - chance).abs().sum() / len(labels), (2 / math.pi * variance).sqrt().sum() / len(labels)
    return Reliability(len(labels), float(error), float(floor), -float(of_label.log().mean()), bins)
