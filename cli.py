"""The command line: one command for each step of the road, and `demo`, which walks it all.

    egodistill demo                                              # everything, on a small rendered world
    egodistill prepare segments.csv --out store --clip-frames 16
    egodistill finetune store --out teacher.pt                   # a teacher, on labels
    egodistill extract store --teacher teacher.pt
    egodistill pretrain store --teacher teacher --out imu.pt     # stage 1
    egodistill distill store --teacher teacher --init imu.pt --out student.pt
    egodistill evaluate store --checkpoint student.pt
    egodistill predict walk.mp4 --checkpoint student.pt
    egodistill compare store --teacher teacher --out comparison  # all methods, accuracy against cost
    egodistill export student.pt --out student.pt2               # for a device

`egodistill COMMAND --help` lists a command's options. Each training command can be killed and given again: it goes
on where it was. This is the only file that knows all the others.
"""

from __future__ import annotations

import argparse
import ast
import csv
import errno
import faulthandler
import json
import os
import statistics
import sys
import textwrap
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

import egodistill
from egodistill import EgoDistill, Training, data, experiments, export, recordings, synthetic, teachers

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run a command and return the exit code. An error that the user can mend is one line on stderr, no traceback."""
    if sys.__stderr__ is not None and not faulthandler.is_enabled():
        faulthandler.enable(sys.__stderr__)  # a crash inside a library names the line of ours that called it
    for stream in (sys.stdout, sys.stderr):  # A letter that the terminal's encoding lacks is shown as \u043f.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return run_command(argv)
    except OSError as error:
        if not is_closed_pipe(error):
            raise
        return 128 + 13  # What a shell makes of SIGPIPE.
    finally:
        drop_closed_output()


def run_command(argv: list[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="egodistill", description=__doc__.split("\n")[0])
    parser.add_argument("--version", action="version", version=f"egodistill {egodistill.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (
        add_demo,
        add_synthesize,
        add_segments,
        add_check,
        add_transcode,
        add_prepare,
        add_status,
        add_teachers,
        add_finetune,
        add_extract,
        add_pretrain,
        add_distill,
        add_evaluate,
        add_compare,
        add_ablate,
        add_export,
        add_measure,
        add_predict,
    ):
        add(commands)
    arguments = parser.parse_args(argv)
    if arguments.command not in SHARED and "MASTER_ADDR" in os.environ:
        if int(os.environ.get("RANK", 0)):
            return 0
        os.environ["WORLD_SIZE"] = "1"  # Nobody is there to be met.
    try:
        arguments.run(arguments)
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
    except (ValueError, OSError) as error:
        if is_closed_pipe(error):
            raise
        if is_first_failure(error):
            print(f"\negodistill {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        if is_first_failure(error):
            print("\ninterrupted; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    return 0


# Under torchrun the first process does the other commands alone.
SHARED = ("prepare", "finetune", "extract", "pretrain", "distill")


def is_first_failure(error: BaseException) -> bool:
    """Return whether to print an error: under torchrun that of the process that failed first."""
    known = getattr(error, "is_first_failure", None)  # a training stage asks before it wakes up the others
    return egodistill.is_first_failure() if known is None else known


# What a pipe whose reader has gone gives, as in `egodistill ... | head -1`: on Windows "invalid argument" as well.
CLOSED_PIPE = {errno.EPIPE} | ({errno.EINVAL} if os.name == "nt" else set())


def is_closed_pipe(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in CLOSED_PIPE and error.filename is None


def drop_closed_output() -> None:
    """Drop what stdout or stderr still hold for a reader that has gone: the interpreter would complain at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            if is_closed_pipe(error):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def command(commands: Any, name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text, formatter_class=HelpWithDefaults)
    parser.set_defaults(run=run)
    return parser


class HelpWithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Names the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_nothing = action.required or action.default is None or action.default is False or action.default == []
        return action.help if says_nothing else super()._get_help_string(action)


def say(text: str) -> None:
    print(text, flush=True)


# ---------------------------------------------------------------------------------------------------------------
# Options that several commands share


