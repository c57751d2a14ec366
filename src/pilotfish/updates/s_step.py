"""The S-step of guided policy search: a network learns to act as the local controllers do (MDGPS, section 3).

With `N(pi(o), Sigma)` the network's action and `N(mu_it(x), C_it)` that of condition i's controller at step t, summed
over the samples j of the newest iterations, the expected KL of the network to the controllers is, but for constants,

    1/2 sum_itj w_it [ (pi(o) - mu_it(x))' C_it^-1 (pi(o) - mu_it(x)) + tr(C_it^-1 Sigma) - log |Sigma| ]

so the mean is a weighted least-squares fit and the covariance has a closed form (GPS'14, section 4),

    Sigma = [ sum w_it C_it^-1 / sum w_it ]^-1

Where the network's noise depends on what it observes (`Network.covariance`) it is `F exp(2 h(o)) F'`, F being the
factor of this Sigma, and h is trained by the sum above as the mean is. States of earlier iterations count too, with the
actions that the *new* controllers take there. A term `sum lambda_it' pi(o)` (BADMM's dual) completes the square: the
target becomes `mu_it(x) - C_it lambda_it / w_it`.

An episode that went astray would be learned before all others, for a controller demands the more the farther it is from
its way, and least squares follow what is large. So with d_itj the squared distance of mu_it(x) from its median over j,
in the controller's standard deviations, a sample counts `min(1, 30 D_it / d_itj)^2` (ours), where D_it is the median of
step t's distances or of the condition's, whichever is larger, and at least du.

All is done in coordinates without units. Inputs are centred and divided by their standard deviations; the network's
function does not change by that, for the first layer is changed inversely (of a network of somebody's own class the
layers are not known: it keeps the coordinates of its first lesson). Actions are centred at the best constant
action, and divided by the root of their targets' variance plus the network's. Minibatches are drawn in proportion to
the weight and to the root of the precision, one sample from each of `batch` equal parts of the memory, so that all
conditions and times have their share in each.

| symbol  | paper            | code       |
| w       | BADMM, nu        | weight     |
| lambda  | BADMM, lambda    | linear     |
| C_it^-1 | MDGPS, section 3 | half' half |
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from pilotfish.algebra import gaussian, regression
from pilotfish.algebra.batch import chosen, finite, pushed
from pilotfish.algebra.descent import adam, lbfgs
from pilotfish.policies import network
from pilotfish.policies.network import ACTIVATIONS, NetworkPolicy, OwnNetworkPolicy, log_factors
from pilotfish.types import Key, LinearGaussian, Problem, Rollouts, check_choice

Optimiser = Literal["adam", "lbfgs"]
Precision = Literal["float32", "float64"]

FIRST_OUTPUT = 0.1
"""Of the last layer's initial weights so much is left, so that an untaught network acts about as the best constant."""
COLLAPSED = 0.01
"""What varies by less than this part of what it should follow counts as constant."""


STRAY = 30.0
"""Squared distance, per what is usual, from which on a sample counts the less. Of a normal distribution not
one in a thousand is so far off."""


class Memory(NamedTuple):
    """What the S-step remembers: K iterations of rollouts, the newest first, and where its optimiser stopped."""

    o: Float[Array, "K N M T inputs"]
    """What the network sees: what is observed, and the time if that is one of its inputs."""
    x: Float[Array, "K N M T dx"]
    happened: Bool[Array, "K N M T"]
    taught: Bool[Array, ""]
    """Whether the network learned anything yet."""
    optimiser: Any
    """Adam's moments of the flat vector of weights, in whitened coordinates; None with L-BFGS."""


class Taught(NamedTuple):
    """What an S-step reports. Losses are means over the memory, without units."""

    loss_before: Float[Array, ""]
    """Mean squared distance to the targets in standard deviations of the controllers, summed over actions."""
    loss_after: Float[Array, ""]
    """Likewise, of the network as it leaves."""
    kl: Float[Array, "N"]
    """Mean KL of the network to the new controllers in this iteration's states, nats a step; 0 where no step
    happened."""
    kl_worst: Float[Array, "N T"]
    """The largest of each step, nats."""
    idle: Float[Array, ""]
    """Fraction of hidden units that have one and the same value in all that is remembered: dead, or saturated."""
    constant: Bool[Array, ""]
    """Whether the network acts alike everywhere although its targets vary."""
    finite: Bool[Array, ""]
    """False where the training overflowed: policy and optimiser are as they were."""


