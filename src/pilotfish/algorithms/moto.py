"""MOTO: model-free trajectory optimisation (Akrour, Abdolmaleki, Abdulsamad, Peters, Neumann; JMLR 2018).

Each iteration, from rollouts of the current time-varying linear-Gaussian controller:

    state marginal rho_t          section 4.3     models/local_q.py, models/occupancy.py
    importance weights            section 4.2     models/local_q.py, models/occupancy.py
    quadratic Q_t and V_t         section 4.1     models/local_q.py, models/value.py
    new controller of each step   section 3       updates/q_step.py, algebra/dual.py
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
from typing import Annotated, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import gaussian, regression
from pilotfish.algebra.batch import chosen, finite
from pilotfish.algorithms import Algorithm, check_number
from pilotfish.models import improvement
from pilotfish.models.local_q import POOLS, FittedQ, History
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.types import DECREASE, Key, LinearGaussian, Problem, Rollouts, Shown, check_choice
from pilotfish.updates.best_so_far import BestSoFar
from pilotfish.updates.q_step import Step, q_step, shortened

Trust = Literal["step", "trajectory"]

LONG, SLOW = 10.0, 1e11  # an iteration's seconds that are worth a word, and the operations of less than that anywhere


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
    kl: Annotated[
        Float[Array, ""], Shown("KL of a step", "nats", bound="kl_step", column="KL", form="{:.3f}", label="mean")
    ]
    """Mean expected KL of the new controller to the old, nats a step."""
    kl_max: Annotated[Float[Array, ""], Shown("KL of a step", "nats", label="largest")]
    """The largest of them: at most `kl_step`."""
    entropy: Annotated[Float[Array, ""], Shown("entropy of a step's actions", "nats", column="entropy", form="{:.2f}")]
    """Mean entropy of the new controller's actions, nats a step."""
    entropy_change: Annotated[Float[Array, ""], Shown("change of entropy", "nats", bound="-entropy_drop")]
    """Mean change of entropy: at least `-entropy_drop`."""
    eta: Annotated[Float[Array, ""], Shown("multipliers", scale="log", label="of the KL bound")]
    """Median multiplier of the KL bound."""
    omega: Annotated[Float[Array, ""], Shown("multipliers", scale="log", label="of the entropy bound")]
    """Median multiplier of the entropy bound."""
    ess: Annotated[
        Float[Array, ""],
        Shown("effective samples of a step", scale="log", column="samples", form="{:.0f}", label="mean"),
    ]
    """Mean effective number of samples of a step's regression."""
    ess_min: Annotated[Float[Array, ""], Shown("effective samples of a step", scale="log", label="smallest")]
    """The smallest of them."""
    predicted: Annotated[Float[Array, ""], Shown(DECREASE, label="promised")]
    """Mean decrease of the expected cost of an episode that the Q-functions promise under the current states."""
    guaranteed: Annotated[Float[Array, ""], Shown(DECREASE, label="guaranteed at least")]
    """Mean of the least decrease that Theorem 4 leaves possible, over the states of this iteration's rollouts: almost
    always an increase, and a large one."""


class MOTO(FittedQ, Algorithm):
    """Model-free trajectory optimisation: how Q is fitted, and how far a controller may move on it.

    Source: Akrour, Abdolmaleki, Abdulsamad, Peters & Neumann (JMLR 2018). ValueError for a setting out of its range, or
    for fewer rollouts an iteration than Q needs where no sample is reused.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> result = pf.train(pf.MOTO(kl_step=0.5), LinearQuadratic().world(), rollouts=60, iterations=3)
    >>> bool(result.metrics["cost"][0, -1] < result.metrics["cost"][0, 0])  # (seed, iteration)
    True
    """

    kl_step: float = 0.1
    """Bound on each step's expected KL between successive controllers, nats (paper: eps)."""
    trust: Trust = eqx.field(static=True, default="step")
    """What the bound holds for: every step, in the states where the rollouts have been (the paper); or also for the
    trajectory, as the mean of its steps in the states to which the new controller leads, in a linear model (ours)."""
    entropy_drop: float = 0.05
    """Largest loss of entropy of a step's actions per iteration, nats; `inf`: no bound (paper: beta0)."""

    @property
    def defaults(self) -> tuple[int, int]:
        return 20, 30

    def __check_init__(self):
        check_choice(self, "trust", Trust)
        check_number(self, "kl_step", lambda v: v > 0, "the bound on the KL must be positive")
        check_number(self, "entropy_drop", lambda v: v >= 0, "0 keeps the entropy, inf leaves it unbounded")

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
        first = problem.first_controller
        return State(first, self.begin(problem, episodes), BestSoFar.begin(first))

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
        found = self.fit(problem, old, before, rollouts)
        now, Q, evidence = found.belief.occupancy, found.belief.Q, found.belief.evidence

        def step_of(part: Float[Array, ""] | float) -> Step:
            bounds = part * self.kl_step * evidence, part * self.entropy_drop * evidence
            return q_step(now.controller, now.mean, now.chol, Q, *bounds)

        if self.trust == "trajectory":
            (controller, step, multipliers), _ = shortened(step_of, found.belief.ahead, self.kl_step)
        else:
            controller, step, multipliers = step_of(1.0)
        change = improvement.change(Q, step, multipliers.kl, found.belief.white, rollouts.happened.T)
        moves = found.enough & finite(controller)
        none = old, *jax.tree.map(jnp.zeros_like, (multipliers, change))
        controller, multipliers, change = chosen(moves, (controller, multipliers, change), none)
        ok, entropy = moves | found.collects, gaussian.entropy(controller.chol)
        history = chosen(ok, found.history, before)
        return controller, history, (ok, multipliers, entropy, jnp.nan_to_num(found.ess), change)


def _speed() -> float:
    """Floating-point operations a second in a product like those of the regressions."""
    phi = jnp.ones((regression.BLOCK, 400), float)
    product = jax.jit(lambda phi: phi.T @ phi)
    product(phi).block_until_ready()
    began = time.perf_counter()
    product(phi).block_until_ready()
    return 2.0 * phi.shape[1] * phi.size / (time.perf_counter() - began)
