"""Films and pictures: what they show, how long they last, and what is said where nothing can be rendered."""

import errno
import os

import imageio.v3 as iio
import mujoco
import numpy as np
import pytest

from pilotfish import tasks
from pilotfish.cli import catalogue
from pilotfish.runs.store import RunError
from pilotfish.tasks.cartpole import CartPole
from pilotfish.tasks.obstacles import Obstacles
from pilotfish.view import film
from pilotfish.view.scene import scene


def swing(count, dt):
    """A cart-pole that turns while its cart stays, from `count` conditions with the poles a right angle apart."""
    t = dt * np.arange(51)
    zero = np.zeros_like(t)
    return np.stack([np.stack([zero, t + i * np.pi / 2, zero, zero], -1) for i in range(count)])


@pytest.fixture
def renderer():
    """Skips where this machine has no OpenGL."""
    try:
        mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).close()
    except Exception as error:
        pytest.skip(f"no OpenGL: {error}")


@pytest.mark.parametrize("conditions", [1, 5])
def test_a_film_shows_all_conditions_in_real_time(tmp_path, conditions):
    x = swing(conditions, 0.04)
    path = film.film(tmp_path / "film.gif", x, 0.04, scene(CartPole()), "turning")
    frames, meta = iio.imread(path), iio.immeta(path)
    assert len(frames) == 51  # those that hold the last state are one long frame
    assert meta["duration"] == 40
    columns, rows = (1, 1) if conditions == 1 else (3, 2)
    top = round(0.4 * 90)
    parts = [
        frames[:, top:][:, :, i % columns * frames.shape[2] // columns :][:, :, : frames.shape[2] // columns]
        for i in range(min(conditions, columns))
    ]
    for part in parts:
        assert np.abs(np.diff(part.astype(float), axis=0)).max() > 50
    if conditions > 1:
        assert np.abs(parts[0].astype(float) - parts[1]).max() > 50
        assert rows == 2


def test_a_picture_is_the_same_whatever_was_painted_before():
    x, look = swing(5, 0.04), scene(CartPole())
    there_and_back, alone = (
        np.stack(list(film._frames(x, moments, 0.04, look, "turning"))) for moments in ((0, 20, 40, 0), (20,))
    )
    np.testing.assert_array_equal(there_and_back[0], there_and_back[3])
    np.testing.assert_array_equal(there_and_back[1], alone[0])
    assert np.abs(there_and_back[0].astype(int) - there_and_back[2]).max() > 50


def test_the_colours_of_a_film_are_near_and_its_ground_is_white(tmp_path):
    x, look = swing(2, 0.04), scene(CartPole())
    frames = np.stack(list(film._frames(x, range(0, 51, 10), 0.04, look, "turning")))
    shown = iio.imread(film.film(tmp_path / "film.gif", x[:, ::10], 0.4, look, "turning"))
    assert shown[0, 60, 5].tolist() == [255, 255, 255]
    found = np.stack([np.asarray(one.convert("RGB")) for one in film._of_few_colours(list(frames))])
    assert np.abs(found.astype(int) - frames).max() < 45
    assert (np.abs(found.astype(int) - frames).max(-1) > 8).mean() < 1e-3


def test_what_takes_long_is_sped_up(tmp_path):
    path = film.film(tmp_path / "film.gif", swing(1, 2.0), 2.0, scene(CartPole()), "slow")
    assert iio.immeta(path)["duration"] * len(iio.imread(path)) == pytest.approx(12_000, rel=0.05)


def test_what_is_over_at_once_is_slowed_down(tmp_path):
    path = film.film(tmp_path / "film.gif", swing(1, 0.01), 0.01, scene(CartPole()), "turning")
    assert iio.immeta(path)["duration"] == 40
    assert len(iio.imread(path)) == 51


@pytest.mark.parametrize(
    ("speed", "said"),
    [
        (1.0, ""),
        (0.7, ""),
        (1.4, ""),
        (0.5, ", 2 times slower"),
        (10.2, ", 10 times faster"),
        (1e-4, ", 10,000 times slower"),
    ],
)
def test_a_caption_says_how_fast_it_goes(speed, said):
    assert film._hurry(speed) == said


@pytest.mark.parametrize(
    ("dt", "said"), [(0.05, "1.5 s"), (0.006, "0.18 s"), (1e-6, "0.000030 s"), (1e4, "300000.0 s")]
)
def test_moments_are_told_apart(dt, said):
    assert film._clock(30, dt, 100) == said
    assert len({film._clock(t, dt, 100) for t in range(0, 101, 5)}) == 21


def test_a_filmstrip_has_a_row_for_some_of_the_conditions(tmp_path):
    look = scene(CartPole())
    heights = [
        iio.imread(film.filmstrip(tmp_path / f"{n}.png", swing(n, 0.04), 0.04, look, "x")).shape[0] for n in (1, 2, 9)
    ]
    assert heights[0] < heights[1] < heights[2] < 4 * heights[0]


@pytest.mark.parametrize("name", ["film.gif", "film.mp4", "strip.png"])
def test_what_breaks_off_leaves_the_picture_before(tmp_path, monkeypatch, name):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / name
    path.write_bytes(b"before")
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=rf"{name} cannot be written: No space left on device"):
            draw(path)
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"before", [path])
    draw(path)
    assert iio.imread(path, plugin="FFMPEG" if name.endswith("mp4") else None).std() > 5
    assert list(tmp_path.iterdir()) == [path]


