"""MOTO in NumPy, batched over time steps or rollouts: what a careful author without JAX would write.

It shares no code with pilotfish. `tests/algorithms/test_numpy.py` holds the two against each other on the same
data, and `benchmarks/run.py` times them side by side.
"""

import numpy as np


def swing_up(links, torque, limit, K, k, chol, samples, seed):
    """Rollouts (x, u, cost) of a chain of links, all samples advancing together; the equations of MOTO's tasks."""
    rng, T = np.random.default_rng(seed), len(k)
    d = np.tril(np.ones((links, links)), -1) + 0.5 * np.eye(links)
    c, gamma = d.T @ d + (1 + 1e-4) / 3 * np.eye(links), d.sum(0)

    def derivative(x, u):
        theta, speed = x[:, :links], x[:, links:]
        phi, omega = np.cumsum(theta, 1), np.cumsum(speed, 1)
        sin, cos = np.sin(phi), np.cos(phi)
        if limit is not None:
            beyond = np.abs(theta) > limit
            beyond[:, 0] = False
            u = np.where(beyond, -100 * (theta - np.sign(theta) * limit) - 10 * speed, u)
        joint = u - 0.025 * speed
        tau = joint - np.concatenate([joint[:, 1:], np.zeros((len(x), 1))], 1)
        same, across = np.einsum("mi,mj->mij", cos, cos), np.einsum("mi,mj->mij", sin, cos)
        M = c * (same + np.einsum("mi,mj->mij", sin, sin))
        force = np.einsum("ij,mij,mj->mi", c, across - across.transpose(0, 2, 1), omega**2)
        acceleration = np.linalg.solve(M, (tau - force + 9.81 * gamma * sin)[..., None])[..., 0]
        return np.concatenate([speed, np.diff(acceleration, axis=1, prepend=0)], 1)

    x = rng.normal(size=(samples, 2 * links)) * 1e-2
    x[:, 0] += np.pi
    noise, xs, us = rng.normal(size=(T, samples, links)), [x], []
    disturbance = 1e-4 * rng.normal(size=(T, samples, 2 * links))
    for t in range(T):
        u = x @ K[t].T + k[t] + noise[t] @ chol[t].T
        clipped, h = np.clip(u, -torque, torque), 0.01
        for _ in range(5):
            k1 = derivative(x, clipped)
            k2 = derivative(x + h / 2 * k1, clipped)
            k3 = derivative(x + h / 2 * k2, clipped)
            k4 = derivative(x + h * k3, clipped)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        x = x + disturbance[t]
        xs.append(x)
        us.append(u)
    x, u = np.stack(xs, 1), np.stack(us, 1)
    cost = np.zeros(x.shape[:2])
    cost[:, :T] = (u**2).sum(-1)
    cost[:, T - 20 : T] += 1e4 * (x[:, T - 20 : T, :links] ** 2).sum(-1) + (x[:, T - 20 : T, links:] ** 2).sum(-1)
    return x, u, cost


def features(s):
    """Orthonormal quadratic features of white inputs s (..., d)."""
    d = s.shape[-1]
    i, j = np.triu_indices(d, 1)
    return np.concatenate([np.ones((*s.shape[:-1], 1)), s, s[..., i] * s[..., j], (s**2 - 1) / np.sqrt(2)], -1)


def factor(cov):
    """Cholesky factors of covariances (..., d, d) that may be singular."""
    std = np.sqrt(np.maximum(np.einsum("...ii->...i", cov), 1e-12))
    correlation = cov / (std[..., :, None] * std[..., None, :]) + 1e-9 * np.eye(cov.shape[-1])
    return std[..., :, None] * np.linalg.cholesky(correlation)


def regress(phi, weight, y, ridge):
    """Ridge regression at each step: phi (T, n, p), weight (T, n) summing to 1, y (T, n), ridge (T,)."""
    penalty = np.repeat(ridge[:, None], phi.shape[-1], 1)
    penalty[:, 0] = 1e-12
    weighted = phi * weight[..., None]
    gram = np.matmul(weighted.transpose(0, 2, 1), phi)
    gram += penalty[:, :, None] * np.eye(phi.shape[-1])
    return np.linalg.solve(gram, np.matmul(weighted.transpose(0, 2, 1), y[..., None]))[..., 0]


