"""LQR-GPS: the trajectory optimiser of guided policy search (Levine & Abbeel, NIPS 2014).

What the MOTO paper calls "GPS". Each iteration, from rollouts of the current time-varying linear-Gaussian controllers:

    dynamics and cost about the trajectory     models/local.py
    size of this step, from the last one       updates/step_size.py
    best controller within the trust region    updates/c_step
    what is deployed: the best one tried       updates/best_so_far.py

| symbol | paper             | code      |
| eps    | GPS'14, section 3 | T kl_step |
| eta    | GPS'14, section 3 | eta       |
"""

from typing import Annotated, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import gaussian
from pilotfish.algebra.batch import each
from pilotfish.algorithms import Algorithm, check_number
from pilotfish.models import local
from pilotfish.models.cost import CostExpansion
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.models.learned_dynamics import Experience
from pilotfish.models.local import LocalModel
from pilotfish.models.regressed import Memory
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.types import DECREASE, Key, LinearGaussian, Problem, Rollouts, Shown, check_choice
from pilotfish.updates.best_so_far import BestSoFar
from pilotfish.updates.c_step import CStep, Objective, TrustRegion, c_step, kept_unless
from pilotfish.updates.step_size import Steps, StepSize


class State(NamedTuple):
    """What the next iteration needs; leading axis: the condition."""

    controller: LinearGaussian
    eta: Float[Array, "N"]
    """Multiplier of the last trust region, nan before the first."""
    steps: Steps
    best: BestSoFar
    memory: Memory | Experience | None
    """What the dynamics' prior remembers; None without one."""


class Info(NamedTuple):
    """What an iteration reports. Means are over time steps and conditions."""

    ok: Bool[Array, "N"]
    """False where a condition keeps its controller: the fitted dynamics in closed loop with it overflow, or too few
    transitions were there to fit any."""
    kl: Annotated[
        Float[Array, ""],
        Shown("KL of a step", "nats", bound="kl_step", times="step_factor", column="KL", form="{:.3f}", label="mean"),
    ]
    """Mean expected KL of the new controller to the old, in the model, nats a step."""
    kl_max: Annotated[Float[Array, ""], Shown("KL of a step", "nats", label="largest")]
    """The largest of what the trust region bounds: a condition's mean over its steps, or a step's KL."""
    used: Annotated[Float[Array, ""], Shown("part of the trust region that is used", "%")]
    """The smallest mean KL of a condition, as a part of its bound: 99% or more but where steps are slack, where the
    problem is so unstable that rounding decides, and where no step was found."""
    entropy: Annotated[Float[Array, ""], Shown("entropy of a step's actions", "nats", column="entropy", form="{:.2f}")]
    """Mean entropy of the new controller's actions, nats a step."""
    entropy_change: Annotated[Float[Array, ""], Shown("change of entropy", "nats")]
    """Its mean change."""
    eta: Annotated[Float[Array, ""], Shown("multiplier of the trust region", scale="log")]
    """Median multiplier of the trust region, in units of the cost."""
    passes: Annotated[Float[Array, ""], Shown("backward passes")]
    """Mean number of backward passes that the trust region took."""
    step_factor: Annotated[Float[Array, ""], Shown("step size, factor", scale="log")]
    """Mean factor of `kl_step` by the adaptation of the step size."""
    predicted: Annotated[Float[Array, ""], Shown(DECREASE, label="promised")]
    """Mean decrease of the expected cost of an episode that the model promises."""


