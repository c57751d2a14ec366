"""How fast the C-step and LQR-GPS are, as ratios measured side by side in one run: python benchmarks/c_step.py

Prints tables of docs/performance.md.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy_c_step
from run import alternate, ready, roll, update

from pilotfish.algebra.batch import each
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.tasks import registry
from pilotfish.types import Gaussian, LinearDynamics, LinearGaussian, Quadratic
from pilotfish.updates.c_step import Objective, c_step, multipliers, passes
from pilotfish.updates.c_step.white import mean_states
from pilotfish.updates.c_step.white import whiten as whiten_one
from pilotfish.worlds.jax import JaxWorld

N, T, DX, DU = 9, 100, 26, 7
KL_STEP = 0.1


def problem(seed=0):
    """A fitted arm's numbers in kind: near the identity, lightly damped, some curvature missing."""
    rng = np.random.default_rng(seed)
    A = 0.98 * np.eye(DX) + 0.02 * rng.normal(size=(N, T, DX, DX))
    B, F = 0.1 * rng.normal(size=(N, T, DX, DU)), 1e-3 * np.broadcast_to(np.eye(DX), (N, T, DX, DX))
    a = rng.normal(size=(N, T, DX + DU, 8))
    H = 0.1 * a @ a.swapaxes(-1, -2)
    chol = np.broadcast_to(0.5 * np.eye(DU), (N, T, DU, DU))
    parts = (
        Gaussian(rng.normal(size=(N, DX)), 1e-2 * np.broadcast_to(np.eye(DX), (N, DX, DX))),
        LinearDynamics(A, B, 0.01 * rng.normal(size=(N, T, DX)), F),
        Quadratic(H, rng.normal(size=(N, T, DX + DU)), np.zeros((N, T))),
        Quadratic(np.broadcast_to(np.eye(DX), (N, DX, DX)), np.zeros((N, DX)), np.zeros(N)),
        LinearGaussian(0.05 * rng.normal(size=(N, T, DU, DX)), rng.normal(size=(N, T, DU)), chol),
    )
    return jax.tree.map(jnp.asarray, parts)


@eqx.filter_jit
def whiten(start, dynamics, cost, final, q):
    def one(*parts):
        return whiten_one(*parts, mean_states(parts[0], parts[1], parts[-1]), jnp.zeros(T))

    return jax.vmap(one)(start, dynamics, cost, final, q)


@eqx.filter_jit
def one_pass(white, eta):
    def one(white, eta):
        p = passes.backward(white, jnp.full(T, jnp.log(eta)))
        return passes.forward(white, p)[0]

    return each(one, white, eta)


@eqx.filter_jit
def whole(parts, guess):
    def one(parts, guess):
        start, dynamics, cost, final, q = parts
        return c_step(start, dynamics, Objective(cost, final), q, KL_STEP, "trajectory", guess)

    return each(one, parts, guess)


@eqx.filter_jit
def search(white, guess):
    """The part of the C-step that `numpy_c_step.search` does."""

    def one(white, centre):
        solve = functools.partial(passes.trial, white)
        return multipliers.common(solve, jnp.zeros(T), jnp.mean, KL_STEP, centre, centre)

    return each(one, white, jnp.log(guess))


def gemm_floor() -> float:
    """Seconds that the machine's own matrix product takes for the products of one pass."""
    a = np.random.default_rng(0).normal(size=(1000, 1000))
    rate = 2e9 / alternate({"gemm": lambda: a @ a}, 9)["gemm"]
    n, d = DX + 1, DX + DU + 1
    backward = n * n * d + d * n * d + DU * DU * n + n * DU * n
    forward = DU * DU * n + n * DU * n + n * DU * DU + n * DU * n + 2 * n**3 + DU * n * n
    return 2.0 * N * T * (backward + forward) / rate


def against_numpy(rounds: int) -> None:
    parts = problem()
    white = whiten(*parts)
    eta = whole(parts, jnp.full(N, jnp.nan)).eta[:, 0]
    guess = 1.3 * eta
    arrays, eta_, guess_ = jax.tree.map(np.asarray, (tuple(white)[:-1], eta, guess))  # without the entropy's weights
    np.testing.assert_allclose(one_pass(white, eta), numpy_c_step.one_pass(*arrays, eta_)[-1], rtol=1e-6)
    taken = int(search(white, guess)[1].max())
    assert taken == numpy_c_step.search(arrays, KL_STEP, guess_)[1]
    times = alternate(
        {
            "one evaluation of the dual": lambda: one_pass(white, eta),
            "NumPy one evaluation of the dual": lambda: numpy_c_step.one_pass(*arrays, eta_),
            "its root": lambda: search(white, guess),
            "NumPy its root": lambda: numpy_c_step.search(arrays, KL_STEP, guess_),
            "whole C-step": lambda: whole(parts, guess),
        },
        rounds,
    )
    floor = gemm_floor()
    print(f"C-step, T={T}, dx={DX}, du={DU}, {N} conditions; the root takes {taken} evaluations from a guess 30% off\n")
    print("| | pilotfish | NumPy | ratio | GEMM floor |\n|---|---|---|---|---|")
    for name, count in (("one evaluation of the dual", 1), ("its root", taken)):
        ours, numpy = times[name], times["NumPy " + name]
        print(
            f"| {name} | {1e3 * ours:.1f} ms | {1e3 * numpy:.1f} ms | {numpy / ours:.1f} | {count * floor / ours:.0%} |"
        )
    print(f"| C-step, with white coordinates and first-order estimate | {1e3 * times['whole C-step']:.1f} ms | | | |")


def iterations(rounds: int) -> None:
    """LQR-GPS on the double link."""
    print("\n| LQR-GPS on double-link | rollouts | update | iteration |\n|---|---|---|---|")
    world = JaxWorld(registry()["double-link"].make().problem())
    for label, algorithm, samples in (
        ("without a prior", LQRGPS(), 50),
        ("without a prior", LQRGPS(), 200),
        ("with a mixture as prior", LQRGPS(dynamics=FittedDynamics(prior="gmm")), 10),
    ):
        state, rollouts = ready(world, algorithm, samples)
        times = alternate(
            {
                "update": lambda a=algorithm, s=state, r=rollouts: update(a, world.problem, s, r),
                "rollouts": lambda a=algorithm, m=samples, s=state: roll(a, world, m, s),
            },
            rounds,
        )
        print(f"| {label} | {samples} | {1e3 * times['update']:.1f} ms | {1e3 * sum(times.values()):.1f} ms |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    against_numpy(rounds)
    iterations(rounds)
