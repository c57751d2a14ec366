"""Learning curves and diagnostics of one or several runs."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from pilotfish.runs.statistics import cost_interval, mean_interval
from pilotfish.runs.store import Run
from pilotfish.types import DECREASE
from pilotfish.view import plot

mpl.use("agg")

INK, BLUE, RED, GREY = "#1b2a38", "#1f6fb2", "#c8452f", "#8a97a3"
ROLLOUTS = "rollouts from each condition"
STYLES = ("-", "--", ":")
COLOURS_OF_A_PANEL = (BLUE, GREY, INK)
LEARNING = ("cost", "success", "noise_free_cost", "noise_free_success")
"""What learning curves show."""
COLOURS = (BLUE, RED, "#2f8f5b", "#8b5fb0", "#c98a1b", "#3aa6a6")


def learning(runs: Sequence[Run], path: Path) -> Path:
    """Cost and success over rollouts: mean, 95% interval over seeds, and each seed's own line."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    cost, success = figure.subplots(1, 2)
    for run, colour in zip(runs, COLOURS * len(runs), strict=False):
        metrics = run.metrics()
        label = _label(run, runs) if len(runs) > 1 else "rollouts"
        _band(cost, metrics["rollouts"], metrics["cost"], colour, label)
        _band(success, metrics["rollouts"], 100 * metrics["success"], colour, label)
        if "noise_free_cost" in metrics:
            label = f"{label}, without noise" if len(runs) > 1 else "without noise"
            whole = np.where(np.isfinite(metrics["noise_free_cost"]), metrics["noise_free_cost"], np.nan)
            _band(cost, metrics["rollouts"], whole, colour, label, "--")
            _band(success, metrics["rollouts"], 100 * metrics["noise_free_success"], colour, label, "--")
    positive = all((run.metrics()["cost"] > 0).all() for run in runs)
    _axis(cost, "cost of an episode", "log" if positive else "linear")
    _axis(success, "rollouts that succeed, %", "linear")
    success.set_ylim(-3, 103)
    if all(np.isnan(run.metrics()["success"]).all() for run in runs):
        success.text(0.5, 0.5, "this task defines no success", ha="center", transform=success.transAxes, color=GREY)
    if len(cost.lines) > 1:
        cost.legend(frameon=False, fontsize=8)
    return plot.write(figure, path)


