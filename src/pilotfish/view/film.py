"""Films and filmstrips of stored rollouts, and a sheet of pictures of all tasks."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import imageio.v3 as iio
import matplotlib as mpl
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pilotfish.runs.store import RunError, replacing
from pilotfish.tasks import Entry
from pilotfish.view import plot
from pilotfish.view.scene import Scene, scene

mpl.use("agg")

INK = "#1b2a38"
SHORTEST, LONGEST = 2.0, 12.0
"""Seconds that a film lasts at least and at most: what takes less is slowed down, what takes longer is sped up."""
HOLD_SECONDS = 1.0
"""How long a film shows its last state before it begins again."""
ROWS = 3
"""Conditions that a filmstrip shows at most."""
SAMPLED = 8
"""Pictures from which the colours of a film are taken: to look for those of each takes longer than to draw it."""


def film(path: Path, x: np.ndarray, dt: float, look: Scene, caption: str) -> Path:
    """The states x (C, T+1, dx), an episode from each of C conditions, as a film: .gif, or .mp4 with imageio-ffmpeg."""
    if path.suffix not in (".gif", ".mp4"):
        raise RunError(f"cannot film to {path.name}: choose a name that ends in .gif, .mp4 or .png.")
    if path.suffix == ".mp4":
        try:
            import imageio_ffmpeg  # noqa: F401
        except ImportError as error:
            raise RunError(
                "an .mp4 needs the package imageio-ffmpeg: pip install 'pilotfish[video]', or choose a .gif."
            ) from error
    whole = (x.shape[1] - 1) * dt
    speed = whole / min(max(whole, SHORTEST), LONGEST)
    step = max(1, round(look.frame_seconds * speed / dt))
    seconds = step * dt / speed
    moments = sorted({*range(0, x.shape[1], step), x.shape[1] - 1})
    frames = list(_frames(x, moments, dt, look, caption + _hurry(speed)))
    frames += [frames[-1]] * round(HOLD_SECONDS / seconds)
    with replacing(path) as beside:
        if path.suffix == ".gif":
            first, *others = _of_few_colours(frames)
            first.save(
                beside, format="GIF", save_all=True, append_images=others, duration=round(1000 * seconds), loop=0
            )
        else:
            iio.imwrite(beside, np.stack(frames), plugin="FFMPEG", fps=1 / seconds, macro_block_size=2)
    return path


def _hurry(speed: float) -> str:
    """What a caption says of it, unless it is about 1."""
    if 2 / 3 < speed < 1.5:
        return ""
    return f", {speed:,.0f} times faster" if speed > 1 else f", {1 / speed:,.0f} times slower"


def _clock(t: int, dt: float, steps: int) -> str:
    """The time, in so many digits that twenty moments of the episode differ."""
    digits = max(1, math.ceil(-math.log10(steps * dt / 20)))
    return f"{t * dt:.{digits}f} s"


def filmstrip(path: Path, x: np.ndarray, dt: float, look: Scene, caption: str, count: int = 8) -> Path:
    """Pictures of `count` moments of the states x (C, T+1, dx), side by side, one row for each of some conditions."""
    moments = np.linspace(0, x.shape[1] - 1, count).round().astype(int).tolist()
    conditions = np.unique(np.linspace(0, len(x) - 1, min(len(x), ROWS)).round().astype(int)).tolist()
    figure = Figure(figsize=(1.7 * count, 1.7 * look.ratio * len(conditions) + 0.45), layout="constrained")
    figure.suptitle(caption, fontsize=9, x=0.01, ha="left")
    grid = figure.subplots(len(conditions), count, squeeze=False)
    for row, condition in zip(grid, conditions, strict=True):
        for axis, t in zip(row, moments, strict=True):
            _show(axis, x[condition, t], condition, look, scale=0.45)
            if condition == conditions[0]:
                axis.set_title(_clock(t, dt, x.shape[1] - 1), fontsize=8)
    return plot.write(figure, path)


def sheet(path: Path, entries: Sequence[Entry]) -> Path:
    """A picture of every task at the start of an episode, with its name."""
    columns = 4
    rows = math.ceil(len(entries) / columns)
    figure = Figure(figsize=(3.0 * columns, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, entry in zip(axes, entries, strict=False):
        task = entry.make()
        start = np.asarray(task.problem().conditions.mean)
        middle = len(start) // 2
        _show(axis, start[middle], middle, scene(task), scale=0.7)
        axis.set_title(entry.name, fontsize=10, color=INK)
    for axis in axes[len(entries) :]:
        axis.set_axis_off()
    return plot.write(figure, path, dpi=110)


def _frames(
    x: Float[np.ndarray, "C T1 dx"], moments: Sequence[int], dt: float, look: Scene, caption: str
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Pictures of all conditions at these moments. What does not move is drawn once, and they are painted onto it."""
    columns = math.ceil(math.sqrt(len(x)))
    rows = math.ceil(len(x) / columns)
    width = 4.0 if columns == 1 else 2.4
    height = max(1.6, 2 * round(width / 2 * look.ratio, 1)) if columns == 1 else width * look.ratio
    figure = Figure(figsize=(width * columns, 2 * round(height * rows / 2, 1) + 0.4), dpi=90)
    canvas = FigureCanvasAgg(figure)
    top = 1 - 0.4 / figure.get_figheight()
    line = {"y": (1 + top) / 2, "fontsize": 8, "color": INK, "va": "center"}
    figure.text(0.02, s=caption, **line)
    clock = figure.text(0.98, s="", ha="right", family="monospace", **line)
    axes = []
    for i, states in enumerate(x):
        corner = (i % columns / columns, top * (1 - (i // columns + 1) / rows))
        axes.append(figure.add_axes((*corner, 1 / columns, top / rows)))
        _show(axes[-1], states[0], i, look, scale=width / 4.0)
        _wipe(axes[-1])
    canvas.draw()
    empty = canvas.copy_from_bbox(figure.bbox)
    for t in moments:
        canvas.restore_region(empty)
        clock.set_text(_clock(t, dt, x.shape[1] - 1))
        figure.draw_artist(clock)
        for i, axis in enumerate(axes):
            look.paint(axis, np.asarray(x[i, t]), i, width / 4.0)
            for artist in (*axis.images, *axis.lines):
                axis.draw_artist(artist)
            _wipe(axis)
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _wipe(axis: Axes) -> None:
    """Take from an axis what a scene painted there."""
    for artist in (*axis.images, *axis.lines):
        artist.remove()


def _of_few_colours(frames: Sequence[UInt8[np.ndarray, "height width 3"]]) -> list[Image.Image]:
    """The pictures in 256 colours: those of which some of them, evenly spread over time, have most.

    The nearest of these is looked up by the first 6 bits of red, green and blue.
    """
    some = np.unique(np.linspace(0, len(frames) - 1, SAMPLED).round().astype(int)).tolist()
    palette = Image.fromarray(np.concatenate([frames[i] for i in some])).quantize(256).getpalette() or []
    chosen = np.reshape(palette, (-1, 3)).astype(float)
    bits = [
        red.astype(np.int32) << 12 | green.astype(np.int32) << 6 | blue
        for red, green, blue in (np.moveaxis(frame >> 2, -1, 0) for frame in frames)
    ]
    is_used = np.zeros(64**3, bool)
    for one in bits:
        is_used[one] = True
    used = np.flatnonzero(is_used)
    colours = np.stack(np.unravel_index(used, (64, 64, 64)), -1) * (255 / 63)
    nearest = np.zeros(64**3, np.uint8)
    nearest[used] = ((chosen**2).sum(1) - 2 * colours @ chosen.T).argmin(1)
    pictures = [Image.fromarray(nearest[one]) for one in bits]
    for picture in pictures:
        picture.putpalette(palette)
    return pictures


def _show(axis: Axes, state: np.ndarray, condition: int, look: Scene, scale: float) -> None:
    look.paint(axis, np.asarray(state), condition, scale)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
