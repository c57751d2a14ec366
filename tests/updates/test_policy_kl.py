"""GPS'14's dynamic program against a generic optimiser, finite differences, its two limits, and its own descent."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import constrained_lqr
from oracles.systems import controller, numbers, ours, single, systems, ties
from scipy.optimize import approx_fprime

from pilotfish.updates.c_step import Covered, Objective, c_step, passes, policy_kl, white


def problems(seed, n, T, dx, du, convex=True):
    """n random problems in NumPy: start, dynamics, cost, final cost, reference (K, k, C), policy, and its weight."""
    plain = systems(seed, n, T, dx, du, convex=convex)
    policy, weight, _ = ties(seed + 100, plain)
    return *plain, policy, weight


def in_our_types(problem):
    *plain, policy, weight = problem
    return *ours(plain), controller(policy), jnp.asarray(weight)


@eqx.filter_jit
def solve(problem, kl_step, guess=jnp.nan):
    def one(problem, kl_step):
        start, dynamics, cost, final, q, policy, weight = problem
        objective = Objective(cost, final, covered=Covered(policy, weight))
        return c_step(start, dynamics, objective, q, kl_step, guess=guess)

    return jax.vmap(one)(in_our_types(problem), jnp.broadcast_to(kl_step, len(problem[-1])))


def paid(problem, p):
    """The whole objective of one problem."""
    start, dynamics, cost, final, q, policy, weight = problem
    total = constrained_lqr.measure(start, dynamics, cost, final, q, p)[0]
    return total + weight @ constrained_lqr.covering(start, dynamics, p, policy)


@pytest.mark.parametrize("kl_step", [pytest.param(0.05, marks=pytest.mark.slow), 0.5])
def test_no_constrained_optimiser_finds_better(kl_step):
    several = problems(0, n=2, T=2, dx=2, du=2)
    step = solve(several, kl_step)
    assert step.found.all()
    for i in range(2):
        problem, p = single(several, i), numbers(step.controller, i)
        plain = problem[:5]
        kl = constrained_lqr.measure(*plain, p)[1]
        np.testing.assert_allclose(kl, step.kl[i], rtol=1e-6, atol=1e-9)
        assert 0.99 * kl_step <= kl.mean() <= kl_step
        reached = paid(problem, p)
        gain = paid(problem, problem[4]) - reached

        def objective(other, problem=problem):
            return paid(problem, other)

        begins = ((K + 0.02, k - 0.02, 0.95 * C) for K, k, C in (problem[4], p))
        found = [constrained_lqr.nonlinear_program(*plain, kl.sum(), begin, objective) for begin in begins]
        best = min(value for value in found if value is not None)
        assert gain > 0
        assert abs(reached - best) < 1e-4 * gain


again = eqx.filter_jit(policy_kl.backward)
follow = eqx.filter_jit(passes.forward)


def descended(whitened, tie, log_eta, rounds):
    """The controllers of so many passes from the reference, for multipliers that are given."""
    found = [passes.reference(whitened)]
    for _ in range(rounds):
        states = follow(whitened, found[-1])[1]
        second = states.cov + states.mean[..., :, None] * states.mean[..., None, :]
        found.append(again(whitened, tie, found[-1].G, second, log_eta))
    return found[1:]


def lagrangian(problem, log_eta, p):
    start, dynamics, cost, final, q, *_ = problem
    return paid(problem, p) + np.exp(log_eta) * constrained_lqr.measure(start, dynamics, cost, final, q, p)[1].sum()


def white_problem(problem):
    start, dynamics, cost, final, q, policy, weight = in_our_types(problem)
    mean = white.mean_states(start, dynamics, q)
    whitened = white.whiten(start, dynamics, cost, final, q, mean, jnp.zeros(len(weight)))
    return whitened, policy_kl.whiten(policy, weight, q, mean), lambda p: numbers(white.unwhiten(p, q, mean))


def test_gradients_vanish_by_finite_differences():
    """In mean action, gain and covariance of every step, for a multiplier that is given."""
    problem, log_eta = single(problems(1, n=1, T=3, dx=2, du=2), 0), np.log(1.7)
    whitened, tie, outwards = white_problem(problem)
    p = outwards(descended(whitened, tie, jnp.full(3, log_eta), 40)[-1])
    T, du, dx = p[0].shape

    def of(packed):
        return lagrangian(problem, log_eta, constrained_lqr.unpack(packed, T, du, dx))

    there = approx_fprime(constrained_lqr.pack(*p), of, 1e-7)
    begin = approx_fprime(constrained_lqr.pack(*problem[4]), of, 1e-7)
    assert np.abs(there).max() < 2e-4 * np.abs(begin).max()


@pytest.mark.parametrize("convex", [pytest.param(True, marks=pytest.mark.slow), False])
def test_every_pass_lowers_the_lagrangian(convex):
    for i in range(3):
        problem = single(problems(2, n=3, T=6, dx=3, du=2, convex=convex), i)
        log_eta = np.log(4.0 if convex else 1000.0)  # above what makes every step definite
        whitened, tie, outwards = white_problem(problem)
        found = descended(whitened, tie, jnp.full(6, log_eta), 8)
        values = [lagrangian(problem, log_eta, outwards(p)) for p in found]
        steps = np.diff([lagrangian(problem, log_eta, problem[4]), *values])
        assert (steps <= 1e-9 * np.abs(values[0])).all()
        assert abs(steps[-1]) < 1e-3 * abs(steps[0])


def test_weightless_is_lqr_gps():
    *problem, weight = problems(3, n=10, T=20, dx=4, du=2)
    plain = solve((*problem, 0.0 * weight), 0.3)

    @eqx.filter_jit
    def without(start, dynamics, cost, final, q, *_):
        return jax.vmap(lambda *one: c_step(*one[:2], Objective(*one[2:4]), one[4], 0.3))(
            start, dynamics, cost, final, q
        )

    wanted = without(*in_our_types((*problem, weight)))
    for a, b in zip(jax.tree.leaves(plain[:3]), jax.tree.leaves(wanted[:3]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_large_weight_is_the_policy():
    *problem, weight = problems(4, n=5, T=10, dx=3, du=2)
    step = solve((*problem, 1e9 * weight), 1e6)
    assert step.found.all()
    for found, wanted in zip(numbers(step.controller), problem[-1], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("convex", [True, False])
@pytest.mark.parametrize("weight", [1e-6, 1.0, 1e6])
def test_the_bound_is_met_and_used(convex, weight):
    """Whatever the weights and the cost's curvature."""
    *problem, weights = problems(5, n=50, T=20, dx=4, du=2, convex=convex)
    step = solve((*problem, weight * weights), 0.1)
    assert step.found.all()
    mean = np.asarray(step.kl.mean(-1))
    assert (mean <= 0.1 * (1 + 1e-9)).all()
    assert (mean >= 0.099).all()
    assert np.median(step.passes) <= 20


@pytest.mark.parametrize("part", [pytest.param(0.999, marks=pytest.mark.slow), 0.98, 0.9])
def test_a_bound_that_is_almost_slack_is_met(part):
    """Whatever the guess, that of an iteration before when it was slack, say. The policy's term keeps some noise, so
    that without a bound there is a KL, and next to that hardly a slope.
    """
    problem = problems(6, n=8, T=20, dx=3, du=2)
    slack = solve(problem, 1e4).kl.mean(-1)
    assert (slack < 1e3).all()
    for guess in (jnp.nan, 1e-28):
        step = solve(problem, part * slack, guess)
        assert step.found.all()
        assert (step.kl.mean(-1) <= part * slack * (1 + 1e-9)).all()
        used = step.kl.mean(-1) >= 0.99 * part * slack
        assert (used | (step.eta[:, 0] < 1e-15)).all()
        assert used.any()
