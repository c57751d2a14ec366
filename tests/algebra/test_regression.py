"""Quadratic regression against NumPy's least squares, quadrature and functions known beforehand."""

from itertools import combinations_with_replacement

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import draw

from pilotfish.algebra import gaussian, regression

fit = jax.jit(regression.fit_quadratic)


def monomials(z):
    """All products of at most two coordinates, the constant first."""
    n, d = z.shape
    products = [z[:, i] * z[:, j] for i, j in combinations_with_replacement(range(d), 2)]
    return np.column_stack([np.ones(n), z, *products])


@pytest.mark.parametrize("d", [1, 2, 4])
def test_features_are_orthonormal_for_standard_normal_inputs(d):
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)  # exact up to degree 9
    s = np.stack(np.meshgrid(*[nodes] * d), -1).reshape(-1, d)
    w = np.prod(np.stack(np.meshgrid(*[weights / weights.sum()] * d), -1), -1).ravel()
    phi = np.asarray(regression.features(jnp.asarray(s)))
    assert phi.shape[1] == regression.feature_count(d) == monomials(s).shape[1]
    np.testing.assert_allclose((phi * w[:, None]).T @ phi, np.eye(phi.shape[1]), atol=1e-12)


def test_features_span_all_monomials():
    s = np.random.default_rng(0).normal(size=(60, 3))
    phi = np.asarray(regression.features(jnp.asarray(s)))
    coef, *_ = np.linalg.lstsq(phi, monomials(s), rcond=None)
    np.testing.assert_allclose(phi @ coef, monomials(s), atol=1e-12)
    assert np.linalg.matrix_rank(coef) == phi.shape[1]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_as_quadratic_is_features_times_coefficients(seed):
    rng = np.random.default_rng(seed)
    coef, s = jnp.asarray(rng.normal(size=(2, 10))), jnp.asarray(rng.normal(size=(2, 3)))
    q = regression.as_quadratic(coef, 3)
    expected = (np.asarray(regression.features(s)) * np.asarray(coef)).sum(-1)
    np.testing.assert_allclose(q(s), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(q.H, q.H.mT)


@pytest.mark.parametrize("n", [40, regression.BLOCK, 2 * regression.BLOCK + 1])
def test_solution_is_least_squares_on_the_augmented_system(n):
    rng, ridge = np.random.default_rng(1), 0.3
    s, y, w = rng.normal(size=(n, 2)), rng.normal(size=n), rng.uniform(size=n)
    phi, w, p = np.asarray(regression.features(jnp.asarray(s))), w / w.sum(), 6
    penalty = np.sqrt(ridge) * np.eye(p)[1:]  # the first feature is free
    expected, *_ = np.linalg.lstsq(
        np.vstack([np.sqrt(w)[:, None] * phi, penalty]),
        np.append(np.sqrt(w) * y, np.zeros(p - 1)),
        rcond=None,
    )
    chol = regression.factor(jax.jit(regression.normal)(s, w), ridge)
    np.testing.assert_allclose(regression.solve(chol, jax.jit(regression.project)(s, w * y)), expected, rtol=1e-8)


def test_standard_is_numpys_and_rounding_is_no_variance():
    rng = np.random.default_rng(0)
    z = np.stack([rng.normal(size=50), 1e9 + rng.normal(size=50), np.full(50, 0.1) * 3, 1e-9 * rng.normal(size=50)], 1)
    weight = rng.random(50)
    weight[:5] = 0.0
    weight /= weight.sum()
    ruined = z.copy()
    ruined[:5] = 7.0
    mean, std = regression.standard(jnp.asarray(ruined), jnp.asarray(weight))
    wanted = np.average(z, 0, weight)
    np.testing.assert_allclose(mean, wanted, rtol=1e-12)
    exact = np.sqrt(np.average((z - wanted) ** 2, 0, weight))
    np.testing.assert_allclose(std, np.where(exact > 1e-15, exact, 0.0), rtol=1e-6)
    # the same numbers as differences of numbers of magnitude 1e9 are rounding but for the second
    _, std = regression.standard(jnp.asarray(z), jnp.asarray(weight), jnp.full_like(z, 1e9))
    np.testing.assert_array_equal(std > 0, [True, True, False, False])
    np.testing.assert_array_equal(regression.standard(jnp.asarray(z), jnp.zeros(50))[1], np.zeros(4))


def test_moments_are_those_of_numpy():
    rng = np.random.default_rng(2)
    z, w = rng.normal(size=(30, 3)), rng.uniform(size=30)
    mean, cov = jax.jit(regression.moments)(z, w / w.sum())
    np.testing.assert_allclose(mean, np.average(z, axis=0, weights=w), rtol=1e-10)
    np.testing.assert_allclose(cov, np.cov(z.T, aweights=w, ddof=0), rtol=1e-10)


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.floats(-4, 4)] * 3),
    st.tuples(*[st.floats(-30, 30)] * 3),
    st.floats(-4, 4),
)
def test_an_exact_quadratic_is_recovered_in_any_units(seed, decades, offset, decade_of_y):
    rng = np.random.default_rng(seed)
    unit, scale = 10 ** np.array(decades), 10**decade_of_y
    mean = np.array(offset) * unit
    H, h, c = draw.symmetric(rng, 3), rng.normal(size=3), rng.normal()
    H, h, c = scale * H / np.outer(unit, unit), scale * h / unit, scale * c

    def f(z):
        return 0.5 * np.einsum("ni,ij,nj->n", z - mean, H, z - mean) + (z - mean) @ h + c

    z, fresh = mean + unit * rng.normal(size=(60, 3)), mean + unit * rng.normal(size=(20, 3))
    q = fit(z, f(z), rng.uniform(0.5, 1.5, 60), 1e-13)
    raw_h = h - H @ mean
    np.testing.assert_allclose(q.H * np.outer(unit, unit), H * np.outer(unit, unit), atol=1e-8 * scale)
    np.testing.assert_allclose(q.h * unit, raw_h * unit, atol=1e-6 * scale)
    predicted = 0.5 * np.einsum("ni,ij,nj->n", fresh, q.H, fresh) + fresh @ np.asarray(q.h) + q.c
    np.testing.assert_allclose(predicted, f(fresh), atol=1e-6 * scale)


