"""GPS'14 (Levine & Abbeel, NIPS 2014): its tasks, for local controllers alone and for networks, and figures of what
these learn.
"""

import numpy as np

from pilotfish.algorithms import Setup
from pilotfish.algorithms.badmm import BADMM
from pilotfish.algorithms.gps import GPS
from pilotfish.algorithms.ilqg import ILQG
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.mdgps import MDGPS
from pilotfish.algorithms.moto import MOTO
from pilotfish.experiments.claims import LAST, Arm, Claim, Metrics, PaperFigure, sooner
from pilotfish.experiments.exhibits import COST, ELSEWHERE, Curves, Map, Panel
from pilotfish.experiments.mdgps import AGREEING, SHRINKING
from pilotfish.models.dynamics import FittedDynamics, Prior
from pilotfish.models.learned_dynamics import LearnedDynamics
from pilotfish.policies.network import Network
from pilotfish.tasks.peg_planar import FOUR
from pilotfish.updates.step_size import StepSize

PLAIN, MIXTURE = FittedDynamics(), FittedDynamics(prior="gmm")
TIGHT = FittedDynamics(prior="gmm", excess=10.0)
WIDE = Network(width=100, activation="tanh")
SMOOTH = 5.0
"""Time steps over which exploration is smoothed where there are 100 a second: white noise only rattles there."""

STEADY = StepSize(smallest=0.5, largest=2.0)

STEADFAST = ILQG(
    dynamics="learned", learned=LearnedDynamics(memory=8000, nearest=4000, points=2000), starts=1, radius=0.35
)
"""Every plan goes on from the cheapest episode and saves a little; plans that begin anew do not come true here."""

DEFAULT = "lqr-gps"
PEG = {
    "lqr-gps": Setup(LQRGPS(dynamics=TIGHT, noise_smoothing=SMOOTH), rollouts=10, iterations=25),
    "gps": Setup(GPS(kl_step=0.2, dynamics=TIGHT, policy=WIDE, noise_smoothing=SMOOTH), rollouts=10, iterations=25),
}
"""Of the planar peg, wherever its slot is."""
SETUPS = {
    "peg-2d": {
        "lqr-gps": PEG["lqr-gps"],
        "moto": Setup(MOTO(reuse="iterations", memory=5, kl_step=0.01, entropy_drop=0.005), rollouts=40, iterations=80),
    },
    "peg-2d-slots": PEG
    | {
        "mdgps": Setup(
            MDGPS(kl_step=0.2, dynamics=TIGHT, policy=WIDE, noise_smoothing=SMOOTH), rollouts=10, iterations=25
        ),
        "badmm": Setup(
            BADMM(kl_step=0.2, dynamics=TIGHT, policy=WIDE, step=STEADY, noise_smoothing=SMOOTH),
            rollouts=10,
            iterations=25,
        ),
    },
    "peg-2d-blind": PEG,
    "peg-3d": {
        "lqr-gps": Setup(LQRGPS(dynamics=AGREEING, kl_step=0.5, step=SHRINKING), rollouts=10, iterations=30),
        "gps": Setup(GPS(dynamics=MIXTURE, kl_step=0.5, noise_smoothing=SMOOTH), rollouts=10, iterations=30),
    },
    "octopus": {
        "lqr-gps": Setup(LQRGPS(kl_step=4.0), rollouts=100, iterations=80),
        "gps": Setup(GPS(dynamics=PLAIN, kl_step=4.0), rollouts=100, iterations=40),
    },
    "octopus-hard": {"lqr-gps": Setup(LQRGPS(kl_step=4.0), rollouts=100, iterations=80)},
    "swimmer": {
        "lqr-gps": Setup(LQRGPS(kl_step=0.25), rollouts=20, iterations=150),
        "gps": Setup(GPS(dynamics=PLAIN, kl_step=0.25), rollouts=20, iterations=200),
        "mdgps": Setup(MDGPS(dynamics=PLAIN, kl_step=0.25), rollouts=20, iterations=200),
        "badmm": Setup(BADMM(dynamics=PLAIN, kl_step=0.25, step=STEADY), rollouts=20, iterations=200),
        "moto": Setup(MOTO(reuse="iterations", memory=5, kl_step=0.05, entropy_drop=0.01), rollouts=40, iterations=150),
        "ilqg-learned": Setup(STEADFAST, rollouts=1, iterations=60),
    },
    "walker": {
        "lqr-gps": Setup(LQRGPS(dynamics=MIXTURE, kl_step=0.5), rollouts=20, iterations=20),
        "gps": Setup(GPS(dynamics=MIXTURE, kl_step=0.5), rollouts=20, iterations=20),
    },
}
"""By task and algorithm."""

NAMES = {
    "peg-2d-slots": "planar peg",
    "peg-2d-blind": "blind planar peg",
    "peg-3d": "peg in space",
    "octopus": "octopus",
    "swimmer": "swimmer",
    "walker": "walker",
}
"""What the figure calls the tasks that a network learns."""


def network(task: str) -> Arm:
    """A network's, measured by one noise-free episode from each condition in every iteration."""
    return Arm(NAMES[task], task, "gps", SETUPS[task]["gps"], measured=1)


