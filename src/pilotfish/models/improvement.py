"""What an update promises and what it guarantees: the monotonic-improvement bound of MOTO, section 5, for a cost.

In the white coordinates (s, e) of one step (models/occupancy.py) the state is s ~ N(0, I), the current controller q
draws e ~ N(0, I) and the new one, p, draws e ~ N(Gs + g, P). With Q = 1/2 e'He + e'(Bs + b) + (terms without e) the
new controller is expected to cost more than the current one, in the state s, by

    a(s) = E_{e~p} Q - E_{e~q} Q = 1/2 m'Hm + m'(Bs + b) + 1/2 tr( H (P - I) ),    m = Gs + g.

Summed over time under the *new* states p(s) this is exactly the change of the expected cost of an episode (Lemma 1).
Under the current ones it is what the update minimises, and the states' total variation bounds the rest (Lemma 2):

    J(p) - J(q)  =  sum_t E_p a_t  =  sum_t [ E_q a_t + integral of (p - q) a_t ]
                <=  sum_t E_q a_t  +  2 sum_t delta_t min( 1, sqrt(d_t / 2) )                            (Theorem 4)

with delta_t = max_s |a_t(s)|, d_t = KL(p to q) of the states of step t, and Pinsker's inequality, which says nothing
beyond d_t = 2: a total variation is at most 1.

The first states are the same, d_0 = 0, and d_{t+1} <= d_t + E_p KL_t (9), where KL_t(s) is that of the controllers in
one state. What is known of it is its expectation under the current states, eps_t = E_q KL_t = C + 1/2 |g|^2 + 1/2 |G|^2
(Frobenius), where C >= 0 is what the covariances contribute. So C <= eps_t, |g|^2 <= 2 eps_t and |G|^2 <= 2 eps_t.
Let the new states be N(n, S), in dx dimensions, and l the eigenvalues of S. Then

    E_p KL_t  =  C + 1/2 |Gn + g|^2 + 1/2 tr(GSG')  <=  C + |g|^2 + |G|^2 ( |n|^2 + 1/2 tr S )
    2 d_t     =  |n|^2 + sum_i ( l_i - 1 - log l_i )

Both parts of 2 d_t are at least 0, so |n|^2 <= 2 d_t; and l - 1 - log l >= l/2 - log 2, so tr S <= 4 d_t + 2 dx. Hence

    E_p KL_t  <=  eps_t (3 + 8 d_t + 2 dx)                                                               (10, repaired)

MOTO, Appendix B, arrives at 2 eps (3 d_t + dx + 1) by |Gn + g|^2 <= |Gn|^2 + |g|^2, which is wrong by up to a factor
of 2. With (9) and (10) taken as equalities d_t grows exponentially: in four dimensions and with eps = .1 nats it is
above 2 from the third step on.

| symbol  | paper            | code        |
| a_t     | Lemma 1, E_p A_t | `advantage` |
| d_t     | Lemma 2, eps_t   | `state_kl`  |
| eps_t   | Lemma 3, eps     | kl          |
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra.dual import WhiteStep
from pilotfish.types import Quadratic


class Change(NamedTuple):
    """What an update does to the expected cost of an episode; negative where it gets cheaper."""

    advantage: Float[Array, ""]
    """The change under the current states: what the update minimised."""
    bound: Float[Array, ""]
    """The change is at most this (Theorem 4), as far as Q and delta_t are right."""


def advantage(Q: Quadratic, step: WhiteStep) -> Quadratic:
    """a(s) of one step. `Q` is over (s, e)."""
    G, g, dx = step.G, step.g, step.G.shape[-1]
    H, B, b = Q.H[dx:, dx:], Q.H[dx:, :dx], Q.h[dx:]
    cross = G.T @ B
    spread = jnp.vdot(H, step.chol @ step.chol.T - jnp.eye(len(g)))
    return Quadratic(
        G.T @ H @ G + cross + cross.T,
        G.T @ (H @ g + b) + B.T @ g,
        0.5 * g @ H @ g + g @ b + 0.5 * spread,
    )


def state_kl(kl: Float[Array, "T"], dx: int) -> Float[Array, "T"]:
    """The bound on every d_t by (9) and (10), from the E_q KL of the steps; inf where it overflows.

    From step to step `d + (3 + 2 dx) / 8` grows by the factor `1 + 8 kl`.
    """
    log_growth = jnp.cumsum(jnp.log1p(8.0 * jnp.maximum(kl[:-1], 0.0)))
    return (3 + 2 * dx) / 8 * jnp.expm1(jnp.concatenate([jnp.zeros_like(kl[:1]), log_growth]))


def change(
    Q: Quadratic, step: WhiteStep, kl: Float[Array, "T"], s: Float[Array, "T n dx"], seen: Bool[Array, "T n"]
) -> Change:
    """Both sums of Theorem 4, from the Q-functions, the updates and the E_q KL of all steps.

    Over all states the maximum of a quadratic is infinite, so delta_t is that over the states `s` of the data,
    of which those that are not `seen` have no part. The bound holds if p's states are no more extreme than these.
    """
    a = jax.vmap(advantage)(Q, step)
    expected = (a.c + 0.5 * jnp.trace(a.H, axis1=-2, axis2=-1)).sum()
    of_states = jax.vmap(jax.vmap(Quadratic.__call__, (None, 0)))(a, s)
    delta = jnp.where(seen, jnp.abs(of_states), 0.0).max(-1)
    variation = jnp.minimum(1.0, jnp.sqrt(state_kl(kl, s.shape[-1]) / 2.0))
    return Change(expected, expected + 2.0 * (delta * variation).sum())
