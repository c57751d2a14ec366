"""What an iteration of MDGPS on `peg` costs, and where: python benchmarks/mdgps.py [--quick] [--draw FILE]

CPU seconds of all cores: of the whole iteration, and of its parts compiled by themselves. Then the peak memory of a
process of its own that learns for some iterations, by what makes it grow; `--draw` makes a picture of that.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import dataclasses
import functools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from matplotlib.figure import Figure

from pilotfish import experiments
from pilotfish.algebra.batch import each
from pilotfish.algorithms.mdgps import MDGPS
from pilotfish.models import local
from pilotfish.models.nominal import Nominal
from pilotfish.runs import loop
from pilotfish.runs.train import train
from pilotfish.tasks import peg
from pilotfish.view import plot
from pilotfish.worlds import World

EARLIER = 18.0
"""CPU seconds of an iteration with 4 conditions in an earlier implementation, of other authors."""
USUAL = {"conditions": 9, "rollouts": 5, "horizon": 100, "replay": 3}
"""What `peg` is set up with: places of the hole, rollouts from each, time steps, iterations that are learned from."""
GROWN = {"conditions": (1, 4, 9), "rollouts": (5, 10, 20), "horizon": (50, 100, 200), "replay": (1, 3, 6, 12)}
UNITS = {
    "conditions": "conditions",
    "rollouts": "rollouts from each",
    "horizon": "time steps",
    "replay": "iterations learned from",
}
WANTED = 2.0
"""GB."""
ITERATIONS = 4
"""After which parts are measured: the network was taught, and the mixture has seen 20 rollouts a condition."""


def algorithm(replay: int) -> MDGPS:
    """As the task is set up, but for the iterations that its network learns from."""
    found = experiments.setup("peg", "mdgps").algorithm
    assert isinstance(found, MDGPS)
    return dataclasses.replace(found, teach=dataclasses.replace(found.teach, memory=replay))


def world(conditions: int) -> World:
    return peg.Peg(offsets=peg.NINE[:conditions]).world()


def learned(learner: MDGPS, where: World, rollouts: int) -> Any:
    """The state after some iterations."""
    turns = []
    train(learner, where, rollouts=rollouts, iterations=ITERATIONS, callbacks=[turns.append])
    return loop.of_seed(turns[-1].states, 0)


def cpu(f: Callable[[], object], rounds: int) -> float:
    """Median CPU seconds of a call, after one that compiles."""
    jax.block_until_ready(f())
    times = []
    for _ in range(rounds):
        began = time.process_time()
        jax.block_until_ready(f())
        times.append(time.process_time() - began)
    return float(np.median(times))


def split(conditions: int, rounds: int) -> dict[str, float]:
    """CPU seconds of an iteration's parts, and of its update as a whole."""
    learner, where, M = algorithm(USUAL["replay"]), world(conditions), USUAL["rollouts"]
    state, key = learned(learner, where, M), jax.random.key(1)
    problem, rollouts = where.problem, where.rollout(learner.explore(state), M, key)
    data = rollouts.cleaned()
    nominal = jax.vmap(Nominal.of)(data)
    keys = jax.random.split(key, conditions)

    @eqx.filter_jit
    def fit(learner, state, data):
        return local.fits(learner.dynamics, learner.cost, problem, state.transitions, data, state.controller, key)

    @eqx.filter_jit
    def linearise(learner, state, data):
        return each(functools.partial(learner.linearise, problem, state.policy), state.visited, data, nominal, keys)

    @eqx.filter_jit
    def improve(learner, state, model, enough):
        kl_step = learner.kl_step * state.steps.factor
        return each(learner._step, model, state.controller, state.controller, kl_step, state.eta, enough)

    @eqx.filter_jit
    def teach(learner, state, model, data):
        seen = local.with_imagined(problem, model, state.controller, data, learner.imagined, key)
        return learner.teach(state.lessons, state.policy, seen, state.controller, key)

    @eqx.filter_jit
    def update(learner, state, rollouts):
        return learner.update(problem, state, rollouts, key)

    _, model, enough = fit(learner, state, data)
    return {
        "rollouts": cpu(lambda: where.rollout(learner.explore(state), M, key), rounds),
        "dynamics and cost": cpu(lambda: fit(learner, state, data), rounds),
        "linearisation": cpu(lambda: linearise(learner, state, data), rounds),
        "C-step": cpu(lambda: improve(learner, state, model, enough), rounds),
        "S-step": cpu(lambda: teach(learner, state, model, data), rounds),
        "update as a whole": cpu(lambda: update(learner, state, rollouts), rounds),
    }


def peak(sizes: dict[str, int]) -> float:
    """GB that a process of its own needs at most."""
    words = [f"{name}={value}" for name, value in sizes.items()]
    found = subprocess.run([sys.executable, __file__, "--peak", *words], check=True, capture_output=True, text=True)
    return float(found.stdout.split()[-1])


def here(conditions: int, rollouts: int, horizon: int, replay: int) -> float:
    """GB that this process needs at most to learn so."""
    peg.HORIZON = horizon
    learned(algorithm(replay), world(conditions), rollouts)
    said = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(said["VmHWM"].split()[0]) / 1e6  # getrusage's would be the parent's, if that is larger


def draw(found: dict[str, dict[int, float]], file: Path) -> None:
    """Peak memory by each of the sizes."""
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    for axis, (name, line) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        axis.plot(list(line), list(line.values()), marker="o")
        axis.set(xlabel=UNITS[name], xlim=(0, None))
        axis.axhline(WANTED, color="0.6", linestyle=":")
    most = max(gb for line in found.values() for gb in line.values())
    figure.axes[0].set(ylabel="peak memory, GB", ylim=(0, 1.1 * max(most, WANTED)))
    plot.write(figure, file)


def parts(rounds: int) -> None:
    """Print where the time goes."""
    print("| CPU seconds of an iteration | 4 conditions | 9 conditions |\n|---|---|---|")
    of_4, of_9 = split(4, rounds), split(9, rounds)
    for name in of_4:
        print(f"| {name} | {of_4[name]:.2f} | {of_9[name]:.2f} |")
    total = [found["rollouts"] + found["update as a whole"] for found in (of_4, of_9)]
    print(f"| **iteration** | **{total[0]:.2f}** | **{total[1]:.2f}** |")
    print(f"\nAn earlier implementation, 4 conditions: {EARLIER:.0f}, {EARLIER / total[0]:.0f} times as many.\n")


def growth(file: Path | None) -> None:
    """Print, and draw, what memory grows with."""
    found: dict[str, dict[int, float]] = {}
    print("| peak memory, GB, by | |\n|---|---|")
    for name, values in GROWN.items():
        found[name] = {value: peak(USUAL | {name: value}) for value in values}
        print(f"| {UNITS[name]} | " + ", ".join(f"{v}: {gb:.2f}" for v, gb in found[name].items()) + " |", flush=True)
    if file is not None:
        draw(found, file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--draw", metavar="FILE", type=Path)
    parser.add_argument("--peak", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak is not None:
        print(here(**{name: int(value) for name, value in (word.split("=") for word in given.peak)}))
    else:
        parts(3 if given.quick else 9)
        growth(given.draw)
