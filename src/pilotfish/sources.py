"""Python files of the user's own: what they define, and what they are made of.

Such a file may import what is installed, and at its top also modules beside it, and read data beside it. No other
file's imports find those modules. `executed(path).sources` names all of it, so that a run can keep copies.
"""

import builtins
import contextlib
import hashlib
import importlib.abc
import importlib.util
import io
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple


def absolute(path: str | Path) -> str:
    """A setting that names a file, wherever the program goes on; empty where none is named."""
    return os.path.abspath(path) if path else ""


class Executed(NamedTuple):
    """A Python file that was run."""

    module: ModuleType
    """What it defines."""
    sources: dict[str, bytes]
    """What it is made of: the file, and beside it the modules that it imported and the data that it read; by path."""


class _Loader(importlib.abc.ExecutionLoader):
    """Of a file by the bytes that were read of it: never by a compiled copy, which may be of others."""

    def __init__(self, path: str, source: bytes):
        self.path, self.source = path, source

    def get_filename(self, fullname: str) -> str:
        return self.path

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self.source)


_KEPT: dict[str, Executed] = {}


def executed(path: str) -> Executed:
    """What a Python file defines. The same sources give the same functions and classes, which JAX then compiles once.

    ValueError, naming the line, if there is none or if it raises.
    """
    existing(path)
    kept = _KEPT.get(path)
    if kept is None or any(
        not Path(one).is_file() or Path(one).read_bytes() != was for one, was in kept.sources.items()
    ):
        kept = _KEPT[path] = _run(path)
    return kept


def existing(path: str) -> Path:
    """A file's path; ValueError if there is none."""
    if not (file := Path(path)).is_file():
        raise ValueError(f"{path}: there is no such file.")
    return file


def _run(path: str) -> Executed:
    """Run a Python file, whose imports find the modules beside it, which no other file's imports will find."""
    folder, source, before = os.path.dirname(path), Path(path).read_bytes(), set(sys.modules)
    name = f"{Path(path).stem}-{hashlib.sha256(path.encode()).hexdigest()[:12]}"
    loader = _Loader(path, source)
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # for classes look there for what their annotations name
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        with _no_bytecode(), opened() as read:
            loader.exec_module(module)
    except Exception as error:  # whatever is in the user's file
        del sys.modules[name]
        raise ValueError(told(error, path)) from error
    finally:
        sys.path.remove(folder)
        places = {one: getattr(sys.modules[one], "__file__", None) or "" for one in set(sys.modules) - before - {name}}
        imported = {one: place for one, place in places.items() if _is_beside(folder, place)}
        for one in imported:
            del sys.modules[one]
    parts = {*imported.values(), *beside(path, read)}
    return Executed(module, {path: source} | {part: Path(part).read_bytes() for part in parts})


def beside(path: str, read: set[str]) -> set[str]:
    """Those of the files that were read which lie beside a file."""
    return {place for place in read if _is_beside(os.path.dirname(path), place) and os.path.isfile(place)}


def _is_beside(folder: str, place: str) -> bool:
    """Whether a file is in the folder, not hidden there, and in no other place there that modules come from."""
    others = [other for other in sys.path if other != folder and Path(other).is_relative_to(folder)]
    if not Path(place).is_relative_to(folder) or any(Path(place).is_relative_to(other) for other in others):
        return False
    return not any(part.startswith(".") for part in Path(place).relative_to(folder).parts)


@contextlib.contextmanager
def opened() -> Iterator[set[str]]:
    """The files that Python's `open` reads meanwhile."""
    found, before = set(), builtins.open

    def noticing(file: Any, mode: str = "r", *arguments: Any, **settings: Any) -> Any:
        if isinstance(file, str | os.PathLike) and mode.startswith("r") and "+" not in mode:
            found.add(os.path.abspath(os.fsdecode(file)))
        return before(file, mode, *arguments, **settings)

    builtins.open = io.open = noticing
    try:
        yield found
    finally:
        builtins.open = io.open = before


@contextlib.contextmanager
def _no_bytecode() -> Iterator[None]:
    """Without compiled copies of modules, which Python takes for those of a file that changes within a second."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def told(error: Exception, path: str, instead: str = "") -> str:
    """One line: where in the user's file, and what is wrong there, or what is to be said `instead`."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    said = str(error)
    if isinstance(error, SyntaxError) and error.filename == path:
        lines, said = [error.lineno], error.msg
    where = f"{path}, line {lines[-1]}" if lines else path
    if instead:
        return f"{where}: {instead}."
    kind = "" if isinstance(error, ValueError) and not lines else f"{type(error).__name__}: "
    return f"{where}: {kind}{said}".splitlines()[0]
