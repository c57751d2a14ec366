"""The command that says what there is: list. It imports no jax, so that it answers at once."""

import dataclasses
import json
from pathlib import Path

import tyro

from pilotfish import registry
from pilotfish.cli import COMMANDS
from pilotfish.experiments import TITLES


@dataclasses.dataclass
class _List:
    json: bool = False
    """Print JSON."""
    pictures: Path | None = None
    """Instead, write a picture of every task into this .png."""


def list_(argv: list[str]) -> None:
    """Print all tasks, algorithms and figures."""
    args = tyro.cli(_List, args=argv, prog="pilotfish list", description=COMMANDS["list"])
    if args.pictures is not None:
        _picture(args.pictures)
        return
    known = {
        "tasks": {entry.name: entry.about() for entry in registry.tasks().values()},
        "algorithms": {entry.name: entry.about() for entry in registry.algorithms().values()},
        "figures": TITLES,
    }
    if args.json:
        print(json.dumps(known, indent=2))
        return
    for kind, summaries in known.items():
        print(f"{kind}:")
        for name, summary in summaries.items():
            print(f"  {name:16s} {summary}")


def _picture(path: Path) -> None:
    from pilotfish import tasks
    from pilotfish.view import film

    if path.suffix != ".png":
        raise ValueError(f"--pictures {path}: choose a name that ends in .png.")
    path.parent.mkdir(parents=True, exist_ok=True)
    print(film.sheet(path, list(tasks.registry().values())))
