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
        spent = jnp.where(rollouts.valid.all(-1), rollouts.cost.sum(-1).mean(-1), jnp.inf)
        better = spent < self.cost
        return BestSoFar(*chosen(better, (controller, spent), (self.controller, self.cost)))
