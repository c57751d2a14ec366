"""The C-step of guided policy search: KL-constrained LQR on linear-Gaussian dynamics.

    minimise  E_p sum_t l_t(x_t, u_t) + l_T(x_T)      over time-varying linear-Gaussian controllers p

    s.t.      sum_t E_p KL(p to q) <= T kl_step       (trust region "trajectory", GPS'14 and MDGPS)
    or        E_p KL(p_t to q_t)   <= kl_step         for every t (trust region "step")

with quadratic costs l, fitted dynamics `x' ~ N(Ax + Bu + c, F)` and a reference controller q: the previous local
controller, or the linearised global policy. The expectations, of the cost and of the KL, are under p's own states.

**Coordinates.** With `u = Kq x + kq + R e`, `Cq = R R'`, and `x = m_t + y`, m the mean trajectory of q, the reference
is `e ~ N(0, I)` and its mean is y = 0. Appending a 1 to the state, w = [y; 1], makes everything linear:

    dynamics   w' = A w + B e + noise,   A = [A + B Kq, 0; 0, 1],   B = [B R; 0]      (on the right, the model's)
    costs      1/2 [w; e]' L [w; e]
    p          e ~ N(G w, P)
    KL_t       = 1/2 [ tr P - du - log|P| + tr(G'G E ww') ]

**Backward, for given multipliers eta_t** (maximum-entropy LQR). The Lagrangian's cost-to-go is

    Q = L + eta_t diag(0, I) + [A B]' V_{t+1} [A B],        Q_ee^-1 = W W'
    G = -Q_ee^-1 Q_ew,      P = eta_t Q_ee^-1,      V_t = Q_ww - Q_we Q_ee^-1 Q_ew

This is method.md's surrogate `l / eta - log q` multiplied by eta, in units of the cost: so V needs no rescaling
by eta_{t+1} / eta_t on its way back, which the divided form does where the multipliers differ.

**Forward.** `E ww'` of the next step is `(A + BG) E ww' (A + BG)' + B P B' + F`. What does not depend on the
neighbouring step is computed for all steps at once.

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

from pilotfish.algebra import dual, gaussian
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


class Objective(NamedTuple):
    cost: Quadratic
    final: Quadratic


class White(NamedTuple):
    """The problem in the coordinates w = [y; 1] and e; n = dx + 1, leading axis T but for the ends."""

    A: Float[Array, "T n n"]
    B: Float[Array, "T n du"]
    noise: Float[Array, "T n n"]
    cost: Float[Array, "T n+du n+du"]
    final: Float[Array, "n n"]
    start: Float[Array, "n n"]
    """`E ww'` of the first state."""


class WhiteController(NamedTuple):
    """`e ~ N(G w, chol chol')` at all steps."""

    G: Float[Array, "T du n"]
    chol: Float[Array, "T du du"]


class Trial(NamedTuple):
    """What multipliers lead to."""

    log_eta: Float[Array, "T"]
    controller: WhiteController
    kl: Float[Array, "T"]


def c_step(
    start: Gaussian,
    dynamics: LinearDynamics,
    objective: "Objective",
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
    cost, final = objective
    mean = _mean_states(start, dynamics, q)
    white = _whiten(start, dynamics, cost, final, q, mean)
    estimate = _first_order(white, kl_step)
    log_eta = jnp.log(jnp.where(estimate > 0, estimate, 1.0))
    if trust == "trajectory":
        profile, swept, measure = jnp.zeros(q.k.shape[0]), 0, jnp.mean
        first = jnp.where(jnp.isfinite(guess), jnp.log(guess), log_eta)
    else:
        profile, swept = _step_multipliers(white, kl_step, log_eta)
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
        start=_padded(start.cov, n, n) + one,
    )


def _shifted(l: Quadratic, by: Float[Array, "d"], dx: int) -> Float[Array, "d+1 d+1"]:
    """The matrix of the quadratic `z -> l(by + z)` over z with a 1 after its first `dx` entries; its constant is 0."""
    h = l.H @ by + l.h
    H = jnp.insert(l.H, dx, h, axis=0)
    return jnp.insert(H, dx, jnp.insert(h, dx, 0.0), axis=1)


def _padded(a: Float[Array, "*T i j"], rows: int, columns: int) -> Float[Array, "*T rows columns"]:
    return jnp.pad(a, [(0, 0)] * (a.ndim - 2) + [(0, rows - a.shape[-2]), (0, columns - a.shape[-1])])


def _unwhiten(p: WhiteController, q: LinearGaussian, mean: Float[Array, "T1 dx"]) -> LinearGaussian:
    gain, offset = jnp.split(q.chol @ p.G, [mean.shape[1]], -1)
    k = q.k + offset[..., 0] - jnp.einsum("tij,tj->ti", gain, mean[:-1])
    return LinearGaussian(q.K + gain, k, q.chol @ p.chol)


def _first_order(white: White, kl_step: Array | float) -> Float[Array, ""]:
    """About the eta that meets the bound if it is large.

    Then `KL_t = [ tr(Q_ee^2) / 2 + E |Q_ew w|^2 ] / (2 eta^2)`, with Q that of the reference. It is taken at y = 0.
    """
    n = white.A.shape[-1]

    def step(V, at_t):
        A, B, L = at_t
        Q = _cost_to_go(L, V, A, B)
        return Q[:n, :n], 0.5 * (Q[n:, n:] ** 2).sum() + (Q[n:, n - 1] ** 2).sum()

    _, change = jax.lax.scan(step, white.final, (white.A, white.B, white.cost), reverse=True)
    return jnp.sqrt(change.mean() / (2.0 * kl_step))


def _cost_to_go(
    L: Float[Array, "d d"], V: Float[Array, "n n"], A: Float[Array, "n n"], B: Float[Array, "n du"]
) -> Float[Array, "d d"]:
    AB = jnp.concatenate([A, B], -1)
    return L + AB.T @ (V @ AB)


def _backward(white: White, log_eta: Float[Array, "T"]) -> WhiteController:
    """The minimiser of the Lagrangian; nan from the first step, counted backwards, that is not positive definite."""

    def step(V, at_t):
        A, B, L, eta = at_t
        return _minimise(_cost_to_go(L, V, A, B), eta, V.shape[-1])

    at_t = (white.A, white.B, white.cost, jnp.exp(log_eta))
    _, factors = jax.lax.scan(step, white.final, at_t, reverse=True)
    return _controller(*factors, log_eta)


def _minimise(Q: Float[Array, "d d"], eta: Float[Array, ""], n: int) -> tuple[Array, tuple[Array, Array]]:
    """V_t, and (W, W'Q_ew) of one step, for its multiplier."""
    H = Q[n:, n:] + eta * jnp.eye(Q.shape[-1] - n)
    # W, lower triangular, is the inverse transpose of the factor of H with rows and columns in reverse order
    W = gaussian.solve_chol(jnp.linalg.cholesky(H[::-1, ::-1]), jnp.eye(H.shape[-1])).T[::-1, ::-1]
    slope = W.T @ Q[n:, :n]
    return Q[:n, :n] - slope.T @ slope, (W, slope)


def _controller(W: Float[Array, "T du du"], slope: Float[Array, "T du n"], log_eta: Float[Array, "T"]):
    return WhiteController(-W @ slope, jnp.exp(0.5 * log_eta)[:, None, None] * W)


def _forward(white: White, p: WhiteController) -> tuple[Float[Array, "T"], Float[Array, "T n n"]]:
    """Each step's KL, and `E ww'`, under the controller `p`."""
    noise = white.B @ p.chol

    def step(ww, at_t):
        closed, noise = at_t
        return closed @ ww @ closed.T + noise, ww

    _, ww = jax.lax.scan(step, white.start, (white.A + white.B @ p.G, noise @ noise.mT + white.noise))
    moved = ((p.G @ ww) * p.G).sum((-2, -1))
    return 0.5 * ((p.chol**2).sum((-2, -1)) - p.chol.shape[-1] - gaussian.log_det(p.chol) + moved), ww


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
    none = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), trial)
    low, high, slope = (jnp.full_like(f, number) for number in (-jnp.inf, jnp.inf, -1.5))
    start = (first, f, low, high, slope, _choose(f <= 0.0, trial, none), jnp.asarray(1))
    *_, best, passes = jax.lax.while_loop(unsolved, refine, start)
    return best, passes


