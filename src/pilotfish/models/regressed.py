"""A linear-Gaussian map of each time step, by regression on samples (GPS'14, section 3 and its Appendix A).

The samples of step t give the mean and covariance of `[a; b]`, inputs and outputs; conditioned on a that is

    b ~ N(G a + g, F)

With fewer samples than dimensions the covariance is first drawn towards a prior: the normal-inverse-Wishart
posterior whose mean mu and covariance Phi come from a mixture of Gaussians, fitted to the samples of all time
steps and recent iterations, as it is near step t's samples. With n samples of mean m and covariance S,

    covariance = [ n S + Phi + n / (n + 1) (m - mu)(m - mu)' ] / (n + n0)

for a prior that counts as one sample. The fit goes through the samples' own mean m, not the posterior's, as in the
GPS code of Finn et al.

The dynamics (`[x; u]` to `x'`) and a linearised policy (`x` to `u`) are both this.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import mixture, regression
from pilotfish.algebra.mixture import Mixture
from pilotfish.algebra.regression import Regressed
from pilotfish.types import Gaussian, Key

EM_ITERATIONS = 20
"""Most steps of expectation-maximisation in an update; it begins where the last update's ended."""
EM_TOLERANCE = 1e-2
"""Change of the mean log-likelihood at which they end, nats."""


class Memory(NamedTuple):
    """What the mixture is fitted to, and where its next fit begins."""

    points: Float[Array, "*N K M T d"]
    """Samples of the last iterations, newest first."""
    happened: Float[Array, "*N K M T"]
    """1 where there is a sample, else 0."""
    mixture: Mixture
    fitted: Bool[Array, "*N"]


def check_sizes(part: Any) -> None:
    """ValueError for a `part` whose clusters, samples_per_cluster or memory make no mixture."""
    for name, least, why in (
        ("clusters", 2, "a mixture has at least 2 Gaussians"),
        ("samples_per_cluster", 1, "at least 1 sample a Gaussian"),
        ("memory", 1, "the mixture needs at least this iteration's rollouts"),
    ):
        if getattr(part, name) < least:
            raise ValueError(f"{name}={getattr(part, name)}: {why}.")


def begin(episodes: int, T: int, kept: int, d: int, *, clusters: int, samples_per_cluster: int, memory: int) -> Memory:
    """What one condition remembers before its first rollouts.

    It keeps `kept` numbers of each sample, and its mixture is one over d; `memory` is the least number of the newest
    rollouts, `episodes` of them an iteration.
    """
    K = -(-memory // episodes)
    clusters = min(max(K * episodes * T // samples_per_cluster, 2), clusters)
    return Memory(
        points=jnp.zeros((K, episodes, T, kept)),
        happened=jnp.zeros((K, episodes, T)),
        mixture=Mixture(
            jnp.zeros(clusters),
            jnp.zeros((clusters, d)),
            jnp.broadcast_to(jnp.eye(d), (clusters, d, d)),
        ),
        fitted=jnp.asarray(False),
    )


def remembered(old: Memory, points: Float[Array, "M T d"], happened: Float[Array, "M T"]) -> Memory:
    """The memory with this iteration's samples in front; its mixture is the old one."""
    points = jnp.concatenate([points[None], old.points[:-1]])
    happened = jnp.concatenate([happened[None], old.happened[:-1]])
    return Memory(points, happened, old.mixture, old.fitted)


def fit_mixture(memory: Memory, points: Float[Array, "K M T d"], key: Key) -> Memory:
    """The memory with its mixture fitted to `points`, which are its own or what follows from them."""
    z, weight = points.reshape(-1, points.shape[-1]), memory.happened.ravel()
    clusters = memory.mixture.log_weight.shape[0]
    start = jax.lax.cond(memory.fitted, lambda: memory.mixture, lambda: mixture.begin(z, weight, clusters, key))
    fitted = mixture.fit(z, weight, start, EM_ITERATIONS, EM_TOLERANCE)
    return Memory(memory.points, memory.happened, fitted, memory.happened[0].any())


def near(prior: Mixture, points: Float[Array, "M T d"], weight: Float[Array, "M T"]) -> Gaussian:
    """What a mixture says of each step, by where its points are."""
    return mixture.moments_near(prior, jnp.moveaxis(points, 1, 0), weight.T)


def fit(
    points: Float[Array, "M T d"],
    weight: Float[Array, "M T"],
    count: Float[Array, "T"],
    origin: Float[Array, "T d"],
    inputs: int,
    prior: Gaussian | None = None,
) -> Regressed:
    """The map of each step from the first `inputs` coordinates of its points to the others, in deviations from
    `origin`. Points of weight 0 do not count.

    The weights of a step sum to 1, and `count` is the number of samples that they stand for; a `prior`, one of each
    step, stands for one more.
    """
    points = jnp.moveaxis(points, 1, 0)
    z = points[..., :inputs].reshape(-1, inputs)
    least = regression.least_std(z, weight.T.ravel())

    def step(
        points: Float[Array, "M d"],
        weight: Float[Array, "M"],
        count: Float[Array, ""],
        origin: Float[Array, "d"],
        near: Gaussian | None,
    ):
        mean, cov = regression.moments(points - origin, weight)
        if near is not None:
            cov = regression.normal_inverse_wishart(mean, cov, count, Gaussian(near.mean - origin, near.cov))
        return regression.conditioned(Gaussian(mean, cov), inputs, least)

    return jax.vmap(step)(points, weight.T, count, origin, prior)
