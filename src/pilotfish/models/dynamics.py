"""Linear-Gaussian dynamics of each time step, fitted to rollouts (GPS'14, section 3 and its Appendix A).

The samples of step t give the mean and covariance of `[x; u; x']`; conditioned on [x; u] that is

    x' ~ N(A x + B u + c, F)

With fewer samples than dimensions the covariance is first drawn towards a prior: the normal-inverse-Wishart
posterior whose mean mu and covariance Phi come from a mixture of Gaussians, fitted to the transitions of all time
steps and recent iterations, as it is near step t's samples. With n samples of mean m and covariance S,

    covariance = [ n S + Phi + n / (n + 1) (m - mu)(m - mu)' ] / (n + n0)

for a prior that counts as one sample. The fit goes through the samples' own mean m, not the posterior's, as in the
GPS code of Finn et al.
"""

from typing import Literal, NamedTuple, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import gaussian, mixture, regression
from pilotfish.algebra.mixture import Mixture
from pilotfish.models.nominal import Nominal
from pilotfish.types import Gaussian, Key, LinearDynamics, Problem, Rollouts

Prior = Literal["none", "gmm"]

EM_ITERATIONS = 20
"""Most steps of expectation-maximisation in an update; it begins where the last update's ended."""
EM_TOLERANCE = 1e-2
"""Change of the mean log-likelihood at which they end, nats."""


class Memory(NamedTuple):
    """What the mixture is fitted to, and where its next fit begins."""

    points: Float[Array, "*N K M T d"]
    """Transitions [x; u; x'] of the last iterations, newest first."""
    happened: Float[Array, "*N K M T"]
    """1 where there is a transition, else 0."""
    mixture: Mixture
    fitted: Bool[Array, "*N"]


