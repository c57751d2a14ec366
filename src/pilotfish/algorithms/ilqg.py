"""iLQG: trajectory optimisation on dynamics that are known, or learned from all transitions so far.

Known (Todorov & Li 2005; Tassa, Erez & Todorov 2012): each iteration is one step from the nominal trajectory of each
condition to a cheaper one, as updates/ilqg_step.py has it. What it knows it has from the problem's dynamics: equations,
or a simulation, whose derivatives are finite differences; then all but the simulation is compiled. The rollouts given
to `update` are only what the loop reports.

Learned (ours): each iteration, from an episode or a few,

    the dynamics of all states, from all transitions     models/learned_dynamics.py
    many steps on them, from several first trajectories  updates/ilqg_step.py
    how far a plan may go, and its feedback              updates/trust_region.py
    what is deployed: the best controller tried          updates/best_so_far.py

A plan is followed next, with a little noise, so that what is learned becomes right where it matters. One goes on from
the cheapest episode, and no further from it than plans have come true before. A poor local minimum is no dead end, for
the others begin anew: from the problem's first controller, with other noise each time.
"""

from typing import Annotated, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra.batch import chosen, each, finite
from pilotfish.algorithms import Algorithm, check_number
from pilotfish.models.cost import final_formula, without_derivative
from pilotfish.models.known import known
from pilotfish.models.learned_dynamics import Experience, LearnedDynamics, Report
from pilotfish.policies.gaussian import noise
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.types import DECREASE, Key, LinearGaussian, Problem, Rollouts, Shown, check_choice
from pilotfish.updates import ilqg_step, trust_region
from pilotfish.updates.best_so_far import BestSoFar
from pilotfish.updates.ilqg_step import LARGEST, Trajectory
from pilotfish.updates.trust_region import TrustRegion

Source = Literal["known", "learned"]


class Learning(NamedTuple):
    """What belongs to dynamics that are learned."""

    experience: Experience
    best: BestSoFar
    region: TrustRegion


class State(NamedTuple):
    """What the next iteration needs; leading axis: the condition."""

    nominal: Trajectory
    """With known dynamics its controller has no noise."""
    learning: Learning | None
    """None with known dynamics."""


class Info(NamedTuple):
    """What an iteration reports. Means are over conditions; where not finite, they are the largest number or 0."""

    ok: Bool[Array, "N"]
    """False if the nominal trajectory, its feedback or a derivative along it is not finite: the state is kept."""
    nominal_cost: Annotated[Float[Array, ""], Shown("cost of the nominal trajectories", scale="log", column="nominal")]
    """Mean cost of the nominal trajectories, after the step."""
    expected_reduction: Annotated[Float[Array, ""], Shown(DECREASE, column="expected", label="promised")]
    """Mean reduction of that cost that a full step promised."""
    step_length: Annotated[Float[Array, ""], Shown("part of the step that was taken", column="step")]
    """Mean part of the step that was taken; a condition that kept its trajectory counts 0."""
    regularisation: Annotated[Float[Array, ""], Shown("regularisation", scale="log")]
    """Largest regularisation, for the next iteration."""
    gradient: Annotated[Float[Array, ""], Shown("norm of the gradient", scale="log", column="gradient")]
    """Mean norm of the cost's gradient in the actions before the step, without what presses against a limit."""


