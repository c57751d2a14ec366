"""Sweeps: arms that are alike in all but numbers share a program, and are the runs that they would be alone."""

import dataclasses
import json
from unittest import mock

import jax
import numpy as np
import pytest
from oracles.same import assert_same

import pilotfish as pf
from pilotfish.algorithms import find
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.moto import MOTO
from pilotfish.algorithms.reps import REPS
from pilotfish.policies.episodic import OpenLoop
from pilotfish.runs import RunError, arms, loop, search, settings, sweep
from pilotfish.runs.loop import Turn
from pilotfish.runs.search import Range
from pilotfish.runs.spec import Spec
from pilotfish.runs.store import Run
from pilotfish.runs.sweep import Arm, Found
from pilotfish.tasks.lq import LinearQuadratic

SMALL = REPS(skill=OpenLoop(features=3))
STEPS = (0.2, 0.5, 0.9)
FORKED = '''
from pilotfish.algorithms import Algorithm
from pilotfish.algorithms.reps import REPS
from pilotfish.policies.episodic import OpenLoop


class Forked(Algorithm):
    """Decides in Python by a number."""

    kl_step: float = 0.5
    """Bound."""

    def reps(self):
        return REPS(skill=OpenLoop(features=3), kl_step=0.3 if self.kl_step < 0.4 else 0.9)

    def init(self, problem, episodes, key):
        return self.reps().init(problem, episodes, key)

    def explore(self, state):
        return self.reps().explore(state)

    def exploit(self, state):
        return self.reps().exploit(state)

    def update(self, problem, state, rollouts, key):
        return self.reps().update(problem, state, rollouts, key)
'''


def spec(algorithm, name="reps", task=None, iterations=4, rollouts=10):
    parts = ("lq", task or LinearQuadratic()), (name, algorithm)
    return Spec.of(*parts, rollouts=rollouts, iterations=iterations, seeds=[0, 1], checkpoint_every=2)


def arm(folder, kl_step, algorithm=SMALL, **how):
    values = {"kl_step": kl_step}
    name = f"kl_step={kl_step}"
    return Arm(name, values, folder / name, spec(dataclasses.replace(algorithm, **values), **how))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def found(folder):
    """A sweep of three arms, and how often their update was traced."""
    traced = []
    with pytest.MonkeyPatch.context() as counting:
        update = REPS.update
        counting.setattr(REPS, "update", lambda *words: (traced.append(words[0].kl_step), update(*words))[1])
        return sweep.perform([arm(folder, step) for step in STEPS]), traced


def test_arms_that_differ_in_a_number_share_a_program(found):
    _, traced = found
    assert len(traced) == 1
    assert isinstance(traced[0], jax.core.Tracer)


def test_an_arm_is_the_run_that_it_would_be_alone(found, folder):
    one = found[0][0]
    run = Run.open(one.arm.path)
    _, algorithm, world = run.assemble()
    assert type(algorithm.kl_step) is float
    alone = pf.train(algorithm, world, rollouts=10, iterations=4, seeds=[0, 1])
    metrics = run.metrics()
    assert_same([metrics[name] for name in alone.metrics], list(alone.metrics.values()))
    assert_same(one.cost, alone.evaluate().cost)
    assert (one.arm.path / "policy.safetensors").exists()
    assert len({one.cost.tobytes() for one in found[0]}) == len(STEPS)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "algorithm"), [("moto", MOTO()), ("lqr-gps", LQRGPS())])
def test_arms_of_larger_programs_are_their_runs_as_well(tmp_path, name, algorithm):
    found = sweep.perform([arm(tmp_path, step, algorithm, name=name, rollouts=30) for step in (0.1, 0.3)])
    own = dataclasses.replace(algorithm, kl_step=0.3)
    alone = pf.train(own, LinearQuadratic().world(), rollouts=30, iterations=4, seeds=[0, 1])
    metrics = Run.open(found[1].arm.path).metrics()
    assert_same([metrics[one] for one in alone.metrics], list(alone.metrics.values()))


def test_what_is_done_is_not_done_again(found, folder, monkeypatch):
    monkeypatch.setattr(sweep, "prepared", lambda *_: pytest.fail("prepared anew"))
    again = sweep.perform([arm(folder, step) for step in STEPS])
    for one, other in zip(again, found[0], strict=True):
        np.testing.assert_array_equal(one.cost, other.cost)
        assert (one.iterations, one.note) == (4, "")


