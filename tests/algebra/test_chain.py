"""The chain's marginals and KL against the Gaussian of the whole stacked trajectory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import dense, draw

from pilotfish.algebra import chain
from pilotfish.types import Gaussian, LinearDynamics, LinearGaussian

T, DX, DU = 6, 3, 2


def problem(seed):
    rng = np.random.default_rng(seed)
    initial = rng.normal(size=DX), draw.covariance(rng, DX)
    A, B, c = rng.normal(size=(T, DX, DX)) / 2, rng.normal(size=(T, DX, DU)), rng.normal(size=(T, DX))
    dynamics = A, B, c, 0.1 * draw.covariance(rng, T, DX)
    return initial, dynamics, draw.gains(rng, T, DU, DX), draw.gains(rng, T, DU, DX)


def ours(kind, numbers):
    return kind(*map(jnp.asarray, numbers))


def with_covariance(controller):
    K, k, chol = controller
    return K, k, chol @ np.swapaxes(chol, 1, 2)


@pytest.mark.parametrize("noise", [1.0, 0.0])
def test_marginals_are_slices_of_the_stacked_trajectory(noise):
    initial, dynamics, controller, _ = problem(0)
    initial, dynamics = (initial[0], noise * initial[1]), (*dynamics[:3], noise * dynamics[3])
    z, last = jax.jit(chain.forward)(
        ours(Gaussian, initial), ours(LinearDynamics, dynamics), ours(LinearGaussian, controller)
    )
    mean, cov = dense.trajectory(*initial, dynamics, with_covariance(controller))
    for t in range(T):
        at = slice(t * (DX + DU), (t + 1) * (DX + DU))
        np.testing.assert_allclose(z.mean[t], mean[at], rtol=1e-9)
        np.testing.assert_allclose(z.cov[t], cov[at, at], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(last.mean, mean[-DX:], rtol=1e-9)
    np.testing.assert_allclose(last.cov, cov[-DX:, -DX:], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sum_of_steps_is_the_kl_of_the_trajectories(seed):
    initial, dynamics, p, q = problem(seed)
    q = tuple(0.2 * b + 0.8 * a for a, b in zip(p, q, strict=True))
    found = jax.jit(chain.kl)(
        ours(Gaussian, initial),
        ours(LinearDynamics, dynamics),
        ours(LinearGaussian, p),
        ours(LinearGaussian, q),
    )
    expected = dense.kl(
        *dense.trajectory(*initial, dynamics, with_covariance(p)),
        *dense.trajectory(*initial, dynamics, with_covariance(q)),
    )
    assert found.shape == (T,)
    np.testing.assert_allclose(found.sum(), expected, rtol=1e-7)
