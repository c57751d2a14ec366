"""What became of a run, in plain words: whether it succeeds, whether its bounds held, and what to do next.

Nothing here knows an algorithm: what a run stores says which numbers are bounded, and the costs of its rollouts and of
its noise-free episodes say the rest.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from pilotfish.runs.columns import Columns, beyond, bounds
from pilotfish.runs.evaluation import SOLVED, WORSE
from pilotfish.runs.store import Run

Metrics = Mapping[str, Float[np.ndarray, "S iteration"]]

SLACK = 0.02
"""A number is beyond its bound where it is so by more than this part of it: updates meet theirs to a hundredth."""
PART = 5
"""What still changes is told by the last such part of the iterations, beside the part before it."""
FALLS = 0.05
"""Part of all that was gained, above which the cost is said to fall still."""
MOST = 0.5
"""Part of the actions beyond the plant's bounds, above which that is said."""
LARGE = 0.1
"""Part of all that was gained that exploration may cost, above which it is called large."""


class Sentence(NamedTuple):
    """One thing that is said of a run."""

    mood: Literal["good", "fair", "bad"]
    """Whether it is as one would wish."""
    words: str


def verdict(run: Run) -> list[Sentence]:
    """What became of a run so far, the most important first."""
    found = run.evaluation()
    if found is not None and found["iteration"] != run.done():
        found = None
    return sentences(run.metrics(), run.columns(), found, run.spec.iterations)


def sentences(metrics: Metrics, columns: Columns, found: dict[str, Any] | None, iterations: int) -> list[Sentence]:
    """The same of what a run stores: its metrics and how they are shown, its last evaluation, the iterations asked."""
    if "cost" not in metrics or not metrics["cost"].size:
        return [Sentence("fair", "No iteration has ended yet.")]
    said = [_outcome(metrics, found), *_bounds(metrics, columns), *_refusals(metrics), *_next(metrics)]
    if found is not None and WORSE in found["summary"]:
        said.append(Sentence("bad", f"What would be deployed is {WORSE}: {found['summary'][WORSE]}"))
    done = metrics["cost"].shape[1]
    if done < iterations:
        said.append(Sentence("fair", f"{done} of {iterations} iterations are done."))
    return said


def rollouts_to_success(metrics: Metrics, level: float = SOLVED) -> Float[np.ndarray, "S"]:
    """Rollouts from each condition after which every later iteration's success is above `level`; nan where that
    never comes. Success is that of noise-free episodes where they are measured, else of the rollouts.
    """
    success = metrics.get("noise_free_success", metrics["success"])
    lasting = np.logical_and.accumulate((success > level)[:, ::-1], 1)[:, ::-1]
    first = np.take_along_axis(metrics["rollouts"], lasting.argmax(1)[:, None], 1)[:, 0]
    return np.where(lasting.any(1), first, np.nan)


def _outcome(metrics: Metrics, found: dict[str, Any] | None) -> Sentence:
    """Success, or where the task defines none, what became of the cost."""
    seeds = len(metrics["cost"])
    if np.isnan(metrics["success"]).all():
        return _of_cost(metrics)
    if found is not None:
        rates = np.array(found["success"], float)
    else:
        rates = metrics.get("noise_free_success", metrics["success"])[:, -1]
    holds, needed = int((rates > SOLVED).sum()), rollouts_to_success(metrics)
    mood = "good" if holds == seeds else "fair" if holds else "bad"
    words = f"Succeeds in {holds} of {seeds} seeds" if seeds > 1 else "Succeeds" if holds else "Does not succeed"
    if holds:
        words += _after(metrics, needed)
    if holds < seeds:
        words += f"; {100 * np.mean(rates):.0f}% of the episodes reach the goal"
    return Sentence(mood, f"{words}.")


def _after(metrics: Metrics, needed: Float[np.ndarray, "S"]) -> str:
    """After how many rollouts it succeeds. Where these explore and nothing else is measured, one that fails says little
    of what is deployed: then it is said first when they did, and after that from when on they always do.
    """
    lasting = float(np.nanmedian(needed)) if np.isfinite(needed).any() else np.nan
    words = f"rollouts from each condition{' (median)' * (len(needed) > 1)}"
    if "noise_free_success" in metrics:
        return "" if np.isnan(lasting) else f" after {lasting:,.0f} {words}"
    succeeds = metrics["success"] > SOLVED
    if not (some := succeeds.any(1)).any():
        return ""
    first = np.median(np.take_along_axis(metrics["rollouts"], succeeds.argmax(1)[:, None], 1)[some, 0])
    return f" after {first:,.0f} {words}" + f", always after {lasting:,.0f}" * bool(lasting > first)


