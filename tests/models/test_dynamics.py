"""Fitted dynamics against least squares, pseudo-samples, and the system that made the data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pilotfish.algebra import mixture, regression
from pilotfish.models import dynamics, regressed
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.models.nominal import Nominal
from pilotfish.types import Gaussian, LinearDynamics, LinearGaussian, Rollouts

T, DX, DU = 4, 3, 2
ORIGIN = Nominal(jnp.zeros((T + 1, DX)), jnp.zeros((T, DU)))


@eqx.filter_jit
def fit(x, u, weight, count, prior=None, nominal=ORIGIN):
    prior = None if prior is None else regressed.near(prior, dynamics.transitions(x, u), weight)
    return dynamics.fit(x, u, weight, count, nominal, prior)[0]


def system(seed):
    rng = np.random.default_rng(seed)
    A = np.eye(DX) + 0.3 * rng.normal(size=(T, DX, DX))
    return A, rng.normal(size=(T, DX, DU)), rng.normal(size=(T, DX)), 0.1 * rng.uniform(0.5, 1.5, (T, DX))


def rollouts(seed, M, A, B, c, noise_std):
    rng = np.random.default_rng(seed)
    x, u = [3.0 + rng.normal(size=(M, DX))], []
    for t in range(T):
        u.append(-0.3 * x[t][:, :DU] + rng.normal(size=(M, DU)))
        x.append(x[t] @ A[t].T + u[t] @ B[t].T + c[t] + noise_std[t] * rng.normal(size=(M, DX)))
    return np.stack(x, 1), np.stack(u, 1)


def even(M):
    return jnp.full((M, T), 1.0 / M), jnp.full(T, float(M))


def test_without_a_prior_it_is_least_squares():
    truth = system(0)
    x, u = rollouts(1, 40, *truth)
    weight = np.ones((40, T))
    weight[[3, 17]], weight[5, 2:] = 0.0, 0.0
    x[3], u[17], x[5, 3:] = 1e3, -1e3, 1e3  # rollouts that do not count, and one that broke off
    count = weight.sum(0)
    model = fit(*map(jnp.asarray, (x, u, weight / count)), jnp.asarray(count))
    for t in range(T):
        kept = weight[:, t] > 0
        design = np.hstack([x[kept, t], u[kept, t], np.ones((kept.sum(), 1))])
        coef, *_ = np.linalg.lstsq(design, x[kept, t + 1], rcond=None)
        residual = x[kept, t + 1] - design @ coef
        found = np.hstack([model.A[t], model.B[t], model.c[t, :, None]])
        np.testing.assert_allclose(found, coef.T, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(model.cov[t], residual.T @ residual / kept.sum(), rtol=1e-5, atol=1e-8)


def test_many_samples_show_the_system():
    A, B, c, noise_std = system(2)
    model = fit(*map(jnp.asarray, rollouts(3, 20_000, A, B, c, noise_std)), *even(20_000))
    np.testing.assert_allclose(model.A, A, atol=0.01)
    np.testing.assert_allclose(model.B, B, atol=0.01)
    np.testing.assert_allclose(model.c, c, atol=0.03)
    for t in range(T):
        np.testing.assert_allclose(np.sqrt(np.diagonal(model.cov[t])), noise_std[t], rtol=0.03)


def test_normal_inverse_wishart_counts_the_prior_as_a_sample():
    """The posterior scatter is that of the samples and one more at the prior's mean, and the prior's own."""
    rng = np.random.default_rng(4)
    z, mu = rng.normal(size=(7, 5)) + 2.0, rng.normal(size=5)
    phi = np.cov(rng.normal(size=(5, 30)))
    mean, cov = regression.moments(jnp.asarray(z), jnp.full(7, 1 / 7))
    found = regression.normal_inverse_wishart(mean, cov, 7.0, Gaussian(jnp.asarray(mu), jnp.asarray(phi)))
    np.testing.assert_allclose(found, np.cov(np.vstack([z, mu]).T, bias=True) + phi / 8, rtol=1e-10)


def test_a_mixture_makes_do_with_fewer_rollouts_than_dimensions():
    """Four rollouts cannot determine 6 coefficients a row; with the prior of all steps of one system they predict."""
    A, B, c, noise_std = (np.repeat(a[:1], T, 0) for a in system(5))
    x, u = map(jnp.asarray, rollouts(6, 4, A, B, c, noise_std))
    z = dynamics.transitions(x, u).reshape(-1, 2 * DX + DU)
    start = mixture.begin(z, jnp.ones(len(z)), 2, jax.random.key(0))
    prior = mixture.fit(z, jnp.ones(len(z)), start, 20)
    alone, helped = fit(x, u, *even(4)), fit(x, u, *even(4), prior)
    new_x, new_u = rollouts(7, 500, A, B, c, noise_std)

    def error(model):
        told = np.einsum("tij,mtj->mti", model.A, new_x[:, :-1]) + np.einsum("tij,mtj->mti", model.B, new_u) + model.c
        return np.sqrt(((told - new_x[:, 1:]) ** 2).mean())

    assert np.isfinite(error(alone))
    assert error(helped) < 0.5 * error(alone)
    assert error(helped) < 0.3 * new_x[:, 1:].std()
    assert (np.linalg.eigvalsh(helped.cov) > 0).all()


def test_coordinates_that_do_not_vary_are_harmless():
    x, u = rollouts(8, 30, *system(9))
    x[:, 0] = 1.0  # the same first state in all rollouts
    model = fit(*map(jnp.asarray, (x, u)), *even(30))
    for leaf in jax.tree.leaves(model):
        assert np.isfinite(leaf).all()
    np.testing.assert_allclose(
        model.A[0] @ x[0, 0] + model.B[0] @ u[:, 0].mean(0) + model.c[0], x[:, 1].mean(0), rtol=1e-9
    )


def test_deviations_from_a_trajectory_only_shift_the_offsets():
    x, u = map(jnp.asarray, rollouts(9, 30, *system(8)))
    rng = np.random.default_rng(10)
    nominal = Nominal(jnp.asarray(rng.normal(size=(T + 1, DX))), jnp.asarray(rng.normal(size=(T, DU))))
    plain, shifted = fit(x, u, *even(30)), fit(x, u, *even(30), nominal=nominal)
    np.testing.assert_allclose(shifted.A, plain.A, rtol=1e-9)
    for t in range(T):
        ahead = plain.A[t] @ nominal.x[t] + plain.B[t] @ nominal.u[t] + plain.c[t]
        np.testing.assert_allclose(shifted.c[t], ahead - nominal.x[t + 1], atol=1e-9)


def wandering(seed, growth):
    """Dynamics that grow, where they begin, the controller that acts, and how its rollouts spread."""
    rng = np.random.default_rng(seed)
    A, B, c, std = system(seed)
    root = rng.normal(size=(T, DX, DX))
    units = np.array([1e-6, 1.0, 1e6])
    A, c, B = growth * A * units[:, None] / units, units * c, units[:, None] * B
    spread = (root @ root.transpose(0, 2, 1) + 0.01 * np.eye(DX)) * units[:, None] * units
    cov = np.eye(DX) * ((units * std) ** 2)[:, None]
    start = Gaussian(jnp.asarray(units), jnp.diag(jnp.asarray(units) ** 2))
    p = LinearGaussian(
        *map(jnp.asarray, (rng.normal(size=(T, DU, DX)) / units, np.ones((T, DU)), np.tile(np.eye(DU), (T, 1, 1))))
    )
    return LinearDynamics(*map(jnp.asarray, (A, B, c, cov))), jnp.asarray(spread), start, p


NOTHING = jnp.zeros(DX)


def excesses(found, spread, start, p):
    """The eigenvalues of each step's second moment over its spread, by NumPy, and these moments."""
    mean, cov, values = np.asarray(start.mean), np.asarray(start.cov), []
    for t in range(T):
        A, B, c, F = (np.asarray(leaf[t]) for leaf in (found.A, found.B, found.c, found.cov))
        K, k, C = np.asarray(p.K[t]), np.asarray(p.k[t]), np.asarray(p.cov[t])
        mean, cov = (A + B @ K) @ mean + B @ k + c, (A + B @ K) @ cov @ (A + B @ K).T + B @ C @ B.T + F
        values.append(np.linalg.eigvals(np.linalg.solve(spread[t], cov + np.outer(mean, mean))).real)
    return np.array(values)


