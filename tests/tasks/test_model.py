"""A user's model and cost as a task: what is made of them, and what is said when something is wrong with them."""

import contextlib
import dataclasses
import sys
from pathlib import Path

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pilotfish.policies.linear_gaussian import LinearGaussianPolicy
from pilotfish.runs import RunError
from pilotfish.tasks import find
from pilotfish.tasks.model import ModelTask, describe
from pilotfish.types import LinearGaussian, identity, no_cost
from pilotfish.view.scene import scene

MODEL = """
<mujoco>
  <option timestep="{timestep}"/>
  <worldbody>
    <body name="base">
      <joint name="rail" type="slide" axis="1 0 0"/>
      <geom size=".1"/>
      <body name="pole" pos="0 0 .2">
        <joint axis="0 1 0"/>
        <geom type="capsule" fromto="0 0 0 0 0 .5" size=".03"/>
        <site name="tip" pos="0 0 .5"/>
      </body>
    </body>
    <body name="toy" pos="2 0 1"><freejoint name="root"/><geom size=".1"/></body>
    <body name="head" pos="0 3 0"><joint name="neck" type="ball"/><geom size=".1" pos=".2 0 0"/></body>
  </worldbody>
  <tendon><fixed name="rope"><joint joint="rail" coef="1"/></fixed></tendon>
  <actuator>
    <motor name="push" joint="rail" ctrlrange="-2 6"/>
    <motor tendon="rope"/>
  </actuator>
  <sensor><framepos objtype="site" objname="tip"/><jointpos name="cart" joint="rail"/></sensor>
  {keyframes}
</mujoco>
"""
KEYFRAMES = """
<keyframe>
  <key name="left" qpos="-1 .5  2 0 1  1 0 0 0  1 0 0 0" qvel="0 3  0 0 0  0 0 0  0 0 0" ctrl="1.5 -.5"/>
  <key name="right" qpos="1 0  2 0 1  0 1 0 0  1 0 0 0" ctrl="9 0"/>
</keyframe>
"""
WHOLE = MODEL.format(timestep=0.005, keyframes=KEYFRAMES)
NQ, NV, DX = 2 + 7 + 4, 2 + 6 + 3, 28
KEY = jax.random.key(1)
COST = """
import jax.numpy as jnp

SCALE = 2.0

def squared(z):
    return (z**2).sum()

def cost(x, u, t):
    return SCALE * squared(x[:2]) + t * squared(u)

def final_cost(x):
    return jnp.abs(x[0])

def success(x, u):
    return (x[-1, 0] > x[0, 0]) & (len(u) > 0)

def observe(x):
    return x[:3]
"""
CART = """
<mujoco>
  <option timestep=".01" gravity="0 0 0"/>
  <worldbody>
    <body>
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="y" type="slide" axis="0 1 0"/>
      <geom size=".1" mass=".1"/>
    </body>
  </worldbody>
  <actuator><motor joint="x" ctrlrange="-2 2"/><motor joint="y"/></actuator>
</mujoco>
"""


@pytest.fixture
def task(tmp_path):
    """`task(mjcf, python, **fields)`, of the texts of both files."""

    def make(mjcf=WHOLE, python=COST, **fields):
        (tmp_path / "model.xml").write_text(mjcf)
        (tmp_path / "cost.py").write_text(python)
        return ModelTask(**({"model": tmp_path / "model.xml", "cost": tmp_path / "cost.py"} | fields))

    return make


@pytest.fixture
def renderer():
    """Skips where this machine has no OpenGL."""
    try:
        mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).close()
    except Exception as error:
        pytest.skip(f"no OpenGL: {error}")


@pytest.mark.parametrize(
    ("timestep", "dt", "expected"), [(0.002, 0.0, 0.02), (0.003, 0.0, 0.021), (0.03, 0.0, 0.03), (0.01, 0.05, 0.05)]
)
def test_actions_last_a_fiftieth_of_a_second_unless_told_otherwise(task, timestep, dt, expected):
    made = task(MODEL.format(timestep=timestep, keyframes=""), dt=dt, horizon=7)
    assert made.problem().dt == pytest.approx(expected)
    assert made.problem().horizon == 7
    made.world()


