"""The controller's trust-region problem, three times: measured, as a nonlinear program, as the paper's dual.

    minimise E[Q]   s.t.   E KL(new to old) <= kl_step,   H(new) - H(old) >= -entropy_drop

over new controllers u ~ N(K x + k, W W'), in the action's own units. The old one is N(K0 x + k0, R R'), x ~ N(mu, S).
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import minimize


@dataclass
class Measured:
    """What two factors and gains really amount to, in coordinates whitened by the old covariance."""

    kl: float
    entropy_change: float
    rounding: float
    """Error of `kl` that rounding the controller's numbers to float64 entails."""


def measure(K, k, W, K0, k0, R, mu, S):
    eps = np.finfo(float).eps

    def whitened(a):
        return solve_triangular(R, a, lower=True, check_finite=False)

    d = K @ mu + k - (K0 @ mu + k0)
    spread, gain, shift = whitened(W), whitened(K - K0), whitened(d)
    change = np.log(np.diagonal(W) / np.diagonal(R)).sum()
    kl = 0.5 * ((spread**2).sum() - len(k) - 2 * change + shift @ shift + np.trace(gain @ S @ gain.T))
    # a whitened number y with error e errs by about |y| e in 1/2 y^2; the errors are those of the last digits
    amplify = np.abs(whitened(np.eye(len(k))))
    std = np.sqrt(np.diagonal(S))
    last_digit = [
        amplify @ (np.abs(R) @ np.abs(spread) + np.abs(W)),
        amplify @ (np.abs(K) + np.abs(K0)) * std,
        amplify @ (np.abs(k) + np.abs(k0) + (np.abs(K) + np.abs(K0)) @ np.abs(mu)),
    ]
    error = 4 * eps * np.sqrt(sum((e**2).sum() for e in last_digit))
    return Measured(kl, change, error * np.sqrt(2 * abs(kl) + error**2))


def expected_cost(K, k, W, mu, S, H, h):
    """`E[1/2 z'Hz + h'z]` of z = [x; u]."""
    A = np.vstack([np.eye(len(mu)), K])
    mean = np.concatenate([mu, K @ mu + k])
    cov = A @ S @ A.T
    cov[len(mu) :, len(mu) :] += W @ W.T
    return 0.5 * mean @ H @ mean + h @ mean + 0.5 * np.trace(H @ cov)


def nonlinear_program(K0, k0, R, mu, S, H, h, kl_step, entropy_drop, start):
    """The best controller that SLSQP finds from a perturbation `start` of the old one, or None.

    Variables are the entries of K, k and W (lower triangle).
    """
    du, dx = K0.shape
    lower = np.tril_indices(du)

    def unpack(y):
        W = np.zeros((du, du))
        W[lower] = y[du * dx + du :]
        return y[: du * dx].reshape(du, dx), y[du * dx : du * dx + du], W

    unit = 10 * (np.abs(H).max() + np.abs(h).max())  # small slopes: SLSQP's first step is as long as they are

    def objective(y):
        return expected_cost(*unpack(y), mu, S, H, h) / unit

    def entropy_change(W):
        return np.log(np.diagonal(W) / np.diagonal(R)).sum()

    def slacks(y):
        K, k, W = unpack(y)
        C = R @ R.T
        d = (K - K0) @ mu + k - k0
        quadratic = np.trace(np.linalg.solve(C, W @ W.T + (K - K0) @ S @ (K - K0).T + np.outer(d, d)))
        kl = 0.5 * (quadratic - du) - entropy_change(W)
        slack = [kl_step - kl]
        return np.array(slack if np.isinf(entropy_drop) else [*slack, entropy_change(W) + entropy_drop])

    on_diagonal = lower[0] == lower[1]
    floor = np.concatenate([np.full(du * dx + du, -np.inf), np.where(on_diagonal, 1e-3 * R[lower], -np.inf)])
    y0 = np.concatenate([K0.ravel(), k0, R[lower]]) + start
    found = minimize(
        objective,
        np.maximum(y0, floor),
        method="SLSQP",
        bounds=[(low, None) for low in floor],
        constraints={"type": "ineq", "fun": slacks},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return unpack(found.x) if slacks(found.x).min() > -1e-8 else None


def paper_dual(eta, omega, K, k, C, mu, S, Quu, Qux, qu, eps, beta):
    """MOTO's dual function g(eta, omega), with Q a *reward*; infinite outside its domain."""
    precision = np.linalg.inv(C)
    eigenvalues = np.linalg.eigvalsh(eta * precision - Quu)
    if eigenvalues.min() <= 0 or eta < 0 or omega < 0:
        return np.inf
    F = np.linalg.inv(eta * precision - Quu)
    L, f = eta * precision @ K + Qux, eta * precision @ k + qu
    M = 0.5 * (L.T @ F @ L - eta * K.T @ precision @ K)
    m = L.T @ F @ f - eta * K.T @ precision @ k
    m0 = 0.5 * (
        f @ F @ f
        - eta * k @ precision @ k
        - eta * np.linalg.slogdet(2 * np.pi * C)[1]
        + (eta + omega) * np.linalg.slogdet(2 * np.pi * (eta + omega) * F)[1]
    )
    return eta * eps - omega * beta + mu @ M @ mu + np.trace(S @ M) + mu @ m + m0


def minimise_paper_dual(K, k, R, mu, S, Quu, Qux, qu, kl_step, entropy_drop):
    """`(g, eta, omega)` at the dual's minimum: a grid over both multipliers, then simplex searches from the best.

    The multipliers are searched as `eta = eta_min + exp(a)` and `omega = exp(b)`; omega = 0 apart.
    """
    C = R @ R.T
    beta = 0.5 * (len(k) * (1 + np.log(2 * np.pi)) + np.linalg.slogdet(C)[1]) - entropy_drop
    eta_min = max(0.0, np.linalg.eigvalsh(R.T @ Quu @ R).max())

    def multipliers(y):
        return eta_min + np.exp(y[0]), np.exp(y[1]) if len(y) == 2 else 0.0

    def value(y):
        eta, omega = multipliers(y)
        return paper_dual(eta, omega, K, k, C, mu, S, Quu, Qux, qu, kl_step, beta if omega else 0.0)

    def search(y):
        options = {"xatol": 1e-10, "fatol": 1e-14, "maxiter": 4000, "maxfev": 4000}
        return minimize(value, y, method="Nelder-Mead", options=options).x

    grid = np.linspace(-16, 8, 25)
    grids = [[(a,) for a in grid]]
    if np.isfinite(entropy_drop):
        grids.append([(a, b) for a in grid for b in grid])
    best = min((search(search(y)) for points in grids for y in sorted(points, key=value)[:2]), key=value)
    return value(best), *multipliers(best)
