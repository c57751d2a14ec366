"""One iteration, and the two ways to turn it: a compiled scan and a host loop.

Worlds whose rollouts are not JAX computations have the host loop alone: there what precedes and what follows the
rollouts is compiled.

Iteration i of a run with root key r is a pure function of (state, i, r): its random numbers come from
`fold_in(r, i)`. So any split of a loop, and a resumed run, give the same numbers to the bit, and both loops the same
but for rounding, which in two programs may differ.

A run may hold several seeds: states, keys and reports then have a leading axis, the seed.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from pilotfish.algorithms import Algorithm
from pilotfish.policies import Policy, over_conditions
from pilotfish.runs.columns import flatten
from pilotfish.runs.measured import bare, with_bare
from pilotfish.types import Key, Outcome, Problem, Rollouts
from pilotfish.worlds import World
from pilotfish.worlds.host import HostWorld


class Report(NamedTuple):
    """What one iteration says: what the rollouts came to, and what the algorithm did with them."""

    outcome: Outcome
    info: Any


class Turn(NamedTuple):
    """What is known when an iteration has ended, of all seeds: what `train` tells its callbacks.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> costs = []
    >>> told = lambda turn: costs.append(turn.metrics["cost"])  # (seed,)
    >>> result = pf.train(pf.LQRGPS(), LinearQuadratic().world(), rollouts=20, iterations=2, callbacks=[told])
    >>> len(costs), costs[0].shape
    (2, (1,))
    """

    i: int
    """The iteration's number, counted from 0."""
    states: Any
    """The algorithm's states; leading axis: the seed."""
    rollouts: Rollouts
    """What was rolled out; leading axes: seed S, condition N, rollout M."""
    report: Report
    """What it came to, in NumPy arrays; leading axis: the seed. `metrics` has the same by name."""
    algorithm: Algorithm
    """What learns; where policies are measured, also what measures them."""
    world: World
    """Where it learns."""
    iterations: int
    """How many iterations are asked for."""
    seeds: Sequence[int] = (0,)
    """The seeds, in the order of the leading axes."""

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """Every number of this iteration by its name in metrics.csv: arrays (S,)."""
        return {name: np.asarray(values) for name, values in flatten(self.report).items()}

    def policy(self, seed: int | None = None) -> Policy:
        """What a seed would deploy now; by default the first."""
        place = 0 if seed is None else place_of(seed, self.seeds)
        return self.algorithm.exploit(of_seed(self.states, place))


def iteration(
    algorithm: Algorithm, world: World, episodes: int, root_key: Key, i: Int[Array, ""] | int, state: Any
) -> tuple[Any, Rollouts, Report]:
    """Roll out `episodes` from each condition and update. Where no condition is improved the state stays as it was.

    The new state, the rollouts (leading axes N, M), and what the iteration reports. `i` is its number: its random
    numbers follow from that and `root_key` alone.

    Example:

    >>> import jax
    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> algorithm, world, key = pf.REPS(), LinearQuadratic().world(), jax.random.key(0)
    >>> state = algorithm.init(world.problem, 20, key)
    >>> state, rollouts, report = pf.iteration(algorithm, world, 20, key, 0, state)
    >>> rollouts.u.shape, report.outcome.cost.shape, report.info.ok.shape  # N = 1, M = 20, T = 20
    ((1, 20, 20, 2), (), (1,))
    """
    policy, world_key, update_key = _explore(algorithm, root_key, i, state)
    rollouts = world.rollout(policy, episodes, world_key)
    state, report = _learn(algorithm, world.problem, state, rollouts, update_key)
    return state, rollouts, report


def _where(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    """One of two trees; what is no array is the same in both."""
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o) if eqx.is_array(n) else n, new, old)


def _explore(algorithm: Algorithm, root_key: Key, i: Int[Array, ""] | int, state: Any) -> tuple[Policy, Key, Key]:
    world_key, update_key = jax.random.split(jax.random.fold_in(root_key, i))
    return algorithm.explore(state), world_key, update_key


