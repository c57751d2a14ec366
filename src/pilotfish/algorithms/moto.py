"""MOTO: model-free trajectory optimisation (Akrour, Abdolmaleki, Abdulsamad, Peters, Neumann; JMLR 2018).

Each iteration, from rollouts of the current time-varying linear-Gaussian controller:

    state marginal rho_t          section 4.3     models/occupancy.py
    importance weights            section 4.2     models/occupancy.py
    quadratic Q_t and V_t         section 4.1     models/value.py
    new controller of each step   section 3       algebra/dual.py
    what it promises              section 5       models/improvement.py
    what is deployed: the best one tried (ours)   updates/best_so_far.py

| symbol  | paper            | code          |
| eps     | (2)              | kl_step       |
| beta0   | section 3.1      | entropy_drop  |
| gamma   | section 4.3.2    | state_decay   |
| K       | section 4.2.2    | memory        |
| lambda  | (6)              | ridge         |
"""

import time
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pilotfish.algebra import dual, gaussian, regression
from pilotfish.algebra.batch import each
from pilotfish.algorithms import Algorithm, check_number
from pilotfish.models import improvement, occupancy, value
from pilotfish.models.occupancy import Occupancy
from pilotfish.models.value import Transitions
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.types import DECREASE, Key, LinearGaussian, Problem, Quadratic, Rollouts, Shown
from pilotfish.updates.best_so_far import BestSoFar

Reuse = Literal["none", "time", "iterations", "both"]
Targets = Literal["dynamic-programming", "monte-carlo"]
Marginal = Literal["samples", "propagated"]

LONG, SLOW = 10.0, 1e11  # an iteration's seconds that are worth a word, and the operations of less than that anywhere


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


class State(NamedTuple):
    """What the next iteration needs; leading axis: the condition."""

    controller: LinearGaussian
    history: History
    best: BestSoFar


