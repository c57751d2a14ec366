"""Intervals: how sure a few seeds, or the episodes of one, can make us.

**Means** have Student's t interval, which covers 95% for any number of normally distributed values; the percentile
bootstrap covers 75% for 3 and 85% for 5. Costs that are all positive spread by factors rather than by differences, so
theirs is that of their logarithm, about the geometric mean.

**Rates** of success have two levels: seeds, each with a rate of its own, and episodes, which share that of their seed.
Wilson's interval respects both if its number of trials is how many independent episodes would vary as much as the seeds
do, `p (1 - p) / (variance of the mean rate)`, with Student's quantile, since that variance is known from few seeds. A
seed counts as one such episode at least and as two at most: that seeds agree is weak evidence that others would, since
a rare bad one need not be among them. tests/runs/test_statistics.py measures how often all of them cover.
"""

from typing import Literal, NamedTuple

import numpy as np
from scipy.special import stdtrit

Scale = Literal["linear", "log", "percent"]
"""How values spread: by differences, by factors, or as parts of 1. Their mean, its interval and their axis follow."""
Z95 = 1.959963984540054
"""Two-sided 95% quantile of the standard normal."""
MOST_A_SEED = 2
"""Independent episodes that a seed counts as, at most."""


class Interval(NamedTuple):
    """A middle and its 95% interval."""

    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean_interval(values: np.ndarray) -> Interval:
    """The mean over the leading axis (n, ...) with Student's t interval; the interval of one value is nan."""
    values = np.asarray(values, float)
    n, middle = len(values), values.mean(0)
    half = _quantile(n) * values.std(0, ddof=1) / np.sqrt(n) if n > 1 else np.full(middle.shape, np.nan)
    return Interval(middle, middle - half, middle + half)


def cost_interval(values: np.ndarray) -> tuple[Interval, bool]:
    """The same of logarithms, if all values are positive, and whether it is that: then about the geometric mean."""
    if not (np.asarray(values) > 0).all():
        return mean_interval(values), False
    return Interval(*map(np.exp, mean_interval(np.log(values)))), True


def rate_interval(rates: np.ndarray, episodes: int) -> Interval:
    """The mean success rate of seeds (S,), each measured in so many episodes, with an interval over both."""
    seeds, rate = len(rates), float(np.mean(rates))
    if seeds == 1:
        return Interval(*map(np.asarray, (rate, *wilson_interval(rate, episodes, Z95))))
    variance = np.var(rates, ddof=1) / seeds
    trials = np.clip(rate * (1 - rate) / variance if variance > 0 else np.inf, seeds, MOST_A_SEED * seeds)
    return Interval(*map(np.asarray, (rate, *wilson_interval(rate, float(trials), _quantile(seeds)))))


def wilson_interval(rate: float | np.floating, trials: int | float, quantile: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a success rate in so many independent trials; 95% if nothing else is said."""
    z2 = quantile**2
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = quantile / (1 + z2 / trials) * np.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2))
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))


def _quantile(n: int) -> float:
    """Student's two-sided 95% quantile for n values."""
    return float(stdtrit(n - 1, 0.975))
