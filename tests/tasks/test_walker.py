"""The walker: its body, its gait, the feedback that keeps to it, pushes, rough ground and its cost."""

import dataclasses

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from pilotfish import tasks
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.tasks import walker
from pilotfish.tasks.gait import walk
from pilotfish.tasks.walker import Walker, demonstration
from pilotfish.types import LinearGaussian, no_cost

TASK = Walker()
PROBLEM, MODEL = TASK.problem(), TASK.simulation().model
START = np.asarray(PROBLEM.conditions.mean)[0]
KEY = jax.random.key(0)


def rollouts(task, samples=13):
    """States (M, T+1, dx) and costs (M,) of the first controller, and whether each rollout is a success."""
    world = task.world()
    r = world.rollout(LinearGaussianPolicy(world.problem.first_controller), samples, KEY)
    assert np.asarray(r.valid).all()
    success = jax.vmap(task.walks)(r.x[0], r.u[0])
    return np.asarray(r.x[0]), np.asarray(r.cost[0]).sum(1), np.asarray(success)


@pytest.fixture(scope="module")
def stabilised():
    return rollouts(dataclasses.replace(TASK, initial_std=3.0))


def placed(qpos, qvel=None, u=None, model=MODEL):
    """A simulation with all that follows from these positions, velocities and torques."""
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    data.qvel[:] = 0.0 if qvel is None else qvel
    data.ctrl[:] = 0.0 if u is None else u
    mujoco.mj_forward(model, data)
    return data


def test_masses():
    assert MODEL.body_mass.sum() == pytest.approx(18.0)
    assert MODEL.body("torso").mass[0] == pytest.approx(14.0)
    for side in ("right", "left"):
        for part, mass in (("thigh", 1.0), ("shin", 0.8), ("foot", 0.2)):
            assert MODEL.body(f"{side}_{part}").mass[0] == pytest.approx(mass)


def test_times_dimensions_limits_and_start_are_those_of_the_papers():
    assert (PROBLEM.dx, PROBLEM.du, PROBLEM.horizon, PROBLEM.dt) == (18, 6, 500, 0.01)
    assert (MODEL.opt.timestep, MODEL.opt.integrator) == (0.002, mujoco.mjtIntegrator.mjINT_IMPLICITFAST)
    np.testing.assert_array_equal(PROBLEM.action_high, [60, 60, 20, 60, 60, 20])
    np.testing.assert_array_equal(MODEL.actuator_ctrlrange, np.stack([PROBLEM.action_low, PROBLEM.action_high], 1))
    np.testing.assert_array_equal(MODEL.jnt_range[3:6], [[-1.2, 2.0], [-2.6, 0.02], [-0.8, 0.8]])
    np.testing.assert_array_equal(MODEL.jnt_range[6:], MODEL.jnt_range[3:6])
    np.testing.assert_array_equal(MODEL.dof_damping, [0, 0, 0, 1, 1, 0.2, 1, 1, 0.2])
    np.testing.assert_array_equal(MODEL.dof_armature, [0, 0, 0, *6 * [0.004]])
    np.testing.assert_array_equal(START, [0, 1.2, 0, 0.2, -0.1, -0.1, -0.15, -0.05, 0.2, 1, *8 * [0]])
    std = np.sqrt(np.asarray(PROBLEM.conditions.cov[0]))
    np.testing.assert_allclose(std, np.diag([*9 * [0.01], *9 * [0.02]]), atol=1e-12)


