"""MDGPS (Montgomery & Levine, NIPS 2016): its tasks, for local controllers alone and for networks, and its figures."""

from collections.abc import Callable, Iterable

import numpy as np

from pilotfish.algorithms import Setup
from pilotfish.algorithms.badmm import BADMM
from pilotfish.algorithms.gps import GPS
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.mdgps import MDGPS
from pilotfish.algorithms.moto import MOTO
from pilotfish.experiments.claims import LAST, Arm, Claim, Metrics, PaperFigure, Study, Variation
from pilotfish.experiments.exhibits import ELSEWHERE, SUCCESS, Curves, Map, Panel, PaperTable
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.models.linearised import Linearisation
from pilotfish.tasks.peg import NINE
from pilotfish.updates.step_size import StepSize

AGREEING = FittedDynamics(prior="gmm", excess=2.0)
LOOSE = FittedDynamics(prior="gmm", memory=60, excess=10.0)
DERIVATIVE = Linearisation(how="autodiff")
SHRINKING = StepSize(smallest=0.1)
FREE = StepSize(smallest=0.01, largest=3.0)


def networks(noise_smoothing: float) -> dict[str, Setup]:
    """Both ways to teach a network, measured by one episode from each condition."""
    mdgps = MDGPS(linearise=DERIVATIVE, step=StepSize(smallest=0.1, largest=3.0), noise_smoothing=noise_smoothing)
    badmm = BADMM(kl_step=2.0, linearise=DERIVATIVE, noise_smoothing=noise_smoothing)
    return {
        "mdgps": Setup(mdgps, rollouts=5, iterations=20, measured=1),
        "badmm": Setup(badmm, rollouts=5, iterations=15, measured=1),
    }


DEFAULT = "lqr-gps"
SETUPS = {
    "obstacles": networks(noise_smoothing=8.0)
    | {
        "lqr-gps": Setup(
            LQRGPS(dynamics=AGREEING, kl_step=2.0, noise_smoothing=4.0), rollouts=5, iterations=60, measured=3
        ),
        "gps": Setup(GPS(dynamics=LOOSE, kl_step=2.0, step=FREE, noise_smoothing=4.0), rollouts=5, iterations=20),
        "moto": Setup(MOTO(reuse="iterations", memory=5, kl_step=0.2, entropy_drop=0.02), rollouts=40, iterations=150),
    },
    "peg": networks(noise_smoothing=2.0)
    | {
        "lqr-gps": Setup(
            LQRGPS(dynamics=AGREEING, kl_step=2.0, step=SHRINKING, noise_smoothing=1.0),
            rollouts=5,
            iterations=12,
            measured=3,
        ),
    },
    "peg-blind": networks(noise_smoothing=2.0)
    | {
        "lqr-gps": Setup(
            LQRGPS(dynamics=AGREEING, kl_step=2.0, step=SHRINKING, noise_smoothing=2.0),
            rollouts=5,
            iterations=15,
            measured=3,
        ),
    },
}
"""What `pilotfish train` starts from, and what the figures compare, by task and algorithm."""

UPDATES = 15
"""The last number of updates that Figure 1 shows, by the authors' script."""
NAMES = {"obstacles": "obstacle", "peg": "peg", "peg-blind": "blind peg"}
"""The paper's names of the tasks."""
TASKS, PEGS = tuple(NAMES), ("peg", "peg-blind")
OFF, ON = ("off policy, classic", "off policy, global"), ("on policy, classic", "on policy, global")
METHODS = ("BADMM", *OFF, *ON)
"""In the order of Table 1."""
ALIKE = {"obstacles": 0.3, "peg": 0.06, "peg-blind": 0.06}
"""Distances that differ by less we call similar, m: what the tasks call success."""


def label(task: str, method: str) -> str:
    """An arm's."""
    return f"{NAMES[task]}: {method}"


