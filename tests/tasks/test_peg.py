"""The peg of seven joints: its kinematics, hole, cost and first controller by hand, and that it can be inserted."""

import dataclasses

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from scipy.optimize import least_squares

from pilotfish import tasks
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.tasks.peg import FOUR, Peg
from pilotfish.types import identity
from pilotfish.worlds.mujoco import MujocoWorld

TASK, BLIND = Peg(), tasks.registry()["peg-blind"].make()
PROBLEM, SIMULATION = TASK.problem(), TASK.simulation()
G = np.array([3.09, 1.08, 0.393, 0.674, 0.111, 0.152, 0.098])
START = np.array([0.1, 0.1, -1.54, -1.7, 1.54, -0.2, 0.0])
TARGET = np.array([0.0, 0.3, -0.5, 0.0, 0.3, -0.2])
CHAIN = [  # from the link before, axis
    ((0, 0, 0), "z"),
    ((0.1, 0, 0), "y"),
    ((0, 0, 0), "x"),
    ((0.4, 0, 0), "y"),
    ((0, 0, 0), "x"),
    ((0.321, 0, 0), "y"),
    ((0, 0, 0), "x"),
]


def turn(axis, angle):
    c, s = np.cos(angle), np.sin(angle)
    rows = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }
    return np.array(rows[axis])


def ends_by_hand(q, offset):
    """The peg's bottom and top."""
    place, frame = np.array([offset[0], offset[1] - 0.188, 0.0]), np.eye(3)
    for (ahead, axis), angle in zip(CHAIN, q, strict=True):
        place = place + frame @ np.array(ahead)
        frame = frame @ turn(axis, angle)
    return np.concatenate([place + frame @ [0.18, 0, z] for z in (-0.15, 0.15)])


def angles(model, place, guess):
    """Angles that hold the peg upright with its bottom at `place`, near the guess."""
    limits = np.where(model.jnt_limited, model.jnt_range.T, [[-np.inf], [np.inf]])
    goal, data = np.concatenate([place, np.add(place, [0, 0, 0.3])]), mujoco.MjData(model)

    def residual(q):
        data.qpos[:] = q
        mujoco.mj_kinematics(model, data)
        return np.concatenate([data.site_xpos.ravel() - goal, 1e-4 * (q - guess)])

    def jacobian(q):
        J = np.zeros((2, 3, 7))
        residual(q)
        mujoco.mj_comPos(model, data)
        for site in range(2):
            mujoco.mj_jacSite(model, data, J[site], None, site)
        return np.concatenate([J.reshape(6, 7), 1e-4 * np.eye(7)])

    return least_squares(residual, guess, jacobian, limits).x


def follow(model, way, steps=100):
    """Rollout under feedback towards the angles way(t): states and actions."""
    stiffness = np.array([120, 120, 40, 60, 10, 10, 5.0])
    data = mujoco.MjData(model)
    data.qpos[:] = START
    x, u = [], []
    for t in range(steps + 1):
        mujoco.mj_forward(model, data)
        x.append(np.concatenate([data.qpos, data.qvel, data.sensordata]))
        u.append(stiffness * (way(t) - data.qpos) - stiffness / 10 * data.qvel)
        data.ctrl[:] = u[-1]
        mujoco.mj_step(model, data, 5)
    return np.array(x), np.array(u[:-1])


def inserted(model):
    """First above the hole, then down in 15 steps."""
    hover = angles(model, [0, 0.3, -0.36], START)
    down = [hover]
    for z in np.linspace(-0.36, -0.5, 16)[1:]:
        down.append(angles(model, [0, 0.3, z], down[-1]))
    return follow(model, lambda t: down[int(np.clip((t - 45) / 40 * 15, 0, 15))])


def test_dimensions():
    assert (PROBLEM.dx, PROBLEM.du, PROBLEM.horizon, PROBLEM.dt) == (26, 7, 100, 0.05)
    model = SIMULATION.model
    assert (model.nq, model.nv, model.nu, model.opt.timestep) == (7, 7, 7, 0.01)
    assert (model.opt.gravity == 0).all()
    assert model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
    assert model.opt.iterations == 20
    np.testing.assert_array_equal(model.geom_margin, 0.001)
    np.testing.assert_array_equal(model.geom_condim, 1)
    np.testing.assert_array_equal(PROBLEM.action_high, 100)
    np.testing.assert_array_equal(PROBLEM.action_low, -100)


