"""The world of problems whose dynamics are equations in JAX: all rollouts advance together in one scan."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from pilotfish.algebra import gaussian
from pilotfish.policies import Policy, over_conditions
from pilotfish.types import Equations, Gaussian, Key, Problem, Rollouts
from pilotfish.worlds import World
from pilotfish.worlds.plant import EquationsPlant


class JaxWorld(World):
    """Simulates `problem.dynamics`; can be compiled together with the algorithm.

    ValueError where the problem lacks its equations or a cost, or where one of its functions is not finite where
    learning begins.

    Example:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import pilotfish as pf
    >>> start = pf.Gaussian(jnp.array([[1.0, 0.0]]), jnp.zeros((1, 2, 2)))
    >>> move = lambda x, u: x + 0.1 * jnp.append(x[1], u)
    >>> world = pf.JaxWorld(pf.Problem(50, 0.1, start, [1.0], cost=lambda x, u, t: x @ x, dynamics=move))
    >>> policy = pf.LinearGaussianPolicy(world.problem.first_controller)
    >>> world.rollout(policy, 3, jax.random.key(0)).x.shape  # (condition, rollout, step, state)
    (1, 3, 51, 2)
    """

    problem: Problem
    """Its dynamics are equations."""

    def __check_init__(self):
        if not isinstance(self.problem.dynamics, Equations):
            raise ValueError(
                f"problem.dynamics is {_name(self.problem.dynamics)}: JaxWorld simulates a problem by its own "
                "equations. Give it a function dynamics(x, u) in jax."
            )
        if self.problem.cost is None:
            raise ValueError("problem.cost is None: JaxWorld has no other cost than the problem's.")
        if self.problem.final_cost is None:
            raise ValueError("problem.final_cost is None: JaxWorld has no other final cost than the problem's.")
        _check_start(self.problem)

    @property
    def traceable(self) -> bool:
        return True

    def plant(self, copies: int) -> EquationsPlant:
        return EquationsPlant(self.problem, copies)

    def rollout(self, policy: Policy, episodes: int, key: Key) -> Rollouts:
        keys = jax.random.split(key, (len(self.problem.conditions.mean), episodes))

        def of_condition(policy: Policy, condition: Gaussian, keys: Array) -> Rollouts:
            return jax.vmap(self._episode, (None, None, 0))(policy, condition, keys)

        return over_conditions(of_condition, policy, self.problem.conditions, keys)

    def _episode(self, policy: Policy, condition: Gaussian, key: Key) -> Rollouts:
        problem, dynamics, cost_of = self.problem, self.problem.dynamics, self.problem.cost
        assert isinstance(dynamics, Equations)
        assert cost_of is not None
        assert problem.final_cost is not None
        start_key, policy_key, noise_key = jax.random.split(key, 3)
        x0 = gaussian.draw(condition, start_key)
        episode = policy.begin(policy_key, x0, problem.observe(x0))
        noise: Float[Array, "T dx"] = problem.noise_std * jax.random.normal(noise_key, (problem.horizon, problem.dx))

        def step(x, at_t):
            t, disturbance = at_t
            o = problem.observe(x)
            u = policy.act(episode, t, x, o)
            return dynamics(x, problem.admissible(u)) + disturbance, (x, o, u, cost_of(x, u, t))

        last, (x, o, u, cost) = jax.lax.scan(step, x0, (jnp.arange(problem.horizon), noise))
        x = jnp.concatenate([x, last[None]])
        o = jnp.concatenate([o, problem.observe(last)[None]])
        cost = jnp.concatenate([cost, jnp.asarray(problem.final_cost(last), cost.dtype)[None]])
        return Rollouts.recorded(x, o, u, cost, episode)


def _check_start(problem: Problem) -> None:
    """ValueError where a function of the problem is not finite where learning begins: in the first condition's mean, as
    its controller acts there. While JAX traces that is not known.
    """

    def values(mean, controllers):
        assert isinstance(problem.dynamics, Equations)
        assert problem.cost is not None
        assert problem.final_cost is not None
        x = mean[0]
        u = jax.tree.map(lambda leaf: leaf[0, 0], controllers).mean(x)
        found = {
            "observe(x)": problem.observe(x),
            "dynamics(x, u)": problem.dynamics(x, problem.admissible(u)),
            "cost(x, u, t)": problem.cost(x, u, jnp.asarray(0)),
            "final_cost(x)": problem.final_cost(x),
        }
        if problem.success is not None:
            xs, us = (jnp.broadcast_to(z, (n, *z.shape)) for z, n in ((x, problem.horizon + 1), (u, problem.horizon)))
            found["success(x, u)"] = problem.success(xs, us)
        return x, u, found

    # one program, in a fraction of the time that a rollout's takes to compile
    x, u, found = jax.jit(values)(problem.conditions.mean, problem.first_controller)
    for name, value in found.items():
        if not isinstance(value, Tracer) and not np.isfinite(value).all():
            raise ValueError(
                f"{name} is {np.asarray(value).tolist()} where learning begins: at step 0, in the state "
                f"x={x.tolist()} (the first condition's mean) with the action u={u.tolist()}. It must be finite there: "
                "mend the function, or begin elsewhere."
            )


def _name(dynamics: object) -> str:
    return "None" if dynamics is None else f"of the kind {type(dynamics).__name__}"
