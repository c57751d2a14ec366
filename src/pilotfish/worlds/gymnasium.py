"""The world of a Gymnasium environment: its dynamics, and its rewards as negative costs.

    state    [qpos, qvel] of a MuJoCo environment, `state` of a classic one, of any other its observation
    cost     minus the reward; the last entry, the final cost, is 0

An episode has a fixed horizon: neither termination nor truncation ends it. What an environment draws at its reset (the
place of a goal, say) it draws by the condition's seed, so that all episodes of a condition begin alike.

All rollouts advance together, each in a copy of the environment. One that raises, or whose state or reward is not
finite, ends there: what would follow is nan, and `valid` is False.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from pilotfish.policies import Policy
from pilotfish.types import Key, Problem, Rollouts
from pilotfish.worlds import World, host


class GymnasiumWorld(World):
    """Steps copies of an environment, whose rewards stand for the cost that the problem does not have."""

    problem: Problem
    make: Callable[[], gymnasium.Env] = eqx.field(static=True)
    """Makes a copy of the environment."""
    seeds: tuple[int, ...] = eqx.field(static=True)
    """The seed with which the episodes of each condition begin."""
    copies: list[gymnasium.Env] = eqx.field(static=True, default_factory=list, repr=False)
    """Those made so far."""

    def __check_init__(self):
        if len(self.seeds) != len(self.problem.conditions.mean):
            raise ValueError(
                f"seeds: {len(self.seeds)} of them for {len(self.problem.conditions.mean)} conditions; give one each."
            )
        if self.problem.cost is not None or self.problem.noise_std is not None:
            raise ValueError("cost, noise_std: an environment brings its own rewards and noise. Give None.")

    @property
    def traceable(self) -> bool:
        return False

    def rollout(self, policy: Policy, samples: int, key: Key) -> Rollouts:
        problem, N, T = self.problem, len(self.seeds), self.problem.horizon
        start, episode = host.begin(problem, policy, samples, key)
        act = host.Actor(problem, policy, episode)
        while len(self.copies) < N * samples:
            self.copies.append(self.make())
        x = np.full((N, samples, T + 1, problem.dx), np.nan)
        u = np.full((N, samples, T, problem.du), np.nan)
        cost = np.full((N, samples, T + 1), np.nan)
        states, actions, costs = x.reshape(-1, T + 1, problem.dx), u.reshape(-1, T, problem.du), cost.reshape(-1, T + 1)
        spread = np.any(np.asarray(problem.conditions.cov) != 0, (1, 2)).tolist()
        running: dict[int, gymnasium.Env] = {}
        for i, first in enumerate(np.asarray(start).reshape(N * samples, -1)):
            n = i // samples
            states[i, 0] = begin(self.copies[i], self.seeds[n], first if spread[n] else None)
            running[i] = self.copies[i]
        trouble: Exception | None = None
        for t in range(T):
            asked = act(t, x[:, :, t])
            for i, env in list(running.items()):
                actions[i, t] = asked[i]
                try:
                    states[i, t + 1], costs[i, t] = _step(env, host.admissible(problem, asked[i : i + 1])[0])
                except Exception as error:  # whatever an environment raises: its rollout ends, the others go on
                    trouble = error
                if not (np.isfinite(states[i, t + 1]).all() and np.isfinite(costs[i, t])):
                    del running[i]
        if not running and trouble is not None:
            raise RuntimeError(
                f"all {N * samples} rollouts broke off; the environment raised: {trouble!r}"
            ) from trouble
        costs[list(running), T] = 0.0
        valid = np.isfinite(cost).all(-1)
        x, u, cost, valid = map(jnp.asarray, (x, u, cost, valid))
        o = x if problem.observe is None else jax.vmap(jax.vmap(jax.vmap(problem.observe)))(x)
        return Rollouts(x, o, u, cost, valid, episode)


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


def _step(env: gymnasium.Env, u: np.ndarray) -> tuple[np.ndarray, float]:
    """The next state and the cost."""
    space: Any = env.action_space
    observation, reward, *_ = env.step(u.reshape(space.shape).astype(space.dtype))
    cost = -np.asarray(reward, float)
    if cost.size != 1:
        raise ValueError(f"{_name(env)}: the reward has the shape {cost.shape}; it must be one number.")
    return _state(env, observation), cost.item()


def _state(env: gymnasium.Env, observation) -> np.ndarray:
    bare: Any = env.unwrapped
    if hasattr(bare, "set_state") and hasattr(bare, "data"):
        return np.concatenate([bare.data.qpos, bare.data.qvel])
    state = getattr(bare, "state", None)
    if isinstance(state, np.ndarray | tuple | list):
        return np.asarray(state, float).ravel()
    return np.asarray(observation, float).ravel()


def _name(env: gymnasium.Env) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
