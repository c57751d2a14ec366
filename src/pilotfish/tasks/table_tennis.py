"""Robot table tennis (MOTO, section 7.2): an arm on a base that slides returns a ball by a forehand stroke.

State `x = [q, q', ball]`, 21 numbers: the base's place (x, y, z), the six joints of the arm, their velocities, and
where the ball is, not how fast it moves; m, rad, s. Actions, 9: forces of the base and torques of the arm, in units
`scale` of the task. The learned part of an episode is .6 s, 30 actions of .02 s: what would be the preparation and the
hit of the player that knows everything (`table_tennis_player.py`). Before it the player waits, and after it brings the
arm back; its path is taken for the arm's, as inverse dynamics would follow it. Then the ball is followed until it lands
(`table_tennis_ball.py`). What it comes to is the final cost, which no state tells, so the world brings it:

    1e-5 |u|^2            of every step
    -reward               at the end

An episode succeeds if the ball is returned: if it lands on the far half of the table and did not hit the net.

Learning begins with the player's torques of one stroke, their mean over every .02 s, and with no feedback (the paper).
What the paper says: 9 joints, of which 3 slide, 21 numbers, direct torques, 500 steps a second, 30 controllers, this
demonstration with exploration of the identity, the three settings. The arm, the launch, the amounts of noise and the
cost are ours. In N m, exploration of 1 would wreck the stroke, for which 1.5 N m suffice at the wrist: hence `scale`.
"""

# pyright: reportAttributeAccessIssue=false
import functools
from collections.abc import Iterator

import equinox as eqx
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from mujoco.batch import Batch
from scipy.interpolate import CubicHermiteSpline

from pilotfish.tasks import table_tennis_player as player
from pilotfish.tasks.mujoco import GRID, VISUAL, MujocoTask
from pilotfish.tasks.table_tennis_ball import (
    DT,
    LENGTH,
    NET,
    NET_HEIGHT,
    RACKET_RADIUS,
    TARGET,
    WIDTH,
    Balls,
    Racket,
    flown,
    reward,
)
from pilotfish.types import Gaussian, LinearGaussian, Problem, Step
from pilotfish.worlds.mujoco import Beside, Moving, Simulation

SUBSTEPS, HORIZON = 10, 30  # of .002 s an action (paper), .6 s (paper)
LAUNCH, LAUNCH_VELOCITY = np.array([2.9, 0.1, 0.35]), np.array([-5.0, -0.2, 1.5])  # m, m/s (ours)
REST = np.array([0.0, 0.0, 0.0, -1.2, 0.2, -0.3, -1.2, 0.0, 0.0])  # of the joints, m and rad (ours)
LIMITS = np.array([150.0, 150.0, 150.0, 60.0, 60.0, 30.0, 30.0, 10.0, 10.0])  # N, N m (ours)
SCALE = (3.0, 3.0, 3.0, 1.0, 1.0, 0.4, 0.4, 0.1, 0.1)  # N, N m: with it an unlearned stroke still returns half (ours)
ACTION_WEIGHT = 1e-5  # (ours): at 1e-3 a stroke costs 19, and a return is worth 2
SUCCESS = -0.75  # a final cost below is that of a return: of those it is at most -.94, of others at least -.54

