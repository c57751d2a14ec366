"""What the README claims of learning, over several seeds. Minutes long: run by `pytest -m slow`."""

import dataclasses

import jax
import numpy as np
import pytest

from pilotfish.algorithms.moto import MOTO
from pilotfish.experiments import setups
from pilotfish.runs import loop
from pilotfish.tasks import registry
from pilotfish.worlds.jax import JaxWorld

pytestmark = pytest.mark.slow


def learn(task, setup, seeds):
    """Fraction of exploring rollouts that hold (seed, iteration), and of noise-free ones at the end (seed,)."""
    world, keys = JaxWorld(registry()[task].make().problem()), loop.root_keys(range(seeds))
    states = loop.initial(setup.algorithm, world, setup.rollouts, keys)
    states, report = loop.scan(setup.algorithm, world, setup.rollouts, keys, 0, setup.iterations, states)
    final = loop.evaluate(setup.algorithm, world, 50, jax.random.key(99), states)
    held = jax.vmap(jax.vmap(jax.vmap(world.problem.success)))(final.x, final.u)
    return np.asarray(report.outcome.success), np.asarray(held.mean((1, 2)))


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
    exploring, final = learn(task, setups.setup(task, algorithm), seeds)
    assert ((exploring > 0.9).any(1)).sum() >= least
    assert (final > 0.9).sum() >= least


def test_reuse_learns_the_double_link_from_twenty_rollouts_an_iteration():
    setup = setups.setup("double-link", "moto")
    algorithm = dataclasses.replace(setup.algorithm, reuse="both", entropy_drop=0.02)
    assert isinstance(algorithm, MOTO)
    exploring, final = learn("double-link", setups.Setup(algorithm, rollouts=20, iterations=75), 10)
    assert (exploring > 0.9).any(1).sum() >= 9
    assert (final > 0.9).sum() >= 9


@pytest.mark.parametrize("task", ["cartpole", "double-link"])
def test_a_mixture_as_prior_learns_from_five_rollouts_an_iteration(task):
    algorithm = dataclasses.replace(setups.setup(task, "lqr-gps").algorithm, prior="gmm")
    exploring, final = learn(task, setups.Setup(algorithm, rollouts=5, iterations=60), 10)
    assert (exploring > 0.9).any(1).sum() >= 9
    assert (final > 0.9).sum() >= 8
