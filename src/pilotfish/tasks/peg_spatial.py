"""Peg insertion in space (GPS'14): an arm of six joints moves its last link, the peg, into a square hole.

State `x = [q, q']` in rad and rad/s. The shoulder has three joints, the elbow one and the wrist two (as in GPS'14).
They turn about the axes z, -y, x; -y; -y, z of their links, one after the other, and at zero the arm lies along the x
axis. Actions: the torques of all joints, N m. There is no gravity.

The cost is that of GPS'14, `w_u/2 |u|^2 + w_p ell12(tip - target)`, with the target at the bottom of the hole. The
paper says nothing of the arm, the hole, the start and the first controller: they are ours.
"""

# pyright: reportAttributeAccessIssue=false
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float

from pilotfish.tasks.costs import ell12
from pilotfish.tasks.hold import hold
from pilotfish.tasks.mujoco import GRID, VISUAL, MujocoTask
from pilotfish.types import Gaussian, Problem, Step
from pilotfish.worlds.mujoco import Simulation

DT, HORIZON = 0.01, 800  # s, 8 s (GPS'14); 2 steps of .005 an action (ours)
ACTION_WEIGHT, TIP_WEIGHT = 1e-6, 1.0  # w_u, w_p (GPS'14)
LENGTHS = (1.0, 1.0, 0.6)  # of the links, m (ours)
AXES = ((0, 0, 1), (0, -1, 0), (1, 0, 0), (0, -1, 0), (0, -1, 0), (0, 0, 1))  # of the joints (ours)
REACH = (0.0, 0.0, LENGTHS[0], LENGTHS[1], 0.0, LENGTHS[2])  # from a joint to the next, along x, m
TORQUE = (100.0, 100.0, 50.0, 50.0, 20.0, 20.0)  # largest torques, N m (ours)
START = (0.0, 0.6, 0.0, -0.4, -np.pi / 2 - 0.2, 0.0)  # rad: the peg points down, beside the hole and above it (ours)
START_VARIANCE = 1e-4  # of angles and velocities (ours)
HOLE = (1.2, 0.2, -0.6)  # middle of the hole's mouth, m (ours)
HALF_WIDTH, DEPTH = 0.06, 0.5  # of the hole, m; the peg's radius is .04 (ours)
TARGET = (HOLE[0], HOLE[1], HOLE[2] - DEPTH)
INSERTED = 0.05  # distance of the tip to the target, m (ours)

WALL = 0.3  # thickness of the hole's walls, m
WALLS = "".join(
    f'<geom type="box" pos="{HOLE[0] + x * (HALF_WIDTH + WALL / 2)} {HOLE[1] + y * (HALF_WIDTH + WALL / 2)} '
    f'{HOLE[2] - DEPTH / 2}" size="{WALL / 2 if x else HALF_WIDTH} {WALL / 2 if y else HALF_WIDTH + WALL} {DEPTH / 2}" '
    f'class="wall" rgba=".54 .59 .64 {alpha}"/>'
    for x, y, alpha in ((-1, 0, 1), (1, 0, 0.3), (0, -1, 0.3), (0, 1, 1))
)
JOINTS = [
    f'<joint name="joint{i}" axis="{" ".join(map(str, axis))}" range="{limits}" damping="{damping}"/>'
    for i, (axis, limits, damping) in enumerate(
        zip(AXES, ("-2 2", "-2 2", "-2.5 2.5", "-2.8 .1", "-2.2 2.2", "-1.6 1.6"), (1, 1, 1, 1, 0.3, 0.3), strict=True)
    )
]
MOTORS = "".join(f'<motor joint="joint{i}" ctrlrange="{-torque} {torque}"/>' for i, torque in enumerate(TORQUE))

