"""How iLQG on learned dynamics stands noisy sensors and actions that come late:
python benchmarks/noise_and_delay.py [TASK] [--noise 0.01] [--delay] [--seeds 20] [--episodes 9] [--quick]

TASK is cartpole or double-link. What is measured, m, rad, m/s and rad/s, errs by that part of its size; an action that
comes a step late is told to the algorithm by making the last one part of the state. Printed are the episodes after
which 20 of 20 noise-free episodes of the newest plan hold, of each seed.
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from pilotfish.algebra import gaussian
from pilotfish.algorithms.ilqg import ILQG
from pilotfish.policies import over_conditions
from pilotfish.runs import loop
from pilotfish.runs.measured import measuring
from pilotfish.tasks import Task
from pilotfish.tasks.cartpole import CartPole
from pilotfish.tasks.multi_link import MultiLink
from pilotfish.types import Gaussian, Problem, Rollouts
from pilotfish.worlds import World

TASKS: dict[str, tuple[Task, list[float]]] = {
    "cartpole": (CartPole(), [1.0, 2.0, 2.0, 5.0]),
    "double-link": (MultiLink(), [3.0, 3.0, 5.0, 5.0]),
}
"""With the size of the states in a swing-up."""


class Measured(World):
    """A system as its sensors tell it."""

    true: Problem
    problem: Problem
    std: Array
    late: bool = eqx.field(static=True)

    @property
    def traceable(self) -> bool:
        return True

    def plant(self, copies: int):
        raise NotImplementedError

    def rollout(self, policy, episodes, key):
        keys = jax.random.split(key, (1, episodes))
        return over_conditions(
            lambda policy, condition, keys: jax.vmap(lambda key: self.episode(policy, condition, key))(keys),
            policy,
            self.true.conditions,
            keys,
        )

    def episode(self, policy, condition, key):
        start, draw, sense = jax.random.split(key, 3)
        true = self.true
        x, last = gaussian.draw(condition, start), jnp.zeros(true.du)
        error = self.std * jax.random.normal(sense, (true.horizon + 1, true.dx))
        seen = self.seen(x, last, error[0])
        episode = policy.begin(draw, seen, seen)

        def step(carry, now):
            (x, last), (t, error) = carry, now
            seen = self.seen(x, last, error)
            u = policy.act(episode, t, seen, seen)
            done = true.admissible(u)
            return (true.dynamics(x, last if self.late else done), done), (seen, u, true.cost(x, u, t))

        (x, last), (z, u, cost) = jax.lax.scan(step, (x, last), (jnp.arange(true.horizon), error[:-1]))
        z = jnp.concatenate([z, self.seen(x, last, error[-1])[None]])
        return Rollouts.recorded(z, z, u, jnp.append(cost, 0.0), episode)

    def seen(self, x, last, error):
        return jnp.concatenate([x + error, last]) if self.late else x + error


def world(name: str, noise: float, late: bool) -> Measured:
    task, size = TASKS[name]
    true, std = task.problem(), noise * np.array(size)
    more, start = true.du if late else 0, true.conditions
    problem = Problem(
        horizon=true.horizon,
        dt=true.dt,
        conditions=Gaussian(
            jnp.pad(start.mean, ((0, 0), (0, more))),
            jnp.pad(start.cov + jnp.diag(std**2), ((0, 0), (0, more), (0, more))),
        ),
        initial_std=true.initial_std,
        cost=lambda x, u, t: true.cost(x[: true.dx], u, t),
        action_low=true.action_low,
        action_high=true.action_high,
        success=lambda x, u: true.success(x[:, : true.dx], u),
        angles=true.angles,
    )
    return Measured(true, problem, jnp.asarray(std), late)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", nargs="?", choices=TASKS, default="cartpole")
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--delay", action="store_true")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--episodes", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    args = parser.parse_args()
    seeds, episodes = (1, 2) if args.quick else (args.seeds, args.episodes)
    measured = world(args.task, args.noise, args.delay)
    learner, keys = measuring(ILQG(dynamics="learned"), measured, 20), loop.root_keys(range(seeds))
    turns = loop.turns(learner, measured, 1, keys, 0, episodes, loop.initial(learner, measured, 1, keys))
    holds = np.array([turn.report.info.noise_free_success for turn in turns]).T == 1
    print(", ".join(str(int(np.argmax(seed))) if seed.any() else f"not in {episodes - 1}" for seed in holds))


if __name__ == "__main__":
    main()
