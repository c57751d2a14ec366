"""Linear-Gaussian dynamics of each time step, fitted to rollouts (GPS'14, section 3 and its Appendix A).

    x' ~ N(A x + B u + c, F)

by regression on the transitions of that step, with or without a prior from those of all steps: models/regressed.py.

With fewer samples than dimensions some directions are the prior's alone, and there a model may grow by a tenth every
step where the system does not: over an episode by 1e4 and more, and a step of the policy about it tames a phantom. But
where the controller that was rolled out went is known. So a step's outcome is drawn in wherever the model has this very
controller go much further than its rollouts did (`agreeing`).
"""

import math
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pilotfish.algebra import gaussian, regression
from pilotfish.algebra.batch import chosen
from pilotfish.models import regressed
from pilotfish.models.learned_dynamics import Experience, Learned, LearnedDynamics
from pilotfish.models.nominal import Nominal
from pilotfish.models.regressed import Memory
from pilotfish.types import Gaussian, Key, LinearDynamics, LinearGaussian, Problem, Rollouts, check_choice

Prior = Literal["none", "gmm", "learned"]


class FittedDynamics(eqx.Module):
    """The dynamics of each time step, fitted to this iteration's rollouts, with or without a prior.

    Source: Levine & Abbeel (NIPS 2014), section 3 and Appendix A. ValueError for a setting out of its range, or for
    fewer rollouts an iteration than `needed`.

    Example:

    >>> import pilotfish as pf
    >>> dynamics = pf.FittedDynamics(prior="gmm", memory=40)
    >>> dynamics.needed(dx=4, du=2), pf.FittedDynamics().needed(dx=4, du=2)  # rollouts an iteration
    (2, 8)
    >>> algorithm = pf.LQRGPS(dynamics=dynamics)
    """

    prior: Prior = eqx.field(static=True, default="none")
    """Prior of the dynamics, which makes do with fewer rollouts than state and action have dimensions: none, a mixture
    of Gaussians over the transitions of all steps and recent iterations (gmm), or what was learned of all states from
    all conditions and iterations (learned: ours)."""
    clusters: int = eqx.field(static=True, default=20)
    """Most Gaussians in the mixture."""
    samples_per_cluster: int = eqx.field(static=True, default=40)
    """There are no more Gaussians than one in so many transitions, but at least two."""
    memory: int = eqx.field(static=True, default=20)
    """Number of the newest rollouts from a condition that the mixture sees, rounded up to whole iterations."""
    excess: float = eqx.field(static=True, default=math.inf)
    """In no direction may the model have the controller that was rolled out go further, in variance, than so many times
    what its rollouts and the prior show; inf: it may."""

    learned: LearnedDynamics = LearnedDynamics()
    """With prior learned: how. Then none of `clusters`, `samples_per_cluster` and `memory` counts."""

    def __check_init__(self):
        check_choice(self, "prior", Prior)
        regressed.check_sizes(self)
        if not self.excess >= 1:
            raise ValueError(f"excess={self.excess}: a factor of the variance that is seen; give 1 or more, or inf.")

    def needed(self, dx: int, du: int) -> int:
        """The least number of transitions with which a step's dynamics can be fitted."""
        return dx + du + 2 if self.prior == "none" else 2

    def begin(self, problem: Problem, episodes: int) -> Memory | Experience | None:
        """What each condition remembers before its first rollouts, or all of them together with prior learned; None
        without a prior. ValueError if `episodes` an iteration are too few.
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
        if self.prior == "learned":
            return self.learned.begin(problem, episodes)
        d, N = 2 * dx + du, len(problem.conditions.mean)
        sizes = {"clusters": self.clusters, "samples_per_cluster": self.samples_per_cluster, "memory": self.memory}
        one = regressed.begin(episodes, T, d, d, **sizes)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (N, *leaf.shape)), one)

    def fit(
        self,
        memory: Memory | None,
        rollouts: Rollouts,
        nominal: Nominal,
        start: Gaussian,
        controller: LinearGaussian,
        model: Learned | None,
        key: Key,
    ) -> tuple[Memory | None, LinearDynamics, Bool[Array, ""]]:
        """What one condition remembers after its M rollouts, the dynamics of all steps (leading axis T) in deviations
        from `nominal`, and whether every step had transitions enough. Rollouts must be `cleaned`; they began as `start`
        says, and `controller` was rolled out, both in deviations too. `model` is what was learned of all states.
        """
        happened = rollouts.happened.astype(rollouts.x.dtype)
        count = happened.sum(0)
        enough = (count >= self.needed(rollouts.x.shape[-1], rollouts.u.shape[-1])).all()
        weight, prior = rollouts.weight[:, :-1], None
        if memory is not None:
            points = transitions(rollouts.x, rollouts.u)
            memory = regressed.remembered(memory, points, happened)
            memory = regressed.fit_mixture(memory, memory.points, key)
            prior = regressed.near(memory.mixture, points, weight)
        elif model is not None:
            prior = along(model, rollouts, nominal)
        found, spread = fit(rollouts.x, rollouts.u, weight, count, nominal, prior)
        if math.isfinite(self.excess):
            x = rollouts.x[:, 1:].reshape(-1, rollouts.x.shape[-1])
            found = agreeing(found, spread, start, controller, self.excess, regression.least_std(x, happened.ravel()))
        return memory, found, enough


def transitions(x: Float[Array, "*M T1 dx"], u: Float[Array, "*M T du"]) -> Float[Array, "*M T d"]:
    """`[x; u; x']` of every step, d = 2 dx + du."""
    return jnp.concatenate([x[..., :-1, :], u, x[..., 1:, :]], -1)


def fit(
    x: Float[Array, "M T1 dx"],
    u: Float[Array, "M T du"],
    weight: Float[Array, "M T"],
    count: Float[Array, "T"],
    nominal: Nominal,
    prior: Gaussian | None = None,
) -> tuple[LinearDynamics, Float[Array, "T dx dx"]]:
    """The dynamics of all steps, leading axis T, in deviations from `nominal`, from transitions of which those of
    weight 0 do not count; and how each step's outcome varies, by samples and prior.

    The weights of a step sum to 1, and `count` is the number of transitions that they stand for.
    """
    dx, dz = x.shape[-1], x.shape[-1] + u.shape[-1]
    found = regressed.fit(transitions(x, u), weight, count, transitions(nominal.x, nominal.u), dz, prior)
    return LinearDynamics(found.gain[..., :dx], found.gain[..., dx:], found.offset, found.cov), found.spread


def along(model: Callable[[Array, Array], Array], rollouts: Rollouts, nominal: Nominal) -> Gaussian:
    """What learned dynamics say of each step's `[x; u; x']`, as a prior: their expansion about the nominal trajectory,
    with inputs that vary as much as those of all steps together.
    """
    dx, (x, u) = rollouts.x.shape[-1], nominal.deviations(rollouts)
    weight = rollouts.weight[:, :-1]
    z = jnp.concatenate([x[:, :-1], u], -1)
    spread = jnp.einsum("mt,mti->i", weight, z**2) / jnp.maximum(weight.sum(), 1.0)

    def step(x: Float[Array, "dx"], u: Float[Array, "du"]) -> Gaussian:
        at = jnp.concatenate([x, u])
        gain = jnp.concatenate([jnp.eye(len(at)), jax.jacfwd(lambda z: model(z[:dx], z[dx:]))(at)])
        return Gaussian(jnp.concatenate([at, model(x, u)]), (gain * spread) @ gain.T)

    return jax.vmap(step)(nominal.x[:-1], nominal.u)


def agreeing(
    dynamics: LinearDynamics,
    spread: Float[Array, "T dx dx"],
    start: Gaussian,
    controller: LinearGaussian,
    excess: float,
    least: Float[Array, "dx"],
) -> LinearDynamics:
    """Dynamics in which this controller goes, in no direction, much further than it went: the second moment of every
    step's outcome is at most `excess` times its `spread`. Dynamics that are so already stay as they are.

    In coordinates in which the spread S = LL' is the identity, the principal axes of the second moment that are too
    long are shortened. With `L^-1 E[x'x''] L^-T = V diag(v) V'` the outcome is multiplied by

        M = L V diag(min(1, sqrt(excess / v))) V' L^-1.

    An entry that varies by less than `least` is taken to vary by that: rounding is no excess.
    """

    def step(x: Gaussian, at_t: tuple[LinearDynamics, LinearGaussian, Array]):
        f, p, spread = at_t
        C, noise = f.A + f.B @ p.K, f.B @ p.chol
        mean = C @ x.mean + f.B @ p.k + f.c
        cov = C @ x.cov @ C.T + noise @ noise.T + f.cov
        L = gaussian.robust_cholesky(spread, least)
        white = gaussian.solve_chol(L, gaussian.solve_chol(L, cov + jnp.outer(mean, mean)).T)
        v, V = jnp.linalg.eigh(0.5 * (white + white.T))
        part = jnp.sqrt(excess / jnp.maximum(v, excess))
        M = L @ (V * part) @ gaussian.solve_chol_right(V.T, L)
        cov = M @ cov @ M.T
        drawn_in = LinearDynamics(M @ f.A, M @ f.B, M @ f.c, M @ f.cov @ M.T)
        kept = (v <= excess).all()
        f = chosen(kept, f, drawn_in)
        return Gaussian(M @ mean, 0.5 * (cov + cov.T)), f

    return jax.lax.scan(step, start, (dynamics, controller, spread))[1]
