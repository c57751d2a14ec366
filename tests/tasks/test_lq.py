"""The point mass's known optimum against one dense quadratic programme and against simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.types import LinearGaussian
from pilotfish.worlds.jax import JaxWorld

T, DX, DU = 20, 4, 2
TASK = LinearQuadratic()
PROBLEM = TASK.problem()


def random_controller(seed):
    rng = np.random.default_rng(seed)
    K, k = 0.5 * rng.normal(size=(T, DU, DX)), rng.normal(size=(T, DU))
    chol = np.tril(0.3 * rng.normal(size=(T, DU, DU)), -1) + 0.5 * np.eye(DU)
    return LinearGaussian(jnp.asarray(K), jnp.asarray(k), jnp.asarray(chol))


@jax.jit
def episode_costs(controller):
    policy = LinearGaussianPolicy(jax.tree.map(lambda leaf: leaf[None], controller))
    return JaxWorld(PROBLEM).rollout(policy, 5000, jax.random.key(0)).cost.sum(-1)[0]


def plan(start, steps):
    """Cheapest actions (steps, du) without noise: the last `steps` steps as one equality-constrained programme.

    Stacked states x_1.. and actions u_0..: minimise 1/2 w'Hw such that E w = e, by the KKT equations.
    """
    i, o = np.eye(2), np.zeros((2, 2))
    A, B = np.block([[i, 0.1 * i], [o, i]]), np.vstack([0.005 * i, 0.1 * i])
    state, nx = np.diag([1.0, 1.0, 0.1, 0.1]), DX * steps
    H = np.zeros((nx + DU * steps, nx + DU * steps))
    H[:nx, :nx] = np.kron(np.diag([1.0] * (steps - 1) + [10.0]), state)
    H[nx:, nx:] = 0.1 * np.eye(DU * steps)
    E = np.hstack([np.eye(nx) - np.kron(np.eye(steps, k=-1), A), -np.kron(np.eye(steps), B)])
    e = np.append(A @ start, np.zeros(nx - DX))
    kkt = np.block([[H, E.T], [E, np.zeros((nx, nx))]])
    w = np.linalg.solve(kkt, np.append(np.zeros(len(H)), e))
    return w[nx : len(H)].reshape(steps, DU)


@pytest.mark.parametrize("t", [0, 1, 10, 19])
def test_optimal_action_begins_the_best_plan_from_any_state(t):
    controller, _ = TASK.optimum()
    for x in np.random.default_rng(t).normal(size=(3, DX)):
        np.testing.assert_allclose(controller.at(t).mean(jnp.asarray(x)), plan(x, T - t)[0], rtol=1e-9, atol=1e-12)


def test_optimal_actions_without_noise_are_the_best_plan():
    controller, _ = TASK.optimum()
    x, actions = PROBLEM.conditions.mean[0], []
    for t in range(T):
        actions.append(controller.at(t).mean(x))
        x = PROBLEM.dynamics(x, actions[-1])
    np.testing.assert_allclose(actions, plan(np.array([1.0, -0.5, 0.0, 0.0]), T), rtol=1e-9, atol=1e-12)


def test_expected_cost_of_the_optimum_is_what_rollouts_cost():
    controller, cost = TASK.optimum()
    np.testing.assert_allclose(TASK.expected_cost(controller), cost, rtol=1e-9)
    found = episode_costs(controller)
    assert jnp.abs(found.mean() - cost) < 4 * found.std() / np.sqrt(len(found))


@pytest.mark.parametrize("seed", [0, 1])
def test_expected_cost_of_any_controller_is_what_rollouts_cost(seed):
    controller = random_controller(seed)
    found = episode_costs(controller)
    error = found.std() / np.sqrt(len(found))
    assert jnp.abs(found.mean() - TASK.expected_cost(controller)) < 4 * error
    assert error < 0.05 * found.mean()


def test_no_other_controller_is_cheaper():
    best, cost = TASK.optimum()

    @jax.jit
    def rise(scale, other):
        mixed = LinearGaussian(best.K + scale * other.K, best.k + scale * other.k, scale * other.chol)
        return TASK.expected_cost(mixed) - cost

    for seed in range(5):
        for scale in (-0.1, -1e-3, 1e-3, 0.1):
            assert rise(scale, random_controller(seed)) > 0
