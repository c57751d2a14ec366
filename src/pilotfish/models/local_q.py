"""Quadratic Q-functions of one condition, from its rollouts alone (MOTO, section 4): no model of the dynamics.

    what is remembered            samples of the last iterations, newest first, and where their controllers went
    state marginal rho_t          section 4.3     models/occupancy.py
    importance weights            section 4.2     models/occupancy.py
    quadratic Q_t and V_t         section 4.1     models/value.py

`FittedQ` says how; `LocalQ` is what is found: the counterpart of a `LocalModel`, of which there need be no dynamics.
"""

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pilotfish.algebra import gaussian, quadratic, regression
from pilotfish.algebra.batch import each, pushed
from pilotfish.algebra.dual import WhiteStep
from pilotfish.models import improvement, occupancy, value
from pilotfish.models.occupancy import Occupancy
from pilotfish.models.value import Transitions
from pilotfish.types import (
    Gaussian,
    LinearDynamics,
    LinearGaussian,
    Problem,
    Quadratic,
    Rollouts,
    check_choice,
)

Reuse = Literal["none", "time", "iterations", "both"]
Targets = Literal["dynamic-programming", "monte-carlo"]
Marginal = Literal["samples", "propagated"]


class Pool(NamedTuple):
    """Whose samples a step's regression uses besides its own of this iteration."""

    steps: bool
    """Those of the other time steps."""
    iterations: bool
    """Those of earlier iterations."""

    @property
    def weighs(self) -> bool:
        """Whether samples come from other distributions than the step's own, and so need importance weights."""
        return self.steps or self.iterations


POOLS = {
    "none": Pool(steps=False, iterations=False),
    "time": Pool(steps=True, iterations=False),
    "iterations": Pool(steps=False, iterations=True),
    "both": Pool(steps=True, iterations=True),
}
FITS = {"dynamic-programming": value.dynamic_programming, "monte-carlo": value.monte_carlo}


class History(NamedTuple):
    """The rollouts of the last iterations, newest first, and where the controllers that made them went."""

    x: Float[Array, "*K M T1 dx"]
    u: Float[Array, "*K M T du"]
    cost: Float[Array, "*K M T1"]
    steps: Int[Array, "*K M"]
    """How many steps of a rollout happened; 0 where it has not been made yet."""
    occupancy: Occupancy
    """Leading axes K, T."""
    log_density: Float[Array, "*K K #T m"]
    """Log density of each iteration's occupancies (first axis) at the samples of each iteration (second), which do not
    change as long as both are kept. Empty if samples of one iteration are used."""

    @property
    def happened(self) -> Float[Array, "*K M T"]:
        """1 for the steps that happened, else 0."""
        return (jnp.arange(self.u.shape[-2]) < self.steps[..., None]).astype(self.x.dtype)

    @property
    def whole(self) -> Float[Array, "*K M T"]:
        """1 for all steps of the rollouts that did not break off, else 0."""
        return jnp.broadcast_to((self.steps == self.u.shape[-2])[..., None], self.u.shape[:-1]).astype(self.x.dtype)

    @property
    def made(self) -> Float[Array, "*K T"]:
        """Number of samples of every iteration's steps."""
        return self.happened.sum(-2)


