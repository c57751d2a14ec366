"""The MOTO paper (Akrour, Abdolmaleki, Abdulsamad, Peters, Neumann; JMLR 2018), section 7.2: robot table tennis."""

import numpy as np

from pilotfish import tasks
from pilotfish.algorithms import Setup
from pilotfish.algorithms.more import MORE
from pilotfish.algorithms.moto import MOTO
from pilotfish.algorithms.reps import REPS
from pilotfish.experiments.claims import Arm, Claim, Metrics, PaperFigure, Study, Variation
from pilotfish.policies.movement_primitive import MovementPrimitive
from pilotfish.tasks import table_tennis

# of each joint what it weighs on its motor in the first posture, kg or kg m^2, by MuJoCo
INERTIA = (9.5, 9.5, 9.5, 0.25, 0.27, 0.075, 0.082, 0.020, 0.025)
FREQUENCY = 5.0  # 1/s, of the tracking (ours): at 10 and more the wrist oscillates between actions of .02 s
GOAL_STD, SPEED_STD = 0.02, 0.2  # m and rad, and per s (ours): so as many strokes return the ball as of MOTO's noise


def stroke() -> MovementPrimitive:
    """A primitive fitted to the demonstration, whose goals and their velocities are searched: 18 parameters."""
    times, path, speeds = table_tennis.shown()
    weighs = np.array(INERTIA) / np.array(table_tennis.SCALE)
    return MovementPrimitive(
        kp=tuple((weighs * FREQUENCY**2).tolist()),
        kd=tuple((weighs * 2.0 * FREQUENCY).tolist()),
        goal_std=GOAL_STD,
        speed_std=SPEED_STD,
        times=tuple(times.tolist()),
        path=tuple(map(tuple, path.tolist())),
        speeds=tuple(map(tuple, speeds.tolist())),
    )


DEFAULT = "moto"
TASKS = ("table-tennis", "table-tennis-noise", "table-tennis-context")
STROKE = stroke()
SETUP = {
    "moto": Setup(MOTO(reuse="iterations"), rollouts=200, iterations=15),
    "reps": Setup(REPS(skill=STROKE), rollouts=50, iterations=60),
    "more": Setup(MORE(skill=STROKE), rollouts=50, iterations=60),
}
SETUPS = {task: SETUP for task in TASKS}
"""By task and algorithm."""

EARLY, LATE = 1 / 2, 1 / 3
"""The parts of the rollouts that we take for how fast something converges, and to what."""


def early(metrics: Metrics) -> np.ndarray:
    """Mean cost of the first half of the rollouts."""
    return metrics["cost"][:, : round(EARLY * metrics["cost"].shape[1])].mean(1)


def last(metrics: Metrics, name: str = "cost") -> np.ndarray:
    """The mean of a number over the last third of the rollouts."""
    return metrics[name][:, -max(round(LATE * metrics[name].shape[1]), 1) :].mean(1)


def arms(task: str, *others: Arm) -> tuple[Arm, ...]:
    """MOTO and what it is compared with."""
    return (Arm("MOTO", task, "moto", SETUP["moto"]), *others)


def searched(label: str, task: str, algorithm: str) -> Arm:
    """A search for the primitive's goals."""
    return Arm(label, task, algorithm, SETUP[algorithm])


def faster(other: str, extent: str = "") -> Claim:
    """MOTO, than another."""
    return Claim(
        f"our algorithm converges faster than {other}{extent}",
        f"mean cost of the first half of the rollouts: {other} minus MOTO",
        lambda study: early(study[other]) - early(study["MOTO"]),
    )


def less_good(other: str) -> Claim:
    """What MOTO ends with, than what another does."""
    return Claim(
        f"the resulting policy is slightly less good than that of {other}",
        f"mean cost of the last third of the rollouts: MOTO minus {other}",
        lambda study: last(study["MOTO"]) - last(study[other]),
    )


def gained(study: Study, label: str) -> np.ndarray:
    """By how much more strokes succeed in the last rollouts than in the first."""
    return last(study[label], "success") - study[label]["success"][:, 0]


def alone_adapts(other: str) -> Claim:
    """MOTO, to noise that is drawn within an episode."""
    return Claim(
        f"our policy is successfully capable of adapting to noise at ball bounce, while {other} fails to do so",
        f"part of the last third of the rollouts that return the ball: MOTO minus {other}",
        lambda study: last(study["MOTO"], "success") - last(study[other], "success"),
    )


SETTINGS = {
    "task": "the arm, the ball, the launch, the noise and the reward are ours (tasks/table_tennis.py): the paper gives "
    "the joints, the numbers of the state, the times and the demonstration",
    "actions": "in units of the task's scale, in which exploration of the identity leaves half of the strokes "
    "successful; in N m it would wreck them all",
    "primitive": "tracked by the demonstration's torques and linear feedback of 5 rad/s: what the ball does the model "
    "hides, so the task's dynamics count as unknown",
    "rollouts": "200 an iteration for MOTO, whose quadratic function has 496 numbers, with reuse of five iterations; "
    "50 for the searches of 18 parameters. All end after 3,000",
    "step-size": "0.1 for each of MOTO's controllers; the searches' own defaults",
}
VARIATIONS = (
    Variation(
        "actions in a milder scale",
        lambda arm: arm.on(scale=(5.0, 5.0, 5.0, 0.5, 0.5, 0.2, 0.2, 0.05, 0.05)) if arm.algorithm == "moto" else arm,
    ),
    Variation("action weight 1e-3", lambda arm: arm.on(action_weight=1e-3)),
)


HALF_THE_NOISE = Variation(
    "half the noise at the bounce", lambda arm: arm.on(bounce_std=tasks.find(arm.task).make().bounce_std / 2)
)


def figure(
    letter: str, what: str, arms: tuple[Arm, ...], claims: tuple[Claim, ...], *variations: Variation
) -> PaperFigure:
    """One of the three."""
    return PaperFigure(
        id=f"moto/3{letter}",
        title=f"MOTO and episodic search on robot table tennis, {what}",
        caption=f"Average return over rollouts, {what}.",
        arms=arms,
        claims=claims,
        settings=SETTINGS,
        x="rollouts",
        variations=VARIATIONS + variations,
        sensitivity_seeds=3,
    )


FIGURE_3A = figure(
    "a",
    "every ball launched alike",
    arms(TASKS[0], searched("REPS", TASKS[0], "reps"), searched("MORE", TASKS[0], "more")),
    (faster("REPS"), faster("MORE", ", to a smaller extent"), less_good("REPS"), less_good("MORE")),
)
FIGURE_3B = figure(
    "b",
    "with noise at the bounce",
    arms(TASKS[1], searched("REPS", TASKS[1], "reps"), searched("MORE", TASKS[1], "more")),
    (
        alone_adapts("REPS"),
        alone_adapts("MORE"),
        Claim(
            "our policy is successfully capable of adapting to noise at ball bounce",
            "part of the rollouts that return the ball: the last third minus the first iteration: MOTO",
            lambda study: gained(study, "MOTO"),
        ),
    ),
    HALF_THE_NOISE,
)
FIGURE_3C = figure(
    "c",
    "launched at different velocities",
    arms(TASKS[2], searched("contextual REPS", TASKS[2], "reps").but(contextual=True)),
    (faster("contextual REPS"), less_good("contextual REPS")),
)
FIGURES = (FIGURE_3A, FIGURE_3B, FIGURE_3C)
