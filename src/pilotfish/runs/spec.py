"""What a run is made of, as JSON, and how that becomes a task, an algorithm and a world again.

A task, an algorithm or a part is a tree of modules with plain fields. It is stored as

    {"class": "LQRGPS", "kl_step": 0.3, "dynamics": {"class": "FittedDynamics", "prior": "gmm", ...}, ...}

with tuples as lists, and "inf", "-inf" and "nan" for the numbers that JSON lacks. What to make of it again is said by
the annotations of the classes' fields alone: a class is looked up among those that its field may hold, and a value must
be of a kind that its field may hold. Nothing else makes objects from JSON.

Where a specification names what is not pilotfish's own (a model with its cost, an environment, what a package
registers), `assemble` runs that code: `runs/trust` says whose.
"""

import dataclasses
import hashlib
import inspect
import json
import math
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import equinox as eqx
import jax.numpy as jnp

import pilotfish
from pilotfish import algorithms, sources, tasks
from pilotfish.algorithms import Algorithm
from pilotfish.registry import Entry, in_file, nearest, of_file
from pilotfish.runs import RunError, RunWarning
from pilotfish.tasks import Task, demonstration
from pilotfish.worlds import World

FORMAT = 4
COUNTS = 2**63
"""Beyond every number of iterations or rollouts."""
SEEDS = 2**31
"""Beyond every seed: JAX takes these in float32 as well."""
NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def computes_in_float64() -> bool:
    """True if jax computes in float64 now."""
    return jnp.result_type(float) == jnp.float64


@dataclasses.dataclass(frozen=True)
class Spec:
    """Everything a run is made of, fully resolved. `of` makes one; ValueError if a file that it names is not there.

    Example:

    >>> import pilotfish as pf
    >>> from pilotfish.tasks.lq import LinearQuadratic
    >>> task, counts = LinearQuadratic(), {"rollouts": 20, "iterations": 2, "seeds": [0]}
    >>> spec = pf.Spec.of(("lq", task), ("lqr-gps", pf.LQRGPS()), **counts, checkpoint_every=10)
    >>> spec.task["name"], spec.algorithm["options"]["kl_step"]
    ('lq', 0.1)
    """

    task: dict[str, Any]
    """name and options; of a class of the user's its file; the file of a demonstration with which learning begins, if
    there is one; the SHA-256 of each of the user's files: those, and what they and a MuJoCo model are made of"""
    algorithm: dict[str, Any]
    """name and options; of a class of the user's its file, of DAgger its teacher's, with their SHA-256"""
    rollouts: int
    """from each condition in an iteration"""
    iterations: int
    """how many there are to be"""
    seeds: list[int]
    """each of them learns for itself"""
    checkpoint_every: int
    """iterations from one checkpoint to the next"""
    measured: int = 0
    """noise-free episodes from each condition after every iteration, by which what is deployed is chosen"""
    version: str = pilotfish.__version__
    """of pilotfish, by which it was begun"""
    x64: bool = dataclasses.field(default_factory=computes_in_float64)
    """whether it is computed in float64, not in float32"""
    format: int = FORMAT
    """of the folder"""

    @classmethod
    def of(
        cls,
        task: tuple[str, Task],
        algorithm: tuple[str, Algorithm],
        *,
        rollouts: int,
        iterations: int,
        seeds: Iterable[int],
        checkpoint_every: int,
        measured: int = 0,
        demonstration: str = "",
    ) -> "Spec":
        """Of a task and an algorithm, each with its name in the registry, and the file of a demonstration if any."""
        stored = [_part(*task), _part(*algorithm)]
        if demonstration:
            path = os.path.abspath(demonstration)
            stored[0] |= {"demonstration": path, "files": stored[0].get("files", {}) | {path: digest_of(path)}}
        for part in stored:
            if missing := [path for path, digest in part.get("files", {}).items() if digest is None]:
                raise ValueError(f"{missing[0]}: there is no such file.")
        return cls(stored[0], stored[1], rollouts, iterations, list(seeds), checkpoint_every, measured)

    @classmethod
    def read(cls, fields: dict[str, Any]) -> "Spec":
        """Of what a file holds; ValueError, naming the field, if that is no specification."""
        names = {field.name for field in dataclasses.fields(cls)}
        if fields.keys() != names:
            raise ValueError(f"{min(fields.keys() ^ names)} is {'missing' if fields.keys() < names else 'unknown'}")
        for name in ("task", "algorithm"):
            _check_named(name, fields[name])
        for name in ("rollouts", "iterations", "checkpoint_every"):
            _check_whole(name, fields[name], 1, COUNTS)
        _check_whole("measured", fields["measured"], 0, COUNTS)
        if type(fields["seeds"]) is not list or not fields["seeds"]:
            raise ValueError(f"seeds is {fields['seeds']!r}, and must be a list of whole numbers")
        for seed in fields["seeds"]:
            _check_whole("one of seeds", seed, 0, SEEDS)
        if len(set(fields["seeds"])) < len(fields["seeds"]):
            raise ValueError("one of seeds is there twice")
        if type(fields["version"]) is not str or type(fields["x64"]) is not bool:
            raise ValueError("version must be a word, and x64 true or false")
        return cls(**fields)

    def digest(self) -> str:
        """Names what a checkpoint belongs to. How long the run goes on does not matter to it."""
        fields = {k: v for k, v in dataclasses.asdict(self).items() if k not in ("iterations", "checkpoint_every")}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of the user's files by path."""
        return self.task.get("files", {}) | self.algorithm.get("files", {})

    def copies(self) -> dict[str, Path]:
        """Where a run keeps its own copies of the user's files: by path the place in its folder.

        They lie to one another as the files do, so that what one says of another's place stays true.
        """
        if not (paths := list(self.files)):
            return {}
        base = os.path.commonpath([os.path.dirname(path) for path in paths])
        return {path: Path("files", os.path.relpath(path, base)) for path in paths}


