"""Pictures with a panel for each task, method or arm: curves, rates beside a paper's, maps of places."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pilotfish.runs.statistics import Interval, Scale
from pilotfish.view import plot
from pilotfish.view.curves import BLUE, COLOURS, GREY, INK, RED, frame
from pilotfish.view.look import MARKERS, PERCENT

mpl.use("agg")

ACROSS = 3
"""Panels in a row."""
ENTRY = 1.9
"""Width of a legend's entry, inches."""
MARKED = 30
"""Points of a curve that have a marker, at most."""
SHADES = LinearSegmentedColormap.from_list("success", ["#f6efe2", "#a9cbe2", BLUE, "#0f2f4f"])
"""Of success, from 0 to 100%."""


def curves(
    panels: Mapping[str, Mapping[str, Interval]],
    failures: Mapping[str, float],
    what: str,
    title: str,
    path: Path,
    scale: Scale = "linear",
    along: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    over: str = "updates",
) -> Path:
    """Curves with their 95% intervals, in a panel for each title; a name has one colour in all.

    `failures`: a dotted line in some panels, above which all failed. `what`: what is drawn, and its unit. `scale`: of
    the axes; parts of 1 are drawn in percent. `along`: where the curves' points are, by default at 0, 1, ...; `over`:
    what that counts.
    """
    factor = 100.0 if scale == "percent" else 1.0
    figure, axes = _grid(len(panels))
    style = {name: i for i, name in enumerate(dict.fromkeys(name for lines in panels.values() for name in lines))}
    for axis, (heading, lines) in zip(axes, panels.items(), strict=False):
        for name, line in lines.items():
            scaled = Interval(*(factor * part for part in line))
            at = np.arange(len(line.middle)) if along is None else along[heading][name]
            _curve(axis, at, scaled, COLOURS[style[name] % len(COLOURS)], name, MARKERS[style[name] % len(MARKERS)])
        frame(axis, heading, over)
        shown = np.concatenate([*(line.middle for line in lines.values()), [failures.get(heading, np.nan)]])
        shown = shown[np.isfinite(shown)]
        if scale == "percent":
            axis.set_ylim(*PERCENT)
        elif scale == "linear":
            axis.set_ylim(0.0, 1.1 * shown.max(initial=0.0) or 1.0)
        elif shown.size:  # with few seeds an interval may go on over decades
            axis.set(yscale="log", ylim=(shown.min() / 1.5, 1.5 * shown.max()))
        if heading in failures:
            axis.axhline(failures[heading], color=INK, lw=1.2, ls=":")
        axis.set_ylabel(what, fontsize=8, color=INK)
    _legend(figure, axes)
    return _save(figure, title, path)


def rates(
    panels: Mapping[str, Mapping[str, Interval]],
    paper: Mapping[str, Mapping[str, Mapping[int, float]]],
    title: str,
    path: Path,
) -> Path:
    """Rates over updates with their 95% intervals, a row for each title and a column for each name; the paper's, after
    some numbers of updates, as points.
    """
    across = max(map(len, panels.values()))
    figure = Figure(figsize=(2.3 * across + 0.5, 2.3 * len(panels) + 0.8), layout="constrained")
    axes = figure.subplots(len(panels), across, sharex=True, sharey=True, squeeze=False)
    for row, (heading, lines) in zip(axes, panels.items(), strict=True):
        row[0].set_ylabel("success, %", fontsize=8, color=INK)
        for axis, (name, line) in zip(row, lines.items(), strict=False):
            here = Interval(*(100 * part for part in line))
            _curve(axis, np.arange(len(here.middle)), here, BLUE, "here, 95% interval", None)
            said = paper[heading][name]
            axis.plot(list(said), [100 * rate for rate in said.values()], "D", color=RED, ms=5, label="paper", zorder=4)
            frame(axis, f"{heading}: {name}", "updates")
            axis.label_outer()
    axes[0, 0].set_ylim(*PERCENT)
    _legend(figure, axes[0, :1])
    return _save(figure, title, path)


