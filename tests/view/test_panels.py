"""Pictures of figures: what is drawn is what was measured, and every word can be read."""

import itertools

import imageio.v3 as iio
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from pilotfish.runs.statistics import Interval
from pilotfish.view import panels

RNG = np.random.default_rng(5)
NAMES = ("BADMM", "off policy, classic", "off policy, global", "on policy, classic", "on policy, global")
GRID = np.array(list(itertools.product((-0.2, -0.1, 0.0, 0.1), (-0.1, 0.0, 0.1))))
OTHERS, TRAINED = RNG.uniform(-0.2, 0.2, (6, 2)), np.array([[0.0, 0.1], [0.1, 0.0]])


def line(count, top=1.0):
    middle = RNG.uniform(0.2, 0.6, count) * top
    return Interval(middle, 0.8 * middle, 1.3 * middle)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    figures = []
    save = panels._save

    def keep(figure, title, path):
        figures.append(figure)
        return save(figure, title, path)

    monkeypatch.setattr(panels, "_save", keep)
    return figures


def written(figure):
    """All that is written; labels of ticks outside of their axis' limits are not drawn."""
    beyond = set()
    for axis in (one for axes in figure.axes for one in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        beyond |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    every = (text for text in figure.findobj(Text) if text not in beyond)
    return [text for text in every if text.get_visible() and text.get_text().strip()]


def readable(figure, path):
    """The picture's axes, if no two words overlap and none is cut off."""
    height, width = iio.imread(path).shape[:2]
    figure.set_dpi(130)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer).padded(-1)) for text in written(figure)]
    for text, box in boxes:
        assert box.x0 > 0 < box.y0, f"{text!r} is cut off"
        assert box.x1 < width, f"{text!r} is cut off"
        assert box.y1 < height, f"{text!r} is cut off"
    for (one, box), (other, its) in itertools.combinations(boxes, 2):
        assert not box.overlaps(its), (one, other)
    return figure.axes


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_curves_are_drawn_in_the_colour_of_their_name(drawn, tmp_path, count):
    shown = {f"panel {i}: a title of some length": {name: line(16) for name in NAMES[i % 2 :]} for i in range(count)}
    shown["panel 0: a title of some length"]["BADMM"].middle[3] = np.nan
    failures = {"panel 0: a title of some length": 0.9}
    path = panels.curves(shown, failures, "distance, m", "a figure: of several panels", tmp_path / "curves.png")
    axes = readable(drawn[0], path)
    assert len(axes) == count
    colours = {}
    for axis, (title, lines) in zip(axes, shown.items(), strict=True):
        assert axis.get_title("left") == title
        found = {one.get_label(): one for one in axis.lines if not one.get_label().startswith("_")}
        for name, (middle, *_) in lines.items():
            np.testing.assert_array_equal(found[name].get_ydata(), middle)
            assert colours.setdefault(name, found[name].get_color()) == found[name].get_color()
    assert len(set(colours.values())) == len(NAMES)
    assert axes[0].get_ylim()[1] > 0.9
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == list(NAMES)


def test_what_differs_by_factors_has_a_logarithmic_axis_of_what_is_known(drawn, tmp_path):
    middle = np.geomspace(900.0, 0.02, 6)
    wide = Interval(middle, middle / 1e9, middle * 1e9)  # as of two seeds
    path = panels.curves({"swimmer": {"GPS": wide}}, {}, "cost", "a figure", tmp_path / "curves.png", scale="log")
    (axis,) = readable(drawn[0], path)
    assert axis.get_yscale() == "log"
    low, high = axis.get_ylim()
    assert 0.01 < low < 0.02
    assert 900 < high < 1800


def test_rates_have_an_axis_from_nothing_to_all(drawn, tmp_path):
    shown = {"peg": {"BADMM": line(6)}}
    path = panels.curves(shown, {}, "success", "a figure", tmp_path / "curves.png", scale="percent")
    (axis,) = readable(drawn[0], path)
    np.testing.assert_allclose(axis.lines[0].get_ydata(), 100 * shown["peg"]["BADMM"].middle)
    low, high = axis.get_ylim()
    assert -10 < low < 0
    assert 100 < high < 110


