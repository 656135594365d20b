"""`train`: one command for every step, which gives what the separate commands give."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import reading
from commandline import run
from heads import write_log
from miniature import file_of, same
from painted import STEADY, write_table, write_video
from panned import RATE, gyroscope, pan

from egodistill import EgoDistill, data, training
from egodistill.commands import cli, pipeline
from egodistill.datasets.segments import Origin
from egodistill.datasets.store_files import StoreFiles
from egodistill.engine import batches, calibration
from egodistill.recordings import checks
from egodistill.recordings.offset import Offset

SMALL = "--frame-size 32 --image-encoder resnet10x4 --image-weights none --preset demo --epochs 1 --batch-size 8"
OWN = "--image-encoder resnet10x4 --image-weights none"
TEACHER = "--architecture slowfast_8x8_r50 --option width=8 beta=4 depths=(1,1,1,1) --clip-frames 16 --clip-size 32"


def table_of(demo) -> Path:
    return demo.out / "world" / "EPIC_100_train.csv"


def planned(words, split="test", label="walk"):
    """The commands that `train` would run for two segments; with --subsample, a third is left out."""
    segments = [data.Segment(str(k), "v.mp4", 0, 2, label, split=one) for k, one in enumerate(("train", split))]
    a, origin = cli.parse(["train", *words.split()]), Origin(left_out=tuple(segments[:1]))
    found = data.SegmentList(segments, origin=origin if a.subsample > 1 else None)
    return [step.typed for step in pipeline.plan(a, found)]


def test_each_option_reaches_the_commands_that_take_it():
    segments = "--root r --tier a --min-instances 3 --split-seed 7 --subsample 2 --reader m.py:a --reader m.py:b "
    segments += "--imu-reader .log=m.py:c --strict --stride 0.5 --split-by stretch --test-share 0.2 --clip-seconds 4.0 "
    segments += "--imu-axes XZy --background 9 --sparse"
    student = "--num-frames 2 --image-encoder resnet10x4 --image-weights none"
    training = "--epochs 3 --batch-size 5 --learning-rate 0.1 --seed 4 --precision bf16"
    segments += " --imu-rate 50.0"
    both = f"{segments} {student} {training} --frame-size 96 --preset demo --workers 3 --device cpu --overwrite"
    limits = "--zero-accel --min-coverage 0.5 --max-gap 0.2 --max-hold 3.0 --max-bad 0.4"
    teacher = "--architecture i3d --pretrained p.pth --option width=12 depth=2 --clip-frames 6 --clip-size 80"
    trained = f"--preset demo {training} --device cpu --overwrite"
    assert planned(f"t.csv --out o {both} {teacher} {limits} --baselines --imu-offsets c.csv --no-check") == [
        f"egodistill prepare t.csv {segments} --imu-offsets c.csv --out o/store --num-frames 2 --frame-size 96 "
        f"{limits} --workers 3 --clip-frames 6 --clip-size 80",
        "egodistill finetune o/store --architecture i3d --pretrained p.pth --option width=12 depth=2 "
        f"{trained} --out o/teacher.safetensors",
        "egodistill extract o/store --teacher-file o/teacher.safetensors --device cpu --overwrite",
        f"egodistill pretrain o/store {student} {trained} --out o/imu.safetensors",
        f"egodistill distill o/store {trained} --init o/imu.safetensors --out o/student.safetensors",
        f"egodistill distill o/store --no-imu {student} {trained} --out o/frames-alone.safetensors",
        f"egodistill finetune o/store --architecture student {student} {trained} --out o/labels-alone.safetensors",
        *(
            f"egodistill evaluate o/store --student o/{name}.safetensors --device cpu --out o/{name}.test.json"
            for name in ("student", "frames-alone", "labels-alone")
        ),
    ]


def test_the_steps_depend_on_teacher_labels_and_splits():
    first = "egodistill prepare t.csv --imu-offsets o/offsets.csv --out o/store --num-frames 1 --frame-size 224"
    given = planned("t.csv --out o --teacher-file t.safetensors")
    assert given[0] == f"{first} --teacher-file t.safetensors" and given[1].startswith("egodistill pretrain")
    published = planned("t.csv --out o --architecture i3d --pretrained p.pth --no-check", label=None)
    assert published[0].startswith("egodistill prepare t.csv --out o/store")
    assert published[0].endswith(" --architecture i3d --pretrained p.pth")
    assert [line.split()[1] for line in published[1:]] == ["pretrain", "distill", "evaluate"]
    plain = planned("t.csv --out o --teacher-file t.safetensors --preset spectrum --num-frames 2")
    assert [line.split()[1] for line in plain] == ["prepare", "distill", "evaluate"]  # it has no stage 1
    assert plain[1] == "egodistill distill o/store --num-frames 2 --preset spectrum --out o/student.safetensors"
    both = planned("t.csv --out o --teacher-file t.safetensors --preset filterbank --optional-inputs --baselines")[1:4]
    named = "--preset filterbank --out o/"
    assert both == [
        f"egodistill distill o/store --optional-inputs {named}student.safetensors",
        f"egodistill distill o/store --no-imu {named}frames-alone.safetensors",
        f"egodistill finetune o/store --architecture student --optional-inputs {named}labels-alone.safetensors",
    ]
    own = planned("t.csv --out o --architecture i3d --quick --epochs 9")
    assert own[0].endswith("--clip-frames 32 --clip-size 256")  # those of the network
    for given, taken in (("frames 8", "frames 8 --clip-size 256"), ("size 64", "frames 32 --clip-size 64")):
        assert planned(f"t.csv --out o --architecture i3d --clip-{given}")[0].endswith(f"--clip-{taken}")
    quick = "--schedule cosine --warmup-epochs 0.5 --learning-rate 0.001"
    assert own[1].endswith(f" i3d {quick} --epochs 9 --out o/teacher.safetensors")  # not two numbers of epochs
    assert planned("t.csv --out o", split="train") == [
        first,
        "egodistill finetune o/store --architecture student --out o/student.safetensors",
    ]


def test_with_background_thresholds_are_chosen_on_what_is_held_out_and_measured_on_the_test():
    words = "t.csv --out o --background 9 --sparse --reader m.py:a --device cpu --no-check"
    whole = (
        "egodistill evaluate --recordings o/store --student o/student.safetensors --sparse --reader m.py:a --device cpu"
    )
    steps = planned(words, split="calibration")
    assert steps[2:] == [f"{whole} --split calibration --save-thresholds"]
    assert planned(words)[3:] == [f"{whole} --out o/student.recordings.json"]  # after the clips
    few = "t.csv --out o --no-check"  # not all that happens is known to have a segment
    for other in (few, f"{few} --background 9 --subsample 2"):
        assert not any("--recordings" in step for step in planned(other) + planned(other, split="calibration"))


@pytest.mark.parametrize(
    ("words", "label", "flags"),
    [
        ("--pretrained torchvision --clip-frames 8", "walk", "--pretrained, --clip-frames: only with --architecture"),
        (
            "--teacher-file t.safetensors --architecture i3d",
            "walk",
            "--architecture: the teacher of --teacher-file has its own",
        ),
        ("--architecture i3d --pretrained p --option a=1", None, "--option: a teacher without labels runs as it is"),
        ("--baselines", "walk", "--baselines: without a teacher"),
        ("--architecture i3d", None, "give a published teacher, such as"),
    ],
)
def test_what_would_have_no_effect_is_an_error(words, label, flags):
    with pytest.raises(ValueError, match=flags):
        planned(f"t.csv --out o {words}", label=label)


@pytest.mark.slow("trains everything twice, killed")
def test_one_command_gives_what_the_separate_commands_give_also_if_it_is_killed(demo, tmp_path, monkeypatch, capsys):
    command = ["train", table_of(demo), *TEACHER.split(), *SMALL.split(), "--baselines", "--workers", 1, "--out"]
    out = run(capsys, *command, tmp_path / "run")
    typed = re.findall(r"(?m)^\[\d+/11\] egodistill (.*)$", out)
    assert [line.split()[0] for line in typed] == (
        ["prepare", "finetune", "extract", "pretrain", "distill", "distill", "finetune", *["evaluate"] * 3]
    )

    # What it printed, typed by hand for another folder.
    run(capsys, "check", table_of(demo), "--out", tmp_path / "offsets.csv")
    (tmp_path / "hand").mkdir()
    (tmp_path / "offsets.csv").rename(tmp_path / "hand" / "offsets.csv")
    for line in typed:
        run(capsys, *shlex.split(line.replace(str(tmp_path / "run"), str(tmp_path / "hand"))))

    # Killed before each step in turn, once also within a training.
    step, done = pipeline.run_step, []

    def run_some(words):
        if words not in done:
            done.append(words)
            raise KeyboardInterrupt
        step(words)

    monkeypatch.setattr(pipeline, "run_step", run_some)
    for _ in typed:
        assert cli.main([*map(str, command), str(tmp_path / "killed")]) == 130
    run(capsys, *command, tmp_path / "killed")
    for name in ("teacher", "imu", "student", "frames-alone", "labels-alone"):
        for other in ("hand", "killed"):
            assert same(tmp_path / "run" / f"{name}.safetensors", tmp_path / other / f"{name}.safetensors"), (
                name,
                other,
            )
    for name in ("student", "frames-alone", "labels-alone"):
        first, *others = (
            json.loads((tmp_path / other / f"{name}.test.json").read_text()) for other in ("run", "hand", "killed")
        )
        assert others == [first] * 2 and len(first["answers"]) == first["segments"] == 6
    assert [answer["said"] == answer["label"] for answer in first["answers"]].count(True) == round(6 * first["top1"])


def test_a_given_teacher_is_run_in_the_pass_that_decodes(demo, tmp_path, monkeypatch, capsys):
    checkpoints, save = {}, training.TrainingLoop.save

    def weigh(loop):
        save(loop)
        checkpoints.setdefault(loop.objective.stage, loop.path.stat().st_size / 1e6)

    monkeypatch.setattr(training.TrainingLoop, "save", weigh)
    given = ["train", table_of(demo), "--teacher-file", file_of(demo.out, "teacher"), *SMALL.split(), "--no-check"]
    given += ["--epochs", "2"]  # a checkpoint between them has the state of the optimizer
    out = run(capsys, *given, "--subsample", 2, "--workers", 1, "--out", tmp_path / "run")
    assert out.startswith("11 segments (3 test, 8 train) of 11 recordings, 3 classes: 11 clips, about ")
    arrays = (tmp_path / "run" / "store").glob("shards/*/*.npy")
    size = sum(np.load(path, mmap_mode="r").nbytes for path in arrays if path.stem in ("frames_1", "ends", "imu"))
    about, free = re.search(r"about ([\d,]+) MB, .*; ([\d,]+) MB are free", out).groups()
    assert abs(float(about) - size / 1e6) <= 0.51
    words = shlex.split(re.search(r"egodistill (prepare .*)", out)[1])
    assert pipeline.size_of_store(words, 11_000_000) == pytest.approx(size, rel=0.02)  # a million times as many clips
    assert abs(float(free.replace(",", "")) - shutil.disk_usage(tmp_path).free / 1e6) < 3000
    titles = re.findall(r"(?m)^  (\d+)\. (.+)$", out)
    assert [int(number) for number, _ in titles] == [1, 2, 3, 4] and titles[0][1] == "decode the clips"
    assert re.findall(r"(?m)^\[(\d)/4\] egodistill", out) == ["1", "2", "3", "4"]
    assert "check clocks" not in out and "Next:\n  egodistill predict VIDEO" in out and out.count("Next:") == 1
    cost = re.search(r"about (\d+) MB, (\d+) MB of models, and up to (\d+) MB while one is trained; ", out)
    models = [(tmp_path / "run" / f"{name}.safetensors").stat().st_size / 1e6 for name in ("imu", "student")]
    arrays = sum(path.stat().st_size for path in (tmp_path / "run" / "store").rglob("*.npy")) / 1e6
    said, real = [*map(float, cost.groups())], [arrays, sum(models), checkpoints["distill"]]
    assert said == pytest.approx(real, rel=0.25, abs=1)  # the teacher's feature is smaller than the usual one
    assert said[2] / said[1] == pytest.approx(real[2] / real[1], rel=0.03)
    store = data.ClipStore(tmp_path / "run" / "store")
    assert "slowfast.logits" in store.names and "clip" not in store.names and len(store) == 11
    assert (tmp_path / "run" / "student.safetensors").exists() and not (
        tmp_path / "run" / "teacher.safetensors"
    ).exists()
    numbers, test = json.loads((tmp_path / "run" / "student.test.json").read_text()), store.split("test")
    said = test.read("slowfast.logits", range(len(test))).argmax(1)
    most = np.bincount(test.labels).max()
    shown = dict(line.split(": ", 1) for line in out[out.index("\nstudent: ") :].splitlines() if ": " in line)
    assert shown["student"].startswith(f"{100 * numbers['top1']:.1f} % of the test segments are right (3 segments of ")
    assert shown["teacher slowfast"] == f"{100 * (said == test.labels).mean():.1f} %"
    (always,) = (text for name, text in shown.items() if name.startswith("always '"))
    count = len(test.class_names)
    assert always == f"{100 * most / 3:.1f} %" and shown[f"chance, one of {count} classes"] == f"{100 / count:.1f} %"
    page = reading.lines(reading.sections(tmp_path / "run" / "report.html")["Result"])
    assert {name: shown[name] for name in page} == page and "note" in page  # three segments show nothing
    other = [*map(str, given), "--subsample", "2", "--out", str(tmp_path / "run"), "--learning-rate", "0.1"]
    assert cli.main(other) == 1
    err = capsys.readouterr().err
    assert "run/imu.safetensors: was made with other options, by `" in err and "or --overwrite to train" in err
    assert ": --learning-rate was not given and is now 0.1. Give" in err
    assert "--learning-rate 0.1" in run(capsys, *other, "--overwrite")


def test_without_a_teacher_labels_are_learned_and_without_labels_a_teacher_is_asked_for(demo, tmp_path, capsys):
    out = run(capsys, "train", table_of(demo), *SMALL.split(), "--no-check", "--workers", 1, "--out", tmp_path / "run")
    assert "note: no teacher was given" in out
    assert (tmp_path / "run" / "student.test.json").exists() and not list((tmp_path / "run").glob("imu*"))
    films = demo.out / "world"
    assert cli.main(["train", str(films), "--no-check", "--out", str(tmp_path / "films")]) == 1
    assert "--architecture swin3d_t --pretrained torchvision" in capsys.readouterr().err


def test_what_is_refused_changes_nothing_and_recordings_may_come_and_go(demo, tmp_path, monkeypatch, capsys):
    """Other options or clips are refused before the run's own files change; clocks are those of today's recordings."""
    videos = sorted((demo.out / "world").rglob("*.MP4"))[:2]
    rows = []
    for video, split in zip(videos, ("train", "test"), strict=True):
        rows += [f"{video},{start},{start + 3},{label},{split}" for start, label in ((0, "a"), (3, "b"))]
    table, other = tmp_path / "t.csv", tmp_path / "other.csv"
    table.write_text("\n".join(["video,start,stop,label,split", *rows[:2], rows[0].replace("train", "test"), ""]))
    other.write_text("\n".join(["video,start,stop,label,split", *rows, ""]))
    words = [*SMALL.split(), "--workers", 1, "--out", tmp_path / "run"]
    monkeypatch.setattr(pipeline, "run_step", lambda step: (tmp_path / "run" / "store").mkdir(exist_ok=True))
    run(capsys, "train", table, *words)

    def contents():
        return {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}

    before = contents()
    assert {"train.json", "check.json", "offsets.csv"} <= set(before)
    for changed in (["train", table, *words, "--num-frames", 2], ["train", other, *words, "--overwrite"]):
        assert cli.main([*map(str, changed)]) == 1
        err = capsys.readouterr().err
        assert "run/store: was made with other options, by `" in err
        assert err.index("Give another --out") < err.index("delete ")
        assert ("--num-frames was 1 and is now 2." in err) == (changed[1] is table)
        assert (f"the table was {table} and is now {other}." in err) == (changed[1] is other)
        assert contents() == before
    assert "already checked" in run(capsys, "train", table, *words, "--device", "cpu")
    monkeypatch.chdir(tmp_path)
    for name in (table.name, f"./{table.name}"):  # the same files by other names
        assert "already checked" in run(capsys, "train", name, *words[:-1], "run")

    before, short = contents(), table.read_text()
    table.write_text(other.read_text())
    assert cli.main([*map(str, ["train", table, *words, "--num-frames", 2])]) == 1
    assert "--num-frames was 1 and is now 2." in capsys.readouterr().err and contents() == before
    out = run(capsys, "train", table, *words)
    assert f"note: {table} has changed: new clips are decoded" in out and "already checked" not in out
    assert len(json.loads((tmp_path / "run" / "check.json").read_text())["recordings"]) == 2
    (tmp_path / "run" / "store").rmdir()
    table.write_text(short)  # the row of the recording that is gone stays in the table of clocks
    run(capsys, "train", table, *words)
    (tmp_path / "run" / "offsets.csv").unlink()
    run(capsys, "train", table, *words)
    assert (tmp_path / "run" / "offsets.csv").exists()


@pytest.mark.parametrize(("count", "taken"), [(600, 600), (601, 301)])
def test_a_quick_run_takes_at_most_600_segments(kitchen, count, taken, tmp_path, monkeypatch, capsys):
    """... few epochs, and says both on its page; of recordings with two axes, none is suggested."""
    table, run_out = tmp_path / "t.csv", tmp_path / "run"
    rows = [
        (kitchen[3 * (k % 3)].video, 0, 2 + k / 1000, f"{k % 2}", ("train", "test")[k % 3 > 1]) for k in range(count)
    ]
    write_table(table, "video start stop label split".split(), rows)
    monkeypatch.setattr(pipeline, "run_step", lambda step: None)

    monkeypatch.setattr(pipeline, "check", lambda a, segments: None)
    out = run(capsys, "train", table, *SMALL.split()[:-4], "--quick", "--out", run_out)
    assert f"\n{taken} segments (" in f"\n{out}" and ("--subsample 2" in out) == (count > 600)
    assert "--epochs 4" in out and out.count("egodistill finetune") == 1 and "few epochs" in out
    assert reading.lines(reading.sections(run_out / "report.html")["Result"])["--quick"].startswith("few epochs")


@pytest.fixture
def project(kitchen, tmp_path, monkeypatch, capsys):
    """A folder with films, their table and a run that has decoded them, as far as `train` can see."""
    folder = tmp_path / "project"
    (folder / "films").mkdir(parents=True)
    rows = []
    for name, segment, split in (("a", kitchen[0], "train"), ("b", kitchen[3], "test")):
        shutil.copy(segment.video, folder / f"films/{name}.mp4")
        write_imu(folder / f"films/{name}.csv", 0.0)
        rows += [(f"films/{name}.mp4", start, start + 2, label, split) for start, label in ((0, "a"), (2, "b"))]
    write_table(folder / "t.csv", "video start stop label split".split(), rows)

    def decode(step):
        if step[0] == "prepare":
            Path(step[step.index("--out") + 1]).mkdir(exist_ok=True)

    monkeypatch.setattr(pipeline, "run_step", decode)
    monkeypatch.chdir(folder)
    run(capsys, "train", "t.csv", *SMALL.split(), "--out", "run")
    return folder


@pytest.mark.parametrize("way", ["renamed", "copied", "opened elsewhere"])
def test_a_project_that_was_moved_goes_on(project, way, monkeypatch, capsys):
    now = project
    monkeypatch.chdir(project.parent)
    if way != "opened elsewhere":
        now = project.with_name("other name")
        (shutil.move if way == "renamed" else shutil.copytree)(project, now)
    assert "has changed" not in run(capsys, "train", now / "t.csv", *SMALL.split(), "--out", now / "run")
    (now / "t.csv").write_text((now / "t.csv").read_text().replace("2,4", "2,5"))
    assert "t.csv has changed" in run(capsys, "train", now / "t.csv", *SMALL.split(), "--out", now / "run")


@pytest.mark.parametrize(
    ("teacher", "models"),
    [
        ("", ["student"]),
        pytest.param(TEACHER, ["teacher", "imu", "student"], marks=pytest.mark.slow("the same with a teacher")),
    ],
    ids=["labels alone", "a teacher"],
)
def test_a_run_that_follows_edits_ends_as_a_fresh_one(kitchen, tmp_path, monkeypatch, capsys, teacher, models):
    """A label, then rows; killed before the student of the first edit is there."""
    monkeypatch.chdir(tmp_path)
    rows = [
        (kitchen[k].video, start, start + 2, "ab"[start // 2], ("train", "test")[k > 5])
        for k in (0, 3, 6)
        for start in (0, 2)
    ]
    labels = [(*row[:3], "b", row[4]) if number == 2 else row for number, row in enumerate(rows)]
    others = [labels[0], (kitchen[3].video, 1, 3.5, "a", "train"), *labels[2:]]

    def train(rows, out):
        write_table(tmp_path / "t.csv", "video start stop label split".split(), rows)
        return run(
            capsys, "train", "t.csv", *SMALL.split(), *teacher.split(), "--no-check", "--workers", 1, "--out", out
        )

    train(rows, "run")
    with monkeypatch.context() as patch:
        step = pipeline.run_step
        patch.setattr(
            pipeline, "run_step", lambda words: step(words) if words[0] == "prepare" else pytest.exit("killed")
        )
        with pytest.raises(pytest.exit.Exception):
            train(labels, "run")
    for number, edit in enumerate((labels, others)):
        train(edit, "run")
        train(edit, f"fresh-{number}")
        for name in models:
            assert same(tmp_path / f"run/{name}.safetensors", tmp_path / f"fresh-{number}/{name}.safetensors"), name
        found, fresh = (json.loads(Path(out, "student.test.json").read_text()) for out in ("run", f"fresh-{number}"))
        assert found == fresh
    assert "has changed" not in train(others, "run")


def test_a_step_of_another_version_is_told(project, capsys):
    plan = json.loads(Path("run/train.json").read_text())
    plan["steps"][0] += " --of-tomorrow 3"
    Path("run/train.json").write_text(json.dumps(plan))
    assert cli.main(["train", "t.csv", *SMALL.split(), "--out", "run"]) == 1
    assert "run/train.json: has a step that this version does not know" in capsys.readouterr().err


def test_a_check_counts_for_its_own_axes_alone(project, capsys):
    shutil.rmtree("run/store")
    again = ["train", "./t.csv", *SMALL.split(), "--out", "run", "--imu-axes"]
    assert "already checked" not in run(capsys, *again, "XZy")
    shutil.rmtree("run/store")
    assert "already checked" in run(capsys, *again, "XZy", "--strict")
    shutil.rmtree("run/store")
    assert "already checked" not in run(capsys, *again, "gopro")


def test_a_table_is_examined_before_clocks_are_checked(project, monkeypatch, capsys):
    monkeypatch.setattr(checks, "check", None)
    sound, late = (
        Path("t.csv").read_text(),
        "row 2: stops at 2000.0 s, but the video ends at 6.0 s; are the times milli",
    )
    Path("t.csv").write_text(re.sub(r",(\d),(\d),", r",\g<1>000,\g<2>000,", sound))
    for words in (["train", "t.csv", *SMALL.split(), "--out", "other"], ["check", "t.csv", "--out", "c.csv"]):
        assert cli.main(words) == 1
        assert f"t.csv, {late}" in capsys.readouterr().err
    assert not Path("other").exists() and not Path("c.csv").exists()
    films = [f"films/a.mp4,{k / 4},{k / 4 + 0.2},pour,train" for k in range(12)]
    Path("t.csv").write_text("\n".join(["video,start,stop,label,split", *films, "films/b.mp4,0,2,puor,test", ""]))
    out = run(capsys, "train", "t.csv", *SMALL.split(), "--no-check", "--out", "other")
    assert out.count("t.csv, row 14: the label 'puor' (1 segment) is one or two letters from 'pour' (12 segments)") == 1
    assert "1 class has no segment with the split train, so students cannot learn it: 'puor'" in out
    assert "1 class has no segment with the split test, so nothing says how well students know it: 'pour'" in out
    assert out.index("puor") < out.index("decode the clips")


def write_imu(path, late, unit=1.0):
    """A table of -1 to 7 s whose clock is late."""
    times = np.arange(-1, 7, 0.01)
    rows = np.column_stack([times + late, np.full((len(times), 3), [0, 0, 9.81 * unit]), np.zeros((len(times), 3))])
    write_table(path, "time ax ay az gx gy gz".split(), rows)


@pytest.mark.filterwarnings("ignore:.*could not be prepared")
def test_what_has_changed_is_checked_and_prepared_again_by_a_retry(kitchen, tmp_path, monkeypatch, capsys):
    """All, as soon as one has changed, for its axes; a clock that can't be measured is that of the table."""
    rows = []
    for k, segment in enumerate((kitchen[0], kitchen[3], kitchen[6], kitchen[6])):
        shutil.copy(segment.video, tmp_path / f"{k}.mp4")
        write_imu(tmp_path / f"{k}.csv", 0.1 * (k + 1))
        rows += [(f"{k}.mp4", 0, 2, "a", f"{k}.csv", "train", f"P{k // 2}")]
        rows += [(f"{k}.mp4", 2, 4, "b", f"{k}.csv", "test", f"P{k // 2}")]
    write_table(tmp_path / "t.csv", "video start stop label imu split wearer".split(), rows)
    write_imu(tmp_path / "0.csv", 0.1, unit=1 / 9.81)  # in g
    measured, step, why = [], pipeline.run_step, {}

    def check(recording, **options):
        measured.append(Path(recording.video).stem)
        try:
            late = 1 + recording.motion().gyro_time[0]
        except ValueError as error:
            return checks.Check(recording.video, problem=str(error))
        return checks.Check(
            recording.video, offset=Offset(-late, 1.0, 0.0, why.get(measured[-1]), None, (), np.zeros((2, 3)))
        )

    monkeypatch.setattr(checks, "check", check)
    monkeypatch.setattr(checks.Check, "row", lambda self: self.path)
    monkeypatch.setattr(checks.Check, "verdict", lambda self: "measured")
    monkeypatch.setattr(pipeline, "run_step", lambda words: step(words) if words[0] == "prepare" else None)
    monkeypatch.chdir(tmp_path)
    words = ["train", "t.csv", *SMALL.split(), "--workers", "1", "--out", "run"]

    def clocks():
        return [round(one.imu_offset, 3) for one in StoreFiles("run/store").segments[::2]]

    assert cli.main(words) == 1
    assert "0.csv: the acceleration is in g" in capsys.readouterr().err and measured == ["0", "1", "2", "3"]
    measured.clear()
    write_imu(tmp_path / "0.csv", 0.1)
    out = run(capsys, *words)  # another clock is an edit, and clips that failed are tried again
    assert "\n0.mp4: video, IMU or clock has changed since the last check: all are measured again\n" in out
    assert clocks() == [-0.1, -0.2, -0.3, -0.4] and measured == ["0", "1", "2", "3"]

    for late, doubt, clock in ((0.0, None, 0.0), (0.3, None, -0.3), (0.4, "the camera is still", 0.0)):
        measured.clear()
        why["3"] = doubt
        write_imu(tmp_path / "3.csv", late)
        before = list(StoreFiles("run/store").segments)
        assert cli.main(words) == 1
        assert "--retry-failed" in capsys.readouterr().err and measured == ["0", "1", "2", "3"]
        assert list(StoreFiles("run/store").segments) == before
        out = run(capsys, *words, "--retry-failed")
        assert "egodistill finetune run/store" in out and "--overwrite" in out  # of the new clips
        assert clocks()[3] == clock and clocks()[:2] == [-0.1, -0.2] and len(measured) == 4
    assert [one["video"] for one in json.loads(Path("run/check.json").read_text())["recordings"]] == [
        f"{k}.mp4" for k in range(4)
    ]
    assert "already checked" in run(capsys, *words)  # and the plan is the same


