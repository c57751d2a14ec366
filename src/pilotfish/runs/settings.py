"""Settings as a file (.toml): `pilotfish train --config FILE` trains by it, and every run leaves its own.

    task = "cartpole"
    algorithm = "moto"
    rollouts = 100
    iterations = 40
    seeds = [0, 1]
    measured = 1
    checkpoint_every = 10

    [settings.task]
    force = 15.0

    [settings.algorithm]
    kl_step = 0.05

Whatever is left out is as `pilotfish train` has it. "None" stands for nothing; a part of an algorithm is a table of its
own, [settings.algorithm.dynamics]. Files are named from where the command is given.
"""

import json
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from pilotfish import tasks
from pilotfish.registry import nearest
from pilotfish.runs.spec import COUNTS, NOT_FINITE, SEEDS, Spec

NUMBERS = {"rollouts": (1, COUNTS), "iterations": (1, COUNTS), "measured": (0, COUNTS), "checkpoint_every": (1, COUNTS)}
"""What must be a whole number, and in which range."""
WORDS = ("task", "algorithm", "demonstration")
HEAD = "# pilotfish {version}: pilotfish train --config THIS_FILE --out NEW_FOLDER\n"


class Settings(NamedTuple):
    """What a file says; what it does not say is absent."""

    given: dict[str, Any]
    """By name: task, algorithm, demonstration, rollouts, iterations, measured, checkpoint_every, seeds (a list)."""
    task: dict[str, Any]
    """Fields of the task; those of a part in a dict of its own."""
    algorithm: dict[str, Any]


def read(path: str | Path) -> Settings:
    """The settings in a file. ValueError, naming the file and the setting, for what is none."""
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"--config {path}: there is no such file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"--config {path}: this is no TOML: {error}.") from error
    inner = found.pop("settings", {})
    for name, value in found.items():
        if wrong := _wrong(name, value):
            raise ValueError(f"--config {path}: {name} {wrong}")
    if not isinstance(inner, dict) or not all(isinstance(one, dict) for one in inner.values()):
        raise ValueError(f"--config {path}: settings must be tables, [settings.task] and [settings.algorithm].")
    if other := inner.keys() - {"task", "algorithm"}:
        raise ValueError(f"--config {path}: settings.{min(other)} is unknown: did you mean task or algorithm?")
    return Settings(found, inner.get("task", {}), inner.get("algorithm", {}))


def _wrong(name: str, value: Any) -> str:
    """What is wrong with one of the settings that every run has; "" if nothing is."""
    if name in WORDS:
        return "" if isinstance(value, str) and value else f"is {value!r}, and must be a name."
    if name == "seeds":
        whole = isinstance(value, list) and value and all(type(one) is int and 0 <= one < SEEDS for one in value)
        return "" if whole and len(set(value)) == len(value) else f"is {value!r}, and must be a list of whole numbers."
    if name not in NUMBERS:
        return f"is unknown: {nearest(name, (*WORDS, *NUMBERS, 'seeds', 'settings'))}"
    least, beyond = NUMBERS[name]
    whole = type(value) is int and least <= value < beyond
    return "" if whole else f"is {value!r}, and must be a whole number of {least} or more."


def written(spec: Spec) -> str:
    """The file that trains what a specification says."""
    named = {"task": _name(spec.task), "algorithm": _name(spec.algorithm)}
    if "demonstration" in spec.task:
        named["demonstration"] = spec.task["demonstration"]
    numbers = {
        name: getattr(spec, name) for name in ("rollouts", "iterations", "seeds", "measured", "checkpoint_every")
    }
    lines = [HEAD.format(version=spec.version)]
    lines += [] if spec.x64 else ["# It was computed in float32: JAX_ENABLE_X64=0.\n"]
    lines += [f"{name} = {_value(value)}\n" for name, value in (named | numbers).items()]
    for name, part in (("task", spec.task), ("algorithm", spec.algorithm)):
        options = {key: value for key, value in part.get("options", {}).items() if key != "class"}
        lines += _table(f"settings.{name}", options)
    return "".join(lines)


def _name(part: dict[str, Any]) -> str:
    """Of a task or an algorithm, such that it is found from every folder."""
    name = part.get("name", "")
    if "file" in part:
        return f"{part['file']}:{name.rpartition(':')[2]}"
    return part.get("options", {}).get("model", name) if name.lower().endswith(tasks.MODELS) else name


def _table(name: str, options: dict[str, Any]) -> list[str]:
    """A table and, after it, those of its parts."""
    own = {key: value for key, value in options.items() if not isinstance(value, dict)}
    lines = [f"\n[{name}]\n", *(f"{key} = {_value(value)}\n" for key, value in own.items())]
    for key, value in options.items():
        lines += _table(f"{name}.{key}", value) if isinstance(value, dict) else []
    return lines


def _value(value: Any) -> str:
    """In TOML: its words are written as JSON has them."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {_value(one)}' for key, one in value.items())}}}"
    if isinstance(value, str) and value not in NOT_FINITE:
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return '"None"' if value is None else value if isinstance(value, str) else json.dumps(value)
