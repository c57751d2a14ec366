"""CGPS'14 (Levine & Koltun, ICML 2014: "Learning Complex Neural Network Policies with Trajectory Optimization"): its
tasks, for local controllers alone and for networks, and a figure of what these learn.
"""

import numpy as np

from pilotfish.algorithms import Setup
from pilotfish.algorithms.gps import GPS
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.experiments.claims import LAST, Arm, Claim, PaperFigure
from pilotfish.experiments.exhibits import COST, Curves, Panel
from pilotfish.experiments.gps2014 import MIXTURE, cheaper, end, learns
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
WALKS = {
    "lqr-gps": Setup(LQRGPS(dynamics=MIXTURE), rollouts=20, iterations=20),
    "gps": Setup(GPS(dynamics=MIXTURE, kl_step=0.5), rollouts=20, iterations=20),
}
SETUPS = {
    "swimmer-cgps": {
        "lqr-gps": Setup(LQRGPS(kl_step=0.25), rollouts=20, iterations=150),
        "cgps": Setup(SWIMS, rollouts=5, iterations=120),
    },
    "walker-cgps": WALKS,
    "walker-push": WALKS,
    "walker-rough": WALKS,
}
"""By task and algorithm."""

SAMPLES, LAPLACE, GRADIENT = "swimmer: averages over samples", "swimmer: at the mean", "swimmer: true gradients"
"""Arms of the swimmer, by what tells what the network is near a controller."""
GROUNDS = {"walker-cgps": "walker", "walker-push": "walker, pushed", "walker-rough": "walker, rough ground"}
"""What the figure calls the walkers."""


def swimmer(label: str, **settings: str) -> Arm:
    """A network's on known dynamics, with other policy terms than those of the setup."""
    made = Arm(label, "swimmer-cgps", "cgps", SETUPS["swimmer-cgps"]["cgps"], measured=1)
    return made.but(**settings)


def walker(task: str, algorithm: str) -> Arm:
    """A network's on fitted dynamics, or of local controllers alone."""
    label = GROUNDS[task] + ": local controllers" * (algorithm == "lqr-gps")
    return Arm(label, task, algorithm, SETUPS[task][algorithm], measured=1)


TASKS = PaperFigure(
    id="cgps/tasks",
    title="Constrained guided policy search: networks on its tasks, and its policy terms",
    caption="Cost of noise-free episodes after every update: of networks, and on the walkers of local controllers "
    "alone as well.",
    arms=(
        swimmer(SAMPLES),
        swimmer(LAPLACE, terms="rollouts", **{"linearise.how": "mean"}),
        swimmer(GRADIENT, terms="gradient"),
        *(walker(task, algorithm) for task in GROUNDS for algorithm in ("gps", "lqr-gps")),
    ),
    claims=(
        *(learns(label) for label in (SAMPLES, *GROUNDS.values())),
        *(cheaper(label) for label in (SAMPLES, *GROUNDS.values())),
        Claim(
            "(supplement B) substituting the sample averages directly is slightly faster and does not appear to "
            "significantly degrade the results",
            f"log10 of the cost of the last {LAST} iterations: true gradients minus averages, plus log10 of 1.1",
            lambda study: end(study[GRADIENT]) - end(study[SAMPLES]) + np.log10(1.1),
        ),
        Claim(
            "(supplement B) the Laplace approximation can lead to nonconvergence when the policy is highly nonlinear",
            f"log10 of the cost of the last {LAST} iterations: at the mean minus averages over samples",
            lambda study: end(study[LAPLACE]) - end(study[SAMPLES]),
        ),
    ),
    settings={
        "swimmer": "the dynamics are known, as in the paper; 40 samples, 50 softplus units",
        "walkers": "their dynamics are fitted to rollouts, as in GPS'14: derivatives through the contact of feet, "
        "multiplied over an episode, overflow here, where the paper has softer contacts",
        "pushes and ground": "-100 N for .1 s every 1.5 s, and slopes of up to 5 degrees: the paper gives no numbers",
    },
    exhibit=Curves(
        (
            Panel("swimmer, 1 m/s", {arm.split(": ")[1]: arm for arm in (SAMPLES, LAPLACE, GRADIENT)}),
            *(
                Panel(name, {"network": name, "local controllers": f"{name}: local controllers"})
                for name in GROUNDS.values()
            ),
        ),
        COST,
    ),
    seeds=3,
)
FIGURES = (TASKS,)
