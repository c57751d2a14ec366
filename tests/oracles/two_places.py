"""The linear-quadratic task from two places, rolled out and learned from: conditions that learn side by side."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.types import Gaussian
from pilotfish.worlds.jax import JaxWorld

EPISODES, KEY = 12, jax.random.key(4)


def task():
    problem = LinearQuadratic().problem()
    mean = jnp.concatenate([problem.conditions.mean, -0.7 * problem.conditions.mean])
    cov = jnp.concatenate([problem.conditions.cov] * 2)
    return dataclasses.replace(problem, conditions=Gaussian(mean, cov), first_controller=None)


PROBLEM = task()


@eqx.filter_jit
def update(algorithm, state, rollouts, key):
    return algorithm.update(PROBLEM, state, rollouts, key)


@eqx.filter_jit
def roll(policy, key):
    return JaxWorld(PROBLEM).rollout(policy, EPISODES, key)
