"""One process at a time writes into a run's folder.

The lock is the operating system's, on the file `.lock` in that folder: it ends with its process, whatever ends that.
The file says who holds it, and goes when it is let go. One that is left and not locked is stale, and is taken over if
its process was of this machine; of another one nobody can tell, for on some network disks locks do not reach so far.
Windows has no such locks: there nothing is locked.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pilotfish.runs import RunError

try:
    import fcntl
except ImportError:
    fcntl = None

NAME = ".lock"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. RunError, naming the machine and the process, if another holds it."""
    if fcntl is None:
        yield
        return
    with _locked(folder / NAME) as file:
        host, pid = _owner(file)
        if pid and host != socket.gethostname():
            raise RunError(
                f"{folder} was in use by process {pid} on {host}, and nobody here can tell whether it still is. If "
                f"that process has ended, delete {folder / NAME}."
            )
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                (folder / NAME).unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[str]]:
    """The file of that name, locked; not one that its owner has removed before it was locked here."""
    assert fcntl is not None
    while True:
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                host, pid = _owner(file)
                by = f"process {pid} on {host}" if pid else "another process"
                raise RunError(f"{path.parent} is in use by {by}. Wait until it has ended, or end it.") from None
            except OSError:
                pass  # a disk without locks: who wrote the file is all that can be told
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return


def _owner(file: IO[str]) -> tuple[str, str]:
    """Machine and process that the file names; empty if it names none."""
    file.seek(0)
    host, _, pid = file.read(300).strip().rpartition(" ")
    return host, pid
