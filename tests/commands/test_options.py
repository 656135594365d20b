"""Each option of each command arrives where it acts."""

import argparse
import contextlib
import functools
import json
import re
import typing
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import toys
from commandline import Clips, any_input, run
from miniature import file_of
from spies import Spies

import egodistill.commands.demo
import egodistill.commands.recordings
import egodistill.support.files
from egodistill import EgoDistill, data, distillation, imu, inference, teachers, video
from egodistill.commands import cli, live, models as model_commands, pipeline, report, training
from egodistill.commands.settings import add_fields, apply_options, flag, option_fields, used_flags
from egodistill.deploy import arrivals, events, export, feeds, stream
from egodistill.engine import augmentation, batches, recipes
from egodistill.recordings import copies
from egodistill.support import defaults, tables
from egodistill.world import synthetic


def test_training_options_reach_the_stage(demo, tmp_path, monkeypatch):
    given = []

    def distill(model, store, settings, **named):
        given.append(settings)
        assert named == {"teacher": "slowfast", "validation": None}
        return [{"loss": 0.0, "top1": 0.0}]

    monkeypatch.setattr(distillation, "distill", distill)
    command = ["distill", str(demo.out / "store"), "--teacher", "slowfast"]
    command += ["--init", str(file_of(demo.out, "stage 1")), "--out", str(tmp_path / "s.safetensors")]
    assert cli.main(command) == 0
    plain = replace(egodistill.EPIC_KITCHENS.distillation, out=str(tmp_path / "s.safetensors"))
    assert given.pop() == plain  # the paper's for EPIC-KITCHENS
    values = (
        "--alpha 0.5 --beta 2 --tau 3 --tau-squared --l1-reduction sum --epochs 4 --batch-size 5 --learning-rate 0.6 "
        "--decay-epochs 2 3 --decay 0.7 --weight-decay 0.8 --clip-norm 2 --seed 9 --precision bf16 --device cpu "
        "--schedule cosine --warmup-epochs 1.5 --sync-batch-norm --crop 0.3 --jitter 0.2 --shift 0.05 "
        "--label-smoothing 0.1"
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
        clip_norm=2.0,
        seed=9,
        precision="bf16",
        device="cpu",
        sync_batch_norm=True,
        augment=egodistill.Augment(crop=0.3, jitter=0.2, shift=0.05),
        label_smoothing=0.1,
        out=str(tmp_path / "s.safetensors"),
    )
    assert cli.main([*command, "--decay-epochs"]) == 0 and given.pop().decay_epochs == ()


def test_the_crop_of_the_command_line_changes_the_clips(demo, tmp_path, monkeypatch, capsys):
    """A training of its own: what reaches the student is cut, each clip in its way."""
    seen = []
    monkeypatch.setattr(
        augmentation, "augment_batch", lambda augment, _, seeds, motion: seen.extend([augment.crop] * len(seeds))
    )
    command = ["finetune", demo.out / "store", "--architecture", "student", "--preset", "demo", "--epochs", 1]
    run(capsys, *command, "--out", tmp_path / "plain.safetensors")
    assert seen == []
    run(capsys, *command, "--crop", 0.25, "--out", tmp_path / "cut.safetensors")
    assert seen == 16 * [0.25]
    run(capsys, *command, "--validation", "test", "--out", tmp_path / "best.safetensors")
    (row,) = egodistill.support.files.read_lines(tmp_path / "best.safetensors.jsonl", "validation_top1")
    assert row["epoch"] == 1 and 0 <= row["validation_top1"] <= 1


@pytest.mark.parametrize("stage", ["finetuning", "pretraining", "distillation", "student"])
def test_options_are_the_fields_of_settings(stage):
    """All fields but those that come from elsewhere; each is read back with the type of its default."""
    settings = getattr(egodistill.EGO4D, stage)
    parser = argparse.ArgumentParser()
    add_fields(parser, settings)
    free = {"device", "checkpoint", "checkpoint_seconds", "progress", "augment"}
    free |= {"out", "overwrite", "imu_width", "hidden", "fusion_layers", "feature_dim"}
    names = {action.dest for action in parser._actions} - {"help"}
    assert names == ({field.name for field in fields(settings)} - free) | (
        {"crop", "jitter", "shift", "motion"} if stage != "student" else set()
    )
    arguments = parser.parse_args([])
    assert apply_options(settings, arguments) == settings and used_flags(settings, arguments) == []
    values, expected = [], {}
    for field in fields(settings):
        default = getattr(settings, field.name)
        if field.name in names:
            text = {"schedule": "cosine", "precision": "bf16", "imu_vector": "mean", "l1_reduction": "sum"}.get(
                field.name, "7"
            )
            text = {"alpha": "0.5", "decay": "0.5", "label_smoothing": "0.5", "aggregator": "concat"}.get(
                field.name, text
            )
            values += [flag(field.name, default), *([] if isinstance(default, bool) else [text])]
            expected[field.name] = {bool: not default, tuple: (7,), str: text}.get(
                type(default), 0.5 if text == "0.5" else 7
            )
            if default is None:
                expected[field.name] = 7.0 if field.name == "clip_norm" else text
    if "crop" in names:  # a field of a dataclass in the settings
        at = values.index("--sync-batch-norm") + 1  # in the order of the fields
        values[at:at] = ["--crop", "0.5", "--jitter", "0.25", "--shift", "0.125", "--motion", "walk.csv", "run.csv"]
        motion = ("walk.csv", "run.csv")
        expected["augment"] = egodistill.Augment(crop=0.5, jitter=0.25, shift=0.125, motion=motion)
    changed = apply_options(settings, parser.parse_args(values))
    assert changed == replace(settings, **expected)
    for name, value in expected.items():
        default = getattr(settings, name)
        assert type(getattr(changed, name)) is type(value if default is None else default)
    assert used_flags(settings, parser.parse_args(values)) == [v for v in values if v[:2] == "--"]


