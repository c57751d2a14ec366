"""TRPO: trust region policy optimisation (Schulman et al., ICML 2015), in the three forms of MOTO's Figure 5.

Each iteration, from rollouts of the policy, without any model of the dynamics:

    what is still to be paid           models/critic.py (network), models/value.py (quadratic)
    advantage of every action          models/critic.py
    natural gradient, line search      updates/natural_gradient.py

The policy is one network for all conditions, or a time-varying linear-Gaussian controller of each. The value is a
network's, of states and the time, or MOTO's quadratic function of each time step. Of MOTO it differs in two ideas: the
bound is on the mean KL of all steps, not on every step's, and the step follows the gradient within a quadratic model of
the KL, where MOTO's is exact.

| symbol | paper            | code     |
| delta  | (12)             | kl_step  |
| gamma  | section 2        | discount |
| lambda | GAE (16)         | trace    |
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import gaussian, regression
from pilotfish.algebra.batch import chosen, each, finite
from pilotfish.algebra.dual import WhiteStep, unwhiten
from pilotfish.algorithms import Algorithm, check_number
from pilotfish.models import value
from pilotfish.models.critic import Critic, NeuralValue, advantages
from pilotfish.models.occupancy import marginals, white_state
from pilotfish.policies import network
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.policies.network import Network, NetworkPolicy, OwnNetworkPolicy, log_factors
from pilotfish.types import DECREASE, Key, LinearGaussian, Problem, Rollouts, Shown, check_choice
from pilotfish.updates.natural_gradient import Experience, NaturalStep, Relative, natural_step

Actor = Literal["network", "linear-gaussian"]
Value = Literal["network", "quadratic"]
Moved = Callable[[Float[Array, "p"]], Any]
"""The policy of some parameters."""


class State(NamedTuple):
    """What the next iteration needs."""

    policy: NetworkPolicy | LinearGaussianPolicy
    critic: Critic | None
    """None where the value is quadratic: that is fitted anew."""
    taught: Bool[Array, ""]
    """Whether there was an update."""


class Info(NamedTuple):
    """What an iteration reports. Means are over time steps and conditions."""

    ok: Bool[Array, "N"]
    """False where nothing happened, or numbers overflowed."""
    kl: Annotated[
        Float[Array, ""], Shown("KL of a step", "nats", bound="kl_step", column="KL", form="{:.3f}", label="mean")
    ]
    """Mean KL of the old policy to the new in the states of the rollouts, nats a step."""
    kl_max: Annotated[Float[Array, ""], Shown("KL of a step", "nats", label="largest")]
    """The largest of what the bound holds for: of all steps of a network, or of a condition's controller."""
    entropy: Annotated[Float[Array, ""], Shown("entropy of a step's actions", "nats", column="entropy", form="{:.2f}")]
    """Entropy of the new policy's actions, nats a step."""
    shrinks: Annotated[Float[Array, ""], Shown("line search, how often the step was shortened")]
    """Mean number of times; where no length would do, the policy stays."""
    predicted: Annotated[Float[Array, ""], Shown(DECREASE, label="promised")]
    """Mean decrease of the expected cost of an episode that the advantages promise, in the states of the rollouts."""
    explained: Annotated[Float[Array, ""], Shown("variance of the cost to go that is explained", "%")]
    """Part of the variance of the discounted cost to go of all steps that the value tells."""


