"""LQR-GPS: the trajectory optimiser of guided policy search (Levine & Abbeel, NIPS 2014).

What the MOTO paper calls "GPS". Each iteration, from rollouts of the current time-varying linear-Gaussian controller:

    dynamics of each step, with a prior        models/dynamics.py
    second-order expansion of the cost         models/cost.py
    best controller within the trust region    updates/c_step.py
    step size of the next iteration            `_factor`

| symbol     | paper               | code         |
| eps        | GPS'14, section 3   | T kl_step    |
| eta        | GPS'14, section 3   | eta          |
| l^k_m      | MDGPS, section 4.2  | `_expected_cost` |
"""

from typing import ClassVar, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import chain, gaussian, mixture, quadratic, regression
from pilotfish.algebra.batch import each
from pilotfish.algebra.mixture import Mixture
from pilotfish.algorithms import Algorithm, check_number
from pilotfish.models import cost as cost_model
from pilotfish.models import dynamics
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.types import Gaussian, Key, LinearDynamics, LinearGaussian, Problem, Quadratic, Rollouts
from pilotfish.updates.c_step import CStep, TrustRegion, c_step, kept_unless

Prior = Literal["none", "gmm"]
Expansion = Literal["samples", "mean"]

EM_ITERATIONS = 20
"""Most steps of expectation-maximisation in an update; it begins where the last update's ended."""
EM_TOLERANCE = 1e-2
"""Change of the mean log-likelihood at which they end, nats."""
FACTOR_CLIP = (0.1, 5.0)
"""By how much one iteration may change the step size (MDGPS, section 4.2)."""


class History(NamedTuple):
    """What the mixture is fitted to, and where its next fit begins."""

    points: Float[Array, "K M T d"]
    """Transitions [x; u; x'] of the last iterations, newest first."""
    valid: Float[Array, "K M"]
    mixture: Mixture
    fitted: Bool[Array, ""]


class State(NamedTuple):
    """What the next iteration needs; leading axis: the condition."""

    controller: LinearGaussian
    eta: Float[Array, ""]
    """Multiplier of the last trust region, nan before the first."""
    factor: Float[Array, ""]
    """What `kl_step` is multiplied by."""
    cost_before: Float[Array, ""]
    """Expected cost of the last controller in the model fitted to its own rollouts."""
    cost_promised: Float[Array, ""]
    """Expected cost of this controller in that same model."""
    best: LinearGaussian
    """Of the controllers rolled out so far, that whose rollouts cost least."""
    best_cost: Float[Array, ""]
    """Their mean cost, infinite before the first."""
    history: History | None
    """None without a mixture."""


class Info(NamedTuple):
    """What an iteration reports. Means are over time steps and conditions."""

    ok: Bool[Array, ""]
    """False if no condition's controller could be improved: all are kept."""
    kept: Float[Array, ""]
    """Fraction of conditions that keep their controller: there the fitted dynamics in closed loop with it overflow,
    or too few rollouts were usable to fit any."""
    kl: Float[Array, ""]
    """Mean expected KL of the new controller to the old, in the model, nats a step."""
    kl_max: Float[Array, ""]
    """The largest of what the trust region bounds: a condition's mean over its steps, or a step's KL."""
    entropy: Float[Array, ""]
    """Mean entropy of the new controller's actions, nats a step."""
    entropy_change: Float[Array, ""]
    """Its mean change."""
    eta: Float[Array, ""]
    """Median multiplier of the trust region, in units of the cost."""
    passes: Float[Array, ""]
    """Mean number of backward passes that the trust region took."""
    step_factor: Float[Array, ""]
    """Mean factor of `kl_step` by the adaptation of the step size."""
    predicted: Float[Array, ""]
    """Mean decrease of the expected cost of an episode that the model promises."""


