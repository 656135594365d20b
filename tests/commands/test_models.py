"""Commands for trained models: evaluate, export, measure, predict."""

import csv
import json
import re
import shutil
from pathlib import Path

import model_files
import numpy as np
import pytest
import torch
from commandline import any_input, run
from heads import write_log
from painted import relabel, write_table

from egodistill import EgoDistill, data, inference, teachers
from egodistill.commands import cli, evaluations, loading, models, training
from egodistill.engine import models as engine_models
from egodistill.support import tables


def test_measure_knows_students_and_teachers(files, tmp_path, capsys):
    kinds = {files / "student.safetensors": EgoDistill, files / "teacher.safetensors": teachers.Teacher}
    numbers, document = tmp_path / "costs.json", tmp_path / "R.md"
    words = ["--batch-size", 2, "--repeats", 1, "--precision", "bf16", "--out", numbers, "--markdown", document]
    out = run(
        capsys,
        "measure",
        "--student",
        files / "student.safetensors",
        "--teacher-file",
        files / "teacher.safetensors",
        *words,
    )
    found = json.loads(numbers.read_text())["models"]
    for file, kind in kinds.items():
        model, cost = engine_models.load_any(file), found[str(file)]
        assert type(model) is kind
        assert cost["params"] == sum(p.numel() for p in model.parameters()) and cost["precision"] == "bf16"
        assert f"{cost['params']:,}" in out and f"{100 * cost['feature_error']:.2f} %" in out
        assert 0 < cost["feature_error"] < 0.5 and "published" not in cost
    told, machine = " ".join(out.split()), tables.short_processor()
    assert "thop" not in out and "half of what torch's FlopCounterMode counts" in told
    assert re.search(r"at batch 2, bf16, on cpu; median of at least \d passes", told)
    sections = [f"measure own models bf16, {machine}", f"measure own models bf16 against fp32, {machine}"]
    assert re.findall("<!-- ([^/].*) -->", document.read_text(encoding="utf-8")) == sections
    words = ["--batch-size", 2, "--repeats", 1, "--precision", "fp32"]
    assert "Compared with" not in run(capsys, "measure", "--student", files / "student.safetensors", *words)


def test_measure_is_given_models(capsys):
    assert cli.main(["measure"]) == 1
    told = "egodistill measure: there is nothing to measure; give --student FILE or --teacher-file FILE"
    assert capsys.readouterr().err.strip() == told


def test_a_file_of_a_class_that_the_library_lacks_is_told_in_one_sentence(files, tmp_path, capsys):
    changed = tmp_path / "other.safetensors"
    model_files.change(files / "student.safetensors", lambda record, _: record.update({"class": "Rival"}), changed)
    for words in (["measure", "--student"], ["measure", "--teacher-file"], ["predict", __file__, "--student"]):
        assert cli.main([*words, str(changed)]) == 1
        said = capsys.readouterr().err.strip()
        told = "contains a model of the class Rival, which is not of this library; import the module that has it"
        assert said == f"egodistill {words[0]}: {changed} {told}"


def test_a_file_of_the_other_kind_says_so(files, monkeypatch, capsys):
    for module in (models, training):
        monkeypatch.setattr(module, "open_split", lambda path, split: None)
    any_input(monkeypatch)
    teacher, student = str(files / "teacher.safetensors"), str(files / "student.safetensors")
    for command, words in (
        (["evaluate", "s", "--student", teacher], "not a student; --student is for students"),
        (["evaluate", "s", "--teacher-file", student], "not a teacher; --teacher-file is for teachers"),
        (["extract", "s", "--teacher-file", student], "not a teacher; --teacher-file is for teachers"),
        (["measure", "--student", teacher], "not a student; --student is for students"),
        (["measure", "--teacher-file", student], "not a teacher; --teacher-file is for teachers"),
    ):
        assert cli.main(command) == 1
        assert words in capsys.readouterr().err, command


