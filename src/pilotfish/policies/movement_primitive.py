"""Dynamic movement primitives: a demonstration as a dynamical system, whose end can be moved (Ijspeert & Schaal 2003).

For strikes, which pass the goal with a velocity, the goal moves (Kober, Muelling, Kroemer, Lampert, Schoelkopf & Peters
2010). Per joint, in the time s from 0 to 1 of the episode, which takes tau:

    y'' = (1 - z) a ( b (g_m - y) + g' - y' ) + f(z),      g_m = g - (1 - s) g',      z = exp(-a_z s)
    f(z) = z sum_i psi_i(z) w_i / sum_i psi_i(z),          psi_i = exp(-h_i (z - c_i)^2)

so that y arrives at g with the velocity g'. The factor 1 - z lets it begin without a jump. All this is linear in the
start, g, g' and w: the plan is a matrix times these (`responses`), and its derivatives by them are exact.

The demonstration is what the problem's first controllers do without noise, or a path that is given. g and g' are its
end's, w comes from regression on it. The search's parameters are changes of g and g' of each joint, and if asked for of
w, in units of their first standard deviations.

The plan is followed by linear feedback, with inverse dynamics to first order about the demonstration, where x' = A x +
B u + c and the rows V are of the joints' velocities:

    u_t = B_V^-1 ( y'_{t+1} - A_V x_t - c_V ) + kp (y_t - q_t) + kd (y'_t - q'_t)

with the plan's y and y' in x_t, and its other entries as in the demonstration. That is exact for linear dynamics, and
needs no formula: a simulation's derivatives do. Without known dynamics, or where `inverse` is off, the first
controller's actions take the place of the first term.

| symbol | paper                 | code                      |
| tau    | Ijspeert & Schaal     | T dt                      |
| a, b   | alpha_z, beta_z there | PULL, PULL / 4            |
| a_z    | alpha_x               | FADE                      |
| g, g'  | Kober et al.          | goal_std, speed_std scale |
| w      | both                  | shape_std scales         |
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float
from scipy.interpolate import CubicHermiteSpline, CubicSpline

from pilotfish.policies.episodic import Parametrisation, Skill
from pilotfish.types import Problem

PULL = 25.0
"""a, with b = a / 4 critically damped (the value of Ijspeert, Nakanishi, Hoffmann, Pastor & Schaal 2013)."""
FADE = PULL / 3.0
"""a_z (the same): z ends at 2.4e-4."""
ENDS = 4
"""Of a joint's numbers these are of its ends: start, velocity there, goal, velocity there."""
FINE = 1000
"""Least number of Runge-Kutta steps of an episode: what they err is below 1e-9."""


class Plan(NamedTuple):
    """What a primitive plans: `fixed + per_parameter w`, positions and velocities of joints."""

    fixed: Float[Array, "N T1 2 joints"]
    per_parameter: Float[Array, "T1 2 joints n"]

    def at(self, w: Float[Array, "N n"]) -> Float[Array, "N T1 2 joints"]:
        return self.fixed + jnp.einsum("tjdn,Nn->Ntjd", self.per_parameter, w)


class Reference(NamedTuple):
    """The demonstration; leading axes N, T."""

    x: Float[Array, "N T1 dx"]
    u: Float[Array, "N T du"]