Layers = list[tuple[Float[Array, "..."], Float[Array, "..."]]]
"""Weights (out, in) and bias (out,) of each layer."""
Forward = Callable[[Any, Float[Array, "b inputs"]], tuple[Float[Array, "b outputs"], list]]
"""Outputs and hidden units of a batch of inputs, from what is trained: layers, or a module's arrays."""


class _Goal(NamedTuple):
    """What is to be learned, in users' units."""

    target: Float[Array, "K N M T du"]
    share: Float[Array, "K N M T"]
    """Normalised weights: they sum to 1, or to 0 if nothing happened."""
    half: Float[Array, "N T du du"]
    """`C^-1 = half' half`, of the controllers of steps that happened."""
    factor: Float[Array, "du du"]
    """Lower Cholesky factor of Sigma."""


class _White(NamedTuple):
    """Coordinates without units: `s = (o - shift) / scale`, `v = (u - centre) / spread`."""

    shift: Float[Array, "inputs"]
    scale: Float[Array, "inputs"]
    varies: Bool[Array, "inputs"]
    """Whether an entry varies in the memory."""
    centre: Float[Array, "du"]
    spread: Float[Array, "du"]


class _Samples(NamedTuple):
    """The memory in whitened coordinates. The loss is `sum share |root[row] (net(s) - v)|^2`.

    A step's precision is divided evenly between its share, by which samples are drawn, and its root: gradients then
    vary least if errors are as large as the controllers' noise.
    """

    s: Float[Array, "n inputs"]
    v: Float[Array, "n du"]
    share: Float[Array, "n"]
    root: Float[Array, "it du du"]
    """One for each condition and time step."""
    noise: Float[Array, "it du"]
    """Diagonal of `F'C^-1 F`, F being Sigma's factor: what the network's noise costs is `noise exp(2h) - 2h`."""
    size: Float[Array, "it"]
    """How much of a sample's share is for the step's precision."""
    row: Int[Array, "n"]

    def at(self, rows: Int[Array, "b"]) -> "_Samples":
        """Some of the samples."""
        return self._replace(s=self.s[rows], v=self.v[rows], share=self.share[rows], row=self.row[rows])


