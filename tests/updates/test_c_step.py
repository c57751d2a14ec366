"""The C-step against a generic constrained optimiser, plain LQR, joint Gaussians, and hundreds of random systems."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dear import mostly_slow
from oracles import constrained_lqr, dense
from oracles.systems import controller, numbers, ours, single, systems, ties

from pilotfish.algebra import chain, quadratic, riccati
from pilotfish.types import Quadratic
from pilotfish.updates.c_step import Objective, c_step
from pilotfish.updates.c_step.multipliers import MOST_PASSES, RANGE, common
from pilotfish.updates.c_step.passes import Trial

TRUSTS = ("trajectory", "step")
SOME = ("trajectory", pytest.param("step", marks=pytest.mark.slow))
# Problems have one of few sizes: a solver is compiled anew for each.


def solve(problem, kl_step, trust, guess=jnp.nan):
    """One kl_step for all problems, or one each."""
    each = (jnp.broadcast_to(jnp.asarray(a, float), problem[1].A.shape[0]) for a in (kl_step, guess))
    return _solve(problem, *each, trust)


def test_a_guess_however_wrong_changes_nothing():
    """As that of an iteration whose bound was slack, in whose multiplier rounding is all there is."""
    problem = ours(systems(3, n=8, T=10, dx=3, du=2))
    plain = solve(problem, 0.3, "trajectory")
    for guess in (1e-28, 1e28, 1e-300):
        found = solve(problem, 0.3, "trajectory", guess)
        assert found.found.all()
        np.testing.assert_allclose(found.kl.mean(-1), plain.kl.mean(-1), rtol=0.01)


@eqx.filter_jit
def _solve(problem, kl_step, guess, trust):
    start, dynamics, cost, final, q = problem
    of_one = jax.vmap(lambda start, f, cost, final, q, e, g: c_step(start, f, Objective(cost, final), q, e, trust, g))
    return of_one(start, dynamics, cost, final, q, kl_step, guess)


@eqx.filter_jit
def in_the_model(problem, controller):
    """Expected cost of controllers, and the KL of their steps to the reference, by the algebra's chain."""

    def one(start, dynamics, cost, final, q, p):
        z, last = chain.forward(start, dynamics, p)
        total = quadratic.expectation(cost, z).sum() + quadratic.expectation(final, last)
        return total, chain.kl(start, dynamics, p, q)

    return jax.vmap(one)(*problem, controller)


@pytest.mark.parametrize("trust", SOME)
@pytest.mark.parametrize("convex", [pytest.param(True, marks=pytest.mark.slow), False])
def test_no_constrained_optimiser_finds_better(trust, convex):
    problems = systems(int(convex), n=3, T=3, dx=2, du=1, convex=convex)
    for kl_step in (0.05, 0.5):
        step = solve(ours(problems), kl_step, trust)
        assert step.found.all()
        for i in range(3):
            problem, p = single(problems, i), numbers(step.controller, i)
            cost, kl = constrained_lqr.measure(*problem, p)
            np.testing.assert_allclose(kl, step.kl[i], rtol=1e-6, atol=1e-9)
            bounds = kl.sum() if trust == "trajectory" else kl
            q = problem[-1]
            gain = constrained_lqr.measure(*problem, q)[0] - cost
            begins = ((K + 0.02, k - 0.02, 0.95 * C) for K, k, C in (q, p))
            found = [constrained_lqr.nonlinear_program(*problem, bounds, begin) for begin in begins]
            best = min(value for value in found if value is not None)
            # both ways: what SLSQP finds is no better, and not so much worse that it would be no test
            assert abs(cost - best) < 1e-4 * gain


@pytest.mark.parametrize("trust", SOME)
def test_kl_is_that_of_the_joint_gaussians(trust):
    problems = systems(5, n=3, T=3, dx=2, du=1)
    step = solve(ours(problems), 0.2, trust)
    for i in range(3):
        (mean, cov), dynamics, _, _, q = single(problems, i)
        p = numbers(step.controller, i)
        whole = dense.kl(*dense.trajectory(mean, cov, dynamics, p), *dense.trajectory(mean, cov, dynamics, q))
        np.testing.assert_allclose(step.kl[i].sum(), whole, rtol=1e-6)


