"""The command line, as a user meets it."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as iio
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from pilotfish import experiments
from pilotfish.algorithms import Setup
from pilotfish.algorithms.reps import REPS
from pilotfish.cli import COMMANDS, as_line, learn, run
from pilotfish.experiments.claims import Arm, Claim, PaperFigure, Variation
from pilotfish.registry import ALGORITHMS, TASKS
from pilotfish.runs import arms
from pilotfish.runs.spec import Spec
from pilotfish.runs.store import Run
from pilotfish.tasks.cartpole import CartPole

TRAY = Path(__file__).parent.parent / "examples" / "tray"
PARTS = """
  <compiler meshdir="parts"/>
  <include file="parts/stone.xml"/>
"""
STONE = '<mujoco><asset><mesh name="stone" file="stone.obj"/></asset></mujoco>'
TETRAHEDRON = "v 0 0 0\nv .1 0 0\nv 0 .1 0\nv 0 0 .1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
BESIDE = "def cost(x, u, t):\n    return aims.AIM * cost_before(x, u, t)\n"
STOPPED = ["train", "lq", "--algorithm", "ilqg", "--rollouts", "2", "--seed", "5", "--seeds", "2", "--no-film"]
SMALL = ["--algorithm", "moto", "--rollouts", "24", "--iterations", "3", "--seeds", "2"]


def call(capsys, *words):
    """Exit code, standard output and error stream of one command."""
    capsys.readouterr()
    code = run([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def rewrite(folder, change):
    """Another specification, with its checksum."""
    spec = json.loads((folder / "spec.json").read_text())
    del spec["sha256"]
    change(spec)
    Run.open(folder).save_json("spec", spec)


@pytest.fixture
def undrawn(monkeypatch):
    """Training draws no figures, which takes as long as a small training."""
    monkeypatch.setattr(learn, "draw", lambda *_: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stopped."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as undrawn:
        undrawn.setattr(learn, "draw", lambda *_: None)
        assert run([*STOPPED, "--iterations", "5", "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small run, trained by the command line."""
    path = tmp_path_factory.mktemp("runs") / "small"
    settings = ["--algorithm.kl-step", "0.05", "--task.force", "15"]
    assert run(["train", "cartpole", *SMALL, *settings, "--out", str(path)]) == 0
    return path


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(flag):
    code = (
        "import sys\nfrom pilotfish.cli import run\n"
        f"assert run([{flag!r}]) == 0\n"
        "heavy = {'jax', 'numpy', 'matplotlib', 'tyro', 'rich'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pilotfish" in done.stdout


def test_module_and_script_are_the_same_program():
    done = subprocess.run([sys.executable, "-m", "pilotfish", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("pilotfish ")


def test_help_names_every_command(capsys):
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train"])
@pytest.mark.parametrize("ask", [lambda name: (name, "--help"), lambda name: ("help", name)])
def test_every_command_has_help(capsys, command, ask):
    with pytest.raises(SystemExit) as stop:
        call(capsys, *ask(command))
    assert stop.value.code == 0
    assert f"pilotfish {command}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("train", "--help"), ("help", "train")])
def test_train_is_explained_without_a_task_and_without_jax(words):
    code = (
        f"import sys; sys.modules['jax'] = None\nfrom pilotfish.cli import run\nraise SystemExit(run({list(words)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for word in (*TASKS, *ALGORITHMS, "FILE.py:CLASS", "--algorithm", "--config", "--from", "--teacher", "--cost"):
        assert f"  {word} " in done.stdout, word
    settings = done.stdout.split("Settings")[1]
    order = [settings.index(f"--{name} ") for name in ("algorithm", "rollouts", "iterations", "seed", "out", "json")]
    assert order == sorted(order)
    own = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(learn._Train)} - {"--task"}
    assert all(f"  {flag} " in settings for flag in own)
    assert max(map(len, done.stdout.splitlines())) <= 130


def test_train_help_shows_the_tasks_own_settings(capsys):
    with pytest.raises(SystemExit):
        call(capsys, "train", "double-link", "--algorithm", "moto", "--help")
    out = capsys.readouterr().out
    for flag in ("--algorithm.kl-step", "--task.torque", "--rollouts", "--seeds", "--out"):
        assert flag in out


def test_list(capsys):
    code, out, _ = call(capsys, "list")
    assert code == 0
    assert "double-link" in out
    assert "moto" in out
    assert "moto/1c" in out
    known = json.loads(call(capsys, "list", "--json")[1])
    assert "quad-link-low" in known["tasks"]
    assert known["figures"] == {figure.id: figure.title for figure in experiments.figures().values()}


def test_list_says_what_a_task_is(capsys, tmp_path):
    code, out, _ = call(capsys, "list", "cartpole")
    assert code == 0
    for words in (
        "State `x = [position, angle, speed, angular speed]` in m, rad, m/s, rad/s",
        "60 actions, one every 0.05 s: 3 s",
        "4 numbers",
        "-20 to 20",
        "ilqg-learned, 8 iterations of 1 rollout from each condition",
        "force = 20.0",
        "Largest force on the cart, N.",
        "in the last second the weighted square of the state",
        "pilotfish.tasks.cartpole",
    ):
        assert words in out, words
    known = json.loads(call(capsys, "list", "peg", "--json")[1])
    assert (known["x"], known["u"], known["horizon"], known["conditions"], known["held_out"]) == (26, 7, 100, 9, True)
    assert len([line for line in known["entries"] if line.strip().startswith("x[")]) == 26
    assert known["action_low"] == [-100.0] * 7
    assert call(capsys, "list", "lq", "--pictures", tmp_path / "lq.png")[0] == 0
    assert iio.imread(tmp_path / "lq.png").std() > 1
    code, out, _ = call(capsys, "list", TRAY / "tray.xml")
    assert code == 0
    assert "  x[17]  x of sensor 'place' (framepos)" in out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pilotfish tr", ["train"]),
        ("pilotfish train double-link-", ["double-link-25"]),
        ("pilotfish train lq --algorithm ilqg", ["ilqg", "ilqg-learned"]),
        ("pilotfish train lq --ro", ["--rollouts"]),
        ("pilotfish figure moto/5", ["moto/5"]),
        ("pilotfish help expo", ["export"]),
        ("pilotfish export --he", ["--help"]),
        ("pilotfish evaluate run", []),
    ],
)
def test_bash_completes_commands(capsys, line, expected):
    words, (_, script, _) = line.split(), call(capsys, "completion", "bash")
    script += f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _pilotfish; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


def test_every_shell_gets_its_completion(capsys):
    for shell, words in (
        ("zsh", "bashcompinit"),
        ("fish", "-n __fish_use_subcommand -f -a train"),
    ):
        code, out, _ = call(capsys, "completion", shell)
        assert code == 0
        assert words in out


def test_train_leaves_everything(folder):
    assert {path.name for path in folder.iterdir()} == {
        "spec.json",
        "config.toml",
        "metrics.csv",
        "checkpoint-000003.safetensors",
        "policy.safetensors",
        "evaluation.json",
        "evaluation.safetensors",
        "columns.json",
        "curves.png",
        "diagnostics.png",
        "film.gif",
        "filmstrip.png",
    }
    film = iio.imread(folder / "film.gif")
    assert film.shape[0] > 50  # equal frames are merged
    assert film.std() > 5
    assert np.abs(np.diff(film.astype(float), axis=0)).max() > 50
    assert iio.imread(folder / "filmstrip.png").std() > 5
    assert iio.imread(folder / "curves.png").std() > 5
    assert Run.open(folder).metrics()["cost"].shape == (2, 3)


def test_train_prints_lines_when_piped_and_json_on_request(capsys, tmp_path):
    code, out, err = call(capsys, "train", "cartpole", *SMALL, "--no-film", "--json", "--out", tmp_path / "run")
    assert code == 0
    result = json.loads(out)
    assert result["run"] == str(tmp_path / "run")
    assert len(result["cost"]) == 2
    assert "1/3  cost" in err
    assert "KL (<= 0.1)" in err
    assert not (tmp_path / "run" / "film.gif").exists()


def test_settings_reach_the_algorithm_and_the_task(folder):
    spec = Run.open(folder).spec
    assert spec.algorithm["options"]["kl_step"] == 0.05
    assert spec.task["options"]["force"] == 15.0
    assert spec.seeds == [0, 1]
    assert Run.open(folder).metrics()["kl_max"].max() == pytest.approx(0.05, rel=1e-6)


def test_resume_goes_on_to_more_iterations(capsys, undrawn, whole, tmp_path):
    short = tmp_path / "short"
    assert call(capsys, *STOPPED, "--iterations", "3", "--out", short)[0] == 0
    assert call(capsys, "resume", short, "--iterations", "5", "--no-film")[0] == 0
    assert (short / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert Run.open(whole).spec.seeds == [5, 6]


@pytest.mark.slow
def test_a_run_teaches_and_may_then_go(capsys, folder, tmp_path):
    teacher, learner = tmp_path / "teacher", tmp_path / "learner"
    shutil.copytree(folder, teacher)
    words = ["train", "cartpole", "--algorithm", "dagger", "--algorithm.teach.steps", "50", "--no-film"]
    code, _, err = call(capsys, *words, "--teacher", teacher, "--rollouts", "3", "--iterations", "1", "--out", learner)
    assert code == 0, err
    taught, own = (
        load_file(path / name) for path, name in ((learner, "policy.safetensors"), (teacher, "local.safetensors"))
    )
    assert taught["weight_0"].shape == (40, 4)
    np.testing.assert_array_equal(
        own["k"][0],
        Run.open(folder).load_tensors("checkpoint-000003")[".best.controller.k"][
            Run.open(folder).evaluation()["best_seed"]
        ][0],
    )
    shutil.rmtree(teacher)
    code, _, err = call(capsys, "resume", learner, "--iterations", "2", "--no-film")
    assert code == 0, err
    assert f"the copy in {learner} is used" in err.replace("\n", " ")
    code, _, err = call(capsys, *words, "--out", tmp_path / "other")
    assert code == 2
    assert "name the run whose local controllers teach, --teacher RUN" in err
    assert call(capsys, *words, "--teacher")[0] == 2
    assert not (tmp_path / "other").exists()


def test_warnings_are_lines_without_colours():
    assert as_line("\x1b[33mWARN: cast to float32\x1b[0m", UserWarning, "file.py", 3) == (
        "pilotfish: WARN: cast to float32\n"
    )


def test_evaluate(capsys, folder):
    code, out, _ = call(capsys, "evaluate", folder, "--rollouts", "7", "--json")
    assert code == 0
    result = json.loads(out)
    assert len(result["cost"]) == 2
    assert result["best_seed"] == int(np.argmin(result["cost"]))
    assert (result["episodes"], result["conditions"], result["interval_over"]) == (7, 1, "seeds")
    assert result["cost_mean"] == pytest.approx(np.mean(result["cost"]))
    low, high = result["cost_interval"]
    assert low < result["cost_interval_about"] < high
    low, high = result["success_interval"]
    assert -1e-9 <= low - 1e-9 <= result["success_rate"] <= high <= 1
    assert not any(isinstance(value, str) for name, value in result.items() if name != "interval_over")
    assert "95% interval" in call(capsys, "evaluate", folder)[1]


def test_render(capsys, folder, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    code, out, _ = call(capsys, "render", folder, "-o", tmp_path / "film.mp4", "--seed", "1")
    assert code == 0
    assert out.strip() == str(tmp_path / "film.mp4")
    assert iio.imread(tmp_path / "film.mp4", plugin="FFMPEG").shape[0] >= 60
    assert call(capsys, "render", folder, "-o", tmp_path / "strip.png")[0] == 0
    assert iio.imread(tmp_path / "strip.png").ndim == 3


def test_report_is_one_self_contained_page(capsys, folder, tmp_path):
    code, _, _ = call(capsys, "report", folder, "-o", tmp_path / "page.html")
    assert code == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("<img src='data:image/") == 2  # film and filmstrip
    assert "http" not in page.split("</style>")[1].split("<script")[0]
    assert "kl_step" in page
    assert "mean cost of an episode" in page
    assert call(capsys, "report", folder, folder, "-o", tmp_path / "both.html")[0] == 0
    assert (tmp_path / "both.html").read_text() == page  # one that is named twice is one


def test_export_acts_as_the_policy(capsys, folder, tmp_path):
    code, _, _ = call(capsys, "export", folder, "-o", tmp_path / "policy.safetensors", "--seed", "1")
    assert code == 0
    policy = load_file(tmp_path / "policy.safetensors")
    assert policy["K"].shape == (1, 60, 1, 4)
    states = Run.open(folder).load_tensors("checkpoint-000003")
    np.testing.assert_array_equal(policy["k"], states[".best.controller.k"][1])
    np.testing.assert_array_equal(policy["action_high"], [15.0])
    saved = Run.open(folder).load_tensors("evaluation")
    x, u = saved["x"][1, 0, 0], saved["u"][1, 0, 0]
    acted = np.einsum("tij,tj->ti", policy["K"][0], x[:-1]) + policy["k"][0]
    np.testing.assert_allclose(acted, u, rtol=1e-9, atol=1e-9)


def test_export_as_onnx_acts_as_the_policy(capsys, folder, tmp_path):
    import onnxruntime

    path = tmp_path / "policy.onnx"
    assert call(capsys, "export", folder, "-o", path, "--seed", "1")[0] == 0
    saved = Run.open(folder).load_tensors("evaluation")
    x, u = saved["x"][1, 0, 0, :-1], saved["u"][1, 0, 0]
    inputs = {"x": x, "t": np.arange(len(x)), "condition": np.zeros(len(x), int)}
    (acted,) = onnxruntime.InferenceSession(path).run(["u"], inputs)
    np.testing.assert_allclose(acted, u, rtol=1e-9, atol=1e-9)
    code, _, err = call(capsys, "export", folder, "--format", "onnx", "-o", tmp_path / "policy.safetensors")
    assert code == 2
    assert "choose a name that ends in .onnx" in err
    code, _, err = call(capsys, "export", folder, "-o", tmp_path / "policy.pt")
    assert code == 2
    assert "choose a name that ends in .safetensors, .onnx" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["trian", "double-link"], 2, "unknown command 'trian': did you mean train?"),
        (["TRAIN", "double-link"], 2, "unknown command 'TRAIN': did you mean train?"),
        (["help", "Evalute"], 2, "unknown command 'Evalute': did you mean evaluate?"),
        (["list", "CartPole"], 2, "unknown task 'CartPole': did you mean cartpole?"),
        (["figure", "MOTO/1C"], 2, "unknown figure 'MOTO/1C': did you mean moto/1c"),
        (["train", "lq", "--algorithm", "MOTO"], 2, "unknown algorithm 'MOTO': did you mean moto"),
        (["train"], 2, "usage: pilotfish train TASK"),
        (["train", "duoble-link"], 2, "unknown task 'duoble-link': did you mean double-link"),
        (["train", "helicopter"], 2, "unknown task 'helicopter': choose one of cartpole"),
        (["train", "lq", "--algorithm", "mto"], 2, "unknown algorithm 'mto': did you mean moto or"),
        (["train", "lq", "--iterations", "0"], 2, "--iterations 0: must be 1 or more"),
        (["train", "lq", "--seeds", "0"], 2, "--seeds 0: must be 1 or more"),
        (["train", "lq", "--rollouts", "0"], 2, "rollouts=0"),
        (
            ["train", "double-link", "--algorithm", "moto", "--rollouts", "20"],
            2,
            "Raise rollouts to 28 or more, or set reuse='both'",
        ),
        (["resume", "nowhere"], 1, "nowhere holds no run"),
        (["evaluate", "nowhere"], 1, "nowhere holds no run"),
        (["render", "nowhere"], 1, "nowhere holds no run"),
        (["report", "nowhere"], 1, "nowhere holds no run"),
        (["export", "nowhere"], 1, "nowhere holds no run"),
        (["train", "nowhere.xml"], 2, "nowhere.xml: there is no such file"),
        (["train", str(TRAY / "tray.xml")], 2, "  x[17]  x of sensor 'place' (framepos)\n"),
        (["train", str(TRAY / "tray.xml"), "--cost", "nowhere.py"], 2, "nowhere.py: there is no such file"),
        (["train", str(TRAY / "tray.xml"), "--cost=nowhere.py"], 2, "nowhere.py: there is no such file"),
        (["figure", "moto/1x"], 2, "unknown figure 'moto/1x': did you mean moto/1"),
        (["figure", "moto/1c", "--seeds", "0"], 2, "--seeds 0: must be 1 or more"),
    ],
)
def test_mistakes_are_told_in_the_users_words(capsys, monkeypatch, tmp_path, words, code, message):
    monkeypatch.chdir(tmp_path)
    found, _, err = call(capsys, *words)
    assert found == code
    assert message in err
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (["--algorithm.kl-step", "0"], "kl_step=0.0: the bound on the KL must be positive"),
        (["--algorithm.reuse", "all"], "all"),
        (["--task.torque", "-3"], "torque=-3.0"),
        (["--algorithm.klstep", "0.2"], "klstep"),
    ],
)
def test_bad_settings_exit_with_2_and_name_the_setting(capsys, flag, message, tmp_path):
    try:
        code = run(["train", "double-link", "--algorithm", "moto", *flag, "--out", str(tmp_path / "run")])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    assert code == 2
    assert message in said.out + said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "run").exists()


