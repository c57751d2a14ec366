"""The C-step in NumPy, batched over conditions: the same passes as updates/c_step, as NumPy does them best.

Arrays have the axes (condition, time, ...) and are those of the white coordinates of updates/c_step.
"""

import numpy as np


def one_pass(A, B, noise, cost, final, start, eta):
    """Backward and forward for the multipliers eta (condition,): gains, factors, and KL (condition, time)."""
    N, T, n, du = B.shape
    V, AB = final, np.concatenate([A, B], -1)
    W, slope = np.empty((N, T, du, du)), np.empty((N, T, du, n))
    penalty = eta[:, None, None] * np.eye(du)
    for t in reversed(range(T)):
        Q = cost[:, t] + AB[:, t].swapaxes(-1, -2) @ (V @ AB[:, t])
        inverse = np.linalg.inv(np.linalg.cholesky(Q[:, n:, n:] + penalty))
        W[:, t] = inverse.swapaxes(-1, -2)
        slope[:, t] = inverse @ Q[:, n:, :n]
        V = Q[:, :n, :n] - slope[:, t].swapaxes(-1, -2) @ slope[:, t]
    G, factor = -W @ slope, np.sqrt(eta)[:, None, None, None] * W
    closed, spread = A + B @ G, B @ factor
    noise = noise + spread @ spread.swapaxes(-1, -2)
    ww = np.empty((N, T, n, n))
    now = start.copy()  # w ends in a 1
    now[:, -1, -1] = 1.0
    for t in range(T):
        ww[:, t] = now
        now = closed[:, t] @ now @ closed[:, t].swapaxes(-1, -2) + noise[:, t]
    log_det = 2.0 * np.log(np.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)
    return G, factor, 0.5 * ((factor**2).sum((-2, -1)) - du - log_det + ((G @ ww) * G).sum((-2, -1)))


def search(white, kl_step, first):
    """Secant steps in log eta for each condition, from `first`, until every KL is within 1% below its bound; and the
    number of passes."""
    s, slope, passes, before = np.log(first), np.full(len(first), -1.5), 1, None
    while True:
        *controller, kl = one_pass(*white, np.exp(s))
        f = np.log(kl.mean(-1) / kl_step)
        done = (f <= 0.0) & (f >= np.log(0.99))
        if done.all():
            return controller, passes
        if before is not None:
            moved = s != before[0]
            slope[moved] = np.clip((f - before[1])[moved] / (s - before[0])[moved], -30.0, -0.3)
        before = s, f
        s, passes = np.where(done, s, s - (f - np.log(0.995)) / slope), passes + 1
