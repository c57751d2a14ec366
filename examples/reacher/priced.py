"""The same as functions.py, and what Gymnasium's Reacher-v5 pays for, so that nothing of it has to be learned.

Its reward is minus the distance of the finger from the goal (m) in the state after a step, less the action's square.
"""

import jax.numpy as jnp
from functions import apart, distance, observe, success

__all__ = ["cost", "distance", "final_cost", "observe", "success"]


def final_cost(x):
    return jnp.sqrt((apart(x) ** 2).sum() + 1e-6)  # which has a derivative at the goal, and is 1 mm there


def cost(x, u, t):
    return jnp.where(t > 0, final_cost(x), 0.0) + (u**2).sum()
