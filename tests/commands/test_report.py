"""The page about a folder of `train`: what it says, and that it says it in a browser."""

import json
import shutil

import numpy as np
import pytest
from commandline import run

from egodistill.commands import cli, report


def answers(wearers, right, per=20):
    """Answers on `per` segments of each wearer, of which the first `right[k]` are right."""
    return [
        {"id": f"{name}_{k}", "wearer": name, "label": 0, "said": int(k >= count), "score": 0.5}
        for name, count in zip(wearers, right, strict=True)
        for k in range(per)
    ]


def result(name, *given):
    return report.Result(name, {"answers": answers(*given), "class_names": ["a", "b"]})


def test_an_interval_is_over_wearers_or_segments_or_there_are_too_few():
    five = result("student", ["P1", "P2", "P3", "P4", "P5"], [10, 12, 14, 16, 18])
    said = report.with_interval(five, five.right, "%")
    # mean 70, standard error sqrt(1000 / 4 / 5), t(0.975, 4) = 2.776
    assert said == "70.0 % (95 % interval 50.4 to 89.6 over 5 wearers)"
    two = result("student", ["P1", "P2"], [10, 20])
    assert report.with_interval(two, two.right, "%").endswith("over 40 segments, so it says nothing about other people)")
    few = result("student", ["P1"], [10])
    assert report.with_interval(few, few.right, "%") == "50.0 % (20 segments of 1 wearer: too few for an interval)"
    none = result("student", [""], [10])
    assert report.with_interval(none, none.right, "%") == "50.0 % (20 segments: too few for an interval)"
    same = result("student", ["P1", "P2", "P3", "P4", "P5"], [20] * 5)
    assert report.with_interval(same, same.right, "%") == "100.0 % (100 segments of 5 wearers: too few for an interval)"


def test_what_a_student_gains_is_paired_by_segment():
    wearers = ["P1", "P2", "P3", "P4", "P5"]
    page = report.results_section([result("student", wearers, [10, 12, 14, 16, 18]), result("frames", wearers, [9, 11, 13, 15, 16])])
    assert "student minus frames: +6.0 points (95 % interval +3.2 to +8.8 over 5 wearers)" in page
    other = report.Result("other", {"answers": answers(["P9"], [3]), "class_names": ["a", "b"]})
    assert "minus other" not in report.results_section([result("student", wearers, [1] * 5), other])
