"""What a task looks like in one state: strokes of its own drawing, or what a renderer sees."""

# pyright: reportAttributeAccessIssue=false
import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import mujoco
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from pilotfish.runs.store import RunError
from pilotfish.tasks import DrawnTask, Task
from pilotfish.tasks.gym import GymnasiumTask
from pilotfish.tasks.mujoco import CAMERA, MujocoTask, quiet

COLOUR = {"body": "#1f6fb2", "joint": "#1b2a38", "goal": "#9fc3a5", "ground": "#8a97a3"}
HEIGHT, WIDTH = 360, 480  # pixels of a rendering
FRAME_SECONDS = 0.04, 0.08  # of strokes: browsers show no more; of renderings, which are large
NO_OPENGL = (
    "no film: MuJoCo finds no OpenGL to render with. Install libegl1 (with a GPU's driver or libgl1-mesa-dri) or "
    "libosmesa6, or set MUJOCO_GL; learning and its numbers need none."
)


class Scene(NamedTuple):
    """How a task is shown."""

    paint: Callable[[Axes, np.ndarray, int, float], None]
    """`paint(axis, x, condition, scale)` shows the state x (dx,) with lines `scale` times as wide."""
    ratio: float
    """Height over width."""
    frame_seconds: float
    """Seconds from one frame of a film to the next."""


def scene(task: Task) -> Scene:
    """How to show a task. RunError with the remedy if it has no picture, or if there is no renderer that it needs."""
    if isinstance(task, DrawnTask):
        return _strokes(task)
    if isinstance(task, GymnasiumTask):
        return _environment(task)
    if not isinstance(task, MujocoTask):
        raise RunError(
            f"no film: {type(task).__name__} has no picture. Derive it from pilotfish.tasks.DrawnTask, with draw(x) "
            "and extent."
        )
    return _rendering(task)


def to_the_end(task: Task, x: Float[np.ndarray, "C T1 dx"]) -> Float[np.ndarray, "C T2 dx"]:
    """Episodes with what the task says follows them; where that is shorter than of others, the last state stays."""
    if not isinstance(task, MujocoTask):
        return x
    more = [task.afterwards(one) if np.isfinite(one).all() else one[:0] for one in x]
    longest = max(map(len, more))
    ends = [np.concatenate([one, after]) for one, after in zip(x, more, strict=True)]
    return np.stack([np.pad(end, ((0, x.shape[1] + longest - len(end)), (0, 0)), mode="edge") for end in ends])


def _strokes(task: DrawnTask) -> Scene:
    left, right, bottom, top = task.extent

    def paint(axis: Axes, x: np.ndarray, condition: int, scale: float) -> None:
        for stroke in task.draw(np.asarray(x)):
            colour, points = COLOUR[stroke.role], np.asarray(stroke.points)
            style = (
                {"marker": "o", "ms": stroke.width * scale}
                if len(points) == 1
                else {
                    "lw": stroke.width * scale,
                    "ls": "--" if stroke.role == "goal" else "-",
                    "solid_capstyle": "round",
                }
            )
            axis.plot(points[:, 0], points[:, 1], color=colour, **style)
        axis.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")

    return Scene(paint, (top - bottom) / (right - left), FRAME_SECONDS[0])


@quiet()
def _rendering(task: MujocoTask) -> Scene:
    simulation = task.simulation()
    model = copy.copy(simulation.model)
    size = model.vis.global_
    size.offwidth, size.offheight = max(size.offwidth, WIDTH), max(size.offheight, HEIGHT)
    camera = _camera(model)
    try:
        renderer = mujoco.Renderer(model, HEIGHT, WIDTH)
    except Exception as error:  # whatever the GL libraries of this machine raise
        raise RunError(NO_OPENGL) from error

    @functools.cache
    def of_condition(n: int):
        own = simulation.of_condition(n)
        return own, mujoco.MjData(own)

    @quiet()
    def paint(axis: Axes, x: np.ndarray, condition: int, scale: float) -> None:
        own, data = of_condition(condition)
        simulation.place(data, x)
        mujoco.mj_forward(own, data)
        renderer.update_scene(data, camera=camera)
        axis.imshow(renderer.render())

    return Scene(paint, HEIGHT / WIDTH, FRAME_SECONDS[1])


@quiet()
def _camera(model: mujoco.MjModel) -> str | mujoco.MjvCamera:
    """The model's camera CAMERA or, where it has none, MuJoCo's own but near enough to what moves to see it."""
    if mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, CAMERA) >= 0:
        return CAMERA
    camera, data = mujoco.MjvCamera(), mujoco.MjData(model)
    mujoco.mjv_defaultFreeCamera(model, camera)
    mujoco.mj_forward(model, data)
    moves = model.body_weldid[model.geom_bodyid] > 0
    if moves.any():
        centres, radii = data.geom_xpos[moves], model.geom_rbound[moves, None]
        low, high = (centres - radii).min(0), (centres + radii).max(0)
        camera.lookat = (low + high) / 2
        camera.distance = min(camera.distance, 2 * np.linalg.norm(high - low))
    return camera


@quiet()
def _environment(task: GymnasiumTask) -> Scene:
    world = task.world()
    env = world.make()
    try:
        world.show(env, np.asarray(world.problem.conditions.mean[0]), 0)
        picture: Any = env.render()
        height, width = picture.shape[:2]
    except Exception as error:  # whatever an environment raises that cannot render or go to a state
        said = str(error) or type(error).__name__
        raise RunError(f"no film: {task.env} gives no picture of a state ({said}).") from error

    @quiet()
    def paint(axis: Axes, x: np.ndarray, condition: int, scale: float) -> None:
        world.show(env, x, condition)
        axis.imshow(np.asarray(env.render()))

    return Scene(paint, height / width, FRAME_SECONDS[1])
