"""The page about a folder of `train`: what it says, and that it says it in a browser."""

import base64
import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import reading
import torch
from commandline import run
from painted import reindex
from torchvision.io import encode_jpeg

from egodistill import data
from egodistill.commands import cli, evaluations, report, whole_recordings
from egodistill.datasets import index
from egodistill.datasets.store_files import StoreFiles
from egodistill.deploy import events, segmentation
from egodistill.inference import Prediction
from egodistill.support.errors import NoteWarning


def answers(wearers, right, per=20):
    """Answers on `per` segments of each wearer, of which the first `right[k]` are right."""
    return [
        {"id": f"{name}_{k}", "wearer": name, "label": 0, "said": int(k >= count), "score": 0.5}
        for name, count in zip(wearers, right, strict=True)
        for k in range(per)
    ]


def result(name, *given):
    return evaluations.Result(name, {"answers": answers(*given), "class_names": ["a", "b"]})


def test_an_interval_is_over_wearers_or_segments_or_there_are_too_few():
    five = result("student", ["P1", "P2", "P3", "P4", "P5"], [10, 12, 14, 16, 18])
    said = evaluations.with_interval(five, five.right, "%")
    # mean 70, standard error sqrt(1000 / 4 / 5), t(0.975, 4) = 2.776
    assert said == "70.0 % (95 % interval 50.4 to 89.6 over 5 wearers)"
    two = result("student", ["P1", "P2"], [10, 20])
    assert evaluations.with_interval(two, two.right, "%").endswith(
        "over 40 segments, so it says nothing about other people)"
    )
    few = result("student", ["P1"], [10])
    assert evaluations.with_interval(few, few.right, "%") == "50.0 % (20 segments of 1 wearer: too few for an interval)"
    none = result("student", [""], [10])
    assert evaluations.with_interval(none, none.right, "%") == "50.0 % (20 segments: too few for an interval)"
    same = result("student", ["P1", "P2", "P3", "P4", "P5"], [20] * 5)
    assert (
        evaluations.with_interval(same, same.right, "%")
        == "100.0 % (100 segments of 5 wearers: too few for an interval)"
    )


def test_wearers_count_the_same_however_many_segments_they_have():
    given = answers(["P1"], [0], 80) + answers(["P2", "P3", "P4", "P5"], [20, 19, 18, 19])
    uneven = evaluations.Result("student", {"answers": given, "class_names": ["a", "b"]})
    said = evaluations.with_interval(uneven, uneven.right, "%")
    assert said.startswith("47.5 % (95 % interval ") and said.endswith("over 5 wearers, around their mean 76.0)")


def test_without_labels_the_agreement_is_shown_and_whether_it_is_of_few_clips():
    for count, few in ((30, ""), (29, " (too few to say more)")):
        found = {"agreement": {"top1": 0.5, "clips": count, "teacher": "swin3d_t"}, "class_names": ["a"]}
        page = report.results_section([evaluations.Result("student", found)], True)
        assert "trains it on frames alone, to compare" in page
        assert f"50.0 % of {count} test clips without labels get the answer of swin3d_t{few}</p>" in page


def test_what_a_student_gains_is_paired_by_segment():
    wearers = ["P1", "P2", "P3", "P4", "P5"]
    page = report.results_section(
        [result("student", wearers, [10, 12, 14, 16, 18]), result("frames", wearers, [9, 11, 13, 15, 16])], True
    )
    assert "student minus frames: </b>+6.0 points (95 % interval +3.2 to +8.8 over 5 wearers)" in page
    lost = dict(
        evaluations.findings(
            [result("student", wearers, [9, 11, 13, 15, 16]), result("f", wearers, [10, 12, 14, 16, 18])]
        )
    )
    assert lost["student minus f"] == "-6.0 points (95 % interval -8.8 to -3.2 over 5 wearers)"
    other = evaluations.Result("other", {"answers": answers(["P9"], [3]), "class_names": ["a", "b"]})
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
    for suffix in (".safetensors", ".safetensors.jsonl", ".test.json"):
        shutil.copy2(folder / f"student{suffix}", folder / f"labels-alone{suffix}")
    plan = json.loads((folder / "train.json").read_text())
    plan["steps"][0] = plan["steps"][0].replace("--imu-offsets run/offsets.csv", "")
    (folder / "train.json").write_text(json.dumps(plan))
    run(capsys, "report", folder)
    page = (folder / "report.html").read_text()
    assert "labels alone:" not in page and ">labels alone<" not in page and "Corrected" not in page
    assert "test segments are right" in page and "Not checked." in page
    os.utime(folder / "student.safetensors", (2e9, 2e9))  # trained anew
    run(capsys, "report", folder)
    assert "Nothing is evaluated yet." in (folder / "report.html").read_text()


