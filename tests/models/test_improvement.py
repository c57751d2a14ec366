"""Theorem 4's terms against integrals and samples; the bound against the exact change of thousands of linear chains."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import constrained_lqr, dense, draw, regulator

from pilotfish.algebra.dual import WhiteStep
from pilotfish.models import improvement
from pilotfish.types import Quadratic

T, DX, DU = 5, 3, 2
CASES = 3000
advantages = jax.jit(jax.vmap(jax.vmap(improvement.advantage)))


@jax.jit
@jax.vmap
def changes(Q, step, kl, s, seen):
    """`seen` (n,) stands for all steps, or (T, n)."""
    return improvement.change(Q, step, kl, s, jnp.broadcast_to(seen, s.shape[:2]))


state_kls = jax.jit(jax.vmap(improvement.state_kl, (0, None)), static_argnums=1)


def white_step(rng, *batch, du=DU, dx=DX, size=1.0):
    """New controllers in the white coordinates of the current ones; the smaller `size`, the less they differ."""
    scale = np.asarray(size)[..., None]
    chol = np.eye(du) + np.tril(scale[..., None] * rng.normal(size=(*batch, du, du)), -1)
    i = np.arange(du)
    chol[..., i, i] = np.exp(scale * rng.normal(size=(*batch, du)))
    return scale[..., None] * rng.normal(size=(*batch, du, dx)), scale * rng.normal(size=(*batch, du)), chol


def controllers_kl(G, g, chol, n, S):
    """E KL of `e ~ N(Gs + g, chol chol')` to N(0, I) for states s ~ N(n, S)."""
    mean = np.einsum("...ij,...j->...i", G, n) + g
    spread = np.einsum("...ij,...jk,...ik->...", G, S, G) + (chol**2).sum((-2, -1)) - g.shape[-1]
    return 0.5 * (spread + (mean**2).sum(-1) - np.log(np.linalg.det(chol) ** 2))


def states_kl(n, S):
    """KL of N(n, S) to N(0, I)."""
    return 0.5 * (np.trace(S, axis1=-2, axis2=-1) - n.shape[-1] - np.linalg.slogdet(S)[1] + (n**2).sum(-1))


def expectation(a, n, S):
    linear = np.einsum("...i,...i->...", a.h, n) + a.c
    return linear + 0.5 * (np.einsum("...i,...ij,...j->...", n, a.H, n) + np.einsum("...ij,...ji->...", a.H, S))


def quadratic(rng, *batch, d=DX + DU):
    numbers = draw.symmetric(rng, *batch, d), rng.normal(size=(*batch, d)), rng.normal(size=batch)
    return Quadratic(*map(jnp.asarray, numbers))


def normal_density(e, mean, cov):
    d = e - mean
    exponent = np.einsum("...i,ij,...j->...", d, np.linalg.inv(cov), d)
    return np.exp(-0.5 * exponent) / np.sqrt(np.linalg.det(2 * np.pi * cov))


@pytest.mark.parametrize("seed", range(3))
def test_advantage_is_the_integral_of_q_over_the_change_of_density(seed):
    rng = np.random.default_rng(seed)
    Q, (G, g, chol) = quadratic(rng), white_step(rng, size=0.4)
    line = np.linspace(-12, 12, 241)
    e = np.stack(np.meshgrid(line, line, indexing="ij"), -1)
    found = improvement.advantage(Q, WhiteStep(*map(jnp.asarray, (G, g, chol))))
    for s in rng.normal(size=(4, DX)):
        z = np.concatenate([np.broadcast_to(s, (*e.shape[:-1], DX)), e], -1)
        q = 0.5 * np.einsum("...i,ij,...j->...", z, Q.H, z) + z @ Q.h + Q.c
        change = normal_density(e, G @ s + g, chol @ chol.T) - normal_density(e, np.zeros(DU), np.eye(DU))
        np.testing.assert_allclose(found(jnp.asarray(s)), (q * change).sum() * (line[1] - line[0]) ** 2, rtol=1e-9)


def test_sum_of_expected_advantages_is_that_of_samples():
    rng, n = np.random.default_rng(3), 400_000
    Q, step = quadratic(rng, 1, T), white_step(rng, 1, T, size=0.5)
    found = changes(Q, WhiteStep(*step), np.ones((1, T)), np.zeros((1, T, 1, DX)), np.ones((1, 1), bool)).advantage
    total, variance = 0.0, 0.0
    for t in range(T):
        s, e = rng.normal(size=(n, DX)), rng.normal(size=(n, DU))
        G, g, chol = (leaf[0, t] for leaf in step)
        old, new = np.concatenate([s, e], -1), np.concatenate([s, s @ G.T + g + e @ chol.T], -1)
        q_old, q_new = (0.5 * ((z @ Q.H[0, t]) * z).sum(-1) + z @ Q.h[0, t] for z in (old, new))
        total, variance = total + (q_new - q_old).mean(), variance + (q_new - q_old).var() / n
    assert abs(found[0] - total) < 4 * np.sqrt(variance)
    assert np.sqrt(variance) < 0.02 * abs(total)


def test_bound_is_theorem_4_written_out():
    rng = np.random.default_rng(4)
    Q, step = quadratic(rng, 1, T), white_step(rng, 1, T, size=0.5)
    kl, s, seen = rng.uniform(0.04, 0.08, (1, T)), rng.normal(size=(1, T, 9, DX)), np.ones((1, T, 9), bool)
    s[0, :, 4], seen[0, :, 4] = np.nan, False
    found = changes(Q, WhiteStep(*step), kl, s, seen)
    a, divergence, bound = advantages(Q, WhiteStep(*step)), [0.0], float(found.advantage[0])
    for t in range(T):
        H, h, c = a.H[0, t], a.h[0, t], a.c[0, t]
        delta = max(abs(0.5 * x @ H @ x + h @ x + c) for x in s[0, t, seen[0, t]])
        bound += 2 * delta * min(1.0, np.sqrt(divergence[t] / 2))
        divergence.append(divergence[t] + kl[0, t] * (3 + 8 * divergence[t] + 2 * DX))
    assert divergence[2] < 2 < divergence[4]  # the minimum is now the one, now the other
    np.testing.assert_allclose(found.bound[0], bound, rtol=1e-10)


def test_a_divergence_that_overflows_leaves_the_bound_finite():
    rng, steps = np.random.default_rng(5), 300
    Q, step = quadratic(rng, 1, steps), white_step(rng, 1, steps)
    kl, s = np.full((1, steps), 10.0), rng.normal(size=(1, steps, 4, DX))
    kl[0, -5:] = 0.0, -1e-17, 1e300, 0.0, 1.0
    found = changes(Q, WhiteStep(*step), kl, s, np.ones((1, 4), bool))
    assert np.isinf(state_kls(kl, DX)[0, -1])
    assert np.isfinite(found.bound[0])
    assert changes(Q, WhiteStep(*step), kl, s, np.zeros((1, 4), bool)).bound == found.advantage  # no state seen
    assert np.isfinite(changes(Q, WhiteStep(*step), np.full_like(kl, -1e-17), s, np.ones((1, 4), bool)).bound[0])


class Chains(NamedTuple):
    """Linear-Gaussian chains with quadratic costs under a controller q and another one, p; leading axes: chain, time.

    All but the costs' change is in the white coordinates of q.
    """

    Q_hessian: np.ndarray
    Q_gradient: np.ndarray
    G: np.ndarray
    g: np.ndarray
    chol: np.ndarray
    n: np.ndarray
    """Mean and covariance of p's states; q's are standard normal."""
    S: np.ndarray
    kl: np.ndarray
    """KL of p to q under p's states."""
    change: np.ndarray
    """J(p) - J(q)."""

    def model(self):
        Q = Quadratic(jnp.asarray(self.Q_hessian), jnp.asarray(self.Q_gradient), jnp.zeros(self.g.shape[:-1]))
        return Q, WhiteStep(*self[2:5])

    def kl_under_q(self):
        return controllers_kl(*self[2:5], np.zeros(DX), np.eye(DX))


