"""A final cost that nobody has a formula of: the plant brings it after the last step, and success may depend on it."""

import dataclasses

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from oracles import point_mass

from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.runs import loop
from pilotfish.runs.same import difference
from pilotfish.types import Gaussian, Problem
from pilotfish.worlds.host import PlantWorld
from pilotfish.worlds.jax import JaxWorld
from pilotfish.worlds.mujoco import Beside, MujocoWorld, Simulation
from pilotfish.worlds.plant import Moved, Plant

T, M = 3, 8


class Thrown(Plant):
    """Goes by what is asked for, and at the end farther by a chance of its own; too far is nowhere."""

    def place(self, x, conditions, randoms):
        self.x, self.random, self.fell = x.copy(), randoms[0], []
        return x

    def step(self, u, t, moving):
        self.x = self.x + u
        return Moved(self.x.copy())

    def finish(self, whole):
        assert whole.all()
        end = self.x[:, 0] + self.random.normal(size=len(self.x))
        return np.where(np.abs(end) < 3, end**2, np.nan)


class Endless(Plant):
    """Says nothing of the end."""

    place, step = Thrown.place, Thrown.step


class Kite(Beside):
    """Never flies here."""

    def begin(self, batch, conditions, randoms):
        raise AssertionError


def problem(**changed):
    return Problem(
        **{
            "horizon": T,
            "dt": 0.1,
            "conditions": Gaussian(jnp.zeros((1, 1)), jnp.zeros((1, 1, 1))),
            "initial_std": jnp.ones(1),
            "cost": lambda x, u, t: 0.1 * u[0] ** 2,
            "final_cost": None,
            "success": lambda x, u, final: final < 1.0,
        }
        | changed
    )


@pytest.fixture(scope="module")
def rollouts():
    known = problem()
    return PlantWorld(known, Thrown()).rollout(LinearGaussianPolicy(known.first_controller), 40, jax.random.key(0))


def test_rollouts_have_the_costs_of_the_formula_and_of_the_plant(rollouts):
    steps, last = np.asarray(rollouts.cost[0]), np.asarray(rollouts.x[0, :, -1, 0])
    np.testing.assert_allclose(steps[:, :-1], 0.1 * np.asarray(rollouts.u[0, :, :, 0]) ** 2, rtol=1e-12)
    kept = np.isfinite(steps[:, -1])
    assert 0 < kept.sum() < 40
    assert np.abs(np.sqrt(steps[kept, -1]) - np.abs(last[kept])).std() > 0.1  # no function of the last state
    np.testing.assert_array_equal(rollouts.steps[0], np.where(kept, T, T - 1))


def test_success_is_told_the_final_cost(rollouts):
    final = np.asarray(rollouts.cost[0, :, -1])
    assert 0 < (final < 1.0).mean() < 1
    np.testing.assert_allclose(loop.outcome(problem(), rollouts).success, (final < 1.0).mean())


def test_worlds_that_bring_none_refuse_it():
    with pytest.raises(ValueError, match=r"final_cost=None: Endless brings no final cost"):
        PlantWorld(problem(), Endless())
    with pytest.raises(ValueError, match=r"problem\.final_cost is None: JaxWorld"):
        JaxWorld(problem(dynamics=lambda x, u: x + u))
    model = mujoco.MjModel.from_xml_string(point_mass.MJCF)
    start = Gaussian(jnp.zeros((1, model.nq + model.nv)), jnp.zeros((1, *2 * (model.nq + model.nv,))))
    with pytest.raises(ValueError, match=r"only what moves beside the model could bring it"):
        MujocoWorld(problem(conditions=start, initial_std=jnp.ones(model.nu), dt=model.opt.timestep), model)


def test_what_moves_beside_a_model_must_be_seen_where_it_is():
    mjcf = point_mass.MJCF.replace("</worldbody>", '<body name="kite" mocap="true"/></worldbody>')
    simulation = Simulation(mujoco.MjModel.from_xml_string(mjcf), beside=Kite())
    with pytest.raises(ValueError, match="mocap body 'kite' moves, but no sensor reads where it is"):
        simulation.places  # noqa: B018


def test_what_is_not_known_of_the_cost_is_one_of_two_things():
    with pytest.raises(ValueError, match="final_cost without cost"):
        problem(cost=None, success=None)
    with pytest.raises(ValueError, match=r"success\(x, u, final\) returns an array of shape \(1,\)"):
        problem(success=lambda x, u, final: final[None] < 1.0)


def test_worlds_differ_by_what_their_success_makes_of_the_final_cost():
    one, other = (PlantWorld(problem(success=lambda x, u, final, b=b: final < b), Thrown()) for b in (1.0, 2.0))
    assert difference(one, other) == "success"
    assert difference(one, dataclasses.replace(one)) is None
    assert difference(one, dataclasses.replace(one, problem=problem(final_cost=lambda x: x[0], success=None))) == (
        "final_cost"
    )