def test_actions_have_the_models_limits(task):
    problem = task(initial_std=0.5).problem()
    np.testing.assert_array_equal(problem.action_low, [-2.0, -np.inf])
    np.testing.assert_array_equal(problem.action_high, [6.0, np.inf])
    np.testing.assert_allclose(problem.initial_std, [2.0, 0.5])
    np.testing.assert_allclose(problem.first_controller.cov[0], np.tile(np.diag([4.0, 0.25]), (100, 1, 1)))
    unlimited = task(CART.replace(' ctrlrange="-2 2"', "")).problem()
    assert (unlimited.action_low == -np.inf).all()
    assert (unlimited.action_high == np.inf).all()


@pytest.mark.parametrize(
    ("keyframe", "keyframes", "x", "angle", "ctrl"),
    [
        ("", KEYFRAMES, -1.0, 0.5, [1.5, -0.5]),
        ("right", KEYFRAMES, 1.0, 0.0, [6.0, 0.0]),
        ("", "", 0.0, 0.0, [0.0, 0.0]),
    ],
)
def test_episodes_start_at_a_keyframe_with_its_actions(task, keyframe, keyframes, x, angle, ctrl):
    problem = task(MODEL.format(timestep=0.01, keyframes=keyframes), keyframe=keyframe).problem()
    start = np.asarray(problem.conditions.mean)
    assert start.shape == (1, DX)
    np.testing.assert_allclose(start[0, :2], [x, angle], atol=1e-12)
    assert start[0, NQ + 1] == (3.0 if keyframes and not keyframe else 0.0)
    np.testing.assert_allclose(
        start[0, NQ + NV :], [x + 0.5 * np.sin(angle), 0.0, 0.2 + 0.5 * np.cos(angle), x], atol=1e-12
    )
    np.testing.assert_array_equal(problem.first_controller.k[0], np.tile(ctrl, (100, 1)))
    np.testing.assert_array_equal(problem.first_controller.K, 0.0)


MUSCLE = """
<mujoco>
  <worldbody>
    <body name="hand" mocap="true" pos="1 0 0"><site name="hand"/></body>
    <body><joint name="x" type="slide"/><geom size=".1"/></body>
  </worldbody>
  <actuator>
    <general name="pull" joint="x" dyntype="filter" dynprm=".1"/>
    <pid name="hold" joint="x"/>
  </actuator>
  <sensor><framepos objtype="site" objname="hand"/><clock/><accelerometer name="jolt" site="hand"/></sensor>
  <keyframe>
    <key name="a" time="2" act=".7" ctrl=".1 .2 .3" mpos="0 5 0" mquat="0 1 0 0"/>
    <key name="b" mpos="0 0 6"/>
  </keyframe>
</mujoco>
"""


@pytest.mark.filterwarnings("ignore:mocap bodies|sensors left out")
@pytest.mark.parametrize(("key", "hand", "act", "time"), [("a", [0, 5, 0], 0.7, 2.0), ("b", [0, 0, 6], 0.0, 0.0)])
def test_the_whole_keyframe_is_where_episodes_start(task, key, hand, act, time):
    """With activations, poses of mocap bodies, all inputs of every actuator, and the time."""
    made = task(MUSCLE, "def cost(x, u, t):\n    return x[0] ** 2\n", keyframe=key, start_std=0.0, horizon=3)
    world = made.world()
    problem = world.problem
    np.testing.assert_array_equal(problem.conditions.mean[0], [0.0, 0.0, act, *hand, time])
    np.testing.assert_allclose(problem.first_controller.k[0, 0], [0.1, 0.2, 0.3] if key == "a" else [0, 0, 0])
    still = LinearGaussianPolicy(jax.tree.map(jnp.zeros_like, problem.first_controller))
    x = np.asarray(world.rollout(still, 1, KEY).x)[0, 0]
    np.testing.assert_array_equal(x[:, 3:6], np.tile(hand, (4, 1)))
    np.testing.assert_allclose(x[:, 6], time + 0.02 * np.arange(4), rtol=1e-9)
    np.testing.assert_allclose(x[:, 2], act * (1 - 0.002 / 0.1) ** (10 * np.arange(4)), rtol=1e-9)


