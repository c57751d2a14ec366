"""What an iteration of each guided-policy-search system costs, side by side in one run: python benchmarks/systems.py

Prints a table of docs/performance.md. Each compiles its update first, for a minute or two.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import time

import equinox as eqx
import jax
from run import alternate

from pilotfish import experiments
from pilotfish.tasks import registry

TASK = "peg-2d-slots"
SYSTEMS = ("lqr-gps", "gps", "badmm", "mdgps")
ITERATIONS = 3
"""After which prices and memories are in use."""


@eqx.filter_jit
def update(algorithm, problem, state, rollouts, key):
    return algorithm.update(problem, state, rollouts, key)


def begun(name, world):
    """Of a system that has learned a little: `update`'s arguments, CPU seconds of compiling, and how it rolls out."""
    setup = experiments.setup(TASK, name)
    algorithm, state = setup.algorithm, setup.algorithm.init(world.problem, setup.rollouts, jax.random.key(0))
    for i in range(ITERATIONS):
        key = jax.random.key(i)
        rollouts = world.rollout(algorithm.explore(state), setup.rollouts, key)
        began = time.process_time()
        state, info = jax.block_until_ready(update(algorithm, world.problem, state, rollouts, key))
        if i == 0:
            compiling = time.process_time() - began
    assert info.ok.all()
    policy = algorithm.explore(state)

    def roll():
        return world.rollout(policy, setup.rollouts, key)

    return (algorithm, world.problem, state, roll(), key), compiling, roll


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    world = registry()[TASK].make().world()
    found = {name: begun(name, world) for name in SYSTEMS}
    updates = alternate({name: lambda args=args: update(*args) for name, (args, *_) in found.items()}, rounds)
    rolls = alternate({name: roll for name, (*_, roll) in found.items()}, rounds)
    print("| system | rollouts, ms | update, ms | per LQR-GPS's | compiling, CPU s |")
    print("| --- | --- | --- | --- | --- |")
    for name, (_, compiling, _) in found.items():
        ratio = updates[name] / updates["lqr-gps"]
        print(f"| {name} | {1e3 * rolls[name]:.0f} | {1e3 * updates[name]:.0f} | {ratio:.1f} | {compiling:.0f} |")


if __name__ == "__main__":
    main()
