"""The Gymnasium world on an environment whose every step is known, on one that breaks, and on Gymnasium's own."""

import re
import warnings
from pathlib import Path
from typing import ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.mujoco import MujocoEnv

from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.moto import MOTO
from pilotfish.cli import learn, run
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.runs import RunWarning, evaluation, loop
from pilotfish.runs.store import Run, Spec
from pilotfish.runs.train import TrainingFailed, train
from pilotfish.tasks.gym import GymnasiumTask, entry
from pilotfish.types import LinearGaussian
from pilotfish.worlds import RolloutsFailed
from pilotfish.worlds.environment import Attribute, Observed, Simulated, begin

EXAMPLES = Path(__file__).parents[2] / "examples"
KEY = jax.random.key(0)
GOALS = [np.random.default_rng(seed).uniform(-1, 1) for seed in range(3)]


STATES = {
    "short": np.zeros(1),
    "long": np.zeros(3),
    "table": np.zeros((2, 2)),
    "words": np.array(["left", "right"]),
    "objects": np.array([0.0, None]),
    "pair": {"position": 0.0, "goal": 0.0},
}
"""What is no state of a cart."""
REWARDS = {"shape": np.zeros(2), "word": "1.0", "none": None, "complex": 1j, "unrewarded": np.nan}
"""What is no reward."""


class Cart(gymnasium.Env):
    """A cart on a line that is rewarded for being near a goal drawn at reset; its third step may cause trouble."""

    metadata: ClassVar = {"render_fps": 10, "render_modes": []}
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    trouble: str | None = None

    def __init__(self, render_mode=None, trouble=None):
        self.trouble = trouble

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self.trouble == "slips":
            self.np_random.normal()
        self.goal = np.random.default_rng(seed).uniform(-1, 1)
        self.state = np.array([0.0, self.goal])
        self.t = 0
        return self.state.astype(np.float32), {}

    def step(self, action):
        if self.trouble == "raises" and self.t == 3 and action[0] > 0:
            raise OSError("lost the connection")
        self.t += 1
        self.state = np.array([self.state[0] + 0.1 * float(action[0]), self.goal])
        reward = -((self.state[0] - self.goal) ** 2)
        if self.trouble == "slips":
            self.state[0] += self.np_random.normal()
        if self.t == 3:
            if self.trouble in ("nan", "dies"):
                self.state[0] = np.nan
            self.state = STATES.get(self.trouble, self.state)
            reward = REWARDS.get(self.trouble, reward)
        observation = self.state if self.trouble in STATES else self.state.astype(np.float32)
        return observation, reward, self.trouble in ("ends", "dies") and self.t >= 3, self.t >= 2, {}


TROUBLES = ("raises", "nan", "dies", "ends", "slips", *STATES, *REWARDS)


@pytest.fixture(scope="module", autouse=True)
def registered():
    gymnasium.register("pilotfish-test/Cart-v0", Cart, max_episode_steps=1000)
    for trouble in TROUBLES:
        gymnasium.register(f"pilotfish-test/{trouble}-v0", Cart, kwargs={"trouble": trouble})
    yield
    for name in ("Cart", *TROUBLES):
        del gymnasium.registry[f"pilotfish-test/{name}-v0"]


def cart(name="Cart", **settings):
    return GymnasiumTask(env=f"pilotfish-test/{name}-v0", **({"horizon": 6} | settings))


def policy(problem, gain=0.0, offset=0.0, std=1.0):
    shape = len(problem.conditions.mean), problem.horizon, problem.du
    return LinearGaussianPolicy(
        LinearGaussian(
            jnp.full((*shape, problem.dx), gain),
            jnp.full(shape, offset),
            jnp.broadcast_to(std * jnp.eye(problem.du), (*shape, problem.du)),
        )
    )


def test_rollouts_are_those_of_the_environment():
    world = cart(conditions=3).world()
    problem = world.problem
    assert (problem.horizon, problem.dt, problem.dx, problem.du) == (6, 0.1, 2, 1)
    np.testing.assert_allclose(problem.conditions.mean, [[0.0, goal] for goal in GOALS])
    np.testing.assert_allclose(problem.initial_std, 0.6)
    r = world.rollout(policy(problem, 0.5, std=3.0), 4, KEY)
    assert r.valid.all()
    x, u = np.asarray(r.x), np.asarray(r.u)
    np.testing.assert_allclose(x[:, :, 0, 1], np.repeat(GOALS, 4).reshape(3, 4))
    np.testing.assert_allclose(np.diff(x[..., 0]), 0.1 * np.clip(u[..., 0], -2, 2), atol=1e-7)
    np.testing.assert_allclose(u[..., 0], 0.5 * x[:, :, :-1].sum(-1) + 3.0 * np.asarray(r.episode)[..., 0])
    np.testing.assert_allclose(r.cost[..., :-1], (x[:, :, 1:, 0] - x[:, :, 1:, 1]) ** 2)
    assert not r.cost[..., -1].any()
    assert np.abs(u).max() > 2


def test_a_key_fixes_the_rollouts_whichever_came_before():
    world = cart(conditions=2, start_std=0.1).world()
    first, other, again = (world.rollout(policy(world.problem), 3, jax.random.key(i)) for i in (0, 1, 0))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.isclose(first.x[..., 1:, 0], other.x[..., 1:, 0]).any()


