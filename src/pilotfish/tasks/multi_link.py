"""Swing-up of a serial chain of links in a vertical plane, one motor per joint (MOTO, section 7.1).

State `x = [theta_1..theta_n, dtheta_1..dtheta_n]`, in rad and rad/s: theta_1 from the upright, theta_i from the
direction of link i-1; angles are not wrapped. Action: n torques, N m. All links alike.

With the links' absolute angles phi = cumsum(theta) and the distance d_kj of joint j's link along link k's
position (length for j < k, half of it for j = k, else 0), the Lagrangian gives

    M_ij = c_ij cos(phi_i - phi_j),  c_ij = sum_k m d_ki d_kj + delta_ij I,   gamma_i = sum_k m d_ki
    M phi'' = tau - sum_j c_ij sin(phi_i - phi_j) phi_j'^2 + g gamma_i sin(phi_i)
    tau_i = v_i - v_{i+1},   v = torque of the joints, friction included

Masses, lengths, friction, time step, start and state cost are those of the public code of a co-author
(hanyas/trajopt, "code from PolicySearchToolbox"). It uses the inertia of a rod about its *end* as if it were
about the centre of mass; that is `inertia="toolbox"`, which all results of the paper must be taken to use;
`inertia="rod"` is the physical one.
"""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from pilotfish.tasks import DrawnTask, Stroke
from pilotfish.tasks.integrate import rk4
from pilotfish.types import Gaussian, Limit, Problem, Step

MASS = 1.0  # kg (hanyas/trajopt)
LENGTH = 1.0  # m (hanyas/trajopt)
FRICTION = 0.025  # N m s/rad, viscous, every joint (hanyas/trajopt)
GRAVITY = 9.81  # m/s^2
DT = 0.05  # s between actions (the examples of hanyas/trajopt)
SUBSTEPS = 5  # RK4 steps of .01 s an action: one of .05 s errs by up to 11 rad/s on four links
HORIZON = 100  # 5 s (hanyas/trajopt)
COST_STEPS = 20  # the state is penalised during the last 20 steps (MOTO, section 7.1)
ANGLE_WEIGHT, SPEED_WEIGHT = 1e4, 1.0  # (hanyas/trajopt)
START_STD = 1e-2  # of angles and speeds (hanyas/trajopt)
NOISE_STD = 1e-4  # process noise a step (hanyas/trajopt)
# not in the paper, chosen so that limits hold; N m/rad, N m s/rad
LIMIT_STIFFNESS, LIMIT_DAMPING = 100.0, 10.0
# not in the paper: a rollout holds if no joint leaves .25 rad in its last .5 s
HOLD_ANGLE, HOLD_STEPS = 0.25, 10


