"""GPS'14 and CGPS: what they share with LQR-GPS, their prices against NumPy, and that network and controllers agree."""

import dataclasses

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from oracles import constrained_lqr
from oracles.two_places import EPISODES, KEY, PROBLEM, roll, update
from scipy import stats

import pilotfish as pf
from pilotfish.algorithms.gps import GPS, no_noisier
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.policies.network import Network
from pilotfish.tasks.obstacles import Obstacles
from pilotfish.updates.s_step import SStep
from pilotfish.worlds.jax import JaxWorld

TEACH = SStep(steps=300, batch=32)
FITTED = GPS(kl_step=0.1, dynamics=LQRGPS().dynamics, teach=TEACH, weight=0.05, dual_rate=0.2)
KNOWN = GPS(kl_step=0.1, model="known", terms="gradient", points=8, teach=TEACH, weight=0.05, dual_rate=0.2)


def went(algorithm, iterations):
    """States and reports of an algorithm."""
    state, found = algorithm.init(PROBLEM, EPISODES, KEY), []
    for i in range(iterations):
        rollouts = roll(algorithm.explore(state), jax.random.key(i))
        state, info = update(algorithm, state, rollouts, jax.random.key(100 + i))
        assert info.ok.all()
        found.append((state, info))
    return found


@pytest.fixture(scope="module")
def fitted():
    return went(FITTED, 3)


@pytest.fixture(scope="module")
def known():
    return went(KNOWN, 12)


@pytest.mark.slow
def test_before_anything_is_priced_it_is_lqr_gps(fitted):
    start = FITTED.init(PROBLEM, EPISODES, KEY)
    plain = LQRGPS(kl_step=0.1)
    rollouts = roll(FITTED.explore(start), jax.random.key(0))
    expected, _ = update(plain, plain.init(PROBLEM, EPISODES, KEY), rollouts, KEY)
    for a, b in zip(jax.tree.leaves(fitted[0][0].controller), jax.tree.leaves(expected.controller), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(fitted[0][0].tie.price, 0.05 * fitted[0][0].eta.mean(), rtol=1e-12)


def test_prices_rise_by_the_kl_that_is_left(known):
    """Of the known linear dynamics all is known: where states go, and how the policy differs there."""
    (state, _), (new, info) = known[3:5]
    rise = (new.tie.price - state.tie.price) / (KNOWN.dual_rate * new.tie.unit)
    np.testing.assert_allclose(rise.mean(), info.apart, rtol=1e-9)
    assert (rise >= 0).all()
    f = PROBLEM.dynamics.linearised(PROBLEM, jnp.zeros((1, PROBLEM.horizon, 4)), jnp.zeros((1, PROBLEM.horizon, 2)))
    A, B, c = (np.asarray(a[0]) for a in (f.A, f.B, f.c))
    F = np.broadcast_to(np.diag(np.asarray(PROBLEM.noise_std) ** 2), A.shape)
    rng, policy = np.random.default_rng(0), new.policy
    for n in range(2):
        p = tuple(np.asarray(a[n]) for a in (new.controller.K, new.controller.k, new.controller.cov))
        mean, cov = (np.asarray(a[n]) for a in (PROBLEM.conditions.mean, PROBLEM.conditions.cov))
        for t in range(PROBLEM.horizon):
            x = rng.multivariate_normal(mean, cov, 4000)
            u = np.asarray(jax.vmap(lambda x, t=t: policy.mean(t, x, x))(jnp.asarray(x)))
            # a linear policy with the actions' moments: what the new controller's KL is measured by
            gain, *_ = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), u, rcond=None)
            off = u - np.column_stack([x, np.ones(len(x))]) @ gain
            Cp = off.T @ off / len(x) + np.asarray(policy.factor @ policy.factor.T)
            one = ((mean, cov), (A[t : t + 1], B[t : t + 1], c[t : t + 1], F[t : t + 1]))
            acts = gain[:-1].T[None], gain[-1][None], Cp[None]
            wanted = constrained_lqr.covering(*one, tuple(a[t : t + 1] for a in p), acts)[0]
            np.testing.assert_allclose(rise[n, t], wanted, rtol=0.2, atol=0.02)
            closed = A[t] + B[t] @ p[0][t]
            mean, cov = closed @ mean + B[t] @ p[1][t] + c[t], closed @ cov @ closed.T + B[t] @ p[2][t] @ B[t].T + F[t]


def test_network_and_controllers_come_to_agree(known):
    kl = [float(info.kl_network) for _, info in known]
    assert kl[-1] < 0.1 * max(kl)


def test_known_dynamics_learn(known):
    """The network costs about what the best controllers do."""
    spent = JaxWorld(PROBLEM).rollout(KNOWN.exploit(known[-1][0]), 200, KEY).cost.sum(-1).mean()
    start = roll(KNOWN.explore(KNOWN.init(PROBLEM, EPISODES, KEY)), KEY).cost.sum(-1).mean()
    assert spent < 0.5 * start


def test_the_unit_of_prices_is_the_largest_multiplier_that_more_than_one_iteration_has(known):
    unit = [float(state.tie.unit) for state, _ in known]
    eta = [float(state.eta.mean()) for state, _ in known]
    wanted = eta[:1]
    for one in eta[1:]:
        wanted.append(min(max(one, wanted[-1]), 2 * wanted[-1]))
    np.testing.assert_allclose(unit, wanted, rtol=1e-12)


