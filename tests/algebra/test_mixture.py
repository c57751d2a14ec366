"""Mixtures against scikit-learn, their own likelihood, NumPy's moments, and data that leave a cluster nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import draw
from sklearn.mixture import GaussianMixture

from pilotfish.algebra import mixture
from pilotfish.algebra.batch import each
from pilotfish.algebra.mixture import Mixture

N, D, K = 120, 3, 4
FLOOR = 1e-6
log_likelihood = jax.jit(mixture.log_likelihood)


@jax.jit
def moments_near(m, points, weight):
    """Of one place, which is the same beside another."""
    share = weight / jnp.maximum(weight.sum(), 1e-300)
    near = mixture.moments_near(m, jnp.stack([points, 2.0 * points]), jnp.stack([share, share]))
    return jax.tree.map(lambda leaf: leaf[0], near)


compiled_fit = jax.jit(mixture.fit)


@jax.jit
def begin(z, weight, seed):
    return mixture.begin(z, weight, K, jax.random.key(seed))


def fit(z, weight, start, iterations, tolerance=0.0):
    return compiled_fit(z, weight, start, jnp.asarray(iterations), tolerance)


@jax.jit
def likelihoods(z, weight, start):
    """Mean log-likelihood after 0 to 15 iterations, and the smallest share of any cluster."""

    def step(m, _):
        return mixture.fit(z, weight, m, 1), (mixture.log_likelihood(m, z, weight), jnp.exp(m.log_weight).min())

    return jax.lax.scan(step, start, None, length=16)[1]


def arrays(*numbers):
    return tuple(map(jnp.asarray, numbers))


def places(rng, apart, n=N, d=D, k=K):
    """Points of k correlated Gaussians some standard deviations apart, and which of them each is from."""
    corner = draw.orthogonal(rng, 1, d)[0]
    centre, cov = apart * np.concatenate([corner, -corner])[:k], draw.covariance(rng, k, d, spread=0.3)
    label = rng.permutation(np.arange(n) % k)
    noise = np.einsum("nij,nj->ni", np.linalg.cholesky(cov)[label], rng.normal(size=(n, d)))
    return centre[label] + noise, label


def cov(m):
    return np.asarray(m.chol) @ np.swapaxes(np.asarray(m.chol), -1, -2)


def floor(z):
    return FLOOR * np.diag(np.var(np.asarray(z), 0))


def assert_alike(a, b, rtol=1e-9, atol=1e-9):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def assert_regular(m):
    """All is finite, weights sum to 1 and covariances are positive definite."""
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(m))
    np.testing.assert_allclose(np.exp(m.log_weight).sum(-1), 1.0, rtol=1e-12)
    std = np.sqrt(np.diagonal(cov(m), axis1=-2, axis2=-1))
    assert (std > 0).all()
    assert (np.linalg.eigvalsh(cov(m) / (std[..., :, None] * std[..., None, :])) > 0).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("n", "d", "clusters"), [(N, D, K), (300, 7, 3)])
def test_em_is_that_of_scikit_learn(n, d, clusters):
    rng = np.random.default_rng(d)
    unit, offset = 10.0 ** rng.integers(-3, 4, d), rng.normal(size=d)
    s, _ = places(rng, 1.0, n, d, clusters)
    s = (s - s.mean(0)) / s.std(0)
    mean, S, w = s[:clusters], draw.covariance(rng, clusters, d), rng.dirichlet(np.ones(clusters))
    given_start = {"weights_init": w, "means_init": mean, "precisions_init": np.linalg.inv(S)}
    theirs = GaussianMixture(clusters, tol=0, reg_covar=FLOOR, max_iter=12, **given_start).fit(s)
    start = Mixture(*arrays(np.log(w), (mean + offset) * unit, unit[:, None] * np.linalg.cholesky(S)))
    z, weight = arrays((s + offset) * unit, np.full(n, 0.7))
    ours = fit(z, weight, start, 12)
    np.testing.assert_allclose(np.exp(ours.log_weight), theirs.weights_, rtol=1e-7)
    np.testing.assert_allclose(ours.mean / unit - offset, theirs.means_, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(cov(ours) / np.outer(unit, unit), theirs.covariances_, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(log_likelihood(ours, z, weight), theirs.score(s) - np.log(unit).sum(), rtol=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(0, 3), st.booleans())
def test_likelihood_never_falls(seed, apart, weighted):
    """But for the floor, and but for the point's weight that a cluster which starts anew takes from the others."""
    rng = np.random.default_rng(seed)
    z, weight = arrays(places(rng, apart)[0], rng.uniform(0.2, 2, N) if weighted else np.ones(N))
    ll, smallest = likelihoods(z, weight, begin(z, weight, seed))
    assert (np.diff(ll) > -np.where(smallest[1:] > 1.5 / N, 1e-6, 1.5 / N)).all()
    assert ll[-1] > ll[0]


