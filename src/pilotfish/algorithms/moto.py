"""MOTO: model-free trajectory optimisation (Akrour, Abdolmaleki, Abdulsamad, Peters, Neumann; JMLR 2018).

Each iteration, from rollouts of the current time-varying linear-Gaussian controller:

    state marginal rho_t          section 4.3     models/occupancy.py
    importance weights            section 4.2     models/occupancy.py
    quadratic Q_t and V_t         section 4.1     models/value.py
    new controller of each step   section 3       algebra/dual.py
    what it promises              section 5       models/improvement.py

| symbol  | paper            | code          |
| eps     | (2)              | kl_step       |
| beta0   | section 3.1      | entropy_drop  |
| gamma   | section 4.3.2    | state_decay   |
| K       | section 4.2.2    | memory        |
| lambda  | (6)              | ridge         |
"""

from typing import Any, ClassVar, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import dual, gaussian, regression
from pilotfish.algebra.batch import each
from pilotfish.algorithms import Algorithm, check_number
from pilotfish.models import improvement, occupancy, value
from pilotfish.models.occupancy import Occupancy, Over
from pilotfish.models.value import Transitions
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.types import Key, LinearGaussian, Problem, Quadratic, Rollouts

Reuse = Literal["none", "time", "iterations", "both"]
Targets = Literal["dynamic-programming", "monte-carlo"]
Marginal = Literal["samples", "propagated"]


class History(NamedTuple):
    """The rollouts of the last iterations, newest first, and where the controllers that made them went."""

    x: Float[Array, "*K M T1 dx"]
    u: Float[Array, "*K M T du"]
    cost: Float[Array, "*K M T1"]
    valid: Float[Array, "*K M"]
    """1 where a rollout may be used, 0 where it broke off or has not been made yet."""
    occupancy: Occupancy
    """Leading axes K, T."""
    log_density: Float[Array, "*K K #T m"]
    """Log density of each iteration's occupancies (first axis) at the samples of each iteration (second), which do not
    change as long as both are kept. Empty if samples of one iteration are used."""


class State(NamedTuple):
    """What the next iteration needs; leading axis: the condition."""

    controller: LinearGaussian
    history: History


class Info(NamedTuple):
    """What an iteration reports. Means are over time steps and conditions."""

    ok: Bool[Array, ""]
    """False if too few rollouts were usable or the new controller is not finite: the old one is kept. While rollouts
    to reuse are still being collected it is kept as well, and this is True."""
    kl: Float[Array, ""]
    """Mean expected KL of the new controller to the old, nats a step."""
    kl_max: Float[Array, ""]
    """The largest of them: at most `kl_step`."""
    entropy: Float[Array, ""]
    """Mean entropy of the new controller's actions, nats a step."""
    entropy_change: Float[Array, ""]
    """Mean change of entropy: at least `-entropy_drop`."""
    eta: Float[Array, ""]
    """Median multiplier of the KL bound."""
    omega: Float[Array, ""]
    """Median multiplier of the entropy bound."""
    ess: Float[Array, ""]
    """Mean effective number of samples of a step's regression."""
    ess_min: Float[Array, ""]
    """The smallest of them."""
    predicted: Float[Array, ""]
    """Mean decrease of the expected cost of an episode that the Q-functions promise under the current states."""
    guaranteed: Float[Array, ""]
    """Mean of the least decrease that Theorem 4 leaves possible, over the states of this iteration's rollouts: almost
    always an increase, and a large one."""


