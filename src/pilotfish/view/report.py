"""One self-contained HTML page about one or several runs: what became of them in plain words, charts, films, numbers.

Its charts are drawn in the browser by Plotly, which is packed in the page: it needs no network and no server.
"""

import base64
import functools
import gzip
import html
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from pilotfish.runs.columns import Columns
from pilotfish.runs.statistics import Interval, cost_interval, rate_interval
from pilotfish.runs.store import Run, replacing
from pilotfish.runs.verdict import rollouts_to_success, verdict
from pilotfish.view import charts
from pilotfish.view.look import COLOURS, COLOURS_ON_DARK, NO_SUCCESS, called

MIME = {".png": "image/png", ".gif": "image/gif", ".mp4": "video/mp4"}
READING = (
    "Line: mean over the seeds, on a log axis the geometric one. Band: its 95% interval. Thin lines: the seeds. "
    "Click a name to hide it, drag to zoom, double-click to see all."
)
MEANINGS = {
    "KL": "A KL divergence, in nats, is how far one way to act is from another: 0 is the same, .1 a small difference, "
    "1 a large one. Updates are kept small, since what was learned holds near where it was seen.",
    "entropy": "How much noise exploration adds: one nat less is 2.7 times less in one action. It should fall slowly; "
    "where it falls at once, learning stops early.",
    "multiplier": "How hard a bound holds an update back. Near 0 it does not.",
    "effective samples": "How many samples count, after weighting. Where they are fewer than the numbers fitted to "
    "them, the fit is a guess.",
    "loss of the network": "How far the network is from those that teach it. It should fall; where it does not, the "
    "network is too small or sees too little.",
    "idle": "Units that say nothing. Where most are idle the network has collapsed: a smaller learning rate may help.",
    "break off": "Episodes in which a number was not finite.",
    "decrease": "What an update was expected to save, beside what it saved. Where less comes than was promised, the "
    "models are wrong: take smaller steps or more rollouts.",
    "regularisation": "What is added to keep steps short where the model cannot be trusted.",
    "gradient": "How far the plan is from one that no small change improves.",
    "step": "How much of the step was taken, or how its length was adapted.",
    "explained": "What the model makes of the data.",
    "nominal": "What the plan itself would cost, without noise.",
}
"""What a diagnostic means to someone who does not know it, by a word of its title; the first that fits."""


def report(runs: Sequence[Run], path: Path) -> Path:
    """Write the page: for each task charts and a table of all its runs, then each run's verdict, numbers and film."""
    page = written(runs)
    with replacing(path) as beside:
        beside.write_text(page, encoding="utf-8")
    return path


def written(runs: Sequence[Run], live: bool = False) -> str:
    """The page as text. `live`: it asks its server for what is new, every few seconds."""
    shown = content(runs)
    title = html.escape("pilotfish: " + ", ".join(dict.fromkeys(run.spec.task["name"] for run in runs)))
    data = json.dumps({name: value for name, value in shown.items() if name != "html"}, separators=(",", ":")).replace(
        "</", "<\\/"
    )
    waiting = "<p class='quiet' id='live'>Renewed every few seconds while it trains.</p>" if live else ""
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><link rel='icon' href='data:,'>"
        f"<style>{_asset('report.css')}</style></head><body>"
        f"<div class='bar'><h1>{title}</h1><button class='theme'>light / dark</button></div>{waiting}"
        f"<main>{shown['html']}</main><span id='probe' hidden></span>"
        f"<script type='application/json' id='content'>{data}</script>"
        f"<script type='text/plain' id='plotly'>{_plotly()}</script>"
        f"<script>{_asset('report.js')}</script></body></html>\n"
    )


