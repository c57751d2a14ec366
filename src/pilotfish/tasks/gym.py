"""Any environment of Gymnasium with continuous actions, as a task: its rewards are what is to be gained.

The horizon is fixed, so an environment that ends an episode for falling is told not to, where it can be told; what
becomes of others is said in worlds/environment.py. No formula of the reward is known: MOTO needs none, and LQR-GPS fits
a quadratic function to the rewards of its rollouts.
"""

import importlib
import inspect
from typing import Any

import equinox as eqx
import gymnasium
import jax.numpy as jnp
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator

from pilotfish.tasks import GYMNASIUM, Entry, Task
from pilotfish.types import Gaussian, Problem
from pilotfish.worlds.environment import GymnasiumWorld, begin
from pilotfish.worlds.mujoco import quiet

LONGEST = 200
"""Steps of an episode where nothing else is said; the environment's own limit where that is lower."""
UNENDING = "terminate_when_unhealthy"


class GymnasiumTask(Task):
    """Gain what an environment of Gymnasium rewards."""

    env: str = eqx.field(static=True, default="Reacher-v5")
    """The environment's name; MODULE:NAME imports the module that registers it."""
    horizon: int = eqx.field(static=True, default=0)
    """Steps of an episode; 0 for the environment's own limit, or 200 where that is longer."""
    conditions: int = eqx.field(static=True, default=1)
    """Number of initial states: those after resets by the seeds 0, 1, ..."""
    start_std: float = 0.0
    """Standard deviation of every entry of the initial state about them."""
    initial_std: float = 0.3
    """Standard deviation of the first controller's actions, in halves of the actions' range."""

    def __check_init__(self):
        for name, least in (("horizon", 0), ("conditions", 1), ("start_std", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: must be {least} or more.")

    @property
    def steps(self) -> int:
        """Steps of an episode."""
        return self.horizon or min(_spec(self.env).max_episode_steps or LONGEST, LONGEST)

    @quiet()
    def make(self) -> gymnasium.Env:
        """A copy of the environment, which renders to arrays."""
        settings: dict[str, Any] = {"max_episode_steps": self.steps + 1, "disable_env_checker": True}
        if _can_go_on(self.env):
            settings[UNENDING] = False
        env = gymnasium.make(self.env, render_mode="rgb_array" if _renders(self.env) else None, **settings)
        if not isinstance(env.action_space, gymnasium.spaces.Box):
            raise ValueError(
                f"{self.env} has the actions {env.action_space}: only continuous ones (Box) can be learned."
            )
        return env

    def show(self, env: gymnasium.Env, x: np.ndarray, condition: int) -> None:
        """Bring a copy of the environment into the state x (dx,) of a condition, to be rendered."""
        begin(env, condition, x)

    def problem(self) -> Problem:
        env = self.make()
        states = np.array([begin(env, seed) for seed in range(self.conditions)])
        space: Any = env.action_space
        low, high = (np.asarray(bound, float).ravel() for bound in (space.low, space.high))
        bounded = bool(np.isfinite(low).all() and np.isfinite(high).all())
        bare: Any = env.unwrapped
        rate = env.metadata.get("render_fps")
        dx = states.shape[1]
        return Problem(
            horizon=self.steps,
            dt=float(getattr(bare, "dt", 0.0) or (1.0 / rate if rate else 1.0)),
            conditions=Gaussian(
                jnp.asarray(states), jnp.broadcast_to(self.start_std**2 * jnp.eye(dx), (self.conditions, dx, dx))
            ),
            initial_std=self.initial_std * ((high - low) / 2 if bounded else np.ones_like(low)),
            cost=None,
            action_low=low,
            action_high=high,
        )

    def world(self) -> GymnasiumWorld:
        return GymnasiumWorld(self.problem(), self.make, tuple(range(self.conditions)))


def entry(name: str) -> Entry:
    """The task of an environment, by its name after "gym:"; ValueError if there is none."""
    env = name.removeprefix(GYMNASIUM)
    _spec(env)
    return Entry(name, f"Gymnasium's {env}", f"{__name__}:{GymnasiumTask.__name__}", {"env": env})


def _spec(env: str) -> EnvSpec:
    module, _, name = env.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gymnasium.spec(name)
    except (gymnasium.error.Error, ImportError) as error:
        raise ValueError(f"{GYMNASIUM}{env}: {error}") from error


def _creator(env: str) -> Any:
    point = _spec(env).entry_point
    return load_env_creator(point) if isinstance(point, str) else point


def _can_go_on(env: str) -> bool:
    """Whether the environment can be told not to end an episode."""
    return UNENDING in inspect.signature(_creator(env)).parameters


def _renders(env: str) -> bool:
    return "rgb_array" in getattr(_creator(env), "metadata", {}).get("render_modes", ())
