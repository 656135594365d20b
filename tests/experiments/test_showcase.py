"""The picture of the demo."""

import numpy as np

from egodistill.experiments import intervals, paper, showcase
from egodistill.experiments.benches import Run


def test_the_demo_is_drawn_with_intervals_and_answers(tmp_path, drawn):

    def interval(mean):
        return intervals.Interval(mean, mean - 4, mean + 6, 5.0, 0.01, 1, 12)

    shares = {"VisIMU": 66.0, "EgoDistill": 72.0, "teacher": 84.0}
    rows = [
        paper.Row(name, 1, "1 frame", share, None, [share], None, None, None, {}, Run(name), "", interval(share))
        for name, share in shares.items()
    ]
    rows.append(rows[0]._replace(method="VisOnly", top1=50.0, interval=None))  # it cannot be computed
    leads = [paper.Contrast(Run("EgoDistill"), Run("VisIMU"), interval(6.0))]
    frame = np.zeros((3, 8, 8), np.uint8)
    said = {"teacher": "open", "EgoDistill": "open", "VisIMU": "close", "VisOnly": "close"}
    clips = [showcase.ShownClip(frame, np.stack([frame] * 4), "open", said)] * 2
    showcase.draw_showcase(rows, leads, clips, tmp_path / "d.png", "12 wearers", {"one frame": 60.0}, "egodistill demo")
    upper, lower = drawn[0].subfigs
    accuracy, lead = upper.axes
    assert upper.get_suptitle() == "12 wearers"
    assert [label.get_text().split("\n")[0] for label in accuracy.get_yticklabels()] == [
        "VisOnly",
        "VisIMU",
        "EgoDistill",
        "teacher",
    ]
    (ends,) = accuracy.containers[1].lines[2][0].get_segments()
    np.testing.assert_allclose(ends, [[62, 1], [72, 1]])
    (ends,) = lead.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(ends, [[2, 1], [12, 1]])
    assert [text.get_text() for text in lower.axes[4].texts] == ["✓ open", "✓ open", "✗ close", "✗ close"]
    assert (tmp_path / "d.png").stat().st_size > 10_000
