"""Costs that several tasks share."""

import jax.numpy as jnp
from jaxtyping import Array, Float

ALPHA = 1e-5  # m^2 where z is a distance (cbfinn/gps: the default of its costs)


def ell12(z: Float[Array, "d"]) -> Float[Array, ""]:
    """`1/2 |z|^2 + sqrt(alpha + |z|^2)`: pulls far points strongly and near ones precisely (GPS'14).

    The square moves a distant point quickly; the root, a smooth |z|, keeps a slope of about 1 until |z| is near
    sqrt(alpha) = .003, where that of the square alone would have vanished. Its minimum is sqrt(alpha), not 0.
    """
    square = (z**2).sum()
    return 0.5 * square + jnp.sqrt(ALPHA + square)