def test_activations_and_several_inputs_are_named_and_so_is_what_is_left_out(task):
    said = describe(task(MUSCLE).simulation().model).splitlines()
    assert said[2] == "   x[2]  activation of actuator 'pull'"
    assert said[-5:-2] == [
        "   u[0]  actuator 'pull' at joint 'x', without limits",
        "   u[1]  input 0 of actuator 'hold' at joint 'x', without limits",
        "   u[2]  input 1 of actuator 'hold' at joint 'x', without limits",
    ]
    assert "left out of the state: 'jolt'" in said[-2]
    assert "no action moves: 'hand'" in said[-1]


def test_an_action_that_cannot_be_zero_begins_at_its_limit(task):
    problem = task(CART.replace("-2 2", ".5 2")).problem()
    np.testing.assert_array_equal(problem.first_controller.k[0, 0], [0.5, 0.0])


def test_starts_vary_where_that_leaves_orientations_whole(task):
    made = task(start_std=0.1)
    spread = np.zeros(DX)
    spread[:2] = spread[NQ : NQ + NV] = 0.1
    spread[10:13] = 0.05  # of the neck: half its angles
    np.testing.assert_allclose(made.problem().conditions.cov[0], np.diag(spread**2))
    world = made.world()
    starts = np.asarray(world.rollout(LinearGaussianPolicy(world.problem.first_controller), 9, KEY).x)[0, :, 0]
    np.testing.assert_array_equal(starts[:, 5:9], np.tile([1, 0, 0, 0], (9, 1)))
    np.testing.assert_allclose(np.linalg.norm(starts[:, 9:13], axis=1), 1.0, rtol=1e-12)
    assert starts[:, [0, 1, *range(NQ, NQ + NV)]].std(0).min() > 0.02


def test_the_cost_file_says_what_is_to_be_done(task):
    problem = task().problem()
    rng = np.random.default_rng(0)
    x, u = rng.normal(size=(4, DX)), rng.normal(size=(3, 2))
    assert problem.cost(x[0], u[0], 3) == pytest.approx(2 * (x[0, :2] ** 2).sum() + 3 * (u[0] ** 2).sum())
    assert problem.final_cost(x[0]) == pytest.approx(abs(x[0, 0]))
    assert problem.success(x, u) == (x[-1, 0] > x[0, 0])
    np.testing.assert_array_equal(problem.observe(x[0]), x[0, :3])
    bare = task(python="def cost(x, u, t):\n    return (x**2).sum()\n").problem()
    assert (bare.final_cost, bare.success, bare.observe) == (no_cost, None, identity)


def test_the_same_files_give_the_same_functions_and_others_do_not(task):
    """So that JAX compiles once, and never what no longer is."""
    made = task()
    assert made.problem().cost is made.problem().cost
    x, u = np.ones(DX), np.ones(2)
    before = made.problem().cost(x, u, 0)
    assert task(python=COST.replace("SCALE = 2.0", "SCALE = 3.0")).problem().cost(x, u, 0) == pytest.approx(
        1.5 * before
    )


def test_only_the_limited_actions_are_clipped(task):
    """Half a second of 5 N on .1 kg, of which 2 N along x are executed."""
    world = task(CART, horizon=25, start_std=0.0).world()
    first = world.problem.first_controller
    policy = LinearGaussianPolicy(LinearGaussian(first.K, jnp.full_like(first.k, 5.0), 0 * first.chol))
    np.testing.assert_allclose(world.rollout(policy, 1, KEY).x[0, 0, -1, 2:], [10.0, 25.0], rtol=1e-9)


def test_paths_do_not_depend_on_where_one_is(task, tmp_path, monkeypatch):
    task()
    monkeypatch.chdir(tmp_path)
    made = ModelTask("model.xml", "cost.py")
    monkeypatch.chdir("/")
    assert made.files == [str(tmp_path / "cost.py"), str(tmp_path / "model.xml")]


