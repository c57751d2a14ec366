"""A paper's figure as a value: its curves, and the sentences in which its authors say what one sees there.

An arm is one curve: a task, an algorithm and its setup, run over several seeds. A claim is a sentence of the paper
with one number a seed, which is above a threshold (mostly 0) on average if the sentence is true. Its verdict is
that of the 95% bootstrap interval of the mean over seeds:

    all above the threshold: holds      all below: does not hold      else, or if a number is not finite: undecided

What a paper leaves unsaid we had to choose: `settings` says how, and `variations` choose otherwise. Sensitivity is
the table of all claims under all variations, from fewer seeds.

    DIR/verdict.json        every claim with its numbers and its verdict
    DIR/ARM/                a run: spec.json, metrics.csv, checkpoints
    DIR/VARIATION/ARM/      the same under a variation, where that changes the arm

A study may be stopped at any moment: the same command goes on, and finished arms are only read.

An arm whose training fails is a result. What it measured stays, and its last values stand for the iterations that
it did not do.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

import pilotfish
from pilotfish import tasks
from pilotfish.experiments import setups
from pilotfish.experiments.setups import Setup
from pilotfish.runs import loop
from pilotfish.runs.statistics import bootstrap_interval
from pilotfish.runs.store import Run, RunError, Spec, write_json
from pilotfish.runs.train import PATIENCE, TrainingFailed, train

QUICK_SEEDS, QUICK_ITERATIONS = 2, 5
LAST = 5
"""The end of learning is the mean over this many iterations."""
CHECKPOINT_EVERY = 10

Metrics = dict[str, np.ndarray]
"""One arm's metrics: arrays (seed, iteration)."""
Study = Mapping[str, Metrics]
"""The metrics of all arms, by label."""


# -- what a figure is


@dataclasses.dataclass(frozen=True)
class Arm:
    """One curve."""

    label: str
    task: str
    """The task's name."""
    algorithm: str
    """The algorithm's name."""
    setup: Setup
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of the task that differ from those of its name."""

    def but(self, label: str | None = None, /, **settings: Any) -> "Arm":
        """The arm with other settings of its algorithm, under its label or another."""
        setup = self.setup._replace(algorithm=dataclasses.replace(self.setup.algorithm, **settings))
        return dataclasses.replace(self, label=label or self.label, setup=setup)

    def on(self, **options: Any) -> "Arm":
        """The arm with other options of its task."""
        return dataclasses.replace(self, options=self.options | options)

    def spec(self, seeds: Iterable[int], quick: bool = False) -> Spec:
        """The run that draws this curve."""
        task = setups.named(tasks.registry(), self.task, "task").make()
        iterations = self.setup.iterations
        return Spec(
            task={"name": self.task, "options": setups.options(dataclasses.replace(task, **self.options))},
            algorithm={"name": self.algorithm, "options": setups.options(self.setup.algorithm)},
            rollouts=self.setup.rollouts,
            iterations=min(QUICK_ITERATIONS, iterations) if quick else iterations,
            seeds=list(seeds),
            checkpoint_every=CHECKPOINT_EVERY,
        )


class Claim(NamedTuple):
    """What a paper says of its figure, and the number by which we judge it."""

    sentence: str
    """The paper's words, or nearly."""
    measure: str
    """Which number we take for it, in a line."""
    statistic: Callable[[Study], np.ndarray]
    """That number for each seed (seed,): above the threshold on average if the claim holds."""
    threshold: float = 0.0


class Variation(NamedTuple):
    """Another choice of something that the paper leaves unsaid."""

    label: str
    change: Callable[[Arm], Arm]


@dataclasses.dataclass(frozen=True)
class PaperFigure:
    """One figure: what it shows, what is said of it, and what we had to choose."""

    id: str
    """The paper's and the figure's name: "moto/1c"."""
    title: str
    caption: str
    """What the paper shows, in a sentence or two."""
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    """What the paper leaves unsaid, and what we took."""
    x: Literal["iterations", "rollouts"] = "iterations"
    variations: tuple[Variation, ...] = ()
    seeds: int = 15
    sensitivity_seeds: int = 5

    def __post_init__(self):
        for kind, labels in (
            ("arms", [arm.label for arm in self.arms]),
            ("arms and variations", [one.label for one in (*self.arms, *self.variations)]),
        ):
            slugs = [slug(label) for label in labels]
            if len(set(slugs)) < len(slugs) or not all(slugs):
                raise ValueError(f"{self.id}: {kind} labelled {labels} share a folder's name. Give distinct labels.")

    def folder(self, quick: bool = False) -> Path:
        """Where the figure is kept if nothing else is said."""
        return Path("figures") / (slug(self.id) + ("-quick" if quick else ""))