def test_a_folder_in_use_is_said_before_anything_is_computed(capsys, folder):
    began = (folder / "spec.json").stat().st_mtime
    time.sleep(0.01)
    code, _, err = call(capsys, "train", "cartpole", *SMALL, "--out", folder)
    assert code == 1
    assert f"{folder} is in use: continue it by `pilotfish resume {folder}`" in err
    assert (folder / "spec.json").stat().st_mtime == began


def test_a_film_of_an_unknown_kind_is_refused(capsys, folder, tmp_path):
    code, _, err = call(capsys, "render", folder, "-o", tmp_path / "film.avi")
    assert code == 2
    assert "ends in .gif, .mp4, .png" in err


def test_a_seed_that_was_not_run_is_refused(capsys, folder):
    code, _, err = call(capsys, "export", folder, "--seed", "9")
    assert code == 2
    assert "this run has the seeds 0, 1" in err


@pytest.mark.slow
def test_a_cost_that_is_nan_ends_with_1_and_keeps_the_run(capsys, monkeypatch, undrawn, tmp_path):
    monkeypatch.setattr(CartPole, "cost", lambda self, x, u, t: jnp.where(t == 9, jnp.nan, (u**2).sum()))
    code, out, err = call(capsys, "train", "cartpole", *SMALL, "--iterations", "9", "--out", tmp_path / "run")
    assert code == 1
    assert "update refused, iteration 0: 100% of the rollouts are not finite, their costs alone first at step 9" in out
    assert f"What was learned before is in {tmp_path / 'run'}" in err
    assert Run.open(tmp_path / "run").metrics()["ok"].shape == (2, 3)


