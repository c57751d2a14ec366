"""The command that reproduces a paper's figure: runs what is missing, draws it, and judges what is said of it."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import IO, cast

import numpy as np
import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pilotfish import experiments
from pilotfish.cli import COMMANDS
from pilotfish.cli.watch import Listener
from pilotfish.experiments import study
from pilotfish.experiments.claims import PaperFigure, slug
from pilotfish.experiments.study import Job, Performed
from pilotfish.registry import named

COLOUR = {"holds": "green", "does not hold": "red", "undecided": "yellow"}


@dataclasses.dataclass
class _Figure:
    id: tyro.conf.Positional[str]
    """The figure; `pilotfish list` names all."""
    seeds: int | None = None
    """Seeds of each arm; by default as many as in the paper."""
    quick: bool = False
    """A smoke test: two seeds and five iterations, whose verdicts are no evidence."""
    sensitivity: bool = False
    """Also try the claims under other choices of what the paper leaves unsaid, with fewer seeds."""
    out: Path | None = None
    """The figure's folder; by default figures/ID. What is finished there is not run again."""
    json: bool = False
    """Print verdict.json; everything else goes to the error stream."""


def figure(argv: list[str]) -> int:
    """Run, draw and judge a paper's figure."""
    args = tyro.cli(_Figure, args=argv, prog="pilotfish figure", description=COMMANDS["figure"])
    chosen: PaperFigure = named(experiments.figures(), args.id, "figure")
    if args.seeds is not None and args.seeds < 1:
        raise ValueError(f"--seeds {args.seeds}: must be 1 or more.")
    folder = args.out or chosen.folder(args.quick)
    listener = Listener(sys.stderr if args.json else sys.stdout, f"the figure is drawn all the same, in {folder}.")
    console = Console(file=cast(IO[str], listener), highlight=False)
    how = (chosen, folder, args.seeds, args.quick, args.sensitivity)
    console.print(f"{chosen.id}: {chosen.title} -> {folder}", style="bold", soft_wrap=True)
    try:
        with _Watch(console, study.plan(*how).jobs) as watch:
            performed = study.perform(*how, observe=watch)
    except KeyboardInterrupt:
        words = f"interrupted. The same command goes on: {study.command(*how)}"
        console.print(words, style="bold", soft_wrap=True)
        return 130
    _draw(chosen, folder, performed)
    if args.json:
        print(json.dumps(performed.record, indent=2))
    else:
        _say(console, performed)
        console.print(f"in {folder}: verdict.json, figure.png and each arm's run", soft_wrap=True)
    if args.quick:
        console.print("A quick run is a smoke test: its verdicts are no evidence.", style="bold yellow", soft_wrap=True)
    return 0


class _Watch:
    """A line for each arm; on a terminal also a bar, over the rollouts of all arms."""

    def __init__(self, console: Console, jobs: list[Job]):
        self.console = console
        self.paths = [job.path for job in jobs]
        ends = np.cumsum([_rollouts(job, job.spec.iterations) for job in jobs])
        self.before = dict(zip(self.paths, [0, *ends], strict=False))
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self.progress = Progress(
            *columns,
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.bar = self.progress.add_task("", total=float(ends[-1]))
        self.path: Path | None = None

    def __enter__(self) -> "_Watch":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, job: Job, done: int) -> None:
        spec = job.spec
        if job.path != self.path:
            self.path = job.path
            text = f"{spec.iterations} iterations of {spec.rollouts} rollouts, {len(spec.seeds)} seed(s)"
            text += f", {done} iterations done" if done else ""
            number = f"{self.paths.index(job.path) + 1}/{len(self.paths)}"
            self.console.print(f"  {number}  {job.label}: {text}", soft_wrap=True, markup=False)
        completed = self.before[job.path] + _rollouts(job, done)
        self.progress.update(self.bar, completed=float(completed), description=f"{done}/{spec.iterations}")


def _rollouts(job: Job, iterations: int) -> int:
    return iterations * job.spec.rollouts * len(job.spec.seeds)


def _draw(chosen: PaperFigure, folder: Path, performed: Performed) -> None:
    from pilotfish.view import curves

    title = f"{chosen.id}: {chosen.title}"
    curves.comparison(performed.reference.study, folder / "figure.png", title, chosen.x)
    for label, found in performed.sensitivity.items():
        path = folder / slug(label) / "figure.png"
        path.parent.mkdir(exist_ok=True)
        curves.comparison(found.study, path, f"{title}; {label}", chosen.x)


def _say(console: Console, performed: Performed) -> None:
    """Where each arm ended, then each claim with its number and verdict, then their sensitivity."""
    table = Table(box=None, header_style="dim")
    for name in ("arm", "final cost (median)", "final success", "updates refused"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for label, arm in performed.record["arms"].items():
        cost, success, refused = arm["final_cost_median"], arm["final_success_mean"], arm["updates_refused"]
        table.add_row(
            label,
            "-" if cost is None else f"{cost:.4g}",
            "-" if success is None else f"{success:.0%}",
            f"{refused:.1%}",
        )
    console.print(table)
    for label, arm in performed.record["arms"].items():
        if arm["note"]:
            console.print(f"{label}: {arm['note']}", style="yellow", soft_wrap=True)
    verdicts = performed.reference.verdicts
    for number, verdict in enumerate(verdicts, 1):
        console.print()
        claim, word = verdict.claim, (verdict.verdict, COLOUR[verdict.verdict])
        console.print(Text.assemble(f"{number}. ", word, f': "{claim.sentence}"'), soft_wrap=True)
        against = f", against {claim.threshold:.3g}" if claim.threshold else ""
        console.print(f"   {claim.measure}: {verdict.number}{against}", soft_wrap=True, markup=False)
    console.print()
    if performed.sensitivity:
        table = Table(box=None, header_style="dim", title="sensitivity", title_justify="left")
        table.add_column("")
        for number in range(1, len(verdicts) + 1):
            table.add_column(f"claim {number}")
        rows = {"as above": verdicts} | {label: found.verdicts for label, found in performed.sensitivity.items()}
        for label, row in rows.items():
            table.add_row(label, *(f"[{COLOUR[v.verdict]}]{v.verdict}[/]" for v in row))
        console.print(table)
