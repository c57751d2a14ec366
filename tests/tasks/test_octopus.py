"""The octopus arm against loops over its muscles and chambers, its energy, statics, symmetry and its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from pilotfish import tasks
from pilotfish.tasks.octopus import Octopus, nodes, tip

TASK = Octopus()
PROBLEM = TASK.problem()
START = PROBLEM.conditions.mean[0]
MASSES = [0.9901, 0.9804, 0.9709, 0.9615, 0.9524, 0.8434]


def turn(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def random_points(count=8):
    """Turned and dented arms, some muscles shorter than .4, with speeds; and actions."""
    rng = np.random.default_rng(0)
    x = np.tile(np.asarray(START), (count, 1))
    x[:, 1:25] = (x[:, 1:25] + 0.3 * rng.normal(size=(count, 24))) * rng.uniform(0.4, 1.2, (count, 1))
    x[:, 0] = rng.uniform(-np.pi, np.pi, count)
    for one in x:
        one[1:25] = (one[1:25].reshape(-1, 2) @ turn(one[0]).T).ravel()
    x[:, 25:] = 0.5 * rng.normal(size=(count, 25))
    return jnp.asarray(x), jnp.asarray(rng.uniform(-1, 1, (count, 18)))


def sides(x, u):
    """Of every muscle its two nodes (pair, upper 0 or lower 1), its strength and what it pulls per length beyond .4."""
    for i in range(6):
        dorsal, transversal, ventral = 0.1 * (1 + u[3 * i : 3 * i + 3]) / 2 + 0.05
        yield (i, 0), (i + 1, 0), 0.5, dorsal
        yield (i + 1, 0), (i + 1, 1), 1.0, transversal
        yield (i, 1), (i + 1, 1), 0.5, ventral


def unpacked(x):
    """Places and velocities of the nodes, (7, 2, 2)."""
    arm, swing = turn(x[0])[:, 1] / 2, -x[25] * turn(x[0])[:, 0] / 2
    p, v = x[1:25].reshape(6, 2, 2), x[26:].reshape(6, 2, 2)
    return np.concatenate([[[arm, -arm]], p]), np.concatenate([[[swing, -swing]], v])


def around(i):
    return [(i, 0), (i + 1, 0), (i + 1, 1), (i, 1)]


def area(place, i):
    """By the shoelace formula; clockwise is positive."""
    corners = [place[c] for c in around(i)]
    return -sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(corners, corners[1:] + corners[:1], strict=True)) / 2


def expected(x, u):
    """The time derivative of the state, force by force."""
    place, velocity = unpacked(x)
    force = np.zeros((7, 2, 2))
    for a, b, strength, pull in sides(x, u):
        length = np.linalg.norm(place[b] - place[a])
        along = (place[b] - place[a]) / length
        closing = (velocity[a] - velocity[b]) @ along
        tension = strength * (pull * max(length - 0.4, 0.0) - 0.3 * closing)
        force[a] += tension * along
        force[b] -= tension * along
    for i in range(6):
        corners = around(i)
        for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
            inwards = turn(-np.pi / 2) @ (place[b] - place[a])
            for end in (a, b):
                force[end] += 10.0 * (area(place, i) - 1.0) * inwards
    torque = sum(place[0, k, 0] * force[0, k, 1] - place[0, k, 1] * force[0, k, 0] for k in (0, 1))
    out = [*x[25:], (torque - 0.1 * x[25]) / (2 * 1.0 * 0.5**2)]
    for i in range(1, 7):
        for k in (0, 1):
            e = (place[i, k] - place[i - 1, k]) / np.linalg.norm(place[i, k] - place[i - 1, k])
            v_t = (velocity[i, k] @ e) * e
            v_n = velocity[i, k] - v_t
            drag = -0.2 * np.linalg.norm(v_t) * v_t - 1.0 * np.linalg.norm(v_n) * v_n
            out.extend((force[i, k] + drag) / MASSES[i - 1])
    return np.array(out)


def energy(x, u):
    """Of motion, of stretched muscles and of chambers under pressure."""
    place, velocity = unpacked(x)
    kinetic = 0.5 * (np.array(MASSES) * (velocity[1:] ** 2).sum((1, 2))).sum() + 0.5 * 0.5 * x[25] ** 2
    stretch = sum(
        s * pull / 2 * max(np.linalg.norm(place[b] - place[a]) - 0.4, 0.0) ** 2 for a, b, s, pull in sides(x, u)
    )
    return kinetic + stretch + sum(10.0 * (area(place, i) - 1) ** 2 for i in range(6))


def tips(x):
    return x[:, 21:25].reshape(-1, 2, 2).mean(1)


@pytest.fixture(scope="module")
def points():
    """States, actions, and the states' derivatives that are to be tested."""
    x, u = random_points()
    return np.asarray(x), np.asarray(u), np.asarray(jax.jit(jax.vmap(TASK.derivative))(x, u))