class MOTO(Algorithm):
    """Model-free trajectory optimisation."""

    default_rollouts: ClassVar[int] = 20
    default_iterations: ClassVar[int] = 30

    kl_step: float = 0.1
    """Bound on each step's expected KL between successive controllers, nats (paper: eps)."""
    entropy_drop: float = 0.05
    """Largest loss of entropy of a step's actions per iteration, nats; `inf`: no bound (paper: beta0)."""
    reuse: Reuse = eqx.field(static=True, default="none")
    """Which samples a step's regression reuses, by importance weights: none, those of the other time steps,
    of the last `memory` iterations, or both."""
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
        for name, allowed in (("reuse", Reuse), ("marginal", Marginal), ("targets", Targets)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(get_args(allowed))}.")
        check_number(self, "kl_step", lambda v: v > 0, "the bound on the KL must be positive")
        check_number(self, "entropy_drop", lambda v: v >= 0, "0 keeps the entropy, inf leaves it unbounded")
        check_number(self, "state_decay", lambda v: 0 <= v <= 1, "a weight from 0 to 1")
        check_number(self, "ridge", lambda v: v > 0, "the regression needs a positive penalty")
        if self.memory < 1:
            raise ValueError(f"memory={self.memory}: at least this iteration's samples are kept, so 1 or more.")
        if self.targets == "monte-carlo" and self.reuse != "none":
            raise ValueError(
                f"targets='monte-carlo' with reuse={self.reuse!r}: a rollout's sum of costs belongs to the "
                "controller that made it, so no sample can be reused. Set reuse='none'."
            )

    def init(self, problem: Problem, samples: int, key: Key) -> State:
        """The problem's first controller; an empty history."""
        need = regression.feature_count(problem.dx + problem.du)
        if self.reuse == "none" and samples < need and not self.underdetermined:
            raise ValueError(
                f"rollouts={samples}: without sample reuse a quadratic Q-function of {problem.dx} + {problem.du} "
                f"variables needs at least {need} rollouts an iteration. Raise rollouts to {need} or more, or set "
                "reuse='both' to reuse the samples of other time steps and earlier iterations."
            )
        K, T, dx, du = self._kept, problem.horizon, problem.dx, problem.du

        def begin(controller: LinearGaussian) -> State:
            nowhere = Occupancy(jnp.zeros((T, dx)), _over(T, jnp.eye(dx)), controller)
            history = History(
                x=jnp.zeros((K, samples, T + 1, dx)),
                u=jnp.zeros((K, samples, T, du)),
                cost=jnp.zeros((K, samples, T + 1)),
                valid=jnp.zeros((K, samples)),
                occupancy=_over(K, nowhere),
                log_density=self._no_densities(samples, T),
            )
            return State(controller, history)

        return jax.vmap(begin)(problem.first_controller)

    def explore(self, state: State) -> LinearGaussianPolicy:
        return LinearGaussianPolicy(state.controller)

    def exploit(self, state: State) -> LinearGaussianPolicy:
        return LinearGaussianPolicy(state.controller).noise_free()

    def update(self, problem: Problem, state: State, rollouts: Rollouts, key: Key) -> tuple[State, Info]:
        one = jax.vmap(lambda *condition: self._update(problem, *condition))
        state, (ok, multipliers, entropy, ess, change) = one(
            state, rollouts.x, rollouts.u, rollouts.cost, rollouts.valid
        )
        return state, Info(
            ok=ok.all(),
            kl=multipliers.kl.mean(),
            kl_max=multipliers.kl.max(),
            entropy=entropy.mean(),
            entropy_change=multipliers.entropy_change.mean(),
            eta=jnp.median(multipliers.eta),
            omega=jnp.median(multipliers.omega),
            ess=ess.mean(),
            ess_min=ess.min(),
            predicted=-change.advantage.mean(),
            guaranteed=-change.bound.mean(),
        )

    def _update(self, problem, state, x, u, cost, valid):
        """One condition: x (M, T+1, dx), u (M, T, du), cost (M, T+1), valid (M,)."""
        history = self._remember(state, x, u, cost, valid)
        now = _newest(history.occupancy)
        data, final, history = self._transitions(problem, history)
        features = regression.feature_count(problem.dx + problem.du)
        ess = occupancy.effective_samples(data.weight)
        ridge = self.ridge * jnp.maximum(1.0, features / ess) ** 2
        if self.targets == "monte-carlo":
            target = value.monte_carlo(data.cost, final)
        else:
            target = value.dynamic_programming(data, final, now, ridge)
        Q = value.q_function(data, target, now, ridge)
        controller, step, multipliers = jax.vmap(self._improve, (0, 0, 0, None))(
            now, Q, jnp.minimum(1.0, ess / features), problem.dx
        )
        white = jax.vmap(Occupancy.white_state)(now, _by_step(history.x[:1, :, :-1]))
        change = improvement.change(Q, step, multipliers.kl, white, valid)
        enough = history.valid.sum() > problem.dx + 1
        # with few rollouts an iteration, the first only fill the history
        collects = ~enough & valid.any() & (history.valid[-1].sum() == 0)
        controller, multipliers, change = jax.tree.map(
            lambda new, none: jnp.where(collects, none, new),
            (controller, multipliers, change),
            (state.controller, *jax.tree.map(jnp.zeros_like, (multipliers, change))),
        )
        finite = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(controller)]).all()
        entropy = gaussian.entropy(controller.chol)
        return State(controller, history), ((enough & finite) | collects, multipliers, entropy, ess, change)

    def _improve(self, now: Occupancy, Q: Quadratic, evidence: Array, dx: int):
        """Step t's new controller (section 3), its KL bound scaled by how much evidence there is."""
        step, multipliers = dual.white_step(
            Q.H[dx:, dx:], Q.H[dx:, :dx], Q.h[dx:], self.kl_step * evidence, self.entropy_drop * evidence
        )
        return dual.unwhiten(step, now.controller, now.mean, now.chol), step, multipliers

    def _remember(self, state: State, x: Array, u: Array, cost: Array, valid: Array) -> History:
        """The history with this iteration's rollouts in front, and their occupancy."""
        mask = valid[:, None, None]
        new = (
            jnp.where(mask, x, 0.0),
            jnp.where(mask, u, 0.0),
            jnp.where(mask[..., 0], cost, 0.0),
            valid.astype(x.dtype),
        )
        old = state.history
        *kept, usable = (
            jnp.concatenate([n[None], o[:-1]]) for n, o in zip(new, (old.x, old.u, old.cost, old.valid), strict=True)
        )
        x, u, cost = kept
        if self.marginal == "propagated":
            now = self._propagate(x, u, usable, old.occupancy, state.controller)
        else:
            decayed = usable * self.state_decay ** jnp.arange(x.shape[0])[:, None]
            now = occupancy.from_samples(_by_step(x[:, :, :-1]), decayed.ravel(), state.controller)
        return History(x, u, cost, usable, _push(now, old.occupancy), old.log_density)

    def _propagate(self, x, u, usable, past: Occupancy, controller: LinearGaussian) -> Occupancy:
        share = usable.sum(-1) / usable.sum()
        states, actions = _by_step(x[:, :, :-1]), _by_step(u)
        older = jax.tree.map(lambda leaf: leaf[:-1], past)
        log_older = occupancy.log_mixture(older, share[1:], states, actions, "iterations")
        return occupancy.propagated(states, actions, usable.ravel(), log_older, share[0], controller)

    def _transitions(self, problem: Problem, history: History) -> tuple[Transitions, Array, History]:
        """The samples of all steps' regressions with their weights, the final cost at the last `x_next`, and the
        history with their densities.
        """
        one_iteration = self.reuse in ("none", "time")
        used = jax.tree.map(lambda leaf: leaf[:1], history) if one_iteration else history
        pooled = self.reuse in ("time", "both")
        arrange = _by_sample if pooled else _by_step
        x, u, x_next = arrange(used.x[:, :, :-1]), arrange(used.u), arrange(used.x[:, :, 1:])
        if pooled:
            usable = jnp.repeat(used.valid.ravel(), problem.horizon)
            zero = jnp.zeros(x_next.shape[1])
            final = zero if problem.final_cost is None else jax.vmap(problem.final_cost)(x_next[0])
            if problem.cost is None:  # the same at all steps
                cost = jnp.broadcast_to(used.cost[:, :, :-1].ravel(), (problem.horizon, len(zero)))
            else:
                cost_of = jax.vmap(problem.cost, (0, 0, None))
                cost = each(lambda t: cost_of(x[0], u[0], t), jnp.arange(problem.horizon))
        else:
            usable = used.valid.ravel()
            cost = _by_step(used.cost[:, :, :-1, None])[..., 0]
            final = used.cost[:, :, -1].ravel()
        if self.reuse == "none":
            log_weight = jnp.zeros_like(cost)
        else:
            log_z = occupancy.log_densities(_newest(used.occupancy), x, u)
            over = "iterations" if self.reuse == "iterations" else "both"
            log_mixture = occupancy.of_iteration(log_z, over)
            if not one_iteration:
                history = history._replace(log_density=_densities(history, log_mixture, x, u, over))
                log_mixture = _of_mixture(history)
            log_weight = log_z - log_mixture
        weight = jax.vmap(occupancy.normalised, (0, None))(log_weight, usable)
        return Transitions(x, u, x_next, cost, weight), final, history

    def _no_densities(self, samples: int, T: int) -> Float[Array, "K K #T m"]:
        rows = {"iterations": (T, samples), "both": (1, samples * T)}
        return jnp.zeros((self._kept, self._kept, *rows[self.reuse]) if self.reuse in rows else (0, 0, 1, 0))

    @property
    def _kept(self) -> int:
        """Number of iterations in the history."""
        return 1 if self.reuse == "none" and self.marginal == "samples" else self.memory


