"""CGPS'14 (Levine & Koltun, ICML 2014: "Learning Complex Neural Network Policies with Trajectory Optimization")."""

from pilotfish.algorithms import Setup
from pilotfish.algorithms.gps import GPS
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.experiments.claims import PaperFigure
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.models.linearised import Linearisation
from pilotfish.policies.network import Network
from pilotfish.updates.s_step import SStep

DEFAULT = "lqr-gps"
SWIMS = GPS(
    kl_step=0.3,
    model="known",
    linearise=Linearisation(how="autodiff"),
    terms="samples",
    policy=Network(width=50, activation="softplus"),
    teach=SStep(steps=2000, batch=128),
)
WALKS = {"lqr-gps": Setup(LQRGPS(dynamics=FittedDynamics(prior="gmm")), rollouts=20, iterations=20)}
SETUPS = {
    "swimmer-cgps": {
        "lqr-gps": Setup(LQRGPS(kl_step=0.25), rollouts=20, iterations=150),
        "cgps": Setup(SWIMS, rollouts=5, iterations=25),
    },
    "walker-cgps": WALKS,
    "walker-push": WALKS,
    "walker-rough": WALKS,
}
"""By task and algorithm."""

FIGURES: tuple[PaperFigure, ...] = ()
