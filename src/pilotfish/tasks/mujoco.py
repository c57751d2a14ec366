"""Tasks whose dynamics are a MuJoCo model, written as MJCF in the task's own file.

The state is [qpos, qvel, sensordata] (worlds/mujoco.py). A picture is what the model's camera "view" sees.
"""

# pyright: reportAttributeAccessIssue=false
import copy
import dataclasses
from abc import abstractmethod
from collections.abc import Mapping

import mujoco
import numpy as np

from pilotfish.tasks import Task
from pilotfish.worlds.mujoco import MujocoWorld

CAMERA = "view"

# MJCF of the light and the ground of tasks that look alike
VISUAL = '<visual><headlight ambient=".4 .4 .4" diffuse=".5 .5 .5"/><global offwidth="1024" offheight="768"/></visual>'
GRID = (
    '<texture name="grid" type="2d" builtin="checker" rgb1=".93 .94 .95" rgb2=".87 .89 .91" width="256" height="256"/>'
)


@dataclasses.dataclass(frozen=True)
class Simulation:
    """What is simulated."""

    model: mujoco.MjModel
    fields: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Fields of the model that differ between conditions, with the condition as leading axis."""
    forces: np.ndarray | None = None
    """Forces and torques on every body at every step, in the world's frame: (T, nbody, 6), N and N m."""

    def of_condition(self, n: int) -> mujoco.MjModel:
        """The model as it is in condition n."""
        if not self.fields:
            return self.model
        model = copy.copy(self.model)
        for name, values in self.fields.items():
            getattr(model, name)[...] = values[n]
        return model

    def states(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """The states (N, dx) of all conditions at these positions (N, nq) and velocities (N, nv)."""
        states = []
        for n, (position, velocity) in enumerate(zip(qpos, qvel, strict=True)):
            model = self.of_condition(n)
            data = mujoco.MjData(model)
            data.qpos[:], data.qvel[:] = position, velocity
            mujoco.mj_forward(model, data)
            states.append(np.concatenate([data.qpos, data.qvel, data.sensordata]))
        return np.array(states)


class MujocoTask(Task):
    """What is to be done in a MuJoCo simulation."""

    def world(self) -> MujocoWorld:
        simulation = self.simulation()
        return MujocoWorld(self.problem(), simulation.model, simulation.fields, simulation.forces)

    @abstractmethod
    def simulation(self) -> Simulation:
        """The model, and what of it differs between conditions."""
