"""A robot's episodes are on disk as soon as each has ended, whatever becomes of the rest."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file

from pilotfish.algorithms.moto import MOTO
from pilotfish.runs.spec import Spec
from pilotfish.runs.store import Run
from pilotfish.runs.train import train
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.worlds.host import PlantWorld
from pilotfish.worlds.plant import EquationsPlant

ALGORITHM = MOTO(reuse="both", memory=2)
SIZES = {"rollouts": 3, "iterations": 2, "seeds": [5]}


class Stopped(EquationsPlant):
    """A plant whose operator pulls the plug in the third step of an episode."""

    def __init__(self, problem, episode):
        super().__init__(problem, 1)
        self.left = episode

    def place(self, x, conditions, randoms):
        self.left -= 1
        return super().place(x, conditions, randoms)

    def step(self, u, t, moving):
        if self.left < 0 and t == 2:
            raise KeyboardInterrupt
        return super().step(u, t, moving)


def files(run):
    return sorted(path.name for path in (run.path / "episodes").iterdir())


def begin(folder):
    return Run.create(folder, Spec({"name": "lq"}, {"name": "moto"}, 3, 2, [5], 1))


def test_every_episode_is_kept(tmp_path):
    problem = dataclasses.replace(LinearQuadratic().problem(), noise_std=0.0)
    run, seen = begin(tmp_path / "run"), []
    world = PlantWorld(problem, EquationsPlant(problem, 1))
    train(ALGORITHM, world, **SIZES, run=run, callbacks=[lambda turn: seen.append((files(run), turn.rollouts))])
    names = [f"iteration{i:06d}-seed5-condition0-{m}.safetensors" for i in range(2) for m in range(3)]
    assert [list(found) for found, _ in seen] == [names[:3], names]
    for i, (_, rollouts) in enumerate(seen):
        for m in range(3):
            kept = load_file(run.path / "episodes" / names[3 * i + m])
            np.testing.assert_array_equal(kept["x"], rollouts.x[0, 0, m])
            assert kept["steps"] == problem.horizon


def test_what_ended_before_the_plug_was_pulled_is_kept(tmp_path):
    problem = LinearQuadratic().problem()
    run = begin(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(ALGORITHM, PlantWorld(problem, Stopped(problem, 4)), **SIZES, run=run)
    assert len(files(run)) == 4
    assert run.metrics()["cost"].shape == (1, 1)
    assert run.done() == 1


def test_of_a_robot_one_noise_free_episode_is_asked_for_and_not_a_hundred():
    problem = dataclasses.replace(LinearQuadratic().problem(), noise_std=0.0)
    world = PlantWorld(problem, EquationsPlant(problem, 1))
    result = train(ALGORITHM, world, **SIZES)
    assert result.evaluate().rollouts.x.shape[2] == 1
    assert result.evaluate(2).rollouts.x.shape[2] == 2
