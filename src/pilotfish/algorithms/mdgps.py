"""MDGPS: mirror descent guided policy search (Montgomery & Levine, NIPS 2016).

Local controllers, one for each condition, teach one network, which acts from everywhere. Each iteration, from rollouts
of the local controllers (off policy) or of the network (on policy):

    dynamics and cost about the trajectories   models/local.py
    the network as local controllers           models/linearised.py
    size of this step, from the last one       updates/step_size.py
    best controllers within a trust region
    about the linearised network: C-step       updates/c_step
    the network learns these:     S-step       updates/s_step.py

That is mirror descent: a gradient step in the space of local controllers, and a projection onto those that a network
can be.

Few samples sometimes make a model in which a good policy explodes, and a step about what explodes is a lesson that
spoils the network for all conditions. So where the network, as the model of a condition has it, is worse than the first
controllers were, the trust region is about that condition's last controller; so it is before the first lesson.

| symbol  | paper             | code       |
| eps     | (2)               | T kl_step  |
| p_i     | Algorithm 2       | controller |
| pi      | section 4.1       | reference  |
| l^k_k, l^{k-1}_k | section 4.2 | Steps    |
"""

import functools
import math
from typing import Annotated, Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import gaussian
from pilotfish.algebra.batch import chosen, each, finite
from pilotfish.algorithms import Algorithm, check_number
from pilotfish.models import imitation, local, regressed
from pilotfish.models.cost import CostExpansion
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.models.learned_dynamics import Experience
from pilotfish.models.linearised import Linearisation
from pilotfish.models.local import LocalModel
from pilotfish.models.local_q import FittedQ, History, LocalQ
from pilotfish.models.nominal import Nominal
from pilotfish.policies import Policy
from pilotfish.policies.either import Either
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.policies.network import Network, NetworkPolicy
from pilotfish.types import DECREASE, Key, LinearGaussian, Problem, Rollouts, Shown, check_choice
from pilotfish.updates import s_step
from pilotfish.updates.c_step import CStep, Objective, TrustRegion, c_step, kept_unless
from pilotfish.updates.q_step import q_step
from pilotfish.updates.s_step import SStep
from pilotfish.updates.step_size import Steps, StepSize

OF_NETWORK = "cost of an episode of the network"
Sampling = Literal["off", "on"]
StepRule = Literal["classic", "global"]
Improvement = Literal["lqr", "moto"]
Belief = LocalModel | LocalQ
"""Of one condition: both tell what a controller would cost, and lead to a better one."""


class State(NamedTuple):
    """What the next iteration needs; leading axis, but of what concerns the one network: the condition."""

    controller: LinearGaussian
    eta: Float[Array, "N"]
    """Multiplier of the last trust region, nan before the first."""
    steps: Steps
    began: Float[Array, "N"]
    """Expected cost of the first controllers in the models fitted to their rollouts; nan before there are any."""
    policy: NetworkPolicy
    taught: Bool[Array, ""]
    """Whether the network had its first lesson."""
    transitions: regressed.Memory | Experience | History | None
    """What the dynamics' prior remembers, None without one; or the rollouts that the Q-functions reuse."""
    visited: regressed.Memory | None
    """What the linearisation's prior remembers; None without one."""
    lessons: s_step.Memory


