"""What is learned does not depend on the units of states, actions and costs, nor on where their zeros are.

The same problem is written in other units, and solved with the same random numbers: what comes out must be the same
controller in those units. Its state has an entry that never changes, its value 1e8 in the plainest of units, and one
that repeats another; one of its actions has no effect at all, and no cost.
"""

import functools
from typing import NamedTuple

import equinox as eqx
import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Array

from pilotfish.algorithms import Algorithm, trpo
from pilotfish.algorithms.badmm import BADMM
from pilotfish.algorithms.gps import GPS
from pilotfish.algorithms.ilqg import ILQG
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.mdgps import MDGPS
from pilotfish.algorithms.moto import MOTO
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.models.local_q import FittedQ
from pilotfish.runs import loop
from pilotfish.types import Gaussian, LinearGaussian, Problem
from pilotfish.updates.s_step import SStep
from pilotfish.updates.step_size import StepSize
from pilotfish.worlds.jax import JaxWorld

T, DX, DU, ITERATIONS = 4, 5, 3, 10
STD = np.array([0.2, 0.3, 0.1, 0.0, 0.2])
MEAN = np.array([0.3, 0.3, 0.3, 1e8, 0.3])
EXACT = 1e-6


class Units(NamedTuple):
    """How one writes the problem: x' = x_unit x + x_zero, u' = u_unit u, cost' = cost_unit cost + cost_zero - less."""

    x_unit: Array
    x_zero: Array
    u_unit: Array
    cost_unit: Array
    cost_zero: Array
    less: Array


def written(x_unit=1.0, x_zero=0.0, u_unit=1.0, cost_unit=1.0, cost_zero=0.0, less=0.0) -> Units:
    sizes = ((x_unit, (DX,)), (x_zero, (DX,)), (u_unit, (DU,)), (cost_unit, ()), (cost_zero, ()), (less, ()))
    return Units(*(jnp.broadcast_to(jnp.asarray(value, float), size) for value, size in sizes))


class Ahead(eqx.Module):
    """A pendulum-like chain with one entry that stays and one that repeats the first, as the units have it."""

    units: Units

    def __call__(self, x, u):
        s, a = (x - self.units.x_zero) / self.units.x_unit, u / self.units.u_unit
        first = s[0] + 0.3 * s[1]
        ahead = [first, s[1] - 0.3 * jnp.sin(s[0]) + 0.3 * a[0], 0.8 * s[2] + 0.5 * s[0] + a[1], s[3], first]
        return self.units.x_unit * jnp.stack(ahead) + self.units.x_zero


class Cost(eqx.Module):
    """What it costs, as the units have it."""

    units: Units

    def __call__(self, x, u, t):
        s, a = (x - self.units.x_zero) / self.units.x_unit, u / self.units.u_unit
        plain = (s[0] - 1.0) ** 2 + 0.3 * s[1] ** 2 + 0.5 * (1.0 - jnp.cos(s[2])) + 0.05 * (a[:2] ** 2).sum()
        return (self.units.cost_unit * plain + self.units.cost_zero) - self.units.less


def problem(units: Units) -> Problem:
    root = np.diag(STD)
    root[4] = root[0]
    cov = np.asarray(units.x_unit)[:, None] * (root @ root.T) * np.asarray(units.x_unit)
    return Problem(
        horizon=T,
        dt=0.1,
        conditions=Gaussian((units.x_unit * MEAN + units.x_zero)[None], jnp.asarray(cov)[None]),
        initial_std=0.7 * units.u_unit,
        cost=Cost(units),
        dynamics=Ahead(units),
        noise_std=jnp.asarray([0.0, 0.02, 0.02, 0.0, 0.0]) * units.x_unit,
    )


LESSON = SStep(steps=200, batch=16, precision="float64")
ALGORITHMS: dict[str, tuple[Algorithm, int]] = {
    "moto": (MOTO(), 120),
    "moto, reuse": (MOTO(reuse="both", memory=2), 60),
    "moto, propagated": (MOTO(marginal="propagated", reuse="iterations", memory=2), 90),
    "moto, monte carlo": (MOTO(targets="monte-carlo"), 120),
    "lqr-gps": (LQRGPS(step=StepSize(smallest=0.1, largest=10.0)), 15),
    "lqr-gps, mixture": (LQRGPS(dynamics=FittedDynamics(prior="gmm", samples_per_cluster=20)), 6),
    "lqr-gps, step": (LQRGPS(trust="step"), 15),
    "ilqg": (ILQG(), 2),
    "trpo": (trpo.TRPO(kl_step=0.1, actor="linear-gaussian", value="quadratic"), 60),
    "mdgps": (MDGPS(teach=LESSON, imagined=2), 15),
    "mdgps, moto": (MDGPS(teach=LESSON, c_step="moto", q=FittedQ(), step=StepSize()), 120),
    "badmm": (BADMM(teach=LESSON, imagined=2, inner=2), 15),
    "gps": (GPS(teach=LESSON, kl_step=0.3), 15),
    "cgps": (GPS(teach=LESSON, model="known", terms="gradient", points=8), 5),
}
NETWORKS = ("mdgps", "mdgps, moto", "badmm", "gps", "cgps")
"""They take longest to compile."""