class SStep(eqx.Module):
    """How the network is taught."""

    optimiser: Optimiser = eqx.field(static=True, default="adam")
    """Minibatches by Adam (MDGPS, BADMM), or the whole memory by L-BFGS (GPS'14)."""
    steps: int = eqx.field(static=True, default=4000)
    """Steps of Adam; with L-BFGS the most steps, where a few hundred do, for it ends when the loss falls no more."""
    batch: int = eqx.field(static=True, default=25)
    """Samples of one step of Adam."""
    learning_rate: float = 1e-3
    """Adam's step size, in whitened coordinates."""
    memory: int = eqx.field(static=True, default=3)
    """Iterations whose states are learned from, this one included."""
    precision: Precision = eqx.field(static=True, default="float32")
    """Of the training; what is folded into the network before and after has that of the problem."""

    def __check_init__(self):
        check_choice(self, "optimiser", Optimiser)
        check_choice(self, "precision", Precision)
        for name, what in (("steps", "step"), ("batch", "sample a step"), ("memory", "iteration, this one")):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give at least 1 {what}.")
        if isinstance(self.learning_rate, int | float) and not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate}: the step size must be positive.")

    def begin(self, problem: Problem, policy: NetworkPolicy, episodes: int, taught: bool = False) -> Memory:
        """What is remembered before the first of iterations with `episodes` rollouts from each condition: no state, but
        whether the network was `taught` before.
        """
        shape = (self.memory, len(problem.conditions.mean), episodes, problem.horizon)
        weights = ravel_pytree(network.weights(policy.net))[0].astype(self.precision)
        return Memory(
            o=jnp.zeros((*shape, len(policy.shift))),
            x=jnp.zeros((*shape, problem.dx)),
            happened=jnp.zeros(shape, bool),
            taught=jnp.asarray(taught),
            optimiser=optax.scale_by_adam().init(weights) if self.optimiser == "adam" else None,
        )

    def __call__(
        self,
        memory: Memory,
        policy: NetworkPolicy,
        rollouts: Rollouts,
        controllers: LinearGaussian,
        key: Key,
        weight: Float[Array, "N T"] | float = 1.0,
        linear: Float[Array, "N T du"] | float = 0.0,
    ) -> tuple[NetworkPolicy, Memory, Taught]:
        """The network after it learned from these rollouts and from those remembered.

        `controllers` have the leading axes (N, T). Weights need not be normalised, and `linear` belongs to them: both
        may be multiplied by one number. Where a weight is 0 nothing is learned. A training that ends with a larger loss
        than it began with (so steps on few samples at a time may, where one has nearly all the weight) leaves the
        network's function as it was. Rollouts should be `cleaned`.
        """
        memory = _remembered(memory, policy, rollouts)
        goal = _goal(memory, controllers, weight, linear)
        white = _kept(policy, _white(memory, goal, policy), memory.taught)
        samples, forward = _samples(memory, goal, white), _forward(policy)
        start = _folded(policy, white, memory.taught)
        trained, moments = self._trained(start, forward, samples, memory.optimiser, key)
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), start, trained)
        said = cast(_Measured, jax.lax.map(lambda layers: _measured(layers, forward, samples), both))
        before: _Measured = jax.tree.map(lambda leaf: leaf[0], said)
        after: _Measured = jax.tree.map(lambda leaf: leaf[1], said)
        worse = after.trained > before.trained
        trained, after = chosen(worse, (start, before), (trained, after))
        new = _unfolded(trained, policy, white, goal.factor)
        anything, whole = (goal.share > 0).any(), finite((new, moments))
        ok = anything & whole
        new, after, moments = chosen(ok, (new, after, moments), (policy, before, memory.optimiser))
        kl, kl_worst = _kl(new, memory, goal, controllers)
        report = Taught(
            loss_before=jnp.where(anything, before.loss, 0.0),
            loss_after=jnp.where(anything, after.loss, 0.0),
            kl=kl,
            kl_worst=kl_worst,
            idle=jnp.where(anything, after.idle, 0.0),
            constant=anything & after.constant,
            finite=whole | ~anything,
        )
        return new, memory._replace(taught=memory.taught | ok, optimiser=moments), report

    def _trained(self, layers: Any, forward: Forward, samples: _Samples, moments: Any, key: Key) -> tuple[Any, Any]:
        """The layers after training, and Adam's moments."""
        weights, unravel = ravel_pytree(_cast(layers, self.precision))
        low: _Samples = _cast(samples, self.precision)

        def loss(weights: Float[Array, "p"], rows: Int[Array, "b"]) -> Float[Array, ""]:
            some = low.at(rows)
            out, _ = forward(unravel(weights), some.s)
            return _losses(out, some).mean()

        def whole(weights: Float[Array, "p"]) -> Float[Array, ""]:
            out, _ = forward(unravel(weights), low.s)
            return low.share @ _losses(out, low) / low.share.sum()

        if self.optimiser == "adam":
            rows = _draws(samples.share, self.steps, self.batch, key)
            weights, moments = adam(loss, weights, moments, rows, self.learning_rate)
        else:
            weights = lbfgs(whole, weights, self.steps)
        return _cast(unravel(weights), samples.s.dtype), moments


def _remembered(old: Memory, policy: NetworkPolicy, rollouts: Rollouts) -> Memory:
    """The memory with this iteration in front; the oldest is forgotten. What did not happen is 0."""
    happened = rollouts.happened
    over_time = jax.vmap(policy.inputs)
    o = jax.vmap(jax.vmap(over_time, (None, 0)), (None, 0))(jnp.arange(happened.shape[-1]), rollouts.o[..., :-1, :])
    o, x = (jnp.where(happened[..., None], leaf, 0.0) for leaf in (o, rollouts.x[..., :-1, :]))
    o, x, happened = pushed((o, x, happened), (old.o, old.x, old.happened))
    return old._replace(o=o, x=x, happened=happened)


