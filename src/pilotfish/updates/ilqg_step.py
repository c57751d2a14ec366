"""A step of iLQG: from a nominal trajectory to a cheaper one, on dynamics that can be simulated and linearised.

About the nominal trajectory (x_t, u_t) of each condition, in deviations dz = [dx; du] from it,

    f(x, u) ~ A dx + B du,    cost ~ quadratic in dz,    both by automatic differentiation
    Q_t(dz) = cost_t + V_{t+1}(A dx + B du),    V_T = final cost                                backwards
    du = K dx + k minimises Q_t + regularisation within the actions' limits,   V_t(dx) = Q_t(dx, K dx + k)
    u = u_t + alpha k + K (x - x_t), clipped to the limits, for all alpha at once               forwards

The cheapest of these trajectories is the next nominal one, if it brings enough of the expected reduction

    -alpha sum_t k'q_u - 1/2 alpha^2 sum_t k'Q_uu k.

Else the nominal trajectory stays and mu is raised, as it is until every Q_uu is positive definite. The regularisation

    mu/2 |(A dx + B du) / sigma_x|^2 + mu/2 |du / sigma_u|^2

holds the next state near the old one (2012, equation 10), and the action too, without which an action of neither effect
nor cost would never be definite. The paper adds up states of different units; here sigma_u is the problem's initial_std
and sigma_x how far actions of that spread would drive each state, and mu is in units of how much the cost varies on
that scale. V_t is made of the Q_t without it (2012, equation 11). The factor by which mu changes grows while mu goes on
in one direction.

Costs are compared up to their rounding. Where the reduction that a full step promises is lost in it the derivatives
know better than the costs, and the step is taken unless it costs more.

Within limits k minimises Q_t(0, du) over the box, and K is zero in the actions that lie at a limit (Tassa, Mansard &
Todorov 2014). Process noise has no part in it, as it has none in 2005 unless it depends on the state or the action.

| symbol | paper          | code                |
| mu     | 2012, (10)     | regularisation      |
| delta  | 2012, II-F     | growth              |
| alpha  | 2012, (12)     | step_length         |
| c1     | 2012, (13)     | sufficient_decrease |
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import quadratic
from pilotfish.algebra.batch import chosen
from pilotfish.models.known import Expansion, expand
from pilotfish.types import Dynamics, LinearGaussian, Problem, Quadratic

STEP_LENGTHS = 10.0 ** np.linspace(0, -3, 11)  # (Tassa et al. 2012, code)
GROWTH, SMALLEST, LARGEST = 2.0, 1e-6, 1e10  # of the regularisation (Tassa et al. 2012, code: 1.6, 1e-6, 1e10)
ROUNDING = 4.0  # times the machine's precision of all costs: what their sum is known to
SETTLED = 1e4  # the same: an expected reduction below that cannot be measured


class Trajectory(NamedTuple):
    """Nominal trajectories of some conditions, and how firmly the next step from them is regularised."""

    controller: LinearGaussian
    """Feedback about the nominal trajectory."""
    x: Float[Array, "*N T1 dx"]
    """Nominal states."""
    u: Float[Array, "*N T du"]
    """Nominal actions, within the limits."""
    cost: Float[Array, "*N"]
    """Cost of the nominal trajectory."""
    regularisation: Float[Array, "*N"]
    growth: Float[Array, "*N"]
    """The factor by which the regularisation last changed."""


class Step(NamedTuple):
    """What a step of each condition came to."""

    ok: Bool[Array, "N"]
    """False if the nominal trajectory, its feedback or a derivative along it is not finite: all is as it was."""
    expected: Float[Array, "N"]
    """Reduction of the cost that a full step promised."""
    length: Float[Array, "N"]
    """Part of the step that was taken; 0 where the trajectory was kept."""
    gradient: Float[Array, "N"]
    """Norm of the cost's gradient in the actions before the step, without what presses against a limit."""