def _part(name: str, module: Task | Algorithm) -> dict[str, Any]:
    """A task or an algorithm as a specification has it, with its own files."""
    part: dict[str, Any] = {"name": name, "options": described(module)}
    files = list(module.files)
    if entry := of_file(name):
        part |= {"name": entry.name, "file": entry.file}
        files += sources.executed(entry.file).sources
    return part | ({"files": {path: digest_of(path) for path in files}} if files else {})


def _check_named(name: str, stored: Any) -> None:
    """That a task or an algorithm is stored with its name and options, and perhaps its files."""
    kinds = {"name": str, "options": dict}
    if isinstance(stored, dict):
        more = {"files": dict, "file": str} | ({"demonstration": str} if name == "task" else {})
        kinds |= {key: kind for key, kind in more.items() if key in stored}
    if not isinstance(stored, dict) or {key: type(value) for key, value in stored.items()} != kinds:
        raise ValueError(f"{name} must be a name with options")
    for path, digest in stored.get("files", {}).items():
        if type(digest) is not str or not os.path.isabs(path) or os.path.normpath(path) != path:
            raise ValueError(f"{name}.files must hold a checksum for each path")
    for key in ("file", "demonstration"):
        if key in stored and stored[key] not in stored.get("files", {}):
            raise ValueError(f"{name}.files must hold a checksum of the {key}")
    if "file" in stored and (of_file(stored["name"]) is None or in_file_of(stored).name != stored["name"]):
        raise ValueError(f"{name}.name must be that of a class in {stored['file']}")


def _check_whole(name: str, value: Any, least: int, beyond: int) -> None:
    if type(value) is not int or not least <= value < beyond:
        raise ValueError(f"{name} is {value!r:.40}, and must be a whole number of {least} or more, below {beyond}")


def assemble(spec: Spec, folder: Path | None = None) -> tuple[Task, Algorithm, World]:
    """The task, algorithm and world of a specification, with a run's copies of the user's files in its `folder`.

    RunError if they cannot be made, or if neither the task's files nor the copies are what they were.
    """
    where, parts = _files(spec, folder), (spec.task, spec.algorithm)
    try:
        entries = [_entry(part, find, where) for part, find in zip(parts, (tasks.find, algorithms.find), strict=True)]
        task: Task = built(entries[0], _moved(spec.task["options"], where))
        algorithm: Algorithm = built(entries[1], _moved(spec.algorithm["options"], where))
        own = [path for entry in entries if entry.file for path in sources.executed(entry.file).sources]
        _check_parts({*task.files, *own}, where, folder)
        world = task.world()
        if path := spec.task.get("demonstration"):
            world = demonstration.beginning(world, where[path])
        return task, algorithm, world
    except (RunError, ValueError, OSError):
        raise
    except Exception as error:  # whatever numbers beyond all reason come to
        lines = str(error).splitlines() or [""]
        raise RunError(
            f"{spec.task['name']} cannot be made with these settings: {type(error).__name__}: {lines[0]}"
        ) from error


def _entry(part: dict[str, Any], find: Callable[[str], Entry], where: dict[str, str]) -> Entry:
    """What makes a task or an algorithm, of a file of the user's where that is now."""
    return in_file_of(part | {"file": where[part["file"]]}) if "file" in part else find(part["name"])


def in_file_of(part: dict[str, Any]) -> Entry:
    """The class, in its file, that a task or an algorithm as stored names."""
    return in_file(part["file"], part["name"].rpartition(":")[2])


def _moved(stored: Any, where: dict[str, str]) -> Any:
    """Options, or one of them, with the places of files where these are now."""
    if isinstance(stored, dict):
        return {name: _moved(value, where) for name, value in stored.items()}
    return where.get(stored, stored) if type(stored) is str else stored


