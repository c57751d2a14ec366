"""The world of problems whose dynamics are a JAX function: all rollouts advance together in one scan."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.algebra import gaussian
from pilotfish.policies import Policy
from pilotfish.types import Gaussian, Key, Problem, Rollouts
from pilotfish.worlds import World


class JaxWorld(World):
    """Simulates `problem.dynamics`; can be compiled together with the algorithm."""

    problem: Problem

    def __check_init__(self):
        if self.problem.dynamics is None:
            raise ValueError("problem.dynamics is None: JaxWorld simulates a problem by its own equations.")
        if self.problem.cost is None:
            raise ValueError("problem.cost is None: JaxWorld has no other cost than the problem's.")

    @property
    def traceable(self) -> bool:
        return True

    def rollout(self, policy: Policy, samples: int, key: Key) -> Rollouts:
        N = self.problem.conditions.mean.shape[0]
        keys = jax.random.split(key, (N, samples))
        one = jax.vmap(self._episode, in_axes=(None, None, 0))
        return jax.vmap(one)(policy, self.problem.conditions, keys)

    def _episode(self, policy: Policy, condition: Gaussian, key: Key) -> Rollouts:
        problem = self.problem
        start_key, policy_key, noise_key = jax.random.split(key, 3)
        episode = policy.begin(policy_key)
        observe = problem.observe or (lambda x: x)
        zero = jnp.zeros((), condition.mean.dtype)

        def noise() -> Float[Array, "T dx"]:
            shape = (problem.horizon, problem.dx)
            if problem.noise_std is None:
                return jnp.zeros(shape)
            return problem.noise_std * jax.random.normal(noise_key, shape)

        def step(x, at_t):
            t, disturbance = at_t
            o = observe(x)
            u = policy.act(episode, t, x, o)
            assert problem.dynamics is not None
            assert problem.cost is not None
            return problem.dynamics(x, problem.admissible(u)) + disturbance, (x, o, u, problem.cost(x, u, t))

        x0 = gaussian.draw(condition, start_key)
        last, (x, o, u, cost) = jax.lax.scan(step, x0, (jnp.arange(problem.horizon), noise()))
        final = zero if problem.final_cost is None else problem.final_cost(last)
        x = jnp.concatenate([x, last[None]])
        o = jnp.concatenate([o, observe(last)[None]])
        cost = jnp.concatenate([cost, jnp.asarray(final, cost.dtype)[None]])
        valid = jnp.isfinite(x).all() & jnp.isfinite(u).all() & jnp.isfinite(cost).all()
        return Rollouts(x, o, u, cost, valid, episode)
