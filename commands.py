"""The commands of `egodistill`: their options, and what they run.

`COMMANDS` at the end lists them; `cli` builds the parser of the one that was called. `demo` has those that make the
paper's tables.
"""

from __future__ import annotations

import argparse
import ast
import csv
import os
import statistics
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from egodistill import (
    EgoDistill,
    annotations,
    checkpoints,
    data,
    distillation,
    experiments,
    export,
    files,
    inference,
    recordings,
    runtime,
    synthetic,
    teachers,
)
from egodistill.training import History, Training
from egodistill.video import SAMPLING

__all__ = ["COMMANDS"]


# ---------------------------------------------------------------------------------------------------------------
# Options that several commands share


# The paper's settings of stage 2; the other stages take the number of epochs and the decay from them.
PRESETS = {"epic": distillation.EPIC_KITCHENS, "ego4d": distillation.EGO4D}
# The fields of `Training` that are options, with their help. Others are made of --out, or are options of every command.
TRAINING_OPTIONS = {
    "epochs": "passes over the clips",
    "batch_size": "clips per step, over all processes",
    "learning_rate": "of AdamW",
    "decay_epochs": "the learning rate drops after these",
    "decay": "by this factor",
    "schedule": "how the learning rate falls",
    "warmup_epochs": "the learning rate rises from zero over these",
    "weight_decay": "of AdamW",
    "seed": "of the order of the clips, of dropout, and of first weights",
    "precision": "auto: bf16 where this machine is fast at it, else fp32",
    "sync_batch_norm": "under torchrun: batch norm over all processes",
}
CHOICES = {"schedule": ("step", "cosine"), "precision": runtime.PRECISIONS}


def training_options(parser: argparse.ArgumentParser) -> None:
    """Add the fields of `Training` as options. One that is not given is not in the arguments: a preset may set it."""
    group = parser.add_argument_group("training")
    text = "the paper's settings for EPIC-KITCHENS or Ego4D, which the options below may change"
    group.add_argument("--preset", choices=tuple(PRESETS), help=text)
    for field in fields(Training):
        if field.name in TRAINING_OPTIONS:
            optional(group, field.name, field.default, TRAINING_OPTIONS[field.name])
    device_option(group)


def optional(parser: Any, name: str, default: Any, text: str, **how: Any) -> None:
    """Add an option that is in the arguments only if it is given; its type is that of the default."""
    if isinstance(default, bool):
        how |= {"action": "store_true"}
    else:
        text += f" (default: {' '.join(map(str, default)) if isinstance(default, tuple) else default})"
        how = ({"nargs": "*", "type": int} if isinstance(default, tuple) else {"type": type(default)}) | how
        how |= {"choices": CHOICES[name]} if name in CHOICES else {}
    parser.add_argument("--" + name.replace("_", "-"), default=argparse.SUPPRESS, help=text, **how)


