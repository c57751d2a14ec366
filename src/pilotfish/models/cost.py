"""Second-order expansions of a known cost along the trajectories, by automatic differentiation.

About one point each step has its Taylor expansion. Averaged over the samples of a step, the expansions (each a
quadratic function of the absolute state and action) make a cost that is smooth on the scale of the exploration
(GPS'14). Whether either is convex is not our matter: the C-step takes any.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.algebra import quadratic
from pilotfish.types import Problem, Quadratic


def expand(
    problem: Problem, x: Float[Array, "M T1 dx"], u: Float[Array, "M T du"], weight: Float[Array, "M"]
) -> tuple[Quadratic, Quadratic]:
    """The mean of the expansions about M trajectories, with weights that sum to 1.

    Of each step's cost, over z = [x; u] with leading axis T, and of the final cost, over x.
    """
    dx, final_cost = problem.dx, problem.final_cost

    def mean(expansions: Quadratic) -> Quadratic:
        return jax.tree.map(over_samples, expansions)

    def over_samples(leaf: Array) -> Array:
        w = weight.reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.where(w > 0, w * leaf, 0.0).sum(0)  # where the weight is 0 the cost may not be finite

    def step(z: Float[Array, "M dz"], t: Array) -> Quadratic:
        return mean(jax.vmap(lambda z: quadratic.expand(lambda z: problem.cost(z[:dx], z[dx:], t), z))(z))

    z = jnp.concatenate([x[:, :-1], u], -1)
    cost = jax.vmap(step, (1, 0))(z, jnp.arange(problem.horizon))
    if final_cost is None:
        return cost, Quadratic(jnp.zeros((dx, dx)), jnp.zeros(dx), jnp.zeros(()))
    return cost, mean(jax.vmap(lambda x: quadratic.expand(final_cost, x))(x[:, -1]))
