"""What figures show: numbers against SciPy and brute force, a study of a toy from its first episode to its pictures."""

import json

import imageio.v3 as iio
import jax.numpy as jnp
import numpy as np
import pytest
from dear import mostly_slow
from jaxtyping import Array, Float
from scipy import spatial, stats

import pilotfish as pf
from pilotfish import cli, experiments
from pilotfish.algorithms import Setup
from pilotfish.cli.figure import _draw
from pilotfish.experiments import mdgps, study
from pilotfish.experiments.claims import Arm, PaperFigure
from pilotfish.experiments.exhibits import COST, ELSEWHERE, EXPLORING, Curves, Map, Panel, PaperTable
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.registry import TASKS, Entry
from pilotfish.runs.statistics import rate_interval
from pilotfish.tasks import DrawnTask, Stroke

RNG = np.random.default_rng(3)
BOTH = {"first": "a", "second": "b"}

# -- statistics


def test_curves_are_means_with_students_intervals():
    distances = {"a": RNG.uniform(0.1, 0.9, (6, 4)), "b": RNG.uniform(0.1, 0.9, (6, 4))}
    distances["b"][2, 1] = np.inf  # an episode broke off
    shown = Curves((Panel("one", BOTH), Panel("other", {"second": "b"})))
    found = {label: {"noise_free_distance": values} for label, values in distances.items()}
    lines = shown.lines(found)
    assert {title: list(curves) for title, curves in lines.items()} == {"one": ["first", "second"], "other": ["second"]}
    for line, values in ((lines["one"]["first"], distances["a"]), (lines["other"]["second"], distances["b"])):
        for k in range(4):
            if np.isfinite(values[:, k]).all():
                interval = stats.ttest_1samp(values[:, k], 0.0).confidence_interval(0.95)
                np.testing.assert_allclose([line.low[k], line.high[k]], interval)
                np.testing.assert_allclose(line.middle[k], np.sum(values[:, k]) / 6)
    assert np.isnan(lines["other"]["second"].middle).tolist() == [False, True, False, False]
    assert shown.as_json(found)["other"]["second"]["mean"][1] is None
    assert shown.as_json(found)["one"]["first"]["updates"] == list(range(len(lines["one"]["first"].middle)))
    head, first, second = shown.table(found)
    assert head[1:] == ["one", "other"]
    assert first == ["first", f"{distances['a'][:, -1].mean():.3f}{first[1][5:]}", ""]
    assert second[1] == second[2]


def test_costs_have_geometric_means():
    costs = RNG.lognormal(0.0, 2.0, (5, 4))
    shown = Curves((Panel("one", {"first": "a"}),), COST)
    found = {"a": {"noise_free_cost": costs}}
    line = shown.lines(found)["one"]["first"]
    interval = stats.ttest_1samp(np.log(costs[:, -1]), 0.0).confidence_interval(0.95)
    np.testing.assert_allclose([line.low[-1], line.high[-1]], np.exp(interval))
    np.testing.assert_allclose(line.middle, stats.gmean(costs))
    assert shown.table(found)[0] == ["cost at last", "one"]
    assert shown.table(found)[1][1].startswith(f"{line.middle[-1]:.4g} (")


def test_curves_over_rollouts_have_few_points_where_these_were_rolled_out():
    costs = {"a": RNG.lognormal(size=(3, 1000)), "b": RNG.lognormal(size=(3, 4))}
    per_update = {"a": 20, "b": 200}
    found = {
        label: {"cost": values, "rollouts": per_update[label] * np.tile(np.arange(values.shape[1]) + 1, (3, 1))}
        for label, values in costs.items()
    }
    shown = Curves((Panel("one", BOTH),), EXPLORING, over="rollouts")
    along, lines = shown.along(found)["one"], shown.lines(found)["one"]
    assert along["second"].tolist() == [200, 400, 600, 800]
    assert (along["first"][0], along["first"][-1], len(along["first"])) == (20, 20_000, 101)
    updates = along["first"] // 20 - 1
    np.testing.assert_allclose(lines["first"].middle, stats.gmean(costs["a"][:, updates]))
    assert shown.as_json(found)["one"]["first"]["rollouts"] == along["first"].tolist()