def test_a_task_is_made_of_what_its_model_includes_too(task, tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "cart.xml").write_text(CART)
    made = task('<mujoco><include file="parts/cart.xml"/></mujoco>')
    assert {str(tmp_path / name) for name in ("model.xml", "cost.py", "parts/cart.xml")} == set(made.files)


def test_a_cost_may_import_what_is_beside_it(task, tmp_path):
    """Which is a part of the task, found by no other import, and read anew when it changes."""
    (tmp_path / "shape").mkdir()
    (tmp_path / "shape" / "__init__.py").write_text("from shape.weight import WEIGHT\n")
    weight = tmp_path / "shape" / "weight.py"
    weight.write_text("WEIGHT = 2.0\n")
    python = "import shape, json\n\ndef cost(x, u, t):\n    return shape.WEIGHT * x[0]\n"
    made = task(python=python)
    parts = {str(tmp_path / name) for name in ("model.xml", "cost.py", "shape/__init__.py", "shape/weight.py")}
    assert set(made.files) == parts
    assert made.problem().cost(np.ones(DX), np.ones(2), 0) == 2.0
    assert made.problem().cost is made.problem().cost
    weight.write_text("WEIGHT = 3.0\n")
    assert made.problem().cost(np.ones(DX), np.ones(2), 0) == 3.0
    assert "shape" not in sys.modules
    assert str(tmp_path) not in sys.path
    assert not list(tmp_path.glob("**/__pycache__"))


def test_what_a_cost_reads_beside_it_is_a_part_of_the_task(task, tmp_path):
    np.save(tmp_path / "path.npy", [2.0])
    (tmp_path / "gain.txt").write_text("3")
    made = task(
        python="import pathlib\nimport numpy as np\nhere = pathlib.Path(__file__).parent\n"
        "goal, gain = np.load(here / 'path.npy'), float((here / 'gain.txt').read_text())\n\n"
        "def cost(x, u, t):\n    return gain * goal[0] * x[0]\n"
    )
    assert set(made.files) == {str(tmp_path / name) for name in ("model.xml", "cost.py", "path.npy", "gain.txt")}
    assert made.problem().cost(np.ones(DX), np.ones(2), 0) == 6.0
    np.save(tmp_path / "path.npy", [4.0])
    assert made.problem().cost(np.ones(DX), np.ones(2), 0) == 12.0


def test_what_a_cost_reads_when_it_is_called_is_a_part_of_the_task(task, tmp_path):
    np.save(tmp_path / "path.npy", np.ones(3))
    (tmp_path / "gain.txt").write_text("2.0")
    made = task(
        python="from pathlib import Path\nimport numpy as np\nhere = Path(__file__).parent\n\n"
        "def cost(x, u, t):\n    return x[:3] @ np.load(here / 'path.npy') + u @ u\n\n"
        "def observe(x):\n    return float((here / 'gain.txt').read_text()) * x\n"
    )
    made.problem()
    for _ in range(2):
        assert set(made.files) == {str(tmp_path / name) for name in ("model.xml", "cost.py", "path.npy", "gain.txt")}


def test_packages_installed_in_a_folder_beside_are_no_part_of_the_task(task, tmp_path, monkeypatch):
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "installed_beside.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / ".venv")
    for hidden in (".venv/data", ".data", "elsewhere"):
        (tmp_path / hidden).write_text("")
    reads = "".join(f"open({str(tmp_path / name)!r})\n" for name in (".venv/data", ".data"))
    writes = f"open({str(tmp_path / 'elsewhere')!r}, 'w')\n"
    made = task(python=f"import installed_beside\n{reads}{writes}\ndef cost(x, u, t):\n    return x[0]\n")
    assert made.files == [str(tmp_path / "cost.py"), str(tmp_path / "model.xml")]
    del sys.modules["installed_beside"]