@pytest.mark.parametrize(("seed", "growth"), [(20, 1.0), (21, 3.0), (22, 30.0)])
def test_dynamics_agree_with_where_the_controller_went_in_all_units(seed, growth):
    given, spread, start, p = wandering(seed, growth)
    found = dynamics.agreeing(given, spread, start, p, 2.0, NOTHING)
    before, after = excesses(given, spread, start, p), excesses(found, spread, start, p)
    assert before.max() > 2.0
    assert after.max() <= 2.0 * (1 + 1e-6)
    # the first step begins where nothing was drawn in: what was too far is at the bound, the rest as it was
    np.testing.assert_allclose(np.sort(after[0]), np.sort(np.minimum(before[0], 2.0)), rtol=1e-5)


def test_dynamics_that_agree_stay_as_they_are():
    given, spread, start, p = wandering(23, 1.0)
    found = dynamics.agreeing(given, spread, start, p, 2.0 * float(excesses(given, spread, start, p).max()), NOTHING)
    for new, old in zip(jax.tree.leaves(found), jax.tree.leaves(given), strict=True):
        np.testing.assert_array_equal(new, old)


def test_a_state_that_never_varies_agrees():
    given, spread, start, p = wandering(24, 3.0)
    still = np.array([1.0, 1.0, 0.0])
    given = LinearDynamics(
        given.A * still[:, None], given.B * still[:, None], given.c * still, given.cov * np.outer(still, still)
    )
    found = dynamics.agreeing(given, spread * np.outer(still, still), start, p, 2.0, jnp.array([0.0, 0.0, 1.0]))
    for leaf in jax.tree.leaves(found):
        assert np.isfinite(leaf).all()
    np.testing.assert_array_equal(found.A[:, 2], 0.0)


