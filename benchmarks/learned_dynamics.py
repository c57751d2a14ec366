"""How fast an episode's learning and planning are on learned dynamics: python benchmarks/learned_dynamics.py [--quick]

On the double link, after so many episodes: what is learned of the kernel, the process given all samples, the plans.
Beside the first two the same in NumPy, with one dense matrix of all samples and gradients by hand.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from run import alternate

from pilotfish.algebra import process
from pilotfish.algebra.process import LEAST_NOISE, Kernel
from pilotfish.algorithms.ilqg import ILQG
from pilotfish.models import learned_dynamics
from pilotfish.runs import loop
from pilotfish.tasks.multi_link import MultiLink


def squared(s: np.ndarray) -> np.ndarray:
    """Squared distances of all inputs in each coordinate (d, n, n)."""
    return (s.T[:, :, None] - s.T[:, None]) ** 2


def gradient(kernel: Kernel, s: np.ndarray, y: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Of `process.surprise` without its prior, by lengths, linear part and noise."""
    inverse, w2 = np.exp(-2 * kernel.length), np.exp(2 * kernel.linear)
    smooth, linear = np.exp(-0.5 * np.tensordot(inverse, apart, 1)), w2 * (1 + s @ s.T)
    by_kernel, by_noise = np.zeros_like(smooth), []
    for n, column in zip(np.exp(2 * kernel.noise), y.T, strict=True):
        K = np.linalg.inv(smooth + linear + (n + LEAST_NOISE**2) * np.eye(len(s)))
        a = K @ column
        slope = 0.5 * (K - len(s) / (column @ a) * np.outer(a, a))
        by_kernel += slope
        by_noise.append(2 * n * np.trace(slope))
    by_length = np.einsum("ij,dij->d", by_kernel * smooth, apart) * inverse
    return np.array([*by_length, 2 * (by_kernel * linear).sum(), *by_noise])


def dense(kernel: Kernel, s: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights of all samples."""
    K = np.exp(-0.5 * np.tensordot(np.exp(-2 * kernel.length), squared(s), 1)) + np.exp(2 * kernel.linear) * (
        1 + s @ s.T
    )
    variances = np.exp(2 * kernel.noise) + LEAST_NOISE**2
    return np.stack([np.linalg.solve(K + n * np.eye(len(s)), column) for n, column in zip(variances, y.T, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    quick = parser.parse_args().quick
    episodes, rounds = (2, 2) if quick else (5, 9)
    algorithm, world = ILQG(dynamics="learned"), MultiLink().world()
    problem, part, key = world.problem, algorithm.learned, jax.random.key(0)
    keys = loop.root_keys([0])
    *_, turn = loop.turns(algorithm, world, 1, keys, 0, episodes, loop.initial(algorithm, world, 1, keys))
    state = loop.of_seed(turn.states, 0)
    known = state.learning.experience
    a, y = learned_dynamics.samples(problem, known)
    rows = np.asarray(known.happened)
    s, v = (np.asarray(b[rows] - b[rows].mean(0)) / np.asarray(b[rows].std(0)) for b in (a, y))
    kernel, n = jax.tree.map(np.asarray, known.kernel), len(s)
    some = np.random.default_rng(0).permutation(n)[: part.sample]
    apart = squared(s[some])
    likeliest = eqx.filter_jit(process.likeliest)
    given = eqx.filter_jit(process.given)
    region, best = state.learning.region, state.learning.best
    learn = eqx.filter_jit(lambda data: part.fit(problem, known, data, key, (region.x, region.u))[1:])

    @eqx.filter_jit
    def plan(model, spread):
        return algorithm._plan(model.of(problem), region, best, spread, key)

    data = jax.tree.map(lambda leaf: leaf[0], turn.rollouts).cleaned()
    model, report = learn(data)
    arrays = jnp.asarray(s), jnp.asarray(v), jnp.ones(n, bool)
    few = tuple(array[some] for array in arrays)
    calls = {
        "kernel": lambda: likeliest(known.kernel, *few, part.steps),
        "kernel, NumPy": lambda: [gradient(kernel, s[some], v[some], apart) for _ in range(part.steps)],
        "process": lambda: given(known.kernel, *arrays, jnp.arange(n), min(part.points, n)),
        "process, NumPy": lambda: dense(kernel, s, v),
        "learning": lambda: learn(data),
        "plans": lambda: plan(model, report.spread),
    }
    times = alternate(calls, rounds)
    print(f"double link, {n} transitions, {algorithm.starts} plans of {algorithm.steps} steps\n")
    for name, took in times.items():
        print(f"| {name} | {1e3 * took:.0f} ms |")
    for name in ("kernel", "process"):
        print(f"NumPy takes {times[f'{name}, NumPy'] / times[name]:.1f} times as long for the {name}.")


if __name__ == "__main__":
    main()
