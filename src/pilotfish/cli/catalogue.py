"""The command that says what there is: list. Without a task it imports no jax, so that it answers at once."""

import dataclasses
import inspect
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from pilotfish import manual, registry
from pilotfish.cli import COMMANDS
from pilotfish.experiments import TITLES

if TYPE_CHECKING:
    from pilotfish.tasks import Task

TRAIN = """usage: pilotfish train TASK [--algorithm NAME] [OPTIONS]

Learn a controller for a task. What comes of it is left in a folder, runs/TASK-ALGORITHM-NUMBER: the controller, all
numbers, learning curves, a film. A run that is interrupted goes on by `pilotfish resume`.

TASK is one of

{tasks}

NAME is one of

{algorithms}

Settings, the common ones first:

{settings}

Each task and each algorithm has settings of its own, --task.NAME and --algorithm.NAME: `pilotfish train TASK
--algorithm NAME --help` shows them with their defaults, `pilotfish list TASK` says what a task is.
"""
OTHER_TASKS = {
    "gym:NAME": "an environment of Gymnasium",
    "MODEL.xml": "a MuJoCo model (.xml, .mjcf, .urdf, .mjb), with --cost FILE.py",
    "FILE.py:CLASS": "a task of your own",
}
"""What else may be learned."""
FURTHER = {
    "--algorithm": "How it learns; by default what was measured for the task, or needs the fewest rollouts.",
    "--cost": "Of a MuJoCo model: the Python file that says what it shall do.",
    "--teacher": "Of dagger: the run whose local controllers teach.",
    "--from": "Another run, with whose controllers learning begins: what it deploys, or what taught its network.",
    "--config": "A file of settings (.toml), as every run leaves one; what is said on the command line comes after it.",
}
"""What `train` knows beside its own fields."""


@dataclasses.dataclass
class _List:
    task: tyro.conf.Positional[str | None] = None
    """A task, of which all is said: state, action, cost, settings and where they come from."""
    json: bool = False
    """Print JSON."""
    pictures: Path | None = None
    """Instead, write a picture of the task, or of all, into this .png."""


def list_(argv: list[str]) -> None:
    """Print all tasks, algorithms and figures, or all that is known of one task."""
    args = tyro.cli(_List, args=argv, prog="pilotfish list", description=COMMANDS["list"])
    if args.pictures is not None:
        _picture(args.pictures, args.task)
    elif args.task is not None and (model := _uncosted(args.task)):
        print(model)
    elif args.task is not None:
        known = described(args.task)
        print(json.dumps(known, indent=2) if args.json else _told(known))
    else:
        known = {
            "tasks": {entry.name: entry.about() for entry in registry.tasks().values()},
            "algorithms": {entry.name: entry.about() for entry in registry.algorithms().values()},
            "figures": TITLES,
        }
        print(json.dumps(known, indent=2) if args.json else "\n".join(f"{k}:\n{_lines(v)}" for k, v in known.items()))


def _lines(summaries: Mapping[str, str]) -> str:
    width = max(map(len, summaries))
    return "\n".join(f"  {name:{width}s}  {summary}" for name, summary in summaries.items())


def train(_: list[str]) -> None:
    """Explain how any task is learned: what `pilotfish train --help` says without a task."""
    own = manual.fields(Path(__file__).with_name("learn.py"), "_Train")
    flags = {f"--{name.replace('_', '-')}": field.words for name, field in own.items()}
    settings = {"--algorithm": FURTHER["--algorithm"]} | flags | FURTHER
    del settings["--task"]
    rows = []
    for flag, words in settings.items():
        rows += textwrap.wrap(f"{flag:20s} {words}", 116, initial_indent="  ", subsequent_indent=" " * 23)
    known = [
        {entry.name: entry.about() for entry in all_.values()} for all_ in (registry.tasks(), registry.algorithms())
    ]
    said = TRAIN.format(
        tasks=_lines(known[0] | OTHER_TASKS),
        algorithms=_lines(known[1] | {"FILE.py:CLASS": "an algorithm of your own"}),
        settings="\n".join(rows),
    )
    print(said, end="")


def _picture(path: Path, name: str | None) -> None:
    from pilotfish import tasks
    from pilotfish.view import film

    if path.suffix != ".png":
        raise ValueError(f"--pictures {path}: choose a name that ends in .png.")
    shown = list(tasks.registry().values()) if name is None else [tasks.find(name)]
    path.parent.mkdir(parents=True, exist_ok=True)
    print(film.sheet(path, shown))


# -- one task


def _uncosted(name: str) -> str:
    """What a MuJoCo model, which has no cost yet, has to control, and how to write one; "" of other tasks."""
    from pilotfish import tasks
    from pilotfish.tasks import model

    task = tasks.find(name).make()
    return task.needs_a_cost() if isinstance(task, model.ModelTask) else ""


