"""The three-link swimmer of GPS'14 and CGPS'14: three links in a plane, in a fluid that drags on them, swim along x.

State `x = [q, q']`, q = [centre of the head link (x, y), its direction, angles of the two joints] in m and rad.
Direction 0 is along x, and the other links trail behind the head. The angle of a joint is the direction of the link
behind it less that of the link before it. Actions: the torques of the joints, N m. All links are alike.

Link k has the direction phi_k, turns at the rate w_k, and has its centre at r_k; e_k = (cos phi_k, sin phi_k),
n_k = (-sin phi_k, cos phi_k). With B_kj, how far r_k is ahead of the centre of mass R along e_j,

    r_k = R + sum_j B_kj e_j,    r_k'' = R'' + sum_j B_kj (n_j w_j' - e_j w_j^2),

and the Jacobians of r_k are 1 in R and B_kj n_j in phi_j. They take the inertia and the drag F_k at the centres to
these coordinates, in which R moves by itself because the columns of B sum to zero:

    F_k = -l (c_t (e_k.r_k') e_k + c_n (n_k.r_k') n_k)
    3 m R'' = sum_k F_k
    sum_j M_ij w_j' = u_{i-1} - u_i - c_n l^3/12 w_i + n_i . sum_k B_ki F_k + sum_j C_ij n_i.e_j w_j^2
    C = m B'B,   M_ij = C_ij n_i.n_j + m l^2/12 delta_ij,   u_0 = u_3 = 0

The papers give the dimensions, dt, and the cost `w_u/2 |u|^2 + 1/2 (v_x - v*)^2` of the head's velocity along x, with
its w_u and v*; GPS'14 also T. All else is ours: the links, a linear drag so anisotropic that they can swim at 2 m/s
within the torque limit, the start, the first controller and T of CGPS'14. About the straight swimmer at rest, opposite
torques have mirrored effects, so that the cost has no slope there: learning needs its noise.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from pilotfish.tasks import DrawnTask, Stroke
from pilotfish.tasks.integrate import rk4
from pilotfish.types import Gaussian, Problem, Step

MASS, LENGTH = 1.0, 1.0  # of a link, kg and m (ours)
DRAG_ALONG, DRAG_ACROSS = 0.2, 20.0  # c_t and c_n, N s/m^2 (ours)
TORQUE = 20.0  # largest torque, N m (ours)
DT, SUBSTEPS = 0.05, 5  # s between actions (both papers); RK4 steps of .01 s an action (ours)
START_STD = 1e-2  # of places, angles and velocities (ours)
PACE = 0.8  # of v*: mean velocity over the last half that is a success (ours)
FROM_HEAD = -LENGTH * np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 1.0, 0.5]])  # of the links' centres, along e_j
FROM_MIDDLE = FROM_HEAD - FROM_HEAD.mean(0)  # B


class Swimmer(DrawnTask):
    """Swim along x at a given velocity."""

    velocity: float = 2.0
    """Velocity along x to swim at, m/s (paper: v*)."""
    action_weight: float = 2e-5
    """Cost of an action is half this times its squared norm (paper: w_u)."""
    horizon: int = eqx.field(static=True, default=400)
    """Number of actions of an episode, one every .05 s."""
    initial_std: float = 2.0
    """Standard deviation of the first controller's torques, N m."""

    def __check_init__(self):
        if not self.velocity > 0:
            raise ValueError(f"velocity={self.velocity}: the velocity along x to swim at must be positive.")

    def problem(self) -> Problem:
        return Problem(
            horizon=self.horizon,
            dt=DT,
            conditions=Gaussian(jnp.asarray(np.zeros((1, 10))), jnp.asarray(START_STD**2 * np.eye(10)[None])),
            initial_std=np.full(2, float(self.initial_std)),
            cost=self.cost,
            dynamics=self.dynamics,
            action_low=-TORQUE,
            action_high=TORQUE,
            success=self.keeps_pace,
        )

    def cost(self, x: Float[Array, "dx"], u: Float[Array, "du"], t: Step) -> Float[Array, ""]:
        """`w_u/2 |u|^2 + 1/2 (v_x - v*)^2`."""
        return 0.5 * self.action_weight * (u**2).sum() + 0.5 * (x[5] - self.velocity) ** 2

    def keeps_pace(self, x: Float[Array, "T1 dx"], u: Float[Array, "T du"]) -> Bool[Array, ""]:
        """True if v_x is at least .8 v* in the mean over the last half."""
        return x[-(len(x) // 2) :, 5].mean() >= PACE * self.velocity

    def dynamics(self, x: Float[Array, "dx"], u: Float[Array, "du"]) -> Float[Array, "dx"]:
        """The state .05 s later; `u` within the torque limit."""
        with jax.default_matmul_precision("highest"):  # a GPU would round float32 to 10 bits
            return rk4(self.derivative, x, u, DT, SUBSTEPS)

    def derivative(self, x: Float[Array, "dx"], u: Float[Array, "du"]) -> Float[Array, "dx"]:
        """Time derivative of the state."""
        q, speed = jnp.split(x, 2)
        phi, w = jnp.cumsum(q[2:]), jnp.cumsum(speed[2:])
        e = jnp.stack([jnp.cos(phi), jnp.sin(phi)], 1)
        n = jnp.stack([-e[:, 1], e[:, 0]], 1)
        velocity = speed[:2] + FROM_HEAD @ (w[:, None] * n)
        force = -LENGTH * (DRAG_ALONG * _dot(e, velocity) * e + DRAG_ACROSS * _dot(n, velocity) * n)
        C = MASS * FROM_MIDDLE.T @ FROM_MIDDLE
        M = C * (n @ n.T) + MASS * LENGTH**2 / 12 * np.eye(3)
        motor = jnp.append(0.0, u) - jnp.append(u, 0.0)
        drag = _dot(n, FROM_MIDDLE.T @ force)[:, 0] - DRAG_ACROSS * LENGTH**3 / 12 * w
        turning = _solve(M, motor + drag + (C * (n @ e.T)) @ w**2)
        middle = force.sum(0) / (3 * MASS)
        head = middle + FROM_MIDDLE[0] @ (turning[:, None] * n - w[:, None] ** 2 * e)
        return jnp.concatenate([speed, head, jnp.diff(turning, prepend=0.0)])

    def draw(self, x: np.ndarray) -> list[Stroke]:
        """The picture goes with the swimmer, over a grid of 1 m that stands still in the fluid.

        Above it, v* (dashed) and v_x; below, how much of an episode's way at v* is done.
        """
        phi = np.cumsum(x[2:5])
        e = np.stack([np.cos(phi), np.sin(phi)], 1)
        centre = FROM_MIDDLE @ e
        ends = np.concatenate([centre[:1] + LENGTH / 2 * e[:1], centre - LENGTH / 2 * e])
        grid = np.arange(-1, 3)[:, None] + (centre[0] - x[:2]) % 1 - 1
        done = -2 + 4 * np.clip(x[0] / (self.velocity * DT * self.horizon), 0, 1)
        pace = np.clip(1.5 * x[5] / self.velocity, -2.0, 2.0)
        return [
            *(Stroke(np.array([[a, -2.0], [a, 2.0]]), 0.6, "ground") for a in grid[:, 0]),
            *(Stroke(np.array([[-2.0, a], [2.0, a]]), 0.6, "ground") for a in grid[:, 1]),
            Stroke(np.array([[0.0, 2.3], [1.5, 2.3]]), 2.0, "goal"),
            Stroke(np.array([[0.0, 2.2], [pace, 2.2]]), 3.0, "body"),
            Stroke(np.array([[-2.0, -2.25], [2.0, -2.25]]), 1.0, "ground"),
            Stroke(np.array([[2.0, -2.25]]), 8.0, "goal"),
            Stroke(np.array([[done, -2.25]]), 6.0, "joint"),
            Stroke(ends, 5.0, "body"),
            *(Stroke(joint[None], 7.0, "joint") for joint in ends[1:3]),
            Stroke(ends[:1], 10.0, "joint"),
        ]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        return -2.2, 2.2, -2.45, 2.45


def _dot(a: Float[Array, "n 2"], b: Float[Array, "n 2"]) -> Float[Array, "n 1"]:
    return (a * b).sum(1, keepdims=True)


def _solve(M: Float[Array, "3 3"], b: Float[Array, "3"]) -> Float[Array, "3"]:
    """`M^-1 b` for a symmetric M, by its adjugate: under vmap XLA makes one fused loop of it."""
    adjugate = jnp.cross(jnp.roll(M, -1, 0), jnp.roll(M, -2, 0))
    return (adjugate @ b) / (M[0] @ adjugate[0])