def test_a_table_has_our_rates_beside_those_of_the_paper():
    rates = RNG.integers(0, 10, (5, 7)) / 9
    shown = PaperTable((Panel("peg", BOTH),), {"peg": {2: (0.0, 50.0), 6: (70.73, 100.0), 9: (1.0, 2.0)}}, seeds=3)
    found = {label: {"noise_free_success": values} for label, values in {"a": rates, "b": rates[:, ::-1]}.items()}
    cells = shown.as_json(found)["peg"]
    assert [cell["updates"] for cell in cells["first"]] == [2, 6, 9]
    assert [[cell["paper"] for cell in cells[name]] for name in BOTH] == [[0.0, 0.7073, 0.01], [0.5, 1.0, 0.02]]
    for cell, column in ((cells["first"][0], 2), (cells["first"][1], 6), (cells["second"][1], 0)):
        middle, low, high = (float(part) for part in rate_interval(rates[:, column], 1))
        assert (cell["mean"], cell["low"], cell["high"]) == pytest.approx((middle, low, high), abs=1e-6)
        assert cell["as_many_seeds"] == pytest.approx(sum(rates[:3, column]) / 3)
    missing = cells["first"][2]  # seven iterations measure six updates at most
    assert [missing[name] for name in ("mean", "low", "high", "as_many_seeds")] == [None] * 4
    head, row, *_, last = shown.table(found)
    assert head == ["updates", "first", "second"]
    assert row[0] == "peg, 2"
    assert row[1].split("\n")[0] == f"{rates[:, 2].mean():.0%}"
    assert row[2].split("\n")[2:] == [f"of 3: {rates[:3, 4].mean():.0%}", "paper 50%"]
    assert last[1] == "-\npaper 1%"


def test_one_seed_has_no_interval_and_as_many_as_the_paper_stand_once():
    shown = PaperTable((Panel("peg", BOTH),), {"peg": {1: (0.0, 50.0)}}, seeds=3)
    for seeds in (1, 3):
        found = {label: {"noise_free_success": np.full((seeds, 2), 0.25)} for label in BOTH.values()}
        cell = shown.as_json(found)["peg"]["second"][0]
        assert cell["as_many_seeds"] is None
        assert (cell["low"] is None) == (seeds == 1)
        assert "of 3" not in shown.table(found)[1][2]


def places(count):
    return tuple(map(tuple, RNG.uniform(-0.3, 0.3, (count, 2)).tolist()))


def test_places_are_sorted_by_where_they_are():
    grid = tuple((x, y) for x in (-0.2, -0.1, 0.0, 0.1, 0.2) for y in (-0.2, -0.1, 0.0, 0.1, 0.2))
    trained = tuple((x, y) for x in (-0.1, 0.1) for y in (-0.1, 0.1))
    shown = Map("starts", trained, grid, places(40), (0.0, 0.01, 0.1, 0.15, 0.5))
    nearest = spatial.KDTree(trained).query(shown.places)[0]
    np.testing.assert_allclose(shown.distances(), nearest, atol=1e-15)
    parts = shown.parts()
    np.testing.assert_array_equal(sum(part.astype(int) for part in parts.values()), 1)
    for i, (x, y) in enumerate(shown.places):
        inside = abs(x) < 0.1001 and abs(y) < 0.1001
        part = "trained" if (x, y) in trained else "between" if inside else "outside"
        assert parts[part][i], (x, y)
    bands = shown.bands()
    np.testing.assert_array_equal(sum(band.astype(int) for band in bands), 1)
    assert [band.sum() for band in bands] == np.histogram(nearest + 1e-12, (0, *shown.edges[1:]))[0].tolist()
    assert sum(band.sum() for band in Map("starts", trained, trained, (), (0.0, 0.01, 0.1)).bands()) == 4


def test_places_along_a_line_are_sorted_likewise():
    shown = Map(
        "shifts", (-0.15, -0.05, 0.05, 0.15), (-0.2, -0.15, -0.1, -0.05, 0.02, 0.15), (), (0.0, 0.01, 0.04, 0.1)
    )
    np.testing.assert_allclose(shown.distances(), [0.05, 0, 0.05, 0, 0.03, 0], atol=1e-15)
    sorted_ = {part: np.flatnonzero(which).tolist() for part, which in shown.parts().items()}
    assert sorted_ == {"trained": [1, 3, 5], "between": [2, 4], "outside": [0]}
    assert [band.sum() for band in shown.bands()] == [3, 1, 2]
    success = RNG.integers(0, 2, (4, 6)).astype(float)
    line = shown.along({"a": {ELSEWHERE: success}})["a"]
    np.testing.assert_allclose([line.low[2], line.high[2]], rate_interval(success[:, 2], 1)[1:])
    np.testing.assert_allclose(line.middle, success.mean(0))


