"""MORE: model-based relative entropy stochastic search (Abdolmaleki, Lioutikov, Peters, Lau, Reis & Neumann 2015).

Each iteration, from rollouts that follow one draw of a skill's parameters each:

    cost as a quadratic function of the parameters   updates/episodic.py, `surrogate`
    the best Gaussian within a KL and an entropy bound   updates/episodic.py, `surrogate_step`, algebra/dual.py
    a skill with a vector of parameters              policies/episodic.py, policies/movement_primitive.py
    what is deployed: the mean

The regression learns from the rollouts of the last iterations, weighted by their density under the present search over
that under the mixture of those that drew them (ours: the paper reduces the dimension by a Bayesian regression instead).

| symbol  | paper | code                      |
| epsilon | (1)   | kl_step                   |
| beta    | (1)   | entropy less the drop     |
| gamma   | 2.2   | entropy_decay             |
| H_0     | 2.2   | least_spread, as a spread |
"""

from typing import Annotated, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import gaussian, regression
from pilotfish.algebra.batch import chosen, finite, pushed
from pilotfish.algorithms import Algorithm, check_number
from pilotfish.models.occupancy import effective_samples
from pilotfish.policies import Policy
from pilotfish.policies.episodic import EpisodicPolicy, OpenLoop, Parametrisation
from pilotfish.policies.movement_primitive import MovementPrimitive  # noqa: F401  so that it can be a run's skill
from pilotfish.types import DECREASE, Key, Problem, Rollouts, Shown, check_choice
from pilotfish.updates import episodic

Schedule = Literal["decay", "constant"]
MANY = 3000
"""Features of a regression beyond which an iteration takes long: their number cubed is its operations."""


class History(NamedTuple):
    """What the last iterations tried, the newest first; leading axes: condition, iteration."""

    w: Float[Array, "N K M n"]
    cost: Float[Array, "N K M"]
    valid: Bool[Array, "N K M"]
    mean: Float[Array, "N K n"]
    """Of the search that drew them."""
    chol: Float[Array, "N K n n"]


class State(NamedTuple):
    """What the next iteration needs."""

    policy: EpisodicPolicy
    history: History


class Info(NamedTuple):
    """What an iteration reports. Means are over conditions; all are 0 for a condition that is not improved."""

    ok: Bool[Array, "N"]
    """False if fewer than two whole rollouts differ in cost: the condition keeps its search."""
    kl: Annotated[Float[Array, ""], Shown("KL", "nats", bound="kl_step", column="KL", form="{:.3f}", label="mean")]
    """Mean KL of the new search distribution to the old."""
    kl_max: Annotated[Float[Array, ""], Shown("KL", "nats", label="largest")]
    """The largest of them: at most `kl_step`."""
    entropy: Annotated[Float[Array, ""], Shown("entropy of the parameters", "nats", column="entropy", form="{:.2f}")]
    """Mean entropy of the new search distribution, in units of the first standard deviations."""
    entropy_change: Annotated[Float[Array, ""], Shown("change of entropy", "nats")]
    """Mean change of it."""
    eta: Annotated[Float[Array, ""], Shown("multipliers", scale="log", label="of the KL bound")]
    """Median multiplier of the KL bound."""
    omega: Annotated[Float[Array, ""], Shown("multipliers", scale="log", label="of the entropy bound")]
    """Median multiplier of the entropy bound."""
    ess: Annotated[Float[Array, ""], Shown("effective samples", scale="log", column="samples", form="{:.0f}")]
    """Mean effective number of the regression's samples."""
    unexplained: Annotated[Float[Array, ""], Shown("part of the cost that is not explained", "%")]
    """Mean part of the costs' variance that the quadratic function leaves."""
    predicted: Annotated[Float[Array, ""], Shown(DECREASE, label="promised")]
    """Mean decrease of the expected cost of an episode that the quadratic function promises."""


