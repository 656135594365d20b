"""The class "unsure": a student of head motion says when a clip is unlike what it knows, or when its classes are level.

    names = ["walk", "run", "unsure"]
    model = EgoDistill(3, class_names=names, image_encoder=None, imu_encoder="filterbank-unsure", clip_seconds=10)
    finetune(model, store)                                   # of ["walk", "run"]; its end fits the refusal
    model(imu).logits.softmax(1)                             # the last class is "unsure"

A network trained on one sensor calls a motion that it never saw by some name, with a high probability. Two tests stand
before its answer. *Unlike*: a Gaussian for each class of 22 numbers of a filterbank, with full covariance; what is far
from all of them is refused. *Level*: an answer whose probability is below `LEAST` is no answer. Both are one logit of
one more class, so streams, exported files and pages need nothing else. Neither has weights that a loss could change.

Chosen on head motion of real wearers, see results/glasses.md. What the first test misses: a sensor whose axes are
mirrored, and activities that move the head as a known one does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..support.defaults import UNSURE

__all__ = ["UNSURE", "Refusal", "with_unsure"]

BANDS, GROUPS = 48, 3  # the first numbers of a filterbank are log powers in bands; so many bands count as one
TIMES = "tilt, mean|tilt, largest|tilt, deviation|deviation of the vertical|net turn|net tilting turn".split("|")
RIDGE = 0.1  # share of the variances that is added to the diagonal
MIN_VARIANCE = 1e-6  # of a number, for clips that are all alike
SHARE = 0.02  # of the clips of wearers that were not learned from: refused as unlike
FOLDS = 5
LEAST = 0.51  # an answer is at least as probable
SLOPE, LARGEST = 0.1, 6.0  # logits for a unit of the statistic, and at most: a filterbank's numbers end there, too
FAR = 1e6  # a statistic that nothing has
SHARPNESS = 4.0  # how fast "unsure" loses to an answer that is more probable than `LEAST`


def with_unsure(known: Tensor, unlike: Tensor) -> Tensor:
    """Return the logits of all classes, "unsure" last, [B, C]; those of the others are their log probabilities.

    "Unsure" is the largest if the best of the known classes, [B, C - 1], is less probable than `LEAST`, or if the clip
    is unlike all of them: `Refusal`, [B, 1].
    """
    known = known.log_softmax(1)
    best = known.amax(1, keepdim=True)
    level = best + SHARPNESS * (math.log(LEAST) - best)
    return torch.cat([known, torch.maximum(level, unlike)], 1)


def known_names(names: Sequence[str]) -> list[str]:
    """Return names of classes without a last "unsure"."""
    return [*names[:-1]] if [*names[-1:]] == [UNSURE] else [*names]


class Refusal(nn.Module):
    """How unlike all known classes a clip is: numbers of a filterbank [B, m] -> [B, 1], a logit that is 0 at the limit.

    Before `fit()`, nothing is unlike. `names` are those of the filterbank, `known` is the number of classes.

    >>> import torch
    >>> from egodistill.engine.filterbank import IMUFilterbank
    >>> encoder = IMUFilterbank(known=2).eval()
    >>> numbers = encoder.numbers(torch.randn(40, 422, 6))
    >>> encoder.refusal.fit(numbers, torch.arange(40) % 2, torch.arange(40) // 8)
    >>> encoder.refusal(numbers).mean() < 0 < encoder.refusal(numbers + 5).min()
    tensor(True)
    """

    means: Tensor
    roots: Tensor
    volumes: Tensor
    limit: Tensor
    times: Tensor

    def __init__(self, names: Sequence[str], known: int) -> None:
        super().__init__()
        size = BANDS // GROUPS + len(TIMES)
        self.register_buffer("times", torch.tensor([names.index(name) for name in TIMES]), persistent=False)
        self.register_buffer("means", torch.zeros(known, size))
        self.register_buffer("roots", torch.zeros(known, size, size))  # of the inverse covariances
        self.register_buffer("volumes", torch.zeros(known))  # log determinants of the covariances
        self.register_buffer("limit", torch.tensor(FAR))

    def forward(self, numbers: Tensor) -> Tensor:
        return (SLOPE * (self.statistic(numbers) - self.limit)[:, None]).clamp(-LARGEST, LARGEST)

    def statistic(self, numbers: Tensor) -> Tensor:
        """Return the smallest squared Mahalanobis distance plus log determinant of all classes, [B, m] -> [B]."""
        away = self._chosen(numbers)[:, None, :, None] - self.means[:, :, None]  # [B, class, number, 1]
        return ((self.roots @ away).square().sum((2, 3)) + self.volumes).amin(1)

    @torch.no_grad()
    def fit(self, numbers: Tensor, labels: Tensor, groups: Tensor) -> None:
        """Learn the classes of clips, and the limit from groups (wearers or recordings) of clips that were left out.

        Numbers are [n, m], labels and groups [n]. A clip does not count for the limit if all clips of its class were
        left out with it. Raise ValueError if a class has fewer than two clips, or no class has clips in two groups.
        """
        chosen, names = self._chosen(numbers).double(), groups.unique()
        counts = labels.bincount(minlength=len(self.means))
        shared = any(len(groups[labels == k].unique()) > 1 for k in range(len(counts)))
        if len(counts) > len(self.means) or counts.min() < 2 or not shared:
            raise ValueError(
                f"{len(names)} groups and {counts.tolist()} clips of the classes are too few or do not fit "
                f"{len(self.means)} classes: refusal needs two clips of each class, and two groups with one class"
            )
        held = torch.full((len(labels),), math.nan, dtype=torch.float64)
        for fold in range(min(FOLDS, len(names))):
            left = torch.isin(groups, names[fold::FOLDS])
            self._learn(chosen[~left], labels[~left])
            left &= torch.isin(labels, labels[~left])
            held[left] = self.statistic(numbers[left]).double()
        self._learn(chosen, labels)
        self.limit.copy_(held.nanquantile(1 - SHARE))

    def _learn(self, chosen: Tensor, labels: Tensor) -> None:
        """Keep the Gaussians of numbers [n, 22]; a class of few clips has much of the mean covariance."""
        counts = labels.bincount(minlength=len(self.means)).double()
        means = torch.zeros_like(self.means, dtype=torch.float64).index_add_(0, labels, chosen)
        means /= counts[:, None].clamp_min(1)
        away = chosen - means[labels]
        scatters = torch.stack([away[labels == k].T @ away[labels == k] for k in range(len(counts))])
        mean, weight = scatters.sum(0) / len(labels), chosen.shape[1]
        covariances = (scatters + weight * mean) / (counts + weight)[:, None, None]
        covariances += RIDGE * torch.diag_embed(covariances.diagonal(dim1=1, dim2=2).clamp_min(MIN_VARIANCE))
        roots = torch.linalg.cholesky(covariances)
        self.means.copy_(means)
        self.volumes.copy_(2 * roots.diagonal(dim1=1, dim2=2).log().sum(1) + FAR * (counts == 0))
        self.roots.copy_(torch.linalg.inv(roots))

    def _chosen(self, numbers: Tensor) -> Tensor:
        """Return the 22 numbers that are compared, [n, m] -> [n, 22]."""
        bands = numbers[:, :BANDS].unflatten(1, (BANDS // GROUPS, GROUPS)).logsumexp(2)
        return torch.cat([bands, numbers[:, self.times]], 1)
