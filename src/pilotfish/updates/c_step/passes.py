"""The passes of the C-step, in white coordinates: backward for given multipliers, and forward.

**Backward** (maximum-entropy LQR). With multipliers eta_t of the KL and weights tau_t of the entropy the Lagrangian's
cost-to-go is

    Q = L + eta_t diag(0, I) + [A B]' V_{t+1} [A B],        Q_ee^-1 = W W'
    G = -Q_ee^-1 Q_ew,      P = (eta_t + tau_t) Q_ee^-1,      V_t = [I; G]' (L + eta_t diag(0, I)) [I; G] + C'V_{t+1}C

with C = A + BG. That V_t is Q_ww - Q_we Q_ee^-1 Q_ew as a sum: a difference would lose its positive part to rounding
where the reference is unstable.

This is method.md's surrogate `l / eta - log q` multiplied by eta, in units of the cost: so V needs no rescaling
by eta_{t+1} / eta_t on its way back, which the divided form does where the multipliers differ.

**Forward.** With C = A + BG the next w has the mean `C w` and the covariance `C S C' + B P B' + F`, and

    KL_t = 1/2 [ tr P - du - log|P| + |G w|^2 + tr(G S G') ]

Mean and covariance stay apart: where the reference is unstable they differ by many orders of magnitude.

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


class States(NamedTuple):
    """Where w is at all steps."""

    mean: Float[Array, "*T n"]
    cov: Float[Array, "*T n n"]

    def square(self, G: Float[Array, "*T m n"]) -> Float[Array, "*T"]:
        """`E |Gw|^2`."""
        return (jnp.einsum("...ij,...j->...i", G, self.mean) ** 2).sum(-1) + ((G @ self.cov) * G).sum((-2, -1))


def first_order(white: White, kl_step: Array | float) -> Float[Array, ""]:
    """About the eta that meets the bound if it is large; 0 only where no action makes a difference.

    Then `KL_t = [ tr((Q_ee - tau I)^2) / 2 + E |Q_ew w|^2 ] / (2 eta^2)`, with Q and the states that of the reference.
    """
    n, du = white.B.shape[-2:]
    _, states = forward(white, reference(white))

    def step(V, at_t):
        A, B, L, temper, states = at_t
        slope, Q_ee = jnp.split(of_action(L, V, A, B), [n], -1)
        curvature = Q_ee - temper * jnp.eye(du)
        return L[:n, :n] + A.T @ V @ A, 0.5 * (curvature**2).sum() + jnp.maximum(states.square(slope), 0.0)

    at_t = (white.A, white.B, white.cost, white.temper, states)
    _, change = jax.lax.scan(step, white.final, at_t, reverse=True)
    return jnp.sqrt(change.mean() / (2.0 * kl_step))


def reference(white: White) -> WhiteController:
    """The reference itself."""
    T, n, du = white.B.shape
    return WhiteController(jnp.zeros((T, du, n)), jnp.broadcast_to(jnp.eye(du), (T, du, du)))


def of_action(
    L: Float[Array, "d d"], V: Float[Array, "n n"], A: Float[Array, "n n"], B: Float[Array, "n du"]
) -> Float[Array, "du d"]:
    """[Q_ew, Q_ee] of one step, without the multiplier's part: what of Q is needed, as V_t is not made of Q_ww."""
    return L[len(V) :] + (V @ B).T @ jnp.concatenate([A, B], -1)


def backward(white: White, log_eta: Float[Array, "T"]) -> WhiteController:
    """The minimiser of the Lagrangian; nan from the first step, counted backwards, that is not positive definite."""

    def step(V, at_t):
        A, B, L, eta = at_t
        return minimise(of_action(L, V, A, B), V, (A, B, L), eta)

    at_t = (white.A, white.B, white.cost, jnp.exp(log_eta))
    _, factors = jax.lax.scan(step, white.final, at_t, reverse=True)
    return scaled(*factors, log_eta, white.temper)