@pytest.fixture(scope="module")
def camera(tmp_path_factory):
    """Four recordings of one camera, whose IMU is mounted turned; the first alone tells, the last has no clock, too."""
    folder = tmp_path_factory.mktemp("camera")
    for seed, seconds in enumerate((12, 2.4, 2.7, 3)):
        pan(folder / f"{seed}.mp4", np.arange(seconds * RATE) / RATE, seed)
        stamps, rates = gyroscope(seconds, 9 if seed == 3 else seed)
        accel = np.random.default_rng(seed).normal((0, 0, 9.81), 0.05, rates.shape)
        table = np.column_stack([stamps, accel, rates]).round(5).tolist()
        write_table(folder / f"{seed}.csv", "time ax ay az gx gy gz".split(), table)
    return folder


def axes_of_store(store):
    return {Path(one.video).stem: one.imu_axes for one in StoreFiles(store).segments}


def test_recordings_of_one_camera_get_one_frame_of_reference(camera, tmp_path, monkeypatch, capsys):
    """Those that are too short to tell, or too still to have a clock, are turned as the one that is sure."""
    step = pipeline.run_step
    monkeypatch.setattr(pipeline, "run_step", lambda words: step(words) if words[0] == "prepare" else None)
    rows = [(camera / f"{k}.mp4", 0, 2, "ab"[k % 2], ("train", "test")[k > 1], f"P{k}") for k in range(4)]
    write_table(tmp_path / "t.csv", "video start stop label split wearer".split(), rows)
    out = run(capsys, "train", tmp_path / "t.csv", *SMALL.split(), "--workers", 1, "--out", tmp_path / "run")
    assert axes_of_store(tmp_path / "run/store") == dict.fromkeys("0123", "xyZ")
    alone = [checks.check(camera / f"{k}.mp4") for k in range(4)]
    assert [one.right_axes for one in alone] == ["xyZ", None, None, None]
    assert {one.axes_state for one in alone[1:]} == {"undecided"} and not alone[3].offset.reliable
    found = json.loads((tmp_path / "run/check.json").read_text())["recordings"]
    assert [(one["axes"], one["axes_state"]) for one in found] == [("xyZ", "wrong")] * 4
    lines = [line for line in out.splitlines() if ": the axes are wrong: --imu-axes xyZ fixes them" in line]
    assert [line.partition(":")[0] for line in lines] == [f"{k}.mp4" for k in range(4)]
    assert "\naxes: 4 wrong\n" in out and "3 of 4 recordings have a reliable offset" in out
    assert "predict VIDEO --imu-axes xyZ --student" in out
    words = [*SMALL.split(), "--workers", 1, "--out", tmp_path / "given", "--imu-axes", "xyZ"]
    out = run(capsys, "train", tmp_path / "t.csv", *words)
    assert axes_of_store(tmp_path / "given/store") == dict.fromkeys("0123", "xyZ")
    assert "predict VIDEO --imu-axes xyZ --student" in out  # as those of the training were told, too


