"""A run's metrics as one long table for other programs: a line for each number of each iteration of each seed.

    seed  iteration  rollouts  name  value

Parquet is written by pyarrow 26, which takes 171 MB of disk, where polars 2.1 takes 178: pandas needs pyarrow as well.
"""

import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np

from pilotfish import extras
from pilotfish.runs import RunError
from pilotfish.runs.store import Run

PLACE = ("seed", "iteration", "rollouts")
"""Which number it is."""


def written(run: Run, kind: str, seeds: Sequence[int] | None = None) -> bytes:
    """The table as a .csv or a .parquet file, of all seeds if none are named. RunError before the first iteration."""
    if kind == ".parquet":
        extras.check("--format parquet", "pyarrow", "parquet")
    if not (metrics := run.metrics()):
        raise RunError(f"{run.path} has no metrics yet: no iteration has ended.")
    columns = long(metrics, run.spec.seeds if seeds is None else seeds)
    return _parquet(columns) if kind == ".parquet" else _csv(columns)


def long(metrics: Mapping[str, np.ndarray], seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Columns of the table, of metrics (seed, iteration): seed after seed, iteration after iteration."""
    rows = np.isin(metrics["seed"][:, 0], seeds)
    names = [name for name in metrics if name not in PLACE]
    values = np.stack([np.asarray(metrics[name][rows], float) for name in names], -1)
    place = {name: np.repeat(metrics[name][rows].astype(int).ravel(), len(names)) for name in PLACE}
    return place | {"name": np.tile(names, values[..., 0].size), "value": values.ravel()}


def _csv(columns: Mapping[str, np.ndarray]) -> bytes:
    file = io.StringIO()
    out = csv.writer(file)
    out.writerow(columns)
    out.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    return file.getvalue().encode()


def _parquet(columns: Mapping[str, np.ndarray]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    file = io.BytesIO()
    named = pyarrow.array(columns["name"].tolist()).dictionary_encode()
    parquet.write_table(pyarrow.table({**columns, "name": named}), file)
    return file.getvalue()
