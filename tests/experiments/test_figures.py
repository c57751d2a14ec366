"""Figures of papers: verdicts of synthetic numbers, studies that stop and go on, and every figure we have."""

import dataclasses
import json
import shutil
import sys

import imageio.v3 as iio
import numpy as np
import pytest
from dear import mostly_slow

from pilotfish import experiments
from pilotfish.algorithms import Setup
from pilotfish.algorithms.reps import REPS
from pilotfish.experiments import claims, study
from pilotfish.experiments.claims import Arm, Claim, PaperFigure, Variation
from pilotfish.experiments.exhibits import ELSEWHERE, Map
from pilotfish.runs import RunError, loop
from pilotfish.runs.spec import assemble
from pilotfish.view import curves
from pilotfish.view.look import COLOURS

LARGE = Arm("large steps", "lq", "reps", Setup(REPS(kl_step=0.2), rollouts=40, iterations=6))
SMALL = LARGE.but("small steps", kl_step=0.01)
BROKEN = LARGE.on(action_weight=sys.float_info.max)  # finite where learning begins, and hardly anywhere else
FASTER = Claim(
    "larger steps are faster",
    "log10 cost of the last 5 iterations: small minus large",
    lambda study: claims.final(study["small steps"]) - claims.final(study["large steps"]),
)
TOY = PaperFigure(
    id="toy/1a",
    title="steps on a toy",
    caption="Cost over iterations.",
    arms=(LARGE, SMALL),
    claims=(FASTER, FASTER._replace(sentence="smaller steps are faster", threshold=9.0)),
    settings={"rollouts": "40; the paper says nothing"},
    variations=(Variation("all steps large", lambda arm: arm.but(kl_step=0.2)),),
    seeds=3,
    sensitivity_seeds=2,
)


def read(folder):
    """verdict.json, which other programs read: it has no NaN."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((folder / "verdict.json").read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The toy's folder, made without interruption, and what came of it."""
    folder = tmp_path_factory.mktemp("figures") / "whole"
    return folder, study.perform(TOY, folder)


# -- claims


def claim_of(values, threshold=0.0):
    return claims.judge(Claim("a sentence", "a measure", lambda study: np.asarray(values), threshold), {})


@pytest.mark.parametrize(
    ("values", "threshold", "verdict"),
    [
        ([1.0, 1.5, 0.8, 1.2], 0.0, "holds"),
        ([-1.0, -1.5, -0.8, -1.2], 0.0, "does not hold"),
        ([1.0, -1.5, 0.8, -0.2], 0.0, "undecided"),
        ([0.0, 0.0, 0.0], 0.0, "undecided"),
        ([1.0, 1.5, 0.8, 1.2], 0.9, "undecided"),
        ([1.0, 1.5, 0.8, 1.2], 0.5, "holds"),
        ([1.0, 1.5, 0.8, 1.2], 2.0, "does not hold"),
    ],
)
def test_a_verdict_is_that_of_the_interval(values, threshold, verdict):
    found = claim_of(values, threshold)
    assert found.verdict == verdict
    assert found.low <= found.mean <= found.high
    assert found.mean == pytest.approx(np.mean(values))


@pytest.mark.parametrize(
    ("values", "note"), [([1.0, np.nan, 2.0, -np.inf], "seed 1, 3 is not finite"), ([1.0], "one seed")]
)
def test_without_an_interval_nothing_is_decided(values, note):
    found = claim_of(values)
    assert found.verdict == "undecided"
    assert note in found.note
    assert found.as_json()["mean"] is None
    assert found.number == found.note


def metrics_of(cost, success=None, rollouts=10):
    cost = np.asarray(cost, float)
    counts = np.zeros_like(cost) + np.arange(cost.shape[1])
    success = np.full_like(cost, np.nan) if success is None else np.asarray(success, float)
    return {
        "iteration": counts,
        "rollouts": rollouts * (counts + 1),
        "cost": cost,
        "success": success,
        "ok": np.ones_like(cost),
        "ess": 100.0 + cost,
    }


def test_final_and_area_are_of_the_logarithm():
    metrics = metrics_of([[1e6, 1e4, 1e2, 1e2, 1e2, 1e2, 1e2], [1e6] * 6 + [0.0]])
    np.testing.assert_allclose(claims.final(metrics), [2.0, np.log10(0.8e6)])
    np.testing.assert_allclose(claims.area(metrics), [20 / 7, -np.inf])
    np.testing.assert_allclose(claims.area(metrics, 0.25), [5.0, 6.0])


