"""Guided policy search with a price on the distance of network and local controllers, on fitted dynamics (Levine &
Abbeel: Learning Neural Network Policies with Guided Policy Search under Unknown Dynamics, NIPS 2014) or on known ones
(constrained guided policy search, CGPS: Levine & Koltun: Learning Complex Neural Network Policies with Trajectory
Optimization, ICML 2014).

    minimise  sum_i E_{p_i}[l]    s.t.  E_{p_i} KL(pi to p_it) = 0  for every condition i and step t

by dual ascent. From rollouts of the local controllers p_i, once an iteration:

    S-step   the network pi learns  min sum lambda_it E_{p_i} KL(pi to p_it)              updates/s_step.py
    C-step   min E_p[l] + sum lambda_t E_p KL(pi to p_t)  within the trust region         updates/c_step/policy_kl.py
    duals    lambda_t += rate E_p KL(pi to p_t)                                           here

The KL covers: a controller keeps the noise that the network needs to be one of its actions, where BADMM's other KL
makes it forget what the network does not do. So the network's noise has a bound (ours): see `no_noisier`. Costs are in
units of the largest multiplier of the trust region so far, so that nothing depends on the cost's own.

What the network is near a controller is a linear-Gaussian function (models/linearised.py), of the rollouts' states or
of states drawn from where the controller goes by its model: models/covered.py.

| symbol   | paper    | code      |
| lambda_t | lambda_t | price     |
| alpha    | alpha    | dual_rate |
| s_ti     | CGPS, B  | drawn     |
"""

import functools
from typing import Annotated, Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import chain, gaussian
from pilotfish.algebra.batch import each, finite
from pilotfish.algorithms import Algorithm, check_number
from pilotfish.models import covered, local, regressed
from pilotfish.models.cost import CostExpansion
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.models.known import UNSTABLE, known, local_models
from pilotfish.models.learned_dynamics import Experience
from pilotfish.models.linearised import Linearisation
from pilotfish.models.local import LocalModel
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.policies.network import Network, NetworkPolicy
from pilotfish.types import DECREASE, Key, LinearGaussian, Problem, Quadratic, Rollouts, Shown, check_choice
from pilotfish.updates import s_step
from pilotfish.updates.c_step import Covered, CStep, Objective, c_step, kept_unless, mean_multiplier
from pilotfish.updates.s_step import SStep
from pilotfish.updates.step_size import Steps, StepSize

Source = Literal["fitted", "known"]
Terms = Literal["rollouts", "samples", "gradient"]
CGPS = "gps with model='known'"
"""What needs to know the dynamics, by its name in messages."""


class Tie(NamedTuple):
    """What ties local controllers and network."""

    price: Float[Array, "N T"]
    """Of the KL of every step, in units of the cost; 0 before the first C-step."""
    unit: Float[Array, ""]
    """The largest multiplier of the trust region so far, in units of the cost; 0 before it is known."""


class State(NamedTuple):
    """What the next iteration needs; leading axis, but of what concerns the one network: the condition."""

    controller: LinearGaussian
    eta: Float[Array, "N"]
    """Multiplier of the last trust region, nan before the first."""
    steps: Steps
    tie: Tie
    policy: NetworkPolicy
    transitions: regressed.Memory | Experience | None
    """What the dynamics' prior remembers; None without one."""
    visited: regressed.Memory | None
    """What the linearisation's prior remembers; None without one."""
    lessons: s_step.Memory
    drawn: Float[Array, "M T dx"] | None
    """Of terms from samples: normal samples, the same for all iterations."""


