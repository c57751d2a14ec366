"""What can be placed and stepped: equations, a simulation, an environment, a robot.

A plant holds one or several copies of a system, which advance together: a row each. Nothing else steps a system:
rollouts on the host, Gymnasium environments of our tasks and robots all go through here.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from pilotfish.types import Equations, Problem


class Moved(NamedTuple):
    """What one step of a plant led to; nan in the rows that were not moved or broke off."""

    x: Float[np.ndarray, "n dx"]
    """The next states."""
    cost: Float[np.ndarray, "n"] | None = None
    """The costs of the step, where the plant says them; None where the problem does."""
    ended: Bool[np.ndarray, "n"] | None = None
    """Where an episode is over: the state stays from here on, at no cost. None if nowhere."""
    trouble: Exception | None = None
    """What one of the rows broke off by, if it raised anything."""


class Plant(ABC):
    """What is acted on.

    Derive from it what one robot or one simulator does. Where that breaks off, `Moved` has nan and the error: the
    episode ends there, and training goes on.

    Example:

    >>> import numpy as np
    >>> import pilotfish as pf
    >>> from pilotfish.worlds.plant import Moved
    >>> class Cart(pf.Plant):  # of states [position (m), velocity (m/s)] in one row
    ...     def place(self, x, conditions, randoms):
    ...         self.x = np.array(x)
    ...         return self.x
    ...     def step(self, u, t, moving):
    ...         self.x = self.x + 0.1 * np.column_stack([self.x[:, 1], u[:, 0]])
    ...         return Moved(self.x)
    >>> cart = Cart()
    >>> x = cart.place(np.array([[0.0, 1.0]]), [0], [np.random.default_rng(0)])
    >>> print(cart.step(np.array([[2.0]]), 0, np.array([True])).x)
    [[0.1 1.2]]
    """

    def possible(self, x: Float[np.ndarray, "n dx"], conditions: Sequence[int]) -> Float[np.ndarray, "n dx"]:
        """The states next to x, as they were drawn from the conditions, in which an episode can start: within the
        ranges of joints, say. All of them, unless the plant knows better.
        """
        return x

    @abstractmethod
    def place(
        self, x: Float[np.ndarray, "n dx"], conditions: Sequence[int], randoms: Sequence[np.random.Generator]
    ) -> Float[np.ndarray, "n dx"]:
        """Begin episodes in the states x, each of its condition and with its own random numbers. What the states then
        are: sensors are read anew, and a robot comes only near. nan where a state cannot be had.
        """

    @abstractmethod
    def step(self, u: Float[np.ndarray, "n du"], t: int, moving: Bool[np.ndarray, "n"]) -> Moved:
        """Carry out step t of an episode in the rows that are `moving`, with admissible actions u."""

    def finish(self, whole: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Carry on after the last step, in the rows that are `whole`, until it is known what the end costs; that cost.
        Asked for only where the problem has no formula of the final cost.
        """
        raise ValueError(f"final_cost=None: {type(self).__name__} brings no final cost. Give it a method finish.")


class EquationsPlant(Plant):
    """A problem's own equations of motion, one step at a time."""

    def __init__(self, problem: Problem, copies: int):
        def step(x: Float[Array, "n dx"], u: Float[Array, "n du"], noise: Float[Array, "n dx"]):
            assert isinstance(problem.dynamics, Equations)
            return jax.vmap(problem.dynamics)(x, u) + noise

        self._step = jax.jit(step)
        self._noise_std = np.asarray(problem.noise_std)

    def place(self, x, conditions, randoms):
        self._x, self._randoms = np.array(x, float), randoms
        return self._x.copy()

    def step(self, u, t, moving):
        noise = np.array([self._noise_std * random.normal(size=self._noise_std.size) for random in self._randoms])
        self._x = np.where(moving[:, None], np.asarray(self._step(self._x, u, noise)), np.nan)
        return Moved(self._x.copy())