class LocalQ(NamedTuple):
    """What is believed of one condition: how the costs to come depend on states and actions near its rollouts."""

    occupancy: Occupancy
    """Where the controller that was rolled out goes; leading axis T."""
    Q: Quadratic
    """Over the white coordinates (s, e) of the occupancy; leading axis T."""
    cost: Float[Array, ""]
    """Mean cost of the rollouts."""
    evidence: Float[Array, "T"]
    """Effective samples of a step as a part of what its regression needs, at most 1: so much of a trust region is
    justified."""
    white: Float[Array, "T M dx"]
    """White coordinates of the rollouts' states."""
    ahead: LinearDynamics
    """From the white coordinates (s, e) of a step to the next step's s, by regression on the samples of Q: as far as a
    trust region asks where a controller goes. Of the last step it says nothing."""

    def about(self, controller: LinearGaussian) -> "LocalQ":
        """The same function in the white coordinates of another controller, in the same states.

        With `u = K x + k + R e` of either, `e = R^-1 ( R' e' + (K' - K) x + k' - k )`.
        """
        move = self._from_here(controller)
        dx, du = move.G.shape[-1], move.g.shape[-1]
        T = len(move.g)
        state = jnp.broadcast_to(jnp.eye(dx, dx + du), (T, dx, dx + du))
        A = jnp.concatenate([state, jnp.concatenate([move.G, move.chol], -1)], -2)
        b = jnp.concatenate([jnp.zeros((T, dx)), move.g], -1)
        Q = quadratic.compose(self.Q, A, b)
        f = self.ahead
        c = f.c + jnp.einsum("tij,tj->ti", f.B, move.g)
        ahead = LinearDynamics(f.A + f.B @ move.G, f.B @ move.chol, c, f.cov)
        return self._replace(occupancy=self.occupancy._replace(controller=controller), Q=Q, ahead=ahead)

    def expected_cost(self, controller: LinearGaussian) -> Float[Array, ""]:
        """Expected cost of an episode of another controller, to first order: as if the states stayed as they are."""
        a = jax.vmap(improvement.advantage)(self.Q, self._from_here(controller))
        return self.cost + (a.c + 0.5 * jnp.trace(a.H, axis1=-2, axis2=-1)).sum()

    def _from_here(self, controller: LinearGaussian) -> WhiteStep:
        """A controller in the white coordinates, `e ~ N(G s + g, chol chol')`."""
        now = self.occupancy.controller
        gain, offset = controller.K - now.K, controller.k - now.k
        offset = offset + jnp.einsum("tij,tj->ti", gain, self.occupancy.mean)
        solve = jax.vmap(gaussian.solve_chol)
        g = solve(now.chol, offset[..., None])[..., 0]
        return WhiteStep(solve(now.chol, gain @ self.occupancy.chol), g, solve(now.chol, controller.chol))


class Found(NamedTuple):
    """What `FittedQ.fit` finds."""

    history: History
    belief: LocalQ
    enough: Bool[Array, ""]
    """Whether there are enough rollouts for a step."""
    collects: Bool[Array, ""]
    """Whether they are too few since rollouts to reuse are still being collected."""
    ess: Float[Array, "T"]
    """Effective number of samples of each step's regression."""


