"""The time-varying linear-Gaussian policy: one controller for each condition."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pilotfish.policies import Needs
from pilotfish.policies.gaussian import GaussianPolicy, noise
from pilotfish.types import Key, LinearGaussian, Step


class LinearGaussianPolicy(GaussianPolicy):
    """`u_t = K_t x_t + k_t + chol_t e_t`: an episode is its noise e, standard normal, (T, du).

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> problem = LinearQuadratic().problem()
    >>> policy = pf.LinearGaussianPolicy(problem.first_controller)
    >>> policy.predict([1.0, -0.5, 0.0, 0.0], t=3).shape  # the action, without noise
    (2,)
    >>> policy.tensors()["K"].shape  # (N, T, du, dx)
    (1, 20, 2, 4)
    """

    kind: ClassVar[str] = "linear-gaussian"
    per_condition: ClassVar[bool] = True
    controller: LinearGaussian
    """Leading axes: condition N, time T."""
    smoothing: float = eqx.field(static=True, default=0.0)
    """Standard deviation, in time steps, of the Gaussian filter over time that e has passed; 0: none."""

    def begin(self, key: Key, x0: Float[Array, "dx"], o0: Float[Array, "do"]) -> Float[Array, "T du"]:
        T, du = self.controller.k.shape
        return noise(key, T, du, self.smoothing, self.controller.k.dtype)

    def mean(self, t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]) -> Float[Array, "du"]:
        return self.controller.at(t).mean(x)

    def chol(self, t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]) -> Float[Array, "du du"]:
        return self.controller.chol[t]

    def noise_free(self) -> "LinearGaussianPolicy":
        p = self.controller
        return LinearGaussianPolicy(LinearGaussian(p.K, p.k, jnp.zeros_like(p.chol)))

    @property
    def needs(self) -> Needs:
        return Needs(entries=self.controller.K.shape[-1], steps=self.controller.K.shape[-3])

    def tensors(self) -> dict[str, np.ndarray]:
        """K (N, T, du, dx), k (N, T, du), chol (N, T, du, du)."""
        p = self.controller
        return {"K": np.asarray(p.K), "k": np.asarray(p.k), "chol": np.asarray(p.chol)}

    def settings(self) -> dict[str, Any]:
        return {"smoothing": self.smoothing}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], settings: dict[str, Any]) -> "LinearGaussianPolicy":
        arrays = jax.tree.map(jnp.asarray, (tensors["K"], tensors["k"], tensors["chol"]))
        return cls(LinearGaussian(*arrays), float(settings["smoothing"]))
