"""What every kind of policy must do: in every world, alone and batched, stored and loaded, and without jax."""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from dear import mostly_slow
from jaxtyping import Array
from oracles import point_mass

from pilotfish import acting, testing
from pilotfish.policies import files, kinds, of_condition, onnx, over_conditions
from pilotfish.policies.either import Either
from pilotfish.policies.episodic import ContextualPolicy, EpisodicPolicy, Skill
from pilotfish.policies.gaussian import GaussianPolicy
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.policies.network import Network
from pilotfish.runs.store import write_tensors
from pilotfish.types import Gaussian, LinearGaussian, Problem
from pilotfish.worlds.host import HostWorld, PlantWorld
from pilotfish.worlds.jax import JaxWorld
from pilotfish.worlds.mujoco import MujocoWorld
from pilotfish.worlds.plant import EquationsPlant

N, M, T = 2, 3, 6
KEY = jax.random.key(3)


def see_the_place(x):
    return x[:1]


def cost(x, u, t):
    return (x**2).sum() + 0.1 * (u**2).sum()


def ahead(x, u):
    return jnp.stack([x[0] + 0.02 * x[1], x[1] + 0.03 * u[0]])


def problem(observe=see_the_place):
    """A mass on a line, from two places; only where it is can be seen."""
    return Problem(
        horizon=T,
        dt=0.02,
        conditions=Gaussian(jnp.array([[1.0, 0.0], [-0.5, 0.2]]), jnp.broadcast_to(0.01 * jnp.eye(2), (N, 2, 2))),
        initial_std=[0.5],
        cost=cost,
        dynamics=ahead,
        action_low=-2.0,
        action_high=[2.0],
        observe=observe,
    )


def controllers():
    rng = np.random.default_rng(0)
    K, k, chol = rng.normal(size=(N, T, 1, 2)), rng.normal(size=(N, T, 1)), rng.uniform(0.1, 1.0, (N, T, 1, 1))
    return LinearGaussian(*map(jnp.asarray, (K, k, chol)))


def network(**how):
    policy = Network(**{"width": 5, "depth": 2, "activation": "tanh"} | how).policy(problem(), jax.random.key(1))
    whitening = jnp.linspace(0.3, 0.6, len(policy.shift)), jnp.linspace(2.0, 0.4, len(policy.shift))
    return eqx.tree_at(lambda p: (p.shift, p.scale), policy, whitening)


class Cubic(eqx.Module):
    """A network of nobody's here: its outputs are two cubic functions."""

    coefficients: Array
    power: int = 3

    def __call__(self, s):
        return self.coefficients @ s ** jnp.arange(1, self.power + 1)


class CubicNetwork(Network):
    def layers(self, inputs, outputs, key):
        return Cubic(jax.random.normal(key, (outputs, 3)))


def own(**how):
    policy = CubicNetwork(**how).policy(problem(), jax.random.key(1))
    outside = jnp.array([0.3]), jnp.array([2.0]), jnp.array([0.1]), jnp.array([0.4])
    return eqx.tree_at(lambda p: (p.shift, p.scale, p.centre, p.spread), policy, outside)


def skill(n):
    rng = np.random.default_rng(4)
    return Skill(*(jnp.asarray(rng.normal(size=(n, T, 1, *shape))) for shape in ((2,), (), (3,))))


def search(n):
    """Mean and factor of three parameters."""
    rng = np.random.default_rng(5)
    return jnp.asarray(rng.normal(size=(n, 3))), jnp.asarray(np.tril(rng.uniform(0.2, 1.0, (n, 3, 3))))


POLICIES = {
    "linear-gaussian": lambda: LinearGaussianPolicy(controllers()),
    "linear-gaussian, smooth": lambda: LinearGaussianPolicy(controllers(), 1.5),
    "network": network,
    "network, relu": lambda: network(activation="relu", depth=1),
    "network, softplus, smooth": lambda: eqx.tree_at(
        lambda p: p.factor, network(activation="softplus"), jnp.array([[0.7]])
    ),
    "network, time": lambda: network(time=True),
    "linear network": lambda: network(depth=0),
    "network, noise by state": lambda: network(covariance="state"),
    "own network": own,
    "own network, noise by state": lambda: own(covariance="state"),
    "episodic": lambda: EpisodicPolicy(*search(N), skill(N)),
    "contextual": lambda: ContextualPolicy(
        LinearGaussian(jnp.array([[0.5], [-0.2], [0.1]]), *jax.tree.map(lambda a: a[0], search(1))),
        jnp.array([0.3]),
        jax.tree.map(lambda leaf: leaf[0], skill(1)),
    ),
    "either": lambda: Either.of(LinearGaussianPolicy(controllers()), network(), jnp.array([0.3, 0.7]), T),
}


