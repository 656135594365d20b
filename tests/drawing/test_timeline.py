"""The time line of a recording."""

import numpy as np
import pytest

from egodistill import Prediction
from egodistill.drawing import timeline


def bars_of(axes) -> dict[str, list[tuple[float, float]]]:
    """{name of a lane: start and end of each bar}."""
    names = [label.get_text() for label in axes.get_yticklabels()]
    lanes = {name: [] for name in names}
    for number, bars in enumerate(axes.collections):
        for path in bars.get_paths():
            box = path.get_extents()
            assert round((box.y0 + box.y1) / 2) == number
            lanes[names[number]].append((round(box.x0, 3), round(box.x1, 3)))
    return lanes


def test_each_class_has_a_lane(drawn, tmp_path):
    clips = [
        Prediction(0.0, 2.0, [("open", 0.9), ("close", 0.1)]),
        Prediction(1.0, 3.0, [("close", 0.5)]),
        Prediction(2.0, 4.0, [], "no IMU"),
        Prediction(5.0, 7.0, [("open", 0.2)]),
    ]
    frame = np.zeros((20, 20, 3), np.uint8)
    timeline.draw_timeline(clips, [(1.0, frame), (4.0, frame)], tmp_path / "w.png", "walk.mp4", "egodistill predict")
    pictures, lanes = drawn[0].axes
    assert len(pictures.artists) == 2 and lanes.get_xlim() == (0, 7)
    assert bars_of(lanes) == {"open": [(0, 1), (5, 7)], "close": [(1, 2)], "skipped": [(2, 4)]}
    opened = lanes.collections[0].get_facecolors().sum(1)
    assert opened[0] < opened[1]  # the more probable one is darker
    assert drawn[0].get_suptitle().startswith("walk.mp4: the best class of 4 clips")


def test_rare_classes_share_a_lane(drawn, tmp_path):
    names = [f"class {k}" for k in range(20) for _ in range(20 - k)]
    clips = [Prediction(2.0 * k, 2.0 * k + 2, [(name, 0.5)]) for k, name in enumerate(names)]
    timeline.draw_timeline(clips, [], tmp_path / "w.png", "walk.mp4")
    lanes = bars_of(drawn[0].axes[0])
    assert list(lanes) == [*(f"class {k}" for k in range(12)), "8 other classes"]
    assert [len(bars) for bars in lanes.values()] == [*range(20, 8, -1), 36]


def test_two_hours_have_columns_that_can_be_seen(drawn, tmp_path):
    """And the classes keep their share of the time: open for an hour, then two clips of three closed."""
    said = ["open" if k < 1701 else ("close", "close", "cut")[k % 3] for k in range(3400)]
    clips = [Prediction(2.1 * k, 2.1 * k + 2.1, [(name, 1.0)]) for k, name in enumerate(said)]
    timeline.draw_timeline(clips, [], tmp_path / "w.png", "walk.mp4")
    (axes,) = drawn[0].axes
    lanes = bars_of(axes)
    assert list(lanes) == ["open", "close", "cut"] and axes.get_xlabel().endswith("(min)")
    assert axes.get_xlim() == pytest.approx((0, 119))
    assert max(end for _, end in lanes["open"]) == pytest.approx(59.5, abs=0.4)
    assert all(stop - start == pytest.approx(119 / 400, abs=0.002) for bars in lanes.values() for start, stop in bars)
    dark, light = (bars.get_facecolors()[:, :3].min(1).mean() for bars in (axes.collections[0], axes.collections[2]))
    assert dark < 0.05 < 0.3 < light
