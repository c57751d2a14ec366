"""A run that is killed at any moment resumes bit-identically."""

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from pilotfish import cli
from pilotfish.cli import learn
from pilotfish.runs.store import Run

SETTINGS = [
    "cartpole",
    "--algorithm",
    "moto",
    "--rollouts",
    "24",
    "--iterations",
    "24",
    "--checkpoint-every",
    "3",
    "--no-film",
    "--seeds",
    "2",
]


def pilotfish(*words):
    return [sys.executable, "-m", "pilotfish", *map(str, words)]


def lines(path):
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_killed_runs_resume_bit_identically(tmp_path, monkeypatch, kills):
    monkeypatch.setattr(learn, "draw", lambda *_: None)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert cli.run(["train", *SETTINGS, "--out", str(whole)]) == 0
    chance = random.Random(0)
    command = pilotfish("train", *SETTINGS, "--out", killed)
    killings = 0
    while killings < kills:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        target = max(lines(killed / "metrics.csv"), 8) + chance.randrange(12)
        while process.poll() is None and lines(killed / "metrics.csv") < target:
            time.sleep(0.002)
        time.sleep(0.02 * chance.random())
        if process.poll() is not None:
            assert process.returncode == 0
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        killings += 1
        command = pilotfish("resume", killed, "--no-film")
    assert killings
    assert cli.run(["resume", str(killed), "--no-film"]) == 0
    mine, theirs = (Run.open(path).load_tensors("checkpoint-000024") for path in (killed, whole))
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    assert (killed / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path):
    folder = tmp_path / "interrupted"
    words = ["train", *SETTINGS, "--iterations", "4000", "--out", str(folder)]
    # a shell that runs the tests in the background has its children ignore SIGINT
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heed}; from pilotfish.cli import main; main({words})"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and lines(folder / "metrics.csv") < 12:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"pilotfish resume {folder}" in out.replace("\n", " ")
    assert "Traceback" not in err
    run = Run.open(folder)
    iterations = run.metrics()["cost"].shape[1]
    assert (folder / f"checkpoint-{iterations:06d}.safetensors").exists()
