"""Quadratic Q- and V-functions from transitions, backwards in time (MOTO, section 4.1).

    y_t = cost_t(x, u) + V_{t+1}(x')        V_T = final cost        (dynamic programming)
    y_t = sum of the costs from t on                                  (Monte Carlo)
    Q_t, V_t = ridge regression of y_t on quadratic features of the white coordinates of (x, u), of x

V's features are among Q's: with these first, the factor of V's normal matrix is the leading block of that of Q's, so a
step has one normal matrix, whose making is nearly all that a wide state costs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pilotfish.algebra import regression
from pilotfish.algebra.batch import each
from pilotfish.models.occupancy import Occupancy, marginals, white_state
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


class Fit(NamedTuple):
    """What the regressions of all steps find."""

    Q: Quadratic
    """Over the white coordinates (s, e) of step t, with leading axis T."""
    target: Float[Array, "T n"]
    """What it was fitted to."""


def dynamic_programming(
    data: Transitions,
    final: Float[Array, "n"],
    occupancy: Occupancy,
    ridge: Float[Array, "T"],
) -> Fit:
    """Fits to `cost_t + V_{t+1}(x')`. `final` is the final cost of the last step's `x_next`."""
    dx, d = data.x.shape[-1], data.x.shape[-1] + data.u.shape[-1]
    order, v = _states_first(dx, d), regression.feature_count(dx)
    back = np.argsort(order)

    def backward(ahead, at_t):
        own, cost, weight, occupancy, ridge = at_t
        x, u, arrived = shared if own is None else own
        y = cost + ahead
        s = occupancy.white(x, u)
        chol = regression.factor(regression.normal(s, weight)[order][:, order], ridge)
        projection = regression.project(s, weight * y)[order]
        V = regression.as_quadratic(regression.solve(chol[:v, :v], projection[:v]), dx)
        # V_t, where the transitions of the step before arrive
        return V(occupancy.white_state(arrived)), (regression.solve(chol, projection)[back], y)

    arrived = jnp.concatenate([data.x_next[:1], data.x_next[:-1]])
    own, shared = (data.x, data.u, arrived), (data.x[0], data.u[0], data.x_next[0])
    over = None if data.x.shape[0] == 1 else own
    coef, target = jax.lax.scan(backward, final, (over, data.cost, data.weight, occupancy, ridge), reverse=True)[1]
    return Fit(regression.as_quadratic(coef, d), target)


def monte_carlo(
    data: Transitions,
    final: Float[Array, "n"],
    occupancy: Occupancy,
    ridge: Float[Array, "T"],
) -> Fit:
    """Fits to the sum of the costs from t on, of samples that stay in their rollout's column."""
    target = jnp.cumsum(data.cost[::-1], 0)[::-1] + final

    def fit(x, u, weight, target, occupancy, ridge):
        s = occupancy.white(x, u)
        chol = regression.factor(regression.normal(s, weight), ridge)
        return regression.solve(chol, regression.project(s, weight * target))

    coef = each(fit, data.x, data.u, data.weight, target, occupancy, ridge)
    return Fit(regression.as_quadratic(coef, data.x.shape[-1] + data.u.shape[-1]), target)


def of_states(
    x: Float[Array, "T n dx"],
    cost: Float[Array, "T n"],
    final: Float[Array, "n"],
    weight: Float[Array, "T n"],
    discount: Float[Array, ""] | float,
    ridge: Float[Array, ""] | float,
) -> Float[Array, "T n"]:
    """V_t at each step's own states, fitted to `cost_t + discount V_{t+1}(x')` of samples that stay in their rollout's
    column. `weight` is 1 where a step happened; the ridge grows where these are fewer than V's features.
    """
    mean, chol = marginals(x, weight)
    count = weight.sum(1, keepdims=True)
    share = weight / jnp.where(count > 0, count, 1.0)
    scarce = jnp.maximum(1.0, regression.feature_count(x.shape[-1]) / jnp.maximum(count[:, 0], 1.0))

    def backward(ahead, at_t):
        x, cost, share, mean, chol, scarce = at_t
        s, y = white_state(mean, chol, x), cost + discount * ahead
        level = share @ y
        factor = regression.factor(regression.normal(s, share), ridge * scarce**2)
        coef = regression.solve(factor, regression.project(s, share * (y - level)))
        value = level + regression.as_quadratic(coef, s.shape[-1])(s)
        return value, value

    return jax.lax.scan(backward, final, (x, cost, share, mean, chol, scarce), reverse=True)[1]


def _states_first(dx: int, d: int) -> np.ndarray:
    """The order in which the features of d coordinates begin with those of the first dx of them."""
    j, own = np.triu_indices(d, 1)[1], np.arange(d) < dx
    return np.argsort(~np.concatenate([[True], own, j < dx, own]), stable=True)
