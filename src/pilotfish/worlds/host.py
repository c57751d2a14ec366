"""Worlds whose plants are stepped on the host. All actions of a time step come from one compiled call.

On the host nothing else of JAX runs in a time step: to split a key there, or to compute eagerly, costs milliseconds.

Episodes of a simulation advance together. Those of a robot come one after the other: each is handed out when it has
ended, so that it can be kept before the next begins.
"""

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32

from pilotfish.algebra import gaussian
from pilotfish.policies import Policy, of_conditions, over_conditions
from pilotfish.types import Key, Problem, Rollouts
from pilotfish.worlds import Finished, RolloutsFailed, World, quoted
from pilotfish.worlds.plant import Moved, Plant

Act = Callable[[int, np.ndarray], np.ndarray]
"""`act(t, x)`: what is asked for at step t in the states x (n, dx), one row an episode."""


class Begun(NamedTuple):
    """What N x M episodes begin with; nothing else differs between them."""

    start: Float[np.ndarray, "N M dx"]
    """Where."""
    keys: UInt32[np.ndarray, "N M words"]
    """By what the policy draws, as the data of keys."""
    randoms: Sequence[np.random.Generator]
    """By what the plant draws, of all N M."""
    conditions: Sequence[int]
    """From which conditions."""

    def alone(self, n: int, m: int) -> "Begun":
        """Episode m from condition number n."""
        one = (slice(n, n + 1), slice(m, m + 1))
        at = n * self.start.shape[1] + m
        return Begun(self.start[one], self.keys[one], self.randoms[at : at + 1], self.conditions[n : n + 1])


class HostWorld(World):
    """A world that steps a plant on the host."""

    problem: eqx.AbstractVar[Problem]

    @property
    @abstractmethod
    def one_by_one(self) -> bool:
        """Whether there is but one copy of the plant, so that its episodes follow one another."""

    @property
    def traceable(self) -> bool:
        return False

    def rollout(self, policy: Policy, episodes: int, key: Key, finished: Finished | None = None) -> Rollouts:
        """`episodes` rollouts from each condition; `finished` is told of every one that has ended."""
        begun = self.begun(episodes, key)
        if not self.one_by_one:
            return _told(_whole(*self.driven(policy, begun)), finished)
        rows = [
            _told(_whole(*self.driven(of_conditions(policy, slice(n, n + 1)), begun.alone(n, m))), finished, n, m)
            for n, m in np.ndindex(*begun.start.shape[:2])
        ]
        return gathered(rows, begun)

    def begun(self, episodes: int, key: Key) -> Begun:
        """What `episodes` from each condition begin with."""
        start, keys = _starts(self.problem, episodes, key)
        seed, count = np.asarray(jax.random.key_data(key)), start.shape[0] * start.shape[1]
        return Begun(np.asarray(start), np.asarray(keys), np.random.default_rng(seed).spawn(count), range(len(start)))

    def driven(self, policy: Policy, begun: Begun) -> tuple[Rollouts, Exception | None]:
        """These episodes, all at once, of a policy of their conditions; and by what they broke off, if all did."""
        N, M, dx = begun.start.shape
        plant = self.plant(N * M)
        chosen = np.repeat(begun.conditions, M).tolist()
        x0 = plant.place(plant.possible(begun.start.reshape(N * M, dx), chosen), chosen, begun.randoms)
        episode = _begin(self.problem, policy, jnp.asarray(x0.reshape(N, M, dx)), jnp.asarray(begun.keys))
        path = drive(self.problem, plant, x0, Actor(self.problem, policy, episode, (N, M)))
        trouble = None if path.whole.any() else path.trouble
        x, u = (jnp.asarray(a.reshape(N, M, *a.shape[1:])) for a in (path.x, path.u))
        if path.cost is None:
            final = None if path.final is None else jnp.asarray(path.final.reshape(N, M))
            return _recorded(self.problem, x, u, final, episode), trouble
        return _recorded_at(self.problem, x, u, jnp.asarray(path.cost.reshape(N, M, -1)), episode), trouble


