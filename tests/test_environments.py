"""Tasks as environments of Gymnasium, against our own worlds and Gymnasium's checker."""

import copy
import pickle
import subprocess
import sys
import warnings

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from dear import mostly_slow
from gymnasium.utils.env_checker import check_env
from jaxtyping import Array

from pilotfish import tasks
from pilotfish.environments import TaskEnvironment
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.runs import loop
from pilotfish.tasks import DrawnTask, Stroke
from pilotfish.tasks.cartpole import CartPole
from pilotfish.tasks.gym import GymnasiumTask
from pilotfish.tasks.lq import NOISE_STD, START, START_STD, LinearQuadratic
from pilotfish.tasks.mujoco import MujocoTask
from pilotfish.tasks.peg import Peg
from pilotfish.tasks.walker import Walker
from pilotfish.types import Gaussian, LinearGaussian, Problem
from pilotfish.worlds.environment import access, begin
from pilotfish.worlds.jax import JaxWorld
from pilotfish.worlds.mujoco import Simulation

SPACES = "Box action space|Box observation space|Box action spaces"
"""What the checker would rather have of spaces: limits, and actions within one of zero."""
TRACES = []


class Line(DrawnTask):
    """A point on a line, started at its conditions 0, 1, 2: x' = growth x + u; a cost of weight x^2, 100 at the end."""

    growth: Array = eqx.field(converter=jnp.asarray, default=1.0)
    horizon: int = eqx.field(static=True, default=4)
    dt: float = eqx.field(static=True, default=2.0)
    weight: float = 1.0

    def problem(self):
        return Problem(
            horizon=self.horizon,
            dt=self.dt,
            conditions=Gaussian(jnp.arange(3.0)[:, None], jnp.zeros((3, 1, 1))),
            initial_std=jnp.ones(1),
            cost=self.cost,
            final_cost=lambda x: jnp.where(jnp.isfinite(x).all(), 100.0, jnp.nan),
            dynamics=self.dynamics,
            action_low=[-1.0],
            action_high=[1.0],
            success=self.arrives,
        )

    def cost(self, x, u, t):
        TRACES.append(x)
        return self.weight * (x**2).sum() + 0.1 * (u**2).sum() + t

    def dynamics(self, x, u):
        TRACES.append(x)
        return self.growth * x + u

    def arrives(self, x, u):
        """It comes to 5 by actions whose sum is at least 6."""
        return (x[-1, 0] >= 5) & (u.sum() >= 6)

    def draw(self, x):
        return [Stroke(np.zeros((1, 2)), 9.0, "body")]

    @property
    def extent(self):
        return -1.0, 1.0, -1.0, 1.0


class Slider(MujocoTask):
    """A mass on a rail, whose model has no limits."""

    limit: float = np.inf

    def simulation(self):
        body = '<body><joint type="slide" axis="1 0 0" name="x"/><geom type="sphere" size=".1" mass="2"/></body>'
        model = f'<mujoco><worldbody>{body}</worldbody><actuator><motor joint="x"/></actuator></mujoco>'
        return Simulation(mujoco.MjModel.from_xml_string(model))

    def problem(self):
        return Problem(
            horizon=20,
            dt=0.02,
            conditions=Gaussian(jnp.zeros((1, 2)), jnp.zeros((1, 2, 2))),
            initial_std=jnp.ones(1),
            cost=lambda x, u, t: 3.0 + x[0] ** 2,
            action_low=[-self.limit],
            action_high=[self.limit],
        )


class PushedWalker(Walker):
    push: float = -100.0


def still(kind):
    """A task of this kind, all of whose episodes start alike."""

    class Still(kind):
        def problem(self):
            return eqx.tree_at(lambda p: p.conditions.cov, super().problem(), replace_fn=jnp.zeros_like)

    return Still()


def episode(env, actions, seed=0):
    """Observations, rewards, ends and the last info of one episode."""
    observation, info = env.reset(seed=seed)
    observations, rewards, ends = [observation], [], []
    for u in actions:
        observation, reward, terminated, truncated, info = env.step(u)
        observations.append(observation)
        rewards.append(reward)
        ends.append((terminated, truncated))
    return np.array(observations), np.array(rewards), ends, info


