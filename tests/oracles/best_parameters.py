"""What a skill's parameters can reach at most on the linear-quadratic task, where the cost is quadratic in them."""

import jax
import jax.numpy as jnp

from pilotfish.types import LinearGaussian


def least_cost(task, skill):
    """The least expected cost of a skill's parameters in the first condition, by one Newton step."""
    one = jax.tree.map(lambda leaf: leaf[0], skill.skill(task.problem()))
    silent = jnp.zeros((*one.k.shape, one.k.shape[-1]))
    cost = jax.jit(lambda w: task.expected_cost(LinearGaussian(one.K, one.offsets(w), silent)))
    zero = jnp.zeros(one.J.shape[-1])
    return cost(-jnp.linalg.solve(jax.hessian(cost)(zero), jax.grad(cost)(zero)))
