"""What the network is taught, against least squares, closed forms and sampling in NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jaxtyping import Array
from oracles import draw
from oracles.same import assert_same

from pilotfish.policies.network import Network
from pilotfish.types import Gaussian, LinearGaussian, Problem, Rollouts
from pilotfish.updates.s_step import SStep

N, M, T, DX, DU = 2, 4, 5, 3, 2
LINEAR, SMALL = Network(depth=0), Network(width=8, depth=2)
LINEAR_NOISE, SMALL_NOISE = Network(depth=0, covariance="state"), Network(width=8, depth=2, covariance="state")
EXACT = SStep(optimiser="lbfgs", steps=300, precision="float64")
ADAM = SStep(steps=400, batch=16, learning_rate=1e-2)
ADAM_64 = SStep(steps=400, batch=16, learning_rate=1e-2, precision="float64")


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


def trust(data, p, weight):
    """By how much each sample counts less because its episode went astray, in a loop (N, M, T)."""
    d = np.full((N, M, T), np.nan)
    for n, t in np.ndindex(N, T):
        there = [m for m in range(M) if t < data.steps[n, m] and weight[n, t] > 0]
        wanted = np.array([np.asarray(p.K[n, t]) @ np.asarray(data.x[n, m, t]) for m in there])
        off = wanted - np.median(wanted, 0) if there else wanted
        d[n, there, t] = [np.sum(np.linalg.solve(p.chol[n, t], one) ** 2) for one in off]
    found = np.ones((N, M, T))
    for n, m, t in np.argwhere(np.isfinite(d)):
        usual = max(np.nanmedian(d[n, :, t]), np.nanmedian(d[n]), DU)
        found[n, m, t] = min(1.0, 30.0 * usual / d[n, m, t]) ** 2
    return found


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


@pytest.mark.parametrize("do", [pytest.param(DX, marks=pytest.mark.slow), DX - 1])
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


def test_the_time_is_an_input_like_any_other():
    p, data = controllers(2), rollouts(3)
    policy, *_ = taught(EXACT, *begun(EXACT, Network(depth=0, time=True)), data, p)
    over = np.broadcast_to(np.arange(T + 1.0)[:, None] / T, (N, M, T + 1, 1))
    seen = eqx.tree_at(lambda d: d.o, data, jnp.concatenate([data.o, over], -1))
    gain, offset, cov = least_squares([seen], p, np.ones((N, T)), np.zeros((N, T, DU)))
    assert np.abs(gain[:, -1]).max() > 0.1
    np.testing.assert_allclose(as_linear(policy)[0], gain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(as_linear(policy)[1], offset, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(policy.factor @ policy.factor.T, cov, rtol=1e-6)
    action = policy.mean(2, data.x[0, 0, 2], data.o[0, 0, 2])
    np.testing.assert_allclose(action, gain @ np.append(data.o[0, 0, 2], 2 / T) + offset, rtol=1e-5, atol=1e-6)


def test_minibatches_find_the_same_least_squares():
    """However samples are drawn, weights and precisions count as they should; these range over a factor of 1000."""
    step, rng = SStep(steps=8000, batch=32, learning_rate=2e-3, precision="float64"), np.random.default_rng(1)
    weight, p, data = 10 ** rng.uniform(-1, 1, (N, T)), controllers(2), rollouts(3)
    p = eqx.tree_at(lambda p: p.chol, p, p.chol * 10 ** rng.uniform(-1, 0, (N, T, 1, 1)))
    policy, *_ = taught(step, *begun(step), data, p, weight=weight)
    gain, offset, _ = least_squares([data], p, weight, np.zeros((N, T, DU)))
    np.testing.assert_allclose(as_linear(policy)[0], gain, atol=0.04)
    np.testing.assert_allclose(as_linear(policy)[1], offset, atol=0.04)


@pytest.mark.parametrize("far", [1e3, 1e5, 1e8])
def test_an_episode_that_went_astray_hardly_counts(far):
    """However far it went, the network is what it would be without that episode, to a tenth of the actions' noise."""
    data, p = rollouts(3), controllers(2)
    astray = eqx.tree_at(lambda d: (d.x, d.o), data, (data.x.at[0, 1].mul(far), data.o.at[0, 1].mul(far)))
    without = eqx.tree_at(lambda d: d.steps, data, data.steps.at[0, 1].set(0))
    with_it, alone = (taught(EXACT, *begun(EXACT), one, p)[0] for one in (astray, without))
    for n, m, t in np.ndindex(N, M, T):
        if (n, m) != (0, 1):
            o = data.o[n, m, t]
            off = np.asarray(with_it.mean(t, o, o) - alone.mean(t, o, o))
            assert np.linalg.norm(np.linalg.solve(p.chol[n, t], off)) < 0.1
    np.testing.assert_allclose(with_it.factor, alone.factor, rtol=0.05)


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