TETRAHEDRON = "v 0 0 0\nv .1 0 0\nv 0 .1 0\nv 0 0 .1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"
ONE = "def cost(x, u, t):\n    return x[0] ** 2\n"
HILL = '<hfield name="h" file="hill.png" size="1 1 .1 .1"/>'
URDF = """
<robot name="arm">
  <mujoco><compiler meshdir="meshes"/></mujoco>
  <link name="base"/>
  <link name="upper">
    <inertial><mass value="1"/><inertia ixx=".1" iyy=".1" izz=".1" ixy="0" ixz="0" iyz="0"/></inertial>
    <collision><geometry><mesh filename="stone.obj"/></geometry></collision>
  </link>
  <link name="fore"><inertial><mass value="1"/><inertia ixx=".1" iyy=".1" izz=".1" ixy="0" ixz="0" iyz="0"/></inertial>
  </link>
  <joint name="shoulder" type="revolute">
    <parent link="base"/><child link="upper"/><axis xyz="0 1 0"/><limit effort="7" lower="-1" upper="1" velocity="3"/>
  </joint>
  <joint name="elbow" type="continuous"><parent link="upper"/><child link="fore"/><axis xyz="0 1 0"/></joint>
</robot>
"""


@pytest.mark.parametrize("name", ["arm.urdf", "ARM.URDF", "m.XML", "m.mjcf"])
def test_models_of_every_kind_are_tasks_with_their_parts(tmp_path, monkeypatch, name):
    """Seen from elsewhere, with a mesh and what is included."""
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes" / "stone.obj").write_text(TETRAHEDRON)
    iio.imwrite(tmp_path / "meshes" / "hill.png", np.full((4, 4), 99, np.uint8))
    (tmp_path / "red").mkdir()
    iio.imwrite(tmp_path / "red" / "red.png", np.full((4, 4, 3), 99, np.uint8))
    (tmp_path / "stones.xml").write_text(
        '<mujoco><asset><mesh name="s" file="stone.obj"/><texture name="r" type="2d" file="red.png"/></asset></mujoco>'
    )
    (tmp_path / "cost.py").write_text(ONE)
    mjcf = (
        '<mujoco><compiler meshdir="meshes" texturedir="red"/><include file="stones.xml"/>' + CART.split("<mujoco>")[1]
    )
    mjcf = mjcf.replace(
        "<worldbody>", f'<asset>{HILL}</asset><worldbody><geom type="hfield" hfield="h" pos="0 0 -9"/>', 1
    )
    text = URDF if name.lower().endswith("urdf") else mjcf.replace('<geom size=".1"', '<geom type="mesh" mesh="s"')
    (tmp_path / name).write_text(text)
    monkeypatch.chdir("/")
    made = find(str(tmp_path / name)).make()
    made = dataclasses.replace(made, cost=str(tmp_path / "cost.py"))
    parts = {name, "cost.py", "meshes/stone.obj"}
    parts |= {"stones.xml", "meshes/hill.png", "red/red.png"} if text != URDF else set()
    assert {str(tmp_path / part) for part in parts} == set(made.files)
    problem = made.problem()
    assert (problem.dx, problem.du) == (4, 2)
    np.testing.assert_array_equal(problem.action_high, [7.0 if text == URDF else 2.0, np.inf])
    world = made.world()
    assert world.rollout(LinearGaussianPolicy(problem.first_controller), 2, KEY).valid.all()


@pytest.mark.parametrize("package", ["arm_description", "arm_description-main"])
def test_meshes_of_a_ros_package_are_found_near_its_urdf(tmp_path, package):
    """In a folder of the package's name, and where it was unpacked into one of another."""
    (tmp_path / package / "meshes").mkdir(parents=True)
    (tmp_path / package / "urdf").mkdir()
    mesh, file = tmp_path / package / "meshes" / "stone.obj", tmp_path / package / "urdf" / "arm.urdf"
    mesh.write_text(TETRAHEDRON)
    file.write_text(URDF.replace("stone.obj", "package://arm_description/meshes/stone.obj"))
    (tmp_path / "cost.py").write_text(ONE)
    made = ModelTask(file, tmp_path / "cost.py")
    assert (made.problem().dx, str(mesh) in made.files) == (4, True)
    mesh.unlink()
    with pytest.raises(ValueError, match=r"mesh package://arm_description/meshes/stone.obj: there is no meshes/stone"):
        made.simulation()


