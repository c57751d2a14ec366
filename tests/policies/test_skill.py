"""Skills and the policies that draw their parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pilotfish.policies import files
from pilotfish.policies.episodic import ContextualPolicy, EpisodicPolicy, OpenLoop
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.runs.store import write_tensors
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.types import Gaussian, LinearGaussian
from pilotfish.worlds.jax import JaxWorld

KEY = jax.random.key(1)
RNG = np.random.default_rng(0)


def problem():
    """A point mass from two places, whose first controllers do something."""
    one = LinearQuadratic(initial_std=0.5).problem()
    mean = jnp.array([[1.0, -0.5, 0.0, 0.0], [0.3, 0.2, 0.1, 0.0]])
    first = LinearGaussian(*(jnp.asarray(RNG.normal(size=size)) for size in ((2, 20, 2, 4), (2, 20, 2), (2, 20, 2, 2))))
    cov = jnp.broadcast_to(one.conditions.cov, (2, 4, 4))
    return dataclasses.replace(one, conditions=Gaussian(mean, cov), first_controller=first)


def policies():
    skill = OpenLoop(features=3).skill(problem())
    chol = np.tril(RNG.normal(size=(2, 6, 6)))
    yield EpisodicPolicy(jnp.asarray(RNG.normal(size=(2, 6))), jnp.asarray(chol), skill)
    search = LinearGaussian(*map(jnp.asarray, (RNG.normal(size=(6, 4)), RNG.normal(size=6), chol[0])))
    yield ContextualPolicy(search, jnp.full(4, 0.1), jax.tree.map(lambda leaf: leaf[0], skill))


@pytest.mark.parametrize("features", [1, 3, 10])
def test_first_actions_have_the_first_spread_and_are_smooth(features):
    J = OpenLoop(features=features).skill(problem()).J
    assert J.shape == (2, 20, 2, 2 * features)
    np.testing.assert_allclose(jnp.sqrt((J**2).sum(-1)), 0.5, rtol=1e-12)
    correlation = (J[:, 1:] * J[:, :-1]).sum(-1) / 0.25
    assert (correlation > (0.7 if features == 10 else 0.9)).all()


def test_parameters_are_drawn_and_kept():
    for policy in policies():
        rollouts = JaxWorld(problem()).rollout(policy, 4000, KEY)
        w, s = rollouts.episode.w, rollouts.o[:, :, 0]
        for n in range(2):
            if isinstance(policy, EpisodicPolicy):
                mean, chol, skill = (
                    policy.mean[n],
                    policy.chol[n],
                    jax.tree.map(lambda leaf, n=n: leaf[n], policy.skill),
                )
            else:
                mean, chol, skill = (s[n] - 0.1) @ policy.search.K.T + policy.search.k, policy.search.chol, policy.skill
            e = np.linalg.solve(chol, (w[n] - mean).T)
            np.testing.assert_allclose(e.mean(1), 0.0, atol=0.08)
            np.testing.assert_allclose(np.cov(e), np.eye(6), atol=0.1)
            x, t = rollouts.x[n, 7], 5
            u = skill.K[t] @ x[t] + skill.k[t] + skill.J[t] @ w[n, 7]
            np.testing.assert_allclose(rollouts.u[n, 7, t], u, rtol=1e-9, atol=1e-9)


def test_noise_free_acts_by_the_mean():
    episodic, contextual = policies()
    plain = episodic.noise_free()
    assert isinstance(plain, LinearGaussianPolicy)  # which acts without jax, too
    k = episodic.skill.k + jnp.einsum("Ntij,Nj->Nti", episodic.skill.J, episodic.mean)
    np.testing.assert_allclose(plain.controller.k, k, rtol=1e-12)
    np.testing.assert_array_equal(plain.controller.K, episodic.skill.K)
    assert not plain.controller.chol.any()
    silent = JaxWorld(problem()).rollout(contextual.noise_free(), 3, KEY)
    wanted = (silent.o[:, :, 0] - 0.1) @ contextual.search.K.T + contextual.search.k
    np.testing.assert_allclose(silent.episode.w, wanted, rtol=1e-9, atol=1e-12)


def test_stored_and_loaded_is_the_same(tmp_path):
    for policy in policies():
        write_tensors(tmp_path / "policy.safetensors", *files.packed(policy, problem()))
        loaded = files.load(tmp_path / "policy.safetensors")
        assert jax.tree.structure(loaded) == jax.tree.structure(policy)
        for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(policy), strict=True):
            np.testing.assert_array_equal(a, b)


def test_no_basis_functions_are_refused():
    with pytest.raises(ValueError, match="features=0: give at least one basis function"):
        OpenLoop(features=0)
