"""A global policy as a linear-Gaussian controller, against what shares no code with it."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from pilotfish.models.linearised import Linearisation
from pilotfish.models.nominal import Nominal
from pilotfish.policies.network import Network, NetworkPolicy
from pilotfish.types import Gaussian, Problem, Rollouts

N, M, T, DX, DU = 1, 6, 4, 3, 2


def hidden(x):
    """The policy sees sums, and not all of the state."""
    return jnp.stack([x[0] + x[1], jnp.sin(x[1])])


def problem_of(observe=hidden, units=1.0):
    start = Gaussian(jnp.zeros((N, DX)), jnp.zeros((N, DX, DX)))
    return Problem(T, 0.1, start, jnp.ones(DU), lambda x, u, t: (x**2).sum() / units, observe=observe)


def rollouts_of(problem, seed, broken=False):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(M, T + 1, DX)) * [1.0, 2.0, 0.5] + [3.0, 0.0, -1.0]
    u = rng.normal(size=(M, T, DU))
    if broken:
        x[2, 3:], u[2, 2:] = np.nan, np.nan
    o = jax.vmap(jax.vmap(problem.observe))(jnp.asarray(x))
    return Rollouts.recorded(jnp.asarray(x), o, jnp.asarray(u), jnp.ones((M, T + 1)), None)


def policy_of(problem, depth, seed=0):
    policy = Network(width=8, depth=depth, activation="tanh").policy(problem, jax.random.key(seed))
    rng = np.random.default_rng(seed)
    factor = np.tril(rng.normal(size=(DU, DU))) + 2 * np.eye(DU)
    do = problem.do
    arrays = jnp.asarray(rng.normal(size=do)), jnp.asarray(rng.uniform(0.5, 2, do)), jnp.asarray(factor)
    return NetworkPolicy(policy.net, *arrays, policy.activation, T)


def act(policy, problem, x):
    x = jnp.asarray(x)
    return np.asarray(policy.mean(0, x, problem.observe(x)))


def linearise(how, problem, policy, rollouts, **settings):
    part, data = Linearisation(how=how, **settings), rollouts.cleaned()
    nominal = Nominal.of(data)
    memory, found = part(problem, policy, part.begin(problem, M), data, nominal, jax.random.key(1))
    return memory, nominal, found


@pytest.mark.parametrize("how", ["autodiff", "mean", "regression"])
@pytest.mark.parametrize("broken", [False, True])
def test_a_linear_policy_is_found_as_it_is(how, broken):
    problem = problem_of(observe=lambda x: x)
    policy, rollouts = policy_of(problem, depth=0), rollouts_of(problem, 3, broken)
    _, nominal, found = linearise(how, problem, policy, rollouts)
    weight = np.asarray(policy.net.layers[0].weight) / np.asarray(policy.scale)
    np.testing.assert_allclose(found.K, np.broadcast_to(weight, (T, DU, DX)), rtol=1e-5, atol=1e-6)
    out = nominal.outwards(found)
    for x in np.random.default_rng(0).normal(size=(5, DX)):
        np.testing.assert_allclose(out.mean(jnp.broadcast_to(x, (T, DX)))[0], act(policy, problem, x), rtol=1e-4)
    # what the mixture's floor leaves unexplained adds a little to the covariance
    np.testing.assert_allclose(found.cov, np.broadcast_to(policy.factor @ policy.factor.T, (T, DU, DU)), rtol=1e-4)


@pytest.mark.parametrize("how", ["autodiff", "mean"])
def test_the_derivative_is_that_of_finite_differences(how):
    problem = problem_of()
    policy, rollouts = policy_of(problem, depth=2), rollouts_of(problem, 4, broken=True)
    _, nominal, found = linearise(how, problem, policy, rollouts)
    for t in range(T):
        happened = np.asarray(rollouts.happened[:, t])
        samples = np.asarray(rollouts.x[happened, t])
        places = samples if how == "autodiff" else samples.mean(0, keepdims=True)
        gains, offsets = [], []
        for x in places:
            K = np.stack(
                [(act(policy, problem, x + e) - act(policy, problem, x - e)) / 2e-5 for e in 1e-5 * np.eye(DX)], 1
            )
            gains.append(K)
            offsets.append(act(policy, problem, x) - np.asarray(nominal.u[t]))
        K = np.mean(gains, 0)
        k = np.mean(offsets, 0) - K @ (places.mean(0) - np.asarray(nominal.x[t]))
        np.testing.assert_allclose(found.K[t], K, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(found.k[t], k, rtol=1e-6, atol=1e-8)


def test_the_regression_is_that_of_its_normal_equations():
    problem = problem_of()
    policy, rollouts = policy_of(problem, depth=2), rollouts_of(problem, 5)
    memory, nominal, found = linearise("regression", problem, policy, rollouts)
    weights = np.exp(memory.mixture.log_weight)
    means, chols = np.asarray(memory.mixture.mean), np.asarray(memory.mixture.chol)
    covs = chols @ np.swapaxes(chols, 1, 2)
    for t in range(T):
        x = np.asarray(rollouts.x[:, t])
        z = np.concatenate([x, [act(policy, problem, one) for one in x]], 1)
        density = np.array(
            [
                [
                    w * np.exp(-0.5 * (p - m) @ np.linalg.solve(S, p - m)) / np.sqrt(np.linalg.det(S))
                    for w, m, S in zip(weights, means, covs, strict=True)
                ]
                for p in z
            ]
        )
        near = (density / density.sum(1, keepdims=True)).mean(0)
        mu = near @ means
        Phi = sum(w * (S + np.outer(m - mu, m - mu)) for w, m, S in zip(near, means, covs, strict=True))
        mean, S = z.mean(0), np.cov(z.T, bias=True)
        joint = (M * S + Phi + M / (M + 1) * np.outer(mean - mu, mean - mu)) / (M + 1)
        K = np.linalg.solve(joint[:DX, :DX], joint[:DX, DX:]).T
        k = mean[DX:] - nominal.u[t] - K @ (mean[:DX] - nominal.x[t])
        left = joint[DX:, DX:] - K @ joint[:DX, DX:]
        np.testing.assert_allclose(found.K[t], K, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(found.k[t], k, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(found.cov[t], left + policy.factor @ policy.factor.T, rtol=1e-6)


def test_a_regression_asks_the_present_policy_what_it_would_do_in_remembered_states():
    problem = problem_of()
    part = Linearisation(how="regression", memory=2 * M)
    memory = part.begin(problem, M)
    old, new = rollouts_of(problem, 6), rollouts_of(problem, 7)
    policies = [policy_of(problem, depth=1, seed=seed) for seed in (1, 2)]
    for policy, rollouts in zip(policies, (old, new), strict=True):
        memory, _ = part(problem, policy, memory, rollouts, Nominal.of(rollouts), jax.random.key(2))
    assert memory is not None
    np.testing.assert_array_equal(memory.points, jnp.stack([new.x[:, :-1], old.x[:, :-1]]))
    # where the mixture is: about actions of the second policy in all states
    actions = np.array([act(policies[1], problem, x) for x in np.asarray(memory.points).reshape(-1, DX)])
    mean = np.exp(memory.mixture.log_weight) @ np.asarray(memory.mixture.mean)
    np.testing.assert_allclose(mean[DX:], actions.mean(0), atol=0.05)


def test_settings_that_cannot_work_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production
    with pytest.raises(ValueError, match="how='taylor': choose one of autodiff, mean, regression"):
        Linearisation(how="taylor")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="clusters=1"):
        Linearisation(clusters=1)
