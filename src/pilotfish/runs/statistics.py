"""Intervals: how sure a few seeds or rollouts can make us."""

import numpy as np

Z95 = 1.959963984540054
"""Two-sided 95% quantile of the standard normal."""


def bootstrap_interval(values: np.ndarray, axis: int = 0, resamples: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """95% percentile bootstrap interval of the mean over `axis`; the same for the same values."""
    values = np.moveaxis(np.asarray(values, float), axis, 0)
    n = values.shape[0]
    draws = np.random.default_rng(0).integers(n, size=(resamples, n))
    low, high = np.percentile(values[draws].mean(1), [2.5, 97.5], axis=0)
    return np.asarray(low), np.asarray(high)


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """95% Wilson score interval of a success rate."""
    rate, z2 = successes / trials, Z95**2
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * np.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2))
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))
