"""How fast MOTO is, as ratios measured side by side in one run: python benchmarks/run.py [--quick]

Prints the tables of docs/performance.md. Times of a shared machine drift; ratios of alternating runs do not.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy_moto

from pilotfish.algebra.regression import feature_count
from pilotfish.algorithms.moto import MOTO
from pilotfish.runs import loop
from pilotfish.tasks import registry
from pilotfish.types import Gaussian, Problem
from pilotfish.worlds.jax import JaxWorld


@eqx.filter_jit
def update(algorithm, problem, state, rollouts):
    return algorithm.update(problem, state, rollouts, jax.random.key(0))


@eqx.filter_jit
def roll(algorithm, world, samples, state):
    return world.rollout(algorithm.explore(state), samples, jax.random.key(1))


def alternate(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each function, called in turn."""
    times = {name: [] for name in functions}
    for f in functions.values():
        jax.block_until_ready(f())
    for _ in range(rounds):
        for name, f in functions.items():
            began = time.perf_counter()
            jax.block_until_ready(f())
            times[name].append(time.perf_counter() - began)
    return {name: float(np.median(t)) for name, t in times.items()}


def ready(world, algorithm, samples, iterations=6):
    """A state some iterations into learning, and rollouts of its controller."""
    keys = loop.root_keys([0])
    states = loop.initial(algorithm, world, samples, keys)
    states, _ = loop.scan(algorithm, world, samples, keys, 0, iterations, states)
    state = jax.tree.map(lambda leaf: leaf[0], states)
    return state, roll(algorithm, world, samples, state)


def numpy_arguments(state, rollouts, algorithm):
    old = jax.tree.map(lambda leaf: np.asarray(leaf[0]), state.controller)
    x, u, cost = (np.asarray(leaf[0]) for leaf in (rollouts.x, rollouts.u, rollouts.cost))
    if algorithm.reuse == "none":
        return lambda: numpy_moto.update(x, u, cost, old.K, old.k, old.chol)
    past = jax.tree.map(lambda leaf: np.asarray(leaf[0]), state.history)
    history = [(x, u, old.K, old.k, old.chol, None, None)]
    for j in range(algorithm.memory - 1):
        where = jax.tree.map(lambda leaf, j=j: leaf[j], past.occupancy)
        p = where.controller
        history.append((past.x[j], past.u[j], p.K, p.k, p.chol, where.mean, where.chol))

    def cost_of(x, u, t):
        half = x.shape[-1] // 2
        return (u**2).sum(-1) + (t >= 80) * (1e4 * (x[:, :half] ** 2).sum(-1) + (x[:, half:] ** 2).sum(-1))

    return lambda: numpy_moto.reusing_update(history, cost_of, old.K, old.k, old.chol)


def gemm_floor(samples: int, steps: int, d: int, dx: int) -> float:
    """Seconds that the machine's own matrix product takes for the normal matrices of Q and V."""
    a = np.random.default_rng(0).normal(size=(1000, 1000))
    rate = 2e9 / alternate({"gemm": lambda: a @ a}, 9)["gemm"]
    return 2.0 * steps * samples * (feature_count(d) ** 2 + feature_count(dx) ** 2) / rate


