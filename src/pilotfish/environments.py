"""Every task as an environment of Gymnasium, for algorithms that are not ours.

    import gymnasium, pilotfish
    env = gymnasium.make("pilotfish/peg-2d-v0")

    observation    what a policy may see: problem.observe(x), or the state x
    action         what is asked for, u; the plant executes it clipped to its limits
    reward         -cost(x, u, t) of the action asked for, as in our worlds; the last one also has -final_cost(x)
    truncated      after the problem's horizon; info["success"] (for stable-baselines3 also "is_success") then says
                   whether the goal was reached, where the task defines one
    terminated     where the simulation diverges; info["diverged"] is True

Where the world hides what the next state depends on, as the velocity of a ball, an episode cannot go on from a state
that is set, nor from a pickle: then it is over.

An episode that diverges ends with its last finite observation. To diverge must save nothing, so its last reward is
minus the dearest cost so far (0 where all were negative), times the number of steps that are left.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import jax
import numpy as np

from pilotfish import tasks
from pilotfish.algebra import gaussian
from pilotfish.tasks import Task
from pilotfish.tasks.gym import GymnasiumTask

PIXELS = 480  # width of a picture
FORKED = (
    "this process was forked from one in which JAX has threads, where it would hang. Start a new one instead: "
    'vector_kwargs={"context": "spawn"} of gymnasium.make_vec, or context="spawn" of AsyncVectorEnv; or vectorize '
    'with "sync".'
)
_EPISODE = ("_states", "_actions", "_dearest", "_ended", "_n", "_np_random", "_np_random_seed", "spec")
NO_EPISODE = "no episode is under way (the last one took {steps} steps): call reset() first."


class TaskEnvironment(gymnasium.Env[np.ndarray, np.ndarray]):
    """A task as an environment. A copy, or what comes of a pickle, goes on in the same episode.

    ValueError for a name or a condition that is none. Shapes: observation (do,), action (du,), as in `problem`.

    Example:

    >>> import gymnasium
    >>> import pilotfish
    >>> env = gymnasium.make("pilotfish/double-link-v0")
    >>> o, info = env.reset(seed=0)
    >>> o, reward, terminated, truncated, info = env.step(env.action_space.sample())
    >>> o.shape, bool(reward < 0), truncated
    ((4,), True, False)
    """

    process: ClassVar[int | None] = None
    """The process in which the first one was made."""
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012  declared so by Gymnasium

    def __init__(
        self,
        task: Task | str,
        condition: int | None = None,
        time_in_observation: bool = False,
        render_mode: str | None = None,
    ):
        """`task`: a task, or the name of a registered one.

        `condition`: the initial state's condition in all episodes; None: drawn for each.
        `time_in_observation`: the last entry of an observation is the fraction of the episode that has passed.
        """
        if TaskEnvironment.process not in (None, os.getpid()):
            raise RuntimeError(FORKED)
        TaskEnvironment.process = os.getpid()
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode={render_mode!r}: choose 'rgb_array', or None.")
        self.task = _task(task)
        self.problem = problem = self.task.problem()
        count = len(problem.conditions.mean)
        if condition is not None and not 0 <= condition < count:
            raise ValueError(f"condition={condition}: the conditions of this task are numbered 0 to {count - 1}.")
        self.condition, self.time_in_observation, self.render_mode = condition, time_in_observation, render_mode
        self.dt = problem.dt
        self.metadata = {**type(self).metadata, "render_fps": max(1, round(1 / problem.dt))}
        world = self.task.world()
        self._plant, self._hides = world.plant(1), world.problem.dynamics is None
        assert problem.cost is not None
        self._cost, self._final_cost = _compiled(problem.cost), problem.final_cost and _compiled(problem.final_cost)
        self._observe = _compiled(problem.observe)
        self._reaches = problem.success and _compiled(problem.success)
        self._draw = jax.jit(
            lambda n, seed: gaussian.draw(jax.tree.map(lambda leaf: leaf[n], problem.conditions), jax.random.key(seed))
        )
        self._states: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._dearest, self._ended = 0.0, True
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (problem.do + time_in_observation,), np.float64)
        self._low, self._high = np.asarray(problem.action_low, float), np.asarray(problem.action_high, float)
        self.action_space = gymnasium.spaces.Box(self._low, self._high, (problem.du,), np.float64)

    def __getstate__(self) -> dict[str, Any]:
        made_of = (self.task, self.condition, self.time_in_observation, self.render_mode)
        kept = {name: value for name, value in vars(self).items() if name in _EPISODE}
        return {"made of": made_of, "episode": kept}

    def __setstate__(self, stored: dict[str, Any]) -> None:
        TaskEnvironment.__init__(self, *stored["made of"])
        vars(self).update(stored["episode"])
        if self._hides:
            self._ended = True
        elif self._states:
            self._placed(self._states[-1])

    @property
    def state(self) -> np.ndarray | None:
        """The state x (dx,), None before the first episode. When it is set, the episode goes on from there."""
        return self._states[-1].copy() if self._states else None

    @state.setter
    def state(self, x: np.ndarray) -> None:
        x = np.array(x, float)
        if not self._states:
            raise gymnasium.error.ResetNeeded(NO_EPISODE.format(steps=0))
        if self._hides:
            raise ValueError("state: in this task more than the state decides what comes next. Begin by reset().")
        if x.shape != (self.problem.dx,) or not np.isfinite(x).all():
            raise ValueError(f"state={x}: give {self.problem.dx} finite numbers.")
        self._states[-1] = self._placed(x)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; info["condition"] is its initial state's condition."""
        super().reset(seed=seed)
        count = len(self.problem.conditions.mean)
        self._n = int(self.np_random.integers(count)) if self.condition is None else self.condition
        start = self._draw(self._n, self.np_random.integers(2**32, dtype=np.uint32))
        start = self._plant.possible(np.array(start, float)[None], [self._n])[0]
        self._states, self._actions = [self._placed(start)], []
        self._dearest, self._ended = 0.0, False
        return self._observation(), {"condition": self._n}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self._ended:
            raise gymnasium.error.ResetNeeded(NO_EPISODE.format(steps=len(self._actions)))
        u, t, x = np.array(action, float), len(self._actions), self._states[-1]
        if u.shape != (self.problem.du,) or not np.isfinite(u).all():
            raise ValueError(f"action={action}: give {self.problem.du} finite numbers.")
        cost = float(self._cost(x, u, t))
        self._randoms[0] = self.np_random  # which may be set while an episode is under way
        after = self._plant.step(np.clip(u, self._low, self._high)[None], t, np.ones(1, bool)).x[0]
        self._ended = t + 1 == self.problem.horizon
        final = self._final(after) if self._ended and np.isfinite(after).all() else 0.0
        cost += final
        if np.isfinite(cost):
            self._dearest = max(self._dearest, cost)
        if not (np.isfinite(cost) and np.isfinite(after).all()):
            self._ended = True
            left = self.problem.horizon - t
            return self._observation(), -left * self._dearest, True, False, {"diverged": True} | self._success(None)
        self._states.append(after)
        self._actions.append(u)
        info = self._success(final) if self._ended else {}
        return self._observation(), -cost, False, self._ended, info

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A picture of the state, (height, width, 3)."""
        if self.render_mode is None:
            gymnasium.logger.warn("render() without a render_mode shows nothing: make it with render_mode='rgb_array'.")
            return None
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        look = self._look
        figure = Figure(figsize=(PIXELS / 100, 2 * round(PIXELS * look.ratio / 2) / 100), dpi=100)
        canvas = FigureCanvasAgg(figure)
        axis = figure.add_axes((0, 0, 1, 1))
        look.paint(axis, self._states[-1], self._n, 1.0)
        axis.set_axis_off()
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    @functools.cached_property
    def _look(self):
        from pilotfish.view.scene import scene

        return scene(self.task)

    def _placed(self, x: np.ndarray) -> np.ndarray:
        """The state in which the plant is when it was asked to be in x."""
        self._randoms = [self.np_random]
        return self._plant.place(x[None], [self._n], self._randoms)[0]

    def _observation(self) -> np.ndarray:
        o = np.array(self._observe(self._states[-1]), float)
        return np.append(o, len(self._actions) / self.problem.horizon) if self.time_in_observation else o

    def _final(self, x: np.ndarray) -> float:
        """What the end costs in the last state x."""
        if self._final_cost is None:
            return float(self._plant.finish(np.ones(1, bool))[0])
        return float(self._final_cost(x))

    def _success(self, final: float | None) -> dict[str, bool]:
        """Whether the episode that ended at this final cost, None if it diverged, reached the goal."""
        if self._reaches is None:
            return {}
        brought = () if self._final_cost is not None else (final,)
        success = final is not None and bool(self._reaches(np.array(self._states), np.array(self._actions), *brought))
        return {"success": success, "is_success": success}


def _compiled(f: Callable) -> Callable:
    """`f`, compiled: as a function of its own, for jax would hash a method's task, which may have arrays."""

    def call(*arguments):
        return f(*arguments)

    return jax.jit(call)


def _task(task: Task | str) -> Task:
    if isinstance(task, GymnasiumTask):
        raise ValueError(f"task: {task.env} is an environment of Gymnasium already: gymnasium.make({task.env!r}).")
    if isinstance(task, Task):
        return task
    if task not in (registry := tasks.registry()):
        raise ValueError(f"task={task!r}: give a Task, or one of the names {', '.join(registry)}.")
    return registry[task].make()
