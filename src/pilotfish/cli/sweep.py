"""The command that compares settings: sweep.

    pilotfish sweep double-link --algorithm.kl-step 0.05,0.1,0.2 --algorithm.reuse none,both --seeds 5
    pilotfish sweep double-link --algorithm.kl-step 0.01:1.0:log --search 20

What follows is what `pilotfish train` understands, with several values or a range in place of one.
"""

import dataclasses
import itertools
import json
import re
import shlex
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from pilotfish.cli import COMMANDS, complain, learn
from pilotfish.cli.watch import Listener, SeveralWatch, on_cluster
from pilotfish.runs import RunError, logs, search
from pilotfish.runs import sweep as engine
from pilotfish.runs.search import Range
from pilotfish.runs.spec import Spec
from pilotfish.runs.sweep import Arm, Found

LISTED = re.compile(r"--((algorithm|task)\..+|rollouts|iterations|measured)")
"""Flags that may have several values."""
OTHER = re.compile(r"--?[A-Za-z]|[{\[]")
"""What begins another flag, or a value that may have commas of its own."""
RANGE = re.compile(r"([^:,]+):([^:,]+?)(:log)?")
SHOWN = 12
"""Arms whose learning curves are drawn: the best."""
WIDE = 160
"""Columns of a table in a file."""
MOST = 1000
"""Arms beyond which a mistake is likelier than a plan."""


@dataclasses.dataclass
class _Sweep:
    out: Path | None = None
    """The sweep's folder; by default sweeps/TASK-ALGORITHM. What is finished there is not run again."""
    search: int | None = None
    """Instead of every choice try so many, each chosen by what those before came to: settings then have ranges,
    LOW:HIGH or LOW:HIGH:log. Needs pilotfish[optuna]."""
    json: bool = False
    """Print sweep.json; everything else goes to the error stream."""


class Asked(NamedTuple):
    """A sweep as it is asked for."""

    args: _Sweep
    words: list[str]
    """Of `pilotfish train`; one of them where a setting varies is a place for its value."""
    varied: dict[str, tuple[int, str]]
    """By the flag of a setting that varies: the place of its value among the words, and what is said of it."""


def sweep(argv: list[str]) -> int:
    """Train with every choice of settings, and say which is best."""
    asked = _asked(argv)
    command = shlex.join(["pilotfish", "sweep", *argv])
    listener = Listener(sys.stderr if asked.args.json else sys.stdout, "the sweep goes on.")
    console = Console(file=cast(IO[str], listener), highlight=False, emoji=False)
    console.width = console.width if console.is_terminal else WIDE
    try:
        folder, found = (_grid if asked.args.search is None else _search)(asked, console)
    except KeyboardInterrupt:
        console.print(f"interrupted. The same command goes on: {command}", style="bold", soft_wrap=True, markup=False)
        return 130
    if not found:
        raise RunError("no choice of settings could be tried.")
    record = engine.keep(folder, found, command)
    _draw(folder, found, record)
    if asked.args.json:
        print(json.dumps(record, indent=2))
    else:
        console.print(_table(record, found))
        for label, arm in record["arms"].items():
            if arm["note"]:
                console.print(f"{label}: {arm['note']}", style="yellow", soft_wrap=True, markup=False)
        best = f"best: {record['best']}; pilotfish train --config {folder / engine.BEST}"
        console.print(
            best if record["best"] else "no arm has a finite cost", style="bold", soft_wrap=True, markup=False
        )
        files = "sweep.json, sweep.png, curves.png; each arm's run is in a folder of its own"
        console.print(f"in {folder}: {files}", soft_wrap=True)
    return 0


def _asked(argv: list[str]) -> Asked:
    """What the words ask for. ValueError where nothing varies, or a list or a range is none."""
    args, words = tyro.cli(
        _Sweep,
        args=argv,
        prog="pilotfish sweep TASK",
        description=f"{COMMANDS['sweep']}. Settings are those of `pilotfish train TASK --help`, with several values "
        "each: --algorithm.kl-step 0.05,0.1,0.2",
        return_unknown_args=True,
    )
    words = [part for word in words for part in _apart(word)]
    varied = {}
    for place, (flag, value) in enumerate(itertools.pairwise(words), 1):
        if not LISTED.fullmatch(flag) or OTHER.match(value):
            continue
        ranges = _is_range(value)
        if ranges and args.search is None:
            raise ValueError(f"{flag} {value}: a range is searched; say how many trials, as in --search 20.")
        if "," in value or ranges:
            varied[flag] = place, value
    if args.search is not None:
        search.check_installed()
        if args.search < 1:
            raise ValueError(f"--search {args.search}: must be 1 or more.")
    if not varied:
        what = "--algorithm.kl-step " + ("0.05,0.1,0.2" if args.search is None else "0.01:1.0:log")
        raise ValueError(f"sweep: no setting varies. Give one several values, as in {what}.")
    return Asked(args, words, varied)


