"""Starts with noise, on a model with every kind of joint, ranges and constraints, against MuJoCo's own residuals."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.types import Gaussian, Problem
from pilotfish.worlds import starts
from pilotfish.worlds.mujoco import MujocoWorld, Simulation

MODEL = """
<mujoco>
  <compiler angle="radian"/>
  <worldbody>
    <body name="hand" mocap="true" pos=".4 .1 .5"/>
    <body>
      <joint name="slide" type="slide" axis="0 0 1" range="-.05 .1"/><geom size=".05"/>
      <body name="upper">
        <joint name="shoulder" type="ball" range="0 .2"/><geom type="capsule" fromto="0 0 0 .3 0 0" size=".02"/>
        <body name="fore" pos=".3 0 0">
          <joint name="elbow" axis="0 1 0"/><geom type="capsule" fromto="0 0 0 .2 0 0" size=".02"/>
        </body>
      </body>
    </body>
    <body name="crank" pos="0 1 0">
      <joint name="crank" axis="0 0 1"/><geom type="capsule" fromto="0 0 0 .1 0 0" size=".01"/>
      <body name="rod" pos=".1 0 0">
        <joint name="rod" axis="0 0 1"/><geom type="capsule" fromto="0 0 0 .3 0 0" size=".01"/>
      </body>
    </body>
    <body name="piston" pos=".4 1 0"><joint name="piston" type="slide" axis="1 0 0"/><geom size=".02"/></body>
    <body name="left" pos="0 2 0"><joint name="left" type="slide" axis="1 0 0"/><geom size=".02"/></body>
    <body name="right" pos="0 2.5 0"><joint name="right" type="slide" axis="1 0 0"/><geom size=".02"/></body>
    <body name="held" pos=".42 .1 .5"><freejoint name="held"/><geom size=".02"/></body>
  </worldbody>
  <equality>
    <connect body1="rod" body2="piston" anchor=".3 0 0"/>
    <joint joint1="left" joint2="right" polycoef="0 1 .5"/>
    <weld body1="hand" body2="held" relpose="0 0 0 1 0 0 0"/>
  </equality>
  <actuator>
    <motor joint="crank"/><general joint="elbow" dyntype="integrator" actrange="-.01 .01"/>
  </actuator>
</mujoco>
"""
KEY = jax.random.key(0)


def residuals(model, x):
    """Of all equality constraints (as rows) in the state x, by MuJoCo."""
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = x[: model.nq], x[model.nq : model.nq + model.nv]
    mujoco.mj_forward(model, data)
    return data.efc_pos[: data.ne].copy(), data.efc_vel[: data.ne].copy()


def drawn(std, episodes=60):
    model = mujoco.MjModel.from_xml_string(MODEL)
    simulation = Simulation(model)
    mean = simulation.states(model.qpos0[None], np.zeros((1, model.nv)))
    cov = np.zeros((1, mean.size, mean.size))
    known = model.nq + model.nv
    cov[0, :known, :known] = starts.spread(model, model.qpos0, std, np.ones(model.nv, bool))
    cov[0, known, known] = std**2
    problem = Problem(1, 0.02, Gaussian(jnp.asarray(mean), jnp.asarray(cov)), jnp.ones(2), lambda x, u, t: x @ x)
    with pytest.warns(UserWarning, match="'hand'"):
        world = MujocoWorld(problem, model)
    x = world.rollout(LinearGaussianPolicy(problem.first_controller), episodes, KEY).x
    return model, mean[0], np.asarray(x)[0, :, 0]


@pytest.mark.parametrize("std", [1e-3, 0.1])
def test_starts_respect_ranges_orientations_and_constraints(std):
    model, mean, x = drawn(std)
    before, _ = residuals(model, mean)
    assert np.abs(before).max() > 0.01  # the weld is not met where the model begins, and need not be
    for row in x:
        after, speed = residuals(model, row)
        np.testing.assert_allclose(after, before, atol=1e-8)
        np.testing.assert_allclose(speed, 0.0, atol=1e-8)
    for q in (slice(1, 5), slice(model.nq - 4, model.nq)):
        np.testing.assert_allclose(np.linalg.norm(x[:, q], axis=1), 1.0, rtol=1e-12)
    slide, turn = x[:, 0], 2 * np.arccos(np.clip(x[:, 1], -1, 1))
    assert slide.min() >= -0.05
    assert slide.max() <= 0.1
    assert turn.max() <= 0.2 + 1e-9
    assert np.abs(x[:, model.nq + model.nv]).max() <= 0.01
    spread = x.std(0)
    assert (spread[[0, 2, 3, 4, 5, 6]] > 0.1 * std).all()
    np.testing.assert_allclose(x[:, 9], x[:, 10] + 0.5 * x[:, 10] ** 2, atol=1e-8)  # left and right


def test_the_noise_of_an_orientation_is_that_of_its_angle():
    """Rotation vectors relative to the mean have the standard deviation that was asked for, in every direction."""
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><body><joint type="ball"/><geom size=".1"/></body></worldbody></mujoco>'
    )
    q0 = np.array([0.5, 0.1, -0.7, 0.5]) / np.linalg.norm([0.5, 0.1, -0.7, 0.5])
    cov = starts.spread(model, q0, 0.05, np.ones(3, bool))
    rng = np.random.default_rng(0)
    about = np.concatenate([q0, np.zeros(3)])
    turns = []
    for x in rng.multivariate_normal(about, cov, 2000):
        turn = np.zeros(3)
        mujoco.mju_subQuat(turn, starts.possible(model, x, about)[:4], q0)
        turns.append(turn)
    np.testing.assert_allclose(np.cov(np.transpose(turns)), 0.05**2 * np.eye(3), atol=0.1 * 0.05**2)


def test_a_start_without_noise_stays_as_it_is():
    _, mean, x = drawn(0.0, 2)
    np.testing.assert_array_equal(x, np.stack([mean, mean]))


@pytest.mark.parametrize("rounds", [3, 50])
def test_noise_that_leads_nowhere_is_lessened(monkeypatch, rounds):
    """Of a size at which the rod and the crank could not meet the piston, or not in so few steps."""
    monkeypatch.setattr(starts, "ROUNDS", rounds)
    model, mean, x = drawn(3.0)
    before, _ = residuals(model, mean)
    assert all(np.abs(residuals(model, row)[0] - before).max() < 1e-8 for row in x)
    assert x[:, 6].std() > 1e-3
