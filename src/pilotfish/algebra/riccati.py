"""The linear-quadratic regulator: one backward pass.

    minimise  E sum_t q_t(x_t, u_t) + q_T(x_T),    x_{t+1} = A x_t + B u_t + c + noise

With V_{t+1} quadratic, Q_t = q_t + V_{t+1}(A x + B u + c) is quadratic in z = [x; u]; its minimiser over u is
`u = K x + k` with `K = -Quu^-1 Qux`, `k = -Quu^-1 qu`, and V_t(x) = Q_t(x, Kx + k). With the covariance `Quu^-1` about
that mean a controller minimises the expected cost less its entropy.
"""

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl

from pilotfish.algebra import quadratic
from pilotfish.types import LinearDynamics, LinearGaussian, Quadratic


def lqr(dynamics: LinearDynamics, cost: Quadratic, final: Quadratic) -> tuple[LinearGaussian, Quadratic]:
    """The optimal controller, and the value function of the first state under its mean actions.

    `cost` is over z = [x; u], one per step; `final` over x. Noise enters the value as `1/2 tr(V F)`. Where
    `Quu` is not positive definite the problem has no minimum and the result is not finite.
    """
    dx = final.h.shape[-1]

    def backward(V: Quadratic, at_t: tuple[LinearDynamics, Quadratic]):
        f, q = at_t
        ahead = quadratic.compose(V, jnp.concatenate([f.A, f.B], -1), f.c)
        noise = 0.5 * jnp.einsum("ij,ji->", V.H, f.cov)
        Q = Quadratic(q.H + ahead.H, q.h + ahead.h, q.c + ahead.c + noise)
        factor = jnp.linalg.cholesky(Q.H[dx:, dx:])
        gains = -jsl.cho_solve((factor, True), jnp.concatenate([Q.H[dx:, :dx], Q.h[dx:, None]], -1))
        K, k = gains[:, :dx], gains[:, dx]
        V = quadratic.compose(Q, jnp.concatenate([jnp.eye(dx), K]), jnp.concatenate([jnp.zeros(dx), k]))
        chol = jnp.linalg.cholesky(jsl.cho_solve((factor, True), jnp.eye(len(factor))))
        return V, LinearGaussian(K, k, chol)

    V, controller = jax.lax.scan(backward, final, (dynamics, cost), reverse=True)
    return controller, V
