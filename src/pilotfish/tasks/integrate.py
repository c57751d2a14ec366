"""Integration of a task's equations of motion."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Float


def rk4(
    derivative: Callable[[Array, Array], Array],
    x: Float[Array, "dx"],
    u: Float[Array, "du"],
    dt: float,
    substeps: int,
) -> Float[Array, "dx"]:
    """The state `dt` seconds later under a constant action, by `substeps` classical Runge-Kutta steps."""
    h = dt / substeps

    def step(x, _):
        k1 = derivative(x, u)
        k2 = derivative(x + h / 2 * k1, u)
        k3 = derivative(x + h / 2 * k2, u)
        k4 = derivative(x + h * k3, u)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    return jax.lax.scan(step, x, None, length=substeps)[0]
