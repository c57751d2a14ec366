"""What every algorithm of the registry must do, without exceptions."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pilotfish import algorithms
from pilotfish.runs import loop
from pilotfish.runs.store import Run, Spec
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.types import Gaussian
from pilotfish.worlds.jax import JaxWorld

NAMES = sorted(algorithms.registry())
SAMPLES, ITERATIONS = 60, 30
TASK = LinearQuadratic()


@eqx.filter_jit
def update(algorithm, problem, state, rollouts, key):
    return algorithm.update(problem, state, rollouts, key)


@eqx.filter_jit
def roll(algorithm, world, state, key):
    return world.rollout(algorithm.explore(state), SAMPLES, key)


@pytest.fixture(scope="module", params=NAMES)
def algorithm(request):
    return algorithms.registry()[request.param].make()


@pytest.fixture(scope="module")
def learned(algorithm):
    """States and reports of a run of two seeds on the linear-quadratic task."""
    world, keys = JaxWorld(TASK.problem()), loop.root_keys([0, 1])
    states = loop.initial(algorithm, world, SAMPLES, keys)
    return loop.scan(algorithm, world, SAMPLES, keys, 0, ITERATIONS, states)


def test_reaches_the_known_optimum(algorithm, learned):
    optimum = TASK.optimum()[1]
    for s in range(2):
        policy = algorithm.exploit(jax.tree.map(lambda leaf, s=s: leaf[s], learned[0]))
        controller = jax.tree.map(lambda leaf: leaf[0], policy.controller)
        assert optimum <= TASK.expected_cost(controller) < 1.03 * optimum


def test_reports_are_finite(learned):
    report = learned[1]
    assert np.all(report.info.ok)
    for name, values in report.info._asdict().items():
        assert np.isfinite(values).all(), name


def test_kl_bound_is_kept_and_used(algorithm, learned):
    """Whoever has a step size in nats says what it did with it."""
    if hasattr(algorithm, "kl_step"):
        kl = learned[1].info.kl_max
        assert (kl <= algorithm.kl_step * (1 + 1e-6)).all()
        assert (kl >= 0.99 * algorithm.kl_step).all()


def test_learns_more_than_the_exploration_it_gives_up(learned):
    cost = learned[1].outcome.cost
    assert (cost[:, -1] < 0.5 * cost[:, 0]).all()


def test_compiles_once(algorithm):
    problem = TASK.problem()
    traces = []

    def counted(x, u, t, cost=problem.cost):
        traces.append(1)
        return cost(x, u, t)

    world = JaxWorld(eqx.tree_at(lambda p: p.cost, problem, counted))
    keys = loop.root_keys([0])
    states = loop.initial(algorithm, world, SAMPLES, keys)
    counts = [len(traces) for _ in loop.turns(algorithm, world, SAMPLES, keys, 0, 4, states)]
    assert counts[0] > 0
    assert counts == [counts[0]] * 4


def test_copies_of_a_condition_get_equal_answers(algorithm):
    problem = TASK.problem()
    world, key = JaxWorld(problem), jax.random.key(0)
    state = algorithm.init(problem, SAMPLES, key)
    rollouts = roll(algorithm, world, state, key)
    single, _ = update(algorithm, problem, state, rollouts, key)
    mean, cov = problem.conditions.mean, problem.conditions.cov
    twice = eqx.tree_at(
        lambda p: p.conditions, problem, Gaussian(jnp.concatenate([mean, mean]), jnp.concatenate([cov, cov]))
    )
    doubled = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), rollouts)
    both, info = update(algorithm, twice, algorithm.init(twice, SAMPLES, key), doubled, key)
    assert info.ok
    for one, two in zip(jax.tree.leaves(single), jax.tree.leaves(both), strict=True):
        np.testing.assert_allclose(two[0], two[1], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(two[0], one[0], rtol=1e-6, atol=1e-8)


def test_hyperparameters_can_be_swept_side_by_side(algorithm):
    problem = TASK.problem()
    world, key = JaxWorld(problem), jax.random.key(0)
    state = algorithm.init(problem, SAMPLES, key)
    rollouts = roll(algorithm, world, state, key)
    names = [field.name for field in dataclasses.fields(algorithm) if isinstance(getattr(algorithm, field.name), float)]
    name = next(name for name in names if not algorithm.__dataclass_fields__[name].metadata.get("static"))

    @eqx.filter_jit
    def swept(number):
        return update(eqx.tree_at(lambda a: getattr(a, name), algorithm, number), problem, state, rollouts, key)

    numbers = getattr(algorithm, name) * jnp.array([0.5, 1.0])
    together = jax.vmap(swept)(numbers)
    for i, number in enumerate(numbers):
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(swept(number)), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-6, atol=1e-9)


def test_state_survives_the_store(algorithm, learned, tmp_path):
    spec = Spec({"name": "lq"}, {"name": "any"}, SAMPLES, ITERATIONS, [0, 1], 10)
    run = Run.create(tmp_path / "run", spec)
    run.save_checkpoint(7, learned[0])
    like = loop.initial(algorithm, JaxWorld(TASK.problem()), SAMPLES, loop.root_keys([0, 1]))
    i, restored = run.load_checkpoint(like)
    assert i == 7
    assert jax.tree.structure(restored) == jax.tree.structure(learned[0])
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(learned[0]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rollouts_that_broke_off_are_not_used(algorithm):
    """What stands in an invalid rollout changes nothing."""
    problem = TASK.problem()
    world, key = JaxWorld(problem), jax.random.key(0)
    state = algorithm.init(problem, SAMPLES, key)
    rollouts = roll(algorithm, world, state, key)
    rollouts = eqx.tree_at(lambda r: r.valid, rollouts, rollouts.valid.at[0, 3].set(False))
    ruined = eqx.tree_at(
        lambda r: (r.x, r.u, r.cost),
        rollouts,
        (
            rollouts.x.at[0, 3, 5:].set(jnp.nan),
            rollouts.u.at[0, 3].set(1e9),
            rollouts.cost.at[0, 3].set(jnp.inf),
        ),
    )
    for a, b in zip(
        jax.tree.leaves(update(algorithm, problem, state, rollouts, key)),
        jax.tree.leaves(update(algorithm, problem, state, ruined, key)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