def test_axes_that_were_repaired_are_turned_no_more(camera, tmp_path, monkeypatch, capsys):
    """The turn that an earlier check found would come on top of the repair."""
    step = pipeline.run_step
    monkeypatch.setattr(pipeline, "run_step", lambda words: step(words) if words[0] == "prepare" else None)
    imu = np.loadtxt(camera / "0.csv", delimiter=",", skiprows=1)
    for repaired in (False, True):
        if repaired:  # left and back of the camera are -x and -y of the sensor
            imu[:, [1, 2, 4, 5]] *= -1
        write_table(tmp_path / "imu.csv", "time ax ay az gx gy gz".split(), imu.round(5).tolist())
        rows = [(camera / "0.mp4", "imu.csv", 3 * k, 3 * k + 2, "ab"[k], ("train", "test")[k]) for k in (0, 1)]
        write_table(tmp_path / "t.csv", "video imu start stop label split".split(), rows)
        words = [*SMALL.split(), "--workers", 1, "--out", tmp_path / "run", "--retry-failed"]
        out = run(capsys, "train", tmp_path / "t.csv", *words)
        axes = {one.imu_axes for one in StoreFiles(tmp_path / "run/store").segments}
        assert axes == ({"gopro"} if repaired else {"xyZ"}) and ("--imu-axes xyZ --student" in out) == (not repaired)


