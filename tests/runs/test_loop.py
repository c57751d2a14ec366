"""The loop: host and compiled, split and whole, alone and among other seeds, give the same numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.same import assert_same

from pilotfish.algorithms.moto import MOTO
from pilotfish.algorithms.reps import REPS
from pilotfish.policies.episodic import OpenLoop
from pilotfish.runs import loop
from pilotfish.tasks.cartpole import CartPole
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.types import Rollouts
from pilotfish.worlds.jax import JaxWorld

SAMPLES = 40


@pytest.fixture(scope="module")
def world():
    return JaxWorld(CartPole().problem())


ALGORITHMS = {"reps": REPS(skill=OpenLoop(features=3)), "moto": MOTO()}
"""The first compiles fastest."""


@pytest.fixture(scope="module", params=["reps", pytest.param("moto", marks=pytest.mark.slow)])
def algorithm(request):
    return ALGORITHMS[request.param]


@pytest.fixture(scope="module")
def begun(algorithm, world):
    """Keys of two seeds, and their first states."""
    keys = loop.root_keys([3, 5])
    return keys, loop.initial(algorithm, world, SAMPLES, keys)


@pytest.fixture(scope="module")
def scanned(algorithm, world, begun):
    keys, states = begun
    return loop.scan(algorithm, world, SAMPLES, keys, 0, 6, states)


def test_a_split_scan_equals_the_whole(algorithm, world, begun, scanned):
    keys, states = begun
    states, _ = loop.scan(algorithm, world, SAMPLES, keys, jnp.asarray(0), 3, states)
    states, _ = loop.scan(algorithm, world, SAMPLES, keys, jnp.asarray(3), 3, states)  # the same program
    assert_same(states, scanned[0])


def test_a_seed_alone_equals_the_seed_among_others(algorithm, world, scanned):
    keys = loop.root_keys([5])
    states, _ = loop.scan(algorithm, world, SAMPLES, keys, 0, 6, loop.initial(algorithm, world, SAMPLES, keys))
    assert_same(jax.tree.map(lambda leaf: leaf[0], states), jax.tree.map(lambda leaf: leaf[1], scanned[0]))
    assert max(np.abs(leaf[0] - leaf[1]).max() for leaf in jax.tree.leaves(algorithm.explore(scanned[0]))) > 1e-3


def test_side_by_side_seeds_agree_with_one_after_the_other(algorithm, world, begun, scanned):
    """vmap, which a GPU wants, gives the same learning; only the order of additions may differ."""

    def one(key):
        def turn(state, i):
            state, _, report = loop.iteration(algorithm, world, SAMPLES, key, i, state)
            return state, report.outcome.cost

        return jax.lax.scan(turn, algorithm.init(world.problem, SAMPLES, key), jnp.arange(2))[1][1]

    costs = jax.jit(jax.vmap(one))(begun[0])
    np.testing.assert_allclose(costs, scanned[1].outcome.cost[:, 1], rtol=1e-6)


def test_outcome_counts_what_broke_off():
    problem = CartPole().problem()
    T = problem.horizon
    x = jnp.zeros((1, 4, T + 1, 4)).at[0, 1, T - 5, 1].set(0.3)
    x = x.at[0, 3, 7:].set(jnp.nan)
    cost = jnp.ones((1, 4, T + 1)).at[0, 3, 7:].set(jnp.nan).at[0, 0, 0].set(4.0)
    steps = jnp.array([[T, T, T, 7]])
    rollouts = Rollouts(x, x, jnp.zeros((1, 4, T, 1)), cost, steps, None)
    result = loop.outcome(problem, rollouts)
    totals = np.array([T + 4.0, T + 1.0, T + 1.0])
    assert result.cost == pytest.approx(totals.mean())
    assert result.cost_std == pytest.approx(totals.std())
    assert result.success == 0.5
    assert result.valid == 0.75
    assert result.broken_at == 7


def test_actions_beyond_the_bounds_are_counted_where_steps_happened():
    problem = CartPole().problem()
    T, high = problem.horizon, float(problem.action_high[0])
    u = np.zeros((1, 2, T, 1))
    u[0, 0, :5], u[0, 0, 5], u[0, 1, 0], u[0, 1, 10:] = 1.01 * high, high, -2.0 * high, 3.0 * high
    x = jnp.zeros((1, 2, T + 1, 4))
    rollouts = Rollouts(x, x, jnp.asarray(u), jnp.zeros((1, 2, T + 1)), jnp.array([[T, 10]]), None)
    assert loop.outcome(problem, rollouts).clipped == pytest.approx(6 / (T + 10))
    free = dataclasses.replace(problem, action_low=-jnp.full(1, jnp.inf), action_high=jnp.full(1, jnp.inf))
    assert loop.outcome(free, rollouts).clipped == 0


def test_a_task_without_success_reports_nan():
    problem = LinearQuadratic().problem()
    T, zeros = problem.horizon, jnp.zeros
    x = zeros((1, 2, T + 1, problem.dx))
    steps = jnp.full((1, 2), T)
    result = loop.outcome(problem, Rollouts(x, x, zeros((1, 2, T, problem.du)), x[..., 0], steps, None))
    assert np.isnan(result.success)
    assert result.broken_at == -1


def test_check_wants_a_rollout(world):
    with pytest.raises(ValueError, match="rollouts=0"):
        loop.check(MOTO(), world, 0)


def test_numbers_are_arguments_of_the_program_whatever_they_are(world):
    """Of every algorithm, so that another value compiles nothing."""
    compiled = loop.check(REPS(skill=OpenLoop(features=3)), world, SAMPLES)
    assert loop.is_general(compiled)
    assert isinstance(compiled.kl_step, jax.Array)
    assert compiled.kl_step.weak_type  # as a number of Python's: it leaves float32 what it is
    assert compiled.skill.features == 3