class Plan(NamedTuple):
    """What a backward pass proposes, per time step, and what it promises."""

    K: Float[Array, "T du dx"]
    k: Float[Array, "T du"]
    change: Float[Array, "T 2"]
    """A step of length alpha changes the cost by alpha times the first, alpha^2 times the second."""
    gradient: Float[Array, "T du"]
    """Gradient of the whole cost in the actions, without what presses against a limit."""
    definite: Bool[Array, "T"]
    """False where Q_uu is not positive definite: nothing before that step is of use."""

    def reduction(self, alpha: Float[Array, ""] | float) -> Float[Array, ""]:
        """What a step of length `alpha` is expected to take off the cost."""
        linear, curved = self.change.sum(0)
        return -(alpha * linear + alpha**2 * curved)


class Proposal(NamedTuple):
    """A plan, and the regularisation it took."""

    plan: Plan
    regularisation: Float[Array, ""]
    growth: Float[Array, ""]


class Trajectories(NamedTuple):
    """Where controllers lead, without any noise."""

    x: Float[Array, "*N A T1 dx"]
    u: Float[Array, "*N A T du"]
    """Executed actions."""
    cost: Float[Array, "*N A T1"]
    """The last is the final one."""


def begin(
    problem: Problem,
    dynamics: Dynamics,
    start: Float[Array, "N dx"],
    controllers: LinearGaussian,
    regularisation: Array | float = 0.0,
) -> Trajectory:
    """The trajectories on which controllers, leading axes (N, T), lead from these states; theirs is the feedback."""
    silent = jnp.zeros_like(controllers.chol)
    tried = jax.tree.map(lambda leaf: leaf[:, None], LinearGaussian(controllers.K, controllers.k, silent))
    x, u, cost = (leaf[:, 0] for leaf in _follow(problem, dynamics, start, tried))
    return Trajectory(
        controller=LinearGaussian(controllers.K, offsets(controllers.K, x, u), silent),
        x=x,
        u=u,
        cost=cost.sum(-1),
        regularisation=jnp.full(len(x), regularisation, x.dtype),
        growth=jnp.ones(len(x), x.dtype),
    )


def improved(
    problem: Problem, dynamics: Dynamics, now: Trajectory, sufficient_decrease: Array | float
) -> tuple[Trajectory, Step]:
    """The next nominal trajectories, by dynamics that need not be traceable."""
    f = dynamics.linearised(problem, now.x[:, :-1], now.u)
    expansion, proposal = _propose(problem, now, jnp.concatenate([f.A, f.B], -1))
    tried = _follow(problem, dynamics, now.x[:, 0], jax.vmap(_along)(now, proposal.plan))
    return _choose(now, expansion, proposal, tried, sufficient_decrease)


@eqx.filter_jit
def _propose(problem: Problem, now: Trajectory, AB: Float[Array, "N T dx dz"]) -> tuple[Expansion, Proposal]:
    """The expansion of each condition, and the step by it."""
    model = jax.vmap(lambda AB, x, u: expand(problem, AB, x, u))(AB, now.x, now.u)
    return model, jax.vmap(lambda now, model: _plan(problem, now, model))(now, model)


@eqx.filter_jit
def _choose(
    now: Trajectory, model: Expansion, proposal: Proposal, tried: Trajectories, sufficient_decrease: Array | float
) -> tuple[Trajectory, Step]:
    """The next trajectories by those tried."""
    new, step = jax.vmap(_taken, (0, 0, 0, 0, None))(now, model, proposal, tried, sufficient_decrease)
    return chosen(step.ok, new, now), step


