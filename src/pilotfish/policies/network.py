"""A neural network as a policy: one for all conditions, which acts on what it observes.

    s = (o - shift) / scale,    u ~ N(net(s), chol chol')

The whitening of the inputs belongs to the policy, so that it acts alike wherever it is loaded. The covariance is the
same everywhere (GPS'14, BADMM, MDGPS), or depends on what is observed (ours): the network then has du further outputs
h(s), and the columns of one factor are multiplied by exp(h). `Network` says how large it is; `NetworkPolicy` is one
that acts.

A network of your own is a subclass of `Network` whose `layers` makes it: any module that is called with s. What it does
inside is not known, so that its outputs are scaled outside of it (`OwnNetworkPolicy`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pilotfish import sources
from pilotfish.policies import Needs
from pilotfish.policies.gaussian import GaussianPolicy, noise
from pilotfish.types import Key, Problem, Step, check_choice

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
    """A network that acts from what it observes, with Gaussian noise.

    `u ~ N(net(s), factor factor')` with `s = (o - shift) / scale`. `Network.policy` makes one, `load_policy` reads one.

    Example:

    >>> import jax
    >>> import numpy as np
    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> policy = pf.Network(width=16).policy(LinearQuadratic().problem(), jax.random.key(0))
    >>> policy.predict(np.zeros((100, 4))).shape  # the actions in 100 states
    (100, 2)
    >>> policy.tensors()["weight_0"].shape  # (units, inputs)
    (16, 4)
    """

    kind: ClassVar[str] = "network"
    per_condition: ClassVar[bool] = False
    net: eqx.Module
    """Called with s: by default an `eqx.nn.MLP`."""
    shift: Float[Array, "inputs"]
    """Subtracted from its inputs: what is observed, and the time if that is one of them."""
    scale: Float[Array, "inputs"]
    """What remains is divided by this."""
    factor: Float[Array, "du du"]
    """Lower Cholesky factor of the actions' covariance; where that depends on what is observed, before its columns are
    multiplied."""
    activation: Activation = eqx.field(static=True)
    """Between layers."""
    steps: int = eqx.field(static=True)
    """Number of steps for which an episode draws noise."""
    smoothing: float = eqx.field(static=True, default=0.0)
    """Standard deviation, in time steps, of the Gaussian filter over time that the noise has passed; 0: none."""
    time: bool = eqx.field(static=True, default=False)
    """Whether the part of the episode that is over, t / steps, is its last input."""

    def begin(self, key: Key, x0: Float[Array, "dx"], o0: Float[Array, "do"]) -> Float[Array, "T du"]:
        return noise(key, self.steps, self.factor.shape[-1], self.smoothing, self.factor.dtype)

    def inputs(self, t: Step, o: Float[Array, "do"]) -> Float[Array, "inputs"]:
        """What the network sees: what is observed, and the time if that is one of its inputs."""
        return jnp.append(o, t / self.steps) if self.time else o

    def outputs(self, inputs: Float[Array, "inputs"]) -> Float[Array, "outputs"]:
        """The mean action, and what multiplies the factor's columns where that depends on what is observed."""
        return self.net((inputs - self.shift) / self.scale)  # type: ignore[operator]

    def mean(self, t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]) -> Float[Array, "du"]:
        return self.outputs(self.inputs(t, o))[: len(self.factor)]

    def chol(self, t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]) -> Float[Array, "du du"]:
        h = self.outputs(self.inputs(t, o))[len(self.factor) :]
        return self.factor * jnp.exp(log_factors(h)) if len(h) else self.factor

    def noise_free(self) -> "NetworkPolicy":
        return eqx.tree_at(lambda policy: policy.factor, self, jnp.zeros_like(self.factor))

    @property
    def needs(self) -> Needs:
        return Needs(entries=len(self.shift) - self.time, steps=self.steps if self.time else None)

    def tensors(self) -> dict[str, np.ndarray]:
        """Of layer i weight_i (out, in) and bias_i (out,), of the last layer du or 2 du of them; shift (do,), scale
        (do,), chol (du, du).
        """
        assert isinstance(self.net, eqx.nn.MLP)
        layers = {}
        for i, layer in enumerate(self.net.layers):
            layers |= {f"weight_{i}": np.asarray(layer.weight), f"bias_{i}": np.asarray(layer.bias)}
        return layers | {
            "shift": np.asarray(self.shift),
            "scale": np.asarray(self.scale),
            "chol": np.asarray(self.factor),
        }

    def settings(self) -> dict[str, Any]:
        known = {"activation": self.activation, "steps": self.steps, "smoothing": self.smoothing}
        return known | ({"time": True} if self.time else {})

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], settings: dict[str, Any]) -> "NetworkPolicy":
        arrays = {name: jnp.asarray(array) for name, array in tensors.items()}
        depth = sum(name.startswith("weight_") for name in arrays) - 1
        width, inputs = arrays["weight_0"].shape if depth else (0, arrays["weight_0"].shape[1])
        shape = Network(width=width, depth=depth, activation=settings["activation"])
        net = shape.layers(inputs, len(arrays[f"bias_{depth}"]), jax.random.key(0))
        assert isinstance(net, eqx.nn.MLP)
        for i in range(depth + 1):
            own = arrays[f"weight_{i}"], arrays[f"bias_{i}"]
            net = eqx.tree_at(lambda net, i=i: (net.layers[i].weight, net.layers[i].bias), net, own)
        whitening = arrays["shift"], arrays["scale"], arrays["chol"]
        smoothing, time = float(settings["smoothing"]), bool(settings.get("time", False))
        return cls(net, *whitening, settings["activation"], int(settings["steps"]), smoothing, time)