# -- what Gymnasium asks for


def one_of_each_class():
    """Names of tasks; all but the first of each class are slow."""
    entries = sorted(tasks.registry().items())
    return mostly_slow(dict(entries), always={entry.source: name for name, entry in reversed(entries)}.values())


@pytest.mark.parametrize("name", one_of_each_class())
def test_gymnasium_finds_nothing_wrong(name):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        env = gymnasium.make(f"pilotfish/{name}-v0", time_in_observation=name == "lq")
        check_env(env.unwrapped, skip_render_check=True, skip_close_check=True)
    assert not [str(w.message) for w in heard if not any(kind in str(w.message) for kind in SPACES.split("|"))]


def test_names_are_known_by_import_and_tasks_are_built_when_they_are_made():
    code = """
import gc, sys
import gymnasium
gymnasium.spec("Pendulum-v1")
import pilotfish.environments
from pilotfish.tasks import Task
assert "pilotfish/octopus-hard-v0" in gymnasium.registry
assert not any(isinstance(found, Task) for found in gc.get_objects())
env = gymnasium.make("pilotfish/lq-v0")
env.reset(seed=0)
env.step(env.action_space.sample())
assert "matplotlib" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    alone = "import gymnasium; gymnasium.make('pilotfish.environments:pilotfish/lq-v0').reset()"
    subprocess.run([sys.executable, "-W", "error", "-c", alone], check=True)


def test_spaces_and_rates_are_those_of_the_problem():
    env = TaskEnvironment(CartPole())
    problem = env.problem
    assert env.observation_space.shape == (4,)
    np.testing.assert_array_equal(env.action_space.low, problem.action_low)
    np.testing.assert_array_equal(env.action_space.high, problem.action_high)
    assert env.metadata == {"render_modes": ["rgb_array"], "render_fps": 20}
    assert env.dt == 0.05
    assert TaskEnvironment(Line()).metadata["render_fps"] == 1
    unbounded = TaskEnvironment("lq").action_space
    assert unbounded.shape == (2,)
    assert not unbounded.is_bounded("below")
    assert not unbounded.is_bounded("above")
    assert TaskEnvironment("peg-blind").observation_space.shape == (14,)


# -- episodes


@pytest.mark.parametrize(
    ("kind", "condition", "std"),
    [(CartPole, 0, 20.0), pytest.param(Peg, 5, 60.0, marks=pytest.mark.slow), (PushedWalker, 0, 60.0)],
)
def test_an_episode_is_that_of_our_world(kind, condition, std):
    """With actions beyond the limits, through contacts, under forces and in another condition than the first."""
    task = still(kind)
    world, env = task.world(), TaskEnvironment(task, condition)
    problem = world.problem
    N, T, dx, du = len(problem.conditions.mean), problem.horizon, problem.dx, problem.du
    u = np.random.default_rng(0).normal(size=(T, du)) * std
    assert (u > np.asarray(problem.action_high)).any()
    zero = jnp.zeros((N, T, du, dx))
    open_loop = LinearGaussianPolicy(LinearGaussian(zero, jnp.broadcast_to(u, (N, T, du)), zero[..., :du]))
    r = jax.tree.map(lambda leaf: np.asarray(leaf[condition, 0]), world.rollout(open_loop, 1, jax.random.key(0)))
    x, rewards, ends, info = episode(env, u)
    assert r.valid
    np.testing.assert_allclose(x, r.x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(-rewards, np.append(r.cost[:-2], r.cost[-2:].sum()), rtol=1e-9)
    assert ends == [(False, False)] * (T - 1) + [(False, True)]
    success = bool(problem.success(jnp.asarray(r.x), jnp.asarray(r.u)))
    assert info == {"success": success, "is_success": success}
    with pytest.raises(gymnasium.error.ResetNeeded, match=rf"the last one took {T} steps.*reset\(\)"):
        env.step(u[0])


def test_a_simulation_executes_what_the_limits_admit():
    env = TaskEnvironment(Slider(limit=2.0))
    within, beyond = (episode(env, np.full((20, 1), u))[0] for u in (2.0, 7.0))
    np.testing.assert_array_equal(within, beyond)
    assert within[-1, 1] > 0


def test_starts_and_noise_have_the_problems_spread():
    """Of a linear system, whose noise is what its equation leaves over."""
    env, task = TaskEnvironment("lq"), LinearQuadratic()
    push = np.array([0.3, -0.2])
    x = np.array([episode(env, [push] * 20, seed=None)[0] for _ in range(150)])
    np.testing.assert_allclose(x[:, 0].mean(0), START, atol=0.04)
    np.testing.assert_allclose(x[:, 0].std(0), START_STD, rtol=0.2)
    noise = x[:, 1:] - jax.vmap(jax.vmap(lambda x: task.dynamics(x, jnp.asarray(push))))(x[:, :-1])
    np.testing.assert_allclose(noise.mean((0, 1)), 0.0, atol=1e-3)
    np.testing.assert_allclose(noise.std((0, 1)), NOISE_STD, rtol=0.05)
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.05
    np.testing.assert_allclose(np.corrcoef(noise.reshape(-1, 4).T), np.eye(4), atol=0.1)


def test_a_seed_fixes_all_episodes_that_follow():
    env, actions = TaskEnvironment("lq"), np.ones((20, 2))
    first, second = episode(env, actions, 3)[0], episode(env, actions, None)[0]
    np.testing.assert_array_equal(episode(env, actions, 3)[0], first)
    np.testing.assert_array_equal(episode(env, actions, None)[0], second)
    assert not np.isclose(first, second).any()
    assert not np.isclose(first, episode(env, actions, 4)[0]).any()


def test_conditions_are_drawn_alike_or_always_the_same():
    env = TaskEnvironment(Line())
    found = [(env.reset(seed=0 if i == 0 else None), env.state) for i in range(300)]
    assert all(observation[0] == info["condition"] == x[0] for (observation, info), x in found)
    np.testing.assert_allclose(np.bincount([int(x[0]) for _, x in found]) / 300, 1 / 3, atol=0.08)
    env = TaskEnvironment(Line(), condition=2)
    assert {env.reset()[1]["condition"] for _ in range(20)} == {2}


def test_time_is_observed_where_asked():
    env = TaskEnvironment(Line(), condition=1, time_in_observation=True)
    assert env.observation_space.shape == (2,)
    observations, *_ = episode(env, [np.zeros(1)] * 4)
    np.testing.assert_array_equal(observations, [[1.0, 0.0], [1.0, 0.25], [1.0, 0.5], [1.0, 0.75], [1.0, 1.0]])


def test_rewards_are_negative_costs_and_success_is_told_at_the_end():
    """The cost sees what is asked for; what is executed has the limit 1. Success needs states and actions."""
    env = TaskEnvironment(Line(), condition=1)
    x, rewards, _, info = episode(env, [np.full(1, 2.0)] * 4)
    np.testing.assert_array_equal(x[:, 0], [1, 2, 3, 4, 5])
    np.testing.assert_allclose(rewards, [-1.4, -5.4, -11.4, -119.4])
    assert info == {"success": True, "is_success": True}
    assert not episode(TaskEnvironment(Line(), condition=0), [np.full(1, 2.0)] * 4)[-1]["success"]  # ends at 4
    assert not episode(TaskEnvironment(Line(), condition=2), [np.full(1, 1.4)] * 4)[-1]["success"]  # asks for 5.6
    assert episode(TaskEnvironment("lq"), np.ones((20, 2)))[-1] == {}


def test_steps_do_not_recompile():
    env = TaskEnvironment(Line(horizon=30))
    env.reset(seed=0)
    env.step(np.ones(1))
    TRACES.clear()
    for seed in range(3):
        episode(env, np.ones((30, 1)), seed)
    assert not TRACES


# -- what diverges


def test_an_episode_that_diverges_is_terminated_and_saves_nothing():
    """From 1, 1e99 times as far in every step: the cost, of the square, overflows in the third."""
    env = TaskEnvironment(Line(growth=1e99, horizon=10), condition=1, time_in_observation=True)
    env.reset(seed=0)
    steps = [env.step(np.full(1, 3.0)) for _ in range(3)]
    assert [step[2:4] for step in steps] == [(False, False)] * 2 + [(True, False)]
    observation, reward, _, _, info = steps[-1]
    np.testing.assert_allclose(observation, [1e198, 0.2])
    np.testing.assert_allclose(reward, 8 * steps[1][1])
    assert info == {"diverged": True, "success": False, "is_success": False}
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1))
    assert env.reset()[0][0] == 1


def test_what_is_gained_is_not_gained_once_more_by_diverging():
    env = TaskEnvironment(Line(growth=1e99, horizon=10, weight=-1.0), condition=1)
    env.reset(seed=0)
    assert [env.step(np.zeros(1))[1] for _ in range(3)][1:] == [pytest.approx(1e198), 0.0]


def test_a_simulation_that_diverges_is_terminated_without_a_trace(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    env = TaskEnvironment(Slider())
    start, _ = env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(np.full(1, 1e12))
    assert (terminated, truncated, info) == (True, False, {"diverged": True})
    np.testing.assert_array_equal(observation, start)
    assert reward == -20 * 3.0
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""
    env.reset()
    assert not env.step(np.ones(1))[2]


# -- what is wrong


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TaskEnvironment(Line(), condition=3), "condition=3: .* numbered 0 to 2"),
        (lambda: TaskEnvironment(Line(), condition=-1), "condition=-1: .* numbered 0 to 2"),
        (lambda: gymnasium.make("pilotfish/lq-v0", condition=1), "condition=1: .* numbered 0 to 0"),
        (lambda: TaskEnvironment("pge"), "task='pge': give a Task, or one of .*peg-2d"),
        (lambda: TaskEnvironment(Line(), render_mode="human"), "render_mode='human': choose 'rgb_array'"),
        (lambda: TaskEnvironment(GymnasiumTask()), r"Reacher-v5 is .* already: gymnasium.make\('Reacher-v5'\)"),
    ],
)
def test_what_can_be_no_environment_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("action", [np.zeros(2), np.array([np.nan]), np.array([np.inf]), np.array(0.0)])
def test_actions_are_finite_numbers_of_the_right_number(action):
    env = TaskEnvironment(Line())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action=.*: give 1 finite numbers"):
        env.step(action)


def test_nothing_steps_before_a_reset():
    env = TaskEnvironment(Line())
    assert env.state is None
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(1))
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.state = np.zeros(1)
    env.reset()
    with pytest.raises(ValueError, match=r"state=.*: give 1 finite numbers"):
        env.state = np.zeros(2)


# -- pictures


def test_a_picture_shows_the_state():
    env = gymnasium.make("pilotfish/cartpole-v0", render_mode="rgb_array")
    env.reset(seed=0)
    before, again = env.render(), env.render()
    assert before.dtype == np.uint8
    assert before.shape[2] == 3
    assert before.shape[0] % 2 == before.shape[1] % 2 == 0
    np.testing.assert_array_equal(before, again)
    for _ in range(5):
        env.step(env.action_space.high)
    assert np.abs(env.render().astype(float) - before).max() > 50


def test_a_picture_of_a_simulation_shows_the_condition(renderer):
    """All arms hang alike over a hole at another place."""
    pictures = []
    for condition in (0, 8):
        env = TaskEnvironment(Peg(), condition, render_mode="rgb_array")
        env.reset(seed=0)
        pictures.append(env.render().astype(float))
        assert pictures[-1].shape == (360, 480, 3)
        assert pictures[-1].std() > 10
    assert np.abs(pictures[0] - pictures[1]).max() > 50


@pytest.fixture
def renderer():
    """Skips where this machine has no OpenGL."""
    try:
        mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).close()
    except Exception as error:
        pytest.skip(f"no OpenGL: {error}")


def test_without_a_render_mode_there_is_no_picture():
    env = TaskEnvironment(Line())
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode='rgb_array'"):
        assert env.render() is None


# -- copies


@pytest.mark.parametrize("copied", [lambda env: pickle.loads(pickle.dumps(env)), copy.deepcopy])
@pytest.mark.parametrize("name", ["lq", "peg-2d"])
def test_copies_go_on_in_the_same_episode(name, copied):
    env = gymnasium.make(f"pilotfish/{name}-v0")
    fresh = copied(env)
    env.reset(seed=0)
    u = np.full(env.action_space.shape, 0.1)
    env.step(u)
    again = copied(env)
    for _ in range(3):
        (o, reward, *_), (other, other_reward, *_) = env.step(u), again.step(u)
        np.testing.assert_allclose(other, o, rtol=1e-9)
        assert other_reward == pytest.approx(reward)
    np.testing.assert_array_equal(fresh.reset(seed=3)[0], env.reset(seed=3)[0])


def test_a_process_that_was_forked_is_refused_at_once(monkeypatch):
    """In it JAX would hang."""
    monkeypatch.setattr(TaskEnvironment, "process", -1)
    with pytest.raises(RuntimeError, match=r'vector_kwargs=\{"context": "spawn"\}'):
        TaskEnvironment("lq")


@pytest.mark.slow
def test_environments_run_in_processes_that_are_spawned():
    envs = gymnasium.make_vec("pilotfish/lq-v0", 2, "async", vector_kwargs={"context": "spawn"})
    envs.reset(seed=0)
    assert envs.step(np.zeros((2, 2)))[0].shape == (2, 4)
    envs.close()


# -- the way back


def test_a_task_comes_back_as_an_environment():
    """The same problem, but for the final cost, which an episode that is cut short does not have."""
    task = GymnasiumTask(env="pilotfish.environments:pilotfish/lq-v0", horizon=5, start_std=0.1)
    world, lq = task.world(), LinearQuadratic().problem()
    assert (world.problem.dx, world.problem.du, world.problem.dt) == (4, 2, 0.1)
    r = world.rollout(LinearGaussianPolicy(world.problem.first_controller), 10, jax.random.key(0))
    assert r.valid.all()
    x, u = r.x[0, :, :-1], r.u[0]
    np.testing.assert_allclose(r.cost[0, :, :-1], jax.vmap(jax.vmap(lambda x, u: lq.cost(x, u, 0)))(x, u), rtol=1e-6)
    np.testing.assert_allclose((r.x[0, :, 0] - r.x[0, :, 0].mean(0)).std(), 0.1, rtol=0.35)
    noise = r.x[0, :, 1:] - jax.vmap(jax.vmap(lq.dynamics))(x, u)
    np.testing.assert_allclose(noise.std((0, 1)), NOISE_STD, rtol=0.25)
    assert np.abs(np.diff(noise, axis=0)).min() > 0


def test_an_environment_goes_on_from_a_state_that_is_set():
    """Sensors and contacts of a simulation follow from it."""
    task = GymnasiumTask(env="pilotfish/peg-2d-v0", horizon=10)
    env = task.make()
    reads = access(env, 0)
    x = begin(env, reads, 0)
    x[:2] += 0.05
    there = begin(env, reads, 0, x)
    np.testing.assert_allclose(there[:2], x[:2], atol=1e-9)
    u = np.full(env.action_space.shape, 0.3)
    after = env.step(u)[0]
    begin(env, reads, 0)
    assert not np.isclose(env.step(u)[0], after).all()
    begin(env, reads, 0, x)
    np.testing.assert_array_equal(env.step(u)[0], after)


@pytest.mark.slow
def test_our_worlds_call_the_same_tasks_a_success():
    """The fraction that an evaluation tells is that of the environment's episodes."""
    task = Line(horizon=4)
    problem = task.problem()
    ask = LinearGaussian(jnp.zeros((3, 4, 1, 1)), jnp.full((3, 4, 1), 2.0), jnp.zeros((3, 4, 1, 1)))
    r = JaxWorld(problem).rollout(LinearGaussianPolicy(ask), 1, jax.random.key(0))
    told = [episode(TaskEnvironment(task, n), np.full((4, 1), 2.0))[-1]["success"] for n in range(3)]
    assert np.mean(told) == pytest.approx(float(loop.outcome(problem, r).success)) == pytest.approx(2 / 3)
