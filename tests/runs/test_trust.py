"""A run's code runs for whoever began the run, and for whoever trusts it."""

import dataclasses
import os
import sys

import pytest

from pilotfish.algorithms.moto import MOTO
from pilotfish.runs import RunError, trust
from pilotfish.runs.spec import Spec, described
from pilotfish.runs.store import Run
from pilotfish.tasks.gym import GymnasiumTask
from pilotfish.tasks.lq import LinearQuadratic

MODULE = """
import sys
import gymnasium
from gymnasium.envs.classic_control.pendulum import PendulumEnv
sys.imported_by_a_run = True
gymnasium.register("Stranger-v0", entry_point=PendulumEnv, max_episode_steps=20)
"""


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def spec(task, name):
    task = {"name": task, "options": described(GymnasiumTask(env=name, horizon=5))}
    return Spec(task, {"name": "moto", "options": described(MOTO())}, 30, 2, [5], 1)


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


@pytest.mark.parametrize("task", ["gym:stranger:Stranger-v0", "gym:Pendulum-v1"])
def test_nothing_of_a_strangers_run_is_imported_until_it_is_trusted(stranger, task):
    Run.open(stranger).save_json("spec", dataclasses.asdict(spec(task, "stranger:Stranger-v0")))
    run = Run.open(stranger)
    assert run.metrics() == {}
    for use in (run.assemble, run.policy, run.evaluate):
        with pytest.raises(RunError, match=rf"was not made here.*{task}.*--trust"):
            use()
    assert not hasattr(sys, "imported_by_a_run")
    assert Run.open(stranger, trust=True).assemble()[0].env == "stranger:Stranger-v0"
    assert hasattr(sys, "imported_by_a_run")
    assert Run.open(stranger).assemble()[0].env == "stranger:Stranger-v0", "said once"


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
