"""Whatever becomes of a file of a run: it is noticed, and nothing that was read of it is used."""

import json
import warnings
from typing import Annotated, NamedTuple

import numpy as np
import pytest

from fuzz.chance import cases, counts, damaged, flipped, mutated
from pilotfish import acting
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.algorithms.moto import MOTO
from pilotfish.runs import RunError
from pilotfish.runs.loop import Report
from pilotfish.runs.spec import Spec
from pilotfish.runs.store import Run
from pilotfish.tasks.multi_link import MultiLink
from pilotfish.tasks.obstacles import Obstacles
from pilotfish.types import Outcome, Shown

SEEDS = [3, 8]
OBSTACLES, LQRGPS_ = Obstacles(), LQRGPS()


class Info(NamedTuple):
    ok: Annotated[np.ndarray, Shown("updates")]
    kl: np.ndarray


def states(i):
    return {
        "K": np.linspace(-1, 1, 12).reshape(2, 2, 3) * (i + 1),
        "count": np.array(i),
        "flag": np.array([True, False]),
    }


def report(i):
    values = [np.random.default_rng([i, k]).normal(size=2) for k in range(7)]
    return Report(Outcome(*values[:5], np.array([-1, 4])), Info(np.ones((2, 1), bool), values[6]))


def spec(task=("obstacles", OBSTACLES), algorithm=("lqr-gps", LQRGPS_)):
    return Spec.of(task, algorithm, rollouts=5, iterations=6, seeds=SEEDS, checkpoint_every=2)


@pytest.fixture
def run(tmp_path):
    """A run as training leaves it, of two checkpoints and an evaluation."""
    run = Run.create(tmp_path / "run", spec())
    with run.writing():
        run.save_columns({"kl": {"title": "KL", "bound": 0.3}})
        for i in range(4):
            run.append_metrics(i, report(i))
            if i % 2:
                run.save_checkpoint(i + 1, states(i + 1))
        run.save_json("evaluation", {"best_seed": 8, "cost": [2.0, 1.5], "iteration": 4, "episodes": 10})
        run.save_tensors("evaluation", {"x": np.arange(24.0).reshape(2, 3, 4)})
        run.save_tensors("policy", {"K": np.arange(6.0)}, {"policy": "linear-gaussian", "settings": "{}"})
    return run


def read(folder):
    """Everything that a run's folder says, and what is said against it."""
    found, said = {}, []

    def take(name, what):
        try:
            found[name] = what()
        except (RunError, ValueError) as error:
            said.append(str(error))

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        take("run", lambda: Run.open(folder))
        if (run := found.pop("run", None)) is not None:
            found["spec"] = run.spec
            take("states", lambda: run.load_checkpoint(states(0)))
            take("metrics", run.metrics)
            take("columns", run.columns)
            take("evaluation", run.evaluation)
            take("episodes", lambda: run.load_tensors("evaluation"))
            take("policy", lambda: acting_read(folder / "policy.safetensors"))
    return found, said + [str(one.message) for one in told]


def acting_read(path):
    try:
        return acting.read(path)
    except Exception as error:  # it says whatever safetensors says
        raise ValueError(f"{path.name}: {error}") from error


def plain(tree):
    def told(leaf):
        return leaf.__dict__ if isinstance(leaf, Spec) else np.asarray(leaf).tolist()

    return json.dumps(tree, default=told, sort_keys=True)


def files(run):
    """All but the settings, which nothing reads of a run: a user may edit them."""
    return sorted(path for path in run.path.iterdir() if path.is_file() and path.name != "config.toml")


@counts(60, 2000)
def test_a_flipped_bit_is_noticed_wherever_it_is(run, count):
    whole, said = read(run.path)
    assert not said
    for chance in cases("flipped bit", count):
        path = chance.choice(files(run))
        before = path.read_bytes()
        path.write_bytes(flipped(before, chance.randrange(len(before)), chance.randrange(8)))
        found, said = read(run.path)
        path.write_bytes(before)
        assert any(path.name in one and "\n" not in one for one in said) or "checkpoint-000002" in path.name, path.name
        for name, value in found.items():
            if name != "states" or "checkpoint-000004" not in path.name:
                assert plain(value) == plain(whole[name]), (path.name, name)
        if path.name in ("metrics.csv", "columns.json"):
            assert found.keys() == whole.keys()
        if "checkpoint" in path.name:
            assert found["states"][0] == (2 if "000004" in path.name else 4)


@counts(60, 500)
def test_damage_of_any_kind_is_noticed_or_does_no_harm(run, count):
    whole = read(run.path)[0]
    for chance in cases("damage", count):
        path = chance.choice(files(run))
        before = path.read_bytes()
        path.write_bytes(damaged(before, chance))
        found, said = read(run.path)
        path.write_bytes(before)
        for name, value in found.items():
            newest = (name, path.name) != ("states", "checkpoint-000004.safetensors")
            assert plain(value) == plain(whole[name]) or not newest, (path.name, name)
        if found.keys() != whole.keys():
            assert any(path.name in one for one in said)


@counts(40, 300)
def test_rows_of_metrics_that_are_missing_moved_or_repeated_are_noticed_and_come_back(run, count):
    whole = run.metrics()
    path = run.path / "metrics.csv"
    before = path.read_bytes()
    lines = before.splitlines(keepends=True)
    for chance in cases("rows", count):
        rows = list(lines)
        i, j = chance.sample(range(len(rows)), 2)
        match chance.randrange(4):
            case 0:
                del rows[i]
            case 1:
                rows.insert(j, rows[i])
            case 2:
                rows[i], rows[j] = rows[j], rows[i]
            case _:
                rows = rows[:i]
        path.write_bytes(b"".join(rows))
        with pytest.warns(
            UserWarning, match=r"metrics\.csv is damaged.*copy in checkpoint-000004\.safetensors is used"
        ):
            assert plain(run.metrics()) == plain(whole)
        again = Run.open(run.path)
        assert again.begin(states(0))[0] == 4
        assert path.read_bytes() == before


@counts(60, 2000)
def test_a_specification_of_nonsense_is_refused_in_a_line_or_is_another_one(run, count):
    """With its checksum right: as if written so. Whether it is accepted or not, nothing else is raised."""
    kinds = [spec(), spec(("quad-link", MultiLink(links=4)), ("moto", MOTO()))]
    accepted, said = 0, []
    for chance in cases("specification", count):
        stored = json.loads(json.dumps(chance.choice(kinds).__dict__))
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            stored = mutated(stored, chance) or stored
        run.save_json("spec", stored)
        try:
            opened = Run.open(run.path)
            opened.assemble()
            accepted += 1
        except (RunError, ValueError) as error:
            said.append(str(error))
    assert not [one for one in said if "\n" in one or len(one) > 700]
    assert 0 < accepted < 0.5 * count


@counts(100, 1000)
def test_a_specification_that_is_no_json_or_was_changed_by_hand_is_refused(run, count):
    path = run.path / "spec.json"
    before = path.read_bytes()
    for chance in cases("file of a specification", count):
        content = damaged(before, chance)
        if chance.random() < 0.3:
            content = json.dumps(mutated(json.loads(before), chance), indent=2).encode()
        if content != before:
            path.write_bytes(content)
            with pytest.raises(RunError, match=r"spec\.json is damaged|was written in format"):
                Run.open(run.path)
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(RunError, match=r"spec\.json is damaged"):
        Run.open(run.path)
