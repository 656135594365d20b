"""What an evaluation is worth."""

import json
import math
import os
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import run

from egodistill import EgoDistill, data
from egodistill.commands import cli, evaluations, live, models

NAMES = ["cut", "peel", "wash"]


def result(*rows, name="student", **more):
    """A result with this confusion matrix."""
    pairs = [(k, j) for k, row in enumerate(rows) for j, count in enumerate(row) for _ in range(count)]
    answers = [{"id": "", "wearer": "", "label": k, "said": j, "score": 0.5} for k, j in pairs]
    return evaluations.Result(name, {"answers": answers, "class_names": NAMES, **more})


def test_one_answer_for_all_segments_is_told():
    trained = {"clips": 40, "epochs": 4}
    found = result((3, 0, 0), (4, 0, 0), (2, 0, 0), trained=trained)
    assert found.caveat == (
        "This student learnt nothing: it answers 'cut' for every segment. It was trained on 40 clips, 4 epochs."
    )
    teacher = result((3, 0, 0), (4, 0, 0), (2, 0, 0), name="teacher")
    assert teacher.caveat == "This teacher learnt nothing: it answers 'cut' for every segment."
    assert " learnt nothing" in result((2, 0, 0), (2, 0, 0), (2, 0, 0)).caveat
    for few in (((1, 0, 0), (2, 0, 0), (2, 0, 0)), ((9, 0, 0), (0, 0, 0), (0, 0, 0))):  # which may be luck, or right
        assert result(*few).caveat.startswith("The test does not show that this student learnt anything: always")


def doubted(*rows):
    return result(*rows).caveat.partition(" learnt ")[0].partition(" is ")[0]


def test_what_guesses_may_reach_shows_nothing():
    """Of all orders of the same answers, with two classes: as many right ones are a tail of the hypergeometric."""
    for right in range(11):  # of 20 segments in two halves, answered in halves
        luck = sum(math.comb(10, k) ** 2 for k in range(right, 11)) / math.comb(20, 10)
        found = doubted((right, 10 - right), (10 - right, right))
        assert abs(luck - 0.025) > 0.01 and found == (
            "The test does not show that this student" if luck > 0.025 else ""
        )
    assert doubted((6, 0), (0, 2)) == "The test does not show that this student"  # one order of 28
    assert doubted((6, 0), (0, 3)) == ""  # one of 84
    assert doubted((900, 50), (10, 40)) == "This student"  # it tells them apart, and one answer for all is better
    assert doubted((920, 30), (10, 40)) == ""


def test_counts_are_named():
    found = result((3, 1, 0), (2, 2, 0), (1, 1, 1)).caveat
    assert found == (
        "The test does not show that this student learnt anything: always answering 'cut' is right in 4 of 11 "
        "segments, this student in 6, and guesses may reach that."
    )
    assert result((900, 50), (10, 40)).caveat == (
        "This student is no better than one answer for all: always answering 'cut' is right in 950 of 1,000 segments, "
        "this student in 940."
    )
    assert (
        evaluations.Result("student", {"agreement": {}}).caveat == ""
        and not evaluations.Result("student", {}).baselines
    )


def test_rivals_are_the_teacher_chance_and_the_most_frequent_class():
    found = result((3, 1, 0), (2, 2, 0), (1, 1, 0), teachers={"teacher": 0.5, "x3d": 0.25}).baselines
    assert dict(found) == {
        "teacher": "50.0 %",
        "teacher x3d": "25.0 %",
        "always 'cut', the most frequent class": "40.0 %",
        "chance, one of 3 classes": "33.3 %",
    }


@pytest.mark.parametrize(("label", "possible"), [(1, 2), (0, 3)])
def test_chance_counts_a_class_of_background_only_if_segments_have_it(label, possible):
    answers = [{"label": one, "said": 2} for one in (label, 1, 2)]
    found = evaluations.Result(
        "student", {"class_names": ["(none)", "cut", "wash"], "background": 0, "answers": answers}
    )
    assert dict(found.baselines)[f"chance, one of {possible} classes"] == f"{100 / possible:.1f} %"