class Info(NamedTuple):
    """What an iteration reports. Means are over time steps and conditions."""

    ok: Bool[Array, "N"]
    """False where a condition keeps its controller: the dynamics in closed loop with it overflow, or too few
    transitions were there to fit any, or none to learn from."""
    kl: Annotated[
        Float[Array, ""],
        Shown("KL of a step", "nats", bound="kl_step", times="step_factor", column="KL", form="{:.3f}", label="mean"),
    ]
    """Mean expected KL of the new controllers to the old, in the model, nats a step."""
    kl_max: Annotated[Float[Array, ""], Shown("KL of a step", "nats", label="largest")]
    """The largest mean over the steps of a condition."""
    entropy: Annotated[Float[Array, ""], Shown("entropy of a step's actions", "nats", label="controllers")]
    """Mean entropy of the new controllers' actions, nats a step."""
    entropy_network: Annotated[Float[Array, ""], Shown("entropy of a step's actions", "nats", label="network")]
    """Entropy of the network's actions, nats a step, by its shared covariance."""
    eta: Annotated[Float[Array, ""], Shown("multipliers", scale="log", label="of the trust region")]
    """Median multiplier of the trust region, in units of the cost."""
    price: Annotated[Float[Array, ""], Shown("multipliers", scale="log", label="of the KL to the network")]
    """Mean price of the KL of the network to the controllers, in units of the cost."""
    step_factor: Annotated[Float[Array, ""], Shown("step size, factor", scale="log", column="step", form="{:.2g}")]
    """Mean factor of `kl_step` by the adaptation of the step size."""
    predicted: Annotated[Float[Array, ""], Shown(DECREASE, label="promised")]
    """Mean decrease of the expected cost of an episode that the models promise of the new controllers."""
    loss: Annotated[Float[Array, ""], Shown("loss of the network", scale="log", column="loss", form="{:.3g}")]
    """Mean squared distance of the network's actions to the controllers', in their standard deviations, after its
    lesson."""
    kl_network: Annotated[
        Float[Array, ""],
        Shown("KL of the network to the controllers", "nats", scale="log", label="those rolled out"),
    ]
    """Mean expected KL of the network's actions to those of the controllers that were rolled out, nats a step."""
    apart: Annotated[
        Float[Array, ""],
        Shown("KL of the network to the controllers", "nats", scale="log", label="the new ones"),
    ]
    """The same to the new controllers, by the network's linear function: what the duals rise with."""
    idle: Annotated[Float[Array, ""], Shown("hidden units that are idle", "%")]
    """Fraction of the network's hidden units that have one value everywhere: dead, or saturated."""


