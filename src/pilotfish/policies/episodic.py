"""Policies that draw a vector of parameters at an episode's start, and then follow it: an upper level over a skill.

    upper level   w ~ N(mean, chol chol'), for each condition its own             EpisodicPolicy
                  w ~ N(A s + a, chol chol'), one for all conditions              ContextualPolicy
    skill         u_t = K_t x_t + k_t + J_t w                                     Skill

s is the context, what is observed at the start less `centre`. A skill's feedback K is fixed: the parameters say what is
planned, not how it is followed. So without exploration an `EpisodicPolicy` is a linear-Gaussian controller.

`Parametrisation` is how a skill is made for a problem, in coordinates of w in which learning begins with N(0, I): here
`OpenLoop`; `policies/movement_primitive.py` has another.
"""

from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pilotfish.policies import Needs, Policy
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.types import Key, LinearGaussian, Problem, Step

OVERLAP = 1.0
"""Standard deviation of a radial basis function over time, in distances from one centre to the next (ours)."""


class Skill(eqx.Module):
    """What acts by parameters w (n,): `u_t = K_t x_t + k_t + J_t w`."""

    K: Float[Array, "*N T du dx"]
    k: Float[Array, "*N T du"]
    J: Float[Array, "*N T du n"]
    """Actions per unit of a parameter."""

    def offsets(self, w: Float[Array, "n"]) -> Float[Array, "T du"]:
        """All of the actions but the feedback."""
        return self.k + self.J @ w

    def tensors(self) -> dict[str, np.ndarray]:
        return {"K": np.asarray(self.K), "k": np.asarray(self.k), "J": np.asarray(self.J)}


class Parametrisation(eqx.Module):
    """How a controller depends on a vector of parameters."""

    def traceable(self, problem: Problem) -> bool:
        """Whether JAX can compile `skill` for this problem."""
        return True

    @abstractmethod
    def skill(self, problem: Problem) -> Skill:
        """The skill of each condition (leading axis N), whose first parameters are drawn from N(0, I)."""


class OpenLoop(Parametrisation):
    """Actions over time that are added to those of the problem's first controller.

    For each entry of the action they are `initial_std * sum_i w_i phi_i(t)`, with Gaussian radial basis functions phi
    that are normalised: the sum of their squares is 1 at every step. So each step's actions have at first the standard
    deviation `initial_std`, and are smooth over time.
    """

    features: int = eqx.field(static=True, default=10)
    """Number of basis functions, evenly over the episode: parameters of each entry of the action."""

    def __check_init__(self):
        if self.features < 1:
            raise ValueError(f"features={self.features}: give at least one basis function.")

    def skill(self, problem: Problem) -> Skill:
        T, N = problem.horizon, len(problem.conditions.mean)
        at, centre = np.linspace(0.0, 1.0, T), np.linspace(0.0, 1.0, self.features)
        phi = np.exp(-0.5 * ((at[:, None] - centre) * max(self.features - 1, 1) / OVERLAP) ** 2)
        phi /= np.sqrt((phi**2).sum(-1, keepdims=True))
        J = jnp.einsum("ti,ud->tudi", phi, jnp.diag(problem.initial_std)).reshape(T, problem.du, -1)
        first = problem.first_controller
        return Skill(first.K, first.k, jnp.broadcast_to(J, (N, *J.shape)))


class Drawn(NamedTuple):
    """What one episode follows."""

    w: Float[Array, "n"]
    """Its parameters."""
    k: Float[Array, "T du"]
    """Its actions, but for the feedback."""