def chosen(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return those of these options that were given."""
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


def refuse(options: dict[str, Any], why: str) -> None:
    """Raise ValueError if options were given that would be ignored, or that contradict another one."""
    if options:
        raise ValueError(f"{', '.join('--' + name.replace('_', '-') for name in options)}: {why}")


def device_option(parser: Any) -> None:
    parser.add_argument("--device", type=usable_device, help="cpu, cuda, ...; a GPU is used where there is one")


def usable_device(name: str) -> str:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # A torch without CUDA asserts.
        raise argparse.ArgumentTypeError(f"{name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return name


def precision_option(parser: Any, default: str | None) -> None:
    text = "auto: bf16 where this machine is fast at it, else fp32; default: " + ("%(default)s" if default else "fp32")
    parser.add_argument("--precision", choices=runtime.PRECISIONS, default=default, help=text)


def report_precision(precision: str | None, device: str | None = None) -> None:
    """Print what "auto" is on this machine, and why; to stderr, since results may go to stdout."""
    if precision == "auto" and not int(os.environ.get("RANK", 0)):
        fast, reason = runtime.bf16_speed(runtime.pick_device(device))
        print(f"precision {'bf16' if fast else 'fp32'}, because {reason}", file=sys.stderr)


def inference_options(parser: argparse.ArgumentParser) -> None:
    precision_option(parser, "auto")
    parser.add_argument("--compile", action="store_true", help="through torch.compile: a minute at first, then faster")
    device_option(parser)


def given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return some of the options as keyword arguments."""
    return {name: getattr(arguments, name) for name in names}


def inference_of(arguments: argparse.Namespace) -> dict[str, Any]:
    return given(arguments, "precision", "compile", "device")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def training_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of a training: those of the preset, changed by the options that were given."""
    preset = PRESETS[arguments.preset] if arguments.preset else {}
    settings = {name: value for name, value in preset.items() if name in TRAINING_OPTIONS}
    settings |= chosen(arguments, *TRAINING_OPTIONS)
    if "decay_epochs" in settings:
        settings["decay_epochs"] = tuple(settings["decay_epochs"])
    report_precision(settings.get("precision"), arguments.device)
    return settings | {"device": arguments.device, "checkpoint": experiments.training_file(arguments.out)}


def keep(model: nn.Module, out: str, result: str) -> None:
    """Write the trained model and say what came out, in one process of those that trained it."""
    if runtime.is_first():
        model.save(out)
        print(f"{out}: {result}")


def outcome(history: History) -> str:
    last = history[-1]
    return f"loss {last['loss']:.3f}, top-1 on its training clips {100 * last['top1']:.1f} %"


STUDENT_OPTIONS = ("num_frames", "image_encoder", "image_weights", "no_imu", "imu_vector")


def student_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("student")
    optional(group, "num_frames", 1, "N, frames per clip", type=positive)
    optional(group, "image_encoder", "resnet18", "a classification network of torchvision, or resnet10xW")
    optional(group, "image_weights", "imagenet", "imagenet, none, or a file of weights")
    optional(group, "no_imu", False, "VisOnly and VisOnly-Distill: frames only")
    optional(group, "imu_vector", "flatten", "how the IMU features become one", choices=("flatten", "mean"))


def student_of(arguments: argparse.Namespace, store: data.ClipStore, teacher: str | None) -> EgoDistill:
    """Return the student to train: that of --init, or a new one that fits the store and the teacher's feature."""
    options = chosen(arguments, *STUDENT_OPTIONS)
    if arguments.init:
        refuse(options, f"the student in {arguments.init} is built already; leave out --init to build another one")
        return EgoDistill.load(arguments.init)
    weights = options.get("image_weights", "imagenet")
    torch.manual_seed(getattr(arguments, "seed", Training.seed))
    return EgoDistill(
        len(store.class_names),
        feature_dim=store.read(f"{teacher}.feature", [0]).shape[1] if teacher else 768,
        image_weights=None if weights == "none" else weights,
        use_imu="no_imu" not in options,
        class_names=store.class_names,
        **chosen(arguments, "num_frames", "image_encoder", "imu_vector"),
        **frames_of(store, options.get("num_frames", 1)),
    )


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


# ---------------------------------------------------------------------------------------------------------------
# The road, a command a step


def synthesize_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--train-acts", type=int, default=800, help="annotated acts of the training wearers")
    parser.add_argument("--test-acts", type=int, default=400, help="annotated acts of the evaluation wearers")
    parser.add_argument("--label-noise", type=float, default=0.25, help="share of wrong training verbs")


def run_synthesize(a: argparse.Namespace) -> None:
    world = synthetic.render(
        a.out, seed=a.seed, train_acts=a.train_acts, test_acts=a.test_acts, label_noise=a.label_noise
    )
    print(
        f"{world.root}: annotations in {world.annotations}\n"
        f"  egodistill prepare {world.annotations} --root {world.root} --out STORE"
    )


def segment_options(parser: argparse.ArgumentParser) -> None:
    """What the readers of annotations take; `read_segments` reads."""
    parser.add_argument(
        "annotations", help="EPIC-KITCHENS' table, Ego4D's fho_main.json, or your own table: video,start,stop,label,..."
    )
    parser.add_argument("--root", help="folder of the data set's videos and IMU (default: that of the annotations)")
    parser.add_argument("--min-instances", type=positive, help="drop rarer classes (EPIC-KITCHENS: 1, Ego4D: 2)")
    parser.add_argument("--split-seed", type=int, default=0, help="of Ego4D's random split")
    parser.add_argument("--audio", action="store_true", help="only videos with sound; prepare stores it")
    parser.add_argument("--imu-offsets", metavar="CSV", help="table video,imu_offset that `egodistill check` wrote")


def read_segments(a: argparse.Namespace) -> data.SegmentList:
    segments = annotations.read_annotations(
        a.annotations, a.root, seed=a.split_seed, min_instances=a.min_instances, audio=a.audio
    )
    return annotations.with_imu_offsets(segments, a.imu_offsets) if a.imu_offsets else segments


def segments_options(parser: argparse.ArgumentParser) -> None:
    segment_options(parser)
    parser.add_argument("--classes", type=positive, default=20, help="classes to list, the largest first")


def run_segments(a: argparse.Namespace) -> None:
    segments = read_segments(a)
    splits = sorted({segment.split for segment in segments})
    rows = []
    for split in splits:
        part = [segment for segment in segments if segment.split == split]
        lengths = sorted(segment.stop - segment.start for segment in part)
        rows.append(
            [
                split,
                f"{len({s.video for s in part})}",
                f"{len(part):,}",
                f"{sum(lengths) / 3600:.2f}",
                f"{statistics.median(lengths):.2f}",
                f"{lengths[0]:.2f} to {lengths[-1]:.2f}",
                f"{len({s.label for s in part if s.label is not None})}",
            ]
        )
    print(table(["split", "videos", "segments", "hours", "median s", "shortest, longest", "classes"], rows))
    counts = {split: Counter(s.label for s in segments if s.split == split) for split in splits}
    total = Counter(segment.label for segment in segments)
    largest = total.most_common(a.classes)
    print("\n" + table(["class", *splits], [[str(c), *(f"{counts[p][c]:,}" for p in splits)] for c, _ in largest]))
    if len(total) > len(largest):
        print(f"... and {len(total) - len(largest)} more classes (--classes)")
    if missing := [c for c in total if c is not None and "train" in counts and not counts["train"][c]]:
        print(f"never in train: {', '.join(sorted(missing))}")
    for reason, count in segments.dropped.items():
        print(f"left out, {reason}: {count:,} segments")


def check_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="or annotations, for all of their videos")
    parser.add_argument("--root", help="folder of the data set's videos and IMU (default: that of the annotations)")
    parser.add_argument(
        "--imu", nargs="+", metavar="CSV", help="of a single video: one table, or two; none: telemetry in the video"
    )
    parser.add_argument("--no-offset", action="store_true", help="do not compare picture and gyroscope")
    parser.add_argument("--max-offset", type=float, default=2.0, help="seconds either way to look for it")
    parser.add_argument("--out", metavar="CSV", help="table of the reliable offsets, for prepare --imu-offsets")