def local(label: str, prior: Prior, rollouts: int) -> Arm:
    """Of local controllers alone, on one slot."""
    setup = SETUPS["peg-2d"]["lqr-gps"]._replace(rollouts=rollouts)
    return Arm(label, "peg-2d", "lqr-gps", setup, measured=1).but(**{"dynamics.prior": prior})


WITH, WITHOUT, MORE = "mixture, 10 rollouts", "no prior, 10 rollouts", "no prior, 20 rollouts"
"""Arms of local controllers."""
ALONE = (local(WITH, "gmm", 10), local(WITHOUT, "none", 10), local(MORE, "none", 20))

# -- numbers of which claims are made: one a seed


def cheapest(metrics: Metrics) -> np.ndarray:
    """Success of the network whose noise-free episodes cost least, of all iterations. What a run deploys is chosen by
    success first: then the same episodes would say more of the choice than of the network.
    """
    best = metrics["noise_free_cost"].argmin(1)[:, None]
    return np.take_along_axis(metrics["noise_free_success"], best, 1)[:, 0]


def end(metrics: Metrics) -> np.ndarray:
    """log10 of the cost of the network's noise-free episodes, mean of the last iterations."""
    return np.log10(metrics["noise_free_cost"][:, -LAST:].mean(1))


def learns(label: str) -> Claim:
    """An arm's network does its task."""
    return Claim(
        f"(the abstract) complex neural network policies that successfully execute the tasks ({label})",
        "success of the noise-free episodes, one from each condition, of the network, of all iterations, whose "
        "episodes cost least",
        lambda study: cheapest(study[label]),
        threshold=0.5,
    )


def cheaper(label: str) -> Claim:
    """Whatever the task calls success."""
    return Claim(
        f"(ours) the network comes to cost less ({label})",
        f"log10 of the cost of its noise-free episodes: before it learns minus the last {LAST} iterations",
        lambda study: np.log10(study[label]["noise_free_cost"][:, 0]) - end(study[label]),
    )


def fewer(than: str) -> Claim:
    """Rollouts, with a mixture."""
    return Claim(
        f"(Appendix A) a GMM can be used to enable this fitting to be done with a small number of samples ({than})",
        "log10 of how many times more rollouts it takes without one until 9 of 10 exploring rollouts insert the peg",
        lambda study: sooner(study[WITH], study[than], level=0.85),
    )


TASKS = PaperFigure(
    id="gps/tasks",
    title="Guided policy search under unknown dynamics: networks on its tasks",
    caption="Cost of the network's noise-free episodes, one from each condition, after every update. Last: local "
    "controllers alone, on one slot.",
    arms=(*map(network, NAMES), *ALONE),
    claims=(*map(learns, NAMES.values()), *map(cheaper, NAMES.values()), fewer(WITHOUT), fewer(MORE)),
    settings={
        "settings": "those of `pilotfish train TASK --algorithm gps`; docs/algorithms/gps.md says what is ours",
        "places of the slot": f"four, {', '.join(map(str, FOUR))} m: the paper says that there are four",
        "blind": "the network sees the arm's angles and velocities only",
        "the paper's curves": "are not at hand; its claims are those of its abstract and appendix",
        "prior": "a mixture for pegs and walker; none for octopus and swimmer, where it hurts (docs/results)",
    },
    exhibit=Curves(
        (
            *(Panel(name, {"network": name}) for name in NAMES.values()),
            Panel("planar peg, one slot: local controllers", {arm.label: arm.label for arm in ALONE}),
        ),
        COST,
    ),
    seeds=3,
)

# -- slots where they were not trained

SLOTS = Map(
    field="shifts",
    trained=FOUR,
    grid=tuple(np.linspace(-0.2, 0.2, 17).round(3).tolist()),
    others=(),
    edges=(0.0, 0.01, 0.03, 0.06),
)


def elsewhere(part: str, task: str) -> Claim:
    """Where the slot was not when it was trained."""
    which = SLOTS.parts()[part]
    return Claim(
        f"(ours) the network inserts the peg as often {part} the slots of training, up to 10 points ({NAMES[task]})",
        f"success: {part} minus trained, plus 1/10",
        lambda study: (
            study[NAMES[task]][ELSEWHERE][:, which].mean(1)
            - study[NAMES[task]][ELSEWHERE][:, SLOTS.parts()["trained"]].mean(1)
            + 0.1
        ),
    )


WHERE = PaperFigure(
    id="gps/slots",
    title="Guided policy search under unknown dynamics: slots where a network was not trained",
    caption="Part of the seeds whose network inserts the planar peg, by the slot's place.",
    arms=(network("peg-2d-slots"), network("peg-2d-blind")),
    claims=(
        elsewhere("between", "peg-2d-slots"),
        elsewhere("between", "peg-2d-blind"),
        elsewhere("outside", "peg-2d-slots"),
    ),
    settings={
        "network": "of all iterations' the one whose noise-free episodes at the places of training succeed most often, "
        "and of such that whose cost least: what a run deploys",
        "places": "17 from -0.2 to 0.2 m, in which are the four of training",
    },
    exhibit=SLOTS,
    shares="gps/tasks",
    seeds=3,
)

FIGURES = (TASKS, WHERE)