def training_options(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """The fields of `Training` as options; `checkpoint` is made of --out."""
    group = parser.add_argument_group("training")
    for field in fields(Training):
        default = defaults.get(field.name, field.default)
        name = "--" + field.name.replace("_", "-")
        if field.name in ("epochs", "batch_size", "seed", "learning_rate", "decay", "weight_decay", "warmup_epochs"):
            group.add_argument(name, type=type(field.default), default=default, help="default: %(default)s")
        elif field.name == "decay_epochs":
            group.add_argument(name, type=int, nargs="*", default=default, help="the learning rate drops after these")
        elif field.name == "precision":
            precision_option(group, default)
        elif field.name == "schedule":
            group.add_argument(name, choices=("step", "cosine"), default=default, help="default: %(default)s")
        elif field.name == "sync_batch_norm":
            group.add_argument(name, action="store_true", help="under torchrun on GPUs: batch norm over all processes")
    device_option(group)


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
    parser.add_argument("--precision", choices=egodistill.PRECISIONS, default=default, help=text)


def report_precision(precision: str | None, device: str | None = None) -> None:
    """Print what "auto" is on this machine, and why; to stderr, since results may go to stdout."""
    if precision == "auto" and not int(os.environ.get("RANK", 0)):
        fast, reason = egodistill.bf16_speed(egodistill.pick_device(device))
        print(f"precision {'bf16' if fast else 'fp32'}, because {reason}", file=sys.stderr)


def inference_options(parser: argparse.ArgumentParser) -> None:
    precision_option(parser, "auto")
    parser.add_argument("--compile", action="store_true", help="through torch.compile: a minute at first, then faster")
    device_option(parser)


def inference_of(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in ("precision", "compile", "device")}


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def training_of(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {field.name: getattr(arguments, field.name) for field in fields(Training) if hasattr(arguments, field.name)}
    given["decay_epochs"] = tuple(given["decay_epochs"])
    report_precision(arguments.precision, arguments.device)
    return given | {"checkpoint": experiments.training_file(arguments.out)}


def keep(model: nn.Module, out: str, result: str) -> None:
    """Write the trained model and say what came out, in one process of those that trained it."""
    if egodistill.is_first():
        model.save(out)
        say(f"{out}: {result}")


def outcome(history: egodistill.History) -> str:
    last = history[-1]
    return f"loss {last['loss']:.3f}, top-1 on its training clips {100 * last['top1']:.1f} %"


def student_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("student")
    group.add_argument("--num-frames", type=int, default=1, help="N, frames a clip")
    group.add_argument("--image-encoder", default="resnet18", help="any classification network of torchvision")
    group.add_argument("--image-weights", default="imagenet", help="imagenet, none, or a file of weights")
    group.add_argument("--no-imu", action="store_true", help="VisOnly and VisOnly-Distill: frames only")
    group.add_argument("--imu-vector", choices=("flatten", "mean"), default="flatten", help="default: %(default)s")
    group.add_argument("--init", metavar="FILE", help="start from this student (of an earlier stage) instead")


def student_of(arguments: argparse.Namespace, store: data.ClipStore, teacher: str | None) -> EgoDistill:
    """The student to train: from --init, or a new one that fits the store and the teacher's feature."""
    if arguments.init:
        return EgoDistill.load(arguments.init)
    weights = None if arguments.image_weights == "none" else arguments.image_weights
    torch.manual_seed(arguments.seed)
    return EgoDistill(
        len(store.class_names),
        feature_dim=store.read(f"{teacher}.feature", [0]).shape[1] if teacher else 768,
        num_frames=arguments.num_frames,
        image_encoder=arguments.image_encoder,
        image_weights=weights,
        use_imu=not arguments.no_imu,
        imu_vector=arguments.imu_vector,
        frame_size=store.settings["frame_size"],
        class_names=store.class_names,
    )


def open_split(path: str, split: str) -> data.ClipStore:
    store = data.ClipStore(path)
    return store if split == "all" else store.split(split)


def store_options(parser: argparse.ArgumentParser, split: str) -> None:
    parser.add_argument("store", help="folder that `egodistill prepare` made")
    parser.add_argument("--split", default=split, help="which clips: train, test, ... or all")


# ---------------------------------------------------------------------------------------------------------------
# The road, a command a step


def add_synthesize(commands: Any) -> None:
    parser = command(commands, "synthesize", run_synthesize, "render a small egocentric world in EPIC-KITCHENS' layout")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--train-acts", type=int, default=800, help="annotated acts of the training wearers")
    parser.add_argument("--test-acts", type=int, default=400, help="annotated acts of the evaluation wearers")
    parser.add_argument("--label-noise", type=float, default=0.25, help="share of wrong training verbs")


def run_synthesize(a: argparse.Namespace) -> None:
    world = synthetic.render(
        a.out, seed=a.seed, train_acts=a.train_acts, test_acts=a.test_acts, label_noise=a.label_noise
    )
    say(
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
    rare = {} if a.min_instances is None else {"min_instances": a.min_instances}
    segments = read_annotations(a.annotations, a.root, seed=a.split_seed, audio=a.audio, **rare)
    return data.with_imu_offsets(segments, a.imu_offsets) if a.imu_offsets else segments


def read_annotations(annotations: str, root: str | None, *, seed: int = 0, **options: Any) -> data.SegmentList:
    """Any kind of annotations, told apart by their suffix and header."""
    path, folder = Path(annotations), root or Path(annotations).parent
    if path.suffix.lower() == ".json":
        return data.read_ego4d(path, folder, seed=seed, **options)
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        header = file.readline()
    if "narration_id" in header:
        return data.read_epic_kitchens(path, folder, **options)
    if "min_instances" in options:
        raise ValueError(f"{path}: --min-instances is for public data sets; take rare classes out of your own table")
    return data.read_csv(path)


def add_segments(commands: Any) -> None:
    parser = command(commands, "segments", run_segments, "show what annotations hold, and what is left out")
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
    say(table(["split", "videos", "segments", "hours", "median s", "shortest, longest", "classes"], rows))
    counts = {split: Counter(s.label for s in segments if s.split == split) for split in splits}
    total = Counter(segment.label for segment in segments)
    largest = total.most_common(a.classes)
    say("\n" + table(["class", *splits], [[str(c), *(f"{counts[p][c]:,}" for p in splits)] for c, _ in largest]))
    if len(total) > len(largest):
        say(f"... and {len(total) - len(largest)} more classes (--classes)")
    if missing := [c for c in total if c is not None and "train" in counts and not counts["train"][c]]:
        say(f"never in train: {', '.join(sorted(missing))}")
    for reason, count in segments.dropped.items():
        say(f"left out, {reason}: {count:,} segments")


def add_check(commands: Any) -> None:
    parser = command(commands, "check", run_check, "look at recordings: IMU, gaps, offset to the picture, faults")
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="or annotations, for all of their videos")
    parser.add_argument("--root", help="folder of the data set's videos and IMU (default: that of the annotations)")
    parser.add_argument(
        "--imu", nargs="+", metavar="CSV", help="of a single video: one table, or two; none: telemetry in the video"
    )
    parser.add_argument("--no-offset", action="store_true", help="do not compare picture and gyroscope")
    parser.add_argument("--max-offset", type=float, default=2.0, help="seconds either way to look for it")
    parser.add_argument("--out", metavar="CSV", help="table of the reliable offsets, for prepare --imu-offsets")


def run_check(a: argparse.Namespace) -> None:
    if a.imu and len(a.videos) > 1:
        raise ValueError(f"--imu names the IMU of one video, and {len(a.videos)} are given; put them into a table")
    sources: dict[str, Any] = {}
    for name in a.videos:
        if name.lower().endswith((".csv", ".json")):
            sources |= {s.video: (s.imu, s.imu_offset) for s in read_annotations(name, a.root)}
        else:
            sources[name] = a.imu and (a.imu if len(a.imu) > 1 else a.imu[0]), 0.0
    say(recordings.HEADER)
    offsets, unusable = [], 0
    for video, (imu, known) in sources.items():
        found = recordings.check(video, imu, imu_offset=known, offset=not a.no_offset, max_offset=a.max_offset)
        say(found.row())
        unusable += found.problem is not None
        if found.offset is not None and found.offset.reliable:
            offsets.append([video, f"{found.offset.seconds:.3f}"])
    if a.out:
        with egodistill.whole(Path(a.out)) as part, open(part, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["video", "imu_offset"], *offsets])
        say(f"{a.out}: {len(offsets)} of {len(sources)} recordings have a reliable offset")
    if unusable:
        raise ValueError(f"{unusable} of {len(sources)} recordings cannot be used")


def add_transcode(commands: Any) -> None:
    parser = command(commands, "transcode", run_transcode, "make working copies that are quick to read")
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
            say(f"{copy} is already there")
            continue
        try:
            made = recordings.transcode(
                video,
                copy,
                short_side=a.short_side,
                keyframe_every=a.keyframe_every,
                quality=a.quality,
                measure=a.measure,
                overwrite=a.overwrite,
            )
        except OSError as error:  # One bad video must not end the work on a thousand.
            failures.append(str(error))
            continue
        speed = f"{made.speedup:.1f}" if made.speedup else "-"
        sizes = [f"{size / 1e6:.1f}" for size in (made.source_bytes, made.copy_bytes)]
        rows.append([copy.name, *sizes, f"{made.frames:,}", f"{made.broken_packets}", speed])
        for name in made.left_out:
            say(f"{copy}: without {name}, which MP4 cannot hold")
    if rows:
        say(table(["copy", "MB before", "MB after", "frames", "broken", "times faster"], rows))
    if failures:
        raise ValueError("; ".join(failures))


def add_prepare(commands: Any) -> None:
    parser = command(commands, "prepare", run_prepare, "decode every clip once, into a clip store")
    segment_options(parser)
    parser.add_argument("--out", required=True, help="folder of the store")
    parser.add_argument("--num-frames", type=positive, nargs="+", default=[1], help="frames a clip for the students")
    parser.add_argument("--frame-size", type=positive, default=224, help="their height and width")
    parser.add_argument("--sampling", choices=data.SAMPLING, default="uniform", help="which frames (Table 4)")
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
    )
    if int(os.environ.get("RANK", 0)) == 0:
        describe_store(store, segments)


