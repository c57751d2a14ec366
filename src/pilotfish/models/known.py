"""Known dynamics and costs, expanded along a trajectory: what iLQG and constrained guided policy search believe.

In deviations dz = [dx; du] from a trajectory of states x_t and actions u_t the dynamics are taken to first order and
the costs to second:

    dx' = A dx + B du,    cost_t(z_t + dz) = 1/2 dz'H dz + h'dz + c
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.algebra import quadratic
from pilotfish.models.cost import final_formula
from pilotfish.models.local import LocalModel
from pilotfish.models.nominal import Nominal
from pilotfish.types import Dynamics, Gaussian, LinearDynamics, LinearGaussian, Problem, Quadratic

UNSTABLE = (
    "the derivatives of the dynamics along the trajectory, multiplied over the episode, are not finite or too "
    "large, as they are in hard contact and on unstable systems. Choose what learns from rollouts: gps, mdgps, lqr-gps."
)
"""Why nothing follows from what is known, where cost and rollouts have no fault."""


class Expansion(NamedTuple):
    """The problem about a trajectory, in deviations from it."""

    AB: Float[Array, "T dx dz"]
    cost: Quadratic
    """Over dz, one per step."""
    final: Quadratic
    """Over dx."""


def known(problem: Problem, algorithm: str) -> Dynamics:
    """The dynamics of a problem of which dynamics and cost are known; ValueError, in the user's words, if not."""
    if problem.cost is None:
        raise ValueError(
            f"{algorithm} needs the cost: problem.cost is None. Write it in jax as cost(x, u, t), or choose moto."
        )
    final_formula(problem)
    if problem.dynamics is None:
        raise ValueError(
            f"{algorithm} needs the equations of motion: problem.dynamics is None. Write them in jax as dynamics(x, "
            "u), give a MuJoCo model, or choose an algorithm that learns from rollouts alone, such as moto."
        )
    return problem.dynamics


def expand(
    problem: Problem, AB: Float[Array, "T dx dz"], x: Float[Array, "T1 dx"], u: Float[Array, "T du"]
) -> Expansion:
    """The expansion about one trajectory, of which the derivatives [A, B] of the dynamics are given."""
    dx, cost_of, final_of = problem.dx, problem.cost, final_formula(problem)
    assert cost_of is not None

    def about(t: Array, z: Float[Array, "dz"]) -> Quadratic:
        return quadratic.expand(lambda dz: cost_of((z + dz)[:dx], (z + dz)[dx:], t), jnp.zeros_like(z))

    cost = jax.vmap(about)(jnp.arange(problem.horizon), jnp.concatenate([x[:-1], u], -1))
    return Expansion(AB, cost, quadratic.expand(lambda d: final_of(x[-1] + d), jnp.zeros(dx)))


def local_models(problem: Problem, dynamics: Dynamics, controllers: LinearGaussian) -> LocalModel:
    """What is known about the noise-free trajectories of controllers, leading axes (N, T), from their conditions'
    means. Not finite where a simulation broke off.
    """
    silent = LinearGaussian(controllers.K, controllers.k, jnp.zeros_like(controllers.chol))
    tried = jax.tree.map(lambda leaf: leaf[:, None], silent)
    x, u = (jnp.asarray(leaf)[:, 0] for leaf in dynamics.simulate(problem, problem.conditions.mean[:, None], tried))
    f = dynamics.linearised(problem, x[:, :-1], u)
    return _about(problem, x, u, jnp.asarray(f.A), jnp.asarray(f.B))


@eqx.filter_jit
def _about(problem: Problem, x: Array, u: Array, A: Array, B: Array) -> LocalModel:
    N, T, dx = A.shape[:3]
    AB = jnp.concatenate([A, B], -1)
    found = jax.vmap(lambda AB, x, u: expand(problem, AB, x, u))(AB, x, u)
    noise = jnp.broadcast_to(jnp.diag(problem.noise_std**2), (N, T, dx, dx))
    return LocalModel(
        nominal=Nominal(x, u),
        start=Gaussian(jnp.zeros_like(problem.conditions.mean), problem.conditions.cov),
        dynamics=LinearDynamics(A, B, jnp.zeros((N, T, dx)), noise),
        cost=found.cost,
        final=found.final,
    )
