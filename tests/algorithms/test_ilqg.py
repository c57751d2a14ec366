"""iLQG against dense quadratic programs, SciPy's minimisers, finite differences, and problems that mislead it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import mujoco
import numpy as np
import pytest
from oracles import draw, point_mass, regulator
from scipy import optimize

from pilotfish import algorithms, experiments
from pilotfish.algorithms.ilqg import ILQG
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.runs import loop
from pilotfish.runs.store import Run, Spec
from pilotfish.tasks import find
from pilotfish.tasks.cartpole import CartPole
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.types import Gaussian, Problem, Rollouts
from pilotfish.updates import ilqg_step
from pilotfish.updates.best_so_far import BestSoFar
from pilotfish.updates.trust_region import TrustRegion
from pilotfish.worlds.jax import JaxWorld
from pilotfish.worlds.mujoco import MujocoWorld

T, DX, DU = 6, 3, 2
CART_POLE = CartPole().problem()
KEY = jax.random.key(0)


def no_rollouts(problem):
    n, horizon = problem.conditions.mean.shape[0], problem.horizon
    x, u = jnp.zeros((n, 1, horizon + 1, problem.dx)), jnp.zeros((n, 1, horizon, problem.du))
    return Rollouts(x=x, o=x, u=u, cost=x[..., 0], steps=jnp.full((n, 1), horizon), episode=None)


@eqx.filter_jit
def iterate(algorithm, problem, count, key):
    """States after 0 .. count iterations, and what each iteration reports."""

    def step(state, _):
        new, info = algorithm.update(problem, state, no_rollouts(problem), key)
        return new, (state, info)

    last, (states, infos) = jax.lax.scan(step, algorithm.init(problem, 1, key), None, length=count)
    return jax.tree.map(lambda all_, end: jnp.concatenate([all_, end[None]]), states, last), infos


def solve(problem, count, key=KEY, **settings):
    """`iterate`, compiled once for all settings."""
    return iterate(jax.tree.map(jnp.asarray, ILQG(**settings)), problem, count, key)


def at(states, i, condition=0):
    return jax.tree.map(lambda leaf: leaf[i, condition], states.nominal)


def problem_of(dynamics, cost, start, horizon=T, du=DU, **more):
    mean = jnp.atleast_2d(jnp.asarray(start))
    cov = jnp.broadcast_to(0.01 * jnp.eye(mean.shape[1]), (*mean.shape, mean.shape[1]))
    more = {"initial_std": jnp.ones(du)} | more
    return Problem(horizon, 0.1, conditions=Gaussian(mean, cov), cost=cost, dynamics=dynamics, **more)


def cases(rng, n, d, decades):
    """Box-constrained programs in which none, some or all limits bind."""
    turn = draw.orthogonal(rng, n, d)
    H = np.einsum("nij,nj,nkj->nik", turn, 10 ** rng.uniform(-decades, 0, (n, d)), turn)
    g = rng.normal(size=(n, d))
    best = -np.linalg.solve(H, g[..., None])[..., 0]
    size = np.abs(best).max(1, keepdims=True)
    middle = size * np.where(np.arange(n)[:, None] % 2, rng.normal(size=(n, d)), 0.0)
    width = size * 10 ** rng.uniform(-3, 2, (n, 1)) * rng.uniform(0.1, 1.0, (n, d))
    return H, g, middle - width, middle + width


@pytest.mark.parametrize(
    ("d", "decades"),
    [(1, 0.0), (2, 4.0), pytest.param(5, 2.0, marks=pytest.mark.slow), pytest.param(7, 6.0, marks=pytest.mark.slow)],
)
def test_box_minimum_is_optimal(d, decades):
    """By the conditions of Karush, Kuhn and Tucker on many programs, by SciPy's active set method on some."""
    H, g, low, high = cases(np.random.default_rng(d), 2000, d, decades)
    u, free = map(np.asarray, jax.jit(jax.vmap(ilqg_step.box_minimum))(*map(jnp.asarray, (H, g, low, high))))
    slope = np.einsum("nij,nj->ni", H, u) + g
    assert (u >= low).all()
    assert (u <= high).all()
    size = np.abs(g).max(1, keepdims=True) + np.einsum("nij,nj->ni", np.abs(H), np.abs(u))
    assert (np.abs(slope) < 1e-7 * size)[free].all()
    assert ((u == low) & (slope > 0) | (u == high) & (slope < 0))[~free].all()
    assert free.all(1).any()
    assert (~free).all(1).any()
    for i in range(0, 2000, 50):
        L = np.linalg.cholesky(H[i])
        expected = optimize.lsq_linear(L.T, -np.linalg.solve(L, g[i]), (low[i], high[i]), "bvls", tol=1e-14)
        np.testing.assert_allclose(u[i], expected.x, rtol=1e-6, atol=1e-6 * np.abs(expected.x).max())