def test_a_clock_that_the_table_corrects_is_measured_again(camera, tmp_path, monkeypatch, capsys):
    """What was measured before comes on top of the table's own, so it would count twice."""
    step = pipeline.run_step
    monkeypatch.setattr(pipeline, "run_step", lambda words: step(words) if words[0] == "prepare" else None)
    imu = np.loadtxt(camera / "0.csv", delimiter=",", skiprows=1)
    imu[:, 0] -= 0.3
    write_table(tmp_path / "late.csv", "time ax ay az gx gy gz".split(), imu.round(5).tolist())
    for offset in (0, 0.3, 0.3):
        rows = [(camera / "0.mp4", "late.csv", 3 * k, 3 * k + 2, "ab"[k], ("train", "test")[k], offset) for k in (0, 1)]
        write_table(tmp_path / "t.csv", "video imu start stop label split imu_offset".split(), rows)
        out = run(capsys, "train", tmp_path / "t.csv", *SMALL.split(), "--workers", 1, "--out", tmp_path / "run")
        offsets = [one.imu_offset for one in StoreFiles(tmp_path / "run/store").segments]
        assert offsets == pytest.approx([0.3, 0.3], abs=0.03)
    assert "already checked" in out


def test_recordings_of_one_camera_that_disagree_end_a_run(camera, tmp_path, capsys):
    """Before a clip is decoded, until the table says that they differ; another rate is another camera."""
    for name, source, turn, rate in (
        ("right", 0, [-1, -1, 1], 1),
        ("other", 0, [-1, -1, 1], 1.02),
        ("short", 1, 1, 1.04),
    ):
        shutil.copy(camera / f"{source}.mp4", tmp_path / f"{name}.mp4")
        head, *rows = (camera / f"{source}.csv").read_text().splitlines()
        table = np.array([row.split(",") for row in rows], float)
        table[:, 4:] *= turn
        grid = np.arange(0, table[-1, 0], np.diff(table[:, 0]).mean() / rate)
        columns = [grid, *(np.interp(grid, table[:, 0], column) for column in table.T[1:])]
        write_table(tmp_path / f"{name}.csv", head.split(","), np.column_stack(columns).round(5).tolist())
    table = tmp_path / "t.csv"

    def write(second, axes=""):
        rows = [(camera / "0.mp4", 0, 2, "a", "train", axes), (tmp_path / f"{second}.mp4", 0, 2, "b", "test", "")]
        write_table(table, "video start stop label split imu_axes".split(), rows)

    write("right")
    for words in (["check", str(table)], ["train", str(table), *SMALL.split(), "--out", str(tmp_path / "run")]):
        assert cli.main(words) == 1
        said = capsys.readouterr()
        assert "0.mp4: --imu-axes xyZ; right.mp4: right as they are" in said.err and "column imu_axes" in said.err
        assert " ".join(said.out.split()).count("the axes are undecided: the recordings of its camera disagree") == 2
        assert not (tmp_path / "run" / "store").exists()
    write("right", "xyZ")
    assert run(capsys, "check", table).count(": the axes look right") == 2
    write("other")
    out = run(capsys, "check", table)
    assert "0.mp4: the axes are wrong: --imu-axes xyZ" in out and "other.mp4: the axes look right" in out
    assert out.endswith("\naxes: 1 wrong, 1 ok\n")
    out = run(capsys, "check", camera / "0.mp4", tmp_path / "other.mp4", tmp_path / "short.mp4")
    assert out.endswith("\naxes: 1 wrong, 1 ok, 1 undecided\n")
    write("short")
    assert run(capsys, "check", table).endswith(
        "\naxes: 1 wrong, 1 undecided\n  if one camera recorded all: --imu-axes xyZ\n"
    )


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("--image-encoder resnet99 --image-weights none", "image_encoder='resnet99' .* cannot be used"),
        ("--image-encoder resnet18", r"the ImageNet weights of resnet18 .*--image-weights none. for random weights"),
        ("--image-encoder vit_b_16 --image-weights none --frame-size 64", "needs 224-pixel frames"),
        (
            "--image-encoder resnet10x4 --image-weights none --architecture swin3d_t --pretrained torchvision",
            "torchvision's weights of swin3d_t could not be downloaded .*--pretrained FILE",
        ),
        (f"{OWN} --architecture swin3d_t --pretrained notes.txt", "notes.txt cannot be read"),
        (f"{OWN} --architecture swin3d_t --option beta=4", "swin3d_t has no option 'beta'"),
        (f"{OWN} --learning-rate -1", "learning_rate .* must be a number, 0 <"),
        (f"{OWN} --batch-size 1", "batch_size .* must be a whole number, 2 <="),
        (f"{OWN} --teacher-file notes.txt", "notes.txt: the name of a model file must end in"),
        (f"{OWN} --teacher-file own.py:none", r"own.py:none: none is no network: it gives a NoneType"),
        (
            f"{OWN} --teacher-file student.safetensors",
            r"student.safetensors holds a model of class EgoDistill, not a teacher",
        ),
    ],
)
def test_a_network_that_cannot_be_is_refused_before_the_clips_are_decoded(
    words, what, demo, tmp_path, monkeypatch, capsys
):
    def offline(*given, **options):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("no weights")
    Path("own.py").write_text("def none():\n    pass\n")
    EgoDistill(2, image_encoder="resnet10x4", image_weights=None).save("student.safetensors")
    assert cli.main(["train", str(table_of(demo)), "--out", str(tmp_path / "run"), *words.split()]) == 1
    assert re.search(what, capsys.readouterr().err) and not (tmp_path / "run").exists()


