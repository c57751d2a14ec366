"""The door of the library, as who writes Python meets it: names, help, types, policies that act and are kept."""

import dataclasses
import doctest
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pilotfish as pf
from pilotfish.manual import fields, of_class
from pilotfish.policies.episodic import ContextualPolicy, EpisodicPolicy, Skill
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.policies.network import Network
from pilotfish.runs import callbacks
from pilotfish.runs.loop import Report
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.types import Gaussian, LinearGaussian, Outcome, Problem

STATE = [1.0, -0.5, 0.0, 0.0]


def controllers(n=1, T=5, dx=2):
    rng = np.random.default_rng(0)
    shapes = (n, T, 1, dx), (n, T, 1), (n, T, 1, 1)
    return LinearGaussian(*(jnp.asarray(rng.normal(size=shape)) for shape in shapes))


@pytest.fixture(scope="module")
def world():
    return LinearQuadratic().world()


@pytest.fixture(scope="module")
def result(world):
    return pf.train(pf.LQRGPS(), world, rollouts=20, iterations=3, seeds=[4, 2])


def test_dir_shows_what_there_is_without_importing_it():
    code = "import pilotfish as pf, sys; names = dir(pf); assert 'jax' not in sys.modules; print(*names)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name for name in done.stdout.split() if not name.startswith("__")} == set(pf.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'moto'"):
        _ = pf.moto


@pytest.mark.parametrize("name", pf.__all__)
def test_help_says_what_a_name_and_each_of_its_fields_is(name):
    found = getattr(pf, name)
    said = inspect.getdoc(found)
    assert said
    if not isinstance(found, type):
        return
    kept = of_class(found)
    for field, written in kept.items():
        assert written.words, f"{name}.{field} is not described"
        assert f"\n{field}: {written.kind}" in said
    if dataclasses.is_dataclass(found):
        assert kept.keys() >= {field.name for field in dataclasses.fields(found) if not field.name.startswith("_")}


def test_fields_are_read_as_they_are_written(tmp_path):
    (tmp_path / "a.py").write_text(
        'How = Literal["a", "b"]\nclass A:\n    one: How = "a"\n    """First\n    line."""\n'
        "    two: int = eqx.field(static=True, default=3)\n    part: B = eqx.field(default_factory=lambda: B(1))\n"
        "    kind: ClassVar[int] = 0\n    bare: float\n"
    )
    assert {name: tuple(one) for name, one in fields(tmp_path / "a.py", "A").items()} == {
        "one": ("Literal['a', 'b']", "'a'", "First line."),
        "two": ("int", "3", ""),
        "part": ("B", "B(1)", ""),
        "bare": ("float", "", ""),
    }
    assert fields(tmp_path / "a.py", "B") == {}


@pytest.mark.slow
def test_the_documentation_is_true(tmp_path):
    path = Path(__file__).parent.parent / "docs" / "python.md"
    found = doctest.testfile(str(path), module_relative=False, globs={"folder": str(tmp_path)})
    assert found.attempted > 15
    assert found.failed == 0
    policies = {path.name for path in (tmp_path / "kept").iterdir()}
    assert policies == {f"policy-00000{i}-seed{seed}.safetensors" for i in (2, 4) for seed in (0, 1)}


USER = """
import pilotfish as pf
from pilotfish.tasks.cartpole import CartPole

task = CartPole(force=10.0)
result = pf.train(pf.MOTO(kl_step=0.1), task.world(), rollouts=30, iterations=2, callbacks=[pf.Progress()])
result.policy.predict([0.0, 1.0, 2.0, 3.0], t=0)
result.policy.save("a.safetensors", task.problem())
reveal_type(pf.load_policy("a.safetensors"))
reveal_type(pf.Run.create("a", pf.Run.open("b").spec))
pf.MOTO(klstep=0.1)
"""


