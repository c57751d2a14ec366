"""CGPS' policy terms by samples: gradients against finite differences and Monte Carlo, and where a C-step ends."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dear import mostly_slow
from jax import Array
from oracles import constrained_lqr, draw
from scipy.optimize import approx_fprime

from pilotfish.algebra import gaussian
from pilotfish.models import covered
from pilotfish.models.local import LocalModel
from pilotfish.models.nominal import Nominal
from pilotfish.policies.network import Network
from pilotfish.types import Gaussian, LinearDynamics, LinearGaussian, Problem, Quadratic
from pilotfish.updates.c_step import Covered, Objective, c_step

DX, DU, T, M = 2, 2, 3, 8


def problem():
    return Problem(
        horizon=T,
        dt=0.1,
        conditions=Gaussian(jnp.zeros((1, DX)), jnp.eye(DX)[None]),
        initial_std=jnp.ones(DU),
        cost=lambda x, u, t: (x**2).sum() + (u**2).sum(),
    )


def case(seed, bend=1.5):
    """A model, a controller in deviations, samples, and a policy that is far from linear."""
    rng = np.random.default_rng(seed)
    A = draw.orthogonal(rng, T, DX) + 0.1 * rng.normal(size=(T, DX, DX))
    K, k, chol = draw.gains(rng, 1, T, DU, DX)
    cost = Quadratic(*(jnp.asarray(a) for a in (draw.covariance(rng, T, 4), rng.normal(size=(T, 4)), np.zeros(T))))
    model = LocalModel(
        nominal=Nominal(jnp.asarray(rng.normal(size=(T + 1, DX))), jnp.asarray(rng.normal(size=(T, DU)))),
        start=Gaussian(jnp.asarray(rng.normal(size=DX)), jnp.asarray(0.5 * draw.covariance(rng, DX))),
        dynamics=LinearDynamics(
            *(jnp.asarray(a) for a in (A, rng.normal(size=(T, DX, DU)), 0.2 * rng.normal(size=(T, DX)))),
            jnp.asarray(0.05 * draw.covariance(rng, T, DX)),
        ),
        cost=cost,
        final=Quadratic(jnp.eye(DX), jnp.zeros(DX), jnp.zeros(())),
    )
    p = LinearGaussian(*(jnp.asarray(a) for a in (0.3 * K[0], k[0], chol[0])))
    policy = Network(width=6, activation="tanh").policy(problem(), jax.random.key(seed))
    policy = eqx.tree_at(lambda q: q.net.layers[0].weight, policy, replace_fn=lambda w: bend * 3.0 * w)
    policy = eqx.tree_at(lambda q: q.factor, policy, jnp.asarray(np.linalg.cholesky(draw.covariance(rng, DU))))
    return model, p, covered.samples(jax.random.key(seed), M // 2, T, DX), policy


term = eqx.filter_jit(lambda *args: covered.term(problem(), *args))


@eqx.filter_jit
def acts(policy, nominal, dx):
    """Mean actions in deviations (n, T, dx) of the state, themselves deviations."""
    return jax.vmap(jax.vmap(lambda x, d, u: policy.mean(0, x + d, x + d) - u), (None, 0, None))(
        nominal.x[:-1], dx, nominal.u
    )


def averaged(model, policy, s, t, m, S, K, k, C):
    """T of one step, in NumPy."""
    dx = m + np.asarray(s)[:, t] @ np.linalg.cholesky(S).T
    every = np.zeros((len(dx), T, DX))
    every[:, t] = dx
    u = np.asarray(acts(policy, model.nominal, jnp.asarray(every)))[:, t]
    off, inverse = u - dx @ K.T - k, np.linalg.inv(C)
    Sigma = np.asarray(policy.factor @ policy.factor.T)
    logs = np.linalg.slogdet(C)[1] - np.linalg.slogdet(Sigma)[1]
    return 0.5 * (np.einsum("ni,ij,nj->", off, inverse, off) / len(dx) + np.trace(inverse @ Sigma) - DU + logs)


def linear(found, t, m, S, K, k, C):
    """What the C-step is told of the same."""
    policy, more = found
    D, inverse = np.asarray(policy.K[t]) - K, np.linalg.inv(C)
    shift, Cp = D @ m + np.asarray(policy.k[t]) - k, np.asarray(policy.cov[t])
    logs = np.linalg.slogdet(C)[1] - np.linalg.slogdet(Cp)[1]
    kl = 0.5 * (shift @ inverse @ shift + np.trace(D.T @ inverse @ D @ S) + np.trace(inverse @ Cp) - DU + logs)
    H, h = np.asarray(more.H[t]), np.asarray(more.h[t])
    return kl + 0.5 * np.trace(H @ (S + np.outer(m, m))) + h @ m


def packed(m, S, K, k, C):
    lower = np.tril_indices(DX)
    return np.concatenate([m, S[lower], K.ravel(), k, C[lower]])


def unpacked(v):
    def symmetric(entries):
        a = np.zeros((DX, DX))
        a[np.tril_indices(DX)] = entries
        return a + np.tril(a, -1).T

    m, S, K, k, C = np.split(v, np.cumsum([DX, 3, DU * DX, DU]))
    return m, symmetric(S), K.reshape(DU, DX), k, symmetric(C)


def test_samples_have_mean_0_and_covariance_1():
    s = np.asarray(covered.samples(jax.random.key(0), 4, 4, 3))
    for t in range(4):
        np.testing.assert_allclose(s[:, t].mean(0), 0, atol=1e-12)
        np.testing.assert_allclose(s[:, t].T @ s[:, t] / 8, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(("points", "dx", "pairs"), [(40, 10, 20), (7, 3, 4), (8, 4, 4), (8, 26, 26), (1, 1, 1)])
def test_samples_are_enough_for_a_covariance(points, dx, pairs):
    assert covered.enough(points, dx) == pairs


def convex(found, p, model):
    """Whether the gradient in the covariance counted whole, at every step."""
    _, L = covered.marginals(model, p)
    policy, more = found
    D = gaussian.solve_chol(p.chol, policy.K - p.K)
    return np.linalg.eigvalsh(L.mT @ (D.mT @ D + more.H) @ L)[:, 0] > 1e-3


@pytest.mark.parametrize("seed", mostly_slow(range(4), always=(0,)))
def test_gradients_are_those_of_the_average(seed):
    """In mean and covariance of the state, and in gain, offset and covariance of the controller."""
    model, p, s, policy = case(seed, bend=0.4)
    found = term(policy, model, p, s)
    m, L = covered.marginals(model, p)
    whole = convex(found, p, model)
    assert whole.any()
    for t in np.nonzero(whole)[0]:
        here = packed(*(np.asarray(a) for a in (m[t], L[t] @ L[t].T, p.K[t], p.k[t], p.cov[t])))

        def true(v, t=t):
            return averaged(model, policy, s, t, *unpacked(v))

        def told(v, t=t):
            return linear(found, t, *unpacked(v))

        wanted, gradient = (approx_fprime(here, f, 1e-7) for f in (true, told))
        np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_with_many_samples_it_is_the_expected_kl():
    """By Stein's lemma the gradient in the covariance is half the expected Hessian."""
    model, p, _, policy = case(11)
    s = covered.samples(jax.random.key(1), 50_000, T, DX)
    linear_policy, more = term(policy, model, p, s)
    m, L = covered.marginals(model, p)
    t = 1
    x = np.asarray(m[t]) + np.random.default_rng(2).normal(size=(100_000, DX)) @ np.asarray(L[t]).T

    def kl(d):
        off = gaussian.solve_chol(
            p.chol[t],
            (policy.mean(0, o := model.nominal.x[t] + d, o) - model.nominal.u[t] - p.K[t] @ d - p.k[t])[:, None],
        )
        return 0.5 * (off**2).sum()

    hessian = np.asarray(jax.jit(jax.vmap(jax.hessian(kl)))(jnp.asarray(x))).mean(0)
    D = np.linalg.solve(np.asarray(p.chol[t]), np.asarray(linear_policy.K[t] - p.K[t]))
    whole = D.T @ D + np.asarray(more.H[t])
    assert np.linalg.eigvalsh(hessian)[0] > 0
    np.testing.assert_allclose(whole, hessian, atol=0.03 * np.abs(hessian).max())