def imu_of(a: argparse.Namespace) -> Any:
    """Return what --imu names: one table, a pair, or None."""
    return a.imu if a.imu is None or len(a.imu) > 1 else a.imu[0]


def run_check(a: argparse.Namespace) -> None:
    if a.imu and len(a.videos) > 1:
        raise ValueError(f"--imu names the IMU of one video, and {len(a.videos)} are given; put them into a table")
    sources: dict[str, data.Recording] = {}
    for name in a.videos:
        if name.lower().endswith((".csv", ".json")):
            sources |= {s.video: s.recording for s in annotations.read_annotations(name, a.root)}
        else:
            sources[name] = data.open_recording(name, imu_of(a))
    print(recordings.HEADER)
    offsets, unusable = [], 0
    for video, recording in sources.items():
        found = recordings.check(recording, offset=not a.no_offset, max_offset=a.max_offset)
        print(found.row())
        unusable += found.problem is not None
        if found.offset is not None and found.offset.reliable:
            offsets.append([video, f"{found.offset.seconds:.3f}"])
    if a.out:
        with files.atomic_write(Path(a.out)) as part, open(part, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["video", "imu_offset"], *offsets])
        print(f"{a.out}: {len(offsets)} of {len(sources)} recordings have a reliable offset")
    if unusable:
        raise ValueError(f"{unusable} of {len(sources)} recordings cannot be used")