def registry() -> dict[str, PaperFigure]:
    """All figures by id."""
    from pilotfish.experiments import moto

    return {figure.id: figure for figure in moto.FIGURES}


# -- numbers of which claims are made: one a seed


def final(metrics: Metrics) -> np.ndarray:
    """log10 of the mean cost over the last iterations."""
    return _log10(metrics["cost"][:, -LAST:].mean(1))


def area(metrics: Metrics, until: float = 1.0) -> np.ndarray:
    """Mean over iterations of log10 cost: over all, or over the first fraction `until` of them."""
    return _log10(metrics["cost"][:, : math.ceil(until * metrics["cost"].shape[1])]).mean(1)


def first(metrics: Metrics, level: float = 0.9) -> np.ndarray:
    """Rollouts until the success is above `level` for the first time; nan where the task defines no success.

    A seed that never gets there counts as if it got there an iteration after the last: at least that late it is,
    so differences between arms are understated.
    """
    success, rollouts = metrics["success"], metrics["rollouts"]
    above = success > level
    never = rollouts[:, -1] + rollouts[:, 0]
    at = np.where(above.any(1), np.take_along_axis(rollouts, above.argmax(1)[:, None], 1)[:, 0], never)
    return np.where(np.isnan(success).all(1), np.nan, at)


def sooner(fast: Metrics, slow: Metrics, level: float = 0.9) -> np.ndarray:
    """log10 of how many times more rollouts the slow arm needs to a success above `level`.

    Where neither gets there this is 0, no difference seen; if no seed of either ever does, it is nan.
    """
    needs = [first(metrics, level) for metrics in (fast, slow)]
    reached = [need <= metrics["rollouts"][:, -1] for need, metrics in zip(needs, (fast, slow), strict=True)]
    return np.log10(needs[1] / needs[0]) if np.any(reached) else np.full(len(needs[0]), np.nan)


