"""Train: turn the crank, keep what it yields, stop cleanly whatever happens."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from pilotfish.algorithms import Algorithm
from pilotfish.policies import Policy
from pilotfish.runs import loop, store
from pilotfish.runs.columns import columns
from pilotfish.runs.loop import Turn
from pilotfish.runs.store import Run, RunError
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
    run: Run | None = None,
    observe: Callable[[Turn], None] = lambda turn: None,
) -> Result:
    """Learn from `rollouts` episodes from each condition in each of `iterations` iterations, for each seed.

    With a `run`, metrics and checkpoints go to its folder, and a run that has some goes on where it stopped.
    Whatever ends the training (an error, Ctrl-C), the last whole iteration is in the folder. TrainingFailed if
    every seed refuses three updates in a row, or all rollouts of an iteration break off.
    """
    loop.check(algorithm, world, rollouts)
    keys = loop.root_keys(seeds)
    states, first = loop.initial(algorithm, world, rollouts, keys), 0
    if run is not None and run.has_checkpoint():
        first, states = run.load_checkpoint(states)
    if run is not None:
        run.cut_metrics(first)
    latest, reports, refused = None, [], 0
    try:
        finished = None if run is None else run.save_episode
        for turn in loop.turns(algorithm, world, rollouts, keys, first, iterations, states, finished):
            if run is not None and latest is None:
                run.save_columns(columns(algorithm, turn.report.outcome, turn.report.info))
            latest = turn
            reports.append(turn.report)
            if run is not None:
                _write(run, turn, iterations)
            observe(turn)
            refused = 0 if np.any(turn.report.info.ok) else refused + 1
            if refused == PATIENCE:
                raise TrainingFailed(f"stopped after {PATIENCE} refused updates in a row: {explain(turn, 0)}")
    except BaseException as error:
        if run is not None and latest is not None:
            _keep(run, latest)
        if isinstance(error, RolloutsFailed):
            at = first if latest is None else latest.i + 1
            raise TrainingFailed(f"stopped in iteration {at}: {error}.") from error
        raise
    if latest is not None:
        states = latest.states
    metrics = run.metrics() if run is not None else _stack(reports)
    return Result(states, metrics, algorithm.exploit(loop.of_seed(states, 0)))


def explain(turn: Turn, seed: int) -> str:
    """Why seed number `seed` refused the update of this turn."""
    outcome = jax.tree.map(lambda leaf: np.asarray(leaf)[seed], turn.report.outcome)
    where = f"iteration {turn.i}"
    if outcome.broken_at >= 0:
        return (
            f"{where}: {100 * (1 - outcome.valid):.0f}% of the rollouts are not finite, first at step "
            f"{outcome.broken_at}. Check the task's cost and dynamics there."
        )
    return f"{where}: what was fitted to the rollouts gives no finite update. Raise the rollouts of an iteration."


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