def test_starts_spread_where_asked_and_where_the_environment_can_be_set():
    r = (world := cart(start_std=0.1).world()).rollout(policy(world.problem), 300, KEY)
    np.testing.assert_allclose(np.asarray(r.x)[0, :, 0].std(0), 0.1, rtol=0.15)


def test_an_environment_that_raises_ends_one_rollout(recwarn):
    world = cart("raises").world()
    r = world.rollout(policy(world.problem), 40, KEY)
    ends = np.asarray(r.u)[0, :, 3, 0] > 0
    np.testing.assert_array_equal(r.valid[0], ~ends)
    assert 0 < ends.sum() < 40
    assert np.isnan(np.asarray(r.x)[0, ends, 4:]).all()
    assert np.isfinite(np.asarray(r.x)[0, ends, :4]).all()
    assert loop.outcome(world.problem, r).broken_at == 3


def test_where_all_rollouts_break_off_the_environment_is_quoted():
    world = cart("raises").world()
    told = r"all 2 rollouts broke off, .* pilotfish-test/raises-v0: step\(\) raised OSError: lost the connection"
    with pytest.raises(RolloutsFailed, match=told):
        world.rollout(policy(world.problem, offset=2.0, std=0.0), 2, KEY)


def test_a_state_that_is_gone_after_a_step_is_told_with_the_environment():
    world = cart().world()
    world.rollout(policy(world.problem), 1, KEY)
    bare = world.copies[0].unwrapped
    step = bare.step
    bare.step = lambda u: (step(u), delattr(bare, "state"))[0]
    with pytest.raises(RolloutsFailed, match=r"Cart-v0: its state cannot be had: AttributeError: .*'state'"):
        world.rollout(policy(world.problem), 1, KEY)


def test_an_action_that_the_environment_refuses_is_told_with_the_environment():
    world = cart().world()
    world.rollout(policy(world.problem), 2, KEY)
    for copy in world.copies:
        copy.unwrapped.step = lambda u: {}["valve"]
    with pytest.raises(RolloutsFailed, match=r"all 2 .*Cart-v0: step\(\) raised KeyError: 'valve'"):
        world.rollout(policy(world.problem), 2, KEY)


def test_an_error_without_words_is_told_by_its_place_and_a_reward_of_many_parts_with_the_remedy():
    world = cart().world()
    world.rollout(policy(world.problem), 1, KEY)
    bare = world.copies[0].unwrapped

    def asserts(u):
        raise AssertionError

    bare.step = asserts
    with pytest.raises(
        RolloutsFailed, match=r"raised AssertionError: raise AssertionError \(line \d+ of .*test_gym\.py\)"
    ):
        world.rollout(policy(world.problem), 1, KEY)
    bare.step = lambda u: (np.zeros(4), np.ones(3), False, False, {})
    with pytest.raises(RolloutsFailed, match=r"the reward has the shape \(3,\); .* Weigh its parts in a wrapper"):
        world.rollout(policy(world.problem), 1, KEY)


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("short", "the state has the shape (1,); it must have the shape (2,)"),
        ("long", "the state has the shape (3,); it must have the shape (2,)"),
        ("table", "the state has the shape (4,); it must have the shape (2,)"),
        ("words", "the state is array(['left', 'right'], dtype='<U5'); it must be made of numbers"),
        ("objects", "the state is array([0.0, None], dtype=object); it must be made of numbers"),
        ("pair", "the state is {'position': 0.0, 'goal': 0.0}; it must be made of numbers"),
        ("shape", "the reward has the shape (2,); it must be one number"),
        ("word", "the reward is '1.0'; it must be made of numbers"),
        ("none", "the reward is None; it must be made of numbers"),
        ("complex", "the reward is 1j; it must be made of numbers"),
    ],
)
def test_states_and_rewards_that_do_not_fit_break_a_rollout_off_and_are_told(trouble, message):
    world = cart(trouble).world()
    told = f"all 2 rollouts broke off, the last of them by ValueError: pilotfish-test/{trouble}-v0: {message}."
    with pytest.raises(RuntimeError, match=re.escape(told)):
        world.rollout(policy(world.problem), 2, KEY)


@pytest.mark.parametrize("trouble", ["short", "dies"])
def test_what_breaks_off_is_one_rollout_and_no_other(trouble, recwarn):
    world = cart().world()
    policies = policy(world.problem)
    sound = world.rollout(policies, 3, KEY)
    world.copies[1].unwrapped.trouble = trouble
    r = world.rollout(policies, 3, KEY)
    np.testing.assert_array_equal(r.valid, [[True, False, True]])
    np.testing.assert_array_equal(r.x[0, ::2], sound.x[0, ::2])
    np.testing.assert_array_equal(r.x[0, 1, :3], sound.x[0, 1, :3])
    assert np.isnan(r.x[0, 1, 4:]).all()
    assert np.isnan(r.cost[0, 1, 3:]).all()
    assert not [w for w in recwarn if "terminated" in str(w.message)]


