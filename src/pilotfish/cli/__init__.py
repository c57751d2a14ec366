"""The command line: `pilotfish COMMAND`.

Exit codes: 0 done, 1 failed, 2 bad usage, 130 interrupted, 141 nobody read the output to its end.
"""

import gc
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import IO, Any

from pilotfish.runs import programs

# jaxlib's LAPACK uses SciPy's OpenBLAS, whose threads fight those of XLA: the same program may take 20 or
# 800 ms an iteration. Only an entry point can say so in time, before numpy and jax are imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

COMMANDS = {
    "list": "tasks, algorithms and figures, with a line each; or all that is known of a TASK",
    "train": "learn a controller for a task",
    "resume": "go on with a run exactly where it stopped",
    "sweep": "train with every choice of settings, and say which is best; or search among them",
    "evaluate": "cost and success of what a run learned, with 95% intervals",
    "render": "a film (.gif, .mp4) or filmstrip (.png) of what a run learned",
    "report": "one self-contained HTML page about one or several runs",
    "export": "a policy file that acts without jax, or the metrics as a table",
    "demo": "a film of what was learned with this library, without learning anything",
    "figure": "a paper's figure: run it, draw it, and judge each claim of the paper about it",
    "results": "measure again what the documentation says was measured, and keep every number",
    "completion": "what lets a shell complete all this: bash, zsh or fish",
}

MODULES = {name: "learn" if name in ("train", "resume") else "results" for name in COMMANDS}
MODULES |= {name: name for name in ("figure", "demo", "sweep", "completion")}
MODULES |= {"list": "catalogue", "results": "measure"}
"""Where each command lives."""

COLOURS = r"\x1b\[[0-9;]*m"
"""What colours text in a terminal."""
SELDOM = 50_000, 50, 100
"""How seldom garbage is looked for. While JAX traces a program nearly all that is made stays, and to look through it
again and again, as Python does from 700 new objects on, takes a tenth of the processor's time of a short run."""
ASKS = ("-h", "--help")
"""What asks for help."""

HELP = """usage: pilotfish COMMAND [OPTIONS]

Learn controllers from tens to hundreds of episodes.

commands:
{commands}

options:
  --version   the version
  --help      this text; `pilotfish help COMMAND` explains a command
  --no-cache  after a COMMAND: compile anew what earlier runs compiled, and keep none of it (docs/performance.md)

begin with:   pilotfish train double-link
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit. To be terminated is to be interrupted: a run then is left resumable."""
    warnings.formatwarning = as_line
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        try:
            code = run(list(sys.argv[1:] if argv is None else argv))
        except SystemExit as stop:  # after --help, or a setting that is refused
            code = stop.code
        sys.stdout.flush()
    except BrokenPipeError:
        abandon(sys.stdout)
        code = 141
    except OSError as error:  # a full disk
        abandon(sys.stdout)
        code = complain(f"the output cannot be written: {error.strerror}.", 1)
    sys.exit(code)


def run(argv: list[str]) -> int:
    """Run one command and return its exit code. Imports nothing heavy before it knows that it must."""
    if argv[:1] == ["help"] and len(argv) > 1:
        argv = [argv[1], "--help"]
    if not argv or argv[0] in (*ASKS, "help"):
        print(HELP.format(commands="\n".join(f"  {name:10s}  {text}" for name, text in COMMANDS.items())))
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        from pilotfish import __version__

        print(f"pilotfish {__version__}")
        return 0
    from pilotfish.runs import RunError

    try:
        with _warnings_as_lines():
            words = _kept(argv[1:])  # before the command's module imports jax
            gc.set_threshold(*SELDOM)
            return _command(argv[0])(words) or 0
    except RunError as error:
        return complain(str(error), 1)
    except ValueError as error:
        return complain(str(error), 2)
    except KeyboardInterrupt:
        return complain("interrupted.", 130)
    except BrokenPipeError:
        raise
    except OSError as error:
        return complain(f"{error.filename or 'a file or the output'}: {error.strerror or error}.", 1)
    except RuntimeError as error:
        from pilotfish.worlds import RolloutsFailed  # here, for it imports jax

        if not isinstance(error, RolloutsFailed):
            raise
        return complain(f"{error}.", 1)
    except MemoryError as error:
        return complain(f"there is not enough memory: {error}", 1)


def _command(name: str) -> Callable[[list[str]], int | None]:
    """What a command does; ValueError with the nearest names if there is none of that name."""
    from pilotfish.registry import named

    named(COMMANDS, name, "command")
    if name == "train":
        return _train
    return getattr(import_module(f"pilotfish.cli.{MODULES[name]}"), "list_" if name == "list" else name)


def _train(argv: list[str]) -> int | None:
    """What all tasks have in common is explained at once, before jax is imported."""
    module = import_module(f"pilotfish.cli.{'catalogue' if argv[:1] in ([ASKS[0]], [ASKS[1]]) else MODULES['train']}")
    return module.train(argv)


def _kept(argv: list[str]) -> list[str]:
    """The words without --no-cache, where it stands: else what is compiled is kept. Before jax is imported."""
    if "--no-cache" not in argv:
        programs.keep()
    return [word for word in argv if word != "--no-cache"]


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """What is done without, of a damaged run, is said in a line each."""
    from pilotfish.runs import RunWarning

    with warnings.catch_warnings():
        otherwise, said = warnings.showwarning, set()

        def show(message: Any, category: Any, *where: Any) -> None:
            if not issubclass(category, RunWarning):
                otherwise(message, category, *where)
            elif str(message) not in said:
                said.add(str(message))
                complain(str(message), 0)

        warnings.simplefilter("always", RunWarning)
        warnings.showwarning = show
        yield


def as_line(message: Any, *_: Any, **__: Any) -> str:
    """A warning as the command line shows it, without the colours that Gymnasium gives its own."""
    return f"pilotfish: {re.sub(COLOURS, '', str(message))}\n"


def complain(message: str, code: int) -> int:
    """Say what is wrong, and return the exit code."""
    with suppress(BrokenPipeError):
        print(f"pilotfish: {message}", file=sys.stderr, flush=True)
    return code


def abandon(stream: IO[str]) -> None:
    """Let what else is written to a stream be lost: nobody reads it any more."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
