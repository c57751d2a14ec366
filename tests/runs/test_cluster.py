"""Seeds on a cluster of two nodes: the same bits as one process's, whoever is killed on the way."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
from oracles.same import assert_same

import pilotfish as pf
from pilotfish import cli, experiments, nodes, tasks
from pilotfish.algorithms import Setup
from pilotfish.experiments.claims import Arm, PaperFigure
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.policies.network import Network
from pilotfish.runs import RunError, arms, cluster, parts
from pilotfish.runs.spec import Spec
from pilotfish.runs.store import Run
from pilotfish.tasks.lq import LinearQuadratic

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
SEEDS = [7, 3, 11]
ITERATIONS = 12
WORDS = ["lq", "--algorithm", "reps", "--rollouts", "10", "--iterations", "40", "--seeds", "2", "--no-film"]

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def two_nodes():
    """A cluster of two nodes of one core, to which nobody is connected."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found.add_node(num_cpus=1)
    yield found
    found.shutdown()


def spec(seeds=SEEDS, iterations=ITERATIONS, **how):
    task, algorithm = ("lq", LinearQuadratic()), ("reps", pf.REPS(**how))
    return Spec.of(task, algorithm, rollouts=10, iterations=iterations, seeds=seeds, checkpoint_every=1)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What one process makes of it."""
    run = Run.create(tmp_path_factory.mktemp("together") / "run", spec())
    _, algorithm, world = run.assemble()
    arms.finish(run, algorithm, world)
    return run


def assert_same_run(run, other):
    for name in ("metrics.csv", "columns.json"):
        assert (run.path / name).read_bytes() == (other.path / name).read_bytes(), name
    assert run.done() == other.done()
    states, others = run.load_state(), other.load_state()
    assert_same(states[1], others[1])
    assert not run.divided


def workers(what):
    """Processes of Ray's workers that do this."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if title.startswith(b"ray::" + what):
            found.append(int(process.name))
    return found


@slow
def test_runs_on_two_nodes_are_those_of_one_process(tmp_path, two_nodes, together):
    runs = [Run.create(tmp_path / "a", spec()), Run.create(tmp_path / "b", spec(seeds=[5], kl_step=0.3))]
    told = []
    assert cluster.finish(runs, two_nodes.address, observe=lambda *word: told.append(word)) == ["", ""]
    assert_same_run(runs[0], together)
    assert [done for run, seed, done in told if run is runs[1]] == list(range(ITERATIONS + 1))
    assert cluster.finish(runs, two_nodes.address) == ["", ""]  # nothing is left


@slow
def test_a_worker_that_is_killed_is_replaced(tmp_path, two_nodes, together):
    run, killed, told = Run.create(tmp_path / "run", spec()), [], []

    def kill(run, seed, done):
        told.append((seed, done))
        if done == 3 and not killed:
            killed.extend(workers(b"_learn"))
            for process in killed:
                os.kill(process, signal.SIGKILL)

    cluster.finish([run], two_nodes.address, observe=kill)
    assert killed
    again = [one for one, before in zip(told[1:], told[:-1], strict=True) if told.count(one) > 1]
    assert any(done >= 3 for _, done in again)  # from a checkpoint, not from the beginning
    assert_same_run(run, together)


@slow
def test_a_worker_that_dies_again_and_again_ends_it_and_loses_nothing(tmp_path, two_nodes, together):
    run = Run.create(tmp_path / "run", spec(seeds=SEEDS[:1]))

    ended = threading.Event()

    def kill():
        while not ended.wait(0.02):
            for process in workers(b"_learn"):
                os.kill(process, signal.SIGKILL)

    def begin(run, seed, done):
        if done == 3 and not killer.is_alive():
            killer.start()

    killer = threading.Thread(target=kill)
    with pytest.raises(RunError, match=r"seed 7 .* died 3 times, with no checkpoint between .*memory"):
        cluster.finish([run], two_nodes.address, observe=begin)
    ended.set()
    killer.join()
    assert run.divided
    cluster.finish([run], two_nodes.address)
    assert run.done() == ITERATIONS


@slow
def test_a_node_that_is_removed_is_not_missed(tmp_path, two_nodes, together):
    node, removed = two_nodes.add_node(num_cpus=1), []
    run = Run.create(tmp_path / "run", spec())

    def remove(run, seed, done):
        if done == 3 and not removed:
            removed.append(node)
            two_nodes.remove_node(node, allow_graceful=False)

    cluster.finish([run], two_nodes.address, observe=remove)
    assert removed
    assert_same_run(run, together)


