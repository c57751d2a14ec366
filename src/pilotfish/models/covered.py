"""What a policy is to a controller, by samples of where the controller goes: CGPS' policy terms (its supplement, B).

The price of GPS'14 and CGPS is on `E_p KL(pi to p)` of every step t. With states `x ~ N(m, S)`, S = LL', of M samples
s_i that are drawn once and for all,

    T(m, S) = 1/M sum_i KL( pi(x_i) to p(x_i) ),    x_i = m + L s_i,

is smooth in the controller and in m and S alike, of which a linear function of the policy knows nothing. The samples
are pairs s and -s (ours): what is even in s, as a bend of the policy is, then changes no gradient in S, as under the
normal distribution itself. With 40 independent samples it did change them.

So that a linear-quadratic program finds where these gradients vanish, it is given

    a linear policy   the regression of pi on the samples: its gradients in gain, offset and covariance of p are those
                      of T, exactly, for the s_i have mean 0 and covariance I. Where the states hardly vary in some
                      direction (`THIN`) a regression says nothing of it, and the mean derivative of pi counts (ours)
    a quadratic       in x, with what the gradients of T in m and S are more than the linear policy's

The gradient in S goes through its Cholesky factor (Giles 2008): with E = dS in the coordinates s and g_i that of the
i-th KL in x_i,

    dL = L Phi(E),    dT/dE = sym Phi( L' 1/M sum g_i s_i' ),    Phi: the lower triangle with half the diagonal

It need not be positive semi-definite as the linear policy's is, and would then reward states that spread: it counts as
far between the two as it is (the paper).
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.algebra import chain, gaussian
from pilotfish.algebra.batch import chosen
from pilotfish.models.local import LocalModel
from pilotfish.policies.gaussian import GaussianPolicy
from pilotfish.types import Gaussian, Key, LinearGaussian, Problem, Quadratic, Rollouts

THIN = 0.04
"""Where the variance of the states along a direction, each in its own standard deviations, is less, no regression is
believed: its gains there made the swimmer's controllers diverge, after 20 to 30 iterations."""
HALVINGS = 20
"""Of the interval in which the share of the gradient is that counts."""


