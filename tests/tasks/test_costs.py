"""The costs that tasks share, against their definition."""

import jax
import jax.numpy as jnp
import numpy as np

from pilotfish.tasks.costs import ell12


def test_ell12_is_half_the_square_and_the_smoothed_length():
    np.testing.assert_allclose(ell12(jnp.array([3.0, -4.0])), 12.5 + np.sqrt(25 + 1e-5), rtol=1e-12)
    np.testing.assert_allclose(ell12(jnp.zeros(3)), np.sqrt(1e-5), rtol=1e-12)


def test_ell12_pulls_at_a_hundredth_still_as_hard_as_a_length():
    slope = jax.grad(ell12)
    np.testing.assert_allclose(slope(jnp.array([0.01, 0.0])), [0.01 + 0.01 / np.sqrt(1e-4 + 1e-5), 0.0], rtol=1e-12)
    np.testing.assert_array_equal(slope(jnp.zeros(2)), 0.0)