def test_predict_takes_tables_of_head_motion_and_tells_what_it_could_not_do(files, monkeypatch, capsys):
    given = []

    def predict(model, recording, **options):
        given.append((recording, options))
        yield inference.Prediction(0.0, 64 / 30, [("1", 0.75), ("0", 0.25)])
        yield inference.Prediction(64 / 30, 128 / 30, [], "no head motion, from 3.1 s on")

    monkeypatch.setattr(inference, "predict", predict)
    monkeypatch.chdir(files)
    any_input(monkeypatch)
    plain = {"precision": "auto", "compile": False, "max_hold": 1.0}
    command = ["predict", "a.mp4", "--student", "student.safetensors"]
    for imu in ([], ["a.csv"], ["a.csv", "g.csv"]):
        out = run(capsys, *command, *(["--imu", *imu] if imu else []), "--out", "rows.csv", "--overwrite")
    assert given == [
        (data.Recording("a.mp4", imu), {"top": 3, "exact": None, "tolerance": None} | plain)
        for imu in (None, "a.csv", ["a.csv", "g.csv"])
    ]
    assert out.splitlines()[1].endswith("s  skipped: no head motion, from 3.1 s on")
    with open("rows.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            "start stop class_1 score_1 class_2 score_2 class_3 score_3 problem inputs".split(),
            ["0.000", "2.133", "1", "0.75", "0", "0.25", "", "", "", ""],
            ["2.133", "4.267", *6 * [""], "no head motion, from 3.1 s on", ""],
        ]
    run(capsys, *command, "--stride", "0.5", "--top", "1", "--device", "cpu", "--precision", "bf16", "--compile")
    own = {"stride": 0.5, "top": 1, "exact": None, "tolerance": None, "max_hold": 1.0}
    assert given[-1][1] == own | {"device": "cpu", "precision": "bf16", "compile": True}
    options = "--imu-offset 0.2 --imu-stretch 1.001 --zero-accel --min-coverage 0.5 --max-gap 0.2 --max-hold 3"
    run(capsys, *command, *options.split(), "--key-frames")
    recording, own = given[-1]
    assert recording == data.Recording("a.mp4", None, 0.2, 1.001, zero_accel=True)
    assert {"min_coverage": 0.5, "max_gap": 0.2, "max_hold": 3.0, "exact": False}.items() <= own.items()


def test_predict_and_live_tell_what_is_unusual_about_the_samples(kitchen, tmp_path, capsys):
    video, table = shutil.copy(kitchen[0].video, tmp_path / "walk.mp4"), tmp_path / "walk.csv"
    rows = [[k / 200, 0.3, 0, 0, 0, 0, 0] for k in range(1400)]
    write_table(table, ["time", *(f"{sensor}{axis}" for sensor in "ag" for axis in "xyz")], rows)
    student = EgoDistill(2, feature_dim=8, image_encoder="resnet10x4", image_weights=None, hidden=8, frame_size=32)
    student.save(tmp_path / "student.safetensors")
    for command in (["predict"], ["live", "--fast"]):
        assert cli.main([*command, str(video), "--student", str(tmp_path / "student.safetensors")]) == 0
        error = capsys.readouterr().err
        assert f"note: {table}: mean acceleration 0.30 m/s2" in error and "the gyroscope is zero" in error


