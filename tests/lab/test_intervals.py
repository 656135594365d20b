"""Statistics: Student's t against published tables and identities, and how often the intervals contain the truth."""

import dataclasses
import math

import numpy as np
import pytest

from egodistill import EgoDistillError
from lab import intervals

# --- Student's t

# Degrees of freedom: t at 0.95, 0.975, 0.995, 0.9995; NIST/SEMATECH e-Handbook, 1.3.6.7.2, and Fisher's table
TABLE = {
    1: (6.314, 12.706, 63.657, 636.619),
    2: (2.920, 4.303, 9.925, 31.599),
    3: (2.353, 3.182, 5.841, 12.924),
    5: (2.015, 2.571, 4.032, 6.869),
    10: (1.812, 2.228, 3.169, 4.587),
    30: (1.697, 2.042, 2.750, 3.646),
    120: (1.658, 1.980, 2.617, 3.373),
    math.inf: (1.645, 1.960, 2.576, 3.291),
}


@pytest.mark.parametrize("degrees", TABLE)
def test_quantiles_are_those_of_published_tables(degrees):
    found = intervals.t_quantile([0.95, 0.975, 0.995, 0.9995], degrees)
    assert found == pytest.approx(TABLE[degrees], abs=6e-4)
    assert intervals.t_cdf(TABLE[degrees], degrees) == pytest.approx([0.95, 0.975, 0.995, 0.9995], abs=1e-4)


def test_distribution_has_its_closed_forms():
    t = np.array([-1e6, -30.0, -2.0, -0.3, 0.0, 1e-9, 0.7, 4.0, 1e4])
    assert intervals.t_cdf(t, 1) == pytest.approx(0.5 + np.arctan(t) / np.pi, abs=1e-13)
    assert intervals.t_cdf(t, 2) == pytest.approx(0.5 + t / (2 * np.sqrt(2 + t**2)), abs=1e-13)
    x = t / np.sqrt(4 + t**2)
    assert intervals.t_cdf(t, 4) == pytest.approx(0.5 + 0.75 * (x - x**3 / 3), abs=1e-13)
    assert intervals.t_cdf(-1e6, 1) == pytest.approx(1e-6 / np.pi, rel=1e-9)  # a tail keeps its digits
    assert intervals.t_cdf(-30.0, 1e9) == pytest.approx(math.erfc(30 / math.sqrt(2)) / 2, rel=1e-9)
    for degrees in (300.0, 1e4, 1e6):  # Cornish and Fisher's expansion about the normal distribution
        z = 1.959963984540054
        expected = z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        expected += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
        assert intervals.t_quantile(0.975, degrees) == pytest.approx(expected, rel=3e-9)


@pytest.mark.parametrize("degrees", [0.5, 1.7, 3.3, 17.25, 99.5, 100.5, 250.1])
def test_distribution_is_the_integral_of_the_density(degrees):
    t = np.linspace(-3, 3, 6001)
    log = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(degrees * math.pi) / 2
    density = np.exp(log - (degrees + 1) / 2 * np.log1p(t**2 / degrees))
    steps = (density[:-1:2] + 4 * density[1::2] + density[2::2]) * (t[2] - t[0]) / 6  # Simpson
    found = intervals.t_cdf(t[::2], degrees)
    assert found[1:] - found[0] == pytest.approx(np.cumsum(steps), abs=1e-10)


def test_quantile_inverts_the_distribution():
    q = np.array([1e-12, 1e-3, 0.025, 0.4, 0.5, 0.6, 0.975, 0.9999])
    for degrees in (0.7, 1.0, 2.5, 11.3, 400.0):
        t = intervals.t_quantile(q, degrees)
        assert intervals.t_cdf(t, degrees) == pytest.approx(q, rel=1e-12)
        assert (np.diff(t) > 0).all() and t[2] == pytest.approx(-t[6])
    assert intervals.t_quantile([0.0, 0.5, 1.0], 3).tolist() == [-math.inf, 0.0, math.inf]
    assert intervals.t_cdf([-math.inf, math.inf], 3).tolist() == [0.0, 1.0]
    assert intervals.t_quantile(0.9, [[1.0], [2.0]]).shape == (2, 1)
    for call in (
        lambda: intervals.t_cdf(0.0, 0),
        lambda: intervals.t_quantile(0.5, math.nan),
        lambda: intervals.t_quantile(1.1, 2),
    ):
        with pytest.raises(EgoDistillError, match=r"degrees of freedom must be positive|a probability is from 0 to 1"):
            call()