def _goal(
    memory: Memory, p: LinearGaussian, weight: Float[Array, "N T"] | float, linear: Float[Array, "N T du"] | float
) -> _Goal:
    N, T, du = p.k.shape
    weight = jnp.broadcast_to(weight, (N, T))
    share = jnp.where(memory.happened, weight[:, None], 0.0)
    total = share.sum()
    share = share / jnp.where(total > 0, total, 1.0)
    used = memory.happened.any((0, 2))
    eye = jnp.broadcast_to(jnp.eye(du), (N, T, du, du))
    K, k, chol, linear, weight = (
        jnp.where(used.reshape(N, T, *(1,) * (leaf.ndim - 2)), leaf, other)
        for leaf, other in (
            (p.K, 0.0),
            (p.k, 0.0),
            (p.chol, eye),
            (jnp.broadcast_to(linear, (N, T, du)), 0.0),
            (weight, 1.0),
        )
    )
    half = gaussian.solve_chol(chol, eye)
    wanted = jnp.einsum("ntij,knmtj->knmti", K, memory.x)
    share = share * _trusted(wanted, half, share > 0)
    share = share / jnp.maximum(share.sum(), jnp.finfo(share.dtype).tiny)
    linear = linear / jnp.where(weight > 0, weight, jnp.inf)[..., None]
    k = k - jnp.einsum("ntij,ntkj,ntk->nti", chol, chol, linear)
    target = wanted + k[:, None]
    inverse = jnp.einsum("nt,ntij,ntik->jk", share.sum((0, 2)), half, half)
    upper = jnp.flip(gaussian.robust_cholesky(jnp.flip(inverse, (0, 1))), (0, 1))
    factor = jsl.solve_triangular(upper, jnp.eye(du)).T  # upper upper' is the inverse of factor factor'
    return _Goal(target, share, half, factor)


def _trusted(
    wanted: Float[Array, "K N M T du"], half: Float[Array, "N T du du"], known: Bool[Array, "K N M T"]
) -> Float[Array, "K N M T"]:
    """By how much samples count less because their episodes went astray."""

    def middle(a: Array, *axes: int) -> Array:
        some = jnp.where(known.reshape(*known.shape, *(1,) * (a.ndim - known.ndim)), a, jnp.nan)
        return jnp.nan_to_num(jnp.nanmedian(some, axis=axes, keepdims=True))

    d = (jnp.einsum("ntij,knmtj->knmti", half, wanted - middle(wanted, 0, 2)) ** 2).sum(-1)
    usual = jnp.maximum(middle(d, 0, 2), middle(d, 0, 2, 3))
    most = STRAY * jnp.maximum(usual, wanted.shape[-1])
    return jnp.where(known, jnp.minimum(1.0, most / jnp.maximum(d, most)) ** 2, 0.0)


def _white(memory: Memory, goal: _Goal, policy: NetworkPolicy) -> _White:
    """Whitening of the inputs by what is remembered, and of the actions by the targets."""
    share = goal.share.ravel()
    newest = jnp.argmax(share)
    o = memory.o.reshape(len(share), -1)
    shift, std = regression.standard(o, share)
    size = jnp.where(share[:, None] > 0, jnp.abs(o), 0.0).max(0)
    varies = std > 0
    constant = jnp.where(memory.taught, policy.scale, jnp.where(size > 0, size, 1.0))
    target = goal.target.reshape(len(share), -1)
    off = jnp.einsum("ntij,knmtj->knmti", goal.half, goal.target - target[newest])
    pull = jnp.einsum("ntij,knmti->j", goal.half, goal.share[..., None] * off)
    centre = target[newest] + goal.factor @ (goal.factor.T @ pull)
    spread = jnp.sqrt(share @ (target - centre) ** 2 + (goal.factor**2).sum(-1))
    return _White(shift, jnp.where(varies, std, constant), varies, centre, spread)


