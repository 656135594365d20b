"""Statistics of paired experiments: 95 % intervals and tests over seeds and wearers, with numpy alone.

    import numpy as np
    from lab import intervals

    table = np.array([[3.0, 5.5, 2.0], [4.0, 4.5, 1.0]])   # [seeds, wearers]: points by which one method is better
    found = intervals.two_way(table)
    print(found)                                           # +3.3 (-1.1 to +7.8)
    intervals.one_way([1.5, 2.0, 0.5])                     # seeds only: the plain Student interval

A method trained again with another seed gives other errors, and so does another person in front of the camera. An
interval over seeds alone, or over clips alone, is too narrow. `two_way()` counts both: with d[s, w] the difference of
seed s on the clips of wearer w, the variance of the mean of the S x W table is

    V = (MS_seed + MS_wearer - MS_rest) / (S W),  at least max(MS_seed, MS_wearer) / (S W)

(MS_rest / (S W) if all seeds have one mean and all wearers have one, since such a table varies nevertheless)

where MS are the mean squares of the analysis of variance of two crossed random factors, and the interval is Student's t
with Satterthwaite's degrees of freedom (Satterthwaite, "An approximate distribution of estimates of variance
components", 1946). tests/lab/test_intervals.py simulates experiments and counts how often the interval contains
the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from egodistill.support.errors import EgoDistillError

__all__ = ["Interval", "Spread", "one_way", "spread", "t_cdf", "t_quantile", "two_way"]


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval, in the unit of the numbers that it was computed from.

    As text it has signs; a format such as `.1f` is applied to each number.

    >>> from lab import intervals
    >>> found = intervals.Interval(3.24, 1.1, 5.3, 6.2, 0.004, seeds=5, wearers=20)
    >>> print(found)
    +3.2 (+1.1 to +5.3)
    >>> print(f"{found:.0f}")
    3 (1 to 5)
    """

    mean: float  # the estimate
    low: float  # ends of the interval
    high: float
    degrees_of_freedom: float  # of Student's t
    p: float  # two-sided p-value of the hypothesis that the mean is zero
    seeds: int  # number of seeds in the table
    wearers: int  # number of wearers in the table

    def __str__(self) -> str:
        return format(self, "+.1f")

    def __format__(self, spec: str) -> str:
        if not spec:
            return str(self)
        return f"{self.mean:{spec}} ({self.low:{spec}} to {self.high:{spec}})"

    def within(self, low: float, high: float) -> Interval:
        """Return the interval with its ends clamped to a range, such as 0 to 100 for a share in %.

        Student's t has no limits, so the interval of a share may include numbers that no share can be. They are cut
        off, and nothing is computed anew: mean, degrees of freedom and p-value stay, and so does the other end.

        >>> from lab import intervals
        >>> share = intervals.one_way([62.0, 100.0, 95.0])
        >>> print(f"{share:.0f}, clamped: {share.within(0, 100):.0f}")
        86 (34 to 137), clamped: 86 (34 to 100)
        """
        return replace(self, low=max(float(low), self.low), high=min(float(high), self.high))


# ---------------------------------------------------------------------------------------------------------------
# Means and their intervals


class Spread(NamedTuple):
    """Statistics of tables [..., S, W] of S seeds and W wearers."""

    mean: np.ndarray  # means of the tables, [...]
    variance: np.ndarray  # variances of these means, [...]
    degrees_of_freedom: np.ndarray  # of Student's t, [...]