def test_success_is_averaged_over_the_places_of_a_seed_first():
    shown = Map("starts", ((0.0, 0.0),), ((0.0, 0.0), (0.1, 0.0)), ((0.1, 0.02), (0.3, 0.0)), (0.0, 0.05, 0.2, 0.25))
    success = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    line = shown.lines({"a": {ELSEWHERE: success}})["a"]
    expected = [rate_interval(np.array(rates), 1) for rates in ([1.0, 1.0, 0.0], [0.5, 1.0, 0.5])]
    np.testing.assert_allclose(np.array(line), np.array(expected).T)
    record = shown.as_json({"a": {ELSEWHERE: success}})
    assert record["success"]["a"] == pytest.approx([2 / 3, 2 / 3, 2 / 3, 1 / 3], abs=1e-6)
    assert [band["places"] for band in record["bands"]] == [1, 2]
    assert shown.table({"a": {ELSEWHERE: success}})[0] == ["success", "trained, 1 places", "outside, 3 places"]


# -- a toy: from its first episode to its pictures

REACHED, SPEED = 0.2, 1.0  # m, m/s
TRAINED = ((1.0, 0.0), (0.0, 1.0))


class Puck(DrawnTask):
    """Come to the origin of a plane in four steps, from several places."""

    starts: tuple[tuple[float, float], ...] = TRAINED
    along: tuple[float, ...] = ()
    """Where they are along the first axis, in place of these."""

    def problem(self) -> pf.Problem:
        """The action is the velocity."""
        starts = jnp.asarray([(x, 0.0) for x in self.along] or self.starts)
        return pf.Problem(
            horizon=4,
            dt=0.5,
            conditions=pf.Gaussian(starts, jnp.zeros((len(starts), 2, 2))),
            initial_std=[0.3, 0.3],
            dynamics=lambda x, u: x + 0.5 * u,
            action_low=[-SPEED, -SPEED],
            action_high=[SPEED, SPEED],
            cost=lambda x, u, t: 10.0 * (x**2).sum() + 0.01 * (u**2).sum(),
            success=lambda x, u: jnp.linalg.norm(x[-1]) < REACHED,
            distance=self.remaining,
        )

    def remaining(self, x: Float[Array, "T1 dx"], u: Float[Array, "T du"]) -> Float[Array, ""]:
        """Distance from the origin."""
        return jnp.linalg.norm(x[-1])

    def draw(self, x: np.ndarray) -> list[Stroke]:
        return [Stroke(x[None], 9.0, "body")]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        return -1.0, 1.0, -1.0, 1.0


