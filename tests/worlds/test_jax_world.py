"""The simulated world: for every task with equations, and on small problems where the outcome is known."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dear import mostly_slow

from pilotfish import tasks
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.tasks import DrawnTask
from pilotfish.types import Gaussian, LinearGaussian, Problem
from pilotfish.worlds.jax import JaxWorld

M = 3


def policy(problem, mean=0.0, std=0.0, conditions=1):
    """Independent of the state: `mean` (a number, or one an action and condition) with noise of `std`."""
    shape = conditions, problem.horizon, problem.du
    k = jnp.broadcast_to(jnp.asarray(mean, float), shape)
    chol = jnp.broadcast_to(jnp.diag(jnp.broadcast_to(jnp.asarray(std, float), problem.du)), (*shape, problem.du))
    return LinearGaussianPolicy(LinearGaussian(jnp.zeros((*shape, problem.dx)), k, chol))


# ---- every task with equations ----


class Trial(NamedTuple):
    problem: Problem
    run: object
    """`run(policy, key)`, compiled once a task."""


def one_of_each_class():
    """Names of tasks with equations; all but the first of each class are slow."""
    names = sorted(name for name, entry in tasks.registry().items() if isinstance(entry.make(), DrawnTask))
    return mostly_slow(names, always={tasks.registry()[name].source: name for name in reversed(names)}.values())


@pytest.fixture(scope="module", params=one_of_each_class())
def trial(request):
    problem = tasks.registry()[request.param].make().problem()
    return Trial(problem, jax.jit(lambda policy, key: JaxWorld(problem).rollout(policy, M, key)))


def test_rollouts_are_finite_and_of_the_promised_shapes(trial):
    problem = trial.problem
    r = trial.run(policy(problem, std=problem.initial_std), jax.random.key(0))
    N, T = len(problem.conditions.mean), problem.horizon
    shapes = (N, M, T + 1, problem.dx), (N, M, T + 1, problem.dx), (N, M, T, problem.du), (N, M, T + 1), (N, M)
    assert tuple(a.shape for a in (r.x, r.o, r.u, r.cost, r.valid)) == shapes
    assert all(jnp.isfinite(a).all() for a in (r.x, r.o, r.u, r.cost))
    assert r.valid.all()


def test_a_key_fixes_the_rollouts_of_a_call_which_differ_among_themselves(trial):
    wild = policy(trial.problem, std=trial.problem.initial_std)
    first, again, other = (trial.run(wild, jax.random.key(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    for a, b in ((first.x, other.x), (first.u, other.u)):
        assert len(np.unique(np.concatenate([a[0], b[0]]), axis=0)) == 2 * M


def test_the_recorded_steps_are_those_of_the_problem(trial):
    problem = trial.problem
    r = trial.run(policy(problem, std=problem.initial_std), jax.random.key(0))
    x, last = r.x[0, :, :-1], r.x[0, :, -1]

    @jax.jit
    @jax.vmap
    def repeat(x, u, last):
        final = problem.final_cost(last)
        cost = jax.vmap(problem.cost)(x, u, jnp.arange(problem.horizon))
        return jnp.append(cost, final), jax.vmap(problem.dynamics)(x, problem.admissible(u))

    cost, moved = repeat(x, r.u[0], last)
    np.testing.assert_allclose(r.cost[0], cost, rtol=1e-9)
    noise = problem.noise_std
    assert (jnp.abs(r.x[0, :, 1:] - moved) <= 6 * noise + 1e-9 * (1 + jnp.abs(moved))).all()


def test_a_plant_is_moved_by_the_action_within_its_bounds_but_the_one_asked_for_is_recorded(trial):
    problem = trial.problem
    bounded = bool(np.isfinite(problem.action_high).all())
    bound = problem.action_high if bounded else jnp.ones(problem.du)
    bound = bound * (-1) ** jnp.arange(problem.du)
    at, beyond = (trial.run(policy(problem, factor * bound), jax.random.key(0)) for factor in (1, 3))
    np.testing.assert_array_equal(beyond.u, jnp.broadcast_to(3 * bound, beyond.u.shape))
    assert jnp.array_equal(at.x, beyond.x) == bounded


# ---- small problems ----


def drift(**changes):
    """x' = x + u in one dimension, from N(0, 1)."""
    known = {
        "horizon": 4,
        "dt": 0.1,
        "conditions": Gaussian(jnp.zeros((1, 1)), jnp.ones((1, 1, 1))),
        "initial_std": jnp.ones(1),
        "cost": lambda x, u, t: x[0] ** 2 + u[0] ** 2 + t,
        "dynamics": lambda x, u: x + u,
    }
    return Problem(**(known | changes))


def rollout(problem, samples, **kind):
    run = jax.jit(lambda policy: JaxWorld(problem).rollout(policy, samples, jax.random.key(0)))
    return run(policy(problem, **kind))


