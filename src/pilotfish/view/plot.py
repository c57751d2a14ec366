"""Writes pictures."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pilotfish.runs.store import replacing

DOTS = 130
"""An inch."""


def write(figure: Figure, path: Path, dpi: int = DOTS) -> Path:
    """Write a picture, whole or not at all: .png, or .pdf and .svg for print. A .png is drawn once; `savefig` would do
    so twice.
    """
    if path.suffix != ".png":
        with replacing(path) as beside:
            figure.savefig(beside, format=path.suffix[1:])
        return path
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    with replacing(path) as beside:
        Image.fromarray(np.asarray(canvas.buffer_rgba())).save(beside, format="PNG", dpi=(dpi, dpi))
    return path
