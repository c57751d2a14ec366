"""What rows of a task trade off: episodes until it succeeds against the cost at the end, and the computing it takes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from pilotfish.view import curves, look, plot

LARGEST = 900.0
"""Area of the mark of the row that takes most computing, in square points."""
LEAST = 30.0
IN_LEGEND = 50.0


def pictures(rows: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Path]:
    """A picture for each task of which two rows or more succeed: TASK-tradeoff.png."""
    by_task: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, row in rows.items():
        if row["cost_median"] is not None and any(value is not None for value in row["rollouts_to_first_success"]):
            by_task.setdefault(row["task"], {})[name] = row
    chosen = {task: found for task, found in by_task.items() if len(found) > 1}
    return [picture(task, found, folder / f"{task.replace(':', '-')}-tradeoff.png") for task, found in chosen.items()]


def picture(task: str, rows: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Rollouts until success against cost at the end: medians over seeds and the middle half of the seeds; the larger
    a mark, the more CPU seconds a seed takes.
    """
    figure = Figure(figsize=(7.5, 4.2 + 0.17 * len(rows)), layout="constrained")
    axis = figure.subplots()
    most = max((row["cpu_seconds"] or 0.0) / len(row["seeds"]) for row in rows.values())
    for i, row in enumerate(rows.values()):
        needed = np.array([np.nan if v is None else v for v in row["rollouts_to_first_success"]], float)
        cost = np.array([np.nan if v is None else v for v in row["cost"]], float)
        (x, left, right), (y, down, up) = (np.nanpercentile(one, (50, 25, 75)) for one in (needed, cost))
        seconds, colour = row["cpu_seconds"], look.COLOURS[i % len(look.COLOURS)]
        area = LEAST if not most or seconds is None else LEAST + (LARGEST - LEAST) * seconds / len(row["seeds"]) / most
        said = _label(row)
        said += "" if seconds is None else f": {seconds:.0f} CPU s for {len(row['seeds'])} seeds"
        axis.hlines(y, left, right, color=colour, lw=1.2)
        axis.vlines(x, down, up, color=colour, lw=1.2)
        # with every round of the colours markers begin one further: no two rows have the same in the same colour
        marker = look.MARKERS[(i + i // len(look.COLOURS)) % len(look.MARKERS)]
        axis.scatter(x, y, s=area, color=colour, alpha=0.55, label=said, marker=marker)
    axis.set(xscale="log", yscale="log")
    curves.frame(axis, "cost of a noise-free episode at the end", "rollouts from each condition until over 90% succeed")
    legend = figure.legend(loc="outside lower left", frameon=False, fontsize=8)
    for handle in legend.legend_handles:
        cast(PathCollection, handle).set_sizes([IN_LEGEND])
    figure.suptitle(f"{task}: what each algorithm takes, and comes to", fontsize=11, color=look.INK, x=0.01, ha="left")
    return plot.write(figure, path)


def _label(row: Mapping[str, Any]) -> str:
    """The algorithm and its settings, as they are said on the command line."""
    words = row["command"].split()[3:]
    for flag in ("--algorithm", "--seeds"):
        if flag in words:
            at = words.index(flag)
            del words[at : at + 2]
    return " ".join([row["algorithm"], *words]).replace("--algorithm.", "--")
