"""State-action distributions against SciPy's densities, loops, and samples of known chains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import dense, draw
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from pilotfish.models import occupancy
from pilotfish.models.occupancy import Occupancy
from pilotfish.types import LinearGaussian

DX, DU = 3, 2
over_steps = jax.jit(jax.vmap(Occupancy.log_density))


def occupancies(rng, *batch):
    chol = np.linalg.cholesky(draw.covariance(rng, *batch, DX, spread=0.5))
    controller = LinearGaussian(*map(jnp.asarray, draw.gains(rng, *batch, DU, DX)))
    return Occupancy(jnp.asarray(rng.normal(size=(*batch, DX))), jnp.asarray(chol), controller)


def joint(z):
    """Mean and covariance of [x; u]."""
    mean, L, (K, k, R) = z.mean, z.chol, (z.controller.K, z.controller.k, z.controller.chol)
    return dense.state_action(*map(np.asarray, (mean, L @ L.T, K, k, R @ R.T)))


def at(z, *index):
    return jax.tree.map(lambda leaf: leaf[index], z)


def log_density(z, x, u):
    """Of one occupancy, less the constant that all share."""
    constant = 0.5 * (DX + DU) * np.log(2 * np.pi)
    return multivariate_normal(*joint(z)).logpdf(np.concatenate([x, u], -1)) + constant


def test_state_marginals_are_the_weighted_moments_of_the_samples():
    rng = np.random.default_rng(0)
    T, n = 4, 30
    x, w = 10 * rng.normal(size=(T, n, DX)), rng.uniform(size=n) * rng.integers(0, 2, n)
    controller = occupancies(rng, T).controller
    found = jax.jit(occupancy.from_samples)(x, np.tile(w, (len(x), 1)), controller)
    for t in range(T):
        np.testing.assert_allclose(found.mean[t], np.average(x[t], axis=0, weights=w), rtol=1e-9)
        np.testing.assert_allclose(found.chol[t] @ found.chol[t].T, np.cov(x[t].T, aweights=w, ddof=0), rtol=1e-6)
    np.testing.assert_array_equal(found.controller.K, controller.K)


def test_white_coordinates_are_the_noises_that_made_the_sample():
    rng = np.random.default_rng(1)
    z, s, e = occupancies(rng), rng.normal(size=(20, DX)), rng.normal(size=(20, DU))
    x = z.mean + s @ z.chol.T
    u = x @ z.controller.K.T + z.controller.k + e @ z.controller.chol.T
    np.testing.assert_allclose(z.white(x, u), np.concatenate([s, e], -1), atol=1e-10)
    np.testing.assert_allclose(z.white_state(x), s, atol=1e-10)


def test_white_coordinates_of_its_own_samples_are_standard_normal():
    rng = np.random.default_rng(2)
    z, n = occupancies(rng), 50_000
    sample = rng.multivariate_normal(*joint(z), n)
    white = np.asarray(z.white(jnp.asarray(sample[:, :DX]), jnp.asarray(sample[:, DX:])))
    products = np.einsum("ni,nj->nij", white, white)
    assert (np.abs(white.mean(0)) < 5 / np.sqrt(n)).all()
    assert (np.abs(products.mean(0) - np.eye(DX + DU)) < 5 * products.std(0) / np.sqrt(n)).all()


def test_log_density_is_that_of_scipy_up_to_the_constant_of_2_pi():
    rng = np.random.default_rng(3)
    z, x, u = occupancies(rng, 3), rng.normal(size=(3, 20, DX)), rng.normal(size=(3, 20, DU))
    expected = [log_density(at(z, t), x[t], u[t]) for t in range(3)]
    np.testing.assert_allclose(over_steps(z, x, u), expected, rtol=1e-8)


@functools.partial(jax.jit, static_argnums=4)
def log_mixture(components, made, x, u, pooled):
    """Log density of what `made` (K, T) samples of all iterations and steps came from."""
    of_all = occupancy.of_iterations(components, made, x, u, pooled)
    return occupancy.mixed(of_all, occupancy.shares(made, pooled))


@pytest.mark.parametrize("iterations", [1, 4])
@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("broken", [True, False])
def test_log_mixture_is_the_sum_over_all_that_made_the_sample(iterations, pooled, broken):
    """Also where rollouts broke off, so that later steps made fewer samples."""
    rng = np.random.default_rng(4)
    T, n = 3, 10
    z = occupancies(rng, iterations, T)
    made = np.array([[5.0, 5.0, 5.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0], [0.0, 0.0, 0.0]])[:iterations]
    if broken:
        made[0] = [5.0, 4.0, 1.0]
    rows = 1 if pooled else T
    x, u = rng.normal(size=(rows, n, DX)), rng.normal(size=(rows, n, DU))
    found = log_mixture(z, made, x, u, pooled)
    assert found.shape == (rows, n)
    for row in range(rows):
        terms, counted = [], made if pooled else made[:, row : row + 1]
        for i in range(iterations):
            for t in range(T) if pooled else [row]:
                if made[i, t] > 0:
                    part = made[i, t] / counted.sum()
                    terms.append(log_density(at(z, i, t), x[row], u[row]) + np.log(part))
        np.testing.assert_allclose(found[row], logsumexp(terms, axis=0), rtol=1e-8)


def test_effective_samples_counts_equal_weights():
    weight = jnp.stack([jnp.full(8, 3.0), jnp.eye(8)[2], jnp.array([1.0] * 4 + [0.0] * 4)])
    np.testing.assert_allclose(occupancy.effective_samples(weight), [8.0, 1.0, 4.0])


def test_normalised_weights_survive_any_logarithm():
    log_weight = jnp.array([1e4, 1e4 + np.log(3.0), -1e4, 1e6, -jnp.inf])
    valid = jnp.array([1.0, 1.0, 1.0, 0.0, 1.0])
    np.testing.assert_allclose(occupancy.normalised(log_weight, valid), [0.25, 0.75, 0, 0, 0], rtol=1e-10)


# ---- reuse of samples on a linear-Gaussian chain, whose marginals are known ----

T, M, ITERATIONS = 4, 2000, 3


class Chain:
    """Rollouts (ITERATIONS, M, T + 1, DX) of several controllers from one initial state, and all true marginals."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.A, self.B = np.eye(DX) + 0.2 * rng.normal(size=(DX, DX)), 0.5 * rng.normal(size=(DX, DU))
        c, F = rng.normal(size=DX), 0.2 * np.eye(DX)
        dynamics = [np.broadcast_to(a, (T, *a.shape)) for a in (self.A, self.B, c, F)]
        start = rng.normal(size=DX), draw.covariance(rng, DX, spread=0.2)
        K, k, chol = draw.gains(rng, T, DU, DX)
        self.x, self.u = np.empty((ITERATIONS, M, T + 1, DX)), np.empty((ITERATIONS, M, T, DU))
        true = []
        for i in range(ITERATIONS):
            K = K + 0.1 * rng.normal(size=K.shape)
            k = k + 0.7 * rng.normal(size=k.shape)
            x = rng.multivariate_normal(*start, M)
            for t in range(T):
                u = x @ K[t].T + k[t] + rng.normal(size=(M, DU)) @ chol[t].T
                self.x[i, :, t], self.u[i, :, t] = x, u
                x = x @ self.A.T + u @ self.B.T + c + rng.multivariate_normal(np.zeros(DX), F, M)
            self.x[i, :, T] = x
            mean, cov = dense.trajectory(*start, dynamics, (K, k, chol @ np.swapaxes(chol, 1, 2)))
            states = [slice(t * (DX + DU), t * (DX + DU) + DX) for t in range(T)]
            chols = [np.linalg.cholesky(cov[s, s]) for s in states]
            true.append(
                Occupancy(
                    np.array([mean[s] for s in states]),
                    np.array(chols),
                    LinearGaussian(*map(jnp.asarray, (K, k, chol))),
                )
            )
        # the last iteration is the current one and comes first, as in a history
        self.x, self.u = self.x[::-1], self.u[::-1]
        self.true = jax.tree.map(lambda *leaves: jnp.stack(leaves), *true[::-1])


