"""LQR-GPS: every variant finds the known optimum; its promises hold; bad settings and hopeless data are met."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from dear import mostly_slow

from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.models.cost import CostExpansion
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.runs import loop
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.types import Gaussian
from pilotfish.updates.step_size import StepSize
from pilotfish.worlds.jax import JaxWorld

TASK = LinearQuadratic()
SEEDS = [0, 1]


@eqx.filter_jit
def update(algorithm, problem, state, rollouts):
    return algorithm.update(problem, state, rollouts, jax.random.key(0))


@eqx.filter_jit
def roll(algorithm, world, state, samples):
    return world.rollout(algorithm.explore(state), samples, jax.random.key(1))


def test_what_is_deployed_is_the_best_controller_tried():
    """Of three that were rolled out the second cost least, and of the third a rollout broke off."""
    problem, algorithm = TASK.problem(), LQRGPS()
    state, tried = algorithm.init(problem, 20, jax.random.key(0)), []
    for mean_cost, whole in ((3.0, True), (1.0, True), (0.5, False), (2.0, True)):
        tried.append(state.controller)
        rollouts = roll(algorithm, JaxWorld(problem), state, 20)
        cost = rollouts.cost - rollouts.cost.mean(1, keepdims=True) + mean_cost / rollouts.cost.shape[-1]
        steps = rollouts.steps.at[0, 0].set(problem.horizon if whole else 12)
        rollouts = eqx.tree_at(lambda r: (r.cost, r.steps), rollouts, (cost, steps))
        state, _ = update(algorithm, problem, state, rollouts)
        np.testing.assert_array_equal(algorithm.exploit(state).controller.k, tried[min(len(tried) - 1, 1)].k)
    np.testing.assert_allclose(state.best.cost, 1.0)
    assert (algorithm.exploit(state).controller.chol == 0).all()


VARIANTS = {
    "cost expanded at the mean, step size adapted": (
        LQRGPS(cost=CostExpansion(at="mean"), step=StepSize(smallest=0.1, largest=10.0)),
        30,
        1.03,
    ),
    "mixture as prior, smooth noise, five rollouts": (
        LQRGPS(dynamics=FittedDynamics(prior="gmm"), noise_smoothing=2.0),
        5,
        1.1,
    ),
}


@pytest.mark.parametrize("name", mostly_slow(VARIANTS, always=[name for name in VARIANTS if "adapted" in name]))
def test_every_variant_approaches_the_known_optimum(name):
    algorithm, samples, factor = VARIANTS[name]
    world, keys = JaxWorld(TASK.problem()), loop.root_keys(SEEDS)
    states = loop.initial(algorithm, world, samples, keys)
    states, report = loop.scan(algorithm, world, samples, keys, 0, 30, states)
    assert np.all(report.info.ok)
    optimum = TASK.optimum()[1]
    for s in range(len(SEEDS)):
        mean = algorithm.exploit(jax.tree.map(lambda leaf, s=s: leaf[s], states)).controller
        reached = TASK.expected_cost(jax.tree.map(lambda leaf: leaf[0], mean))
        assert optimum * (1 - 1e-9) <= reached < factor * optimum, (name, float(reached / optimum))
    bound = algorithm.kl_step * report.info.step_factor
    assert (report.info.kl_max <= bound * (1 + 1e-6)).all()
    assert (report.info.kl_max >= 0.98 * bound).all()
    assert (report.info.passes[:, 3:] <= 8).all()
    if algorithm.step.largest > 1:
        assert report.info.step_factor.max() > 2.0


def test_prediction_is_what_happens_where_the_model_is_right():
    algorithm, problem = LQRGPS(kl_step=0.3), TASK.problem()
    state = algorithm.init(problem, 500, jax.random.key(0))
    rollouts = roll(algorithm, JaxWorld(problem), state, 500)
    new, info = update(algorithm, problem, state, rollouts)
    before, after = (TASK.expected_cost(jax.tree.map(lambda leaf: leaf[0], s.controller)) for s in (state, new))
    np.testing.assert_allclose(info.predicted, before - after, rtol=0.1)
    assert before - after > 0


@pytest.mark.slow
def test_a_condition_without_usable_rollouts_keeps_its_controller():
    problem = TASK.problem()
    mean, cov = problem.conditions.mean, problem.conditions.cov
    conditions = Gaussian(jnp.concatenate([mean, -mean]), jnp.concatenate([cov, cov]))
    twice = dataclasses.replace(problem, conditions=conditions, first_controller=None)
    algorithm = LQRGPS()
    state = algorithm.init(twice, 20, jax.random.key(0))
    rollouts = roll(algorithm, JaxWorld(twice), state, 20)
    broken = eqx.tree_at(lambda r: r.steps, rollouts, rollouts.steps.at[1, 3:].set(0))
    new, info = update(algorithm, twice, state, broken)
    np.testing.assert_array_equal(info.ok, [True, False])
    for a, b in zip(jax.tree.leaves(new.controller), jax.tree.leaves(state.controller), strict=True):
        np.testing.assert_array_equal(a[1], b[1])
        assert not np.array_equal(a[0], b[0])
    none = eqx.tree_at(lambda r: r.steps, rollouts, jnp.zeros_like(rollouts.steps))
    kept, info = update(algorithm, twice, state, none)
    assert not info.ok.any()
    for name, value in info._asdict().items():
        assert np.isfinite(value).all(), name
    for a, b in zip(jax.tree.leaves(kept.controller), jax.tree.leaves(state.controller), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("settings", "samples", "words"),
    [
        ({"kl_step": 0.0}, 20, "kl_step=0.0: the bound on the KL must be positive"),
        ({"trust": "both"}, 20, "trust='both': choose one of trajectory, step"),
        ({"noise_smoothing": -1.0}, 20, "noise_smoothing=-1.0"),
        ({}, 7, "rollouts=7: without a prior .* at least 8 rollouts .* prior='gmm'"),
        ({"dynamics": FittedDynamics(prior="gmm")}, 1, "rollouts=1: .* at least 2"),
    ],
)
def test_refuses_what_cannot_work(settings, samples, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production
    with pytest.raises(ValueError, match=words):
        LQRGPS(**settings).init(TASK.problem(), samples, jax.random.key(0))


@pytest.mark.parametrize(
    ("part", "settings", "words"),
    [
        (FittedDynamics, {"prior": "niw"}, "prior='niw': choose one of none, gmm"),
        (FittedDynamics, {"clusters": 1}, "clusters=1"),
        (FittedDynamics, {"memory": 0}, "memory=0"),
        (CostExpansion, {"at": "origin"}, "at='origin': choose one of samples, mean"),
        (StepSize, {"smallest": 2.0}, "smallest=2.0"),
        (StepSize, {"largest": 0.5}, "largest=0.5"),
        (StepSize, {"rule": "sum"}, "rule='sum': choose one of condition, mean"),
    ],
)
def test_parts_refuse_what_cannot_work(part, settings, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=words):
        part(**settings)
