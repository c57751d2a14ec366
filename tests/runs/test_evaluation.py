"""Evaluation from Python: in three lines, of local controllers and of a network, also where it was not trained."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Array

import pilotfish as pf
from pilotfish import cli
from pilotfish.algorithms import Algorithm
from pilotfish.policies import files
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.policies.network import Network, NetworkPolicy
from pilotfish.registry import ALGORITHMS, Entry
from pilotfish.runs import evaluation
from pilotfish.runs.spec import Spec
from pilotfish.runs.store import write_tensors
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.tasks.obstacles import Obstacles
from pilotfish.tasks.peg import Peg
from pilotfish.tasks.peg_planar import FOUR, PegPlanar
from pilotfish.types import LinearGaussian


class Info(NamedTuple):
    ok: Array


class Still(Algorithm):
    """A network for all conditions, which never changes."""

    network: Network = Network(width=4, depth=1)

    def init(self, problem, episodes, key):
        return self.network.policy(problem, key)

    def explore(self, state):
        return state

    def exploit(self, state):
        return state.noise_free()

    def local(self, state):
        T, du = Obstacles().problem().first_controller.k.shape[1:]
        k = jnp.arange(5.0)[:, None, None] + state.factor[0, 0] * jnp.ones((5, T, du))
        zeros = jnp.zeros((5, T, du, 4)), jnp.zeros((5, T, du, du))
        return LinearGaussianPolicy(LinearGaussian(zeros[0], k, zeros[1]))

    def update(self, problem, state, rollouts, key):
        return state, Info(jnp.ones(len(rollouts.steps), bool))


def trained(folder, task_name, task, name, algorithm, rollouts=3, seeds=(4, 7)):
    sizes = {"rollouts": rollouts, "iterations": 1, "seeds": list(seeds)}
    run = pf.Run.create(folder, Spec.of((task_name, task), (name, algorithm), **sizes, checkpoint_every=1))
    pf.train(algorithm, task.world(), **sizes, run=run)
    return run


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """A run of a network on the obstacles, of an algorithm that is registered while this file is tested."""
    entry = Entry("still", "a network that never changes", f"{__name__}:Still")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ALGORITHMS, "still", entry)
        yield trained(tmp_path_factory.mktemp("still") / "run", "obstacles", Obstacles(), "still", Still())


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("local") / "run", "lq", LinearQuadratic(), "lqr-gps", pf.LQRGPS(), 12)


def test_a_network_goes_through_the_loop_the_store_and_back(still):
    run = pf.Run.open(still.path)
    policy = run.policy(seed=7)
    assert isinstance(policy, NetworkPolicy)
    world = Obstacles().world()
    expected = Still().init(world.problem, 3, jax.random.key(7)).noise_free()
    for a, b in zip(policy.tensors().values(), expected.tensors().values(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="--seed 1: this run has the seeds 4, 7"):
        run.policy(seed=1)


def test_a_network_acts_where_it_was_not_trained(still):
    found = pf.Run.open(still.path).evaluate(rollouts=2, conditions="held-out")
    assert found.rollouts.x.shape[:3] == (2, 4, 2)
    np.testing.assert_allclose(np.sort(found.rollouts.x[0, :, 0, 0, 1]), [-1.125, -0.375, 0.375, 1.125], atol=0.01)
    assert found.success is not None
    assert found.success.shape == (2,)


@pytest.mark.slow
def test_the_teachers_of_a_network_can_be_judged_and_had_in_its_place(still, local, tmp_path):
    run = pf.Run.open(still.path)
    found = run.evaluate(rollouts=2, local=True)
    np.testing.assert_allclose(found.rollouts.u, 1.0 + np.arange(5.0)[:, None, None, None] * np.ones((2, 5, 2, 200, 2)))
    path = tmp_path / "local.safetensors"
    write_tensors(path, *evaluation.pack(run, evaluation.trained(run, local=True), 7))
    policy = files.load(path)
    assert isinstance(policy, LinearGaussianPolicy)
    np.testing.assert_array_equal(policy.controller.k[:, 0, 0], 1.0 + np.arange(5.0))
    with pytest.raises(ValueError, match="teaches no network"):
        pf.Run.open(local.path).evaluate(local=True)


def test_evaluation_is_that_of_the_rollouts_it_keeps(local):
    found = pf.evaluate(pf.Run.open(local.path), rollouts=20)
    total = np.asarray(found.rollouts.cost).sum(-1).mean((1, 2))
    np.testing.assert_allclose(found.cost, total)
    assert found.best_seed == [4, 7][int(np.argmin(total))]
    assert found.success is None
    assert found.as_json()["cost"] == found.cost.tolist()


def test_local_controllers_have_none_for_other_conditions(local, still):
    with pytest.raises(ValueError, match="lq keeps no conditions for testing"):
        pf.Run.open(local.path).evaluate(conditions="held-out")
    with pytest.raises(ValueError, match="rollouts=0"):
        pf.Run.open(local.path).evaluate(0)


@pytest.mark.slow
def test_local_controllers_act_where_they_are_nearest(tmp_path, monkeypatch):
    run = trained(tmp_path / "run", "obstacles", Obstacles(), "moto", pf.MOTO(reuse="iterations"), 2, [0])
    found = run.evaluate(2, "held-out")
    assert found.rollouts.x.shape[:3] == (1, 4, 2)
    x, u, (K, k, _) = np.asarray(found.rollouts.x), np.asarray(found.rollouts.u), run.policy(0).tensors().values()
    for n in range(4):  # halfway between the starts n and n + 1: either is nearest
        expected = [K[own, 0] @ x[0, n, 0, 0] + k[own, 0] for own in (n, n + 1)]
        assert min(np.abs(u[0, n, 0, 0] - each).max() for each in expected) < 1e-9
    shown = []
    monkeypatch.setattr("pilotfish.view.film.film", lambda path, x, *_: shown.append(x) or path)
    assert cli.run(["render", str(run.path), "--held-out"]) == 0
    np.testing.assert_array_equal(shown[0], run.evaluate(1, "held-out").rollouts.x[0, :, 0])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.lists(st.floats(-9, 9), min_size=3, max_size=3))
def test_the_nearest_start_is_so_in_all_units(seed, exponents):
    rng, unit = np.random.default_rng(seed), 10.0 ** np.array(exponents)
    known, starts = rng.normal(size=(5, 3)), rng.normal(size=(7, 3))
    found = evaluation.nearest(known, starts)
    np.testing.assert_array_equal(evaluation.nearest(known * unit, starts * unit), found)
    np.testing.assert_array_equal(evaluation.nearest(known, known), np.arange(5))
    constant = (np.column_stack([a, np.full(len(a), 7.0)]) for a in (known, starts))
    np.testing.assert_array_equal(evaluation.nearest(*constant), found)
    assert not evaluation.nearest(known[:1], starts).any()


@pytest.mark.parametrize(
    ("first", "last", "now", "said"),
    [
        (68.0, 96.0, 92.0, "Likely a fall"),
        (68.0, 60.0, 92.0, "The controller without its exploration noise is another one"),
        (68.0, 60.0, 50.0, None),
        (68.0, 96.0, 69.0, None),  # within what the first iteration's rollouts tell
        (68.0, 60.0, np.nan, "another one"),
    ],
)
def test_a_result_worse_than_the_beginning_is_told(local, monkeypatch, first, last, now, said):
    run = pf.Run.open(local.path)
    cost = {"cost": np.tile([first, 70.0, last], (2, 1)), "cost_std": np.full((2, 3), 20.0)}
    monkeypatch.setattr(run, "metrics", lambda: cost)
    found = run.evaluate(2)._replace(summary={}, cost=np.full(2, now))
    monkeypatch.setattr(evaluation, "measure", lambda *_: found)
    summary = evaluation.judge(run, evaluation.trained(run), 3).summary
    assert said in summary["WORSE than at the beginning"] if said else not summary


def test_an_exported_policy_is_what_the_run_would_deploy(local, tmp_path):
    run = pf.Run.open(local.path)
    run.save_tensors("policy", *evaluation.pack(run, evaluation.trained(run), 4))
    loaded = files.load(local.path / "policy.safetensors")
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(run.policy(4)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("task", [Obstacles(), Peg(), PegPlanar(shifts=FOUR)])
def test_conditions_that_are_held_out_are_none_of_training(task):
    here, there = (np.asarray(one.problem().conditions.mean) for one in (task, task.held_out()))
    assert here.shape[1] == there.shape[1]
    assert (np.abs(here[:, None] - there).max(-1) > 1e-3).all()


def test_where_nothing_can_be_held_out_the_task_says_so():
    with pytest.raises(ValueError, match=r"shifts=\(\): there is one slot"):
        PegPlanar().held_out()
    with pytest.raises(ValueError, match="nothing is between"):
        Obstacles(starts=(0.0,)).held_out()


def test_nothing_is_reached_where_there_is_no_goal(local):
    with pytest.raises(ValueError, match="success: this problem defines none"):
        evaluation.reached(LinearQuadratic().problem(), pf.Run.open(local.path).evaluate(rollouts=1).rollouts)