@pytest.mark.parametrize(("column", "value"), [("label", None), ("split", "train"), ("id", "other")])
def test_a_result_of_before_an_edit_is_not_on_the_page(trained, tmp_path, capsys, column, value):
    """The store follows its table first: until the student is evaluated again, its answers are about others."""
    folder = shutil.copytree(trained, tmp_path / "run")
    numbers = json.loads((folder / "student.test.json").read_text())
    numbers["class_names"] = data.ClipStore(folder / "store").class_names
    numbers["per_class"][numbers["class_names"][numbers["answers"][0]["label"]]] = numbers["per_class"].pop(NAME)
    (folder / "student.test.json").write_text(json.dumps(numbers))
    run(capsys, "report", folder)
    assert "test segments are right" in (folder / "report.html").read_text()
    if column == "label":  # that of before
        numbers["answers"][0]["label"] = 1 - min(1, numbers["answers"][0]["label"])
        (folder / "student.test.json").write_text(json.dumps(numbers))
    else:
        segments = list(StoreFiles(folder / "store").segments)
        row = next(k for k, one in enumerate(segments) if one.split == "test")
        segments[row] = replace(segments[row], **{column: value})
        columns, texts = index.columns_of(segments)
        now = {name: lambda _, values=values: values for name, values in columns.items()}
        reindex(folder / "store", **now, texts=lambda before: before | texts)
    run(capsys, "report", folder)
    assert "Nothing is evaluated yet" in (folder / "report.html").read_text()


def test_the_page_of_a_training_that_runs_and_of_one_that_has_not_begun(trained, tmp_path, capsys):
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "student.safetensors").unlink()
    (folder / "student.test.json").unlink()
    run(capsys, "report", folder)
    page = (folder / "report.html").read_text()
    assert "student, running" in page and "Nothing is evaluated yet." in page and "The least sure" not in page
    shutil.rmtree(folder / "store")
    (folder / "student.safetensors.jsonl").unlink()
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


# ---------------------------------------------------------------------------------------------------------------
# The page, read as a person reads it, against the files that it is made from

EPOCHS = {
    "imu": [{"loss": 3.0, "matching": 0.125}, {"loss": 2.0, "matching": 0.25}, {"loss": 2.5, "matching": 0.5}],
    "student": [
        {"epoch": 1, "loss": 2.0, "kd": 0.5, "top1": 0.25, "validation_loss": 1.0, "validation_top1": 0.125},
        {"epoch": 2, "loss": 0.5, "kd": None, "top1": 0.75, "validation_loss": None, "validation_top1": 0.5},
        {"epoch": 3, "loss": 0.4, "own": -1.0, "top1": 0.75, "validation_loss": 4.0, "validation_top1": 0.25},
    ],
}
SPEED = {"precision": "fp32", "learning_rate": 1e-4, "clips_per_second": 9.0, "loader_share": 0.1}
STEPS = ["prepare t.csv", "pretrain s --out run/imu.safetensors", "distill s --out run/student.safetensors"]
STEPS += [f"evaluate s --out run/{name}.test.json" for name in ("student", "frames-alone")]