def arm(task: str, method: str, updates: int = UPDATES) -> Arm:
    """A method of Table 1 as the figures compare it, measured as in the paper: by one noise-free episode from each
    condition after every update.
    """
    algorithm = "badmm" if method == "BADMM" else "mdgps"
    setup = SETUPS[task][algorithm]._replace(iterations=updates + 1)
    made = Arm(label(task, method), task, algorithm, setup, measured=1)
    if algorithm == "badmm":
        return made
    sampling, rule = method.split(" policy, ")
    return made.but(sampling=sampling, step_rule=rule)


def panel(task: str, title: str, failure: float | None = None) -> Panel:
    """All methods on one task."""
    return Panel(title, {method: label(task, method) for method in METHODS}, failure)


# -- numbers of which claims are made: one a seed

Number = Callable[[Metrics], np.ndarray]


def start(metrics: Metrics) -> np.ndarray:
    """Distance at the end of the network's episodes before it learns, m."""
    return metrics["noise_free_distance"][:, 0]


def average(metrics: Metrics) -> np.ndarray:
    """The same, mean over all updates."""
    return metrics["noise_free_distance"][:, 1:].mean(1)


def end(metrics: Metrics) -> np.ndarray:
    """The same, mean over the last updates."""
    return metrics["noise_free_distance"][:, -LAST:].mean(1)


def rises(metrics: Metrics) -> np.ndarray:
    """By how much updates after the first enlarge the distance, all together, per distance at the start."""
    return np.maximum(np.diff(metrics["noise_free_distance"][:, 1:]), 0.0).sum(1) / start(metrics)


def log_step(metrics: Metrics) -> np.ndarray:
    """log10 of the step size, per the first one, mean over updates."""
    return np.log10(metrics["step_factor"]).mean(1)


def lag(metrics: Metrics) -> np.ndarray:
    """Success of the rollouts minus that of the network's noise-free episodes, mean over all updates."""
    return (metrics["success"] - metrics["noise_free_success"])[:, 1:].mean(1)


def inserted(*updates: int) -> Number:
    """Success of the network after so many updates, or the last where there are fewer; the mean of several."""
    return lambda metrics: np.mean(
        [metrics["noise_free_success"][:, : k + 1][:, -1] for k in updates],
        axis=0,
    )


def mean(study: Study, tasks: tuple[str, ...], methods: tuple[str, ...], number: Number) -> np.ndarray:
    """Of a number over several arms."""
    return np.mean([number(study[label(task, method)]) for task in tasks for method in methods], 0)


def spread(study: Study, labels: Iterable[str]) -> np.ndarray:
    """Of the last distances of several arms the largest minus the smallest, m."""
    ends = [end(study[one]) for one in labels]
    return np.max(ends, 0) - np.min(ends, 0)


# -- Figure 1


def similar(task: str) -> Claim:
    """All methods end about as near."""
    return Claim(
        f"on the easier point mass and peg tasks, all of the methods achieve similar performance ({NAMES[task]})",
        f"distance after the last {LAST} updates, m: {ALIKE[task]} minus (largest of the five methods minus smallest)",
        lambda study: ALIKE[task] - spread(study, [label(task, method) for method in METHODS]),
    )


def nearer_than_badmm(method: str) -> Claim:
    """On the blind task."""
    return Claim(
        f"on the harder blind peg task, MDGPS consistently outperforms BADMM when sampling off policy ({method})",
        "distance, mean over all updates, m: BADMM minus MDGPS",
        lambda study: average(study[label("peg-blind", "BADMM")]) - average(study[label("peg-blind", method)]),
    )


def slower_on_policy(task: str) -> Claim:
    """Than off policy."""
    return Claim(
        f"on-policy sampling tends to learn slower ({NAMES[task]})",
        "distance, mean over all updates and both step rules, m: on policy minus off policy",
        lambda study: mean(study, (task,), ON, average) - mean(study, (task,), OFF, average),
    )


