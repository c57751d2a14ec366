"""Settings that must stand before numpy and jax are imported."""

import gc
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS", "0")  # which takes a twentieth of all tests' time

QUICK = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
"""Neither optimise nor use the newer of XLA's two code generators, which takes half the time of all tests; and compile
a program whole, for the other core has tests of its own."""
GARBAGE = (100_000, 20, 100)
"""So seldom look for cycles among what JAX traces, in which there are none: 700, 10, 10 takes 7% of all tests' time."""
PROGRAMS = pytest.StashKey[str]()
"""The folder where all processes of one test session share what they compiled."""

PIECES = 12_000
"""Of memory, of which Linux lets a process have 65,530, which one file may take four fifths of."""
STATE = pytest.StashKey[str]()
"""The folder of what lasts beyond one run."""


def pytest_configure(config: pytest.Config) -> None:
    """Tests compile much and compute little: XLA may take short cuts, unless the slow ones are asked for."""
    gc.set_threshold(*GARBAGE)
    if "not slow" in config.getoption("markexpr"):
        os.environ.setdefault("XLA_FLAGS", QUICK)
    if "PYTEST_XDIST_WORKER" not in os.environ:  # what these tests trust is no user's own
        config.stash[STATE] = os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # workers and the commands that tests run inherit the first one's
        config.stash[PROGRAMS] = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp()
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = (
            "0"  # single operations too: every file begins with them
        )
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA doubts on stderr whether a program is of this machine


def pytest_unconfigure(config: pytest.Config) -> None:
    """The programs and the state of this test session are not those of the next one."""
    for key in (PROGRAMS, STATE):
        if key in config.stash:
            shutil.rmtree(config.stash[key], ignore_errors=True)


def pytest_sessionstart(session: pytest.Session) -> None:
    """What pilotfish says of rendering stands before a test imports mujoco, and after its types are watched."""
    if not session.config.getoption("numprocesses", None):  # who only hands out the tests imports nothing
        importlib.import_module("pilotfish")


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs() -> Iterator[None]:
    """What was compiled is let go before its programs take more pieces of memory than Linux lets a process have.

    Not after every file: all begin with the same single operations.
    """
    yield
    if len(Path("/proc/self/maps").read_bytes().splitlines()) > PIECES:
        importlib.import_module("jax").clear_caches()
