"""The MuJoCo world against single simulations stepped by hand, exact linear dynamics, and models that break."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from oracles import point_mass

from pilotfish.algorithms.ilqg import ILQG
from pilotfish.algorithms.lqr_gps import LQRGPS
from pilotfish.policies import Policy
from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.runs import loop
from pilotfish.runs.store import Run, Spec
from pilotfish.runs.train import train
from pilotfish.types import Gaussian, Limit, LinearGaussian, Problem
from pilotfish.worlds.mujoco import MujocoWorld, Simulation

ARM = """
<mujoco>
  <option timestep="0.01" integrator="{integrator}"/>
  <worldbody>
    <geom name="floor" type="plane" size="2 2 .1" pos="0 0 -.5"/>
    <body name="upper" pos="0 0 .2">
      <joint name="shoulder" axis="0 1 0" damping=".1" armature=".01"/>
      <geom type="capsule" fromto="0 0 0 .5 0 0" size=".05"/>
      <body name="fore" pos=".5 0 0">
        <joint name="elbow" axis="0 1 0" damping=".1" armature=".01"/>
        <geom type="capsule" fromto="0 0 0 .4 0 0" size=".04"/>
        <site name="tip" pos=".4 0 0"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="shoulder"/><motor joint="elbow"/></actuator>
  <sensor><framepos objtype="site" objname="tip"/><framelinvel objtype="site" objname="tip"/></sensor>
