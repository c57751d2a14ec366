"""Linear-Gaussian dynamics of each time step, fitted to rollouts (GPS'14, section 3 and its Appendix A).

The samples of step t give the mean and covariance of `[x; u; x']`; conditioned on [x; u] that is

    x' ~ N(A x + B u + c, F)

With fewer samples than dimensions the covariance is first drawn towards a prior: the normal-inverse-Wishart
posterior whose mean mu and covariance Phi come from a mixture of Gaussians, fitted to the transitions of all time
steps and recent iterations, as it is near step t's samples. With n samples of mean m and covariance S,

    covariance = [ n S + Phi + n / (n + 1) (m - mu)(m - mu)' ] / (n + n0)

for a prior that counts as one sample. The fit goes through the samples' own mean m, not the posterior's, as in the
GPS code of Finn et al.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.algebra import gaussian, regression
from pilotfish.algebra.mixture import Mixture, moments_near
from pilotfish.types import Gaussian, LinearDynamics


def transitions(x: Float[Array, "*M T1 dx"], u: Float[Array, "*M T du"]) -> Float[Array, "*M T d"]:
    """`[x; u; x']` of every step, d = 2 dx + du."""
    return jnp.concatenate([x[..., :-1, :], u, x[..., 1:, :]], -1)


def fit(
    x: Float[Array, "M T1 dx"],
    u: Float[Array, "M T du"],
    weight: Float[Array, "M"],
    count: Float[Array, ""],
    prior: Mixture | None = None,
) -> LinearDynamics:
    """The dynamics of all steps, leading axis T, from rollouts of which those of weight 0 do not count.

    The weights sum to 1, and `count` is the number of rollouts that they stand for.
    """
    points = jnp.moveaxis(transitions(x, u), 1, 0)
    near = None if prior is None else moments_near(prior, points, weight)

    def step(points: Float[Array, "M d"], near: Gaussian | None) -> LinearDynamics:
        mean, cov = regression.moments(points, weight)
        if near is not None:
            cov = regression.normal_inverse_wishart(mean, cov, count, near)
        return conditioned(Gaussian(mean, cov), x.shape[-1])

    return jax.vmap(step)(points, near)


def conditioned(joint: Gaussian, dx: int) -> LinearDynamics:
    """`x'` given [x; u], of a joint distribution of [x; u; x']."""
    z, after = slice(None, -dx), slice(-dx, None)
    chol = gaussian.robust_cholesky(joint.cov[z, z])
    white = gaussian.solve_chol(chol, joint.cov[z, after])
    AB = gaussian.solve_chol_right(white.T, chol)
    cov = joint.cov[after, after] - white.T @ white
    return LinearDynamics(AB[:, :dx], AB[:, dx:], joint.mean[after] - AB @ joint.mean[z], cov)
