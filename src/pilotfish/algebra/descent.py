"""Minimising a function of many weights by its gradient: Adam on minibatches, or L-BFGS on all there is.

Both are optax's; here are the loops about them, each one compiled call.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

SETTLING = 0.25
"""In this last part of the training Adam's step size falls to 0, without which minibatches of 25 leave up to 1.4 times
the loss. MDGPS keeps it constant."""


def adam(
    loss: Callable[[Array, Array], Array],
    weights: Float[Array, "p"],
    moments: Any,
    batches: Any,
    learning_rate: Float[Array, ""] | float,
) -> tuple[Float[Array, "p"], Any]:
    """Weights and moments after a step of Adam on `loss(weights, batches[i])` for each i."""
    solver: Any = optax.scale_by_adam()
    steps = len(jax.tree.leaves(batches)[0])
    left = 1.0 - jnp.arange(steps) / steps
    rate = (learning_rate * jnp.minimum(left / SETTLING, 1.0)).astype(weights.dtype)

    def step(carry: tuple[Array, Any], now: tuple[Any, Array]):
        (weights, moments), (batch, rate) = carry, now
        direction, moments = solver.update(jax.grad(loss)(weights, batch), moments)
        return (weights - rate * direction, moments), None

    return jax.lax.scan(step, (weights, moments), (batches, rate))[0]


def lbfgs(loss: Callable[[Array], Array], weights: Float[Array, "p"], steps: int) -> Float[Array, "p"]:
    """Weights after at most so many steps of L-BFGS; it ends where the loss falls no more, but for rounding."""
    solver: Any = optax.lbfgs()
    value_and_grad: Any = optax.value_and_grad_from_state(loss)

    def step(carry: tuple[Array, Any, Array, Array]):
        weights, state, _, i = carry
        value, grad = value_and_grad(weights, state=state)
        change, state = solver.update(grad, state, weights, value=value, grad=grad, value_fn=loss)
        after: Any = optax.tree_utils.tree_get(state, "value")
        fell = value - after > jnp.finfo(value.dtype).eps * value
        return weights + change, state, fell, i + 1

    start = weights, solver.init(weights), jnp.asarray(True), jnp.asarray(0)
    return jax.lax.while_loop(lambda carry: carry[2] & (carry[3] < steps), step, start)[0]
