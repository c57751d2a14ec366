"""What is measured of algorithms on tasks, by a name each: the rows of the tables in docs/results, and what
`pilotfish train --prefer` chooses among.

A row is what `pilotfish train` is told, in the repository's root where it names a file. Seeds are those of the
measurement. Nothing here imports jax.
"""

import shlex
from collections.abc import Collection
from typing import Literal, NamedTuple

FLAGS = ("--seeds", "--measured")
"""How a row is measured, which is no part of what is learned."""
ALL = 20
"""Noise-free episodes an iteration that are said to tell when a policy always succeeds."""
UNTIL = f"--measured {ALL} --seeds 10"
"""How rows are measured that tell after how many rollouts all of these succeed."""
REACHER = "gym:Reacher-v5 --task.functions examples/reacher/functions.py"
PRICED = "gym:Reacher-v5 --task.functions examples/reacher/priced.py"
"""The same with a formula of what is paid."""
GOALS = f"{PRICED} --task.conditions 8"

ROWS = {
    "lq": "lq --seeds 5",
    "lq-lqr-gps": "lq --algorithm lqr-gps --seeds 5",
    "cartpole-ilqg-learned": "cartpole --algorithm ilqg-learned --iterations 8 --measured 20 --seeds 20",
    "cartpole-ilqg-learned-alone": "cartpole --algorithm ilqg-learned --iterations 8 --seeds 20",
    "cartpole-dyna": f"cartpole --algorithm dyna --iterations 8 {UNTIL}",
    "cartpole-lqr-gps-gmm": "cartpole --algorithm lqr-gps --algorithm.dynamics.prior gmm --rollouts 5 --iterations 60 "
    "--seeds 10",
    "cartpole-lqr-gps": "cartpole --algorithm lqr-gps --seeds 10",
    "cartpole": "cartpole --algorithm moto --seeds 10",
    "cartpole-ilqg": "cartpole --algorithm ilqg --seeds 10",
    "cartpole-mdgps": "cartpole --algorithm mdgps --iterations 30 --measured 1 --seeds 10",
    "cartpole-gps": "cartpole --algorithm gps --iterations 30 --measured 1 --seeds 10",
    "cartpole-badmm": "cartpole --algorithm badmm --iterations 30 --measured 1 --seeds 10",
    "cartpole-trpo": "cartpole --algorithm trpo --rollouts 20 --iterations 250 --seeds 10",
    "cartpole-more": "cartpole --algorithm more --rollouts 100 --iterations 100 --seeds 10",
    "cartpole-reps": "cartpole --algorithm reps --rollouts 100 --iterations 100 --seeds 10",
    "double-link-ilqg-learned": "double-link --algorithm ilqg-learned --iterations 8 --measured 20 --seeds 20",
    "double-link-ilqg-learned-alone": "double-link --algorithm ilqg-learned --iterations 8 --seeds 20",
    "double-link-dyna": f"double-link --algorithm dyna --iterations 8 {UNTIL}",
    "double-link-lqr-gps-gmm": "double-link --algorithm lqr-gps --algorithm.dynamics.prior gmm --rollouts 5 "
    "--iterations 60 --seeds 10",
    "double-link-lqr-gps": "double-link --algorithm lqr-gps --seeds 10",
    "double-link-reuse": "double-link --algorithm moto --rollouts 20 --iterations 75 --algorithm.reuse both "
    "--algorithm.entropy-drop 0.02 --seeds 10",
    "double-link": "double-link --algorithm moto --seeds 10",
    "double-link-ilqg": "double-link --algorithm ilqg --seeds 10",
    "double-link-mdgps": "double-link --algorithm mdgps --iterations 30 --measured 1 --seeds 10",
    "double-link-gps": "double-link --algorithm gps --iterations 30 --measured 1 --seeds 10",
    "double-link-badmm": "double-link --algorithm badmm --iterations 30 --measured 1 --seeds 10",
    "double-link-trpo": "double-link --algorithm trpo --seeds 10",
    "double-link-more": "double-link --algorithm more --rollouts 100 --iterations 100 --seeds 10",
    "double-link-reps": "double-link --algorithm reps --rollouts 100 --iterations 100 --seeds 10",
    "double-link-25": "double-link-25 --seeds 5",
    "double-link-25-ilqg": "double-link-25 --algorithm ilqg --seeds 10",
    "quad-link": "quad-link --seeds 5",
    "quad-link-ilqg": "quad-link --algorithm ilqg --seeds 5",
    "quad-link-low": "quad-link-low --seeds 3",
    "quad-link-low-ilqg": "quad-link-low --algorithm ilqg --seeds 5",
    "quad-link-free": "quad-link-free --algorithm moto --seeds 3",
    "quad-link-free-ilqg": "quad-link-free --algorithm ilqg --seeds 5",
    "quad-link-free-ilqg-learned": "quad-link-free --algorithm ilqg-learned --measured 20 --seeds 10",
    "peg": "peg --algorithm lqr-gps --seeds 5",
    "peg-mdgps": "peg --algorithm mdgps --seeds 5",
    "peg-blind": "peg-blind --seeds 5",
    "obstacles": "obstacles --algorithm lqr-gps --seeds 10",
    "obstacles-mdgps": "obstacles --algorithm mdgps --iterations 30 --seeds 10",
    "obstacles-moto": "obstacles --algorithm moto --seeds 5",
    "peg-2d": "peg-2d --seeds 10",
    "peg-2d-ilqg-learned": f"peg-2d --algorithm ilqg-learned --iterations 20 {UNTIL}",
    "peg-2d-lqr-gps": f"peg-2d --algorithm lqr-gps {UNTIL}",
    "peg-2d-moto": f"peg-2d --algorithm moto {UNTIL}",
    "peg-2d-mdgps": f"peg-2d --algorithm mdgps --iterations 30 {UNTIL}",
    "peg-2d-gps": f"peg-2d --algorithm gps --iterations 30 {UNTIL}",
    "peg-2d-badmm": f"peg-2d --algorithm badmm --iterations 30 {UNTIL}",
    "peg-2d-trpo": f"peg-2d --algorithm trpo --rollouts 20 --iterations 200 {UNTIL}",
    "peg-2d-more": f"peg-2d --algorithm more --rollouts 100 --iterations 40 {UNTIL}",
    "peg-2d-reps": f"peg-2d --algorithm reps --rollouts 100 --iterations 40 {UNTIL}",
    "peg-2d-slots": "peg-2d-slots --algorithm lqr-gps --seeds 3",
    "peg-2d-slots-gps": "peg-2d-slots --algorithm gps --seeds 3",
    "peg-2d-slots-mdgps": "peg-2d-slots --algorithm mdgps --seeds 3",
    "peg-2d-slots-badmm": "peg-2d-slots --algorithm badmm --seeds 3",
    "peg-3d": "peg-3d --seeds 5",
    "octopus": "octopus --algorithm lqr-gps --seeds 3",
    "octopus-gps": "octopus --algorithm gps --iterations 80 --seeds 3",
    "swimmer": "swimmer --seeds 5",
    "swimmer-ilqg-learned": "swimmer --algorithm ilqg-learned --measured 5 --seeds 3",
    "swimmer-ilqg": "swimmer --algorithm ilqg --seeds 5",
    "swimmer-moto": "swimmer --algorithm moto --seeds 5",
    "swimmer-gps": "swimmer --algorithm gps --seeds 5",
    "swimmer-mdgps": "swimmer --algorithm mdgps --seeds 5",
    "swimmer-badmm": "swimmer --algorithm badmm --seeds 5",
    "swimmer-cgps": "swimmer-cgps --seeds 5",
    "swimmer-cgps-cgps": "swimmer-cgps --algorithm cgps --seeds 5",
    "walker": "walker --algorithm lqr-gps --seeds 3",
    "walker-gps": "walker --algorithm gps --seeds 3",
    "walker-push": "walker-push --seeds 3",
    "walker-rough": "walker-rough --seeds 3",
    "table-tennis": "table-tennis --seeds 5",
    "table-tennis-noise": "table-tennis-noise --seeds 5",
    "table-tennis-context": "table-tennis-context --seeds 5",
    "reacher": "gym:Reacher-v5 --rollouts 10 --algorithm.kl-step 0.2 --iterations 25 --seeds 10",
    "reacher-ilqg-learned": f"{REACHER} --algorithm ilqg-learned --iterations 20 {UNTIL}",
    "reacher-lqr-gps": f"{REACHER} --algorithm lqr-gps --algorithm.kl-step 0.2 --rollouts 10 --iterations 25 {UNTIL}",
    "reacher-moto": f"{REACHER} --algorithm moto {UNTIL}",
    "reacher-mdgps": f"{REACHER} --algorithm mdgps --iterations 30 {UNTIL}",
    "reacher-gps": f"{REACHER} --algorithm gps --iterations 30 {UNTIL}",
    "reacher-badmm": f"{REACHER} --algorithm badmm --iterations 30 {UNTIL}",
    "reacher-trpo": f"{REACHER} --algorithm trpo --rollouts 20 --iterations 300 {UNTIL}",
    "reacher-more": f"{REACHER} --algorithm more --rollouts 100 --iterations 60 {UNTIL}",
    "reacher-reps": f"{REACHER} --algorithm reps --rollouts 100 --iterations 60 {UNTIL}",
    "reacher-priced-ilqg-learned": f"{PRICED} --algorithm ilqg-learned --iterations 20 {UNTIL}",
    "reacher-priced-lqr-gps": f"{PRICED} --algorithm lqr-gps --algorithm.kl-step 0.2 --rollouts 10 --iterations 25 "
    f"{UNTIL}",
    "reacher-goals-dyna": f"{GOALS} --algorithm dyna --iterations 6 --measured 1 --seeds 5",
    "reacher-goals-mdgps": f"{GOALS} --algorithm mdgps --iterations 30 --measured 1 --seeds 5",
    "reacher-goals-gps": f"{GOALS} --algorithm gps --iterations 30 --measured 1 --seeds 5",
}

