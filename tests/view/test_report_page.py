"""The report: what is on the page, and in a browser that it draws, sorts, and complains of nothing."""

import base64
import io
import json
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

import pilotfish as pf
from pilotfish.cli.results import report as command
from pilotfish.runs.spec import Spec, assemble
from pilotfish.runs.store import Run
from pilotfish.tasks.lq import LinearQuadratic
from pilotfish.view import charts, curves, live, report
from pilotfish.view.charts import Series

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SIZES = {"rollouts": 20, "iterations": 3, "seeds": [0, 1], "measured": 1}
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of one task and one of the same with another setting; a picture among them."""
    folder, made = tmp_path_factory.mktemp("runs"), []
    for name, task in (("one", LinearQuadratic()), ("other", LinearQuadratic(action_weight=0.5))):
        spec = Spec.of(("lq", task), ("lqr-gps", pf.LQRGPS()), checkpoint_every=3, **SIZES)
        made.append(Run.create(folder / name, spec))
        _, algorithm, world = assemble(spec)
        pf.train(algorithm, world, run=made[-1], **SIZES)
    shutil.copytree(folder / "one", folder / "two")
    made.insert(1, Run.open(folder / "two"))
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(made[0].path / "filmstrip.png")
    return made


@pytest.mark.slow
def test_only_runs_of_the_same_task_with_the_same_settings_share_an_axis(runs):
    groups = report.by_task(runs)
    assert [[name for name, _ in group] for group in groups.values()] == [["one", "two"], ["other"]]
    assert list(groups) == ["lq", "lq, action_weight 0.5"]
    page = report.content(runs)
    names = {name: [line.get("name") for line in one["data"]] for name, one in page["charts"].items()}
    together = {name for key, found in names.items() if key.startswith("task") for name in found}
    assert {"one", "two"} <= together
    assert not any("other" in (name or "") for name in together)


def test_the_page_says_what_became_of_each_run_and_what_its_numbers_mean(runs):
    page = report.content(runs)["html"]
    assert page.count("An episode costs") == len(runs)
    assert "KL stayed within its bound." in page
    assert "how far one way to act is from another" in page
    assert "Mean expected KL of the new controller to the old" in page  # the words under the field itself
    assert "noise_free" not in page.split("<details>")[0]  # no identifiers
    assert "not evaluated" in page


def test_the_page_needs_nothing_from_elsewhere_and_stays_small(runs, tmp_path):
    page = report.report(runs, tmp_path / "report.html").read_text()
    assert len(page) < 3e6
    assert not re.search(r"""(?:src|href)=(?!["']?data:)""", page.split("<script")[0])
    for data in re.findall(r"src='data:image/png;base64,([^']*)'", page):
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (6, 4)


def test_many_iterations_of_many_seeds_are_thinned_and_keep_their_last():
    drawn = charts.chart("cost", [Series("cost", np.arange(5000.0), np.ones((20, 5000)) * np.arange(5000))])
    assert all(len(line["x"]) <= charts.POINTS for line in drawn["data"])
    assert drawn["data"][-1]["x"][-1] == 4999
    assert len(json.dumps(drawn)) < 5e4


def test_what_is_not_finite_is_left_out_of_a_line_and_rates_keep_to_what_is_possible():
    y = np.array([[50.0, np.nan, 100.0], [100.0, np.inf, 100.0]])
    drawn = charts.chart("success", [Series("rate", np.arange(3.0), y)], percent=True)
    json.dumps(drawn, allow_nan=False)
    mean = next(line for line in drawn["data"] if line["role"] == "mean")
    assert mean["y"] == [75.0, None, 100.0]
    edges = [value for line in drawn["data"] if line["role"] in ("edge", "band") for value in line["y"]]
    assert all(value is None or 0 <= value <= 100 for value in edges)


def _in_browser(page, tmp_path, script=""):
    """The document after its scripts, and after `script` once it is drawn, ran; and what the console says."""
    waits = f"""<script>const wait = setInterval(() => {{
      if (document.body.dataset.drawn) {{ clearInterval(wait); {script} }} }}, 20);</script>"""
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", waits + "</body>"))
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [*words, f"--user-data-dir={tmp_path}/profile", "--enable-logging=stderr", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@browser
def test_a_browser_draws_every_chart_and_complains_of_nothing(runs, tmp_path):
    script = """
      document.querySelectorAll("table.sortable th")[4].click();
      const rows = () => [...document.querySelectorAll("table.sortable tbody tr")].map(r => r.cells[0].textContent);
      document.body.dataset.once = rows();
      document.querySelectorAll("table.sortable th")[0].click();
      document.querySelectorAll("table.sortable th")[0].click();
      document.body.dataset.twice = rows();
      const log = document.querySelector("button.log"), plot = document.querySelector(".plot");
      document.body.dataset.before = plot.layout.yaxis.type;
      log.click();
      document.body.dataset.after = plot.layout.yaxis.type;
      document.querySelector("button.theme").click();
      document.body.dataset.ink = plot.layout.font.color;
      document.body.dataset.broken = [...document.images].filter(image => !image.naturalWidth).length;
    """
    page = report.written(runs)
    drawn, console = _in_browser(page, tmp_path, script)
    assert console == []
    assert len(re.findall(r'class="plot js-plotly-plot"', drawn)) == page.count("data-chart=") > 10
    body = dict(re.findall(r'data-(\w+)="([^"]*)"', re.search(r"<body[^>]*>", drawn).group()))
    assert body["twice"] == "two,one"
    assert {body["before"], body["after"]} == {"log", "linear"}
    assert body["broken"] == "0"
    assert body["ink"] == "rgb(227, 233, 238)"  # of dark


def test_a_report_is_served_while_a_run_trains_to_this_machine_alone(runs):
    with live.server([run.path for run in runs]) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        host, port = served.server_address[:2]
        assert host == "127.0.0.1"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
            assert "id='live'" in answer.read().decode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/content.json") as answer:
            assert json.load(answer).keys() == {"html", "charts", "palette"}
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/spec.json")
        served.shutdown()


@pytest.mark.parametrize(("kind", "begins"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_curves_are_written_for_print(runs, tmp_path, kind, begins, capsys):
    command([str(runs[0].path), "-o", str(tmp_path / f"fig.{kind}")])
    assert capsys.readouterr().out.split() == [str(tmp_path / f"fig.{kind}"), str(tmp_path / f"fig-diagnostics.{kind}")]
    for path in tmp_path.glob(f"*.{kind}"):
        assert path.read_bytes().startswith(begins)


def test_pictures_say_what_lines_and_bands_are_and_name_no_identifier(runs, tmp_path):
    curves.learning([runs[0]], tmp_path / "fig.svg")
    curves.diagnostics(runs[0], tmp_path / "more.svg")
    said = "".join(
        re.findall(r"<!-- (.*?) -->", (tmp_path / "fig.svg").read_text() + (tmp_path / "more.svg").read_text())
    )
    assert "band: its 95% interval" in said
    assert "_" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--live", "-o", "x.html"], "give one of them"),
        (["--live", "--port", "99999"], "--port 99999"),
        (["-o", "x.doc"], "choose a name that ends in .html, .pdf, .svg, .png"),
    ],
)
def test_what_cannot_be_written_is_said(runs, words, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        command([str(runs[0].path), *words])