class MORE(Algorithm):
    """Episodic search on a quadratic model of the cost, within a KL and an entropy bound.

    Source: Abdolmaleki, Lioutikov, Peters, Lau, Reis & Neumann (2015). ValueError for a setting out of its range.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> result = pf.train(pf.MORE(kl_step=1.0), LinearQuadratic().world(), rollouts=40, iterations=3)
    >>> bool(result.metrics["cost"][0, -1] < result.metrics["cost"][0, 0])  # (seed, iteration)
    True
    """

    kl_step: float = 1.0
    """Bound on the KL of successive search distributions, nats (paper: epsilon)."""
    schedule: Schedule = eqx.field(static=True, default="decay")
    """How entropy may fall: towards `least_spread` ever more slowly (the paper), or by `entropy_drop` an iteration."""
    entropy_decay: float = 0.95
    """Part of the entropy above the least that an iteration must leave, with "decay" (paper: gamma)."""
    least_spread: float = 0.01
    """Mean standard deviation of the parameters, as a part of the first one, at which entropy falls no more, with
    "decay" (paper: H_0, its entropy)."""
    entropy_drop: float = 1.0
    """Largest loss of entropy in an iteration, nats, with "constant"; `inf`: no bound."""
    memory: int = eqx.field(static=True, default=5)
    """Number of iterations from which the regression learns."""
    ridge: float = 1e-2
    """Penalty on the quadratic function's coefficients in white parameters."""
    skill: Parametrisation = OpenLoop()
    """What the parameters are."""

    @property
    def defaults(self) -> tuple[int, int]:
        return 40, 50

    def __check_init__(self):
        check_choice(self, "schedule", Schedule)
        check_number(self, "kl_step", lambda v: v > 0, "the bound on the KL must be positive")
        check_number(self, "entropy_decay", lambda v: 0 <= v <= 1, "a part: 1 keeps the entropy, 0 leaves it unbounded")
        check_number(self, "least_spread", lambda v: 0 < v <= 1, "a part of the first spread, above 0 and at most 1")
        check_number(self, "entropy_drop", lambda v: v >= 0, "0 keeps the entropy, inf leaves it unbounded")
        check_number(self, "memory", lambda v: v >= 1, "the regression learns from at least one iteration")
        check_number(self, "ridge", lambda v: v > 0, "with few samples the regression is singular without a penalty")

    def traceable(self, problem: Problem) -> bool:
        return self.skill.traceable(problem)

    def caution(self, problem: Problem, episodes: int) -> str:
        n = self.skill.skill(problem).J.shape[-1]
        features, samples = regression.feature_count(n), episodes * self.memory
        if features > MANY:
            return (
                f"more fits a quadratic function of {n} parameters, {features:,} numbers, in every iteration: that is "
                "slow. Fewer --algorithm.skill.features, or --algorithm reps."
            )
        if samples < features:
            return (
                f"more fits {features:,} numbers to {samples:,} episodes, so its steps are shortened. Give more "
                "--rollouts, a longer --algorithm.memory, or fewer --algorithm.skill.features."
            )
        return ""

    def init(self, problem: Problem, episodes: int, key: Key) -> State:
        """Parameters of magnitude 1, in the skill's units, about the problem's first controller; no history."""
        policy = EpisodicPolicy.first(self.skill.skill(problem))
        (N, n), K, M = policy.mean.shape, self.memory, episodes
        history = History(
            w=jnp.zeros((N, K, M, n)),
            cost=jnp.zeros((N, K, M)),
            valid=jnp.zeros((N, K, M), bool),
            mean=jnp.zeros((N, K, n)),
            chol=jnp.broadcast_to(jnp.eye(n), (N, K, n, n)),
        )
        return State(policy, history)

    def explore(self, state: State) -> Policy:
        return state.policy

    def exploit(self, state: State) -> Policy:
        """The mean parameters."""
        return state.policy.noise_free()

    def update(self, problem: Problem, state: State, rollouts: Rollouts, key: Key) -> tuple[State, Info]:
        return _update(self, state, rollouts)

    def refusal(self, problem: Problem, state: State, rollouts: Rollouts, ok: Bool[Array, "N"]) -> str:
        return episodic.obstacle(rollouts)