UNUSED = ["crop", "jitter", "label_smoothing"]  # by stage 1


def field_words(settings, without=()) -> tuple[str, dict]:
    """Return options with other values than the defaults for all fields that are options, and the values."""
    words, values = [], {}
    for name, value, hint in option_fields(settings):
        if name in without:
            continue
        other = {bool: not value, int: 7, float: 0.25, tuple: (7,), str: "none", type(None): "none"}[type(value)]
        choices = [choice for choice in typing.get_args(hint) if isinstance(choice, str)]
        other = choices[-1] if choices and choices[-1] != value else choices[0] if choices else other
        other = {"image_encoder": "resnet10x4", "image_weights": "w.pth", "clip_norm": 2.0}.get(name, other)
        other = ("cues.toml",) if name == "motion" else other  # a file of the folder, which is not read here
        shown = (
            [] if isinstance(value, bool) else [str(one) for one in (other if isinstance(other, tuple) else [other])]
        )
        words += [flag(name, value), *shown]
        values[name] = other
    return " ".join(words), values


def stage_arrivals(stage, function, without=()) -> tuple[str, dict]:
    """Return words for all options of a stage and of a student, and where each arrives."""
    words, values = field_words(getattr(egodistill.EPIC_KITCHENS, stage), without)
    arrivals = {f"{function}.settings.{name}": value for name, value in values.items()}
    for name in {"crop", "jitter", "shift", "motion"} & set(values):
        arrivals[f"{function}.settings.augment.{name}"] = arrivals.pop(f"{function}.settings.{name}")
    return f"{words} --device cpu", arrivals | {f"{function}.settings.device": "cpu"}


def student_arrivals(function) -> tuple[str, dict]:
    words, values = field_words(egodistill.EPIC_KITCHENS.student, recipes.CUSTOM_NETWORKS)
    arrivals = {f"{function}.model.arguments.{name}": value for name, value in values.items()}
    arrivals["build_image_encoder.weights"] = arrivals.pop(f"{function}.model.arguments.image_weights")
    return words, arrivals


def training_runs(stage, function, fixed="", *, without=()):
    """Return the runs of a training command: all settings; a model to start from; a preset."""
    ours = " --teacher t" if function != "finetune" else ""
    words, arrivals = stage_arrivals(stage, function, without)
    student, built = student_arrivals(function)
    out = f"folder --out {{tmp}}/x.safetensors{ours}"
    taught = {f"{function}.teacher": "t"} if ours else {}
    files = {f"{function}.settings.out": "{tmp}/x.safetensors", "check_output.path": "{tmp}/x.safetensors"}
    store = {f"{function}.store.opened": ("folder", "own")}
    start = "load_model" if function == "finetune" else "load_start"
    kept = {f"{start}.path": "a.safetensors", "check_output.overwrite": True}
    kept |= {"load_model.parts": [toys.Moved]} if function == "finetune" else {"load_start.names": ["toys:Moved"]}
    kept |= {f"{function}.settings.{name}": True for name in ("overwrite", "keep_checkpoint")}
    width = 768 if function == "finetune" else 12
    own = f"--imu-encoder toys:Moved --fusion toys:joined_{width} --student-class toys:Calm"
    names = {"": "Calm", ".imu_encoder": "Moved", ".fusion": "Joined"}
    return [
        (f"{out} {fixed} --split own {words} {student}", arrivals | built | taught | files | store),
        (
            f"{out} {fixed} --image-encoder resnet10x4 --image-weights none {own}",
            {f"{function}.model{part}.__class__.__name__": name for part, name in names.items()},
        ),
        (f"{out} --init a.safetensors --custom toys:Moved --overwrite --keep-checkpoint", kept),
        (f"{out} {fixed} --preset demo", {f"{function}.settings.epochs": 6}),
    ]


READER_WORDS = "--reader m.py:a --reader m.py:b --imu-reader .LOG=m.py:c --imu-reader .bin=m:d"
READER_ARRIVALS = {
    "use_parts.parts": {"readers": ["m.py:a", "m.py:b"], "imu_readers": {".log": "m.py:c", ".bin": "m:d"}},
}
SEGMENT_WORDS = (
    "t.csv --root r --tier a --min-instances 3 --split-seed 7 --imu-offsets o.csv --imu-axes XZy --stride 0.5 "
    f"--split-by stretch --test-share 0.2 --clip-seconds 4 --subsample 2 --calibration-share 0.3 "
    "--background 7 --sparse "
    f"{READER_WORDS}"
)


