"""What an iteration of each guided policy search costs, side by side in one run: python benchmarks/systems.py

One network, the same rollouts and the same lesson (4,000 steps of 128 samples) for all, so that they differ in what
their updates compute. Prints the table of docs/performance.md.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import dataclasses
import time

import jax
from run import alternate, roll, update

from pilotfish.algorithms.badmm import BADMM
from pilotfish.algorithms.gps import GPS
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.mdgps import MDGPS
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.models.linearised import Linearisation
from pilotfish.tasks import registry
from pilotfish.updates.s_step import SStep
from pilotfish.worlds.jax import JaxWorld

ROLLOUTS, TAUGHT = 5, 3
"""Rollouts from the one condition, and iterations before the one that is measured."""
LESSON = SStep(batch=128)
MIXTURE = FittedDynamics(prior="gmm")
SYSTEMS = {
    "lqr-gps: no network": LQRGPS(dynamics=MIXTURE),
    "badmm": BADMM(dynamics=MIXTURE, teach=LESSON),
    "mdgps": MDGPS(dynamics=MIXTURE, teach=LESSON),
    "gps": GPS(dynamics=MIXTURE, teach=LESSON),
    "cgps: derivative at the mean": GPS(model="known", teach=LESSON, linearise=Linearisation(how="mean")),
    "cgps: samples": GPS(model="known", teach=LESSON, terms="samples", linearise=Linearisation(how="autodiff")),
    "cgps: true gradients": GPS(model="known", teach=LESSON, terms="gradient"),
}


def begun(world, algorithm):
    """A state a few lessons into learning, rollouts of it, and the seconds that its first update took."""
    state = algorithm.init(world.problem, ROLLOUTS, jax.random.key(0))
    rollouts = roll(algorithm, world, ROLLOUTS, state)
    before = time.perf_counter()
    jax.block_until_ready(update(algorithm, world.problem, state, rollouts))
    first = time.perf_counter() - before
    for _ in range(TAUGHT):
        state, _ = update(algorithm, world.problem, state, roll(algorithm, world, ROLLOUTS, state))
    return state, roll(algorithm, world, ROLLOUTS, state), first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, and a short lesson")
    quick = parser.parse_args().quick
    world = JaxWorld(registry()["swimmer-cgps"].make().problem())
    known, functions = {}, {}
    for name, system in SYSTEMS.items():
        short = quick and hasattr(system, "teach")
        made = dataclasses.replace(system, teach=dataclasses.replace(LESSON, steps=50)) if short else system
        known[name] = begun(world, made)
        functions[name] = lambda a=made, s=known[name][0], r=known[name][1]: update(a, world.problem, s, r)
    times = alternate(functions, 2 if quick else 7)
    least = times["lqr-gps: no network"]
    print(f"| swimmer-cgps, T={world.problem.horizon}, {ROLLOUTS} rollouts | update | per lqr-gps' | first update |")
    print("|---|---|---|---|")
    for name, seconds in times.items():
        print(f"| {name} | {1e3 * seconds:.0f} ms | {seconds / least:.1f} | {known[name][2]:.0f} s |")


if __name__ == "__main__":
    main()
