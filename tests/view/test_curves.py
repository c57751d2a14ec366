"""Curves: what is drawn is what was measured."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from pilotfish.view import curves


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [0.0, 1e-6, 1e3], [1.0, 10.0, 100.0]])
def test_a_logarithmic_panel_shows_what_is_positive_and_zeros_where_all_is_zero(values):
    axis, metrics = Figure().add_subplot(), {"rollouts": np.array([[10, 20, 30]]), "mu": np.array([values])}
    how = {"title": "regularisation", "unit": "", "scale": "log", "bound": None, "times": None}
    curves._panel(axis, metrics, {"mu": how})
    drawn = np.asarray(axis.lines[0].get_ydata(), float)
    wanted = [value if value > 0 or max(values) == 0 else np.nan for value in values]
    np.testing.assert_array_equal(drawn, wanted)
    low, high = axis.get_ylim()
    assert low < np.nanmin(drawn) <= np.nanmax(drawn) < high


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.4, "0.4"), (-0.05, "-0.05"), (3e-6, "3e-06"), (250.0, "250"), (-2e4, "20 k"), (3e6, "3 M"), (0.0, "0")],
)
def test_only_large_numbers_have_a_prefix(value, said):
    assert curves.Thousands()(value).replace("\N{MINUS SIGN}", "-").endswith(said)


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_a_title_ends_where_the_next_axis_begins(columns):
    """All words are there, and the canvas that draws them says how wide they are."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    canvas, title = FigureCanvasAgg(figure), "transitions on which basis functions are centred, and whatever else"
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        curves.frame(axis, title, "rollouts")
    canvas.draw()
    said = axes[0].get_title("left")
    texts = [text.get_window_extent() for axis in axes for text in axis.findobj(Text) if text.get_text() == said]
    assert len(texts) == columns
    for one, following in pairwise(texts):
        assert one.x1 < following.x0
    assert texts[-1].x1 <= figure.bbox.x1
    assert said.split() == title.split()
