"""Planar peg insertion (GPS'14): an arm of three links lowers its last one, the peg, into a slot.

State `x = [q, q']`, q = [shoulder, elbow, wrist] in rad and rad/s: the angle of a link against the one before it, of
the first against the x axis, counterclockwise in the plane of x and z (up). Actions: the torques of shoulder and elbow,
N m. Six states and two actions (as in GPS'14): so the wrist is passive, and the peg hangs by its weight (our reading).
The weight of the other links is compensated.

The cost is that of GPS'14, `w_u/2 |u|^2 + w_p ell12(tip - target)`, with the target at the bottom of the slot. The
paper says nothing of the arm, the slot and the start: they are ours.

Where the slot is at different places, the cost and a policy must be told. As in MDGPS's tasks, it then stays, and the
arm's base moves the other way; the place of the tip, which the angles no longer determine, is appended to the state:
`x = [q, q', tip (x, y, z)]`, m.
"""

# pyright: reportAttributeAccessIssue=false
import dataclasses

import equinox as eqx
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float

from pilotfish.tasks.costs import ell12
from pilotfish.tasks.mujoco import GRID, VISUAL, MujocoTask
from pilotfish.types import Gaussian, Problem, Step, identity
from pilotfish.worlds.mujoco import Simulation

DT, HORIZON = 0.01, 800  # s, 8 s (GPS'14); 2 steps of .005 an action (ours)
ACTION_WEIGHT, TIP_WEIGHT = 1e-6, 1.0  # w_u, w_p (GPS'14)
LENGTHS = (1.0, 1.0, 0.6)  # of the links, m (ours)
TORQUE = 100.0  # largest torque, N m (ours)
START = (0.6, -0.4, -np.pi / 2 - 0.2)  # rad: the peg hangs (ours)
START_VARIANCE = 1e-4  # of angles and velocities (ours)
SLOT = (1.2, -0.6)  # x and z of the middle of the slot's mouth, m (ours)
HALF_WIDTH, DEPTH = 0.06, 0.5  # of the slot, m; the peg's radius is .04 (ours)
TARGET = (SLOT[0], SLOT[1] - DEPTH)
INSERTED = 0.05  # distance of the tip to the target, m (ours)
FOUR = (-0.15, -0.05, 0.05, 0.15)  # shifts of the slot along x, m (ours; GPS'14 says four places)
BETWEEN = (-0.1, -0.02, 0.02, 0.1)  # four places that are none of training (ours)
ANGLES = 6  # entries of the state that are angles and their velocities

WALL = 0.4  # thickness of the slot's walls, m
WALLS = "".join(
    f'<geom type="box" pos="{SLOT[0] + side * (HALF_WIDTH + WALL / 2)} 0 {SLOT[1] - DEPTH / 2}" '
    f'size="{WALL / 2} .2 {DEPTH / 2}" class="wall"/>'
    for side in (-1, 1)
)

MJCF = f"""
<mujoco model="peg_planar">
  <compiler angle="radian"/>
  <option timestep="0.005" integrator="implicitfast"/>
  {VISUAL}
  <asset>
    {GRID}
    <material name="grid" texture="grid" texrepeat="2 2" texuniform="true"/>
  </asset>
  <default>
    <joint axis="0 -1 0" damping="1" armature=".02"/>
    <geom contype="1" conaffinity="2" friction=".3" solref=".01 1" rgba=".12 .44 .7 1"/>
    <default class="wall"><geom contype="2" conaffinity="1" rgba=".54 .59 .64 1"/></default>
    <default class="seen"><geom contype="0" conaffinity="0"/></default>
  </default>
  <worldbody>
    <camera name="view" pos=".85 -4.4 .1" xyaxes="1 0 0 0 .07 1" fovy="30"/>
    <light directional="true" pos="0 0 3" dir="-.3 .3 -1" diffuse=".25 .25 .25" castshadow="false"/>
    <geom type="plane" pos="0 .5 0" zaxis="0 -1 0" size="0 0 .1" material="grid" rgba="1 1 1 1" class="seen"/>
    <geom type="box" pos="{TARGET[0]} 0 {TARGET[1] - 0.05}" size="{HALF_WIDTH + WALL} .2 .05" class="wall"/>
    <geom type="box" pos="{TARGET[0]} 0 {TARGET[1]}" size="{HALF_WIDTH} .2 .012" rgba=".62 .75 .64 1" class="seen"/>
    {WALLS}
    <body name="upper" gravcomp="1">
      <joint name="shoulder" range="-2.8 1.6"/>
      <geom type="cylinder" fromto="0 0 0 0 .5 0" size=".09" mass="0" rgba=".54 .59 .64 1" class="seen"/>
      <geom type="capsule" fromto="0 0 0 {LENGTHS[0]} 0 0" size=".06" density="300"/>
      <body name="fore" pos="{LENGTHS[0]} 0 0" gravcomp="1">
        <joint name="elbow" range="-2.8 2.8"/>
        <geom type="capsule" fromto="0 0 0 {LENGTHS[1]} 0 0" size=".05" density="300"/>
        <body name="peg" pos="{LENGTHS[1]} 0 0">
          <joint name="wrist" range="-2.2 2.2" damping=".2"/>
          <geom type="capsule" fromto="0 0 0 {LENGTHS[2] - 0.04} 0 0" size=".04" density="200" rgba=".85 .45 .2 1"/>
          <site name="tip" pos="{LENGTHS[2]} 0 0"/>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="shoulder" ctrlrange="{-TORQUE} {TORQUE}"/><motor joint="elbow" ctrlrange="{-TORQUE} {TORQUE}"/>
  </actuator>
  SENSOR
</mujoco>
"""
SENSOR = '<sensor><framepos objtype="site" objname="tip"/></sensor>'


