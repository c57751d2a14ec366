"""Fitted Q-functions against exact policy evaluation of linear-quadratic systems, and NumPy's least squares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import draw, policy_evaluation, regulator

from pilotfish.models import value
from pilotfish.models.occupancy import Occupancy
from pilotfish.models.value import Transitions
from pilotfish.types import LinearGaussian

T, DX, DU = 4, 3, 2
FITS = {"dynamic-programming": jax.jit(value.dynamic_programming), "monte-carlo": jax.jit(value.monte_carlo)}
fit = FITS["dynamic-programming"]


class System:
    """A linear system with time-varying quadratic costs and a time-varying controller."""

    def __init__(self, seed, noise=0.0):
        rng = np.random.default_rng(seed)
        A, B = np.eye(DX) + 0.2 * rng.normal(size=(T, DX, DX)), rng.normal(size=(T, DX, DU))
        self.dynamics = A, B, rng.normal(size=(T, DX)), noise**2 * np.broadcast_to(np.eye(DX), (T, DX, DX))
        self.cost = draw.symmetric(rng, T, DX + DU), rng.normal(size=(T, DX + DU)), rng.normal(size=T)
        self.final = draw.symmetric(rng, DX), rng.normal(size=DX), rng.normal()
        self.controller = draw.gains(rng, T, DU, DX)
        self.mean, cov = rng.normal(size=(T, DX)), draw.covariance(rng, T, DX, spread=0.3)
        self.chol = np.linalg.cholesky(cov)

    def occupancy(self):
        return Occupancy(
            jnp.asarray(self.mean), jnp.asarray(self.chol), LinearGaussian(*map(jnp.asarray, self.controller))
        )

    def act(self, t, x, e):
        K, k, chol = self.controller
        return x @ K[t].T + k[t] + e @ chol[t].T

    def follow(self, t, x, u):
        A, B, c, _ = self.dynamics
        return x @ A[t].T + u @ B[t].T + c[t]

    def cost_of(self, t, x, u):
        H, h, c = self.cost
        return of(H[t], h[t], c[t], np.concatenate([x, u], -1))

    def true_q(self):
        K, k, chol = self.controller
        return regulator.evaluate(*self.dynamics, *self.cost, *self.final, K, k, chol @ np.swapaxes(chol, 1, 2))[0]

    def check(self, found, tolerance):
        """The fitted Q's predictions at typical points, relative to how much the true Q varies there."""
        rng = np.random.default_rng(0)
        for t, exact in enumerate(self.true_q()):
            s, e = rng.normal(size=(50, DX)), rng.normal(size=(50, DU))
            x = self.mean[t] + s @ self.chol[t].T
            expected = of(*exact, np.concatenate([x, self.act(t, x, e)], -1))
            predicted = of(found.H[t], found.h[t], found.c[t], np.concatenate([s, e], -1))
            np.testing.assert_allclose(predicted, expected, atol=tolerance * expected.std(), rtol=0)


def of(H, h, c, z):
    return 0.5 * np.einsum("ni,ij,nj->n", z, H, z) + z @ np.asarray(h) + np.asarray(c)


def designed(system, seed):
    """Transitions of which each step's actions have exactly the moments of the controller, in every state.

    All pairs of random states and Gauss-Hermite noises, weighted: no sampling error is left in V.
    """
    rng = np.random.default_rng(seed)
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    e = np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, DU)
    w_e = np.outer(weights, weights).ravel() / weights.sum() ** 2
    w_x = rng.uniform(0.5, 1.5, (T, 20))
    states = system.mean[:, None] + rng.normal(size=(T, 20, DX)) @ np.swapaxes(system.chol, 1, 2)
    x = np.repeat(states, len(e), 1)
    weight = (w_x[:, :, None] * w_e).reshape(T, -1)
    u = np.stack([system.act(t, x[t], np.tile(e, (20, 1))) for t in range(T)])
    x_next = np.stack([system.follow(t, x[t], u[t]) for t in range(T)])
    cost = np.stack([system.cost_of(t, x[t], u[t]) for t in range(T)])
    data = Transitions(x, u, x_next, cost, weight / weight.sum(1, keepdims=True))
    return data, of(*system.final, x_next[-1])


def test_q_is_exact_for_a_linear_quadratic_system():
    system = System(0)
    data, final = designed(system, 1)
    occupancy, ridge = system.occupancy(), np.full(T, 1e-12)
    system.check(fit(data, final, occupancy, ridge).Q, 1e-6)


@pytest.mark.parametrize("kind", ["dynamic-programming", "monte-carlo"])
def test_q_of_many_noisy_rollouts_is_close_to_the_exact_one(kind):
    n = 20_000
    system, rng = System(2, noise=0.1), np.random.default_rng(3)
    x = system.mean[0] + rng.normal(size=(n, DX)) @ system.chol[0].T
    rows = []
    for t in range(T):
        u = system.act(t, x, rng.normal(size=(n, DU)))
        x_next = system.follow(t, x, u) + 0.1 * rng.normal(size=(n, DX))
        rows.append((x, u, x_next, system.cost_of(t, x, u), np.full(n, 1 / n)))
        x = x_next
        if t + 1 < T:  # where the rollouts go is where Q is asked for
            system.mean[t + 1], system.chol[t + 1] = x.mean(0), np.linalg.cholesky(np.cov(x.T))
    data, final = Transitions(*map(np.stack, zip(*rows, strict=True))), of(*system.final, x)
    occupancy, ridge = system.occupancy(), np.full(T, 1e-8)
    system.check(FITS[kind](data, final, occupancy, ridge).Q, 0.2)


