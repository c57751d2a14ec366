"""The world of MuJoCo models: all rollouts advance together, on native threads.

    state    x = [qpos, qvel, sensordata]    by its sensors the model says what else belongs to the state
    action   u = ctrl                        held for dt, which is a whole number of the model's timesteps

A simulation that diverges MuJoCo resets without raising; its warning counters tell. Such a rollout ends there: what
would follow is nan, and no step of it counts.
"""

# pyright: reportAttributeAccessIssue=false
import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping

import equinox as eqx
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import ArrayLike, Float
from mujoco.batch import MODEL_FIELDS, Batch, SimulationError

from pilotfish.types import Dynamics, LinearDynamics, LinearGaussian, Problem
from pilotfish.worlds import host
from pilotfish.worlds.host import HostWorld
from pilotfish.worlds.plant import Moved, Plant

CURRENT = mujoco.mjtStage.mjSTAGE_VEL.value  # what is computed at a new state: all that position and velocity determine
BROKEN = [
    int(kind)
    for kind in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
        mujoco.mjtWarning.mjWARN_BADCTRL,
    )
]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without MuJoCo's warnings, which it would print, and write to a file in the working directory."""
    before, silent = mujoco.MjLogConfig.get(), mujoco.MjLogConfig.get()
    silent.logto_console = silent.logto_file = False
    silent.set()
    try:
        yield
    finally:
        before.set()


@dataclasses.dataclass(frozen=True, eq=False)
class Simulation(Dynamics):
    """What is simulated."""

    model: mujoco.MjModel
    fields: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Fields of the model that differ between conditions, by name, with the condition as leading axis: the positions
    of bodies, say, as "body_pos" (N, nbody, 3)."""
    forces: np.ndarray | None = None
    """Forces and torques on every body at every step of an episode, in the world's frame: (T, nbody, 6), N and N m."""
    threads: int = 0
    """Native threads; 0 for one a core. The rollouts do not depend on it."""

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
        for n, x in enumerate(np.concatenate([qpos, qvel], 1)):
            model = self.of_condition(n)
            data = mujoco.MjData(model)
            self.place(data, x)
            mujoco.mj_forward(model, data)
            states.append(state(data))
        return np.array(states)

    def place(self, data: mujoco.MjData | Batch, x: np.ndarray) -> None:
        """Put one simulation, or each of a batch, into the positions and velocities with which a state x begins."""
        data.qpos[...] = x[..., : self.model.nq]
        data.qvel[...] = x[..., self.model.nq : self.model.nq + self.model.nv]

    def substeps(self, dt: float) -> int:
        """Timesteps of the model in an action of dt seconds."""
        step = self.model.opt.timestep
        count = round(dt / step)
        if count < 1 or abs(count * step - dt) > 1e-9 * dt:
            raise ValueError(f"dt={dt} is no multiple of the model's timestep, {step}: choose one that is.")
        return count

    @property
    def traceable(self) -> bool:
        return False

    def simulate(
        self, problem: Problem, start: Float[ArrayLike, "N A dx"], controllers: LinearGaussian
    ) -> tuple[Float[np.ndarray, "N A T1 dx"], Float[np.ndarray, "N A T du"]]:
        start, K, k = (np.asarray(a) for a in (start, controllers.K, controllers.k))
        (N, A, dx), low, high = start.shape, np.asarray(problem.action_low), np.asarray(problem.action_high)

        def act(t: int, x: Float[np.ndarray, "n dx"]) -> Float[np.ndarray, "n du"]:
            u = np.einsum("naij,naj->nai", K[:, :, t], x.reshape(N, A, dx)) + k[:, :, t]
            return np.clip(u, low, high).reshape(N * A, -1)

        plant = MujocoPlant(self, problem.dt)
        x0 = plant.place(start.reshape(N * A, dx), np.repeat(np.arange(N), A).tolist(), ())
        path = host.drive(problem, plant, x0, act)
        return path.x.reshape(N, A, -1, dx), path.u.reshape(N, A, problem.horizon, -1)

    @quiet()
    def linearised(
        self,
        problem: Problem,
        x: Float[ArrayLike, "N T dx"],
        u: Float[ArrayLike, "N T du"],
        eps: float = 1e-6,
    ) -> LinearDynamics:
        """The same by central differences, also through contact.

        Entries of x and u are moved by `eps` times one plus their size. What sensors read follows from positions and
        velocities, so the columns of A that belong to sensors are zero. At its limit an action is moved inwards only.
        """
        x, u = np.asarray(x), np.asarray(u)
        (N, T, du), known = u.shape, self.model.nq + self.model.nv
        z = np.concatenate([x[..., :known], u], -1).reshape(N * T, -1)
        step = eps * (1.0 + np.abs(z))
        moves = np.concatenate([np.zeros((1, known + du)), np.eye(known + du), -np.eye(known + du)])
        moved = z[:, None] + moves * step[:, None]
        moved[..., known:] = np.clip(
            moved[..., known:], np.asarray(problem.action_low), np.asarray(problem.action_high)
        )
        flat = moved.reshape(-1, known + du)
        batch = self.batch(np.repeat(np.arange(N), T * len(moves)), persistent=False)
        self.place(batch, flat)
        batch.ctrl[...] = flat[:, known:]
        if self.forces is not None:
            batch.xfrc_applied[...] = np.tile(np.repeat(self.forces, len(moves), 0), (N, 1, 1))
        batch.step(nstep=self.substeps(problem.dt), stage=CURRENT)
        after = state(batch).reshape(N * T, len(moves), -1)
        up, down = slice(1, known + du + 1), slice(known + du + 1, None)
        apart = np.einsum("nii->ni", moved[:, up] - moved[:, down])
        columns = np.moveaxis(after[:, up] - after[:, down], 1, 2) / np.where(apart > 0, apart, np.inf)[:, None]
        A = np.zeros((N, T, problem.dx, problem.dx))
        A[..., :known], B = columns[..., :known].reshape(N, T, -1, known), columns[..., known:].reshape(N, T, -1, du)
        c = after[:, 0] - np.einsum("nij,nj->ni", columns, moved[:, 0])
        return LinearDynamics(*map(jnp.asarray, (A, B, c.reshape(N, T, -1), np.zeros_like(A))))

    def batch(self, condition: np.ndarray, persistent: bool = True) -> Batch:
        """One simulation of each condition that is named."""
        batch = Batch(self.model, len(condition), self.threads, persistent)
        for name, values in self.fields.items():
            batch.expand(name)[...] = np.asarray(values)[condition]
        return batch


