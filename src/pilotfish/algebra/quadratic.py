"""Quadratic functions: expansion, expectation, change of coordinates."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pilotfish.types import Gaussian, Quadratic


def expand(f: Callable[[Array], Array], z: Float[Array, "d"]) -> Quadratic:
    """Second-order Taylor expansion of a scalar function about `z`, as a function of the absolute argument."""
    value, grad, hess = f(z), jax.grad(f)(z), jax.hessian(f)(z)
    return Quadratic(hess, grad - hess @ z, value - grad @ z + 0.5 * z @ hess @ z)


def expectation(q: Quadratic, z: Gaussian) -> Float[Array, "*batch"]:
    """`E[q(z)]` of a Gaussian argument: the value at the mean plus `1/2 tr(H S)`."""
    return q(z.mean) + 0.5 * jnp.einsum("...ij,...ji->...", q.H, z.cov)


def compose(q: Quadratic, A: Float[Array, "*batch d n"], b: Float[Array, "*batch d"]) -> Quadratic:
    """The quadratic `y -> q(A y + b)`."""
    Hb = jnp.einsum("...ij,...j->...i", q.H, b)
    return Quadratic(A.mT @ q.H @ A, jnp.einsum("...ji,...j->...i", A, Hb + q.h), q(b))
