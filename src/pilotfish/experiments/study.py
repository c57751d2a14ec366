"""Running a paper's figure: every arm over its seeds, then every claim against what they measured.

    DIR/verdict.json        every claim with its numbers and its verdict
    DIR/ARM/                a run: spec.json, metrics.csv, checkpoints
    DIR/VARIATION/ARM/      the same under a variation, where that changes the arm

Figures that share their arms keep the runs in the folder of one of them.

A study may be stopped at any moment: the same command goes on, and finished arms are only read.

An arm whose training fails is a result. What it measured stays, and its last values stand for the iterations that
it did not do. Sensitivity is the table of all claims under all variations, from fewer seeds.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

import pilotfish
from pilotfish.experiments.claims import LAST, Arm, Metrics, PaperFigure, Study, Verdict, final, judge, slug
from pilotfish.experiments.exhibits import ELSEWHERE, Map
from pilotfish.registry import changed
from pilotfish.runs import RunError, evaluation, loop, parts
from pilotfish.runs.arms import check_folder, ended, finish, opened, stopped
from pilotfish.runs.spec import Spec, assemble
from pilotfish.runs.store import Run, write_json
from pilotfish.runs.train import PATIENCE

QUICK_SEEDS = 2


class Findings(NamedTuple):
    """All arms of a figure under one choice of settings, and what they say of its claims."""

    study: Study
    verdicts: list[Verdict]


class Performed(NamedTuple):
    """A figure that has been run."""

    reference: Findings
    sensitivity: dict[str, Findings]
    """By the variation's label."""
    record: dict[str, Any]
    """What verdict.json holds."""


class Job(NamedTuple):
    """A run that a figure needs."""

    arm: Arm
    variation: str
    """Its label; empty for the reference."""
    path: Path
    spec: Spec

    @property
    def label(self) -> str:
        return f"{self.arm.label} ({self.variation})" if self.variation else self.arm.label


class Plan(NamedTuple):
    """All runs that a figure needs."""

    reference: list[Job]
    variations: dict[str, list[Job]]
    """By label."""
    seeds: int
    few: int
    """Seeds under a variation."""

    @property
    def jobs(self) -> list[Job]:
        """In the order in which they are run."""
        return [*self.reference, *(job for jobs in self.variations.values() for job in jobs)]


Observer = Callable[[Job, int], None]
"""Called with a job and the number of its iterations done: when it begins, and after each."""


def perform(
    figure: PaperFigure,
    folder: Path,
    seeds: int | None = None,
    quick: bool = False,
    sensitivity: bool = False,
    observe: Observer = lambda job, done: None,
) -> Performed:
    """Run what is missing of a figure, hold its claims against it, and write verdict.json.

    A quick run has two seeds and five iterations: it shows that everything works, and is no evidence.
    RunError if the folder was made with other settings.
    """
    todo = plan(figure, folder, seeds, quick, sensitivity)
    _check_all(folder, todo.jobs)
    folder.mkdir(parents=True, exist_ok=True)
    reference = _findings(figure, _run_all(figure, todo.reference, observe))
    # an arm that a variation does not change is not run again: no seed depends on another
    unchanged = {job.arm.label: _of_seeds(todo.few, reference.study[job.arm.label], job.spec) for job in todo.reference}
    varied = {
        label: _findings(figure, unchanged | _run_all(figure, jobs, observe)) for label, jobs in todo.variations.items()
    }
    record = {
        "figure": figure.id,
        "title": figure.title,
        "caption": figure.caption,
        "command": command(figure, folder, seeds, quick, sensitivity),
        "version": pilotfish.__version__,
        "quick": quick,
        "seeds": todo.seeds,
        "claims": [verdict.as_json() for verdict in reference.verdicts],
        "arms": {
            job.arm.label: {"run": os.path.relpath(job.path, folder)} | _arm_json(job, reference.study[job.arm.label])
            for job in todo.reference
        },
        "settings": figure.settings,
        "sensitivity": {
            label: _sensitivity_json(found, todo.few, todo.variations[label]) for label, found in varied.items()
        },
    }
    if figure.exhibit:
        record["shown"] = figure.exhibit.as_json(reference.study)
    write_json(folder / "verdict.json", record)
    return Performed(reference, varied, record)


def plan(figure: PaperFigure, folder: Path, seeds: int | None, quick: bool, sensitivity: bool) -> Plan:
    """The runs of the reference, and of each variation those of the arms that it changes."""
    seeds = seeds or (QUICK_SEEDS if quick else figure.seeds)
    few, runs = min(seeds, figure.sensitivity_seeds), figure.runs(folder, quick)
    reference = [Job(arm, "", runs / slug(arm.label), arm.spec(range(seeds), quick)) for arm in figure.arms]
    varied = {}
    for label, change in figure.variations if sensitivity else ():
        inside = runs / slug(label)
        pairs = [(arm, dataclasses.replace(change(arm), label=arm.label)) for arm in figure.arms]
        varied[label] = [
            Job(changed, label, inside / slug(arm.label), changed.spec(range(few), quick))
            for arm, changed in pairs
            if changed.spec((), quick) != arm.spec((), quick)
        ]
    return Plan(reference, varied, seeds, few)


