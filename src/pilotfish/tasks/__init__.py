"""WHAT is to be done: one file per task = problem + simulator + how to draw it.

A task's fields are its constants; a registered name is a task with these constants filled in.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import numpy as np

from pilotfish.types import Problem


class Stroke(NamedTuple):
    """One line of a drawing: points (n, 2) in metres, width in points, and what it stands for."""

    points: np.ndarray
    width: float
    role: str
    """"body", "joint", "goal" or "ground"."""


class Task(eqx.Module):
    """What is to be done."""

    @abstractmethod
    def problem(self) -> Problem:
        """The problem, ready to be solved."""

    @abstractmethod
    def draw(self, x: np.ndarray) -> list[Stroke]:
        """The scene in the state x (dx,)."""

    @property
    @abstractmethod
    def extent(self) -> tuple[float, float, float, float]:
        """What a picture must show: left, right, bottom, top, in metres."""


class Entry(NamedTuple):
    """A task's name in the registry, what it is, and how to make it."""

    name: str
    summary: str
    make: Callable[[], Task]


def registry() -> dict[str, Entry]:
    """All tasks by name."""
    from pilotfish.tasks.cartpole import CartPole
    from pilotfish.tasks.lq import LinearQuadratic
    from pilotfish.tasks.multi_link import MultiLink

    entries = (
        Entry("cartpole", "swing a pole up from a cart that is pushed", CartPole),
        Entry("double-link", "swing up two links, both motors at most 10 N m (MOTO, Fig. 1c)", MultiLink),
        Entry("double-link-25", "the same with 25 N m (MOTO, Fig. 1b)", lambda: MultiLink(torque=25.0)),
        Entry(
            "quad-link",
            "swing up four links with soft joint limits, 25 N m (MOTO, Fig. 2b)",
            lambda: MultiLink(links=4, torque=25.0, joint_limit=2 / 3 * np.pi, initial_std=5.0),
        ),
        Entry(
            "quad-link-low",
            "the same with 15 N m (MOTO, Fig. 2a)",
            lambda: MultiLink(links=4, torque=15.0, joint_limit=2 / 3 * np.pi, initial_std=5.0),
        ),
        Entry(
            "quad-link-free",
            "four links without joint limits, 25 N m (MOTO, Fig. 5)",
            lambda: MultiLink(links=4, torque=25.0, initial_std=5.0),
        ),
        Entry(
            "lq",
            "a point mass with linear dynamics and quadratic cost: its optimum is known",
            LinearQuadratic,
        ),
    )
    return {entry.name: entry for entry in entries}