</mujoco>
"""
N, M, T, DX, DU = 2, 3, 20, 10, 2
KEY = jax.random.key(3)


def arm_model(integrator="Euler"):
    return mujoco.MjModel.from_xml_string(ARM.format(integrator=integrator))


def cost(x, u, t):
    return (x[4:7] ** 2).sum() + 1e-2 * t * (u**2).sum()


def final_cost(x):
    return x[0] ** 2


def arm_problem(**changes):
    mean = np.zeros((N, DX))
    mean[:, :4] = [[0.3, -0.5, 0.0, 0.1], [-0.2, 0.4, 1.0, 0.0]]
    cov = np.zeros((N, DX, DX))
    cov[:, :4, :4] = 1e-2 * np.eye(4)
    settings = {
        "conditions": Gaussian(jnp.asarray(mean), jnp.asarray(cov)),
        "initial_std": jnp.ones(DU),
        "cost": cost,
        "final_cost": final_cost,
        "action_low": -jnp.ones(DU),
        "action_high": jnp.ones(DU),
    }
    return Problem(horizon=T, dt=0.03, **(settings | changes))


def wild(problem, seed=0, std=1.0):
    """A policy with feedback and noise, another one for each condition."""
    rng = np.random.default_rng(seed)
    n, horizon, dx, du = len(problem.conditions.mean), problem.horizon, problem.dx, problem.du
    chol = np.broadcast_to(std * np.eye(du), (n, horizon, du, du))
    gains, offsets = rng.normal(size=(n, horizon, du, dx)), rng.normal(size=(n, horizon, du))
    return LinearGaussianPolicy(LinearGaussian(*map(jnp.asarray, (gains, offsets, chol))))


def by_hand(problem, policy, model_of, r, n, m):
    """Rollout m of condition n again, by one MjData."""
    model = model_of(n)
    data = mujoco.MjData(model)
    nq = model.nq
    data.qpos[:], data.qvel[:] = r.x[n, m, 0, :nq], r.x[n, m, 0, nq : nq + model.nv]
    mujoco.mj_forward(model, data)
    controller, e = jax.tree.map(lambda leaf: np.asarray(leaf[n]), policy.controller), np.asarray(r.episode[n, m])
    states, actions = [], []
    for t in range(problem.horizon + 1):
        x = np.concatenate([data.qpos, data.qvel, data.sensordata])
        states.append(x)
        if t == problem.horizon:
            break
        u = controller.K[t] @ x + controller.k[t] + controller.chol[t] @ e[t]
        actions.append(u)
        data.ctrl[:] = np.clip(u, -1.0, 1.0)
        for _ in range(3):
            mujoco.mj_step(model, data)
        mujoco.mj_forward(model, data)
    return np.array(states), np.array(actions)


@pytest.mark.parametrize("integrator", ["Euler", "implicitfast", "RK4"])
def test_rollouts_are_those_of_single_simulations(integrator):
    """Through contact with the floor, with sensors, clipped actions and a different body in each condition."""
    model = arm_model(integrator)
    places = np.stack([model.body_pos, model.body_pos])
    places[1, 1] += [0.0, 0.0, 0.1]
    problem = arm_problem()
    world, policy = MujocoWorld(problem, model, fields={"body_pos": places}), wild(problem)

    def model_of(n):
        own = arm_model(integrator)
        own.body_pos[:] = places[n]
        return own

    r = world.rollout(policy, M, KEY)
    assert r.valid.all()
    touched = 0
    for n in range(N):
        for m in range(M):
            x, u = by_hand(problem, policy, model_of, r, n, m)
            np.testing.assert_allclose(r.x[n, m], x, rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(r.u[n, m], u, rtol=1e-6, atol=1e-8)
            cost = (x[:-1, 4:7] ** 2).sum(1) + 1e-2 * np.arange(T) * (u**2).sum(1)
            np.testing.assert_allclose(r.cost[n, m], np.append(cost, x[-1, 0] ** 2), rtol=1e-5, atol=1e-8)
            touched += x[:, 6].min() < -0.44
    assert touched > 0
    np.testing.assert_array_equal(r.o, r.x)


def test_starts_are_drawn_from_the_conditions_and_sensors_read_at_once():
    problem = arm_problem()
    r = MujocoWorld(problem, arm_model()).rollout(wild(problem), 400, KEY)
    start = np.asarray(r.x[:, :, 0])
    np.testing.assert_allclose(start[..., :4].mean(1), problem.conditions.mean[:, :4], atol=0.03)
    np.testing.assert_allclose(start[..., :4].std(1), 0.1, rtol=0.15)
    q1, q12 = start[..., 0], start[..., 0] + start[..., 1]
    np.testing.assert_allclose(start[..., 4], 0.5 * np.cos(q1) + 0.4 * np.cos(q12), atol=1e-12)
    np.testing.assert_allclose(start[..., 6], 0.2 - 0.5 * np.sin(q1) - 0.4 * np.sin(q12), atol=1e-12)


def test_threads_do_not_matter_and_keys_do():
    problem = arm_problem()
    first, again, other = (
        MujocoWorld(problem, arm_model(), threads=threads).rollout(wild(problem), M, jax.random.key(seed))
        for threads, seed in ((1, 0), (3, 0), (1, 1))
    )
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.isclose(first.x, other.x).all((2, 3)).any()


class Follower(Policy):
    """Does what it sees, and more with time."""

    kind: ClassVar[str] = "follower"
    per_condition: ClassVar[bool] = False
    gain: jax.Array

    def begin(self, key, x0, o0):
        return jnp.zeros(())

    def act(self, episode, t, x, o):
        return self.gain * o + t

    def noise_free(self):
        return self

    def tensors(self):
        return {"gain": np.asarray(self.gain)}

    def settings(self):
        return {}

    @classmethod
    def from_tensors(cls, tensors, settings):
        return cls(jnp.asarray(tensors["gain"]))


def test_a_policy_sees_what_is_observed():
    problem = arm_problem(observe=lambda x: 2.0 * x[:2], action_low=-np.inf, action_high=np.inf)
    r = MujocoWorld(problem, arm_model()).rollout(Follower(jnp.ones(2)), M, KEY)
    np.testing.assert_allclose(r.o, 2.0 * r.x[..., :2])
    np.testing.assert_allclose(r.u, r.o[..., :-1, :] + np.arange(T)[:, None], rtol=1e-12)


def test_forces_act_when_they_are_said_to():
    """A push of 6 N for two steps of .04 s on 2 kg is .24 m/s."""
    model = mujoco.MjModel.from_xml_string(point_mass.MJCF)
    problem = Problem(10, 0.04, Gaussian(jnp.zeros((1, 2)), jnp.zeros((1, 2, 2))), jnp.ones(1), lambda x, u, t: x @ x)
    forces = np.zeros((10, model.nbody, 6))
    forces[4:6, 1, 0] = 6.0
    still = jax.tree.map(jnp.zeros_like, wild(problem))
    r = MujocoWorld(problem, model, forces=forces).rollout(still, 1, KEY)
    np.testing.assert_allclose(r.x[0, 0, :, 1], [0.0] * 5 + [0.12] + [0.24] * 5, atol=1e-12)


# -- derivatives


def test_linear_dynamics_are_found_exactly():
    """Semi-implicit Euler, two steps of h = .02: v' = v + 2 h 3 u / 2, p' = p + 2 h v + 3 h^2 3 u / 2."""
    model = mujoco.MjModel.from_xml_string(point_mass.MJCF)
    problem = Problem(5, 0.04, Gaussian(jnp.zeros((1, 2)), jnp.zeros((1, 2, 2))), jnp.ones(1), lambda x, u, t: x @ x)
    rng = np.random.default_rng(0)
    found = Simulation(model).linearised(problem, rng.normal(size=(1, 4, 2)), rng.normal(size=(1, 4, 1)))
    for i in range(4):
        np.testing.assert_allclose(found.A[0, i], [[1.0, 0.04], [0.0, 1.0]], atol=1e-9)
        np.testing.assert_allclose(found.B[0, i], [[3 * 0.02**2 * 1.5], [0.04 * 1.5]], atol=1e-9)
        np.testing.assert_allclose(found.c[0, i], 0.0, atol=1e-9)


@pytest.mark.parametrize("lift", [0.2, 1.0])
def test_derivatives_are_those_of_mujoco_also_in_contact(lift):
    """A product of mjd_transitionFD's one-step derivatives along the substeps."""
    model, problem = arm_model(), arm_problem()
    x, u = np.array([[0.9, 0.3, -0.2, 0.5]]), np.array([[0.3, -0.2]])
    model.body_pos[1, 2] = lift
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:], data.ctrl[:] = x[0, :2], x[0, 2:], u[0]
    A, B = np.eye(4), np.zeros((4, 2))
    for _ in range(3):
        step_A, step_B = np.zeros((4, 4)), np.zeros((4, 2))
        mujoco.mjd_transitionFD(model, data, 1e-6, True, step_A, step_B, None, None)
        A, B = step_A @ A, step_A @ B + step_B
        mujoco.mj_step(model, data)
    assert (data.ncon > 0) == (lift < 1)
    found = Simulation(model).linearised(problem, np.concatenate([x, np.zeros((1, 6))], 1)[None], u[None])
    found = jax.tree.map(lambda leaf: leaf[0], found)
    np.testing.assert_allclose(found.A[0, :4, :4], A, rtol=1e-3, atol=1e-4 * np.abs(A).max())
    np.testing.assert_allclose(found.B[0, :4], B, rtol=1e-3, atol=1e-4 * np.abs(B).max())
    np.testing.assert_array_equal(found.A[0, :, 4:], 0.0)
    after = found.A[0] @ np.append(x[0], np.zeros(6)) + found.B[0] @ u[0] + found.c[0]
    np.testing.assert_allclose(after[:4], np.concatenate([data.qpos, data.qvel]), rtol=1e-9)