def places(
    grid: Float[np.ndarray, "G 2"],
    others: Float[np.ndarray, "O 2"],
    trained: Float[np.ndarray, "N 2"],
    success: Mapping[str, Float[np.ndarray, "K"]],
    distances: Float[np.ndarray, "B"],
    by_distance: Mapping[str, Interval],
    title: str,
    path: Path,
) -> Path:
    """A map of success for each arm, and all arms' success by the distance from training, with 95% intervals.

    Of the places, x and y in m, the grid's are all pairs of some coordinates and are drawn as areas, others are dots,
    those of training crosses. `success` has first the grid's, then the others'.
    """
    figure, axes = _grid(len(success) + 1)
    for axis, (name, found) in zip(axes, success.items(), strict=False):
        _map(axis, grid, others, trained, 100 * found)
        frame(axis, name, "x, m")
        axis.set_ylabel("y, m", fontsize=8, color=INK)
        axis.grid(visible=False)
    _side_by_side(axes[-1], distances, by_distance, "distance from the nearest place of training, m")
    _legend(figure, axes[-2:])
    shades = ScalarMappable(Normalize(0, 100), SHADES)
    bar = figure.colorbar(shades, ax=axes, shrink=0.6, aspect=30, pad=0.01)
    bar.set_label("seeds that succeed, %", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    return _save(figure, title, path)


def along(
    places: Float[np.ndarray, "K"],
    trained: Float[np.ndarray, "N"],
    success: Mapping[str, Interval],
    title: str,
    path: Path,
) -> Path:
    """Success of each arm at places along a line, m, with 95% intervals; dotted lines where it was trained."""
    figure, (axis,) = _grid(1)
    figure.set_figwidth(8.0)
    for i, at in enumerate(trained):
        axis.axvline(at, color=INK, lw=1.0, ls=":", label="_" * (i > 0) + "trained here")
    _side_by_side(axis, places, success, "place, m")
    _legend(figure, [axis])
    return _save(figure, title, path)


def _map(axis: Axes, grid: np.ndarray, others: np.ndarray, trained: np.ndarray, success: np.ndarray) -> None:
    """Success at all places, %."""
    (x, column), (y, row) = (np.unique(grid[:, i], return_inverse=True) for i in (0, 1))
    areas = np.full((len(y), len(x)), np.nan)
    areas[row, column] = success[: len(grid)]
    axis.pcolormesh(x, y, areas, cmap=SHADES, vmin=0, vmax=100, shading="nearest")
    axis.scatter(*others.T, c=success[len(grid) :], cmap=SHADES, vmin=0, vmax=100, s=30, ec=GREY, lw=1.4, zorder=3)
    axis.plot(*trained.T, "x", color=RED, ms=6, mew=1.6, zorder=4, label="trained here")
    axis.set_aspect("equal")


def _side_by_side(axis: Axes, places: np.ndarray, lines: Mapping[str, Interval], where: str) -> None:
    """Success of all arms over places, which `where` names: a little apart, so that no interval hides another."""
    apart = 0.012 * np.ptp([0.0, *places])
    for i, (name, line) in enumerate(lines.items()):
        at, (middle, low, high) = places + apart * (i - (len(lines) - 1) / 2), (100 * part for part in line)
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        axis.plot(at, middle, color=colour, lw=1.5, label=name, marker=marker, ms=4)
        axis.vlines(at, low, high, color=colour, lw=1, alpha=0.7)
    axis.set_ylim(*PERCENT)
    frame(axis, "success, %, with 95% intervals over seeds", where)


def _curve(axis: Axes, at: Shaped[np.ndarray, "K"], line: Interval, colour: str, name: str, marker: str | None) -> None:
    axis.fill_between(at, line.low, line.high, color=colour, alpha=0.12, lw=0)
    sparse = -(-len(at) // MARKED)
    axis.plot(at, line.middle, color=colour, lw=1.8, label=name, marker=marker, ms=4, markevery=sparse)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.margins(x=0.02)


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, in rows of three."""
    across = min(count, ACROSS)
    rows = -(-count // across)
    figure = Figure(figsize=(3.9 * across, 3.4 * rows + 0.7), layout="constrained")
    grid = figure.add_gridspec(rows, across)
    return figure, [figure.add_subplot(grid[i // across, i % across]) for i in range(count)]


def _legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """Every name once, below all panels."""
    handles = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    columns = min(len(handles), max(1, int(figure.get_figwidth() // ENTRY)))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def _save(figure: Figure, title: str, path: Path) -> Path:
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    return plot.write(figure, path)
