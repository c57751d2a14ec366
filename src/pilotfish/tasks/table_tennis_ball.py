"""The ball of table tennis: its flight, the table, the racket, and how good a return is.

    flight            a = g - k |v| v                              semi-implicit Euler
    table             (v_x, v_y) <- .72 (v_x, v_y) + noise,        where the ball touches it
                      v_z <- -.88 v_z
    racket            v <- v - (1 + e) ((v - w) . n) n             where it touches a face that it nears
    landing           where the ball, once hit, comes down to the table's height, wherever that is

n is the racket's normal, w the velocity of the face where the ball is: the racket is so much heavier that it feels
nothing of the ball. The frame: x along the table towards the opponent, 0 at the robot's edge; z up, 0 at the table's
top. A ball that hits the net lands there. The table is solid for what comes down on it only, not its edges.

The reward of a return (the paper gives none; this is ours, of the kind that fancy_gym's table tennis has):

    -5 d^2                                  never hit; d is the least distance of the centres of ball and racket
    1 + max(-|landing - target|^2, -5)      hit
    the same + 1                            returned: it lands on the far half and did not hit the net
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

DT = 0.002  # s, of a step of the flight (ours)
GRAVITY, DRAG = 9.81, 0.1414  # m/s^2; k, 1/m (constants of the SL simulator's table tennis)
RADIUS = 0.02  # m (the rules of the ITTF)
LENGTH, WIDTH, NET_HEIGHT = 2.74, 1.525, 0.1525  # of the table, m (ITTF)
NET = LENGTH / 2
FRICTION, TABLE_RESTITUTION = 0.72, 0.88  # what a bounce leaves of (v_x, v_y), and of v_z (SL)
RACKET_RESTITUTION, RACKET_RADIUS = 0.78, 0.08  # e; m (SL: .076)
TARGET = np.array([2.05, 0.0])  # x and y, m: the middle of the far half (ours)
MISS_WEIGHT, HIT, FARTHEST, RETURNED = 5.0, 1.0, 5.0, 1.0  # of the reward (ours)
GONE = -0.76  # m: the floor, below which no ball is hit


class Racket(NamedTuple):
    """Where n rackets are."""

    centre: Float[np.ndarray, "n 3"]
    normal: Float[np.ndarray, "n 3"]

    def above(self, p: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
        """How far points are above the rackets' planes, along the normals."""
        return ((p - self.centre) * self.normal).sum(1)


def flown(
    p: Float[np.ndarray, "n 3"], v: Float[np.ndarray, "n 3"]
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Places and velocities after a step of free flight."""
    v = v - DT * (DRAG * np.sqrt((v**2).sum(1, keepdims=True)) * v + (0.0, 0.0, GRAVITY))
    return p + DT * v, v


def bounced(v: Float[np.ndarray, "n 3"], noise: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    """Velocities after a bounce off the table."""
    return np.column_stack([FRICTION * v[:, :2] + noise, -TABLE_RESTITUTION * v[:, 2]])


def on_table(p: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, "n"]:
    """Where a place is within the table's edges, seen from above."""
    return (p[:, 0] >= 0) & (p[:, 0] <= LENGTH) & (np.abs(p[:, 1]) <= WIDTH / 2)


def reward(landing: Float[np.ndarray, "n 2"], nearest: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """How good it was that the balls landed there (x, y; nan where never hit), or came that near to the racket."""
    far = np.minimum(((landing - TARGET) ** 2).sum(1), FARTHEST)
    home = (landing[:, 0] > NET) & (landing[:, 0] <= LENGTH) & (np.abs(landing[:, 1]) <= WIDTH / 2)
    return np.where(np.isnan(landing[:, 0]), -MISS_WEIGHT * nearest**2, HIT - far + RETURNED * home)


class Balls:
    """n balls in flight, each with a racket."""

    def __init__(
        self,
        p: Float[np.ndarray, "n 3"],
        v: Float[np.ndarray, "n 3"],
        racket: Racket,
        noise: Float[np.ndarray, "n 2"],
    ):
        """`noise` is added to v_x and v_y where the ball bounces off the table, m/s."""
        n = len(p)
        self.p, self.v, self._racket, self._noise = p, v, racket, noise
        self.hit = np.zeros(n, bool)
        self.landing = np.full((n, 2), np.nan)
        self.nearest = np.full(n, np.inf)

    @property
    def waiting(self) -> Bool[np.ndarray, "n"]:
        """Where the ball may yet be hit; False where its flight has diverged."""
        return ~self.hit & (self.p[:, 2] > GONE)

    @property
    def over(self) -> Bool[np.ndarray, "n"]:
        """Where it is known what became of the ball."""
        return ~self.waiting & ~(self.hit & np.isnan(self.landing[:, 0]) & np.isfinite(self.p[:, 2]))

    @np.errstate(invalid="ignore", divide="ignore")  # of what has diverged, and of levels that stay
    def step(self, racket: Racket) -> None:
        """Fly on for `DT`, at whose end the rackets are there."""
        before, waiting = self.p, self.waiting
        self.p, self.v = flown(before, self.v)
        if waiting.any():
            self._bounce(before)
        if self.hit.any():
            self._land(before)
        if waiting.any():
            self._strike(racket)
        self._racket = racket

    def _bounce(self, before: Float[np.ndarray, "n 3"]) -> None:
        """Bounce balls that come down to the table in the step from the places before."""
        down = ~self.hit & (self.p[:, 2] < RADIUS) & (before[:, 2] >= RADIUS) & on_table(self.p)
        if down.any():
            self.v = np.where(down[:, None], bounced(self.v, self._noise), self.v)

    def _strike(self, racket: Racket) -> None:
        """Hit the balls that rackets touch."""
        above, away = racket.above(self.p), self.p - racket.centre
        distance = np.sqrt((away**2).sum(1))
        self.nearest = np.where(self.hit, self.nearest, np.fmin(self.nearest, distance))
        struck = ~self.hit & (np.abs(above) < RADIUS) & (distance**2 - above**2 < RACKET_RADIUS**2)
        if not struck.any():
            return
        # the face's velocity where the ball is: how much nearer it came to a point that stays
        nearing = (self.v * racket.normal).sum(1) - (self._racket.above(self.p) - above) / DT
        struck &= nearing * above < 0
        impact = (1 + RACKET_RESTITUTION) * nearing[:, None] * racket.normal
        self.v = np.where(struck[:, None], self.v - impact, self.v)
        self.hit |= struck

    def _land(self, before: Float[np.ndarray, "n 3"]) -> None:
        """Note where balls that have been hit land in the step from the places before."""
        flying, way = self.hit & np.isnan(self.landing[:, 0]), self.p - before
        down = flying & (self.p[:, 2] < RADIUS) & (self.v[:, 2] < 0)
        crosses = flying & ((before[:, 0] - NET) * (self.p[:, 0] - NET) <= 0) & (way[:, 0] != 0)
        to_table, to_net = (RADIUS - before[:, 2]) / way[:, 2], (NET - before[:, 0]) / way[:, 0]
        at_net = before + to_net[:, None] * way
        caught = crosses & (at_net[:, 2] < NET_HEIGHT + RADIUS) & (np.abs(at_net[:, 1]) <= WIDTH / 2)
        at_table = before + np.clip(to_table, 0.0, 1.0)[:, None] * way
        self.landing[down] = at_table[down, :2]
        self.landing[caught] = np.column_stack([np.full(len(way), NET), at_net[:, 1]])[caught]
