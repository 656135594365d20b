"""What figures of matplotlib share."""

import pytest

from egodistill.drawing import canvas


def test_a_figure_is_written_complete_with_its_title_and_the_same_each_time(tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(3, 2))
    figure.subplots().plot([3, 2, 1])
    for suffix in ("png", "svg"):
        one, two = (tmp_path / f"{name}.{suffix}" for name in ("one", "two"))
        for file in (one, two):
            canvas.save_figure(figure, file, "egodistill test")
        assert one.read_bytes() == two.read_bytes() and b"egodistill test" in one.read_bytes()
    assert one.read_bytes().startswith(b"<?xml") and len(list(tmp_path.iterdir())) == 4
    assert (tmp_path / "one.png").read_bytes()[16:24] == bytes([0, 0, 1, 194, 0, 0, 1, 44])  # 450 x 300: 150 an inch


def test_it_is_known_whether_figures_can_be_drawn(monkeypatch):
    pytest.importorskip("matplotlib")
    assert canvas.can_draw()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not canvas.can_draw()
