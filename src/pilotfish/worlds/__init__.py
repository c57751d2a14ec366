"""WHERE a policy acts: a world turns a policy into rollouts."""

import traceback
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx

from pilotfish.policies import Policy
from pilotfish.types import Key, Problem, Rollouts
from pilotfish.worlds.plant import Plant

Finished = Callable[[int, int, Rollouts], None]
"""`finished(n, m, rollout)`: told of episode m of condition n, one rollout without leading axes, when it has ended."""


class RolloutsFailed(RuntimeError):
    """All rollouts of an iteration broke off; the message says by what."""


def quoted(error: Exception) -> str:
    """What other people's code raised, in one line: its kind, and what it says, or where it says nothing its place."""
    said = " ".join(str(error).split())
    if not said and (frames := traceback.extract_tb(error.__traceback__)):
        said = f"{frames[-1].line} (line {frames[-1].lineno} of {frames[-1].filename})"
    return f"{type(error).__name__}: {said:.500}".rstrip(": ")


class World(eqx.Module):
    """Where a policy acts.

    Equations have a `JaxWorld`, MuJoCo models a `MujocoWorld`, robots a `PlantWorld`; a task's `world()` makes its own.

    Example:

    >>> import jax
    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> world = LinearQuadratic().world()
    >>> isinstance(world, pf.World), world.traceable
    (True, True)
    >>> rollouts = world.rollout(pf.LinearGaussianPolicy(world.problem.first_controller), 3, jax.random.key(0))
    >>> rollouts.u.shape  # (condition, rollout, step, action)
    (1, 3, 20, 2)
    """

    problem: eqx.AbstractVar[Problem]
    """What is to be done there: the conditions from which rollouts begin, costs, bounds."""

    @property
    @abstractmethod
    def traceable(self) -> bool:
        """Whether rollouts are JAX computations, which can be compiled together with the algorithm."""

    def beyond(self) -> Mapping[str, Any]:
        """Arrays, by name, that tell this world from others of the same problem."""
        return {}

    @abstractmethod
    def plant(self, copies: int) -> Plant:
        """What is acted on here, to be stepped: so many copies of it at once."""

    @abstractmethod
    def rollout(self, policy: Policy, episodes: int, key: Key) -> Rollouts:
        """`episodes` rollouts from each condition.

        RolloutsFailed if what is acted on raised an error in all of them.
        """
