"""A step on Q alone: the best controller of every time step, within a KL and an entropy bound (MOTO, section 3).

Unlike the C-step's (updates/c_step), its expectations are under the states where the rollouts have been. So each time
step is by itself, and in closed form but for one scalar (algebra/dual.py).

Where the new controller goes elsewhere its KL there may be any number: on the double link it was 40 to 17,000 times the
bound in six of the ten updates that cost more than a quarter of a success (docs/algorithms/moto.md). `shortened` (ours)
makes the step as short as it must be for the KL, under the states to which the new controllers lead in a linear model,
to be within the bound as well.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.algebra import chain, dual, root
from pilotfish.algebra.dual import Multipliers, WhiteStep
from pilotfish.types import Gaussian, LinearDynamics, LinearGaussian, Quadratic

SHORTEST = 1e-3
"""Part of a step's bounds that is left at least."""
BAND = root.Band(-0.1, -0.05, 0.0)
"""Of the logarithm of the KL ahead over its bound, where it binds."""
MOST = 12
"""Steps that are tried."""


class Step(NamedTuple):
    """Controllers of all time steps, and how they were found."""

    controller: LinearGaussian
    """In users' units."""
    white: WhiteStep
    """In white coordinates."""
    multipliers: Multipliers
    """Of the bounds."""


def q_step(
    q: LinearGaussian,
    mean: Float[Array, "T dx"],
    chol: Float[Array, "T dx dx"],
    Q: Quadratic,
    kl_step: Float[Array, "T"],
    entropy_drop: Float[Array, "T"],
) -> Step:
    """The best controllers within the bounds about `q` (leading axis T).

    The states of step t are `x = mean + chol s`, q's actions `Kx + k + R e`, and Q is over (s, e).
    """
    dx = mean.shape[-1]

    def improve(q: LinearGaussian, mean: Array, chol: Array, Q: Quadratic, kl_step: Array, entropy_drop: Array):
        step, multipliers = dual.white_step(Q.H[dx:, dx:], Q.H[dx:, :dx], Q.h[dx:], kl_step, entropy_drop)
        return Step(dual.unwhiten(step, q, mean, chol), step, multipliers)

    return jax.vmap(improve)(q, mean, chol, Q, kl_step, entropy_drop)


def shortened(
    step_of: Callable[[Float[Array, ""]], Step], ahead: LinearDynamics, most: Float[Array, ""] | float
) -> tuple[Step, Float[Array, ""]]:
    """The step with bounds so much shorter that the mean KL of the steps is at most `most` under the new controllers'
    own states, and that KL.

    `step_of` is a `q_step` whose bounds are multiplied by its argument, at most 1. `ahead` leads from (s, e) of a step
    to the next step's s. nan where no step is short enough.
    """
    T, dx, du = ahead.B.shape
    start = Gaussian(jnp.zeros(dx), jnp.eye(dx))
    stays = LinearGaussian(jnp.zeros((T, du, dx)), jnp.zeros((T, du)), jnp.broadcast_to(jnp.eye(du), (T, du, du)))

    def evaluate(shorter: Float[Array, ""]) -> root.Point:
        step = step_of(jnp.exp(-shorter))
        kl = chain.kl(start, ahead, LinearGaussian(*step.white), stays).mean()
        return root.Point(jnp.log(kl / most), None, (step, kl))

    longest, shortest = jnp.zeros(()), jnp.asarray(-jnp.log(SHORTEST))
    secant = root.Secant(first=-1.0, steepest=-30.0, flattest=-0.3)
    return root.search(evaluate, longest, (longest, shortest), BAND, MOST, secant).best