@pytest.mark.parametrize("excess", [0.5, -1.0, float("nan")])
def test_an_excess_that_would_draw_in_what_was_seen_is_refused(excess):
    with pytest.raises(ValueError, match=rf"excess={excess}: .* give 1 or more, or inf"):
        FittedDynamics(excess=excess)


def test_what_was_learned_of_all_states_is_a_prior_of_its_expansion():
    """Its conditional is the Jacobian, by differences, and goes through the nominal trajectory's own step."""
    rng = np.random.default_rng(3)
    x, u = rng.normal(size=(5, T + 1, DX)), rng.normal(size=(5, T, DU))
    data = Rollouts(*map(jnp.asarray, (x, x, u, np.zeros((5, T + 1)), np.full(5, T))), None)
    nominal = Nominal.of(data)

    def ahead(x, u):
        return jnp.sin(x) + jnp.array([u[0] * x[1], u[1], u[0] ** 2])

    prior = jax.jit(lambda: dynamics.along(ahead, data, nominal))()
    deviations = np.concatenate([x[:, :-1] - x[:, :-1].mean(0), u - u.mean(0)], -1)
    np.testing.assert_allclose(jnp.diagonal(prior.cov, axis1=1, axis2=2)[0, : DX + DU], (deviations**2).mean((0, 1)))
    for t in range(T):
        z = np.concatenate([nominal.x[t], nominal.u[t]])
        np.testing.assert_allclose(prior.mean[t], [*z, *ahead(z[:DX], z[DX:])], rtol=1e-12)
        moved = [
            [np.asarray(ahead(*np.split(z + sign * move, [DX]))) for sign in (1, -1)] for move in 1e-6 * np.eye(len(z))
        ]
        slope = np.array([(up - down) / 2e-6 for up, down in moved]).T
        cov = np.asarray(prior.cov[t])
        gain = cov[DX + DU :, : DX + DU] @ np.linalg.inv(cov[: DX + DU, : DX + DU])
        np.testing.assert_allclose(gain, slope, atol=1e-7)
