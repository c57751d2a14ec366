"""The root of a decreasing function of one number, where every evaluation is dear.

    find s in [lowest, highest]   with   lower <= f(s) <= upper

f falls monotonically. Where s is too small it may overflow or be nothing at all: a value that is not a number counts as
infinite, which says "too much" and no more. Steps aim at a target within the band,

    s <- s - (f - target) / slope,

with the slope that comes with f (Newton), or else the one measured between the last two points (secant). The points
above and below the target are a bracket (low, high). A step that would leave it, or begins where f is infinite, is
blind and halves the bracket instead; where no point below the target is known yet, blind steps double.

Where f is flat on one side and steep on the other, such steps creep. So after some evaluations on one side of the
target steps are at least as long as ones that double, and within a bracket every second one halves it.

The search ends in the band; at `lowest` with f <= upper, where all that is admissible is below the target; at
`highest`; or where the bracket is no wider than `resolution`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pilotfish.algebra.batch import chosen

PATIENCE = 6
"""Evaluations after which steps are no longer trusted alone."""


class Point(NamedTuple):
    """What the function is at one s."""

    f: Float[Array, ""]
    slope: Float[Array, ""] | None
    """df/ds, negative; None where it is to be measured."""
    value: Any
    """What else was computed there, a pytree of floats."""


class Band(NamedTuple):
    """Where f shall end, and what the steps aim at."""

    lower: Float[Array, ""] | float
    target: Float[Array, ""] | float
    upper: Float[Array, ""] | float


class Secant(NamedTuple):
    """Slopes that are measured: what is taken for the first, and what all are clipped to."""

    first: Float[Array, ""] | float
    steepest: Float[Array, ""] | float
    flattest: Float[Array, ""] | float


class Search(NamedTuple):
    """Where a search is after its last evaluation."""

    s: Float[Array, ""]
    f: Float[Array, ""]
    slope: Float[Array, ""]
    low: Float[Array, ""]
    """The largest s known with f above the target."""
    high: Float[Array, ""]
    """The smallest s known with f at most the target."""
    best: Any
    """The value at the last s whose f was at most the band's upper end; nan where there was none."""
    evaluations: Int[Array, ""]


def search(
    evaluate: Callable[[Float[Array, ""]], Point],
    first: Float[Array, ""],
    domain: tuple[Float[Array, ""], Float[Array, ""]],
    band: Band,
    most: int,
    secant: Secant | None = None,
    enclosed: bool = False,
    resolution: Array | float = 0.0,
) -> Search:
    """The search from `first` within `domain` = (lowest, highest), with at most `most` evaluations, at least one.

    `secant` is needed where `evaluate` brings no slopes. `enclosed` says that the domain's ends are known to lie on
    either side of the root: then they are the first bracket.
    """
    lowest, highest = domain
    first = jnp.clip(first, lowest, highest)
    shape = jax.eval_shape(evaluate, first)

    def unsolved(now: Search) -> Bool[Array, ""]:
        met = (now.f <= band.upper) & ((now.f >= band.lower) | (now.s <= lowest))
        on = ~met & (now.s < highest) & (now.high - now.low > resolution) & (now.evaluations < most)
        return on | (now.evaluations == 0)

    def refine(now: Search) -> Search:
        s = jnp.where(now.evaluations == 0, first, jnp.clip(proposal(now, band.target), lowest, highest))
        return _after(now, s, evaluate(s), band, secant)

    # nothing is evaluated outside the loop: what is dear to evaluate is dear to compile as well
    nothing = Search(
        s=first,
        f=jnp.full(shape.f.shape, jnp.nan, shape.f.dtype),
        slope=jnp.full(shape.f.shape, jnp.nan if secant is None else secant.first, shape.f.dtype),
        low=jnp.full_like(first, lowest if enclosed else -jnp.inf),
        high=jnp.full_like(first, highest if enclosed else jnp.inf),
        best=jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), shape.value),
        evaluations=jnp.asarray(0),
    )
    return jax.lax.while_loop(unsolved, refine, nothing)


def proposal(now: Search, target: Array | float) -> Float[Array, ""]:
    """Where a search would go next: a Newton or secant step towards the target, or a blind one."""
    late = now.evaluations >= PATIENCE
    reach = jnp.where(late, 2.0 ** (now.evaluations - PATIENCE), 0.0).astype(now.s.dtype)
    step = now.s - (now.f - target) / now.slope
    step = jnp.where(jnp.isfinite(now.high), step, jnp.maximum(step, now.s + reach))
    step = jnp.where(jnp.isfinite(now.low), step, jnp.minimum(step, now.s - reach))
    doubled = now.s + (2.0 ** (now.evaluations - 1)).astype(now.s.dtype)
    middle = 0.5 * (now.low + now.high)
    blind = jnp.where(jnp.isfinite(now.high), middle, doubled)
    halves = late & (now.evaluations % 2 == 0) & jnp.isfinite(middle)
    inside = jnp.isfinite(now.f) & (step > now.low) & (step < now.high) & ~halves
    return jnp.where(inside, step, blind)


def _after(now: Search, s: Float[Array, ""], at_s: Point, band: Band, secant: Secant | None) -> Search:
    f = jnp.where(jnp.isnan(at_s.f), jnp.inf, at_s.f)
    if at_s.slope is None:
        assert secant is not None, "evaluate brings no slope: give secant"
        measured = (f - now.f) / (s - now.s)
        clipped = jnp.clip(measured, secant.steepest, secant.flattest)
        slope = jnp.where(jnp.isfinite(measured), clipped, now.slope)
    else:
        slope = at_s.slope
    above = f > band.target
    return Search(
        s=s,
        f=f,
        slope=slope,
        low=jnp.where(above, s, now.low),
        high=jnp.where(above, now.high, s),
        best=chosen(f <= band.upper, at_s.value, now.best),
        evaluations=now.evaluations + 1,
    )
