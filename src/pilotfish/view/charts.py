"""Interactive charts, as Plotly reads them: plain data. Colours are numbers, of which the page's script makes those of
light or of dark.

Every line is a mean over seeds; its band is a 95% interval, and thin lines are the seeds.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pilotfish.runs.columns import Columns, bounds
from pilotfish.runs.store import Run
from pilotfish.runs.verdict import Metrics
from pilotfish.types import DECREASE
from pilotfish.view.look import PERCENT, ROLLOUTS, axis, called, mean_and_band, panels

POINTS = 200
"""Of a line, at most: more cannot be told apart, and every one of them is on the page."""
THIN = 2000
"""Points of all seeds' lines together, at most, if that leaves each of them `FEW`."""
FEW = 40
DIGITS = 5
"""Of a number."""


class Series(NamedTuple):
    """What one line is of, for all seeds."""

    name: str
    x: np.ndarray
    """(iteration,)"""
    y: np.ndarray
    """(seed, iteration)"""
    style: int = 0
    """Number of its colour and of its dashes."""


def learning(runs: Sequence[tuple[str, Run]]) -> dict[str, dict[str, Any]]:
    """Cost and success over rollouts, of runs of one task with their names."""
    cost, success = [], []
    for place, (name, run) in enumerate(runs):
        metrics = run.metrics()
        if "cost" not in metrics:
            continue
        x, measured = metrics["rollouts"][0], "noise_free_cost" in metrics
        for what, shown, factor in (("cost", cost, 1), ("success", success, 100)):
            if len(runs) == 1 or not measured:
                words = "exploring" if len(runs) == 1 else f"{name}, exploring"
                shown.append(Series(words, x, factor * metrics[what], place))
            if measured:
                words = "without noise" if len(runs) == 1 else name
                shown.append(Series(words, x, factor * metrics[f"noise_free_{what}"], place + (len(runs) == 1)))
    charts = {"cost": chart("cost of an episode", cost, log=True)}
    if any(np.isfinite(series.y).any() for series in success):
        charts["success"] = chart("episodes that succeed, %", success, percent=True)
    return charts


def diagnostics(metrics: Metrics, columns: Columns) -> dict[str, dict[str, Any]]:
    """Whatever else a run reports, by its title: numbers of one title in one chart, with their bound."""
    charts = {}
    for title, names in panels(metrics, columns).items():
        how = columns[names[0]]
        factor = 100 if how["unit"] == "%" else 1
        x = metrics["rollouts"][0]
        shown = [
            Series(called(name, columns[name]), x[: metrics[name].shape[1]], factor * metrics[name], i)
            for i, name in enumerate(names)
        ]
        if title == DECREASE:
            charts[title] = _decrease(metrics, shown)
            continue
        bounded = next((name for name in names if columns[name]["bound"] is not None), None)
        bound = None
        if bounded is not None:
            bound = Series("bound", x, factor * bounds(columns[bounded], metrics).mean(0, keepdims=True))
        charts[title] = chart(axis(how), shown, log=how["scale"] == "log", percent=how["unit"] == "%", bound=bound)
    return charts


def chart(
    title: str, shown: Sequence[Series], log: bool = False, percent: bool = False, bound: Series | None = None
) -> dict[str, Any]:
    """One chart: its traces and its layout. `log`: where what is shown spreads over more than a factor of 3."""
    values = np.concatenate([series.y.ravel() for series in shown]) if shown else np.zeros(0)
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    spread = positive.max() / positive.min() if positive.size else 1.0
    log = log and positive.size == values.size and bool(spread > 3.0)
    traces = [trace for series in shown for trace in _traces(series, log, percent)]
    if bound is not None:
        traces.append(_line(bound.x, bound.y[0]) | {"name": "bound", "role": "bound"})
    y: dict[str, Any] = {"title": {"text": title}, "type": "log" if log else "linear"}
    if percent:
        y["range"] = list(PERCENT)
    named = len(shown) > 1 or bound is not None
    return {"data": traces, "layout": {"xaxis": {"title": {"text": ROLLOUTS}}, "yaxis": y, "showlegend": named}}


def _decrease(metrics: Metrics, said: Sequence[Series]) -> dict[str, Any]:
    """By how much every update made the next rollouts cheaper, beside what was said of it.

    The axis shows where most of what came and of what was promised lies: a guarantee may be far outside.
    """
    cost = np.where(np.isfinite(metrics["cost"]), metrics["cost"], np.nan)
    actual = Series("actual", metrics["rollouts"][0, :-1], -np.diff(cost))
    found = chart("decrease of the cost", [actual, *(series._replace(style=series.style + 1) for series in said)])
    seen = np.concatenate([actual.y.ravel(), *(series.y.ravel() for series in said if series.name == "promised")])
    if (seen := seen[np.isfinite(seen)]).size:
        low, high = np.quantile(seen, [0.02, 0.98])
        found["layout"]["yaxis"]["range"] = [low - 0.1 * (high - low), high + 0.1 * (high - low)]
    return found


def _traces(series: Series, log: bool, percent: bool) -> list[dict[str, Any]]:
    """A line over rollouts with its band, and a thin line for each seed."""
    finite = np.where(np.isfinite(series.y), series.y, np.nan)
    if series.y.size == 0 or np.isnan(finite).all():
        return []
    at = _thinned(len(series.x), POINTS)
    x, y = series.x[at], finite[:, at]
    common = {"legendgroup": series.name, "style": series.style}
    traces = []
    middle, low, high = mean_and_band(y, log)
    if len(y) > 1:
        if percent:
            low, high = np.clip(low, 0, 100), np.clip(high, 0, 100)
        traces += [_line(x, edge) | common | {"role": role} for role, edge in (("edge", low), ("band", high))]
        few = _thinned(len(x), max(FEW, THIN // len(y)))
        traces += [_line(x[few], one) | common | {"role": "seed"} for one in y[:, few]]
    return [*traces, _line(x, middle) | common | {"role": "mean", "name": series.name}]


def _line(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    return {"x": _numbers(x), "y": _numbers(y), "mode": "lines", "type": "scatter"}


def _numbers(values: np.ndarray) -> list[float | int | None]:
    """As JSON has them: None where there is no number, and no digit that nobody can see."""
    short = (float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values.tolist())
    return [int(value) if value is not None and value == int(value) else value for value in short]


def _thinned(count: int, most: int) -> np.ndarray:
    """Places of at most so many of `count` points, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
