"""Problems that make no sense are refused where they are made, by the name and value of what is wrong."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.types import Gaussian, Problem

NOWHERE = np.zeros((2, 2, 2))
SKEWED = np.array([[1.0, 0.5], [0.0, 1.0]])
INDEFINITE = np.array([[1.0, 2.0], [2.0, 1.0]])


def problem(mean=((0.0, 0.0), (1.0, 0.0)), cov=NOWHERE, **changes):
    known = {"horizon": 3, "dt": 0.1, "initial_std": [1.0, 2.0], "cost": lambda x, u, t: x @ x + u @ u}
    return Problem(conditions=Gaussian(jnp.asarray(mean), jnp.asarray(cov)), **(known | changes))


WRONG = {
    r"initial_std=\[1.0, -2.0\].*positive": {"initial_std": [1.0, -2.0]},
    r"initial_std=\[1.0, 0.0\].*positive": {"initial_std": [1.0, 0.0]},
    r"initial_std=\[nan, 1.0\].*finite": {"initial_std": [np.nan, 1.0]},
    r"initial_std has the shape \(\)": {"initial_std": 1.0},
    r"initial_std has the shape \(1, 2\)": {"initial_std": [[1.0, 2.0]]},
    r"noise_std=\[-1.0, -1.0\].*0 or more": {"noise_std": -1.0},
    r"noise_std=\[0.0, inf\].*finite": {"noise_std": [0.0, np.inf]},
    r"action_low\[1\]=3.0 and action_high\[1\]=2.0": {"action_low": [0.0, 3.0], "action_high": 2.0},
    r"action_low\[0\]=nan": {"action_low": [np.nan, 0.0]},
    r"conditions.mean has the shape \(2,\).*\(N, dx\)": {"mean": [0.0, 1.0], "cov": np.eye(2)},
    r"conditions.mean has the shape \(0, 2\)": {"mean": np.zeros((0, 2)), "cov": np.zeros((0, 2, 2))},
    r"conditions.mean\[1\] = \[1.0, nan\]": {"mean": [[0.0, 0.0], [1.0, np.nan]]},
    r"conditions.cov\[0\] = .*inf": {"cov": NOWHERE + np.array([np.diag([np.inf, 1.0]), np.eye(2)])},
    r"conditions.cov\[1\] is no covariance.*eigenvalue -1": {"cov": [np.eye(2), INDEFINITE]},
    r"conditions.cov\[0\] is no covariance: entry 0, 1 is 0.5, .* 0.0; .*symmetric": {"cov": [SKEWED, np.eye(2)]},
    r"conditions.cov\[0\] is no covariance: entry 0, 1 is 1e-12": {"cov": [[[1.0, 1e-12], [1e-12, 0.0]], np.eye(2)]},
    r"conditions.cov\[1\] is no covariance.*-4": {"cov": 1e-18 * np.array([np.eye(2), np.diag([1.0, -4.0])])},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_makes_no_sense_is_refused_by_name(message):
    with pytest.raises(ValueError, match=message):
        problem(**WRONG[message])


def test_one_covariance_for_two_conditions_is_refused():
    """Made by tree_at, for the tests watch over shapes that users' code may have."""
    good = problem()
    one = eqx.tree_at(lambda conditions: conditions.cov, good.conditions, jnp.eye(2))
    with pytest.raises(ValueError, match=r"conditions.cov has the shape \(2, 2\).*\(2, 2, 2\)"):
        dataclasses.replace(good, conditions=one)


@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e18])
def test_whatever_the_units_a_start_that_is_known_in_part_is_no_fault(scale):
    root = np.random.default_rng(0).normal(size=(2, 2, 1))
    made = problem(cov=scale * root @ np.swapaxes(root, 1, 2), initial_std=np.full(2, scale), noise_std=[0.0, scale])
    assert made.conditions.cov.shape == (2, 2, 2)


entry_units = st.lists(st.sampled_from([1e-9, 1e-4, 1.0, 1e5, 1e9]), min_size=3, max_size=3)


@settings(deadline=None, max_examples=50)
@given(entry_units, st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_a_covariance_of_any_rank_is_none_the_less_one_in_mixed_units(units, seed, rank):
    root = np.diag(units) @ np.random.default_rng(seed).normal(size=(3, rank))
    problem(np.zeros((1, 3)), (root @ root.T)[None])


@settings(deadline=None, max_examples=50)
@given(entry_units, st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 0.1, 1.0]))
def test_what_is_no_covariance_is_none_in_mixed_units(units, seed, fault):
    """A direction whose variance is negative, an entry that is another beside the diagonal, by a part of their size."""
    random = np.random.default_rng(seed)
    flat = np.linalg.qr(random.normal(size=(3, 3)))[0]
    indefinite = flat @ np.diag([1.0, 2.0, -fault]) @ flat.T
    skewed = np.eye(3)
    skewed[tuple(random.permutation(3)[:2])] = fault
    for cov in (indefinite, skewed):
        with pytest.raises(ValueError, match=r"conditions.cov\[0\] is no covariance"):
            problem(np.zeros((1, 3)), (np.diag(units) @ cov @ np.diag(units))[None])


def test_an_action_that_cannot_move_is_no_fault():
    assert problem(action_low=[1.0, -1.0], action_high=[1.0, np.inf]).du == 2


def test_what_jax_traces_is_not_looked_at():
    plain = LinearQuadratic().problem()

    @jax.jit
    def spread(std):
        return dataclasses.replace(plain, initial_std=std).initial_std

    np.testing.assert_array_equal(spread(jnp.full(plain.du, 2.0)), 2.0)
