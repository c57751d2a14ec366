"""Dynamics learned from all transitions so far: one model of the whole state space, for all conditions and time steps.

    x' = x + f(s),    s = [sin and cos of angles, other states, ways beyond limits, executed action], whitened

where f is a Gaussian process (algebra/process.py). Where a local fit needs as many rollouts as a step's state and
action have entries, every transition here tells something of all that are near it: a handful of episodes will do, if
the dynamics are smooth. (With a mean that is linear far from the data, this is the model of PILCO, Deisenroth &
Rasmussen 2011, without its uncertainty.)

Where a joint is stopped its velocity jumps, and a smooth function takes that for noise. It is smooth in how far the
step would have led beyond the limit, q + dt v - clip(q + dt v): 0 wherever nothing is stopped.

Where no formula of the cost is known it is learned as one more output.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pilotfish.algebra import process, regression
from pilotfish.algebra.process import Kernel, Process
from pilotfish.types import Equations, Key, Limit, Problem, Rollouts, Step

BEYOND = 0.5
"""By how much of its range in all data an input may leave it, to either side: further out the model is taken to go on
as it is there."""
CANDIDATES = 2
"""Basis functions are centred on some of so many times their number of transitions, which are drawn."""


class Coordinates(NamedTuple):
    """What dynamics depend on smoothly, as a problem tells it."""

    angles: tuple[int, ...]
    limits: tuple[Limit, ...]
    dt: float

    @classmethod
    def of(cls, problem: Problem) -> "Coordinates":
        """A problem's."""
        return cls(problem.angles, problem.limits, problem.dt)

    def __call__(self, x: Float[Array, "*batch dx"], u: Float[Array, "*batch du"]) -> Float[Array, "*batch d"]:
        """Sine and cosine of what is an angle, the other states, how far the step leads beyond each limit if nothing
        stops it, the action.
        """
        turn, rest = np.array(self.angles, int), np.setdiff1d(np.arange(x.shape[-1]), self.angles)
        at, moving = (np.array([limit[i] for limit in self.limits], int) for i in (0, 1))
        low, high = (np.array([limit[i] for limit in self.limits]) for i in (2, 3))
        ahead = x[..., at] + self.dt * x[..., moving]
        beyond = ahead - jnp.clip(ahead, low, high)
        return jnp.concatenate([jnp.sin(x[..., turn]), jnp.cos(x[..., turn]), x[..., rest], beyond, u], -1)


class Experience(NamedTuple):
    """All transitions that are remembered, newest first, and what was learned of the kernel."""

    x: Float[Array, "n dx"]
    u: Float[Array, "n du"]
    """Executed actions."""
    ahead: Float[Array, "n dx"]
    cost: Float[Array, "n"]
    happened: Bool[Array, "n"]
    kernel: Kernel

    @property
    def share(self) -> Float[Array, "n"]:
        """Of a transition in the mean over all that happened."""
        return self.happened / jnp.maximum(self.happened.sum(), 1)


class White(NamedTuple):
    """Coordinates without units: of the inputs `(a - shift) / scale`, of the outputs `(y - centre) / spread`. Of what
    does not vary the scale is infinite and the spread 0.
    """

    shift: Float[Array, "d"]
    scale: Float[Array, "d"]
    low: Float[Array, "d"]
    high: Float[Array, "d"]
    """White inputs beyond these are taken to be these."""
    centre: Float[Array, "outputs"]
    spread: Float[Array, "outputs"]


class Learned(eqx.Module):
    """What was learned: called with state and action it gives the next state."""

    process: Process
    white: White
    low: Float[Array, "du"]
    high: Float[Array, "du"]
    coordinates: Coordinates = eqx.field(static=True)

    def __call__(self, x: Float[Array, "dx"], u: Float[Array, "du"]) -> Float[Array, "dx"]:
        return x + self._outputs(x, u)[: len(x)]

    def cost(self, x: Float[Array, "dx"], u: Float[Array, "du"], t: Step) -> Float[Array, ""]:
        """The cost of a step, where that was learned."""
        return self._outputs(x, u)[len(x)]

    def of(self, problem: Problem) -> Problem:
        """The problem as it is believed to be."""
        believed = eqx.tree_at(lambda p: p.dynamics, problem, Equations(self), is_leaf=lambda leaf: leaf is None)
        if problem.cost is None:
            believed = eqx.tree_at(lambda p: p.cost, believed, self.cost, is_leaf=lambda leaf: leaf is None)
        return believed

    def _outputs(self, x: Float[Array, "dx"], u: Float[Array, "du"]) -> Float[Array, "outputs"]:
        # not jnp.clip: at a limit its derivative is half of what an action does there
        u = jnp.where(u > self.high, self.high, jnp.where(u < self.low, self.low, u))
        a, white = self.coordinates(x, u), self.white
        s = jnp.clip((a - white.shift) / white.scale, white.low, white.high)
        return white.centre + white.spread * self.process(s)


