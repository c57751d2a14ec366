"""The swing-up tasks against Lagrange's equations, published numbers, conservation laws and their definition."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from dear import mostly_slow
from scipy.integrate import solve_ivp
from tasks import euler_lagrange

from pilotfish import tasks
from pilotfish.tasks import multi_link
from pilotfish.tasks.integrate import rk4
from pilotfish.tasks.multi_link import MultiLink

QUAD = tasks.registry()["quad-link"].make()
LIMIT = 2 / 3 * np.pi


def random_points(n, count=5, seed=0):
    """States with angles all around and speeds of some rad/s, and torques."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.uniform(-np.pi, np.pi, (count, n)), 3 * rng.normal(size=(count, n))], -1)
    return jnp.asarray(x), jnp.asarray(rng.uniform(-9, 9, (count, n)))


def many(f):
    return jax.jit(jax.vmap(f))


def coast(dynamics, x0):
    """The states of 5 s from `x0`, without torque: (101, dx)."""
    zero = jnp.zeros(len(x0) // 2)
    last, x = jax.jit(lambda x: jax.lax.scan(lambda x, _: (dynamics(x, zero), x), x, None, length=100))(x0)
    return jnp.concatenate([x, last[None]])


def energies_of_a_fall(n):
    """Over 5 s, from a straight horizontal chain at rest; the unit is the energy of standing upright."""
    task = MultiLink(links=n)
    x = coast(task.dynamics, jnp.zeros(2 * n).at[0].set(np.pi / 2))
    return many(task.energy)(x) / task.energy(jnp.zeros(2 * n))


# ---- equations of motion ----


@pytest.mark.parametrize("inertia", ["toolbox", "rod"])
@pytest.mark.parametrize("n", mostly_slow(range(1, 5), always=(1, 4)))
def test_motion_is_lagrange_s(n, inertia):
    mass, length, gravity, friction = 1.0, 1.0, 9.81, 0.025
    about_centre = mass * (length**2 + 1e-4) / {"toolbox": 3, "rod": 12}[inertia]

    def centres(q):
        centre, joint, direction = [], jnp.zeros(2), 0.0
        for k in range(n):
            direction = direction + q[k]
            along = length * jnp.stack([-jnp.sin(direction), jnp.cos(direction)])
            centre.append(joint + along / 2)
            joint = joint + along
        return jnp.stack(centre)

    def lagrangian(r, v, speed):
        turning = sum(about_centre / 2 * speed[: k + 1].sum() ** 2 for k in range(n))
        return mass / 2 * (v**2).sum() + turning - mass * gravity * r[:, 1].sum()

    def expected(x, u):
        q, speed = jnp.split(x, 2)
        return euler_lagrange.acceleration(centres, lagrangian, q, speed, u - friction * speed)

    x, u = random_points(n)
    found = many(MultiLink(links=n, inertia=inertia).derivative)(x, u)
    np.testing.assert_array_equal(found[:, :n], x[:, n:])
    np.testing.assert_allclose(found[:, n:], many(expected)(x, u), rtol=1e-9, atol=1e-9)


# State, torques and accelerations computed by the environments "double_pendulum" and "quad_pendulum" of
# github.com/hanyas/trajopt, commit d5a7da3, in double precision.
PUBLISHED = [
    ([0.82, -1.38, 1.92, 0.31], [5.64, 7.43], [3.450453535506107, 7.347833456036838]),
    ([0.64, 1.38, -2.11, -3.8], [5.69, -8.95], [26.53712298340448, -42.20227150911114]),
    ([2.14, -2.8, -3.74, -2.2], [6.54, 0.75], [10.3308343115561, -1.747084682372769]),
    (
        [-1.2, -0.46, -2.83, -2.25, -2.0, 1.05, 2.71, 0.28],
        [8.95, 8.66, 3.34, 2.71],
        [-11.42814142490729, 18.04675806461677, -1.714547263660112, 2.858627518953845],
    ),
    (
        [1.13, -0.67, -2.19, 1.33, 0.64, 1.07, -1.96, -0.39],
        [7.81, -2.56, 1.29, -3.21],
        [17.51987666168103, -24.36033384107859, 15.59015702995122, -13.88737407682605],
    ),
    (
        [0.57, -0.97, -0.65, 2.34, 4.37, 5.88, 5.4, 3.95],
        [5.17, -4.69, 6.78, -7.95],
        [-92.36121449031157, 59.14475417226446, 198.181953135706, -267.2318439404141],
    ),
]


@pytest.mark.parametrize(("x", "u", "acceleration"), PUBLISHED)
def test_accelerations_are_the_published_ones(x, u, acceleration):
    found = MultiLink(links=len(u)).derivative(jnp.asarray(x), jnp.asarray(u))
    np.testing.assert_allclose(found[len(u) :], acceleration, rtol=1e-9)


# ---- energy ----


@pytest.mark.parametrize("n", [2, 4])
def test_energy_is_kept_without_friction(n, monkeypatch):
    monkeypatch.setattr(multi_link, "FRICTION", 0.0)
    energy = energies_of_a_fall(n)
    assert jnp.abs(energy - energy[0]).max() < 1e-4


@pytest.mark.parametrize("n", [2, 4])
def test_friction_takes_energy_all_the_time(n):
    assert (jnp.diff(energies_of_a_fall(n)) < 0).all()


@pytest.mark.parametrize("inertia", ["toolbox", "rod"])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_energy_grows_by_the_motors_power_less_that_of_friction(n, inertia):
    task = MultiLink(links=n, inertia=inertia)
    x, u = random_points(n)
    growth = many(lambda x, u: jax.grad(task.energy)(x) @ task.derivative(x, u))(x, u)
    speed = x[:, n:]
    np.testing.assert_allclose(growth, (u * speed - 0.025 * speed**2).sum(-1), rtol=1e-9, atol=1e-9)


# ---- integration ----


def test_halving_the_step_of_runge_kutta_divides_the_error_by_16():
    def pull(x, u):  # solution from (1, 0): x = u + (1 - u) cos t
        return jnp.stack([x[1], u[0] - x[0]])

    u = 0.3
    exact = np.array([u + (1 - u) * np.cos(1.0), -(1 - u) * np.sin(1.0)])
    found = [rk4(pull, jnp.array([1.0, 0.0]), jnp.array([u]), 1.0, substeps) for substeps in (5, 10, 20, 40)]
    error = np.array([np.linalg.norm(x - exact) for x in found])
    np.testing.assert_allclose(error[:-1] / error[1:], 16, rtol=0.1)


def test_a_step_of_four_links_is_accurate():
    derivative = jax.jit(MultiLink(links=4).derivative)
    x, u = random_points(4)
    found = many(MultiLink(links=4).dynamics)(x, u)
    for i in range(len(x)):
        true = solve_ivp(
            lambda _, y, i=i: np.asarray(derivative(jnp.asarray(y), u[i])),
            (0, 0.05),
            np.asarray(x[i]),
            "DOP853",
            rtol=1e-10,
            atol=1e-10,
        )
        np.testing.assert_allclose(found[i], true.y[:, -1], rtol=0, atol=1e-3)


# ---- cost and success ----


@pytest.mark.parametrize("name", ["double-link", "quad-link"])
def test_hanging_still_costs_its_angle_over_the_last_second(name):
    problem = tasks.registry()[name].make().problem()
    x = coast(problem.dynamics, problem.conditions.mean[0])
    cost = many(problem.cost)(x[:-1], jnp.zeros((100, problem.du)), jnp.arange(100))
    np.testing.assert_allclose(cost.sum(), 20 * 1e4 * np.pi**2, rtol=1e-9)


def test_the_state_is_penalised_from_step_80_on():
    cost = MultiLink(action_weight=0.5).cost
    x, u = jnp.array([0.1, -0.2, 3.0, 4.0]), jnp.array([2.0, -12.0])
    for t in (0, 79):
        np.testing.assert_allclose(cost(x, u, t), 0.5 * 148)
    for t in (80, 99):
        np.testing.assert_allclose(cost(x, u, t), 0.5 * 148 + 1e4 * 0.05 + 25)


def test_cost_on_clipped_counts_the_torque_executed():
    cost = MultiLink(action_weight=0.5, torque=10.0, cost_on_clipped=True).cost
    np.testing.assert_allclose(cost(jnp.zeros(4), jnp.array([2.0, -12.0]), 0), 0.5 * 104)


def test_success_is_to_hold_every_joint_upright_at_the_end():
    success = jax.jit(QUAD.problem().success)
    upright, u = np.full((101, 8), 0.24), jnp.zeros((100, 4))
    upright[:, 4:] = 5.0  # speeds do not count
    assert success(jnp.asarray(upright), u)
    for step in (91, 95, 100):
        for joint in range(4):
            for angle in (-0.26, 0.26):
                left = upright.copy()
                left[step, joint] = angle
                assert not success(jnp.asarray(left), u)
    late = upright.copy()
    late[:91, :4] = np.pi
    assert success(jnp.asarray(late), u)


# ---- joint limits ----


def test_limits_hold_against_a_wild_policy():
    problem = QUAD.problem()
    u = 10 * jax.random.normal(jax.random.key(0), (100, 200, 4))
    x0 = jnp.broadcast_to(problem.conditions.mean[0], (200, 8))
    move = jax.vmap(lambda x, u: problem.dynamics(x, problem.admissible(u)))
    x = jax.jit(lambda x0: jax.lax.scan(lambda x, u: (move(x, u), x), x0, u)[1])(x0)
    assert jnp.isfinite(x).all()
    assert LIMIT < jnp.abs(x[..., 1:4]).max() < 3.0


@pytest.mark.parametrize("joint", [1, 2, 3])
@pytest.mark.parametrize("side", [-1, 1])
def test_beyond_its_limit_a_spring_damper_replaces_the_motor(joint, side):
    free = MultiLink(links=4)
    x, u = random_points(4, 1)
    x = x[0].at[1:4].set(jnp.array([0.5, -2.0, 2.0])).at[joint].set(side * (LIMIT + 0.4))
    spring = u[0].at[joint].set(-100 * side * 0.4 - 10 * x[4 + joint])
    np.testing.assert_allclose(QUAD.derivative(x, u[0]), free.derivative(x, spring), rtol=1e-12)


def test_joint_1_and_joints_within_their_limits_are_free():
    x, u = jnp.array([4.0, 2.09, -2.09, 1.0, 1.0, 2.0, -3.0, 4.0]), jnp.array([1.0, -2.0, 3.0, -4.0])
    np.testing.assert_array_equal(QUAD.derivative(x, u), MultiLink(links=4).derivative(x, u))


# ---- arguments ----


NAMED = [
    ("double-link", 2, 10.0, None),
    ("double-link-25", 2, 25.0, None),
    ("quad-link", 4, 25.0, LIMIT),
    ("quad-link-low", 4, 15.0, LIMIT),
    ("quad-link-free", 4, 25.0, None),
]


@pytest.mark.parametrize(("name", "links", "torque", "limit"), NAMED)
def test_named_tasks_are_those_of_the_paper(name, links, torque, limit):
    task = tasks.registry()[name].make()
    problem = task.problem()
    assert (problem.horizon, problem.dt, problem.dx, problem.du) == (100, 0.05, 2 * links, links)
    np.testing.assert_array_equal(problem.action_high, np.full(links, torque))
    np.testing.assert_array_equal(problem.action_low, np.full(links, -torque))
    assert task.joint_limit == limit


@pytest.mark.parametrize(
    "wrong", [{"links": 0}, {"torque": 0.0}, {"torque": -1.0}, {"joint_limit": 0.0}, {"inertia": "sphere"}]
)
def test_nonsense_is_refused_by_name(wrong, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        MultiLink(**wrong)
