"""The mean trajectory of some rollouts. Local models are made in deviations from it.

    dx_t = x_t - x̄_t,    du_t = u_t - ū_t

So nothing is multiplied by where the origin of a state happens to be, and no digits are lost to it.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.types import LinearGaussian, Rollouts


class Nominal(NamedTuple):
    """A trajectory of states and actions."""

    x: Float[Array, "T1 dx"]
    u: Float[Array, "T du"]

    @classmethod
    def of(cls, rollouts: Rollouts) -> "Nominal":
        """The mean of the `cleaned` rollouts of one condition."""
        weight = rollouts.weight

        def mean(a: Float[Array, "M t d"], w: Float[Array, "M t"]) -> Float[Array, "t d"]:
            pivot = a[jnp.argmax(w, 0), jnp.arange(a.shape[1])]
            return pivot + jnp.einsum("mt,mti->ti", w, a - pivot)

        return cls(mean(rollouts.x, weight), mean(rollouts.u, weight[:, :-1]))

    def deviations(self, rollouts: Rollouts) -> tuple[Float[Array, "M T1 dx"], Float[Array, "M T du"]]:
        """Those of rollouts; what has no weight need not be 0."""
        return rollouts.x - self.x, rollouts.u - self.u

    def inwards(self, controller: LinearGaussian) -> LinearGaussian:
        """A controller as a function of the deviations: `du = K dx + k`, leading axis T."""
        return LinearGaussian(controller.K, controller.mean(self.x[:-1]) - self.u, controller.chol)

    def outwards(self, controller: LinearGaussian) -> LinearGaussian:
        """The inverse of `inwards`: a controller of states and actions."""
        k = controller.k + self.u - jnp.einsum("tij,tj->ti", controller.K, self.x[:-1])
        return LinearGaussian(controller.K, k, controller.chol)
