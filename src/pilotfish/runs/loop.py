"""One iteration, and the two ways to turn it: a compiled scan and a host loop.

Iteration i of a run with root key r is a pure function of (state, i, r): its random numbers come from
`fold_in(r, i)`. So both loops, any split of them, and a resumed run give the same numbers.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pilotfish.algorithms import Algorithm
from pilotfish.types import Key, Outcome, Problem, Rollouts
from pilotfish.worlds import World


class Report(NamedTuple):
    """What one iteration says: what the rollouts came to, and what the algorithm did with them."""

    outcome: Outcome
    info: Any


def iteration(
    algorithm: Algorithm, world: World, samples: int, root_key: Key, i: Int[Array, ""] | int, state: Any
) -> tuple[Any, Rollouts, Report]:
    """Roll out `samples` episodes from each condition and update. A refused update leaves the state as it was."""
    world_key, update_key = jax.random.split(jax.random.fold_in(root_key, i))
    rollouts = world.rollout(algorithm.explore(state), samples, world_key)
    new, info = algorithm.update(world.problem, state, rollouts, update_key)
    state = jax.tree.map(lambda n, o: jnp.where(info.ok, n, o), new, state)
    return state, rollouts, Report(outcome(world.problem, rollouts), info)


def outcome(problem: Problem, rollouts: Rollouts) -> Outcome:
    """Cost and success of rollouts, whatever the algorithm."""
    total = rollouts.cost.sum(-1)
    count = jnp.maximum(rollouts.valid.sum(), 1)
    mean = jnp.where(rollouts.valid, total, 0.0).sum() / count
    variance = jnp.where(rollouts.valid, (total - mean) ** 2, 0.0).sum() / count
    if problem.success is None:
        success = jnp.asarray(jnp.nan)
    else:
        reached = jax.vmap(jax.vmap(problem.success))(rollouts.x, rollouts.u)
        success = (reached & rollouts.valid).mean()
    finite = jnp.isfinite(rollouts.cost).all((0, 1)) & jnp.isfinite(rollouts.x).all((0, 1, 3))
    return Outcome(
        cost=jnp.where(rollouts.valid.any(), mean, jnp.nan),
        cost_std=jnp.where(rollouts.valid.any(), jnp.sqrt(variance), jnp.nan),
        success=success,
        valid=rollouts.valid.mean(),
        broken_at=jnp.where(finite.all(), -1, jnp.argmin(finite)),
    )


def initial(algorithm: Algorithm, world: World, samples: int, root_keys: Array) -> Any:
    """Initial states, one a seed (leading axis)."""
    return jax.vmap(lambda key: algorithm.init(world.problem, samples, key))(root_keys)


@eqx.filter_jit
def scan(
    algorithm: Algorithm, world: World, samples: int, root_keys: Array, first: Any, count: int, states: Any
) -> tuple[Any, Report]:
    """`count` iterations from `first` on of all seeds (leading axis) in one compiled program.

    Reports have axes (seed, iteration). Seeds run one after the other: on a CPU that is faster than side by side.
    """

    def one_seed(key_and_state):
        key, state = key_and_state

        def turn(state, i):
            state, _, report = iteration(algorithm, world, samples, key, i, state)
            return state, report

        return jax.lax.scan(turn, state, first + jnp.arange(count))

    return jax.lax.map(one_seed, (root_keys, states))
