"""Plans within a region about an episode: against a general optimiser, dense least squares and the rule in words."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from pilotfish.types import Equations, Gaussian, LinearGaussian, Problem, Rollouts
from pilotfish.updates import trust_region
from pilotfish.updates.best_so_far import BestSoFar
from pilotfish.updates.ilqg_step import Trajectory
from pilotfish.updates.trust_region import BOUNDED, GROWTH, LEAST, SHRINK, TrustRegion

T, DX, DU = 6, 2, 1
SPREAD = jnp.array([0.5, 2.0])


def problem(state=1.0, action=1.0, cost=1.0, N=1):
    """A mass that shall be at 1 at the end, in other units of state, action and cost."""

    def dynamics(x, u):
        x, u = x / state, u / action
        return state * jnp.stack([x[0] + 0.3 * x[1], 0.9 * x[1] + 0.3 * jnp.sin(u[0]) + 0.1 * x[0] * u[0]])

    def paid(x, u, t):
        return cost * (0.1 * (u / action) @ (u / action) + 0.01 * (x / state) @ (x / state))

    def final(x):
        return cost * 20.0 * ((x[0] / state - 1.0) ** 2 + (x[1] / state) ** 2)

    start = Gaussian(state * jnp.tile(jnp.array([[0.2, 0.0]]), (N, 1)), jnp.zeros((N, DX, DX)))
    low = -1.5 * action
    return Problem(T, 0.1, start, [action], paid, final, dynamics, action_low=low, action_high=-low)


def ahead(p, x, u):
    assert isinstance(p.dynamics, Equations)
    return p.dynamics(x, u)


def episode(p, u):
    """What the actions (T, du) lead to from the condition's mean."""
    x = [p.conditions.mean[0]]
    for action in u:
        x.append(ahead(p, x[-1], action))
    return jnp.stack(x)


def open_loop(u):
    return LinearGaussian(jnp.zeros((1, T, DU, DX)), u[None], jnp.zeros((1, T, DU, DU)))


def region(p, u, radius, spread=SPREAD):
    N = len(p.conditions.mean)
    known = TrustRegion.begin(p, jnp.inf)
    x = episode(p, u)
    return known._replace(x=jnp.tile(x, (N, 1, 1)), u=jnp.tile(u, (N, 1, 1)), radius=jnp.full(N, float(radius)))


@eqx.filter_jit
def planned(p, where, first, spread, steps=80):
    return trust_region.planned(p, where, first, spread, steps, 1e-3)


@pytest.mark.parametrize("radius", [0.1, 0.4, np.inf])
def test_the_plan_is_the_cheapest_within_the_radius(radius):
    """SciPy minimises over all actions, under the bound as a constraint."""
    p, u = problem(), 0.3 * jnp.sin(jnp.arange(float(T)))[:, None]
    plan, told = planned(p, region(p, u, radius), open_loop(u), SPREAD)
    c = np.asarray(episode(p, u))

    def total(v):
        return p.costs(episode(p, v[:, None]), v[:, None]).sum()

    def room(v):
        d = (episode(p, v[:, None]) - c) / SPREAD
        return radius**2 - (d**2).sum() / (T + 1) / DX

    bound = [] if np.isinf(radius) else [{"type": "ineq", "fun": jax.jit(room), "jac": jax.jit(jax.grad(room))}]
    found = scipy.optimize.minimize(
        jax.jit(total), np.asarray(u[:, 0]), jac=jax.jit(jax.grad(total)), bounds=[(-1.5, 1.5)] * T, constraints=bound
    )
    assert found.success
    assert float(plan.cost[0]) == pytest.approx(found.fun, rel=0.01)
    if bound:
        assert float(told.distance[0]) == pytest.approx(radius, rel=0.02)
    assert plan.cost[0] == pytest.approx(float(p.costs(plan.x[0], plan.u[0]).sum()))  # no price is left in it


@pytest.mark.parametrize(("state", "action", "cost"), [(1e-6, 1e6, 1e6), (1e6, 1e-6, 1e-6)])
def test_units_change_nothing(state, action, cost):
    u = 0.3 * jnp.sin(jnp.arange(float(T)))[:, None]
    p, q = problem(), problem(state, action, cost)
    plan, told = planned(p, region(p, u, 0.3), open_loop(u), SPREAD)
    same, also = planned(q, region(q, action * u, 0.3), open_loop(action * u), state * SPREAD)
    assert np.allclose(same.u, action * plan.u, rtol=1e-6, atol=1e-6 * action)
    assert np.allclose(also.multiplier, told.multiplier, rtol=1e-5)
    held = trust_region.followed(p, plan, SPREAD, 10.0)
    also_held = trust_region.followed(q, same, state * SPREAD, 10.0)
    assert np.allclose(also_held.K, held.K * action / state, rtol=1e-4, atol=1e-6 * action / state)


