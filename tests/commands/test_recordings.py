"""Commands for recordings and stores: check, transcode, segments, prepare, status; whole roads on real recordings."""

import argparse
import csv
import json
import os
import re
import shutil
import sys
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import mine
import numpy as np
import pytest
import small_teachers
import torch
from commandline import any_input, auto, run, small_student
from miniature import weights
from painted import files_of, row_of, status_of, write_table
from panned import RATE, gyroscope, pan
from published_i3d import unit_norms, write_published

import egodistill.commands.recordings
from egodistill import EgoDistill, data, inference, teachers
from egodistill.commands import cli
from egodistill.datasets import table_checks
from egodistill.datasets.store_files import StoreFiles
from egodistill.imu import IMU_READERS
from egodistill.recordings import READERS, checks
from egodistill.recordings.offset import Offset
from egodistill.support import custom
from egodistill.world import behaviour, synthetic


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "1e9", "soon"])
def test_status_measures_over_a_time(value, capsys):
    with pytest.raises(SystemExit):
        cli.main(["status", "store", "--seconds", value])
    assert f"--seconds: {value!r} is not a number of seconds above 0" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow("every command on a real recording")
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
    assert f"{store}: 5 clips (2 test, 3 train) from 1 video, " in out and "2 classes" in out
    opened = data.ClipStore(store)
    assert opened.class_names == ["turn", "walk"]
    assert opened.read("clip", [0]).shape == (1, 8, 3, 64, 64)
    assert opened.read("imu", [0])[0, :, 2].mean() == pytest.approx(9.8, abs=1)  # Z is up

    teacher, start, student = (tmp_path / f"{name}.safetensors" for name in ("teacher", "imu", "student"))
    short = ["--epochs", 1, "--batch-size", 2, "--learning-rate", 1e-4]
    finetune = ["finetune", store, "--out", teacher, "--name", "slowfast", *short]
    finetune += ["--option", "width=8", "beta=4", "depths=(1,1,1,1)"]
    assert re.match(rf"{teacher}: loss \d.*, top-1 in training", run(capsys, *finetune))
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
    assert re.match(rf"{student}: loss \d.*, top-1 in training", out)
    # It starts from stage 1, from which two steps of 1e-4 lead nowhere else.
    model = EgoDistill.load(student)
    moved = [float((value - weights(start)[name]).detach().abs().max()) for name, value in model.named_parameters()]
    assert 0 < max(moved) < 1e-3
    frames_only = tmp_path / "frames.safetensors"
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
    assert re.search(rf"student.safetensors +{cost.gmacs:.4f} +{cost.params:,} +\d+\.\d\d\n", out)
    assert "teacher.safetensors" in out and "half of what torch's FlopCounterMode counts" in out

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
    keen.save(tmp_path / "keen.safetensors")
    scores = inference.evaluate(keen, data.ClipStore(store).split("test"), progress=False).scores
    run(capsys, "predict", video, "--student", tmp_path / "keen.safetensors", "--out", tmp_path / "keen.json")
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
    assert re.search(r"^test +1 +2 +0:02 +1.00 +1.00 to 1.00 +2$", out, re.MULTILINE)
    assert re.search(r"^turn +1 +1$", out, re.MULTILINE) and "left out, rejected: 1 segment\n" in out
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
    assert "4 clips (2 test, 2 train) from 1 video, " in out
    own = tmp_path / "own.csv"
    own.write_text("video,start,stop,label\n")
    assert cli.main(["segments", str(own), "--min-instances", "2"]) == 1
    assert "min_instances (--min-instances) is for public data sets" in capsys.readouterr().err
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


@pytest.mark.slow("a rendered world, checked twice")
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
    assert offsets.read_text().startswith("video,imu_offset,#measured\n")
    (moved,) = data.with_imu_offsets([data.Segment("a", video, 0, 2, imu=imu)], offsets)
    ((_, written, _),) = list(csv.reader(offsets.open(newline="")))[1:]
    assert moved.imu_offset == float(written) and f"{float(written):+.3f}" in row
    video.rename(video.with_name("P01_101.MP4"))
    asked = ["check", world.annotations, "--root", world.root, "--no-offset"]
    rows = run(capsys, *asked).splitlines()
    count = len({s.video for s in data.read_epic_kitchens(world.annotations, world.root)})
    assert sum("MP4 " in row for row in rows) == count and rows[-1] == f"axes: {count} undecided"
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
    assert cli.main(["check", str(gopro), str(empty), "--imu", str(empty)]) == 1
    assert "list them in a table instead" in capsys.readouterr().err


