"""WHAT is to be done: one file per task = problem + simulator + how to draw it.

A task's fields are its constants; a registered name is a task with these constants filled in.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import numpy as np

from pilotfish.types import Problem
from pilotfish.worlds import World
from pilotfish.worlds.jax import JaxWorld


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
    from pilotfish.tasks.obstacles import Obstacles
    from pilotfish.tasks.octopus import Octopus
    from pilotfish.tasks.peg import FOUR, Peg
    from pilotfish.tasks.peg_planar import PegPlanar
    from pilotfish.tasks.peg_spatial import PegSpatial
    from pilotfish.tasks.swimmer import Swimmer
    from pilotfish.tasks.walker import Walker

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
        Entry("obstacles", "steer a slow point mass between walls, from five starts (MDGPS)", Obstacles),
        Entry("octopus", "reach for a point with an arm of six chambers and 18 muscles (GPS'14)", Octopus),
        Entry(
            "octopus-hard", "the same with a point nearer than the arm can shorten", lambda: Octopus(target=(2.0, 3.0))
        ),
        Entry("peg", "insert a peg by an arm of seven joints, hole in nine places (MDGPS)", Peg),
        Entry(
            "peg-blind",
            "the same, hole in four places that the policy is not told (MDGPS)",
            lambda: Peg(offsets=FOUR, blind=True),
        ),
        Entry("peg-2d", "insert a peg that hangs from an arm in the plane into a slot (GPS'14)", PegPlanar),
        Entry("peg-3d", "insert a peg by an arm in space into a square hole (GPS'14)", PegSpatial),
        Entry("swimmer", "swim at 2 m/s with three links (GPS'14)", Swimmer),
        Entry(
            "swimmer-cgps",
            "the same at 1 m/s (CGPS'14)",
            lambda: Swimmer(velocity=1.0, action_weight=1e-4, horizon=200),
        ),
        Entry("walker", "walk at 2.1 m/s on two legs, in a plane (GPS'14)", Walker),
        Entry("walker-cgps", "the same, its height ten times as dear (CGPS'14)", lambda: Walker(height_weight=10.0)),
        Entry(
            "walker-push",
            "the same, pushed back with 100 N for .1 s every 1.5 s (CGPS'14)",
            lambda: Walker(height_weight=10.0, push=-100.0),
        ),
        Entry(
            "walker-rough",
            "the same on ground with slopes of up to 5 degrees (CGPS'14)",
            lambda: Walker(height_weight=10.0, slope=5.0),
        ),
    )
    return {entry.name: entry for entry in entries}


def find(name):
    from pilotfish.experiments.setups import task_entry
    return task_entry(name)
