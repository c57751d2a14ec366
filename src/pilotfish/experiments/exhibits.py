"""What a figure shows of its arms beside costs: curves by task, a table with the paper's numbers, a map of places.

The policy that iteration k measures, counted from 0, has learned from k updates: it is what papers call the policy
after iteration k. So an arm needs one iteration more than the last that is shown.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from pilotfish.runs.statistics import mean_interval, rate_interval

if TYPE_CHECKING:
    from pilotfish.experiments.claims import Metrics, Study

Place = tuple[float, float]

ELSEWHERE = "elsewhere"
"""In an arm's metrics its networks' success at every place of the figure's map: (seed, place)."""


def after(metrics: "Metrics", updates: int, column: str) -> Float[np.ndarray, "S"]:
    """A column of the policy that has learned from so many updates; of the last one where there were fewer."""
    return metrics[column][:, min(updates, metrics[column].shape[1] - 1)]


class Panel(NamedTuple):
    """One axis: a column of the arms' metrics over updates, the mean over seeds and its 95% interval."""

    title: str
    """What is drawn, and its unit."""
    curves: Mapping[str, str]
    """The arms' labels by the names of their curves; a name has one colour in all panels."""
    column: str = "noise_free_distance"
    failure: float | None = None
    """A dotted line: what is worse failed, as the paper has it."""


class Cell(NamedTuple):
    """One number of a table, all as parts of 1; nan where it was not measured."""

    rate: float
    low: float
    high: float
    paper: float

    @property
    def text(self) -> str:
        """In per cent, the paper's behind a bar."""
        interval = "" if math.isnan(self.low) else f" ({self.low:.0%} to {self.high:.0%})"
        return f"{'-' if math.isnan(self.rate) else f'{self.rate:.0%}'}{interval} | {self.paper:.1%}"

    def as_json(self) -> dict[str, Any]:
        """What is not known is null."""
        known = not math.isnan(self.low)
        return {
            "rate": None if math.isnan(self.rate) else self.rate,
            "interval": [self.low, self.high] if known else None,
            "paper": self.paper,
        }


class PaperTable(NamedTuple):
    """Rates of success after some numbers of updates, beside those that the paper has."""

    title: str
    after: tuple[int, ...]
    """Numbers of updates: the columns."""
    paper: Mapping[str, tuple[float, ...]]
    """The paper's numbers by the arms' labels: the rows."""
    column: str = "noise_free_success"

    def cells(self, study: "Study") -> dict[str, list[Cell]]:
        """The rows by label, with 95% intervals over seeds; one seed has none."""
        return {
            label: [_cell(study[label][self.column], k, said) for k, said in zip(self.after, row, strict=True)]
            for label, row in self.paper.items()
        }

    def as_json(self, study: "Study") -> dict[str, Any]:
        """For verdict.json."""
        rows = {label: [cell.as_json() for cell in row] for label, row in self.cells(study).items()}
        return {"title": self.title, "after": list(self.after), "rows": rows}


def _cell(rates: Float[np.ndarray, "S iteration"], updates: int, paper: float) -> Cell:
    if updates >= rates.shape[1]:
        return Cell(math.nan, math.nan, math.nan, paper)
    of_seeds = rates[:, updates]
    if len(of_seeds) == 1:
        return Cell(float(of_seeds[0]), math.nan, math.nan, paper)
    return Cell(*map(float, rate_interval(of_seeds, 1)), paper)  # of several seeds it takes no number of episodes


class Band(NamedTuple):
    """Success at places of about one distance from training."""

    near: float
    far: float
    """Between which distances, m."""
    places: int
    rate: float
    low: float
    high: float


class Map(NamedTuple):
    """Places in the plane, m, at which networks are tried that learned at a few of them."""

    field: str
    """The field of the arms' tasks that has the places, a condition each."""
    trained: tuple[Place, ...]
    """Where they learned."""
    grid: tuple[Place, ...]
    """All pairs of some coordinates: what is drawn as areas."""
    others: tuple[Place, ...]
    """Drawn as dots."""
    bands: tuple[float, ...]
    """Distances from the nearest place of training, m, between which success is averaged."""

    @property
    def places(self) -> tuple[Place, ...]:
        """All that are tried."""
        return self.grid + self.others

    def distances(self) -> Float[np.ndarray, "K"]:
        """How far each place is from the nearest one of training, m."""
        apart = np.array(self.places)[:, None] - np.array(self.trained)
        return np.linalg.norm(apart, axis=-1).min(-1)

    def among(self) -> Bool[np.ndarray, "K"]:
        """Which places are no place of training, but lie in the rectangle about these."""
        places, trained = np.array(self.places), np.array(self.trained)
        inside = (places >= trained.min(0) - 1e-9) & (places <= trained.max(0) + 1e-9)
        return inside.all(-1) & (self.distances() > 1e-9)

    def by_distance(self, success: Float[np.ndarray, "S K"]) -> list[Band]:
        """Success in every band, with Student's 95% interval over seeds."""
        found, distances = [], self.distances()
        for near, far in zip(self.bands[:-1], self.bands[1:], strict=True):
            here = (distances >= near - 1e-9) & (distances < far - 1e-9)
            if here.any():
                found.append(Band(near, far, int(here.sum()), *map(float, mean_interval(success[:, here].mean(1)))))
        return found

    def as_json(self, study: "Study") -> dict[str, Any]:
        """For verdict.json: by arm the success at every place over its seeds, and that by distance."""
        tried = {label: metrics[ELSEWHERE] for label, metrics in study.items()}
        return {
            "trained": self.trained,
            "places": self.places,
            "success": {label: success.mean(0).tolist() for label, success in tried.items()},
            "by_distance": {
                label: [
                    band._asdict() | ({} if math.isfinite(band.low) else {"low": None, "high": None})
                    for band in self.by_distance(success)
                ]
                for label, success in tried.items()
            },
        }
