"""A neural network as a policy: one for all conditions, which acts on what it observes.

    s = (o - shift) / scale,    u ~ N(net(s), chol chol')

The whitening of the inputs belongs to the policy, so that it acts alike wherever it is loaded. The covariance is the
same everywhere (GPS'14, BADMM, MDGPS), or depends on what is observed (ours): the network then has du further outputs
h(s), and the columns of one factor are multiplied by exp(h). `Network` says how large it is; `NetworkPolicy` is one
that acts.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pilotfish.policies.gaussian import GaussianPolicy, noise
from pilotfish.types import Key, Problem, Step

Activation = Literal["relu", "tanh", "softplus"]
Covariance = Literal["shared", "state"]
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": jax.nn.relu, "tanh": jnp.tanh, "softplus": jax.nn.softplus}
MOST_LOG = 5.0
"""Where the covariance depends on what is observed: the most by which a column of its factor grows or shrinks, as a
logarithm."""


def log_factors(h: Float[Array, "*batch du"]) -> Float[Array, "*batch du"]:
    """Logarithms by which a factor's columns are multiplied, of the network's further outputs: bounded and smooth."""
    return MOST_LOG * jnp.tanh(h / MOST_LOG)


class NetworkPolicy(GaussianPolicy):
    """A network that acts from what it observes, with Gaussian noise."""

    kind: ClassVar[str] = "network"
    per_condition: ClassVar[bool] = False
    net: eqx.nn.MLP
    shift: Float[Array, "do"]
    """Subtracted from what is observed."""
    scale: Float[Array, "do"]
    """What remains is divided by this."""
    factor: Float[Array, "du du"]
    """Lower Cholesky factor of the actions' covariance; where that depends on what is observed, before its columns are
    multiplied."""
    activation: Activation = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    """Number of steps for which an episode draws noise."""
    smoothing: float = eqx.field(static=True, default=0.0)
    """Standard deviation, in time steps, of the Gaussian filter over time that the noise has passed; 0: none."""

    def begin(self, key: Key, x0: Float[Array, "dx"], o0: Float[Array, "do"]) -> Float[Array, "T du"]:
        return noise(key, self.steps, self.factor.shape[-1], self.smoothing, self.factor.dtype)

    def mean(self, t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]) -> Float[Array, "du"]:
        return self.net((o - self.shift) / self.scale)[: len(self.factor)]

    def chol(self, t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]) -> Float[Array, "du du"]:
        h = self.net((o - self.shift) / self.scale)[len(self.factor) :]
        return self.factor * jnp.exp(log_factors(h)) if len(h) else self.factor

    def noise_free(self) -> "NetworkPolicy":
        return eqx.tree_at(lambda policy: policy.factor, self, jnp.zeros_like(self.factor))

    def tensors(self) -> dict[str, np.ndarray]:
        """Of layer i weight_i (out, in) and bias_i (out,), of the last layer du or 2 du of them; shift (do,), scale
        (do,), chol (du, du).
        """
        layers = {}
        for i, layer in enumerate(self.net.layers):
            layers |= {f"weight_{i}": np.asarray(layer.weight), f"bias_{i}": np.asarray(layer.bias)}
        return layers | {
            "shift": np.asarray(self.shift),
            "scale": np.asarray(self.scale),
            "chol": np.asarray(self.factor),
        }

    def settings(self) -> dict[str, Any]:
        return {"activation": self.activation, "steps": self.steps, "smoothing": self.smoothing}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], settings: dict[str, Any]) -> "NetworkPolicy":
        arrays = {name: jnp.asarray(array) for name, array in tensors.items()}
        depth = sum(name.startswith("weight_") for name in arrays) - 1
        width, do = arrays["weight_0"].shape if depth else (0, arrays["weight_0"].shape[1])
        shape = Network(width=width, depth=depth, activation=settings["activation"])
        net = shape.layers(do, len(arrays[f"bias_{depth}"]), jax.random.key(0))
        for i in range(depth + 1):
            own = arrays[f"weight_{i}"], arrays[f"bias_{i}"]
            net = eqx.tree_at(lambda net, i=i: (net.layers[i].weight, net.layers[i].bias), net, own)
        whitening = arrays["shift"], arrays["scale"], arrays["chol"]
        return cls(net, *whitening, settings["activation"], int(settings["steps"]), float(settings["smoothing"]))


class Network(eqx.Module):
    """How a network is made: hidden layers of one width, and one activation."""

    width: int = eqx.field(static=True, default=40)
    """Units of a hidden layer (MDGPS: 40)."""
    depth: int = eqx.field(static=True, default=2)
    """Number of hidden layers (MDGPS: 2); 0 makes a linear policy."""
    activation: Activation = eqx.field(static=True, default="relu")
    """Between layers (MDGPS: relu)."""
    covariance: Covariance = eqx.field(static=True, default="shared")
    """Of the actions: the same everywhere, or dependent on what is observed (state)."""

    def __check_init__(self):
        for name, choices in (("activation", Activation), ("covariance", Covariance)):
            if (value := getattr(self, name)) not in get_args(choices):
                raise ValueError(f"{name}={value!r}: choose one of {', '.join(get_args(choices))}.")
        if self.depth < 0 or (self.depth > 0 and self.width < 1):
            raise ValueError(f"width={self.width}, depth={self.depth}: give at least one unit, and 0 layers or more.")

    def layers(self, inputs: int, outputs: int, key: Key) -> eqx.nn.MLP:
        """The network itself, with equinox's initial weights."""
        return eqx.nn.MLP(
            inputs, outputs, self.width if self.depth else 0, self.depth, ACTIVATIONS[self.activation], key=key
        )

    def policy(self, problem: Problem, key: Key, smoothing: float = 0.0) -> NetworkPolicy:
        """A policy for a problem, with random weights, no whitening yet, and the problem's first noise."""
        do, outputs = problem.do, problem.du * (1 if self.covariance == "shared" else 2)
        net = self.layers(do, outputs, key)
        whitening = jnp.zeros(do), jnp.ones(do)
        return NetworkPolicy(
            net, *whitening, jnp.diag(problem.initial_std), self.activation, problem.horizon, smoothing
        )