def _log10(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(values)


# -- what becomes of a claim


class Verdict(NamedTuple):
    """What the seeds say of a claim."""

    claim: Claim
    mean: float
    low: float
    high: float
    verdict: Literal["holds", "does not hold", "undecided"]
    note: str = ""

    @property
    def number(self) -> str:
        """The statistic and its interval, in words."""
        if math.isnan(self.low):
            return self.note
        return f"{self.mean:.3g} (95% interval {self.low:.3g} to {self.high:.3g})"

    def as_json(self) -> dict[str, Any]:
        """For verdict.json; what is not finite is null."""
        return {
            "sentence": self.claim.sentence,
            "measure": self.claim.measure,
            "threshold": self.claim.threshold,
            **self.numbers(),
        }

    def numbers(self) -> dict[str, Any]:
        """Without the words of the claim."""
        known = not math.isnan(self.low)
        return {
            "mean": self.mean if known else None,
            "interval": [self.low, self.high] if known else None,
            "verdict": self.verdict,
            "note": self.note or None,
        }


def judge(claim: Claim, study: Study) -> Verdict:
    """Hold a claim against a study."""
    values = np.asarray(claim.statistic(study), float)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size or len(values) < 2:
        which = f"the statistic of seed {', '.join(map(str, bad))} is not finite" if bad.size else "one seed"
        return Verdict(claim, np.nan, np.nan, np.nan, "undecided", f"no interval: {which}")
    low, high = (float(bound) for bound in bootstrap_interval(values))
    word = "holds" if low > claim.threshold else "does not hold" if high < claim.threshold else "undecided"
    return Verdict(claim, float(values.mean()), low, high, word)


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


# -- running it


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
    if folder.is_file():
        raise RunError(f"{folder} is a file: choose another --out.")
    for job in todo.jobs:
        _check(job)
    reference = _findings(figure, _run_all(todo.reference, observe))
    # an arm that a variation does not change is not run again: no seed depends on another
    unchanged = {job.arm.label: _of_seeds(todo.few, reference.study[job.arm.label], job.spec) for job in todo.reference}
    varied = {label: _findings(figure, unchanged | _run_all(jobs, observe)) for label, jobs in todo.variations.items()}
    record = {
        "figure": figure.id,
        "title": figure.title,
        "caption": figure.caption,
        "command": command(figure, folder, seeds, quick, sensitivity),
        "version": pilotfish.__version__,
        "quick": quick,
        "seeds": todo.seeds,
        "claims": [verdict.as_json() for verdict in reference.verdicts],
        "arms": {job.arm.label: _arm_json(job, reference.study[job.arm.label]) for job in todo.reference},
        "settings": figure.settings,
        "sensitivity": {
            label: _sensitivity_json(found, todo.few, todo.variations[label]) for label, found in varied.items()
        },
    }
    write_json(folder / "verdict.json", record)
    return Performed(reference, varied, record)


def plan(figure: PaperFigure, folder: Path, seeds: int | None, quick: bool, sensitivity: bool) -> Plan:
    """The runs of the reference, and of each variation those of the arms that it changes."""
    seeds = seeds or (QUICK_SEEDS if quick else figure.seeds)
    few = min(seeds, figure.sensitivity_seeds)
    reference = [Job(arm, "", folder / slug(arm.label), arm.spec(range(seeds), quick)) for arm in figure.arms]
    varied = {}
    for label, change in figure.variations if sensitivity else ():
        inside = folder / slug(label)
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
    _, algorithm, world = setups.assemble(job.spec)
    loop.check(algorithm, world, job.spec.rollouts)
    if not (job.path / "spec.json").exists():
        if job.path.is_file() or (job.path.is_dir() and any(job.path.iterdir())):
            raise RunError(f"{job.path} is in use: choose another --out.")
        return
    asked, found = (_flat(json.loads(json.dumps(dataclasses.asdict(s)))) for s in (job.spec, Run.open(job.path).spec))
    differ = [name for name in asked.keys() | found.keys() if asked.get(name) != found.get(name)]
    if differ:
        name = min(differ)
        raise RunError(
            f"{job.path} was made with other settings: {name} is {found.get(name)} there, and {asked.get(name)} is "
            "asked for. Choose another --out."
        )


def _run_all(jobs: list[Job], observe: Observer) -> dict[str, Metrics]:
    return {job.arm.label: _run(job, observe) for job in jobs}


def _run(job: Job, observe: Observer) -> Metrics:
    """The job's metrics, trained as far as they are missing."""
    spec = job.spec
    run = Run.open(job.path) if (job.path / "spec.json").exists() else Run.create(job.path, spec)
    metrics = run.metrics()
    done = metrics["cost"].shape[1] if metrics else 0
    observe(job, done)
    if done < spec.iterations and stopped(metrics) is None:
        _, algorithm, world = setups.assemble(spec)
        with suppress(TrainingFailed):  # a result: `stopped` finds it in the metrics
            train(
                algorithm,
                world,
                rollouts=spec.rollouts,
                iterations=spec.iterations,
                seeds=spec.seeds,
                run=run,
                observe=lambda turn: observe(job, turn.i + 1),
            )
    return _completed(run.metrics(), spec)


def stopped(metrics: Metrics) -> int | None:
    """The number of iterations after which training failed: every seed refused its last updates. None if it did not."""
    if not metrics:
        return None
    refused = np.all(metrics["ok"] == 0, axis=0)
    ends = (i for i in range(PATIENCE, len(refused) + 1) if refused[i - PATIENCE : i].all())
    return next(ends, None)


def _completed(metrics: Metrics, spec: Spec) -> Metrics:
    """The metrics, where training failed with the last values in place of those that are missing."""
    done = stopped(metrics)
    if done is None:
        return metrics
    columns = np.minimum(np.arange(spec.iterations), done - 1)
    repeated = {name: values[:, columns] for name, values in metrics.items()}
    counts = np.zeros_like(repeated["iteration"]) + np.arange(spec.iterations)
    return repeated | {"iteration": counts, "rollouts": (counts + 1) * spec.rollouts}


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
        "run": job.path.name,
        "task": job.arm.task,
        "algorithm": job.arm.algorithm,
        "rollouts": job.spec.rollouts,
        "iterations": job.spec.iterations,
        "final_cost_median": _finite(np.median(10.0 ** final(metrics))),
        "final_success_mean": _finite(metrics["success"][:, -LAST:].mean()),
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


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, its names joined by dots."""
    flat = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def slug(label: str) -> str:
    """A label as the name of a folder."""
    return re.sub(r"\W+", "-", label.lower()).strip("-")
