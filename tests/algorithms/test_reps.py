"""REPS: one update by hand, what it learns, with and without contexts; it heeds no units, and meets bad data."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.best_parameters import least_cost
from scipy import optimize
from test_units import Units, problem, written

from pilotfish.algorithms.reps import REPS
from pilotfish.policies.episodic import ContextualPolicy, EpisodicPolicy, OpenLoop
from pilotfish.policies.movement_primitive import MovementPrimitive
from pilotfish.runs import loop
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.types import Gaussian
from pilotfish.worlds.jax import JaxWorld

TASK, KEY = LinearQuadratic(), jax.random.key(0)
SMALL = OpenLoop(features=3)


def learn(algorithm, problem, samples, iterations, seeds=(0, 1)):
    world, keys = JaxWorld(problem), loop.root_keys(seeds)
    states = loop.initial(algorithm, world, samples, keys)
    return loop.scan(algorithm, world, samples, keys, 0, iterations, states)


def rolled(algorithm, problem, samples=40):
    state = algorithm.init(problem, samples, KEY)
    return state, JaxWorld(problem).rollout(algorithm.explore(state), samples, KEY)


def by_hand(w, cost, kl_step, prior, mean, chol):
    """The new mean and covariance, in NumPy and by SciPy's root search."""

    def share(eta):
        d = np.exp(-(cost - cost.min()) / eta)
        return d / d.sum()

    def excess(log_eta):
        d = share(np.exp(log_eta))
        return (d * np.log(np.maximum(d, 1e-300) * len(d))).sum() - kl_step

    d = share(np.exp(optimize.brentq(excess, np.log(1e-3 * np.ptp(cost)), np.log(1e3 * np.ptp(cost)), xtol=1e-12)))
    ess, centre = 1 / (d**2).sum(), d @ w
    cov = (ess * ((w - centre) * d[:, None]).T @ (w - centre) + prior * chol @ chol.T) / (ess - 1 + prior)
    return centre, cov


def test_an_update_is_that_by_hand():
    """Of the second iteration, whose search is no longer N(0, I)."""
    algorithm = REPS(skill=SMALL, kl_step=0.4)
    states, _ = learn(algorithm, TASK.problem(), 40, 1, [0])
    state = loop.of_seed(states, 0)
    rollouts = JaxWorld(TASK.problem()).rollout(algorithm.explore(state), 40, KEY)
    new, info = algorithm.update(TASK.problem(), state, rollouts, KEY)
    w, cost = np.asarray(rollouts.episode.w[0]), np.asarray(rollouts.cost[0].sum(-1))
    before, after = state.policy, new.policy
    mean, cov = by_hand(w, cost, 0.4, 6.0, np.asarray(before.mean[0]), np.asarray(before.chol[0]))
    np.testing.assert_allclose(after.mean[0], mean, rtol=1e-7)
    np.testing.assert_allclose(after.chol[0] @ after.chol[0].T, cov, rtol=1e-7, atol=1e-10)
    assert float(info.kl) == pytest.approx(0.4, rel=1e-8)
    old_cov = np.asarray(before.chol[0] @ before.chol[0].T)
    shift, ratio = mean - np.asarray(before.mean[0]), np.linalg.solve(old_cov, cov)
    kl = 0.5 * (np.trace(ratio) - 6 + shift @ np.linalg.solve(old_cov, shift) - np.linalg.slogdet(ratio)[1])
    assert float(info.kl_search) == pytest.approx(kl, rel=1e-7)


def test_learns_the_best_actions_over_time():
    states, report = learn(REPS(skill=SMALL), TASK.problem(), 60, 30, (0, 1, 2))
    assert np.all(report.info.ok)
    assert (report.info.kl_max <= 0.7 * (1 + 1e-9)).all()
    for s in range(3):
        controller = jax.tree.map(lambda leaf: leaf[0], REPS().exploit(loop.of_seed(states, s)).controller)
        assert 1 - 1e-9 <= TASK.expected_cost(controller) / least_cost(TASK, SMALL) < 1.15


def spread_starts():
    """The linear-quadratic task from places that differ much, of which three are told, one of them always the same."""
    plain = TASK.problem()
    cov = jnp.diag(jnp.array([0.5, 0.5, 0.0, 0.0]) ** 2)[None]
    return dataclasses.replace(plain, conditions=Gaussian(plain.conditions.mean, cov), observe=lambda x: x[:3])


@pytest.mark.slow
def test_a_context_is_worth_knowing():
    """From starts that differ no fixed actions are good; those that depend on the start are, and on starts alone."""
    problem, costs = spread_starts(), []
    for contextual in (False, True):
        algorithm = REPS(skill=SMALL, contextual=contextual)
        states, report = learn(algorithm, problem, 100, 25, [0])
        assert np.all(report.info.ok)
        policy = algorithm.exploit(loop.of_seed(states, 0))
        costs.append(float(JaxWorld(problem).rollout(policy, 500, jax.random.key(5)).cost.sum(-1).mean()))
    assert costs[1] < 0.6 * costs[0], costs
    assert isinstance(policy, ContextualPolicy)
    assert np.abs(policy.search.K[:, :2]).max() > 0.5
    assert not policy.search.K[:, 2].any()  # it never varied