COMPARED = [
    *(f"{task}-{name}" for task in ("cartpole", "double-link") for name in (
        "lqr-gps-gmm", "lqr-gps", "ilqg", "mdgps", "gps", "badmm", "trpo", "more", "reps")),
    "cartpole", "double-link", "double-link-reuse",
]  # fmt: skip
"""Rows that are measured once more by 20 noise-free episodes an iteration."""
AGAIN = "-until"
"""How their names end then."""


def _without(words: list[str], flags: Collection[str]) -> list[str]:
    """The words less some flags and what they are given."""
    dropped = {at for flag in flags if flag in words for at in (words.index(flag), words.index(flag) + 1)}
    return [word for i, word in enumerate(words) if i not in dropped]


ROWS |= {name + AGAIN: shlex.join(_without(shlex.split(ROWS[name]), FLAGS)) + f" {UNTIL}" for name in COMPARED}

Preference = Literal["quality", "episodes", "seconds"]
"""What one would rather have: low costs at the end, few episodes until it succeeds, little computing."""
KNOWN = ("ilqg", "cgps")
"""What needs to know the dynamics: it is compared with, and never preferred, for nobody's robot is known."""


class Preferred(NamedTuple):
    """The best rows of a task, by what one prefers."""

    quality: str
    episodes: str
    seconds: str


