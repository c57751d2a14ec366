"""The world of MuJoCo models: all rollouts advance together, on native threads.

    state    x = [qpos, qvel, sensordata]    by its sensors the model says what else belongs to the state
    action   u = ctrl                        held for dt, which is a whole number of the model's timesteps

A simulation that diverges MuJoCo resets without raising; its warning counters tell. Such a rollout ends there: what
would follow is nan, and `valid` is False.
"""

# pyright: reportAttributeAccessIssue=false
import contextlib
from collections.abc import Callable, Iterator, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, ArrayLike, Float
from mujoco.batch import MODEL_FIELDS, Batch, SimulationError

from pilotfish.policies import Policy
from pilotfish.types import Key, LinearDynamics, Problem, Rollouts
from pilotfish.worlds import World, host

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
def _quiet() -> Iterator[None]:
    """Without MuJoCo's warnings, which it would print, and write to a file in the working directory."""
    before, silent = mujoco.MjLogConfig.get(), mujoco.MjLogConfig.get()
    silent.logto_console = silent.logto_file = False
    silent.set()
    try:
        yield
    finally:
        before.set()


class MujocoWorld(World):
    """Simulates a MuJoCo model; the problem says what it is for."""

    problem: Problem
    model: mujoco.MjModel = eqx.field(static=True)
    fields: Mapping[str, np.ndarray] = eqx.field(default_factory=dict)
    """Fields of the model that differ between conditions, by name, with the condition as leading axis: the positions
    of bodies, say, as "body_pos" (N, nbody, 3)."""
    forces: np.ndarray | None = None
    """Forces and torques on every body at every step of an episode, in the world's frame: (T, nbody, 6), N and N m."""
    threads: int = eqx.field(static=True, default=0)
    """Native threads; 0 for one a core. The rollouts do not depend on it."""

    def __check_init__(self):
        problem, model = self.problem, self.model
        state = f"nq + nv + nsensordata = {model.nq} + {model.nv} + {model.nsensordata}"
        if problem.dx != model.nq + model.nv + model.nsensordata:
            raise ValueError(
                f"conditions.mean has {problem.dx} columns, but a state of this model has {state}: its positions, its "
                "velocities and what its sensors read."
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
        if problem.noise_std is not None:
            raise ValueError("noise_std: MuJoCo has no process noise. Give None.")
        self.substeps  # noqa: B018  raises what is wrong with dt
        N = len(problem.conditions.mean)
        for name, values in self.fields.items():
            if name not in MODEL_FIELDS:
                raise ValueError(f"fields: a MuJoCo model has no field {name!r}, or none that can differ.")
            shape = (N, *getattr(model, name).shape)
            if np.shape(values) != shape:
                raise ValueError(f"fields[{name!r}] has the shape {np.shape(values)}: it must be {shape}.")
        if self.forces is not None and self.forces.shape != (problem.horizon, model.nbody, 6):
            raise ValueError(
                f"forces has the shape {self.forces.shape}: it must be {(problem.horizon, model.nbody, 6)}."
            )

    @property
    def substeps(self) -> int:
        """Timesteps of the model in one action."""
        step = self.model.opt.timestep
        count = round(self.problem.dt / step)
        if count < 1 or abs(count * step - self.problem.dt) > 1e-9 * self.problem.dt:
            raise ValueError(
                f"dt={self.problem.dt} is no multiple of the model's timestep, {step}: choose one that is."
            )
        return count

    @property
    def traceable(self) -> bool:
        return False

    @_quiet()
    def rollout(self, policy: Policy, samples: int, key: Key) -> Rollouts:
        problem, T = self.problem, self.problem.horizon
        N = len(problem.conditions.mean)
        start, episode = host.begin(problem, policy, samples, key)
        act = host.Actor(problem, policy, episode)
        batch = self._batch(np.repeat(np.arange(N), samples))
        self._place(batch, np.asarray(start).reshape(N * samples, -1))
        x = np.full((N, samples, T + 1, problem.dx), np.nan)
        u = np.full((N, samples, T, problem.du), np.nan)
        states, actions = x.reshape(N * samples, T + 1, -1), u.reshape(N * samples, T, -1)
        alive = np.isin(np.arange(N * samples), _failed(batch.forward, stage=CURRENT), invert=True)
        states[alive, 0] = _state(batch)[alive]
        for t in range(T):
            actions[alive, t] = act(t, x[:, :, t])[alive]
            alive &= np.isfinite(actions[:, t]).all(1)
            if not alive.any():
                break
            batch.ctrl[alive] = host.admissible(problem, actions[alive, t])
            if self.forces is not None:
                batch.xfrc_applied[...] = self.forces[t]
            failed = _failed(batch.step, ids=np.flatnonzero(alive), nstep=self.substeps, stage=CURRENT)
            alive[failed] = False
            alive &= ~batch.warning[:, BROKEN, 1].any(1)
            states[alive, t + 1] = _state(batch)[alive]
        return _recorded(problem, jnp.asarray(x), jnp.asarray(u), episode)

    @_quiet()
    def linearised(self, x: Float[ArrayLike, "n dx"], u: Float[ArrayLike, "n du"], eps: float = 1e-6) -> LinearDynamics:
        """The dynamics about n states and actions of the first condition, by central differences, without noise.

        Entries of x and u are moved by `eps` times one plus their size. What sensors read follows from positions and
        velocities, so the columns of A that belong to sensors are zero. An action at its limit has half its effect.
        """
        n, known, du = len(np.asarray(x)), self.model.nq + self.model.nv, self.problem.du
        z = np.concatenate([np.asarray(x)[:, :known], np.asarray(u)], -1)
        step = eps * (1.0 + np.abs(z))
        moves = np.concatenate([np.zeros((1, known + du)), np.eye(known + du), -np.eye(known + du)])
        moved = z[:, None] + moves * step[:, None]
        batch = self._batch(np.zeros(moved[..., 0].size, int), persistent=False)
        flat = moved.reshape(-1, known + du)
        self._place(batch, flat[:, :known])
        batch.ctrl[...] = host.admissible(self.problem, flat[:, known:])
        batch.step(nstep=self.substeps, stage=CURRENT)
        after = _state(batch).reshape(n, len(moves), -1)
        columns = np.moveaxis(after[:, 1 : known + du + 1] - after[:, known + du + 1 :], 1, 2) / (2 * step[:, None])
        A = np.zeros((n, self.problem.dx, self.problem.dx))
        A[:, :, :known], B = columns[..., :known], columns[..., known:]
        c = after[:, 0] - np.einsum("nij,nj->ni", columns, z)
        return LinearDynamics(*map(jnp.asarray, (A, B, c, np.zeros_like(A))))

    def _batch(self, condition: np.ndarray, persistent: bool = True) -> Batch:
        """One simulation for each entry of `condition`."""
        batch = Batch(self.model, len(condition), self.threads, persistent)
        for name, values in self.fields.items():
            batch.expand(name)[...] = np.asarray(values)[condition]
        return batch

    def _place(self, batch: Batch, start: np.ndarray) -> None:
        batch.qpos[...] = start[:, : self.model.nq]
        batch.qvel[...] = start[:, self.model.nq : self.model.nq + self.model.nv]


def _state(batch: Batch) -> np.ndarray:
    return np.concatenate([batch.qpos, batch.qvel, batch.sensordata], -1)


def _failed(call: Callable, **arguments) -> np.ndarray:
    """Calls a method of a batch; the simulations in which MuJoCo raised an error. The others did what was asked."""
    try:
        call(**arguments)
    except SimulationError as error:
        return np.asarray(error.ids)
    return np.zeros(0, int)


@eqx.filter_jit
def _recorded(problem: Problem, x: Float[Array, "N M T1 dx"], u: Float[Array, "N M T du"], episode) -> Rollouts:
    """Rollouts of these states and actions, with what the problem says of them."""
    assert problem.cost is not None
    cost_of = problem.cost

    def one(x, u):
        o = x if problem.observe is None else jax.vmap(problem.observe)(x)
        cost = jax.vmap(cost_of)(x[:-1], u, jnp.arange(problem.horizon))
        final = jnp.zeros((), cost.dtype) if problem.final_cost is None else problem.final_cost(x[-1])
        return o, jnp.append(cost, final)

    o, cost = jax.vmap(jax.vmap(one))(x, u)
    valid = jnp.isfinite(x).all((2, 3)) & jnp.isfinite(u).all((2, 3)) & jnp.isfinite(cost).all(2)
    return Rollouts(x, o, u, cost, valid, episode)