# --- Intervals


def tables(seeds: int, wearers: int, seed_sd: float, wearer_sd: float, count: int = 2000) -> np.ndarray:
    """Differences in points of 200 clips per wearer, of which 18 % are discordant; the true difference is zero."""
    random = np.random.default_rng(0)
    effects = random.normal(0, seed_sd, (count, seeds, 1)) + random.normal(0, wearer_sd, (count, 1, wearers))
    discordant = random.binomial(200, 0.18, (count, seeds, wearers))
    return effects + 100 * (2 * random.binomial(discordant, 0.5) - discordant) / 200


def coverage(mean: np.ndarray, variance: np.ndarray, degrees) -> float:
    return float((np.abs(mean) <= intervals.t_quantile(0.975, degrees) * np.sqrt(variance)).mean())


SIZES = [(3, 20), (5, 10), (5, 20)]
DEVIATIONS = [(1.0, 1.0), (1.0, 2.0), (2.5, 1.0), (2.5, 2.0)]
ERROR = 3 * (0.05 * 0.95 / 2000) ** 0.5  # of the simulation, three standard errors


@pytest.mark.parametrize(("seeds", "wearers"), SIZES)
@pytest.mark.parametrize(("seed_sd", "wearer_sd"), DEVIATIONS)
def test_interval_contains_the_truth_in_95_percent(seeds, wearers, seed_sd, wearer_sd):
    found = coverage(*intervals.spread(tables(seeds, wearers, seed_sd, wearer_sd)))
    assert 0.93 - ERROR <= found <= 0.97 + ERROR


def test_interval_over_one_of_both_would_not():
    """So the simulation can tell a right interval from a wrong one."""
    drawn = tables(5, 10, 1.0, 2.0)
    by_seed, by_wearer = drawn.mean(2), tables(3, 20, 2.5, 1.0).mean(1)
    assert coverage(by_seed.mean(1), by_seed.var(1, ddof=1) / 5, 4) < 0.93 - ERROR
    assert coverage(by_wearer.mean(1), by_wearer.var(1, ddof=1) / 20, 19) < 0.8
    assert coverage(drawn.mean((1, 2)), drawn.var((1, 2), ddof=1) / 50, 49) < 0.93 - ERROR  # as if all were independent


def test_two_way_follows_the_formula():
    table = np.array([[3.0, 5.5, 2.0], [4.0, 4.5, 1.0], [7.0, 6.0, 3.5], [1.0, 2.5, 0.0]])
    mean, seeds, wearers = table.mean(), table.mean(1), table.mean(0)
    ms_seed = 3 * sum((x - mean) ** 2 for x in seeds) / 3
    ms_wearer = 4 * sum((x - mean) ** 2 for x in wearers) / 2
    rest = [(table[s, w] - seeds[s] - wearers[w] + mean) ** 2 for s in range(4) for w in range(3)]
    ms_rest = sum(rest) / 6
    variance = (ms_seed + ms_wearer - ms_rest) / 12
    degrees = (ms_seed + ms_wearer - ms_rest) ** 2 / (ms_seed**2 / 3 + ms_wearer**2 / 2 + ms_rest**2 / 6)
    found = intervals.two_way(table)
    half = float(intervals.t_quantile(0.975, degrees)) * variance**0.5
    assert degrees > 2  # not at its limit
    assert (found.mean, found.low, found.high) == pytest.approx((mean, mean - half, mean + half))
    assert found.degrees_of_freedom == pytest.approx(degrees) and (found.seeds, found.wearers) == (4, 3)
    assert found.p == pytest.approx(2 * float(intervals.t_cdf(-mean / variance**0.5, degrees)))