def _samples(memory: Memory, goal: _Goal, white: _White) -> _Samples:
    N, T, du = goal.half.shape[:3]
    known = goal.share[..., None] > 0
    s = jnp.where(known & white.varies, (memory.o - white.shift) / white.scale, 0.0)
    v = jnp.where(known, (goal.target - white.centre) / white.spread, 0.0)
    root = goal.half * white.spread
    size = jnp.sqrt((root**2).sum((-2, -1)))
    noise = ((goal.half @ goal.factor) ** 2).sum(-2)
    row = jnp.broadcast_to(jnp.arange(N * T).reshape(N, 1, T), goal.share.shape)
    return _Samples(
        s=s.reshape(-1, s.shape[-1]),
        v=v.reshape(-1, du),
        share=(goal.share * size[:, None]).ravel(),
        root=(root / jnp.sqrt(size)[..., None, None]).reshape(-1, du, du),
        noise=noise.reshape(-1, du),
        size=size.ravel(),
        row=row.ravel(),
    )


def _distances(out: Float[Array, "n outputs"], samples: _Samples) -> Float[Array, "n"]:
    """Squared distances to the targets, `|root (pi - v)|^2`."""
    off = out[:, : samples.v.shape[-1]] - samples.v
    return (jnp.einsum("nij,nj->ni", samples.root[samples.row], off) ** 2).sum(-1)


def _losses(out: Float[Array, "n outputs"], samples: _Samples) -> Float[Array, "n"]:
    """What the network is trained by: the distances, and what its noise costs where that depends on the state."""
    distances, h = _distances(out, samples), log_factors(out[:, samples.v.shape[-1] :])
    if not h.shape[-1]:
        return distances
    noise = (samples.noise[samples.row] * jnp.exp(2.0 * h) - 2.0 * h).sum(-1)
    return distances + noise / samples.size[samples.row]


def _kept(policy: NetworkPolicy, white: _White, taught: Bool[Array, ""]) -> _White:
    """These coordinates; for a network of somebody's own class, once it is taught, those that it has."""
    if not isinstance(policy, OwnNetworkPolicy):
        return white
    own = _White(policy.shift, policy.scale, jnp.ones_like(white.varies), policy.centre, policy.spread)
    return chosen(taught, own, white)


def _folded(policy: NetworkPolicy, white: _White, taught: Bool[Array, ""]) -> Any:
    """The layers of the same function in whitened coordinates; of small output if nothing was taught yet. Of a network
    of somebody's own class its arrays.
    """
    if isinstance(policy, OwnNetworkPolicy):
        return network.weights(policy.net)
    assert isinstance(policy.net, eqx.nn.MLP)
    layers = _layers(policy.net)
    weight, bias = layers[0]
    again = _layers(network.rewhitened(policy.net, policy.shift, policy.scale, white.shift, white.scale))[0]
    layers[0] = chosen(taught, again, (jnp.where(white.varies, weight, 0.0), bias))
    weight, bias = layers[-1]
    centre, spread = _of_outputs(white, len(bias))
    again = weight / spread[:, None], (bias - centre) / spread
    layers[-1] = chosen(taught, again, (FIRST_OUTPUT * weight, jnp.zeros_like(bias)))
    return layers


def _unfolded(layers: Any, policy: NetworkPolicy, white: _White, factor: Float[Array, "du du"]) -> NetworkPolicy:
    """The policy in users' units of what was trained in whitened coordinates."""
    if isinstance(policy, OwnNetworkPolicy):
        return eqx.tree_at(
            lambda p: (p.net, p.shift, p.scale, p.centre, p.spread, p.factor),
            policy,
            (eqx.combine(layers, policy.net), white.shift, white.scale, white.centre, white.spread, factor),
        )
    weight, bias = layers[-1]
    centre, spread = _of_outputs(white, len(bias))
    layers = [*layers[:-1], (spread[:, None] * weight, spread * bias + centre)]
    return eqx.tree_at(
        lambda p: (
            *(layer.weight for layer in p.net.layers),
            *(layer.bias for layer in p.net.layers),
            p.shift,
            p.scale,
            p.factor,
        ),
        policy,
        (*(weight for weight, _ in layers), *(bias for _, bias in layers), white.shift, white.scale, factor),
    )


def _of_outputs(white: _White, outputs: int) -> tuple[Float[Array, "outputs"], Float[Array, "outputs"]]:
    """Centre and spread of the network's outputs; those beyond the mean action have no units."""
    more = 0, outputs - len(white.centre)
    return jnp.pad(white.centre, more), jnp.pad(white.spread, more, constant_values=1.0)