def draw(path):
    make = film.filmstrip if path.suffix == ".png" else film.film
    make(path, swing(1, 0.04)[:, :9], 0.04, scene(CartPole()), "x")


def test_a_simulation_is_rendered_where_it_is(tmp_path, renderer):
    """The particle is blue: its pixels move with the state, to the right and upwards."""
    task = Obstacles()
    x = np.zeros((2, 3, 4))
    x[:, :, 0], x[:, :, 1] = [[-3.0, -2.5, -0.5], [-3.0, -2.5, -2.0]], [[-1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]
    path = film.filmstrip(tmp_path / "strip.png", x, 0.05, scene(task), "x", count=3)
    picture = iio.imread(path)[..., :3].astype(int)
    blue = (picture[..., 2] > picture[..., 0] + 60) & (picture[..., 2] > picture[..., 1] + 30)
    places = []
    for part in np.array_split(blue[: blue.shape[0] // 2], 3, axis=1):
        rows, columns = np.nonzero(part)
        assert rows.size > 3
        places.append((columns.mean(), rows.mean()))
    (x0, y0), (x1, y1), (x2, y2) = places
    assert x0 < x1 < x2
    assert y0 > y1 > y2


def test_without_opengl_one_line_says_what_to_install(monkeypatch):
    def none(*_):
        raise AttributeError("'NoneType' object has no attribute 'glGetError'")

    monkeypatch.setattr(mujoco, "Renderer", none)
    with pytest.raises(RunError, match=r"no film: .*Install libegl1.*or libosmesa6") as error:
        scene(Obstacles())
    assert "\n" not in str(error.value)


def test_every_task_is_on_the_sheet(tmp_path, monkeypatch, renderer, capsys):
    few = {name: tasks.registry()[name] for name in ("cartpole", "lq", "obstacles", "octopus", "swimmer")}
    monkeypatch.setattr(tasks, "registry", lambda: few)
    catalogue.list_(["--pictures", str(tmp_path / "sheet.png")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "sheet.png")
    sheet = iio.imread(tmp_path / "sheet.png")[..., :3].astype(float)
    rows = np.array_split(sheet, 2, axis=0)
    pictures = [part for row in rows for part in np.array_split(row, 4, axis=1)]
    assert [part.std() > 3 for part in pictures] == [True] * 5 + [False] * 3
    with pytest.raises(ValueError, match=r"choose a name that ends in \.png"):
        catalogue.list_(["--pictures", str(tmp_path / "sheet.pdf")])
