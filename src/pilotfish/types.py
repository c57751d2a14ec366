"""The nouns that all parts of pilotfish speak.

Axis order everywhere: condition N, rollout M, time T, feature. States have T+1 entries, actions T.
Everything is a cost, to be minimised. `z = [x; u]`.

Importing this module switches jax to float64, in which the algebra of local controllers is exact enough
to keep its promises; set the environment variable `JAX_ENABLE_X64=0` to stay in float32.
"""

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray

if "JAX_ENABLE_X64" not in os.environ:
    jax.config.update("jax_enable_x64", True)

Key = PRNGKeyArray


def _floats(value: Any) -> Array:
    """A float array of strong type, so that what is computed from it never recompiles for a weak one."""
    dtype = jnp.result_type(float)
    plain = isinstance(value, int | float) or (isinstance(value, np.ndarray) and value.dtype.kind in "biuf")
    return jnp.asarray(np.asarray(value, dtype) if plain else value, dtype=dtype)  # plain data needs no program


def _of_size(value: Any, size: int, name: str) -> Array:
    """A vector of `size` floats; one number stands for all of them."""
    if value is None:
        raise ValueError(f"{name}=None: leave it out where there is none.")
    array = _floats(np.full(size, value) if isinstance(value, int | float) else value)
    if array.shape not in ((), (size,)):
        raise ValueError(f"{name} has the shape {array.shape}; it must have the shape ({size},).")
    return jnp.broadcast_to(array, (size,))


def check_choice(module: Any, name: str, choices: Any) -> None:
    """ValueError, with the words that there are, where a setting is none of those of a `Literal`."""
    if (value := getattr(module, name)) not in get_args(choices):
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(get_args(choices))}.")


Step = Int[Array, ""] | int
"""Time step, counted from 0."""


class Gaussian(eqx.Module):
    """A normal distribution, or a batch of them.

    Example:

    >>> import jax.numpy as jnp
    >>> import pilotfish as pf
    >>> start = pf.Gaussian(mean=jnp.array([[1.0, 0.0]]), cov=0.01 * jnp.eye(2)[None])  # of one condition, two states
    >>> start.mean.shape, start.cov.shape
    ((1, 2), (1, 2, 2))
    """

    mean: Float[Array, "*batch d"]
    """Its mean."""
    cov: Float[Array, "*batch d d"]
    """Its covariance, symmetric; zeros where nothing varies."""