def test_first_counts_rollouts_and_never_as_one_iteration_more():
    success = [[0.0, 0.95, 0.2, 1.0], [0.9, 0.9, 0.9, 0.9], [1.0, 0.0, 0.0, 0.0], [np.nan] * 4]
    found = claims.first(metrics_of(np.ones((4, 4)), success))
    np.testing.assert_array_equal(found, [20, 50, 10, np.nan])


def test_sooner_is_unknown_only_if_nobody_ever_succeeds():
    never, late, soon = [0.0] * 4, [0.0, 0.0, 0.0, 1.0], [1.0] * 4
    fast, slow = (metrics_of(np.ones((2, 4)), success) for success in ([soon, never], [late, never]))
    np.testing.assert_allclose(claims.sooner(fast, slow), [np.log10(4), 0.0])
    nobody = metrics_of(np.ones((2, 4)), [never, never])
    assert np.isnan(claims.sooner(nobody, nobody)).all()


# -- studies


def test_verdict_json_is_complete(whole):
    folder, performed = whole
    record = read(folder)
    assert record == performed.record
    assert record["figure"] == "toy/1a"
    assert record["command"] == f"pilotfish figure toy/1a --out {folder}"
    assert record["seeds"] == 3
    assert record["settings"] == TOY.settings
    assert record["quick"] is False
    assert record["sensitivity"] == {}
    assert [claim["verdict"] for claim in record["claims"]] == ["holds", "does not hold"]
    claim = record["claims"][0]
    assert {claim["sentence"], claim["measure"]} == {FASTER.sentence, FASTER.measure}
    assert 0 < claim["interval"][0] <= claim["mean"] <= claim["interval"][1]
    arm = record["arms"]["small steps"]
    assert arm["run"] == "small-steps"
    assert arm["final_success_mean"] is None  # the task defines none
    assert arm["final_cost_median"] > record["arms"]["large steps"]["final_cost_median"]
    assert arm["updates_refused"] == 0
    assert (folder / "small-steps" / "spec.json").exists()


def test_the_statistic_is_that_of_the_stored_metrics(whole):
    folder, performed = whole
    cost = {
        label: np.loadtxt(folder / slug / "metrics.csv", delimiter=",", skiprows=1, usecols=3).reshape(6, 3).T
        for label, slug in (("large", "large-steps"), ("small", "small-steps"))
    }
    expected = np.mean(np.log10(cost["small"][:, 1:].mean(1)) - np.log10(cost["large"][:, 1:].mean(1)))
    assert performed.reference.verdicts[0].mean == pytest.approx(expected, rel=1e-12)


def test_an_interrupted_study_goes_on_as_if_it_had_not_been(whole, tmp_path):
    folder = tmp_path / "stopped"
    shutil.copytree(whole[0] / "large-steps", folder / "large-steps")

    def interrupt(job, done):
        if job.arm.label == "small steps" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.perform(TOY, folder, observe=interrupt)
    assert not (folder / "verdict.json").exists()
    begun = []
    study.perform(TOY, folder, observe=lambda job, done: begun.append((job.label, done)))
    assert begun == [("large steps", 6), *(("small steps", done) for done in (3, 4, 5, 6))]
    for arm in ("large-steps", "small-steps"):
        assert (folder / arm / "metrics.csv").read_bytes() == (whole[0] / arm / "metrics.csv").read_bytes()
    assert read(folder)["claims"] == read(whole[0])["claims"]


@pytest.mark.parametrize(
    ("change", "seeds", "named"),
    [
        (lambda arm: arm, 2, r"seeds is \[0, 1, 2\] there, and \[0, 1\] is asked for"),
        (lambda arm: arm.but(kl_step=0.3), None, r"algorithm.options.kl_step is 0.2 there, and 0.3 is asked for"),
        (lambda arm: arm.on(initial_std=0.5), None, r"task.options.initial_std is 1.0 there"),
    ],
)
def test_a_folder_made_with_other_settings_is_refused(whole, change, seeds, named):
    folder, _ = whole
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    other = dataclasses.replace(TOY, arms=tuple(map(change, TOY.arms)))
    with pytest.raises(RunError, match=f"other settings: {named}.*Choose another --out"):
        study.perform(other, folder, seeds)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_folder_in_use_is_refused_before_anything_is_run(tmp_path):
    (tmp_path / "small-steps").mkdir()
    (tmp_path / "small-steps" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="small-steps is in use: choose another --out"):
        study.perform(TOY, tmp_path)
    assert not (tmp_path / "large-steps").exists()
    with pytest.raises(RunError, match=r"notes.txt is a file: choose another --out"):
        study.perform(TOY, tmp_path / "small-steps" / "notes.txt")


