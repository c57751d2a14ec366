"""Pages of the site that are made of the program itself: a page a task, the list of algorithms, what docstrings say."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

import pilotfish
from pilotfish import manual, registry
from pilotfish.cli import catalogue

TILE = (330, 275)
"""Width and height of one picture of tasks.png, as `pilotfish list --pictures` draws it, in pixels."""
COLUMNS = 4
"""Pictures in a row of it."""
PAGES = {"cgps": "gps", "mdgps-linear": "mdgps"}
"""The page on which an algorithm is explained, where that is another one's."""


def write(docs: Path) -> None:
    """Write the pages of all tasks and the two lists, where they are not what they must be."""
    names = list(registry.TASKS)
    tiles = _tiles(docs / "tasks.png", len(names))
    for name, tile in zip(names, tiles, strict=True):
        picture = docs / "tasks" / f"{name}.png"
        if not picture.exists():
            picture.parent.mkdir(exist_ok=True)
            tile.save(picture)
        _keep(docs / "tasks" / f"{name}.md", _task(docs, name))
    _keep(docs / "tasks" / "index.md", _tasks(names))
    _keep(docs / "algorithms" / "index.md", _algorithms(docs / "algorithms"))


def _keep(path: Path, text: str) -> None:
    """Write a page, unless it stands there: what has not changed is not built again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _task(docs: Path, name: str) -> str:
    """A task's page: what `pilotfish list` says of it, its picture, and what of it was filmed."""
    known = catalogue.described(name)
    parts = [
        f"# {name}",
        f"{known['summary'][0].upper()}{known['summary'][1:]}.",
        f"![{name} at the start of an episode]({name}.png)",
        known["description"],
        _table(("", ""), catalogue.facts(known).items()),
    ]
    if known["entries"]:
        parts += ["## State and action", _block(known["entries"])]
    if known["settings"]:
        rows = [
            (f"`--task.{field.replace('_', '-')}`", f"`{one['value']}`", one["words"])
            for field, one in known["settings"].items()
        ]
        parts += ["## Settings", _table(("setting", "default", ""), rows)]
    if rows := _measured(docs / "results", name):
        parts += ["## What was measured", *rows]
    if films := _films(docs / "results", name):
        parts += ["## What it looks like", *(f"![{path.stem}](../results/{path.name})" for path in films)]
    return "\n\n".join(parts) + "\n"


def _measured(results: Path, name: str) -> list[str]:
    """What the table of all rows says of a task, and the picture of what they trade off."""
    lines = (results / "README.md").read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| `pilotfish train"))
    rows = [_flags(line) for line in lines[first + 2 :] if line.startswith(f"| `{name} ")]
    if not rows:
        return []
    found = ["\n".join([*lines[first : first + 2], *rows]), "[How, and what else](../results/README.md)."]
    if (results / f"{name}-tradeoff.png").exists():
        found.append(f"![What each algorithm takes on {name}, and comes to](../results/{name}-tradeoff.png)")
    return found


def _flags(row: str) -> str:
    """The row of a table whose command is told flag by flag, between which a narrow column may break."""
    command, cells = row.removeprefix("| `").split("`", 1)
    return f"| {' '.join(f'`{flag}`' for flag in re.findall(r'--[^ ]+(?: [^- ][^ ]*)?', command))}{cells}"


def _films(results: Path, name: str) -> list[Path]:
    """The films and filmstrips of a task: those whose name begins with the task's, and with no longer one."""
    found = []
    for path in sorted([*results.glob("*.gif"), *results.glob("*-filmstrip.png")]):
        longest = max((one for one in registry.TASKS if f"{path.stem}-".startswith(f"{one}-")), key=len, default="")
        if longest == name:
            found.append(path)
    return found


def _tasks(names: Sequence[str]) -> str:
    rows = [(f"[{name}]({name}.md)", f"![{name}]({name}.png)", registry.TASKS[name].about()) for name in names]
    return "\n\n".join(
        [
            "# Tasks",
            "`pilotfish train NAME` learns one, `pilotfish list NAME` says what is on its page here.",
            _table(("task", "", "what is to be done"), rows),
            _toctree(names),
        ]
    )