def test_a_leg_is_two_links_that_positive_angles_swing_forward_and_a_foot():
    """Against the trigonometry of a chain, and its toe, .14 m ahead of the ankle and .03 m below."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, z, pitch, *legs = rng.uniform(-1, 1, 9)
        data = placed([x, z, pitch, *legs])
        for side, (hip, knee, ankle) in (("right", legs[:3]), ("left", legs[3:])):
            place = np.array([x, z]) + 0.24 * np.array([np.sin(pitch), -np.cos(pitch)])
            for angle in (pitch + hip, pitch + hip + knee):
                place += 0.45 * np.array([np.sin(angle), -np.cos(angle)])
            np.testing.assert_allclose(data.body(f"{side}_foot").xpos[[0, 2]], place, atol=1e-12)
            sole, geom = pitch + hip + knee + ankle, data.geom(f"{side}_foot")
            along, down = np.array([np.cos(sole), np.sin(sole)]), np.array([np.sin(sole), -np.cos(sole)])
            axis = geom.xmat.reshape(3, 3)[[0, 2], 2]
            toe = geom.xpos[[0, 2]] + 0.1 * axis * np.sign(axis @ along)
            np.testing.assert_allclose(toe, place + 0.14 * along + 0.03 * down, atol=1e-12)
    radius = {name: float(MODEL.geom(f"{name}_foot").size[0]) for name in ("right", "left")}
    assert radius == {"right": 0.03, "left": 0.03}


def test_only_feet_touch_the_ground_and_nothing_else():
    sunk = placed([0, -2.0, 0, 0.2, -0.1, 0.8, -0.3, -2.0, -0.8])  # all of it is below the ground
    assert sunk.xipos[1:, 2].max() < -1.0
    ground = MODEL.geom("ground").id
    feet = {MODEL.geom(f"{side}_foot").id for side in ("right", "left")}
    assert {tuple(sorted(pair)) for pair in sunk.contact.geom.tolist()} == {(ground, foot) for foot in feet}
    meets = MODEL.geom_contype[:, None] & MODEL.geom_conaffinity
    assert {tuple(sorted(pair)) for pair in np.argwhere(meets).tolist()} == {(ground, foot) for foot in feet}


def test_in_the_air_it_falls_and_its_motors_turn_what_they_say():
    """It falls at g; a positive torque swings what is below its joint forward, and the torso the other way."""
    falling = placed([0, 3, 0, *6 * [0.0]])
    np.testing.assert_allclose(falling.qacc[:3], [0, -9.81, 0], atol=1e-9)
    for i, name in enumerate(f"{side}_{joint}" for side in ("right", "left") for joint in ("hip", "knee", "ankle")):
        assert MODEL.actuator(name).trnid[0] == MODEL.joint(name).id
        turned = placed([0, 3, 0, 0.1, -0.1, 0, 0.1, -0.1, 0], u=np.eye(6)[i]).qacc
        assert turned[3 + i] > 1.0
    assert placed([0, 3, 0, 0.1, -0.1, 0, 0.1, -0.1, 0], u=np.eye(6)[0]).qacc[2] < -0.1


def test_costs_by_hand():
    x, u = jnp.zeros(18).at[1].set(1.4).at[9].set(0.1), jnp.arange(6.0)
    assert TASK.cost(x, u, 0) == pytest.approx(0.5 * (1e-4 * 55 + 4 + 0.09))
    assert Walker(height_weight=10.0).cost(x, u, 7) == pytest.approx(0.5 * (1e-4 * 55 + 4 + 0.9))
    standing = jnp.zeros(18).at[1].set(1.1)
    assert 500 * TASK.cost(standing, jnp.zeros(6), 0) == pytest.approx(1102.5)
    assert PROBLEM.final_cost is no_cost


def test_success_is_not_to_fall_and_to_keep_pace():
    x, u = np.zeros((501, 18)), jnp.zeros((500, 6))
    x[:, 1], x[:, 9] = 1.1, np.linspace(0.0, 3.4, 501)
    assert TASK.walks(jnp.asarray(x), u)
    for velocity, success in ((1.59, False), (1.61, True), (2.59, True), (2.61, False)):
        x[:, 9] = velocity
        assert TASK.walks(jnp.asarray(x), u) == success
    for height, success in ((0.71, True), (0.69, False), (np.nan, False)):
        x[:, 9], x[300, 1] = 2.1, height
        assert TASK.walks(jnp.asarray(x), u) == success


def test_demonstration_walks():
    """In 5 s about 9.5 m, upright; its cost is far below the 1102 of standing still.

    A start moved by 1e-5 changes these numbers by less than 3e-3, any of the gait's by more than their tolerances.
    """
    x, u, _ = demonstration()
    np.testing.assert_array_equal(x[0], START)
    assert 1.05 < x[:, 1].min() < x[:, 1].max() < 1.205
    assert x[-1, 0] == pytest.approx(9.473, abs=0.02)
    assert x[50:, 2].mean() == pytest.approx(-0.491, abs=0.003)
    assert np.abs(u).mean() == pytest.approx(14.54, abs=0.05)
    costs = jax.vmap(TASK.cost, (0, 0, None))(jnp.asarray(x[:-1]), jnp.asarray(u), 0)
    assert float(costs.sum()) == pytest.approx(93.9, abs=0.25)
    assert demonstration() is demonstration()


def test_legs_take_turns():
    """While one foot is in the air the other is on the ground: about 15 times each."""
    x, _, _ = demonstration()
    feet = np.array([[placed(q[:9]).body(f"{side}_foot").xpos[2] for side in ("right", "left")] for q in x])
    lifted = feet > 0.16
    assert not lifted.all(1).any()
    first, second = np.maximum(np.diff(lifted.astype(int), axis=0), 0).sum(0)
    assert abs(first - second) <= 1
    assert 8 < first < 20


def test_gait_withstands_noise():
    rng = np.random.default_rng(1)
    _, calm, _ = demonstration()
    for _ in range(6):
        start = START + rng.normal(size=18) * np.repeat([0.01, 0.02], 9)
        x, u = walk(MODEL, start, rng.normal(size=(500, 6)) * 2.0, 5)
        assert x[:, 1].min() > 0.9
        assert x[-1, 0] == pytest.approx(9.5, abs=0.8)
        assert (np.abs(u) <= np.asarray(PROBLEM.action_high)).all()
        assert (u - calm)[:2].std() > 1.0


def test_feedback_keeps_to_the_walk_and_its_torques_alone_do_not(stabilised):
    x, cost, success = stabilised
    assert success.all()
    assert x[:, :, 1].min() > 0.9
    assert np.abs(x[:, -1, 0] - 9.5).max() < 0.5
    assert cost.mean() < 105
    alone, cost, success = rollouts(Walker(start="demonstration", initial_std=1.0))
    assert (alone[:, :, 1].min(1) < 0.7).all()
    assert not success.any()
    assert cost.mean() > 500


def test_first_controller_is_the_walks():
    """Its mean in the walk's states is the walk's torques, whatever else it may bring."""
    x, u, K = demonstration()
    for start in ("stabilised", "demonstration"):
        first = Walker(start=start, initial_std=1.5).problem().first_controller
        assert isinstance(first, LinearGaussian)
        np.testing.assert_allclose(first.mean(jnp.asarray(x[None, :-1]))[0], u, atol=1e-9)
        np.testing.assert_array_equal(first.K[0], K if start == "stabilised" else 0 * K)
        np.testing.assert_allclose(first.cov[0], np.tile(2.25 * np.eye(6), (500, 1, 1)))
    scratch = Walker(start="scratch", initial_std=1.5).problem()
    assert not scratch.first_controller.K.any()
    np.testing.assert_array_equal(scratch.initial_std, np.full(6, 1.5))


def linearised(x, u, eps):
    world = TASK.world()
    return jax.tree.map(lambda leaf: leaf[0], world.simulation.linearised(world.problem, x[None], u[None], eps))


def test_feedback_is_the_lqrs():
    """Against the Riccati recursion in NumPy. The place along x costs nothing, so nothing is fed back from it."""
    x, u, K = demonstration()
    f = linearised(x[:-1], u, 1e-7)
    Q, R = np.diag([0.0, *8 * [100.0], *9 * [1.0]]), 0.01 * np.eye(6)
    P = Q
    for t in reversed(range(500)):
        A, B = np.asarray(f.A[t]), np.asarray(f.B[t])
        gain = np.linalg.solve(R + B.T @ P @ B, B.T @ P @ A)
        np.testing.assert_allclose(K[t], -gain, rtol=1e-4, atol=1e-4)
        P = Q + A.T @ P @ (A - B @ gain)
    assert np.abs(K[:, :, 0]).max() < 1e-3


def test_linearisation_is_the_product_of_mujocos_own():
    """Along the walk, in the air and on the ground: five steps' derivatives, multiplied."""
    x, u, _ = demonstration()
    times = np.array([0, 30, 101, 222, 333, 444])
    assert {placed(x[t, :9]).ncon > 0 for t in times} == {True, False}
    assert {bool(at_limit) for at_limit in (np.abs(u[times]) == 60.0).ravel()} == {True, False}
    f = linearised(x[times], u[times], 1e-6)
    for i, t in enumerate(times):
        data = placed(x[t, :9], x[t, 9:], u[t])
        A, B = np.eye(18), np.zeros((18, 6))
        for _ in range(5):
            A1, B1 = np.zeros((18, 18)), np.zeros((18, 6))
            mujoco.mjd_transitionFD(MODEL, data, 1e-6, True, A1, B1, None, None)
            A, B = A1 @ A, A1 @ B + B1
            mujoco.mj_step(MODEL, data)
        np.testing.assert_allclose(f.A[i], A, atol=2e-3 * np.abs(A).max())
        np.testing.assert_allclose(f.B[i], B, atol=2e-3 * np.abs(B).max())
        ahead = f.A[i] @ x[t] + f.B[i] @ u[t] + f.c[i]
        np.testing.assert_allclose(ahead, np.concatenate([data.qpos, data.qvel]), atol=1e-5)
    assert (np.asarray(f.cov) == 0).all()


