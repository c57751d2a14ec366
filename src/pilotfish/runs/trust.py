"""Whose code a run may run.

A run of our own tasks and algorithms is numbers. One of a model with a cost file, of a class in a file, of an
environment, or of what a package registers names code, and that code runs when the run's task is made. It runs for
whoever began the run, and for whoever said once that the run is to be trusted: by an empty file, named by the
specification's SHA-256, in

    $XDG_STATE_HOME/pilotfish/trusted, or ~/.local/state/pilotfish/trusted

So a run stays trusted wherever it is moved to, and no longer once its specification, or a file of it, is another one.
"""

import contextlib
import os
from pathlib import Path
from typing import Any

from pilotfish import registry
from pilotfish.runs import RunError
from pilotfish.runs.spec import Spec


def foreign(spec: Spec) -> list[str]:
    """What a specification names that is not pilotfish's own."""
    named = ((spec.task, registry.TASKS), (spec.algorithm, registry.ALGORITHMS))
    return [str(part.get("name")) for part, ours in named if part.get("name") not in ours or "file" in part]


def trust(spec: Spec) -> None:
    """Remember that this specification may run what it names. Where nothing can be written it is forgotten."""
    record = _record(spec)
    if record is not None and foreign(spec):
        with contextlib.suppress(OSError):
            record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            record.touch()


def check(spec: Spec, path: Path) -> None:
    """Refuse to run code of a specification that nobody here has trusted."""
    record = _record(spec)
    if (names := foreign(spec)) and not (record is not None and os.path.exists(record)):
        files = [Path(path).name for path in spec.files if path.endswith(".py")]
        words = [word for word in _words(spec.task) if not any(word in name for name in names)]
        what = ", ".join([*names, *files, *words])
        raise RunError(
            f"{path} was not made here, and to open it runs code that it names: {what}. If you trust whoever made it, "
            "say --trust, once (in Python: Run.open(path, trust=True))."
        )


def _words(stored: dict[str, Any]) -> list[str]:
    """What a task's fields name, as the modules of an environment and of its wrappers are, but for its files."""
    values = [value for name, value in stored["options"].items() if name != "class"]
    words = [word for value in values for word in (value if isinstance(value, list) else [value])]
    return [word for word in words if type(word) is str and word and not os.path.isabs(word)]


def _record(spec: Spec) -> Path | None:
    """The file that says so; None where there is no place for it."""
    state = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    except RuntimeError:  # no home
        return None
    return base / "pilotfish" / "trusted" / spec.digest()
