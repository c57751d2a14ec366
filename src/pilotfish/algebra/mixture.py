"""Gaussian mixtures, fitted by expectation-maximisation, and the prior that one gives to a time step.

    p(z) = sum_k w_k N(z; mu_k, S_k)

A Gaussian is an exponential family in the features `phi(z) = (1, z_i, z_i z_j (i <= j))`. So one iteration is two
matrix products over the data, with the inverse of each cluster's covariance between them:

    E:  log w_k N(z; mu_k, S_k) = theta_k' phi(z),     r_k(z) = softmax over k,     P = S_k^-1,
        theta_k = ( log w_k - 1/2 (log|S_k| + mu_k'P mu_k),  P mu_k,  -1/2 P ),     up to d/2 log 2 pi
    M:  w_k (1, mu_k, S_k + mu_k mu_k') = sum_i share_i r_k(z_i) phi(z_i)

By symmetry that is half the work of distances and scatter matrices, and phi is made once.

The data are standardised first, each coordinate by its weighted mean and standard deviation, and every S_k gets
a floor of 1e-6 (in float32: 1e-3) added to its diagonal there: relative to the variance of the data, so the same in
all units. It bounds P, and with it what products that are not centred can lose. A coordinate that is constant but for
rounding is taken as exactly constant, and the rounding of its magnitude as its standard deviation.

A cluster that has lost its mass, down to a hundredth of a point, starts anew: with the covariance of all data, at the
point that the mixture explains worst. All that do so in the same iteration share the weight of one point. Pure EM
leaves such a cluster dead for good; here a warm start on other data puts it to use again, and where nothing needs it,
as with more clusters than points, it is a broad background of hardly any weight.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pilotfish.algebra import gaussian, regression
from pilotfish.algebra.batch import each
from pilotfish.types import Gaussian, Key


class Mixture(eqx.Module):
    """A mixture of K Gaussians, or a batch of them."""

    log_weight: Float[Array, "*batch K"]
    mean: Float[Array, "*batch K d"]
    chol: Float[Array, "*batch K d d"]


class Standardised(NamedTuple):
    """Data in standardised coordinates `s = (z - centre) / std`."""

    s: Float[Array, "n d"]
    phi: Float[Array, "p n"]
    """Features of s; they lie in memory feature by feature."""
    share: Float[Array, "n"]
    """Each point's part of the whole; 0: the point does not exist."""
    cov: Float[Array, "d d"]
    """Covariance of all s."""
    centre: Float[Array, "d"]
    std: Float[Array, "d"]


def begin(z: Float[Array, "n d"], weight: Float[Array, "n"], clusters: int, key: Key) -> Mixture:
    """A start for `fit`: seeds far apart, each with the points that are nearest to it.

    All clusters get one covariance, that within clusters: it is regular long before each cluster's own would be.
    """
    data = _standardise(z, weight)
    distance = _squared_distances(data.s, _seeds(data.s, data.share, clusters, key))
    nearest = jnp.argmin(distance, 0) == jnp.arange(clusters)[:, None]
    own = _maximise(data, nearest.astype(z.dtype), -distance.min(0))
    within = jnp.einsum("k,kij,klj->il", jnp.exp(own.log_weight), own.chol, own.chol)
    chol = jnp.broadcast_to(jnp.linalg.cholesky(within), own.chol.shape)
    return _in_units(Mixture(own.log_weight, own.mean, chol), data)


def fit(
    z: Float[Array, "n d"],
    weight: Float[Array, "n"],
    start: Mixture,
    iterations: Int[Array, ""] | int,
    tolerance: Float[Array, ""] | float = 0.0,
) -> Mixture:
    """`iterations` steps of EM from `start`, fewer if the mean log-likelihood changes by less than `tolerance` nats.

    Points of zero weight do not exist, whatever finite numbers they are. Go over many data sets with `batch.each`.
    """
    data = _standardise(z, weight)

    def unfinished(carry: tuple[Mixture, Array, Array, Array]) -> Array:
        _, change, _, i = carry
        return (i < iterations) & (change >= tolerance)

    def step(carry: tuple[Mixture, Array, Array, Array]):
        mixture, _, before, i = carry
        log_joint = _natural(mixture) @ data.phi
        log_density = jax.nn.logsumexp(log_joint, 0)
        new = _maximise(data, jnp.exp(log_joint - log_density), log_density)
        now = data.share @ log_density
        return new, jnp.abs(now - before), now, i + 1

    far = jnp.asarray(jnp.inf, z.dtype)
    mixture, *_ = jax.lax.while_loop(unfinished, step, (_standard(start, data), far, far, jnp.asarray(0)))
    return _in_units(mixture, data)


