"""One update on the same data against a NumPy version that shares no code: curves are chaotic, updates not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy_moto
import pytest

from pilotfish.algorithms.moto import MOTO
from pilotfish.runs import loop
from pilotfish.tasks.multi_link import MultiLink
from pilotfish.worlds.jax import JaxWorld

pytestmark = pytest.mark.slow


@eqx.filter_jit
def update(algorithm, problem, state, rollouts):
    return algorithm.update(problem, state, rollouts, jax.random.key(0))


def learned(algorithm, world, samples, iterations):
    """A state after some iterations, and rollouts of its controller, of one condition."""
    keys = loop.root_keys([0])
    states = loop.initial(algorithm, world, samples, keys)
    states, _ = loop.scan(algorithm, world, samples, keys, 0, iterations, states)
    state = jax.tree.map(lambda leaf: leaf[0], states)
    rollouts = eqx.filter_jit(world.rollout)(algorithm.explore(state), samples, jax.random.key(9))
    return state, rollouts


def in_policy_deviations(new, old, x):
    """How far two controllers' mean actions differ on given states, in standard deviations of the older policy."""
    K, k, chol = new
    ours = np.einsum("tij,mtj->mti", old[0], x) + old[1]
    theirs = np.einsum("tij,mtj->mti", K, x) + k
    difference = np.linalg.solve(chol, (ours - theirs).transpose(1, 2, 0))
    return np.abs(difference).max()


@pytest.mark.parametrize("iterations", [1, 12])
def test_an_update_without_reuse(iterations):
    world, algorithm = JaxWorld(MultiLink().problem()), MOTO()
    state, rollouts = learned(algorithm, world, 60, iterations)
    new, info = update(algorithm, world.problem, state, rollouts)
    old = jax.tree.map(lambda leaf: np.asarray(leaf[0]), state.controller)
    x, u, cost = (np.asarray(leaf[0]) for leaf in (rollouts.x, rollouts.u, rollouts.cost))
    K, k, chol, kl = numpy_moto.update(x, u, cost, old.K, old.k, old.chol)
    mine = jax.tree.map(lambda leaf: np.asarray(leaf[0]), new.controller)
    assert in_policy_deviations((K, k, chol), (mine.K, mine.k), x[:, :-1]) < 1e-5
    np.testing.assert_allclose(mine.chol, chol, rtol=1e-5, atol=1e-7)
    assert info.kl == pytest.approx(kl.mean(), rel=1e-6)


def test_an_update_that_reuses_time_steps_and_iterations():
    task = MultiLink()
    world, algorithm = JaxWorld(task.problem()), MOTO(reuse="both", memory=3, entropy_drop=0.02)
    state, rollouts = learned(algorithm, world, 20, 4)
    new, info = update(algorithm, world.problem, state, rollouts)
    old = jax.tree.map(lambda leaf: np.asarray(leaf[0]), state.controller)
    past = jax.tree.map(lambda leaf: np.asarray(leaf[0]), state.history)
    history = [(np.asarray(rollouts.x[0]), np.asarray(rollouts.u[0]), old.K, old.k, old.chol, None, None)]
    for j in range(2):
        where = jax.tree.map(lambda leaf, j=j: leaf[j], past.occupancy)
        p = where.controller
        history.append((past.x[j], past.u[j], p.K, p.k, p.chol, where.mean, where.chol))
    cost = jax.jit(jax.vmap(task.cost, (0, 0, None)))
    K, k, chol, kl = numpy_moto.reusing_update(
        history, lambda x, u, t: np.asarray(cost(x, u, jnp.asarray(t))), old.K, old.k, old.chol, entropy_drop=0.02
    )
    mine = jax.tree.map(lambda leaf: np.asarray(leaf[0]), new.controller)
    assert in_policy_deviations((K, k, chol), (mine.K, mine.k), history[0][0][:, :-1]) < 1e-4
    np.testing.assert_allclose(mine.chol, chol, rtol=1e-4, atol=1e-6)
    assert info.kl == pytest.approx(kl.mean(), rel=1e-5)