@eqx.filter_jit
def _update(algorithm: MORE, state: State, rollouts: Rollouts) -> tuple[State, Info]:
    """Compiled also where the skill cannot be."""
    policy, valid = state.policy, rollouts.valid
    cost, w = jnp.where(valid, rollouts.cleaned().cost.sum(-1), 0.0), rollouts.episode.w
    one = jax.vmap(lambda *condition: _improve(algorithm, *condition))
    mean, chol, history, told = one(policy.mean, policy.chol, state.history, w, cost, valid)
    ok, multipliers, ess, unexplained, decrease = told
    return State(EpisodicPolicy(mean, chol, policy.skill), history), Info(
        ok=ok,
        kl=multipliers.kl.mean(),
        kl_max=multipliers.kl.max(),
        entropy=gaussian.entropy(chol).mean(),
        entropy_change=multipliers.entropy_change.mean(),
        eta=jnp.median(multipliers.eta),
        omega=jnp.median(multipliers.omega),
        ess=ess.mean(),
        unexplained=unexplained.mean(),
        predicted=decrease.mean(),
    )


def _improve(algorithm: MORE, mean: Array, chol: Array, before: History, w: Array, cost: Array, valid: Array):
    """One condition, whose history has no leading axis N."""
    history = pushed(History(w, cost, valid, mean, chol), before)
    weight = _importance(history)
    ess = effective_samples(weight)
    n = w.shape[-1]
    e = gaussian.solve_chol(chol, (history.w.reshape(-1, n) - mean).T).T
    model, unexplained = episodic.surrogate(e, history.cost.ravel(), weight, algorithm.ridge)
    evidence = jnp.minimum(1.0, ess / regression.feature_count(n))
    drop = _drop(algorithm, gaussian.entropy(chol), n)
    shift, factor, multipliers = episodic.surrogate_step(model, algorithm.kl_step * evidence, drop * evidence)
    new = mean + chol @ shift, chol @ factor
    decrease = 0.5 * (jnp.trace(model.H) - (model.H * (factor @ factor.T)).sum()) + model.c - model(shift)
    told = multipliers, ess, unexplained, decrease
    ok = episodic.comparable(cost, valid)[1] & finite((new, told))
    nothing = (mean, chol), before, jax.tree.map(jnp.zeros_like, told)
    (mean, chol), history, told = chosen(ok, (new, history, told), nothing)
    return mean, chol, history, (ok, *told)


def _importance(history: History) -> Float[Array, "m"]:
    """Weights of all remembered rollouts under the newest search: its density over that of the mixture that drew them.

    They are at most the rollouts remembered over those of the newest iteration.
    """
    points, count = history.w.reshape(-1, history.w.shape[-1]), history.valid.sum(-1)
    log_density = jax.vmap(gaussian.log_density, (None, 0, 0))(points, history.mean[:, None], history.chol)
    share = count / jnp.maximum(count.sum(), 1)
    mixture = jax.nn.logsumexp(log_density, axis=0, b=share[:, None])
    return jnp.where(history.valid.ravel(), jnp.exp(log_density[0] - mixture), 0.0)


def _drop(algorithm: MORE, entropy: Float[Array, ""], n: int) -> Float[Array, ""] | float:
    """Largest loss of entropy: beta = gamma (H - H_0) + H_0, or a constant."""
    if algorithm.schedule == "constant":
        return algorithm.entropy_drop
    least = gaussian.entropy(algorithm.least_spread * jnp.eye(n))
    return (1.0 - algorithm.entropy_decay) * jnp.maximum(entropy - least, 0.0)
