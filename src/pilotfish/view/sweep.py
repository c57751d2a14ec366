"""Noise-free cost and success of a sweep's arms against the settings that vary."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pilotfish.runs.statistics import Interval, cost_interval, mean_interval
from pilotfish.runs.sweep import Found
from pilotfish.view import curves, look, plot

MANY = 12
"""Lines that a legend can tell apart."""
WIDE = 3.0
"""Largest over smallest value, of a setting or of the costs, from which on their axis is logarithmic."""
TICKS = 8
"""Values of a setting that are written at its axis."""
APART = 0.008
"""From one line's intervals to the next one's, of the range of the values."""


def picture(sweep: Sequence[Found], path: Path, title: str) -> Path:
    """A row for each setting that varies, cost and success: a line for each choice of the other settings, with the 95%
    interval over seeds, and a dot for each seed. Where no two arms share the other settings there are dots alone.
    """
    names = list(sweep[0].arm.values)
    figure = Figure(figsize=(10, 3.8 * len(names)), layout="constrained")
    log = _is_wide(np.concatenate([one.cost[np.isfinite(one.cost)] for one in sweep]))
    for row, name in zip(figure.subplots(len(names), 2, squeeze=False), names, strict=True):
        places = _places([one.arm.values[name] for one in sweep])
        for axis, success in zip(row, (False, True), strict=True):
            _panel(axis, sweep, name, places, (success, log))
            _ticks(axis, places)
        row[0].set_yscale("log" if log else "linear")
        row[1].set_ylim(*look.PERCENT)
        if all(one.success is None for one in sweep):
            row[1].text(0.5, 0.5, look.NO_SUCCESS, ha="center", transform=row[1].transAxes, color=look.GREY)
        curves.frame(row[0], "cost of a noise-free episode: mean over seeds, 95% interval", name)
        curves.frame(row[1], "noise-free episodes that succeed, %", name)
        if 1 < len(row[0].get_legend_handles_labels()[1]) <= MANY:
            row[0].legend(frameon=False, fontsize=7)
    figure.suptitle(title, fontsize=11, color=look.INK, x=0.01, ha="left")
    return plot.write(figure, path)


def _panel(axis: Axes, sweep: Sequence[Found], name: str, places: Mapping[Any, float], what: tuple[bool, bool]) -> None:
    """Cost or success against one setting; `what`: whether it is success, and whether costs are on a log axis."""
    success, log = what
    lines = _lines(sweep, name)
    alone = all(len(arms) == 1 for arms in lines.values())
    for i, (label, arms) in enumerate(({"": sweep} if alone else lines).items()):
        ordered = sorted(arms, key=lambda one: places[one.arm.values[name]])
        line = 0.0 if alone else i - (len(lines) - 1) / 2
        x = _beside([places[one.arm.values[name]] for one in ordered], line)
        values = np.stack([_values(one, success) for one in ordered])
        colour = look.COLOURS[i % len(look.COLOURS)]
        axis.plot(np.repeat(x, values.shape[1]), values.ravel(), "o", ms=3, mfc="none", alpha=0.5, color=colour)
        if not alone and np.isfinite(values).any():
            middle, low, high = np.array([_interval(each, log and not success) for each in values]).T
            dashes = curves.STYLES[i // len(look.COLOURS) % len(curves.STYLES)]
            axis.plot(x, middle, ls=dashes, lw=1.8, label=label or None, color=colour)
            axis.vlines(x, low, high, lw=1.0, color=colour)


def _beside(places: Sequence[float], line: float) -> np.ndarray:
    """The places of one of several lines, so that intervals do not hide each other."""
    x = np.array(places)
    if _is_wide(x):
        return x * (x.max() / x.min()) ** (APART * line)
    return x + APART * line * np.ptp(x)


def _ticks(axis: Axes, places: Mapping[Any, float]) -> None:
    """Write the values of a setting at its axis, where they are few."""
    at = np.array(list(places.values()))
    numbers = all(_is_number(value) for value in places)
    if numbers and _is_wide(at):
        axis.set_xscale("log")
        axis.set_xlim(at.min() / 1.1, at.max() * 1.1)
    else:
        axis.set_xlim(at.min() - 0.1 * (np.ptp(at) or 1.0), at.max() + 0.1 * (np.ptp(at) or 1.0))
    if len(at) <= TICKS or not numbers:
        axis.set_xticks(at, [f"{value:g}" if _is_number(value) else str(value) for value in places])
        axis.minorticks_off()


def _lines(sweep: Sequence[Found], name: str) -> dict[str, list[Found]]:
    """The arms by their other settings."""
    found: dict[str, list[Found]] = {}
    for one in sweep:
        label = ", ".join(f"{other}={value}" for other, value in one.arm.values.items() if other != name)
        found.setdefault(label, []).append(one)
    return found


def _places(values: Sequence[Any]) -> dict[Any, float]:
    """Where the values of a setting stand: numbers where they are, words one after the other."""
    if all(_is_number(value) for value in values):
        return {value: float(value) for value in values}
    return {value: float(place) for place, value in enumerate(dict.fromkeys(values))}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_wide(values: np.ndarray) -> bool:
    """Whether a logarithmic axis shows more of them."""
    return bool(values.size and values.min() > 0 and values.max() / values.min() > WIDE)


def _values(one: Found, success: bool) -> Float[np.ndarray, "S"]:
    """What is drawn of an arm's seeds; nan for what is not known."""
    if not success:
        return np.where(np.isfinite(one.cost), one.cost, np.nan)
    return np.full(len(one.cost), np.nan) if one.success is None else 100 * one.success


def _interval(values: Float[np.ndarray, "S"], log: bool) -> Interval:
    """The mean and its interval, on a log axis the geometric one; nan for the interval of a single seed."""
    known = values[np.isfinite(values)]
    if not known.size:
        return Interval(*np.full(3, np.nan))
    return cost_interval(known)[0] if log else mean_interval(known)