class OwnNetworkPolicy(NetworkPolicy):
    """A network of somebody's own class: the mean action is `centre + spread net(s)`."""

    kind: ClassVar[str] = "own-network"
    centre: Float[Array, "du"] = eqx.field(kw_only=True)
    spread: Float[Array, "du"] = eqx.field(kw_only=True)

    def outputs(self, inputs: Float[Array, "inputs"]) -> Float[Array, "outputs"]:
        out, du = super().outputs(inputs), len(self.factor)
        return jnp.concatenate([self.centre + self.spread * out[:du], out[du:]])

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays net_0, net_1, ... of the network, in the order of its fields; shift, scale (do,), centre, spread
        (du,), chol (du, du).
        """
        arrays = {f"net_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(weights(self.net)))}
        return arrays | {name: np.asarray(getattr(self, name)) for name in OUTSIDE} | {"chol": np.asarray(self.factor)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], settings: dict[str, Any]) -> "NetworkPolicy":
        raise ValueError(
            "a network of your own class is made by your own code: give one that is made alike, "
            "load(path, like=YourNetwork().policy(problem, key))."
        )

    def filled(self, tensors: dict[str, np.ndarray]) -> "OwnNetworkPolicy":
        """The same policy with the arrays of a file. KeyError or ValueError if these are not those of such a policy."""
        own, structure = jax.tree.flatten(weights(self.net))
        names = [*(f"net_{i}" for i in range(len(own))), *OUTSIDE, "chol"]
        arrays = [jnp.asarray(tensors[name]) for name in names]
        mine = [*own, *(getattr(self, name) for name in OUTSIDE), self.factor]
        for name, here, found in zip(names, mine, arrays, strict=True):
            if here.shape != found.shape:
                raise ValueError(f"{name} has the shape {found.shape}, and here {here.shape}")
        net = eqx.combine(jax.tree.unflatten(structure, arrays[: len(own)]), self.net)
        return eqx.tree_at(
            lambda p: (p.net, *(getattr(p, name) for name in OUTSIDE), p.factor), self, (net, *arrays[len(own) :])
        )


OUTSIDE = ("shift", "scale", "centre", "spread")
"""What scales a network of somebody's own class from outside."""


def rewhitened(
    net: eqx.nn.MLP,
    shift: Float[Array, "inputs"],
    scale: Float[Array, "inputs"],
    new_shift: Float[Array, "inputs"],
    new_scale: Float[Array, "inputs"],
) -> eqx.nn.MLP:
    """The same function of `(o - new_shift) / new_scale` that `net` is of `(o - shift) / scale`."""
    first = net.layers[0]
    weight = first.weight * (new_scale / scale)
    bias = cast(Array, first.bias) + first.weight @ ((new_shift - shift) / scale)
    return eqx.tree_at(lambda net: (net.layers[0].weight, net.layers[0].bias), net, (weight, bias))


def weights(net: eqx.Module) -> Any:
    """The arrays of a network that are learned: all of floats."""
    return eqx.filter(net, eqx.is_inexact_array)


