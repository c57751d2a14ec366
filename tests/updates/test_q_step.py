"""The step on Q alone, and the one that also minds where it leads: against NumPy's own chain and Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pilotfish.types import LinearDynamics, LinearGaussian, Quadratic
from pilotfish.updates.q_step import q_step, shortened

T, DX, DU, KL = 6, 2, 1, 0.2


def case(seed, A, B):
    """A place, Q-functions that pull, bounds, and dynamics in white coordinates."""
    rng = np.random.default_rng(seed)
    q = LinearGaussian(jnp.zeros((T, DU, DX)), jnp.zeros((T, DU)), jnp.broadcast_to(jnp.eye(DU), (T, DU, DU)))
    H = rng.normal(size=(T, DX + DU, DX + DU))
    Q = Quadratic(jnp.asarray(H + np.swapaxes(H, 1, 2)), jnp.asarray(rng.normal(size=(T, DX + DU))), jnp.zeros(T))
    place = q, jnp.zeros((T, DX)), jnp.broadcast_to(jnp.eye(DX), (T, DX, DX)), Q
    tiled = (jnp.broadcast_to(jnp.asarray(a), (T, *np.shape(a))) for a in (A, B, np.zeros(DX), 0.1 * np.eye(DX)))
    return place, (jnp.full(T, KL), jnp.full(T, jnp.inf)), LinearDynamics(*tiled)


def ahead_of(place, bounds, ahead, most):
    return shortened(lambda part: q_step(*place, *(part * bound for bound in bounds)), ahead, most)


def measured(step, ahead, rng, n=200_000):
    """Mean KL of the steps under their own states, by simulation."""
    G, g, P = (np.asarray(a) for a in step)
    s, total = rng.normal(size=(n, DX)), 0.0
    for t in range(T):
        mean = s @ G[t].T + g[t]
        cov = P[t] @ P[t].T
        total += 0.5 * ((mean**2).sum(-1).mean() + np.trace(cov) - DU - np.log(np.linalg.det(cov)))
        e = mean + rng.normal(size=(n, DU)) @ P[t].T
        A, B, c, F = (np.asarray(a[t]) for a in (ahead.A, ahead.B, ahead.c, ahead.cov))
        s = s @ A.T + e @ B.T + c + rng.multivariate_normal(np.zeros(DX), F, n)
    return total / T


UNSTABLE = case(0, 1.6 * np.eye(DX), np.ones((DX, DU)))


def test_where_it_leads_far_away_the_step_is_shorter_and_within_its_bound_there():
    place, bounds, ahead = UNSTABLE
    whole = q_step(*place, *bounds)[1]
    assert measured(whole, ahead, np.random.default_rng(0)) > 5 * KL
    step, kl = ahead_of(place, bounds, ahead, KL)
    assert 0.9 * KL <= kl <= KL
    assert measured(step.white, ahead, np.random.default_rng(1)) == pytest.approx(float(kl), rel=0.02)
    assert (step.multipliers.kl < KL).all()


def test_where_it_leads_nowhere_else_it_is_the_same_step():
    place, bounds, ahead = case(1, 0.1 * np.eye(DX), np.zeros((DX, DU)))
    plain = q_step(*place, *bounds)
    step, kl = ahead_of(place, bounds, ahead, KL)
    assert kl < KL
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(tuple(step)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


def test_a_bound_that_no_step_meets_leaves_none():
    place, bounds, _ = UNSTABLE
    nothing = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), UNSTABLE[2])
    step, _ = ahead_of(place, bounds, nothing, KL)
    assert np.isnan(step.controller.K).all()


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_unit_of_the_cost_does_not_matter(scale):
    place, bounds, ahead = UNSTABLE
    scaled = (*place[:3], jax.tree.map(lambda leaf: scale * leaf, place[3]))
    one, other = (ahead_of(where, bounds, ahead, KL)[0].controller for where in (place, scaled))
    np.testing.assert_allclose(one.K, other.K, rtol=1e-7)
