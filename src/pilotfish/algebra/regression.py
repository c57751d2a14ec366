"""Regression of a quadratic function on weighted samples: ridge in whitened coordinates.

Raw monomials of a state make a normal matrix of condition number up to 1e17. Here inputs are first whitened,
`s = L^-1 (z - mean)`, and the features are the Hermite polynomials of degree <= 2, which are orthonormal for
standard normal s:

    1,   s_i,   s_i s_j (i < j),   (s_i^2 - 1) / sqrt(2)

so the normal matrix is near the identity and one ridge means the same in all tasks. They span all monomials
up to degree 2 (MOTO, section 4.1). The constant is not penalised.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
from jaxtyping import Array, Float

from pilotfish.algebra import gaussian, quadratic
from pilotfish.types import Gaussian, Quadratic

BLOCK = 1000
"""Rows of features that a CPU's cache holds."""
RESOLUTION = 1e-6
"""Part of a coordinate's standard deviation over all data that is told from 0 in a part of them."""
ROUNDING = 100
"""What varies less than so many units in the last place of its magnitude is constant."""


class Regressed(NamedTuple):
    """A linear-Gaussian map `b ~ N(gain a + offset, cov)`, or a batch of them, and how b varies as a does."""

    gain: Float[Array, "*batch b a"]
    offset: Float[Array, "*batch b"]
    cov: Float[Array, "*batch b b"]
    spread: Float[Array, "*batch b b"]
    """Covariance of b itself."""


def feature_count(d: int) -> int:
    """Number of features of a quadratic function of `d` variables, `1 + d (d + 3) / 2`."""
    return 1 + d * (d + 3) // 2


def features(s: Float[Array, "n d"]) -> Float[Array, "n p"]:
    """Hermite features of whitened inputs, p = `feature_count(d)`.

    They are made, and lie in memory, feature by feature: the normal matrix comes out twice as fast so.
    """
    s = s.T
    i, j = np.triu_indices(s.shape[0], 1)
    return jnp.concatenate([jnp.ones_like(s[:1]), s, s[i] * s[j], (s**2 - 1.0) / np.sqrt(2.0)]).T


def as_quadratic(coef: Float[Array, "*batch p"], d: int) -> Quadratic:
    """The quadratic function of s that features and coefficients make."""
    i, j = np.triu_indices(d, 1)
    linear, mixed, square = jnp.split(coef[..., 1:], (d, d + len(i)), -1)
    H = jnp.zeros((*coef.shape[:-1], d, d), coef.dtype)
    H = H.at[..., i, j].set(mixed).at[..., j, i].set(mixed)
    H = H.at[..., np.arange(d), np.arange(d)].set(np.sqrt(2.0) * square)
    return Quadratic(H, linear, coef[..., 0] - square.sum(-1) / np.sqrt(2.0))


def normal(s: Float[Array, "n d"], weight: Float[Array, "n"]) -> Float[Array, "p p"]:
    """The normal matrix `phi' W phi` of the features of whitened inputs.

    On a CPU so many rows at a time as stay in the cache: of 435 features it comes out 1.5 times as fast so.
    """
    n, d = s.shape
    rows = BLOCK if jax.default_backend() == "cpu" else n

    def of_rows(s: Float[Array, "m d"], weight: Float[Array, "m"]) -> Float[Array, "p p"]:
        phi = features(s) * jnp.sqrt(weight)[:, None]
        return phi.T @ phi

    if n <= rows:
        return of_rows(s, weight)
    more = -n % rows
    blocks = jnp.pad(s, ((0, more), (0, 0))).reshape(-1, rows, d), jnp.pad(weight, (0, more)).reshape(-1, rows)
    p = feature_count(d)
    return jax.lax.scan(lambda total, block: (total + of_rows(*block), None), jnp.zeros((p, p), s.dtype), blocks)[0]


def project(s: Float[Array, "n d"], v: Float[Array, "n"]) -> Float[Array, "p"]:
    """`phi' v` of the features of whitened inputs, which need not be made for it: they are products of these."""
    level, second = v.sum(), (s * v[:, None]).T @ s
    square = (jnp.diagonal(second) - level) / np.sqrt(2.0)
    return jnp.concatenate([level[None], v @ s, second[np.triu_indices(s.shape[1], 1)], square])


def factor(normal: Float[Array, "p p"], ridge: Float[Array, ""] | float) -> Float[Array, "p p"]:
    """Cholesky factor of a normal matrix, of weights that sum to 1, with a ridge.

    The first feature is the constant: it gets no more than the rounding error's worth of ridge.
    """
    penalty = jnp.full(len(normal), ridge, normal.dtype).at[0].set(1e-12)
    return jnp.linalg.cholesky(normal + jnp.diag(penalty))


def solve(chol: Float[Array, "p p"], projection: Float[Array, "p"]) -> Float[Array, "p"]:
    """Coefficients that minimise `sum_i w_i (y_i - phi_i'coef)^2 + ridge |coef|^2`, given `factor`'s result and
    `phi' (w y)`.
    """
    return jsl.cho_solve((chol, True), projection)


