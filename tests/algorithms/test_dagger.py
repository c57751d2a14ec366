"""DAgger: who acts, what is learned, and what teaches."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from pilotfish.algorithms.dagger import DAgger
from pilotfish.policies import files
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.policies.network import Network
from pilotfish.runs.store import write_tensors
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.types import LinearGaussian
from pilotfish.updates.s_step import SStep
from pilotfish.worlds.jax import JaxWorld

PROBLEM, EPISODES, KEY = LinearQuadratic().problem(), 8, jax.random.key(2)
GAIN, OFFSET = np.array([[-1.0, 0.2, -0.7, 0.0], [0.1, -0.9, 0.0, -0.5]]), np.array([0.3, -0.4])
EXACT = SStep(optimiser="lbfgs", steps=300, precision="float64")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A file of a controller that does the same at all times."""
    shape = 1, PROBLEM.horizon
    K, k = (jnp.broadcast_to(jnp.asarray(a), (*shape, *a.shape)) for a in (GAIN, OFFSET))
    path = tmp_path_factory.mktemp("teacher") / "local.safetensors"
    policy = LinearGaussianPolicy(LinearGaussian(K, k, jnp.zeros((*shape, 2, 2))))
    write_tensors(path, *files.packed(policy, PROBLEM))
    return str(path)


@eqx.filter_jit
def turn(algorithm, state, key):
    rollouts = JaxWorld(PROBLEM).rollout(algorithm.explore(state), EPISODES, key)
    return rollouts, *algorithm.update(PROBLEM, state, rollouts, key)


def by_teacher(rollouts):
    """Which actions are the teacher's."""
    wanted = np.asarray(rollouts.x[:, :, :-1]) @ GAIN.T + OFFSET
    return np.isclose(rollouts.u, wanted, atol=1e-9).all(-1)


def test_the_teacher_acts_ever_less_and_the_network_learns_what_it_does(teacher):
    algorithm = DAgger(teacher=teacher, beta=0.5, noise=0.0, policy=Network(depth=0), teach=EXACT)
    state = algorithm.init(PROBLEM, EPISODES, KEY)
    for i, (low, high) in enumerate([(1.0, 1.0), (0.35, 0.65), (0.12, 0.4)]):
        rollouts, new, info = turn(algorithm, state._replace(iteration=jnp.asarray(i)), KEY)
        assert low <= by_teacher(rollouts).mean() <= high
        np.testing.assert_allclose(info.teaches, 0.5**i)
        assert new.iteration == i + 1
    layer = new.policy.net.layers[0]
    gain = np.asarray(layer.weight) / np.asarray(new.policy.scale)
    np.testing.assert_allclose(gain, GAIN, atol=1e-5)
    np.testing.assert_allclose(np.asarray(layer.bias) - gain @ np.asarray(new.policy.shift), OFFSET, atol=1e-5)
    assert info.loss < 1e-8
    deployed = JaxWorld(PROBLEM).rollout(algorithm.exploit(new), 3, KEY)
    assert np.allclose(deployed.u, np.asarray(deployed.x[:, :, :-1]) @ GAIN.T + OFFSET, atol=1e-4)
    assert by_teacher(JaxWorld(PROBLEM).rollout(algorithm.local(new), 3, KEY)).all()


@pytest.mark.slow
def test_noise_is_that_part_of_the_problem_s_first(teacher):
    algorithm = DAgger(teacher=teacher, noise=0.25)
    state = algorithm.init(PROBLEM, 400, KEY)
    rollouts = JaxWorld(PROBLEM).rollout(algorithm.explore(state), 400, KEY)
    off = rollouts.u - (rollouts.x[:, :, :-1] @ GAIN.T + OFFSET)
    np.testing.assert_allclose(off.std((0, 1, 2)), 0.25 * PROBLEM.initial_std, rtol=0.02)


def test_what_cannot_teach_is_refused(teacher, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="teacher='': name the run"):
        DAgger().init(PROBLEM, EPISODES, KEY)
    with pytest.raises(ValueError, match="there is no such file"):
        DAgger(teacher=str(tmp_path / "none.safetensors")).init(PROBLEM, EPISODES, KEY)
    write_tensors(tmp_path / "net.safetensors", *files.packed(Network().policy(PROBLEM, KEY), PROBLEM))
    with pytest.raises(ValueError, match="of the kind 'network'; local controllers teach"):
        DAgger(teacher=str(tmp_path / "net.safetensors")).init(PROBLEM, EPISODES, KEY)
    longer = dataclasses.replace(PROBLEM, horizon=PROBLEM.horizon + 1, first_controller=None)
    with pytest.raises(ValueError, match=r"its gains have the shape .* Choose a run on the same task"):
        DAgger(teacher=teacher).init(longer, EPISODES, KEY)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as in production
    for settings, message in (({"beta": 1.5}, r"beta=1\.5"), ({"noise": -1.0}, r"noise=-1\.0")):
        with pytest.raises(ValueError, match=message):
            DAgger(**settings)
