"""Whether two worlds are the same: what tells one from another that was made of the same settings, or of others.

Arrays are compared by their bits, functions by the program that JAX traces of them and the arrays in it. What a world
has beyond its problem it tells itself (`World.beyond`).
"""

import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from pilotfish.types import Equations, Problem
from pilotfish.worlds import World

ADDRESS = re.compile(r"0x[0-9a-f]+")
"""Of an object in memory, as printed programs name functions of the host."""


def difference(world: World, other: World) -> str | None:
    """The name of the first thing in which two worlds differ; None if nothing does."""
    parts, others = dict(_parts(world)), dict(_parts(other))
    return next((name for name in parts | others if parts.get(name) != others.get(name)), None)


def _parts(world: World) -> Iterator[tuple[str, Any]]:
    """What there is to compare, by name; sizes before the arrays that have them."""
    problem = world.problem
    for name in ("dx", "du", "horizon", "dt"):
        yield name, getattr(problem, name)
    for name in ("conditions", "initial_std", "noise_std", "action_low", "action_high", "first_controller"):
        yield name, _bits(getattr(problem, name))
    for name, function, shapes in _functions(problem):
        yield name, function and _program(function, shapes)
    for name, value in world.beyond().items():
        yield name, _bits(value)


def _functions(problem: Problem) -> Iterator[tuple[str, Any, tuple]]:
    """Functions of a problem by name, each with the shapes and kinds of its arguments."""
    T, dx, du = problem.horizon, problem.dx, problem.du
    x, u, t = ((dx,), float), ((du,), float), ((), int)
    yield "cost", problem.cost, (x, u, t)
    yield "final_cost", problem.final_cost, (x,)
    yield "observe", problem.observe, (x,)
    brought = () if problem.final_cost is not None else (((), float),)
    yield "success", problem.success, (((T + 1, dx), float), ((T, du), float), *brought)
    yield "distance", problem.distance, (((T + 1, dx), float), ((T, du), float))
    if isinstance(problem.dynamics, Equations):
        yield "dynamics", problem.dynamics.function, (x, u)


def _program(function: Any, shapes: tuple) -> tuple[str, list[list[bytes]]]:
    traced = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(*shape) for shape in shapes))
    return ADDRESS.sub("", str(traced)), [_bits(const) for const in traced.consts]


def _bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