MJCF = f"""
<mujoco model="peg_spatial">
  <compiler angle="radian"/>
  <option timestep="0.005" gravity="0 0 0" integrator="implicitfast"/>
  {VISUAL}
  <asset>
    <texture type="skybox" builtin="flat" rgb1=".93 .94 .95" width="8" height="8"/>
    {GRID}
    <material name="grid" texture="grid" texrepeat="2 2" texuniform="true"/>
  </asset>
  <default>
    <joint armature=".02"/>
    <geom contype="1" conaffinity="2" friction=".3" solref=".01 1" rgba=".12 .44 .7 1"/>
    <default class="wall"><geom contype="2" conaffinity="1" rgba=".54 .59 .64 1"/></default>
    <default class="seen"><geom contype="0" conaffinity="0"/></default>
  </default>
  <worldbody>
    <camera name="view" pos="2.9 -2.9 1.7" xyaxes=".813 .582 0 -.28 .391 .877" fovy="32"/>
    <light directional="true" pos="0 0 3" dir="-.3 .3 -1" diffuse=".25 .25 .25" castshadow="false"/>
    <geom type="plane" pos="0 0 {TARGET[2] - 0.1}" size="0 0 .1" material="grid" rgba="1 1 1 1" class="seen"/>
    <geom type="box" pos="{TARGET[0]} {TARGET[1]} {TARGET[2] - 0.05}" size="{HALF_WIDTH + WALL} {HALF_WIDTH + WALL} .05"
          class="wall"/>
    <geom type="box" pos="{TARGET[0]} {TARGET[1]} {TARGET[2]}" size="{HALF_WIDTH} {HALF_WIDTH} .012"
          rgba=".62 .75 .64 1" class="seen"/>
    {WALLS}
    <geom type="cylinder" fromto="0 0 {TARGET[2] - 0.1} 0 0 0" size=".06" rgba=".54 .59 .64 1" class="seen"/>
    <body>
      {"".join(JOINTS[:3])}
      <geom type="capsule" fromto="0 0 0 {LENGTHS[0]} 0 0" size=".06" density="300"/>
      <body pos="{LENGTHS[0]} 0 0">
        {JOINTS[3]}
        <geom type="capsule" fromto="0 0 0 {LENGTHS[1]} 0 0" size=".05" density="300"/>
        <body name="peg" pos="{LENGTHS[1]} 0 0">
          {"".join(JOINTS[4:])}
          <geom type="capsule" fromto="0 0 0 {LENGTHS[2] - 0.04} 0 0" size=".04" density="200" rgba=".85 .45 .2 1"/>
          <site name="tip" pos="{LENGTHS[2]} 0 0"/>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>{MOTORS}</actuator>
</mujoco>
"""


class PegSpatial(MujocoTask):
    """Insert a peg, the last link of an arm in space, into a square hole."""

    def simulation(self) -> Simulation:
        return Simulation(mujoco.MjModel.from_xml_string(MJCF))

    def problem(self) -> Problem:
        start, limit = jnp.asarray([[*START, *np.zeros(6)]]), np.array(TORQUE)
        return Problem(
            horizon=HORIZON,
            dt=DT,
            conditions=Gaussian(start, jnp.asarray(START_VARIANCE * np.eye(12)[None])),
            initial_std=np.ones(6),
            cost=self.cost,
            action_low=-limit,
            action_high=limit,
            success=self.is_inserted,
            first_controller=hold(start, HORIZON, DT, jnp.ones(6)),
        )

    def cost(self, x: Float[Array, "dx"], u: Float[Array, "du"], t: Step) -> Float[Array, ""]:
        """`w_u/2 |u|^2 + w_p ell12(tip - target)`."""
        return 0.5 * ACTION_WEIGHT * (u**2).sum() + TIP_WEIGHT * ell12(tip(x[:6]) - jnp.asarray(TARGET))

    def is_inserted(self, x: Float[Array, "T1 dx"], u: Float[Array, "T du"]) -> Bool[Array, ""]:
        """True if the tip is within .05 m of the target in the last state."""
        return jnp.linalg.norm(tip(x[-1, :6]) - jnp.asarray(TARGET)) < INSERTED


def tip(q: Float[Array, "6"]) -> Float[Array, "3"]:
    """Place of the peg's tip at the angles q, m: seen from the last joint, then from the one before it, and so on."""
    place = jnp.zeros(3)
    for axis, reach, angle in reversed(list(zip(AXES, REACH, q, strict=True))):
        place = _turned(place + jnp.array([reach, 0.0, 0.0]), jnp.asarray(axis, place.dtype), angle)
    return place


def _turned(v: Float[Array, "3"], axis: Float[Array, "3"], angle: Float[Array, ""]) -> Float[Array, "3"]:
    """The vector turned about an axis of length 1 (Rodrigues' formula)."""
    along = axis * (axis @ v)
    return along + jnp.cos(angle) * (v - along) + jnp.sin(angle) * jnp.cross(axis, v)
