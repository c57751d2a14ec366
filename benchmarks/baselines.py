"""How long an iteration of the baselines and of MOTO on table tennis takes: python benchmarks/baselines.py [--quick]

Rollouts and update apart, in ms: MOTO on table tennis (20 rollouts, reuse of five iterations, with and without that of
time steps), MORE for the 18 goals of its movement primitive, TRPO with a network of 64 x 64 on the double link (20
rollouts); and a product with TRPO's Fisher matrix as it is here, beside one that differentiates a gradient.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from run import alternate

from pilotfish.algorithms import Algorithm, trpo
from pilotfish.algorithms.moto import MOTO
from pilotfish.experiments.moto_tennis import SETUP
from pilotfish.tasks.multi_link import MultiLink
from pilotfish.tasks.table_tennis import TableTennis
from pilotfish.updates.natural_gradient import divergence
from pilotfish.worlds import World

KEY = jax.random.key(0)


def of_iteration(name: str, algorithm: Algorithm, world: World, episodes: int) -> dict[str, Callable[[], Any]]:
    """Rollouts and update of an iteration, once two have been."""
    problem = world.problem
    update = eqx.filter_jit(algorithm.update)
    roll = eqx.filter_jit(world.rollout) if world.traceable else world.rollout
    state = algorithm.init(problem, episodes, KEY)
    for _ in range(2):
        rollouts = roll(algorithm.explore(state), episodes, KEY)
        state = update(problem, state, rollouts, KEY)[0]
    return {
        f"{name}, rollouts": lambda: roll(algorithm.explore(state), episodes, KEY).cost,
        f"{name}, update": lambda: eqx.filter(update(problem, state, rollouts, KEY), eqx.is_array),
    }


def of_fisher(episodes: int) -> dict[str, Callable[[], Any]]:
    """A product with the Fisher matrix of TRPO's network, in two ways."""
    world, algorithm = MultiLink().world(), trpo.TRPO()
    policy = algorithm.init(world.problem, episodes, KEY).policy
    data = world.rollout(policy, episodes, KEY)
    relative, parameters, *_ = trpo._network(policy, data)
    weight, zero = jnp.full(data.happened.size, 1.0 / data.happened.size), jnp.zeros(parameters)

    @jax.jit
    def linearised(v: jax.Array) -> jax.Array:
        _, forwards = jax.linearize(relative, zero)
        backwards = jax.linear_transpose(forwards, zero)

        def product(_: int, v: jax.Array) -> jax.Array:
            y, r = forwards(v)
            return backwards(trpo.Relative(weight[:, None] * y, 2.0 * weight[:, None] * r))[0]

        return jax.lax.fori_loop(0, algorithm.conjugate, product, v)

    @jax.jit
    def differentiated(v: jax.Array) -> jax.Array:
        def gradient(d: jax.Array) -> jax.Array:
            return jax.grad(lambda d: divergence(relative(d), weight))(d)

        return jax.lax.fori_loop(0, algorithm.conjugate, lambda _, v: jax.jvp(gradient, (zero,), (v,))[1], v)

    v = jax.random.normal(KEY, (parameters,))
    return {"10 products": lambda: linearised(v), "10 products, differentiated": lambda: differentiated(v)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    quick = parser.parse_args().quick
    M, tennis, links = (4 if quick else 20), TableTennis().world(), MultiLink().world()
    calls = {
        **of_iteration("MOTO, table tennis", MOTO(reuse="both", memory=5), tennis, M),
        **of_iteration("MOTO, table tennis, reuse of iterations alone", MOTO(reuse="iterations", memory=5), tennis, M),
        **of_iteration("MORE, table tennis", SETUP["more"].algorithm, tennis, SETUP["more"].rollouts),
        **of_iteration("TRPO, double link", trpo.TRPO(), links, M),
        **of_fisher(M),
    }
    times = alternate(calls, 2 if quick else 9)
    for name, took in times.items():
        print(f"| {name} | {1e3 * took:.0f} ms |")
    steps = M * links.problem.horizon
    both = times["TRPO, double link, rollouts"] + times["TRPO, double link, update"]
    print(f"TRPO: {1e6 * both / steps:.0f} microseconds a step of the environment.")
    ratio = times["10 products, differentiated"] / times["10 products"]
    print(f"A product that differentiates the gradient takes {ratio:.1f} times as long.")


if __name__ == "__main__":
    main()