class OneMass(EquationsPlant):
    """A plant of which there is only one."""

    def place(self, x, conditions, randoms):
        assert x.shape == (1, 2)
        return super().place(x, conditions, randoms)


WORLDS = {
    "jax": lambda: JaxWorld(problem()),
    "mujoco": lambda: MujocoWorld(problem(), mujoco.MjModel.from_xml_string(point_mass.MJCF)),
    "plant": lambda: PlantWorld(problem(), OneMass(problem(), 1)),
}


VARIANTS = {
    "linear-gaussian, smooth",
    "network, relu",
    "network, softplus, smooth",
    "linear network",
    "network, noise by state",
    "own network, noise by state",
}
"""Of a kind that is tested in any case."""


def marked(names):
    return mostly_slow(names, always=set(POLICIES) - VARIANTS)


def pairs():
    """Of policies and worlds; slow but for each policy in one world, and one policy in each."""
    dear = {(p, w) for p in POLICIES for w in WORLDS if p in VARIANTS or (w != "jax" and p != "linear-gaussian")}
    return [
        pytest.param(p, w, marks=pytest.mark.slow if (p, w) in dear else (), id=f"{p}-{w}")
        for w in WORLDS
        for p in POLICIES
    ]


@pytest.fixture(params=marked(POLICIES))
def policy(request):
    return POLICIES[request.param]()


NOT_GAUSSIAN = ("either", "episodic", "contextual")


@pytest.fixture(params=marked(name for name in POLICIES if name not in NOT_GAUSSIAN))
def gaussian_policy(request):
    """A policy that without noise is a function of what it sees."""
    return POLICIES[request.param]()


@pytest.fixture(params=marked(name for name in POLICIES if not name.startswith(("own", "either", "episodic"))))
def plain_policy(request):
    """One that can act without the code that made it."""
    return POLICIES[request.param]()


@pytest.fixture(scope="module", params=WORLDS)
def world(request):
    return WORLDS[request.param]()


def equal(a, b):
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in leaves)


def test_every_kind_is_here():
    ours = {name for name, kind in kinds().items() if kind.__module__.startswith("pilotfish.")}
    assert {make().kind for make in POLICIES.values()} == ours


@pytest.mark.parametrize(("policy", "world"), pairs(), indirect=True)
def test_acts_in_every_world(policy, world):
    """The actions of a rollout are those of the policy in the rollout's states, by its own episode."""
    testing.check_policy(policy, problem(), world, M)
    rollouts = world.rollout(policy, M, KEY)
    assert rollouts.o.shape == (N, M, T + 1, 1)
    assert rollouts.valid.all()
    np.testing.assert_array_equal(rollouts.o, rollouts.x[..., :1])


def test_predicts_what_it_does_without_noise(gaussian_policy):
    """One by one, and many at once."""
    rollouts = JaxWorld(problem()).rollout(gaussian_policy.noise_free(), 1, KEY)
    for n in range(N):
        x, o, u = (np.asarray(a[n, 0, :T]) for a in (rollouts.x, rollouts.o, rollouts.u))
        np.testing.assert_allclose(gaussian_policy.predict(x, np.arange(T), o=o, condition=n), u, rtol=1e-12)
        np.testing.assert_allclose(gaussian_policy.predict(x[2], 2, o=o[2], condition=n), u[2], rtol=1e-12)


def test_begins_where_the_rollout_begins(world):
    """`begin` is told of the very state and observation in which the rollout starts."""

    class Told(LinearGaussianPolicy):
        def begin(self, key, x0, o0):
            return jnp.concatenate([x0, o0])

        def act(self, episode, t, x, o):
            return jnp.zeros(1)

    rollouts = world.rollout(Told(controllers()), M, KEY)
    np.testing.assert_array_equal(rollouts.episode[..., :2], rollouts.x[:, :, 0])
    np.testing.assert_array_equal(rollouts.episode[..., 2:], rollouts.o[:, :, 0])