def value_targets(white, weight, cost, ridge):
    """Targets `cost + V(next state)`; white (T, n, dx): states, the arrivals of the step before."""
    T, _, _ = white.shape
    phi = features(white)
    weighted = phi * weight[..., None]
    gram = np.matmul(weighted.transpose(0, 2, 1), phi)
    penalty = np.repeat(ridge[:, None], phi.shape[-1], 1)
    penalty[:, 0] = 1e-12
    projection = np.linalg.solve(gram + penalty[:, :, None] * np.eye(phi.shape[-1]), weighted.transpose(0, 2, 1))
    target = np.empty_like(cost[:T])
    ahead = cost[T]
    for t in reversed(range(T)):
        target[t] = cost[t] + ahead
        ahead = phi[t] @ (projection[t] @ target[t])
    return target


def trust_region(H, B, b, kl_step, entropy_drop, iterations=60):
    """The KL- and entropy-bounded minimiser of `1/2 e'He + e'(Bs + b)` at each step, in white coordinates.

    Newton steps on log KL against log(eta - eta_min), vectorised over the steps and kept inside a bracket.
    """
    lam, U = np.linalg.eigh(H)
    slope = np.matmul(U.transpose(0, 2, 1), np.concatenate([B, b[..., None]], -1))
    w = (slope**2).sum(-1)
    du = lam.shape[-1]
    eta_min = np.maximum(-lam.min(-1), 0.0)
    scale = np.maximum(np.abs(lam).max(-1), np.sqrt(w.max(-1)))
    lo, hi = np.log(scale) - 300.0, np.log(scale * (4 + 10 * np.sqrt(du / kl_step)))

    def kl_and_derivative(x):
        eta = eta_min + x
        a = x[:, None] + (lam + eta_min[:, None])
        c = np.maximum(eta, np.exp(np.log(a).mean(-1) - 2 * entropy_drop / du))
        r = c[:, None] / a
        kl = 0.5 * (r - 1 - np.log(r) + w / a**2).sum(-1)
        dc = np.where(c > eta, c * (1 / a).mean(-1), 1.0)
        grad = 0.5 * ((dc[:, None] - r) / a - dc[:, None] / c[:, None] + 1 / a - 2 * w / a**3).sum(-1)
        return kl, grad, a, c

    with np.errstate(divide="ignore", invalid="ignore"):
        tight = kl_and_derivative(np.exp(lo))[0] > kl_step
    s = np.clip(0.5 * np.log((lam**2 / 2 + w).sum(-1) / (2 * kl_step)), lo + 1, hi - 1e-3)
    for _ in range(iterations):
        x = np.exp(s)
        kl, grad, *_ = kl_and_derivative(x)
        f = np.log(kl / kl_step)
        if np.abs(np.where(tight, f, 0.0)).max() < 1e-11:
            break
        lo, hi = np.where(f > 0, s, lo), np.where(f > 0, hi, s)
        newton = s - f * kl / (grad * x)
        s = np.where(np.abs(f) < 1e-12, s, np.where((newton > lo) & (newton < hi), newton, 0.5 * (lo + hi)))
    s = np.where(tight, s, np.log(scale) - 300.0)
    kl, _, a, c = kl_and_derivative(np.exp(s))
    move = -np.matmul(U, slope / a[..., None])
    chol = np.linalg.cholesky(np.matmul(U * (c[:, None] / a)[:, None, :], U.transpose(0, 2, 1)))
    return move[..., :-1], move[..., -1], chol, kl


def update(x, u, cost, K, k, chol, kl_step=0.1, entropy_drop=0.05, ridge=1e-4):
    """One update without reuse: x (M, T+1, dx), u (M, T, du), cost (M, T+1); the controller over T."""
    M, T, _ = u.shape
    dx = x.shape[-1]
    states, actions, cost = x[:, :-1].transpose(1, 0, 2), u.transpose(1, 0, 2), cost.T
    mean = states.mean(1)
    centred = states - mean[:, None]
    L = factor(np.matmul(centred.transpose(0, 2, 1), centred) / M)
    L_inverse, R_inverse = np.linalg.inv(L), np.linalg.inv(chol)
    s = np.matmul(centred, L_inverse.transpose(0, 2, 1))
    e = np.matmul(actions - np.matmul(states, K.transpose(0, 2, 1)) - k[:, None], R_inverse.transpose(0, 2, 1))
    weight, ridges = np.full((T, M), 1.0 / M), np.full(T, ridge)
    target = value_targets(s, weight, cost, ridges)
    coef = regress(features(np.concatenate([s, e], -1)), weight, target, ridges)
    return improve(coef, dx, K, k, chol, mean, L_inverse, kl_step, entropy_drop)


