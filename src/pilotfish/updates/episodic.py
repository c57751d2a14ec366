"""How a distribution of parameters improves by the costs of episodes: REPS and MORE.

Everything is in the white coordinates e of the distribution from which the parameters were drawn, w = mean + R e: there
it is N(0, I), whatever the units of w.

REPS (Peters, Muelling & Altun 2010; episodic and contextual: Kupcsik, Deisenroth, Peters & Neumann 2013) weighs the
episodes, of which i costs c_i, and has the share p_i before. It solves

    minimise sum_i d_i c_i   s.t.   KL(d to p) <= kl_step,   sum_i d_i phi_i = sum_i p_i phi_i

where phi are features of the context: the contexts cannot be chosen, so weights must not prefer those that are cheap.
With multipliers eta and theta, d_i ~ p_i exp( -(c_i + theta'phi_i) / eta ), and they minimise the convex dual

    g(eta, theta) = eta kl_step + theta'E_p[phi] + eta log sum_i p_i exp( -(c_i + theta'phi_i) / eta )

For a fixed eta, theta / eta minimises a log-sum-exp (Newton steps); what remains is one monotone equation in eta, whose
slope is known: dKL / d(log eta) = -r / eta^2, r the variance of what phi does not explain of c, under d (algebra/root).

The new distribution is the one under which the weighted parameters are most likely. Where they are as few as its
entries that would be singular, so the old covariance counts as a few samples beside them.

MORE (Abdolmaleki, Lioutikov, Peters, Lau, Reis & Neumann 2015) fits a quadratic function to the costs, and takes the
best Gaussian within a KL and an entropy bound: MOTO's step with no state (algebra/dual).

| symbol      | paper             | code                       |
| epsilon     | Kupcsik (5), MORE | kl_step                    |
| phi, theta  | Kupcsik, 3.1      | context features, multiplier |
| R, r        | MORE, 3           | -Quadratic.H, -Quadratic.h |
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import dual, gaussian, regression, root
from pilotfish.algebra.dual import Multipliers
from pilotfish.types import LinearGaussian, Quadratic, Rollouts

NEWTON_STEPS, HALVINGS = 50, 30
"""At most; Newton's method on a log-sum-exp of whitened features takes about five steps, mostly whole ones."""
MATCHED = 1e-10
"""How well features are matched, in their standard deviations."""
SAME = 1e-10
"""Part of the features' variance below which a direction of theirs is a combination of others."""


def comparable(cost: Float[Array, "M"], valid: Bool[Array, "M"]) -> tuple[Float[Array, "M"], Bool[Array, ""]]:
    """Equal shares of the whole rollouts, and whether these differ in cost by more than rounding."""
    share = valid / jnp.maximum(valid.sum(), 1)
    return share, regression.standard(cost[:, None], share)[1][0] > 0


def obstacle(rollouts: Rollouts) -> str:
    """Why no episode is better than another, in words for the user."""
    if (whole := int(rollouts.valid.sum())) > 1:
        return (
            f"{whole} rollouts are whole, and those of a condition all cost the same. Check that the cost depends on "
            "the actions, or raise the rollouts of an iteration."
        )
    return "all rollouts but one broke off. Begin with a smaller spread of the actions."


class Weighted(NamedTuple):
    """How much each episode counts."""

    share: Float[Array, "M"]
    """Sums to 1."""
    eta: Float[Array, ""]
    """Multiplier of the KL bound, in units of the cost; next to 0 where the bound is slack, as all weight is on the
    cheapest."""
    theta: Float[Array, "features"]
    """Multipliers of the features, in units of the cost."""
    kl: Float[Array, ""]
    """KL of the new shares to the old, nats."""