def improves_on_policy(task: str) -> Claim:
    """From where it began."""
    return Claim(
        f"but this method is still able to consistently improve the global policies ({NAMES[task]})",
        f"distance, m: before learning minus after the last {LAST} updates, the smaller of both step rules",
        lambda study: np.min([start(study[label(task, on)]) - end(study[label(task, on)]) for on in ON], 0),
    )


def between_rules(study: Study, number: Number) -> np.ndarray:
    """Of a number, mean over tasks and both ways to sample: classic minus global."""
    classic, global_ = ((OFF[rule], ON[rule]) for rule in (0, 1))
    return mean(study, TASKS, classic, number) - mean(study, TASKS, global_, number)


SETTINGS = {
    "settings": "those of `pilotfish train` for each task; sampling and step rule are all that differs between MDGPS's "
    "arms. docs/algorithms/mdgps.md says what is ours",
    "BADMM": "the paper's settings are the best of a sweep that it does not give; ours are those of `pilotfish train`",
    "rollouts": "5 from each condition and update, as in the paper",
}
ALONE = Variation("no imagined episodes", lambda arm: arm.but(imagined=0))
"""The network learns from the states of rollouts alone, as in the paper."""

FIGURE_1 = PaperFigure(
    id="mdgps/1",
    title="BADMM and MDGPS on the obstacle, peg and blind peg tasks: distances",
    caption="Average distance from the target, for pegs of the bottom from the hole's floor, over updates. Above 0.1 "
    "m, the hole's depth, the peg has failed.",
    arms=tuple(arm(task, method) for task in TASKS for method in METHODS),
    claims=(
        similar("obstacles"),
        similar("peg"),
        nearer_than_badmm(OFF[0]),
        nearer_than_badmm(OFF[1]),
        slower_on_policy("obstacles"),
        slower_on_policy("peg"),
        slower_on_policy("peg-blind"),
        Claim(
            "since the approximate projection causes the global policy to lag behind the local policy in performance",
            "success, mean over all updates, tasks and step rules, off policy: local controllers with exploration "
            "noise minus network without",
            lambda study: mean(study, TASKS, OFF, lag),
        ),
        improves_on_policy("obstacles"),
        improves_on_policy("peg"),
        improves_on_policy("peg-blind"),
        Claim(
            "the global step size also tends to be more conservative",
            "log10 of the step size, mean over all updates, tasks and both ways to sample: classic minus global",
            lambda study: between_rules(study, log_step),
        ),
        Claim(
            "but produces more consistent and monotonic improvement",
            "sum of all rises of the distance, per distance before learning, mean over tasks and both ways to sample: "
            "classic minus global",
            lambda study: between_rules(study, rises),
        ),
    ),
    settings=SETTINGS
    | {
        "updates": f"{UPDATES}: the axis of the authors' script",
        "seeds": "10; the paper has 3. Intervals are Student's 95% of the mean, where the paper has a standard "
        "deviation",
        "distance": "of the network's noise-free episode from each condition, at its end. Obstacle: from the target. "
        "Pegs: of the bottom's height from that of the hole's floor, as the authors' script has it",
        "similar": "less apart than what is called success: .3 m, and .06 m for pegs. Largest minus smallest is never "
        "negative, so chance is against the claim",
        "not judged": "that without adapting the local controllers the blind task is impossible, for nothing here does "
        "so; and why one would sample from the network in practice",
    },
    exhibit=Curves(
        (
            panel("obstacles", "obstacle: from the target"),
            panel("peg", "peg: from the hole's floor", failure=0.1),
            panel("peg-blind", "blind peg: from the hole's floor", failure=0.1),
        )
    ),
    variations=(ALONE,),
    seeds=10,
    sensitivity_seeds=3,
)

# -- Table 1

