"""The natural gradient step of a Gaussian policy within a bound on its mean KL (TRPO, Schulman et al. 2015).

All is seen from the policy that acted: in the white coordinates of its actions, `e = R^-1 (u - mu(o))`, standard
normal, a new policy with the parameters d is `e ~ N(y(d), diag(exp 2 r(d)))` with `y(0) = r(0) = 0`. In these, over the
samples i,

    surrogate   L(d)  = sum_i w_i (p_i(d) - 1) a_i,      p = exp( sum_j [ (e^2 - ((e - y) exp(-r))^2) / 2 - r ] )
    divergence  D(d)  = sum_i w_i sum_j [ r + (1 + y^2) exp(-2r) / 2 - 1/2 ]                   = mean KL(old to new)
    Fisher      F v   = J' diag(w, 2 w) J v,             J = d(y, r)/dd at d = 0               = Hessian of D at 0

where a is the advantage (of a cost: the higher the worse). J is linearised once and transposed once, so a product with
F is one pass forwards and one back, with nothing computed twice.

    v = (F + damping)^-1 grad L          by conjugate gradients
    d = -sqrt(2 kl_step / v'(F + damping) v) v,    shortened until D(d) <= kl_step and L(d) < 0

| symbol  | paper                | code       |
| delta   | TRPO (12), eps MOTO  | kl_step    |
| s       | appendix C, x        | direction  |
| beta    | appendix C           | step       |
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

SHRINK, SHRINKS = 0.8, 20
"""Of the step so much is left each time that it is too long, and how often it may be; then the policy stays."""
ENOUGH = 1e-10
"""Part of the first residual's square at which conjugate gradients are done."""


class Relative(NamedTuple):
    """Actions of a new policy, in the white coordinates of the one that acted."""

    shift: Float[Array, "n du"]
    """y: mean."""
    log_std: Float[Array, "n du"]
    """r: logarithm of the standard deviations."""


class Experience(NamedTuple):
    """What the policy that acted did, and what came of it."""

    e: Float[Array, "n du"]
    """White coordinates of its actions."""
    advantage: Float[Array, "n"]
    """By how much an action cost more than the policy's do on average, in units of its standard deviation."""
    weight: Float[Array, "n"]
    """Sums to 1."""


class NaturalStep(NamedTuple):
    """Where the step ends, and what it does."""

    parameters: Float[Array, "p"]
    """d: 0 where no step was found."""
    kl: Float[Array, ""]
    """Mean KL of the old policy to the new, nats."""
    surrogate: Float[Array, ""]
    """L: mean advantage of the new policy's actions in the old one's states, to first order in their difference."""
    shrinks: Int[Array, ""]
    """How often the step was shortened."""
    found: Bool[Array, ""]


def divergence(new: Relative, weight: Float[Array, "n"]) -> Float[Array, ""]:
    """D: mean KL of the policy that acted to the new one, nats."""
    y, r = new
    return weight @ (r + 0.5 * (1.0 + y**2) * jnp.exp(-2.0 * r) - 0.5).sum(-1)


def surrogate(new: Relative, seen: Experience) -> Float[Array, ""]:
    """L: by how much worse the new policy acts, where the old one was."""
    y, r = new
    log_ratio = (0.5 * (seen.e**2 - ((seen.e - y) * jnp.exp(-r)) ** 2) - r).sum(-1)
    return (seen.weight * seen.advantage) @ jnp.expm1(log_ratio)


def conjugate_gradients(
    product: Callable[[Float[Array, "p"]], Float[Array, "p"]], b: Float[Array, "p"], iterations: int
) -> Float[Array, "p"]:
    """`F^-1 b` of a positive definite F that is known by its products, as far as so many iterations come."""

    def unsolved(carry):
        *_, size, first, i = carry
        return (size > ENOUGH * first) & (i < iterations)

    def step(carry):
        x, residual, direction, size, first, i = carry
        image = product(direction)
        length = size / (direction @ image)
        residual = residual - length * image
        after = residual @ residual
        return x + length * direction, residual, residual + after / size * direction, after, first, i + 1

    start = jnp.zeros_like(b), b, b, b @ b, b @ b, jnp.asarray(0)
    return jax.lax.while_loop(unsolved, step, start)[0]


def natural_step(
    relative: Callable[[Float[Array, "p"]], Relative],
    parameters: int,
    seen: Experience,
    kl_step: Float[Array, ""] | float,
    damping: Float[Array, ""] | float,
    iterations: int,
) -> NaturalStep:
    """The step of the policies `relative`, which has so many parameters, from that of parameters 0.

    `damping` belongs to F, whose parameters should therefore be of magnitude 1.
    """
    zero = jnp.zeros(parameters, seen.e.dtype)
    _, forwards = jax.linearize(relative, zero)
    backwards = jax.linear_transpose(forwards, zero)
    weight = seen.weight[:, None]

    def product(v: Float[Array, "p"]) -> Float[Array, "p"]:
        dy, dr = forwards(v)
        return backwards(Relative(weight * dy, 2.0 * weight * dr))[0] + damping * v

    # the gradient of L at 0: of p it is e for y, and e^2 - 1 for r
    pull = weight * seen.advantage[:, None]
    gradient = backwards(Relative(pull * seen.e, pull * (seen.e**2 - 1.0)))[0]
    size = jnp.abs(gradient).max()
    gradient = gradient / jnp.where(size > 0, size, 1.0)
    direction = conjugate_gradients(product, gradient, iterations)
    length = jnp.sqrt(2.0 * kl_step / (direction @ product(direction)))

    def at(shrinks: Int[Array, ""]) -> NaturalStep:
        d = -length * SHRINK**shrinks * direction
        new = relative(d)
        kl, loss = divergence(new, seen.weight), surrogate(new, seen)
        return NaturalStep(d, kl, loss, shrinks, (kl <= kl_step) & (loss < 0))

    step = jax.lax.while_loop(
        lambda now: ~now.found & (now.shrinks < SHRINKS), lambda now: at(now.shrinks + 1), at(jnp.asarray(0))
    )
    kept = NaturalStep(zero, jnp.zeros_like(step.kl), jnp.zeros_like(step.kl), step.shrinks, step.found)
    return jax.tree.map(lambda new, old: jnp.where(step.found, new, old), step, kept)
