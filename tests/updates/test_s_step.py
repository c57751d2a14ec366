"""What the network is taught, against least squares, closed forms and sampling in NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import draw
from oracles.same import assert_same

from pilotfish.policies.network import Network
from pilotfish.types import Gaussian, LinearGaussian, Problem, Rollouts
from pilotfish.updates.s_step import SStep

N, M, T, DX, DU = 2, 4, 5, 3, 2
LINEAR, SMALL = Network(depth=0), Network(width=8, depth=2)
EXACT = SStep(optimiser="lbfgs", steps=300, precision="float64")
ADAM = SStep(steps=400, batch=16, learning_rate=1e-2)


@eqx.filter_jit
def teach(step, memory, policy, rollouts, controllers, key, weight, linear):
    return step(memory, policy, rollouts, controllers, key, weight, linear)


def problem(do=DX):
    return Problem(
        horizon=T,
        dt=0.1,
        conditions=Gaussian(jnp.zeros((N, DX)), jnp.zeros((N, DX, DX))),
        initial_std=jnp.ones(DU),
        cost=lambda x, u, t: (x**2).sum(),
        observe=lambda x: x[:do],
    )


def controllers(seed):
    return LinearGaussian(*map(jnp.asarray, draw.gains(np.random.default_rng(seed), N, T, DU, DX)))


def rollouts(seed, do=DX, steps=None):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, M, T + 1, DX)) + rng.normal(size=(N, 1, 1, DX))
    steps = np.full((N, M), T) if steps is None else steps
    zeros = np.zeros((N, M, T, DU)), np.zeros((N, M, T + 1))
    return Rollouts(*map(jnp.asarray, (x, x[..., :do], *zeros, steps)), None)


def begun(step, network=LINEAR, do=DX):
    p = problem(do)
    policy = network.policy(p, jax.random.key(0))
    return step.begin(p, policy, M), policy


def taught(step, memory, policy, data, p, seed=0, weight=None, linear=None):
    """All arguments are arrays, so that few programs are compiled."""
    weight = jnp.ones((N, T)) if weight is None else jnp.asarray(weight)
    linear = jnp.zeros((N, T, DU)) if linear is None else jnp.asarray(linear)
    return teach(step, memory, policy, data, p, jax.random.key(seed), weight, linear)


def samples(data, p, weight, linear):
    """Observation, target's controller, precision, weight and dual of every step that happened, in a loop."""
    for n, m, t in np.ndindex(N, M, T):
        if t < data.steps[n, m]:
            K, k, chol = (np.asarray(leaf[n, t]) for leaf in (p.K, p.k, p.chol))
            mean = K @ np.asarray(data.x[n, m, t]) + k
            yield n, np.asarray(data.o[n, m, t]), mean, np.linalg.inv(chol @ chol.T), weight[n, t], linear[n, t]


def least_squares(remembered, p, weight, linear):
    """Gains and offset of the best linear policy, and the covariance: the gradient is set to zero."""
    left, right, precision, total = 0.0, 0.0, 0.0, 0.0
    for data in remembered:
        for _, o, mean, P, w, dual in samples(data, p, weight, linear):
            row = np.kron(np.eye(DU), np.append(o, 1.0))
            left, right = left + w * row.T @ P @ row, right + row.T @ (w * P @ mean - dual)
            precision, total = precision + w * P, total + w
    coef = np.linalg.solve(left, right).reshape(DU, -1)
    return coef[:, :-1], coef[:, -1], np.linalg.inv(precision / total)


def as_linear(policy):
    gain = np.asarray(policy.net.layers[0].weight) / np.asarray(policy.scale)
    return gain, np.asarray(policy.net.layers[0].bias) - gain @ np.asarray(policy.shift)


def act(tensors, o):
    """A ReLU network's action, in NumPy."""
    h, depth = (o - tensors["shift"]) / tensors["scale"], sum(name.startswith("bias") for name in tensors)
    for i in range(depth):
        h = h @ tensors[f"weight_{i}"].T + tensors[f"bias_{i}"]
        h = np.maximum(h, 0.0) if i < depth - 1 else h
    return h


