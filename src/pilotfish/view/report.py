"""One self-contained HTML page about one or several runs."""

import base64
import html
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pilotfish.runs.store import Run, replacing
from pilotfish.view import curves

STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b2a38; background: #fff; max-width: 1060px;
       margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2.2rem;
       border-top: 1px solid #dde3e8; padding-top: 1rem }
img, video { max-width: 100%; height: auto; display: block }
table { border-collapse: collapse; margin: .6rem 0 } td, th { padding: .15rem .9rem .15rem 0; text-align: left;
       vertical-align: top } th { color: #5b6b79; font-weight: 500 } td { font-variant-numeric: tabular-nums }
.side { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start } .side > * { flex: 1 1 340px }
.side > .film { flex: 0 1 380px } .muted { color: #5b6b79; margin-top: 0 }
"""
MIME = {".png": "image/png", ".gif": "image/gif", ".mp4": "video/mp4"}


def report(runs: Sequence[Run], path: Path) -> Path:
    """Write the page: curves of all runs, then each run's numbers, settings, diagnostics and film."""
    title = "pilotfish: " + ", ".join(dict.fromkeys(run.spec.task["name"] for run in runs))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        body = [f"<h1>{html.escape(title)}</h1>"]
        if len(runs) > 1:
            body.append(_picture(curves.learning(runs, scratch / "all.png"), "learning curves of all runs"))
        for number, run in enumerate(runs):
            body += _section(run, scratch, number)
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head><body>"
        + "\n".join(body)
        + "</body></html>\n"
    )
    with replacing(path) as beside:
        beside.write_text(page, encoding="utf-8")
    return path


def _section(run: Run, scratch: Path, number: int) -> list[str]:
    spec = run.spec
    metrics = run.metrics()
    done = metrics["cost"].shape[1] if "cost" in metrics else 0
    parts = [
        f"<h2>{html.escape(run.path.name)}</h2>",
        f"<p class='muted'>{html.escape(spec.algorithm['name'])} on {html.escape(spec.task['name'])}: {done} of "
        f"{spec.iterations} iterations, {spec.rollouts} rollouts each, {_seeds(spec.seeds)}. "
        f"pilotfish {spec.version}.</p>",
    ]
    found = run.evaluation()
    numbers = _table("Evaluation", found["summary"]) if found else ""
    film = next((run.path / name for name in ("film.mp4", "film.gif") if (run.path / name).exists()), None)
    settings = numbers + _table("Algorithm", spec.algorithm["options"]) + _table("Task", spec.task["options"])
    moving = f"<div class='film'>{_picture(film, 'film of the learned controller')}</div>" if film else ""
    parts.append(f"<div class='side'>{moving}<div>{settings}</div></div>")
    if (run.path / "filmstrip.png").exists():
        parts.append(_picture(run.path / "filmstrip.png", "moments of one episode"))
    if done:
        parts.append("<h3>Learning</h3>" + _picture(curves.learning([run], scratch / f"{number}.png"), "learning"))
        parts.append(
            "<h3>Diagnostics</h3>" + _picture(curves.diagnostics(run, scratch / f"{number}d.png"), "diagnostics")
        )
    return parts


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