def log_densities(mixture: Mixture, z: Float[Array, "n d"]) -> Float[Array, "n K"]:
    """`log w_k N(z; mu_k, S_k)` of every component."""

    def log_density(mean: Float[Array, "d"], chol: Float[Array, "d d"]) -> Float[Array, "n"]:
        return gaussian.log_density(z, jnp.broadcast_to(mean, z.shape), chol)

    return each(log_density, mixture.mean, mixture.chol).T + mixture.log_weight


def log_likelihood(mixture: Mixture, z: Float[Array, "n d"], weight: Float[Array, "n"]) -> Float[Array, ""]:
    """Weighted mean of the points' log densities."""
    z, share = _existing(z, weight)
    return share @ jax.nn.logsumexp(log_densities(mixture, z), 1)


def moments_near(mixture: Mixture, points: Float[Array, "T m d"], weight: Float[Array, "T m"]) -> Gaussian:
    """The Gaussians that the mixture makes of T places: the priors of the time steps (Levine & Abbeel 2014).

    The mean responsibilities of a place's points weigh the components, of which these are mean and covariance; the
    weights of a place's points sum to 1. Where it has no point they are those of the whole mixture.
    """
    T, m, d = points.shape
    occupied = weight.sum(1, keepdims=True) > 0
    points, share = _existing(points.reshape(T * m, d), weight.reshape(T * m))
    responsibility = jax.nn.softmax(log_densities(mixture, points), 1).reshape(T, m, -1)
    near = occupied.sum() * jnp.einsum("tm,tmk->tk", share.reshape(T, m), responsibility)
    w = jnp.where(occupied, near, jax.nn.softmax(mixture.log_weight))
    mean = w @ mixture.mean
    apart = mixture.mean - mean[:, None]
    within = jnp.tensordot(w, mixture.chol @ mixture.chol.mT, 1)
    return Gaussian(mean, within + (w[..., None] * apart).mT @ apart)


def _existing(z: Float[Array, "n d"], weight: Float[Array, "n"]) -> tuple[Float[Array, "n d"], Float[Array, "n"]]:
    """The points with zeros in place of those that do not exist, and each one's part of the whole."""
    total = weight.sum()
    return jnp.where(weight[:, None] > 0, z, 0.0), weight / jnp.where(total > 0, total, 1.0)


def _standardise(z: Float[Array, "n d"], weight: Float[Array, "n"]) -> Standardised:
    z, share = _existing(z, weight)
    pivot = z[jnp.argmax(share)]
    centre = pivot + share @ jnp.where(share[:, None] > 0, z - pivot, 0.0)
    # points that do not exist stand at the centre, where a cluster that finds no other point starts anew
    deviation = jnp.where(share[:, None] > 0, z - centre, 0.0)
    std, magnitude = jnp.sqrt(share @ deviation**2), jnp.sqrt(share @ z**2)
    rounding = regression.ROUNDING * jnp.finfo(z.dtype).eps * magnitude
    constant = std <= rounding
    std = jnp.where(constant, jnp.maximum(rounding, jnp.finfo(z.dtype).tiny ** 0.25), std)
    s = jnp.where(constant, 0.0, deviation / std)
    i, j = np.triu_indices(z.shape[1])
    phi = jnp.concatenate([jnp.ones_like(s.T[:1]), s.T, s.T[i] * s.T[j]])
    return Standardised(s, phi, share, (s.T * share) @ s, centre, std)