def test_variance_is_never_below_that_of_one_factor():
    table = np.array([[1.0, -1.0], [-0.9, 1.1]])  # the rest is larger than both factors
    found = intervals.spread(table)
    assert found.variance == pytest.approx(2 * 0.05**2 * 2 / 4) and found.degrees_of_freedom == 1


def test_p_value_and_interval_agree():
    for shift in np.linspace(-2, 2, 41):
        found = intervals.two_way(np.array([[0.5, 1.0, -1.0], [0.0, 1.5, -0.5]]) + shift)
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0) and 0 <= found.p <= 1


@pytest.mark.parametrize("value", [0.0, 0.1, -2.0, 1e-300])
@pytest.mark.parametrize("shape", [(3, 20), (1, 5), (4, 1), (2, 2)])
def test_constant_difference_has_no_width(value, shape):
    found = intervals.two_way(np.full(shape, value))
    assert (found.mean, found.low, found.high) == (value, value, value)
    assert found.p == (value == 0) and found.degrees_of_freedom == (min(shape) if 1 not in shape else max(shape)) - 1


def test_a_table_that_varies_has_a_width_although_its_rows_and_columns_have_one_mean():
    found = intervals.two_way([[4.0, 0.0], [0.0, 4.0]])
    assert found.degrees_of_freedom == 1 and found.mean == 2
    half = 12.706204736 * np.sqrt(16 / 4)  # MS_rest is 16
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half)) and found.p == pytest.approx(0.5, abs=1e-6)
    thirds = intervals.two_way(np.array([[4.0, 0.0, 2.0], [2.0, 4.0, 0.0], [0.0, 2.0, 4.0]]) / 3)
    assert thirds.high - thirds.low > 1


def test_one_seed_or_one_wearer_is_the_plain_interval():
    values = [1.5, 2.0, 0.5, 3.0]
    half = 3.182446305284263 * np.std(values, ddof=1) / 2
    for table, seeds, wearers in (([values], 1, 4), ([[x] for x in values], 4, 1)):
        found = intervals.two_way(table)
        assert (found.low, found.high) == pytest.approx((1.75 - half, 1.75 + half), rel=1e-5)
        assert (found.seeds, found.wearers, found.degrees_of_freedom) == (seeds, wearers, 3)
    assert intervals.one_way(values) == intervals.two_way([[x] for x in values])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: intervals.two_way([[1.0]]), "one seed and one wearer"),
        (lambda: intervals.two_way([1.0, 2.0]), r"\[seeds, wearers\]; got the shape \(2,\)"),
        (lambda: intervals.two_way(np.zeros((0, 3))), "at least one of each"),
        (lambda: intervals.two_way([[1.0, math.nan]]), "not finite"),
        (lambda: intervals.one_way([1.0]), "at least two numbers"),
    ],
)
def test_what_cannot_be_computed_is_an_error(call, text):
    with pytest.raises(EgoDistillError, match=text):
        call()


def test_text_of_an_interval():
    found = intervals.Interval(-0.04, -1.25, 12.0, 3.0, 0.5, 3, 20)
    assert str(found) == f"{found}" == "-0.0 (-1.2 to +12.0)" and f"{found:.2f}" == "-0.04 (-1.25 to 12.00)"


def test_the_ends_of_an_interval_are_clamped_to_a_range_and_nothing_else():
    wide = intervals.one_way([62.0, 100.0, 95.0])
    assert wide.low < 86 < 100 < wide.high
    share = wide.within(0, 100)
    assert (share.low, share.high) == (wide.low, 100)
    assert dataclasses.replace(share, high=wide.high) == wide
    assert f"{intervals.one_way([0.0, 100.0]).within(0, 100):.0f}" == "50 (0 to 100)"
