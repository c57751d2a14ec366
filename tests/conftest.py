"""Settings that must stand before numpy and jax are imported."""

import importlib
import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Tests compile much and compute little: XLA need not optimise, unless the slow ones are asked for."""
    if "not slow" in config.getoption("markexpr"):
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


def pytest_sessionstart() -> None:
    """What pilotfish says of rendering stands before a test imports mujoco, and after its types are watched."""
    importlib.import_module("pilotfish")


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs() -> Iterator[None]:
    """What a file compiled is let go: all files' programs take more pieces of memory than Linux lets a process have."""
    yield
    importlib.import_module("jax").clear_caches()
