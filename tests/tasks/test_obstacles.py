"""The point mass between walls: its physics, what stops it, and that it can arrive."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.tasks.obstacles import DT, HORIZON, STARTS, Obstacles
from pilotfish.types import LinearGaussian
from pilotfish.worlds.mujoco import MujocoWorld

TASK = Obstacles()
PROBLEM, SIMULATION = TASK.problem(), TASK.simulation()
WORLD = MujocoWorld(PROBLEM, SIMULATION.model)
KEY = jax.random.key(0)


def places(r):
    """Of the mass's centre, in the world's frame."""
    return np.asarray(r.x)[:, 0, :, :2] + [3.0, 0.0]


def follow(waypoints):
    """Feedback towards one place after the other: waypoints (n, 4, 2), in the world's frame."""
    goal = np.repeat(waypoints - np.array([3.0, 0.0]), [45, 35, 30, 90], axis=1)
    stiff, damp = 2.0, 3.0
    K = np.concatenate([-stiff * np.eye(2), -damp * np.eye(2)], 1)
    shape = (len(STARTS), HORIZON)
    gains, chol = np.broadcast_to(K, (*shape, 2, 4)), np.zeros((*shape, 2, 2))
    return LinearGaussianPolicy(LinearGaussian(*map(jnp.asarray, (gains, stiff * goal, chol))))


def test_mass_and_motion_are_those_of_a_damped_particle():
    """m v' = u - v, from rest."""
    mass = SIMULATION.model.body("particle").mass[0]
    assert mass == pytest.approx(4.817, abs=1e-3)
    zero = jax.tree.map(jnp.zeros_like, PROBLEM.first_controller)
    push = LinearGaussianPolicy(LinearGaussian(zero.K, zero.k.at[..., 1].set(-0.5), zero.chol))
    r = WORLD.rollout(push, 1, KEY)
    t = DT * np.arange(31)
    speed = -0.5 * (1 - np.exp(-t / mass))
    np.testing.assert_allclose(r.x[0, 0, :31, 3], speed, atol=2e-3)


def test_who_goes_straight_is_stopped_by_a_wall():
    r = WORLD.rollout(follow(np.full((5, 4, 2), [3.0, 0.0])), 1, KEY)
    distance = np.linalg.norm(places(r)[:, -1] - [3.0, 0.0], axis=1)
    assert distance[2] > 1.0
    assert not np.asarray(jax.vmap(TASK.arrives)(r.x[:, 0], r.u[:, 0]))[2]


def test_all_starts_can_arrive():
    """Through the middle gap of the first wall, or around its ends, then past the second."""
    way = {
        -1.5: [(1.3, -1.7), (1.6, -0.6), (2.2, -0.55), (3, 0)],
        -0.75: [(0.6, 0.0), (1.6, -0.3), (2.3, -0.55), (3, 0)],
        0.0: [(1.2, 0.0), (1.5, 0.5), (2.3, 0.55), (3, 0)],
        0.75: [(0.6, 0.0), (1.6, 0.3), (2.3, 0.55), (3, 0)],
        1.5: [(1.3, 1.7), (1.6, 0.6), (2.2, 0.55), (3, 0)],
    }
    r = WORLD.rollout(follow(np.array([way[float(y)] for y in STARTS])), 1, KEY)
    distance = np.linalg.norm(places(r)[:, -1] - [3.0, 0.0], axis=1)
    assert (distance < 0.3).all(), distance
    reached = jax.vmap(jax.vmap(TASK.arrives))(r.x, r.u)
    assert np.asarray(reached).all()


def test_no_rollout_enters_a_wall():
    wild = LinearGaussianPolicy(
        LinearGaussian(
            jnp.zeros_like(PROBLEM.first_controller.K),
            jnp.zeros_like(PROBLEM.first_controller.k).at[..., 0].set(1.0),
            jnp.zeros_like(PROBLEM.first_controller.chol) + jnp.eye(2),
        )
    )
    r = WORLD.rollout(wild, 20, KEY)
    x, y = np.moveaxis(np.asarray(r.x)[..., :2] + [3.0, 0.0], -1, 0)
    for wall, middle, half in ((1.0, 0.8, 0.3), (1.0, -0.8, 0.3), (2.0, 0.0, 0.01), (2.0, 1.3, 0.3), (2.0, -1.3, 0.3)):
        gap = np.hypot(x - wall, np.maximum(np.abs(y - middle) - half, 0.0))
        assert gap.min() > 0.19  # both radii are .1
    assert x.max() > 0.9


def test_costs_by_hand():
    x, u = jnp.array([3.0, -4.0, 7.0, 8.0]), jnp.ones(2)
    assert TASK.cost(x, u, 0) == 12.5
    intended = Obstacles(cost_form="intended")
    assert intended.cost(x, u, 3) == pytest.approx(125 + 0.05 * np.log(25.00001))
    assert intended.cost(x, u, HORIZON - 1) == pytest.approx(1250 + 0.5 * np.log(25.00001))


def test_distance_and_arrival_are_those_of_the_last_place():
    x = jnp.zeros((HORIZON + 1, 4)).at[-1, :2].set(jnp.array([0.3, -0.4]))
    assert PROBLEM.distance(x, jnp.zeros((HORIZON, 2))) == 0.5
    assert not PROBLEM.success(x, jnp.zeros((HORIZON, 2)))
    assert PROBLEM.success(x.at[-1, 1].set(0.0).at[-1, 0].set(0.29), jnp.zeros((HORIZON, 2)))


def test_first_controller_stays_where_it_starts():
    r = WORLD.rollout(LinearGaussianPolicy(PROBLEM.first_controller), 5, KEY)
    start = np.stack([0 * STARTS, STARTS], -1)
    assert np.abs(np.asarray(r.x)[..., :2] + [3.0, 0.0] - start[:, None, None]).max() < 0.2


def test_a_force_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match=r"force=0\.0: the largest force must be positive"):
        Obstacles(force=0.0)


def test_model_has_no_friction_and_no_gravity():
    model = SIMULATION.model
    assert mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "view") >= 0
    assert (model.opt.gravity == 0).all()
    assert set(model.geom_condim) == {1}