ZOO = """
<mujoco>
  <option timestep=".005" gravity="0 0 -9.81"/>
  <worldbody>
    <geom name="floor" type="plane" size="2 2 .1"/>
    <site name="origin" pos=".1 .2 .3" euler="10 20 30"/>
    <camera name="eye" pos="0 -3 1" xyaxes="1 0 0 0 .3 1" resolution="64 48"/>
    <body name="rail" pos="0 0 1">
      <joint name="slide" type="slide" axis="1 0 0" range="-1 .05" damping="2"/>
      <geom type="box" size=".1 .1 .05"/>
      <body name="arm" pos="0 0 .1">
        <joint name="hinge" axis="0 1 0" range="-2 2" damping=".5"/>
        <geom name="arm" type="capsule" fromto="0 0 0 .3 0 0" size=".03"/>
        <site name="tip" pos=".3 0 0"/>
        <body name="hand" pos=".3 0 0">
          <joint name="ball" type="ball" damping=".1"/>
          <geom name="hand" type="capsule" fromto="0 0 0 0 .1 .2" size=".02"/>
          <site name="nail" pos="0 .1 .2" size=".3"/>
        </body>
      </body>
    </body>
    <body name="toy" pos=".8 .2 .095" euler="20 10 5">
      <freejoint name="free"/>
      <geom name="toy" type="ellipsoid" size=".1 .12 .1" mass=".3"/>
      <site name="toy" pos="0 0 .05"/>
    </body>
  </worldbody>
  <tendon>
    <fixed name="rope" range="-2 .3"><joint joint="slide" coef=".5"/><joint joint="hinge" coef="1"/></fixed>
  </tendon>
  <actuator>
    <general name="slow" joint="slide" dyntype="filter" dynprm=".1" gainprm="5"/>
    <general name="sum" joint="hinge" dyntype="integrator" gainprm="1" actrange="-1 1"/>
    <motor name="wrist" joint="ball" gear="0 1 0"/>
    <motor name="pull" tendon="rope"/>
  </actuator>
  <sensor>
    <magnetometer site="nail"/> <camprojection site="toy" camera="eye"/> <rangefinder site="tip"/>
    <jointpos joint="hinge"/> <tendonpos tendon="rope"/> <actuatorpos actuator="slow"/> <ballquat joint="ball"/>
    <jointlimitpos joint="slide"/> <tendonlimitpos tendon="rope"/>
    <framepos objtype="site" objname="tip"/> <framepos objtype="body" objname="toy" reftype="site" refname="nail"/>
    <framequat objtype="site" objname="nail"/> <framexaxis objtype="site" objname="nail"/>
    <frameyaxis objtype="body" objname="toy"/> <framezaxis objtype="body" objname="toy"/>
    <subtreecom body="rail"/> <insidesite objtype="geom" objname="arm" site="nail"/>
    <distance geom1="hand" geom2="toy" cutoff="9"/> <normal geom1="hand" geom2="toy" cutoff="9"/>
    <fromto geom1="hand" geom2="toy" cutoff="9"/> <e_potential/>
    <clock/>
    <velocimeter site="nail"/> <gyro site="nail"/> <jointvel joint="hinge"/> <tendonvel tendon="rope"/>
    <actuatorvel actuator="slow"/> <ballangvel joint="ball"/> <jointlimitvel joint="slide"/>
    <tendonlimitvel tendon="rope"/> <framelinvel objtype="site" objname="nail"/>
    <framelinvel objtype="body" objname="toy" reftype="site" refname="tip"/>
    <frameangvel objtype="site" objname="nail"/> <subtreelinvel body="rail"/> <subtreeangmom body="rail"/> <e_kinetic/>
  </sensor>
</mujoco>
"""