class FittedQ(eqx.Module):
    """How Q is fitted, and to which samples."""

    reuse: Reuse = eqx.field(static=True, default="none")
    """Which samples a step's regression reuses, by importance weights: none, those of the other time steps,
    of the last `memory` iterations, or both. Where the final cost has no formula, the last step's takes none of other
    steps, for nobody knows what these would cost at the end."""
    memory: int = eqx.field(static=True, default=5)
    """Number of iterations, this one included, whose samples are kept for reuse (paper: K)."""
    state_decay: float = 0.8
    """Weight of an iteration's states in the state marginals, relative to the next one's, when earlier
    iterations are kept (paper: gamma)."""
    marginal: Marginal = eqx.field(static=True, default="samples")
    """State marginals from decayed samples (paper, 4.3.2) or propagated by importance weights (4.3.1)."""
    targets: Targets = eqx.field(static=True, default="dynamic-programming")
    """What Q is fitted to: cost plus the next step's V, or the rollout's own sum of costs."""
    ridge: float = 1e-4
    """Penalty of the regression, on orthonormal features of whitened inputs (paper: lambda)."""
    underdetermined: bool = eqx.field(static=True, default=False)
    """Allow fewer rollouts than Q has features without sample reuse, as the paper's ablations do; then only the ridge
    determines Q."""

    def __check_init__(self):
        check_choice(self, "reuse", Reuse)
        check_choice(self, "marginal", Marginal)
        check_choice(self, "targets", Targets)
        for name, inside, remedy in (
            ("state_decay", lambda v: 0 <= v <= 1, "a weight from 0 to 1"),
            ("ridge", lambda v: v > 0, "the regression needs a positive penalty"),
        ):
            if isinstance(number := getattr(self, name), int | float) and not inside(number):
                raise ValueError(f"{name}={number}: {remedy}.")
        if self.memory < 1:
            raise ValueError(f"memory={self.memory}: at least this iteration's samples are kept, so 1 or more.")
        if self.targets == "monte-carlo" and self.reuse != "none":
            raise ValueError(
                f"targets='monte-carlo' with reuse={self.reuse!r}: a rollout's sum of costs belongs to the "
                "controller that made it, so no sample can be reused. Set reuse='none'."
            )

    def begin(self, problem: Problem, episodes: int) -> History:
        """Histories (leading axis N) before the first of iterations with `episodes` rollouts from each condition.

        ValueError where so few rollouts determine no quadratic function.
        """
        need, pool = regression.feature_count(problem.dx + problem.du), POOLS[self.reuse]
        if not pool.weighs and episodes < need and not self.underdetermined:
            raise ValueError(
                f"rollouts={episodes}: without sample reuse a quadratic Q-function of {problem.dx} + {problem.du} "
                f"variables needs at least {need} rollouts an iteration. Raise rollouts to {need} or more, or set "
                "reuse='both' to reuse the samples of other time steps and earlier iterations."
            )
        K = 1 if not pool.weighs and self.marginal == "samples" else self.memory
        return jax.vmap(lambda first: _nothing(first, K, episodes, pool))(problem.first_controller)

    def fit(self, problem: Problem, controller: LinearGaussian, before: History, rollouts: Rollouts) -> Found:
        """What is believed of one condition after the `cleaned` rollouts of a controller."""
        history = _remembered(self, controller, before, rollouts)
        now = _newest(history.occupancy)
        data, final, history = _transitions(self, problem, history)
        features = regression.feature_count(problem.dx + problem.du)
        ess = occupancy.effective_samples(data.weight)
        ridge = self.ridge * jnp.maximum(1.0, features / ess) ** 2
        belief = LocalQ(
            occupancy=now,
            Q=FITS[self.targets](data, final, now, ridge).Q,
            cost=(rollouts.weight * rollouts.cost).sum(),
            evidence=jnp.minimum(1.0, ess / features),
            white=jax.vmap(Occupancy.white_state)(now, _by_step(history.x[:1, :, :-1])),
            ahead=_ahead(data, now),
        )
        enough = (history.made.sum(0) > problem.dx + 1).all()
        # with few rollouts an iteration, the first only fill the history
        collects = ~enough & rollouts.happened.any() & (history.steps[-1].sum() == 0)
        return Found(history, belief, enough, collects, ess)


def _nothing(controller: LinearGaussian, K: int, M: int, pool: Pool) -> History:
    """A history of K iterations of M rollouts that have not been made yet."""
    T, du, dx = controller.K.shape
    rows = (1, M * T) if pool.steps else (T, M)
    return History(
        x=jnp.zeros((K, M, T + 1, dx)),
        u=jnp.zeros((K, M, T, du)),
        cost=jnp.zeros((K, M, T + 1)),
        steps=jnp.zeros((K, M), int),
        occupancy=_over(K, Occupancy(jnp.zeros((T, dx)), _over(T, jnp.eye(dx)), controller)),
        log_density=jnp.zeros((K, K, *rows) if pool.iterations else (0, 0, 1, 0)),
    )


def _remembered(how: FittedQ, controller: LinearGaussian, old: History, rollouts: Rollouts) -> History:
    """The history with this iteration's rollouts of `controller` in front, and their occupancy."""
    new = (rollouts.x, rollouts.u, rollouts.cost, rollouts.steps)
    x, u, cost, steps = pushed(new, (old.x, old.u, old.cost, old.steps))
    history = History(x, u, cost, steps, old.occupancy, old.log_density)
    now = MARGINALS[how.marginal](how, history, controller)
    return history._replace(occupancy=pushed(now, old.occupancy))


