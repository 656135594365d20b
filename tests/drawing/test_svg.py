"""Pictures inside a page."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from egodistill.drawing import svg


def parts(picture, name):
    """The elements of a name in a picture, which is well-formed."""
    return ElementTree.fromstring(picture).iter(name)


def texts(picture):
    return [one.text for one in parts(picture, "text")]


def paths(picture):
    return [one.get("d") for one in parts(picture, "path")]


def test_a_lane_has_its_name_and_bars_at_their_times():
    drawn = svg.lanes([("a <b>", [(11.0, 12.5, 0.5), (14.0, 15.0, 1.0)]), ("none", [])], (10.0, 20.0))
    assert texts(drawn) == ["a <b>", "none"] and paths(drawn) == ["M1 1v-0.5h1.5V1zM4 1v-1h1V1z", ""]
    assert [one.get("viewBox") for one in parts(drawn, "svg")][1:] == ["0 0 10 1"] * 2
    assert ElementTree.fromstring(drawn).get("aria-label") == "time line of a <b>, none"


def test_words_stand_where_they_apply():
    drawn = svg.words([(5.0, 12.0, "wash"), (12.0, 15.0, "a <b>"), (40.0, 50.0, "later")], (10.0, 20.0), "labelled")
    assert (
        texts(drawn) == ["labelled", "wash", "a <b>"]
        and [one.text for one in parts(drawn, "title")] == texts(drawn)[1:]
    )
    boxes = [one for one in parts(drawn, "svg") if one.get("x")]
    assert [(one.get("x"), one.get("width")) for one in boxes] == [("0.000%", "20.000%"), ("20.000%", "30.000%")]


def test_an_envelope_keeps_extremes_in_2000_columns_and_shows_holes():
    times = np.arange(0, 3000, 1 / 200)
    values = np.abs(np.sin(times))
    values[123_456] = 9.0
    drawn = svg.envelope(times, values, (0.0, 3000.0), "turns", "rad/s")
    (path,) = paths(drawn)
    points = np.array(re.findall(r"(\d+) (\d+)", path), int)
    assert points.shape == (4000, 2) and len(drawn) < 60_000 and texts(drawn) == ["turns", "at most 9 rad/s"]
    assert points[points[:, 1].argmin()].tolist() == [123_456 / 200 * 2000 // 3000, 0]
    kept = (times < 1000) | (times > 2000)
    assert paths(svg.envelope(times[kept], values[kept], (0.0, 3000.0), "", ""))[0].count("z") == 2


@pytest.mark.parametrize("times", [[], [5.0], [-1.0, 99.0], [0.0, 0.1, 0.2]])
def test_an_envelope_of_few_samples(times):
    drawn = svg.envelope(np.array(times), np.zeros(len(times)), (0.0, 10.0), "turns", "rad/s")
    assert "nan" not in drawn and "inf" not in drawn and texts(drawn)[1] == "at most 0 rad/s"


@pytest.mark.parametrize(
    ("span", "shown"),
    [
        ((0.0, 2.133), ["0 s", "0.5 s", "1 s", "1.5 s", "2 s"]),
        ((3.0, 33.0), ["0:05", "0:10", "0:15", "0:20", "0:25", "0:30"]),
        ((0.0, 3000.0), ["0:00", "10:00", "20:00", "30:00", "40:00", "50:00"]),
        ((0.0, 8000.0), ["0:00", "30:00", "1:00:00", "1:30:00", "2:00:00"]),
    ],
)
def test_ticks(span, shown):
    drawn = svg.axis(span)
    assert texts(drawn) == shown
    assert all(0 <= float(one.get("x")[:-1]) <= 100.1 for one in parts(drawn, "text"))


def test_bars_and_curves_read_without_colour():
    drawn = svg.bars([("wash", 2.0, "2 s"), ("cut", 0.5, "0.5 s"), ("cut", 0.0, "0 s")], "time")
    assert texts(drawn) == ["wash", "2 s", "cut", "0.5 s", "cut", "0 s"]
    assert [one.get("width") for one in parts(drawn, "rect")] == ["100.0%", "25.0%", "0.0%"]
    fills = [one.get("fill") for one in parts(svg.bars([("a", k, "") for k in range(8)], "time"), "rect")]
    assert len({*fills[:6]}) == 6 and fills[6:] == fills[:2]
    assert {one.get("fill") for one in parts(svg.bars([("a", 1, ""), ("b", 0.5, "")], "share", 1), "rect")} == {
        fills[0]
    }
    lines = {"loss": [(1, 3.0), (2, 1.0)], "top1": [(1, 0.0), (2, 2.0)], "one": [(1, 1.5)]}
    drawn = svg.curves(lines, "training", "epoch")
    assert texts(drawn) == ["3", "0", "epoch 1 to 2", "loss: at last 1", "top1: at last 2", "one: at last 1.5"]
    assert paths(drawn)[:2] == ["M0 0L1 2", "M0 3L1 1"]
    assert len({one.get("stroke-dasharray") for one in parts(drawn, "path")}) == 3