def spread(tables: ArrayLike) -> Spread:
    """Return mean, variance of the mean and degrees of freedom of each table [..., S, W], of S seeds and W wearers.

    With one seed, only the wearers vary: variance over the wearers / W with W - 1 degrees of freedom. With one wearer,
    only the seeds. With several of both: V of the module's docstring, with Satterthwaite's degrees of freedom for the
    three mean squares, but at least min(S, W) - 1, the smallest that a sum of two mean squares can have. This also
    applies where V is at its lower limit, and to a constant table, whose variance is 0. Raise EgoDistillError for a
    table of one number, from which no variance can be computed, an empty one, and numbers that are not finite.

    >>> from lab import intervals
    >>> intervals.spread([[[1.0, 2.0, 3.0]], [[5.0, 5.0, 5.0]]]).mean  # two tables of one seed and three wearers
    array([2., 5.])
    """
    tables = np.asarray(tables, np.float64)
    if tables.ndim < 2 or 0 in tables.shape:
        raise EgoDistillError(f"a table is [seeds, wearers] with at least one of each; got the shape {tables.shape}")
    if not np.isfinite(tables).all():
        raise EgoDistillError("a table contains numbers that are not finite")
    seeds, wearers = tables.shape[-2:]
    if seeds == wearers == 1:
        raise EgoDistillError("no interval can be computed from one seed and one wearer")
    center = tables.reshape(*tables.shape[:-2], -1)[..., :1, None]  # A constant table has exactly no variance.
    tables = tables - center
    mean = tables.mean((-2, -1))
    if 1 in (seeds, wearers):
        count = seeds * wearers
        variance = tables.var((-2, -1), ddof=1) / count
        return Spread(mean + center[..., 0, 0], variance, np.full(mean.shape, count - 1.0))
    by_seed, by_wearer = tables.mean(-1), tables.mean(-2)
    rest = tables - by_seed[..., :, None] - by_wearer[..., None, :] + mean[..., None, None]
    degrees = np.array([seeds - 1.0, wearers - 1.0, (seeds - 1.0) * (wearers - 1.0)])
    squares = np.stack(
        [
            wearers * ((by_seed - mean[..., None]) ** 2).sum(-1),
            seeds * ((by_wearer - mean[..., None]) ** 2).sum(-1),
            (rest**2).sum((-2, -1)),
        ],
        axis=-1,
    )
    squares = squares / degrees  # MS_seed, MS_wearer, MS_rest
    total = np.maximum(squares[..., 0] + squares[..., 1] - squares[..., 2], squares[..., :2].max(-1))
    # MS_seed and MS_wearer may be 0, to rounding, in a table that varies.
    total = np.where(total > 1e-12 * squares[..., 2], total, squares[..., 2])
    below = (squares**2 / degrees).sum(-1)
    found = np.divide(total**2, below, out=np.zeros_like(total), where=below > 0)
    return Spread(mean + center[..., 0, 0], total / (seeds * wearers), np.maximum(found, min(seeds, wearers) - 1.0))


def two_way(table: ArrayLike) -> Interval:
    """Return the mean of a table [S, W] of S seeds and W wearers with its 95 % interval; see `spread()`.

    A table that is exactly constant has an interval without width, and the p-value 0, or 1 if it is zero: it shows no
    variation from which to judge.

    >>> from lab import intervals
    >>> print(intervals.two_way([[3.0, 5.5, 2.0], [4.0, 4.5, 1.0]]))
    +3.3 (-1.1 to +7.8)
    >>> print(intervals.two_way([[2.0, 2.0], [2.0, 2.0]]))
    +2.0 (+2.0 to +2.0)
    """
    table = np.asarray(table, np.float64)
    if table.ndim != 2:
        raise EgoDistillError(f"a table is [seeds, wearers]; got the shape {table.shape}")
    mean, variance, degrees = map(float, spread(table))
    error = math.sqrt(variance)
    half = float(t_quantile(0.975, degrees)) * error
    p = 2 * float(t_cdf(-abs(mean) / error, degrees)) if error else float(mean == 0)
    return Interval(mean, mean - half, mean + half, degrees, p, *table.shape)


def one_way(values: Sequence[float]) -> Interval:
    """Return the mean of one number per seed with the plain Student interval of 95 %.

    The interval is for other seeds on the same clips. Raise EgoDistillError for fewer than two.

    >>> from lab import intervals
    >>> print(f"{intervals.one_way([1.5, 2.0, 0.5]):+.2f}")
    +1.33 (-0.56 to +3.23)
    """
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1 or len(numbers) < 2:
        raise EgoDistillError(f"an interval over seeds needs at least two numbers; got the shape {numbers.shape}")
    return two_way(numbers[:, None])


# ---------------------------------------------------------------------------------------------------------------
# Student's t


