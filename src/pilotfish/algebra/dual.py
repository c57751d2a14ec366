"""The trust-region duals: the best linear-Gaussian controller within a KL and an entropy bound.

Let the current controller draw `u = Kx + k + R e`, `e ~ N(0, I)`, and let `x = mu + L s`, `s ~ N(0, I)`. In the
white coordinates (s, e) the current controller is N(0, I) and a quadratic cost-to-go reads

    Q = 1/2 e'He + e'(Bs + b) + (terms without e).

The new controller `e ~ N(Gs + g, P)` solves (MOTO, section 3.1, with Q a cost)

    minimise E[Q]   s.t.   E KL(new to current) <= kl_step,   entropy(new) >= entropy(current) - entropy_drop.

Its Lagrangian with multipliers eta (KL) and omega (entropy) is minimised by

    F = (eta I + H)^-1,   G = -F B,   g = -F b,   P = (eta + omega) F                    (MOTO, section 3.2)

With the eigenvalues lam and eigenvectors U of H, c = eta + omega and w_i = E[(U'(Bs + b))_i^2],

    E KL           = 1/2 [ sum( r - 1 - log r ) + sum w / (eta + lam)^2 ],   r = c / (eta + lam)
    entropy change = 1/2 sum log r

so the entropy bound gives c in closed form, `c = max(eta, exp( mean log(eta + lam) - 2 entropy_drop / du ))`,
and the two-dimensional dual of MOTO, Appendix A, is one monotone scalar equation `E KL(eta) = kl_step` on
eta > max(0, -min lam): a secular equation, solved by Newton steps on log KL against log(eta - eta_min), kept
inside a bracket (algebra/root.py). F is positive definite by construction, whatever the sign of H. Where no root
exists, the KL bound is slack and eta = 0.

An objective may itself reward entropy, `minimise E[Q] - temper entropy(new)`: then `c = eta + temper + omega`, and the
least c is eta + temper in place of eta. Nothing else changes.

| symbol | paper      | code                  |
| eps    | MOTO (2)   | kl_step               |
| beta0  | MOTO 3.1   | entropy_drop          |
| F      | MOTO 3.2   | U diag(1/(eta+lam)) U' |
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import gaussian, quadratic, root
from pilotfish.types import Gaussian, LinearGaussian, Quadratic


class Multipliers(NamedTuple):
    """The dual's solution, and the primal quantities that it fixes."""

    eta: Float[Array, "*batch"]
    """Multiplier of the KL bound, in units of the cost; 0 where the bound is slack."""
    omega: Float[Array, "*batch"]
    """Multiplier of the entropy bound; 0 where the bound is slack."""
    kl: Float[Array, "*batch"]
    """Expected KL of the new controller to the current one, nats."""
    entropy_change: Float[Array, "*batch"]
    """Entropy of the new controller minus that of the current one, nats."""


class WhiteStep(NamedTuple):
    """The new controller in the white coordinates of the current one: `e ~ N(G s + g, chol chol')`."""

    G: Float[Array, "du dx"]
    g: Float[Array, "du"]
    chol: Float[Array, "du du"]


def white_step(
    H: Float[Array, "du du"],
    B: Float[Array, "du dx"],
    b: Float[Array, "du"],
    kl_step: Float[Array, ""] | float,
    entropy_drop: Float[Array, ""] | float,
    temper: Float[Array, ""] | float = 0.0,
) -> tuple[WhiteStep, Multipliers]:
    """The constrained minimiser of `1/2 e'He + e'(Bs + b)`, less `temper` times the entropy, for standard normal s and
    current controller.

    `entropy_drop` may be infinite: no entropy bound. `kl_step` must be positive, `entropy_drop` and `temper` (in units
    of the cost) not negative.
    """
    lam, U = jnp.linalg.eigh(H)
    slopes = jnp.concatenate([U.T @ B, (U.T @ b)[:, None]], -1)
    scale = jnp.maximum(jnp.abs(lam).max(), jnp.sqrt(slopes.shape[-1]) * jnp.abs(slopes).max())
    scale = jnp.maximum(scale, temper)
    scale = jnp.where(scale > 0, scale, 1.0)
    lam, slopes, temper = lam / scale, slopes / scale, temper / scale
    v = jnp.sqrt((slopes**2).sum(-1))
    x, eta_min, tight = _secular_root(lam, v, kl_step, entropy_drop, temper)
    a, c = _denominators(x, lam, eta_min, entropy_drop, temper)
    move = -U @ (slopes / a[:, None])
    r = c / a
    # P = U diag(r) U' = chol chol', through a QR factorisation: forming P would square its condition number
    upper = jnp.linalg.qr(jnp.sqrt(r)[:, None] * U.T, mode="r")
    chol = upper.T * jnp.where(jnp.diagonal(upper) < 0, -1.0, 1.0)
    eta = jnp.where(tight, x + eta_min, 0.0)
    multipliers = Multipliers(
        eta=scale * eta,
        omega=scale * jnp.maximum(c - (x + eta_min + temper), 0.0),
        kl=_kl(a, c, v),
        entropy_change=0.5 * jnp.log(r).sum(),
    )
    return WhiteStep(move[:, :-1], move[:, -1], chol), multipliers


