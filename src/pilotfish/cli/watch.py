"""What one sees while a run learns: a live table on a terminal, plain lines elsewhere.

Its columns are those that the reports' `Shown` annotations ask for.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from pilotfish.algorithms import Algorithm
from pilotfish.cli import abandon, complain
from pilotfish.runs import cluster
from pilotfish.runs.columns import Columns, columns, flatten
from pilotfish.runs.loop import Turn
from pilotfish.runs.spec import Spec
from pilotfish.runs.store import Run
from pilotfish.runs.train import explain
from pilotfish.types import Problem

ROWS = 15
"""Iterations that the live table shows."""


class Listener:
    """A stream whose reader may go away (`| head -1`), or whose disk may be full: no more is lost than what is said."""

    def __init__(self, stream: Any, what: str):
        """`what` goes on."""
        self.stream, self.what = stream, what

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError as error:
            abandon(self.stream)
            complain(f"the output cannot be written any more ({error.strerror}): {self.what}", 0)
        return len(text)


class Watch:
    """A live table on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, spec: Spec, algorithm: Algorithm, problem: Problem):
        self.console, self.spec, self.algorithm, self.problem = console, spec, algorithm, problem
        bar = ("{task.description}", BarColumn(), TextColumn("{task.completed}/{task.total}"))
        self.progress = Progress(*bar, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)
        self.bar = self.progress.add_task("compiling", total=spec.iterations)
        self.shown: Columns = {}
        self.rows: list[tuple[str, ...]] = []
        self.live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
        self.began: tuple[int, float] | None = None
        """Number and time of the first iteration that ended: it took the compilation with it."""

    def __enter__(self) -> "Watch":
        if self.live is not None:
            self.live.start()
            self.live.update(self.progress)
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()
            self.console.print(self._table())

    def __call__(self, turn: Turn) -> None:
        if not self.shown:
            every = columns(self.algorithm, turn.report.outcome, turn.report.info)
            self.shown = {name: how for name, how in every.items() if how["column"]}
        values = flatten(turn.report)
        cells = [_cell(values[name], how["form"]) for name, how in self.shown.items()]
        self._say_what_was_refused(turn)
        if self.live is not None:
            self.rows = [*self.rows[1 - ROWS :], (str(turn.i + 1), *cells)]
            self.progress.update(self.bar, completed=turn.i + 1, description="learning")
            self.live.update(self._table(self.progress))
        else:
            text = "  ".join(f"{head} {cell}" for head, cell in zip(self._heads(), cells, strict=True))
            self.console.print(f"{turn.i + 1:4d}/{self.spec.iterations}  {text}{self._left(turn.i)}", soft_wrap=True)

    def _say_what_was_refused(self, turn: Turn) -> None:
        for s, (seed, ok) in enumerate(zip(self.spec.seeds, np.asarray(turn.report.info.ok), strict=True)):
            if ok.all():
                continue
            why = explain(turn, s, self.algorithm, self.problem)
            if ok.any():
                kept = np.flatnonzero(~ok).tolist()
                what = f"{len(kept)} of {ok.size} conditions keep their controllers, {kept}, {why}"
            else:
                what = f"update refused, {why}"
            self.console.print(f"seed {seed}: {what}", style="yellow", soft_wrap=True)

    def _heads(self) -> list[str]:
        return [
            how["column"] if how["bound"] is None or how["times"] else f"{how['column']} (<= {how['bound']:g})"
            for how in self.shown.values()
        ]

    def _left(self, i: int) -> str:
        """Time left, once it can be told."""
        if self.began is None:
            self.began = (i, time.monotonic())
            return ""
        first, began = self.began
        left = (time.monotonic() - began) / (i - first) * (self.spec.iterations - i - 1)
        return f"  left {left:.0f} s"

    def _table(self, below: Any = None) -> Any:
        table = Table(box=None, header_style="dim", caption_justify="left")
        for name in ("iteration", *self._heads()):
            table.add_column(name, justify="right")
        for row in self.rows:
            table.add_row(*row)
        if below is None:
            return table
        grid = Table.grid()
        grid.add_row(table)
        grid.add_row(below)
        return grid


@runtime_checkable
class Learned(Protocol):
    """One of several runs: a figure's or a sweep's."""

    @property
    def path(self) -> Path: ...

    @property
    def label(self) -> str: ...

    @property
    def spec(self) -> Spec: ...


class SeveralWatch:
    """A line for each of several runs when it begins; on a terminal also a bar over all of them."""

    def __init__(self, console: Console, count: int):
        self.console, self.count, self.done = console, count, dict[Path, float]()
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        left = (TextColumn("left"), TimeRemainingColumn())
        self.progress = Progress(*columns, *left, console=console, transient=True, disable=not console.is_terminal)
        self.bar = self.progress.add_task("", total=count)

    def __enter__(self) -> "SeveralWatch":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, one: Learned, done: int) -> None:
        """Tell that so many iterations of a run are done."""
        spec = one.spec
        if one.path not in self.done:
            text = f"{spec.iterations} iterations of {spec.rollouts} rollouts, {len(spec.seeds)} seed(s)"
            text += f", {done} iterations done" if done else ""
            number = f"{len(self.done) + 1}/{self.count}"
            self.console.print(f"  {number}  {one.label}: {text}", soft_wrap=True, markup=False)
        self.done[one.path] = done / spec.iterations
        words = f"{one.label}: {done}/{spec.iterations}"
        self.progress.update(self.bar, completed=sum(self.done.values()), description=words)


class Seeds:
    """What one sees while the seeds of runs learn apart: a line when one begins, goes on elsewhere, and has done all;
    on a terminal also a bar of the iterations of all.
    """

    def __init__(self, console: Console, runs: Sequence[Run]):
        self.console, self.several = console, len(runs) > 1
        self.total = sum(run.spec.iterations * len(run.spec.seeds) for run in runs)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        off = not console.is_terminal
        self.progress = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=off)
        self.bar = self.progress.add_task("iterations", total=self.total)
        self.done: dict[tuple[Path, int], int] = {}

    def __enter__(self) -> "Seeds":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, run: Run, seed: int, done: int) -> None:
        at, all_ = (run.path, seed), run.spec.iterations
        if at in self.done and done <= self.done[at]:
            said = f"goes on from iteration {done}: its worker died"
        elif at not in self.done:
            said = "begins" if not done else f"goes on from iteration {done}"
        else:
            said = f"{done} of {all_} iterations" if done == all_ else ""
        self.done[at] = done
        if said:
            where = f"{run.path.name}, " if self.several else ""
            self.console.print(f"  {where}seed {seed}: {said}", soft_wrap=True, markup=False)
        self.progress.update(self.bar, completed=sum(self.done.values()))


def on_cluster(ray: str, console: Console, left: Callable[[], Sequence[Run]], log: Sequence[str] = ()) -> None:
    """Where a cluster is asked for, let it learn what some runs have left, watched, and leave none to this process."""
    if ray and (runs := left()):
        with Seeds(console, runs) as watch:
            cluster.finish(runs, ray, log, watch)


def _cell(values: Any, form: str) -> str:
    """The mean over seeds."""
    values = np.asarray(values, float)
    return "-" if np.isnan(values).all() else form.format(np.nanmean(values))
