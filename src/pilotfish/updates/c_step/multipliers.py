"""The multipliers of the C-step's trust region.

**One for the trajectory.** The dual is concave, and KL(eta) falls monotonically from infinity, where some Q_ee ceases
to be positive definite, to 0: a root in log eta (algebra/root.py). A pass that is indefinite or overflows has "too
much" KL, so eta is raised and nothing is ever repaired.

**One for every step.** Each backward pass solves step t's own secular equation (algebra/dual.py) for eta_t under the
state marginals of the pass before, until these agree; what is left to 1% is again one root, in a common factor of all
eta_t.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pilotfish.algebra import dual, gaussian, root
from pilotfish.updates.c_step import passes
from pilotfish.updates.c_step.passes import Trial
from pilotfish.updates.c_step.white import White

TOLERANCE = 0.01
"""The KL ends within this, relative, below its bound."""
MOST_PASSES = 40
MOST_SWEEPS = 20
"""Most backward passes that look for the multipliers of single steps."""
RANGE = 30.0
"""How far log eta may be from its first-order estimate. At the lower end the controller is plain LQR's."""
SECANT = root.Secant(first=-1.5, steepest=-30.0, flattest=-0.3)
"""Slopes of log KL over log eta: -2 for a large eta, where only the covariance moves -1."""


def common(
    white: White,
    profile: Float[Array, "T"],
    measure: Callable[[Array], Array],
    kl_step: Array | float,
    first: Float[Array, ""],
    centre: Float[Array, ""],
) -> tuple[Trial, Int[Array, ""]]:
    """The best trial with multipliers `exp(profile + s)` whose `measure(KL)` is within the bound, and its passes."""

    def evaluate(s: Float[Array, ""]) -> root.Point:
        log_eta = profile + s
        p = passes.backward(white, log_eta)
        kl = passes.forward(white, p)[0]
        return root.Point(jnp.log(measure(kl) / kl_step), None, Trial(log_eta, p, kl))

    band = root.Band(jnp.log1p(-TOLERANCE), jnp.log1p(-0.5 * TOLERANCE), 0.0)
    found = root.search(evaluate, first, (centre - RANGE, centre + RANGE), band, MOST_PASSES, SECANT)
    return found.best, found.evaluations


def of_steps(
    white: White, kl_step: Array | float, centre: Float[Array, ""]
) -> tuple[Float[Array, "T"], Int[Array, ""]]:
    """Logarithms of the multipliers at which every step meets its bound, and the backward passes that took.

    From the back each step solves its secular equation under the states of the sweep before, at first the reference's.
    """

    def unsolved(carry):
        _, kl, _, sweeps = carry
        return (jnp.abs(jnp.log(kl / kl_step)).max() > TOLERANCE) & (sweeps < MOST_SWEEPS)

    def refine(carry):
        _, _, ww, sweeps = carry
        return *_sweep(white, kl_step, centre, ww), sweeps + 1

    first = _sweep(white, kl_step, centre, passes.forward(white, passes.reference(white))[1])
    log_eta, *_, sweeps = jax.lax.while_loop(unsolved, refine, (*first, jnp.asarray(1)))
    return log_eta, sweeps


def _sweep(white: White, kl_step: Array | float, centre: Float[Array, ""], ww: Float[Array, "T n n"]):
    """One backward pass under the states `ww`: log eta and KL of all steps, and the states that follow."""
    n, factor = white.B.shape[1], gaussian.robust_cholesky(ww)
    target = (1.0 - 0.5 * TOLERANCE) * kl_step

    def step(V, at_t):
        A, B, L, Z, temper = at_t
        Q = passes.cost_to_go(L, V, A, B)
        slope = Q[n:, :n] @ Z
        _, multipliers = dual.white_step(Q[n:, n:], slope[:, :-1], slope[:, -1], target, jnp.inf, temper)
        log_eta = jnp.clip(jnp.log(multipliers.eta), centre - RANGE, centre + RANGE)
        V, found = passes.minimise(Q, jnp.exp(log_eta), n)
        return V, (*found, log_eta)

    at_t = (white.A, white.B, white.cost, factor, white.temper)
    _, found = jax.lax.scan(step, white.final, at_t, reverse=True)
    return found[-1], *passes.forward(white, passes.scaled(*found, white.temper))