def against_numpy(rounds: int) -> None:
    print("| | update: pilotfish | NumPy | ratio | GEMM floor | iteration: pilotfish | NumPy | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    reuse = MOTO(reuse="both", entropy_drop=0.02)
    for name, samples, algorithm in (
        ("double-link", 200, MOTO()),
        ("quad-link", 400, MOTO()),
        ("double-link", 20, reuse),
    ):
        task = registry()[name].make()
        world = JaxWorld(task.problem())
        problem = world.problem
        state, rollouts = ready(world, algorithm, samples)
        p = jax.tree.map(lambda leaf: np.asarray(leaf[0]), state.controller)
        chain = (task.links, task.torque, task.joint_limit, p.K, p.k, p.chol, samples, 0)
        times = alternate(
            {
                "update": lambda a=algorithm, p=problem, s=state, r=rollouts: update(a, p, s, r),
                "NumPy update": numpy_arguments(state, rollouts, algorithm),
                "rollouts": lambda a=algorithm, w=world, m=samples, s=state: roll(a, w, m, s),
                "NumPy rollouts": lambda c=chain: numpy_moto.swing_up(*c),
            },
            rounds,
        )
        used = samples if algorithm.reuse == "none" else samples * algorithm.memory * problem.horizon
        floor = gemm_floor(used, problem.horizon, problem.dx + problem.du, problem.dx)
        whole, whole_numpy = times["update"] + times["rollouts"], times["NumPy update"] + times["NumPy rollouts"]
        label = f"{name}, M={samples}" + ("" if algorithm.reuse == "none" else ", reuse of 5 iterations and all steps")
        print(
            f"| {label} | {1e3 * times['update']:.1f} ms | {1e3 * times['NumPy update']:.1f} ms | "
            f"{times['NumPy update'] / times['update']:.1f} | {floor / times['update']:.0%} | "
            f"{1e3 * whole:.1f} ms | {1e3 * whole_numpy:.1f} ms | {whole_numpy / whole:.1f} |"
        )


def study(seeds: int, iterations: int) -> None:
    world, algorithm, keys = JaxWorld(registry()["double-link"].make().problem()), MOTO(), loop.root_keys(range(seeds))
    states = loop.initial(algorithm, world, 200, keys)
    began = time.perf_counter()
    compiled = loop.scan.lower(algorithm, world, 200, keys, 0, iterations, states).compile()
    compiling = time.perf_counter() - began
    began = time.perf_counter()
    jax.block_until_ready(compiled(algorithm, world, 200, keys, 0, iterations, states))
    running = time.perf_counter() - began
    what = f"{seeds}-seed double-link study, {iterations} iterations, M=200"
    print(f"\n{what}: compiles in {compiling:.1f} s, runs in {running:.1f} s")


def seeds(rounds: int) -> None:
    print("\n| seeds | one after the other (lax.map) | side by side (vmap) |\n|---|---|---|")
    world, algorithm, samples = JaxWorld(registry()["double-link"].make().problem()), MOTO(), 200

    @eqx.filter_jit
    def vmapped(keys, states):
        return jax.vmap(lambda k, s: loop.iteration(algorithm, world, samples, k, 0, s)[0])(keys, states)

    @eqx.filter_jit
    def mapped(keys, states):
        return jax.lax.map(lambda a: loop.iteration(algorithm, world, samples, a[0], 0, a[1])[0], (keys, states))

    base = None
    for count in (1, 5, 15):
        keys = loop.root_keys(range(count))
        states = loop.initial(algorithm, world, samples, keys)
        times = alternate(
            {"map": lambda k=keys, s=states: mapped(k, s), "vmap": lambda k=keys, s=states: vmapped(k, s)}, rounds
        )
        base = base or times["map"]
        print(f"| {count} | {times['map'] / base:.1f} | {times['vmap'] / base:.1f} |")
    print("(in iterations of one seed)")


def linear_problem(dx: int, du: int, horizon: int) -> Problem:
    """A stable random linear system with a quadratic cost, of any size."""
    rng = np.random.default_rng(0)
    A = jnp.asarray(0.9 * np.linalg.qr(rng.normal(size=(dx, dx)))[0])
    B = jnp.asarray(rng.normal(size=(dx, du)) / np.sqrt(du))
    return Problem(
        horizon=horizon,
        dt=0.1,
        conditions=Gaussian(jnp.zeros((1, dx)), jnp.eye(dx)[None]),
        initial_std=jnp.ones(du),
        dynamics=lambda x, u: A @ x + B @ u,
        cost=lambda x, u, t: (x**2).sum() + (u**2).sum(),
    )


def growth(rounds: int) -> None:
    print("\n| update with | time | features |\n|---|---|---|")
    base = {"T": 100, "M": 400, "dx": 8, "du": 4}
    sizes = [base, base | {"T": 200}, base | {"T": 400}, base | {"M": 800}, base | {"M": 1600}]
    sizes += [base | {"dx": 4, "du": 2}, base | {"dx": 16, "du": 4}, base | {"dx": 20, "du": 6}]
    reference = None
    for size in sizes:
        world, algorithm = JaxWorld(linear_problem(size["dx"], size["du"], size["T"])), MOTO()
        state = algorithm.init(world.problem, size["M"], jax.random.key(0))
        rollouts = roll(algorithm, world, size["M"], state)
        seconds = alternate(
            {"update": lambda a=algorithm, w=world, s=state, r=rollouts: update(a, w.problem, s, r)}, rounds
        )
        reference = reference or seconds["update"]
        label = ", ".join(f"{name} = {value}" for name, value in size.items())
        print(f"| {label} | {seconds['update'] / reference:.2f} | {feature_count(size['dx'] + size['du'])} |")
    print("(in updates of the first line)")


def compile_times() -> None:
    print("\n| compiles | in |\n|---|---|")
    for name, samples in (("double-link", 200), ("quad-link", 400)):
        world, algorithm = JaxWorld(registry()[name].make().problem()), MOTO()
        keys = loop.root_keys([0])
        states = loop.initial(algorithm, world, samples, keys)
        began = time.perf_counter()
        loop.scan.lower(algorithm, world, samples, keys, 0, 100, states).compile()
        print(f"| a whole {name} run, M={samples} | {time.perf_counter() - began:.1f} s |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, small study")
    quick = parser.parse_args().quick
    rounds = 3 if quick else 15
    against_numpy(rounds)
    compile_times()
    study(seeds=10, iterations=5 if quick else 100)
    seeds(rounds)
    growth(rounds)
