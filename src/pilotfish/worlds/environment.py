"""The world of a Gymnasium environment: its dynamics, and its rewards as negative costs.

    state    [qpos, qvel] of a MuJoCo environment, `state` of a classic one, of any other its observation
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

A rollout ends where the environment raises, where its simulation diverges, and where a state or a reward is not finite,
no number, or of a wrong shape: what would follow is nan, and no step of it counts.
"""

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import gymnasium
import numpy as np

from pilotfish.types import Problem
from pilotfish.worlds.host import HostWorld
from pilotfish.worlds.mujoco import diverged, quiet
from pilotfish.worlds.plant import Moved, Plant


class GymnasiumWorld(HostWorld):
    """Steps copies of an environment, whose rewards stand for the cost that the problem does not have."""

    problem: Problem
    make: Callable[[], gymnasium.Env] = eqx.field(static=True)
    """Makes a copy of the environment."""
    seeds: tuple[int, ...] = eqx.field(static=True)
    """The seed with which the episodes of each condition begin."""
    copies: list[gymnasium.Env] = eqx.field(static=True, default_factory=list, repr=False)
    """Those made so far."""
    told: list[str] = eqx.field(static=True, default_factory=list, repr=False)
    """Warnings given so far."""

    def __check_init__(self):
        if len(self.seeds) != len(self.problem.conditions.mean):
            raise ValueError(
                f"seeds: {len(self.seeds)} of them for {len(self.problem.conditions.mean)} conditions; give one each."
            )
        if self.problem.cost is not None or np.any(np.asarray(self.problem.noise_std) != 0):
            raise ValueError("cost, noise_std: an environment brings its own rewards and noise. Give neither.")

    @property
    def one_by_one(self) -> bool:
        return False

    def plant(self, copies: int) -> "EnvironmentPlant":
        while len(self.copies) < copies:
            self.copies.append(self.make())
        return EnvironmentPlant(self, copies)


class EnvironmentPlant(Plant):
    """Copies of an environment, each with its own random numbers."""

    def __init__(self, world: GymnasiumWorld, copies: int):
        self._envs, self._seeds, self._problem, self._told = (
            world.copies[:copies],
            world.seeds,
            world.problem,
            world.told,
        )
        self._spread = np.any(np.asarray(world.problem.conditions.cov) != 0, (1, 2)).tolist()

    @quiet()
    def place(self, x, conditions, randoms):
        states = np.empty_like(x)
        for i, n in enumerate(conditions):
            state = begin(self._envs[i], self._seeds[n], x[i] if self._spread[n] else None)
            states[i] = _sized(self._envs[i], state, x.shape[1])
            self._envs[i].unwrapped.np_random = randoms[i]
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
                state, moved.cost[i], moved.ended[i] = _step(env, u[i])
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


def begin(env: gymnasium.Env, seed: int, x: np.ndarray | None = None) -> np.ndarray:
    """Reset by a seed and, where x (dx,) is given, go to that state; the state (dx,) in which the episode begins."""
    observation, _ = env.reset(seed=seed)
    bare: Any = env.unwrapped
    if x is not None:
        if hasattr(bare, "set_state"):
            nq = bare.data.qpos.size
            bare.set_state(x[:nq], x[nq:])
        elif isinstance(getattr(bare, "state", None), np.ndarray | tuple | list):
            bare.state = np.asarray(x, np.asarray(bare.state).dtype)
        else:
            raise ValueError(f"{_name(env)} has no state that can be set: its conditions must have no spread.")
    return _state(env, observation)


def _step(env: gymnasium.Env, u: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """The next state, the cost, and whether the environment terminates the episode."""
    space: Any = env.action_space
    observation, reward, terminated, *_ = env.step(u.reshape(space.shape).astype(space.dtype))
    cost = -_numbers(env, "reward", reward)
    if cost.size != 1:
        raise ValueError(f"{_name(env)}: the reward has the shape {cost.shape}; it must be one number.")
    return _state(env, observation), cost.item(), bool(terminated)


def _state(env: gymnasium.Env, observation) -> np.ndarray:
    bare: Any = env.unwrapped
    if hasattr(bare, "set_state") and hasattr(bare, "data"):
        if diverged(bare.data):
            raise ValueError(f"{_name(env)}: the simulation diverged, and MuJoCo reset it.")
        return np.concatenate([bare.data.qpos, bare.data.qvel])
    state = getattr(bare, "state", None)
    if isinstance(state, np.ndarray | tuple | list):
        return _numbers(env, "state", state).ravel()
    return _numbers(env, "observation", observation).ravel()


def _numbers(env: gymnasium.Env, what: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{_name(env)}: the {what} is {value!r:.80}; it must be made of numbers.")
    return array.astype(float)


def _sized(env: gymnasium.Env, state: np.ndarray, dx: int) -> np.ndarray:
    if state.shape != (dx,):
        raise ValueError(f"{_name(env)}: the state has the shape {state.shape}; it must have the shape ({dx},).")
    return state


def _name(env: gymnasium.Env) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
