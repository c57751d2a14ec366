"""Dyna: what it knows, what it goes on from, whom it teaches, and how many episodes a network needs."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pilotfish as pf
from pilotfish import algorithms, tasks
from pilotfish.algorithms.dyna import Dyna
from pilotfish.runs import loop
from pilotfish.runs.measured import measuring
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.types import Equations

LEARNED = pf.LearnedDynamics(points=40, sample=40)
PLAIN = Dyna(pf.LQRGPS(), rounds=3, imagined=20, learned=LEARNED)
WORLD = LinearQuadratic().world()
PROBLEM, KEY = WORLD.problem, jax.random.key(4)


@pytest.fixture(scope="module")
def update():
    return eqx.filter_jit(PLAIN.update)


@pytest.fixture(scope="module")
def begun():
    state = PLAIN.init(PROBLEM, 1, KEY)
    return state, WORLD.rollout(PLAIN.explore(state), 1, KEY)


def arrays(tree):
    return jax.tree.leaves(eqx.filter(tree, eqx.is_array))


def equal(one, other):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(arrays(one), arrays(other), strict=True))


def test_it_learns_nothing_from_the_equations(update, begun):
    """Equations that are wrong, and none at all, change no number."""
    state, rollouts = begun
    new, info = update(PROBLEM, state, rollouts, KEY)
    for dynamics in (None, Equations(lambda x, u: -x)):
        other = eqx.tree_at(lambda p: p.dynamics, PROBLEM, dynamics)
        assert equal(PLAIN.init(other, 1, KEY), state)
        found, said = update(other, state, rollouts, KEY)
        assert equal(found, new)
        assert equal(said, info)
    assert not equal(new.learner, state.learner)


def test_what_is_imagined_of_linear_dynamics_costs_what_is_real():
    """The learned model is linear far from the data, so a few episodes tell it all."""
    algorithm = dataclasses.replace(PLAIN, imagined=500)
    state = algorithm.init(PROBLEM, 5, KEY)
    first, key = algorithm.explore(state), jax.random.key(1)
    state, info = eqx.filter_jit(algorithm.update)(PROBLEM, state, WORLD.rollout(first, 5, KEY), KEY)
    before, after = (WORLD.rollout(one, 4000, key).cost.sum(-1).mean() for one in (first, algorithm.latest(state)))
    assert after < 0.5 * before
    np.testing.assert_allclose(info.imagined, after, rtol=0.15)


def test_it_goes_on_from_what_cost_least(update, begun):
    state, rollouts = begun
    first, said = update(PROBLEM, state, rollouts, KEY)
    assert said.went_back == 0
    assert equal(first.best, state.learner)
    np.testing.assert_allclose(first.cost, rollouts.cost.sum(-1).mean())
    for factor, begins in ((2.0, first.best), (0.5, first.learner)):
        costs = eqx.tree_at(lambda r: r.cost, rollouts, factor * rollouts.cost)
        second, said = update(PROBLEM, first, costs, jax.random.key(5))
        assert said.went_back == (factor > 1)
        assert equal(second.best, begins)
        np.testing.assert_allclose(second.cost, min(1.0, factor) * first.cost)
        again, _ = update(PROBLEM, first._replace(learner=begins), costs, jax.random.key(5))
        assert equal(again.learner, second.learner)  # what it was in between does not matter


def test_without_a_step_that_happened_nothing_is_improved(update, begun):
    state, rollouts = begun
    none = eqx.tree_at(lambda r: r.steps, rollouts, jnp.zeros_like(rollouts.steps))
    _, info = update(PROBLEM, state, none, KEY)
    assert not info.ok.any()


@pytest.mark.parametrize("lost", [True, False])
def test_who_begins_anew_is_followed_where_that_leads_far_further(update, begun, lost):
    state, rollouts = begun
    pushed = eqx.tree_at(lambda s: s.controller.k, state.learner, state.learner.controller.k + 20.0 * lost)
    _, info = update(PROBLEM, state._replace(learner=pushed), rollouts, KEY)
    assert info.anew == lost
    # wherever costs have their zero, and in whatever unit
    elsewhere = eqx.tree_at(lambda p: p.cost, PROBLEM, lambda x, u, t: 1e3 * PROBLEM.cost(x, u, t) - 1e4)
    final = eqx.tree_at(lambda p: p.final_cost, elsewhere, lambda x: 1e3 * PROBLEM.final_cost(x))
    costs = 1e3 * rollouts.cost - 1e4 * (jnp.arange(PROBLEM.horizon + 1) < PROBLEM.horizon)
    other = eqx.tree_at(lambda r: r.cost, rollouts, costs)
    _, said = update(final, state._replace(learner=pushed), other, KEY)
    assert said.anew == lost
    before = 1e-3 * (said.imagined + 1e4 * PROBLEM.horizon)
    np.testing.assert_allclose(before, info.imagined, rtol=1e-5)


@pytest.mark.parametrize(
    ("learner", "said"),
    [
        (pf.ILQG(), "needs the equations of motion"),
        (pf.GPS(model="known"), "needs the equations of motion"),
    ],
)
def test_who_needs_the_equations_is_refused(learner, said):
    with pytest.raises(ValueError, match=said):
        Dyna(learner).init(PROBLEM, 1, KEY)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="rounds=0: the learner learns at least once"):
        Dyna(rounds=0)
    with pytest.raises(ValueError, match="imagined=0: a round needs at least one rollout"):
        Dyna(imagined=0)
    with pytest.raises(ValueError, match="starts=0: one learner goes on"):
        Dyna(starts=0)
    with pytest.raises(ValueError, match="Choose what learns from rollouts"):
        Dyna(Dyna())
    with pytest.raises(ValueError, match="choose moto"):
        Dyna().init(tasks.find("table-tennis").make().problem(), 1, KEY)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["double-link", "cartpole"])
def test_networks_need_a_handful_of_episodes(task):
    world = tasks.find(task).make().world()
    algorithm = measuring(algorithms.find("dyna").make(), world, 20)
    states = loop.initial(algorithm, world, 1, keys := loop.root_keys((20, 21, 22)))
    _, report = loop.scan(algorithm, world, 1, keys, 0, 6, states)
    holds = np.asarray(report.info.noise_free_success) == 1
    assert holds.any(1).all()