class PlantWorld(HostWorld):
    """A plant of which there is one, such as a robot: its episodes follow one another.

    ValueError where the problem has no formula of its final cost, and the plant does not bring it.

    Example:

    >>> import jax
    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> task = LinearQuadratic()
    >>> robot = task.world().plant(1)  # equations in place of a robot: see Plant
    >>> world = pf.PlantWorld(task.problem(), robot)
    >>> rollouts = world.rollout(pf.LinearGaussianPolicy(world.problem.first_controller), 2, jax.random.key(0))
    >>> rollouts.x.shape  # (condition, episode, step, state)
    (1, 2, 21, 4)
    """

    problem: Problem
    """What is to be done with the plant."""
    only: Plant = eqx.field(static=True)
    """What is acted on. Its `place` gets one state, its `step` one action, each as an array of one row."""

    def __check_init__(self):
        if self.problem.final_cost is None and type(self.only).finish is Plant.finish:
            raise ValueError(
                f"final_cost=None: {type(self.only).__name__} brings no final cost. Give it a method finish, or the "
                "problem the formula."
            )

    @property
    def one_by_one(self) -> bool:
        return True

    def plant(self, copies: int) -> Plant:
        if copies != 1:
            raise ValueError(f"copies={copies}: there is one {type(self.only).__name__}.")
        return self.only


class Path(NamedTuple):
    """What a plant did in n episodes; nan from where one broke off."""

    x: Float[np.ndarray, "n T1 dx"]
    u: Float[np.ndarray, "n T du"]
    cost: Float[np.ndarray, "n T1"] | None
    """None where the problem says what it costs."""
    final: Float[np.ndarray, "n"] | None
    """The final cost where the plant brings it, and only that; else None."""
    whole: Bool[np.ndarray, "n"]
    """Where the episode did not break off."""
    trouble: Exception | None


def drive(problem: Problem, plant: Plant, x0: Float[np.ndarray, "n dx"], act: Act) -> Path:
    """Step a plant, which stands in the states x0, through an episode in every row."""
    n, T = len(x0), problem.horizon
    x, u = np.full((n, T + 1, problem.dx), np.nan), np.full((n, T, problem.du), np.nan)
    cost, priced, trouble = np.full((n, T + 1), np.nan), False, None
    low, high = np.asarray(problem.action_low), np.asarray(problem.action_high)
    x[:, 0] = x0
    whole, ended = np.isfinite(x0).all(1), np.zeros(n, bool)
    for t in range(T):
        if not whole.any():
            break
        u[whole, t] = act(t, x[:, t])[whole]
        whole &= np.isfinite(u[:, t]).all(1)
        x[ended, t + 1], cost[ended, t] = x[ended, t], 0.0
        moving = whole & ~ended
        moved: Moved = plant.step(np.clip(u[:, t], low, high), t, moving)
        x[moving, t + 1] = moved.x[moving]
        if moved.cost is not None:
            priced, cost[moving, t] = True, moved.cost[moving]
            whole &= np.isfinite(cost[:, t])
        whole &= np.isfinite(x[:, t + 1]).all(1)
        if moved.ended is not None:
            ended = (ended | moved.ended) & whole
        trouble = moved.trouble or trouble
    cost[whole, T], final = 0.0, None
    if problem.final_cost is None:
        final = np.where(whole, plant.finish(np.asarray(whole)), np.nan)
    return Path(x, u, cost if priced else None, final, np.asarray(whole), trouble)


class Actor:
    """A policy in the episodes of all conditions at once."""

    def __init__(self, problem: Problem, policy: Policy, episode: Any, shape: Sequence[int]):
        """`episode` has the leading axes `shape`, condition and rollout."""
        arrays, static = eqx.partition((policy, problem.observe), eqx.is_array)
        self._act, self._shape = functools.partial(_act, static, arrays, episode), shape

    def __call__(self, t: int, x: Float[np.ndarray, "n dx"]) -> Float[np.ndarray, "n du"]:
        u = np.asarray(self._act(t, x.reshape(*self._shape, -1)))
        return u.reshape(len(x), -1)


