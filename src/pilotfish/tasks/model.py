"""Any MuJoCo model as a task: the model's file, and a Python file that says what it shall do.

The state is x = [qpos, qvel, act, sensordata], the action u = ctrl; `describe` names their entries. The Python file
defines in jax.numpy, with the arguments that Problem gives them,

    cost(x, u, t)    and, where wanted,    final_cost(x)    success(x, u)    distance(x, u)    observe(x)

What else it may do is said in tasks/functions.py; `files` names all that a task is made of.
Learning begins with noise about the keyframe's ctrl, or about zero.

A URDF has no actuators: each of its hinges and slides gets a motor, with the joint's effort as its limit. Its meshes at
package://NAME/... lie in a folder NAME, or in the package itself, at or above the URDF's own folder.
"""

# pyright: reportAttributeAccessIssue=false
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import mujoco
import numpy as np

from pilotfish import sources
from pilotfish.tasks import Entry, functions
from pilotfish.tasks.mujoco import MujocoTask
from pilotfish.types import Gaussian, LinearGaussian, Problem, identity, no_cost
from pilotfish.worlds import starts
from pilotfish.worlds.mujoco import Simulation, quiet, remarks
from pilotfish.worlds.starts import BALL, FREE, HINGE, SLIDE

PACKAGE = "package://"
"""How ROS names a file of a package."""
SHORTEST = 0.02
"""Seconds from one action to the next, at least, where nothing else is said."""
NO_COST = """{model} needs a cost, by --cost FILE.py: a file such as

    import jax.numpy as jnp

    def cost(x, u, t):
        return jnp.abs(x[0] - 1.0) + 0.001 * (u**2).sum()

where final_cost(x) may be added, and success(x, u) with x, u of a whole episode. Of this model x and u are

{entries}"""
PLACE = tuple(f"{axis} of the position of {{}} (m)" for axis in "xyz")
TURN = tuple(f"{axis} of the orientation of {{}} (quaternion)" for axis in "wxyz")
SPIN = tuple(f"{axis} of the angular velocity of {{}} (rad/s, in its own frame)" for axis in "xyz")
POSITIONS = {
    HINGE: ("angle of {} (rad)",),
    SLIDE: ("position of {} (m)",),
    BALL: TURN,
    FREE: (*PLACE, *TURN),
}
VELOCITIES = {
    HINGE: ("angular velocity of {} (rad/s)",),
    SLIDE: ("velocity of {} (m/s)",),
    BALL: SPIN,
    FREE: (*(f"{axis} of the velocity of {{}} (m/s)" for axis in "xyz"), *SPIN),
}
"""What qpos and qvel hold of each kind of joint."""
AXES = {1: ("",), 3: ("x of ", "y of ", "z of "), 4: ("w of ", "x of ", "y of ", "z of ")}
"""What a sensor's entries are, by their number."""


