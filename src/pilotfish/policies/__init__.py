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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from pilotfish.types import Key, Problem, Step

Numbers = ArrayLike | Sequence[Any]
"""What becomes an array: one, a number, or lists of numbers."""


class Needs(NamedTuple):
    """What a policy must be told to act, beside where it is."""

    entries: int | None = None
    """Number of entries of what it acts on: of the state, or where it acts on what is observed of that; None if that is
    not known."""
    steps: int | None = None
    """Number of steps at which it knows how to act; None if it acts at any."""
    start: bool = False
    """Whether it follows what was observed when its episode began."""


class Policy(eqx.Module):
    """Who acts. A kind of your own has the abstract methods, `kind` and `per_condition`; `check_policy` of
    `pilotfish.testing` checks it.

    Example:

    >>> import jax
    >>> import pilotfish as pf
    >>> from pilotfish.policies import of_condition
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> problem = LinearQuadratic().problem()
    >>> policy = pf.LinearGaussianPolicy(problem.first_controller)
    >>> isinstance(policy, pf.Policy), policy.predict([1.0, -0.5, 0.0, 0.0], t=3).shape  # without noise
    (True, (2,))
    >>> own, x = of_condition(policy, 0), problem.conditions.mean[0]
    >>> episode = own.begin(jax.random.key(0), x, x)  # all that is random in it; what is observed is the state
    >>> own.act(episode, 3, x, x).shape
    (2,)
    """

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

    @property
    def needs(self) -> Needs:
        """What it must be told to act; by default nothing is known of that."""
        return Needs()

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

    def predict(
        self,
        x: Numbers,
        t: Numbers = 0,
        *,
        o: Numbers | None = None,
        start: Numbers | None = None,
        condition: int | None = None,
    ) -> Float[np.ndarray, "*batch du"]:
        """The noise-free action in the state x (dx,) at step t; or in many, x (*batch, dx), t one or (*batch,).

        `o`: what is observed in x; by default x itself, so that a network may be given that alone.
        `start`: what was observed when the episode began, for a policy that follows that; at step 0 it is `o`.
        `condition`: which of several controllers acts; one alone needs no number.

        The action is what the policy asks for: the plant clips it to its bounds. ValueError for another shape, or for a
        step beyond the policy's last.

        Example:

        >>> import jax.numpy as jnp
        >>> from pilotfish.types import LinearGaussian
        >>> from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
        >>> K, k, chol = jnp.full((1, 5, 1, 2), -2.0), jnp.ones((1, 5, 1)), jnp.zeros((1, 5, 1, 1))
        >>> policy = LinearGaussianPolicy(LinearGaussian(K, k, chol))
        >>> print(policy.predict([0.5, 1.0], t=3))  # u = K[3] x + k[3]
        [-2.]
        """
        state, step = np.asarray(x, float), np.asarray(t)
        seen = state if o is None else np.asarray(o, float)
        if start is None and self.needs.start and step.any():
            raise ValueError(f"start=None at t={t}: this policy follows what it observed at step 0: give that.")
        first = seen if start is None else np.asarray(start, float)
        _check_told(self, {"x": state, "o": seen, "start": first}, step, condition)
        batch = np.broadcast_shapes(state.shape[:-1], step.shape)
        flat = (np.broadcast_to(a, (*batch, a.shape[-1])).reshape(-1, a.shape[-1]) for a in (state, seen, first))
        told = map(jnp.asarray, (np.broadcast_to(step, batch).reshape(-1), *flat))
        u = np.asarray(_acted(self, jnp.asarray(condition or 0), *told))
        return u.reshape(*batch, u.shape[-1])

    def save(self, path: Path | str, problem: Problem | None = None) -> Path:
        """Write the policy to a file: .safetensors, which `load_policy` and `acting.load` read, or .onnx.

        `problem`: the bounds of its actions are kept, so that who acts by the file clips to them. Without it there are
        none, which an ONNX model cannot say.

        ValueError for a name that ends otherwise, or for ONNX of a kind that has no such form.

        Example:

        >>> import pilotfish as pf
        >>> from pilotfish.tasks.lq import LinearQuadratic
        >>> problem = LinearQuadratic().problem()
        >>> policy = pf.LinearGaussianPolicy(problem.first_controller)
        >>> path = policy.save("policy.safetensors", problem)
        >>> bool((pf.load_policy(path).predict([1.0, -0.5, 0.0, 0.0]) == policy.predict([1.0, -0.5, 0.0, 0.0])).all())
        True
        """
        from pilotfish.policies import files  # which knows all kinds

        return files.save(self, path, problem)


def _check_told(policy: Policy, told: dict[str, np.ndarray], t: np.ndarray, condition: int | None) -> None:
    """Refuse in words what a policy cannot act by: `told` it x, o and start, by name."""
    needs = policy.needs
    for name, array in told.items():
        if array.ndim == 0 or not np.isfinite(array).all():
            raise ValueError(f"{name}={array}: give an array ({needs.entries or 'd'},) of finite numbers.")
    if needs.entries not in (None, told["x"].shape[-1], told["o"].shape[-1]):
        raise ValueError(
            f"x has the shape {told['x'].shape}: this policy acts on {needs.entries} numbers, so give an array "
            f"({needs.entries},) or (*batch, {needs.entries})."
        )
    if t.dtype.kind not in "iu" or (t < 0).any() or (needs.steps is not None and (t >= needs.steps).any()):
        last = " on" if needs.steps is None else f" to {needs.steps - 1}"
        raise ValueError(f"t={t.tolist()}: steps are whole numbers, from 0{last}.")
    if policy.per_condition:
        count = len(jax.tree.leaves(eqx.filter(policy, eqx.is_array))[0])
        if (condition is None and count > 1) or not 0 <= (condition or 0) < count:
            remedy = f"say which of the controllers acts, 0 to {count - 1}" if count > 1 else "leave it out"
            raise ValueError(f"condition={condition}: this policy has {count}, one for each condition: {remedy}.")


@eqx.filter_jit
def _acted(
    policy: Policy,
    condition: Int[Array, ""],
    t: Int[Array, "B"],
    x: Float[Array, "B dx"],
    o: Float[Array, "B do"],
    start: Float[Array, "B do"],
) -> Float[Array, "B du"]:
    """Noise-free actions of one condition's policy, each in its state, at its step."""
    silent = of_condition(policy.noise_free(), condition)

    def one(t: Step, x: Float[Array, "dx"], o: Float[Array, "do"], start: Float[Array, "do"]) -> Float[Array, "du"]:
        return silent.act(silent.begin(jax.random.key(0), x, start), t, x, o)

    return jax.vmap(one)(t, x, o, start)


def over_conditions(f: Callable[..., Any], policy: Policy, *args: Any) -> Any:
    """`f(policy, *args[n])` of every condition n: with its own policy, or the one that all share.

    The leading axis of all arrays in `args` is the condition.
    """
    arrays, rest = eqx.partition(policy, eqx.is_array)
    axes = (0 if policy.per_condition else None, *(0,) * len(args))
    return jax.vmap(lambda arrays, *args: f(eqx.combine(arrays, rest), *args), axes)(arrays, *args)


def of_condition(policy: Policy, n: int | Int[Array, ""]) -> Policy:
    """The policy that acts in condition n."""
    return of_conditions(policy, n)


def of_conditions(policy: Policy, which: int | slice | Int[Array, ""]) -> Policy:
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