def _sampled(how: FittedQ, history: History, controller: LinearGaussian) -> Occupancy:
    """Where the controller goes: by samples, of which older ones count less (section 4.3.2)."""
    decayed = history.happened * how.state_decay ** jnp.arange(len(history.x))[:, None, None]
    return occupancy.from_samples(_by_step(history.x[:, :, :-1]), _by_step(decayed[..., None])[..., 0], controller)


def _propagated(how: FittedQ, history: History, controller: LinearGaussian) -> Occupancy:
    """Where the controller goes: from step to step, by importance weights (section 4.3.1).

    The history's occupancies are still those before this iteration, whose rollouts are in front.
    """
    made, states, actions = history.made, _by_step(history.x[:, :, :-1]), _by_step(history.u)
    share = occupancy.shares(made, pooled=False)
    older = jax.tree.map(lambda leaf: leaf[:-1], history.occupancy)
    of_older = occupancy.of_iterations(older, made[1:], states, actions, pooled=False)
    happened = _by_step(history.happened[..., None])[..., 0]
    log_older = occupancy.mixed(of_older, share[1:])
    return occupancy.propagated(states, actions, happened, log_older, share[0], controller)


MARGINALS = {"samples": _sampled, "propagated": _propagated}


def _transitions(how: FittedQ, problem: Problem, history: History) -> tuple[Transitions, Array, History]:
    """The samples of all steps' regressions with their weights, the final cost at the last `x_next`, and the history
    with their densities.
    """
    pool = POOLS[how.reuse]
    used = history if pool.iterations else jax.tree.map(lambda leaf: leaf[:1], history)
    arrange = _by_sample if pool.steps else _by_step
    x, u, x_next = arrange(used.x[:, :, :-1]), arrange(used.u), arrange(used.x[:, :, 1:])
    # a sum of costs needs the whole rollout
    counted = used.whole if how.targets == "monte-carlo" else used.happened
    happened = arrange(counted[..., None])[..., 0]
    cost, final = _pooled_costs(problem, used, x[0], u[0], x_next[0]) if pool.steps else _own_costs(used)
    if not pool.weighs:
        log_weight = jnp.zeros_like(cost)
    else:
        log_z = occupancy.log_densities(_newest(used.occupancy), x, u)
        log_mixture = occupancy.of_iteration(log_z, used.made[0], pool.steps)
        if pool.iterations:
            history = history._replace(log_density=_densities(history, log_mixture, x, u, pool.steps))
            log_mixture = _of_mixture(history, pool.steps)
        log_weight = log_z - log_mixture
    happened = jnp.broadcast_to(happened, log_weight.shape)
    if pool.steps and problem.final_cost is None:
        log_last, at_last = _of_the_last_step(used)
        log_weight, happened = log_weight.at[-1].set(log_last), happened.at[-1].multiply(at_last)
    weight = jax.vmap(occupancy.normalised)(log_weight, happened)
    # no controller depends on a constant, which would only cost digits
    level = (weight * cost).sum(1, keepdims=True)
    return Transitions(x, u, x_next, cost - level, weight), final - weight[-1] @ final, history


def _ahead(data: Transitions, now: Occupancy) -> LinearDynamics:
    """Where transitions lead, in white coordinates."""
    following = jax.tree.map(lambda leaf: jnp.concatenate([leaf[1:], leaf[-1:]]), now)
    shared, dx, d = data.x.shape[0] == 1, data.x.shape[-1], data.x.shape[-1] + data.u.shape[-1]

    def of_step(own, weight: Float[Array, "n"], here: Occupancy, there: Occupancy) -> LinearDynamics:
        x, u, x_next = (data.x[0], data.u[0], data.x_next[0]) if shared else own
        points = jnp.concatenate([here.white(x, u), there.white_state(x_next)], -1)
        joint = Gaussian(*regression.moments(points, weight))
        found = regression.conditioned(joint, d, jnp.full(d, regression.RESOLUTION))
        return LinearDynamics(found.gain[:, :dx], found.gain[:, dx:], found.offset, found.cov)

    return each(of_step, None if shared else (data.x, data.u, data.x_next), data.weight, now, following)


