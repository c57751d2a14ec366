"""Exploration noise: white, or smooth over time with the same variance at every step."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import gaussian_filter1d

from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.types import LinearGaussian

T, DU = 30, 2


def noise(smoothing, count):
    chol = jnp.broadcast_to(jnp.eye(DU), (T, DU, DU))
    policy = LinearGaussianPolicy(LinearGaussian(jnp.zeros((T, DU, 3)), jnp.zeros((T, DU)), chol), smoothing)
    return jax.vmap(lambda key: policy.begin(key, jnp.zeros(3), jnp.zeros(3)))(
        jax.random.split(jax.random.key(0), count)
    )


def test_variance_is_one_at_every_step():
    for smoothing in (0.0, 2.0):
        np.testing.assert_allclose(noise(smoothing, 20_000).var(0), 1.0, atol=0.05)


def test_smoothing_is_a_gaussian_filter():
    """Far from an episode's ends it is SciPy's filter, up to the constant that restores the variance."""
    white, smooth = noise(0.0, 5), noise(2.0, 5)
    filtered = gaussian_filter1d(np.asarray(white), 2.0, axis=1, mode="constant", truncate=8.0)
    ratio = np.asarray(smooth / filtered)[:, 13:17]
    np.testing.assert_allclose(ratio, ratio[0, 0, 0], rtol=1e-5)
    assert ratio[0, 0, 0] > 1.0


def test_white_noise_is_uncorrelated_over_time():
    e = np.asarray(noise(0.0, 20_000))[..., 0]
    np.testing.assert_allclose(np.cov(e.T), np.eye(T), atol=0.05)
