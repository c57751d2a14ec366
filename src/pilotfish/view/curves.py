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

from pilotfish.runs.columns import bounds
from pilotfish.runs.statistics import mean_interval
from pilotfish.runs.store import Run
from pilotfish.types import DECREASE
from pilotfish.view import look, plot
from pilotfish.view.look import COLOURS, GREY, INK, NO_SUCCESS, PERCENT, RED, ROLLOUTS, called, mean_and_band, panels

mpl.use("agg")

BLUE = COLOURS[0]
STYLES = ("-", "--", ":", "-.")
COLOURS_OF_A_PANEL = (BLUE, GREY, INK)
LETTERS = 17.0
"""Of a title, for each inch that an axis has before the layout makes it a third wider."""
READING = "line: mean over {seeds} seeds, on a log axis the geometric one; band: its 95% interval; thin: each seed"


class Thousands(EngFormatter):
    """Large numbers with k and M; small ones as they are, for 400 m would be metres."""

    def format_data(self, value: float) -> str:
        return super().format_data(value) if abs(value) >= 1e3 else f"{value:.4g}"


def learning(runs: Sequence[Run], path: Path) -> Path:
    """Cost and success over rollouts, of runs of one task: mean, 95% interval over seeds, and each seed's own line."""
    figure = Figure(figsize=(10, 4.0), layout="constrained")
    cost, success = figure.subplots(1, 2)
    metrics = [run.metrics() for run in runs]
    log = all((one["cost"] > 0).all() for one in metrics)
    for i, (run, one) in enumerate(zip(runs, metrics, strict=True)):
        colour, ls = COLOURS[i % len(COLOURS)], STYLES[i % len(STYLES)] if len(runs) > 1 else "-"
        name = f"{_label(run, runs)}, " if len(runs) > 1 else ""
        measured = "noise_free_cost" in one
        if len(runs) == 1 or not measured:
            _band(cost, one["rollouts"], one["cost"], colour, f"{name}exploring", ls, log)
            _band(success, one["rollouts"], 100 * one["success"], colour, f"{name}exploring", ls, percent=True)
        if measured:
            words, ls = f"{name}without noise", ls if len(runs) > 1 else "--"
            colour = colour if len(runs) > 1 else COLOURS[1]
            _band(cost, one["rollouts"], one["noise_free_cost"], colour, words, ls, log)
            _band(success, one["rollouts"], 100 * one["noise_free_success"], colour, words, ls, percent=True)
    _axis(cost, "cost of an episode", "log" if log else "linear")
    _axis(success, "episodes that succeed, %", "linear")
    success.set_ylim(*PERCENT)
    if all(np.isnan(one["success"]).all() for one in metrics):
        success.text(0.5, 0.5, NO_SUCCESS, ha="center", transform=success.transAxes, color=GREY)
    if len(cost.lines) > 1:
        cost.legend(frameon=False, fontsize=8)
    _explain(figure, max(len(one["cost"]) for one in metrics))
    return plot.write(figure, path)


