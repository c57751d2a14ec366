"""What the README claims of learning, over several seeds. Minutes long: run by `pytest -m slow`."""

import dataclasses

import jax
import numpy as np
import pytest

from pilotfish import experiments, tasks
from pilotfish.algorithms import Setup
from pilotfish.algorithms.moto import MOTO
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.runs import loop
from pilotfish.runs.measured import measuring
from pilotfish.runs.train import train
from pilotfish.tasks import registry
from pilotfish.worlds.jax import JaxWorld

pytestmark = pytest.mark.slow


def learn(task, setup, seeds):
    """Fraction of exploring rollouts that hold (seed, iteration), and of noise-free ones at the end (seed,)."""
    world, keys = JaxWorld(registry()[task].make().problem()), loop.root_keys(range(seeds))
    states = loop.initial(setup.algorithm, world, setup.rollouts, keys)
    states, report = loop.scan(setup.algorithm, world, setup.rollouts, keys, 0, setup.iterations, states)
    final = loop.deploy(setup.algorithm, world, 50, jax.random.key(99), states)
    held = jax.vmap(jax.vmap(jax.vmap(world.problem.success)))(final.x, final.u)
    return np.asarray(report.outcome.success), np.asarray(held.mean((1, 2)))


def train_on(name, setup, seeds):
    """Noise-free episodes' costs and successes (seed,) of a task in its own world."""
    world = tasks.find(name).make().world()
    settings = {"rollouts": setup.rollouts, "iterations": setup.iterations, "seeds": range(seeds)}
    algorithm = measuring(setup.algorithm, world, setup.measured or 0)
    states = train(algorithm, world, **settings).states
    final = loop.deploy(algorithm, world, 20, jax.random.key(99), states)
    succeeds = world.problem.success or (lambda x, u: False)
    succeeded = jax.vmap(jax.vmap(jax.vmap(succeeds)))(final.x, final.u) & final.valid
    return np.asarray(final.cost.sum(-1).mean((1, 2))), np.asarray(succeeded.mean((1, 2)))


@pytest.mark.parametrize(
    ("task", "algorithm", "seeds", "least"),
    [
        ("peg", "lqr-gps", 3, 0.95),
        ("peg-blind", "lqr-gps", 3, 0.9),
        ("obstacles", "lqr-gps", 5, 0.9),
        ("peg-2d", "lqr-gps", 5, 0.85),
        ("peg-3d", "lqr-gps", 3, 0.95),
        ("octopus", "lqr-gps", 3, 0.95),
        ("obstacles", "moto", 3, 0.7),
        ("peg-2d", "moto", 3, 0.6),
        ("swimmer", "moto", 3, 0.6),
        ("swimmer-cgps", "lqr-gps", 3, 0.6),
        ("swimmer-cgps", "cgps", 3, 0.6),
    ],
)
def test_what_simulators_hold_is_learned(task, algorithm, seeds, least):
    """Of all seeds' noise-free episodes at least so many succeed."""
    assert train_on(task, experiments.setup(task, algorithm), seeds)[1].mean() >= least


@pytest.mark.parametrize(
    ("task", "algorithm", "twelfth", "last", "best"),
    [
        ("peg", "mdgps", 0.8, 0.8, 1.0),
        ("peg-blind", "mdgps", 0.6, 0.8, 1.0),
        ("peg-blind", "badmm", 0.6, 0.8, 1.0),
        ("obstacles", "mdgps", 0.3, 0.4, 0.9),
    ],
)
def test_networks_learn(task, algorithm, twelfth, last, best):
    """By the noise-free episodes of every update's network, about the ninth update to the twelfth, and at last; and of
    what each seed deploys, which is the best of them.
    """
    setup, world = experiments.setup(task, algorithm), tasks.find(task).make().world()
    counts = {"rollouts": setup.rollouts, "iterations": setup.iterations, "seeds": range(40, 43)}
    success = train(measuring(setup.algorithm, world, 1), world, **counts).metrics["noise_free_success"]
    assert success[:, 9:13].mean() >= twelfth
    assert success[:, -4:].mean() >= last
    assert success.max(1).mean() >= best


def test_a_swimmer_learns_from_thirty_episodes():
    """An episode costs 825 at first; LQR-GPS takes about 400 rollouts to half of that."""
    setup = experiments.setup("swimmer", "ilqg-learned")._replace(iterations=30)
    assert train_on("swimmer", setup, 2)[0].max() < 0.4 * 825


def test_a_walker_walks_better_than_its_demonstration():
    problem = registry()["walker"].make().problem()
    shown = LinearGaussianPolicy(problem.first_controller).noise_free()
    before = registry()["walker"].make().world().rollout(shown, 20, jax.random.key(0)).cost.sum(-1).mean()
    cost, walks = train_on("walker", experiments.setup("walker", "lqr-gps"), 3)
    assert (walks == 1.0).all()
    assert cost.max() < 0.75 * before


def test_reacher_is_learned_from_its_rewards():
    """Seven of ten seeds or more find the better one of its two minima."""
    setup = experiments.setup("gym:Reacher-v5", "lqr-gps")._replace(rollouts=10, iterations=20)
    assert (train_on("gym:Reacher-v5", setup, 10)[0] < 3.5).sum() >= 7


@pytest.mark.parametrize(
    ("task", "algorithm", "seeds", "least"),
    [
        ("cartpole", "moto", 10, 10),
        ("double-link", "moto", 10, 10),
        ("quad-link", "moto", 5, 4),
        ("cartpole", "lqr-gps", 10, 10),
        ("double-link", "lqr-gps", 10, 10),
        ("cartpole", "ilqg", 10, 10),
        ("double-link", "ilqg", 10, 10),
    ],
)
def test_swing_ups_are_learned(task, algorithm, seeds, least):
    exploring, final = learn(task, experiments.setup(task, algorithm), seeds)
    assert ((exploring > 0.9).any(1)).sum() >= least
    assert (final > 0.9).sum() >= least


def test_reuse_learns_the_double_link_from_twenty_rollouts_an_iteration():
    setup = experiments.setup("double-link", "moto")
    algorithm = dataclasses.replace(setup.algorithm, reuse="both", entropy_drop=0.02)
    assert isinstance(algorithm, MOTO)
    exploring, final = learn("double-link", Setup(algorithm, rollouts=20, iterations=75), 10)
    assert (exploring > 0.9).any(1).sum() >= 9
    assert (final > 0.9).sum() >= 9


@pytest.mark.parametrize("task", ["cartpole", "double-link"])
def test_a_mixture_as_prior_learns_from_five_rollouts_an_iteration(task):
    algorithm = dataclasses.replace(experiments.setup(task, "lqr-gps").algorithm, dynamics=FittedDynamics(prior="gmm"))
    exploring, final = learn(task, Setup(algorithm, rollouts=5, iterations=60), 10)
    assert (exploring > 0.9).any(1).sum() >= 9
    assert (final > 0.9).sum() >= 8
