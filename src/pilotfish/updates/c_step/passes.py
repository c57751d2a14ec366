"""The passes of the C-step, in white coordinates: backward for given multipliers, and forward.

**Backward** (maximum-entropy LQR). With multipliers eta_t of the KL and weights tau_t of the entropy the Lagrangian's
cost-to-go is

    Q = L + eta_t diag(0, I) + [A B]' V_{t+1} [A B],        Q_ee^-1 = W W'
    G = -Q_ee^-1 Q_ew,      P = (eta_t + tau_t) Q_ee^-1,      V_t = Q_ww - Q_we Q_ee^-1 Q_ew

This is method.md's surrogate `l / eta - log q` multiplied by eta, in units of the cost: so V needs no rescaling
by eta_{t+1} / eta_t on its way back, which the divided form does where the multipliers differ.

**Forward.** `E ww'` of the next step is `(A + BG) E ww' (A + BG)' + B P B' + F`, and

    KL_t = 1/2 [ tr P - du - log|P| + tr(G'G E ww') ]

What does not depend on the neighbouring step is computed for all steps at once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.algebra import gaussian
from pilotfish.updates.c_step.white import White, WhiteController


class Trial(NamedTuple):
    """What multipliers lead to."""

    log_eta: Float[Array, "T"]
    controller: WhiteController
    kl: Float[Array, "T"]


def first_order(white: White, kl_step: Array | float) -> Float[Array, ""]:
    """About the eta that meets the bound if it is large; 0 only where no action makes a difference.

    Then `KL_t = [ tr((Q_ee - tau I)^2) / 2 + E |Q_ew w|^2 ] / (2 eta^2)`, with Q and the states that of the reference.
    """
    n, du = white.B.shape[-2:]
    _, ww = forward(white, reference(white))

    def step(V, at_t):
        A, B, L, temper, ww = at_t
        Q = cost_to_go(L, V, A, B)
        curvature, slope = Q[n:, n:] - temper * jnp.eye(du), Q[n:, :n]
        return Q[:n, :n], 0.5 * (curvature**2).sum() + jnp.maximum(((slope @ ww) * slope).sum(), 0.0)

    at_t = (white.A, white.B, white.cost, white.temper, ww)
    _, change = jax.lax.scan(step, white.final, at_t, reverse=True)
    return jnp.sqrt(change.mean() / (2.0 * kl_step))


def reference(white: White) -> WhiteController:
    """The reference itself."""
    T, n, du = white.B.shape
    return WhiteController(jnp.zeros((T, du, n)), jnp.broadcast_to(jnp.eye(du), (T, du, du)))


def cost_to_go(
    L: Float[Array, "d d"], V: Float[Array, "n n"], A: Float[Array, "n n"], B: Float[Array, "n du"]
) -> Float[Array, "d d"]:
    """Q of one step, without the multiplier's part."""
    AB = jnp.concatenate([A, B], -1)
    return L + AB.T @ (V @ AB)


def backward(white: White, log_eta: Float[Array, "T"]) -> WhiteController:
    """The minimiser of the Lagrangian; nan from the first step, counted backwards, that is not positive definite."""

    def step(V, at_t):
        A, B, L, eta = at_t
        return minimise(cost_to_go(L, V, A, B), eta, V.shape[-1])

    at_t = (white.A, white.B, white.cost, jnp.exp(log_eta))
    _, factors = jax.lax.scan(step, white.final, at_t, reverse=True)
    return scaled(*factors, log_eta, white.temper)


def minimise(Q: Float[Array, "d d"], eta: Float[Array, ""], n: int) -> tuple[Array, tuple[Array, Array]]:
    """V_t, and (W, W'Q_ew) of one step, for its multiplier."""
    H = Q[n:, n:] + eta * jnp.eye(Q.shape[-1] - n)
    # W, lower triangular, is the inverse transpose of the factor of H with rows and columns in reverse order
    W = gaussian.solve_chol(jnp.linalg.cholesky(H[::-1, ::-1]), jnp.eye(H.shape[-1])).T[::-1, ::-1]
    slope = W.T @ Q[n:, :n]
    return Q[:n, :n] - slope.T @ slope, (W, slope)


def scaled(
    W: Float[Array, "T du du"], slope: Float[Array, "T du n"], log_eta: Float[Array, "T"], temper: Float[Array, "T"]
) -> WhiteController:
    """The controller of all steps from the factors of their Q_ee."""
    log_scale = jnp.logaddexp(log_eta, jnp.log(temper))
    return WhiteController(-W @ slope, jnp.exp(0.5 * log_scale)[:, None, None] * W)


def expected_cost(white: White, p: WhiteController, ww: Float[Array, "T n n"]) -> Float[Array, ""]:
    """Expected cost, less the weighted entropy, under the controller `p` and its states `ww`.

    Up to what no controller changes.
    """
    we = ww @ p.G.mT
    ee = p.G @ we + p.chol @ p.chol.mT
    zz = jnp.concatenate([jnp.concatenate([ww, we], -1), jnp.concatenate([we.mT, ee], -1)], -2)
    AB = jnp.concatenate([white.A[-1], white.B[-1]], -1)
    last = AB @ zz[-1] @ AB.T + white.noise[-1]
    cost = 0.5 * ((white.cost * zz).sum() + (white.final * last).sum())
    return cost - 0.5 * white.temper @ gaussian.log_det(p.chol)


def forward(white: White, p: WhiteController) -> tuple[Float[Array, "T"], Float[Array, "T n n"]]:
    """Each step's KL, and `E ww'`, under the controller `p`."""
    noise = white.B @ p.chol

    def step(ww, at_t):
        closed, noise = at_t
        return closed @ ww @ closed.T + noise, ww

    _, ww = jax.lax.scan(step, white.start, (white.A + white.B @ p.G, noise @ noise.mT + white.noise))
    moved = ((p.G @ ww) * p.G).sum((-2, -1))
    return 0.5 * ((p.chol**2).sum((-2, -1)) - p.chol.shape[-1] - gaussian.log_det(p.chol) + moved), ww
