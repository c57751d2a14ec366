"""Motion of any mechanism from its Lagrangian, by automatic differentiation."""

import jax
import jax.numpy as jnp


def acceleration(place, lagrangian, q, speed, force):
    """q'' of `d/dt dL/dq' - dL/dq = force`; `lagrangian(r, v, q')` of the masses' places r = place(q), v = r'."""

    def L(q, speed):
        return lagrangian(*jax.jvp(place, (q,), (speed,)), speed)

    inertia = jax.hessian(L, 1)(q, speed)
    drift = jax.jacfwd(jax.grad(L, 1), 0)(q, speed) @ speed
    return jnp.linalg.solve(inertia, force + jax.grad(L, 0)(q, speed) - drift)
