"""Seeds that learn apart are, together again, the run that one process would have made."""

import pytest

import pilotfish as pf
from pilotfish import algorithms
from pilotfish.algorithms.reps import REPS
from pilotfish.policies import files
from pilotfish.policies.episodic import OpenLoop
from pilotfish.runs import arms, parts, store
from pilotfish.runs.spec import Spec
from pilotfish.runs.store import Run
from pilotfish.tasks.lq import LinearQuadratic

SMALL = REPS(skill=OpenLoop(features=3))
SEEDS = [7, 3, 11]
ITERATIONS = 5
REFUSING = '''
import jax

from pilotfish.algorithms import Algorithm
from pilotfish.algorithms.reps import REPS
from pilotfish.policies.episodic import OpenLoop

SMALL = REPS(skill=OpenLoop(features=3))


class Refusing(Algorithm):
    """Refuses updates by chance."""

    chance: float = 0.7
    """How often."""

    def init(self, problem, episodes, key):
        return SMALL.init(problem, episodes, key)

    def explore(self, state):
        return SMALL.explore(state)

    def exploit(self, state):
        return SMALL.exploit(state)

    def update(self, problem, state, rollouts, key):
        state, info = SMALL.update(problem, state, rollouts, key)
        return state, info._replace(ok=info.ok & (jax.random.uniform(key) > self.chance))
'''


def spec(algorithm=SMALL, name="reps", seeds=SEEDS, iterations=ITERATIONS):
    task = "lq", LinearQuadratic()
    return Spec.of(task, (name, algorithm), rollouts=10, iterations=iterations, seeds=seeds, checkpoint_every=2)


def whole(path, spec):
    """A run that one process made."""
    run = Run.create(path, spec)
    _, algorithm, world = run.assemble()
    return run, arms.finish(run, algorithm, world)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    return whole(tmp_path_factory.mktemp("parts") / "together", spec())[0]


def assert_same_run(run, other):
    """Metrics, how they are shown, and the newest checkpoint, to the bit."""
    for name in ("metrics.csv", "columns.json"):
        assert (run.path / name).read_bytes() == (other.path / name).read_bytes(), name
    newest = f"checkpoint-{other.done():06d}.safetensors"
    (tensors, meta), (others, theirs) = (files.read(path / newest) for path in (run.path, other.path))
    assert meta == theirs  # with the checksum of all tensors
    assert tensors.keys() == others.keys()


@pytest.mark.slow
def test_united_seeds_are_the_run_of_one_process(tmp_path, together):
    run = Run.create(tmp_path / "apart", spec())
    told = []
    with run.writing():
        parts.finish(run, observe=lambda run, seed, done: told.append((seed, done)))
    assert told == [(seed, done) for seed in SEEDS for done in (0, 2, 4, 5)]
    assert_same_run(run, together)
    assert not run.divided


def test_a_run_that_one_process_began_goes_on_apart_and_back(tmp_path, together):
    run, _ = whole(tmp_path / "begun", spec(iterations=3))
    with run.writing():
        run.extend(4)
        parts.finish(run)
    assert run.done() == 4
    run.extend(ITERATIONS)
    _, algorithm, world = run.assemble()
    arms.finish(run, algorithm, world)
    assert_same_run(run, together)


def test_what_was_apart_when_all_was_stopped_goes_on_there(tmp_path, together):
    run = Run.create(tmp_path / "apart", spec())

    class Killed(Exception):
        pass

    def kill(run, seed, done):
        if (seed, done) == (SEEDS[1], 4):
            raise Killed

    with run.writing(), pytest.raises(Killed):
        parts.finish(run, observe=kill)
    assert run.divided
    assert not run.done()
    told = []
    with run.writing():
        parts.finish(run, observe=lambda run, seed, done: told.append((seed, done)))
    assert told == [(SEEDS[1], 4), (SEEDS[1], 5), *((SEEDS[2], done) for done in (0, 2, 4, 5))]
    assert_same_run(run, together)


@pytest.mark.parametrize("stage", ["checkpoint", "half removed", "half begun"])
def test_stopped_while_seeds_are_put_together_or_apart(tmp_path, together, monkeypatch, stage):
    run = Run.create(tmp_path / "apart", spec())

    class Killed(Exception):
        pass

    def die(*_):
        raise Killed

    with run.writing():
        if stage == "half begun":
            (run.path / store.APART / str(SEEDS[0])).mkdir(parents=True)
            (run.path / store.APART / str(SEEDS[0]) / "files").mkdir()
        else:
            monkeypatch.setattr(parts, "write" if stage == "checkpoint" else "_removed", die)
            with pytest.raises(Killed):
                parts.finish(run)
            monkeypatch.undo()
            if stage == "half removed":
                (run.path / store.APART / str(SEEDS[0]) / "spec.json").unlink()
            assert run.divided
        parts.finish(run)
    assert_same_run(run, together)
    assert not run.divided


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    file = tmp_path_factory.mktemp("own") / "refusing.py"
    file.write_text(REFUSING)
    return f"{file}:Refusing"


def test_the_run_ends_where_that_of_one_process_ends(tmp_path, refusing):
    """A seed that refuses goes on while another learns; all that refuse end the run."""
    algorithm = algorithms.find(refusing).make()
    settings = spec(algorithm, refusing, seeds=[0, 1], iterations=24)
    one, why = whole(tmp_path / "one", settings)
    ended, ok = one.done(), one.metrics()["ok"]
    assert "refused" in why
    assert ended < 24
    assert min(arms.stopped({"ok": ok[s:][:1]}) for s in (0, 1)) < ended
    run = Run.create(tmp_path / "apart", settings)
    with run.writing():
        assert "of every seed" in parts.finish(run)
    assert_same_run(run, one)


def test_a_robot_is_refused(tmp_path):
    run = Run.create(tmp_path / "robot", spec())
    task, algorithm, world = run.assemble()
    run._assembled = task, algorithm, pf.PlantWorld(world.problem, world.plant(1))
    with run.writing(), pytest.raises(ValueError, match="there is one EquationsPlant"):
        parts.Apart(run)