def test_a_reset_to_another_state_than_the_problems_is_told():
    world = cart().world()
    world.rollout(policy(world.problem), 1, KEY)
    world.copies[0].unwrapped.reset = lambda **_: setattr(world.copies[0].unwrapped, "state", np.zeros(3)) or (0, {})
    with pytest.raises(RolloutsFailed, match=r"Cart-v0: the state has the shape \(3,\); it must have the shape \(2,\)"):
        world.rollout(policy(world.problem), 1, KEY)


def test_a_reset_that_raises_costs_one_rollout_and_where_all_do_is_told():
    world = cart().world()
    sound = world.rollout(policy(world.problem), 3, KEY)
    world.copies[1].unwrapped.reset = lambda **_: 1 / 0
    r = world.rollout(policy(world.problem), 3, KEY)
    np.testing.assert_array_equal(r.steps, [[6, 0, 6]])
    np.testing.assert_array_equal(r.x[0, ::2], sound.x[0, ::2])
    world.copies[0].unwrapped.reset = world.copies[2].unwrapped.reset = lambda **_: None
    with pytest.raises(RolloutsFailed, match=r"none of 3 rollouts could begin: .*Cart-v0: reset\(\) returned None"):
        world.rollout(policy(world.problem), 3, KEY)


def test_actions_that_are_not_finite_end_a_rollout_before_the_environment_has_them():
    world = cart(conditions=2).world()
    bad = policy(world.problem)
    k = bad.controller.k.at[1, 4].set(np.nan)
    bad = LinearGaussianPolicy(LinearGaussian(bad.controller.K, k, bad.controller.chol))
    r = world.rollout(bad, 2, KEY)
    np.testing.assert_array_equal(r.valid, [[True, True], [False, False]])
    assert [copy.unwrapped.t for copy in world.copies] == [6, 6, 4, 4]


def test_what_was_learned_before_an_environment_breaks_is_kept(tmp_path):
    """And the run goes on where it stopped once the environment works again."""
    world, settings = cart(start_std=0.05).world(), {"rollouts": 10, "iterations": 4}
    whole = train(LQRGPS(), world, **settings)

    def trouble(kind):
        for copy in world.copies:
            copy.unwrapped.trouble = kind

    def breaks(turn):
        if turn.i == 1:
            trouble("long")

    stored = Run.create(tmp_path / "run", Spec({}, {}, **settings, seeds=[0], checkpoint_every=100))
    with pytest.raises(TrainingFailed, match="stopped in iteration 2: all 10 rollouts broke off"):
        train(LQRGPS(), world, run=stored, callbacks=[breaks], **settings)
    assert len(stored.metrics()["cost"][0]) == 2
    trouble(None)
    resumed = train(LQRGPS(), world, run=stored, **settings)
    jax.tree.map(np.testing.assert_array_equal, resumed.states, whole.states)


@pytest.mark.parametrize("horizon", [3, 6])
@pytest.mark.parametrize("trouble", ["nan", "unrewarded", "dies"])
def test_what_is_not_finite_ends_a_rollout(trouble, horizon, recwarn):
    """Also in the last step, and also where the environment calls that a termination."""
    world = cart(trouble, horizon=horizon).world()
    r = world.rollout(policy(world.problem), 2, KEY)
    assert not r.valid.any()
    assert np.isfinite(np.asarray(r.x)[:, :, :3]).all()
    assert np.isnan(np.asarray(r.x)[:, :, 4:]).all()
    assert np.isnan(np.asarray(r.cost)[:, :, 3:]).all()
    assert all(copy.unwrapped.t == 3 for copy in world.copies)
    assert not [w for w in recwarn if "terminated" in str(w.message)]


