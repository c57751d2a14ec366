"""Gaussians against SciPy, dense formulas and Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from oracles import dense, draw
from scipy.stats import multivariate_normal

from pilotfish.algebra import gaussian
from pilotfish.types import Gaussian, LinearGaussian


def gaussians(mean, cov):
    return Gaussian(jnp.asarray(mean), jnp.asarray(cov))


def controllers(K, k, chol):
    return LinearGaussian(jnp.asarray(K), jnp.asarray(k), jnp.asarray(chol))


@pytest.mark.parametrize("d", [1, 4])
def test_log_density_is_that_of_scipy(d):
    rng = np.random.default_rng(d)
    mean, cov = rng.normal(size=d), draw.covariance(rng, d, spread=3)
    x = rng.multivariate_normal(2 * mean, cov, 20)
    found = jax.jit(gaussian.log_density)(x, np.broadcast_to(mean, x.shape), np.linalg.cholesky(cov))
    np.testing.assert_allclose(found, multivariate_normal(mean, cov, allow_singular=True).logpdf(x), rtol=1e-9)


def test_entropy_is_that_of_scipy():
    covs = draw.covariance(np.random.default_rng(0), 5, 3, spread=3)
    expected = [multivariate_normal(cov=c, allow_singular=True).entropy() for c in covs]
    np.testing.assert_allclose(gaussian.entropy(jnp.linalg.cholesky(covs)), expected, rtol=1e-10)


def test_kl_is_the_dense_formula_and_the_mean_log_ratio():
    rng = np.random.default_rng(1)
    n, d = 50, 4
    means, covs = rng.normal(size=(2, n, d)), draw.covariance(rng, 2, n, d)
    found = jax.jit(gaussian.kl)(gaussians(means[0], covs[0]), gaussians(means[1], covs[1]))
    expected = [dense.kl(means[0, i], covs[0, i], means[1, i], covs[1, i]) for i in range(n)]
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    i = int(np.argmin(expected))
    p, q = (multivariate_normal(means[j, i], covs[j, i]) for j in (0, 1))
    x = p.rvs(100_000, random_state=rng)
    samples = p.logpdf(x) - q.logpdf(x)
    assert abs(samples.mean() - found[i]) < 5 * samples.std() / np.sqrt(len(x))


def test_expected_kl_is_the_kl_of_the_joints_and_the_mean_log_ratio():
    rng = np.random.default_rng(2)
    n, du, dx = 50, 2, 3
    x = gaussians(rng.normal(size=(n, dx)), draw.covariance(rng, n, dx))
    p, q = (controllers(*draw.gains(rng, n, du, dx)) for _ in range(2))
    found = np.asarray(jax.jit(gaussian.expected_kl)(p, q, x))

    def joint(u, i):
        return dense.state_action(x.mean[i], x.cov[i], u.K[i], u.k[i], u.chol[i] @ u.chol[i].T)

    np.testing.assert_allclose(found, [dense.kl(*joint(p, i), *joint(q, i)) for i in range(n)], rtol=1e-8)
    i = int(np.argmin(found))
    p, q = (multivariate_normal(*joint(u, i)) for u in (p, q))
    z = p.rvs(100_000, random_state=rng)
    samples = p.logpdf(z) - q.logpdf(z)
    assert abs(samples.mean() - found[i]) < 5 * samples.std() / np.sqrt(len(z))


def test_expected_kl_is_exact_where_the_covariance_is_nearly_singular():
    """In coordinates white for q the answer is known, whatever factor R takes them to the action's units."""
    rng = np.random.default_rng(3)
    n, du, dx = 200, 4, 2
    R = np.array([10 ** rng.uniform(-3, 3) * f for f in draw.ill_conditioned_factor(rng, n, du, decades=6)])
    assert np.linalg.cond(R).max() ** 2 > 1e11
    W = np.linalg.cholesky(draw.covariance(rng, n, du, spread=0.2))
    G, g, L = rng.normal(size=(n, du, dx)), rng.normal(size=(n, du)), rng.normal(size=(n, dx, dx))
    expected = 0.5 * sum((a.reshape(n, -1) ** 2).sum(-1) for a in (W, G @ L, g)) - du / 2
    expected -= np.log(np.diagonal(W, axis1=1, axis2=2)).sum(-1)
    p = controllers(R @ G, (R @ g[..., None])[..., 0], R @ W)
    q = controllers(0 * p.K, 0 * p.k, R)
    x = gaussians(np.zeros((n, dx)), L @ np.swapaxes(L, 1, 2))
    np.testing.assert_allclose(jax.jit(gaussian.expected_kl)(p, q, x), expected, rtol=1e-6)


