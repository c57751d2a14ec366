"""MDGPS (Montgomery & Levine, NIPS 2016): its tasks, for local controllers alone and for networks."""

from pilotfish.algorithms import Setup
from pilotfish.algorithms.badmm import BADMM
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.mdgps import MDGPS
from pilotfish.algorithms.moto import MOTO
from pilotfish.experiments.claims import PaperFigure
from pilotfish.models.dynamics import FittedDynamics

MIXTURE = FittedDynamics(prior="gmm")

DEFAULT = "lqr-gps"
SETUPS = {
    "obstacles": {
        "lqr-gps": Setup(LQRGPS(dynamics=MIXTURE, kl_step=2.0, noise_smoothing=4.0), rollouts=5, iterations=60),
        "mdgps": Setup(MDGPS(noise_smoothing=2.0), rollouts=5, iterations=15),
        "moto": Setup(MOTO(reuse="iterations", memory=5, kl_step=0.2, entropy_drop=0.02), rollouts=40, iterations=150),
    },
    "peg": {
        "lqr-gps": Setup(LQRGPS(dynamics=MIXTURE, kl_step=2.0, noise_smoothing=1.0), rollouts=5, iterations=12),
        "mdgps": Setup(MDGPS(noise_smoothing=1.0), rollouts=5, iterations=15),
        "badmm": Setup(BADMM(kl_step=2.0, noise_smoothing=1.0), rollouts=5, iterations=15),
    },
    "peg-blind": {
        "lqr-gps": Setup(LQRGPS(dynamics=MIXTURE, kl_step=2.0, noise_smoothing=2.0), rollouts=5, iterations=12),
        "mdgps": Setup(MDGPS(noise_smoothing=1.0), rollouts=5, iterations=15),
    },
}
"""By task and algorithm."""

FIGURES: tuple[PaperFigure, ...] = ()