@pytest.mark.slow
def test_one_search_learns_from_all_conditions():
    plain = TASK.problem()
    mean = jnp.array([[1.0, -0.5, 0.0, 0.0], [-1.0, 0.5, 0.0, 0.0], [0.5, 1.0, 0.0, 0.0]])
    problem = dataclasses.replace(plain, conditions=Gaussian(mean, jnp.zeros((3, 4, 4))), first_controller=None)
    algorithm = REPS(skill=SMALL, contextual=True)
    states, report = learn(algorithm, problem, 40, 25, [0])
    assert report.info.ok.all()
    policy = algorithm.exploit(loop.of_seed(states, 0))
    assert not policy.per_condition
    w = JaxWorld(problem).rollout(policy, 1, KEY).episode.w[:, 0]
    assert np.linalg.norm(w[0] - w[1]) > 1.0
    cost = report.outcome.cost[0]
    assert cost[-1] < 0.4 * cost[0]


UNITS = {
    "mixed actions": written(u_unit=[2e-9, 1e9, 1e-3]),
    "mixed states": written(x_unit=[1e-9, 3e9, 0.7, 1e-5, 20.0]),
    "far states": written(x_zero=[3e5, -2e5, 1e5, -1e8, 3e5]),
    "small costs": written(cost_unit=1e-12),
    "large costs": written(cost_unit=1e12),
    "far costs": written(cost_zero=3e8),
}


def searched(algorithm, units: Units, iterations=3):
    """The search in the skill's own units, as it acts at the problem's mean start."""
    states, report = learn(algorithm, problem(units), 30, iterations, [3])
    assert np.asarray(report.info.ok).all()
    policy = loop.of_seed(states, 0).policy
    if isinstance(policy, EpisodicPolicy):
        return np.asarray(policy.mean[0]), np.asarray(policy.chol[0])
    gain = np.asarray(policy.search.K) * np.asarray(units.x_unit)
    return np.concatenate([np.asarray(policy.search.k), gain[:, [0, 1, 2, 4]].ravel()]), np.asarray(policy.search.chol)


@pytest.mark.parametrize("contextual", [pytest.param(False, marks=pytest.mark.slow), True])
def test_units_and_origins_do_not_matter(contextual):
    algorithm = REPS(skill=OpenLoop(features=2), contextual=contextual)
    plain = searched(algorithm, written())
    for name, units in UNITS.items():
        exact = searched(algorithm, written(cost_zero=3e8, less=3e8)) if name == "far costs" else plain
        for a, b in zip(searched(algorithm, units), exact, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4 if name == "far costs" else 1e-5, err_msg=name)


def test_what_broke_off_is_not_used():
    algorithm = REPS(skill=SMALL)
    state, rollouts = rolled(algorithm, TASK.problem())
    broken = eqx.tree_at(lambda r: r.steps, rollouts, rollouts.steps.at[0, :5].set(3))
    fewer = jax.tree.map(lambda leaf: leaf[:, 5:], rollouts)
    new, info = algorithm.update(TASK.problem(), state, broken, KEY)
    wanted, _ = algorithm.update(TASK.problem(), state, fewer, KEY)
    assert info.ok.all()
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("contextual", [False, True])
def test_nothing_is_learned_of_nothing_and_it_says_so(contextual):
    algorithm = REPS(skill=SMALL, contextual=contextual)
    state, rollouts = rolled(algorithm, TASK.problem(), 20)
    equal = eqx.tree_at(lambda r: r.cost, rollouts, jnp.ones_like(rollouts.cost))
    none = eqx.tree_at(lambda r: r.steps, rollouts, rollouts.steps.at[0, 1:].set(0))
    for data, said in ((equal, "all cost the same"), (none, "all rollouts but one broke off")):
        new, info = algorithm.update(TASK.problem(), state, data, KEY)
        assert not info.ok.any()
        assert all(np.isfinite(value).all() for value in info)
        for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(a, b)
        assert said in algorithm.refusal(TASK.problem(), state, data, info.ok)


def test_bad_settings_are_refused_in_words():
    for settings, said in (
        ({"kl_step": 0.0}, "kl_step=0.0: the bound on the KL must be positive"),
        ({"prior": 0.0}, "prior=0.0: without prior samples the covariance may become singular"),
    ):
        with pytest.raises(ValueError, match=said):
            REPS(**settings)
    plain = TASK.problem()
    same = dataclasses.replace(plain, conditions=Gaussian(plain.conditions.mean, 0 * plain.conditions.cov))
    with pytest.raises(ValueError, match="all episodes begin in the same state, so the context never varies"):
        REPS(contextual=True).init(same, 20, KEY)
    assert "40 episodes an iteration in a space of 60 parameters" in REPS(skill=OpenLoop(features=30)).caution(
        plain, 40
    )
    assert not REPS().caution(plain, 40)


@pytest.mark.slow
def test_a_movement_primitive_learns_where_to_go():
    skill = MovementPrimitive(kp=2.0, kd=2.0, goal_std=1.0, speed_std=0.5)
    algorithm = REPS(skill=skill)
    states, report = learn(algorithm, TASK.problem(), 40, 15, [0])
    controller = jax.tree.map(lambda leaf: leaf[0], algorithm.exploit(loop.of_seed(states, 0)).controller)
    assert TASK.expected_cost(controller) < 1.05 * least_cost(TASK, skill)
    cost = report.outcome.cost[0]
    assert cost[-1] < 0.2 * cost[0]
