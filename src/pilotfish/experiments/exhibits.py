"""What a figure shows instead of returns and costs: curves by task, a paper's table, a map of places.

An exhibit gives the numbers that are drawn, a `table` of them in words, and all of them `as_json` for verdict.json. The
policy that iteration k measures, counted from 0, has learned from k updates: it is what papers call the policy after
iteration k. So an arm needs one iteration more than the last that is shown.
"""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from pilotfish.runs.statistics import Interval, Scale, mean_interval, rate_interval

if TYPE_CHECKING:
    from pilotfish.experiments.claims import Metrics, Study

Place = tuple[float, float] | float
Rows = list[list[str]]
"""A table in words; the first row is its head."""

ELSEWHERE = "elsewhere"
"""In an arm's metrics what its seeds deploy succeeds in at every place of the figure's map: (seed, place)."""
ROUNDING = 1e-9  # m
POINTS = 101
"""Of a curve over rollouts."""


class Panel(NamedTuple):
    """One axis, or the rows of a table: several arms on one task."""

    title: str
    curves: Mapping[str, str]
    """The arms' labels by the names of their curves; a name has one colour in all panels."""
    failure: float | None = None
    """A dotted line: what is above it failed, as the paper has it."""


class Quantity(NamedTuple):
    """What curves are of."""

    column: str
    """Of the arms' metrics."""
    name: str
    unit: str
    """Empty for none."""
    form: str
    """How its numbers are written."""
    scale: Scale = "linear"
    """Of its axis, and of the mean over seeds."""

    @property
    def words(self) -> str:
        return f"{self.name}, {self.unit}" if self.unit else self.name


DISTANCE = Quantity("noise_free_distance", "distance", "m", "{:.3f}")
COST = Quantity("noise_free_cost", "cost", "", "{:.4g}", scale="log")
EXPLORING = Quantity("cost", "cost of a rollout", "", "{:.4g}", scale="log")
SUCCESS = Quantity("noise_free_success", "success", "%", "{:.0%}", scale="percent")
"""All of noise-free episodes, but EXPLORING."""


class Curves(NamedTuple):
    """A quantity over updates or rollouts: the mean over seeds and its 95% interval."""

    panels: tuple[Panel, ...]
    of: Quantity = DISTANCE
    over: Literal["updates", "rollouts"] = "updates"
    """Over rollouts, of which algorithms need unlike numbers an update, a curve has POINTS points at most."""

    def lines(self, study: "Study") -> dict[str, dict[str, Interval]]:
        """By panel and curve; nan after a number of updates at which a seed has no finite value."""
        mean = {"linear": _mean, "log": _geometric, "percent": _rates}[self.of.scale]
        return self._each(study, lambda metrics, at: mean(metrics[self.of.column][:, at]))

    def along(self, study: "Study") -> dict[str, dict[str, np.ndarray]]:
        """By panel and curve how many updates were done, or rollouts from each condition, at each of its points."""
        return self._each(study, lambda metrics, at: at if self.over == "updates" else metrics["rollouts"][0, at])

    def _each(self, study: "Study", of_points: Callable[["Metrics", np.ndarray], Any]) -> dict[str, dict[str, Any]]:
        def found(label: str) -> Any:
            metrics = study[label]
            count = metrics[self.of.column].shape[1]
            every = self.over == "updates" or count <= POINTS
            at = np.arange(count) if every else np.linspace(0, count - 1, POINTS).round().astype(int)
            return of_points(metrics, at)

        return {panel.title: {name: found(label) for name, label in panel.curves.items()} for panel in self.panels}

    def table(self, study: "Study") -> Rows:
        """Every curve's end: a row for a name, a column for a panel."""
        lines, of = self.lines(study), self.of
        names = dict.fromkeys(name for panel in self.panels for name in panel.curves)
        rows = [[f"{of.name} at last" + (f", {of.unit}" if of.unit else ""), *lines]]
        for name in names:
            ends = (_text(_at(line[name], -1), of.form) if name in line else "" for line in lines.values())
            rows.append([name, *ends])
        return rows

    def as_json(self, study: "Study") -> dict[str, Any]:
        """All that is drawn."""
        lines, along = self.lines(study), self.along(study)
        return {
            title: {name: {self.over: along[title][name].tolist()} | _json(line) for name, line in curves.items()}
            for title, curves in lines.items()
        }


