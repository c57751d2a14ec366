"""The command that reproduces a paper's figure: runs what is missing, draws it, and judges what is said of it."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import IO, cast

import numpy as np
import tyro
from rich.box import MINIMAL
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pilotfish import experiments, nodes
from pilotfish.cli import COMMANDS
from pilotfish.cli.watch import Listener, SeveralWatch, on_cluster
from pilotfish.experiments import study
from pilotfish.experiments.claims import PaperFigure, Study, slug
from pilotfish.experiments.exhibits import ELSEWHERE, Curves, Map, PaperTable, Rows
from pilotfish.experiments.study import Performed
from pilotfish.registry import named
from pilotfish.runs.store import replacing

COLOUR = {"holds": "green", "does not hold": "red", "undecided": "yellow"}


@dataclasses.dataclass
class _Figure:
    id: tyro.conf.Positional[str]
    """The figure; `pilotfish list` names all."""
    seeds: int | None = None
    """Seeds of each arm; by default as many as in the paper, and more where it has three."""
    quick: bool = False
    """A smoke test: two seeds and five iterations, whose verdicts are no evidence."""
    sensitivity: bool = False
    """Also try the claims under other choices of what the paper leaves unsaid, with fewer seeds."""
    out: Path | None = None
    """The figure's folder; by default figures/ID. What is finished there is not run again."""
    ray: str = ""
    """Learn on a cluster of Ray, every seed of every arm on one core: auto for the one that runs here, its HOST:PORT,
    or local. Needs pilotfish[ray]."""
    json: bool = False
    """Print verdict.json; everything else goes to the error stream."""


def figure(argv: list[str]) -> int:
    """Run, draw and judge a paper's figure."""
    args = tyro.cli(_Figure, args=argv, prog="pilotfish figure", description=COMMANDS["figure"])
    chosen: PaperFigure = named(experiments.figures(), args.id, "figure")
    if args.seeds is not None and args.seeds < 1:
        raise ValueError(f"--seeds {args.seeds}: must be 1 or more.")
    if args.ray:
        nodes.check_installed()
    folder = args.out or chosen.folder(args.quick)
    listener = Listener(sys.stderr if args.json else sys.stdout, f"the figure is drawn all the same, in {folder}.")
    console = Console(file=cast(IO[str], listener), highlight=False, emoji=False)
    how = (chosen, folder, args.seeds, args.quick, args.sensitivity)
    console.print(f"{chosen.id}: {chosen.title} -> {folder}", style="bold", soft_wrap=True)
    try:
        on_cluster(args.ray, console, lambda: study.left(*how))
        with SeveralWatch(console, len(study.plan(*how).jobs)) as watch:
            performed = study.perform(*how, observe=watch)
    except KeyboardInterrupt:
        words = f"interrupted. The same command goes on: {study.command(*how)}"
        console.print(words, style="bold", soft_wrap=True)
        return 130
    _draw(chosen, folder, performed)
    if args.json:
        print(json.dumps(performed.record, indent=2))
    else:
        _say(console, chosen, performed)
        table = ", table.md" if chosen.exhibit else ""
        shared = f"; each arm's run is in {chosen.runs(folder, args.quick)}"
        console.print(f"in {folder}: verdict.json, figure.png (.pdf, .svg){table}{shared}", soft_wrap=True)
    if args.quick:
        console.print("A quick run is a smoke test: its verdicts are no evidence.", style="bold yellow", soft_wrap=True)
    return 0


def _draw(chosen: PaperFigure, folder: Path, performed: Performed) -> None:
    title = f"{chosen.id}: {chosen.title}"
    for kind in ("png", "pdf", "svg"):
        _picture(chosen, performed.reference.study, title, folder / f"figure.{kind}")
    for label, found in performed.sensitivity.items():
        path = folder / slug(label) / "figure.png"
        path.parent.mkdir(exist_ok=True)
        _picture(chosen, found.study, f"{title}; {label}", path)
    if chosen.exhibit:
        with replacing(folder / "table.md") as beside:
            beside.write_text(_markdown(chosen.exhibit.table(performed.reference.study)), encoding="utf-8")


