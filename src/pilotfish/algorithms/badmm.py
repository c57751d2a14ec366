"""BADMM: guided policy search by the Bregman alternating direction method of multipliers (Levine, Finn, Darrell,
Abbeel: End-to-End Training of Deep Visuomotor Policies, JMLR 2016), as the MDGPS paper compares with it.

Local controllers teach a network, as in `mdgps`; but their trust region is about the last local controllers, and they
are drawn towards the network by a price on the distance, that grows where the two disagree. From the rollouts of the
local controllers, several times an iteration:

    S-step   the network learns  min sum nu_t KL(pi to p) + lambda_t'E_pi[u]              updates/s_step.py
    duals    lambda_t += rate nu_t Sigma^-1 (E_pi[u] - E_p[u])                            here
    C-step   min E_p[l] + sum nu_t KL(p to pi) - lambda_t'E_p[u]  within the trust region updates/c_step

and once an iteration nu_t is doubled where the KL of step t is large among the steps, and halved where it is small.
Costs are in units of the first multiplier of the trust region, so that nothing depends on the cost's own; the network's
precision, for whose inverse Sigma stands, makes lambda a price of the action in whatever unit.

| symbol   | paper    | code       |
| nu_t     | nu_t     | nu         |
| lambda_t | lambda_mu_t | lam     |
| alpha    | alpha    | dual_rate  |
"""

import functools
from typing import Annotated, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import chain, gaussian
from pilotfish.algebra.batch import each
from pilotfish.algorithms import Algorithm, check_number
from pilotfish.models import local, regressed
from pilotfish.models.cost import CostExpansion
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.models.learned_dynamics import Experience
from pilotfish.models.linearised import Linearisation
from pilotfish.models.local import LocalModel
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.policies.network import Network, NetworkPolicy
from pilotfish.types import DECREASE, Key, LinearGaussian, Problem, Rollouts, Shown, check_choice
from pilotfish.updates import s_step
from pilotfish.updates.c_step import CStep, Objective, TrustRegion, c_step, kept_unless, mean_multiplier
from pilotfish.updates.s_step import SStep
from pilotfish.updates.step_size import Steps, StepSize

SMALL, LARGE = 1.0, 0.5
"""Standard deviations below and above the mean KL over steps at which nu_t changes (the paper's code)."""
APART = 100.0
"""No step's nu_t differs from their geometric mean by more than this factor (ours: for many iterations)."""


class Tie(NamedTuple):
    """What ties local controllers and network; leading axes: condition, time."""

    nu: Float[Array, "N T"]
    """Price of the KL, in units of the cost; 0 before the first C-step."""
    lam: Float[Array, "N T du"]
    """Price of the action, in units of the cost over its own."""


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


class Info(NamedTuple):
    """What an iteration reports. Means are over time steps and conditions."""

    ok: Bool[Array, "N"]
    """False where a condition keeps its controller: the fitted dynamics in closed loop with it overflow, or too few
    transitions were there to fit any."""
    kl: Annotated[
        Float[Array, ""],
        Shown("KL of a step", "nats", bound="kl_step", times="step_factor", column="KL", form="{:.3f}", label="mean"),
    ]
    """Mean expected KL of the new controllers to the old, in the model, nats a step."""
    kl_max: Annotated[Float[Array, ""], Shown("KL of a step", "nats", label="largest")]
    """The largest of what the trust region bounds: a condition's mean over its steps, or a step's KL."""
    entropy: Annotated[Float[Array, ""], Shown("entropy of a step's actions", "nats", label="controllers")]
    """Mean entropy of the new controllers' actions, nats a step."""
    entropy_network: Annotated[Float[Array, ""], Shown("entropy of a step's actions", "nats", label="network")]
    """Entropy of the network's actions, nats a step, by its shared covariance."""
    eta: Annotated[Float[Array, ""], Shown("multipliers", scale="log", label="of the trust region")]
    """Median multiplier of the trust region, in units of the cost."""
    nu: Annotated[Float[Array, ""], Shown("multipliers", scale="log", label="of the KL to the network")]
    """Mean price of the KL to the network, in units of the cost."""
    step_factor: Annotated[Float[Array, ""], Shown("step size, factor", scale="log", column="step", form="{:.2g}")]
    """Mean factor of `kl_step` by the adaptation of the step size."""
    predicted: Annotated[Float[Array, ""], Shown(DECREASE, label="promised")]
    """Mean decrease of the expected cost of an episode that the models promise of the new controllers."""
    loss: Annotated[Float[Array, ""], Shown("loss of the network", scale="log", column="loss", form="{:.3g}")]
    """Mean squared distance of the network's actions to the controllers', in their standard deviations, after its last
    lesson."""
    kl_network: Annotated[Float[Array, ""], Shown("KL of the network to the controllers", "nats", scale="log")]
    """Mean expected KL of the network's actions to those of the controllers that it learned from last, nats a step."""
    idle: Annotated[Float[Array, ""], Shown("hidden units that are idle", "%")]
    """Fraction of the network's hidden units that have one value everywhere: dead, or saturated."""


