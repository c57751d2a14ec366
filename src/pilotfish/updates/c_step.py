"""The C-step of guided policy search: KL-constrained LQR on linear-Gaussian dynamics.

    minimise  E_p sum_t l_t(x_t, u_t) + l_T(x_T)      over time-varying linear-Gaussian controllers p

    s.t.      sum_t E_p KL(p to q) <= T kl_step       (trust region "trajectory", GPS'14 and MDGPS)
    or        E_p KL(p_t to q_t)   <= kl_step         for every t (trust region "step")

with quadratic costs l, fitted dynamics `x' ~ N(Ax + Bu + c, F)` and a reference controller q: the previous local
controller, or the linearised global policy. The expectations, of the cost and of the KL, are under p's own states.

**Coordinates.** With `u = Kq x + kq + R e`, `Cq = R R'`, and `x = m_t + y`, m the mean trajectory of q, the reference
is `e ~ N(0, I)`, its mean is y = 0, and KL(p to q) is that of `e ~ N(Gy + g, P)` to the standard normal:

    dynamics   y' = A~ y + B~ e + noise,   A~ = A + B Kq,   B~ = B R
    KL_t       = 1/2 [ tr P - du - log|P| + E |Gy + g|^2 ]

**Backward, for given multipliers eta_t** (maximum-entropy LQR). The Lagrangian's cost-to-go is

    Q_t = l_t + eta_t/2 |e|^2 + E V_{t+1}(A~ y + B~ e),      H_t = Q_ee
    G = -H^-1 Q_ey,   g = -H^-1 q_e,   P = eta_t H^-1,      V_t = min_e Q_t

This is method.md's surrogate `l / eta - log q` multiplied by eta, in units of the cost: so V needs no rescaling
by eta_{t+1} / eta_t on its way back, which the divided form does where the multipliers differ.

**The multipliers.** With one eta the dual is concave, and KL(eta) falls monotonically from infinity, where some H_t
ceases to be positive definite, to 0: a root in log eta, found by safeguarded secant steps on log KL. A pass that is
indefinite or overflows has "too much" KL, so eta is raised and nothing is ever repaired. With one eta_t a step, each
backward pass solves step t's own secular equation (algebra/dual.py) for eta_t under the state marginals of
the pass before, until these agree; what is left to 1% is again one root, in a common factor of all eta_t.

The bound ends within [.99, 1] of its value. There is no step only where q itself, in closed loop with the fitted
dynamics, grows beyond all bounds: then q is kept.

| symbol | paper                | code    |
| eps    | MDGPS (2)            | kl_step |
| eta    | GPS'14, section 3    | eta     |
| p_hat  | MDGPS, section 4     | q       |
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pilotfish.algebra import dual, gaussian, quadratic
from pilotfish.types import Gaussian, LinearDynamics, LinearGaussian, Quadratic

TrustRegion = Literal["trajectory", "step"]

TOLERANCE = 0.01
"""The KL ends within this, relative, below its bound."""
MOST_PASSES = 40
MOST_SWEEPS = 20
"""Most backward passes that look for the multipliers of single steps."""
RANGE = 30.0
"""How far log eta may be from its first-order estimate. At the lower end the controller is plain LQR's."""


class CStep(NamedTuple):
    """The new controller, and how it was found."""

    controller: LinearGaussian
    """Over time; the reference itself where no step exists."""
    eta: Float[Array, "T"]
    """Multiplier of each step's KL, in units of the cost; nan where no step exists."""
    kl: Float[Array, "T"]
    """Expected KL of each step, nats, under the new controller's states in the model."""
    passes: Int[Array, ""]
    """Backward passes, that of the first-order estimate included."""
    found: Bool[Array, ""]
    """False if there is no step: the model, in closed loop with the reference, overflows."""


class White(NamedTuple):
    """The problem in the coordinates (y, e); leading axis T, but for the first and last state's."""

    A: Float[Array, "T dx dx"]
    B: Float[Array, "T dx du"]
    noise: Float[Array, "T dx dx"]
    cost: Quadratic
    final: Quadratic
    start: Float[Array, "dx dx"]
    """Covariance of the first state."""