TABLE_1 = {
    "peg": {
        3: (0.0, 0.0, 0.0, 0.0, 0.0),
        6: (51.85, 62.96, 22.22, 48.15, 33.33),
        9: (51.85, 77.78, 74.07, 77.78, 81.48),
        12: (77.78, 70.73, 92.59, 92.59, 85.19),
    },
    "blind peg": {
        3: (0.0, 0.0, 0.0, 0.0, 0.0),
        6: (50.0, 58.33, 25.0, 33.33, 25.0),
        9: (58.33, 75.0, 50.0, 58.33, 33.33),
        12: (75.0, 83.33, 91.67, 58.33, 58.33),
    },
}
"""As printed, %, by task and updates; methods in the order of METHODS."""


def inserts_more(method: str) -> Claim:
    """Than BADMM, on the blind task."""
    return Claim(
        f"MDGPS policies succeed at inserting the peg more often and on more conditions (blind peg; {method})",
        "success after 12 updates: MDGPS minus BADMM",
        lambda study: gain(study, "peg-blind", (method,)),
    )


def gain(study: Study, task: str, methods: tuple[str, ...] = OFF) -> np.ndarray:
    """Of MDGPS over BADMM in success after 12 updates."""
    return mean(study, (task,), methods, inserted(12)) - mean(study, (task,), ("BADMM",), inserted(12))


def inserts_later_on_policy(task: str) -> Claim:
    """Than off policy."""
    number = inserted(*TABLE_1["peg"])
    return Claim(
        f"on-policy sampling tends to learn slower ({NAMES[task]})",
        "success, mean over 3, 6, 9 and 12 updates and both step rules: off policy minus on policy",
        lambda study: mean(study, (task,), OFF, number) - mean(study, (task,), ON, number),
    )


FIGURE_TABLE_1 = PaperFigure(
    id="mdgps/table1",
    title="BADMM and MDGPS on the peg tasks: rates of success beside the paper's",
    caption="Part of the network's noise-free episodes, one from each condition, that end with the peg's bottom less "
    "than 0.06 m above the hole's floor.",
    arms=tuple(arm(task, method) for task in PEGS for method in METHODS),
    claims=(
        inserts_more(OFF[0]),
        inserts_more(OFF[1]),
        Claim(
            "our method is better able to improve global policies particularly in situations where informational or "
            "representational constraints make naive imitation of the local policies insufficient",
            "success after 12 updates, MDGPS off policy minus BADMM: that on the blind peg minus that on the peg",
            lambda study: gain(study, "peg-blind") - gain(study, "peg"),
        ),
        inserts_later_on_policy("peg"),
        inserts_later_on_policy("peg-blind"),
    ),
    settings=SETTINGS
    | {
        "seeds": "10; the paper has 3, so our first 3 are given by themselves as well. Intervals are over seeds",
        "the paper's numbers": "as printed: of 3 seeds and 9 or 4 conditions. 70.73% can be no part of 27: 19 are "
        "70.37%",
        "success": "by the height of the peg's bottom alone, as the authors' script has it",
    },
    exhibit=PaperTable((panel("peg", "peg"), panel("peg-blind", "blind peg")), TABLE_1),
    shares="mdgps/1",
    variations=(ALONE,),
    seeds=10,
    sensitivity_seeds=3,
)

# -- what is said of settings

FEWER = 12
"""Updates in the study of settings: the last row of Table 1."""
BASES = {
    "MDGPS": arm("peg", OFF[0], FEWER).named("MDGPS"),
    "MDGPS, fixed step": arm("peg", OFF[0], FEWER).but(
        "MDGPS, fixed step", **{"step.smallest": 1.0, "step.largest": 1.0}
    ),
    "BADMM": arm("peg", "BADMM", FEWER).named("BADMM"),
}


def tried(name: str, setting: str, factor: int) -> dict[str, Arm]:
    """An arm with a setting divided by a factor, as it is, and multiplied by it."""
    base = BASES[name]
    value = getattr(base.setup.algorithm, setting)
    return {
        "smaller": base.but(f"{name}: {setting} / {factor}", **{setting: value / factor}),
        "as set": base,
        "larger": base.but(f"{name}: {setting} x {factor}", **{setting: value * factor}),
    }


