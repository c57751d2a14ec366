"""The world of a Gymnasium environment: its dynamics, and its rewards as negative costs.

    state    [qpos, qvel, act, mocap poses] of a MuJoCo environment; the attribute `state` of another, if it is its
             state: a few steps from where it was set must go as they went before; of any other its observation, where
             it has parts (Dict, Tuple) one after the other
    cost     minus the reward; the last entry, the final cost, is 0

What an environment draws at its reset (the place of a goal, say) it draws by the condition's seed, so that all episodes
of a condition begin alike; what it draws later, by its `np_random`, is another in every rollout. All rollouts advance
together, each in a copy of the environment.

An episode has a fixed horizon. Where the environment terminates it earlier, it is not stepped on: the terminal state
stays, at no cost, until the horizon, as an absorbing state (Sutton, Barto: *Reinforcement Learning*, section 3.4). So
the costs of an episode are minus the return as the environment defines it, the reward of a goal is had once, and cost
and next state still follow from state and action. What happens if one steps on, no environment defines, and where we
tried it is worse: after 30 iterations of 20 rollouts MOTO balances InvertedPendulum-v5 for 39 and 79 of 100 steps (two
seeds), but for 2 where the fallen pendulum swings on. Truncation, as by a limit of time, ends nothing.

A formula of the cost, where the problem has one, is what algorithms differentiate; what an episode costs is what the
environment pays. Both are compared as sums over an episode, for most environments pay for the state after a step:

    cost(x, u, t) = d(x) + |u|^2 where t > 0, |u|^2 in the first state;    final_cost(x) = d(x)

They need not be the same to the digit: a MuJoCo environment pays for where bodies were before its last timestep.

A rollout ends where the environment raises, where its simulation diverges, and where a state or a reward is not finite,
no number, or of a wrong shape: what would follow is nan, and no step of it counts. One whose reset raises has no step.
"""

# pyright: reportAttributeAccessIssue=false
import contextlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import gymnasium
import jax
import mujoco
import numpy as np
from jaxtyping import Array, Float

from pilotfish.policies import Policy
from pilotfish.types import Problem, Rollouts
from pilotfish.worlds import RolloutsFailed, quoted, starts
from pilotfish.worlds.host import Begun, HostWorld
from pilotfish.worlds.mujoco import check_whole, diverged, quiet
from pilotfish.worlds.plant import Moved, Plant

LARGEST = 1000
"""Entries of a state, at most: local linear models of more would be slow, and need as many rollouts."""
PROBE = 6
"""Steps by which it is found out whether an attribute `state` is the state."""
APART = 0.1
"""Part of what the steps of an episode cost by which a formula of the cost may differ."""
RETURNS = {
    "reset": ("observation", "info"),
    "step": ("observation", "reward", "terminated", "truncated", "info"),
}
"""What an environment's methods must return."""


class Access(ABC):
    """How an environment's state is read and set."""

    @abstractmethod
    def read(self, env: gymnasium.Env, observation: Any) -> np.ndarray:
        """The state (dx,) of an environment that has just given this observation."""

    @abstractmethod
    def write(self, env: gymnasium.Env, x: np.ndarray) -> None:
        """Go to the state x (dx,). ValueError if that cannot be done."""


class Simulated(Access):
    """Of a MuJoCo environment."""

    def read(self, env, observation):
        data = _bare(env).data
        if diverged(data):
            raise ValueError(f"{_name(env)}: the simulation diverged, and MuJoCo reset it.")
        return np.concatenate([data.qpos, data.qvel, data.act, data.mocap_pos.ravel(), data.mocap_quat.ravel()])

    def write(self, env, x):
        bare = _bare(env)
        data, model = bare.data, bare.model
        sizes = np.cumsum([model.nq, model.nv, model.na, 3 * model.nmocap])
        qpos, qvel, data.act[:], places, turns = np.split(x, sizes)
        data.mocap_pos[:], data.mocap_quat[:] = places.reshape(-1, 3), turns.reshape(-1, 4)
        bare.set_state(qpos, qvel)


