"""A gait for the planar walker, from which learning may begin: SIMBICON (Yin, Loken and van de Panne 2007).

A step of one leg, the swing leg, has two phases: the first lifts it and lasts .15 s, the second puts it down and ends
when its foot touches the ground; then the legs change roles. A phase is a set of angles that PD control holds:

    joints of knees and ankles    u = g (kp (angle - q) - kd q')        g = 1; ankles: .5 stance, .15 swing
    hip of the swing leg          u = kp (angle + c_d d + c_v v - phi) - kd phi'
    hip of the stance leg         u = kp (lean + pitch) + kd pitch' - u of the other hip

phi is the direction of the swing leg's thigh in the world (0 down, positive forward), d how far the hips are ahead of
the stance leg's ankle, v the torso's velocity along x: this feedback on where the foot is put keeps the balance. The
sum of both hips' torques turns the torso; its pitch is positive where it leans back. The form is the paper's, the
numbers are ours, found by a search that demanded that 18 walks of 18 withstand noise on the torques.
"""

# pyright: reportAttributeAccessIssue=false
from typing import NamedTuple

import mujoco
import numpy as np
from jaxtyping import Float

KP, KD = 62.74, 3.66  # N m/rad, N m s/rad
LEAN = 0.23  # rad, forward
STANCE_ANKLE, SWING_ANKLE = 0.5, 0.15  # g
LIFT = 0.15  # s
LEGS = ("right", "left")  # in the order of the model's joints and actuators; the first swings first


class Phase(NamedTuple):
    """What a phase holds: angles in rad."""

    thigh: float
    """Of the swing leg, in the world, before the feedback."""
    swing: tuple[float, float]
    """Knee and ankle."""
    stance: tuple[float, float]
    """Knee and ankle."""
    distance: float
    """c_d, rad/m."""
    velocity: float
    """c_v, rad s/m."""


PHASES = (
    Phase(thigh=0.45, swing=(-1.89, -0.10), stance=(-0.26, 0.21), distance=-0.12, velocity=0.35),
    Phase(thigh=-0.69, swing=(-0.01, 0.51), stance=(-0.39, 0.34), distance=1.49, velocity=0.17),
)


def walk(
    model: mujoco.MjModel, start: Float[np.ndarray, "dx"], noise: Float[np.ndarray, "T du"], substeps: int
) -> tuple[Float[np.ndarray, "T1 dx"], Float[np.ndarray, "T du"]]:
    """States [q, q'] and torques of a walk from `start`; `noise`, N m, is added to the torques.

    The model has the joints x, z and pitch, then hip, knee and ankle of each leg, bodies "right_thigh" and the like,
    and geoms "right_foot" and "left_foot".
    """
    data, dt = mujoco.MjData(model), substeps * model.opt.timestep
    data.qpos[:], data.qvel[:] = np.split(start, 2)
    low, high = model.actuator_ctrlrange.T
    swing, phase, since = 0, 0, 0
    x, u = [], []
    for t, disturbance in enumerate(noise):
        mujoco.mj_forward(model, data)
        x.append(np.concatenate([data.qpos, data.qvel]))
        if phase == 0 and (t - since) * dt > LIFT - dt / 2:
            phase = 1
        elif phase == 1 and _touches(model, data, f"{LEGS[swing]}_foot"):
            swing, phase, since = 1 - swing, 0, t
        u.append(np.clip(_torques(data, PHASES[phase], swing) + disturbance, low, high))
        data.ctrl[:] = u[-1]
        mujoco.mj_step(model, data, substeps)
    x.append(np.concatenate([data.qpos, data.qvel]))
    return np.array(x), np.array(u)


def _torques(data: mujoco.MjData, phase: Phase, swing: int) -> np.ndarray:
    (pitch, v, turning), stance = (data.qpos[2], data.qvel[0], data.qvel[2]), 1 - swing
    q, speed = data.qpos[3:].reshape(2, 3), data.qvel[3:].reshape(2, 3)  # leg, joint
    d = data.body(f"{LEGS[stance]}_thigh").xpos[0] - data.body(f"{LEGS[stance]}_foot").xpos[0]
    u = np.zeros((2, 3))
    u[swing, 1:] = (1.0, SWING_ANKLE) * (KP * (phase.swing - q[swing, 1:]) - KD * speed[swing, 1:])
    u[stance, 1:] = (1.0, STANCE_ANKLE) * (KP * (phase.stance - q[stance, 1:]) - KD * speed[stance, 1:])
    thigh = phase.thigh + phase.distance * d + phase.velocity * v
    u[swing, 0] = KP * (thigh - pitch - q[swing, 0]) - KD * (turning + speed[swing, 0])
    u[stance, 0] = KP * (LEAN + pitch) + KD * turning - u[swing, 0]
    return u.ravel()


def _touches(model: mujoco.MjModel, data: mujoco.MjData, geom: str) -> bool:
    return bool((data.contact.geom == model.geom(geom).id).any())
