"""Checks of an algorithm, a task or a policy of your own: those that ours must pass, as Gymnasium has `check_env`.

    from pilotfish.testing import check_algorithm, check_policy, check_task

An AssertionError says what is not as it must be. `check_algorithm` compiles, and takes up to a minute.
"""

import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pilotfish.algorithms import Algorithm
from pilotfish.policies import Policy, files, idle, of_condition
from pilotfish.runs import loop
from pilotfish.runs.columns import beyond, columns, flat
from pilotfish.runs.same import difference
from pilotfish.runs.spec import Spec, built, described
from pilotfish.runs.store import Run, write_tensors
from pilotfish.tasks import DrawnTask, Task
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.types import Gaussian, Key, Problem, Rollouts
from pilotfish.worlds import World
from pilotfish.worlds.jax import JaxWorld

EPISODES = 60
"""Rollouts of an iteration, enough for a quadratic function of four states and two actions."""
SEEDS = (0, 1)
FEW = 3
"""Iterations in which the loop and the compiled scan are compared."""
EXACT, ROUNDED = (0.0, 0.0), (1e-7, 1e-9)
"""Tolerances, relative and absolute: of what is the same to the bit, and of one sum in two programs."""
ROLES = {"body", "joint", "goal", "ground"}


def check_algorithm(algorithm: Algorithm, episodes: int = EPISODES) -> None:
    """Check an algorithm on a linear-quadratic task: its reports, that it is resumed exactly, stored, and robust.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.testing import check_algorithm
    >>> check_algorithm(pf.REPS())
    """
    learned = learn(algorithm, episodes, FEW)
    check_reports(algorithm, learned[1])
    with tempfile.TemporaryDirectory() as folder:
        check_loop(algorithm, episodes, learned, Path(folder), ROUNDED)
    check_stored(algorithm)
    begun = begin(algorithm, episodes, copies=2)
    for step in (0, begun.problem.horizon - 1):
        check_broken_off(algorithm, begun, step)


class Begun(NamedTuple):
    """An algorithm before its first update."""

    problem: Problem
    state: Any
    rollouts: Rollouts
    key: Key


def learn(algorithm: Algorithm, episodes: int, iterations: int) -> tuple[Any, loop.Report]:
    """States and reports of a run of two seeds on the linear-quadratic task, in one compiled program."""
    world, keys = JaxWorld(LinearQuadratic().problem()), loop.root_keys(SEEDS)
    return loop.scan(algorithm, world, episodes, keys, 0, iterations, loop.initial(algorithm, world, episodes, keys))


def begin(algorithm: Algorithm, episodes: int, copies: int = 1) -> Begun:
    """On that task with `copies` of its condition."""
    problem, key = LinearQuadratic().problem(), jax.random.key(0)
    mean, cov = (jnp.concatenate([a] * copies) for a in (problem.conditions.mean, problem.conditions.cov))
    problem = dataclasses.replace(problem, conditions=Gaussian(mean, cov), first_controller=None)
    state = algorithm.init(problem, episodes, key)
    return Begun(problem, state, _rolled(algorithm, JaxWorld(problem), episodes, state, key), key)


@eqx.filter_jit
def _rolled(algorithm: Algorithm, world: JaxWorld, episodes: int, state: Any, key: Key) -> Rollouts:
    return world.rollout(algorithm.explore(state), episodes, key)


@eqx.filter_jit
def update(algorithm: Algorithm, problem: Problem, state: Any, rollouts: Rollouts, key: Key) -> tuple[Any, Any]:
    """The algorithm's update, compiled."""
    return algorithm.update(problem, state, rollouts, key)


def check_reports(algorithm: Algorithm, report: loop.Report) -> None:
    """Reports (leading axes: seed, iteration) are finite, say of every condition whether it is ok, and keep bounds."""
    _require(hasattr(report.info, "ok"), "Info has no field ok: say of each condition (N,) whether it was improved.")
    ok = np.asarray(report.info.ok)
    _require(ok.shape[2:] == (1,), f"Info.ok has the shape {ok.shape[2:]}; it must be (N,): one truth a condition.")
    _require(ok.all(), "Info.ok is False where nothing is wrong with the rollouts.")
    for name, values in flat(report.info).items():
        _require(np.isfinite(values).all(), f"Info.{name} is not finite.")
        _require(name == "ok" or values.ndim == 2, f"Info.{name} has the shape {values.shape[2:]}; give a scalar.")
    one = jax.tree.map(lambda leaf: leaf[0, 0], report)
    values = {name: np.asarray(value) for name, value in (flat(report.outcome) | flat(report.info)).items()}
    for name, how in columns(algorithm, one.outcome, one.info).items():
        if how["bound"] is not None:
            past = beyond(name, how, values, 1e-6)
            _require(not past.any(), f"Info.{name} exceeds the bound that is shown with it.")