@pytest.mark.parametrize("radius", [0.3, np.inf])
def test_where_costs_have_their_zero_changes_little(radius):
    """A plan must not be done at once because its cost is large whatever it does."""
    u = 0.3 * jnp.sin(jnp.arange(float(T)))[:, None]
    p = problem()
    high = eqx.tree_at(lambda p: p.cost, p, lambda x, u, t: p.cost(x, u, t) + 1e6)
    plan, _ = planned(p, region(p, u, radius), open_loop(u), SPREAD)
    same, _ = planned(high, region(high, u, radius), open_loop(u), SPREAD)
    begun = float(p.costs(episode(p, u), u).sum())
    gained, also = begun - float(plan.cost[0]), begun - float(p.costs(same.x[0], same.u[0]).sum())
    assert also == pytest.approx(gained, rel=0.03)


def test_gains_are_those_of_dense_least_squares():
    """Of all actions at once, from a deviation at the first step; an entry that never varies weighs nothing."""
    p, u, stiffness = problem(), 0.3 * jnp.sin(jnp.arange(float(T)))[:, None], 4.0
    x = episode(p, u)
    plan = Trajectory(open_loop(u), x[None], u[None], jnp.zeros(1), jnp.zeros(1), jnp.ones(1))
    for spread in (SPREAD, SPREAD.at[1].set(0.0)):
        held = trust_region.followed(p, plan, spread, stiffness)
        A = [np.asarray(jax.jacobian(lambda x, t=t: ahead(p, x, u[t]))(x[t])) for t in range(T)]
        B = [np.asarray(jax.jacobian(lambda v, t=t: ahead(p, x[t], v))(u[t])) for t in range(T)]
        weight = np.where(spread > 0, 1.0 / np.where(spread > 0, spread, 1.0), 0.0)
        rows, right = [], []
        e = np.array([0.3, -0.2])
        state, by_actions = e, np.zeros((DX, T))
        for t in range(T):
            by_actions = A[t] @ by_actions
            by_actions[:, t] = B[t][:, 0]
            state = A[t] @ state
            rows.append(weight[:, None] * by_actions)
            right.append(-weight * state)
        rows.append(np.eye(T) / stiffness)
        right.append(np.zeros(T))
        best = np.linalg.lstsq(np.concatenate(rows), np.concatenate(right), rcond=None)[0]
        assert held.K[0, 0] @ e == pytest.approx(best[0], rel=1e-9)
        assert np.allclose(jnp.einsum("tij,tj->ti", held.K[0], x[:-1]) + held.k[0], u)


def rollouts(p, cost, broken=False):
    """One rollout that costs so much, or that broke off."""
    x = jnp.ones((1, 1, T + 1, DX))
    paid = jnp.zeros((1, 1, T + 1)).at[..., -1].set(cost)
    return Rollouts(x, x, 9.0 * jnp.ones((1, 1, T, DU)), paid, jnp.full((1, 1), T - 2 if broken else T), None)


@pytest.mark.parametrize(
    ("cost", "promised", "radius", "distance", "last", "wanted"),
    [
        (100.0, 0.0, 1.0, 0.5, (False, False), SHRINK * 0.5),  # it promised 100, saved nothing, and was .5 away
        (81.0, 0.0, 0.4, 0.5, (False, False), SHRINK * 0.4),
        (70.0, 0.0, 1.0, 0.5, (False, False), 1.0),
        (45.0, 0.0, 1.0, 0.5, (False, True), GROWTH),
        (45.0, 0.0, np.inf, 0.5, (False, False), np.inf),
        (500.0, 0.0, np.inf, 0.5, (False, False), np.inf),  # once is not enough
        (500.0, 0.0, np.inf, 0.5, (False, True), SHRINK * 0.5),
        (500.0, 0.0, np.inf, 9.0, (True, True), BOUNDED),
        (500.0, 0.0, 0.03, 0.5, (False, False), LEAST),
        (500.0, 0.0, 1.0, 0.5, (True, True), 1.0),  # the region is not to blame
        (45.0, 0.0, 0.1, 0.5, (True, False), GROWTH * 0.5),
        (500.0, 100.0, 1.0, 0.5, (False, False), 1.0),  # it promised nothing
        (500.0, np.nan, np.inf, 0.0, (False, False), np.inf),  # there was no plan
        ("broken", 0.0, 1.0, 0.5, (False, False), SHRINK * 0.5),
    ],
)
def test_the_radius_follows_what_came_true(cost, promised, radius, distance, last, wanted):
    p = problem()
    elsewhere, failed = (jnp.array([one]) for one in last)
    begun = TrustRegion.begin(p, radius)
    assert begun.radius == radius
    before = begun._replace(distance=jnp.array([distance]), elsewhere=elsewhere, failed=failed)
    best = BestSoFar(open_loop(jnp.zeros((T, DU))), jnp.array([100.0]))
    done = rollouts(p, 1.0 if cost == "broken" else cost, cost == "broken")
    after = before.after(p, best, jnp.array([promised]), done)
    assert float(after.radius[0]) == pytest.approx(wanted)
    cheaper = cost != "broken" and cost < 100.0
    assert np.allclose(after.x, 1.0 if cheaper else 0.0)
    assert np.allclose(after.u, 1.5 if cheaper else 0.0)  # as the plant executed it
    assert bool(after.failed[0]) == (cost in (100.0, 81.0, 500.0, "broken") and promised == 0.0)


