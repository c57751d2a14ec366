"""Cost expansions against finite differences, and against costs that are quadratic."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pilotfish.models import cost
from pilotfish.models.nominal import Nominal
from pilotfish.types import Gaussian, Problem, no_cost

T, DX, DU = 3, 2, 1
ORIGIN = Nominal(jnp.zeros((T + 1, DX)), jnp.zeros((T, DU)))


def problem(step, final=no_cost):
    start = Gaussian(jnp.zeros((1, DX)), jnp.eye(DX)[None])
    return Problem(horizon=T, dt=0.1, conditions=start, initial_std=[1.0], cost=step, final_cost=final)


@eqx.filter_jit
def expand(problem, x, u, weight, nominal=ORIGIN):
    return cost.expand(problem, nominal, x, u, weight)


@jax.jit
def fit(x, u, values, weight):
    return cost.fit(x, u, values, weight, Nominal(jnp.zeros(x.shape[1:]), jnp.zeros(u.shape[1:])))


def bumpy(x, u, t):
    return jnp.sin(x[0] * x[1]) + (t + 1.0) * jnp.cosh(0.3 * u[0]) * x[0] + x[1] ** 4


def differences(f, z, h=1e-4):
    """Gradient and Hessian by central differences."""
    d = len(z)
    e = h * np.eye(d)
    gradient = np.array([(f(z + e[i]) - f(z - e[i])) / (2 * h) for i in range(d)])
    hessian = [
        [
            (f(z + e[i] + e[j]) - f(z + e[i] - e[j]) - f(z - e[i] + e[j]) + f(z - e[i] - e[j])) / (4 * h * h)
            for j in range(d)
        ]
        for i in range(d)
    ]
    return gradient, np.array(hessian)


def test_mean_of_expansions_about_the_samples():
    rng = np.random.default_rng(0)
    x, u, weight = rng.normal(size=(4, T + 1, DX)), rng.normal(size=(4, T, DU)), np.array([0.5, 0.2, 0.3, 0.0])
    every = np.tile(weight[:, None], T + 1)
    x[3] = np.nan  # a rollout of no weight
    found, last = expand(problem(bumpy, lambda x: jnp.exp(0.3 * x[0]) * x[1]), *map(jnp.asarray, (x, u, every)))
    at = rng.normal(size=DX + DU)
    for t in range(T):
        H, slope, value = 0.0, 0.0, 0.0
        for m in range(3):
            z = np.concatenate([x[m, t], u[m, t]])
            g, hess = differences(lambda z, t=t: float(bumpy(z[:DX], z[DX:], t)), z)
            H, slope = H + weight[m] * hess, slope + weight[m] * (g + hess @ (at - z))
            value += weight[m] * (bumpy(z[:DX], z[DX:], t) + g @ (at - z) + 0.5 * (at - z) @ hess @ (at - z))
        np.testing.assert_allclose(found.H[t], H, atol=1e-5)
        np.testing.assert_allclose(found.H[t] @ at + found.h[t], slope, atol=1e-5)
        np.testing.assert_allclose(0.5 * at @ found.H[t] @ at + found.h[t] @ at + found.c[t], value, atol=1e-5)
    np.testing.assert_allclose(last.H[0, 1], (weight[:3] * 0.3 * np.exp(0.3 * x[:3, -1, 0])).sum(), rtol=1e-9)


def test_quadratic_cost_is_itself_wherever_it_is_expanded():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(DX + DU, DX + DU))
    H, h = a + a.T, rng.normal(size=DX + DU)

    def quadratic(x, u, t):
        z = jnp.concatenate([x, u])
        return 0.5 * z @ H @ z + h @ z + t

    x, u = rng.normal(size=(5, T + 1, DX)), rng.normal(size=(5, T, DU))
    found, last = expand(problem(quadratic), *map(jnp.asarray, (x, u)), jnp.full((5, T + 1), 0.2))
    for t in range(T):
        np.testing.assert_allclose(found.H[t], H, atol=1e-10)
        np.testing.assert_allclose(found.h[t], h, atol=1e-10)
        np.testing.assert_allclose(found.c[t], t, atol=1e-10)
    for leaf in (last.H, last.h, last.c):
        np.testing.assert_array_equal(leaf, 0.0)


def test_expansions_about_a_trajectory_are_the_same_functions():
    rng = np.random.default_rng(2)
    x, u = jnp.asarray(rng.normal(size=(4, T + 1, DX))), jnp.asarray(rng.normal(size=(4, T, DU)))
    nominal, even = Nominal(x.mean(0), u.mean(0)), jnp.full((4, T + 1), 0.25)
    of = problem(bumpy, lambda x: jnp.exp(0.3 * x[0]) * x[1])
    plain, last = expand(of, x, u, even)
    shifted, shifted_last = expand(of, x - nominal.x, u - nominal.u, even, nominal)
    d = jnp.asarray(rng.normal(size=(T, DX + DU)))
    np.testing.assert_allclose(shifted(d), plain(d + jnp.concatenate([nominal.x[:-1], nominal.u], -1)), rtol=1e-9)
    np.testing.assert_allclose(shifted_last(d[0, :DX]), last(d[0, :DX] + nominal.x[-1]), rtol=1e-9)


@pytest.mark.parametrize("M", [2, 40])
def test_a_quadratic_cost_is_found_from_samples_of_it(M):
    """From a window of steps where there are fewer samples than coefficients; a rollout of no weight has no part."""
    rng, steps = np.random.default_rng(3), 30
    A, b = rng.normal(size=(DX + DU, DX + DU)), rng.normal(size=DX + DU)
    A = A @ A.T
    x, u = rng.normal(size=(M + 1, steps + 1, DX)), rng.normal(size=(M + 1, steps, DU))
    z = np.concatenate([x[:, :-1], u], -1)
    values = 100 * (np.einsum("mti,ij,mtj->mt", z, A, z) + z @ b + 3.0)
    values[-1] = 7.0
    weight = np.append(np.full(M, 1 / M), 0.0)
    every = np.tile(weight[:, None], steps)
    found, last = fit(*map(jnp.asarray, (x, u, values, every)))
    for t in range(steps):
        np.testing.assert_allclose(found.H[t], 100 * (A + A.T), atol=2.0)
        np.testing.assert_allclose(found.h[t], 100 * b, atol=2.0)
        np.testing.assert_allclose(found.c[t], 300.0, atol=2.0)
    assert not last.H.any()


def test_negative_curvature_of_samples_is_not_believed():
    """A saddle about 1: its slopes and its upward curvature are found, its downward one is not."""
    rng, M, steps = np.random.default_rng(5), 300, 3
    x, u = 1 + rng.normal(size=(M, steps + 1, 1)), rng.normal(size=(M, steps, 1))
    values = 3 * x[:, :-1, 0] - 0.5 * (x[:, :-1, 0] - 1) ** 2 + 2 * u[..., 0] ** 2
    found, _ = fit(*map(jnp.asarray, (x, u, values, np.full((M, steps), 1 / M))))
    np.testing.assert_allclose(found.H, np.tile(np.diag([0.0, 4.0]), (steps, 1, 1)), atol=0.1)
    np.testing.assert_allclose(found.h[:, 0], 3.0, atol=0.1)


def test_a_cost_that_varies_along_the_trajectory_is_fitted_where_it_is():
    """A quartic: its curvature at 1 + t/10, not that at 1, is found around each step."""
    rng, M, steps = np.random.default_rng(4), 200, 20
    middle = 1 + np.arange(steps + 1) / 10
    x = middle[:, None] + 0.05 * rng.normal(size=(M, steps + 1, 1))
    u = rng.normal(size=(M, steps, 1))
    values, every = x[:, :-1, 0] ** 4 + u[..., 0] ** 2, np.full((M, steps), 1 / M)
    found, _ = fit(*map(jnp.asarray, (x, u, values, every)))
    np.testing.assert_allclose(found.H[:, 0, 0], 12 * middle[:-1] ** 2, rtol=0.15)
    np.testing.assert_allclose(found.H[:, 1, 1], 2.0, rtol=0.05)


@pytest.mark.parametrize(
    ("step", "final", "names"),
    [
        (lambda x, u, t: jnp.linalg.norm(x) + u[0] ** 2, no_cost, "cost of step 1 has .* entry 0 of the state"),
        (lambda x, u, t: x[0] ** 2 + jnp.abs(x[1]) ** 1.5, no_cost, "cost of step 1 has .* entry 1 of the state"),
        (lambda x, u, t: jnp.where(t == 2, jnp.sqrt(u[0]), 0.0), no_cost, "cost of step 2 has .* entry 0 of the act"),
        (lambda x, u, t: u[0] ** 2, lambda x: jnp.arccos(x[1]), "final cost has .* entry 1 of the state, which is 1 "),
        (bumpy, no_cost, None),
        (None, no_cost, None),
    ],
)
def test_what_has_no_derivative_is_named(step, final, names):
    x, u = np.full((3, T + 1, DX), 0.5), np.full((3, T, DU), 0.5)
    x[2, 1], u[1, 2], x[0, 3, 1] = 0.0, 0.0, 1.0
    x[1, 2:] = np.nan  # it broke off: nothing is said of that
    found = cost.without_derivative(problem(step, final), jnp.asarray(x), jnp.asarray(u))
    assert re.search(names, found) if names else found == ""