def test_evaluate_shows_and_writes_what_the_teacher_gets(taught, capsys):
    """Of segments with several clips: by the mean of their scores, in the classes of the store."""
    store = data.ClipStore("s")
    names, rows = store.class_names, [row for row, clip in enumerate(store.clips) if clip["label"]]
    logits = np.random.default_rng(3).normal(0, 2, (len(store), len(names))).astype(np.float32)
    store.write("small.logits", range(len(store)), logits)
    scores = torch.from_numpy(logits).softmax(1).numpy()
    options = {"image_encoder": "resnet10x4", "image_weights": None, "hidden": 16, "frame_size": 40, "feature_dim": 12}
    torch.manual_seed(0)
    student = EgoDistill(len(names), class_names=names[::-1], **options)  # other numbers for the same classes
    student.trained_by, student.trained_with = "distill", {"about": {"clips": 7}, "history": [{}, {}]}
    student.save("s.safetensors")
    out = run(capsys, *"evaluate s --split all --student s.safetensors --device cpu --out s.test.json".split())
    found = json.loads(Path("s.test.json").read_text())
    clips = {}
    for row in rows:
        clips.setdefault(store.clips[row]["id"], []).append(row)
    labels = {id: store.clips[own[0]]["label"] for id, own in clips.items()}
    right = [names[scores[own].mean(0).argmax()] == labels[id] for id, own in clips.items()]
    assert max(map(len, clips.values())) > 1 and found["teachers"] == {"small": pytest.approx(np.mean(right))}
    counts = {name: [*labels.values()].count(name) for name in names}
    always = 100 * max(counts.values()) / len(labels)
    assert f"teacher small: {100 * np.mean(right):.1f} %; always '" in out and f"class: {always:.1f} %; chance, " in out
    assert f"chance, one of {len(names)} classes: {100 / len(names):.1f} %" in out
    assert {one["id"]: found["class_names"][one["label"]] for one in found["answers"]} == labels
    with torch.no_grad():
        _, logits = student.eval()(*(torch.from_numpy(store.read(name, rows)) for name in ("frames_1", "imu")))
    own = logits.softmax(1).numpy()
    for one in found["answers"]:
        mean = own[[rows.index(row) for row in clips[one["id"]]]].mean(0)
        assert found["class_names"][one["said"]] == names[::-1][mean.argmax()]
        assert one["score"] == pytest.approx(mean.max(), rel=1e-3)
        assert one["wearer"] == store.clips[clips[one["id"]][0]]["wearer"]
    assert found["trained"] == {"clips": 7, "epochs": 2} and evaluations.Result("student", found).caveat in out


def test_a_student_that_learnt_nothing_is_named_when_it_is_used(taught, kitchen, capsys):
    """By `live` and `predict`, unless the evaluation is of an earlier training, or another file."""
    numbers = {"format": evaluations.EVALUATION} | result((3, 0, 0), (4, 0, 0), (2, 0, 0)).numbers
    told = "note: student.safetensors: This student learnt nothing: it answers 'cut' for every segment.\n"
    about = Namespace(student="student.safetensors", without=None, words=["egodistill", "predict"])

    def said():
        student = live.load_for_stream("student.safetensors", "cpu")
        page = models.about_prediction(about, student, data.Recording("a.mp4"))
        error = capsys.readouterr().err
        assert ("learnt nothing" in page.get("its evaluation", "")) == (told in error)
        return told in error

    assert not said()
    Path("student.test.json").write_text(json.dumps(numbers))
    assert said()
    words = [
        "predict",
        kitchen[0].video,
        "--imu",
        *kitchen[0].imu,
        "--student",
        "student.safetensors",
        "--device",
        "cpu",
    ]
    assert cli.main([str(word) for word in words]) == 0 and told in capsys.readouterr().err
    os.utime("student.test.json", (1e9, 1e9))
    assert not said()
    for other in ([1], {"answers": "mine"}, numbers | {"split": "train"}):
        Path("student.test.json").write_text(json.dumps(other))
        assert not said()
    Path("student.test.json").write_text('{"a": ')  # of another program, say: the student is none the worse
    assert live.load_for_stream("student.safetensors", "cpu") is not None
    assert "note: student.safetensors: student.test.json" in capsys.readouterr().err
