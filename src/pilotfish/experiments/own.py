"""Our own tasks, of no paper: a cart and pole, and a point mass whose optimum is known."""

from pilotfish.algorithms import Setup
from pilotfish.algorithms.ilqg import ILQG
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.moto import MOTO
from pilotfish.experiments.claims import PaperFigure

DEFAULT = "moto"
SETUPS = {
    "cartpole": {
        "moto": Setup(MOTO(entropy_drop=0.1), rollouts=100, iterations=40),
        "lqr-gps": Setup(LQRGPS(), rollouts=20, iterations=40),
        "ilqg-learned": Setup(ILQG(dynamics="learned"), rollouts=1, iterations=8),
    },
    "lq": {
        "moto": Setup(MOTO(entropy_drop=0.1), rollouts=100, iterations=40),
        "lqr-gps": Setup(LQRGPS(), rollouts=30, iterations=30),
    },
}
"""By task and algorithm."""

FIGURES: tuple[PaperFigure, ...] = ()