class Info(NamedTuple):
    """What an iteration reports. Means are over time steps and conditions."""

    ok: Bool[Array, "N"]
    """False if too few rollouts were usable or the new controller is not finite: the condition keeps its state. While
    rollouts to reuse are still being collected its controller is kept as well, and this is True."""
    kl: Annotated[Float[Array, ""], Shown("KL of a step", "nats", bound="kl_step", column="KL", form="{:.3f}")]
    """Mean expected KL of the new controller to the old, nats a step."""
    kl_max: Annotated[Float[Array, ""], Shown("KL of a step", "nats")]
    """The largest of them: at most `kl_step`."""
    entropy: Annotated[Float[Array, ""], Shown("entropy of a step's actions", "nats", column="entropy", form="{:.2f}")]
    """Mean entropy of the new controller's actions, nats a step."""
    entropy_change: Annotated[Float[Array, ""], Shown("change of entropy", "nats", bound="-entropy_drop")]
    """Mean change of entropy: at least `-entropy_drop`."""
    eta: Annotated[Float[Array, ""], Shown("multipliers", scale="log")]
    """Median multiplier of the KL bound."""
    omega: Annotated[Float[Array, ""], Shown("multipliers", scale="log")]
    """Median multiplier of the entropy bound."""
    ess: Annotated[Float[Array, ""], Shown("effective samples of a step", scale="log", column="samples", form="{:.0f}")]
    """Mean effective number of samples of a step's regression."""
    ess_min: Annotated[Float[Array, ""], Shown("effective samples of a step", scale="log")]
    """The smallest of them."""
    predicted: Annotated[Float[Array, ""], Shown(DECREASE)]
    """Mean decrease of the expected cost of an episode that the Q-functions promise under the current states."""
    guaranteed: Annotated[Float[Array, ""], Shown(DECREASE)]
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

    def caution(self, problem: Problem, episodes: int) -> str:
        """How long an iteration takes, where that is long: nearly all of it makes the regressions' normal matrices."""
        T, features, pool = problem.horizon, regression.feature_count(problem.dx + problem.du), POOLS[self.reuse]
        samples = episodes * (T if pool.steps else 1) * (self.memory if pool.iterations else 1)
        operations = 2.0 * features**2 * samples * T * len(problem.conditions.mean)
        if operations < SLOW or (seconds := operations / _speed()) < LONG:
            return ""
        return (
            f"an iteration of moto will take about {seconds:.0f} s a seed: {T} regressions of {samples:,} samples on "
            f"the {features} features of {problem.dx} + {problem.du} variables. Faster: --algorithm lqr-gps, "
            f"--algorithm.memory below {self.memory}, fewer --rollouts, a shorter horizon."
        )

    def init(self, problem: Problem, episodes: int, key: Key) -> State:
        """The problem's first controller; an empty history."""
        need, pool = regression.feature_count(problem.dx + problem.du), POOLS[self.reuse]
        if not pool.weighs and episodes < need and not self.underdetermined:
            raise ValueError(
                f"rollouts={episodes}: without sample reuse a quadratic Q-function of {problem.dx} + {problem.du} "
                f"variables needs at least {need} rollouts an iteration. Raise rollouts to {need} or more, or set "
                "reuse='both' to reuse the samples of other time steps and earlier iterations."
            )
        K = 1 if not pool.weighs and self.marginal == "samples" else self.memory
        first = problem.first_controller
        history = jax.vmap(lambda first: _nothing(first, K, episodes, pool))(first)
        return State(first, history, BestSoFar.begin(first))

    def explore(self, state: State) -> LinearGaussianPolicy:
        return LinearGaussianPolicy(state.controller)

    def exploit(self, state: State) -> LinearGaussianPolicy:
        """The best controller that was tried."""
        return LinearGaussianPolicy(state.best.controller).noise_free()

    def latest(self, state: State) -> LinearGaussianPolicy:
        return LinearGaussianPolicy(state.controller).noise_free()

    def update(self, problem: Problem, state: State, rollouts: Rollouts, key: Key) -> tuple[State, Info]:
        one, data = jax.vmap(lambda *condition: self._update(problem, *condition)), rollouts.cleaned()
        controller, history, (ok, multipliers, entropy, ess, change) = one(state.controller, state.history, data)
        return State(controller, history, state.best.after(state.controller, data)), Info(
            ok=ok,
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

    def _update(self, problem: Problem, old: LinearGaussian, before: History, rollouts: Rollouts):
        """One condition."""
        history = _remembered(self, old, before, rollouts)
        now = _newest(history.occupancy)
        data, final, history = _transitions(self, problem, history)
        features = regression.feature_count(problem.dx + problem.du)
        ess = occupancy.effective_samples(data.weight)
        ridge = self.ridge * jnp.maximum(1.0, features / ess) ** 2
        Q = FITS[self.targets](data, final, now, ridge).Q
        controller, step, multipliers = jax.vmap(self._improve, (0, 0, 0, None))(
            now, Q, jnp.minimum(1.0, ess / features), problem.dx
        )
        white = jax.vmap(Occupancy.white_state)(now, _by_step(history.x[:1, :, :-1]))
        change = improvement.change(Q, step, multipliers.kl, white, rollouts.happened.T)
        enough = (history.made.sum(0) > problem.dx + 1).all()
        # with few rollouts an iteration, the first only fill the history
        collects = ~enough & rollouts.happened.any() & (history.steps[-1].sum() == 0)
        finite = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(controller)]).all()
        moves = enough & finite
        controller, multipliers, change = jax.tree.map(
            lambda new, none: jnp.where(moves, new, none),
            (controller, multipliers, change),
            (old, *jax.tree.map(jnp.zeros_like, (multipliers, change))),
        )
        ok, entropy = moves | collects, gaussian.entropy(controller.chol)
        history = jax.tree.map(lambda new, old: jnp.where(ok, new, old), history, before)
        return controller, history, (ok, multipliers, entropy, jnp.nan_to_num(ess), change)

    def _improve(self, now: Occupancy, Q: Quadratic, evidence: Array, dx: int):
        """Step t's new controller (section 3), its KL bound scaled by how much evidence there is."""
        step, multipliers = dual.white_step(
            Q.H[dx:, dx:], Q.H[dx:, :dx], Q.h[dx:], self.kl_step * evidence, self.entropy_drop * evidence
        )
        return dual.unwhiten(step, now.controller, now.mean, now.chol), step, multipliers


