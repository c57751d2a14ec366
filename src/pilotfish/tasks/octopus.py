"""The octopus arm of GPS'14: six chambers of water in a row, held by muscles, reach for a point.

A chamber has four sides, which are muscles, and resists a change of its area. The first side of all, the base, has a
fixed length and turns about its midpoint, the origin. That makes 25 degrees of freedom (as in GPS'14), the base's angle
and twelve free nodes, and a state of 50 numbers,

    x = [phi, places (24), dphi/dt, velocities (24)],   nodes: upper 1, lower 1, upper 2, ...; each (x, y).

The arm starts straight along the x axis. Units are the benchmark's: a chamber is 1 x 1, a node of the base has the mass
1, and time is counted such that its simulator takes steps of .2.

Actions: per chamber, from the base on, the dorsal (upper), the transversal (far) and the ventral (lower) muscle. That
makes 18, as the base is no muscle. -1 relaxes and 1 contracts: the activation of a muscle is a = (1 + u) / 2 (ours).

The forces are those of McGill University's octopus arm benchmark (RL-Glue, 2006; after Yekutieli et al. 2005). Of a
muscle of length L, whose initial length is 1 and which lengthens at the rate L', and of a chamber of area A:

    tension    s [(.1 a + .05) max(L - .4, 0) + .3 L'],   s = 1/2 along the arm, 1 across
    pressure   10 (A - 1) times the length of a side, inwards, at right angles to it, on both its ends
    drag       -.2 |v_t| v_t along and -|v_n| v_n across the dorsal or ventral muscle that leads to a free node

The pressure is linear in the area (ours), where the benchmark takes the root of the excess, whose slope at rest is
infinite. The two sides of a chamber that meet in a node sum to the diagonal that passes it by: so the pressure acts on
the ends of each diagonal by the other one, turned. Gravity is left out, as if buoyancy cancelled it (ours). The base is
turned by the forces on its two nodes, against a damping (ours).

The cost is that of GPS'14, `w_u/2 |u|^2 + w_p ell12(tip - target)`; the tip is the middle of the last side. The paper
says nothing of the target, the start, the length and number of the steps, and the first controller: they are ours.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from pilotfish.tasks import DrawnTask, Stroke
from pilotfish.tasks.costs import ell12
from pilotfish.tasks.integrate import rk4
from pilotfish.types import Gaussian, Problem, Step

CHAMBERS = 6  # (GPS'14)
MUSCLES, NODES, DEGREES = 3 * CHAMBERS, 2 * CHAMBERS + 2, 4 * CHAMBERS + 1
MASSES = np.repeat((0.9901, 0.9804, 0.9709, 0.9615, 0.9524, 0.8434), 2)  # of the free nodes (benchmark)
ACTIVE, PASSIVE, DAMPING = 0.1, 0.05, 0.3  # of a muscle (benchmark)
STRENGTH = np.tile((0.5, 1.0, 0.5), CHAMBERS)  # of the muscles, s (benchmark)
SHORTEST = 0.4  # length at which a muscle pulls no more (benchmark)
PRESSURE = 10.0  # (benchmark)
DRAG_ALONG, DRAG_ACROSS = 0.2, 1.0  # (benchmark)
BASE_INERTIA = 2 * 0.5**2  # of two nodes of mass 1
BASE_DAMPING = 0.1  # (ours)
DT, SUBSTEPS = 2.0, 10  # RK4 steps of .2 (benchmark), ten an action (ours; benchmark: 25)
HORIZON = 100  # (ours)
TIP_WEIGHT = 1.0  # (GPS'14)
START_STD = 1e-3  # of angle, places and velocities (ours)
SUCCESS_DISTANCE = 0.1  # (ours)


def _lines() -> Float[np.ndarray, "lines nodes"]:
    """A row for each muscle, rising and falling diagonal: -1 at the node where it begins, 1 where it ends."""
    node = np.eye(NODES).reshape(CHAMBERS + 1, 2, NODES)
    near, far = node[:-1], node[1:]
    muscles = np.stack([far[:, 0] - near[:, 0], far[:, 1] - far[:, 0], far[:, 1] - near[:, 1]], 1)
    return np.concatenate([muscles.reshape(MUSCLES, NODES), far[:, 0] - near[:, 1], far[:, 1] - near[:, 0]])


LINES = _lines()


class Octopus(DrawnTask):
    """Reach for a point with the tip of an octopus arm."""

    target: tuple[float, float] = (4.0, 3.0)
    """Where the tip is to go, from (6, 0). (2, 3) is hard: 3.6 from the base, while a straight arm shortens to 5.0."""
    action_weight: float = 1e-3
    """Cost of an action is half this times its squared norm (GPS'14)."""
    initial_std: float = 0.15
    """Standard deviation of the first controller's actions."""

    def problem(self) -> Problem:
        places = [(i, side) for i in range(1, CHAMBERS + 1) for side in (0.5, -0.5)]
        start = np.concatenate([np.zeros(1), np.ravel(places), np.zeros(DEGREES)])
        return Problem(
            horizon=HORIZON,
            dt=DT,
            conditions=Gaussian(jnp.asarray(start[None]), jnp.asarray(START_STD**2 * np.eye(2 * DEGREES)[None])),
            initial_std=np.full(MUSCLES, float(self.initial_std)),
            cost=self.cost,
            dynamics=self.dynamics,
            action_low=-1.0,
            action_high=1.0,
            success=self.reaches,
        )

    def cost(self, x: Float[Array, "dx"], u: Float[Array, "du"], t: Step) -> Float[Array, ""]:
        """`w_u/2 |u|^2 + w_p ell12(tip - target)`."""
        return 0.5 * self.action_weight * (u**2).sum() + TIP_WEIGHT * ell12(tip(x) - jnp.asarray(self.target))

    def reaches(self, x: Float[Array, "T1 dx"], u: Float[Array, "T du"]) -> Bool[Array, ""]:
        """True if the tip is within .1 of the target in the mean of the last ten states.

        Not in the very last: it costs nothing, and the optimum lets go of it by .06.
        """
        return jnp.linalg.norm(jax.vmap(tip)(x[-10:]) - jnp.asarray(self.target), axis=1).mean() < SUCCESS_DISTANCE

    def dynamics(self, x: Float[Array, "dx"], u: Float[Array, "du"]) -> Float[Array, "dx"]:
        """The state 2 units of time later; `u` within [-1, 1]."""
        with jax.default_matmul_precision("highest"):  # a GPU would round float32 to 10 bits
            return rk4(self.derivative, x, u, DT, SUBSTEPS)

    def derivative(self, x: Float[Array, "dx"], u: Float[Array, "du"]) -> Float[Array, "dx"]:
        """Time derivative of the state."""
        place, velocity = nodes(x)
        line = jnp.matmul(LINES, place)
        muscle, rising, falling = line[:MUSCLES], line[MUSCLES:-CHAMBERS], line[-CHAMBERS:]
        length = jnp.sqrt((muscle**2).sum(1))
        direction = muscle / length[:, None]
        lengthening = (jnp.matmul(LINES[:MUSCLES], velocity) * direction).sum(1)
        pull = (ACTIVE * 0.5 * (1 + u) + PASSIVE) * jnp.maximum(length - SHORTEST, 0) + DAMPING * lengthening
        pressure = PRESSURE * (0.5 * _cross(falling, rising) - 1)[:, None]
        # on the end of each line; the opposite acts on its beginning
        at_end = [
            -(STRENGTH * pull)[:, None] * direction,
            pressure * _clockwise(falling),
            -pressure * _clockwise(rising),
        ]
        force = jnp.matmul(LINES.T, jnp.concatenate(at_end))
        along = direction.reshape(CHAMBERS, 3, 2)[:, ::2].reshape(-1, 2)
        torque = _cross(place[:2], force[:2]).sum() - BASE_DAMPING * x[DEGREES]
        acceleration = (force[2:] + _drag(velocity[2:], along)) / MASSES[:, None]
        return jnp.concatenate([x[DEGREES:], torque[None] / BASE_INERTIA, acceleration.ravel()])

    def draw(self, x: np.ndarray) -> list[Stroke]:
        pair = np.asarray(nodes(jnp.asarray(x))[0]).reshape(-1, 2, 2)
        around = [(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]  # a chamber: (near or far, upper or lower)
        return [
            Stroke(np.array([[0.0, -1.0], [0.0, 1.0]]), 1.0, "ground"),
            Stroke(np.array([self.target]), 12.0, "goal"),
            *(Stroke(np.array([pair[i + far, side] for far, side in around]), 2.0, "body") for i in range(CHAMBERS)),
            Stroke(np.zeros((1, 2)), 5.0, "joint"),
            Stroke(pair[-1].mean(0)[None], 6.0, "joint"),
        ]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        return -1.5, 8.0, -4.75, 4.75


def tip(x: Float[Array, "dx"]) -> Float[Array, "2"]:
    """The middle of the last side."""
    return x[DEGREES - 4 : DEGREES].reshape(2, 2).mean(0)


def nodes(x: Float[Array, "dx"]) -> tuple[Float[Array, "nodes 2"], Float[Array, "nodes 2"]]:
    """Places and velocities of all nodes: the base's upper and lower one, upper 1, lower 1, upper 2, ..."""
    q, speed = jnp.split(x, 2)
    up = 0.5 * jnp.stack([-jnp.sin(q[0]), jnp.cos(q[0])])
    turn = -speed[0] * _clockwise(up)
    return jnp.concatenate([up, -up, q[1:]]).reshape(-1, 2), jnp.concatenate([turn, -turn, speed[1:]]).reshape(-1, 2)


def _drag(velocity: Float[Array, "n 2"], along: Float[Array, "n 2"]) -> Float[Array, "n 2"]:
    """Force of the water on nodes, by the direction of the arm that leads to them."""
    v_t, v_n = (velocity * along).sum(1, keepdims=True), _cross(along, velocity)[:, None]
    return DRAG_ACROSS * jnp.abs(v_n) * v_n * _clockwise(along) - DRAG_ALONG * jnp.abs(v_t) * v_t * along


def _clockwise(vector: Float[Array, "*n 2"]) -> Float[Array, "*n 2"]:
    """The vectors turned clockwise by a right angle."""
    return jnp.stack([vector[..., 1], -vector[..., 0]], -1)


def _cross(a: Float[Array, "n 2"], b: Float[Array, "n 2"]) -> Float[Array, "n"]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