def chain(rng):
    """One chain: everything exact, from the joint Gaussian of its trajectory and the recursion of its Q-functions."""
    A, B = np.eye(DX) + 0.2 * rng.normal(size=(T, DX, DX)), 0.5 * rng.normal(size=(T, DX, DU))
    dynamics = A, B, rng.normal(size=(T, DX)), draw.covariance(rng, T, DX, spread=0.3)
    start, ends = (rng.normal(size=DX), draw.covariance(rng, DX, spread=0.3)), (draw.symmetric(rng, DX), np.ones(DX))
    cost = draw.symmetric(rng, T, DX + DU), rng.normal(size=(T, DX + DU))
    K, k, R = draw.gains(rng, T, DU, DX)
    q = 0.3 * K, k, R @ np.swapaxes(R, 1, 2)
    G, g, chol = white_step(rng, T, size=np.full(T, 10 ** rng.uniform(-2.5, 0)))
    mu, L = states(start, dynamics, q)
    move = R @ G @ np.linalg.inv(L)
    new = R @ chol
    p = (
        q[0] + move,
        k + np.einsum("tij,tj->ti", R, g) - np.einsum("tij,tj->ti", move, mu),
        new @ np.swapaxes(new, 1, 2),
    )
    Qs, _ = regulator.evaluate(*dynamics, *cost, np.zeros(T), *ends, 0.0, *q)
    H, h = map(np.array, zip(*[Q[:2] for Q in Qs], strict=True))
    M = np.concatenate([np.concatenate([L, np.zeros((T, DX, DU))], 2), np.concatenate([q[0] @ L, R], 2)], 1)
    z = np.concatenate([mu, np.einsum("tij,tj->ti", q[0], mu) + k], 1)
    new_mu, new_L = states(start, dynamics, p)
    white = np.linalg.inv(L) @ new_L
    J_q, _ = constrained_lqr.measure(start, dynamics, cost, ends, q, q)
    J_p, kl = constrained_lqr.measure(start, dynamics, cost, ends, q, p)
    return Chains(
        Q_hessian=np.swapaxes(M, 1, 2) @ H @ M,
        Q_gradient=np.einsum("tji,tj->ti", M, np.einsum("tij,tj->ti", H, z) + h),
        G=G,
        g=g,
        chol=chol,
        n=np.linalg.solve(L, (new_mu - mu)[..., None])[..., 0],
        S=white @ np.swapaxes(white, 1, 2),
        kl=kl,
        change=np.array(J_p - J_q),
    )