class LearnedInfo(NamedTuple):
    """What an iteration on learned dynamics reports. Means are over conditions."""

    ok: Bool[Array, "N"]
    """False if no plan is finite: the controller is kept."""
    nominal_cost: Annotated[Float[Array, ""], Shown("cost of the nominal trajectories", scale="log", column="plan")]
    """Mean cost of the plans, by the dynamics as they were learned."""
    astray: Annotated[
        Float[Array, ""], Shown("distance of episodes from their plan", scale="log", column="astray", form="{:.2g}")
    ]
    """Root mean square distance of the episodes' states from those that were planned, over entries too, in standard
    deviations of all states seen; 0 before there is a plan."""
    unexplained: Annotated[
        Float[Array, ""],
        Shown("part of the changes that is not explained", scale="log", column="unexplained", form="{:.2g}"),
    ]
    """Of the changes of the state in the newest episodes, the part of the variance that the learned dynamics do not
    explain: near 1 where they miss what matters, a contact or something hidden."""
    radius: Annotated[
        Float[Array, ""], Shown("distances of plans", scale="log", column="radius", form="{:.2g}", label="allowed")
    ]
    """Mean of how far plans may be from the cheapest episode, in the same measure; 0 where there is no bound yet."""
    moved: Annotated[Float[Array, ""], Shown("distances of plans", scale="log", label="of the plan")]
    """How far they are."""
    basis: Annotated[Float[Array, ""], Shown("transitions on which basis functions are centred")]
    """Their number, at most `learned.points`."""
    anew: Annotated[Float[Array, ""], Shown("plans that began anew", "%")]
    """Fraction of the conditions in which such a plan was the cheapest."""