class MujocoPlant(Plant):
    """Simulations of a model, all stepped together on native threads."""

    def __init__(self, simulation: Simulation, dt: float):
        self._simulation, self._substeps = simulation, simulation.substeps(dt)

    @quiet()
    def place(self, x, conditions, randoms):
        self._batch = self._simulation.batch(np.asarray(conditions))
        self._simulation.place(self._batch, x)
        failed = _failed(self._batch.forward, stage=CURRENT)
        return self._states(np.isin(np.arange(len(x)), failed, invert=True))

    @quiet()
    def step(self, u, t, moving):
        batch, forces = self._batch, self._simulation.forces
        batch.ctrl[moving] = u[moving]
        if forces is not None:
            batch.xfrc_applied[...] = forces[t]
        failed = _failed(batch.step, ids=np.flatnonzero(moving), nstep=self._substeps, stage=CURRENT)
        whole = moving & ~batch.warning[:, BROKEN, 1].any(1)
        whole[failed] = False
        return Moved(self._states(whole))

    def _states(self, whole: np.ndarray) -> np.ndarray:
        return np.where(whole[:, None], state(self._batch), np.nan)


class MujocoWorld(HostWorld):
    """Simulates a MuJoCo model; the problem says what it is for."""

    problem: Problem
    """Its dynamics are the simulation."""
    simulation: Simulation = eqx.field(static=True)

    def __init__(
        self,
        problem: Problem,
        model: mujoco.MjModel,
        fields: Mapping[str, np.ndarray] | None = None,
        forces: np.ndarray | None = None,
        threads: int = 0,
    ):
        """`fields`, `forces` and `threads` are those of Simulation."""
        self.simulation = Simulation(model, fields or {}, forces, threads)
        self.problem = dataclasses.replace(problem, dynamics=self.simulation)

    def __check_init__(self):
        problem, model, fields, forces = self.problem, self.model, self.simulation.fields, self.simulation.forces
        entries = f"nq + nv + nsensordata = {model.nq} + {model.nv} + {model.nsensordata}"
        if problem.dx != model.nq + model.nv + model.nsensordata:
            raise ValueError(
                f"conditions.mean has {problem.dx} columns, but a state of this model has {entries}: its positions, "
                "its velocities and what its sensors read."
            )
        if problem.du != model.nu:
            raise ValueError(
                f"initial_std has {problem.du} entries, but the model has {model.nu} actuators: give one for each."
            )
        if model.na:
            raise ValueError(
                f"the model's actuators have {model.na} activations, which no policy would see: use actuators without "
                "them (motor, position, velocity)."
            )
        late = [i for i in range(model.nsensor) if model.sensor_needstage[i] == mujoco.mjtStage.mjSTAGE_ACC]
        if late:
            raise ValueError(
                f"sensor {model.sensor(late[0]).name or late[0]!r} reads accelerations or forces, which follow from "
                "the action: what belongs to the state is known before. Remove it."
            )
        if problem.cost is None:
            raise ValueError("problem.cost is None: MujocoWorld has no other cost than the problem's.")
        if np.any(np.asarray(problem.noise_std) != 0):
            raise ValueError(f"noise_std={problem.noise_std}: MuJoCo has no process noise. Leave it out.")
        self.simulation.substeps(problem.dt)  # raises what is wrong with dt
        N = len(problem.conditions.mean)
        for name, values in fields.items():
            if name not in MODEL_FIELDS:
                raise ValueError(f"fields: a MuJoCo model has no field {name!r}, or none that can differ.")
            shape = (N, *getattr(model, name).shape)
            if np.shape(values) != shape:
                raise ValueError(f"fields[{name!r}] has the shape {np.shape(values)}: it must be {shape}.")
        if forces is not None and forces.shape != (problem.horizon, model.nbody, 6):
            raise ValueError(f"forces has the shape {forces.shape}: it must be {(problem.horizon, model.nbody, 6)}.")

    @property
    def model(self) -> mujoco.MjModel:
        return self.simulation.model

    @property
    def one_by_one(self) -> bool:
        return False

    def plant(self, copies: int) -> MujocoPlant:
        return MujocoPlant(self.simulation, self.problem.dt)


def state(data: mujoco.MjData | Batch) -> np.ndarray:
    """The state x of one simulation, or of each of a batch."""
    return np.concatenate([data.qpos, data.qvel, data.sensordata], -1)


def diverged(data: mujoco.MjData) -> bool:
    """Whether a simulation was reset by MuJoCo, or would be."""
    return any(data.warning[kind].number for kind in BROKEN)


def _failed(call: Callable, **arguments) -> np.ndarray:
    """Calls a method of a batch; the simulations in which MuJoCo raised an error. The others did what was asked."""
    try:
        call(**arguments)
    except SimulationError as error:
        return np.asarray(error.ids)
    return np.zeros(0, int)