def check_loop(
    algorithm: Algorithm,
    episodes: int,
    learned: tuple[Any, loop.Report],
    folder: Path,
    tolerance: tuple[float, float] = EXACT,
) -> None:
    """Stopped, stored and resumed it comes to the same to the bit, a compiled scan to the same within a tolerance;
    nothing compiles twice.
    """
    problem, traces = LinearQuadratic().problem(), []

    def counted(x: Array, u: Array, t: Array, cost: Callable[..., Array] | None = problem.cost) -> Array:
        assert cost is not None
        traces.append(1)
        return cost(x, u, t)

    world, keys = JaxWorld(dataclasses.replace(problem, cost=counted)), loop.root_keys(SEEDS)
    first = loop.initial(algorithm, world, episodes, keys)
    turns = list(loop.turns(algorithm, world, episodes, keys, 0, FEW, first))
    count = len(traces)
    loop.check(algorithm, world, episodes)  # tries each time anew whether numbers can be arguments, if they cannot
    tried = len(traces) - count
    run = Run.create(folder / "run", Spec({"name": "lq"}, {"name": "any"}, episodes, FEW, list(SEEDS), 10))
    run.save_checkpoint(FEW - 1, turns[-2].states)
    i, restored = run.load_checkpoint(first)
    (resumed,) = loop.turns(algorithm, world, episodes, keys, i, FEW, restored)
    _require(
        _alike((resumed.states, resumed.report), (turns[-1].states, turns[-1].report), EXACT),
        "a run that was stopped and resumed comes to other numbers. All that an update needs must be in its State, as "
        "arrays, and all that is random must come from its key.",
    )
    for turn in turns:
        wanted = jax.tree.map(lambda leaf, i=turn.i: leaf[:, i], learned[1])
        _require(
            _alike(turn.report, wanted, tolerance),
            f"iteration {turn.i} reports other numbers than in a compiled scan: what an update does may depend on its "
            "arguments alone.",
        )
    _require(
        len(traces) == count + 2 * tried > 0,
        "update is compiled anew after a run is resumed: State must keep its types.",
    )


def check_stored(algorithm: Algorithm) -> None:
    """An algorithm's settings are stored as JSON, and are the same again."""
    again = built(type(algorithm), json.loads(json.dumps(described(algorithm))))
    _require(bool(again == algorithm), f"{type(algorithm).__name__} is another one after it was stored and read.")


def check_broken_off(algorithm: Algorithm, begun: Begun, step: int) -> None:
    """What stands behind the step at which a rollout broke off changes nothing."""
    problem, state, rollouts, key = begun
    rollouts = eqx.tree_at(lambda r: r.steps, rollouts, rollouts.steps.at[0, -1].set(step))
    ruined = (
        rollouts.x.at[0, -1, step + 1 :].set(jnp.nan),
        rollouts.u.at[0, -1, step:].set(1e9),
        rollouts.cost.at[0, -1, step:].set(jnp.inf),
    )
    worse = eqx.tree_at(lambda r: (r.x, r.u, r.cost), rollouts, ruined)
    one, other = (update(algorithm, problem, state, r, key) for r in (rollouts, worse))
    _require(
        _alike(one, other, EXACT),
        f"what follows step {step}, at which a rollout broke off, changes the update: take rollouts.cleaned(), and "
        "weigh by rollouts.weight or rollouts.valid.",
    )


