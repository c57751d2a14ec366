"""Two policies, of which chance chooses who acts in each step.

A learner that is not taught yet lets its teacher act: the second policy acts with probability 0 before its first
lesson, and with 1 after it (MDGPS, on-policy), or with one that grows (DAgger's 1 - beta).
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pilotfish.policies import Needs, Policy, kinds
from pilotfish.types import Key, Step


class Either(Policy):
    """In every step the second policy acts with probability `chance`, else the first."""

    kind: ClassVar[str] = "either"
    per_condition: ClassVar[bool] = True
    first: Policy
    second: Policy
    chance: Float[Array, "N"]

    steps: int = eqx.field(static=True)
    """Number of steps for which an episode draws who acts."""

    @classmethod
    def of(cls, first: Policy, second: Policy, chance: Float[Array, "N"], steps: int) -> "Either":
        """Of two policies, each of which may be one for all conditions."""
        N = len(chance)
        return cls(for_each(first, N), for_each(second, N), chance, steps)

    def begin(
        self, key: Key, x0: Float[Array, "dx"], o0: Float[Array, "do"]
    ) -> tuple[Float[Array, "T"], tuple[Any, Any]]:
        key, *keys = jax.random.split(key, 3)
        episodes = tuple(one.begin(key, x0, o0) for one, key in zip((self.first, self.second), keys, strict=True))
        return jax.random.uniform(key, (self.steps,)), (episodes[0], episodes[1])

    def act(self, episode: Any, t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]) -> Float[Array, "du"]:
        lots, (first, second) = episode
        return jnp.where(lots[t] < self.chance, self.second.act(second, t, x, o), self.first.act(first, t, x, o))

    def noise_free(self) -> "Either":
        """Both are noise-free; who acts is left to chance all the same."""
        return Either(self.first.noise_free(), self.second.noise_free(), self.chance, self.steps)

    @property
    def needs(self) -> Needs:
        """What both need: who acts is drawn, so that both are told of the state and of what is observed."""
        both = self.first.needs, self.second.needs
        return Needs(steps=self.steps, start=any(one.start for one in both))

    def tensors(self) -> dict[str, np.ndarray]:
        """The chance (N,), and all that the two need, whose names begin with first_ or second_."""
        named = {"chance": np.asarray(self.chance)}
        for name, policy in self._both():
            alone = policy if policy.per_condition else of_all(policy)
            named |= {f"{name}_{key}": tensor for key, tensor in alone.tensors().items()}
        return named

    def settings(self) -> dict[str, Any]:
        both = {name: {"kind": policy.kind, "settings": policy.settings()} for name, policy in self._both()}
        return both | {"steps": self.steps}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], settings: dict[str, Any]) -> "Either":
        def made(name: str) -> Policy:
            own = {key.removeprefix(f"{name}_"): array for key, array in tensors.items() if key.startswith(f"{name}_")}
            return kinds()[settings[name]["kind"]].from_tensors(own, settings[name]["settings"])

        return cls.of(made("first"), made("second"), jnp.asarray(tensors["chance"]), int(settings["steps"]))

    def _both(self) -> tuple[tuple[str, Policy], tuple[str, Policy]]:
        return ("first", self.first), ("second", self.second)


def of_all(policy: Policy) -> Policy:
    """The one policy, of which every condition was given a copy."""
    return jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, policy)


def for_each(policy: Policy, conditions: int) -> Policy:
    """The policy with the condition as the leading axis of all arrays: a copy for each if it is one for all."""
    if policy.per_condition:
        return policy

    def copies(leaf: Any) -> Any:
        return jnp.broadcast_to(leaf, (conditions, *leaf.shape)) if eqx.is_array(leaf) else leaf

    return jax.tree.map(copies, policy)
