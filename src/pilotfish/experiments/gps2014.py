"""GPS'14 (Levine & Abbeel, NIPS 2014): its tasks. Its policies' networks are not compared here."""

from pilotfish.algorithms import Setup
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.moto import MOTO
from pilotfish.experiments.claims import PaperFigure
from pilotfish.models.dynamics import FittedDynamics

DEFAULT = "lqr-gps"
SETUPS = {
    "peg-2d": {
        "lqr-gps": Setup(LQRGPS(dynamics=FittedDynamics(prior="gmm")), rollouts=10, iterations=25),
        "moto": Setup(MOTO(reuse="iterations", memory=5, kl_step=0.01, entropy_drop=0.005), rollouts=40, iterations=80),
    },
    "peg-3d": {
        "lqr-gps": Setup(LQRGPS(dynamics=FittedDynamics(prior="gmm"), kl_step=0.5), rollouts=10, iterations=30),
    },
    "octopus": {"lqr-gps": Setup(LQRGPS(kl_step=4.0), rollouts=100, iterations=80)},
    "octopus-hard": {"lqr-gps": Setup(LQRGPS(kl_step=4.0), rollouts=100, iterations=80)},
    "swimmer": {
        "lqr-gps": Setup(LQRGPS(kl_step=0.25), rollouts=20, iterations=150),
        "moto": Setup(MOTO(reuse="iterations", memory=5, kl_step=0.05, entropy_drop=0.01), rollouts=40, iterations=150),
    },
    "walker": {
        "lqr-gps": Setup(LQRGPS(dynamics=FittedDynamics(prior="gmm"), kl_step=0.5), rollouts=20, iterations=20),
    },
}
"""By task and algorithm."""

FIGURES: tuple[PaperFigure, ...] = ()
