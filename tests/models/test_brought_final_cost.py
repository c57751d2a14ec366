"""A final cost that the world brings: what a regression makes of it that pools samples, and who refuses it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pilotfish.algorithms.ilqg import ILQG
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.models.local_q import FittedQ
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.types import Gaussian, LinearGaussian, Problem
from pilotfish.worlds.jax import JaxWorld

T, M, DX, DU = 4, 40, 2, 1


def step(x, u):
    return jnp.array([x[0] + 0.3 * x[1], x[1] + 0.3 * u[0]])


def final_cost(x):
    return 3.0 * x[0] ** 2 + jnp.sin(2 * x[1])


KNOWN = Problem(
    horizon=T,
    dt=0.1,
    conditions=Gaussian(jnp.array([[1.0, 0.0]]), 0.1 * jnp.eye(DX)[None]),
    initial_std=jnp.ones(DU),
    cost=lambda x, u, t: (1.0 + t) * x[0] ** 2 + 0.1 * u[0] ** 2,
    final_cost=final_cost,
    dynamics=step,
    noise_std=0.05,
)
BROUGHT = dataclasses.replace(KNOWN, final_cost=None)


MOVED = [
    LinearGaussian(
        jnp.full((1, T, DU, DX), -0.2 * i), jnp.full((1, T, DU), 0.1 * i), jnp.full((1, T, DU, DU), 1 - 0.1 * i)
    )
    for i in range(3)
]


@functools.cache
def rollouts(i):
    """Those of another controller in every iteration."""
    return jax.jit(lambda policy: JaxWorld(KNOWN).rollout(policy, M, jax.random.key(i)))(LinearGaussianPolicy(MOVED[i]))


@functools.cache
def believed(reuse, final_is_known):
    """What is found after all iterations, of which the newest's states tell where it goes."""
    problem, how = KNOWN if final_is_known else BROUGHT, FittedQ(reuse=reuse, memory=3, state_decay=0.0)
    history = how.begin(problem, M)
    fit = jax.jit(jax.vmap(lambda controller, before, new: how.fit(problem, controller, before, new)))
    for i, moved in enumerate(MOVED):
        found = fit(moved, history, rollouts(i).cleaned())
        history = found.history
    return jax.tree.map(lambda leaf: leaf[0], found)


def last(found):
    return np.concatenate([np.ravel(leaf[-1]) for leaf in (found.belief.Q.H, found.belief.Q.h)])


@pytest.mark.parametrize("reuse", [pytest.param("none", marks=pytest.mark.slow), "iterations"])
def test_samples_of_a_step_bring_theirs_whether_its_formula_is_known_or_not(reuse):
    known, brought = believed(reuse, True), believed(reuse, False)
    jax.tree.map(np.testing.assert_array_equal, known.belief.Q, brought.belief.Q)


@pytest.mark.parametrize(
    ("pooled", "own"), [("both", "iterations"), pytest.param("time", "none", marks=pytest.mark.slow)]
)
def test_where_steps_share_their_samples_the_last_one_uses_its_own(pooled, own):
    """Its regression is the one without other steps' samples, which pools and masks nothing; the others' share all."""
    alone, brought, known = believed(own, False), believed(pooled, False), believed(pooled, True)
    np.testing.assert_allclose(last(brought), last(alone), rtol=1e-8, atol=1e-8)
    assert not np.allclose(last(brought), last(known), rtol=1e-3)
    np.testing.assert_allclose(brought.ess[-1], alone.ess[-1], rtol=1e-9)
    np.testing.assert_allclose(brought.ess[:-1], known.ess[:-1], rtol=1e-12)
    assert (brought.ess[:-1] > brought.ess[-1]).all()


@pytest.mark.parametrize(
    "reuse",
    ["both", pytest.param("time", marks=pytest.mark.slow), pytest.param("iterations", marks=pytest.mark.slow), "none"],
)
def test_a_last_step_without_noise_is_found_exactly(reuse):
    """By NumPy, for a quadratic final cost: then the last Q is quadratic in state and action, whatever is sampled."""
    calm = dataclasses.replace(KNOWN, noise_std=jnp.zeros(DX), final_cost=lambda x: 3.0 * x[0] ** 2 + x[1] ** 2)
    policy = LinearGaussianPolicy(calm.first_controller)
    found = jax.jit(lambda: JaxWorld(calm).rollout(policy, M, jax.random.key(0)))().cleaned()
    how, problem = FittedQ(reuse=reuse, memory=2, ridge=1e-10), dataclasses.replace(calm, final_cost=None)
    every = calm.first_controller, how.begin(problem, M), found
    controller, history, one = (jax.tree.map(lambda leaf: leaf[0], tree) for tree in every)
    found = jax.jit(lambda: how.fit(problem, controller, history, one).belief)()
    AB = np.array([[1.0, 0.3, 0.0], [0.0, 1.0, 0.3]])
    H = 2 * (np.diag([float(T), 0.0, 0.1]) + AB.T @ np.diag([3.0, 1.0]) @ AB)
    L, R = np.asarray(found.occupancy.chol[-1]), np.asarray(controller.chol[-1])
    of_white = np.block([[L, np.zeros((DX, DU))], [np.zeros((DU, DX)), R]])  # the first controller has no gains
    np.testing.assert_allclose(found.Q.H[-1], of_white.T @ H @ of_white, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("algorithm", [ILQG(), ILQG(dynamics="learned"), LQRGPS()])
def test_who_needs_the_formula_says_so(algorithm):
    with pytest.raises(ValueError, match="needs the formula of the final cost"):
        algorithm.update(BROUGHT, algorithm.init(BROUGHT, M, jax.random.key(0)), rollouts(0), jax.random.key(0))
