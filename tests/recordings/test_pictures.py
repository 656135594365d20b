"""The figures: a line for each method, points in the order of their cost; the sensors of a recording."""

import contextlib
import dataclasses

import numpy as np
import pytest

from egodistill import DataError
from egodistill.experiments import figures, intervals, paper
from egodistill.experiments.benches import Run
from egodistill.recordings import checks, pictures
from egodistill.recordings.offset import Axes, Offset, Rates
from egodistill.support import files


def test_figure_has_a_line_for_each_method(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    monkeypatch.setattr(files, "atomic_write", contextlib.nullcontext)
    methods = [("EgoDistill", n) for n in (4, 1, 2)] + [("STTS full", 4), ("STTS T0.5-S0.7", 4), ("VisOnly", 1)]
    table = [
        paper.Row(name, n, "", 50.0 + n, 1.0, [], 0.1 * n * len(name), 1, 1.0, {}, Run(name, frames=n))
        for name, n in methods
    ]
    unknown = table[-1]._replace(method="teacher", gmacs=None)  # its cost is not known: no point
    table[2] = table[2]._replace(interval=intervals.Interval(52.0, 49.0, 56.0, 4.0, 0.1, 3, 3))
    ceilings = {("EgoDistill", 2): 85.0, ("VisOnly", 1): 60.0, ("AdaFuse", 8): 70.0}  # AdaFuse is not drawn
    ceilings["teacher", 1] = 90.0
    paths = figures.draw([*table, unknown], tmp_path / "figure", "A title", ceilings)
    assert [path.name for path in paths] == ["figure.png", "figure.svg"]
    axes = drawn[0].axes[0]
    lines = {one.get_label(): one for one in axes.containers}
    assert set(lines) == {"EgoDistill", "STTS", "VisOnly"}
    limits = [one for one in axes.lines if one.get_markersize() == 26 and len(one.get_xdata())]
    at = {(row.method, row.frames): row.gmacs for row in table}
    assert [one.get_xydata().tolist() for one in limits] == [[[at["EgoDistill", 2], 85.0]], [[at["VisOnly", 1], 60.0]]]
    assert [one.get_color() for one in limits] == [figures.STYLES[name]["color"] for name in ("EgoDistill", "VisOnly")]
    (bars,) = (part.get_segments() for part in lines["EgoDistill"].lines[2])
    assert [(low, high) for (_, low), (_, high) in bars] == [
        (50.0, 52.0),
        (49.0, 56.0),
        (53.0, 55.0),
    ]  # deviations and an interval
    x, y = lines["EgoDistill"].lines[0].get_data()
    assert list(x) == sorted(x) and list(y) == [51.0, 52.0, 54.0]
    assert axes.get_xscale() == "log" and "GMACs" in axes.get_xlabel() and "%" in axes.get_ylabel()
    assert {text.get_text() for text in axes.texts} == {"N = 1", "N = 2", "N = 4"}
    assert axes.get_ylim()[1] > 85  # a limit of the inputs is above all points
    wide = table[0]._replace(interval=intervals.Interval(54.0, 0.0, 98.0, 1.0, 0.5, 2, 3))
    figures.draw([wide, *table[1:]], tmp_path / "wide")
    assert drawn[-1].axes[0].get_ylim() == (31.0, 74.0)  # a long interval does not flatten the figure
    figures.draw([unknown], tmp_path / "empty")


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    row = paper.Row("EgoDistill", 1, "", 76.2, 1.1, [], 0.057, None, None, {}, None)
    written = [[path.read_bytes() for path in figures.draw([row], tmp_path / name)] for name in ("a", "b")]
    assert written[0] == written[1] and b"<dc:date>" not in written[0][1]


def checked(rates, reason=None):
    fits = {"XYZ": 0.99, "yXZ": 0.5}
    axes = Axes("XYZ", fits, 8, 1.0, (300.0, 290.0), reason)
    clock = Offset(0.01, 0.95, 0.3, None, None, (), np.zeros((2, 3)))
    sensor = checks.SensorCheck(200.0, 0.005, 1.0, 0, 0.0)
    return checks.Check("a/walk.mp4", gyro=sensor, offset=clock, axes=axes, rates=rates)


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
    assert figure.get_suptitle().startswith("walk.mp4\nThe axes look right (fit 0.99")
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
    monkeypatch.setattr(pictures.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"check.png: a picture needs matplotlib: pip install .egodistill\[tutorials\]"):
        pictures.require_picture(tmp_path / "check.png")
    assert not list(tmp_path.iterdir())
