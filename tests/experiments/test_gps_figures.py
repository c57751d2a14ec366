"""The figures of GPS'14 and CGPS'14: arms as tasks are set up, and claims that can hold or not."""

import numpy as np
import pytest

from pilotfish.experiments import cgps2014, claims, gps2014
from pilotfish.experiments.exhibits import ELSEWHERE
from pilotfish.tasks import registry


def metrics_of(cost, success):
    """Of three seeds that differ a little: cost and success of noise-free episodes, and of 10 exploring rollouts."""
    cost, success = (np.asarray(values, float) for values in (cost, success))
    factors = np.array([[0.97], [1.0], [1.03]])
    return {
        "noise_free_cost": factors * cost,
        "noise_free_success": np.tile(success, (3, 1)),
        "success": np.tile(success, (3, 1)),
        "rollouts": np.tile(10.0 * np.arange(1, len(cost) + 1), (3, 1)),
    }


def test_a_network_is_judged_where_its_episodes_cost_least():
    metrics = metrics_of([90, 40, 10, 30, 20, 60], [0.0, 0.1, 0.2, 0.9, 1.0, 0.3])
    metrics["noise_free_cost"][1, 4] = 1.0
    assert gps2014.cheapest(metrics).tolist() == [0.2, 1.0, 0.2]


def study(cost, success, mixture=2):
    """All arms alike, but for the iteration at which local controllers with a mixture begin to succeed."""
    found = {arm.label: metrics_of(cost, success) for arm in gps2014.TASKS.arms}
    begins = np.arange(len(cost)) >= mixture
    return found | {gps2014.WITH: metrics_of(cost, begins)}


@pytest.mark.parametrize("learns", [True, False])
def test_claims_of_tasks_can_hold_or_not(learns):
    cost, success = np.geomspace(100, 10 if learns else 1000, 12), np.linspace(0, 0.95 if learns else 0.2, 12)
    verdicts = [claims.judge(claim, study(cost, success, 2 if learns else 20)) for claim in gps2014.TASKS.claims]
    words = {verdict.claim.measure: verdict.verdict for verdict in verdicts}
    assert len(verdicts) == 2 * len(gps2014.NAMES) + 2
    assert set(words.values()) == {"holds"} if learns else "holds" not in words.values()


@pytest.mark.parametrize("learns", [True, False])
def test_claims_of_cgps_can_hold_or_not(learns):
    cost, success = np.geomspace(100, 10 if learns else 1000, 12), np.linspace(0, 0.95 if learns else 0.2, 12)
    found = {arm.label: metrics_of(cost, success) for arm in cgps2014.TASKS.arms}
    found[cgps2014.LAPLACE] = metrics_of(cost * (2.0 if learns else 0.5), success)
    found[cgps2014.GRADIENT] = metrics_of(cost * (0.95 if learns else 0.5), success)
    words = {claims.judge(claim, found).verdict for claim in cgps2014.TASKS.claims}
    assert words == {"holds" if learns else "does not hold"}


def test_arms_of_cgps_differ_in_what_they_are_named_for():
    swims = [arm.setup.algorithm for arm in cgps2014.TASKS.arms if arm.task == "swimmer-cgps"]
    assert [(one.terms, one.linearise.how) for one in swims] == [
        ("samples", "autodiff"),
        ("rollouts", "mean"),
        ("gradient", "autodiff"),
    ]
    assert all(one.model == "known" for one in swims)
    walks = {arm.label: (arm.task, arm.algorithm) for arm in cgps2014.TASKS.arms if arm.task != "swimmer-cgps"}
    assert walks["walker, rough ground"] == ("walker-rough", "gps")
    assert walks["walker, pushed: local controllers"] == ("walker-push", "lqr-gps")


def test_claims_of_slots_can_hold_or_not():
    for between, verdict in ((0.95, "holds"), (0.2, "does not hold")):
        success = np.where(gps2014.SLOTS.parts()["between"], between, 1.0)
        found = {ELSEWHERE: success * np.array([[0.97], [1.0], [1.0]])}
        judged = claims.judge(gps2014.WHERE.claims[0], {"planar peg": found})
        assert judged.verdict == verdict


def test_arms_are_set_up_as_their_tasks():
    for arm in gps2014.TASKS.arms:
        spec = arm.spec([0])
        assert spec.measured == 1
        if arm not in gps2014.ALONE:
            setup = gps2014.SETUPS[arm.task]["gps"]
            assert (arm.setup, gps2014.NAMES[arm.task]) == (setup, arm.label)
    assert {arm.setup.algorithm.dynamics.prior for arm in gps2014.ALONE} == {"none", "gmm"}


def test_the_row_of_slots_has_those_of_training_and_of_testing_between():
    parts, places = gps2014.SLOTS.parts(), np.array(gps2014.SLOTS.places)
    task = registry()["peg-2d-slots"].make()
    np.testing.assert_allclose(places[parts["trained"]], task.shifts)
    assert places[parts["between"]].min() > min(task.shifts)
    assert parts["between"].sum() == 9
    assert parts["outside"].sum() == 4
