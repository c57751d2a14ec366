"""What an imitator costs at most, in systems of a few states, where all is known exactly."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pilotfish.types  # noqa: F401  computes in float64
from pilotfish.models import imitation

T, S, A = 5, 4, 3


def system(seed, near):
    """First states, transitions (T, S, A, S), costs (T, S, A) and of the end (S,), and two policies (T, S, A)."""
    rng = np.random.default_rng(seed)
    first, move = rng.dirichlet(np.ones(S)), rng.dirichlet(np.ones(S), (T, S, A))
    p = rng.dirichlet(np.ones(A), (T, S))
    q = (1.0 - near) * p + near * rng.dirichlet(np.ones(A), (T, S))
    return first, move, rng.normal(size=(T, S, A)), rng.normal(size=S), p, q


def played(first, move, cost, final, policy):
    """The states' probabilities (T + 1, S), and the expected cost of an episode, by summing over everything."""
    states, total = [first], 0.0
    for t in range(T):
        both = states[-1][:, None] * policy[t]
        total += (both * cost[t]).sum()
        states.append(np.einsum("sa,sak->k", both, move[t]))
    return np.array(states), total + states[-1] @ final


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1.0))
def test_no_imitator_is_farther_away_or_costs_more(seed, near):
    first, move, cost, final, p, q = system(seed, near)
    (mine, spent), (its, its_cost) = (played(first, move, cost, final, policy) for policy in (p, q))
    span = np.append(np.ptp(cost, (1, 2)), np.ptp(final))
    for one, other in ((p, q), (q, p)):  # either KL
        eps = (one * np.log(one / other)).sum(-1).max(-1)
        apart = np.asarray(imitation.variation(jnp.asarray(eps)))
        assert (0.5 * np.abs(mine - its).sum(-1) <= apart + 1e-12).all()
        assert its_cost <= spent + float(imitation.most(jnp.asarray(eps), jnp.asarray(span))) + 1e-12


def test_the_formulas_are_the_paper_s():
    eps, span = np.array([0.02, 0.5, 0.08]), np.array([1.0, 3.0, 2.0, 4.0])
    root = np.sqrt(2 * eps)
    wanted = sum(root[t] * span[t] + 2 * root[t] * span[t:].sum() for t in range(3))
    np.testing.assert_allclose(imitation.most(jnp.asarray(eps), jnp.asarray(span)), wanted)
    np.testing.assert_allclose(imitation.variation(jnp.asarray(eps)), [0, 0.4, 1, 1])
    np.testing.assert_allclose(imitation.variation(jnp.asarray(eps / 1e4)), [0, 0.004, 0.024, 0.032])


def test_spans_are_over_what_is_counted():
    cost = jnp.asarray([[1.0, 5.0, np.nan], [4.0, np.inf, 7.0]])
    counted = jnp.asarray([[True, True, False], [True, False, False]])
    np.testing.assert_array_equal(imitation.spans(cost, counted), [3.0, 0.0, 0.0])


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_where_costs_have_their_zero_does_not_matter(shift):
    rng = np.random.default_rng(0)
    cost, all_ = jnp.asarray(rng.normal(size=(2, 6, T + 1))), jnp.ones((2, 6, T + 1), bool)
    bound = imitation.most(jnp.ones((2, T)), imitation.spans(cost + shift, all_))
    np.testing.assert_allclose(bound, imitation.most(jnp.ones((2, T)), imitation.spans(cost, all_)), rtol=1e-9)
