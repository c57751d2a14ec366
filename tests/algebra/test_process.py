"""Gaussian processes against dense algebra, SciPy's density, finite differences, and functions that are known."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from pilotfish import types  # noqa: F401  float64
from pilotfish.algebra import process
from pilotfish.algebra.process import Kernel

N, D, OUTPUTS = 30, 3, 2
ALL = jnp.arange(N)


def drawn(seed, n=N, d=D, outputs=OUTPUTS):
    rng = np.random.default_rng(seed)
    kernel = Kernel(rng.normal(0.3, 0.4, d), rng.normal(-0.5, 0.3), rng.uniform(-4, -1, outputs))
    known = np.arange(n) < n - 4
    rng.shuffle(known)
    s = rng.normal(size=(n, d))
    smooth = np.sin(s @ rng.normal(size=(d, outputs))) + s @ rng.normal(size=(d, outputs))
    y = smooth + noise(kernel) ** 0.5 * rng.normal(size=(n, outputs))
    return jax.tree.map(jnp.asarray, (kernel, s, y, known))


def matrix(kernel, a, b):
    """Entry by entry."""
    length, w = np.exp(kernel.length), np.exp(kernel.linear)
    k = [[np.exp(-0.5 * (((p - q) / length) ** 2).sum()) + w**2 * (1 + p @ q) for q in b] for p in a]
    return np.array(k)


def noise(kernel):
    return np.exp(2 * np.asarray(kernel.noise)) + process.LEAST_NOISE**2


def dense(kernel, s, y, known, at):
    """The mean at some inputs, by one matrix of all samples."""
    s, y, at = np.asarray(s[known]), np.asarray(y[known]), np.asarray(at)
    K, across = matrix(kernel, s, s), matrix(kernel, at, s)
    columns = zip(noise(kernel), y.T, strict=True)
    return np.stack([across @ np.linalg.solve(K + n * np.eye(len(K)), column) for n, column in columns], -1)


@pytest.mark.parametrize("seed", range(5))
def test_with_every_sample_as_a_pivot_it_is_the_dense_solution(seed):
    kernel, s, y, known = drawn(seed)
    at = np.random.default_rng(seed + 100).normal(size=(7, D))
    found = jax.vmap(jax.jit(process.given, static_argnums=5)(kernel, s, y, known, ALL, N))(jnp.asarray(at))
    np.testing.assert_allclose(found, dense(kernel, s, y, np.asarray(known), at), atol=3e-3)


def test_with_fewer_it_is_least_squares_in_their_basis_functions():
    kernel, s, y, known = drawn(3)
    found = process.given(kernel, s, y, known, ALL, 8)
    S = np.asarray(found.pivots)
    s, y, at = np.asarray(s[known]), np.asarray(y[known]), np.random.default_rng(0).normal(size=(5, D))
    assert len(np.unique(S, axis=0)) == 8
    across, own = matrix(kernel, s, S), matrix(kernel, S, S)
    for j, n in enumerate(noise(kernel)):
        weight = np.linalg.solve(across.T @ across + n * own, across.T @ y[:, j])
        expected = matrix(kernel, at, S) @ weight
        np.testing.assert_allclose(jax.vmap(found)(jnp.asarray(at))[:, j], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_factor_reproduces_the_matrix_and_pivots_are_where_most_is_left(seed):
    kernel, s, _, known = drawn(seed)
    order, G = map(np.asarray, process.factor(kernel, s, known, N))
    K = matrix(kernel, np.asarray(s), np.asarray(s)) * np.outer(known, known)
    left = process.UNSAID * noise(kernel).min()
    np.testing.assert_allclose(G @ G.T, K, atol=2 * left)
    used = np.flatnonzero(np.diagonal(G[order]))
    for i in used:
        rest = np.diagonal(K) - (G[:, :i] ** 2).sum(1)
        np.testing.assert_allclose(rest[order[i]], rest.max(), rtol=1e-6)
    assert np.all(np.asarray(known)[order[used]])
    assert (G[~np.asarray(known)] == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_surprise_is_the_density_at_the_likeliest_size(seed):
    """sigma_j drops out: the least over it of -log N(y; 0, sigma^2 (K + n^2 I)), but for a constant."""
    kernel, s, y, known = drawn(seed)
    other = kernel._replace(length=kernel.length + 0.3, noise=kernel.noise + 0.2)

    def brute(kernel):
        points, values = np.asarray(s[known]), np.asarray(y[known])
        total = process.WEAK * (np.maximum(np.append(kernel.length, kernel.linear) - np.log(10), 0) ** 2).sum()
        for n, column in zip(noise(kernel), values.T, strict=True):
            cov = matrix(kernel, points, points) + n * np.eye(len(points))
            density = stats.multivariate_normal(np.zeros(len(cov)), cov)

            def at(log_size, density=density, column=column):
                return len(column) * log_size - density.logpdf(column / np.exp(log_size))

            total += optimize.minimize_scalar(at, bounds=(-5, 5), method="bounded").fun
        return total

    found = process.surprise(other, s, y, known) - process.surprise(kernel, s, y, known)
    np.testing.assert_allclose(found, brute(other) - brute(kernel), rtol=1e-5)


def test_gradient_of_surprise_is_that_of_differences():
    kernel, s, y, known = drawn(7)
    flat, unflat = jax.flatten_util.ravel_pytree(kernel)
    slope = jax.grad(lambda flat: process.surprise(unflat(flat), s, y, known))(flat)
    for i, move in enumerate(1e-5 * np.eye(len(flat))):
        up, down = (process.surprise(unflat(flat + sign * move), s, y, known) for sign in (1, -1))
        np.testing.assert_allclose(slope[i], (up - down) / 2e-5, rtol=1e-4, atol=1e-5)


def smooth(s):
    return jnp.stack([jnp.sin(2 * s[:, 0]) * s[:, 1], s[:, 2] - 0.5 * s[:, 0]], 1)


def test_it_learns_which_inputs_matter_and_predicts_where_it_was_not():
    rng = np.random.default_rng(0)
    s = jnp.asarray(rng.normal(size=(150, 4)))  # the last input does nothing
    y = smooth(s) + 0.01 * rng.normal(size=(150, 2))
    known = jnp.ones(150, bool)
    first = process.begin(4, 2)
    kernel = jax.jit(process.likeliest, static_argnums=4)(first, s, y, known, 200)
    assert process.surprise(kernel, s, y, known) < process.surprise(first, s, y, known) - 100
    assert kernel.length[0] < kernel.length[3] - 1
    at = jnp.asarray(rng.normal(size=(100, 4))) * 0.8
    off = jax.vmap(process.given(kernel, s, y, known, jnp.arange(150), 150))(at) - smooth(at)
    assert np.sqrt((off**2).mean(0)).max() < 0.03


def test_an_output_that_is_linear_says_nothing_of_lengths_and_is_known():
    """The last action, kept in the state because actions come late, say: it could have any lengths."""
    rng = np.random.default_rng(1)
    s = jnp.asarray(rng.normal(size=(100, D)))
    curved, linear = jnp.sin(4 * s[:, 0]) * s[:, 1] + 0.05 * rng.normal(size=100), 1 + s @ jnp.array([1.0, -2.0, 0.5])
    both, known = jnp.stack([curved, linear], 1), jnp.ones(100, bool)
    alone = settled(process.begin(D, 1), s, both[:, :1], known)
    kernel = settled(process.begin(D, 2), s, both, known)
    np.testing.assert_allclose(kernel.length, alone.length, atol=1e-6)
    at = jnp.asarray(rng.normal(size=(50, D)))
    found = jax.vmap(process.given(kernel, s, both, known, jnp.arange(100), 100))(at)
    np.testing.assert_allclose(found[:, 1], 1 + at @ jnp.array([1.0, -2.0, 0.5]), atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, N), st.booleans(), st.booleans())
def test_any_samples_leave_numbers(seed, count, repeated, flat):
    """Few samples or none, all of them the same, an output that is 0 everywhere; exact data without noise are fitted:
    linear ones however few, others once there are a few times as many as a linear function has numbers.
    """
    kernel, s, y, _ = drawn(seed)
    s = jnp.where(repeated, s[:1], s)
    y = jnp.stack([0.0 * s[:, 0] if flat else s[:, 0], jnp.sin(s[:, 0])], 1)
    known = jnp.arange(N) < count
    found, kernel = prepared(kernel, s, y, known)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((found, kernel)))
    fitted, wanted = np.asarray(jax.vmap(found)(s))[:count], np.asarray(y)[:count]
    np.testing.assert_allclose(fitted[:, 0], wanted[:, 0], atol=1e-6)
    if count > 3 * (D + 1):
        np.testing.assert_allclose(fitted[:, 1], wanted[:, 1], atol=0.1 * np.abs(wanted[:, 1]).max() + 1e-9)


@pytest.mark.parametrize("count", [5, 6, 7])
@pytest.mark.parametrize("seed", [17, 22, 28])
def test_few_samples_are_never_believed_to_be_noise_without_bound(seed, count):
    """Likelihood alone takes some of these for noise of hundreds of times the function."""
    _, s, y, _ = drawn(seed)
    kernel = settled(process.begin(D, OUTPUTS), s, y.at[:, 0].set(jnp.sin(s[:, 0])), jnp.arange(N) < count)
    assert np.exp(kernel.noise).max() < 1.5


@jax.jit
def settled(kernel, s, y, known):
    return process.likeliest(kernel, s, y, known, 300)


@jax.jit
def prepared(kernel, s, y, known):
    kernel = process.likeliest(process.begin(D, OUTPUTS), s, y, known, 20)
    return process.given(kernel, s, y, known, ALL, 20), kernel


def test_in_float32_it_is_as_exact_as_that_allows():
    kernel, s, y, known = drawn(2)
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == float else leaf, (kernel, s, y))
    found = process.given(*low, known, ALL, N)
    assert found.weight.dtype == jnp.float32
    expected = process.given(kernel, s, y, known, ALL, N)
    at = jnp.asarray(np.random.default_rng(1).normal(size=(9, D)))
    np.testing.assert_allclose(jax.vmap(found)(at.astype(jnp.float32)), jax.vmap(expected)(at), atol=0.05)