@slow
def test_who_asks_may_be_killed(tmp_path, two_nodes):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert cli.run(["train", *WORDS, "--out", str(whole)]) == 0
    words = ["train", *WORDS, "--checkpoint-every", "1", "--ray", two_nodes.address, "--out", str(killed)]
    process = subprocess.Popen([sys.executable, "-m", "pilotfish", *words], stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(killed.glob("seeds/*/checkpoint-000005.safetensors")):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert Run.open(killed).divided
    assert cli.run(["resume", str(killed), "--ray", two_nodes.address, "--no-film"]) == 0
    for name in ("metrics.csv", "evaluation.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


@slow
def test_an_error_of_the_users_is_told_and_what_is_logged_comes_back(tmp_path, two_nodes, capsys):
    out = tmp_path / "run"
    words = ["train", *WORDS, "--iterations", "3", "--log", "tensorboard", "--out", str(out)]
    assert cli.run([*words, "--ray", two_nodes.address]) == 0
    assert sorted(path.name for path in (out / "tensorboard").iterdir()) == ["seed0", "seed1"]
    assert "seed 1: 3 of 3 iterations" in capsys.readouterr().out


def here(runs, address, log=(), observe=None):
    """In place of a cluster: the same, one after the other."""
    found = []
    for run in runs:
        with run.writing():
            found.append(parts.finish(run, log, observe))
    return found


@pytest.mark.slow
def test_sweeps_learn_what_is_left_on_a_cluster(tmp_path, monkeypatch):
    finish = mock.Mock(side_effect=here)
    monkeypatch.setattr(cluster, "finish", finish)
    words = ["sweep", *WORDS[:-1], "--iterations", "3", "--algorithm.kl-step", "0.2,0.4"]
    assert cli.run([*words, "--out", str(tmp_path / "alone")]) == 0
    assert not finish.called
    for _ in range(2):
        assert cli.run([*words, "--out", str(tmp_path / "apart"), "--ray", "local"]) == 0
        assert [run.path.name for run in finish.call_args.args[0]] == ["kl_step=0.2", "kl_step=0.4"]
    assert finish.call_count == 1  # nothing was left
    for path in (tmp_path / "alone").glob("*/metrics.csv"):
        assert path.read_bytes() == (tmp_path / "apart" / path.parent.name / path.name).read_bytes()


@pytest.mark.slow
def test_figures_learn_what_is_left_on_a_cluster(tmp_path, monkeypatch):
    arm = Arm("some", "lq", "reps", Setup(pf.REPS(), rollouts=10, iterations=3))
    toy = PaperFigure("toy/1", "a toy", "", (arm, arm.but("others", kl_step=0.2)), (), {}, seeds=2)
    monkeypatch.setattr(experiments, "figures", lambda: {"toy/1": toy})
    finish = mock.Mock(side_effect=here)
    monkeypatch.setattr(cluster, "finish", finish)
    words = ["figure", "toy/1", "--ray", "local", "--out", str(tmp_path / "figure")]
    assert cli.run(words) == 0
    assert [run.path.name for run in finish.call_args.args[0]] == ["some", "others"]
    assert Run.open(tmp_path / "figure" / "others").done() == 3


# -- rollouts on workers


@pytest.fixture(scope="module")
def swimming():
    """A world of MuJoCo and policies that act in it: with and without a condition axis."""
    world = tasks.find("peg").make().world()
    controllers = LinearGaussianPolicy(world.problem.first_controller)
    network = Network(width=8).policy(world.problem, jax.random.key(0))
    return world, {"controllers": controllers, "network": network}


@slow
@pytest.mark.parametrize("kind", ["controllers", "network"])
def test_rollouts_are_the_same_for_any_number_of_workers(two_nodes, swimming, kind):
    world, policies = swimming
    with nodes.connected(two_nodes.address):
        found = []
        for count in (1, 2):
            apart = pf.RayWorld(world, count)
            found.append(apart.rollout(policies[kind], 2, jax.random.key(1)))
            apart.close()
    assert_same(*found)
    alone = world.rollout(policies[kind], 2, jax.random.key(1))
    np.testing.assert_allclose(found[0].x[:, :, :10], alone.x[:, :, :10], atol=1e-6)
    assert found[0].x.shape == alone.x.shape


@slow
def test_an_episode_whose_worker_is_killed_is_made_again(two_nodes, swimming):
    world, policies = swimming
    with nodes.connected(two_nodes.address):
        apart = pf.RayWorld(world, 2)
        first = apart.rollout(policies["controllers"], 2, jax.random.key(1))
        os.kill(workers(b"_Worker")[0], signal.SIGKILL)
        assert_same(apart.rollout(policies["controllers"], 2, jax.random.key(1)), first)
        apart.close()


@slow
def test_learning_with_rollouts_on_workers(tmp_path, two_nodes, swimming):
    world = swimming[0]
    with nodes.connected(two_nodes.address):
        apart = pf.RayWorld(world, 2)
        result = pf.train(pf.REPS(), apart, rollouts=3, iterations=2)
        apart.close()
    assert np.isfinite(result.metrics["cost"]).all()


def test_worlds_whose_rollouts_cannot_be_apart_are_refused():
    world = LinearQuadratic().world()
    with pytest.raises(ValueError, match=r"compiled together with the algorithm.*--ray"):
        pf.RayWorld(world, 2)
    with pytest.raises(ValueError, match="there is one"):
        pf.RayWorld(pf.PlantWorld(world.problem, world.plant(1)), 2)
    with pytest.raises(ValueError, match="workers=0"):
        pf.RayWorld(tasks.find("peg").make().world(), 0)


def test_without_a_cluster_it_is_said_how_to_have_one(tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run", spec(seeds=[0]))
    monkeypatch.setattr("ray.init", mock.Mock(side_effect=ConnectionError("Could not find any running Ray instance.")))
    with pytest.raises(RunError, match=r"no Ray cluster at 'auto' .Could not .*ray start --head.*local"):
        cluster.finish([run], "auto")


def test_without_ray_it_is_said_how_to_have_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pilotfish.extras.find_spec", lambda name: None)
    for command in (["train", *WORDS], ["figure", "moto/3a", "--quick"]):
        assert cli.run([*command, "--ray", "auto", "--out", str(tmp_path / "none")]) == 2
        assert "pip install 'pilotfish[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_what_ray_cannot_do_is_refused(tmp_path, capsys):
    assert cli.run(["train", *WORDS, "--ray", "auto", "--log", "wandb", "--out", str(tmp_path / "none")]) == 2
    assert "TensorBoard only" in capsys.readouterr().err
    words = ["sweep", *WORDS[:-1], "--algorithm.kl-step", "0.1:0.5", "--search", "2", "--ray", "auto"]
    assert cli.run([*words, "--out", str(tmp_path / "none")]) == 2
    assert "one choice after the other" in capsys.readouterr().err
