"""`evaluate --recordings`: what is measured, thresholds that are chosen, and what is refused."""

import csv
import json
import re

import numpy as np
import pytest
import torch
from commandline import run

from egodistill import EgoDistill, data, inference
from egodistill.commands import cli, whole_recordings
from egodistill.deploy import events, segmentation
from egodistill.deploy.stream import Answer
from egodistill.engine import calibration
from egodistill.inference import Prediction

CLIP, NAMES = 64 / 30, ["wash", "cut", "take", "(none)"]
ACTS = {"calibration": [("wash", 1.5, 2.5), ("cut", 3.5, 4.5)], "test": [("cut", 1.5, 3.0), ("take", 3.5, 4.5)]}


@pytest.fixture
def student(tmp_path):
    torch.manual_seed(0)
    small = {"image_encoder": "resnet10x4", "image_weights": None, "frame_size": 40, "hidden": 32, "imu_width": 4}
    EgoDistill(4, feature_dim=16, class_names=NAMES, **small).save(tmp_path / "student.safetensors")
    return tmp_path / "student.safetensors"


@pytest.fixture
def table(kitchen, tmp_path):
    """Two recordings for the calibration, one for the test, and in each a segment of a class."""

    def write(acts=ACTS, splits=("calibration", "calibration", "test")):
        rows = []
        for one, split in zip(kitchen[::3], splits, strict=True):
            for label, start, stop in acts[split]:
                rows.append([one.video, start, stop, label, ";".join(one.imu), split, one.wearer])
        with open(tmp_path / "segments.csv", "w", newline="") as file:
            csv.writer(file).writerows([["video", "start", "stop", "label", "imu", "split", "wearer"], *rows])
        return tmp_path / "segments.csv"

    return write


@pytest.fixture
def oracle(monkeypatch):
    """A student that knows the acts, and takes background for a class with a probability of 0.65."""
    asked = []

    def predict(model, recording, *, stride, top, **options):
        asked.append({"video": recording.video, "stride": stride, "top": top, **options})
        acts = ACTS["test" if "P30" in recording.video else "calibration"]
        for start in np.arange(0, 6 - CLIP, stride).tolist():
            middle = start + CLIP / 2
            label = next((name for name, *span in acts if span[0] <= middle < span[1]), None)
            sure = 0.75 if label else 0.65
            yield Prediction(start, start + CLIP, [(label or "wash", sure), ("(none)", 1 - sure)])

    monkeypatch.setattr(inference, "predict", predict)
    return asked


def test_events_are_those_of_predict_on_the_same_recordings(table, student, tmp_path, kitchen, capsys):
    """The student's own answers: what is printed and written is what `predict()`, `events()` and `measure()` give."""
    words = ["--student", student, "--stride", 0.25, "--event-start", 0.26, "--precision", "fp32", "--device", "cpu"]
    text = run(capsys, "evaluate", "--recordings", table(), *words, "--out", tmp_path / "r.json")
    found = load(tmp_path / "r.json")
    model, recording = EgoDistill.load(student), kitchen[6].recording
    answers = inference.predict(model, recording, stride=0.25, top=4, precision="fp32", device="cpu")
    wanted = [*events.events(answers, start=0.26, end=0.26 * 2 / 3)]
    (row,) = found["recordings"]
    assert [events.Event(**one) for one in row["events"]] == wanted and wanted
    acts = [data.Segment("", "v.mp4", start, stop, label) for label, start, stop in ACTS["test"]]
    score = segmentation.score_events(wanted, acts, (1.5, 4.5))
    assert row["numbers"] == found["numbers"] == found["by_wearer"]["P30"] == score.numbers()
    assert found["by_class"] == score.by_class() and (row["from"], row["to"], row["skipped_clips"]) == (1.5, 4.5, 0)
    assert found["thresholds"]["stride"] == 0.25 and found["seconds"] == 3.0 and found["labelled_seconds"] == 2.5
    assert "1 recording of 1 wearer: 0:03 from the first to the last segment of each, 83% of it labelled" in " ".join(
        text.split()
    )
    assert all(name in text for name in segmentation.METRICS.values()) and "too few" in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("note: ")) <= 100


