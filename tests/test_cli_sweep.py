"""The command that compares settings, as a user meets it."""

import json
import subprocess
import sys
import tomllib

import pytest

from pilotfish.cli import learn, run
from pilotfish.cli import sweep as command
from pilotfish.runs.store import Run

LQ = ["sweep", "lq", "--algorithm", "reps", "--algorithm.skill.features", "3", "--rollouts", "10", "--iterations", "3"]
TWO = [*LQ, "--seeds", "2", "--algorithm.kl-step", "0.2,0.9"]


def call(capsys, *words):
    """Exit code, standard output and error stream of one command."""
    capsys.readouterr()
    try:
        code = run([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweeps") / "two"
    assert run([*TWO, "--out", str(path)]) == 0
    return path


def test_a_sweep_says_what_its_arms_came_to_and_draws_it(capsys, folder):
    code, out, _ = call(capsys, *TWO, "--out", folder)
    assert code == 0
    rows = [line.split() for line in out.splitlines() if line.startswith("0.")]
    record = json.loads((folder / "sweep.json").read_text())
    assert [row[0] for row in rows] == ["0.2", "0.9"]
    for row, arm in zip(rows, record["arms"].values(), strict=True):
        assert row[1] == f"{arm['cost_median']:.4g}"
        assert row[-1] == "3"
    assert f"best: {record['best']}; pilotfish train --config {folder / 'best.toml'}" in out
    assert {path.name for path in folder.iterdir()} == {
        *("kl_step=0.2", "kl_step=0.9", "best.toml", "sweep.json", "sweep.png", "curves.png")
    }
    costs = [arm["cost_median"] for arm in record["arms"].values()]
    assert record["best"] == ("kl_step=0.2" if costs[0] < costs[1] else "kl_step=0.9")


def test_json_is_what_the_folder_holds(capsys, folder):
    code, out, err = call(capsys, *TWO, "--out", folder, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((folder / "sweep.json").read_text())
    assert "arms -> " in err


def test_the_best_settings_train_the_best_arm(capsys, monkeypatch, folder, tmp_path):
    monkeypatch.setattr(learn, "draw", lambda *_: None)
    best = json.loads((folder / "sweep.json").read_text())["best"]
    assert tomllib.loads((folder / "best.toml").read_text())["seeds"] == [0, 1]
    code, _, _ = call(capsys, "train", "--config", folder / "best.toml", "--iterations", "1", "--out", tmp_path / "run")
    assert code == 0
    assert Run.open(tmp_path / "run").spec.algorithm == Run.open(folder / best).spec.algorithm


@pytest.mark.parametrize("words", [["evaluate", "--rollouts", "3"], ["report"], ["export"], ["resume", "--no-film"]])
def test_an_arm_is_a_run(capsys, monkeypatch, folder, words):
    monkeypatch.setattr(learn, "draw", lambda *_: None)
    assert call(capsys, words[0], folder / "kl_step=0.2", *words[1:])[0] == 0


def test_several_settings_are_a_grid_and_equals_signs_are_understood(capsys, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(command.engine, "perform", lambda arms, *_: asked.extend(arms) or [])
    code, _, err = call(
        capsys, *LQ[:-4], "--rollouts=5,10", "--algorithm.kl_step=.1,1", "--task.action-weight", "0.1,0.2",
        "--out", tmp_path,
    )  # fmt: skip
    assert (code, err.split(":")[1].strip()) == (1, "no choice of settings could be tried.")
    assert [arm.values for arm in asked] == [
        {"rollouts": rollouts, "kl_step": step, "task.action_weight": weight}
        for rollouts in (5, 10)
        for step in (0.1, 1.0)
        for weight in (0.1, 0.2)
    ]
    first = asked[0].spec
    assert (first.rollouts, first.algorithm["options"]["kl_step"], first.task["options"]["action_weight"]) == (
        5,
        0.1,
        0.1,
    )
    assert asked[0].path == tmp_path / "rollouts=5,kl_step=.1,task.action_weight=0.1"


def test_folders_of_arms_are_names_on_every_system():
    assert command._folder({"--algorithm.kl-step": "0.1", "--rollouts": "5"}) == "kl_step=0.1,rollouts=5"
    files = [command._folder({"--task.cost": path}) for path in ("a/b.py", "a:b.py")]
    assert [name.startswith("task.cost=a-b.py-") for name in files] == [True, True]
    assert len({*files}) == 2


def test_interrupted_it_says_how_to_go_on(capsys, monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.engine, "perform", interrupt)
    code, out, _ = call(capsys, *TWO, "--out", tmp_path / "with space")
    assert code == 130
    assert f"The same command goes on: pilotfish {' '.join(TWO)} --out '{tmp_path / 'with space'}'" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*LQ], "sweep: no setting varies. Give one several values, as in --algorithm.kl-step 0.05,0.1,0.2."),
        ([*LQ, "--search", "3"], "no setting varies. Give one several values, as in --algorithm.kl-step 0.01:1.0:log"),
        ([*LQ, "--algorithm.kl-step", "0.1,-1"], "that was the arm kl_step=-1."),
        ([*LQ, "--algorithm.kl-step", "0.1,-1"], "kl_step=-1.0: the bound on the KL must be positive"),
        ([*LQ, "--algorithm.kl-stop", "0.1,1"], "--algorithm.kl-step"),
        ([*LQ, "--algorithm.kl-step", "0.1,"], "--algorithm.kl-step 0.1,: a value is missing before or after a comma"),
        ([*LQ, "--algorithm.kl-step", "0.1,0.1"], "a value is there twice"),
        ([*LQ, "--algorithm.kl-step", "0.1,.1"], "kl_step=0.1 and kl_step=.1 are the same: leave one of them out"),
        ([*LQ, "--algorithm.kl-step", "0.1:1"], "0.1:1: a range is searched; say how many trials, as in --search 20"),
        ([*LQ, "--algorithm.kl-step", "0.1:1", "--search", "0"], "--search 0: must be 1 or more"),
        ([*LQ, "--algorithm.kl-step", "1:0.1", "--search", "3"], "1:0.1: give LOW:HIGH"),
        ([*LQ, "--algorithm.prior", "-1:1", "--search", "3"], "prior=-1.0"),
        (["sweep", "lqq", "--algorithm.kl-step", "0.1,1"], "kl_step=0.1: unknown task 'lqq': did you mean lq"),
        (["sweep", "--algorithm.kl-step", "0.1,1"], "usage: pilotfish sweep TASK"),
        ([*LQ, "--rollouts", "5,0"], "rollouts=0"),
    ],
)
def test_what_is_wrong_is_said_in_the_users_words(capsys, tmp_path, words, said):
    code, _, err = call(capsys, *words, "--out", tmp_path / "sweep")
    assert code == 2
    assert said in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_a_search_tries_so_many_and_goes_on(capsys, tmp_path):
    words = [*LQ, "--algorithm.kl-step", "0.1:1.0:log", "--out", tmp_path / "found"]
    assert call(capsys, *words, "--search", "1")[0] == 0
    before = (tmp_path / "found" / "trial-000" / "metrics.csv").stat().st_mtime_ns
    code, out, _ = call(capsys, *words, "--search", "2", "--json")
    assert code == 0
    arms = json.loads(out)["arms"]
    assert [arm["run"] for arm in arms.values()] == ["trial-000", "trial-001"]
    assert all(0.1 <= arm["settings"]["kl_step"] <= 1.0 for arm in arms.values())
    assert (tmp_path / "found" / "trial-000" / "metrics.csv").stat().st_mtime_ns == before
    code, _, err = call(capsys, *words[:-2], "--iterations", "4", "--out", tmp_path / "found", "--search", "2")
    assert code == 1
    assert "was made with other settings: iterations is 3 there, and 4 is asked for" in err


def test_a_search_needs_optuna(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("pilotfish.extras.find_spec", lambda name: None)
    code, _, err = call(capsys, *LQ, "--algorithm.kl-step", "0.1:1", "--search", "3", "--out", tmp_path / "sweep")
    assert code == 2
    assert "--search needs the package optuna: pip install 'pilotfish[optuna]'." in err


@pytest.mark.parametrize("name", ["sweep", "resume", "evaluate"])
def test_programs_are_kept_which_can_begin_only_before_jax(name):
    code = (
        "import sys\nfrom pilotfish import cli\n"
        "cli.programs.keep = lambda: sys.exit(int('jax' in sys.modules))\n"
        f"cli.run([{name!r}, 'nowhere'])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