def test_curves_of_unlike_steps_are_drawn_over_what_they_took(drawn, tmp_path):
    shown = {"two links": {"MOTO": line(4), "TRPO": line(30)}}
    along = {"two links": {"MOTO": 200 * np.arange(1, 5), "TRPO": 20 * np.arange(1, 31)}}
    path = panels.curves(shown, {}, "cost", "a figure", tmp_path / "curves.png", "log", along, "rollouts")
    (axis,) = readable(drawn[0], path)
    for one, name in zip(axis.lines, along["two links"], strict=True):
        np.testing.assert_array_equal(one.get_xdata(), along["two links"][name])
    assert axis.get_xlabel() == "rollouts"


def test_curves_of_which_nothing_is_known_are_drawn_all_the_same(drawn, tmp_path):
    unknown = Interval(*(np.full(4, np.nan) for _ in range(3)))
    path = panels.curves({"none": {"BADMM": unknown}}, {}, "distance, m", "nothing", tmp_path / "curves.png")
    assert len(readable(drawn[0], path)) == 1


def test_rates_stand_beside_those_of_the_paper(drawn, tmp_path):
    shown = {task: {name: line(16) for name in NAMES} for task in ("peg", "blind peg")}
    paper = {task: {name: {3: RNG.uniform(), 12: RNG.uniform()} for name in NAMES} for task in shown}
    path = panels.rates(shown, paper, "a table: of rates", tmp_path / "rates.png")
    axes = iter(readable(drawn[0], path))
    for task, name in itertools.product(shown, NAMES):
        axis = next(axes)
        assert axis.get_title("left").split() == f"{task}: {name}".split()
        ours, theirs = axis.lines
        np.testing.assert_allclose(ours.get_ydata(), 100 * shown[task][name].middle)
        assert dict(zip(*theirs.get_data(), strict=True)) == pytest.approx(
            {k: 100 * rate for k, rate in paper[task][name].items()}
        )


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_map_has_every_place_where_it_is(drawn, tmp_path, count):
    success = {name: RNG.uniform(size=len(GRID) + len(OTHERS)) for name in NAMES[:count]}
    by_distance = {name: line(3) for name in success}
    distances = np.array([0.0, 0.05, 0.1])
    path = panels.places(
        GRID, OTHERS, TRAINED, success, distances, by_distance, "a map: of places", tmp_path / "map.png"
    )
    *maps, last, _ = readable(drawn[0], path)
    for axis, found in zip(maps, success.values(), strict=True):
        mesh, dots = axis.collections
        areas = np.asarray(mesh.get_array()).reshape(3, 4)  # y from below, x from the left
        for (x, y), rate in zip(GRID, found, strict=False):
            assert areas[round(10 * y + 1), round(10 * x + 2)] == pytest.approx(100 * rate)
        np.testing.assert_allclose(dots.get_offsets(), OTHERS)
        np.testing.assert_allclose(dots.get_array(), 100 * found[len(GRID) :])
        np.testing.assert_allclose(np.transpose(axis.lines[0].get_data()), TRAINED)
    for one, (name, found) in zip(last.lines, by_distance.items(), strict=True):
        assert one.get_label() == name
        np.testing.assert_allclose(one.get_xdata(), distances, atol=0.01)
        np.testing.assert_allclose(one.get_ydata(), 100 * found.middle)


@pytest.mark.parametrize("count", [1, 3])
def test_places_along_a_line_have_their_success_and_those_of_training_a_mark(drawn, tmp_path, count):
    places, trained = np.linspace(-0.2, 0.2, 9), np.array([-0.15, 0.05])
    lines = {name: line(9) for name in NAMES[:count]}
    path = panels.along(places, trained, lines, "a row of slots", tmp_path / "along.png")
    (axis,) = readable(drawn[0], path)
    found = {one.get_label(): one for one in axis.lines}
    for name, (middle, *_) in lines.items():
        np.testing.assert_allclose(found[name].get_ydata(), 100 * middle)
        np.testing.assert_allclose(found[name].get_xdata(), places, atol=0.02)
    marks = [one.get_xdata()[0] for one in axis.lines if one.get_linestyle() == ":"]
    np.testing.assert_allclose(marks, trained)
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["trained here", *lines]