SEGMENT_ARRIVALS = READER_ARRIVALS | {
    "read_annotations.annotations": "t.csv",
    "read_annotations.root": "r",
    "read_annotations.tier": "a",
    "read_annotations.min_instances": 3,
    "read_annotations.seed": 7,
    "read_annotations.windows": egodistill.datasets.annotations.Windows(0.5, "stretch", 0.2, clip_seconds=4.0),
    "read_annotations.clip_seconds": 4.0,
    "with_imu_offsets.table": "o.csv",
    "with_imu_axes.axes": "XZy",
    "subsample.step": 2,
    "with_calibration.share": 0.3,
    "with_calibration.clip_seconds": 4.0,
    "with_background.count": 4,  # as a half of the others
    "with_background.sparse": True,
    "with_background.clip_seconds": 4.0,
}


INFERENCE_WORDS = "--precision bf16 --compile --device cpu"


def inference_arrivals(function):
    return {f"{function}.precision": "bf16", f"{function}.compile": True, f"{function}.device": "cpu"}


# {command: [(words, {where an option must arrive: its value}), ...]}; {tmp} is a folder. ConsumerGroup, the words of a
# command use all of its options, with other values than the defaults.
ARRIVALS = {
    "segments": [
        (f"{SEGMENT_WORDS} --classes 1 --strict", SEGMENT_ARRIVALS | {"most_common.n": 1, "notes_of.strict": True})
    ],
    "check": [
        (
            "t.csv --root r --tier a --max-offset 0.7 --out {tmp}/o.csv --plot {tmp}/p.png --overwrite "
            f"{READER_WORDS}",
            READER_ARRIVALS
            | {
                "read_annotations.annotations": "t.csv",
                "read_annotations.root": "r",
                "read_annotations.tier": "a",
                "check.offset": True,
                "check.max_offset": 0.7,
                "check_output.path": "{tmp}/o.csv",
                "check_output.overwrite": True,
                "draw_check.path": Path("{tmp}/p.png"),
            },
        ),
        (
            "v.mp4 --imu a.csv g.csv --imu-offset 0.3 --imu-axes XZy --no-offset",
            {
                "open_recording.path": "v.mp4",
                "open_recording.imu": ["a.csv", "g.csv"],
                "check.video.imu_axes": "XZy",
                "check.video.imu_offset": 0.3,
                "check.offset": False,
            },
        ),
        ("{tmp}", {"find_videos.folder": "{tmp}", "open_recording.path": "v.mp4"}),
    ],
    "convert": [
        (
            "v.vrs --out {tmp}/c --size 300 --overwrite",
            {"convert.path": "v.vrs", "convert.folder": "{tmp}/c", "convert.size": 300, "convert.overwrite": True},
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
            "--clip-frames 6 --clip-size 80 --imu-rate 50 --zero-accel --min-coverage 0.6 --max-gap 0.2 --max-hold 3 "
            "--workers 3 --max-bad 0.4 --retry-failed --strict --part 2/3",
            SEGMENT_ARRIVALS
            | {
                "prepare.rank": 1,
                "prepare.world_size": 3,
                "prepare.out": "{tmp}/s",
                "prepare.num_frames": (2, 3),
                "prepare.frame_size": 96,
                "prepare.sampling": ["first", "last"],
                "prepare.exact": False,
                "prepare.clip_frames": 6,
                "prepare.clip_size": 80,
                "prepare.clip_seconds": 4.0,
                "prepare.imu_rate": 50.0,
                "prepare.imu": True,
                "prepare.zero_accel": True,
                "prepare.min_coverage": 0.6,
                "prepare.max_gap": 0.2,
                "prepare.max_hold": 3.0,
                "prepare.workers": 3,
                "prepare.max_bad": 0.4,
                "prepare.retry_failed": True,
                "prepare.strict": True,
                "prepare.consumer": None,
            },
        ),
        ("t.csv --out {tmp}/s --tolerance 0.25", {"prepare.exact": True, "prepare.tolerance": 0.25}),
        ("t.csv --out {tmp}/s --no-frames", {"prepare.num_frames": (), "prepare.ends": False, "prepare.imu": True}),
        ("t.csv --out {tmp}/s --no-imu", {"prepare.imu": False, "prepare.tolerance": 0.0, "prepare.clip_size": 224}),
        (
            "t.csv --out {tmp}/s --teacher-file t.safetensors --batch-size 5 --precision bf16 --device cpu",
            {
                "load_teacher.path": "t.safetensors",
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
                "build_image_encoder.encoder": "resnet10x4",
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
            "t.csv --out {tmp}/s --architecture i3d --pretrained p.pth --class-names c.txt --batch-size 5",
            {
                "load.name": "i3d",
                "load.checkpoint": "p.pth",
                "load.class_names": "c.txt",
                "Extraction.batch_size": 5,
                "prepare.clip_frames": None,
                "prepare.consumer.kind": "one pass",
                "prepare.class_names": ["0", "1", "2", "3"],
            },
        ),
        (
            "t.csv --out {tmp}/s --end-features w.pth --teacher-file t.safetensors",
            {"build_image_encoder.encoder": "resnet18", "prepare.class_names": ["1", "2", "3", "4"]},
        ),
    ],
    "train": [  # tests/commands/test_pipeline.py has the commands that it runs
        (
            f"{SEGMENT_WORDS} --out {{tmp}}/o --strict --architecture i3d --pretrained p.pth "
            "--option width=12 --clip-frames 6 --clip-size 80 --num-frames 2 --image-encoder resnet10x4 "
            "--image-weights none --imu-encoder cnn --optional-inputs --frame-size 96 --imu-rate 50 --preset demo "
            "--epochs 3 --batch-size 5 --learning-rate 0.1 --seed 4 --precision bf16 --baselines --no-check "
            "--workers 3 --device cpu --overwrite --retry-failed --zero-accel --min-coverage 0.5 --max-gap 0.2 "
            "--max-hold 3 --max-bad 0.4",
            {**SEGMENT_ARRIVALS, "write_report.run": Path("{tmp}/o"), "plan.a.check": False},
        ),
        (
            "t.csv --out {tmp}/o --teacher-file t.safetensors --quick",
            {"check_recordings.a.videos": ["t.csv"], "check_recordings.a.out": "{tmp}/o/offsets.csv"},
        ),
    ],
    "report": [
        ("{tmp}", {"write_report.run": Path("{tmp}")}),
        ("a.safetensors", {"write_model_report.path": Path("a.safetensors")}),
    ],
    "status": [
        (
            "folder --seconds 0.25 --verify --sweep --rebuild",
            {
                "ClipStore.path": "folder",
                "sleep.seconds": 0.25,
                "report_damage.store.opened": ("folder",),
                "rebuild.path": "folder",
                "sweep.of": "folder",
            },
        )
    ],
    "teachers": [("", {})],
    "finetune": [
        (
            "folder --out {tmp}/x.safetensors --architecture student --validation best",
            {"finetune.validation.opened": ("folder", "best")},
        ),
        *training_runs("finetuning", "finetune", "--architecture student"),
        (
            "folder --out {tmp}/x.safetensors "
            "--architecture mvit_b_16x4 --pretrained p.pth --name own --option width=12 "
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
            "folder --split own --teacher-file t.safetensors --name mine --views 3 --batch-size 5 --overwrite "
            "--precision bf16 "
            "--device cpu",
            {
                "extract.teacher.name": "mine",
                "extract.store.opened": ("folder", "own"),
                "load_teacher.path": "t.safetensors",
                "extract.views": 3,
                "extract.batch_size": 5,
                "extract.overwrite": True,
                "extract.precision": "bf16",
                "extract.device": "cpu",
            },
        ),
        (
            "folder --architecture i3d --pretrained p.pth --class-names c.txt --part 2/3",
            {
                "load.name": "i3d",
                "load.checkpoint": "p.pth",
                "load.class_names": "c.txt",
                "extract.rank": 1,
                "extract.world_size": 3,
            },
        ),
    ],
    "pretrain": training_runs("pretraining", "pretrain_imu", without=UNUSED),
    "distill": [
        (
            "folder --out {tmp}/x.safetensors "
            "--teacher t --image-weights none --validation best --objective toys:Cosine",
            {"distill.validation.opened": ("folder", "best"), "distill.objective": toys.Cosine},
        ),
        *training_runs("distillation", "distill"),
    ],
    "evaluate": [
        (
            "folder --split own --student a.safetensors "
            "--custom toys:Moved --custom toys:Calm --teacher t --out {tmp}/e.json "
            "--without imu --overwrite " + INFERENCE_WORDS,
            {
                "load_student.without": "imu",
                "evaluate.store.opened": ("folder", "own"),
                "load_student.path": "a.safetensors",
                "load_student.names": ["toys:Moved", "toys:Calm"],
                "evaluate.teacher": "t",
                "check_output.path": "{tmp}/e.json",
                "check_output.overwrite": True,
                **inference_arrivals("evaluate"),
            },
        ),
        ("folder --teacher-file t.safetensors", {"load_teacher.path": "t.safetensors"}),
        (
            "--recordings t.csv --root r --tier a --sparse --split own "
            "--student a.safetensors --stride 0.25 --event-start 0.3 "
            f"--save-thresholds --imu-offsets o.csv --imu-axes XZy {READER_WORDS} {INFERENCE_WORDS}",
            {
                "evaluate_recordings.a.recordings": "t.csv",
                "evaluate_recordings.a.root": "r",
                "evaluate_recordings.a.tier": "a",
                "evaluate_recordings.a.sparse": True,
                "evaluate_recordings.a.split": "own",
                "evaluate_recordings.a.stride": 0.25,
                "evaluate_recordings.a.event_start": 0.3,
                "evaluate_recordings.a.save_thresholds": True,
                "evaluate_recordings.a.imu_offsets": "o.csv",
                "evaluate_recordings.a.imu_axes": "XZy",
                "evaluate_recordings.a.reader": ["m.py:a", "m.py:b"],
                "evaluate_recordings.a.precision": "bf16",
            },
        ),
    ],
    "export": [
        (
            "a.safetensors --custom toys:Moved "
            "--out {tmp}/x.onnx --format onnx --precision int8 --batch-size 3 --calibrate c "
            "--calibrate-split all "
            "--calibrate-clips 9 --check k --check-split own --overwrite --markdown {tmp}/m.md",
            {
                "load_distilled.path": "a.safetensors",
                "load_distilled.names": ["toys:Moved"],
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
            "a.safetensors --out {tmp}/x.pt2 --pair --format aoti --precision bf16 --batch-size 1 --check k",
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
            "--student a.safetensors --custom toys:Moved "
            "--teacher-file t.safetensors --batch-size 5 --repeats 3 --seconds 0.5 --out "
            "{tmp}/m.json "
            f"--overwrite --markdown {{tmp}}/m.md {INFERENCE_WORDS}",
            {
                "load_student.path": "a.safetensors",
                "load_student.names": ["toys:Moved"],
                "load_teacher.path": "t.safetensors",
                "measure.batch_size": 5,
                "measure.repeats": 3,
                "measure.seconds": 0.5,
                "check_output.path": "{tmp}/m.json",
                "report.path": "{tmp}/m.md",
                **inference_arrivals("measure"),
            },
        ),
    ],
    "predict": [
        (
            "v.mp4 --student a.safetensors --custom toys:Moved --imu a.csv g.csv --imu-offset 0.3 --imu-stretch 1.02 "
            "--imu-axes XZy --zero-accel "
            "--min-coverage 0.6 --max-gap 0.2 --max-hold 3 --stride 0.5 --top 2 --key-frames --out {tmp}/p.csv "
            "--labels l.csv --root r --tier act --preview {tmp}/p.mp4 "
            f"--html {{tmp}}/p.html --subtitles {{tmp}}/p.vtt --overwrite --without frames {INFERENCE_WORDS}",
            {
                "load_distilled.path": "a.safetensors",
                "load_distilled.without": "frames",
                "load_distilled.names": ["toys:Moved"],
                "open_recording.path": "v.mp4",
                "open_recording.imu": ["a.csv", "g.csv"],
                "open_recording.imu_offset": 0.3,
                "open_recording.imu_stretch": 1.02,
                "open_recording.imu_axes": "XZy",
                "open_recording.zero_accel": True,
                "predict.min_coverage": 0.6,
                "predict.max_gap": 0.2,
                "predict.max_hold": 3.0,
                "predict.stride": 0.5,
                "predict.top": 2,
                "predict.exact": False,
                "check_output.path": "{tmp}/p.mp4",  # the last one
                "check_output.overwrite": True,
                "write_subtitles.path": "{tmp}/p.vtt",
                "write_prediction.path": "{tmp}/p.html",
                "write_prediction.spec.exact": False,
                "write_prediction.preview": Path("{tmp}/p.mp4"),
                "labels_of_video.a.labels": "l.csv",
                "labels_of_video.a.root": "r",
                "labels_of_video.a.tier": "act",
                "transcode.out": "{tmp}/p.mp4",
                "transcode.overwrite": True,
                "write_prediction.max_hold": 3.0,
                "clip_spec_of.exact": False,
                "prediction_writer.path": Path("{tmp}/p.csv"),
                "prediction_writer.top": 2,
                **inference_arrivals("predict"),
            },
        ),
        ("v.mp4 --student a.safetensors --tolerance 0.25", {"predict.exact": None, "predict.tolerance": 0.25}),
        (
            "v.mp4 --student a.safetensors --events --event-start 0.3 --out {tmp}/p.csv",
            {"predict.stride": events.EVERY, "predict.top": 5, "prediction_writer.top": 1},
        ),
        (
            f"v.mp4 --student a.safetensors {READER_WORDS}",
            READER_ARRIVALS | {"predict.exact": None, "predict.tolerance": None, "open_recording.imu_axes": "gopro"},
        ),
    ],
    "live": [
        (
            f"v.mp4 --student a.safetensors --fast --events --event-start 0.3 {READER_WORDS}",
            READER_ARRIVALS
            | {"open_recording of live.imu": None, "Output.tracker": events.Tracker(start=0.3, end=0.3 * 2 / 3)},
        ),
        (
            "v.mp4 --student a.safetensors --custom toys:Moved --without imu --imu a.csv g.csv --imu-offset 0.4 "
            "--imu-stretch 1.01 --zero-accel --imu-axes XZy --every 0.25 --frames newest --before-frames --slack 0.1 "
            "--top 2 --min-coverage 0.6 --max-gap 0.2 --max-age 3 --period 5 --frame-offset 0.3 --frame-stretch 1.02 "
            "--fast --seconds 9 --events --json --out {tmp}/p.jsonl --overwrite --precision bf16 --device cpu",
            {
                "load_for_stream.path": "a.safetensors",
                "load_for_stream.device": "cpu",
                "load_for_stream.own": ["toys:Moved"],
                "load_for_stream.without": "imu",
                "VideoFeed.source": "v.mp4",
                "VideoFeed.realtime": False,
                "VideoFeed.timeout": None,
                "VideoFeed.reconnect": 0.0,
                "open_recording of live.path": "v.mp4",
                "open_recording of live.imu": ["a.csv", "g.csv"],
                "open_recording of live.imu_offset": 0.4,
                "open_recording of live.imu_stretch": 1.01,
                "open_recording of live.zero_accel": True,
                "open_recording of live.imu_axes": "XZy",
                "Stream.every": 0.25,
                "Stream.frames": "newest",
                "Stream.before_frames": True,
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
            "tcp://127.0.0.1:9 --student a.safetensors --imu - --align arrival --tolerance 0.25 --timeout 7 "
            "--reconnect 60",
            {
                "VideoFeed.realtime": True,
                "VideoFeed.timeout": 7.0,
                "VideoFeed.reconnect": 60.0,
                "piped_samples.timeout": 7.0,
                "Inputs.source.align": True,
                "Stream.tolerance": 0.25,
                "Stream.frame_clock": (7.5, 1.0),  # as the arrivals say
                "Output.tracker": None,
            },
        ),
    ],
    "demo": [
        (
            "--out {tmp}/d --seed 4 --world-seed 6 --quick --precision bf16",
            {
                "render.out": Path("{tmp}/d/world"),
                "render.seed": 6,
                "render.train_acts": 48,
                "prepare.out": Path("{tmp}/d/store"),
                "make_store.demo.recipe.distillation.epochs": 2,
                **{
                    f"train_students.demo.{stage}.{name}": value
                    for stage in (
                        "teaching",
                        *(f"recipe.{one}" for one in ("finetuning", "pretraining", "distillation")),
                    )
                    for name, value in {"seed": 4, "precision": "bf16"}.items()
                },
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


def option_parser(command):
    parser = argparse.ArgumentParser()
    cli.COMMANDS[command].options(parser)
    return parser


def test_names_and_numbers_in_the_help_are_those_of_the_library():
    """Modules that import torch or PyAV have them, and the help does not."""
    assert (stream.CHOICES["frames"], tuple(export.FORMATS)) == (defaults.STREAM_FRAMES, defaults.EXPORT_FORMATS)
    helps = {action.dest: action.help for action in option_parser("prepare")._actions}
    assert f"(default: {imu.MAX_GAP})" in helps["max_gap"] and f"(default: {video.MAX_HOLD})" in helps["max_hold"]


def test_the_help_of_settings_is_their_documentation():
    """Each option of a field says something, in the words of the command line: no quotes, no "False: "."""
    helps = {}
    for name in ("student", "pretraining", "distillation"):
        parser = argparse.ArgumentParser()
        add_fields(parser, getattr(egodistill.EPIC_KITCHENS, name))
        helps |= {action.dest: action.help for action in parser._actions}
    assert all(len(text.partition(" (default")[0]) > 9 and not re.search('"|^False', text) for text in helps.values())
    assert helps["alpha"] == "weight of L_KD, 0 to 1; L_GT is weighted by 1 - alpha (default: 0.95)"
    assert helps["keep_checkpoint"] == "do not remove the checkpoint after --out is written"
    assert "0.3 gives 0.7 to 1 of the frame's" in helps["crop"]  # of a dataclass inside, in several lines


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
        if place.startswith(("check_output.path", "load_")):
            assert value in known, (place, found)
        else:
            assert known and all(one == value for one in known), (place, found)


STAGE = "folder --out x.safetensors --image-encoder resnet10x4 --image-weights none"
DOORS = {  # {command: (words, the function that takes its options)}
    "predict": ("v.mp4 --student a.safetensors", inference, "predict"),
    "live": ("v.mp4 --student a.safetensors --imu a.csv --fast --frames newest", live, "Stream"),
    "prepare": ("t.csv --out s", data, "prepare"),
    "segments": ("t.csv", egodistill.datasets.annotations, "read_annotations"),
    "transcode": ("v.mp4 --out c", egodistill.commands.recordings, "transcode"),
    "finetune": (f"{STAGE} --architecture student", distillation, "finetune"),
    "pretrain": (f"{STAGE} --teacher t", distillation, "pretrain_imu"),
    "distill": (f"{STAGE} --teacher t", distillation, "distill"),
}


@pytest.mark.parametrize("command", DOORS)
def test_a_command_and_its_function_refuse_a_value_in_the_same_words(command, tmp_path, monkeypatch, capsys):
    """They name both the argument and the option. No number may be nan, but those that are used with the samples."""
    words, place, function = DOORS[command]
    parser, real, told = option_parser(command), getattr(place, function), {"imu_offset", "imu_stretch"}
    spies = spies_for_all_commands(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    run(capsys, command, *words.split())
    given, parts = spies.calls[function][-1], [data.Windows()]
    monkeypatch.setattr(place, function, real)
    if settings := given.get("settings"):
        student = replace(egodistill.EPIC_KITCHENS.student, image_encoder="resnet10x4", image_weights=None)
        given, parts = {}, [student, settings.augment, settings]

    def refusal(name, value):
        """What the function, or what it takes, says about a value."""
        try:
            if name in given:
                return real(**given | {name: value})
            part = replace(next(one for one in parts if name in vars(one)), **{name: value})
            return part.build(4) if hasattr(part, "build") else None
        except Exception as error:
            return str(error)

    known, pairs = {*given, *(name for part in parts for name in vars(part))}, {}
    for action in parser._actions:
        option = f"--{action.dest.replace('_', '-')}"
        is_known = action.dest in known and action.nargs != 0 and option not in words
        for bad in ("nan", "-1", "0", "99999999999", "nonsense") if is_known else ():
            with contextlib.suppress(SystemExit):  # what the parser refuses
                line = [*words.split(), option, bad]
                pairs[action, option, bad] = str(refusal(action.dest, getattr(parser.parse_args(line), action.dest)))
    for (action, option, bad), said in pairs.items():
        if action.dest in said and capsys.readouterr():
            assert option in said and cli.main([command, *words.split(), option, bad]) == 1
            found = capsys.readouterr().err  # perhaps a rule of the command's own
            assert found == f"\negodistill {command}: {said}\n" or f"{command}: {option}: " in found
            told.add(action.dest)
    assert {action.dest for action, *_ in pairs if action.type is float} <= told


def exported(path) -> dict:
    Path(path).write_text("x")
    return {"file": Path(path).name, "run": "python"}


def spies_for_all_commands(monkeypatch, tmp_path) -> Spies:
    """Replace all functions that do the work of a command."""
    any_input(monkeypatch)
    spies = Spies(monkeypatch)
    segment = data.Segment("1", "v.mp4", 0.0, 2.0, "walk")
    segments = data.SegmentList([segment, replace(segment, id="2", label="run")])
    student = EgoDistill(4, image_encoder="resnet10x4", image_weights=None, frame_size=32, hidden=8, feature_dim=12)
    small = {"frames": 4, "size": 32, "width": 12, "depths": (1, 1), "kv_stride": 4, "progress": False}
    teacher = teachers.load("mvit_b_16x4", None, 4, **small)
    zeros = torch.zeros(4, 4, dtype=torch.int64)
    evaluation = inference.Evaluation(0.5, {"open": 0.5}, zeros, zeros.float(), torch.zeros(4), 0.1, 8)

    annotations, recordings, commands = (
        egodistill.datasets.annotations,
        egodistill.recordings.checks,
        egodistill.commands.recordings,
    )
    plan, check_recordings = pipeline.plan, commands.check_recordings
    spies.put(egodistill.support.files, "check_output")
    monkeypatch.setattr(commands, "first_line", lambda path: "video,start,stop,label")
    spies.put(annotations, "read_annotations", segments)
    spies.put(annotations, "with_imu_offsets", segments)
    spies.put(annotations, "with_imu_axes", segments)
    spies.put(commands, "subsample", segments)
    spies.put(commands, "with_calibration", segments)
    spies.put(data, "with_background", segments)
    spies.put(pipeline, "run_step")
    spies.put(pipeline, "plan", lambda given: plan(**given))
    for module in (pipeline, report):
        spies.put(module, "write_report")
    spies.put(report, "write_model_report")
    spies.put(commands, "check_recordings", lambda given: check_recordings(**given))
    monkeypatch.setattr(model_commands, "answers_of", lambda result, store: [])
    spies.put(commands.table_checks, "notes_of")
    spies.put(commands.Counter, "most_common", lambda given: list(given["self"].items())[: given["n"]])
    spies.put(recordings, "check", recordings.Check("v.mp4", rates=("one",)))
    spies.put(commands, "draw_check")
    spies.put(data, "open_recording", segment.recording)
    spies.put(commands, "find_videos", ["v.mp4"])
    made = copies.Transcoded("c.mp4", 1, 1, 1, 0, 0, (), None)
    spies.put(commands, "transcode", made)
    spies.put(copies, "convert", copies.Converted("v.mp4", "v.csv", 1, 1, 1.0, ()))
    spies.put(data, "prepare", Clips("prepared"))
    spies.put(commands, "describe_store")
    for module in (commands, training):
        spies.put(module, "suggest_training", label=f"suggest_training of {module.__name__}")
    spies.put(egodistill.commands.demo, "describe_store", label="describe_store of the demo")
    store = Clips("folder")
    store.counts, store.failures = {"train": {"ok": 1, "failed": 0, "missing": 0}}, []
    store.shards, store.sweep = {"complete": 1}, lambda: spies.calls["sweep"].append({"of": "folder"}) or 0
    spies.put(data, "ClipStore", lambda given: store)
    spies.put(commands, "report_damage")
    spies.put(commands, "rebuild", 8)
    monkeypatch.setattr(commands.time, "sleep", lambda seconds: spies.calls["sleep"].append({"seconds": seconds}))
    spies.calls["sleep"], spies.calls["sweep"] = [], []
    monkeypatch.setattr(commands, "finished_clips", lambda path: {"prepare": (1, 2)})

    for name in ("finetune", "distill", "pretrain_imu"):
        spies.put(distillation, name, [{"loss": 1.0, "top1": 0.5, "matching": 0.5}])
    for module in (model_commands, training):
        spies.put(module, "open_split", lambda given: Clips(given["path"], given["split"]))
        spies.put(module, "load_distilled" if module is model_commands else "load_start", student)
        spies.put(module, "load_teacher", teacher)
    monkeypatch.setattr(pipeline, "load_teacher", lambda path: teacher)  # the step gets the option
    spies.put(model_commands, "load_student", student)
    spies.put(egodistill.engine.models, "load_any", student, label="load_model")
    build = egodistill.student.build_image_encoder
    spies.put(egodistill.student, "build_image_encoder", lambda given: build(given["encoder"], None))
    small_teacher = functools.partial(teachers.load, "mvit_b_16x4", None, 4, **small)
    spies.put(teachers, "load", lambda given: small_teacher())
    spies.put(teachers, "extract")
    teacher.class_names = list("1234")
    one_pass = argparse.Namespace(kind="one pass", batch_size=8, specs={}, arrays=[], record={})
    spies.put(teachers, "Extraction", lambda given: one_pass)
    spies.put(inference, "evaluate", evaluation)
    monkeypatch.setattr(model_commands, "in_classes_of", lambda a, model, store: store)
    spies.put(inference, "predict", lambda given: iter([inference.Prediction(0.0, 2.0, [("open", 0.5)])]))
    for module in (model_commands, live):
        spies.put(module, "report_notes", label=f"report_notes of {module.__name__}")
    writer = model_commands.prediction_writer
    spies.put(model_commands, "prediction_writer", lambda given: writer(**given))
    spec_of = batches.clip_spec_of
    spies.put(batches, "clip_spec_of", lambda given: spec_of(**given))
    for name in ("write_subtitles", "write_prediction", "transcode", "labels_of_video", "evaluate_recordings"):
        spies.put(model_commands, name)
    cost = inference.Cost(1.0, 1, 1.0, 5, "cpu", "bf16", 3)
    spies.put(inference, "measure", cost)

    spies.put(live, "load_for_stream", student)
    counts = {"problem": "", "dropped": 0, "broken": 0, "reconnections": 0}
    spies.put(feeds, "VideoFeed", lambda given: argparse.Namespace(live="://" in given["source"], **counts))
    spies.put(feeds, "piped_samples", [])
    spies.put(live, "standard_input", 0)
    unread = argparse.Namespace(motion=lambda: None, imu_axes="gopro")
    spies.put(live, "open_recording", unread, label="open_recording of live")
    spies.put(egodistill.recordings.recording, "use_parts")
    finished = {"finish": lambda: [], "wait": lambda seconds: False, "stats": arrivals.Stats(given=1)}
    spies.put(live, "Stream", lambda given: argparse.Namespace(choice=given["frames"], **finished))
    spies.put(live, "answers_in_order", [])
    spies.put(live, "answers_as_they_come", [])
    threads = {"start": lambda: None, "aligned": lambda stop: 7.5, "close": lambda: None, "error": None}
    spies.put(live, "Inputs", lambda given: argparse.Namespace(**threads))
    output = live.Output
    spies.put(live, "Output", lambda given: output(**given))
    spies.put(egodistill.deploy.export, "export", lambda given: exported(given["path"]))
    spies.put(egodistill.deploy.export, "export_pair", lambda given: [exported(f"{given['path']}.{k}") for k in "ab"])
    spies.put(egodistill.deploy.export, "compare", [])
    spies.put(tables, "report")

    spies.put(
        synthetic,
        "render",
        synthetic.World(tmp_path, tmp_path / "EPIC_100_train.csv", ("P01",), (), ("P30",), tmp_path),
    )
    own = replace(segment, split="test", imu=("a.csv", "g.csv"))
    spies.put(data, "read_epic_kitchens", data.SegmentList([own]))
    make_store = egodistill.commands.demo.make_store
    spies.put(egodistill.commands.demo, "make_store", lambda given: make_store(**given))
    spies.put(egodistill.commands.demo, "train_students", {"EgoDistill": student, "teacher": teacher})
    for name, found in {"evaluate": evaluation, "answers_of": [], "measure": cost, "report_ratio": None}.items():
        spies.put(egodistill.commands.demo, name, found, label=f"{name} of the demo")
    return spies


def test_evaluation_files_hold_the_numbers_of_the_evaluation(tmp_path, monkeypatch, capsys):
    spies = spies_for_all_commands(monkeypatch, tmp_path)
    confusion = torch.tensor([[3, 1, 0, 0], [0, 0, 0, 0], [0, 2, 2, 0], [0, 0, 0, 1]])
    per_class = {"close": 0.75, "put": 0.5, "take": 1.0}
    found = inference.Evaluation(0.625, per_class, confusion, torch.zeros(9, 4), torch.zeros(9), 0.12345, 11, "bf16")
    spies.put(inference, "evaluate", found)
    out = run(capsys, "evaluate", "s", "--student", "a.safetensors", "--teacher", "t", "--out", tmp_path / "e.json")
    assert json.loads((tmp_path / "e.json").read_text()) == {
        "format": "egodistill evaluation 2",
        "split": "test",
        "model": "student",
        "top1": 0.625,
        "per_class": per_class,
        "class_names": ["close", "open", "put", "take"],
        "background": None,
        "teachers": {"t": 1.0},
        "confusion": confusion.tolist(),
        "feature_distance": 0.12345,
        "segments": 9,
        "clips": 11,
        "precision": "bf16",
        "answers": [],
    }
    assert out.splitlines()[0] == "top-1 62.50 % of 9 segments (11 clips, bf16), feature distance 0.1235"
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["close", "75.00", "%", "of", "4"],
        ["put", "50.00", "%", "of", "4"],
        ["take", "100.00", "%", "of", "1"],
    ]
