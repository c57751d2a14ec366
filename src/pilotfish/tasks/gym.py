"""Any environment of Gymnasium with continuous actions, as a task: its rewards are what is to be gained.

The horizon is fixed, so an environment that ends an episode for falling is told not to, where it can be told; what
becomes of others is said in worlds/environment.py. Where no formula of the reward is known MOTO needs none, and LQR-GPS
fits a quadratic function to the rewards of its rollouts.

A Python file may say, in jax.numpy and with the arguments that Problem gives them, what a policy observes of the state,
what success is, and what minus the reward is as a formula, for algorithms that take derivatives of it:

    observe(x)    success(x, u)    distance(x, u)    cost(x, u, t)    final_cost(x)
"""

import dataclasses
import importlib
import inspect
import json
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, cast

import equinox as eqx
import gymnasium
import jax.numpy as jnp
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator

from pilotfish import sources
from pilotfish.tasks import GYMNASIUM, Entry, Task, functions
from pilotfish.tasks.model import listed, moving, posed
from pilotfish.types import Gaussian, Problem
from pilotfish.worlds import quoted, starts
from pilotfish.worlds.environment import Access, GymnasiumWorld, Observed, Simulated, access, begin, quoting
from pilotfish.worlds.mujoco import angles_of, limits_of, quiet

LONGEST = 200
"""Steps of an episode where nothing else is said; the environment's own limit where that is lower."""
FRESH, FRESH_FROM = 20, 1_000_000
"""Number of resets from which what was learned is judged, and how far their seeds are from those of training."""
EXAMPLE = '{"frame_skip": 2}'
UNENDING = "terminate_when_unhealthy"
FUNCTIONS = {
    "observe": "observe(x)",
    "success": "success(x, u)",
    "distance": "distance(x, u)",
    "cost": "cost(x, u, t)",
    "final_cost": "final_cost(x)",
}
"""What a file of functions may define."""
UNBOUNDED = float(np.finfo(np.float32).max)
"""The size from which a limit of actions is none: some environments write so what has no limit."""


def _json(kwargs: str | Mapping[str, Any]) -> str:
    return kwargs if isinstance(kwargs, str) else json.dumps(kwargs, sort_keys=True)