def transcode_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", nargs="+", metavar="VIDEO")
    parser.add_argument("--out", required=True, help="folder for the copies")
    parser.add_argument("--short-side", type=positive, default=256, help="pixels")
    parser.add_argument("--keyframe-every", type=positive, default=12, help="frames")
    parser.add_argument("--quality", type=int, default=23, help="x264's CRF, lower is better and larger")
    parser.add_argument("--measure", action="store_true", help="time how much faster the copy is read")
    parser.add_argument("--overwrite", action="store_true", help="make copies that are there again")


def run_transcode(a: argparse.Namespace) -> None:
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    copies = {video: out / f"{Path(video).stem}.mp4" for video in a.videos}
    if len(set(copies.values())) < len(copies):
        raise ValueError(f"two of the videos would have the same name in {out}; give each its own --out")
    rows, failures = [], []
    for video, copy in copies.items():
        if copy.exists() and not a.overwrite:
            print(f"{copy} is already there")
            continue
        try:
            made = recordings.transcode(
                video, copy, **given(a, "short_side", "keyframe_every", "quality", "measure", "overwrite")
            )
        except OSError as error:  # One bad video must not end the work on a thousand.
            failures.append(str(error))
            continue
        speed = f"{made.speedup:.1f}" if made.speedup else "-"
        sizes = [f"{size / 1e6:.1f}" for size in (made.source_bytes, made.copy_bytes)]
        rows.append([copy.name, *sizes, f"{made.frames:,}", f"{made.broken_packets}", speed])
        for name in made.left_out:
            print(f"{copy}: without {name}, which MP4 cannot hold")
    if rows:
        print(table(["copy", "MB before", "MB after", "frames", "broken", "times faster"], rows))
    if failures:
        raise ValueError("; ".join(failures))


def prepare_options(parser: argparse.ArgumentParser) -> None:
    segment_options(parser)
    parser.add_argument("--out", required=True, help="folder of the store")
    parser.add_argument("--num-frames", type=positive, nargs="+", default=[1], help="frames a clip for the students")
    parser.add_argument("--frame-size", type=positive, default=224, help="their height and width")
    rules = ", ".join(SAMPLING)
    parser.add_argument(
        "--sampling", metavar="RULE", choices=SAMPLING, nargs="+", default=["uniform"], help=f"which frames: {rules}"
    )
    parser.add_argument("--key-frames", action="store_true", help="take the nearest key frames instead: cheap, inexact")
    parser.add_argument("--clip-frames", type=positive, help="frames of the dense clip for teachers (none)")
    parser.add_argument("--clip-size", type=positive, default=224, help="their height and width")
    parser.add_argument("--no-imu", action="store_true", help="leave head motion out")
    parser.add_argument("--zero-accel", action="store_true", help="zeros where a recording has no accelerometer")
    parser.add_argument("--min-coverage", type=float, default=0.95, help="share of a clip that the IMU must cover")
    parser.add_argument("--workers", type=positive, help="processes (all cores)")
    parser.add_argument("--max-bad", type=float, default=0.1, help="share of clips that may fail")
    parser.add_argument("--retry-failed", action="store_true", help="try the failed clips of an earlier run again")


def run_prepare(a: argparse.Namespace) -> None:
    segments = read_segments(a)
    store = data.prepare(
        segments,
        a.out,
        num_frames=tuple(a.num_frames),
        frame_size=a.frame_size,
        clip_frames=a.clip_frames,
        clip_size=a.clip_size,
        imu=not a.no_imu,
        audio=a.audio,
        sampling=a.sampling,
        exact=not a.key_frames,
        min_coverage=a.min_coverage,
        zero_accel=a.zero_accel,
        workers=a.workers,
        max_bad=a.max_bad,
        retry_failed=a.retry_failed,
        **files.environment_share(),  # several machines, or processes of torchrun, share the recordings
    )
    if int(os.environ.get("RANK", 0)) == 0:
        describe_store(store, segments)


