"""A linear-Gaussian chain: dynamics and controller in closed loop, forward in time.

    x_0 ~ initial,   u_t ~ N(K_t x_t + k_t, C_t),   x_{t+1} ~ N(A_t x_t + B_t u_t + c_t, F_t)

The marginals of z_t = [x_t; u_t] follow by one Gaussian step after another. Two chains that share their
dynamics and initial state differ by the sum of their controllers' expected KL, taken under the first
chain's marginals (MDGPS, Appendix A).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.algebra import gaussian
from pilotfish.types import Gaussian, LinearDynamics, LinearGaussian


def forward(initial: Gaussian, dynamics: LinearDynamics, controller: LinearGaussian) -> tuple[Gaussian, Gaussian]:
    """Marginals of `z_t`, t = 0..T-1 (leading axis), and of the last state `x_T`."""

    def step(x: Gaussian, at_t: tuple[LinearDynamics, LinearGaussian]):
        f, p = at_t
        z = gaussian.joint(x, p)
        AB = jnp.concatenate([f.A, f.B], -1)
        return Gaussian(AB @ z.mean + f.c, AB @ z.cov @ AB.T + f.cov), z

    last, z = jax.lax.scan(step, initial, (dynamics, controller))
    return z, last


def states(initial: Gaussian, dynamics: LinearDynamics, controller: LinearGaussian) -> Gaussian:
    """Marginals of `x_t`, t = 0..T-1 (leading axis)."""
    z, _ = forward(initial, dynamics, controller)
    return gaussian.marginalise(z, initial.mean.shape[-1])


def kl(initial: Gaussian, dynamics: LinearDynamics, p: LinearGaussian, q: LinearGaussian) -> Float[Array, "T"]:
    """KL of chain p to chain q, as the contribution of each step: its sum is the trajectories' KL."""
    return gaussian.expected_kl(p, q, states(initial, dynamics, p))