class MovementPrimitive(Parametrisation):
    """Where, and how fast, a demonstrated movement ends; as many joints as actions, each driven by one.

    Source: Ijspeert & Schaal (2003); goals that are passed with a velocity: Kober et al. (2010). ValueError for numbers
    out of range, or where the demonstration is no episode of the problem.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> skill = pf.MovementPrimitive(kp=20.0, kd=5.0, goal_std=0.3, speed_std=0.5)
    >>> skill.skill(LinearQuadratic().problem()).J.shape  # what each of 2 + 2 parameters adds to actions: (N, T, du, n)
    (1, 20, 2, 4)
    >>> algorithm = pf.REPS(skill=skill)
    """

    kp: float | tuple[float, ...] = eqx.field(static=True)
    """Action per deviation of a joint's position from its plan; one number for all joints, or one for each."""
    kd: float | tuple[float, ...] = eqx.field(static=True)
    """The same per deviation of its velocity."""
    goal_std: float | tuple[float, ...] = eqx.field(static=True)
    """Standard deviation of a joint's last position with which the search begins, in the position's unit; 0: it stays
    that of the demonstration."""
    speed_std: float | tuple[float, ...] = eqx.field(static=True)
    """The same of its last velocity, in the velocity's unit."""
    shape_std: float | tuple[float, ...] = eqx.field(static=True, default=0.0)
    """The same of the path on its way: how far one weight of f moves it at most, in the position's unit; 0: the weights
    stay as they were fitted."""
    features: int = eqx.field(static=True, default=20)
    """Number of basis functions of f: of a stroke that swings back first, 10 miss 1% of its range, 20 miss .2%."""
    positions: tuple[int, ...] = eqx.field(static=True, default=())
    """The entries of the state that are the joints' positions; none given: the first ones."""
    velocities: tuple[int, ...] = eqx.field(static=True, default=())
    """The entries that are their velocities; none given: those that follow the first ones."""
    inverse: bool = eqx.field(static=True, default=True)
    """Whether known dynamics say which actions the plan needs. False: those of the first controller are taken."""
    times: tuple[float, ...] = eqx.field(static=True, default=())
    """Times of a demonstration, s from the episode's start to at least its end; none: the first controllers show it."""
    path: tuple[tuple[float, ...], ...] = eqx.field(static=True, default=())
    """The joints' positions at these times, a row each."""
    speeds: tuple[tuple[float, ...], ...] = eqx.field(static=True, default=())
    """Their velocities; none: those of a cubic spline through the positions."""

    def __check_init__(self):
        for name in ("kp", "kd", "goal_std", "speed_std", "shape_std"):
            value = np.asarray(getattr(self, name))
            if not np.isfinite(value).all() or (value < 0).any():
                raise ValueError(f"{name}={getattr(self, name)}: must be finite, and 0 or more.")
        if not any(np.any(getattr(self, name)) for name in ("goal_std", "speed_std", "shape_std")):
            raise ValueError(
                "goal_std, speed_std and shape_std are 0: no parameter is left to search. Give how far one may "
                "reasonably be from the demonstration's."
            )
        if self.features < 1:
            raise ValueError(f"features={self.features}: give at least one basis function.")
        if len(self.path) != len(self.times) or len(self.speeds) not in (0, len(self.times)):
            raise ValueError(
                f"times, path and speeds have {len(self.times)}, {len(self.path)} and {len(self.speeds)} rows: they "
                "must have as many, or speeds none."
            )
        if len(self.times) == 1 or (np.diff(self.times) <= 0).any():
            raise ValueError(f"times={self.times}: give two or more, each later than the one before.")

    def traceable(self, problem: Problem) -> bool:
        return problem.dynamics is None or problem.dynamics.traceable

    def skill(self, problem: Problem) -> Skill:
        q, v = self._joints(problem)
        kp, kd = (self._each(problem, name) for name in ("kp", "kd"))
        reference = self._reference(problem)
        plan = self._plan(problem, reference)
        N, T, du = len(reference.x), problem.horizon, problem.du
        K = np.zeros((du, problem.dx))
        K[range(du), q], K[range(du), v] = -kp, -kd
        u, per_plan = self._feedforward(problem, reference)

        def actions(y: Array) -> Array:
            """Of deviations from the demonstration: linear in these; (..., T1, 2, du) to (..., T, du)."""
            state = jnp.concatenate([y[..., :-1, 0, :], y[..., :-1, 1, :], y[..., 1:, 1, :]], -1)
            return (per_plan @ state[..., None])[..., 0] + kp * y[..., :-1, 0, :] + kd * y[..., :-1, 1, :]

        there = jnp.stack([reference.x[..., q], reference.x[..., v]], -2)
        k = u + actions(plan.fixed - there) + kp * there[:, :-1, 0] + kd * there[:, :-1, 1]
        J = jax.vmap(actions, -1, -1)(jnp.broadcast_to(plan.per_parameter, (N, *plan.per_parameter.shape)))
        return Skill(jnp.broadcast_to(K, (N, T, *K.shape)), k, J)

    def plan(self, problem: Problem) -> Plan:
        """Positions and velocities that the parameters ask for."""
        return self._plan(problem, self._reference(problem))

    def _plan(self, problem: Problem, reference: Reference) -> Plan:
        """The path that is fitted to the demonstration, and what the parameters change of it."""
        (q, v), T, du = self._joints(problem), problem.horizon, problem.du
        tau = T * problem.dt
        R = responses(T, self.features)
        wanted = jnp.stack([reference.x[..., q], tau * reference.x[..., v]], -2)
        ends = jnp.stack([wanted[:, 0, 0], wanted[:, 0, 1], wanted[:, -1, 0], wanted[:, -1, 1]], 1)
        left = wanted - jnp.einsum("tje,Ned->Ntjd", R[..., :ENDS], ends)
        inverse = np.linalg.pinv(R[..., ENDS:].reshape(2 * (T + 1), self.features))
        weights = inverse @ left.reshape(-1, 2 * (T + 1), du)
        unit = np.array([1.0, 1.0 / tau])[:, None]
        fixed = jnp.asarray(unit) * jnp.einsum("tje,Ned->Ntjd", R, jnp.concatenate([ends, weights], 1))
        goal, speed, shape = (self._each(problem, name) for name in ("goal_std", "speed_std", "shape_std"))
        most = np.abs(R[:, 0, ENDS:]).max(0)[:, None]
        scale = np.concatenate([np.zeros((2, du)), [goal, tau * speed], shape / most])
        changes = np.einsum("tje,ed,dc->tjdec", R, scale, np.eye(du)).reshape(T + 1, 2, du, -1)
        return Plan(fixed, jnp.asarray(unit[..., None] * changes[..., scale.ravel() > 0]))

    def _feedforward(self, problem: Problem, reference: Reference) -> tuple[Array, Array]:
        """Actions (N, T, du) along the demonstration, and what they change by deviations of y_t, y'_t and y'_{t+1}."""
        q, v = self._joints(problem)
        N, T, du = reference.u.shape
        if problem.dynamics is None or not self.inverse:
            return reference.u, jnp.zeros((N, T, du, 3 * du))
        model = problem.dynamics.linearised(problem, reference.x[:, :-1], reference.u)
        A, B = (jnp.asarray(matrix)[:, :, v] for matrix in (model.A, model.B))
        if not isinstance(B, Tracer) and not (found := np.linalg.cond(B) < 1e12).all():
            n, t = np.argwhere(~found)[0]
            raise ValueError(
                f"inverse=True: at step {t} of the demonstration the actions do not move all joints' velocities "
                f"(condition {n}). Give other velocities than {v}, or inverse=False."
            )
        stays = jnp.einsum("Ntij,Ntj->Nti", A, reference.x[:, :-1]) + jnp.asarray(model.c)[:, :, v]
        u = jnp.linalg.solve(B, (reference.x[:, 1:, v] - stays)[..., None])[..., 0]
        ahead = jnp.broadcast_to(jnp.eye(du), B.shape)
        return u, jnp.linalg.solve(B, jnp.concatenate([-A[..., q], -A[..., v], ahead], -1))

    def _reference(self, problem: Problem) -> Reference:
        """The demonstration: what the first controllers do, with the joints on the path that is given."""
        start, first = problem.conditions.mean, problem.first_controller
        (q, v), T = self._joints(problem), problem.horizon
        if problem.dynamics is None:
            x = jnp.repeat(start[:, None], T + 1, 1)
            if not self.times:
                raise ValueError(
                    "times: the dynamics are not known, so the first controllers cannot show the movement. Give a "
                    "demonstration: times, path and speeds."
                )
        else:
            one = jax.tree.map(lambda leaf: leaf[:, None], first)
            x = jnp.asarray(problem.dynamics.simulate(problem, start[:, None], one)[0])[:, 0]
        if self.times:
            there = self._given(problem)
            x = x.at[..., q].set(there[:, 0]).at[..., v].set(there[:, 1])
        if not isinstance(x, Tracer) and not np.isfinite(x).all():
            raise ValueError("first_controller: its simulation breaks off. Give a demonstration: times, path, speeds.")
        return Reference(x, problem.admissible(jax.vmap(jax.vmap(lambda p, x: p.mean(x)))(first, x[:, :-1])))

    def _given(self, problem: Problem) -> Float[np.ndarray, "T1 2 joints"]:
        """Positions and velocities of the path that is given, at all steps."""
        t, path = np.asarray(self.times), np.asarray(self.path, float)
        at = problem.dt * np.arange(problem.horizon + 1)
        if path.shape[1:] != (problem.du,):
            raise ValueError(f"path has rows of the shape {path.shape[1:]}: give {problem.du} joints, one an action.")
        if t[0] > 0 or t[-1] < at[-1] - 1e-9:
            raise ValueError(f"times go from {t[0]} s to {t[-1]} s: the episode lasts from 0 to {at[-1]:.6g} s.")
        spline = CubicHermiteSpline(t, path, np.asarray(self.speeds)) if self.speeds else CubicSpline(t, path)
        return np.stack([spline(at), spline(at, 1)], 1)

    def _joints(self, problem: Problem) -> tuple[list[int], list[int]]:
        """The entries of the state that are positions, and velocities."""
        du = problem.du
        q, v = list(self.positions or range(du)), list(self.velocities or range(du, 2 * du))
        for name, entries in (("positions", q), ("velocities", v)):
            if len(entries) != du or not set(entries) <= set(range(problem.dx)):
                raise ValueError(
                    f"{name}={tuple(entries)}: give {du} entries of the state, one for each action, by their numbers "
                    f"from 0 to {problem.dx - 1}."
                )
        return q, v

    def _each(self, problem: Problem, name: str) -> Float[np.ndarray, "joints"]:
        value = np.asarray(getattr(self, name), float)
        if value.shape not in ((), (problem.du,)):
            raise ValueError(f"{name}={getattr(self, name)}: give one number, or {problem.du}: one for each joint.")
        return np.broadcast_to(value, (problem.du,))


