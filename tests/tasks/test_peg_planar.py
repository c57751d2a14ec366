"""The planar peg: kinematics, weight, slot and cost by hand, that it can be inserted, and that it takes a detour."""

import dataclasses

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.tasks.peg_planar import BETWEEN, FOUR, PegPlanar, blind, slots

TASK = PegPlanar()
PROBLEM, MODEL = TASK.problem(), TASK.simulation().model
SHIFTED = PegPlanar(shifts=FOUR + BETWEEN)
START, TARGET = np.array([0.6, -0.4, -np.pi / 2 - 0.2]), np.array([1.2, -1.1])


def state(data):
    return np.concatenate([data.qpos, data.qvel, data.sensordata])


def at(model, q, v=(0, 0, 0)):
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = q, v
    mujoco.mj_forward(model, data)
    return data


def angles(x, z):
    """Of shoulder and elbow, which put the wrist at (x, z), with the elbow up."""
    elbow = -np.arccos((x**2 + z**2 - 2) / 2)
    return np.array([np.arctan2(z, x) - elbow / 2, elbow])


def follow(model, way, start=START, noise=0.0):
    """Rollout under feedback towards the angles way(t), which carries the peg's weight: states and actions."""
    rng, data, x, u = np.random.default_rng(0), at(model, start), [], []
    for t in range(801):
        x.append(state(data))
        weight = (data.qfrc_bias - data.qfrc_gravcomp)[:2]
        push = 300 * (way(t) - data.qpos[:2]) - 60 * data.qvel[:2] + weight + noise * rng.normal(size=2)
        u.append(np.clip(push, -100, 100))
        data.ctrl[:] = u[-1]
        mujoco.mj_step(model, data, 2)
        mujoco.mj_forward(model, data)
    return jnp.asarray(x), jnp.asarray(u[:-1])


def over_and_down(base):
    """The wrist first goes .85 m above the slot's mouth, then down, for an arm whose base is at x = `base`."""
    first = np.array([np.cos(0.6) + np.cos(0.2), np.sin(0.6) + np.sin(0.2)])
    hover, bottom = np.array([1.2 - base, 0.25]), np.array([1.2 - base, -0.498])

    def way(t):
        if t < 300:
            return angles(*(first + min(t / 200, 1.0) * (hover - first)))
        return angles(*(hover + min((t - 300) / 400, 1.0) * (bottom - hover)))

    return way


def distance(task, x):
    return np.linalg.norm(np.asarray(task.tip(x[-1])) - TARGET)


def test_dimensions():
    assert (PROBLEM.dx, PROBLEM.du, PROBLEM.horizon, PROBLEM.dt) == (6, 2, 800, 0.01)
    assert MODEL.opt.timestep == 0.005
    np.testing.assert_array_equal(PROBLEM.action_high, 100)
    np.testing.assert_array_equal(PROBLEM.action_low, -100)
    np.testing.assert_allclose(MODEL.body_mass[1:], [3.664, 2.513, 0.617], atol=1e-3)
    np.testing.assert_allclose(PROBLEM.conditions.mean[0], [*START, 0, 0, 0])


def test_tip_is_where_the_simulator_has_it():
    rng = np.random.default_rng(0)
    for q in rng.uniform(-2, 2, (5, 3)):
        x, y, z = at(MODEL, q).site("tip").xpos
        np.testing.assert_allclose(TASK.tip(jnp.asarray([*q, 0, 0, 0])), [x, z], atol=1e-12)
        assert y == 0
    np.testing.assert_allclose(TASK.tip(jnp.asarray([0, 0, 0, 0, 0, 0.0])), [2.6, 0.0])
    np.testing.assert_allclose(TASK.tip(jnp.asarray([np.pi / 2, 0, 0, 0, 0, 0])), [0.0, 2.6], atol=1e-12)


def test_motors_turn_shoulder_and_elbow_and_carry_the_weight_of_the_peg_alone():
    data = at(MODEL, START)
    weight = 0.6166 * 9.81 * np.array([np.cos(0.6) + np.cos(0.2), np.cos(0.2), 0.0])  # by its arms: the peg hangs
    np.testing.assert_allclose(data.qfrc_bias - data.qfrc_gravcomp, weight, atol=1e-3)
    data.ctrl[:] = [3.0, -4.0]
    mujoco.mj_forward(MODEL, data)
    np.testing.assert_allclose(data.qfrc_actuator, [3.0, -4.0, 0.0])


