"""Peg insertion by an arm of seven joints (MDGPS): a round peg of 28 mm radius into a hole, at one of several places,
that narrows from 33 to 29.5 mm.

State, 26 numbers; the ends of the peg are in the world's frame, in which the hole stays where it is:

    x = [q (7), q' (7), bottom (3), top (3), bottom's velocity (3), top's velocity (3)]     rad, m, s

Actions: the torques of the joints, N m. There is no gravity. "Hole positions" are places of the arm's base (as in the
experiment's files: one hole, nine bases), so that the target is one for all conditions. Arm, hole, contact, times,
start, first controller, cost and success are those of the experiment's files in the history of github.com/cbfinn/gps:
`experiments/peg`, `experiments/peg_blind_big` and `mjc_models/pr2_arm3d.xml`. Success is a matter of height alone. With
d the difference of [bottom, top] to its target, weights w and the motors' gains G, the cost is

    1/2 sum_j 1e-3 / G_j u_j^2 + 10/2 sum_i w_i d_i^2 + .1/2 log(alpha + |w d|^2)    of every step,
    1/2 log(alpha + |10 w d|^2)                                                      of the last one besides

What differs from those files:

- The velocities of the peg's ends are the simulator's, not differences of places over dt.
- The cost is expanded in the places of the peg's ends, which are a part of the state, not in the angles.
- A constant, -5.8 for every step but the last, is left out: the last term of weights zero.
- A geom's contact margin is .001 m, not .002: MuJoCo adds those of both geoms, where it once took the larger, and with
  twice the margin the peg jams at a height of .04.
"""

# pyright: reportAttributeAccessIssue=false
import dataclasses

import equinox as eqx
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float

from pilotfish.tasks.costs import ALPHA
from pilotfish.tasks.hold import hold
from pilotfish.tasks.mujoco import GRID, VISUAL, MujocoTask
from pilotfish.types import Gaussian, Problem, Step, identity
from pilotfish.worlds.mujoco import Simulation

DT, HORIZON = 0.05, 100  # s, 5 s; 5 steps of .01 an action
GAINS = np.array([3.09, 1.08, 0.393, 0.674, 0.111, 0.152, 0.098])  # of the motors, G
TORQUE = 100.0  # largest torque, N m
START = (0.1, 0.1, -1.54, -1.7, 1.54, -0.2, 0.0)  # rad
START_VARIANCE = 1e-6  # of angles and velocities (ours; the files draw no start)
HOLE = (0.0, 0.3, -0.5)  # middle of the hole's floor, m; it is .1 deep
PEG = 0.3  # length, m
TARGET = np.array([*HOLE, HOLE[0], HOLE[1], HOLE[2] + PEG])  # of the peg's bottom and top
WEIGHTS = np.array([2.0, 2.0, 1.0, 2.0, 2.0, 1.0])  # w
INSERTED = 0.06  # height of the bottom above the floor, m
NINE = tuple((x, y) for x in (-0.1, 0.0, 0.1) for y in (-0.1, 0.0, 0.1))  # m
BETWEEN = tuple(
    (x, y) for x in (-0.5, 0.5) for y in (-0.5, 0.5)
)  # of the largest shift: no place of NINE or FOUR (ours)
FOUR = ((0.012, 0.012), (0.012, -0.012), (-0.012, -0.012), (-0.012, 0.012))  # m
BOTTOM, TOP = slice(14, 17), slice(17, 20)

GREY, FRONT = ".54 .59 .64 1", ".54 .59 .64 .3"


def _capsule(ends: str, radius: float) -> str:
    return f'<geom type="capsule" fromto="{ends}" size="{radius}"/>'


