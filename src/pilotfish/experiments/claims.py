"""A paper's figure as a value: its curves, and the sentences in which its authors say what one sees there.

An arm is one curve: a task, an algorithm and its setup, run over several seeds. A claim is a sentence of the paper
with one number a seed, which is above a threshold (mostly 0) on average if the sentence is true. Its verdict is
that of Student's 95% interval of the mean over seeds:

    all above the threshold: holds      all below: does not hold      else, or if a number is not finite: undecided

What a paper leaves unsaid we had to choose: `settings` says how, and `variations` choose otherwise. `study.py` runs
figures.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from pilotfish import tasks
from pilotfish.algorithms import Setup
from pilotfish.experiments.exhibits import Exhibit
from pilotfish.registry import changed
from pilotfish.runs.spec import Spec
from pilotfish.runs.statistics import mean_interval

QUICK_ITERATIONS = 5
LAST = 5
"""The end of learning is the mean over this many iterations."""
CHECKPOINT_EVERY = 10

Metrics = dict[str, np.ndarray]
"""One arm's metrics: arrays (seed, iteration)."""
Study = Mapping[str, Metrics]
"""The metrics of all arms, by label."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """One curve."""

    label: str
    task: str
    """The task's name."""
    algorithm: str
    """The algorithm's name."""
    setup: Setup
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of the task that differ from those of its name."""
    measured: int = 0
    """Noise-free episodes from each condition that measure every iteration's policy."""

    def but(self, label: str | None = None, /, **settings: Any) -> "Arm":
        """The arm with other settings of its algorithm, "part.field" for a part's, under its label or another."""
        setup = self.setup._replace(algorithm=changed(self.setup.algorithm, settings))
        return dataclasses.replace(self, label=label or self.label, setup=setup)

    def named(self, label: str) -> "Arm":
        """The same under another label."""
        return dataclasses.replace(self, label=label)

    def on(self, **options: Any) -> "Arm":
        """The arm with other options of its task."""
        return dataclasses.replace(self, options=self.options | options)

    def spec(self, seeds: Iterable[int], quick: bool = False) -> Spec:
        """The run that draws this curve."""
        iterations = self.setup.iterations
        return Spec.of(
            (self.task, changed(tasks.find(self.task).make(), self.options)),
            (self.algorithm, self.setup.algorithm),
            rollouts=self.setup.rollouts,
            iterations=min(QUICK_ITERATIONS, iterations) if quick else iterations,
            seeds=seeds,
            checkpoint_every=CHECKPOINT_EVERY,
            measured=self.measured,
        )


class Claim(NamedTuple):
    """What a paper says of its figure, and the number by which we judge it."""

    sentence: str
    """The paper's words, or nearly."""
    measure: str
    """Which number we take for it, in a line."""
    statistic: Callable[[Study], np.ndarray]
    """That number for each seed (seed,): above the threshold on average if the claim holds."""
    threshold: float = 0.0


class Variation(NamedTuple):
    """Another choice of something that the paper leaves unsaid."""

    label: str
    change: Callable[[Arm], Arm]


@dataclasses.dataclass(frozen=True)
class PaperFigure:
    """One figure: what it shows, what is said of it, and what we had to choose."""

    id: str
    """The paper's and the figure's name: "moto/1c"."""
    title: str
    caption: str
    """What the paper shows, in a sentence or two."""
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    """What the paper leaves unsaid, and what we took."""
    x: Literal["iterations", "rollouts"] = "iterations"
    exhibit: Exhibit | None = None
    """What is drawn; the return and the cost of all arms if nothing is said."""
    shares: str = ""
    """The id of a figure that has the same arms, and more: they are the same runs."""
    variations: tuple[Variation, ...] = ()
    seeds: int = 15
    sensitivity_seeds: int = 5

    def __post_init__(self):
        for kind, labels in (
            ("arms", [arm.label for arm in self.arms]),
            ("arms and variations", [one.label for one in (*self.arms, *self.variations)]),
        ):
            slugs = [slug(label) for label in labels]
            if len(set(slugs)) < len(slugs) or not all(slugs):
                raise ValueError(f"{self.id}: {kind} labelled {labels} share a folder's name. Give distinct labels.")

    def folder(self, quick: bool = False) -> Path:
        """Where the figure is kept if nothing else is said."""
        return _home(self.id, quick)

    def runs(self, folder: Path, quick: bool = False) -> Path:
        """Where its runs are: in its folder or, if that is the usual one, in that of the figure that it shares."""
        return _home(self.shares, quick) if self.shares and folder == self.folder(quick) else folder