class TRPO(Algorithm):
    """Trust region policy optimisation: the natural gradient of a policy, within a bound on its mean KL.

    Source: Schulman, Levine, Moritz, Jordan & Abbeel (ICML 2015). ValueError for a setting out of its range.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> result = pf.train(pf.TRPO(kl_step=0.05), LinearQuadratic().world(), rollouts=20, iterations=3)
    >>> bool(result.metrics["cost"][0, -1] < result.metrics["cost"][0, 0])  # (seed, iteration)
    True
    """

    kl_step: float = 0.01
    """Bound on the mean KL of successive policies, nats a step (paper: delta; MOTO's comparison: .1)."""
    actor: Actor = eqx.field(static=True, default="network")
    """Who acts: one network, or a time-varying linear-Gaussian controller for each condition."""
    value: Value = eqx.field(static=True, default="network")
    """What is still to be paid is told by a network, of the state and the time, or by MOTO's quadratic functions, one
    for each condition and time step."""
    policy: Network = Network(width=64, activation="tanh", time=True)
    """The network that acts."""
    critic: NeuralValue = NeuralValue()
    """The network that tells the value, and how it learns."""
    ridge: float = 1e-4
    """Penalty of the quadratic value's regression (as MOTO's)."""
    discount: float = 0.99
    """Weight of a step's cost against that of the one before."""
    trace: float = 0.98
    """Part of a rollout's own costs in its advantages, against those that the value expects: 1 takes the rollout's sum
    as it is, 0 looks one step ahead."""
    damping: float = 0.1
    """Added to the Fisher matrix, whose parameters have magnitude 1."""
    conjugate: int = eqx.field(static=True, default=10)
    """Iterations of conjugate gradients."""

    @property
    def defaults(self) -> tuple[int, int]:
        return 20, 100

    def __check_init__(self):
        check_choice(self, "actor", Actor)
        check_choice(self, "value", Value)
        check_number(self, "kl_step", lambda v: v > 0, "the bound on the KL must be positive")
        check_number(self, "ridge", lambda v: v > 0, "the regression needs a positive penalty")
        check_number(self, "discount", lambda v: 0 <= v <= 1, "a weight from 0 to 1")
        check_number(self, "trace", lambda v: 0 <= v <= 1, "a weight from 0 to 1")
        check_number(self, "damping", lambda v: v >= 0, "a number added to the Fisher matrix, so 0 or more")
        check_number(self, "conjugate", lambda v: v >= 1, "give at least 1 iteration")

    def init(self, problem: Problem, episodes: int, key: Key) -> State:
        """A network that does nothing but explore, or the one given; or the problem's first controllers without
        correlations.
        """
        policy_key, value_key = jax.random.split(key)
        if self.actor == "network":
            policy = self.policy.policy(problem, policy_key)
            policy = policy if self.policy.knows else _silent(policy, problem)
        else:
            first = problem.first_controller
            std = jnp.sqrt(jnp.diagonal(first.cov, axis1=-2, axis2=-1))
            policy = LinearGaussianPolicy(LinearGaussian(first.K, first.k, std[..., None] * jnp.eye(problem.du)))
        critic = self.critic.begin(problem, value_key) if self.value == "network" else None
        return State(policy, critic, jnp.asarray(self.actor == "network" and self.policy.knows))

    def explore(self, state: State) -> NetworkPolicy | LinearGaussianPolicy:
        return state.policy

    def exploit(self, state: State) -> NetworkPolicy | LinearGaussianPolicy:
        """The newest policy."""
        return state.policy.noise_free()

    def update(self, problem: Problem, state: State, rollouts: Rollouts, key: Key) -> tuple[State, Info]:
        data = rollouts.cleaned()
        expected = self._expected(problem, state.critic, data)
        A = advantages(data.cost, expected, data.happened, self.discount, self.trace)
        critic = state.critic
        if critic is not None:
            critic = self.critic.taught(critic, data.x, A + expected[..., :-1], data.happened, key)
        if isinstance(state.policy, NetworkPolicy):
            policy = _rewhitened(state.policy, data, state.taught)
            relative, parameters, moved, e = _network(policy, data)
            untaught = isinstance(policy, OwnNetworkPolicy) & ~state.taught
            step = self._step(relative, parameters, e, A, data.happened, untaught)
            policy = chosen(step.found, moved(step.parameters), policy)
        else:
            policy, step = self._controllers(state.policy.controller, data, A)
        ok = data.happened.any((1, 2)) & finite((policy, critic))
        policy, critic = chosen(ok.any(), (policy, critic), (state.policy, state.critic))
        return State(policy, critic, state.taught | ok.any()), self._info(problem, policy, data, step, expected, ok)

    def _expected(self, problem: Problem, critic: Critic | None, data: Rollouts) -> Float[Array, "N M T1"]:
        """Costs to go from every state of the rollouts."""
        if critic is not None:
            return critic(data.x)

        def of_one(data: Rollouts) -> Float[Array, "M T1"]:
            x, happened = jnp.swapaxes(data.x[:, :-1], 0, 1), data.happened.T.astype(data.x.dtype)
            V = value.of_states(x, data.cost[:, :-1].T, data.cost[:, -1], happened, self.discount, self.ridge)
            return jnp.concatenate([V.T, data.cost[:, -1:]], -1)

        return each(of_one, data)

    def _step(
        self,
        relative: Callable[[Float[Array, "p"]], Relative],
        parameters: int,
        e: Float[Array, "n du"],
        A: Float[Array, "*batch T"],
        happened: Bool[Array, "*batch T"],
        stays: Bool[Array, ""] | bool = False,
    ) -> NaturalStep:
        """The step from these actions and their advantages, or none at all. What it promises is in the cost's unit."""
        share = happened.ravel() / jnp.maximum(happened.sum(), 1)
        centre, std = (leaf[0] for leaf in regression.standard(A.reshape(-1, 1), share))
        unit = jnp.where(std > 0, std, 1.0)
        seen = Experience(e, (A.ravel() - centre) / unit, share)
        step = natural_step(relative, parameters, seen, self.kl_step, self.damping, self.conjugate)
        moves = step.found & ~jnp.asarray(stays)
        none = jax.tree.map(jnp.zeros_like, step)
        return chosen(moves, step._replace(surrogate=unit * step.surrogate), none._replace(shrinks=step.shrinks))

    def _controllers(
        self, controllers: LinearGaussian, data: Rollouts, A: Float[Array, "N M T"]
    ) -> tuple[LinearGaussianPolicy, NaturalStep]:
        """New controllers, and the step of each condition's."""

        def of_one(controller: LinearGaussian, data: Rollouts, A: Float[Array, "M T"]):
            relative, parameters, moved, e = _controller(controller, data)
            step = self._step(relative, parameters, e, A.T, data.happened.T)
            return chosen(step.found, moved(step.parameters), controller), step

        new, step = each(of_one, controllers, data, A)
        return LinearGaussianPolicy(new), step

    def _info(
        self,
        problem: Problem,
        policy: NetworkPolicy | LinearGaussianPolicy,
        data: Rollouts,
        step: NaturalStep,
        expected: Float[Array, "N M T1"],
        ok: Bool[Array, "N"],
    ) -> Info:
        happened = data.happened
        to_go = advantages(data.cost, jnp.zeros_like(expected), happened, self.discount, 1.0)
        share = (happened / jnp.maximum(happened.sum(), 1)).ravel()
        _, left = regression.standard((to_go - expected[..., :-1]).reshape(-1, 1), share)
        _, all_of_it = regression.standard(to_go.reshape(-1, 1), share)
        return Info(
            ok=ok,
            kl=step.kl.mean(),
            kl_max=step.kl.max(),
            entropy=_entropy(policy, data),
            shrinks=step.shrinks.mean(dtype=float),
            predicted=-problem.horizon * step.surrogate.mean(),
            explained=1.0 - jnp.where(all_of_it[0] > 0, (left[0] / all_of_it[0]) ** 2, 0.0),
        )


