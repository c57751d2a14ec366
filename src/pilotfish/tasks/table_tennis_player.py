"""A player of table tennis who knows the arm and the ball, after Mülling, Kober and Peters (2011).

It hits where the ball crosses a plane before the robot's edge, and has four phases:

    wait      in the posture q_0
    prepare   .36 s   q_0 to q_b = q_h - .55 (.24 s) q'_h, where it rests
    hit       .24 s   q_b to (q_h, q'_h), where it meets the ball
    return    .6 s    back to q_0

A phase moves every joint by a polynomial of fifth order without acceleration at its ends. The posture q_h brings the
racket's centre to the ball and its normal to n, by Gauss-Newton steps whose null space draws towards q_0; q'_h moves it
along n, at the speed at which the ball leaves as is wanted, and does not turn n. Both weigh the base's motion .05, so
that the arm does most. With v the ball's velocity before and v* after, which takes it to the target in .55 s,

    n = (v* - v) / |v* - v|,    speed along n = (v* . n + e v . n) / (1 + e)

The phases and their order are the paper's, the numbers and the plane are ours.
"""

# pyright: reportAttributeAccessIssue=false
from typing import NamedTuple

import mujoco
import numpy as np
from jaxtyping import Float

from pilotfish.tasks.table_tennis_ball import DT, RACKET_RESTITUTION, RADIUS, TARGET, Balls, Racket, flown

PLANE = -0.3  # m: x where the ball is hit
PREPARE, HIT, RETURN = 0.36, 0.24, 0.6  # s
FLIGHT = 0.55  # s from the racket to the target
AIMS = 20  # corrections of the velocity: each leaves less than a third of what the one before missed by
BACKSWING = 0.55  # part of what q'_h moves in the hitting phase by which it draws back
BASE_WEIGHT, SLIDES = 0.05, 3  # of the first three joints
DAMPING, TURN, STEPS = 1e-6, 0.1, 500  # of the inverse kinematics: m^2; rad or m a step, at most; steps
NOWHERE = Racket(np.full((1, 3), 1e3), np.array([[0.0, 0.0, 1.0]]))  # m
STIFFNESS, FRICTION = 200.0, 20.0  # 1/s^2, 1/s: the feedback on top of the inverse dynamics


class Strike(NamedTuple):
    """What the player intends."""

    time: float
    """When it hits the ball, s after the launch."""
    rest: Float[np.ndarray, "nq"]
    """q_0."""
    q: Float[np.ndarray, "nq"]
    """q_h."""
    speed: Float[np.ndarray, "nq"]
    """q'_h."""


class Motion(NamedTuple):
    """Joints at one moment."""

    q: Float[np.ndarray, "*n nq"]
    speed: Float[np.ndarray, "*n nq"]
    acceleration: Float[np.ndarray, "*n nq"]


def between(
    start: Float[np.ndarray, "*n nq"],
    speed: Float[np.ndarray, "*n nq"],
    end: Float[np.ndarray, "nq"],
    end_speed: Float[np.ndarray, "nq"],
    duration: float,
    t: float,
) -> Motion:
    """At time t of a polynomial of fifth order without acceleration at its ends."""
    s, way, a, b = t / duration, end - start, speed * duration, end_speed * duration
    c, d, e = 10 * way - 6 * a - 4 * b, -15 * way + 8 * a + 7 * b, 6 * way - 3 * a - 3 * b
    return Motion(
        start + a * s + c * s**3 + d * s**4 + e * s**5,
        (a + 3 * c * s**2 + 4 * d * s**3 + 5 * e * s**4) / duration,
        (6 * c * s + 12 * d * s**2 + 20 * e * s**3) / duration**2,
    )


def motion(strike: Strike, time: float) -> Motion:
    """Where the player wants the joints to be, `time` after the launch."""
    rest, still, t = strike.rest, np.zeros_like(strike.rest), time - strike.time
    back = strike.q - BACKSWING * HIT * strike.speed
    if -HIT - PREPARE < t <= -HIT:
        return between(rest, still, back, still, PREPARE, t + HIT + PREPARE)
    if -HIT < t <= 0:
        return between(back, still, strike.q, strike.speed, HIT, t + HIT)
    if 0 < t < RETURN:
        return between(strike.q, strike.speed, rest, still, RETURN, t)
    return Motion(rest, still, still)


