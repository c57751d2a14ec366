"""Programs are kept for the next run: it compiles nothing, gives the same numbers, and suffers from no folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pilotfish.runs import programs
from pilotfish.runs.store import Run

RECURSION = """
import jax, jax.numpy as jnp
def step(x, _):
    return jnp.linalg.cholesky(x @ x.T + jnp.eye(7)) + jnp.sin(x), None
print(jax.jit(lambda x: jax.lax.scan(step, x, None, length=30)[0])(jnp.arange(49.0).reshape(7, 7)).tobytes().hex())
"""
COUNT = """
import jax
found = {"cache_hits": 0, "cache_misses": 0}
def count(event, **_):
    what = event.rpartition("/")[2]
    if what in found:
        found[what] += 1
jax.monitoring.register_event_listener(count)
"""


@pytest.fixture
def cache(tmp_path):
    """The environment of a process whose user has this cache folder, and no other says where programs are kept."""
    ours = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "TF_CPP_MIN_LOG_LEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return environment | {"XDG_CACHE_HOME": str(tmp_path / "cache")}


def python(code, environment):
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def kept(environment):
    return sorted(Path(environment["XDG_CACHE_HOME"]).glob("pilotfish/programs/*/*-cache"))


@pytest.mark.slow
def test_the_second_run_compiles_nothing_and_gives_the_same_to_the_bit(tmp_path, cache):
    def train(name, *words):
        line = ["train", "lq", "--rollouts", "40", "--iterations", "2", "--no-film", "--out", str(tmp_path / name)]
        return python(f"from pilotfish.cli import run\nassert run({[*line, *words]}) == 0\n", cache)

    def results(name):
        run = Run.open(tmp_path / name)
        arrays = run.load_tensors("checkpoint-000002") | run.load_tensors("evaluation")
        return {key: array.tobytes() for key, array in arrays.items()} | {"m": (run.path / "metrics.csv").read_bytes()}

    train("anew", "--no-cache")
    assert not kept(cache)
    assert "WORSE" not in train("first").stderr
    programs_of_first = kept(cache)
    assert len(programs_of_first) > 20
    second = train("second")
    assert kept(cache) == programs_of_first
    assert second.stderr == ""
    assert results("anew") == results("first") == results("second")


def test_what_was_kept_is_loaded_and_the_same_to_the_bit_and_nobody_is_told(cache):
    code = f"from pilotfish.runs import programs; assert programs.keep()\n{COUNT}\n{RECURSION}\nprint(found)"
    anew, first, second = python(RECURSION, cache), python(code, cache), python(code, cache)
    assert "'cache_hits': 0" in first.stdout
    assert "'cache_misses': 0" in second.stdout
    assert "'cache_hits': 0" not in second.stdout
    assert anew.stdout.splitlines()[0] == first.stdout.splitlines()[0] == second.stdout.splitlines()[0]
    assert first.stderr == second.stderr == ""


@pytest.mark.parametrize("trouble", ["folder.unlink", pytest.param("folder.mkdir", marks=pytest.mark.slow), "damaged"])
def test_no_folder_stops_or_spoils_a_process(cache, trouble):
    """A file where the folder should be, a folder that goes away under the process, programs that are not whole."""
    base = Path(cache["XDG_CACHE_HOME"])
    keep = "from pilotfish.runs import programs; kept = programs.keep()\n"
    said = python(RECURSION, cache).stdout
    if trouble == "folder.unlink":
        base.write_text("a file")
        done = python(f"{keep}assert not kept\n{RECURSION}", cache)
    elif trouble == "folder.mkdir":
        lose = f"import pathlib, shutil; import jax; jax.jit(lambda x: x)(1.0); shutil.rmtree({str(base)!r})\n"
        done = python(f"{keep}assert kept\n{lose}pathlib.Path({str(base)!r}).write_text('')\n{RECURSION}", cache)
    else:
        python(f"{keep}{RECURSION}", cache)
        assert kept(cache)
        for path in kept(cache):
            path.write_bytes(path.read_bytes()[:-9])
        done = python(f"{keep}assert kept\n{RECURSION}", cache)
    assert (done.stdout, done.stderr) == (said, "")


def test_only_what_was_used_last_stays(tmp_path):
    folder = tmp_path / "key"
    folder.mkdir()
    for age, name in enumerate("abcd"):
        path = folder / f"{name}-cache"
        path.write_bytes(bytes(10))
        os.utime(path, (1e9 - age, 1e9 - age))
    os.utime(folder / "d-cache", (2e9, 1e9 - 3))  # written first, and read since
    programs._let_go(tmp_path, 25)
    assert {path.name for path in folder.iterdir()} == {"a-cache", "d-cache"}


def test_whoever_says_no_or_has_an_own_cache_is_left_alone(tmp_path, monkeypatch, cache):
    code = "from pilotfish.runs import programs; import os; print(programs.keep(), os.environ.get('{}'))"
    where = "JAX_COMPILATION_CACHE_DIR"
    assert python(code.format(where), cache | {"PILOTFISH_NO_CACHE": "1"}).stdout.split() == ["False", "None"]
    assert python(code.format(where), cache | {where: "/own"}).stdout.split() == ["False", "/own"]
    assert python(f"import jax; {code.format(where)}", cache).stdout.split() == ["False", "None"]
    assert not Path(cache["XDG_CACHE_HOME"]).exists()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows keeps each user's folders apart")
def test_a_folder_that_others_can_write_to_is_not_used(tmp_path, cache):
    folder = Path(cache["XDG_CACHE_HOME"]) / "pilotfish" / "programs"
    folder.mkdir(parents=True)
    code = "from pilotfish.runs import programs; print(programs.keep())"
    assert python(code, cache).stdout == "True\n"
    folder.chmod(0o777)
    assert python(code, cache).stdout == "False\n"


def test_other_processors_and_other_numbers_of_cores_have_other_programs(monkeypatch):
    found = {programs._machine()}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(77), raising=False)
    found.add(programs._machine())
    monkeypatch.setattr(programs, "version", lambda _: "9.9")
    found.add(programs._machine())
    if Path("/proc/cpuinfo").exists():
        text = Path("/proc/cpuinfo").read_text()
        monkeypatch.setattr(Path, "read_text", lambda _: text.replace(" avx2", "").replace(" asimd", ""))
        found.add(programs._machine())
    monkeypatch.setattr(Path, "read_text", lambda path: Path.read_bytes(path / "none"))
    found.add(programs._machine())
    assert len(found) == (5 if Path("/proc/cpuinfo").exists() else 4)
