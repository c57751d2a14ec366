"""Every door of the library shows in its docstring how it is used, and what is shown is true."""

import ast
import contextlib
import doctest
import inspect
import io
import pkgutil
from pathlib import Path

import pytest
import tyro

import pilotfish as pf
from pilotfish import registry

DOORS = (
    *pf.__all__,
    "acting.load",
    "algorithms.find",
    "environments.TaskEnvironment",
    "policies.Policy.predict",
    "policies.Policy.save",
    "policies.files.save",
    "policies.onnx.written",
    "registry.algorithms",
    "registry.tasks",
    "tasks.find",
    "testing.check_algorithm",
    "testing.check_policy",
    "testing.check_task",
)
"""What users call: the public names, and what is beside them."""


def found(door):
    return pkgutil.resolve_name(f"pilotfish.{door}")


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_an_example_shows_how_it_is_used_and_is_true(door, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where examples leave their runs and files
    monkeypatch.setenv("WANDB_MODE", "offline")  # which is asked for once in a process, and other tests need
    shown = inspect.getdoc(found(door)) or ""
    example = doctest.DocTestParser().get_doctest(shown, {"__name__": "__main__"}, door, None, 0)
    assert example.examples, f"{door}: its docstring has no example"
    said = io.StringIO()
    with contextlib.redirect_stderr(io.StringIO()):
        failed = doctest.DocTestRunner(verbose=False, optionflags=doctest.FAIL_FAST).run(example, out=said.write).failed
    assert not failed, said.getvalue()


def test_no_example_is_left_out():
    """A docstring with an example is that of a door."""
    run = {(inspect.getsourcefile(inspect.unwrap(found(door))), found(door).__qualname__) for door in DOORS}
    for path in Path(pf.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for name, node in named(ast.parse(text)) if ">>>" in text else ():
            assert ">>>" not in (ast.get_docstring(node) or "") or (str(path), name) in run, f"{path}: {name}"


def named(tree, within=""):
    """All that may have a docstring, with its qualified name; that of a module is empty."""
    yield within.rstrip("."), tree
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield from named(node, f"{within}{node.name}.")


def test_help_shows_the_example_and_then_the_fields():
    text = inspect.getdoc(pf.MOTO)
    assert 0 < text.index("\nExample:\n\n>>> import pilotfish as pf") < text.index("\nFields\n------\nreuse: ")


@pytest.mark.filterwarnings("ignore:Mutable type")
def test_the_command_line_explains_settings_without_examples(capsys):
    for name, entry in registry.ALGORITHMS.items():
        with pytest.raises(SystemExit):
            tyro.cli(entry.load(), args=["--help"])
        text = capsys.readouterr().out
        assert entry.load().__doc__.split()[0] in text, name
        assert ">>>" not in text, name
