"""The world of MuJoCo models: all rollouts advance together, on native threads.

    state    x = [qpos, qvel, act, sensordata]    by its sensors the model says what else belongs to the state
    action   u = ctrl                             held for dt, which is a whole number of the model's timesteps

What sensors of accelerations, of forces, and with a delay or an interval read does not follow from the state: they are
left out of it. Whatever else MuJoCo carries from step to step (delays of actuators, states of plugins, plastic
deformation, sleep) no policy would see: such models are refused. Mocap bodies stand still where the model has them, for
no action moves them. Every action begins without the acceleration at which the constraint solver would start anew (warm
start): with few iterations it would change the next state by as much as the solver errs, a few percent and more, and so
that state would not follow from state and action alone.

What moves beside the model, by code of its own, moves mocap bodies, whose places sensors read: a ball that flies, say.
It may hide some of what determines the next state (the ball's velocity), so nothing is then said to be known of the
dynamics; and it may bring the final cost.

A simulation that diverges MuJoCo resets without raising; its warning counters tell. Such a rollout ends there: what
would follow is nan, and no step of it counts.
"""

# pyright: reportAttributeAccessIssue=false
import contextlib
import copy
import dataclasses
import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

import equinox as eqx
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import ArrayLike, Bool, Float, Int
from mujoco.batch import MODEL_FIELDS, Batch, SimulationError

from pilotfish.types import Dynamics, Limit, LinearDynamics, LinearGaussian, Problem
from pilotfish.worlds import host, starts
from pilotfish.worlds.host import HostWorld
from pilotfish.worlds.plant import Moved, Plant

BODY = [int(kind) for kind in (mujoco.mjtObj.mjOBJ_BODY, mujoco.mjtObj.mjOBJ_XBODY)]
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


