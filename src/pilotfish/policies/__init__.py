"""WHO acts. A policy draws all randomness of an episode at its start; acting is then deterministic.

Common random numbers, exact replay, smooth exploration, and a robot that needs no random numbers follow from that.

Local controllers have a leading axis, the condition: `per_condition`. A global policy has none and acts from any
initial state. `over_conditions` is the one place that knows the difference. Only arrays are mapped; activations, sizes
and whatever else a policy holds are not.

A policy becomes arrays and settings and is made of these again; that is how it is stored, exported and loaded:

    tensors, settings = policy.tensors(), policy.settings()
    policy = type(policy).from_tensors(tensors, settings)
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pilotfish.types import Key, Problem, Step


class Policy(eqx.Module):
    """Who acts."""

    if TYPE_CHECKING:
        kind: ClassVar[str]
        per_condition: ClassVar[bool]
    else:
        kind: eqx.AbstractClassVar[str]
        """The name of this kind of policy in files."""
        per_condition: eqx.AbstractClassVar[bool]
        """Whether every condition has a policy of its own, along the leading axis of all arrays."""

    @abstractmethod
    def begin(self, key: Key, x0: Float[Array, "dx"], o0: Float[Array, "do"]) -> Any:
        """Draw all that is random in one episode, which begins in the state `x0` of which `o0` is observed."""

    @abstractmethod
    def act(self, episode: Any, t: Step, x: Float[Array, "dx"], o: Float[Array, "do"]) -> Float[Array, "du"]:
        """The action of step `t`, in the state `x` of which `o` is observed."""

    @abstractmethod
    def noise_free(self) -> "Policy":
        """The same policy without exploration."""

    @abstractmethod
    def tensors(self) -> dict[str, np.ndarray]:
        """All arrays that are needed to act, by name."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What else is needed to act, as JSON has it."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], settings: dict[str, Any]) -> "Policy":
        """The policy of these `tensors` and `settings`."""


def over_conditions(f: Callable[..., Any], policy: Policy, *args: Any) -> Any:
    """`f(policy, *args[n])` of every condition n: with its own policy, or the one that all share.

    The leading axis of all arrays in `args` is the condition.
    """
    arrays, rest = eqx.partition(policy, eqx.is_array)
    axes = (0 if policy.per_condition else None, *(0,) * len(args))
    return jax.vmap(lambda arrays, *args: f(eqx.combine(arrays, rest), *args), axes)(arrays, *args)


def of_condition(policy: Policy, n: int) -> Policy:
    """The policy that acts in condition n."""
    return of_conditions(policy, n)


def of_conditions(policy: Policy, which: int | slice) -> Policy:
    """The policy that acts in some conditions; for a slice the condition stays the leading axis."""
    if not policy.per_condition:
        return policy
    return jax.tree.map(lambda leaf: leaf[which] if eqx.is_array(leaf) else leaf, policy)


def idle(problem: Problem) -> Policy:
    """What does nothing: the measure of what acting is worth."""
    from pilotfish.policies.linear_gaussian import LinearGaussianPolicy

    return LinearGaussianPolicy(jax.tree.map(jnp.zeros_like, problem.first_controller))


def kinds() -> dict[str, type[Policy]]:
    """All kinds of policies by their name in files; also those that others have defined."""
    # so that they are among the subclasses
    from pilotfish.policies import either, episodic, linear_gaussian, network  # noqa: F401

    found: dict[str, type[Policy]] = {}
    classes: list[type] = [Policy]
    while classes:
        subclasses = classes.pop().__subclasses__()
        classes += subclasses
        found |= {each.kind: each for each in subclasses if isinstance(vars(each).get("kind"), str)}
    return found
