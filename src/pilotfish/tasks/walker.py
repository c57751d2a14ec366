"""The planar biped of GPS'14 and CGPS'14: seven links with six motors walk along x at 2.1 m/s.

State `x = [q, q']`, q = [x, z and pitch of the torso, hip, knee and ankle of the right leg, of the left leg] in m and
rad. A positive pitch leans back, a positive angle of a joint swings what is below it forward. Actions: the torques of
the six joints of the legs, N m. Only the feet touch the ground, and nothing else.

The papers give the dimensions, dt and the cost `w_u/2 |u|^2 + 1/2 (v_x - 2.1)^2 + w_h/2 (z - 1.1)^2` with its
weights; GPS'14 also T. All else is ours: lengths and the proportions of masses are SIMBICON's, but all masses a fifth
of a person's, without which the torques would be nearly all of the cost: now a walk of 94 is one of 71 for torques, 22
for velocity and less than 1 for height, where to stand still costs 1102. So are the pushes and the rough ground; there,
too, z counts from the level of the start.

Learning begins with a demonstration, as GPS'14's does: a walk of `gait.py` and a controller that keeps to it, the LQR
of the dynamics along the walk, by central differences through contact. Without this feedback its torques fall in one
to three seconds. Where there are pushes or slopes, it is still that of calm, level ground.
"""

# pyright: reportAttributeAccessIssue=false
import functools
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float

from pilotfish.algebra.riccati import lqr
from pilotfish.tasks.gait import walk
from pilotfish.tasks.mujoco import MujocoTask
from pilotfish.types import Gaussian, LinearGaussian, Problem, Quadratic, Step
from pilotfish.worlds.mujoco import Simulation

DT, SUBSTEPS, HORIZON = 0.01, 5, 500  # s (both papers), of .002 s (ours), 5 s (GPS'14)
VELOCITY, HEIGHT = 2.1, 1.1  # m/s and m, of the torso (both papers)
ACTION_WEIGHT = 1e-4  # w_u (both papers)
FALLEN, PACE = 0.7, 0.5  # m; m/s about VELOCITY: a walk that is neither fallen nor off this pace is a success (ours)
START = (0.0, 1.2, 0.0, 0.2, -0.1, -0.1, -0.15, -0.05, 0.2)  # q, rad and m (ours; the ankles level the feet)
START_VELOCITY = (1.0, *8 * (0.0,))  # m/s and rad/s (ours)
START_STD = np.repeat([0.01, 0.02], 9)  # of q and q' (ours)
POSITION_WEIGHT, VELOCITY_WEIGHT, TORQUE_WEIGHT = 100.0, 1.0, 0.01  # of the LQR (ours)
DIFFERENCE = 1e-7  # of the central differences, relative (ours: larger ones step across touchdowns)
LIMITS = {"hip": 60.0, "knee": 60.0, "ankle": 20.0}  # N m (ours)
PUSH_STEPS, PUSH_EVERY = 10, 150  # .1 s every 1.5 s (ours)
KNOTS = np.arange(-5.0, 21.0)  # m along x, between which rough ground is straight (ours)
LEVEL = 1.5  # m about the start where it is level (ours)
SAMPLES = 10  # a metre: a foot then lies on several of the height field's cells, each with its own contact