def t_cdf(t: ArrayLike, degrees: ArrayLike) -> np.ndarray:
    """Return the probability that Student's t is at most `t`, as an array of the shape of both arguments together.

    The lower tail keeps its relative precision. inf degrees are the normal distribution, which also replaces t above
    1e8 degrees. Raise EgoDistillError for degrees that are not positive.

    >>> from lab import intervals
    >>> print(intervals.t_cdf([0.0, 12.706], 1).round(4))
    [0.5   0.975]
    """
    t, degrees = np.broadcast_arrays(np.asarray(t, np.float64), np.asarray(degrees, np.float64))
    require_degrees(degrees)
    below = lower_tail(np.abs(t).ravel(), degrees.ravel()).reshape(t.shape)
    return np.where(t > 0, 1 - below, below)


def t_quantile(q: ArrayLike, degrees: ArrayLike) -> np.ndarray:
    """Return the t for which `t_cdf()` is `q`, by bisection; those of 0 and 1 are -inf and inf.

    Raise EgoDistillError for a probability outside 0 to 1, and degrees that are not positive.

    >>> from lab import intervals
    >>> print(intervals.t_quantile(0.975, [1, 4, 6.5, float("inf")]).round(3))
    [12.706  2.776  2.402  1.96 ]
    """
    q, degrees = np.broadcast_arrays(np.asarray(q, np.float64), np.asarray(degrees, np.float64))
    require_degrees(degrees)
    if not ((q >= 0) & (q <= 1)).all():
        raise EgoDistillError(f"a probability is from 0 to 1; got {q}")
    tail, flat = np.minimum(q, 1 - q).ravel(), degrees.ravel()
    high = np.ones_like(tail)
    while (more := (lower_tail(high, flat) > tail) & np.isfinite(high)).any():
        high[more] *= 2
    low = np.zeros_like(tail)
    inside = np.isfinite(high) & (tail > 0)
    low[~inside] = high[~inside] = np.inf
    for _ in range(60):
        middle = np.where(inside, (low + high) / 2, np.inf)
        above = lower_tail(middle, flat) > tail
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(q < 0.5, -high.reshape(q.shape), np.where(q == 0.5, 0.0, high.reshape(q.shape)))


def require_degrees(degrees: np.ndarray) -> None:
    if not (degrees > 0).all():
        raise EgoDistillError(f"degrees of freedom must be positive; got {degrees}")


def lower_tail(t: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Return the probability that Student's t is below -t, for t >= 0 [n] and degrees [n]."""
    result = np.array([math.erfc(one / math.sqrt(2)) / 2 for one in t])
    exact = (degrees <= 1e8) & np.isfinite(t)
    t, degrees = t[exact], degrees[exact]
    root = np.hypot(t, np.sqrt(degrees))
    near, far = (t / root) ** 2, degrees / root**2  # y and 1 - y, without cancellation
    a, b = degrees / 2, np.full_like(degrees, 0.5)
    swap = far > (a + 1) / (a + b + 2)  # Where the continued fraction converges fast.
    first, second, x = np.where(swap, b, a), np.where(swap, a, b), np.where(swap, near, far)
    with np.errstate(divide="ignore"):
        log = a * np.log(far) + b * np.log(near) + log_beta_inverse(a)
    part = np.exp(log) / first * beta_fraction(first, second, x)
    result[exact] = np.where(swap, 1 - part, part) / 2
    return result


def log_beta_inverse(a: np.ndarray) -> np.ndarray:
    """Return -log B(a, 1/2) = log Gamma(a + 1/2) - log Gamma(a) - log(pi) / 2."""
    large = np.maximum(a, 50.0)  # From here on a series is exact, and the difference of two logarithms is not.
    series = np.log(large) / 2 - 1 / (8 * large) + 1 / (192 * large**3) - 1 / (640 * large**5)
    plain = np.array([math.lgamma(one + 0.5) - math.lgamma(one) for one in np.minimum(a, 50.0)])
    return np.where(a > 50.0, series, plain) - math.log(math.pi) / 2


def beta_fraction(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the continued fraction of the incomplete beta function I_x(a, b), by Lentz's method.

    DLMF 8.17.22: I_x(a, b) = x^a (1 - x)^b / (a B(a, b)) times this fraction.
    """
    c = np.ones_like(x)
    d = 1 / (1 - (a + b) * x / (a + 1))
    result = d.copy()
    for m in range(1, 20_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for numerator in (even, odd):
            d, c = 1 / (1 + numerator * d), 1 + numerator / c
            result = result * d * c
        if (np.abs(d * c - 1) < 1e-15).all():
            break
    return result
