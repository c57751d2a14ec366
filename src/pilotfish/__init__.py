"""pilotfish: controllers learned from tens to hundreds of episodes.

Every algorithm is a choice of a local model (what we believe), an update (how we improve) and a policy (who
acts). A world turns a policy into rollouts, an algorithm turns rollouts into a better policy:

    state = algorithm.init(problem, samples, key)
    for i in range(iterations):
        rollouts = world.rollout(algorithm.explore(state), samples, key_i)
        state, info = algorithm.update(problem, state, rollouts, key_i)
    policy = algorithm.exploit(state)

`train` does that with seeds, checkpoints and metrics. Names below are imported when they are first used, for
importing jax takes a second.
"""

import ctypes
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"


def _render_without_a_screen() -> None:
    """Where there is no display, let MuJoCo render by EGL or else by OSMesa; it decides when it is imported."""
    if sys.platform != "linux" or any(name in os.environ for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")):
        return
    for backend, library in (("egl", "libEGL.so.1"), ("osmesa", "libOSMesa.so.8"), ("osmesa", "libOSMesa.so.6")):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        os.environ["MUJOCO_GL"] = backend
        return


_render_without_a_screen()

if TYPE_CHECKING:
    from pilotfish.algorithms import Algorithm
    from pilotfish.algorithms.ilqg import ILQG
    from pilotfish.algorithms.lqr_gps import LQRGPS
    from pilotfish.algorithms.moto import MOTO
    from pilotfish.policies import Policy
    from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
    from pilotfish.runs import RunError
    from pilotfish.runs.loop import evaluate, iteration, scan
    from pilotfish.runs.spec import Spec
    from pilotfish.runs.store import Run
    from pilotfish.runs.train import Result, TrainingFailed, train
    from pilotfish.tasks import Task
    from pilotfish.tasks.model import ModelTask
    from pilotfish.types import Gaussian, LinearGaussian, Problem, Quadratic, Rollouts
    from pilotfish.worlds import World
    from pilotfish.worlds.jax import JaxWorld
    from pilotfish.worlds.mujoco import MujocoWorld

_HOME = {
    "Algorithm": "algorithms",
    "Gaussian": "types",
    "ILQG": "algorithms.ilqg",
    "JaxWorld": "worlds.jax",
    "LQRGPS": "algorithms.lqr_gps",
    "LinearGaussian": "types",
    "LinearGaussianPolicy": "policies.linear_gaussian",
    "MOTO": "algorithms.moto",
    "ModelTask": "tasks.model",
    "MujocoWorld": "worlds.mujoco",
    "Policy": "policies",
    "Problem": "types",
    "Quadratic": "types",
    "Result": "runs.train",
    "Rollouts": "types",
    "Run": "runs.store",
    "RunError": "runs",
    "Spec": "runs.spec",
    "Task": "tasks",
    "TrainingFailed": "runs.train",
    "World": "worlds",
    "evaluate": "runs.loop",
    "iteration": "runs.loop",
    "scan": "runs.loop",
    "train": "runs.train",
}

__all__ = [
    "ILQG",
    "LQRGPS",
    "MOTO",
    "Algorithm",
    "Gaussian",
    "JaxWorld",
    "LinearGaussian",
    "LinearGaussianPolicy",
    "ModelTask",
    "MujocoWorld",
    "Policy",
    "Problem",
    "Quadratic",
    "Result",
    "Rollouts",
    "Run",
    "RunError",
    "Spec",
    "Task",
    "TrainingFailed",
    "World",
    "evaluate",
    "iteration",
    "scan",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"pilotfish.{_HOME[name]}"), name)
    raise AttributeError(f"module 'pilotfish' has no attribute {name!r}")