class Bent(eqx.Module):
    """What acts linearly but for a bend that is even about 0."""

    K: Array
    bend: Array

    def __call__(self, o):
        return self.K @ o + self.bend * (o**2).sum()


def test_a_bend_that_is_even_about_the_mean_changes_no_gain_and_its_sign_no_curvature():
    """Under a normal distribution E[s q(s)] = 0 and E[s s' D' q(s)] = 0 for every even q, where nothing else bends."""
    model, p, s, policy = case(3)
    m, _ = covered.marginals(model, p)
    model = model._replace(nominal=Nominal(model.nominal.x.at[:-1].set(-m), -p.mean(m)))
    K = jnp.asarray([[0.5, -0.2], [0.1, 0.3]])

    def told(bend):
        return term(eqx.tree_at(lambda q: q.net, policy, Bent(K, bend)), model, p, s)

    bend = jnp.asarray([2.0, -1.0])
    (linear, one), (_, other) = told(bend), told(-bend)
    np.testing.assert_allclose(linear.K, jnp.broadcast_to(K, (T, DU, DX)), atol=1e-9)
    assert np.abs(one.H).max() > 0.1
    np.testing.assert_allclose(one.H, other.H, atol=1e-9 * np.abs(one.H).max())


def test_a_gradient_that_rewards_spread_counts_in_part():
    own, whole = np.diag([1.0, 0.0]), np.array([[2.0, 0.0], [0.0, -1.0]])
    assert float(covered._share(jnp.asarray(own), jnp.asarray(whole))) < 1e-5
    own = np.diag([1.0, 1.0])
    np.testing.assert_allclose(covered._share(jnp.asarray(own), jnp.asarray(whole)), 0.5, atol=1e-5)
    assert covered._share(jnp.asarray(own), jnp.asarray(np.diag([3.0, 0.5]))) == 1.0