def _standard(mixture: Mixture, data: Standardised) -> Mixture:
    """The mixture in standardised coordinates; one from other data may be thinner there than the floor."""
    mean, chol = (mixture.mean - data.centre) / data.std, mixture.chol / data.std[:, None]
    d, floor = chol.shape[1], _floor(chol.dtype)
    thin = (jnp.diagonal(chol, axis1=1, axis2=2) ** 2 < 0.5 * floor).any(1, keepdims=True)
    raised: Array = jnp.linalg.cholesky(chol @ chol.mT + floor * jnp.eye(d))
    return Mixture(mixture.log_weight, mean, jnp.where(thin[..., None], raised, chol))


def _in_units(mixture: Mixture, data: Standardised) -> Mixture:
    """The mixture in the data's own coordinates."""
    return Mixture(mixture.log_weight, data.centre + data.std * mixture.mean, data.std[:, None] * mixture.chol)


def _seeds(s: Float[Array, "n d"], share: Float[Array, "n"], clusters: int, key: Key) -> Float[Array, "K d"]:
    """Points far apart, by greedy k-means++ (Arthur & Vassilvitskii 2007).

    Each is the best of four that are drawn by their squared distance to the seeds before it.
    """

    def draw(nearest: Float[Array, "n"], key: Key):
        odds = jnp.where((share * nearest).max() > 0, share * nearest, share)
        drawn = s[jax.random.categorical(key, jnp.log(odds), shape=(4,))]
        then = jnp.minimum(nearest, _squared_distances(s, drawn))
        best = jnp.argmin(then @ share)
        return then[best], drawn[best]

    first = jnp.full_like(share, jnp.finfo(s.dtype).max)
    return jax.lax.scan(draw, first, jax.random.split(key, clusters))[1]


def _squared_distances(s: Float[Array, "n d"], centres: Float[Array, "K d"]) -> Float[Array, "K n"]:
    return each(lambda centre: ((s - centre) ** 2).sum(-1), centres)


def _natural(mixture: Mixture) -> Float[Array, "K p"]:
    """Each component's coefficients theta."""
    d = mixture.mean.shape[1]
    inverse = gaussian.solve_chol(mixture.chol, jnp.broadcast_to(jnp.eye(d), mixture.chol.shape))
    P = inverse.mT @ inverse
    linear = jnp.einsum("kij,kj->ki", P, mixture.mean)
    log_scale = gaussian.log_det(mixture.chol) + (linear * mixture.mean).sum(-1)
    i, j = np.triu_indices(d)
    return jnp.concatenate(
        [(mixture.log_weight - 0.5 * log_scale)[:, None], linear, P[:, i, j] * np.where(i == j, -0.5, -1.0)], 1
    )


def _maximise(data: Standardised, responsibility: Float[Array, "K n"], log_density: Float[Array, "n"]) -> Mixture:
    """The mixture that these responsibilities make of the data; clusters without mass start anew."""
    n, d = data.s.shape
    moments = data.phi @ (responsibility * data.share).T
    mass = moments[0]
    point = jnp.maximum((data.share**2).sum(), 1.0 / n)
    dead = mass <= 0.01 * point
    mean, second = jnp.split((moments[1:] / jnp.where(dead, 1.0, mass)).T, (d,), 1)
    cov = _symmetric(second, d) - mean[:, :, None] * mean[:, None, :]
    # the worst explained points first
    order = jnp.argsort(jnp.where(data.share > 0, log_density, jnp.inf))
    worst = data.s[order[jnp.minimum(jnp.cumsum(dead) - 1, n - 1)]]
    mass = jnp.where(dead, point / jnp.maximum(dead.sum(), 1), mass)
    mean = jnp.where(dead[:, None], worst, mean)
    cov = jnp.where(dead[:, None, None], data.cov, cov)
    return Mixture(jnp.log(mass / mass.sum()), mean, jnp.linalg.cholesky(cov + _floor(cov.dtype) * jnp.eye(d)))


def _symmetric(upper: Float[Array, "*batch q"], d: int) -> Float[Array, "*batch d d"]:
    """The symmetric matrix of which `upper` is the upper triangle, row by row."""
    at = np.zeros((d, d), int)
    at[np.triu_indices(d)] = np.arange(upper.shape[-1])
    return upper[..., np.maximum(at, at.T)]


def _floor(dtype: jnp.dtype) -> float:
    return 1e-6 if dtype == jnp.float64 else 1e-3