class Attribute(Access):
    """Of an environment whose attribute `state` is its state."""

    def read(self, env, observation):
        return _numbers(env, "state", _bare(env).state).ravel()

    def write(self, env, x):
        bare = _bare(env)
        bare.state = np.asarray(x, np.asarray(bare.state).dtype).reshape(np.shape(bare.state))


class Observed(Access):
    """Of an environment that shows its observation only."""

    def read(self, env, observation):
        space = env.observation_space
        if isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Tuple):
            observation = gymnasium.spaces.flatten(space, observation)
        return _numbers(env, "observation", observation).ravel()

    def write(self, env, x):
        raise ValueError(
            f"{_name(env)} has no state that can be set: its conditions must have no spread (start_std=0)."
        )


@quiet()
def access(env: gymnasium.Env, seed: int) -> Access:
    """How the state of an environment is read, which is reset for it; ValueError if it is none to learn on."""
    bare, space = _bare(env), env.observation_space
    if (
        hasattr(bare, "set_state")
        and hasattr(bare, "data")
        and isinstance(getattr(bare, "model", None), mujoco.MjModel)
    ):
        with quoting(_name(env)):
            check_whole(bare.model)
        return Simulated()
    if _state_is_the_state(env, seed):
        return Attribute()
    if not isinstance(space, gymnasium.Space) or not space.is_np_flattenable:
        raise ValueError(f"{_name(env)} has the observations {space!r:.200}, which are no vector of numbers.")
    if (size := gymnasium.spaces.flatdim(space)) > LARGEST:
        shape = " x ".join(map(str, space.shape)) if space.shape else "in all"
        raise ValueError(
            f"{_name(env)}: an observation has {size} entries ({shape}), and would be the state, which may have "
            f"{LARGEST} at most. Images are no states: choose an environment or a wrapper (--task.wrappers "
            "MODULE:FUNCTION) that observes positions and velocities."
        )
    return Observed()


class _Probed(NamedTuple):
    """A step of an environment as it was taken."""

    before: np.ndarray
    after: np.ndarray
    """What is to be the same when it is taken again: state, observation, reward."""


def _state_is_the_state(env: gymnasium.Env, seed: int) -> bool:
    """Whether an environment goes on from a `state` that is set after a reset as it went on from there before."""
    env.action_space.seed(seed)
    actions = [env.action_space.sample() for _ in range(PROBE)]
    try:
        first = _probe(env, seed, actions)
        half = len(first) // 2
        if not half or all(np.array_equal(step.before, first[0].before) for step in first):
            return False
        again = _probe(env, seed, actions[half : len(first)], first[half].before, half)
    except Exception:  # whatever an environment raises that has no such state, or whose state cannot be set
        return False
    return len(again) == len(first) - half and all(
        np.allclose(one.after, other.after, rtol=1e-5, atol=1e-8)
        for one, other in zip(first[half:], again, strict=True)
    )


def _probe(
    env: gymnasium.Env, seed: int, actions: Sequence[Any], x: np.ndarray | None = None, number: int = 0
) -> list[_Probed]:
    """Steps from a reset, or from a state x that is set then; until one fails, of which there are errors later."""
    state, observed, steps = Attribute(), Observed(), []
    observation, _ = env.reset(seed=seed)
    if x is not None:
        state.write(env, x)
    for i, u in enumerate(actions, number):
        _bare(env).np_random = np.random.default_rng(i)
        before = state.read(env, observation).copy()
        if before.size > LARGEST:
            raise ValueError
        try:
            observation, reward, terminated, *_ = env.step(u)
            after = np.concatenate([state.read(env, observation), observed.read(env, observation), [float(reward)]])
        except Exception:
            break
        if (steps and after.size != steps[0].after.size) or not np.isfinite(after).all():
            break
        steps.append(_Probed(before, after))
        if terminated:
            break
    return steps