def test_arm_is_that_of_the_experiment():
    model = SIMULATION.model
    assert model.body_mass.sum() == pytest.approx(47.66, abs=0.01)
    assert model.body("peg").mass[0] == pytest.approx(1.478, abs=1e-3)
    collides = np.flatnonzero(model.geom_contype & (model.geom_bodyid > 0))
    np.testing.assert_array_equal(model.geom_bodyid[collides], [model.body("peg").id])
    np.testing.assert_array_equal(model.geom_size[collides[0], :2], [0.028, 0.15])
    np.testing.assert_allclose(model.dof_damping, [10, 10, 0.1, 1, 0.1, 0.1, 0.1])
    np.testing.assert_allclose(model.dof_armature, 0.04)
    np.testing.assert_array_equal(model.jnt_limited, [1, 1, 1, 1, 0, 1, 0])
    limits = [(-2.2854, 1.714602), (-0.5236, 1.3963), (-3.9, 0.8), (-2.3213, 0), (-2.094, 0)]
    np.testing.assert_allclose(model.jnt_range[[0, 1, 2, 3, 5]], limits)


def test_motors_drive_their_joints():
    data = mujoco.MjData(SIMULATION.model)
    data.ctrl[:] = u = np.arange(-3.0, 4.0)
    mujoco.mj_forward(SIMULATION.model, data)
    np.testing.assert_allclose(data.qfrc_actuator, u)


def test_state_holds_the_ends_of_the_peg_and_their_velocities():
    """Of a chain of rotations, and differences of it."""
    rng = np.random.default_rng(0)
    q, v = rng.uniform(-1, 1, (9, 7)), rng.normal(size=(9, 7))
    states, eps = SIMULATION.states(q, v), 1e-6
    offsets = [(x, y) for x in (-0.1, 0, 0.1) for y in (-0.1, 0, 0.1)]
    for n, offset in enumerate(offsets):
        np.testing.assert_allclose(states[n, :14], np.concatenate([q[n], v[n]]))
        np.testing.assert_allclose(states[n, 14:20], ends_by_hand(q[n], offset), atol=1e-9)
        moved = ends_by_hand(q[n] + eps * v[n], offset) - ends_by_hand(q[n] - eps * v[n], offset)
        np.testing.assert_allclose(states[n, 20:], moved / (2 * eps), atol=1e-7)


def test_conditions_are_places_of_the_base():
    mean, cov = np.asarray(PROBLEM.conditions.mean), np.asarray(PROBLEM.conditions.cov)
    np.testing.assert_allclose(mean[:, :14], np.tile(np.concatenate([START, np.zeros(7)]), (9, 1)))
    np.testing.assert_allclose(mean[:, 16] + 0.5, 0.372, atol=2e-3)
    np.testing.assert_allclose(cov, np.tile(np.diag([1e-6] * 14 + [0] * 12), (9, 1, 1)))
    np.testing.assert_allclose(
        (BLIND.simulation().fields["body_pos"] - BLIND.simulation().model.body_pos)[:, 1, :2], FOUR
    )
    np.testing.assert_array_equal(np.sort(np.abs(FOUR), axis=None), 0.012)
    assert len({tuple(np.sign(offset)) for offset in FOUR}) == 4


def test_blind_policy_sees_angles_and_velocities():
    x = jnp.arange(26.0)
    assert PROBLEM.observe is identity
    np.testing.assert_array_equal(BLIND.problem().observe(x), np.arange(14))


def test_hole_narrows_towards_its_floor():
    """By rays from its axis: walls at 33 mm, from z = -.4 down, and behind them plates tilted by .05 rad."""
    model = SIMULATION.model
    data = mujoco.MjData(model)
    data.qpos[:] = START
    mujoco.mj_forward(model, data)
    hit = np.zeros(1, np.int32)

    def free(z, along):
        return mujoco.mj_ray(model, data, np.array([0, 0.3, z]), np.array(along, float), None, 1, -1, hit, None)

    for z in (-0.401, -0.415, -0.43, -0.45, -0.47, -0.495):
        plate = 0.034 + np.tan(0.05) * (z + 0.47) - 0.003 / np.cos(0.05)
        expected = 0.033 if z > -0.42 else min(plate, 0.033)
        for along in ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0)):
            assert free(z, along) == pytest.approx(expected, abs=1e-6), (z, along)
    assert free(-0.399, (0, 1, 0)) == -1  # nothing there
    assert free(-0.4995, (0, 0, -1)) == pytest.approx(0.0005)


