"""Where a controller goes: Gaussian state-action distributions, their white coordinates, importance weights.

The state-action distribution of step t is `z_t(x, u) = rho_t(x) pi_t(u given x)`: a Gaussian state and a
linear-Gaussian action. An `Occupancy` is both, and with `rho = N(mu, L L')` and `pi = N(Kx + k, R R')` it
gives the coordinates

    s = L^-1 (x - mu),    e = R^-1 (u - K x - k)

in which z_t is the standard normal. Regression, trust region and densities all happen there. A direction in which the
states do not vary but for rounding, because one entry repeats another, say, has a density but no say in a regression:
its coordinate is 0 there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.algebra import gaussian, regression
from pilotfish.algebra.batch import each
from pilotfish.types import LinearGaussian

UNRESOLVED = 1e-8
"""Part of an entry's variance that is rounding, where the entries before it tell the rest (`robust_cholesky`: 1e-9)."""


class Occupancy(NamedTuple):
    """State-action distribution of one step, or (leading axes) of many."""

    mean: Float[Array, "*batch dx"]
    chol: Float[Array, "*batch dx dx"]
    controller: LinearGaussian

    def white_state(self, x: Float[Array, "n dx"]) -> Float[Array, "n dx"]:
        """States as standard normal coordinates; 0 in directions that do not vary."""
        return white_state(self.mean, self.chol, x)

    def white(self, x: Float[Array, "n dx"], u: Float[Array, "n du"]) -> Float[Array, "n dx+du"]:
        """States and actions as standard normal coordinates; 0 in directions of the state that do not vary."""
        return jnp.concatenate([self.white_state(x), self._noise(x, u)], -1)

    def log_density(self, x: Float[Array, "n dx"], u: Float[Array, "n du"]) -> Float[Array, "n"]:
        """`log z(x, u)` up to the constant of 2 pi, which all occupancies share."""
        distance = (self._state(x) ** 2).sum(-1) + (self._noise(x, u) ** 2).sum(-1)
        return -0.5 * (distance + gaussian.log_det(self.chol) + gaussian.log_det(self.controller.chol))

    def _state(self, x: Float[Array, "n dx"]) -> Float[Array, "n dx"]:
        return _white(self.mean, self.chol, x)

    def _noise(self, x: Float[Array, "n dx"], u: Float[Array, "n du"]) -> Float[Array, "n du"]:
        about = u - self.controller.mean(self.mean) - (x - self.mean) @ self.controller.K.T
        return about @ _inverse(self.controller.chol).T


def white_state(mean: Float[Array, "dx"], chol: Float[Array, "dx dx"], x: Float[Array, "n dx"]) -> Float[Array, "n dx"]:
    """States as standard normal coordinates of one step's marginal; 0 in directions that do not vary."""
    own = jnp.diagonal(chol) ** 2
    return jnp.where(own > UNRESOLVED * (chol**2).sum(-1), _white(mean, chol, x), 0.0)


def marginals(
    x: Float[Array, "T n dx"], weight: Float[Array, "T n"]
) -> tuple[Float[Array, "T dx"], Float[Array, "T dx dx"]]:
    """Mean and Cholesky factor of the states of each step, by weighted maximum likelihood (MOTO, section 4.3.2)."""
    total = weight.sum(1, keepdims=True)
    mean, cov = jax.vmap(regression.moments)(x, weight / jnp.where(total > 0, total, 1.0))
    return mean, gaussian.robust_cholesky(cov, _least_std(x, weight))


def from_samples(x: Float[Array, "T n dx"], weight: Float[Array, "T n"], controller: LinearGaussian) -> Occupancy:
    """State marginals by weighted maximum likelihood from rollouts (MOTO, section 4.3.2)."""
    return Occupancy(*marginals(x, weight), controller)


def _white(mean: Float[Array, "dx"], chol: Float[Array, "dx dx"], x: Float[Array, "n dx"]) -> Float[Array, "n dx"]:
    return (x - mean) @ _inverse(chol).T


def _least_std(x: Float[Array, "T n dx"], weight: Float[Array, "T n"]) -> Float[Array, "dx"]:
    """What is resolved of each state, given where all steps' samples are."""
    return regression.least_std(x.reshape(-1, x.shape[-1]), (weight > 0).astype(x.dtype).ravel())


