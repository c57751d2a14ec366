"""What one sees while a run learns: a live table on a terminal, plain lines elsewhere."""

import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from pilotfish.runs.loop import Turn
from pilotfish.runs.spec import Spec
from pilotfish.runs.train import explain


class Watch:
    """A live table on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, spec: Spec):
        self.console, self.spec = console, spec
        self.bound = spec.algorithm["options"].get("kl_step")
        columns = ("{task.description}", BarColumn(), TextColumn("{task.completed}/{task.total}"))
        self.progress = Progress(
            *columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console
        )
        self.bar = self.progress.add_task("compiling", total=spec.iterations)
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
        columns = _columns(turn)
        refused = [s for s, ok in enumerate(np.atleast_1d(turn.report.info.ok)) if not ok]
        for s in refused:
            self.console.print(
                f"seed {self.spec.seeds[s]}: update refused, {explain(turn, s)}",
                style="yellow",
                soft_wrap=True,
            )
        row = (str(turn.i + 1), *columns)
        if self.live is not None:
            self.rows = [*self.rows[-14:], row]
            self.progress.update(self.bar, completed=turn.i + 1, description="learning")
            self.live.update(self._table(self.progress))
        else:
            names = (
                "cost",
                "success",
                f"kl (<= {self.bound:g})" if self.bound else "kl",
                "entropy",
                "samples",
            )
            text = "  ".join(f"{name} {value}" for name, value in zip(names, columns, strict=True))
            self.console.print(f"{turn.i + 1:4d}/{self.spec.iterations}  {text}{self._left(turn.i)}", soft_wrap=True)

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
        bound = f"KL (<= {self.bound:g})" if self.bound else "KL"
        for name in ("iteration", "cost", "success", bound, "entropy", "effective samples"):
            table.add_column(name, justify="right")
        for row in self.rows:
            table.add_row(*row)
        if below is None:
            return table
        grid = Table.grid()
        grid.add_row(table)
        grid.add_row(below)
        return grid


def _columns(turn: Turn) -> tuple[str, ...]:
    """Mean over seeds of what one watches: cost, success, KL, entropy, effective samples."""
    outcome, info = turn.report.outcome, turn.report.info

    def mean(source: Any, name: str, form: str) -> str:
        values = np.asarray(getattr(source, name, np.nan), float)
        return "-" if np.isnan(values).all() else form.format(np.nanmean(values))

    return (
        mean(outcome, "cost", "{:.4g}"),
        mean(outcome, "success", "{:.0%}"),
        mean(info, "kl", "{:.3f}"),
        mean(info, "entropy", "{:.2f}"),
        mean(info, "ess", "{:.0f}"),
    )
