"""What all pictures share."""

import warnings

import pytest

from egodistill.drawing import canvas

pytest.importorskip("matplotlib")


def test_a_picture_is_written_once_complete_and_the_same_each_time(tmp_path):
    for name in ("one.png", "two.png"):
        with canvas.picture(tmp_path / name, (3, 2), "egodistill test") as figure:
            canvas.heading(figure, "a\nb")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert b"egodistill test" in (tmp_path / "one.png").read_bytes()
    with pytest.raises(KeyError), canvas.picture(tmp_path / "three.png", (3, 2), "egodistill test"):
        raise KeyError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


@pytest.mark.parametrize("text", ["$\\x$", "切る", "walk\udcff.mp4", "a\x1b[2Jb"])
def test_any_name_can_be_drawn_without_a_warning(tmp_path, text):
    """Dollars are no mathematics; a script that the font lacks, or bytes that are no text, are no error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with canvas.picture(tmp_path / "p.png", (3, 2), "egodistill test") as figure:
            canvas.heading(figure, text)
            figure.subplots().set_xticks([0], [canvas.name(text)])


def test_a_long_name_is_shortened_in_its_middle():
    assert canvas.name("walk") == "walk" and canvas.name("x" * 28) == "x" * 28
    short = canvas.name("put the " + "very " * 9 + "large pan", 20)
    assert len(canvas.name("x" * 29)) == 28
    assert len(short) == 20 and short.startswith("put the") and short.endswith("large pan")


def test_it_is_known_whether_pictures_can_be_drawn(monkeypatch):
    assert canvas.can_draw()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not canvas.can_draw()


def test_a_heading_stands_on_the_left_and_a_picture_has_120_dots_an_inch(tmp_path):
    with canvas.picture(tmp_path / "p.png", (3, 2), "egodistill test") as figure:
        canvas.heading(figure, "a\nb")
    (heading,) = figure.texts
    assert heading.get_text() == "a\nb" and heading.get_ha() == "left" and heading.get_position()[0] < 0.1
    assert figure.canvas.get_width_height() and (tmp_path / "p.png").read_bytes()[16:24] == bytes(
        [0, 0, 1, 104, 0, 0, 0, 240]
    )
