"""WHAT is to be done: one file per task = problem + simulator + how to draw it.

A task's fields are its constants; a registered name is a task with these constants filled in.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import equinox as eqx
import numpy as np

from pilotfish.registry import Entry, named, of_file, tasks
from pilotfish.types import Problem
from pilotfish.worlds import World
from pilotfish.worlds.jax import JaxWorld

GYMNASIUM = "gym:"
"""What the name of a task begins with that is an environment of Gymnasium."""
MODELS = (".xml", ".mjcf", ".urdf", ".mjb")
"""What the name of a task ends with that is a MuJoCo model's file, in capitals or not."""


class Stroke(NamedTuple):
    """One line of a drawing: points (n, 2) in metres, width in points, and what it stands for."""

    points: np.ndarray
    width: float
    role: str
    """"body", "joint", "goal" or "ground"."""


class Task(eqx.Module):
    """What is to be done. Its fields are what a user may change. `DrawnTask` brings a world of equations, and is drawn;
    `check_task` of `pilotfish.testing` checks one of your own.

    Example:

    >>> import jax.numpy as jnp
    >>> import pilotfish as pf
    >>> class Cart(pf.Task):
    ...     horizon: int = 50
    ...     def problem(self):
    ...         start = pf.Gaussian(jnp.array([[1.0, 0.0]]), jnp.zeros((1, 2, 2)))  # position (m), velocity (m/s)
    ...         move = lambda x, u: x + 0.1 * jnp.append(x[1], u)
    ...         return pf.Problem(self.horizon, 0.1, start, [1.0], cost=lambda x, u, t: x @ x, dynamics=move)
    ...     def world(self):
    ...         return pf.JaxWorld(self.problem())
    >>> Cart(horizon=20).world().problem.horizon
    20
    """

    samples_starts: ClassVar[bool] = False
    """Whether its conditions are but some of its starts: what is learned is then judged from others as well, those of
    its method `held_out`."""

    @property
    def files(self) -> Sequence[str]:
        """The user's files that the task is made of: a run keeps their SHA-256."""
        return ()

    @abstractmethod
    def problem(self) -> Problem:
        """The problem, ready to be solved."""

    @abstractmethod
    def world(self) -> World:
        """Where the problem is: the world that simulates it."""


class DrawnTask(Task):
    """What is to be done, by its own equations; a picture is a few strokes."""

    def world(self) -> World:
        return JaxWorld(self.problem())

    @abstractmethod
    def draw(self, x: np.ndarray) -> list[Stroke]:
        """The scene in the state x (dx,)."""

    @property
    @abstractmethod
    def extent(self) -> tuple[float, float, float, float]:
        """What a picture must show: left, right, bottom, top, in metres."""


def registry() -> dict[str, Entry]:
    """All tasks by name: the lines are in `pilotfish.registry`."""
    return tasks()


def known(name: str) -> bool:
    """Whether a name is a registered task's, an environment's, a model's or that of a class in a file."""
    return name in registry() or name.startswith(GYMNASIUM) or name.lower().endswith(MODELS) or bool(of_file(name))


def find(name: str) -> Entry:
    """The registered task of that name, an environment of Gymnasium as gym:NAME, a MuJoCo model by its file, or a class
    of the user's as FILE.py:CLASS.

    ValueError, with the nearest names, if there is none.

    Example:

    >>> from pilotfish import tasks
    >>> task = tasks.find("double-link-25").make()
    >>> task.torque, task.problem().du
    (25.0, 2)
    """
    if name in (entries := registry()):
        return entries[name]
    if name.startswith(GYMNASIUM):
        from pilotfish.tasks import gym

        return gym.entry(name)
    if name.lower().endswith(MODELS):
        from pilotfish.tasks import model

        return model.entry(name)
    if (found := of_file(name)) is not None:
        if not (isinstance(kind := found.load(), type) and issubclass(kind, Task)):
            raise ValueError(f"{name} is no task: derive it from pilotfish.Task, or from pilotfish.tasks.DrawnTask.")
        return found
    return named(entries, name, "task")
