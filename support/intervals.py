"""Student's interval of a mean, with numpy alone.

from egodistill.support import intervals

low, high = intervals.of_mean([62.0, 100.0, 95.0])
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["of_mean", "quantile"]


def of_mean(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the ends of the 95 % interval of the mean of two numbers or more, by Student's t."""
    numbers = np.asarray(values, np.float64)
    half = quantile(len(numbers) - 1) * numbers.std(ddof=1) / math.sqrt(len(numbers))
    return float(numbers.mean() - half), float(numbers.mean() + half)


def quantile(degrees: int, share: float = 0.95) -> float:
    """Return the t that Student's t with n >= 1 degrees of freedom exceeds in size with probability 1 - `share`.

    With a = atan(t / sqrt(n)), P(|T| <= t) is a finite sum (Abramowitz and Stegun, 26.7.3 and 26.7.4), which grows with
    a; halving an interval finds where it is `share`.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        term, total = (math.cos(angle) if degrees % 2 else 1.0), 0.0
        for k in range(1 + degrees % 2, degrees, 2):
            total, term = total + term, term * math.cos(angle) ** 2 * k / (k + 1)
        found = math.sin(angle) * total
        found = 2 / math.pi * (angle + found) if degrees % 2 else found
        low, high = (angle, high) if found < share else (low, angle)
    return math.sqrt(degrees) * math.tan(low)