def test_a_folder_of_other_files_is_refused(demo, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert cli.main(["train", str(table_of(demo)), "--no-check", "--out", str(tmp_path)]) == 1
    assert "not a folder of `egodistill train`" in capsys.readouterr().err and len(list(tmp_path.iterdir())) == 1


COLUMNS = "video imu start stop label split wearer".split()


def write_logs(table):
    """Write three logs of three wearers into this folder, one from 200 s on, and their table; return its rows."""
    rows = []
    for k, begin in enumerate((0.0, 0.0, 200.0)):
        write_log(f"{k}.csv", begin=begin, seconds=14.0, rate=60.0, seed=k)
        split = ("train", "train", "test")[k]
        rows += [("", f"{k}.csv", begin + 6 * n, begin + 6 * n + 5, "ab"[n], split, f"P{k}") for n in (0, 1)]
    write_table(table, COLUMNS, rows)
    return rows


ALONE = "--image-encoder none --imu-encoder filterbank --epochs 2 --batch-size 4 --workers 1"


def test_recordings_without_a_video_go_to_a_page_also_if_the_run_is_killed(tmp_path, monkeypatch, capsys):
    """Three wearers; equal bits; a table that also has a video gives each clip what it has."""
    monkeypatch.chdir(tmp_path)
    rows = write_logs(tmp_path / "t.csv")
    out = run(capsys, "train", "t.csv", *ALONE.split(), "--out", "run")
    assert "6 segments (2 test, 4 train) of 3 recordings" in out and "prepare t.csv" in out and "--no-frames" in out
    assert "egodistill predict --imu CSV --student run/student.safetensors" in out
    page = Path("run/report.html").read_text()
    assert "<small>2.csv 3:2" in page and "data:image/jpeg" not in page and "head turns" in page
    assert "no picture" in page and {*data.ClipStore("run/store").names} == {"imu"}
    assert len({clip["video"] for clip in data.ClipStore("run/store").clips}) == 3
    killed = []
    end = training.TrainingLoop.end_epoch

    def end_epoch(self, *given):
        end(self, *given)
        if not killed:
            killed.append(self.epoch)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.TrainingLoop, "end_epoch", end_epoch)
        assert cli.main(["train", "t.csv", *ALONE.split(), "--out", "killed"]) == 130
    run(capsys, "train", "t.csv", *ALONE.split(), "--out", "killed")
    assert killed == [1] and same("run/student.safetensors", "killed/student.safetensors")
    results = [json.loads(Path(out, "student.test.json").read_text()) for out in ("run", "killed")]
    assert results[0] == results[1] and results[0]["segments"] == 2

    write_video(tmp_path / "v.mp4", STEADY[:175])
    write_log("v.csv", seconds=7.0, rate=60.0, seed=9)
    both = [*rows, ("v.mp4", "v.csv", 0, 6, "a", "train", "P9")]
    write_table(tmp_path / "both.csv", COLUMNS, both)
    run(capsys, "train", "both.csv", *ALONE.split(), "--no-check", "--out", "both")
    store = data.ClipStore("both/store")
    assert len(store) == 6 * 3 + 3 and not store.failures
    frames = ["--image-encoder", "resnet10x4", "--image-weights", "none"]
    for words, lacks in (
        (["train", "both.csv", *frames, "--out", "other"], "no frame; read head motion alone, --image-encoder none"),
        (
            ["train", "t.csv", "--image-encoder", "none", "--architecture", "i3d", "--out", "other"],
            "no clip for the tea",
        ),
        (["prepare", "both.csv", "--out", "other"], "no frames_1; read head motion alone, prepare(num_frames=[], ends"),
    ):
        assert cli.main(words) == 1
        assert f"0.csv: has no video, as 3 of {3 + (words[1] == 'both.csv')} recordings, and so {lacks}" in " ".join(
            capsys.readouterr().err.split()
        )
    assert not Path("other").exists()


