"""The S-step where nothing is approximate: projection onto linear-Gaussian controllers (MDGPS, Algorithm 2).

    pi = argmin  sum_i KL(p_i(trajectory) to pi(trajectory))     over time-varying linear-Gaussian pi, one for all i

With linear-Gaussian dynamics the trajectories' KL is the sum over t of the controllers' expected KL, and each term is,
but for a constant, the likelihood of p_i's states and actions under pi_t. So pi_t is the linear-Gaussian map that has
the pooled moments of [x_t; u_t]: regression on infinitely many samples.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.algebra import gaussian, regression
from pilotfish.types import Gaussian, LinearGaussian


def projection(z: Gaussian, weight: Float[Array, "N"], dx: int) -> LinearGaussian:
    """The controller (leading axis T) nearest to N controllers in that sense.

    `z` are the marginals of [x_t; u_t] under each controller, leading axes (N, T), all in the same coordinates. The
    weights sum to 1; what has weight 0 may not be finite.
    """
    counts = weight > 0
    first = jnp.argmax(weight)
    mean, cov = (jnp.where(counts.reshape(-1, *(1,) * (a.ndim - 1)), a, a[first]) for a in (z.mean, z.cov))
    pivot = mean[first]
    shift = jnp.einsum("n,ntd->td", weight, mean - pivot)
    apart = mean - pivot - shift
    pooled = jnp.einsum("n,ntij->tij", weight, cov) + jnp.einsum("n,nti,ntj->tij", weight, apart, apart)
    total = jnp.sqrt(jnp.diagonal(pooled, axis1=1, axis2=2).mean(0))[:dx]
    least = jnp.where(total > 0, regression.RESOLUTION * total, 1.0)
    # in deviations from the pooled mean, where the offset is 0
    found = jax.vmap(lambda cov: regression.conditioned(Gaussian(jnp.zeros(cov.shape[0]), cov), dx, least))(pooled)
    at = pivot + shift
    k = at[:, dx:] - jnp.einsum("tij,tj->ti", found.gain, at[:, :dx])
    return LinearGaussian(found.gain, k, gaussian.robust_cholesky(found.cov))
