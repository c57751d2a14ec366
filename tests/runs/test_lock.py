"""One process at a time writes into a run's folder."""

import socket
import subprocess
import sys

import pytest

from pilotfish.runs import RunError, lock
from pilotfish.runs.spec import Spec
from pilotfish.runs.store import Run


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", Spec({"name": "lq"}, {"name": "moto"}, 3, 2, [5], 1))


def other_process(folder):
    """Another process, which holds the lock until it is ended."""
    code = (
        "import pathlib, sys, time\nfrom pilotfish.runs import lock\n"
        f"with lock.held(pathlib.Path({str(folder)!r})):\n    print('held', flush=True)\n    time.sleep(100)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_named_and_its_death_ends_the_lock(run):
    process = other_process(run.path)
    with pytest.raises(RunError, match=rf"in use by process {process.pid} on {socket.gethostname()}"), run.writing():
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    assert (run.path / lock.NAME).read_text().endswith(f" {process.pid}\n"), "a stale lock"
    with run.writing():
        assert not (run.path / lock.NAME).read_text().endswith(f" {process.pid}\n")
    assert not (run.path / lock.NAME).exists()


def test_the_same_process_opens_it_once(run):
    with run.writing(), run.writing():
        with pytest.raises(RunError, match="in use by process"), Run(run.path, run.spec).writing():
            pass
        assert (run.path / lock.NAME).exists()


def test_a_lock_of_another_machine_is_not_broken(run):
    (run.path / lock.NAME).write_text("elsewhere 17\n")
    with pytest.raises(RunError, match=r"in use by process 17 on elsewhere.*delete .*\.lock"), run.writing():
        pass
    assert (run.path / lock.NAME).read_text() == "elsewhere 17\n"


def test_what_broken_off_writing_left_goes_only_under_the_lock(run):
    (run.path / "episodes").mkdir()
    left = [run.path / ".part-17-metrics.csv", run.path / "episodes" / ".part-17-a.safetensors"]
    for path in left:
        path.write_text("half")
    Run(run.path, run.spec).metrics()
    assert all(path.exists() for path in left)
    with run.writing():
        assert not any(path.exists() for path in left)


def test_two_do_not_create_one_run(run, tmp_path, monkeypatch):
    """Both find the folder empty; the later one finds out under the lock."""
    (tmp_path / "other").mkdir()
    with lock.held(tmp_path / "other"), pytest.raises(RunError, match="in use"):
        Run.create(tmp_path / "other", run.spec)
