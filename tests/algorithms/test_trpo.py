"""TRPO: its bound, its gradient and its units, in all of its forms."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from dear import mostly_slow
from jaxtyping import Array

from pilotfish.algorithms.trpo import TRPO
from pilotfish.models.critic import NeuralValue
from pilotfish.policies import over_conditions
from pilotfish.policies.network import Network
from pilotfish.types import Gaussian, LinearGaussian, Problem
from pilotfish.worlds.jax import JaxWorld

T, DX, DU, N, EPISODES = 5, 2, 2, 2, 30
KEY = jax.random.key(3)


class Units(eqx.Module):
    """How the problem is written: x' = x_unit x + x_zero, u' = u_unit u, cost' = cost_unit cost."""

    x_unit: Array
    x_zero: Array
    u_unit: Array
    cost_unit: Array

    def ahead(self, x, u):
        s, a = (x - self.x_zero) / self.x_unit, u / self.u_unit
        return self.x_unit * jnp.stack([s[0] + 0.3 * s[1], s[1] - 0.3 * jnp.sin(s[0]) + 0.3 * a[0]]) + self.x_zero

    def cost(self, x, u, t):
        s, a = (x - self.x_zero) / self.x_unit, u / self.u_unit
        return self.cost_unit * ((s[0] - 1.0) ** 2 + 0.3 * s[1] ** 2 + 0.05 * (a**2).sum())


def units(x_unit=1.0, x_zero=0.0, u_unit=1.0, cost_unit=1.0):
    sizes = ((x_unit, DX), (x_zero, DX), (u_unit, DU))
    return Units(*(jnp.broadcast_to(jnp.asarray(value, float), size) for value, size in sizes), jnp.asarray(cost_unit))


PLAIN = units()


def problem(how=PLAIN):
    mean = how.x_unit * jnp.array([[0.3, 0.0], [-0.5, 0.2]]) + how.x_zero
    cov = jnp.diag((0.2 * how.x_unit) ** 2)
    return Problem(
        horizon=T,
        dt=0.1,
        conditions=Gaussian(mean, jnp.stack([cov, cov])),
        initial_std=0.7 * how.u_unit,
        cost=how.cost,
        dynamics=how.ahead,
    )


SMALL = {"policy": Network(width=8, activation="tanh", time=True), "critic": NeuralValue(width=8, epochs=3, batch=32)}
FORMS = {
    "networks": TRPO(kl_step=0.1, **SMALL),
    "quadratic value": TRPO(kl_step=0.1, value="quadratic", **SMALL),
    "state-dependent noise": TRPO(
        kl_step=0.1, value="quadratic", policy=Network(width=8, activation="tanh", covariance="state")
    ),
    "controllers": TRPO(kl_step=0.1, actor="linear-gaussian", value="quadratic"),
    "controllers, neural value": TRPO(kl_step=0.1, actor="linear-gaussian", critic=SMALL["critic"]),
}


@eqx.filter_jit
def update(algorithm, problem, state, rollouts, key):
    return algorithm.update(problem, state, rollouts, key)


@eqx.filter_jit
def rolled(world, policy, key):
    return world.rollout(policy, EPISODES, key)


def learned(algorithm, how=PLAIN, iterations=3):
    """Policies, rollouts of each, and reports."""
    world, state, found = JaxWorld(problem(how)), algorithm.init(problem(how), EPISODES, KEY), []
    for i in range(iterations):
        key = jax.random.fold_in(KEY, i)
        rollouts = rolled(world, algorithm.explore(state), key)
        new, info = update(algorithm, world.problem, state, rollouts, key)
        found.append((algorithm.explore(state), algorithm.explore(new), rollouts, info))
        state = new
    return found


@functools.cache
def plainly(name):
    return learned(FORMS[name])


def actions(policy, rollouts):
    """Means and factors of the actions in all states of the rollouts: (N, M, T, ...)."""

    def of_condition(policy, x, o):
        def at(t, x, o):
            return policy.mean(t, x, o), policy.chol(t, x, o)

        return jax.vmap(jax.vmap(at, (0, 0, 0)), (None, 0, 0))(jnp.arange(T), x[:, :-1], o[:, :-1])

    return jax.tree.map(np.asarray, over_conditions(of_condition, policy, rollouts.x, rollouts.o))


MARKED = mostly_slow(FORMS, always=["networks"])
"""The others are slow to compile."""


