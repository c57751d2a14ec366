"""The trust-region step against nonlinear programming, the paper's dual, and its own promises, measured.

Numbers called `gain` are decreases of the expected cost. What a controller's KL really is, `oracles.trust_region`
measures from the returned numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from oracles import draw, trust_region

from pilotfish.algebra import dual
from pilotfish.types import Gaussian, LinearGaussian, Quadratic

white_step = jax.jit(dual.white_step)
white_steps = jax.jit(jax.vmap(dual.white_step))
improves = jax.jit(jax.vmap(dual.improve))


def improved(K, k, R, mu, S, H, h, kl_step, entropy_drop):
    """`dual.improve` on stacked problems: the new (K, k, chol) and the multipliers, in NumPy."""
    K, k, R, mu, S, H, h = map(jnp.asarray, (K, k, R, mu, S, H, h))
    Q = Quadratic(H, h, jnp.zeros(len(h)))
    new, multipliers = improves(LinearGaussian(K, k, R), Gaussian(mu, S), Q, kl_step, entropy_drop)
    return jax.tree.map(np.asarray, ((new.K, new.k, new.chol), multipliers))


def white_kl(step):
    """KL of white steps to the standard normal."""
    n, du = step.g.shape
    squares = sum((a.reshape(n, -1) ** 2).sum(-1) for a in step)
    return 0.5 * (squares - du) - np.log(np.diagonal(step.chol, axis1=1, axis2=2)).sum(-1)


# ---- (a, b) the optimum, by three other ways ----

N_SMALL = 8
SHAPES = [(1, 0), (2, 1), *(pytest.param(*shape, marks=pytest.mark.slow) for shape in [(1, 2), (3, 3), (4, 2)])]


def small_problems(du, dx):
    """Convex, concave and indefinite problems in the action's units, with all kinds of bounds."""
    rng = np.random.default_rng(10 * du + dx)
    n = N_SMALL
    eigenvalues = np.exp(rng.normal(size=(n, du)))
    eigenvalues[1::3] *= -1
    eigenvalues[2::3] *= rng.choice([-1, 1], (len(eigenvalues[2::3]), du))
    U = draw.orthogonal(rng, n, du)
    H = draw.symmetric(rng, n, dx + du)
    H[:, dx:, dx:] = U @ (eigenvalues[:, :, None] * np.swapaxes(U, 1, 2))
    h = rng.normal(size=(n, dx + du))
    kl_step = rng.choice([0.01, 0.1, 0.5], n)
    entropy_drop = rng.choice([0.0, 0.05, np.inf], n)
    kl_step[0], entropy_drop[0] = 20.0, 0.05  # slack KL bound, for a convex Q
    state = rng.normal(size=(n, dx)), draw.covariance(rng, n, dx, spread=0.5)
    return (*draw.gains(rng, n, du, dx), *state, H, h, kl_step, entropy_drop)