def describe_store(store: data.ClipStore, segments: data.SegmentList) -> None:
    hours = sum(segment.stop - segment.start for segment in segments) / 3600
    counts = Counter(clip["split"] for clip in store.clips)
    print(
        f"{store.path}: {len(store)} clips ({', '.join(f'{n} {split}' for split, n in sorted(counts.items()))}) of "
        f"{len({s.video for s in segments})} videos, {hours:.2f} hours in {len(store.class_names)} classes"
    )
    for reason, count in segments.dropped.items():
        print(f"  left out, {reason}: {count} segments")
    for failure in store.failures[:10]:
        print(f"  failed: {failure['id']} at {failure['start']:.2f} s: {failure['reason']}")
    if len(store.failures) > 10:
        print(f"  ... and {len(store.failures) - 10} more in {store.path / 'failures.jsonl'}")
    for source, notes in list(store.notes.items())[:10]:
        print(f"  note: {source}: {'; '.join(notes)}")
    if len(store.notes) > 10:
        print(f"  ... and {len(store.notes) - 10} more in {store.path / 'notes.jsonl'}")


def status_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", help="folder that `egodistill prepare` made, also while it is at work")
    parser.add_argument("--seconds", type=float, default=2.0, help="look twice, so far apart, to tell the speed")


def run_status(a: argparse.Namespace) -> None:
    store, before = data.ClipStore(a.store, unfinished=True), settled(a.store)
    counts = store.counts
    print(table(["split", "ok", "failed", "missing"], [[split, *map(str, n.values())] for split, n in counts.items()]))
    reasons = Counter(failure["reason"].replace(failure["video"], "VIDEO") for failure in store.failures)
    for reason, count in reasons.most_common(10):
        print(f"failed: {count} clips, {reason}")
    if len(reasons) > 10:
        print(f"... and {len(reasons) - 10} more reasons, in {store.path / 'failures.jsonl'}")
    time.sleep(a.seconds)
    rows = []
    for name, (done, total) in settled(a.store).items():
        speed = (done - before.get(name, (0, 0))[0]) / a.seconds
        left = f"{(total - done) / speed:.0f} s" if speed > 0 else "-"
        rows.append([name, f"{done:,} of {total:,}", f"{speed:.1f}" if speed > 0 else "-", left])
    print("\n" + table(["step", "clips", "a second", "left"], rows))
    if any(n["missing"] for n in counts.values()):
        print("The same `egodistill prepare` goes on with what is missing.")


def settled(path: str) -> dict[str, tuple[int, int]]:
    """Clips that need no more work and all, for prepare (failed ones count) and for each teacher's extract."""
    store = data.ClipStore(path, unfinished=True)
    counts = [count for split in store.counts.values() for count in split.items()]
    found = {"prepare": (sum(n for what, n in counts if what != "missing"), sum(n for _, n in counts))}
    outputs = [name for name in store.names if name.endswith(".logits")]
    return found | {f"extract {n.removesuffix('.logits')}": (int(store.done(n).sum()), len(store)) for n in outputs}


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
        cells += [f"{spec.frames}x{spec.size} {teacher.pixels.channels}", *(published.released[:1] or ["none"])]
        rows.append([name, *cells])
    print(table(["model", "params", "GMACs", "feature", "clip", "released, for one, as"], rows))
    print(f"{GMACS}\nMotionFormer is counted as it runs here; as released it takes 369 GMACs a clip (16x4).")


def finetune_options(parser: argparse.ArgumentParser) -> None:
    store_options(parser, "train")
    parser.add_argument("--out", required=True, help="file to write the model to")
    parser.add_argument("--init", metavar="FILE", help="start from this model, a teacher or a student")
    optional(parser, "architecture", FRESH_TEACHER, "student, or one of `egodistill teachers`")
    group = parser.add_argument_group("teacher")
    group.add_argument(
        "--pretrained",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="published weights of the architecture; without, random ones",
    )
    optional(group, "name", "teacher", "name of the teacher and of its outputs in a store")
    group.add_argument(
        "--option",
        metavar="NAME=VALUE",
        nargs="+",
        action="extend",
        default=argparse.SUPPRESS,
        type=option,
        help="of the network or its clip, such as drop_path=0.1 'depths=(1,1,1,1)'",
    )
    group.add_argument("--head-only", action="store_true", help="train nothing but the classifier")
    group.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    student_options(parser)
    training_options(parser)


