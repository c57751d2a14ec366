"""The peg in space: kinematics, hole and cost by hand, that it can be inserted, and that it takes a detour."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from scipy.optimize import least_squares

from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.tasks.peg_spatial import PegSpatial, tip

TASK = PegSpatial()
PROBLEM, MODEL = TASK.problem(), TASK.simulation().model
START, TARGET = np.array([0, 0.6, 0, -0.4, -np.pi / 2 - 0.2, 0]), np.array([1.2, 0.2, -1.1])
STIFFNESS = np.array([300, 300, 50, 100, 20, 20.0])


def at(q):
    data = mujoco.MjData(MODEL)
    data.qpos[:] = q
    mujoco.mj_forward(MODEL, data)
    return data


def angles(place, guess):
    """Angles that hold the peg upright with its tip at `place`, near the guess."""

    def residual(q):
        data = at(q)
        down = data.body("peg").xmat.reshape(3, 3)[:, 0]
        return np.concatenate([data.site("tip").xpos - place, down[:2], 1e-4 * (q - guess)])

    return least_squares(residual, guess, bounds=MODEL.jnt_range.T).x


def follow(way):
    """Rollout under feedback towards the angles way(t): states and actions."""
    data, limit, x, u = at(START), np.asarray(PROBLEM.action_high), [], []
    for t in range(801):
        x.append(np.concatenate([data.qpos, data.qvel]))
        u.append(np.clip(STIFFNESS * (way(t) - data.qpos - data.qvel / 5), -limit, limit))
        data.ctrl[:] = u[-1]
        mujoco.mj_step(MODEL, data, 2)
    return jnp.asarray(x), jnp.asarray(u[:-1])


def distance(x):
    return np.linalg.norm(at(x[-1, :6]).site("tip").xpos - TARGET)


def test_dimensions():
    assert (PROBLEM.dx, PROBLEM.du, PROBLEM.horizon, PROBLEM.dt) == (12, 6, 800, 0.01)
    assert MODEL.opt.timestep == 0.005
    assert (MODEL.opt.gravity == 0).all()
    np.testing.assert_array_equal(PROBLEM.action_high, [100, 100, 50, 50, 20, 20])
    np.testing.assert_array_equal(PROBLEM.action_low, [-100, -100, -50, -50, -20, -20])
    np.testing.assert_allclose(MODEL.body_mass[1:], [3.664, 2.513, 0.617], atol=1e-3)
    np.testing.assert_allclose(PROBLEM.conditions.mean[0], [*START, *np.zeros(6)])
    data = at(START)
    data.ctrl[:] = u = np.arange(6.0) - 3
    mujoco.mj_forward(MODEL, data)
    np.testing.assert_allclose(data.qfrc_actuator, u)


def test_tip_is_where_the_simulator_has_it():
    rng = np.random.default_rng(0)
    for q in rng.uniform(-2, 2, (5, 6)):
        np.testing.assert_allclose(tip(jnp.asarray(q)), at(q).site("tip").xpos, atol=1e-12)
    for joint, place in (
        (0, (0, 2.6, 0)),
        (1, (0, 0, 2.6)),
        (2, (2.6, 0, 0)),
        (3, (1, 0, 1.6)),
        (4, (2, 0, 0.6)),
        (5, (2, 0.6, 0)),
    ):
        np.testing.assert_allclose(tip(jnp.zeros(6).at[joint].set(np.pi / 2)), place, atol=1e-12)


def test_hole():
    """By rays from its axis."""
    data, hit = at(START), np.zeros(1, np.int32)

    def free(z, along):
        return mujoco.mj_ray(MODEL, data, np.array([1.2, 0.2, z]), np.array(along, float), None, 1, -1, hit, None)

    sides = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0))
    corners = ((1, 0.99, 0), (0.99, -1, 0), (-1, -0.99, 0), (-0.99, 1, 0))
    for along in sides + corners:
        assert free(-0.601, along) == free(-1.08, along) == pytest.approx(0.06)
    assert free(-0.599, (1, 0, 0)) == -1  # nothing there
    assert free(-1.095, (0, 0, -1)) == pytest.approx(0.005)


def test_over_and_down_inserts():
    hover = angles([1.2, 0.2, -0.3], START)
    down = [hover]
    for z in np.linspace(-0.3, -1.098, 21)[1:]:
        down.append(angles([1.2, 0.2, z], down[-1]))

    def way(t):
        place = np.clip((t - 300) / 400, 0.0, 1.0) * 20
        first = min(int(place), 19)
        later = down[first] + (place - first) * (down[first + 1] - down[first])
        return START + min(t / 200, 1.0) * (later - START)

    x, u = follow(way)
    assert distance(x) < 0.01
    assert TASK.is_inserted(x, u)


def test_who_goes_straight_or_does_nothing_fails():
    goal = angles([*TARGET[:2], -1.098], START)
    x, u = follow(lambda t: goal)
    assert distance(x) > 0.4
    assert not TASK.is_inserted(x, u)
    r = TASK.world().rollout(LinearGaussianPolicy(PROBLEM.first_controller), 3, jax.random.key(0))
    assert r.valid.all()
    assert min(distance(x) for x in np.asarray(r.x[0])) > 0.4


def test_cost_by_hand():
    rng = np.random.default_rng(0)
    for q, v, u in zip(rng.uniform(-2, 2, (3, 6)), rng.normal(size=(3, 6)), rng.normal(size=(3, 6)), strict=True):
        away = at(q).site("tip").xpos - TARGET
        expected = 0.5e-6 * u @ u + 0.5 * away @ away + np.sqrt(1e-5 + away @ away)
        assert TASK.cost(jnp.asarray([*q, *v]), jnp.asarray(u), 3) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("close", "success"), [(0.002, True), (0.048, True), (0.053, False)])
def test_success_is_a_matter_of_the_last_distance(close, success):
    q = angles([*TARGET[:2], -1.1 + close], START)
    x = jnp.zeros((801, 12)).at[-1, :6].set(q)
    assert TASK.is_inserted(x, jnp.zeros((800, 6))) == success