def responses(T: int, features: int) -> Float[np.ndarray, "T1 2 numbers"]:
    """What a joint does (y and y', per time s) for a unit of its start, its velocity there, g, g' and each weight."""
    substeps = -(-FINE // T)
    h = 1.0 / (T * substeps)
    centre = np.exp(-FADE * np.linspace(0.0, 1.0, features))
    width = 1.0 / np.diff(centre, append=centre[-1] ** 2 / centre[-2] if features > 1 else 0.5) ** 2

    def derivative(s: float, y: np.ndarray) -> np.ndarray:
        z = np.exp(-FADE * s)
        psi = np.exp(-width * (z - centre) ** 2)
        f = np.append(np.zeros(ENDS), z * psi / psi.sum())
        goal, speed = np.eye(ENDS + features)[2:ENDS]
        pull = 0.25 * PULL * (goal - (1.0 - s) * speed - y[0]) + speed - y[1]
        return np.stack([y[1], (1.0 - z) * PULL * pull + f])

    y = np.eye(2, ENDS + features)
    found = [y]
    for i in range(T * substeps):
        s = i * h
        k1 = derivative(s, y)
        k2 = derivative(s + h / 2, y + h / 2 * k1)
        k3 = derivative(s + h / 2, y + h / 2 * k2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + derivative(s + h, y + h * k3))
        if (i + 1) % substeps == 0:
            found.append(y)
    return np.stack(found)
