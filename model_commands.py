"""The commands that train, run and export models: their options, and what they run.

`COMMANDS` at the end lists them, as in `commands`.
"""

from __future__ import annotations

import argparse
import ast
import csv
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from egodistill import (
    EgoDistill,
    checkpoints,
    data,
    distillation,
    experiments,
    export,
    files,
    inference,
    options,
    runtime,
    teachers,
)
from egodistill.commands import given, imu_of, positive, table
from egodistill.distillation import EPIC_KITCHENS, PRESETS
from egodistill.options import device_option, precision_option, refuse, report_precision
from egodistill.training import History

__all__ = ["COMMANDS", "GMACS", "comparison_table", "option"]

GMACS = "GMACs: billions of multiply-adds a clip, half of what torch's FlopCounterMode counts (no norms)."
FRESH_TEACHER = "slowfast_8x8_r50"


# ---------------------------------------------------------------------------------------------------------------
# Options that several of them share


def training_options(parser: argparse.ArgumentParser, stage: str, without: Sequence[str] = ()) -> None:
    """Add the settings of a stage, a field of `Recipe`, as options."""
    group = parser.add_argument_group("training")
    options.preset_option(group)
    options.add_fields(group, getattr(EPIC_KITCHENS, stage), [name for name in options.HELP if name not in without])
    device_option(group)


def training_of(a: argparse.Namespace, stage: str) -> Any:
    """Return the settings of a stage: those of the preset, changed by the options that were given."""
    settings = options.change(getattr(PRESETS[a.preset], stage), a)
    report_precision(settings.precision, a.device)
    return replace(settings, checkpoint=experiments.training_file(a.out))


def student_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--init", metavar="FILE", help="start from this model, which is built already")
    options.add_fields(parser.add_argument_group("student"), EPIC_KITCHENS.student)


def student_of(a: argparse.Namespace, store: data.ClipStore, teacher: str | None, seed: int) -> EgoDistill:
    """Return the student to train: that of --init, or a new one that fits the store and the teacher's feature."""
    settings = PRESETS[a.preset].student
    if a.init:
        why = f"the student in {a.init} is built already; leave out --init to build another one"
        refuse(options.flags_given(settings, a), why)
        return EgoDistill.load(a.init)
    settings = options.change(settings, a)
    torch.manual_seed(seed)
    return settings.build(
        len(store.class_names),
        feature_dim=store.read(f"{teacher}.feature", [0]).shape[1] if teacher else None,
        class_names=store.class_names,
        **frames_of(store, settings.num_frames),
    )


def frames_of(store: data.ClipStore, count: int) -> dict[str, Any]:
    """Return how the store's frames are chosen, as arguments of a student; the uniform ones where it has several."""
    specs = getattr(store, "specs", {})  # a store of another kind need not say
    found = [spec for name, spec in specs.items() if name.startswith("frames_") and spec.frames == count]
    if not found:
        return {"frame_size": store.settings["frame_size"]}  # training says what is missing
    spec = next((spec for spec in found if spec.sampling == "uniform"), found[0])
    return {"frame_size": spec.size, "sampling": spec.sampling, "exact": spec.exact}


def open_split(path: str, split: str) -> data.ClipStore:
    store = data.ClipStore(path)
    return store if split == "all" else store.split(split)


def store_options(parser: argparse.ArgumentParser, split: str) -> None:
    parser.add_argument("store", help="folder that `egodistill prepare` made")
    parser.add_argument("--split", default=split, help="which clips: train, test, ... or all")


def model_options(parser: argparse.ArgumentParser) -> None:
    """Add --student and --teacher-file, for a model that runs."""
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--student", metavar="FILE", help="a trained student, or a baseline that `compare` trained")
    which.add_argument("--teacher-file", metavar="FILE", help="a teacher that `egodistill finetune` wrote")