@pytest.mark.slow
def test_a_type_checker_knows_the_types(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    words = ["pyright", "--outputjson", "--pythonpath", sys.executable, str(tmp_path / "user.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    said = [(one["severity"], one["message"]) for one in json.loads(done.stdout)["generalDiagnostics"]]
    assert [kind for kind, _ in said] == ["information", "information", "error"], said
    assert [message.split()[-1] for kind, message in said[:2]] == ['"Policy"', '"Run"']
    assert "klstep" in said[2][1]


# -- policies that act on a bare state


def test_a_policy_of_one_condition_acts_on_a_bare_state():
    p = controllers()
    policy = LinearGaussianPolicy(p)
    x, t = np.array([[0.3, -1.0], [2.0, 0.5]]), np.array([0, 4])
    expected = np.einsum("tij,tj->ti", p.K[0, t], x) + p.k[0, t]
    np.testing.assert_allclose(policy.predict(x, t), expected, rtol=1e-12)
    np.testing.assert_allclose(policy.predict(x[1], 4), expected[1], rtol=1e-12)
    np.testing.assert_allclose(policy.predict(list(x[0])), expected[0], rtol=1e-12)
    assert policy.predict(x[0], [[0, 1, 2]]).shape == (1, 3, 1)


def test_one_of_several_controllers_is_chosen():
    p = controllers(n=3)
    np.testing.assert_allclose(
        LinearGaussianPolicy(p).predict([1.0, 2.0], 1, condition=2), p.K[2, 1] @ jnp.array([1.0, 2.0]) + p.k[2, 1]
    )


def test_a_network_acts_on_what_it_observes():
    problem = Problem(5, 0.1, Gaussian(jnp.zeros((1, 2)), jnp.zeros((1, 2, 2))), [1.0], cost=lambda x, u, t: x[0])
    key = jax.random.key(0)
    seen = np.array([0.2, 0.7])
    plain, timed = Network(width=4).policy(problem, key), Network(width=4, time=True).policy(problem, key)
    np.testing.assert_allclose(plain.predict(seen), plain.mean(0, jnp.asarray(seen), jnp.asarray(seen)), rtol=1e-12)
    np.testing.assert_allclose(
        plain.predict([9.0, 9.0, 9.0], o=seen), plain.mean(0, jnp.asarray(seen), jnp.asarray(seen)), rtol=1e-12
    )
    np.testing.assert_array_equal(plain.predict(seen, 900), plain.predict(seen, 0))
    assert timed.predict(seen, 4) != timed.predict(seen, 0)
    with pytest.raises(ValueError, match=r"t=5: steps are whole numbers, from 0 to 4"):
        timed.predict(seen, 5)


def test_a_policy_that_follows_its_start_must_be_told_of_it():
    rng = np.random.default_rng(1)
    K, k, J = (jnp.asarray(rng.normal(size=(5, 1, *shape))) for shape in ((2,), (), (3,)))
    search = LinearGaussian(jnp.ones((3, 2)), jnp.zeros(3), jnp.eye(3))
    policy = ContextualPolicy(search, jnp.zeros(2), Skill(K, k, J))
    start, x = jnp.array([0.5, 0.1]), jnp.array([1.0, 2.0])
    expected = K[2] @ x + k[2] + J[2] @ (search.K @ start)
    np.testing.assert_allclose(policy.predict(x, 2, start=start), expected, rtol=1e-12)
    np.testing.assert_array_equal(policy.predict(start), policy.predict(start, 0, start=start))
    with pytest.raises(ValueError, match="start=None at t=2: this policy follows what it observed at step 0"):
        policy.predict(x, 2)
    episodic = EpisodicPolicy(jnp.ones((1, 3)), jnp.eye(3)[None], Skill(K[None], k[None], J[None]))
    np.testing.assert_allclose(episodic.predict(x, 2), K[2] @ x + k[2] + J[2].sum(-1), rtol=1e-12)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"x": [1.0]}, r"x has the shape \(1,\): this policy acts on 2 numbers"),
        ({"x": np.ones((2, 3))}, r"x has the shape \(2, 3\)"),
        ({"x": 1.0}, r"x=1.0: give an array \(2,\)"),
        ({"x": [1.0, np.nan]}, "finite numbers"),
        ({"t": 5}, "t=5: steps are whole numbers, from 0 to 4"),
        ({"t": -1}, "t=-1: steps"),
        ({"t": 0.5}, "t=0.5: steps"),
        ({"condition": 1}, "condition=1: this policy has 1, one for each condition: leave it out"),
    ],
)
def test_what_no_policy_can_act_by_is_refused_in_words(told, words):
    with pytest.raises(ValueError, match=words):
        LinearGaussianPolicy(controllers()).predict(**{"x": [0.0, 0.0]} | told)


def test_one_of_several_must_be_named():
    with pytest.raises(
        ValueError, match=r"condition=None: this policy has 3.* say which of the controllers acts, 0 to 2"
    ):
        LinearGaussianPolicy(controllers(n=3)).predict([0.0, 0.0])


def test_saved_and_loaded_it_acts_alike_and_within_bounds(tmp_path):
    from pilotfish import acting

    policy, problem = (
        LinearGaussianPolicy(controllers()),
        Problem(
            5, 0.1, Gaussian(jnp.zeros((1, 2)), jnp.zeros((1, 2, 2))), [1.0], cost=lambda x, u, t: x[0], action_high=0.1
        ),
    )
    path = policy.save(str(tmp_path / "new" / "a.safetensors"), problem)
    x = np.array([3.0, -2.0])
    np.testing.assert_array_equal(pf.load_policy(str(path)).predict(x, 1), policy.predict(x, 1))
    clipped = np.minimum(policy.predict(x, 1), 0.1)
    np.testing.assert_allclose(acting.load(path)(1, x), clipped, rtol=1e-12)
    bare = policy.save(tmp_path / "b.safetensors")
    np.testing.assert_allclose(acting.load(bare)(1, x), policy.predict(x, 1), rtol=1e-12)
    assert policy.save(tmp_path / "a.onnx", problem).stat().st_size > 100
    with pytest.raises(ValueError, match="an ONNX model clips its actions, so give the problem"):
        policy.save(tmp_path / "b.onnx")
    with pytest.raises(ValueError, match=r"choose a name that ends in .safetensors, .onnx"):
        policy.save(tmp_path / "a.pt")