def test_pushes_take_momentum_from_it():
    """Until the first push nothing differs; after its .1 s the whole walker is slower by nearly 10 N s of 18 kg."""
    task = Walker(push=-100.0, initial_std=0.01)
    forces, torso = task.simulation().forces, MODEL.body("torso").id
    assert forces is not None
    pushed = np.zeros((500, MODEL.nbody, 6))
    for first in (150, 300, 450):
        pushed[first : first + 10, torso, 0] = -100.0
    np.testing.assert_array_equal(forces, pushed)
    calm, x = (rollouts(each, 2)[0] for each in (Walker(initial_std=0.01), task))
    np.testing.assert_array_equal(x[:, :151], calm[:, :151])
    momentum = [[_momentum(r[t]) for r in (calm[0], x[0])] for t in (150, 160)]
    np.testing.assert_allclose(momentum[0][0], momentum[0][1])
    assert -11.0 < momentum[1][1] - momentum[1][0] < -5.0
    assert (x[:, :, 1] > 0.7).all()
    assert (x[:, -1, 0] < calm[:, -1, 0] - 0.5).all()


def _momentum(x):
    """Of the whole walker, along x, N s."""
    data = placed(x[:9], x[9:])
    mujoco.mj_subtreeVel(MODEL, data)
    return 18.0 * data.subtree_linvel[MODEL.body("torso").id, 0]