# -- a network's parameters: its weights, and the logarithms of its standard deviations


def _silent(policy: NetworkPolicy, problem: Problem) -> NetworkPolicy:
    """The same network with a mean of 0 everywhere, so that it acts alike in whatever coordinates it sees."""
    if isinstance(policy, OwnNetworkPolicy):
        return eqx.tree_at(lambda p: p.spread, policy, problem.initial_std)
    last = policy.net.layers[-1]  # type: ignore[union-attr]
    nothing = jnp.zeros_like(last.weight), jnp.zeros_like(last.bias)
    return eqx.tree_at(lambda p: (p.net.layers[-1].weight, p.net.layers[-1].bias), policy, nothing)


def _rewhitened(policy: NetworkPolicy, data: Rollouts, taught: Bool[Array, ""]) -> NetworkPolicy:
    """The same policy, its inputs whitened by these rollouts. What is inside a network of somebody's own class is not
    known, so that it keeps the coordinates of its first iteration, in which it does not learn yet.
    """
    seen, share = _seen(policy, data), data.happened.ravel() / jnp.maximum(data.happened.sum(), 1)
    shift, scale = regression.standard(seen, share)
    magnitude = jnp.where(shift != 0, jnp.abs(shift), 1.0)
    scale = jnp.where(scale > 0, scale, jnp.where(taught, policy.scale, magnitude))
    if isinstance(policy, OwnNetworkPolicy):
        shift, scale = chosen(taught, (policy.shift, policy.scale), (shift, scale))
        return eqx.tree_at(lambda p: (p.shift, p.scale), policy, (shift, scale))
    assert isinstance(policy.net, eqx.nn.MLP)
    again = network.rewhitened(policy.net, policy.shift, policy.scale, shift, scale)
    net = chosen(taught, again, policy.net)  # a silent one does the same in all coordinates
    return eqx.tree_at(lambda p: (p.net, p.shift, p.scale), policy, (net, shift, scale))


def _seen(policy: NetworkPolicy, data: Rollouts) -> Float[Array, "n inputs"]:
    """What the network saw at all steps."""
    o = data.o[..., :-1, :]
    over_time = jax.vmap(policy.inputs)
    return jax.vmap(over_time, (None, 0))(jnp.arange(o.shape[-2]), o.reshape(-1, *o.shape[-2:])).reshape(
        -1, len(policy.shift)
    )


