"""Metrics as one long table for other programs."""

import csv

import numpy as np
import pytest
from pyarrow import parquet

from pilotfish.cli import learn, run
from pilotfish.runs import RunError, tables
from pilotfish.runs.store import Run

WORDS = ["train", "lq", "--algorithm", "reps", "--algorithm.skill.features", "3", "--rollouts", "10", "--seed", "5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "small"
    with pytest.MonkeyPatch.context() as undrawn:
        undrawn.setattr(learn, "draw", lambda *_: None)
        assert run([*WORDS, "--seeds", "2", "--iterations", "3", "--out", str(path)]) == 0
    return path


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_and_parquet_hold_every_number(folder, capsys):
    for kind in ("csv", "parquet"):
        assert run(["export", str(folder), "--format", kind]) == 0
    assert capsys.readouterr().out.split() == [str(folder / f"metrics-long.{kind}") for kind in ("csv", "parquet")]
    metrics = Run.open(folder).metrics()
    names = [name for name in metrics if name not in ("seed", "iteration", "rollouts")]
    table, found = parquet.read_table(folder / "metrics-long.parquet").to_pydict(), rows(folder / "metrics-long.csv")
    assert list(table) == list(found[0]) == ["seed", "iteration", "rollouts", "name", "value"]
    assert len(found) == len(table["value"]) == 2 * 3 * len(names)
    for place, row in enumerate(found):
        seed, iteration, name = int(row["seed"]), int(row["iteration"]), row["name"]
        value = metrics[name][seed - 5, iteration]
        np.testing.assert_array_equal([float(row["value"]), table["value"][place]], [value, value])
        assert int(row["rollouts"]) == table["rollouts"][place] == 10 * (iteration + 1)
        assert (table["seed"][place], table["iteration"][place], table["name"][place]) == (seed, iteration, name)


def test_one_seed_of_several(folder, tmp_path):
    assert run(["export", str(folder), "-o", str(tmp_path / "one.csv"), "--seed", "6"]) == 0
    assert {row["seed"] for row in rows(tmp_path / "one.csv")} == {"6"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "metrics.csv"], "this is the run's own metrics.csv"),
        (["--format", "csv", "--seed", "9"], "--seed 9: this run has the seeds 5, 6"),
        (["--format", "csv", "--local"], "--local: .csv files hold metrics"),
        (["--format", "csv", "-o", "x.parquet"], "choose a name that ends in .csv"),
    ],
)
def test_what_is_wrong_is_said(folder, capsys, words, said):
    before = (folder / "metrics.csv").read_bytes()
    words = [str(folder / word) if word.endswith((".csv", ".parquet")) else word for word in words]
    assert run(["export", str(folder), *words]) == 2
    assert said in capsys.readouterr().err
    assert (folder / "metrics.csv").read_bytes() == before


def test_what_is_needed_is_named(folder, monkeypatch, tmp_path):
    monkeypatch.setattr("pilotfish.extras.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"parquet needs the package pyarrow: pip install 'pilotfish\[parquet"):
        tables.written(Run.open(folder), ".parquet")
    with pytest.raises(RunError, match="no iteration has ended"):
        tables.written(Run(tmp_path, Run.open(folder).spec), ".csv")