class GymnasiumWorld(HostWorld):
    """Steps copies of an environment, whose rewards are what episodes cost."""

    problem: Problem
    make: Callable[[], gymnasium.Env] = eqx.field(static=True)
    """Makes a copy of the environment."""
    seeds: tuple[int, ...] = eqx.field(static=True)
    """The seed with which the episodes of each condition begin."""
    access: Access = eqx.field(static=True)
    """How the environment's state is read and set."""
    copies: list[gymnasium.Env] = eqx.field(static=True, default_factory=list, repr=False)
    """Those made so far."""
    told: list[str] = eqx.field(static=True, default_factory=list, repr=False)
    """Warnings given so far."""

    def __check_init__(self):
        if len(self.seeds) != len(self.problem.conditions.mean):
            raise ValueError(
                f"seeds: {len(self.seeds)} of them for {len(self.problem.conditions.mean)} conditions; give one each."
            )
        if np.any(np.asarray(self.problem.noise_std) != 0):
            raise ValueError("noise_std: an environment brings its own noise. Leave it at 0.")

    @property
    def one_by_one(self) -> bool:
        return False

    def beyond(self):
        return {"seeds": np.array(self.seeds)}

    def plant(self, copies: int) -> "EnvironmentPlant":
        while len(self.copies) < copies:
            self.copies.append(self.make())
        return EnvironmentPlant(self, copies)

    def driven(self, policy: Policy, begun: Begun) -> tuple[Rollouts, Exception | None]:
        rollouts, trouble = super().driven(policy, begun)
        if self.problem.cost is not None:
            _check_formula(self.problem, rollouts)
        return rollouts, trouble

    @quiet()
    def show(self, env: gymnasium.Env, x: np.ndarray, condition: int) -> None:
        """Bring a copy of the environment into the state x (dx,) of a condition, to be rendered."""
        begin(env, self.access, self.seeds[condition], x)


def _check_formula(problem: Problem, rollouts: Rollouts) -> None:
    """RolloutsFailed if the problem's cost is not what whole episodes were paid for."""
    whole = np.asarray(rollouts.valid)
    told, cost = np.asarray(_told(problem, rollouts))[whole], np.asarray(rollouts.cost)[whole]
    if whole.any() and not np.abs(told - cost.sum(1)).mean() <= APART * np.abs(cost).sum(1).mean():
        raise RolloutsFailed(
            f"cost(x, u, t): by it an episode costs {told.mean():.5g} (mean), and by the environment's rewards "
            f"{cost.sum(1).mean():.5g}. Summed up over an episode, with final_cost(x) of its last state, it must be "
            "minus the return. Most environments pay for the state after a step, and nothing once they have "
            "terminated. Mend the formula, or leave it out; to be paid for something else wrap the environment "
            "(--task.wrappers MODULE:FUNCTION)."
        )


@eqx.filter_jit
def _told(problem: Problem, rollouts: Rollouts) -> Float[Array, "N M"]:
    """What each episode costs by the problem's formula."""
    return jax.vmap(jax.vmap(problem.costs))(rollouts.x, problem.admissible(rollouts.u)).sum(-1)


class EnvironmentPlant(Plant):
    """Copies of an environment, each with its own random numbers."""

    def __init__(self, world: GymnasiumWorld, copies: int):
        self._envs, self._seeds, self._access = world.copies[:copies], world.seeds, world.access
        self._problem, self._told = world.problem, world.told
        self._spread = np.any(np.asarray(world.problem.conditions.cov) != 0, (1, 2)).tolist()

    def possible(self, x, conditions):
        if not isinstance(self._access, Simulated):
            return x
        model, about = _bare(self._envs[0]).model, np.asarray(self._problem.conditions.mean)
        rows = zip(x, conditions, strict=True)
        return np.array([starts.possible(model, row, about[n]) if self._spread[n] else row for row, n in rows])

    @quiet()
    def place(self, x, conditions, randoms):
        states = np.empty_like(x)
        trouble: Exception | None = None
        for i, n in enumerate(conditions):
            try:
                state = begin(self._envs[i], self._access, self._seeds[n], x[i] if self._spread[n] else None)
                states[i] = _sized(self._envs[i], state, x.shape[1])
            except ValueError as error:  # its rollout has no step, the others have theirs
                states[i], trouble = np.nan, error
            self._envs[i].unwrapped.np_random = randoms[i]
        if trouble is not None and np.isnan(states).any(1).all():
            raise RolloutsFailed(f"none of {len(states)} rollouts could begin: {trouble}") from trouble
        return states

    @quiet()
    def step(self, u, t, moving):
        n, dx = len(u), self._problem.dx
        moved = Moved(np.full((n, dx), np.nan), np.full(n, np.nan), np.zeros(n, bool))
        assert moved.cost is not None
        assert moved.ended is not None
        trouble: Exception | None = None
        for i in np.flatnonzero(moving):
            env = self._envs[i]
            try:
                state, moved.cost[i], moved.ended[i] = _step(env, self._access, u[i])
                moved.x[i] = _sized(env, state, dx)
            except Exception as error:  # whatever an environment raises: its rollout ends, the others go on
                trouble = error
        good = np.isfinite(moved.x).all(1) & np.isfinite(moved.cost)
        if (moved.ended & good).any() and t + 1 < self._problem.horizon:
            self._warn_of_termination(t + 1)
        return moved._replace(trouble=trouble)

    def _warn_of_termination(self, step: int) -> None:
        if not self._told:
            self._told.append(
                f"{_name(self._envs[0])} terminated an episode after {step} of {self._problem.horizon} steps. The "
                "horizon is fixed: the terminal state stays until then, and nothing more is rewarded. Choose a shorter "
                "horizon, or an environment that does not terminate, if episodes should rather go on."
            )
            warnings.warn(self._told[-1], stacklevel=2)