def check_policy(policy: Policy, problem: Problem, world: World | None = None, episodes: int = 3) -> None:
    """Check that a policy acts as its rollouts say, alone as among others, and after it was stored as before.

    `world`: where it acts; by default a `JaxWorld` of the problem.

    Example:

    >>> from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> from pilotfish.testing import check_policy
    >>> problem = LinearQuadratic().problem()
    >>> check_policy(LinearGaussianPolicy(problem.first_controller), problem)
    """
    world, key = world or JaxWorld(problem), jax.random.key(3)
    rollouts = world.rollout(policy, episodes, key)
    N, (T, du) = len(problem.conditions.mean), (problem.horizon, problem.du)
    wanted = (N, episodes, T, du)
    _require(rollouts.u.shape == wanted, f"its actions have the shape {rollouts.u.shape}, and must have {wanted}.")
    act = eqx.filter_jit(lambda own, episode, t, x, o: own.act(episode, t, x, o))
    for n, m, t in np.ndindex(N, episodes, T):
        episode = jax.tree.map(lambda leaf, at=(n, m): leaf[at], rollouts.episode)
        u = act(of_condition(policy, n), episode, t, rollouts.x[n, m, t], rollouts.o[n, m, t])
        same = np.allclose(u, rollouts.u[n, m, t], rtol=1e-12, atol=1e-12)
        _require(same, f"step {t}: its action is not that of the rollout. act must be a function of what it is given.")
    check_policy_stored(policy, problem, world, episodes)


def check_policy_stored(policy: Policy, problem: Problem, world: World, episodes: int = 3) -> None:
    """A policy that was written to a file and read again is the same, to the bit."""
    with tempfile.TemporaryDirectory() as folder:
        write_tensors(Path(folder) / "policy.safetensors", *files.packed(policy, problem))
        loaded = files.load(Path(folder) / "policy.safetensors", like=policy)
    _require(
        type(loaded) is type(policy), f"it is a {type(loaded).__name__} after it was stored: its kind is another's."
    )
    same = jax.tree.structure(loaded) == jax.tree.structure(policy)
    _require(same, "it has other settings after it was stored: settings() and from_tensors() must know all of them.")
    one, other = (world.rollout(each, episodes, jax.random.key(3)) for each in (loaded, policy))
    _require(_alike(one, other, EXACT), "it acts otherwise after it was stored: tensors() must hold all its arrays.")


def check_task(task: Task) -> None:
    """Check that a task makes the same finite problem each time, is stored, and draws what is in its picture.

    Example:

    >>> from pilotfish.tasks.cartpole import CartPole
    >>> from pilotfish.testing import check_task
    >>> check_task(CartPole())
    """
    worlds = task.world(), task.world()
    if (name := difference(*worlds)) is not None:
        raise AssertionError(f"{name} is another one each time that the task is made: draw nothing at random there.")
    again = built(type(task), json.loads(json.dumps(described(task))))
    _require(difference(worlds[0], again.world()) is None, "it is another task after its fields were stored and read.")
    rollouts = worlds[0].rollout(idle(worlds[0].problem), 1, jax.random.key(0))
    _require(bool(rollouts.valid.all()), f"without actions its states or costs are not finite: {rollouts.steps} steps.")
    if isinstance(task, DrawnTask):
        check_drawn(task)
    if (held_out := getattr(task, "held_out", None)) is not None:
        other, own = held_out().problem(), worlds[0].problem
        _require((other.dx, other.du) == (own.dx, own.du), "held_out() has other states or actions.")


def check_drawn(task: DrawnTask) -> None:
    """The starts are drawn within the picture, and what is drawn shows the state."""
    left, right, bottom, top = task.extent
    _require(left < right and bottom < top, f"extent={task.extent}: give left, right, bottom, top.")
    for x in np.asarray(task.problem().conditions.mean):
        strokes = task.draw(x)
        for points, width, role in strokes:
            _require(np.ndim(points) == 2 and np.shape(points)[1] == 2, "a stroke's points must be (n, 2).")
            _require(
                width > 0 and role in ROLES, f"width={width}, role={role!r}: roles are {', '.join(sorted(ROLES))}."
            )
            inside = ((points >= (left, bottom)) & (points <= (right, top))).all()  # False for nan
            _require(bool(inside), f"the {role} is drawn outside of the picture {task.extent} in the state {x}.")
        moved = task.draw(x + 0.1)
        changed = any(not np.array_equal(a.points, b.points) for a, b in zip(strokes, moved, strict=True))
        _require(changed, "the drawing does not change with the state.")


def _alike(found: Any, wanted: Any, tolerance: tuple[float, float]) -> bool:
    """Whether all arrays of two trees are the same, nan where there is nan."""
    pairs = zip(*(jax.tree.leaves(eqx.filter(tree, eqx.is_array_like)) for tree in (found, wanted)), strict=True)
    rtol, atol = tolerance
    return all(
        np.allclose(a, b, rtol, atol, equal_nan=True) if rtol else np.array_equal(a, b, equal_nan=True)
        for a, b in pairs
    )


def _require(holds: Any, words: str) -> None:
    if not holds:
        raise AssertionError(words)