class GPS(Algorithm):
    """Guided policy search: local controllers teach a network, and are drawn towards it by a price that grows.

    Source: Levine & Abbeel (NIPS 2014); with `model` known CGPS, Levine & Koltun (ICML 2014). ValueError for a setting
    out of its range, a cost without the formula that is needed, or dynamics that are to be known and are not.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> algorithm = pf.GPS(policy=pf.Network(width=10))
    >>> result = pf.train(algorithm, LinearQuadratic().world(), rollouts=10, iterations=2)
    >>> bool(result.metrics["cost"][0, -1] < result.metrics["cost"][0, 0])  # (seed, iteration)
    True
    >>> result.policy.predict([1.0, -0.5, 0.0, 0.0]).shape  # one network, whatever the step and the condition
    (2,)
    """

    kl_step: float = 1.0
    """Bound on the expected KL of a controller to the last one, nats a step (paper: eps / T)."""
    weight: float = 0.01
    """The first price of the KL of the network to the controllers, in units of the first multiplier of the trust
    region."""
    dual_rate: float = 0.01
    """By how much the price of a step grows with each nat of its KL, in units of the largest multiplier so far (paper:
    alpha)."""
    model: Source = eqx.field(static=True, default="fitted")
    """Whether the dynamics are fitted to rollouts (GPS'14), or known (CGPS); what is in `dynamics` belongs to fitted
    ones."""
    dynamics: FittedDynamics = FittedDynamics(prior="gmm", excess=2.0)
    """How the dynamics are fitted."""
    cost: CostExpansion = CostExpansion()
    """How the cost becomes quadratic."""
    linearise: Linearisation = Linearisation(how="regression")
    """How the network becomes a controller of each condition."""
    terms: Terms = eqx.field(static=True, default="rollouts")
    """From which states `linearise` tells what the network is near a controller: those of its rollouts (GPS'14); or
    samples of where it goes by its model, the same for all iterations (CGPS). With gradient their average is not
    linearised, but taken with its true gradients in mean and covariance (CGPS, supplement B), and `linearise` does not
    count."""
    points: int = eqx.field(static=True, default=40)
    """Number of these samples; twice the state's entries where that is more."""
    step: StepSize = StepSize(smallest=0.5, largest=2.0)
    """How `kl_step` is adapted. Steps that may become ever smaller have ever larger multipliers, and so prices."""
    policy: Network = Network()
    """The network."""
    teach: SStep = SStep(batch=128)
    """How it learns."""
    noise_smoothing: float = eqx.field(static=True, default=0.0)
    """Standard deviation, in time steps, of the Gaussian filter that smooths exploration noise over time; 0: white."""

    @property
    def defaults(self) -> tuple[int, int]:
        return 5, 20

    def traceable(self, problem: Problem) -> bool:
        return self.model == "fitted" or known(problem, CGPS).traceable

    def __check_init__(self):
        check_choice(self, "model", Source)
        check_choice(self, "terms", Terms)
        check_number(self, "kl_step", lambda v: v > 0, "the bound on the KL must be positive")
        check_number(self, "weight", lambda v: v >= 0, "the price of the KL to the network; 0 has none at first")
        check_number(self, "dual_rate", lambda v: v >= 0, "a rate; 0 leaves the price as it is")
        check_number(self, "points", lambda v: v >= 1, "the number of samples; give 1 or more")
        check_number(self, "noise_smoothing", lambda v: v >= 0, "a standard deviation; 0 leaves the noise white")

    def init(self, problem: Problem, episodes: int, key: Key) -> State:
        """The problem's first controllers, and a network that knows nothing unless it is given one."""
        first, N = problem.first_controller, len(problem.conditions.mean)
        net_key, draw_key = jax.random.split(key)
        policy = self.policy.policy(problem, net_key, self.noise_smoothing)
        pairs = covered.enough(self.points, problem.dx)
        visited = self.linearise.begin(problem, episodes if self.terms == "rollouts" else 2 * pairs)
        transitions, drawn = None, None
        if self.model == "known":
            known(problem, CGPS)
        else:
            transitions = local.begin(self.dynamics, problem, episodes)
        if self.terms != "rollouts":
            drawn = covered.samples(draw_key, pairs, problem.horizon, problem.dx)
        return State(
            controller=first,
            eta=jnp.full(N, jnp.nan, float),
            steps=self.step.begin(N),
            tie=Tie(jnp.zeros((N, problem.horizon)), jnp.zeros(())),
            policy=policy,
            transitions=transitions,
            visited=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (N, *leaf.shape)), visited),
            lessons=self.teach.begin(problem, policy, episodes, self.policy.knows),
            drawn=drawn,
        )

    def explore(self, state: State) -> LinearGaussianPolicy:
        return LinearGaussianPolicy(state.controller, self.noise_smoothing)

    def exploit(self, state: State) -> NetworkPolicy:
        """The network."""
        return state.policy.noise_free()

    def local(self, state: State) -> LinearGaussianPolicy:
        """The controllers that the network learns from."""
        return LinearGaussianPolicy(state.controller).noise_free()

    def update(self, problem: Problem, state: State, rollouts: Rollouts, key: Key) -> tuple[State, Info]:
        data, (fit_key, key) = rollouts.cleaned(), jax.random.split(key)
        if self.model == "known":
            model = local_models(problem, known(problem, CGPS), state.controller)
            believed = None, model, jax.vmap(finite)(model) & data.happened.any((1, 2))
        else:
            believed = local.fits(self.dynamics, self.cost, problem, state.transitions, data, state.controller, fit_key)
        return self._improved(problem, state, data, believed, key)

    @eqx.filter_jit
    def _improved(
        self,
        problem: Problem,
        state: State,
        data: Rollouts,
        believed: tuple[Any, LocalModel, Bool[Array, "N"]],
        key: Key,
    ) -> tuple[State, Info]:
        """What follows from what is believed: lesson, controllers, duals."""
        transitions, model, enough = believed
        linear_key, teach_key = jax.random.split(key)
        old = jax.vmap(LocalModel.inwards)(model, state.controller)
        now = jax.vmap(LocalModel.expected_cost)(model, state.controller)
        factor = self.step.factor(state.steps, now)
        weight = jnp.where((state.tie.price > 0).all(), state.tie.price, 1.0)
        policy, lessons, taught = self.teach(state.lessons, state.policy, data, state.controller, teach_key, weight)
        policy = no_noisier(policy, self._most_noise(problem, state))
        keys = jax.random.split(linear_key, len(enough))
        near = functools.partial(self._near, problem, policy, state.drawn)
        visited, network, correction = each(near, state.visited, data, model, old, keys)
        priced = jax.vmap(_corrected)(model, correction, state.tie.price)
        step = each(self._step, priced, old, network, state.tie.price, self.kl_step * factor, state.eta, enough)
        apart = jax.vmap(_apart)(model, step.controller, network)
        controller = jax.vmap(LocalModel.outwards)(model, step.controller)
        eta = step.eta.mean(-1)
        new = State(
            controller=controller,
            eta=eta,
            steps=Steps(factor, now, jax.vmap(LocalModel.expected_cost)(model, controller)),
            tie=self._dearer(state.tie, eta, apart),
            policy=policy,
            transitions=transitions,
            visited=visited,
            lessons=lessons,
            drawn=state.drawn,
        )
        return new, self._info(new, step, taught, apart)

    def refusal(self, problem: Problem, state: State, rollouts: Rollouts, ok: Bool[Array, "N"]) -> str:
        return local.obstacle(self.cost, problem, rollouts, ok) or UNSTABLE * (self.model == "known")

    def _most_noise(self, problem: Problem, state: State) -> Float[Array, ""]:
        """The largest entropy that the network may have, in nats: the mean of the first controllers'; where dynamics
        are known noise teaches nothing, and only falls.
        """
        first = gaussian.entropy(problem.first_controller.chol).mean()
        return first if self.model == "fitted" else jnp.minimum(first, gaussian.entropy(state.policy.factor))

    def _near(
        self,
        problem: Problem,
        policy: NetworkPolicy,
        drawn: Float[Array, "M T dx"] | None,
        memory: regressed.Memory | None,
        data: Rollouts,
        model: LocalModel,
        old: LinearGaussian,
        key: Key,
    ) -> tuple[regressed.Memory | None, LinearGaussian, Quadratic | None]:
        """What the linearisation remembers, what the network is near one condition's controller, and what corrects
        that, per unit of the price.
        """
        if self.terms == "gradient":
            assert drawn is not None
            return memory, *covered.term(problem, policy, model, old, drawn)
        where = data if drawn is None else covered.visits(problem, model, old, drawn)
        return *self.linearise(problem, policy, memory, where, model.nominal, key), None

    def _step(
        self,
        model: LocalModel,
        old: LinearGaussian,
        network: LinearGaussian,
        price: Array,
        kl_step: Array,
        eta: Array,
        enough: Array,
    ) -> CStep:
        """One condition's new controller, in deviations."""
        objective = Objective(model.cost, model.final, covered=Covered(network, price))
        step = c_step(model.start, model.dynamics, objective, old, kl_step, guess=eta)
        return kept_unless(step.found & enough, step, old)

    def _dearer(self, tie: Tie, eta: Float[Array, "N"], apart: Float[Array, "N T"]) -> Tie:
        """The prices after a C-step: the first ones, or higher by the KL that is left, but not much more than twice as
        high: where the model is unstable its KL says only that it is large.
        """
        found = mean_multiplier(eta)
        # the first may say little, at a saddle of the cost say, and a single one may be anything
        unit = jnp.where(tie.unit > 0, jnp.clip(found, tie.unit, 2.0 * tie.unit), found)
        rate = self.dual_rate * unit
        price = jnp.minimum(tie.price + rate * apart, 2.0 * tie.price + rate)
        return Tie(jnp.where(tie.unit > 0, price, self.weight * unit), unit)

    def _info(self, new: State, step: CStep, taught: s_step.Taught, apart: Float[Array, "N T"]) -> Info:
        return Info(
            ok=step.found,
            kl=step.kl.mean(),
            kl_max=step.kl.mean(-1).max(),
            entropy=gaussian.entropy(new.controller.chol).mean(),
            entropy_network=gaussian.entropy(new.policy.factor),
            eta=jnp.nan_to_num(jnp.nanmedian(step.eta)),
            price=new.tie.price.mean(),
            step_factor=new.steps.factor.mean(),
            predicted=(new.steps.before - new.steps.promised).mean(),
            loss=taught.loss_after,
            kl_network=taught.kl.mean(),
            apart=apart.mean(),
            idle=taught.idle,
        )


