"""Fitted policy evaluation, step by step with NumPy's least squares on raw monomials."""

from itertools import combinations_with_replacement

import numpy as np


def monomials(z):
    """All products of at most two coordinates, the constant first."""
    n, d = z.shape
    products = [z[:, i] * z[:, j] for i, j in combinations_with_replacement(range(d), 2)]
    return np.column_stack([np.ones(n), z, *products])


def fit(z, y, weight):
    """A function that predicts y, by weighted least squares."""
    root = np.sqrt(weight)
    coef, *_ = np.linalg.lstsq(root[:, None] * monomials(z), root * y, rcond=None)
    return lambda z: monomials(z) @ coef


def evaluate(x, u, x_next, cost, weight, final):
    """Targets (T, n), and functions Q_t of [x, u]: x, u, x_next have a row for each step."""
    T = len(cost)
    ahead, targets, Qs = final, [], []
    for t in reversed(range(T)):
        y = cost[t] + ahead
        V = fit(x[t], y, weight[t])
        Qs.insert(0, fit(np.concatenate([x[t], u[t]], -1), y, weight[t]))
        targets.insert(0, y)
        ahead = V(x_next[t - 1])
    return np.array(targets), Qs
