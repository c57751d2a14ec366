"""What is believed of one condition: where its episodes begin, its dynamics, and its cost.

All three are made in deviations from the mean trajectory of the condition's rollouts (models/nominal.py).
"""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import chain, quadratic, regression
from pilotfish.models.cost import CostExpansion, without_derivative
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.models.nominal import Nominal
from pilotfish.types import Gaussian, Key, LinearDynamics, LinearGaussian, Problem, Quadratic, Rollouts


class LocalModel(NamedTuple):
    """The distribution of `x_0`, and dynamics and cost of all steps, in deviations from `nominal`."""

    nominal: Nominal
    start: Gaussian
    dynamics: LinearDynamics
    cost: Quadratic
    final: Quadratic

    def expected_cost(self, controller: LinearGaussian) -> Float[Array, ""]:
        """Expected cost of an episode of a controller, which is a function of the deviations."""
        z, last = chain.forward(self.start, self.dynamics, controller)
        return quadratic.expectation(self.cost, z).sum() + quadratic.expectation(self.final, last)


def fit(
    dynamics: FittedDynamics, cost: CostExpansion, problem: Problem, memory: Any, rollouts: Rollouts, key: Key
) -> tuple[Any, LocalModel, Bool[Array, ""]]:
    """What one condition remembers after its `cleaned` rollouts, what is believed of it, and whether its transitions
    were enough for that.
    """
    nominal = Nominal.of(rollouts)
    memory, fitted, enough = dynamics.fit(memory, rollouts, nominal, key)
    start = Gaussian(*regression.moments(rollouts.x[:, 0] - nominal.x[0], rollouts.weight[:, 0]))
    return memory, LocalModel(nominal, start, fitted, *cost(problem, rollouts, nominal)), enough


def obstacle(cost: CostExpansion, problem: Problem, rollouts: Rollouts, ok: Bool[Array, "N"]) -> str:
    """Why no model was made of the conditions that are not `ok`, in words for the user; "" if that is not known."""
    refused = jax.tree.map(lambda leaf: leaf[~ok], rollouts)
    points = refused if cost.at == "samples" else jax.vmap(Nominal.of)(refused.cleaned())
    dx, du, T = problem.dx, problem.du, problem.horizon
    return without_derivative(problem, points.x.reshape(-1, T + 1, dx), points.u.reshape(-1, T, du))