def joints(x: Float[Array, "dx"]) -> Float[Array, "6"]:
    """What a blind policy sees: angles and their velocities."""
    return x[:ANGLES]


class PegPlanar(MujocoTask):
    """Insert a peg that hangs from an arm in the plane into a slot."""

    shifts: tuple[float, ...] = eqx.field(
        static=True, converter=lambda value: tuple(float(shift) for shift in value), default=()
    )
    """How far the slot is shifted along x from its place before the arm, m; a condition each. Where none is given there
    is one condition, with no shift and no tip in the state."""
    blind: bool = eqx.field(static=True, default=False)
    """True: a policy sees angles and velocities only, and must find the slot by touch."""
    initial_std: float = 10.0
    """Standard deviation of the first controller's torques, N m."""

    def held_out(self) -> "PegPlanar":
        """The slot at places between those of training."""
        if not self.shifts:
            raise ValueError(f"shifts=(): there is one slot. Train with {FOUR} to test at {BETWEEN}.")
        return dataclasses.replace(self, shifts=BETWEEN)

    def simulation(self) -> Simulation:
        model = mujoco.MjModel.from_xml_string(MJCF.replace("SENSOR", SENSOR if self.shifts else ""))
        if not self.shifts:
            return Simulation(model)
        places = np.tile(model.body_pos, (len(self.shifts), 1, 1))
        places[:, model.body("upper").id, 0] = -np.array(self.shifts)
        return Simulation(model, {"body_pos": places})

    def problem(self) -> Problem:
        N = max(len(self.shifts), 1)
        start = jnp.asarray(self.simulation().states(np.tile(START, (N, 1)), np.zeros((N, 3))))
        dx = start.shape[1]
        cov = START_VARIANCE * np.diag(np.arange(dx) < 6)
        return Problem(
            horizon=HORIZON,
            dt=DT,
            conditions=Gaussian(start, jnp.asarray(np.tile(cov, (N, 1, 1)))),
            initial_std=np.full(2, float(self.initial_std)),
            cost=self.cost,
            action_low=-TORQUE,
            action_high=TORQUE,
            observe=joints if self.blind else identity,
            success=self.is_inserted,
        )

    def cost(self, x: Float[Array, "dx"], u: Float[Array, "du"], t: Step) -> Float[Array, ""]:
        """`w_u/2 |u|^2 + w_p ell12(tip - target)`."""
        return 0.5 * ACTION_WEIGHT * (u**2).sum() + TIP_WEIGHT * ell12(self.tip(x) - jnp.asarray(TARGET))

    def is_inserted(self, x: Float[Array, "T1 dx"], u: Float[Array, "T du"]) -> Bool[Array, ""]:
        """True if the tip is within .05 m of the target in the last state."""
        return jnp.linalg.norm(self.tip(x[-1]) - jnp.asarray(TARGET)) < INSERTED

    def tip(self, x: Float[Array, "dx"]) -> Float[Array, "2"]:
        """Place of the peg's tip, x and z, m."""
        if self.shifts:
            return x[6:9:2]
        angle, length = jnp.cumsum(x[:3]), jnp.asarray(LENGTHS)
        return jnp.stack([(length * jnp.cos(angle)).sum(), (length * jnp.sin(angle)).sum()])


def slots() -> PegPlanar:
    """The task with the slot in four places."""
    return PegPlanar(shifts=FOUR)


def blind() -> PegPlanar:
    """The same, and the policy is not told in which."""
    return PegPlanar(shifts=FOUR, blind=True)