def described(name: str) -> dict[str, Any]:
    """All that is known of a task, in words, numbers and lists of them."""
    from pilotfish import experiments, tasks
    from pilotfish.runs.evaluation import Generalises
    from pilotfish.types import no_cost

    entry = tasks.find(name)
    task = entry.make()
    problem, algorithm = task.problem(), experiments.default_algorithm(name)
    setup = experiments.setup(name, algorithm)
    module = type(task).__module__
    written = manual.of_class(type(task))
    return {
        "name": name,
        "summary": entry.about(),
        "module": module,
        "description": _documentation(task),
        "entries": _entries(task),
        "x": problem.dx,
        "o": problem.do,
        "u": problem.du,
        "action_low": _numbers(problem.action_low),
        "action_high": _numbers(problem.action_high),
        "initial_std": _numbers(problem.initial_std),
        "horizon": problem.horizon,
        "dt": problem.dt,
        "cost": _words(problem.cost),
        "final_cost": "none" if problem.final_cost is no_cost else _words(problem.final_cost),
        "conditions": len(problem.conditions.mean),
        "success": None if problem.success is None else _words(problem.success),
        "held_out": isinstance(task, Generalises),
        "algorithm": algorithm,
        "rollouts": setup.rollouts,
        "iterations": setup.iterations,
        "settings": {
            field: {"value": _plain(getattr(task, field)), "kind": one.kind, "words": one.words}
            for field, one in written.items()
            if field in {own.name for own in dataclasses.fields(task)}
        },
    }


def _documentation(task: "Task") -> str:
    """What a task's file says of it: its state and action, their units, its cost and source."""
    module = inspect.getmodule(type(task))
    return inspect.cleandoc((module and module.__doc__) or type(task).__doc__ or "")


def _entries(task: "Task") -> list[str]:
    """What the entries of x and u are, a line each, where a MuJoCo model says it."""
    from pilotfish.tasks.gym import GymnasiumTask
    from pilotfish.tasks.model import describe
    from pilotfish.tasks.mujoco import MujocoTask

    if isinstance(task, GymnasiumTask):
        return task.entries
    return describe(task.simulation().model).splitlines() if isinstance(task, MujocoTask) else []


def _numbers(array: Any) -> list[float | None]:
    """The numbers of a vector; None for one that is not finite."""
    import numpy as np

    return [float(value) if np.isfinite(value) else None for value in np.asarray(array)]


def _words(function: Any) -> str:
    """The first line of what a function's docstring says of it; empty if nothing."""
    function = getattr(function, "__func__", function)
    return (function.__doc__ or "").strip().partition("\n")[0] if inspect.isfunction(function) else ""


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else repr(value)


def facts(known: Mapping[str, Any]) -> dict[str, str]:
    """What a task's numbers and functions are, each in a line under its name."""
    T, dt, N, M = known["horizon"], known["dt"], known["conditions"], known["rollouts"]
    limits = zip(known["action_low"], known["action_high"], strict=True)
    bounds = sorted({f"{_bound(low, '-')} to {_bound(high, '')}" for low, high in limits})
    std = sorted(set(known["initial_std"]))
    said = {
        "episode": f"{T} actions, one every {dt:g} s: {T * dt:g} s",
        "state x": f"{_count(known['x'])}" + f"; what is observed of it: {known['o']}" * (known["o"] != known["x"]),
        "action u": f"{_count(known['u'])}, {', '.join(bounds)}; noise at first {', '.join(f'{s:g}' for s in std)}",
        "starts": f"{N} condition{'s' * (N != 1)}{', and others kept for testing' * known['held_out']}",
        "cost": f"of a step: {known['cost']}" if known["cost"] else "as said above, or in its code",
        "final cost": known["final_cost"],
        "success": "not defined" if known["success"] is None else known["success"] or "defined",
        "learned by": f"{known['algorithm']}, {known['iterations']} iterations of {M} rollout{'s' * (M != 1)} from "
        f"each condition, where nothing else is said: pilotfish train {known['name']}",
        "a picture": f"pilotfish list {known['name']} --pictures FILE.png",
        "its code": known["module"],
    }
    return {name: words for name, words in said.items() if words}


def _told(known: dict[str, Any]) -> str:
    """The same to be read."""
    parts = [
        f"{known['name']}: {known['summary']}",
        known["description"],
        *(["\n".join(known["entries"])] * bool(known["entries"])),
    ]
    parts.append("\n".join(f"{name:11s} {words}" for name, words in facts(known).items()))
    if known["settings"]:
        parts.append("\n".join(["settings, --task.NAME:", *_settings(known["settings"])]))
    return "\n\n".join(parts)


def _count(number: int) -> str:
    return f"{number} number{'s' * (number != 1)}"


def _bound(value: float | None, sign: str) -> str:
    return f"{sign}inf" if value is None else f"{value:g}"


def _settings(known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = []
    for name, one in known.items():
        rows.append(f"  {name.replace('_', '-')} = {one['value']}")
        rows += textwrap.wrap(one["words"], 112, initial_indent="      ", subsequent_indent="      ")
    return rows