def load_student(path: str) -> nn.Module:
    """Return the student or baseline in a file."""
    model = experiments.load(path)
    if isinstance(model, teachers.Teacher):
        raise ValueError(f"{path} holds a teacher; give it as --teacher-file")
    return model


def load_teacher(path: str) -> teachers.Teacher:
    model = experiments.load(path)
    if not isinstance(model, teachers.Teacher):
        raise ValueError(
            f"{path} holds a model of the class {type(model).__name__} and no teacher; give it as --student"
        )
    return model


def inference_options(parser: argparse.ArgumentParser) -> None:
    precision_option(parser, "auto")
    parser.add_argument("--compile", action="store_true", help="through torch.compile: a minute at first, then faster")
    device_option(parser)


def inference_of(arguments: argparse.Namespace) -> dict[str, Any]:
    return given(arguments, "precision", "compile", "device")


def keep(model: nn.Module, out: str, result: str) -> None:
    """Write the trained model and say what came out, in one process of those that trained it."""
    if runtime.is_first():
        model.save(out)
        print(f"{out}: {result}")


def outcome(history: History) -> str:
    last = history[-1]
    return f"loss {last['loss']:.3f}, top-1 on its training clips {100 * last['top1']:.1f} %"


# ---------------------------------------------------------------------------------------------------------------
# Teachers


