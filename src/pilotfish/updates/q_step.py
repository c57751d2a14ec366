"""A step on Q alone: the best controller of every time step, within a KL and an entropy bound (MOTO, section 3).

Unlike the C-step's (updates/c_step), its expectations are under the states where the rollouts have been. So each time
step is by itself, and in closed form but for one scalar (algebra/dual.py).
"""

import jax
from jaxtyping import Array, Float

from pilotfish.algebra import dual
from pilotfish.algebra.dual import Multipliers, WhiteStep
from pilotfish.types import LinearGaussian, Quadratic


def q_step(
    q: LinearGaussian,
    mean: Float[Array, "T dx"],
    chol: Float[Array, "T dx dx"],
    Q: Quadratic,
    kl_step: Float[Array, "T"],
    entropy_drop: Float[Array, "T"],
) -> tuple[LinearGaussian, WhiteStep, Multipliers]:
    """The best controllers within the bounds about `q` (leading axis T), in users' units and in white coordinates, and
    the bounds' multipliers.

    The states of step t are `x = mean + chol s`, q's actions `Kx + k + R e`, and Q is over (s, e).
    """
    dx = mean.shape[-1]

    def improve(q: LinearGaussian, mean: Array, chol: Array, Q: Quadratic, kl_step: Array, entropy_drop: Array):
        step, multipliers = dual.white_step(Q.H[dx:, dx:], Q.H[dx:, :dx], Q.h[dx:], kl_step, entropy_drop)
        return dual.unwhiten(step, q, mean, chol), step, multipliers

    return jax.vmap(improve)(q, mean, chol, Q, kl_step, entropy_drop)