EYES = "".join(
    f'<geom type="sphere" pos="{x} {y} .2" size="{radius}" rgba="{rgba}"/>'
    for y, radius, rgba in ((0.05, 0.05, "1 1 1 1"), (0.09, 0.03, ".1 .1 .1 1"))
    for x in (-0.06, 0.06)
)
FINGERS = "".join(
    _capsule(f".07691 {side * 0.03} 0 .16828 {side * 0.03495} 0", 0.01)
    + _capsule(f".16828 {side * 0.03495} 0 .25965 {side * 0.03495} 0", 0.01)
    for side in (-1, 1)
)
PALM = _capsule("-.02 0 0 .02 0 0", 0.01) + _capsule(".05 0 -.02 .05 0 .02", 0.05)
LINKS = (  # place in the link before (m), axis, damping (N m s), range (rad), geoms
    ("0 -.188 0", "0 0 1", 10.0, 'range="-2.2854 1.714602"', _capsule("0 0 -.4 0 0 .2", 0.1) + EYES),
    (".1 0 0", "0 1 0", 10.0, 'range="-.5236 1.3963"', _capsule("0 -.1 0 0 .1 0", 0.1)),
    ("0 0 0", "1 0 0", 0.1, 'range="-3.9 .8"', _capsule("-.1 0 0 .1 0 0", 0.02) + _capsule("0 0 0 .4 0 0", 0.06)),
    (".4 0 0", "0 1 0", 1.0, 'range="-2.3213 0"', _capsule("0 -.02 0 0 .02 0", 0.06)),
    ("0 0 0", "1 0 0", 0.1, "", _capsule("-.1 0 0 .1 0 0", 0.02) + _capsule("0 0 0 .321 0 0", 0.05)),
    (".321 0 0", "0 1 0", 0.1, 'range="-2.094 0"', _capsule("0 -.02 0 0 .02 0", 0.01)),
    ("0 0 0", "1 0 0", 0.1, "", PALM + FINGERS),
)
ARM = "".join(
    f'<body name="link{i}" pos="{place}"><joint name="joint{i}" axis="{axis}" damping="{damping}" {limits}/>{geoms}'
    for i, (place, axis, damping, limits, geoms) in enumerate(LINKS)
)
MOTORS = "".join(f'<motor joint="joint{i}" ctrlrange="{-TORQUE} {TORQUE}"/>' for i in range(len(LINKS)))
HOLE_GEOMS = "".join(
    f'<geom type="box" pos="{pos}" axisangle="{turn}" size="{size}" rgba="{rgba}" contype="1" conaffinity="1"/>'
    for pos, turn, size, rgba in (
        (".034 .3 -.47", "0 1 0 .05", ".003 .01 .05", FRONT),
        ("-.034 .3 -.47", "0 1 0 -.05", ".003 .01 .05", GREY),
        ("0 .334 -.47", "1 0 0 -.05", ".01 .003 .05", FRONT),
        ("0 .266 -.47", "1 0 0 .05", ".01 .003 .05", GREY),
        ("0 .3 -.55", "1 0 0 0", ".2 .2 .05", GREY),
        (".216 .3 -.45", "1 0 0 0", ".183 .3 .05", FRONT),
        ("-.216 .3 -.45", "1 0 0 0", ".183 .3 .05", GREY),
        ("0 .516 -.45", "1 0 0 0", ".032 .183 .05", FRONT),
        ("0 .084 -.45", "1 0 0 0", ".032 .183 .05", GREY),
    )
)

# The peg is a body of its own, as in the experiment's model: how soft its contacts are depends on its body's inertia.
MJCF = f"""
<mujoco model="peg">
  <compiler angle="radian"/>
  <option timestep="0.01" gravity="0 0 0" iterations="20" integrator="RK4"/>
  {VISUAL}
  <asset>
    <texture type="skybox" builtin="flat" rgb1=".93 .94 .95" width="8" height="8"/>
    {GRID}
    <material name="grid" texture="grid" texrepeat="5 5" texuniform="true"/>
  </asset>
  <default>
    <joint armature="0.04"/>
    <geom margin="MARGIN" condim="1" contype="0" conaffinity="0" rgba=".12 .44 .7 1"/>
  </default>
  <worldbody>
    <camera name="view" pos="1.35 1.2 .75" xyaxes="-.639 .77 0 -.357 -.297 .886" fovy="35"/>
    <light directional="true" pos="0 0 3" dir="-.3 -.1 -1" diffuse=".25 .25 .25" castshadow="false"/>
    <geom type="plane" pos="0 0 -.6" size="0 0 .1" material="grid" rgba="1 1 1 1"/>
    <geom type="cylinder" pos="0 .3 -.5" size=".028 .001" rgba=".62 .75 .64 1"/>
    {HOLE_GEOMS}
    {ARM}
      <body name="peg" pos=".18 0 0">
        <geom type="cylinder" size=".028 {PEG / 2}" density="2000" rgba=".85 .45 .2 1" contype="1" conaffinity="1"/>
        <site name="bottom" pos="0 0 {-PEG / 2}"/>
        <site name="top" pos="0 0 {PEG / 2}"/>
      </body>
    {"</body>" * len(LINKS)}
  </worldbody>
  <actuator>{MOTORS}</actuator>
  <sensor>
    <framepos objtype="site" objname="bottom"/><framepos objtype="site" objname="top"/>
    <framelinvel objtype="site" objname="bottom"/><framelinvel objtype="site" objname="top"/>
  </sensor>
</mujoco>
"""


