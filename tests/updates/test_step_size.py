"""The step size follows what the last step promised and what it missed (MDGPS, section 4.2)."""

import jax.numpy as jnp
import numpy as np
import pytest

from pilotfish.updates.step_size import FACTOR_CLIP, Steps, StepSize


def steps(before, promised):
    return Steps(jnp.ones(len(before)), jnp.asarray(before), jnp.asarray(promised))


@pytest.mark.parametrize(
    ("before", "promised", "now", "factor"),
    [
        (10.0, 4.0, 5.0, 3.0),  # 6 promised, 1 missed: 6 / 2
        (10.0, 4.0, 7.0, 1.0),  # half of it came: the step stays
        (10.0, 4.0, 10.0, 0.5),  # nothing came
        (10.0, 4.0, 1e9, FACTOR_CLIP[0]),
        (10.0, 4.0, 3.0, FACTOR_CLIP[1]),  # better than promised: grow, and do not flip
        (10.0, 4.0, 4.0, FACTOR_CLIP[1]),
        (jnp.nan, jnp.nan, 5.0, 1.0),  # nothing known
    ],
)
def test_step_size_follows_promised_over_twice_missed(before, promised, now, factor):
    adapted = StepSize(smallest=1e-3, largest=1e3).factor(steps([before], [promised]), jnp.array([now]))
    np.testing.assert_allclose(adapted, [factor])


def test_one_factor_for_all_from_mean_costs():
    """12 and 0 promised, 1 and 3 missed: 6 / (2 * 2) on average."""
    known = steps([10.0, 4.0], [-2.0, 4.0])
    now = jnp.array([-1.0, 7.0])
    np.testing.assert_allclose(StepSize(1e-3, 1e3, "mean").factor(known, now), [1.5, 1.5])
    np.testing.assert_allclose(StepSize(1e-3, 1e3).factor(known, now), [5.0, FACTOR_CLIP[0]])


def test_the_factor_stays_where_it_may_not_change():
    np.testing.assert_array_equal(StepSize().factor(steps([10.0], [4.0]), jnp.array([100.0])), [1.0])