class ModelTask(MujocoTask):
    """Do in a MuJoCo model what a cost asks for.

    ValueError, naming file and function, where the model or the cost cannot be used.

    Example:

    >>> from pathlib import Path
    >>> import pilotfish as pf
    >>> cart = '<body><joint name="rail" type="slide" axis="1 0 0"/><geom size=".1"/></body>'
    >>> motor = '<actuator><motor joint="rail"/></actuator>'
    >>> model = Path("cart.xml").write_text(f"<mujoco><worldbody>{cart}</worldbody>{motor}</mujoco>")
    >>> cost = Path("cost.py").write_text("def cost(x, u, t): return (x[0] - 1.0) ** 2")
    >>> problem = pf.ModelTask("cart.xml", cost="cost.py", horizon=50).problem()
    >>> problem.dx, problem.du, problem.dt  # [qpos, qvel], ctrl, s
    (2, 1, 0.02)
    """

    model: str = eqx.field(static=True, converter=sources.absolute)
    """The model's file: MJCF (.xml, .mjcf), URDF (.urdf), or MuJoCo's binary format (.mjb)."""
    cost: str = eqx.field(static=True, converter=sources.absolute, default="")
    """The Python file that defines cost(x, u, t) in jax.numpy."""
    horizon: int = eqx.field(static=True, default=100)
    """Actions of an episode."""
    dt: float = eqx.field(static=True, default=0.0)
    """Seconds from one action to the next, a multiple of the model's timestep; 0 for the least that is .02 or more."""
    keyframe: str = eqx.field(static=True, default="")
    """The model's keyframe at which episodes start, with its mocap poses; by default its first or, where it has none,
    qpos0 at rest."""
    start_std: float = 0.01
    """Standard deviation of the start about it: of the positions of hinges, slides and ball joints (rad, m) and of all
    velocities, within the joints' ranges and the equality constraints. Positions of free joints are not varied."""
    initial_std: float = 0.3
    """Standard deviation of the first controller's actions, in halves of ctrlrange, or where there is none in the
    action's unit."""

    def __check_init__(self):
        for name, least in (("horizon", 1), ("dt", 0), ("start_std", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name}={getattr(self, name)}: must be {least} or more.")
        if not self.initial_std > 0:
            raise ValueError(f"initial_std={self.initial_std}: must be above 0, for nothing is learned without noise.")

    @property
    def files(self) -> list[str]:
        """The files that the task is made of: model and cost, what the model includes, and what the cost imports and
        reads beside it.
        """
        problem = self.problem()  # says what is wrong with them
        return sorted({self.model, *_parts(self.model), *functions.files(self.cost, problem)})

    def simulation(self) -> Simulation:
        model = _model(self.model)
        if model.nmocap and (i := self._key(model)) is not None:
            bodies = np.flatnonzero(model.body_mocapid >= 0)
            mocap = model.body_mocapid[bodies]
            model.body_pos[bodies] = model.key_mpos[i].reshape(-1, 3)[mocap]
            model.body_quat[bodies] = model.key_mquat[i].reshape(-1, 4)[mocap]
        return Simulation(model)

    @quiet()
    def problem(self) -> Problem:
        simulation = self.simulation()
        model = simulation.model
        if not self.cost:
            raise ValueError(self.needs_a_cost())
        defined = _executed(self.cost)
        data, i = mujoco.MjData(model), self._key(model)
        if i is not None:
            mujoco.mj_resetDataKeyframe(model, data, i)
        start = simulation.states(data.qpos[None], data.qvel[None], data.act[None], data.time)
        low, high = _limits(model)
        bounded = np.isfinite(low)
        std = self.initial_std * np.where(bounded, np.ptp(model.actuator_ctrlrange, axis=1) / 2, 1.0)
        T, dx, du = self.horizon, start.shape[1], model.nu
        first = LinearGaussian(
            jnp.asarray(np.zeros((1, T, du, dx))),
            jnp.asarray(np.tile(np.clip(data.ctrl, low, high), (1, T, 1))),
            jnp.asarray(np.tile(np.diag(std), (1, T, 1, 1))),
        )
        with functions.quoting(self.cost):
            problem = Problem(
                horizon=T,
                dt=self.dt or math.ceil(SHORTEST / model.opt.timestep - 1e-9) * model.opt.timestep,
                conditions=Gaussian(jnp.asarray(start), jnp.asarray(self._spread(model, data.qpos, dx)[None])),
                initial_std=std,
                action_low=low,
                action_high=high,
                first_controller=first,
                cost=defined["cost"],
                final_cost=defined.get("final_cost", no_cost),
                success=defined.get("success"),
                distance=defined.get("distance"),
                observe=defined.get("observe", identity),
            )
            functions.check(problem)
        return problem

    @quiet()
    def needs_a_cost(self) -> str:
        """What states and actions are, of which a cost is to be written, and how."""
        return NO_COST.format(model=self.model, entries=describe(self.simulation().model))

    def _key(self, model: mujoco.MjModel) -> int | None:
        """The number of the keyframe; None if the model has none."""
        names = [model.key(i).name for i in range(model.nkey)]
        if self.keyframe and self.keyframe not in names:
            known = ", ".join(name or "(unnamed)" for name in names) or "none"
            raise ValueError(f"keyframe={self.keyframe!r}: the keyframes of {self.model} are {known}.")
        return (names.index(self.keyframe) if self.keyframe else 0) if names else None

    def _spread(self, model: mujoco.MjModel, qpos: np.ndarray, dx: int) -> np.ndarray:
        """Covariance of the initial state."""
        cov, known = np.zeros((dx, dx)), model.nq + model.nv
        varied = model.jnt_type[model.dof_jntid] != FREE
        cov[:known, :known] = starts.spread(model, qpos, self.start_std, varied)
        return cov


def entry(path: str) -> Entry:
    """The task of a model's file, which still needs a cost."""
    return Entry(path, f"the MuJoCo model {path}", f"{__name__}:{ModelTask.__name__}", {"model": path})


def describe(model: mujoco.MjModel) -> str:
    """What the entries of a model's states and actions are, a line each, and what is no part of them."""
    simulation = Simulation(model)
    states = [*moving(model), *_sensed(simulation)]
    return "\n".join([*listed("x", states), *listed("u", _actions(model)), *remarks(simulation)])


def listed(name: str, meanings: Iterable[str]) -> list[str]:
    """A line for each entry of a vector."""
    return [f"{f'{name}[{i}]':>7}  {meaning}" for i, meaning in enumerate(meanings)]


def moving(model: mujoco.MjModel) -> Iterator[str]:
    """What the entries of qpos, qvel and act are."""
    for meanings in (POSITIONS, VELOCITIES):
        for j in range(model.njnt):
            yield from (meaning.format(_joint(model, j)) for meaning in meanings[model.jnt_type[j]])
    for i, count in enumerate(model.actuator_actnum):
        for k in range(count):
            yield f"activation {f'{k} ' if count > 1 else ''}of actuator {_named(model.actuator(i))}"


def posed(model: mujoco.MjModel) -> Iterator[str]:
    """What the entries of mocap_pos and mocap_quat are."""
    names = [_named(model.body(int(i))) for i in np.argsort(model.body_mocapid) if model.body_mocapid[i] >= 0]
    for entries in (PLACE, TURN):
        yield from (entry.format(f"mocap body {name}") for name in names for entry in entries)


def _sensed(simulation: Simulation) -> Iterator[str]:
    """What the entries of the state are that sensors read."""
    model = simulation.model
    for i, size in enumerate(model.sensor_dim):
        if i in simulation.late:
            continue
        kind = mujoco.mjtSensor(model.sensor_type[i]).name.removeprefix("mjSENS_").lower()
        for axis in AXES.get(size, [f"entry {k} of " for k in range(size)]):
            yield f"{axis}sensor {_named(model.sensor(i))} ({kind})"


def _actions(model: mujoco.MjModel) -> Iterator[str]:
    limits = list(zip(*_limits(model), strict=True))
    for i, (first, count) in enumerate(zip(model.actuator_ctrladr, model.actuator_ctrlnum, strict=True)):
        target = TARGETS.get(model.actuator_trntype[i])
        place = f" at {target(model, int(model.actuator_trnid[i, 0]))}" if target else ""
        for k, (low, high) in enumerate(limits[first : first + count]):
            which = f"input {k} of " if count > 1 else ""
            within = f"from {low:g} to {high:g}" if np.isfinite(low) else "without limits"
            yield f"{which}actuator {_named(model.actuator(i))}{place}, {within}"


def _joint(model: mujoco.MjModel, j: int) -> str:
    joint, body = model.joint(j), f"body {_named(model.body(model.jnt_bodyid[j]))}"
    if model.jnt_type[j] == FREE:
        return body
    return f"joint {_named(joint)}" if joint.name else f"joint {_named(joint)} of {body}"


def _named(part: Any) -> str:
    return repr(part.name) if part.name else str(part.id)


TARGETS: dict[int, Callable[[mujoco.MjModel, int], str]] = {
    mujoco.mjtTrn.mjTRN_JOINT.value: _joint,
    mujoco.mjtTrn.mjTRN_JOINTINPARENT.value: _joint,
    mujoco.mjtTrn.mjTRN_TENDON.value: lambda model, i: f"tendon {_named(model.tendon(i))}",
    mujoco.mjtTrn.mjTRN_SITE.value: lambda model, i: f"site {_named(model.site(i))}",
    mujoco.mjtTrn.mjTRN_BODY.value: lambda model, i: f"body {_named(model.body(i))}",
}
"""What an actuator moves, by the kind of its transmission."""


def _limits(model: mujoco.MjModel) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the actions, infinite where there are none."""
    limited, (low, high) = model.actuator_ctrllimited.astype(bool), model.actuator_ctrlrange.T
    return np.where(limited, low, -np.inf), np.where(limited, high, np.inf)


def _model(path: str) -> mujoco.MjModel:
    file = str(sources.existing(path))
    load = mujoco.MjModel.from_binary_path if _ends(path, ".mjb") else mujoco.MjModel.from_xml_path
    try:
        with quiet():
            model = _with_motors(file) if _ends(path, ".urdf") else load(file)
    except ValueError as error:
        raise ValueError(" ".join(f"{path}: {error}".split())) from error
    if not model.nu:
        raise ValueError(f"{path}: the model has no actuators, and so nothing to learn. Add an <actuator> section.")
    return model


def _urdf(path: str) -> mujoco.MjSpec:
    """A URDF, of whose file MuJoCo would know the suffix in small letters only, and of whose meshes no package."""
    spec = mujoco.MjSpec.from_string(Path(path).read_text())
    spec.modelfiledir = os.path.dirname(path)
    for mesh in spec.meshes:
        mesh.file = _in_package(mesh.file, path)
    return spec


def _in_package(file: str, path: str) -> str:
    """Where a file of a URDF lies. ROS knows where NAME of package://NAME/... is; here it is near the URDF."""
    if not file.startswith(PACKAGE):
        return file
    inside = file.removeprefix(PACKAGE)
    name, _, rest = inside.partition("/")
    for folder in Path(path).absolute().parents:
        for found in (folder / inside, folder / rest):
            if found.is_file():
                return str(found)
    raise ValueError(
        f"mesh {file}: there is no {rest} in the model's folder or one above it, nor in a folder {name} there. Put the "
        "package there, or name the mesh by its path from the model's folder."
    )


def _with_motors(path: str) -> mujoco.MjModel:
    """The model of a URDF, with a motor at each joint of one degree of freedom."""
    spec = _urdf(path)
    for joint in spec.joints:
        if joint.type in (HINGE, SLIDE):
            motor = spec.add_actuator(name=joint.name, target=joint.name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
            motor.set_to_motor()
            if joint.actfrcrange[0] < joint.actfrcrange[1]:
                motor.ctrlrange, motor.ctrllimited = joint.actfrcrange, True
    return spec.compile()


def _parts(path: str) -> list[str]:
    """The files that a model is made of beside its own: meshes, height fields, textures, and what it includes."""
    if _ends(path, ".mjb"):
        return []
    compiled = [os.fsdecode(part) for part in _model(path).paths.split(b"\0") if part]
    # which knows no XML; MuJoCo's list of dependencies does, but has height fields in a place where they need not be
    listed = [] if _ends(path, ".urdf") else mujoco.mju_getXMLDependencies(path)
    found = {sources.absolute(Path(path).parent / part) for part in (*compiled, *listed)}
    return [part for part in found if os.path.isfile(part)]


def _ends(path: str, suffix: str) -> bool:
    return path.lower().endswith(suffix)


def _executed(path: str) -> dict[str, Any]:
    """What a cost's file defines."""
    scope = functions.defined(path)
    if not callable(scope.get("cost")):
        raise ValueError(f"{path} defines no function cost(x, u, t).")
    return scope
