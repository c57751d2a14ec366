"""What is learned does not depend on the units of states, actions and costs, nor on where their zeros are.

The same problem is written in other units, and solved with the same random numbers: what comes out must be the same
controller in those units. To 1e-6 of the first exploration's standard deviation, from states within three standard
deviations.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pilotfish.algorithms import Algorithm
from pilotfish.algorithms.ilqg import ILQG
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.moto import MOTO
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.runs import loop
from pilotfish.types import Gaussian, LinearGaussian, Problem
from pilotfish.updates.step_size import StepSize
from pilotfish.worlds.jax import JaxWorld

T, DX, DU = 5, 3, 2
EXACT = 1e-6


class Units(NamedTuple):
    """How one writes the problem: x' = x_unit x + x_zero, u' = u_unit u, cost' = cost_unit cost + cost_zero."""

    x_unit: np.ndarray | float = 1.0
    x_zero: np.ndarray | float = 0.0
    u_unit: np.ndarray | float = 1.0
    cost_unit: float = 1.0
    cost_zero: float = 0.0


def problem(units: Units = Units(), blind: bool = False) -> Problem:
    """A pendulum-like chain: two actions, a stiff and a soft state, and one that follows slowly."""
    x_unit, u_unit = np.broadcast_to(units.x_unit, DX), np.broadcast_to(units.u_unit, DU)

    def dynamics(x, u):
        s, a = (x - units.x_zero) / x_unit, u / u_unit
        ahead = jnp.array([s[0] + 0.3 * s[1], s[1] - 0.3 * jnp.sin(s[0]) + 0.3 * a[0], 0.8 * s[2] + 0.5 * s[0] + a[1]])
        return x_unit * ahead + units.x_zero

    def cost(x, u, t):
        s, a = (x - units.x_zero) / x_unit, u / u_unit
        plain = (s[0] - 1.0) ** 2 + 0.3 * s[1] ** 2 + 0.5 * (1.0 - jnp.cos(s[2])) + 0.05 * (a**2).sum()
        return units.cost_unit * plain + units.cost_zero

    spread = x_unit * np.array([0.2, 0.3, 0.1])
    return Problem(
        horizon=T,
        dt=0.1,
        conditions=Gaussian(jnp.asarray(x_unit * 0.3 + units.x_zero)[None], jnp.diag(jnp.asarray(spread) ** 2)[None]),
        initial_std=0.7 * u_unit,
        cost=cost,
        dynamics=dynamics,
        noise_std=0.02 * x_unit,
    )


ALGORITHMS: dict[str, tuple[Algorithm, int]] = {
    "moto": (MOTO(), 30),
    "moto, reuse": (MOTO(reuse="both", memory=2), 12),
    "moto, propagated": (MOTO(marginal="propagated", reuse="iterations", memory=2), 25),
    "moto, monte carlo": (MOTO(targets="monte-carlo"), 30),
    "lqr-gps": (LQRGPS(step=StepSize(smallest=0.1, largest=10.0)), 12),
    "lqr-gps, mixture": (LQRGPS(dynamics=FittedDynamics(prior="gmm", samples_per_cluster=20)), 6),
    "lqr-gps, step": (LQRGPS(trust="step"), 12),
    "ilqg": (ILQG(), 2),
}


def learned(of: Problem, algorithm: Algorithm, episodes: int, iterations: int) -> LinearGaussian:
    """The controller of the only condition after some iterations."""
    world, keys = JaxWorld(of), loop.root_keys([7])
    first = loop.initial(algorithm, world, episodes, keys)
    states, report = loop.scan(algorithm, world, episodes, keys, 0, iterations, first)
    assert np.asarray(report.info.ok).all()
    return jax.tree.map(lambda leaf: np.asarray(leaf[0, 0]), states.controller)


@functools.cache
def plainly(name: str, iterations: int) -> LinearGaussian:
    return learned(problem(), *ALGORITHMS[name], iterations)


def apart(found: LinearGaussian, plain: LinearGaussian, units: Units) -> float:
    """By how much two controllers differ near the states of the problem, in standard deviations of the first."""
    rng = np.random.default_rng(0)
    x = 0.3 + 0.3 * rng.normal(size=(50, DX))
    u = np.einsum("tij,nj->tni", plain.K, x) + plain.k[:, None]
    there = np.einsum("tij,nj->tni", found.K, units.x_unit * x + units.x_zero) + found.k[:, None]
    noise = found.chol / np.broadcast_to(units.u_unit, DU)[:, None] - plain.chol
    return max(np.abs(there / units.u_unit - u).max(), np.abs(noise).max()) / 0.7


WRITTEN = {
    "small states": Units(x_unit=1e-9),
    "large states": Units(x_unit=1e9),
    "mixed states": Units(x_unit=np.array([1e-9, 3e9, 0.7])),
    "mixed actions": Units(u_unit=np.array([2e-9, 1e9])),
    "far states": Units(x_zero=np.array([3e5, -2e5, 1e5])),
    "small costs": Units(cost_unit=1e-12),
    "large costs": Units(cost_unit=1e12),
    "far costs": Units(cost_zero=1e9),
}


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_units_and_origins_do_not_matter(name, written):
    units = WRITTEN[written]
    found = learned(problem(units), *ALGORITHMS[name], 10)
    assert apart(found, plainly(name, 10), units) < EXACT