@pytest.mark.parametrize(("du", "dx"), SHAPES)
def test_controller_is_the_nonlinear_program_s(du, dx):
    problems = small_problems(du, dx)
    new, _ = improved(*problems)
    rng = np.random.default_rng(0)
    for i in range(N_SMALL):
        K, k, R, mu, S, H, h, _, _ = problem = [a[i] for a in problems]
        old_cost = trust_region.expected_cost(K, k, R, mu, S, H, h)
        gain = old_cost - trust_region.expected_cost(*(a[i] for a in new), mu, S, H, h)
        starts = 0.1 * rng.normal(size=(2, du * (dx + 1) + du * (du + 1) // 2))
        found = [trust_region.nonlinear_program(*problem, start) for start in starts]
        gains = [old_cost - trust_region.expected_cost(*f, mu, S, H, h) for f in found if f is not None]
        np.testing.assert_allclose(gain, max(gains), rtol=1e-6)


@pytest.mark.parametrize(("du", "dx"), SHAPES)
def test_multipliers_minimise_the_paper_s_dual(du, dx):
    problems = small_problems(du, dx)
    new, multipliers = improved(*problems)
    for i in range(N_SMALL):
        K, k, R, mu, S, H, h, kl_step, entropy_drop = (a[i] for a in problems)
        H, h = H.copy(), h.copy()
        H[:dx, :dx], h[:dx] = 0, 0  # the paper's Q has no terms in x alone
        Q = -H[dx:, dx:], -H[dx:, :dx], -h[dx:]  # the paper's Q is a reward
        reward = -trust_region.expected_cost(*(a[i] for a in new), mu, S, H, h)
        least, eta, omega = trust_region.minimise_paper_dual(K, k, R, mu, S, *Q, kl_step, entropy_drop)
        scale = abs(reward) + abs(trust_region.expected_cost(K, k, R, mu, S, H, h))
        np.testing.assert_allclose(reward, least, atol=1e-7 * scale)
        np.testing.assert_allclose(multipliers.eta[i], eta, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(multipliers.omega[i], omega, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("du", "dx"), SHAPES)
def test_karush_kuhn_tucker_conditions_hold(du, dx):
    problems = small_problems(du, dx)
    new, multipliers = improved(*problems)
    lower = np.tril_indices(du)
    for i in range(N_SMALL):
        K0, k0, R, mu, S, H, h, kl_step, entropy_drop = (a[i] for a in problems)
        eta, omega = multipliers.eta[i], multipliers.omega[i]
        shapes = np.cumsum([du * dx, du])

        def terms(y):
            K, k, w = np.split(y, shapes)  # noqa: B023
            W = np.zeros((du, du))
            W[lower] = w
            K = K.reshape(du, dx)
            measured = trust_region.measure(K, k, W, K0, k0, R, mu, S)  # noqa: B023
            cost = trust_region.expected_cost(K, k, W, mu, S, H, h)  # noqa: B023
            return np.array([cost, measured.kl, measured.entropy_change])

        y = np.concatenate([new[0][i].ravel(), new[1][i], new[2][i][lower]])
        step = 1e-5
        slopes = np.array([(terms(y + e) - terms(y - e)) / (2 * step) for e in step * np.eye(len(y))])
        gradient = slopes @ np.array([1.0, eta, -omega])
        assert np.abs(gradient).max() < 1e-6 * (1 + np.abs(slopes[:, 0]).max() + eta * np.abs(slopes[:, 1]).max())
        _, kl, entropy_change = terms(y)
        assert eta >= 0
        assert omega >= 0
        np.testing.assert_allclose(eta * (kl_step - kl), 0.0, atol=1e-7 * eta * kl_step)
        if np.isinf(entropy_drop):
            assert omega == 0
        else:
            np.testing.assert_allclose(omega * (entropy_change + entropy_drop), 0.0, atol=1e-9 * (1 + omega))


# ---- (c) every case of active and slack bounds, by name ----

inf = np.inf
CASES = {
    "indefinite, without entropy bound": ([-1, 2], [[1.0], [0.5]], [0.3, -0.2], 0.1, inf, "kl"),
    "concave: the entropy rises by itself": ([-1, -2], [[1.0], [0.5]], [0.3, -0.2], 0.1, 0.05, "kl"),
    "indefinite, with entropy bound": ([-0.1, 5], [[0.1], [0.1]], [0.1, 0.1], 0.1, 0.02, "kl entropy"),
    "convex, both bounds active": ([1, 2], [[1.0], [0.5]], [0.3, -0.2], 0.1, 0.05, "kl entropy"),
    "convex, entropy kept": ([1, 2], [[1.0], [0.5]], [0.3, -0.2], 0.1, 0.0, "kl entropy"),
    "convex, without entropy bound": ([1, 2], [[1.0], [0.5]], [0.3, -0.2], 0.1, inf, "kl"),
    "convex, near its optimum": ([1, 1.1], [[0.1], [0.1]], [0.1, 0.1], 1.0, 0.05, "entropy"),
    "convex, near its optimum, entropy kept": ([1, 1.1], [[0.1], [0.1]], [0.1, 0.1], 1.0, 0.0, "entropy"),
    "linear": ([0, 0], [[1.0], [0.5]], [0.3, -0.2], 0.1, 0.05, "kl"),
    "linear, entropy kept": ([0, 0], [[1.0], [0.5]], [0.3, -0.2], 0.1, 0.0, "kl"),
    "flat along one axis": ([0, 1], [[0.0], [0.5]], [0.0, 1.0], 0.1, inf, "kl"),
    "flat along one axis, with entropy bound": ([0, 1], [[0.0], [0.5]], [0.0, 1.0], 0.1, 0.05, "kl entropy"),
    "concave along an axis without slope": ([-1, 1], [[0.0], [0.5]], [0.0, 1.0], 0.1, inf, "kl"),
    "repeated eigenvalue": ([-3, -3], [[0.0], [0.5]], [0.0, 1.0], 0.1, 0.05, "kl"),
    "curvature alone": ([1, 2], [[0.0], [0.0]], [0.0, 0.0], 0.1, inf, "kl"),
}


@pytest.mark.parametrize("case", CASES)
def test_bounds_are_active_where_they_must_be(case):
    lam, B, b, kl_step, entropy_drop, active = CASES[case]
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    for U in (np.eye(2), turn):
        H = U @ np.diag(np.array(lam, float)) @ U.T
        step, multipliers = white_step(H, U @ np.array(B), U @ np.array(b), kl_step, entropy_drop)
        step, (eta, omega, kl, change) = jax.tree.map(np.asarray, (step, multipliers))
        assert eta + min(lam) > 0 or eta == 0
        assert (eta > 1e-9) == ("kl" in active.split())
        assert (omega > 1e-9) == ("entropy" in active.split())
        np.testing.assert_allclose(white_kl(jax.tree.map(lambda a: a[None], step))[0], kl, rtol=1e-9)
        np.testing.assert_allclose(np.log(np.diagonal(step.chol)).sum(), change, atol=1e-12)
        if "kl" in active.split():
            np.testing.assert_allclose(kl, kl_step, rtol=1e-9)
        else:
            assert kl < 0.9 * kl_step
            assert eta == 0
            np.testing.assert_allclose(step.g, -np.linalg.solve(H, U @ np.array(b)), rtol=1e-9)
        if "entropy" in active.split():
            np.testing.assert_allclose(change, -entropy_drop, atol=1e-12)
        else:
            assert change >= -entropy_drop - 1e-12


def test_a_linear_cost_moves_the_mean_along_its_slope_and_nothing_else():
    b = np.array([3.0, -4.0])
    for drop in (0.0, 0.05, inf):
        step, multipliers = white_step(np.zeros((2, 2)), np.zeros((2, 1)), b, 0.02, drop)
        np.testing.assert_allclose(step.g, -0.2 * b / 5, rtol=1e-9)
        np.testing.assert_allclose(step.chol, np.eye(2), atol=1e-12)
        np.testing.assert_allclose(multipliers.eta, 25.0, rtol=1e-9)


@pytest.mark.parametrize("entropy_drop", [0.0, 0.05, inf])
def test_a_cost_without_action_terms_changes_nothing(entropy_drop):
    rng = np.random.default_rng(0)
    n, du, dx = N_SMALL, 2, 1
    old, mu, S = draw.gains(rng, n, du, dx), rng.normal(size=(n, dx)), draw.covariance(rng, n, dx)
    H, h = np.zeros((n, dx + du, dx + du)), np.zeros((n, dx + du))
    H[:, :dx, :dx], h[:, :dx] = rng.normal(size=(n, dx, dx)), rng.normal(size=(n, dx))
    new, multipliers = improved(*old, mu, S, H, h, np.full(n, 0.1), np.full(n, entropy_drop))
    for a, b in zip(new, old, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
    for number in multipliers:
        np.testing.assert_allclose(number, 0.0, atol=1e-14)


# ---- (d) the promises, on thousands of random and degenerate problems ----

GROUPS = [(1, 1), (7, 2), *(pytest.param(*group, marks=pytest.mark.slow) for group in [(2, 3), (3, 2), (30, 3)])]
N_MANY = 1100


def hessians(rng, n, d):
    """Symmetric matrices of six kinds: any, convex, concave, rank-deficient, repeated eigenvalues, zero."""
    kind = rng.integers(0, 6, n)
    e = rng.normal(size=(n, d)) * 10 ** rng.uniform(-3, 3, (n, d))
    e[kind == 1] = np.abs(e[kind == 1])
    e[kind == 2] = -np.abs(e[kind == 2])
    e[kind == 3] *= rng.integers(0, 2, e[kind == 3].shape)
    e[kind == 4] = np.sign(e[kind == 4]) * np.abs(e[kind == 4][:, :1])
    e[kind == 5] = 0
    U = draw.orthogonal(rng, n, d)
    U[rng.uniform(size=n) < 0.3] = np.eye(d)  # exact zeros and ties
    return U @ (e[:, :, None] * np.swapaxes(U, 1, 2))


def sometimes(rng, *shape):
    """Factors over nine decades, zero for a third of the leading axis."""
    factor = 10 ** rng.uniform(-6, 3, shape[0]) * (rng.uniform(size=shape[0]) > 1 / 3)
    return rng.normal(size=shape) * factor.reshape(-1, *[1] * (len(shape) - 1))


def bounds(rng, n):
    drops = np.stack([np.zeros(n), 10 ** rng.uniform(-3, np.log10(2), n), np.full(n, inf)])
    return 10 ** rng.uniform(-6, 1, n), drops[rng.integers(0, 3, n), np.arange(n)]


@pytest.mark.parametrize(("du", "dx"), GROUPS)
def test_white_steps_are_exact_and_optimal(du, dx):
    """The step is feasible, stationary, on the convex side and complementary: so it is the global optimum."""
    rng = np.random.default_rng(du)
    unit = 10 ** rng.uniform(-6, 6, N_MANY)
    H = unit[:, None, None] * hessians(rng, N_MANY, du)
    B, b = unit[:, None, None] * sometimes(rng, N_MANY, du, dx), unit[:, None] * sometimes(rng, N_MANY, du)
    kl_step, entropy_drop = bounds(rng, N_MANY)
    step, multipliers = jax.tree.map(np.asarray, white_steps(H, B, b, kl_step, entropy_drop))
    assert all(np.isfinite(a).all() for a in (*step, *multipliers))
    assert (np.triu(step.chol, 1) == 0).all()
    diagonal = np.diagonal(step.chol, axis1=1, axis2=2)
    assert (diagonal > 0).all()

    eta, omega = multipliers.eta, multipliers.omega
    kl, change = white_kl(step), np.log(diagonal).sum(-1)
    tight = eta > 0
    assert 0.5 < tight.mean() < 1
    np.testing.assert_allclose(kl[tight], kl_step[tight], rtol=1e-6)
    assert (kl <= kl_step * (1 + 1e-6)).all()
    assert (change >= -entropy_drop - 1e-9).all()
    np.testing.assert_allclose(multipliers.kl, kl, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(multipliers.entropy_change, change, atol=1e-9)

    held = omega > 1e-9 * eta
    assert 0.05 < held.mean() < 0.6
    np.testing.assert_allclose(change[held], -entropy_drop[held], atol=1e-9)
    a = eta[:, None, None] * np.eye(du) + H
    size = np.abs(a).max((1, 2))
    assert (np.linalg.eigvalsh(a).min(-1) >= -1e-12 * size).all()
    move, slope = np.concatenate([step.G, step.g[..., None]], -1), np.concatenate([B, b[..., None]], -1)
    residual = np.abs(a @ move + slope).max((1, 2))
    assert (residual <= 1e-10 * (size * np.abs(move).max((1, 2)) + np.abs(slope).max((1, 2)))).all()
    P = step.chol @ np.swapaxes(step.chol, 1, 2)
    residual = np.abs(a @ P - (eta + omega)[:, None, None] * np.eye(du)).max((1, 2))
    assert (residual <= 1e-10 * size * np.abs(P).max((1, 2))).all()


@pytest.mark.parametrize(("du", "dx"), GROUPS)
def test_controllers_keep_both_bounds_in_the_action_s_units(du, dx):
    """Old covariances are nearly singular, with condition numbers up to 1e16; some states do not vary at all."""
    rng = np.random.default_rng(100 + du)
    n = N_MANY
    R = 10 ** rng.uniform(-3, 3, (n, 1, 1)) * draw.ill_conditioned_factor(rng, n, du, decades=8)
    K, k = sometimes(rng, n, du, dx), sometimes(rng, n, du)
    std = 10 ** rng.uniform(-2, 2, (n, dx))
    varies = np.ones((n, dx))
    varies[: n // 4] = rng.integers(0, 2, (n // 4, dx))
    S = (varies * std)[:, :, None] * draw.covariance(rng, n, dx, spread=0.0) * (varies * std)[:, None, :]
    mu = std * rng.normal(size=(n, dx))
    unit = 10 ** rng.uniform(-6, 6, n)
    H = unit[:, None, None] * hessians(rng, n, dx + du)
    H[:, dx:, :dx] *= sometimes(rng, n, 1, 1)
    H[:, :dx, dx:] = np.swapaxes(H[:, dx:, :dx], 1, 2)
    h = unit[:, None] * sometimes(rng, n, dx + du)
    kl_step, entropy_drop = bounds(rng, n)
    new, multipliers = improved(K, k, R, mu, S, H, h, kl_step, entropy_drop)
    assert all(np.isfinite(a).all() for a in (*new, *multipliers))
    assert (np.triu(new[2], 1) == 0).all()
    assert (np.diagonal(new[2], axis1=1, axis2=2) > 0).all()

    measured = [trust_region.measure(*(a[i] for a in (*new, K, k, R, mu, S))) for i in range(n)]
    kl, change, rounding = (
        np.array([getattr(m, name) for m in measured]) for name in ("kl", "entropy_change", "rounding")
    )
    assert (kl <= kl_step * (1 + 1e-6) + rounding).all()
    assert (change >= -entropy_drop - 1e-9).all()
    np.testing.assert_allclose(multipliers.entropy_change, change, atol=1e-9)
    # a state that does not vary is taken to vary by 1e-6: there the true KL may be less
    whole = varies.all(-1)
    assert (kl <= multipliers.kl * (1 + 1e-6) + rounding + 1e-12).all()
    assert (np.abs(kl - multipliers.kl) <= 1e-6 * kl + rounding + 1e-12)[whole].all()
    tight = multipliers.eta > 0
    assert (np.abs(kl - kl_step) <= 1e-6 * kl_step + rounding)[whole & tight].all()
    # and the allowance for rounding is no excuse: for most it is far below the tolerance
    assert (rounding < 1e-6 * kl_step).mean() > 0.7


numbers = st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 1e3, 1e6]).flatmap(lambda m: st.floats(-m, m))


@settings(deadline=None, max_examples=300)
@given(
    arrays.arrays(float, (3, 3), elements=numbers),
    arrays.arrays(float, (3, 2), elements=numbers),
    arrays.arrays(float, 3, elements=numbers),
    st.floats(1e-6, 10),
    st.sampled_from([0.0, 1e-3, 0.1, 2.0, inf]),
)
def test_no_adversary_breaks_a_white_step(H, B, b, kl_step, entropy_drop):
    step, multipliers = white_step(H + H.T, B, b, kl_step, entropy_drop)
    step, (eta, omega, kl, change) = jax.tree.map(lambda a: np.asarray(a)[None], (step, multipliers))
    assert all(np.isfinite(a).all() for a in (*step, eta, omega, kl, change))
    assert (np.diagonal(step.chol[0]) > 0).all()
    assert white_kl(step)[0] <= kl_step * (1 + 1e-6)
    if eta[0] > 0:
        np.testing.assert_allclose(white_kl(step)[0], kl_step, rtol=1e-6)
    assert np.log(np.diagonal(step.chol[0])).sum() >= -entropy_drop - 1e-9
    np.testing.assert_allclose(kl, white_kl(step), rtol=1e-6, atol=1e-12)


# ---- (e, f) limits and invariances ----


def test_no_trust_keeps_the_old_controller():
    *problem, _, entropy_drop = small_problems(2, 1)
    new, _ = improved(*problem, np.full(N_SMALL, 1e-14), entropy_drop)
    for a, b in zip(new, problem, strict=False):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_full_trust_gives_the_unconstrained_minimiser():
    lam, turn = np.diag([1.0, 2.0]), np.array([[0.8, -0.6], [0.6, 0.8]])
    H, B, b = turn @ lam @ turn.T, np.array([[1.0], [-2.0]]), np.array([3.0, 1.0])
    distances = []
    for kl_step in (1.0, 10.0, 100.0):
        step, multipliers = white_step(H, B, b, kl_step, inf)
        distances.append(np.abs(step.g + np.linalg.solve(H, b)).max() + np.abs(step.G + np.linalg.solve(H, B)).max())
        np.testing.assert_allclose(multipliers.kl, kl_step, rtol=1e-9)
    assert distances[0] > 10 * distances[1] > 1e3 * distances[2]
    assert distances[2] < 1e-9
    assert np.abs(step.chol).max() < 1e-9


def test_the_unit_of_cost_does_not_matter():
    *problem, H, h, kl_step, entropy_drop = small_problems(3, 3)
    new, multipliers = improved(*problem, H, h, kl_step, entropy_drop)
    for unit in (1e-6, 1e6):
        other, scaled = improved(*problem, unit * H, unit * h, kl_step, entropy_drop)
        for a, b in zip(other, new, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(scaled.eta, unit * multipliers.eta, rtol=1e-9)
        np.testing.assert_allclose(scaled.omega, unit * multipliers.omega, rtol=1e-9, atol=1e-12 * unit)


def test_the_units_of_state_and_action_do_not_matter():
    """With x = X x~ and u = U u~ (U lower triangular) the new controller is the old answer in the new units."""
    K, k, R, mu, S, H, h, *limits = small_problems(3, 3)
    new, multipliers = improved(K, k, R, mu, S, H, h, *limits)
    X = np.diag([1e-2, 1.0, 1e2])
    U = np.array([[1e2, 0, 0], [3.0, 1.0, 0], [0.0, 0.2, 1e-2]])
    to_x, to_u = np.linalg.inv(X), np.linalg.inv(U)
    Z = np.block([[X, np.zeros((3, 3))], [np.zeros((3, 3)), U]])
    other, same = improved(
        to_u @ K @ X, k @ to_u.T, to_u @ R, mu @ to_x.T, to_x @ S @ to_x.T, Z.T @ H @ Z, h @ Z, *limits
    )
    for a, b in zip((U @ other[0] @ to_x, other[1] @ U.T, U @ other[2]), new, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(same.eta, multipliers.eta, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(same.omega, multipliers.omega, rtol=1e-5, atol=1e-9)
