"""KL-constrained LQR as a plain nonlinear program over the controller's numbers, for SciPy."""

import numpy as np
from scipy.optimize import minimize

from oracles import dense


def pack(K, k, C):
    """One vector of all numbers; covariances by their Cholesky factors with logarithmic diagonal."""
    L = np.linalg.cholesky(C)
    i, j = np.tril_indices(L.shape[-1])
    logs = np.where(i == j, np.log(np.maximum(L[:, i, j], 1e-300)), L[:, i, j])
    return np.concatenate([K.ravel(), k.ravel(), logs.ravel()])


def unpack(numbers, T, du, dx):
    K, k, logs = np.split(numbers, [T * du * dx, T * du * (dx + 1)])
    i, j = np.tril_indices(du)
    L = np.zeros((T, du, du))
    L[:, i, j] = np.where(i == j, np.exp(logs.reshape(T, -1)), logs.reshape(T, -1))
    return K.reshape(T, du, dx), k.reshape(T, du), L @ np.swapaxes(L, 1, 2)


def measure(start, dynamics, cost, final, q, p):
    """Expected cost of the controller p = (K, k, C), and the KL of each of its steps to q, under p's states."""
    (mean, cov), (A, B, c, F), (H, h), (final_H, final_h) = start, dynamics, cost, final
    (Kq, kq, Cq), (K, k, C) = q, p
    total, kl = 0.0, []
    for t in range(len(k)):
        z, S = dense.state_action(mean, cov, K[t], k[t], C[t])
        total += 0.5 * z @ H[t] @ z + h[t] @ z + 0.5 * np.trace(H[t] @ S)
        D = K[t] - Kq[t]
        inverse = np.linalg.inv(Cq[t])
        shift = D @ mean + k[t] - kq[t]
        log_ratio = np.linalg.slogdet(Cq[t])[1] - np.linalg.slogdet(C[t])[1]
        moved = shift @ inverse @ shift + np.trace(D.T @ inverse @ D @ cov)
        kl.append(0.5 * (np.trace(inverse @ C[t]) - len(shift) + log_ratio + moved))
        AB = np.hstack([A[t], B[t]])
        mean, cov = AB @ z + c[t], AB @ S @ AB.T + F[t]
    total += 0.5 * mean @ final_H @ mean + final_h @ mean + 0.5 * np.trace(final_H @ cov)
    return total, np.array(kl)


def tied(start, dynamics, cost, final, q, p, policy, nu, lam):
    """Expected cost of p and BADMM's terms, `- lambda_t'E[u]` and `nu_t KL(p to policy)`."""
    H, h = cost
    priced = H, h - np.concatenate([np.zeros((len(lam), h.shape[1] - lam.shape[1])), lam], 1)
    total, _ = measure(start, dynamics, priced, final, q, p)
    return total + nu @ measure(start, dynamics, cost, final, policy, p)[1]


def nonlinear_program(start, dynamics, cost, final, q, bounds, begin, objective=None):
    """The lowest cost that SLSQP finds from the controller `begin`, with `bounds` on the KL: of the whole trajectory
    (a number) or of every step (an array). None where it ends outside them. `objective(p)` stands in for the cost."""
    T, du, dx = q[0].shape
    objective = objective or (lambda p: measure(start, dynamics, cost, final, q, p)[0])

    def slack(numbers):
        kl = measure(start, dynamics, cost, final, q, unpack(numbers, T, du, dx))[1]
        return bounds - (kl if np.ndim(bounds) else kl.sum())

    first = pack(*begin)
    result = minimize(
        lambda numbers: objective(unpack(numbers, T, du, dx)),
        first,
        method="SLSQP",
        bounds=np.stack([first - 5.0, first + 5.0], 1),  # it would try exp(1000)
        constraints={"type": "ineq", "fun": slack},
        options={"maxiter": 500, "ftol": 1e-12},
    )
    return result.fun if np.min(slack(result.x)) > -1e-6 else None


def covering(start, dynamics, p, policy):
    """`E_p KL(policy to p)` of every step, under p's states."""
    (mean, cov), (A, B, c, F), (Kp, kp, Cp), (K, k, C) = start, dynamics, policy, p
    kl = []
    for t in range(len(k)):
        z, S = dense.state_action(mean, cov, K[t], k[t], C[t])
        D, inverse = Kp[t] - K[t], np.linalg.inv(C[t])
        shift = D @ mean + kp[t] - k[t]
        log_ratio = np.linalg.slogdet(C[t])[1] - np.linalg.slogdet(Cp[t])[1]
        moved = shift @ inverse @ shift + np.trace(D.T @ inverse @ D @ cov)
        kl.append(0.5 * (np.trace(inverse @ Cp[t]) - len(shift) + log_ratio + moved))
        AB = np.hstack([A[t], B[t]])
        mean, cov = AB @ z + c[t], AB @ S @ AB.T + F[t]
    return np.array(kl)
