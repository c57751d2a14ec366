"""A point mass on a plane, pushed to the origin: linear dynamics, quadratic cost, optimum in closed form.

State `x = [position (2), velocity (2)]`, action: acceleration (2). Every algorithm must reach this optimum.
All constants are ours.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pilotfish.algebra import chain, quadratic, riccati
from pilotfish.tasks import DrawnTask, Stroke
from pilotfish.types import Gaussian, LinearDynamics, LinearGaussian, Problem, Quadratic, Step

DT = 0.1  # s
HORIZON = 20
START, START_STD = (1.0, -0.5, 0.0, 0.0), 0.1  # m, m/s
NOISE_STD = 1e-2  # of the state, each step
POSITION_WEIGHT, SPEED_WEIGHT, FINAL_FACTOR = 1.0, 0.1, 10.0


class LinearQuadratic(DrawnTask):
    """A linear-quadratic problem."""

    action_weight: float = 0.1
    """Cost of an action is half this times its squared norm."""
    initial_std: float = 1.0
    """Standard deviation of the first controller's actions, m/s^2."""

    def problem(self) -> Problem:
        return Problem(
            horizon=HORIZON,
            dt=DT,
            conditions=Gaussian(jnp.asarray([START]), jnp.asarray(START_STD**2 * np.eye(4)[None])),
            initial_std=np.full(2, float(self.initial_std)),
            cost=self.cost,
            final_cost=self.final_cost,
            dynamics=self.dynamics,
            noise_std=NOISE_STD,
        )

    def cost(self, x: Float[Array, "dx"], u: Float[Array, "du"], t: Step) -> Float[Array, ""]:
        """Of a step."""
        return self.matrices()[1](jnp.concatenate([x, u]))

    def final_cost(self, x: Float[Array, "dx"]) -> Float[Array, ""]:
        """Of the last state."""
        return self.matrices()[2](x)

    def dynamics(self, x: Float[Array, "dx"], u: Float[Array, "du"]) -> Float[Array, "dx"]:
        """The state .1 s later under the constant acceleration `u`."""
        return jnp.concatenate([x[:2] + DT * x[2:] + DT**2 / 2 * u, x[2:] + DT * u])

    def matrices(self) -> tuple[LinearDynamics, Quadratic, Quadratic]:
        """Dynamics of one step, its cost over z = [x; u], and the final cost over x."""
        i, o = np.eye(2), np.zeros((2, 2))
        A, B = np.block([[i, DT * i], [o, i]]), np.vstack([DT**2 / 2 * i, DT * i])
        state = np.array([POSITION_WEIGHT] * 2 + [SPEED_WEIGHT] * 2)
        H = jnp.diag(jnp.append(state, jnp.full(2, self.action_weight)))
        return (
            LinearDynamics(jnp.asarray(A), jnp.asarray(B), jnp.zeros(4), NOISE_STD**2 * jnp.eye(4)),
            Quadratic(H, jnp.zeros(6), jnp.zeros(())),
            Quadratic(jnp.diag(jnp.asarray(FINAL_FACTOR * state)), jnp.zeros(4), jnp.zeros(())),
        )

    def optimum(self) -> tuple[LinearGaussian, Float[Array, ""]]:
        """The optimal controller (noise-free, over time) and its expected cost."""
        dynamics, cost, final = self.matrices()
        controller, V = riccati.lqr(over_time(dynamics), over_time(cost), final)
        start = Gaussian(jnp.asarray(START), START_STD**2 * jnp.eye(4))
        return LinearGaussian(controller.K, controller.k, jnp.zeros((HORIZON, 2, 2))), quadratic.expectation(V, start)

    def expected_cost(self, controller: LinearGaussian) -> Float[Array, ""]:
        """Expected cost of any linear-Gaussian controller, exactly: by its chain of Gaussians."""
        dynamics, cost, final = self.matrices()
        start = Gaussian(jnp.asarray(START), START_STD**2 * jnp.eye(4))
        z, last = chain.forward(start, over_time(dynamics), controller)
        return quadratic.expectation(over_time(cost), z).sum() + quadratic.expectation(final, last)

    def draw(self, x: np.ndarray) -> list[Stroke]:
        return [
            Stroke(np.zeros((1, 2)), 12.0, "goal"),
            Stroke(np.stack([x[:2], x[:2] + 0.3 * x[2:]]), 2.0, "body"),
            Stroke(x[None, :2], 9.0, "joint"),
        ]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        return -0.5, 1.4, -1.0, 0.5


def over_time(tree):
    """The same leaves at each of the T steps."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (HORIZON, *leaf.shape)), tree)