@pytest.mark.slow
def test_sensitivity_tries_all_claims_under_all_variations(whole, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(whole[0], folder)
    runs = []
    again = study.perform(TOY, folder, sensitivity=True, observe=lambda job, done: runs.append((job.label, done)))
    # the arm that the variation leaves as it is was not run again
    assert [label for label, done in runs if done == 0] == ["small steps (all steps large)"]
    assert not (folder / "all-steps-large" / "large-steps").exists()
    found = again.sensitivity["all steps large"]
    # now both arms are the same, and so are their first seeds
    assert found.study["small steps"]["cost"].shape == (2, 6)
    np.testing.assert_array_equal(found.study["small steps"]["cost"], found.study["large steps"]["cost"])
    record = read(folder)
    assert record["claims"] == read(whole[0])["claims"]
    assert record["command"] == f"pilotfish figure toy/1a --sensitivity --out {folder}"
    assert record["sensitivity"] == {
        "all steps large": {
            "seeds": 2,
            "claims": [
                {"mean": 0.0, "interval": [0.0, 0.0], "verdict": "undecided", "note": None},
                {"mean": 0.0, "interval": [0.0, 0.0], "verdict": "does not hold", "note": None},
            ],
            "notes": {},
        }
    }


@pytest.mark.slow
def test_an_arm_whose_training_fails_is_a_result(tmp_path):
    figure = dataclasses.replace(TOY, arms=(LARGE, BROKEN.but("small steps")))
    performed = study.perform(figure, tmp_path, quick=True)
    metrics = performed.reference.study["small steps"]
    assert metrics["cost"].shape == (2, 5)
    np.testing.assert_array_equal(metrics["rollouts"][0], 40 * np.arange(1, 6))
    record = read(tmp_path)
    assert (
        "stopped after 3 of 5 iterations: every seed refused 3 updates in a row"
        in record["arms"]["small steps"]["note"]
    )
    assert record["arms"]["small steps"]["final_cost_median"] is None
    assert record["arms"]["large steps"]["note"] is None
    assert record["claims"][0]["verdict"] == "undecided"
    assert "seed 0, 1 is not finite" in record["claims"][0]["note"]
    before = (tmp_path / "small-steps" / "metrics.csv").read_bytes()
    study.perform(figure, tmp_path, quick=True)
    assert (tmp_path / "small-steps" / "metrics.csv").read_bytes() == before
    assert iio.imread(curves.comparison(performed.reference.study, tmp_path / "figure.png", "one fails")).std() > 5


def test_the_last_values_stand_for_what_a_failed_arm_did_not_do():
    spec = LARGE.spec([0, 1])
    metrics = metrics_of([[9, 8, 7, 6, 5], [4, 3, 2, 1, 0]], rollouts=40)
    metrics["ok"] = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]])
    assert study.stopped(metrics) == 5
    completed = study._completed(metrics, spec)
    np.testing.assert_array_equal(completed["cost"], [[9, 8, 7, 6, 5, 5], [4, 3, 2, 1, 0, 0]])
    np.testing.assert_array_equal(completed["rollouts"][1], 40 * np.arange(1, 7))
    # interrupted between its refusals, and so let go on for longer: what follows the third is left out
    alone = study._of_seeds(1, metrics, spec)
    np.testing.assert_array_equal(alone["cost"], [[9, 8, 7, 6, 6, 6]])
    assert study.stopped(completed | {"ok": np.ones((2, 6))}) is None


# -- figures as values


def test_labels_that_share_a_folder_are_refused():
    with pytest.raises(ValueError, match="share a folder's name"):
        dataclasses.replace(TOY, arms=(LARGE, LARGE.but("Large-steps!")))
    with pytest.raises(ValueError, match="share a folder's name"):
        dataclasses.replace(TOY, variations=(Variation("small steps", lambda arm: arm),))