def test_chance_alone_decides_which_of_two_acts():
    """Who acts in a step is drawn for it, as often as `chance` says."""
    first, second = LinearGaussianPolicy(controllers()).noise_free(), network().noise_free()
    policy = Either.of(first, second, jnp.array([0.3, 0.7]), T)
    rollouts = JaxWorld(problem()).rollout(policy, 500, KEY)

    def both(own, x, o):
        return jax.vmap(jax.vmap(own.mean), (None, 0, 0))(jnp.arange(T), x, o)

    at = rollouts.x[:, :, :-1], rollouts.o[:, :, :-1]
    by_first, by_second = (np.isclose(over_conditions(both, own, *at), rollouts.u)[..., 0] for own in (first, second))
    assert (by_first ^ by_second).all()
    np.testing.assert_allclose(by_second.mean(1), np.broadcast_to([[0.3], [0.7]], (N, T)), atol=0.08)
    never = JaxWorld(problem()).rollout(Either.of(first, second, jnp.zeros(N), T), M, KEY)
    assert np.isclose(over_conditions(both, first, never.x[:, :, :-1], never.o[:, :, :-1]), never.u).all()


def test_compiled_is_as_on_the_host(policy):
    world = JaxWorld(problem())
    compiled = eqx.filter_jit(lambda policy, key: world.rollout(policy, M, key))(policy, KEY)
    np.testing.assert_allclose(compiled.u, world.rollout(policy, M, KEY).u, rtol=1e-12, atol=1e-12)


def test_alone_is_as_among_others(policy):
    """One condition's rollouts do not depend on the others."""
    both = JaxWorld(problem()).rollout(policy, M, KEY)
    mean, cov = problem().conditions.mean, problem().conditions.cov
    keys = jax.random.split(KEY, (N, M))
    for n in range(N):
        world = JaxWorld(eqx.tree_at(lambda p: p.conditions, problem(), Gaussian(mean[n : n + 1], cov[n : n + 1])))
        alone = jax.vmap(lambda key, n=n, world=world: world._episode(of_condition(policy, n), world_start(n), key))(
            keys[n]
        )
        np.testing.assert_allclose(alone.u, both.u[n], rtol=1e-12, atol=1e-12)


def world_start(n):
    return jax.tree.map(lambda leaf: leaf[n], problem().conditions)


def test_noise_free_has_the_mean_and_no_noise(gaussian_policy):
    silent = gaussian_policy.noise_free()
    world = JaxWorld(problem())
    one, two = (world.rollout(silent, 1, key) for key in jax.random.split(KEY))
    x0 = one.x[:, 0, 0]

    def first(own, x):
        return own.mean(0, x, see_the_place(x))

    np.testing.assert_allclose(one.u[:, 0, 0], over_conditions(first, gaussian_policy, x0), rtol=1e-12)
    assert not equal(one.x, two.x)  # the starts differ


def test_stored_and_loaded_acts_to_the_bit(policy):
    for world in (JaxWorld(problem()), WORLDS["mujoco"]()):
        testing.check_policy_stored(policy, problem(), world, M)


def test_acts_in_numpy_as_on_the_host(plain_policy, tmp_path):
    write_tensors(tmp_path / "policy.safetensors", *files.packed(plain_policy, problem()))
    act = acting.load(tmp_path / "policy.safetensors")
    rollouts = WORLDS["mujoco"]().rollout(plain_policy.noise_free(), M, KEY)
    seen = rollouts.x if plain_policy.per_condition or plain_policy.needs.start else rollouts.o
    for n, m, t in np.ndindex(N, M, T):
        u = act(t, np.asarray(seen[n, m, t]), condition=n, start=np.asarray(rollouts.o[n, m, 0]))
        np.testing.assert_allclose(u, np.clip(rollouts.u[n, m, t], -2, 2), rtol=1e-12, atol=1e-14)


def test_acts_in_onnxruntime_as_in_numpy(plain_policy, tmp_path):
    """Also far outside the bounds, far from 0, and many at once."""
    import onnxruntime

    packed = files.packed(plain_policy, problem())
    write_tensors(tmp_path / "policy.safetensors", *packed)
    act, session = acting.load(tmp_path / "policy.safetensors"), onnxruntime.InferenceSession(onnx.written(*packed))
    assert session.get_modelmeta().custom_metadata_map == packed[1]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 2)) * 10 ** rng.uniform(-3, 6, (50, 1))
    t, condition, start = rng.integers(0, T, 50), rng.integers(0, N, 50), rng.normal(size=(50, 1))
    known = {"x": x, "o": x[:, :1], "t": t, "condition": condition, "start": start}
    asked = [entering.name for entering in session.get_inputs()]
    (u,) = session.run(["u"], {name: known[name] for name in asked})
    seen = known["x" if "x" in asked else "o"]
    expected = [act(int(t[i]), seen[i], condition=int(condition[i]), start=start[i]) for i in range(50)]
    np.testing.assert_allclose(u, expected, rtol=1e-9, atol=1e-12)
    assert (np.abs(u) <= 2).all()


