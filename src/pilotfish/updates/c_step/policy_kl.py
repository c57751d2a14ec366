"""The C-step with a price on the distance of a policy to the controller: GPS'14's dynamic program (its Appendix A).

    minimise  E_p [ sum_t l_t + l_T ] + sum_t lambda_t E_p KL(pi_t to p_t)     s.t. the trust region about q

over linear-Gaussian p, where pi is a linear-Gaussian approximation of the policy. BADMM's KL(p to pi) is quadratic in
z and an entropy (`Objective.tied`); this one is not, for p's covariance divides it. In white coordinates, where the
policy is `e ~ N(G_pi w, S_pi)` and X = E[ww'] is the second moment of the state, the Lagrangian's part in step t is

    1/2 tr(P H) - eta/2 log|P| + lambda/2 [ log|P| + tr(P^-1 M) ],    H = Q_ee + eta I
    M = S_pi + (G - G_pi) X (G - G_pi)'

and is minimised alternately in closed form: over P, with `H^-1 = W W'` as in passes.py, by

    P = W Y W',    Y^2 + (lambda - eta) Y = lambda W^-1 M W^-T

which is the quadratic matrix equation `P H P + (lambda - eta) P = lambda M`; over G, whatever the state, by

    (H + lambda P^-1) (G - G_pi) = -(Q_ew + H G_pi).

In V the policy's term is `lambda (G - G_pi)' P^-1 (G - G_pi)`. G does not depend on where the states are, but P does by
M: so passes backward and forward alternate. Every step of a backward pass lowers the Lagrangian, for V_{t+1} knows what
follows of the new controller and X_t what came before of the old: they are one coordinate descent. Between two passes
eta is found anew, so that every one of them ends at the bound. At lambda = 0 there is nothing to alternate, and p is
that of passes.py; the larger lambda, the nearer it is to pi.

| symbol           | paper                 | code     |
| lambda_t         | lambda_t              | weight   |
| G_pi, S_pi       | mu_xt^pi, Sigma_t^pi  | G, chol  |
| eta              | eta                   | exp(log_eta) |
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pilotfish.algebra import gaussian
from pilotfish.algebra.batch import chosen, finite
from pilotfish.types import LinearGaussian
from pilotfish.updates.c_step import multipliers, passes
from pilotfish.updates.c_step.passes import Trial
from pilotfish.updates.c_step.white import White, WhiteController

SETTLED = 0.01
"""The passes end where log eta, and the KL per its bound, change by less."""
MOST_ROUNDS = 20


class Tie(NamedTuple):
    """The policy in white coordinates, and the price of its distance; leading axis T."""

    G: Float[Array, "T du n"]
    chol: Float[Array, "T du du"]
    weight: Float[Array, "T"]
    """Price of the KL, in units of the cost."""


class _Round(NamedTuple):
    """A controller, where it leads, and how it came about."""

    trial: Trial
    second: Float[Array, "T n n"]
    """E[ww'] of every step."""
    change: Float[Array, ""]
    rounds: Int[Array, ""]
    passes: Int[Array, ""]


def whiten(policy: LinearGaussian, weight: Float[Array, "T"], q: LinearGaussian, mean: Float[Array, "T1 dx"]) -> Tie:
    """The policy, a controller of the deviations x, in the white coordinates of q."""
    offset = policy.mean(mean[:-1]) - q.mean(mean[:-1])
    apart = jnp.concatenate([policy.K - q.K, offset[..., None]], -1)
    return Tie(gaussian.solve_chol(q.chol, apart), gaussian.solve_chol(q.chol, policy.chol), weight)


def pulled(white: White, tie: Tie) -> White:
    """The problem with the policy's term as it is about the reference, to first order in the action."""
    eye = jnp.broadcast_to(jnp.eye(tie.G.shape[1]), tie.chol.shape)
    F = jnp.concatenate([-tie.G, eye], -1)
    return white._replace(cost=white.cost + tie.weight[:, None, None] * F.mT @ F, temper=white.temper + tie.weight)


def search(
    white: White,
    tie: Tie,
    kl_step: Float[Array, ""] | float,
    first: Float[Array, ""],
    centre: Float[Array, ""],
) -> tuple[Trial, Int[Array, ""]]:
    """The best controller whose mean KL is within the bound, from a first log eta near `centre`, and how many backward
    passes that took.
    """

    def unsettled(now: _Round) -> Bool[Array, ""]:
        return (now.change > SETTLED) & (now.rounds < MOST_ROUNDS)

    p = passes.reference(white)
    kl, states = passes.forward(white, p)
    trial, none = Trial(jnp.full(len(white.B), first), p, kl), jnp.asarray(0)
    begun = _Round(trial, _second(states), jnp.full((), jnp.inf, kl.dtype), none, none)
    found = jax.lax.while_loop(unsettled, functools.partial(_again, white, tie, kl_step, centre), begun)
    return found.trial, found.passes


def _again(white: White, tie: Tie, kl_step: Float[Array, ""] | float, centre: Float[Array, ""], now: _Round) -> _Round:
    """The best controller for the second moments of the last one."""
    before = now.trial

    def solve(log_eta: Float[Array, "T"]) -> Trial:
        p = backward(white, tie, before.controller.G, now.second, log_eta)
        return Trial(log_eta, p, passes.forward(white, p)[0])

    near = before.log_eta[0]
    trial, taken = multipliers.common(solve, jnp.zeros_like(before.log_eta), jnp.mean, kl_step, near, centre)
    trial = chosen(finite(trial) | (now.rounds == 0), trial, before)
    change = jnp.maximum(jnp.abs(trial.log_eta[0] - near), jnp.abs(trial.kl.mean() - before.kl.mean()) / kl_step)
    states = passes.forward(white, trial.controller)[1]
    return _Round(trial, _second(states), change, now.rounds + 1, now.passes + taken)


def backward(
    white: White, tie: Tie, G: Float[Array, "T du n"], second: Float[Array, "T n n"], log_eta: Float[Array, "T"]
) -> WhiteController:
    """A better controller than one with the gains G, under whose states `E[ww']` is `second`."""
    n = white.B.shape[1]

    def step(V: Float[Array, "n n"], at_t) -> tuple[Float[Array, "n n"], WhiteController]:
        tie, G, X, eta, temper, *f = at_t
        A, B, L = f
        Q_ew, Q_ee = jnp.split(passes.of_action(L, V, A, B), [n], -1)
        W = passes.inverse_factor(Q_ee + eta * jnp.eye(len(Q_ee)))
        # in the coordinates W^-1 e, where H is the identity
        known = gaussian.solve_chol(W, jnp.concatenate([tie.chol, G - tie.G, tie.G], -1))
        spread, apart, policy = jnp.split(known, [len(W), len(W) + n], -1)
        m, U = jnp.linalg.eigh(spread @ spread.T + apart @ X @ apart.T)
        y = _scale(jnp.maximum(m, 0.0), eta + temper, tie.weight)
        apart = -(y / (y + tie.weight))[:, None] * (U.T @ (W.T @ Q_ew + policy))
        G = tie.G + W @ U @ apart
        V = passes.followed(G, V, (A, B, L), eta) + tie.weight * apart.T @ (apart / y[:, None])
        return V, WhiteController(G, W @ jnp.linalg.cholesky((U * y) @ U.T))

    at_t = (tie, G, second, jnp.exp(log_eta), white.temper, white.A, white.B, white.cost)
    return jax.lax.scan(step, white.final, at_t, reverse=True)[1]


def _scale(m: Float[Array, "du"], eta: Float[Array, ""], weight: Float[Array, ""]) -> Float[Array, "du"]:
    """The positive root y of `y^2 + (weight - eta) y = weight m`, without cancellation."""
    b = 0.5 * (weight - eta)
    root = jnp.sqrt(b**2 + weight * m)
    return jnp.where(b > 0, weight * m / (b + root), root - b)


def _second(states: passes.States) -> Float[Array, "T n n"]:
    return states.cov + states.mean[..., :, None] * states.mean[..., None, :]