LEG = """
<body name="{side}_thigh" pos="0 {y} -.24">
  <joint name="{side}_hip" range="-1.2 2" damping="1"/>
  <geom fromto="0 0 0 0 0 -.45" size=".05" mass="1" rgba="{rgba}"/>
  <body name="{side}_shin" pos="0 0 -.45">
    <joint name="{side}_knee" range="-2.6 .02" damping="1"/>
    <geom fromto="0 0 0 0 0 -.45" size=".04" mass=".8" rgba="{rgba}"/>
    <body name="{side}_foot" pos="0 0 -.45">
      <joint name="{side}_ankle" range="-.8 .8" damping=".2"/>
      <geom name="{side}_foot" class="foot" fromto="-.06 0 -.03 .14 0 -.03" rgba="{rgba}"/>
    </body>
  </body>
</body>
"""
MJCF = """
<mujoco model="walker">
  <compiler angle="radian"/>
  <option timestep="0.002" integrator="implicitfast"/>
  <visual>
    <headlight ambient=".45 .45 .45" diffuse=".4 .4 .4" specular="0 0 0"/>
    <global offwidth="1024" offheight="768"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1=".86 .9 .94" rgb2=".97 .98 .99" width="64" height="64"/>
    <texture name="grid" type="2d" builtin="checker" rgb1=".96 .97 .98" rgb2=".84 .87 .9" width="256" height="256"/>
    <material name="grid" texture="grid" texrepeat="1 1" texuniform="true"/>
    {asset}
  </asset>
  <default>
    <geom type="capsule" contype="0" conaffinity="0"/>
    <joint armature=".004" axis="0 -1 0"/>
    <default class="foot"><geom contype="1" friction="1" solref=".02 1" size=".03" mass=".2"/></default>
    <default class="root"><joint armature="0" type="slide"/></default>
  </default>
  <worldbody>
    <light directional="true" pos="0 -2 6" dir=".2 .3 -1" diffuse=".4 .4 .4" specular="0 0 0"/>
    <geom name="ground" conaffinity="1" material="grid" {ground}/>
    <geom type="box" pos="10.5 0 0" size=".04 1 .005" rgba=".62 .75 .64 1"/>
    <geom fromto="10.5 1 0 10.5 1 1.3" size=".03" rgba=".62 .75 .64 1"/>
    <body name="torso" pos="0 0 1.2">
      <camera name="view" mode="trackcom" pos=".25 -3.2 .25" xyaxes="1 0 0 0 .14 1" fovy="42"/>
      <joint name="x" class="root" axis="1 0 0"/>
      <joint name="z" class="root" axis="0 0 1" ref="1.2"/>
      <joint name="pitch" armature="0"/>
      <geom fromto="0 0 -.24 0 0 .24" size=".08" mass="14" rgba=".12 .44 .7 1"/>
      {legs}
    </body>
  </worldbody>
  <actuator>{motors}</actuator>
</mujoco>
"""
FLAT = 'type="plane" pos="10 0 0" size="40 6 1"'
ROUGH = f'type="hfield" hfield="ground" pos="{KNOTS.mean()} 0 -.5"'
COLUMNS = round(np.ptp(KNOTS) * SAMPLES) + 1
HFIELD = f'<hfield name="ground" nrow="2" ncol="{COLUMNS}" size="{np.ptp(KNOTS) / 2} 3 1 .1"/>'
LEGS = LEG.format(side="right", y=-0.08, rgba=".12 .44 .7 1") + LEG.format(side="left", y=0.08, rgba=".55 .7 .83 1")
MOTORS = "".join(
    f'<motor name="{side}_{joint}" joint="{side}_{joint}" ctrlrange="-{limit} {limit}"/>'
    for side in ("right", "left")
    for joint, limit in LIMITS.items()
)


class Walk(NamedTuple):
    """A walk and the feedback that keeps to it."""

    x: Float[np.ndarray, "T1 dx"]
    u: Float[np.ndarray, "T du"]
    K: Float[np.ndarray, "T du dx"]


