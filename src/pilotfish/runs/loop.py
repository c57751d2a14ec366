"""One iteration, and the two ways to turn it: a compiled scan and a host loop.

Worlds whose rollouts are not JAX computations have the host loop alone: there what precedes and what follows the
rollouts is compiled.

Iteration i of a run with root key r is a pure function of (state, i, r): its random numbers come from
`fold_in(r, i)`. So both loops, any split of them, and a resumed run give the same numbers.

A run may hold several seeds: states, keys and reports then have a leading axis, the seed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from pilotfish.algorithms import Algorithm
from pilotfish.policies import Policy
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
    return _iteration(_explore, _learn, algorithm, world, samples, root_key, i, state)


def _iteration(
    explore: Callable, learn: Callable, algorithm: Algorithm, world: World, samples: int, root_key: Key, i, state: Any
) -> tuple[Any, Rollouts, Report]:
    """`iteration` with `_explore` and `_learn` as they are or compiled."""
    policy, world_key, update_key = explore(algorithm, root_key, i, state)
    rollouts = world.rollout(policy, samples, world_key)
    state, report = learn(algorithm, world.problem, state, rollouts, update_key)
    return state, rollouts, report


def _explore(algorithm: Algorithm, root_key: Key, i: Int[Array, ""] | int, state: Any) -> tuple[Policy, Key, Key]:
    world_key, update_key = jax.random.split(jax.random.fold_in(root_key, i))
    return algorithm.explore(state), world_key, update_key


def _learn(algorithm: Algorithm, problem: Problem, state: Any, rollouts: Rollouts, key: Key) -> tuple[Any, Report]:
    new, info = algorithm.update(problem, state, rollouts, key)
    state = jax.tree.map(lambda n, o: jnp.where(info.ok, n, o), new, state)
    return state, Report(outcome(problem, rollouts), info)


@eqx.filter_jit
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
    if algorithm.traceable(world.problem):
        return jax.vmap(lambda key: algorithm.init(world.problem, samples, key))(keys)
    return _stacked(algorithm.init(world.problem, samples, key) for key in keys)


def check(algorithm: Algorithm, world: World, samples: int) -> None:
    """Raise what the first iteration would raise, without running it: shapes, types and settings."""
    if samples < 1:
        raise ValueError(f"rollouts={samples}: an iteration needs at least one rollout.")
    if algorithm.traceable(world.problem):
        eqx.filter_eval_shape(_first_turn, algorithm, world.problem, samples)


def _first_turn(algorithm: Algorithm, problem: Problem, samples: int):
    key = jax.random.key(0)
    state = algorithm.init(problem, samples, key)
    policy = algorithm.explore(state)
    rollouts = jax.vmap(
        lambda policy: jax.vmap(lambda key: _blank(problem, policy, key))(jax.random.split(key, samples))
    )
    return _learn(algorithm, problem, state, rollouts(policy), key)


def _blank(problem: Problem, policy: Policy, key: Key) -> Rollouts:
    """A rollout in which nothing happens: its shapes are what is asked for."""
    episode, x = policy.begin(key), jnp.zeros((problem.horizon + 1, problem.dx))
    o = x if problem.observe is None else jax.vmap(problem.observe)(x)
    u = jax.vmap(lambda x, o: policy.act(episode, 0, x, o))(x[:-1], o[:-1])
    cost = jnp.zeros(problem.horizon + 1)
    return Rollouts(x, o, u, cost, jnp.asarray(True), episode)


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
    turn = _turn if world.traceable else _turn_on_host
    for i in range(first, last):
        states, rollouts, report = turn(algorithm, world, samples, keys, jnp.asarray(i), states)
        yield Turn(i, states, rollouts, jax.device_get(report))


_explore_compiled, _learn_compiled = eqx.filter_jit(_explore), eqx.filter_jit(_learn)


def _turn_on_host(algorithm: Algorithm, world: World, samples: int, keys: Array, i: Array, states: Any):
    learn = _learn_compiled if algorithm.traceable(world.problem) else _learn
    parts = _explore_compiled, learn, algorithm, world, samples
    return _stacked(_iteration(*parts, key, i, _of_seed(states, s)) for s, key in enumerate(keys))


def evaluate(algorithm: Algorithm, world: World, samples: int, key: Key, states: Any) -> Rollouts:
    """Rollouts of what we would deploy now; leading axis: the seed. All seeds face the same initial states."""
    if world.traceable:
        return _evaluate(algorithm, world, samples, key, states)
    exploit = eqx.filter_jit(algorithm.exploit)
    seeds = range(len(jax.tree.leaves(states)[0]))
    return _stacked(world.rollout(exploit(_of_seed(states, s)), samples, key) for s in seeds)


@eqx.filter_jit
def _evaluate(algorithm: Algorithm, world: World, samples: int, key: Key, states: Any) -> Rollouts:
    return jax.lax.map(lambda state: world.rollout(algorithm.exploit(state), samples, key), states)


def _of_seed(tree: Any, seed: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[seed], tree)


def _stacked(trees: Iterable[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