class Moving(ABC):
    """What moves beside the simulations of a batch, in the episodes that have begun."""

    @abstractmethod
    def step(self, batch: Batch) -> None:
        """Go on by one timestep of the model, which the simulations have just made; moves their mocap bodies."""

    @abstractmethod
    def finish(self, batch: Batch, whole: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Carry on after the last step, in the rows that are `whole`, until it is known what the end costs; that cost.
        Asked for only where the problem has no formula of the final cost.
        """


class Beside(ABC):
    """What moves beside a model by code of its own. The simulations feel nothing of it."""

    @abstractmethod
    def begin(self, batch: Batch, conditions: Sequence[int], randoms: Sequence[np.random.Generator]) -> Moving:
        """Begin an episode beside each simulation of a batch, each of its condition and with its own random numbers;
        puts the mocap bodies where they begin.
        """


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
    beside: Beside | None = None
    """What moves beside the model."""

    def of_condition(self, n: int) -> mujoco.MjModel:
        """The model as it is in condition n."""
        if not self.fields:
            return self.model
        model = copy.copy(self.model)
        for name, values in self.fields.items():
            getattr(model, name)[...] = values[n]
        return model

    @functools.cached_property
    def late(self) -> list[int]:
        """The sensors that are left out of the state."""
        model = self.model
        past = (model.sensor_delay > 0) | (model.sensor_interval[:, 0] > 0)
        return np.flatnonzero(past | (model.sensor_needstage == mujoco.mjtStage.mjSTAGE_ACC)).tolist()

    @functools.cached_property
    def read(self) -> Int[np.ndarray, "entries"]:
        """Which entries of sensordata belong to the state."""
        ends = zip(self.model.sensor_adr, self.model.sensor_dim, strict=True)
        entries = [range(adr, adr + dim) for i, (adr, dim) in enumerate(ends) if i not in self.late]
        return np.array([entry for of_sensor in entries for entry in of_sensor], int)

    @functools.cached_property
    def clocks(self) -> Int[np.ndarray, "clocks"]:
        """The entries of a state that sensors of the time read."""
        clocks = self.model.sensor_adr[self.model.sensor_type == mujoco.mjtSensor.mjSENS_CLOCK]
        return self.known + np.flatnonzero(np.isin(self.read, clocks))

    @functools.cached_property
    def places(self) -> Int[np.ndarray, "nmocap 3"]:
        """The entries of a state at which sensors read where the mocap bodies are that something moves."""
        model, entries = self.model, []
        if self.beside is None:
            return np.zeros((0, 3), int)
        place = (model.sensor_type == mujoco.mjtSensor.mjSENS_FRAMEPOS) & (model.sensor_reftype == 0)
        for i in range(model.nmocap):
            body = int(np.flatnonzero(model.body_mocapid == i)[0])
            reads = np.flatnonzero(place & np.isin(model.sensor_objtype, BODY) & (model.sensor_objid == body))
            if not len(reads):
                raise ValueError(
                    f"mocap body {model.body(body).name or body!r} moves, but no sensor reads where it is: add "
                    '<framepos objtype="xbody" objname="..."/>.'
                )
            entries.append(self.known + np.searchsorted(self.read, model.sensor_adr[reads[0]]) + np.arange(3))
        return np.array(entries, int).reshape(-1, 3)

    @property
    def known(self) -> int:
        """Entries of a state before what sensors read: positions, velocities, activations."""
        return self.model.nq + self.model.nv + self.model.na

    @property
    def dx(self) -> int:
        return self.known + len(self.read)

    def state(self, data: mujoco.MjData | Batch) -> np.ndarray:
        """The state x of one simulation, or of each of a batch."""
        return np.concatenate([data.qpos, data.qvel, data.act, data.sensordata[..., self.read]], -1)

    @quiet()
    def states(
        self, qpos: np.ndarray, qvel: np.ndarray, act: np.ndarray | None = None, time: float = 0.0
    ) -> np.ndarray:
        """The states (N, dx) of all conditions at these positions (N, nq), velocities (N, nv), activations (N, na)."""
        states = []
        act = np.zeros((len(qpos), self.model.na)) if act is None else act
        for n, known in enumerate(np.concatenate([qpos, qvel, act], 1)):
            model = self.of_condition(n)
            data = mujoco.MjData(model)
            x = np.append(known, np.full(len(self.read), time))
            x[self.places] = data.mocap_pos[: len(self.places)]
            self.place(data, x)
            mujoco.mj_forward(model, data)
            states.append(self.state(data))
        return np.array(states)

    def place(self, data: mujoco.MjData | Batch, x: np.ndarray) -> None:
        """Put one simulation, or each of a batch, into the state x, as far as it is no sensor's reading; and where the
        state says that they are the mocap bodies that something moves.
        """
        nq, nv = self.model.nq, self.model.nv
        data.qpos[...], data.qvel[...] = x[..., :nq], x[..., nq : nq + nv]
        data.act[...] = x[..., nq + nv : self.known]
        if len(self.clocks):
            data.time = x[..., self.clocks[0]]
        if len(self.places):
            data.mocap_pos[...] = x[..., self.places]

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

        plant = MujocoPlant(self, problem)
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

        Entries of x and u are moved by `eps` times (their size plus their unit, see `_units`); at the limit of an
        action or an activation inwards only. What sensors read follows from the rest, except the time: their columns
        of A are zero, their rows are not. nan where MuJoCo fails.
        """
        x, u = np.asarray(x), np.asarray(u)
        (N, T, du), model = u.shape, self.model
        free = np.concatenate([np.arange(self.known), self.clocks])  # the entries of x from which the others follow
        z = np.concatenate([x[..., free], u], -1).reshape(N * T, -1)
        dz, dims = z.shape[1], len(free)
        low, high = np.full(dz, -np.inf), np.full(dz, np.inf)
        low[dims:], high[dims:] = np.asarray(problem.action_low), np.asarray(problem.action_high)
        activations = slice(model.nq + model.nv, self.known)
        low[activations], high[activations] = starts.activation_limits(model)
        step = eps * (_units(model, np.asarray(problem.initial_std), len(self.clocks)) + np.abs(z))
        moves = np.concatenate([np.zeros((1, dz)), np.eye(dz), -np.eye(dz)])
        moved = np.clip(z[:, None] + moves * step[:, None], np.minimum(low, z[:, None]), np.maximum(high, z[:, None]))
        moved[..., dims:] = np.clip(moved[..., dims:], low[dims:], high[dims:])
        flat = moved.reshape(-1, dz)
        before = np.zeros((len(flat), problem.dx))
        before[:, free] = flat[:, :dims]
        batch = self.batch(np.repeat(np.arange(N), T * len(moves)), persistent=False)
        assert batch.sensordata is not None  # what a batch computes it keeps only if it was asked for before
        self.place(batch, before)
        batch.ctrl[...] = flat[:, dims:]
        if self.forces is not None:
            batch.xfrc_applied[...] = np.tile(np.repeat(self.forces, len(moves), 0), (N, 1, 1))
        failed = _failed(batch.step, nstep=self.substeps(problem.dt), stage=CURRENT)
        after = self.state(batch)
        after[failed] = np.nan
        after[batch.warning[:, BROKEN, 1].any(1)] = np.nan
        after = after.reshape(N * T, len(moves), -1)
        up, down = slice(1, dz + 1), slice(dz + 1, None)
        apart = np.einsum("nii->ni", moved[:, up] - moved[:, down])
        columns = np.moveaxis(after[:, up] - after[:, down], 1, 2) / np.where(apart > 0, apart, np.inf)[:, None]
        A = np.zeros((N, T, problem.dx, problem.dx))
        A[..., free], B = columns[..., :dims].reshape(N, T, -1, dims), columns[..., dims:].reshape(N, T, -1, du)
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

    def __init__(self, simulation: Simulation, problem: Problem):
        self._simulation, self._substeps = simulation, simulation.substeps(problem.dt)
        self._about = np.asarray(problem.conditions.mean)

    @quiet()
    def possible(self, x, conditions):
        models = {n: self._simulation.of_condition(n) for n in set(conditions)}
        noisy = [not np.array_equal(row, self._about[n]) for row, n in zip(x, conditions, strict=True)]
        rows = zip(x, conditions, noisy, strict=True)
        return np.array([starts.possible(models[n], row, self._about[n]) if far else row for row, n, far in rows])

    @quiet()
    def place(self, x, conditions, randoms):
        self._batch = self._simulation.batch(np.asarray(conditions))
        self._simulation.place(self._batch, x)
        failed = _failed(self._batch.forward, stage=CURRENT)
        if self._simulation.beside is not None:
            self._moving = self._simulation.beside.begin(self._batch, conditions, randoms)
            failed = np.union1d(failed, _failed(self._batch.forward, stage=CURRENT))
        return self._states(np.isin(np.arange(len(x)), failed, invert=True))

    @quiet()
    def step(self, u, t, moving):
        batch, forces = self._batch, self._simulation.forces
        batch.ctrl[moving], batch.qacc_warmstart[...] = u[moving], 0.0
        if forces is not None:
            batch.xfrc_applied[...] = forces[t]
        ids = np.flatnonzero(moving)
        if self._simulation.beside is None:
            failed = _failed(batch.step, ids=ids, nstep=self._substeps, stage=CURRENT)
        else:
            failed = self._step_with_what_moves(ids)
        whole = moving & ~batch.warning[:, BROKEN, 1].any(1)
        whole[failed] = False
        return Moved(self._states(whole))

    @quiet()
    def finish(self, whole):
        return self._moving.finish(self._batch, whole)

    def _step_with_what_moves(self, ids: np.ndarray) -> np.ndarray:
        """The same step, one timestep after the other; the simulations in which MuJoCo raised an error."""
        failed = np.zeros(0, int)
        for _ in range(self._substeps):
            failed = np.union1d(failed, _failed(self._batch.step, ids=ids, stage=CURRENT))
            self._moving.step(self._batch)
        return np.union1d(failed, _failed(self._batch.forward, ids=ids, stage=CURRENT))  # sensors of what has moved

    def _states(self, whole: np.ndarray) -> np.ndarray:
        return np.where(whole[:, None], self._simulation.state(self._batch), np.nan)


def angles_of(model: mujoco.MjModel) -> tuple[int, ...]:
    """The entries of qpos that may turn around: those of hinges without limits."""
    turns = (model.jnt_type == starts.HINGE) & (model.jnt_limited == 0)
    return tuple(model.jnt_qposadr[turns].tolist())


def limits_of(model: mujoco.MjModel) -> tuple[Limit, ...]:
    """Of hinges and slides; their velocities follow all positions in a state."""
    moves = np.isin(model.jnt_type, (starts.HINGE, starts.SLIDE))
    joints = np.flatnonzero(moves & (model.jnt_limited != 0) & (model.jnt_range[:, 0] < model.jnt_range[:, 1]))
    at, moving = model.jnt_qposadr, model.nq + model.jnt_dofadr
    return tuple(Limit(int(at[j]), int(moving[j]), *map(float, model.jnt_range[j])) for j in joints)


class MujocoWorld(HostWorld):
    """Simulates a MuJoCo model; the problem says what it is for.

    ValueError, naming what it is, where problem and model do not fit, or where a state of the model would not determine
    the next.

    Example:

    >>> import jax.numpy as jnp
    >>> import mujoco
    >>> import pilotfish as pf
    >>> cart = '<body><joint name="rail" type="slide" axis="1 0 0"/><geom size=".1"/></body>'
    >>> motor = '<actuator><motor joint="rail"/></actuator>'
    >>> model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{cart}</worldbody>{motor}</mujoco>")
    >>> start = pf.Gaussian(jnp.zeros((1, 2)), jnp.zeros((1, 2, 2)))  # of [qpos, qvel]
    >>> world = pf.MujocoWorld(pf.Problem(50, 0.02, start, [1.0], cost=lambda x, u, t: (x[0] - 1.0) ** 2), model)
    >>> world.problem.dynamics is not None, world.traceable  # the simulation is known, but JAX cannot compile it
    (True, False)
    """

    problem: Problem
    """Its dynamics are the simulation, None if something moves beside the model; its angles and limits, where the
    problem names none, those of the model's joints."""
    simulation: Simulation = eqx.field(static=True)
    """What simulates the model."""

    def __init__(
        self,
        problem: Problem,
        model: mujoco.MjModel,
        fields: Mapping[str, np.ndarray] | None = None,
        forces: np.ndarray | None = None,
        threads: int = 0,
        beside: Beside | None = None,
    ):
        """`fields`, `forces`, `threads` and `beside` are those of Simulation."""
        self.simulation = Simulation(model, fields or {}, forces, threads, beside)
        told = {"dynamics": None if beside else self.simulation}
        if problem.dx == self.simulation.dx:  # else all of it is refused
            told |= {"angles": problem.angles or angles_of(model), "limits": problem.limits or limits_of(model)}
        self.problem = dataclasses.replace(problem, **told)

    def __check_init__(self):
        problem, model, fields, forces = self.problem, self.model, self.simulation.fields, self.simulation.forces
        check_whole(model)
        if problem.dx != self.simulation.dx:
            raise ValueError(
                f"conditions.mean has {problem.dx} columns, but a state of this model has nq + nv + na + sensors = "
                f"{model.nq} + {model.nv} + {model.na} + {len(self.simulation.read)}: its positions, its velocities, "
                "its activations, and what its sensors read."
            )
        if problem.du != model.nu:
            raise ValueError(
                f"initial_std has {problem.du} entries, but the model has {model.nu} actions (ctrl): give one for each."
            )
        for remark in remarks(self.simulation):
            warnings.warn(remark, stacklevel=2)
        if problem.cost is None:
            raise ValueError("problem.cost is None: MujocoWorld has no other cost than the problem's.")
        if problem.final_cost is None and self.simulation.beside is None:
            raise ValueError(
                "problem.final_cost is None: only what moves beside the model could bring it, and nothing does."
            )
        self.simulation.places  # noqa: B018  raises where it is not known where something moves
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

    def beyond(self):
        binary = np.empty(mujoco.mj_sizeModel(self.model), np.uint8)
        mujoco.mj_saveModel(self.model, None, binary)
        return {"model": binary, "forces": self.simulation.forces, **self.simulation.fields}

    def plant(self, copies: int) -> MujocoPlant:
        return MujocoPlant(self.simulation, self.problem)


def remarks(simulation: Simulation) -> list[str]:
    """What a user should know of a model: what is no part of its state, and what nobody moves."""
    model, said = simulation.model, []
    if simulation.late:
        names = ", ".join(repr(model.sensor(i).name or i) for i in simulation.late)
        said.append(
            f"sensors left out of the state: {names}. They read accelerations, forces or the past, which do not follow "
            "from positions, velocities and activations."
        )
    if model.nmocap and simulation.beside is None:
        names = ", ".join(repr(model.body(i).name or i) for i in np.flatnonzero(model.body_mocapid >= 0))
        said.append(f"mocap bodies that no action moves: {names}. They stay where the model or its keyframe has them.")
    return said


def check_whole(model: mujoco.MjModel) -> None:
    """That nothing which MuJoCo carries from step to step is hidden from the state."""
    delayed = np.flatnonzero(model.actuator_delay > 0)
    if len(delayed):
        name, delay = model.actuator(delayed[0]).name or int(delayed[0]), model.actuator_delay[delayed[0]]
        raise ValueError(
            f"actuator {name!r} has delay={delay:g}: what was asked of it before is no part of the state, and so no "
            'policy would see it. Remove the delay, or write it as an activation: dyntype="filter".'
        )
    for size, what, remedy in (
        (model.npluginstate, "states of its plugins", "Remove the plugins that have one."),
        (model.nplastic, "plastic deformation of its flexes", "Make them elastic."),
        (
            model.opt.enableflags & mujoco.mjtEnableBit.mjENBL_SLEEP,
            "which bodies are asleep",
            'Set <flag sleep="disable"/> in its <option>.',
        ),
    ):
        if size:
            raise ValueError(f"the model carries {what} from step to step, which no policy would see. {remedy}")


def _units(model: mujoco.MjModel, initial_std: np.ndarray, clocks: int) -> np.ndarray:
    """The unit of every entry of [qpos, qvel, act, time, ctrl] by which differences are taken.

    Angles have 1 rad, lengths the mean size of the bodies, actions what is first tried of them, and activations what
    their actuator's first action has: so results do not depend on the units of lengths and actions.
    """
    initial_std = np.where(initial_std > 0, initial_std, 1.0)
    position, velocity = np.ones(model.nq), np.ones(model.nv)
    for kind, q, v in zip(model.jnt_type, model.jnt_qposadr, model.jnt_dofadr, strict=True):
        size = {mujoco.mjtJoint.mjJNT_SLIDE: 1, mujoco.mjtJoint.mjJNT_FREE: 3}.get(mujoco.mjtJoint(kind), 0)
        position[q : q + size] = velocity[v : v + size] = model.stat.meansize or 1.0
    activation = np.ones(model.na)
    for first, count, ctrl in zip(model.actuator_actadr, model.actuator_actnum, model.actuator_ctrladr, strict=True):
        activation[max(first, 0) : max(first, 0) + count] = initial_std[ctrl]
    return np.concatenate([position, velocity, activation, np.ones(clocks), initial_std])


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