class Affine(eqx.Module):
    """`x' = A x + B u + c`: its numbers are data, so that all such problems are compiled once."""

    A: jax.Array
    B: jax.Array
    c: jax.Array

    def __call__(self, x, u):
        return self.A @ x + self.B @ u + self.c


class Form(eqx.Module):
    """`1/2 z'Hz + h'z` of z = [x; u] at step t, or of the last x."""

    H: jax.Array
    h: jax.Array

    def __call__(self, x, u=None, t=None):
        z, H, h = (x, self.H, self.h) if u is None else (jnp.concatenate([x, u]), self.H[t], self.h[t])
        return 0.5 * z @ H @ z + h @ z


def quadratic_numbers(seed):
    """A stable affine system, and costs that change with time, with cross and linear terms."""
    rng = np.random.default_rng(seed)
    A, B, c = rng.normal(size=(DX, DX)) / 2, rng.normal(size=(DX, DU)), rng.normal(size=DX)
    H, h = draw.covariance(rng, T, DX + DU) + 0.1 * np.eye(DX + DU), rng.normal(size=(T, DX + DU))
    return A, B, c, H, h, draw.covariance(rng, DX), rng.normal(size=DX)


def quadratic_problem(numbers, starts, low=-np.inf, high=np.inf, std=1.0):
    A, B, c, H, h, final_H, final_h = map(jnp.asarray, numbers)
    limits = {"action_low": np.broadcast_to(low, DU), "action_high": np.broadcast_to(high, DU)}
    more = {"initial_std": np.broadcast_to(std, DU), "final_cost": Form(final_H, final_h)} | limits
    return problem_of(Affine(A, B, c), Form(H, h), starts, **more)


def dense(numbers, x0, t=0):
    """The best actions from state x0 at step t on, and their cost."""
    A, B, c, H, h, final_H, final_h = numbers
    dynamics = (np.broadcast_to(a, (T - t, *a.shape)) for a in (A, B, c))
    return regulator.best_actions(x0, *dynamics, H[t:], h[t:], final_H, final_h)