def test_a_ridge_means_the_same_in_all_units():
    rng = np.random.default_rng(3)
    z, y = rng.normal(size=(60, 3)), rng.normal(size=60)
    unit = np.array([1e-4, 1.0, 1e4])
    w = np.ones(60)
    one, other = fit(z, y, w, 0.1), fit(z * unit, y, w, 0.1)
    np.testing.assert_allclose(other.H * np.outer(unit, unit), one.H, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(other.h * unit, one.h, rtol=1e-6, atol=1e-8)


def test_a_weight_is_a_number_of_copies():
    rng = np.random.default_rng(4)
    z, y, copies = rng.normal(size=(60, 2)), rng.normal(size=60), rng.integers(0, 4, 60)
    weighted = fit(z, y, copies.astype(float), 0.01)
    repeated = fit(np.repeat(z, copies, 0), np.repeat(y, copies), None, 0.01)
    for a, b in zip(jax.tree.leaves(weighted), jax.tree.leaves(repeated), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


def test_the_constant_is_not_penalised():
    rng = np.random.default_rng(5)
    z, y = rng.normal(size=(60, 3)), 1e3 + rng.normal(size=60)
    q = fit(z, y, np.ones(60), 1e9)
    np.testing.assert_allclose(q.c, y.mean(), rtol=1e-6)
    np.testing.assert_allclose(q.H, 0.0, atol=1e-6)


def test_the_normal_matrix_of_a_badly_scaled_state_is_well_conditioned():
    rng = np.random.default_rng(6)
    z = np.array([3.1, 0.0, 5.0]) + np.array([0.01, 1e-3, 4.0]) * rng.normal(size=(300, 3))
    w = jnp.full(300, 1 / 300)
    mean, cov = regression.moments(jnp.asarray(z), w)
    white = (z - mean) @ np.linalg.inv(gaussian.robust_cholesky(cov)).T
    factor = regression.factor(regression.normal(white, w), 1e-13)
    assert np.linalg.cond(factor @ factor.T) < 100
    assert np.linalg.cond(monomials(z).T @ monomials(z)) > 1e14