def minimise(
    Q: Float[Array, "du d"], V: Float[Array, "n n"], step: tuple[Array, Array, Array], eta: Float[Array, ""]
) -> tuple[Array, tuple[Array, Array]]:
    """V_t, and (W, W'Q_ew) of one step, for its multiplier, from [Q_ew, Q_ee], V_{t+1} and the step's (A, B, L)."""
    Q_ew, Q_ee = jnp.split(Q, [len(V)], -1)
    W = inverse_factor(Q_ee + eta * jnp.eye(len(Q)))
    slope = W.T @ Q_ew
    return followed(-W @ slope, V, step, eta), (W, slope)


def inverse_factor(H: Float[Array, "du du"]) -> Float[Array, "du du"]:
    """W, lower triangular, with `H^-1 = W W'`: the inverse transpose of the factor of H with rows and columns in
    reverse order. nan where H is not positive definite.
    """
    return gaussian.solve_chol(jnp.linalg.cholesky(H[::-1, ::-1]), jnp.eye(H.shape[-1])).T[::-1, ::-1]


def followed(
    G: Float[Array, "du n"], V: Float[Array, "n n"], step: tuple[Array, Array, Array], eta: Float[Array, ""]
) -> Float[Array, "n n"]:
    """V_t under the gains G, from V_{t+1} and the step's (A, B, L)."""
    (A, B, L), n = step, len(V)
    ahead = A + B @ G
    before = L[:n, :n] + L[:n, n:] @ G + G.T @ (L[n:, :n] + L[n:, n:] @ G + eta * G) + ahead.T @ (V @ ahead)
    return 0.5 * (before + before.T)


def trial(white: White, log_eta: Float[Array, "T"]) -> Trial:
    """The minimiser of the Lagrangian, and where it leads."""
    p = backward(white, log_eta)
    return Trial(log_eta, p, forward(white, p)[0])


def scaled(
    W: Float[Array, "T du du"], slope: Float[Array, "T du n"], log_eta: Float[Array, "T"], temper: Float[Array, "T"]
) -> WhiteController:
    """The controller of all steps from the factors of their Q_ee."""
    log_scale = jnp.logaddexp(log_eta, jnp.log(temper))
    return WhiteController(-W @ slope, jnp.exp(0.5 * log_scale)[:, None, None] * W)


def expected_cost(white: White, p: WhiteController, states: States) -> Float[Array, ""]:
    """Expected cost, less the weighted entropy, under the controller `p` and its states.

    Up to what no controller changes.
    """
    mean = jnp.concatenate([states.mean, jnp.einsum("tij,tj->ti", p.G, states.mean)], -1)
    we = states.cov @ p.G.mT
    ee = p.G @ we + p.chol @ p.chol.mT
    cov = jnp.concatenate([jnp.concatenate([states.cov, we], -1), jnp.concatenate([we.mT, ee], -1)], -2)
    AB = jnp.concatenate([white.A[-1], white.B[-1]], -1)
    last, spread = AB @ mean[-1], AB @ cov[-1] @ AB.T + white.noise[-1]
    steps = jnp.einsum("ti,tij,tj->", mean, white.cost, mean) + (white.cost * cov).sum()
    cost = 0.5 * (steps + last @ white.final @ last + (white.final * spread).sum())
    return cost - 0.5 * white.temper @ gaussian.log_det(p.chol)


def forward(white: White, p: WhiteController) -> tuple[Float[Array, "T"], States]:
    """Each step's KL, and the states, under the controller `p`."""
    noise = white.B @ p.chol
    begin = States(jnp.zeros_like(white.start[0]).at[-1].set(1.0), white.start)

    def step(w: States, at_t):
        closed, noise = at_t
        return States(closed @ w.mean, closed @ w.cov @ closed.T + noise), w

    _, states = jax.lax.scan(step, begin, (white.A + white.B @ p.G, noise @ noise.mT + white.noise))
    spent = (p.chol**2).sum((-2, -1)) - p.chol.shape[-1] - gaussian.log_det(p.chol)
    return 0.5 * (spent + states.square(p.G)), states