def _learn(algorithm: Algorithm, problem: Problem, state: Any, rollouts: Rollouts, key: Key) -> tuple[Any, Report]:
    new, info = algorithm.update(problem, state, rollouts, key)
    return _where(info.ok.any(), new, state), Report(outcome(problem, rollouts), info)


@eqx.filter_jit
def outcome(problem: Problem, rollouts: Rollouts) -> Outcome:
    """Cost and success of rollouts, whatever the algorithm."""
    total, valid = rollouts.cost.sum(-1), rollouts.valid
    count = jnp.maximum(valid.sum(), 1)
    mean = jnp.where(valid, total, 0.0).sum() / count
    variance = jnp.where(valid, (total - mean) ** 2, 0.0).sum() / count
    if problem.success is None:
        success = jnp.asarray(jnp.nan)
    else:
        reached = jax.vmap(jax.vmap(problem.reaches))(rollouts.x, rollouts.u, rollouts.cost)
        success = (reached & valid).mean()
    finite = jnp.isfinite(rollouts.cost).all((0, 1)) & jnp.isfinite(rollouts.x).all((0, 1, 3))
    return Outcome(
        cost=jnp.where(valid.any(), mean, jnp.nan),
        cost_std=jnp.where(valid.any(), jnp.sqrt(variance), jnp.nan),
        success=success,
        valid=valid.mean(),
        clipped=_clipped(problem, rollouts),
        broken_at=jnp.where(finite.all(), -1, jnp.argmin(finite)),
    )


def _clipped(problem: Problem, rollouts: Rollouts) -> Float[Array, ""]:
    """Fraction of the actions' entries that lie beyond the bounds, of steps that happened."""
    happened = rollouts.happened[..., None]
    beyond = happened & (problem.admissible(rollouts.u) != rollouts.u)
    return beyond.sum() / jnp.maximum(happened.sum() * rollouts.u.shape[-1], 1)


def root_keys(seeds: Sequence[int]) -> Array:
    """One key a seed."""
    return jax.vmap(jax.random.key)(jnp.asarray(seeds))


def initial(algorithm: Algorithm, world: World, episodes: int, keys: Array) -> Any:
    """Initial states, one a seed."""
    states = [algorithm.init(world.problem, episodes, key) for key in _apart(keys)]
    return _together(states) if algorithm.traceable(world.problem) else _stacked(states)


def check(algorithm: Algorithm, world: World, episodes: int) -> Algorithm:
    """Raise what the first iteration would raise, without running it: shapes, types and settings.

    What is compiled: the algorithm with its plain numbers as arguments of the program, which then is that of all such
    numbers; or as it is, where it decides by one of them in Python. What is traced here `turns` does not trace again.
    """
    if episodes < 1:
        raise ValueError(f"rollouts={episodes}: an iteration needs at least one rollout.")
    learner = bare(algorithm)
    if learner is not algorithm and not world.traceable:
        return with_bare(algorithm, check(learner, world, episodes))  # which is compiled by itself
    if not algorithm.traceable(world.problem):
        return algorithm
    state, rollouts = eqx.filter_eval_shape(_first_rollouts, algorithm, world.problem, episodes)

    def trace(algorithm: Algorithm) -> Any:
        key = jax.random.key(0)
        if world.traceable:
            return eqx.filter_eval_shape(_turn, algorithm, world, episodes, key, jnp.asarray(0), state)[0]
        return eqx.filter_eval_shape(_learn, algorithm, world.problem, state, rollouts, key)[0]

    if (general := _general(algorithm, trace, state)) is not None:
        return general
    trace(algorithm)
    return algorithm


def _general(algorithm: Algorithm, trace: Callable[[Algorithm], Any], like: Any) -> Algorithm | None:
    """The algorithm with arrays in place of its plain numbers. None if then it cannot be traced to what is `like`."""
    learner = bare(algorithm)
    numbers = jax.tree.map(lambda leaf: jnp.asarray(leaf) if type(leaf) is float else leaf, learner)
    general = with_bare(algorithm, numbers)
    try:
        found = trace(general)
    except Exception:  # whatever an algorithm does with a number that is not known yet
        return None
    return general if jax.tree.structure(found) == jax.tree.structure(like) else None