def _step_multipliers(
    white: White, kl_step: Array | float, centre: Float[Array, ""]
) -> tuple[Float[Array, "T"], Int[Array, ""]]:
    """Logarithms of the multipliers at which every step meets its bound, and the backward passes that took.

    From the back each step solves its secular equation under the states of the sweep before, at first the reference's.
    """
    T, n, du = white.B.shape

    def sweep(ww):
        factor = gaussian.robust_cholesky(ww)

        def step(V, at_t):
            A, B, L, Z = at_t
            Q = _cost_to_go(L, V, A, B)
            slope = Q[n:, :n] @ Z
            target = (1.0 - 0.5 * TOLERANCE) * kl_step
            _, multipliers = dual.white_step(Q[n:, n:], slope[:, :-1], slope[:, -1], target, jnp.inf)
            log_eta = jnp.clip(jnp.log(multipliers.eta), centre - RANGE, centre + RANGE)
            V, found = _minimise(Q, jnp.exp(log_eta), n)
            return V, (*found, log_eta)

        _, found = jax.lax.scan(step, white.final, (white.A, white.B, white.cost, factor), reverse=True)
        return found[-1], *_forward(white, _controller(*found))

    def unsolved(carry):
        _, kl, _, sweeps = carry
        return (jnp.abs(jnp.log(kl / kl_step)).max() > TOLERANCE) & (sweeps < MOST_SWEEPS)

    def refine(carry):
        _, _, ww, sweeps = carry
        return *sweep(ww), sweeps + 1

    reference = WhiteController(jnp.zeros((T, du, n)), jnp.broadcast_to(jnp.eye(du), (T, du, du)))
    first = sweep(_forward(white, reference)[1])
    log_eta, *_, sweeps = jax.lax.while_loop(unsolved, refine, (*first, jnp.asarray(1)))
    return log_eta, sweeps


def _choose(first: Bool[Array, ""], a: Trial, b: Trial) -> Trial:
    return jax.tree.map(lambda x, y: jnp.where(first, x, y), a, b)


def _finite(tree: Any) -> Bool[Array, ""]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
