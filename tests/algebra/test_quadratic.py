"""Quadratic functions against finite differences, sampling and pointwise evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import draw

from pilotfish.algebra import quadratic
from pilotfish.types import Gaussian, Quadratic


def quadratics(rng, *shape):
    *batch, d = shape
    H, h, c = draw.symmetric(rng, *shape), rng.normal(size=(*batch, d)), rng.normal(size=tuple(batch))
    return Quadratic(jnp.asarray(H), jnp.asarray(h), jnp.asarray(c))


def by_hand(q, z):
    return 0.5 * z @ q.H @ z + q.h @ z + q.c


def curved(z, xp=jnp):
    return xp.sin(z[0]) * z[1] + xp.exp(0.3 * z[2]) * z[0] ** 2 + z[1] ** 3


def test_expand_has_the_value_slope_and_curvature_of_finite_differences():
    z, step = np.array([0.4, -1.2, 0.7]), 1e-4
    q = jax.jit(lambda z: quadratic.expand(curved, z))(z)

    def f(y):
        return curved(y, np)

    I = step * np.eye(3)
    slope = [(f(z + i) - f(z - i)) / (2 * step) for i in I]
    curvature = [[(f(z + i + j) - f(z + i - j) - f(z - i + j) + f(z - i - j)) / (4 * step**2) for j in I] for i in I]
    np.testing.assert_allclose(by_hand(q, z), f(z), rtol=1e-12)
    np.testing.assert_allclose(q.H @ z + q.h, slope, rtol=1e-6)
    np.testing.assert_allclose(q.H, curvature, atol=1e-6)


def test_expand_of_a_quadratic_is_the_quadratic():
    rng = np.random.default_rng(0)
    q = quadratics(rng, 4)
    found = jax.jit(lambda z: quadratic.expand(q, z))(10 * rng.normal(size=4))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(q), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_expectation_is_the_mean_over_samples_and_over_sigma_points():
    rng = np.random.default_rng(1)
    n, d = 20, 3
    q, mean, cov = quadratics(rng, n, d), rng.normal(size=(n, d)), draw.covariance(rng, n, d)
    found = quadratic.expectation(q, Gaussian(jnp.asarray(mean), jnp.asarray(cov)))
    for i in range(n):
        one = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), q)
        shifts = np.sqrt(d) * np.linalg.cholesky(cov[i]).T
        points = [by_hand(one, mean[i] + s) for s in (*shifts, *-shifts)]
        np.testing.assert_allclose(found[i], np.mean(points), rtol=1e-9, atol=1e-11)
    z = rng.multivariate_normal(mean[-1], cov[-1], 100_000)
    samples = 0.5 * np.einsum("ni,ij,nj->n", z, one.H, z) + z @ one.h + one.c
    assert abs(samples.mean() - found[-1]) < 5 * samples.std() / np.sqrt(len(z))


compose = jax.jit(quadratic.compose)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3))
def test_compose_is_pointwise_evaluation(seed, decades):
    rng = np.random.default_rng(seed)
    q, A, b = quadratics(rng, 2, 4), 10**decades * rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4))
    found = compose(q, A, b)
    y = rng.normal(size=(2, 3))
    for i in range(2):
        one, z = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), q), A[i] @ y[i] + b[i]
        scale = 1 + np.abs(z).max() ** 2
        np.testing.assert_allclose(found(jnp.asarray(y))[i], by_hand(one, z), rtol=1e-9, atol=1e-11 * scale)