@pytest.mark.parametrize("name", MARKED)
def test_kl_is_what_normal_distributions_say_and_within_its_bound(name):
    algorithm = FORMS[name]
    for old, new, rollouts, info in plainly(name):
        (p, P), (q, Q) = actions(old, rollouts), actions(new, rollouts)
        P, Q = P @ np.swapaxes(P, -1, -2), Q @ np.swapaxes(Q, -1, -2)
        off, inverse = q - p, np.linalg.inv(Q)
        trace = np.trace(inverse @ P, axis1=-2, axis2=-1)
        kl = 0.5 * (trace + np.einsum("...i,...ij,...j", off, inverse, off) - DU)
        kl += 0.5 * np.log(np.linalg.det(Q) / np.linalg.det(P))
        each = kl.mean((1, 2)) if old.per_condition else kl.mean(keepdims=True)
        np.testing.assert_allclose(info.kl_max, each.max(), rtol=1e-6)
        assert 0.3 * algorithm.kl_step < each.max() <= algorithm.kl_step * (1 + 1e-9)
        assert info.predicted > 0


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize(
    "how",
    [
        units(x_unit=[1e-9, 1e6], x_zero=[3e-9, 0.0]),
        units(u_unit=[1e-6, 1e6]),
        units(cost_unit=1e-12),
        units(cost_unit=1e12),
    ],
    ids=["states", "actions", "small costs", "large costs"],
)
def test_units_do_not_matter(name, how):
    (*_, (_, policy, _, info)), (*_, (_, plain, rollouts, said)) = learned(FORMS[name], how), plainly(name)
    there = eqx.tree_at(
        lambda r: (r.x, r.o), rollouts, (how.x_unit * rollouts.x + how.x_zero, how.x_unit * rollouts.o + how.x_zero)
    )
    (mean, chol), (wanted, factor) = actions(policy, there), actions(plain, rollouts)
    np.testing.assert_allclose(mean / how.u_unit, wanted, atol=1e-5)
    np.testing.assert_allclose(chol / np.asarray(how.u_unit)[:, None], factor, atol=1e-5)
    np.testing.assert_allclose(info.predicted / how.cost_unit, said.predicted, rtol=1e-4)
    np.testing.assert_allclose(info.explained, said.explained, atol=1e-5)


def test_the_gradient_is_that_of_the_expected_cost():
    """Of controllers, by many rollouts of the whole episode's cost: no value, no trace, tiny steps."""
    algorithm = TRPO(
        kl_step=1e-6, actor="linear-gaussian", value="quadratic", discount=1.0, trace=1.0, damping=0.0, conjugate=100
    )
    world, many = JaxWorld(problem()), 20000
    state = algorithm.init(world.problem, many, KEY)
    rollouts = world.rollout(algorithm.explore(state), many, KEY)
    new, info = update(algorithm, world.problem, state, rollouts, KEY)

    def expected(p: LinearGaussian):
        """Mean cost with the same noise."""
        policy = eqx.tree_at(lambda policy: policy.controller, algorithm.explore(state), p)
        return world.rollout(policy, many, KEY).cost.sum(-1).mean() * N

    first, found = algorithm.explore(state).controller, new.policy.controller
    slope = jax.grad(lambda k: expected(dataclasses.replace(first, k=k)))(first.k)
    gain, mean = found.K - first.K, rollouts.x[:, :, :-1].mean(1)
    moved = found.k - first.k + jnp.einsum("ntij,ntj->nti", gain, mean)
    # all actions have one standard deviation, so in white coordinates this is the gradient
    assert -(moved * slope).sum() > 0.99 * jnp.linalg.norm(moved) * jnp.linalg.norm(slope)
    gained = expected(first) - expected(found)
    np.testing.assert_allclose(gained / N, info.predicted, rtol=0.15)


def test_nothing_follows_from_rollouts_that_broke_off_at_once():
    algorithm = FORMS["networks"]
    state, world = algorithm.init(problem(), EPISODES, KEY), JaxWorld(problem())
    rollouts = world.rollout(algorithm.explore(state), EPISODES, KEY)
    none = eqx.tree_at(lambda r: r.steps, rollouts, jnp.zeros_like(rollouts.steps))
    new, info = update(algorithm, world.problem, state, none, KEY)
    assert not info.ok.any()
    old, now = (jax.tree.leaves(eqx.filter(s.policy, eqx.is_array)) for s in (state, new))
    for a, b in zip(old, now, strict=True):
        np.testing.assert_array_equal(a, b)


class Own(Network):
    """A network of somebody's own class."""

    def layers(self, inputs, outputs, key):
        return Residual(eqx.nn.Linear(inputs, outputs, key=key))


class Residual(eqx.Module):
    linear: eqx.nn.Linear

    def __call__(self, s):
        return self.linear(s) + jnp.tanh(self.linear(s))


def test_a_network_of_ones_own_sees_its_coordinates_first_and_then_learns():
    algorithm = TRPO(kl_step=0.1, value="quadratic", policy=Own(time=True))
    found = learned(algorithm, iterations=8)
    assert found[0][3].kl == 0
    assert all(0 < info.kl <= 0.1 for *_, info in found[1:])
    assert found[-1][2].cost.sum(-1).mean() < 0.8 * found[0][2].cost.sum(-1).mean()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kl_step": 0.0}, "kl_step=0.0: the bound on the KL must be positive"),
        ({"actor": "neural"}, "actor='neural': choose one of network, linear-gaussian"),
        ({"value": "none"}, "value='none': choose one of network, quadratic"),
        ({"discount": 1.1}, "discount=1.1: a weight from 0 to 1"),
        ({"trace": -0.1}, "trace=-0.1"),
        ({"damping": -1.0}, "damping=-1.0"),
        ({"conjugate": 0}, "conjugate=0: give at least 1 iteration"),
        ({"ridge": 0.0}, "ridge=0.0"),
    ],
)
def test_bad_settings_are_refused(given, said, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production
    with pytest.raises(ValueError, match=said):
        TRPO(**given)


def test_bad_settings_of_its_value_are_refused():
    with pytest.raises(ValueError, match="epochs=0: give at least 1"):
        NeuralValue(epochs=0)
    with pytest.raises(ValueError, match=r"learning_rate=-1\.0"):
        NeuralValue(learning_rate=-1.0)