@functools.partial(jax.jit, static_argnums=0)
def _act(static, arrays, episode, t, x: Float[Array, "N M dx"]) -> Float[Array, "N M du"]:
    """Actions of a policy given as its arrays and its rest: a call then costs .1 ms, a tenth of filter_jit's."""
    policy, observe = eqx.combine(arrays, static)

    def of_condition(policy, episode, x):
        return jax.vmap(lambda episode, x: policy.act(episode, t, x, observe(x)))(episode, x)

    return over_conditions(of_condition, policy, episode, x)


@eqx.filter_jit
def _starts(problem: Problem, episodes: int, key: Key) -> tuple[Float[Array, "N M dx"], Array]:
    """Initial states of all rollouts, and the data of the keys with which their policies begin."""
    keys = jax.random.split(key, (len(problem.conditions.mean), episodes))
    start_key, policy_key = jnp.moveaxis(jax.vmap(jax.vmap(jax.random.split))(keys), -1, 0)
    draw = jax.vmap(jax.vmap(gaussian.draw, (None, 0)))
    return draw(problem.conditions, start_key), jax.random.key_data(policy_key)


@eqx.filter_jit
def _begin(problem: Problem, policy: Policy, x0: Float[Array, "N M dx"], words: UInt32[Array, "N M words"]) -> Any:
    """What the policy draws for each rollout, by the data of a key, in the state in which that begins."""
    keys = jax.random.wrap_key_data(words)

    def of_condition(policy: Policy, keys: Array, x0: Float[Array, "M dx"]) -> Any:
        return jax.vmap(lambda key, x: policy.begin(key, x, problem.observe(x)))(keys, x0)

    return over_conditions(of_condition, policy, keys, x0)


@eqx.filter_jit
def _recorded(
    problem: Problem,
    x: Float[Array, "N M T1 dx"],
    u: Float[Array, "N M T du"],
    final: Float[Array, "N M"] | None,
    episode: Any,
) -> Rollouts:
    """Rollouts of these states and actions, at the problem's cost; `final` is the one that was brought, if any."""
    return _recorded_at(problem, x, u, jax.vmap(jax.vmap(problem.costs))(x, u, final), episode)


@eqx.filter_jit
def _recorded_at(problem: Problem, x: Array, u: Array, cost: Float[Array, "N M T1"], episode) -> Rollouts:
    o = jax.vmap(jax.vmap(jax.vmap(problem.observe)))(x)
    return Rollouts.recorded(x, o, u, cost, episode)


def gathered(rows: Sequence[Rollouts], begun: Begun) -> Rollouts:
    """Episodes that were each alone, in their order, as those of all conditions."""
    shape = begun.start.shape[:2]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves).reshape(*shape, *leaves[0].shape[2:]), *rows)


def all_broke_off(count: int, last: str) -> RolloutsFailed:
    """The error of rollouts of which none is whole."""
    return RolloutsFailed(f"all {count} rollouts broke off, the last of them by {last}")


def _whole(rollouts: Rollouts, trouble: Exception | None) -> Rollouts:
    """The rollouts. RolloutsFailed if all broke off."""
    if trouble is not None:
        raise all_broke_off(rollouts.steps.size, quoted(trouble)) from trouble
    return rollouts


def _told(rollouts: Rollouts, finished: Finished | None, n: int = 0, m: int = 0) -> Rollouts:
    """The rollouts, after `finished` was told of each; the first is number m of condition n."""
    if finished is not None:
        for i, j in np.ndindex(*rollouts.steps.shape):
            finished(n + i, m + j, jax.tree.map(lambda leaf, at=(i, j): leaf[at], rollouts))
    return rollouts