class WhiteController(NamedTuple):
    """`e ~ N(Gy + g, chol chol')`, of one step or (leading axis) of all."""

    G: Float[Array, "*T du dx"]
    g: Float[Array, "*T du"]
    chol: Float[Array, "*T du du"]


class Trial(NamedTuple):
    """What multipliers lead to."""

    log_eta: Float[Array, "T"]
    controller: WhiteController
    kl: Float[Array, "T"]


def c_step(
    start: Gaussian,
    dynamics: LinearDynamics,
    cost: Quadratic,
    final: Quadratic,
    q: LinearGaussian,
    kl_step: Float[Array, ""] | float,
    trust: TrustRegion = "trajectory",
    guess: Float[Array, ""] | float = jnp.nan,
) -> CStep:
    """The best controller within the trust region about `q`.

    Dynamics, cost and q have the leading axis T; `cost` is over z = [x; u], `final` over x. `guess` is a multiplier
    to begin with, nan for none: that of the last iteration saves passes. Whatever the model and the cost: the result
    is finite and within the bound, if `q` is finite.
    """
    mean = _mean_states(start, dynamics, q)
    white = _whiten(start, dynamics, cost, final, q, mean)
    estimate, states = _first_order(white, kl_step)
    log_eta = jnp.log(jnp.where(estimate > 0, estimate, 1.0))
    if trust == "trajectory":
        profile, swept, measure = jnp.zeros(q.k.shape[0]), 0, jnp.mean
        first = jnp.where(jnp.isfinite(guess), jnp.log(guess), log_eta)
    else:
        profile, swept = _step_multipliers(white, states, kl_step, log_eta)
        measure, first, log_eta = jnp.max, jnp.zeros(()), jnp.zeros(())
    trial, passes = _common_multiplier(white, profile, measure, kl_step, first, log_eta)
    controller = _unwhiten(trial.controller, q, mean)
    found = _finite((controller, trial.kl))
    return kept_unless(found, CStep(controller, jnp.exp(trial.log_eta), trial.kl, 1 + swept + passes, found), q)


def kept_unless(found: Bool[Array, ""], step: CStep, q: LinearGaussian) -> CStep:
    """The step, or where it is not found none: the reference is kept."""
    return CStep(
        controller=jax.tree.map(lambda new, old: jnp.where(found, new, old), step.controller, q),
        eta=jnp.where(found, step.eta, jnp.nan),
        kl=jnp.where(found, step.kl, 0.0),
        passes=step.passes,
        found=found,
    )


def _mean_states(start: Gaussian, dynamics: LinearDynamics, q: LinearGaussian) -> Float[Array, "T1 dx"]:
    """The mean trajectory of the reference in the model."""

    def step(m, at_t):
        f, p = at_t
        return f.A @ m + f.B @ p.mean(m) + f.c, m

    last, before = jax.lax.scan(step, start.mean, (dynamics, q))
    return jnp.concatenate([before, last[None]])


def _whiten(
    start: Gaussian,
    f: LinearDynamics,
    cost: Quadratic,
    final: Quadratic,
    q: LinearGaussian,
    mean: Float[Array, "T1 dx"],
) -> White:
    """The problem in terms of `x = mean + y`, `u = Kq x + kq + R e`."""
    T, du, dx = q.K.shape
    y_to_x = jnp.broadcast_to(jnp.eye(dx, dx + du), (T, dx, dx + du))
    to_z = jnp.concatenate([y_to_x, jnp.concatenate([q.K, q.chol], -1)], -2)
    return White(
        A=f.A + f.B @ q.K,
        B=f.B @ q.chol,
        noise=f.cov,
        cost=quadratic.compose(cost, to_z, jnp.concatenate([mean[:-1], q.mean(mean[:-1])], -1)),
        final=quadratic.compose(final, jnp.eye(dx), mean[-1]),
        start=start.cov,
    )


def _unwhiten(p: WhiteController, q: LinearGaussian, mean: Float[Array, "T1 dx"]) -> LinearGaussian:
    gain = q.chol @ p.G
    offset = q.k + jnp.einsum("tij,tj->ti", q.chol, p.g) - jnp.einsum("tij,tj->ti", gain, mean[:-1])
    return LinearGaussian(q.K + gain, offset, q.chol @ p.chol)


