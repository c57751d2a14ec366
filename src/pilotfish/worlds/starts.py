"""Starts of MuJoCo models that can be: noise about a state that leaves its constraints as they were.

    orientations    noise in the tangent space; quaternions keep the norm 1
    ranges          of joints and activations are kept
    equalities      what connects, welds and couples is violated no more than before: noise is drawn in the null space
                    of the constraints' Jacobian, and what is left, of second order, is taken back by Gauss-Newton steps

A start that violates its constraints without noise, as a keyframe may, does so as much with noise.
"""

# pyright: reportAttributeAccessIssue=false
import copy

import mujoco
import numpy as np
from jaxtyping import Bool, Float

HINGE, SLIDE, BALL, FREE = (
    mujoco.mjtJoint.mjJNT_HINGE.value,
    mujoco.mjtJoint.mjJNT_SLIDE.value,
    mujoco.mjtJoint.mjJNT_BALL.value,
    mujoco.mjtJoint.mjJNT_FREE.value,
)
ROUNDS, TOLERANCE, HALVINGS = 50, 1e-9, 10


def spread(
    model: mujoco.MjModel, qpos: Float[np.ndarray, "nq"], std: float, varied: Bool[np.ndarray, "nv"]
) -> Float[np.ndarray, "nqv nqv"]:
    """Covariance of [qpos, qvel] when positions, of the degrees of freedom that are varied, and all velocities have
    noise of that standard deviation (rad, m, and per s).
    """
    free = np.eye(model.nv)
    if model.neq:
        J = _Equalities(model)(qpos)[1]
        free -= np.linalg.pinv(J) @ J
    moves = std * _tangent(model, qpos) @ free @ np.diag(varied.astype(float))
    cov = np.zeros((model.nq + model.nv, model.nq + model.nv))
    cov[: model.nq, : model.nq], cov[model.nq :, model.nq :] = moves @ moves.T, std**2 * free @ free.T
    return cov


def possible(
    model: mujoco.MjModel, x: Float[np.ndarray, "dx"], about: Float[np.ndarray, "dx"]
) -> Float[np.ndarray, "dx"]:
    """The start next to x that can be; both states begin with [qpos, qvel, act], and `about` is without noise.

    Where none is found, as constraints bend away too far, the noise is halved until there is one.
    """
    nq, nv = model.nq, model.nv
    x, rest = x.copy(), about[:nq]
    equal = _Equalities(model) if model.neq else None
    for part in 0.5 ** np.arange(HALVINGS):
        q = _positions(model, rest + part * (x[:nq] - rest), rest, equal)
        if q is not None:
            break
    else:
        q = rest
    x[:nq] = q
    if equal is not None:
        J, noise = equal(q)[1], x[nq : nq + nv] - about[nq : nq + nv]
        x[nq : nq + nv] -= np.linalg.pinv(J) @ (J @ noise)
    act, low, high = slice(nq + nv, nq + nv + model.na), *activation_limits(model)
    x[act] = np.clip(x[act], np.minimum(low, about[act]), np.maximum(high, about[act]))
    return x


def activation_limits(model: mujoco.MjModel) -> tuple[Float[np.ndarray, "na"], Float[np.ndarray, "na"]]:
    """Bounds of the activations, infinite where there are none."""
    low, high = np.full(model.na, -np.inf), np.full(model.na, np.inf)
    for i in np.flatnonzero(model.actuator_actlimited):
        of_actuator = slice(model.actuator_actadr[i], model.actuator_actadr[i] + model.actuator_actnum[i])
        low[of_actuator], high[of_actuator] = model.actuator_actrange[i]
    return low, high


class _Equalities:
    """The equality constraints of a model at any positions: residuals (ne,) and their Jacobian (ne, nv)."""

    def __init__(self, model: mujoco.MjModel):
        self._model = copy.copy(model)
        self._model.opt.jacobian = mujoco.mjtJacobian.mjJAC_DENSE
        self._model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT
        self._data = mujoco.MjData(self._model)

    def __call__(self, qpos: Float[np.ndarray, "nq"]) -> tuple[np.ndarray, np.ndarray]:
        data = self._data
        data.qpos[:] = qpos
        mujoco.mj_fwdPosition(self._model, data)
        return data.efc_pos[: data.ne].copy(), data.efc_J.reshape(-1, self._model.nv)[: data.ne].copy()


def _positions(
    model: mujoco.MjModel, q: Float[np.ndarray, "nq"], rest: Float[np.ndarray, "nq"], equal: _Equalities | None
) -> Float[np.ndarray, "nq"] | None:
    """The positions next to q, within the ranges and with the residuals of those at rest; None if none are found."""
    if equal is None:
        _into_ranges(model, q, rest)
        return q
    residual = equal(rest)[0]
    for _ in range(ROUNDS):
        _into_ranges(model, q, rest)
        found, J = equal(q)
        if np.abs(found - residual).max(initial=0.0) < TOLERANCE:
            return q
        mujoco.mj_integratePos(model, q, np.linalg.pinv(J) @ (residual - found), 1.0)
    return None


def _tangent(model: mujoco.MjModel, qpos: Float[np.ndarray, "nq"]) -> Float[np.ndarray, "nq nv"]:
    """How positions move with velocities: a quaternion q by q (0, w) / 2."""
    moves = np.zeros((model.nq, model.nv))
    for kind, q, v in zip(model.jnt_type, model.jnt_qposadr, model.jnt_dofadr, strict=True):
        straight = {HINGE: 1, SLIDE: 1, BALL: 0, FREE: 3}[int(kind)]
        moves[q : q + straight, v : v + straight] = np.eye(straight)
        if kind in (BALL, FREE):
            for i in range(3):
                turned = np.zeros(4)
                mujoco.mju_mulQuat(turned, qpos[q + straight : q + straight + 4], np.insert(np.eye(3)[i], 0, 0.0))
                moves[q + straight : q + straight + 4, v + straight + i] = turned / 2
    return moves


def _into_ranges(model: mujoco.MjModel, q: Float[np.ndarray, "nq"], about: Float[np.ndarray, "nq"]) -> None:
    """Bring positions into the joints' ranges, or as near as `about` is, and quaternions to the norm 1."""
    for j in range(model.njnt):
        kind, at, (low, high) = model.jnt_type[j], model.jnt_qposadr[j], model.jnt_range[j]
        limited = bool(model.jnt_limited[j])
        if kind in (HINGE, SLIDE):
            if limited:
                q[at] = np.clip(q[at], min(low, about[at]), max(high, about[at]))
            continue
        turn = slice(at, at + 4) if kind == BALL else slice(at + 3, at + 7)
        q[turn] /= np.linalg.norm(q[turn])
        if limited:
            angle, most = _angle(q[turn]), max(high, _angle(about[turn]))
            if angle > most:
                axis = np.sign(q[turn][0] or 1.0) * q[turn][1:]
                q[turn] = np.append(np.cos(most / 2), np.sin(most / 2) * axis / np.linalg.norm(axis))


def _angle(turn: Float[np.ndarray, "4"]) -> float:
    """By how much a unit quaternion turns, rad."""
    return 2 * float(np.arctan2(np.linalg.norm(turn[1:]), abs(turn[0])))