def describe_store(store: data.ClipStore, segments: data.SegmentList) -> None:
    hours = sum(segment.stop - segment.start for segment in segments) / 3600
    counts = Counter(clip["split"] for clip in store.clips)
    say(
        f"{store.path}: {len(store)} clips ({', '.join(f'{n} {split}' for split, n in sorted(counts.items()))}) of "
        f"{len({s.video for s in segments})} videos, {hours:.2f} hours in {len(store.class_names)} classes"
    )
    for reason, count in segments.dropped.items():
        say(f"  left out, {reason}: {count} segments")
    for failure in store.failures[:10]:
        say(f"  failed: {failure['id']} at {failure['start']:.2f} s: {failure['reason']}")
    if len(store.failures) > 10:
        say(f"  ... and {len(store.failures) - 10} more in {store.path / 'failures.jsonl'}")
    for source, notes in list(store.notes.items())[:10]:
        say(f"  note: {source}: {'; '.join(notes)}")
    if len(store.notes) > 10:
        say(f"  ... and {len(store.notes) - 10} more in {store.path / 'notes.jsonl'}")


def add_status(commands: Any) -> None:
    parser = command(commands, "status", run_status, "what a store holds, what failed and why, how fast it grows")
    parser.add_argument("store", help="folder that `egodistill prepare` made, also while it is at work")
    parser.add_argument("--seconds", type=float, default=2.0, help="look twice, so far apart, to tell the speed")


def run_status(a: argparse.Namespace) -> None:
    store, before = unfinished_store(a.store), settled(a.store)
    counts = store.counts
    say(table(["split", "ok", "failed", "missing"], [[split, *map(str, n.values())] for split, n in counts.items()]))
    reasons = Counter(failure["reason"].replace(failure["video"], "VIDEO") for failure in store.failures)
    for reason, count in reasons.most_common(10):
        say(f"failed: {count} clips, {reason}")
    if len(reasons) > 10:
        say(f"... and {len(reasons) - 10} more reasons, in {store.path / 'failures.jsonl'}")
    time.sleep(a.seconds)
    rows = []
    for name, (done, total) in settled(a.store).items():
        speed = (done - before.get(name, (0, 0))[0]) / a.seconds
        left = f"{(total - done) / speed:.0f} s" if speed > 0 else "-"
        rows.append([name, f"{done:,} of {total:,}", f"{speed:.1f}" if speed > 0 else "-", left])
    say("\n" + table(["step", "clips", "a second", "left"], rows))
    if any(n["missing"] for n in counts.values()):
        say("The same `egodistill prepare` goes on with what is missing.")


def unfinished_store(path: str) -> data.ClipStore:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It would say that clips are missing.
        return data.ClipStore(path)


def settled(path: str) -> dict[str, tuple[int, int]]:
    """Clips that need no more work and all, for prepare (failed ones count) and for each teacher's extract."""
    store = unfinished_store(path)
    counts = [count for split in store.counts.values() for count in split.items()]
    found = {"prepare": (sum(n for what, n in counts if what != "missing"), sum(n for _, n in counts))}
    outputs = [name for name in store.names if name.endswith(".logits")]
    return found | {f"extract {n.removesuffix('.logits')}": (int(store.done(n).sum()), len(store)) for n in outputs}


def add_teachers(commands: Any) -> None:
    command(commands, "teachers", run_teachers, "list the video models that can teach, and what they cost")


def run_teachers(a: argparse.Namespace) -> None:
    rows = []
    for name, published in teachers.MODELS.items():
        with torch.device("meta"):
            teacher = teachers.load(name, progress=False)
            gmacs = egodistill.count_macs(teacher, torch.device("meta")) / 1e9
        spec, params = teacher.clip_spec, sum(p.numel() for p in teacher.parameters())
        cells = [f"{params / 1e6:.2f} M", f"{gmacs:.2f}", f"{teacher.feature_dim}"]
        cells += [f"{spec.frames}x{spec.size} {spec.channels}", published.released[0] if published.released else "none"]
        rows.append([name, *cells])
    say(table(["model", "params", "GMACs", "feature", "clip", "released, for one, as"], rows))
    say(f"{GMACS}\nMotionFormer is counted as it runs here; as released it takes 369 GMACs a clip (16x4).")