def _speed() -> float:
    """Floating-point operations a second in a product like those of the regressions."""
    phi = jnp.ones((regression.BLOCK, 400), float)
    product = jax.jit(lambda phi: phi.T @ phi)
    product(phi).block_until_ready()
    began = time.perf_counter()
    product(phi).block_until_ready()
    return 2.0 * phi.shape[1] * phi.size / (time.perf_counter() - began)


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


def _remembered(moto: MOTO, controller: LinearGaussian, old: History, rollouts: Rollouts) -> History:
    """The history with this iteration's rollouts of `controller` in front, and their occupancy."""
    new = (rollouts.x, rollouts.u, rollouts.cost, rollouts.steps)
    x, u, cost, steps = _push(new, (old.x, old.u, old.cost, old.steps))
    history = History(x, u, cost, steps, old.occupancy, old.log_density)
    now = MARGINALS[moto.marginal](moto, history, controller)
    return history._replace(occupancy=_push(now, old.occupancy))


def _sampled(moto: MOTO, history: History, controller: LinearGaussian) -> Occupancy:
    """Where the controller goes: by samples, of which older ones count less (section 4.3.2)."""
    decayed = history.happened * moto.state_decay ** jnp.arange(len(history.x))[:, None, None]
    return occupancy.from_samples(_by_step(history.x[:, :, :-1]), _by_step(decayed[..., None])[..., 0], controller)


def _propagated(moto: MOTO, history: History, controller: LinearGaussian) -> Occupancy:
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


def _transitions(moto: MOTO, problem: Problem, history: History) -> tuple[Transitions, Array, History]:
    """The samples of all steps' regressions with their weights, the final cost at the last `x_next`, and the history
    with their densities.
    """
    pool = POOLS[moto.reuse]
    used = history if pool.iterations else jax.tree.map(lambda leaf: leaf[:1], history)
    arrange = _by_sample if pool.steps else _by_step
    x, u, x_next = arrange(used.x[:, :, :-1]), arrange(used.u), arrange(used.x[:, :, 1:])
    # a sum of costs needs the whole rollout
    counted = used.whole if moto.targets == "monte-carlo" else used.happened
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
    weight = jax.vmap(occupancy.normalised)(log_weight, jnp.broadcast_to(happened, log_weight.shape))
    # no controller depends on a constant, which would only cost digits
    level = (weight * cost).sum(1, keepdims=True)
    return Transitions(x, u, x_next, cost - level, weight), final - weight[-1] @ final, history


def _own_costs(used: History) -> tuple[Float[Array, "T n"], Float[Array, "n"]]:
    """Costs and final costs of each step's own samples."""
    return _by_step(used.cost[:, :, :-1, None])[..., 0], used.cost[:, :, -1].ravel()


def _pooled_costs(
    problem: Problem, used: History, x: Float[Array, "n dx"], u: Float[Array, "n du"], x_next: Float[Array, "n dx"]
) -> tuple[Float[Array, "T n"], Float[Array, "n"]]:
    """What all steps' samples would cost at each step, and their next states at the end."""
    final = jax.vmap(problem.final_cost)(x_next)
    if problem.cost is None:  # the same at all steps
        return jnp.broadcast_to(used.cost[:, :, :-1].ravel(), (problem.horizon, len(x))), final
    cost_of = jax.vmap(problem.cost, (0, 0, None))
    return each(lambda t: cost_of(x, u, t), jnp.arange(problem.horizon)), final


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


def _push(new: Any, old: Any) -> Any:
    """`old` with `new` in front of its leading axis, and its last entry dropped."""
    return jax.tree.map(lambda n, o: jnp.concatenate([n[None], o[:-1]]), new, old)


def _over(n: int, tree: Any) -> Any:
    """The same leaves `n` times."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), tree)