@pytest.fixture(scope="module")
def hold():
    """`hold(u)`: the states (301, 50) from the mean start under one action."""

    @jax.jit
    def episode(u):
        last, x = jax.lax.scan(lambda x, _: (PROBLEM.dynamics(x, u), x), START, None, length=300)
        return jnp.concatenate([x, last[None]])

    return lambda u: np.asarray(episode(jnp.asarray(u)))


def all_chambers(dorsal, transversal, ventral):
    return np.tile([float(dorsal), float(transversal), float(ventral)], 6)


# ---- equations of motion ----


def test_motion_is_that_of_all_forces_one_by_one(points):
    lengths = []
    for x, u, _ in zip(*points, strict=True):
        place, _ = unpacked(x)
        lengths.extend(np.linalg.norm(place[b] - place[a]) for a, b, *_ in sides(x, u))
    assert 0.02 < np.less(lengths, 0.4).mean() < 0.5
    for x, u, found in zip(*points, strict=True):
        np.testing.assert_allclose(found, expected(x, u), rtol=1e-9, atol=1e-9)


def test_energy_is_lost_to_the_muscles_the_water_and_the_base_alone(points):
    for x, u, change in zip(*points, strict=True):
        place, velocity = unpacked(x)
        lost = 0.1 * x[25] ** 2
        for a, b, strength, _ in sides(x, u):
            apart = place[b] - place[a]
            lost += strength * 0.3 * ((velocity[b] - velocity[a]) @ apart) ** 2 / (apart @ apart)
        for i in range(1, 7):
            for k in (0, 1):
                line, v = place[i, k] - place[i - 1, k], velocity[i, k]
                along = v @ line / np.linalg.norm(line)
                lost += 0.2 * abs(along) ** 3 + (v @ v - along**2) ** 1.5
        h = 1e-6
        growth = (energy(x + h * change, u) - energy(x - h * change, u)) / (2 * h)
        np.testing.assert_allclose(growth, -lost, rtol=1e-5)


def test_nodes_of_the_base_follow_its_angle(points):
    for x in points[0]:
        for found, true in zip(nodes(jnp.asarray(x)), unpacked(x), strict=True):
            np.testing.assert_allclose(found.reshape(7, 2, 2), true, rtol=1e-12, atol=1e-12)


def test_an_action_lasts_ten_steps_of_a_fifth(hold):
    u = np.random.default_rng(2).uniform(-1, 1, 18)
    states = hold(u)
    x = states[10]
    for _ in range(10):
        k1 = expected(x, u)
        k2 = expected(x + 0.1 * k1, u)
        k3 = expected(x + 0.1 * k2, u)
        x = x + (k1 + 2 * k2 + 2 * k3 + expected(x + 0.2 * k3, u)) / 30
    np.testing.assert_allclose(states[11], x, rtol=1e-9, atol=1e-9)


# ---- rest and symmetry ----


@pytest.mark.parametrize(
    ("action", "reach"),
    [((0, 0, 0), 6.05), ((-1, 1, -1), 7.33), ((1, -1, 1), 5.0)],
    ids=["at ease", "stretched", "shortened"],
)
def test_symmetric_action_keeps_the_arm_straight_and_it_settles_where_energy_is_least(hold, action, reach):
    u = all_chambers(*action)
    x = hold(u)
    assert np.abs(tips(x)[:, 1]).max() < 1e-6
    np.testing.assert_allclose(tips(x)[-1, 0], reach, atol=0.01)

    def potential(upper):
        places = np.stack([upper.reshape(6, 2), upper.reshape(6, 2) * [1, -1]], 1)
        return energy(np.concatenate([np.zeros(1), places.ravel(), np.zeros(25)]), u)

    upper = minimize(potential, np.asarray(START[1:25]).reshape(6, 2, 2)[:, 0].ravel()).x
    np.testing.assert_allclose(x[-1, 1:25].reshape(6, 2, 2)[:, 0].ravel(), upper, atol=0.01)