def test_what_is_drawn_after_the_reset_is_another_in_every_rollout():
    world = cart("slips", conditions=2).world()
    first, again, other = (world.rollout(policy(world.problem, std=0.0), 20, jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(first.x, again.x)
    slips = np.diff(first.x[..., 0])
    assert len(np.unique(slips)) == slips.size == 2 * 20 * 6
    np.testing.assert_allclose(slips.std(), 1.0, rtol=0.15)
    assert not np.isclose(slips, np.diff(other.x[..., 0])).any()
    fewer = world.rollout(policy(world.problem, std=0.0), 5, jax.random.key(0))
    np.testing.assert_array_equal(fewer.x[0], first.x[0, :5])


# -- environments that terminate


def test_a_terminal_state_stays_at_no_cost():
    """The environment is not stepped on; what the policy asks for there is recorded."""
    world = cart("ends", conditions=2).world()
    with pytest.warns(
        UserWarning, match=r"ends-v0 terminated an episode after 3 of 6 steps\. The horizon is fixed: the"
    ):
        r = world.rollout(policy(world.problem, gain=0.3), 3, KEY)
    x, cost = np.asarray(r.x), np.asarray(r.cost)
    assert r.valid.all()
    assert all(copy.unwrapped.t == 3 for copy in world.copies)
    np.testing.assert_array_equal(x[:, :, 4:], np.repeat(x[:, :, 3:4], 3, 2))
    np.testing.assert_allclose(cost[..., :3], (x[:, :, 1:4, 0] - x[:, :, 1:4, 1]) ** 2)
    assert (cost[..., 2] > 0).all()
    assert not cost[..., 3:].any()
    np.testing.assert_allclose(r.u[..., 0], 0.3 * x[:, :, :-1].sum(-1) + np.asarray(r.episode)[..., 0])


def test_termination_is_told_once_where_it_matters():
    world = cart("ends", horizon=3).world()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert world.rollout(policy(world.problem), 2, KEY).valid.all()  # in the last step
        cart().world().rollout(policy(cart().problem()), 2, KEY)  # truncation
    world = cart("ends").world()
    for times in (1, 0):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            world.rollout(policy(world.problem), 2, KEY)
        assert len([w for w in heard if "terminated" in str(w.message)]) == times


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm",
    [LQRGPS(kl_step=0.5), MOTO(entropy_drop=0.3, kl_step=0.3)],
)
def test_algorithms_learn_from_rewards_alone(algorithm):
    """Each condition its own goal: the optimum goes there in the first steps."""
    world = cart(conditions=2, start_std=0.05).world()
    result = train(algorithm, world, rollouts=30, iterations=12)
    cost = result.metrics["cost"][0]
    r = world.rollout(result.policy, 1, KEY)
    np.testing.assert_allclose(r.x[:, 0, -1, 0], GOALS[:2], atol=0.12)
    assert cost[-1] < 0.75 * cost[0]


# -- Gymnasium's own


@pytest.mark.filterwarnings("ignore:InvertedPendulum-v5 terminated")
@pytest.mark.parametrize(
    ("env", "dx", "du"),
    [
        pytest.param("HalfCheetah-v5", 18, 6, marks=pytest.mark.slow),
        ("Hopper-v5", 12, 3),
        ("InvertedPendulum-v5", 4, 1),
        ("MountainCarContinuous-v0", 2, 1),
        ("Pendulum-v1", 2, 1),
        pytest.param("Pusher-v5", 22, 7, marks=pytest.mark.slow),
        ("Reacher-v5", 8, 2),
        pytest.param("Swimmer-v5", 10, 2, marks=pytest.mark.slow),
        pytest.param("Walker2d-v5", 18, 6, marks=pytest.mark.slow),
    ],
)
def test_environments_have_whole_states_and_are_repeatable(env, dx, du):
    """From the state in the middle of a rollout, and the action there, follow the next state and the cost."""
    task = GymnasiumTask(env=env, horizon=20)
    world = task.world()
    problem = world.problem
    assert (problem.dx, problem.du) == (dx, du)
    first = LinearGaussianPolicy(problem.first_controller)
    r, again = (world.rollout(first, 2, KEY) for _ in range(2))
    assert r.valid.all()
    jax.tree.map(np.testing.assert_array_equal, r, again)
    assert not np.isclose(r.x[0, 0, 1:], r.x[0, 1, 1:]).all(1).any()
    copy = task.make()
    begin(copy, world.access, 0, np.asarray(r.x[0, 1, 2]))
    reward = copy.step(np.clip(np.asarray(r.u[0, 1, 2]), *bounds(problem)).astype(np.float32))[1]
    bare = copy.unwrapped
    after = bare.state if hasattr(bare, "state") else np.concatenate([bare.data.qpos, bare.data.qvel])
    np.testing.assert_allclose(after, r.x[0, 1, 3], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(-reward, r.cost[0, 1, 2], rtol=1e-3, atol=1e-3)


def test_the_reward_of_a_goal_is_had_once():
    """100 for the hill that the car of MountainCarContinuous-v0 comes up, less .1 u^2 for each step until then."""
    world = GymnasiumTask(env="MountainCarContinuous-v0", horizon=200).world()
    problem = world.problem
    swing = jnp.zeros((1, 200, 1, 2)).at[..., 1].set(1e3)  # push where it moves to
    with pytest.warns(UserWarning, match="MountainCarContinuous-v0 terminated an episode after"):
        r = world.rollout(
            LinearGaussianPolicy(LinearGaussian(swing, jnp.ones((1, 200, 1)), jnp.zeros((1, 200, 1, 1)))), 1, KEY
        )
    x, cost, u = np.asarray(r.x[0, 0]), np.asarray(r.cost[0, 0]), np.clip(r.u[0, 0, :, 0], -1, 1)
    there = np.argmax(x[:, 0] >= 0.45)
    assert 0 < there < 150
    np.testing.assert_allclose(cost.sum(), 0.1 * (u[:there] ** 2).sum() - 100, rtol=1e-6)
    np.testing.assert_array_equal(x[there:], np.broadcast_to(x[there], (201 - there, 2)))
    assert problem.horizon == 200


def test_a_simulation_that_diverges_ends_its_rollout(tmp_path, monkeypatch):
    """MuJoCo would set it back to its start. It leaves no trace."""
    monkeypatch.chdir(tmp_path)
    world = GymnasiumTask(env="HalfCheetah-v5", horizon=5, start_std=1e10).world()
    with pytest.raises(RuntimeError, match="HalfCheetah-v5: the simulation diverged, and MuJoCo reset it"):
        world.rollout(policy(world.problem), 2, KEY)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("env", "dx", "du", "horizon"), [("Reacher-v5", 8, 2, 50), ("Pendulum-v1", 2, 1, 200)])
def test_the_full_state_is_that_of_the_simulation(env, dx, du, horizon):
    task = entry(f"gym:{env}").make()
    world = GymnasiumTask(env=env, horizon=10).world()
    assert task.steps == horizon
    problem = world.problem
    assert (problem.dx, problem.du) == (dx, du)
    r = world.rollout(policy(problem, std=0.5), 2, KEY)
    assert r.valid.all()
    by_hand = gymnasium.make(env)
    by_hand.reset(seed=0)
    rewards = [by_hand.step(np.clip(np.asarray(u), *bounds(problem)).astype(np.float32))[1] for u in r.u[0, 1]]
    np.testing.assert_allclose(r.cost[0, 1, :-1], -np.array(rewards, float), rtol=1e-6)


def bounds(problem):
    return np.asarray(problem.action_low), np.asarray(problem.action_high)


def test_a_walker_that_falls_goes_on():
    world = GymnasiumTask(env="Walker2d-v5", horizon=150).world()
    r = world.rollout(policy(world.problem, std=2.0), 1, KEY)
    assert r.valid.all()
    assert r.x[0, 0, :, 1].min() < 0.7


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: entry("gym:Reecher-v5"), "gym:Reecher-v5.*Reacher"),
        (lambda: entry("gym:no_such_module:Reacher-v5"), "gym:no_such_module:Reacher-v5: No module named"),
        (
            lambda: GymnasiumTask(env="CartPole-v1").problem(),
            r"CartPole-v1 has the actions Discrete\(2\).*only continuous",
        ),
        (lambda: GymnasiumTask(conditions=0), "conditions=0: must be 1 or more"),
        (lambda: GymnasiumTask(start_std=-1.0), "start_std=-1.0: must be 0 or more"),
    ],
)
def test_what_cannot_be_learned_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoSuch-v0", "pilotfish: gym:NoSuch-v0: .*`NoSuch` doesn't exist.*"),
        ("CartPole-v1", r"pilotfish: CartPole-v1 has the actions Discrete\(2\): only continuous ones .*"),
    ],
)
def test_the_command_line_says_in_one_line_what_cannot_be_learned(name, message, tmp_path, capsys):
    assert run(["train", f"gym:{name}", "--out", str(tmp_path / "run")]) == 2
    assert re.fullmatch(message, capsys.readouterr().err.strip())
    assert not (tmp_path / "run").exists()