class EpisodicPolicy(Policy):
    """A skill whose parameters are drawn at an episode's start, for each condition from a distribution of its own."""

    kind: ClassVar[str] = "episodic"
    per_condition: ClassVar[bool] = True
    mean: Float[Array, "*N n"]
    chol: Float[Array, "*N n n"]
    """Lower Cholesky factor of the parameters' covariance."""
    skill: Skill

    @classmethod
    def first(cls, skill: Skill) -> "EpisodicPolicy":
        """What learning begins with: the parameters are drawn from N(0, I)."""
        N, n = len(skill.k), skill.J.shape[-1]
        return cls(jnp.zeros((N, n)), jnp.broadcast_to(jnp.eye(n), (N, n, n)), skill)

    def begin(self, key: Key, x0: Float[Array, "dx"], o0: Float[Array, "do"]) -> Drawn:
        w = self.mean + self.chol @ jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return Drawn(w, self.skill.offsets(w))

    def act(self, episode: Drawn, t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]) -> Float[Array, "du"]:
        return self.skill.K[t] @ x + episode.k[t]

    def noise_free(self) -> LinearGaussianPolicy:
        """The controller of the mean parameters."""
        K, k = self.skill.K, jax.vmap(Skill.offsets)(self.skill, self.mean)
        return LinearGaussianPolicy(LinearGaussian(K, k, jnp.zeros((*k.shape, k.shape[-1]), k.dtype)))

    @property
    def needs(self) -> Needs:
        return Needs(entries=self.skill.K.shape[-1], steps=self.skill.K.shape[-3])

    def tensors(self) -> dict[str, np.ndarray]:
        """Of the search mean (N, n), chol (N, n, n); of the skill K (N, T, du, dx), k (N, T, du), J (N, T, du, n)."""
        return {"mean": np.asarray(self.mean), "chol": np.asarray(self.chol)} | self.skill.tensors()

    def settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], settings: dict[str, Any]) -> "EpisodicPolicy":
        return cls(jnp.asarray(tensors["mean"]), jnp.asarray(tensors["chol"]), _skill(tensors))


class ContextualPolicy(Policy):
    """A skill whose parameters are drawn at an episode's start, about a linear function of what is then observed."""

    kind: ClassVar[str] = "contextual"
    per_condition: ClassVar[bool] = False
    search: LinearGaussian
    """Of the parameters given the context s: K (n, do), k (n,), chol (n, n)."""
    centre: Float[Array, "do"]
    """The context is what is observed at the start, less this."""
    skill: Skill
    """One for all conditions: without their axis."""

    @classmethod
    def first(cls, skill: Skill, centre: Float[Array, "do"]) -> "ContextualPolicy":
        """What learning begins with, of the conditions' skills: their mean, and parameters from N(0, I) whatever the
        context.
        """
        n = skill.J.shape[-1]
        search = LinearGaussian(jnp.zeros((n, len(centre))), jnp.zeros(n), jnp.eye(n))
        return cls(search, centre, jax.tree.map(lambda leaf: leaf.mean(0), skill))

    def begin(self, key: Key, x0: Float[Array, "dx"], o0: Float[Array, "do"]) -> Drawn:
        p = self.search
        w = p.mean(o0 - self.centre) + p.chol @ jax.random.normal(key, p.k.shape, p.k.dtype)
        return Drawn(w, self.skill.offsets(w))

    def act(self, episode: Drawn, t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]) -> Float[Array, "du"]:
        return self.skill.K[t] @ x + episode.k[t]

    def noise_free(self) -> "ContextualPolicy":
        p = self.search
        return ContextualPolicy(LinearGaussian(p.K, p.k, jnp.zeros_like(p.chol)), self.centre, self.skill)

    @property
    def needs(self) -> Needs:
        return Needs(entries=self.skill.K.shape[-1], steps=self.skill.K.shape[-3], start=True)

    def tensors(self) -> dict[str, np.ndarray]:
        """Of the search gain (n, do), mean (n,), chol (n, n), centre (do,); of the skill K (T, du, dx), k (T, du), J
        (T, du, n).
        """
        p = self.search
        own = {"gain": p.K, "mean": p.k, "chol": p.chol, "centre": self.centre}
        return {name: np.asarray(array) for name, array in own.items()} | self.skill.tensors()

    def settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], settings: dict[str, Any]) -> "ContextualPolicy":
        gain, mean, chol, centre = (jnp.asarray(tensors[name]) for name in ("gain", "mean", "chol", "centre"))
        return cls(LinearGaussian(gain, mean, chol), centre, _skill(tensors))


def _skill(tensors: dict[str, np.ndarray]) -> Skill:
    return Skill(*(jnp.asarray(tensors[name]) for name in ("K", "k", "J")))