TRIED = {
    "MDGPS: kl_step by 4": tried("MDGPS", "kl_step", 4),
    "MDGPS, fixed step: kl_step by 4": tried("MDGPS, fixed step", "kl_step", 4),
    "BADMM: weight by 10": tried("BADMM", "weight", 10),
    "BADMM: dual_rate by 10": tried("BADMM", "dual_rate", 10),
    "BADMM: kl_step by 4": tried("BADMM", "kl_step", 4),
}


def impact(study: Study, title: str) -> np.ndarray:
    """Of a setting on the last distance, m."""
    return spread(study, [one.label for one in TRIED[title].values()])


def substantial(words: str, title: str) -> Claim:
    """A setting of BADMM matters."""
    return Claim(
        f"BADMM requires choosing {words}, which has a substantial impact on the final performance",
        f"distance after the last {LAST} updates, m: largest for three values minus smallest; substantial: above .06",
        lambda study: impact(study, title),
        threshold=ALIKE["peg"],
    )


ADAPTED, FIXED, *OF_BADMM = TRIED

FIGURE_SETTINGS = PaperFigure(
    id="mdgps/settings",
    title="BADMM and MDGPS on the peg task under other settings",
    caption="What section 6 says of hyperparameters, of which it shows nothing: distances over updates for smaller and "
    "larger values.",
    arms=tuple({one.label: one for arms in TRIED.values() for one in arms.values()}.values()),
    claims=(
        Claim(
            "an initial step size must be selected, but the adaptive step size adjustment rules make this choice less "
            "important",
            f"distance after the last {LAST} updates, m: largest for three first step sizes minus smallest, where the "
            "step stays minus where it adapts",
            lambda study: impact(study, FIXED) - impact(study, ADAPTED),
        ),
        substantial("an initial weight on the augmented Lagrangian term", OF_BADMM[0]),
        substantial("a step size on the dual variables", OF_BADMM[1]),
        substantial("a step size for local policies", OF_BADMM[2]),
        Claim(
            "the MDGPS methods are all substantially easier to apply to these tasks",
            f"distance after the last {LAST} updates, m: largest for three values minus smallest, of the setting of "
            "BADMM that matters most minus of MDGPS's first step size",
            lambda study: np.max([impact(study, title) for title in OF_BADMM], 0) - impact(study, ADAPTED),
        ),
    ),
    settings=SETTINGS
    | {
        "values": "step sizes of a quarter and four times, prices of a tenth and ten times what is set",
        "MDGPS": f"off policy, classic step; {FEWER} updates, the last of Table 1",
        "seeds": "5; the paper shows none",
        "not judged": "the schedule of the weight: here the weights follow the KL of each step, and no schedule",
    },
    exhibit=Curves(
        tuple(Panel(title, {word: one.label for word, one in arms.items()}, 0.1) for title, arms in TRIED.items())
    ),
    seeds=5,
)

# -- where they were not trained

COORDINATES = np.linspace(-0.2, 0.2, 9).round(3).tolist()  # m
SCATTERED = np.random.default_rng(0).uniform(-0.2, 0.2, (50, 2)).round(4).tolist()  # m
PLACES = Map(
    field="offsets",
    trained=NINE,
    grid=tuple((x, y) for x in COORDINATES for y in COORDINATES),
    others=tuple((x, y) for x, y in SCATTERED),
    edges=(0.0, 0.01, 0.04, 0.06, 0.08, 0.11, 0.15),
)


def at(*parts: str) -> Number:
    """Success at the places of some parts of the map."""
    which = np.any([PLACES.parts()[part] for part in parts], 0)
    return lambda metrics: metrics[ELSEWHERE][:, which].mean(1)


def by_part(study: Study, part: str) -> np.ndarray:
    """The same of one part, mean over all methods."""
    return mean(study, ("peg",), METHODS, at(part))


def untrained(study: Study, *methods: str) -> np.ndarray:
    """The same of all places but those of training, mean over some methods."""
    return mean(study, ("peg",), methods, at("between", "outside"))