def test_a_name_may_have_the_module_that_registers_it(tmp_path, monkeypatch):
    (tmp_path / "carts_of_another.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('carts/Pendulum-v0', 'gymnasium.envs.classic_control:PendulumEnv', max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    task = entry("gym:carts_of_another:carts/Pendulum-v0").make()
    assert task.steps == 7
    assert task.problem().dx == 2
    del gymnasium.registry["carts/Pendulum-v0"]


# -- what people's environments look like

BOX = gymnasium.spaces.Box


class Mass(gymnasium.Env):
    """A mass on a line, x'' = u, rewarded at 0; what it says of itself differs by its `kind`."""

    metadata: ClassVar = {"render_modes": []}
    action_space = BOX(-1.0, 1.0, (1,), np.float64)

    def __init__(self, kind="bare", size=2):
        if kind == "raises":
            raise OSError("no licence\nfound")
        self.kind = kind
        whole, part = BOX(-9.0, 9.0, (2,), np.float64), BOX(-9.0, 9.0, (1,), np.float64)
        self.observation_space = {
            "dict": gymnasium.spaces.Dict({"v": part, "q": part, "side": gymnasium.spaces.Discrete(2)}),
            "tuple": gymnasium.spaces.Tuple((part, part)),
            "image": BOX(0, 255, (size, 64, 3), np.uint8),
            "words": gymnasium.spaces.Sequence(part),
        }.get(kind, whole)
        self.action_space = {
            "half": BOX(np.array([-1.0, 0.0, -np.inf]), np.array([1.0, np.inf, np.inf]), dtype=np.float64),
            "huge": BOX(-np.finfo(np.float32).max, np.finfo(np.float32).max, (1,), np.float32),
        }.get(kind, self.action_space)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.q, self.v, self.past = self.np_random.normal(), 0.0, [0.0, 0.0]
        self.told()
        return self.observed(), {}

    def step(self, action):
        if self.kind in ("state", "read-only state"):
            self.q, self.v = self.state
        self.past.append(float(action[0]))
        self.v += 0.1 * self.past.pop(0 if self.kind == "delayed" else -1) + (
            0.01 * self.np_random.normal() if self.kind == "state" else 0.0
        )
        self.q += 0.1 * self.v
        self.told()
        return self.observed(), -(self.q**2), False, False, {}

    def told(self):
        if self.kind in ("state", "delayed", "half of it"):
            self.state = np.array([self.q, self.v][: 1 if self.kind == "half of it" else 2])
        elif self.kind == "stale":
            self.state = np.zeros(5)
        elif self.kind == "name":
            self.state = "RUNNING"

    def observed(self):
        return {
            "dict": {"q": np.array([self.q]), "v": np.array([self.v]), "side": int(self.q > 0)},
            "tuple": (np.array([self.q]), np.array([self.v])),
        }.get(self.kind, np.array([self.q, self.v]))


@pytest.fixture
def mass():
    """`mass(kind, **fields)`: the task of such an environment."""
    gymnasium.register("pilotfish-test/Mass-v0", Mass)
    yield lambda kind, **fields: GymnasiumTask(
        **{"env": "pilotfish-test/Mass-v0", "horizon": 4, "kwargs": {"kind": kind}} | fields
    )
    del gymnasium.registry["pilotfish-test/Mass-v0"]


@pytest.mark.parametrize(
    ("kind", "reads", "dx"),
    [
        ("bare", Observed, 2),
        ("state", Attribute, 2),  # also with noise
        ("delayed", Observed, 2),  # what was asked before is no part of it
        ("half of it", Observed, 2),
        ("stale", Observed, 2),
        ("name", Observed, 2),
        ("dict", Observed, 4),
        ("tuple", Observed, 2),
    ],
)
def test_an_attribute_state_counts_only_where_it_is_the_state(mass, kind, reads, dx):
    world = mass(kind).world()
    assert type(world.access) is reads
    assert world.problem.dx == dx
    r = world.rollout(policy(world.problem), 2, KEY)
    assert r.valid.all()
    by_hand = gymnasium.make("pilotfish-test/Mass-v0", kind=kind)
    by_hand.reset(seed=0)
    bare = by_hand.unwrapped
    entries = {"dict": [bare.q, float(bare.q <= 0), float(bare.q > 0), bare.v]}.get(kind, [bare.q, bare.v])
    np.testing.assert_allclose(r.x[0, 0, 0], entries)


@pytest.mark.parametrize(
    ("env", "reads"),
    [
        ("Pendulum-v1", Attribute),
        ("MountainCarContinuous-v0", Attribute),
        ("Reacher-v5", Simulated),
        ("pilotfish/lq-v0", Attribute),
    ],
)
def test_states_of_known_environments_are_found(env, reads):
    assert type(GymnasiumTask(env=env).world().access) is reads


def test_limits_of_actions_are_taken_entry_by_entry(mass):
    problem = mass("half", initial_std=0.5).problem()
    np.testing.assert_array_equal(problem.action_low, [-1, 0, -np.inf])
    np.testing.assert_array_equal(problem.action_high, [1, np.inf, np.inf])
    np.testing.assert_array_equal(problem.initial_std, [0.5, 0.5, 0.5])
    huge = mass("huge").problem()
    assert np.isinf(huge.action_low).all()
    np.testing.assert_array_equal(huge.initial_std, [0.3])


def doubled(env):
    return gymnasium.wrappers.TransformAction(env, lambda u: 2 * u, env.action_space)


def test_environments_have_arguments_and_wrappers(mass, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(learn, "draw", lambda *_: None)
    plain, wrapped = mass("state"), mass("state", wrappers=(f"{__name__}:doubled",))
    one, two = (task.world().rollout(policy(plain.problem(), std=0.01), 1, KEY) for task in (plain, wrapped))
    noise = one.x[0, 0, 1, 1] - 0.1 * one.u[0, 0, 0, 0]
    np.testing.assert_allclose(two.x[0, 0, 1, 1] - noise, 0.2 * two.u[0, 0, 0, 0], rtol=1e-9)
    command = ["train", "gym:pilotfish-test/Mass-v0", "--task.kwargs", '{"kind": "dict"}', "--task.horizon", "3"]
    command += ["--task.wrappers", f"{__name__}:doubled", "--algorithm", "lqr-gps", "--rollouts", "8"]
    assert run([*command, "--iterations", "1", "--no-film", "--out", str(tmp_path / "run")]) == 0
    task = Run.open(tmp_path / "run").spec.task["options"]
    assert (task["kwargs"], task["wrappers"]) == ('{"kind": "dict"}', [f"{__name__}:doubled"])


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("raises", {}, r"^pilotfish-test/Mass-v0: .* raised OSError: no licence found\. Arguments .*--task\.kwargs"),
        ("image", {}, r"12288 entries \(64 x 64 x 3\).*1000 at most.*--task\.wrappers"),
        ("words", {}, r"Mass-v0 has the observations Sequence.*no vector of numbers"),
        ("bare", {"start_std": 0.1}, r"start_std=0\.1: .*Mass-v0 has no state that can be set"),
        ("bare", {"kwargs": '{"colour": 1}'}, r"Mass-v0: .*TypeError: .*unexpected keyword argument 'colour'"),
        ("bare", {"kwargs": "{kind"}, r"kwargs='\{kind' is no JSON"),
        ("bare", {"kwargs": "[1]"}, r"kwargs='\[1\]' is no JSON object"),
        ("bare", {"wrappers": ("no_module:f",)}, r"wrappers: no_module:f: No module named"),
        ("bare", {"wrappers": ("json:f",)}, r"wrappers: json:f: module 'json' has no attribute 'f'"),
        ("bare", {"wrappers": ("json",)}, r"wrappers: 'json' is no function"),
        ("bare", {"wrappers": ("json:dumps",)}, r"wrapped by json:dumps: TypeError"),
    ],
)
def test_what_is_wrong_with_an_environment_is_said_in_one_line(mass, kind, fields, message):
    with pytest.raises(ValueError, match=message) as error:
        mass(kind, **({"kwargs": {"kind": kind, **({"size": 64} if kind == "image" else {})}} | fields)).problem()
    assert "\n" not in str(error.value)