def _picture(chosen: PaperFigure, found: Study, title: str, path: Path) -> None:
    from pilotfish.view import curves, panels

    match chosen.exhibit:
        case None:
            curves.comparison(found, path, title, chosen.x)
        case Curves() as shown:
            failures = {panel.title: panel.failure for panel in shown.panels if panel.failure is not None}
            mean = "geometric mean" if shown.of.scale == "log" else "mean"
            what = f"{shown.of.words}: {mean}, 95% interval"
            panels.curves(
                shown.lines(found), failures, what, title, path, shown.of.scale, shown.along(found), shown.over
            )
        case PaperTable() as shown:
            paper = {panel.title: shown.said(panel.title) for panel in shown.panels}
            panels.rates(shown.lines(found), paper, title, path)
        case Map() as shown if isinstance(shown.trained[0], float):
            panels.along(np.array(shown.grid), np.array(shown.trained), shown.along(found), title, path)
        case Map() as shown:
            grid, others, trained = (np.array(one).reshape(-1, 2) for one in (shown.grid, shown.others, shown.trained))
            success = {label: metrics[ELSEWHERE].mean(0) for label, metrics in found.items()}
            distances = np.array([shown.distances()[band].mean() for band in shown.bands()])
            panels.places(grid, others, trained, success, distances, shown.lines(found), title, path)


def _markdown(rows: Rows) -> str:
    head, *rest = rows
    lines = (" | ".join(row).replace("\n", "<br>") for row in (head, ["---"] * len(head), *rest))
    return "".join(f"| {line} |\n" for line in lines)


def _say(console: Console, chosen: PaperFigure, performed: Performed) -> None:
    """Where each arm ended, what is drawn, each claim with its number and verdict, and their sensitivity."""
    arms, verdicts = performed.record["arms"], performed.reference.verdicts
    rows = [["at last", "cost (median)", "success", "without noise", "updates refused"]]
    for label, arm in arms.items():
        success = _percent(arm["final_success_mean"]), _percent(arm.get("final_noise_free_success_mean"))
        cost = arm["final_cost_median"]
        rows.append([label, "-" if cost is None else f"{cost:.4g}", *success, f"{arm['updates_refused']:.1%}"])
    console.print(_table(rows))
    for label, arm in arms.items():
        if arm["note"]:
            console.print(f"{label}: {arm['note']}", style="yellow", soft_wrap=True)
    if chosen.exhibit:
        console.print()
        console.print(_table(chosen.exhibit.table(performed.reference.study)))
    for number, verdict in enumerate(verdicts, 1):
        console.print()
        claim, word = verdict.claim, (verdict.verdict, COLOUR[verdict.verdict])
        console.print(Text.assemble(f"{number}. ", word, f': "{claim.sentence}"'), soft_wrap=True)
        against = f", against {claim.threshold:.3g}" if claim.threshold else ""
        console.print(f"   {claim.measure}: {verdict.number}{against}", soft_wrap=True, markup=False)
    console.print()
    if performed.sensitivity:
        found = {"as above": verdicts} | {label: found.verdicts for label, found in performed.sensitivity.items()}
        rows = [["sensitivity", *(f"claim {number}" for number in range(1, len(verdicts) + 1))]]
        rows += [[label, *(verdict.verdict for verdict in row)] for label, row in found.items()]
        many = len(verdicts) > len(found)
        console.print(_table([list(row) for row in zip(*rows, strict=True)] if many else rows))


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{part:.0%}"


def _table(rows: Rows) -> Table:
    """A head, and cells of which those that are verdicts have their colour."""
    head, *rest = rows
    several = any("\n" in cell for row in rest for cell in row)
    table = Table(box=MINIMAL if several else None, show_lines=several, pad_edge=False, header_style="dim")
    for i, name in enumerate(head):
        table.add_column(name, justify="right" if i and not several else "left", no_wrap=i == 0)
    for row in rest:
        table.add_row(*(Text(cell, style=COLOUR.get(cell, "")) for cell in row))
    return table
