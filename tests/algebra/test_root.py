"""The search for a root against SciPy's Brent, on functions that overflow, are flat, or have no root."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from pilotfish.algebra import root

BAND = root.Band(-1e-10, 0.0, 1e-10)
SECANT = root.Secant(first=-1.5, steepest=-30.0, flattest=-0.03)
WIDE = (jnp.asarray(-40.0), jnp.asarray(40.0))


def log_of_powers(s, weights, powers):
    """log of a sum of falling powers of e^s: monotone, and infinite at the left in many ways."""
    return jax.nn.logsumexp(jnp.log(weights) - powers * s)


@jax.jit
def secant(weights, powers, first):
    def evaluate(s):
        return root.Point(log_of_powers(s, weights, powers), None, s)

    return root.search(evaluate, first, WIDE, BAND, 200, SECANT)


@jax.jit
def newton(weights, powers, first):
    def evaluate(s):
        return root.Point(*jax.value_and_grad(log_of_powers)(s, weights, powers), s)

    return root.search(evaluate, first, WIDE, BAND, 200, enclosed=True, resolution=1e-14)


positive = st.floats(1e-3, 1e3)
three = st.tuples(positive, positive, positive)
powers = st.tuples(st.floats(0.3, 3.0), st.floats(0.3, 3.0), st.floats(0.3, 3.0))


@given(three, powers, st.floats(-20, 20))
@settings(deadline=None, max_examples=100)
def test_finds_what_brent_finds(weights, powers, first):
    weights, powers = jnp.asarray(weights), jnp.asarray(powers)
    exact = brentq(lambda s: float(log_of_powers(s, weights, powers)), -40, 40, xtol=1e-13)
    for find in (secant, newton):
        found = find(weights, powers, jnp.asarray(first))
        assert abs(found.f) <= 1e-10
        np.testing.assert_allclose(found.s, exact, atol=1e-8)
        np.testing.assert_array_equal(found.best, found.s)


def of(f, first=0.0, band=BAND, most=200, domain=WIDE):
    return root.search(lambda s: root.Point(f(s), None, s), jnp.asarray(first), domain, band, most, SECANT)


@pytest.mark.parametrize("nothing", [jnp.inf, jnp.nan])
def test_what_is_no_number_is_too_much(nothing):
    found = of(lambda s: jnp.where(s < 7.3, nothing, 9.0 - s), first=-5.0)
    np.testing.assert_allclose(found.s, 9.0, atol=1e-9)


def test_ends_at_the_lowest_point_where_all_is_below():
    found = of(lambda s: -1.0 - 0.1 * jnp.arctan(s), domain=(jnp.asarray(-3.0), jnp.asarray(3.0)))
    assert found.s == -3.0
    assert found.best == -3.0


def test_ends_at_the_highest_point_where_all_is_above_and_keeps_nothing():
    found = of(lambda s: 5.0 - 0.1 * jnp.arctan(s), domain=(jnp.asarray(-3.0), jnp.asarray(3.0)))
    assert found.s == 3.0
    assert np.isnan(found.best)


def test_keeps_the_last_point_within_the_bound():
    """Where evaluations run out, what is kept is admissible."""
    band = root.Band(-1e-300, -0.01, 0.0)
    found = of(lambda s: jnp.log1p(jnp.exp(-s)) - 1.0, first=-8.0, band=band, most=9)
    assert found.evaluations == 9
    assert np.log1p(np.exp(-found.best)) - 1.0 <= 0.0


def test_starts_count_as_evaluations():
    assert of(lambda s: -s, first=0.0).evaluations == 1


def test_side_by_side_is_as_alone():
    rng = np.random.default_rng(0)
    weights, powers = jnp.asarray(10 ** rng.uniform(-3, 3, (200, 3))), jnp.asarray(rng.uniform(0.3, 3.0, (200, 3)))
    first = jnp.asarray(rng.uniform(-20, 20, 200))
    for find in (secant, newton):
        together = jax.vmap(find)(weights, powers, first)
        assert (np.abs(together.f) <= 1e-10).all()
        assert np.median(together.evaluations) <= 10
        for i in range(0, 200, 40):
            alone = find(weights[i], powers[i], first[i])
            np.testing.assert_allclose(together.s[i], alone.s, atol=1e-9)


def test_flat_functions_take_few_steps():
    """As a bound just below where it is slack: far from the root there is next to no slope."""
    band = root.Band(-0.01, -0.005, 0.0)
    for f, first in (
        (lambda s: 0.02 - jax.nn.softplus(s), -12.0),
        (lambda s: jax.nn.softplus(-s) - 0.02, 12.0),
    ):
        found = of(f, first, band, most=25)
        assert band.lower <= found.f <= band.upper
        assert jnp.isfinite(found.best)