JOINTS = ("base_x", "base_y", "base_z", "shoulder_z", "shoulder_y", "shoulder_x", "elbow", "roll", "wrist")
MJCF = """
<mujoco model="table_tennis">
  <compiler angle="radian"/>
  <option timestep="{dt}" integrator="implicitfast"/>
  {visual}
  <asset>
    <texture type="skybox" builtin="flat" rgb1=".93 .94 .95" width="8" height="8"/>
    {grid}
    <material name="grid" texture="grid" texrepeat="2 2" texuniform="true"/>
  </asset>
  <default>
    <joint armature=".02" damping="1"/>
    <geom contype="0" conaffinity="0" density="400" rgba=".12 .44 .7 1"/>
    <site rgba=".98 .75 .45 1" size=".012"/>
    <default class="slide"><joint type="slide" damping="20"/></default>
    <default class="hand"><joint damping=".2"/></default>
    <default class="seen"><geom mass="0" rgba=".54 .59 .64 1"/></default>
  </default>
  <worldbody>
    <camera name="view" pos=".9 -5.2 2.5" xyaxes="1 0 0 0 .43 .9" fovy="33"/>
    <light directional="true" pos="0 0 4" dir="-.2 .3 -1" diffuse=".25 .25 .25" castshadow="false"/>
    <geom type="plane" pos="0 0 -.76" size="0 0 .1" material="grid" rgba="1 1 1 1" class="seen"/>
    <geom type="box" pos="{net} 0 -.015" size="{net} {half} .015" rgba=".33 .5 .42 1" class="seen"/>
    <geom type="box" pos="{net} 0 .001" size="{net} .005 .001" rgba="1 1 1 1" class="seen"/>
    <geom type="box" pos="{net} 0 {net_height}" size=".005 {half} {net_height}" rgba=".2 .25 .3 .5" class="seen"/>
    {legs}
    <geom type="cylinder" pos="{target} .002" size=".1 .002" rgba=".62 .75 .64 1" class="seen"/>
    {trace}
    <body name="base" pos="-.8 -.1 .45" gravcomp="1">
      <joint name="base_x" class="slide" axis="1 0 0" range="-.3 .3"/>
      <joint name="base_y" class="slide" axis="0 1 0" range="-.3 .3"/>
      <joint name="base_z" class="slide" axis="0 0 1" range="-.2 .2"/>
      <geom type="box" size=".07 .07 .07" mass="8" rgba=".54 .59 .64 1"/>
      <geom type="cylinder" fromto="0 0 -.07 0 0 -1.2" size=".04" class="seen"/>
      <body name="upper" gravcomp="1">
        <joint name="shoulder_z" axis="0 0 1" range="-2.6 2.6"/>
        <joint name="shoulder_y" axis="0 1 0" range="-2 2"/>
        <joint name="shoulder_x" axis="1 0 0" range="-2.8 2.8"/>
        <geom type="capsule" fromto="0 0 0 .4 0 0" size=".04"/>
        <body name="fore" pos=".4 0 0" gravcomp="1">
          <joint name="elbow" axis="0 1 0" range="-2.6 .1"/>
          <geom type="capsule" fromto="0 0 0 .35 0 0" size=".03"/>
          <body name="hand" pos=".35 0 0" gravcomp="1" childclass="hand">
            <joint name="roll" axis="1 0 0" range="-3 3"/>
            <joint name="wrist" axis="0 1 0" range="-1.6 1.6"/>
            <geom type="capsule" fromto="0 0 0 .11 0 0" size=".015" class="seen"/>
            <geom type="cylinder" pos=".18 0 0" size="{racket} .006" mass=".15" rgba=".85 .3 .25 1"/>
            <site name="racket" pos=".18 0 0" rgba="0 0 0 0"/>
          </body>
        </body>
      </body>
    </body>
    <body name="ball" mocap="true" pos="{ball}">
      <geom type="sphere" size=".04" rgba="1 .45 0 1" class="seen"/>
    </body>
  </worldbody>
  <actuator>{motors}</actuator>
  <sensor><framepos objtype="xbody" objname="ball"/></sensor>
</mujoco>
"""
LEGS = "".join(
    f'<geom type="box" pos="{x} {y} -.395" size=".03 .03 .365" class="seen"/>'
    for x in (0.2, LENGTH - 0.2)
    for y in (0.1 - WIDTH / 2, WIDTH / 2 - 0.1)
)


