"""The nouns that all parts of pilotfish speak.

Axis order everywhere: condition N, rollout M, time T, feature. States have T+1 entries, actions T.
Everything is a cost, to be minimised. `z = [x; u]`.

Importing this module switches jax to float64, in which the algebra of local controllers is exact enough
to keep its promises; set the environment variable `JAX_ENABLE_X64=0` to stay in float32.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

if "JAX_ENABLE_X64" not in os.environ:
    jax.config.update("jax_enable_x64", True)

Key = PRNGKeyArray


def _floats(value: Any) -> Array:
    """A float array of strong type, so that what is computed from it never recompiles for a weak one."""
    return jnp.asarray(value, dtype=jnp.result_type(float))


def _float_leaves(tree: Any) -> Any:
    return jax.tree.map(_floats, tree)


def _optional_floats(value: Any) -> Array | None:
    return None if value is None else _floats(value)


Step = Int[Array, ""] | int
"""Time step, counted from 0."""


class Gaussian(eqx.Module):
    """A normal distribution, or a batch of them."""

    mean: Float[Array, "*batch d"]
    cov: Float[Array, "*batch d d"]


class LinearGaussian(eqx.Module):
    """A controller `u ~ N(K x + k, C)`, or a batch of them (usually over time).

    One Cholesky factor is stored, `C = chol chol'`; covariance and precision are derived from it.
    """

    K: Float[Array, "*batch du dx"]
    k: Float[Array, "*batch du"]
    chol: Float[Array, "*batch du du"]

    @property
    def cov(self) -> Float[Array, "*batch du du"]:
        return self.chol @ self.chol.mT

    def mean(self, x: Float[Array, "*batch dx"]) -> Float[Array, "*batch du"]:
        """Mean action in the state `x`."""
        return jnp.einsum("...ij,...j->...i", self.K, x) + self.k

    def at(self, t: Step) -> "LinearGaussian":
        """The controller of time step `t`, where time is the leading axis."""
        return jax.tree.map(lambda leaf: leaf[t], self)


class LinearDynamics(eqx.Module):
    """A transition `x' ~ N(A x + B u + c, cov)`, or a batch of them."""

    A: Float[Array, "*batch dx dx"]
    B: Float[Array, "*batch dx du"]
    c: Float[Array, "*batch dx"]
    cov: Float[Array, "*batch dx dx"]


class Quadratic(eqx.Module):
    """The function `1/2 z'Hz + h'z + c` of a vector z, or a batch of them. Costs, V and Q are all this."""

    H: Float[Array, "*batch d d"]
    h: Float[Array, "*batch d"]
    c: Float[Array, "*batch"]

    def __call__(self, z: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        return 0.5 * jnp.einsum("...i,...ij,...j->...", z, self.H, z) + (self.h * z).sum(-1) + self.c


class Simulator(ABC):
    """Known dynamics that JAX cannot trace. It has all conditions' dynamics, and works on NumPy arrays."""

    @abstractmethod
    def simulate(
        self, problem: "Problem", start: Float[np.ndarray, "N M dx"], act: Callable[[int, np.ndarray], np.ndarray]
    ) -> tuple[Float[np.ndarray, "N M T1 dx"], Float[np.ndarray, "N M T du"]]:
        """States and actions of M rollouts of each condition, where `act(t, x)` says what is asked for in the states
        x (N, M, dx). nan from where one broke off.
        """

    @abstractmethod
    def linearised(
        self, problem: "Problem", x: Float[np.ndarray, "N T dx"], u: Float[np.ndarray, "N T du"]
    ) -> LinearDynamics:
        """The dynamics about states and actions at all steps, without noise; leading axes (N, T)."""