def _taken(
    now: Trajectory, model: Expansion, proposal: Proposal, tried: Trajectories, sufficient_decrease: Array | float
) -> tuple[Trajectory, Step]:
    """One condition."""
    (plan, mu, growth), (x, u, costs) = proposal, tried
    lengths = jnp.asarray(STEP_LENGTHS, now.x.dtype)
    finite = jnp.isfinite(x).all((1, 2)) & jnp.isfinite(u).all((1, 2)) & jnp.isfinite(costs).all(1)
    nominal = jnp.append(model.cost.c, model.final.c)
    gains = jnp.where(finite, (nominal - costs).sum(1), -jnp.inf)
    precision = jnp.finfo(x.dtype).eps * jnp.abs(nominal).sum()
    # the longest of those that are best but for rounding
    best = jnp.argmax(gains >= gains.max() - ROUNDING * precision)
    gained, definite = gains[best], plan.definite.all()
    decreased = (gained > 0) & (gained >= sufficient_decrease * plan.reduction(lengths[best]))
    settled = definite & (plan.reduction(1.0) <= SETTLED * precision)
    unmeasured = settled & (best == 0) & (gained >= -ROUNDING * precision)
    taken = definite & decreased | unmeasured
    x, u = jnp.where(taken, x[best], now.x), jnp.where(taken, u[best], now.u)
    K = jnp.where(taken | settled, plan.K, now.controller.K)
    mu, growth = _regularisation(mu, growth, taken | settled)
    new = Trajectory(
        controller=LinearGaussian(K, offsets(K, x, u), now.controller.chol),
        x=x,
        u=u,
        cost=jnp.where(taken, costs[best].sum(), now.cost),
        regularisation=mu,
        growth=growth,
    )
    ok = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((new, model))]).all()
    step_length = jnp.where(taken, lengths[best], 0.0)
    return new, Step(ok, plan.reduction(1.0), step_length, jnp.linalg.norm(plan.gradient))


def _plan(problem: Problem, now: Trajectory, model: Expansion) -> Proposal:
    """The step, by the least regularisation from the present one up that makes every Q_uu positive definite."""
    weight = _regulariser(problem, model)

    def attempt(mu: Array, growth: Array) -> Proposal:
        return Proposal(_backward(problem, now, model, mu * weight), mu, growth)

    def unusable(proposal: Proposal) -> Array:
        return ~proposal.plan.definite.all() & (proposal.regularisation < LARGEST)

    def raised(proposal: Proposal) -> Proposal:
        return attempt(*_regularisation(proposal.regularisation, proposal.growth, jnp.asarray(False)))

    return jax.lax.while_loop(unusable, raised, attempt(now.regularisation, now.growth))


def _backward(problem: Problem, now: Trajectory, model: Expansion, weight: Float[Array, "dz"]) -> Plan:
    """The minimiser of every Q_t and of the regularisation, by weights of next state and action, from the last to
    the first.
    """
    dx = problem.dx
    low, high = problem.action_low, problem.action_high
    action = jnp.diag(weight.at[:dx].set(0.0))

    def step(carry: tuple[Quadratic, Float[Array, "dx"]], at_t: tuple):
        V, costate = carry
        AB, cost, u = at_t
        ahead = quadratic.compose(V, AB, jnp.zeros(dx))
        Q = Quadratic(cost.H + ahead.H, cost.h + ahead.h, cost.c + ahead.c)
        H = Q.H + (AB.T * weight[:dx]) @ AB + action
        k, free = box_minimum(H[dx:, dx:], Q.h[dx:], low - u, high - u)
        K = -_solve_free(H[dx:, dx:], free, H[dx:, :dx])
        slope = cost.h + AB.T @ costate
        pressed = _pressed(u, slope[dx:], low, high)
        plan = Plan(
            K=K,
            k=k,
            change=jnp.stack([k @ Q.h[dx:], 0.5 * k @ Q.H[dx:, dx:] @ k]),
            gradient=slope[dx:] * ~pressed,
            definite=jnp.isfinite(jnp.linalg.cholesky(H[dx:, dx:])).all(),
        )
        V = quadratic.compose(Q, jnp.concatenate([jnp.eye(dx), K]), jnp.concatenate([jnp.zeros(dx), k]))
        return (V, slope[:dx]), plan

    return jax.lax.scan(step, (model.final, model.final.h), (model.AB, model.cost, now.u), reverse=True)[1]