def test_every_row_of_the_derivatives_is_that_of_whole_rollouts():
    """Every kind of sensor of positions and velocities, every kind of joint, contact, activations at and off a limit.

    Where entries are moved, so that each quaternion stays one to first order only, the plant is moved alike.
    """
    model = mujoco.MjModel.from_xml_string(ZOO)
    simulation = Simulation(model)
    rng = np.random.default_rng(0)
    qpos, qvel = model.qpos0.copy(), 0.3 * rng.normal(size=model.nv)
    qpos[:2] = 0.1, 0.4
    mujoco.mju_axisAngle2Quat(qpos[2:6], np.array([0.6, 0.0, 0.8]), 0.7)
    states = simulation.states(np.stack([qpos] * 2), np.stack([qvel, -qvel]), np.array([[0.2, -0.3], [0.1, 1.0]]), 0.5)
    cost = lambda x, u, t: x[0] * u[0]  # noqa: E731
    conditions = Gaussian(jnp.asarray(states), jnp.zeros((2, states.shape[1], states.shape[1])))
    problem = Problem(1, 0.01, conditions, jnp.ones(4), cost)
    u = 0.2 * rng.normal(size=(2, 1, 4))
    found = simulation.linearised(problem, states[:, None], u)
    clock = model.nq + model.nv + 2 + model.sensor_adr[model.sensor_type == mujoco.mjtSensor.mjSENS_CLOCK][0]
    known = [*range(model.nq + model.nv + 2), clock]

    def after(n, z):
        plant = MujocoWorld(problem, model).plant(1)
        plant.place(z[None, :-4], [n], [])
        return plant.step(z[None, -4:], 0, np.ones(1, bool)).x[0]

    for n in range(2):
        z = np.append(states[n], u[n, 0])
        by_rollouts = np.zeros((len(states[n]), len(z)))
        for i in [*known, *range(len(z) - 4, len(z))]:
            step = 1e-5 * np.eye(len(z))[i]
            inwards = n == 1 and i == model.nq + model.nv + 1  # the second activation is at its limit of 1
            ends = after(n, z if inwards else z + step), after(n, z - step)
            by_rollouts[:, i] = (ends[0] - ends[1]) / (1e-5 if inwards else 2e-5)
        J = np.concatenate([found.A[n, 0], found.B[n, 0]], 1)
        np.testing.assert_allclose(J, by_rollouts, rtol=1e-3, atol=2e-4)
        np.testing.assert_allclose(J @ z + found.c[n, 0], after(n, z), rtol=1e-9, atol=1e-9)
        unmoved = model.nq + model.nv + 2 + np.array([16, 37])  # y of the tip, and whether it is inside a site
        np.testing.assert_array_equal(np.flatnonzero(~(np.abs(J) > 1e-6).any(1)), unmoved)
    data = mujoco.MjData(model)
    simulation.place(data, states[0])
    mujoco.mj_forward(model, data)
    assert data.ncon > 0