@pytest.mark.parametrize("network", [pytest.param(SMALL, marks=pytest.mark.slow), SMALL_NOISE], ids=["shared", "state"])
def test_loss_and_kl_are_what_a_loop_finds(network):
    data, p = rollouts(5), controllers(6)
    memory, policy = begun(ADAM, network)
    policy, _, report = taught(ADAM, memory, policy, data, p)
    losses, kl, draws = [], np.zeros(N), np.random.default_rng(7).normal(size=(20_000, DU))
    worst, steps = np.zeros((N, T)), iter(np.ndindex(N, M, T))
    for n, o, mean, P, _, _ in samples(data, p, np.ones((N, T)), np.zeros((N, T, DU))):
        action, factor = act(policy.tensors(), o), np.asarray(policy.factor)
        action, h = action[:DU], action[DU:]
        factor = factor * np.exp(5.0 * np.tanh(h / 5.0)) if len(h) else factor
        losses.append((action - mean) @ P @ (action - mean))
        u = action + draws @ factor.T
        log_ratio = 0.5 * np.einsum("si,ij,sj->s", u - mean, P, u - mean) - 0.5 * (draws**2).sum(-1)
        log_ratio += -np.log(np.diagonal(factor)).sum() - 0.5 * np.linalg.slogdet(P)[1]
        kl[n] += log_ratio.mean() / (M * T)
        _, _, t = next(steps)
        worst[n, t] = max(worst[n, t], log_ratio.mean())
    np.testing.assert_allclose(report.loss_after, np.mean(losses), rtol=1e-6)
    np.testing.assert_allclose(report.kl, kl, rtol=0.02)
    np.testing.assert_allclose(report.kl_worst, worst, rtol=0.05)
    assert report.loss_after < 0.5 * report.loss_before
    assert not report.constant


class Affine(eqx.Module):
    """A network of nobody's here: a linear policy in another guise."""

    gain: Array
    offset: Array

    def __call__(self, s):
        return s @ self.gain + self.offset


class AffineNetwork(Network):
    def layers(self, inputs, outputs, key):
        return Affine(jax.random.normal(key, (inputs, outputs)), jnp.zeros(outputs))


