"""Act by an exported policy with NumPy alone: on a robot, or wherever jax is not wanted.

    act = load("policy.safetensors")
    u = act(t, x)               # x: the state, or for a network what it observes; condition=n chooses among several
                                # start=o: what was observed at the start, for a policy that follows that

Actions are without exploration, and within the plant's bounds. This file needs numpy and safetensors, nothing else of
pilotfish: it may be copied.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

Tensors = Mapping[str, np.ndarray]
Act = Callable[..., np.ndarray]

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda s: np.maximum(s, 0.0),
    "tanh": np.tanh,
    "softplus": lambda s: np.logaddexp(s, 0.0),
}


CHECKSUM = "sha256"
"""Under this word a file keeps the checksum of all else that it holds."""


class Damaged(ValueError):
    """A file does not hold what was written to it."""


def load(path: str | Path) -> Act:
    """`act(t, x, condition=0, start=None)`: the action (du,) of step t in the state x (dx,), for a network in what it
    observes. What a contextual search learned also needs `start` (do,): what was observed at the episode's start.

    `pilotfish.acting.Damaged`, a ValueError, if the file is not as it was written; ValueError if it is of another kind,
    or where `start` is missing.

    Example:

    >>> import numpy as np
    >>> import pilotfish as pf
    >>> from pilotfish import acting
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> problem = LinearQuadratic().problem()
    >>> path = pf.LinearGaussianPolicy(problem.first_controller).save("policy.safetensors", problem)
    >>> act = acting.load(path)
    >>> act(0, np.array([1.0, -0.5, 0.0, 0.0])).shape
    (2,)
    """
    tensors, meta = read(path)
    kind, settings = meta.get("policy"), json.loads(meta.get("settings", "{}"))
    if kind not in MEANS:
        raise ValueError(f"{path} holds a policy of the kind {kind!r}; without jax act {', '.join(MEANS)}.")
    mean, low, high = MEANS[kind], tensors["action_low"], tensors["action_high"]

    def act(t: int, x: np.ndarray, condition: int = 0, start: np.ndarray | None = None) -> np.ndarray:
        return np.clip(mean(tensors, settings, t, np.asarray(x), condition, start), low, high)

    return act


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and words of a file; Damaged if they are not those that were written."""
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        words = file.metadata() or {}
    if words.pop(CHECKSUM, None) != checksum(tensors, words):
        raise Damaged(f"{path} is damaged: what it holds does not have the checksum of what was written.")
    return tensors, words


def checksum(tensors: Tensors, words: Mapping[str, str]) -> str:
    """SHA-256 of names, kinds, shapes and values of tensors, and of words, in whatever order they come."""
    shapes = [[name, tensors[name].dtype.str, tensors[name].shape] for name in sorted(tensors)]
    found = hashlib.sha256(json.dumps([shapes, sorted(words.items())]).encode())
    for name in sorted(tensors):
        found.update(tensors[name].tobytes())
    return found.hexdigest()


def _linear_gaussian(
    tensors: Tensors, settings: dict[str, Any], t: int, x: np.ndarray, condition: int, start: np.ndarray | None
) -> np.ndarray:
    return tensors["K"][condition, t] @ x + tensors["k"][condition, t]


def _network(
    tensors: Tensors, settings: dict[str, Any], t: int, o: np.ndarray, condition: int, start: np.ndarray | None
) -> np.ndarray:
    seen = np.append(o, t / settings["steps"]) if settings.get("time") else o
    s, depth = (seen - tensors["shift"]) / tensors["scale"], sum(name.startswith("weight_") for name in tensors)
    for i in range(depth):
        s = tensors[f"weight_{i}"] @ s + tensors[f"bias_{i}"]
        s = ACTIVATIONS[settings["activation"]](s) if i < depth - 1 else s
    return s[: len(tensors["chol"])]


def _contextual(
    tensors: Tensors, settings: dict[str, Any], t: int, x: np.ndarray, condition: int, start: np.ndarray | None
) -> np.ndarray:
    if start is None:
        raise ValueError("start: this policy follows what was observed at the episode's start. Give that (do,).")
    w = tensors["gain"] @ (np.asarray(start) - tensors["centre"]) + tensors["mean"]
    return tensors["K"][t] @ x + tensors["k"][t] + tensors["J"][t] @ w


MEANS = {"linear-gaussian": _linear_gaussian, "network": _network, "contextual": _contextual}