def _first_order(white: White, kl_step: Array | float) -> tuple[Float[Array, ""], Gaussian]:
    """The eta that meets the bound if it is large, and the reference's own states.

    For large eta, `KL_t = [ tr(H_t^2) / 2 + E |Q_ey y + q_e|^2 ] / (2 eta^2)`, with Q that of the reference.
    """
    dx = white.A.shape[-1]
    e, y = slice(dx, None), slice(None, dx)

    def forward(S, at_t):
        A, B, F = at_t
        return A @ S @ A.T + B @ B.T + F, S

    def backward(V, at_t):
        A, B, l, S = at_t
        Q = _cost_to_go(l, V, A, B)
        slope = jnp.einsum("ij,jk,ik->", Q.H[e, y], S, Q.H[e, y]) + (Q.h[e] ** 2).sum()
        return Quadratic(Q.H[y, y], Q.h[y], V.c), 0.5 * (Q.H[e, e] ** 2).sum() + slope

    _, S = jax.lax.scan(forward, white.start, (white.A, white.B, white.noise))
    _, change = jax.lax.scan(backward, white.final, (white.A, white.B, white.cost, S), reverse=True)
    return jnp.sqrt(change.mean() / (2.0 * kl_step)), Gaussian(jnp.zeros(S.shape[:2]), S)


def _cost_to_go(l: Quadratic, V: Quadratic, A: Float[Array, "dx dx"], B: Float[Array, "dx du"]) -> Quadratic:
    """`Q(y, e) = l(y, e) + V(Ay + Be)`; its constant does not matter here."""
    AB = jnp.concatenate([A, B], -1)
    return Quadratic(l.H + AB.T @ V.H @ AB, l.h + AB.T @ V.h, V.c)


def _backward(white: White, log_eta: Float[Array, "T"]) -> WhiteController:
    """The minimiser of the Lagrangian; nan from the first step, counted backwards, that is not positive definite."""

    def step(V, at_t):
        A, B, l, eta = at_t
        return _minimise(_cost_to_go(l, V, A, B), eta, A.shape[-1])

    at_t = (white.A, white.B, white.cost, jnp.exp(log_eta))
    return jax.lax.scan(step, white.final, at_t, reverse=True)[1]


def _minimise(Q: Quadratic, eta: Float[Array, ""], dx: int) -> tuple[Quadratic, WhiteController]:
    """V_t and the controller of one step, for its multiplier."""
    e, y = slice(dx, None), slice(None, dx)
    H = Q.H[e, e] + eta * jnp.eye(Q.h.shape[-1] - dx)
    # H^-1 = W W', W lower triangular: the inverse transpose of H's factor, with rows and columns in reverse order
    W = gaussian.solve_chol(jnp.linalg.cholesky(H[::-1, ::-1]), jnp.eye(H.shape[-1])).T[::-1, ::-1]
    slope, offset = W.T @ Q.H[e, y], W.T @ Q.h[e]
    V = Quadratic(Q.H[y, y] - slope.T @ slope, Q.h[y] - slope.T @ offset, Q.c)
    return V, WhiteController(-W @ slope, -W @ offset, jnp.sqrt(eta) * W)


def _forward(white: White, p: WhiteController) -> tuple[Float[Array, "T"], Gaussian]:
    """Each step's KL, and the states, under the controller `p`."""

    def step(y: Gaussian, at_t):
        A, B, F, p = at_t
        shift = p.G @ y.mean + p.g
        spread = p.G @ y.cov
        kl = 0.5 * ((p.chol**2).sum() + shift @ shift + (spread * p.G).sum() - p.g.shape[-1] - gaussian.log_det(p.chol))
        closed, noise = A + B @ p.G, B @ p.chol
        return Gaussian(A @ y.mean + B @ shift, closed @ y.cov @ closed.T + noise @ noise.T + F), (kl, y)

    first = Gaussian(jnp.zeros(white.A.shape[-1]), white.start)
    return jax.lax.scan(step, first, (white.A, white.B, white.noise, p))[1]


def _try(white: White, log_eta: Float[Array, "T"]) -> Trial:
    p = _backward(white, log_eta)
    return Trial(log_eta, p, _forward(white, p)[0])