def test_well_separated_clusters_are_found():
    rng = np.random.default_rng(0)
    z, label = places(rng, 10.0)
    data = arrays(z, np.ones(N))
    found = fit(*data, begin(*data, 0), 20)
    order = [int(np.argmin(((found.mean - z[label == k].mean(0)) ** 2).sum(-1))) for k in range(K)]
    assert sorted(order) == list(range(K))
    for k, at in enumerate(order):
        own = z[label == k]
        np.testing.assert_allclose(np.exp(found.log_weight[at]), 1 / K, rtol=1e-6)
        np.testing.assert_allclose(found.mean[at], own.mean(0), rtol=1e-6)
        np.testing.assert_allclose(cov(found)[at], np.cov(own.T, ddof=0) + floor(z), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_start_spreads_over_the_data(seed):
    z, label = places(np.random.default_rng(seed), 15.0)
    exists = np.isin(np.arange(N), np.argsort(label)[::10])
    start = begin(*arrays(z, 2.0 * exists), seed)
    np.testing.assert_allclose(np.exp(start.log_weight), 1 / K, rtol=1e-9)
    within = sum(np.cov(z[exists & (label == k)].T, ddof=0) / K for k in range(K))
    for S in cov(start):
        np.testing.assert_allclose(S, within + floor(z[exists]), rtol=1e-7, atol=1e-9)


def test_a_start_obeys_its_key():
    data = arrays(np.random.default_rng(1).normal(size=(N, D)), np.ones(N))
    assert_alike(begin(*data, 3), begin(*data, 3), rtol=0, atol=0)
    assert not np.allclose(begin(*data, 3).mean, begin(*data, 4).mean)


def test_a_batch_is_its_members():
    rng = np.random.default_rng(2)
    z, weight = arrays(np.stack([places(rng, 2.0)[0] for _ in range(3)]), rng.uniform(size=(3, N)))

    def one(z, weight, seed):
        return mixture.fit(z, weight, mixture.begin(z, weight, K, jax.random.key(seed)), 8)

    in_turn = jax.jit(lambda *args: each(one, *args))(z, weight, jnp.arange(3))
    side_by_side = jax.jit(jax.vmap(one))(z, weight, jnp.arange(3))
    for i in range(3):
        alone = fit(z[i], weight[i], begin(z[i], weight[i], i), 8)
        assert_alike(jax.tree.map(lambda leaf, i=i: leaf[i], in_turn), alone, 1e-7, 1e-7)
        assert_alike(jax.tree.map(lambda leaf, i=i: leaf[i], side_by_side), alone, 1e-7, 1e-7)


def test_a_warm_start_goes_on_where_it_stopped():
    rng = np.random.default_rng(3)
    data = arrays(places(rng, 2.0)[0] * [1e-3, 1.0, 1e4] + [0, 5, 0], np.ones(N))
    start = begin(*data, 0)
    three, seven = fit(*data, start, 3), fit(*data, start, 7)
    assert_alike(fit(*data, three, 4), seven, rtol=1e-8)
    assert not np.allclose(three.log_weight, seven.log_weight, rtol=1e-3)


def test_it_stops_early_where_the_likelihood_has_settled():
    rng = np.random.default_rng(4)
    data = arrays(places(rng, 1.0)[0], np.ones(N))
    start = begin(*data, 0)
    ll, _ = likelihoods(*data, start)
    # the change from iterate j to j + 1 is known when iterate j + 2 has been made
    settled = int(np.argmax(np.abs(np.diff(ll)) < 1e-2)) + 2
    assert 3 < settled < 15
    stopped = fit(*data, start, 30, 1e-2)
    assert_alike(stopped, fit(*data, start, settled), rtol=1e-8)
    assert not np.allclose(stopped.mean, fit(*data, start, 30).mean, rtol=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(-6, 6)] * 3))