def _apart(word: str) -> list[str]:
    """A flag and its value, where they are one word, as two."""
    flag, equals, value = word.partition("=")
    return [flag, value] if equals and LISTED.fullmatch(flag) else [word]


def _is_range(value: str) -> bool:
    """Whether it is LOW:HIGH or LOW:HIGH:log, of numbers."""
    if (match := RANGE.fullmatch(value)) is None:
        return False
    try:
        return all(np.isfinite(float(end)) for end in match.groups()[:2])
    except ValueError:
        return False


def _values(flag: str, said: str) -> list[str]:
    """The values in a list."""
    values = [one.strip() for one in said.split(",")]
    if "" in values:
        raise ValueError(f"{flag} {said}: a value is missing before or after a comma.")
    if len(set(values)) < len(values):
        raise ValueError(f"{flag} {said}: a value is there twice.")
    return values


def _made(asked: Asked, values: Mapping[str, str]) -> tuple[Any, Spec]:
    """The settings, and the run, of one choice of values by flag. What does not fit is said, and of which choice."""
    words = list(asked.words)
    for flag, value in values.items():
        words[asked.varied[flag][0]] = value
    label = _label(values)
    try:
        return learn.asked(words, "sweep")
    except SystemExit as stop:
        if stop.code:
            complain(f"that was the arm {label}.", 2)
        raise
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error


def _label(values: Mapping[str, str]) -> str:
    return ", ".join(f"{_name(flag)}={value}" for flag, value in values.items())


def _name(flag: str) -> str:
    """A setting's name: that of an algorithm's is what Python calls it."""
    return flag.removeprefix("--").removeprefix("algorithm.").replace("-", "_")


def _stored(spec: Spec, flag: str, text: str) -> Any:
    """The value of a setting as a run stores it; as it was said where that is not plain."""
    first, *inner = flag.removeprefix("--").replace("-", "_").split(".")
    if not inner:
        return getattr(spec, first)
    found: Any = getattr(spec, first).get("options", {})
    for name in inner:
        found = found.get(name, text) if isinstance(found, dict) else text
    return found if isinstance(found, bool | int | float | str) else text


def _arm(folder: Path, name: str, values: Mapping[str, str], spec: Spec) -> Arm:
    plain = {_name(flag): _stored(spec, flag, text) for flag, text in values.items()}
    return Arm(_label(values), plain, folder / name, spec)


# -- every choice


def _grid(asked: Asked, console: Console) -> tuple[Path, list[Found]]:
    """All choices of the values that are listed."""
    lists = {flag: _values(flag, said) for flag, (_, said) in asked.varied.items()}
    if (count := int(np.prod([len(values) for values in lists.values()]))) > MOST:
        raise ValueError(f"{count} arms: at most {MOST}. List fewer values, or let --search choose.")
    choices = [dict(zip(lists, choice, strict=True)) for choice in itertools.product(*lists.values())]
    made = [_made(asked, values) for values in choices]
    ray, log = made[0][0].ray, made[0][0].log
    logs.check(log)
    learn.check_ray(ray, log)
    folder = asked.args.out or Path("sweeps") / learn.named(made[0][1])
    arms = [_arm(folder, _folder(values), values, spec) for values, (_, spec) in zip(choices, made, strict=True)]
    _check_distinct(arms)
    console.print(f"{len(arms)} arms -> {folder}", style="bold", soft_wrap=True)
    on_cluster(ray, console, lambda: engine.left(arms), log)
    with SeveralWatch(console, len(arms)) as watch:
        return folder, engine.perform(arms, watch, log)


def _folder(values: Mapping[str, str]) -> str:
    """A choice as the name of a folder, on every system; what was changed for that is told apart by a checksum."""
    label = _label(values).replace(", ", ",")
    name = re.sub(r"[^\w.=,+-]+", "-", label)[:200]
    return name if name == label else f"{name}-{zlib.crc32(label.encode()):08x}"


def _check_distinct(arms: Sequence[Arm]) -> None:
    """Refuse two arms that are one, as 0.1 and .10 are."""
    known: dict[str, str] = {}
    for arm in arms:
        if (other := known.setdefault(repr(arm.spec), arm.label)) != arm.label:
            raise ValueError(f"{other} and {arm.label} are the same: leave one of them out.")