class Report(NamedTuple):
    """How well what was learned fits."""

    spread: Float[Array, "dx"]
    """Standard deviation of all states that are remembered; 0 of an entry that does not vary."""
    unexplained: Float[Array, ""]
    """Part of the variance of the newest transitions' changes, whitened, that is not explained."""
    basis: Int[Array, ""]
    """Number of basis functions."""
    transitions: Int[Array, ""]
    """Number of transitions that are remembered."""


class LearnedDynamics(eqx.Module):
    """How dynamics are learned from all transitions so far.

    A Gaussian process of all states (the model of PILCO, Deisenroth & Rasmussen 2011, without its uncertainty).
    ValueError for a number below the least.

    Example:

    >>> import pilotfish as pf
    >>> algorithm = pf.ILQG(dynamics="learned", learned=pf.LearnedDynamics(points=200))
    >>> algorithm.learned.points, algorithm.learned.memory
    (200, 3000)
    """

    memory: int = eqx.field(static=True, default=3000)
    """Number of the newest transitions, of all conditions, that are remembered, rounded up to whole iterations."""
    nearest: int = eqx.field(static=True, default=1000)
    """Number of the remembered transitions, for each condition, that plans are learned from: those nearest to the
    episodes about which plans are made. Wild ones far away would take basis functions and be fitted at their cost."""
    points: int = eqx.field(static=True, default=500)
    """Most transitions on which basis functions are centred. With more, more is told apart, at a cost of its cube."""
    sample: int = eqx.field(static=True, default=200)
    """Number of transitions by which lengths and noise are learned, drawn anew each time."""
    steps: int = eqx.field(static=True, default=30)
    """Steps of Adam by which they are; they go on from where the last ended."""

    def __check_init__(self):
        for name, least in (("memory", 1), ("nearest", 2), ("points", 1), ("sample", 2), ("steps", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: give {least} or more.")

    def begin(self, problem: Problem, episodes: int) -> Experience:
        """What is remembered before the first rollouts."""
        N, T, dx, du = len(problem.conditions.mean), problem.horizon, problem.dx, problem.du
        n = -(-self.memory // (N * episodes * T)) * N * episodes * T
        d = dx + len(problem.angles) + len(problem.limits) + du
        return Experience(
            x=jnp.zeros((n, dx)),
            u=jnp.zeros((n, du)),
            ahead=jnp.zeros((n, dx)),
            cost=jnp.zeros(n),
            happened=jnp.zeros(n, bool),
            kernel=process.begin(d, dx + (problem.cost is None)),
        )

    def fit(
        self,
        problem: Problem,
        experience: Experience,
        rollouts: Rollouts,
        key: Key,
        about: tuple[Float[Array, "N T1 dx"], Float[Array, "N T du"]] | None = None,
    ) -> tuple[Experience, Learned, Report]:
        """What is remembered after these `cleaned` rollouts, what is learned from it, and how well that fits. Where
        episodes are given, states and actions, it is learned from what is nearest to them.
        """
        every = remembered(problem, experience, rollouts)
        known = every if about is None else self._near(problem, every, *about)
        a, y = samples(problem, known)
        white, row = _white(a, known, y), known.happened[:, None]
        s = jnp.where(row, (a - white.shift) / white.scale, 0.0)
        v = jnp.where(
            row & (white.spread > 0), (y - white.centre) / jnp.where(white.spread > 0, white.spread, 1.0), 0.0
        )
        order = _shuffled(known.happened, key)
        some, candidates = order[: self.sample], order[: CANDIDATES * self.points]
        kernel = process.likeliest(known.kernel, s[some], v[some], known.happened[some], self.steps)
        found = process.given(kernel, s, v, known.happened, candidates, min(self.points, len(s)))
        model = Learned(found, white, problem.action_low, problem.action_high, Coordinates.of(problem))
        report = Report(
            spread=regression.standard(known.x, known.share)[1],
            unexplained=_unexplained(model, *samples(problem, every), rollouts.happened.ravel(), problem.dx),
            basis=(found.weight != 0).any(1).sum(),
            transitions=known.happened.sum(),
        )
        return every._replace(kernel=kernel), model, report

    def _near(self, problem: Problem, known: Experience, x: Array, u: Array) -> Experience:
        """Of the experience those transitions that are nearest to these episodes."""
        coordinates = Coordinates.of(problem)
        a, c = coordinates(known.x, known.u), coordinates(x[:, :-1], u)
        scale = regression.standard(a, known.share)[1]
        scale = jnp.where(scale > 0, scale, jnp.inf)
        a, c = a / scale, c.reshape(-1, c.shape[-1]) / scale
        squared = ((a**2).sum(1)[:, None] + (c**2).sum(1) - 2.0 * a @ c.T).min(1)
        nearest = jnp.argsort(jnp.where(known.happened, squared, jnp.inf))[: self.nearest * len(x)]
        return Experience(*(leaf[nearest] for leaf in known[:-1]), kernel=known.kernel)


def remembered(problem: Problem, old: Experience, rollouts: Rollouts) -> Experience:
    """The experience with these transitions in front; the oldest are forgotten."""

    def front(new: Array, old: Array) -> Array:
        new = new.reshape(-1, *old.shape[1:])
        return jnp.concatenate([new, old[: len(old) - len(new)]])

    return Experience(
        x=front(rollouts.x[..., :-1, :], old.x),
        u=front(problem.admissible(rollouts.u), old.u),
        ahead=front(rollouts.x[..., 1:, :], old.ahead),
        cost=front(rollouts.cost[..., :-1], old.cost),
        happened=front(rollouts.happened, old.happened),
        kernel=old.kernel,
    )


def samples(problem: Problem, known: Experience) -> tuple[Float[Array, "n d"], Float[Array, "n outputs"]]:
    """Inputs and outputs of what is learned."""
    y = known.ahead - known.x
    if problem.cost is None:
        y = jnp.concatenate([y, known.cost[:, None]], 1)
    return Coordinates.of(problem)(known.x, known.u), y


def _unexplained(
    model: Learned, a: Float[Array, "n d"], y: Float[Array, "n outputs"], new: Bool[Array, "m"], dx: int
) -> Float[Array, ""]:
    """Part of the variance of the newest m changes of the state, whitened, that the model does not explain."""
    m, white = len(new), model.white
    s = jnp.clip((a[:m] - white.shift) / white.scale, white.low, white.high)
    v = jnp.where(white.spread > 0, (y[:m] - white.centre) / jnp.where(white.spread > 0, white.spread, 1.0), 0.0)
    share = (new / jnp.maximum(new.sum(), 1))[:, None]
    off = (share * (v - jax.vmap(model.process)(s)) ** 2)[:, :dx].sum()
    scatter = (share * (v - (share * v).sum(0)) ** 2)[:, :dx].sum()
    return off / jnp.where(scatter > 0, scatter, 1.0)


def _white(a: Float[Array, "n d"], known: Experience, y: Float[Array, "n outputs"]) -> White:
    happened, size = known.happened, jnp.abs(known.ahead)
    if y.shape[1] > size.shape[1]:
        size = jnp.concatenate([size, jnp.abs(known.cost)[:, None]], 1)
    (shift, scale), (centre, spread) = regression.standard(a, known.share), regression.standard(y, known.share, size)
    scale = jnp.where(scale > 0, scale, jnp.inf)
    s = jnp.where(happened[:, None], (a - shift) / scale, 0.0)
    low, high = s.min(0), s.max(0)
    margin = BEYOND * (high - low)
    return White(shift, scale, low - margin, high + margin, centre, spread)


def _shuffled(happened: Bool[Array, "n"], key: Key) -> Int[Array, "n"]:
    """Indices of all transitions in random order, those that happened first."""
    return jnp.argsort(jax.random.uniform(key, happened.shape) + ~happened)
