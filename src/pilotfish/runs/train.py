"""Train: turn the crank, keep what it yields, stop cleanly whatever happens."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pilotfish import tasks
from pilotfish.algorithms import Algorithm
from pilotfish.policies import Policy
from pilotfish.runs import loop, store
from pilotfish.runs.columns import columns
from pilotfish.runs.loop import Turn
from pilotfish.runs.measured import measuring
from pilotfish.runs.same import difference
from pilotfish.runs.spec import described, digest_of
from pilotfish.runs.store import Run, RunError
from pilotfish.types import Problem
from pilotfish.worlds import RolloutsFailed, World

PATIENCE = 3
"""Refused updates in a row, of every seed, after which training stops."""


class TrainingFailed(RunError):
    """Training cannot go on; the message says at which iteration and why. Everything before it is kept."""


class Result(NamedTuple):
    """What training leaves."""

    states: Any
    """The algorithm's final states; leading axis: the seed."""
    metrics: dict[str, np.ndarray]
    """Every field of every report, by name: arrays (seed, iteration)."""
    policy: Policy
    """What we would deploy now, of the first seed."""


def train(
    algorithm: Algorithm,
    world: World,
    *,
    rollouts: int,
    iterations: int,
    seeds: Sequence[int] = (0,),
    measured: int = 0,
    run: Run | None = None,
    observe: Callable[[Turn], None] = lambda turn: None,
) -> Result:
    """Learn from `rollouts` episodes from each condition in each of `iterations` iterations, for each seed.

    What would be deployed is then measured by as many noise-free episodes from each condition as `measured` says, and
    the best measured is deployed; with 0 the algorithm's own choice is.

    With a `run`, metrics and checkpoints go to its folder, and a run that has some goes on where it stopped; ValueError
    if this is not what the run is made of. Whatever ends the training (an error, Ctrl-C), the last whole iteration is
    in the folder. TrainingFailed if every seed refuses three updates in a row, or all rollouts of an iteration break
    off.
    """
    loop.check(algorithm, world, rollouts)
    if run is not None:
        _check_same(run, algorithm, world, {"rollouts": rollouts, "seeds": list(seeds), "measured": measured})
    algorithm = measuring(algorithm, world, measured)
    states, sizes = loop.initial(algorithm, world, rollouts, loop.root_keys(seeds)), (rollouts, iterations, seeds)
    if run is None:
        reports = []
        for turn in _turns(algorithm, world, sizes, (0, states), None):
            reports.append(turn.report)
            states = turn.states
            observe(turn)
        return Result(states, _stack(reports), algorithm.exploit(loop.of_seed(states, 0)))
    with run.writing():
        if iterations > run.spec.iterations or iterations < run.done():
            run.extend(iterations)
        begun, latest = run.begin(states), None
        try:
            for turn in _turns(algorithm, world, sizes, begun, run.save_episode):
                if latest is None:
                    run.save_columns(columns(algorithm, turn.report.outcome, turn.report.info))
                latest = turn
                _write(run, turn, iterations)
                observe(turn)
        except BaseException:
            if latest is not None:
                _keep(run, latest)
            raise
        states = begun[1] if latest is None else latest.states
        return Result(states, run.metrics(), algorithm.exploit(loop.of_seed(states, 0)))


def _turns(algorithm: Algorithm, world: World, sizes: Any, begun: tuple[int, Any], finished: Any) -> Iterator[Turn]:
    """Iterations until the last, or until training cannot go on."""
    rollouts, iterations, seeds = sizes
    at, refused = begun[0], 0
    try:
        for turn in loop.turns(algorithm, world, rollouts, loop.root_keys(seeds), at, iterations, begun[1], finished):
            yield turn
            at, refused = turn.i + 1, 0 if np.any(turn.report.info.ok) else refused + 1
            if refused == PATIENCE:
                raise TrainingFailed(
                    f"stopped after {PATIENCE} refused updates in a row: {explain(turn, 0, algorithm, world.problem)}"
                )
    except RolloutsFailed as error:
        raise TrainingFailed(f"stopped in iteration {at}: {error}.") from error


def _check_same(run: Run, algorithm: Algorithm, world: World, asked: dict[str, Any]) -> None:
    """Refuse to go on with a run by other means than it was begun with: its metrics would be of neither."""
    found = {name: getattr(run.spec, name) for name in asked}
    if stored := run.spec.algorithm.get("options"):
        asked, found = asked | described(algorithm), found | stored
    for name in asked.keys() | found.keys():
        if not _same(run, asked.get(name), found.get(name)):
            raise ValueError(
                f"{name}={asked.get(name)}: {run.path} was begun with {found.get(name)}. Give the same, or another run."
            )
    _check_world(run, world)


def _same(run: Run, asked: Any, stored: Any) -> bool:
    """Whether two values are one, or files of which the first holds what the second did when the run began."""
    if asked == stored or type(stored) is not str or type(asked) is not str:
        return asked == stored
    return stored in run.spec.files and digest_of(asked) == run.spec.files[stored]


def _check_world(run: Run, world: World) -> None:
    """Refuse to go on with a run in another world. Of a task that is not registered here its author must know."""
    if not run.done() or not run.spec.task.get("options") or not tasks.known(run.spec.task["name"]):
        return
    own = run.assemble()[2]
    if own is not world and (name := difference(own, world)) is not None:
        raise ValueError(
            f"world: its {name} is not that of the task {run.spec.task['name']} as {run.path} was begun with it. Give "
            "the same, that of run.assemble(), or another run."
        )


def explain(turn: Turn, seed: int, algorithm: Algorithm, problem: Problem) -> str:
    """Why seed number `seed` refused the update of this turn."""
    outcome = jax.tree.map(lambda leaf: np.asarray(leaf)[seed], turn.report.outcome)
    where = f"iteration {turn.i}"
    if outcome.broken_at >= 0:
        return (
            f"{where}: {100 * (1 - outcome.valid):.0f}% of the rollouts are not finite, first at step "
            f"{outcome.broken_at}. Check the task's cost and dynamics there."
        )
    state, rollouts = loop.of_seed((turn.states, turn.rollouts), seed)
    known = algorithm.refusal(problem, state, rollouts, jnp.asarray(turn.report.info.ok[seed]))
    unknown = "what was fitted to the rollouts gives no finite update. Raise the rollouts of an iteration."
    return f"{where}: {known or unknown}"


def _write(run: Run, turn: Turn, iterations: int) -> None:
    """What an iteration leaves in the run's folder."""
    run.append_metrics(turn.i, turn.report)
    if (turn.i + 1) % run.spec.checkpoint_every == 0 or turn.i + 1 == iterations:
        run.save_checkpoint(turn.i + 1, turn.states)


def _keep(run: Run, turn: Turn) -> None:
    """Leave the run as it is after `turn`, wherever writing it was interrupted."""
    run.cut_metrics(turn.i)
    run.append_metrics(turn.i, turn.report)
    run.save_checkpoint(turn.i + 1, turn.states)


def _stack(reports: list) -> dict[str, np.ndarray]:
    rows = [store.flatten(report) for report in reports]
    return {name: np.stack([np.asarray(row[name]) for row in rows], 1) for name in (rows[0] if rows else {})}
