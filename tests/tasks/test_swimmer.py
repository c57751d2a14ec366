"""The swimmer against Newton's and Euler's equations, conservation laws, a gait, symmetry and its definition."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from pilotfish import tasks
from pilotfish.tasks import swimmer
from pilotfish.tasks.swimmer import Swimmer

TASK = Swimmer()
PROBLEM = TASK.problem()


def random_points(count=8):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-np.pi, np.pi, (count, 5)), 2 * rng.normal(size=(count, 5))], 1)
    return jnp.asarray(x), jnp.asarray(rng.uniform(-20, 20, (count, 2)))


def cross(a, b):
    return a[0] * b[1] - a[1] * b[0]


def spun(a):
    """k x a"""
    return np.array([-a[1], a[0]])


def links(x):
    """Of each link its centre, the centre's velocity, its forward direction and its turning rate; link by link."""
    out, centre, velocity = [], x[:2], x[5:7]
    for k in range(3):
        angle, rate = x[2 : 3 + k].sum(), x[7 : 8 + k].sum()
        e = np.array([np.cos(angle), np.sin(angle)])
        if k > 0:
            centre, velocity = centre - e / 2, velocity - rate * spun(e) / 2
        out.append((centre, velocity, e, rate))
        centre, velocity = centre - e / 2, velocity - rate * spun(e) / 2
    return out


def expected(x, u):
    """Acceleration of the head and its direction and joints: three free bodies and the forces f that join them."""
    body = links(x)
    equations, right = np.zeros((13, 13)), np.zeros(13)
    # unknowns: accelerations of the centres 0-5, angular ones 6-8, forces of link k+1 on link k 9-12
    torque = [-u[0], u[0] - u[1], u[1]]
    for k, (_, v, e, w) in enumerate(body):
        n = spun(e)
        rows = [2 * k, 2 * k + 1]
        equations[rows, rows] = 1.0  # kg
        right[rows] = -0.2 * (v @ e) * e - 20.0 * (v @ n) * n
        equations[6 + k, 6 + k] = 1.0 / 12
        right[6 + k] = torque[k] - 20.0 / 12 * w
        for joint, arm, sign in ((k, -e / 2, 1.0), (k - 1, e / 2, -1.0)):
            if 0 <= joint < 2:
                f = [9 + 2 * joint, 10 + 2 * joint]
                equations[rows, f] -= sign
                equations[6 + k, f] -= sign * spun(arm)  # arm x f = spun(arm).f
    for joint in range(2):
        rows = np.array([9 + 2 * joint, 10 + 2 * joint])
        for k, side, sign in ((joint, -0.5, 1.0), (joint + 1, 0.5, -1.0)):
            _, _, e, w = body[k]
            equations[rows, [2 * k, 2 * k + 1]] = sign
            equations[rows, 6 + k] = sign * side * spun(e)
            right[rows] += sign * side * w**2 * e
    solved = np.linalg.solve(equations, right)
    return np.concatenate([solved[:2], np.diff(solved[6:9], prepend=0.0)])


def energy(x):
    return sum(0.5 * v @ v + w**2 / 24 for _, v, _, w in links(x))


def momenta(x):
    """Linear momentum, and angular momentum about the origin."""
    body = links(x)
    return np.append(sum(v for _, v, _, _ in body), sum(cross(r, v) + w / 12 for r, v, _, w in body))


@pytest.fixture(scope="module")
def move():
    """`move(x0, A, omega, lag, kp, kd)`: 401 states under a PD controller of the joints after two sine waves."""

    @jax.jit
    def episode(x0, A, omega, lag, kp, kd):
        def step(x, t):
            wave = A * jnp.sin(omega * 0.05 * t - lag * jnp.arange(2))
            u = kp * (wave - x[3:5]) - kd * x[8:]
            return PROBLEM.dynamics(x, PROBLEM.admissible(u)), x

        last, x = jax.lax.scan(step, x0, jnp.arange(400))
        return jnp.concatenate([x, last[None]])

    return lambda *numbers: np.asarray(episode(*map(jnp.asarray, numbers)))


@pytest.fixture
def free(monkeypatch):
    """`free(x0, u)`: 101 states without drag, under the torques u (100, 2)."""
    monkeypatch.setattr(swimmer, "DRAG_ALONG", 0.0)
    monkeypatch.setattr(swimmer, "DRAG_ACROSS", 0.0)

    def episode(x0, u):
        last, x = jax.lax.scan(lambda x, u: (Swimmer().dynamics(x, u), x), x0, u)
        return jnp.concatenate([x, last[None]])

    return lambda x0, u: np.asarray(jax.jit(episode)(jnp.asarray(x0), jnp.asarray(u)))


# ---- equations of motion ----


def test_motion_is_newton_s_and_euler_s():
    x, u = random_points()
    found = jax.jit(jax.vmap(TASK.derivative))(x, u)
    np.testing.assert_array_equal(found[:, :5], x[:, 5:])
    for i in range(len(x)):
        np.testing.assert_allclose(found[i, 5:], expected(np.asarray(x[i]), np.asarray(u[i])), rtol=1e-9, atol=1e-9)


def test_without_drag_and_torque_energy_is_kept(free):
    x0 = np.array([0.0, 0.0, 0.3, 0.5, -0.7, 0.2, -0.1, 1.0, -2.0, 1.5])
    energies = np.array([energy(x) for x in free(x0, np.zeros((100, 2)))])
    assert np.abs(energies / energies[0] - 1).max() < 1e-7