def controller(state) -> LinearGaussian:
    """Of all conditions; iLQG's belongs to its trajectory, TRPO's is its policy."""
    holder = state.policy if isinstance(state, trpo.State) else getattr(state, "nominal", state)
    return holder.controller


def learned(name: str, units: Units, iterations: int = ITERATIONS) -> list[LinearGaussian]:
    """The controller of the only condition after one and after all iterations."""
    algorithm, episodes = ALGORITHMS[name]
    world, keys, found = JaxWorld(problem(units)), loop.root_keys([7]), []
    states = loop.initial(algorithm, world, episodes, keys)
    for i in range(iterations):
        states, report = loop.scan(algorithm, world, episodes, keys, jnp.asarray(i), 1, states)
        assert np.asarray(report.info.ok).all()
        found.append(jax.tree.map(lambda leaf: np.asarray(leaf[0, 0]), controller(states)))
    return [found[0], found[-1]]


@functools.cache
def plainly(name: str, known_to: float = 0.0) -> list[LinearGaussian]:
    """In plain units. A cost that is far from zero is known to fewer digits: the same it is here, then, less that."""
    return learned(name, written(cost_zero=known_to, less=known_to))


def apart(found: LinearGaussian, plain: LinearGaussian, units: Units) -> float:
    """By how much two controllers differ near the states of the problem, in standard deviations of the first."""
    x = np.tile(MEAN, (50, 1))
    x[:, :3] += 0.3 * np.random.default_rng(0).normal(size=(50, 3))
    x[:, 4] = x[:, 0]
    u = np.einsum("tij,nj->tni", plain.K, x) + plain.k[:, None]
    there = np.einsum("tij,nj->tni", found.K, units.x_unit * x + units.x_zero) + found.k[:, None]
    noise = found.chol / np.asarray(units.u_unit)[:, None] - plain.chol
    return max(np.abs(there / units.u_unit - u).max(), np.abs(noise).max()) / 0.7


WRITTEN = {
    "small states": written(x_unit=1e-9),
    "large states": written(x_unit=1e9),
    "mixed states": written(x_unit=[1e-9, 3e9, 0.7, 1e-5, 20.0]),
    "mixed actions": written(u_unit=[2e-9, 1e9, 1e-3]),
    "far states": written(x_zero=[3e5, -2e5, 1e5, -1e8, 3e5]),
    "small costs": written(cost_unit=1e-12),
    "large costs": written(cost_unit=1e12),
    "far costs": written(cost_zero=3e8),
}


ALWAYS = {"moto", "lqr-gps"}
"""All others are slow to compile; a network's own units are in the tests of its S-step, iLQG's in those of float32."""


def marked(names):
    return [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", marked(ALGORITHMS))
def test_units_and_origins_do_not_matter(name):
    """One update, and ten iterations."""
    for how, units in WRITTEN.items():
        first, last = zip(learned(name, units), plainly(name, float(units.cost_zero)), strict=True)
        assert apart(*first, units) < EXACT, how
        # a state that moves by a rounding of its own can move such a cost by a whole digit, 1e-7 of its spread
        assert apart(*last, units) < (100 * EXACT if how == "far costs" else EXACT), how


exponents = st.floats(-9, 9)


@pytest.mark.parametrize("name", marked(name for name in ALGORITHMS if name not in NETWORKS))
@settings(deadline=None, max_examples=7, derandomize=True)
@given(
    arrays.arrays(float, DX, elements=exponents),
    arrays.arrays(float, DU, elements=exponents),
    st.floats(-12, 12),
)
def test_any_units_give_the_same_first_update(name, x, u, cost):
    units = written(x_unit=10**x, u_unit=10**u, cost_unit=10**cost)
    assert apart(learned(name, units, 1)[0], plainly(name)[0], units) < EXACT


@pytest.mark.parametrize("name", marked(name for name in ALGORITHMS if name not in NETWORKS))
def test_nothing_is_learned_of_an_entry_that_stays(name):
    assert np.abs(plainly(name)[-1].K[..., 3]).max() * MEAN[3] < 1e-4