class Service(Beside):
    """A ball is launched towards the robot, in every episode anew."""

    def __init__(self, spread: float, bounce_std: float):
        """Half the range of the launch's v_x and v_y, and the standard deviation of what a bounce adds to them, m/s."""
        self.spread, self.bounce_std = spread, bounce_std

    def begin(self, batch, conditions, randoms):
        drawn = np.array([np.concatenate([random.uniform(-1, 1, 2), random.normal(size=2)]) for random in randoms])
        v = np.tile(LAUNCH_VELOCITY, (len(randoms), 1))
        v[:, :2] += self.spread * drawn[:, :2]
        p = np.tile(LAUNCH, (len(randoms), 1))
        for _ in range(_first_step()):
            p, v = flown(p, v)
        assert batch.site_xpos is not None  # what a batch computes it keeps only if it was asked for before
        assert batch.site_xmat is not None
        batch.forward(stage=mujoco.mjtStage.mjSTAGE_POS.value)
        return Rally(batch, Balls(p, v, _racket(batch), self.bounce_std * drawn[:, 2:]))


class Rally(Moving):
    """The balls of a batch's episodes."""

    def __init__(self, batch: Batch, balls: Balls):
        self.balls = balls
        self._show(batch)

    def step(self, batch):
        self.balls.step(_racket(batch))
        self._show(batch)

    def finish(self, batch, whole):
        for _ in self.following(batch, whole):
            pass
        return -reward(self.balls.landing, self.balls.nearest)

    def following(self, batch: Batch, whole: Bool[np.ndarray, "n"]) -> Iterator[player.Motion]:
        """How the arm goes back, timestep by timestep until it is known what became of the balls, which fly on: along
        the player's path, which inverse dynamics would follow.
        """
        q, speed, t = batch.qpos.copy(), batch.qvel.copy(), 0.0
        while not self.balls.over[whole].all():
            t = min(t + DT, player.RETURN)
            back = player.between(q, speed, REST, np.zeros_like(REST), player.RETURN, t)
            if len(ids := np.flatnonzero(self.balls.waiting & whole)):
                batch.qpos[...] = back.q
                batch.forward(ids=ids, stage=mujoco.mjtStage.mjSTAGE_POS.value)
            self.balls.step(_racket(batch))
            yield back

    def _show(self, batch: Batch) -> None:
        batch.mocap_pos[:, 0] = self.balls.p