FIGURE_MAP = PaperFigure(
    id="mdgps/map",
    title="BADMM and MDGPS on the peg task: holes where they were not trained",
    caption="Not in the paper: part of the seeds whose network inserts the peg, by the place of the arm's base: so "
    "the task moves the hole.",
    arms=tuple(arm("peg", method) for method in METHODS),
    claims=(
        Claim(
            "(ours) where the hole is between places of training networks insert the peg as often as at these, up to "
            "10 points",
            "success, mean over the five methods: between minus trained, plus 1/10",
            lambda study: by_part(study, "between") - by_part(study, "trained") + 0.1,
        ),
        Claim(
            "(ours) outside of them they insert it less often",
            "success, mean over the five methods: between minus outside",
            lambda study: by_part(study, "between") - by_part(study, "outside"),
        ),
        Claim(
            "(ours) off policy MDGPS's networks insert it more often than BADMM's where none was trained",
            "success at all places but those of training: MDGPS off policy minus BADMM",
            lambda study: untrained(study, *OFF) - untrained(study, "BADMM"),
        ),
        Claim(
            "(ours) on policy they do so more often than off policy",
            "success at all places but those of training: on policy minus off policy",
            lambda study: untrained(study, *ON) - untrained(study, *OFF),
        ),
    ),
    settings=SETTINGS
    | {
        "network": "of all iterations' the one whose noise-free episodes at the places of training succeed most often, "
        "and of such that whose cost least: what a run deploys",
        "places": "a grid of 81 from -0.2 to 0.2 m, in which are the nine of training, and 50 drawn evenly from there",
        "seeds": "10",
    },
    exhibit=PLACES,
    shares="mdgps/1",
    seeds=10,
)

# -- long after they have learned

LONG = 30
"""Updates, twice as many as Figure 1 has."""
STAYING = ("peg", "obstacles")


def broken(metrics: Metrics) -> np.ndarray:
    """Part of the updates that are refused or that measure something that is not finite."""
    finite = [np.isfinite(metrics[name]) for name in ("cost", "noise_free_cost", "loss", "entropy")]
    return 1.0 - np.all([metrics["ok"] == 1.0, *finite], 0).mean(1)


def kept(metrics: Metrics) -> np.ndarray:
    """Success of the network after the last updates minus that after the last ones of Figure 1, means of each."""
    late, early = (inserted(*range(last + 1 - LAST, last + 1)) for last in (LONG, UPDATES))
    return late(metrics) - early(metrics)


def stays(task: str) -> Claim:
    """What a network has learned."""
    return Claim(
        f"(ours) twice as many updates later networks succeed as often, up to 5 points ({NAMES[task]})",
        f"success, mean over the five methods: after updates {LONG + 1 - LAST} to {LONG} minus after "
        f"{UPDATES + 1 - LAST} to {UPDATES}, plus 1/20",
        lambda study: mean(study, (task,), METHODS, kept) + 0.05,
    )


FIGURE_LONG = PaperFigure(
    id="mdgps/long",
    title="BADMM and MDGPS on the peg and obstacle tasks: long after they have learned",
    caption="Not in the paper: part of the network's noise-free episodes that succeed, over twice as many updates.",
    arms=tuple(arm(task, method, LONG) for task in STAYING for method in METHODS),
    claims=(
        Claim(
            "(ours) no update is refused and nothing that is measured is not finite",
            "1/1000 minus part of the updates of which that is untrue, mean over both tasks and the five methods",
            lambda study: 0.001 - mean(study, STAYING, METHODS, broken),
        ),
        *map(stays, STAYING),
    ),
    settings=SETTINGS | {"updates": f"{LONG}: twice as many as Figure 1 has", "seeds": "10"},
    exhibit=Curves(tuple(panel(task, NAMES[task]) for task in STAYING), of=SUCCESS),
    seeds=10,
)

FIGURES = (FIGURE_1, FIGURE_TABLE_1, FIGURE_SETTINGS, FIGURE_MAP, FIGURE_LONG)
