"""MOTO: every variant finds the known optimum; what it claims of its constraints holds; bad settings are refused."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from dear import mostly_slow

from pilotfish.algorithms import moto
from pilotfish.algorithms.moto import MOTO
from pilotfish.runs import loop
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.tasks.multi_link import MultiLink
from pilotfish.types import Gaussian, Problem
from pilotfish.worlds.jax import JaxWorld

TASK = LinearQuadratic()
SEEDS = [0, 1]


@eqx.filter_jit
def update(algorithm, problem, state, rollouts):
    return algorithm.update(problem, state, rollouts, jax.random.key(0))


@eqx.filter_jit
def roll(algorithm, world, state, samples, seed):
    return world.rollout(algorithm.explore(state), samples, jax.random.key(seed))


def learn(algorithm, samples, iterations, task=TASK):
    world, keys = JaxWorld(task.problem()), loop.root_keys(SEEDS)
    states = loop.initial(algorithm, world, samples, keys)
    return loop.scan(algorithm, world, samples, keys, 0, iterations, states)


VARIANTS = {
    "reuse over time": (MOTO(reuse="time"), 15, 30, 1.1),
    "reuse over iterations": (MOTO(reuse="iterations"), 15, 30, 1.1),
    "reuse over both": (MOTO(reuse="both"), 8, 30, 1.1),
    "propagated marginals": (MOTO(reuse="iterations", marginal="propagated"), 15, 30, 1.1),
    "Monte Carlo": (MOTO(targets="monte-carlo"), 100, 30, 1.1),
    "no entropy bound": (MOTO(entropy_drop=float("inf")), 60, 20, 1.1),
}


ALWAYS = {"reuse over both"}
"""The variant that has parts of most others."""


@pytest.mark.parametrize("name", mostly_slow(VARIANTS, ALWAYS))
def test_every_variant_approaches_the_known_optimum(name):
    algorithm, samples, iterations, factor = VARIANTS[name]
    states, report = learn(algorithm, samples, iterations)
    optimum = TASK.optimum()[1]
    assert np.all(report.info.ok)
    for s in range(len(SEEDS)):
        controller = jax.tree.map(lambda leaf, s=s: leaf[s, 0], states.controller)
        mean = algorithm.exploit(jax.tree.map(lambda leaf, s=s: leaf[s], states)).controller
        reached = TASK.expected_cost(jax.tree.map(lambda leaf: leaf[0], mean))
        assert optimum * (1 - 1e-9) <= reached < factor * optimum, (name, float(reached / optimum))
        assert np.isfinite(controller.chol).all()
    assert (report.info.kl_max <= algorithm.kl_step * (1 + 1e-6)).all()
    if np.isfinite(algorithm.entropy_drop):
        assert (report.info.entropy_change >= -algorithm.entropy_drop - 1e-9).all()


@pytest.mark.slow
def test_entropy_bound_keeps_exploring():
    bounded = learn(MOTO(entropy_drop=0.05), 60, 20)[1].info.entropy
    unbounded = learn(MOTO(entropy_drop=float("inf")), 60, 20)[1].info.entropy
    assert (bounded[:, -1] > unbounded[:, -1] + 0.1).all()
    assert (bounded[:, -1] >= bounded[:, 0] - 19 * 0.05 - 1e-9).all()


def test_a_small_kl_step_hardly_moves():
    problem = TASK.problem()
    world, key = JaxWorld(problem), jax.random.key(0)
    algorithm = MOTO(kl_step=np.float64(1e-10))
    state = algorithm.init(problem, 500, key)
    new, info = update(algorithm, problem, state, roll(algorithm, world, state, 500, 0))
    assert info.kl_max == pytest.approx(1e-10, rel=1e-6)
    np.testing.assert_allclose(new.controller.k, state.controller.k, atol=1e-4)


def test_a_small_step_gains_what_it_predicts_and_more_than_it_guarantees():
    problem = TASK.problem()
    world, algorithm = JaxWorld(problem), MOTO(kl_step=np.float64(1e-4))  # an argument: compiled once
    state = algorithm.init(problem, 500, jax.random.key(0))
    new, info = update(algorithm, problem, state, roll(algorithm, world, state, 500, 1))
    before, after = (TASK.expected_cost(jax.tree.map(lambda leaf: leaf[0], s.controller)) for s in (state, new))
    assert info.predicted == pytest.approx(float(before - after), rel=0.1)
    assert 0 < info.guaranteed < before - after


def test_no_controller_moves_where_there_is_no_evidence():
    """With few effective samples the bounds shrink in proportion: one usable rollout of 20 moves next to nothing."""
    problem = TASK.problem()
    world, key = JaxWorld(problem), jax.random.key(0)
    algorithm = MOTO(reuse="iterations")
    state = algorithm.init(problem, 20, key)
    rollouts = roll(algorithm, world, state, 20, 0)
    _, info = update(algorithm, problem, state, rollouts)
    features = 28
    assert info.ess == pytest.approx(20)
    assert info.kl_max == pytest.approx(algorithm.kl_step * 20 / features, rel=1e-6)


def test_reused_samples_are_the_newest_first_and_at_most_memory():
    problem = TASK.problem()
    world, algorithm = JaxWorld(problem), MOTO(reuse="both", memory=4)
    state = algorithm.init(problem, 3, jax.random.key(0))
    seen = []
    for i in range(6):
        rollouts = roll(algorithm, world, state, 3, i)
        state, _ = update(algorithm, problem, state, rollouts)
        seen.append(rollouts.x[0])
    np.testing.assert_array_equal(state.history.x[0], jnp.stack(seen[:1:-1]))
    assert (state.history.steps > 0).sum() == 12


@pytest.mark.slow
def test_conditions_are_learned_apart():
    """Two starts on opposite sides of the goal get opposite controllers."""
    problem = TASK.problem()
    mean, cov = problem.conditions.mean, problem.conditions.cov
    both = Problem(
        horizon=problem.horizon,
        dt=problem.dt,
        conditions=Gaussian(jnp.concatenate([mean, -mean]), jnp.concatenate([cov, cov])),
        initial_std=problem.initial_std,
        cost=problem.cost,
        final_cost=problem.final_cost,
        dynamics=problem.dynamics,
    )
    world, keys, algorithm = JaxWorld(both), loop.root_keys([0]), MOTO()
    states, _ = loop.scan(algorithm, world, 60, keys, 0, 20, loop.initial(algorithm, world, 60, keys))
    first_action = states.controller.K[0, :, 0] @ both.conditions.mean[..., None]
    first_action = first_action[..., 0] + states.controller.k[0, :, 0]
    np.testing.assert_allclose(first_action[0], -first_action[1], atol=0.4)
    assert np.abs(first_action[0]).max() > 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl_step": 0.0}, "kl_step=0.0: the bound on the KL must be positive"),
        ({"kl_step": -1.0}, "kl_step=-1.0"),
        ({"entropy_drop": -0.1}, "entropy_drop=-0.1"),
        ({"state_decay": 1.5}, "state_decay=1.5"),
        ({"ridge": 0.0}, "ridge=0.0"),
        ({"memory": 0}, "memory=0"),
        ({"reuse": "all"}, "reuse='all': choose one of none, time, iterations, both"),
        ({"marginal": "exact"}, "marginal='exact'"),
        ({"targets": "td"}, "targets='td'"),
        ({"targets": "monte-carlo", "reuse": "both"}, "Set reuse='none'"),
    ],
)
def test_bad_settings_are_refused_in_the_users_words(settings, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production
    with pytest.raises(ValueError, match=message):
        MOTO(**settings)


def test_fewer_rollouts_than_features_are_refused_without_reuse():
    problem = MultiLink().problem()
    with pytest.raises(ValueError, match=r"rollouts=20: .* at least 28 .* reuse='both'"):
        MOTO().init(problem, 20, jax.random.key(0))
    MOTO(reuse="both").init(problem, 20, jax.random.key(0))
    MOTO(underdetermined=True).init(problem, 20, jax.random.key(0))


def test_few_rollouts_an_iteration_are_collected_until_they_suffice():
    """Three rollouts do not make a distribution over four states; six do."""
    algorithm, problem = MOTO(reuse="both", memory=4), TASK.problem()
    state = algorithm.init(problem, 3, jax.random.key(0))
    first, info = update(algorithm, problem, state, roll(algorithm, JaxWorld(problem), state, 3, 0))
    assert info.ok
    assert info.kl_max == 0.0
    assert (first.history.steps > 0).sum() == 3
    for old, new in zip(jax.tree.leaves(state.controller), jax.tree.leaves(first.controller), strict=True):
        np.testing.assert_array_equal(old, new)
    second, info = update(algorithm, problem, first, roll(algorithm, JaxWorld(problem), first, 3, 1))
    assert info.ok
    assert info.kl_max > 0.0
    assert not np.array_equal(second.controller.K, first.controller.K)


def test_a_rollout_that_broke_off_is_not_collected():
    algorithm, problem = MOTO(reuse="both", memory=4), TASK.problem()
    state = algorithm.init(problem, 3, jax.random.key(0))
    rollouts = roll(algorithm, JaxWorld(problem), state, 3, 0)
    none = eqx.tree_at(lambda r: r.steps, rollouts, jnp.zeros_like(rollouts.steps))
    assert not update(algorithm, problem, state, none)[1].ok


def test_what_takes_long_is_said_before_it_begins(monkeypatch):
    monkeypatch.setattr(moto, "_speed", lambda: 1e10)
    start = Gaussian(jnp.zeros((1, 24)), jnp.eye(24)[None])
    wide = Problem(horizon=200, dt=0.1, conditions=start, initial_std=np.ones(4), cost=None)
    said = MOTO(reuse="both").caution(wide, 20)
    assert "200 regressions of 20,000 samples on the 435 features of 24 + 4 variables" in said
    assert "about 151 s a seed" in said
    assert MOTO(reuse="both").caution(TASK.problem(), 20) == MOTO().caution(wide, 500) == ""