class Info(NamedTuple):
    """What an iteration reports. Means are over time steps and conditions."""

    ok: Bool[Array, "N"]
    """False where a condition keeps its controller: the fitted dynamics in closed loop with the network overflow, or
    too few transitions were there to fit any."""
    kl: Annotated[
        Float[Array, ""],
        Shown("KL of a step", "nats", bound="kl_step", times="step_factor", column="KL", form="{:.3f}", label="mean"),
    ]
    """Mean expected KL of the new controllers to the linearised network, in the model, nats a step."""
    kl_max: Annotated[Float[Array, ""], Shown("KL of a step", "nats", label="largest")]
    """The largest of what the trust region bounds: a condition's mean over its steps, or a step's KL."""
    entropy: Annotated[Float[Array, ""], Shown("entropy of a step's actions", "nats", label="controllers")]
    """Mean entropy of the new controllers' actions, nats a step."""
    entropy_network: Annotated[Float[Array, ""], Shown("entropy of a step's actions", "nats", label="network")]
    """Entropy of the network's actions, nats a step, by its shared covariance."""
    eta: Annotated[Float[Array, ""], Shown("multiplier of the trust region", scale="log")]
    """Median multiplier of the trust region, in units of the cost."""
    step_factor: Annotated[Float[Array, ""], Shown("step size, factor", scale="log", column="step", form="{:.2g}")]
    """Mean factor of `kl_step` by the adaptation of the step size."""
    predicted: Annotated[Float[Array, ""], Shown(DECREASE, label="promised")]
    """Mean decrease of the expected cost of an episode that the models promise, from network to new controllers."""
    loss_before: Annotated[Float[Array, ""], Shown("loss of the network", scale="log", label="before its lesson")]
    """Mean squared distance of the network's actions to the controllers', in their standard deviations."""
    loss: Annotated[
        Float[Array, ""],
        Shown("loss of the network", scale="log", column="loss", form="{:.3g}", label="after its lesson"),
    ]
    """Likewise, after its lesson."""
    kl_network: Annotated[
        Float[Array, ""], Shown("KL of the network to the controllers", "nats", scale="log", label="mean")
    ]
    """Mean expected KL of the network's actions to the new controllers', nats a step."""
    kl_network_max: Annotated[
        Float[Array, ""], Shown("KL of the network to the controllers", "nats", scale="log", label="largest")
    ]
    """The largest of a condition."""
    cost_network: Annotated[Float[Array, ""], Shown(OF_NETWORK, scale="log", label="expected")]
    """Expected cost of an episode of the network as it was, in the models; of the controllers before its first
    lesson."""
    guaranteed: Annotated[Float[Array, ""], Shown(OF_NETWORK, scale="log", label="at most")]
    """The most that an episode of the network as it leaves can cost (Lemma 4.2), as far as the models and the states of
    this iteration go: almost always far too much."""
    drift: Annotated[Float[Array, ""], Shown("states that may differ, at most", "%")]
    """Mean total variation of its states from those of the controllers, at most (Lemma 4.1)."""
    followed: Annotated[Float[Array, ""], Shown("conditions that step from the network", "%")]
    """Fraction of the conditions whose trust region is about the network, not their last controller."""
    idle: Annotated[Float[Array, ""], Shown("hidden units that are idle", "%")]
    """Fraction of the network's hidden units that have one value everywhere: dead, or saturated."""