def diagnostics(run: Run, path: Path) -> Path:
    """Whatever else the run reports, as its annotations say: numbers of one title in one panel, with their bound.

    Over the whole width at the bottom: what its updates did to the cost, beside what they promised.
    """
    metrics, columns = run.metrics(), run.columns()
    shown = panels(metrics, columns)
    decreases = {called(name, columns[name]): metrics[name] for name in shown.pop(DECREASE, [])}
    rows, wide = -(-len(shown) // 3), bool(decreases)
    figure = Figure(figsize=(10, 2.9 * max(rows + wide, 1)), layout="constrained")
    grid = figure.add_gridspec(max(rows + wide, 1), 3)
    for i, names in enumerate(shown.values()):
        _panel(figure.add_subplot(grid[i // 3, i % 3]), metrics, {name: columns[name] for name in names})
    if wide:
        _changes(figure.add_subplot(grid[-1, :]), metrics, decreases)
    _explain(figure, len(metrics["cost"]))
    return plot.write(figure, path)


def _panel(axis: Axes, metrics: Mapping[str, np.ndarray], shown: Mapping[str, Mapping[str, Any]]) -> None:
    """Numbers that are shown together, with their bounds."""
    how = next(iter(shown.values()))
    percent, log = how["unit"] == "%", how["scale"] == "log"
    for i, (name, own) in enumerate(shown.items()):
        values = 100 * metrics[name] if percent else metrics[name]
        if log and (values > 0).any():  # where all is 0, that is what is to be seen
            values = np.where(values > 0, values, np.nan)
        colour, ls = COLOURS_OF_A_PANEL[i % len(COLOURS_OF_A_PANEL)], STYLES[i % len(STYLES)]
        _band(axis, metrics["rollouts"], values, colour, called(name, own), ls, log, percent)
        if own["bound"] is not None:
            bound = bounds(own, metrics).mean(0)
            axis.plot(metrics["rollouts"][0], bound, color=RED, lw=1, ls=(0, (1, 1)), label="bound")
    _axis(axis, look.axis(how), how["scale"])
    if percent:
        axis.set_ylim(*PERCENT)
    if len(axis.get_legend_handles_labels()[1]) > 1:
        axis.legend(frameon=False, fontsize=7)


def _changes(axis: Axes, metrics: Mapping[str, np.ndarray], said: Mapping[str, np.ndarray]) -> None:
    """By how much every update made the next rollouts cheaper, beside what was said of it.

    The axis is linear below the size that nine of ten of these numbers exceed, and logarithmic above.
    """
    cost = np.where(np.isfinite(metrics["cost"]), metrics["cost"], np.nan)
    decreases = {"actual": -np.diff(cost), **said}
    for (name, values), colour, ls in zip(decreases.items(), (BLUE, INK, RED, GREY), STYLES, strict=False):
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
    left.yaxis.set_major_formatter(Thousands())
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
        f"{label} to {Thousands(places=0)(values.min())}" for label, values in finite.items() if values.min() < floor
    ]
    if below:
        axis.set_ylim(floor, best + 0.05 * (best - floor))
        note = textwrap.fill(f"off the axis: {', '.join(below)}", 80)
        axis.set_xlabel(f"{axis.get_xlabel()}\n{note}", fontsize=8, color=INK)


def _band(
    axis: Axes,
    x: np.ndarray,
    values: np.ndarray,
    colour: str,
    name: str,
    ls: str = "-",
    log: bool = False,
    percent: bool = False,
) -> None:
    if values.size == 0 or not np.isfinite(values).any():
        return
    middle, low, high = mean_and_band(values, log)
    if percent:
        low, high = np.clip(low, 0, 100), np.clip(high, 0, 100)
    if len(values) > 1:
        for line in values:
            axis.plot(x[0], np.where(np.isfinite(line), line, np.nan), color=colour, lw=0.5, alpha=0.35)
        axis.fill_between(x[0], low, high, color=colour, alpha=0.2, lw=0)
    axis.plot(x[0], middle, color=colour, lw=1.8, ls=ls, label=name)


def _explain(figure: Figure, seeds: int) -> None:
    """Say what lines and bands are, where there is more than one seed."""
    if seeds > 1:
        figure.supxlabel(READING.format(seeds=seeds), fontsize=8, color=GREY)


def _axis(axis: Axes, title: str, scale: str) -> None:
    if axis.lines and _spread(axis) > 3.0:
        axis.set_yscale(scale)
    elif axis.lines and _spread(axis) < 1.001:  # a constant: rounding is nothing to look at
        middle = float(np.nanmean(np.asarray(axis.lines[-1].get_ydata(), float)))
        axis.set_ylim(middle - 0.1 * abs(middle) - 1e-3, middle + 0.1 * abs(middle) + 1e-3)
    frame(axis, title, ROLLOUTS)


def frame(axis: Axes, title: str, x: str) -> None:
    """The look that all axes have. A title is no wider than its axis: it would lie on that of the next."""
    inches = axis.get_window_extent().width / axis.figure.dpi
    lines = [textwrap.fill(line, max(int(LETTERS * inches), 1)) for line in title.splitlines()]
    axis.set_title("\n".join(lines), fontsize=10, color=INK, loc="left")
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