@pytest.mark.parametrize(
    ("radius", "within", "other", "last", "taken"),
    [
        (np.inf, 50.0, 40.0, (False, False), True),
        (np.inf, 40.0, 50.0, (False, False), False),
        (1.0, 50.0, 40.0, (False, False), False),  # the region still promises to save half
        (1.0, 95.0, 40.0, (False, False), True),
        (1.0, 95.0, 40.0, (True, True), False),  # the last one was a disappointment
        (1.0, 95.0, 40.0, (True, False), True),
        (1.0, 95.0, 40.0, (False, True), True),
        (1.0, 95.0, np.nan, (False, False), False),
        (LEAST, 50.0, 40.0, (False, True), True),  # what it promises does not come true however near
        (LEAST, 50.0, 40.0, (False, False), False),
        (LEAST, 50.0, 40.0, (True, True), False),
        (1.0, 50.0, 40.0, (False, True), False),
        (1.0, np.nan, 500.0, (True, True), True),
        (1.0, -305.0, -400.0, (False, False), True),  # rewards: 300 so far
        (1.0, -400.0, -500.0, (False, False), False),
    ],
)
def test_a_plan_that_begins_elsewhere_is_taken_where_the_region_promises_nothing(radius, within, other, last, taken):
    p, u = problem(), jnp.zeros((T, DU))
    known = region(p, u, radius)._replace(elsewhere=jnp.array([last[0]]), failed=jnp.array([last[1]]))

    def plan(cost):
        return Trajectory(open_loop(u), known.x, known.u, jnp.array([cost]), jnp.zeros(1), jnp.ones(1))

    both = (plan(within), known), (plan(other), known._replace(distance=jnp.array([7.0])))
    best = -300.0 if within < -300.0 else 100.0
    chosen, told = trust_region.preferred(jnp.array([best]), *both)
    assert bool(told.elsewhere[0]) == taken
    assert chosen.cost[0] == pytest.approx(other if taken else within, nan_ok=True)
    assert float(told.distance[0]) == (7.0 if taken else 0.0)
    assert float(told.radius[0]) == radius


def test_conditions_have_regions_of_their_own():
    p, u = problem(N=2), 0.3 * jnp.sin(jnp.arange(float(T)))[:, None]
    both = region(p, u, 0.3)._replace(radius=jnp.array([0.3, jnp.inf]))
    first = jax.tree.map(lambda leaf: jnp.tile(leaf, (2,) + (1,) * (leaf.ndim - 1)), open_loop(u))
    plan, told = planned(p, both, first, SPREAD)
    for n, radius in enumerate((0.3, np.inf)):
        one = problem()
        alone, also = planned(one, region(one, u, radius), open_loop(u), SPREAD)
        assert np.allclose(plan.u[n], alone.u[0], rtol=1e-9, atol=1e-12)
        assert told.distance[n] == pytest.approx(also.distance[0])
    assert told.distance[1] > told.distance[0]


@pytest.mark.parametrize(("kept", "counts"), [(0.0, False), (0.5, True)])
@pytest.mark.parametrize("state", [1e-6, 1.0, 1e6])
def test_that_an_entry_only_remembers_actions_spares_none(kept, counts, state):
    """Actions come two steps late, and the state has those on their way: the gains are as if these weighed nothing. An
    entry that keeps a part of what it was is a state like others.
    """
    p, u = problem(), 0.3 * jnp.sin(jnp.arange(float(T)))[:, None]

    def late(x, u):
        x = x / state
        return state * jnp.concatenate([ahead(p, x[:DX], x[DX:][:1]), kept * x[DX:][:1] + x[DX:][1:], u])

    start = Gaussian(state * jnp.pad(p.conditions.mean, ((0, 0), (0, 2))), jnp.zeros((1, DX + 2, DX + 2)))
    q = Problem(T, 0.1, start, [1.0], p.cost, p.final_cost, late, action_low=-1.5, action_high=1.5)
    plan = Trajectory(None, episode(q, u)[None], u[None], jnp.zeros(1), jnp.zeros(1), jnp.ones(1))
    spread = state * jnp.append(SPREAD, jnp.array([0.2, 0.2]))
    held = trust_region.followed(q, plan, spread, 4.0)
    weightless = trust_region.followed(q, plan, spread.at[DX:].set(0.0), 4.0)
    assert np.allclose(state * held.K, state * weightless.K, rtol=1e-9, atol=1e-12) != counts