def test_thresholds_are_chosen_on_the_calibration_and_used_on_the_test(table, student, oracle, capsys):
    words = ["evaluate", "--recordings", table(), "--student", student]
    before, since = run(capsys, *words), student.stat().st_mtime_ns
    assert {one["stride"] for one in oracle} == {events.EVERY} and "P30" in oracle[0]["video"] and len(oracle) == 1
    run(capsys, *words, "--split", "calibration", "--save-thresholds")
    assert [one["video"].count("P30") for one in oracle[1:]] == [0, 0] and oracle[1]["top"] >= segmentation.TOP
    saved = EgoDistill.load(student).calibration.events
    assert saved == {"start": 0.7, "end": 0.7, "min_seconds": 1.0, "max_pause": 1.0, "stride": 0.5}
    written = student.read_bytes()
    run(capsys, *words, "--split", "calibration", "--save-thresholds")
    assert student.read_bytes() == written  # nothing has changed
    assert student.stat().st_mtime_ns == since  # evaluations of its weights are not older than these
    assert f1_of(run(capsys, *words)) == 100.0 >= f1_of(before)
    assert cli.main(list(map(str, [*words, "--stride", 0.25]))) == 0
    printed = capsys.readouterr()
    assert "of its file hold for an answer every 0.5 s, not 0.25 s" in printed.err and oracle[-1]["stride"] == 0.25


def test_the_thresholds_of_a_student_are_those_of_predict_and_live(table, student, tmp_path, kitchen, capsys):
    """The events of all three from the same answers are the same; answers at another stride have the defaults."""
    own = {"start": 0.27, "end": 0.26, "min_seconds": 0.25, "max_pause": 0.5, "stride": 0.25}
    model = EgoDistill.load(student)
    model.calibration = calibration.Calibration(events=own)
    model.save(student)
    recording, words = kitchen[6].recording, ["--student", student, "--precision", "fp32", "--device", "cpu"]
    run(capsys, "evaluate", "--recordings", table(), *words, "--out", tmp_path / "r.json")
    (row,) = load(tmp_path / "r.json")["recordings"]
    words = [recording.video, "--imu", *recording.imu, *words]
    texts = run(capsys, "predict", *words, "--events", "--out", tmp_path / "p.json", "--subtitles", tmp_path / "p.vtt")
    found = [events.Event(one["start"], one["stop"], *one["classes"][0]) for one in load(tmp_path / "p.json")]
    assert found == [events.Event(**one) for one in row["events"]] and found
    assert len(texts.splitlines()) == len(found) and (tmp_path / "p.vtt").read_text().count("-->") == len(found)

    # live begins at its first sample, so its answers are asked for; all of them are about the same clips.
    run(capsys, "live", *words, "--fast", "--every", 0.25, "--top", 4, "--out", tmp_path / "answers.jsonl")
    answers = [Answer(**json.loads(line)) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    wanted = [*events.events(answers, start=0.27, end=0.26, min_seconds=0.25, max_pause=0.5)]
    run(capsys, "live", *words, "--fast", "--every", 0.25, "--top", 1, "--events", "--out", tmp_path / "e.jsonl")
    lasting = [events.Event(**json.loads(line)) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert lasting == wanted and {one.label for one in wanted} == {one.label for one in found}
    for command in (["predict", "--stride", 0.5], ["live", "--fast", "--every", 0.5]):
        assert cli.main(list(map(str, [*command, *words, "--events"]))) == 0
        assert f"{events.Tracker()}: thresholds by default, since those of its file hold" in capsys.readouterr().err
    assert cli.main(list(map(str, ["predict", *words, "--events", "--event-start", 0.99]))) == 0
    printed = capsys.readouterr()
    assert not printed.out and "note: there is no event" in printed.err


def load(path):
    return json.loads(path.read_text())


def f1_of(text):
    return float(next(line for line in text.splitlines() if line.startswith("F1@50 (%)")).split()[2])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--split test --save-thresholds", "what is chosen on the test says nothing"),
        ("--split all --save-thresholds", "what is chosen on the test says nothing"),
        ("--split train --save-thresholds", "a model is too sure"),
        ("--split calibration --save-thresholds --event-start 0.5", "--event-start: not with --save-thresholds"),
        ("--split nothing", "no recording has segments of the split nothing without rows"),
        ("--teacher t", "--teacher: not with --recordings"),
        ("--split calibration --save-thresholds --student glasses", "glasses ships with the library; give a copy"),
    ],
)
def test_what_is_refused(words, told, table, student, oracle, capsys):
    content = student.read_bytes()
    assert cli.main(["evaluate", "--recordings", str(table()), "--student", str(student), *words.split()]) == 1
    assert told in capsys.readouterr().err and not oracle and student.read_bytes() == content


def test_a_store_or_recordings(student, capsys):
    assert cli.main(["evaluate", "--student", str(student)]) == 1
    assert "give a clip store, or --recordings TABLE" in capsys.readouterr().err