def test_a_binary_model_is_the_same_task(task, tmp_path):
    made = task()
    mujoco.mj_saveModel(made.simulation().model, str(tmp_path / "model.mjb"))
    binary = ModelTask(tmp_path / "model.mjb", tmp_path / "cost.py")
    np.testing.assert_array_equal(binary.problem().conditions.mean, made.problem().conditions.mean)
    assert binary.files == [str(tmp_path / "cost.py"), str(tmp_path / "model.mjb")]


def test_entries_are_named(task):
    assert describe(task().simulation().model).splitlines() == [
        "   x[0]  position of joint 'rail' (m)",
        "   x[1]  angle of joint 1 of body 'pole' (rad)",
        *(f"   x[{2 + i}]  {axis} of the position of body 'toy' (m)" for i, axis in enumerate("xyz")),
        *(f"   x[{5 + i}]  {axis} of the orientation of body 'toy' (quaternion)" for i, axis in enumerate("wxyz")),
        *(
            f"{f'x[{9 + i}]':>7}  {axis} of the orientation of joint 'neck' (quaternion)"
            for i, axis in enumerate("wxyz")
        ),
        "  x[13]  velocity of joint 'rail' (m/s)",
        "  x[14]  angular velocity of joint 1 of body 'pole' (rad/s)",
        *(f"  x[{15 + i}]  {axis} of the velocity of body 'toy' (m/s)" for i, axis in enumerate("xyz")),
        *(
            f"  x[{18 + i}]  {axis} of the angular velocity of body 'toy' (rad/s, in its own frame)"
            for i, axis in enumerate("xyz")
        ),
        *(
            f"  x[{21 + i}]  {axis} of the angular velocity of joint 'neck' (rad/s, in its own frame)"
            for i, axis in enumerate("xyz")
        ),
        *(f"  x[{24 + i}]  {axis} of sensor 0 (framepos)" for i, axis in enumerate("xyz")),
        "  x[27]  sensor 'cart' (jointpos)",
        "   u[0]  actuator 'push' at joint 'rail', from -2 to 6",
        "   u[1]  actuator 1 at tendon 'rope', without limits",
    ]


def test_entries_are_in_the_order_of_the_state(task):
    """What moves alone is found at its place in the state."""
    model = task().simulation().model
    lines = describe(model).splitlines()
    assert lines[model.joint("neck").qposadr[0]].endswith("w of the orientation of joint 'neck' (quaternion)")
    assert "x of the angular velocity of joint 'neck'" in lines[model.nq + model.joint("neck").dofadr[0]]
    assert "sensor 'cart'" in lines[model.nq + model.nv + model.sensor("cart").adr[0]]
    assert len(lines) == DX + model.nu


