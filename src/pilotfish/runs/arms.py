"""Runs that are compared, each in a folder of its own: begun where they are missing, gone on with where they stopped.

A run whose training fails is a result, too: what it measured stays.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pilotfish.algorithms import Algorithm
from pilotfish.runs import RunError
from pilotfish.runs.spec import Spec
from pilotfish.runs.store import Run
from pilotfish.runs.train import PATIENCE, Callback, Result, TrainingFailed, train
from pilotfish.worlds import World


def check_folder(path: Path, spec: Spec) -> None:
    """RunError if a folder holds anything else than this run."""
    if not (path / "spec.json").exists():
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise RunError(f"{path} is in use: choose another --out.")
        return
    asked, found = (_flat(json.loads(json.dumps(dataclasses.asdict(s)))) for s in (spec, Run.open(path).spec))
    differ = [name for name in asked.keys() | found.keys() if asked.get(name) != found.get(name)]
    if differ:
        name = min(differ)
        raise RunError(
            f"{path} was made with other settings: {name} is {found.get(name)} there, and {asked.get(name)} is "
            "asked for. Choose another --out."
        )


def opened(path: Path, spec: Spec) -> Run:
    """The run in a folder, a new one if there is none."""
    return Run.open(path) if (path / "spec.json").exists() else Run.create(path, spec)


def ended(run: Run) -> bool:
    """Whether nothing is left to train: every iteration is done, or training failed."""
    metrics = run.metrics()
    done = metrics["cost"].shape[1] if metrics else 0
    return done == run.done() and (done >= run.spec.iterations or stopped(metrics) is not None)


def finish(run: Run, algorithm: Algorithm, world: World, callbacks: Sequence[Callback] = ()) -> str:
    """Train as far as is missing. Why training failed, in words; "" if it did not."""
    try:
        train_as_specified(run, algorithm, world, callbacks)
    except TrainingFailed as error:
        return str(error)
    return ""


def train_as_specified(
    run: Run, algorithm: Algorithm, world: World, callbacks: Sequence[Callback] = (), iterations: int | None = None
) -> Result:
    """Train as the run's specification says, to its last iteration or to another. Errors are those of `train`."""
    spec = run.spec
    return train(
        algorithm,
        world,
        rollouts=spec.rollouts,
        iterations=spec.iterations if iterations is None else iterations,
        seeds=spec.seeds,
        measured=spec.measured,
        run=run,
        callbacks=callbacks,
    )


def stopped(metrics: Mapping[str, np.ndarray]) -> int | None:
    """The number of iterations after which training failed: every seed refused its last updates. None if it did not."""
    if not metrics:
        return None
    refused = np.all(metrics["ok"] == 0, axis=0)
    ends = (i for i in range(PATIENCE, len(refused) + 1) if refused[i - PATIENCE : i].all())
    return next(ends, None)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, its names joined by dots."""
    flat = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