def _files(spec: Spec, folder: Path | None) -> dict[str, str]:
    """Where the user's files are: by their path that path itself, or if one is not what it was that of the copy."""
    files = spec.files
    changed = next((path for path, digest in files.items() if digest_of(path) != digest), None)
    if changed is None:
        return {path: path for path in files}
    what = f"{changed} {'has changed' if os.path.isfile(changed) else 'is not there any more'} since this run began"
    copies = {path: os.path.abspath(folder / place) for path, place in spec.copies().items()} if folder else {}
    if not copies or any(digest_of(copies[path]) != digest for path, digest in files.items()):
        raise RunError(f"{what}: it would no longer be the same run. Put the file back as it was, or train anew.")
    assert folder is not None
    for module in (folder / "files").rglob("*.py"):
        if os.path.abspath(module) not in copies.values():
            raise RunError(f"{module} is no file of this run, and Python might import it: remove it.")
    warnings.warn(f"{what}: the copy in {folder} is used.", RunWarning, stacklevel=3)
    return copies


def _check_parts(files: set[str], where: dict[str, str], folder: Path | None) -> None:
    """Refuse what is made of copies and of other files as well: nobody knows what these were when the run began."""
    if folder and any(path != place for path, place in where.items()):
        for other in sorted(files - {*where.values()}):
            raise RunError(
                f"{other} belongs to the task and not to the run, so nobody can tell whether it is what it was. "
                "Name files of a model, of a cost and of a class by relative paths, and train anew."
            )