def shares(
    cost: Float[Array, "M"],
    before: Float[Array, "M"],
    kl_step: Float[Array, ""] | float,
    phi: Float[Array, "M features"] | None = None,
) -> Weighted:
    """REPS' weights. `before` sums to 1, and is 0 for episodes that do not count; `phi` are white features of their
    contexts (`matched`).
    """
    counts = before > 0
    c = jnp.where(counts, cost - jnp.where(counts, cost, jnp.inf).min(), 0.0)
    scale = jnp.where(c.max() > 0, c.max(), 1.0)
    c, log_before = c / scale, jnp.log(before)
    phi = jnp.zeros((len(c), 0), c.dtype) if phi is None else phi
    explained = phi.T @ (before * c)

    def at(s: Float[Array, ""]) -> tuple[Float[Array, "M"], Float[Array, "features"]]:
        """Shares and theta / eta for eta = exp(s)."""
        free = log_before - c * jnp.exp(-s)
        theta = _matching(free, phi, -explained * jnp.exp(-s)) if phi.shape[1] else jnp.zeros(0, c.dtype)
        return jax.nn.softmax(free - phi @ theta), theta

    def divergence(d: Float[Array, "M"]) -> Float[Array, ""]:
        return jnp.where(d > 0, d * (jnp.log(d) - log_before), 0.0).sum()

    def evaluate(s: Float[Array, ""]) -> root.Point:
        d, _ = at(s)
        kl, left = jnp.maximum(divergence(d), 0.0), _residual_variance(c, phi, d)
        return root.Point(jnp.log(kl) - jnp.log(kl_step), -left * jnp.exp(-2.0 * s) / kl, ())

    tolerance = 1e4 * float(jnp.finfo(c.dtype).eps)
    variance = _residual_variance(c, phi, before)
    guess = 0.5 * jnp.log(variance / (2.0 * jnp.asarray(kl_step, c.dtype)))
    least = jnp.sqrt(jnp.finfo(c.dtype).eps) if phi.shape[1] else jnp.exp(4.0) * jnp.finfo(c.dtype).tiny
    lo = jnp.log(jnp.asarray(least, c.dtype))
    # costs are at most 1: beyond this eta the KL is below any bound
    hi = jnp.maximum(2.0 - 0.5 * jnp.log(jnp.asarray(kl_step, c.dtype)), 1.0)
    tight = evaluate(lo).f > 0
    first = jnp.where(tight, jnp.clip(jnp.nan_to_num(guess), lo + 1.0, hi - 1e-3), lo)
    band = root.Band(-tolerance, -0.5 * tolerance, 0.0)

    def bounded(s: Float[Array, ""]) -> root.Point:
        # a slack bound has no root to look for
        return jax.tree.map(lambda leaf: jnp.where(tight, leaf, 0.0), evaluate(s))

    found = root.search(bounded, first, (lo, hi), band, 100, enclosed=True, resolution=tolerance * 1e-3)
    s = jnp.where(tight, jnp.where(found.f <= 0.0, found.s, found.high), lo)
    d, theta = at(s)
    eta = jnp.exp(s) * scale
    return Weighted(d, eta, theta * eta, jnp.maximum(divergence(d), 0.0))


def matched(s: Float[Array, "M ds"], share: Float[Array, "M"]) -> Float[Array, "M features"]:
    """Features of white contexts s that REPS matches: they and their squares, white under the shares.

    Combinations of others are zeros, as is what does not vary.
    """
    raw = jnp.concatenate([s, s**2], -1)
    raw = raw - share @ raw
    std = jnp.sqrt(share @ raw**2)
    raw = raw / jnp.where(std > SAME, std, jnp.inf)
    variance, axes = jnp.linalg.eigh((raw * share[:, None]).T @ raw)
    return raw @ axes / jnp.where(variance > SAME * variance[-1], jnp.sqrt(variance), jnp.inf)


def weighted_fit(
    e: Float[Array, "M n"], share: Float[Array, "M"], prior: Float[Array, ""] | float
) -> tuple[Float[Array, "n"], Float[Array, "n n"]]:
    """Mean and Cholesky factor of the most likely distribution of weighted white parameters, N(0, I) having drawn them.

    The old covariance counts as `prior` samples. Without weights the covariance stays I on average, however few the
    samples.
    """
    ess = 1.0 / (share**2).sum()
    mean = share @ e
    left = e - mean
    return mean, jnp.linalg.cholesky(_covariance(left, share, ess, 1.0, prior))


def weighted_regression(
    e: Float[Array, "M n"],
    s: Float[Array, "M ds"],
    share: Float[Array, "M"],
    prior: Float[Array, ""] | float,
) -> LinearGaussian:
    """The same for `e ~ N(K s + k, .)` given white contexts s. The gain 0 counts as one sample, as there may be fewer
    samples than entries of a context.
    """
    ess = 1.0 / (share**2).sum()
    centre, mean = share @ s, share @ e
    s, e = s - centre, e - mean
    moment = ess * (s * share[:, None]).T @ s
    chol = jnp.linalg.cholesky(moment + jnp.eye(len(moment)))
    gain = ess * jax.scipy.linalg.cho_solve((chol, True), (s * share[:, None]).T @ e).T
    used = 1.0 + jnp.trace(jax.scipy.linalg.cho_solve((chol, True), moment))
    cov = _covariance(e - s @ gain.T, share, ess, used, prior)
    return LinearGaussian(gain, mean - gain @ centre, jnp.linalg.cholesky(cov))


