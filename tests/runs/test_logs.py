"""Logs: what TensorBoard and Weights & Biases are told, by the names of Stable-Baselines3, also of a resumed run."""

import importlib.util
import json
import struct

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from wandb.proto.wandb_internal_pb2 import Record

import pilotfish as pf
from pilotfish import cli
from pilotfish.algorithms.reps import REPS
from pilotfish.cli import learn
from pilotfish.policies.episodic import OpenLoop
from pilotfish.runs import RunError, logs
from pilotfish.runs.spec import Spec
from pilotfish.runs.store import Run
from pilotfish.tasks.lq import LinearQuadratic

ALGORITHM = REPS(skill=OpenLoop(features=3))
COUNTS = {"rollouts": 10, "seeds": [4, 2], "measured": 1}
STEPS = 10 * LinearQuadratic().problem().horizon
"""Of the environment in an iteration."""


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture(scope="module")
def world():
    return LinearQuadratic().world()


def train(world, iterations, *callbacks, **how):
    return pf.train(ALGORITHM, world, iterations=iterations, callbacks=callbacks, **COUNTS, **how)


def told(folder):
    """What TensorBoard shows of a folder: by name, steps and values. What a session begins with is forgotten."""
    found = {}
    for path in sorted(folder.glob("events*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            size = struct.unpack("<Q", content[at : at + 8])[0]
            event = Event.FromString(content[at + 12 : at + 12 + size])
            at += size + 16
            if event.session_log.status == SessionLog.START:
                found = {name: [one for one in known if one[0] < event.step] for name, known in found.items()}
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def sent(folder):
    """What lies in the files of Weights & Biases: by the runs' ids, files in their order, the history's rows."""
    found = {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in records(path.read_bytes()):
            if record.WhichOneof("record_type") == "run":
                known = found.setdefault(record.run.run_id, {"name": record.run.display_name, "rows": []})
                known["config"] = {one.key: json.loads(one.value_json) for one in record.run.config.update}
                known["group"] = record.run.run_group
            elif record.WhichOneof("record_type") == "history":
                row = {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                known["rows"].append(row)
    return {known["name"]: known for known in found.values()}


def records(content):
    """Of a log of LevelDB's form: in blocks of 32 KiB each piece has its length, and whether it is the last of one."""
    at, record = 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        record += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield Record.FromString(record)
            record = b""


def test_tensorboard_is_told_the_names_of_stable_baselines(world, tmp_path):
    result = train(world, 3, pf.TensorBoard(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"seed4", "seed2"}
    found = told(tmp_path / "seed2")
    steps, values = zip(*found["rollout/ep_rew_mean"], strict=True)
    assert steps == (STEPS, 2 * STEPS, 3 * STEPS)
    np.testing.assert_allclose(values, -result.metrics["cost"][1], rtol=1e-6)
    own = {"time/iterations": [1, 2, 3], "time/total_timesteps": steps}
    own |= {"eval/mean_reward": -result.metrics["noise_free_cost"][1], "train/kl": result.metrics["kl"][1]}
    for name, wanted in own.items():
        np.testing.assert_allclose([value for _, value in found[name]], wanted, rtol=1e-6, err_msg=name)
    assert "rollout/success_rate" not in found  # the task defines none
    assert not {name for name in found if name.split("/")[0] not in ("rollout", "time", "eval", "train")}


def test_success_is_a_rate(world):
    turns = []
    train(world, 1, turns.append)
    report = turns[0].report
    outcome = report.outcome._replace(success=np.array([0.25, 0.5]))
    turn = turns[0]._replace(report=report._replace(outcome=outcome))
    assert [numbers["rollout/success_rate"] for _, numbers in logs.scalars(turn)] == [0.25, 0.5]
    assert [numbers["rollout/ep_len_mean"] for _, numbers in logs.scalars(turn)] == [STEPS / 10] * 2


def test_what_is_not_finite_is_left_out(world):
    turns = []
    train(world, 1, turns.append)
    outcome = turns[0].report.outcome._replace(cost=np.array([np.nan, 1.0]))
    first, second = (
        numbers for _, numbers in logs.scalars(turns[0]._replace(report=turns[0].report._replace(outcome=outcome)))
    )
    assert "rollout/ep_rew_mean" not in first
    assert second["rollout/ep_rew_mean"] == -1.0


@pytest.fixture
def stopped(world, tmp_path):
    """A run that was killed after its third iteration and goes on from its checkpoint before that, logged by all."""
    parts = ("lq", LinearQuadratic()), ("reps", ALGORITHM)
    run = Run.create(tmp_path / "run", Spec.of(*parts, **COUNTS, iterations=5, checkpoint_every=2))
    with pytest.raises(RuntimeError, match="killed"), logs.of_run(run, ["tensorboard", "wandb"]) as logging:
        train(world, 5, *logging, _kill, run=run)
    for path in run.path.glob("checkpoint-000003*"):  # which a killed process does not write
        path.unlink()
    assert Run.open(run.path).done() == 2
    with logs.of_run(run) as logging:
        train(world, 5, *logging, run=run)
    return run


def _kill(turn):
    if turn.i == 2:
        raise RuntimeError("killed")


def test_a_resumed_run_is_logged_once(stopped):
    metrics = stopped.metrics()
    steps = [STEPS * (i + 1) for i in range(5)]
    runs = sent(stopped.path)
    assert set(runs) == {"run-seed4", "run-seed2"}
    for s, seed in enumerate(COUNTS["seeds"]):
        board, run = told(stopped.path / "tensorboard" / f"seed{seed}"), runs[f"run-seed{seed}"]
        assert [step for step, _ in board["time/iterations"]] == steps
        np.testing.assert_allclose([value for _, value in board["train/kl"]], metrics["kl"][s], rtol=1e-6)
        assert [row["_step"] for row in run["rows"]] == steps
        assert [-row["eval/mean_reward"] for row in run["rows"]] == metrics["noise_free_cost"][s].tolist()
        assert (run["group"], run["config"]["algorithm"]["kl_step"]) == ("run", ALGORITHM.kl_step)


def test_another_training_in_the_same_place_is_another_one(world, tmp_path):
    both = pf.TensorBoard(tmp_path), pf.WeightsAndBiases(folder=tmp_path)
    train(world, 2, *both, lambda turn: turn.i < 0)  # which ends after its first iteration
    train(world, 1, *both)
    assert [step for step, _ in told(tmp_path / "seed4")["time/iterations"]] == [STEPS]
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 4


@pytest.mark.parametrize(
    ("make", "package", "extra"),
    [(pf.TensorBoard, "tensorboardX", "tensorboard"), (lambda at: pf.WeightsAndBiases(folder=at), "wandb", "wandb")],
)
def test_what_is_not_installed_is_named_with_its_remedy(monkeypatch, tmp_path, make, package, extra):
    find = importlib.util.find_spec
    monkeypatch.setattr("pilotfish.extras.find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(ValueError, match=rf"needs the package {package}: pip install 'pilotfish\[{extra}\]'"):
        make(tmp_path)
    with pytest.raises(ValueError, match="pip install"):
        logs.check([extra])
    parts = ("lq", LinearQuadratic()), ("reps", ALGORITHM)
    run = Run(tmp_path, Spec.of(*parts, **COUNTS, iterations=5, checkpoint_every=2))
    (tmp_path / extra).mkdir()
    with pytest.raises(RunError, match=f"Or delete {tmp_path / extra}"), logs.of_run(run):
        pass


def test_what_weights_and_biases_refuses_is_said(world, tmp_path, monkeypatch):
    import wandb

    def refuse(**_):
        raise wandb.errors.UsageError("no key")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(RunError, match=r"Weights & Biases: no key. Log in by `wandb login`, or set WANDB_MODE=offline"):
        train(world, 1, pf.WeightsAndBiases(folder=tmp_path))


WORDS = ["lq", "--algorithm", "reps", "--algorithm.skill.features", "3", "--rollouts", "10", "--no-film"]


def test_the_command_line_logs_and_goes_on_logging(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(learn, "draw", lambda *_: None)
    path = tmp_path / "run"
    log = ["--log", "tensorboard", "--log", "wandb"]
    assert cli.run(["train", *WORDS, "--iterations", "1", "--seeds", "2", *log, "--out", str(path)]) == 0
    assert cli.run(["resume", str(path), "--iterations", "3", "--no-film"]) == 0
    assert [step for step, _ in told(path / "tensorboard" / "seed1")["time/iterations"]] == [
        STEPS,
        2 * STEPS,
        3 * STEPS,
    ]
    assert [row["_step"] for row in sent(path)["run-seed1"]["rows"]] == [STEPS, 2 * STEPS, 3 * STEPS]
    with pytest.raises(SystemExit):
        cli.run(["train", *WORDS, "--log", "comet"])
    assert "comet" in capsys.readouterr().err


def test_a_run_that_is_not_asked_to_logs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(learn, "draw", lambda *_: None)
    monkeypatch.setattr("pilotfish.extras.find_spec", lambda name: None)
    assert cli.run(["train", *WORDS, "--iterations", "1", "--out", str(tmp_path / "run")]) == 0
    assert not [path for path in (tmp_path / "run").iterdir() if path.is_dir()]
    assert cli.run(["train", *WORDS, "--log", "wandb", "--out", str(tmp_path / "logged")]) == 2
    assert not (tmp_path / "logged").exists()