def test_without_drag_torques_of_the_joints_change_no_momentum(free):
    u = 0.3 * np.random.default_rng(0).normal(size=(100, 2))
    x = free(np.array([0.0, 0.0, 0.3, 0.5, -0.7, 0.2, -0.1, 1.0, -2.0, 1.5]), u)
    assert np.ptp(x[:, 3]) > 1.0
    found = np.array([momenta(one) for one in x])
    np.testing.assert_allclose(found, np.tile(found[0], (101, 1)), atol=1e-6)


def test_mirrored_torques_mirror_the_motion():
    x, u = random_points()
    mirror = np.tile([1.0, -1.0, -1.0, -1.0, -1.0], 2)
    derivative = jax.jit(jax.vmap(TASK.derivative))
    np.testing.assert_allclose(derivative(x * mirror, -u), derivative(x, u) * mirror, rtol=1e-9, atol=1e-9)


# ---- swimming ----


def test_a_wave_down_the_body_swims_at_two_metres_a_second(move):
    x = move(np.zeros(10), 1.25, 10.2, 0.06, 65.0, 1.9)
    speed = np.linalg.norm(x[-1, :2] - x[200, :2]) / 10.0
    np.testing.assert_allclose(speed, 2.07, atol=0.05)
    assert PROBLEM.success(jnp.asarray(x), jnp.zeros((400, 2)))


def test_straight_and_at_rest_it_stays(move):
    np.testing.assert_array_equal(move(np.zeros(10), 0.0, 1.0, 0.0, 1.0, 1.0), 0.0)


def test_a_coasting_swimmer_slows_down_as_drag_along_the_links_says(move):
    x0 = np.zeros(10)
    x0[5] = 3.0
    x = move(x0, 0.0, 1.0, 0.0, 0.0, 0.0)
    np.testing.assert_allclose(x[:, 5], 3.0 * np.exp(-0.2 * 0.05 * np.arange(401)), rtol=1e-8)


# ---- cost, success, pictures and names ----


@pytest.mark.parametrize("t", [0, 399])
def test_cost_is_the_error_of_the_velocity_along_x_and_the_effort(t):
    x, u = jnp.full(10, 7.0).at[5].set(-1.0), jnp.array([3.0, 40.0])
    np.testing.assert_allclose(Swimmer(velocity=2.0, action_weight=0.5).cost(x, u, t), 4.5 + 0.25 * 1609)


@pytest.mark.parametrize(("name", "velocity"), [("swimmer", 2.0), ("swimmer-cgps", 1.0)])
def test_success_is_the_mean_velocity_of_the_last_half(name, velocity):
    problem = tasks.registry()[name].make().problem()
    T = problem.horizon
    x, u = np.zeros((T + 1, 10)), jnp.zeros((T, 2))
    for pace, kept in ((0.81, True), (0.79, False)):
        x[T // 2 + 1 :, 5] = velocity * pace * np.linspace(0.5, 1.5, T // 2)
        assert problem.success(jnp.asarray(x), u) == kept
    x[: T // 2 + 1, 5] = 100.0
    assert not problem.success(jnp.asarray(x), u)


def test_the_picture_goes_along_and_the_grid_stays_behind():
    x = np.array([35.3, -12.6, 0.4, 1.0, -1.0, 1.5, 0.3, 0.0, 0.0, 0.0])
    left, right, bottom, top = TASK.extent
    strokes = TASK.draw(x)
    for points, _, _ in strokes:
        assert ((points >= (left, bottom)) & (points <= (right, top))).all()
    chain = next(stroke.points for stroke in strokes if len(stroke.points) == 4)
    middle = np.mean([r for r, *_ in links(x)], 0)
    for k, (r, _, e, _) in enumerate(links(x)):
        np.testing.assert_allclose(chain[k : k + 2], np.array([r + e / 2, r - e / 2]) - middle, atol=1e-12)
    for axis in (0, 1):
        lines = [s.points[0, axis] for s in strokes[:8] if np.ptp(s.points[:, axis]) == 0]
        assert len(lines) == 4
        np.testing.assert_allclose(np.add(lines, middle[axis]), np.round(np.add(lines, middle[axis])), atol=1e-12)


NAMED = [("swimmer", 400, 2.0, 2e-5), ("swimmer-cgps", 200, 1.0, 1e-4)]


@pytest.mark.parametrize(("name", "horizon", "velocity", "weight"), NAMED)
def test_named_tasks_are_those_of_the_papers(name, horizon, velocity, weight):
    task = tasks.registry()[name].make()
    problem = task.problem()
    assert (problem.horizon, problem.dt, problem.dx, problem.du) == (horizon, 0.05, 10, 2)
    assert (task.velocity, task.action_weight) == (velocity, weight)
    np.testing.assert_array_equal(problem.action_high, [20.0, 20.0])
    np.testing.assert_array_equal(problem.action_low, [-20.0, -20.0])
    np.testing.assert_array_equal(problem.initial_std, [2.0, 2.0])
    np.testing.assert_array_equal(problem.conditions.mean, np.zeros((1, 10)))
    np.testing.assert_allclose(problem.conditions.cov[0], 1e-4 * np.eye(10))


@pytest.mark.parametrize("velocity", [0.0, -1.0])
def test_a_velocity_that_is_not_positive_is_refused(velocity, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production
    with pytest.raises(ValueError, match="velocity"):
        Swimmer(velocity=velocity)
