"""The only place that names a task and an algorithm together: a file for each paper, or a part of one, read when it is
asked for.

Each has `SETUPS` (by task, then by algorithm), the `DEFAULT` algorithm for its tasks, and its `FIGURES`.
"""

from collections.abc import Iterable, Iterator
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from pilotfish.experiments import rows

if TYPE_CHECKING:
    from pilotfish.algorithms import Setup
    from pilotfish.experiments.claims import PaperFigure

PAPERS = ("moto", "gps2014", "cgps2014", "mdgps", "own", "moto_tennis")
TITLES = {
    "moto/1b": "GPS and MOTO on the double link",
    "moto/1c": "MOTO and its variants on the double link",
    "moto/2b": "GPS and MOTO on the quad link with soft joint limits",
    "moto/2c": "MOTO on the double link for several numbers of rollouts an iteration",
    "moto/3a": "MOTO and episodic search on robot table tennis, every ball launched alike",
    "moto/3b": "MOTO and episodic search on robot table tennis, with noise at the bounce",
    "moto/3c": "MOTO and episodic search on robot table tennis, launched at different velocities",
    "moto/5": "MOTO and three forms of TRPO on the double link and the quad link",
    "gps/tasks": "Guided policy search under unknown dynamics: networks on its tasks",
    "gps/slots": "Guided policy search under unknown dynamics: slots where a network was not trained",
    "cgps/tasks": "Constrained guided policy search: networks on its tasks, and its policy terms",
    "mdgps/1": "BADMM and MDGPS on the obstacle, peg and blind peg tasks: distances",
    "mdgps/table1": "BADMM and MDGPS on the peg tasks: rates of success beside the paper's",
    "mdgps/settings": "BADMM and MDGPS on the peg task under other settings",
    "mdgps/map": "BADMM and MDGPS on the peg task: holes where they were not trained",
    "mdgps/long": "BADMM and MDGPS on the peg and obstacle tasks: long after they have learned",
}
"""Of all figures by id, for `pilotfish list`: the figures themselves import what they compare."""
FEWEST = "lqr-gps"
"""What is taken for a task of no paper: it needs the fewest rollouts, and nothing known."""


def setup(task: str, algorithm: str) -> "Setup":
    """The setup that `pilotfish train` starts from; measured in docs/results where a paper here names both."""
    from pilotfish import algorithms

    for paper in _papers():
        if found := paper.SETUPS.get(task, {}).get(algorithm):
            return found
    made: algorithms.Algorithm = algorithms.find(algorithm).make()
    return algorithms.Setup(made, *made.defaults)


def default_algorithm(task: str, settings: Iterable[str] = ()) -> str:
    """What `pilotfish train` takes where no algorithm is named: what needs the fewest episodes, where that was
    compared, or else what was set up for the task. The first of these that has all of some settings, if any has.
    """
    from pilotfish import algorithms

    having = (name for name in _known(task) if all(hasattr(algorithms.find(name).make(), one) for one in settings))
    return next(having, None) or next(_known(task))


def _known(task: str) -> Iterator[str]:
    """The algorithms that are known to learn a task, the best first: no paper is read that is not asked for."""
    if task in rows.PREFERRED:
        yield rows.algorithm(rows.PREFERRED[task].episodes)
    of_papers = (paper.DEFAULT for paper in _papers() if task in paper.SETUPS)
    yield next(of_papers, FEWEST)
    yield from of_papers


def figures() -> "dict[str, PaperFigure]":
    """All figures by id."""
    return {figure.id: figure for paper in _papers() for figure in paper.FIGURES}


def _papers() -> Iterator[ModuleType]:
    return (import_module(f"{__name__}.{paper}") for paper in PAPERS)