def test_a_table_without_labels_is_told(steady, tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_text(f"video,start,stop,label\n{steady},0,3,\n")
    assert run(capsys, "segments", table).splitlines()[-1].startswith("no segment has a label: students learn")
    out = run(capsys, "prepare", table, "--out", tmp_path / "s", "--no-imu", "--frame-size", 32, "--workers", 1)
    assert "0 classes\n  no segment has a label" in out


@pytest.mark.parametrize(("split", "count", "said"), [("train", 3, "2"), ("test", 3, "1"), ("test", 12, "0")])
def test_few_clips_and_no_test_split_are_said(split, count, said, steady, tmp_path, capsys):
    rows = [f"{steady},{k / 4},{k / 4 + 0.2},{('walk', 'run')[k % 2]},train\n" for k in range(2 * count)]
    table = tmp_path / "t.csv"
    table.write_text("video,start,stop,label,split\n" + "".join(rows) + f"{steady},5.5,5.7,walk,{split}\n")
    out = run(capsys, "segments", table)
    assert out.count("warning: ") == int(said)
    assert ("no split test" in out) == (split == "train") and ("with a label, for 2 classes." in out) == (count == 3)


def test_a_table_without_training_segments_is_told_and_refused_by_train(steady, tmp_path, capsys):
    table = tmp_path / "t.csv"
    table.write_text(f"video,start,stop,label,split\n{steady},0,3,walk,test\n{steady},3,6,look,test\n")
    assert "warning: there is no split train, so students cannot learn from these segments" in run(
        capsys, "segments", table
    )
    for words in (["segments", "--strict"], ["train", "--out", tmp_path / "run"]):
        assert cli.main([*map(str, [words[0], table, *words[1:]])]) == 1
        assert f"{table}: no segment has the split train, only test; give some the split" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_share_of_a_store_is_not_said_to_lack_a_split(steady, tmp_path, monkeypatch, capsys):
    for name in "abcde":
        shutil.copy(steady, tmp_path / f"{name}.mp4")
    table = tmp_path / "t.csv"
    rows = [f"{name}.mp4,0,3,walk,{'test' if name == 'e' else 'train'}\n" for name in "abcde"]  # e: another shard
    table.write_text("video,start,stop,label,split\n" + "".join(rows))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ["--no-imu", "--frame-size", 32, "--workers", 1]
    out = run(capsys, "prepare", table, "--out", tmp_path / "s", *words)
    assert "missing: " in out and "no split" not in out


def test_a_copy_is_told_which_tables_it_lacks(kitchen, steady, tmp_path, capsys):
    shutil.copy(kitchen[0].video, tmp_path / "walk.mp4")
    write_table(
        tmp_path / "walk.csv", "time ax ay az gx gy gz".split(), [(k / 100, 0, 0, 9.8, 0, 0, 0) for k in range(600)]
    )
    shutil.copy(steady, tmp_path / "bare.mp4")
    videos = [tmp_path / "walk.mp4", tmp_path / "bare.mp4"]
    said = run(capsys, "transcode", *videos, "--out", tmp_path / "small", "--short-side", 32)
    assert f"note: {tmp_path / 'small' / 'walk.mp4'}: its IMU stays with the original; copy walk.csv beside it" in said
    assert said.count("note: ") == 1


def test_a_store_knows_its_files_by_other_paths(kitchen, tmp_path, monkeypatch):
    """Absolute, or by way of another folder, and in another working folder."""
    monkeypatch.chdir(Path(kitchen[0].video).parent)
    names = [(Path(one.video).name, tuple(map(os.path.basename, one.imu))) for one in kitchen[:2]]
    segments = [replace(one, video=video, imu=imu) for one, (video, imu) in zip(kitchen, names, strict=False)]
    options = {"frame_size": 32, "workers": 1, "progress": False}
    store = data.prepare(segments, tmp_path / "s", **options)
    before = files_of(store.path)
    monkeypatch.setattr(data, "fill", None)  # nothing is decoded again
    detour = [replace(one, video=f"../{Path.cwd().name}/{one.video}") for one in segments]
    for same in (kitchen[:2], detour):
        data.prepare(same, tmp_path / "s", **options)
        data.prepare(same, tmp_path / "s", **options, retry_failed=True)
    assert files_of(store.path) == before
    monkeypatch.chdir(tmp_path)
    data.prepare(kitchen[:2], tmp_path / "s", **options)
    assert files_of(store.path) == before


@pytest.mark.parametrize(
    ("count", "labels", "said"), [(3, {None: 49}, 1), (3, {None: 50}, 0), (9, {None: 9, "a": 10}, 0)]
)
def test_few_clips_without_labels_are_said(count, labels, said):
    found = list(
        egodistill.commands.recordings.split_warnings({"train": Counter(labels), "test": Counter({None: count})})
    )
    assert len(found) == said and all("few for a student: 49 training clips, without labels" in one for one in found)


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


def test_check_takes_the_rows_of_a_table_as_prepare_does(films, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(films)
    write_table(tmp_path / "t.csv", ("video", "start", "stop", "label"), [(films / "walk.mp4", 0, 4, "a")])
    beside, alone = (
        next(line for line in run(capsys, "check", one, "--no-offset").splitlines() if "mp4 " in line)
        for one in (tmp_path / "t.csv", "walk.mp4")
    )
    assert beside.split()[1:] == alone.split()[1:] and "no IMU" not in beside
    (tmp_path / "neon").mkdir()
    for name in ("imu.csv", "world_timestamps.csv", "scene.mp4"):
        (tmp_path / "neon" / name).write_text("timestamp [ns]\n1\n2\n")
    (tmp_path / "a.vrs").write_bytes(b"VisionRe")
    for broken, why in (("neon", "cannot be opened"), ("a.vrs", "convert it first")):
        assert cli.main(["check", str(tmp_path / broken), "walk.mp4", "--no-offset"]) == 1
        said = capsys.readouterr()
        assert why in " ".join(said.out.split()) and "\nwalk.mp4" in said.out and "1 of 2 recordings" in said.err
    for several in ([films], [tmp_path / "t.csv"], ["walk.mp4", "cook.mp4"]):
        assert cli.main(["check", *map(str, several), "--imu", "walk.csv"]) == 1
        assert "--imu is for a single video" in capsys.readouterr().err


def test_an_export_of_a_tool_takes_the_place_of_a_table(films, tmp_path, capsys):
    rows = [
        f"{tier}\t\t{start:.1f}\t{start + 3:.1f}\t{label}\t{name}.eaf"
        for name in ("walk", "cook")
        for tier, start, label in (("steps", 0, "go"), ("steps", 4, "stop"), ("hands", 4, "put"))
    ]
    export, store = tmp_path / "all.txt", tmp_path / "s"
    export.write_text("\n".join([*rows, "steps\t\t8.0\t8.0\tjump\twalk.eaf"]) + "\n")
    chosen = [export, "--root", films, "--tier", "steps"]
    assert cli.main(["segments", *map(str, chosen[:3])]) == 1
    assert "line 6: 'put' of 'hands' overlaps 'stop' of 'steps' (line 5)" in capsys.readouterr().err
    assert "left out, a point event: 1 segment" in run(capsys, "segments", *chosen)
    out = run(capsys, "prepare", *chosen, "--out", store, "--frame-size", 32, "--workers", 1)
    assert "(4 test, 4 train) from 2 videos" in out and data.ClipStore(store).class_names == ["go", "stop"]
    out = run(capsys, "check", *chosen, "--no-offset")
    assert all(f"{name}.mp4" in out for name in ("walk", "cook")) and "no IMU" not in out


TABLE = "video,start,stop,label,split\n"


def test_segments_and_prepare_say_the_same_of_a_table(films, tmp_path, capsys):
    table, store = tmp_path / "t.csv", tmp_path / "s"
    small = ["--no-imu", "--frame-size", 32, "--workers", 1]
    rows = [f"{films}/walk.mp4,0,3,a,train", f"{films}/cook.mp4,0,3,a,test", f"{films}/cook.mp4,3,1800,a,test"]
    table.write_text("\n".join([TABLE.strip(), *rows, rows[0]]) + "\n")
    repeated = f"{table}, row 5: repeats row 2, so it counts twice; remove one"
    late = f"{table}, row 4: stops at 1800.0 s, but the video ends at 12.0 s; correct the row"
    for words in (["segments", table], ["prepare", table, "--out", store, *small]):
        notes = [line for line in run(capsys, *words).splitlines() if line.startswith("note: ")]
        assert notes == [f"note: {repeated}", f"note: {late}"]
    with pytest.warns(table_checks.TableWarning) as said:
        data.prepare(data.read_csv(table), tmp_path / "other", imu=False, frame_size=32, workers=1, progress=False)
    assert [str(one.message) for one in said] == [repeated, late] and said[0].filename == __file__
    strict = "with strict=True (--strict) notes are errors"
    for words in (
        ["segments", table],
        ["prepare", table, "--out", tmp_path / "no", *small],
        ["prepare", table, "--out", store, *small],
    ):
        assert cli.main([*map(str, words), "--strict"]) == 1
        said = capsys.readouterr()
        assert said.err.split(": ", 1)[1].splitlines() == [repeated, late, strict] and "note:" not in said.out
    assert not (tmp_path / "no").exists()
    table.write_text("\n".join([TABLE.strip(), *rows, rows[0].replace(",a,", ",b,")]) + "\n")
    wrong = f"{table}, row 5: is row 2 again with the label 'b' instead of 'a'; a segment has one label"
    for words in (["segments", table], ["prepare", table, "--out", tmp_path / "no", *small]):
        assert cli.main([*map(str, words)]) == 1
        assert wrong in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_background_is_a_class_of_the_store(films, taught, tmp_path, capsys):
    """It is in no note about the table, makes no class large, and a teacher need not know it."""
    table, store = tmp_path / "t.csv", tmp_path / "own"
    rows = [
        (films / f"{name}.mp4", start, start + 2, "01"[start > 0], split)
        for name, split, start in (
            ("walk", "train", 0),
            ("walk", "train", 10),
            ("cook", "test", 0),
            ("cook", "test", 10),
        )
    ]
    write_table(table, TABLE.strip().split(","), rows)
    small = ["--no-imu", "--frame-size", 32, "--workers", 1, "--background"]
    note = (
        "background: 3 clips of the class '(none)' from 1 training recording, 6.4 of 8.0 s without a segment (80 %): "
    )
    for words in (["segments", table, "--background", 3], ["prepare", table, "--out", store, *small, 3]):
        out = run(capsys, *words, "--strict")
        assert [line for line in out.splitlines() if line.startswith("note: ")] == [f"note: {note}6.4 s of walk.mp4"]
        assert "with a label, for 2 classes" in out
    clips = Counter((clip["label"], clip["split"]) for clip in data.ClipStore(store).clips)
    assert clips == {**{(name, split): 1 for name in "01" for split in ("train", "test")}, ("(none)", "train"): 3}
    out = run(capsys, "prepare", table, "--out", store, *small, 9)  # more than there is room for: the same clips
    assert "room for no more, 9 were wanted" in out and "to decode" not in out
    for words, why in (
        (["segments", table, "--sparse"], "--sparse: only with --background"),
        (["segments", films, "--background", 2], f"{films}: no segment has a label, so nothing says where background"),
    ):
        assert cli.main([*map(str, words)]) == 1
        assert why in capsys.readouterr().err
    run(capsys, "prepare", table, "--out", "taught", *small, 2, "--teacher-file", "teacher.safetensors")
    found = data.ClipStore("taught")
    logits, none = found.read("slowfast_8x8_r50.logits", slice(None)), found.class_names.index("(none)")
    assert found.class_names == ["0", "1", "(none)"] and len(found) == 6
    assert (logits.argmin(1) == none).all()
    words = "--image-encoder resnet10x16 --image-weights none --imu-encoder none --epochs 1 --device cpu"
    words += " --out s.safetensors"
    run(capsys, "distill", "taught", "--teacher", "slowfast_8x8_r50", *words.split())
    assert EgoDistill.load("s.safetensors").class_names == found.class_names


def test_a_share_of_a_store_warns_once(kitchen, tmp_path, recwarn):
    twice = [*kitchen[:2], replace(kitchen[0], id="again")]
    for rank in (1, 0):
        data.prepare(twice, tmp_path / "s", frame_size=16, workers=1, progress=False, rank=rank, world_size=2)
    assert len([one for one in recwarn if issubclass(one.category, table_checks.TableWarning)]) == 1


def test_offsets_written_by_hand_stay(films, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(films)
    table = tmp_path / "o.csv"
    found = {"walk.mp4": 0.3, "cook.mp4": 0.31}

    def check(recording, **options):
        offset = Offset(found[recording.video], 0.9, 0.1, None, None, (), np.zeros((2, 3)))
        return checks.Check(recording.video, offset=offset)

    monkeypatch.setattr(checks, "check", check)
    out = run(capsys, "check", "walk.mp4", "cook.mp4", "--out", table)
    assert out.splitlines()[-1] == f"{table}: 2 of 2 recordings have a reliable offset"
    header, walk, cook = "video,imu_offset,#measured", "walk.mp4,0.300,0.300", "cook.mp4,0.310,0.310"
    assert table.read_text().split() == [header, walk, cook]
    found["walk.mp4"] = -0.1
    run(capsys, "check", "walk.mp4", "--out", table)  # the other recording is not measured now
    walk = "walk.mp4,-0.100,-0.100"
    assert table.read_text().split() == [header, walk, cook]
    by_hand = "cook.mp4,0.5,0.310"
    for old in (by_hand, "cook.mp4,0.310,", "cook,0.31,", f"{films}/cook.mp4,0.4,"):
        table.write_text("\n".join([header, old, walk]) + "\n")
        out = run(capsys, "check", "walk.mp4", "cook.mp4", "--out", table)
        assert table.read_text().split() == [header, old, walk]
        kept = f"  cook.mp4: keeps {old.split(',')[1]}, written by hand, instead of 0.310; --overwrite replaces it"
        assert out.splitlines()[-1] == kept
    table.write_text("video,imu_offset,imu_stretch,#note\nother.mp4,1,1.001,mine\ncook.mp4,0.2,,\n")
    run(capsys, "check", "walk.mp4", "cook.mp4", "--out", table)
    rows = ["other.mp4,1,1.001,mine,", "cook.mp4,0.2,,,", "walk.mp4,-0.100,,,-0.100"]
    assert table.read_text().split() == ["video,imu_offset,imu_stretch,#note,#measured", *rows]
    run(capsys, "check", "cook.mp4", "--out", table, "--overwrite")
    assert table.read_text().split() == [header, cook]
    table.write_text('video,imu_offset\n"a.mp4,1\nb.mp4,2\n')
    monkeypatch.setattr(checks, "check", lambda *given, **options: pytest.fail("measured"))
    assert cli.main(["check", "cook.mp4", "--out", str(table)]) == 1
    assert f"{table}, row 2: the cell in column video goes on in the next row" in capsys.readouterr().err


def test_what_is_known_of_a_clock_is_part_of_the_offset(films, tmp_path, capsys):
    """A table in `films` is 0.3 s early; here its clock also runs since boot, so that it begins with the video."""
    header, *rows = (films / "walk.csv").read_text().splitlines()
    since_boot = [f"{float(row.partition(',')[0]) + 51234.5:.4f},{row.partition(',')[2]}" for row in rows]
    (tmp_path / "walk.csv").write_text("\n".join([header, *since_boot]) + "\n")
    shutil.copy(films / "walk.mp4", tmp_path / "walk.mp4")
    measured = []
    for words in ([], ["--imu-offset", "-0.2"], ["--imu-offset", "-51234.4"]):
        out = run(capsys, "check", tmp_path / "walk.mp4", *words, "--out", tmp_path / "o.csv", "--overwrite")
        assert ("a clock that runs since boot" in " ".join(out.split())) is (words[-1:] != ["-51234.4"])
        with open(tmp_path / "o.csv", newline="") as file:
            measured += [float(row["imu_offset"]) for row in csv.DictReader(file)]
    assert measured == pytest.approx([0.0, 0.0, -51234.2], abs=0.02)
    prepared = data.with_imu_offsets(data.read_csv(one_segment(tmp_path)), tmp_path / "o.csv")[0].recording
    early = data.open_recording(films / "walk.mp4", imu_offset=0.3).motion()
    np.testing.assert_allclose(data.find_imu(prepared).motion().gyro_time[100], early.gyro_time[100], atol=0.02)


def one_segment(folder, **more):
    cells = {"video": "walk.mp4", "start": 0, "stop": 4, "label": "a", "split": "train"} | more
    return write_table(folder / "t.csv", tuple(cells), [tuple(cells.values())])


def test_an_offset_is_added_to_that_of_a_table(films, tmp_path, monkeypatch, capsys):
    table = one_segment(tmp_path, video=films / "walk.mp4", imu=films / "walk.csv", imu_offset=0.1)
    seen: list[data.Recording] = []
    found = checks.Check("walk.mp4")
    monkeypatch.setattr(checks, "check", lambda one, **options: (seen.append(one), found)[1])
    run(capsys, "check", table, "--imu-offset", "0.25", "--imu-axes", "XZy")
    assert seen[0].imu_offset == pytest.approx(0.35) and seen[0].imu_axes == "XZy"


def test_check_needs_no_split_of_recordings_without_labels(films, capsys):
    (films.parent / "broken.mp4").write_bytes(b"no video")
    table = films.parent / "list.csv"
    table.write_text("Video\nfilms/walk.mp4\n")
    assert "walk.mp4 " in run(capsys, "check", table, "--no-offset")
    table.write_text("video\nfilms/walk.mp4\nbroken.mp4\n")
    assert cli.main(["check", str(table), "--no-offset"]) == 1
    said = capsys.readouterr()
    assert "broken.mp4: cannot be opened" in " ".join(said.out.split()) and "1 of 2 recordings" in said.err


def test_options_of_an_offset_need_one(films, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = ["check", str(films / "walk.mp4"), "--no-offset", "--out", "o.csv", "--max-offset", "3"]
    assert cli.main(asked) == 1 and list(tmp_path.iterdir()) == []
    assert "--max-offset, --out: --no-offset estimates no offset" in capsys.readouterr().err


@pytest.fixture
def small_i3d(tmp_path, monkeypatch) -> Path:
    """A file with the weights of a small I3D, in a published layout, beside one with the names of its classes."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "classes.txt").write_text("walking\ncooking\nwashing\nrunning\nsitting\nreading\n")
    state = unit_norms(small_teachers.small("i3d", 6)).net.state_dict()
    spec = data.ClipSpec(frames=8, size=32, crop=True)
    changes = {"num_classes": 6, "clip_spec": spec, "options": {"width": 8}}
    monkeypatch.setitem(teachers.MODELS, "i3d", replace(teachers.MODELS["i3d"], **changes))
    return write_published(state, folder / "i3d.ckpt")


@pytest.mark.slow("every command on recordings without labels")
def test_recordings_without_labels_go_all_the_way(films, small_i3d, tmp_path, capsys):
    """check, prepare, pretrain, distill, evaluate, predict: as in the README."""
    offsets, store, imu, student = (
        tmp_path / name for name in ("offsets.csv", "store", "imu.safetensors", "student.safetensors")
    )
    out = run(capsys, "check", films, "--out", offsets)
    assert f"{offsets}: 2 of 2 recordings have a reliable offset" in out
    with open(offsets, newline="") as file:
        assert [float(row["imu_offset"]) for row in csv.DictReader(file)] == pytest.approx(2 * [0.3], abs=0.02)

    teacher = ["--architecture", "i3d", "--pretrained", small_i3d, "--class-names", small_i3d.parent / "classes.txt"]
    common = ["prepare", films, "--imu-offsets", offsets, "--stride", 1, "--frame-size", 32, "--workers", 1]
    out = run(capsys, *common, *teacher, "--device", "cpu", "--out", store)
    assert f"{store}: 22 clips (11 test, 11 train) from 2 videos, 0:24 in segments, 6 classes" in out
    assert "no segment has a label: students learn from a teacher, and" in out
    opened = data.ClipStore(store)
    assert opened.class_names[:2] == ["walking", "cooking"] and set(opened.labels) == {-1}
    clip = opened.clips[12]
    assert clip["start"] == pytest.approx(1.0) and {"i3d.feature", "i3d.logits"} <= set(opened.names)
    segments = StoreFiles(store).segments[11:22]
    ((offset, axes),) = {(segment.imu_offset, segment.imu_axes) for segment in segments}
    assert offset == pytest.approx(0.3, abs=0.02)
    recording = data.open_recording(clip["video"], imu_offset=offset, imu_axes=axes)
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
    assert re.match(rf"{student}: loss \d\.\d+, top-1 agreement with the teacher in training \d", out)
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
        (["evaluate", store, "--student", student, "--teacher", "x3d"], "no array 'x3d.feature'"),
        (["evaluate", two, "--student", small_student(tmp_path)], "the class names of model (2) and store (6) differ"),
    ):
        out = [] if command[0] == "evaluate" else ["--out", tmp_path / "x"]
        assert cli.main([str(word) for word in [*command, *out]]) == 1
        printed = capsys.readouterr().err
        assert told in printed and "Traceback" not in printed, printed


def test_labelled_and_unlabelled_clips_are_evaluated_each_in_its_way(taught, monkeypatch, capsys):
    """The kitchen has clips without labels in the split train."""
    options = {"image_encoder": "resnet10x4", "image_weights": None, "hidden": 16, "frame_size": 40}
    EgoDistill(len(data.ClipStore("s").class_names), feature_dim=12, **options).save("twelve.safetensors")
    out = run(capsys, "evaluate", "s", "--split", "train", "--student", "twelve.safetensors", "--out", "e.json")
    assert re.search(r"^top-1 .* of 5 segments \(\d clips", out) and "\nagreement with small: top-1 " in out
    found = json.loads(Path("e.json").read_text())
    assert found["clips"] + found["agreement"]["clips"] == len(data.ClipStore("s").split("train"))
    with monkeypatch.context() as patch:  # without a teacher, the accuracy is all there is
        patch.setattr(egodistill.commands.models, "teachers_in", lambda store: [])
        words = ["--split", "train", "--student", "twelve.safetensors", "--out", "e.json"]
        without = run(capsys, "evaluate", "s", *words)
    count = found.pop("agreement")["clips"]
    assert f"note: {count} clips have no label and are left out" in without and "agreement" not in without
    assert json.loads(Path("e.json").read_text()) == found | {"teachers": {}}
    EgoDistill(len(data.ClipStore("s").class_names), feature_dim=13, **options).save(
        "alone.safetensors"
    )  # as from labels alone
    alone = run(capsys, "evaluate", "s", "--split", "train", "--student", "alone.safetensors")
    assert f"note: {count} clips have no label and are left out: there is no teacher" in alone and "agree" not in alone
    for command in ("distill s --teacher small", "finetune s --architecture student"):
        small = "--image-encoder resnet10x4 --image-weights none --epochs 1 --batch-size 4 --device cpu --out"
        words = [*command.split(), *small.split(), f"{command.split()[0]}.safetensors"]
        assert ", top-1 in training " in run(capsys, *words)


def test_status_tells_what_is_there_what_failed_and_how_fast(demo, tmp_path, monkeypatch, capsys):
    out = run(capsys, "status", demo.out / "store", "--seconds", "0.01")
    assert re.search(r"(?m)^test +6 +0 +0$", out) and re.search(r"(?m)^train +16 +0 +0$", out)
    assert re.search(r"(?m)^prepare +22 of 22 +- +-$", out) and re.search(r"(?m)^extract slowfast +22 of 22", out)
    assert "again to continue" not in out

    # A store of which a half is prepared, with a recording that cannot be read, while another clip is written.
    table, root = demo.out / "world" / "EPIC_100_train.csv", tmp_path / "world"
    shutil.copytree(demo.out / "world", root)
    broken = root / "P30" / "videos" / "P30_101.MP4"
    broken.write_bytes(b"no video")
    command = ["prepare", root / table.name, "--out", tmp_path / "half", "--frame-size", "32", "--max-bad", "0.5"]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")  # the command takes the share that the environment names
    assert "note: 2 of 22 clips (9.1%) could not be prepared" in run(capsys, *command, "--workers", "1")
    status, writer = status_of(tmp_path / "half"), data.StoreWriter(tmp_path / "half")
    done, missing = int((status > 0).sum()), int(np.flatnonzero(status == 0)[0])
    row = {name: writer._files.read(name, np.array([0]))[0] for name in writer.names}
    monkeypatch.setattr(time, "sleep", lambda seconds: writer.write(missing, row))
    out = run(capsys, "status", tmp_path / "half", "--seconds", "0.5")
    assert re.search(rf"(?m)^prepare +{done + 1} of 22 +2.0 +0:{(22 - done - 1) / 2:02.0f}$", out)
    assert "failed: 2 clips, VIDEO" in out and "the same `egodistill prepare` command again" in out


def test_status_verifies_every_array(demo, tmp_path, capsys):
    path = shutil.copytree(demo.out / "store", tmp_path / "s")
    out = run(capsys, "status", path, "--seconds", "0.01", "--verify")
    assert "\nverified: checksum, frames_1, " in out and "slowfast.logits, status\n" in out and "note" not in out
    for row in range(4, 11):
        row_of(path, "imu", row)[:] = 0
    row_of(path, "slowfast.logits", 21)[:] = 0
    assert cli.main(["status", str(path), "--seconds", "0.01", "--verify"]) == 1
    out, err = capsys.readouterr()
    assert re.search(r"(?m)^damaged: imu: 7 of 22 rows: 4 \(P\S+ at \S+ s\), 5 .*, \.\.\.$", out)
    assert re.search(r"(?m)^damaged: slowfast.logits: 1 of 22 rows: 21 \(P\S+ at \S+ s\)$", out)
    assert re.search(r"status: \S+/s: rows of imu, slowfast.logits differ from their checksums", err)


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
    command = out.splitlines()[-1].split()
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


def test_splits_of_other_names_are_told(kitchen, tmp_path, capsys):
    segments = [replace(segment, split="trian") for segment in kitchen[:2]]
    with pytest.warns(table_checks.TableWarning, match="'trian' .* usual is 'train'"):
        store = data.prepare(segments, tmp_path / "s", frame_size=16, workers=1, progress=False)
    egodistill.commands.recordings.describe_store(store, data.SegmentList(segments))
    assert "warning: there is no split train and no split test, only trian" in capsys.readouterr().out


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
    monkeypatch.setattr(egodistill.datasets.annotations, "read_annotations", lambda *given, **named: segments)
    any_input(monkeypatch)
    lines = [line.split() for line in run(capsys, "segments", "t.csv", "--classes", 2).splitlines()]
    assert lines[2] == ["test", "1", "3", "2:00:00", "5.00", "3.00", "to", "7200.00", "2"]
    assert lines[3] == ["train", "2", "4", "1:32", "3.25", "1.00", "to", "90.00", "3"]
    assert ["x", "1", "2"] in lines and "... and 2 more classes (--classes N lists more)".split() in lines
    assert "no segment with the split train" not in " ".join(map(" ".join, lines))
    assert "left out, no sound: 1,234 segments".split() in lines
    assert not any("moments" in line for line in lines)
    segments.append(data.Segment("same", "test0.mp4", 7199.0, 7201.0, None, split="validation"))
    note = "note: segment same: its clips of 2.13 s share moments of the video with segment more of another split"
    assert note in run(capsys, "segments", "t.csv")
    segments[-1] = data.Segment("near", "test0.mp4", 7200.5, 7201.0, None, split="validation")
    assert note.replace("same", "near") in run(capsys, "segments", "t.csv")


def test_status_divides_by_the_time_that_it_waited(monkeypatch, capsys):
    seen = iter([{"prepare": (10, 100), "extract t": (0, 50)}, {"prepare": (16, 100), "extract t": (1, 50)}])
    store = argparse.Namespace(counts={"train": {"ok": 16, "failed": 0, "missing": 84}}, failures=[], path=Path("s"))
    store.specs = store.shards = {}
    monkeypatch.setattr(data, "ClipStore", lambda path, unfinished: store)
    monkeypatch.setattr(egodistill.commands.recordings, "finished_clips", lambda path: next(seen))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    any_input(monkeypatch)
    lines = [line.split() for line in run(capsys, "status", "s", "--seconds", 0.5).splitlines()]
    assert ["prepare", "16", "of", "100", "12.0", "0:07"] in lines  # 6 clips in 0.5 s; 84 are left
    assert ["extract", "t", "1", "of", "50", "2.0", "0:24"] in lines


@pytest.mark.parametrize("command", ["prepare a.csv --out s", "predict a.mp4 --student s.safetensors"])
def test_key_frames_and_a_tolerance_are_two_answers_to_one_question(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--key-frames", "--tolerance", "0.25"])
    assert "argument --tolerance: not allowed with argument --key-frames" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told_before_any_work(steady, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert cli.main(["prepare", str(steady), "--out", str(tmp_path / "new" / "store")]) == 1
    assert "store: cannot be written, because" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_options_of_the_teacher_need_a_teacher(monkeypatch, capsys):
    any_input(monkeypatch)
    monkeypatch.setattr(egodistill.datasets.annotations, "read_annotations", lambda *given, **named: data.SegmentList())
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
        ([*published, "--clip-frames", "8"], "--clip-frames: the clips are those that the teacher reads"),
        ([*published, "--clip-size", "64"], "--clip-size: the clips are those that the teacher reads"),
        (
            ["--teacher-file", "t.safetensors", "--clip-frames", "8"],
            "--clip-frames: the clips are those that the teacher reads",
        ),
        (["--clip-size", "64"], "--clip-size: only with --clip-frames"),
        (
            ["--no-imu", "--zero-accel", "--max-gap", "0.2", "--imu-axes", "XZy"],
            "--zero-accel, --max-gap, --imu-axes: --no-imu stores no head motion",
        ),
        ([*published, "--teacher-file", "t.safetensors"], "--teacher-file: a second teacher beside --architecture"),
    ):
        assert cli.main(["prepare", "t.csv", "--out", "s", *words]) == 1
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "check neon --out neon/offsets.csv",
        "check neon --out neon/imu.csv --overwrite",
        "check . --out walk.csv --overwrite",
        "check table.csv --out walk.csv --overwrite",
        "predict neon/scene.mp4 --student s.safetensors --out films/imu.csv --overwrite",
        "predict walk.mp4 --student s.safetensors --out link.csv --imu walk.csv --overwrite",
        "predict walk.mp4 --student s.safetensors --out walk.csv --overwrite",
        "transcode walk.mp4 --out neon",
        "transcode neon/scene.mp4 walk.mp4 --out copies --overwrite",
        "convert walk.vrs --out copies --overwrite",
        "prepare walk.csv --out store/inside",
        "export s.safetensors --out neon/s.pt2",
    ],
)
def test_an_output_never_takes_the_place_of_a_source(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sources = [
        "neon/imu.csv",
        "neon/world_timestamps.csv",
        "neon/scene.mp4",
        "walk.mp4",
        "walk.csv",
        "walk.vrs",
        "s.safetensors",
    ]
    for name in (*sources, "store/store.json"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("mine")
    Path("table.csv").write_text("video,imu\nneon/scene.mp4,walk.csv\n")
    Path("copies").mkdir()
    for link, target in (("films", "neon"), ("link.csv", "walk.csv"), ("copies/scene.mp4", "../walk.mp4")):
        Path(link).symlink_to(target)
    Path("copies/walk.mp4").symlink_to("../walk.vrs")
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(words.split()) == 1
    assert re.search("give a path outside of it|give another path", capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before and all(Path(name).read_text() == "mine" for name in sources)


# --- readers of one's own ---------------------------------------------------------------------


@pytest.fixture
def logged(kitchen, tmp_path, monkeypatch):
    """Here are recordings whose logs are of a format of one's own, a table of them, a student, and the readers."""
    monkeypatch.chdir(tmp_path)
    for name in ("walk", "run"):
        shutil.copy(kitchen[0].video, f"{name}.mp4")
        mine.write_log(f"{name}.log", kitchen[0].recording.motion())
    Path("list.csv").write_text("video,start,stop,label,imu,split\nwalk.mp4,0,3,walk,,train\nrun.mp4,3,5,run,,test\n")
    for name in ("my_parts.py", "commandline.py"):  # the second has the name of another module
        shutil.copy(mine.__file__, name)
    small_student(tmp_path)
    before, formats, modules = [*READERS], {**IMU_READERS}, {*sys.modules}
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(custom, "FILES", {})
    yield tmp_path
    READERS[:] = before
    IMU_READERS.clear()
    IMU_READERS.update(formats)
    for name in {*sys.modules} - modules:
        del sys.modules[name]


WAYS = {
    "camera": ("--reader", "commandline.py:wrist", "--imu-reader", ".log=my_parts.py:read_log"),
    "function": ("--imu-reader", ".log=my_parts.py:read_log"),
}


@pytest.mark.parametrize(("way", "offset"), [("camera", 0.25), ("function", 0.0)])
def test_readers_of_ones_own_serve_all_commands_that_read_recordings(way, offset, logged, capsys):
    words = WAYS[way]
    assert "walk  " in run(capsys, "segments", "list.csv", *words)
    assert "  100%" in run(capsys, "check", "walk.mp4", "--no-offset", *words)
    for workers in (1, 2):
        store = f"s{workers}"
        run(capsys, "prepare", "list.csv", "--out", store, "--frame-size", 32, "--workers", workers, *words)
        prepared = data.ClipStore(store)
        wanted = mine.read_log("walk.log").on_clock(offset).window(prepared.clips[0]["start"])
        np.testing.assert_allclose(prepared.read("imu", [0])[0], wanted, atol=1e-6)
    model = ("--student", "other.safetensors", "--precision", "fp32", "--device", "cpu")
    run(capsys, "predict", "walk.mp4", *model, "--out", "p.json", *words)
    found = list(
        inference.predict(EgoDistill.load("other.safetensors"), data.open_recording("walk.mp4"), precision="fp32")
    )
    scores = [row["classes"][0][1] for row in json.loads(Path("p.json").read_text())]
    assert len(scores) == 3 and scores == pytest.approx([clip.classes[0][1] for clip in found])
    assert run(capsys, "live", "walk.mp4", *model, "--fast", *words).count('"classes": [[')


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "--imu-reader .log=my_parts.py:reed_log",
            "my_parts.py: has no reed_log. Did you mean read_log?",
        ),
        ("--imu-reader .log=none.py:read_log", "none.py: no such file"),
        ("--reader my_parts.py:NUMBER", "my_parts.py:NUMBER: is int, not a function"),
        ("--imu-reader .log=my_parts.py:wrong", "walk.log: wrong() returns int, not Imu"),
        (
            "--imu-reader .log=my_parts.py:broken",
            "walk.log: broken() fails in line 40 of my_parts.py (Zero",
        ),
        (
            "--reader my_parts.py:wrong",
            "walk.mp4: wrong() fails (TypeError: it returns int, not a Recording or None",
        ),
    ],
)
def test_a_reader_of_ones_own_that_cannot_be_used_is_one_line(words, told, logged, capsys):
    assert cli.main(["predict", "walk.mp4", "--student", "other.safetensors", *words.split()]) == 1
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert said.startswith("egodistill predict: ") and told in said


@pytest.mark.parametrize("value", ["my_parts.py:read_log", "log=m.py:a", ".log=", ".log"])
def test_a_format_of_ones_own_has_a_suffix_and_a_function(value, capsys):
    with pytest.raises(SystemExit):
        cli.main(["check", "walk.mp4", "--imu-reader", value])
    assert f"{value!r}: give .SUFFIX=FILE.py:NAME" in capsys.readouterr().err


def test_a_store_that_was_begun_with_a_reader_is_not_continued_without_it(logged, capsys):
    command = ["prepare", "list.csv", "--out", "s", "--frame-size", "32", "--workers", "1"]
    run(capsys, *command, *WAYS["function"])
    IMU_READERS.clear()
    assert cli.main(command) == 1
    assert ").camera was 'my_parts.read_log' and is now None" in capsys.readouterr().err