def joints(x: Float[Array, "dx"]) -> Float[Array, "14"]:
    """What a blind policy sees: angles and their velocities."""
    return x[:14]


class Peg(MujocoTask):
    """Insert a peg into a hole, from several places of the arm's base."""

    offsets: tuple[tuple[float, float], ...] = eqx.field(
        static=True, converter=lambda value: tuple((float(x), float(y)) for x, y in value), default=NINE
    )
    """How far the arm's base is shifted along x and y, m; a condition each."""
    blind: bool = eqx.field(static=True, default=False)
    """True: a policy sees angles and velocities only, and does not know where the hole is."""
    margin: float = 0.001
    """Distance at which a geom begins to make contact, m; those of two geoms add up."""

    def __check_init__(self):
        if not self.offsets:
            raise ValueError("offsets=(): give the shift of the arm's base, x and y in m, of one condition at least.")
        if not self.margin >= 0:
            raise ValueError(f"margin={self.margin}: the contact margin is a distance; give 0 or more.")

    def held_out(self) -> "Peg":
        """The hole halfway between those of training and the middle."""
        far = np.abs(self.offsets).max()
        return dataclasses.replace(self, offsets=tuple((x * far, y * far) for x, y in BETWEEN))

    def simulation(self) -> Simulation:
        model = mujoco.MjModel.from_xml_string(MJCF.replace("MARGIN", str(self.margin)))
        places = np.tile(model.body_pos, (len(self.offsets), 1, 1))
        places[:, model.body("link0").id, :2] += np.array(self.offsets)
        return Simulation(model, {"body_pos": places})

    def problem(self) -> Problem:
        N = len(self.offsets)
        start = jnp.asarray(self.simulation().states(np.tile(START, (N, 1)), np.zeros((N, 7))))
        cov = START_VARIANCE * np.diag(np.arange(26) < 14)
        return Problem(
            horizon=HORIZON,
            dt=DT,
            conditions=Gaussian(start, jnp.asarray(np.tile(cov, (N, 1, 1)))),
            initial_std=np.ones(7),
            cost=self.cost,
            action_low=-TORQUE,
            action_high=TORQUE,
            observe=joints if self.blind else identity,
            success=self.is_inserted,
            distance=self.height,
            first_controller=hold(start, HORIZON, DT, jnp.asarray(1 / GAINS), final_weight=50.0),
        )

    def cost(self, x: Float[Array, "dx"], u: Float[Array, "du"], t: Step) -> Float[Array, ""]:
        """Torques, the squared distances of the peg's ends to their targets, and logarithms of them."""
        d = x[BOTTOM.start : TOP.stop] - TARGET
        far = 0.5 * 10.0 * (WEIGHTS * d**2).sum() + 0.5 * 0.1 * jnp.log(ALPHA + ((WEIGHTS * d) ** 2).sum())
        last = 0.5 * jnp.log(ALPHA + ((10.0 * WEIGHTS * d) ** 2).sum())
        return 0.5 * (1e-3 / GAINS * u**2).sum() + far + jnp.where(t == HORIZON - 1, last, 0.0)

    def height(self, x: Float[Array, "T1 dx"], u: Float[Array, "T du"]) -> Float[Array, ""]:
        """How far above the hole's floor, or below it, the peg's bottom is at last, m."""
        return jnp.abs(x[-1, BOTTOM][2] - HOLE[2])

    def is_inserted(self, x: Float[Array, "T1 dx"], u: Float[Array, "T du"]) -> Bool[Array, ""]:
        """True if the last height of the peg's bottom is that of the hole's floor, up to .06 m."""
        return self.height(x, u) < INSERTED


def blind() -> Peg:
    """The task whose policy is not told where the hole is: in four places near the middle, for else none could do."""
    return Peg(offsets=FOUR, blind=True)