class Network(eqx.Module):
    """How a network is made: hidden layers of one width, and one activation; or what a file holds.

    ValueError for a size or a word that is none, or for a file that does not fit the task.

    Example:

    >>> import jax
    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> network = pf.Network(width=16, activation="tanh")
    >>> network.policy(LinearQuadratic().problem(), jax.random.key(0)).predict([1.0, -0.5, 0.0, 0.0]).shape
    (2,)
    >>> algorithm = pf.MDGPS(policy=network)
    """

    width: int = eqx.field(static=True, default=40)
    """Units of a hidden layer (MDGPS: 40)."""
    depth: int = eqx.field(static=True, default=2)
    """Number of hidden layers (MDGPS: 2); 0 makes a linear policy."""
    activation: Activation = eqx.field(static=True, default="relu")
    """Between layers (MDGPS: relu)."""
    covariance: Covariance = eqx.field(static=True, default="shared")
    """Of the actions: the same everywhere, or dependent on what is observed (state)."""
    time: bool = eqx.field(static=True, default=False)
    """Whether the part of the episode that is over is an input beside what is observed: for a cost that changes over
    time."""

    start: str = eqx.field(static=True, default="", converter=sources.absolute)
    """A policy's file, with whose network learning begins instead of random weights: its size is then that of the file.
    `--from RUN` takes that of a run."""

    def __check_init__(self):
        check_choice(self, "activation", Activation)
        check_choice(self, "covariance", Covariance)
        if self.depth < 0 or (self.depth > 0 and self.width < 1):
            raise ValueError(f"width={self.width}, depth={self.depth}: give at least one unit, and 0 layers or more.")

    def layers(self, inputs: int, outputs: int, key: Key) -> eqx.Module:
        """The network itself, with random weights: called with s (inputs,) it gives (outputs,), both of magnitude 1. A
        subclass may make any module; here it is equinox's, with its initial weights.
        """
        return eqx.nn.MLP(
            inputs, outputs, self.width if self.depth else 0, self.depth, ACTIVATIONS[self.activation], key=key
        )

    @property
    def knows(self) -> bool:
        """Whether the policy that is made has learned something already."""
        return bool(self.start)

    def policy(self, problem: Problem, key: Key, smoothing: float = 0.0) -> NetworkPolicy:
        """A policy for a problem, with random weights, no whitening yet, and the problem's first noise; or with the
        network and the whitening of its file. ValueError if that is none for this problem.
        """
        made = self._random(problem, key, smoothing)
        return self._started(problem, made) if self.start else made

    def _started(self, problem: Problem, like: NetworkPolicy) -> NetworkPolicy:
        """The network of the file, acting with the noise of `like`."""
        from pilotfish.policies import files

        found = files.load(self.start, like if isinstance(like, OwnNetworkPolicy) else None)
        if not isinstance(found, NetworkPolicy):
            raise ValueError(
                f"start={self.start}: it holds a policy of the kind {found.kind!r}, and a network is wanted. Local "
                "controllers begin a run by --demonstration."
            )
        outputs = problem.du * (1 if self.covariance == "shared" else 2)
        inputs, seen = problem.do + self.time, jnp.zeros(len(found.shift))
        if (len(seen), found.time, len(found.outputs(seen))) != (inputs, self.time, outputs):
            raise ValueError(
                f"start={self.start}: its network has {len(seen)} inputs (time among them: {found.time}) and "
                f"{len(found.outputs(seen))} outputs; this task and these settings need {inputs} (time among them: "
                f"{self.time}) and {outputs}."
            )
        return dataclasses.replace(found, factor=like.factor, steps=like.steps, smoothing=like.smoothing)

    def _random(self, problem: Problem, key: Key, smoothing: float) -> NetworkPolicy:
        inputs, du = problem.do + self.time, problem.du
        outputs = du * (1 if self.covariance == "shared" else 2)
        net = self.layers(inputs, outputs, key)
        found = jax.eval_shape(net, jnp.zeros(inputs))  # type: ignore[arg-type]
        if getattr(found, "shape", None) != (outputs,):
            raise ValueError(
                f"{type(self).__name__}.layers({inputs}, {outputs}, key): called with an array of shape ({inputs},), "
                f"what it makes gives {getattr(found, 'shape', found)}; it must give an array of shape ({outputs},)."
            )
        whitening, std = (jnp.zeros(inputs), jnp.ones(inputs)), jnp.diag(problem.initial_std)
        rest = std, self.activation, problem.horizon, smoothing, self.time
        if isinstance(net, eqx.nn.MLP):
            return NetworkPolicy(net, *whitening, *rest)
        return OwnNetworkPolicy(net, *whitening, *rest, centre=jnp.zeros(du), spread=jnp.ones(du))
