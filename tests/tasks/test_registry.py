"""What every registered task promises."""

import numpy as np
import pytest

from pilotfish import tasks

ROLES = {"body", "joint", "goal", "ground"}


@pytest.fixture(params=sorted(tasks.registry()))
def entry(request):
    return tasks.registry()[request.param]


def test_an_entry_is_found_by_its_name_and_says_what_it_is(entry):
    assert tasks.registry()[entry.name].summary == entry.summary != ""


def test_start_state_is_drawn_within_the_picture(entry):
    task = entry.make()
    left, right, bottom, top = task.extent
    assert left < right
    assert bottom < top
    for x in task.problem().conditions.mean:
        strokes = task.draw(np.asarray(x))
        assert {stroke.role for stroke in strokes} >= {"body", "goal"}
        for points, width, role in strokes:
            assert points.ndim == 2
            assert points.shape[1] == 2
            assert width > 0
            assert role in ROLES
            assert ((points >= (left, bottom)) & (points <= (right, top))).all()  # False for nan


def test_drawing_shows_the_state(entry):
    task = entry.make()
    x = np.asarray(task.problem().conditions.mean[0])
    drawn, moved = task.draw(x), task.draw(x + 0.1)
    changed = {a.role for a, b in zip(drawn, moved, strict=True) if not np.array_equal(a.points, b.points)}
    assert "body" in changed
    assert "goal" not in changed
