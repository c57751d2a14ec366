"""Runs whose seeds learn on many machines, through Ray: every seed of every run is a task, on one core.

The machine that asks keeps everything: a task gets the files of its seed's folder, and sends those that have changed
whenever the seed has a checkpoint. So machines share nothing but the network, and nothing that was sent is lost. Where
a worker or its machine dies the seed goes on elsewhere from its newest checkpoint; where the one that asks dies, from
that in the run's folder, when it is asked again. Which seed learns where changes nothing.
"""

import contextlib
import hashlib
import inspect
import socket
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pilotfish import nodes
from pilotfish.runs import RunError, lock, parts
from pilotfish.runs.parts import Apart, Observer
from pilotfish.runs.store import PART, Run, write

LOSSES = 3
"""So often in a row a seed's worker may die without a new checkpoint."""


class Progress(NamedTuple):
    """What a task sends."""

    changed: dict[str, bytes]
    """Files that are new or other than before, by their place in the seed's folder."""
    names: list[str]
    """All files that are there now."""
    why: str
    """Why the seed cannot go on; "" while it can."""


def finish(
    runs: Sequence[Run],
    address: str,
    log: Sequence[str] = (),
    observe: Observer = lambda run, seed, done: None,
) -> list[str]:
    """Let the seeds of runs learn what they have left on a cluster, and unite those of each run when all have.

    `address` is Ray's: "auto" for the cluster that runs here, "local" for one of this machine alone and for now, or
    HOST:PORT. Where the process uses Ray already, that cluster is used. A run ends where one process would end it: why
    each ended before its last iteration, "" if it did not.

    RunError if there is no such cluster, or if a seed's workers die again and again; what was learned stays.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(nodes.connected(address))
        except nodes.NoCluster as error:
            raise RunError(str(error)) from error
        return _Cluster(log, observe).finish(runs)


class _Cluster:
    """The tasks that are going on."""

    def __init__(self, log: Sequence[str], observe: Observer):
        import ray

        self.ray, self.log, self.observe = ray, log, observe
        bare = inspect.unwrap(_learn)  # what checks types at run time hides that it yields
        self.learn = ray.remote(num_cpus=1, max_retries=0, num_returns="streaming")(bare)
        self.going: dict[Any, tuple[Apart, int]] = {}
        self.held: dict[Path, contextlib.ExitStack] = {}
        """The locks of the runs that have begun and not ended."""
        self.ended: dict[Path, str] = {}
        """Why the runs that are whole again ended before their last iterations."""
        self.lost = Counter[Path]()
        self.trouble: dict[Path, str] = {}
        """Of runs of which a seed was given up."""

    def finish(self, runs: Sequence[Run]) -> list[str]:
        waiting = deque(runs)
        try:
            while waiting or self.going:
                while waiting and len(self.going) < self._most():
                    self._begin(waiting.popleft())
                for task in self.ray.wait(list(self.going), num_returns=1)[0] if self.going else ():
                    self._hear(task)
        finally:
            for lock_ in self.held.values():
                lock_.close()
        if self.trouble:
            raise RunError(" ".join(self.trouble.values()))
        return [self.ended[run.path] for run in runs]

    def _most(self) -> int:
        """So many tasks going on keep all cores busy: further runs begin when some have ended."""
        return 2 * max(int(self.ray.cluster_resources().get("CPU", 0)), 1)

    def _begin(self, run: Run) -> None:
        self.held[run.path] = contextlib.ExitStack()
        self.held[run.path].enter_context(run.writing())
        self._go_on(Apart(run, self.log))

    def _go_on(self, apart: Apart) -> None:
        """Ask for what is left of a run, of which nothing is going on; unite it if nothing is."""
        while not apart.left():
            if apart.unite():
                self.ended[apart.run.path] = apart.why
                self.held.pop(apart.run.path).close()
                return
        for s in apart.left():
            self._ask(apart, s)

    def _ask(self, apart: Apart, s: int) -> None:
        seed = apart.seeds[s]
        self.observe(apart.run, apart.run.spec.seeds[s], seed.done())
        files = {name: (seed.path / name).read_bytes() for name in _names(seed.path)}
        self.going[self.learn.remote(files, apart.until, apart.log)] = apart, s

    def _hear(self, task: Any) -> None:
        """Take what a task has sent, or what became of it."""
        apart, s = self.going[task]
        seed, number = apart.seeds[s], apart.run.spec.seeds[s]
        try:
            progress: Progress = self.ray.get(next(task))
        except StopIteration:
            del self.going[task]
            if apart.run.path not in self.trouble and all(other is not apart for other, _ in self.going.values()):
                self._go_on(apart)
            return
        except self.ray.exceptions.RayTaskError as error:
            said = " ".join(str(error.cause).split())
            raise RunError(f"seed {number} of {apart.run.path}: {said or type(error.cause).__name__}") from error
        except self.ray.exceptions.RayError as error:
            del self.going[task]
            self.lost[seed.path] += 1
            if self.lost[seed.path] < LOSSES:
                self._ask(apart, s)
            else:
                self.trouble[apart.run.path] = (
                    f"seed {number} of {apart.run.path}: its worker died {LOSSES} times, with no checkpoint between "
                    f"({type(error).__name__}). Is there memory for it?"
                )
            return
        if progress.changed:
            self.lost[seed.path] = 0
        _place(seed.path, progress.changed, progress.names)
        if progress.why:
            apart.failed[s] = progress.why
        self.observe(apart.run, number, seed.done())


_latest: list[Run] = []
"""What this worker learned last: what that was made of, a seed of the same run is made of."""


def _learn(files: Mapping[str, bytes], iterations: int, log: Sequence[str]) -> Iterator[Progress]:
    """On a worker: what a seed, of whose folder these are the files, learns, whenever it has a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        path, known = Path(folder), {name: _digest(content) for name, content in files.items()}
        _place(path, files, list(files))
        seed = Run.open(path, trust=True)
        try:
            seed.check_resumable()
        except RunError as error:
            raise RunError(f"on {socket.gethostname()}: {error}") from error
        if _latest and _latest[0].is_like(seed):
            seed.borrow(_latest[0])
        _latest[:] = [seed]
        for until in parts.stages(seed, iterations):
            why = parts.advance(seed, until, log)
            content = {name: (path / name).read_bytes() for name in _names(path)}
            changed = {name: file for name, file in content.items() if known.get(name) != _digest(file)}
            known |= {name: _digest(file) for name, file in changed.items()}
            yield Progress(changed, list(content), why)
            if why:
                return


def _names(folder: Path) -> list[str]:
    """The files in a seed's folder, by their places."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in files if path.name != lock.NAME and not path.name.startswith(PART))


def _place(folder: Path, files: Mapping[str, bytes], names: Sequence[str]) -> None:
    """Leave these files in a folder, checkpoints last, and none but those of the names."""
    for name in sorted(files, key=lambda name: (name.startswith("checkpoint"), name)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name, files[name])
    for name in set(_names(folder)) - set(names):
        (folder / name).unlink()


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