def no_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no options."""


def run_teachers(a: argparse.Namespace) -> None:
    rows = []
    for name, published in teachers.MODELS.items():
        with torch.device("meta"):
            teacher = teachers.load(name, progress=False)
            gmacs = inference.count_macs(teacher, torch.device("meta")) / 1e9
        spec, params = teacher.clip_spec, sum(p.numel() for p in teacher.parameters())
        cells = [f"{params / 1e6:.2f} M", f"{gmacs:.2f}", f"{teacher.feature_dim}"]
        cells += [
            f"{spec.frames}x{spec.size} {teacher.pixels.channels}",
            published.released[0] if published.released else "none",
        ]
        rows.append([name, *cells])
    print(table(["model", "params", "GMACs", "feature", "clip", "released, for one, as"], rows))
    print(f"{GMACS}\nMotionFormer is counted as it runs here; as released it takes 369 GMACs a clip (16x4).")


def finetune_options(parser: argparse.ArgumentParser) -> None:
    store_options(parser, "train")
    parser.add_argument("--out", required=True, help="file to write the model to")
    absent = {"default": argparse.SUPPRESS}  # from the arguments, unless given
    parser.add_argument(
        "--architecture",
        metavar="NAME",
        choices=("student", *teachers.MODELS),
        help=f"student, or one of `egodistill teachers` (default: {FRESH_TEACHER})",
        **absent,
    )
    group = parser.add_argument_group("teacher")
    text = "published weights of the architecture; without, random ones"
    group.add_argument("--pretrained", metavar="FILE", help=text, **absent)
    group.add_argument("--name", help="of the teacher and of its outputs in a store (default: teacher)", **absent)
    text = "of the network or its clip, such as drop_path=0.1 'depths=(1,1,1,1)'"
    group.add_argument("--option", metavar="NAME=VALUE", nargs="+", action="extend", type=option, help=text, **absent)
    group.add_argument("--head-only", action="store_true", help="train nothing but the classifier")
    group.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    student_options(parser)
    training_options(parser, "finetuning")


def option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a word
        return name, value


def run_finetune(a: argparse.Namespace) -> None:
    store, settings = open_split(a.store, a.split), training_of(a, "finetuning")
    model = model_to_finetune(a, store, settings.seed)
    if isinstance(model, teachers.Teacher):
        if a.head_only:
            model.freeze_trunk()
        if a.gradient_checkpointing:
            if not hasattr(model.net, "gradient_checkpointing"):
                name = type(model.net).__name__
                raise ValueError(f"{name} has no gradient checkpointing; MotionFormer and MViT have")
            model.net.gradient_checkpointing = True
    elif a.head_only or a.gradient_checkpointing:
        raise ValueError("--head-only and --gradient-checkpointing are for teachers")
    keep(model, a.out, outcome(distillation.finetune(model, store, settings)))


def model_to_finetune(a: argparse.Namespace, store: data.ClipStore, seed: int) -> nn.Module:
    """Return the model that --init or --architecture names."""
    of_student = options.flags_given(EPIC_KITCHENS.student, a)
    of_teacher = {name: getattr(a, name) for name in ("pretrained", "name", "option") if hasattr(a, name)}
    flags = [options.flag(name) for name in of_teacher]
    if a.init:
        own = ["--architecture"] if hasattr(a, "architecture") else []
        refuse([*own, *of_student, *flags], f"the model in {a.init} is built already")
        return checkpoints.load_model(a.init)
    architecture = getattr(a, "architecture", FRESH_TEACHER)
    if architecture == "student":
        refuse(flags, "for teachers; --architecture student has none of these")
        return student_of(a, store, None, seed)
    refuse(of_student, f"for --architecture student; {architecture} is a teacher")
    return teacher_of(architecture, store, seed, **of_teacher)


def teacher_of(
    architecture: str,
    store: data.ClipStore,
    seed: int,
    pretrained: str | None = None,
    name: str = "teacher",
    option: Sequence[tuple[str, Any]] = (),
) -> teachers.Teacher:
    """Return a teacher for the clips of a store, with published weights and a new classifier or with random weights."""
    if "clip" not in store.names:
        raise ValueError(f"{store.path} has no dense clips; give --clip-frames to egodistill prepare")
    torch.manual_seed(seed)
    _, frames, _, _, size = store.read("clip", [0]).shape
    # What it is trained on is what it will expect, however long the clips of its first authors were.
    options = {"seconds": store.specs["clip"].seconds} | dict(option)
    if pretrained is None:  # A fresh network fits the store; published weights want the clip they know.
        options = {"frames": frames, "size": size} | options
    teacher = teachers.load(
        architecture, pretrained, class_names=store.class_names, new_head=pretrained is not None, **options
    )
    teacher.name = name
    return teacher


def extract_options(parser: argparse.ArgumentParser) -> None:
    store_options(parser, "all")
    parser.add_argument(
        "--teacher-file", metavar="FILE", required=True, help="teacher that `egodistill finetune` wrote"
    )
    parser.add_argument("--views", type=int, choices=(1, 3), default=1, help="3: left, middle, right of larger clips")
    parser.add_argument("--batch-size", type=positive, default=8, help="clips at a time")
    precision_option(parser, "fp32")
    device_option(parser)


def run_extract(a: argparse.Namespace) -> None:
    store, teacher = open_split(a.store, a.split), load_teacher(a.teacher_file)
    report_precision(a.precision, a.device)
    precision = runtime.pick_precision(runtime.pick_device(a.device), a.precision)
    how = {"views": a.views, "batch_size": a.batch_size, "device": a.device, "precision": precision}
    teachers.extract(teacher, store, **how, **files.environment_share())
    print(f"{a.store}: {teacher.name}.feature and {teacher.name}.logits of {len(store)} clips")


# ---------------------------------------------------------------------------------------------------------------
# Students


def taught_options(parser: argparse.ArgumentParser) -> None:
    """Add what `pretrain` and `distill` have in common."""
    store_options(parser, "train")
    parser.add_argument("--teacher", required=True, help="name of the extracted teacher, as --name of finetune said")
    parser.add_argument("--out", required=True, help="file to write the student to")
    student_options(parser)


def pretrain_options(parser: argparse.ArgumentParser) -> None:
    taught_options(parser)
    training_options(parser, "pretraining", without=["crop"])  # Its image features are computed once.


def run_pretrain(a: argparse.Namespace) -> None:
    store, settings = open_split(a.store, a.split), training_of(a, "pretraining")
    model = student_of(a, store, a.teacher, settings.seed)
    last = distillation.pretrain_imu(model, store, settings, teacher=a.teacher)[-1]
    matching = f"own IMU found in its batch {100 * last['matching']:.1f} % of the time"
    keep(model, a.out, f"loss {last['loss']:.3f}, {matching}")


def distill_options(parser: argparse.ArgumentParser) -> None:
    taught_options(parser)
    training_options(parser, "distillation")


def run_distill(a: argparse.Namespace) -> None:
    store, settings = open_split(a.store, a.split), training_of(a, "distillation")
    model = student_of(a, store, a.teacher, settings.seed)
    keep(model, a.out, outcome(distillation.distill(model, store, settings, teacher=a.teacher)))


# ---------------------------------------------------------------------------------------------------------------
# Trained models


def evaluate_options(parser: argparse.ArgumentParser) -> None:
    store_options(parser, "test")
    model_options(parser)
    parser.add_argument(
        "--teacher", metavar="NAME", help="name of an extracted teacher, to print the distance to its features"
    )
    parser.add_argument("--out", help="write all numbers to this JSON file")
    inference_options(parser)


def run_evaluate(a: argparse.Namespace) -> None:
    store = open_split(a.store, a.split)
    model = load_student(a.student) if a.student else load_teacher(a.teacher_file)
    result = inference.evaluate(model, store, teacher=a.teacher, **inference_of(a))
    report_precision(a.precision, a.device)
    print(str(result) + (f", feature distance {result.feature_distance:.4f}" if a.teacher else ""))
    width = max(map(len, result.per_class))
    for name, accuracy in result.per_class.items():
        count = int(result.confusion[store.class_names.index(name)].sum())
        print(f"  {name:<{width}}  {100 * accuracy:6.2f} % of {count}")
    if a.out:
        numbers = {
            "top1": result.top1,
            "per_class": result.per_class,
            "class_names": store.class_names,
            "confusion": result.confusion.tolist(),
            "feature_distance": result.feature_distance,
            "segments": len(result.labels),
            "clips": result.clips,
            "precision": result.precision,
        }
        files.write_json(a.out, numbers)


def export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("student", metavar="STUDENT", help="file of a trained student")
    parser.add_argument("--out", required=True, help="file to write, .pt2 or .onnx; FILE.json beside it describes it")
    parser.add_argument(
        "--format",
        choices=tuple(export.FORMATS),
        default="export",
        help="a program for torch, one compiled by AOTInductor, or ONNX",
    )
    parser.add_argument("--precision", choices=export.PRECISIONS, default="fp32", help="of weights and arithmetic")
    parser.add_argument("--calibrate", metavar="STORE", help="clips that show int8 the range of activations")
    parser.add_argument("--calibrate-split", default="train", help="which clips: train, test, ... or all")
    parser.add_argument("--calibrate-clips", type=positive, default=256, help="how many of them")
    parser.add_argument("--check", metavar="STORE", help="run file and original on these clips (--calibrate)")
    parser.add_argument("--check-split", default="test", help="which clips: train, test, ... or all")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is already there")


def run_export(a: argparse.Namespace) -> None:
    model = EgoDistill.load(a.student)
    if a.calibrate and a.precision != "int8":
        raise ValueError(f"--calibrate is for int8; {a.precision} needs no calibration (--check compares)")
    calibrate = open_split(a.calibrate, a.calibrate_split) if a.calibrate else None
    check = open_split(a.check or a.calibrate, a.check_split) if a.check or a.calibrate else None
    description = export.export(
        model,
        a.out,
        format=a.format,
        precision=a.precision,
        calibrate=calibrate,
        calibration_clips=a.calibrate_clips,
        overwrite=a.overwrite,
    )
    print(
        f"{a.out}: {a.format}, {a.precision}, {Path(a.out).stat().st_size / 1e6:.1f} MB; what to feed it: {a.out}.json"
    )
    print(f"to run it: {description['run']}")
    if check is not None:
        print("\n" + comparison_table(export.compare(model, check, [a.out]), len(check)))


def comparison_table(rows: list[export.Comparison], clips: int) -> str:
    header = ["file", "format", "precision", "labels agree %", "feature differs", "top-1 %", "MB", "ms a clip"]
    cells = [
        [
            Path(row.file).name,
            row.kind,
            row.precision,
            f"{100 * row.agreement:.2f}",
            f"{row.feature_difference:.1e}",
            "-" if row.top1 is None else f"{100 * row.top1:.2f}",
            f"{row.megabytes:.1f}",
            f"{row.milliseconds:.2f}",
        ]
        for row in rows
    ]
    return (
        f"{table(header, cells)}\n{clips} clips, top-1 clip by clip; time: batch 1 on one core, the processor's, median"
    )


def measure_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--student", metavar="FILE", nargs="+", default=[], help="students and baselines of your own")
    parser.add_argument("--teacher-file", metavar="FILE", nargs="+", default=[], help="teachers of your own")
    parser.add_argument("--rows", metavar="NAME", nargs="+", choices=experiments.TABLE_3, help="of Table 3 (all)")
    parser.add_argument("--batch-size", type=positive, default=32, help="clips at a time")
    parser.add_argument("--repeats", type=positive, default=10, help="timed passes of a model, at most")
    parser.add_argument(
        "--seconds", type=float, default=30, help="no further pass of a model begins after these, but two are timed"
    )
    parser.add_argument("--out", metavar="JSON", help="write all numbers to this file")
    inference_options(parser)


def run_measure(a: argparse.Namespace) -> None:
    own = bool(a.student or a.teacher_file)
    if own:
        refuse(["--rows"] if a.rows else [], "rows of Table 3, which is measured without --student and --teacher-file")
        models = {path: load_student(path) for path in a.student}
        models |= {path: load_teacher(path) for path in a.teacher_file}
    else:
        models = {name: experiments.TABLE_3[name][1]() for name in a.rows or experiments.TABLE_3}
    costs: dict[str, inference.Cost] = {}
    how = {"batch_size": a.batch_size, "repeats": a.repeats, "seconds": a.seconds, **inference_of(a)}
    for name, model in models.items():
        print(f"measuring {name}", file=sys.stderr)
        costs[name] = inference.measure(model, **how)
    report_precision(a.precision, a.device)
    rows = {name: c._asdict() for name, c in costs.items()}
    header, cells = cost_rows(costs) if own else table_3_rows(costs)
    print(table(header, cells))
    cost, passes = next(iter(costs.values())), min(c.repeats for c in costs.values())
    how = f"{cost.precision}{', compiled' if a.compile else ''}, on {cost.device}"
    notes = [] if own else [*experiments.TABLE_3_LEGEND, *experiments.notes_on(models, costs)]
    for note in (GMACS, f"Time: at batch {a.batch_size}, {how}; median of at least {passes} passes.", *notes):
        print(textwrap.fill(note, 100, subsequent_indent="  "))
    if cost.precision != "fp32" or a.compile:
        cells = [[name, f"{100 * c.same_top1:.1f} %", f"{100 * c.feature_error:.2f} %"] for name, c in costs.items()]
        print("\nAgainst uncompiled fp32, on random inputs; differences as a share of the largest feature:")
        print(table(["model", "equal top-1", "largest difference"], cells))
    if a.out:
        if not own:
            rows = {name: row | {"published": experiments.TABLE_3[name][0]._asdict()} for name, row in rows.items()}
        files.write_json(a.out, {"models": rows, "compiled": a.compile, "notes": notes})


def cost_rows(costs: dict[str, inference.Cost]) -> tuple[list[str], list[list[str]]]:
    rows = [[name, f"{c.gmacs:.4f}", f"{c.params:,}", f"{c.ms_per_clip:.2f}"] for name, c in costs.items()]
    return ["model", "GMACs", "parameters", "ms a clip"], rows


def table_3_rows(costs: dict[str, inference.Cost]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: our numbers, how many times less than Video's they are, and the published ones."""
    video, rows = costs.get("Video"), []
    for name, c in costs.items():
        ratio = [f"{video.gmacs / c.gmacs:.1f}", f"{video.ms_per_clip / c.ms_per_clip:.1f}"] if video else ["-", "-"]
        ours = [f"{c.gmacs:.2f}", ratio[0], f"{c.ms_per_clip:.2f}", ratio[1], f"{c.params / 1e6:.2f}"]
        published = experiments.TABLE_3[name][0]
        theirs = [f"{published.gmacs:.2f}", f"{published.ms_per_clip:.2f}", f"{published.params / 1e6:.2f}"]
        rows.append([name, *ours, *theirs])
    return ["model", "GMACs", "ratio", "ms a clip", "ratio", "M params", "published: GFLOPs", "ms", "M params"], rows


