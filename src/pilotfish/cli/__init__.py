"""The command line: `pilotfish COMMAND`. Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted."""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

# jaxlib's LAPACK uses SciPy's OpenBLAS, whose threads fight those of XLA: the same program may take 20 or
# 800 ms an iteration. Only an entry point can say so in time, before numpy and jax are imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

COMMANDS = {
    "list": "tasks, algorithms and figures, with a line each",
    "train": "learn a controller for a task",
    "resume": "go on with a run exactly where it stopped",
    "evaluate": "cost and success of what a run learned, with 95% intervals",
    "render": "a film (.gif, .mp4) or filmstrip (.png) of what a run learned",
    "report": "one self-contained HTML page about one or several runs",
    "export": "a policy file that acts without jax",
    "figure": "a paper's figure: run it, draw it, and judge each claim of the paper about it",
}

MODULES = {name: "learn" if name in ("train", "resume") else "results" for name in COMMANDS}
MODULES |= {"list": "catalogue", "figure": "figure"}
"""Where each command lives."""

HELP = """usage: pilotfish COMMAND [OPTIONS]

Learn controllers from tens to hundreds of episodes.

commands:
{commands}

options:
  --version   the version
  --help      this text; `pilotfish COMMAND --help` explains a command

begin with:   pilotfish train double-link
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    warnings.formatwarning = lambda message, *_, **__: f"pilotfish: {message}\n"
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """Run one command and return its exit code. Imports nothing heavy before it knows that it must."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:10s}  {text}" for name, text in COMMANDS.items())))
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        from pilotfish import __version__

        print(f"pilotfish {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}."
        return complain(f"unknown command {name!r}: {hint}", 2)
    module = import_module(f"pilotfish.cli.{MODULES[name]}")
    command: Callable[[list[str]], int | None] = getattr(module, "list_" if name == "list" else name)
    from pilotfish.runs import RunError

    try:
        return command(rest) or 0
    except RunError as error:
        return complain(str(error), 1)
    except ValueError as error:
        return complain(str(error), 2)
    except KeyboardInterrupt:
        return complain("interrupted.", 130)


def complain(message: str, code: int) -> int:
    """Say what is wrong, and return the exit code."""
    print(f"pilotfish: {message}", file=sys.stderr)
    return code