# -- what training leaves, and what it tells meanwhile


def test_the_best_seed_acts_as_on_the_command_line(result):
    found = result.evaluate()
    best = [4, 2][int(np.argmin(found.cost))]
    assert result.best_seed == best == found.best_seed
    np.testing.assert_array_equal(result.policy.predict(STATE), result.policy_of(best).predict(STATE))
    other = 6 - best
    assert (result.policy_of(other).predict(STATE) != result.policy.predict(STATE)).any()
    with pytest.raises(ValueError, match="seed=7: choose one of 4, 2"):
        result.policy_of(7)
    with pytest.raises(ValueError, match="rollouts=0"):
        result.evaluate(0)


def test_a_callback_that_says_false_ends_the_training_there(world, tmp_path):
    turns, words = [], {"rollouts": 20, "iterations": 4, "seeds": [4, 2]}

    def stop(turn):
        turns.append(turn)
        return turn.i < 1

    result = pf.train(pf.LQRGPS(), world, **words, callbacks=[stop, lambda turn: None])
    assert [turn.i for turn in turns] == [0, 1]
    assert result.metrics["cost"].shape == (2, 2)
    turn = turns[-1]
    assert (turn.iterations, turn.seeds) == (4, [4, 2])
    np.testing.assert_array_equal(turn.metrics["cost"], result.metrics["cost"][:, -1])
    np.testing.assert_array_equal(turn.policy(2).predict(STATE), result.policy_of(2).predict(STATE))
    run = pf.Run.create(str(tmp_path / "run"), pf.Spec({}, {}, 20, 4, [4, 2], 100))
    pf.train(pf.LQRGPS(), world, **words, run=run, callbacks=[stop])
    assert run.done() == 2
    whole = pf.train(pf.LQRGPS(), world, **words)
    resumed = pf.train(pf.LQRGPS(), world, **words, run=run)
    np.testing.assert_array_equal(resumed.metrics["cost"], whole.metrics["cost"])


def test_ready_made_callbacks_keep_test_and_tell(world, result, tmp_path, capsys):
    keep, test = pf.Checkpoint(tmp_path / "kept", every=2), pf.EvaluateEvery(world, every=2, episodes=5)
    words = {"rollouts": 20, "iterations": 3, "seeds": [4, 2]}
    pf.train(pf.LQRGPS(), world, **words, callbacks=[keep, test, pf.Progress(every=2)])
    names = [f"policy-00000{i}-seed{seed}.safetensors" for i in (2, 3) for seed in (2, 4)]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == names
    last = pf.load_policy(tmp_path / "kept" / "policy-000003-seed2.safetensors")
    np.testing.assert_array_equal(last.predict(STATE), result.policy_of(2).predict(STATE))
    assert [found.iteration for found in test.found] == [2, 3]
    np.testing.assert_allclose(test.found[-1].cost, result.evaluate(5).cost, rtol=1e-6)
    assert np.isnan(test.found[-1].success).all()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["2/3", "3/3"]
    assert "success" not in lines[0]


class Info(NamedTuple):
    ok: np.ndarray


def test_training_stops_when_every_seed_succeeds_often_enough(world):
    able = dataclasses.replace(world, problem=dataclasses.replace(world.problem, success=lambda x, u: x[-1, 0] > 0))

    def said(rates, world=able):
        """A turn of which only success is known."""
        info = Info(np.ones((2, 1), bool))
        return pf.Turn(
            0, None, None, Report(Outcome(*np.zeros((2, 2)), np.array(rates), *np.ones((3, 2))), info), None, world, 9
        )

    stop = pf.StopAtSuccess(0.5, in_a_row=2)
    rates = [[0.6, 0.4], [0.6, 0.5], [0.4, 0.9], [0.5, 0.5], [1.0, 1.0]]
    assert [stop(said(one)) for one in rates] == [True, True, True, True, False]
    with pytest.raises(ValueError, match="defines no success"):
        stop(said([1.0, 1.0], world))
    test = pf.EvaluateEvery(able)
    stop = pf.StopAtSuccess(0.5, test=test)
    assert stop(said([1.0, 1.0]))
    test.found.append(callbacks.Tested(1, np.zeros(2), np.array([0.5, 0.5])))
    assert not stop(said([0.0, 0.0]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pf.Checkpoint("a", every=0), "every=0"),
        (lambda: pf.Progress(every=0), "every=0"),
        (lambda: pf.StopAtSuccess(90.0), "level=90.0: give a part of the episodes"),
        (lambda: pf.StopAtSuccess(0.9, in_a_row=0), "in_a_row=0"),
        (lambda: pf.EvaluateEvery(LinearQuadratic().world(), episodes=0), "episodes=0"),
    ],
)
def test_bad_callbacks_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