def _home(id: str, quick: bool) -> Path:
    return Path("figures") / (slug(id) + ("-quick" if quick else ""))


# -- numbers of which claims are made: one a seed


def final(metrics: Metrics) -> np.ndarray:
    """log10 of the mean cost over the last iterations."""
    return _log10(metrics["cost"][:, -LAST:].mean(1))


def area(metrics: Metrics, until: float = 1.0) -> np.ndarray:
    """Mean over iterations of log10 cost: over all, or over the first fraction `until` of them."""
    return _log10(metrics["cost"][:, : math.ceil(until * metrics["cost"].shape[1])]).mean(1)


def first(metrics: Metrics, level: float = 0.9) -> np.ndarray:
    """Rollouts until the success is above `level` for the first time; nan where the task defines no success.

    A seed that never gets there counts as if it got there an iteration after the last: at least that late it is,
    so differences between arms are understated.
    """
    success, rollouts = metrics["success"], metrics["rollouts"]
    above = success > level
    never = rollouts[:, -1] + rollouts[:, 0]
    at = np.where(above.any(1), np.take_along_axis(rollouts, above.argmax(1)[:, None], 1)[:, 0], never)
    return np.where(np.isnan(success).all(1), np.nan, at)


def sooner(fast: Metrics, slow: Metrics, level: float = 0.9) -> np.ndarray:
    """log10 of how many times more rollouts the slow arm needs to a success above `level`.

    Where neither gets there this is 0, no difference seen; if no seed of either ever does, it is nan.
    """
    needs = [first(metrics, level) for metrics in (fast, slow)]
    reached = [need <= metrics["rollouts"][:, -1] for need, metrics in zip(needs, (fast, slow), strict=True)]
    return np.log10(needs[1] / needs[0]) if np.any(reached) else np.full(len(needs[0]), np.nan)


def _log10(values: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(values)


# -- what becomes of a claim


class Verdict(NamedTuple):
    """What the seeds say of a claim."""

    claim: Claim
    mean: float
    low: float
    high: float
    verdict: Literal["holds", "does not hold", "undecided"]
    note: str = ""

    @property
    def number(self) -> str:
        """The statistic and its interval, in words."""
        if math.isnan(self.low):
            return self.note
        return f"{self.mean:.3g} (95% interval {self.low:.3g} to {self.high:.3g})"

    def as_json(self) -> dict[str, Any]:
        """For verdict.json; what is not finite is null."""
        return {
            "sentence": self.claim.sentence,
            "measure": self.claim.measure,
            "threshold": self.claim.threshold,
            **self.numbers(),
        }

    def numbers(self) -> dict[str, Any]:
        """Without the words of the claim."""
        known = not math.isnan(self.low)
        return {
            "mean": self.mean if known else None,
            "interval": [self.low, self.high] if known else None,
            "verdict": self.verdict,
            "note": self.note or None,
        }


def judge(claim: Claim, study: Study) -> Verdict:
    """Hold a claim against a study."""
    values = np.asarray(claim.statistic(study), float)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size or len(values) < 2:
        which = f"the statistic of seed {', '.join(map(str, bad))} is not finite" if bad.size else "one seed"
        return Verdict(claim, np.nan, np.nan, np.nan, "undecided", f"no interval: {which}")
    mean, low, high = map(float, mean_interval(values))
    word = "holds" if low > claim.threshold else "does not hold" if high < claim.threshold else "undecided"
    return Verdict(claim, mean, low, high, word)


def slug(label: str) -> str:
    """A label as the name of a folder."""
    return re.sub(r"\W+", "-", label.lower()).strip("-")
