"""The command that measures again what the documentation says was measured: results.

pilotfish results                                   every row of the tables, for many hours
pilotfish results double-link-lqr-gps cartpole      some of them
"""

import dataclasses
import json
import shlex
import sys
import time
from pathlib import Path
from typing import IO, Annotated, Any, cast

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import pilotfish
from pilotfish.cli import COMMANDS, learn
from pilotfish.cli.watch import Listener, on_cluster
from pilotfish.experiments.rows import AGAIN, ALL, ROWS, command
from pilotfish.registry import named
from pilotfish.runs import sweep
from pilotfish.runs.evaluation import SOLVED
from pilotfish.runs.store import Run, replacing, write_json
from pilotfish.runs.sweep import Arm, Found

TABLE = "table.md"


@dataclasses.dataclass
class _Results:
    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which rows; without one all of them. --list names them."""
    out: Path = Path("results")
    """The folder: NAME.json of each row, table.md of all, and pictures. What is finished there is not run again."""
    listed: Annotated[bool, tyro.conf.arg(name="list")] = False
    """Name the rows, and run nothing."""
    ray: str = ""
    """Learn on a cluster of Ray, every seed on one core: auto for the one that runs here, its HOST:PORT, or local."""
    json: bool = False
    """Print the rows' numbers; everything else goes to the error stream."""


def results(argv: list[str]) -> int:
    """Measure rows of the documentation's tables: train every seed, judge what it deploys, and keep all numbers."""
    args = tyro.cli(_Results, args=argv, prog="pilotfish results", description=COMMANDS["results"])
    chosen = list(args.names or ROWS)
    for name in chosen:
        named(ROWS, name, "row")
    if args.listed:
        width = max(map(len, chosen))
        print("\n".join(f"{name:{width}}  pilotfish train {ROWS[name]}" for name in chosen))
        return 0
    for name in chosen:
        _check_files(name)
    learn.check_ray(args.ray)
    listener = Listener(sys.stderr if args.json else sys.stdout, "measuring goes on.")
    console = Console(file=cast(IO[str], listener), highlight=False, emoji=False)
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        found = {name: _measured(name, args.out, args.ray, console, (i, len(chosen))) for i, name in enumerate(chosen)}
    except KeyboardInterrupt:
        again = shlex.join(["pilotfish", "results", *argv])
        console.print(f"interrupted. The same command goes on: {again}", style="bold", soft_wrap=True, markup=False)
        return 130
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        console.print(_table(found))
    console.print(f"in {args.out}: {', '.join(_written(args.out))}", soft_wrap=True)
    return 0


def _check_files(name: str) -> None:
    """ValueError if a row names a file that is not there."""
    for word in command(name):
        if word.endswith(".py") and not Path(word).exists():
            raise ValueError(f"{name} names {word}, which is not here: run it in the root of pilotfish's repository.")


def _measured(name: str, folder: Path, ray: str, console: Console, place: tuple[int, int]) -> dict[str, Any]:
    """The numbers of a row, which are then in its file: measured as far as they are missing."""
    words = command(name)
    _, spec = learn.asked(words, "results")
    arm = Arm(name, {}, folder / name, spec)
    console.print(f"  {place[0] + 1}/{place[1]}  {name}: pilotfish train {ROWS[name]}", soft_wrap=True, markup=False)
    begun, whole = time.process_time(), not (arm.path / "spec.json").exists() and not ray
    on_cluster(ray, console, lambda: sweep.left([arm]))
    one = sweep.perform([arm])[0]
    seconds = time.process_time() - begun
    kept, path = {}, folder / f"{name}.json"
    if path.exists() and not whole:
        kept = json.loads(path.read_bytes())
    record = _record(one, words) | {"cpu_seconds": seconds if whole else kept.get("cpu_seconds")}
    write_json(path, record)
    jax.clear_caches()
    return record