FUNCTIONS = """
import jax.numpy as jnp

def observe(x):
    return x[..., :1] - x[..., 1:]

def success(x, u):
    return jnp.abs(observe(x[-1]))[0] < 0.5

def distance(x, u):
    return jnp.abs(observe(x[-1]))[0]
"""


def test_a_file_says_what_is_observed_and_what_success_is(tmp_path, monkeypatch):
    (tmp_path / "goal.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    task = cart(functions="goal.py", conditions=3)
    assert task.files == [str(tmp_path / "goal.py")]
    world = task.world()
    assert (world.problem.dx, world.problem.do) == (2, 1)
    r = world.rollout(policy(world.problem), 4, KEY)
    apart = np.asarray(r.x[..., 0] - r.x[..., 1])
    np.testing.assert_array_equal(r.o[..., 0], apart)
    assert loop.outcome(world.problem, r).success == (np.abs(apart[..., -1]) < 0.5).mean()
    assert cart().files == []
    run = Run.create(
        "run",
        Spec.of((f"gym:{task.env}", task), ("moto", MOTO()), rollouts=5, iterations=1, seeds=[0], checkpoint_every=1),
    )
    assert list(run.spec.files) == [str(tmp_path / "goal.py")]
    assert (tmp_path / "run" / "files" / "goal.py").read_text() == FUNCTIONS
    (tmp_path / "goal.py").unlink()
    with pytest.warns(RunWarning, match="the copy in run is used"):
        again = Run.open("run").assemble()[0].problem()
    assert (again.do, again.success(jnp.zeros((7, 2)), jnp.zeros((6, 1)))) == (1, True)


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("", r"goal\.py defines no function observe\(x\) or success\(x, u\) or distance\(x, u\) or cost\(x, u, t\)"),
        ("def cost(x, u, t): return x", r"goal\.py: cost\(x, u, t\) returns an array of shape \(2,\)"),
        ("def final_cost(x): return x[0]", r"goal\.py: final_cost without cost"),
        ("def observe(x): return x[0]", r"goal\.py: observe\(x\) returns an array of shape \(\).*a vector"),
        ("def success(x, u): return x[-1, 0]", r"goal\.py: success\(x, u\) returns float.*true or false"),
        ("def distance(x, u): return 1", r"goal\.py: distance\(x, u\) returns int.*a float"),
        ("def success(x, u):\n    return bool(x[-1, 0] > 0)", r"goal\.py, line 2: JAX knows no numbers here"),
        ("import no_such_module", r"goal\.py, line 1: ModuleNotFoundError"),
    ],
)
def test_what_is_wrong_with_functions_is_said_in_one_line(tmp_path, python, message):
    (tmp_path / "goal.py").write_text(python)
    with pytest.raises(ValueError, match=message) as error:
        cart(functions=tmp_path / "goal.py").problem()
    assert "\n" not in str(error.value)


