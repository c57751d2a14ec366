"""The best controller tried: an update may spoil what the one before could do, so what is deployed is the best."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.algebra.batch import chosen
from pilotfish.types import LinearGaussian, Rollouts


class BestSoFar(eqx.Module):
    """Of the controllers rolled out so far, that of each condition whose rollouts cost least."""

    controller: LinearGaussian
    """Leading axes: condition, time."""
    cost: Float[Array, "N"]
    """Mean cost of its rollouts; infinite before the first."""

    @classmethod
    def begin(cls, controller: LinearGaussian) -> "BestSoFar":
        """Nothing was rolled out: the controller with which learning begins."""
        return cls(controller, jnp.full(len(controller.k), jnp.inf, float))

    def after(self, controller: LinearGaussian, rollouts: Rollouts) -> "BestSoFar":
        """What is best after these rollouts of `controller`. One of which a rollout broke off is no better."""
        cost = spent(rollouts)
        return BestSoFar(*chosen(cost < self.cost, (controller, cost), (self.controller, self.cost)))


def spent(rollouts: Rollouts) -> Float[Array, "N"]:
    """Mean cost of each condition's rollouts; infinite if one of them broke off."""
    return jnp.where(rollouts.valid.all(-1), rollouts.cost.sum(-1).mean(-1), jnp.inf)
