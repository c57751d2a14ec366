"""Tasks whose dynamics are a MuJoCo model, written as MJCF in the task's own file.

The state is [qpos, qvel, sensordata] (worlds/mujoco.py). A picture is what the model's camera "view" sees.
"""

# pyright: reportAttributeAccessIssue=false
import copy
import dataclasses
from abc import abstractmethod
from collections.abc import Mapping

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Float
from mujoco.batch import Batch

from pilotfish.tasks import Task
from pilotfish.types import LinearDynamics
from pilotfish.worlds.mujoco import MujocoWorld

CAMERA = "view"


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

    def linearised(
        self, x: Float[np.ndarray, "n dx"], u: Float[np.ndarray, "n du"], substeps: int, eps: float = 1e-6
    ) -> LinearDynamics:
        """The dynamics about n states and actions of the first condition, by central differences, without noise.

        An action lasts `substeps` timesteps of the model. Entries of x and u are moved by `eps` times one plus their
        size; of an action at its limit, one of both moves has no effect. What sensors read follows from positions and
        velocities, so their columns of A are zero.
        """
        model = self.of_condition(0)
        known, du = model.nq + model.nv, model.nu
        z = np.concatenate([x[:, :known], u], 1)
        step = eps * (1.0 + np.abs(z))
        moves = np.concatenate([np.zeros((1, known + du)), np.eye(known + du), -np.eye(known + du)])
        moved = (z[:, None] + moves * step[:, None]).reshape(-1, known + du)
        batch = Batch(model, len(moved), persistent=False)
        batch.qpos[...], batch.qvel[...], batch.ctrl[...] = np.split(moved, [model.nq, known], 1)
        batch.step(nstep=substeps, stage=mujoco.mjtStage.mjSTAGE_VEL.value)
        after = np.concatenate([batch.qpos, batch.qvel, batch.sensordata], 1).reshape(len(x), len(moves), -1)
        ahead, behind = after[:, 1 : known + du + 1], after[:, known + du + 1 :]
        A, B = np.split(np.moveaxis((ahead - behind) / (2 * step[..., None]), 1, 2), [known], 2)
        c = after[:, 0] - np.einsum("nij,nj->ni", A, z[:, :known]) - np.einsum("nij,nj->ni", B, u)
        A = np.pad(A, ((0, 0), (0, 0), (0, model.nsensordata)))
        return LinearDynamics(*map(jnp.asarray, (A, B, c, np.zeros_like(A))))


class MujocoTask(Task):
    """What is to be done in a MuJoCo simulation."""

    def world(self) -> MujocoWorld:
        simulation = self.simulation()
        return MujocoWorld(self.problem(), simulation.model, simulation.fields, simulation.forces)

    @abstractmethod
    def simulation(self) -> Simulation:
        """The model, and what of it differs between conditions."""
