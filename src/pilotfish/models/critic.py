"""What is still to be paid from a state on, told by a network for all states and times; and the advantages of actions.

    V(x, t) = centre + spread net(s),    s = ([x, t/T] - shift) / scale

`NeuralValue` says how the network is made and taught, by Adam on the squared error; a `Critic` is one. Inputs and costs
are whitened anew by each iteration's samples, and first and last layer changed inversely, so that what it says stays
the same. A critic that learned nothing says 0.

The advantage of an action is what it and all that follows cost more than was expected (generalised advantage
estimation, Schulman et al. 2016),

    A_t = sum_k (discount trace)^k [ cost_{t+k} + discount V(x_{t+k+1}) - V(x_{t+k}) ]
"""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import regression
from pilotfish.algebra.batch import chosen, finite
from pilotfish.algebra.descent import adam
from pilotfish.policies.network import rewhitened, weights
from pilotfish.types import Key, Problem


class Critic(eqx.Module):
    """What is expected to be paid."""

    net: eqx.nn.MLP
    shift: Float[Array, "inputs"]
    scale: Float[Array, "inputs"]
    centre: Float[Array, ""]
    """Mean cost to go of what was learned from last; the cost's unit."""
    spread: Float[Array, ""]
    """Its standard deviation; 0 before anything is learned."""
    moments: Any
    """Adam's, of the flat vector of weights."""

    def __call__(self, x: Float[Array, "*batch T1 dx"]) -> Float[Array, "*batch T1"]:
        """Costs to go from the states of whole episodes."""
        return self.centre + self.spread * _outputs(self.net, (inputs(x) - self.shift) / self.scale)


class NeuralValue(eqx.Module):
    """How a critic is made and taught."""

    width: int = eqx.field(static=True, default=64)
    """Units of a hidden layer, tanh."""
    depth: int = eqx.field(static=True, default=2)
    """Number of hidden layers."""
    epochs: int = eqx.field(static=True, default=10)
    """How often an iteration's samples are gone through."""
    batch: int = eqx.field(static=True, default=128)
    """Samples of one step of Adam."""
    learning_rate: float = 1e-3
    """Adam's step size, in whitened coordinates."""

    def __check_init__(self):
        for name in ("width", "depth", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give at least 1.")
        if isinstance(self.learning_rate, int | float) and not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate}: the step size must be positive.")

    def begin(self, problem: Problem, key: Key) -> Critic:
        """A critic that knows nothing."""
        d = problem.dx + 1
        net = eqx.nn.MLP(d, 1, self.width, self.depth, jnp.tanh, key=key)
        moments = cast(Any, optax.scale_by_adam()).init(ravel_pytree(weights(net))[0])
        return Critic(net, jnp.zeros(d), jnp.ones(d), jnp.zeros(()), jnp.zeros(()), moments)

    def taught(
        self,
        critic: Critic,
        x: Float[Array, "*batch T1 dx"],
        target: Float[Array, "*batch T"],
        happened: Bool[Array, "*batch T"],
        key: Key,
    ) -> Critic:
        """The critic after it learned these costs to go from states; as it was, where that overflows."""
        seen, y, known = inputs(x)[..., :-1, :].reshape(-1, x.shape[-1] + 1), target.ravel(), happened.ravel()
        count = known.sum()
        share = known / jnp.maximum(count, 1)
        shift, scale = regression.standard(seen, share)
        centre, spread = (leaf[0] for leaf in regression.standard(y[:, None], share))
        scale = jnp.where(scale > 0, scale, jnp.where(shift != 0, jnp.abs(shift), 1.0))
        spread = jnp.where(spread > 0, spread, jnp.where(centre != 0, jnp.abs(centre), 1.0))
        knows = critic.spread > 0
        again = rewhitened(critic.net, critic.shift, critic.scale, shift, scale)
        net, last = chosen(knows, again, critic.net), critic.net.layers[-1]
        weight = critic.spread / spread * last.weight
        bias = jnp.where(knows, critic.spread * cast(Array, last.bias) + critic.centre - centre, 0.0) / spread
        net = eqx.tree_at(lambda n: (n.layers[-1].weight, n.layers[-1].bias), net, (weight, bias))
        s, v = (seen - shift) / scale, (y - centre) / spread
        flat, unravel = ravel_pytree(weights(net))

        def loss(flat: Float[Array, "p"], rows: Array) -> Float[Array, ""]:
            return ((_outputs(eqx.combine(unravel(flat), net), s[rows]) - v[rows]) ** 2).mean()

        steps = -(-self.epochs * len(s) // self.batch)
        order = jnp.argsort(~known, stable=True)
        drawn = jax.random.uniform(key, (steps, self.batch)) * count
        rows = order[jnp.minimum(drawn.astype(int), jnp.maximum(count - 1, 0))]
        flat, moments = adam(loss, flat, critic.moments, rows, self.learning_rate)
        new = Critic(eqx.combine(unravel(flat), net), shift, scale, centre, spread, moments)
        return chosen((count > 0) & finite(new), new, critic)


def inputs(x: Float[Array, "*batch T1 dx"]) -> Float[Array, "*batch T1 dx+1"]:
    """States of whole episodes, and the part of the episode that is over."""
    steps = x.shape[-2]
    time = jnp.broadcast_to(jnp.arange(steps) / (steps - 1), x.shape[:-1])
    return jnp.concatenate([x, time[..., None]], -1)


def advantages(
    cost: Float[Array, "*batch T1"],
    value: Float[Array, "*batch T1"],
    happened: Bool[Array, "*batch T"],
    discount: Float[Array, ""] | float,
    trace: Float[Array, ""] | float,
) -> Float[Array, "*batch T"]:
    """A_t of every step that happened, 0 elsewhere; what follows the last action costs `cost[..., -1]`, which is known.

    A rollout that broke off is expected to go on as V says.
    """
    ahead = jnp.concatenate([value[..., 1:-1], cost[..., -1:]], -1)
    surprise = jnp.where(happened, cost[..., :-1] + discount * ahead - value[..., :-1], 0.0)

    def backward(later: Array, now: Array):
        later = now + discount * trace * later
        return later, later

    return jnp.moveaxis(
        jax.lax.scan(backward, jnp.zeros_like(surprise[..., 0]), jnp.moveaxis(surprise, -1, 0), reverse=True)[1], 0, -1
    )


def _outputs(net: eqx.nn.MLP, s: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
    return jax.vmap(net)(s.reshape(-1, s.shape[-1]))[:, 0].reshape(s.shape[:-1])
