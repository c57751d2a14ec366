"""What every world must do: of equations, of MuJoCo, of an environment, of the one plant there is."""

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from oracles import point_mass

from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.types import Gaussian, LinearGaussian, Problem
from pilotfish.worlds.environment import Attribute, GymnasiumWorld
from pilotfish.worlds.host import HostWorld, PlantWorld
from pilotfish.worlds.jax import JaxWorld
from pilotfish.worlds.mujoco import MujocoWorld
from pilotfish.worlds.plant import EquationsPlant

N, M, T, DT = 2, 3, 12, 0.02
KEY = jax.random.key(5)
STARTS = np.array([[1.0, 0.0], [-0.5, 0.2]])


def push(x, u):
    """A mass of 2 kg, pushed with a gear of 3: semi-implicit Euler."""
    v = x[1] + DT * 1.5 * u[0]
    return jnp.stack([x[0] + DT * v, v])


def cost(x, u, t):
    return (x**2).sum() + 0.1 * (u**2).sum()


def problem(**changes):
    fields = {
        "horizon": T,
        "dt": DT,
        "conditions": Gaussian(jnp.asarray(STARTS), jnp.broadcast_to(1e-4 * jnp.eye(2), (N, 2, 2))),
        "initial_std": [0.5],
        "cost": cost,
        "dynamics": push,
        "action_low": -2.0,
        "action_high": 2.0,
    }
    return Problem(**fields | changes)


class Mass(gymnasium.Env):
    """The same as an environment."""

    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float64)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = np.zeros(2)
        return self.state, {}

    def step(self, action):
        reward = -float((self.state**2).sum() + 0.1 * (action**2).sum())
        v = self.state[1] + DT * 1.5 * float(action[0])
        self.state = np.array([self.state[0] + DT * v, v])
        return self.state, reward, False, False, {}


WORLDS = {
    "jax": lambda: JaxWorld(problem()),
    "mujoco": lambda: MujocoWorld(problem(), mujoco.MjModel.from_xml_string(point_mass.MJCF)),
    "gymnasium": lambda: GymnasiumWorld(problem(cost=None, dynamics=None), Mass, (0, 1), Attribute()),
    "plant": lambda: PlantWorld(problem(), EquationsPlant(problem(), 1)),
}


@pytest.fixture(scope="module", params=WORLDS)
def world(request):
    return WORLDS[request.param]()


def policy(std=0.5, k=0.3):
    K = jnp.broadcast_to(jnp.array([[-0.4, -0.1]]), (N, T, 1, 2))
    chol = jnp.full((N, T, 1, 1), std)
    return LinearGaussianPolicy(LinearGaussian(K, jnp.full((N, T, 1), k), chol))


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_shapes_and_starts(world):
    r = world.rollout(policy(), M, KEY)
    assert (r.x.shape, r.o.shape, r.u.shape) == ((N, M, T + 1, 2), (N, M, T + 1, 2), (N, M, T, 1))
    assert (r.cost.shape, r.steps.shape) == ((N, M, T + 1), (N, M))
    assert (r.steps == T).all()
    assert r.valid.all()
    np.testing.assert_allclose(r.x[:, :, 0], np.broadcast_to(STARTS[:, None], (N, M, 2)), atol=0.06)
    assert np.ptp(r.x[:, :, 0], axis=1).min() > 0


def test_the_same_key_is_the_same_rollout_and_another_is_not(world):
    one, two = (world.rollout(policy(), M, KEY) for _ in range(2))
    for a, b in zip(leaves(one), leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.x, world.rollout(policy(), M, jax.random.key(6)).x)


def test_moves_as_the_equations_say_by_the_action_within_its_bounds(world):
    r = world.rollout(policy(std=3.0), M, KEY)
    assert (np.abs(r.u) > 2.0).any()
    executed = jnp.clip(r.u, -2.0, 2.0)
    after = jax.vmap(jax.vmap(jax.vmap(push)))(r.x[:, :, :-1], executed)
    np.testing.assert_allclose(r.x[:, :, 1:], after, rtol=1e-9, atol=1e-12)


def test_costs_are_those_of_the_step(world):
    """Ours are of the action that was asked for, an environment's of the one that it executes."""
    r = world.rollout(policy(std=3.0), M, KEY)
    priced = jnp.clip(r.u, -2.0, 2.0) if isinstance(world, GymnasiumWorld) else r.u
    expected = jax.vmap(jax.vmap(jax.vmap(cost, (0, 0, None)), (0, 0, None)), (0, 0, None))(r.x[:, :, :-1], priced, 0)
    np.testing.assert_allclose(r.cost[..., :-1], expected, rtol=1e-9)
    np.testing.assert_array_equal(r.cost[..., -1], 0.0)


def test_a_rollout_that_breaks_off_leaves_its_steps_and_the_others_whole(world):
    """The second condition's policy asks for nothing at step 7."""
    bad = policy()
    k = bad.controller.k.at[1, 7].set(jnp.nan)
    r = world.rollout(LinearGaussianPolicy(LinearGaussian(bad.controller.K, k, bad.controller.chol)), M, KEY)
    np.testing.assert_array_equal(r.steps, [[T] * M, [7] * M])
    np.testing.assert_array_equal(r.valid, [[True] * M, [False] * M])
    clean = r.cleaned()
    for leaf in (clean.x, clean.u, clean.cost):
        assert np.isfinite(leaf).all()
    np.testing.assert_array_equal(clean.x[1, :, :8], r.x[1, :, :8])
    assert not clean.x[1, :, 8:].any()
    assert not clean.u[1, :, 7:].any()
    np.testing.assert_allclose(r.weight.sum(1)[0], 1.0)
    np.testing.assert_allclose(r.weight.sum(1)[1], np.arange(T + 1) < 7)


def test_its_plant_steps_as_its_rollouts_go(world):
    r = world.rollout(policy(), 1, KEY)
    for n in range(N):
        plant, random = world.plant(1), np.random.default_rng(0)
        x = plant.place(np.asarray(r.x[n, :, 0]), [n], [random])
        np.testing.assert_allclose(x[0], r.x[n, 0, 0], rtol=1e-12)
        for t in range(T):
            moved = plant.step(np.clip(np.asarray(r.u[n, :, t]), -2.0, 2.0), t, np.ones(1, bool))
            np.testing.assert_allclose(moved.x[0], r.x[n, 0, t + 1], rtol=1e-9, atol=1e-12)


def test_episodes_are_told_when_they_have_ended(world):
    if isinstance(world, HostWorld):
        told = []
        r = world.rollout(policy(), M, KEY, lambda n, m, one: told.append((n, m, np.asarray(one.x))))
        assert [at[:2] for at in told] == list(np.ndindex(N, M))
        for n, m, x in told:
            np.testing.assert_array_equal(x, r.x[n, m])