def test_without_jax_a_contextual_search_asks_what_was_observed_at_the_start(tmp_path):
    write_tensors(tmp_path / "policy.safetensors", *files.packed(POLICIES["contextual"](), problem()))
    with pytest.raises(ValueError, match="start: this policy follows what was observed at the episode's start"):
        acting.load(tmp_path / "policy.safetensors")(0, np.zeros(2))


def test_what_only_its_own_code_can_make_is_told_apart(tmp_path):
    path, mine = tmp_path / "policy.safetensors", own()
    write_tensors(path, *files.packed(mine, problem()))
    with pytest.raises(ValueError, match=r"a network of somebody's own class. Give a policy that is made alike"):
        files.load(path)
    with pytest.raises(ValueError, match="of the kind 'own-network'; without jax act"):
        acting.load(path)
    with pytest.raises(ValueError, match="of the kind 'own-network' cannot be written as ONNX"):
        onnx.written(*files.packed(mine, problem()))
    with pytest.raises(ValueError, match=r"is damaged.*net_0 has the shape \(1, 3\), and here \(2, 3\)"):
        files.load(path, like=own(covariance="state"))

    class Wide(Network):
        def layers(self, inputs, outputs, key):
            return Cubic(jnp.zeros((7, 3)))

    with pytest.raises(
        ValueError, match=r"Wide\.layers\(1, 1, key\).* gives \(7,\); it must give an array of shape \(1,\)"
    ):
        Wide().policy(problem(), KEY)


def test_what_onnx_cannot_hold_is_refused(monkeypatch):
    tensors, words = files.packed(POLICIES["either"](), problem())
    with pytest.raises(ValueError, match="of the kind 'either' cannot be written as ONNX"):
        onnx.written(tensors, words)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ValueError, match=r"pip install 'pilotfish\[onnx\]'"):
        onnx.written(*files.packed(network(), problem()))


def test_density_entropy_and_divergence(gaussian_policy):
    """By Monte Carlo over the policy's own actions, and SciPy's density."""
    from scipy.stats import multivariate_normal

    assert isinstance(gaussian_policy, GaussianPolicy)
    own, x = of_condition(gaussian_policy, 1), jnp.array([0.4, -0.1])
    at = (2, x, see_the_place(x))
    mean, chol = np.asarray(own.mean(*at)), np.asarray(own.chol(*at))
    law = multivariate_normal(mean, chol @ chol.T)
    u = mean + np.random.default_rng(0).normal(size=(20_000, 1)) @ chol.T
    log_density = np.asarray(jax.vmap(lambda u: own.log_density(u, *at))(jnp.asarray(u)))
    np.testing.assert_allclose(log_density, law.logpdf(u), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(own.entropy(*at), law.entropy(), rtol=1e-9)
    other = of_condition(LinearGaussianPolicy(controllers()), 0)
    other_law = multivariate_normal(np.asarray(other.mean(*at)), np.asarray(other.chol(*at)) ** 2)
    np.testing.assert_allclose(own.kl(other, *at), (law.logpdf(u) - other_law.logpdf(u)).mean(), rtol=0.1, atol=0.02)


def test_what_is_no_policy_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="there is no such file"):
        files.load(tmp_path / "none.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"noise\.safetensors is no file of tensors, or damaged"):
        files.load(tmp_path / "noise.safetensors")
    tensors, meta = files.packed(network(), problem())
    write_tensors(tmp_path / "other.safetensors", tensors, meta | {"policy": "oracle"})
    with pytest.raises(ValueError, match=r"of the kind 'oracle'; known here are .*linear-gaussian, network"):
        files.load(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="of the kind 'oracle'"):
        acting.load(tmp_path / "other.safetensors")
    write_tensors(tmp_path / "part.safetensors", {"chol": tensors["chol"]}, meta)
    with pytest.raises(ValueError, match="is damaged"):
        files.load(tmp_path / "part.safetensors")


def test_bad_networks_are_refused():
    with pytest.raises(ValueError, match="width=0"):
        Network(width=0)
    with pytest.raises(ValueError, match="depth=-1"):
        Network(depth=-1)


def test_a_robot_runs_one_episode_after_the_other():
    world, ended = WORLDS["plant"](), []
    assert isinstance(world, HostWorld)
    rollouts = world.rollout(POLICIES["network"](), M, KEY, lambda n, m, rollout: ended.append((n, m, rollout)))
    assert [at[:2] for at in ended] == [(n, m) for n in range(N) for m in range(M)]
    for n, m, rollout in ended:
        assert equal(rollout, jax.tree.map(lambda leaf, at=(n, m): leaf[at], rollouts))
    with pytest.raises(ValueError, match="there is one OneMass"):
        world.plant(2)