def _algorithms(folder: Path) -> str:
    """The list of algorithms; ValueError where one has no page."""
    rows = []
    for name, entry in registry.ALGORITHMS.items():
        page = PAGES.get(name, name)
        if not (folder / f"{page}.md").exists():
            raise ValueError(f"docs/algorithms/{page}.md: there is no page on the algorithm {name!r}. Write it.")
        kind = entry.source.rpartition(":")[2]
        where = f"pilotfish.{kind}" if kind in pilotfish.__all__ else entry.source.replace(":", ".")
        rows.append((f"[{name}]({page}.md)", entry.about(), f"{{py:class}}`~{where}`"))
    pages = dict.fromkeys(PAGES.get(name, name) for name in registry.ALGORITHMS)
    return "\n\n".join(
        [
            "# Algorithms",
            "`pilotfish train TASK --algorithm NAME`. Which to take: [choosing](../choosing.md).",
            _table(("algorithm", "what it does", "its settings"), rows),
            _toctree(list(pages)),
        ]
    )


def _toctree(names: Sequence[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", "", *names, "```", ""])


def _block(lines: Sequence[str]) -> str:
    return "\n".join(["```text", *lines, "```"])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _tiles(path: Path, count: int) -> list[Image.Image]:
    """The pictures of the tasks, cut from the sheet of all; ValueError if that is not of so many."""
    sheet = Image.open(path)
    rows = -(-count // COLUMNS)
    width, height = sheet.width // COLUMNS, sheet.height // rows
    if (width, height) != TILE:
        raise ValueError(f"{path} is not a sheet of {count} tasks: pilotfish list --pictures {path}")
    corners = [(i % COLUMNS * width, i // COLUMNS * height) for i in range(count)]
    return [sheet.crop((x, y, x + width, y + height)) for x, y in corners]


# -- signatures and docstrings


def signature(what: str, one: Any) -> tuple[str, str | None] | None:
    """Arguments and result as the source writes them; of a class its fields and their defaults, or what it is made of.

    None where there is no source.
    """
    if what == "class":
        fields = manual.of_class(one)
        if fields and _written(one.__init__) is None:
            known = [f"{name}={field.default}" if field.default else name for name, field in fields.items()]
            return f"({', '.join(known)})", None
        one = one.__init__
    node = _written(one)
    if node is None:
        return None
    arguments = node.args.posonlyargs or node.args.args
    if arguments and arguments[0].arg in ("self", "cls"):
        del arguments[0]
    return f"({ast.unparse(node.args)})", ast.unparse(node.returns) if node.returns else None


def _written(function: Any) -> ast.FunctionDef | None:
    try:
        node = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function)))).body[0]
    except (OSError, TypeError, SyntaxError):
        return None
    return node if isinstance(node, ast.FunctionDef) else None


def restructure(what: str, name: str, lines: list[str]) -> None:
    """Turn a docstring, in place, from the plain text of the source into what Sphinx reads.

    An indented paragraph stands as it is written. Elsewhere only `code` is marked up. A field is told with its type.
    """
    if "Fields" in lines and lines[lines.index("Fields") + 1].startswith("---"):
        del lines[lines.index("Fields") :]
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    lines[:] = [*"\n\n".join(_paragraph(one) for one in paragraphs).splitlines(), ""]
    if what == "attribute" and (kind := _kind(name)):
        lines[0] = f"{_linked(kind)}: {lines[0]}"


def _kind(name: str) -> str:
    """A field's type, as its class is written; empty of what is no field."""
    owner, _, field = name.rpartition(".")
    module, _, of = owner.rpartition(".")
    fields = manual.of_class(getattr(import_module(module), of))
    return fields[field].kind if field in fields else ""


def _linked(kind: str) -> str:
    """A type as it is written, with our own classes as links."""
    pieces = re.split(rf"\b({'|'.join(pilotfish.__all__)})\b", kind)
    pieces[::2] = [re.sub(r"\S(?:.*\S)?", r"``\g<0>``", piece) for piece in pieces[::2]]
    pieces[1::2] = [f":py:class:`~pilotfish.{piece}`" for piece in pieces[1::2]]
    return "\\ ".join(piece for piece in pieces if piece)


def _paragraph(text: str) -> str:
    if text.startswith((" ", "|")):
        return "::\n\n" + "\n".join(f"    {line}" for line in text.splitlines())
    if text.startswith(">>>"):
        return text
    pieces = re.split(r"`([^`]+)`", text)
    pieces[::2] = [re.sub(r"([\\*_|])", r"\\\1", piece) for piece in pieces[::2]]
    return "".join(f"\\ ``{' '.join(piece.split())}``\\ " if i % 2 else piece for i, piece in enumerate(pieces))