def begin(env: gymnasium.Env, access: Access, seed: int, x: np.ndarray | None = None) -> np.ndarray:
    """Reset by a seed and, where x (dx,) is given, go to that state; the state (dx,) in which the episode begins.

    ValueError, naming the environment, for whatever it raises.
    """
    with quoting(_name(env), f"reset(seed={seed}) raised ", ". Mend the environment: episodes begin by a reset."):
        observation, _ = _returned(env, "reset", env.reset(seed=seed))
    with quoting(_name(env), "its state cannot be had: "):
        if x is not None:
            access.write(env, x)
        return access.read(env, observation)


def _step(env: gymnasium.Env, access: Access, u: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """The next state, the cost, and whether the environment terminates the episode.

    ValueError, naming the environment, for whatever it raises.
    """
    space: Any = env.action_space
    with quoting(_name(env), "step() raised "):
        observation, reward, terminated, *_ = _returned(
            env, "step", env.step(u.reshape(space.shape).astype(space.dtype))
        )
    with quoting(_name(env), "its state cannot be had: "):
        x = access.read(env, observation)
    return (
        x,
        -_number(env, "reward", reward),
        bool(_number(env, "value of terminated", terminated)),
    )


@contextlib.contextmanager
def quoting(name: str, what: str = "", remedy: str = "") -> Iterator[None]:
    """Whatever other people's code raises becomes a ValueError of one line, which begins with the name."""
    try:
        yield
    except Exception as error:
        if type(error) is ValueError and str(error).startswith(name):
            raise
        raise ValueError(f"{name}: {what}{quoted(error)}{remedy}") from error


def _returned(env: gymnasium.Env, method: str, found: Any) -> tuple:
    """What a method returned, if it has the parts that it must have."""
    parts = RETURNS[method]
    if not isinstance(found, tuple | list) or len(found) != len(parts):
        said = " ".join(f"{found!r:.80}".split())
        raise ValueError(f"{_name(env)}: {method}() returned {said}; it must return ({', '.join(parts)}).")
    return tuple(found)


def _bare(env: gymnasium.Env) -> Any:
    return env.unwrapped


def _numbers(env: gymnasium.Env, what: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        said = " ".join(f"{value!r:.80}".split())
        raise ValueError(f"{_name(env)}: the {what} is {said}; it must be made of numbers.")
    return array.astype(float)


def _number(env: gymnasium.Env, what: str, value: Any) -> float:
    array = _numbers(env, what, value)
    if array.size != 1:
        remedy = " Weigh its parts in a wrapper." if what == "reward" else ""
        raise ValueError(f"{_name(env)}: the {what} has the shape {array.shape}; it must be one number.{remedy}")
    return array.item()


def _sized(env: gymnasium.Env, state: np.ndarray, dx: int) -> np.ndarray:
    if state.shape != (dx,):
        raise ValueError(f"{_name(env)}: the state has the shape {state.shape}; it must have the shape ({dx},).")
    return state


def _name(env: gymnasium.Env) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