def _record(one: Found, words: list[str]) -> dict[str, Any]:
    """What a row came to: the numbers of every seed, and what is told of them."""
    spec, run, numbers = one.arm.spec, Run.open(one.arm.path), one.numbers()
    metrics, judged = run.metrics(), run.evaluation() or {}
    nothing = np.zeros_like(metrics["success"])
    return {
        "command": shlex.join(["pilotfish", "train", *words]),
        "version": pilotfish.__version__,
        "jax": jax.__version__,
        "task": spec.task["name"],
        "algorithm": spec.algorithm["name"],
        "rollouts": spec.rollouts,
        "measured": spec.measured,
        "conditions": len(run.assemble()[2].problem.conditions.mean),
        **{name: numbers[name] for name in ("seeds", "iterations", "note")},
        "cost_of_first_rollouts": metrics["cost"][:, 0].tolist(),
        "rollouts_to_first_success": _first(metrics["success"] > SOLVED, metrics["rollouts"]),
        # a policy is measured before it has learned from its iteration's own rollouts
        "rollouts_to_first_noise_free": _first(
            metrics.get("noise_free_success", nothing) == 1.0, metrics["rollouts"] - spec.rollouts
        ),
        **{name: numbers[name] for name in numbers if name.startswith(("rollouts_to", "cost", "success"))},
        "noise_free_episodes": judged.get("episodes"),
        "fresh": judged.get("fresh"),  # from starts that training knows nothing of
    }


def _first(succeeds: np.ndarray, rollouts: np.ndarray) -> list[int | None]:
    """Of each seed's iterations, by their rollouts, the first that succeeds; None where none does."""
    return [int(so_far[one.argmax()]) if one.any() else None for one, so_far in zip(succeeds, rollouts, strict=True)]


def _written(folder: Path) -> list[str]:
    """The table and the pictures of all rows that a folder has; their names."""
    from pilotfish.view import rows

    kept = {name: json.loads(path.read_bytes()) for name in ROWS if (path := folder / f"{name}.json").exists()}
    known = {name: record for name, record in kept.items() if "rollouts_to_first_success" in record}
    with replacing(folder / TABLE) as beside:
        beside.write_text(_markdown(known), encoding="utf-8")
    once = {name: record for name, record in known.items() if not name.endswith(AGAIN)}
    return ["NAME.json", TABLE, *(path.name for path in rows.pictures(once, folder))]


HEAD = (
    "`pilotfish train ...`",
    "seeds",
    "rollouts until over 90% of an iteration's succeed: median (range)",
    f"until {ALL} of {ALL} noise-free episodes do",
    "seeds of which over 90% of noise-free episodes succeed",
    "cost of a noise-free episode: median (95% interval of the mean)",
    "CPU s of all seeds",
)


def _needed(rollouts: list[int | None]) -> str:
    """Median and range over seeds, of which some may never succeed."""
    known = [np.inf if value is None else value for value in rollouts]
    if np.isinf(min(known)):
        return "-"
    middle, high = np.median(known), max(known)
    ends = f"{min(known):,.0f} to {'never' if np.isinf(high) else f'{high:,.0f}'}"
    return f"{'never' if np.isinf(middle) else f'{middle:,.1f}'.removesuffix('.0')} ({ends})"


def _cells(record: dict[str, Any]) -> list[str]:
    """What a table says of a row."""
    count, success = len(record["seeds"]), record["success"]
    needed = _needed(record["rollouts_to_first_success"])
    alone = _needed(record["rollouts_to_first_noise_free"]) if (record["measured"] or 0) >= ALL else "-"
    low, high = record["cost_interval"]
    interval = "" if low is None else f" ({low:.4g} to {high:.4g})"
    middle = record["cost_median"]
    holds = "-" if success is None else f"{sum(one > SOLVED for one in success)} of {count}"
    seconds = record["cpu_seconds"]
    cost = "none" if middle is None else f"{middle:.4g}{interval}"
    return [str(count), needed, alone, holds, cost, "-" if seconds is None else f"{seconds:.0f}"]


def _markdown(known: dict[str, dict[str, Any]]) -> str:
    rows = [HEAD, ["---"] * len(HEAD)]
    rows += [[f"`{record['command'].removeprefix('pilotfish train ')}`", *_cells(record)] for record in known.values()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _table(known: dict[str, dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for i, name in enumerate(("row", *HEAD[1:])):
        table.add_column(name, justify="right" if i else "left", max_width=24)
    for name, record in known.items():
        table.add_row(name, *_cells(record))
    return table
