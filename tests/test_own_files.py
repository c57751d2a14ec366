"""Tasks and algorithms in files of the user's own, settings in a file, and runs that begin where another one ended."""

import dataclasses
import json
import os
import shutil
import sys

import jax
import numpy as np
import pytest

from pilotfish import algorithms, registry, tasks
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.moto import MOTO
from pilotfish.algorithms.reps import REPS
from pilotfish.cli import learn, run
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.policies.files import load as load_policy
from pilotfish.policies.movement_primitive import MovementPrimitive
from pilotfish.policies.network import Network
from pilotfish.runs import RunError, settings
from pilotfish.runs.spec import Spec, described, overlaid
from pilotfish.runs.store import Run
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.tasks.multi_link import MultiLink

TASK = '''
import sys

import equinox as eqx
import jax.numpy as jnp

import aims
from pilotfish.tasks import Task
from pilotfish.types import Gaussian, Problem
from pilotfish.worlds.jax import JaxWorld

sys.imported_by_a_run = True


class Lake(Task):
    """Row to a pier."""

    pier: float = aims.PIER
    """Where it is, m."""

    def problem(self):
        return Problem(
            horizon=6,
            dt=0.2,
            conditions=Gaussian(jnp.zeros((1, 2)), 1e-4 * jnp.eye(2)[None]),
            initial_std=[1.0],
            dynamics=lambda x, u: jnp.stack([x[0] + 0.2 * x[1], 0.8 * x[1] + 0.2 * u[0]]),
            cost=lambda x, u, t: (x[0] - self.pier) ** 2 + 0.01 * u[0] ** 2,
        )

    def world(self):
        return JaxWorld(self.problem())


class Needy(Lake):
    depth: float = eqx.field(kw_only=True)


class Other:
    pass
'''
ALGORITHM = '''
"""The least that an algorithm can be: it nudges the first controllers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from pilotfish.algorithms import Algorithm
from pilotfish.policies import Policy
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy


class Info(NamedTuple):
    ok: Array


class Nudge(Algorithm):
    """Push a little more."""

    by: float = 0.5
    """How much more in each iteration."""

    def init(self, problem, episodes, key):
        return LinearGaussianPolicy(problem.first_controller)

    def explore(self, state):
        return state

    def exploit(self, state):
        return state.noise_free()

    def update(self, problem, state, rollouts, key):
        p = state.controller
        return LinearGaussianPolicy(type(p)(p.K, p.k + self.by, p.chol)), Info(rollouts.valid.any(1))
'''
SMALL = ["--rollouts", "3", "--iterations", "2", "--measured", "0", "--no-film"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with both files, in which the user is."""
    for name, text in (("mytask.py", TASK), ("myalg.py", ALGORITHM), ("aims.py", "PIER = 1.0\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(learn, "draw", lambda *_: None)  # which is not what is tested here
    yield tmp_path
    vars(sys).pop("imported_by_a_run", None)


def call(capsys, *words):
    capsys.readouterr()
    code = run([str(word) for word in words])
    return code, *capsys.readouterr()


def test_what_is_in_files_is_learned_kept_and_opened_from_anywhere(home, capsys, monkeypatch):
    code, _, err = call(
        capsys, "train", "mytask.py:Lake", "--algorithm", "myalg.py:Nudge", "--task.pier", "0.5", *SMALL
    )
    assert code == 0, err
    path = home / "runs" / "Lake-Nudge-1"
    spec = Run.open(path).spec
    assert (spec.task["name"], spec.task["options"]["pier"]) == ("mytask.py:Lake", 0.5)
    assert spec.algorithm["name"] == "myalg.py:Nudge"
    assert {os.path.basename(name) for name in spec.files} == {"mytask.py", "aims.py", "myalg.py"}
    assert {file.name for file in (path / "files").iterdir()} == {"mytask.py", "aims.py", "myalg.py"}
    before = json.loads((path / "evaluation.json").read_text())["cost"]
    monkeypatch.chdir("/")
    (home / "aims.py").write_text("PIER = 9.0\n")
    (home / "myalg.py").unlink()
    code, out, err = call(capsys, "evaluate", path, "--json")
    assert code == 0, err
    assert json.loads(out)["cost"] == before
    assert f"the copy in {path} is used" in err
    assert call(capsys, "resume", path, "--iterations", "3", "--no-film")[0] == 0
    assert Run.open(path).done() == 3
    (path / "files" / "myalg.py").write_text(ALGORITHM + "\n")
    code, _, err = call(capsys, "evaluate", path)
    assert code == 1
    assert "it would no longer be the same run" in err


def test_a_strangers_file_is_not_run_until_it_is_trusted(home, capsys, monkeypatch):
    assert call(capsys, "train", "mytask.py:Lake", "--algorithm", "myalg.py:Nudge", *SMALL, "--out", "run")[0] == 0
    vars(sys).pop("imported_by_a_run")
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "anothers"))
    shutil.copy(home / "mytask.py", home / "mytask.py.txt")
    (home / "mytask.py").write_text(TASK + "\n")  # so that the copy in the run's folder would be run anew
    for command in ("evaluate", "resume", "export"):
        code, _, err = call(capsys, command, "run")
        assert code == 1
        assert "was not made here, and to open it runs code that it names: mytask.py:Lake, myalg.py:Nudge" in err
        assert "aims.py" in err
    assert call(capsys, "report", "run")[0] == 0
    assert not hasattr(sys, "imported_by_a_run")
    assert call(capsys, "evaluate", "run", "--trust")[0] == 0
    assert hasattr(sys, "imported_by_a_run")
    assert call(capsys, "evaluate", "run")[0] == 0


def test_a_file_under_a_name_of_ours_is_not_taken_for_ours(home, capsys):
    """Nor is a file that the specification does not vouch for."""
    assert call(capsys, "train", "mytask.py:Lake", "--algorithm", "myalg.py:Nudge", *SMALL, "--out", "run")[0] == 0
    opened = Run.open("run")
    for change, words in (
        ({"name": "lq"}, "task.name must be that of a class in"),
        ({"name": "other.py:Lake"}, "task.name must be that of a class in"),
        ({"file": str(home / "evil.py")}, "task.files must hold a checksum of the file"),
        ({"file": 3}, "task must be a name with options"),
    ):
        opened.save_json("spec", dataclasses.asdict(opened.spec) | {"task": opened.spec.task | change})
        with pytest.raises(RunError, match=words):
            Run.open("run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.py:Lake"], "nowhere.py: there is no such file."),
        (["mytask.py:Lakes"], "mytask.py defines no class Lakes: did you mean Lake?"),
        (["mytask.py:Other"], "mytask.py:Other is no task: derive it from pilotfish.Task"),
        (["mytask.py:Needy"], "mytask.py:Needy cannot be made without arguments: TypeError"),
        (["lq", "--algorithm", "mytask.py:Lake"], "mytask.py:Lake is no algorithm: derive it from pilotfish.Algorithm"),
        (["broken.py:Lake"], "broken.py, line 2: ZeroDivisionError: division by zero"),
        (["moto"], "moto is an algorithm: pilotfish train TASK --algorithm moto."),
    ],
)
def test_what_a_file_lacks_is_said_in_a_line(home, capsys, words, message):
    (home / "broken.py").write_text("one = 1\none / 0\n")
    code, _, err = call(capsys, "train", *words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not (home / "runs").exists()


def test_a_class_in_a_file_is_one_class_until_the_file_changes(home):
    one, two = (tasks.find("mytask.py:Lake").load() for _ in range(2))
    assert one is two
    assert one.__name__ == "Lake"
    assert registry.of_file("mytask.py") is None
    assert registry.of_file("gym:Reacher-v5") is None
    assert algorithms.find("myalg.py:Nudge").about() == f"Push a little more. ({home / 'myalg.py'})"
    (home / "aims.py").write_text("PIER = 2.0\n")
    assert tasks.find("mytask.py:Lake").make().pier == 2.0


# -- settings in a file


def spec_of(task, algorithm, **more):
    counts = {"rollouts": 30, "iterations": 4, "seeds": [3, 4], "checkpoint_every": 7, "measured": 1} | more
    return Spec.of(task, algorithm, **counts)


SPECS = {
    "parts": lambda: spec_of(("lq", LinearQuadratic(0.2)), ("lqr-gps", LQRGPS(dynamics=FittedDynamics(prior="gmm")))),
    "nothing and infinity": lambda: spec_of(
        ("quad-link", MultiLink(links=4, joint_limit=None)), ("moto", MOTO(entropy_drop=float("inf"))), seeds=[7, 2]
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_runs_settings_make_the_same_run(name, tmp_path):
    spec = SPECS[name]()
    path = Run.create(tmp_path / "run", spec).path / "config.toml"
    found = settings.read(path)
    assert found.given == {
        "task": spec.task["name"],
        "algorithm": spec.algorithm["name"],
        "rollouts": 30,
        "iterations": 4,
        "seeds": spec.seeds,
        "measured": 1,
        "checkpoint_every": 7,
    }
    for part, table, default in (
        (spec.task, found.task, tasks.find(spec.task["name"]).make()),
        (spec.algorithm, found.algorithm, algorithms.find(spec.algorithm["name"]).make()),
    ):
        assert described(overlaid(default, table)) == part["options"]


OWN = ["train", "mytask.py:Lake", "--algorithm", "myalg.py:Nudge", *SMALL]


def test_settings_are_read_and_words_on_the_command_line_come_after(home, capsys):
    (home / "my.toml").write_text(
        'task = "mytask.py:Lake"\nalgorithm = "myalg.py:Nudge"\nrollouts = 2\niterations = 2\nseeds = [5, 9]\n'
        "measured = 0\n[settings.task]\npier = 0.3\n[settings.algorithm]\nby = 0.1\n"
    )
    code, _, err = call(capsys, "train", "--config", "my.toml", "--no-film", "--algorithm.by", "0.2")
    assert code == 0, err
    spec = Run.open("runs/Lake-Nudge-1").spec
    assert spec.task["options"] == {"class": "Lake", "pier": 0.3}
    assert spec.algorithm["options"] == {"class": "Nudge", "by": 0.2}
    assert (spec.seeds, spec.rollouts, spec.measured) == ([5, 9], 2, 0)
    again = ["train", "--config", "runs/Lake-Nudge-1/config.toml", "--no-film", "--out"]
    assert call(capsys, *again, "again")[0] == 0
    assert Run.open("again").spec == spec
    one, two = (home / name / "metrics.csv" for name in ("again", "runs/Lake-Nudge-1"))
    assert one.read_bytes() == two.read_bytes()
    assert call(capsys, *again, "other", "--seeds", "1", "--iterations", "1")[0] == 0
    other = Run.open("other").spec
    assert (other.seeds, other.iterations) == ([5], 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task = ", "this is no TOML"),
        ("rolouts = 3", "rolouts is unknown: did you mean rollouts?"),
        ("rollouts = 0", "rollouts is 0, and must be a whole number of 1 or more."),
        ("rollouts = 2.5", "rollouts is 2.5"),
        ("task = 3", "task is 3, and must be a name."),
        ("seeds = [1, 1]", "seeds is [1, 1], and must be a list of whole numbers."),
        ("settings = 3", "settings must be tables"),
        ("[settings.tusk]\na = 1", "settings.tusk is unknown"),
        (
            'task = "lq"\n[settings.task]\nweight = 1.0',
            "settings.task.weight: there is no such setting: did you mean action_weight?",
        ),
        (
            'task = "lq"\n[settings.task]\naction_weight = "a"',
            "settings.task.action_weight is 'a', and the field holds something else.",
        ),
        (
            'task = "lq"\nalgorithm = "moto"\n[settings.algorithm]\nkl_step = -1.0',
            "kl_step=-1.0: the bound on the KL must be positive",
        ),
        (
            'task = "lq"\nalgorithm = "lqr-gps"\n[settings.algorithm.dynamics]\nprior = "gmmm"',
            "settings.algorithm.dynamics.prior is 'gmmm'",
        ),
        ("rollouts = 3", "usage: pilotfish train TASK"),
    ],
)
def test_what_is_wrong_in_a_file_of_settings_is_named(tmp_path, capsys, text, message):
    (tmp_path / "my.toml").write_text(text)
    code, _, err = call(capsys, "train", "--config", tmp_path / "my.toml")
    assert code == 2
    assert message in err


PRIMITIVE = {"kp": 20.0, "kd": (5.0, 6.0), "goal_std": 0.3, "speed_std": 0.5}


def test_a_part_of_another_class_takes_what_is_not_said_from_that_class(tmp_path):
    """In a file and in words alike."""
    text = 'task = "lq"\nalgorithm = "reps"\n[settings.algorithm.skill]\nclass = "MovementPrimitive"\n'
    (tmp_path / "my.toml").write_text(f"{text}kp = 20.0\nkd = [5.0, 6.0]\ngoal_std = 0.3\nspeed_std = 0.5\n")
    words = "--class MovementPrimitive --kp 20.0 --kd=[5.0,6.0] --goal-std 0.3 --speed-std 0.5"
    flags = words.replace("--", "--algorithm.skill.").split()
    expected = described(REPS(kl_step=0.5, skill=MovementPrimitive(**PRIMITIVE)))
    for argv in (["--config", str(tmp_path / "my.toml")], ["lq", "--algorithm", "reps", *flags]):
        spec = learn.asked([*argv, "--algorithm.kl-step", "0.5"], "train")[1]
        assert spec.algorithm["options"] == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("skill.class Move", "--algorithm.skill.class is 'Move', and known here: MovementPrimitive, OpenLoop."),
        ("skill.class", "--algorithm.skill.class: name a class."),
        (
            "skill.class MovementPrimitive --algorithm.skill.kp 1",
            "--algorithm.skill.kd, --algorithm.skill.goal_std, --algorithm.skill.speed_std: MovementPrimitive cannot",
        ),
        (
            "skill.class OpenLoop --algorithm.skill.kq 1",
            "--algorithm.skill.kq: there is no such setting: choose one of features.",
        ),
        ("skill.class OpenLoop --algorithm.skill.features 0", "features=0: give at least one basis function."),
        ("skil.class OpenLoop", "--algorithm.skil: there is no such setting: did you mean skill?"),
        ("kl-step.class OpenLoop", "--algorithm.kl-step: there is no such setting: did you mean kl_step?"),
    ],
)
def test_what_is_wrong_with_a_part_of_another_class_is_named(capsys, words, message):
    code, _, err = call(capsys, "train", "lq", "--algorithm", "reps", *f"--algorithm.{words}".split())
    assert code == 2
    assert message in err


def test_a_file_of_settings_must_be_there(capsys):
    assert "nowhere.toml: there is no such file" in call(capsys, "train", "--config", "nowhere.toml")[2]
    assert "--config: name a file of settings" in call(capsys, "train", "--config")[2]


# -- from another run


@pytest.mark.slow
def test_a_run_begins_with_the_controllers_of_another(home, capsys):
    assert call(capsys, *OWN, "--out", "first")[0] == 0
    code, _, err = call(capsys, *OWN, "--from", "first", "--iterations", "1", "--out", "second")
    assert code == 0, err
    first, second = (load_policy(f"{name}/policy.safetensors").controller for name in ("first", "second"))
    np.testing.assert_array_equal(second.k, first.k + 0.5)
    assert (first.k == 1.0).all()
    shutil.rmtree("first")
    assert call(capsys, "evaluate", "second")[0] == 0
    code, _, err = call(capsys, "train", "lq", "--algorithm", "ilqg", "--from", "second", "--out", "third")
    assert code == 2
    assert "its controllers have the shape (1, 6, 1, 2), and those of the task (1, 20, 2, 4)" in err
    code, _, err = call(capsys, *OWN, "--from", "second", "--demonstration", "a.csv")
    assert code == 2
    assert "--from and --demonstration: give one of them" in err
    assert "name a run's folder" in call(capsys, *OWN, "--from")[2]
    assert call(capsys, *OWN, "--from", "nowhere")[0] == 2


def test_a_network_begins_what_learns_one_and_nothing_else(home, capsys):
    problem = LinearQuadratic().problem()
    path = Network(width=3).policy(problem, jax.random.key(0)).save("net.safetensors", problem)
    assert learn._begun(["--from", str(path)], "mdgps") == ["--algorithm.policy.start", str(path)]
    code, _, err = call(capsys, "train", "lq", "--algorithm", "ilqg", "--from", path)
    assert code == 2
    assert "--from net.safetensors: it is a network, and ilqg learns none" in err
    code, _, err = call(capsys, "train", "lq", "--algorithm", "mdgps", "--from", path, "--algorithm.policy.start", path)
    assert "--from and --algorithm.policy.start: give one of them" in err


@pytest.mark.slow
def test_a_run_begins_with_the_network_of_another_and_with_what_taught_it(home, capsys):
    words = ("train", "lq", "--algorithm", "mdgps", "--rollouts", "8", "--iterations", "1", "--no-film")
    assert call(capsys, *words, "--out", "first")[0] == 0
    assert call(capsys, *words, "--from", "first", "--algorithm.teach.learning-rate", "1e-9", "--out", "second")[0] == 0
    first, second = (load_policy(f"{name}/policy.safetensors") for name in ("first", "second"))
    states = np.random.default_rng(0).normal(size=(5, 4))
    acts = [[policy.predict(x, 0) for x in states] for policy in (first, second)]
    np.testing.assert_allclose(*acts, atol=1e-3)
    shutil.rmtree("first")  # the second has copies of both files
    assert call(capsys, "evaluate", "second")[0] == 0
    assert call(capsys, "train", "lq", "--algorithm", "lqr-gps", "--from", "second", "--iterations", "1")[0] == 0
