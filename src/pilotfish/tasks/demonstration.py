"""A demonstration: times, states and actions of one episode that somebody made, from which learning begins.

Its actions, averaged over every control step, are the first controllers' of all conditions, with no feedback and the
problem's own first noise (MOTO, section 7.2). A file holds it,

    .npz, .safetensors    times (n,), states (n, dx) or (n + 1, dx), actions (n, du)
    .csv                  a line of names, then a line a sample: time, x0, x1, ..., u0, u1, ...

in s from the episode's start and in the task's units. A sample's action acts from its time to the next one's.

Learning may also begin with the controllers of a policy's file, as another run leaves it: gains, offsets and all.
"""

import csv
import zipfile
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load

from pilotfish.policies import Policy, files
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.types import LinearGaussian, Problem
from pilotfish.worlds import World

KINDS = (".csv", ".npz", ".safetensors")
SLACK = 1e-6
"""Part of a step by which times may be off: they are rounded where they are written."""


class Demonstration(NamedTuple):
    """What somebody did."""

    times: Float[np.ndarray, "n"]
    """s from the episode's start, increasing."""
    states: Float[np.ndarray, "n1 dx"]
    actions: Float[np.ndarray, "n du"]
    """Each from its time to the next one's."""


def read(path: str | Path) -> Demonstration:
    """The demonstration in a file. ValueError, naming the file, if that holds none."""
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise ValueError(f"demonstration {path}: give a file that ends with {', '.join(KINDS)}.")
    if not path.is_file():
        raise ValueError(f"demonstration {path}: there is no such file.")
    try:
        arrays = _of_csv(path) if kind == ".csv" else _of_npz(path) if kind == ".npz" else load(path.read_bytes())
    except (OSError, zipfile.BadZipFile, SafetensorError, UnicodeDecodeError, ValueError, EOFError) as error:
        raise ValueError(f"demonstration {path}: it cannot be read: {error}.") from error
    if missing := [name for name in Demonstration._fields if name not in arrays]:
        raise ValueError(f"demonstration {path}: {missing[0]} is missing. It holds {', '.join(arrays) or 'nothing'}.")
    found = Demonstration(*(np.asarray(arrays[name], float) for name in Demonstration._fields))
    if wrong := _fault(found):
        raise ValueError(f"demonstration {path}: {wrong}")
    return found


def first_controller(problem: Problem, shown: Demonstration) -> LinearGaussian:
    """The controllers with which learning begins, (N, T): mean actions of every step, no feedback, the problem's noise.

    ValueError, with the remedy, if the demonstration is of another system, too short, or too coarse.
    """
    times, T, dt = shown.times, problem.horizon, problem.dt
    for what, found, wanted in (("states", shown.states, problem.dx), ("actions", shown.actions, problem.du)):
        if found.shape[1] != wanted:
            raise ValueError(
                f"the demonstration's {what} have {found.shape[1]} entries, and those of the task {wanted}. Give one "
                "of this task."
            )
    if abs(times[0]) > SLACK * dt:
        raise ValueError(f"the demonstration begins at {times[0]:g} s: count its times from the episode's start, 0.")
    ends = np.append(times[1:], times[-1] + np.median(np.diff(times)) if len(times) > 1 else times[-1] + dt)
    if (longest := (ends - times).max()) > dt * (1 + SLACK):
        raise ValueError(
            f"the demonstration's samples are up to {longest:g} s apart, and an action lasts {dt:g} s: give at least "
            "one sample for each action, or a task with a longer dt."
        )
    if ends[-1] < T * dt * (1 - SLACK / T):
        raise ValueError(
            f"the demonstration lasts {ends[-1]:g} s, and an episode {T * dt:g} s: give a longer one, or a task with a "
            "shorter horizon."
        )
    # the part of each step in which each sample's action acts
    start = dt * np.arange(T)[:, None]
    acts = np.clip(np.minimum(ends, start + dt) - np.maximum(times, start), 0.0, None)
    k = acts @ shown.actions / acts.sum(1, keepdims=True)
    p = problem.first_controller
    return LinearGaussian(jnp.zeros_like(p.K), jnp.broadcast_to(jnp.asarray(k, p.k.dtype), p.k.shape), p.chol)


def controllers_of(problem: Problem, policy: Policy) -> LinearGaussian:
    """A policy's controllers as those with which learning begins, with the problem's own first noise.

    ValueError, with the remedy, if it has none, or those of another system.
    """
    if not isinstance(policy, LinearGaussianPolicy):
        raise ValueError(
            f"a policy of the kind {policy.kind!r} has no controllers with which learning could begin: give a run of "
            "local controllers, or of a network that is taught by some."
        )
    p, wanted = policy.controller, problem.first_controller
    if p.K.shape[1:] != wanted.K.shape[1:] or len(p.K) not in (1, len(wanted.K)):
        raise ValueError(
            f"its controllers have the shape {p.K.shape}, and those of the task {wanted.K.shape}: condition, time "
            "step, action, state. Give those of the same system."
        )
    K, k = (jnp.broadcast_to(jnp.asarray(a, b.dtype), b.shape) for a, b in ((p.K, wanted.K), (p.k, wanted.k)))
    return LinearGaussian(K, k, wanted.chol)


def beginning(world: World, path: str | Path) -> World:
    """The same world, in which learning begins with what a file shows: a demonstration, or a policy's controllers."""
    try:
        if files.holds_policy(path):
            first = controllers_of(world.problem, files.load(path))
        else:
            first = first_controller(world.problem, read(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    return eqx.tree_at(lambda world: world.problem.first_controller, world, first)


def _of_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


def _of_csv(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline="") as file:
        names, *rows = [row for row in csv.reader(file) if row] or [[]]
    names = [name.strip() for name in names]
    groups = {group: [f"{group}{i}" for i in range(sum(n[:1] == group for n in names))] for group in "xu"}
    known = ["time", *groups["x"], *groups["u"]]
    if sorted(known) != sorted(names):
        raise ValueError(f"its first line is {','.join(names)!r}, and must be time,x0,x1,...,u0,u1,...")
    if len({len(row) for row in rows} | {len(names)}) > 1:
        raise ValueError("its lines differ in length")
    table = np.array(rows, float).reshape(len(rows), len(names))
    at = {group: [names.index(name) for name in members] for group, members in groups.items()}
    return {"times": table[:, names.index("time")], "states": table[:, at["x"]], "actions": table[:, at["u"]]}


def _fault(found: Demonstration) -> str:
    """What is wrong with it, whatever the task; "" if nothing is."""
    times, states, actions = found
    if times.ndim != 1 or not len(times) or states.ndim != 2 or actions.ndim != 2:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in found._asdict().items())
        return f"it holds {shapes}, and must hold times (n,), states (n, dx), actions (n, du)."
    if len(actions) != len(times) or len(states) not in (len(times), len(times) + 1):
        return f"{len(times)} times, {len(states)} states and {len(actions)} actions: give as many of each."
    for name, array in found._asdict().items():
        if not np.isfinite(array).all():
            row = int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(1)))
            return f"{name}[{row}] is {array[row].tolist()}: all numbers must be finite."
    if (np.diff(times) <= 0).any():
        row = int(np.argmax(np.diff(times) <= 0)) + 1
        return f"times[{row}] = {times[row]:g} follows {times[row - 1]:g}: each must be later than the one before."
    return ""
