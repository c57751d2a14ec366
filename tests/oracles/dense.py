"""Gaussians by inverses and determinants of their full matrices, one at a time."""

import numpy as np


def kl(m0, S0, m1, S1):
    """KL of N(m0, S0) to N(m1, S1)."""
    inverse = np.linalg.inv(S1)
    log_ratio = np.linalg.slogdet(S1)[1] - np.linalg.slogdet(S0)[1]
    return 0.5 * (np.trace(inverse @ S0) + (m1 - m0) @ inverse @ (m1 - m0) - len(m0) + log_ratio)


def state_action(mu, S, K, k, C):
    """Mean and covariance of [x; u], by pushing independent noise through one matrix."""
    dx, du = len(mu), len(k)
    push = np.block([[np.eye(dx), np.zeros((dx, du))], [K, np.eye(du)]])
    noise = np.block([[S, np.zeros((dx, du))], [np.zeros((du, dx)), C]])
    return np.concatenate([mu, K @ mu + k]), push @ noise @ push.T


def conditional(mean, cov, n):
    """Gain, offset and covariance of the last coordinates given the first n, from the precision matrix."""
    precision = np.linalg.inv(cov)
    C = np.linalg.inv(precision[n:, n:])
    K = -C @ precision[n:, :n]
    return K, mean[n:] - K @ mean[:n], C


def trajectory(mu, S, dynamics, controller):
    """Mean and covariance of the stacked [x_0; u_0; x_1; u_1; ...; x_T], from its independent noises.

    `dynamics` is (A, B, c, F), `controller` (K, k, C), each over time.
    """
    A, B, c, F = dynamics
    K, k, C = controller
    T, du, dx = K.shape
    sizes = [dx] + [du, dx] * T
    ends = np.cumsum(sizes)
    blocks = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    # I y = from_before y + offset + noise, so y = (I - from_before)^-1 (offset + noise)
    from_before, offset, noise = (
        np.zeros((ends[-1], ends[-1])),
        np.zeros(ends[-1]),
        np.zeros((ends[-1], ends[-1])),
    )
    offset[blocks[0]], noise[blocks[0], blocks[0]] = mu, S
    for t in range(T):
        x, u, after = blocks[2 * t], blocks[2 * t + 1], blocks[2 * t + 2]
        from_before[u, x], offset[u], noise[u, u] = K[t], k[t], C[t]
        from_before[after, x], from_before[after, u] = A[t], B[t]
        offset[after], noise[after, after] = c[t], F[t]
    solve = np.linalg.inv(np.eye(ends[-1]) - from_before)
    return solve @ offset, solve @ noise @ solve.T