def test_slot():
    """By rays from its axis."""
    data, hit = at(MODEL, START), np.zeros(1, np.int32)

    def free(z, along):
        return mujoco.mj_ray(MODEL, data, np.array([1.2, 0.0, z]), np.array(along, float), None, 1, -1, hit, None)

    for z in (-0.601, -1.08):
        assert free(z, (1, 0, 0)) == pytest.approx(0.06)
        assert free(z, (-1, 0, 0)) == pytest.approx(0.06)
    assert free(-0.599, (1, 0, 0)) == -1  # nothing there
    assert free(-1.095, (0, 0, -1)) == pytest.approx(0.005)


@pytest.mark.parametrize("noise", [0.0, 3.0])
@pytest.mark.parametrize("start", [(0, 0, 0), (0.02, -0.02, 0.05)])
def test_over_and_down_inserts(noise, start):
    x, u = follow(MODEL, over_and_down(0.0), START + start, noise)
    assert distance(TASK, x) < 0.01
    assert TASK.is_inserted(x, u)


def test_who_goes_straight_or_does_nothing_fails():
    goal = angles(1.2, -0.498)
    x, u = follow(MODEL, lambda t: goal)
    assert distance(TASK, x) > 0.4
    assert not TASK.is_inserted(x, u)
    zero = LinearGaussianPolicy(jax.tree.map(jnp.zeros_like, PROBLEM.first_controller))
    r = TASK.world().rollout(zero, 1, jax.random.key(0))
    assert r.valid.all()
    assert distance(TASK, r.x[0, 0]) > 0.4


def test_cost_by_hand():
    rng = np.random.default_rng(0)
    for q, v, u in zip(rng.uniform(-2, 2, (3, 3)), rng.normal(size=(3, 3)), rng.normal(size=(3, 2)), strict=True):
        away = at(MODEL, q).site("tip").xpos[[0, 2]] - TARGET
        expected = 0.5e-6 * u @ u + 0.5 * away @ away + np.sqrt(1e-5 + away @ away)
        assert TASK.cost(jnp.asarray([*q, *v]), jnp.asarray(u), 3) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("away", "success"), [(0.049, True), (0.051, False)])
def test_success_is_a_matter_of_the_last_distance(away, success):
    x = jnp.zeros((801, 9)).at[-1, 6:].set(jnp.array([1.2 + 0.6 * away, 0.0, -1.1 + 0.8 * away]))
    assert SHIFTED.is_inserted(x, jnp.zeros((800, 2))) == success


def test_slots_elsewhere_are_bases_elsewhere():
    """The state then has the place of the tip, seen from the slot."""
    problem, simulation = SHIFTED.problem(), SHIFTED.simulation()
    assert problem.dx == 9
    np.testing.assert_allclose(problem.conditions.cov[0], np.diag([1e-4] * 6 + [0] * 3))
    for n, shift in enumerate((-0.15, -0.05, 0.05, 0.15, -0.1, -0.02, 0.02, 0.1)):
        x = problem.conditions.mean[n]
        np.testing.assert_allclose(x[:6], PROBLEM.conditions.mean[0])
        place = np.asarray(TASK.tip(x[:6])) - [shift, 0]
        np.testing.assert_allclose(SHIFTED.tip(x), place, atol=1e-12)
        away = place - TARGET
        expected = 0.5 * away @ away + np.sqrt(1e-5 + away @ away)
        assert SHIFTED.cost(x, jnp.zeros(2), 0) == pytest.approx(expected, rel=1e-12)
        x, u = follow(simulation.of_condition(n), over_and_down(-shift))
        assert SHIFTED.is_inserted(x, u)


def test_blind_policy_sees_angles_and_velocities():
    problem = blind().problem()
    np.testing.assert_array_equal(problem.observe(jnp.arange(9.0)), np.arange(6.0))
    np.testing.assert_array_equal(slots().problem().observe(jnp.arange(9.0)), np.arange(9.0))
    assert not set(blind().shifts) & set(blind().held_out().shifts)


def test_settings_read_from_a_file_are_the_same_task():
    """Tuples become lists in JSON."""
    assert dataclasses.replace(SHIFTED, shifts=list(SHIFTED.shifts)) == SHIFTED