class TableTennis(MujocoTask):
    """Return a ball to the far half of the table."""

    spread: float = 0.0
    """Half the range from which v_x and v_y of the launch are drawn, m/s, 0 to 1: its context, which a policy sees by
    where the ball is. With .17 it bounces within 11 cm along the table and 13 cm across (paper: a "15cm range")."""
    bounce_std: float = 0.0
    """Standard deviation of what is added to v_x and v_y where the ball bounces off the table, m/s, 0 or more."""
    action_weight: float = ACTION_WEIGHT
    """Cost of a step by the squared action, in units of `scale`, 0 or more."""
    initial_std: float = 1.0
    """Standard deviation of the first controller's actions, in units of `scale` (paper: 1)."""
    scale: tuple[float, ...] = eqx.field(
        static=True, converter=lambda value: tuple(float(unit) for unit in value), default=SCALE
    )
    """What an action of 1 is: 3 forces of the base, N, and 6 torques of the arm, N m."""

    def __check_init__(self):
        if not 0 <= self.spread <= 1:
            raise ValueError(f"spread={self.spread}: give a velocity between 0 and 1 m/s: others fly past the arm.")
        if not 0 <= self.bounce_std < np.inf:
            raise ValueError(f"bounce_std={self.bounce_std}: a standard deviation is 0 or more.")
        if not 0 <= self.action_weight < np.inf:
            raise ValueError(f"action_weight={self.action_weight}: the weight of a cost is 0 or more.")
        if len(self.scale) != len(LIMITS) or not all(unit > 0 for unit in self.scale):
            raise ValueError(f"scale={self.scale}: give {len(LIMITS)} positive numbers, a unit for each action.")

    def simulation(self) -> Simulation:
        model = mujoco.MjModel.from_xml_string(_mjcf(self.scale))
        # the ball stops the arms at every timestep, which is too little work to share
        return Simulation(model, threads=1, beside=Service(float(self.spread), float(self.bounce_std)))

    def problem(self) -> Problem:
        start = jnp.asarray(self.simulation().states(REST[None], np.zeros((1, len(REST)))))
        scale, dx, du = np.array(self.scale), start.shape[1], len(LIMITS)
        k = demonstration().reshape(HORIZON, SUBSTEPS, du).mean(1) / scale
        first = LinearGaussian(
            K=jnp.asarray(np.zeros((1, HORIZON, du, dx))),
            k=jnp.asarray(k[None]),
            chol=jnp.asarray(np.tile(self.initial_std * np.eye(du), (1, HORIZON, 1, 1))),
        )
        return Problem(
            horizon=HORIZON,
            dt=SUBSTEPS * DT,
            conditions=Gaussian(start, jnp.asarray(np.zeros((1, dx, dx)))),
            initial_std=np.full(du, float(self.initial_std)),
            cost=self.cost,
            final_cost=None,
            action_low=-LIMITS / scale,
            action_high=LIMITS / scale,
            success=self.is_returned,
            first_controller=first,
        )

    def cost(self, x: Float[Array, "dx"], u: Float[Array, "du"], t: Step) -> Float[Array, ""]:
        """`1e-5 |u|^2`."""
        return self.action_weight * (u**2).sum()

    def is_returned(
        self, x: Float[Array, "T1 dx"], u: Float[Array, "T du"], final: Float[Array, ""]
    ) -> Bool[Array, ""]:
        """True if the ball lands on the far half and did not hit the net: no other end costs as little."""
        return final < SUCCESS

    def afterwards(self, x: Float[np.ndarray, "T1 dx"]) -> Float[np.ndarray, "n dx"]:
        """The arm on its way back and the ball until it lands, from what the states tell."""
        simulation = self.simulation()
        batch = simulation.batch(np.zeros(1, int))
        rally, joints = _seen(batch, x, simulation.places[0]), len(REST)
        states = []
        for back in rally.following(batch, np.ones(1, bool)):
            state = x[-1].copy()
            state[:joints], state[joints : 2 * joints] = back.q[0], back.speed[0]
            state[simulation.places[0]] = rally.balls.p[0]
            states.append(state)
        return np.array(states[SUBSTEPS - 1 :: SUBSTEPS] + states[-1:]).reshape(-1, x.shape[1])


def _seen(batch: Batch, x: Float[np.ndarray, "T1 dx"], place: Int[np.ndarray, "3"]) -> Rally:
    """The rally at the end of an episode. Its states tell where the ball is: how fast it moves follows from two places
    that it flew between freely; where it was hit or bounced, from the same dynamics, the arm moving smoothly.
    """
    ball, (q, speed) = x[:, place], np.split(x[:, : 2 * len(REST)], 2, -1)
    joints = CubicHermiteSpline(np.arange(0, len(x) * SUBSTEPS, SUBSTEPS), q, DT * speed)
    launched, _ = player.aimed(ball[0], ball[1], SUBSTEPS)
    balls = Balls(ball[:1], launched[None], _racket_at(batch, q[0]), np.zeros((1, 2)))
    for t in range(len(x) - 1):
        free = True
        for i in range(1, SUBSTEPS + 1):
            falling, was_hit = balls.v[0, 2], balls.hit[0]
            balls.step(_racket_at(batch, joints(t * SUBSTEPS + i)))
            free &= balls.v[0, 2] < falling and balls.hit[0] == was_hit
        balls.p = ball[t + 1 : t + 2]
        if free:
            balls.v = player.aimed(ball[t], ball[t + 1], SUBSTEPS)[1][None]
    batch.qpos[...], batch.qvel[...] = q[-1], speed[-1]
    return Rally(batch, balls)