def command(figure: PaperFigure, folder: Path, seeds: int | None, quick: bool, sensitivity: bool) -> str:
    """The words that perform it."""
    words = ["pilotfish figure", figure.id]
    words += [f"--seeds {seeds}"] * (seeds is not None) + ["--quick"] * quick + ["--sensitivity"] * sensitivity
    words += [f"--out {folder}"] * (folder != figure.folder(quick))
    return " ".join(words)


def _check(job: Job) -> None:
    """Refuse, before anything is computed, settings that cannot be run and a folder that was made with others."""
    _, algorithm, world = assemble(job.spec)
    loop.check(algorithm, world, job.spec.rollouts)
    check_folder(job.path, job.spec)


def left(figure: PaperFigure, folder: Path, seeds: int | None, quick: bool, sensitivity: bool) -> list[Run]:
    """The runs of a figure that have something to learn, new ones where there are none. Errors are `perform`'s."""
    jobs = plan(figure, folder, seeds, quick, sensitivity).jobs
    _check_all(folder, jobs)
    runs = [opened(job.path, job.spec) for job in jobs]
    return [run for run in runs if not ended(run)]


def _check_all(folder: Path, jobs: Sequence[Job]) -> None:
    """Refuse what cannot be run, and folders that are of something else."""
    if folder.is_file():
        raise RunError(f"{folder} is a file: choose another --out.")
    for job in jobs:
        _check(job)


def _run_all(figure: PaperFigure, jobs: list[Job], observe: Observer) -> dict[str, Metrics]:
    found = {}
    for job in jobs:
        if found:  # what an arm compiled the next hardly needs, and Linux lets a process have only so many mappings
            jax.clear_caches()
        found[job.arm.label] = _run(job, observe)
        if isinstance(figure.exhibit, Map):
            found[job.arm.label][ELSEWHERE] = _tried(job, figure.exhibit)
    return found


def _tried(job: Job, where: Map) -> Float[np.ndarray, "S K"]:
    """Part of the noise-free episodes that succeed at each place, of what each seed deploys. The run keeps it."""
    run, places, episodes = Run.open(job.path), np.array(where.places), max(job.spec.measured, 1)
    of = {"places": places, "episodes": np.array(episodes), "iterations": np.array(run.done())}
    if (job.path / f"{ELSEWHERE}.safetensors").exists():
        found = run.load_tensors(ELSEWHERE)
        if all(np.array_equal(found[name], value) for name, value in of.items()):
            return found["success"]
    world = changed(run.assemble()[0], {where.field: where.places}).world()
    rollouts = evaluation.evaluate_in(run, world, episodes).rollouts
    success = evaluation.reached(world.problem, rollouts).mean(-1)
    with run.writing():
        run.save_tensors(ELSEWHERE, of | {"success": success})
    return success


def _run(job: Job, observe: Observer) -> Metrics:
    """The job's metrics, trained as far as they are missing."""
    run = opened(job.path, job.spec)
    metrics = run.metrics()
    observe(job, metrics["cost"].shape[1] if metrics else 0)
    if run.divided:
        parts.finish(run)
    if not ended(run):
        _, algorithm, world = assemble(job.spec)
        finish(run, algorithm, world, [lambda turn: observe(job, turn.i + 1)])
    return _completed(run.metrics(), job.spec)


def _completed(metrics: Metrics, spec: Spec) -> Metrics:
    """The metrics, where training failed with the last values in place of those that are missing."""
    done = stopped(metrics)
    if done is None:
        return metrics
    columns = np.minimum(np.arange(spec.iterations), done - 1)
    repeated = {name: values[:, columns] for name, values in metrics.items() if name != ELSEWHERE}
    counts = np.zeros_like(repeated["iteration"]) + np.arange(spec.iterations)
    return metrics | repeated | {"iteration": counts, "rollouts": (counts + 1) * spec.rollouts}


def _of_seeds(count: int, metrics: Metrics, spec: Spec) -> Metrics:
    """What a run of the first `count` seeds alone would have measured."""
    return _completed({name: values[:count] for name, values in metrics.items()}, spec)


def _findings(figure: PaperFigure, study: Study) -> Findings:
    return Findings(study, [judge(claim, study) for claim in figure.claims])


# -- verdict.json


def _arm_json(job: Job, metrics: Metrics) -> dict[str, Any]:
    """How an arm was made, and where it ended."""
    done, all_ = stopped(metrics), job.spec.iterations
    note = f"stopped after {done} of {all_} iterations: every seed refused {PATIENCE} updates in a row"
    return {
        "task": job.arm.task,
        "algorithm": job.arm.algorithm,
        "rollouts": job.spec.rollouts,
        "iterations": job.spec.iterations,
        "final_cost_median": _finite(np.median(10.0 ** final(metrics))),
        "final_success_mean": _finite(metrics["success"][:, -LAST:].mean()),
        **{
            f"final_{name}_mean": _finite(metrics[name][:, -LAST:].mean())
            for name in ("noise_free_success", "noise_free_distance")
            if name in metrics
        },
        "updates_refused": _finite(1.0 - metrics["ok"].mean()),
        "note": None if done is None else note,
    }


def _sensitivity_json(found: Findings, seeds: int, jobs: list[Job]) -> dict[str, Any]:
    notes = {job.arm.label: _arm_json(job, found.study[job.arm.label])["note"] for job in jobs}
    return {
        "seeds": seeds,
        "claims": [verdict.numbers() for verdict in found.verdicts],
        "notes": {label: note for label, note in notes.items() if note},
    }


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
