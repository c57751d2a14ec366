"""A sweep: one run, an arm, for every choice of settings, of which the best by noise-free episodes is found.

    DIR/ARM/        a run: spec.json, metrics.csv, checkpoints, evaluation.json
    DIR/best.toml   the settings of the best arm, for `pilotfish train --config`
    DIR/sweep.json  what every arm came to

The plain numbers of an algorithm are arguments of the program that is compiled of it (`loop.check`): one runs all arms
that are alike in all else. Where an algorithm decides by a number in Python its arms are programs of their own, and so
are those whose task, sizes or parts differ.

A sweep may be stopped at any moment: the same arms in the same folders go on where they stopped.
"""

import json
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

import pilotfish
from pilotfish.algorithms import Algorithm
from pilotfish.runs import RunError, arms, evaluation, logs, loop, parts, settings
from pilotfish.runs.measured import measuring
from pilotfish.runs.spec import Spec, assemble, described
from pilotfish.runs.statistics import cost_interval, rate_interval
from pilotfish.runs.store import Run, write, write_json
from pilotfish.runs.train import Callback, check
from pilotfish.runs.verdict import rollouts_to_success
from pilotfish.worlds import World

BEST = "best.toml"
PROGRAMS = 4
"""So many are kept in a process, which Linux lets have only so many pieces of memory."""


class Arm(NamedTuple):
    """A choice of settings."""

    label: str
    """Its name: the settings in which it differs from others."""
    values: dict[str, Any]
    """These settings by name."""
    path: Path
    """Its run's folder."""
    spec: Spec


class Prepared(NamedTuple):
    """An arm, what learns in it and where."""

    arm: Arm
    algorithm: Algorithm
    world: World
    program: str
    """By which it is run: the same word stands for the same program."""


class Found(NamedTuple):
    """What an arm came to. Leading axis of arrays: the seed."""

    arm: Arm
    cost: Float[np.ndarray, "S"]
    """Mean cost of a noise-free episode; nan where none was whole."""
    success: Float[np.ndarray, "S"] | None
    """Part of these episodes that reach the goal; None where the task defines none, or nothing was judged."""
    needed: Float[np.ndarray, "S"]
    """Rollouts from each condition after which over 90% of every later iteration's episodes succeed (noise-free ones,
    where policies are measured); infinite if that never comes."""
    iterations: int
    """How many were done."""
    note: str
    """Why not all were; "" if they were."""

    @property
    def middle(self) -> float:
        """The median cost of the seeds; what broke off costs more than all else."""
        return middle(self.cost)

    @property
    def rank(self) -> tuple[bool, float, float]:
        """What is better is smaller: whole arms first, then more success, then the lower cost. So a run's policies are
        chosen too.
        """
        return bool(self.note), 0.0 if self.success is None else -float(self.success.mean()), self.middle

    def numbers(self) -> dict[str, Any]:
        """The same for JSON: None for what is not finite, with 95% intervals over seeds."""
        middle, low, high = _interval(self.cost)
        rate = None if self.success is None or len(self.success) < 2 else rate_interval(self.success, 1)
        return {
            "run": self.arm.path.name,
            "settings": self.arm.values,
            "seeds": list(self.arm.spec.seeds),
            "cost": [_finite(one) for one in self.cost],
            "cost_median": _finite(self.middle),
            "cost_interval": [_finite(low), _finite(high)],
            "cost_interval_about": _finite(middle),
            "success": None if self.success is None else self.success.tolist(),
            "success_rate": None if self.success is None else float(self.success.mean()),
            "success_interval": None if rate is None else [float(rate.low), float(rate.high)],
            "rollouts_to_success": [_finite(one) for one in self.needed],
            "rollouts_to_success_median": _finite(np.median(self.needed)),
            "iterations": self.iterations,
            "note": self.note or None,
        }


def middle(cost: Float[np.ndarray, "S"]) -> float:
    """The median of the seeds' costs; what broke off costs more than all else."""
    return float(np.median(np.where(np.isnan(cost), np.inf, cost)))


Observer = Callable[[Arm, int], None]
"""Called with an arm and the number of its iterations done: when it begins, and after each."""


def perform(sweep: Sequence[Arm], observe: Observer = lambda arm, done: None, log: Sequence[str] = ()) -> list[Found]:
    """Run what is missing of a sweep: what its arms came to, in their order.

    `log` names what each arm is logged by. ValueError or RunError, naming the arm and before anything is computed, for
    settings that cannot be run and for a folder that was made with others.
    """
    for arm in sweep:
        with naming(arm):
            arms.check_folder(arm.path, arm.spec)
    compiled: set[str] = set()
    runs = {arm.label: arms.opened(arm.path, arm.spec) for arm in sweep if (arm.path / "spec.json").exists()}
    found = {arm.label: result(arm, runs[arm.label]) for arm in sweep if arm.label in runs and _ready(runs[arm.label])}
    for one in prepared(sweep, found) if len(found) < len(sweep) else ():
        found[one.arm.label] = perform_one(one, compiled, observe, log)
    return [found[arm.label] for arm in sweep]


def left(sweep: Sequence[Arm]) -> list[Run]:
    """The runs of the arms that have something to learn, new ones where there are none. Errors are those of `perform`,
    but for what only tracing finds out.
    """
    for arm in sweep:
        with naming(arm):
            arms.check_folder(arm.path, arm.spec)
            assemble(arm.spec)
    runs = [arms.opened(arm.path, arm.spec) for arm in sweep]
    return [run for run in runs if not arms.ended(run)]