def test_background_goes_from_the_table_to_the_student_and_follows_edits(tmp_path, monkeypatch, capsys):
    """To its answers and the page, too; what a new row covers is background no more."""
    monkeypatch.chdir(tmp_path)
    write_logs(tmp_path / "t.csv")
    rows = [
        ("", f"{k}.csv", 9 * n + 200 * (k > 1), 9 * n + 4 + 200 * (k > 1), "ab"[n], "train test".split()[k > 1], "")
        for k in range(3)
        for n in (0, 1)
    ]
    write_table(tmp_path / "t.csv", COLUMNS, rows)
    words = ["train", "t.csv", *ALONE.split(), "--no-check", "--background", "2", "--out", "run"]
    out = run(capsys, *words)
    assert "8 segments (2 test, 6 train) of 3 recordings, 3 classes: 14 clips (2 of (none)), about" in out
    assert "prepare t.csv --background 2 " in out and out.count("note: background: 2 clips") == 1
    assert EgoDistill.load("run/student.safetensors").class_names == ["(none)", "a", "b"]
    assert "chance, one of 2 classes: 50.0 %" in out and "(none)" in Path("run/report.html").read_text()
    run(
        capsys,
        "predict",
        "--imu",
        "2.csv",
        "--student",
        "run/student.safetensors",
        "--out",
        "p.csv",
        "--html",
        "p.html",
    )
    assert "(none)" in Path("p.csv").read_text() and "(none)" in Path("p.html").read_text()
    before = [clip for clip in data.ClipStore("run/store").clips if clip["label"] == "(none)"]
    assert [(clip["video"], clip["start"] > 4.4, clip["stop"] < 8.6) for clip in before] == [
        ("0.csv", True, True),
        ("1.csv", True, True),
    ]

    write_table(tmp_path / "t.csv", COLUMNS, [*rows, ("", "0.csv", 5.9, 7, "a", "train", "")])
    out = run(capsys, *words)
    assert "t.csv has changed" in out and "1 clip new, 1 gone" in out and "room for no more, 2 were wanted" in out
    left = [clip for clip in data.ClipStore("run/store").clips if clip["label"] == "(none)"]
    assert [clip["video"] for clip in left] == ["1.csv"] and left[0]["start"] == before[1]["start"]