def test_monte_carlo_targets_are_plain_sums():
    rng = np.random.default_rng(4)
    cost, final = rng.normal(size=(T, 3)), rng.normal(size=3)
    nothing = jnp.zeros((T, 3, 1))
    data = Transitions(nothing, nothing, nothing, jnp.asarray(cost), jnp.full((T, 3), 1 / 3))
    occupancy = System(0).occupancy()._replace(mean=jnp.zeros((T, 1)), chol=jnp.ones((T, 1, 1)))
    controller = LinearGaussian(jnp.zeros((T, 1, 1)), jnp.zeros((T, 1)), jnp.ones((T, 1, 1)))
    found = value.monte_carlo(data, jnp.asarray(final), occupancy._replace(controller=controller), jnp.ones(T)).target
    for t in range(T):
        for i in range(3):
            np.testing.assert_allclose(found[t, i], sum(cost[s, i] for s in range(t, T)) + final[i], rtol=1e-12)


def any_transitions(seed, rows, n=80):
    """Data of no system at all: the recursion is defined for it all the same."""
    rng = np.random.default_rng(seed)
    x, u, x_next = (rng.normal(size=(rows, n, d)) for d in (DX, DU, DX))
    cost, weight = np.exp(rng.normal(size=(T, n))), rng.uniform(size=(T, n)) + 0.1
    return Transitions(x, u, x_next, cost, weight / weight.sum(1, keepdims=True)), rng.normal(size=n)


def test_recursion_is_that_of_plain_least_squares():
    data, final = any_transitions(5, rows=T)
    occupancy, ridge = System(6).occupancy(), np.full(T, 1e-13)
    q, y = fit(data, final, occupancy, ridge)
    expected, Qs = policy_evaluation.evaluate(*data, final)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    for t in range(T):
        white = jax.tree.map(lambda leaf, t=t: leaf[t], occupancy).white(jnp.asarray(data.x[t]), jnp.asarray(data.u[t]))
        predicted = of(q.H[t], q.h[t], q.c[t], np.asarray(white))
        np.testing.assert_allclose(predicted, Qs[t](np.concatenate([data.x[t], data.u[t]], -1)), rtol=1e-5, atol=1e-5)


def test_samples_shared_by_all_steps_are_as_good_as_own_ones():
    shared, final = any_transitions(7, rows=1)
    own = shared._replace(**{name: np.repeat(getattr(shared, name), T, 0) for name in ("x", "u", "x_next")})
    occupancy, ridge = System(8).occupancy(), np.array([1e-3, 1e-2, 1e-1, 1.0])
    fits = [fit(data, final, occupancy, ridge) for data in (shared, own)]
    for a, b in zip(*map(jax.tree.leaves, fits), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_values_of_states_are_those_of_plain_least_squares(discount):
    """Backwards with NumPy's least squares on raw monomials; steps that did not happen have no say."""
    rng = np.random.default_rng(0)
    n = 60
    x, cost, final = rng.normal(size=(T, n, DX)), rng.normal(size=(T, n)), rng.normal(size=n)
    happened = np.ones((T, n))
    happened[2:, :7] = 0.0
    ahead, wanted = final, []
    for t in reversed(range(T)):
        i, j = np.triu_indices(DX)
        phi = np.concatenate([np.ones((n, 1)), x[t], x[t][:, i] * x[t][:, j]], 1)
        some, y = happened[t] > 0, cost[t] + discount * ahead
        ahead = phi @ np.linalg.lstsq(phi[some], y[some], rcond=None)[0]
        wanted.append(ahead)
    cost, final = np.where(happened > 0, cost, 1e9), np.where(happened[-1] > 0, final, -1e9)
    found = value.of_states(*map(jnp.asarray, (x, cost, final, happened)), discount, 1e-12)
    reached = np.concatenate([np.ones((1, n)), happened[:-1]]) > 0
    np.testing.assert_allclose(np.where(reached, found, 0.0), np.where(reached, wanted[::-1], 0.0), atol=1e-8)


def test_values_of_fewer_states_than_features_are_near_their_mean():
    """Five samples say nothing of ten features: the ridge grows, and all values go to the level."""
    rng = np.random.default_rng(1)
    x, cost = rng.normal(size=(1, 5, DX)), 1e6 + rng.normal(size=(1, 5))
    few = np.asarray(value.of_states(*map(jnp.asarray, (x, cost, np.zeros(5), np.ones((1, 5)))), 1.0, 10.0))
    np.testing.assert_allclose(few, cost.mean(), rtol=1e-6)