PREFERRED = {
    "cartpole": Preferred("cartpole-ilqg-learned", "cartpole-ilqg-learned", "cartpole-lqr-gps"),
    "double-link": Preferred("double-link-ilqg-learned", "double-link-ilqg-learned", "double-link-lqr-gps"),
    "quad-link-free": Preferred("quad-link-free", "quad-link-free-ilqg-learned", "quad-link-free"),
    "peg": Preferred("peg", "peg", "peg"),
    "peg-2d": Preferred("peg-2d-trpo", "peg-2d-lqr-gps", "peg-2d-lqr-gps"),
    "peg-2d-slots": Preferred("peg-2d-slots", "peg-2d-slots", "peg-2d-slots"),
    "obstacles": Preferred("obstacles", "obstacles", "obstacles"),
    "octopus": Preferred("octopus", "octopus", "octopus"),
    "walker": Preferred("walker", "walker", "walker"),
}
"""By task. docs/results has the numbers, and a test that holds these against them."""


def command(row: str) -> list[str]:
    """The words that `pilotfish train` is told."""
    return shlex.split(ROWS[row])


def algorithm(row: str) -> str:
    """The algorithm that a row names."""
    words = command(row)
    return words[words.index("--algorithm") + 1]


def preferred(task: str, preference: Preference) -> list[str]:
    """The settings, in words, that were measured to be the best for a task. ValueError where none were compared."""
    if task not in PREFERRED:
        raise ValueError(
            f"--prefer {preference}: of {task} nothing was compared. Leave it out, or choose a task of which it was: "
            f"{', '.join(PREFERRED)}."
        )
    return _without(command(getattr(PREFERRED[task], preference))[1:], FLAGS)
