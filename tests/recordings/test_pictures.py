"""The picture of a check: the sensors of a recording beside what its pictures show."""

import dataclasses

import numpy as np
import pytest

from egodistill import DataError
from egodistill.drawing import canvas
from egodistill.recordings import checks, pictures
from egodistill.recordings.offset import Axes, Offset, Rates


def checked(rates, reason=None):
    fits = {"XYZ": 0.99, "yXZ": 0.5}
    axes = Axes("XYZ", fits, 8, 1.0, (300.0, 290.0), reason)
    clock = Offset(0.01, 0.95, 0.3, None, None, (), np.zeros((2, 3)))
    sensor = checks.SensorCheck(200.0, 0.005, 1.0, 0, 0.0)
    return checks.Check("a/walk.mp4", duration=60.0, gyro=sensor, offset=clock, axes=axes, rates=rates)


def excerpt(start, size):
    """The second frame is lost: it weighs nothing."""
    t = start + np.arange(40) / 25
    turns = size * np.stack([np.sin(3 * t), np.sin(4 * t), np.sin(5 * t)], 1)
    shifts = np.stack([300 * turns[:, 2], -290 * turns[:, 0]], 1)
    shifts[1] = 1e4
    return Rates(t, shifts, turns, np.tile([1.0, 2.0, 9.6], (40, 1)), np.where(np.arange(40) == 1, 0.0, 1.0))


def test_the_sensors_are_drawn_beside_the_picture(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (drawn.append(figure), save(figure, *a, **k)))
    found = checked((excerpt(0, 0.5), excerpt(10, 1.0)))  # the second turns more
    assert pictures.draw_check(found, tmp_path / "check.png") == tmp_path / "check.png"
    pictures.draw_check(found, tmp_path / "check.SVG")
    for file in ("check.png", "check.SVG"):
        assert pictures.CHECK_TITLE.encode() in (tmp_path / file).read_bytes()
    assert (tmp_path / "check.png").read_bytes().startswith(b"\x89PNG") and b"<svg" in (
        tmp_path / "check.SVG"
    ).read_bytes()
    figure, rates = drawn[0], found.rates[1]
    assert figure.get_suptitle().startswith(
        "walk.mp4: the excerpt with the largest turns, 10 to 12 of 60 s\nThe axes look right (fit 0.99"
    )
    panels = {axes.get_ylabel().split("\n")[0]: axes for axes in figure.axes}
    for name, axis, way in (("about Z (up)", 2, "right"), ("about X (left)", 0, "up")):
        turned, moved = panels[name].lines[0], panels[f"picture moves {way}"].lines[0]
        np.testing.assert_allclose(turned.get_ydata(), np.degrees(rates.turns[:, axis]))
        # At the scale of its axis the picture's curve lies on the gyroscope's.
        scale = panels[f"picture moves {way}"].get_ylim()[1] / panels[name].get_ylim()[1]
        seen = rates.weights > 0
        np.testing.assert_allclose(moved.get_ydata()[seen] / scale, turned.get_ydata()[seen])
        assert np.isnan(moved.get_ydata()[1])
    np.testing.assert_allclose(panels["about Y (back)"].lines[0].get_ydata(), np.degrees(rates.turns[:, 1]))
    assert [line.get_ydata()[0] for line in panels["accelerometer"].lines] == [1.0, 2.0, 9.6, 9.81]
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["correlation +1.00"] * 2


def test_a_short_recording_is_drawn_whole(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    titles = []
    monkeypatch.setattr(Figure, "suptitle", lambda figure, text, **options: titles.append(text))
    pictures.draw_check(dataclasses.replace(checked((excerpt(0, 0.5),)), duration=1.6), tmp_path / "check.png")
    assert titles[0].startswith("walk.mp4\n")


def test_sensors_that_hardly_move_are_drawn(tmp_path):
    """Without axes the scale is that of equal power; nothing is divided by zero."""
    still = excerpt(0, 0.0)._replace(shifts=np.zeros((40, 2)))
    for rates in (still, still._replace(weights=np.zeros(40)), excerpt(0, 1.0)):
        found = dataclasses.replace(checked((rates,), "too few"), offset=None, axes=None)
        assert pictures.draw_check(found, tmp_path / "check.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["walk\udcff.mp4", "$\\walk$.mp4"])
def test_any_file_name_can_be_the_title(tmp_path, name):
    """One that is no UTF-8 was a TypeError, dollars were read as mathematics."""
    found = dataclasses.replace(checked((excerpt(0, 1.0),)), path=str(tmp_path / name))
    assert pictures.draw_check(found, tmp_path / "check.png").stat().st_size > 1000


def test_what_cannot_be_drawn_says_why(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"walk.mp4: its sensors cannot be drawn: there is no IMU"):
        pictures.draw_check(checked(()), tmp_path / "check.png")
    with pytest.raises(DataError, match=r"check.jpg: .* must end in .png or .svg"):
        pictures.draw_check(checked((excerpt(0, 1.0),)), tmp_path / "check.jpg")
    monkeypatch.setattr(canvas, "can_draw", lambda: False)
    with pytest.raises(DataError, match=r"check.png: a picture needs matplotlib: pip install .egodistill\[plots\]"):
        pictures.require_picture(tmp_path / "check.png")
    assert not list(tmp_path.iterdir())