def test_skipped_clips_are_counted(files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    any_input(monkeypatch)
    lost = inference.Prediction(2.0, 4.0, [], "no head motion")
    for rows, code, told in (
        ([lost, lost], 1, "a.mp4: all 2 clips were skipped for the reasons above"),
        ([lost, inference.Prediction(0.0, 2.0, [("wash", 1.0)])], 0, "1 of 2 clips were skipped"),
        ([inference.Prediction(0.0, 2.0, [("wash", 0.0042), ("cut", 0.0040)])], 0, ""),
    ):
        monkeypatch.setattr(inference, "predict", lambda *_, rows=rows, **options: iter(rows))
        assert cli.main(["predict", "a.mp4", "--student", "student.safetensors"]) == code
        out, error = capsys.readouterr()
        assert told in error and ("skipped" in error) == bool(told)
    assert out.endswith("wash 0.0042  cut 0.0040\n")


def test_a_document_for_tables_is_markdown(tmp_path, capsys):
    (tmp_path / "student.safetensors").write_bytes(b"weights")
    assert cli.main(["measure", "--student", __file__, "--markdown", str(tmp_path / "student.safetensors")]) == 1
    assert "its name must end in .md" in capsys.readouterr().err
    assert (tmp_path / "student.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_predictions_are_written_as_they_come(suffix, files, monkeypatch, tmp_path, capsys):
    """What ends `predict` in its middle leaves the rows so far, in a file that can be read."""
    out, read = tmp_path / f"rows.{suffix}", []

    def predict(model, recording, **options):
        for k in range(3):
            problem = "a frame is lost" if k == 1 else None
            yield inference.Prediction(
                2.0 * k, 2.0 * k + 2, [] if problem else [("wash", 0.75), ("cut", 0.25)], problem
            )
            text = out.read_text()
            read.append(json.loads(text) if suffix == "json" else list(csv.DictReader(text.splitlines())))
        raise KeyboardInterrupt

    monkeypatch.setattr(inference, "predict", predict)
    monkeypatch.chdir(files)
    any_input(monkeypatch)
    out.write_text("start,stop,class_1\n" + 1000 * "an older and longer result\n")
    assert (
        cli.main(
            ["predict", "a.mp4", "--student", "student.safetensors", "--out", str(out), "--top", "2", "--overwrite"]
        )
        == 130
    )
    assert list(map(len, read)) == [1, 2, 3]
    last, lost = read[-1][-1], read[-1][1]
    if suffix == "json":
        assert last == {
            "start": 4.0,
            "stop": 6.0,
            "classes": [["wash", 0.75], ["cut", 0.25]],
            "problem": None,
            "inputs": [],
        }
        assert lost["classes"] == [] and json.loads(out.read_text()) == read[-1]
    else:
        assert last["class_1"] == "wash" and float(last["score_2"]) == 0.25 and last["problem"] == ""
        assert lost["problem"] == "a frame is lost" and out.read_text().count("\n") == 4


def test_an_error_before_the_first_prediction_leaves_an_earlier_result(files, monkeypatch, tmp_path, capsys):
    def predict(model, recording, **options):
        raise ValueError("no IMU")
        yield

    out = tmp_path / "rows.csv"
    out.write_text("start,stop,class_1\n")
    monkeypatch.setattr(inference, "predict", predict)
    monkeypatch.chdir(files)
    any_input(monkeypatch)
    words = ["predict", "a.mp4", "--student", "student.safetensors", "--out", str(out)]
    assert cli.main(words) == 1  # labels in it may have been corrected by hand
    assert f"{out}: already exists; give another path, or --overwrite" in capsys.readouterr().err
    assert cli.main([*words, "--overwrite"]) == 1
    assert "no IMU" in capsys.readouterr().err and out.read_text() == "start,stop,class_1\n"
    for header, told in (("start,stop,class_1,score_1", "no IMU"), ("time,ax,ay,az,gx,gy,gz", "may be the IMU")):
        Path("a.csv").write_text(header)  # beside a.mp4
        assert cli.main([*words[:-1], "a.csv", "--overwrite"]) == 1
        assert told in capsys.readouterr().err and Path("a.csv").read_text() == header
    Path("a.csv").unlink()


def test_an_output_that_grows_has_one_writer(files, monkeypatch, tmp_path, capsys):
    """Another command for the same file, also by another name, ends before it loads anything."""
    out = tmp_path / "rows.json"
    for name in ("link.json", "link.jsonl"):
        (tmp_path / name).symlink_to(out)

    def predict(model, recording, **options):
        yield inference.Prediction(0.0, 2.0, [("wash", 1.0)])
        capsys.readouterr()
        before = out.read_text()
        for command, name in (("predict", "rows.json"), ("predict", "link.json"), ("live", "link.jsonl")):
            words = [command, "no.mp4", "--student", "none", "--out", str(tmp_path / name), "--overwrite"]
            assert cli.main(words) == 1
            told = f"{out}: another process is writing it; wait for its end, or give another path"
            assert capsys.readouterr().err.strip() == f"egodistill {command}: {told}"
        assert out.read_text() == before and json.loads(before)[0]["start"] == 0.0

    monkeypatch.setattr(inference, "predict", predict)
    monkeypatch.chdir(files)
    any_input(monkeypatch)
    assert cli.main(["predict", "a.mp4", "--student", "student.safetensors", "--out", str(out)]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.json", "link.jsonl", "rows.json"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "export a.safetensors --check k --calibrate-split all --calibrate-clips 9",
            "--calibrate-split, --calibrate-clips: ",
        ),
        ("export a.safetensors --check-split all", "--check-split: only with --check STORE or --calibrate STORE"),
    ],
)
def test_options_that_would_be_ignored_are_errors(command, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "load_distilled", lambda path, own: None)
    any_input(monkeypatch)
    assert cli.main([*command.split(), "--out", "o.safetensors"]) == 1
    assert words in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command, told",
    [
        (
            "evaluate s --student student.safetensors --teacher small",
            "size 9, but that of the teacher 'small' has the size 12",
        ),
        (
            "evaluate s --student student.safetensors --teacher smal",
            "the store has no array 'smal.feature'; it has outputs of: small.",
        ),
        ("export teacher.safetensors --out x.pt2", "teacher.safetensors holds a teacher; give the file of a student"),
    ],
)
def test_what_does_not_fit_is_one_line(command, told, taught, capsys):
    assert cli.main([*command.split(), *(["--split", "test"] if " s " in command else [])]) == 1
    printed = capsys.readouterr()
    assert told in printed.err and "Traceback" not in printed.err, printed.err
    assert not (taught / "x.safetensors").exists()


