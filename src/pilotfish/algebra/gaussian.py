"""Gaussians: factors, densities, conditioning, divergences.

A covariance `S = L L'` is handled by its Cholesky factor L wherever it is inverted.
"""

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array, Float

from pilotfish.types import Gaussian, Key, LinearGaussian

LOG_2PI = 1.8378770664093453


def solve_chol(chol: Float[Array, "*batch d d"], b: Float[Array, "*batch d n"]) -> Float[Array, "*batch d n"]:
    """`chol^-1 b`, with `chol` lower triangular."""
    return jsl.solve_triangular(chol, b, lower=True)


def solve_chol_right(b: Float[Array, "*batch n d"], chol: Float[Array, "*batch d d"]) -> Float[Array, "*batch n d"]:
    """`b chol^-1`, with `chol` lower triangular."""
    return jsl.solve_triangular(chol, b.mT, lower=True, trans="T").mT


def log_det(chol: Float[Array, "*batch d d"]) -> Float[Array, "*batch"]:
    """`log |chol chol'|`."""
    return 2.0 * jnp.log(jnp.diagonal(chol, axis1=-2, axis2=-1)).sum(-1)


def robust_cholesky(
    cov: Float[Array, "*batch d d"], least: Float[Array, "*#batch d"] | float = 0.0
) -> Float[Array, "*batch d d"]:
    """Cholesky factor of a covariance that may be singular.

    The correlations get 1e-9 (in float32: 1e-6) added to their diagonal, so the factor exists and is finite for
    any positive semi-definite input, in whatever units its coordinates are. A coordinate whose standard deviation is
    below `least`, in its own unit, gets that one; at 0 the factor's row is 0 where nothing varies, and has no inverse.
    """
    std = jnp.maximum(jnp.sqrt(jnp.maximum(jnp.diagonal(cov, axis1=-2, axis2=-1), 0.0)), least)
    unit = jnp.where(std > 0, std, 1.0)
    correlation = cov / unit[..., :, None] / unit[..., None, :]
    diagonal = jnp.eye(cov.shape[-1], dtype=bool)
    jitter = 1e-9 if cov.dtype == jnp.float64 else 1e-6
    return std[..., :, None] * jnp.linalg.cholesky(jnp.where(diagonal, 1.0 + jitter, correlation))


def log_density(
    x: Float[Array, "*batch d"], mean: Float[Array, "*#batch d"], chol: Float[Array, "d d"]
) -> Float[Array, "*batch"]:
    """`log N(x; mean, chol chol')` for a batch of points, of one mean or each of its own, and one factor."""
    white = jnp.einsum("ij,...j->...i", solve_chol(chol, jnp.eye(chol.shape[-1])), x - mean)
    return -0.5 * ((white**2).sum(-1) + x.shape[-1] * LOG_2PI + log_det(chol))


def entropy(chol: Float[Array, "*batch d d"]) -> Float[Array, "*batch"]:
    """Entropy of a Gaussian with covariance `chol chol'`."""
    return 0.5 * (chol.shape[-1] * (1.0 + LOG_2PI) + log_det(chol))


def draw(p: Gaussian, key: Key) -> Float[Array, "d"]:
    """A draw of one Gaussian. Coordinates of variance 0 are exactly their mean."""
    return p.mean + robust_cholesky(p.cov) @ jax.random.normal(key, p.mean.shape)


def marginalise(joint: Gaussian, n: int) -> Gaussian:
    """Marginal of the first `n` coordinates."""
    return Gaussian(joint.mean[..., :n], joint.cov[..., :n, :n])


def condition(joint: Gaussian, n: int) -> LinearGaussian:
    """The last coordinates given the first `n`, as a linear-Gaussian map of these."""
    a, b = slice(None, n), slice(n, None)
    chol = jnp.linalg.cholesky(joint.cov[..., a, a])
    white = solve_chol(chol, joint.cov[..., a, b])
    gain = jsl.solve_triangular(chol, white, lower=True, trans="T").mT
    offset = joint.mean[..., b] - jnp.einsum("...ij,...j->...i", gain, joint.mean[..., a])
    return LinearGaussian(gain, offset, jnp.linalg.cholesky(joint.cov[..., b, b] - white.mT @ white))


def joint(x: Gaussian, u: LinearGaussian) -> Gaussian:
    """Distribution of `z = [x; u]` with `u ~ N(Kx + k, C)`."""
    cross = x.cov @ u.K.mT
    cov = jnp.concatenate(
        [jnp.concatenate([x.cov, cross], -1), jnp.concatenate([cross.mT, u.K @ cross + u.cov], -1)], -2
    )
    return Gaussian(jnp.concatenate([x.mean, u.mean(x.mean)], -1), cov)


def kl(p: Gaussian, q: Gaussian) -> Float[Array, "*batch"]:
    """`KL(p to q) = E_p[log p - log q]`."""
    p_chol, q_chol = jnp.linalg.cholesky(p.cov), jnp.linalg.cholesky(q.cov)
    spread = solve_chol(q_chol, p_chol)
    shift = solve_chol(q_chol, (p.mean - q.mean)[..., None])
    return 0.5 * (
        (spread**2).sum((-2, -1)) + (shift**2).sum((-2, -1)) - p.mean.shape[-1] + log_det(q_chol) - log_det(p_chol)
    )


def expected_kl(p: LinearGaussian, q: LinearGaussian, x: Gaussian) -> Float[Array, "*batch"]:
    """`E_x KL(p(u given x) to q(u given x))`, in coordinates whitened by q's covariance.

    1/2 [ tr(Cq^-1 Cp) - du + log|Cq| - log|Cp| + d'Cq^-1 d + tr(D'Cq^-1 D S) ],
    D = Kp - Kq, d = D mu + kp - kq.
    """
    D = p.K - q.K
    d = jnp.einsum("...ij,...j->...i", D, x.mean) + p.k - q.k
    spread = solve_chol(q.chol, p.chol)
    shift = solve_chol(q.chol, d[..., None])
    gain = solve_chol(q.chol, D)
    ratio = jnp.diagonal(spread, axis1=-2, axis2=-1)
    return 0.5 * (
        (spread**2).sum((-2, -1))
        - p.k.shape[-1]
        - 2.0 * jnp.log(ratio).sum(-1)
        + (shift**2).sum((-2, -1))
        + jnp.einsum("...ij,...jk,...ik->...", gain, x.cov, gain)
    )