ARMS = tuple(Arm(f"KL {kl}", "puck", "lqr-gps", Setup(pf.LQRGPS(kl_step=kl), 12, 4), measured=1) for kl in (0.5, 4.0))
PANEL = Panel("puck", {arm.label.lower(): arm.label for arm in ARMS}, failure=REACHED)
PLACES = Map("starts", TRAINED, tuple((x, y) for x in (0.0, 1.0, 3.0) for y in (0.0, 1.0)), places(9), (0.0, 0.5, 3.0))
TOYS = {
    name: PaperFigure(f"toy/{name}", f"a toy's {name}", "A toy.", ARMS, (), exhibit=exhibit, shares=shares, seeds=3)
    for name, exhibit, shares in (
        ("curves", Curves((PANEL,)), ""),
        ("table", PaperTable((PANEL,), {"puck": {1: (0.0, 10.0), 3: (50.0, 100.0)}}), "toy/curves"),
        ("map", PLACES, "toy/curves"),
        ("line", Map("along", (0.5, 1.0), (0.0, 0.5, 1.0, 3.0), (), (0.0, 0.1, 3.0)), "toy/curves"),
    )
}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """The toys' figures are the only ones, and the working directory is a new one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "puck", Entry("puck", "a puck in the plane", f"{__name__}:Puck"))
        patch.setattr(experiments, "figures", lambda: {figure.id: figure for figure in TOYS.values()})
        patch.chdir(tmp_path_factory.mktemp("toys"))
        yield


@pytest.mark.parametrize("name", mostly_slow(TOYS, always=TOYS.keys() - {"line", "curves"}))
def test_a_figure_is_run_drawn_told_and_kept(capsys, toys, name):
    assert cli.run(["figure", f"toy/{name}"]) == 0
    out, _ = capsys.readouterr()
    folder = TOYS[name].folder()
    assert (
        f"in {folder}: verdict.json, figure.png (.pdf, .svg), table.md; each arm's run is in figures/toy-curves" in out
    )
    kept = {path.name for path in folder.iterdir()}
    pictures = {f"figure.{kind}" for kind in ("png", "pdf", "svg")}
    assert kept == {"verdict.json", "table.md"} | pictures | ({"kl-0-5", "kl-4-0"} if name == "curves" else set())
    assert iio.imread(folder / "figure.png").std() > 5
    record = json.loads((folder / "verdict.json").read_text())
    assert [(folder / arm["run"]).resolve().name for arm in record["arms"].values()] == ["kl-0-5", "kl-4-0"]
    assert all((folder / arm["run"] / "spec.json").exists() for arm in record["arms"].values())
    head, line, *rows = (folder / "table.md").read_text().splitlines()
    assert line == "|" + " --- |" * (head.count("|") - 1)
    assert len(rows) == 2
    cells = [cell.strip() for row in rows for cell in row.strip("|").split("|")]
    assert all(part in out for cell in cells for part in cell.split("<br>"))
    metrics = pf.Run.open("figures/toy-curves/kl-4-0").metrics()
    if name == "curves":
        shown = record["shown"]["puck"]["kl 4.0"]
        np.testing.assert_allclose(shown["mean"], metrics["noise_free_distance"].mean(0), atol=1e-6)
        assert shown["mean"][-1] < 0.5 < shown["mean"][0]
    if name == "table":
        shown = record["shown"]["puck"]["kl 4.0"][1]
        assert (shown["updates"], shown["paper"]) == (3, 1.0)
        assert shown["mean"] == pytest.approx(metrics["noise_free_success"][:, 3].mean(), abs=1e-6)


def test_a_map_is_of_what_each_seed_deploys(toys):
    job = study.plan(TOYS["map"], TOYS["map"].folder(), None, False, False).reference[1]
    study._run(job, lambda job, done: None)
    found = study._tried(job, PLACES)
    expected = np.zeros((3, len(PLACES.places)))
    run = pf.Run.open(job.path)
    for seed in range(3):
        policy = run.policy(seed=seed)
        assert isinstance(policy, LinearGaussianPolicy)
        controller = policy.controller
        for k, place in enumerate(PLACES.places):
            n = np.argmin([np.hypot(*np.subtract(place, start)) for start in TRAINED])
            x = np.array(place)
            for t in range(4):
                u = np.asarray(controller.K[n, t]) @ x + np.asarray(controller.k[n, t])
                x = x + 0.5 * np.clip(u, -SPEED, SPEED)
            expected[seed, k] = np.hypot(*x) < REACHED
    np.testing.assert_array_equal(found, expected)
    assert 0 < expected.mean() < 1


def test_places_are_tried_once(monkeypatch, toys):
    job = study.plan(TOYS["map"], TOYS["map"].folder(), None, False, False).reference[0]
    study._run(job, lambda job, done: None)
    found = study._tried(job, PLACES)

    def again(*_):
        raise AssertionError

    monkeypatch.setattr(study.evaluation, "evaluate_in", again)
    np.testing.assert_array_equal(study._tried(job, PLACES), found)
    with pytest.raises(AssertionError):
        study._tried(job, PLACES._replace(others=()))


@pytest.mark.slow
def test_networks_are_tried_where_the_hole_was_not(tmp_path):
    """MDGPS on the peg, for as long as it takes to draw it: two iterations of one seed."""
    arm = mdgps.arm("peg", mdgps.OFF[0], updates=1)
    figure = PaperFigure("slow/map", "a map", "A map.", (arm,), (), exhibit=mdgps.PLACES, seeds=1)
    performed = study.perform(figure, tmp_path)
    run = pf.Run.open(tmp_path / "peg-off-policy-classic")
    trained = mdgps.PLACES.parts()["trained"]
    success = performed.reference.study[arm.label][ELSEWHERE]
    assert success.shape == (1, 131)
    assert success[:, trained].mean() == run.evaluate(rollouts=1).success
    _draw(figure, tmp_path, performed)
    assert iio.imread(tmp_path / "figure.png").std() > 5