def _own_costs(used: History) -> tuple[Float[Array, "T n"], Float[Array, "n"]]:
    """Costs and final costs of each step's own samples."""
    return _by_step(used.cost[:, :, :-1, None])[..., 0], used.cost[:, :, -1].ravel()


def _pooled_costs(
    problem: Problem, used: History, x: Float[Array, "n dx"], u: Float[Array, "n du"], x_next: Float[Array, "n dx"]
) -> tuple[Float[Array, "T n"], Float[Array, "n"]]:
    """What all steps' samples would cost at each step, and their next states at the end; where that has no formula,
    what those of the last step did cost.
    """
    if problem.final_cost is None:
        final = _at_the_last_step(used, used.cost[:, :, -1])
    else:
        final = jax.vmap(problem.final_cost)(x_next)
    if problem.cost is None:  # the same at all steps
        return jnp.broadcast_to(used.cost[:, :, :-1].ravel(), (problem.horizon, len(x))), final
    cost_of = jax.vmap(problem.cost, (0, 0, None))
    return each(lambda t: cost_of(x, u, t), jnp.arange(problem.horizon)), final


def _of_the_last_step(used: History) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """Log weights, in the row of all steps' samples, of the last step's own alone, and 1 where these are, else 0."""
    last, made = jax.tree.map(lambda leaf: leaf[:, -1:], (used.occupancy, used.made))
    x, u = _by_step(used.x[:, :, -2:-1]), _by_step(used.u[:, :, -1:])
    log_z = occupancy.of_iterations(last, made, x, u, pooled=False)
    log_weight = log_z[0] - occupancy.mixed(log_z, occupancy.shares(made, pooled=False))
    own = used.cost[:, :, -1]
    return _at_the_last_step(used, log_weight.reshape(own.shape)), _at_the_last_step(used, jnp.ones_like(own))


def _at_the_last_step(used: History, a: Float[Array, "K M"]) -> Float[Array, "n"]:
    """Numbers of the last step's samples in the row of all steps' samples, with 0 for those of the others."""
    return jnp.zeros(used.u.shape[:-1]).at[..., -1].set(a).ravel()


def _densities(
    history: History, newest: Float[Array, "#T n"], x: Float[Array, "#T n dx"], u: Float[Array, "#T n du"], pooled: bool
) -> Float[Array, "K K #T m"]:
    """The history's densities, of which only those of the newest iteration are new: of its occupancies, at all samples
    (`newest`), and at its samples, which come first in the rows of x and u.
    """
    K = history.x.shape[0]
    m = newest.shape[1] // K
    older = jax.tree.map(lambda leaf: leaf[1:], history.occupancy)
    at_new = occupancy.of_iterations(older, history.made[1:], x[:, :m], u[:, :m], pooled)
    of_older = jnp.concatenate([at_new[:, None], history.log_density[:-1, :-1]], 1)
    of_newest = newest.reshape(-1, K, m).swapaxes(0, 1)
    return jnp.concatenate([of_newest[None], of_older])


def _of_mixture(history: History, pooled: bool) -> Float[Array, "#T n"]:
    """Log density, at each sample, of the mixture of all iterations that made it."""
    K, _, rows, _ = history.log_density.shape
    log_density = history.log_density.swapaxes(1, 2).reshape(K, rows, -1)
    return occupancy.mixed(log_density, occupancy.shares(history.made, pooled))


def _by_step(a: Float[Array, "K M T d"]) -> Float[Array, "T K*M d"]:
    """Each step's own samples."""
    return jnp.moveaxis(a, 2, 0).reshape(a.shape[2], -1, a.shape[3])


def _by_sample(a: Float[Array, "K M T d"]) -> Float[Array, "1 K*M*T d"]:
    """All steps' samples in one row."""
    return a.reshape(1, -1, a.shape[3])


def _newest(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _over(n: int, tree: Any) -> Any:
    """The same leaves `n` times."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), tree)
