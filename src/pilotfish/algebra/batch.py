"""How to go over many independent problems, which depends on the machine alone."""

from collections.abc import Callable
from typing import Any

import jax


def each(f: Callable[..., Any], *args: Any) -> Any:
    """`f(*args[i])` for all i along the leading axis of every leaf of `args`.

    On a CPU one after the other, so that what `f` makes of one problem stays in the cache: the regressions of all
    time steps are up to 5 times faster so than side by side. On an accelerator side by side.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda arg: f(*arg), args)
    return jax.vmap(f)(*args)
