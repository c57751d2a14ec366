"""MuJoCo models with mistakes: a task, or refused in words; never another exception."""

import xml.etree.ElementTree as ET
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from fuzz.chance import cases, counts
from pilotfish.runs import RunError
from pilotfish.tasks.model import ModelTask

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
MODELS = [
    Path(__file__).parents[2] / "examples" / "tray" / "tray.xml",
    *(ASSETS / f"{name}.xml" for name in ("hopper", "reacher", "inverted_pendulum", "swimmer")),
]
COST = "def cost(x, u, t):\n    return (x**2).sum() + 0.1 * (u**2).sum()\n"
VALUES = ("0", "-1", "1e9", "nan", "inf", "", "x", "0 0 0", "1 2", "true", "1e-9", "free", "ball", "hinge")


def mistaken(root, chance):
    """Change one element: an attribute's value or name, its tag, its place, or its being there."""
    parents = [(parent, child) for parent in root.iter() for child in parent]
    parent, one = chance.choice(parents)
    match chance.randrange(6):
        case 0:
            parent.remove(one)
        case 1:
            parent.append(one)
        case 2:
            one.tag = chance.choice(["body", "joint", "geom", "site", "motor", "nonsense"])
        case 3:
            one.set(
                chance.choice(["name", "class", "type", "range", "size", "ctrlrange", "mass"]), chance.choice(VALUES)
            )
        case _ if one.attrib:
            name = chance.choice(sorted(one.attrib))
            if chance.random() < 0.2:
                del one.attrib[name]
            else:
                one.set(name, chance.choice(VALUES))


@counts(30, 100)
def test_a_mistaken_model_is_a_task_or_refused_in_words(count, tmp_path):
    cost, path = tmp_path / "cost.py", tmp_path / "model.xml"
    cost.write_text(COST)
    made, said = 0, []
    for chance in cases("model", count):
        tree = ET.parse(chance.choice(MODELS))
        for _ in range(chance.choice([1, 1, 2])):
            mistaken(tree.getroot(), chance)
        tree.write(path)
        if chance.random() < 0.1:
            path.write_bytes(path.read_bytes()[: chance.randrange(2000)])
        try:
            problem = ModelTask(model=str(path), cost=str(cost), horizon=3).problem()
        except (ValueError, RunError) as error:
            said.append(str(error))
            continue
        made += 1
        assert np.isfinite(problem.conditions.mean).all()
        assert problem.conditions.mean.shape == (1, problem.dx)
    assert made
    assert said
    assert not [one for one in said if not one or "Traceback" in one]


def test_models_without_a_mistake_are_tasks(tmp_path):
    """So that what is refused above is refused for its mistake."""
    (tmp_path / "cost.py").write_text(COST)
    for model in MODELS:
        ModelTask(model=str(model), cost=str(tmp_path / "cost.py"), horizon=3).problem()
    with pytest.raises(ValueError, match="there is no such file"):
        ModelTask(model=str(tmp_path / "no.xml"), cost=str(tmp_path / "cost.py")).problem()
