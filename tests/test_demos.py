"""The policies that come with the package still do what their tasks ask, and are filmed in seconds."""

import re

import jax
import numpy as np
import pytest

from pilotfish import tasks
from pilotfish.cli import run
from pilotfish.demos import demos
from pilotfish.policies import files

LARGEST = 500_000
"""Bytes of one of them."""


def test_the_package_has_some_and_they_are_small():
    known = demos()
    assert {"double-link", "cartpole", "peg"} <= {one.task for one in known.values()}
    assert {one.algorithm for one in known.values()} > {"lqr-gps"}
    assert all(one.path.stat().st_size < LARGEST for one in known.values())


@pytest.mark.parametrize("name", demos())
def test_each_reaches_its_goal(name):
    demo = demos()[name]
    world = tasks.find(demo.task).make().world()
    rollouts = world.rollout(files.load(demo.path), 1, jax.random.key(0))
    reached = [
        world.problem.reaches(*one) for one in zip(rollouts.x[:, 0], rollouts.u[:, 0], rollouts.cost[:, 0], strict=True)
    ]
    assert np.mean(reached) > 0.85
    assert rollouts.valid.all()


def test_the_command_films_one_and_says_how_it_was_learned(tmp_path, capsys):
    path = tmp_path / "deep" / "film.png"
    assert run(["demo", "double-link-lqr-gps", "-o", str(path)]) == 0
    said = capsys.readouterr().out
    assert path.read_bytes().startswith(b"\x89PNG")
    assert re.search(
        r"pilotfish train double-link --algorithm lqr-gps --rollouts \d+ --iterations \d+ --seed \d+", said
    )
    assert "reaches its goal: in 1 of 1 episodes" in said


def test_without_a_name_they_are_listed_and_a_wrong_one_gets_the_nearest(capsys):
    assert run(["demo"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in demos())
    assert run(["demo", "double-lnik-lqr-gps"]) == 2
    assert "did you mean double-link-lqr-gps" in capsys.readouterr().err