class LQRGPS(Algorithm):
    """Trajectory optimisation by KL-constrained LQR on fitted dynamics."""

    default_rollouts: ClassVar[int] = 20
    default_iterations: ClassVar[int] = 20

    kl_step: float = 0.1
    """Bound on the expected KL between successive controllers, nats a step (paper: eps / T)."""
    trust: TrustRegion = eqx.field(static=True, default="trajectory")
    """What the bound holds for: the trajectory's mean over its steps (GPS'14), or every single step."""
    prior: Prior = eqx.field(static=True, default="none")
    """Prior of the dynamics: none, or a mixture of Gaussians over the transitions of all steps and recent iterations,
    which makes do with fewer rollouts than state and action have dimensions."""
    clusters: int = eqx.field(static=True, default=20)
    """Most Gaussians in the mixture."""
    samples_per_cluster: int = eqx.field(static=True, default=40)
    """There are no more Gaussians than one in so many transitions, but at least two."""
    prior_rollouts: int = eqx.field(static=True, default=20)
    """Number of the newest rollouts from a condition that the mixture sees, rounded up to whole iterations."""
    expansion: Expansion = eqx.field(static=True, default="samples")
    """Where the cost is expanded: averaged over the samples of a step, or at their mean."""
    smallest_step: float = 1.0
    """Smallest factor of `kl_step` that the adaptation of the step size may choose (MDGPS, section 4.2); where smallest
    and largest are 1, the step size stays."""
    largest_step: float = 1.0
    """Largest factor of `kl_step` that the adaptation of the step size may choose."""
    noise_smoothing: float = eqx.field(static=True, default=0.0)
    """Standard deviation, in time steps, of the Gaussian filter that smooths exploration noise over time; 0: white."""

    def __check_init__(self):
        for name, allowed in (("trust", TrustRegion), ("prior", Prior), ("expansion", Expansion)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(f"{name}={getattr(self, name)!r}: choose one of {', '.join(get_args(allowed))}.")
        check_number(self, "kl_step", lambda v: v > 0, "the bound on the KL must be positive")
        check_number(self, "clusters", lambda v: v >= 2, "a mixture has at least 2 Gaussians")
        check_number(self, "samples_per_cluster", lambda v: v >= 1, "at least 1 transition a Gaussian")
        check_number(self, "prior_rollouts", lambda v: v >= 1, "the mixture needs at least this iteration's rollouts")
        check_number(self, "noise_smoothing", lambda v: v >= 0, "a standard deviation; 0 leaves the noise white")
        check_number(self, "smallest_step", lambda v: 0 < v <= 1, "a factor of kl_step, above 0 and at most 1")
        check_number(self, "largest_step", lambda v: v >= 1, "a factor of kl_step, at least 1")

    def init(self, problem: Problem, samples: int, key: Key) -> State:
        """The problem's first controller; nothing is known of the dynamics."""
        need = problem.dx + problem.du + 2
        if self.prior == "none" and samples < need:
            raise ValueError(
                f"rollouts={samples}: without a prior the dynamics of {problem.dx} + {problem.du} variables need at "
                f"least {need} rollouts an iteration. Raise rollouts to {need} or more, or set prior='gmm'."
            )
        if self.prior == "gmm" and samples < 2:
            raise ValueError(f"rollouts={samples}: the dynamics need at least 2 rollouts an iteration.")
        unknown, infinite = jnp.nan * jnp.ones(()), jnp.inf * jnp.ones(())  # of strong type
        width = 2 * problem.dx + problem.du

        def begin(controller: LinearGaussian) -> State:
            return State(
                controller=controller,
                eta=unknown,
                factor=jnp.ones(()),
                cost_before=unknown,
                cost_promised=unknown,
                best=controller,
                best_cost=infinite,
                history=self._empty(samples, problem.horizon, width) if self.prior == "gmm" else None,
            )

        return jax.vmap(begin)(problem.first_controller)

    def explore(self, state: State) -> LinearGaussianPolicy:
        return LinearGaussianPolicy(state.controller, self.noise_smoothing)

    def exploit(self, state: State) -> LinearGaussianPolicy:
        """The best controller that was tried: an update may spoil what the one before could do."""
        return LinearGaussianPolicy(state.best).noise_free()

    def update(self, problem: Problem, state: State, rollouts: Rollouts, key: Key) -> tuple[State, Info]:
        keys = jax.random.split(key, state.eta.shape[0])
        conditions = state, rollouts.x, rollouts.u, rollouts.cost, rollouts.valid, keys
        new, step = each(lambda *condition: self._update(problem, *condition), *conditions)
        entropy = gaussian.entropy(new.controller.chol)
        bounded = step.kl.mean(-1) if self.trust == "trajectory" else step.kl
        return new, Info(
            ok=step.found.any(),
            kept=(~step.found).mean(),
            kl=step.kl.mean(),
            kl_max=bounded.max(),
            entropy=entropy.mean(),
            entropy_change=(entropy - gaussian.entropy(state.controller.chol)).mean(),
            eta=jnp.nan_to_num(jnp.nanmedian(step.eta)),
            passes=step.passes.mean(),
            step_factor=new.factor.mean(),
            predicted=(new.cost_before - new.cost_promised).mean(),
        )

    def _update(
        self, problem: Problem, state: State, x: Array, u: Array, sampled_cost: Array, valid: Array, key: Key
    ) -> tuple[State, CStep]:
        """One condition: x (M, T+1, dx), u (M, T, du), sampled_cost (M, T+1), valid (M,)."""
        needed = problem.dx + problem.du + 2 if self.prior == "none" else 2
        spent = jnp.where(valid.all(), sampled_cost.sum(1).mean(), jnp.inf)
        better = spent < state.best_cost
        x, u = jnp.where(valid[:, None, None], x, 0.0), jnp.where(valid[:, None, None], u, 0.0)
        count = valid.sum().astype(x.dtype)
        weight = valid / jnp.maximum(count, 1.0)
        history = None if state.history is None else self._remember(state.history, x, u, valid, key)
        model = dynamics.fit(x, u, weight, count, None if history is None else history.mixture)
        if problem.cost is None:
            cost, final = cost_model.fit(x, u, jnp.where(valid[:, None], sampled_cost, 0.0)[:, :-1], weight)
        else:
            cost, final = self._expand(problem, x, u, weight)
        start = Gaussian(*regression.moments(x[:, 0], weight))
        before = _expected_cost(start, model, cost, final, state.controller)
        factor = self._factor(state, before)
        step = c_step(start, model, cost, final, state.controller, self.kl_step * factor, self.trust, state.eta)
        step = kept_unless(step.found & (count >= needed), step, state.controller)
        new = State(
            controller=step.controller,
            eta=step.eta.mean(),
            factor=factor,
            cost_before=before,
            cost_promised=_expected_cost(start, model, cost, final, step.controller),
            best=jax.tree.map(lambda new, old: jnp.where(better, new, old), state.controller, state.best),
            best_cost=jnp.where(better, spent, state.best_cost),
            history=history,
        )
        return new, step

    def _expand(self, problem: Problem, x: Array, u: Array, weight: Array) -> tuple[Quadratic, Quadratic]:
        if self.expansion == "samples":
            return cost_model.expand(problem, x, u, weight)
        middle = jnp.tensordot(weight, x, 1)[None], jnp.tensordot(weight, u, 1)[None]
        return cost_model.expand(problem, *middle, jnp.ones(1))

    def _factor(self, state: State, cost_now: Float[Array, ""]) -> Float[Array, ""]:
        """The step's factor from how the last one turned out (MDGPS, section 4.2).

        Promised over twice (promised minus actual) improvement. Where the cost came out as promised or better the
        quotient says nothing, and the step grows as much as it may; where nothing is known it stays.
        """
        promised = state.cost_before - state.cost_promised
        missed = cost_now - state.cost_promised
        quotient = jnp.where(missed > 0, promised / (2.0 * missed), jnp.inf)
        change = jnp.where(jnp.isfinite(missed + promised), jnp.clip(quotient, *FACTOR_CLIP), 1.0)
        return jnp.clip(state.factor * change, self.smallest_step, self.largest_step)

    def _empty(self, samples: int, T: int, d: int) -> History:
        K = -(-self.prior_rollouts // samples)
        clusters = min(max(K * samples * T // self.samples_per_cluster, 2), self.clusters)
        return History(
            points=jnp.zeros((K, samples, T, d)),
            valid=jnp.zeros((K, samples)),
            mixture=Mixture(
                jnp.zeros(clusters),
                jnp.zeros((clusters, d)),
                jnp.broadcast_to(jnp.eye(d), (clusters, d, d)),
            ),
            fitted=jnp.asarray(False),
        )

    def _remember(self, old: History, x: Array, u: Array, valid: Array, key: Key) -> History:
        """The history with this iteration's transitions in front, and the mixture fitted to it."""
        points = jnp.concatenate([dynamics.transitions(x, u)[None], old.points[:-1]])
        usable = jnp.concatenate([valid.astype(x.dtype)[None], old.valid[:-1]])
        z, weight = points.reshape(-1, points.shape[-1]), jnp.repeat(usable.ravel(), points.shape[2])
        clusters = old.mixture.log_weight.shape[0]
        start = jax.lax.cond(old.fitted, lambda: old.mixture, lambda: mixture.begin(z, weight, clusters, key))
        return History(points, usable, mixture.fit(z, weight, start, EM_ITERATIONS, EM_TOLERANCE), usable.any())


def _expected_cost(
    start: Gaussian, model: LinearDynamics, cost: Quadratic, final: Quadratic, controller: LinearGaussian
) -> Float[Array, ""]:
    """Expected cost of an episode of a controller, in the model."""
    z, last = chain.forward(start, model, controller)
    return quadratic.expectation(cost, z).sum() + quadratic.expectation(final, last)