def test_a_sweep_goes_on_where_it_stopped(found, tmp_path):
    def stop(one, done):
        if (one.label, done) == ("kl_step=0.5", 3):
            raise KeyboardInterrupt

    begun = []
    asked = [arm(tmp_path, step) for step in STEPS]
    with pytest.raises(KeyboardInterrupt):
        sweep.perform(asked, stop)
    assert Run.open(tmp_path / "kl_step=0.5").done() == 3
    again = sweep.perform(asked, lambda one, done: begun.append((one.label, done)))
    assert begun == [("kl_step=0.5", 3), ("kl_step=0.5", 4), *(("kl_step=0.9", done) for done in range(5))]
    for one, other in zip(again, found[0], strict=True):
        assert_same(one.cost, other.cost)
        assert_same(Run.open(one.arm.path).metrics(), Run.open(other.arm.path).metrics())


def test_programs_follow_one_another_and_differ_where_they_must(tmp_path):
    other = LinearQuadratic(action_weight=0.3)
    asked = [
        arm(tmp_path, 0.2),
        arm(tmp_path / "task", 0.2, task=other)._replace(label="other task"),
        arm(tmp_path, 0.5),
        arm(tmp_path / "more", 0.2, rollouts=11)._replace(label="more rollouts"),
    ]
    ready = sweep.prepared(asked)
    assert [one.arm.label for one in ready] == ["kl_step=0.2", "kl_step=0.5", "other task", "more rollouts"]
    assert len({one.program for one in ready}) == 3
    assert ready[0].world is ready[1].world is ready[3].world is not ready[2].world


@pytest.mark.slow
def test_an_algorithm_that_decides_in_python_by_the_number_has_programs_of_its_own(tmp_path):
    (tmp_path / "forked.py").write_text(FORKED)
    name = f"{tmp_path / 'forked.py'}:Forked"
    asked = [arm(tmp_path, step, find(name).make(), name=name, iterations=2) for step in (0.2, 0.5)]
    ready = sweep.prepared(asked)
    assert not any(loop.is_general(loop.check(one.algorithm, one.world, 10)) for one in ready)
    assert ready[0].program != ready[1].program
    found = sweep.perform(asked)
    assert found[0].cost[0] != found[1].cost[0]


def test_what_is_wrong_is_said_of_its_arm_before_anything_is_run(tmp_path, found, folder):
    with pytest.raises(RunError, match=r"kl_step=0.5: .* was made with other settings: iterations is 4 there, and 9"):
        sweep.perform([arm(folder, step, iterations=9) for step in (0.5, 0.7)])
    assert not (folder / "kl_step=0.7").exists()
    with pytest.raises(ValueError, match=r"kl_step=0.2: rollouts=0"):
        sweep.perform([arm(tmp_path, 0.2, rollouts=0)])
    assert not list(tmp_path.iterdir())


def test_an_arm_that_cannot_learn_is_a_result(tmp_path, monkeypatch):
    monkeypatch.setattr(arms, "train", _failing)
    one = sweep.perform([arm(tmp_path, 0.2)])[0]
    assert one.note == "stopped in iteration 0: all rollouts broke off."
    assert np.isnan(one.cost).all()
    assert np.isinf(one.needed).all()
    assert one.numbers()["cost"] == [None, None]
    assert sweep.best([one]) is None


def _failing(*_, **__):
    raise pf.TrainingFailed("stopped in iteration 0: all rollouts broke off.")


def judged(label, cost, success=None, note="", path=None):
    success = None if success is None else np.array(success)
    of = Arm(label, {"kl_step": 1.0}, path, spec(SMALL))
    return Found(of, np.array(cost, float), success, np.array([20.0, np.inf]), 4, note)


@pytest.mark.parametrize(
    ("arms_", "which"),
    [
        ([judged("a", [1, 1], [0.5, 0.5]), judged("b", [2, 2], [0.5, 0.75])], "b"),  # cheap, and fails
        ([judged("a", [1, 1, 9]), judged("b", [2, 2, 2])], "a"),  # the median, not the mean
        ([judged("a", [1, 1], [1.0, 0.5]), judged("b", [2, 2], [0.75, 0.75])], "a"),  # of equals
        ([judged("a", [1, np.nan, np.nan]), judged("b", [5, 5, 5])], "b"),  # what broke off costs more than all else
        ([judged("a", [1, 1], note="pruned"), judged("b", [5, 5])], "b"),  # what was not trained to its end
        ([judged("a", [np.nan]), judged("b", [7])], "b"),
    ],
)
def test_the_best_arm_succeeds_most_and_of_equals_costs_least(arms_, which):
    assert sweep.best(arms_).arm.label == which