class Problem(eqx.Module):
    """All that is known of a task without running it.

    Functions take one state `x` (dx,), one action `u` (du,) and a time step `t`; they are written in
    jax.numpy and batched by whoever calls them.
    """

    horizon: int = eqx.field(static=True)
    """Number of actions T of an episode."""
    dt: float = eqx.field(static=True)
    """Seconds from one action to the next."""
    conditions: Gaussian = eqx.field(converter=_float_leaves)
    """Distribution of the initial state: mean (N, dx), covariance (N, dx, dx), one row a condition."""
    initial_std: Float[Array, "du"] = eqx.field(converter=_floats)
    """Standard deviation of the actions with which learning begins (the action's units)."""
    cost: Callable[[Array, Array, Array], Array] | None
    """`cost(x, u, t)`: cost of step t. None where only samples of it are known, as of an environment's rewards; these
    must then not depend on the time step."""
    final_cost: Callable[[Array], Array] | None = None
    """`final_cost(x)`: cost of the state after the last action; None for 0."""
    dynamics: Callable[[Array, Array], Array] | None = None
    """`dynamics(x, u)`: the next state. None where only a simulator or a robot knows it."""
    simulator: Simulator | None = None
    """What knows the dynamics if JAX does not: a world that can fills it in."""
    noise_std: Float[Array, "dx"] | None = eqx.field(converter=_optional_floats, default=None)
    """Standard deviation of the process noise added to every next state; None for 0."""
    action_low: Float[Array, "du"] | None = eqx.field(converter=_optional_floats, default=None)
    """Lower bound of the actions the plant can execute; None if unbounded."""
    action_high: Float[Array, "du"] | None = eqx.field(converter=_optional_floats, default=None)
    """Upper bound of the actions the plant can execute; None if unbounded."""
    observe: Callable[[Array], Array] | None = None
    """`observe(x)`: what a policy may see; None for the state itself."""
    success: Callable[[Array, Array], Array] | None = None
    """`success(x, u)`: True if one rollout, x (T+1, dx) and u (T, du), reached the goal; None if undefined."""
    demonstration: LinearGaussian | None = eqx.field(converter=_float_leaves, default=None)
    """Controllers with which learning begins, leading axes (N, T): one that walks, say. None for zero gains and
    `initial_std`."""

    def __check_init__(self):
        if self.horizon < 1:
            raise ValueError(f"horizon={self.horizon}: an episode needs at least one action.")
        if not self.dt > 0:
            raise ValueError(f"dt={self.dt}: the time between two actions must be positive.")
        if self.cost is None and self.final_cost is not None:
            raise ValueError("final_cost without cost: give both, or neither where the world brings the costs.")
        if (self.action_low is None) != (self.action_high is None):
            raise ValueError("action_low and action_high go together: give both or neither.")
        x, u, t = jnp.zeros(self.dx), jnp.zeros(self.du), jnp.asarray(0)
        xs, us = jnp.zeros((self.horizon + 1, self.dx)), jnp.zeros((self.horizon, self.du))
        for name, f, args, shape in (
            ("cost(x, u, t)", self.cost, (x, u, t), ()),
            ("final_cost(x)", self.final_cost, (x,), ()),
            ("dynamics(x, u)", self.dynamics, (x, u), (self.dx,)),
            ("success(x, u)", self.success, (xs, us), ()),
        ):
            if f is not None and (found := jnp.shape(jax.eval_shape(f, *args))) != shape:
                raise ValueError(f"{name} returns an array of shape {found}; it must have the shape {shape}.")
        if self.demonstration is not None:
            shape = (len(self.conditions.mean), self.horizon, self.du, self.dx)
            if self.demonstration.K.shape != shape:
                raise ValueError(
                    f"demonstration.K has the shape {self.demonstration.K.shape}; it must have the shape {shape}: "
                    "condition, time step, action, state."
                )
        for name, array, size in (
            ("noise_std", self.noise_std, self.dx),
            ("action_low", self.action_low, self.du),
            ("action_high", self.action_high, self.du),
        ):
            if array is not None and array.shape != (size,):
                raise ValueError(f"{name} has the shape {array.shape}; it must have the shape ({size},).")

    @property
    def dx(self) -> int:
        """Dimension of the state."""
        return self.conditions.mean.shape[-1]

    @property
    def du(self) -> int:
        """Dimension of the action."""
        return self.initial_std.shape[-1]

    @property
    def first_controller(self) -> LinearGaussian:
        """The controllers with which learning begins; leading axes (N, T)."""
        if self.demonstration is not None:
            return self.demonstration
        N, T = len(self.conditions.mean), self.horizon
        std = jnp.broadcast_to(jnp.diag(self.initial_std), (N, T, self.du, self.du))
        return LinearGaussian(jnp.zeros((N, T, self.du, self.dx)), jnp.zeros((N, T, self.du)), std)

    def costs(self, x: Float[Array, "T1 dx"], u: Float[Array, "T du"]) -> Float[Array, "T1"]:
        """Cost of each step of an episode; the last entry is the final cost."""
        assert self.cost is not None
        cost = jax.vmap(self.cost)(x[:-1], u, jnp.arange(self.horizon))
        return jnp.append(cost, 0.0 if self.final_cost is None else self.final_cost(x[-1]))

    def admissible(self, u: Float[Array, "*batch du"]) -> Float[Array, "*batch du"]:
        """The action that the plant executes when asked for `u`: clipped to its bounds."""
        return u if self.action_low is None else jnp.clip(u, self.action_low, self.action_high)


class Rollouts(eqx.Module):
    """What happened: M rollouts from each of N conditions; `batch` is (N, M) and `T1` is T + 1."""

    x: Float[Array, "*batch T1 dx"]
    o: Float[Array, "*batch T1 do"]
    u: Float[Array, "*batch T du"]
    """Actions that the policy asked for, before they are clipped to the plant's bounds."""
    cost: Float[Array, "*batch T1"]
    """Cost of each step; the last entry is the final cost."""
    valid: Bool[Array, "*batch"]
    """False where a rollout broke off or is not finite. Fits take it as a weight."""
    episode: Any
    """What the policy drew at each rollout's start."""


class Outcome(NamedTuple):
    """What one iteration's rollouts amount to, whatever the algorithm. All are scalars."""

    cost: Float[Array, ""]
    """Mean over valid rollouts of the cost of an episode."""
    cost_std: Float[Array, ""]
    success: Float[Array, ""]
    """Fraction of all rollouts that reach the goal; nan where the task defines none."""
    valid: Float[Array, ""]
    """Fraction of rollouts that did not break off."""
    broken_at: Int[Array, ""]
    """First time step at which any rollout is not finite; -1 if none."""
