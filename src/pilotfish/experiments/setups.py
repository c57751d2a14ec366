"""How each algorithm is set up for each task, and how a stored specification becomes objects again."""

import dataclasses
import difflib
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from pilotfish import algorithms, tasks
from pilotfish.algorithms import Algorithm
from pilotfish.algorithms.ilqg import ILQG
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.moto import MOTO
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.runs.store import RunError, Spec
from pilotfish.tasks import Task, gymnasium, model
from pilotfish.worlds import World


class Setup(NamedTuple):
    """An algorithm as it is set up for a task."""

    algorithm: Algorithm
    rollouts: int
    iterations: int


def setup(task: str, algorithm: str) -> Setup:
    """The setup that `pilotfish train` starts from; measured in docs/results where the task is registered."""
    return SETUPS[algorithm].get(task, DEFAULTS[algorithm])


def default_algorithm(task: str) -> str:
    """What `pilotfish train` takes where nothing is said: but for MOTO's own tasks, what needs the fewest rollouts."""
    return "moto" if task in MOTOS_OWN else "lqr-gps"


MOTOS_OWN = ("cartpole", "double-link", "double-link-25", "quad-link", "quad-link-low", "quad-link-free", "lq")
SETUPS = {
    "moto": {
        "cartpole": Setup(MOTO(entropy_drop=0.1), rollouts=100, iterations=40),
        "double-link": Setup(MOTO(entropy_drop=0.05), rollouts=200, iterations=60),
        "double-link-25": Setup(MOTO(entropy_drop=0.05), rollouts=200, iterations=60),
        "quad-link": Setup(MOTO(entropy_drop=0.05), rollouts=400, iterations=100),
        "quad-link-low": Setup(MOTO(entropy_drop=0.05), rollouts=400, iterations=150),
        "quad-link-free": Setup(MOTO(entropy_drop=0.05), rollouts=400, iterations=150),
        "lq": Setup(MOTO(entropy_drop=0.1), rollouts=100, iterations=40),
        "obstacles": Setup(
            MOTO(reuse="iterations", memory=5, kl_step=0.2, entropy_drop=0.02), rollouts=40, iterations=150
        ),
        "peg-2d": Setup(
            MOTO(reuse="iterations", memory=5, kl_step=0.01, entropy_drop=0.005), rollouts=40, iterations=80
        ),
        "swimmer": Setup(
            MOTO(reuse="iterations", memory=5, kl_step=0.05, entropy_drop=0.01), rollouts=40, iterations=150
        ),
    },
    "lqr-gps": {
        "cartpole": Setup(LQRGPS(), rollouts=20, iterations=40),
        "double-link": Setup(LQRGPS(), rollouts=50, iterations=40),
        "double-link-25": Setup(LQRGPS(), rollouts=50, iterations=40),
        "quad-link": Setup(LQRGPS(), rollouts=400, iterations=100),
        "quad-link-low": Setup(LQRGPS(), rollouts=400, iterations=150),
        "quad-link-free": Setup(LQRGPS(), rollouts=400, iterations=150),
        "lq": Setup(LQRGPS(), rollouts=30, iterations=30),
        "obstacles": Setup(LQRGPS(dynamics=FittedDynamics(prior="gmm"), kl_step=2.0, noise_smoothing=4.0), rollouts=5, iterations=60),
        "peg": Setup(LQRGPS(dynamics=FittedDynamics(prior="gmm"), kl_step=2.0, noise_smoothing=1.0), rollouts=5, iterations=12),
        "peg-blind": Setup(LQRGPS(dynamics=FittedDynamics(prior="gmm"), kl_step=2.0, noise_smoothing=2.0), rollouts=5, iterations=12),
        "peg-2d": Setup(LQRGPS(dynamics=FittedDynamics(prior="gmm")), rollouts=10, iterations=25),
        "peg-3d": Setup(LQRGPS(dynamics=FittedDynamics(prior="gmm"), kl_step=0.5), rollouts=10, iterations=30),
        "octopus": Setup(LQRGPS(kl_step=4.0), rollouts=100, iterations=80),
        "octopus-hard": Setup(LQRGPS(kl_step=4.0), rollouts=100, iterations=80),
        "swimmer": Setup(LQRGPS(kl_step=0.25), rollouts=20, iterations=150),
        "swimmer-cgps": Setup(LQRGPS(kl_step=0.25), rollouts=20, iterations=150),
        "walker": Setup(LQRGPS(dynamics=FittedDynamics(prior="gmm"), kl_step=0.5), rollouts=20, iterations=20),
        "walker-cgps": Setup(LQRGPS(dynamics=FittedDynamics(prior="gmm")), rollouts=20, iterations=20),
        "walker-push": Setup(LQRGPS(dynamics=FittedDynamics(prior="gmm")), rollouts=20, iterations=20),
        "walker-rough": Setup(LQRGPS(dynamics=FittedDynamics(prior="gmm")), rollouts=20, iterations=20),
    },
    "ilqg": {},
}
"""By algorithm and task."""

DEFAULTS = {
    "moto": Setup(MOTO(reuse="both", entropy_drop=0.05), rollouts=20, iterations=30),
    "lqr-gps": Setup(LQRGPS(dynamics=FittedDynamics(prior="gmm"), kl_step=0.3), rollouts=20, iterations=20),
    "ilqg": Setup(ILQG(initial_noise=0.1), rollouts=10, iterations=100),
}
"""By algorithm, for all other tasks."""


def assemble(spec: Spec) -> tuple[Task, Algorithm, World]:
    """The task, algorithm and world of a specification. RunError if the task's files are not what they were."""
    for path, digest in spec.task.get("files", {}).items():
        if (found := _digest(path)) != digest:
            what = "has changed" if found else "was removed"
            raise RunError(
                f"{path} {what} since this run began: it would no longer be the same run. Put the file back as it was, "
                "or train anew."
            )
    task = dataclasses.replace(task_entry(spec.task["name"]).make(), **spec.task["options"])
    entry = named(algorithms.registry(), spec.algorithm["name"], "algorithm")
    algorithm = dataclasses.replace(entry.make(), **spec.algorithm["options"])
    return task, algorithm, task.world()


def options(module: Any) -> dict[str, Any]:
    """The fields of a task or algorithm, as a specification stores them."""
    return {field.name: getattr(module, field.name) for field in dataclasses.fields(module)}


def described(name: str, task: Task) -> dict[str, Any]:
    """A task as a specification stores it; with the SHA-256 of the user's files that it is made of."""
    stored = {"name": name, "options": options(task)}
    if isinstance(task, model.ModelTask):
        stored["files"] = {path: _digest(path) for path in task.files}
    return stored


def _digest(path: str) -> str | None:
    """SHA-256 of a file; None if there is none."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else None


def task_entry(name: str) -> tasks.Entry:
    """The registered task of that name, an environment of Gymnasium as gym:NAME, or a MuJoCo model by its file."""
    if name.startswith(gymnasium.PREFIX):
        return gymnasium.entry(name)
    return model.entry(name) if name.endswith(model.SUFFIXES) else named(tasks.registry(), name, "task")


def named(registry: dict[str, Any], name: str, kind: str) -> Any:
    """The entry of that name; ValueError with the nearest names if there is none."""
    if name in registry:
        return registry[name]
    raise ValueError(f"unknown {kind} {name!r}: {_suggest(name, registry)}")


def _suggest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(sorted(known))}."
