"""What a Python file of the user's says of a task: functions in jax.numpy, with the arguments that Problem gives them.

It may import what is installed, and at its top also modules beside it, and read data beside it (`numpy.load`, `open`),
at its top or in its functions, by a path that begins with that of its `__file__`: `files` names all that it is made of.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pilotfish import sources
from pilotfish.types import Problem

UNTRACEABLE = (
    "JAX knows no numbers here, only their shapes. Write it in jax.numpy: jnp.sin(x) for np.sin(x) or math.sin(x), "
    "jnp.where(a, b, c) for `b if a else c`"
)


def defined(path: str) -> dict[str, Any]:
    """What a file defines, by name. The same sources give the same functions, which JAX then compiles once."""
    return vars(sources.executed(path).module)


def files(path: str, problem: Problem) -> set[str]:
    """All that the file is made of, of whose functions a problem was made: it, what it imports and reads beside it."""
    with sources.opened() as read:
        check(problem)
    return {*sources.executed(path).sources, *sources.beside(path, read)}


def check(problem: Problem) -> None:
    """That functions return what algorithms and the loop need of them, beyond the shapes that Problem asks for."""
    x, u = jnp.zeros((problem.horizon + 1, problem.dx)), jnp.zeros((problem.horizon, problem.du))
    number, truth = (jnp.floating, "a float: 1.0, not 1"), (jnp.bool_, "true or false, by a comparison")
    for name, f, arguments, (kind, wanted) in (
        ("cost(x, u, t)", problem.cost, (x[0], u[0], jnp.asarray(0)), number),
        ("final_cost(x)", problem.final_cost, (x[0],), number),
        ("success(x, u)", problem.success, (x, u), truth),
        ("distance(x, u)", problem.distance, (x, u), number),
        ("observe(x)", problem.observe, (x[0],), (jnp.generic, "a vector")),
    ):
        # a partial is another function every time: what f reads when it is called it reads again
        if f is not None and not jnp.issubdtype(found := jax.eval_shape(partial(f), *arguments).dtype, kind):
            raise ValueError(f"{name} returns {found}; it must return {wanted}.")


@contextmanager
def quoting(path: str) -> Iterator[None]:
    """Whatever functions of a file raise, or a problem says of them, becomes a ValueError of one line: where in the
    file, what is wrong, and what to do.
    """
    try:
        yield
    except Exception as error:
        untraceable = isinstance(error, jax.errors.JAXTypeError | jax.errors.JAXIndexError)
        raise ValueError(sources.told(error, path, UNTRACEABLE if untraceable else "")) from error