def _whitened(factor: Float[Array, "du du"], h: Float[Array, "n h"], off: Float[Array, "n du"]) -> Float[Array, "n du"]:
    """`R^-1 off`, R being the factor with columns multiplied where the covariance depends on what is seen."""
    e = gaussian.solve_chol(factor, off.T).T
    return e * jnp.exp(-log_factors(h)) if h.shape[-1] else e


def _network(
    policy: NetworkPolicy, data: Rollouts
) -> tuple[Callable[[Float[Array, "p"]], Relative], int, Moved, Float[Array, "n du"]]:
    """How the actions and the policy follow from parameters, and its actions in white coordinates: the noise that was
    drawn. Parameters of the last layer are in the actions' standard deviations.
    """
    seen, du = _seen(policy, data), len(policy.factor)
    arrays = network.weights(policy.net)
    unit = jax.tree.map(jnp.ones_like, arrays)
    if not isinstance(policy, OwnNetworkPolicy):
        std = jnp.sqrt((policy.factor**2).sum(-1))
        std = jnp.pad(std, (0, len(unit.layers[-1].bias) - du), constant_values=1.0)
        last = jnp.broadcast_to(std[:, None], unit.layers[-1].weight.shape), std
        unit = eqx.tree_at(lambda n: (n.layers[-1].weight, n.layers[-1].bias), unit, last)
    start, unravel = ravel_pytree(arrays)
    unit, count = ravel_pytree(unit)[0], len(start)
    out = jax.vmap(policy.outputs)(seen)
    e = _whitened(policy.factor, out[:, du:], data.u.reshape(-1, du) - out[:, :du])

    def moved(d: Float[Array, "p"]) -> NetworkPolicy:
        net = eqx.combine(unravel(start + unit * d[:count]), policy.net)
        return eqx.tree_at(lambda p: (p.net, p.factor), policy, (net, policy.factor * jnp.exp(d[count:])))

    def relative(d: Float[Array, "p"]) -> Relative:
        new = jax.vmap(moved(d).outputs)(seen)
        y = _whitened(policy.factor, out[:, du:], new[:, :du] - out[:, :du])
        r = jnp.broadcast_to(d[count:], y.shape)
        return Relative(y, r + log_factors(new[:, du:]) - log_factors(out[:, du:]) if new.shape[-1] > du else r)

    return relative, count + du, moved, e


# -- a controller's parameters: offset, gain and logarithms of the standard deviations, of each step


def _controller(
    p: LinearGaussian, data: Rollouts
) -> tuple[Callable[[Float[Array, "p"]], Relative], int, Moved, Float[Array, "n du"]]:
    """How the actions and the controller of one condition follow from parameters, and its actions in white coordinates.

    Parameters are those of `e ~ N(G s + g, diag(exp 2 r))` in white states s, times the root of the number of steps: so
    the Fisher matrix is about the identity.
    """
    T, du, dx = p.K.shape
    x, u = (jnp.swapaxes(leaf, 0, 1) for leaf in (data.x[:, :-1], data.u))
    mean, chol = marginals(x, data.happened.T.astype(x.dtype))
    s = jax.vmap(white_state)(mean, chol, x)
    off = u - jnp.einsum("tij,tmj->tmi", p.K, x) - p.k[:, None]
    e = gaussian.solve_chol(p.chol, off.mT).mT.reshape(-1, du)
    zero = WhiteStep(jnp.zeros((T, du, dx)), jnp.zeros((T, du)), jnp.zeros((T, du)))
    start, unravel = ravel_pytree(zero)

    def relative(d: Float[Array, "p"]) -> Relative:
        G, g, r = unravel(d * jnp.sqrt(T))
        y = jnp.einsum("tij,tmj->tmi", G, s) + g[:, None]
        return Relative(y.reshape(-1, du), jnp.broadcast_to(r[:, None], y.shape).reshape(-1, du))

    def moved(d: Float[Array, "p"]) -> LinearGaussian:
        G, g, r = unravel(d * jnp.sqrt(T))
        step = WhiteStep(G, g, jnp.exp(r)[..., None] * jnp.eye(du))
        return jax.vmap(unwhiten)(step, p, mean, chol)

    return relative, len(start), moved, e


def _entropy(policy: NetworkPolicy | LinearGaussianPolicy, data: Rollouts) -> Float[Array, ""]:
    """Of an action, mean over all steps that happened."""
    if isinstance(policy, LinearGaussianPolicy):
        return gaussian.entropy(policy.controller.chol).mean()
    h = jax.vmap(policy.outputs)(_seen(policy, data))[:, len(policy.factor) :]
    share = data.happened.ravel() / jnp.maximum(data.happened.sum(), 1)
    return gaussian.entropy(policy.factor) + (share @ log_factors(h).sum(-1) if h.shape[-1] else 0.0)
