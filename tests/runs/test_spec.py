"""A specification becomes the same objects again, and nothing that its annotations do not name."""

import json
import math

import equinox as eqx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotfish import algorithms, experiments, tasks
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.moto import MOTO
from pilotfish.models.dynamics import FittedDynamics
from pilotfish.registry import ALGORITHMS, TASKS
from pilotfish.runs import RunError, RunWarning
from pilotfish.runs.spec import Spec, built, described
from pilotfish.runs.store import Run
from pilotfish.tasks.model import ModelTask


class Leaf(eqx.Module):
    number: float = 1.0
    word: str = "a"


class Other(Leaf):
    count: int = 3


class Tree(eqx.Module):
    leaf: Leaf = Leaf()
    either: Leaf | float = 0.0
    many: tuple[float, ...] = ()
    pairs: tuple[tuple[float, float], ...] = ()
    flag: bool = True
    perhaps: int | None = None


numbers = st.floats(allow_nan=False)
leaves = st.builds(Leaf, numbers, st.text()) | st.builds(Other, numbers, st.text(), st.integers())
trees = st.builds(
    Tree,
    leaves,
    leaves | numbers,
    st.lists(numbers).map(tuple),
    st.lists(st.tuples(numbers, numbers)).map(tuple),
    st.booleans(),
    st.none() | st.integers(),
)


def through_json(module):
    return built(type(module), json.loads(json.dumps(described(module), allow_nan=False)))


def fields(module):
    """All fields, of all parts, with their types."""
    return [
        (name, type(value), fields(value) if isinstance(value, eqx.Module) else value)
        for name, value in vars(module).items()
    ]


@given(trees)
@settings(max_examples=200, deadline=None)
def test_any_tree_comes_back_as_it_was(tree):
    assert fields(through_json(tree)) == fields(tree)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_comes_back(name):
    task = tasks.find(name).make()
    assert fields(through_json(task)) == fields(task)


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_algorithm_comes_back_as_it_is_set_up(name):
    for task in TASKS:
        algorithm = experiments.setup(task, name).algorithm
        assert fields(through_json(algorithm)) == fields(algorithm)
    assert isinstance(algorithms.registry()[name].make(), type(algorithm))


def test_parts_are_stored_with_their_class_and_infinity_as_a_word():
    stored = described(LQRGPS(dynamics=FittedDynamics(prior="gmm"), kl_step=math.inf))
    assert stored["dynamics"] == {
        "class": "FittedDynamics",
        "prior": "gmm",
        "clusters": 20,
        "samples_per_cluster": 40,
        "memory": 20,
        "excess": "inf",
        "learned": {
            "class": "LearnedDynamics",
            "memory": 3000,
            "nearest": 1000,
            "points": 500,
            "sample": 200,
            "steps": 30,
        },
    }
    assert stored["kl_step"] == "inf"


def test_what_cannot_be_stored_is_named():
    with pytest.raises(ValueError, match=r"leaf\.number=<function"):
        described(Tree(Leaf(number=max and (lambda: 0))))
    with pytest.raises(ValueError, match=r"many\[1\]=\{"):
        described(Tree(many=(1.0, {})))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"leaf": {"class": "os.system", "number": 1.0, "word": "a"}},
            r"leaf\.class is 'os\.system'.*known here: Leaf",
        ),
        ({"leaf": {"class": "Leaf", "number": 1.0}}, r"leaf\.word: missing in the run.*, and Leaf has it"),
        ({"colour": 3}, "colour is 3 .*Tree has no such field"),
        ({"class": "Shrub"}, "class is 'Shrub'"),
    ],
)
def test_what_is_not_known_here_is_refused_by_name(change, words):
    with pytest.raises(RunError, match=words):
        built(Tree, described(Tree()) | change)


MODEL = """<mujoco><asset><mesh name="m" file="{}"/></asset><worldbody>
<body><joint name="x" type="slide"/><geom type="mesh" mesh="m" mass="1"/></body></worldbody>
<actuator><motor joint="x"/></actuator></mujoco>"""
TETRAHEDRON = "v 0 0 0\nv .1 0 0\nv 0 .1 0\nv 0 0 .1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


@pytest.mark.parametrize("absolute", [False, True])
def test_copies_are_a_task_only_where_they_are_all_of_it(tmp_path, absolute):
    (tmp_path / "stone.obj").write_text(TETRAHEDRON)
    (tmp_path / "m.xml").write_text(MODEL.format(tmp_path / "stone.obj" if absolute else "stone.obj"))
    (tmp_path / "cost.py").write_text("def cost(x, u, t):\n    return x[0] ** 2\n")
    model = str(tmp_path / "m.xml")
    task = ModelTask(model, str(tmp_path / "cost.py"), horizon=3)
    spec = Spec.of((model, task), ("moto", MOTO()), rollouts=9, iterations=1, seeds=[0], checkpoint_every=1)
    run = Run.create(tmp_path / "run", spec)
    (tmp_path / "m.xml").unlink()
    if absolute:
        with pytest.raises(RunError, match=r"stone\.obj belongs to the task and not to the run.*relative paths"):
            run.assemble()
    else:
        with pytest.warns(RunWarning, match="the copy in"):
            assert run.assemble()[0].problem().dx == 2