BAD_COSTS = [
    ("cots = 1\n", r"cost\.py defines no function cost\(x, u, t\)"),
    ("import jaxx\n", r"cost\.py, line 1: ModuleNotFoundError: No module named 'jaxx'"),
    ("import beside\n", r"cost\.py defines no function cost"),
    ("import behind\n", r"cost\.py, line 1: ModuleNotFoundError: No module named 'behind'"),
    ("\ndef cost(x, u, t)\n    return 0.0\n", r"cost\.py, line 2: SyntaxError: expected ':'"),
    (
        "def half(z):\n    return z / tow\n\ndef cost(x, u, t):\n    return half(x[0])\n",
        r"cost\.py, line 2: NameError: name 'tow' is not defined",
    ),
    ("raise OSError('no\\nnet')\n", r"cost\.py, line 1: OSError: no$"),
    ("def cost(x, u):\n    return x[0]\n", r"cost\.py: TypeError: cost\(\) takes 2 positional arguments but 3"),
    (
        "def cost(x, u, t):\n    return x**2\n",
        r"cost\.py: cost\(x, u, t\) returns an array of shape \(28,\); it must have the shape \(\)",
    ),
    (
        "import numpy as np\n\ndef cost(x, u, t):\n    return np.sin(x[0])\n",
        r"cost\.py, line 4: JAX .* jax\.numpy: jnp\.sin\(x\) for np\.sin\(x\)",
    ),
    ("import math\n\ndef cost(x, u, t):\n    return math.sin(x[0])\n", r"cost\.py, line 4: JAX .* jnp\.sin\(x\)"),
    (
        "def cost(x, u, t):\n    if x[0] > 0:\n        return x[0]\n    return 0.0\n",
        r"cost\.py, line 2: JAX .* jnp\.where\(a, b, c\)",
    ),
    ("def cost(x, u, t):\n    return x[x > 0].sum()\n", r"cost\.py, line 2: JAX knows no numbers here"),
    ("def cost(x, u, t):\n    return 1\n", r"cost\(x, u, t\) returns int\d+; it must return a float: 1\.0, not 1"),
    (COST.replace("jnp.abs(x[0])", "1 * (x[0] > 0)"), r"final_cost\(x\) returns int\d+; it must return a float"),
    (COST.replace(" & (len(u) > 0)", " * 1.0"), r"success\(x, u\) returns float\d+; it must return true or false"),
    (COST.replace("return x[:3]", "return x[3]"), r"observe\(x\) returns an array of shape \(\); it must .* a vector"),
]


@pytest.mark.parametrize(("cost", "message"), BAD_COSTS)
def test_what_is_wrong_with_a_cost_is_said_in_one_line(task, tmp_path, cost, message):
    (tmp_path / "beside.py").write_text("")
    with pytest.raises(ValueError, match=message) as error:
        task(python=cost).problem()
    assert str(error.value).startswith(str(tmp_path / "cost.py"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "nowhere.xml"}, r"/nowhere\.xml: there is no such file"),
        ({"cost": "nowhere.py"}, r"/nowhere\.py: there is no such file"),
        ({"keyframe": "up"}, r"keyframe='up': the keyframes of .*model\.xml are left, right"),
        ({"horizon": 0}, "horizon=0: must be 1 or more"),
        ({"dt": -0.1}, "dt=-0.1: must be 0 or more"),
        ({"dt": 0.007}, "dt=0.007 is no multiple of the model's timestep, 0.005"),
        ({"start_std": -1.0}, "start_std=-1.0: must be 0 or more"),
        ({"initial_std": 0.0}, "initial_std=0.0: must be above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(task, fields, message):
    with pytest.raises(ValueError, match=message):
        task(**fields).world()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("<mujoco><wordlbody/></mujoco>", r"model\.xml: XML Error: Schema violation: .*'wordlbody'.* line 1$"),
        ("<mujoco><worldbody/></mujoco>", r"model\.xml: the model has no actuators.*Add an <actuator> section"),
    ],
)
def test_models_that_cannot_be_used_are_refused_in_one_line(task, model, message):
    for call in (ModelTask.problem, ModelTask.simulation, lambda made: made.files):
        with pytest.raises(ValueError, match=message):
            call(task(model))