def test_a_sweep_leaves_its_numbers_and_the_best_settings(tmp_path):
    found = [judged("a", [3, 5], [0.0, 0.5], path=tmp_path / "a"), judged("b", [2, 2], [1.0, 1.0], path=tmp_path / "b")]
    record = sweep.keep(tmp_path, found, "pilotfish sweep lq")
    assert record == json.loads((tmp_path / "sweep.json").read_text())
    assert record["best"] == "b"
    a = record["arms"]["a"]
    assert (a["cost_median"], a["success_rate"], a["rollouts_to_success"]) == (4.0, 0.25, [20.0, None])
    assert a["cost_interval"][0] < 3 < 5 < a["cost_interval"][1]
    assert record["arms"]["b"]["cost_interval"] == [None, None]
    read = settings.read(tmp_path / "best.toml")
    assert read.given["rollouts"] == 10
    assert read.algorithm["kl_step"] == SMALL.kl_step


# -- a search


def trials(folder, count, space=None, observe=lambda arm, done: None):
    """A search of kl_step, and the words that its arms were made of."""
    space = space or {"kl_step": Range(0.1, 2.0, True, False)}
    asked = []

    def make(number, values):
        asked.append(values)
        if values.get("kl_step") == "refused":
            raise ValueError("these do not fit")
        one = arm(folder, float(values["kl_step"]))
        return one._replace(label=str(number), path=folder / f"trial-{number}")

    return search.perform(folder, space, make, count, 0, observe), asked


@pytest.mark.slow
def test_a_search_goes_on_where_it_stopped_and_finds_the_same(tmp_path):
    def stop(one, done):
        if (one.label, done) == ("2", 2):
            raise KeyboardInterrupt

    whole, asked = trials(tmp_path / "whole", 4)
    assert all(0.1 <= float(one["kl_step"]) <= 2.0 for one in asked)
    assert len({one["kl_step"] for one in asked}) == 4
    with pytest.raises(KeyboardInterrupt):
        trials(tmp_path / "stopped", 4, observe=stop)
    again, asked_again = trials(tmp_path / "stopped", 4)
    assert asked_again == asked
    for one, other in zip(again, whole, strict=True):
        assert_same(one.cost, other.cost)
    with pytest.raises(RunError, match="was made with other settings"):
        trials(tmp_path / "whole", 4, {"kl_step": Range(0.1, 3.0, True, False)})


@pytest.mark.slow
def test_all_trials_of_a_search_share_a_program(tmp_path, monkeypatch):
    traced, update = [], REPS.update
    monkeypatch.setattr(REPS, "update", lambda *words: (traced.append(0), update(*words))[1])
    jax.clear_caches()
    trials(tmp_path, 3)
    assert len(traced) == 1


def test_settings_that_do_not_fit_together_are_a_failed_trial(tmp_path):
    found, asked = trials(tmp_path, 2, {"kl_step": ["refused"]})
    assert (found, len(asked)) == ([], 2)


def test_a_trial_that_does_worse_than_others_is_pruned(tmp_path):
    import optuna

    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=2))
    for _ in range(2):
        trial = study.ask()
        for done in (2, 4):
            trial.report(1.0, done)
        study.tell(trial, 1.0)
    prune = search._Prune(study.ask(), {}, 2)
    costs = [[9.0, 9.0], [0.0, 0.5], [5.0, 5.0], [9.0, np.nan]]
    assert all(prune(turn(i, cost)) for i, cost in enumerate(costs))  # after two iterations it was better
    other = search._Prune(study.ask(), {}, 2)
    assert [other(turn(i, [9.0, 9.0])) for i in range(2)] == [True, False]
    assert other.decided


def turn(i, cost, success=(np.nan, np.nan)):
    metrics = {"cost": np.array(cost), "success": np.array(success)}
    return mock.Mock(spec=Turn, i=i, metrics=metrics, iterations=6)


def test_a_dear_trial_that_succeeds_is_not_pruned_for_a_cheap_one_that_does_not():
    import optuna

    study, said = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=1)), []
    for cost, success in (([1.0, 1.0], [0.0, 0.5]), ([9.0, 9.0], [0.5, 0.5]), ([0.5, 0.5], [0.0, 0.0])):
        trial = study.ask()
        said.append(search._Prune(trial, {}, 1)(turn(0, cost, success)))
        study.tell(trial, search._worth(np.array(success), cost[0]))
    assert said == [True, True, False]
    assert study.best_trial.number == 1


def test_a_pruned_trial_is_said_to_be_one_also_later(tmp_path, monkeypatch):
    import optuna

    monkeypatch.setattr(optuna.Trial, "should_prune", lambda self: self.number > 0)
    for _ in range(2):
        found, _ = trials(tmp_path, 2)
        assert [(one.iterations, one.note) for one in found] == [(4, ""), (1, "pruned")]
        assert sweep.best(found) == found[0]
