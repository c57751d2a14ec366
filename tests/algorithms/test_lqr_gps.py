"""LQR-GPS: every variant finds the known optimum; its promises hold; bad settings and hopeless data are met."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from pilotfish.algorithms.lqr_gps import FACTOR_CLIP, LQRGPS
from pilotfish.runs import loop
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.types import Gaussian
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
        rollouts = eqx.tree_at(lambda r: (r.cost, r.valid), rollouts, (cost, rollouts.valid.at[0, 0].set(whole)))
        state, _ = update(algorithm, problem, state, rollouts)
        np.testing.assert_array_equal(algorithm.exploit(state).controller.k, tried[min(len(tried) - 1, 1)].k)
    np.testing.assert_allclose(state.best_cost, 1.0)
    assert (algorithm.exploit(state).controller.chol == 0).all()


VARIANTS = {
    "bound on every step": (LQRGPS(trust="step"), 60, 1.03),
    "cost expanded at the mean, step size adapted": (
        LQRGPS(expansion="mean", smallest_step=0.1, largest_step=10.0),
        30,
        1.03,
    ),
    "mixture as prior, smooth noise, five rollouts": (LQRGPS(prior="gmm", noise_smoothing=2.0), 5, 1.1),
}


@pytest.mark.parametrize("name", VARIANTS)
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
    if algorithm.largest_step > 1:
        assert report.info.step_factor.max() > 2.0


def test_prediction_is_what_happens_where_the_model_is_right():
    algorithm, problem = LQRGPS(kl_step=0.3), TASK.problem()
    state = algorithm.init(problem, 500, jax.random.key(0))
    rollouts = roll(algorithm, JaxWorld(problem), state, 500)
    new, info = update(algorithm, problem, state, rollouts)
    before, after = (TASK.expected_cost(jax.tree.map(lambda leaf: leaf[0], s.controller)) for s in (state, new))
    np.testing.assert_allclose(info.predicted, before - after, rtol=0.1)
    assert before - after > 0


@pytest.mark.parametrize(
    ("before", "promised", "now", "factor"),
    [
        (10.0, 4.0, 5.0, 3.0),  # 6 promised, 1 missed: 6 / 2
        (10.0, 4.0, 7.0, 1.0),  # half of it came: the step stays
        (10.0, 4.0, 10.0, 0.5),  # nothing came
        (10.0, 4.0, 1e9, FACTOR_CLIP[0]),
        (10.0, 4.0, 3.0, FACTOR_CLIP[1]),  # better than promised: grow, and do not flip
        (10.0, 4.0, 4.0, FACTOR_CLIP[1]),
        (jnp.nan, jnp.nan, 5.0, 1.0),  # nothing known
    ],
)
def test_step_size_follows_promised_over_twice_missed(before, promised, now, factor):
    algorithm = LQRGPS(smallest_step=1e-3, largest_step=1e3)
    state = algorithm.init(TASK.problem(), 20, jax.random.key(0))
    state = state._replace(
        cost_before=jnp.asarray(before), cost_promised=jnp.asarray(promised), factor=jnp.asarray(1.0)
    )
    np.testing.assert_allclose(algorithm._factor(state, jnp.asarray(now)), factor)


def test_a_condition_without_usable_rollouts_keeps_its_controller():
    problem = TASK.problem()
    mean, cov = problem.conditions.mean, problem.conditions.cov
    twice = eqx.tree_at(
        lambda p: p.conditions, problem, Gaussian(jnp.concatenate([mean, -mean]), jnp.concatenate([cov, cov]))
    )
    algorithm = LQRGPS()
    state = algorithm.init(twice, 20, jax.random.key(0))
    rollouts = roll(algorithm, JaxWorld(twice), state, 20)
    broken = eqx.tree_at(lambda r: (r.valid, r.x), rollouts, (rollouts.valid.at[1, 3:].set(False), rollouts.x))
    new, info = update(algorithm, twice, state, broken)
    assert info.ok
    assert info.kept == 0.5
    for a, b in zip(jax.tree.leaves(new.controller), jax.tree.leaves(state.controller), strict=True):
        np.testing.assert_array_equal(a[1], b[1])
        assert not np.array_equal(a[0], b[0])
    none = eqx.tree_at(lambda r: r.valid, rollouts, jnp.zeros_like(rollouts.valid))
    kept, info = update(algorithm, twice, state, none)
    assert not info.ok
    assert info.kept == 1.0
    for name, value in info._asdict().items():
        assert np.isfinite(value), name
    for a, b in zip(jax.tree.leaves(kept.controller), jax.tree.leaves(state.controller), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("settings", "samples", "words"),
    [
        ({"kl_step": 0.0}, 20, "kl_step=0.0: the bound on the KL must be positive"),
        ({"trust": "both"}, 20, "trust='both': choose one of trajectory, step"),
        ({"prior": "niw"}, 20, "prior='niw': choose one of none, gmm"),
        ({"smallest_step": 2.0}, 20, "smallest_step=2.0"),
        ({"largest_step": 0.5}, 20, "largest_step=0.5"),
        ({"noise_smoothing": -1.0}, 20, "noise_smoothing=-1.0"),
        ({"clusters": 1}, 20, "clusters=1"),
        ({}, 7, "rollouts=7: without a prior .* at least 8 rollouts .* prior='gmm'"),
        ({"prior": "gmm"}, 1, "rollouts=1: .* at least 2"),
    ],
)
def test_refuses_what_cannot_work(settings, samples, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production
    with pytest.raises(ValueError, match=words):
        LQRGPS(**settings).init(TASK.problem(), samples, jax.random.key(0))
