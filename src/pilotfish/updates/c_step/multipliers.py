"""The multipliers of the C-step's trust region.

**One for the trajectory.** The dual is concave, and KL(eta) falls monotonically from infinity, where some Q_ee ceases
to be positive definite, to 0: a root in log eta (algebra/root.py). A pass that is indefinite or overflows has "too
much" KL, so eta is raised and nothing is ever repaired.

**One for every step.** Each backward pass solves step t's own secular equation (algebra/dual.py) for eta_t under the
state marginals of the pass before, until these agree. A step's logarithm goes half as far where it begins to swing.

Large trust regions and costs that are not convex may defeat that. Then the dual is solved as the concave problem it is,
by Newton steps in log eta,

    d(eta) = min_p E[cost] + sum_t eta_t (KL_t - eps),    d'_t = KL_t - eps,    d'' = dKL / deta,

from a common multiplier at which all steps are definite. The longest of some parts of a step that raises d most is
taken. It costs T passes side by side, and always arrives. What is left to 1% is again one root, in a common factor of
all eta_t.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pilotfish.algebra import dual, gaussian, root
from pilotfish.algebra.batch import chosen
from pilotfish.updates.c_step import passes
from pilotfish.updates.c_step.passes import States, Trial
from pilotfish.updates.c_step.white import White

TOLERANCE = 0.01
"""The KL ends within this, relative, below its bound."""
NEGLIGIBLE = 1e-6
"""What is left of a KL below this part of its bound is rounding, which must not lead the search."""
MOST_PASSES = 40
MOST_SWEEPS = 20
"""Most backward passes that look for the multipliers of single steps."""
MOST_NEWTON_STEPS = 40
NEWTON_CLIP = 2.0
"""By how much a Newton step may change a log eta."""
PARTS = 2.0 ** -np.arange(0, 12, 2)
"""Parts of a Newton step that are tried."""
RANGE = 60.0
"""How far log eta may be from its first-order estimate. At the lower end the controller is plain LQR's."""
SECANT = root.Secant(first=-1.5, steepest=-30.0, flattest=-0.3)
"""Slopes of log KL over log eta: -2 for a large eta, where only the covariance moves -1."""


def common(
    solve: Callable[[Float[Array, "T"]], Trial],
    profile: Float[Array, "T"],
    measure: Callable[[Array], Array],
    kl_step: Array | float,
    first: Float[Array, ""],
    centre: Float[Array, ""],
) -> tuple[Trial, Int[Array, ""]]:
    """The best trial with multipliers `exp(profile + s)` whose `measure(KL)` is within the bound, and how many were
    made.
    """

    def evaluate(s: Float[Array, ""]) -> root.Point:
        trial = solve(profile + s)
        return root.Point(jnp.log(jnp.maximum(measure(trial.kl) / kl_step, NEGLIGIBLE)), None, trial)

    band = root.Band(jnp.log1p(-TOLERANCE), jnp.log1p(-0.5 * TOLERANCE), 0.0)
    found = root.search(evaluate, first, (centre - RANGE, centre + RANGE), band, MOST_PASSES, SECANT)
    return found.best, found.evaluations


def of_steps(
    white: White, kl_step: Array | float, centre: Float[Array, ""]
) -> tuple[Float[Array, "T"], Int[Array, ""]]:
    """Logarithms of the multipliers at which every step meets its bound, and the backward passes that took."""
    target = (1.0 - 0.5 * TOLERANCE) * kl_step
    swept, kl, sweeps = _swept(white, target, centre)
    solved = ~_unmet(swept, kl, target, centre)
    start = jax.lax.select(solved, swept, _raised_until_definite(white, centre, target))
    log_eta, steps = _newton(white, target, centre, start, solved)
    return jnp.clip(log_eta, centre - RANGE, centre + RANGE), sweeps + steps


def _unmet(
    log_eta: Float[Array, "T"], kl: Float[Array, "T"], target: Array | float, centre: Float[Array, ""]
) -> Bool[Array, ""]:
    """Whether a KL is above its bound, or below it though the bound costs something."""
    below = (kl < (1.0 - 0.5 * TOLERANCE) * target) & (log_eta > centre - 0.5 * RANGE)
    return ~(kl.max() <= (1.0 + 0.5 * TOLERANCE) * target) | below.any()


