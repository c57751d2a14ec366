"""The regulator against SciPy's stationary solution, a dense quadratic program and its own expected cost."""

import jax
import jax.numpy as jnp
import numpy as np
from oracles import draw, regulator
from scipy.linalg import solve_discrete_are

from pilotfish.algebra import chain, quadratic, riccati
from pilotfish.types import Gaussian, LinearDynamics, LinearGaussian, Quadratic

DX, DU = 3, 2
lqr = jax.jit(riccati.lqr)


def ours(kind, *numbers):
    return kind(*map(jnp.asarray, numbers))


def varying(seed, T):
    """Time-varying affine dynamics and costs with cross and linear terms, positive definite in u."""
    rng = np.random.default_rng(seed)
    A, B, c = rng.normal(size=(T, DX, DX)) / 2, rng.normal(size=(T, DX, DU)), rng.normal(size=(T, DX))
    H = draw.covariance(rng, T, DX + DU) + 0.1 * np.eye(DX + DU)
    h, const = rng.normal(size=(T, DX + DU)), rng.normal(size=T)
    final = draw.covariance(rng, DX), rng.normal(size=DX), rng.normal()
    return (A, B, c, 0.1 * draw.covariance(rng, T, DX)), (H, h, const), final


def test_first_gain_of_a_long_horizon_is_the_stationary_one():
    rng = np.random.default_rng(0)
    T = 200
    A, B = rng.normal(size=(DX, DX)), rng.normal(size=(DX, DU))
    H = draw.covariance(rng, DX + DU) + 0.1 * np.eye(DX + DU)
    Q, S, R = H[:DX, :DX], H[:DX, DX:], H[DX:, DX:]

    def over_time(a):
        return np.broadcast_to(a, (T, *a.shape))

    p, V = lqr(
        ours(LinearDynamics, *map(over_time, (A, B, np.zeros(DX), np.zeros((DX, DX))))),
        ours(Quadratic, *map(over_time, (H, np.zeros(DX + DU), np.zeros(())))),
        ours(Quadratic, np.zeros((DX, DX)), np.zeros(DX), 0.0),
    )
    K, k = p.K, p.k
    P = solve_discrete_are(A, B, Q, R, s=S)
    np.testing.assert_allclose(K[0], -np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A + S.T), rtol=1e-8)
    np.testing.assert_allclose(V.H, P, rtol=1e-8)
    np.testing.assert_array_equal(k, 0.0)


def test_actions_and_value_are_those_of_the_dense_quadratic_program():
    for seed in range(5):
        (A, B, c, F), (H, h, const), final = varying(seed, T=5)
        noise_free = ours(LinearDynamics, A, B, c, 0 * F)
        p, V = lqr(noise_free, ours(Quadratic, H, h, const), ours(Quadratic, *final))
        K, k = p.K, p.k
        for x0 in np.random.default_rng(seed).normal(size=(3, DX)):
            u, cost = regulator.best_actions(x0, A, B, c, H, h, *final[:2])
            x = x0
            for t in range(5):
                np.testing.assert_allclose(K[t] @ x + k[t], u[t], rtol=1e-7, atol=1e-9)
                x = A[t] @ x + B[t] @ u[t] + c[t]
            np.testing.assert_allclose(V(jnp.asarray(x0)), cost + const.sum() + final[2], rtol=1e-8)


def test_value_is_the_expected_cost_of_its_own_controller_under_noise():
    dynamics, cost, final = varying(7, T=5)
    f, q, q_final = ours(LinearDynamics, *dynamics), ours(Quadratic, *cost), ours(Quadratic, *final)
    p, V = lqr(f, q, q_final)
    K, k = p.K, p.k
    rng = np.random.default_rng(8)
    start = ours(Gaussian, rng.normal(size=DX), draw.covariance(rng, DX))

    @jax.jit
    def expected_cost(k):
        z, last = chain.forward(start, f, LinearGaussian(K, k, jnp.zeros((5, DU, DU))))
        return quadratic.expectation(q, z).sum() + quadratic.expectation(q_final, last)

    best = expected_cost(k)
    np.testing.assert_allclose(best, quadratic.expectation(V, start), rtol=1e-10)
    assert all(expected_cost(k + 0.1 * rng.normal(size=k.shape)) > best for _ in range(5))


def test_covariance_is_the_best_for_expected_cost_less_entropy():
    dynamics, cost, final = varying(11, T=5)
    f, q, q_final = ours(LinearDynamics, *dynamics), ours(Quadratic, *cost), ours(Quadratic, *final)
    p, _ = lqr(f, q, q_final)
    rng = np.random.default_rng(12)
    start = ours(Gaussian, rng.normal(size=DX), draw.covariance(rng, DX))

    @jax.jit
    def objective(chol):
        z, last = chain.forward(start, f, LinearGaussian(p.K, p.k, chol))
        total = quadratic.expectation(q, z).sum() + quadratic.expectation(q_final, last)
        return total - jnp.log(jnp.diagonal(chol, axis1=1, axis2=2)).sum()

    assert np.abs(jax.grad(objective)(p.chol)[:, *np.tril_indices(DU)]).max() < 1e-8 * np.abs(objective(p.chol))
    moves = np.tril(rng.normal(size=(20, 5, DU, DU)))
    assert all(objective(p.chol * (1 + 0.05 * move)) > objective(p.chol) for move in moves)


def test_value_is_that_of_policy_evaluation_by_hand():
    dynamics, cost, final = varying(9, T=5)
    p, V = lqr(ours(LinearDynamics, *dynamics), ours(Quadratic, *cost), ours(Quadratic, *final))
    K, k = p.K, p.k
    _, values = regulator.evaluate(*dynamics, *cost, *final, np.asarray(K), np.asarray(k), np.zeros((5, DU, DU)))
    for found, expected in zip((V.H, V.h, V.c), values[0], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def test_a_problem_without_a_minimum_says_so():
    dynamics, (H, h, const), final = varying(10, T=5)
    H = H.copy()
    H[2, DX:, DX:] -= 1e3 * np.eye(DU)
    p, V = lqr(ours(LinearDynamics, *dynamics), ours(Quadratic, H, h, const), ours(Quadratic, *final))
    K = p.K
    assert not np.isfinite(K[2]).any()
    assert not np.isfinite(V.c)
    assert np.isfinite(K[3:]).all()
