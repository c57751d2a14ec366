"""Films and filmstrips of stored rollouts, drawn by the task's own `draw`."""

from collections.abc import Callable, Sequence
from pathlib import Path

import imageio.v3 as iio
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pilotfish.runs.store import RunError

mpl.use("agg")

Draw = Callable[[np.ndarray], Sequence]
Extent = tuple[float, float, float, float]
COLOUR = {"body": "#1f6fb2", "joint": "#1b2a38", "goal": "#9fc3a5", "ground": "#8a97a3"}
HOLD_SECONDS = 1.0
"""How long a film shows its last state before it begins again."""


def film(path: Path, x: np.ndarray, dt: float, draw: Draw, extent: Extent, caption: str) -> Path:
    """The states x (T+1, dx) as a film in real time: .gif, or .mp4 where imageio-ffmpeg is installed."""
    if path.suffix not in (".gif", ".mp4"):
        raise RunError(f"cannot film to {path.name}: choose a name that ends in .gif, .mp4 or .png.")
    if path.suffix == ".mp4":
        try:
            import imageio_ffmpeg  # noqa: F401
        except ImportError as error:
            raise RunError(
                "an .mp4 needs the package imageio-ffmpeg: pip install 'pilotfish[video]', or choose a .gif."
            ) from error
    step = max(1, round(0.04 / dt))  # browsers show a GIF at 25 frames a second at most
    frames = [_frame(state, t * dt, draw, extent, caption) for t, state in enumerate(x)][::step]
    frames += [frames[-1]] * round(HOLD_SECONDS / (step * dt))
    if path.suffix == ".gif":
        iio.imwrite(path, np.stack(frames), extension=".gif", duration=1000 * step * dt, loop=0)
    else:
        iio.imwrite(path, np.stack(frames), plugin="FFMPEG", fps=1 / (step * dt), macro_block_size=2)
    return path


def filmstrip(path: Path, x: np.ndarray, dt: float, draw: Draw, extent: Extent, caption: str, count: int = 8) -> Path:
    """Pictures of `count` moments of the states x (T+1, dx), side by side."""
    moments = np.linspace(0, len(x) - 1, count).round().astype(int)
    width, height = extent[1] - extent[0], extent[3] - extent[2]
    figure = Figure(figsize=(1.7 * count, 1.7 * height / width + 0.45), layout="constrained")
    figure.suptitle(caption, fontsize=9, x=0.01, ha="left")
    for axis, t in zip(figure.subplots(1, count), moments, strict=True):
        _scene(axis, x[t], draw, extent, scale=0.45)
        axis.set_title(f"{t * dt:.1f} s", fontsize=8)
    figure.savefig(path, dpi=130)
    return path


def _frame(state: np.ndarray, seconds: float, draw: Draw, extent: Extent, caption: str) -> np.ndarray:
    width, height = extent[1] - extent[0], extent[3] - extent[2]
    figure = Figure(figsize=(4.0, max(1.6, 2 * round(2.0 * height / width, 1)) + 0.4), dpi=90)
    canvas = FigureCanvasAgg(figure)
    axis = figure.add_axes((0.0, 0.0, 1.0, 0.9))
    _scene(axis, state, draw, extent, scale=1.0)
    figure.text(0.02, 0.94, caption, fontsize=8, color="#1b2a38")
    figure.text(0.98, 0.94, f"{seconds:.1f} s", fontsize=8, color="#1b2a38", ha="right", family="monospace")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _scene(axis: Axes, state: np.ndarray, draw: Draw, extent: Extent, scale: float) -> None:
    for stroke in draw(np.asarray(state)):
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
    axis.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[], aspect="equal")
    axis.spines[:].set_visible(False)