def test_what_does_not_vary_has_no_gain():
    model, p, s, policy = case(5)
    still = jnp.asarray([[1.0, 0.0], [0.0, 0.0]])
    model = model._replace(
        start=Gaussian(model.start.mean, still * model.start.cov),
        dynamics=LinearDynamics(
            still * model.dynamics.A,
            still[:, :1] * model.dynamics.B,
            still[:, 0] * model.dynamics.c,
            still * model.dynamics.cov,
        ),
    )
    found, more = term(policy, model, p, s)
    assert np.isfinite(found.K).all()
    np.testing.assert_array_equal(found.K[..., 1], 0.0)
    np.testing.assert_array_equal(more.H[:, 1], 0.0)
    visits = covered.visits(problem(), model, p, s)
    np.testing.assert_allclose(np.ptp(visits.x[:, :-1, 1], axis=0), 0.0, atol=1e-12)


def test_where_states_hardly_vary_the_mean_derivative_counts():
    """And across that direction the regression, with the standard deviations 1 and 5 of the two states."""
    model, p, s, policy = case(5)
    std, R = jnp.asarray([1.0, 5.0]), jnp.asarray([[1.0, 0.999], [0.999, 1.0]])
    model = model._replace(start=Gaussian(model.start.mean, R * std * std[:, None]))
    K = np.asarray(term(policy, model, p, s)[0].K[0])
    m, L = (np.asarray(a[0]) for a in covered.marginals(model, p))
    at = jnp.asarray(m + np.asarray(s)[:, 0] @ L.T)

    def mean(d):
        o = model.nominal.x[0] + d
        return policy.mean(0, o, o)

    u, derivative = np.asarray(jax.vmap(mean)(at)), np.asarray(jax.vmap(jax.jacfwd(mean))(at)).mean(0)
    thin, thick = np.array([1.0, -1.0]) * std, np.array([1.0, 1.0]) * std
    np.testing.assert_allclose(K @ thin, derivative @ thin, rtol=1e-9)
    slope = np.polyfit(np.asarray(at - m) @ (thick / std**2) / 2, u, 1)[0]
    np.testing.assert_allclose(K @ thick, slope, rtol=1e-9)
    assert np.abs(slope - derivative @ thick).max() > 0.05


def test_c_steps_end_where_the_true_gradients_vanish():
    """Objective and terms made anew about each controller, until it stays: then nothing is better nearby."""
    model, p, s, policy = case(7, bend=0.3)
    price = jnp.asarray([0.5, 1.0, 2.0])

    @eqx.filter_jit
    def step(p, kl_step):
        found, more = covered.term(problem(), policy, model, p, s)
        cost = Quadratic(
            model.cost.H.at[:, :DX, :DX].add(price[:, None, None] * more.H),
            model.cost.h.at[:, :DX].add(price[:, None] * more.h),
            model.cost.c,
        )
        return c_step(
            model.start, model.dynamics, Objective(cost, model.final, covered=Covered(found, price)), p, kl_step
        ).controller

    for kl_step in np.geomspace(0.3, 1e-6, 200):
        p = step(p, kl_step)
    # the first state is as it is
    assert convex(term(policy, model, p, s), p, model)[1:].all()
    start, f = (model.start.mean, model.start.cov), model.dynamics
    system = [tuple(map(np.asarray, part)) for part in (start, (f.A, f.B, f.c, f.cov))]
    costs = [tuple(map(np.asarray, part)) for part in ((model.cost.H, model.cost.h), (model.final.H, model.final.h))]

    def objective(v):
        K, k, C = constrained_lqr.unpack(v, T, DU, DX)
        total, mean, cov = constrained_lqr.measure(*system, *costs, (K, k, C), (K, k, C))[0], *system[0]
        A, B, c, F = system[1]
        for t in range(T):
            total += float(price[t]) * averaged(model, policy, s, t, mean, cov, K[t], k[t], C[t])
            closed = A[t] + B[t] @ K[t]
            mean, cov = closed @ mean + B[t] @ k[t] + c[t], closed @ cov @ closed.T + B[t] @ C[t] @ B[t].T + F[t]
        return total

    here = constrained_lqr.pack(*(np.asarray(a) for a in (p.K, p.k, p.cov)))
    first = constrained_lqr.pack(*(np.asarray(a) for a in (case(7)[1].K, case(7)[1].k, case(7)[1].cov)))
    there, begin = (approx_fprime(v, objective, 1e-6) for v in (here, first))
    assert np.abs(there).max() < 2e-3 * np.abs(begin).max()