class LinearGaussian(eqx.Module):
    """A controller `u ~ N(K x + k, C)`, or a batch of them (usually over time).

    One Cholesky factor is stored, `C = chol chol'`; covariance and precision are derived from it.

    Example:

    >>> import jax.numpy as jnp
    >>> import pilotfish as pf
    >>> p = pf.LinearGaussian(K=jnp.full((5, 1, 2), -2.0), k=jnp.ones((5, 1)), chol=jnp.full((5, 1, 1), 0.5))
    >>> print(p.at(3).mean(jnp.array([0.5, 1.0])), p.at(3).cov)  # K x + k and chol chol' at step 3
    [-2.] [[0.25]]
    """

    K: Float[Array, "*batch du dx"]
    """Gains: action per unit of the state."""
    k: Float[Array, "*batch du"]
    """Action in the state 0."""
    chol: Float[Array, "*batch du du"]
    """Lower Cholesky factor of the action's covariance C; zeros without exploration."""

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
    """The function `1/2 z'Hz + h'z + c` of a vector z, or a batch of them. Costs, V and Q are all this.

    Example:

    >>> import jax.numpy as jnp
    >>> import pilotfish as pf
    >>> f = pf.Quadratic(H=2.0 * jnp.eye(2), h=jnp.zeros(2), c=jnp.array(1.0))
    >>> float(f(jnp.array([1.0, 2.0])))
    6.0
    """

    H: Float[Array, "*batch d d"]
    """Second derivatives, symmetric."""
    h: Float[Array, "*batch d"]
    """Gradient at z = 0."""
    c: Float[Array, "*batch"]
    """Value at z = 0."""

    def __call__(self, z: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        return 0.5 * jnp.einsum("...i,...ij,...j->...", z, self.H, z) + (self.h * z).sum(-1) + self.c


class Dynamics(ABC):
    """What known dynamics can do, whoever knows them: equations, a simulation, a model that was learned.

    Example:

    >>> import jax.numpy as jnp
    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> problem = LinearQuadratic().problem()  # whose function dynamics(x, u) was made one
    >>> isinstance(problem.dynamics, pf.Dynamics), problem.dynamics.traceable
    (True, True)
    >>> x, u = jnp.zeros((1, 20, 4)), jnp.zeros((1, 20, 2))
    >>> problem.dynamics.linearised(problem, x, u).B.shape  # x' = A x + B u + c about each step
    (1, 20, 4, 2)
    """

    @property
    @abstractmethod
    def traceable(self) -> bool:
        """Whether JAX can compile both methods. If not, they work on NumPy arrays."""

    @abstractmethod
    def simulate(
        self, problem: "Problem", start: Float[ArrayLike, "N A dx"], controllers: LinearGaussian
    ) -> tuple[Float[ArrayLike, "N A T1 dx"], Float[ArrayLike, "N A T du"]]:
        """States and executed actions of A controllers (leading axes N, A, T) in each of N conditions, all without
        noise: the actions are `Kx + k`, clipped to the bounds. nan from where a simulation broke off.
        """

    @abstractmethod
    def linearised(
        self, problem: "Problem", x: Float[ArrayLike, "N T dx"], u: Float[ArrayLike, "N T du"]
    ) -> LinearDynamics:
        """The dynamics about states and actions at all steps, without noise; leading axes (N, T)."""


class Equations(eqx.Module, Dynamics):
    """Dynamics written in JAX: `function(x, u)` is the next state."""

    function: Callable[[Array, Array], Array]

    def __call__(self, x: Float[Array, "dx"], u: Float[Array, "du"]) -> Float[Array, "dx"]:
        return self.function(x, u)

    @property
    def traceable(self) -> bool:
        return True

    def simulate(self, problem: "Problem", start: Float[ArrayLike, "N A dx"], controllers: LinearGaussian):
        return jax.vmap(jax.vmap(lambda x, controller: self._rollout(problem, x, controller)))(start, controllers)

    def _rollout(self, problem: "Problem", start: Float[Array, "dx"], controller: LinearGaussian):
        def step(x: Float[Array, "dx"], now: LinearGaussian):
            u = problem.admissible(now.mean(x))
            return self.function(x, u), (x, u)

        last, (x, u) = jax.lax.scan(step, start, controller)
        return jnp.concatenate([x, last[None]]), u

    def linearised(
        self, problem: "Problem", x: Float[ArrayLike, "N T dx"], u: Float[ArrayLike, "N T du"]
    ) -> LinearDynamics:
        dx, x, u = problem.dx, jnp.asarray(x), jnp.asarray(u)
        derivative = jax.jacfwd(lambda z: self.function(z[:dx], z[dx:]))
        z = jnp.concatenate([x, u], -1)
        AB = jax.vmap(jax.vmap(derivative))(z)
        c = jax.vmap(jax.vmap(self.function))(x, u) - jnp.einsum("...ij,...j->...i", AB, z)
        return LinearDynamics(AB[..., :dx], AB[..., dx:], c, jnp.zeros((*c.shape, dx), c.dtype))


def identity(x: Array) -> Array:
    """What a policy sees where nothing hides the state."""
    return x


def no_cost(x: Array) -> Array:
    """The final cost where there is none."""
    return jnp.zeros((), x.dtype)


class Limit(NamedTuple):
    """Where a joint, or whatever moves, is stopped.

    Example:

    >>> import pilotfish as pf
    >>> pf.Limit(position=0, velocity=2, low=-1.0, high=1.0).low  # x[0] moves with x[2], from -1 to 1
    -1.0
    """

    position: int
    """The entry of the state that is its position."""
    velocity: int
    """The entry that is its velocity, in the position's unit a second."""
    low: float
    """The least position."""
    high: float
    """The greatest."""


class Problem(eqx.Module):
    """All that is known of a task without running it.

    Functions take one state `x` (dx,), one action `u` (du,) and a time step `t`; they are written in jax.numpy and
    batched by whoever calls them. What a problem lacks has a neutral value: an infinite bound, no noise, no final cost.
    None stands only for what may be unknown: the formulas of the costs, the dynamics, what success is.

    ValueError, with the argument, its value and the remedy, for shapes and numbers of which no problem is made.

    Example:

    >>> import jax.numpy as jnp
    >>> import pilotfish as pf
    >>> problem = pf.Problem(  # push a mass of 1 kg to the origin: x = [position (m), velocity (m/s)], u = force (N)
    ...     horizon=50, dt=0.1, initial_std=[1.0], action_low=-2.0, action_high=2.0,
    ...     conditions=pf.Gaussian(jnp.array([[1.0, 0.0]]), jnp.zeros((1, 2, 2))),
    ...     cost=lambda x, u, t: x @ x + 0.1 * u @ u,
    ...     dynamics=lambda x, u: x + 0.1 * jnp.append(x[1], u),
    ... )
    >>> problem.dx, problem.du, float(problem.admissible(jnp.array([3.0]))[0])
    (2, 1, 2.0)
    """

    horizon: int = eqx.field(static=True)
    """Number of actions T of an episode."""
    dt: float = eqx.field(static=True)
    """Seconds from one action to the next."""
    conditions: Gaussian
    """Distribution of the initial state: mean (N, dx), covariance (N, dx, dx), one row a condition."""
    initial_std: Float[Array, "du"]
    """Standard deviation of the actions with which learning begins (the action's units)."""
    cost: Callable[[Array, Array, Array], Array] | None
    """`cost(x, u, t)`: cost of step t. None where only samples of it are known, as of an environment's rewards; these
    must then not depend on the time step."""
    final_cost: Callable[[Array], Array] | None
    """`final_cost(x)`: cost of the state after the last action. None where only samples of it are known, which the
    world brings: of what happens after the last action, say."""
    dynamics: Dynamics | None
    """What is known of the dynamics. A function `dynamics(x, u)` of the next state becomes `Equations`; a world of a
    simulator fills in what it can. None where only a robot or an environment knows them."""
    noise_std: Float[Array, "dx"]
    """Standard deviation of the process noise added to every next state."""
    action_low: Float[Array, "du"]
    """Lower bound of the actions the plant can execute."""
    action_high: Float[Array, "du"]
    """Upper bound of the actions the plant can execute."""
    observe: Callable[[Array], Array]
    """`observe(x)`: what a policy may see."""
    success: Callable[..., Array] | None
    """`success(x, u)`: True if one rollout, x (T+1, dx) and u (T, du), reached the goal; None if undefined. Where the
    world brings the final cost `success(x, u, final)` gets it, too."""
    distance: Callable[[Array, Array], Array] | None
    """`distance(x, u)`: how far from its goal one rollout ended, in the task's own unit; None if undefined."""
    angles: tuple[int, ...] = eqx.field(static=True)
    """The entries of the state that are angles in rad, of which a full turn changes nothing but the number: so dynamics
    that are learned of all states see their sine and cosine. Empty where none is, or none is known to be."""
    limits: tuple[Limit, ...] = eqx.field(static=True)
    """Where what moves is stopped: a velocity jumps there, which dynamics that are learned are told."""
    first_controller: LinearGaussian
    """Controllers with which learning begins, leading axes (N, T): one that walks, say. Where none is given, zero gains
    and `initial_std`."""

    def __init__(
        self,
        horizon: int,
        dt: float,
        conditions: Gaussian,
        initial_std: Any,
        cost: Callable[[Array, Array, Array], Array] | None,
        final_cost: Callable[[Array], Array] | None = no_cost,
        dynamics: Dynamics | Callable[[Array, Array], Array] | None = None,
        noise_std: Any = 0.0,
        action_low: Any = -jnp.inf,
        action_high: Any = jnp.inf,
        observe: Callable[[Array], Array] = identity,
        success: Callable[..., Array] | None = None,
        distance: Callable[[Array, Array], Array] | None = None,
        angles: Sequence[int] = (),
        limits: Sequence[Sequence[Any]] = (),
        first_controller: LinearGaussian | None = None,
    ):
        self.horizon, self.dt = horizon, dt
        self.conditions = jax.tree.map(_floats, conditions)
        self.initial_std = _floats(initial_std)
        _check_shapes(self.conditions, self.initial_std)
        N, du, dx = len(self.conditions.mean), self.initial_std.shape[-1], self.conditions.mean.shape[-1]
        self.cost, self.final_cost, self.observe = cost, final_cost, observe
        self.success, self.distance = success, distance
        self.angles = tuple(int(entry) for entry in angles)
        self.limits = tuple(map(_limit, limits))
        self.dynamics = dynamics if dynamics is None or isinstance(dynamics, Dynamics) else Equations(dynamics)
        self.noise_std = _of_size(noise_std, dx, "noise_std")
        self.action_low = _of_size(action_low, du, "action_low")
        self.action_high = _of_size(action_high, du, "action_high")
        if first_controller is None:
            first_controller = _still(self.initial_std, N, horizon, dx)
        self.first_controller = jax.tree.map(_floats, first_controller)

    def __check_init__(self):
        if self.horizon < 1:
            raise ValueError(f"horizon={self.horizon}: an episode needs at least one action.")
        if not self.dt > 0:
            raise ValueError(f"dt={self.dt}: the time between two actions must be positive.")
        _check_values(self)
        if not set(self.angles) <= set(range(self.dx)) or len(set(self.angles)) < len(self.angles):
            raise ValueError(
                f"angles={self.angles}: give each entry of the state that is an angle once, by its number from 0 to "
                f"{self.dx - 1}."
            )
        for limit in self.limits:
            if not {limit.position, limit.velocity} <= set(range(self.dx)) or not limit.low < limit.high:
                raise ValueError(
                    f"limits has {tuple(limit)}: give (position, velocity, low, high), the first two as numbers of "
                    f"entries of the state, from 0 to {self.dx - 1}, and low below high."
                )
        if self.cost is None and self.final_cost is not no_cost:
            raise ValueError("final_cost without cost: give both, or neither where the world brings the costs.")
        x, u, t = np.zeros(self.dx), np.zeros(self.du), np.zeros((), int)
        xs, us = np.zeros((self.horizon + 1, self.dx)), np.zeros((self.horizon, self.du))
        brought = () if self.final_cost is not None else (np.zeros(()),)
        equations = self.dynamics.function if isinstance(self.dynamics, Equations) else None
        for name, f, args, shape in (
            ("cost(x, u, t)", self.cost, (x, u, t), ()),
            ("final_cost(x)", self.final_cost, (x,), ()),
            ("dynamics(x, u)", equations, (x, u), (self.dx,)),
            ("success(x, u)" if brought == () else "success(x, u, final)", self.success, (xs, us, *brought), ()),
            ("distance(x, u)", self.distance, (xs, us), ()),
        ):
            if f is not None and (found := jnp.shape(jax.eval_shape(f, *args))) != shape:
                raise ValueError(f"{name} returns an array of shape {found}; it must have the shape {shape}.")
        if len(seen := jnp.shape(jax.eval_shape(self.observe, x))) != 1:
            raise ValueError(f"observe(x) returns an array of shape {seen}; it must return a vector.")
        shape = (len(self.conditions.mean), self.horizon, self.du, self.dx)
        if self.first_controller.K.shape != shape:
            raise ValueError(
                f"first_controller.K has the shape {self.first_controller.K.shape}; it must have the shape {shape}: "
                "condition, time step, action, state."
            )

    @property
    def dx(self) -> int:
        """Dimension of the state."""
        return self.conditions.mean.shape[-1]

    @property
    def do(self) -> int:
        """Dimension of what a policy sees."""
        return jax.eval_shape(self.observe, np.zeros(self.dx)).shape[0]

    @property
    def du(self) -> int:
        """Dimension of the action."""
        return self.initial_std.shape[-1]

    def costs(
        self, x: Float[Array, "T1 dx"], u: Float[Array, "T du"], brought: Float[Array, ""] | None = None
    ) -> Float[Array, "T1"]:
        """Cost of each step of an episode; the last entry is the final cost, `brought` where it has no formula."""
        assert self.cost is not None
        final = brought if self.final_cost is None else self.final_cost(x[-1])
        assert final is not None
        return jnp.append(jax.vmap(self.cost)(x[:-1], u, jnp.arange(self.horizon)), final)

    def reaches(self, x: Float[Array, "T1 dx"], u: Float[Array, "T du"], cost: Float[Array, "T1"]) -> Bool[Array, ""]:
        """Whether one rollout reached the goal, where success is defined."""
        assert self.success is not None
        return self.success(x, u) if self.final_cost is not None else self.success(x, u, cost[-1])

    def admissible(self, u: Float[Array, "*batch du"]) -> Float[Array, "*batch du"]:
        """The action that the plant executes when asked for `u`: clipped to its bounds."""
        return jnp.clip(u, self.action_low, self.action_high)


def _limit(given: Sequence[Any]) -> Limit:
    """A limit of whatever was given as one."""
    try:
        position, velocity, low, high = given
        return Limit(int(position), int(velocity), float(low), float(high))
    except (TypeError, ValueError) as error:
        raise ValueError(f"limits has {given!r}: give (position, velocity, low, high).") from error


def _check_shapes(conditions: Gaussian, initial_std: Array) -> None:
    """ValueError where the arrays that tell N, dx and du have other shapes than a problem's."""
    mean, cov, std = conditions.mean.shape, conditions.cov.shape, initial_std.shape
    if len(mean) != 2 or 0 in mean:
        raise ValueError(
            f"conditions.mean has the shape {mean}; it must have the shape (N, dx): a row for each condition, and "
            "mean[None] if there is one."
        )
    if cov != (*mean, mean[1]):
        raise ValueError(f"conditions.cov has the shape {cov}; beside a mean {mean} it must be {(*mean, mean[1])}.")
    if len(std) != 1 or 0 in std:
        raise ValueError(f"initial_std has the shape {std}; it must have the shape (du,): a number for each action.")


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _still(initial_std: Array, N: int, T: int, dx: int) -> LinearGaussian:
    """Controllers that do nothing, with the first noise."""
    du = len(initial_std)
    chol = jnp.broadcast_to(jnp.diag(initial_std), (N, T, du, du))
    return LinearGaussian(jnp.zeros((N, T, du, dx)), jnp.zeros((N, T, du)), chol)


def _check_values(problem: Problem) -> None:
    """ValueError, naming what it is, for numbers of which no problem is made. While JAX traces they are not known."""
    mean, cov = problem.conditions.mean, problem.conditions.cov
    numbers = (mean, cov, problem.initial_std, problem.noise_std, problem.action_low, problem.action_high)
    if any(isinstance(array, Tracer) for array in numbers):
        return
    mean, cov, initial_std, noise_std, low, high = map(np.asarray, numbers)
    for name, array in (("conditions.mean", mean), ("conditions.cov", cov)):
        if not np.isfinite(array).all():
            n = int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(1)))
            raise ValueError(f"{name}[{n}] = {array[n].tolist()}: all numbers must be finite.")
    for n, one in enumerate(cov):
        if (why := _no_covariance(one)) is not None:
            raise ValueError(f"conditions.cov[{n}] is no covariance: {why}. Zeros stand for a start that is known.")
    for name, std, inside, wanted in (
        ("initial_std", initial_std, initial_std > 0, "positive"),
        ("noise_std", noise_std, noise_std >= 0, "0 or more"),
    ):
        if not (np.isfinite(std) & inside).all():
            raise ValueError(f"{name}={std.tolist()}: standard deviations must be finite and {wanted}.")
    if not (low <= high).all():
        i = int(np.argmin(low <= high))
        raise ValueError(
            f"action_low[{i}]={low[i]} and action_high[{i}]={high[i]}: the lower bound must not exceed the upper one."
        )


