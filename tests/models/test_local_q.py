"""Q-functions of one condition: in other coordinates, and what they say that another controller costs."""

import dataclasses

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from pilotfish.models.local_q import FittedQ, LocalQ
from pilotfish.models.occupancy import Occupancy
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.types import LinearDynamics, LinearGaussian, Quadratic

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
    shapes = ((T, DX, DX), (T, DX, DU), (T, DX))
    ahead = LinearDynamics(*(jnp.asarray(rng.normal(size=shape)) for shape in shapes), jnp.zeros((T, DX, DX)))
    return LocalQ(now, Q, jnp.asarray(7.0), jnp.ones(T), jnp.zeros((T, 1, DX)), ahead)


def test_about_another_controller_it_is_the_same_function(belief):
    rng = np.random.default_rng(4)
    other = belief.about(controller(rng))
    x, u = jnp.asarray(rng.normal(size=(20, DX))), jnp.asarray(rng.normal(size=(20, DU)))
    for t in range(T):
        values, arrive = [], []
        for one in (belief, other):
            Q, now, f = jax.tree.map(lambda leaf, t=t: leaf[t], (one.Q, one.occupancy, one.ahead))
            values.append(jax.vmap(Q)(now.white(x, u)))
            arrive.append(now.white(x, u) @ jnp.concatenate([f.A, f.B], -1).T + f.c)
        np.testing.assert_allclose(*values, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(*arrive, rtol=1e-9, atol=1e-9)


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


@pytest.mark.parametrize("reuse", [pytest.param("none", marks=pytest.mark.slow), "both"])
def test_where_transitions_lead_is_the_system_itself(reuse):
    """A linear system without noise, in the coordinates of its own states."""
    world = LinearQuadratic().world()
    problem = dataclasses.replace(world.problem, noise_std=jnp.zeros(world.problem.dx))
    world = dataclasses.replace(world, problem=problem)
    how = FittedQ(reuse=reuse, memory=2)
    first = jax.tree.map(lambda leaf: leaf[0], problem.first_controller)
    rollouts = world.rollout(LinearGaussianPolicy(problem.first_controller), 40, jax.random.key(0)).cleaned()
    one = jax.tree.map(lambda leaf: leaf[0], (how.begin(problem, 40), rollouts))
    found = how.fit(problem, first, *one).belief
    for t in (0, 7, 18):
        x, u = one[1].x[:, t], one[1].u[:, t]
        here, there = (jax.tree.map(lambda leaf, i=i: leaf[i], found.occupancy) for i in (t, t + 1))
        f = jax.tree.map(lambda leaf, t=t: leaf[t], found.ahead)
        arrives = here.white(x, u) @ jnp.concatenate([f.A, f.B], -1).T + f.c
        np.testing.assert_allclose(arrives, there.white_state(one[1].x[:, t + 1]), rtol=1e-5, atol=1e-5)
