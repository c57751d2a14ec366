"""Tilt the tray so that the ball draws an eight on it, and comes to rest."""

import jax.numpy as jnp

T = 100  # steps of .05 s


def eight(t):
    """Where on the tray the ball shall be at step t: (2,), m."""
    phase = jnp.pi * (1 - jnp.cos(jnp.pi * t / T))
    return jnp.stack([0.16 * jnp.sin(phase), 0.08 * jnp.sin(2 * phase)], -1)


def cost(x, u, t):
    """x[17] and x[18] are the ball's place on the tray, by the model's sensor."""
    return 100 * ((x[17:19] - eight(t)) ** 2).sum() + 0.1 * (u**2).sum()


def success(x, u):
    """The ball is never more than 3 cm off."""
    return (jnp.linalg.norm(x[:, 17:19] - eight(jnp.arange(len(x))), axis=1) < 0.03).all()
