"""Q-functions of one condition: in other coordinates, and what they say that another controller costs."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from pilotfish.models.local_q import FittedQ, LocalQ
from pilotfish.models.occupancy import Occupancy
from pilotfish.types import LinearGaussian, Quadratic

T, DX, DU = 3, 3, 2


def controller(rng):
    chol = np.tril(rng.normal(size=(T, DU, DU))) + 2.0 * np.eye(DU)
    return LinearGaussian(*(jnp.asarray(a) for a in (rng.normal(size=(T, DU, DX)), rng.normal(size=(T, DU)), chol)))


@pytest.fixture
def belief():
    rng = np.random.default_rng(3)
    chol = np.tril(rng.normal(size=(T, DX, DX))) + 2.0 * np.eye(DX)
    H = rng.normal(size=(T, DX + DU, DX + DU))
    Q = Quadratic(jnp.asarray(H + np.swapaxes(H, 1, 2)), jnp.asarray(rng.normal(size=(T, DX + DU))), jnp.ones(T))
    now = Occupancy(jnp.asarray(rng.normal(size=(T, DX))), jnp.asarray(chol), controller(rng))
    return LocalQ(now, Q, jnp.asarray(7.0), jnp.ones(T), jnp.zeros((T, 1, DX)))


def test_about_another_controller_it_is_the_same_function(belief):
    rng = np.random.default_rng(4)
    other = belief.about(controller(rng))
    x, u = jnp.asarray(rng.normal(size=(20, DX))), jnp.asarray(rng.normal(size=(20, DU)))
    for t in range(T):
        values = []
        for one in (belief, other):
            Q, now = jax.tree.map(lambda leaf, t=t: leaf[t], (one.Q, one.occupancy))
            values.append(jax.vmap(Q)(now.white(x, u)))
        np.testing.assert_allclose(*values, rtol=1e-9, atol=1e-9)


def test_expected_cost_is_that_of_the_joint_gaussians(belief):
    """By NumPy, from the joint distribution of state and action in users' units."""
    p, now = controller(np.random.default_rng(5)), belief.occupancy

    def expected(p):
        total = 0.0
        for t in range(T):
            mean, L, K, k, R = (np.asarray(a[t]) for a in (now.mean, now.chol, p.K, p.k, p.chol))
            at = np.concatenate([mean, K @ mean + k])
            S = L @ L.T
            cov = np.block([[S, S @ K.T], [K @ S, K @ S @ K.T + R @ R.T]])
            q = [np.asarray(a[t]) for a in (now.controller.K, now.controller.k, now.controller.chol)]
            inverse = np.linalg.inv(q[2])
            white = np.block([[np.linalg.inv(L), np.zeros((DX, DU))], [-inverse @ q[0], inverse]])
            offset = np.concatenate([-np.linalg.solve(L, mean), -inverse @ q[1]])
            z, spread = white @ at + offset, white @ cov @ white.T
            H, h, c = (np.asarray(a[t]) for a in (belief.Q.H, belief.Q.h, belief.Q.c))
            total += 0.5 * z @ H @ z + h @ z + c + 0.5 * np.trace(H @ spread)
        return total

    change = expected(p) - expected(now.controller)
    np.testing.assert_allclose(belief.expected_cost(p), 7.0 + change, rtol=1e-9)
    np.testing.assert_allclose(belief.expected_cost(now.controller), 7.0, rtol=1e-12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reuse": "all"}, "reuse='all'"),
        ({"memory": 0}, "memory=0"),
        ({"ridge": 0.0}, r"ridge=0\.0"),
        ({"state_decay": 1.5}, r"state_decay=1\.5"),
        ({"targets": "monte-carlo", "reuse": "both"}, "targets='monte-carlo' with reuse='both'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(fields, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production
    with pytest.raises(ValueError, match=message):
        FittedQ(**fields)
