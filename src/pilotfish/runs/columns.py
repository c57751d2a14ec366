"""What the numbers of an iteration are and how they are shown, as `Shown` annotations of reports say it.

A run stores that beside its metrics, so that whoever draws them knows no algorithm.
"""

import math
from collections.abc import Mapping
from typing import Any, get_type_hints

import numpy as np

from pilotfish import manual
from pilotfish.algorithms import Algorithm
from pilotfish.runs.measured import bare
from pilotfish.types import Shown

ROUNDING = 1e-9
"""What is below it is 0 to a bound that is 0."""
Columns = dict[str, dict[str, Any]]
"""By a metric's name the fields of its `Shown`; `bound` is a number, or None where there is none; `words` are those
that stand under the field."""


def columns(algorithm: Algorithm, *reports: Any) -> Columns:
    """How the fields of an algorithm's reports are shown; those without an annotation are not.

    They stand report after report, and a report's own fields before those of the reports within it.
    """
    found, algorithm = {}, bare(algorithm)
    for report in reports:
        said = manual.of_class(type(report))
        for name, hint in get_type_hints(type(report), include_extras=True).items():
            for note in getattr(hint, "__metadata__", ()):
                if isinstance(note, Shown):
                    words = said[name].words if name in said else ""
                    found[name] = note._asdict() | {"bound": _bound(algorithm, note.bound), "words": words}
        found |= columns(algorithm, *filter(_is_report, report))
    return found


def flat(report: Any) -> dict[str, Any]:
    """A report's numbers by name, those of reports within it first."""
    inner = {name: value for part in filter(_is_report, report) for name, value in flat(part).items()}
    return inner | {name: value for name, value in report._asdict().items() if not _is_report(value)}


def flatten(report: Any) -> dict[str, Any]:
    """The same as columns of `metrics.csv`: arrays (seed,). `ok` is the part of the conditions that were improved."""
    fields = flat(report)
    return fields | {"ok": np.asarray(fields["ok"], float).mean(-1)}


def bounds(how: Mapping[str, Any], metrics: Mapping[str, np.ndarray]) -> np.ndarray:
    """What a metric that is shown so is bounded by (seed, iteration), for a `bound` that is not None."""
    factor = metrics.get(how["times"])
    return how["bound"] * (np.ones_like(metrics["cost"]) if factor is None else factor)


def beyond(name: str, how: Mapping[str, Any], metrics: Mapping[str, np.ndarray], slack: float) -> np.ndarray:
    """Where (seed, iteration) a metric is beyond its bound by more than that part of it, a bound of 0 by rounding."""
    bound = bounds(how, metrics)
    past = metrics[name] - bound if np.copysign(1.0, how["bound"]) > 0 else bound - metrics[name]
    return past > np.where(bound == 0, ROUNDING, slack * np.abs(bound))


def _is_report(value: Any) -> bool:
    return hasattr(value, "_asdict")


def _bound(algorithm: Algorithm, setting: str) -> float | None:
    """The value of a setting, after "-" its negative, for 0 as well; None if there is none, or no finite number."""
    value: Any = algorithm
    for name in setting.removeprefix("-").split("."):
        value = getattr(value, name, None)
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return -float(value) if setting.startswith("-") else float(value)