def _regulariser(problem: Problem, model: Expansion) -> Float[Array, "dz"]:
    """Weights of the squares of next state and action, at mu = 1.

    They scale each entry by its spread under actions of the problem's initial_std, and the whole by how much the cost
    varies on that scale. What does not spread, or beyond all bounds, has no weight.
    """
    dx, spread = problem.dx, jnp.diag(problem.initial_std)

    def step(cov: Float[Array, "dx dx"], AB: Float[Array, "dx dz"]) -> tuple[Array, Array]:
        return AB @ jsl.block_diag(cov, spread**2) @ AB.T, jnp.diagonal(cov)

    last, before = jax.lax.scan(step, jnp.zeros((dx, dx)), model.AB)
    states = jnp.sqrt(jnp.concatenate([before, jnp.diagonal(last)[None]]).mean(0))
    scale = jnp.concatenate([jnp.where(jnp.isfinite(states), states, 0.0), problem.initial_std])

    def variation(cost: Quadratic, scale: Array) -> Array:
        return jnp.linalg.norm(cost.h * scale) + jnp.linalg.norm(cost.H * scale * scale[:, None])

    steps = jax.vmap(lambda cost: variation(cost, scale))(model.cost)
    unit = (steps.sum() + variation(model.final, scale[:dx])) / (len(steps) + 1)
    return jnp.where(scale > 0, jnp.where(unit > 0, unit, 1.0) / jnp.where(scale > 0, scale, 1.0) ** 2, 0.0)


def box_minimum(
    H: Float[Array, "du du"], g: Float[Array, "du"], low: Float[Array, "du"], high: Float[Array, "du"]
) -> tuple[Float[Array, "du"], Bool[Array, "du"]]:
    """The minimiser of `1/2 u'Hu + g'u` within `low <= u <= high`, and which of its entries are at no limit.

    Projected Newton steps (Bertsekas 1982; Tassa, Mansard & Todorov 2014): entries that the gradient presses against
    their limit are held, the others go along a Newton step, each until it meets its limit. H must be positive definite.
    """

    def slope(u: Float[Array, "du"]) -> Float[Array, "du"]:
        return H @ u + g

    def unfinished(carry: tuple[Array, Array, Array]) -> Array:
        u, moved, i = carry
        residual = jnp.where(_pressed(u, slope(u), low, high), 0.0, jnp.abs(slope(u)))
        size = jnp.abs(H) @ jnp.abs(u) + jnp.abs(g)
        return moved & (i < 50) & (residual > 1e-10 * size).any()

    def step(carry: tuple[Array, Array, Array]):
        u, _, i = carry
        q = slope(u)[:, None]
        free = ~_pressed(u, q[:, 0], low, high)
        # what a first Newton step would push out of its limit is held too: the steps would zigzag else
        free = free & ~_pressed(u, _solve_free(H, free, q)[:, 0], low, high)
        better = _best_along(u, -_solve_free(H, free, q)[:, 0], H, g, low, high)
        return better, (better != u).any(), i + 1

    start = jnp.clip(-_solve_free(H, jnp.ones_like(g, bool), g[:, None])[:, 0], low, high)
    u, *_ = jax.lax.while_loop(unfinished, step, (start, jnp.asarray(True), jnp.asarray(0)))
    return u, ~_pressed(u, slope(u), low, high)