def test_what_the_reacher_is_told_of_is_what_the_simulation_measures():
    task = GymnasiumTask("Reacher-v5", functions=EXAMPLES / "reacher" / "functions.py")
    world = task.world()
    r = world.rollout(policy(world.problem, std=1.0), 1, KEY)
    env = task.make()
    for x, o in zip(np.asarray(r.x[0, 0]), np.asarray(r.o[0, 0]), strict=True):
        begin(env, world.access, 0, x)
        finger, goal, elbow = (env.unwrapped.get_body_com(name)[:2] for name in ("fingertip", "target", "body1"))
        along = (elbow - env.unwrapped.get_body_com("body0")[:2]) / 0.1
        across = np.array([-along[1], along[0]])
        np.testing.assert_allclose(o[4:], [along @ (finger - goal), across @ (finger - goal)], atol=1e-6)
        np.testing.assert_allclose(o[:4], [np.cos(x[1]), np.sin(x[1]), x[4], x[5]])


PENDULUM = """
import jax.numpy as jnp
def cost(x, u, t):
    angle = (x[0] + jnp.pi) % (2 * jnp.pi) - jnp.pi
    return angle**2 + 0.1 * x[1] ** 2 + 0.001 * u[0] ** 2
"""


def test_a_formula_of_the_reward_is_held_against_what_is_paid(tmp_path):
    (tmp_path / "paid.py").write_text(PENDULUM)
    world = GymnasiumTask("Pendulum-v1", functions=tmp_path / "paid.py").world()
    known = policy(world.problem, std=5.0)  # far beyond the limits: the environment pays for what it carries out
    r = world.rollout(known, 3, KEY)
    plain = GymnasiumTask("Pendulum-v1").world()
    np.testing.assert_array_equal(r.cost, plain.rollout(known, 3, KEY).cost)
    executed = world.problem.admissible(r.u)
    np.testing.assert_allclose(jax.vmap(jax.vmap(world.problem.costs))(r.x, executed), r.cost, rtol=1e-5, atol=1e-9)
    for wrong in ("-angle**2", "0.8 * angle**2", "jnp.nan * angle**2"):
        (tmp_path / "paid.py").write_text(PENDULUM.replace("angle**2", wrong))
        world = GymnasiumTask("Pendulum-v1", functions=tmp_path / "paid.py").world()
        with pytest.raises(RolloutsFailed, match=r"by it an episode costs .*minus the return"):
            world.rollout(known, 3, KEY)


