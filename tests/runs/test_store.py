"""The store: whole files or none, and clear words about what cannot be used."""

import collections
import copy
import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from oracles.same import assert_same

from pilotfish.algorithms.ilqg import ILQG
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.moto import MOTO
from pilotfish.algorithms.reps import REPS
from pilotfish.policies.episodic import OpenLoop
from pilotfish.runs import RunError, RunWarning, loop
from pilotfish.runs.same import difference
from pilotfish.runs.spec import Spec, assemble, described
from pilotfish.runs.store import Run
from pilotfish.runs.train import TrainingFailed, train
from pilotfish.tasks.cartpole import CartPole
from pilotfish.tasks.peg import Peg
from pilotfish.types import Equations, Gaussian, Problem
from pilotfish.worlds.jax import JaxWorld
from pilotfish.worlds.mujoco import MujocoWorld

SAMPLES = 24


def make_spec(**changes):
    fields = {
        "task": {"name": "cartpole", "options": described(CartPole())},
        "algorithm": {"name": "moto", "options": described(MOTO())},
        "rollouts": SAMPLES,
        "iterations": 4,
        "seeds": [0, 1],
        "checkpoint_every": 2,
    }
    return Spec(**(fields | changes))


@pytest.fixture(scope="module")
def world():
    return JaxWorld(CartPole().problem())


@pytest.fixture(scope="module")
def trained(tmp_path_factory, world):
    run = Run.create(tmp_path_factory.mktemp("runs") / "whole", make_spec())
    train(MOTO(), world, rollouts=SAMPLES, iterations=4, seeds=[0, 1], run=run)
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the trained run, to be damaged."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in trained.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return Run.open(copy)


@pytest.fixture(scope="module")
def like(world):
    return loop.initial(MOTO(), world, SAMPLES, loop.root_keys([0, 1]))


def rewrite(run, change):
    """Another specification, with its checksum."""
    spec = json.loads((run.path / "spec.json").read_text())
    del spec["sha256"]
    change(spec)
    run.save_json("spec", spec)


def test_spec_survives_the_store(trained):
    assert Run.open(trained.path).spec == trained.spec
    task, algorithm, world = assemble(trained.spec)
    assert task == CartPole()
    assert algorithm == MOTO()
    assert world.problem.horizon == 60


def test_state_survives_the_store(trained, like):
    i, states = trained.load_checkpoint(like)
    assert i == 4
    assert np.isfinite(states.controller.K).all()
    assert np.abs(states.controller.K).max() > 0


def test_metrics_are_exact_and_shaped_seed_by_iteration(trained, world):
    metrics = trained.metrics()
    keys = loop.root_keys([0, 1])
    _, report = loop.scan(MOTO(), world, SAMPLES, keys, 0, 4, loop.initial(MOTO(), world, SAMPLES, keys))
    assert metrics["cost"].shape == (2, 4)
    assert_same((metrics["cost"], metrics["kl_max"]), (report.outcome.cost, report.info.kl_max))
    np.testing.assert_array_equal(metrics["rollouts"][0], SAMPLES * np.arange(1, 5))


def test_a_half_written_line_of_metrics_is_passed_over(run, like):
    path = run.path / "metrics.csv"
    whole = run.metrics()["cost"]
    (run.path / "checkpoint-000004.safetensors").unlink()  # which says that four iterations were done
    path.write_bytes(path.read_bytes()[:-20])
    np.testing.assert_array_equal(run.metrics()["cost"], whole[:, :3])
    assert run.begin(like)[0] == 2
    np.testing.assert_array_equal(run.metrics()["cost"], whole[:, :2])


def test_a_truncated_checkpoint_is_passed_over_for_the_one_before(run, like):
    newest = run.path / "checkpoint-000004.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(
        RunWarning, match=r"checkpoint-000004.*damaged.*: checkpoint-000002\.safetensors is used instead"
    ):
        assert run.load_checkpoint(like)[0] == 2


def test_no_usable_checkpoint_is_said(run, like):
    for path in run.path.glob("checkpoint-*"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"no checkpoint of .* can be used"):
        run.load_checkpoint(like)


def test_a_foreign_checkpoint_is_refused(run, like):
    rewrite(run, lambda spec: spec["algorithm"]["options"].update(kl_step=0.2))
    with pytest.raises(RunError, match="belongs to another run"):
        Run.open(run.path).load_checkpoint(like)


def test_a_checkpoint_of_another_shape_is_refused(run, world):
    other = loop.initial(MOTO(), world, SAMPLES + 1, loop.root_keys([0, 1]))
    with pytest.raises(RunError, match=r"should be float64 \(2, 1, 1, 25"):
        run.load_checkpoint(other)


