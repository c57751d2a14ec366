"""WHERE a policy acts: a world turns a policy into rollouts."""

from abc import abstractmethod

import equinox as eqx

from pilotfish.policies import Policy
from pilotfish.types import Key, Problem, Rollouts


class RolloutsFailed(RuntimeError):
    """All rollouts of an iteration broke off; the message says by what."""


class World(eqx.Module):
    """Where a policy acts."""

    problem: eqx.AbstractVar[Problem]

    @property
    @abstractmethod
    def traceable(self) -> bool:
        """Whether rollouts are JAX computations, which can be compiled together with the algorithm."""

    @abstractmethod
    def rollout(self, policy: Policy, samples: int, key: Key) -> Rollouts:
        """`samples` rollouts from each condition, of a policy whose leading axis is the condition (N).

        RolloutsFailed if what is acted on raised an error in all of them.
        """