def _swept(white: White, target: Array | float, centre: Float[Array, ""]):
    """Log eta, KL and number of the sweeps until these agree.

    From the back each step solves its secular equation under the states of the sweep before, at first the reference's.
    """

    def unsolved(carry):
        (log_eta, kl, _), *_, sweeps = carry
        return _unmet(log_eta, kl, target, centre) & (sweeps < MOST_SWEEPS)

    def refine(carry):
        (log_eta, _, states), way, part, sweeps = carry
        proposed, *_ = found = _sweep(white, target, centre, states)
        new = proposed - log_eta
        part = jnp.minimum(part * jnp.where(new * way < 0, 0.5, 1.2), 1.0)
        whole = (part >= 1.0).all()
        found = jax.lax.cond(whole, lambda: found, lambda: damped(log_eta + part * new, found))
        return found, new, part, sweeps + jnp.where(whole, 1, 2)

    def damped(log_eta: Float[Array, "T"], swept: tuple[Array, Array, States]):
        kl, states = passes.forward(white, passes.backward(white, log_eta))
        # a blend may be indefinite, a sweep is not
        finite = jnp.isfinite(kl).all()
        return chosen(finite, (log_eta, kl, states), swept)

    first = _sweep(white, target, centre, passes.forward(white, passes.reference(white))[1])
    none = jnp.zeros_like(first[0])
    (log_eta, kl, _), *_, sweeps = jax.lax.while_loop(
        unsolved, refine, (first, none, jnp.ones_like(none), jnp.asarray(1))
    )
    return log_eta, kl, sweeps


def _dual(white: White, log_eta: Float[Array, "T"], target: Array | float) -> tuple[Array, Float[Array, "T"]]:
    """The dual's value, minus infinity where a step is indefinite, and the KL of all steps."""
    p = passes.backward(white, log_eta)
    kl, states = passes.forward(white, p)
    value = passes.expected_cost(white, p, states) + jnp.exp(log_eta) @ (kl - target)
    return jnp.where(jnp.isfinite(value), value, -jnp.inf), kl


def _raised_until_definite(white: White, centre: Float[Array, ""], target: Array | float) -> Float[Array, "T"]:
    """One multiplier for all steps, from `centre` upwards."""
    T = white.B.shape[0]

    def indefinite(log_eta: Float[Array, "T"]) -> Bool[Array, ""]:
        return jnp.isinf(_dual(white, log_eta, target)[0]) & (log_eta[0] < centre + RANGE)

    return jax.lax.while_loop(indefinite, lambda log_eta: log_eta + 1.0, jnp.full(T, centre))


def _newton(
    white: White,
    target: Array | float,
    centre: Float[Array, ""],
    start: Float[Array, "T"],
    solved: Bool[Array, ""],
) -> tuple[Float[Array, "T"], Int[Array, ""]]:
    """Log eta where the dual is largest, and the number of steps; none where it is `solved`."""

    def kl_of(log_eta: Float[Array, "T"]) -> Float[Array, "T"]:
        return passes.forward(white, passes.backward(white, log_eta))[0]

    def step(carry):
        log_eta, _, steps = carry
        value, kl = _dual(white, log_eta, target)
        # of the dual in log eta: its gradient, and the part of its Hessian that is never positive
        eta = jnp.exp(log_eta - log_eta.max())
        gradient, curvature = eta * (kl - target), -eta[:, None] * jax.jacfwd(kl_of)(log_eta)
        curvature = 0.5 * (curvature + curvature.T)
        diagonal = jnp.abs(jnp.diagonal(curvature))
        whole = jnp.linalg.solve(curvature + jnp.diag(1e-9 * diagonal + 1e-12 * diagonal.max()), gradient)
        tried = log_eta + PARTS[:, None] * jnp.clip(whole, -NEWTON_CLIP, NEWTON_CLIP)
        values, kls = jax.vmap(lambda log_eta: _dual(white, log_eta, target))(tried)
        best = jnp.argmax(values)
        rises = values[best] >= value
        unmet = _unmet(tried[best], kls[best], target, centre) & rises
        return jnp.where(rises, tried[best], log_eta), ~unmet, steps + 1

    def unfinished(carry):
        _, finished, steps = carry
        return ~finished & (steps < MOST_NEWTON_STEPS)

    log_eta, _, steps = jax.lax.while_loop(unfinished, step, (start, solved, jnp.asarray(0)))
    return log_eta, steps


def _sweep(white: White, target: Array | float, centre: Float[Array, ""], states: States):
    """One backward pass under these states: log eta and KL of all steps, and the states that follow."""
    n = white.B.shape[1]
    factor = jnp.concatenate([gaussian.robust_cholesky(states.cov), states.mean[..., None]], -1)

    def step(V, at_t):
        A, B, L, Z, temper = at_t
        Q = passes.of_action(L, V, A, B)
        slope = Q[:, :n] @ Z
        _, multipliers = dual.white_step(Q[:, n:], slope[:, :-1], slope[:, -1], target, jnp.inf, temper)
        log_eta = jnp.clip(jnp.log(multipliers.eta), centre - RANGE, centre + RANGE)
        V, found = passes.minimise(Q, V, (A, B, L), jnp.exp(log_eta))
        return V, (*found, log_eta)

    at_t = (white.A, white.B, white.cost, factor, white.temper)
    _, found = jax.lax.scan(step, white.final, at_t, reverse=True)
    return found[-1], *passes.forward(white, passes.scaled(*found, white.temper))