def improve(coef, dx, K, k, chol, mean, L_inverse, kl_step, entropy_drop):
    """The new controller of every step from the coefficients of its Q-function in white coordinates."""
    T, du = k.shape
    d = dx + du
    i, j = np.triu_indices(d, 1)
    H = np.zeros((T, d, d))
    H[:, i, j] = H[:, j, i] = coef[:, 1 + d : 1 + d + len(i)]
    H[:, range(d), range(d)] = np.sqrt(2) * coef[:, 1 + d + len(i) :]
    G, g, factor_e, kl = trust_region(H[:, dx:, dx:], H[:, dx:, :dx], coef[:, 1 + dx : 1 + d], kl_step, entropy_drop)
    gain = np.matmul(chol, np.matmul(G, L_inverse))
    offset = np.matmul(chol, g[..., None])[..., 0] - np.matmul(gain, mean[..., None])[..., 0]
    return K + gain, k + offset, np.matmul(chol, factor_e), kl


def reusing_update(history, cost_of, K, k, chol, *, decay=0.8, kl_step=0.1, entropy_drop=0.05, ridge=1e-4):
    """One update that reuses the samples of all time steps and kept iterations.

    `history` lists, newest first, (x, u, K, k, chol, mean, L) of each iteration, x (M, T+1, dx); mean and L of the
    newest are None and are found here. `cost_of(x, u, t)` is batched over samples. No final cost.
    """
    M, T, du = history[0][1].shape
    dx, n_kept = history[0][0].shape[-1], len(history)
    decayed = decay ** np.arange(n_kept)
    share = decayed / (decayed.sum() * M)
    states = np.stack([item[0][:, :-1] for item in history])
    mean = np.einsum("j,jmtd->td", share, states)
    centred = states - mean
    L = factor(np.einsum("j,jmtd,jmte->tde", share, centred, centred))
    now = (K, k, chol, mean, L)
    components = [now, *((*item[2:5], item[5], item[6]) for item in history[1:])]
    X = states.reshape(-1, dx)
    U = np.concatenate([item[1].reshape(-1, du) for item in history])
    X_next = np.concatenate([item[0][:, 1:].reshape(-1, dx) for item in history])

    def log_density(component):
        """(T, n), up to the constant of 2 pi."""
        K, k, chol, mean, L = component
        L_inverse, R_inverse = np.linalg.inv(L), np.linalg.inv(chol)
        s = np.matmul(X - mean[:, None], L_inverse.transpose(0, 2, 1))
        e = np.matmul(U - np.matmul(X, K.transpose(0, 2, 1)) - k[:, None], R_inverse.transpose(0, 2, 1))
        diagonals = np.log(np.einsum("tii->ti", L)).sum(-1) + np.log(np.einsum("tii->ti", chol)).sum(-1)
        return -0.5 * ((s**2).sum(-1) + (e**2).sum(-1)) - diagonals[:, None], s, e

    logs = []
    for number, component in enumerate(components):
        log_z, s_c, e_c = log_density(component)
        if number == 0:
            log_now, s, e = log_z, s_c, e_c
        top = log_z.max(0)
        logs.append(top + np.log(np.exp(log_z - top).mean(0)))
    stacked = np.stack(logs) - np.log(n_kept)
    top = stacked.max(0)
    log_weight = log_now - (top + np.log(np.exp(stacked - top).sum(0)))
    weight = np.exp(log_weight - log_weight.max(1, keepdims=True))
    weight /= weight.sum(1, keepdims=True)
    p = 1 + (dx + du) * (dx + du + 3) // 2
    ess = 1.0 / (weight**2).sum(1)
    ridges, evidence = ridge * np.maximum(1.0, p / ess) ** 2, np.minimum(1.0, ess / p)
    cost = np.stack([cost_of(X, U, t) for t in range(T)])
    L_inverse = np.linalg.inv(L)
    ahead, coef = np.zeros(len(X)), np.empty((T, p))
    for t in reversed(range(T)):
        y = cost[t] + ahead
        phi = features(s[t])
        value = regress(phi[None], weight[t : t + 1], y[None], ridges[t : t + 1])[0]
        z = features(np.concatenate([s[t], e[t]], -1))
        coef[t] = regress(z[None], weight[t : t + 1], y[None], ridges[t : t + 1])[0]
        ahead = features((X_next - mean[t]) @ L_inverse[t].T) @ value
    return improve(coef, dx, K, k, chol, mean, L_inverse, kl_step * evidence, entropy_drop * evidence)
