"""A global policy, as a time-varying linear-Gaussian controller near the samples of one condition (MDGPS, section 4.1).

    u ~ N(K_t dx + k_t, C_t)    in deviations from the mean trajectory

in one of three ways:

    autodiff      K_t is the policy's derivative, averaged over the samples of step t; k_t its mean action there. C_t is
                  its covariance.
    mean          Derivative, action and covariance in the mean state of step t alone.
    regression    of the policy's actions on the states of step t, with the prior of a mixture of Gaussians over [x; u]
                  of all steps and recent iterations (the papers). What the linear function leaves unexplained adds to
                  C_t. Needs no derivative, of the policy or of what is observed.

The first is what the throw-away experiments of this project found best: with few samples a regression says little of
directions in which these do not vary, and what happens in one state says little of a network with corners.
"""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.algebra import gaussian
from pilotfish.models import regressed
from pilotfish.models.nominal import Nominal
from pilotfish.models.regressed import Memory
from pilotfish.policies.gaussian import GaussianPolicy
from pilotfish.types import Key, LinearGaussian, Problem, Rollouts, check_choice

How = Literal["autodiff", "mean", "regression"]


class Linearisation(eqx.Module):
    """How a global policy becomes a linear-Gaussian controller about the samples of a condition."""

    how: How = eqx.field(static=True, default="autodiff")
    """Its derivative averaged over the samples of a step (autodiff), at their mean (mean), or a regression of its
    actions on the states, with a mixture prior (regression: the papers)."""
    clusters: int = eqx.field(static=True, default=20)
    """Of a regression: most Gaussians in the mixture."""
    samples_per_cluster: int = eqx.field(static=True, default=40)
    """Of a regression: there are no more Gaussians than one in so many samples, but at least two."""
    memory: int = eqx.field(static=True, default=20)
    """Of a regression: number of the newest rollouts from a condition that the mixture sees, in whole iterations."""

    def __check_init__(self):
        check_choice(self, "how", How)
        regressed.check_sizes(self)

    def begin(self, problem: Problem, episodes: int) -> Memory | None:
        """What one condition remembers before its first rollouts: states. None where nothing need be."""
        if self.how != "regression":
            return None
        sizes = {"clusters": self.clusters, "samples_per_cluster": self.samples_per_cluster, "memory": self.memory}
        return regressed.begin(episodes, problem.horizon, problem.dx, problem.dx + problem.du, **sizes)

    def __call__(
        self,
        problem: Problem,
        policy: GaussianPolicy,
        memory: Memory | None,
        rollouts: Rollouts,
        nominal: Nominal,
        key: Key,
    ) -> tuple[Memory | None, LinearGaussian]:
        """What one condition remembers after its `cleaned` rollouts, and the policy as a controller (leading axis T) of
        the deviations from `nominal`, their mean.
        """
        if self.how == "mean":
            x = nominal.x[None, :-1]
            return memory, derivative(problem, policy, x, jnp.ones_like(x[..., 0]), nominal)
        x, weight = rollouts.x[:, :-1], rollouts.weight[:, :-1]
        if self.how == "autodiff":
            return memory, derivative(problem, policy, x, weight, nominal)
        assert memory is not None
        memory = regressed.remembered(memory, x, rollouts.happened.astype(x.dtype))
        memory = regressed.fit_mixture(memory, _acting(problem, policy, memory.points), key)
        cov = _covariance(problem, policy, x, weight)
        origin = jnp.concatenate([nominal.x[:-1], nominal.u], -1)
        points, count = _acting(problem, policy, x), rollouts.happened.sum(0).astype(x.dtype)
        prior = regressed.near(memory.mixture, points, weight)
        found = regressed.fit(points, weight, count, origin, problem.dx, prior)
        return memory, LinearGaussian(found.gain, found.offset, gaussian.robust_cholesky(cov + found.cov))


def derivative(
    problem: Problem, policy: GaussianPolicy, x: Float[Array, "M T dx"], weight: Float[Array, "M T"], nominal: Nominal
) -> LinearGaussian:
    """The policy's first-order expansion in deviations from `nominal`, averaged over samples with these weights, which
    sum to 1 at each step.
    """

    def mean(t: Array, x: Float[Array, "dx"]) -> Float[Array, "du"]:
        return policy.mean(t, x, problem.observe(x))

    t = jnp.arange(x.shape[1])
    u = jax.vmap(jax.vmap(mean), (None, 0))(t, x)
    gains = jax.vmap(jax.vmap(jax.jacrev(mean, 1)), (None, 0))(t, x)
    K = jnp.einsum("mt,mtij->tij", weight, gains)
    k = jnp.einsum("mt,mti->ti", weight, u - nominal.u - jnp.einsum("tij,mtj->mti", K, x - nominal.x[:-1]))
    return LinearGaussian(K, k, gaussian.robust_cholesky(_covariance(problem, policy, x, weight)))


def _covariance(
    problem: Problem, policy: GaussianPolicy, x: Float[Array, "M T dx"], weight: Float[Array, "M T"]
) -> Float[Array, "T du du"]:
    """The policy's covariance at each step, averaged over samples."""

    def cov(t: Array, x: Float[Array, "dx"]) -> Float[Array, "du du"]:
        chol = policy.chol(t, x, problem.observe(x))
        return chol @ chol.T

    return jnp.einsum("mt,mtij->tij", weight, jax.vmap(jax.vmap(cov), (None, 0))(jnp.arange(x.shape[1]), x))


def _acting(problem: Problem, policy: GaussianPolicy, x: Float[Array, "*M T dx"]) -> Float[Array, "*M T d"]:
    """`[x; u]` of the policy's mean actions."""

    def at(t: Array, x: Float[Array, "dx"]) -> Float[Array, "d"]:
        return jnp.concatenate([x, policy.mean(t, x, problem.observe(x))])

    over_time = jax.vmap(at)
    rollouts = x.reshape(-1, *x.shape[-2:])
    points = jax.vmap(over_time, (None, 0))(jnp.arange(x.shape[-2]), rollouts)
    return points.reshape(*x.shape[:-1], -1)
