"""Learned dynamics against the equations that made their transitions, in any units, from broken rollouts too."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pilotfish.models.learned_dynamics import Coordinates, LearnedDynamics
from pilotfish.types import Gaussian, Limit, Problem, Rollouts

T, DX, DU = 20, 4, 2
KEY = jax.random.key(0)
MODEL = LearnedDynamics(memory=400, points=200, sample=150, steps=60)


def ahead(x, u):
    """A pendulum without limits, a lag, and a clock far from zero."""
    turn, speed, lag, clock = jnp.split(x, 4, -1)
    push, other = jnp.split(jnp.clip(u, -1.0, 1.0), 2, -1)
    new = turn + 0.2 * speed, speed + 0.2 * (jnp.sin(turn) + push), 0.7 * lag + 0.3 * other * jnp.cos(turn), clock + 0.1
    return jnp.concatenate(new, -1)


def reward(x, u):
    return np.sin(x[..., 0]) * np.clip(u[..., 1], -1.0, 1.0)


def cost(x, u, t):
    return (x**2).sum()


def problem(**more):
    start = Gaussian(jnp.array([[3.0, 0.0, 0.5, 1e3]]), 0.01 * jnp.eye(DX)[None])
    known = {"cost": cost, "angles": (0,), "action_low": -1.0, "action_high": 1.0}
    return Problem(T, 0.1, start, jnp.ones(DU), **known | more)


def rollouts(seed, M=8, N=1, turns=0):
    rng = np.random.default_rng(seed)
    x = [np.array([3.0, 0.0, 0.0, 1e3]) + rng.normal(size=(N, M, DX)) * np.array([1.0, 1.0, 1.0, 0.0])]
    u = rng.normal(size=(N, M, T, DU))
    for t in range(T):
        x.append(np.asarray(ahead(x[t], u[..., t, :])))
    x = np.stack(x, -2) + 2 * np.pi * turns * np.array([1.0, 0.0, 0.0, 0.0])
    cost = np.concatenate([reward(x[..., :-1, :], u), np.zeros((N, M, 1))], -1)
    steps = jnp.full((N, M), T)
    x, u, cost = map(jnp.asarray, (x, u, cost))
    return Rollouts(x, x, u, cost, steps, None)


@eqx.filter_jit
def learn(problem, data, model=MODEL, experience=None):
    experience = model.begin(problem, data.u.shape[1]) if experience is None else experience
    return model.fit(problem, experience, data.cleaned(), KEY)


@pytest.mark.parametrize("turns", [pytest.param(0, marks=pytest.mark.slow), 5])
def test_it_predicts_where_it_was_not_and_any_number_of_turns_later(turns):
    """It also knows that an action beyond its bounds does what the bound does."""
    _, model, report = learn(problem(), rollouts(0))
    new = rollouts(1, turns=turns)
    found = jax.vmap(jax.vmap(jax.vmap(model)))(new.x[..., :-1, :], 3.0 * new.u) - new.x[..., :-1, :]
    truth = ahead(new.x[..., :-1, :], 3.0 * new.u) - new.x[..., :-1, :]
    off = np.asarray(found - truth)[..., :3]
    assert np.sqrt((off**2).mean((0, 1, 2))).max() < 0.02
    np.testing.assert_allclose(found[..., 3], 0.1, atol=1e-6)
    assert report.unexplained < 1e-3
    assert report.transitions == 8 * T


def test_derivatives_are_those_of_the_equations():
    _, model, _ = learn(problem(), rollouts(0))
    x, u = jnp.array([2.5, 0.3, 0.2, 1e3]), jnp.array([0.3, -0.4])
    for of in (0, 1):
        found, truth = (jax.jacfwd(f, argnums=of)(x, u) for f in (model, ahead))
        np.testing.assert_allclose(found, truth, atol=0.05)


@pytest.mark.parametrize("limit", [-1.0, 1.0])
def test_at_a_limit_the_derivative_is_that_of_the_actions_within(limit):
    """Where half of them would be taken iLQG, whose plans lie at limits, would believe half of what actions do."""
    _, model, _ = learn(problem(), rollouts(0))
    x, u = jnp.array([2.5, 0.3, 0.2, 1e3]), jnp.array([limit, -limit])
    at, within, beyond = (jax.jacfwd(model, argnums=1)(x, part * u) for part in (1.0, 1.0 - 1e-9, 1.0 + 1e-9))
    np.testing.assert_allclose(at, within, rtol=1e-6)
    assert np.abs(at).max() > 0.1
    np.testing.assert_array_equal(beyond, 0.0)


def test_an_unknown_cost_is_learned_and_a_known_one_is_kept():
    _, model, _ = learn(problem(cost=None), rollouts(0, M=15))
    believed = model.of(problem(cost=None))
    new = rollouts(1)
    x, u = new.x[0, :, :-1].reshape(-1, DX), new.u[0].reshape(-1, DU)
    off = jax.vmap(believed.cost, (0, 0, None))(x, u, 0) - reward(np.asarray(x), np.asarray(u))
    assert np.sqrt((off**2).mean()) < 0.03
    known = problem()
    assert learn(known, rollouts(0))[1].of(known).cost is known.cost


def test_the_newest_transitions_are_remembered():
    first, second, third = (rollouts(seed, M=4, N=2) for seed in range(3))
    both = Gaussian(*(jnp.repeat(leaf, 2, 0) for leaf in jax.tree.leaves(problem().conditions)))
    of_two = eqx.tree_at(lambda p: p.conditions, problem(), both)
    model = LearnedDynamics(memory=2 * 160, points=50, sample=50, steps=1)
    experience = None
    for data in (first, second, third):
        experience = learn(of_two, data, model, experience)[0]
    expected = [data.x[..., :-1, :].reshape(-1, DX) for data in (third, second)]
    np.testing.assert_array_equal(experience.x, jnp.concatenate(expected))
    np.testing.assert_array_equal(experience.u[:160], jnp.clip(third.u, -1, 1).reshape(-1, DU))


def test_it_learns_from_what_is_nearest_to_the_episodes_about_which_plans_are_made():
    """NumPy counts who is near; nothing is forgotten."""
    near, far = rollouts(0), rollouts(1)
    both = jax.tree.map(lambda one, other: jnp.concatenate([one, other], 1), near, far)
    x, u = near.x[:, 0], jnp.clip(near.u[:, 0], -1.0, 1.0)
    p, model = problem(), LearnedDynamics(memory=400, nearest=5 * T, points=50, sample=50, steps=1)
    experience, _, report = eqx.filter_jit(lambda: model.fit(p, model.begin(p, 16), both.cleaned(), KEY, (x, u)))()
    assert report.transitions == 5 * T
    assert experience.happened.sum() == 16 * T
    seen = experience.happened
    a, c = (
        np.asarray(Coordinates((0,), (), 0.1)(x, u))
        for x, u in ((experience.x[seen], experience.u[seen]), (x[0, :-1], u[0]))
    )
    std = a.std(0)
    apart = (((a[:, None] - c) / np.where(std > 1e-9, std, np.inf)) ** 2).sum(-1).min(1)
    nearest = np.asarray(experience.x[seen])[np.argsort(apart)[: 5 * T]]
    np.testing.assert_allclose(report.spread, nearest.std(0), rtol=1e-6, atol=1e-9)


def test_steps_that_did_not_happen_teach_nothing():
    data = rollouts(0)
    steps = jnp.array([[T, 3, 0, T, T, T, T, T]])
    broken = eqx.tree_at(lambda r: (r.steps, r.x), data, (steps, data.x.at[0, 1, 5:].set(jnp.nan)))
    experience, model, report = learn(problem(), broken)
    assert report.transitions == 6 * T + 3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((experience, report)))
    new = rollouts(1)
    off = jax.vmap(jax.vmap(model))(new.x[0, :, :-1], new.u[0]) - new.x[0, :, 1:]
    assert np.sqrt((np.asarray(off) ** 2).mean((0, 1)))[:3].max() < 0.03


def test_nothing_at_all_leaves_numbers():
    empty = eqx.tree_at(lambda r: r.steps, rollouts(0), jnp.zeros((1, 8), int))
    _, model, report = learn(problem(), empty)
    assert report.transitions == 0
    np.testing.assert_array_equal(model(jnp.ones(DX), jnp.ones(DU)), 1.0)


@pytest.mark.parametrize(
    ("factor", "exact"),
    [
        (2.0**-30, 1e-12),
        pytest.param(2.0**30, 1e-12, marks=pytest.mark.slow),
        pytest.param(1e-9, 2e-4, marks=pytest.mark.slow),
        (1e9, 2e-4),
    ],
)
def test_units_make_no_difference(factor, exact):
    """Of states that are no angles, and of actions; but for rounding, which the search for a kernel of exact data
    magnifies, and of which there is none in powers of two.
    """
    unit, scale = np.array([1.0, factor, 1 / factor, factor]), factor
    data = rollouts(0)
    same = eqx.tree_at(lambda r: (r.x, r.u), data, (data.x * unit, data.u * scale))
    plain = learn(problem(), data)[1]
    other = learn(problem(action_low=-scale, action_high=scale), same)[1]
    new = rollouts(1)
    x, u = new.x[0, :, :-1].reshape(-1, DX), new.u[0].reshape(-1, DU)
    moved = jax.vmap(other)(x * unit, u * scale) / unit - x
    np.testing.assert_allclose(moved, jax.vmap(plain)(x, u) - x, atol=exact)


@pytest.mark.parametrize("wrong", [{"memory": 0}, {"points": 0}, {"sample": 1}, {"steps": -1}])
def test_nonsense_is_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LearnedDynamics(**wrong)


@pytest.mark.parametrize("wrong", [(4,), (-1,), (0, 0)])
def test_angles_that_are_no_entries_are_refused(wrong):
    with pytest.raises(ValueError, match="angles"):
        problem(angles=wrong)


def test_coordinates_are_smooth_in_what_turns_and_where_it_is_stopped():
    """x[0] moves by x[2], for half a second, up to .5 and down to -2."""
    told = Coordinates((1,), (Limit(0, 2, -2.0, 0.5),), 0.5)
    a = told(jnp.array([[0.3, 7.0, 2.0], [0.3, 7.0, -2.0], [-1.9, 7.0, -2.0]]), jnp.full((3, 1), 5.0))
    np.testing.assert_allclose(a[0], [np.sin(7.0), np.cos(7.0), 0.3, 2.0, 0.8, 5.0])
    np.testing.assert_allclose(a[:, 4], [0.8, 0.0, -0.9], atol=1e-15)


@pytest.mark.parametrize(
    "wrong",
    [(4, 0, -1.0, 1.0), (0, -1, -1.0, 1.0), (0, 1, 1.0, 1.0), (0, 1, np.nan, 1.0), (0, 1, -1.0), ("q", 1, 0.0, 1.0)],
)
def test_limits_of_no_entry_or_without_room_are_refused(wrong):
    with pytest.raises(ValueError, match=r"limits has .*: give \(position, velocity, low, high"):
        problem(limits=[wrong])


def test_where_what_moves_is_stopped_is_learned():
    """A cart on a rail of which the ends stop it: its speed jumps to 0. Fresh transitions tell whether it is known."""
    rng, N, M = np.random.default_rng(0), 1, 30

    def driven(x, u):
        q, v = x[..., 0], x[..., 1] + 0.2 * u[..., 0]
        end = np.clip(q + 0.1 * x[..., 1], -1.0, 1.0)
        return np.stack([end, np.where(end == q + 0.1 * x[..., 1], v, 0.0)], -1)

    def episodes(M):
        x, u = [rng.uniform(-1, 1, (N, M, 2)) * np.array([1.0, 5.0])], rng.normal(size=(N, M, T, 1))
        for t in range(T):
            x.append(driven(x[t], u[..., t, :]))
        x = jnp.asarray(np.stack(x, -2))
        return Rollouts(x, x, jnp.asarray(u), jnp.zeros((N, M, T + 1)), jnp.full((N, M), T), None)

    seen, fresh = episodes(M), episodes(20)
    off = []
    for limits in ([], [(0, 1, -1.0, 1.0)]):
        start = Gaussian(jnp.zeros((1, 2)), jnp.eye(2)[None])
        p = Problem(T, 0.1, start, [1.0], lambda x, u, t: x @ x, limits=limits)
        model = LearnedDynamics(memory=M * T, nearest=M * T, points=200)
        learned = jax.jit(lambda data, p=p, model=model: model.fit(p, model.begin(p, M), data, KEY))(seen)[1]
        found = jax.vmap(jax.vmap(learned))(fresh.x[0, :, :-1], fresh.u[0])
        off.append(float(jnp.sqrt(((found - fresh.x[0, :, 1:])[..., 1] ** 2).mean())))

    assert off[1] < off[0] / 2, off