@pytest.mark.parametrize(
    ("margin", "low", "high"), [(0.001, 0.0, 0.01), pytest.param(0.0, -0.001, 0.005, marks=pytest.mark.slow)]
)
def test_staged_feedback_inserts_in_all_conditions(margin, low, high):
    simulation = dataclasses.replace(TASK, margin=margin).simulation()
    for n in range(9):
        x, u = inserted(simulation.of_condition(n))
        assert low < x[-1, 16] + 0.5 < high
        np.testing.assert_allclose(x[-1, 14:16], TARGET[:2], atol=2e-3)
        assert TASK.is_inserted(jnp.asarray(x), jnp.asarray(u))


def test_twice_the_margin_jams():
    """As the experiment's model does in a MuJoCo that adds the margins."""
    simulation = dataclasses.replace(TASK, margin=0.002).simulation()
    heights = [inserted(simulation.of_condition(n))[0][-1, 16] + 0.5 for n in range(9)]
    assert min(heights) > 0.03


def test_who_goes_straight_is_stopped():
    for n in range(9):
        model = SIMULATION.of_condition(n)
        goal = angles(model, TARGET[:3], START)
        x, u = follow(model, lambda t, goal=goal: goal)
        assert x[-1, 16] + 0.5 > 0.09
        assert not TASK.is_inserted(jnp.asarray(x), jnp.asarray(u))


@pytest.mark.parametrize(("height", "success"), [(0.059, True), (-0.059, True), (0.061, False), (-0.061, False)])
def test_success_is_a_matter_of_height(height, success):
    x = jnp.zeros((101, 26)).at[:, 16].set(1.0).at[-1, 16].set(height - 0.5)
    assert TASK.is_inserted(x, jnp.zeros((100, 7))) == success
    np.testing.assert_allclose(PROBLEM.distance(x, jnp.zeros((100, 7))), abs(height))


@pytest.mark.parametrize("t", [0, 98, 99])
def test_cost_by_hand(t):
    rng = np.random.default_rng(t)
    x, u = rng.normal(size=26), rng.normal(size=7)
    d, w = x[14:20] - TARGET, np.array([2, 2, 1, 2, 2, 1])
    expected = 0.5 * (1e-3 / G * u**2).sum() + 0.5 * 10 * (w * d**2).sum() + 0.05 * np.log(1e-5 + ((w * d) ** 2).sum())
    if t == 99:
        expected += 0.5 * np.log(1e-5 + ((10 * w * d) ** 2).sum())
    assert TASK.cost(jnp.asarray(x), jnp.asarray(u), t) == pytest.approx(expected, rel=1e-12)


def test_first_controller_is_that_of_seven_double_integrators():
    """Of the gains 1 / G, by a Riccati recursion of each: `init_lqr`."""
    controller, start = PROBLEM.first_controller, np.asarray(PROBLEM.conditions.mean)
    for j, gain in enumerate(1 / G):
        A, B = np.array([[1, 0.05], [0, 1]]), np.array([[0.05**2 * gain], [0.05 * gain]])
        V = np.zeros((2, 2))
        for t in reversed(range(100)):
            weight = 50 if t == 99 else 1
            quu = weight + (B.T @ V @ B)[0, 0]
            K = -(B.T @ V @ A) / quu
            V = weight * np.diag([1, 0.5]) + A.T @ V @ A + A.T @ V @ B @ K
            np.testing.assert_allclose(controller.K[:, t, j, [j, 7 + j]], np.tile(K, (9, 1)), atol=1e-9)
            np.testing.assert_allclose(controller.chol[:, t, j, j], quu**-0.5, atol=1e-9)
            np.testing.assert_allclose(controller.k[:, t, j], -K[0, 0] * start[:, j], atol=1e-9)
    assert np.abs(controller.K[..., 14:]).max() == 0


def test_first_controller_stays_where_it_starts():
    still = dataclasses.replace(PROBLEM, conditions=dataclasses.replace(PROBLEM.conditions, cov=jnp.zeros((9, 26, 26))))
    simulation = TASK.simulation()
    world = MujocoWorld(still, simulation.model, simulation.fields)
    r = world.rollout(LinearGaussianPolicy(PROBLEM.first_controller).noise_free(), 1, jax.random.key(0))
    np.testing.assert_allclose(r.x[:, 0], np.repeat(PROBLEM.conditions.mean[:, None], 101, 1), atol=1e-9)
    assert r.valid.all()


def test_settings_read_from_a_file_are_the_same_task():
    """Tuples become lists in JSON."""
    read = dataclasses.replace(TASK, offsets=[list(offset) for offset in TASK.offsets])
    assert read == TASK
    assert hash(read.offsets) == hash(TASK.offsets)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"margin": -0.1}, "margin=-0.1: the contact margin"), ({"offsets": ()}, "of one condition")],
)
def test_nonsense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TASK, **change)
