"""Second-order models of the cost along the trajectories.

A known cost is expanded by automatic differentiation. About one point each step has its Taylor expansion. Averaged over
the samples of a step, the expansions (each a quadratic function of the absolute state and action) make a cost that is
smooth on the scale of the exploration (GPS'14).

Of a cost of which only samples are known a quadratic function is fitted to those of each step, and of as many steps
around it as make three samples a coefficient; the cost must then not depend on the time step. It is made convex: what
curvature few samples show to be negative is noise that the C-step would follow far away. On Gymnasium's Reacher, from
10 rollouts, it climbs without that.

An expansion of a known cost need not be convex: the C-step takes it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.algebra import quadratic, regression
from pilotfish.algebra.batch import each
from pilotfish.types import Problem, Quadratic

SAMPLES_PER_COEFFICIENT = 3
SAMPLED_COST_RIDGE = 1e-4  # on orthonormal features of whitened inputs; costs are scaled to at most 1


def expand(
    problem: Problem, x: Float[Array, "M T1 dx"], u: Float[Array, "M T du"], weight: Float[Array, "M"]
) -> tuple[Quadratic, Quadratic]:
    """The mean of the expansions about M trajectories, with weights that sum to 1.

    Of each step's cost, over z = [x; u] with leading axis T, and of the final cost, over x.
    """
    dx, final_cost, step_cost = problem.dx, problem.final_cost, problem.cost
    assert step_cost is not None

    def mean(expansions: Quadratic) -> Quadratic:
        return jax.tree.map(over_samples, expansions)

    def over_samples(leaf: Array) -> Array:
        w = weight.reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.where(w > 0, w * leaf, 0.0).sum(0)  # where the weight is 0 the cost may not be finite

    def step(z: Float[Array, "M dz"], t: Array) -> Quadratic:
        return mean(jax.vmap(lambda z: quadratic.expand(lambda z: step_cost(z[:dx], z[dx:], t), z))(z))

    z = jnp.concatenate([x[:, :-1], u], -1)
    cost = jax.vmap(step, (1, 0))(z, jnp.arange(problem.horizon))
    if final_cost is None:
        return cost, Quadratic(jnp.zeros((dx, dx)), jnp.zeros(dx), jnp.zeros(()))
    return cost, mean(jax.vmap(lambda x: quadratic.expand(final_cost, x))(x[:, -1]))


def fit(
    x: Float[Array, "M T1 dx"], u: Float[Array, "M T du"], cost: Float[Array, "M T"], weight: Float[Array, "M"]
) -> tuple[Quadratic, Quadratic]:
    """The same of sampled costs, for trajectories with weights that sum to 1; the final cost is 0."""
    z = jnp.concatenate([x[:, :-1], u], -1)
    (M, T, d), dx = z.shape, x.shape[-1]
    window = min(T, -(-SAMPLES_PER_COEFFICIENT * regression.feature_count(d) // M))
    first = jnp.clip(jnp.arange(T) - window // 2, 0, T - window)

    def step(begin: Array) -> Quadratic:
        near, y = (jax.lax.dynamic_slice_in_dim(a, begin, window, 1) for a in (z, cost))
        scale = jnp.maximum(jnp.abs(y).max(), jnp.finfo(y.dtype).tiny)
        found = regression.fit_quadratic(
            near.reshape(-1, d), y.ravel() / scale, jnp.repeat(weight, window), SAMPLED_COST_RIDGE, convex=True
        )
        return jax.tree.map(lambda leaf: scale * leaf, found)

    return each(step, first), Quadratic(jnp.zeros((dx, dx)), jnp.zeros(dx), jnp.zeros(()))
