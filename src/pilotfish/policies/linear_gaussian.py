"""The time-varying linear-Gaussian policy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pilotfish.policies import Policy
from pilotfish.types import Key, LinearGaussian, Step


class LinearGaussianPolicy(Policy):
    """`u_t = K_t x_t + k_t + chol_t e_t`: an episode is its noise e, standard normal, (T, du)."""

    controller: LinearGaussian
    smoothing: float = eqx.field(static=True, default=0.0)
    """Standard deviation, in time steps, of the Gaussian filter over time that e has passed; 0: none."""

    def begin(self, key: Key) -> Float[Array, "T du"]:
        e = jax.random.normal(key, self.controller.k.shape, self.controller.k.dtype)
        return e if self.smoothing == 0 else _gaussian_filter(len(e), self.smoothing) @ e

    def act(
        self, episode: Float[Array, "T du"], t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]
    ) -> Float[Array, "du"]:
        now = self.controller.at(t)
        return now.mean(x) + now.chol @ episode[t]

    def noise_free(self) -> "LinearGaussianPolicy":
        """The same policy without exploration."""
        p = self.controller
        return LinearGaussianPolicy(LinearGaussian(p.K, p.k, jnp.zeros_like(p.chol)))

    def tensors(self) -> dict[str, np.ndarray]:
        """Everything needed to act, for a file: K (N, T, du, dx), k (N, T, du), chol (N, T, du, du)."""
        p = self.controller
        return {"K": np.asarray(p.K), "k": np.asarray(p.k), "chol": np.asarray(p.chol)}


def _gaussian_filter(T: int, std: float) -> Float[Array, "T T"]:
    """A filter over time that leaves each step's variance at 1.

    The GPS code of Finn et al. divides by each rollout's own standard deviation, which is 1 on average only.
    """
    t = jnp.arange(T)
    kernel = jnp.exp(-0.5 * ((t[:, None] - t) / std) ** 2)
    return kernel / jnp.sqrt((kernel**2).sum(-1, keepdims=True))