def test_another_version_is_not_continued(run):
    rewrite(run, lambda spec: spec.update(version="0.0.7"))
    with pytest.raises(RunError, match=r"made by pilotfish 0.0.7.*Install pilotfish==0.0.7"):
        Run.open(run.path).check_resumable()


def test_another_precision_is_not_continued(run):
    with pytest.raises(RunError, match="JAX_ENABLE_X64=0"):
        Run(run.path, dataclasses.replace(run.spec, x64=False)).check_resumable()


def test_another_format_is_not_read(run):
    rewrite(run, lambda spec: spec.update(format=99))
    with pytest.raises(RunError, match="format 99"):
        Run.open(run.path)


def test_a_damaged_spec_is_said(run):
    (run.path / "spec.json").write_text('{"task": ')
    with pytest.raises(RunError, match=r"spec.json is damaged"):
        Run.open(run.path)


def test_a_folder_in_use_is_not_overwritten(run, tmp_path):
    with pytest.raises(RunError, match="pilotfish resume"):
        Run.create(run.path, make_spec())
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="choose another --out"):
        Run.create(tmp_path, make_spec())


def test_a_folder_without_a_run_is_said(tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        Run.open(tmp_path)


def test_training_goes_on_after_an_interruption_as_if_there_had_been_none(trained, tmp_path, world):
    run = Run.create(tmp_path / "interrupted", make_spec())

    def interrupt(turn):
        if turn.i == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(MOTO(), world, rollouts=SAMPLES, iterations=4, seeds=[0, 1], run=run, callbacks=[interrupt])
    assert (run.path / "checkpoint-000003.safetensors").exists()
    train(MOTO(), world, rollouts=SAMPLES, iterations=4, seeds=[0, 1], run=run)
    assert_same_files(run, trained)


def test_a_run_goes_on_only_with_what_it_is_made_of(trained, world):
    settings = {"rollouts": SAMPLES, "iterations": 4, "seeds": [0, 1], "run": trained}
    for algorithm, change, words in (
        (MOTO(), {"rollouts": 25}, "rollouts=25: .* was begun with 24"),
        (MOTO(), {"seeds": [0, 2]}, r"seeds=\[0, 2\]: .* was begun with \[0, 1\]"),
        (MOTO(kl_step=0.2), {}, "kl_step=0.2: .* was begun with 0.1"),
        (MOTO(), {"iterations": 3}, "iterations=3: .* has done 4 already"),
    ):
        with pytest.raises(ValueError, match=words):
            train(algorithm, world, **(settings | change))
    assert trained.metrics()["cost"].shape == (2, 4)


class Wordy(REPS):
    """Whose author has it report something more one day."""

    reported: str = "ok"

    def update(self, problem, state, rollouts, key):
        state, info = super().update(problem, state, rollouts, key)
        return state, collections.namedtuple("Info", self.reported)(*([info.ok] * len(self.reported.split())))


def test_a_run_does_not_go_on_with_other_numbers_than_it_has(world, tmp_path):
    counts = {"rollouts": 10, "seeds": [0]}
    run = Run.create(tmp_path / "run", make_spec(algorithm={"name": "mine"}, **counts))
    train(Wordy(), world, iterations=2, run=run, **counts)
    content = (run.path / "metrics.csv").read_bytes(), (run.path / "columns.json").read_bytes()
    with pytest.raises(RunError, match="new: idle; no longer: none"):
        train(Wordy(reported="ok idle"), world, iterations=3, run=run, **counts)
    assert content == ((run.path / "metrics.csv").read_bytes(), (run.path / "columns.json").read_bytes())
    assert train(Wordy(), world, iterations=3, run=run, **counts).metrics["ok"].shape == (1, 3)


def test_a_run_goes_on_only_in_its_own_world(trained):
    problem, settings = CartPole().problem(), {"rollouts": SAMPLES, "iterations": 4, "seeds": [0, 1], "run": trained}
    cost, dynamics = problem.cost, problem.dynamics
    for change, name in (
        ({"horizon": 59, "first_controller": None}, "horizon"),
        ({"conditions": Gaussian(problem.conditions.mean + 0.1, problem.conditions.cov)}, "conditions"),
        ({"cost": lambda x, u, t: cost(x, u, t) + x @ np.ones(4)}, "cost"),
        ({"dynamics": lambda x, u: dynamics(x, 0.9 * u)}, "dynamics"),
        ({"distance": lambda x, u: jnp.abs(x[-1, 0])}, "distance"),
    ):
        with pytest.raises(ValueError, match=f"world: its {name} is not that of the task cartpole as .* was begun"):
            train(MOTO(), JaxWorld(dataclasses.replace(problem, **change)), **settings)
    train(MOTO(), JaxWorld(CartPole().problem()), **settings)


def test_a_run_goes_on_only_with_its_own_model(tmp_path):
    settings = {"rollouts": 35, "iterations": 1, "seeds": [0]}
    task = Peg()
    run = Run.create(tmp_path / "peg", Spec.of(("peg", task), ("lqr-gps", LQRGPS()), **settings, checkpoint_every=1))
    run.save_checkpoint(1, {})
    world = task.world()
    assert difference(run.assemble()[2], world) is None
    model = copy.copy(world.simulation.model)
    model.opt.gravity[2] = -1.62
    with pytest.raises(ValueError, match="world: its model is not that of the task peg"):
        train(LQRGPS(), MujocoWorld(world.problem, model, world.simulation.fields), **settings, run=run)


def test_damaged_metrics_do_not_stop_a_run_and_come_back(run, trained, world):
    path = run.path / "metrics.csv"
    path.write_bytes(path.read_bytes().replace(b"\r\n1,0,", b"\r\n7,0,"))
    with pytest.warns(RunWarning, match=r"metrics\.csv is damaged: line 4 .*copy in checkpoint-000004"):
        np.testing.assert_array_equal(run.metrics()["cost"], trained.metrics()["cost"])
    train(MOTO(), world, rollouts=SAMPLES, iterations=4, seeds=[0, 1], run=run)
    assert path.read_bytes() == (trained.path / "metrics.csv").read_bytes()


def assert_same_files(run, other):
    assert (run.path / "metrics.csv").read_bytes() == (other.path / "metrics.csv").read_bytes()
    mine, theirs = run.load_tensors("checkpoint-000004"), other.load_tensors("checkpoint-000004")
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def test_a_simulation_that_diverges_stops_the_run_and_says_what_to_do():
    problem = CartPole().problem()
    explodes = dataclasses.replace(problem, dynamics=Equations(lambda x, u: jnp.where(x > 5, jnp.nan, x + 1)))
    with pytest.raises(TrainingFailed, match=r"their states first at step \d. .* less noise .a smaller initial_std"):
        train(REPS(skill=OpenLoop(features=3)), JaxWorld(explodes), rollouts=SAMPLES, iterations=9)


def broken_problem(breaks_at, above=-jnp.inf):
    """A cart-pole whose cost is nan at one step, where the pole's angle is above a value."""
    problem = CartPole().problem()
    good = problem.cost

    def cost(x, u, t):
        return jnp.where((t == breaks_at) & (x[1] > above), jnp.nan, good(x, u, t))

    return Problem(
        horizon=problem.horizon,
        dt=problem.dt,
        conditions=problem.conditions,
        initial_std=problem.initial_std,
        cost=cost,
        dynamics=problem.dynamics,
    )


def test_a_cost_that_is_nan_stops_the_run_and_says_where(tmp_path):
    run = Run.create(tmp_path / "nan", make_spec())
    world = JaxWorld(broken_problem(17))
    with pytest.raises(
        TrainingFailed, match=r"iteration 2: 100% of the rollouts are not finite, their costs alone first at step 17"
    ):
        train(MOTO(), world, rollouts=SAMPLES, iterations=9, seeds=[0, 1], run=run)
    metrics = run.metrics()
    assert metrics["ok"].shape == (2, 3)
    assert not metrics["ok"].any()
    like = loop.initial(MOTO(), world, SAMPLES, loop.root_keys([0, 1]))
    i, states = run.load_checkpoint(like)
    assert i == 3
    np.testing.assert_array_equal(states.controller.K, like.controller.K)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [LQRGPS(), ILQG()])
def test_a_cost_without_derivative_stops_the_run_and_is_named(algorithm):
    """The distance to a target in which the episode begins."""
    problem = Problem(
        horizon=3,
        dt=0.1,
        conditions=Gaussian(jnp.zeros((1, 2)), jnp.zeros((1, 2, 2))),
        initial_std=[1.0],
        cost=lambda x, u, t: jnp.linalg.norm(x[1:]) + 0.01 * u @ u,
        dynamics=lambda x, u: x + jnp.concatenate([u, x[:1]]),
    )
    with pytest.raises(
        TrainingFailed, match="iteration 2: the cost of step 0 has no finite derivative by entry 1 of the"
    ):
        train(algorithm, JaxWorld(problem), rollouts=8, iterations=9)


@pytest.mark.slow
def test_some_rollouts_that_are_nan_do_not_stop_learning():
    result = train(MOTO(), JaxWorld(broken_problem(17, above=jnp.pi + 0.2)), rollouts=60, iterations=3)
    assert (result.metrics["valid"] < 1).all()
    assert result.metrics["ok"].all()
    assert np.isfinite(result.policy.controller.K).all()
