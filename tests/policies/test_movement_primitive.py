"""The primitive's plan against SciPy's integrator, and how it is followed against the motions that result."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from pilotfish.policies import movement_primitive
from pilotfish.policies.episodic import EpisodicPolicy
from pilotfish.policies.movement_primitive import MovementPrimitive
from pilotfish.tasks.cartpole import CartPole
from pilotfish.tasks.multi_link import MultiLink
from pilotfish.types import Gaussian, LinearGaussian, Problem
from pilotfish.worlds.jax import JaxWorld

T, DT = 25, 0.04
SMOOTH = tuple(np.linspace(0.0, 1.0, 21).tolist())


def stroke(t):
    """Two joints that swing back, and then through a point: positions and velocities."""
    q = np.stack([0.3 - 0.5 * np.sin(3 * t) + t**3, np.cos(4 * t)], -1)
    return q, np.stack([-1.5 * np.cos(3 * t) + 3 * t**2, -4 * np.sin(4 * t)], -1)


def demonstration(given=True):
    q, v = stroke(np.asarray(SMOOTH))
    rows = {"times": SMOOTH, "path": tuple(map(tuple, q.tolist()))}
    return rows | ({"speeds": tuple(map(tuple, v.tolist()))} if given else {})


def masses(unit=1.0, **changes):
    """Two masses that are pushed, from where the stroke begins; a fifth entry of the state is a clock."""
    q, v = stroke(np.zeros(()))

    def ahead(x, u):
        a = u / unit * jnp.array([1.0, 0.5])
        return jnp.concatenate([x[:2] + DT * x[2:4] + DT**2 / 2 * a, x[2:4] + DT * a, x[4:] + DT])

    start = jnp.concatenate([q, v, jnp.zeros(1)])
    settings = {
        "horizon": T,
        "dt": DT,
        "conditions": Gaussian(start[None], jnp.zeros((1, 5, 5))),
        "initial_std": unit * jnp.ones(2),
        "cost": lambda x, u, t: (x**2).sum(),
        "dynamics": ahead,
    }
    return Problem(**settings | changes)


def primitive(**changes):
    settings = {"kp": 20.0, "kd": 5.0, "goal_std": (0.2, 0.3), "speed_std": (1.0, 2.0)} | demonstration()
    return MovementPrimitive(**settings | changes)


def moved(problem, how, w):
    """What the skill with parameters w does, without noise."""
    policy = EpisodicPolicy.first(how.skill(problem))
    mean = jnp.broadcast_to(jnp.asarray(w, float), policy.mean.shape)
    policy = EpisodicPolicy(mean, policy.chol, policy.skill).noise_free()
    return JaxWorld(problem).rollout(policy, 1, jax.random.key(0))


def integrated(joint, ends, weights, features):
    """The paper's equation in seconds, of one joint: tau^2 y'' = ... , as SciPy integrates it."""
    tau, a = T * DT, 25.0
    start, speed, goal, goal_speed = ends
    centre = np.exp(-a / 3 * np.arange(features) / (features - 1))
    distance = np.append(centre[:-1] - centre[1:], centre[-1] * (1 - centre[-1] / centre[-2]))

    def derivative(t, y):
        z = np.exp(-a / 3 * t / tau)
        psi = np.exp(-(((z - centre) / distance) ** 2))
        f = z * psi @ weights / psi.sum()
        moving = goal - goal_speed * (tau - t)
        pull = (1 - z) * a * (a / 4 * (moving - y[0]) + tau * (goal_speed - y[1]))
        return [y[1], (pull + f) / tau**2]

    at = DT * np.arange(T + 1)
    solved = integrate.solve_ivp(derivative, (0, at[-1]), [start, speed], t_eval=at, rtol=1e-10, atol=1e-12)
    return solved.y


def test_the_plan_is_what_scipy_integrates():
    """For any start, goal, velocities and weights."""
    rng, features, tau = np.random.default_rng(0), 6, T * DT
    R = movement_primitive.responses(T, features)
    for _ in range(3):
        ends, weights = rng.normal(size=4), 30 * rng.normal(size=features)
        y = R @ np.concatenate([ends * [1, tau, 1, tau], weights])
        expected = integrated(0, ends, weights, features)
        np.testing.assert_allclose(y[:, 0], expected[0], atol=1e-6)
        np.testing.assert_allclose(y[:, 1] / tau, expected[1], atol=1e-6)