def _of_cost(metrics: Metrics) -> Sentence:
    cost = _cost(metrics)
    first, last = np.mean(metrics["cost"][:, 0]), np.mean(cost[:, -1])
    if not np.isfinite([first, last]).all():
        return Sentence("bad", "The last episodes have no finite cost.")
    mood = "good" if last < first else "bad"
    return Sentence(mood, f"An episode costs {last:.4g}, {first:.4g} at the beginning. The task defines no success.")


def _bounds(metrics: Metrics, columns: Columns) -> Iterator[Sentence]:
    """Whether what is bounded stayed within its bound."""
    for name, how in columns.items():
        if how["bound"] is None or name not in metrics:
            continue
        over = beyond(name, how, metrics, SLACK)
        title = how["title"].removesuffix(" of a step")
        if over.any():
            bound = bounds(how, metrics)
            times = np.max(metrics[name][over] / bound[over]) if how["bound"] else np.inf
            far = f", by up to {times:.2g} times" * bool(np.isfinite(times))
            words = f"{title} left its bound in {over.sum()} of {over.size} updates{far}."
            yield Sentence("bad", words[0].upper() + words[1:])
        else:
            yield Sentence("good", f"{title[0].upper()}{title[1:]} stayed within its bound.")


def _refusals(metrics: Metrics) -> Iterator[Sentence]:
    """Updates that were not made, rollouts that were no use, and actions that made no difference."""
    if (refused := float(np.mean(1.0 - metrics["ok"]))) > 0:
        mood = "bad" if refused > LARGE else "fair"
        yield Sentence(mood, f"{_percent(refused)} of the updates were refused: their controllers stayed as they were.")
    if (broken := float(np.mean(1.0 - metrics["valid"]))) > 0:
        remedy = "A smaller step or less noise at the beginning may help."
        yield Sentence("fair", f"{_percent(broken)} of the rollouts broke off. {remedy}")
    last = -max(metrics["cost"].shape[1] // PART, 1)
    if (clipped := float(np.mean(metrics["clipped"][:, last:])) if "clipped" in metrics else 0.0) > MOST:
        yield Sentence(
            "fair",
            f"{_percent(clipped)} of the actions asked for lie beyond the bounds, where all are the same to the plant: "
            "they may grow without end, and what was learned may be lost again. A cost of actions keeps them within.",
        )


def _next(metrics: Metrics) -> Iterator[Sentence]:
    """Whether more iterations promise more, and whether exploration is still large."""
    cost = _cost(metrics)
    part = cost.shape[1] // PART
    if part == 0 or not np.isfinite(cost[:, 0]).all():
        return
    before, last = np.median(cost[:, -2 * part : -part], 1), np.median(cost[:, -part:], 1)
    gained = metrics["cost"][:, 0] - last
    if not np.isfinite(before - last).all() or np.mean(gained) <= 0:
        return
    falls = np.mean(before - last) / np.mean(gained)
    if (last > 0).all():  # where the whole is orders of magnitude, what remains counts by factors
        falls = max(falls, float(np.mean(np.log(before / last))) if (before > 0).all() else 0.0)
    if falls > FALLS:
        yield Sentence("fair", f"The cost still falls, over the last {part} iterations as well: train longer.")
    if "noise_free_cost" not in metrics:
        return
    exploring = np.mean(metrics["cost"][:, -part:]) - np.mean(last)
    if exploring > LARGE * np.mean(gained):
        yield Sentence(
            "fair",
            f"Exploration is still large: an exploring episode costs {np.mean(metrics['cost'][:, -part:]):.4g}, one "
            f"without noise {np.mean(last):.4g}. Train longer, or let the entropy fall faster.",
        )


def _cost(metrics: Metrics) -> Float[np.ndarray, "S iteration"]:
    """Of what would be deployed where that is measured, else of the rollouts."""
    return metrics.get("noise_free_cost", metrics["cost"])


def _percent(part: float) -> str:
    return f"{100 * part:.1g}%" if part < 0.1 else f"{100 * part:.0f}%"