class BADMM(Algorithm):
    """Guided policy search by multipliers: local controllers and the network that they teach are drawn together.

    Source: Levine, Finn, Darrell & Abbeel (JMLR 2016). ValueError for a setting out of its range, a final cost without
    a formula, or too few rollouts an iteration.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> algorithm = pf.BADMM(inner=1, policy=pf.Network(width=10))
    >>> result = pf.train(algorithm, LinearQuadratic().world(), rollouts=10, iterations=2)
    >>> bool(result.metrics["cost"][0, -1] < result.metrics["cost"][0, 0])  # (seed, iteration)
    True
    >>> result.policy.predict([1.0, -0.5, 0.0, 0.0]).shape  # one network, whatever the step and the condition
    (2,)
    """

    kl_step: float = 1.0
    """Bound on the expected KL of a controller to the last one, nats a step (paper: eps / T)."""
    trust: TrustRegion = eqx.field(static=True, default="trajectory")
    """What the bound holds for: the trajectory's mean over its steps (the paper), or every single step."""
    inner: int = eqx.field(static=True, default=4)
    """How often an iteration alternates S-step, duals and C-step."""
    weight: float = 0.1
    """The first price nu of the KL to the network, in units of the first multiplier of the trust region."""
    dual_rate: float = 0.1
    """How fast lambda grows with the distance of the mean actions (paper: alpha)."""
    dynamics: FittedDynamics = FittedDynamics(prior="gmm", excess=2.0)
    """How the dynamics are fitted."""
    cost: CostExpansion = CostExpansion()
    """How the cost becomes quadratic."""
    linearise: Linearisation = Linearisation(how="regression")
    """How the network becomes a controller of each condition."""
    step: StepSize = StepSize(smallest=0.01, largest=3.0)
    """How `kl_step` is adapted."""
    policy: Network = Network()
    """The network."""
    teach: SStep = SStep(batch=128)
    """How it learns."""
    imagined: int = eqx.field(static=True, default=10)
    """Episodes of each controller in its condition's model, from whose states the network learns beside those of the
    rollouts: it sees where it is sent before it is there. 0: from the rollouts alone (the paper)."""
    noise_smoothing: float = eqx.field(static=True, default=0.0)
    """Standard deviation, in time steps, of the Gaussian filter that smooths exploration noise over time; 0: white."""

    @property
    def defaults(self) -> tuple[int, int]:
        return 5, 20

    def __check_init__(self):
        check_choice(self, "trust", TrustRegion)
        check_number(self, "kl_step", lambda v: v > 0, "the bound on the KL must be positive")
        check_number(self, "inner", lambda v: v >= 1, "at least one S-step and one C-step an iteration")
        check_number(self, "weight", lambda v: v > 0, "the price of the KL to the network must be positive")
        check_number(self, "dual_rate", lambda v: v >= 0, "a rate; 0 leaves lambda at 0")
        check_number(self, "imagined", lambda v: v >= 0, "a number of episodes; 0 imagines none")
        check_number(self, "noise_smoothing", lambda v: v >= 0, "a standard deviation; 0 leaves the noise white")

    def init(self, problem: Problem, episodes: int, key: Key) -> State:
        """The problem's first controllers, and a network that knows nothing unless it is given one."""
        first, N = problem.first_controller, len(problem.conditions.mean)
        policy = self.policy.policy(problem, key, self.noise_smoothing)
        transitions, visited = local.begin(self.dynamics, problem, episodes), self.linearise.begin(problem, episodes)
        visited = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (N, *leaf.shape)), visited)
        return State(
            controller=first,
            eta=jnp.full(N, jnp.nan, float),
            steps=self.step.begin(N),
            tie=Tie(jnp.zeros((N, problem.horizon)), jnp.zeros((N, problem.horizon, problem.du))),
            policy=policy,
            transitions=transitions,
            visited=visited,
            lessons=self.teach.begin(problem, policy, episodes + self.imagined, self.policy.knows),
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
        N, data = len(state.eta), rollouts.cleaned()
        fit_key, key = jax.random.split(key)
        transitions, model, enough = local.fits(
            self.dynamics, self.cost, problem, state.transitions, data, state.controller, fit_key
        )
        old = jax.vmap(LocalModel.inwards)(model, state.controller)
        now = jax.vmap(LocalModel.expected_cost)(model, state.controller)
        factor = self.step.factor(state.steps, now)
        arrays, rest = eqx.partition(state.policy, eqx.is_array)

        def alternate(carry, key: Key):
            """S-step, duals and C-step, from the controllers in deviations and from what the network is."""
            controllers, tie, arrays, lessons, eta = carry
            policy: NetworkPolicy = eqx.combine(arrays, rest)
            linear_key, imagine_key, teach_key = jax.random.split(key, 3)
            outside = jax.vmap(LocalModel.outwards)(model, controllers)
            seen = local.with_imagined(problem, model, outside, data, self.imagined, imagine_key)
            priced = (tie.nu > 0).all()
            weight = tie.nu + jnp.logical_not(priced)
            policy, learned, taught = self.teach(lessons, policy, seen, outside, teach_key, weight, tie.lam)
            lessons = lessons._replace(taught=learned.taught, optimiser=learned.optimiser)
            linearise = functools.partial(self.linearise, problem, policy)
            visited, network = each(linearise, state.visited, data, model.nominal, jax.random.split(linear_key, N))
            tie = tie._replace(lam=tie.lam + self.dual_rate * _pull(tie.nu, controllers, network))
            step = each(self._step, model, old, network, tie, self.kl_step * factor, eta, enough)
            eta = step.eta.mean(-1)
            tie = tie._replace(nu=jnp.where(priced, tie.nu, self.weight * mean_multiplier(eta)))
            arrays = eqx.filter(policy, eqx.is_array)
            return (step.controller, tie, arrays, lessons, eta), (step, taught, learned, visited, network)

        begin = old, state.tie, arrays, state.lessons, state.eta
        (controllers, tie, arrays, _, eta), told = jax.lax.scan(alternate, begin, jax.random.split(key, self.inner))
        step, taught, lessons, visited, network = jax.tree.map(lambda leaf: leaf[-1], told)
        apart = jax.vmap(lambda m, p, q: chain.kl(m.start, m.dynamics, p, q))(model, controllers, network)
        outside = jax.vmap(LocalModel.outwards)(model, controllers)
        new = State(
            controller=outside,
            eta=eta,
            steps=Steps(factor, now, jax.vmap(LocalModel.expected_cost)(model, outside)),
            tie=tie._replace(nu=reweighted(tie.nu, apart)),
            policy=eqx.combine(arrays, rest),
            transitions=transitions,
            visited=visited,
            lessons=lessons,
        )
        return new, self._info(new, step, taught)

    def refusal(self, problem: Problem, state: State, rollouts: Rollouts, ok: Bool[Array, "N"]) -> str:
        return local.obstacle(self.cost, problem, rollouts, ok)

    def _step(
        self,
        model: LocalModel,
        old: LinearGaussian,
        network: LinearGaussian,
        tie: Tie,
        kl_step: Array,
        eta: Array,
        enough: Array,
    ) -> CStep:
        """One condition's new controller, in deviations."""
        objective = Objective(model.cost, model.final).tied(network, tie.nu, tie.lam)
        step = c_step(model.start, model.dynamics, objective, old, kl_step, self.trust, eta)
        return kept_unless(step.found & enough, step, old)

    def _info(self, new: State, step: CStep, taught: s_step.Taught) -> Info:
        bounded = step.kl.mean(-1) if self.trust == "trajectory" else step.kl
        return Info(
            ok=step.found,
            kl=step.kl.mean(),
            kl_max=bounded.max(),
            entropy=gaussian.entropy(new.controller.chol).mean(),
            entropy_network=gaussian.entropy(new.policy.factor),
            eta=jnp.nan_to_num(jnp.nanmedian(step.eta)),
            nu=new.tie.nu.mean(),
            step_factor=new.steps.factor.mean(),
            predicted=(new.steps.before - new.steps.promised).mean(),
            loss=taught.loss_after,
            kl_network=taught.kl.mean(),
            idle=taught.idle,
        )


def _pull(nu: Float[Array, "N T"], p: LinearGaussian, pi: LinearGaussian) -> Float[Array, "N T du"]:
    """`nu_t Sigma^-1 (E_pi[u] - E_p[u])` over the rollouts' states, whose mean deviation is 0."""
    apart = gaussian.solve_chol(pi.chol, (pi.k - p.k)[..., None])
    inverse = gaussian.solve_chol(pi.chol, jnp.broadcast_to(jnp.eye(p.k.shape[-1]), pi.chol.shape))
    return nu[..., None] * (inverse.mT @ apart)[..., 0]


def reweighted(nu: Float[Array, "N T"], kl: Float[Array, "N T"]) -> Float[Array, "N T"]:
    """Nu doubled where a step's KL is large among those of its condition, and halved where it is small."""
    mean, std = kl.mean(-1, keepdims=True), kl.std(-1, keepdims=True)
    factor = jnp.where(kl < mean - SMALL * std, 0.5, jnp.where(kl >= mean + LARGE * std, 2.0, 1.0))
    new = jnp.where(jnp.isfinite(mean + std), factor, 1.0) * nu
    middle = jnp.exp(jnp.log(new).mean(-1, keepdims=True))
    return jnp.where(new > 0, jnp.clip(new, middle / APART, middle * APART), new)