@pytest.mark.parametrize(("covariance", "factor"), [("shared", 3.0), ("shared", 0.4), ("state", 3.0)])
def test_the_networks_noise_is_bounded(covariance, factor):
    policy = Network(covariance=covariance).policy(PROBLEM, KEY)
    rng = np.random.default_rng(0)
    odd = np.tril(rng.normal(size=(PROBLEM.du, PROBLEM.du))) + 2 * np.eye(PROBLEM.du)
    given = dataclasses.replace(policy, factor=jnp.asarray(factor * odd))
    before, most = stats.multivariate_normal(cov=factor**2 * odd @ odd.T).entropy(), 2.5
    found = np.asarray(no_noisier(given, jnp.asarray(most)).factor)
    assert stats.multivariate_normal(cov=found @ found.T).entropy() == pytest.approx(min(before, most), abs=1e-9)
    np.testing.assert_allclose(found / found[0, 0], odd / odd[0, 0], atol=1e-12)  # of the same shape


def test_without_noise_at_first_nothing_is_divided_by():
    policy = Network().policy(PROBLEM, KEY)
    assert (no_noisier(policy, jnp.asarray(-jnp.inf)).factor == policy.factor).all()


def test_the_network_is_never_noisier_than_the_first_controllers_were():
    """Nor, where noise teaches nothing, than it was itself."""
    first = PROBLEM.first_controller.chol
    entropies = [
        stats.multivariate_normal(cov=f @ f.T).entropy() for f in np.asarray(first).reshape(-1, *first.shape[2:])
    ]
    state = FITTED.init(PROBLEM, EPISODES, KEY)

    def most(factor):
        now = state._replace(policy=dataclasses.replace(state.policy, factor=factor * first[0, 0]))
        return float(FITTED._most_noise(PROBLEM, now)), float(KNOWN._most_noise(PROBLEM, now))

    before, own = np.mean(entropies), np.mean(entropies) - PROBLEM.du * np.log(2.0)
    np.testing.assert_allclose(most(2.0), (before, before), rtol=1e-12)
    np.testing.assert_allclose(most(0.5), (before, own), rtol=1e-12)


def test_samples_are_drawn_once(known):
    for state, _ in known[1:]:
        np.testing.assert_array_equal(state.drawn, known[0][0].drawn)
    assert known[0][0].drawn.shape == (8, PROBLEM.horizon, 4)
    few = dataclasses.replace(KNOWN, points=3).init(PROBLEM, EPISODES, KEY)
    assert few.drawn.shape == (8, PROBLEM.horizon, 4)  # fewer have no covariance


@pytest.mark.slow
@pytest.mark.parametrize("terms", ["rollouts", "samples"])
def test_a_simulation_is_known_too(terms):
    """Of MuJoCo the dynamics are differences of simulations, outside of what is compiled."""
    world = Obstacles().world()
    algorithm = dataclasses.replace(
        KNOWN, terms=terms, linearise=dataclasses.replace(KNOWN.linearise, how="autodiff"), kl_step=2.0
    )
    assert not algorithm.traceable(world.problem)
    state, spent = algorithm.init(world.problem, 3, KEY), []
    for i in range(4):
        rollouts = world.rollout(algorithm.explore(state), 3, jax.random.key(i))
        spent.append(float(rollouts.cost.sum(-1).mean()))
        state, info = algorithm.update(world.problem, state, rollouts, jax.random.key(100 + i))
        assert info.ok.all()
    assert spent[-1] < 0.8 * spent[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "guessed"}, "model='guessed': choose one of fitted, known"),
        ({"terms": "all"}, "terms='all': choose one of rollouts, samples, gradient"),
        ({"kl_step": 0.0}, "kl_step=0.0"),
        ({"weight": -1.0}, "weight=-1.0"),
        ({"dual_rate": -0.1}, "dual_rate=-0.1"),
        ({"points": 0}, "points=0"),
        ({"noise_smoothing": -1.0}, "noise_smoothing=-1.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(monkeypatch, settings, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production
    with pytest.raises(ValueError, match=message):
        GPS(**settings)


@pytest.mark.slow
def test_derivatives_that_overflow_are_named():
    """Of a system that goes nowhere far, and whose slope no feedback tames."""
    problem = pf.Problem(
        horizon=60,
        dt=0.1,
        conditions=pf.Gaussian(jnp.zeros((1, 1)), jnp.zeros((1, 1, 1))),
        initial_std=[1.0],
        dynamics=lambda x, u: jnp.sin(1e200 * x) + 0.0 * u,
        cost=lambda x, u, t: (x**2).sum() + (u**2).sum(),
    )
    with pytest.raises(pf.TrainingFailed, match="derivatives of the dynamics along the trajectory"):
        pf.train(KNOWN, JaxWorld(problem), rollouts=5, iterations=5)


def test_problems_that_it_cannot_solve_are_refused():
    unknown = dataclasses.replace(PROBLEM, dynamics=None)
    with pytest.raises(ValueError, match="needs the equations of motion"):
        KNOWN.init(unknown, EPISODES, KEY)
