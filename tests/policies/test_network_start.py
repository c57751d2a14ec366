"""Learning begins with the network of a file: in every algorithm that teaches one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pilotfish as pf
from pilotfish.algorithms.dagger import DAgger
from pilotfish.policies.network import Network
from pilotfish.runs.spec import Spec, assemble
from pilotfish.runs.store import Run
from pilotfish.tasks.cartpole import CartPole
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.updates.s_step import SStep

PROBLEM = LinearQuadratic().problem()
STATES = jnp.asarray(np.random.default_rng(0).normal(size=(7, PROBLEM.dx)))


def acts(policy):
    return np.array([policy.mean(0, x, x) for x in STATES])


@pytest.fixture
def file(tmp_path):
    """A network that sees in coordinates of its own."""
    policy = Network(width=5, depth=1, activation="tanh").policy(PROBLEM, jax.random.key(3))
    whitening = jnp.arange(4.0), jnp.arange(1.0, 5.0)
    policy = eqx.tree_at(lambda p: (p.shift, p.scale), policy, whitening)
    return pf.load_policy(policy.save(tmp_path / "net.safetensors", PROBLEM)), str(tmp_path / "net.safetensors")


ALGORITHMS = {
    "mdgps": lambda start: pf.MDGPS(policy=Network(start=start)),
    "mdgps, on policy": lambda start: pf.MDGPS(policy=Network(start=start), sampling="on"),
    "badmm": lambda start: pf.BADMM(policy=Network(start=start)),
    "gps": lambda start: pf.GPS(policy=Network(start=start)),
    "trpo": lambda start: pf.TRPO(policy=Network(start=start)),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_is_deployed_at_first_is_the_network_of_the_file(name, file):
    algorithm = ALGORITHMS[name](file[1])
    state = algorithm.init(PROBLEM, 5, jax.random.key(0))
    np.testing.assert_array_equal(acts(algorithm.exploit(state)), acts(file[0]))
    np.testing.assert_array_equal(algorithm.files, [file[1]])
    np.testing.assert_array_equal(state.policy.factor, jnp.diag(PROBLEM.initial_std))


@pytest.mark.slow
def test_an_update_begins_where_the_network_is(file):
    """Lessons of next to no length leave it as it was, in whatever coordinates; of a random one they make another."""
    world = LinearQuadratic().world()
    slow = pf.MDGPS(policy=Network(start=file[1]), teach=SStep(steps=1, learning_rate=1e-12, precision="float64"))
    result = pf.train(slow, world, rollouts=8, iterations=1)
    np.testing.assert_allclose(acts(result.policy), acts(file[0]), rtol=1e-9, atol=1e-9)


def test_the_network_explores_from_the_first_iteration_on_where_it_is_sampled(file):
    on = ALGORITHMS["mdgps, on policy"](file[1])
    policy = on.explore(on.init(PROBLEM, 5, jax.random.key(0)))
    quiet = eqx.tree_at(lambda p: p.second.factor, policy, jnp.zeros_like(policy.second.factor))
    rollouts = LinearQuadratic().world().rollout(quiet, 2, jax.random.key(1))
    wanted = [file[0].mean(t, x, x) for t, x in enumerate(rollouts.x[0, 0, :-1])]
    np.testing.assert_allclose(rollouts.u[0, 0], wanted, rtol=1e-12)


def test_a_run_keeps_a_copy_and_goes_on_with_it(file, tmp_path):
    task, algorithm = LinearQuadratic(), ALGORITHMS["mdgps"](file[1])
    spec = Spec.of(("lq", task), ("mdgps", algorithm), rollouts=8, iterations=2, seeds=[0], checkpoint_every=2)
    run = Run.create(tmp_path / "run", spec)
    (tmp_path / "net.safetensors").unlink()
    with pytest.warns(UserWarning, match="the copy in"):
        _, again, _ = assemble(spec, run.path)
    state = again.init(PROBLEM, 5, jax.random.key(0))
    np.testing.assert_array_equal(acts(again.exploit(state)), acts(file[0]))


def test_what_does_not_fit_is_said(file, tmp_path):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"net.safetensors: its network has 4 inputs .* and 2 outputs; .* and 1\."):
        Network(start=file[1]).policy(CartPole().problem(), key)
    with pytest.raises(ValueError, match=r"need 5 \(time among them: True\)"):
        Network(start=file[1], time=True).policy(PROBLEM, key)
    with pytest.raises(ValueError, match=r"and 2 outputs; .* and 4\."):
        Network(start=file[1], covariance="state").policy(PROBLEM, key)
    controllers = pf.LQRGPS().exploit(pf.LQRGPS().init(PROBLEM, 20, key))
    controllers.save(tmp_path / "local.safetensors", PROBLEM)
    with pytest.raises(ValueError, match="a network is wanted"):
        Network(start=str(tmp_path / "local.safetensors")).policy(PROBLEM, key)
    with pytest.raises(ValueError, match=r"nothing\.safetensors"):
        Network(start=str(tmp_path / "nothing.safetensors")).policy(PROBLEM, key)
    assert DAgger(policy=Network(start=file[1])).files == (file[1],)