def content(runs: Sequence[Run]) -> dict[str, Any]:
    """What is on the page: its `html`, and the `charts` that its figures name."""
    runs = list({run.path.resolve(): run for run in runs}.values())  # one that is named twice is one
    drawn: dict[str, Any] = {}
    parts = []
    for number, (title, group) in enumerate(by_task(runs).items()):
        if len(group) > 1:
            parts.append(f"<h2>{html.escape(title)}: {len(group)} runs</h2>")
            parts.append(_charts(charts.learning(group), f"task{number}", drawn, READING))
            parts.append(f"<div class='wide' data-part='task{number}'>{_comparison(group)}</div>")
    names = dict(_named(runs))
    parts += [part for i, (name, run) in enumerate(names.items()) for part in _section(name, run, f"run{i}", drawn)]
    return {"html": "\n".join(parts), "charts": drawn, "palette": {"light": COLOURS, "dark": COLOURS_ON_DARK}}


# -- all runs of a task


def by_task(runs: Sequence[Run]) -> dict[str, list[tuple[str, Run]]]:
    """Runs with their names, by what their task is called: only of the same task, with the same settings, are costs
    comparable.
    """
    groups: dict[str, list[tuple[str, Run]]] = {}
    first: dict[str, dict[str, Any]] = {}
    for name, run in _named(runs):
        task = run.spec.task
        usual = first.setdefault(task["name"], task["options"])
        other = [f"{key} {_text(value)}" for key, value in task["options"].items() if usual.get(key) != value]
        groups.setdefault(", ".join([task["name"], *other]), []).append((name, run))
    return groups


def _named(runs: Sequence[Run]) -> list[tuple[str, Run]]:
    """Runs with the names of their folders, whole where these are not enough to tell them apart."""
    names = [run.path.name for run in runs]
    return [(name if names.count(name) == 1 else str(run.path), run) for name, run in zip(names, runs, strict=True)]


def _comparison(group: Sequence[tuple[str, Run]]) -> str:
    """A table of runs that a click sorts, with the 95% intervals over seeds of what noise-free episodes came to."""
    heads = ("run", "algorithm", "seeds", "rollouts", "cost without noise", "success", "rollouts to success")
    rows = []
    for name, run in group:
        metrics, found = run.metrics(), run.evaluation()
        cells = [(name, name), (run.spec.algorithm["name"],) * 2, _cell(len(run.spec.seeds))]
        cells.append(_cell(metrics["rollouts"][0, -1] if "rollouts" in metrics else None))
        cost = None if found is None else np.array(found["cost"], float)
        cells.append(("not evaluated", "") if cost is None else _interval(cost_interval(cost)[0], 1.0, "{:.4g}"))
        if found is None or found["success"] is None:
            cells += [("", ""), ("", "")]
        else:
            rate = rate_interval(np.array(found["success"], float), found["episodes"])
            cells.append(_interval(rate, 100.0, "{:.0f}%"))
            needed = rollouts_to_success(metrics)
            reached = needed[np.isfinite(needed)]
            words = f"{np.median(reached):,.0f} ({len(reached)} of {len(needed)} seeds)" if reached.size else "never"
            cells.append((words, f"{np.median(reached):g}" if len(reached) > len(needed) / 2 else ""))
        row = "".join(f"<td data-value='{html.escape(value)}'>{html.escape(words)}</td>" for words, value in cells)
        rows.append(f"<tr>{row}</tr>")
    top = "".join(f"<th tabindex='0'>{head}</th>" for head in heads)
    note = "<p class='quiet'>In brackets: 95% intervals over seeds. A click on a heading sorts.</p>"
    return f"<table class='sortable'><thead><tr>{top}</tr></thead><tbody>{''.join(rows)}</tbody></table>{note}"


def _cell(value: float | int | None) -> tuple[str, str]:
    return ("", "") if value is None else (f"{value:,.0f}", f"{value:g}")


def _interval(found: Interval, factor: float, form: str) -> tuple[str, str]:
    """As text, and as what it is sorted by."""
    middle, low, high = (factor * float(value) for value in found)
    if np.isnan(middle):
        return "none finite", ""
    known = "" if np.isnan(low) else f" [{form.format(low)} to {form.format(high)}]"
    return form.format(middle) + known, f"{middle:.6g}"


# -- one run


