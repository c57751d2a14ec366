"""The Gymnasium world on an environment whose every step is known, on one that breaks, and on Gymnasium's own."""

from typing import ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.moto import MOTO
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.runs import loop
from pilotfish.runs.train import train
from pilotfish.tasks.gymnasium import GymnasiumTask, entry
from pilotfish.types import LinearGaussian

KEY = jax.random.key(0)
GOALS = [np.random.default_rng(seed).uniform(-1, 1) for seed in range(3)]


class Cart(gymnasium.Env):
    """A cart on a line that is rewarded for being near a goal drawn at reset; it ends at once, which nobody heeds."""

    metadata: ClassVar = {"render_fps": 10, "render_modes": []}
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
    trouble: str | None = None

    def __init__(self, render_mode=None, trouble=None):
        self.trouble = trouble

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
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
        if self.trouble == "nan" and self.t == 3:
            self.state[0] = np.nan
        if self.trouble == "shape":
            reward = np.zeros(2)
        return self.state.astype(np.float32), reward, True, False, {}


@pytest.fixture(scope="module", autouse=True)
def registered():
    gymnasium.register("pilotfish-test/Cart-v0", Cart, max_episode_steps=1000)
    for trouble in ("raises", "nan", "shape"):
        gymnasium.register(f"pilotfish-test/{trouble}-v0", Cart, kwargs={"trouble": trouble})
    yield
    for name in ("Cart", "raises", "nan", "shape"):
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
    with pytest.raises(RuntimeError, match=r"all 2 rollouts broke off; the environment raised: OSError\('lost"):
        world.rollout(policy(world.problem, offset=2.0, std=0.0), 2, KEY)
    with pytest.raises(RuntimeError, match=r"shape-v0: the reward has the shape \(2,\); it must be one number"):
        (world := cart("shape").world()).rollout(policy(world.problem), 2, KEY)


def test_states_that_are_not_finite_end_a_rollout():
    r = (world := cart("nan").world()).rollout(policy(world.problem), 2, KEY)
    assert not r.valid.any()
    assert np.isfinite(np.asarray(r.x)[:, :, :3]).all()


@pytest.mark.parametrize("algorithm", [LQRGPS(kl_step=0.5), MOTO(entropy_drop=0.3, kl_step=0.3)])
def test_algorithms_learn_from_rewards_alone(algorithm):
    """Each condition its own goal: the optimum goes there in the first steps."""
    world = cart(conditions=2, start_std=0.05).world()
    result = train(algorithm, world, rollouts=30, iterations=12)
    cost = result.metrics["cost"][0]
    r = world.rollout(result.policy, 1, KEY)
    np.testing.assert_allclose(r.x[:, 0, -1, 0], GOALS[:2], atol=0.12)
    assert cost[-1] < 0.75 * cost[0]


# -- Gymnasium's own


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
