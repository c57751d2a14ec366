"""What Gymnasium's Reacher-v5 observes, of its state, for benchmarks/stable_baselines.py."""

import jax.numpy as jnp

UPPER, LOWER = 0.1, 0.11  # lengths, m


def observe(x):
    """Cosines and sines of the angles, the goal (m), the velocities (rad/s), from the goal to the finger (m): (10,)."""
    upper, both = x[0], x[0] + x[1]
    finger = UPPER * jnp.array([jnp.cos(upper), jnp.sin(upper)]) + LOWER * jnp.array([jnp.cos(both), jnp.sin(both)])
    return jnp.concatenate([jnp.cos(x[:2]), jnp.sin(x[:2]), x[2:4], x[4:6], finger - x[2:4]])
