"""How to go over many independent problems, which depends on the machine alone, and over the leaves of a tree."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


def each(f: Callable[..., Any], *args: Any) -> Any:
    """`f(*args[i])` for all i along the leading axis of every leaf of `args`.

    On a CPU one after the other, so that what `f` makes of one problem stays in the cache: the regressions of all
    time steps are up to 5 times faster so than side by side. On an accelerator side by side.
    """
    if jax.default_backend() == "cpu":
        return jax.lax.map(lambda arg: f(*arg), args)
    return jax.vmap(f)(*args)


def chosen(condition: Bool[Array, "*N"], new: Any, old: Any) -> Any:
    """`new` where the condition holds, `old` elsewhere: two trees whose arrays have the condition's axes in front.

    What is no array is the same in both.
    """

    def of(new: Any, old: Any) -> Any:
        if not eqx.is_array(new):
            return new
        return jnp.where(condition.reshape(*condition.shape, *(1,) * (new.ndim - condition.ndim)), new, old)

    return jax.tree.map(of, new, old)


def pushed(new: Any, old: Any) -> Any:
    """What is remembered, `new` in front of its leading axis and its last entry dropped: two trees of arrays."""
    return jax.tree.map(lambda n, o: jnp.concatenate([n[None], o[:-1]]), new, old)


def finite(tree: Any) -> Bool[Array, ""]:
    """Whether all floats of a tree are finite."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