def test_mirrored_actions_mirror_the_arm(hold):
    u = np.random.default_rng(1).uniform(-1, 1, 18)
    x, mirrored = hold(u), hold(u.reshape(6, 3)[:, ::-1].ravel())
    assert np.abs(tips(x)[:, 1]).max() > 0.05
    for half in (0, 25):
        np.testing.assert_allclose(mirrored[:, half], -x[:, half], atol=1e-9)
        pairs = x[:, half + 1 : half + 25].reshape(-1, 6, 2, 2)[:, :, ::-1] * [1, -1]
        np.testing.assert_allclose(mirrored[:, half + 1 : half + 25], pairs.reshape(-1, 24), atol=1e-9)


def test_contracted_dorsal_muscles_bend_the_arm_upwards(hold):
    assert tips(hold(all_chambers(1, -1, -1)))[:, 1].max() > 0.5


# ---- cost, success and names ----


def arm_with_tip(place):
    """The arm at the start, its last two nodes .5 above and below a place."""
    return START.at[21:25].set(jnp.array([place[0], place[1] + 0.5, place[0], place[1] - 0.5]))


@pytest.mark.parametrize("t", [0, 99])
def test_cost_is_the_tip_s_distance_and_the_effort(t):
    cost, u = Octopus(action_weight=0.5).cost, 2 * jnp.ones(18)
    np.testing.assert_allclose(cost(arm_with_tip((4.0, 3.0)), 0 * u, t), np.sqrt(1e-5), rtol=1e-9)
    np.testing.assert_allclose(cost(arm_with_tip((7.0, -1.0)), u, t), 12.5 + np.sqrt(25 + 1e-5) + 18, rtol=1e-9)


@pytest.mark.parametrize("target", [(4.0, 3.0), (2.0, 3.0)])
def test_success_is_to_end_with_the_tip_at_the_target(target):
    success, u = Octopus(target=target).problem().success, jnp.zeros((100, 18))
    x = np.tile(np.asarray(START), (101, 1))
    for distance, reached in ((0.09, True), (0.11, False)):
        x[-10:] = arm_with_tip((target[0] - distance * 0.6, target[1] + distance * 0.8))
        assert success(jnp.asarray(x), u) == reached
    x[-10:] = arm_with_tip(target)
    x[-1] = arm_with_tip((target[0] - 0.2, target[1]))
    assert success(jnp.asarray(x), u)
    x[-10:-1] = START
    assert not success(jnp.asarray(x), u)


@pytest.mark.parametrize(("name", "target"), [("octopus", (4.0, 3.0)), ("octopus-hard", (2.0, 3.0))])
def test_named_tasks_are_those_of_the_paper(name, target):
    task = tasks.registry()[name].make()
    problem = task.problem()
    assert (problem.horizon, problem.dt, problem.dx, problem.du) == (100, 2.0, 50, 18)
    assert (task.target, task.action_weight) == (target, 1e-3)
    np.testing.assert_array_equal(problem.action_high, np.ones(18))
    np.testing.assert_array_equal(problem.action_low, -np.ones(18))
    np.testing.assert_allclose(problem.initial_std, 0.15)
    np.testing.assert_allclose(problem.conditions.cov[0], 1e-6 * np.eye(50))
    np.testing.assert_array_equal(tip(problem.conditions.mean[0]), [6.0, 0.0])


def test_the_picture_shows_six_chambers_with_the_tip_at_their_end():
    x = np.asarray(random_points(1)[0][0])
    strokes = TASK.draw(x)
    chambers = [stroke.points for stroke in strokes if stroke.role == "body"]
    place, _ = unpacked(x)
    assert len(chambers) == 6
    for i, points in enumerate(chambers):
        corners = np.array([place[c] for c in around(i)])
        np.testing.assert_allclose(points, np.concatenate([corners, corners[:1]]), atol=1e-12)
    np.testing.assert_allclose(strokes[-1].points, place[-1].mean(0)[None], atol=1e-12)
