"""What rows of a task trade off: episodes until it succeeds against the cost at the end, and the computing it takes."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from pilotfish.view import curves, look, plot

LARGEST = 900.0
"""Area of the mark of the row that takes most computing, in square points."""
LEAST = 30.0
EDGE = 3.0
"""How far to the right of its mark a row's line ends of which a quarter of the seeds never succeed, as a factor."""
IN_LEGEND = 50.0
MARGIN = 0.12
"""Part of an axis beyond the outermost marks' middles, so that they are seen whole."""


def pictures(rows: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Path]:
    """A picture for each task of which two rows or more succeed, in half of their seeds: TASK-tradeoff.png. From other
    numbers of starts it is another task, of which the number is in the name.
    """
    alike: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    for name, row in rows.items():
        if row["cost_median"] is not None and any(value is not None for value in row["rollouts_to_first_success"]):
            alike.setdefault((row["task"], row["conditions"]), {})[name] = row
    usual = {task: starts for task, starts in reversed(alike)}  # of the row that comes first
    names = {(task, n): task if n == usual[task] else f"{task} from {n} starts" for task, n in alike}
    return [
        picture(names[key], found, folder / f"{names[key].replace(':', '-').replace(' ', '-')}-tradeoff.png")
        for key, found in alike.items()
        if sum(np.isfinite(needed(row)[0]) for row in found.values()) > 1
    ]


def picture(task: str, rows: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Rollouts until success against cost at the end: medians over seeds and the middle half of the seeds; the larger
    a mark, the more CPU seconds a seed takes. A row without success in half of its seeds is named, but has no place.
    """
    figure = Figure(figsize=(7.5, 4.2 + 0.17 * len(rows)), layout="constrained")
    axis = figure.subplots()
    shared = set.intersection(*(set(_settings(row)) for row in rows.values()))
    most = max((row["cpu_seconds"] or 0.0) / len(row["seeds"]) for row in rows.values())
    for i, row in enumerate(rows.values()):
        x, left, right = needed(row)
        cost = np.array([np.nan if v is None else v for v in row["cost"]], float)
        y, down, up = np.nanpercentile(cost, (50, 25, 75))
        seconds, colour = row["cpu_seconds"], look.COLOURS[i % len(look.COLOURS)]
        area = LEAST if not most or seconds is None else LEAST + (LARGEST - LEAST) * seconds / len(row["seeds"]) / most
        said = _label(row, shared)
        said += "" if seconds is None else f": {seconds:.0f} CPU s for {len(row['seeds'])} seeds"
        if not np.isfinite(x):
            axis.scatter([], [], alpha=0.0, label=f"{said}; not in half of the seeds")
            continue
        axis.hlines(y, left, right if np.isfinite(right) else EDGE * x, color=colour, lw=1.2)
        axis.vlines(x, down, up, color=colour, lw=1.2)
        # with every round of the colours markers begin one further: no two rows have the same in the same colour
        marker = look.MARKERS[(i + i // len(look.COLOURS)) % len(look.MARKERS)]
        axis.scatter(x, y, s=area, color=colour, alpha=0.55, label=said, marker=marker)
    positive = all(v is None or v > 0 for row in rows.values() for v in row["cost"])
    axis.set(xscale="log", yscale="log" if positive else "linear")
    axis.margins(MARGIN)
    for one in (axis.xaxis, axis.yaxis):
        if one.get_scale() == "log":
            one.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))  # 3 for 3 x 10^0, where they are few
    curves.frame(axis, "cost of a noise-free episode at the end", "rollouts from each condition until over 90% succeed")
    legend = figure.legend(loc="outside lower left", frameon=False, fontsize=8)
    for handle in legend.legend_handles:
        cast(PathCollection, handle).set_sizes([IN_LEGEND])
    figure.suptitle(f"{task}: what each algorithm takes, and comes to", fontsize=11, color=look.INK, x=0.01, ha="left")
    return plot.write(figure, path)


def needed(row: Mapping[str, Any]) -> tuple[float, float, float]:
    """Rollouts until success: the median over all seeds and the ends of their middle half, infinite where that many
    seeds never succeed.
    """
    found = np.array([np.inf if v is None else v for v in row["rollouts_to_first_success"]], float)
    left, right = np.percentile(found, 25, method="lower"), np.percentile(found, 75, method="higher")
    return float(np.median(found)), float(left), float(right)


def _settings(row: Mapping[str, Any]) -> list[str]:
    """What a row's command sets beside its algorithm and seeds, as it is said there."""
    words = row["command"].split()[3:]
    pairs = [f"{flag} {value}" for flag, value in zip(words[::2], words[1::2], strict=True)]
    return [pair for pair in pairs if pair.split()[0] not in ("--algorithm", "--seeds")]


def _label(row: Mapping[str, Any], shared: Collection[str]) -> str:
    """The algorithm and those of its settings that not all rows have."""
    own = [pair for pair in _settings(row) if pair not in shared]
    return " ".join([row["algorithm"], *own]).replace("--algorithm.", "--")
