"""A search's one number orders trials as a sweep orders its arms."""

import itertools

import numpy as np
import pytest

from pilotfish.runs import search

COSTS = (-np.inf, -1e9, -3.0, -1e-6, 0.0, 1e-6, 2e-6, 0.5, 1e3, 1e3 + 1e-2, 1e9, np.inf)


def test_success_counts_first_and_cost_only_among_equals():
    rates = [np.array(rate) for rate in ([0.0, 0.0], [0.0, 1e-3], [0.5, 0.5], [1.0, 0.999], [1.0, 1.0])]
    ranked = sorted(itertools.product(rates, COSTS), key=lambda one: (-one[0].mean(), one[1]))
    worth = [search._worth(*one) for one in ranked]
    assert (np.diff(worth) > 0).all()
    assert np.isfinite(worth).all()


@pytest.mark.parametrize("cost", COSTS)
def test_where_there_is_no_success_it_is_the_cost(cost):
    assert search._worth(None, cost) == cost
