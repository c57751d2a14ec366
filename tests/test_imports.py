"""Imports point one way, names say what is inside, and nothing is pickled."""

import ast
from pathlib import Path

import pytest

import pilotfish

ROOT = Path(pilotfish.__file__).parent
MODULES = {".".join(("pilotfish", *path.relative_to(ROOT).with_suffix("").parts)): path for path in ROOT.rglob("*.py")}
LAYERS = [
    {"extras", "sources", "manual"},
    {"nodes"},
    {"types", "registry", "acting"},
    {"algebra"},
    {"policies"},
    {"worlds", "models"},
    {"tasks", "updates"},
    {"algorithms"},
    {"runs"},
    {"experiments", "view", "demos"},
    {"cli", "environments", "testing"},
    {"__init__", "__main__"},
]
HEIGHT = {part: i for i, layer in enumerate(LAYERS) for part in layer}
ONLY = {
    "runs": {"extras", "nodes", "types", "registry", "sources", "manual", "policies", "algorithms", "worlds", "tasks"},
    "view": {"runs", "types", "registry", "tasks"},
}
"""What these may import: of `policies`, `algorithms`, `worlds` and `tasks` the protocol, never a member."""
WHOLE = ("extras", "nodes", "types", "registry", "sources", "manual", "runs")
"""Of these they may import everything."""
PROTOCOLS = (
    "pilotfish.tasks.mujoco",
    "pilotfish.tasks.gym",
    "pilotfish.tasks.demonstration",
    "pilotfish.policies.files",
    "pilotfish.worlds.host",
)
"""Kinds of tasks and worlds, and the files of policies and demonstrations, that are modules of their own."""


def imports(path):
    """All modules that a file imports, wherever in it, but for those that only a type checker reads."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package(name):
    return name.split(".")[1]


def part(name):
    first = name.split(".")[1]
    return "cli" if first == "commands" else first  # one part in two files: the names, and what they do


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name):
    here = part(name)
    assert here in HEIGHT, f"{name} has no place among the layers"
    ours = [other for other in imports(MODULES[name]) if other.startswith("pilotfish.")]
    for other in ours:
        there = part(other)
        if there in (here, "__version__"):
            continue
        assert HEIGHT[there] < HEIGHT[here], f"{name} imports {other}"
        if here in ONLY:
            assert there in ONLY[here], f"{name} imports {other}"
            member = (other.count(".") > 2 or other in MODULES) and not other.startswith(PROTOCOLS)
            assert there in WHOLE or not member, f"{name} imports {other}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_names_and_formats(name):
    assert not {"utils", "common", "core", "misc", "helpers"} & set(name.split("."))
    assert not {"pickle", "dill", "cloudpickle"} & {other.split(".")[0] for other in imports(MODULES[name])}


def functions(node, depth=0):
    """Every function of a file, and how many functions it is inside of."""
    for child in ast.iter_child_nodes(node):
        inside = isinstance(child, ast.FunctionDef)
        if inside:
            yield child, depth
        yield from functions(child, depth + inside)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_functions_are_short_and_closures_shallow(name):
    for function, depth in functions(ast.parse(MODULES[name].read_text())):
        assert function.end_lineno - function.lineno < 50, function.name
        assert depth < 2, function.name
