"""Quadratic Q- and V-functions from transitions, backwards in time (MOTO, section 4.1).

    y_t = cost_t(x, u) + V_{t+1}(x')        V_T = final cost        (dynamic programming)
    y_t = sum of the costs from t on                                  (Monte Carlo)
    Q_t, V_t = ridge regression of y_t on quadratic features of the white coordinates of (x, u), of x

Only V's recursion is sequential, and only through its right-hand sides: all normal matrices are factored
before it, all Q fitted after it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.algebra import regression
from pilotfish.models.occupancy import Occupancy
from pilotfish.types import Quadratic


class Transitions(NamedTuple):
    """What step t's regressions see.

    The time axis is T if each step has samples of its own, or 1 if all steps share the same; cost and weight
    differ between steps either way.
    """

    x: Float[Array, "#T n dx"]
    u: Float[Array, "#T n du"]
    x_next: Float[Array, "#T n dx"]
    cost: Float[Array, "T n"]
    weight: Float[Array, "T n"]
    """Sums to 1 over n."""


def for_each_step(f: Callable, data: Transitions, *args):
    """`f(x, u, cost_t, weight_t, *args_t)` for all t: at once where steps have samples of their own, else one by
    one, for then the samples are many and their features do not fit in memory T times.
    """
    if data.x.shape[0] > 1 or data.cost.shape[0] == 1:
        return jax.vmap(f)(data.x, data.u, data.cost, data.weight, *args)
    return jax.lax.map(lambda a: f(data.x[0], data.u[0], *a), (data.cost, data.weight, *args))


def dynamic_programming(
    data: Transitions,
    final: Float[Array, "n"],
    occupancy: Occupancy,
    ridge: Float[Array, "T"],
) -> Float[Array, "T n"]:
    """Targets `cost_t + V_{t+1}(x')` of all steps. `final` is the final cost of the last step's `x_next`."""

    def factor(x, u, cost, weight, occupancy, ridge):
        return regression.factor(regression.features(occupancy.white_state(x)), weight, ridge)

    def backward(ahead, at_t):
        x, arrived, cost, weight, occupancy, chol = at_t
        x = data.x[0] if x is None else x
        arrived = data.x_next[0] if arrived is None else arrived
        y = cost + ahead
        coef = regression.solve(chol, regression.features(occupancy.white_state(x)), weight, y)
        # the value of this step, where the transitions of the step before arrive
        return regression.features(occupancy.white_state(arrived)) @ coef, y

    shared = data.x.shape[0] == 1
    chol = for_each_step(factor, data, occupancy, ridge)
    arrived = None if shared else jnp.concatenate([data.x_next[:1], data.x_next[:-1]])
    xs = (None if shared else data.x, arrived, data.cost, data.weight, occupancy, chol)
    return jax.lax.scan(backward, final, xs, reverse=True)[1]


def monte_carlo(cost: Float[Array, "T n"], final: Float[Array, "n"]) -> Float[Array, "T n"]:
    """Targets `sum of the costs from t on`, of samples that stay in their rollout's column."""
    return jnp.cumsum(cost[::-1], 0)[::-1] + final


def q_function(
    data: Transitions,
    target: Float[Array, "T n"],
    occupancy: Occupancy,
    ridge: Float[Array, "T"],
) -> Quadratic:
    """Q_t as a quadratic function of the white coordinates (s, e) of step t, for all t."""

    def fit(x, u, cost, weight, target, occupancy, ridge):
        phi = regression.features(occupancy.white(x, u))
        return regression.solve(regression.factor(phi, weight, ridge), phi, weight, target)

    coef = for_each_step(fit, data, target, occupancy, ridge)
    return regression.as_quadratic(coef, data.x.shape[-1] + data.u.shape[-1])