def test_only_recordings_that_are_labelled_throughout_are_measured(table, student, oracle, tmp_path, capsys):
    """Neither parts of other splits nor unlabelled ones count as background."""
    acts = ACTS | {"other": [("cut", 1.5, 2.0), ("", 2.5, 3.0), ("take", 3.5, 4.5)]}
    words = ["--student", student, "--split", "all", "--out", tmp_path / "r.json"]
    run(capsys, "evaluate", "--recordings", table(acts, ("other", "calibration", "test")), *words)
    assert [row["wearer"] for row in load(tmp_path / "r.json")["recordings"]] == ["P02", "P30"]
    path = table(
        acts | {"other": [("cut", 1.5, 2.0), ("wash", 2.5, 3.0), ("take", 3.5, 4.5)]}, ("other", "test", "test")
    )
    path.write_text(re.sub("(,wash,.*),other,", r"\1,train,", path.read_text()).replace(",other,", ",test,"))
    run(capsys, "evaluate", "--recordings", path, "--student", student, "--out", tmp_path / "r.json")
    assert [row["wearer"] for row in load(tmp_path / "r.json")["recordings"]] == ["P02", "P30"]
    path = table(ACTS, ("test", "test", "test"))
    path.write_text(path.read_text().replace(",test,", ",train,", 1))  # the first segment: outside of those of the test
    run(capsys, "evaluate", "--recordings", path, "--student", student, "--out", tmp_path / "r.json")
    rows = load(tmp_path / "r.json")["recordings"]
    assert [(row["wearer"], row["from"]) for row in rows] == [("P01", 3.5), ("P02", 1.5), ("P30", 1.5)]


def test_a_store_has_the_recordings_of_its_clips(kitchen, store, student, oracle, tmp_path, capsys):
    words = ["--student", student, "--out", tmp_path / "r.json"]
    assert cli.main(list(map(str, ["evaluate", "--recordings", store.path, *words]))) == 0
    assert "the student has no class" not in capsys.readouterr().err
    (row,) = load(tmp_path / "r.json")["recordings"]
    assert (row["recording"], row["from"], row["to"]) == (kitchen[8].video, 0.5, 6.0)


def test_clocks_and_axes_are_corrected_as_those_of_clips(table, store, student, monkeypatch, kitchen, tmp_path, capsys):
    """A student learned from corrected samples; of a table they are corrected by the same options as for `prepare`."""
    asked = []
    monkeypatch.setattr(inference, "predict", lambda model, recording, **_: asked.append(recording) or iter(()))
    (tmp_path / "offsets.csv").write_text(f"video,imu_offset\n{kitchen[6].video},0.25\n")
    words = ["evaluate", "--student", student, "--recordings"]
    more = ["--imu-offsets", tmp_path / "offsets.csv", "--imu-axes", "XZy"]
    run(capsys, *words, table(), *more)
    assert [(one.video, one.imu_offset, one.imu_axes) for one in asked] == [(kitchen[6].video, 0.25, "XZy")]
    assert cli.main(list(map(str, [*words, store.path, *more]))) == 1
    assert "--imu-axes, --imu-offsets: a store has those with which it was made" in capsys.readouterr().err


def test_a_recording_that_cannot_be_read_ends_nothing(table, student, oracle, monkeypatch, tmp_path, capsys):
    usual = inference.predict

    def predict(model, recording, **options):
        if "P01" in recording.video:
            raise whole_recordings.VideoError(f"{recording.video}: damaged")
        return usual(model, recording, **options)

    monkeypatch.setattr(inference, "predict", predict)
    words = ["--student", student, "--split", "calibration", "--out", tmp_path / "r.json"]
    assert cli.main(list(map(str, ["evaluate", "--recordings", table(), *words]))) == 0
    assert "P01_101.MP4: damaged" in capsys.readouterr().err
    assert len(load(tmp_path / "r.json")["recordings"]) == 1


def test_a_mean_over_wearers_has_an_interval_from_five_on():
    values = [60.0, 70.0, None, 80.0, 90.0]
    assert whole_recordings.over_wearers(values, 100) == "too few" and whole_recordings.over_wearers([None], 100) == "-"
    assert whole_recordings.over_wearers([*values, 75.0], 88) == "75.0 (61.1 to 88.0)"


def test_a_store_of_a_part_of_its_table_is_not_measured(table, student, oracle, tmp_path, capsys):
    """What happens in the rows that are left out would count as background."""
    for name, words in (("whole", []), ("part", ["--subsample", "2"])):
        run(capsys, "prepare", table(), "--out", tmp_path / name, "--no-frames", *words)
    words = ["evaluate", "--student", student, "--split", "all", "--recordings"]
    assert cli.main(list(map(str, [*words, tmp_path / "part"]))) == 1
    assert "lacks rows of its table" in capsys.readouterr().err and not oracle
    for name, more in (("whole", []), ("part", ["--sparse"])):
        run(capsys, *words, tmp_path / name, *more)