def add_finetune(commands: Any) -> None:
    parser = command(commands, "finetune", run_finetune, "train a teacher on a store's labels")
    store_options(parser, "train")
    parser.add_argument("--out", required=True, help="file to write the teacher to")
    parser.add_argument("--teacher", metavar="FILE", help="go on from a teacher that this command wrote")
    parser.add_argument("--model", default="slowfast_8x8_r50", help="or one of these (`egodistill teachers`)")
    parser.add_argument("--checkpoint", metavar="FILE", help="published weights of the model; none: fresh ones")
    parser.add_argument("--name", default="teacher", help="name of the teacher and of its outputs in a store")
    parser.add_argument(
        "--option",
        metavar="NAME=VALUE",
        nargs="+",
        action="extend",
        default=[],
        type=option,
        help="of the network or its clip, such as depths=(1,1,1,1) or drop_path=0.1",
    )
    parser.add_argument("--head-only", action="store_true", help="train nothing but the classifier")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    training_options(parser)


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
    if "clip" not in store.names:
        raise ValueError(f"{a.store} has no dense clips; give --clip-frames to egodistill prepare")
    if a.teacher:
        teacher = teachers.Teacher.load(a.teacher)
    else:
        torch.manual_seed(a.seed)
        _, frames, _, _, size = store.read("clip", [0]).shape
        # What it is trained on is what it will expect, however long the clips of its first authors were.
        options = {"seconds": store.settings["clip_seconds"]} | dict(a.option)
        if a.checkpoint is None:  # A fresh network fits the store; published weights want the clip they know.
            options = {"frames": frames, "size": size} | options
        teacher = teachers.load(
            a.model, a.checkpoint, class_names=store.class_names, new_head=a.checkpoint is not None, **options
        )
        teacher.name = a.name
    if a.head_only:
        teacher.freeze_trunk()
    if a.gradient_checkpointing:
        if not hasattr(teacher.net, "gradient_checkpointing"):
            raise ValueError(f"{type(teacher.net).__name__} has no gradient checkpointing; MotionFormer and MViT have")
        teacher.net.gradient_checkpointing = True
    history = egodistill.finetune(teacher, store, **training_of(a))
    keep(teacher, a.out, outcome(history))


def add_extract(commands: Any) -> None:
    parser = command(commands, "extract", run_extract, "write a teacher's features and logits into a store")
    store_options(parser, "all")
    parser.add_argument("--teacher", metavar="FILE", required=True, help="file that `egodistill finetune` wrote")
    parser.add_argument("--views", type=int, choices=(1, 3), default=1, help="3: left, middle, right of larger clips")
    parser.add_argument("--batch-size", type=positive, default=8, help="clips at a time")
    precision_option(parser, "fp32")
    device_option(parser)


def run_extract(a: argparse.Namespace) -> None:
    store, teacher = open_split(a.store, a.split), teachers.Teacher.load(a.teacher)
    report_precision(a.precision, a.device)
    precision = egodistill.pick_precision(egodistill.pick_device(a.device), a.precision)
    teachers.extract(teacher, store, views=a.views, batch_size=a.batch_size, device=a.device, precision=precision)
    say(f"{a.store}: {teacher.name}.feature and {teacher.name}.logits of {len(store)} clips")


def add_pretrain(commands: Any) -> None:
    parser = command(commands, "pretrain", run_pretrain, "stage 1: teach the IMU encoder by itself (section 3.4)")
    store_options(parser, "train")
    parser.add_argument("--teacher", required=True, help="name of the extracted teacher, as --name of finetune said")
    parser.add_argument("--out", required=True, help="file to write the student to")
    student_options(parser)
    training_options(parser)


def run_pretrain(a: argparse.Namespace) -> None:
    store = open_split(a.store, a.split)
    model = student_of(a, store, a.teacher)
    history = egodistill.pretrain_imu(model, store, teacher=a.teacher, **training_of(a))
    last = history[-1]
    matching = f"own IMU found in its batch {100 * last['matching']:.1f} % of the time"
    keep(model, a.out, f"loss {last['loss']:.3f}, {matching}")


def add_distill(commands: Any) -> None:
    parser = command(commands, "distill", run_distill, "stage 2: distil the teacher into a student (section 3.3)")
    store_options(parser, "train")
    parser.add_argument("--teacher", required=True, help="name of the extracted teacher, as --name of finetune said")
    parser.add_argument("--out", required=True, help="file to write the student to")
    parser.add_argument("--alpha", type=float, default=0.95, help="weight of L_KD against L_GT")
    parser.add_argument("--beta", type=float, default=1.0, help="weight of L_1")
    parser.add_argument("--tau", type=float, default=1.0, help="temperature of L_KD (the paper: 10 for Ego4D)")
    parser.add_argument("--tau-squared", action="store_true", help="multiply L_KD by tau^2")
    student_options(parser)
    training_options(parser)


def run_distill(a: argparse.Namespace) -> None:
    store = open_split(a.store, a.split)
    model = student_of(a, store, a.teacher)
    history = egodistill.distill(
        model,
        store,
        teacher=a.teacher,
        alpha=a.alpha,
        beta=a.beta,
        tau=a.tau,
        tau_squared=a.tau_squared,
        **training_of(a),
    )
    keep(model, a.out, outcome(history))


def add_evaluate(commands: Any) -> None:
    parser = command(commands, "evaluate", run_evaluate, "per-video top-1 of a student or teacher")
    store_options(parser, "test")
    parser.add_argument("--checkpoint", required=True, help="file of the student or teacher")
    parser.add_argument("--teacher", help="name of an extracted teacher, to print the distance to its features")
    parser.add_argument("--out", help="write all numbers to this JSON file")
    inference_options(parser)


def run_evaluate(a: argparse.Namespace) -> None:
    store = open_split(a.store, a.split)
    result = egodistill.evaluate(experiments.load(a.checkpoint), store, teacher=a.teacher, **inference_of(a))
    report_precision(a.precision, a.device)
    say(str(result) + (f", feature distance {result.feature_distance:.4f}" if a.teacher else ""))
    width = max(map(len, result.per_class))
    for name, accuracy in result.per_class.items():
        count = int(result.confusion[store.class_names.index(name)].sum())
        say(f"  {name:<{width}}  {100 * accuracy:6.2f} % of {count}")
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
        write_text(a.out, json.dumps(numbers, indent=1))


def add_export(commands: Any) -> None:
    parser = command(commands, "export", run_export, "write a student as one file for a device")
    parser.add_argument("checkpoint", help="file of the student")
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
    model = EgoDistill.load(a.checkpoint)
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
    say(f"{a.out}: {a.format}, {a.precision}, {Path(a.out).stat().st_size / 1e6:.1f} MB; what to feed it: {a.out}.json")
    say(f"to run it: {description['run']}")
    if check is not None:
        say("\n" + comparison_table(export.compare(model, check, [a.out]), len(check)))


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


