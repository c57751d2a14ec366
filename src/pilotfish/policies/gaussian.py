"""Policies with Gaussian actions: `u ~ N(mean(t, x, o), chol chol')`, with noise that is drawn at an episode's start.

An episode is its noise e, standard normal at every step; the action is `mean + chol e_t`. Density, entropy and
divergence follow from mean and factor.
"""

from abc import abstractmethod

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.algebra import gaussian
from pilotfish.policies import Policy
from pilotfish.types import Gaussian, Key, Step


class GaussianPolicy(Policy):
    """A policy whose actions are normally distributed."""

    @abstractmethod
    def mean(self, t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]) -> Float[Array, "du"]:
        """Mean action of step `t`."""

    @abstractmethod
    def chol(self, t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]) -> Float[Array, "du du"]:
        """Lower Cholesky factor of the action's covariance; zeros without exploration."""

    def act(
        self, episode: Float[Array, "T du"], t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]
    ) -> Float[Array, "du"]:
        return self.mean(t, x, o) + self.chol(t, x, o) @ episode[t]

    def log_density(
        self, u: Float[Array, "du"], t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]
    ) -> Float[Array, ""]:
        """`log p(u given x)`, nats per unit of action."""
        return gaussian.log_density(u, self.mean(t, x, o), self.chol(t, x, o))

    def entropy(self, t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]) -> Float[Array, ""]:
        """Entropy of the action, nats."""
        return gaussian.entropy(self.chol(t, x, o))

    def kl(self, other: "GaussianPolicy", t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]) -> Float[Array, ""]:
        """`KL(self to other)` of the action in one state, nats."""
        p, q = (Gaussian(one.mean(t, x, o), _square(one.chol(t, x, o))) for one in (self, other))
        return gaussian.kl(p, q)


def noise(key: Key, steps: int, du: int, smoothing: float, dtype: jnp.dtype) -> Float[Array, "T du"]:
    """Standard normal noise of an episode, white or smooth over time.

    `smoothing` is the standard deviation, in time steps, of the Gaussian filter that it has passed; 0: none.
    """
    e = jax.random.normal(key, (steps, du), dtype)
    return e if smoothing == 0 else _gaussian_filter(steps, smoothing) @ e


def _gaussian_filter(T: int, std: float) -> Float[Array, "T T"]:
    """A filter over time that leaves each step's variance at 1.

    The GPS code of Finn et al. divides by each rollout's own standard deviation, which is 1 on average only.
    """
    t = jnp.arange(T)
    kernel = jnp.exp(-0.5 * ((t[:, None] - t) / std) ** 2)
    return kernel / jnp.sqrt((kernel**2).sum(-1, keepdims=True))


def _square(chol: Float[Array, "du du"]) -> Float[Array, "du du"]:
    return chol @ chol.T