def test_units_do_not_matter(seed, decades):
    unit = 10.0 ** np.array(decades)
    z, weight = places(np.random.default_rng(seed), 1.0)[0], jnp.ones(N)
    z[:, 2] = 0.3  # constant
    one, other = (fit(data, weight, begin(data, weight, 0), 6) for data in arrays(z, z * unit))
    scaled = Mixture(other.log_weight, other.mean / unit, other.chol / unit[:, None])
    assert_alike(scaled, one, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("junk", [0.0, -7e12, 1e250])
def test_points_of_zero_weight_do_not_exist(junk):
    rng = np.random.default_rng(5)
    z, weight, absent = places(rng, 1.0)[0], rng.uniform(0.5, 1.0, N), np.arange(N) % 3 == 1
    # that many points stand twice with half their weight instead
    weight[absent] = 0.0
    ruined = arrays(np.where(absent[:, None], junk, z), weight)
    halves = np.where(absent, 0.5, np.where(np.arange(N) % 3 == 0, 0.5, 1.0))
    twice = arrays(
        np.where(absent[:, None], np.roll(z, 1, 0), z), np.where(absent, np.roll(weight, 1), weight) * halves
    )
    start = begin(*ruined, 0)
    assert_alike(start, begin(*arrays(z, weight), 0), rtol=0, atol=0)
    found = fit(*ruined, start, 9)
    assert_alike(found, fit(*twice, start, 9), 1e-7, 1e-9)
    assert_alike(moments_near(found, *ruined), moments_near(found, *twice))
    np.testing.assert_allclose(log_likelihood(found, *ruined), log_likelihood(found, *twice), rtol=1e-9)


def degenerate(seed):
    """Data sets with their weights that leave some cluster too little."""
    z, every, i = np.random.default_rng(seed).normal(size=(N, D)), np.ones(N), np.arange(N)
    return {
        "all identical": (np.broadcast_to([1e3, -2.0, 0.0], z.shape), every),
        "all zero": (0 * z, every),
        "two places": (z[i % 2], every),
        "six places": (z[i % 6], every),
        "one point": (z, every * (i == 3)),
        "more clusters than points": (z, every * (i < 2)),
        "fewer points a cluster than dimensions": (z, every * (i < 8)),
        "no point": (z, 0 * every),
        "a constant coordinate": (z * [1, 0, 1] + [0, 3.1, 0], every),
        "on a line": (z[:, :1] * [1.0, 2.0, -3.0], every),
        "one far off": (np.where(i[:, None] == 5, 1e9, z), every),
        "tiny weights": (z, 1e-200 * every),
    }


NAMES = sorted(degenerate(0))


@pytest.mark.parametrize("name", NAMES)
def test_degenerate_data_give_a_regular_mixture(name):
    data = arrays(*degenerate(6)[name])
    start = begin(*data, 0)
    found = fit(*data, start, 12)
    assert_regular(start)
    assert_regular(found)
    assert np.isfinite(log_likelihood(found, *data))
    near = moments_near(found, *data)
    assert_regular(Mixture(jnp.zeros(1), near.mean[None], jnp.linalg.cholesky(near.cov)[None]))
    if name == "one point":
        np.testing.assert_allclose(found.mean, np.broadcast_to(data[0][3], (K, D)), rtol=1e-12)
    for other in degenerate(7).values():  # a warm start on any other data
        assert_regular(fit(*arrays(*other), found, 12))


def test_a_cluster_that_lost_its_data_is_put_to_use_again():
    """The data move: one cluster stays behind, and starts anew at what the others explain worst."""
    rng = np.random.default_rng(9)
    z, label = places(rng, 20.0)
    data = arrays(z, np.ones(N))
    own = [z[label == k] for k in range(K)]
    S = np.stack([np.cov(points.T) for points in own])
    mean = np.stack([points.mean(0) for points in own])
    mean[3] = 1e6
    old = Mixture(*arrays(np.full(K, -np.log(K)), mean, np.linalg.cholesky(S)))
    anew = fit(*data, old, 1)
    np.testing.assert_allclose(np.exp(anew.log_weight[3]), 1 / (N + 1), rtol=1e-9)
    assert any(np.allclose(anew.mean[3], point) for point in own[3])
    np.testing.assert_allclose(cov(anew)[3], np.cov(z.T, ddof=0) + floor(z), rtol=1e-7, atol=1e-9)
    found = fit(*data, old, 40)
    np.testing.assert_allclose(np.exp(found.log_weight), 1 / K, rtol=1e-6)
    np.testing.assert_allclose(found.mean[3], own[3].mean(0), rtol=1e-6)


def test_clusters_that_start_anew_together_do_so_apart():
    z = np.random.default_rng(10).normal(size=(N, D))
    mean, S = z.mean(0), np.cov(z.T)
    only_one = np.concatenate([mean[None], np.full((3, D), 1e4)]), np.linalg.cholesky(np.broadcast_to(S, (K, D, D)))
    anew = fit(*arrays(z, np.ones(N)), Mixture(*arrays(np.full(K, -np.log(K)), *only_one)), 1)
    np.testing.assert_allclose(np.exp(anew.log_weight[1:]), 1 / (N + 1) / 3, rtol=1e-9)
    distance = np.einsum("ni,ij,nj->n", z - mean, np.linalg.inv(S), z - mean)
    np.testing.assert_allclose(anew.mean[1:], z[np.argsort(-distance)[:3]], rtol=1e-9)


def test_clusters_that_outnumber_the_points_start_anew_among_them():
    z = 5.0 + np.random.default_rng(14).normal(size=(N, D))
    both = z[:2].mean(0)
    far = np.concatenate([both[None], np.full((3, D), 1e4)])
    start = Mixture(*arrays(np.full(K, -np.log(K)), far, np.broadcast_to(np.eye(D), (K, D, D))))
    mean = fit(*arrays(z, 1.0 * (np.arange(N) < 2)), start, 1).mean
    order = [0, 1] if np.allclose(mean[1], z[0]) else [1, 0]
    np.testing.assert_allclose(mean, [both, *z[order], both], rtol=1e-9)


def test_a_start_thinner_than_the_floor_is_raised_to_it():
    z = np.random.default_rng(11).normal(size=(N, D))
    thin = Mixture(*arrays(np.full(K, -np.log(K)), z[:K], np.zeros((K, D, D))))
    assert_regular(fit(*arrays(z, np.ones(N)), thin, 0))
    np.testing.assert_allclose(cov(fit(*arrays(z, np.ones(N)), thin, 0))[0], floor(z), rtol=1e-7, atol=1e-15)


def by_hand(m, z):
    """Weighted component densities from full inverses, (n, K), in logarithms."""
    columns = []
    for log_weight, mean, S in zip(np.asarray(m.log_weight), np.asarray(m.mean), cov(m), strict=True):
        distance = np.einsum("ni,ij,nj->n", z - mean, np.linalg.inv(S), z - mean)
        columns.append(log_weight - 0.5 * (distance + np.linalg.slogdet(2 * np.pi * S)[1]))
    return np.stack(columns, 1)


def random_mixture(rng):
    chol = np.linalg.cholesky(draw.covariance(rng, K, D))
    return Mixture(*arrays(np.log(rng.dirichlet(np.ones(K))), rng.normal(size=(K, D)), chol))


@pytest.mark.parametrize("seed", range(10))
def test_moments_near_points_are_those_of_numpy(seed):
    rng = np.random.default_rng(seed)
    m, points, weight = random_mixture(rng), rng.normal(size=(6, D)), rng.uniform(size=6)
    log_density = by_hand(m, points)
    found = jax.jit(mixture.log_densities)(m, jnp.asarray(points))
    np.testing.assert_allclose(found, log_density, rtol=1e-7, atol=1e-9)
    density = np.exp(log_density)
    w = weight / weight.sum() @ (density / density.sum(1, keepdims=True))
    mean, S = w @ m.mean, np.zeros((D, D))
    for w_k, mu_k, S_k in zip(w, np.asarray(m.mean), cov(m), strict=True):
        S += w_k * (S_k + np.outer(mu_k - mean, mu_k - mean))
    near = moments_near(m, *arrays(points, weight))
    np.testing.assert_allclose(near.mean, mean, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(near.cov, S, rtol=1e-7, atol=1e-9)


def test_moments_near_no_point_are_those_of_the_mixture():
    rng = np.random.default_rng(12)
    m, n = random_mixture(rng), 200_000
    near = moments_near(m, jnp.zeros((6, D)), jnp.zeros(6))
    k = rng.choice(K, n, p=np.exp(m.log_weight))
    z = np.asarray(m.mean)[k] + np.einsum("nij,nj->ni", np.asarray(m.chol)[k], rng.normal(size=(n, D)))
    std = z.std(0)
    np.testing.assert_allclose(near.mean / std, z.mean(0) / std, atol=0.02)
    np.testing.assert_allclose(near.cov / np.outer(std, std), np.corrcoef(z.T), atol=0.03)


def test_points_far_from_all_clusters_take_the_nearest():
    m, far = random_mixture(np.random.default_rng(13)), 1e6 * np.ones((6, D))
    nearest = int(np.argmax(by_hand(m, far)[0]))
    near = moments_near(m, *arrays(far, np.ones(6)))
    np.testing.assert_allclose(near.mean, m.mean[nearest], rtol=1e-9)
    np.testing.assert_allclose(near.cov, cov(m)[nearest], rtol=1e-9)