def add_measure(commands: Any) -> None:
    text = "multiply-adds, parameters and run time: the paper's Table 3 on this machine, or models of your own"
    parser = command(commands, "measure", run_measure, text)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", metavar="FILE", nargs="+", help="models of your own; none: those of Table 3")
    which.add_argument(
        "--models",
        metavar="NAME",
        nargs="+",
        choices=experiments.TABLE_3,
        help=f"of Table 3: {', '.join(experiments.TABLE_3)}",
    )
    parser.add_argument("--batch-size", type=positive, default=32, help="clips at a time")
    parser.add_argument("--repeats", type=positive, default=10, help="timed passes of a model, at most")
    parser.add_argument(
        "--seconds", type=float, default=30, help="no further pass of a model begins after these, but two are timed"
    )
    parser.add_argument("--out", metavar="JSON", help="write all numbers to this file")
    inference_options(parser)


def run_measure(a: argparse.Namespace) -> None:
    if a.checkpoint:
        models = {path: experiments.load(path) for path in a.checkpoint}
    else:
        models = {name: experiments.TABLE_3[name][1]() for name in a.models or experiments.TABLE_3}
    costs: dict[str, egodistill.Cost] = {}
    how = {"batch_size": a.batch_size, "repeats": a.repeats, "seconds": a.seconds, **inference_of(a)}
    for name, model in models.items():
        print(f"measuring {name}", file=sys.stderr)
        costs[name] = egodistill.measure(model, **how)
    report_precision(a.precision, a.device)
    rows = {name: c._asdict() for name, c in costs.items()}
    header, cells = cost_rows(costs) if a.checkpoint else table_3_rows(costs)
    say(table(header, cells))
    cost, passes = next(iter(costs.values())), min(c.repeats for c in costs.values())
    how = f"{cost.precision}{', compiled' if a.compile else ''}, on {cost.device}"
    notes = [] if a.checkpoint else [*experiments.TABLE_3_LEGEND, *experiments.notes_on(models, costs)]
    for note in (GMACS, f"Time: at batch {a.batch_size}, {how}; median of at least {passes} passes.", *notes):
        say(textwrap.fill(note, 100, subsequent_indent="  "))
    if cost.precision != "fp32" or a.compile:
        cells = [[name, f"{100 * c.same_top1:.1f} %", f"{100 * c.feature_error:.2f} %"] for name, c in costs.items()]
        say("\nAgainst uncompiled fp32, on random inputs; differences as a share of the largest feature:")
        say(table(["model", "equal top-1", "largest difference"], cells))
    if a.out:
        if not a.checkpoint:
            rows = {name: row | {"published": experiments.TABLE_3[name][0]._asdict()} for name, row in rows.items()}
        write_text(a.out, json.dumps({"models": rows, "compiled": a.compile, "notes": notes}, indent=1))


def cost_rows(costs: dict[str, egodistill.Cost]) -> tuple[list[str], list[list[str]]]:
    rows = [[name, f"{c.gmacs:.4f}", f"{c.params:,}", f"{c.ms_per_clip:.2f}"] for name, c in costs.items()]
    return ["model", "GMACs", "parameters", "ms a clip"], rows


def table_3_rows(costs: dict[str, egodistill.Cost]) -> tuple[list[str], list[list[str]]]:
    """Ours, how many times less than Video that is, and the published numbers."""
    video, rows = costs.get("Video"), []
    for name, c in costs.items():
        ratio = [f"{video.gmacs / c.gmacs:.1f}", f"{video.ms_per_clip / c.ms_per_clip:.1f}"] if video else ["-", "-"]
        ours = [f"{c.gmacs:.2f}", ratio[0], f"{c.ms_per_clip:.2f}", ratio[1], f"{c.params / 1e6:.2f}"]
        published = experiments.TABLE_3[name][0]
        theirs = [f"{published.gmacs:.2f}", f"{published.ms_per_clip:.2f}", f"{published.params / 1e6:.2f}"]
        rows.append([name, *ours, *theirs])
    return ["model", "GMACs", "ratio", "ms a clip", "ratio", "M params", "published: GFLOPs", "ms", "M params"], rows


def add_predict(commands: Any) -> None:
    parser = command(commands, "predict", run_predict, "classify a recording, clip by clip")
    parser.add_argument("video")
    parser.add_argument("--checkpoint", required=True, help="file of a student")
    parser.add_argument(
        "--imu", nargs="+", metavar="CSV", help="one table, or accelerometer and gyroscope; none: in the video"
    )
    parser.add_argument("--stride", type=float, help="seconds from clip to clip (the clip's length)")
    parser.add_argument("--top", type=positive, default=3, help="classes to name")
    parser.add_argument("--key-frames", action="store_true", help="look at the nearest key frames: cheap, inexact")
    parser.add_argument("--out", help="also write the rows to this .csv or .json file")
    inference_options(parser)


def run_predict(a: argparse.Namespace) -> None:
    if a.out and Path(a.out).suffix not in (".csv", ".json"):
        raise ValueError(f"--out ends in .csv or .json, so that the format is clear; got {a.out}")
    imu = a.imu if a.imu is None or len(a.imu) > 1 else a.imu[0]
    rows = []
    clips = egodistill.predict(
        EgoDistill.load(a.checkpoint),
        a.video,
        imu,
        stride=a.stride,
        top=a.top,
        exact=not a.key_frames,
        **inference_of(a),
    )
    report_precision(a.precision, a.device)
    for clip in clips:
        rows.append(clip)
        best = "  ".join(f"{name} {score:.2f}" for name, score in clip.classes) or f"none: {clip.problem}"
        say(f"{clip.start:8.2f} {clip.stop:8.2f} s  {best}")
    if a.out and Path(a.out).suffix == ".json":
        keys = ("start", "stop", "classes", "problem")
        write_text(a.out, json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=1))
    elif a.out:
        with egodistill.whole(Path(a.out)) as part, open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            columns = [f"{what}_{k + 1}" for k in range(a.top) for what in ("class", "score")]
            writer.writerow(["start", "stop", *columns, "problem"])
            for clip in rows:
                cells = [cell for pair in clip.classes for cell in pair]
                cells += [""] * (len(columns) - len(cells))
                writer.writerow([f"{clip.start:.3f}", f"{clip.stop:.3f}", *cells, clip.problem or ""])


