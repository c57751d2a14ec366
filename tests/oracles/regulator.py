"""The linear-quadratic regulator as one dense quadratic program, and policy evaluation by plain loops.

Costs are `1/2 z'Hz + h'z + c` of z = [x; u], dynamics `x' = A x + B u + c` plus noise of covariance F.
"""

import numpy as np


def best_actions(x0, A, B, c, H, h, final_H, final_h):
    """The optimal actions (T, du) from `x0` without noise, and their cost less the constants.

    All z_t and x_T are affine functions of the stacked actions; the sum of their costs is one quadratic.
    """
    T, dx, du = B.shape
    slope, value = np.zeros((dx, T * du)), np.array(x0)
    hessian, gradient, constant = np.zeros((T * du, T * du)), np.zeros(T * du), 0.0

    def add(H, h, slope, value):
        nonlocal hessian, gradient, constant
        hessian = hessian + slope.T @ H @ slope
        gradient = gradient + slope.T @ (H @ value + h)
        constant += 0.5 * value @ H @ value + h @ value

    for t in range(T):
        u = np.zeros((du, T * du))
        u[:, t * du : (t + 1) * du] = np.eye(du)
        add(H[t], h[t], np.vstack([slope, u]), np.concatenate([value, np.zeros(du)]))
        slope, value = A[t] @ slope + B[t] @ u, A[t] @ value + c[t]
    add(final_H, final_h, slope, value)
    u = np.linalg.solve(hessian, -gradient)
    return u.reshape(T, du), 0.5 * gradient @ u + constant


def evaluate(A, B, c, F, H, h, const, final_H, final_h, final_const, K, k, C):
    """Lists over time of Q_t = (H, h, c) over [x; u], and of V_t over x, of the controller u ~ N(K x + k, C)."""
    T, dx, _ = B.shape
    V = final_H, final_h, final_const
    Qs, Vs = [], []
    for t in reversed(range(T)):
        VH, Vh, Vc = V
        AB = np.hstack([A[t], B[t]])
        QH = H[t] + AB.T @ VH @ AB
        Qh = h[t] + AB.T @ (VH @ c[t] + Vh)
        Qc = const[t] + 0.5 * c[t] @ VH @ c[t] + Vh @ c[t] + Vc + 0.5 * np.trace(VH @ F[t])
        xx, ux, uu, x, u = QH[:dx, :dx], QH[dx:, :dx], QH[dx:, dx:], Qh[:dx], Qh[dx:]
        V = (
            xx + ux.T @ K[t] + K[t].T @ ux + K[t].T @ uu @ K[t],
            x + ux.T @ k[t] + K[t].T @ (u + uu @ k[t]),
            Qc + u @ k[t] + 0.5 * k[t] @ uu @ k[t] + 0.5 * np.trace(uu @ C[t]),
        )
        Qs.insert(0, (QH, Qh, Qc))
        Vs.insert(0, V)
    return Qs, Vs
