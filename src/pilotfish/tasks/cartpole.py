"""Cart-pole swing-up: the small friendly task. All constants are ours.

State `x = [position, angle, speed, angular speed]` in m, rad, m/s, rad/s; angle 0 is upright, not wrapped.
Action: the force on the cart, N. A point mass at the end of a massless pole:

    (M + m) p'' - m l a'' cos a + m l a'^2 sin a = u - f p'
    l a'' - p'' cos a - g sin a = 0
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from pilotfish.tasks import DrawnTask, Stroke
from pilotfish.tasks.integrate import rk4
from pilotfish.types import Gaussian, Problem, Step

CART, BALL = 1.0, 0.3  # kg
LENGTH = 0.5  # m
FRICTION = 0.1  # N s/m, of the cart
GRAVITY = 9.81  # m/s^2
DT, SUBSTEPS, HORIZON = 0.05, 5, 60  # s, RK4 steps an action, 3 s
COST_STEPS = 20  # the state is penalised during the last 20 steps, as in the multi-link tasks
WEIGHTS = (1e2, 1e3, 1.0, 1.0)  # of the squared state
START_STD = 1e-2
HOLD_ANGLE, HOLD_STEPS = 0.25, 10


class CartPole(DrawnTask):
    """Swing a pole up from a cart that is pushed, and hold it there."""

    force: float = 20.0
    """Largest force on the cart, N."""
    action_weight: float = 0.1
    """Cost of an action is this times its square."""
    initial_std: float = 5.0
    """Standard deviation of the first controller's forces, N."""

    def __check_init__(self):
        if not self.force > 0:
            raise ValueError(f"force={self.force}: the largest force on the cart must be positive.")

    def problem(self) -> Problem:
        limit = float(self.force)
        return Problem(
            horizon=HORIZON,
            dt=DT,
            conditions=Gaussian(jnp.array([[0.0, np.pi, 0.0, 0.0]]), jnp.asarray(START_STD**2 * np.eye(4)[None])),
            initial_std=np.full(1, float(self.initial_std)),
            cost=self.cost,
            dynamics=self.dynamics,
            action_low=-limit,
            action_high=limit,
            success=self.holds,
            angles=(1,),
        )

    def cost(self, x: Float[Array, "dx"], u: Float[Array, "du"], t: Step) -> Float[Array, ""]:
        """`w u^2`, and in the last second the weighted square of the state."""
        state = (jnp.asarray(WEIGHTS) * x**2).sum()
        return self.action_weight * (u**2).sum() + jnp.where(t >= HORIZON - COST_STEPS, state, 0.0)

    def holds(self, x: Float[Array, "T1 dx"], u: Float[Array, "T du"]) -> Bool[Array, ""]:
        """True if the pole stays within .25 rad of the upright over the last 10 states."""
        return jnp.abs(x[-HOLD_STEPS:, 1]).max() < HOLD_ANGLE

    def dynamics(self, x: Float[Array, "dx"], u: Float[Array, "du"]) -> Float[Array, "dx"]:
        """The state .05 s later."""
        return rk4(self.derivative, x, u, DT, SUBSTEPS)

    def derivative(self, x: Float[Array, "dx"], u: Float[Array, "du"]) -> Float[Array, "dx"]:
        """Time derivative of the state."""
        _, angle, speed, turn = x
        sin, cos = jnp.sin(angle), jnp.cos(angle)
        push = u[0] - FRICTION * speed - BALL * LENGTH * turn**2 * sin + BALL * GRAVITY * sin * cos
        acceleration = push / (CART + BALL * sin**2)
        return jnp.stack([speed, turn, acceleration, (acceleration * cos + GRAVITY * sin) / LENGTH])

    def energy(self, x: Float[Array, "dx"]) -> Float[Array, ""]:
        """Kinetic and potential energy, J; 0 potential at the height of the cart."""
        _, angle, speed, turn = x
        sideways, upwards = speed - LENGTH * turn * jnp.cos(angle), -LENGTH * turn * jnp.sin(angle)
        kinetic = 0.5 * CART * speed**2 + 0.5 * BALL * (sideways**2 + upwards**2)
        return kinetic + BALL * GRAVITY * LENGTH * jnp.cos(angle)

    def draw(self, x: np.ndarray) -> list[Stroke]:
        cart = np.array([x[0], 0.0])
        tip = cart + LENGTH * np.array([-np.sin(x[1]), np.cos(x[1])])
        corners = cart + np.array([[-0.15, -0.06], [0.15, -0.06], [0.15, 0.06], [-0.15, 0.06], [-0.15, -0.06]])
        return [
            Stroke(np.array([[-1.5, -0.06], [1.5, -0.06]]), 1.0, "ground"),
            Stroke(np.array([[0.0, 0.0], [0.0, LENGTH]]), 1.0, "goal"),
            Stroke(corners, 2.0, "body"),
            Stroke(np.stack([cart, tip]), 4.0, "body"),
            Stroke(tip[None], 10.0, "joint"),
        ]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        return -1.5, 1.5, -0.7, 0.7