def write_text(path: str | os.PathLike, text: str) -> None:
    with egodistill.whole(Path(path)) as part:
        part.write_text(text + "\n", encoding="utf-8")


GMACS = "GMACs: billions of multiply-adds a clip, half of what torch's FlopCounterMode counts (no norms)."


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns of text: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------
# The paper's experiments


def experiment_options(parser: argparse.ArgumentParser) -> None:
    """What `compare` and `ablate` have in common; `bench_of` reads them."""
    parser.add_argument("store", help="folder that `egodistill prepare` made, with splits train and test")
    parser.add_argument("--teacher", required=True, help="name of the extracted teacher; {seed} in it is the seed")
    parser.add_argument("--out", required=True, help="folder for weights and results; what is there is not done again")
    parser.add_argument("--seeds", type=numbers, default="0,1,2", help="of the training runs (default: %(default)s)")
    parser.add_argument(
        "--scale",
        choices=list(experiments.SCALES),
        default="epic",
        help="the paper's sizes and schedules for "
        "EPIC-KITCHENS or Ego4D, or the demo's small ones (default: %(default)s)",
    )
    parser.add_argument("--epochs", type=positive, help="other than the scale's")
    parser.add_argument("--batch-size", type=positive, help="other than the scale's")
    precision_option(parser, None)
    parser.add_argument(
        "--weights",
        metavar="NAME=FILE",
        nargs="+",
        action="extend",
        default=[],
        type=option,
        help="start of the image networks: students=resnet18.pth AdaFuse=resnet50.pth STTS=... ListenToLook=..., or "
        "NAME=None for random; without, torchvision downloads them (at the scales of the paper)",
    )
    parser.add_argument("--jobs", type=positive, default=1, help="runs at a time, which share the cores")
    device_option(parser)


def numbers(text: str) -> list[int]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers with commas between, such as 0,1,2")
    return list(dict.fromkeys(map(int, text.split(","))))


def bench_of(a: argparse.Namespace, frames: dict[str, str]) -> experiments.Bench:
    scale = dict(experiments.SCALES[a.scale])
    given = {name: getattr(a, name) for name in ("epochs", "batch_size") if getattr(a, name)}
    if a.precision:
        report_precision(a.precision, a.device)
        given["precision"] = egodistill.pick_precision(egodistill.pick_device(a.device), a.precision)
    for stage in ("training", "pretraining"):
        scale[stage] = scale[stage] | given
    for name, weights in a.weights:
        if name not in ("students", *(rival.split()[0] for rival in experiments.RIVALS)):
            raise ValueError(f"--weights names students, AdaFuse, STTS or ListenToLook; got {name!r}")
        scale[name] = scale[name] | {"image_weights" if name == "students" else "weights": weights}
    return experiments.Bench(a.store, a.out, scale, frames=frames, device=a.device)


def add_compare(commands: Any) -> None:
    parser = command(commands, "compare", run_compare, "all methods of the paper's Figure 3, accuracy against cost")
    experiment_options(parser)
    parser.add_argument("--num-frames", type=positive, nargs="+", help="N (those of 1, 2, 4 that the store has)")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help=f"of {', '.join(experiments.METHODS)} (all)")
    parser.add_argument("--teacher-checkpoint", metavar="FILE", help="to know its costs (the demo's is found)")


def run_compare(a: argparse.Namespace) -> None:
    store = data.ClipStore(a.store)
    counts = a.num_frames or [n for n in (1, 2, 4) if f"frames_{n}" in store.names]
    methods = a.methods or experiments.METHODS
    if "audio" not in store.names and a.methods is None:
        methods = [name for name in methods if name != "ListenToLook"]
        say("without ListenToLook: the store has no sound (prepare --audio)")
    bench = bench_of(a, {})
    runs = experiments.comparison(bench, teacher=a.teacher, seeds=a.seeds, num_frames=counts, methods=methods)
    bench.perform(runs, a.jobs)
    report_comparison(bench, runs, a.teacher, a.seeds, a.teacher_checkpoint)


def report_comparison(
    bench: experiments.Bench, runs: list[experiments.Run], teacher: str, seeds: list[int], checkpoint: str | None
) -> None:
    """The table to the screen, and compare.json, .csv, .png and .svg to the bench's folder."""
    found = [experiments.teacher_row(bench, teacher, seeds, checkpoint), *experiments.rows(bench, runs)]
    say(f"\nTop-1 (%) on the split {bench.test}" + spread(seeds))
    say(cost_table(found))
    say(f"{GMACS}\nAdaFuse's are those that its decisions would need; this code, as the released one, computes all.")
    stem, hours = Path(bench.out, "compare"), bench.hours(runs)
    say(f"Training them, and what they start from, took {60 * hours:.0f} minutes, run by run added up.")
    files = experiments.write_rows(found, stem, {"seeds": seeds, "hours": hours, **about_this_run(bench)})
    try:
        files += experiments.draw(found, stem, "Accuracy against cost" + spread(seeds))
    except ImportError:
        say('No figure: it needs matplotlib, which `pip install "egodistill[tutorials]"` brings.')
    say(f"Written: {', '.join(map(str, files))}")


def add_ablate(commands: Any) -> None:
    parser = command(commands, "ablate", run_ablate, "what each loss and the choice of frames give (Tables 1 and 4)")
    experiment_options(parser)
    parser.add_argument(
        "--frame-stores",
        metavar="STORE",
        nargs="+",
        default=[],
        help="the same annotations prepared with another --sampling, for Table 4",
    )
    parser.add_argument("--num-frames", type=positive, default=4, help="N of Table 4 (default: %(default)s)")


