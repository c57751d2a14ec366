"""The natural gradient against a dense Fisher matrix, and its bound against the KL of Gaussians as SciPy has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotfish.updates.natural_gradient import (
    Experience,
    Relative,
    conjugate_gradients,
    divergence,
    natural_step,
    surrogate,
)

N, DU, DO, HIDDEN = 40, 2, 3, 4
PARAMETERS = HIDDEN * DO + DU * HIDDEN + DU


def network(seed):
    """A policy with one hidden layer whose parameters are all of its weights and the logarithms of its deviations."""
    rng = np.random.default_rng(seed)
    o, first, last = rng.normal(size=(N, DO)), rng.normal(size=(HIDDEN, DO)), rng.normal(size=(DU, HIDDEN))

    def out(d):
        one, two, r = jnp.split(d, (HIDDEN * DO, HIDDEN * DO + DU * HIDDEN))
        hidden = jnp.tanh(o @ (first + one.reshape(first.shape)).T)
        return hidden @ (last + two.reshape(last.shape)).T, jnp.broadcast_to(r, (N, DU))

    def relative(d):
        return Relative(out(d)[0] - out(jnp.zeros(PARAMETERS))[0], out(d)[1])

    return relative


def experience(seed, weight=None):
    rng = np.random.default_rng(seed + 100)
    weight = np.ones(N) / N if weight is None else weight
    return Experience(*map(jnp.asarray, (rng.normal(size=(N, DU)), rng.normal(size=N), weight)))


def kl_of_normals(mean, std):
    """KL(N(0, I) to N(mean, diag std^2)), as textbooks have it for any two normal distributions."""
    total = 0.0
    for mu, s in zip(mean, std, strict=True):
        cov = np.diag(s**2)
        inverse = np.linalg.inv(cov)
        total += 0.5 * (np.trace(inverse) + mu @ inverse @ mu - len(mu) + np.log(np.linalg.det(cov)))
    return total / len(mean)


def test_divergence_and_surrogate_are_those_of_normal_distributions():
    seen, new = experience(0), jax.jit(network(0))(0.1 * jnp.asarray(np.random.default_rng(1).normal(size=PARAMETERS)))
    std = np.exp(new.log_std)
    np.testing.assert_allclose(divergence(new, seen.weight), kl_of_normals(np.asarray(new.shift), std), rtol=1e-10)
    from scipy.stats import norm

    ratio = norm.pdf(seen.e, new.shift, std).prod(1) / norm.pdf(seen.e).prod(1)
    wanted = np.mean(ratio * seen.advantage) - np.mean(seen.advantage)
    np.testing.assert_allclose(surrogate(new, seen), wanted, rtol=1e-8)


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_step_is_that_of_a_dense_fisher_matrix(damping):
    """Of differences: the Hessian of the KL and the gradient of the surrogate, and NumPy's solution."""
    relative, seen = network(3), experience(3)
    zero = jnp.zeros(PARAMETERS)
    F = np.asarray(jax.hessian(lambda d: divergence(relative(d), seen.weight))(zero)) + damping * np.eye(PARAMETERS)
    g = np.asarray(jax.grad(lambda d: surrogate(relative(d), seen))(zero))
    v = np.linalg.lstsq(F, g, rcond=1e-10)[0]
    kl_step = 1e-8  # so small that the quadratic model is exact
    expected = -np.sqrt(2 * kl_step / (v @ F @ v)) * v
    found = natural_step(relative, PARAMETERS, seen, kl_step, damping, 200)
    assert found.found
    expected = expected * 0.8 ** int(found.shrinks)
    assert found.shrinks <= 1
    # where F is singular the parameters are not determined, but what they do is
    for a, b in zip(relative(found.parameters), relative(jnp.asarray(expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.sqrt(kl_step))


def test_conjugate_gradients_solve_and_stop():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    F, b = root @ root.T + np.eye(6), rng.normal(size=6)
    found = conjugate_gradients(lambda v: jnp.asarray(F) @ v, jnp.asarray(b), 6)
    np.testing.assert_allclose(found, np.linalg.solve(F, b), rtol=1e-6)
    np.testing.assert_array_equal(conjugate_gradients(lambda v: v, jnp.zeros(3), 5), np.zeros(3))


step = jax.jit(lambda seed_net, seen, kl: natural_step(seed_net, PARAMETERS, seen, kl, 0.1, 10), static_argnums=0)
NETS = [network(seed) for seed in range(3)]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2), st.integers(0, 10**6), st.floats(-6, 1), st.integers(0, N - 1))
def test_bound_holds_and_the_surrogate_falls(net, seed, log_kl, absent):
    kl = 10.0**log_kl
    weight = np.random.default_rng(seed).random(N)
    weight[:absent] = 0.0
    seen = experience(seed, weight / weight.sum())
    found = step(NETS[net], seen, kl)
    assert found.found
    new = NETS[net](found.parameters)
    known = np.asarray(seen.weight) > 0
    std = np.exp(np.asarray(new.log_std))[known]
    each = [kl_of_normals(mu[None], s[None]) for mu, s in zip(np.asarray(new.shift)[known], std, strict=True)]
    measured = np.asarray(seen.weight)[known] @ each
    np.testing.assert_allclose(found.kl, measured, rtol=1e-6, atol=1e-12)
    assert measured <= kl * (1 + 1e-6)
    assert found.surrogate < 0


def test_nothing_to_gain_leaves_the_policy():
    seen = experience(0)._replace(advantage=jnp.zeros(N))
    found = step(NETS[0], seen, 0.1)
    assert not found.found
    np.testing.assert_array_equal(found.parameters, np.zeros(PARAMETERS))
    assert found.kl == 0
