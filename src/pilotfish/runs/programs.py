"""Programs that XLA compiled are kept for the next run, which then compiles nothing that this one did.

They are in

    $XDG_CACHE_HOME/pilotfish/programs, or ~/.cache/pilotfish/programs

They are the programs that would be compiled again, so results are the same to the bit. What a program is made for (the
processor's instructions, the number of cores, jaxlib) names a folder in that one: a program of another machine, which
shares the home folder, or of another set of cores is never loaded.

Nothing is kept or read where PILOTFISH_NO_CACHE is set, where JAX_COMPILATION_CACHE_DIR names a cache of the user's
own, or where the folder is not the user's alone, for what is read there is executed. What goes wrong with the folder
costs time and no run.

A process that has imported jax cannot begin: XLA says of every program that it loads on the error stream that it is
loaded, and asks only once whether it should.
"""

import contextlib
import hashlib
import os
import platform
import stat
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

SIZE = 256 * 1024**2
"""Bytes of all programs that are kept; those of a run of one task take one to two million."""
ENDING = "-cache"
"""What jax lets the name of a program's file end in."""


def keep() -> bool:
    """Let the programs of this process be kept, and those of processes that it starts; before jax is imported.

    False where they are not.
    """
    if "jax" in sys.modules or any(os.environ.get(n) for n in ("PILOTFISH_NO_CACHE", "JAX_COMPILATION_CACHE_DIR")):
        return False
    folder = _folder()
    try:
        if folder is None or not _is_own(folder):
            return False
        _let_go(folder, SIZE)
    except OSError:
        return False
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / _machine())
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # a run has a hundred small programs
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", r"Error (reading|writing) persistent compilation cache entry")
    return True


def _folder() -> Path | None:
    """Where programs are kept; None where there is no place for them."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    except RuntimeError:  # no home
        return None
    return base / "pilotfish" / "programs"


def _is_own(folder: Path) -> bool:
    """Whether none but the user can write to the folder, which is made if it is missing."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not hasattr(os, "getuid"):  # Windows keeps each user's folders apart
        return True
    found = folder.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _let_go(folder: Path, size: int) -> None:
    """Delete the programs that were used longest ago, until those that stay have no more than `size` bytes."""
    found = []
    for path in folder.rglob(f"*{ENDING}"):
        with contextlib.suppress(FileNotFoundError):  # another process lets it go
            of = path.stat()
            found.append((max(of.st_atime, of.st_mtime), of.st_size, path))
    total = 0
    for _, bytes_, path in sorted(found, reverse=True):
        total += bytes_
        if total > size:
            path.unlink(missing_ok=True)


def _machine() -> str:
    """A word for all that a program is made for and that jax does not ask for itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        processor = [line for line in lines if line.startswith(("vendor_id", "model", "flags", "Features", "CPU "))]
    except OSError:  # not Linux: of another machine all may differ
        processor = [platform.node(), platform.processor()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    what = [platform.machine(), *processor, str(cores), version("jax"), version("jaxlib")]
    return hashlib.sha256("\n".join(what).encode()).hexdigest()[:16]
