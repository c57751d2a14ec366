"""How each algorithm is set up for each task, and how a stored specification becomes objects again."""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any, NamedTuple

from pilotfish import algorithms, tasks
from pilotfish.algorithms import Algorithm
from pilotfish.algorithms.ilqg import ILQG
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.moto import MOTO
from pilotfish.runs.store import Spec
from pilotfish.tasks import Task, gymnasium
from pilotfish.worlds import World


class Setup(NamedTuple):
    """An algorithm as it is set up for a task."""

    algorithm: Algorithm
    rollouts: int
    iterations: int


def setup(task: str, algorithm: str) -> Setup:
    """The setup that `pilotfish train` starts from; measured in docs/results."""
    known = SETUPS.get(algorithm, {})
    return known.get(task) or Setup(algorithms.registry()[algorithm].make(), rollouts=200, iterations=60)


SETUPS = {
    "moto": {
        "cartpole": Setup(MOTO(entropy_drop=0.1), rollouts=100, iterations=40),
        "double-link": Setup(MOTO(entropy_drop=0.05), rollouts=200, iterations=60),
        "double-link-25": Setup(MOTO(entropy_drop=0.05), rollouts=200, iterations=60),
        "quad-link": Setup(MOTO(entropy_drop=0.05), rollouts=400, iterations=100),
        "quad-link-low": Setup(MOTO(entropy_drop=0.05), rollouts=400, iterations=150),
        "quad-link-free": Setup(MOTO(entropy_drop=0.05), rollouts=400, iterations=150),
        "lq": Setup(MOTO(entropy_drop=0.1), rollouts=100, iterations=40),
    },
    "lqr-gps": {
        "cartpole": Setup(LQRGPS(), rollouts=20, iterations=40),
        "double-link": Setup(LQRGPS(), rollouts=50, iterations=40),
        "double-link-25": Setup(LQRGPS(), rollouts=50, iterations=40),
        "quad-link": Setup(LQRGPS(), rollouts=400, iterations=100),
        "quad-link-low": Setup(LQRGPS(), rollouts=400, iterations=150),
        "quad-link-free": Setup(LQRGPS(), rollouts=400, iterations=150),
        "lq": Setup(LQRGPS(), rollouts=30, iterations=30),
        "obstacles": Setup(LQRGPS(prior="gmm", kl_step=2.0, noise_smoothing=2.0), rollouts=5, iterations=40),
        "peg": Setup(LQRGPS(prior="gmm", kl_step=2.0, noise_smoothing=2.0), rollouts=5, iterations=12),
        "peg-blind": Setup(LQRGPS(prior="gmm", kl_step=2.0, noise_smoothing=2.0), rollouts=5, iterations=12),
        "peg-2d": Setup(LQRGPS(prior="gmm"), rollouts=10, iterations=15),
        "peg-3d": Setup(LQRGPS(prior="gmm", kl_step=0.5), rollouts=10, iterations=16),
        "walker": Setup(LQRGPS(prior="gmm", kl_step=0.5), rollouts=20, iterations=20),
        "walker-cgps": Setup(LQRGPS(prior="gmm"), rollouts=20, iterations=20),
        "walker-push": Setup(LQRGPS(prior="gmm"), rollouts=20, iterations=20),
        "walker-rough": Setup(LQRGPS(prior="gmm"), rollouts=20, iterations=20),
    },
    "ilqg": dict.fromkeys(tasks.registry(), Setup(ILQG(initial_noise=0.1), rollouts=10, iterations=100)),
}
"""By algorithm and task."""


def assemble(spec: Spec) -> tuple[Task, Algorithm, World]:
    """The task, algorithm and world of a specification."""
    task = dataclasses.replace(task_entry(spec.task["name"]).make(), **spec.task["options"])
    entry = named(algorithms.registry(), spec.algorithm["name"], "algorithm")
    algorithm = dataclasses.replace(entry.make(), **spec.algorithm["options"])
    return task, algorithm, task.world()


def options(module: Any) -> dict[str, Any]:
    """The fields of a task or algorithm, as a specification stores them."""
    return {field.name: getattr(module, field.name) for field in dataclasses.fields(module)}


def task_entry(name: str) -> tasks.Entry:
    """The registered task of that name, or an environment of Gymnasium as gym:NAME."""
    return gymnasium.entry(name) if name.startswith(gymnasium.PREFIX) else named(tasks.registry(), name, "task")


def named(registry: dict[str, Any], name: str, kind: str) -> Any:
    """The entry of that name; ValueError with the nearest names if there is none."""
    if name in registry:
        return registry[name]
    raise ValueError(f"unknown {kind} {name!r}: {_suggest(name, registry)}")


def _suggest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(sorted(known))}."