def test_one_iteration_on_a_quadratic_problem_is_the_dense_quadratic_program():
    rng = np.random.default_rng(0)
    numbers, starts = quadratic_numbers(1), rng.normal(size=(3, DX))
    states, info = solve(quadratic_problem(numbers, starts), 20)
    plans = [dense(numbers, x0) for x0 in starts]
    np.testing.assert_allclose(info.nominal_cost[0], np.mean([cost for _, cost in plans]), rtol=1e-10)
    np.testing.assert_allclose(
        info.expected_reduction[0], states.nominal.cost[0].mean() - info.nominal_cost[0], rtol=1e-10
    )
    for i, (u, cost) in enumerate(plans):
        now = at(states, 1, i)
        np.testing.assert_allclose(now.u, u, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(now.cost, cost, rtol=1e-10)
        K, k = np.asarray(now.controller.K), np.asarray(now.controller.k)
        for t in range(T):  # the feedback answers any disturbance
            x = rng.normal(size=DX)
            np.testing.assert_allclose(K[t] @ x + k[t], dense(numbers, x, t)[0][0], rtol=1e-8, atol=1e-10)
    assert info.step_length[0] == 1.0
    assert (info.gradient[1:] < 1e-8).all()
    np.testing.assert_array_equal(info.regularisation, 0.0)
    np.testing.assert_allclose(states.nominal.controller.K[2], states.nominal.controller.K[1], rtol=1e-9)


def test_regularised_step_is_that_of_the_penalised_program():
    """To the penalties of action and next state, each in its own step, the first backward pass adds no other."""
    numbers, x0, mu, std = quadratic_numbers(2), np.array([1.0, -1.0, 0.5]), 3.0, np.array([0.5, 2.0])
    A, B, c, H, h, final_H, final_h = numbers
    states, _ = solve(quadratic_problem(numbers, [x0] * 3, std=std), 20, regularisation=mu)
    x, AB = np.asarray(states.nominal.x[0, 0]), np.hstack([A, B])
    # what actions of that spread drive the states to, by the powers of A
    spread = [sum(((np.linalg.matrix_power(A, i) @ B * std) ** 2).sum(1) for i in range(t)) for t in range(T + 1)]
    scale = np.append(np.sqrt(np.mean([np.broadcast_to(var, DX) for var in spread], 0)), std)
    slopes = [H[t] @ np.append(x[t], np.zeros(DU)) + h[t] for t in range(T)]
    variations = [np.linalg.norm(slopes[t] * scale) + np.linalg.norm(H[t] * np.outer(scale, scale)) for t in range(T)]
    end = scale[:DX]
    variations.append(np.linalg.norm((final_H @ x[-1] + final_h) * end) + np.linalg.norm(final_H * np.outer(end, end)))
    penalty = AB.T @ np.diag(1 / end**2) @ AB
    penalty[DX:, DX:] += np.diag(1 / std**2)
    penalty *= np.mean(variations)
    V, v, K, k = final_H, final_H @ x[-1] + final_h, [None] * T, [None] * T
    for t in reversed(range(T)):
        z = np.append(x[t], np.zeros(DU))
        Q, q = H[t] + AB.T @ V @ AB, H[t] @ z + h[t] + AB.T @ v
        R = Q + mu * penalty
        K[t], k[t] = -np.linalg.solve(R[DX:, DX:], R[DX:, :DX]), -np.linalg.solve(R[DX:, DX:], q[DX:])
        close = np.vstack([np.eye(DX), K[t]])
        V, v = close.T @ Q @ close, close.T @ (q + Q[:, DX:] @ k[t])
    at_x, now = x[0], at(states, 1)
    for t in range(T):
        u = k[t] + K[t] @ (at_x - x[t])
        np.testing.assert_allclose(now.u[t], u, rtol=1e-8)
        np.testing.assert_allclose(now.controller.K[t], K[t], rtol=1e-8, atol=1e-10)
        at_x = A @ at_x + B @ u + c


def numpy_cost(numbers, x, u):
    A, B, c, H, h, final_H, final_h = numbers
    total, slope = 0.0, []
    for t in range(T):
        z = np.append(x, u[t])
        total += 0.5 * z @ H[t] @ z + h[t] @ z
        slope.append(H[t] @ z + h[t])
        x = A @ x + B @ u[t] + c
    costate, gradient = final_H @ x + final_h, [None] * T
    for t in reversed(range(T)):
        gradient[t] = slope[t][DX:] + B.T @ costate
        costate = slope[t][:DX] + A.T @ costate
    return total + 0.5 * x @ final_H @ x + final_h @ x, np.array(gradient)


def test_within_limits_it_finds_what_scipy_finds_over_all_actions():
    numbers, starts = quadratic_numbers(3), np.array([[2.0, -1.0, 1.0], [-2.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    low, high = np.array([-0.4, -0.1]), np.array([0.2, 0.5])
    states, info = solve(quadratic_problem(numbers, starts, low, high), 20)
    assert (states.nominal.u >= low).all()
    assert (states.nominal.u <= high).all()
    for i, x0 in enumerate(starts):

        def cost(u, x0=x0):
            value, slope = numpy_cost(numbers, x0, u.reshape(T, DU))
            return value, slope.ravel()

        bounds = list(zip(np.tile(low, T), np.tile(high, T), strict=True))
        best = optimize.minimize(cost, np.zeros(T * DU), jac=True, bounds=bounds, method="L-BFGS-B", tol=1e-15)
        now = at(states, 20, i)
        np.testing.assert_allclose(now.cost, best.fun, rtol=1e-9)
        np.testing.assert_allclose(now.u.ravel(), best.x, atol=1e-5)
        bound = np.isclose(now.u, low, rtol=0, atol=1e-12) | np.isclose(now.u, high, rtol=0, atol=1e-12)
        assert 2 < bound.sum() < T * DU
        np.testing.assert_array_equal(now.controller.K[bound], 0.0)
        assert (now.controller.K[~bound] != 0).all()
    assert (np.diff(info.nominal_cost) <= 0).all()
    assert info.gradient[-1] < 1e-6 * info.gradient[0]


def test_reported_gradient_is_that_of_finite_differences():
    """Of the whole cost in the actions, but for entries that press against a limit."""
    narrow = jnp.array([-4.0]), jnp.array([4.0])
    problem = eqx.tree_at(lambda p: (p.action_low, p.action_high), CART_POLE, narrow)
    states, info = solve(problem, 80, initial_noise=1.0)
    horizon = problem.horizon

    def cost(u):
        def step(x, at_t):
            t, u = at_t
            return problem.dynamics(x, u), problem.cost(x, u, t)

        return jax.lax.scan(step, problem.conditions.mean[0], (jnp.arange(horizon), u))[1].sum()

    moves = 1e-5 * jnp.concatenate([jnp.eye(horizon), -jnp.eye(horizon)])[..., None]
    differences = jax.jit(jax.vmap(jax.vmap(lambda u, move: cost(u + move), (None, 0)), (0, None)))
    value = np.asarray(differences(states.nominal.u[:3, 0], moves))
    slope, u = (value[:, :horizon] - value[:, horizon:]) / 2e-5, np.asarray(states.nominal.u[:3, 0, :, 0])
    pressed = (np.isclose(u, -4, rtol=1e-12) & (slope > 0)) | (np.isclose(u, 4, rtol=1e-12) & (slope < 0))
    assert pressed.any(1).all()
    np.testing.assert_allclose(info.gradient[:3], np.linalg.norm(np.where(pressed, 0.0, slope), axis=1), rtol=1e-4)


@pytest.mark.parametrize(("noise", "seed"), [(0.0, 0), (0.1, 1), (1.0, 2)])
def test_swings_up_the_cart_pole_and_its_cost_never_rises(noise, seed):
    states, info = solve(CART_POLE, 80, jax.random.key(seed), initial_noise=noise)
    assert np.all(info.ok)
    for name, values in info._asdict().items():
        assert np.isfinite(values).all(), name
    cost = np.append(states.nominal.cost[0].mean(), info.nominal_cost)
    assert (np.diff(cost) <= 0).all()
    assert cost[-1] < 130
    assert cost[0] > 1e5
    last = at(states, 80)
    assert CART_POLE.success(last.x, last.u)
    assert (np.abs(states.nominal.u) <= 20).all()
    np.testing.assert_allclose(last.controller.mean(last.x[:-1]), last.u, atol=1e-9)


def test_feedback_holds_the_cart_pole_from_disturbed_starts():
    nominal = jax.tree.map(lambda leaf: leaf[-1], solve(CART_POLE, 80)[0]).nominal

    @jax.jit
    def success(K, k):
        controller = eqx.tree_at(lambda c: (c.K, c.k), nominal.controller, (K, k))
        rollouts = JaxWorld(CART_POLE).rollout(LinearGaussianPolicy(controller), 30, KEY)
        return jax.vmap(CART_POLE.success)(rollouts.x[0], rollouts.u[0]).mean()

    assert success(nominal.controller.K, nominal.controller.k) > 0.9
    assert success(0 * nominal.controller.K, nominal.u) < 0.5  # without feedback


class Drift(eqx.Module):
    """Each action moves its state by its gain; from `edge` on there is no answer."""

    gain: jax.Array
    edge: jax.Array

    def __call__(self, x, u):
        return x + self.gain * jnp.where(jnp.abs(u) < self.edge, u, jnp.nan)


class Trap(eqx.Module):
    """One of several costs, by its number, so that they are compiled together."""

    number: jax.Array

    def __call__(self, x, u, t):
        return jax.lax.switch(self.number, COSTS, x, u).sum()


def held(value):
    return jax.lax.stop_gradient(value)


COSTS = {
    "two wells": lambda x, u: (u**2 - 1) ** 2,  # at 0 there is no gradient, and the curvature is negative
    "false": lambda x, u: held(u**2 - (u - 5) ** 2) + (u - 5) ** 2,  # u^2, with the derivatives of (u - 5)^2
    "tenth": lambda x, u: (u - 5) ** 2 - 0.9 * held((u - 5) ** 2),  # a tenth of what its derivatives are of
    "kink": lambda x, u: jnp.sqrt(u**2),  # no derivative at 0
    "first only": lambda x, u: jnp.array([1.0, 0.0]) * (x**2 + 0.1 * u**2),
    "far goal": lambda x, u: (x - 3) ** 2 + 1e-3 * u**2,
}
NAMES, COSTS = list(COSTS), list(COSTS.values())


def trap(name, gain=(0.1, 0.1), edge=np.inf, start=(0.0, 0.0), **more):
    dynamics, cost = Drift(jnp.asarray(gain), jnp.asarray(edge)), Trap(jnp.asarray(NAMES.index(name)))
    return problem_of(dynamics, cost, start, **more)


@pytest.mark.slow
def test_where_curvature_is_negative_the_regularisation_is_raised():
    states, info = solve(trap("two wells"), 30, initial_noise=0.1)
    assert np.all(info.ok)
    assert info.regularisation[0] > 0.1
    assert (np.diff(info.nominal_cost) <= 0).all()
    assert info.nominal_cost[-1] < 1e-12
    np.testing.assert_allclose(np.abs(states.nominal.u[-1]), 1.0, atol=1e-6)
    assert info.regularisation[-1] < info.regularisation[0]


def test_without_a_gradient_it_stays_and_says_so():
    states, info = solve(trap("two wells"), 30)
    assert np.all(info.ok)
    np.testing.assert_array_equal(info.gradient, 0.0)
    np.testing.assert_array_equal(states.nominal.u, 0.0)


def test_a_refused_step_changes_nothing_but_the_regularisation_which_grows_ever_faster():
    states, info = solve(trap("false"), 30)
    assert np.all(info.ok)
    np.testing.assert_array_equal(info.step_length, 0.0)
    for leaf in jax.tree.leaves((states.nominal.controller, states.nominal.x, states.nominal.u, states.nominal.cost)):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    mu = info.regularisation
    assert mu[0] == 1e-6
    np.testing.assert_allclose(mu[1:5] / mu[:4], [4.0, 8.0, 16.0, 32.0])
    assert mu[-1] == 1e10


def test_a_step_must_bring_enough_of_what_it_promised():
    assert solve(trap("tenth"), 30, sufficient_decrease=0.09)[1].step_length[0] == 1.0
    assert solve(trap("tenth"), 30, sufficient_decrease=0.11)[1].step_length[0] == 0.0


def test_a_derivative_that_is_not_finite_is_no_success():
    states, info = solve(trap("kink"), 30)
    assert not np.any(info.ok)
    assert all(np.isfinite(values).all() for values in info)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states))


def test_trajectories_that_are_not_finite_lose():
    """The full step leads to where the dynamics have no answer."""
    states, info = solve(trap("far goal", edge=0.5), 30)
    assert np.all(info.ok)
    assert 0 < info.step_length[0] < 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((states, info)))
    assert info.nominal_cost[-1] < states.nominal.cost[0, 0]
    assert 0.1 < np.abs(states.nominal.u).max() < 0.5


def test_an_action_without_effect_or_cost_does_no_harm():
    states, info = solve(trap("first only", gain=(1.0, 0.0), start=(1.0, 1.0)), 30)
    one, H = np.ones((T, 1, 1)), np.broadcast_to(np.diag([2.0, 0.2]), (T, 2, 2))
    nothing, zero = np.zeros((T, 1)), np.zeros(1)
    u, cost = regulator.best_actions(np.ones(1), one, one, nothing, H, np.zeros((T, 2)), np.zeros((1, 1)), zero)
    assert np.all(info.ok)
    np.testing.assert_array_equal(states.nominal.u[-1, 0, :, 1], 0.0)
    np.testing.assert_allclose(states.nominal.u[-1, 0, :, :1], u, atol=1e-6)
    np.testing.assert_allclose(info.nominal_cost[-1], cost, rtol=1e-8)


def test_it_begins_at_the_conditions_means_within_the_limits():
    problem = trap("two wells", action_low=[0.25, -1.0], action_high=[2.0, 1.0], initial_std=jnp.array([0.1, 3.0]))
    state = ILQG().init(problem, 1, KEY).nominal
    np.testing.assert_array_equal(state.u, np.broadcast_to([0.25, 0.0], (1, T, DU)))
    np.testing.assert_allclose(state.x[0, -1], 0.1 * T * np.array([0.25, 0.0]), rtol=1e-12)
    np.testing.assert_allclose(state.cost[0], T * ((0.25**2 - 1) ** 2 + 1), rtol=1e-12)
    free = trap("two wells", initial_std=jnp.array([0.1, 3.0]), horizon=4000)
    np.testing.assert_allclose(
        np.std(ILQG(initial_noise=0.5).init(free, 1, KEY).nominal.u, (0, 1)), [0.05, 1.5], rtol=0.05
    )


def test_conditions_are_solved_apart_and_copies_alike():
    numbers, x0, other = quadratic_numbers(4), np.array([1.0, 2.0, -1.0]), np.array([-3.0, 0.0, 1.0])
    first = solve(quadratic_problem(numbers, [x0, x0, other], -0.3, 0.3), 20, initial_noise=0.5)[0]
    second = solve(quadratic_problem(numbers, [x0, other, x0], -0.3, 0.3), 20, initial_noise=0.5)[0]
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a[:, 0], a[:, 1], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(a[:, (0, 2, 1)], b, rtol=1e-12, atol=1e-12)
    assert np.abs(first.nominal.u[-1, 0] - first.nominal.u[-1, 2]).max() > 0.1


@pytest.mark.slow
def test_in_the_loop_it_reaches_the_known_optimum_compiles_once_and_survives_the_store(tmp_path):
    task, traces = LinearQuadratic(), []
    problem = task.problem()

    def counted(x, u, t):
        traces.append(1)
        return problem.cost(x, u, t)

    world, algorithm = JaxWorld(eqx.tree_at(lambda p: p.cost, problem, counted)), ILQG()
    keys = loop.root_keys([0])
    begin = loop.initial(algorithm, world, 5, keys)
    turns, counts = [], []
    for turn in loop.turns(algorithm, world, 5, keys, 0, 3, begin):
        turns.append(turn)
        counts.append(len(traces))
    assert counts == counts[:1] * 3
    assert turns[2].report.outcome.cost[0] < 0.7 * turns[0].report.outcome.cost[0]
    assert np.all(turns[1].report.info.ok)
    controller = jax.tree.map(lambda leaf: leaf[0, 0], turns[1].states.nominal.controller)
    reached, optimum = jax.jit(lambda p: (task.expected_cost(p), task.optimum()[1]))(controller)
    np.testing.assert_allclose(reached, optimum, rtol=1e-9)
    run = Run.create(tmp_path / "run", Spec({"name": "lq"}, {"name": "any"}, 5, 3, [0], 10))
    run.save_checkpoint(3, turns[2].states)
    for a, b in zip(jax.tree.leaves(run.load_checkpoint(begin)[1]), jax.tree.leaves(turns[2].states), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_simulator_serves_as_well_as_its_equations():
    """Two carts with gears of 3 and 1.5, whose semi-implicit Euler steps are equations too."""
    model = mujoco.MjModel.from_xml_string(point_mass.MJCF)
    gears = np.stack([model.actuator_gear, 0.5 * model.actuator_gear])
    known = {
        "cost": lambda x, u, t: 2.0 - jnp.cos(x[0] - 1.0) + 0.1 * x[1] ** 2 + 1e-2 * (u**2).sum(),
        "final_cost": lambda x: 10.0 * (x[0] - 1.0) ** 4,
        "horizon": 20,
        "du": 1,
        "action_low": -jnp.ones(1),
        "action_high": jnp.ones(1),
    }

    def equations(gear):
        def step(x, u):
            return x + jnp.stack([0.1 * x[1] + 15 * 0.02**2 * gear * u[0] / 2.0, 0.1 * gear * u[0] / 2.0])

        return step

    start = np.array([[-0.5, 0.3], [0.2, 0.0]])
    world = MujocoWorld(problem_of(None, start=start, **known), model, {"actuator_gear": gears})
    algorithm, keys = ILQG(initial_noise=0.1), jax.random.split(KEY, 1)
    *_, turn = loop.turns(algorithm, world, 1, keys, 0, 12, loop.initial(algorithm, world, 1, keys))
    assert np.all(turn.report.info.ok)
    for n, gear in enumerate((3.0, 1.5)):
        problem = problem_of(equations(gear), start=start[n], **known)
        of_equations = algorithm.init(problem, 1, keys[0])
        for _ in range(12):
            of_equations, _ = algorithm.update(problem, of_equations, no_rollouts(problem), KEY)
        found = jax.tree.map(lambda leaf, n=n: leaf[0, n], turn.states.nominal)
        expected = of_equations.nominal
        for name in ("x", "u", "cost"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name)[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.controller.K, expected.controller.K[0], rtol=1e-3, atol=1e-4)
    assert np.ptp(np.asarray(turn.states.nominal.cost)) > 0.1


def test_a_trajectory_on_which_the_simulation_breaks_is_not_taken():
    """Beyond 1e10 m/s^2 MuJoCo gives up: the longer steps are no candidates."""
    model = mujoco.MjModel.from_xml_string(point_mass.MJCF.replace('gear="3"', 'gear="1e11"'))
    problem = problem_of(None, lambda x, u, t: (u[0] - 1.0) ** 2, np.zeros((1, 2)), horizon=3, du=1)
    problem = MujocoWorld(problem, model).problem
    state = ILQG().init(problem, 1, KEY)
    new, info = ILQG().update(problem, state, no_rollouts(problem), KEY)
    assert info.ok
    assert 0 < info.step_length < 1
    assert 0 < new.nominal.cost[0] < state.nominal.cost[0]


def test_without_equations_of_motion_it_says_what_is_missing():
    problem = eqx.tree_at(
        lambda p: p.dynamics,
        trap(
            "two wells",
        ),
        None,
    )
    with pytest.raises(ValueError, match=r"ilqg needs the equations of motion: problem\.dynamics is None"):
        ILQG().init(problem, 1, KEY)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regularisation": -1.0}, "regularisation=-1.0: give a number from 0 to 1e"),
        ({"regularisation": float("nan")}, "regularisation=nan"),
        ({"sufficient_decrease": 1.0}, "sufficient_decrease=1.0: a part of the expected reduction"),
        ({"sufficient_decrease": -0.1}, "sufficient_decrease=-0.1"),
        ({"initial_noise": -1.0}, "initial_noise=-1.0: a standard deviation is 0 or more"),
    ],
)
def test_bad_settings_are_refused_in_the_users_words(settings, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production
    with pytest.raises(ValueError, match=message):
        ILQG(**settings)


@pytest.mark.slow
def test_on_learned_dynamics_the_cart_pole_swings_up_after_three_episodes():
    """20 of 20 seeds do by then; what is deployed is the best that was rolled out, so an episode later."""
    world, algorithm = CartPole().world(), algorithms.registry()["ilqg-learned"].make()
    keys = loop.root_keys([100])
    *_, turn = loop.turns(algorithm, world, 1, keys, 0, 4, loop.initial(algorithm, world, 1, keys))
    info = jax.tree.map(lambda leaf: leaf[0], turn.report.info)
    assert info.ok.all()
    assert info.unexplained < 1e-4
    deployed = loop.deploy(algorithm, world, 20, KEY, turn.states)
    assert jax.vmap(CART_POLE.success)(deployed.x[0, 0], deployed.u[0, 0]).all()
    assert deployed.cost.sum(-1).mean() < 2000


@pytest.mark.slow
def test_on_learned_dynamics_plans_of_four_links_come_true_and_grow_bolder():
    """The first of the dozen or two episodes after which they swing up (docs/results): hanging still costs 1.97e6."""
    setup, world = experiments.setup("quad-link-free", "ilqg-learned"), find("quad-link-free").make().world()
    keys = loop.root_keys([100, 101])
    *_, turn = turns = [
        *loop.turns(setup.algorithm, world, 1, keys, 0, 4, loop.initial(setup.algorithm, world, 1, keys))
    ]
    told = [turn.report.info for turn in turns]
    moved = np.stack([info.moved for info in told])
    radius = np.stack([info.radius for info in told])
    assert all(info.ok.all() for info in told)
    np.testing.assert_allclose(moved[:3], radius[:3], rtol=0.1)
    np.testing.assert_allclose(radius[0], 0.35)
    assert (np.diff(radius[:3], axis=0) >= 0).all()  # a plan that does not come true shrinks it
    assert (radius[2] >= 1.5 * 0.35 - 1e-9).all()
    deployed = loop.deploy(setup.algorithm, world, 5, KEY, turn.states)
    assert deployed.cost.sum(-1).mean((1, 2)).max() < 1.6e6


@pytest.mark.slow
def test_a_plan_that_began_anew_is_taken_where_the_last_is_stuck():
    """At the top between two wells the derivative is zero, and iLQG stays."""
    problem, spread = trap("two wells"), jnp.ones(2)
    cost = problem.costs(jnp.zeros((problem.horizon + 1, 2)), jnp.zeros((problem.horizon, problem.du))).sum()
    best = BestSoFar(problem.first_controller, cost[None])
    for radius in (jnp.inf, 0.1):
        region = TrustRegion.begin(problem, radius)  # about the episode in which nothing happens

        def plan(starts, region=region):
            algorithm = ILQG(dynamics="learned", starts=starts, steps=20)
            return eqx.filter_jit(algorithm._plan)(problem, region, best, spread, KEY)

        (free, told), (stuck, also) = plan(3), plan(1)
        assert not also.elsewhere.any()
        assert told.elsewhere.all()  # also within a radius, where nothing is promised
        assert free.cost[0] < 0.5 * stuck.cost[0]
