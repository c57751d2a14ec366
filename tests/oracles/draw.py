"""Random matrices, distributions and controllers for the tests, in NumPy."""

import numpy as np


def orthogonal(rng, n, d):
    """n rotations, (n, d, d)."""
    return np.linalg.qr(rng.normal(size=(n, d, d)))[0]


def covariance(rng, *shape, spread=1.0):
    """Regular covariances (*shape, d, d) whose standard deviations vary by factors of about `e ** spread`."""
    *batch, d = shape
    a = rng.normal(size=(*batch, d, d + 2)) / np.sqrt(d + 2)
    std = np.exp(spread * rng.normal(size=(*batch, d)))
    return std[..., :, None] * (a @ np.swapaxes(a, -1, -2)) * std[..., None, :]


def symmetric(rng, *shape):
    a = rng.normal(size=(*shape, shape[-1]))
    return (a + np.swapaxes(a, -1, -2)) / 2


def ill_conditioned_factor(rng, n, d, decades):
    """n Cholesky factors whose singular values fall from 1 by up to `decades` powers of ten."""
    fall = 10 ** (-rng.uniform(0, decades, n)[:, None] * np.linspace(0, 1, d)) if d > 1 else np.ones((n, 1))
    upper = np.linalg.qr(fall[:, :, None] * orthogonal(rng, n, d))[1]
    upper = upper * np.sign(np.diagonal(upper, axis1=1, axis2=2))[:, :, None]
    return np.swapaxes(upper, 1, 2)


def gains(rng, *shape):
    """Controllers `(K, k, chol)` with shape = (*batch, du, dx)."""
    *batch, du, dx = shape
    chol = np.linalg.cholesky(covariance(rng, *batch, du, spread=0.5))
    return rng.normal(size=(*batch, du, dx)), rng.normal(size=(*batch, du)), chol
