"""Second-order models of the cost along the trajectories.

A known cost is expanded by automatic differentiation. About one point each step has its Taylor expansion. Averaged over
the samples of a step, the expansions (each a quadratic function of the absolute state and action) make a cost that is
smooth on the scale of the exploration (GPS'14).

Of a cost of which only samples are known a quadratic function is fitted to those of each step, and of as many steps
around it as make three samples a coefficient; the cost must then not depend on the time step. It is made convex: what
curvature few samples show to be negative is noise that the C-step would follow far away. On Gymnasium's Reacher, from
10 rollouts, it climbs without that. A final cost of which only samples are known is refused: there is one a rollout,
and no other step to take more from.

An expansion of a known cost need not be convex: the C-step takes it.
"""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import quadratic, regression
from pilotfish.algebra.batch import each
from pilotfish.models.nominal import Nominal
from pilotfish.types import Problem, Quadratic, Rollouts, check_choice

Place = Literal["samples", "mean"]

SAMPLES_PER_COEFFICIENT = 3
SAMPLED_COST_RIDGE = 1e-4  # on orthonormal features of whitened inputs


class CostExpansion(eqx.Module):
    """Quadratic functions in place of the cost: expansions of a known one, a fit to samples of one that is not."""

    at: Place = eqx.field(static=True, default="samples")
    """Where a known cost is expanded: averaged over the samples of a step, or at their mean."""

    def __check_init__(self):
        check_choice(self, "at", Place)

    def __call__(self, problem: Problem, rollouts: Rollouts, nominal: Nominal) -> tuple[Quadratic, Quadratic]:
        """Of each step's cost, with leading axis T, and of the final cost, in deviations from `nominal`, from the
        `cleaned` rollouts of one condition, whose mean it is.
        """
        weight = rollouts.weight
        if problem.cost is None:
            return fit(rollouts.x, rollouts.u, rollouts.cost[:, :-1], weight[:, :-1], nominal)
        x, u = nominal.deviations(rollouts)
        if self.at == "mean":
            x, u, weight = jnp.zeros_like(x[:1]), jnp.zeros_like(u[:1]), jnp.ones_like(weight[:1])
        return expand(problem, nominal, x, u, weight)


def final_formula(problem: Problem) -> Callable[[Array], Array]:
    """The final cost. ValueError, in the user's words, where the world brings it and nobody knows its formula."""
    if problem.final_cost is None:
        raise ValueError(
            "this algorithm needs the formula of the final cost, but problem.final_cost is None: only the world knows "
            "it. Write it in jax as final_cost(x), or choose moto, which learns from what rollouts cost."
        )
    return problem.final_cost


def expand(
    problem: Problem,
    nominal: Nominal,
    x: Float[Array, "M T1 dx"],
    u: Float[Array, "M T du"],
    weight: Float[Array, "M T1"],
) -> tuple[Quadratic, Quadratic]:
    """The mean of the expansions about M trajectories, which are deviations from `nominal` as what is returned is.

    Weights sum to 1 in every step. Of each step's cost, over z = [x; u] with leading axis T, and of the final cost,
    over x.
    """
    dx, final_cost, step_cost = problem.dx, final_formula(problem), problem.cost
    assert step_cost is not None

    def step(z: Float[Array, "M dz"], w: Float[Array, "M"], t: Array, origin: Float[Array, "dz"]) -> Quadratic:
        return _averaged(lambda z: step_cost((origin + z)[:dx], (origin + z)[dx:], t), z, w)

    z, origin = jnp.concatenate([x[:, :-1], u], -1), jnp.concatenate([nominal.x[:-1], nominal.u], -1)
    cost = jax.vmap(step, (1, 1, 0, 0))(z, weight[:, :-1], jnp.arange(problem.horizon), origin)
    return cost, _averaged(lambda x: final_cost(nominal.x[-1] + x), x[:, -1], weight[:, -1])


def _averaged(f: Callable[[Array], Array], z: Float[Array, "M d"], weight: Float[Array, "M"]) -> Quadratic:
    """The weighted mean of a function's expansions about M points. Where the weight is 0 one need not be finite."""
    expansions = jax.vmap(lambda z: quadratic.expand(f, z))(z)

    def over_samples(leaf: Array) -> Array:
        w = weight.reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.where(w > 0, w * leaf, 0.0).sum(0)

    return jax.tree.map(over_samples, expansions)


def without_derivative(problem: Problem, x: Float[Array, "n T1 dx"], u: Float[Array, "n T du"]) -> str:
    """The first step and entry, in words, at which the cost along n trajectories is finite and a derivative is not; ""
    where there is none.
    """
    dx, T, step_cost = problem.dx, problem.horizon, problem.cost
    if step_cost is None:
        return ""
    final_cost = final_formula(problem)

    def step(t: Array, z: Float[Array, "dz"]) -> Array:
        return _lacks(lambda z: step_cost(z[:dx], z[dx:], t), z)

    def trajectory(points: tuple[Float[Array, "T1 dx"], Float[Array, "T du"]]) -> Array:
        x, u = points
        last = jnp.pad(_lacks(final_cost, x[-1]), (0, u.shape[-1]))
        return jnp.concatenate([jax.vmap(step)(jnp.arange(T), jnp.concatenate([x[:-1], u], -1)), last[None]])

    lacking = np.asarray(eqx.filter_jit(jax.lax.map)(trajectory, (x, u)))
    if not lacking.any():
        return ""
    t, entry, n = (int(index[0]) for index in np.nonzero(lacking.transpose(1, 2, 0)))
    which = "final cost" if t == T else f"cost of step {t}"
    where, i, value = ("state", entry, x[n, t, entry]) if entry < dx else ("action", entry - dx, u[n, t, entry - dx])
    return (
        f"the {which} has no finite derivative by entry {i} of the {where}, which is {value:.6g} there. A norm, a "
        "square root or an arccos has none at its target: smooth it, as in sqrt(d'd + 1e-6) - 1e-3."
    )


def _lacks(f: Callable[[Array], Array], z: Float[Array, "d"]) -> Bool[Array, "d"]:
    """By which entries a function that is finite has no finite first or second derivative."""
    derivatives = jnp.column_stack([jax.grad(f)(z), jax.hessian(f)(z)])  # row by row: 0 times nan spreads over columns
    return jnp.isfinite(f(z)) & ~jnp.isfinite(derivatives).all(1)


def fit(
    x: Float[Array, "M T1 dx"],
    u: Float[Array, "M T du"],
    cost: Float[Array, "M T"],
    weight: Float[Array, "M T"],
    nominal: Nominal,
) -> tuple[Quadratic, Quadratic]:
    """The same of sampled costs, for trajectories with weights that sum to 1 in every step; the final cost is 0."""
    z = jnp.concatenate([x[:, :-1], u], -1)
    (M, T, d), dx = z.shape, x.shape[-1]
    window = min(T, -(-SAMPLES_PER_COEFFICIENT * regression.feature_count(d) // M))
    first = jnp.clip(jnp.arange(T) - window // 2, 0, T - window)

    def step(begin: Array, about: Float[Array, "d"]) -> Quadratic:
        near, y, w = (jax.lax.dynamic_slice_in_dim(a, begin, window, 1) for a in (z, cost, weight))
        return regression.fit_quadratic(
            near.reshape(-1, d), y.ravel(), w.ravel(), SAMPLED_COST_RIDGE, convex=True, about=about
        )

    found = each(step, first, jnp.concatenate([nominal.x[:-1], nominal.u], -1))
    return found, Quadratic(jnp.zeros((dx, dx)), jnp.zeros(dx), jnp.zeros(()))