def predict_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video")
    parser.add_argument("--student", metavar="FILE", required=True, help="file of a trained student")
    parser.add_argument(
        "--imu", nargs="+", metavar="CSV", help="one table, or accelerometer and gyroscope; none: in the video"
    )
    parser.add_argument(
        "--imu-offset", type=float, default=0.0, help="seconds to add to the IMU's stamps, as in training"
    )
    parser.add_argument("--imu-stretch", type=float, default=1.0, help="factor of its stamps")
    parser.add_argument("--zero-accel", action="store_true", help="zeros where the recording has no accelerometer")
    parser.add_argument("--min-coverage", type=float, default=0.95, help="share of a clip that the IMU must cover")
    parser.add_argument("--stride", type=float, help="seconds from clip to clip (the clip's length)")
    parser.add_argument("--top", type=positive, default=3, help="classes to name")
    parser.add_argument("--key-frames", action="store_true", help="look at the nearest key frames: cheap, inexact")
    parser.add_argument("--out", help="also write the rows to this .csv or .json file")
    inference_options(parser)


def run_predict(a: argparse.Namespace) -> None:
    if a.out and Path(a.out).suffix not in (".csv", ".json"):
        raise ValueError(f"--out ends in .csv or .json, so that the format is clear; got {a.out}")
    rows = []
    clips = inference.predict(
        EgoDistill.load(a.student),
        a.video,
        imu_of(a),
        **given(a, "imu_offset", "imu_stretch", "zero_accel", "min_coverage", "stride", "top"),
        exact=False if a.key_frames else None,
        **inference_of(a),
    )
    report_precision(a.precision, a.device)
    for clip in clips:
        rows.append(clip)
        best = "  ".join(f"{name} {score:.2f}" for name, score in clip.classes) or f"none: {clip.problem}"
        print(f"{clip.start:8.2f} {clip.stop:8.2f} s  {best}")
    if a.out and Path(a.out).suffix == ".json":
        keys = ("start", "stop", "classes", "problem")
        files.write_json(a.out, [dict(zip(keys, row, strict=True)) for row in rows])
    elif a.out:
        with files.atomic_write(Path(a.out)) as part, open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            columns = [f"{what}_{k + 1}" for k in range(a.top) for what in ("class", "score")]
            writer.writerow(["start", "stop", *columns, "problem"])
            for clip in rows:
                cells = [cell for pair in clip.classes for cell in pair]
                cells += [""] * (len(columns) - len(cells))
                writer.writerow([f"{clip.start:.3f}", f"{clip.stop:.3f}", *cells, clip.problem or ""])


# The name of a command: what adds its options to a parser, and what runs it.
COMMANDS: dict[str, tuple[Callable, Callable]] = {
    "teachers": (no_options, run_teachers),
    "finetune": (finetune_options, run_finetune),
    "extract": (extract_options, run_extract),
    "pretrain": (pretrain_options, run_pretrain),
    "distill": (distill_options, run_distill),
    "evaluate": (evaluate_options, run_evaluate),
    "export": (export_options, run_export),
    "measure": (measure_options, run_measure),
    "predict": (predict_options, run_predict),
}