def is_general(compiled: Algorithm) -> bool:
    """Whether what `check` says is compiled has its numbers as arguments."""
    return any(eqx.is_array(leaf) for leaf in jax.tree.leaves(bare(compiled)))


def _first_rollouts(algorithm: Algorithm, problem: Problem, episodes: int) -> tuple[Any, Rollouts]:
    """The state in which learning begins, and rollouts in which nothing happens."""
    key = jax.random.key(0)
    state = algorithm.init(problem, episodes, key)
    keys = jax.random.split(key, (len(problem.conditions.mean), episodes))
    rollouts = over_conditions(
        lambda policy, keys: jax.vmap(lambda key: _blank(problem, policy, key))(keys), algorithm.explore(state), keys
    )
    return state, rollouts


def _blank(problem: Problem, policy: Policy, key: Key) -> Rollouts:
    """A rollout in which nothing happens: its shapes are what is asked for."""
    x = jnp.zeros((problem.horizon + 1, problem.dx))
    o = jax.vmap(problem.observe)(x)
    episode = policy.begin(key, x[0], o[0])
    u = jax.vmap(lambda x, o: policy.act(episode, 0, x, o))(x[:-1], o[:-1])
    if u.shape[1:] != (problem.du,):
        raise ValueError(
            f"policy: its actions have the shape {u.shape[1:]}; the task's have the shape ({problem.du},)."
        )
    return Rollouts.recorded(x, o, u, jnp.zeros(problem.horizon + 1), episode)


@eqx.filter_jit
def scan(
    algorithm: Algorithm, world: World, episodes: int, keys: Array, first: Array | int, count: int, states: Any
) -> tuple[Any, Report]:
    """`count` iterations, from number `first` on, in one compiled program. Reports have axes (seed, iteration).

    `keys` and `states` have the leading axis seed. Seeds run one after the other: on a CPU that is faster than side by
    side.

    Example:

    >>> import equinox as eqx
    >>> import jax
    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> algorithm, world, keys = pf.REPS(), LinearQuadratic().world(), jax.random.split(jax.random.key(0), 2)
    >>> states = eqx.filter_vmap(lambda key: algorithm.init(world.problem, 20, key))(keys)  # of two seeds
    >>> states, reports = pf.scan(algorithm, world, 20, keys, 0, 3, states)
    >>> reports.outcome.cost.shape
    (2, 3)
    """
    arrays, rest = eqx.partition(states, eqx.is_array)

    def turn(key, arrays, i):
        state, _, report = iteration(algorithm, world, episodes, key, i, eqx.combine(arrays, rest))
        return eqx.filter(state, eqx.is_array), report

    def one_seed(key_and_state):
        key, arrays = key_and_state
        return jax.lax.scan(functools.partial(turn, key), arrays, first + jnp.arange(count))

    arrays, reports = jax.lax.map(one_seed, (keys, arrays))
    return eqx.combine(arrays, rest), reports


_turn = eqx.filter_jit(iteration)
"""The program of one seed: that of every number of seeds, so that none depends on the others, to the bit."""


def turns(
    algorithm: Algorithm,
    world: World,
    episodes: int,
    keys: Array,
    first: int,
    last: int,
    states: Any,
    finished: Callable[[int, int, int, int, Rollouts], None] | None = None,
    seeds: Sequence[int] | None = None,
) -> Iterator[Turn]:
    """Iterations `first` to `last - 1` on the host, one at a time, for callbacks and checkpoints.

    `finished(i, s, n, m, rollout)` is told of episode m of condition n in iteration i and of seed number s as soon as
    it has ended, if the world's episodes follow one another. `seeds` are those of the keys, to be told.
    """
    told = range(len(keys)) if seeds is None else seeds
    compiled = check(algorithm, world, episodes)
    keys_apart, apart = _apart(keys), _apart(states)
    for i in range(first, last):
        if world.traceable:
            number = jnp.asarray(i)
            turned = [
                # one after the other: side by side they would need the memory of all
                jax.block_until_ready(_turn(compiled, world, episodes, key, number, state))
                for key, state in zip(keys_apart, apart, strict=True)
            ]
        else:
            turned = _turn_on_host(compiled, world, episodes, keys_apart, i, apart, finished)
        apart = [state for state, _, _ in turned]
        states, rollouts, report = _together(turned)
        yield Turn(i, states, rollouts, jax.device_get(report), algorithm, world, last, told)


