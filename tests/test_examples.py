"""Examples run, stay short, and are what the README shows."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from pilotfish.cli import run
from pilotfish.policies import files
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.runs.store import write_tensors
from pilotfish.tasks.cartpole import CartPole

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def execute(path, *words):
    done = subprocess.run([sys.executable, path, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_short_and_tested():
    assert {path.stem for path in EXAMPLES} == {
        "learn",
        "own_task",
        "own_model",
        "own_network",
        "environment",
        "act_without_jax",
    }
    for path in EXAMPLES:
        assert len(path.read_text().splitlines()) < 50, path


@pytest.mark.slow
def test_learn():
    out = execute(ROOT / "examples" / "learn.py")
    share = [int(word) for word in re.findall(r"(\d+)% swing up", out)]
    assert share[0] == 0
    assert share[-1] > 90


@pytest.mark.slow
def test_own_task():
    out = execute(ROOT / "examples" / "own_task.py")
    assert int(re.search(r"(\d+)% of the boats land", out).group(1)) > 90


@pytest.mark.slow
def test_own_model():
    out = execute(ROOT / "examples" / "own_model.py")
    share = [int(word) for word in re.findall(r"(\d+)% stay", out)]
    assert share[0] == 0
    assert share[-1] > 90


@pytest.mark.slow
def test_own_network():
    out = execute(ROOT / "examples" / "own_network.py")
    assert int(re.search(r"(\d+)% of 50 boats arrive", out).group(1)) > 90


@pytest.mark.slow
def test_the_tutorial_teaches_a_network(tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "tutorials" / "network.md").read_text()
    monkeypatch.chdir(tmp_path)
    said = {}
    for command in re.findall(r"^    pilotfish (.*)$", text, re.MULTILINE):
        assert run(command.split()) == 0, command
        said[command] = capsys.readouterr().out
    for command in ("train peg --algorithm mdgps --out peg", "evaluate peg --held-out"):
        assert float(re.search(r"episodes that succeed: ([\d.]+)%", said[command]).group(1)) > 70
    assert (tmp_path / "peg" / "film-held-out.gif").stat().st_size > 10_000
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "act.py").write_text(block)
    assert len(execute(tmp_path / "act.py").strip(" []\n").split()) == 7


def test_environment():
    total, inserted = re.search(
        r"return (-\d+), the peg is in: (\w+)", execute(ROOT / "examples" / "environment.py")
    ).groups()
    assert int(total) < -300
    assert inserted == "False"


def test_act_without_jax(tmp_path):
    path, problem = tmp_path / "policy.safetensors", CartPole().problem()
    controllers = jax.tree.map(lambda leaf: leaf + 0.7, problem.first_controller)
    write_tensors(path, *files.packed(LinearGaussianPolicy(controllers), problem))
    source = (ROOT / "examples" / "act_without_jax.py").read_text()
    assert "import jax" not in source
    out = execute(ROOT / "examples" / "act_without_jax.py", path)
    policy = load_file(path)
    expected = np.clip(policy["k"][0, 0], policy["action_low"], policy["action_high"])
    assert float(out.strip(" []\n")) == pytest.approx(expected[0], rel=1e-6)


def test_readme_shows_the_examples_as_they_are():
    readme = (ROOT / "README.md").read_text()
    sources = [path.read_text() for path in (ROOT / "examples").rglob("*.py")]
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        assert any(block in source for source in sources), block