def test_joint_marginal_and_conditional_are_those_of_the_dense_matrices():
    rng = np.random.default_rng(4)
    n, du, dx = 20, 2, 3
    x, u = (
        gaussians(rng.normal(size=(n, dx)), draw.covariance(rng, n, dx)),
        controllers(*draw.gains(rng, n, du, dx)),
    )
    z = gaussian.joint(x, u)
    back, given_x = gaussian.marginalise(z, dx), jax.jit(gaussian.condition, static_argnums=1)(z, dx)
    np.testing.assert_array_equal(back.mean, x.mean)
    np.testing.assert_array_equal(back.cov, x.cov)
    for i in range(n):
        mean, cov = dense.state_action(x.mean[i], x.cov[i], u.K[i], u.k[i], u.chol[i] @ u.chol[i].T)
        np.testing.assert_allclose(z.mean[i], mean, rtol=1e-10)
        np.testing.assert_allclose(z.cov[i], cov, rtol=1e-10, atol=1e-12)
        for found, expected, drawn in zip(
            (given_x.K[i], given_x.k[i], given_x.cov[i]),
            dense.conditional(mean, cov, dx),
            (u.K[i], u.k[i], u.cov[i]),
            strict=True,
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(found, drawn, rtol=1e-6, atol=1e-7)


def test_solves_are_those_of_numpy():
    rng = np.random.default_rng(5)
    chol, b = np.linalg.cholesky(draw.covariance(rng, 3, 4)), rng.normal(size=(3, 4, 2))
    found = jax.jit(gaussian.solve_chol)(chol, b)
    np.testing.assert_allclose(found, np.linalg.solve(chol, b), rtol=1e-9)
    right = np.swapaxes(b, 1, 2)
    found = jax.jit(gaussian.solve_chol_right)(right, chol)
    np.testing.assert_allclose(found, right @ np.linalg.inv(chol), rtol=1e-9)


factorise = jax.jit(gaussian.robust_cholesky)


def test_robust_cholesky_reconstructs_regular_covariances_in_any_units():
    rng = np.random.default_rng(6)
    units = 10 ** rng.uniform(-5, 6, (300, 4))
    cov = units[:, :, None] * draw.covariance(rng, 300, 4, spread=0.5) * units[:, None, :]
    L = np.asarray(factorise(cov))
    std = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    error = (L @ np.swapaxes(L, 1, 2) - cov) / (std[:, :, None] * std[:, None, :])
    assert np.abs(error).max() < 1e-8
    assert (np.triu(L, 1) == 0).all()


def test_robust_cholesky_of_a_state_that_does_not_vary():
    np.testing.assert_array_equal(factorise(jnp.zeros((4, 4))), 0.0)
    partly, least = jnp.diag(jnp.array([4.0, 0.0, 0.0, 1e-4])), jnp.array([1e-6, 1e-6, 10.0, 1.0])
    np.testing.assert_allclose(factorise(partly), np.diag([2.0, 0.0, 0.0, 1e-2]), rtol=1e-8)
    np.testing.assert_allclose(factorise(partly, least), np.diag([2.0, 1e-6, 10.0, 1.0]), rtol=1e-8)


def test_draws_have_the_spread_they_are_asked_for_however_small():
    p = Gaussian(jnp.zeros(2), 1e-18 * jnp.array([[1.0, 0.5], [0.5, 1.0]]))
    drawn = jax.jit(jax.vmap(lambda key: gaussian.draw(p, key)))(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(np.cov(drawn, rowvar=False), p.cov, rtol=0.05)


magnitudes = st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 1e3, 1e6]).flatmap(lambda m: st.floats(-m, m))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 5).flatmap(lambda n: arrays.arrays(float, (4, n), elements=magnitudes)))
def test_robust_cholesky_of_any_covariance_is_finite_and_close(a):
    cov = a @ a.T
    L = np.asarray(factorise(cov, jnp.full(4, 1e-6)))
    assert np.isfinite(L).all()
    assert (np.diagonal(L) > 0).all()
    std = np.maximum(np.sqrt(np.diagonal(cov)), 1e-6)
    assert (np.abs(L @ L.T - cov) <= 1e-8 * np.outer(std, std) + 1e-12 * (1 + 1e-8) * np.eye(4)).all()
