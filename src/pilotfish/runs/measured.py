"""Every policy is measured by noise-free episodes, beside the rollouts, and the best measured is deployed.

Rollouts tell what a policy costs with the noise of exploration, and of a global policy that local controllers teach
they tell nothing. Where the budget of episodes allows a few more are spent on the policy itself. All iterations measure
from the same draws, so that chance decides no comparison of theirs. What the last update made is never measured, as
it is never rolled out.

`Measured` is the algorithm that it measures in all else: the loop knows no difference.
"""

import dataclasses
from typing import Annotated, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algorithms import Algorithm
from pilotfish.policies import Policy
from pilotfish.types import Key, Problem, Rollouts, Shown
from pilotfish.worlds import World

KEY = 1_000_033
"""Measured episodes draw from this key: neither training nor the last judgement does."""


class State(NamedTuple):
    """What the next iteration needs."""

    learner: Any
    """The algorithm's own state."""
    best: Policy
    """Of the policies measured so far, for each condition if it has its own, that which succeeded most often, and of
    these that which cost least."""
    success: Float[Array, "N"]
    """Fraction of its episodes from each condition that succeed; 0 where the task defines no success."""
    cost: Float[Array, "N"]
    """Mean cost of its episodes from each condition; infinite before the first."""


class Info(NamedTuple):
    """What an iteration reports."""

    algorithm: Any
    """The algorithm's own report."""
    noise_free_cost: Annotated[
        Float[Array, ""], Shown("cost of a noise-free episode", scale="log", column="noise-free")
    ]
    """Mean cost of an episode without noise; infinite if one broke off."""
    noise_free_success: Annotated[
        Float[Array, ""], Shown("noise-free episodes that succeed", "%", column="noise-free success", form="{:.0%}")
    ]
    """Fraction of these that reach the goal; nan where the task defines none."""
    noise_free_distance: Annotated[Float[Array, ""], Shown("distance at the end of a noise-free episode")]
    """Mean distance from the goal at their ends, in the task's unit; nan where it defines none, and infinite if one
    broke off."""

    @property
    def ok(self) -> Any:
        """The algorithm's."""
        return self.algorithm.ok


class Measured(Algorithm):
    """An algorithm, the world in which its policies are measured, and by how many episodes from each condition."""

    algorithm: Algorithm
    world: World
    episodes: int = eqx.field(static=True)

    def traceable(self, problem: Problem) -> bool:
        return self.algorithm.traceable(problem) and self.world.traceable

    def caution(self, problem: Problem, episodes: int) -> str:
        return self.algorithm.caution(problem, episodes)

    def init(self, problem: Problem, episodes: int, key: Key) -> State:
        learner = self.algorithm.init(problem, episodes, key)
        unknown = jnp.full(len(problem.conditions.mean), jnp.inf, float)
        return State(learner, self.algorithm.latest(learner), jnp.zeros_like(unknown), unknown)

    def explore(self, state: State) -> Policy:
        return self.algorithm.explore(state.learner)

    def exploit(self, state: State) -> Policy:
        """The best policy that was measured."""
        return state.best

    def local(self, state: State) -> Policy | None:
        """The algorithm's."""
        return self.algorithm.local(state.learner)

    def update(self, problem: Problem, state: State, rollouts: Rollouts, key: Key) -> tuple[State, Info]:
        compiled = self.algorithm.traceable(problem) and not self.world.traceable
        update = eqx.filter_jit(_update) if compiled else _update
        learner, info = update(self.algorithm, problem, state.learner, rollouts, key)
        policy = self.algorithm.latest(state.learner)
        found = self.world.rollout(policy, self.episodes, jax.random.key(KEY))
        cost = jnp.where(found.valid.all(-1), found.cost.sum(-1).mean(-1), jnp.inf)
        succeeded = jnp.zeros_like(cost)
        if problem.success is not None:
            succeeded = (jax.vmap(jax.vmap(problem.reaches))(found.x, found.u, found.cost) & found.valid).mean(-1)
        success = jnp.asarray(jnp.nan) if problem.success is None else succeeded.mean()
        distance = jnp.asarray(jnp.nan)
        if problem.distance is not None:
            ended = jax.vmap(jax.vmap(problem.distance))(found.x, found.u)
            distance = jnp.where(found.valid, ended, jnp.inf).mean()
        state = State(learner, *_better(policy, succeeded, cost, state))
        return state, Info(info, cost.mean(), success, distance)

    def refusal(self, problem: Problem, state: State, rollouts: Rollouts, ok: Bool[Array, "N"]) -> str:
        return self.algorithm.refusal(problem, state.learner, rollouts, ok)


def measuring(algorithm: Algorithm, world: World, episodes: int) -> Algorithm:
    """The algorithm with its policies measured by so many episodes from each condition; with 0 as it is."""
    return Measured(algorithm, world, episodes) if episodes else algorithm


def bare(algorithm: Algorithm) -> Algorithm:
    """The algorithm that is measured."""
    return algorithm.algorithm if isinstance(algorithm, Measured) else algorithm


def with_bare(algorithm: Algorithm, other: Algorithm) -> Algorithm:
    """The algorithm with another in place of the one that is measured."""
    return dataclasses.replace(algorithm, algorithm=other) if isinstance(algorithm, Measured) else other


def _update(algorithm: Algorithm, problem: Problem, state: Any, rollouts: Rollouts, key: Key) -> tuple[Any, Any]:
    return algorithm.update(problem, state, rollouts, key)


def _better(
    policy: Policy, success: Float[Array, "N"], cost: Float[Array, "N"], state: State
) -> tuple[Policy, Float[Array, "N"], Float[Array, "N"]]:
    """The better of a policy and the best before it, with its success and cost: success counts first, for a task's cost
    need not agree with it.
    """
    if not policy.per_condition:
        success, cost = (jnp.full_like(found, found.mean()) for found in (success, cost))
    better = (success > state.success) | ((success == state.success) & (cost < state.cost))

    def chosen(new: Any, old: Any) -> Any:
        if not eqx.is_array(new):
            return new
        which = better.reshape(-1, *(1,) * (new.ndim - 1)) if policy.per_condition else better[0]
        return jnp.where(which, new, old)

    return jax.tree.map(chosen, (policy, success, cost), (state.best, state.success, state.cost))