def surrogate(
    e: Float[Array, "m n"], cost: Float[Array, "m"], weight: Float[Array, "m"], ridge: Float[Array, ""] | float
) -> tuple[Quadratic, Float[Array, ""]]:
    """The quadratic function of white parameters that fits costs best, less their mean; and the part of the costs'
    variance that it leaves.

    Under N(0, I) its features are orthonormal (algebra/regression): a ridge means the same whatever the units.
    """
    share = weight / weight.sum()
    y = jnp.where(share > 0, cost, 0.0)
    y = y - y[jnp.argmax(share)]
    y = jnp.where(share > 0, y - share @ y, 0.0)
    size = jnp.abs(y).max()
    unit = jnp.where(size > 0, size, 1.0)
    chol = regression.factor(regression.normal(e, share), ridge)
    Q = regression.as_quadratic(regression.solve(chol, regression.project(e, share * y / unit)), e.shape[1])
    left = share @ (y / unit - Q(e)) ** 2 / jnp.where(size > 0, share @ (y / unit) ** 2, 1.0)
    return Quadratic(unit * Q.H, unit * Q.h, unit * Q.c), left


def surrogate_step(
    model: Quadratic, kl_step: Float[Array, ""] | float, entropy_drop: Float[Array, ""] | float
) -> tuple[Float[Array, "n"], Float[Array, "n n"], Multipliers]:
    """Mean and Cholesky factor of the white parameters that minimise the expected cost within both bounds."""
    nothing = jnp.zeros((len(model.h), 0), model.h.dtype)
    step, multipliers = dual.white_step(model.H, nothing, model.h, kl_step, entropy_drop)
    return step.g, step.chol, multipliers


def white_kl(mean: Float[Array, "*m n"], chol: Float[Array, "n n"]) -> Float[Array, "*m"]:
    """KL to N(0, I)."""
    return 0.5 * ((chol**2).sum() - len(chol) + (mean**2).sum(-1) - gaussian.log_det(chol))


def _covariance(left: Array, share: Array, ess: Array, used: Array | float, prior: Array | float) -> Array:
    """Covariance of residuals, of which a fit has `used` so many degrees of freedom, beside I as `prior` samples."""
    cov = (left * share[:, None]).T @ left
    return (ess * cov + prior * jnp.eye(len(cov))) / (jnp.maximum(ess - used, 0.0) + prior)


def _residual_variance(c: Float[Array, "M"], phi: Float[Array, "M features"], d: Float[Array, "M"]) -> Array:
    """Variance of c, under the shares d, that is not linear in phi."""
    c = c - d @ c
    if not phi.shape[1]:
        return d @ c**2
    phi = phi - d @ phi
    return d @ (c - phi @ jnp.linalg.solve(_regular((phi * d[:, None]).T @ phi), phi.T @ (d * c))) ** 2


def _matching(
    free: Float[Array, "M"], phi: Float[Array, "M features"], first: Float[Array, "features"]
) -> Float[Array, "features"]:
    """The theta that minimises `log sum exp(free - phi theta)`: the mean of phi is then 0."""
    lengths = 0.5 ** jnp.arange(HALVINGS)

    def value(theta: Array) -> Array:
        return jax.nn.logsumexp(free - phi @ theta)

    def on(carry: tuple[Array, Array, Array]) -> Array:
        _, off, i = carry
        return (off > MATCHED) & (i < NEWTON_STEPS)

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        theta, _, i = carry
        d = jax.nn.softmax(free - phi @ theta)
        mean = d @ phi
        direction = jnp.linalg.solve(_regular(((phi - mean) * d[:, None]).T @ (phi - mean)), mean)
        tried = theta + lengths[:, None] * direction
        theta = tried[jnp.argmin(jnp.nan_to_num(jax.vmap(value)(tried), nan=jnp.inf))]
        return theta, jnp.abs(jax.nn.softmax(free - phi @ theta) @ phi).max(), i + 1

    return jax.lax.while_loop(on, step, (first, jnp.asarray(jnp.inf, free.dtype), jnp.asarray(0)))[0]


def _regular(cov: Float[Array, "p p"]) -> Float[Array, "p p"]:
    """A covariance of white features with no direction of variance 0."""
    return cov + jnp.finfo(cov.dtype).eps * jnp.eye(len(cov))
