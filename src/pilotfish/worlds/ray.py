"""A world whose rollouts are made on many cores and machines, through Ray.

Every episode is made by itself, by one of the workers, from what it begins with: where and among how many changes
nothing, so rollouts are the same for any number of workers, to the bit on processors of one kind. Those of the world
itself, whose episodes advance together, differ from them by rounding.

A worker that dies is begun anew, by Ray, and its episode with it.
"""

import os
from typing import Any

import equinox as eqx
import numpy as np

from pilotfish import nodes
from pilotfish.policies import Policy, of_conditions
from pilotfish.types import Key, Problem, Rollouts
from pilotfish.worlds import World, quoted
from pilotfish.worlds.host import Begun, HostWorld, all_broke_off, gathered
from pilotfish.worlds.plant import Plant


class RayWorld(World):
    """Rolls out in another world, whose steps are dear, on so many workers of one core each.

    They are begun with the first rollout, on the cluster to which the process is connected (`ray.init`), or else on
    that of RAY_ADDRESS, or of this machine; and end with the process, or with `close`. ValueError for a world whose
    rollouts cannot be made elsewhere, or where Ray is not installed.

    Example:

    >>> import jax
    >>> import pilotfish as pf
    >>> from pilotfish import tasks
    >>> from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
    >>> world = pf.RayWorld(tasks.find("peg-2d").make().world(), workers=1)
    >>> policy = LinearGaussianPolicy(world.problem.first_controller)
    >>> world.rollout(policy, 1, jax.random.key(0)).x.shape  # condition, rollout, step, entry
    (1, 1, 801, 6)
    >>> world.close()
    """

    world: HostWorld
    """Where rollouts are made: in a simulation or an environment, of which every worker has a copy."""
    workers: int = eqx.field(static=True)
    """How many there are."""
    problem: Problem
    """What is to be done there: that of the world."""
    pool: list[Any] = eqx.field(static=True, repr=False)
    """The world as they were given it, and those that have begun."""

    def __init__(self, world: World, workers: int):
        """ValueError if the world's rollouts cannot be made elsewhere."""
        if not isinstance(world, HostWorld):
            raise ValueError(
                f"world: rollouts of a {type(world).__name__} are compiled together with the algorithm. Give a "
                "simulation's or an environment's, or let seeds learn on many machines: pilotfish train --ray."
            )
        if world.one_by_one:
            raise ValueError(f"world: of a {type(world).__name__} there is one, and so its episodes cannot be apart.")
        if workers < 1:
            raise ValueError(f"workers={workers}: must be 1 or more.")
        nodes.check_installed()
        self.world, self.workers, self.problem, self.pool = world, workers, world.problem, []

    @property
    def traceable(self) -> bool:
        return False

    def beyond(self):
        return self.world.beyond()

    def plant(self, copies: int) -> Plant:
        return self.world.plant(copies)

    def rollout(self, policy: Policy, episodes: int, key: Key) -> Rollouts:
        import ray
        from ray.util import ActorPool

        begun = self.world.begun(episodes, key)
        self._begin()
        N, M = begun.start.shape[:2]
        known = [ray.put(of_conditions(policy, slice(n, n + 1))) for n in range(N)]
        alone = [(known[n], begun.alone(n, m)) for n, m in np.ndindex(N, M)]
        made = ActorPool(self.pool[1:]).map(lambda actor, one: actor.driven.remote(*one), alone)
        rows, troubles = zip(*made, strict=True)
        if all(troubles):
            raise all_broke_off(len(rows), troubles[-1])
        return gathered(rows, begun)

    def close(self) -> None:
        """End the workers."""
        import ray

        for worker in self.pool[1:]:
            ray.kill(worker)
        self.pool.clear()

    def _begin(self) -> None:
        """Have all workers; those of a connection that has ended are none."""
        import ray

        if not ray.is_initialized():
            self.pool.clear()
            nodes.connect(os.environ.get("RAY_ADDRESS", "local"))
        if not self.pool:
            actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(_Worker)
            known = ray.put(self.world)  # kept, for a worker may be begun anew
            self.pool.extend([known, *(actor.remote(known) for _ in range(self.workers))])


class _Worker:
    """On a worker: a copy of the world."""

    def __init__(self, world: HostWorld):
        self.world = world

    def driven(self, policy: Policy, begun: Begun) -> tuple[Rollouts, str]:
        """One episode, and by what it broke off."""
        rollouts, trouble = self.world.driven(policy, begun)
        return rollouts, "" if trouble is None else quoted(trouble)