def test_what_the_reacher_is_said_to_pay_is_what_it_pays():
    world = GymnasiumTask("Reacher-v5", functions=EXAMPLES / "reacher" / "priced.py", conditions=2).world()
    r = world.rollout(policy(world.problem, std=1.0), 3, KEY)
    told = jax.vmap(jax.vmap(world.problem.costs))(r.x, world.problem.admissible(r.u)).sum(-1)
    np.testing.assert_allclose(told, r.cost.sum(-1), rtol=1e-3)


class Puppet(MujocoEnv):
    """A muscle on a rail beside a mocap body that its steps move."""

    metadata: ClassVar = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"], "render_fps": 250}
    MODEL = """
    <mujoco>
      <worldbody>
        <body name="hand" mocap="true" pos="1 0 0"><geom size=".1" contype="0"/></body>
        <body><joint name="x" type="slide" range="-.02 .3"/><geom size=".1"/></body>
        <body pos="0 1 0"><joint type="ball"/><geom size=".1"/></body>
      </worldbody>
      <actuator><general joint="x" dyntype="filter" dynprm=".1" gainprm="30" ctrlrange="-1 1"/></actuator>
    </mujoco>
    """

    def __init__(self, path, **settings):
        super().__init__(path, 2, BOX(-np.inf, np.inf, (1,), np.float64), **settings)

    def reset_model(self):
        return self.data.qpos[:1].copy()

    def step(self, action):
        self.data.mocap_pos[0, 2] += 0.1
        self.do_simulation(action, self.frame_skip)
        return self.data.qpos[:1].copy(), -float(self.data.qpos[0]), False, False, {}


def test_all_of_a_simulation_is_in_the_state_and_starts_can_be(tmp_path):
    (tmp_path / "puppet.xml").write_text(Puppet.MODEL)
    gymnasium.register("pilotfish-test/Puppet-v0", Puppet, kwargs={"path": str(tmp_path / "puppet.xml")})
    task = GymnasiumTask(env="pilotfish-test/Puppet-v0", horizon=5, start_std=0.05)
    world = task.world()
    assert world.problem.dx == 5 + 4 + 1 + 7 == len(task.entries)
    assert task.entries[0] == "   x[0]  position of joint 'x' (m)"
    assert task.entries[10] == "  x[10]  x of the position of mocap body 'hand' (m)"
    assert task.entries[16] == "  x[16]  z of the orientation of mocap body 'hand' (quaternion)"
    r = world.rollout(policy(world.problem), 30, KEY)
    x = np.asarray(r.x)[0]
    np.testing.assert_allclose(np.linalg.norm(x[:, 0, 1:5], axis=-1), 1.0, rtol=1e-12)
    assert x[:, 0, 0].min() == -0.02
    np.testing.assert_allclose(x[:, :, 12], 0.1 * np.tile(np.arange(6), (30, 1)))
    copy = task.make()
    begin(copy, world.access, 0, x[3, 2])
    copy.step(np.clip(np.asarray(r.u[0, 3, 2]), -1, 1).astype(np.float32))
    np.testing.assert_allclose(world.access.read(copy, None), x[3, 3], rtol=1e-6, atol=1e-9)
    del gymnasium.registry["pilotfish-test/Puppet-v0"]


def judged(folder, name):
    task, sizes = cart(name, conditions=2), {"rollouts": 12, "iterations": 1, "seeds": [3]}
    run = Run.create(folder, Spec.of((f"gym:{task.env}", task), ("lqr-gps", LQRGPS()), **sizes, checkpoint_every=1))
    train(LQRGPS(), task.world(), **sizes, run=run)
    return evaluation.judge(run, evaluation.trained(run), 30)


@pytest.mark.slow
def test_what_was_learned_is_judged_from_fresh_resets_as_well(tmp_path):
    found = judged(tmp_path / "run", "Cart")
    assert found.rollouts.x.shape[:3] == (1, 2, 1)  # thirty episodes of either would be the same
    assert "from 2 distinct start(s)" in found.summary["noise-free episodes"]
    x = np.asarray(found.fresh.rollouts.x)
    goals = [np.random.default_rng(1_000_000 + i).uniform(-1, 1) for i in range(20)]
    np.testing.assert_allclose(x[0, :, 0, 0, 1], goals)
    np.testing.assert_allclose(found.fresh.cost, ((x[..., 1:, 0] - x[..., 1:, 1]) ** 2).sum(-1).mean())
    said = found.summary["mean cost of an episode, from 20 fresh starts"]
    assert said.startswith(f"{found.fresh.cost[0]:.5g} (")
    nothing = found.summary["the same doing nothing, from 20 fresh starts"]
    assert float(nothing) == pytest.approx(6 * np.mean(np.square(goals)), rel=1e-4)
    assert found.as_json()["fresh"]["cost"] == found.fresh.cost.tolist()


@pytest.mark.slow
def test_what_is_random_is_judged_by_all_episodes(tmp_path):
    assert judged(tmp_path / "run", "slips").rollouts.x.shape[:3] == (1, 2, 30)