BREAKS = {
    "state": {"dynamics": lambda x, u: jnp.where(x > 0, jnp.nan, x)},
    "last state": {"horizon": 1, "dynamics": lambda x, u: jnp.where(x > 0, jnp.nan, x)},
    "endless": {"dynamics": lambda x, u: jnp.where(x > 0, jnp.inf, x)},
    "cost": {"cost": lambda x, u, t: jnp.where((x[0] > 0) & (t == 2), jnp.nan, 0.0)},
    "final cost": {"final_cost": lambda x: jnp.where(x[0] > 0, jnp.nan, 0.0)},
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_rollout_that_is_not_finite_is_invalid_and_the_others_are_not(what):
    r = rollout(drift(**BREAKS[what]), 20)
    broken = r.x[0, :, 0, 0] > 0
    assert 0 < broken.sum() < 20
    np.testing.assert_array_equal(r.valid[0], ~broken)


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ({"dynamics": lambda x, u: jnp.sqrt(x - u)}, r"dynamics\(x, u\) is \[nan\].*x=\[0.5\].*u=\[0.75\]"),
        ({"cost": lambda x, u, t: jnp.log(x[0] - 0.5) + t}, r"cost\(x, u, t\) is -inf"),
        ({"final_cost": lambda x: jnp.sqrt(-x[0])}, r"final_cost\(x\) is nan"),
        ({"observe": lambda x: jnp.append(x, 1 / (x[0] - 0.5))}, r"observe\(x\) is \[0.5, inf\]"),
        ({"success": lambda x, u: jnp.sqrt(x[-1, 0] - u[0, 0])}, r"success\(x, u\) is nan"),
    ],
)
def test_a_problem_that_is_not_finite_where_learning_begins_is_refused_by_name(what, named):
    """Else all rollouts break off at their first step, and the first iteration says so after all was compiled."""
    begin = {
        "conditions": Gaussian(jnp.full((1, 1), 0.5), jnp.ones((1, 1, 1))),
        "first_controller": LinearGaussian(jnp.ones((1, 4, 1, 1)), jnp.full((1, 4, 1), 0.25), jnp.ones((1, 4, 1, 1))),
    }
    with pytest.raises(ValueError, match=named):
        JaxWorld(drift(**begin, **what))
    JaxWorld(drift(**begin))


def test_an_action_that_is_not_finite_is_invalid():
    problem = drift(dynamics=lambda x, u: x, cost=lambda x, u, t: 0 * x[0])
    assert not rollout(problem, 2, mean=jnp.nan).valid.any()


def test_start_is_drawn_from_its_distribution_and_exact_where_that_has_no_variance():
    cov = np.array([[4.0, 1.2, 0.0], [1.2, 1.0, 0.0], [0.0, 0.0, 0.0]])
    mean = np.array([1.0, -2.0, 3.0])
    problem = drift(conditions=Gaussian(jnp.asarray(mean[None]), jnp.asarray(cov[None])), dynamics=lambda x, u: x)
    x0 = np.asarray(rollout(problem, 20000).x[0, :, 0])
    assert (x0[:, 2] == 3.0).all()
    np.testing.assert_allclose(x0.mean(0), mean, atol=4 * 2 / np.sqrt(20000))
    np.testing.assert_allclose(np.cov(x0.T), cov, atol=4 * 4 * np.sqrt(2 / 20000))


def test_noise_of_the_process_is_fresh_every_step():
    problem = drift(noise_std=jnp.full(1, 0.3), horizon=3)
    steps = np.diff(np.asarray(rollout(problem, 20000, mean=0.5).x[0, :, :, 0]), axis=1)
    np.testing.assert_allclose(steps.mean(0), 0.5, atol=4 * 0.3 / np.sqrt(20000))
    np.testing.assert_allclose(np.cov(steps.T), 0.09 * np.eye(3), atol=4 * 0.09 * np.sqrt(2 / 20000))


def test_each_condition_has_its_own_start_and_controller():
    starts = Gaussian(jnp.array([[0.0], [10.0]]), jnp.zeros((2, 1, 1)))
    problem = drift(conditions=starts)
    r = rollout(problem, 2, mean=jnp.array([1.0, -2.0])[:, None, None], conditions=2)
    expected = np.array([0.0, 10.0])[:, None] + np.array([1.0, -2.0])[:, None] * np.arange(5)
    np.testing.assert_array_equal(r.x[..., 0], np.broadcast_to(expected[:, None], (2, 2, 5)))


def test_cost_is_that_of_each_step_and_then_of_the_last_state():
    still = Gaussian(jnp.zeros((1, 1)), jnp.zeros((1, 1, 1)))
    r = rollout(drift(conditions=still, final_cost=lambda x: 100 * x[0]), 1, mean=2.0)
    np.testing.assert_allclose(r.cost[0, 0], [4, 4 + 4 + 1, 16 + 4 + 2, 36 + 4 + 3, 800])
    assert rollout(drift(conditions=still), 1, mean=2.0).cost[0, 0, -1] == 0


def test_a_policy_sees_what_the_problem_shows():
    problem = drift(observe=lambda x: jnp.append(x, 2 * x))
    r = rollout(problem, 3, std=1.0)
    np.testing.assert_array_equal(r.o, jnp.concatenate([r.x, 2 * r.x], -1))


def test_a_problem_without_equations_is_refused():
    with pytest.raises(ValueError, match="dynamics"):
        JaxWorld(drift(dynamics=None))