@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_a_checkpoint_that_cannot_be_used_ends_with_1(capsys, folder, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    if damage == "truncated":
        for path in copy.glob("checkpoint-*"):
            path.write_bytes(path.read_bytes()[:500])
    else:
        rewrite(copy, lambda spec: spec["task"]["options"].update(force=21.0))
    for command in ("resume", "evaluate", "export"):
        code, _, err = call(capsys, command, copy)
        assert code == 1
        assert f"no checkpoint of {copy} can be used" in err


def test_a_run_of_another_version_is_not_resumed(capsys, folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    rewrite(copy, lambda spec: spec.update(version="0.0.7"))
    code, _, err = call(capsys, "resume", copy)
    assert code == 1
    assert "Install pilotfish==0.0.7" in err


@pytest.fixture(scope="module")
def model_run(tmp_path_factory):
    """A small run of a model and a cost, which lie in the folder `tray` beside `runs`, with parts of each."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(TRAY, home / "tray")
    mjcf, cost = home / "tray" / "tray.xml", home / "tray" / "cost.py"
    mjcf.write_text(mjcf.read_text().replace('<mujoco model="tray">', f"<mujoco>{PARTS}", 1))
    cost.write_text("import aims\n" + cost.read_text() + "\n\ncost_before = cost\n\n" + BESIDE)
    (home / "tray" / "parts").mkdir()
    (home / "tray" / "parts" / "stone.obj").write_text(TETRAHEDRON)
    (home / "tray" / "parts" / "stone.xml").write_text(STONE)
    (home / "tray" / "aims.py").write_text("AIM = 1.0\n")
    words = ["train", "tray/tray.xml", "--cost", "tray/cost.py", "--algorithm", "lqr-gps", "--task.horizon", "2"]
    with pytest.MonkeyPatch.context() as here:
        here.chdir(home)
        assert run([*words, "--rollouts", "24", "--iterations", "1", "--no-film"]) == 0
    return home / "runs" / "tray-lqr-gps-1"


def test_a_run_of_a_model_opens_from_anywhere(capsys, monkeypatch, tmp_path, model_run):
    monkeypatch.chdir(tmp_path)
    assert Run.open(model_run).metrics()["ok"].all()
    then = json.loads((model_run / "evaluation.json").read_text())
    code, out, _ = call(capsys, "evaluate", model_run, "--json")
    assert code == 0
    assert json.loads(out)["cost"] == then["cost"]


@pytest.mark.parametrize(("name", "what"), [("cost.py", "has changed"), ("tray.xml", "is not there any more")])
def test_a_run_of_a_model_goes_on_with_its_own_copies(capsys, model_run, name, what):
    """Whatever becomes of the files it was begun with; and is refused where its copies are damaged too."""
    path = model_run.parent.parent / "tray" / name
    before = path.read_bytes()
    then = json.loads((model_run / "evaluation.json").read_text())
    path.write_bytes(before + b" ") if what == "has changed" else path.unlink()
    code, out, err = call(capsys, "evaluate", model_run, "--json")
    assert code == 0
    assert f"{path} {what} since this run began: the copy in {model_run} is used." in err
    assert json.loads(out)["cost"] == then["cost"]
    copy = model_run / "files" / name
    copy.write_bytes(before + b"\n")
    for command in ("evaluate", "resume", "render", "export"):
        code, _, err = call(capsys, command, model_run)
        assert code == 1
        assert f"{path} {what} since this run began" in err
        assert "Put the file back as it was, or train anew" in err
    for place in (path, copy):
        place.write_bytes(before)


def test_a_run_is_moved_and_what_it_was_made_of_is_gone(capsys, undrawn, model_run, tmp_path):
    """Its copies are all that it needs; what was added to them is not run."""
    shutil.copytree(model_run, tmp_path / "moved")
    tray, then = model_run.parent.parent / "tray", json.loads((model_run / "evaluation.json").read_text())
    os.rename(tray, tmp_path / "gone")
    try:
        code, out, err = call(capsys, "evaluate", tmp_path / "moved", "--json")
        assert code == 0, err
        assert json.loads(out)["cost"] == then["cost"]
        assert call(capsys, "render", tmp_path / "moved", "-o", tmp_path / "film.png")[0] == 0
        assert call(capsys, "resume", tmp_path / "moved", "--iterations", "2", "--no-film")[0] == 0
        assert Run.open(tmp_path / "moved").done() == 2
        planted = tmp_path / "moved" / "files" / "aims" / "__init__.py"
        planted.parent.mkdir()
        planted.write_text("raise SystemExit\n")
        code, _, err = call(capsys, "evaluate", tmp_path / "moved")
        assert code == 1
        assert err == f"pilotfish: {planted} is no file of this run, and Python might import it: remove it.\n"
    finally:
        os.rename(tmp_path / "gone", tray)


def test_what_is_damaged_is_told_in_one_line_and_done_without(capsys, folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path = copy / "metrics.csv"
    path.write_bytes(path.read_bytes().replace(b"\r\n1,0,", b"\r\n7,0,"))
    code, _, err = call(capsys, "report", copy)
    assert code == 0
    assert err.count("\n") == 1
    assert f"{path} is damaged: line 4" in err
    page = copy / "evaluation.json"
    page.write_bytes(page.read_bytes().replace(b"seed", b"need"))
    code, _, err = call(capsys, "render", copy)
    assert code == 1
    assert f"Evaluate anew: pilotfish evaluate {copy}" in err


def test_a_run_that_has_done_more_is_not_cut_short(capsys, folder):
    code, _, err = call(capsys, "resume", folder, "--iterations", "2")
    assert code == 2
    assert f"iterations=2: {folder} has done 3 already" in err
    assert Run.open(folder).spec.iterations == 3


def test_an_evaluation_of_more_episodes_stays(capsys, folder):
    assert call(capsys, "evaluate", folder)[0] == 0
    before = (folder / "evaluation.json").read_bytes(), (folder / "evaluation.safetensors").read_bytes()
    code, out, err = call(capsys, "evaluate", folder, "--rollouts", "1")
    assert code == 0
    assert "1 of each of 2 seed(s)" in out
    assert f"not kept: {folder} has an evaluation of more episodes" in err
    assert before == ((folder / "evaluation.json").read_bytes(), (folder / "evaluation.safetensors").read_bytes())


def test_export_takes_the_evaluation_that_is_there_and_spares_the_run(capsys, monkeypatch, folder, tmp_path):
    assert call(capsys, "evaluate", folder)[0] == 0
    before = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(Run, "evaluate", lambda *_: pytest.fail("evaluated anew"))
    assert call(capsys, "export", folder, "-o", tmp_path / "new" / "folder" / "policy.safetensors")[0] == 0
    assert (tmp_path / "new" / "folder" / "policy.safetensors").exists()
    for name in ("evaluation.safetensors", "checkpoint-000003.safetensors"):
        code, _, err = call(capsys, "export", folder, "-o", folder / name)
        assert code == 2
        assert f"this is the run's own {name}" in err
    assert call(capsys, "report", folder, "-o", folder / "spec.json")[0] == 2
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


def shell(line):
    here = f"{sys.executable} -m pilotfish"
    words = ["bash", "-c", line.replace("pilotfish", here) + "; exit ${PIPESTATUS[0]}"]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=100)


def test_a_closed_pipe_does_not_stop_training(tmp_path):
    words = f"lq --algorithm reps --rollouts 20 --iterations 4 --no-film --out {tmp_path / 'run'}"
    done = shell(f"pilotfish train {words} | true")
    assert done.returncode == 0, done.stderr
    assert "the output cannot be written any more (Broken pipe): learning goes on" in done.stderr
    assert "Traceback" not in done.stderr
    assert Run.open(tmp_path / "run").metrics()["cost"].shape == (1, 4)
    assert (tmp_path / "run" / "evaluation.json").exists()


def test_other_commands_end_quietly_with_the_pipe_and_aloud_with_the_disk():
    done = shell("pilotfish list | true")
    assert (done.returncode, done.stderr) == (141, "")
    done = shell("pilotfish list > /dev/full")
    assert done.returncode == 1
    assert "the output: No space left on device." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_stops_training_in_words_and_the_run_goes_on(capsys, monkeypatch, undrawn, whole, tmp_path):
    replace, writes = os.replace, []

    def full(source, target):
        writes.append(Path(target).name)
        if "checkpoint-000003" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    words = [*STOPPED, "--iterations", "5", "--checkpoint-every", "1", "--out", tmp_path / "run"]
    with monkeypatch.context() as disk:
        disk.setattr(os, "replace", full)
        code, _, err = call(capsys, *words)
    assert code == 1
    assert "checkpoint-000003.safetensors cannot be written: No space left on device." in err
    assert f"Go on with: pilotfish resume {tmp_path / 'run'}" in err
    assert not list((tmp_path / "run").glob(".*")), "neither lock nor half a file is left"
    assert call(capsys, "resume", tmp_path / "run", "--no-film")[0] == 0
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_what_cannot_be_written_is_said_in_a_line(capsys, tmp_path, folder):
    (tmp_path / "file").write_text("")
    for words in (
        ["train", "lq", "--rollouts", "60", "--out", tmp_path / "file" / "run"],
        ["export", folder, "-o", tmp_path / "file" / "policy.safetensors"],
        ["render", folder, "-o", tmp_path / "file" / "film.gif"],
        ["report", folder, "-o", tmp_path / "file" / "page.html"],
        ["list", "--pictures", tmp_path / "file" / "tasks.png"],
    ):
        code, _, err = call(capsys, *words)
        assert code == 1, words
        assert err.startswith(f"pilotfish: {tmp_path / 'file'}")
        assert err.count("\n") == 1


def test_folders_are_named_without_colons_and_numbered(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert learn._word("gym:my_module:ALE/Pong-v5") == "gym-my_module-ALE-Pong-v5"
    assert learn._word("models/tray.xml") == "tray"
    spec = Spec({"name": "lq"}, {"name": "moto"}, 3, 2, [5], 1)
    assert [learn._create_numbered("lq-moto", spec).path.name for _ in range(3)] == [f"lq-moto-{i}" for i in (1, 2, 3)]


@pytest.fixture
def toy(monkeypatch):
    """The only figure there is: one arm, which takes a second."""
    arm = Arm("steps", "lq", "reps", Setup(REPS(), rollouts=30, iterations=9))
    claim = Claim(
        "it learns",
        "log10 cost: first minus last",
        lambda study: -np.diff(np.log10(study["steps"]["cost"][:, [0, -1]]))[:, 0],
    )
    variation = Variation("larger steps", lambda arm: arm.but(kl_step=0.2))
    figure = PaperFigure("toy/1a", "a toy", "It learns.", (arm,), (claim,), {}, variations=(variation,))
    monkeypatch.setattr(experiments, "figures", lambda: {figure.id: figure})
    return figure


PICTURES = ("figure.png", "figure.pdf", "figure.svg")


def test_figure_is_run_drawn_and_judged(capsys, monkeypatch, tmp_path, toy):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, "figure", "toy/1a", "--quick", "--sensitivity")
    assert code == 0
    folder = tmp_path / "figures" / "toy-1a-quick"
    assert {path.name for path in folder.iterdir()} == {"steps", "larger-steps", "verdict.json", *PICTURES}
    assert iio.imread(folder / "figure.png").std() > 5
    assert iio.imread(folder / "larger-steps" / "figure.png").std() > 5
    assert "1/2  steps: 5 iterations of 30 rollouts, 2 seed(s)" in out
    assert "2/2  steps (larger steps)" in out
    assert '1. holds: "it learns"' in out
    assert "log10 cost: first minus last: " in out
    assert "sensitivity" in out
    assert "A quick run is a smoke test: its verdicts are no evidence." in out
    spec = Run.open(folder / "steps").spec
    code, out, err = call(capsys, "figure", "toy/1a", "--quick", "--json")
    assert code == 0
    assert json.loads(out) == json.loads((folder / "verdict.json").read_text())
    assert "5 iterations done" in err
    assert "no evidence" in err
    assert Run.open(folder / "steps").spec == spec
    code, _, err = call(capsys, "figure", "toy/1a", "--out", folder)
    assert code == 1
    assert "was made with other settings: iterations is 5 there, and 9 is asked for. Choose another --out." in err


def test_ctrl_c_in_a_figure_says_how_to_go_on(capsys, monkeypatch, tmp_path, toy):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(arms, "train", interrupt)
    code, out, _ = call(capsys, "figure", "toy/1a", "--seeds", "3", "--out", tmp_path / "stopped")
    assert code == 130
    assert f"The same command goes on: pilotfish figure toy/1a --seeds 3 --out {tmp_path / 'stopped'}" in out
    assert not (tmp_path / "stopped" / "verdict.json").exists()
