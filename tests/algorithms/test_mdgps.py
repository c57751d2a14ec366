"""MDGPS: what it shares with LQR-GPS, what differs, and its exact case against brute force."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from oracles import constrained_lqr, dense, draw
from oracles.same import assert_same
from oracles.two_places import EPISODES, KEY, PROBLEM, roll, update
from scipy.optimize import minimize

from pilotfish.algebra import dual, quadratic
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.mdgps import MDGPS
from pilotfish.algorithms.mdgps_linear import MDGPSLinear, mirror_descent
from pilotfish.algorithms.moto import MOTO
from pilotfish.models import local
from pilotfish.models.linearised import Linearisation
from pilotfish.models.local import LocalModel
from pilotfish.models.local_q import FittedQ
from pilotfish.models.nominal import Nominal
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.types import Gaussian, LinearDynamics, LinearGaussian, Quadratic, Rollouts
from pilotfish.updates.s_step import SStep

TEACH = SStep(steps=50, batch=16, precision="float64")


@eqx.filter_jit
def first(algorithm):
    return algorithm.init(PROBLEM, EPISODES, KEY)


@eqx.filter_jit
def fitted(algorithm, data, controller):
    return local.fit(algorithm.dynamics, algorithm.cost, PROBLEM, None, data, controller, None, KEY)[1]


@eqx.filter_jit
def linearised(algorithm, policy, data):
    return algorithm.linearise(PROBLEM, policy, None, data, Nominal.of(data), KEY)[1]


def begun(algorithm):
    state = first(algorithm)
    return state, roll(algorithm.explore(state), KEY)


def near(found, wanted, tolerance=1e-9):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


ALIKE = MDGPS(dynamics=LQRGPS().dynamics, linearise=Linearisation(), teach=TEACH, imagined=0)
"""In all that it has of LQR-GPS as LQR-GPS."""


@pytest.fixture(scope="module")
def second():
    """MDGPS after an iteration, the rollouts of the second, and what came of them."""
    algorithm = ALIKE
    state, rollouts = begun(algorithm)
    state, _ = update(algorithm, state, rollouts, KEY)
    rollouts = roll(algorithm.explore(state), jax.random.key(5))
    return algorithm, state, rollouts, update(algorithm, state, rollouts, KEY)


@pytest.mark.slow
def test_before_its_first_lesson_it_is_lqr_gps():
    """Until the network is taught the reference is the first controllers, as in LQR-GPS."""
    mdgps, lqr = ALIKE, LQRGPS(kl_step=np.float64(ALIKE.kl_step))
    state, rollouts = begun(mdgps)
    new, _ = update(mdgps, state, rollouts, KEY)
    expected, _ = update(lqr, first(lqr), rollouts, KEY)
    near(new.controller, expected.controller)


def test_then_it_is_lqr_gps_about_the_linearised_network(second):
    algorithm, state, rollouts, (new, _) = second
    x, weight = rollouts.x[:, :, :-1], 1.0 / EPISODES

    def mean(x):
        return state.policy.mean(0, x, PROBLEM.observe(x))

    K = jax.vmap(jax.vmap(jax.vmap(jax.jacfwd(mean))))(x).sum(1) * weight
    u = jax.vmap(jax.vmap(jax.vmap(mean)))(x).sum(1) * weight
    k = u - jnp.einsum("ntij,ntj->nti", K, x.mean(1))
    network = LinearGaussian(K, k, jnp.broadcast_to(state.policy.factor, (*k.shape, k.shape[-1])))
    lqr = LQRGPS()
    begin = first(lqr)._replace(controller=network, eta=state.eta)
    for n in range(2):  # the step size is each condition's own
        lqr = dataclasses.replace(lqr, kl_step=np.float64(algorithm.kl_step * new.steps.factor[n]))
        expected, _ = update(lqr, begin, rollouts, KEY)
        ours, theirs = (jax.tree.map(lambda leaf, n=n: leaf[n], c) for c in (new.controller, expected.controller))
        near(ours, theirs, 1e-6)


MODEL_FREE = MDGPS(
    c_step="moto",
    q=FittedQ(underdetermined=True),
    kl_step=0.1,
    entropy_drop=0.05,
    linearise=Linearisation(),
    teach=TEACH,
)


@pytest.mark.slow
def test_without_a_model_it_is_moto_before_its_first_lesson():
    moto = MOTO(underdetermined=True)
    state, rollouts = begun(MODEL_FREE)
    new, info = update(MODEL_FREE, state, rollouts, KEY)
    expected, _ = update(moto, first(moto), rollouts, KEY)
    near(new.controller, expected.controller)
    assert info.ok.all()
    assert info.kl_max <= 0.1 * (1 + 1e-9)


@pytest.mark.slow
def test_without_a_model_the_step_is_about_the_linearised_network():
    """The same step by the dual in users' units, on the Q-functions of what was rolled out."""
    state, rollouts = begun(MODEL_FREE)
    state, _ = update(MODEL_FREE, state, rollouts, KEY)
    rollouts = roll(MODEL_FREE.explore(state), jax.random.key(5)).cleaned()
    state = state._replace(began=jnp.full(2, jnp.inf))  # whatever it costs, the network leads
    new, info = update(MODEL_FREE, state, rollouts, KEY)
    assert info.followed == 1.0
    for n in range(2):
        one, last, history = jax.tree.map(lambda leaf, n=n: leaf[n], (rollouts, state.controller, state.transitions))
        belief = eqx.filter_jit(MODEL_FREE.q.fit)(PROBLEM, last, history, one).belief
        network, now = Nominal.of(one).outwards(linearised(MODEL_FREE, state.policy, one)), belief.occupancy
        for t in (0, PROBLEM.horizon - 1):
            mean, L, K, k, R = (np.asarray(a[t]) for a in (now.mean, now.chol, last.K, last.k, last.chol))
            inverse, zero = np.linalg.inv(R), np.zeros((len(mean), len(k)))
            white = np.block([[np.linalg.inv(L), zero], [-inverse @ K, inverse]])
            offset = np.concatenate([-np.linalg.solve(L, mean), -inverse @ k])
            Q = jax.tree.map(lambda leaf, t=t: leaf[t], belief.Q)
            Q = quadratic.compose(Q, jnp.asarray(white), jnp.asarray(offset))
            factor, evidence = new.steps.factor[n], belief.evidence[t]
            wanted, _ = dual.improve(
                network.at(t), Gaussian(now.mean[t], jnp.asarray(L @ L.T)), Q, 0.1 * factor * evidence, 0.05 * evidence
            )
            near(jax.tree.map(lambda leaf, n=n, t=t: leaf[n, t], new.controller), wanted, 1e-6)