def test_why_a_precision_was_chosen_is_said_once(monkeypatch, capsys):
    monkeypatch.setattr(loading.runtime, "bf16_speed", lambda device: (True, "it is said here alone"))
    for _ in range(3):  # steps of `train`
        loading.report_precision("auto", "cpu")
    assert capsys.readouterr().err == "precision bf16, because it is said here alone\n"


def test_a_stage_1_file_is_no_student(taught, capsys):
    """Its classifier is not trained; `distill --init` and other trainings take it."""
    model = EgoDistill.load("student.safetensors")
    for stage in ("pretrain_imu", "distill"):
        model.trained_by = stage
        model.save(f"{stage}.safetensors")
    told = (
        "pretrain_imu.safetensors holds the result of stage 1 (`egodistill pretrain`), whose classifier is not "
        "trained; make a student of it: egodistill distill STORE --teacher NAME --init pretrain_imu.safetensors "
        "--out student.safetensors"
    )
    for words in (
        "evaluate s --split test --student {}",
        "export {} --out x.pt2",
        "predict s/store.json --student {}",
        "live s/store.json --student {}",
        "measure --student {}",
    ):
        assert cli.main(words.format("pretrain_imu.safetensors").split()) == 1
        assert told in capsys.readouterr().err, words
    assert loading.load_distilled("distill.safetensors").trained_by == "distill"
    assert loading.load_start("pretrain_imu.safetensors").trained_by == "pretrain_imu"
    words = "distill s --teacher small --out x.safetensors --init pretrain_imu.safetensors"
    assert cli.main(words.split()) == 1 and "has a feature of 9 numbers" in capsys.readouterr().err  # it was opened


ODD = ["a\x1b[2Jb", "=1+1", "two\nlines", "\u202eright to left", "plain-name"]


def test_names_are_cleaned_for_terminals_and_tables_and_kept_in_json(files, monkeypatch, tmp_path, capsys):
    def predict(model, recording, **options):
        yield inference.Prediction(0.0, 2.0, [(name, 0.25) for name in ODD])
        yield inference.Prediction(2.0, 4.0, [], problem="@SUM(A1)\r\nnot read")

    monkeypatch.setattr(inference, "predict", predict)
    monkeypatch.chdir(files)
    any_input(monkeypatch)
    for out in (tmp_path / "p.csv", tmp_path / "p.json"):
        printed = run(capsys, "predict", "a.mp4", "--student", "student.safetensors", "--top", 5, "--out", out)
        first, second = printed.splitlines()
        names = ["a\\x1b[2Jb", "=1+1", "two\\nlines", "\\u202eright to left", "plain-name"]
        assert first.endswith("  ".join(f"{name} 0.25" for name in names))
        assert second.endswith("skipped: @SUM(A1)\\r\\nnot read")
    with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
        _, first, second = csv.reader(file)
    assert first[2:11:2] == ["a\\x1b[2Jb", "'=1+1", "two\\nlines", "\\u202eright to left", "plain-name"]
    assert second[-2] == "'@SUM(A1)\\r\\nnot read" and first[3] == "0.25"
    first, second = json.loads((tmp_path / "p.json").read_text())
    assert [name for name, _ in first["classes"]] == ODD and second["problem"] == "@SUM(A1)\r\nnot read"


