"""Policies that were learned with this library, kept in the package: `pilotfish demo` films them, nothing is trained.

Each is a policy's file, as `pilotfish export RUN` writes it of a run whose settings are those that `pilotfish train`
begins with. tests/test_demos.py says that each still does what its task asks.
"""

from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from pilotfish.policies.files import read

FOLDER = Path(str(files("pilotfish.demos")))


class Demo(NamedTuple):
    """A policy that is kept here."""

    name: str
    task: str
    algorithm: str
    path: Path
    command: str
    """What learns such a one again; to the same bits only on a machine that computes alike."""


def demos() -> dict[str, Demo]:
    """All of them, by name."""
    found = {}
    for path in sorted(FOLDER.glob("*.safetensors")):
        words = read(path)[1]
        numbers = " ".join(f"--{name} {words[name]}" for name in ("rollouts", "iterations", "seed"))
        command = f"pilotfish train {words['task']} --algorithm {words['algorithm']} {numbers}"
        found[path.stem] = Demo(path.stem, words["task"], words["algorithm"], path, command)
    return found