class PaperTable(NamedTuple):
    """Rates of success after some numbers of updates, beside those of the paper."""

    panels: tuple[Panel, ...]
    paper: Mapping[str, Mapping[int, tuple[float, ...]]]
    """What the paper has, %: by a panel's title and a number of updates, in the order of its curves."""
    seeds: int = 3
    """The paper's: so many of ours are given by themselves as well."""
    column: str = "noise_free_success"

    def lines(self, study: "Study") -> dict[str, dict[str, Interval]]:
        """Rates with 95% intervals by panel and curve, over updates; one seed has no interval."""
        return {
            panel.title: {name: _rates(study[label][self.column]) for name, label in panel.curves.items()}
            for panel in self.panels
        }

    def said(self, title: str) -> dict[str, dict[int, float]]:
        """The paper's rates in one panel by curve and number of updates, as parts of 1."""
        names = next(panel.curves for panel in self.panels if panel.title == title)
        return {name: {k: row[i] / 100 for k, row in self.paper[title].items()} for i, name in enumerate(names)}

    def table(self, study: "Study") -> Rows:
        """Laid out as in papers: a row for a number of updates, a column for a method."""
        rows = [["updates", *self.panels[0].curves]]
        for title, found in self.as_json(study).items():
            for i, k in enumerate(self.paper[title]):
                rows.append([f"{title}, {k}", *(_cell(cells[i], self.seeds) for cells in found.values())])
        return rows

    def as_json(self, study: "Study") -> dict[str, Any]:
        """By panel and curve a number of updates, the rate and its interval, that of as many seeds as the paper has
        (null if there are no more) and the paper's; what was not measured is null.
        """
        lines = self.lines(study)
        return {
            panel.title: {
                name: [
                    {"updates": k}
                    | _json(_at(lines[panel.title][name], k))
                    | {"as_many_seeds": self._few(study[label][self.column], k), "paper": rate}
                    for k, rate in self.said(panel.title)[name].items()
                ]
                for name, label in panel.curves.items()
            }
            for panel in self.panels
        }

    def _few(self, rates: Float[np.ndarray, "S iteration"], updates: int) -> float | None:
        known = len(rates) > self.seeds and updates < rates.shape[1]
        return float(rates[: self.seeds, updates].mean()) if known else None


class Map(NamedTuple):
    """Places in the plane or along a line, m, at which is tried what learned at a few of them."""

    field: str
    """The field of the arms' task that has the places, a condition each."""
    trained: tuple[Place, ...]
    """Where they learned."""
    grid: tuple[Place, ...]
    """In the plane all pairs of some coordinates: drawn as areas. Along a line, where curves have their points."""
    others: tuple[Place, ...]
    """Drawn as dots. None along a line."""
    edges: tuple[float, ...]
    """Distances from the nearest place of training, m, between which success is averaged."""

    @property
    def places(self) -> tuple[Place, ...]:
        """All that are tried."""
        return self.grid + self.others

    def distances(self) -> Float[np.ndarray, "K"]:
        """How far each place is from the nearest one of training, m."""
        apart = _points(self.places)[:, None] - _points(self.trained)
        return np.linalg.norm(apart, axis=-1).min(-1)

    def parts(self) -> dict[str, Bool[np.ndarray, "K"]]:
        """Which places are those of training, which between them (in the rectangle about them), which outside
        of that.
        """
        places, trained = _points(self.places), _points(self.trained)
        inside = ((places >= trained.min(0) - ROUNDING) & (places <= trained.max(0) + ROUNDING)).all(-1)
        same = self.distances() <= ROUNDING
        return {"trained": same, "between": inside & ~same, "outside": ~inside}

    def bands(self) -> list[Bool[np.ndarray, "K"]]:
        """Which places are between two edges, for every such band that has one."""
        distances = self.distances() + ROUNDING
        bands = [(near <= distances) & (distances < far) for near, far in pairwise(self.edges)]
        return [band for band in bands if band.any()]

    def along(self, study: "Study") -> dict[str, Interval]:
        """Every arm's success at each place."""
        return {label: _rates(metrics[ELSEWHERE]) for label, metrics in study.items()}

    def lines(self, study: "Study") -> dict[str, Interval]:
        """Every arm's success over the bands."""
        bands = self.bands()
        return {label: _rates(_means(metrics[ELSEWHERE], bands)) for label, metrics in study.items()}

    def table(self, study: "Study") -> Rows:
        """Success of every arm at the places of each part."""
        parts = {name: which for name, which in self.parts().items() if which.any()}
        rows = [["success", *(f"{name}, {which.sum()} places" for name, which in parts.items())]]
        for label, metrics in study.items():
            found = _rates(_means(metrics[ELSEWHERE], list(parts.values())))
            rows.append([label, *(_text(_at(found, i), "{:.0%}") for i in range(len(parts)))])
        return rows

    def as_json(self, study: "Study") -> dict[str, Any]:
        """The map, every arm's success at each place, over its seeds, and by distance."""
        distances, bands = self.distances(), self.bands()
        return {
            "trained": self.trained,
            "places": self.places,
            "success": {label: _finite(metrics[ELSEWHERE].mean(0).tolist()) for label, metrics in study.items()},
            "bands": [{"distance": _finite(distances[band].mean()), "places": int(band.sum())} for band in bands],
            "by_distance": {label: _json(line) for label, line in self.lines(study).items()},
        }