class FittedDynamics(eqx.Module):
    """The dynamics of each time step, fitted to this iteration's rollouts, with or without a prior."""

    prior: Prior = eqx.field(static=True, default="none")
    """Prior of the dynamics: none, or a mixture of Gaussians over the transitions of all steps and recent iterations,
    which makes do with fewer rollouts than state and action have dimensions."""
    clusters: int = eqx.field(static=True, default=20)
    """Most Gaussians in the mixture."""
    samples_per_cluster: int = eqx.field(static=True, default=40)
    """There are no more Gaussians than one in so many transitions, but at least two."""
    memory: int = eqx.field(static=True, default=20)
    """Number of the newest rollouts from a condition that the mixture sees, rounded up to whole iterations."""

    def __check_init__(self):
        if self.prior not in get_args(Prior):
            raise ValueError(f"prior={self.prior!r}: choose one of {', '.join(get_args(Prior))}.")
        for name, least, why in (
            ("clusters", 2, "a mixture has at least 2 Gaussians"),
            ("samples_per_cluster", 1, "at least 1 transition a Gaussian"),
            ("memory", 1, "the mixture needs at least this iteration's rollouts"),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: {why}.")

    def needed(self, dx: int, du: int) -> int:
        """The least number of transitions with which a step's dynamics can be fitted."""
        return dx + du + 2 if self.prior == "none" else 2

    def begin(self, problem: Problem, episodes: int) -> Memory | None:
        """What one condition remembers before its first rollouts; None without a prior. ValueError if `episodes` an
        iteration are too few.
        """
        dx, du, T = problem.dx, problem.du, problem.horizon
        need = self.needed(dx, du)
        if episodes < need and self.prior == "none":
            raise ValueError(
                f"rollouts={episodes}: without a prior the dynamics of {dx} + {du} variables need at least {need} "
                f"rollouts an iteration. Raise rollouts to {need} or more, or set prior='gmm'."
            )
        if episodes < need:
            raise ValueError(f"rollouts={episodes}: the dynamics need at least {need} rollouts an iteration.")
        if self.prior == "none":
            return None
        K, d = -(-self.memory // episodes), 2 * dx + du
        clusters = min(max(K * episodes * T // self.samples_per_cluster, 2), self.clusters)
        return Memory(
            points=jnp.zeros((K, episodes, T, d)),
            happened=jnp.zeros((K, episodes, T)),
            mixture=Mixture(
                jnp.zeros(clusters),
                jnp.zeros((clusters, d)),
                jnp.broadcast_to(jnp.eye(d), (clusters, d, d)),
            ),
            fitted=jnp.asarray(False),
        )

    def fit(
        self, memory: Memory | None, rollouts: Rollouts, nominal: Nominal, key: Key
    ) -> tuple[Memory | None, LinearDynamics, Bool[Array, ""]]:
        """What one condition remembers after its M rollouts, the dynamics of all steps (leading axis T) in deviations
        from `nominal`, and whether every step had transitions enough. Rollouts must be `cleaned`.
        """
        happened = rollouts.happened.astype(rollouts.x.dtype)
        count = happened.sum(0)
        enough = (count >= self.needed(rollouts.x.shape[-1], rollouts.u.shape[-1])).all()
        if memory is not None:
            memory = _remembered(memory, transitions(rollouts.x, rollouts.u), happened, key)
        prior = None if memory is None else memory.mixture
        return memory, fit(rollouts.x, rollouts.u, rollouts.weight[:, :-1], count, nominal, prior), enough


def _remembered(old: Memory, points: Float[Array, "M T d"], happened: Float[Array, "M T"], key: Key) -> Memory:
    """The memory with this iteration's transitions in front, and the mixture fitted to it."""
    points = jnp.concatenate([points[None], old.points[:-1]])
    happened = jnp.concatenate([happened[None], old.happened[:-1]])
    z, weight = points.reshape(-1, points.shape[-1]), happened.ravel()
    clusters = old.mixture.log_weight.shape[0]
    start = jax.lax.cond(old.fitted, lambda: old.mixture, lambda: mixture.begin(z, weight, clusters, key))
    fitted = mixture.fit(z, weight, start, EM_ITERATIONS, EM_TOLERANCE)
    return Memory(points, happened, fitted, happened.any())


def transitions(x: Float[Array, "*M T1 dx"], u: Float[Array, "*M T du"]) -> Float[Array, "*M T d"]:
    """`[x; u; x']` of every step, d = 2 dx + du."""
    return jnp.concatenate([x[..., :-1, :], u, x[..., 1:, :]], -1)


def fit(
    x: Float[Array, "M T1 dx"],
    u: Float[Array, "M T du"],
    weight: Float[Array, "M T"],
    count: Float[Array, "T"],
    nominal: Nominal,
    prior: Mixture | None = None,
) -> LinearDynamics:
    """The dynamics of all steps, leading axis T, in deviations from `nominal`, from transitions of which those of
    weight 0 do not count.

    The weights of a step sum to 1, and `count` is the number of transitions that they stand for.
    """
    points, dx = jnp.moveaxis(transitions(x, u), 1, 0), x.shape[-1]
    origin = transitions(nominal.x, nominal.u)
    near = None if prior is None else mixture.moments_near(prior, points, weight.T)
    z = points[..., :-dx].reshape(-1, points.shape[-1] - dx)
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
        return conditioned(Gaussian(mean, cov), dx, least)

    return jax.vmap(step)(points, weight.T, count, origin, near)


def conditioned(joint: Gaussian, dx: int, least: Float[Array, "dz"]) -> LinearDynamics:
    """`x'` given [x; u], of a joint distribution of [x; u; x']; `least` is what is resolved of [x; u], as in
    `regression.least_std`.
    """
    z, after = slice(None, -dx), slice(-dx, None)
    chol = gaussian.robust_cholesky(joint.cov[z, z], least)
    white = gaussian.solve_chol(chol, joint.cov[z, after])
    AB = gaussian.solve_chol_right(white.T, chol)
    cov = joint.cov[after, after] - white.T @ white
    return LinearDynamics(AB[:, :dx], AB[:, dx:], joint.mean[after] - AB @ joint.mean[z], cov)