@pytest.mark.parametrize("solver", ["PGS", "CG", "Newton"])
def test_the_next_state_follows_from_state_and_action_alone(solver):
    """Also from the middle of an episode in contact, where the solver has next to no iterations."""
    mjcf = ZOO.replace("<option ", f'<option solver="{solver}" iterations="2" ')
    model = mujoco.MjModel.from_xml_string(mjcf)
    start = Simulation(model).states(model.qpos0[None], np.zeros((1, model.nv)))
    conditions = Gaussian(jnp.asarray(start), jnp.zeros((1, start.size, start.size)))
    problem = Problem(9, 0.01, conditions, jnp.ones(4), lambda x, u, t: x[0] * u[0])
    r = (world := MujocoWorld(problem, model)).rollout(LinearGaussianPolicy(problem.first_controller), 1, KEY)
    x, u = np.asarray(r.x[0, 0]), np.asarray(r.u[0, 0])
    plant = world.plant(9)
    plant.place(x[:-1], [0] * 9, [])
    after = plant.step(u, 0, np.ones(9, bool)).x
    np.testing.assert_allclose(after, x[1:], rtol=1e-9, atol=1e-9)
    found = world.simulation.linearised(problem, x[None, :-1], u[None])
    expected = np.einsum("tij,tj->ti", found.A[0], x[:-1]) + np.einsum("tij,tj->ti", found.B[0], u) + found.c[0]
    np.testing.assert_allclose(expected, x[1:], rtol=1e-6, atol=1e-6)


def test_derivatives_do_not_depend_on_the_unit_of_an_action():
    """A motor that is asked for nanonewtons: with no push of size 1 would its effect be seen."""
    problem = Problem(
        1, 0.04, Gaussian(jnp.zeros((1, 2)), jnp.zeros((1, 2, 2))), 1e9 * jnp.ones(1), lambda x, u, t: x @ x
    )
    model = mujoco.MjModel.from_xml_string(point_mass.MJCF)
    model.actuator_gear[:] *= 1e-9
    found = Simulation(model).linearised(problem, np.zeros((1, 1, 2)), np.zeros((1, 1, 1)))
    np.testing.assert_allclose(found.B[0, 0] * 1e9, [[3 * 0.02**2 * 1.5], [0.04 * 1.5]], rtol=1e-8)


@pytest.mark.slow
def test_a_cost_of_a_sensor_is_optimised_like_the_same_cost_of_the_state():
    """A hinge about y with a site .2 m below it."""
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><option timestep=".01"/><worldbody><body><joint name="j" axis="0 1 0"/>'
        '<geom type="capsule" fromto="0 0 0 0 0 -.2" size=".02"/><site name="s" pos="0 0 -.2"/></body></worldbody>'
        '<actuator><motor joint="j"/></actuator><sensor><framepos objtype="site" objname="s"/></sensor></mujoco>'
    )
    start = Gaussian(jnp.asarray([[0.0, 0.0, 0.0, 0.0, -0.2]]), jnp.zeros((1, 5, 5)))
    final = []
    for place in (lambda x: x[2], lambda x: -0.2 * jnp.sin(x[0])):
        cost = lambda x, u, t, place=place: 10 * (place(x) - 0.15) ** 2 + 0.01 * (u**2).sum()  # noqa: E731
        world = MujocoWorld(Problem(40, 0.02, start, jnp.ones(1), cost), model)
        final.append(train(ILQG(), world, rollouts=1, iterations=10).metrics["cost"][0])
    np.testing.assert_allclose(*final, rtol=1e-2)
    assert final[0][-1] < 0.2 * final[0][0]