def strike(
    model: mujoco.MjModel, rest: Float[np.ndarray, "nq"], p: Float[np.ndarray, "3"], v: Float[np.ndarray, "3"]
) -> Strike:
    """What the player intends against a ball that is launched at p with the velocity v."""
    time, p, v = crossing(p, v)
    wanted = outgoing(p)
    normal = (wanted - v) / np.linalg.norm(wanted - v)
    speed = (wanted @ normal + RACKET_RESTITUTION * v @ normal) / (1 + RACKET_RESTITUTION)
    q, inverse = _posture(model, rest, p, normal)
    return Strike(time, rest, q, inverse @ np.append(speed * normal, np.zeros(2)))


def crossing(
    p: Float[np.ndarray, "3"], v: Float[np.ndarray, "3"]
) -> tuple[float, Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """When a ball first is beyond the plane of hitting, s, and its place and velocity there."""
    balls, steps = unreturned(p, v), 0
    while balls.p[0, 0] > PLANE:
        balls.step(NOWHERE)
        steps += 1
    return steps * DT, balls.p[0], balls.v[0]


def unreturned(p: Float[np.ndarray, "3"], v: Float[np.ndarray, "3"]) -> Balls:
    """A ball that no racket is near."""
    return Balls(p[None], v[None], NOWHERE, np.zeros((1, 2)))


def outgoing(p: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """The velocity with which a ball flies from p to the target."""
    return aimed(p, np.append(TARGET, RADIUS), round(FLIGHT / DT))[0]


def aimed(
    p: Float[np.ndarray, "3"], target: Float[np.ndarray, "3"], steps: int
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """The velocities with which a ball leaves p and comes to the target, so many timesteps later, in free flight: what
    it misses by is made up for, again and again.
    """
    v = (target - p) / (steps * DT)
    now = p[None], v[None]
    for _ in range(AIMS):
        now = p[None], v[None]
        for _ in range(steps):
            now = flown(*now)
        v = v + (target - now[0][0]) / (steps * DT)
    return v, now[1][0]


def swing(
    model: mujoco.MjModel, strike: Strike, steps: int
) -> tuple[Float[np.ndarray, "n1 nq"], Float[np.ndarray, "n nq"], Float[np.ndarray, "n nq"]]:
    """The player's joints at every step from the launch on, their velocities after each, and its torques, N and N m: by
    inverse dynamics, and feedback on what is left.
    """
    data, inverse = mujoco.MjData(model), mujoco.MjData(model)
    data.qpos[:] = strike.rest
    positions, speeds, torques = [strike.rest], [], []
    for i in range(steps):
        wanted = motion(strike, i * DT)
        inverse.qpos[:], inverse.qvel[:] = data.qpos, data.qvel
        inverse.qacc[:] = (
            wanted.acceleration + STIFFNESS * (wanted.q - data.qpos) + FRICTION * (wanted.speed - data.qvel)
        )
        mujoco.mj_inverse(model, inverse)
        torques.append(inverse.qfrc_inverse.copy())
        data.qfrc_applied[:] = torques[-1]
        mujoco.mj_step(model, data)
        positions.append(data.qpos.copy())
        speeds.append(data.qvel.copy())
    return np.array(positions), np.array(torques), np.array(speeds)


def _posture(
    model: mujoco.MjModel,
    rest: Float[np.ndarray, "nq"],
    p: Float[np.ndarray, "3"],
    normal: Float[np.ndarray, "3"],
) -> tuple[Float[np.ndarray, "nq"], Float[np.ndarray, "nq 5"]]:
    """The joints that bring the racket's centre to p and its normal there, and the inverse of the Jacobian of the place
    and the two angles of the normal, which weighs the base less.
    """
    data, site, q = mujoco.MjData(model), model.site("racket").id, rest.copy()
    weight = np.where(np.arange(model.nv) < SLIDES, BASE_WEIGHT, 1.0)
    move, turn = np.zeros((3, model.nv)), np.zeros((3, model.nv))
    low, high = model.jnt_range.T
    inverse = np.zeros((model.nv, 5))
    for _ in range(STEPS):
        data.qpos[:] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacSite(model, data, move, turn, site)
        now = data.site_xmat[site].reshape(3, 3)
        across = now[:, :2].T
        J = np.concatenate([move, across @ turn])
        inverse = weight[:, None] * J.T @ np.linalg.inv(J * weight @ J.T + DAMPING * np.eye(5))
        error = np.concatenate([p - data.site_xpos[site], across @ np.cross(now[:, 2], normal)])
        step = inverse @ error + TURN * (rest - q - inverse @ J @ (rest - q))
        q = np.clip(q + np.clip(step, -TURN, TURN), low, high)
    return q, inverse