def diagnostics(run: Run, path: Path) -> Path:
    """Whatever else the run reports, as its annotations say: numbers of one title in one panel, with their bound.

    Over the whole width at the bottom: what its updates did to the cost, beside what they promised.
    """
    metrics, panels, decreases = run.metrics(), {}, {}
    for name, how in run.columns().items():
        if name in metrics and name not in LEARNING:
            if how["title"] == DECREASE:
                decreases[name] = metrics[name]
            else:
                panels.setdefault(how["title"], {})[name] = how
    rows, wide = -(-len(panels) // 3), bool(decreases)
    figure = Figure(figsize=(10, 2.9 * max(rows + wide, 1)), layout="constrained")
    grid = figure.add_gridspec(max(rows + wide, 1), 3)
    for i, (title, shown) in enumerate(panels.items()):
        _panel(figure.add_subplot(grid[i // 3, i % 3]), metrics, title, shown)
    if wide:
        _changes(figure.add_subplot(grid[-1, :]), metrics, decreases)
    return plot.write(figure, path)


def _panel(axis: Axes, metrics: Mapping[str, np.ndarray], title: str, shown: Mapping[str, Mapping[str, Any]]) -> None:
    """Numbers that are shown together, with their bounds."""
    how = next(iter(shown.values()))
    for (name, own), colour in zip(shown.items(), COLOURS_OF_A_PANEL * len(shown), strict=False):
        values = 100 * metrics[name] if own["unit"] == "%" else metrics[name]
        if how["scale"] == "log" and (values > 0).any():  # where all is 0, that is what is to be seen
            values = np.where(values > 0, values, np.nan)
        _band(axis, metrics["rollouts"], values, colour, name)
        if own["bound"] is not None:
            bound = own["bound"] * metrics.get(own["times"], np.ones_like(values)).mean(0)
            axis.plot(metrics["rollouts"][0], bound, color=RED, lw=1, ls="--", label="bound")
    _axis(axis, f"{title}, {how['unit']}" if how["unit"] else title, how["scale"])
    if len(axis.get_legend_handles_labels()[1]) > 1:
        axis.legend(frameon=False, fontsize=7)


def _changes(axis: Axes, metrics: Mapping[str, np.ndarray], said: Mapping[str, np.ndarray]) -> None:
    """By how much every update made the next rollouts cheaper, beside what was said of it.

    The axis is linear below the size that nine of ten of these numbers exceed, and logarithmic above.
    """
    cost = np.where(np.isfinite(metrics["cost"]), metrics["cost"], np.nan)
    decreases = {"actual": -np.diff(cost), **{name.replace("_", " "): values for name, values in said.items()}}
    for (name, values), colour, ls in zip(
        decreases.items(), (BLUE, INK, RED, GREY), ("-", "--", "-", ":"), strict=False
    ):
        _band(axis, metrics["rollouts"][:, : values.shape[1]], values, colour, name, ls)
    sizes = np.abs(np.concatenate([values.ravel() for values in decreases.values()]))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if sizes.size:
        axis.set_yscale("symlog", linthresh=10.0 ** np.floor(np.log10(np.quantile(sizes, 0.1))))
    axis.axhline(0.0, color=INK, lw=0.8)
    frame(axis, "change of cost by an update (positive: a decrease)", ROLLOUTS)
    axis.legend(frameon=False, fontsize=7, loc="upper right")


def comparison(
    arms: Mapping[str, Mapping[str, np.ndarray]],
    path: Path,
    title: str,
    x: Literal["iterations", "rollouts"] = "iterations",
) -> Path:
    """Several arms' metrics: the return as papers draw it, and the cost on a log scale, which shows the end.

    Where a seed has no finite cost there is no mean; for the median it counts as infinite.
    """
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    means = {}
    for i, (label, metrics) in enumerate(arms.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "ls": STYLES[i // len(COLOURS) % len(STYLES)], "label": label}
        at = metrics["rollouts"][0] if x == "rollouts" else metrics["iteration"][0] + 1
        cost = metrics["cost"]
        quartiles = np.quantile(np.where(np.isnan(cost), np.inf, cost), [0.25, 0.5, 0.75], 0, method="nearest")
        means[label] = -cost.mean(0)
        for axis, middle, band in (
            (left, means[label], mean_interval(-cost)[1:]),
            (right, quartiles[1], quartiles[::2]),
        ):
            axis.plot(at, middle, lw=1.8, **style)
            axis.fill_between(at, *band, color=style["color"], alpha=0.12, lw=0)
    seeds = max(len(metrics["cost"]) for metrics in arms.values())
    right.set_yscale("linear" if any((metrics["cost"] <= 0).any() for metrics in arms.values()) else "log")
    for axis, name in (
        (left, f"average return (minus cost): mean of {seeds} seeds, its 95% interval"),
        (right, f"cost of an episode: median of {seeds} seeds, quartiles"),
    ):
        frame(axis, name, "iterations" if x == "iterations" else ROLLOUTS)
        axis.margins(x=0.01)
    left.yaxis.set_major_formatter(EngFormatter())
    _clip(left, means)
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(arms), 4), frameon=False, fontsize=9)
    return plot.write(figure, path)


def _clip(axis: Axes, returns: Mapping[str, np.ndarray]) -> None:
    """Keep the arms that fall far below where learning begins from hiding the others; say which do."""
    finite = {label: values[np.isfinite(values)] for label, values in returns.items()}
    finite = {label: values for label, values in finite.items() if values.size}
    if not finite:
        return
    begin, best = min(values[0] for values in finite.values()), max(values.max() for values in finite.values())
    floor = begin - 0.5 * max(best - begin, abs(begin))
    below = [
        f"{label} to {EngFormatter(places=0)(values.min())}" for label, values in finite.items() if values.min() < floor
    ]
    if below:
        axis.set_ylim(floor, best + 0.05 * (best - floor))
        note = textwrap.fill(f"off the axis: {', '.join(below)}", 80)
        axis.set_xlabel(f"{axis.get_xlabel()}\n{note}", fontsize=8, color=INK)


def _band(axis: Axes, x: np.ndarray, values: np.ndarray, colour: str, label: str, ls: str = "-") -> None:
    if values.size == 0 or np.isnan(values).all():
        return
    if len(values) > 1:
        for line in values:
            axis.plot(x[0], line, color=colour, lw=0.5, alpha=0.35)
        axis.fill_between(x[0], *cost_interval(values)[0][1:], color=colour, alpha=0.2, lw=0)
    axis.plot(x[0], np.ma.masked_invalid(values).mean(0).filled(np.nan), color=colour, lw=1.8, ls=ls, label=label)


def _axis(axis: Axes, title: str, scale: str) -> None:
    if axis.lines and _spread(axis) > 3.0:
        axis.set_yscale(scale)
    elif axis.lines and _spread(axis) < 1.001:  # a constant: rounding is nothing to look at
        middle = float(np.nanmean(np.asarray(axis.lines[-1].get_ydata(), float)))
        axis.set_ylim(middle - 0.1 * abs(middle) - 1e-3, middle + 0.1 * abs(middle) + 1e-3)
    frame(axis, title, ROLLOUTS)


def frame(axis: Axes, title: str, x: str) -> None:
    """The look that all axes have."""
    axis.set_title(title, fontsize=10, color=INK, loc="left")
    axis.set_xlabel(x, fontsize=8, color=INK)
    axis.tick_params(which="both", labelsize=8, colors=INK)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.2)


def _spread(axis: Axes) -> float:
    """Largest over smallest of all that is drawn: 1 if all is equal, infinite if something is not positive."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axis.lines])
    values = values[np.isfinite(values)]
    if values.size and values.min() == values.max():
        return 1.0
    return values.max() / values.min() if values.size and values.min() > 0 else np.inf


def _label(run: Run, runs: Sequence[Run]) -> str:
    names = [other.path.name for other in runs]
    return run.path.name if names.count(run.path.name) == 1 else str(run.path)
