"""Gymnasium's Reacher-v5: what a network is to see, and what it means to reach a goal.

The state is [angles of both joints (rad); the goal's x, y (m); their velocities]. From it a network would have to learn
where the finger is, and that nothing changes if arm and goal are turned about the base together. So it sees the elbow's
angle, both joints' velocities (rad/s), and how far the finger is from the goal along and across the upper arm (m).
"""

import jax.numpy as jnp

UPPER, LOWER = 0.1, 0.11  # lengths, m


def apart(x):
    """From the goal to the finger: (2,), m."""
    upper, lower = x[..., 0], x[..., 0] + x[..., 1]
    finger = UPPER * jnp.stack([jnp.cos(upper), jnp.sin(upper)], -1) + LOWER * jnp.stack(
        [jnp.cos(lower), jnp.sin(lower)], -1
    )
    return finger - x[..., 2:4]


def observe(x):
    (along, across), (dx, dy) = (jnp.cos(x[0]), jnp.sin(x[0])), apart(x)
    return jnp.array([jnp.cos(x[1]), jnp.sin(x[1]), x[4], x[5], along * dx + across * dy, along * dy - across * dx])


def distance(x, u):
    """Mean of the last ten states, m."""
    return jnp.linalg.norm(apart(x[-10:]), axis=-1).mean()


def success(x, u):
    """The finger stays within 3 cm of the goal for the last fifth of a second."""
    return (jnp.linalg.norm(apart(x[-10:]), axis=-1) < 0.03).all()
