"""Random linear-quadratic problems about a reference controller, in NumPy and as ours."""

import jax
import jax.numpy as jnp
import numpy as np

from oracles import draw
from pilotfish.types import Gaussian, LinearDynamics, LinearGaussian, Quadratic


def systems(seed, n, T, dx, du, growth=1.0, convex=True, spread=0.5):
    """n random problems in NumPy: start, dynamics, cost, final cost, and reference (K, k, C)."""
    rng = np.random.default_rng(seed)
    A = growth * draw.orthogonal(rng, n * T, dx).reshape(n, T, dx, dx) + 0.1 * rng.normal(size=(n, T, dx, dx))
    B, c = rng.normal(size=(n, T, dx, du)), 0.3 * rng.normal(size=(n, T, dx))
    F = 0.05 * draw.covariance(rng, n, T, dx, spread=spread)
    if convex:
        H, final_H = draw.covariance(rng, n, T, dx + du, spread=spread), draw.covariance(rng, n, dx, spread=spread)
    else:
        H, final_H = draw.symmetric(rng, n, T, dx + du), draw.symmetric(rng, n, dx)
    K, k, chol = draw.gains(rng, n, T, du, dx)
    q = 0.2 * K, k, chol @ np.swapaxes(chol, -1, -2)
    start = rng.normal(size=(n, dx)), 0.3 * draw.covariance(rng, n, dx, spread=spread)
    return start, (A, B, c, F), (H, rng.normal(size=(n, T, dx + du))), (final_H, rng.normal(size=(n, dx))), q


def single(problem, i):
    """The problem number i of several."""
    return jax.tree.map(lambda leaf: leaf[i], problem)


def ours(problem):
    """The same in our types."""
    start, dynamics, (H, h), (final_H, final_h), q = jax.tree.map(jnp.asarray, problem)
    return (
        Gaussian(*start),
        LinearDynamics(*dynamics),
        Quadratic(H, h, jnp.zeros(h.shape[:-1])),
        Quadratic(final_H, final_h, jnp.zeros(final_h.shape[:-1])),
        controller(q),
    )


def controller(numbers_):
    """K, k and C as ours."""
    K, k, C = map(jnp.asarray, numbers_)
    return LinearGaussian(K, k, jnp.linalg.cholesky(C))


def numbers(controller, i=...):
    """K, k and C of one of several controllers, in NumPy."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf[i]), controller)
    return p.K, p.k, p.chol @ p.chol.T if p.chol.ndim == 2 else p.chol @ np.swapaxes(p.chol, -1, -2)


def ties(seed, problems):
    """A policy, weights nu of the KL to it and multipliers lambda of its actions, for each of n problems."""
    rng = np.random.default_rng(seed)
    n, T, du, dx = problems[-1][0].shape
    K, k, chol = draw.gains(rng, n, T, du, dx)
    policy = 0.3 * K, k, chol @ np.swapaxes(chol, -1, -2)
    return policy, rng.uniform(0.2, 2.0, (n, T)), rng.normal(size=(n, T, du))
