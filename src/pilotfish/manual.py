"""What the source says of a class's fields: their types, defaults, and the words under each.

Python keeps no docstrings of fields. They are read from the source, so that `help` and the command line can show them;
nothing is imported for that.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Written(NamedTuple):
    """A field as it stands in the source."""

    kind: str
    """Its annotation."""
    default: str
    """Its default, as an expression; empty if it has none."""
    words: str
    """What is said of it, in one line; empty if nothing is."""


def fields(path: str | Path, name: str) -> dict[str, Written]:
    """The fields of the class of that name at the top of a Python file, in their order."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    found = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    words = {ast.unparse(one.targets[0]): ast.unparse(one.value) for one in tree.body if isinstance(one, ast.Assign)}
    choices = {alias: value for alias, value in words.items() if value.startswith("Literal[")}
    return {} if found is None else dict(_of_class(found, choices))


def _of_class(node: ast.ClassDef, choices: dict[str, str]) -> Iterator[tuple[str, Written]]:
    """Of a class's statements, with what stands for names of choices."""
    for here, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(here, ast.AnnAssign) or not isinstance(here.target, ast.Name):
            continue
        kind = ast.unparse(here.annotation)
        if here.target.id.startswith("_") or "ClassVar" in kind:
            continue
        said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
        words = " ".join(said.split()) if isinstance(said, str) else ""
        yield here.target.id, Written(choices.get(kind, kind), _default(here.value), words)


def _default(value: ast.expr | None) -> str:
    """The default in an assignment, also that of `eqx.field(default=...)`; of a `default_factory` what it calls."""
    if not isinstance(value, ast.Call) or not ast.unparse(value.func).endswith("field"):
        return "" if value is None else ast.unparse(value)
    given = {word.arg: word.value for word in value.keywords}
    if "default_factory" in given:
        factory = given["default_factory"]
        return ast.unparse(factory.body) if isinstance(factory, ast.Lambda) else f"{ast.unparse(factory)}()"
    return ast.unparse(given["default"]) if "default" in given else ""


def of_class(cls: type) -> dict[str, Written]:
    """The fields of a class and of those that it comes from, its own last; empty where there is no source."""
    found: dict[str, Written] = {}
    for one in reversed(cls.__mro__):
        if inspect.get_annotations(one):
            try:
                found |= fields(inspect.getsourcefile(one) or "", one.__qualname__)
            except (OSError, TypeError, SyntaxError):
                continue
    return found


def explained(cls: type) -> type:
    """The class itself, whose docstring from now on ends with its fields."""
    known = of_class(cls)
    if known and "\nFields\n" not in (cls.__doc__ or ""):
        cls.__doc__ = f"{inspect.getdoc(cls)}\n\nFields\n------\n{_listed(known)}"
    return cls


def _listed(known: dict[str, Written]) -> str:
    lines = []
    for name, field in known.items():
        lines.append(f"{name}: {field.kind}{f' = {field.default}' if field.default else ''}")
        lines += textwrap.wrap(field.words, 100, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)