@pytest.mark.parametrize("do", [DX, DX - 1])
def test_a_linear_policy_is_weighted_least_squares(do):
    """Also with dual terms, a rollout that broke off, and nan in what did not happen."""
    rng = np.random.default_rng(1)
    weight, linear = rng.uniform(0.1, 3.0, (N, T)), rng.normal(size=(N, T, DU))
    steps = np.full((N, M), T)
    steps[0, 1], steps[1, 2] = 2, 0
    p, data = controllers(2), rollouts(3, do, steps)
    late = np.arange(T + 1) >= steps[..., None]
    data = eqx.tree_at(lambda d: (d.x, d.o), data, tuple(data_.at[late].set(jnp.nan) for data_ in (data.x, data.o)))
    memory, policy = begun(EXACT, do=do)
    policy, memory, report = taught(EXACT, memory, policy, data, p, weight=weight, linear=linear)
    gain, offset, cov = least_squares([data], p, weight, linear)
    found = as_linear(policy)
    np.testing.assert_allclose(found[0], gain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], offset, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(policy.factor @ policy.factor.T, cov, rtol=1e-6)
    assert np.all(np.triu(policy.factor, 1) == 0)
    assert report.finite
    assert report.loss_after < report.loss_before


def test_states_are_remembered_and_actions_are_new():
    step = SStep(optimiser="lbfgs", steps=300, memory=2, precision="float64")
    memory, policy = begun(step)
    seen = []
    for i in range(3):
        data, p = rollouts(10 + i), controllers(20 + i)
        seen.append(data)
        policy, memory, _ = taught(step, memory, policy, data, p)
        gain, offset, cov = least_squares(seen[-2:], p, np.ones((N, T)), np.zeros((N, T, DU)))
        np.testing.assert_allclose(as_linear(policy)[0], gain, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(as_linear(policy)[1], offset, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(policy.factor @ policy.factor.T, cov, rtol=1e-6)
    np.testing.assert_array_equal(memory.x, [d.x[:, :, :-1] for d in seen[:0:-1]])


def test_loss_and_kl_are_what_a_loop_finds():
    data, p = rollouts(5), controllers(6)
    memory, policy = begun(ADAM, SMALL)
    policy, _, report = taught(ADAM, memory, policy, data, p)
    losses, kl, draws = [], np.zeros(N), np.random.default_rng(7).normal(size=(20_000, DU))
    factor = np.asarray(policy.factor)
    for n, o, mean, P, _, _ in samples(data, p, np.ones((N, T)), np.zeros((N, T, DU))):
        action = act(policy.tensors(), o)
        losses.append((action - mean) @ P @ (action - mean))
        u = action + draws @ factor.T
        log_ratio = 0.5 * np.einsum("si,ij,sj->s", u - mean, P, u - mean) - 0.5 * (draws**2).sum(-1)
        log_ratio += -np.log(np.diagonal(factor)).sum() - 0.5 * np.linalg.slogdet(P)[1]
        kl[n] += log_ratio.mean() / (M * T)
    np.testing.assert_allclose(report.loss_after, np.mean(losses), rtol=1e-6)
    np.testing.assert_allclose(report.kl, kl, rtol=0.02)
    assert report.loss_after < 0.5 * report.loss_before
    assert not report.constant


def test_the_same_key_gives_the_same_bits_and_another_one_other_minibatches():
    data, p = rollouts(5), controllers(6)
    first = begun(ADAM, SMALL)
    one, two, other = (taught(ADAM, *first, data, p, seed) for seed in (0, 0, 1))
    assert_same(*(eqx.filter(result, eqx.is_array) for result in (one, two)))
    assert not np.array_equal(one[0].net.layers[0].weight, other[0].net.layers[0].weight)


def test_without_a_step_that_happened_nothing_is_learned():
    p, nothing = controllers(6), rollouts(5, steps=np.zeros((N, M), int))
    memory, policy = begun(ADAM, SMALL)
    new, memory, report = taught(ADAM, memory, policy, nothing, p)
    assert_same(eqx.filter(new, eqx.is_array), eqx.filter(policy, eqx.is_array))
    assert not memory.taught
    assert report.finite
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((memory, report)))


def test_what_is_not_finite_is_refused_and_the_old_network_kept():
    memory, policy = begun(ADAM, SMALL)
    policy, memory, _ = taught(ADAM, memory, policy, rollouts(5), controllers(6))
    bad = eqx.tree_at(lambda p: p.k, controllers(6), controllers(6).k.at[1, 2, 0].set(jnp.nan))
    new, later, report = taught(ADAM, memory, policy, rollouts(6), bad)
    assert not report.finite
    assert_same(eqx.filter(new, eqx.is_array), eqx.filter(policy, eqx.is_array))
    assert_same(later.optimiser, memory.optimiser)
    *_, report = taught(ADAM, later, new, rollouts(7), controllers(6))
    assert report.finite