def _common_multiplier(
    white: White,
    profile: Float[Array, "T"],
    measure: Callable[[Array], Array],
    kl_step: Array | float,
    first: Float[Array, ""],
    centre: Float[Array, ""],
) -> tuple[Trial, Int[Array, ""]]:
    """The best trial with multipliers `exp(profile + s)` whose `measure(KL)` is within the bound, and the passes taken.

    Secant steps on `f = log(measure / kl_step)` against s, kept inside the bracket (low, high) of an f above and
    one below its target; where f is not finite, steps that double, or bisection.
    """
    target = jnp.log1p(-0.5 * TOLERANCE)

    def evaluate(s):
        trial = _try(white, profile + s)
        f = jnp.log(measure(trial.kl) / kl_step)
        return trial, jnp.where(jnp.isnan(f), jnp.inf, f)

    def unsolved(carry):
        s, f, *_, passes = carry
        met = (f <= 0.0) & ((f >= jnp.log1p(-TOLERANCE)) | (s <= centre - RANGE))
        return ~met & (passes < MOST_PASSES) & (s < centre + RANGE)

    def refine(carry):
        s, f, low, high, slope, best, passes = carry
        low, high = jnp.where(f > target, s, low), jnp.where(f > target, high, s)
        secant = s - (f - target) / slope
        blind = jnp.where(jnp.isfinite(high), 0.5 * (low + high), s + 2.0 ** (passes - 1))
        inside = jnp.isfinite(f) & (secant > low) & (secant < high)
        new = jnp.clip(jnp.where(inside, secant, blind), centre - RANGE, centre + RANGE)
        trial, f_new = evaluate(new)
        measured = (f_new - f) / (new - s)
        slope = jnp.where(jnp.isfinite(measured), jnp.clip(measured, -30.0, -0.3), slope)
        return new, f_new, low, high, slope, _choose(f_new <= 0.0, trial, best), passes + 1

    first = jnp.clip(first, centre - RANGE, centre + RANGE)
    trial, f = evaluate(first)
    start = (
        first,
        f,
        -jnp.inf,
        jnp.inf,
        -1.5,
        _choose(f <= 0.0, trial, jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), trial)),
        1,
    )
    start = jax.tree.map(jnp.asarray, start)
    *_, best, passes = jax.lax.while_loop(unsolved, refine, start)
    return best, passes


def _step_multipliers(
    white: White, states: Gaussian, kl_step: Array | float, centre: Float[Array, ""]
) -> tuple[Float[Array, "T"], Int[Array, ""]]:
    """Logarithms of the multipliers at which every step meets its bound, and the backward passes that took.

    From the back each step solves its secular equation under the states of the sweep before.
    """

    def sweep(states):
        def step(V, at_t):
            A, B, l, x = at_t
            dx = A.shape[-1]
            Q = _cost_to_go(l, V, A, B)
            L = gaussian.robust_cholesky(x.cov)
            slope, offset = Q.H[dx:, :dx] @ L, Q.H[dx:, :dx] @ x.mean + Q.h[dx:]
            _, multipliers = dual.white_step(Q.H[dx:, dx:], slope, offset, (1.0 - 0.5 * TOLERANCE) * kl_step, jnp.inf)
            log_eta = jnp.clip(jnp.log(multipliers.eta), centre - RANGE, centre + RANGE)
            V, p = _minimise(Q, jnp.exp(log_eta), dx)
            return V, (log_eta, p)

        log_eta, p = jax.lax.scan(step, white.final, (white.A, white.B, white.cost, states), reverse=True)[1]
        return log_eta, *_forward(white, p)

    def unsolved(carry):
        _, kl, _, sweeps = carry
        return (jnp.abs(jnp.log(kl / kl_step)).max() > TOLERANCE) & (sweeps < MOST_SWEEPS)

    def refine(carry):
        _, _, states, sweeps = carry
        return *sweep(states), sweeps + 1

    log_eta, kl, states = sweep(states)
    log_eta, *_, sweeps = jax.lax.while_loop(unsolved, refine, (log_eta, kl, states, jnp.asarray(1)))
    return log_eta, sweeps


def _choose(first: Bool[Array, ""], a: Trial, b: Trial) -> Trial:
    return jax.tree.map(lambda x, y: jnp.where(first, x, y), a, b)


def _finite(tree: Any) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
