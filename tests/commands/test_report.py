"""The page about a folder of `train`: what it says, and that it says it in a browser."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from commandline import run

from egodistill import data
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
    assert report.with_interval(two, two.right, "%").endswith(
        "over 40 segments, so it says nothing about other people)"
    )
    few = result("student", ["P1"], [10])
    assert report.with_interval(few, few.right, "%") == "50.0 % (20 segments of 1 wearer: too few for an interval)"
    none = result("student", [""], [10])
    assert report.with_interval(none, none.right, "%") == "50.0 % (20 segments: too few for an interval)"
    same = result("student", ["P1", "P2", "P3", "P4", "P5"], [20] * 5)
    assert report.with_interval(same, same.right, "%") == "100.0 % (100 segments of 5 wearers: too few for an interval)"


def test_wearers_count_the_same_however_many_segments_they_have():
    given = answers(["P1"], [0], 80) + answers(["P2", "P3", "P4", "P5"], [20, 19, 18, 19])
    uneven = report.Result("student", {"answers": given, "class_names": ["a", "b"]})
    said = report.with_interval(uneven, uneven.right, "%")
    assert said.startswith("47.5 % (95 % interval ") and said.endswith("over 5 wearers, around their mean 76.0)")


def test_without_labels_the_agreement_is_shown_and_whether_it_is_of_few_clips():
    for count, few in ((30, ""), (29, " (too few to say more)")):
        found = {"agreement": {"top1": 0.5, "clips": count, "teacher": "swin3d_t"}, "class_names": ["a"]}
        page = report.results_section([report.Result("student", found)], True)
        assert "trains it on frames alone, to compare" in page
        assert f"50.0 % of {count} test clips without labels get the answer of swin3d_t{few}</p>" in page


def test_what_a_student_gains_is_paired_by_segment():
    wearers = ["P1", "P2", "P3", "P4", "P5"]
    page = report.results_section(
        [result("student", wearers, [10, 12, 14, 16, 18]), result("frames", wearers, [9, 11, 13, 15, 16])], True
    )
    assert "student minus frames: +6.0 points (95 % interval +3.2 to +8.8 over 5 wearers)" in page
    other = report.Result("other", {"answers": answers(["P9"], [3]), "class_names": ["a", "b"]})
    assert "minus other" not in report.results_section([result("student", wearers, [1] * 5), other], True)
    for taught in (False, True):  # --baselines needs a teacher
        page = report.results_section([result("student", wearers, [1] * 5)], taught)
        assert ("on frames alone and on labels alone" in page) == taught


# ---------------------------------------------------------------------------------------------------------------
# The page


NAME = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def trained(demo, tmp_path_factory):
    """A folder of `train`, with a class and a recording of odd names, and what a check might have found."""
    folder = tmp_path_factory.mktemp("report") / "run"
    small = "--frame-size 32 --image-encoder resnet10x4 --image-weights none --preset demo --epochs 2 --batch-size 8"
    table = demo.out / "world" / "EPIC_100_train.csv"
    words = ["train", table, *small.split(), "--no-check", "--workers", "1", "--out", folder]
    assert cli.main([str(word) for word in words]) == 0
    numbers = json.loads((folder / "student.test.json").read_text())
    row = numbers["answers"][0]["label"]
    numbers["per_class"][NAME] = numbers["per_class"].pop(numbers["class_names"][row])
    numbers["class_names"][row] = NAME
    (folder / "student.test.json").write_text(json.dumps(numbers))
    good = {"problem": None, "notes": [], "verdict": "The axes look right; so does the clock."}
    late = {"notes": ["add +0.500 s to the IMU's time stamps"], "verdict": "The clock is wrong."}
    found = [
        good | {"video": "a/good.mp4"},
        good | late | {"video": f"a/{NAME}.mp4"},
        good | {"notes": ["the axes are wrong"], "video": "turned.mp4"},
    ]
    rows = ["video,imu_offset,imu_axes", f"a/{NAME}.mp4,0.500,", "turned.mp4,0.010,XZy"]
    (folder / "offsets.csv").write_text("\n".join(rows) + "\n")
    plan = json.loads((folder / "train.json").read_text())
    plan["steps"][0] += " --imu-offsets run/offsets.csv"
    (folder / "train.json").write_text(json.dumps(plan))
    (folder / "check.json").write_text(json.dumps({"words": [], "recordings": found}))
    assert cli.main(["report", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(width, trained, browser):
    """No error and no request, names are text, what can be scrolled is reached by Tab, and nothing is too wide."""
    numbers = json.loads((trained / "student.test.json").read_text())
    browser.open(trained / "report.html", width=width)
    assert browser.errors == [] and not browser.is_wider_than_the_screen()
    assert [one for one in browser.requests if not one.startswith("data:image/jpeg")] == browser.requests[:1]
    assert browser.run("document.querySelectorAll('[onerror], img[src=x]').length") == 0
    text = browser.run("document.body.innerText")
    wrong = sum(one["said"] != one["label"] for one in numbers["answers"])
    assert browser.run("document.querySelectorAll('figure img').length") == wrong + len(numbers["answers"])
    browser.run("document.querySelector('details').open = true")
    counted = browser.run("[...document.querySelectorAll('details tr')].map(row => row.innerText.split('\\t'))")
    store = data.ClipStore(trained / "store")
    labels = [(clip["label"], clip["split"]) for clip in store.clips]
    assert counted[0][0] == "class" and len(counted) == 1 + len({label for label, _ in labels})
    for name, *counts in counted[1:]:
        assert [int(count) for count in counts] == [labels.count((name, split)) for split in counted[0][1:]]
    browser.run("globalThis.seen = new Set()")
    for _ in range(30):
        browser.press("Tab")
        browser.run("seen.add(document.activeElement)")
    assert browser.run("[...document.querySelectorAll('.wide')].filter(one => !seen.has(one)).length") == 0
    assert f"{100 * numbers['top1']:.1f} % of the test segments are right (6 segments of 3 wearers: too few" in text
    assert f"labelled {NAME}" in text and "warning: " in text and "egodistill finetune" in text
    clocks = text[text.index("Clocks and axes") :]
    assert clocks.index("time stamps. Corrected: its clock is moved by +0.500 s.") < clocks.index("good.mp4")
    assert "Corrected: its clock is moved by +0.010 s, and its axes are turned by XZy." in clocks
    assert clocks.count("Corrected") == 2 and "egodistill train " in clocks


def test_the_column_of_the_wearer_is_named_once_where_it_is_missing(tmp_path):
    frames, status = np.zeros((1, 1, 3, 8, 8), np.uint8), {"failed": 0}
    one = {"split": "train", "video": "a/walk.mp4", "label": "walk", "start": 61.5}
    for wearers, told in (([None, "P1", None], "wearer unknown: 2 clips; name it in the table"), (["P1"], None)):
        clips = [one | {"wearer": wearer} for wearer in wearers]
        about = {"counts": {"train": status}, "failures": [], "notes": {}, "names": ["frames_1"]}
        store = SimpleNamespace(clips=clips, read=lambda *given: [frames[0]], **about)
        page = report.data_section(tmp_path, {"left_out": {}}, store)
        assert page.count("wearer unknown") == bool(told) and (told or "walk") in page
        said = {"said": 0, "label": 0, "score": 0.5}
        figures = [str(report.clip_figure(said, store, 0, clip, ["walk"])) for clip in clips]
        for wearer, figure in zip(wearers, figures, strict=True):
            assert f"<small>walk.mp4 1:02{', P1' if wearer else ''}</small>" in figure


def test_what_an_earlier_plan_left_is_not_on_the_page(trained, tmp_path, capsys):
    """A baseline of other settings, a result that is older than its model, corrections that were not applied."""
    folder = shutil.copytree(trained, tmp_path / "run")
    for suffix in (".pt", ".pt.jsonl", ".test.json"):
        shutil.copy2(folder / f"student{suffix}", folder / f"labels-alone{suffix}")
    plan = json.loads((folder / "train.json").read_text())
    plan["steps"][0] = plan["steps"][0].replace("--imu-offsets run/offsets.csv", "")
    (folder / "train.json").write_text(json.dumps(plan))
    run(capsys, "report", folder)
    page = (folder / "report.html").read_text()
    assert "labels alone:" not in page and ">labels alone<" not in page and "Corrected" not in page
    assert "test segments are right" in page and "Not checked." in page
    os.utime(folder / "student.pt", (2e9, 2e9))  # trained anew
    run(capsys, "report", folder)
    assert "Nothing is evaluated yet." in (folder / "report.html").read_text()


def test_the_page_of_a_training_that_runs_and_of_one_that_has_not_begun(trained, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "student.pt").unlink()
    (folder / "student.test.json").unlink()
    run(capsys, "report", folder)
    page = (folder / "report.html").read_text()
    assert "student, running" in page and "Nothing is evaluated yet." in page and "The least sure" not in page
    shutil.rmtree(folder / "store")
    (folder / "student.pt.jsonl").unlink()
    run(capsys, "report", folder)
    assert "Nothing is trained yet." in (folder / "report.html").read_text()


def test_a_page_replaces_only_a_page_of_its_own(trained, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "report.html").write_text("<!DOCTYPE html>\n<p>mine")
    assert cli.main(["report", str(folder)]) == 1
    assert "report.html" in capsys.readouterr().err and "mine" in (folder / "report.html").read_text()
    (tmp_path / "t.csv").write_text("video,start,stop,label\n")
    for content in (None, "{}", "[]", '{"format": "coco", "steps": []}'):  # another program's train.json
        if content:
            (tmp_path / "train.json").write_text(content)
        for words in (["report", str(tmp_path)], ["train", str(tmp_path / "t.csv"), "--out", str(tmp_path)]):
            assert cli.main(words) == 1
            assert "not a folder of `egodistill train`" in capsys.readouterr().err
        assert content is None or (tmp_path / "train.json").read_text() == content