def prepared(sweep: Sequence[Arm], done: Container[str] = (), worlds: dict[str, World] | None = None) -> list[Prepared]:
    """What is to be run of a sweep but for the arms that are done, by their labels; arms of one program one after the
    other. `worlds`: those that are made already, by their task; to another world, be it alike, belongs another program.
    """
    worlds = {} if worlds is None else worlds
    ready = []
    for arm in sweep:
        with naming(arm):
            _, algorithm, world = assemble(arm.spec)
            where = json.dumps(arm.spec.task, sort_keys=True)
            world = worlds.setdefault(where, world)
            if arm.label not in done:
                sizes = arm.spec.rollouts, arm.spec.measured
                compiled = check(algorithm, world, *sizes)
                kind = _kind(algorithm) if loop.is_general(compiled) else described(algorithm)
                ready.append(Prepared(arm, algorithm, world, json.dumps([kind, where, *sizes])))
    order = list(dict.fromkeys(one.program for one in ready))
    return sorted(ready, key=lambda one: order.index(one.program))


def _kind(algorithm: Algorithm) -> dict[str, Any]:
    """What algorithms have in common that differ in plain numbers alone."""
    return described(jax.tree.map(lambda leaf: 0.0 if type(leaf) is float else leaf, algorithm))


@contextmanager
def naming(arm: Arm) -> Iterator[None]:
    """Say of which arm an error is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{arm.label}: {error}") from error
    except RunError as error:
        raise RunError(f"{arm.label}: {error}") from error


# -- one arm


def perform_one(
    one: Prepared, compiled: set[str], observe: Observer, log: Sequence[str] = (), callbacks: Sequence[Callback] = ()
) -> Found:
    """Train an arm as far as is missing and judge what it deploys. `compiled`: the programs that are there."""
    if one.program not in compiled and len(compiled) == PROGRAMS:
        jax.clear_caches()
        compiled.clear()
    compiled.add(one.program)
    arm, note = one.arm, ""
    run = arms.opened(arm.path, arm.spec)
    observe(arm, run.done())
    if run.divided:
        parts.finish(run, log)
    if not arms.ended(run):
        with logs.of_run(run, log) as logging:
            told = [lambda turn: observe(arm, turn.i + 1), *logging, *callbacks]
            note = arms.finish(run, one.algorithm, one.world, told)
    if run.done() and not _is_judged(run):
        _judge(run, one)
    return result(arm, run, note)


def _ready(run: Run) -> bool:
    """Whether nothing is left to do for an arm."""
    return arms.ended(run) and _is_judged(run)


def _is_judged(run: Run) -> bool:
    """Whether the run holds an evaluation of its newest policies."""
    try:
        kept = run.evaluation()
    except RunError:  # a damaged one
        return False
    return kept is not None and kept["iteration"] == run.done()


def _judge(run: Run, one: Prepared) -> None:
    """Noise-free episodes of what an arm's seeds deploy, which its folder then holds, as it does the best policy."""
    spec, learner = run.spec, measuring(one.algorithm, one.world, run.spec.measured)
    like = loop.initial(learner, one.world, spec.rollouts, loop.root_keys(spec.seeds))
    states = run.load_checkpoint(like)[1]
    learned = evaluation.Trained(run.assemble()[0], learner, one.world, states)
    judged = evaluation.judge(run, learned, evaluation.usual(one.world))
    with run.writing():
        run.save_tensors("policy", *evaluation.pack(run, learned, judged.best_seed))
        evaluation.keep(run, judged)


def result(arm: Arm, run: Run, note: str = "") -> Found:
    """What the folder of an arm's run says that it came to."""
    metrics, nothing = run.metrics(), np.full(len(arm.spec.seeds), np.nan)
    done = metrics["cost"].shape[1] if metrics else 0
    if (after := arms.stopped(metrics)) is not None:
        note = f"stopped after {after} iterations: every seed refused its last updates"
    elif done < arm.spec.iterations:
        note = note or f"ended after {done} iterations"
    kept = run.evaluation() if done else None
    cost = nothing if kept is None else np.array(kept["cost"], float)
    success = None if kept is None or kept["success"] is None else np.array(kept["success"], float)
    needed = np.nan_to_num(rollouts_to_success(metrics) if done else nothing, nan=np.inf)
    return Found(arm, cost, success, needed, done, note)


def best(sweep: Sequence[Found]) -> Found | None:
    """The arm whose policies succeed most often, and of such the cheapest. None if nothing was judged."""
    judged = [one for one in sweep if np.isfinite(one.cost).any()]
    return min(judged, key=lambda one: one.rank, default=None)


def keep(folder: Path, sweep: Sequence[Found], command: str) -> dict[str, Any]:
    """Leave sweep.json, whose content is returned, and best.toml in a sweep's folder."""
    chosen, spec = best(sweep), sweep[0].arm.spec
    record = {
        "command": command,
        "version": pilotfish.__version__,
        "task": spec.task["name"],
        "algorithm": spec.algorithm["name"],
        "best": None if chosen is None else chosen.arm.label,
        "arms": {one.arm.label: one.numbers() for one in sweep},
    }
    write_json(folder / "sweep.json", record)
    if chosen is not None:
        write(folder / BEST, settings.written(chosen.arm.spec).encode())
    return record


def _interval(cost: Float[np.ndarray, "S"]) -> tuple[float, float, float]:
    """Middle and ends of the 95% interval of the mean over seeds; nan where that is not known."""
    known = cost[np.isfinite(cost)]
    if len(known) < 2 or np.ptp(known) == 0:
        return (float(known.mean()) if len(known) else np.nan), np.nan, np.nan
    middle, low, high = cost_interval(known)[0]
    return float(middle), float(low), float(high)


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
