"""The critic and its advantages: sums written out, a function that it must learn, and units."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pilotfish.models.critic import Critic, NeuralValue, advantages
from pilotfish.types import Gaussian, Problem

T, M, DX = 6, 40, 2
PROBLEM = Problem(horizon=T, dt=0.1, conditions=Gaussian(jnp.zeros((1, DX)), jnp.eye(DX)[None]), initial_std=[1.0],
                  cost=None)  # fmt: skip


def test_advantages_are_the_sums_of_the_paper():
    rng = np.random.default_rng(0)
    cost, value = rng.normal(size=(3, 2, T + 1)), rng.normal(size=(3, 2, T + 1))
    steps = rng.integers(0, T + 1, size=(3, 2))
    steps[0, 0] = T
    happened = np.arange(T) < steps[..., None]
    discount, trace = 0.9, 0.7
    wanted = np.zeros((3, 2, T))
    for n, m, t in np.ndindex(3, 2, T):
        for k in range(t, steps[n, m]):
            ahead = cost[n, m, T] if k == T - 1 else value[n, m, k + 1]
            delta = cost[n, m, k] + discount * ahead - value[n, m, k]
            wanted[n, m, t] += (discount * trace) ** (k - t) * delta
    found = advantages(*map(jnp.asarray, (cost, value, happened)), discount, trace)
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_whole_traces_are_costs_to_go_less_the_value():
    rng = np.random.default_rng(1)
    cost, value = rng.normal(size=(2, 3, T + 1)), rng.normal(size=(2, 3, T + 1))
    to_go = np.cumsum(cost[..., ::-1], -1)[..., ::-1]
    found = advantages(jnp.asarray(cost), jnp.asarray(value), jnp.ones((2, 3, T), bool), 1.0, 1.0)
    np.testing.assert_allclose(found, (to_go - value)[..., :-1], atol=1e-12)


@eqx.filter_jit
def lesson(critic: Critic, x, y, happened, key) -> Critic:
    return NeuralValue(width=32, epochs=200, batch=32).taught(critic, x, y, happened, key)


def wanted(x):
    """A cost to go that depends on state and time."""
    t = np.arange(T) / T
    return (x[..., :-1, 0] * (1 - t)) ** 2 + x[..., :-1, 1]


def of_units(x_unit=1.0, x_zero=0.0, y_unit=1.0, y_zero=0.0):
    x = np.random.default_rng(0).normal(size=(1, M, T + 1, DX))
    critic = NeuralValue(width=32).begin(PROBLEM, jax.random.key(0))
    x, y = jnp.asarray(x), jnp.asarray(wanted(x))
    for i in range(2):
        critic = lesson(critic, x_unit * x + x_zero, y_unit * y + y_zero, jnp.ones(y.shape, bool), jax.random.key(i))
    return x, critic


def test_it_learns_and_an_untaught_one_says_nothing():
    fresh = NeuralValue().begin(PROBLEM, jax.random.key(0))
    assert (fresh(jnp.ones((1, 3, T + 1, DX))) == 0).all()
    x, critic = of_units()
    said, y = np.asarray(critic(x))[..., :-1], wanted(np.asarray(x))
    assert ((said - y) ** 2).mean() < 0.03 * y.var()


@pytest.mark.parametrize("x_unit", [1e-9, 1e6])
@pytest.mark.parametrize("y_unit", [1e-12, 1e12])
def test_units_do_not_matter(x_unit, y_unit):
    x, plain = of_units()
    _, critic = of_units(x_unit, 1e3 * x_unit, y_unit, 1e3 * y_unit)
    said = (critic(x_unit * x + 1e3 * x_unit) - 1e3 * y_unit) / y_unit
    np.testing.assert_allclose(said, plain(x), atol=1e-4)


def test_new_coordinates_do_not_change_what_it_says():
    """Taught with the smallest of step sizes by samples that are elsewhere."""
    x, critic = of_units()
    elsewhere = 3.0 * x + 5.0
    still = NeuralValue(width=32, epochs=1, learning_rate=1e-30)
    moved = still.taught(critic, elsewhere, 100.0 + critic(x)[..., :-1], jnp.ones((1, M, T), bool), jax.random.key(0))
    assert abs(moved.centre - critic.centre) > 50
    np.testing.assert_allclose(moved(x), critic(x), atol=1e-8)


def assert_equal(one, other):
    for a, b in zip(*(jax.tree.leaves(eqx.filter(tree, eqx.is_array)) for tree in (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_data_it_stays_and_what_did_not_happen_is_not_used():
    x, critic = of_units()
    y, some = jnp.asarray(wanted(np.asarray(x))), jnp.zeros((1, M, T), bool).at[0, :9, :4].set(True)
    assert_equal(lesson(critic, x, y, jnp.zeros_like(some), jax.random.key(0)), critic)
    one = lesson(critic, x, y, some, jax.random.key(0))
    reached = jnp.concatenate([some, some[..., :1] & False], -1)[..., None]
    other = lesson(critic, jnp.where(reached, x, 7.0), jnp.where(some, y, 1e9), some, jax.random.key(0))
    assert_equal(one, other)
