"""Curves: what is drawn is what was measured."""

import numpy as np
import pytest
from matplotlib.figure import Figure

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