def improve(
    controller: LinearGaussian,
    state: Gaussian,
    Q: Quadratic,
    kl_step: Float[Array, ""] | float,
    entropy_drop: Float[Array, ""] | float,
) -> tuple[LinearGaussian, Multipliers]:
    """The controller that minimises a quadratic cost-to-go over z = [x; u] within the two bounds.

    One time step: `controller` has K (du, dx), `state` is the distribution of x, `Q` is over (dx + du,).
    """
    dx = state.mean.shape[-1]
    constant = jnp.diagonal(state.cov) <= 0
    L, R = gaussian.robust_cholesky(state.cov, jnp.where(constant, 1.0, 0.0)), controller.chol
    white = quadratic.compose(
        Q,
        jnp.block([[L, jnp.zeros((dx, R.shape[0]))], [controller.K @ L, R]]),
        jnp.concatenate([state.mean, controller.mean(state.mean)]),
    )
    step, multipliers = white_step(white.H[dx:, dx:], white.H[dx:, :dx], white.h[dx:], kl_step, entropy_drop)
    return unwhiten(step, controller, state.mean, L), multipliers


def unwhiten(
    step: WhiteStep, controller: LinearGaussian, mean: Float[Array, "dx"], chol: Float[Array, "dx dx"]
) -> LinearGaussian:
    """The new controller in the units of state and action: `u = Kx + k + R e`, `s = L^-1 (x - mu)`."""
    R = controller.chol
    gain = R @ gaussian.solve_chol_right(step.G, chol)
    return LinearGaussian(controller.K + gain, controller.k + R @ step.g - gain @ mean, R @ step.chol)


def _denominators(
    x: Float[Array, ""], lam: Float[Array, "du"], eta_min: Float[Array, ""], entropy_drop: Array | float, temper: Array
) -> tuple[Float[Array, "du"], Float[Array, ""]]:
    """`a = eta + lam` and `c = eta + temper + omega` at `eta = eta_min + x`, free of cancellation near eta_min."""
    a = x + (lam + eta_min)
    return a, jnp.maximum(x + eta_min + temper, jnp.exp(jnp.log(a).mean() - 2.0 * entropy_drop / a.shape[0]))


def _kl(a: Float[Array, "du"], c: Float[Array, ""], v: Float[Array, "du"]) -> Float[Array, ""]:
    """E KL, with `w = v^2`: v / a is 0 where nothing pulls, also where `a^2` has underflowed."""
    excess = (c - a) / a
    log_r = jnp.where(excess < -0.5, jnp.log(c / a), jnp.log1p(excess))
    return 0.5 * (excess - log_r + (v / a) ** 2).sum()


def _secular_root(
    lam: Float[Array, "du"],
    v: Float[Array, "du"],
    kl_step: Array | float,
    entropy_drop: Array | float,
    temper: Float[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""], Bool[Array, ""]]:
    """The x = eta - eta_min > 0 at which `E KL = kl_step`, eta_min, and whether such an x exists.

    Newton on log KL against s = log x. At `hi` the KL is below any bound (|lam|, v = sqrt(w), temper <= 1 by scaling);
    at `lo` the multiplier is zero to working precision.
    """
    eta_min = jnp.maximum(-lam.min(), 0.0)

    def residual(s):
        """`log KL - log kl_step`, and its slope in s."""
        x = jnp.exp(s)
        a, c = _denominators(x, lam, eta_min, entropy_drop, temper)
        kl = _kl(a, c, v)
        dc = jnp.where(c > x + eta_min + temper, c * (1.0 / a).mean(), 1.0)
        slope = 0.5 * ((dc - c / a) / a - dc / c + (1.0 - 2.0 * (v / a) ** 2) / a).sum()
        # rounding may leave a KL of nothing below 0
        return jnp.log(jnp.maximum(kl, 0.0)) - jnp.log(kl_step), slope * x / kl

    lo = jnp.asarray(jnp.log(jnp.finfo(lam.dtype).tiny) + 4.0, lam.dtype)
    hi = jnp.log(4.0 + 10.0 * jnp.sqrt(lam.shape[0] / jnp.asarray(kl_step, lam.dtype)))
    tight = residual(lo)[0] > 0
    push = ((lam - temper) ** 2 / 2.0 + v**2).sum()
    guess = 0.5 * jnp.log(push / (2.0 * jnp.asarray(kl_step, lam.dtype)))
    tolerance = 1e4 * float(jnp.finfo(lam.dtype).eps)

    def evaluate(s):
        f, slope = residual(s)
        # a slack bound has no root to look for
        return root.Point(jnp.where(tight, f, 0.0), slope, ())

    first = jnp.where(tight, jnp.clip(guess, lo + 1.0, hi - 1e-3), lo)
    band = root.Band(-tolerance, 0.0, tolerance)
    found = root.search(evaluate, first, (lo, hi), band, 200, enclosed=True, resolution=tolerance * 1e-3)
    return jnp.exp(jnp.where(jnp.abs(found.f) <= tolerance, found.s, root.proposal(found, 0.0))), eta_min, tight