class ILQG(Algorithm):
    """Iterative linear-quadratic-Gaussian control.

    Source: Todorov & Li (2005), Tassa, Erez & Todorov (2012); on learned dynamics ours. ValueError for a setting out of
    its range, a cost without the formula that is needed, or dynamics that are to be known and are not.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> result = pf.train(pf.ILQG(initial_noise=0.1), LinearQuadratic().world(), rollouts=5, iterations=3)
    >>> bool(result.metrics["cost"][0, -1] < result.metrics["cost"][0, 0])  # (seed, iteration)
    True
    """

    regularisation: float = 0.0
    """The regularisation to begin with, as a part of the cost's variation (paper: mu)."""
    sufficient_decrease: float = 1e-3
    """Smallest part of the expected reduction that a step must bring (paper: c1)."""
    initial_noise: float = 0.0
    """With known dynamics: standard deviation of the first nominal actions, in units of the problem's initial_std; all
    conditions get the same. At 0 they are zero, where a symmetric task may have no gradient at all: one that swings up
    from hanging straight down by a cost in the sine or cosine of the angle, say."""
    dynamics: Source = eqx.field(static=True, default="known")
    """Whether the dynamics are known, or learned from the rollouts; what follows belongs to learned ones."""
    learned: LearnedDynamics = LearnedDynamics()
    """How the dynamics are learned."""
    steps: int = eqx.field(static=True, default=40)
    """Most steps of a plan."""
    starts: int = eqx.field(static=True, default=2)
    """Number of plans: one goes on from the cheapest episode, the others begin anew."""
    radius: float = jnp.inf
    """How far the first plan may be from the first episode, as a root mean square over time and entries of the state,
    in standard deviations of the states; `inf`: as far as it likes, until two plans in a row do not come true. Later
    plans as far as they have come true before."""
    stiffness: float = 10.0
    """How firmly a plan is followed: the deviation of the action, in units of the problem's initial_std, that is worth
    a standard deviation of the state."""
    first_noise: float = 1.0
    """Standard deviation of the noise in the first episode, in units of the problem's first noise: less where that
    would make it wild."""
    exploration: float = 0.1
    """The same of the noise with which a plan is followed."""
    noise_smoothing: float = eqx.field(static=True, default=2.0)
    """Standard deviation, in time steps, of the Gaussian filter that smooths this noise over time; 0: white."""

    @property
    def defaults(self) -> tuple[int, int]:
        return (1, 15) if self.dynamics == "learned" else (10, 100)

    def __check_init__(self):
        check_choice(self, "dynamics", Source)
        check_number(self, "regularisation", lambda v: 0 <= v <= LARGEST, f"give a number from 0 to {LARGEST:g}")
        check_number(
            self, "sufficient_decrease", lambda v: 0 <= v < 1, "a part of the expected reduction, from 0 to below 1"
        )
        check_number(self, "initial_noise", lambda v: v >= 0, "a standard deviation is 0 or more")
        check_number(self, "steps", lambda v: v >= 1, "a plan is at least one step")
        check_number(self, "starts", lambda v: v >= 1, "at least one plan is made")
        check_number(self, "radius", lambda v: v > 0, "a distance is positive; inf leaves the first plan free")
        check_number(self, "stiffness", lambda v: v > 0, "the deviation of the action must be positive")
        check_number(self, "first_noise", lambda v: v > 0, "without noise in the first episode nothing is learned")
        check_number(self, "exploration", lambda v: v >= 0, "a standard deviation is 0 or more")
        check_number(self, "noise_smoothing", lambda v: v >= 0, "a standard deviation; 0 leaves the noise white")

    def traceable(self, problem: Problem) -> bool:
        return self.dynamics == "learned" or known(problem, "ilqg").traceable

    def init(self, problem: Problem, episodes: int, key: Key) -> State:
        """Trajectories from the conditions' means under the problem's first controller, or with noise; with learned
        dynamics that controller, and no trajectory yet.
        """
        first, mean = problem.first_controller, problem.conditions.mean
        if self.dynamics == "learned":
            final_formula(problem)  # raises where only the world knows it
            N, T = first.k.shape[:2]
            nothing, unknown = jnp.zeros((N, T + 1, problem.dx)), jnp.full(N, jnp.nan, float)
            begun = LinearGaussian(first.K, first.k, self.first_noise * first.chol)
            nominal = Trajectory(begun, nothing, jnp.zeros((N, T, problem.du)), unknown, jnp.zeros(N), jnp.ones(N))
            experience, region = self.learned.begin(problem, episodes), TrustRegion.begin(problem, self.radius)
            return State(nominal, Learning(experience, BestSoFar.begin(begun), region))
        noise = self.initial_noise * problem.initial_std * jax.random.normal(key, (problem.horizon, problem.du))
        begun = LinearGaussian(first.K, first.k + noise, first.chol)
        return State(ilqg_step.begin(problem, known(problem, "ilqg"), mean, begun, self.regularisation), None)

    def explore(self, state: State) -> LinearGaussianPolicy:
        smoothing = 0.0 if state.learning is None else self.noise_smoothing
        return LinearGaussianPolicy(state.nominal.controller, smoothing)

    def exploit(self, state: State) -> LinearGaussianPolicy:
        """The nominal controller; with learned dynamics the best that was tried."""
        best = state.nominal.controller if state.learning is None else state.learning.best.controller
        return LinearGaussianPolicy(best).noise_free()

    def latest(self, state: State) -> LinearGaussianPolicy:
        return LinearGaussianPolicy(state.nominal.controller).noise_free()

    def refusal(self, problem: Problem, state: State, rollouts: Rollouts, ok: Bool[Array, "N"]) -> str:
        return without_derivative(problem, state.nominal.x[~ok], state.nominal.u[~ok])

    def update(
        self, problem: Problem, state: State, rollouts: Rollouts, key: Key
    ) -> tuple[State, Info] | tuple[State, LearnedInfo]:
        if state.learning is not None:
            return self._learn(problem, state.nominal, state.learning, rollouts.cleaned(), key)
        dynamics = known(problem, "ilqg")
        nominal, step = ilqg_step.improved(problem, dynamics, state.nominal, self.sufficient_decrease)
        info = Info(
            ok=step.ok,
            nominal_cost=nominal.cost.mean(),
            expected_reduction=step.expected.mean(),
            step_length=step.length.mean(),
            regularisation=nominal.regularisation.max(),
            gradient=step.gradient.mean(),
        )
        return State(nominal, None), jax.tree.map(jnp.nan_to_num, info)

    def _learn(
        self, problem: Problem, nominal: Trajectory, learning: Learning, rollouts: Rollouts, key: Key
    ) -> tuple[State, LearnedInfo]:
        """Learn from rollouts of the nominal controller, and plan anew."""
        fit_key, plan_key = jax.random.split(key)
        region = learning.region.after(problem, learning.best, nominal.cost, rollouts)
        best = learning.best.after(nominal.controller, rollouts)
        about = region.x, region.u
        experience, model, report = self.learned.fit(problem, learning.experience, rollouts, fit_key, about)
        believed = model.of(problem)
        plan, region = self._plan(believed, region, best, report.spread, plan_key)
        held = trust_region.followed(believed, plan, report.spread, self.stiffness)
        chol = self.exploration * problem.first_controller.chol
        plan = plan._replace(controller=LinearGaussian(held.K, held.k, chol))
        ok = jnp.isfinite(plan.cost) & jax.vmap(finite)(plan.controller) & (report.transitions > 1)
        new = State(chosen(ok, plan, nominal), Learning(experience, best, region))
        return new, self._info(new, nominal, ok, report, rollouts)

    def _plan(
        self, problem: Problem, region: TrustRegion, best: BestSoFar, spread: Float[Array, "dx"], key: Key
    ) -> tuple[Trajectory, TrustRegion]:
        """The plan to follow for each condition, and the region with what is known of it."""
        first, K, (N, T, du) = problem.first_controller, best.controller.K, region.u.shape
        on = LinearGaussian(K, ilqg_step.offsets(K, region.x, region.u), best.controller.chol)

        def begun(key: Key) -> LinearGaussian:
            drawn = jax.vmap(lambda key: noise(key, T, du, self.noise_smoothing, first.k.dtype))
            e = drawn(jax.random.split(key, N))
            return LinearGaussian(first.K, first.k + jnp.einsum("ntij,ntj->nti", first.chol, e), first.chol)

        def plan(radius: Float[Array, "N"], begun: LinearGaussian) -> tuple[Trajectory, TrustRegion]:
            about = region._replace(radius=radius)
            rules = self.steps, self.sufficient_decrease, self.regularisation
            return trust_region.planned(problem, about, begun, spread, *rules)

        anew = jax.vmap(begun)(jax.random.split(key, self.starts - 1))
        every = jax.tree.map(lambda one, others: jnp.concatenate([one[None], others]), on, anew)
        free = jnp.full((self.starts - 1, N), jnp.inf, region.radius.dtype)
        plans: Trajectory
        plans, regions = each(plan, jnp.concatenate([region.radius[None], free]), every)
        within = jax.tree.map(lambda leaf: leaf[0], (plans, regions))
        if self.starts == 1:
            return within[0], within[1]._replace(elsewhere=jnp.zeros(N, bool))
        least = 1 + jnp.argmin(jnp.where(jnp.isfinite(plans.cost[1:]), plans.cost[1:], jnp.inf), 0)
        other, far = jax.tree.map(lambda leaf: leaf[least, jnp.arange(N)], (plans, regions.distance))
        return trust_region.preferred(best.cost, within, (other, region._replace(distance=far)))

    def _info(
        self, new: State, old: Trajectory, ok: Bool[Array, "N"], report: Report, rollouts: Rollouts
    ) -> LearnedInfo:
        assert new.learning is not None
        region, weight = new.learning.region, rollouts.weight[..., 1:]
        far = weight * trust_region.distance(rollouts.x[..., 1:, None, :], old.x[:, None, 1:, None], report.spread) ** 2
        return LearnedInfo(
            ok=ok,
            nominal_cost=jnp.nan_to_num(new.nominal.cost.mean()),
            astray=jnp.where(jnp.isfinite(old.cost).all(), jnp.sqrt(far.sum(1).mean()), 0.0),
            unexplained=report.unexplained,
            radius=jnp.where(jnp.isfinite(region.radius), region.radius, 0.0).mean(),
            moved=jnp.nan_to_num(region.distance).mean(),
            basis=report.basis,
            anew=region.elsewhere.mean(),
        )