def test_a_model_tells_which_of_its_joints_turn_and_which_are_stopped_where():
    """After a body that floats, whose position has seven numbers and whose velocity six."""
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><compiler angle="radian"/><worldbody><body><freejoint/><geom size=".1"/></body><body>'
        '<joint name="s" type="slide" axis="1 0 0" range="-.3 .2"/><joint type="hinge" axis="0 1 0"/>'
        '<joint type="hinge" axis="1 0 0" range="-1 2"/><geom size=".1"/></body></worldbody>'
        '<actuator><motor joint="s"/></actuator></mujoco>'
    )
    start = Gaussian(jnp.asarray(np.append(model.qpos0, np.zeros(9)))[None], jnp.zeros((1, 19, 19)))
    told = {"horizon": 5, "dt": 0.02, "conditions": start, "initial_std": [1.0], "cost": lambda x, u, t: x @ x}
    problem = MujocoWorld(Problem(**told), model).problem
    assert problem.angles == (8,)
    assert problem.limits == (Limit(7, 16, -0.3, 0.2), Limit(9, 18, -1.0, 2.0))
    assert MujocoWorld(Problem(**told, limits=[(7, 16, -1.0, 1.0)]), model).problem.limits == (Limit(7, 16, -1.0, 1.0),)
    model.jnt_range[1] = 0.0  # held where it is
    assert MujocoWorld(Problem(**told), model).problem.limits == (Limit(9, 18, -1.0, 2.0),)
    few = told | {"conditions": Gaussian(jnp.zeros((1, 4)), jnp.zeros((1, 4, 4)))}
    with pytest.raises(ValueError, match=r"conditions.mean has 4 columns"):
        MujocoWorld(Problem(**few), model)


# -- what breaks


@pytest.mark.parametrize("what", [np.nan, 9e9])
def test_a_simulation_that_diverges_ends_its_rollout_and_no_other(what, tmp_path, monkeypatch, capfd):
    """By a bad action, or by a force under which velocities overflow. It leaves no trace elsewhere."""
    monkeypatch.chdir(tmp_path)
    problem = arm_problem(action_low=-np.inf, action_high=np.inf)
    policy = jax.tree.map(jnp.zeros_like, wild(problem))
    k = policy.controller.k.at[1, 7].set(what)
    policy = LinearGaussianPolicy(LinearGaussian(policy.controller.K, k, policy.controller.chol))
    r = MujocoWorld(problem, arm_model()).rollout(policy, M, KEY)
    np.testing.assert_array_equal(r.valid, [[True] * M, [False] * M])
    assert np.isfinite(r.x[0]).all()
    assert np.isfinite(r.x[1, :, :8]).all()
    assert np.isnan(r.x[1, :, 8:]).all()
    assert loop.outcome(problem, r).broken_at == (7 if np.isnan(what) else 8)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""
    assert mujoco.MjLogConfig.get().logto_file


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(conditions=Gaussian(jnp.zeros((1, 4)), jnp.eye(4)[None])), "4 columns.* 2 . 2 . 0 . 6"),
        (dict(initial_std=jnp.ones(3), action_low=-np.inf, action_high=np.inf), r"3 entries.*2 actions \(ctrl\)"),
        (dict(noise_std=jnp.ones(DX)), "no process noise"),
    ],
)
def test_problems_that_do_not_fit_the_model_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MujocoWorld(arm_problem(cost=lambda x, u, t: x[0] * u[0], **change), arm_model())


