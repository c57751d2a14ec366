"""BADMM: what it shares with LQR-GPS, its prices against NumPy, and that they make network and controllers agree."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from oracles.two_places import EPISODES, KEY, PROBLEM, roll, update

from pilotfish.algorithms import badmm
from pilotfish.algorithms.badmm import BADMM
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.models import local
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.types import LinearGaussian
from pilotfish.updates.s_step import SStep

PLAIN = LQRGPS().dynamics
TEACH = SStep(steps=200, batch=16, precision="float64")
ONCE = BADMM(kl_step=0.1, inner=1, dynamics=PLAIN, teach=TEACH, imagined=0)


@pytest.fixture(scope="module")
def first():
    """The state before the first update, its rollouts, and what came of them."""
    state = ONCE.init(PROBLEM, EPISODES, KEY)
    rollouts = roll(ONCE.explore(state), KEY)
    return state, rollouts, update(ONCE, state, rollouts, KEY)


def near(found, wanted, tolerance=1e-9):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_before_anything_is_priced_it_is_lqr_gps(first):
    _, rollouts, (new, info) = first
    expected, _ = update(LQRGPS(kl_step=0.1), LQRGPS().init(PROBLEM, EPISODES, KEY), rollouts, KEY)
    near(new.controller, expected.controller)
    assert info.ok.all()


def test_the_first_price_is_a_part_of_the_trust_regions_multiplier(first):
    _, _, (new, _) = first
    unchanged = float(ONCE.weight * new.eta.mean())
    assert set(np.unique(np.round(np.asarray(new.tie.nu) / unchanged, 9))) <= {0.5, 1.0, 2.0}
    assert (new.tie.lam == 0).all()


def test_the_second_iteration_moves_lambda_by_the_distance_of_the_mean_actions(first):
    _, _, (state, _) = first
    rollouts = roll(ONCE.explore(state), jax.random.key(5))
    new, _ = update(ONCE, state, rollouts, KEY)
    x = np.asarray(rollouts.x[:, :, :-1])
    policy, p = new.policy, state.controller  # an S-step, then the prices, then the C-step
    u = np.asarray(jax.vmap(jax.vmap(jax.vmap(lambda x: policy.mean(0, x, x))))(jnp.asarray(x)))
    act = np.einsum("ntij,nmtj->nmti", p.K, x) + np.asarray(p.k)[:, None]
    # the linearised network's noise holds what a linear function leaves unexplained
    data = rollouts.cleaned()
    pull = []
    for n in range(2):
        one = jax.tree.map(lambda leaf, n=n: leaf[n], data)
        nominal = local.Nominal.of(one)
        before = jax.tree.map(lambda leaf, n=n: leaf[n], state.visited)
        key = jax.random.split(jax.random.split(jax.random.split(jax.random.split(KEY)[1], 1)[0], 3)[0], 2)[n]
        _, network = ONCE.linearise(PROBLEM, policy, before, one, nominal, key)
        apart = (u[n] - act[n]).mean(0)
        pull.append([np.linalg.solve(C, d) for C, d in zip(np.asarray(network.cov), apart, strict=True)])
    expected = ONCE.dual_rate * np.asarray(state.tie.nu)[..., None] * np.array(pull)
    np.testing.assert_allclose(new.tie.lam, expected, rtol=1e-5, atol=1e-8 * np.abs(expected).max())


def test_prices_follow_the_distance_step_by_step():
    kl = np.array([[1.0, 1.0, 1.0, 9.0], [4.0, 4.0, 4.0, 4.0], [5.0, 5.0, 5.0, 0.0]])
    nu = np.array([[1.0, 2.0, 3.0, 4.0]] * 3)
    expected = nu.copy()
    for n in range(3):
        for t in range(4):
            if kl[n, t] < kl[n].mean() - kl[n].std():
                expected[n, t] /= 2
            elif kl[n, t] >= kl[n].mean() + 0.5 * kl[n].std():
                expected[n, t] *= 2
    np.testing.assert_array_equal(badmm.reweighted(jnp.asarray(nu), jnp.asarray(kl)), expected)
    far = badmm.reweighted(jnp.asarray([[1e-9, 1.0, 1.0, 1.0]]), jnp.ones((1, 4)))
    np.testing.assert_allclose(far, 2 * np.clip([[1e-9, 1, 1, 1]], 10 ** (-9 / 4 - 2), 10 ** (-9 / 4 + 2)))
    broken = badmm.reweighted(jnp.asarray(nu), jnp.asarray(kl).at[0, 1].set(jnp.inf))
    np.testing.assert_array_equal(broken[0], nu[0])


def test_the_price_of_an_action_is_the_same_in_all_units():
    rng = np.random.default_rng(0)
    chol = np.tril(rng.normal(size=(1, 3, 2, 2))) + 2 * np.eye(2)
    p, pi = (
        LinearGaussian(jnp.zeros((1, 3, 2, 4)), jnp.asarray(rng.normal(size=(1, 3, 2))), jnp.asarray(chol))
        for _ in "ab"
    )
    unit, nu = jnp.array([1e-9, 1e7]), jnp.asarray(rng.uniform(size=(1, 3)))
    scaled = [LinearGaussian(q.K, q.k * unit, q.chol * unit[:, None]) for q in (p, pi)]
    np.testing.assert_allclose(badmm._pull(nu, *scaled) * unit, badmm._pull(nu, p, pi), rtol=1e-9)
    C = chol @ np.swapaxes(chol, -1, -2)
    expected = np.asarray(nu)[..., None] * np.linalg.solve(C, np.asarray(pi.k - p.k)[..., None])[..., 0]
    np.testing.assert_allclose(badmm._pull(nu, p, pi), expected, rtol=1e-9)


@pytest.mark.slow
def test_prices_bring_network_and_controllers_together():
    """After 25 iterations the network does nearly as well as its teachers, and these as LQR-GPS's."""
    algorithm = BADMM(kl_step=0.3, dynamics=PLAIN, teach=SStep(steps=1000, batch=64), imagined=20)
    state = algorithm.init(PROBLEM, EPISODES, KEY)
    for i in range(25):
        rollouts = roll(algorithm.explore(state), jax.random.fold_in(KEY, i))
        state, info = update(algorithm, state, rollouts, jax.random.fold_in(KEY, 100 + i))
        assert info.ok.all()
    spent = {
        who: roll(policy, KEY).cost.sum(-1).mean()
        for who, policy in (("network", algorithm.exploit(state)), ("local", algorithm.local(state)))
    }
    assert spent["local"] < 1.1 * LinearQuadratic().optimum()[1]
    assert spent["network"] < 1.2 * spent["local"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner": 0}, "inner=0"),
        ({"weight": 0.0}, "weight=0.0"),
        ({"dual_rate": -0.1}, "dual_rate=-0.1"),
        ({"trust": "none"}, "trust='none': choose one of trajectory, step"),
    ],
)
def test_settings_that_cannot_work_are_refused(monkeypatch, settings, message):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production
    with pytest.raises(ValueError, match=message):
        BADMM(**settings)