class LQRGPS(Algorithm):
    """Trajectory optimisation by KL-constrained LQR on fitted dynamics.

    Source: Levine & Abbeel (NIPS 2014). ValueError for a setting out of its range, a final cost without a formula, or
    fewer rollouts an iteration than the dynamics need.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> result = pf.train(pf.LQRGPS(kl_step=0.5), LinearQuadratic().world(), rollouts=20, iterations=3)
    >>> bool(result.metrics["cost"][0, -1] < result.metrics["cost"][0, 0])  # (seed, iteration)
    True
    """

    kl_step: float = 0.1
    """Bound on the expected KL between successive controllers, nats a step (paper: eps / T)."""
    trust: TrustRegion = eqx.field(static=True, default="trajectory")
    """What the bound holds for: the trajectory's mean over its steps (GPS'14), or every single step."""
    dynamics: FittedDynamics = FittedDynamics()
    """How the dynamics are fitted."""
    cost: CostExpansion = CostExpansion()
    """How the cost becomes quadratic."""
    step: StepSize = StepSize()
    """How `kl_step` is adapted."""
    noise_smoothing: float = eqx.field(static=True, default=0.0)
    """Standard deviation, in time steps, of the Gaussian filter that smooths exploration noise over time; 0: white."""

    @property
    def defaults(self) -> tuple[int, int]:
        return 20, 20

    def __check_init__(self):
        check_choice(self, "trust", TrustRegion)
        check_number(self, "kl_step", lambda v: v > 0, "the bound on the KL must be positive")
        check_number(self, "noise_smoothing", lambda v: v >= 0, "a standard deviation; 0 leaves the noise white")

    def init(self, problem: Problem, episodes: int, key: Key) -> State:
        """The problem's first controller; nothing is known of the dynamics."""
        first, memory = problem.first_controller, local.begin(self.dynamics, problem, episodes)
        N = len(first.k)
        return State(
            controller=first,
            eta=jnp.full(N, jnp.nan, float),
            steps=self.step.begin(N),
            best=BestSoFar.begin(first),
            memory=memory,
        )

    def explore(self, state: State) -> LinearGaussianPolicy:
        return LinearGaussianPolicy(state.controller, self.noise_smoothing)

    def exploit(self, state: State) -> LinearGaussianPolicy:
        """The best controller that was tried."""
        return LinearGaussianPolicy(state.best.controller).noise_free()

    def latest(self, state: State) -> LinearGaussianPolicy:
        return LinearGaussianPolicy(state.controller).noise_free()

    def update(self, problem: Problem, state: State, rollouts: Rollouts, key: Key) -> tuple[State, Info]:
        data = rollouts.cleaned()
        memory, model, enough = local.fits(self.dynamics, self.cost, problem, state.memory, data, state.controller, key)
        now = jax.vmap(LocalModel.expected_cost)(model, state.controller)
        factor = self.step.factor(state.steps, now)
        step = each(self._step, model, state.controller, self.kl_step * factor, state.eta, enough)
        new = State(
            controller=step.controller,
            eta=step.eta.mean(-1),
            steps=Steps(factor, now, jax.vmap(LocalModel.expected_cost)(model, step.controller)),
            best=state.best.after(state.controller, data),
            memory=memory,
        )
        return new, self._info(state, new, step)

    def refusal(self, problem: Problem, state: State, rollouts: Rollouts, ok: Bool[Array, "N"]) -> str:
        return local.obstacle(self.cost, problem, rollouts, ok)

    def _step(self, model: LocalModel, controller: LinearGaussian, kl_step: Array, eta: Array, enough: Array) -> CStep:
        """One condition's new controller."""
        objective, reference = Objective(model.cost, model.final), model.nominal.inwards(controller)
        step = c_step(model.start, model.dynamics, objective, reference, kl_step, self.trust, eta)
        step = step._replace(controller=model.nominal.outwards(step.controller))
        return kept_unless(step.found & enough, step, controller)

    def _info(self, old: State, new: State, step: CStep) -> Info:
        entropy = gaussian.entropy(new.controller.chol)
        bounded = step.kl.mean(-1) if self.trust == "trajectory" else step.kl
        return Info(
            ok=step.found,
            kl=step.kl.mean(),
            kl_max=bounded.max(),
            used=(step.kl.mean(-1) / (self.kl_step * new.steps.factor)).min(),
            entropy=entropy.mean(),
            entropy_change=(entropy - gaussian.entropy(old.controller.chol)).mean(),
            eta=jnp.nan_to_num(jnp.nanmedian(step.eta)),
            passes=step.passes.mean(),
            step_factor=new.steps.factor.mean(),
            predicted=(new.steps.before - new.steps.promised).mean(),
        )
