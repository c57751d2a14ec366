"""What is said of a run: the right sentences of made-up metrics, and no others."""

import numpy as np
import pytest

from pilotfish.runs.evaluation import WORSE
from pilotfish.runs.verdict import rollouts_to_success, sentences

SEEDS, ITERATIONS = 3, 20
FALLING = 100.0 * 0.5 ** np.arange(ITERATIONS)
SETTLED = np.concatenate([np.geomspace(100.0, 1.0, 10), np.ones(10)])
KL = {"title": "KL of a step", "unit": "nats", "bound": 0.1, "times": ""}


def metrics(**other):
    every = np.ones((SEEDS, ITERATIONS))
    return {
        "rollouts": every * 10 * np.arange(1, ITERATIONS + 1),
        "cost": every * SETTLED,
        "noise_free_cost": every * SETTLED,
        "success": every * np.nan,
        "ok": every,
        "valid": every,
        **{name: every * values for name, values in other.items()},
    }


def words(columns=None, found=None, iterations=ITERATIONS, **other):
    return [one.words for one in sentences(metrics(**other), columns or {}, found, iterations)]


def test_a_settled_run_of_a_task_without_success_has_nothing_left_to_do():
    assert words() == ["An episode costs 1, 100 at the beginning. The task defines no success."]


def test_actions_that_make_no_difference_are_named_where_they_are_most():
    late = np.where(np.arange(ITERATIONS) < ITERATIONS - 4, 0.0, 0.76)
    assert any(one.startswith("76% of the actions asked for lie beyond the bounds") for one in words(clipped=late))
    assert len(words(clipped=0.5)) == len(words())  # half of them is no more than a plant driven hard
    assert len(words(clipped=late[::-1])) == len(words())  # and what was once is over


def test_success_is_counted_in_seeds_and_dated_where_it_lasts():
    success = np.where(np.arange(ITERATIONS) == 2, 1.0, np.arange(ITERATIONS) >= 7).astype(float)
    measured = words(success=success, noise_free_success=success)
    assert measured[0] == "Succeeds in 3 of 3 seeds after 80 rollouts from each condition (median)."
    edge = metrics(success=np.where(np.arange(ITERATIONS) < 9, 1.0, 0.9))  # over 90%, not 90%
    assert np.isnan(rollouts_to_success(edge)).all()
    some = np.stack([success, success, 0 * success])
    np.testing.assert_array_equal(rollouts_to_success(metrics(success=some)), [80, 80, np.nan])
    first, *_ = sentences(metrics(success=some, noise_free_success=some), {}, None, ITERATIONS)
    assert first.mood == "fair"
    assert first.words.startswith("Succeeds in 2 of 3 seeds after 80")
    assert first.words.endswith("67% of the episodes reach the goal.")
    assert words(success=0 * success)[0] == "Succeeds in 0 of 3 seeds; 0% of the episodes reach the goal."


def test_what_explores_may_fail_again_and_what_is_measured_may_not():
    success = np.where(np.arange(ITERATIONS) == 5, 0.0, np.arange(ITERATIONS) >= 3).astype(float)
    explored = words(success=success)[0]
    assert explored == "Succeeds in 3 of 3 seeds after 40 rollouts from each condition (median), always after 70."
    found = {"success": [1.0, 1.0, 1.0], "summary": {}}
    fails = np.where(np.arange(ITERATIONS) == ITERATIONS - 1, 0.0, success)
    last = words(success=fails, found=found)[0]
    assert last == "Succeeds in 3 of 3 seeds after 40 rollouts from each condition (median)."
    assert words(success=0 * success, found=found)[0] == "Succeeds in 3 of 3 seeds."
    measured = words(success=success, noise_free_success=success)[0]
    assert measured == "Succeeds in 3 of 3 seeds after 70 rollouts from each condition (median)."


def test_noise_free_episodes_are_what_counts_and_an_evaluation_more_so():
    done = np.ones(ITERATIONS)
    assert words(success=0 * done, noise_free_success=done)[0].startswith("Succeeds in 3 of 3")
    found = {"success": [0.95, 0.5, 0.2], "summary": {}}
    assert words(found=found, success=done)[0].startswith("Succeeds in 1 of 3")


def test_a_bound_that_was_left_is_said_with_by_how_much():
    assert "KL stayed within its bound." in words({"kl": KL}, kl=0.1)
    kl = np.where(np.arange(ITERATIONS) == 4, 0.25, 0.1)
    assert "KL left its bound in 3 of 60 updates, by up to 2.5 times." in words({"kl": KL}, kl=kl)
    times = {"kl": KL | {"times": "factor"}}  # the bound itself is adapted
    assert "KL stayed within its bound." in words(times, kl=0.2, factor=2.0)
    below = {"drop": {"title": "change of entropy", "unit": "nats", "bound": -0.5, "times": ""}}
    assert "Change of entropy stayed within its bound." in words(below, drop=-0.5)
    assert "Change of entropy left its bound in 60 of 60 updates, by up to 2 times." in words(below, drop=-1.0)
    never = {"drop": below["drop"] | {"bound": -0.0}}  # it may rise, but not fall
    assert "Change of entropy stayed within its bound." in words(never, drop=0.3)
    assert "Change of entropy stayed within its bound." in words(never, drop=-1e-13)
    assert "Change of entropy left its bound in 60 of 60 updates." in words(never, drop=-0.1)
    assert not any("bound" in said for said in words({"kl": KL | {"bound": None}}, kl=9.0))


def test_refused_updates_and_rollouts_that_broke_off_are_said():
    refused, broken = words(ok=0.5, valid=0.97)[1:]
    assert refused == "50% of the updates were refused: their controllers stayed as they were."
    assert broken.startswith("3% of the rollouts broke off.")


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_a_cost_that_still_falls_asks_for_more_whatever_its_unit(scale):
    longer = "The cost still falls, over the last 4 iterations as well: train longer."
    assert longer in words(cost=scale * FALLING, noise_free_cost=scale * FALLING)
    line = -np.linspace(0.0, 1.0, ITERATIONS)  # a reward's: negative throughout
    assert longer in words(cost=scale * line, noise_free_cost=scale * line)
    assert longer not in words(cost=scale * SETTLED, noise_free_cost=scale * SETTLED)
    assert longer not in words(cost=scale * SETTLED[::-1], noise_free_cost=scale * SETTLED[::-1])


def test_exploration_that_costs_much_is_said():
    found = words(cost=np.maximum(SETTLED, 30.0))
    assert found[1].startswith("Exploration is still large: an exploring episode costs 30, one without noise 1.")
    assert not any("Exploration" in said for said in words(cost=SETTLED + 0.1))


def test_what_is_worse_than_at_first_and_what_is_not_done_stand_last():
    found = {"success": None, "summary": {WORSE: "2 of 3 seeds."}}
    *_, worse, left = words(found=found, iterations=30)
    assert worse == "What would be deployed is WORSE than at the beginning: 2 of 3 seeds."
    assert left == "20 of 30 iterations are done."


def test_nothing_and_nothing_finite_are_said():
    assert [one.words for one in sentences({}, {}, None, 5)] == ["No iteration has ended yet."]
    assert words(cost=np.inf, noise_free_cost=np.inf) == ["The last episodes have no finite cost."]
