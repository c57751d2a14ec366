"""Intervals against SciPy and their own definition."""

import numpy as np
import pytest
import scipy.stats

from pilotfish.runs.statistics import bootstrap_interval, wilson_interval


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (50, 50), (96, 100)])
def test_wilson_interval_is_scipys(k, n):
    expected = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    assert wilson_interval(float(k), n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    samples = rng.normal(3.0, 2.0, size=(40, 400))
    low, high = bootstrap_interval(samples)
    assert 0.88 < ((low < 3.0) & (high > 3.0)).mean() < 0.98


def test_bootstrap_interval_of_one_value_is_that_value():
    low, high = bootstrap_interval(np.array([[1.0, 2.0]]))
    np.testing.assert_array_equal([low, high], [[1.0, 2.0], [1.0, 2.0]])
