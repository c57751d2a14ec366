"""What worlds share that step simulations on the host: all actions of a time step come from one compiled call.

On the host nothing else of JAX runs in a time step: to split a key there, or to compute eagerly, costs milliseconds.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from pilotfish.algebra import gaussian
from pilotfish.policies import Policy
from pilotfish.types import Key, Problem


@eqx.filter_jit
def begin(problem: Problem, policy: Policy, samples: int, key: Key) -> tuple[Float[Array, "N M dx"], Any]:
    """Initial states of `samples` rollouts from each condition, and what the policy draws for each."""

    def one(policy, condition, key):
        start_key, policy_key = jax.random.split(key)
        return gaussian.draw(condition, start_key), policy.begin(policy_key)

    keys = jax.random.split(key, (len(problem.conditions.mean), samples))
    return jax.vmap(jax.vmap(one, (None, None, 0)))(policy, problem.conditions, keys)


class Actor:
    """A policy in all rollouts at once."""

    def __init__(self, problem: Problem, policy: Policy, episode: Any):
        arrays, static = eqx.partition((policy, problem.observe), eqx.is_array)
        self._act = functools.partial(_act, static, *arrays, episode)

    def __call__(self, t: int, x: Float[np.ndarray, "N M dx"]) -> Float[np.ndarray, "NM du"]:
        """The actions of step t, one row a rollout."""
        u = np.asarray(self._act(t, x))
        return u.reshape(-1, u.shape[-1])


@functools.partial(jax.jit, static_argnums=0)
def _act(static, policy, observe, episode, t, x: Float[Array, "N M dx"]) -> Float[Array, "N M du"]:
    """Actions of a policy given as its arrays and its rest: a call then costs .1 ms, a tenth of filter_jit's."""

    def one(policy, episode, x):
        acting, seeing = eqx.combine((policy, observe), static)
        return acting.act(episode, t, x, x if seeing is None else seeing(x))

    return jax.vmap(jax.vmap(one, (None, 0, 0)))(policy, episode, x)


def admissible(problem: Problem, u: Float[np.ndarray, "*n du"]) -> Float[np.ndarray, "*n du"]:
    """The actions that the plant executes."""
    return u if problem.action_low is None else np.clip(u, problem.action_low, problem.action_high)
