"""A run's seeds apart and together again: no seed depends on another, so each can learn elsewhere.

    RUN/seeds/7/    a run of seed 7 alone, begun where RUN stands; until all are done and RUN has what they learned

What is put together is what one process would have learned, to the bit on processors of one kind. A run whose seeds are
apart may be stopped at any moment: what each has learned stays, and learning goes on there.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pilotfish.runs import logs
from pilotfish.runs.arms import stopped, train_as_specified
from pilotfish.runs.store import APART, COLUMNS, METRICS, Run, chained, sound, write
from pilotfish.runs.train import PATIENCE, TrainingFailed
from pilotfish.worlds import World
from pilotfish.worlds.host import PlantWorld

Observer = Callable[[Run, int, int], None]
"""Called with a run, one of its seeds, and the number of iterations that this has done: when it begins, and later."""


def check(world: World) -> None:
    """ValueError where seeds cannot learn apart."""
    if isinstance(world, PlantWorld):
        raise ValueError(f"there is one {type(world.only).__name__}, so its seeds learn one after the other.")


class Apart:
    """The seeds of a run, each learning for itself. Only who writes the run (`run.writing()`) may have them."""

    def __init__(self, run: Run, log: Sequence[str] = ()):
        """Those that are apart already go on where they are; `log` names what they are logged by.

        ValueError for what has to learn in one place.
        """
        check(run.assemble()[2])
        self.log = [name for name in logs.LOGS if name in log or (run.path / name).is_dir()]
        if "wandb" in self.log:
            raise ValueError("log wandb: seeds that learn apart are logged to TensorBoard only; leave out either.")
        self.run, self.begun, self.until = run, run.done(), run.spec.iterations
        self.seeds = [self._begun(s) for s in range(len(run.spec.seeds))]
        self.failed: dict[int, str] = {}
        """By a seed's place why its learning cannot go on."""

    @property
    def why(self) -> str:
        """Why the run ended before its last iteration; "" if it did not."""
        if self.run.done() >= self.run.spec.iterations:
            return ""
        return next(iter(self.failed.values()), f"stopped after {PATIENCE} refused updates in a row, of every seed.")

    def left(self) -> list[int]:
        """The places of the seeds that have something to learn."""
        return [s for s, seed in enumerate(self.seeds) if s not in self.failed and seed.done() < self.until]

    def unite(self) -> bool:
        """Put together what all have learned. False if the run ends before: then some have to learn that much anew."""
        end = self._end()
        if beyond := [s for s, seed in enumerate(self.seeds) if seed.done() > end]:
            self.until = end
            for s in beyond:
                shutil.rmtree(self.seeds[s].path)
                self.seeds[s] = self._begun(s)
            return False
        if end:
            self._gather(end)
        _removed(self.run)
        return True

    def _begun(self, s: int) -> Run:
        """The run of a seed that is there, or a new one that stands where the whole run does."""
        run, seed = self.run, self.run.spec.seeds[s]
        path, spec = run.path / APART / str(seed), dataclasses.replace(run.spec, seeds=[seed])
        if (path / "spec.json").exists():
            found = Run.open(path)
            if found.spec.digest() == spec.digest() and found.done() >= self.begun:
                found.extend(max(self.until, found.done()))
                found.borrow(run)
                return found
        shutil.rmtree(path, ignore_errors=True)
        found = Run.create(path, spec, run.path)
        found.borrow(run)
        if self.begun:
            i, tensors, carried = run.load_state()
            lines = sound(carried[METRICS])[0]
            own = [lines[0], *lines[1 + s :: len(run.spec.seeds)]]
            of_seed = {METRICS: _written(own), COLUMNS: carried[COLUMNS]}
            found.save_state(i, {name: value[s : s + 1] for name, value in tensors.items()}, of_seed)
            for name, content in of_seed.items():
                write(path / name, content)
        return found

    def _end(self) -> int:
        """How many iterations the whole run does: until one seed fails, or all refuse their updates."""
        metrics = [seed.metrics() for seed in self.seeds]
        end = min(seed.done() for seed in self.seeds)
        if end == self.begun:
            return end
        together = {"ok": np.concatenate([one["ok"][:, self.begun : end] for one in metrics])}
        refused = stopped(together)
        return end if refused is None else self.begun + refused

    def _gather(self, iterations: int) -> None:
        """Let the whole run have what its seeds learned in so many iterations."""
        states = [seed.load_state() for seed in self.seeds]
        assert all(state[0] == iterations for state in states)
        heads, *rows = zip(*[sound(state[2][METRICS])[0] for state in states], strict=True)
        lines = [heads[0], *(line for of_iteration in rows for line in of_iteration)]
        carried = {METRICS: _written(lines), COLUMNS: states[0][2][COLUMNS]}
        for seed in self.seeds:
            for log in self.log:
                shutil.copytree(seed.path / log, self.run.path / log, dirs_exist_ok=True)
        tensors = {name: np.concatenate([state[1][name] for state in states]) for name in states[0][1]}
        self.run.save_state(iterations, tensors, carried)
        for name, content in carried.items():
            write(self.run.path / name, content)


def advance(seed: Run, iterations: int, log: Sequence[str] = ()) -> str:
    """Train the run of one seed until so many iterations are done, past what would end it were it a run for itself: a
    seed that refuses its updates goes on as long as another learns. Why it cannot go on; "" if it could.
    """
    _, algorithm, world = seed.assemble()
    while (before := seed.done()) < iterations:
        try:
            with logs.of_run(seed, log) as callbacks:
                train_as_specified(seed, algorithm, world, callbacks, iterations)
        except TrainingFailed as error:
            if seed.done() == before:
                return str(error)
    return ""


def stages(seed: Run, iterations: int) -> Iterator[int]:
    """The iterations, from where a seed is, at which it leaves a checkpoint."""
    every, done = seed.spec.checkpoint_every, seed.done()
    yield from range(done - done % every + every, iterations, every)
    if done < iterations:
        yield iterations


def finish(run: Run, log: Sequence[str] = (), observe: Observer = lambda run, seed, done: None) -> str:
    """Let the seeds of a run that are apart learn what they have left, here, one after the other, and unite them. Why
    the run ended before its last iteration; "" if it did not.
    """
    with run.writing():
        apart = Apart(run, log)
        while True:
            for s in apart.left():
                seed = apart.seeds[s]
                observe(run, run.spec.seeds[s], seed.done())
                for iterations in stages(seed, apart.until):
                    if why := advance(seed, iterations, apart.log):
                        apart.failed[s] = why
                        break
                    observe(run, run.spec.seeds[s], seed.done())
            if apart.unite():
                return apart.why


def _written(lines: Sequence[str]) -> bytes:
    """The file of metrics that holds these lines, of which the first is the header."""
    header, *rows = (line.split(",") for line in lines)
    return chained(b"", [[*header, "check"], *rows])


def _removed(run: Run) -> None:
    shutil.rmtree(run.path / APART)
