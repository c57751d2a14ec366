"""A run's code runs for whoever began the run, and for whoever trusts it."""

import dataclasses
import hashlib
import os
import sys
from pathlib import Path

import gymnasium
import pytest

from pilotfish import cli, registry
from pilotfish.algorithms.moto import MOTO
from pilotfish.registry import Entry
from pilotfish.runs import RunError, trust
from pilotfish.runs.spec import Spec, described
from pilotfish.runs.store import Run
from pilotfish.tasks.gym import GymnasiumTask
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.tasks.model import ModelTask

MODULE = """
import sys
import gymnasium
from gymnasium.envs.classic_control.pendulum import PendulumEnv
sys.imported_by_a_run = True
gymnasium.register("Stranger-v0", entry_point=PendulumEnv, max_episode_steps=20)
from pilotfish.algorithms.moto import MOTO
from pilotfish.tasks.gym import GymnasiumTask
def wrapped(env): return env
def cost(x, u, t): return x[0] ** 2
"""
MODEL = """<mujoco><worldbody><body><joint name="x" type="slide"/><geom size=".1"/></body></worldbody>
<actuator><motor joint="x"/></actuator></mujoco>"""


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def spec(task, name, algorithm="moto", **fields):
    task = {"name": task, "options": described(GymnasiumTask(**{"env": name, "horizon": 5} | fields))}
    return Spec(task, {"name": algorithm, "options": described(MOTO())}, 30, 2, [5], 1)


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A run of somebody else, of an environment whose module is beside it."""
    (tmp_path / "stranger.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    run = Run(tmp_path / "run", spec("gym:stranger:Stranger-v0", "stranger:Stranger-v0"))
    run.path.mkdir()
    run.save_json("spec", dataclasses.asdict(run.spec))
    yield run.path
    sys.modules.pop("stranger", None)
    vars(sys).pop("imported_by_a_run", None)
    for name in ("Stranger-v0", "Lazy-v0"):
        gymnasium.registry.pop(name, None)


def model(folder):
    """Of a model whose cost is the stranger's module."""
    (folder / "model.xml").write_text(MODEL)
    paths = str(folder / "model.xml"), str(folder / "stranger.py")
    task = {"name": paths[0], "options": described(ModelTask(*paths))}
    task["files"] = {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}
    return Spec(task, {"name": "moto", "options": described(MOTO())}, 30, 2, [5], 1)


CODE = {
    "a module that registers": ("stranger:Stranger-v0", lambda _: spec("gym:Pendulum-v1", "stranger:Stranger-v0")),
    "a module in the name": ("gym:stranger:Stranger-v0", lambda _: spec("gym:stranger:Stranger-v0", "Pendulum-v1")),
    "a wrapper": ("stranger:wrapped", lambda _: spec("gym:Pendulum-v1", "Pendulum-v1", wrappers=("stranger:wrapped",))),
    "an entry point of Gymnasium": ("gym:Lazy-v0", lambda _: spec("gym:Lazy-v0", "Lazy-v0")),
    "an argument": ('{"g": 9.0}', lambda _: spec("gym:Pendulum-v1", "Pendulum-v1", kwargs={"g": 9.0})),
    "a cost": ("stranger.py", model),
    "a package's task": ("strange-task", lambda _: spec("strange-task", "stranger:Stranger-v0")),
    "a package's algorithm": ("strange-moto", lambda _: spec("gym:Pendulum-v1", "Pendulum-v1", "strange-moto")),
}
"""What a run may name that is not ours: what of it is told, and the specification."""


@pytest.mark.parametrize("kind", CODE)
def test_nothing_of_a_strangers_run_is_imported_until_it_is_trusted(stranger, tmp_path, monkeypatch, capsys, kind):
    told, make = CODE[kind]
    packages = {"task": "GymnasiumTask", "algorithm": "MOTO"}
    names = {kind: f"strange-{'task' if kind == 'task' else 'moto'}" for kind in packages}
    monkeypatch.setattr(
        registry, "_installed", lambda kind: {names[kind]: Entry(names[kind], "", f"stranger:{packages[kind]}")}
    )
    gymnasium.register("Lazy-v0", entry_point="stranger:PendulumEnv", max_episode_steps=20)
    Run.open(stranger).save_json("spec", dataclasses.asdict(make(tmp_path)))
    run = Run.open(stranger)
    assert run.metrics() == {}
    for use in (run.assemble, run.policy, run.evaluate):
        with pytest.raises(RunError, match=rf"was not made here.*{told}.*--trust"):
            use()
    for command in ("resume", "evaluate", "export", "report"):
        cli.run([command, str(stranger)])
        assert "Traceback" not in capsys.readouterr().err
    assert not hasattr(sys, "imported_by_a_run")
    assert "stranger" not in sys.modules
    Run.open(stranger, trust=True).assemble()
    if kind != "an argument":
        assert hasattr(sys, "imported_by_a_run")
    Run.open(stranger).assemble()  # for it was said once


def test_another_specification_is_another_run(stranger):
    run = Run.open(stranger, trust=True)
    run.spec = dataclasses.replace(run.spec, iterations=9)
    run.save_json("spec", dataclasses.asdict(run.spec))
    Run.open(stranger).assemble()
    options = run.spec.task["options"] | {"env": "os:path"}
    run.save_json("spec", dataclasses.asdict(dataclasses.replace(run.spec, task=run.spec.task | {"options": options})))
    with pytest.raises(RunError, match="was not made here"):
        Run.open(stranger).assemble()


def test_ones_own_run_is_trusted_wherever_it_is_moved_to(tmp_path):
    run = Run.create(tmp_path / "mine", spec("gym:Pendulum-v1", "Pendulum-v1"))
    os.rename(run.path, tmp_path / "moved")
    assert Run.open(tmp_path / "moved").assemble()[0].env == "Pendulum-v1"


def test_runs_of_our_own_tasks_need_no_trust_and_leave_no_record(tmp_path, state):
    task = {"name": "lq", "options": described(LinearQuadratic())}
    run = Run.create(tmp_path / "lq", Spec(task, {"name": "moto", "options": described(MOTO())}, 30, 2, [5], 1))
    assert not trust.foreign(run.spec)
    assert not state.exists()
    Run.open(run.path).assemble()


@pytest.mark.parametrize("home", ["", "/proc/nowhere"])
def test_where_nothing_can_be_remembered_trust_is_said_each_time(stranger, monkeypatch, home):
    monkeypatch.setenv("XDG_STATE_HOME", home)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    Run.open(stranger, trust=True).assemble()
    with pytest.raises(RunError, match="was not made here"):
        Run.open(stranger).assemble()
