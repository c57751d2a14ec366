"""What lines look like, in pictures and on pages, and how numbers are called there."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from pilotfish.runs.columns import Columns
from pilotfish.runs.statistics import Interval, cost_interval, mean_interval

MARKERS = "osD^vP"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#9a6a00", "#56b4e9")
"""Told apart by the colour-blind as well (after Okabe and Ito 2008, the orange darker so that it is legible on white);
one line's neighbour differs in its dashes, too."""
COLOURS_ON_DARK = ("#5ab4f0", "#ff9c5a", "#3fd0a4", "#e3a3cb", "#e0b04a", "#a8dcff")
"""The same, where the ground is dark."""
INK, GREY, RED = "#1b2a38", "#8a97a3", "#c8452f"
ROLLOUTS = "rollouts from each condition"
LEARNING = ("cost", "success", "noise_free_cost", "noise_free_success")
"""The metrics that learning curves show."""
PERCENT = (-3.0, 103.0)
"""Of an axis of success: what is at its ends is seen whole."""
NO_SUCCESS = "this task defines no success"


def called(name: str, how: Mapping[str, Any]) -> str:
    """What a metric is called beside others of its title."""
    return how.get("label") or name.replace("_", " ")


def axis(how: Mapping[str, Any]) -> str:
    """A title with its unit."""
    return f"{how['title']}, {how['unit']}" if how["unit"] else how["title"]


def panels(metrics: Mapping[str, np.ndarray], columns: Columns) -> dict[str, list[str]]:
    """By title the names of the metrics that diagnostics show: all but those of learning, and what has no value."""
    found: dict[str, list[str]] = {}
    for name, how in columns.items():
        if name in metrics and name not in LEARNING and np.isfinite(metrics[name]).any():
            found.setdefault(how["title"], []).append(name)
    return found


def mean_and_band(values: Float[np.ndarray, "S iteration"], log: bool) -> Interval:
    """The mean over seeds and its 95% interval, on a log axis the geometric mean; where a seed has no finite value it
    is the mean of the others, without interval.
    """
    values = np.where(np.isfinite(values), values, np.nan)
    if len(values) == 1:
        return Interval(values[0], *np.full((2, values.shape[1]), np.nan))
    found = cost_interval(values)[0] if log else mean_interval(values)
    others = np.ma.masked_invalid(values).mean(0).filled(np.nan)
    return found._replace(middle=np.where(np.isnan(found.middle), others, found.middle))