def run_ablate(a: argparse.Namespace) -> None:
    bench = bench_of(a, {data.ClipStore(path).settings["sampling"]: path for path in a.frame_stores})
    losses = experiments.ablation(a.teacher, a.seeds)
    choices = experiments.frame_choices(bench, a.teacher, a.seeds, a.num_frames) if a.frame_stores else []
    bench.perform([*losses, *choices], a.jobs)
    found = experiments.rows(bench, losses, costs=False)
    names = ["labels and IMU only (VisIMU)", *experiments.ABLATIONS]
    say("\nTable 1: EgoDistill with N = 1, top-1 (%)" + spread(a.seeds))
    say(table(["losses", "top-1"], [[n, accuracy(one)] for n, one in zip(names, found, strict=True)]))
    if choices:
        found += (frames := experiments.rows(bench, choices, costs=False))
        say(f"\nTable 4: the choice of frames, EgoDistill with N = {a.num_frames}, top-1 (%)" + spread(a.seeds))
        say(table(["frames", "top-1"], [[one.run.sampling, accuracy(one)] for one in frames]))
    about = {"seeds": a.seeds, "hours": bench.hours([*losses, *choices]), **about_this_run(bench)}
    files = experiments.write_rows(found, Path(a.out, "ablate"), about)
    say(f"Written: {', '.join(map(str, files))}")


def about_this_run(bench: experiments.Bench) -> dict[str, Any]:
    versions = {"egodistill": egodistill.__version__, "torch": torch.__version__}
    return {"versions": versions, "threads": torch.get_num_threads(), "scale": bench.scale}


def spread(seeds: list[int]) -> str:
    return f", mean and deviation of {len(seeds)} seeds" if len(seeds) > 1 else ""


def accuracy(one: experiments.Row) -> str:
    return f"{one.top1:.1f}" + (f" ± {one.deviation:.1f}" if one.deviation is not None else "")


def cost_table(found: list[experiments.Row]) -> str:
    """Rows with what each model reads and costs."""
    lines = []
    for one in found:
        cells = [
            "-" if value is None else f"{value:{how}}"
            for value, how in ((one.gmacs, ".3f"), (one.params and one.params / 1e6, ".2f"), (one.ms_per_clip, ".2f"))
        ]
        without = " without stage 1" * (set(experiments.STAGE_1) <= set(one.run.lacking))
        lines.append([one.method + without, one.inputs, *cells, accuracy(one)])
    return table(["model", "inputs", "GMACs", "M parameters", "ms a clip", "top-1"], lines)


_SMALL = experiments.SCALES["small"]
# Sizes are chosen for two cores and ten minutes. The paper's are 224 pixels, ResNet-18, MotionFormer, 50 to 150 epochs.
_TEACHING = {"epochs": 8, "learning_rate": 2e-3, "batch_size": 16} | experiments.ANNEAL
DEMO: dict[str, Any] = {
    "train_acts": 1200,
    "test_acts": 400,
    "video_pixels": 96,
    "pixels": 64,
    "clip_frames": 16,
    "num_frames": (1, 2, 4),
    # The first is the comparison's teacher; --teachers adds others (the paper's Table 2).
    "teachers": {
        "slowfast": {
            "model": "slowfast_8x8_r50",
            "precision": "auto",
            "training": _TEACHING,
            "options": {"width": 48, "beta": 4, "depths": (1, 1, 1, 1), "stem_size": 3, "dropout": 0.0},
        },
        "x3d": {
            "model": "x3d_m",
            "precision": "fp32",
            "training": _TEACHING | {"epochs": 9, "learning_rate": 5e-3},
            "options": {
                "width": 12,
                "depth_factor": 0.5,
                "bottleneck": 1.5,
                "feature_dim": 512,
                "pool": 2,
                "dropout": 0.0,
            },
        },
        "mvit": {
            "model": "mvit_b_16x4",
            "precision": "fp32",
            "training": _TEACHING | {"epochs": 12},
            "narrow": True,
            "options": {"width": 16, "depths": (1, 1, 1, 1), "kv_stride": 8, "dropout": 0.0, "drop_path": 0.0},
        },
        "motionformer": {
            "model": "motionformer_16x4",
            "precision": "fp32",
            "narrow": True,
            "training": _TEACHING | {"epochs": 10, "learning_rate": 1e-3, "weight_decay": 0.1},
            "options": {"width": 96, "depth": 2, "heads": 4, "patch": 16, "drop_path": 0.1},
        },
    },
    "scale": _SMALL,
}
QUICK: dict[str, Any] = DEMO | {
    "train_acts": 48,
    "test_acts": 24,
    "teachers": {name: how | {"training": how["training"] | {"epochs": 2}} for name, how in DEMO["teachers"].items()},
    "scale": _SMALL
    | {
        "training": _SMALL["training"] | {"epochs": 2},
        "pretraining": _SMALL["pretraining"] | {"epochs": 2, "batch_size": 32},
    },
}
TEACHER = "slowfast"


def add_demo(commands: Any) -> None:
    parser = command(commands, "demo", run_demo, "the paper's comparison on a small rendered world, in ten minutes")
    parser.add_argument("--out", default="egodistill-demo", help="folder for everything")
    parser.add_argument("--seeds", type=numbers, default="0", help="of the training runs, such as 0,1,2")
    parser.add_argument("--world-seed", type=int, default=0, help="of the world; choose settings on another than 0")
    parser.add_argument(
        "--teachers", default=TEACHER, help="all: also distil a small X3D, MViT and MotionFormer (Table 2), hours"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run of about a minute; its accuracies mean nothing"
    )
    parser.add_argument(
        "--image-weights", default="none", help="start of the image encoders: none (random), imagenet, or a file"
    )
    parser.add_argument("--jobs", type=positive, default=1, help="runs at a time, which share the cores")


