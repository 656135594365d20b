"""Student's interval: its quantiles, and how often it contains the mean."""

import math

import numpy as np
import pytest

from egodistill.support import intervals

# Two-sided 95 %, from tables: degrees of freedom 1 to 30, and 1000.
QUANTILES = """
    12.706205 4.302653 3.182446 2.776445 2.570582 2.446912 2.364624 2.306004 2.262157 2.228139
    2.200985 2.178813 2.160369 2.144787 2.131450 2.119905 2.109816 2.100922 2.093024 2.085963
    2.079614 2.073873 2.068658 2.063899 2.059539 2.055529 2.051831 2.048407 2.045230 2.042272
"""


def test_quantiles_are_those_of_the_tables():
    for degrees, wanted in enumerate(map(float, QUANTILES.split()), 1):
        assert intervals.quantile(degrees) == pytest.approx(wanted, abs=6e-7), degrees
    assert intervals.quantile(1000) == pytest.approx(1.962339, abs=6e-7)


@pytest.mark.parametrize(("share", "wanted"), [(0.5, 0.740697), (0.9, 2.131847), (0.99, 4.604095)])
def test_quantiles_of_other_shares(share, wanted):
    """Of four degrees of freedom."""
    assert intervals.quantile(4, share) == pytest.approx(wanted, abs=6e-7)


@pytest.mark.parametrize("degrees", [1, 2, 3, 6, 29])
def test_the_density_between_the_quantiles_has_its_share(degrees):
    """By the formula of the density, integrated."""
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    at = np.linspace(-1, 1, 200_001) * intervals.quantile(degrees)
    density = scale * (1 + at**2 / degrees) ** (-(degrees + 1) / 2)
    share = ((density[1:] + density[:-1]) / 2 * np.diff(at)).sum()
    assert share == pytest.approx(0.95, abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_the_interval_contains_the_mean_in_95_of_100_cases(count):
    numbers = np.random.default_rng(count).normal(70.0, 8.0, (4000, count))
    found = np.array([intervals.of_mean(some) for some in numbers])
    inside = ((found[:, 0] <= 70) & (70 <= found[:, 1])).mean()
    assert abs(inside - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_an_interval_moves_and_grows_with_its_numbers():
    numbers = [61.0, 74.5, 70.2, 90.1]
    low, high = intervals.of_mean(numbers)
    assert type(low) is float and (low + high) / 2 == pytest.approx(np.mean(numbers))
    assert intervals.of_mean(np.array(numbers) * 2 - 5) == pytest.approx((2 * low - 5, 2 * high - 5))
    assert intervals.of_mean([3, 3, 3]) == (3.0, 3.0)