@pytest.mark.slow
def test_a_network_of_one_s_own_learns_the_same():
    """Over several lessons, in whatever coordinates it was begun; and its weights are kept in those."""
    memories, before = [begun(EXACT, network) for network in (LINEAR, AffineNetwork())], None
    for i in range(3):
        data, p = rollouts(10 + i), controllers(20 + i)
        found = [taught(EXACT, *one, data, p) for one in memories]
        memories = [(memory, policy) for policy, memory, _ in found]
        (plain, _, told), (own, _, report) = found
        for n, m, t in np.ndindex(N, M, T):
            o = data.o[n, m, t]
            np.testing.assert_allclose(own.mean(t, o, o), plain.mean(t, o, o), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(own.factor, plain.factor, rtol=1e-9)
        np.testing.assert_allclose(report.loss_after, told.loss_after, rtol=1e-5)
        np.testing.assert_allclose(report.kl, told.kl, rtol=1e-4)
        if before is not None:
            np.testing.assert_array_equal(own.shift, before.shift)
        before = own
    assert report.idle == 0


def test_noise_that_depends_on_the_state_is_the_controllers():
    """Of two conditions that the observation tells apart, whose controllers act differently, one in much more noise."""
    memory, policy = begun(EXACT, LINEAR_NOISE)
    told = jnp.broadcast_to(jnp.arange(2.0)[:, None, None, None], rollouts(5).o.shape)
    data = eqx.tree_at(lambda d: d.o, rollouts(5), told)
    rng = np.random.default_rng(3)
    k = jnp.broadcast_to(jnp.asarray(rng.normal(size=(N, 1, DU))), (N, T, DU))
    std = np.array([[1e-3, 2.0], [5e-3, 0.3]])
    chol = jnp.broadcast_to(jnp.asarray(std[:, None, :, None] * np.eye(DU)), (N, T, DU, DU))
    policy, _, report = taught(EXACT, memory, policy, data, LinearGaussian(jnp.zeros((N, T, DU, DX)), k, chol))
    assert np.all(np.abs(report.kl) < 1e-6)
    for n in range(N):
        there = 0, data.x[n, 0, 0], told[n, 0, 0]
        np.testing.assert_allclose(policy.mean(*there), k[n, 0], rtol=1e-4)
        np.testing.assert_allclose(policy.chol(*there), chol[n, 0], rtol=1e-3)


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


def rescaled(data, p, linear, rng):
    """The same in other units and with other zeros, and how actions are changed back."""
    sx, su = 10 ** rng.uniform(-9, 9, DX), 10 ** rng.uniform(-9, 9, DU)
    bx, bu = 1e6 * sx * rng.normal(size=DX), 1e6 * su * rng.normal(size=DU)
    K = su[:, None] * np.asarray(p.K) / sx
    k = su * np.asarray(p.k) + bu - K @ bx
    x = np.asarray(data.x) * sx + bx
    p = LinearGaussian(*map(jnp.asarray, (K, k, su[:, None] * np.asarray(p.chol))))
    return eqx.tree_at(lambda d: (d.x, d.o), data, (jnp.asarray(x),) * 2), p, linear / su, lambda u: (u - bu) / su


@pytest.mark.parametrize(("step", "network"), [(EXACT, LINEAR), (ADAM_64, SMALL_NOISE)], ids=["lbfgs", "adam"])
def test_nothing_depends_on_units_and_zeros(step, network):
    """Two calls, so that what is warm-started and folded anew is seen too."""
    rng = np.random.default_rng(8)
    ours, theirs = begun(step, network), begun(step, network)
    for i in range(2):
        data, p, linear = rollouts(30 + i), controllers(40 + i), 0.1 * rng.normal(size=(N, T, DU))
        other_data, other_p, other_linear, back = rescaled(data, p, linear, np.random.default_rng(9))
        policy, memory, report = taught(step, *ours, data, p, linear=linear)
        other, other_memory, other_report = taught(step, *theirs, other_data, other_p, linear=other_linear)
        ours, theirs = (memory, policy), (other_memory, other)
        action, expected = act(other.tensors(), np.asarray(other_data.o)), act(policy.tensors(), np.asarray(data.o))
        np.testing.assert_allclose(back(action[..., :DU]), expected[..., :DU], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(action[..., DU:], expected[..., DU:], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(other_report.kl, report.kl, rtol=1e-5)
        np.testing.assert_allclose(other_report.loss_after, report.loss_after, rtol=1e-5)
        unit = np.sqrt((np.asarray(other.factor) ** 2).sum(-1) / (np.asarray(policy.factor) ** 2).sum(-1))
        np.testing.assert_allclose(np.asarray(other.factor) / unit[:, None], policy.factor, rtol=1e-6, atol=1e-12)


STILL = SStep(steps=1, learning_rate=1e-14, batch=4, precision="float64")
"""What is taught so is changed by the folding alone."""


def test_whitening_anew_leaves_the_function_as_it_was():
    memory, policy = begun(ADAM, SMALL)
    policy, memory, _ = taught(ADAM, memory, policy, rollouts(5), controllers(6))
    memory = memory._replace(optimiser=STILL.begin(problem(), policy, M).optimiser)
    far = eqx.tree_at(lambda d: (d.x, d.o), rollouts(7), (rollouts(7).x * 30.0 + 100.0,) * 2)
    new, *_ = taught(STILL, memory, policy, far, controllers(60))
    assert not np.allclose(new.shift, policy.shift)
    o = 100.0 * np.random.default_rng(0).normal(size=(50, DX))
    np.testing.assert_allclose(act(new.tensors(), o), act(policy.tensors(), o), rtol=1e-9, atol=1e-9)


def test_dead_units_and_a_constant_output_are_noticed():
    memory, policy = begun(ADAM, SMALL)
    policy, memory, report = taught(ADAM, memory, policy, rollouts(5), controllers(6))
    assert report.idle <= 1 / 16
    memory = memory._replace(optimiser=STILL.begin(problem(), policy, M).optimiser)
    half_dead = eqx.tree_at(lambda p: p.net.layers[1].bias, policy, policy.net.layers[1].bias.at[:6].set(-1e4))
    *_, report = taught(STILL, memory, half_dead, rollouts(5), controllers(6))
    assert 6 / 16 <= report.idle <= 7 / 16
    assert not report.constant
    dead = eqx.tree_at(lambda p: p.net.layers[1].bias, policy, policy.net.layers[1].bias - 1e4)
    *_, report = taught(STILL, memory, dead, rollouts(5), controllers(6))
    assert report.idle >= 0.5
    assert report.constant


def test_an_entry_that_never_varied_is_ignored_until_it_does():
    """Be it in units in which it later varies by a thousand million."""
    memory, policy = begun(ADAM, SMALL)
    still = eqx.tree_at(lambda d: d.o, rollouts(5), rollouts(5).o.at[..., 1].set(3.0))
    policy, memory, report = taught(ADAM, memory, policy, still, controllers(6))
    np.testing.assert_array_equal(policy.net.layers[0].weight[:, 1], 0.0)
    awake = eqx.tree_at(lambda d: d.o, rollouts(5), rollouts(5).o.at[..., 1].multiply(1e9))
    o = np.array([[0.1, 3.0, 0.2], [0.1, 1e9, 0.2]])
    np.testing.assert_array_equal(*act(policy.tensors(), o))
    policy, memory, report = taught(ADAM, memory, policy, awake, controllers(6))
    assert report.finite
    assert np.all(np.abs(policy.net.layers[0].weight[:, 1]) > 0)
    assert report.loss_after < report.loss_before


def test_float32_trains_about_as_float64():
    found = {}
    for step in (ADAM, ADAM_64):
        memory, policy = begun(step, SMALL)
        policy, memory, report = taught(step, memory, policy, rollouts(5), controllers(6))
        assert memory.optimiser.mu.dtype == step.precision
        assert policy.shift.dtype == policy.net.layers[0].weight.dtype == jnp.float64
        found[step.precision] = act(policy.tensors(), np.asarray(rollouts(5).o)), report.loss_after
    np.testing.assert_allclose(*(u for u, _ in found.values()), atol=0.02)
    np.testing.assert_allclose(*(loss for _, loss in found.values()), rtol=1e-2)


def test_what_is_remembered_keeps_its_types():
    """So an update compiles once."""
    memory, policy = begun(ADAM, SMALL)
    new, later, _ = taught(ADAM, memory, policy, rollouts(5), controllers(6))
    for before, after in zip(jax.tree.leaves((memory, policy)), jax.tree.leaves((later, new)), strict=True):
        if eqx.is_array(before):
            assert (before.shape, before.dtype, before.weak_type) == (after.shape, after.dtype, after.weak_type)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.9), st.floats(0.0, 6.0))
@example(160362007, 0.75, 3.0)
def test_any_weights_and_any_broken_rollouts_leave_numbers(seed, idle, decades):
    """The covariance is the closed form's, the KL is not negative, and the training does not make the loss worse."""
    rng = np.random.default_rng(seed)
    weight = np.where(rng.random((N, T)) < idle, 0.0, 10 ** rng.uniform(-decades, decades, (N, T)))
    steps = np.where(rng.random((N, M)) < idle, rng.integers(0, T + 1, (N, M)), T)
    data, p = rollouts(seed, steps=steps), controllers(seed)
    policy, _, report = taught(ADAM, *begun(ADAM, SMALL), data, p, weight=weight)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((report, eqx.filter(policy, eqx.is_array))))
    assert report.finite
    assert np.all(report.kl >= -1e-9)
    assert report.loss_after <= report.loss_before * (1 + 1e-6)
    total, precision, trusted = 0.0, 0.0, trust(data, p, weight)
    happened = (i for i in np.ndindex(N, M, T) if i[2] < data.steps[i[:2]])
    for i, (_, _, _, P, w, _) in zip(happened, samples(data, p, weight, np.zeros((N, T, DU))), strict=True):
        total, precision = total + trusted[i] * w, precision + trusted[i] * w * P
    if total > 0:
        cov = np.asarray(policy.factor) @ np.asarray(policy.factor).T
        np.testing.assert_allclose(cov, np.linalg.inv(precision / total), rtol=1e-5, atol=1e-9 * np.abs(cov).max())


def test_left_out_weights_are_even_and_there_is_no_dual():
    first, data, p = begun(ADAM, SMALL), rollouts(5), controllers(6)
    found = eqx.filter_jit(ADAM)(*first, data, p, jax.random.key(0))
    assert_same(*(eqx.filter(result, eqx.is_array) for result in (found, taught(ADAM, *first, data, p))))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"memory": 0}, {"learning_rate": 0.0}])
def test_nonsense_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SStep(**wrong)