def enough(points: int, dx: int) -> int:
    """Number of pairs of samples: half of the points, or as many as the states have entries, for fewer have no
    covariance.
    """
    return max(-(-points // 2), dx)


def samples(key: Key, pairs: int, T: int, dx: int) -> Float[Array, "M T dx"]:
    """Normal samples for every step, in pairs s and -s, stretched to covariance I."""
    s = jax.random.normal(key, (T, pairs, dx))
    s = jnp.concatenate([s, -s], 1)
    chol = jnp.linalg.cholesky(s.mT @ s / (2 * pairs))
    return gaussian.solve_chol(chol, s.mT).mT.swapaxes(0, 1)


def marginals(model: LocalModel, p: LinearGaussian) -> tuple[Float[Array, "T dx"], Float[Array, "T dx dx"]]:
    """Means and Cholesky factors of the states under the controller, in the model, in deviations; the row of what does
    not vary is 0.
    """
    x = chain.states(model.start, model.dynamics, p)
    return x.mean, gaussian.robust_cholesky(x.cov)


def visits(problem: Problem, model: LocalModel, p: LinearGaussian, s: Float[Array, "M T dx"]) -> Rollouts:
    """The samples of where the controller of one condition goes, as rollouts of its mean actions."""
    m, L = marginals(model, p)
    dx = m + jnp.einsum("tij,mtj->mti", L, s)
    x = model.nominal.x + jnp.pad(dx, ((0, 0), (0, 1), (0, 0)))
    u = model.nominal.u + jax.vmap(p.mean)(dx)
    M, T = u.shape[:2]
    return Rollouts(x, jax.vmap(jax.vmap(problem.observe))(x), u, jnp.zeros((M, T + 1)), jnp.full(M, T), None)


def term(
    problem: Problem, policy: GaussianPolicy, model: LocalModel, p: LinearGaussian, s: Float[Array, "M T dx"]
) -> tuple[LinearGaussian, Quadratic]:
    """The linear policy, and the quadratic of the states that corrects it, for one condition's controller p; leading
    axis T, all in deviations from the model's nominal trajectory, and per unit of the price.
    """
    m, L = marginals(model, p)
    step = functools.partial(_step, problem, policy)
    t = jnp.arange(len(m))
    return jax.vmap(step, (0, 0, 0, 0, 1, 0, 0))(t, m, L, p, s, model.nominal.x[:-1], model.nominal.u)


def _step(
    problem: Problem,
    policy: GaussianPolicy,
    t: Array,
    m: Float[Array, "dx"],
    L: Float[Array, "dx dx"],
    p: LinearGaussian,
    s: Float[Array, "M dx"],
    x: Float[Array, "dx"],
    u: Float[Array, "du"],
) -> tuple[LinearGaussian, Quadratic]:
    """Of one step, whose nominal state and action are x and u."""

    def acts(dx: Float[Array, "dx"]) -> Gaussian:
        state = x + dx
        o = problem.observe(state)
        factor = policy.chol(t, state, o)
        return Gaussian(policy.mean(t, state, o) - u, factor @ factor.T)

    def kl(dx: Float[Array, "dx"]) -> Float[Array, ""]:
        pi = acts(dx)
        off = gaussian.solve_chol(p.chol, (pi.mean - p.mean(dx))[:, None])
        wide = gaussian.solve_chol(p.chol, jnp.linalg.cholesky(pi.cov))
        return 0.5 * ((off**2).sum() + (wide**2).sum() - gaussian.log_det(wide))

    varies = jnp.diagonal(L) > 0
    at, s, back = m + s @ L.T, jnp.where(varies, s, 0.0), L + jnp.diag(jnp.where(varies, 0.0, 1.0))
    derivative = jax.vmap(jax.jacfwd(lambda dx: acts(dx).mean))(at).mean(0)
    linear = _regressed(jax.vmap(acts)(at), derivative, m, L, s)
    g = jax.vmap(jax.grad(kl))(at)
    whole = _of_covariance(L.T @ (g.T @ s) / len(s))
    D = gaussian.solve_chol(p.chol, linear.K - p.K)
    own = L.T @ D.T @ D @ L
    counted = _share(own, whole) * (whole - own)
    H = gaussian.solve_chol_right(gaussian.solve_chol_right(counted, back).T, back)
    H = 0.5 * (H + H.T)
    of_mean = D.T @ gaussian.solve_chol(p.chol, (linear.mean(m) - p.mean(m))[:, None])[:, 0]
    return linear, Quadratic(H, g.mean(0) - of_mean - H @ m, jnp.zeros(()))


def _regressed(
    pi: Gaussian,
    derivative: Float[Array, "du dx"],
    m: Float[Array, "dx"],
    L: Float[Array, "dx dx"],
    s: Float[Array, "M dx"],
) -> LinearGaussian:
    """The linear-Gaussian policy that has the actions' moments with the states; what does not vary has no gain."""
    mean = pi.mean.mean(0)
    white = (pi.mean - mean).T @ s / len(s)
    off = pi.mean - mean - s @ white.T
    std = jnp.sqrt((L**2).sum(1))
    unit = jnp.where(std > 0, std, jnp.inf)[:, None]
    alike = L / unit
    variance, axes = jnp.linalg.eigh(alike @ alike.T)
    along = (white - derivative @ L) @ alike.T @ axes / jnp.where(variance > THIN, variance, jnp.inf)
    K = jnp.where(std > 0, derivative, 0.0) + along @ (axes / unit).T
    cov = pi.cov.mean(0) + off.T @ off / len(s)
    return LinearGaussian(K, mean - K @ m, gaussian.robust_cholesky(cov))


def _of_covariance(H: Float[Array, "dx dx"]) -> Float[Array, "dx dx"]:
    """Twice dT/dE, from `L'dT/dL`: the curvature that a quadratic of the state would have for it."""
    lower = jnp.tril(H) - 0.5 * jnp.diag(jnp.diagonal(H))
    return lower + lower.T


def _share(own: Float[Array, "dx dx"], whole: Float[Array, "dx dx"]) -> Float[Array, ""]:
    """The largest part of the way from `own`, which is positive semi-definite, to `whole` that is so too."""
    floor = -1e-9 * jnp.abs(whole).max()

    def fits(part: Array) -> Array:
        curvatures, _ = jnp.linalg.eigh(own + part * (whole - own))
        return curvatures[0] >= floor

    def halve(_, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        inside = fits(middle)
        return jnp.where(inside, middle, low), jnp.where(inside, high, middle)

    one = jnp.ones(())
    low, _ = jax.lax.fori_loop(0, HALVINGS, halve, (jnp.zeros(()), one))
    return chosen(fits(one), one, low)