Exhibit = Curves | PaperTable | Map


# -- intervals, and how they are written


def _points(places: tuple[Place, ...]) -> Float[np.ndarray, "K d"]:
    return np.array(places, float).reshape(len(places), -1)


def _mean(values: Float[np.ndarray, "S iteration"]) -> Interval:
    return mean_interval(np.where(np.isfinite(values), values, np.nan))


def _geometric(values: Float[np.ndarray, "S iteration"]) -> Interval:
    return Interval(*map(np.exp, _mean(np.log(np.where(values > 0, values, np.nan)))))


def _means(values: Float[np.ndarray, "S K"], parts: list[Bool[np.ndarray, "K"]]) -> Float[np.ndarray, "S P"]:
    return np.stack([values[:, which].mean(1) for which in parts], 1)


def _rate(rates: Float[np.ndarray, "S"]) -> Interval:
    """Of several seeds an interval takes no number of episodes; of one it is unknown."""
    if len(rates) == 1:
        return Interval(np.asarray(rates[0]), np.asarray(np.nan), np.asarray(np.nan))
    return rate_interval(rates, 1)


def _rates(rates: Float[np.ndarray, "S iteration"]) -> Interval:
    return Interval(*(np.array(part) for part in zip(*map(_rate, rates.T), strict=True)))


def _at(line: Interval, i: int) -> Interval:
    """One entry; nan where the line is shorter."""
    return Interval(*(np.asarray(part[i] if i < len(part) else np.nan) for part in line))


def _json(interval: Interval) -> dict[str, Any]:
    """What is not known is null."""
    return {
        name: _finite(np.asarray(part).tolist()) for name, part in zip(("mean", "low", "high"), interval, strict=True)
    }


def _finite(values: Any) -> Any:
    if isinstance(values, list):
        return [_finite(value) for value in values]
    return round(values, 6) if math.isfinite(values) else None


def _text(interval: Interval, form: str) -> str:
    if not np.isfinite(interval.middle):
        return "-"
    known = np.isfinite(interval.low)
    bounds = f" ({form.format(interval.low)} to {form.format(interval.high)})" if known else ""
    return form.format(interval.middle) + bounds


def _cell(found: dict[str, Any], seeds: int) -> str:
    """A line each: our rate, its interval, that of as many seeds as the paper has, and the paper's rate."""
    lines = ["-" if found["mean"] is None else f"{found['mean']:.0%}"]
    if found["low"] is not None:
        lines.append(f"{100 * found['low']:.0f} to {found['high']:.0%}")
    if found["as_many_seeds"] is not None:
        lines.append(f"of {seeds}: {found['as_many_seeds']:.0%}")
    return "\n".join([*lines, f"paper {found['paper']:.0%}"])