class Walker(MujocoTask):
    """Walk along x at 2.1 m/s for 5 s."""

    height_weight: float = 1.0
    """Cost of the torso's distance from a height of 1.1 m is half this times its square (paper: w_h)."""
    push: float = 0.0
    """Force along x on the torso for .1 s every 1.5 s, N."""
    slope: float = 0.0
    """Steepest slope of the ground, degrees; 0 for a plane."""
    start: Literal["stabilised", "demonstration", "scratch"] = eqx.field(static=True, default="stabilised")
    """What learning begins with: the walk and its feedback, the walk's torques alone, or no torques."""
    initial_std: float = 2.0
    """Standard deviation of the first controller's torques, N m."""

    def __check_init__(self):
        if not 0 <= self.slope <= 20:
            raise ValueError(f"slope={self.slope}: the steepest slope must be between 0 and 20 degrees.")

    def simulation(self) -> Simulation:
        if self.slope:
            model = _model(ROUGH, HFIELD)
            x = np.linspace(KNOTS[0], KNOTS[-1], COLUMNS)
            model.hfield_data[:] = 0.5 + np.tile(np.interp(x, KNOTS, terrain(self.slope)), 2)
        else:
            model = _model(FLAT)
        forces = None
        if self.push:
            forces = np.zeros((HORIZON, model.nbody, 6))
            for t in range(PUSH_EVERY, HORIZON, PUSH_EVERY):
                forces[t : t + PUSH_STEPS, model.body("torso").id, 0] = self.push
        return Simulation(model, forces=forces)

    def problem(self) -> Problem:
        limit = np.array(2 * (*LIMITS.values(),))
        return Problem(
            horizon=HORIZON,
            dt=DT,
            conditions=Gaussian(jnp.array([START + START_VELOCITY]), jnp.asarray(np.diag(START_STD**2)[None])),
            initial_std=np.full(6, float(self.initial_std)),
            cost=self.cost,
            action_low=-limit,
            action_high=limit,
            success=self.walks,
            first_controller=self._demonstration(),
        )

    def _demonstration(self) -> LinearGaussian | None:
        if self.start == "scratch":
            return None
        x, u, K = demonstration()
        if self.start == "demonstration":
            K = np.zeros_like(K)
        k, chol = u - np.einsum("tij,tj->ti", K, x[:-1]), np.tile(self.initial_std * np.eye(6), (HORIZON, 1, 1))
        return LinearGaussian(*(jnp.asarray(array)[None] for array in (K, k, chol)))

    def cost(self, x: Float[Array, "dx"], u: Float[Array, "du"], t: Step) -> Float[Array, ""]:
        """`w_u/2 |u|^2 + 1/2 (v_x - 2.1)^2 + w_h/2 (z - 1.1)^2`."""
        fast, high = x[9] - VELOCITY, x[1] - HEIGHT
        return 0.5 * (ACTION_WEIGHT * (u**2).sum() + fast**2 + self.height_weight * high**2)

    def walks(self, x: Float[Array, "T1 dx"], u: Float[Array, "T du"]) -> Bool[Array, ""]:
        """True if the torso stays above .7 m and its mean velocity is within .5 m/s of 2.1."""
        return (x[:, 1] > FALLEN).all() & (jnp.abs(x[:, 9].mean() - VELOCITY) <= PACE)


def terrain(slope: float) -> Float[np.ndarray, "n"]:
    """Heights at KNOTS, m: chance, always the same, with a steepest slope of `slope` degrees."""
    heights = np.where(np.abs(KNOTS) < LEVEL, 0.0, np.random.default_rng(0).uniform(-1, 1, len(KNOTS)))
    return heights * np.tan(np.radians(slope)) / np.abs(np.diff(heights) / np.diff(KNOTS)).max()


@functools.cache
def demonstration() -> Walk:
    """A walk over flat ground, and the LQR's feedback for the distance from it."""
    world = Walker(start="scratch").world()
    x, u = walk(world.model, np.array(START + START_VELOCITY), np.zeros((HORIZON, 6)), SUBSTEPS)
    f = world.simulation.linearised(world.problem, x[None, :-1], u[None], DIFFERENCE)
    f = jax.tree.map(lambda leaf: leaf[0], f)
    weight = jnp.repeat(jnp.array([POSITION_WEIGHT, VELOCITY_WEIGHT]), 9).at[0].set(0.0)  # x may be anywhere
    H = jnp.diag(jnp.append(weight, jnp.full(6, TORQUE_WEIGHT)))
    cost = Quadratic(jnp.tile(H, (HORIZON, 1, 1)), jnp.zeros((HORIZON, 24)), jnp.zeros(HORIZON))
    final = Quadratic(jnp.diag(weight), jnp.zeros(18), jnp.zeros(()))
    controller, _ = lqr(f, cost, final)  # only its gains matter, and they are the same about any states
    return Walk(x, u, np.asarray(controller.K))


def _model(ground: str, asset: str = "") -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(MJCF.format(ground=ground, asset=asset, legs=LEGS, motors=MOTORS))
