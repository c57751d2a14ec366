"""WHO acts. A policy draws all randomness of an episode at its start; acting is then deterministic.

Common random numbers, exact replay, and a robot that needs no random numbers follow from that.
"""

from abc import abstractmethod
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from pilotfish.types import Key, Step


class Policy(eqx.Module):
    """Who acts."""

    @abstractmethod
    def begin(self, key: Key) -> Any:
        """Draw all that is random in one episode."""

    @abstractmethod
    def act(self, episode: Any, t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]) -> Float[Array, "du"]:
        """The action of step `t`, in the state `x` of which `o` is observed."""
