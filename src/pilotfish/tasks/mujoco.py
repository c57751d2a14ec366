"""Tasks whose dynamics are a MuJoCo model, written as MJCF in the task's own file.

The state is [qpos, qvel, act, sensordata] (worlds/mujoco.py). A picture is what the model's camera "view" sees, or
where there is none MuJoCo's own.
"""

from abc import abstractmethod

import numpy as np
from jaxtyping import Float

from pilotfish.tasks import Task
from pilotfish.worlds.mujoco import MujocoWorld, Simulation, quiet

CAMERA = "view"

# MJCF of the light and the ground of tasks that look alike
VISUAL = '<visual><headlight ambient=".4 .4 .4" diffuse=".5 .5 .5"/><global offwidth="1024" offheight="768"/></visual>'
GRID = (
    '<texture name="grid" type="2d" builtin="checker" rgb1=".93 .94 .95" rgb2=".87 .89 .91" width="256" height="256"/>'
)


class MujocoTask(Task):
    """What is to be done in a MuJoCo simulation."""

    @quiet()
    def world(self) -> MujocoWorld:
        simulation = self.simulation()
        parts = {name: getattr(simulation, name) for name in ("model", "fields", "forces", "threads", "beside")}
        return MujocoWorld(self.problem(), **parts)

    @abstractmethod
    def simulation(self) -> Simulation:
        """The model, and what of it differs between conditions."""

    def afterwards(self, x: Float[np.ndarray, "T1 dx"]) -> Float[np.ndarray, "n dx"]:
        """States that follow an episode of the states x, one every dt, until it is known what it came to: for films."""
        return x[:0]
