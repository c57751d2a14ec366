"""Quadratic Q- and V-functions from transitions, backwards in time (MOTO, section 4.1).

    y_t = cost_t(x, u) + V_{t+1}(x')        V_T = final cost        (dynamic programming)
    y_t = sum of the costs from t on                                  (Monte Carlo)
    Q_t, V_t = ridge regression of y_t on quadratic features of the white coordinates of (x, u), of x

Only V's recursion is sequential; all Q are fitted after it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.algebra import regression
from pilotfish.algebra.batch import each
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


def dynamic_programming(
    data: Transitions,
    final: Float[Array, "n"],
    occupancy: Occupancy,
    ridge: Float[Array, "T"],
) -> Float[Array, "T n"]:
    """Targets `cost_t + V_{t+1}(x')` of all steps. `final` is the final cost of the last step's `x_next`."""
    shared = data.x.shape[0] == 1

    def backward(ahead, at_t):
        x, arrived, cost, weight, occupancy, ridge = at_t
        x, arrived = (data.x[0], data.x_next[0]) if shared else (x, arrived)
        y = cost + ahead
        phi = regression.features(occupancy.white_state(x))
        coef = regression.solve(regression.factor(phi, weight, ridge), phi, weight, y)
        # V_t, where the transitions of the step before arrive
        return regression.features(occupancy.white_state(arrived)) @ coef, y

    own = (None, None) if shared else (data.x, jnp.concatenate([data.x_next[:1], data.x_next[:-1]]))
    return jax.lax.scan(backward, final, (*own, data.cost, data.weight, occupancy, ridge), reverse=True)[1]


def monte_carlo(
    data: Transitions,
    final: Float[Array, "n"],
    occupancy: Occupancy,
    ridge: Float[Array, "T"],
) -> Float[Array, "T n"]:
    """Targets `sum of the costs from t on`, of samples that stay in their rollout's column."""
    return jnp.cumsum(data.cost[::-1], 0)[::-1] + final


def q_function(
    data: Transitions,
    target: Float[Array, "T n"],
    occupancy: Occupancy,
    ridge: Float[Array, "T"],
) -> Quadratic:
    """Q_t as a quadratic function of the white coordinates (s, e) of step t, for all t."""
    shared = data.x.shape[0] == 1

    def fit(x, u, weight, target, occupancy, ridge):
        x, u = (data.x[0], data.u[0]) if shared else (x, u)
        phi = regression.features(occupancy.white(x, u))
        return regression.solve(regression.factor(phi, weight, ridge), phi, weight, target)

    own = (None, None) if shared else (data.x, data.u)
    coef = each(fit, *own, data.weight, target, occupancy, ridge)
    return regression.as_quadratic(coef, data.x.shape[-1] + data.u.shape[-1])