@functools.cache
def nominal() -> player.Strike:
    """What the player intends against the ball that is launched without noise."""
    return player.strike(mujoco.MjModel.from_xml_string(_mjcf(SCALE)), REST, LAUNCH, LAUNCH_VELOCITY)


def demonstration() -> Float[np.ndarray, "300 du"]:
    """The torques of the player's stroke in the learned phases, at every timestep, N and N m."""
    return _swing()[1][_first_step() :]


def shown() -> tuple[Float[np.ndarray, "31"], Float[np.ndarray, "31 du"], Float[np.ndarray, "31 du"]]:
    """The same stroke as a path: times of the actions' starts and of the last one's end, s, joints and velocities."""
    positions, _, speeds = _swing()
    speeds = np.concatenate([np.zeros((1, speeds.shape[1])), speeds])
    at = np.arange(_first_step(), len(positions), SUBSTEPS)
    return DT * SUBSTEPS * np.arange(HORIZON + 1), positions[at], speeds[at]


@functools.cache
def _swing() -> tuple[Float[np.ndarray, "n1 du"], Float[np.ndarray, "n du"], Float[np.ndarray, "n du"]]:
    """The player's joints, torques and velocities from the launch until it hits the ball."""
    steps = _first_step() + HORIZON * SUBSTEPS
    return player.swing(mujoco.MjModel.from_xml_string(_mjcf(SCALE)), nominal(), steps)


@functools.cache
def _first_step() -> int:
    """Timesteps from the launch to the first that is learned, so that the last one is that of the player's hit."""
    return round(player.crossing(LAUNCH, LAUNCH_VELOCITY)[0] / DT) - HORIZON * SUBSTEPS


@functools.cache
def _mjcf(scale: tuple[float, ...]) -> str:
    """The model; dots show the way of the ball that is launched without noise, and of its best return."""
    p, v = LAUNCH[None], LAUNCH_VELOCITY[None]
    for _ in range(_first_step()):
        p, v = flown(p, v)
    motors = "".join(
        f'<motor joint="{joint}" gear="{unit}" ctrlrange="{-limit / unit} {limit / unit}"/>'
        for joint, unit, limit in zip(JOINTS, scale, LIMITS, strict=True)
    )
    return MJCF.format(
        dt=DT,
        visual=VISUAL,
        grid=GRID,
        net=NET,
        half=WIDTH / 2,
        net_height=NET_HEIGHT / 2,
        legs=LEGS,
        target=_numbers(TARGET),
        trace="".join(f'<site pos="{_numbers(place)}"/>' for place in _way()),
        racket=RACKET_RADIUS,
        ball=_numbers(p[0]),
        motors=motors,
    )


def _way() -> Float[np.ndarray, "n 3"]:
    """Places, .02 s apart, of the ball that is launched without noise and returned to the target."""
    _, hit, _ = player.crossing(LAUNCH, LAUNCH_VELOCITY)
    balls, p, v = player.unreturned(LAUNCH, LAUNCH_VELOCITY), hit[None], player.outgoing(hit)[None]
    coming, going = [LAUNCH], [hit]
    while coming[-1][0] > hit[0]:
        balls.step(player.NOWHERE)
        coming.append(balls.p[0])
    for _ in range(round(player.FLIGHT / DT)):
        p, v = flown(p, v)
        going.append(p[0])
    return np.concatenate([coming[::SUBSTEPS], going[::SUBSTEPS]])


def _racket(batch: Batch) -> Racket:
    """Where the rackets are; the site is the model's only one that has a name, and its last."""
    return Racket(batch.site_xpos[:, -1].copy(), batch.site_xmat[:, -1, 2::3].copy())


def _racket_at(batch: Batch, q: Float[np.ndarray, "nq"]) -> Racket:
    """Where the racket of one arm is whose joints are there."""
    batch.qpos[...] = q
    batch.forward(stage=mujoco.mjtStage.mjSTAGE_POS.value)
    return _racket(batch)


def _numbers(vector: np.ndarray) -> str:
    return " ".join(map(str, vector.tolist()))