def test_a_student_with_more_context_is_trained_from_longer_clips(tmp_path, monkeypatch, capsys):
    """Windows of 4 s at 50 Hz; another length is refused by its name, also for a published teacher."""
    monkeypatch.chdir(tmp_path)
    write_logs(tmp_path / "t.csv")
    clips = "--clip-seconds 4 --imu-rate 50".split()
    prepare = ["prepare", "t.csv", "--no-frames", "--workers", "1", "--out", "store"]
    run(capsys, *prepare, *clips)
    store = data.ClipStore("store")
    assert len(store) == 12 and [clip["start"] for clip in store.clips[:4]] == [0.0, 1.0, 6.0, 7.0]
    for row, clip in enumerate(store.clips):
        window = data.Recording(None, clip["video"]).motion().window(clip["start"], 200, 50.0)
        np.testing.assert_array_equal(store.read("imu", row), window)
        assert clip["stop"] == clip["start"] + 4.0
    for words, said in (
        ("--clip-seconds 5 --imu-rate 50", "clip_seconds was 4.0 and is now 5.0"),
        ("--clip-seconds 4", "imu_rate was 50.0 and is now 198.0"),
    ):
        assert cli.main([*prepare, *words.split()]) == 1
        assert said in " ".join(capsys.readouterr().err.split())

    train = ["train", "t.csv", *ALONE.split(), "--no-check", "--out", "run"]
    run(capsys, *train, *clips)
    model = EgoDistill.load("run/student.safetensors")
    assert (model.clip_seconds, model.imu_rate, model.imu_samples) == (4.0, 50.0, 200)
    assert batches.clip_spec_of(model).imu_axes == "any"  # also after it was trained on samples of some axes
    unsure = [word.replace("filterbank", "filterbank-unsure") for word in ALONE.split()]
    out = run(capsys, "train", "t.csv", *unsure, *clips, "--no-check", "--out", "unsure")
    assert EgoDistill.load("unsure/student.safetensors").class_names == ["a", "b", "unsure"]
    assert "chance, one of 2 classes: 50.0 %" in out and "of the 3 classes" not in out
    assert Path("run/report.html").exists() and {*data.ClipStore("run/store").specs} == {"imu"}
    assert cli.main([*train, "--clip-seconds", "5", "--imu-rate", "50"]) == 1
    assert "--clip-seconds was 4.0 and is now 5.0" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ValueError, match=r"i3d reads clips of 2\.133 s, those of a store have 4\.000 s"):
        pipeline.clip_of(cli.parse("train t.csv --out o --architecture i3d --clip-seconds 4".split()))