def test_clips_with_some_of_a_students_classes_are_evaluated_in_them(taught, capsys):
    """Such as later recordings: labels are compared by name, and one that the student does not know is an error."""
    store = data.ClipStore("s")
    names = ["zzz", *reversed(store.class_names)]
    encoder = {"image_encoder": "resnet10x4", "image_weights": None, "hidden": 16, "frame_size": 40}
    options = {"feature_dim": 12, "imu_samples": store.specs["imu"].imu_samples}
    torch.manual_seed(0)
    student = EgoDistill(len(names), **encoder, **options, class_names=names)
    student.save("later.safetensors")
    words = ["evaluate", "s", "--split", "all", "--device", "cpu", "--precision", "fp32", "--out", "e.json"]
    out = run(capsys, *words, "--student", "later.safetensors")
    assert f"note: these clips have {len(names) - 1} of the {len(names)} classes of later.safetensors" in out
    found = json.loads(Path("e.json").read_text())
    assert found["class_names"] == names and len(found["confusion"]) == len(names)
    wanted = {clip["id"]: clip["label"] for clip in store.clips if clip["label"]}
    assert {one["id"]: names[one["label"]] for one in found["answers"]} == wanted
    assert "note: left out 1 clip without a label, because a teacher" in out
    view = store.with_classes(names)
    assert view.labels.tolist() == [names.index(clip["label"]) if clip["label"] else -1 for clip in store.clips]
    view = view.select(view.labels >= 0)
    result = inference.evaluate(student, view, device="cpu", precision="fp32", progress=False)
    assert result.top1 == found["top1"] == (result.scores.argmax(1) == result.labels).float().mean().item()
    assert view.split("test").class_names == names and store.class_names != names
    check = ["--check", "s", "--check-split", "all"]  # as of export
    assert re.search(
        r"later\.pt2 +export +fp32 +100\.00", run(capsys, "export", "later.safetensors", "--out", "later.pt2", *check)
    )
    with pytest.raises(data.DataError, match=r"small.logits' are of the store's own classes"):
        view.read("small.logits", [0])
    with pytest.raises(data.DataError, match=f"the label '{store.class_names[0]}' is none of the 1 classes"):
        store.with_classes(["zzz"])
    with pytest.raises(data.DataError, match="'zzz' is among the classes more than once"):
        store.with_classes([*names, "zzz"])
    with pytest.raises(data.DataError, match="without with_classes"):
        view.add("later.logits", (len(names),), "float32")
    names[1] = "other"  # in place of one that the clips have
    EgoDistill(len(names), **encoder, **options, class_names=names).save("other.safetensors")
    assert cli.main([*words, "--student", "other.safetensors"]) == 1
    said = capsys.readouterr().err
    assert (
        f"s: the label {store.class_names[-1]!r} is none of the {len(names)} classes, "
        "those of other.safetensors: ['zzz'" in said
    )
    assert (
        cli.main(["export", "other.safetensors", "--out", "other.pt2", *check]) == 1 and not Path("other.pt2").exists()
    )
    assert "correct the labels" in capsys.readouterr().err


def test_evaluation_prints_clean_names_and_writes_them_as_they_are(taught, capsys):
    names = [f"{name}\x07" for name in data.ClipStore("s").class_names]
    relabel(taught / "s", lambda segment: segment["label"] and segment["label"] + "\x07", names)
    store = data.ClipStore("s")
    encoder = {"image_encoder": "resnet10x4", "image_weights": None, "hidden": 16, "frame_size": 40}
    options = {"feature_dim": 12, "class_names": store.class_names, "imu_samples": store.specs["imu"].imu_samples}
    EgoDistill(len(store.class_names), **encoder, **options).save("other.safetensors")
    out = run(
        capsys,
        "evaluate",
        "s",
        "--split",
        "test",
        "--student",
        "other.safetensors",
        "--out",
        "e.json",
        "--device",
        "cpu",
    )
    assert "\\x07 " in out and "\x07" not in out
    assert json.loads((taught / "e.json").read_text())["class_names"] == names


def test_a_split_that_a_store_lacks_is_told_with_the_option_for_another(taught, capsys):
    for words, option in (("evaluate s --split dev", "--split"), ("export --out x.pt2 --check s", "--check-split")):
        words = words.replace("export", "export student.safetensors").replace(
            "evaluate", "evaluate --student student.safetensors"
        )
        dev = ["--check-split", "dev"] if "export" in words else []
        assert cli.main([*words.split(), *dev]) == 1
        assert f"there are test, train: give one of them ({option} test)" in capsys.readouterr().err


def test_a_store_that_is_not_finished_is_a_note(taught, capsys, recwarn):
    splits = [clip["split"] for clip in data.ClipStore("s").clips]
    data.StoreWriter("s").reset(np.flatnonzero(np.array(splits) == "test"))
    missing = splits.count("test")
    for split in ("train", "test"):
        cli.main(["evaluate", "s", "--student", "student.safetensors", "--split", split, "--device", "cpu"])
        told = capsys.readouterr()
        note = f"note: s: {missing} of 12 clips are not prepared yet; the same call of prepare() (`egodistill"
        assert (told.out + told.err).count(note) == 1 and "UserWarning" not in told.err and not recwarn.list
    assert f"the split 'test'; {missing} of its clips are not prepared yet; the same call of" in told.err