class MultiLink(DrawnTask):
    """Swing up `links` links by torques of at most `torque`."""

    links: int = 2
    """Number of links and motors."""
    torque: float = 10.0
    """Largest torque of a motor, N m."""
    joint_limit: float | None = None
    """Angle of joints 2..n, rad, beyond which a spring-damper takes the place of their motor; None: no limit."""
    inertia: Literal["toolbox", "rod"] = eqx.field(static=True, default="toolbox")
    """"toolbox": as in the public code of the paper's authors; "rod": physical."""
    action_weight: float = 1.0
    """Cost of an action is this times its squared norm. The paper does not say it; the public code has 1e-5. Below
    about .1, learning first succeeds and later oscillates, as most actions lie beyond the torque limit, where
    they change nothing but their cost."""
    cost_on_clipped: bool = False
    """True: the cost counts the torque executed; False: the torque asked for (as the public code)."""
    initial_std: float = 3.0
    """Standard deviation of the first controller's torques, N m. The paper does not say it; the public code has
    sqrt(10) for two links. Four links learn well from 5."""

    def __check_init__(self):
        if self.links < 1:
            raise ValueError(f"links={self.links}: a chain has at least one link.")
        if not self.torque > 0:
            raise ValueError(f"torque={self.torque}: the motors' largest torque must be positive.")
        if self.joint_limit is not None and not self.joint_limit > 0:
            raise ValueError(f"joint_limit={self.joint_limit}: give a positive angle, or None for no limit.")
        if self.inertia not in ("toolbox", "rod"):
            raise ValueError(f"inertia={self.inertia!r}: choose 'toolbox' or 'rod'.")

    def problem(self) -> Problem:
        n, end = self.links, self.joint_limit
        start = np.zeros((1, 2 * n))
        start[0, 0] = np.pi
        limit = np.full(n, float(self.torque))
        return Problem(
            horizon=HORIZON,
            dt=DT,
            conditions=Gaussian(jnp.asarray(start), jnp.asarray(START_STD**2 * np.eye(2 * n)[None])),
            initial_std=np.full(n, float(self.initial_std)),
            cost=self.cost,
            dynamics=self.dynamics,
            noise_std=NOISE_STD,
            action_low=-limit,
            action_high=limit,
            success=self.holds,
            angles=range(n),
            limits=[] if end is None else [Limit(i, n + i, -end, end) for i in range(1, n)],
        )

    def cost(self, x: Float[Array, "dx"], u: Float[Array, "du"], t: Step) -> Float[Array, ""]:
        """`w |u|^2`, and in the last 20 steps `1e4 |theta|^2 + |dtheta|^2`."""
        angle, speed = jnp.split(x, 2)
        paid = jnp.clip(u, -self.torque, self.torque) if self.cost_on_clipped else u
        state = ANGLE_WEIGHT * (angle**2).sum() + SPEED_WEIGHT * (speed**2).sum()
        return self.action_weight * (paid**2).sum() + jnp.where(t >= HORIZON - COST_STEPS, state, 0.0)

    def holds(self, x: Float[Array, "T1 dx"], u: Float[Array, "T du"]) -> Bool[Array, ""]:
        """True if every joint stays within .25 rad of the upright over the last 10 states."""
        return jnp.abs(x[-HOLD_STEPS:, : self.links]).max() < HOLD_ANGLE

    def dynamics(self, x: Float[Array, "dx"], u: Float[Array, "du"]) -> Float[Array, "dx"]:
        """The state .05 s later, by five RK4 steps; `u` within the torque limits."""
        return rk4(self.derivative, x, u, DT, SUBSTEPS)

    def derivative(self, x: Float[Array, "dx"], u: Float[Array, "du"]) -> Float[Array, "dx"]:
        """Time derivative of the state."""
        theta, speed = jnp.split(x, 2)
        c, gamma = self._constants()
        phi, omega = jnp.cumsum(theta), jnp.cumsum(speed)
        sin, cos = _sin_cos(phi)
        # cos and sin of phi_i - phi_j, by the addition theorem
        M = (cos[:, None] * cos + sin[:, None] * sin) * c
        centrifugal = ((sin[:, None] * cos - cos[:, None] * sin) * c) @ omega**2
        joint = self._motor(theta, speed, u) - FRICTION * speed
        tau = joint - jnp.append(joint[1:], 0.0)
        acceleration = _solve_positive_definite(M, tau - centrifugal + GRAVITY * gamma * sin)
        return jnp.concatenate([speed, jnp.diff(acceleration, prepend=0.0)])

    def energy(self, x: Float[Array, "dx"]) -> Float[Array, ""]:
        """Kinetic and potential energy, J; 0 potential at the height of the pivot."""
        theta, speed = jnp.split(x, 2)
        c, gamma = self._constants()
        phi, omega = jnp.cumsum(theta), jnp.cumsum(speed)
        M = c * jnp.cos(phi[:, None] - phi)
        return 0.5 * omega @ M @ omega + GRAVITY * (gamma * jnp.cos(phi)).sum()

    def draw(self, x: np.ndarray) -> list[Stroke]:
        phi = np.cumsum(x[: self.links])
        tips = LENGTH * np.cumsum(np.stack([-np.sin(phi), np.cos(phi)], -1), 0)
        joints = np.concatenate([np.zeros((1, 2)), tips])
        upright = np.array([[0.0, 0.0], [0.0, self.links * LENGTH]])
        return [
            Stroke(upright, 1.0, "goal"),
            Stroke(joints, 5.0, "body"),
            *(Stroke(joint[None], 7.0, "joint") for joint in joints[:-1]),
        ]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        reach = 1.08 * self.links * LENGTH
        return -reach, reach, -reach, reach

    def _motor(self, theta, speed, u):
        """Torque of the joints' motors, or of the spring-dampers at their limits (MOTO, section 7.1)."""
        if self.joint_limit is None:
            return u
        beyond = theta - jnp.sign(theta) * self.joint_limit
        push_back = -LIMIT_STIFFNESS * beyond - LIMIT_DAMPING * speed
        limited = (jnp.abs(theta) > self.joint_limit) & (np.arange(self.links) > 0)
        return jnp.where(limited, push_back, u)

    def _constants(self) -> tuple[np.ndarray, np.ndarray]:
        """c_ij in kg m^2 and gamma_i in kg m."""
        n = self.links
        d = LENGTH * (np.tril(np.ones((n, n)), -1) + 0.5 * np.eye(n))
        divisor = 3.0 if self.inertia == "toolbox" else 12.0
        own = MASS * (LENGTH**2 + 1e-4) / divisor
        return MASS * d.T @ d + own * np.eye(n), MASS * d.sum(0)


def _sin_cos(angle: Float[Array, "n"]) -> tuple[Float[Array, "n"], Float[Array, "n"]]:
    """Sine and cosine of the angles, computed once.

    XLA's CPU compiler repeats a cheap-looking producer in every consumer (with four links, 16 sines an angle) but
    never inside a matrix product: the one with the identity makes a rollout 3 to 6 times faster.
    """
    both = jnp.stack([jnp.sin(angle), jnp.cos(angle)], 1)
    # "highest": a GPU would round float32 to 10 bits
    sin, cos = jnp.matmul(np.eye(len(angle)), both, precision="highest").T
    return sin, cos


def _solve_positive_definite(M: Float[Array, "n n"], b: Float[Array, "n"]) -> Float[Array, "n"]:
    """`M^-1 b` by elimination, written out over scalars: under vmap XLA makes one fused loop of it."""
    n = b.shape[0]
    rows = [[M[i, j] for j in range(n)] + [b[i]] for i in range(n)]
    for p in range(n):
        for i in range(p + 1, n):
            ratio = rows[i][p] / rows[p][p]
            rows[i] = [a - ratio * pivot for a, pivot in zip(rows[i], rows[p], strict=True)]
    x = [b[0]] * n
    for i in reversed(range(n)):
        x[i] = (rows[i][n] - sum((rows[i][j] * x[j] for j in range(i + 1, n)), 0.0)) / rows[i][i]
    return jnp.stack(x)
