"""CGPS'14 (Levine & Koltun, ICML 2014: "Learning Complex Neural Network Policies with Trajectory Optimization")."""

from pilotfish.algorithms import Setup
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.experiments.claims import PaperFigure
from pilotfish.models.dynamics import FittedDynamics

DEFAULT = "lqr-gps"
WALKS = {"lqr-gps": Setup(LQRGPS(dynamics=FittedDynamics(prior="gmm")), rollouts=20, iterations=20)}
SETUPS = {
    "swimmer-cgps": {"lqr-gps": Setup(LQRGPS(kl_step=0.25), rollouts=20, iterations=150)},
    "walker-cgps": WALKS,
    "walker-push": WALKS,
    "walker-rough": WALKS,
}
"""By task and algorithm."""

FIGURES: tuple[PaperFigure, ...] = ()