def _densities(
    history: History, newest: Float[Array, "#T n"], x: Float[Array, "#T n dx"], u: Float[Array, "#T n du"], over: Over
) -> Float[Array, "K K #T m"]:
    """The history's densities, of which only those of the newest iteration are new: of its occupancies, at all samples
    (`newest`), and at its samples, which come first in the rows of x and u.
    """
    K = history.x.shape[0]
    m = newest.shape[1] // K
    older = jax.tree.map(lambda leaf: leaf[1:], history.occupancy)
    at_new = occupancy.of_iterations(older, x[:, :m], u[:, :m], over)
    of_older = jnp.concatenate([at_new[:, None], history.log_density[:-1, :-1]], 1)
    of_newest = newest.reshape(-1, K, m).swapaxes(0, 1)
    return jnp.concatenate([of_newest[None], of_older])


def _of_mixture(history: History) -> Float[Array, "#T n"]:
    """Log density, at each sample, of the mixture of all iterations that made it."""
    K, _, rows, _ = history.log_density.shape
    return occupancy.mixed(
        history.log_density.swapaxes(1, 2).reshape(K, rows, -1), history.valid.sum(-1) / history.valid.sum()
    )


def _by_step(a: Float[Array, "K M T d"]) -> Float[Array, "T K*M d"]:
    """Each step's own samples."""
    return jnp.moveaxis(a, 2, 0).reshape(a.shape[2], -1, a.shape[3])


def _by_sample(a: Float[Array, "K M T d"]) -> Float[Array, "1 K*M*T d"]:
    """All steps' samples in one row."""
    return a.reshape(1, -1, a.shape[3])


def _newest(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _push(new: Any, old: Any) -> Any:
    """`old` with `new` in front of its leading axis, and its last entry dropped."""
    return jax.tree.map(lambda n, o: jnp.concatenate([n[None], o[:-1]]), new, old)


def _over(n: int, tree: Any) -> Any:
    """The same leaves `n` times."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), tree)
