"""One file per paper's system: State, Info and one class whose fields are its hyperparameters."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Bool

from pilotfish.policies import Policy
from pilotfish.policies.network import Network
from pilotfish.registry import Entry, algorithms, named, of_file
from pilotfish.types import Key, Problem, Rollouts


class Algorithm(eqx.Module):
    """Improves a policy by rollouts. The object is its hyperparameters; what it learns is in its state.

    `State` is what the next iteration needs, `Info` what this one reports: a NamedTuple of scalars, of which `Shown`
    annotations say how they are shown, and of `ok` (N,): False for a condition that could not be improved. What such a
    condition keeps is the algorithm's to say; where no condition could be, the loop keeps the old state.

    Example:

    >>> import jax
    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> algorithm, world, key = pf.REPS(), LinearQuadratic().world(), jax.random.key(0)
    >>> state = algorithm.init(world.problem, 20, key)  # for iterations of 20 rollouts from each condition
    >>> rollouts = world.rollout(algorithm.explore(state), 20, key)
    >>> state, info = algorithm.update(world.problem, state, rollouts, key)
    >>> info.ok.shape, algorithm.exploit(state).predict([1.0, -0.5, 0.0, 0.0]).shape
    ((1,), (2,))
    """

    @property
    def defaults(self) -> tuple[int, int]:
        """Rollouts an iteration and iterations that `pilotfish train` takes for a task for which no setup is known."""
        return 20, 50

    @property
    def files(self) -> Sequence[str]:
        """The user's files that the algorithm is made of, by absolute paths: a run keeps copies of them."""
        networks = (value for value in vars(self).values() if isinstance(value, Network))
        return tuple(network.start for network in networks if network.start)

    def traceable(self, problem: Problem) -> bool:
        """Whether JAX can compile `init` and `update` for this problem. If not, they run as they are."""
        return True

    def caution(self, problem: Problem, episodes: int) -> str:
        """What had better be known before iterations with `episodes` rollouts from each condition; "" if nothing."""
        return ""

    @abstractmethod
    def init(self, problem: Problem, episodes: int, key: Key) -> Any:
        """The state before the first of iterations with `episodes` rollouts from each condition."""

    @abstractmethod
    def explore(self, state: Any) -> Policy:
        """What to roll out next."""

    @abstractmethod
    def exploit(self, state: Any) -> Policy:
        """What we would deploy now."""

    def latest(self, state: Any) -> Policy:
        """What the last update made of it, noise-free, whether or not we would deploy that."""
        return self.exploit(state)

    def local(self, state: Any) -> Policy | None:
        """The local controllers that teach what we would deploy, noise-free; None where nothing is taught."""
        return None

    @abstractmethod
    def update(self, problem: Problem, state: Any, rollouts: Rollouts, key: Key) -> tuple[Any, Any]:
        """The next state, and what this iteration reports."""

    def refusal(self, problem: Problem, state: Any, rollouts: Rollouts, ok: Bool[Array, "N"]) -> str:
        """Why these rollouts improved no condition that is not `ok`, in words for the user; "" if that is not known."""
        return ""


def check_number(algorithm: Algorithm, name: str, holds: Callable[[float], bool], remedy: str) -> None:
    """Refuse a plain number outside its range; an array (in a sweep, traced) is the sweeper's to check."""
    number = getattr(algorithm, name)
    if isinstance(number, int | float) and not holds(number):
        raise ValueError(f"{name}={number}: {remedy}.")


class Setup(NamedTuple):
    """An algorithm as it is set up for a task."""

    algorithm: Algorithm
    rollouts: int
    iterations: int
    measured: int | None = None
    """Noise-free episodes from each condition that measure each policy; None: what is usual for so many rollouts."""


def registry() -> dict[str, Entry]:
    """All algorithms by name: the lines are in `pilotfish.registry`."""
    return algorithms()


def known(name: str) -> bool:
    """Whether a name is a registered algorithm's, or that of a class in a file."""
    return name in registry() or bool(of_file(name))


def find(name: str) -> Entry:
    """The registered algorithm of that name, or a class of the user's as FILE.py:CLASS.

    ValueError, with the nearest names, if there is none.

    Example:

    >>> from pilotfish import algorithms
    >>> algorithms.find("lqr-gps").make().kl_step
    0.3
    """
    if (found := of_file(name)) is not None:
        if not (isinstance(kind := found.load(), type) and issubclass(kind, Algorithm)):
            raise ValueError(f"{name} is no algorithm: derive it from pilotfish.Algorithm.")
        return found
    return named(registry(), name, "algorithm")
