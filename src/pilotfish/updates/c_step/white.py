"""White coordinates of the C-step: the reference is `e ~ N(0, I)`, its mean trajectory y = 0.

With `u = Kq x + kq + R e`, `Cq = R R'`, and `x = m_t + y`, m the mean trajectory of q, appending a 1 to the state,
w = [y; 1], makes everything linear:

    dynamics   w' = A w + B e + noise,   A = [A + B Kq, 0; 0, 1],   B = [B R; 0]      (on the right, the model's)
    costs      1/2 [w; e]' L [w; e]
    p          e ~ N(G w, P)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.types import Gaussian, LinearDynamics, LinearGaussian, Quadratic


class White(NamedTuple):
    """The problem in the coordinates w = [y; 1] and e; n = dx + 1, leading axis T but for the ends."""

    A: Float[Array, "T n n"]
    B: Float[Array, "T n du"]
    noise: Float[Array, "T n n"]
    cost: Float[Array, "T n+du n+du"]
    final: Float[Array, "n n"]
    start: Float[Array, "n n"]
    """Covariance of the first w; its mean is y = 0."""
    temper: Float[Array, "T"]
    """Weight of each step's entropy."""


class WhiteController(NamedTuple):
    """`e ~ N(G w, chol chol')` at all steps."""

    G: Float[Array, "T du n"]
    chol: Float[Array, "T du du"]


def mean_states(start: Gaussian, dynamics: LinearDynamics, q: LinearGaussian) -> Float[Array, "T1 dx"]:
    """The mean trajectory of the reference in the model."""

    def step(m, at_t):
        f, p = at_t
        return f.A @ m + f.B @ p.mean(m) + f.c, m

    last, before = jax.lax.scan(step, start.mean, (dynamics, q))
    return jnp.concatenate([before, last[None]])


def whiten(
    start: Gaussian,
    f: LinearDynamics,
    cost: Quadratic,
    final: Quadratic,
    q: LinearGaussian,
    mean: Float[Array, "T1 dx"],
    temper: Float[Array, "T"],
) -> White:
    """The problem in terms of `x = mean + y`, `u = Kq x + kq + R e`."""
    dx, n = mean.shape[1], mean.shape[1] + 1
    w, e = slice(None, n), slice(n, None)

    def at_t(l: Quadratic, p: LinearGaussian, m: Float[Array, "dx"]) -> Float[Array, "d d"]:
        over_w = _shifted(l, jnp.concatenate([m, jnp.zeros(len(p.k))]), dx)
        K = jnp.concatenate([p.K, p.mean(m)[:, None]], -1)
        # the products with [I, 0; K, R], in blocks
        uw = over_w[e, w] + over_w[e, e] @ K
        ww, ew = over_w[w, w] + K.T @ uw + over_w[w, e] @ K, p.chol.T @ uw
        return jnp.block([[ww, ew.T], [ew, p.chol.T @ over_w[e, e] @ p.chol]])

    one = jnp.zeros((n, n)).at[dx, dx].set(1.0)
    return White(
        A=_padded(f.A + f.B @ q.K, n, n) + one,
        B=_padded(f.B @ q.chol, n, q.chol.shape[-1]),
        noise=_padded(f.cov, n, n),
        cost=jax.vmap(at_t)(cost, q, mean[:-1]),
        final=_shifted(final, mean[-1], dx),
        start=_padded(start.cov, n, n),
        temper=temper,
    )


def _shifted(l: Quadratic, by: Float[Array, "d"], dx: int) -> Float[Array, "d+1 d+1"]:
    """The matrix of the quadratic `z -> l(by + z)` over z with a 1 after its first `dx` entries; its constant is 0."""
    h = l.H @ by + l.h
    H = jnp.insert(l.H, dx, h, axis=0)
    return jnp.insert(H, dx, jnp.insert(h, dx, 0.0), axis=1)


def _padded(a: Float[Array, "*T i j"], rows: int, columns: int) -> Float[Array, "*T rows columns"]:
    return jnp.pad(a, [(0, 0)] * (a.ndim - 2) + [(0, rows - a.shape[-2]), (0, columns - a.shape[-1])])


def unwhiten(p: WhiteController, q: LinearGaussian, mean: Float[Array, "T1 dx"]) -> LinearGaussian:
    """The controller in the units of state and action."""
    gain, offset = jnp.split(q.chol @ p.G, [mean.shape[1]], -1)
    k = q.k + offset[..., 0] - jnp.einsum("tij,tj->ti", gain, mean[:-1])
    return LinearGaussian(q.K + gain, k, q.chol @ p.chol)