def propagated(
    x: Float[Array, "T n dx"],
    u: Float[Array, "T n du"],
    happened: Float[Array, "T n"],
    log_older: Float[Array, "T n"],
    share: Float[Array, "T"],
    controller: LinearGaussian,
) -> Occupancy:
    """State marginals by importance weights, from each step to the next (MOTO, section 4.3.1).

    `x_{t+1}` is weighted by `z_t(x_t, u_t) / mixture_t(x_t, u_t)`. The mixture that made step t's samples is this
    controller's z_t with weight `share`, and that of older controllers, whose log density is `log_older`. The
    first marginal is the same for all controllers and takes all samples alike.
    """
    least = _least_std(x, happened)

    def marginal(x: Float[Array, "n dx"], weight: Float[Array, "n"]) -> tuple[Array, Array]:
        mean, cov = regression.moments(x, weight)
        return mean, gaussian.robust_cholesky(cov, least)

    def step(carry: tuple[Array, Array], at_t: tuple):
        x, u, x_next, happened, log_older, share, controller = at_t
        mean, chol = carry
        log_z = Occupancy(mean, chol, controller).log_density(x, u)
        log_mixture = jnp.logaddexp(log_older, log_z + jnp.log(share))
        following = marginal(x_next, normalised(log_z - log_mixture, happened))
        return following, carry

    first = marginal(x[0], happened[0] / happened[0].sum())
    x_next = jnp.concatenate([x[1:], x[-1:]])
    _, (mean, chol) = jax.lax.scan(step, first, (x, u, x_next, happened, log_older, share, controller))
    return Occupancy(mean, chol, controller)


def normalised(log_weight: Float[Array, "n"], happened: Float[Array, "n"]) -> Float[Array, "n"]:
    """Weights that sum to 1, from their logarithms; 0 where `happened` is."""
    log_weight = jnp.where(happened > 0, log_weight, -jnp.inf)
    weight = jnp.exp(log_weight - jax.lax.stop_gradient(log_weight.max()))
    return weight / weight.sum()


def log_densities(steps: Occupancy, x: Float[Array, "#T n dx"], u: Float[Array, "#T n du"]) -> Float[Array, "T n"]:
    """Log density of each step's occupancy at the step's own samples, or at those that all steps share."""
    if x.shape[0] == 1:
        return each(lambda step: step.log_density(x[0], u[0]), steps)
    return each(Occupancy.log_density, steps, x, u)


def of_iteration(log_z: Float[Array, "T n"], made: Float[Array, "T"], pooled: bool) -> Float[Array, "#T n"]:
    """Log density of all that one iteration's steps made, given that of every step.

    Where all steps' samples are `pooled` it is one row: the steps' mean by `made`, the number of samples that each
    made. Else each step stays by itself.
    """
    if not pooled:
        return log_z
    # relative to the mean over steps: exactly 0 where every step made as many
    relative = jnp.log(made * len(made) / jnp.maximum(made.sum(), 1.0))
    return jax.nn.logsumexp(log_z + relative[:, None], 0, keepdims=True) - jnp.log(log_z.shape[0])


def of_iterations(
    components: Occupancy,
    made: Float[Array, "K T"],
    x: Float[Array, "#T n dx"],
    u: Float[Array, "#T n du"],
    pooled: bool,
) -> Float[Array, "K #T n"]:
    """The same for K iterations, whose steps' occupancies have the axes (K, T)."""

    def one(component_and_made: tuple[Occupancy, Array]) -> Float[Array, "#T n"]:
        component, made = component_and_made
        return of_iteration(log_densities(component, x, u), made, pooled)

    return jax.lax.map(one, (components, made))


def shares(made: Float[Array, "K T"], pooled: bool) -> Float[Array, "K #T"]:
    """Which part of the samples each of K iterations made: of all, or of every step's."""
    count = made.sum(1, keepdims=True) if pooled else made
    return count / jnp.maximum(count.sum(0), 1.0)


def mixed(log_density: Float[Array, "K #T n"], share: Float[Array, "K #T"]) -> Float[Array, "#T n"]:
    """Log density of the mixture that made the samples (MOTO, section 4.2), of which each iteration made a share."""
    weighted = log_density + jnp.log(share)[..., None]
    return jax.nn.logsumexp(jnp.where(share[..., None] > 0, weighted, -jnp.inf), 0)


def effective_samples(weight: Float[Array, "*batch n"]) -> Float[Array, "*batch"]:
    """Effective sample size `(sum w)^2 / sum w^2` (MOTO, section 4.2)."""
    return weight.sum(-1) ** 2 / (weight**2).sum(-1)


def _inverse(chol: Float[Array, "d d"]) -> Float[Array, "d d"]:
    return gaussian.solve_chol(chol, jnp.eye(chol.shape[-1], dtype=chol.dtype))