def test_one_feature_will_do():
    assert np.isfinite(movement_primitive.responses(T, 1)).all()


def test_the_demonstration_is_reproduced():
    q, v = stroke(DT * np.arange(T + 1))
    for given in (True, False):
        plan = primitive(**demonstration(given)).plan(masses()).at(jnp.zeros((1, 4)))[0]
        np.testing.assert_allclose(plan[:, 0], q, atol=6e-3)
        np.testing.assert_allclose(plan[:, 1], v, atol=2e-2)
        np.testing.assert_allclose(plan[0, 0], q[0], atol=1e-9)


def test_it_arrives_where_and_as_fast_as_the_parameters_say():
    """They are changes of the goals of all joints, then of their velocities there, in standard deviations."""
    w = jnp.array([[1.0, -0.5, 0.7, -1.2]])
    plan, problem = primitive().plan(masses()), masses()
    change = (plan.at(w) - plan.at(jnp.zeros((1, 4))))[0, -1]
    np.testing.assert_allclose(change[0], [0.2, -0.15], atol=2e-3)
    np.testing.assert_allclose(change[1], [0.7, -2.4], atol=2e-2)
    before = (plan.at(w) - plan.at(jnp.zeros((1, 4))))[0, :2]
    assert np.abs(before[:, 0]).max() < 0.05  # without a jump at the start
    assert primitive(shape_std=0.1).skill(problem).J.shape == (1, T, 2, 4 + 2 * 20)
    assert primitive(goal_std=(0.2, 0.0)).skill(problem).J.shape == (1, T, 2, 3)


def test_a_weight_moves_the_path_by_as_much_as_is_said():
    how = primitive(goal_std=0.0, speed_std=0.0, shape_std=(0.1, 0.4), features=5)
    moves = np.abs(how.plan(masses()).per_parameter[:, 0]).max(0)
    np.testing.assert_allclose(moves, np.tile([[0.1, 0.0], [0.0, 0.4]], 5), atol=1e-12)


@pytest.mark.parametrize("gains", [pytest.param(0.0, marks=pytest.mark.slow), 20.0])
def test_linear_dynamics_follow_exactly(gains):
    """With inverse dynamics, with and without feedback: velocities, which actions move, are the plan's."""
    problem, how, w = masses(), primitive(kp=0.0, kd=gains), [1.0, -0.5, 0.7, -1.2]
    plan, x = how.plan(problem).at(jnp.asarray([w]))[0], moved(problem, how, w).x[0, 0]
    np.testing.assert_allclose(x[:, 2:4], plan[:, 1], atol=1e-9)
    np.testing.assert_allclose(x[:, :2], plan[:, 0], atol=2e-2)


@pytest.mark.parametrize("unit", [pytest.param(1e-6, marks=pytest.mark.slow), 1e6])
def test_the_actions_unit_does_not_matter(unit):
    w = [1.0, -0.5, 0.7, -1.2]
    for inverse in (True, False):
        plain = moved(masses(), primitive(inverse=inverse), w)
        other = moved(masses(unit), primitive(inverse=inverse, kp=20.0 * unit, kd=5.0 * unit), w)
        np.testing.assert_allclose(other.x, plain.x, atol=1e-8)


