"""Adam and L-BFGS against the minimum of a quadratic, and Adam's first step by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pilotfish.algebra.descent import SETTLING, adam, lbfgs

A = np.diag([1.0, 10.0, 100.0])
GOAL = np.array([1.0, -2.0, 3.0])


def loss(w, shift):
    return 0.5 * (w - GOAL - shift) @ jnp.asarray(A) @ (w - GOAL - shift)


def moments():
    return optax.scale_by_adam().init(jnp.zeros(3))


def test_lbfgs_finds_the_minimum_and_ends_there():
    found = lbfgs(lambda w: loss(w, 0.0), jnp.zeros(3), 200)
    np.testing.assert_allclose(found, GOAL, atol=1e-6)
    again = lbfgs(lambda w: loss(w, 0.0), jnp.asarray(GOAL), 200)
    np.testing.assert_array_equal(again, GOAL)


def test_adam_follows_the_noise_less_and_less():
    shifts = jnp.asarray(0.3 * np.random.default_rng(0).normal(size=(4000, 3)))
    found, _ = jax.jit(lambda: adam(loss, jnp.zeros(3), moments(), shifts, 1e-2))()
    np.testing.assert_allclose(found, GOAL, atol=0.05)


def test_adams_steps_have_the_size_of_its_rate_and_fall_to_zero():
    """Of one gradient over and over every step of Adam is as long as the rate."""
    steps, rate = 8, 0.1
    found, _ = adam(lambda w, _: w.sum(), jnp.zeros(3), moments(), jnp.zeros(steps), rate)
    lengths = rate * np.minimum((1 - np.arange(steps) / steps) / SETTLING, 1.0)
    np.testing.assert_allclose(found, -lengths.sum() * np.ones(3), rtol=1e-6)