def run_demo(a: argparse.Namespace) -> None:
    size, out, began = QUICK if a.quick else DEMO, Path(a.out), time.monotonic()
    weights = None if a.image_weights == "none" else a.image_weights
    scale = size["scale"] | {"students": size["scale"]["students"] | {"image_weights": weights}}
    size = with_precision(size | {"scale": scale, "world_seed": a.world_seed}, out / DEMO_NOTE)
    kinds = list(size["teachers"]) if a.teachers == "all" else a.teachers.split(",")
    if kinds[0] != TEACHER or set(kinds) - set(size["teachers"]) or len(set(kinds)) < len(kinds):
        raise ValueError(f"--teachers is all, or a part of {','.join(size['teachers'])} that begins with {TEACHER}")
    claim(out, json.loads(json.dumps(size)))
    report_precision("auto")
    for name in kinds:
        say(f"The teacher {name} trains in {size['teachers'][name]['precision']}.")
    for part in out.rglob(".*.part*"):  # What a killed run left half written.
        part.unlink(missing_ok=True)
    say(f"Everything goes to {out}/. Interrupt at will: the same command goes on where it stopped.\n")

    say("1. Render a world: wearers, head motion, kitchen things (the files are laid out as EPIC-KITCHENS is)")
    world = synthetic.render(
        out / "world",
        seed=size["world_seed"],
        train_acts=size["train_acts"],
        test_acts=size["test_acts"],
        size=(size["video_pixels"],) * 2,
    )
    say("2. Prepare: decode every clip once into a clip store")
    segments = data.read_epic_kitchens(world.annotations, world.root)
    store = data.prepare(
        segments,
        out / "store",
        num_frames=size["num_frames"],
        frame_size=size["pixels"],
        audio=True,
        clip_frames=size["clip_frames"],
        clip_size=size["pixels"],
    )
    describe_store(store, segments)
    say("\n3. Train a teacher, let it watch every clip, pretrain the IMU encoder (stage 1), distil (stage 2), evaluate")
    named = {kind: kind + "-{seed}" for kind in kinds}
    bench = experiments.Bench(
        str(out / "store"), str(out), scale, teachers={name: size["teachers"][kind] for kind, name in named.items()}
    )
    comparison = [demo_runs(name, a.seeds, alone=kind == TEACHER) for kind, name in named.items()]
    bench.perform([run for runs in comparison for run in runs], a.jobs)

    found = [experiments.rows(bench, runs) for runs in comparison]
    say("\nTop-1 (%) on wearers never seen in training" + spread(a.seeds))
    say(cost_table(found[0]))
    report_limits(found[0])
    if len(kinds) > 1:
        say("\nOther teachers (the paper's Table 2), top-1 (%)" + spread(a.seeds))
        say(teachers_table(dict(zip(kinds, found, strict=True))))
    if a.quick:
        say("This was a quick run: its accuracies mean nothing.")
    precision = {named[kind]: size["teachers"][kind]["precision"] for kind in kinds}
    about = {"seeds": a.seeds, "quick": a.quick, "ceilings": synthetic.ceilings(), "precision": precision}
    about |= about_this_run(bench)
    files = experiments.write_rows([one for rows in found for one in rows], out / "results", about)
    say(f"\n{files[0]} holds these numbers. This run took {(time.monotonic() - began) / 60:.1f} minutes.")
    if not a.quick:
        say(
            f"Next, all methods with 1, 2 and 4 frames (Figure 3), about an hour:\n"
            f"  egodistill compare {out / 'store'} --teacher {named[TEACHER]} --out {out} --scale small"
        )


def demo_runs(teacher: str, seeds: list[int], alone: bool) -> list[experiments.Run]:
    """A teacher and the students of the demo's table; of a teacher beside the first only what is distilled from it."""
    run = experiments.Run("EgoDistill", teacher=teacher)
    runs = [replace(run, method="teacher"), run, replace(run, method="VisOnly-Distill")]
    if alone:
        runs.insert(2, replace(run, lacking=experiments.STAGE_1))
        runs += [experiments.Run("VisIMU"), experiments.Run("VisOnly")]
    return [replace(run, seed=seed) for seed in seeds for run in runs]


DEMO_NOTE = "demo.json"


def with_precision(size: dict[str, Any], note: Path) -> dict[str, Any]:
    """Replace each teacher's "auto" by what it began with in this folder, else by what suits this machine."""
    begun = json.loads(note.read_text(encoding="utf-8")).get("teachers", {}) if note.exists() else {}
    best, chosen = egodistill.pick_precision(egodistill.pick_device(None), "auto"), {}
    for name, how in size["teachers"].items():
        if how["precision"] == "auto":
            how = how | {"precision": begun.get(name, {}).get("precision", best)}
        chosen[name] = how
    return size | {"teachers": chosen}


def claim(out: Path, size: dict[str, Any]) -> None:
    """A folder holds a demo of one size, so that no step is taken from another one."""
    note = out / DEMO_NOTE
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) != size:
        raise ValueError(f"{out} holds a demo of other settings (see {note}); give another --out, or delete the folder")
    # A run killed while it wrote its note leaves a part of it.
    if not note.exists() and out.exists() and any(map(is_foreign, out.iterdir())):
        raise ValueError(f"{out} exists and holds no demo; give --out a new folder")
    write_text(note, json.dumps(size, indent=1))


def is_foreign(file: Path) -> bool:
    """Return whether a file is neither a part of a demo's note nor a desktop's. A demo removes ".*.part*" from its
    folder, so other names that begin with a dot are foreign, too."""
    return not file.name.startswith(".demo.json.") and not data.is_system_file(file.name)


def teachers_table(found: dict[str, list[experiments.Row]]) -> str:
    lines = []
    for kind, rows in found.items():
        by_method = {one.method: one for one in rows if not one.run.lacking}
        teacher = by_method["teacher"]
        cells = [accuracy(by_method[name]) for name in ("teacher", "VisOnly-Distill", "EgoDistill")]
        lines.append([kind, f"{teacher.gmacs:.3f}", f"{teacher.params / 1e6:.2f}", *cells])
    return table(["teacher", "GMACs", "M parameters", "teacher's", "VisOnly-Distill", "EgoDistill"], lines)


def report_limits(found: list[experiments.Row]) -> None:
    """What can be reached on the rendered world, and what the same comparison costs at the paper's size."""
    limits = synthetic.ceilings()
    say(
        f"Nobody can do better here than {100 * limits['frame']:.0f} from one frame and "
        f"{100 * limits['frame + imu']:.1f} from one frame and head motion.\n{GMACS}"
    )
    gmacs = {one.method: one.gmacs for one in found}
    with torch.device("meta"):  # Counting needs shapes, no numbers.
        paper = {
            "SlowFast 8x8 R50 (34.6 M parameters)": teachers.slowfast(400),
            "EgoDistill, ResNet-18, one frame (20.6 M parameters)": EgoDistill(62, image_weights=None),
        }
    say(
        f"Here the student needs {gmacs['teacher'] / gmacs['EgoDistill']:.0f} times fewer multiply-adds than its "
        "teacher. At the paper's size (224 pixels):"
    )
    for name, model in paper.items():
        say(f"  {name}: {egodistill.count_macs(model, torch.device('meta')) / 1e9:.2f} GMACs")
    say("  MotionFormer, as the paper counts it: 369.51 GMACs, 198 times the student's.")


if __name__ == "__main__":
    sys.exit(main())
