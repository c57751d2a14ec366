"""What every registered task promises."""

import mujoco
import numpy as np
import pytest

from pilotfish import tasks, testing
from pilotfish.tasks import DrawnTask
from pilotfish.tasks.mujoco import CAMERA, MujocoTask

ENTRIES = tasks.registry()


def of_kind(kind):
    return [name for name, entry in sorted(ENTRIES.items()) if isinstance(entry.make(), kind)]


@pytest.fixture(params=sorted(ENTRIES))
def entry(request):
    return ENTRIES[request.param]


@pytest.fixture(params=of_kind(DrawnTask))
def drawn(request):
    return ENTRIES[request.param].make()


@pytest.fixture(params=of_kind(MujocoTask))
def simulated(request):
    return ENTRIES[request.param].make()


def test_an_entry_is_found_by_its_name_and_says_what_it_is(entry):
    assert ENTRIES[entry.name].summary == entry.summary != ""
    assert isinstance(entry.make(), DrawnTask | MujocoTask)


def test_start_state_is_drawn_within_the_picture(drawn):
    task = drawn
    testing.check_drawn(task)
    for x in task.problem().conditions.mean:
        assert {stroke.role for stroke in task.draw(np.asarray(x))} >= {"body", "goal"}


def test_drawing_shows_the_state(drawn):
    task = drawn
    x = np.asarray(task.problem().conditions.mean[0])
    drawn, moved = task.draw(x), task.draw(x + 0.1)
    changed = {a.role for a, b in zip(drawn, moved, strict=True) if not np.array_equal(a.points, b.points)}
    assert "body" in changed
    assert "goal" not in changed


def test_conditions_are_states_of_the_simulation(simulated):
    """Positions, velocities and what sensors read there."""
    simulation, problem = simulated.simulation(), simulated.problem()
    mean, known = np.asarray(problem.conditions.mean), simulation.model.nq + simulation.model.nv
    nq = simulation.model.nq
    np.testing.assert_allclose(simulation.states(mean[:, :nq], mean[:, nq:known]), mean, atol=1e-9)
    for field, values in simulation.fields.items():
        for n in range(len(mean)):
            np.testing.assert_array_equal(getattr(simulation.of_condition(n), field), values[n])


def test_nothing_touches_at_the_start(simulated):
    simulation = simulated.simulation()
    for n, x in enumerate(np.asarray(simulated.problem().conditions.mean)):
        data = mujoco.MjData(simulation.of_condition(n))
        data.qpos[:] = x[: simulation.model.nq]
        mujoco.mj_forward(simulation.of_condition(n), data)
        assert data.ncon == 0


def test_camera_looks_at_what_moves(simulated):
    """The centres of all bodies that move are within the middle nine tenths of the picture."""
    simulation = simulated.simulation()
    model = simulation.of_condition(0)
    data = mujoco.MjData(model)
    data.qpos[:] = np.asarray(simulated.problem().conditions.mean)[0, : model.nq]
    mujoco.mj_forward(model, data)
    view = model.camera(CAMERA).id
    seen = (data.xipos[model.body_weldid > 0] - data.cam_xpos[view]) @ data.cam_xmat[view].reshape(3, 3)
    height = np.tan(np.radians(model.cam_fovy[view]) / 2)
    assert (seen[:, 2] < 0).all()
    assert (np.abs(seen[:, 1] / seen[:, 2]) < 0.9 * height).all()
    assert (np.abs(seen[:, 0] / seen[:, 2]) < 0.9 * height * 4 / 3).all()