@pytest.fixture(scope="module", params=[3, 33])
def made(request, kitchen, tmp_path_factory):
    """A folder of `train` whose segments have several clips each, in mixed order; of few classes, or of many."""
    run = tmp_path_factory.mktemp("made") / "run"
    names = [*"cut take wash".split(), *(f"class {k}" for k in range(3, request.param))]
    labels, splits = "wash cut take cut wash cut cut cut cut".split(), ["test"] * 7 + ["train"] * 2
    given = sorted(kitchen, key=lambda one: (one.start, one.video))
    segments = [
        replace(one, label=label, split=split, wearer=None if split == "train" else one.wearer)
        for one, label, split in zip(given, labels, splits, strict=True)
    ]
    options = {"frame_size": 40, "class_names": names, "progress": False, "workers": 1}
    with pytest.warns(NoteWarning, match="no segment with the split train"):
        store = data.prepare(segments, run / "store", **options)
    said = ["wash", "wash", "take", "take", "cut", "cut", "take"]
    other = ["cut", "cut", "cut", "cut", "wash", "cut", "cut"]
    for stem, found in (("student", said), ("frames-alone", other)):
        (run / f"{stem}.safetensors").touch()
        pairs = [(names.index(a), names.index(b)) for a, b in zip(labels[:7], found, strict=True)]
        table = np.zeros((len(names), len(names)), int)
        np.add.at(table, tuple(np.transpose(pairs)), 1)
        rows = zip(segments, pairs, (0.9, 0.5, 0.4, 0.8, 0.7, 0.3, 0.6), strict=False)
        answers = [
            {"id": one.id, "wearer": one.wearer, "label": a, "said": b, "score": score} for one, (a, b), score in rows
        ]
        shares = {name: float(table[k, k] / table[k].sum()) for k, name in enumerate(names) if table[k].sum()}
        content = {
            "format": evaluations.EVALUATION,
            "class_names": names,
            "per_class": shares,
            "confusion": table.tolist(),
        }
        content |= {"answers": answers, "teachers": {"teacher": 5 / 7}, "trained": {"clips": 3, "epochs": 2}}
        (run / f"{stem}.test.json").write_text(json.dumps(content))
    for stem, epochs in EPOCHS.items():
        (run / f"{stem}.safetensors").touch()
        (run / f"{stem}.safetensors.jsonl").write_text("".join(json.dumps(row | SPEED) + "\n" for row in epochs))
        os.utime(run / f"{stem}.safetensors", (1e9, 1e9))
    report.note_plan(
        run, "egodistill train t.csv --quick", [f"egodistill {one}" for one in STEPS], {"left_out": {}, "quick": True}
    )
    report.write_report(run)
    return run, store


def read(run):
    """The page's sections, and the content of the student's and the baseline's results."""
    found = [json.loads((run / f"{stem}.test.json").read_text()) for stem in ("student", "frames-alone")]
    return reading.sections(run / "report.html"), *found


def test_results_stand_beside_the_teacher_chance_and_the_most_frequent_class(made):
    page, numbers, other = read(made[0])
    shown = reading.lines(page["Result"])
    rights = [sum(one["said"] == one["label"] for one in found["answers"]) for found in (numbers, other)]
    labels = Counter(numbers["class_names"][one["label"]] for one in numbers["answers"])
    (best, most), *_ = labels.most_common()
    count, classes = len(numbers["answers"]), len(numbers["class_names"])
    few = f"({count} segments of 3 wearers: too few for an interval)"
    assert shown["student"] == f"{100 * rights[0] / count:.1f} % of the test segments are right {few}"
    assert shown["frames alone"] == f"{100 * rights[1] / count:.1f} % of the test segments are right {few}"
    assert shown["student minus frames alone"] == f"{100 * (rights[0] - rights[1]) / count:+.1f} points {few}"
    assert rights[0] < rights[1] and shown["teacher"] == f"{100 * 5 / 7:.1f} %"
    assert shown[f"always {best!r}, the most frequent class"] == f"{100 * most / count:.1f} %"
    assert shown[f"chance, one of {classes} classes"] == f"{100 / classes:.1f} %"
    text = reading.text_of(page["Result"])
    for right in rights:
        doubt = (
            f"The test does not show that this student learnt anything: always answering {best!r} is right in {most}"
        )
        trained = "and guesses may reach that. It was trained on 3 clips, 2 epochs."
        assert f"{doubt} of {count} segments, this student in {right}, {trained}" in text
    assert rights[0] < most < rights[1] and "few epochs" in shown["--quick"]