def fit_quadratic(
    z: Float[Array, "n d"],
    y: Float[Array, "n"],
    weight: Float[Array, "n"] | None = None,
    ridge: Float[Array, ""] | float = 1e-6,
    convex: bool = False,
    about: Float[Array, "d"] | float = 0.0,
) -> Quadratic:
    """The quadratic function of `z - about`, in their own units, that fits `y` best.

    Where it must be `convex` the negative curvatures along the axes of the whitened Hessian are set to zero, which
    leaves the slope at the mean of `z` as it is.
    """
    n, d = z.shape
    w = jnp.ones(n, z.dtype) / n if weight is None else weight / weight.sum()
    mean, cov = moments(z, w)
    inverse = gaussian.solve_chol(gaussian.robust_cholesky(cov, least_std(z, w)), jnp.eye(d))
    s, level = (z - mean) @ inverse.T, w @ y
    white = as_quadratic(solve(factor(normal(s, w), ridge), project(s, w * (y - level))), d)
    if convex:
        curvature, axes = jnp.linalg.eigh(white.H)
        white = Quadratic((axes * jnp.maximum(curvature, 0.0)) @ axes.T, white.h, white.c)
    found = quadratic.compose(white, inverse, inverse @ (about - mean))
    return Quadratic(found.H, found.h, found.c + level)


def moments(z: Float[Array, "n d"], weight: Float[Array, "n"]) -> tuple[Float[Array, "d"], Float[Array, "d d"]]:
    """Weighted mean and (maximum-likelihood) covariance; the weights sum to 1.

    Sums are over differences from the point of most weight: what is constant has exactly no variance.
    """
    pivot = z[jnp.argmax(weight)]
    mean = pivot + weight @ (z - pivot)
    centred = z - mean
    return mean, (centred * weight[:, None]).T @ centred


def standard(
    z: Float[Array, "n d"], weight: Float[Array, "n"], size: Float[Array, "n d"] | None = None
) -> tuple[Float[Array, "d"], Float[Array, "d"]]:
    """Weighted mean and standard deviation of each coordinate; the weights sum to 1, or to 0 if nothing is known.

    The standard deviation is 0 where a coordinate varies by the rounding of such sizes alone: its own, or where it is
    a difference of larger numbers, theirs.
    """
    pivot = z[jnp.argmax(weight)]
    mean = pivot + weight @ (z - pivot)
    std = jnp.sqrt(weight @ (z - mean) ** 2)
    largest = jnp.where(weight[:, None] > 0, jnp.abs(z if size is None else size), 0.0).max(0)
    return mean, jnp.where(std > ROUNDING * jnp.finfo(z.dtype).eps * largest, std, 0.0)


def least_std(z: Float[Array, "n d"], weight: Float[Array, "n"]) -> Float[Array, "d"]:
    """The standard deviation down to which each coordinate is resolved, given all data of a problem: what varies less
    in a part of them is constant there.

    A millionth of its standard deviation over all data. What does not vary in these but for rounding has its own
    magnitude in place of it (1 if that is 0), so that rounding is never taken for information.
    """
    total = weight.sum()
    _, cov = moments(z, weight / jnp.where(total > 0, total, 1.0))
    std, size = jnp.sqrt(jnp.diagonal(cov)), jnp.where(weight[:, None] > 0, jnp.abs(z), 0.0).max(0)
    constant = std <= ROUNDING * jnp.finfo(z.dtype).eps * size
    return jnp.where(constant, jnp.where(size > 0, size, 1.0), RESOLUTION * std)


def normal_inverse_wishart(
    mean: Float[Array, "d"], cov: Float[Array, "d d"], n: Float[Array, ""] | float, prior: Gaussian
) -> Float[Array, "d d"]:
    """Covariance of `n` samples drawn towards a prior that counts as one sample.

    The posterior mode of a normal-inverse-Wishart prior with scale matrix `prior.cov` and n0 = 1, whose mean carries
    the weight of one observation.
    """
    shift = mean - prior.mean
    return (n * cov + prior.cov + n / (n + 1.0) * jnp.outer(shift, shift)) / (n + 1.0)


def conditioned(joint: Gaussian, inputs: int, least: Float[Array, "a"]) -> Regressed:
    """The other coordinates given the first `inputs`; `least` is what is resolved of these, as in
    `least_std`.
    """
    a, b = slice(None, inputs), slice(inputs, None)
    chol = gaussian.robust_cholesky(joint.cov[a, a], least)
    white = gaussian.solve_chol(chol, joint.cov[a, b])
    gain = gaussian.solve_chol_right(white.T, chol)
    cov = joint.cov[b, b] - white.T @ white
    return Regressed(gain, joint.mean[b] - gain @ joint.mean[a], cov, joint.cov[b, b])
