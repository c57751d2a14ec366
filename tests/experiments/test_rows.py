"""Rows of the documentation's tables: each can be run, their numbers are kept, and preferences follow from them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pilotfish import cli, experiments
from pilotfish.cli import learn, measure
from pilotfish.experiments import rows
from pilotfish.runs.evaluation import SOLVED
from pilotfish.view import rows as pictures

DOCS = Path(__file__).parents[2] / "docs" / "results"
TOY = {
    "toy": "lq --algorithm reps --rollouts 10 --iterations 2 --seeds 2",
    "toy-goal": "cartpole --algorithm reps --rollouts 10 --iterations 2 --seeds 2",
}


def kept():
    """By task the rows whose numbers are in the documentation, but for those that know the dynamics, and for those that
    were measured once more, whose computing is that of another hour.
    """
    found = {}
    for name in rows.ROWS:
        if name.endswith(rows.AGAIN):
            continue
        path = DOCS / f"{name}.json"
        record = json.loads(path.read_bytes()) if path.exists() else {}
        if "cpu_seconds" in record and record["algorithm"] not in rows.KNOWN:
            found.setdefault(record["task"], {})[name] = record
    return found


@pytest.mark.parametrize("name", rows.ROWS)
def test_every_row_can_be_run(name):
    args, spec = learn.asked(rows.command(name), "results")
    assert len(spec.seeds) == args.seeds > 1


@pytest.mark.parametrize("name", [name for name in rows.ROWS if (DOCS / f"{name}.json").exists()])
def test_what_is_kept_is_what_the_row_says(name):
    record = json.loads((DOCS / f"{name}.json").read_bytes())
    assert record["command"].split() == ["pilotfish", "train", *rows.command(name)]
    assert len(record["seeds"]) == len(record["cost"]) == len(record["rollouts_to_first_success"])


@pytest.mark.parametrize("path", sorted(DOCS.glob("*/verdict.json")), ids=lambda path: path.parent.name)
def test_figures_that_are_kept_name_the_command_that_makes_them_anywhere(path):
    record = json.loads(path.read_bytes())
    assert record["command"].startswith(f"pilotfish figure {record['figure']}")
    assert "--out" not in record["command"]


@pytest.mark.parametrize("task", rows.PREFERRED)
def test_what_is_preferred_is_the_best_that_was_measured(task):
    known, preferred = kept()[task], rows.PREFERRED[task]
    assert len(known) > 1

    def needed(row):  # where a seed ends without success, what it did on the way counts for nothing
        ends = zip(row["rollouts_to_first_success"], row["success"], strict=True)
        return np.median([rollouts if rollouts and success > SOLVED else np.inf for rollouts, success in ends])

    def seconds(row):  # of computing, where every seed learns the task; unknown where a row was interrupted
        known = row["cpu_seconds"] is not None and min(row["success"]) > SOLVED
        return row["cpu_seconds"] / len(row["seeds"]) if known else np.inf

    measures = {
        "quality": lambda row: row["cost_median"],
        "episodes": needed,
        "seconds": seconds,
    }
    for preference, name in preferred._asdict().items():
        values = {other: measures[preference](row) for other, row in known.items()}
        least = min(values.values())
        assert values[name] <= least + 0.02 * abs(least), (preference, values)


def test_a_preference_stands_for_settings_that_others_change():
    _, spec = learn.asked(["double-link", "--prefer", "seconds", "--iterations", "7"], "train")
    assert (spec.algorithm["name"], spec.rollouts, spec.iterations, spec.seeds) == ("lqr-gps", 50, 7, [0])
    _, spec = learn.asked(["double-link", "--prefer=quality"], "train")
    assert spec.algorithm["name"] == "ilqg-learned"
    assert not spec.measured


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lq", "--prefer", "quality"], "of lq nothing was compared.*cartpole, double-link"),
        (["cartpole", "--prefer", "speed"], "choose one of quality, episodes, seconds"),
        (["cartpole", "--prefer"], "--prefer: say what"),
        (["--prefer", "quality"], "name the task first"),
        (["cartpole", "--prefer", "quality", "--algorithm", "moto"], "give one of them"),
    ],
)
def test_preferences_that_cannot_be_followed(words, said):
    with pytest.raises(ValueError, match=said):
        learn.asked(words, "train")


def test_where_nothing_is_said_the_fewest_episodes_are_taken():
    assert experiments.default_algorithm("cartpole") == "ilqg-learned"
    assert experiments.default_algorithm("peg") == "lqr-gps"


def test_settings_say_which_algorithm_is_meant():
    _, spec = learn.asked(["double-link", "--algorithm.kl-step", "0.2", "--algorithm.reuse=both"], "train")
    assert spec.algorithm["name"] == "moto"
    assert experiments.default_algorithm("double-link", ["first_noise_of_nobody"]) == "ilqg-learned"


def test_results_keeps_every_number_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rows, "ROWS", TOY)
    monkeypatch.setattr(measure, "ROWS", TOY)
    out = tmp_path / "results"
    assert cli.run(["results", "--out", str(out)]) == 0
    record = json.loads((out / "toy-goal.json").read_bytes())
    assert record["command"] == f"pilotfish train {TOY['toy-goal']}"
    assert len(record["cost"]) == len(record["success"]) == len(record["rollouts_to_first_success"]) == 2
    assert record["rollouts_to_first_noise_free"] == [None, None]
    assert record["noise_free_episodes"] == 100
    assert record["cpu_seconds"] > 0
    table = (out / "table.md").read_text()
    assert table.count("\n") == 4
    assert f"| `{TOY['toy']}` | 2 | - | - | - |" in table
    before = (out / "toy.json").read_bytes()
    capsys.readouterr()
    assert cli.run(["results", "toy", "--out", str(out), "--json"]) == 0  # nothing is left
    assert (out / "toy.json").read_bytes() == before
    assert json.loads(capsys.readouterr().out)["toy"] == json.loads(before)
    assert "toy-goal" in (out / "table.md").read_text() or "cartpole" in (out / "table.md").read_text()


def test_results_names_its_rows(capsys):
    assert cli.run(["results", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(rows.ROWS)
    assert cli.run(["results", "cartpole-lqrgps"]) == 2
    assert "did you mean cartpole-lqr-gps" in capsys.readouterr().err


def test_a_row_that_names_a_file_is_run_where_that_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["results", "cartpole", "reacher-moto"]) == 2
    said = "reacher-moto names examples/reacher/functions.py, which is not here: run it in the root of"
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_first_iteration_that_succeeds_is_found():
    succeeds = np.array([[False, True, False], [False] * 3, [True] * 3])
    assert measure._first(succeeds, np.array([[5, 10, 15]] * 3)) == [10, None, 5]
    assert measure._needed([10, None, 5]) == "10 (5 to never)"
    assert measure._needed([10, None, None]) == "never (10 to never)"
    assert measure._needed([None]) == "-"


def test_rows_that_are_measured_again_learn_the_same():
    for name in rows.COMPARED:
        once, again = (learn.asked(rows.command(one), "results")[1] for one in (name, name + rows.AGAIN))
        assert (once.task, once.algorithm, once.rollouts, once.iterations) == (
            again.task,
            again.algorithm,
            again.rollouts,
            again.iterations,
        )
        assert (again.measured, len(again.seeds)) == (20, 10)


def row(algorithm, needed, cost, seconds):
    return {
        "command": f"pilotfish train gym:Some-v0 --algorithm {algorithm} --algorithm.kl-step 0.1 --seeds 3",
        "task": "gym:Some-v0",
        "algorithm": algorithm,
        "rollouts": 5,
        "conditions": 1,
        "seeds": [0, 1, 2],
        "rollouts_to_first_success": needed,
        "cost": cost,
        "cost_median": float(np.median(cost)),
        "cpu_seconds": seconds,
    }


def test_a_picture_for_each_task_of_which_two_rows_succeed(tmp_path):
    known = {
        "a": row("moto", [100, 200, None], [1.0, 2.0, 3.0], 30.0),
        "b": row("lqr-gps", [10, 20, 30], [2.0, 2.0, 4.0], None),
        "c": row("trpo", [None] * 3, [9.0] * 3, 3.0),
        "d": row("moto", [5] * 3, [1.0] * 3, 3.0) | {"task": "alone"},
    }
    known["e"] = row("more", [5, None, None], [1.0, 9.0, 9.0], 3.0)  # by chance, once
    assert pictures.needed(known["a"]) == (200.0, 100.0, np.inf)
    assert pictures.needed(known["e"])[0] == np.inf
    (path,) = pictures.pictures(known, tmp_path)
    assert path.name == "gym-Some-v0-tradeoff.png"
    assert pictures._label(known["a"], []) == "moto --kl-step 0.1"
    assert pictures._label(known["a"], ["--algorithm.kl-step 0.1"]) == "moto"
    assert path.stat().st_size > 10_000
    for name in "ab":  # from eight starts it is another task
        known[f"{name} of eight"] = known[name] | {"conditions": 8}
    names = [path.name for path in pictures.pictures(known, tmp_path)]
    assert names == ["gym-Some-v0-tradeoff.png", "gym-Some-v0-from-8-starts-tradeoff.png"]


def test_costs_below_nothing_are_seen(tmp_path):
    """A logarithmic axis would leave out the peg's, whose log of a distance is negative."""
    known = {"a": row("moto", [100, 200], [-1.0, -2.0], 3.0), "b": row("lqr-gps", [10, 20], [-3.0, 1.0], 3.0)}
    (path,) = pictures.pictures(known, tmp_path)
    pixels = np.asarray(Image.open(path).convert("RGB"), int)
    marked = (np.ptp(pixels, 2) > 60)[: pixels.shape[0] * 7 // 10].sum()  # above the legend
    assert marked > 500