@pytest.mark.parametrize("trust", SOME)
def test_wide_bound_is_plain_lqr(trust):
    problems = systems(6, n=8, T=40, dx=3, du=2)
    start, dynamics, cost, final, q = ours(problems)
    step = solve((start, dynamics, cost, final, q), 1e4, trust)
    best, _ = jax.vmap(riccati.lqr)(dynamics, cost, final)
    assert step.found.all()
    np.testing.assert_allclose(step.controller.K, best.K, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(step.controller.k, best.k, rtol=1e-6, atol=1e-7)
    assert (step.kl.max(-1) < 1e4).all()
    assert (step.eta > 0).all()


@pytest.mark.parametrize("trust", SOME)
def test_narrow_bound_is_the_reference(trust):
    problem = ours(systems(7, n=8, T=40, dx=3, du=2, convex=False))
    step = solve(problem, 1e-12, trust)
    for new, old in zip(jax.tree.leaves(step.controller), jax.tree.leaves(problem[-1]), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-4)
        assert not np.array_equal(new, old)


def test_guess_saves_passes_and_changes_nothing_else():
    problem = ours(systems(8, n=100, T=20, dx=4, du=2, convex=False))
    cold = solve(problem, 1.0, "trajectory")
    warm = solve(problem, 1.0, "trajectory", cold.eta[:, 0] * 1.1)
    assert np.median(warm.passes) < np.median(cold.passes)
    np.testing.assert_allclose(warm.eta, cold.eta, rtol=0.02)
    far = solve(problem, 1.0, "trajectory", cold.eta[:, 0] * 1e-9)
    assert far.found.all()
    np.testing.assert_allclose(far.eta, cold.eta, rtol=0.02)


@pytest.mark.parametrize("trust", SOME)
def test_random_systems_keep_every_promise(trust):
    """Systems stable and not, convex and not, regular and nearly singular, bounds from 1e-3 to 10 nats."""
    n, passes = 100 if trust == "trajectory" else 20, []
    for number, (growth, convex, spread) in enumerate(
        (growth, convex, spread) for growth in (0.9, 1.0, 1.1, 1.6) for convex, spread in ((True, 3.0), (False, 0.5))
    ):
        problem = ours(systems(100 + number, n, 20, 4, 2, growth, convex, spread))
        bound = 10 ** np.random.default_rng(number).uniform(-3, 1 if convex else 0, n)
        step = solve(problem, jnp.asarray(bound), trust)
        assert step.found.all()
        for leaf in jax.tree.leaves(step):
            assert np.isfinite(leaf).all()
        assert (np.diagonal(step.controller.chol, axis1=-2, axis2=-1) > 0).all()
        new, kl = in_the_model(problem, step.controller)
        old, _ = in_the_model(problem, problem[-1])
        assert (new <= old + 1e-9 * np.abs(old)).all()
        measured = kl.mean(-1) if trust == "trajectory" else kl.max(-1)
        # huge gains cost the independent formula some digits
        assert (measured < bound * (1 + 1e-4)).all()
        assert (measured > bound * 0.98).all()
        assert (step.passes < MOST_PASSES).mean() > 0.99
        passes.append(step.passes)
    assert np.median(passes) <= 8


def test_steps_that_can_be_meet_their_own_bound():
    """Where no step's action is without effect, every step moves as far as it may."""
    steps = [solve(ours(systems(900 + seed, n=20, T=20, dx=4, du=2)), 0.1, "step") for seed in range(12)]
    assert all((step.kl > 0.098).all() for step in steps)
    assert np.median([step.passes for step in steps]) <= 8


@pytest.mark.parametrize(
    ("growth", "convex"),
    [pytest.param(1.0, False, marks=pytest.mark.slow), pytest.param(1.3, True, marks=pytest.mark.slow), (1.3, False)],
)
@pytest.mark.parametrize("bound", [1.0, 5.0])
def test_large_steps_are_the_dual_s_too(growth, convex, bound):
    """By weak duality no controller within the bounds saves more, but for the gap `sum eta (bound - KL)`."""
    problem = ours(systems(12, 20, 20, 4, 2, growth, convex))
    step = solve(problem, bound, "step")
    assert step.found.all()
    assert (step.kl < bound * (1 + 1e-9)).all()
    new, kl = in_the_model(problem, step.controller)
    old, _ = in_the_model(problem, problem[-1])
    gap = (step.eta * (bound - kl)).sum(-1)
    assert (gap < 0.02 * (old - new)).all()


@pytest.mark.parametrize("trust", mostly_slow(TRUSTS, always=["trajectory"]))
def test_without_a_step_the_reference_is_kept(trust):
    start, dynamics, cost, final, q = ours(systems(10, n=8, T=40, dx=3, du=2))
    hopeless = jnp.arange(8) == 1
    A = jnp.where(hopeless[:, None, None, None], 1e8 * dynamics.A, dynamics.A)
    H = cost.H.at[2, 3, 0, 0].set(jnp.nan)
    h = cost.h.at[3, 0].set(jnp.inf)
    F = dynamics.cov.at[4, 10].set(jnp.nan)
    problem = start, eqx.tree_at(lambda d: (d.A, d.cov), dynamics, (A, F)), Quadratic(H, h, cost.c), final, q
    step = solve(problem, 0.1, trust)
    np.testing.assert_array_equal(step.found, [True, False, False, False, False, True, True, True])
    for new, old in zip(jax.tree.leaves(step.controller), jax.tree.leaves(q), strict=True):
        assert np.isfinite(new).all()
        np.testing.assert_array_equal(new[1:5], old[1:5])
        assert not np.array_equal(new[0], old[0])
    np.testing.assert_array_equal(step.kl[1:5], 0.0)


@pytest.mark.parametrize("trust", TRUSTS)
def test_where_actions_change_nothing_the_controller_stays(trust):
    start, dynamics, cost, final, q = ours(systems(11, n=8, T=40, dx=3, du=2))
    dynamics = eqx.tree_at(lambda d: d.B, dynamics, jnp.zeros_like(dynamics.B))
    cost = Quadratic(cost.H.at[:, :, 3:].set(0.0).at[:, :, :, 3:].set(0.0), cost.h.at[:, :, 3:].set(0.0), cost.c)
    step = solve((start, dynamics, cost, final, q), 0.1, trust)
    for new, old in zip(jax.tree.leaves(step.controller), jax.tree.leaves(q), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-12)
    np.testing.assert_allclose(step.kl, 0.0, atol=1e-9)


# -- tied to a policy, as in BADMM


def solve_tied(problem, policy, nu, lam, kl_step, trust):
    return _solve_tied(problem, policy, nu, lam, jnp.full(len(nu), kl_step), trust)


@eqx.filter_jit
def _solve_tied(problem, policy, nu, lam, kl_step, trust):
    def one(start, dynamics, cost, final, q, policy, nu, lam, kl_step):
        return c_step(start, dynamics, Objective(cost, final).tied(policy, nu, lam), q, kl_step, trust)

    return jax.vmap(one)(*problem, policy, nu, lam, kl_step)


@pytest.mark.slow
@pytest.mark.parametrize("trust", SOME)
def test_tied_to_a_policy_no_constrained_optimiser_finds_better(trust):
    problems = systems(21, n=2, T=2, dx=2, du=2)
    policy, nu, lam = ties(22, problems)
    for kl_step in (0.05, 0.5):
        step = solve_tied(ours(problems), controller(policy), jnp.asarray(nu), jnp.asarray(lam), kl_step, trust)
        assert step.found.all()
        for i in range(2):
            problem, p = single(problems, i), numbers(step.controller, i)
            tie = tuple(a[i] for a in policy), nu[i], lam[i]
            _, kl = constrained_lqr.measure(*problem, p)
            np.testing.assert_allclose(kl, step.kl[i], rtol=1e-6, atol=1e-9)
            reached = constrained_lqr.tied(*problem, p, *tie)
            gain = constrained_lqr.tied(*problem, problem[-1], *tie) - reached
            assert gain > 0
            bounds = kl.sum() if trust == "trajectory" else kl

            def objective(other, problem=problem, tie=tie):
                return constrained_lqr.tied(*problem, other, *tie)

            begins = ((K + 0.02, k - 0.02, 0.95 * C) for K, k, C in (problem[-1], p))
            found = [constrained_lqr.nonlinear_program(*problem, bounds, begin, objective) for begin in begins]
            best = min(value for value in found if value is not None)
            assert abs(reached - best) < 1e-4 * gain


@pytest.mark.parametrize("trust", SOME)
def test_entropy_weights_keep_every_promise(trust):
    """The KL's bound is met and used, whatever the cost's curvature."""
    problem = ours(systems(23, n=100, T=20, dx=4, du=2, convex=False))
    policy, nu, lam = ties(24, systems(23, n=100, T=20, dx=4, du=2, convex=False))
    step = solve_tied(problem, controller(policy), jnp.asarray(nu), jnp.asarray(lam), 0.1, trust)
    assert step.found.all()
    measured = step.kl.mean(-1) if trust == "trajectory" else step.kl.max(-1)
    assert (measured <= 0.1 * (1 + 1e-9)).all()
    assert (measured >= 0.099).all()


def test_a_strong_tie_is_the_policy():
    problems = systems(25, n=8, T=10, dx=3, du=2)
    policy, nu, lam = ties(26, problems)
    step = solve_tied(ours(problems), controller(policy), jnp.asarray(1e8 * nu), jnp.asarray(lam), 1e6, "trajectory")
    assert step.found.all()
    for i in range(8):
        for found, wanted in zip(numbers(step.controller, i), policy, strict=True):
            np.testing.assert_allclose(found, wanted[i], rtol=1e-3, atol=1e-4)


def test_no_tie_changes_nothing():
    problem = ours(systems(27, n=8, T=10, dx=3, du=2))
    zeros = jnp.zeros((8, 10)), jnp.zeros((8, 10, 2))
    plain, tied = solve(problem, 0.1, "trajectory"), solve_tied(problem, problem[-1], *zeros, 0.1, "trajectory")
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(tied), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("start", [-RANGE, -38.0, -20.0])
def test_rounding_far_from_the_root_does_not_lead_the_search(start):
    """A search that doubles its way out of a flat end jumps to multipliers that leave of the KL but its rounding."""

    def found(rounding):
        def solve(log_eta):
            kl = 1.3 / (1.0 + jnp.exp(2.0 * (log_eta + 5.3)))
            return Trial(log_eta, None, jnp.where(kl < 1e-12, rounding, kl))

        return common(solve, jnp.zeros(3), jnp.mean, 0.5, jnp.asarray(start), jnp.asarray(0.0))[0]

    plain, other = found(1e-17), found(3e-16)
    assert 0.99 * 0.5 <= plain.kl.mean() <= 0.5
    np.testing.assert_allclose(other.log_eta, plain.log_eta, rtol=1e-12)