def test_plain_feedback_is_about_the_first_controllers_actions():
    """Where nothing is known of the dynamics, or where these are not to be asked."""
    k = jnp.asarray(np.random.default_rng(0).normal(size=(1, T, 2)))
    first = LinearGaussian(jnp.zeros((1, T, 2, 5)), k, jnp.ones((1, T, 2, 2)))
    known = masses(first_controller=first)
    unknown = dataclasses.replace(known, dynamics=None)
    how, w = primitive(kp=(20.0, 30.0)), jnp.array([[1.0, -0.5, 0.7, -1.2]])
    skill = how.skill(unknown)
    y = how.plan(unknown).at(w)[0]
    x = np.random.default_rng(1).normal(size=(T, 5))
    u = jnp.einsum("tij,tj->ti", skill.K[0], x) + skill.k[0] + skill.J[0] @ w[0]
    wanted = k[0] + np.array([20.0, 30.0]) * (y[:-1, 0] - x[:, :2]) + 5.0 * (y[:-1, 1] - x[:, 2:4])
    np.testing.assert_allclose(u, wanted, atol=1e-9)
    asked_not = dataclasses.replace(how, inverse=False).skill(known)
    for a, b in zip(jax.tree.leaves(asked_not), jax.tree.leaves(skill), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@pytest.mark.slow
def test_the_first_controllers_show_the_movement_where_none_is_given():
    """On two links, which are pushed as before, and then to other goals, better with inverse dynamics than without."""
    problem = MultiLink().problem()
    push = jnp.broadcast_to(jnp.array([4.0, -2.0]), (1, 100, 2)) * jnp.linspace(1, 0, 100)[:, None]
    first = problem.first_controller
    still = Gaussian(problem.conditions.mean, 0 * problem.conditions.cov)
    problem = dataclasses.replace(
        problem, conditions=still, noise_std=0.0, first_controller=LinearGaussian(first.K, push, first.chol)
    )
    shown = JaxWorld(problem).rollout(EpisodicPolicy.first(settings_of().skill(problem)).noise_free(), 1, KEY)
    assert problem.dynamics is not None
    start = problem.conditions.mean[:, None]
    one = jax.tree.map(lambda leaf: leaf[:, None], problem.first_controller)
    x = problem.dynamics.simulate(problem, start, one)[0][:, 0]
    assert np.abs(shown.x[0, 0] - x[0])[:, :2].max() < 0.1 * np.ptp(x[0, :, :2], axis=0).max()
    w, errors = [1.0, -1.0, 0.5, 0.5], []
    for inverse in (True, False):
        how = settings_of(inverse=inverse)
        plan = how.plan(problem).at(jnp.asarray([w]))[0]
        errors.append(np.abs(moved(problem, how, w).x[0, 0, :, :2] - plan[:, 0]).max())
    assert errors[0] < 0.5 * errors[1], errors
    assert errors[0] < 0.05


KEY = jax.random.key(0)


def settings_of(**changes):
    return MovementPrimitive(**{"kp": 30.0, "kd": 10.0, "goal_std": 0.2, "speed_std": 0.3, "features": 40} | changes)


@pytest.mark.slow
def test_joints_may_be_some_of_the_states_entries():
    """A cart moves to its goals, whatever its pole does."""
    problem = CartPole().problem()
    how = MovementPrimitive(kp=20.0, kd=10.0, goal_std=0.3, speed_std=0.0, positions=(0,), velocities=(2,))
    plan, x = how.plan(problem).at(jnp.ones((1, 1)))[0], moved(problem, how, [1.0]).x[0, 0]
    assert plan[-1, 0, 0] - plan[0, 0, 0] == pytest.approx(0.3, abs=0.01)
    assert np.abs(x[:, 0] - plan[:, 0, 0]).max() < 0.1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"goal_std": 0.0, "speed_std": 0.0}, "no parameter is left to search"),
        ({"kp": -1.0}, r"kp=-1.0: must be finite, and 0 or more"),
        ({"goal_std": float("nan")}, "goal_std=nan"),
        ({"kd": (1.0, 2.0, 3.0)}, r"kd=\(1.0, 2.0, 3.0\): give one number, or 2"),
        ({"features": 0}, "features=0"),
        ({"positions": (0, 9)}, r"positions=\(0, 9\): give 2 entries"),
        ({"velocities": (2,)}, r"velocities=\(2,\): give 2 entries"),
        ({"times": (0.0, 0.5, 0.4)}, "times, path and speeds have 3, 21 and 21 rows"),
        ({"times": tuple(2 * t for t in SMOOTH[:10]), "path": ((0.0,),) * 10, "speeds": ()}, "give 2 joints"),
        ({"times": tuple(0.5 * t for t in SMOOTH)}, r"times go from 0.0 s to 0.5 s: the episode lasts from 0 to 1 s"),
        ({"times": SMOOTH[::-1]}, "each later than the one before"),
    ],
)
def test_what_makes_no_primitive_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        primitive(**changes).skill(masses())


def test_a_movement_that_nobody_shows_or_nothing_drives_is_refused():
    with pytest.raises(ValueError, match="the first controllers cannot show the movement"):
        primitive(times=(), path=(), speeds=()).skill(masses(dynamics=None))
    with pytest.raises(ValueError, match="the actions do not move all joints' velocities"):
        primitive(velocities=(4, 3)).skill(masses())