FRESH_TEACHER = "slowfast_8x8_r50"


def option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a word
        return name, value


def run_finetune(a: argparse.Namespace) -> None:
    store = open_split(a.store, a.split)
    model = model_to_finetune(a, store)
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
    history = distillation.finetune(model, store, **training_of(a))
    keep(model, a.out, outcome(history))


def model_to_finetune(a: argparse.Namespace, store: data.ClipStore) -> nn.Module:
    """Return the model that --init or --architecture names."""
    of_student, of_teacher = chosen(a, *STUDENT_OPTIONS), chosen(a, "pretrained", "name", "option")
    if a.init:
        refuse(chosen(a, "architecture") | of_student | of_teacher, f"the model in {a.init} is built already")
        return checkpoints.load_model(a.init)
    architecture = getattr(a, "architecture", FRESH_TEACHER)
    if architecture == "student":
        refuse(of_teacher, "for teachers; --architecture student has none of these")
        return student_of(a, store, None)
    refuse(of_student, f"for --architecture student; {architecture} is a teacher")
    return teacher_of(architecture, store, getattr(a, "seed", Training.seed), **of_teacher)


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


def pretrain_options(parser: argparse.ArgumentParser) -> None:
    store_options(parser, "train")
    parser.add_argument("--teacher", required=True, help="name of the extracted teacher, as --name of finetune said")
    parser.add_argument("--out", required=True, help="file to write the student to")
    parser.add_argument("--init", metavar="FILE", help="start from this student")
    student_options(parser)
    training_options(parser)


def run_pretrain(a: argparse.Namespace) -> None:
    store = open_split(a.store, a.split)
    model = student_of(a, store, a.teacher)
    history = distillation.pretrain_imu(model, store, teacher=a.teacher, **training_of(a))
    last = history[-1]
    matching = f"own IMU found in its batch {100 * last['matching']:.1f} % of the time"
    keep(model, a.out, f"loss {last['loss']:.3f}, {matching}")


def distill_options(parser: argparse.ArgumentParser) -> None:
    store_options(parser, "train")
    parser.add_argument("--teacher", required=True, help="name of the extracted teacher, as --name of finetune said")
    parser.add_argument("--out", required=True, help="file to write the student to")
    optional(parser, "alpha", 0.95, "weight of L_KD against L_GT")
    optional(parser, "beta", 1.0, "weight of L_1")
    optional(parser, "tau", 1.0, "temperature of L_KD; 10 with --preset ego4d")
    optional(parser, "tau_squared", False, "multiply L_KD by tau^2")
    parser.add_argument("--init", metavar="FILE", help="start from this student")
    student_options(parser)
    training_options(parser)


def run_distill(a: argparse.Namespace) -> None:
    store = open_split(a.store, a.split)
    model = student_of(a, store, a.teacher)
    losses = {"tau": PRESETS[a.preset]["tau"]} if a.preset else {}
    losses |= chosen(a, "alpha", "beta", "tau", "tau_squared")
    history = distillation.distill(model, store, teacher=a.teacher, **losses, **training_of(a))
    keep(model, a.out, outcome(history))


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
    optional(parser, "rows", "all", "of Table 3", nargs="+", choices=experiments.TABLE_3, metavar="NAME")
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
        refuse(chosen(a, "rows"), "rows of Table 3, which is measured without --student and --teacher-file")
        models = {path: load_student(path) for path in a.student}
        models |= {path: load_teacher(path) for path in a.teacher_file}
    else:
        models = {name: experiments.TABLE_3[name][1]() for name in getattr(a, "rows", experiments.TABLE_3)}
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
    """Ours, how many times less than Video that is, and the published numbers."""
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


GMACS = "GMACs: billions of multiply-adds a clip, half of what torch's FlopCounterMode counts (no norms)."


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns of text: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


# The name of a command: what adds its options to a parser, and what runs it.
COMMANDS: dict[str, tuple[Callable, Callable]] = {
    "synthesize": (synthesize_options, run_synthesize),
    "segments": (segments_options, run_segments),
    "check": (check_options, run_check),
    "transcode": (transcode_options, run_transcode),
    "prepare": (prepare_options, run_prepare),
    "status": (status_options, run_status),
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