# -- a search


def _search(asked: Asked, console: Console) -> tuple[Path, list[Found]]:
    """Some choices, one after the other."""
    assert asked.args.search is not None
    ends = [{flag: _end(flag, said, i) for flag, (_, said) in asked.varied.items()} for i in (0, 1)]
    (args, low), (_, high) = (_made(asked, values) for values in ends)
    logs.check(args.log)
    if args.ray:
        raise ValueError(f"--ray {args.ray}: a search tries one choice after the other. Leave it out, or list values.")
    space = {flag: _space(flag, said, low, high) for flag, (_, said) in asked.varied.items()}
    folder = asked.args.out or Path("sweeps") / f"{learn.named(low)}-search"
    console.print(f"{asked.args.search} trials -> {folder}", style="bold", soft_wrap=True)

    def make(number: int, values: Mapping[str, str]) -> Arm:
        arm = _arm(folder, f"trial-{number:03d}", values, _made(asked, values)[1])
        return arm._replace(label=f"{number}: " + ", ".join(f"{name}={_cell(one)}" for name, one in arm.values.items()))

    with SeveralWatch(console, asked.args.search) as watch:
        return folder, search.perform(folder, space, _refusing(make), asked.args.search, args.seed, watch, args.log)


def _refusing(make: search.Make) -> search.Make:
    """The same, where settings that do not fit together are an error as any other is."""

    def made(number: int, values: Mapping[str, str]) -> Arm:
        try:
            return make(number, values)
        except SystemExit as stop:
            raise ValueError(f"trial {number} cannot be made") from stop

    return made


def _end(flag: str, said: str, i: int) -> str:
    """An end of a range, or the first of a list."""
    match = RANGE.fullmatch(said)
    return match[i + 1] if match else _values(flag, said)[0]


def _space(flag: str, said: str, low: Spec, high: Spec) -> Range | list[str]:
    """What is searched of a setting: a range of numbers, or a choice."""
    if (match := RANGE.fullmatch(said)) is None:
        return _values(flag, said)
    ends = [_stored(spec, flag, match[i]) for i, spec in enumerate((low, high), 1)]
    if not all(type(end) in (int, float) for end in ends):
        raise ValueError(f"{flag} {said}: only numbers have ranges. List words, as in {flag} one,other.")
    if not ends[0] < ends[1] or (match[3] and ends[0] <= 0):
        raise ValueError(f"{flag} {said}: give LOW:HIGH, or of numbers above 0 LOW:HIGH:log, with LOW below HIGH.")
    return Range(ends[0], ends[1], bool(match[3]), all(type(end) is int for end in ends))


# -- what is shown


def _table(record: Mapping[str, Any], found: Sequence[Found]) -> Table:
    """A line an arm: its settings, noise-free cost and success with their intervals, rollouts until it succeeds."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in found[0].arm.values:
        table.add_column(name, no_wrap=True)
    for name in (
        "cost (median)",
        "95% interval\nof the mean",
        "success",
        "95% interval",
        "rollouts to\nsuccess",
        "iterations",
    ):
        table.add_column(name, justify="right")
    for one in found:
        arm = record["arms"][one.arm.label]
        table.add_row(
            *map(_cell, one.arm.values.values()),
            _said("{:.4g}", arm["cost_median"]),
            _said("{:.4g} to {:.4g}", *arm["cost_interval"]),
            _said("{:.0%}", arm["success_rate"]),
            _said("{:.0%} to {:.0%}", *(arm["success_interval"] or [None])),
            _said("{:.0f}", arm["rollouts_to_success_median"]),
            f"{one.iterations}{'*' if one.note else ''}",
            style="bold" if one.arm.label == record["best"] else "",
        )
    return table


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _said(form: str, *numbers: float | None) -> str:
    return "-" if None in numbers else form.format(*numbers)


def _draw(folder: Path, found: Sequence[Found], record: Mapping[str, Any]) -> None:
    from pilotfish.runs.store import Run
    from pilotfish.view import curves
    from pilotfish.view import sweep as view

    title = f"{record['algorithm']} on {record['task']}"
    view.picture(found, folder / "sweep.png", title)
    shown = sorted((one for one in found if one.iterations), key=lambda one: one.rank)[:SHOWN]
    metrics = {one.arm.label: Run.open(one.arm.path).metrics() for one in found if one in shown}
    if metrics:
        few = f", the best {SHOWN} of {len(found)} arms" if len(found) > SHOWN else ""
        curves.comparison(metrics, folder / "curves.png", title + few, "rollouts")
