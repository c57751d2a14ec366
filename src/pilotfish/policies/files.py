"""Policies as files: arrays and a few words, from which the policy is made again; nothing in a file is ever run.

tensors     what the policy needs to act, and the plant's bounds: action_low (du,), action_high (du,)
metadata    "policy": its kind; "settings": what else it needs, as JSON; whatever the writer says of it; and "sha256",
            the checksum of all this
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as encoded

from pilotfish import acting
from pilotfish.policies import Policy, kinds
from pilotfish.policies.network import OwnNetworkPolicy
from pilotfish.types import Problem

KINDS = (".safetensors", ".onnx")
"""What the name of a policy's file may end in."""


def packed(policy: Policy, problem: Problem | None, **words: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a policy's file; without a problem its actions have no bounds."""
    low, high = (-np.inf, np.inf) if problem is None else (problem.action_low, problem.action_high)
    meta = {"policy": policy.kind, "settings": json.dumps(policy.settings())}
    meta |= {} if problem is None else {"dt": repr(problem.dt)}
    return policy.tensors() | {"action_low": np.asarray(low), "action_high": np.asarray(high)}, meta | words


def save(policy: Policy, path: str | Path, problem: Problem | None = None) -> Path:
    """Write a policy's file, of the kind that its name ends in, and return its path.

    ValueError for a name that ends otherwise; for ONNX also without a problem, whose bounds its actions are clipped to,
    or where its package is not installed.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.policies import files
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> problem = LinearQuadratic().problem()
    >>> path = files.save(pf.LinearGaussianPolicy(problem.first_controller), "policy.onnx", problem)
    >>> path.name, path.stat().st_size > 100
    ('policy.onnx', True)
    """
    path = Path(path)
    if path.suffix not in KINDS:
        raise ValueError(f"path={str(path)!r}: choose a name that ends in {', '.join(KINDS)}.")
    tensors, words = packed(policy, problem)
    if path.suffix == ".onnx":
        if problem is None:
            raise ValueError("problem=None: an ONNX model clips its actions, so give the problem with their bounds.")
        from pilotfish.policies import onnx

        content = onnx.written(tensors, words)
    else:
        content = written(tensors, words)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def load(path: str | Path, like: Policy | None = None) -> Policy:
    """The policy of a file. ValueError if it holds none, or one of a kind that is not known here.

    A network of your own class is only known to your own code: `like` is a policy that is made alike.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> problem = LinearQuadratic().problem()
    >>> path = pf.LinearGaussianPolicy(problem.first_controller).save("policy.safetensors", problem)
    >>> policy = pf.load_policy(path)
    >>> policy.kind, policy.predict([1.0, -0.5, 0.0, 0.0], t=3).shape
    ('linear-gaussian', (2,))
    """
    tensors, meta = read(path)
    known = kinds()
    if meta.get("policy") not in known:
        raise ValueError(
            f"{path} holds a policy of the kind {meta.get('policy')!r}; known here are {', '.join(sorted(known))}. "
            "Import the package that defines it first."
        )
    kind = known[meta["policy"]]
    if kind is OwnNetworkPolicy and not isinstance(like, OwnNetworkPolicy):
        raise ValueError(
            f"{path} holds a network of somebody's own class. Give a policy that is made alike: "
            "load(path, like=YourNetwork().policy(problem, key))."
        )
    try:
        if kind is OwnNetworkPolicy and isinstance(like, OwnNetworkPolicy):
            return like.filled(tensors)
        return kind.from_tensors(tensors, json.loads(meta["settings"]))
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: it does not hold what such a policy needs ({error}).") from error


def holds_policy(path: str | Path) -> bool:
    """Whether a file is one of a policy, by its own words: it may be damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            return "policy" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a file; ValueError if there is none, or if one bit of it is not as it was written."""
    try:
        return acting.read(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: there is no such file.") from error
    except acting.Damaged:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} is no file of tensors, or damaged: {error}.") from error


def written(tensors: Mapping[str, np.ndarray], meta: Mapping[str, str] | None = None) -> bytes:
    """A file of tensors and metadata, with the checksum by which `read` knows them."""
    whole, words = {name: np.asarray(array, order="C") for name, array in tensors.items()}, dict(meta or {})
    return encoded(whole, words | {acting.CHECKSUM: acting.checksum(whole, words)})