def digest_of(path: str) -> str | None:
    """SHA-256 of a file; None if there is none."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else None


# -- a tree of modules as JSON, and back


def described(module: eqx.Module, within: str = "") -> dict[str, Any]:
    """A task, an algorithm or a part as it is stored. ValueError, naming the field, for what cannot be."""
    stored: dict[str, Any] = {"class": type(module).__qualname__}
    for name, kind in _fields(type(module)).items():
        stored[name] = _stored(getattr(module, name), kind, within + name)
    return stored


def built(kind: type | Entry, stored: dict[str, Any], within: str = "") -> Any:
    """What `described` stored of a class, or of a registered name. RunError, naming it, for what is not known here."""
    return _built(_classes(type(kind.make()) if isinstance(kind, Entry) else kind), stored, within)


def _stored(value: Any, kind: Any, where: str) -> Any:
    if isinstance(value, eqx.Module) and _classes(kind).get(type(value).__qualname__) is type(value):
        return described(value, f"{where}.")
    if type(value) is tuple and (kinds := _elements(kind, len(value))) is not None:
        return [_stored(one, k, f"{where}[{i}]") for i, (one, k) in enumerate(zip(value, kinds, strict=True))]
    if value is None or type(value) in (bool, int):
        return value
    if isinstance(value, float) and (math.isfinite(value) or not _holds(kind, str)):
        return float(value) if math.isfinite(value) else repr(float(value))
    if type(value) is str and not (value in NOT_FINITE and _holds(kind, float)):
        return value
    raise ValueError(
        f"{where}={value!r}: a run cannot store this. Give a number, a word, None, a tuple of such, or a module of a "
        "class that the field's annotation names."
    )


def _read(stored: Any, kind: Any, where: str) -> Any:
    if isinstance(stored, dict):
        return _built(_classes(kind), stored, f"{where}.")
    if isinstance(stored, list):
        if (kinds := _elements(kind, len(stored))) is None:
            raise _unknown(where, f"{len(stored)} values", "the field holds something else")
        return tuple(_read(one, k, f"{where}[{i}]") for i, (one, k) in enumerate(zip(stored, kinds, strict=True)))
    if isinstance(stored, str) and stored in NOT_FINITE and _holds(kind, float):
        return NOT_FINITE[stored]
    if not any(_fits(stored, one) for one in _members(kind)):
        raise _unknown(where, f"{stored!r:.60}", "the field holds something else")
    return stored


def _fits(stored: Any, kind: Any) -> bool:
    """True if a scalar is of a kind: a whole number serves as a float."""
    if get_origin(kind) is Literal:
        return any(stored == word and type(stored) is type(word) for word in get_args(kind))
    if type(stored) is float and not math.isfinite(stored):
        return False
    return kind is Any or type(stored) is kind or (kind is float and type(stored) is int)


def _built(classes: dict[str, type], stored: dict[str, Any], within: str) -> Any:
    name = stored.get("class")
    if type(name) is not str or name not in classes:
        raise _unknown(f"{within}class", repr(name), f"known here: {', '.join(sorted(classes)) or 'none'}")
    fields = _fields(classes[name])
    for other in sorted(stored.keys() - {"class"} - fields.keys()):
        raise _unknown(within + other, repr(stored[other]), f"{name} has no such field")
    if missing := [within + field for field in fields if field not in stored]:
        raise _missing(missing, name)
    values = {field: _read(stored[field], kind, within + field) for field, kind in fields.items()}
    try:
        return classes[name](**values)
    except (ValueError, TypeError, ArithmeticError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise _Unfit(f"{within}{name} in the run's specification: {said}", said) from error


class _Unfit(RunError):
    """What is stored cannot be made; `short` says so without a run."""

    def __init__(self, message: str, short: str):
        super().__init__(message)
        self.short = short


def _missing(where: list[str], cls: str) -> RunError:
    """Of fields that a class has, and what is stored has not."""
    return _Unfit(
        f"{', '.join(where)}: missing in the run's specification, and {cls} has it in pilotfish "
        f"{pilotfish.__version__}. Use the version that stored it, or train anew.",
        f"{', '.join(where)}: {cls} cannot be made without it",
    )


def _unknown(where: str, found: str, why: str) -> RunError:
    return _Unfit(
        f"{where} is {found} in the run's specification, and {why} in pilotfish {pilotfish.__version__}. Use the "
        "version that stored it, or train anew.",
        f"{where} is {found}, and {why}",
    )


def overlaid(module: Any, settings: dict[str, Any], within: str = "") -> Any:
    """A task, an algorithm or a part with other settings, as a file of settings has them: {"part": {"field": ...}}.

    "None" stands for None. ValueError, naming the setting, for what does not fit.
    """
    fields, stored = _fields(type(module)), described(module)
    for name, value in settings.items():
        if name not in fields and name != "class":
            raise ValueError(f"{within}{name}: there is no such setting: {nearest(name, fields)}")
        own = getattr(module, name, None)
        alike = isinstance(own, eqx.Module) and isinstance(value, dict)
        if alike and value.get("class", type(own).__qualname__) == type(own).__qualname__:
            stored[name] = described(overlaid(own, value, f"{within}{name}."))
        elif name != "class":
            stored[name] = _as_stored(value, fields[name])
    try:
        return _built({type(module).__qualname__: type(module)}, stored, within)
    except _Unfit as error:
        raise ValueError(f"{error.short}.".replace("..", ".")) from error


def _as_stored(value: Any, kind: Any) -> Any:
    """A value of a file of settings as a specification stores it."""
    if value == "None" and type(None) in _members(kind):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, list):
        kinds = _elements(kind, len(value)) or [Any] * len(value)
        return [_as_stored(one, each) for one, each in zip(value, kinds, strict=True)]
    if isinstance(value, dict):
        cls = _classes(kind).get(str(value.get("class")))
        hints = _fields(cls) if cls else {}
        return _defaults(cls) | {name: _as_stored(one, hints.get(name, Any)) for name, one in value.items()}
    return value


def _defaults(cls: type | None) -> dict[str, Any]:
    """What a class takes for the fields that are not given, as it is stored."""
    if cls is None:
        return {}
    kinds = _fields(cls)
    defaults = {field.name: field.default for field in dataclasses.fields(cls) if field.name in kinds}
    given = {name: value for name, value in defaults.items() if value is not dataclasses.MISSING}
    return {name: _stored(value, kinds[name], name) for name, value in given.items()}


def _fields(cls: type) -> dict[str, Any]:
    """The annotations of the fields that make an object, by name."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _members(kind: Any) -> list[Any]:
    """What a union is of."""
    if get_origin(kind) in (Union, UnionType):
        return [member for one in get_args(kind) for member in _members(one)]
    return [kind]


def _holds(kind: Any, scalar: type) -> bool:
    """True if a field may hold a float, or a str."""
    members = _members(kind)
    words = any(isinstance(word, scalar) for one in members for word in get_args(one) if get_origin(one) is Literal)
    return words or any(one in (scalar, Any) for one in members)


def _elements(kind: Any, count: int) -> list[Any] | None:
    """The kinds of the elements of a tuple of that length; None if the field holds no such tuple."""
    for one in _members(kind):
        match get_args(one):
            case (every, last) if get_origin(one) is tuple and last is ...:
                return [every] * count
            case args if get_origin(one) is tuple and len(args) == count:
                return list(args)
    return [Any] * count if _holds(kind, tuple) else None


def _classes(kind: Any) -> dict[str, type]:
    """The modules' classes that a field may hold, and their subclasses, by name; not those that only others are of."""
    found: dict[str, type] = {}
    waiting = [get_origin(one) or one for one in _members(kind)]
    for cls in waiting:  # which grows: nearer classes come first, and keep a name that another has as well
        if isinstance(cls, type) and issubclass(cls, eqx.Module):
            if not inspect.isabstract(cls):
                found.setdefault(cls.__qualname__, cls)
            waiting += cls.__subclasses__()
    return found