def _layers(net: eqx.nn.MLP) -> Layers:
    return [(layer.weight, cast(Array, layer.bias)) for layer in net.layers]


def _forward(policy: NetworkPolicy) -> Forward:
    """How outputs and hidden units, as far as these are known, follow from what is trained."""
    if isinstance(policy, OwnNetworkPolicy):
        return lambda arrays, s: (jax.vmap(eqx.combine(arrays, policy.net))(s), [])  # type: ignore[arg-type]
    return lambda layers, s: _through(layers, ACTIVATIONS[policy.activation], s)


def _through(
    layers: Layers, activation: Callable[[Array], Array], s: Float[Array, "b inputs"]
) -> tuple[Float[Array, "b outputs"], list]:
    hidden = []
    for weight, bias in layers[:-1]:
        s = activation(s @ weight.T + bias)
        hidden.append(s)
    weight, bias = layers[-1]
    return s @ weight.T + bias, hidden


def _draws(share: Float[Array, "n"], steps: int, batch: int, key: Key) -> Int[Array, "steps batch"]:
    """Samples drawn in proportion to `share`: in every step one from each of `batch` parts of equal share."""
    upto = jnp.cumsum(share)
    part = (jnp.arange(batch) + jax.random.uniform(key, (steps, batch))) / batch
    return jnp.searchsorted(upto, jnp.minimum(part * upto[-1], jnp.nextafter(upto[-1], 0.0)), side="right")


class _Measured(NamedTuple):
    loss: Float[Array, ""]
    trained: Float[Array, ""]
    """What training lowers: the loss, and of a state-dependent head what its noise costs."""
    idle: Float[Array, ""]
    constant: Bool[Array, ""]


def _measured(layers: Any, forward: Forward, samples: _Samples) -> _Measured:
    """What the whole memory says of a network."""
    out, hidden = forward(layers, samples.s)
    known = samples.share > 0

    def extent(z: Float[Array, "n d"]) -> tuple[Float[Array, "d"], Float[Array, "d"]]:
        """How far each column varies, and its magnitude."""
        some = z[jnp.argmax(samples.share)]
        z = jnp.where(known[:, None], z, some)
        return z.max(0) - z.min(0), jnp.abs(z).max(0)

    rounding = regression.ROUNDING * jnp.finfo(out.dtype).eps
    idle = [varies <= rounding * size for varies, size in map(extent, hidden)]
    acts, wanted = extent(out[:, : samples.v.shape[-1]])[0].max(), extent(samples.v)[0].max()
    return _Measured(
        loss=samples.share @ _distances(out, samples),
        trained=samples.share @ _losses(out, samples),
        idle=jnp.concatenate(idle).mean(dtype=float) if idle else jnp.zeros(()),
        constant=(wanted > COLLAPSED) & (acts < COLLAPSED * wanted),
    )


def _kl(
    policy: NetworkPolicy, memory: Memory, goal: _Goal, p: LinearGaussian
) -> tuple[Float[Array, "N"], Float[Array, "N T"]]:
    """KL of the network to the controllers, mean over the newest iteration's steps and largest of each, in nats."""
    happened, x, o = memory.happened[0], memory.x[0], memory.o[0]
    out = jax.vmap(policy.outputs)(o.reshape(-1, o.shape[-1])).reshape(*o.shape[:-1], -1)
    mean = jnp.einsum("ntij,nmtj->nmti", p.K, x) + p.k[:, None]
    du = mean.shape[-1]
    action, h = out[..., :du], log_factors(out[..., du:])
    off = jnp.einsum("ntij,nmtj->nmti", goal.half, action - mean)
    wide = goal.half @ policy.factor
    noise = (wide**2).sum(-2)[:, None] * (jnp.exp(2.0 * h) if h.shape[-1] else 1.0)
    log_det = gaussian.log_det(wide)[:, None] + 2.0 * h.sum(-1)
    kl = jnp.where(happened, 0.5 * ((off**2).sum(-1) + noise.sum(-1) - du - log_det), 0.0)
    return kl.sum((1, 2)) / jnp.maximum(happened.sum((1, 2)), 1), kl.max(1)


def _cast(tree: Any, dtype: Any) -> Any:
    """The same tree with floats of another precision."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, tree)