def test_predict_of_head_motion_alone(tmp_path, monkeypatch, capsys):
    """From the first sample on, by the times of the samples; a page without pictures, with labels of a table."""
    monkeypatch.chdir(tmp_path)
    model = EgoDistill(2, image_encoder=None, imu_encoder="filterbank", hidden=8, class_names=["run", "walk"])
    model.save("s.safetensors")
    write_log("log.csv", begin=300.0, seconds=9.0, rate=100.0)
    columns = "video imu start stop label".split()
    write_table(tmp_path / "t.csv", columns, [("", "log.csv", 300, 304, "walk"), ("", "log.csv", 304, 308, "run")])
    words = ["predict", "--imu", "log.csv", "--student", "s.safetensors", "--precision", "fp32"]
    out = run(capsys, *words, "--html", "p.html", "--out", "p.csv", "--subtitles", "p.vtt", "--labels", "t.csv")
    assert out.split()[:3] == ["300.00", "302.13", "s"] and "skipped" not in out
    starts = [float(row["start"]) for row in csv.DictReader(Path("p.csv").read_text().splitlines())]
    assert starts == pytest.approx([300, 302.133, 304.267, 306.4, 306.857], abs=1e-3)
    page = Path("p.html").read_text()
    assert "log.csv" in page and "<video" not in page and "turns of the head" in page and "labelled" in page
    for more, said in (
        (["--preview", "x.mp4", "--html", "q.html"], "--preview: log.csv has no video"),
        (
            ["--student", "frames.safetensors"],
            "log.csv: the recording has no video, and the model reads frames; give both",
        ),
    ):
        EgoDistill(2, image_encoder="resnet10x4", image_weights=None, hidden=8, frame_size=32).save(
            "frames.safetensors"
        )
        assert cli.main([*words, *more]) == 1
        assert said in " ".join(capsys.readouterr().err.split())
    assert cli.main(["predict", "--student", "s.safetensors"]) == 1
    assert "an IMU without a video as imu (--imu)" in " ".join(capsys.readouterr().err.split())


def test_a_student_of_optional_inputs_is_asked_without_one(taught, kitchen, capsys):
    torch.manual_seed(3)
    names = data.ClipStore("s").class_names
    encoder = {"image_encoder": "resnet10x4", "image_weights": None, "hidden": 16, "frame_size": 40}
    model = EgoDistill(len(names), class_names=names, feature_dim=9, optional_inputs=True, **encoder).eval()
    for stand_in in (model.no_frames, model.no_imu):
        torch.nn.init.normal_(stand_in, std=3.0)
    model.save("o.safetensors")
    video, clips = kitchen[0].video, data.ClipStore("s").split("test")
    for name in ("imu", "frames"):
        how = "--out", f"{name}.json", "--precision", "fp32"
        run(capsys, "evaluate", "s", "--student", "o.safetensors", "--without", name, *how)
        found = json.loads(Path(f"{name}.json").read_text())
        top1 = inference.evaluate(model.without(name), clips, precision="fp32", progress=False).top1
        assert found["without"] == name and found["top1"] == pytest.approx(top1)
        run(capsys, "report", f"{name}.json")
        (page,) = Path().glob(f"*{name}*.html")
        assert f"student without {name}" in page.read_text()
        shutil.copy(f"{name}.json", "o.test.json")
        assert evaluations.read_result("o.safetensors") is None  # it is not the student's own
        how = "--precision", "fp32"
        run(capsys, "predict", video, "--student", "o.safetensors", "--without", name, "--out", f"{name}.csv", *how)
        own = list(inference.predict(model.without(name), data.open_recording(video), precision="fp32"))
        with open(f"{name}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["class_1"] for row in rows] == [one.classes[0][0] for one in own]
        assert [float(row["score_1"]) for row in rows] == pytest.approx([one.classes[0][1] for one in own], abs=1e-4)
    for words, told in (
        (
            ("predict", video, "--student", "student.safetensors", "--without", "imu"),
            "student.safetensors needs frames and imu",
        ),
        (
            ("evaluate", "s", "--teacher-file", "teacher.safetensors", "--without", "imu"),
            "--without: only with --student",
        ),
        (
            (
                "evaluate",
                "--recordings",
                "t.csv",
                "--student",
                "o.safetensors",
                "--without",
                "imu",
                "--save-thresholds",
            ),
            "--without: not with --save-thresholds",
        ),
    ):
        Path("t.csv").touch()
        assert cli.main([str(word) for word in words]) and told in capsys.readouterr().err
