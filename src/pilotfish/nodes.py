"""The machines of a Ray cluster, and what its workers are told before they begin."""

import contextlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from pilotfish import extras

SENT = ("JAX_ENABLE_X64", "JAX_PLATFORMS", "MUJOCO_GL", "PILOTFISH_NO_CACHE", "XLA_FLAGS")
"""Variables that change what is computed, which workers get as they are here."""


class NoCluster(RuntimeError):
    """There is no cluster where one was asked for; the message says what to do."""


def check_installed() -> None:
    """ValueError, with the command that installs it, if Ray is not there."""
    extras.check("Ray", "ray", "ray")


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to a cluster by Ray's address: "auto" for the one that runs here, "local" for one of this machine
    alone, that ends with the connection, or HOST:PORT. A process that has a connection keeps it. NoCluster if there is
    no cluster; ValueError if Ray is not installed.
    """
    check_installed()
    import ray

    if ray.is_initialized():
        yield
        return
    connect(address)
    try:
        yield
    finally:
        ray.shutdown()


def connect(address: str) -> None:
    """Connect this process to a cluster until it ends."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    import ray

    env = {name: os.environ[name] for name in SENT if name in os.environ} | {"OPENBLAS_NUM_THREADS": "1"}
    how: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    here = threading.current_thread() is threading.main_thread()
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)  # another program's beginning
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": env, "worker_process_setup_hook": "pilotfish.runs.programs.keep"},
                **how,
            )
    except (ConnectionError, ValueError, RuntimeError, SystemExit) as error:  # the last where nobody answers
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise NoCluster(
            f"no Ray cluster at {address!r} ({said}). Start one by `ray start --head`, give its HOST:PORT, or take "
            "this machine alone: local."
        ) from error
    finally:
        if here:
            signal.signal(signal.SIGTERM, terminated)  # which Ray takes
