"""A first controller that holds a plant where it starts, from next to no knowledge: the `init_lqr` of the GPS code.

Every action is taken to accelerate its own coordinate, `gain` times its size, and nothing else to matter:

    q' = q + dt v + dt^2 gain u,    v' = v + dt gain u

Under the cost 1/2 stiffness |q - q0|^2 + 1/2 stiffness stiffness_vel |v - v0|^2 + 1/2 |u|^2, all over `variance`, the
LQR's mean is the feedback, and the inverse of its Q_uu the covariance. The last step's cost has its own weight.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.algebra.riccati import lqr
from pilotfish.types import LinearDynamics, LinearGaussian, Quadratic


def hold(
    start: Float[Array, "N dx"],
    horizon: int,
    dt: float,
    gain: Float[Array, "du"],
    variance: float = 1.0,
    stiffness: float = 1.0,
    stiffness_vel: float = 0.5,
    final_weight: float = 1.0,
) -> LinearGaussian:
    """Controllers (N, T) of a plant whose state begins with the positions and velocities that the actions drive."""
    du, dx = len(gain), start.shape[-1]
    driven, rest = jnp.eye(du), jnp.zeros(dx - 2 * du)
    moves = jnp.zeros((dx, dx)).at[:du, :du].set(driven).at[:du, du : 2 * du].set(dt * driven)
    A = moves.at[du : 2 * du, du : 2 * du].set(driven)
    B = jnp.zeros((dx, du)).at[:du].set(dt**2 * jnp.diag(gain)).at[du : 2 * du].set(dt * jnp.diag(gain))
    weight = jnp.concatenate([jnp.full(du, stiffness), jnp.full(du, stiffness * stiffness_vel), rest, jnp.ones(du)])
    of_step = jnp.ones(horizon).at[-1].set(final_weight) / variance

    def one(x0: Float[Array, "dx"]) -> LinearGaussian:
        H, h = jnp.diag(weight), -weight * jnp.concatenate([x0, jnp.zeros(du)])
        cost = Quadratic(of_step[:, None, None] * H, of_step[:, None] * h, jnp.zeros(horizon))
        dynamics = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (horizon, *leaf.shape)),
            LinearDynamics(A, B, jnp.zeros(dx), jnp.zeros((dx, dx))),
        )
        nothing = Quadratic(jnp.zeros((dx, dx)), jnp.zeros(dx), jnp.zeros(()))
        return lqr(dynamics, cost, nothing)[0]

    return jax.vmap(one)(start)