def test_a_damaged_binary_model_is_refused_and_leaves_nothing_behind(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.mjb").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"model\.mjb: .*failed to load"):
        ModelTask("model.mjb").problem()
    assert [path.name for path in tmp_path.iterdir()] == ["model.mjb"]
    assert capfd.readouterr().err == ""


def test_without_a_cost_one_is_shown_and_the_entries_are_listed(task):
    made = task(cost="")
    with pytest.raises(ValueError, match=r"model\.xml needs a cost, by --cost FILE\.py") as error:
        made.problem()
    said = str(error.value)
    assert describe(made.simulation().model) in said
    example = said.split("\n\n")[1:3]
    assert task(python="\n".join(line[4:] for line in "\n\n".join(example).splitlines())).problem().cost is not None


# -- pictures

SMALL_CART = """
<mujoco>
  <visual><global offwidth="64" offheight="64"/></visual>
  <worldbody>
    {camera}
    <geom type="plane" size="60 60 1" rgba=".8 .8 .8 1"/>
    <body pos="3 2 .5">
      <joint name="x" type="slide" axis="1 0 0"/>
      <geom size=".2" rgba="1 0 0 1"/>
    </body>
  </worldbody>
  <actuator><motor joint="x"/></actuator>
</mujoco>
"""
FROM_ABOVE = '<camera name="view" pos="3 2 9" xyaxes="0 1 0 -1 0 0"/>'


def red(task, x):
    """Columns and rows of what is red in a picture of the state, as fractions of its width and height."""
    figure = Figure(figsize=(4.8, 3.6), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axis = figure.add_axes((0, 0, 1, 1))
    scene(task).paint(axis, np.asarray(x), 0, 1.0)
    axis.set_axis_off()
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    rows, columns = np.nonzero(picture[..., 0] > picture[..., 1:].max(-1) + 60)
    return columns / picture.shape[1], rows / picture.shape[0]


def test_to_show_a_model_does_not_change_it(task, renderer, monkeypatch):
    simulation = task(SMALL_CART.format(camera="")).simulation()
    monkeypatch.setattr(ModelTask, "simulation", lambda self: simulation)
    red(task(), [0.0, 0.0])
    assert simulation.model.vis.global_.offwidth == 64


@pytest.mark.parametrize("camera", ["", FROM_ABOVE, FROM_ABOVE.replace("view", "other")])
def test_a_model_is_seen_with_a_camera_and_without_and_however_small_its_pictures_are(task, renderer, camera):
    """The ball moves along x: to the right in MuJoCo's own view, downwards in that of the camera "view"."""
    made = task(SMALL_CART.format(camera=camera))
    (columns, rows), (later_columns, later_rows) = red(made, [0.0, 0.0]), red(made, [0.3, 0.0])
    assert len(rows) > 100
    assert columns.mean() == pytest.approx(0.5, abs=0.03)
    assert rows.mean() == pytest.approx(0.5, abs=0.1)
    moved = np.array([later_columns.mean() - columns.mean(), later_rows.mean() - rows.mean()])
    if camera == FROM_ABOVE:
        assert moved[1] > 0.02
        assert abs(moved[0]) < 0.01
    else:
        assert moved[0] > 0.1
        assert abs(moved[1]) < 0.01


BALLS = "".join(f'<body pos="0 0 {i / 100}"><freejoint/><geom size=".2"/></body>' for i in range(12))
CROWDED = f"""
<mujoco><size memory="30K"/><worldbody><geom type="plane" size="1 1 1"/>{BALLS}
<body pos="5 0 0"><joint name="slide" type="slide"/><geom size=".1"/></body></worldbody>
<actuator><motor joint="slide" ctrlrange="-1 1"/></actuator></mujoco>
"""
"""More contacts than it has memory for: MuJoCo warns in every step."""


def test_mujoco_leaves_no_log_in_the_users_folder(tmp_path, monkeypatch):
    """From whatever thread it warns, and also where a picture of a state is made or cannot be."""
    monkeypatch.chdir(tmp_path)
    Path("crowded.xml").write_text(CROWDED)
    Path("cost.py").write_text("def cost(x, u, t):\n    return x[0] ** 2 + u @ u\n")
    task = ModelTask("crowded.xml", "cost.py", horizon=3)
    world = task.world()
    rollouts = world.rollout(LinearGaussianPolicy(world.problem.first_controller), 4, jax.random.key(0))
    world.simulation.linearised(world.problem, rollouts.x[:, 0, :-1], rollouts.u[:, 0])
    assert task.files
    with contextlib.suppress(RunError):  # where there is no OpenGL
        scene(task).paint(Figure().add_subplot(), np.asarray(rollouts.x)[0, 0, -1], 0, 1.0)
    assert not Path("MUJOCO_LOG.TXT").exists()
    mujoco.mj_step(world.model, mujoco.MjData(world.model))
    assert Path("MUJOCO_LOG.TXT").exists(), "this model warns"