class MDGPS(Algorithm):
    """Mirror descent guided policy search: local controllers teach a network, about which they are improved.

    Source: Montgomery & Levine (NIPS 2016). ValueError for a setting out of its range, a final cost without a formula
    (with `c_step` lqr), or too few rollouts an iteration.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> algorithm = pf.MDGPS(policy=pf.Network(width=10))
    >>> result = pf.train(algorithm, LinearQuadratic().world(), rollouts=10, iterations=2)
    >>> bool(result.metrics["cost"][0, -1] < result.metrics["cost"][0, 0])  # (seed, iteration)
    True
    >>> result.policy.predict([1.0, -0.5, 0.0, 0.0]).shape  # one network, whatever the step and the condition
    (2,)
    """

    kl_step: float = 1.0
    """Bound on the expected KL of a controller to the linearised network, nats a step (paper: eps / T)."""
    trust: TrustRegion = eqx.field(static=True, default="trajectory")
    """What the bound holds for: the trajectory's mean over its steps (the paper), or every single step."""
    sampling: Sampling = eqx.field(static=True, default="off")
    """Who is rolled out: the local controllers (off policy), or the network (on policy)."""
    step_rule: StepRule = eqx.field(static=True, default="classic")
    """Whose cost tells whether the last step was too long: the local controllers' (classic), or the network's
    (global)."""
    c_step: Improvement = eqx.field(static=True, default="lqr")
    """How controllers are improved: by LQR on fitted dynamics (the paper), or by MOTO's Q-functions, without a model of
    the dynamics (ours). Then `q` and `entropy_drop` count instead of `dynamics`, `cost`, `trust` and `imagined`, and
    `kl_step` bounds every single step."""
    q: FittedQ = FittedQ(reuse="both")
    """With c_step moto: how the Q-functions are fitted."""
    entropy_drop: float = math.inf
    """With c_step moto: by how much less entropy than the network's a step's actions may have, nats; inf: no bound."""
    dynamics: FittedDynamics = FittedDynamics(prior="gmm", excess=2.0)
    """How the dynamics are fitted."""
    cost: CostExpansion = CostExpansion()
    """How the cost becomes quadratic."""
    linearise: Linearisation = Linearisation(how="regression")
    """How the network becomes a controller of each condition."""
    step: StepSize = StepSize(smallest=0.5, largest=3.0)
    """How `kl_step` is adapted."""
    policy: Network = Network()
    """The network."""
    teach: SStep = SStep(batch=128)
    """How it learns."""
    imagined: int = eqx.field(static=True, default=10)
    """Episodes of each new controller in its condition's model, from whose states the network learns beside those of
    the rollouts: it sees where it is sent before it is there. 0: from the rollouts alone (the paper)."""
    noise_smoothing: float = eqx.field(static=True, default=0.0)
    """Standard deviation, in time steps, of the Gaussian filter that smooths exploration noise over time; 0: white."""

    @property
    def defaults(self) -> tuple[int, int]:
        return 10, 20

    def __check_init__(self):
        check_choice(self, "trust", TrustRegion)
        check_choice(self, "sampling", Sampling)
        check_choice(self, "step_rule", StepRule)
        check_choice(self, "c_step", Improvement)
        check_number(self, "kl_step", lambda v: v > 0, "the bound on the KL must be positive")
        check_number(self, "entropy_drop", lambda v: v >= 0, "0 keeps the entropy, inf leaves it unbounded")
        if self.c_step == "lqr":
            check_number(
                self, "entropy_drop", math.isinf, "LQR bounds no entropy. Set c_step='moto', or leave this out"
            )
        check_number(self, "imagined", lambda v: v >= 0, "a number of episodes; 0 imagines none")
        check_number(self, "noise_smoothing", lambda v: v >= 0, "a standard deviation; 0 leaves the noise white")

    def init(self, problem: Problem, episodes: int, key: Key) -> State:
        """The problem's first controllers, and a network that knows nothing unless it is given one."""
        first, N = problem.first_controller, len(problem.conditions.mean)
        policy = self.policy.policy(problem, key, self.noise_smoothing)
        visited = self.linearise.begin(problem, episodes)
        visited = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (N, *leaf.shape)), visited)
        if self.c_step == "moto":
            transitions = self.q.begin(problem, episodes)
        else:
            transitions = local.begin(self.dynamics, problem, episodes)
        return State(
            controller=first,
            eta=jnp.full(N, jnp.nan, float),
            steps=self.step.begin(N),
            began=jnp.full(N, jnp.nan, float),
            policy=policy,
            taught=jnp.asarray(self.policy.knows),
            transitions=transitions,
            visited=visited,
            lessons=self.teach.begin(
                problem, policy, episodes + (self.imagined if self.c_step == "lqr" else 0), self.policy.knows
            ),
        )

    def explore(self, state: State) -> Policy:
        controllers = LinearGaussianPolicy(state.controller, self.noise_smoothing)
        if self.sampling == "off":
            return controllers
        N, T = state.controller.k.shape[:2]
        return Either.of(controllers, state.policy, jnp.full(N, state.taught, float), T)

    def exploit(self, state: State) -> NetworkPolicy:
        """The network."""
        return state.policy.noise_free()

    def local(self, state: State) -> LinearGaussianPolicy:
        """What the network learned from last."""
        return LinearGaussianPolicy(state.controller).noise_free()

    def update(self, problem: Problem, state: State, rollouts: Rollouts, key: Key) -> tuple[State, Info]:
        N, data = len(state.eta), rollouts.cleaned()
        fit_key, linear_key, imagine_key, teach_key = jax.random.split(key, 4)
        nominal, linearise = jax.vmap(Nominal.of)(data), functools.partial(self.linearise, problem, state.policy)
        visited, network = each(linearise, state.visited, data, nominal, jax.random.split(linear_key, N))
        if visited is not None:  # what an untaught network does is no start for the next mixture
            visited = visited._replace(fitted=visited.fitted & state.taught)
        last, network = state.controller, jax.vmap(Nominal.outwards)(nominal, network)
        rolled = chosen(jnp.broadcast_to(state.taught & (self.sampling == "on"), N), network, last)
        transitions, belief, enough, collects = self._believed(problem, state.transitions, data, rolled, fit_key)
        spent, spent_last = (jax.vmap(_expected_cost)(belief, p) for p in (network, last))
        began = jnp.where(enough & jnp.isnan(state.began), spent_last, state.began)
        follows = state.taught & (spent <= began)
        reference, before = chosen(follows, (network, spent), (last, spent_last))
        factor = self.step.factor(state.steps, before if self.step_rule == "global" else spent_last)
        step = each(self._step, belief, reference, last, self.kl_step * factor, state.eta, enough)
        seen = data
        if isinstance(belief, LocalModel):
            seen = local.with_imagined(problem, belief, step.controller, data, self.imagined, imagine_key)
        policy, lessons, taught = self.teach(state.lessons, state.policy, seen, step.controller, teach_key)
        promised = jax.vmap(_expected_cost)(belief, step.controller)
        new = State(
            controller=step.controller,
            eta=step.eta.mean(-1),
            steps=Steps(factor, before, promised),
            began=began,
            policy=policy,
            taught=lessons.taught,
            transitions=transitions,
            visited=visited,
            lessons=lessons,
        )
        span = imitation.spans(data.cost, jnp.concatenate([data.happened, data.valid[..., None]], -1))
        return new, self._info(new, step, step.found | collects, follows, taught, span)

    def refusal(self, problem: Problem, state: State, rollouts: Rollouts, ok: Bool[Array, "N"]) -> str:
        return "" if self.c_step == "moto" else local.obstacle(self.cost, problem, rollouts, ok)

    def _believed(
        self,
        problem: Problem,
        memory: regressed.Memory | Experience | History | None,
        data: Rollouts,
        rolled: LinearGaussian,
        key: Key,
    ) -> tuple[Any, Belief, Bool[Array, "N"], Bool[Array, "N"]]:
        """What is remembered of all conditions and believed of each, whether that is enough for a step, and whether it
        is not enough yet.
        """
        if not isinstance(memory, History):
            memory, model, enough = local.fits(self.dynamics, self.cost, problem, memory, data, rolled, key)
            return memory, model, enough, jnp.zeros_like(enough)

        def of_one(memory: History, data: Rollouts, rolled: LinearGaussian):
            found = self.q.fit(problem, rolled, memory, data)
            keeps = found.enough | found.collects
            return chosen(keeps, found.history, memory), found.belief, found.enough, found.collects

        return each(of_one, memory, data, rolled)

    def _step(
        self,
        belief: Belief,
        reference: LinearGaussian,
        controller: LinearGaussian,
        kl_step: Array,
        eta: Array,
        enough: Array,
    ) -> CStep:
        """One condition's new controller."""
        if isinstance(belief, LocalModel):
            objective, q = Objective(belief.cost, belief.final), belief.nominal.inwards(reference)
            step = c_step(belief.start, belief.dynamics, objective, q, kl_step, self.trust, eta)
            step = step._replace(controller=belief.nominal.outwards(step.controller))
        else:
            step = _model_free(belief.about(reference), kl_step, self.entropy_drop)
        return kept_unless(step.found & enough, step, controller)

    def _info(
        self,
        new: State,
        step: CStep,
        ok: Bool[Array, "N"],
        follows: Bool[Array, "N"],
        taught: s_step.Taught,
        span: Float[Array, "N T1"],
    ) -> Info:
        bounded = step.kl.mean(-1) if self.trust == "trajectory" and self.c_step == "lqr" else step.kl
        return Info(
            ok=ok,
            kl=step.kl.mean(),
            kl_max=bounded.max(),
            entropy=gaussian.entropy(new.controller.chol).mean(),
            entropy_network=gaussian.entropy(new.policy.factor),
            eta=jnp.nan_to_num(jnp.nanmedian(step.eta)),
            step_factor=new.steps.factor.mean(),
            predicted=jnp.where(step.found, new.steps.before - new.steps.promised, 0.0).mean(),
            loss_before=taught.loss_before,
            loss=taught.loss_after,
            kl_network=taught.kl.mean(),
            kl_network_max=taught.kl.max(),
            cost_network=jnp.nan_to_num(jnp.nanmean(new.steps.before)),
            guaranteed=jnp.nan_to_num(jnp.nanmean(new.steps.promised + imitation.most(taught.kl_worst, span))),
            drift=imitation.variation(taught.kl_worst).mean(),
            followed=follows.mean(),
            idle=taught.idle,
        )


def _expected_cost(belief: Belief, controller: LinearGaussian) -> Float[Array, ""]:
    return belief.expected_cost(controller)


def _model_free(belief: LocalQ, kl_step: Array, entropy_drop: Array | float) -> CStep:
    """MOTO's step about the controller in whose coordinates Q is."""
    now, evidence = belief.occupancy, belief.evidence
    controller, _, found = q_step(
        now.controller, now.mean, now.chol, belief.Q, kl_step * evidence, entropy_drop * evidence
    )
    return CStep(controller, found.eta, found.kl, jnp.asarray(0), finite((controller, found.kl)))