def test_bars_and_confusions_are_those_of_the_answers(made):
    page, numbers, _ = read(made[0])
    names, answers = numbers["class_names"], numbers["answers"]
    pairs = [(names[one["label"]], names[one["said"]], one["wearer"]) for one in answers]
    counts = Counter(label for label, _, _ in pairs)
    right = Counter(label for label, said, _ in pairs if label == said)
    found = reading.bars(reading.picture(page["By class"], "accuracy by class"))
    assert sorted(name for name, _, _ in found) == sorted(counts) and [w for *_, w in found] == sorted(
        w for *_, w in found
    )
    for name, text, width in found:
        share = 100 * right[name] / counts[name]
        assert text == f"{share:.0f} % of {counts[name]}" and abs(width - share) < 0.06
    wearers = reading.bars(reading.picture(page["By class"], "accuracy by wearer"))
    assert sorted(name for name, _, _ in wearers) == ["P01", "P02", "P30"]
    assert [width for *_, width in wearers] == sorted(width for *_, width in wearers)  # the worst first
    for name, text, width in wearers:
        own = [label == said for label, said, wearer in pairs if wearer == name]
        assert text == f"{100 * np.mean(own):.0f} %" and abs(width - 100 * np.mean(own)) < 0.06
    wrong = Counter((label, said) for label, said, _ in pairs if label != said)
    table, *matrix = page["By class"].iter("table")
    assert {(a, b): n for a, b, n in reading.rows(table)[1:]} == {
        (a, b): f"{n} of {counts[a]}" for (a, b), n in wrong.items()
    }
    (drawn,) = matrix
    shown = names[:30]  # these are the most frequent ones, too
    head, *cells = reading.rows(drawn)
    assert head == ["label", *(str(k + 1) for k in range(len(shown))), *["others"] * (len(names) > 30)]
    for k, (name, *row) in enumerate(cells):
        said = [sum(pair[:2] == (names[k], other) for pair in pairs) for other in shown]
        assert name == f"{names[k]} {k + 1}"
        assert [int(cell or 0) for cell in row] == said + [counts[names[k]] - sum(said)] * (len(names) > 30)
    marked = [[j for j, cell in enumerate(row) if "right" in (cell.get("class") or "")] for row in drawn.iter("tr")]
    assert marked == [[], *([k + 1] for k in range(len(shown)))]


def test_of_many_classes_the_most_frequent_are_in_the_matrix_and_the_more_the_darker():
    counts = np.diag(np.arange(1, 98))  # the last ones are the most frequent
    counts[90, [0, 90, 91, 92]] = 1, 40, 30, 20
    page = ElementTree.fromstring(report.matrix(counts, [f"class {k}" for k in range(97)]))
    head, *rows = reading.rows(page)
    assert head == ["label", *(str(k + 1) for k in range(67, 97)), "others"] and len(rows) == 30
    (row,) = [one for one in page.iter("tr") if reading.text_of(one[0]) == "class 90 91"]
    said = {name: (cell.text, cell.get("class")) for name, cell in zip(head[1:], list(row)[1:], strict=True)}
    assert {name: found for name, found in said.items() if found[0]} == {
        "91": ("40", "right s2"),
        "92": ("30", "s2"),
        "93": ("20", "s1"),
        "others": ("1", "s1"),
    }


