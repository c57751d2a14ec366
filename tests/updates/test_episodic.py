"""REPS' weights and MORE's step against SciPy's minimisers, and the fits against NumPy's and least squares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from oracles import draw
from scipy import optimize, special, stats

from pilotfish.types import Quadratic
from pilotfish.updates import episodic

M = 12
shares = jax.jit(episodic.shares)
matched = jax.jit(episodic.matched)
seeds = st.integers(0, 2**32 - 1)
spaced = st.floats(-1e3, 1e3).map(lambda c: c if abs(c) > 1e-280 else 0.0)
"""Costs that, as parts of their range, differ by numbers that float64 has."""


def equal(n=M):
    return np.full(n, 1.0 / n)


def kl(d, p):
    return special.rel_entr(d, p).sum()


# ---- weights ----


def dual(x, cost, p, kl_step, phi):
    """REPS' dual, of x = [log eta, theta]."""
    eta, theta = np.exp(x[0]), x[1:]
    exponent = -(cost + phi @ theta) / eta
    return eta * kl_step + theta @ (p @ phi) + eta * special.logsumexp(exponent, b=p)


@settings(deadline=None)
@given(arrays.arrays(float, M, elements=spaced), st.floats(1e-3, 2.0), st.integers(0, 6))
@example(np.array([-1.0, 1.0] + [0.0] * (M - 2)), 1.0, 1)  # what does not count is the cheapest
def test_the_bound_is_met_and_the_weights_are_those_of_its_multiplier(cost, kl_step, missing):
    p = np.where(np.arange(M) < missing, 0.0, 1.0) / (M - missing)
    lowest = cost[missing:].min()
    assume(np.ptp(cost[missing:]) > 1e-6)
    attainable = np.log((M - missing) / (cost[missing:] == lowest).sum())
    found = shares(cost, p, kl_step)
    d = np.asarray(found.share)
    assert d.sum() == pytest.approx(1.0)
    assert (d[:missing] == 0).all()
    assert kl(d, p) <= kl_step * (1 + 1e-9)
    if kl_step < 0.99 * attainable:
        assert kl(d, p) == pytest.approx(kl_step, rel=1e-7)
        assert found.kl == pytest.approx(kl_step, rel=1e-7)
    weight = p[missing:] * np.exp(-(cost[missing:] - lowest) / found.eta)
    np.testing.assert_allclose(d[missing:], weight / weight.sum(), rtol=1e-6, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(seeds, st.floats(0.01, 1.0))
def test_the_multiplier_is_the_minimum_of_the_dual(seed, kl_step):
    rng = np.random.default_rng(seed)
    cost, p = rng.normal(size=M), rng.dirichlet(np.full(M, 5.0))
    found = shares(cost, p, kl_step)
    oracle = optimize.minimize_scalar(
        lambda s: dual(np.array([s]), cost, p, kl_step, np.zeros((M, 0))), bounds=(-12, 8), options={"xatol": 1e-10}
    )
    assert np.log(found.eta) == pytest.approx(oracle.x, abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_no_other_weights_cost_less(seed):
    """The primal by SLSQP, with and without features that are matched."""
    rng = np.random.default_rng(seed)
    cost, kl_step, s = rng.normal(size=M), 0.3, rng.normal(size=(M, 1))
    cost = cost + 2.0 * s[:, 0]
    for phi in (None, np.asarray(matched(s, equal()))):
        d = np.asarray(shares(cost, equal(), kl_step, phi).share)
        constraints = [
            {"type": "ineq", "fun": lambda d: kl_step - kl(d, equal()), "jac": lambda d: -np.log(M * d) - 1.0},
            {"type": "eq", "fun": lambda d: d.sum() - 1.0, "jac": lambda d: np.ones(M)},
        ]
        if phi is not None:
            constraints.append({"type": "eq", "fun": lambda d, phi=phi: d @ phi, "jac": lambda d, phi=phi: phi.T})
        how = {"jac": lambda d: cost, "bounds": [(1e-9, 1)] * M, "options": {"maxiter": 500, "ftol": 1e-13}}
        oracle = optimize.minimize(lambda d: d @ cost, equal(), constraints=constraints, **how)
        assert oracle.success
        np.testing.assert_allclose(d @ cost, oracle.fun, atol=1e-5)
        np.testing.assert_allclose(d, oracle.x, atol=2e-3)


@settings(deadline=None, max_examples=15)
@given(seeds, st.floats(0.01, 0.5))
def test_features_are_matched_and_the_joint_dual_is_at_its_minimum(seed, kl_step):
    rng = np.random.default_rng(seed)
    n = 40
    s = rng.normal(size=(n, 2))
    cost = rng.normal(size=n) + 3.0 * s[:, 0] + s[:, -1] ** 2
    p = rng.dirichlet(np.full(n, 5.0))
    phi = np.asarray(matched(s, p))
    found = shares(cost, p, kl_step, phi)
    d = np.asarray(found.share)
    assert np.abs(d @ phi).max() < 1e-8
    assert kl(d, p) == pytest.approx(kl_step, rel=1e-6)
    x = np.append(np.log(found.eta), found.theta)
    here = dual(x, cost, p, kl_step, phi)
    oracle = optimize.minimize(dual, np.zeros_like(x), (cost, p, kl_step, phi), method="BFGS", options={"gtol": 1e-8})
    assert here <= oracle.fun + 1e-7
    np.testing.assert_allclose(optimize.approx_fprime(x, dual, 1e-7, cost, p, kl_step, phi), 0.0, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(seeds, st.floats(-12, 12), st.floats(-1e4, 1e4))
def test_units_and_zeros_of_costs_do_not_matter(seed, exponent, zero):
    rng = np.random.default_rng(seed)
    cost, s, unit = rng.normal(size=M), rng.normal(size=(M, 1)), 10.0**exponent
    for phi in (None, matched(s, equal())):
        plain, other = shares(cost, equal(), 0.4, phi), shares(unit * (cost + zero), equal(), 0.4, phi)
        np.testing.assert_allclose(other.share, plain.share, rtol=1e-6, atol=1e-9)
        assert float(other.eta) == pytest.approx(unit * float(plain.eta), rel=1e-6)


def test_one_outlier_hides_nothing():
    cost = np.append(np.linspace(0.0, 1.0, M - 1), 1e9)
    found = shares(cost, equal(), 0.5)
    without = shares(cost[:-1], equal(M - 1), 0.5 - np.log(M / (M - 1)))
    np.testing.assert_allclose(found.share[:-1], without.share, rtol=1e-6)


def test_where_the_bound_is_slack_the_cheapest_gets_all():
    d = shares(np.linspace(0.0, 1.0, M), equal(), np.log(M) + 0.1).share
    np.testing.assert_allclose(d, np.eye(M)[0], atol=1e-12)


@pytest.mark.parametrize("context", ["two entries", "one stays", "one repeats", "two values", "none varies"])
def test_white_features_span_contexts_and_their_squares(context):
    rng = np.random.default_rng(0)
    s, p = rng.normal(size=(30, 2)), rng.dirichlet(np.full(30, 3.0))
    s[:, 1] = {
        "two entries": s[:, 1],
        "one stays": 0.0 * s[:, 1],
        "one repeats": 2.0 * s[:, 0],
        "two values": np.sign(s[:, 1]),
        "none varies": 0.0 * s[:, 1],
    }[context]
    s[:, 0] *= context != "none varies"
    phi = np.asarray(matched(s, p))
    raw = np.concatenate([s, s**2], 1)
    raw = raw - p @ raw
    rank = np.linalg.matrix_rank(raw)
    np.testing.assert_allclose(p @ phi, 0.0, atol=1e-12)
    cov = (phi * p[:, None]).T @ phi
    kept = np.diagonal(cov) > 0.5
    assert (
        kept.sum()
        == rank
        == {"two entries": 4, "one stays": 2, "one repeats": 2, "two values": 4}.get(context, 0)
        - (context == "two values" and rank == 3)
    )
    np.testing.assert_allclose(cov, np.diag(kept.astype(float)), atol=1e-9)
    assert np.linalg.matrix_rank(np.concatenate([raw, phi], 1)) == rank


# ---- fits ----


def test_a_fit_is_numpys_unbiased_weighted_covariance():
    rng = np.random.default_rng(0)
    e, d = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 3)), rng.dirichlet(np.ones(30))
    mean, chol = episodic.weighted_fit(jnp.asarray(e), jnp.asarray(d), 1e-12)
    np.testing.assert_allclose(mean, d @ e, rtol=1e-12)
    np.testing.assert_allclose(chol @ chol.T, np.cov(e.T, aweights=d), rtol=1e-8)


@pytest.mark.parametrize("samples", [2, 5, 40])
def test_without_selection_the_covariance_stays_on_average(samples):
    """However few the samples, and singular what they alone would make."""
    n = 8
    e = np.random.default_rng(0).normal(size=(4000, samples, n))
    fit = jax.jit(jax.vmap(lambda e: episodic.weighted_fit(e, jnp.full(samples, 1.0 / samples), float(n))))
    _, chol = fit(jnp.asarray(e))
    assert (np.diagonal(chol, axis1=1, axis2=2) > 0.3).all()
    np.testing.assert_allclose((chol @ chol.mT).mean(0), np.eye(n), atol=0.03)


@pytest.mark.parametrize("samples", [3, 50])
def test_a_regression_is_least_squares_with_one_sample_of_no_gain(samples):
    rng = np.random.default_rng(1)
    s, d = rng.normal(size=(samples, 4)), rng.dirichlet(np.ones(samples))
    e = s @ rng.normal(size=(4, 2)) + rng.normal(size=(samples, 2))
    ess = 1.0 / (d**2).sum()
    found = episodic.weighted_regression(jnp.asarray(e), jnp.asarray(s), jnp.asarray(d), 2.0)
    root = np.sqrt(ess * d)[:, None]
    rows = np.concatenate([root * np.column_stack([s, np.ones(samples)]), np.eye(4, 5)])
    solved = np.linalg.lstsq(rows, np.concatenate([root * e, np.zeros((4, 2))]), rcond=None)[0]
    np.testing.assert_allclose(found.K, solved[:4].T, atol=1e-9)
    np.testing.assert_allclose(found.k, solved[4], atol=1e-9)
    assert (np.linalg.eigvalsh(found.chol @ found.chol.T) > 0.1).all()


@settings(deadline=None, max_examples=10)
@given(seeds, st.sampled_from([1, 4]), st.floats(-12, 12), st.floats(-1e6, 1e6))
def test_a_surrogate_finds_a_quadratic_function(seed, n, exponent, zero):
    rng = np.random.default_rng(seed)
    H, h, e, unit = draw.symmetric(rng, n), rng.normal(size=n), rng.normal(size=(60, n)), 10.0**exponent
    cost = 0.5 * np.einsum("mi,ij,mj->m", e, H, e) + e @ h
    weight = rng.uniform(0.5, 2.0, 60)
    weight[:5] = 0.0
    spoilt = np.where(weight > 0, unit * (cost + zero), 1e300)
    found, left = episodic.surrogate(jnp.asarray(e), jnp.asarray(spoilt), jnp.asarray(weight), 1e-9)
    np.testing.assert_allclose(found.H / unit, H, atol=1e-4)
    np.testing.assert_allclose(found.h / unit, h, atol=1e-4)
    assert 0 <= left < 1e-6


@pytest.mark.parametrize("drop", [0.1, np.inf])
@pytest.mark.parametrize("seed", range(3))
def test_a_step_is_the_best_gaussian_within_its_bounds(seed, drop):
    """Against SLSQP over mean and factor; KL and entropy are SciPy's formulas."""
    rng = np.random.default_rng(seed)
    n, kl_step = 2, 0.3
    H, h = draw.symmetric(rng, n), rng.normal(size=n)
    mean, chol, multipliers = episodic.surrogate_step(
        Quadratic(jnp.asarray(H), jnp.asarray(h), jnp.zeros(())), kl_step, drop
    )

    def parts(x):
        L = np.zeros((n, n))
        L[np.tril_indices(n)] = x[n:]
        return x[:n], L

    def expected(x):
        m, L = parts(x)
        return 0.5 * m @ H @ m + h @ m + 0.5 * np.trace(H @ L @ L.T)

    def divergence(x):
        m, L = parts(x)
        return 0.5 * ((L**2).sum() + m @ m - n) - np.log(np.abs(np.diagonal(L))).sum()

    def change(x):
        return np.log(np.abs(np.diagonal(parts(x)[1]))).sum()

    constraints = [{"type": "ineq", "fun": lambda x: kl_step - divergence(x)}]
    if np.isfinite(drop):
        constraints.append({"type": "ineq", "fun": lambda x: change(x) + drop})
    start = np.concatenate([np.zeros(n), np.eye(n)[np.tril_indices(n)]])
    oracle = optimize.minimize(expected, start, constraints=constraints, options={"ftol": 1e-12, "maxiter": 500})
    x = np.concatenate([mean, np.asarray(chol)[np.tril_indices(n)]])
    np.testing.assert_allclose(expected(x), oracle.fun, atol=1e-6)
    assert divergence(x) == pytest.approx(kl_step, rel=1e-6)
    assert multipliers.kl == pytest.approx(kl_step, rel=1e-6)
    assert change(x) >= -drop - 1e-9


def test_divergence_by_monte_carlo():
    rng = np.random.default_rng(0)
    mean, chol = rng.normal(size=3), np.linalg.cholesky(draw.covariance(rng, 3, spread=0.3))
    p, q = stats.multivariate_normal(mean, chol @ chol.T), stats.multivariate_normal(np.zeros(3))
    w = p.rvs(200_000, random_state=1)
    difference = p.logpdf(w) - q.logpdf(w)
    found = float(episodic.white_kl(jnp.asarray(mean), jnp.asarray(chol)))
    assert found == pytest.approx(difference.mean(), abs=4 * difference.std() / np.sqrt(len(w)))


def test_what_can_be_compared():
    valid = jnp.array([True, True, False, True])
    share, differ = episodic.comparable(jnp.array([1e9, 1e9 + 1.0, 5.0, 1e9]), valid)
    np.testing.assert_allclose(share, [1 / 3, 1 / 3, 0, 1 / 3])
    assert differ
    assert not episodic.comparable(jnp.full(4, 1e9), valid)[1]
    assert not episodic.comparable(jnp.arange(4.0), jnp.zeros(4, bool))[1]
    assert not episodic.comparable(jnp.arange(4.0), jnp.array([True, False, False, False]))[1]