def _best_along(
    u: Float[Array, "du"],
    move: Float[Array, "du"],
    H: Float[Array, "du du"],
    g: Float[Array, "du"],
    low: Float[Array, "du"],
    high: Float[Array, "du"],
) -> Float[Array, "du"]:
    """The minimiser of `1/2 u'Hu + g'u` on the way from u along `move`, on which each entry stops at its limit.

    The way is straight between the lengths at which limits are met, so each of its pieces has a closed form.
    """
    limit = jnp.where(move < 0, low, high)
    met = jnp.where(move == 0, jnp.inf, (limit - u) / move)

    def at(length: Float[Array, "n"]) -> Float[Array, "n du"]:
        return jnp.where(met <= length[:, None], limit, u + length[:, None] * move)

    knots = jnp.sort(jnp.clip(jnp.append(met, jnp.array([0.0, 1.0])), 0.0, 1.0))
    begin, end = knots[:-1], knots[1:]
    on = jnp.where(met > begin[:, None], move, 0.0)
    curvature = jnp.maximum((on @ H * on).sum(1), jnp.finfo(g.dtype).tiny)
    tried = at(jnp.clip(begin - (on * (at(begin) @ H + g)).sum(1) / curvature, begin, end))
    change = ((tried - u) * (H @ u + g + 0.5 * (tried - u) @ H)).sum(1)
    best = jnp.argmin(change)
    return jnp.where(change[best] < 0, tried[best], u)


def _solve_free(H: Float[Array, "du du"], free: Bool[Array, "du"], b: Float[Array, "du n"]) -> Float[Array, "du n"]:
    """`H^-1 b` among the free entries, 0 in the others."""
    within = jnp.where(free[:, None] & free, H, jnp.eye(H.shape[0]))
    return jsl.cho_solve((jnp.linalg.cholesky(within), True), jnp.where(free[:, None], b, 0.0))


def _pressed(
    u: Float[Array, "du"], gradient: Float[Array, "du"], low: Float[Array, "du"], high: Float[Array, "du"]
) -> Bool[Array, "du"]:
    """Where an action lies at a limit, but for rounding, and a lower cost beyond it."""
    rounding = 4 * jnp.finfo(u.dtype).eps * jnp.abs(u)
    return ((u <= low + rounding) & (gradient > 0)) | ((u >= high - rounding) & (gradient < 0))


def _regularisation(
    mu: Float[Array, ""], growth: Float[Array, ""], succeeded: Bool[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The next regularisation, and the factor to it (Tassa et al. 2012, section II-F)."""
    less, more = jnp.minimum(growth, 1.0) / GROWTH, jnp.minimum(jnp.maximum(growth, 1.0) * GROWTH, LARGEST)
    lowered = jnp.where(mu * less < SMALLEST, 0.0, mu * less)
    raised = jnp.clip(mu * more, SMALLEST, LARGEST)
    return jnp.where(succeeded, lowered, raised), jnp.where(succeeded, less, more)


def _follow(
    problem: Problem, dynamics: Dynamics, start: Float[Array, "N dx"], controllers: LinearGaussian
) -> Trajectories:
    """Where A controllers of each condition lead."""
    first = jnp.broadcast_to(start[:, None], (*controllers.k.shape[:2], problem.dx))
    x, u = map(jnp.asarray, dynamics.simulate(problem, first, controllers))
    return Trajectories(x, u, _costs(problem, x, u))


@eqx.filter_jit
def _costs(problem: Problem, x: Float[Array, "N A T1 dx"], u: Float[Array, "N A T du"]) -> Float[Array, "N A T1"]:
    return jax.vmap(jax.vmap(problem.costs))(x, u)


def _along(now: Trajectory, plan: Plan) -> LinearGaussian:
    """The controllers that make a step of each length."""
    lengths = jnp.asarray(STEP_LENGTHS, now.x.dtype)[:, None, None]
    k = offsets(plan.K, now.x, now.u) + lengths * plan.k
    over = (len(lengths), 1, 1, 1)
    return LinearGaussian(jnp.tile(plan.K, over), k, jnp.tile(now.controller.chol, over))


def offsets(K: Float[Array, "*N T du dx"], x: Float[Array, "*N T1 dx"], u: Float[Array, "*N T du"]) -> Array:
    """k, for which `K x + k` is u along a trajectory."""
    return u - jnp.einsum("...ij,...j->...i", K, x[..., :-1, :])