def test_a_time_step_that_does_not_fit_is_refused():
    problem = arm_problem()
    fits = Problem(T, 0.025, problem.conditions, problem.initial_std, problem.cost)
    with pytest.raises(ValueError, match=r"dt=0.025 is no multiple of the model's timestep, 0.01"):
        MujocoWorld(fits, arm_model())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"body_pos": np.zeros((N, 3))}, r"\(2, 3\): it must be \(2, 3, 3\)"),
        ({"colour": np.zeros(N)}, "no field 'colour'"),
    ],
)
def test_fields_that_the_model_does_not_have_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MujocoWorld(arm_problem(), arm_model(), fields=fields)


def test_sensors_of_what_does_not_follow_from_the_state_are_left_out_with_a_word():
    """The others stay where they are read, in the model's order."""
    mjcf = ARM.format(integrator="Euler").replace('<motor joint="shoulder"/>', '<motor name="a" joint="shoulder"/>')
    mjcf = mjcf.replace("<sensor>", '<sensor><actuatorfrc name="f" actuator="a"/>').replace(
        "</sensor>",
        '<accelerometer name="g" site="tip"/><jointpos name="slow" joint="elbow" delay=".02" nsample="4"/></sensor>',
    )
    with pytest.warns(UserWarning, match="left out of the state: 'f', 'g', 'slow'"):
        world = MujocoWorld(problem := arm_problem(), mujoco.MjModel.from_xml_string(mjcf))
    r = world.rollout(wild(problem), M, KEY)
    np.testing.assert_array_equal(r.x, MujocoWorld(problem, arm_model()).rollout(wild(problem), M, KEY).x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('<motor joint="shoulder"/>', '<motor name="a" joint="shoulder" delay=".02" nsample="4"/>'), "'a' has delay"),
        (("<worldbody>", '<option><flag sleep="enable"/></option><worldbody>'), "which bodies are asleep.*disable"),
    ],
)
def test_what_would_be_hidden_is_refused_by_name(change, message):
    model = mujoco.MjModel.from_xml_string(ARM.format(integrator="Euler").replace(*change))
    with pytest.raises(ValueError, match=message):
        MujocoWorld(arm_problem(), model)


def test_mocap_bodies_that_nobody_moves_are_named():
    mjcf = ARM.format(integrator="Euler").replace("</worldbody>", '<body name="hand" mocap="true"/></worldbody>')
    with pytest.warns(UserWarning, match="mocap bodies that no action moves: 'hand'"):
        MujocoWorld(arm_problem(), mujoco.MjModel.from_xml_string(mjcf))


# -- learning


def point_world():
    def cost(x, u, t):
        return (x[0] - 1.0) ** 2 + 0.1 * x[1] ** 2 + 0.01 * (u**2).sum()

    start = Gaussian(jnp.array([[0.0, 0.0], [0.5, 0.0]]), 1e-2 * jnp.eye(2)[None].repeat(2, 0))
    return MujocoWorld(Problem(25, 0.04, start, jnp.ones(1), cost), mujoco.MjModel.from_xml_string(point_mass.MJCF))


@pytest.mark.slow
def test_an_algorithm_learns_and_a_stopped_run_goes_on_bit_identically(tmp_path):
    world, algorithm = point_world(), LQRGPS()
    spec = Spec(task={}, algorithm={}, rollouts=20, iterations=8, seeds=[0, 1], checkpoint_every=3)
    loop.check(algorithm, world, 20)
    settings = {"rollouts": 20, "iterations": 8, "seeds": [0, 1]}
    whole = train(algorithm, world, **settings)
    assert (whole.metrics["cost"][:, -1] < 0.8 * whole.metrics["cost"][:, 0]).all()
    run = Run.create(tmp_path / "run", spec)

    def stop(turn):
        if turn.i == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(algorithm, world, run=run, callbacks=[stop], **settings)
    resumed = train(algorithm, world, run=run, **settings)
    jax.tree.map(np.testing.assert_array_equal, resumed.states, whole.states)
    np.testing.assert_array_equal(resumed.metrics["cost"], whole.metrics["cost"])
    rollouts = loop.deploy(algorithm, world, 5, KEY, whole.states)
    assert rollouts.x.shape == (2, 2, 5, 26, 2)
    np.testing.assert_array_equal(rollouts.x[0, :, :, 0], rollouts.x[1, :, :, 0])