def _no_covariance(cov: np.ndarray) -> str | None:
    """Why a matrix (d, d) is no covariance, in whatever units each entry is; None if it is one, up to rounding."""
    variances = np.diagonal(cov)
    if (variances < 0).any():
        return f"its diagonal {variances.tolist()} must be 0 or more"
    size = np.outer(np.sqrt(variances), np.sqrt(variances))
    if (one := np.argwhere((size == 0) & (cov != 0))).size:
        i, j = one[0]
        return f"entry {i}, {j} is {cov[i, j]}, where one of the two does not vary"
    correlations = cov / np.where(size == 0, 1.0, size)
    slack = 1e3 * np.finfo(cov.dtype).eps * len(cov)  # rounding of a sum of d terms is no fault
    if (one := np.argwhere(np.abs(correlations - correlations.T) > slack)).size:
        i, j = one[0]
        return f"entry {i}, {j} is {cov[i, j]}, but entry {j}, {i} is {cov[j, i]}; it must be symmetric"
    if (least := np.linalg.eigvalsh(correlations).min()) < -slack:
        return f"its correlations {correlations.tolist()} have the eigenvalue {least:.3g}, which must be 0 or more"
    return None


class Rollouts(eqx.Module):
    """What happened: M rollouts from each of N conditions; `batch` is (N, M) and `T1` is T + 1.

    Example:

    >>> import jax
    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> world = LinearQuadratic().world()
    >>> rollouts = world.rollout(pf.LinearGaussianPolicy(world.problem.first_controller), 3, jax.random.key(0))
    >>> rollouts.x.shape, rollouts.u.shape, rollouts.cost.shape  # N = 1, M = 3, T = 20
    ((1, 3, 21, 4), (1, 3, 20, 2), (1, 3, 21))
    >>> bool(rollouts.valid.all()), rollouts.cost.sum(-1).shape
    (True, (1, 3))
    """

    x: Float[Array, "*batch T1 dx"]
    """States."""
    o: Float[Array, "*batch T1 do"]
    """What was observed of them."""
    u: Float[Array, "*batch T du"]
    """Actions that the policy asked for, before they are clipped to the plant's bounds."""
    cost: Float[Array, "*batch T1"]
    """Cost of each step; the last entry is the final cost."""
    steps: Int[Array, "*batch"]
    """How many steps happened before the rollout broke off: all T of them in most. What follows is no data."""
    episode: Any
    """What the policy drew at each rollout's start."""

    @classmethod
    def recorded(cls, x: Array, o: Array, u: Array, cost: Array, episode: Any) -> "Rollouts":
        """Rollouts of which a step happened if state, action, cost and next state are finite, and so all before it.

        The final cost belongs to the last step.
        """
        state = jnp.isfinite(x).all(-1) & jnp.isfinite(o).all(-1)
        priced = jnp.isfinite(cost)
        whole = state[..., :-1] & state[..., 1:] & jnp.isfinite(u).all(-1) & priced[..., :-1]
        whole = whole.at[..., -1].set(whole[..., -1] & priced[..., -1])
        return cls(x, o, u, cost, jnp.cumprod(whole, -1, dtype=int).sum(-1), episode)

    @property
    def valid(self) -> Bool[Array, "*batch"]:
        """True where no rollout broke off."""
        return jnp.asarray(self.steps) == self.u.shape[-2]

    @property
    def happened(self) -> Bool[Array, "*batch T"]:
        """True for the steps that happened."""
        return jnp.arange(self.u.shape[-2]) < self.steps[..., None]

    @property
    def weight(self) -> Float[Array, "*batch T1"]:
        """Each rollout's share in the mean over the rollouts of its condition: for every step over those in which it
        happened, in the last column over those that did not break off. Sums to 1 over rollouts, or to 0 without any.
        """
        counted = jnp.concatenate([self.happened, self.valid[..., None]], -1).astype(self.x.dtype)
        return counted / jnp.maximum(counted.sum(-2, keepdims=True), 1.0)

    def cleaned(self) -> "Rollouts":
        """The same with zeros in place of all that did not happen: there a weight of 0 leaves nothing behind."""
        step, whole = self.happened, self.valid[..., None]
        reached = jnp.concatenate([step[..., :1], step], -1)
        x, o = (jnp.where(reached[..., None], leaf, 0.0) for leaf in (self.x, self.o))
        u = jnp.where(step[..., None], self.u, 0.0)
        cost = jnp.where(jnp.concatenate([step, whole], -1), self.cost, 0.0)
        return Rollouts(x, o, u, cost, self.steps, self.episode)