def _section(name: str, run: Run, place: str, drawn: dict[str, Any]) -> list[str]:
    spec, metrics = run.spec, run.metrics()
    done = metrics["cost"].shape[1] if "cost" in metrics else 0
    said = "".join(f"<li class='{one.mood}'>{html.escape(one.words)}</li>" for one in verdict(run))
    counts = (
        f"{spec.algorithm['name']} on {spec.task['name']}: {done} of {spec.iterations} iterations, {spec.rollouts} "
        f"rollouts each from every condition, {_seeds(spec.seeds)}. pilotfish {spec.version}."
    )
    found = run.evaluation()
    film = next((run.path / one for one in ("film.mp4", "film.gif") if (run.path / one).exists()), None)
    numbers = _table("Noise-free episodes", found["summary"]) if found else ""
    moving = f"<div>{_picture(film, f'film of what {name} learned')}</div>" if film else ""
    strip = run.path / "filmstrip.png"
    parts = [
        f"<h2>{html.escape(name)}</h2><div data-part='{place}'><p class='quiet'>{html.escape(counts)}</p>"
        f"<ul class='verdict'>{said}</ul><div class='side'>{moving}<div>{numbers}</div></div>"
        f"{_picture(strip, f'moments of an episode of {name}') if strip.exists() else ''}</div>"
    ]
    if done:
        parts.append("<h3>Learning</h3>" + _charts(charts.learning([(name, run)]), place, drawn, READING))
        columns = run.columns()
        more = charts.diagnostics(metrics, columns)
        words = {title: _words(title, columns) for title in more}
        parts.append(
            "<h3>Diagnostics</h3>" + _charts(more, f"{place}-more", drawn, words=words, classes="charts diagnostics")
        )
    settings = _table("Algorithm", spec.algorithm["options"]) + _table("Task", spec.task["options"])
    parts.append(f"<details><summary>Settings</summary><div class='wide'>{settings}</div></details>")
    return parts


def _words(title: str, columns: Columns) -> str:
    """What the numbers of a title mean: to someone who does not know them, and what stands under each in the source."""
    meaning = next((text for word, text in MEANINGS.items() if word in title), "")
    shown = {name: how for name, how in columns.items() if how["title"] == title and how.get("words")}
    own = [
        how["words"] if len(shown) == 1 else f"{_capital(called(name, how))}: {how['words']}"
        for name, how in shown.items()
    ]
    return " ".join([meaning, *own]).replace("`", "").strip()


def _charts(
    shown: dict[str, dict[str, Any]],
    place: str,
    drawn: dict[str, Any],
    reading: str = "",
    words: Mapping[str, str] = MappingProxyType({}),
    classes: str = "charts",
) -> str:
    """Figures, each with the place of its chart among those that are `drawn`, and with what it means."""
    figures = []
    for i, (title, chart) in enumerate(shown.items()):
        key, heading = f"{place}-{i}", html.escape(_capital(title))
        drawn[key] = chart
        figures.append(
            f"<figure data-chart='{key}'><header><strong>{heading}</strong><button class='log' "
            f"aria-label='log axis of {heading}'>log</button></header><div class='plot'></div>"
            f"<figcaption>{html.escape(words.get(title, ''))}</figcaption></figure>"
        )
    if "success" not in shown and "cost" in shown:
        reading += f" {_capital(NO_SUCCESS)}."
    note = f"<p class='quiet'>{html.escape(reading)}</p>" if reading else ""
    return f"<div class='{classes}'>{''.join(figures)}</div>{note}"


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _table(title: str, rows: dict[str, Any]) -> str:
    cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(_text(v))}</td></tr>" for k, v in rows.items())
    return f"<h3>{html.escape(title)}</h3><table>{cells}</table>"


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"


def _picture(path: Path, alt: str) -> str:
    data = f"data:{MIME[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
    if path.suffix == ".mp4":
        return f"<video src='{data}' autoplay loop muted playsinline></video>"
    return f"<img src='{data}' alt='{html.escape(alt)}'>"


# -- what the page is made of


def _asset(name: str) -> str:
    return importlib.resources.files("pilotfish.view").joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _plotly() -> str:
    """Plotly's script, packed: a third of its size."""
    script = importlib.resources.files("plotly.package_data").joinpath("plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(script, 9, mtime=0)).decode()