def test_a_clip_is_shown_as_the_student_saw_it(made):
    """Of a segment with several clips the middle one: its picture, place and turns of the head, and the answer."""
    run, store = made
    page, numbers, _ = read(run)
    names, answers = numbers["class_names"], {one["id"]: one for one in numbers["answers"]}
    pictures, imu, of = store.read("frames_1", range(len(store))), store.read("imu", range(len(store))), {}
    for row, clip in enumerate(store.clips):
        of.setdefault(clip["id"], []).append(row)
    assert max(map(len, of.values())) > 1
    wrong = sorted((one for one in answers.values() if one["said"] != one["label"]), key=lambda one: -one["score"])
    unsure = sorted(answers.values(), key=lambda one: one["score"])
    shown = list(page["Clips"].iter("figure"))
    assert [one.text for one in page["Clips"].iter("h3")] == ["Wrong, the surest first", "The least sure"]
    for figure, answer in zip(shown, [*wrong, *unsure], strict=True):
        rows = of[answer["id"]]
        clip = store.clips[rows[len(rows) // 2]]
        words = f"labelled {names[answer['label']]}" if answer in wrong else "as labelled"
        place = f"{Path(clip['video']).name} 0:0{round(clip['start'])}"
        said = f"{names[answer['said']]} ({100 * answer['score']:.0f} %), {words}"
        assert reading.text_of(figure).startswith(said)
        assert figure.find("small").text == f"{place}, {clip['wearer']}" and place in figure.find("img").get("alt")
        seen = np.concatenate(pictures[rows[len(rows) // 2]], axis=2)  # several frames stand side by side
        kept = encode_jpeg(torch.from_numpy(seen), quality=80).numpy().tobytes()
        assert reading.image(figure.find("img").get("src")).shape == seen.shape
        assert base64.b64decode(figure.find("img").get("src").partition(",")[2]) == kept
        turns = np.linalg.norm(imu[rows[len(rows) // 2], :, 3:], axis=1)
        name, unit, most, ((*line, _),) = reading.envelope(next(figure.iter("svg")))
        assert (name, unit) == ("head turns", "rad/s") and most == pytest.approx(turns.max(), rel=0.01)
        at = np.array(line) * [len(turns) - 1, 1]
        near = np.interp(at[:, 0], np.arange(len(turns)), turns)
        assert len(line) > 400 and np.abs(at[:, 1] - near).max() < 0.05 * turns.max()


def test_curves_are_those_of_the_logs(made):
    page, *_ = read(made[0])
    titles = {
        "loss": ("loss", 1),
        "kd": ("L_KD, teacher's classes", 1),
        "own": ("own", 1),
        "top1": ("top-1 in training (%)", 100),
        "matching": ("clips matched to IMU (%)", 100),
    }
    headings = [one.text for one in page["Training"].iter("h3")]
    assert headings == ["stage 1", "student, weights of epoch 2 (grey line)"]
    for stem, name in (("imu", "stage 1"), ("student", "student")):
        for what, (title, scale) in titles.items():
            wanted = {}
            for key, label in ((what, title), (f"validation_{what}", f"{title}, validation")):
                logged = [(k, scale * row[key]) for k, row in enumerate(EPOCHS[stem], 1) if row.get(key) is not None]
                wanted |= {label: logged} if logged else {}
            if not wanted:
                continue
            drawn = reading.picture(page["Training"], f"{title} of {name} by epoch")
            found = reading.curves(drawn)
            assert list(found) == list(wanted)
            for label, logged in wanted.items():
                np.testing.assert_allclose(found[label], logged, rtol=1e-3)
            marks = [one.get("x") for one in drawn.iter("rect")]
            middle = {1: "99.50%", 2: "99.50%", 3: "49.75%"}  # of the epochs 1 to 3; the last one of fewer
            assert len(marks) == (stem == "student") and (what in ("kd", "own") or marks in ([], [middle[3]]))
    drawn = [one.get("aria-label") for one in page["Training"].iter("svg") if one.get("aria-label")]
    assert len(drawn) == 6  # no speeds


def test_the_kept_epoch_is_the_first_of_the_best_by_accuracy_or_by_loss():
    assert report.kept_epoch([{"validation_top1": score, "validation_loss": 1.0} for score in (0.2, 0.5, 0.5)]) == 2
    assert report.kept_epoch([{"validation_loss": loss} for loss in (3.0, 2.0, 0.5, 0.9)]) == 3
    assert report.kept_epoch([{"loss": 1.0}]) is None


@pytest.mark.parametrize("split", ["test", "val", "all"])
def test_a_model_without_train_and_an_evaluation_have_a_page_too(made, tmp_path, capsys, split):
    """The curves of its log, and the evaluation beside it; or the evaluation alone, of any split and name."""
    run_, _ = made
    for name in ("student.safetensors", "student.safetensors.jsonl", "student.test.json"):
        shutil.copy2(run_ / name, tmp_path / name)
    numbers = json.loads((tmp_path / "student.test.json").read_text()) | {"split": split, "model": "teacher"}
    (tmp_path / "student.test.json").write_text(json.dumps(numbers))
    (tmp_path / "e.json").write_text(json.dumps(numbers))
    said = run(capsys, "report", tmp_path / "student.safetensors")
    page = reading.sections(tmp_path / "student.safetensors.html")
    evaluated = split == "test"  # of another split, the evaluation is not that of the model
    assert list(page) == ["Result", *["By class"] * evaluated, "Training", "How it was made"]
    assert (
        said.endswith(f"The page about it: {tmp_path / 'student.safetensors.html'}\n")
        and ("segments" in said) == evaluated
    )
    assert len([one for one in page["Training"].iter("svg") if one.get("aria-label")]) == 4
    said = run(capsys, "report", tmp_path / "e.json")
    page = reading.sections(tmp_path / "e.json.html")
    assert list(page) == ["Result", "By class", "How it was made"]
    share, which = np.mean([one["said"] == one["label"] for one in numbers["answers"]]), "all" if split == "all" else ""
    text = f"{100 * share:.1f} % of {which or f'the {split}'} segments are right"
    assert f"teacher: {text}" in reading.text_of(page["Result"]) and f"teacher: {text}" in said
    assert "learnt anything: always" in said and "this teacher in" in said


def test_how_sure_a_model_is_has_a_curve_if_there_are_clips_enough(made, tmp_path, capsys):
    """With its temperature and without; of few clips the log loss instead, and of 0.5 nothing."""
    run_, _ = made
    numbers = json.loads((run_ / "student.test.json").read_text())
    bins = [(500, 0.55, 0.5), (700, 0.95, 0.925)]
    after = {"clips": 1200, "error": 0.035, "floor": 0.021, "log_loss": 0.8125, "bins": bins}
    before = after | {"error": 0.125, "log_loss": 1.25, "bins": [(1200, 0.875, 0.75)]}
    for clips, temperature, told in (
        (
            1200,
            1.5,
            "calibration error 3.5 points (12.5 without the temperature of 1.5); true probabilities would have 2.1",
        ),
        (
            1200,
            1.0,
            "calibration error 3.5 points; true probabilities would have 2.1 (15 bins, 1,200 clips).",
        ),
        (
            999,
            1.5,
            "log loss 0.812 (1.250 without the temperature of 1.5): 999 clips, and a calibration error needs 1,",
        ),
    ):
        found = after | {"clips": clips, "temperature": temperature}
        found["without_temperature"] = before | {"clips": clips} if temperature != 1 else None
        (tmp_path / "e.json").write_text(json.dumps(numbers | {"calibration": found}))
        run(capsys, "report", tmp_path / "e.json")
        section = reading.sections(tmp_path / "e.json.html")["How sure"]
        assert told in reading.text_of(section)
        drawn = [one for one in section.iter("svg") if one.get("aria-label")]
        lines = ["true probabilities: of the surest 100", "this model: of the surest 92.5"]
        lines += ["without its temperature: of the surest 75"] * (temperature != 1)
        assert len(drawn) == (clips >= 1000)
        for one in drawn:
            assert [text for text in map(reading.text_of, one.iter("text")) if ": of " in text] == lines
            paths = [path.get("d") for path in one.iter("path")]
            assert paths[:2] == ["M0 100L100 0", "M55 50L95 7.5"] and len(paths) == len(lines)
    assert evaluations.Result("student", {"answers": []}).calibration_text == ""


def test_events_of_whole_recordings_are_on_the_page(made, tmp_path, capsys):
    """Of `train`, if its plan has them and they are of this student; and of the file alone."""
    run_, numbers = shutil.copytree(made[0], tmp_path / "run"), {"format": whole_recordings.FORMAT}
    answers = [Prediction(k / 2, k / 2 + 2, [("cut" if k % 9 else "wash", 0.9)]) for k in range(40)]
    acts = [data.Segment("", "v", 5.0 * k + 1, 5.0 * k + 4, "cut") for k in range(4)]
    own = {f"v{k}": (answers, [replace(one, wearer=f"P{k}") for one in acts], (1.0, 19.0 - k)) for k in range(6)}
    answered = {name: segmentation.Answered(*one) for name, one in own.items()}
    numbers |= whole_recordings.numbers_of(answered, events.Tracker(), 0.5)
    path = run_ / "student.recordings.json"
    path.write_text(json.dumps(numbers))
    run(capsys, "report", run_)
    assert "Whole recordings" not in reading.sections(run_ / "report.html")
    plan = report.read_plan(run_)
    plan["steps"].append(f"egodistill evaluate --recordings s --out {path}")
    (run_ / "train.json").write_text(json.dumps(plan))
    run(capsys, "report", run_)
    pages = [reading.sections(run_ / "report.html")["Whole recordings"]]
    said = run(capsys, "report", path)
    assert said.startswith("6 recordings of 6 wearers: 1:33 from the first")
    pages.append(reading.sections(path.with_name(f"{path.name}.html"))["Whole recordings"])
    for page in pages:
        text = reading.text_of(page)
        assert "an answer every 0.5 s; an event begins at a probability of 0.6, ends below 0.4" in text
        rows = [[reading.text_of(cell) for cell in row if cell.tag == "td"] for row in page.iter("tr")]
        cells = {row[0]: row[1:] for row in rows if row}
        assert cells["F1@50 (%)"][0] == f"{numbers['numbers']['f1_50']:.1f}" and "(" in cells["time right (%)"][1]
        assert cells["cut"][:2] == [str(numbers["by_class"]["cut"][what]) for what in ("segments", "events")]
        bars = reading.bars(reading.picture(page, "F1@50 by wearer"))
        assert sorted(name for name, *_ in bars) == [f"P{k}" for k in range(6)]
        assert [size for *_, size in bars] == sorted(size for *_, size in bars)  # the worst first
    os.utime(path, (1, 1))  # of an earlier student
    run(capsys, "report", run_)
    assert "Whole recordings" not in reading.sections(run_ / "report.html")


def test_what_a_file_must_be_to_have_a_page(tmp_path, capsys):
    (tmp_path / "y.safetensors").touch()
    (tmp_path / "x.json").write_text("{}")
    (tmp_path / "old.json").write_text('{"format": "egodistill evaluation 1", "top1": 0.5}')
    (tmp_path / "x.safetensors.html").write_text("mine")
    (tmp_path / "x.safetensors.jsonl").write_text('{"epoch": 1, "loss": 1.0}\n')
    for name, why in (
        (
            "y.safetensors",
            "y.safetensors: there is neither y.safetensors.jsonl nor a newer y.test.json beside it; give a model",
        ),
        ("none", "none: there is neither none.jsonl nor a newer none.test.json"),
        ("x.json", "x.json: not what `egodistill evaluate --out` writes"),
        ("old.json", "old.json: not what `egodistill evaluate --out` writes"),
        ("x.safetensors", "x.safetensors.html: "),
    ):
        assert cli.main(["report", str(tmp_path / name)]) == 1
        assert why in capsys.readouterr().err
    assert (tmp_path / "x.safetensors.html").read_text() == "mine"
    (tmp_path / "x.safetensors.html").unlink()
    run(capsys, "report", tmp_path / "x.safetensors")  # which is not there yet
    page = reading.sections(tmp_path / "x.safetensors.html")
    assert [one.text for one in page["Training"].iter("h3")] == ["x, running"]
    assert "Nothing is evaluated yet." in reading.text_of(page["Result"])


def test_the_table_of_the_data_counts_the_clips_of_the_store(made):
    run, store = made
    head, *found = reading.rows(next(read(run)[0]["Data"].iter("table")))
    assert head == ["split", "clips", "recordings", "wearers", "classes", "failed"] and len(found) == 2
    for split, *cells in found:
        clips = [clip for clip in store.clips if clip["split"] == split]
        wearers = {clip["wearer"] for clip in clips} - {None}
        counts = [
            len(clips),
            len({c["video"] for c in clips}),
            len(wearers) or "unknown",
            len({c["label"] for c in clips}),
            0,
        ]
        assert cells == [str(one) for one in counts]


def test_without_labels_the_page_has_the_agreement_and_no_classes(made, tmp_path):
    run = shutil.copytree(made[0], tmp_path / "run")
    agreement = {"teacher": "swin3d_t", "top1": 0.625, "clips": 8}
    for stem in ("student", "frames-alone"):
        content = {"format": evaluations.EVALUATION, "class_names": ["a"], "agreement": agreement}
        (run / f"{stem}.test.json").write_text(json.dumps(content))
    assert report.write_report(run).splitlines()[1].startswith("student: 62.5 % of 8 test clips without labels")
    page = reading.sections(run / "report.html")
    assert list(page) == ["Result", "Training", "Data", "How it was made"]
    assert list(reading.lines(page["Result"])) == ["--quick", "student", "frames alone"]