def test_a_student_of_head_motion_alone_has_no_stage_1_and_no_baseline_of_frames():
    steps = planned("t.csv --out o --teacher-file t.safetensors --image-encoder none --baselines")
    assert [line.split()[1] for line in steps] == ["prepare", "distill", "finetune", "evaluate", "evaluate"]
    assert "--no-frames" in steps[0] and "--num-frames" not in steps[0]
    assert steps[1] == "egodistill distill o/store --image-encoder none --out o/student.safetensors"
    bank = planned("t.csv --out o --teacher-file t.safetensors --imu-encoder filterbank --baselines")
    assert [line.split()[1] for line in bank][:3] == ["prepare", "distill", "distill"]
    assert bank[2] == "egodistill distill o/store --no-imu --out o/frames-alone.safetensors"


def write_day(table, wearers=6):
    """Write a log of 26 s of each wearer into this folder, and a table of two segments of each; the last one tests."""
    rows = []
    for k in range(wearers):
        write_log(f"{k}.csv", seconds=26.0, rate=60.0, seed=k)
        split = "test" if k == wearers - 1 else "train"
        rows += [("", f"{k}.csv", 13 * n, 13 * n + 12, "ab"[n], split, f"P{k}") for n in (0, 1)]
    write_table(table, COLUMNS, rows)


def test_wearers_are_held_out_to_fit_a_temperature_or_the_plan_says_why_not(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_day(tmp_path / "t.csv", 12)
    few = ["train", "t.csv", *ALONE.split(), "--no-check"]
    out = run(capsys, *few, "--out", "few")
    assert "nothing is held out to fit a temperature: 10 % of the training wearers" in out
    assert calibration.calibration_of(EgoDistill.load("few/student.safetensors")) == calibration.Calibration()
    run(capsys, *few, "--calibration-share", "0", "--out", "none")
    assert same("few/student.safetensors", "none/student.safetensors")

    half = [*few, "--calibration-share", "0.5", "--out", "half"]
    out = run(capsys, *half)
    store, model = data.ClipStore("half/store"), EgoDistill.load("half/student.safetensors")
    held, trained = ({*store.split(name).wearers} for name in ("calibration", "train"))
    assert len(held) == 6 and len(trained) == 5 and not held & trained
    assert "72 clips of 6 recordings are held out: no model learns from them" in out and "10 train" in out
    found = calibration.calibration_of(model)
    assert found.clips == 72 and found.temperature != 1
    content = Path("half/student.safetensors").read_bytes()
    run(capsys, *[*few, "--out", "half"])  # a run keeps the share that it began with
    assert Path("half/student.safetensors").read_bytes() == content
    assert cli.main([*few, "--calibration-share", "0.3", "--out", "half"]) == 1
    assert "--calibration-share was 0.5 and is now 0.3" in " ".join(capsys.readouterr().err.split())
    numbers = json.loads(Path("half/student.test.json").read_text())["calibration"]
    assert numbers["temperature"] == found.temperature and numbers["clips"] == 12
    assert "How sure" in Path("half/report.html").read_text() and "log loss" in Path("half/report.html").read_text()

    # A run that began without it, as all of 0.5, goes on without it.
    plan = json.loads(Path("few/train.json").read_text())
    plan["steps"] = [step.replace(" --calibration-share 0.1", "") for step in plan["steps"]]
    Path("few/train.json").write_text(json.dumps(plan))
    content = Path("few/student.safetensors").read_bytes()
    out = run(capsys, *few, "--out", "few")
    assert (
        "held out" not in out
        and "--calibration-share" not in out
        and Path("few/student.safetensors").read_bytes() == content
    )
