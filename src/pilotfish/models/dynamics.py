"""Linear-Gaussian dynamics of each time step, fitted to rollouts (GPS'14, section 3 and its Appendix A).

    x' ~ N(A x + B u + c, F)

by regression on the transitions of that step, with or without a prior from those of all steps: models/regressed.py.
"""

from typing import Literal, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra.mixture import Mixture
from pilotfish.models import regressed
from pilotfish.models.nominal import Nominal
from pilotfish.models.regressed import Memory
from pilotfish.types import Key, LinearDynamics, Problem, Rollouts

Prior = Literal["none", "gmm"]


class FittedDynamics(eqx.Module):
    """The dynamics of each time step, fitted to this iteration's rollouts, with or without a prior."""

    prior: Prior = eqx.field(static=True, default="none")
    """Prior of the dynamics: none, or a mixture of Gaussians over the transitions of all steps and recent iterations,
    which makes do with fewer rollouts than state and action have dimensions."""
    clusters: int = eqx.field(static=True, default=20)
    """Most Gaussians in the mixture."""
    samples_per_cluster: int = eqx.field(static=True, default=40)
    """There are no more Gaussians than one in so many transitions, but at least two."""
    memory: int = eqx.field(static=True, default=20)
    """Number of the newest rollouts from a condition that the mixture sees, rounded up to whole iterations."""

    def __check_init__(self):
        if self.prior not in get_args(Prior):
            raise ValueError(f"prior={self.prior!r}: choose one of {', '.join(get_args(Prior))}.")
        regressed.check_sizes(self)

    def needed(self, dx: int, du: int) -> int:
        """The least number of transitions with which a step's dynamics can be fitted."""
        return dx + du + 2 if self.prior == "none" else 2

    def begin(self, problem: Problem, episodes: int) -> Memory | None:
        """What one condition remembers before its first rollouts; None without a prior. ValueError if `episodes` an
        iteration are too few.
        """
        dx, du, T = problem.dx, problem.du, problem.horizon
        need = self.needed(dx, du)
        if episodes < need and self.prior == "none":
            raise ValueError(
                f"rollouts={episodes}: without a prior the dynamics of {dx} + {du} variables need at least {need} "
                f"rollouts an iteration. Raise rollouts to {need} or more, or set prior='gmm'."
            )
        if episodes < need:
            raise ValueError(f"rollouts={episodes}: the dynamics need at least {need} rollouts an iteration.")
        if self.prior == "none":
            return None
        d = 2 * dx + du
        sizes = {"clusters": self.clusters, "samples_per_cluster": self.samples_per_cluster, "memory": self.memory}
        return regressed.begin(episodes, T, d, d, **sizes)

    def fit(
        self, memory: Memory | None, rollouts: Rollouts, nominal: Nominal, key: Key
    ) -> tuple[Memory | None, LinearDynamics, Bool[Array, ""]]:
        """What one condition remembers after its M rollouts, the dynamics of all steps (leading axis T) in deviations
        from `nominal`, and whether every step had transitions enough. Rollouts must be `cleaned`.
        """
        happened = rollouts.happened.astype(rollouts.x.dtype)
        count = happened.sum(0)
        enough = (count >= self.needed(rollouts.x.shape[-1], rollouts.u.shape[-1])).all()
        if memory is not None:
            memory = regressed.remembered(memory, transitions(rollouts.x, rollouts.u), happened)
            memory = regressed.fit_mixture(memory, memory.points, key)
        prior = None if memory is None else memory.mixture
        return memory, fit(rollouts.x, rollouts.u, rollouts.weight[:, :-1], count, nominal, prior), enough


def transitions(x: Float[Array, "*M T1 dx"], u: Float[Array, "*M T du"]) -> Float[Array, "*M T d"]:
    """`[x; u; x']` of every step, d = 2 dx + du."""
    return jnp.concatenate([x[..., :-1, :], u, x[..., 1:, :]], -1)


def fit(
    x: Float[Array, "M T1 dx"],
    u: Float[Array, "M T du"],
    weight: Float[Array, "M T"],
    count: Float[Array, "T"],
    nominal: Nominal,
    prior: Mixture | None = None,
) -> LinearDynamics:
    """The dynamics of all steps, leading axis T, in deviations from `nominal`, from transitions of which those of
    weight 0 do not count.

    The weights of a step sum to 1, and `count` is the number of transitions that they stand for.
    """
    dx, dz = x.shape[-1], x.shape[-1] + u.shape[-1]
    found = regressed.fit(transitions(x, u), weight, count, transitions(nominal.x, nominal.u), dz, prior)
    return LinearDynamics(found.gain[..., :dx], found.gain[..., dx:], found.offset, found.cov)
