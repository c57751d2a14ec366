"""The tutorials are followed word for word: files are written, commands run, and what they promise comes true."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pilotfish.cli import run

TUTORIALS = Path(__file__).parent.parent / "docs" / "tutorials"
STEP = re.compile(r"^`([\w.-]+)`:\n\n```\w+\n(.*?)^```|^    ((?:pilotfish|python) [^\n]*)$", re.DOTALL | re.MULTILINE)
"""A file, which is named above its block, or a command, which is indented."""


@pytest.fixture
def follow(tmp_path, monkeypatch, capsys):
    """What each command of a tutorial prints, by the command, in a new folder."""

    def follow(name):
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
        said = {}
        for file, content, command in STEP.findall((TUTORIALS / f"{name}.md").read_text()):
            if file:
                (tmp_path / file).write_text(content)
                continue
            capsys.readouterr()
            program, *words = command.split()
            if program == "pilotfish":
                assert run(words) == 0, command
                said[command] = capsys.readouterr().out
            else:
                how = {"capture_output": True, "text": True, "env": os.environ | {"PYTHONPATH": paths}}
                done = subprocess.run([sys.executable, *words], check=False, **how)
                assert done.returncode == 0, done.stderr
                said[command] = done.stdout
        return said

    return follow


def number(pattern, text):
    """The number that stands in some text where a pattern has its group."""
    return float(re.search(pattern, text).group(1))


def test_every_tutorial_is_followed():
    followed = Path(__file__).read_text() + (Path(__file__).parent / "test_examples.py").read_text()
    for path in TUTORIALS.glob("*.md"):
        assert f'"{path.stem}"' in followed or f'"{path.name}"' in followed, path


@pytest.mark.slow
def test_own_system(follow, tmp_path):
    said = follow("own-system")
    learned = [text for command, text in said.items() if command.startswith("pilotfish train")]
    assert len(learned) == 3
    for text in learned:
        assert number(r"episodes that succeed: ([\d.]+)%", text) > 90
    assert said["python check.py"] == ""
    assert number(r"cost \d+ -> ([\d.]+)", said["python program.py"]) < 1
    assert (tmp_path / "crane" / "film.gif").exists()


@pytest.mark.slow
def test_own_mujoco_model(follow):
    said = follow("own-mujoco-model")
    assert "x[10]  z of sensor 'tip'" in said["pilotfish list pusher.xml"]
    (learned,) = [text for command, text in said.items() if command.startswith("pilotfish train")]
    assert number(r"seeds of which over 90% of episodes succeed: (\d) of 3", learned) >= 2
    first, *_, last = map(float, said["python program.py"].strip(" []\n").split())
    assert last < 0.8 * first


@pytest.mark.slow
def test_own_gymnasium_environment(follow, tmp_path):
    said = follow("own-gymnasium-environment")
    learned, aimed = (text for command, text in said.items() if command.startswith("pilotfish train"))
    assert number(r"episodes that succeed: ([\d.]+)%", aimed) > 60
    fresh = number(r"from 20 fresh starts: ([\d.]+) ", learned)
    assert fresh < 0.5 * number(r"the same doing nothing, from 20 fresh starts: ([\d.]+)", learned)
    assert abs(number(r"at ([\d.]+) m", said["python fly.py"]) - 20) < 2
    assert (tmp_path / "balloon" / "film.gif").exists()


@pytest.mark.slow
def test_hardware(follow, tmp_path):
    said = follow("hardware")
    assert abs(number(r"at ([\d.]+) rad", said["python act.py"]) - 2) < 0.1
    assert len(list((tmp_path / "lift" / "episodes").iterdir())) <= 50
    assert "import jax" not in (tmp_path / "act.py").read_text()
    assert abs(float(said["python export.py"].strip(" []\n"))) <= 2


@pytest.mark.slow
def test_figure(follow):
    said = follow("figure")
    (drawn,) = [text for command, text in said.items() if command.startswith("pilotfish figure")]
    assert "its verdicts are no evidence" in drawn
    assert len(said["python read.py"].splitlines()) == 6
