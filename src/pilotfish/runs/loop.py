"""One iteration, and the two ways to turn it: a compiled scan and a host loop.

Iteration i of a run with root key r is a pure function of (state, i, r): its random numbers come from
`fold_in(r, i)`. So both loops, any split of them, and a resumed run give the same numbers.

A run may hold several seeds: states, keys and reports then have a leading axis, the seed.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from pilotfish.algorithms import Algorithm
from pilotfish.types import Key, Outcome, Problem, Rollouts
from pilotfish.worlds import World


class Report(NamedTuple):
    """What one iteration says: what the rollouts came to, and what the algorithm did with them."""

    outcome: Outcome
    info: Any


class Turn(NamedTuple):
    """What an observer sees after iteration `i`, for all seeds."""

    i: int
    states: Any
    rollouts: Rollouts
    report: Report


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


def root_keys(seeds: Sequence[int]) -> Array:
    """One key a seed."""
    return jax.vmap(jax.random.key)(jnp.asarray(seeds))


def initial(algorithm: Algorithm, world: World, samples: int, keys: Array) -> Any:
    """Initial states, one a seed."""
    return jax.vmap(lambda key: algorithm.init(world.problem, samples, key))(keys)


def check(algorithm: Algorithm, world: World, samples: int) -> None:
    """Raise what the first iteration would raise, without running it: shapes, types and settings."""
    if samples < 1:
        raise ValueError(f"rollouts={samples}: an iteration needs at least one rollout.")
    eqx.filter_eval_shape(_first_turn, algorithm, world, samples)


def _first_turn(algorithm: Algorithm, world: World, samples: int):
    key = jax.random.key(0)
    return iteration(algorithm, world, samples, key, 0, algorithm.init(world.problem, samples, key))


@eqx.filter_jit
def scan(
    algorithm: Algorithm, world: World, samples: int, keys: Array, first: Array | int, count: int, states: Any
) -> tuple[Any, Report]:
    """`count` iterations, from number `first` on, in one compiled program. Reports have axes (seed, iteration).

    Seeds run one after the other: on a CPU that is faster than side by side.
    """

    def one_seed(key_and_state):
        key, state = key_and_state

        def turn(state, i):
            state, _, report = iteration(algorithm, world, samples, key, i, state)
            return state, report

        return jax.lax.scan(turn, state, first + jnp.arange(count))

    return jax.lax.map(one_seed, (keys, states))


@eqx.filter_jit
def _turn(algorithm: Algorithm, world: World, samples: int, keys: Array, i: Array, states: Any):
    return jax.lax.map(
        lambda key_and_state: iteration(algorithm, world, samples, key_and_state[0], i, key_and_state[1]),
        (keys, states),
    )


def turns(
    algorithm: Algorithm, world: World, samples: int, keys: Array, first: int, last: int, states: Any
) -> Iterator[Turn]:
    """Iterations `first` to `last - 1` on the host, one at a time, for observers and checkpoints."""
    for i in range(first, last):
        states, rollouts, report = _turn(algorithm, world, samples, keys, jnp.asarray(i), states)
        yield Turn(i, states, rollouts, jax.device_get(report))


@eqx.filter_jit
def evaluate(algorithm: Algorithm, world: World, samples: int, key: Key, states: Any) -> Rollouts:
    """Rollouts of what we would deploy now; leading axis: the seed. All seeds face the same initial states."""
    return jax.lax.map(lambda state: world.rollout(algorithm.exploit(state), samples, key), states)