def test_a_quick_plan_is_small_and_lives_elsewhere():
    figure = dataclasses.replace(TOY, seeds=15)
    assert str(figure.folder()) == "figures/toy-1a"
    assert str(figure.folder(quick=True)) == "figures/toy-1a-quick"
    plan = study.plan(figure, figure.folder(quick=True), None, True, True)
    assert {(job.spec.iterations, len(job.spec.seeds), job.spec.rollouts) for job in plan.reference} == {(5, 2, 40)}
    assert (
        study.command(figure, figure.folder(True), None, True, True) == "pilotfish figure toy/1a --quick --sensitivity"
    )


def test_a_comparison_shows_the_arms_beside_one_that_explodes(tmp_path):
    def arm(iterations, rate):
        return metrics_of(1e6 * np.exp(rate * np.arange(iterations)) * np.array([[1.0], [1.1], [1.2]]))

    arms = {"learns": arm(40, -0.1), "shorter": arm(20, -0.2), "explodes": arm(40, 0.4), "breaks": arm(40, -0.15)}
    arms["breaks"]["cost"][1, 5:] = np.nan
    for x in ("iterations", "rollouts"):
        picture = iio.imread(curves.comparison(arms, tmp_path / f"{x}.png", "four arms", x))
        left = picture[120:300, 90:640, :3].astype(int)
        first = [*bytes.fromhex(COLOURS[0][1:])]
        drawn = (np.abs(left - first).max(-1) < 12).any(1)
        assert drawn.sum() > 90  # what learns fills half of the axis and more


CHECKED = set()
"""Tasks and algorithms of which an arm was checked: figures share them, and all pairs would take minutes."""


ALWAYS = {"moto/1c"}
"""The figure whose runs are the least slow to begin."""


@pytest.mark.parametrize("id", mostly_slow(sorted(experiments.figures()), ALWAYS))
def test_every_figure_can_be_run(id):
    figure = experiments.figures()[id]
    plan = study.plan(figure, figure.folder(), None, False, True)
    made = set()
    for job in plan.jobs:
        parts = {json.dumps(part, sort_keys=True) for part in (job.spec.task, job.spec.algorithm)}
        kinds = {job.arm.task, job.arm.algorithm}
        if job in plan.reference and not kinds <= CHECKED:
            _, algorithm, world = assemble(job.spec)
            loop.check(algorithm, world, job.spec.rollouts)
            CHECKED.update(kinds)
        elif not parts <= made:
            assemble(job.spec)
        made |= parts


@pytest.mark.parametrize("id", sorted(experiments.figures()))
def test_every_figure_can_be_judged(id):
    figure = experiments.figures()[id]
    assert figure.id == id
    assert figure.title
    assert figure.caption.endswith(".")
    assert figure.claims
    measured = {arm.label: synthetic(arm, figure.exhibit) for arm in figure.arms}
    for claim in figure.claims:
        assert claim.sentence
        assert claim.measure
        values = claim.statistic(measured)
        assert values.shape == (4,)
        assert np.isfinite(values).all(), claim.sentence
    if figure.exhibit:
        assert len(figure.exhibit.table(measured)) > 1
        assert "nan" not in json.dumps(figure.exhibit.as_json(measured)).lower()
    for variation in figure.variations:
        assert any(variation.change(arm) != arm for arm in figure.arms), f"{variation.label} changes nothing"


def synthetic(arm, exhibit):
    """Metrics of four seeds."""
    rng = np.random.default_rng(sum(map(ord, arm.label)))
    iterations = arm.setup.iterations
    cost = 1e6 * np.exp(-rng.uniform(0.01, 0.1, (4, 1)) * np.linspace(0.0, max(100.0, iterations), iterations))
    metrics = metrics_of(cost, cost < rng.uniform(1e4, 1e5), arm.setup.rollouts)
    if arm.measured:
        metrics |= {
            "noise_free_cost": cost,
            "noise_free_distance": cost / 1e6,
            "noise_free_success": rng.uniform(0.0, 1.0, cost.shape),
            "step_factor": rng.uniform(0.1, 3.0, cost.shape),
            "loss": rng.uniform(0.1, 3.0, cost.shape),
            "entropy": rng.uniform(0.1, 3.0, cost.shape),
        }
    if isinstance(exhibit, Map):
        metrics[ELSEWHERE] = rng.uniform(0.0, 1.0, (4, len(exhibit.places)))
    return metrics