def test_lqr_bounds_no_entropy():
    with pytest.raises(ValueError, match=r"entropy_drop=0\.1"):
        MDGPS(entropy_drop=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["classic", "global"])
def test_the_step_size_compares_what_its_rule_says(second, rule):
    """The paper's quotient, of costs that NumPy finds in the fitted models."""
    algorithm, state, rollouts, _ = second
    algorithm = dataclasses.replace(algorithm, step_rule=rule)
    state = state._replace(steps=state.steps._replace(before=state.steps.promised + 3.0), began=jnp.full(2, jnp.inf))
    new, _ = update(algorithm, state, rollouts, KEY)
    data = rollouts.cleaned()
    for n in range(2):
        one, last = (jax.tree.map(lambda leaf, n=n: leaf[n], tree) for tree in (data, state.controller))
        model, network = fitted(algorithm, one, last), linearised(algorithm, state.policy, one)
        spent = [expected_cost(model, p) for p in (model.nominal.inwards(last), network)]
        np.testing.assert_allclose(new.steps.before[n], spent[1], rtol=1e-8)
        missed = spent[rule == "global"] - state.steps.promised[n]
        factor = np.clip(3.0 / (2.0 * missed) if missed > 0 else 5.0, 0.1, 5.0)
        wanted = np.clip(factor * state.steps.factor[n], algorithm.step.smallest, algorithm.step.largest)
        np.testing.assert_allclose(new.steps.factor[n], wanted, rtol=1e-8)


def expected_cost(model, p):
    """By NumPy, with the constants that the oracle leaves out."""
    parts = (
        (model.start.mean, model.start.cov),
        (model.dynamics.A, model.dynamics.B, model.dynamics.c, model.dynamics.cov),
        (model.cost.H, model.cost.h),
        (model.final.H, model.final.h),
    )
    controller = p.K, p.k, p.cov
    numbers = jax.tree.map(np.asarray, (*parts, controller, controller))
    total, _ = constrained_lqr.measure(*numbers)
    return total + float(model.cost.c.sum() + model.final.c)


def test_on_policy_the_first_controllers_act_before_the_network_does(second):
    algorithm = dataclasses.replace(ALIKE, sampling="on")
    state = first(algorithm)
    acts = LinearGaussianPolicy(state.controller).noise_free()
    silent = roll(algorithm.explore(state).noise_free(), KEY)
    np.testing.assert_allclose(silent.u, roll(acts, KEY).u, atol=1e-12)
    state = second[1]
    silent = roll(algorithm.explore(state).noise_free(), KEY)
    np.testing.assert_allclose(silent.u, roll(algorithm.exploit(state), KEY).u, atol=1e-12)