_explore_compiled, _learn_compiled = eqx.filter_jit(_explore), eqx.filter_jit(_learn)


def _turn_on_host(
    algorithm: Algorithm, world: World, episodes: int, keys: Sequence[Key], i: int, states: Sequence[Any], finished: Any
) -> list[tuple[Any, Rollouts, Report]]:
    learn = _learn_compiled if algorithm.traceable(world.problem) else _learn
    turned = []
    for s, (key, state) in enumerate(zip(keys, states, strict=True)):
        policy, world_key, update_key = _explore_compiled(algorithm, key, jnp.asarray(i), state)
        if finished is not None and isinstance(world, HostWorld) and world.one_by_one:
            rollouts = world.rollout(policy, episodes, world_key, functools.partial(finished, i, s))
        else:
            rollouts = world.rollout(policy, episodes, world_key)
        new, report = learn(algorithm, world.problem, state, rollouts, update_key)
        turned.append((new, rollouts, report))
    return turned


def deploy(algorithm: Algorithm, world: World, episodes: int, key: Key, states: Any) -> Rollouts:
    """Rollouts of what we would deploy now; leading axis: the seed. All seeds face the same initial states."""
    if world.traceable:
        return _deploy(_acting(algorithm, states), world, episodes, key, states)
    exploit = eqx.filter_jit(_acting(algorithm, states).exploit)
    seeds = range(len(jax.tree.leaves(eqx.filter(states, eqx.is_array))[0]))
    return _stacked(world.rollout(exploit(of_seed(states, s)), episodes, key) for s in seeds)


def _acting(algorithm: Algorithm, states: Any) -> Algorithm:
    """What is compiled of an algorithm that is deployed, as `check` has it."""
    state = eqx.filter_eval_shape(of_seed, states, 0)

    def trace(algorithm: Algorithm) -> Any:
        return eqx.filter_eval_shape(lambda algorithm, state: algorithm.exploit(state), algorithm, state)

    found = _general(algorithm, trace, trace(algorithm))
    return algorithm if found is None else found


@eqx.filter_jit
def _deploy(algorithm: Algorithm, world: World, episodes: int, key: Key, states: Any) -> Rollouts:
    arrays, rest = eqx.partition(states, eqx.is_array)
    act = algorithm.exploit
    return jax.lax.map(lambda arrays: world.rollout(act(eqx.combine(arrays, rest)), episodes, key), arrays)


def place_of(seed: int, seeds: Sequence[int]) -> int:
    """The place of a seed among others; ValueError if it is not one of them."""
    if seed not in seeds:
        raise ValueError(f"seed={seed}: choose one of {', '.join(map(str, seeds))}.")
    return list(seeds).index(seed)


def of_seed(states: Any, seed: int) -> Any:
    """The state of one of several seeds, by its place among them."""
    return _taken(states, jnp.asarray(seed))


def _at(states: Any, seed: Int[Array, ""] | int) -> Any:
    return jax.tree.map(lambda leaf: leaf[seed] if eqx.is_array(leaf) else leaf, states)


_taken = eqx.filter_jit(_at)


def _stacked(trees: Iterable[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0], *trees)


_together = eqx.filter_jit(_stacked)


@eqx.filter_jit
def _apart(trees: Any) -> list[Any]:
    """The states of all seeds, each for itself."""
    count = len(jax.tree.leaves(eqx.filter(trees, eqx.is_array))[0])
    return [_at(trees, s) for s in range(count)]