def states(start, dynamics, controller):
    """Means and factors of a chain's states, from its joint Gaussian."""
    mean, cov = dense.trajectory(*start, dynamics, controller)
    at = [slice(t * (DX + DU), t * (DX + DU) + DX) for t in range(T)]
    return np.array([mean[i] for i in at]), np.linalg.cholesky([cov[i, i] for i in at])


@pytest.fixture(scope="module")
def chains():
    rng = np.random.default_rng(6)
    return Chains(*map(np.stack, zip(*[chain(rng) for _ in range(CASES)], strict=True)))


@pytest.mark.slow
def test_advantages_under_the_new_states_sum_to_the_change_of_cost(chains):
    """Lemma 1."""
    terms = expectation(advantages(*chains.model()), chains.n, chains.S)
    np.testing.assert_allclose(terms.sum(1), chains.change, rtol=1e-7, atol=1e-9 * np.abs(terms).max())


def test_no_change_of_cost_exceeds_the_bound(chains):
    """Theorem 4, with the largest advantage among 30 states of each of the two distributions."""
    s = np.random.default_rng(7).normal(size=(CASES, T, 60, DX))
    new = np.einsum("ctij,ctnj->ctni", np.linalg.cholesky(chains.S), s[:, :, 30:]) + chains.n[:, :, None]
    s = np.concatenate([s[:, :, :30], new], 2)
    found = changes(*chains.model(), chains.kl_under_q(), s, np.ones((CASES, 60), bool))
    assert (chains.change <= found.bound).all()
    assert (chains.change > found.advantage).mean() > 0.3  # the advantage alone is no bound
    assert (found.bound < 0).sum() > 10  # and yet it can guarantee an improvement


def test_no_divergence_of_the_states_exceeds_its_bound(chains):
    bound, exact = state_kls(chains.kl_under_q(), DX), states_kl(chains.n, chains.S)
    assert (exact <= bound * (1 + 1e-9) + 1e-12).all()
    assert (exact[:, 1:] > 0).all()


@pytest.mark.parametrize("dx", [1, 3, 8])
def test_repaired_inequality_of_appendix_b(dx):
    """`E_p KL <= eps (3 + 8 d + 2 dx)` is by how much the bound grows in a step."""
    rng, n = np.random.default_rng(8), 10_000
    G, g, chol = white_step(rng, n, dx=dx, size=10 ** rng.uniform(-3, 1, n))
    chol[::2] = np.eye(DU)  # the KL is all in the means
    mean, S = 10 ** rng.uniform(-3, 1.5, (n, 1)) * rng.normal(size=(n, dx)), draw.covariance(rng, n, dx, spread=1.5)
    # where p's states lie, vary and are answered to in one direction, and its actions are pushed the same way
    G[::4], S[::4] = 0.0, np.eye(dx)
    G[::4, 0, 0], mean[::4, 1:], S[::4, 0, 0] = 10 ** rng.uniform(-3, 1, n // 4), 0.0, 10 ** rng.uniform(-2, 2, n // 4)
    g[::4] = G[::4, :, 0] * mean[::4, :1]
    eps, d = controllers_kl(G, g, chol, np.zeros(dx), np.eye(dx)), states_kl(mean, S)
    before, after = state_kls(np.stack([d / (3 + 2 * dx), eps, eps], 1), dx)[:, 1:].T
    np.testing.assert_allclose(before, d, rtol=1e-9)
    found = controllers_kl(G, g, chol, mean, S)
    assert (found <= (after - before) * (1 + 1e-9)).all()