def test_weighted_samples_of_all_steps_and_controllers_have_the_known_expectation():
    chain = Chain(5)
    x, u = chain.x[:, :, :T].reshape(1, -1, DX), chain.u.reshape(1, -1, DU)
    log_made = log_mixture(chain.true, np.full((ITERATIONS, T), float(M)), x, u, True)[0]
    now = at(chain.true, 0)
    everywhere = jax.jit(jax.vmap(Occupancy.log_density, (0, None, None)))(now, x[0], u[0])
    a, b = np.random.default_rng(6).normal(size=(2, DX + DU))
    z = np.concatenate([x[0], u[0]], -1)
    f, unweighted = (z @ a) * (z @ b), []
    for t in range(T):
        w = np.asarray(occupancy.normalised(everywhere[t] - log_made, jnp.ones(len(f))))
        mean, cov = joint(at(now, t))
        expected = a @ cov @ b + (a @ mean) * (b @ mean)
        per_rollout = (w * (f - w @ f)).reshape(ITERATIONS * M, T).sum(1)
        error = np.sqrt((per_rollout**2).sum())
        assert abs(w @ f - expected) < 5 * error
        assert error < 0.2 * np.sqrt(w @ (f - w @ f) ** 2)
        unweighted.append(abs(f.mean() - expected) / error)
    assert np.median(unweighted) > 20


def test_propagated_marginals_are_those_of_the_current_controller():
    chain = Chain(7)
    x, u = (np.moveaxis(a, 2, 0).reshape(a.shape[2], -1, a.shape[3]) for a in (chain.x[:, :, :T], chain.u))
    older, now = jax.tree.map(lambda leaf: leaf[1:], chain.true), at(chain.true, 0)
    share = np.full((ITERATIONS, T), 1 / ITERATIONS)
    of_older = occupancy.of_iterations(older, jnp.full((ITERATIONS - 1, T), float(M)), *map(jnp.asarray, (x, u)), False)
    log_older = occupancy.mixed(of_older, jnp.asarray(share[1:]))
    valid = np.ones((T, ITERATIONS * M))
    valid[:, ::7] = 0.0
    x[:, ::7] = 1e3  # what broke off does not count
    found = jax.jit(occupancy.propagated)(x, u, valid, log_older, share[0], now.controller)

    def distance(a):
        """Largest error in the mean and in the covariance, in standard deviations of the truth."""
        mean, chol = (np.asarray(leaf) for leaf in (a.mean, a.chol))
        inverse = np.linalg.inv(now.chol)
        shift, spread = inverse @ (mean - now.mean)[..., None], inverse @ chol
        return np.abs(shift).max(), np.abs(spread @ np.swapaxes(spread, 1, 2) - np.eye(DX)).max()

    shift, spread = distance(found)
    assert shift < 0.1
    assert spread < 0.2
    pooled = occupancy.from_samples(jnp.asarray(x), jnp.asarray(valid), now.controller)
    assert distance(pooled)[0] > 3 * shift  # the older controllers' samples, taken alike, are somewhere else
