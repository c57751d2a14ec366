"""Intervals against SciPy, and how often they cover what they are of."""

import numpy as np
import pytest
import scipy.stats

from pilotfish.runs.statistics import cost_interval, mean_interval, rate_interval, wilson_interval

STUDIES = 2000


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (50, 50), (96, 100)])
def test_wilson_interval_is_scipys(k, n):
    expected = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    assert wilson_interval(k / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_mean_interval_is_scipys():
    values = np.random.default_rng(0).normal(size=(6, 3))
    found = mean_interval(values)
    np.testing.assert_allclose(found.middle, values.mean(0))
    for j in range(3):
        expected = scipy.stats.ttest_1samp(values[:, j], 0.0).confidence_interval()
        np.testing.assert_allclose([found.low[j], found.high[j]], expected)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 15])
def test_intervals_of_means_cover(seeds):
    rng = np.random.default_rng(seeds)
    found = mean_interval(rng.normal(3.0, 2.0, (seeds, STUDIES)))
    assert 0.935 < ((found.low < 3.0) & (found.high > 3.0)).mean() < 0.965


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_of_costs_cover_where_costs_spread_by_factors(seeds):
    rng = np.random.default_rng(seeds)
    found, geometric = cost_interval(np.exp(rng.normal(1.0, 1.5, (seeds, STUDIES))))
    assert geometric
    assert 0.935 < ((found.low < np.e) & (found.high > np.e)).mean() < 0.965


def test_costs_that_are_not_positive_have_the_interval_of_their_mean():
    values = np.array([1.0, -2.0, 4.0])
    found, geometric = cost_interval(values)
    assert not geometric
    np.testing.assert_array_equal(found, mean_interval(values))


@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 15])
def test_intervals_of_rates_cover_whether_seeds_agree_or_not(seeds):
    """From seeds that are all alike to seeds that succeed always or never: 95% on average, and hardly less where
    one seed in a hundred is bad and none of them may have been seen."""
    rng, covered = np.random.default_rng(seeds), []
    for rate in (0.3, 0.5, 0.8, 0.9, 0.97, 0.99):
        for alike in (0.001, 0.1, 0.5, 0.95):
            b = 1 / alike - 1
            rates = rng.binomial(100, rng.beta(rate * b, (1 - rate) * b, (400, seeds))) / 100
            inside = [found.low <= rate <= found.high for found in (rate_interval(row, 100) for row in rates)]
            covered.append(np.mean(inside))
    assert min(covered) > 0.85
    assert np.mean(covered) > 0.95


def test_a_few_perfect_seeds_promise_little_and_one_seed_speaks_for_its_episodes_alone():
    low = [float(rate_interval(np.ones(seeds), 100).low) for seeds in (2, 3, 5, 10, 20)]
    assert low[1] < 0.5 < low[3]
    assert np.all(np.diff(low) > 0)
    np.testing.assert_allclose(rate_interval(np.array([0.9]), 100), (0.9, *wilson_interval(0.9, 100)))


def test_one_value_has_no_interval():
    found = mean_interval(np.array([[1.0, 2.0]]))
    np.testing.assert_array_equal(found.middle, [1.0, 2.0])
    assert np.isnan([found.low, found.high]).all()
