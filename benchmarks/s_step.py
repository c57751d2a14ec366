"""How fast the S-step is, as ratios measured in turn: python benchmarks/s_step.py [--quick]

Beside it the same training in NumPy, and the time that the machine's own matrix product takes for its flops.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import itertools
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from run import alternate

from pilotfish.policies.network import Network
from pilotfish.types import Gaussian, LinearGaussian, Problem, Rollouts
from pilotfish.updates.s_step import SStep

N, M, T, DX, DU = 9, 5, 100, 26, 7
"""Those of `peg` with nine holes."""


@eqx.filter_jit
def teach(step, memory, policy, rollouts, controllers, key):
    return step(memory, policy, rollouts, controllers, key)


def data(rng) -> tuple[Problem, Rollouts, LinearGaussian]:
    """Smooth states and actions that a linear function of the state says but for a part that depends on time."""
    problem = Problem(
        horizon=T,
        dt=0.05,
        conditions=Gaussian(jnp.zeros((N, DX)), jnp.zeros((N, DX, DX))),
        initial_std=jnp.ones(DU),
        cost=lambda x, u, t: (x**2).sum(),
    )
    x = np.cumsum(0.05 * rng.normal(size=(N, M, T + 1, DX)), 2) + 0.5 * rng.normal(size=(N, 1, 1, DX))
    K = np.broadcast_to(rng.normal(size=(DU, DX)) / np.sqrt(DX), (N, T, DU, DX))
    k = np.tanh(rng.normal(size=(N, 1, DU)) + np.sin(np.arange(T) / 10)[:, None])
    chol = np.linalg.cholesky(0.05 * np.eye(DU) + np.zeros((N, T, 1, 1)))
    rollouts = Rollouts(
        *map(jnp.asarray, (x, x, np.zeros((N, M, T, DU)), np.zeros((N, M, T + 1)))), np.full((N, M), T), None
    )
    return problem, jax.tree.map(jnp.asarray, rollouts), LinearGaussian(*map(jnp.asarray, (K, k, chol)))


def in_numpy(network: Network, steps: int, batch: int, s, v, root, dtype) -> None:
    """Adam on minibatches of a ReLU network, with gradients by hand and one vector of weights."""
    rng, sizes = np.random.default_rng(0), [s.shape[1], *[network.width] * network.depth, v.shape[1]]
    s, v, root = s.astype(dtype), v.astype(dtype), root.astype(dtype)
    shapes = [shape for a, b in itertools.pairwise(sizes) for shape in ((a, b), (b,))]
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    weights = (0.1 * rng.normal(size=ends[-1])).astype(dtype)
    grad, first, second = np.zeros_like(weights), np.zeros_like(weights), np.zeros_like(weights)

    def views(vector):
        parts = np.split(vector, ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    parameters, gradients = views(weights), views(grad)
    rows = rng.integers(0, len(s), (steps, batch))
    for i, row in enumerate(rows):
        values = [s[row]]
        for j in range(0, len(parameters), 2):
            z = values[-1] @ parameters[j] + parameters[j + 1]
            values.append(np.maximum(z, 0.0, out=z) if j + 2 < len(parameters) else z)
        of_row = root[row]
        error = np.matmul(of_row, (values.pop() - v[row])[..., None])
        back = np.matmul(of_row.transpose(0, 2, 1), error)[..., 0] * (2.0 / batch)
        for j in range(len(parameters) - 2, -1, -2):
            below = values.pop()
            np.matmul(below.T, back, out=gradients[j])
            back.sum(0, out=gradients[j + 1])
            if j:
                back = (back @ parameters[j].T) * (below > 0)
        first *= 0.9
        first += 0.1 * grad
        second *= 0.999
        second += 0.001 * grad**2
        weights -= 1e-3 / (1 - 0.9 ** (i + 1)) * first / (np.sqrt(second / (1 - 0.999 ** (i + 1))) + 1e-8)


def gemm_floor(network: Network, steps: int, batch: int, dtype) -> float:
    """Seconds that the machine's own large matrix product takes for the products of all steps."""
    sizes = [DX, *[network.width] * network.depth, DU]
    flops = 6.0 * steps * batch * sum(a * b for a, b in itertools.pairwise(sizes))
    a = np.random.default_rng(0).normal(size=(1000, 1000)).astype(dtype)
    return flops / (2e9 / alternate({"gemm": lambda: a @ a}, 5)["gemm"])


def main(rounds: int) -> None:
    problem, rollouts, controllers = data(np.random.default_rng(0))
    print(f"Memory of 3 iterations x {N} conditions x {M} rollouts x {T} steps; {DX} inputs, {DU} actions.\n")
    print("| training | compiles in | S-step | of it not training | NumPy's training | ratio | GEMM floor |")
    print("|---|---|---|---|---|---|---|")
    for width, precision, batch in (
        (40, "float32", 25),
        (64, "float32", 25),
        (40, "float64", 25),
        (40, "float32", 256),
    ):
        network, step = Network(width), SStep(batch=batch, precision=precision)
        policy = network.policy(problem, jax.random.key(0))
        memory, key = step.begin(problem, policy, M), jax.random.key(1)
        began = time.perf_counter()
        for _ in range(step.memory):
            policy, memory, _ = jax.block_until_ready(teach(step, memory, policy, rollouts, controllers, key))
        compiling = time.perf_counter() - began
        rng, n = np.random.default_rng(1), step.memory * N * M * T
        arrays = rng.normal(size=(n, DX)), rng.normal(size=(n, DU)), rng.normal(size=(n, DU, DU))
        short = SStep(batch=batch, precision=precision, steps=1)
        times = alternate(
            {
                "S-step": lambda a=(step, memory, policy, rollouts, controllers, key): teach(*a),
                "rest": lambda a=(short, memory, policy, rollouts, controllers, key): teach(*a),
                "NumPy": lambda a=(network, step.steps, batch, *arrays, precision): in_numpy(*a),
            },
            rounds,
        )
        floor = gemm_floor(network, step.steps, batch, precision)
        print(
            f"| {step.steps} steps of {batch}, {DX}-{width}-{width}-{DU}, {precision} | {compiling:.1f} s | "
            f"{1e3 * times['S-step']:.0f} ms | {1e3 * times['rest']:.0f} ms | {1e3 * times['NumPy']:.0f} ms | "
            f"{times['NumPy'] / times['S-step']:.1f} | {floor / times['S-step']:.0%} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    main(rounds=3 if parser.parse_args().quick else 9)