DECREASE = "decrease"
"""The title of what an update says of how much cheaper it makes an episode. It is drawn beside what came of it."""


class Shown(NamedTuple):
    """How a number that an iteration reports is shown: as an annotation of its field.

    Fields of the same title share a panel.
    """

    title: str
    unit: str = ""
    scale: Literal["linear", "log"] = "linear"
    bound: str = ""
    """The setting that bounds it, by its name, nested ones with dots; after a minus, from below by its negative."""
    times: str = ""
    """The field of the same report by which that bound is multiplied."""
    label: str = ""
    """What it is called beside others of its title; empty: its own name, without underscores."""
    column: str = ""
    """Its name in the table that one watches; empty: it has no column there."""
    form: str = "{:.3g}"
    """How it is written there."""


class Outcome(NamedTuple):
    """What one iteration's rollouts amount to, whatever the algorithm. All are scalars."""

    cost: Annotated[Float[Array, ""], Shown("cost of an episode", scale="log", column="cost", form="{:.4g}")]
    """Mean cost of an episode, over the rollouts that did not break off."""
    cost_std: Float[Array, ""]
    success: Annotated[Float[Array, ""], Shown("rollouts that succeed", "%", column="success", form="{:.0%}")]
    """Fraction of all rollouts that reach the goal; nan where the task defines none."""
    valid: Annotated[Float[Array, ""], Shown("rollouts that did not break off", "%")]
    """Fraction of rollouts that did not break off."""
    clipped: Annotated[Float[Array, ""], Shown("actions beyond the bounds", "%")]
    """Fraction of what the policy asked for, over steps, entries and rollouts, that the plant clipped to its bounds."""
    broken_at: Int[Array, ""]
    """First time step at which any rollout is not finite; -1 if none."""