def test_imagined_episodes_have_the_law_of_the_model_and_end_where_nothing_was_visited(second):
    algorithm, _, rollouts, (new, _) = second
    model = jax.vmap(lambda data, p: fitted(algorithm, data, p))(rollouts.cleaned(), new.controller)
    imagine = eqx.filter_jit(lambda visited: local.imagined(PROBLEM, model, new.controller, visited, 4000, KEY))
    everywhere = eqx.tree_at(lambda r: r.x, rollouts, rollouts.x.at[:, 0].set(1e6).at[:, 1].set(-1e6))
    found = imagine(everywhere)
    assert found.valid.all()
    for n in range(2):
        one: LocalModel = jax.tree.map(lambda leaf, n=n: leaf[n], model)
        p = jax.tree.map(lambda leaf, n=n: leaf[n], new.controller)
        p = one.nominal.inwards(p)
        f = one.dynamics
        mean, cov = dense.trajectory(
            *map(np.asarray, (one.start.mean, one.start.cov)),
            tuple(map(np.asarray, (f.A, f.B, f.c, f.cov))),
            tuple(map(np.asarray, (p.K, p.k, p.cov))),
        )[:2]
        x = np.asarray(found.x[n])
        last_mean, last_cov = mean[-4:] + np.asarray(one.nominal.x[-1]), cov[-4:, -4:]
        std = np.sqrt(np.diag(last_cov))
        np.testing.assert_array_less(np.abs(x[:, -1].mean(0) - last_mean) / std, 5 / np.sqrt(4000))
        np.testing.assert_allclose(np.cov(x[:, -1].T) / np.outer(std, std), last_cov / np.outer(std, std), atol=0.1)
    narrow = eqx.tree_at(lambda r: r.x, rollouts, 0.1 * rollouts.x)
    found = imagine(narrow)
    low, high = np.asarray(narrow.x).min((0, 1, 2)), np.asarray(narrow.x).max((0, 1, 2))
    wide = (high - low) / 2
    reached = np.concatenate([np.asarray(found.happened)[..., :1], np.asarray(found.happened)], -1)
    inside = ((np.asarray(found.x) >= low - wide) & (np.asarray(found.x) <= high + wide)).all(-1)
    assert not found.valid.all()
    assert inside[reached].all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling": "both"}, "sampling='both': choose one of off, on"),
        ({"step_rule": "local"}, "step_rule='local': choose one of classic, global"),
        ({"trust": "none"}, "trust='none': choose one of trajectory, step"),
        ({"kl_step": 0.0}, "kl_step=0.0"),
        ({"imagined": -1}, "imagined=-1"),
    ],
)
def test_settings_that_cannot_work_are_refused(monkeypatch, settings, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production
    with pytest.raises(ValueError, match=message):
        MDGPS(**settings)


# the exact case

T, DX, DU = 3, 2, 1


def exact_models(seed, N, T=T, dx=DX, du=DU):
    """N conditions with one linear-quadratic problem and starts of their own, and a first controller."""
    rng = np.random.default_rng(seed)
    A = np.broadcast_to(0.9 * draw.orthogonal(rng, 1, dx)[0], (N, T, dx, dx))
    B = np.broadcast_to(rng.normal(size=(dx, du)), (N, T, dx, du))
    F = np.broadcast_to(0.05 * np.eye(dx), (N, T, dx, dx))
    H = np.broadcast_to(draw.covariance(rng, 1, dx + du, spread=0.5)[0], (N, T, dx + du, dx + du))
    final = np.broadcast_to(np.eye(dx), (N, dx, dx))
    start = rng.normal(size=(N, dx)), np.broadcast_to(0.2 * np.eye(dx), (N, dx, dx))
    zeros = np.zeros((N, T + 1, dx)), np.zeros((N, T, du))
    model = LocalModel(
        Nominal(*map(jnp.asarray, zeros)),
        Gaussian(*map(jnp.asarray, start)),
        LinearDynamics(*map(jnp.asarray, (A, B, np.zeros((N, T, dx)), F))),
        Quadratic(jnp.asarray(H), jnp.zeros((N, T, dx + du)), jnp.zeros((N, T))),
        Quadratic(jnp.asarray(final), jnp.zeros((N, dx)), jnp.zeros(N)),
    )
    K, k, chol = draw.gains(rng, T, du, dx)
    return model, LinearGaussian(jnp.asarray(0.2 * K), jnp.asarray(k), jnp.asarray(chol))


def numbers(model, i):
    one = jax.tree.map(lambda leaf: np.asarray(leaf[i]), model)
    f = one.dynamics
    return (
        (one.start.mean, one.start.cov),
        (f.A, f.B, f.c, f.cov),
        (one.cost.H, one.cost.h),
        (one.final.H, one.final.h),
    )


def in_numpy(p):
    return tuple(map(np.asarray, (p.K, p.k, p.cov)))


descend = eqx.filter_jit(mirror_descent)


def test_a_step_of_the_exact_case_is_that_of_mirror_descent():
    """Both halves by SciPy: the constrained minimum of each condition, and the nearest controller to these."""
    N, kl_step = 2, 0.3
    model, q = exact_models(1, N)
    new, step = descend(model, q, kl_step, jnp.full(N, jnp.nan), jnp.ones(N, bool))
    assert step.found.all()
    local_controllers = []
    for i in range(N):
        problem, p = numbers(model, i), in_numpy(jax.tree.map(lambda leaf, i=i: leaf[i], step.controller))
        local_controllers.append(p)
        best = constrained_lqr.nonlinear_program(*problem, in_numpy(q), T * kl_step, in_numpy(q))
        ours, kl = constrained_lqr.measure(*problem, in_numpy(q), p)
        assert kl.sum() <= T * kl_step * (1 + 1e-6)
        np.testing.assert_allclose(ours, best, rtol=1e-2, atol=2e-3)

    def distance(flat):
        """The sum of KLs of the local controllers to one."""
        pi = constrained_lqr.unpack(flat, T, DU, DX)
        return sum(constrained_lqr.measure(*numbers(model, i), pi, p)[1].sum() for i, p in enumerate(local_controllers))

    nearest = minimize(distance, constrained_lqr.pack(*in_numpy(q)), method="BFGS", options={"gtol": 1e-7})
    K, k, C = constrained_lqr.unpack(nearest.x, T, DU, DX)
    assert distance(constrained_lqr.pack(*in_numpy(new))) <= nearest.fun + 1e-9
    for ours, theirs in zip(in_numpy(new), (K, k, C), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_exact_case_is_monotone_and_arrives_at_the_optimum(seed):
    N = 4
    model, p = exact_models(seed, N, T=6, dx=3, du=2)
    eta, costs = jnp.full(N, jnp.nan), []
    for _ in range(60):
        costs.append(np.mean([constrained_lqr.measure(*numbers(model, i), *[in_numpy(p)] * 2)[0] for i in range(N)]))
        p, step = descend(model, p, 0.2, eta, jnp.ones(N, bool))
        eta = step.eta.mean(-1)
    assert (np.diff(costs) <= 1e-9 * np.abs(costs[0])).all()
    np.testing.assert_allclose(costs[-1], least_cost(model), rtol=1e-3)


def least_cost(model):
    """Mean over the starts, without noise of the actions, by the Riccati recursion."""
    (A, B, _, F), (H, _), (S, _) = numbers(model, 0)[1:]
    dx, constant = A.shape[-1], 0.0
    for t in reversed(range(len(A))):
        AB = np.hstack([A[t], B[t]])
        Q = H[t] + AB.T @ S @ AB
        constant += 0.5 * np.trace(S @ F[t])
        S = Q[:dx, :dx] - Q[:dx, dx:] @ np.linalg.solve(Q[dx:, dx:], Q[dx:, :dx])
    starts = [numbers(model, i)[0] for i in range(len(model.start.mean))]
    return constant + np.mean([0.5 * m @ S @ m + 0.5 * np.trace(S @ C) for m, C in starts])


def test_conditions_without_a_step_do_not_count():
    model, q = exact_models(2, 3)
    only, _ = descend(jax.tree.map(lambda leaf: leaf[:2], model), q, 0.3, jnp.full(2, jnp.nan), jnp.ones(2, bool))
    broken = eqx.tree_at(lambda m: m.dynamics.A, model, model.dynamics.A.at[2].set(jnp.nan))
    new, step = descend(broken, q, 0.3, jnp.full(3, jnp.nan), jnp.ones(3, bool))
    np.testing.assert_array_equal(step.found, [True, True, False])
    near(new, only)
    none, step = descend(model, q, 0.3, jnp.full(3, jnp.nan), jnp.zeros(3, bool))
    assert not step.found.any()
    assert_same(none, q)


def test_the_exact_case_reports_what_one_controller_for_all_cannot_do():
    algorithm = MDGPSLinear()
    state, rollouts = begun(algorithm)
    assert isinstance(rollouts, Rollouts)
    _, info = update(algorithm, state, rollouts, KEY)
    assert info.ok.all()
    assert 0 <= info.projected < info.kl
