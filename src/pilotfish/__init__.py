"""pilotfish: controllers learned from tens to hundreds of episodes.

Every algorithm is a choice of a local model (what we believe), an update (how we improve) and a policy (who
acts). A world turns a policy into rollouts, an algorithm turns rollouts into a better policy:

    state = algorithm.init(problem, episodes, key)
    for i in range(iterations):
        rollouts = world.rollout(algorithm.explore(state), episodes, key_i)
        state, info = algorithm.update(problem, state, rollouts, key_i)
    policy = algorithm.exploit(state)

`train` does that with seeds, checkpoints and metrics. `help` of a class says what its fields are. Names below are
imported when they are first used, for importing jax takes a second.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
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


class _RegisterAfter(MetaPathFinder):
    """Registers our tasks with Gymnasium when it is imported, be that before pilotfish or after.

    Gymnasium finds no plugins by itself, and to import it here would take longer than all else.
    """

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "gymnasium.envs.registration":
            return None
        sys.meta_path.remove(self)
        found = find_spec(name)
        assert found is not None
        assert found.loader is not None
        load = found.loader.exec_module

        def load_and_register(module: Any) -> None:
            load(module)
            register_environments(module.register)

        found.loader.exec_module = load_and_register
        return found


def register_environments(register: Callable[..., None]) -> None:
    """Make every task known as pilotfish/NAME-v0 to Gymnasium, by its own function `register`."""
    from pilotfish.registry import TASKS

    for name in TASKS:
        register(f"pilotfish/{name}-v0", "pilotfish.environments:TaskEnvironment", kwargs={"task": name})


_render_without_a_screen()
if "gymnasium.envs.registration" in sys.modules:
    register_environments(sys.modules["gymnasium.envs.registration"].register)
else:
    sys.meta_path.insert(0, _RegisterAfter())

if TYPE_CHECKING:
    from pilotfish.algorithms import Algorithm
    from pilotfish.algorithms.badmm import BADMM
    from pilotfish.algorithms.dagger import DAgger
    from pilotfish.algorithms.dyna import Dyna
    from pilotfish.algorithms.gps import GPS
    from pilotfish.algorithms.ilqg import ILQG
    from pilotfish.algorithms.lqr_gps import LQRGPS
    from pilotfish.algorithms.mdgps import MDGPS
    from pilotfish.algorithms.more import MORE
    from pilotfish.algorithms.moto import MOTO
    from pilotfish.algorithms.reps import REPS
    from pilotfish.algorithms.trpo import TRPO
    from pilotfish.models.dynamics import FittedDynamics
    from pilotfish.models.learned_dynamics import LearnedDynamics
    from pilotfish.policies import Policy
    from pilotfish.policies.files import load as load_policy
    from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
    from pilotfish.policies.movement_primitive import MovementPrimitive
    from pilotfish.policies.network import Network, NetworkPolicy
    from pilotfish.runs import RunError
    from pilotfish.runs.callbacks import Checkpoint, EvaluateEvery, Progress, StopAtSuccess
    from pilotfish.runs.evaluation import Evaluation, evaluate
    from pilotfish.runs.logs import TensorBoard, WeightsAndBiases
    from pilotfish.runs.loop import Turn, iteration, scan
    from pilotfish.runs.spec import Spec
    from pilotfish.runs.store import Run
    from pilotfish.runs.train import Result, TrainingFailed, train
    from pilotfish.tasks import Task
    from pilotfish.tasks.model import ModelTask
    from pilotfish.types import Dynamics, Gaussian, Limit, LinearGaussian, Problem, Quadratic, Rollouts
    from pilotfish.worlds import World
    from pilotfish.worlds.host import PlantWorld
    from pilotfish.worlds.jax import JaxWorld
    from pilotfish.worlds.mujoco import MujocoWorld
    from pilotfish.worlds.plant import Plant
    from pilotfish.worlds.ray import RayWorld

_HOME = {
    "Algorithm": "algorithms",
    "BADMM": "algorithms.badmm",
    "Checkpoint": "runs.callbacks",
    "DAgger": "algorithms.dagger",
    "Dyna": "algorithms.dyna",
    "Dynamics": "types",
    "EvaluateEvery": "runs.callbacks",
    "Evaluation": "runs.evaluation",
    "FittedDynamics": "models.dynamics",
    "GPS": "algorithms.gps",
    "Gaussian": "types",
    "ILQG": "algorithms.ilqg",
    "JaxWorld": "worlds.jax",
    "LQRGPS": "algorithms.lqr_gps",
    "LearnedDynamics": "models.learned_dynamics",
    "Limit": "types",
    "LinearGaussian": "types",
    "LinearGaussianPolicy": "policies.linear_gaussian",
    "MDGPS": "algorithms.mdgps",
    "MORE": "algorithms.more",
    "MOTO": "algorithms.moto",
    "ModelTask": "tasks.model",
    "MovementPrimitive": "policies.movement_primitive",
    "MujocoWorld": "worlds.mujoco",
    "Network": "policies.network",
    "NetworkPolicy": "policies.network",
    "Plant": "worlds.plant",
    "PlantWorld": "worlds.host",
    "Policy": "policies",
    "Problem": "types",
    "Progress": "runs.callbacks",
    "Quadratic": "types",
    "REPS": "algorithms.reps",
    "RayWorld": "worlds.ray",
    "Result": "runs.train",
    "Rollouts": "types",
    "Run": "runs.store",
    "RunError": "runs",
    "Spec": "runs.spec",
    "StopAtSuccess": "runs.callbacks",
    "TRPO": "algorithms.trpo",
    "Task": "tasks",
    "TensorBoard": "runs.logs",
    "TrainingFailed": "runs.train",
    "Turn": "runs.loop",
    "WeightsAndBiases": "runs.logs",
    "World": "worlds",
    "evaluate": "runs.evaluation",
    "iteration": "runs.loop",
    "load_policy": "policies.files:load",
    "scan": "runs.loop",
    "train": "runs.train",
}

__all__ = [
    "BADMM",
    "GPS",
    "ILQG",
    "LQRGPS",
    "MDGPS",
    "MORE",
    "MOTO",
    "REPS",
    "TRPO",
    "Algorithm",
    "Checkpoint",
    "DAgger",
    "Dyna",
    "Dynamics",
    "EvaluateEvery",
    "Evaluation",
    "FittedDynamics",
    "Gaussian",
    "JaxWorld",
    "LearnedDynamics",
    "Limit",
    "LinearGaussian",
    "LinearGaussianPolicy",
    "ModelTask",
    "MovementPrimitive",
    "MujocoWorld",
    "Network",
    "NetworkPolicy",
    "Plant",
    "PlantWorld",
    "Policy",
    "Problem",
    "Progress",
    "Quadratic",
    "RayWorld",
    "Result",
    "Rollouts",
    "Run",
    "RunError",
    "Spec",
    "StopAtSuccess",
    "Task",
    "TensorBoard",
    "TrainingFailed",
    "Turn",
    "WeightsAndBiases",
    "World",
    "evaluate",
    "iteration",
    "load_policy",
    "scan",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pilotfish' has no attribute {name!r}")
    module, _, other = _HOME[name].partition(":")
    found = getattr(import_module(f"pilotfish.{module}"), other or name)
    if isinstance(found, type):
        from pilotfish.manual import explained

        found = explained(found)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
