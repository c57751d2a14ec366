"""MORE: one update by hand, what it learns, how its entropy falls; it heeds no units, and meets bad data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from oracles.best_parameters import least_cost
from scipy import optimize, stats
from test_units import Units, problem, written

from pilotfish.algorithms.more import MORE
from pilotfish.algorithms.reps import REPS
from pilotfish.policies.episodic import OpenLoop
from pilotfish.runs import loop
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.worlds.jax import JaxWorld

TASK, KEY = LinearQuadratic(), jax.random.key(0)
SMALL, TINY = OpenLoop(features=3), OpenLoop(features=1)


def learn(algorithm, problem, samples, iterations, seeds=(0, 1)):
    world, keys = JaxWorld(problem), loop.root_keys(seeds)
    states = loop.initial(algorithm, world, samples, keys)
    return loop.scan(algorithm, world, samples, keys, 0, iterations, states)


def expected(w, cost, weight, ridge, mean, chol):
    """Expected cost of N(m, L L') by the fitted quadratic function, as a function of (m, L), in NumPy: its features are
    those of the text, its expectation is taken by cubature, which is exact for quadratic functions.
    """
    e = np.linalg.solve(chol, (w - mean).T).T
    n = e.shape[1]
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]

    def features(e):
        products = [e[:, i] * e[:, j] for i, j in pairs]
        return np.column_stack([np.ones(len(e)), *e.T, *products, *((e**2 - 1) / np.sqrt(2)).T])

    root = np.sqrt(weight / weight.sum())[:, None]
    phi = features(e)
    penalty = np.sqrt(ridge) * np.eye(phi.shape[1])[1:]
    level = weight @ cost / weight.sum()
    target = np.concatenate([root[:, 0] * (cost - level), np.zeros(len(penalty))])
    coef = np.linalg.lstsq(np.concatenate([root * phi, penalty]), target, rcond=None)[0]

    def of(m, L):
        points = np.concatenate([m + np.sqrt(n) * L.T, m - np.sqrt(n) * L.T])
        return (features(points) @ coef).mean()

    return of


def test_an_update_is_the_best_within_its_bounds():
    """Of the third iteration: its regression weighs the episodes of three searches. Two parameters, by SLSQP."""
    algorithm = MORE(skill=TINY, memory=3, kl_step=0.01, schedule="constant", entropy_drop=0.2, ridge=0.05)
    world, states, drawn, searches = JaxWorld(TASK.problem()), algorithm.init(TASK.problem(), 15, KEY), [], []
    for key in jax.random.split(KEY, 3):
        rollouts = world.rollout(algorithm.explore(states), 15, key)
        drawn.append((np.asarray(rollouts.episode.w[0]), np.asarray(rollouts.cost[0].sum(-1))))
        searches.append((np.asarray(states.policy.mean[0]), np.asarray(states.policy.chol[0])))
        states, info = algorithm.update(TASK.problem(), states, rollouts, key)
    w, cost = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    densities = np.array([stats.multivariate_normal(m, L @ L.T).pdf(w) for m, L in searches])
    weight = densities[-1] / densities.mean(0)
    mean, chol = searches[-1]
    cost_of = expected(w, cost, weight, 0.05, mean, chol)

    def parts(x):
        return x[:2], np.array([[x[2], 0.0], [x[3], x[4]]])

    def divergence(x):
        m, L = parts(x)
        return 0.5 * ((L**2).sum() + m @ m - 2) - np.log(np.abs(x[2] * x[4]))

    constraints = [
        {"type": "ineq", "fun": lambda x: 0.01 - divergence(x)},
        {"type": "ineq", "fun": lambda x: np.log(np.abs(x[2] * x[4])) + 0.2},
    ]
    oracle = optimize.minimize(
        lambda x: cost_of(*parts(x)),
        [0, 0, 1, 0, 1.0],
        constraints=constraints,
        options={"ftol": 1e-13, "maxiter": 500},
    )
    m, L = parts(oracle.x)
    np.testing.assert_allclose(states.policy.mean[0], mean + chol @ m, atol=1e-4)
    new = states.policy.chol[0]
    np.testing.assert_allclose(new @ new.T, chol @ L @ L.T @ chol.T, atol=1e-4)
    assert float(info.kl) == pytest.approx(0.01, rel=1e-6)
    assert float(info.entropy_change) >= -0.2 - 1e-9
    assert float(info.ess) == pytest.approx(weight.sum() ** 2 / (weight**2).sum(), rel=1e-9)
    promised = cost_of(np.zeros(2), np.eye(2)) - cost_of(m, L)
    assert float(info.predicted) == pytest.approx(promised, rel=1e-4)


@pytest.mark.slow
def test_learns_the_best_actions_over_time_and_better_than_reps():
    """The bound on the KL is met exactly."""
    algorithm = MORE(skill=SMALL, kl_step=0.7, schedule="constant", entropy_drop=0.3)
    reached = {}
    for each in (algorithm, REPS(skill=SMALL)):
        states, report = learn(each, TASK.problem(), 60, 30, (0, 1, 2))
        assert np.all(report.info.ok)
        controllers = [
            jax.tree.map(lambda leaf: leaf[0], each.exploit(loop.of_seed(states, s)).controller) for s in range(3)
        ]
        reached[type(each)] = np.array([TASK.expected_cost(p) for p in controllers]) / least_cost(TASK, SMALL)
        if each is algorithm:
            np.testing.assert_allclose(report.info.kl_max, 0.7, rtol=1e-6)
            assert (report.info.entropy_change >= -0.3 - 1e-9).all()
    assert (reached[MORE] >= 1 - 1e-9).all()
    assert (reached[MORE] < 1.05).all(), reached
    assert reached[MORE].mean() < reached[REPS].mean(), reached


def test_entropy_falls_by_the_papers_schedule():
    """Where that is what holds it: towards the least, by a part of what is left, and never below."""
    algorithm = MORE(skill=TINY, kl_step=2.0, entropy_decay=0.8, least_spread=0.5)
    entropy = learn(algorithm, TASK.problem(), 30, 30, [0])[1].info.entropy[0]
    first = 2 * 0.5 * np.log(2 * np.pi * np.e)
    least = first + 2 * np.log(0.5)
    before = np.append(first, entropy[:-1])
    assert (entropy >= least + 0.8 * (before - least) - 1e-9).all()
    assert entropy[-1] == pytest.approx(least, abs=0.01)


@pytest.mark.slow
def test_little_evidence_moves_little():
    info = learn(MORE(), TASK.problem(), 20, 2, [0])[1].info
    assert info.kl_max[0, 0] == pytest.approx(20 / 231, rel=1e-6)  # a quadratic function of 20 parameters


UNITS = {
    "mixed actions": written(u_unit=[2e-9, 1e9, 1e-3]),
    "small costs": written(cost_unit=1e-12),
    "large costs": written(cost_unit=1e12),
    "far costs": written(cost_zero=3e8),
}


def searched(algorithm, units: Units):
    states, report = learn(algorithm, problem(units), 30, 3, [3])
    assert np.asarray(report.info.ok).all()
    return loop.of_seed(states, 0).policy.mean[0], loop.of_seed(states, 0).policy.chol[0]


@pytest.mark.slow
def test_units_and_origins_do_not_matter():
    algorithm = MORE(skill=OpenLoop(features=2))
    plain = searched(algorithm, written())
    for name, units in UNITS.items():
        exact = searched(algorithm, written(cost_zero=3e8, less=3e8)) if name == "far costs" else plain
        for a, b in zip(searched(algorithm, units), exact, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-4 if name == "far costs" else 1e-6, err_msg=name)


@pytest.mark.slow
def test_nothing_is_learned_of_nothing_and_it_says_so():
    algorithm = MORE(skill=SMALL)
    state = algorithm.init(TASK.problem(), 20, KEY)
    rollouts = JaxWorld(TASK.problem()).rollout(algorithm.explore(state), 20, KEY)
    equal = eqx.tree_at(lambda r: r.cost, rollouts, jnp.ones_like(rollouts.cost))
    none = eqx.tree_at(lambda r: r.steps, rollouts, rollouts.steps.at[0, 1:].set(0))
    for data, said in ((equal, "all cost the same"), (none, "all rollouts but one broke off")):
        new, info = algorithm.update(TASK.problem(), state, data, KEY)
        assert not info.ok.any()
        assert all(np.isfinite(value).all() for value in info)
        for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(a, b)
        assert said in algorithm.refusal(TASK.problem(), state, data, info.ok)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kl_step": -1.0}, "kl_step=-1.0: the bound on the KL must be positive"),
        ({"schedule": "slow"}, "schedule='slow': choose one of decay, constant"),
        ({"entropy_decay": 1.1}, "entropy_decay=1.1: a part"),
        ({"least_spread": 0.0}, "least_spread=0.0: a part of the first spread"),
        ({"entropy_drop": -1.0}, "entropy_drop=-1.0: 0 keeps the entropy"),
        ({"memory": 0}, "memory=0: the regression learns from at least one iteration"),
        ({"ridge": 0.0}, "ridge=0.0: with few samples the regression is singular"),
    ],
)
def test_bad_settings_are_refused_in_words(settings, said, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production
    with pytest.raises(ValueError, match=said):
        MORE(**settings)


def test_what_will_be_slow_is_said_before():
    problem = TASK.problem()
    assert "fits 231 numbers to 100 episodes" in MORE().caution(problem, 20)
    assert "fits a quadratic function of 100 parameters, 5,151 numbers" in MORE(skill=OpenLoop(features=50)).caution(
        problem, 20
    )
    assert not MORE(skill=SMALL).caution(problem, 20)