def test_rough_ground_is_level_at_the_start_and_at_most_as_steep_as_said():
    """Heights are where a ray from above meets it."""
    task = Walker(slope=5.0)
    model = task.simulation().model
    data, places = placed(START[:9], model=model), np.linspace(-4.9, 19.9, 1241)
    heights = []
    for x in places:
        hit = np.zeros(1, np.int32)
        distance = mujoco.mj_ray(model, data, np.array([x, 2.5, 5.0]), np.array([0.0, 0.0, -1.0]), None, 1, -1, hit)
        assert hit[0] == model.geom("ground").id
        heights.append(5.0 - distance)
    heights = np.array(heights)
    assert np.abs(heights[np.abs(places) <= 1]).max() < 1e-6
    slopes = np.degrees(np.arctan(np.diff(heights) / np.diff(places)))
    assert np.abs(slopes).max() == pytest.approx(5.0, abs=0.01)
    ahead = slopes[places[:-1] > 1.5]
    assert ahead.min() < -3
    assert ahead.max() > 3
    assert 0.01 < np.std(heights) < 0.1


def test_feedback_for_level_ground_walks_on_rough_ground_less_well(stabilised):
    x, cost, _ = rollouts(Walker(slope=5.0, initial_std=3.0), 8)
    assert (x[:, :, 1] > 0.7).all()
    assert cost.mean() > stabilised[1].mean() + 2
    assert np.abs(x[:, 150:] - stabilised[0][:8, 150:]).mean() > 0.01


def test_registered_walkers_differ_as_their_names_say():
    entries = tasks.registry()
    assert entries["walker"].make() == Walker()
    assert entries["walker-cgps"].make() == Walker(height_weight=10.0)
    assert entries["walker-push"].make() == Walker(height_weight=10.0, push=-100.0)
    assert entries["walker-rough"].make() == Walker(height_weight=10.0, slope=5.0)


def test_picture_tells_the_legs_apart_and_goes_with_the_walker():
    right, left = MODEL.geom("right_foot").rgba, MODEL.geom("left_foot").rgba
    assert np.abs(right - left).max() > 0.3
    ahead, pitch = np.eye(9)[[0, 2]]
    here, there, leaning = placed(START[:9]), placed(START[:9] + 8.0 * ahead), placed(START[:9] - 0.5 * pitch)
    view = MODEL.camera("view").id
    np.testing.assert_allclose(there.cam_xpos[view] - here.cam_xpos[view], [8, 0, 0], atol=1e-9)
    np.testing.assert_allclose(leaning.cam_xmat[view], here.cam_xmat[view], atol=1e-9)


def test_a_slope_too_steep_is_refused():
    with pytest.raises(ValueError, match=r"slope=30\.0: the steepest slope must be between 0 and 20 degrees"):
        Walker(slope=30.0)
    assert np.isfinite(walker.terrain(20.0)).all()
