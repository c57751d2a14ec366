"""Navigation between walls in the plane (MDGPS's `obstacle_course`): a slow point mass must find the gaps.

State `x = [place relative to the target (2), velocity (2)]` in m and m/s; action: the force, N, at most 1 along each
axis. The mass is 4.8 kg, so a wrong turn is dear. Walls, gaps, mass, times, conditions and cost are those of the
experiment's files in the history of github.com/cbfinn/gps, where the cost's other weights are never read; `cost_form`
"intended" has what they say. Success is ours.

    gaps at x = 1 m: |y| < .3 and |y| > 1.3;  at x = 2 m: .31 < |y| < .8 and |y| > 1.8      (of the mass's centre)
"""

# pyright: reportAttributeAccessIssue=false
import dataclasses
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float

from pilotfish.tasks.hold import hold
from pilotfish.tasks.mujoco import MujocoTask
from pilotfish.types import Gaussian, Problem, Step
from pilotfish.worlds.mujoco import Simulation

TARGET = (3.0, 0.0)  # m
DT, HORIZON = 0.05, 200  # s, 10 s
STARTS = np.linspace(-1.5, 1.5, 5)  # m along y, at x = 0
START_VARIANCE = 1e-6
REACHED = 0.3  # m
WALLS = ((1.0, 0.8, 0.3), (1.0, -0.8, 0.3), (2.0, 0.0, 0.01), (2.0, 1.3, 0.3), (2.0, -1.3, 0.3))  # x, y, half length
WALL_GEOMS = "".join(
    f'<geom type="capsule" fromto="{x} {y - half} 0 {x} {y + half} 0" size=".1" rgba=".54 .59 .64 1"/>'
    for x, y, half in WALLS
)

MJCF = f"""
<mujoco model="obstacles">
  <option timestep="0.01" gravity="0 0 0" integrator="Euler"/>
  <visual>
    <headlight ambient=".5 .5 .5" diffuse=".5 .5 .5" specular="0 0 0"/>
    <global offwidth="1024" offheight="768"/>
  </visual>
  <default><geom margin="0.002" condim="1"/></default>
  <worldbody>
    <camera name="view" pos="1.6 0 6.2" fovy="32"/>
    <geom type="plane" pos="1.6 0 -.12" size="4 3 .1" rgba=".93 .94 .95 1" contype="0" conaffinity="0"/>
    <geom type="cylinder" pos="3 0 -.1" size=".3 .01" rgba=".62 .75 .64 1" contype="0" conaffinity="0"/>
    {WALL_GEOMS}
    <body name="particle" pos="{TARGET[0]} {TARGET[1]} 0">
      <joint name="x" type="slide" axis="1 0 0" damping="1"/>
      <joint name="y" type="slide" axis="0 1 0" damping="1"/>
      <geom type="capsule" size="0.1 0.01" density="1000" rgba=".12 .44 .7 1"/>
    </body>
  </worldbody>
  <actuator><motor joint="x" ctrlrange="-1 1"/><motor joint="y" ctrlrange="-1 1"/></actuator>
</mujoco>
"""


class Obstacles(MujocoTask):
    """Find a way between the walls to the target, from five starts."""

    cost_form: Literal["effective", "intended"] = eqx.field(static=True, default="effective")
    """What the experiment's code computes, or what its settings say."""
    force: float = 1.0
    """Largest force along each axis, N."""
    starts: tuple[float, ...] = eqx.field(
        static=True, converter=lambda value: tuple(float(y) for y in value), default=tuple(STARTS.tolist())
    )
    """Where episodes start, m along y; a condition each."""

    def __check_init__(self):
        if not self.force > 0:
            raise ValueError(f"force={self.force}: the largest force must be positive.")

    def held_out(self) -> "Obstacles":
        """The starts halfway between those of training."""
        y = np.sort(self.starts)
        if len(y) < 2:
            raise ValueError(f"starts={self.starts}: nothing is between the starts of training. Give at least two.")
        return dataclasses.replace(self, starts=tuple((y[1:] + y[:-1]) / 2))

    def simulation(self) -> Simulation:
        return Simulation(mujoco.MjModel.from_xml_string(MJCF))

    def problem(self) -> Problem:
        n, y, zero = len(self.starts), np.array(self.starts), np.zeros(len(self.starts))
        start = jnp.asarray(np.stack([zero - TARGET[0], y - TARGET[1], zero, zero], -1))
        limit = float(self.force)
        return Problem(
            horizon=HORIZON,
            dt=DT,
            conditions=Gaussian(start, jnp.asarray(np.tile(START_VARIANCE * np.eye(4), (n, 1, 1)))),
            initial_std=np.ones(2),
            cost=self.cost,
            action_low=-limit,
            action_high=limit,
            success=self.arrives,
            distance=self.remaining,
            first_controller=hold(start, HORIZON, DT, jnp.ones(2), stiffness=10.0, stiffness_vel=10.0),
        )

    def cost(self, x: Float[Array, "dx"], u: Float[Array, "du"], t: Step) -> Float[Array, ""]:
        """Half the squared distance to the target. Intended: ten times that and a logarithm, the last step tenfold."""
        square = (x[:2] ** 2).sum()
        if self.cost_form == "effective":
            return 0.5 * square
        return jnp.where(t == HORIZON - 1, 10.0, 1.0) * (5.0 * square + 0.05 * jnp.log(1e-5 + square))

    def remaining(self, x: Float[Array, "T1 dx"], u: Float[Array, "T du"]) -> Float[Array, ""]:
        """How far the last place is from the target, m."""
        return jnp.linalg.norm(x[-1, :2])

    def arrives(self, x: Float[Array, "T1 dx"], u: Float[Array, "T du"]) -> Bool[Array, ""]:
        """True if the last place is within .3 m of the target."""
        return self.remaining(x, u) < REACHED