def no_noisier(policy: NetworkPolicy, most: Float[Array, ""]) -> NetworkPolicy:
    """The network, its noise scaled down where its entropy is above this one, in nats.

    A controller that covers the network takes on its covariance and that of how it errs, and the network's next
    covariance is the harmonic mean of the controllers': without a bound each adds what the network errs by to the
    noise, in every iteration.
    """
    excess = gaussian.entropy(policy.factor) - most
    scale = jnp.exp(-jnp.maximum(jnp.where(jnp.isfinite(excess), excess, 0.0), 0.0) / len(policy.factor))
    return eqx.tree_at(lambda policy: policy.factor, policy, scale * policy.factor)


def _corrected(model: LocalModel, correction: Quadratic | None, price: Float[Array, "T"]) -> LocalModel:
    """The model with a correction of every step's cost, a function of the state."""
    if correction is None:
        return model
    dx = correction.h.shape[-1]
    H = model.cost.H.at[:, :dx, :dx].add(price[:, None, None] * correction.H)
    return model._replace(cost=Quadratic(H, model.cost.h.at[:, :dx].add(price[:, None] * correction.h), model.cost.c))


def _apart(model: LocalModel, p: LinearGaussian, policy: LinearGaussian) -> Float[Array, "T"]:
    """`E_p KL(policy to p)` of every step; 0 where rounding or overflow leave nothing of it."""
    kl = gaussian.expected_kl(policy, p, chain.states(model.start, model.dynamics, p))
    return jnp.maximum(jnp.where(jnp.isfinite(kl), kl, 0.0), 0.0)