class GymnasiumTask(Task):
    """Gain what an environment of Gymnasium rewards."""

    samples_starts: ClassVar[bool] = True
    env: str = eqx.field(static=True, default="Reacher-v5")
    """The environment's name; MODULE:NAME imports the module that registers it."""
    horizon: int = eqx.field(static=True, default=0)
    """Steps of an episode; 0 for the environment's own limit, or 200 where that is longer."""
    conditions: int = eqx.field(static=True, default=1)
    """Number of initial states: those after resets by the seeds `first_seed` and following."""
    first_seed: int = eqx.field(static=True, default=0)
    """Seed of the first reset."""
    start_std: float = 0.0
    """Standard deviation of every entry of the initial state about them; of a MuJoCo environment of all positions (rad,
    m) and velocities, within the joints' ranges and the equality constraints."""
    initial_std: float = 0.3
    """Standard deviation of the first controller's actions, in halves of the action's range, or where that has no
    limits in the action's unit."""
    kwargs: str = eqx.field(static=True, converter=_json, default="")
    """Arguments of the environment's constructor, as a JSON object; in Python a dictionary."""
    wrappers: tuple[str, ...] = eqx.field(static=True, default=())
    """Functions that wrap the environment, the innermost first, as MODULE:FUNCTION."""
    functions: str = eqx.field(static=True, converter=sources.absolute, default="")
    """A Python file that defines some of observe(x), success(x, u), distance(x, u), cost(x, u, t), final_cost(x) in
    jax.numpy, x being the state; by default all of the state is observed, nothing is success, and rewards are known by
    samples alone. The costs of an episode must sum up to minus its return, but for a tenth."""

    def __check_init__(self):
        for name, least in (("horizon", 0), ("conditions", 1), ("first_seed", 0), ("start_std", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: must be {least} or more.")
        self.arguments  # noqa: B018  raises what is wrong with them

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the environment's constructor."""
        try:
            arguments = json.loads(self.kwargs or "{}")
        except json.JSONDecodeError as error:
            raise ValueError(f"kwargs={self.kwargs!r} is no JSON ({error}): write e.g. '{EXAMPLE}'.") from error
        if not isinstance(arguments, dict):
            raise ValueError(f"kwargs={self.kwargs!r} is no JSON object: write e.g. '{EXAMPLE}'.")
        return arguments

    @property
    def files(self) -> list[str]:
        return sorted(functions.files(self.functions, self.problem())) if self.functions else []

    @property
    def steps(self) -> int:
        """Steps of an episode."""
        return self.horizon or min(_spec(self.env).max_episode_steps or LONGEST, LONGEST)

    @quiet()
    def make(self) -> gymnasium.Env:
        """A copy of the environment, which renders to arrays."""
        settings: dict[str, Any] = {"max_episode_steps": self.steps + 1, "disable_env_checker": True}
        hint = ". Arguments of its constructor are given by --task.kwargs '{...}'."
        with quoting(self.env, f"gymnasium.make({self.env!r}, ...) raised ", hint):
            if _can_go_on(self.env):
                settings[UNENDING] = False
            if _renders(self.env):
                settings["render_mode"] = "rgb_array"
            env: gymnasium.Env = gymnasium.make(self.env, **settings | self.arguments)
        for wrapper in self.wrappers:
            function = _named(wrapper)
            with quoting(f"{self.env}, wrapped by {wrapper}"):
                env = function(env)
            if not isinstance(env, gymnasium.Env):
                raise ValueError(f"wrappers: {wrapper} returned {env!r:.80}; it must return an environment.")
        space = env.action_space
        if not isinstance(space, gymnasium.spaces.Box) or not np.prod(space.shape):
            raise ValueError(f"{self.env} has the actions {space}: only continuous ones (Box) can be learned.")
        return env

    def problem(self) -> Problem:
        return self._probed()[0]

    @property
    def entries(self) -> list[str]:
        """What the entries of the state are, a line each, where it is a MuJoCo simulation's."""
        env = self.make()
        if not isinstance(access(env, 0), Simulated):
            return []
        bare: Any = env.unwrapped
        return listed("x", [*moving(bare.model), *posed(bare.model)])

    def world(self) -> GymnasiumWorld:
        problem, reads = self._probed()
        return GymnasiumWorld(problem, self.make, self.seeds, reads)

    @property
    def seeds(self) -> tuple[int, ...]:
        """With which each condition's episodes are reset."""
        return tuple(range(self.first_seed, self.first_seed + self.conditions))

    def held_out(self) -> "GymnasiumTask":
        """The same from fresh resets."""
        return dataclasses.replace(self, first_seed=self.first_seed + FRESH_FROM, conditions=FRESH)

    def _probed(self) -> tuple[Problem, Access]:
        """The problem, and how the environment's state is read."""
        env = self.make()
        reads = access(env, 0)
        if self.start_std and isinstance(reads, Observed):
            raise ValueError(f"start_std={self.start_std}: {self.env} has no state that can be set. Leave it at 0.")
        starting = [begin(env, reads, seed) for seed in self.seeds]
        if len(sizes := {len(x) for x in starting}) > 1 or 0 in sizes:
            raise ValueError(f"{self.env}: its states have {sizes} entries; all must have as many, and one or more.")
        states, space = np.array(starting), cast(gymnasium.spaces.Box, env.action_space)
        low, high = (np.asarray(bound, float).ravel() for bound in (space.low, space.high))
        low, high = np.where(low <= -UNBOUNDED, -np.inf, low), np.where(high >= UNBOUNDED, np.inf, high)
        bare: Any = env.unwrapped
        cov = np.tile(self.start_std**2 * np.eye(states.shape[1]), (self.conditions, 1, 1))
        if isinstance(reads, Simulated):
            model, varied = bare.model, np.ones(bare.model.nv, bool)
            cov, known = np.zeros_like(cov), model.nq + model.nv
            for n, x in enumerate(states):
                cov[n, :known, :known] = starts.spread(model, x[: model.nq], self.start_std, varied)
        try:
            problem = Problem(
                horizon=self.steps,
                dt=_dt(env),
                conditions=Gaussian(jnp.asarray(states), jnp.asarray(cov)),
                initial_std=self.initial_std * np.where(np.isfinite(high - low), (high - low) / 2, 1.0),
                cost=None,
                action_low=low,
                action_high=high,
                angles=angles_of(bare.model) if isinstance(reads, Simulated) else (),
                limits=limits_of(bare.model) if isinstance(reads, Simulated) else (),
            )
        except ValueError as error:  # what the environment says of itself makes no problem
            raise ValueError(f"{self.env}: {error}") from error
        return self._told(problem) if self.functions else problem, reads

    def _told(self, problem: Problem) -> Problem:
        """The problem with what the user's functions say of it."""
        defined = functions.defined(self.functions)
        said = {name: defined[name] for name in FUNCTIONS if callable(defined.get(name))}
        if not said:
            raise ValueError(f"{self.functions} defines no function {' or '.join(FUNCTIONS.values())}.")
        with functions.quoting(self.functions):
            told = dataclasses.replace(problem, **said)
            functions.check(told)
        return told


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
    except Exception as error:  # whatever the module raises
        raise ValueError(f"{GYMNASIUM}{env}: import {module} raised {quoted(error)}") from error


def _named(wrapper: str) -> Callable[..., Any]:
    """What MODULE:FUNCTION names."""
    module, _, name = wrapper.partition(":")
    try:
        found = getattr(importlib.import_module(module), name) if module and name else None
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"wrappers: {wrapper}: {error}. A module of the working directory is found with PYTHONPATH=. before the "
            "command."
        ) from error
    except Exception as error:  # whatever the module raises
        raise ValueError(f"wrappers: import {module} raised {quoted(error)}") from error
    if not callable(found):
        raise ValueError(f"wrappers: {wrapper!r} is no function: name one as MODULE:FUNCTION.")
    return found


def _creator(env: str) -> Any:
    point = _spec(env).entry_point
    return load_env_creator(point) if isinstance(point, str) else point


def _can_go_on(env: str) -> bool:
    """Whether the environment can be told not to end an episode."""
    return UNENDING in inspect.signature(_creator(env)).parameters


def _renders(env: str) -> bool:
    modes = _said(_creator(env), "render_modes")
    return isinstance(modes, Collection) and "rgb_array" in modes


def _said(env: Any, name: str) -> Any:
    """What an environment says of itself in its metadata; None if it says nothing."""
    metadata = getattr(env, "metadata", None)
    return metadata.get(name) if isinstance(metadata, Mapping) else None


def _dt(env: gymnasium.Env) -> float:
    """Seconds of a step: the environment's dt, or by its frames per second; 1 where it says nothing."""
    dt, rate = getattr(env.unwrapped, "dt", None), _said(env, "render_fps")
    for name, value in (("dt", dt), ("metadata['render_fps']", rate)):
        if isinstance(value, int | float | np.number) and value > 0 and math.isfinite(value):
            return float(value) if name == "dt" else 1.0 / float(value)
    if rate:
        raise ValueError(
            f"metadata['render_fps'] is {rate!r:.80}; give the steps of a second, above 0, or leave it out."
        )
    return 1.0
